"""One service as a process: the only loop, and the only place where everything is caught."""

import contextlib
import gc
import importlib
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

import zmq
from msgspec import structs

from loop2p.protocol import (
    MESSAGES,
    PROTOCOL,
    ROLES,
    Cause,
    Clock,
    Endpoints,
    Envelope,
    Fault,
    FileError,
    Heartbeat,
    Message,
    OptoCommand,
    RigFile,
    Session,
    Swap,
    WireError,
    control,
)
from loop2p.runtime.ask import ask
from loop2p.runtime.bus import Bus, keep_alive
from loop2p.runtime.clock import RigClock
from loop2p.runtime.keys import Strangers, load_keys
from loop2p.runtime.metrics import Metrics
from loop2p.runtime.realtime import Realtime
from loop2p.runtime.sequence import Sequences
from loop2p.runtime.service import Context, Input, Service
from loop2p.runtime.standby import Standby

EXIT_STOPPED, EXIT_FAULT, EXIT_MISTAKE = 0, 70, 78
"""Stopped as asked; met an impossible state; a mistake in a file or a port that is taken: no use to start again."""
HEARTBEAT_S = 0.05
CLOCK_S = 1.0
"""How often the clock's state is published."""
PROBE_S = 0.1
"""How often a service on another machine exchanges time stamps with the reference: enough for 40 us through jitter of
+-0.5 ms; on the reference's own machine there is nothing to learn, and CLOCK_S will do."""
LAST_WORDS_NS = 5_000_000_000
"""At most so long recording goes on taking what the others have sent, once it is asked to stop."""
PATIENCE_S = 5.0
"""So long a successor waits for its predecessor's ports."""
CLOCK_QUICK = 16
"""Exchanges at start, one a heartbeat, so that the bound is good within a second."""


T = TypeVar("T")


class FaultError(Exception):
    """A service has met an impossible state; its Fault is published."""


def load(name: str, place: str) -> type:
    """The class named "package.module:Class". Raises FileError naming the place in the rig file."""
    module_name, _, class_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise FileError(
            f"{place}: can't import {module_name!r}: {error}. Is its extra installed? One of your own: is "
            "its folder in the rig file's path?"
        ) from None
    except AttributeError:
        raise FileError(f"{place}: {module_name} has no class {class_name!r}") from None


