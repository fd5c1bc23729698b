"""The rest of a rig, played in one process: everybody else's sockets, heartbeats and answers around the program."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import zmq

from loop2p.cli.conformance.verdict import BrokenError
from loop2p.protocol import (
    PROTOCOL,
    Cause,
    Clock,
    Envelope,
    Heartbeat,
    Message,
    RigFile,
    WireError,
    control,
    open_parts,
    seal,
)
from loop2p.runtime.bus import Bus

T = TypeVar("T")
M = TypeVar("M", bound=Message)
BEAT_S = 0.05
ANYBODYS = ("rig.heartbeat", "rig.fault", "rig.alarm", "rig.clock")
TASKS = ("rig.session", "rig.swap")


class Stage:
    """Beats and answers for the other five while it waits, and keeps what the program says.

    Nothing happens between two calls: all waiting is done here.
    """

    def __init__(self, rig_file: RigFile, service: str) -> None:
        self.rig_file, self.service = rig_file, service
        spec = rig_file.rig.services[service]
        self.others = {n: Bus(n, f"{n}-stage", s) for n, s in rig_file.rig.services.items() if n != service}
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.ear = self.context.socket(zmq.SUB)
        self.ear.subscribe("")
        for endpoint in (spec.publish, spec.bulk):
            self.ear.connect(endpoint)
        self.poller = zmq.Poller()
        self.poller.register(self.ear, zmq.POLLIN)
        for bus in self.others.values():
            for socket in (bus.small, bus.bulk, bus.control):
                self.poller.register(socket, zmq.POLLIN)
        self.heard: list[Envelope] = []
        self.heard_s: list[float] = []
        self.broken: list[str] = []
        """Of what the program sends: no message, another's topic, a number that does not rise by one."""
        self.silent: set[str] = set()
        """Who of the others sends no heartbeats now."""
        self.subscribed: dict[str, set[str]] = {name: set() for name in self.others}
        self.run_id = ""
        self.dressed = False
        self.frame = 0
        self._last_seq: dict[tuple[str, str], int] = {}
        self._next_beat_s = self._next_clock_s = 0.0

    def close(self) -> None:
        for bus in self.others.values():
            bus.close()
        self.context.destroy(linger=0)

    # ------------------------------------------------------------ time goes on

    def pump(self, timeout_s: float) -> None:
        """Let at most so much time pass; less if something comes."""
        now_s = time.monotonic()
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + BEAT_S
            self._beat(now_s)
        wait_s = max(0.0, min(timeout_s, self._next_beat_s - now_s))
        ready = dict(self.poller.poll(int(wait_s * 1000) + 1))
        for name, bus in self.others.items():
            if bus.small in ready or bus.bulk in ready:
                self.subscribed[name] |= bus.welcome()
            if bus.control in ready:
                self._answer(name, bus)
        if self.ear in ready:
            self._listen()

    def wait(self, condition: Callable[[], T | None], what: str, timeout_s: float = 10.0) -> T:
        """What the condition returns once it is true. Raises BrokenError when it never is."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > deadline_s:
                raise BrokenError(f"{what}: did not come within {timeout_s:g} s")
            self.pump(0.02)

    def passing(self, seconds: float) -> None:
        """Let time pass, for what is to be seen not to come."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.pump(0.02)

    def _beat(self, now_s: float) -> None:
        tell_clock = now_s >= self._next_clock_s
        if tell_clock:
            self._next_clock_s = now_s + 0.5
        for name, bus in self.others.items():
            if name in self.silent:
                continue
            flushed: dict[str, dict[str, int]] = {}
            if name == "recording":
                flushed = {instance: {} for instance in {e.header.instance for e in self.heard[-50:]}}
            self.publish(
                name,
                Heartbeat(
                    health="ready",
                    rig_hash=self.rig_file.hash,
                    run_id=self.run_id,
                    published={**bus.published},
                    flushed=flushed,
                ),
            )
            if tell_clock:
                self.publish(name, Clock(offset_ns=0, bound_ns=1000, round_trip_ns=2000))

    def _answer(self, name: str, bus: Bus) -> None:
        for _ in range(64):
            try:
                *route, data = bus.control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            t1_ns = time.perf_counter_ns()
            reply: control.Reply = control.Answer(False, f"this {name} is played by `loop2p conform`")
            try:
                request = control.decode_request(data)
            except WireError:
                request = None
            if isinstance(request, control.ClockProbe):
                reply = control.ClockReply(request.t0_ns, t1_ns, time.perf_counter_ns())
            elif isinstance(request, control.Hello):
                reply = control.HelloReply(name, bus.instance, PROTOCOL, self.rig_file.hash, "stage", "ready")
            elif isinstance(request, control.SnapshotRequest):
                reply = control.SnapshotReply(b"")
            bus.control.send_multipart([*route, control.encode(reply)])

    def _listen(self) -> None:
        for _ in range(1000):
            try:
                parts = self.ear.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                envelope = open_parts(parts)
                _ = envelope.message
            except WireError as error:
                self.broken.append(str(error))
                continue
            self._check(envelope)
            self.heard.append(envelope)
            self.heard_s.append(time.monotonic())

    def _check(self, envelope: Envelope) -> None:
        topic, header = envelope.topic, envelope.header
        allowed = topic.startswith(f"{self.service}.") or topic in ANYBODYS
        if not (allowed or (self.service == "task" and topic in TASKS)):
            self.broken.append(f"{topic} is not {self.service}'s to publish")
        if header.source != self.service:
            self.broken.append(f"{topic}: source {header.source[:40]!r}, expected {self.service!r}")
        last = self._last_seq.get((header.instance, topic))
        if not header.resent:
            if last is not None and header.seq != last + 1:
                self.broken.append(f"{topic}: number {header.seq} after {last}, expected {last + 1}")
            self._last_seq[header.instance, topic] = header.seq

    # ------------------------------------------------------------ what is said

    def publish(self, name: str, message: Message) -> None:
        """As one of the others; `dressed`: with keys that nobody knows, and all keys the other way round."""
        bus = self.others[name]
        if not self.dressed or message.bulk or isinstance(message, Heartbeat):
            bus.publish(message, time.perf_counter_ns())
            return
        seq = bus.published.get(message.topic, 0)
        bus.published[message.topic] = seq + 1
        parts = [bytes(p) for p in seal(message, name, bus.instance, seq, time.perf_counter_ns()).parts()]
        for k in (1, 2):
            pairs = [*msgspec.msgpack.decode(parts[k]).items(), ("later", {"x": [1, None, b"y", 2.5]})]
            parts[k] = msgspec.msgpack.encode(dict(reversed(pairs)))
        bus.small.send_multipart(parts)

    def send_raw(self, name: str, parts: Sequence[bytes]) -> None:
        self.others[name].small.send_multipart([*parts])

    def cause(self, plane: int = 0, step: int = 1) -> Cause:
        """The next frame of that plane, `step` volumes on, just come in."""
        self.frame += 2 * step
        frame = self.frame + plane
        rate_hz = self.rig_file.rig.microscope.rate_hz
        return Cause(frame=frame, plane=plane, time_s=frame / rate_hz, arrival_ns=time.perf_counter_ns())

    def ask(self, request: control.Request, timeout_s: float = 2.0) -> control.Reply | None:
        """Of the program's control socket; heartbeats go on meanwhile."""
        context: zmq.Context[zmq.Socket[bytes]] = self.context
        socket = context.socket(zmq.REQ)
        socket.linger = 0
        try:
            socket.connect(self.rig_file.rig.services[self.service].control)
            socket.send(control.encode(request))
            deadline_s = time.monotonic() + timeout_s
            while not socket.poll(0):
                if time.monotonic() > deadline_s:
                    return None
                self.pump(0.02)
            return control.decode_reply(socket.recv())
        except WireError as error:
            raise BrokenError(f"its answer to {type(request).__name__}: {error}") from None
        finally:
            socket.close()

    # ------------------------------------------------------------ what is heard

    def listens_to(self, name: str, topic: str) -> bool:
        """Has the program subscribed to that?"""
        return any(topic.startswith(prefix) for prefix in self.subscribed[name])

    def mark(self) -> int:
        """From here on; see `since`."""
        return len(self.heard)

    def since(self, mark: int, kind: type[M]) -> list[M]:
        """What of a class has come since then."""
        return [e.message for e in self.heard[mark:] if isinstance(e.message, kind)]

    def next(self, mark: int, kind: type[M], what: str, right: Callable[[M], bool] = lambda _: True) -> M:
        """The first of a class since then that is right, waited for."""

        def found() -> M | None:
            return next((m for m in self.since(mark, kind) if right(m)), None)

        return self.wait(found, what)

    def envelopes(self, mark: int, kind: type[Message]) -> list[Envelope]:
        return [e for e in self.heard[mark:] if isinstance(e.message, kind)]
