"""The microcontroller on the bench, in time that the test gives: the stand-in's model, the firmware's pure part
compiled for this computer, and the true firmware in simavr. Also the latter in real time, behind a pseudo-terminal.

Nothing here is part of the package; what is built goes to a folder of its own.
"""

import atexit
import ctypes
import functools
import heapq
import shutil
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from needs import lacking

from loop2p.actuation.link import (
    FROM_CONTROLLER,
    MICROS_WRAP,
    Decoder,
    Lease,
    Led,
    Packet,
    Status,
    StatusQuery,
    Timely,
    Valve,
    WheelCount,
    encode,
)
from loop2p.simulation.controller_core import ControllerCore

FIRMWARE = Path(__file__).parents[2] / "deploy" / "firmware"
CORE = Path("/usr/share/arduino/hardware/arduino/avr")
CYCLES_PER_US = 16
BYTE_US = 93.75
"""What simavr's receiver takes for a byte; 115200 baud are 86.8."""


class Edge(NamedTuple):
    """A pin of the bench changed; microseconds of the bench's time, which no reset sets back."""

    pin: str
    level: int
    t_us: float


class Unsent(NamedTuple):
    """What is good for a while: it gets its boot id, and until when it is good, as it is sent."""

    kind: type[Timely]
    id: int
    rest: tuple[int, ...] = ()
    good_us: float = 250_000
    boots_on: int = 0
    """-1: for the boot before."""


def lease(ms: float = 200, boots_on: int = 0) -> Unsent:
    return Unsent(Lease, 0, (), ms * 1000, boots_on)


def valve(packet_id: int, open_us: int, good_us: float = 250_000) -> Unsent:
    return Unsent(Valve, packet_id, (open_us,), good_us)


def led(packet_id: int, armed: int, pulse_us: int, good_us: float = 250_000) -> Unsent:
    return Unsent(Led, packet_id, (armed, pulse_us), good_us)


# ---------------------------------------------------------------- building


@functools.cache
def build_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="loop2p-firmware-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


@functools.cache
def firmware_elf() -> Path:
    """The firmware as its Makefile builds it. Skips where avr-g++ or the Arduino core is absent."""
    if shutil.which("avr-g++") is None or not CORE.is_dir():
        lacking("no avr-g++ with the Arduino core (Debian: gcc-avr avr-libc arduino-core-avr)")
    _run("make", "-s", "-C", str(FIRMWARE), f"BUILD={build_folder()}")
    return build_folder() / "firmware.elf"


@functools.cache
def runner() -> Path:
    """The program that runs it in libsimavr. Skips where that is absent."""
    if shutil.which("gcc") is None or not Path("/usr/include/simavr/sim_avr.h").exists():
        lacking("no gcc with libsimavr (Debian: libsimavr-dev)")
    program = build_folder() / "simavr_runner"
    source = str(FIRMWARE / "simulator" / "simavr_runner.c")
    warnings = ("-Wall", "-Wextra", "-Werror")
    _run("gcc", "-O2", *warnings, "-I/usr/include/simavr", source, "-o", str(program), "-lsimavr")
    return program


@functools.cache
def host_library() -> Path:
    """The firmware's pure part for this computer, with every check that the compiler can put in."""
    library = build_folder() / "libcontroller.so"
    build_host_library(FIRMWARE, library)
    return library


