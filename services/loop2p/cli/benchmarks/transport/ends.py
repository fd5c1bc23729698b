"""The two ends of a transport, each a process of its own, and who orders them about.

python -m loop2p.cli.benchmarks.transport.ends send|receive KIND PLACE: a sender takes orders on standard input
("BURST N RATE_HZ BYTES") and says "done"; a receiver says "up", then one JSON line for each burst.
"""

import importlib
import json
import queue
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, Self

HEAD = struct.Struct("<qq")
"""What every payload begins with: when it was sent (perf_counter_ns, one clock on a machine), and its number."""
A_BURST = 1_000_000
"""Message k of burst b has the number b * A_BURST + k; the last numbers of a burst say that it is over."""
OVER = 10
"""So often it is said: a transport may lose some."""
OVER_HZ = 50.0
PATIENCE_S = 60.0

Send = Callable[[bytearray], None]
Note = Callable[[int, int], None]
"""Takes sent_ns and the number of a payload that is in hand."""


class Transport(Protocol):
    """How one transport is used: two functions of a module in this folder."""

    def send(self, place: str, up: Callable[[], None]) -> None:
        """Say `up`, then obey the orders on standard input until it ends (`obey`)."""
        ...

    def receive(self, place: str, up: Callable[[], None], note: Note) -> None:
        """Say `up` once connected, then note whatever comes, until the process is ended."""
        ...


def transport(kind: str) -> Transport:
    """A module of this folder."""
    return importlib.import_module(f"loop2p.cli.benchmarks.transport.{kind}")


def burst(order: str) -> Iterator[tuple[float, bytearray, int]]:
    """How long to wait (s), a payload in memory of its own, its number; at the end those that say that it is over."""
    at, n, rate_hz, n_bytes = (kind(x) for kind, x in zip((int, int, float, int), order.split(), strict=True))
    begun_s = time.perf_counter()
    for k in range(int(n) + OVER):
        due_s = begun_s + min(k, n) / rate_hz + max(0, k - n + 1) / OVER_HZ
        payload = bytearray(int(n_bytes))
        index = k if k < n else A_BURST - OVER + (k - n)
        yield max(0.0, due_s - time.perf_counter()), payload, int(at * A_BURST + index)


def stamp(payload: bytearray, number: int) -> bytearray:
    HEAD.pack_into(payload, 0, time.perf_counter_ns(), number)
    return payload


def obey(up: Callable[[], None], send: Send) -> None:
    """A sender's work, where sending is a plain call."""
    up()
    for order in sys.stdin:
        for wait_s, payload, number in burst(order):
            time.sleep(wait_s)
            send(stamp(payload, number))
        print("done", flush=True)


class Tally:
    """What a receiver has of the burst that is under way; printed when it is over."""

    def __init__(self) -> None:
        self._number = -1
        self._took: dict[int, int] = {}

    def note(self, sent_ns: int, number: int) -> None:
        now_ns = time.perf_counter_ns()
        at, index = divmod(number, A_BURST)
        if index < A_BURST - OVER:
            self._took.setdefault(number, now_ns - sent_ns)
        elif at > self._number:
            self._number = at
            took, self._took = [ns for k, ns in self._took.items() if k // A_BURST == at], {}
            print(json.dumps({"burst": at, "took_ns": took}), flush=True)


class Heard(NamedTuple):
    """What one receiver had of a burst."""

    took_ns: list[int]
    lost: int


class Ends:
    """One sender and some receivers of a transport, as processes."""

    def __init__(self, kind: str, place: str, n_bytes: int, receivers: list[str] | None = None) -> None:
        """`place`: for the sender, and for the receivers unless they have their own."""
        self.kind, self.n_bytes = kind, n_bytes
        self._burst = 0
        self.sender = _start("send", kind, place)
        self.receivers = [_start("receive", kind, where) for where in (receivers or [place])]
        self._said: list[queue.Queue[str]] = []
        for process in (self.sender, *self.receivers):
            said: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_listen, args=(process, said), daemon=True).start()
            self._said.append(said)

    def __enter__(self) -> Self:
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        """Until every receiver hears the sender. Raises RuntimeError."""
        for said in self._said:
            self._wait(said, time.monotonic() + PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        deaf = True
        while deaf:
            heard = self.burst(5, 50.0, settle_s=0.5)
            deaf = any(one is None or one.lost for one in heard)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind}: not every receiver hears the sender within {PATIENCE_S:g} s: {heard}")

    def measure(self, n: int, rate_hz: float) -> list[Heard]:
        """A burst of n messages, as each receiver had it. Raises RuntimeError where one does not answer."""
        heard = self.burst(n, rate_hz, settle_s=PATIENCE_S)
        if any(one is None for one in heard):
            raise RuntimeError(f"{self.kind}: a receiver did not hear the end of the burst within {PATIENCE_S:g} s")
        return [one for one in heard if one is not None]

    def burst(self, n: int, rate_hz: float, settle_s: float) -> list[Heard | None]:
        """`settle_s`: how long after the last message a receiver is waited for; None for one that says nothing."""
        self._burst += 1
        assert self.sender.stdin is not None
        self.sender.stdin.write(f"{self._burst} {n} {rate_hz} {self.n_bytes}\n")
        self.sender.stdin.flush()
        self._wait(self._said[0], time.monotonic() + n / rate_hz + PATIENCE_S)
        deadline = time.monotonic() + settle_s
        return [self._heard(said, n, deadline) for said in self._said[1:]]

    def _heard(self, said: queue.Queue[str], n: int, deadline: float) -> Heard | None:
        while True:
            try:
                line = said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if not line:
                raise RuntimeError(f"{self.kind}: a receiver has ended; what it said is above")
            found = json.loads(line)
            if found["burst"] == self._burst:  # else: of an earlier one, late
                return Heard(found["took_ns"], n - len(found["took_ns"]))

    def _wait(self, said: queue.Queue[str], deadline: float) -> None:
        try:
            line = said.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise RuntimeError(f"{self.kind}: an end says nothing for {PATIENCE_S:g} s") from None
        if not line:
            raise RuntimeError(f"{self.kind}: an end has left; what it said is above")

    def close(self) -> None:
        for process in (self.sender, *self.receivers):
            process.kill()  # nothing is at stake, and some libraries take their time to leave
        for process in (self.sender, *self.receivers):
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _start(role: str, kind: str, place: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "loop2p.cli.benchmarks.transport.ends", role, kind, place]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _listen(process: "subprocess.Popen[str]", said: queue.Queue[str]) -> None:
    """Pass on what a process says, and "" at its end."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            said.put(line)
    except ValueError:  # closed by us
        pass
    said.put("")


def up() -> None:
    print("up", flush=True)


def main(role: str, kind: str, place: str) -> None:
    if role == "send":
        transport(kind).send(place, up)
    else:
        transport(kind).receive(place, up, Tally().note)


if __name__ == "__main__":
    main(*sys.argv[1:])
