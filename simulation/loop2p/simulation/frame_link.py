"""Frames on their way to the rig, and which of them the rig means."""

import threading
import time
from collections import deque

from loop2p.protocol import Cause
from loop2p.simulation.sender import Sender

MOST_WAITING = 62
"""Frames kept for a rig that does not read (2 s); then the connection is given up, so that no gap goes unseen."""


class FrameIndex:
    """Which of the microscope's frames imaging means by an index.

    Imaging counts from 0 at the first connection, and so does the scan. After a reconnect, or in another imaging
    process, its count is another. Then the frame that started last before `arrival_ns` is taken for the cause's; as
    arrivals can only be late, the smallest difference seen is the true one. Needs one clock for both, as on one PC;
    else the indices are taken to be equal.
    """

    def __init__(self) -> None:
        self._ahead = 0
        """How far our index is ahead of imaging's."""
        self._since_ns: int | None = None
        self._unknown = False
        self._starts: deque[tuple[int, int]] = deque(maxlen=256)

    def started(self, frame: int, now_ns: int) -> None:
        """A frame is about to be sent."""
        self._starts.append((now_ns, frame))

    def dropped(self) -> None:
        """The frame is not sent, on purpose, and imaging does not count it."""
        self._ahead += 1

    def connected_again(self, now_ns: int) -> None:
        """Imaging may count differently from here."""
        self._since_ns, self._unknown = now_ns, True

    def frame(self, cause: Cause) -> int:
        """The microscope's own index of the cause's frame."""
        if self._since_ns is not None and self._since_ns <= cause.arrival_ns <= time.perf_counter_ns():
            begun = [frame for start_ns, frame in self._starts if start_ns <= cause.arrival_ns]
            if begun:
                ahead = begun[-1] - cause.frame
                self._ahead = ahead if self._unknown else min(self._ahead, ahead)
                self._unknown = False
        return cause.frame + self._ahead


class FrameLink:
    """Brings frames to the rig in a thread of its own, so that a rig that hangs or is away never holds up the scan."""

    def __init__(self, sender: Sender, announce_planes: int) -> None:
        """`announce_planes`: sends a handshake with this number of planes at each connection; 0: none."""
        self.sent = 0
        self.connections = 0
        self.connected = False
        self._sender, self._announce = sender, announce_planes
        self._waiting: deque[tuple[int, bytes | memoryview, bool]] = deque()
        self._news = threading.Condition()
        self._overflow = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="frame-link", daemon=True)
        self._thread.start()

    def offer(self, plane: int, data: bytes | memoryview, cut: bool = False) -> None:
        """Send a frame as soon as the rig takes it; lost if nobody is there. `cut`: half of it, then hang up."""
        with self._news:
            if self.connected and not self._overflow:
                self._overflow = len(self._waiting) >= MOST_WAITING
                self._waiting.append((plane, data, cut))
                self._news.notify()

    def close(self) -> None:
        """Hang up. A frame on its way to a rig that hangs is given up after 1 s."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(1.0)
        self._sender.close()

    def _work(self) -> None:
        while not self._closing:
            try:
                self._sender.open(0.1)
                if self._announce:
                    self._sender.handshake(0, 0, self._announce)
                self._serve()
            except OSError:
                self._pause()
            finally:
                with self._news:
                    self.connected = self._overflow = False
                    self._waiting.clear()
                self._sender.hang_up()

    def _serve(self) -> None:
        """One connection, from its first frame of plane 0 to its end. Raises OSError when the rig has gone."""
        with self._news:
            self.connected = True
            self.connections += 1
        begun = False
        while not self._closing and not self._overflow:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                plane, data, cut = self._waiting.popleft()
            begun = begun or plane == 0
            if cut:
                self._sender.send(data[: len(data) // 2])
                return
            if begun:
                self._sender.send(data)
                self.sent += 1

    def _pause(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self._closing, 0.3)
