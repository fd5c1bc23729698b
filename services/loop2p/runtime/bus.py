"""The ZeroMQ bus between processes: each service binds PUB, bulk PUB and control ROUTER; all others connect."""

from collections.abc import Iterator

import zmq
from msgspec import structs

from loop2p.protocol import Alarm, Envelope, Message, RigFile, ServiceSpec, WireError, open_parts, seal

SMALL_HWM = 20_000
BULK_HWM = 64
"""Messages a slow subscriber may lag before it loses some; what it loses, it sees as gaps."""
BATCH = 256


class Bus:
    """The sockets of one service."""

    def __init__(self, name: str, instance: str, spec: ServiceSpec) -> None:
        self.name, self.instance = name, instance
        self.context = zmq.Context()
        self.published: dict[str, int] = {}
        self._state: dict[tuple[str, str], Envelope] = {}
        self.small = self._bind(zmq.XPUB, spec.publish, SMALL_HWM)
        self.bulk = self._bind(zmq.XPUB, spec.bulk, BULK_HWM)
        self.control = self._bind(zmq.ROUTER, spec.control, 1000)
        self.peers: dict[str, zmq.Socket[bytes]] = {}
        """What each other service sends, each on a socket of its own: so who sent a message is known, not believed."""
        for socket in (self.small, self.bulk):
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # hear of every new subscriber, to send it the state

    def _bind(self, kind: int, endpoint: str, hwm: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.sndhwm = socket.rcvhwm = hwm
        socket.linger = 1000
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.context.destroy(linger=0)
            raise OSError(
                f"{self.name}: can't bind {endpoint}: {error}. Is this rig running already, or the port taken?"
            ) from None
        return socket

    def connect(self, rig_file: RigFile, topics: set[str] | None) -> None:
        """Subscribe to topics (None: all) of every other service that may publish them."""
        for peer, spec in rig_file.rig.services.items():
            wanted = {""} if topics is None else {t for t in topics if t.startswith((f"{peer}.", "rig."))}
            if peer == self.name or not wanted:
                continue
            socket = self.peers[peer] = self.context.socket(zmq.SUB)
            socket.rcvhwm = SMALL_HWM
            for topic in wanted:
                socket.subscribe(topic)
            socket.connect(spec.publish)
            if topics is None or wanted & {"imaging.preview", "imaging.raw"}:
                socket.connect(spec.bulk)

    def publish(self, message: Message, sent_ns: int) -> Envelope:
        """Send a message to whoever listens; never blocks."""
        topic = message.topic
        seq = self.published.get(topic, 0)
        self.published[topic] = seq + 1
        envelope = seal(message, self.name, self.instance, seq, sent_ns)
        if message.state:
            key = message.code if isinstance(message, Alarm) else ""
            self._state[topic, key] = envelope
        socket = self.bulk if message.bulk else self.small
        socket.send_multipart(envelope.parts(), copy=not envelope.buffers)
        return envelope

    def welcome(self) -> None:
        """Send the state to those who have just subscribed."""
        prefixes = set()
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

    def receive(self, peer: str) -> Iterator[Envelope | WireError]:
        """What of a peer is waiting, at most a batch; malformed messages come as the error they are."""
        socket = self.peers[peer]
        for _ in range(BATCH):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield open_parts(parts)
            except WireError as error:
                yield error

    def close(self) -> None:
        """Send what is still queued (1 s at most) and release the sockets."""
        for socket in self.peers.values():
            socket.close(linger=0)
        self.context.destroy()
