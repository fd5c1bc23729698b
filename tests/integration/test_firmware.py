"""The true firmware in simavr: with the actuation service at its serial port in real time, and alone under bad bytes.

Judged by its pins in firmware time, so that a slow machine makes nothing fail.
"""

import random
import signal
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rigs import rig_text
from simavr_firmware import Bench, HostBench, RealTimeFirmware, SimavrBench

from loop2p.actuation.link import (
    FROM_HOST,
    MICROS_WRAP,
    Ack,
    Code,
    Decoder,
    HelloQuery,
    HelloReply,
    Lease,
    Led,
    Packet,
    PulseDone,
    Safe,
    Status,
    StatusQuery,
    Timely,
    Valve,
    encode,
)

BOOT = 41
MS = 1000.0
LATE_US = 1 * MS
"""The end of a lease is obeyed within this."""
PERIOD_US = 32_342
"""The microscope's."""
SERVE = (
    "import sys; from loop2p.protocol import read_rig; from loop2p.runtime import serve;"
    "sys.exit(serve(sys.argv[2], read_rig(sys.argv[1])))"
)

WAITS_US = 250.0
"""So long the interrupt that ends a pulse may wait for others: 131 us at worst in all runs so far (measured, after the
machine had stalled and much came at once). It is half of what the check every 0.5 ms would leave."""


class Rig:
    """Task, decoding and actuation as processes; actuation's controller is the firmware. Task arms the LED once and
    asks for a drop at each heartbeat of actuation."""

    def __init__(
        self, folder: Path, ports: list[int], spawn: Callable[..., "subprocess.Popen[bytes]"], open_ms: float
    ) -> None:
        self.firmware = RealTimeFirmware(folder / "tty", BOOT)
        self.firmware.tell(f"frames 20000 {PERIOD_US}")
        actuation = {
            "controller": self.firmware.url,
            "valve": {"date": "2026-11-02", "points": [{"open_ms": open_ms, "ul": 0.5}]},  # task asks for 0.5 ul
            "limits": {"session_ul": 1000, "day_ul": 1000},
            "calibration_stale_days": 0,
        }
        classes = {"task": "actuation_toys:Arming", "decoding": "toys:Quiet"}
        self.path, self.spawn = folder / "rig.toml", spawn
        text = rig_text(ports, str(folder), classes=classes, options={"actuation": actuation})
        self.path.write_text(text, encoding="utf-8")
        self.processes = {name: self.start(name) for name in ("task", "decoding", "actuation")}

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        return self.spawn(sys.executable, "-c", SERVE, str(self.path), name)

    def under_way(self) -> None:
        """Drops were given and light was seen. Where this machine stalled after the LED was armed, the lease ran out
        and it stays dark, which is right: a new task arms it anew."""
        while not self.rises("led"):
            self.until(lambda: self.rises("valve") > 0, "a drop")
            dark_us = self.firmware.now_us + 2000 * MS
            self.until(lambda dark_us=dark_us: self.rises("led") > 0 or self.firmware.now_us > dark_us, "light")
            if not self.rises("led"):
                self.processes["task"].kill()
                self.processes["task"].wait()
                self.processes["task"] = self.start("task")
                self.later(500 * MS)

    def widths(self, pin: str) -> list[float]:
        edges = self.firmware.of(pin)
        return [b.t_us - a.t_us for a, b in zip(edges[::2], edges[1::2], strict=False)]

    def until(self, what: Callable[[], bool], name: str) -> None:
        self.firmware.wait_for(what, name)

    def rises(self, pin: str) -> int:
        return sum(e.level for e in self.firmware.of(pin))

    def later(self, us: float) -> None:
        """Let firmware time pass."""
        end_us = self.firmware.now_us + us
        self.until(lambda: self.firmware.now_us >= end_us, f"{us / 1e6:g} s of firmware time")


@pytest.fixture
def rig(
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    spawn: Callable[..., "subprocess.Popen[bytes]"],
    request: pytest.FixtureRequest,
) -> Iterator[Rig]:
    rig = Rig(tmp_path, free_ports(24), spawn, getattr(request, "param", 5.0))
    yield rig
    rig.firmware.close()


