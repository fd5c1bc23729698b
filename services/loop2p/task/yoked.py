"""Another day's closed loop without control: its pictures and rewards at its times, whatever the neurons do. Pure.

Times are seconds of closed loop since its start, pauses and gaps left out, so that a yoked session that is paused goes
on where it stood. There are no trials, for nothing is tried: no hit, no miss. `replay.schedule_of` makes the schedule.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from msgspec import Meta, Struct

from loop2p.protocol import Show
from loop2p.protocol.messages import Picture
from loop2p.task.trials import GREY, ROUNDING_S, Reward, Seconds

PER_LINE = 12


class YokedParams(Struct, frozen=True, forbid_unknown_fields=True):
    """The schedule, in full: the task file alone says what the animal saw."""

    duration_s: Annotated[float, Meta(gt=0)]
    """How long it lasts, like the loop it is from."""
    t_s: list[Seconds]
    """(n_pictures,) when each picture comes, rising."""
    what: list[Picture]
    """(n_pictures,)"""
    angle_deg: list[float]
    """(n_pictures,) of gratings; 0 where there is none."""
    reward_s: list[Seconds] = []
    """(n_rewards,) when each reward is given, never falling; none: the animal sees, and is not rewarded."""

    def __post_init__(self) -> None:
        n = len(self.t_s)
        if not n == len(self.what) == len(self.angle_deg):
            raise ValueError(
                f"{n} times, {len(self.what)} pictures, {len(self.angle_deg)} angles, expected as many of each"
            )
        late = [b for a, b in pairwise(self.t_s) if b <= a] + [b for a, b in pairwise(self.reward_s) if b < a]
        if late:
            raise ValueError(f"{late[0]} s does not lie after the time before it, expected rising times")

    @property
    def pictures(self) -> list[Show]:
        """(n_pictures,) as they are shown."""
        rows = zip(self.what, self.angle_deg, strict=True)
        return [Show(what=what, angle_deg=angle if what == "grating" else None) for what, angle in rows]


class Yoked:
    """Stands in the place of Trials. The screen must be grey before the first step.

    `elapsed_s`: closed-loop time that has run already; rewards up to then were given.
    """

    trial = -1
    owes_reward = False
    state = "yoked"

    def __init__(self, params: YokedParams, elapsed_s: float = 0.0) -> None:
        self.params = params
        self._pictures = params.pictures
        self._shown = GREY
        self._given = self._due(params.reward_s, elapsed_s) if elapsed_s else 0

    def step(self, elapsed_s: float) -> list[Show | Reward]:
        """What is due at this time of the loop: the picture if it is news, and a reward."""
        shown = self._due(self.params.t_s, elapsed_s)
        picture = self._pictures[shown - 1] if shown else GREY
        out: list[Show | Reward] = [picture] if picture != self._shown else []
        self._shown = picture
        given = self._due(self.params.reward_s, elapsed_s)
        out += [Reward(self.trial)] * (given - self._given)
        self._given = given
        return out

    def over(self, elapsed_s: float) -> bool:
        """Has the whole schedule been played?"""
        return elapsed_s >= self.params.duration_s - ROUNDING_S

    def halt(self, _reason: str) -> list[Show]:
        """The screen went grey; the next step shows again what should be seen then."""
        self._shown = GREY
        return []

    @staticmethod
    def _due(times_s: Sequence[float], elapsed_s: float) -> int:
        return bisect_right(times_s, elapsed_s + ROUNDING_S)


def as_toml(params: YokedParams) -> str:
    """The schedule as a table of a task file."""
    words = [f'"{what}"' for what in params.what]
    rows = {
        "t_s": list(map(repr, params.t_s)),
        "what": words,
        "angle_deg": list(map(repr, params.angle_deg)),
        "reward_s": list(map(repr, params.reward_s)),
    }
    lines = ["[yoked]", f"duration_s = {params.duration_s!r}"]
    for key, values in rows.items():
        parts = [", ".join(values[k : k + PER_LINE]) for k in range(0, len(values), PER_LINE)]
        lines += [f"{key} = [", *(f"  {part}," for part in parts), "]"]
    return "\n".join(lines) + "\n"