def build_host_library(firmware: Path, library: Path) -> None:
    """Skips where there is no g++."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        lacking("no g++ for the firmware's pure part")
    sources = [firmware / "simulator" / "host_board.cpp"]
    sources += [firmware / "loop2p_controller" / name for name in ("controller.cpp", "packet.cpp")]
    checks = ("-Wall", "-Wextra", "-Werror", "-fsanitize=undefined,bounds", "-fno-sanitize-recover=all")
    _run("g++", "-std=gnu++11", "-O2", *checks, "-shared", "-fPIC", "-o", str(library), *map(str, sources))


# ---------------------------------------------------------------- benches


class Bench(ABC):
    """A controller, a host's end of its line, its pins, and a clock that only the test moves.

    `now_us` is the bench's time; the controller's own differs by a constant for each boot. `packets` is all that was
    said, wheel reports included; `edges` all that valve and LED did.
    """

    ANSWER_US = 0.0
    """What a controller needs to say what it has to say, at most."""

    def __init__(self) -> None:
        self.edges: list[Edge] = []
        self.packets: list[Packet] = []
        self.came: list[tuple[float, bytes]] = []
        """What the host said, and when the last byte was in."""
        self.decoder = Decoder(FROM_CONTROLLER)
        self.now_us = 0.0
        self.boot_id = 0
        self.boot_us = 0.0
        """The bench's time when the controller's own was 0."""

    def bytes_of(self, *packets: Packet | Unsent | bytes) -> bytes:
        """What would be on the line if it were said now."""
        said = b""
        for p in packets:
            if isinstance(p, Unsent):
                until_us = round(self.now_us - self.boot_us + p.good_us) % MICROS_WRAP
                said += encode(p.kind(p.id, self.boot_id + p.boots_on, until_us, *p.rest))
            else:
                said += p if isinstance(p, bytes) else encode(p)
        return said

    @abstractmethod
    def write(self, data: bytes) -> float:
        """Bytes onto the line, back to back; returns when the last was in."""

    @abstractmethod
    def run(self, us: float) -> None:
        """Let time pass."""

    @abstractmethod
    def plan(self, pin: str, in_us: Sequence[float]) -> None:
        """Rises of pin "lick" or "frame", microseconds from now."""

    @abstractmethod
    def wheel(self, steps: int, every_us: float) -> None:
        """Quadrature steps, signed, the first after `every_us`."""

    @abstractmethod
    def reset(self) -> None:
        """The reset pin, or the supply."""

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        pass

    def say(self, *packets: Packet | Unsent | bytes) -> list[Packet]:
        """Packets back to back; the answers, wheel reports left out."""
        before = len(self.packets)
        self.write(self.bytes_of(*packets))
        self.run(self.ANSWER_US)
        return [p for p in self.packets[before:] if not isinstance(p, WheelCount)]

    def heard(self, us: float) -> list[Packet]:
        """What is said while time passes, wheel reports left out."""
        before = len(self.packets)
        self.run(us)
        return [p for p in self.packets[before:] if not isinstance(p, WheelCount)]

    def of(self, pin: str) -> list[Edge]:
        return [e for e in self.edges if e.pin == pin]

    def pulses(self, pin: str) -> list[tuple[float, float]]:
        """(begin, width) of each pulse that has ended."""
        edges = self.of(pin)
        return [(a.t_us, b.t_us - a.t_us) for a, b in zip(edges[::2], edges[1::2], strict=False)]


class StandInBench(Bench):
    """simulation/loop2p/simulation/controller_core.py."""

    def __init__(self, boot_id: int) -> None:
        super().__init__()
        self.boot_id = boot_id
        self.core = ControllerCore(boot_id)
        self.core.advance(0)
        self._planned: list[tuple[float, int, str, int]] = []

    def write(self, data: bytes) -> float:
        self.came.append((self.now_us, data))
        self.core.receive(data, int(self.now_us))
        self._take()
        return self.now_us

    def run(self, us: float) -> None:
        end_us = self.now_us + us
        while self._planned and self._planned[0][0] <= end_us:
            at_us, _, what, count = heapq.heappop(self._planned)
            self._run_to(at_us)
            if what == "wheel":
                self.core.wheel(count, int(self.now_us))
            else:
                getattr(self.core, what)(int(self.now_us))
            self._take()
        self._run_to(end_us)

    def _run_to(self, at_us: float) -> None:
        if at_us - self.now_us > 60_000_000:  # hours: nobody waits for each wheel report
            self.core.advance(int(at_us))
        while (due_us := self.core.next_due_us()) is not None and due_us <= at_us:
            self.core.advance(due_us)
            self._take()
        self.now_us = at_us

    def plan(self, pin: str, in_us: Sequence[float]) -> None:
        for us in in_us:
            heapq.heappush(self._planned, (self.now_us + us, len(self._planned), pin, 0))

    def wheel(self, steps: int, every_us: float) -> None:
        for n in range(1, abs(steps) + 1):
            heapq.heappush(self._planned, (self.now_us + n * every_us, n, "wheel", 1 if steps > 0 else -1))

    def reset(self) -> None:
        self.core.power_off(int(self.now_us))
        self._take()
        self.boot_id += 1
        self.core = ControllerCore(self.boot_id)
        self.core.advance(int(self.now_us))

    def _take(self) -> None:
        self.edges += [Edge(e.pin, e.level, e.t_us) for e in self.core.take_edges()]
        self.packets += self.decoder.feed(self.core.take_output())


class _HostEdge(ctypes.Structure):
    _fields_ = [("t_us", ctypes.c_uint64), ("pin", ctypes.c_uint8), ("level", ctypes.c_uint8)]


class HostBench(Bench):
    """The firmware's pure part on this computer. Pins planned with 0 us come at once; others by `run`."""

    def __init__(self, boot_id: int, at_us: int = 0, library: Path | None = None) -> None:
        """`library`: another one than the firmware's."""
        super().__init__()
        self.boot_id = boot_id
        self.library = ctypes.CDLL(str(library or host_library()))
        self.library.boot.argtypes = (ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64)
        self.library.run.argtypes = (ctypes.c_uint64,)
        self.library.time_us.restype = ctypes.c_uint64
        self.library.boot(boot_id, at_us, 0)
        self.now_us = at_us
        self._edges = (_HostEdge * (1 << 16))()
        self._bytes = ctypes.create_string_buffer(128)
        self._planned: list[tuple[float, int, str, int]] = []
        self._phase = 0
        self._take()
        self.edges.clear()

    def write(self, data: bytes) -> float:
        self.came.append((self.now_us, data))
        for byte in data:  # what is said is taken away as it comes, as by a line
            self.library.host(bytes([byte]), 1)
            self._take_bytes()
        self._take()
        return self.now_us

    def run(self, us: float) -> None:
        end_us = self.now_us + us
        while self._planned and self._planned[0][0] <= end_us:
            at_us, _, what, step = heapq.heappop(self._planned)
            self._run_to(at_us)
            if what == "wheel":
                self._phase = (self._phase + step) % 4
                self.library.wheel(self._phase in (1, 2), self._phase in (2, 3))
            else:
                getattr(self.library, what)()
            self._take()
        self._run_to(end_us)

    def _run_to(self, at_us: float) -> None:
        while self.now_us < at_us:
            piece_us = min(at_us - self.now_us, 10_000_000 if at_us - self.now_us > 60_000_000 else 20_000)
            self.library.run(int(piece_us))
            self.now_us += piece_us
            self._take()

    def plan(self, pin: str, in_us: Sequence[float]) -> None:
        for us in in_us:
            heapq.heappush(self._planned, (self.now_us + us, len(self._planned), pin, 0))

    def wheel(self, steps: int, every_us: float) -> None:
        for n in range(1, abs(steps) + 1):
            heapq.heappush(self._planned, (self.now_us + n * every_us, n, "wheel", 1 if steps > 0 else 3))

    def reset(self) -> None:
        self.boot_id += 1
        self.boot_us = int(self.now_us)
        self.library.boot(self.boot_id, self.boot_us, self.boot_us)
        self._take()

    def _take(self) -> None:
        for edge in self._edges[: self.library.take_edges(self._edges, len(self._edges))]:
            self.edges.append(Edge(("valve", "led")[edge.pin], edge.level, edge.t_us))
        self._take_bytes()

    def _take_bytes(self) -> None:
        count = self.library.said(self._bytes, len(self._bytes))
        self.packets += self.decoder.feed(self._bytes.raw[:count])


