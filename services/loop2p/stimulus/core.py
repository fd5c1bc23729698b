"""What the animal sees, as a function; when it is drawn; and what becomes of each thing asked for.

Formula: `0.5 + 0.5 c exp(-r^2 / 2 s^2) cos(2 pi (k / W (x cos t + y sin t) - f time))`, W the screen's width, s = W/8,
k = 6 cycles a width, c = 1 (docs/experiment.md 2.7). The origin is the middle of the screen, x points right, **y up**,
so t = 0 gives vertical bars and a positive t turns them counter-clockwise as the viewer sees them. An image's rows
count downwards: y = H/2 - (row + 0.5). f = 0: the grating does not drift, as in the experiment.
"""

import math
from collections import deque
from typing import Annotated, Protocol

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from loop2p.protocol import Show
from loop2p.stimulus.gamma import exponent_table, given_table, measured_table

GREY = Show(what="grey")
"""The safe picture: the grating's own mean."""

MEAN = {"grey": 0.5, "grating": 0.5, "black": 0.0}
"""Mean luminance of each picture, 0 black to 1 white. Grey is isoluminant with the grating."""


class Look(Struct, frozen=True):
    """How the pictures are made. Defaults: docs/experiment.md 2.7. Raises ValueError for a gamma that is none."""

    cycles_per_width: Annotated[float, Meta(gt=0)] = 6.0
    sigma_widths: Annotated[float, Meta(gt=0)] = 1 / 8
    """Standard deviation of the Gaussian window in screen widths."""
    contrast: Annotated[float, Meta(ge=0, le=1)] = 1.0
    patch_px: Annotated[int, Meta(ge=0)] = 64
    """Edge of the photodiode patch in the lower right corner; 0 for none."""
    gamma: float | list[float] | None = None
    """The monitor's exponent, or 256 drive levels (0 to 1) for luminance 0/255 to 255/255. None: as if linear."""
    gamma_points: list[tuple[float, float]] | None = None
    """Instead of `gamma`: what was measured, [[drive level 0 to 255, luminance], ...]."""
    drift_hz: float = 0.0
    """Temporal frequency, cycles a second, towards the right at 0 deg and upwards at 90 deg; 0: it stands still."""

    def __post_init__(self) -> None:
        gamma_table(self)
        if not math.isfinite(self.drift_hz):
            raise ValueError(f"found drift_hz {self.drift_hz}, expected a finite number of cycles a second")


def picture(
    width: int, height: int, show: Show, patch: bool = False, look: Look | None = None, cycles: float = 0.0
) -> NDArray[np.uint8]:
    """The reference image of a Show, (height, width), 8-bit drive levels, row 0 on top.

    `cycles`: how far a grating has drifted. The patch is 255 or 0 whatever the gamma.
    Raises ValueError for a grating without a finite angle.
    """
    look = look or Look()
    angle = math.radians(angle_deg(show))
    x = np.arange(width) + 0.5 - width / 2
    y = (height / 2 - (np.arange(height) + 0.5))[:, None]
    window = np.exp(-(x**2 + y**2) / (2 * (look.sigma_widths * width) ** 2))
    across = look.cycles_per_width / width * (x * math.cos(angle) + y * math.sin(angle))
    bars = np.cos(2 * math.pi * (across - cycles))
    luminance = MEAN[show.what] + 0.5 * contrast(show, look) * window * bars
    drive = np.interp(luminance * 255, np.arange(256), gamma_table(look))
    image = np.floor(drive * 255 + 0.5).astype(np.uint8)  # round half up, as the shader does
    paint_patch(image, patch, look)
    return image


def paint_patch(image: NDArray[np.uint8], patch: bool, look: Look) -> None:
    """Set the photodiode patch of an image, in place."""
    height, width = image.shape
    image[max(0, height - look.patch_px) :, max(0, width - look.patch_px) :] = 255 if patch else 0


def contrast(show: Show, look: Look) -> float:
    """Contrast of a Show: 0 unless it is a grating."""
    return look.contrast if show.what == "grating" else 0.0


def angle_deg(show: Show) -> float:
    """The angle of a grating, 0 for the other pictures. Raises ValueError where a grating has no finite angle."""
    if show.what != "grating":
        return 0.0
    if show.angle_deg is None or not math.isfinite(show.angle_deg):
        raise ValueError(f"a grating with angle_deg {show.angle_deg}, expected a finite number of degrees")
    return show.angle_deg


def gamma_table(look: Look) -> NDArray[np.float64]:
    """(256,) drive levels for luminance i/255: the monitor's response undone. Raises ValueError: found, expected."""
    if look.gamma_points is not None:
        if look.gamma is not None:
            raise ValueError("found both gamma and gamma_points, expected one of them")
        return measured_table(look.gamma_points)
    if isinstance(look.gamma, list):
        return given_table(look.gamma)
    return exponent_table(1.0 if look.gamma is None else look.gamma)


def describe_gamma(look: Look) -> str:
    """How luminance becomes drive levels, in words for log and record."""
    if look.gamma_points is not None:
        return f"corrected by luminance measured at {len(look.gamma_points)} levels"
    if isinstance(look.gamma, list):
        return "corrected by a table of 256 levels"
    if look.gamma is not None and look.gamma != 1:
        return f"corrected for a monitor of exponent {look.gamma:g}"
    return "linear: no correction" + ("" if look.gamma else ", for the monitor's luminance was not measured")


