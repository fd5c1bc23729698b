"""Pictures without OpenGL, computed by numpy and shown to nobody: where nothing better works."""

import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import Show
from loop2p.stimulus.core import GREY, Look, paint_patch, picture


class SoftwareRenderer:
    """Renders into memory. Each picture is computed once: a session uses seven angles, grey and black."""

    is_display = False
    vsync = False

    def __init__(
        self, width: int, height: int, refresh_hz: float, look: Look, now_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.name = f"software ({width} x {height})"
        self.refresh_hz, self._look, self._now_ns = refresh_hz, look, now_ns
        self.size = (width, height)
        self._image = np.zeros((height, width), np.uint8)

        @lru_cache(maxsize=32)
        def render(what: str, angle: float | None, cycles: float) -> NDArray[np.uint8]:
            return picture(width, height, Show(what=what, angle_deg=angle), False, look, cycles)  # type: ignore[arg-type]

        self._render = render
        for angle in range(0, 91, 15):  # now, so that no picture of the task is late for being the first of its kind
            render("grating", float(angle), 0.0)
        self.draw(Show(what="black"), False)
        self.draw(GREY, False)

    def draw(self, show: Show, patch: bool, cycles: float = 0.0) -> int:
        self._image[:] = self._render(show.what, show.angle_deg, cycles if show.what == "grating" else 0.0)
        paint_patch(self._image, patch, self._look)
        return self._now_ns()

    def put(self, image: NDArray[np.uint8]) -> int:
        self._image[:] = image
        return self._now_ns()

    def pixels(self) -> NDArray[np.uint8]:
        return self._image.copy()

    def poll(self) -> None:
        pass

    def close(self) -> None:
        pass