class Process:
    """Runs a service on the bus until it is asked to stop or meets a fault."""

    def __init__(self, name: str, rig_file: RigFile, instance: str = "", at: Endpoints | None = None) -> None:
        """`at`: bind there instead of where the rig file says, and serve no metrics: another one is there already."""
        self.name, self.rig_file = name, rig_file
        self.spec = rig_file.rig.services[name]
        if at is not None:
            self.spec = structs.replace(self.spec, publish=at.publish, bulk=at.bulk, control=at.control, metrics="")
        self.instance = instance or f"{name}-{uuid.uuid4().hex[:12]}"
        self.log = logging.getLogger(f"loop2p.{name}")
        reference = rig_file.rig.services[rig_file.rig.clock.reference]
        self.clock = RigClock(is_reference=self.spec.host == reference.host)
        self.context = Context(self.name, self.instance, rig_file, self.clock, self.log, self._ask_peer)
        self.keys = load_keys(rig_file, name)
        self.strangers = Strangers(name)
        self.metrics = Metrics(name, rig_file.rig.clock.bound_limit_ms / 1e3)
        self.gaps = self.rejected = 0
        place = f"{rig_file.path}: services.{name}.class"
        kind = load(self.spec.class_ or ROLES[name], place)
        if not issubclass(kind, Service):
            raise FileError(f"{place}: {kind.__name__} is no loop2p.runtime.Service")
        self.service = kind.from_rig(rig_file.options(name, kind.Options), self.context)
        self.realtime = Realtime(self.spec.realtime_priority, self.log)
        self.sequences = Sequences()
        self.run_id = ""
        self._health = "starting"
        self._heard: dict[str, int] = {}
        self._standbys: dict[str, Standby] = {}
        """Services that somebody stands by for, or did."""
        self._turned: deque[Envelope] = deque()
        """What the new one of an exchange had said before that counts."""
        self.patience_s = 0.0
        """How long a port that is taken is waited for."""
        self._handed_over = False
        """A successor waits for our endpoints."""
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._poller = zmq.Poller()
        self._stop = threading.Event()
        self._probes_left = CLOCK_QUICK
        self._tell_clock_ns = 0
        self._everything = False

    # ------------------------------------------------------------ from outside

    def stop(self) -> None:
        """Ask the loop to end; safe to call from a signal handler or another thread."""
        self._stop.set()
        with contextlib.suppress(OSError):  # full: the loop is awake anyway
            self._wake_write.send(b"s")

    def _patiently(self, take: Callable[[], T]) -> T:
        """Take a port; a successor's predecessor may still be letting go of it. Raises OSError where it stays taken."""
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return take()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def run(self) -> int:
        """Run until stopped; returns the exit code."""
        self.realtime.ask()  # everything is loaded and warm: what comes now is short
        priority = self.realtime.granted
        bus = self.bus = self._patiently(lambda: Bus(self.name, self.instance, self.spec, self.keys, priority))
        topics = {m.topic for m in MESSAGES.values() if self._subscribed(m)}
        self._everything = topics == set(MESSAGES)  # recording: then even display messages are taken one by one
        bus.connect(self.rig_file, None if self._everything else topics | {Session.topic, Swap.topic})
        if self.spec.metrics:
            try:
                self._patiently(lambda: self.metrics.serve(self.spec.metrics))
            except OSError as error:
                bus.close()
                raise OSError(f"{self.name}: can't serve metrics on {self.spec.metrics}: {error}") from None
        self._clock_socket = bus.context.socket(zmq.DEALER)
        self._clock_socket.linger = 0
        keep_alive(self._clock_socket, self.rig_file.rig.services[self.rig_file.rig.clock.reference].control)
        if self.name != self.rig_file.rig.clock.reference:
            if self.keys:
                self.keys.trust(self._clock_socket, self.rig_file.rig.clock.reference)
            self._clock_socket.connect(self.rig_file.rig.services[self.rig_file.rig.clock.reference].control)
        gc.collect()
        self.realtime.share()
        gc.freeze()  # what is loaded by now stays; cheap, keeps full collections short
        self._health = "ready"
        self.log.info("%s is up, instance %s", self.name, self.instance)
        code = EXIT_STOPPED
        try:
            self._loop()
        except FaultError:
            code = EXIT_FAULT
        finally:
            self._leave(code)
        return code

    # ------------------------------------------------------------ the loop

    def _loop(self) -> None:
        bus, poller = self.bus, self._poller
        for sock in (*bus.peers.values(), bus.small, bus.bulk, bus.control, self._clock_socket):
            poller.register(sock, zmq.POLLIN)
        poller.register(self._wake_read.fileno(), zmq.POLLIN)
        watched: dict[int, None] = {}
        now = time.perf_counter_ns()
        next_beat = next_tick = next_clock = now
        tick_ns = int(self.service.tick_s * 1e9)
        while not self._stop.is_set():
            inputs = self._guard_inputs()
            filenos = {item.fileno(): item for item in inputs if item.fileno() >= 0}
            for gone in [f for f in watched if f not in filenos]:
                poller.unregister(gone)
                del watched[gone]
            for fileno in filenos:
                if fileno not in watched:
                    poller.register(fileno, zmq.POLLIN)
                    watched[fileno] = None
            ready = dict(poller.poll(0 if self._turned else _wait_ms(min(next_beat, next_tick, next_clock), inputs)))
            now = time.perf_counter_ns()
            standing_by = [peer for peer, sock in bus.shadows.items() if sock in ready]
            self._take_messages([peer for peer, sock in bus.peers.items() if sock in ready])
            for peer in standing_by:
                self._hear_shadow(peer)
            self._take_turned()
            for item in inputs:
                item_due = item.due_ns()
                if item.fileno() in ready or (item_due is not None and item_due <= now):
                    self._publish_all(item.read, None)
            if bus.small in ready or bus.bulk in ready:
                bus.welcome()
            if bus.control in ready:
                self._answer_requests()
            if self._clock_socket in ready:
                self._take_clock()
            if self._wake_read.fileno() in ready:
                self._wake_read.recv(4096)
            if now >= next_tick:
                next_tick = now + tick_ns
                self._publish_all(self.service.tick, None)
            if now >= next_beat:
                next_beat = max(next_beat + int(HEARTBEAT_S * 1e9), now)
                self._beat(now)
                self._tell_of_strangers(now)
                if self._probes_left > 0:
                    next_clock = now
            if now >= next_clock:
                next_clock = now + int((CLOCK_S if self.clock.is_reference else PROBE_S) * 1e9)
                self._probe_clock(now)

    def _subscribed(self, kind: type[Message]) -> bool:
        return issubclass(kind, self.service.subscribes) if self.service.subscribes else False

    def _guard_inputs(self) -> list[Input]:
        try:
            return list(self.service.inputs())
        except Exception as error:
            self._fault(error, None)

    def _take_messages(self, peers: Iterable[str]) -> None:
        taken = sum(self._take_from(peer) for peer in peers)
        if taken:
            self.metrics.queue(taken)

    def _take_from(self, peer: str) -> int:
        """Each message is handled before the next is looked for: finding none costs more than handling one."""
        to_look_at: dict[str, Envelope] = {}
        taken = 0
        self._take_turned()
        heard_on, standby = self.bus.peers[peer], self._standbys.get(peer)
        for item in self.bus.receive(heard_on):
            in_hand = self.clock.now_ns()
            taken += 1
            if isinstance(item, WireError):
                self._reject("malformed", str(item))
                continue
            header, topic = item.header, item.topic
            if not self._may_publish(peer, item):
                continue
            missed = self.sequences.check(topic, header)
            if missed is None:
                if not header.resent:
                    self._reject("duplicate", f"{topic} {header.seq} from {header.instance} came again")
                continue
            if missed:
                self.gaps += missed
                self.metrics.gap(header.source, missed)
            if standby is not None and not self._counts(standby, item):
                continue
            kind = MESSAGES[topic]
            if kind.newest and kind.bulk and not self._everything:  # stimulus itself accounts for each Show
                if topic in to_look_at:
                    self.metrics.superseded(topic)
                to_look_at[topic] = item
            else:
                self._take(item)
            self._heard[header.source] = in_hand
            tells = not header.resent and self.clock.bound_ns is not None
            self.metrics.received(topic, header.source, in_hand - header.sent_ns if tells else None)
            if self.bus.peers.get(peer) is not heard_on:  # it has just changed places
                break
        for envelope in to_look_at.values():
            self._take(envelope)
        return taken

    def _may_publish(self, peer: str, item: Envelope) -> bool:
        source, topic = item.header.source, item.topic
        if source == peer and topic.startswith((f"{peer}.", "rig.")) and (topic != Swap.topic or peer == "task"):
            return True
        self._reject("source", f"{topic} of {source[:40]!r} from {peer}, which may not publish it")
        return False

    def _hear_shadow(self, peer: str) -> None:
        """Who stands by for a peer: what it says is kept a moment for when its turn comes, and obeyed by nobody."""
        heard_on, standby = self.bus.shadows.get(peer), self._standbys[peer]
        for item in self.bus.receive(heard_on) if heard_on is not None else ():
            if isinstance(item, WireError):
                self._reject("malformed", str(item))
                continue
            if not self._may_publish(peer, item) or self.sequences.check(item.topic, item.header) is None:
                continue
            if standby.judge(item, False, time.perf_counter_ns()) == "take":
                self._take(item)  # of a frame before the exchange
                if self.bus.shadows.get(peer) is not heard_on:
                    break
                continue
            try:
                standby.keep(item)
                self.service.hear_shadow(item)
            except WireError as error:
                self._reject("malformed", str(error))
            except Exception as error:
                self._fault(error, item.header.cause)

    def _counts(self, standby: Standby, item: Envelope) -> bool:
        """Is this message of the one that acts to be taken now? One of after an exchange may have to wait a moment."""
        now_ns = time.perf_counter_ns()
        verdict = standby.judge(item, True, now_ns)
        if verdict == "hold":
            standby.hold(item, now_ns)
        elif verdict == "take":
            self._take_turned()  # what has waited comes first
        return verdict == "take"

    def _take_turned(self) -> None:
        for standby in self._standbys.values():
            self._turned += standby.released(time.perf_counter_ns())
        while self._turned:
            self._take(self._turned.popleft())

    def _take_swap(self, swap: Swap) -> None:
        """Two of a service change places, one begins to stand by, or leaves."""
        if swap.service == self.name:
            self._handed_over = swap.stage == "handover"
            return
        if swap.service not in self.bus.acting_at:
            return
        before = {*self.bus.peers.values(), *self.bus.shadows.values()}
        exchanged, gone = self.bus.swap(swap)
        for sock in gone:
            if sock in before:
                self._poller.unregister(sock)
            sock.close()
        for sock in {*self.bus.peers.values(), *self.bus.shadows.values()} - before:
            self._poller.register(sock, zmq.POLLIN)
        standby = self._standbys.setdefault(swap.service, Standby())
        if exchanged:
            self._turned += standby.exchange(swap.from_frame, time.perf_counter_ns())
            self.log.info("%s: %s acts from frame %d on", swap.service, swap.acting.publish, swap.from_frame)

    def _take(self, envelope: Envelope) -> None:
        if envelope.topic in (Session.topic, Swap.topic):
            try:
                told = envelope.message
            except WireError as error:
                self._reject("malformed", str(error))
                return
            if isinstance(told, Session):
                self.run_id = told.run_id
            elif isinstance(told, Swap):
                self._take_swap(told)
        if not self._subscribed(MESSAGES[envelope.topic]):
            return
        started = time.perf_counter_ns()

        def receive() -> Iterable[Message]:
            try:
                return list(self.service.receive(envelope))
            except WireError as error:  # a body that is not what its topic says is the sender's mistake
                self._reject("malformed", str(error))
                return ()

        self._publish_all(receive, envelope.header.cause)
        self.metrics.handled(envelope.topic, time.perf_counter_ns() - started)
        if envelope.topic == OptoCommand.topic:
            with contextlib.suppress(WireError):
                self.metrics.led_command(envelope.message.id)  # type: ignore[attr-defined]

    def _publish_all(self, call: Callable[[], Iterable[Message]], cause: Cause | None) -> None:
        try:
            for message in call():
                self._publish(message, cause)
        except FaultError:
            raise
        except Exception as error:
            self._fault(error, cause)

    def _publish(self, message: Message, cause: Cause | None = None) -> None:
        if cause is not None and message.cause is None:
            message = structs.replace(message, cause=cause)
        sent_ns = self.clock.now_ns()
        self.bus.publish(message, sent_ns)
        if isinstance(message, Swap):  # nobody hears itself
            self._take_swap(message)
        self.metrics.published(message, sent_ns)

    def _fault(self, error: Exception, cause: Cause | None) -> NoReturn:
        text = "".join(traceback.format_exception(error))
        self.log.error("%s stops: %s: %s\n%s", self.name, type(error).__name__, error, text)
        self._publish(Fault(service=self.name, error=type(error).__name__, detail=str(error), traceback=text), cause)
        raise FaultError from error

    def _reject(self, reason: str, detail: str) -> None:
        self.rejected += 1
        self.metrics.rejected(reason)
        if self.rejected & (self.rejected - 1) == 0:  # 1, 2, 4, 8, ...: a flood does not fill the log
            self.log.warning("%s rejected a message (%d so far): %s", self.name, self.rejected, detail)

    # ------------------------------------------------------------ control socket

    def _answer_requests(self) -> None:
        for _ in range(64):
            try:
                *route, data = self.bus.control.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            t1_ns = time.perf_counter_ns()
            try:
                reply = self._answer(control.decode_request(data.bytes), t1_ns, self._asker(data))
            except WireError as error:
                self._reject("request", str(error))
                reply = control.Answer(False, str(error))
            self.bus.control.send_multipart([*route, control.encode(reply)])

    def _asker(self, frame: zmq.Frame) -> str:
        """Whose key a request came with; nothing on a rig without keys."""
        return self.keys.who(str(frame.get("User-Id"))) if self.keys else ""

    def _answer(self, request: control.Request, t1_ns: int, asker: str) -> control.Reply:
        if self.keys and (refusal := self.keys.refusal(asker, request)):
            self._reject("request", f"{type(request).__name__} from {asker}: {refusal}")
            return control.Answer(False, refusal)
        if isinstance(request, control.ClockProbe):
            return control.ClockReply(request.t0_ns, t1_ns, time.perf_counter_ns())
        if isinstance(request, control.Hello):
            version = importlib.metadata.version("loop2p")
            why = self._why_not_ready()
            return control.HelloReply(
                self.name,
                self.instance,
                PROTOCOL,
                self.rig_file.hash,
                version,
                "starting" if why else self._health,
                why,
            )
        if isinstance(request, control.SnapshotRequest):
            return control.SnapshotReply(self.service.snapshot())
        if isinstance(request, control.Stop):
            self.log.info("%s is asked to stop by %s", self.name, request.by or "somebody")
            self._publish_all(self.service.go_safe, None)
            self.stop()
            return control.Answer(True)
        try:
            answer, messages = self.service.answer(request)
        except Exception as error:
            self._fault(error, None)
        self._publish_all(lambda: messages, None)
        return answer

    def _ask_peer(self, name: str, request: control.Request) -> control.Reply | None:
        spec = self.rig_file.rig.services.get(name)
        if spec is not None and hasattr(self, "bus"):
            spec = structs.replace(spec, control=self.bus.acting_at[name].control)
        try:
            return ask(spec.control, request, keys=self.keys) if spec else None
        except WireError as error:
            self._reject("reply", f"{name}: {error}")
            return None

    # ------------------------------------------------------------ clock and heartbeat

    def _probe_clock(self, now_ns: int) -> None:
        if self.name == self.rig_file.rig.clock.reference:
            self._probes_left = 0
        else:
            self._probes_left -= 1
            probe = control.encode(control.ClockProbe(time.perf_counter_ns()))
            with contextlib.suppress(zmq.Again):  # no reference yet: shows as an unknown bound
                self._clock_socket.send_multipart([b"", probe], zmq.NOBLOCK)
        if now_ns < self._tell_clock_ns and self._probes_left <= 0:
            return
        self._tell_clock_ns = now_ns + int(CLOCK_S * 1e9)
        offset_ns, bound_ns = self.clock.offset_ns, self.clock.bound_ns
        if bound_ns is not None:
            self._publish(Clock(offset_ns=offset_ns, bound_ns=bound_ns, round_trip_ns=self.clock.round_trip_ns))
        self.metrics.clock(offset_ns, bound_ns)

    def _take_clock(self) -> None:
        for _ in range(64):
            try:
                data = self._clock_socket.recv_multipart(zmq.NOBLOCK)[-1]
            except zmq.Again:
                return
            t3_ns = time.perf_counter_ns()  # of this answer, not of the first: too early a stamp would belie the bound
            try:
                reply = control.decode_reply(data)
            except WireError as error:
                self._reject("reply", str(error))
                continue
            if isinstance(reply, control.ClockReply):
                self.clock.add_exchange(reply.t0_ns, reply.t1_ns, reply.t2_ns, t3_ns)

    def _why_not_ready(self) -> list[str]:
        why = list(self.service.why_not_ready())
        if self.clock.bound_ns is None:
            why.append(f"clock: no answer yet from the reference ({self.rig_file.rig.clock.reference})")
        return why

    def _beat(self, now_ns: int) -> None:
        counters = self.service.counters()
        why = self._why_not_ready() if self._health == "ready" else []
        self._publish(
            Heartbeat(
                health="starting" if why else self._health,  # type: ignore[arg-type]
                rig_hash=self.rig_file.hash,
                run_id=self.run_id,
                why_not_ready=why,
                published={**self.bus.published},
                gaps=self.gaps,
                rejected=self.rejected,
                counters=counters,
                flushed=self.service.flushed(),
            )
        )
        self.metrics.flush()
        self.metrics.role(counters, self.service.gauges())
        self.realtime.renew()
        self.metrics.realtime(self.realtime.granted)
        if self._subscribed(Heartbeat):  # others hear a peer only when it has something to say
            now = self.clock.now_ns()
            for peer, heard in self._heard.items():
                self.metrics.heartbeat_age(peer, (now - heard) / 1e9)

    def _tell_of_strangers(self, now_ns: int) -> None:
        refused = self.bus.door.refused() if self.bus.door else []
        for _ in refused:
            self.metrics.rejected("stranger")
        for alarm in self.strangers.note(refused, now_ns / 1e9):
            self.log.warning("%s", alarm.detail)
            self._publish(alarm)

    def _take_last_words(self) -> None:
        """Recording is stopped last; what the others sent before they left may still be on its way."""
        deadline = time.perf_counter_ns() + LAST_WORDS_NS
        poller = zmq.Poller()
        for sock in self.bus.peers.values():
            poller.register(sock, zmq.POLLIN)
        with contextlib.suppress(FaultError):
            while time.perf_counter_ns() < deadline and (ready := dict(poller.poll(100))):
                self._take_messages([peer for peer, sock in self.bus.peers.items() if sock in ready])

    def _leave(self, code: int) -> None:
        """Safe, closed, counted, gone. Each step is tried whatever became of the one before."""
        self._health = "stopping"
        if code == EXIT_STOPPED and self._everything and not self._handed_over:
            self._take_last_words()
        for step in (self.service.go_safe, self.service.close):
            try:
                for message in step():
                    self._publish(message)
            except Exception:
                self.log.exception("%s: %s failed while leaving", self.name, step.__name__)
        try:
            self._health = "stopped"
            self._beat(time.perf_counter_ns())
        except Exception:
            self.log.exception("%s: no last heartbeat", self.name)
        self._clock_socket.close()
        self.bus.close()
        self.metrics.close()
        self._wake_read.close()
        self._wake_write.close()
        self.log.info("%s has left, exit code %d", self.name, code)


