"""A recorded session once more: the same events through the same core."""

from collections.abc import Iterable, Iterator
from itertools import chain

from loop2p.protocol import Message, Output, RequestLog, Session, Show, Stall, parse_microscope
from loop2p.task.core import Drop, Effect, Event, SessionCore, TimeRanBackError
from loop2p.task.experiment import make_plan
from loop2p.task.yoked import YokedParams

RESTART = "restart"
"""Kind of the RequestLog by which a successor of task says that it takes over."""
DECIMALS = 6
"""Of a schedule's times: microseconds, as exact as times are compared (ROUNDING_S)."""


def core_of(session: Session, given_ul: float = 0.0) -> SessionCore:
    """The core of a recorded or restored session. Raises FileError if its texts are no longer understood."""
    rate_hz = parse_microscope(session.rig, "rig file of the session").plane_rate_hz
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


def steps(session: Session, messages: Iterable[Message]) -> Iterator[tuple[SessionCore, list[Effect]]]:
    """The core behind each recorded event, and what it made of that.

    Ends where a successor of task took over: what its predecessor had in hand when it died is not on record.
    """
    core = core_of(session)
    for event in in_order(messages):
        if isinstance(event, RequestLog) and event.kind == RESTART:
            return
        try:
            yield core, core.step(event)
        except TimeRanBackError:
            continue  # left out then, too


def replay(session: Session, messages: Iterable[Message]) -> list[Effect]:
    """All that the task made of the recorded events, in order, up to where a successor of task took over."""
    return [effect for _, effects in steps(session, messages) for effect in effects]


def schedule_of(session: Session, messages: Iterable[Message]) -> YokedParams:
    """What the animal of a recorded session saw and was given in the closed loop, for another one to be yoked to.

    Raises ValueError where no closed loop was run, or task was started again during the session.
    """
    messages = list(messages)
    if any(isinstance(m, RequestLog) and m.kind == RESTART for m in messages):
        raise ValueError(f"run {session.run_id}: task was started again during it; expected a session that ran through")
    pictures: dict[float, Show] = {}
    rewards: list[float] = []
    in_loop, loop_s = False, 0.0
    for core, effects in steps(session, messages):
        loop_s = round(core.elapsed_s, DECIMALS)
        if in_loop:
            if core.phase != "ended":  # every end is grey by itself
                pictures |= {loop_s: e for e in effects if isinstance(e, Show)}  # noqa: B035  the last one at a time
            rewards += [loop_s for effect in effects if isinstance(effect, Drop)]
        in_loop = core.phase == "closed_loop"
    if not loop_s:
        raise ValueError(f"run {session.run_id}: it has no closed loop; expected pictures to show again")
    return YokedParams(
        duration_s=loop_s,
        t_s=list(pictures),
        what=[picture.what for picture in pictures.values()],
        angle_deg=[picture.angle_deg or 0.0 for picture in pictures.values()],
        reward_s=rewards,
    )
