"""The firmware model: its own lease, largest open time, ration, duty and memory, whatever a host says."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop2p.actuation.link import (
    AGAIN,
    AHEAD_US,
    FROM_CONTROLLER,
    MICROS_WRAP,
    PROTOCOL,
    Ack,
    Code,
    Decoder,
    Flag,
    HelloQuery,
    HelloReply,
    Lease,
    Led,
    LickCount,
    Packet,
    PulseDone,
    Safe,
    Status,
    StatusQuery,
    Valve,
    WheelCount,
    encode,
)
from loop2p.simulation.controller_core import KEPT_IDS, ControllerCore, Edge, FirmwareLimits

BOOT = 77
MS = 1000


Said = Callable[[int], Packet]
"""What is good for a while from when it is said: time -> packet."""


def lease(ms: int = 200, boot_id: int = BOOT) -> Said:
    return lambda at_us: Lease(0, boot_id, (at_us + ms * MS) % MICROS_WRAP)


def valve(command_id: int, open_us: int, good_ms: int = 250) -> Said:
    return lambda at_us: Valve(command_id, BOOT, (at_us + good_ms * MS) % MICROS_WRAP, open_us)


def led(command_id: int, armed: int, pulse_us: int, good_ms: int = 250) -> Said:
    return lambda at_us: Led(command_id, BOOT, (at_us + good_ms * MS) % MICROS_WRAP, armed, pulse_us)


class Bench:
    """A controller on the bench, with a host's end of the line."""

    def __init__(self, limits: FirmwareLimits | None = None, start_us: int = 0) -> None:
        self.core = ControllerCore(BOOT, limits)
        self.decoder = Decoder(FROM_CONTROLLER)
        self.edges: list[Edge] = []
        self.core.advance(start_us)
        self.heard()

    def say(self, packet: Packet | Said, at_us: int) -> list[Packet]:
        """What the controller answers, wheel reports left out."""
        self.core.receive(encode(packet if isinstance(packet, Packet) else packet(at_us)), at_us)
        return self.heard()

    def heard(self) -> list[Packet]:
        self.edges += self.core.take_edges()
        return [p for p in self.decoder.feed(self.core.take_output()) if not isinstance(p, WheelCount)]

    def until(self, at_us: int) -> list[Packet]:
        self.core.advance(at_us)
        return self.heard()

    def status(self, at_us: int) -> Status:
        (status,) = [p for p in self.say(StatusQuery(999), at_us) if isinstance(p, Status)]
        return status

    def leased(self, at_us: int = 0, ms: int = 200) -> "Bench":
        self.say(lease(ms), at_us)
        return self


def test_hello_says_who_and_what() -> None:
    (reply,) = Bench().say(HelloQuery(5), 0)
    assert isinstance(reply, HelloReply)
    assert (reply.id, reply.protocol, reply.boot_id, reply.name) == (5, PROTOCOL, BOOT, b"loop2p-sim")
    assert (reply.lease_ms, reply.max_open_ms, reply.led_duty_permille) == (200, 250, 200)


def test_valve_opens_for_exactly_the_time_asked() -> None:
    bench = Bench().leased()
    assert bench.say(valve(1, 50 * MS), 10 * MS) == [Ack(1, Code.OK, 10 * MS)]
    assert bench.until(60 * MS) == [PulseDone(1, 10 * MS, 60 * MS)]
    assert bench.edges == [Edge("valve", 1, 10 * MS), Edge("valve", 0, 60 * MS)]


def test_a_late_loop_still_closes_at_the_deadline_of_the_timer() -> None:
    bench = Bench().leased()
    bench.say(valve(1, 50 * MS), 0)
    assert bench.until(5_000 * MS) == [PulseDone(1, 0, 50 * MS)]


def test_zero_goes_the_whole_way_and_moves_nothing() -> None:
    bench = Bench().leased()
    assert bench.say(valve(1, 0), 7) == [Ack(1, Code.OK, 7), PulseDone(1, 7, 7)]
    assert bench.edges == []


