"""What `loop2p swap` hears: whoever acts for the service, whoever stands by, and task."""

from collections.abc import Iterator

import zmq

from loop2p.protocol import Envelope, RigFile, WireError, open_parts
from loop2p.runtime.keys import Keys


class Ears:
    """A socket for each endpoint, so that who has spoken is known."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()

    def __enter__(self) -> "Ears":
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def listen(self, service: str, publish: str) -> None:
        """From now on what that service sends from there is heard."""
        if publish in self._sockets:
            return
        socket = self._sockets[publish] = self._context.socket(zmq.SUB)
        socket.subscribe("")
        if self._keys:
            self._keys.trust(socket, service)
        socket.connect(publish)
        self._poller.register(socket, zmq.POLLIN)

    def wait(self, timeout_s: float) -> Iterator[tuple[str, Envelope]]:
        """(endpoint, message) of what has come; what is no message is left out."""
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        for endpoint, socket in list(self._sockets.items()):
            if socket not in ready:
                continue
            for _ in range(256):
                try:
                    envelope = open_parts(socket.recv_multipart(zmq.NOBLOCK))
                    _ = envelope.message
                except zmq.Again:
                    break
                except WireError:
                    continue
                yield endpoint, envelope


def home(rig_file: RigFile, service: str) -> str:
    """Where the rig file says that a service publishes."""
    return rig_file.rig.services[service].publish
