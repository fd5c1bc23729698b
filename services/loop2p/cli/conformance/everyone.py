"""What is asked of every service."""

import os
import time

import msgspec
import zmq

from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.stage import Stage
from loop2p.cli.conformance.verdict import BrokenError, Clause, NotThereError
from loop2p.cli.swapping.newcomer import Newcomer
from loop2p.protocol import MESSAGES, PROTOCOL, Alarm, Envelope, Heartbeat, control, seal
from loop2p.protocol.vectors import example

START_S, END_S, TOLD_S, BEATS = 60.0, 5.0, 1.0, 20


class Everyone:
    """Clauses that hold for all roles. `role.works` tells whether it still does its own."""

    def __init__(self, stage: Stage, program: Newcomer, role: RoleTest) -> None:
        self.stage, self.program, self.role = stage, program, role
        self.instances: list[str] = []

    def first(self) -> list[Clause]:
        return [
            Clause("it sends heartbeats that name protocol, rig hash, service and an instance", self.heartbeats),
            Clause("its heartbeats say that it is ready", self.ready),
        ]

    def last(self) -> list[Clause]:
        return [
            Clause("damaged messages do it no harm", self.damaged),
            Clause("topics and map keys that it does not know are skipped, keys in any order", self.unknown),
            Clause("every message it sent was one of the protocol's, its own to publish, numbered by ones", self.clean),
            Clause("its heartbeats count what it has published", self.counts, optional=True),
            Clause("its control socket answers a hello, and refuses nonsense", self.hello, optional=True),
            Clause("its state is sent again to whoever joins late", self.late_joiner, optional=True),
            Clause(f"SIGTERM ends it within {END_S:g} s, with a last heartbeat", self.sigterm),
        ]

    def again(self) -> list[Clause]:
        return [
            Clause("started again it has another instance, and its numbers begin anew", self.another_instance),
            Clause(f"asked on its control socket it ends within {END_S:g} s", self.stop, optional=True),
        ]

    # ------------------------------------------------------------ clauses

    def heartbeats(self) -> str:
        stage = self.stage
        stage.wait(self._beats, "a heartbeat", START_S)
        since_s = time.monotonic()
        before = len(self._beats())
        stage.wait(lambda: len(self._beats()) >= before + BEATS, f"{BEATS} heartbeats, 20 a second", 10.0)
        rate_hz = BEATS / (time.monotonic() - since_s)
        beat, header = self._beats()[-1].message, self._beats()[-1].header
        assert isinstance(beat, Heartbeat)
        for name, found, expected in (
            ("protocol", beat.protocol, PROTOCOL),
            ("rig_hash", beat.rig_hash, stage.rig_file.hash),
            ("source", header.source, stage.service),
        ):
            if found != expected:
                raise BrokenError(f"{name} {found!r}, expected {expected!r}")
        instances = {e.header.instance for e in self._beats()}
        if len(instances) != 1 or not header.instance:
            raise BrokenError(f"instances {sorted(instances)}, expected one that stays")
        self.instances.append(header.instance)
        return f"{header.instance}, {rate_hz:.1f} heartbeats a second"

    def ready(self) -> str:
        self.role.begin()
        self.stage.wait(lambda: self._beat_with("ready"), f"health 'ready' ({self._why()})", 30.0)
        until_s = time.monotonic() + TOLD_S
        while self._last_beat().run_id != self.stage.run_id and time.monotonic() < until_s:
            self.stage.pump(0.02)
        told = self._last_beat().run_id
        other = "" if told == self.stage.run_id else " is not the one it heard of"
        return f"ready, run {told!r}{other}"

    def damaged(self) -> str:
        n = 0
        for name, topic in self.role.hears:
            for parts in damaged_forms(topic, name):
                self.stage.send_raw(name, parts)
                n += 1
        self.stage.passing(0.2)
        self.role.works()
        rejected = self._last_beat().rejected
        return f"{n} damaged messages; it counts {rejected} rejected"

    def unknown(self) -> str:
        for name in self.stage.others:
            self.stage.send_raw(name, [f"{name}.unheard-of".encode(), b"\x80", b"\x80"])
        for topic, kind in MESSAGES.items():
            owner = topic.partition(".")[0]
            if owner in self.stage.others and (owner, topic) not in self.role.hears:
                self.stage.publish(owner, example(kind, full=True))
        self.stage.passing(0.1)
        self.stage.dressed = True
        try:
            self.role.works()
        finally:
            self.stage.dressed = False
        return "golden vectors of every topic that it does not hear, and new keys in those that it does"

    def clean(self) -> str:
        if self.stage.broken:
            more = f" and {len(self.stage.broken) - 3} more" if len(self.stage.broken) > 3 else ""
            raise BrokenError("; ".join(self.stage.broken[:3]) + more)
        return f"{len(self.stage.heard)} messages"

    def counts(self) -> str:
        highest: dict[str, int] = {}
        told = False
        for envelope in self.stage.heard:
            message = envelope.message
            if isinstance(message, Heartbeat) and message.published:
                told = True
                for topic, n in message.published.items():
                    if topic in highest and not MESSAGES[topic].bulk and n != highest[topic] + 1:
                        raise BrokenError(f"{topic}: {n} published, and number {highest[topic]} was the last heard")
            highest[envelope.topic] = max(envelope.header.seq, highest.get(envelope.topic, -1))
        if not told:
            raise NotThereError("no `published`: an audit can only see gaps in its numbers")
        return "as many as were heard"

    def hello(self) -> str:
        reply = self.stage.ask(control.Hello(rig_hash=self.stage.rig_file.hash))
        if reply is None:
            raise NotThereError("no control socket: it can't be asked to stop, nor looked at by `loop2p status`")
        if not isinstance(reply, control.HelloReply):
            if isinstance(reply, control.Answer) and not reply.accepted:
                raise NotThereError(f"hello is refused: {reply.reason}")
            raise BrokenError(f"a hello is answered by {type(reply).__name__}")
        found = (reply.service, reply.instance, reply.protocol, reply.rig_hash)
        expected = (self.stage.service, self.instances[-1], PROTOCOL, self.stage.rig_file.hash)
        if found != expected:
            raise BrokenError(f"hello answered by {found}, expected {expected}")
        answer = self.stage.ask(control.Ask("dance", "conform"))
        if not isinstance(answer, control.Answer) or answer.accepted:
            raise BrokenError(f"nonsense is answered by {answer}, expected a refusal")
        return f"version {reply.version}"

    def sigterm(self) -> str:
        if os.name != "posix":
            raise BrokenError("SIGTERM can't be tried on this system")
        assert self.program.process is not None
        if self.role.ends_last:
            self.stage.silent |= self.stage.others.keys()
            self.stage.passing(0.2)
        mark, since_s = self.stage.mark(), time.monotonic()
        self.program.process.terminate()
        self.stage.wait(lambda: self.program.code is not None, "its end after SIGTERM", END_S)
        took_s = time.monotonic() - since_s
        self.stage.passing(0.1)
        self.stage.silent.clear()
        beats = self.stage.since(mark, Heartbeat)
        if not beats or beats[-1].health != "stopped":
            last = beats[-1].health if beats else "none at all"
            raise BrokenError(f"its last heartbeat is {last!r}, expected health 'stopped'")
        if self.program.code != 0:
            raise BrokenError(f"exit code {self.program.code}, expected 0: {self.program.last_words()}")
        return f"after {took_s:.2f} s"

    def another_instance(self) -> str:
        first = self.instances[0]

        def another() -> str:
            return next((e.header.instance for e in self._beats() if e.header.instance != first), "")

        self.instances.append(self.stage.wait(another, f"a heartbeat of another instance than {first}", START_S))
        return self.instances[-1]

    def late_joiner(self) -> str:
        """Another subscriber: what of state it is sent."""
        kinds = [k for k in MESSAGES.values() if k.state and k is not Alarm]
        wanted = {k.topic for k in kinds if any(isinstance(e.message, k) for e in self.stage.heard)}
        own = {topic for topic in wanted if topic.startswith((f"{self.stage.service}.", "rig."))}
        if not own:
            raise NotThereError("it publishes no state")
        late = Stage.__new__(Stage)
        late.__dict__ |= self.stage.__dict__
        late.ear = self.stage.context.socket(zmq.SUB)
        late.ear.subscribe("")
        late.heard, late.heard_s, late.broken, late._last_seq = [], [], [], {}
        late.poller = type(self.stage.poller)()
        late.poller.register(late.ear, zmq.POLLIN)
        late.ear.connect(self.stage.rig_file.rig.services[self.stage.service].publish)
        try:
            late.wait(lambda: own <= {e.topic for e in late.heard}, f"{', '.join(sorted(own))} for a late joiner")
        finally:
            late.ear.close(linger=0)
        return ", ".join(sorted(own))

    def stop(self) -> str:
        if self.role.ends_last:
            self.stage.silent |= self.stage.others.keys()
            self.stage.passing(0.2)
        since_s = time.monotonic()
        reply = self.stage.ask(control.Stop(by="conform"))
        if reply is None:
            raise NotThereError("no control socket")
        if not (isinstance(reply, control.Answer) and reply.accepted):
            raise BrokenError(f"a stop is answered by {reply}, expected that it is accepted")
        self.stage.wait(lambda: self.program.code is not None, "its end after a stop", END_S)
        return f"after {time.monotonic() - since_s:.2f} s"

    # ------------------------------------------------------------ helpers

    def _beats(self) -> list[Envelope]:
        return self.stage.envelopes(0, Heartbeat)

    def _last_beat(self) -> Heartbeat:
        beat = self._beats()[-1].message
        assert isinstance(beat, Heartbeat)
        return beat

    def _beat_with(self, health: str) -> Heartbeat | None:
        beat = self._last_beat()
        return beat if beat.health == health and not beat.why_not_ready else None

    def _why(self) -> str:
        beat = self._last_beat()
        return f"it says {beat.health!r} {'; '.join(beat.why_not_ready)}"