class SimavrBench(Bench):
    """The true firmware, instruction by instruction, faster than real time and the same each time."""

    ANSWER_US = 12_000.0

    def __init__(self, boot_id: int) -> None:
        super().__init__()
        self.boot_id = boot_id
        self.resets: list[float] = []
        command = (str(runner()), str(firmware_elf()), str(boot_id), "steps")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._started()

    def _started(self) -> None:
        """Its clock is known to some 0.1 ms from when it answers."""
        self.run(10_000)
        asked_us = self.write(encode(StatusQuery(0)))
        self.run(self.ANSWER_US)
        (status,) = [p for p in self.packets if isinstance(p, Status)][-1:]
        self.boot_us = asked_us - status.t_us
        self.packets = [p for p in self.packets if not isinstance(p, Status)]

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def run(self, us: float) -> None:
        self._tell(f"run {us:.3f}")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.flush()
        for line in self._process.stdout:
            word, *values = line.split()
            if word == "now":
                self.now_us = int(values[0]) / CYCLES_PER_US
                return
            take_line(self, word, values)
        raise AssertionError(f"the runner has ended with code {self._process.wait()}")

    def said(self, data: bytes, at_us: float) -> None:
        self.packets += self.decoder.feed(data)

    def write(self, data: bytes) -> float:
        self._tell(f"send {data.hex()}")
        self.run(len(data) * BYTE_US + 1)
        return self.now_us

    def plan(self, pin: str, in_us: Sequence[float]) -> None:
        self._tell(f"{pin} {' '.join(f'{us:.3f}' for us in in_us)}")

    def wheel(self, steps: int, every_us: float) -> None:
        self._tell(f"wheel {steps} {every_us:.3f}")

    def reset(self) -> None:
        self.boot_id += 1
        self._tell("reset")
        self._started()

    def hang(self, how: str = "") -> None:
        """The main loop never returns; "deaf": with interrupts off. The watchdog makes a new boot of it."""
        self.boot_id += 1
        self._tell(f"hang {how}".strip())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class RealTimeFirmware:
    """The true firmware in real time, at a pseudo-terminal. A thread collects what its pins do."""

    def __init__(self, link: Path, boot_id: int) -> None:
        self.url = str(link)
        self.boot_id = boot_id
        self.edges: list[Edge] = []
        self.came: list[tuple[float, bytes]] = []
        self.resets: list[float] = []
        self.slips_ms: list[float] = []
        self.now_us = 0.0
        self.news = threading.Condition()
        """Notified with each line of the runner."""
        command = (str(runner()), str(firmware_elf()), str(boot_id), "pty", str(link))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._open = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self.wait_for(lambda: self._open, "the pseudo-terminal")

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def of(self, pin: str) -> list[Edge]:
        return [e for e in self.edges if e.pin == pin]

    def level(self, pin: str) -> int:
        return next((e.level for e in reversed(self.edges) if e.pin == pin), 0)

    def said(self, data: bytes, at_us: float) -> None:
        self.now_us = at_us  # wheel reports come every 20 ms

    def wait_for(self, what: Callable[[], bool], name: str, patience_s: float = 60.0) -> None:
        """Wait until `what()` is true after some line of the runner."""
        with self.news:
            found = self.news.wait_for(what, patience_s)
        assert found, f"waited {patience_s:g} s in vain for {name}; last edges {self.edges[-6:]}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *values = line.split()
            with self.news:
                if word == "port":
                    self._open = True
                elif word == "slip":
                    self.slips_ms.append(float(values[0]))
                else:
                    take_line(self, word, values)
                self.news.notify_all()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def take_line(of: SimavrBench | RealTimeFirmware, word: str, values: list[str]) -> None:
    """A line of the runner: what the pins did, and what went over the line."""
    match word, values:
        case "pin", [pin, level, at]:
            of.edges.append(Edge(pin, int(level), int(at) / CYCLES_PER_US))
        case "host", [at, data]:
            of.came.append((int(at) / CYCLES_PER_US, bytes.fromhex(data)))
        case "said", [at, data]:
            of.said(bytes.fromhex(data), int(at) / CYCLES_PER_US)
        case "reset", [at]:
            of.resets.append(int(at) / CYCLES_PER_US)
        case _:
            raise AssertionError(f"the runner said {word} {values}")
