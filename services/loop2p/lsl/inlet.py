"""Other programs' streams, recorded with the rig's own: a thread for each, one that hands in, and the clocks.

A stream that is lost is told (log, metrics, an alarm by recording), looked for, and taken again when it is back; the
gap is on record. Nothing that a stream sends can end this process.
"""

import logging
import threading
import time
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from msgspec import Struct

from loop2p.lsl.clocks import LslClock, RigLink
from loop2p.lsl.hand_in import HandIn, Queue
from loop2p.lsl.inlet_core import Found, Incoming, problem_of
from loop2p.lsl.library import pylsl, time_correction, use_scope
from loop2p.lsl.metrics import Figures
from loop2p.lsl.options import InletOptions, Wanted, own_name
from loop2p.protocol import FileError, RigFile, WireError, control
from loop2p.runtime.ask import ask
from loop2p.runtime.keys import load_keys

log = logging.getLogger("loop2p.lsl")

LOOK_S = 1.0
"""A stream is looked for so long at a time. Two of the same description are seen in it, too."""
OPEN_S = 5.0
PULL_S = 0.2
"""How long samples are gathered for one message."""
BUFFER_S = 30
"""liblsl keeps so much of a stream meanwhile (100 times as many samples where it is irregular)."""
MOST_SAMPLES = 4096
SILENT_S = 3.0
"""A stream with a rate from which nothing came for so long, or for 10 of its samples, is told as silent."""
ASK_S = 2.0
LEAVE_S = 3.0
RENEW_S = 1.0
STEP_S = 0.02


class Inlet:
    """Takes the streams of its options in. Only listens, and hands in to recording."""

    Options: ClassVar[type[Struct]] = InletOptions

    def __init__(self, options: InletOptions, rig_file: RigFile) -> None:
        self.options, self.rig_file = options, rig_file
        self.name = own_name(rig_file, "loop2p.lsl:Inlet", options, "lsl-inlet")
        self.keys = load_keys(rig_file, self.name)
        self.figures = Figures("inlet")

    @classmethod
    def from_rig(cls, options: Any, rig_file: RigFile) -> Self:
        """Raises FileError for streams that can't be told from others."""
        place = f"{rig_file.path}: companions, lsl"
        if not options.streams:
            raise FileError(f"{place}: no streams, expected such as streams.eye = {{ name = 'EyeLink' }}")
        for name, wanted in options.streams.items():
            if not wanted.predicate:
                raise FileError(f"{place}: streams.{name}: expected a name, type or source_id to find it by")
        return cls(options, rig_file)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        use_scope(self.options.scope, self.options.session)
        self.figures.serve(self.options.metrics)
        link = RigLink(self.rig_file, self.name, self.keys)
        clock = LslClock(link.clock, pylsl.local_clock)
        hand_in = HandIn(Queue(self.name), self._ask, lambda: self._states(pullers))
        pullers = [Puller(name, wanted, clock, hand_in, self.figures) for name, wanted in self.options.streams.items()]
        hand_in.start()
        for puller in pullers:
            puller.start()
        renew_s, problem = time.monotonic(), ""
        while not stop.wait(STEP_S):
            link.step()
            if time.monotonic() < renew_s:
                continue
            renew_s += RENEW_S
            clock.renew()
            self.figures.bound_s.set((clock.bound_ns or 0) / 1e9)
            self.figures.waiting.set(hand_in.queue.bytes)
            if hand_in.problem != problem:
                problem = hand_in.problem
                log.warning("%s", problem or "recording takes what is handed in again")
        for puller in pullers:
            puller.leave.set()
        for puller in pullers:
            puller.join(LEAVE_S)
        hand_in.leave(LEAVE_S)
        link.close()
        self.figures.close()

    def _ask(self, request: control.Ask) -> control.Answer | None:
        try:
            reply = ask(self.rig_file.rig.services["recording"].control, request, ASK_S, self.keys)
        except WireError as error:
            return control.Answer(False, str(error))
        return reply if isinstance(reply, control.Answer) else None

    def _states(self, pullers: "list[Puller]") -> control.Ask:
        states = {p.stream: {"why": p.why, "required": p.wanted.required} for p in pullers}
        return control.Ask("streams", self.name, {"streams": msgspec.json.encode(states).decode()})