def cycles_per_degree(look: Look, width_cm: float, distance_cm: float) -> float:
    """Spatial frequency in the middle of a flat screen of this width at this distance from the eye."""
    return look.cycles_per_width / width_cm * distance_cm * math.radians(1)


class Renderer(Protocol):
    """Something that puts pictures somewhere. Used from one thread, the process's main thread."""

    name: str
    """Which one it is, in words for the operator."""
    is_display: bool
    """True only where a monitor shows the picture to somebody."""
    vsync: bool
    """True where `draw` returns at the monitor's refresh, so that its stamps tell when refreshes are."""
    refresh_hz: float
    size: tuple[int, int]
    """(width, height), px."""

    def draw(self, show: Show, patch: bool, cycles: float = 0.0) -> int:
        """Draw now, a grating that has drifted by `cycles`; returns time.perf_counter_ns when the swap was done
        (not light onset)."""
        ...

    def put(self, image: NDArray[np.uint8]) -> int:
        """Put an image up as it is, (height, width) drive levels, row 0 on top: test pictures, measuring luminance."""
        ...

    def pixels(self) -> NDArray[np.uint8]:
        """(height, width) what was drawn last, read back, row 0 on top."""
        ...

    def poll(self) -> None:
        """Called often: take the window system's events. Raises OSError if the screen is gone."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class UnavailableError(OSError):
    """This renderer does not work on this machine; another one may."""


class DisplayError(OSError):
    """There is a display, but not as the rig file wants it: nobody should go on with something else."""


class Pacing(Struct, frozen=True):
    """How frames are paced: by the monitor (`vsync`) or by the clock, and at which rate."""

    vsync: bool
    refresh_hz: float


def choose_pacing(expected_hz: float, monitor_hz: float, measured_hz: float, any_refresh: bool = False) -> Pacing:
    """Compare the refresh that was measured with the one the rig file expects.

    `monitor_hz` is what the system says of the monitor, 0 if there is none (Xvfb): then the clock paces.
    Raises DisplayError if a real monitor is off by more than 5 %, unless `any_refresh`.
    """

    def near(hz: float) -> bool:
        return abs(measured_hz / hz - 1) <= 0.05

    if monitor_hz <= 0:
        return Pacing(False, expected_hz)
    if near(expected_hz):
        return Pacing(True, measured_hz)
    if not any_refresh:
        raise DisplayError(
            f"refresh of the stimulus screen: measured {measured_hz:.2f} Hz (the system says {monitor_hz:g} Hz), "
            f"expected {expected_hz:g} Hz within 5 %. Set the monitor's mode, switch vertical sync on in the "
            "graphics driver, correct options.refresh_hz, or set options.any_refresh = true"
        )
    return Pacing(True, measured_hz) if near(monitor_hz) else Pacing(False, expected_hz)


class Frames:
    """When the next picture must be drawn: `lead_ns` before a refresh, refreshes being one period apart."""

    def __init__(self, refresh_hz: float, start_ns: int, lead_ns: int = 0) -> None:
        self.period_ns = round(1e9 / refresh_hz)
        self.lead_ns = lead_ns
        self._anchor_ns = start_ns

    def next_ns(self, now_ns: int) -> int:
        """The first deadline after `now_ns`."""
        first_ns = self._anchor_ns - self.lead_ns
        return first_ns + ((now_ns - first_ns) // self.period_ns + 1) * self.period_ns

    def anchor(self, flip_ns: int) -> None:
        """A refresh was seen here."""
        self._anchor_ns = flip_ns


class Newest:
    """Newest wins. Each thing asked for is drawn, superseded, a repeat of the one before it, or still waiting:

    asked == drawn + superseded + repeated + (1 if waiting else 0)
    """

    NAMED = 1000
    """Of very many that are superseded between two pictures only the last are named, so that memory stays bounded."""

    def __init__(self) -> None:
        self.shown: Show | None = None
        """What is on the screen; None before the first picture."""
        self.waiting: Show | None = None
        """What is to be drawn at the next frame."""
        self.seq = -1
        """Sequence number of the task.show that waits, or is shown where none waits; -1 for the service's own."""
        self.asked = self.drawn = self.superseded = self.repeated = 0
        self._count = 0
        self._overtaken: deque[int] = deque(maxlen=self.NAMED)

    def ask(self, show: Show, seq: int = -1) -> None:
        """This is wanted now, whatever was wanted before.

        Asked for by the task, a picture that the service put up by itself is drawn once more: each change that the
        task asks for is answered.
        """
        self.asked += 1
        wanted = self.waiting or self.shown
        answers = self.seq >= 0 or seq < 0
        if wanted is not None and same(wanted, show) and answers:
            self.repeated += 1
            return
        if self.waiting is not None:
            self.superseded += 1
            self._count += 1
            if self.seq >= 0:
                self._overtaken.append(self.seq)
        self.waiting, self.seq = show, seq

    def drew(self) -> tuple[int, list[int]]:
        """What was waiting is on the screen; returns how many were superseded since the picture before, and their
        sequence numbers."""
        if self.waiting is None:
            raise RuntimeError("a picture was drawn although none was waiting")
        self.shown, self.waiting = self.waiting, None
        self.drawn += 1
        count, overtaken = self._count, list(self._overtaken)
        self._count = 0
        self._overtaken.clear()
        return count, overtaken


def same(a: Show, b: Show) -> bool:
    """Do two Shows ask for the same picture?"""
    return a.what == b.what and (a.what != "grating" or a.angle_deg == b.angle_deg)
