"""The rig clock, this machine's perf_counter, and LSL's clock: from one to another, and how well it is known."""

import contextlib
import math
import time
from collections.abc import Callable

import zmq

from loop2p.protocol import RigFile, WireError, control
from loop2p.runtime.clock import RigClock
from loop2p.runtime.keys import Keys

LOOKS = 20
"""Both clocks are read so often in a row, and the tightest reading is believed."""
PROBE_S = 0.1
"""How often the rig clock is asked for where it is another machine's (as services do)."""
LONGEST_S = 3.0e8
"""Ten years: a time beyond is none."""


class LslClock:
    """Rig clock <-> LSL's local_clock of this machine. Replaced as a whole, since other threads read it."""

    def __init__(self, rig: RigClock, lsl_s: Callable[[], float]) -> None:
        self.rig, self._lsl_s = rig, lsl_s
        self._offset = (0.0, math.inf)
        """LSL minus perf_counter, and its bound; ns."""
        self.renew()

    def renew(self) -> None:
        """Read both clocks anew. What they have drifted apart since the last time is in the bound until the next."""
        before_ns, known = self._offset[0], math.isfinite(self._offset[1])
        width_ns, offset_ns = min(self._look() for _ in range(LOOKS))
        drift_ns = abs(offset_ns - before_ns) if known else 0.0
        self._offset = offset_ns, width_ns / 2 + drift_ns

    def _look(self) -> tuple[int, float]:
        early_ns = time.perf_counter_ns()
        lsl_ns = self._lsl_s() * 1e9
        late_ns = time.perf_counter_ns()
        return late_ns - early_ns, lsl_ns - (early_ns + late_ns) / 2

    @property
    def bound_ns(self) -> int | None:
        """What a time turned from one clock to the other may be off by; None: the rig clock is not known yet."""
        rig_ns = self.rig.bound_ns
        return None if rig_ns is None else rig_ns + math.ceil(self._offset[1])

    @property
    def offset_s(self) -> float:
        """LSL's clock minus the rig clock now."""
        return (self._offset[0] - self.rig.offset_ns) / 1e9

    def lsl_s(self, rig_ns: int) -> float:
        """The moment on LSL's clock."""
        return (rig_ns - self.rig.offset_ns + self._offset[0]) / 1e9

    def rig_ns(self, lsl_s: float) -> int:
        """The moment on the rig clock. Raises ValueError for what is no time."""
        if not abs(lsl_s) < LONGEST_S:
            raise ValueError(f"found {lsl_s}, expected a time of LSL's clock, s")
        return self.rig.rig_ns(round(lsl_s * 1e9 - self._offset[0]))


class RigLink:
    """The rig clock for a companion: on the reference's machine it is at hand, elsewhere it is asked for."""

    def __init__(self, rig_file: RigFile, name: str, keys: Keys | None) -> None:
        rig = rig_file.rig
        reference = rig.services[rig.clock.reference]
        host = rig.companions[name].host if name in rig.companions else reference.host
        self.clock = RigClock(is_reference=host == reference.host)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._next_s = 0.0
        if not self.clock.is_reference:
            if keys:
                keys.trust(self._socket, rig.clock.reference)
            self._socket.connect(reference.control)

    def step(self) -> None:
        """Ask if it is time to, and take what was answered. To be called often; never waits."""
        if self.clock.is_reference:
            return
        while self._socket.poll(0):
            data = self._socket.recv_multipart()[-1]
            t3_ns = time.perf_counter_ns()
            with contextlib.suppress(WireError):
                reply = control.decode_reply(data)
                if isinstance(reply, control.ClockReply):
                    self.clock.add_exchange(reply.t0_ns, reply.t1_ns, reply.t2_ns, t3_ns)
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PROBE_S
            with contextlib.suppress(zmq.Again):  # nobody there: the bound says so
                probe = control.encode(control.ClockProbe(time.perf_counter_ns()))
                self._socket.send_multipart([b"", probe], zmq.NOBLOCK)

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()
        self._context.term()
