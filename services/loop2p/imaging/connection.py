"""The peers on one TCP port, listened for or connected to. Nothing here ever blocks."""

import contextlib
import errno
import os
import select
import socket
import sys
from typing import Any

from loop2p.protocol import FileError

RETRY_NS = 500_000_000
"""How long to wait before connecting again."""
GIVE_UP_NS = 2_000_000_000
"""A connect that has not been answered by then is tried anew (the machine was off, the packet lost)."""
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
"""Room for five frames while Python is busy."""


class Connection:
    """Keeps the `most` peers that come first; further ones are closed at once and counted in `refused`.

    `peers` are connected, non-blocking sockets. The owner calls `visit` now and then, and `drop` once a peer has gone.
    Raises FileError at the start if the address cannot be listened on.
    """

    def __init__(self, listen: bool, address: str, port: int, place: str, most: int = 1) -> None:
        self.peers: list[socket.socket] = []
        self.refused = 0
        self._most = most
        self.trouble = ""
        """Why the last attempt to connect failed."""
        self._listener: socket.socket | None = None
        self._trying: socket.socket | None = None
        self._tried_ns = 0
        self._next_try_ns = 0
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        except (OSError, UnicodeError) as error:
            raise FileError(f"{place}: cannot resolve the address {address!r} ({error})") from None
        self._family: int = found[0]
        self._where: Any = found[4]
        self.name = f"{address}:{port}"
        if listen:
            try:
                self._listener = _listen(self._family, self._where)
            except OSError as error:
                raise FileError(
                    f"{place}: cannot listen on {self.name} ({error.strerror}); "
                    "expected a free port and an address of this machine; is another imaging service running?"
                ) from None
            self.name = f"{address}:{self._listener.getsockname()[1]}"

    @property
    def port(self) -> int:
        """The port listened on (the real one where 0 was asked for) or connected to."""
        where = self._listener.getsockname() if self._listener else self._where
        return int(where[1])

    @property
    def peer(self) -> socket.socket | None:
        """The first peer."""
        return self.peers[0] if self.peers else None

    def fileno(self) -> int:
        """What to wait on: the first peer's data, else the listener; -1 while connecting."""
        sock = self.peer or self._listener
        return sock.fileno() if sock else -1

    def visit(self, now_ns: int) -> bool:
        """See who is there. True if a peer has just become connected. `now_ns`: time.perf_counter_ns."""
        return self._accept() if self._listener else self._connect(now_ns)

    def drop(self, peer: socket.socket, now_ns: int) -> None:
        """A peer has gone, or is no longer wanted."""
        peer.close()
        self.peers.remove(peer)
        self._next_try_ns = now_ns + RETRY_NS

    def close(self) -> None:
        """Close all sockets. May be called twice."""
        for sock in (*self.peers, self._trying, self._listener):
            if sock:
                sock.close()
        self.peers.clear()
        self._trying = self._listener = None

    def _accept(self) -> bool:
        assert self._listener
        full = len(self.peers) == self._most
        if full:
            waiting, _, _ = select.select([self._listener], [], [], 0)
            # what a peer has sent is read first: it may have hung up, and this be the same machine coming back
            if not waiting or any(_has_news(peer) for peer in self.peers):
                return False
        try:
            peer, _ = self._listener.accept()
        except OSError:  # nobody, or gone again before we looked
            return False
        if full:
            peer.close()
            self.refused += 1
            return False
        self.peers.append(_prepared(peer))
        return True

    def _connect(self, now_ns: int) -> bool:
        if self.peers:
            return False
        if self._trying is None:
            if now_ns < self._next_try_ns:
                return False
            self._trying, self._tried_ns = _data_socket(self._family), now_ns
            self._trying.setblocking(False)
            code = self._trying.connect_ex(self._where)
            if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                return self._failed(os.strerror(code), now_ns)
        _, writable, broken = select.select([], [self._trying], [self._trying], 0)
        if not writable and not broken:
            return now_ns - self._tried_ns > GIVE_UP_NS and self._failed("no answer", now_ns)
        code = self._trying.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            return self._failed(os.strerror(code), now_ns)
        try:
            # TCP lets a socket connect to itself, which happens by chance while the other side is not there and
            # its port is one of this machine's ephemeral ports (50000 is, on Linux)
            if self._trying.getsockname() == self._trying.getpeername():
                return self._failed("nobody there", now_ns)
        except OSError as error:  # gone again already
            return self._failed(os.strerror(error.errno or 0), now_ns)
        self.peers.append(_prepared(self._trying))
        self._trying, self.trouble = None, ""
        return True

    def _failed(self, trouble: str, now_ns: int) -> bool:
        assert self._trying
        self._trying.close()
        self._trying, self.trouble, self._next_try_ns = None, trouble.lower(), now_ns + RETRY_NS
        return False


def _has_news(peer: socket.socket) -> bool:
    """Something to read, or the end of it."""
    try:
        peer.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        pass
    return True


def _data_socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    _enlarge(sock)
    return sock


def _enlarge(sock: socket.socket) -> None:
    """Ask for a large receive buffer, before connect or listen so that TCP's window scale follows.

    Linux gives at most net.core.rmem_max and stops tuning the buffer by itself; where that is below what was
    asked, its own tuning (up to 6 MB) does better, so it is left alone.
    """
    if sys.platform == "linux":
        with socket.socket(sock.family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            if probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < RECEIVE_BUFFER_BYTES:
                return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _listen(family: int, where: Any) -> socket.socket:
    sock = _data_socket(family)
    try:
        if sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        sock.bind(where)
        sock.listen(4)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _prepared(sock: socket.socket) -> socket.socket:
    """Ready for data: non-blocking, no delay, and a peer whose machine or cable died is noticed within 5 s."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock
