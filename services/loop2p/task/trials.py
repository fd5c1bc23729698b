"""One trial after the other: control values in, pictures and rewards out. Pure; frame time is the only clock.

Methods 2.6: grey 0.5 s, closed loop up to 28 s; hit: 90 deg frozen for 2 s, reward 1 s after the hit, black 1 s;
miss: black 3 s. What is due at a time happens at the first frame whose time reaches it.

    waiting --valid value--> grey --0.5 s--> loop --hit--> freeze --2 s--> black --1 s--> next trial
                                             loop --28 s: miss--> black --3 s--> next trial
    any --frames lost, or nothing valid for more than 0.5 s--> waiting
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from loop2p.protocol import Calibration, Show, Trial
from loop2p.task.mapping import TARGET_DEG, Mapping

Seconds = Annotated[float, Meta(ge=0)]
ROUNDING_S = 1e-6
"""Frame times are products of an index and a period: what is due at 0.5 s is due at 0.4999999 s too."""


class TrialParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Timing of a trial in seconds of frame time. Defaults: Methods 2.6."""

    grey_s: Seconds = 0.5
    loop_s: Annotated[float, Meta(gt=0)] = 28.0
    freeze_s: Seconds = 2.0
    reward_after_s: Seconds = 1.0
    """From the hit to its reward; within the freeze."""
    black_s: Seconds = 1.0
    """After a hit."""
    timeout_s: Seconds = 3.0
    """Black after a miss."""
    lapse_s: Annotated[float, Meta(gt=0)] = 0.5
    """A trial is void after more than this without a valid value, or when frame time jumps by more."""

    def __post_init__(self) -> None:
        if self.reward_after_s > self.freeze_s:
            raise ValueError(f"reward_after_s is {self.reward_after_s}, expected at most freeze_s ({self.freeze_s})")


class Value(Struct, frozen=True):
    """A control value at a frame time."""

    t_s: float
    value: float
    valid: bool = True


class Reward(Struct, frozen=True):
    """This trial's reward is due now."""

    trial: int


State = Literal["waiting", "grey", "loop", "freeze", "black"]
Step = Show | Trial | Reward

GREY = Show(what="grey")
BLACK = Show(what="black")
TARGET = Show(what="grating", angle_deg=TARGET_DEG)


class Trials:
    """The trials of one closed loop. The screen must be grey before the first value.

    Every hit is rewarded once, unless the trial becomes void before the reward is due: a drop that comes after
    a gap would reward something else. A trial whose outcome is complete (missed, or hit and rewarded) is never void.
    """

    def __init__(self, params: TrialParams, calibration: Calibration, first_trial: int = 0) -> None:
        self.params = params
        self.mapping = Mapping(calibration)
        self.trial = first_trial - 1
        """The running trial, or the last one."""
        self.state: State = "waiting"
        self._since_s = 0.0
        self._owed = False
        self._last_s: float | None = None
        self._invalid_since_s: float | None = None
        self._shown = GREY

    @property
    def undecided(self) -> bool:
        """Is a trial running whose outcome is not complete?"""
        return self.state in ("grey", "loop") or self._owed

    @property
    def owes_reward(self) -> bool:
        """Between a hit and its reward."""
        return self._owed

    @property
    def rests_until_s(self) -> float | None:
        """Between two trials: frame time before which none starts. None while one runs."""
        if self.state == "waiting":
            return self._last_s or 0.0
        return self._since_s + self._black_s if self.state == "black" else None

    def step(self, value: Value) -> list[Step]:
        """Take the next value. Raises ValueError if time does not rise, ArithmeticError if a value is not finite.

        Nothing is decided and nothing changes on the screen at a value that is not valid.
        """
        t_s = value.t_s
        if self._last_s is not None and not t_s > self._last_s:
            raise ValueError(f"value at {t_s} s came after one at {self._last_s} s; frame time must rise")
        jump_s = t_s - self._last_s if self._last_s is not None else 0.0
        self._last_s = t_s
        out: list[Step] = []
        limit_s = self.params.lapse_s + ROUNDING_S
        lapse_s = t_s - self._invalid_since_s if self._invalid_since_s is not None else 0.0
        if self.state != "waiting" and jump_s > limit_s:
            out += self.halt(f"frame time jumped by {jump_s:.2f} s")
        elif self.state != "waiting" and lapse_s > limit_s:
            out += self.halt(f"no valid value for {lapse_s:.2f} s")
        if value.valid:
            self._invalid_since_s = None
            out += self._advance(t_s, value.value)
        elif self._invalid_since_s is None:
            self._invalid_since_s = t_s
        return out

    def halt(self, reason: str) -> list[Step]:
        """Break off: an undecided trial is void, the screen grey. A new one starts with the next valid value."""
        out: list[Step] = []
        if self.undecided:
            out.append(self._edge("void", self._last_s or 0.0, reason))
        self._owed = False
        self.state = "waiting"
        return out + self._show(GREY)

    def _advance(self, t_s: float, value: float) -> list[Step]:
        params, out = self.params, list[Step]()
        if self.state == "waiting" or (self.state == "black" and self._reached(t_s, self._black_s)):
            self.trial += 1
            self.state, self._since_s = "grey", t_s
            out += [self._edge("start", t_s), *self._show(GREY)]
        if self.state == "grey" and self._reached(t_s, params.grey_s):
            self.state, self._since_s = "loop", t_s
        if self.state == "loop":
            out += self._loop(t_s, value)
        if self.state == "freeze":
            if self._owed and self._reached(t_s, params.reward_after_s):
                self._owed = False
                out.append(Reward(self.trial))
            if self._reached(t_s, params.freeze_s):
                out += self._black(t_s, params.black_s)
        return out

    def _loop(self, t_s: float, value: float) -> list[Step]:
        if self._reached(t_s, self.params.loop_s):
            return [self._edge("miss", t_s), *self._black(t_s, self.params.timeout_s)]
        if self.mapping.is_hit(value):
            self.state, self._since_s, self._owed = "freeze", t_s, True
            return [self._edge("hit", t_s), *self._show(TARGET)]
        return self._show(Show(what="grating", angle_deg=self.mapping.angle_deg(value)))

    def _black(self, t_s: float, for_s: float) -> list[Step]:
        self.state, self._since_s, self._black_s = "black", t_s, for_s
        return self._show(BLACK)

    def _reached(self, t_s: float, after_s: float) -> bool:
        return t_s - self._since_s >= after_s - ROUNDING_S

    def _edge(self, edge: Literal["start", "hit", "miss", "void"], t_s: float, reason: str = "") -> Trial:
        return Trial(trial=self.trial, edge=edge, t_s=t_s, reason=reason)

    def _show(self, picture: Show) -> list[Step]:
        if picture == self._shown:
            return []
        self._shown = picture
        return [picture]
