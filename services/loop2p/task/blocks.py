"""The passive blocks of a session: gratings that depend on nothing are shown, and D is kept. Pure.

A session has any number of them, each with its own name, pictures and LED; the last one may calibrate (see core.py).
"""

from typing import Annotated

from msgspec import Meta, Struct

from loop2p.protocol import Output, Show
from loop2p.task.passive import Passive
from loop2p.task.trials import Seconds

Positive = Annotated[float, Meta(gt=0)]
Seed = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]
Orientation = Annotated[float, Meta(ge=0, lt=180)]


class BlockParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What all passive blocks have (Methods 2.2)."""

    duration_s: Seconds = 776.2
    """12,000 valid frames at 15.46 Hz. The baseline's may be 0 where nothing is calibrated from it."""
    orientations_deg: tuple[Orientation, ...] = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
    """Shown static, in random order; none: the screen stays grey."""
    shown_s: Positive = 1.0
    jitter_s: Seconds = 0.5
    """Each is shown for shown_s + U(-jitter_s, jitter_s)."""
    seed: Seed = 0
    wait: bool = False
    """Pause before it, until somebody asks to resume: the animal is to be anaesthetised, or the objective is dry."""

    def __post_init__(self) -> None:
        if self.jitter_s >= self.shown_s:
            raise ValueError(f"jitter_s is {self.jitter_s}, expected less than shown_s ({self.shown_s})")


class PassiveParams(BlockParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A passive block with its name and its light."""

    name: Name
    """The phase message says it; no two blocks of a session have the same."""
    duration_s: Positive = 776.2
    led: bool = False
    """LED pulses on every frame trigger through the whole block."""


class Block:
    """A passive block as it runs. It is whole when its valid values are in; a pause keeps those that it has."""

    def __init__(self, params: PassiveParams, plane_rate_hz: float) -> None:
        self.d: list[float] = []
        """The valid values of D, one a proximal frame."""
        self.first_frame = self.last_frame = 0
        """Of those values: frame indices of the microscope."""
        self._n = round(params.duration_s * plane_rate_hz)
        self._pictures = Passive(params.orientations_deg, params.shown_s, params.jitter_s, params.seed)

    def step(self, output: Output, frame: int, t_s: float) -> list[Show]:
        """The output of frame `frame` at frame time `t_s`: what is to be shown now, if it is news."""
        if output.valid:
            if not self.d:
                self.first_frame = frame
            self.last_frame = frame
            self.d.append(output.d)
        return self._pictures.step(t_s)

    @property
    def whole(self) -> bool:
        return len(self.d) >= self._n

    def halt(self) -> None:
        """The screen went grey: the next step shows a new grating."""
        self._pictures.halt()
