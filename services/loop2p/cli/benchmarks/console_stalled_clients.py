"""Browsers of the page for `console_stalled`, a process of their own. PORT, then "stalled" or nothing.

One reads all it gets. The other, where there is one, asks for the live stream and reads none of it; when it is cut off
it comes again. Both are there when "connected" is printed; they leave when standard input ends, and print JSON.
"""

import contextlib
import json
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

SMALL_BYTES = 4096
"""Receive buffer that is asked for; the system doubles it."""
LOOK_S = 0.2
FULL_S = 5.0
"""After so long the buffers are full, and what is in them is counted, once: reading the system's table of connections
takes 9 ms of a processor (measured), which would itself be seen in the loop's latency."""
TCP = Path("/proc/net/tcp")


def held_bytes(server_port: int, client_port: int) -> int | None:
    """What the system holds for a client on 127.0.0.1, at both ends; None where it does not tell (not Linux)."""
    if not TCP.exists():
        return None
    held = 0
    for line in TCP.read_text("ascii").splitlines()[1:]:
        _, here, there, _, queues, *_ = line.split()
        ports = int(here.split(":")[1], 16), int(there.split(":")[1], 16)
        to_send, to_read = (int(part, 16) for part in queues.split(":"))
        if ports == (server_port, client_port):
            held += to_send
        elif ports == (client_port, server_port):
            held += to_read
    return held


def upgrade(port: int) -> socket.socket:
    """A connection that has asked for the live stream and read the answer's first byte alone."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    try:
        sock.connect(("127.0.0.1", port))
        lines = ["GET /live HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}"]
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
        sock.sendall("\r\n".join(lines).encode())
        sock.recv(1)
    except OSError:
        sock.close()
        raise
    return sock


class Stalled:
    """Never reads; comes again when it is cut off."""

    def __init__(self, port: int) -> None:
        self.port, self.cut_off, self.stalled_s, self.most_held_bytes = port, 0, 0.0, 0
        self.ports: list[int] = []

    def run(self, there: threading.Event, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with upgrade(self.port) as sock:
                    there.set()
                    self._stand(sock, stop)
            except OSError:  # the page leaves
                stop.wait(LOOK_S)

    def _stand(self, sock: socket.socket, stop: threading.Event) -> None:
        begun_s, own = time.monotonic(), sock.getsockname()[1]
        self.ports.append(own)
        poll = select.poll()
        poll.register(sock, 0)  # nothing but the end of the connection
        counted = False
        while not stop.is_set():
            if poll.poll(1000 * LOOK_S):
                self.cut_off += 1
                break
            if not counted and time.monotonic() - begun_s > FULL_S:
                counted = True
                self.most_held_bytes = max(self.most_held_bytes, held_bytes(self.port, own) or 0)
        self.stalled_s += time.monotonic() - begun_s


def healthy(port: int) -> ClientConnection:
    """A browser as it should be, once the page is there."""
    deadline = time.monotonic() + 60
    origin: Any = f"http://127.0.0.1:{port}"
    while True:
        try:
            return connect(f"ws://127.0.0.1:{port}/live", origin=origin, compression=None, max_size=None)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def until_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main(port: int, with_stalled: bool) -> None:
    stop, there, stalled = threading.Event(), threading.Event(), Stalled(port)
    with healthy(port) as reads:
        others = [threading.Thread(target=until_end_of_input, args=(stop,))]
        others += [threading.Thread(target=stalled.run, args=(there, stop))] if with_stalled else []
        for other in others:
            other.start()
        if with_stalled and not there.wait(60):
            raise TimeoutError(f"no second connection to 127.0.0.1:{port} within 60 s")
        print("connected", flush=True)
        while not isinstance(reads.recv(timeout=60), bytes):  # not counted: what was there before it
            pass
        begun_s, rows, pictures, size = time.monotonic(), 0, 0, 0
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                message = reads.recv(timeout=LOOK_S)
                size += len(message)
                if isinstance(message, bytes):
                    pictures += 1
                elif message.startswith('{"kind":"samples"'):
                    rows += len(json.loads(message)["rows"])
        took_s = time.monotonic() - begun_s
    for other in others:
        other.join()
    told = {"rows_per_s": rows / took_s, "pictures_per_s": pictures / took_s, "kb_per_s": size / took_s / 1e3}
    if with_stalled:
        told |= {key: getattr(stalled, key) for key in ("cut_off", "stalled_s", "most_held_bytes", "ports")}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), "stalled" in sys.argv[2:])