def packets_of(came: list[tuple[float, bytes]]) -> list[tuple[float, Packet]]:
    """What the firmware was told, and when the last byte was in."""
    decoder = Decoder(FROM_HOST)
    return [(at_us, packet) for at_us, data in came for packet in decoder.feed(data)]


@pytest.mark.parametrize("rig", [5.0, 43.21], indirect=True, ids=["5 ms", "43.21 ms"])
def test_a_reward_opens_the_valve_for_the_time_asked(rig: Rig, request: pytest.FixtureRequest) -> None:
    open_us = round(request.node.callspec.params["rig"] * MS)

    def whole() -> list[float]:
        """A lease that ran out on a slow machine cuts one short, which is right."""
        return [w for w in rig.widths("valve") if w > open_us - 100]

    rig.under_way()
    rig.until(lambda: len(whole()) >= 20, "20 whole drops")
    asked = {p.open_us for _, p in packets_of(rig.firmware.came) if isinstance(p, Valve)}
    errors = [w - open_us for w in whole()]
    print(
        f"asked {open_us} us: error {min(errors):.1f} to {max(errors):.1f} us (n {len(errors)}); "
        f"firmware time was held up by {sum(rig.firmware.slips_ms):.1f} ms in all"
    )
    assert asked == {open_us}
    assert max(rig.widths("valve")) <= open_us + WAITS_US
    assert max(rig.widths("led")) <= 6000 + WAITS_US


@pytest.mark.parametrize("how", ["kill", "freeze"])
@pytest.mark.parametrize("rig", [150.0], indirect=True, ids=["150 ms"])
def test_pins_are_low_when_the_last_lease_has_ended(rig: Rig, how: str) -> None:
    process = rig.processes["actuation"]
    rig.under_way()
    rig.until(lambda: rig.firmware.level("valve") == 1, "an open valve")
    process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    rig.later(1500 * MS)  # frame triggers go on
    leases = [(at_us, p) for at_us, p in packets_of(rig.firmware.came) if isinstance(p, Lease)]
    at_us, _ = leases[-1]
    end_us = at_us + 200 * MS
    last = rig.firmware.edges[-1]
    print(f"{how}: pins low {(last.t_us - at_us) / MS:.2f} ms after the last lease")
    assert {pin: rig.firmware.level(pin) for pin in ("valve", "led")} == {"valve": 0, "led": 0}
    assert last.t_us <= end_us + LATE_US
    if how == "freeze":
        lit, given = rig.rises("led"), rig.rises("valve")
        process.send_signal(signal.SIGCONT)
        rig.until(lambda: rig.rises("valve") > given, "drops after the thaw")
        rig.later(500 * MS)
        assert rig.rises("led") == lit  # it waits to be armed by command


@pytest.mark.parametrize("rig", [150.0], indirect=True, ids=["150 ms"])
def test_a_controller_that_restarts_in_mid_pulse_repeats_nothing(rig: Rig) -> None:
    firmware = rig.firmware
    rig.under_way()
    rig.until(lambda: firmware.level("valve") == 1, "an open valve")
    firmware.tell("reset")
    rig.until(lambda: bool(firmware.resets), "the reset")
    (reset_us,) = firmware.resets
    given = rig.rises("valve")
    rig.until(lambda: rig.rises("valve") >= given + 2, "drops by the new boot")
    packets = packets_of(firmware.came)
    before = {p.id for at_us, p in packets if at_us < reset_us and isinstance(p, Valve | Led)}
    leased_us = min(at_us for at_us, p in packets if isinstance(p, Lease) and p.boot_id == BOOT + 1)
    valves = [(at_us, p.id) for at_us, p in packets if isinstance(p, Valve)]
    rises = [e.t_us for e in firmware.edges if e.level and e.t_us > reset_us]
    assert all(e.t_us <= reset_us for e in firmware.of("led"))  # dark until armed anew
    assert min(rises) > leased_us
    for rise_us in rises:
        command_id = valves[bisect_right(valves, (rise_us, 2**32)) - 1][1]
        assert command_id not in before