def test_nothing_without_a_lease_of_this_boot() -> None:
    bench = Bench()
    assert bench.say(valve(1, MS), 0) == [Ack(1, Code.NO_LEASE, 0)]
    bench.say(lease(200, BOOT + 1), 0)
    assert bench.say(valve(2, MS), 0) == [Ack(2, Code.NO_LEASE, 0)]
    assert bench.say(led(3, 1, 6 * MS), 0) == [Ack(3, Code.NO_LEASE, 0)]
    bench.leased(0)
    assert bench.say(valve(4, MS), 0) == [Ack(4, Code.OK, 0)]


@pytest.mark.parametrize(("asked_ms", "granted_ms"), [(30, 30), (200, 200), (999, 200)])
def test_a_lapsed_lease_closes_the_valve_and_disarms_for_good(asked_ms: int, granted_ms: int) -> None:
    bench = Bench().leased(0, asked_ms)
    bench.say(led(1, 1, 6 * MS), 0)
    bench.core.frame(granted_ms * MS - 2 * MS)
    bench.say(valve(2, 240 * MS), granted_ms * MS - MS)
    assert bench.until(granted_ms * MS) == [PulseDone(2, (granted_ms - 1) * MS, granted_ms * MS)]
    assert [e.level for e in bench.edges if e.t_us == granted_ms * MS] == [0, 0]
    bench.leased(1_000 * MS)
    bench.core.frame(1_010 * MS)
    bench.until(1_100 * MS)
    assert bench.status(1_100 * MS).flags == Flag.LEASE
    assert len(bench.edges) == 4  # nothing came on again


def test_what_comes_late_or_for_another_boot_does_nothing() -> None:
    bench = Bench().leased()
    assert bench.say(Valve(1, BOOT, 10 * MS, MS), 10 * MS) == [Ack(1, Code.LATE, 10 * MS)]
    assert bench.say(Valve(1, BOOT + 1, 20 * MS, MS), 10 * MS) == [Ack(1, Code.LATE, 10 * MS)]
    assert bench.say(Led(1, BOOT, 9 * MS, 1, MS), 10 * MS) == [Ack(1, Code.LATE, 10 * MS)]
    assert bench.say(Valve(1, BOOT, 10 * MS + AHEAD_US + 1, MS), 10 * MS) == [Ack(1, Code.LATE, 10 * MS)]
    assert bench.say(Valve(1, BOOT, 10 * MS + AHEAD_US, MS), 10 * MS) == [Ack(1, Code.OK, 10 * MS)]
    bench.say(Lease(0, BOOT, 100 * MS), 150 * MS)
    assert bench.say(valve(2, MS), 201 * MS) == [Ack(2, Code.NO_LEASE, 201 * MS)]


def test_safe_closes_disarms_and_ends_the_lease() -> None:
    bench = Bench().leased()
    bench.say(led(1, 1, 6 * MS), 0)
    bench.say(valve(2, 50 * MS), 0)
    bench.core.frame(0)
    assert bench.say(Safe(3), MS) == [PulseDone(2, 0, MS), Ack(3, Code.OK, MS)]
    assert bench.status(MS).flags == 0


def test_refuses_what_is_too_long_busy_or_beyond_the_ration() -> None:
    bench = Bench(FirmwareLimits(ration_open_ms=300, max_open_ms=200))
    bench.leased()
    assert bench.say(valve(1, 200 * MS + 1), 0) == [Ack(1, Code.TOO_LONG, 0)]
    assert bench.say(valve(2, 150 * MS), 0) == [Ack(2, Code.OK, 0)]
    assert bench.say(valve(3, MS), 10) == [Ack(3, Code.BUSY, 10)]
    bench.until(150 * MS)
    bench.leased(150 * MS)
    assert bench.say(valve(4, 151 * MS), 160 * MS) == [Ack(4, Code.RATION, 160 * MS)]
    assert bench.say(valve(5, 150 * MS), 160 * MS) == [Ack(5, Code.OK, 160 * MS)]
    later = 6 * 3600 * 1_000_000 + 200 * MS  # half of it is there again
    bench.until(later)
    bench.leased(later)
    assert bench.say(valve(6, 151 * MS), later) == [Ack(6, Code.RATION, later % 2**32)]
    assert bench.say(valve(7, 149 * MS), later) == [Ack(7, Code.OK, later % 2**32)]


