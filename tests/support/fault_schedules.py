"""Fault schedules: what goes wrong, and what task asks for meanwhile, drawn from a seed.

A schedule is plain data. The same one runs the same each time, with any of its parts left out, too.
"""

import random
from collections.abc import Callable
from typing import Literal

from msgspec import Struct, structs

MS = 1000
"""Times of a run are whole microseconds of the bench, those of a schedule milliseconds from its begin."""
SESSION_MS = 6000
"""Faults begin and end within this; then everything heals."""

Chain = ("task", "decoding", "actuation")
LINE = ("cut", "unplug", "hold", "mute", "deaf", "damage", "flood", "replay", "double", "reorder")
BUS = ("cut", "hold", "replay", "double", "reorder", "damage", "unanswered")
KINDS: tuple[tuple[str, str], ...] = (
    *((what, who) for what in ("kill", "freeze") for who in Chain),
    ("stop", "actuation"),
    ("pause", "task"),
    *((what, "line") for what in LINE),
    *((what, "bus") for what in BUS),
    *(("hold", "line"), ("unplug", "line"), ("replay", "line")),  # for the subtle ones more than once
    *(("reset", "controller"),) * 3,
    ("noise", "trigger"),
    ("step", "clock"),
    ("step", "calendar"),
)
"""What can happen, to whom.

`line` is the serial line. cut: bytes are lost both ways; unplug: the port goes and comes back; hold: bytes wait, then
come all at once; mute, deaf: one way is lost; replay: what was sent before is said again; double: each packet twice.
`bus` is what task and decoding say to actuation; unanswered: what actuation says is lost. pause: the session, by an
operator. reset: in the middle of a pulse, if one comes within `for_ms`. noise: the trigger input rises at 500 Hz.
"""


class Fault(Struct, frozen=True, order=True):
    at_ms: int
    what: str
    target: str
    for_ms: int = 0
    seed: int = 0
    """Of whatever is random in it."""


Ask = Literal["reward", "arm", "disarm", "stranger", "other instance", "expired", "too much", "nonsense", "same id"]
GOOD_ASKS = ("reward", "arm", "disarm")


class Asked(Struct, frozen=True, order=True):
    """A command that is given, should task be able to; all but the first three kinds must never be obeyed."""

    at_ms: int
    ask: Ask
    amount: float
    """Microlitres, or milliseconds of an LED pulse."""


class Schedule(Struct, frozen=True):
    seed: int
    faults: tuple[Fault, ...]
    asked: tuple[Asked, ...]
    session_ul: float
    """The ration: in half of the schedules so little that it is used up."""
    opening_resets: bool
    """Opening the port resets the board, as it does an Uno."""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: ration {self.session_ul:g} ul, opening_resets {self.opening_resets}"]
        lines += [f"  {x.at_ms:5} ms  {_text(x)}" for x in sorted((*self.faults, *self.asked), key=lambda x: x.at_ms)]
        return "\n".join(lines)


def _text(x: Fault | Asked) -> str:
    if isinstance(x, Asked):
        return f"asked: {x.ask} {x.amount:g}"
    return f"{x.what} {x.target}, {x.for_ms} ms"


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(f"fault schedule {seed}")
    faults = [_fault(rng) for _ in range(rng.randint(2, 10))]
    asks: list[Asked] = [Asked(150, "arm", 6.0)]
    at_ms = 150
    while (at_ms := at_ms + 30 + round(rng.expovariate(1 / 200))) < SESSION_MS:
        ask: Ask = rng.choices(
            ("reward", "arm", "disarm", "stranger", "other instance", "expired", "too much", "nonsense", "same id"),
            (12, 4, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
        )[0]
        amount = rng.uniform(0.1, 9.9)
        if ask == "too much":
            amount = rng.uniform(10.1, 30)
        elif ask == "arm":
            amount = rng.choice((6.0, 6.0, 1.0, 3.0))
        asks.append(Asked(at_ms, ask, amount))
    return Schedule(
        seed, tuple(sorted(faults)), tuple(asks), rng.choice((15.0, 60.0, 1000.0, 1000.0)), rng.random() < 0.5
    )


def _fault(rng: random.Random) -> Fault:
    what, target = rng.choice(KINDS)
    at_ms = rng.randint(300, SESSION_MS - 1000)
    longest_ms = SESSION_MS - at_ms
    for_ms = min(longest_ms, round(rng.choice((20, 150, 400, 1500)) * rng.uniform(0.3, 2)))
    return Fault(at_ms, what, target, for_ms, rng.getrandbits(32))


def minimal(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """Leave out faults, then commands, one by one, for as long as `fails(schedule)` stays true."""
    for field in ("faults", "asked"):
        part = getattr(schedule, field)
        for one in reversed(part):
            fewer = structs.replace(schedule, **{field: tuple(x for x in getattr(schedule, field) if x is not one)})
            if fails(fewer):
                schedule = fewer
    return schedule