# ---------------------------------------------------------------- bad bytes

SEED = 20_261_102


def bad_packet(rng: random.Random, bench: Bench) -> bytes:
    """A valid packet, damaged in one of the ways a line, a bug or an attacker damages it; or noise; or left whole."""
    boot = rng.choice([BOOT] * 6 + [BOOT - 1])
    until_us = round(bench.now_us - bench.boot_us + rng.choice([500 * MS] * 6 + [0, -1 * MS, 2000 * MS])) % MICROS_WRAP
    lease_us = round(bench.now_us - bench.boot_us + rng.choice([20 * MS, 100 * MS, 300 * MS, 900 * MS]))
    packet: Packet = rng.choice(
        [
            HelloQuery(rng.getrandbits(32)),
            Lease(rng.getrandbits(32), boot, rng.choice([until_us, lease_us])),
            Valve(rng.randrange(200), boot, until_us, rng.choice([rng.randrange(30_000), rng.getrandbits(32)])),
            Led(rng.randrange(200), boot, until_us, rng.randrange(3), rng.choice([6000, rng.getrandbits(32)])),
            StatusQuery(rng.getrandbits(32)),
        ]
    )
    if rng.randrange(20) == 0:
        packet = Safe(rng.getrandbits(32))
    data = bytearray(encode(packet))
    match rng.randrange(8):
        case 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            data.insert(rng.randrange(len(data)), rng.getrandbits(8))
        case 3:
            data[rng.randrange(len(data))] = rng.getrandbits(8)
        case 4:
            data = bytearray(rng.randbytes(rng.randrange(80)))
        case 5:
            data += data[: rng.randrange(len(data))]
        case 6:
            data = bytearray(rng.choice(data[:-1]).to_bytes(1, "little") * rng.randrange(100)) + b"\0"
    return bytes(data)


def without_leases(stream: bytes) -> bytes:
    """The stream, each packet that happens to be a lease of this boot taken out."""
    decoder, kept = Decoder(FROM_HOST), []
    for piece in stream.split(b"\0"):
        if not any(isinstance(p, Lease) and p.boot_id == BOOT for p in decoder.feed(piece + b"\0")):
            kept.append(piece)
    return b"\0".join(kept) + b"\0"


