"""What goes out: messages of the bus in, streams and their samples out. Pure.

A sample's time is the moment on the rig clock at which what it tells was so, never when it was sent on.
"""

from typing import Literal

from msgspec import Struct

from loop2p.protocol import (
    Alarm,
    Done,
    Envelope,
    Fault,
    Lick,
    Message,
    Output,
    Phase,
    Rois,
    Session,
    Shown,
    Traces,
    Trial,
    WireError,
    from_f32,
)
from loop2p.runtime.sequence import Sequences

MARKED: tuple[type[Message], ...] = (Alarm, Done, Fault, Lick, Phase, Session, Shown, Trial)
MAX_TEXT = 500


class Stream(Struct, frozen=True):
    """A stream to be opened; one of the same key before it is over."""

    key: str
    type: str
    channels: list[str]
    units: list[str]
    rate_hz: float = 0.0
    """0: irregular."""
    format: Literal["float32", "double64", "string"] = "double64"
    version: str = ""
    """Another one: the channels mean something else."""


class Sample(Struct, frozen=True):
    """One sample of an open stream."""

    key: str
    t_ns: int
    """Rig clock."""
    values: list[float] | list[str]


DECODER = Stream("decoder", "Control", ["D", "control value", "valid"], ["dF/F", "dF/F", "bool"])
ANGLE = Stream("angle", "Stimulus", ["angle"], ["degrees"])
MARKERS = Stream("markers", "Markers", ["marker"], [""], format="string")
CLOCK = Stream("clock", "Clock", ["lsl minus rig clock", "bound"], ["seconds", "seconds"])


class Going(Struct, frozen=True):
    """Which streams are wanted."""

    traces: bool = True
    decoder: bool = True
    angle: bool = True
    markers: bool = True


class Outgoing:
    """Turns each message into streams and samples. `missed` counts what the bus had and we did not get, by topic."""

    def __init__(self, going: Going, plane_rate_hz: float) -> None:
        self.going, self.plane_rate_hz = going, plane_rate_hz
        self.missed: dict[str, int] = {}
        self.misfits = 0
        """Frames whose number of ROIs is not that of their ROI set."""
        self._sequences = Sequences()
        self._width: dict[int, int] = {}
        self._what = ""
        self._set_id = ""

    @property
    def topics(self) -> list[str]:
        """What to listen to."""
        kinds: list[type[Message]] = [Rois, Traces] if self.going.traces else []
        kinds += [Output] if self.going.decoder else []
        kinds += [Shown] if self.going.angle else []
        kinds += MARKED if self.going.markers else ()
        return sorted({kind.topic for kind in kinds})

    def begin(self) -> list[Stream]:
        """Streams that are there from the start; those of the traces come with the ROI set."""
        wanted = ((CLOCK, True), (DECODER, self.going.decoder), (ANGLE, self.going.angle))
        return [stream for stream, is_wanted in (*wanted, (MARKERS, self.going.markers)) if is_wanted]

    def take(self, envelope: Envelope) -> list[Stream | Sample]:
        """Take a message. One that was heard before, or can't be read, gives nothing."""
        header, topic = envelope.header, envelope.topic
        missed = self._sequences.check(topic, header)
        if missed is None:
            return []
        out: list[Stream | Sample] = []
        if missed:
            self.missed[topic] = self.missed.get(topic, 0) + missed
            out += self._mark(header.sent_ns, f"missed {missed} {topic}")
        try:
            message = envelope.message
        except WireError:
            return out
        at_ns = header.cause.arrival_ns if header.cause is not None else header.sent_ns
        match message:
            case Rois():
                out += self._rois(message)
            case Traces() if self.going.traces and message.plane in self._width:
                f = from_f32(message.f)
                if len(f) == self._width[message.plane]:
                    out.append(Sample(_plane(message.plane), at_ns, f.tolist()))
                else:
                    self.misfits += 1
            case Output() if self.going.decoder:
                out.append(Sample(DECODER.key, at_ns, [message.d, message.value, float(message.valid)]))
            case Shown():
                angle = float("nan") if message.angle_deg is None else message.angle_deg
                if self.going.angle:
                    out.append(Sample(ANGLE.key, message.flip_ns, [angle]))
                if message.what != self._what:
                    out += self._mark(message.flip_ns, f"shown {message.what}")
                self._what = message.what
            case _:
                if not header.resent:  # of before our time
                    out += self._mark(*_told(message, at_ns, header.sent_ns))
        return out

    def _rois(self, rois: Rois) -> list[Stream | Sample]:
        if rois.set_id == self._set_id or not self.going.traces:
            return []
        self._set_id = rois.set_id
        self._width = {plane.plane: len(plane.names) for plane in rois.planes if plane.names}
        return [
            Stream(
                _plane(plane.plane),
                "Fluorescence",
                plane.names,
                ["counts"] * len(plane.names),
                self.plane_rate_hz,
                "float32",
                rois.set_id,
            )
            for plane in rois.planes
            if plane.names
        ]

    def _mark(self, at_ns: int, text: str) -> list[Stream | Sample]:
        return [Sample(MARKERS.key, at_ns, [text[:MAX_TEXT]])] if text and self.going.markers else []


def _plane(plane: int) -> str:
    return f"traces-{plane}"


def _told(message: Message, at_ns: int, sent_ns: int) -> tuple[int, str]:
    """The moment (rig clock) and the words of a marker."""
    match message:
        case Trial():
            reason = f": {message.reason}" if message.reason else ""
            return at_ns, f"trial {message.trial} {message.edge}{reason}"
        case Done():
            return message.open_ns, f"reward {message.volume_ul:g} ul" if message.volume_ul else ""
        case Lick():
            return message.t_ns, f"lick {message.count}"
        case Phase():
            return at_ns, f"phase {message.phase}"
        case Session():
            return sent_ns, f"session {message.run_id}"
        case Alarm():
            return sent_ns, f"alarm {message.code} {'on' if message.active else 'off'}: {message.detail}"
        case Fault():
            return sent_ns, f"fault {message.service} {message.error}: {message.detail}"
        case _:
            return sent_ns, ""