def test_a_known_id_gets_its_answer_again_and_nothing_else() -> None:
    bench = Bench()
    assert bench.say(valve(1, MS), 0) == [Ack(1, Code.NO_LEASE, 0)]
    bench.leased()
    assert bench.say(valve(1, MS), 5) == [Ack(1, Code.NO_LEASE | AGAIN, 5)]
    bench.say(valve(2, MS), 10)
    assert bench.say(valve(2, MS), 20) == [Ack(2, Code.OK | AGAIN, 20)]
    bench.until(2 * MS)
    assert bench.say(valve(2, MS), 3 * MS) == [Ack(2, Code.OK | AGAIN, 3 * MS), PulseDone(2, 10, 10 + MS)]
    assert [e.level for e in bench.edges] == [1, 0]


def test_the_last_64_ids_are_kept() -> None:
    bench = Bench().leased()
    for command_id in range(KEPT_IDS + 1):
        bench.say(valve(command_id, 0), 0)
    assert bench.say(valve(1, 0), 0)[0] == Ack(1, Code.OK | AGAIN, 0)
    assert bench.say(valve(0, 0), 0)[0] == Ack(0, Code.OK, 0)


def test_each_trigger_fires_one_pulse_while_armed() -> None:
    bench = Bench().leased()
    bench.core.frame(0)
    bench.say(led(1, 1, 6 * MS), 0)
    for n in range(1, 6):
        bench.core.frame(n * 32_342)
    bench.until(199 * MS)
    pulses = [e.t_us for e in bench.edges]
    assert pulses == [t for n in range(1, 6) for t in (n * 32_342, n * 32_342 + 6 * MS)]
    assert (bench.status(199 * MS).led_pulses, bench.status(199 * MS).led_on_ms) == (5, 30)
    assert bench.say(led(2, 0, 0), 199 * MS) == [Ack(2, Code.OK, 199 * MS)]
    bench.core.frame(199 * MS)
    assert bench.status(199 * MS).led_pulses == 5


def test_triggers_that_come_too_fast_cannot_light_it_for_longer_than_the_duty() -> None:
    bench = Bench()
    bench.leased()
    bench.say(led(1, 1, 6 * MS), 0)
    for n in range(100):  # 100 Hz: 6 of every 10 ms were asked for
        bench.leased(n * 10 * MS)
        bench.core.frame(n * 10 * MS)
    status = bench.status(1_000 * MS)
    assert status.led_on_ms == 216  # 0.2 x (1 s + 0.1 s), in whole pulses
    assert status.led_skipped == 100 - 216 // 6


@pytest.mark.parametrize("pulse_us", [0, 20_001, 2**32 - 1])
def test_a_pulse_that_the_duty_can_never_pay_is_refused(pulse_us: int) -> None:
    assert Bench().leased().say(led(1, 1, pulse_us), 0) == [Ack(1, Code.TOO_LONG, 0)]


def test_disarming_turns_the_led_off_at_once() -> None:
    bench = Bench().leased()
    bench.say(led(1, 1, 6 * MS), 0)
    bench.core.frame(0)
    bench.say(led(2, 0, 0), MS)
    assert bench.edges == [Edge("led", 1, 0), Edge("led", 0, MS)]


def test_licks_are_debounced_and_counted() -> None:
    bench = Bench()
    for t_us in (0, 10 * MS, 49 * MS, 50 * MS, 99 * MS, 120 * MS):
        bench.core.lick(t_us)
    assert [(p.count, p.t_us) for p in bench.heard() if isinstance(p, LickCount)] == [
        (1, 0),
        (2, 50 * MS),
        (3, 120 * MS),
    ]