@pytest.fixture(params=["firmware core", "firmware"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench: Bench = HostBench(BOOT) if request.param == "firmware core" else SimavrBench(BOOT)
    yield bench
    bench.close()


COUNTS = [10_000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]


@pytest.mark.parametrize("count", COUNTS)
def test_no_bytes_raise_a_pin_without_a_lease(bench: Bench, count: int) -> None:
    rng, host = random.Random(SEED), Decoder(FROM_HOST)
    taken: list[Packet] = []
    for _ in range(count // 100):
        stream = without_leases(b"".join(bad_packet(rng, bench) for _ in range(100)))
        taken += host.feed(stream)
        bench.plan("frame", [n * PERIOD_US for n in range(len(stream) // 400)])
        bench.write(stream)
    bench.run(100 * MS)
    print(f"seed {SEED}: {count} packets, {len(taken)} whole, {host.rejected.total()} rejected: {dict(host.rejected)}")
    assert sum(isinstance(p, Valve | Led) for p in taken) > count // 50
    assert bench.edges == []
    asked_ids = {p.id for p in taken if isinstance(p, Valve | Led)}
    answers = [p for p in bench.packets if isinstance(p, Ack) and p.id in asked_ids]
    assert {a.code & 0x7F for a in answers} <= {Code.NO_LEASE, Code.LATE, Code.OK}  # OK: disarming
    (hello,) = [p for p in bench.say(HelloQuery(1)) if isinstance(p, HelloReply)]
    assert hello.boot_id == BOOT  # the watchdog had nothing to do
    (status,) = [p for p in bench.say(StatusQuery(2)) if isinstance(p, Status)]
    assert status.rejected == min(host.rejected.total(), 65_535)


@pytest.mark.parametrize("count", COUNTS)
def test_among_bad_bytes_pins_rise_only_by_commands_under_a_lease(bench: Bench, count: int) -> None:
    rng = random.Random(SEED)
    at_once = 5 if isinstance(bench, HostBench) else 100
    for _ in range(count // at_once):
        stream = b"".join(bad_packet(rng, bench) for _ in range(at_once)) + b"\0"
        bench.plan("frame", [n * PERIOD_US for n in range(1 + len(stream) // 400)])
        bench.write(stream)
        if isinstance(bench, HostBench):  # its line takes no time
            bench.run(rng.randrange(8000))
    bench.run(400 * MS)
    heard = packets_of(bench.came)
    (status,) = [p for p in bench.say(StatusQuery(2)) if isinstance(p, Status)]
    assert status.boot_id == BOOT  # the watchdog had nothing to do
    lit, opened = bench.pulses("led"), bench.pulses("valve")
    print(f"seed {SEED}: {count} packets, {len(opened)} openings, {len(lit)} pulses of light")
    assert len(opened) > count // 1000
    assert len(lit) > count // 2000

    def left_us(at_us: float, packet: Timely) -> float:
        """How long it was still good when it came; -1000 if it was not."""
        left_us = bench.boot_us + packet.until_us - at_us
        return left_us if packet.boot_id == BOOT and left_us <= 1000 * MS + LATE_US else -LATE_US

    leases = [
        (at, at + min(left_us(at, p), 200 * MS))
        for at, p in heard
        if isinstance(p, Lease) and left_us(at, p) > -LATE_US
    ]
    sure = [at for at, p in heard if isinstance(p, Lease) and LATE_US < left_us(at, p) < 1000 * MS - LATE_US]
    safes = [at for at, p in heard if isinstance(p, Safe)]
    valves = [(at, p) for at, p in heard if isinstance(p, Valve) and left_us(at, p) > -LATE_US]
    arms = [(at, p) for at, p in heard if isinstance(p, Led) and (p.armed != 1 or p.pulse_us <= 20_000)]
    arms = [(at, p) for at, p in arms if p.armed != 1 or left_us(at, p) > -LATE_US]
    for begin_us, width_us in opened + lit:
        fall_us = begin_us + width_us
        before = [at for at in sure if at <= fall_us - LATE_US]  # a packet is obeyed up to 1 ms after it came
        until_us = max(end for at, end in leases if (before or [0.0])[-1] <= at <= fall_us)
        assert fall_us <= until_us + LATE_US
        made_safe_us = max((at for at in safes if at <= begin_us - LATE_US), default=-LATE_US)
        assert any(made_safe_us <= at <= begin_us for at, _ in leases)
    for begin_us, width_us in opened:
        asked_us = [p.open_us for at, p in valves if begin_us - LATE_US <= at <= begin_us]
        assert any(width_us <= us + 100 for us in asked_us if us <= 250_000)
    for begin_us, width_us in lit:
        recent = [p for at, p in arms if at <= begin_us]
        assert any(p.armed == 1 and width_us <= p.pulse_us + 100 for p in recent[-5:])


@pytest.mark.parametrize("count", COUNTS)
def test_every_bad_packet_is_judged_as_the_host_would(count: int) -> None:
    """The firmware's parser and the host's take and reject the same packets, one by one."""
    rng, host, bench = random.Random(SEED + 1), Decoder(FROM_HOST), HostBench(BOOT)
    try:
        for n in range(count):
            data = bad_packet(rng, bench) + b"\0"
            before = len(bench.packets)
            taken = host.feed(data)
            bench.write(data)
            answered = [p.id for p in bench.packets[before:] if not isinstance(p, PulseDone)]
            assert answered == [p.id for p in taken if not isinstance(p, Lease)], (n, data.hex())
            if n % 1000 == 0:
                (status,) = [p for p in bench.say(StatusQuery(n)) if isinstance(p, Status)]
                assert status.rejected == min(host.rejected.total(), 65_535), (n, data.hex())
    finally:
        bench.close()
    assert host.rejected.total() > count // 2
