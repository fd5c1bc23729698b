"""A cable as a program: Ethernet frames from one TAP device to another, later, or never. Python and the kernel alone.

    python wire.py NEAR FAR SEED

makes both devices, says "ready", and takes its conditions from standard input, a JSON object a line (see
`Conditions`); it answers each line with its counts. It ends when standard input does.

Frames never overtake one another: one that is due earlier waits for the one before it, as on a real wire.
"""

import contextlib
import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
MOST_FRAMES = 20_000
"""In flight in one direction: as many as a second of 1500-byte frames at 240 Mbit/s."""


class Way:
    """One direction."""

    def __init__(self, source: int, sink: int, seed: str) -> None:
        self.source, self.sink, self.random = source, sink, random.Random(seed)
        self.delay_s = self.jitter_s = self.loss = 0.0
        self.cut = False
        self.queue: deque[tuple[float, bytes]] = deque()
        self.counts = {"passed": 0, "lost": 0, "cut": 0, "overflowed": 0}

    def take(self, now: float) -> None:
        """A frame came in: lost, or put on its way."""
        while True:
            try:
                frame = os.read(self.source, 65536)
            except BlockingIOError:
                return
            except OSError:  # the device is down
                return
            lost, delay_s = self.random.random() < self.loss, self.delay_s
            delay_s += self.random.uniform(-self.jitter_s, self.jitter_s)
            if self.cut:
                self.counts["cut"] += 1
            elif lost:
                self.counts["lost"] += 1
            elif len(self.queue) >= MOST_FRAMES:
                self.counts["overflowed"] += 1
            else:
                last = self.queue[-1][0] if self.queue else 0.0
                self.queue.append((max(now + delay_s, last), frame))

    def give(self, now: float) -> None:
        """What is due comes out."""
        while self.queue and self.queue[0][0] <= now:
            try:
                os.write(self.sink, self.queue.popleft()[1])
                self.counts["passed"] += 1
            except OSError:  # the device is down
                self.counts["cut"] += 1


class Conditions:
    """What may be said of the wire: "delay_ms", "jitter_ms" (uniform, +-), "loss" (of frames, 0 to 1) hold for both
    ways, or as "there" and "back" objects for one; "cut": true for a cable that is out, with all that is in flight."""

    def __init__(self, there: Way, back: Way) -> None:
        self.ways = {"there": there, "back": back}

    def take(self, said: dict[str, object]) -> None:
        for name, way in self.ways.items():
            own = said.get(name, {})
            assert isinstance(own, dict)
            now = said | own
            way.delay_s = float(now.get("delay_ms", 1e3 * way.delay_s)) / 1e3  # type: ignore[arg-type]
            way.jitter_s = float(now.get("jitter_ms", 1e3 * way.jitter_s)) / 1e3  # type: ignore[arg-type]
            way.loss = float(now.get("loss", way.loss))  # type: ignore[arg-type]
            way.cut = bool(now.get("cut", way.cut))
            if way.cut:
                way.counts["cut"] += len(way.queue)
                way.queue.clear()


def tap(name: str) -> int:
    """A new TAP device of that name, not blocking."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def main(near: str, far: str, seed: str) -> None:
    if hasattr(os, "SCHED_RR"):  # a cable waits for no processor
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(20))
    a, b = tap(near), tap(far)
    there, back = Way(a, b, f"{seed} there"), Way(b, a, f"{seed} back")
    conditions = Conditions(there, back)
    print("ready", flush=True)
    while True:
        due = [way.queue[0][0] for way in (there, back) if way.queue]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select([a, b, sys.stdin.fileno()], [], [], wait_s)
        now = time.monotonic()
        for way in (there, back):
            if way.source in ready:
                way.take(now)
            way.give(time.monotonic())
        if sys.stdin.fileno() in ready:
            line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
            if not line:
                return
            conditions.take(json.loads(line))
            print(json.dumps({name: way.counts for name, way in conditions.ways.items()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
