"""The shader in an off-screen OpenGL context (EGL on Linux, no X server needed): real pictures, shown to nobody."""

import sys
import time
from typing import Any

import moderngl
import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import Show
from loop2p.stimulus.core import GREY, Look, UnavailableError
from loop2p.stimulus.shader import GratingShader, read_red, render_image


class HeadlessRenderer:
    """Renders into a framebuffer. Raises UnavailableError where there is no off-screen OpenGL 3.3."""

    is_display = False
    vsync = False

    def __init__(self, width: int, height: int, refresh_hz: float, look: Look) -> None:
        settings: dict[str, Any] = {"backend": "egl"} if sys.platform == "linux" else {}
        try:
            self._context = moderngl.create_context(standalone=True, require=330, **settings)
        except Exception as error:  # glcontext raises bare Exception
            raise UnavailableError(f"no off-screen OpenGL 3.3: {error}") from None
        self.name = f"headless ({width} x {height}, {self._context.info['GL_RENDERER']})"
        self.refresh_hz, self.size = refresh_hz, (width, height)
        with self._context:
            self._target = self._context.framebuffer([self._context.texture((width, height), 4)])
            self._shader = GratingShader(self._context, width, height, look)
        self.draw(GREY, False)

    def draw(self, show: Show, patch: bool, cycles: float = 0.0) -> int:
        with self._context:
            self._target.use()
            self._shader.render(show, patch, cycles)
            self._context.finish()
            return time.perf_counter_ns()

    def put(self, image: NDArray[np.uint8]) -> int:
        with self._context:
            self._target.use()
            render_image(self._context, image)
            self._context.finish()
            return time.perf_counter_ns()

    def pixels(self) -> NDArray[np.uint8]:
        with self._context:
            return read_red(self._target)

    def poll(self) -> None:
        pass

    def close(self) -> None:
        with self._context:
            self._shader.release()
            self._target.release()
        self._context.release()
