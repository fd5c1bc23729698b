"""The rig's streams on LSL. It only listens: nothing of the rig waits for it, and nobody who reads it holds it up.

liblsl keeps `BUFFER_S` for each reader and lets the oldest go; the bus keeps `SMALL_HWM` messages for us, and what
does not fit is a gap in their numbers: counted, logged, and told as a marker.
"""

import logging
import threading
import time
from typing import Any, ClassVar, Self

from msgspec import Struct

from loop2p.lsl.clocks import LslClock, RigLink
from loop2p.lsl.library import pylsl, use_scope
from loop2p.lsl.metrics import Figures
from loop2p.lsl.options import OutletOptions, own_name
from loop2p.lsl.outlet_core import CLOCK, Going, Outgoing, Sample, Stream
from loop2p.protocol import RigFile
from loop2p.runtime.keys import load_keys
from loop2p.runtime.monitor import Monitor

log = logging.getLogger("loop2p.lsl")

BUFFER_S = 60
"""Of each stream, for a reader that is slow (100 times as many samples where it is irregular)."""
PACE_S = 0.05
RENEW_S = 1.0
"""How often the clocks are compared anew, and the result is published."""


class Outlet:
    """Publishes what the rig does. Decides nothing, and is not heard by the rig."""

    Options: ClassVar[type[Struct]] = OutletOptions

    def __init__(self, options: OutletOptions, rig_file: RigFile) -> None:
        self.options, self.rig_file = options, rig_file
        self.name = own_name(rig_file, "loop2p.lsl:Outlet", options, "lsl-outlet")
        self.keys = load_keys(rig_file, self.name)
        going = Going(options.traces, options.decoder, options.angle, options.markers)
        self.core = Outgoing(going, rig_file.rig.microscope.plane_rate_hz)
        self.figures = Figures("outlet")
        self._open: dict[str, Any] = {}
        self._waiting: list[Stream] = []
        """Streams that open once the clock is known."""
        self._told = 0

    @classmethod
    def from_rig(cls, options: Any, rig_file: RigFile) -> Self:
        """Raises FileError where its key is missing."""
        return cls(options, rig_file)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        use_scope(self.options.scope, self.options.session)
        self.figures.serve(self.options.metrics)
        link = RigLink(self.rig_file, self.name, self.keys)
        clock = LslClock(link.clock, pylsl.local_clock)
        self._waiting += self.core.begin()
        renew_s = time.monotonic()
        with Monitor(self.rig_file.rig, self.core.topics, self.keys) as monitor:
            while not stop.is_set():
                link.step()
                if time.monotonic() >= renew_s:
                    renew_s += RENEW_S
                    clock.renew()
                    self._tell(clock)
                for envelope in monitor.wait(PACE_S):
                    for item in self.core.take(envelope):
                        self._give(item, clock)
        self._open.clear()
        link.close()
        self.figures.close()

    def _give(self, item: Stream | Sample, clock: LslClock) -> None:
        bound_ns = clock.bound_ns
        if isinstance(item, Stream):
            self._waiting.append(item)
        if bound_ns is None:
            return  # no time can be given yet
        for stream in self._waiting:
            self._open.pop(stream.key, None)
            self._open[stream.key] = self._outlet(stream, clock.offset_s, bound_ns)
        self._waiting.clear()
        if isinstance(item, Sample) and item.key in self._open:
            self._open[item.key].push_sample(item.values, clock.lsl_s(item.t_ns))
            self.figures.samples.labels(item.key).inc()

    def _outlet(self, stream: Stream, offset_s: float, bound_ns: int) -> Any:
        """A stream of this name is seen from now on."""
        rig = self.rig_file.rig.name
        info = pylsl.StreamInfo(
            f"loop2p-{rig}-{stream.key}", stream.type, len(stream.channels), stream.rate_hz, stream.format,
            f"loop2p-{rig}-{stream.key}-{stream.version}",
        )  # fmt: skip
        info.set_channel_labels(stream.channels)
        info.set_channel_units(stream.units)
        about = info.desc().append_child("loop2p")
        for key, value in (
            ("rig", rig),
            ("rig_hash", self.rig_file.hash),
            ("version", stream.version),
            ("simulated", str(self.rig_file.rig.simulated).lower()),
            ("lsl_minus_rig_clock_s", repr(offset_s)),
            ("clock_bound_s", repr(bound_ns / 1e9)),
            ("clock_renewed_in", f"loop2p-{rig}-{CLOCK.key}"),
        ):
            about.append_child_value(key, value)
        log.info("stream %s: %d channels", info.name(), len(stream.channels))
        return pylsl.StreamOutlet(info, 0, BUFFER_S)

    def _tell(self, clock: LslClock) -> None:
        """The clock's state as a sample, and what was missed in log and metrics."""
        bound_ns = clock.bound_ns
        if bound_ns is not None:
            offset_s = clock.offset_s
            self._give(Sample(CLOCK.key, clock.rig.now_ns(), [offset_s, bound_ns / 1e9]), clock)
            self.figures.bound_s.set(bound_ns / 1e9)
        for topic, missed in self.core.missed.items():
            self.figures.missed.labels(topic).set(missed)
        total = sum(self.core.missed.values()) + self.core.misfits
        if total > self._told:
            log.warning("missed so far: %s; frames of another ROI set: %d", self.core.missed, self.core.misfits)
            self._told = 2 * total  # a flood does not fill the log