def _wait_ms(own_ns: int, inputs: list[Input]) -> int:
    """How long to wait for something to arrive: our own work may be up to 1 ms late, an input's may not."""
    now_ns = time.perf_counter_ns()
    dues = [due_ns for item in inputs if (due_ns := item.due_ns()) is not None]
    waits = [-((now_ns - own_ns) // 1_000_000), *((due_ns - now_ns) // 1_000_000 for due_ns in dues)]
    return max(0, min(waits))


def serve(
    name: str,
    rig_file: RigFile,
    with_parent: bool = False,
    instance: str = "",
    at: Endpoints | None = None,
    wait: bool = False,
) -> int:
    """Run a service in this process until it is told to stop; returns the exit code.

    Stops on SIGINT, SIGTERM, Windows' Ctrl-C and Ctrl-Break, a Stop request, and, `with_parent`, when standard
    input closes (the launcher is gone). `at`: bind there instead of where the rig file says. `wait`: with everything
    imported wait for a line on standard input, for the predecessor still has the endpoints.
    """
    try:
        if wait and not _wait_for_turn(name, rig_file):
            return EXIT_STOPPED
        process = Process(name, rig_file, instance, at)
        process.patience_s = PATIENCE_S if wait else 0.0
        restore = stop_on_signals(process.stop, with_parent)
        try:
            return process.run()
        finally:
            process.realtime.release()
            restore()
    except (FileError, OSError) as error:
        logging.getLogger(f"loop2p.{name}").error("%s", error)
        return EXIT_MISTAKE


def _wait_for_turn(name: str, rig_file: RigFile) -> bool:
    """Import what can be imported, say so, wait; False where standard input ends instead."""
    load(rig_file.rig.services[name].class_ or ROLES[name], f"{rig_file.path}: services.{name}.class")
    logging.getLogger(f"loop2p.{name}").info("%s waits for its turn", name)
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(sys.stdin.fileno(), 1)
        if not more:
            return False
        data += more
    return True


def stop_on_signals(stop: Callable[[], None], with_parent: bool) -> Callable[[], None]:
    """Call `stop` at SIGINT, SIGTERM, SIGBREAK or when standard input ends; returns what undoes it."""
    numbers = [n for n in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, n)]
    before = {n: signal.signal(getattr(signal, n), lambda *_: stop()) for n in numbers}
    if with_parent:

        def wait_for_parent() -> None:
            # not sys.stdin.read(): its lock would be held at interpreter exit
            while os.read(sys.stdin.fileno(), 4096):
                pass
            stop()

        threading.Thread(target=wait_for_parent, daemon=True, name="parent").start()

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)

    return restore
