"""One row of the acceptance table, and what all rows are made with."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np
from msgspec import Struct, json

from loop2p.analysis.arm import Arm
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, Test

Arms = Mapping[str, Arm]


class Row(Struct, frozen=True):
    """One line of the table."""

    id: str
    signature: str
    paper: str
    measured: str
    rule: str
    met: bool | None
    """None: the arm or the days that it needs are not there."""
    aim: str = ""
    """What this project aims at beyond the rule, and whether it is reached."""
    detail: str = ""
    """n, tests."""
    tests: tuple[Test, ...] = ()
    """Every p behind the verdict and beside it, with n and level."""
    imposed: str = ""
    """What in a simulated mouse makes this row by construction: there it is no evidence."""
    unmet: str = ""
    """Why a simulated mouse may fail it; only where it is not met."""

    def as_dict(self) -> dict[str, Any]:
        """Of plain values; NaN, which JSON has not, is None."""
        return json.decode(json.encode(self))  # type: ignore[no-any-return]


class Found(Struct, frozen=True):
    """What a row's function finds: the fields of `Row` that are not text of its own."""

    measured: str
    met: bool | None
    detail: str = ""
    tests: Sequence[Test] = ()
    aim: str = ""


class MissingError(Exception):
    """Says what a row needs and has not."""


def row(
    id: str, signature: str, *, paper: str, rule: str, imposed: str = "", unmet: str = ""
) -> Callable[[Callable[[Arms], Found]], Callable[[Arms], Row]]:
    """Makes a row of the function that measures it. A MissingError anywhere in it leaves the row open and says why."""

    def decorate(measure: Callable[[Arms], Found]) -> Callable[[Arms], Row]:
        @wraps(measure)
        def judged(arms: Arms) -> Row:
            try:
                found = measure(arms)
            except MissingError as missing:
                found = Found("-", None, detail=f"needs {missing}")
            return Row(
                id, signature, paper, found.measured, rule, found.met, found.aim, found.detail, tuple(found.tests),
                imposed, unmet if found.met is False else "",
            )  # fmt: skip

        return judged

    return decorate


def arm_of(arms: Arms, name: str) -> Arm:
    """Raises MissingError."""
    if name not in arms:
        raise MissingError(f"the arm {name}")
    return arms[name]


def loops_of(arm: Arm) -> list[SessionData]:
    """The arm's sessions with a closed loop. Raises MissingError where there is none, or one has no events."""
    if not arm.loops:
        raise MissingError(f"closed loops of the arm {arm.name}")
    return with_events(arm.loops)


def with_events(sessions: list[SessionData]) -> list[SessionData]:
    """The same. Raises MissingError for a session that has not the events of both planes."""
    for session in sessions:
        if len(session.events) < 2:
            raise MissingError(f"events of both planes, which {session.path} has not")
    return sessions


def p_of(test: Test) -> float:
    """The p that a verdict needs. Raises MissingError where there were too few."""
    if np.isnan(test.p):
        raise MissingError(f"more than {n_text(test)}: no p for {test.what}")
    return test.p


def n_text(test: Test) -> str:
    """ "40 + 39 neuron-sessions", "6 mice"."""
    plural = {"mouse": "mice"}.get(test.level, f"{test.level}s")
    return f"{' + '.join(map(str, test.n))} {plural}"


def p_text(p: float) -> str:
    if np.isnan(p):
        return "no p"
    return f"p = {p:.2g}" if p > 0 else "p < 1e-300"


def told(tests: Sequence[Test]) -> str:
    """Tests of one question in a line: p, test and n of each, with the adjusted p where there is one.

    The mixed model is left to the list of all tests.
    """
    parts = []
    for test in tests:
        if not test.test.startswith("mixed model"):
            adjusted = "" if np.isnan(test.p_adjusted) else f", adjusted {test.p_adjusted:.2g}"
            name = test.test.removesuffix(" of mouse means")
            parts.append(f"{p_text(test.p)}{adjusted} ({name}, {n_text(test)})")
    return ", ".join(parts)


def mean_of(values: Floats) -> float:
    """Of what is finite; NaN of nothing."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else np.nan


def aimed(value: float, low: float, high: float, text: str) -> str:
    """Whether an aim is reached."""
    return f"{text}: {'reached' if low <= value <= high else 'not reached'}"