class Puller(threading.Thread):
    """One stream: looked for, opened, pulled, lost, looked for again."""

    def __init__(self, stream: str, wanted: Wanted, clock: LslClock, hand_in: HandIn, figures: Figures) -> None:
        super().__init__(name=f"lsl-{stream}", daemon=True)
        self.stream, self.wanted = stream, wanted
        self.leave = threading.Event()
        self.why = f"stream {stream} ({wanted.predicate}) is not there; start its program, or set required = false"
        """Why it is not being recorded; empty while it is."""
        self._clock, self._hand_in, self._figures = clock, hand_in, figures
        self._core = Incoming(stream)
        self._said = ""
        self._lost = 0

    def run(self) -> None:
        """The thread. Whatever goes wrong with a stream is a reason to look for it anew, and nothing else."""
        self._figures.up.labels(self.stream).set(0)
        while not self.leave.is_set():
            try:
                self._once()
            except Exception as error:  # liblsl's, or of what a stream has sent
                self._gone(f"stream {self.stream} was lost: {type(error).__name__}: {error}")
                self.leave.wait(PULL_S)

    def _once(self) -> None:
        found = pylsl.resolve_bypred(self.wanted.predicate, 2, LOOK_S)
        if len(found) != 1:
            what = (
                "is not there; start its program" if not found else f"is there {len(found)} times; describe it closer"
            )
            self._gone(f"stream {self.stream} ({self.wanted.predicate}) {what}, or set required = false")
            return
        described = describe(found[0])
        if problem := problem_of(described, self.wanted):
            self._gone(f"stream {self.stream} {problem}")
            self.leave.wait(LOOK_S)
            return
        inlet = pylsl.StreamInlet(found[0], max_buflen=BUFFER_S, recover=False)
        try:
            inlet.open_stream(OPEN_S)
            self._core.opened(describe(inlet.info(OPEN_S)))
            self._pull(inlet, described)
        finally:
            inlet.close_stream()

    def _pull(self, inlet: Any, found: Found) -> None:
        correction = time_correction(inlet, OPEN_S)
        self._say("")
        silent_s = max(SILENT_S, 10 / found.rate_hz) if found.rate_hz else float("inf")
        last_s = time.monotonic()
        while not self.leave.is_set():
            values, stamps_s = inlet.pull_chunk(PULL_S, MOST_SAMPLES, as_numpy=True)
            bound_ns = self._clock.bound_ns
            if len(stamps_s):
                last_s = time.monotonic()
                correction = time_correction(inlet, OPEN_S)
            silence_s = time.monotonic() - last_s
            if silence_s > silent_s:
                self._say(f"stream {self.stream} is silent: nothing for {silent_s:.0f} s at {found.rate_hz:g} Hz")
                self._core.missed(0, "silent")
            elif not self.leave.is_set():
                self._say("")
            if bound_ns is None:
                self._core.missed(len(stamps_s), "the rig clock was not known yet")
                continue
            messages = self._core.take(
                np.asarray(values),
                stamps_s + correction.offset_s,
                self._clock.rig_ns,
                bound_ns + round(correction.uncertainty_s * 1e9),
                pylsl.local_clock(),
            )
            self._hand_in.add(messages)
            self._figures.samples.labels(self.stream).inc(sum(len(m.t_ns) // 8 for m in messages))
            self._count()

    def _gone(self, why: str) -> None:
        self._hand_in.add(self._core.gone(why))
        self._say(why)

    def _count(self) -> None:
        lost = self._core.lost + self._hand_in.queue.lost_of.get(self.stream, 0)
        if lost > self._lost:
            self._figures.lost.labels(self.stream).inc(lost - self._lost)
            if lost.bit_length() > self._lost.bit_length():  # 1, 2, 4, 8, ...: a flood does not fill the log
                log.warning("stream %s: %d samples lost so far", self.stream, lost)
            self._lost = lost

    def _say(self, why: str) -> None:
        """How it stands, in the log when that changes."""
        self.why = why
        self._figures.up.labels(self.stream).set(not why)
        if why != self._said:
            if why:
                log.warning("%s", why)
            else:
                log.info("stream %s is recorded", self.stream)
        self._said = why


def describe(info: Any) -> Found:
    """What a stream says of itself; channels and units only where the whole description was fetched."""
    return Found(
        name=info.name(),
        type=info.type(),
        source_id=info.source_id(),
        host=info.hostname(),
        n_channels=info.channel_count(),
        rate_hz=info.nominal_srate(),
        is_text=info.channel_format() == pylsl.lib.cf_string,
        channels=_listed(info.get_channel_labels),
        units=_listed(info.get_channel_units),
    )


def _listed(get: Any) -> list[str | None] | None:
    """A description that is not as it should be is none."""
    try:
        listed: list[str | None] | None = get()
    except (RuntimeError, ValueError, UnicodeDecodeError):
        return None
    return listed