def test_wheel_is_reported_at_50_hz_and_a_slow_loop_sends_no_backlog() -> None:
    core, decoder = ControllerCore(BOOT), Decoder(FROM_CONTROLLER)
    core.advance(0)
    core.wheel(10, 5 * MS)
    core.wheel(-300, 25 * MS)
    core.advance(40 * MS)
    core.advance(10_000 * MS)
    reports = [(p.count, p.t_us) for p in decoder.feed(core.take_output()) if isinstance(p, WheelCount)]
    assert reports == [(10, 20 * MS), (-290, 40 * MS), (-290, 10_000 * MS)]


def test_times_wrap_on_the_wire() -> None:
    start = 2**32 - 10 * MS
    bench = Bench(start_us=start).leased(start)
    bench.say(valve(1, 50 * MS), start)
    assert bench.until(start + 50 * MS) == [PulseDone(1, start, 40 * MS)]
    assert bench.status(start + 60 * MS).uptime_s == 0


def test_power_off_lets_the_pins_fall() -> None:
    bench = Bench().leased()
    bench.say(valve(1, 50 * MS), 0)
    bench.core.power_off(MS)
    bench.heard()
    assert bench.edges == [Edge("valve", 1, 0), Edge("valve", 0, MS)]


# ---------------------------------------------------------------- any sequence

LIMITS = FirmwareLimits(max_open_ms=100, ration_open_ms=400)
GOOD_MS = st.sampled_from([250, 250, 250, 0, -1])
packets = st.one_of(
    st.builds(lease, st.integers(-50, 400), st.sampled_from([BOOT, BOOT, BOOT + 1])),
    st.builds(valve, st.integers(0, 20), st.integers(0, 150 * MS), GOOD_MS),
    st.builds(led, st.integers(0, 20), st.integers(0, 2), st.integers(0, 25 * MS), GOOD_MS),
    st.builds(Safe, st.integers(0, 20)),
)
happenings = st.lists(
    st.tuples(st.integers(0, 60 * MS), st.one_of(packets, packets, st.just("frame"), st.binary(max_size=5))),
    max_size=80,
)


@settings(max_examples=300)
@given(happenings)
def test_whatever_is_said_the_pins_keep_the_limits(happening: list[tuple[int, Packet | Said | str | bytes]]) -> None:
    bench, now_us = Bench(LIMITS), 0
    leases: list[tuple[int, int]] = []
    for wait_us, what in happening:
        now_us += wait_us
        if isinstance(what, bytes):
            bench.core.receive(what + b"\0", now_us)
        elif isinstance(what, str):
            bench.core.frame(now_us)
        else:
            packet = what if isinstance(what, Packet) else what(now_us)
            bench.say(packet, now_us)
            if isinstance(packet, Lease) and packet.boot_id == BOOT and now_us < packet.until_us < 2**31:
                leases.append((now_us, min(packet.until_us, now_us + 200 * MS)))
    bench.until(now_us + 1_000 * MS)

    spans: dict[str, list[tuple[int, int]]] = {"valve": [], "led": []}
    on: dict[str, int] = {}
    for edge in bench.edges:
        if edge.level:
            assert edge.pin not in on
            on[edge.pin] = edge.t_us
        else:
            spans[edge.pin].append((on.pop(edge.pin), edge.t_us))
    assert not on  # all is off in the end
    assert all(b - a <= 100 * MS for a, b in spans["valve"])
    assert sum(b - a for a, b in spans["valve"]) <= 400 * MS + now_us * 400 / (12 * 3600 * 1000) + 1
    for a, b in spans["valve"] + spans["led"]:
        newest = max((until for begun, until in leases if begun <= b), default=-1)
        assert a <= b <= newest
    for k, (a, _) in enumerate(spans["led"]):
        for j, (_, b) in enumerate(spans["led"][k:], k):
            lit = sum(end - begin for begin, end in spans["led"][k : j + 1])
            assert lit <= 0.2 * (b - a) + 20 * MS + 1


def test_the_test_of_any_sequence_sees_openings() -> None:
    """The property above would hold for a dead controller, too."""
    bench = Bench(LIMITS).leased()
    bench.say(led(2, 1, 6 * MS), 0)
    bench.core.frame(0)
    bench.say(valve(1, 30 * MS), 0)
    bench.until(100 * MS)
    assert {e.pin for e in bench.edges} == {"valve", "led"}
