"""Listening to a rig from outside: for the command line and tests."""

from collections.abc import Iterable, Iterator

import zmq

from loop2p.protocol import Envelope, Rig, WireError, open_parts


class Monitor:
    """Subscribes to all small messages of all services (or to some topics); never sends."""

    def __init__(self, rig: Rig, topics: Iterable[str] = ("",)) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        for topic in topics:
            self._socket.subscribe(topic)
        for spec in rig.services.values():
            self._socket.connect(spec.publish)

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
                _ = envelope.message
            except zmq.Again:
                return
            except WireError:
                continue
            yield envelope

    def close(self) -> None:
        self._socket.close()
        self._context.term()
