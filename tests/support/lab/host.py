"""One machine: a network, process and time namespace that lives as long as its first process does.

That process (`cat`) ends when its standard input does, so with the test that holds the other end, however that dies;
and after LIFE_S in any case. With it the kernel ends every process of the machine and removes its interfaces.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIFE_S = 5400
"""A machine that somebody forgot ends by itself."""
CLONE_NEWNET = 0x40000000
TOOLS = ("unshare", "nsenter", "ip", "timeout", "cat")


def why_not_here() -> str:
    """What keeps this machine from making namespaces, TAP devices and clocks; empty if nothing does."""
    if sys.platform != "linux":
        return f"the network laboratory is made of Linux namespaces, this is {sys.platform}"
    if os.geteuid() != 0:
        return "the network laboratory makes namespaces and TAP devices, which only root may"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"the network laboratory needs {', '.join(absent)} (Debian: util-linux, iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "the network laboratory needs /dev/net/tun"
    done = subprocess.run([*_unshare(0), "true"], capture_output=True, text=True, timeout=30)
    return f"namespaces can't be made here: {done.stderr.strip()}" if done.returncode else ""


def _unshare(offset_s: int) -> list[str]:
    clock = ["--time", "--monotonic", str(offset_s), "--boottime", str(offset_s)]
    return ["unshare", "--net", "--pid", *clock, "--fork", "--kill-child", "--"]


class Host:
    """A machine whose perf_counter is `offset_s` ahead of this one's; `folder` is its disk, for cwd and TMPDIR."""

    def __init__(self, name: str, folder: Path, offset_s: int = 0) -> None:
        self.name, self.folder, self.offset_s = name, folder, offset_s
        self.env: dict[str, str] = {}
        """What every process of this machine gets besides (a drifting clock)."""
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self._first = subprocess.Popen(
            [*_unshare(offset_s), "timeout", str(LIFE_S), "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self.pid = self._first_inside()
        self.call("ip", "link", "set", "lo", "up")

    def _first_inside(self) -> int:
        """The first process, as this machine counts. Waits for it: unshare forks once its namespaces are there."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._first.poll() is None:
            children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
            if children and os.readlink(f"/proc/{children[0]}/ns/net") != os.readlink("/proc/self/ns/net"):
                return int(children[0])
        raise RuntimeError(f"host {self.name}: its first process did not start within 10 s")

    def command(self, *words: str) -> list[str]:
        """The command line that runs a command on this machine."""
        return ["nsenter", "-t", str(self.pid), "-n", "-p", "-T", "--", *words]

    def call(self, *words: str) -> str:
        """Run a command to its end; its output. Raises RuntimeError with what it said."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"host {self.name}: {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start(self, *words: str, **options: object) -> "subprocess.Popen[bytes]":
        """Run a command in the background, in the machine's own folder. It ends with the machine."""
        env = {**os.environ, "TMPDIR": str(self.folder / "tmp"), **self.env}
        options = {"stdin": subprocess.DEVNULL, "cwd": self.folder, "env": env, "start_new_session": True} | options
        return subprocess.Popen(self.command(*words), **options)  # type: ignore[call-overload,no-any-return]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread's new sockets are the machine's (a ZeroMQ context and its threads, too, if made in here)."""
        setns = ctypes.CDLL(None, use_errno=True).setns
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as there:
            if setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"host {self.name}: can't enter its network")
            try:
                yield
            finally:
                setns(home.fileno(), CLONE_NEWNET)

    def close(self) -> None:
        """Pull the plug: every process of this machine is killed."""
        if self._first.stdin is not None:
            self._first.stdin.close()
        try:
            self._first.wait(10)
        except subprocess.TimeoutExpired:
            self._first.kill()
            self._first.wait()
