"""A clock that runs at another rate, by libfaketime; and what such a clock truly shows.

Every process of the host shares one start of the fake time, as it would share one crystal: libfaketime keeps it in
shared memory, which the `faketime` program of this class holds. Its monotonic clock then shows about the wall time, so
the host's offset is decades. What does not work there: a wait for a lock with a time limit (it never ends, since
`sem_clockwait` knows nothing of the fake clock); sockets, pollers and sleep do.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from needs import lacking

from lab.host import Host

READ_TRUTH = """
import ctypes, json, time
class T(ctypes.Structure): _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
call = ctypes.CDLL(None, use_errno=True).syscall
def kernel(t=T()):
    call(228, 1, ctypes.byref(t))  # clock_gettime(CLOCK_MONOTONIC), past libfaketime
    return t.s * 10**9 + t.ns
def once():
    a, shown, b = kernel(), time.perf_counter_ns(), kernel()
    return b - a, (a + b) // 2, shown
print(json.dumps(min(once() for _ in range(300))))
"""
"""The shortest of 300 looks at both clocks: how long it took (ns), the kernel's, the shown."""


class Drift:
    """From now on the processes of `host` see a clock that runs `ppm` too fast."""

    def __init__(self, host: Host, ppm: float) -> None:
        if shutil.which("faketime") is None:
            lacking("a clock that drifts needs libfaketime (Debian: faketime)")
        self.host, self.ppm, self.rate = host, ppm, 1 + ppm * 1e-6
        words = ["faketime", "-f", f"+0s x{self.rate:.9f}", "cat"]
        # in the host's time, but not among its processes: names in shared memory come from process numbers
        self._holder = subprocess.Popen(
            ["nsenter", "-t", str(host.pid), "-T", "--", *words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        host.env |= self._environment()
        self._took_ns, self._kernel_ns, self._shown_ns = json.loads(self._look())

    def _environment(self) -> dict[str, str]:
        """Of the holder's child, as soon as it is there."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for pid in _descendants(self._holder.pid):
                text = Path(f"/proc/{pid}/environ").read_bytes().decode()
                found = dict(item.split("=", 1) for item in text.split("\0") if "=" in item)
                if "FAKETIME_SHARED" in found:
                    return {name: found[name] for name in ("FAKETIME_SHARED", "FAKETIME", "LD_PRELOAD")}
        raise RuntimeError("faketime did not start within 10 s")

    def _look(self) -> bytes:
        process = self.host.start(sys.executable, "-S", "-c", READ_TRUTH, stdout=subprocess.PIPE)
        return process.communicate(timeout=60)[0]

    def ours_ns(self, shown_ns: int) -> int:
        """Our perf_counter when the host's showed `shown_ns`; right to the microsecond or two of the first look."""
        since_ns = shown_ns - self._shown_ns
        return self._kernel_ns + since_ns - round(since_ns * (1 - 1 / self.rate)) - self.host.offset_s * 10**9

    def check_ns(self) -> int:
        """Look again: how far `ours_ns` is off now."""
        took_ns, kernel_ns, shown_ns = json.loads(self._look())
        return abs(self.ours_ns(shown_ns) - (kernel_ns - self.host.offset_s * 10**9)) + took_ns + self._took_ns

    def close(self) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(10)
        for name in self.host.env.pop("FAKETIME_SHARED", "").split():
            for path in (f"/dev/shm/{name[1:]}", f"/dev/shm/sem.{name[1:]}"):
                if os.path.exists(path):
                    os.unlink(path)


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [pid, *(d for child in children for d in _descendants(child))]
