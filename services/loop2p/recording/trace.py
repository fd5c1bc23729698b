"""One frame's way through the rig, for `loop2p trace FRAME`."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from loop2p.protocol import (
    Accepted,
    Cause,
    Clock,
    Command,
    Done,
    Message,
    Output,
    Phase,
    Refused,
    RewardCommand,
    Show,
    Shown,
    Traces,
    Trial,
    WireError,
    from_f32,
)
from loop2p.recording.clock_bounds import ClockBounds
from loop2p.recording.journal import Recorded, read_journal

ANSWERS = (Accepted, Done, Refused)
SKIPPED = frozenset({"imaging.preview", "rig.heartbeat", "rig.clock"})


class _Step(NamedTuple):
    at_ns: int
    source: str
    topic: str
    detail: str


def trace_frame(run_folder: Path, frame: int) -> list[dict[str, Any]]:
    """All messages a frame caused, in order of time: ms (since its last byte was in), source, topic, detail; and
    bound_ms, which is what the sender's clock and imaging's may be off against each other (0 on one machine, None if
    one of them never told).

    A message counts at the moment it tells of (valve open, screen flip) where it tells one, else when it was sent. The
    answers to the frame's commands belong to it, whatever cause they carry. Empty if no message names the frame.
    """
    cause: Cause | None = None
    ids: set[int] = set()
    steps: list[_Step] = []
    clocks: list[tuple[Recorded, Clock]] = []
    for record in read_journal(run_folder):
        if record.topic == Clock.topic:
            with contextlib.suppress(WireError):
                clocks.append((record, record.message))  # type: ignore[arg-type]
        if record.topic in SKIPPED:
            continue
        theirs = record.header.cause
        ours = theirs is not None and theirs.frame == frame
        if not ours and not (ids and record.topic.startswith("actuation.")):
            continue
        try:
            message = record.message
        except WireError as error:
            steps.append(_Step(record.header.sent_ns, record.header.source, record.topic, f"malformed: {error}"))
            continue
        if ours:
            cause = cause or theirs
            if isinstance(message, Command):
                ids.add(message.id)
        if ours or (isinstance(message, ANSWERS) and message.id in ids):
            steps += _steps(record, message)
    if cause is None:
        return []
    arrived = _Step(
        cause.arrival_ns, "microscope", "frame", f"frame {frame}, plane {cause.plane}, frame time {cause.time_s:.4f} s"
    )
    bounds = ClockBounds(clocks)
    return [
        {
            "ms": (step.at_ns - cause.arrival_ns) / 1e6,
            "bound_ms": _bound_ms(bounds, step, cause.arrival_ns),
            "source": step.source,
            "topic": step.topic,
            "detail": step.detail,
        }
        for step in sorted([arrived, *steps])
    ]


def waterfall(steps_ms: list[float], columns: int = 32) -> list[str]:
    """A bar for each step, from the step before it to itself, all on one scale that ends with the last."""
    whole = max([*steps_ms, 1e-6])
    bars = []
    for before, at in zip([0.0, *steps_ms], steps_ms, strict=False):
        start = min(int(columns * max(before, 0.0) / whole), columns - 1)
        length = max(round(columns * at / whole) - start, 1)
        bars.append(" " * start + "=" * length)
    return [f"{bar:{columns}}" for bar in bars]


def _bound_ms(bounds: ClockBounds, step: _Step, arrival_ns: int) -> float | None:
    """The frame's arrival was stamped by imaging."""
    if step.source in ("microscope", "imaging"):
        return 0.0
    first_ns, last_ns = sorted((arrival_ns, step.at_ns))
    bound_ns = bounds.between_ns("imaging", step.source, first_ns, last_ns)
    return None if bound_ns is None else bound_ns / 1e6


def _steps(record: Recorded, message: Message) -> list[_Step]:
    def step(at_ns: int, detail: str) -> _Step:
        return _Step(at_ns, record.header.source, record.topic, detail)

    if isinstance(message, Shown):
        return [step(message.flip_ns, f"{_picture(message)} on the screen (swap returned)")]
    if isinstance(message, Accepted):
        return [step(message.received_ns, f"command {message.id} in hand")]
    if isinstance(message, Done):
        if message.open_ns == message.close_ns:
            return [step(message.open_ns, f"command {message.id} done, {message.volume_ul:g} ul")]
        return [
            step(message.open_ns, f"command {message.id}: valve opens"),
            step(message.close_ns, f"command {message.id}: valve closed, {message.volume_ul:g} ul"),
        ]
    again = ", sent again" if record.header.resent else ""
    return [step(record.header.sent_ns, _text(message) + again)]


def _text(message: Message) -> str:
    match message:
        case Traces():
            n = len(message.f) // 4
            mean = float(from_f32(message.f[: 4 * n]).mean()) if n else 0.0
            shift = f"shift {message.shift_y_px:+.1f} {message.shift_x_px:+.1f} px, quality {message.quality:.2f}"
            return f"{n} ROIs, mean {mean:.1f} counts, {shift}{'' if message.valid else ', not valid'}"
        case Output():
            return f"D {message.d:+.4f}, control value {message.value:+.4f}{'' if message.valid else ', not valid'}"
        case Show():
            return f"show {_picture(message)}"
        case RewardCommand():
            return f"command {message.id}: {message.volume_ul:g} ul for trial {message.trial}"
        case Trial():
            return f"trial {message.trial}: {message.edge}{f' ({message.reason})' if message.reason else ''}"
        case Phase():
            return f"day {message.day}: {message.phase}{f' ({message.reason})' if message.reason else ''}"
        case Refused():
            return f"command {message.id} refused: {message.reason}"
        case _:
            fields = ((name, getattr(message, name)) for name in message.__struct_fields__)
            return ", ".join(f"{name} {value}" for name, value in fields if isinstance(value, str | int | float))


def _picture(message: Show | Shown) -> str:
    return message.what if message.angle_deg is None else f"{message.what} {message.angle_deg:g} deg"
