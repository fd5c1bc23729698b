"""The ZeroMQ bus between processes: each service binds PUB, bulk PUB and control ROUTER; all others connect."""

import os
from collections.abc import Iterator

import zmq
from msgspec import structs

from loop2p.protocol import (
    MESSAGES,
    Alarm,
    Endpoints,
    Envelope,
    Message,
    RigFile,
    ServiceSpec,
    Swap,
    WireError,
    open_parts,
    seal,
)
from loop2p.protocol.rig import is_here
from loop2p.runtime.keys import Doorkeeper, Keys

SMALL_HWM = 20_000
BULK_HWM = 64
"""Messages a slow subscriber may lag before it loses some; what it loses, it sees as gaps."""
BATCH = 256
BULK = {topic.encode() for topic, kind in MESSAGES.items() if kind.bulk}
"""Pixels, not copied out of ZeroMQ's memory."""
MOST_BYTES = 2**20
"""Whoever sends a larger request is cut off. Not for what is subscribed to: a subscriber that cuts off its publisher
never comes back to it, so there a message that is too large is refused once it is read (protocol/wire.py)."""
HEARTBEAT_MS, SILENT_MS = 500, 1500
"""A connection that leaves the machine is asked for a sign of life so often, and given up after so long without one: a
cable that is cut shows no other way, and TCP alone would go on waiting for minutes."""
RECONNECT_MS, RECONNECT_MAX_MS, CONNECT_MS = 100, 1000, 1000
"""It is tried again so soon, after at most so long, and each try ends after so long: back about 1 s after the cable."""


