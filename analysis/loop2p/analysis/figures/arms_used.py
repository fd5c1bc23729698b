"""Which arms and which of their sessions a figure can use."""

from collections.abc import Mapping, Sequence

from loop2p.analysis.arm import ARM_NAMES, Arm
from loop2p.analysis.figures.style import many
from loop2p.analysis.sessions import SessionData

Arms = Mapping[str, Arm]

EXPERIMENTS = ("main", "led", "ndnf")
"""Arms with a task that the paper has too."""


def ordered(arms: Arms) -> list[Arm]:
    """In the order of the experiment, arms that it does not know last."""
    known = [arms[name] for name in ARM_NAMES if name in arms]
    return known + [arms[name] for name in sorted(set(arms) - set(ARM_NAMES))]


def with_events(sessions: Sequence[SessionData]) -> list[SessionData]:
    """Sessions with a closed loop and the events of both planes."""
    return [s for s in sessions if s.loop_s and {0, 1} <= s.events.keys()]


def leading(arms: Arms) -> Arm | None:
    """The arm of the figures that show one: the main arm, or the first that has events in a closed loop."""
    return next((arm for arm in ordered(arms) if with_events(arm.sessions)), None)


def compared(arms: Arms) -> list[Arm]:
    """Arms of the figures that stand side by side: those of the paper, or else the leading one; with events."""
    found = [arms[name] for name in EXPERIMENTS if name in arms and with_events(arms[name].sessions)]
    first = leading(arms)
    return found or ([first] if first else [])


def n_mice(sessions: Sequence[SessionData]) -> int:
    return len({s.mouse for s in sessions})


def sample(sessions: Sequence[SessionData]) -> str:
    """ "3 mice, 15 sessions", for a caption."""
    return f"{many(n_mice(sessions), 'mouse')}, {many(len(sessions), 'session')}"
