"""The shader on a monitor: a full-screen (or plain) window whose swap waits for the monitor's refresh.

All of it runs in the process's main thread, as GLFW asks.
"""

import time
from typing import Any

import glfw
import moderngl
import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import Show
from loop2p.stimulus.core import GREY, DisplayError, Look, Pacing, UnavailableError, choose_pacing
from loop2p.stimulus.shader import GratingShader, read_red, render_image

SETTLE_FLIPS, MEASURED_FLIPS = 10, 40
"""Flips at start: some until the driver's queue is steady, then those whose median interval is the refresh."""


class WindowRenderer:
    """Renders on a monitor.

    `is_display` is False where the system knows no refresh rate of the monitor: that is a virtual screen (Xvfb).
    Raises UnavailableError without a display or OpenGL 3.3, DisplayError if the display is not as asked for.
    """

    def __init__(
        self,
        look: Look,
        refresh_hz: float = 60.0,
        screen: int = 0,
        fullscreen: bool = True,
        width: int = 1280,
        height: int = 720,
        any_refresh: bool = False,
    ) -> None:
        glfw.ERROR_REPORTING = "raise"  # the default only warns
        try:
            glfw.init()
        except glfw.GLFWError as error:
            raise UnavailableError(f"no window system: {error}") from None
        try:
            self._open(look, screen, fullscreen, width, height)
            pacing = self._pacing(refresh_hz, any_refresh)
        except BaseException:
            glfw.terminate()
            raise
        self.vsync, self.refresh_hz = pacing.vsync, pacing.refresh_hz

    def _open(self, look: Look, screen: int, fullscreen: bool, width: int, height: int) -> None:
        monitors = glfw.get_monitors()
        if screen >= len(monitors):
            raise DisplayError(
                f"options.screen: found {screen}, expected a number below {len(monitors)}: that many screens are "
                "connected. Connect the stimulus screen and switch it on, or correct the rig file"
            )
        self._monitor = monitors[screen]
        mode = glfw.get_video_mode(self._monitor)
        self.monitor_hz = float(mode.refresh_rate)
        self.is_display = self.monitor_hz > 0
        hints = {
            glfw.CONTEXT_VERSION_MAJOR: 3,
            glfw.CONTEXT_VERSION_MINOR: 3,
            glfw.OPENGL_PROFILE: glfw.OPENGL_CORE_PROFILE,
            glfw.OPENGL_FORWARD_COMPAT: True,
            glfw.RESIZABLE: False,
            glfw.AUTO_ICONIFY: False,  # a click on another screen must not take the grating away
            glfw.REFRESH_RATE: mode.refresh_rate or glfw.DONT_CARE,
        }
        for hint, value in hints.items():
            glfw.window_hint(hint, value)
        if fullscreen:
            width, height = mode.size.width, mode.size.height
        try:
            self._window = glfw.create_window(
                width, height, "loop2p stimulus", self._monitor if fullscreen else None, None
            )
            glfw.make_context_current(self._window)
            self._context: Any = moderngl.create_context(require=330)
        except Exception as error:  # GLFWError, or glcontext's bare Exception
            raise UnavailableError(f"no OpenGL 3.3 window on screen {screen}: {error}") from None
        self._fullscreen = fullscreen
        glfw.set_input_mode(self._window, glfw.CURSOR, glfw.CURSOR_HIDDEN)
        glfw.set_window_refresh_callback(self._window, self._damage)
        glfw.swap_interval(1)
        self._damaged = False
        width, height = glfw.get_framebuffer_size(self._window)
        self._context.screen.viewport = (0, 0, width, height)
        self._shader = GratingShader(self._context, width, height, look)
        self.size = (width, height)
        name = glfw.get_monitor_name(self._monitor)
        self.name = (
            f"window on screen {screen} ({name.decode() if isinstance(name, bytes) else name}, {width} x {height}, "
            f"{self._context.info['GL_RENDERER']})"
        )

    def _pacing(self, expected_hz: float, any_refresh: bool) -> Pacing:
        flips = [self.draw(GREY, False) for _ in range(SETTLE_FLIPS + MEASURED_FLIPS)]
        self.poll()
        self.measured_hz = 1e9 / float(np.median(np.diff(flips[SETTLE_FLIPS:])))
        return choose_pacing(expected_hz, self.monitor_hz, self.measured_hz, any_refresh)

    def draw(self, show: Show, patch: bool, cycles: float = 0.0) -> int:
        self._last: tuple[Show, bool, float] | NDArray[np.uint8] = (show, patch, cycles)
        return self._flip()

    def put(self, image: NDArray[np.uint8]) -> int:
        self._last = image
        return self._flip()

    def _flip(self) -> int:
        self._render()
        glfw.swap_buffers(self._window)
        self._context.finish()  # with vertical sync this returns at the refresh
        return time.perf_counter_ns()

    def _render(self) -> None:
        self._context.screen.use()
        if isinstance(self._last, np.ndarray):
            render_image(self._context, self._last)
        else:
            self._shader.render(*self._last)

    def pixels(self) -> NDArray[np.uint8]:
        self._render()  # after a swap the back buffer is undefined
        return read_red(self._context.screen)

    def poll(self) -> None:
        glfw.poll_events()
        glfw.set_window_should_close(self._window, False)  # `loop2p stop` ends a session, not a stray click
        if self._fullscreen and not glfw.get_window_monitor(self._window):
            raise DisplayError("the stimulus screen is gone: check its cable and power, then resume the session")
        if self._damaged:
            self._damaged = False
            self._flip()

    def _damage(self, _window: Any) -> None:
        """Something covered the window and went away: the picture must be drawn again."""
        self._damaged = True

    def close(self) -> None:
        self._shader.release()
        self._context.release()
        glfw.destroy_window(self._window)
        glfw.terminate()
