"""Listening to a rig from outside: for the command line and tests."""

from collections.abc import Iterable, Iterator

import zmq

from loop2p.protocol import Envelope, Rig, Swap, WireError, open_parts
from loop2p.runtime.keys import Keys


class Monitor:
    """Subscribes to all small messages of all services (or to some topics); never sends.

    Follows rig.swap to whoever acts for a service.
    """

    def __init__(self, rig: Rig, topics: Iterable[str] = ("",), keys: Keys | None = None) -> None:
        """`keys`: of the listener, on a rig that has keys."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        self._topics = tuple(topics)
        for topic in (*self._topics, Swap.topic):
            self._socket.subscribe(topic)
        self._keys = keys
        self._at: dict[str, str] = {}
        for name, spec in rig.services.items():
            self._connect(name, spec.publish)

    def _connect(self, name: str, publish: str) -> None:
        if self._keys:
            self._keys.trust(self._socket, name)
        self._socket.connect(publish)
        self._at[name] = publish

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, timeout_s: float) -> Iterator[Envelope]:
        """What has come, after waiting at most `timeout_s` for the first; malformed messages are left out."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return
        for _ in range(1000):
            try:
                envelope = open_parts(self._socket.recv_multipart(zmq.NOBLOCK))
                message = envelope.message
            except zmq.Again:
                return
            except WireError:
                continue
            if isinstance(message, Swap):
                self._follow(message)
            if envelope.topic.startswith(self._topics):
                yield envelope

    def _follow(self, swap: Swap) -> None:
        before = self._at.get(swap.service)
        if before is not None and before != swap.acting.publish:
            self._socket.disconnect(before)
            self._connect(swap.service, swap.acting.publish)

    def close(self) -> None:
        self._socket.close()
        self._context.term()
