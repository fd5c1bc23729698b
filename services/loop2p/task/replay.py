"""A recorded session once more: the same events through the same core."""

from collections.abc import Iterable
from itertools import chain

from loop2p.protocol import Message, Output, RequestLog, Session, Stall, parse_rig
from loop2p.task.core import Effect, Event, SessionCore, TimeRanBackError
from loop2p.task.experiment import make_plan

RESTART = "restart"
"""Kind of the RequestLog by which a successor of task says that it takes over."""


def core_of(session: Session, given_ul: float = 0.0) -> SessionCore:
    """The core of a recorded or restored session. Raises FileError if its texts are no longer understood."""
    rate_hz = parse_rig(session.rig, "rig file of the session").rig.microscope.plane_rate_hz
    return SessionCore(make_plan(session.task, session.animal), rate_hz, given_ul)


def in_order(messages: Iterable[Message]) -> list[Event]:
    """The core's events as the task met them: a stall or request stands behind the output that it names."""
    outputs: list[Output] = []
    others: list[Stall | RequestLog] = []
    for message in messages:
        if isinstance(message, Output):
            outputs.append(message)
        elif isinstance(message, Stall | RequestLog):
            others.append(message)
    out: list[Event] = []
    k = 0
    for event in others:
        while k < len(outputs) and (cause := outputs[k].cause) is not None and cause.frame <= event.last_frame:
            out.append(outputs[k])
            k += 1
        out.append(event)
    return list(chain(out, outputs[k:]))


def replay(session: Session, messages: Iterable[Message]) -> list[Effect]:
    """All that the task made of the recorded events, in order.

    Ends where a successor of task took over: what its predecessor had in hand when it died is not on record.
    """
    core, out = core_of(session), list[Effect]()
    for event in in_order(messages):
        if isinstance(event, RequestLog) and event.kind == RESTART:
            break
        try:
            out += core.step(event)
        except TimeRanBackError:
            continue  # left out then, too
    return out