def damaged_forms(topic: str, source: str) -> list[list[bytes]]:
    """A message of that topic, damaged in many ways."""
    good = [bytes(p) for p in seal(example(MESSAGES[topic], full=False), source, f"{source}-damaged", 0, 0).parts()]
    name, header, body = good[:3]

    def with_header(**changes: object) -> list[bytes]:
        return [name, msgspec.msgpack.encode(msgspec.msgpack.decode(header) | changes), body]

    return [
        [name],
        [name, header],
        [name, b"", b""],
        [name, header, b""],
        [name, header, b"\xc1"],
        [name, header, body[:-1]],
        [name, header[:-1], body],
        [name, b"\xff" * 40, body],
        [name, header, b"\xff" * 40],
        [name, header, b"\x91" * 5000],
        [name, header, msgspec.msgpack.encode({"type": "nothing"})],
        [name, header, msgspec.msgpack.encode([1, 2, 3])],
        [name, header, msgspec.msgpack.encode(dict.fromkeys(msgspec.msgpack.decode(body), "text"))],
        [name, header, msgspec.msgpack.encode(dict.fromkeys(msgspec.msgpack.decode(body), -1))],
        [name, header, body, *[b"\0" * 10] * 20],
        with_header(protocol=99),
        with_header(source="nobody"),
        [b"\xff\xfe", header, body],
        [b"", header, body],
    ]