def keep_alive(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
    """Let a connection that leaves the machine notice a cut and come back by itself. To be called before bind, connect.

    What was under way in a cut is lost, and seen as gaps in the sequence; a connection within the machine can't be cut.
    """
    if is_here(endpoint):
        return
    socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, SILENT_MS
    socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
    socket.connect_timeout = CONNECT_MS


class Bus:
    """The sockets of one service."""

    def __init__(
        self, name: str, instance: str, spec: ServiceSpec, keys: Keys | None = None, realtime_priority: int = 0
    ) -> None:
        """`realtime_priority`: of ZeroMQ's own threads, once it was granted to this process; 0: as everybody."""
        self.name, self.instance, self.keys = name, instance, keys
        self.context = zmq.Context()
        if realtime_priority and hasattr(os, "SCHED_RR"):
            self.context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_RR)
            self.context.set(zmq.THREAD_PRIORITY, realtime_priority)
        self.published: dict[str, int] = {}
        self._state: dict[tuple[str, str], Envelope] = {}
        self.door = Doorkeeper(self.context, keys) if keys else None
        self.small = self._bind(zmq.XPUB, spec.publish, SMALL_HWM)
        self.bulk = self._bind(zmq.XPUB, spec.bulk, BULK_HWM)
        self.control = self._bind(zmq.ROUTER, spec.control, 1000)
        self.peers: dict[str, zmq.Socket[bytes]] = {}
        """What each other service sends, each on a socket of its own: so who sent a message is known, not believed."""
        self.shadows: dict[str, zmq.Socket[bytes]] = {}
        """What those send who stand by for a service (rig.swap): heard, and obeyed by nobody."""
        self.acting_at: dict[str, Endpoints] = {}
        """Where the services are that act: the rig file's endpoints, until a swap."""
        self._shadow_at: dict[str, Endpoints] = {}
        self._wanted: dict[str, set[str]] = {}
        for socket in (self.small, self.bulk):
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # hear of every new subscriber, to send it the state

    def _bind(self, kind: int, endpoint: str, hwm: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.sndhwm = socket.rcvhwm = hwm
        socket.linger = 1000
        socket.maxmsgsize = MOST_BYTES
        if self.door:
            self.door.guard(socket)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            if self.door:
                self.door.close()
            self.context.destroy(linger=0)
            raise OSError(
                f"{self.name}: can't bind {endpoint}: {error}. Is this rig running already, or the port taken?"
            ) from None
        return socket

    def connect(self, rig_file: RigFile, topics: set[str] | None) -> None:
        """Subscribe to topics (None: all) of every other service that may publish them."""
        for peer, spec in rig_file.rig.services.items():
            self.acting_at[peer] = Endpoints(spec.publish, spec.bulk, spec.control)
            wanted = {""} if topics is None else {t for t in topics if t.startswith((f"{peer}.", "rig."))}
            if peer == self.name or not wanted:
                continue
            self._wanted[peer] = wanted
            self.peers[peer] = self._listen(peer, self.acting_at[peer])

    def _listen(self, peer: str, at: Endpoints) -> zmq.Socket[bytes]:
        """A socket that hears one peer."""
        socket, wanted = self.context.socket(zmq.SUB), self._wanted[peer]
        socket.rcvhwm = SMALL_HWM
        socket.linger = 0
        keep_alive(socket, at.publish)
        if self.keys:
            self.keys.trust(socket, peer)
        for topic in wanted:
            socket.subscribe(topic)
        socket.connect(at.publish)
        if wanted & {"", "imaging.preview", "imaging.raw"}:
            socket.connect(at.bulk)
        return socket

    def swap(self, swap: Swap) -> tuple[bool, list[zmq.Socket[bytes]]]:
        """Do what rig.swap says: (have two changed places?, sockets that are not needed any more, still open).

        The two sockets change places as they are: nothing is connected anew, and nothing is lost.
        """
        name, gone = swap.service, []
        if self.keys:
            for at in (swap.acting, swap.shadow or swap.acting):
                self.keys.learn(name, (at.publish, at.bulk, at.control))
        exchanged = self._shadow_at.get(name) == swap.acting
        if exchanged:
            self._shadow_at[name], self.acting_at[name] = self.acting_at[name], swap.acting
            if name in self.peers:
                self.peers[name], self.shadows[name] = self.shadows[name], self.peers[name]
        elif self.acting_at[name] != swap.acting:  # we have joined late, or it came back to the rig file's endpoints
            self.acting_at[name] = swap.acting
            if name in self.peers:
                gone.append(self.peers[name])
                self.peers[name] = self._listen(name, swap.acting)
        if self._shadow_at.get(name) != swap.shadow:
            self._shadow_at.pop(name, None)
            if name in self.shadows:
                gone.append(self.shadows.pop(name))
            if swap.shadow is not None:
                self._shadow_at[name] = swap.shadow
                if name in self.peers:
                    self.shadows[name] = self._listen(name, swap.shadow)
        return exchanged, gone

    def publish(self, message: Message, sent_ns: int) -> Envelope:
        """Send a message to whoever listens; never blocks."""
        topic = message.topic
        seq = self.published.get(topic, 0)
        self.published[topic] = seq + 1
        envelope = seal(message, self.name, self.instance, seq, sent_ns)
        if message.state:
            key = message.code if isinstance(message, Alarm) else message.service if isinstance(message, Swap) else ""
            self._state[topic, key] = envelope
        socket = self.bulk if message.bulk else self.small
        socket.send_multipart(envelope.parts(), copy=not envelope.buffers)
        return envelope

    def welcome(self) -> set[str]:
        """Send the state to those who have just subscribed; returns to what."""
        prefixes: set[str] = set()
        for socket in (self.small, self.bulk):
            while socket.poll(0, zmq.POLLIN):
                event = socket.recv()
                if event[:1] == b"\x01":
                    prefixes.add(event[1:].decode("ascii", "replace"))
        again = [e for e in self._state.values() if any(e.topic.startswith(p) for p in prefixes)]
        for envelope in sorted(again, key=lambda e: (e.topic, e.header.seq)):
            header = structs.replace(envelope.header, resent=True)
            parts = Envelope(envelope.topic, header, envelope.body, envelope.buffers).parts()
            self.small.send_multipart(parts)
        return prefixes

    @staticmethod
    def receive(socket: zmq.Socket[bytes]) -> Iterator[Envelope | WireError]:
        """What of a peer is waiting, at most a batch; malformed messages come as the error they are."""
        for _ in range(BATCH):
            try:
                topic = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield open_parts([topic, *_rest(socket, topic in BULK)])
            except WireError as error:
                yield error

    def close(self) -> None:
        """Send what is still queued (1 s at most) and release the sockets."""
        for socket in (*self.peers.values(), *self.shadows.values()):
            socket.close(linger=0)
        if self.door:
            self.door.close()
        self.context.destroy()


def _rest(socket: zmq.Socket[bytes], bulk: bool) -> list[bytes | memoryview]:
    """What follows a message's topic; of a bulk message views of ZeroMQ's memory."""
    if not socket.getsockopt(zmq.RCVMORE):
        return []
    if not bulk:
        return list(socket.recv_multipart())
    return [frame.buffer for frame in socket.recv_multipart(copy=False)]
