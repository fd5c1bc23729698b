"""Decoding as a service: builds the decoder that the rig file names and feeds it every proximal frame."""

import math
from collections.abc import Callable, Iterable
from typing import Self

from loop2p.decoding.core import ControlSignal, check_selection
from loop2p.decoding.handover import read_snapshot
from loop2p.decoding.plugin import Build, DecodingOptions, find_decoder, warm
from loop2p.protocol import PROXIMAL, Envelope, Message, Output, Selection, Session, Traces, control
from loop2p.runtime import Context, Service


class Decoding(Service):
    """Turns each proximal-plane frame into one control value.

    Stops on a value that is not finite: a grey screen is safer than a wrong angle.
    """

    Options = DecodingOptions
    subscribes = (Traces, Selection, Session)
    publishes = (Output,)
    can_shadow = True

    def __init__(self, build: Build, rate_hz: float) -> None:
        """`build` makes a decoder of plus and minus; `rate_hz` is the frame rate of the proximal plane."""
        self.build = build
        self.signal = ControlSignal(rate_hz)
        self.selected: tuple[list[int], list[int]] | None = None
        self.run_id = ""
        self._catch_up: Callable[[float], None] | None = None
        """Takes in what came before a frame time and was not heard."""
        self._last_s = -math.inf

    @classmethod
    def from_rig(cls, options: DecodingOptions, context: Context) -> Self:
        rate_hz = context.rig_file.rig.microscope.plane_rate_hz
        service = cls(find_decoder(options, context.rig_file, context.name, rate_hz), rate_hz)
        warm(service.build, context.log)
        service.take_over(context)
        return service

    def take_over(self, context: Context, before_s: float = math.inf) -> None:
        """A successor's F0 is right at once: imaging has kept the frames of the last 30 s.

        Asked once more at the first frame that is heard, for those that came while the sockets were being connected.
        """
        self._catch_up = (lambda s: self.take_over(context, s)) if before_s == math.inf else None
        reply = context.ask_peer("imaging", control.SnapshotRequest())
        if not isinstance(reply, control.SnapshotReply) or not reply.data:
            return
        try:
            for traces in read_snapshot(reply.data):
                if traces.cause is not None and self._last_s < traces.cause.time_s < before_s:
                    self._last_s = traces.cause.time_s
                    self.signal.step(traces)
        except (ValueError, ArithmeticError) as error:
            context.log.warning("imaging's snapshot is of no use, F0 begins anew: %s", error)
            self.signal.reset()

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        message = envelope.message
        if not isinstance(message, Session):
            return self.handle(message)
        # A session that begins now begins with an empty F0, so that its recording alone gives the same values again.
        # One that is sent to us again began before we joined: we are a successor, and keep what we were handed.
        if message.run_id != self.run_id and not envelope.header.resent:
            self._catch_up = None
            self.signal.reset()
        self.run_id = message.run_id
        return ()

    def handle(self, message: Message) -> Iterable[Message]:
        if isinstance(message, Traces):
            if self._catch_up is not None and message.plane == PROXIMAL and message.cause is not None:
                self._catch_up(message.cause.time_s)
            output = self.signal.step(message)
            if output is not None:
                yield output
        elif isinstance(message, Selection) and (message.plus, message.minus) != self.selected:
            check_selection(message.plus, message.minus)
            self.signal.use(self.build(message.plus, message.minus), message.plus + message.minus)
            self.selected = message.plus, message.minus

    def why_not_ready(self) -> list[str]:
        return [] if self.selected else ["no selection yet: task names P+ and P- (task.selection)"]

    def counters(self) -> dict[str, int]:
        s = self.signal
        return {
            "frames_decoded": s.frames_decoded,
            "frames_invalid": s.frames_invalid,
            "frames_late": s.frames_late,
            "holes": s.holes,
            "resets": s.resets,
        }
