"""Every rule of docs/protocol-serial.md, put to each controller there is: the stand-in's model, the firmware's pure
part on this computer, and the true firmware in simavr. Judged by its pins, in its own time."""

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from cobs import cobs
from hypothesis import given, settings
from hypothesis import strategies as st
from simavr_firmware import Bench, HostBench, SimavrBench, StandInBench, Unsent, lease, led, valve
from test_serial_vectors import VECTORS

from loop2p.actuation.link import (
    AGAIN,
    Ack,
    Code,
    Flag,
    HelloQuery,
    HelloReply,
    LickCount,
    Packet,
    PulseDone,
    Safe,
    Status,
    StatusQuery,
    Valve,
    WheelCount,
    crc16,
    encode,
)

BOOT = 0x12345678
"""The boot id in the byte vectors."""
MS = 1000.0
S = 1000 * MS
NEAR_US = 100.0
"""A pin moves when it should, to within this: 0.1 ms of the valve are some 10 nl."""
LATE_US = 1 * MS
"""The end of a lease is obeyed within this; a byte on the line takes 87 us."""

LEASE = lease()
TIMELY = Valve(3, BOOT, 900_000, 50_000)
BENCHES: dict[str, Callable[[int], Bench]] = {
    "stand-in": StandInBench,
    "firmware core": HostBench,
    "firmware": SimavrBench,
}


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = BENCHES[request.param](BOOT)
    yield bench
    bench.close()


def golden(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name][1])


def status(bench: Bench) -> Status:
    (status,) = [p for p in bench.say(StatusQuery(999)) if isinstance(p, Status)]
    return status


def codes(packets: list[Packet]) -> list[tuple[int, int]]:
    return [(p.id, p.code) for p in packets if isinstance(p, Ack)]


def kept_alive(bench: Bench, us: float) -> list[Packet]:
    """Time passes with a lease every 50 ms; what is said."""
    before, end_us = len(bench.packets), bench.now_us + us
    while bench.now_us < end_us:
        bench.say(LEASE)
        bench.run(max(0.0, min(50 * MS, end_us - bench.now_us)))
    return bench.packets[before:]


def near(us: float) -> object:
    return pytest.approx(us, abs=NEAR_US)


# ---------------------------------------------------------------- bytes


def test_golden_bytes_are_understood_and_answered(bench: Bench) -> None:
    (hello,) = bench.say(golden("hello query"))
    limits = HelloReply(1, 2, BOOT, 2, 0, 200, 250, 30_000, 200, 100, b"")
    assert isinstance(hello, HelloReply)
    assert hello == HelloReply(*(getattr(limits, f) for f in limits.__struct_fields__[:-1]), hello.name)
    assert hello.name.isascii()
    assert bench.say(golden("lease")) == []
    assert codes(bench.say(golden("valve, 50 ms"))) == [(3, Code.OK)]
    (done,) = bench.heard(60 * MS)
    assert isinstance(done, PulseDone)
    assert done.id == 3
    assert [w for _, w in bench.pulses("valve")] == [near(50 * MS)]
    ack, done = bench.say(golden("valve, nothing"))
    assert isinstance(ack, Ack)
    assert done == PulseDone(4, ack.t_us, ack.t_us)
    assert codes(bench.say(golden("led, arm 6 ms"))) == [(5, Code.OK)]
    bench.plan("frame", [0.0])
    bench.run(10 * MS)
    assert [w for _, w in bench.pulses("led")] == [near(6 * MS)]
    assert codes(bench.say(golden("led, disarm"))) == [(6, Code.OK)]
    assert codes(bench.say(golden("safe"))) == [(7, Code.OK)]
    (last,) = bench.say(golden("status query"))
    assert isinstance(last, Status)
    assert (last.id, last.boot_id, last.flags, last.valve_open_ms, last.led_on_ms) == (8, BOOT, 0, 50, 6)
    assert (last.led_pulses, last.led_skipped, last.rejected, last.uptime_s) == (1, 0, 0, 0)
    assert not bench.decoder.rejected
    assert len(bench.of("valve")) == len(bench.of("led")) == 2


def test_answers_have_their_golden_bytes(bench: Bench) -> None:
    """All but the times, which are the controller's own."""
    (ack,) = bench.say(valve(3, 1))
    assert isinstance(ack, Ack)
    assert encode(ack) == encode(Ack(3, Code.NO_LEASE, ack.t_us))
    (again,) = bench.say(valve(3, 1))
    assert isinstance(again, Ack)
    assert again.code == Code.NO_LEASE | AGAIN
    assert not bench.decoder.rejected


@pytest.mark.parametrize(
    ("damage", "rejected"),
    [
        (b"\0", 0),
        (b"\0\0\0\0", 0),
        (b"\x01\0", 1),  # nothing in it
        (b"garbage\0", 1),
        (b"\xff\0", 1),  # a distance beyond the end
        (encode(Safe(7))[:-3] + b"\0", 1),  # cut
        (b"\x05" + encode(TIMELY)[1:], 1),  # a wrong distance
        (encode(TIMELY).replace(b"\xc3", b"\xc2"), 1),  # a flipped bit
        (encode(LickCount(9, 17, 2_000_000)), 1),  # no kind of the host's
        (bytes.fromhex("0305010101030000")[:-2] + b"\0", 1),
        (b"\x01" * 64 + b"\0", 1),  # as long as a packet may be, and nonsense
        (b"\x01" * 65 + b"\0", 1),
        (b"\xaa" * 500 + b"\0", 1),  # over-long counts once
        (b"\xaa" * 500 + b"\0" + b"\x01\0", 2),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else None,
)
def test_whatever_is_wrong_is_counted_and_the_next_packet_is_heard(bench: Bench, damage: bytes, rejected: int) -> None:
    bench.say(LEASE)
    assert codes(bench.say(damage, valve(1, 0))) == [(1, Code.OK)]
    after = status(bench)
    assert (after.rejected, after.flags) == (rejected, Flag.LEASE)
    assert bench.edges == []


def with_crc(raw: bytes) -> bytes:
    """A packet of any kind and length, well-formed otherwise."""
    return bytes(cobs.encode(raw + crc16(raw).to_bytes(2, "little"))) + b"\0"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\0\0\0",
        b"\x07\x01\0\0\0",
        b"\x81\x01\0\0\0",
        b"\x05\x01\0\0\0\x01",  # SAFE with a payload
        b"\x03\x01\0\0\0\x10\x27\0",  # VALVE without its last byte
        b"\x03\x01\0\0\0\x10\x27\0\0\0",  # and with one too many
        b"\x05\x01\0",
        b"",
    ],
    ids=bytes.hex,
)
def test_unknown_kinds_and_wrong_lengths_are_rejected_though_their_crc_is_right(bench: Bench, raw: bytes) -> None:
    assert bench.say(LEASE, with_crc(raw)) == []
    after = status(bench)
    assert (after.rejected, after.flags) == (1, Flag.LEASE)
    assert bench.edges == []


def test_a_piece_left_on_the_line_is_ended_by_the_zero_that_a_host_sends_first(bench: Bench) -> None:
    bench.say(encode(TIMELY)[:7])
    assert [type(p) for p in bench.say(b"\0", HelloQuery(2))] == [HelloReply]


def test_sending_never_waits_and_drops_whole_packets(bench: Bench) -> None:
    """Asked for more than the line can carry: 38 bytes for each 11."""
    before = len(bench.packets)
    bench.write(b"".join(encode(StatusQuery(n)) for n in range(200)))
    bench.run(200 * MS)
    assert not bench.decoder.rejected
    answers = [p.id for p in bench.packets[before:] if isinstance(p, Status)]
    assert answers == sorted(answers)
    assert answers[0] == 0
    assert codes(bench.say(Safe(1))) == [(1, Code.OK)]  # and it is not out of breath
    if isinstance(bench, SimavrBench):  # the others have no line that could be full
        assert 40 < len(answers) < 100
    else:
        assert len(answers) == 200


# ---------------------------------------------------------------- lease


def test_nothing_moves_without_a_lease_of_this_boot(bench: Bench) -> None:
    assert codes(bench.say(valve(1, 1000))) == [(1, Code.NO_LEASE)]
    bench.say(lease(200, -1))
    assert codes(bench.say(valve(2, 1000), led(3, 1, 6000))) == [(2, Code.NO_LEASE), (3, Code.NO_LEASE)]
    bench.plan("frame", [0.0])
    bench.run(10 * MS)
    assert status(bench).flags == 0
    assert bench.edges == []


@pytest.mark.parametrize(("asked_ms", "granted_ms"), [(30, 30), (200, 200), (201, 200), (999, 200)])
def test_the_end_of_a_lease_closes_the_valve_and_disarms_for_good(bench: Bench, asked_ms: int, granted_ms: int) -> None:
    said_us = bench.now_us
    came_us = bench.write(bench.bytes_of(lease(asked_ms)))
    end_us = min(said_us + asked_ms * MS, came_us + granted_ms * MS)
    bench.write(bench.bytes_of(led(1, 1, 20_000)))
    while bench.now_us < end_us - 12 * MS:
        bench.run(1 * MS)
    bench.write(bench.bytes_of(valve(2, 250_000)))
    bench.plan("frame", [end_us - 5 * MS - bench.now_us])
    said = bench.heard(50 * MS)
    falls = [e.t_us - end_us for e in bench.edges if not e.level]
    assert [e.pin for e in bench.edges if e.level] == ["valve", "led"]
    assert len(falls) == 2
    assert all(-NEAR_US <= fall <= LATE_US for fall in falls)
    (done,) = [p for p in said if isinstance(p, PulseDone)]
    assert done.close_us - done.open_us == near(bench.pulses("valve")[0][1])
    bench.say(LEASE)  # a new lease opens and lights nothing
    bench.plan("frame", [0.0])
    bench.run(30 * MS)
    assert len(bench.edges) == 4
    assert status(bench).flags == Flag.LEASE


def test_each_lease_replaces_the_one_before_a_shorter_one_too(bench: Bench) -> None:
    bench.write(bench.bytes_of(LEASE))
    said_us = bench.now_us
    bench.write(bench.bytes_of(lease(50)))
    bench.write(bench.bytes_of(valve(1, 250_000)))
    bench.run(300 * MS)
    assert -NEAR_US <= bench.of("valve")[-1].t_us - (said_us + 50 * MS) <= LATE_US


def test_leases_that_go_on_let_a_pulse_end_by_itself(bench: Bench) -> None:
    bench.say(LEASE)
    bench.say(valve(1, 250_000))
    kept_alive(bench, 300 * MS)
    assert [w for _, w in bench.pulses("valve")] == [near(250 * MS)]


def test_a_lease_of_another_boot_renews_nothing(bench: Bench) -> None:
    said_us = bench.now_us
    bench.write(bench.bytes_of(LEASE))
    bench.write(bench.bytes_of(valve(1, 250_000)))
    bench.run(100 * MS)
    bench.write(bench.bytes_of(lease(200, -1)))
    bench.write(bench.bytes_of(lease(1, -1)))  # and ends nothing
    bench.run(200 * MS)
    assert -NEAR_US <= bench.of("valve")[-1].t_us - (said_us + 200 * MS) <= LATE_US


def test_a_lease_that_is_past_or_too_far_ahead_changes_nothing(bench: Bench) -> None:
    for ms in (0, -1, -1000, 1010, 3_000_000):
        bench.say(lease(ms))
        assert status(bench).flags == 0
    said_us = bench.now_us
    bench.write(bench.bytes_of(LEASE))
    bench.write(bench.bytes_of(valve(1, 250_000)))
    bench.write(bench.bytes_of(lease(-1), lease(2000)))
    bench.run(300 * MS)
    assert -NEAR_US <= bench.of("valve")[-1].t_us - (said_us + 200 * MS) <= LATE_US


# ---------------------------------------------------------------- late


def test_what_is_held_up_on_its_way_does_nothing(bench: Bench) -> None:
    """All that a host said in a moment, a second later and all at once."""
    said = bench.bytes_of(LEASE, led(1, 1, 6000), valve(2, 50_000))
    bench.run(1000 * MS)
    assert codes(bench.say(said)) == [(1, Code.LATE), (2, Code.LATE)]
    assert codes(bench.say(LEASE, said)) == [(1, Code.LATE), (2, Code.LATE)]
    bench.plan("frame", [0.0])
    bench.run(20 * MS)
    assert bench.edges == []
    assert codes(bench.say(valve(2, 1000))) == [(2, Code.OK)]  # ids of late ones are not kept


def test_old_commands_said_again_open_nothing_and_push_no_newer_one_out(bench: Bench) -> None:
    old = [bench.bytes_of(valve(n, 1000)) for n in range(100, 200)]
    bench.run(300 * MS)
    newest = bench.bytes_of(valve(1, 5000))
    assert codes(bench.say(LEASE, newest)) == [(1, Code.OK)]
    for said in old:
        assert [c for _, c in codes(bench.say(said))] == [Code.LATE]
        if not isinstance(bench, SimavrBench):  # on its line this would take 2 s
            bench.run(1 * MS)
    assert len(bench.pulses("valve")) == 1
    bench.say(LEASE)
    assert codes(bench.say(newest)) == [(1, Code.OK | AGAIN)]  # its report may be asked for at any time
    assert len(bench.pulses("valve")) == 1


def test_commands_of_the_boot_before_are_late_whatever_the_clock_says(bench: Bench) -> None:
    """Where both boots begin at 0 the time alone would let them through."""
    said = bench.bytes_of(LEASE, led(1, 1, 6000), valve(2, 50_000))
    bench.reset()
    assert codes(bench.say(LEASE, said)) == [(1, Code.LATE), (2, Code.LATE)]
    bench.plan("frame", [0.0])
    bench.run(20 * MS)
    assert bench.edges == []


# ---------------------------------------------------------------- valve


@pytest.mark.parametrize("open_us", [1_000, 14_300, 50_000, 199_999])
def test_the_valve_is_open_for_the_time_asked_and_says_when(bench: Bench, open_us: int) -> None:
    bench.say(LEASE)
    first, second = [
        bench.say(valve(n, open_us)) + [p for p in kept_alive(bench, 250 * MS) if not isinstance(p, WheelCount)]
        for n in (1, 2)
    ]
    pulses = bench.pulses("valve")
    assert [w for _, w in pulses] == [near(open_us), near(open_us)]
    dones = [p for p in first + second if isinstance(p, PulseDone)]
    acks = [p for p in first + second if isinstance(p, Ack)]
    assert [p.id for p in dones] == [p.id for p in acks] == [1, 2]
    assert [p.close_us - p.open_us for p in dones] == [near(open_us), near(open_us)]
    assert [p.t_us for p in acks] == [p.open_us for p in dones]
    assert dones[1].open_us - dones[0].open_us == near(pulses[1][0] - pulses[0][0])  # its clock is the bench's
    assert status(bench).valve_open_ms == pytest.approx(2 * open_us / 1000, abs=1)


def test_zero_goes_the_whole_way_and_moves_nothing(bench: Bench) -> None:
    ack, done = bench.say(LEASE, valve(1, 0))
    assert isinstance(ack, Ack)
    assert done == PulseDone(1, ack.t_us, ack.t_us)
    assert bench.edges == []


def test_refusals_come_in_the_order_of_the_page(bench: Bench) -> None:
    assert codes(bench.say(valve(1, 250_001))) == [(1, Code.NO_LEASE)]
    bench.say(LEASE)
    assert codes(bench.say(valve(2, 250_001), valve(3, 2**32 - 1))) == [(2, Code.TOO_LONG), (3, Code.TOO_LONG)]
    assert codes(bench.say(valve(4, 100_000))) == [(4, Code.OK)]
    assert codes(bench.say(valve(5, 250_001), valve(6, 1000))) == [(5, Code.TOO_LONG), (6, Code.BUSY)]
    assert codes(bench.say(valve(7, 0), valve(4, 1000))) == [(7, Code.BUSY), (4, Code.OK | AGAIN)]
    bench.run(100 * MS)
    assert codes(bench.say(LEASE, valve(6, 1000))) == [(6, Code.BUSY | AGAIN)]  # refused ones are kept, too
    assert [w for _, w in bench.pulses("valve")] == [near(100 * MS)]


@pytest.mark.parametrize("kind", ["stand-in", "firmware core", pytest.param("firmware", marks=pytest.mark.long)])
def test_the_ration_is_given_and_no_more(kind: str) -> None:
    bench = BENCHES[kind](BOOT)
    bench.say(LEASE)
    for n in range(119):
        assert codes(bench.say(valve(n, 250_000))) == [(n, Code.OK)]
        kept_alive(bench, 255 * MS)
    given_s = 119 * 0.25
    assert codes(bench.say(valve(1000, 0))) == [(1000, Code.OK)]
    refill_us = bench.now_us * 30_000 / (12 * 3600 * 1000)  # what has come back at most: 694 us a second
    assert codes(bench.say(valve(1001, 150_000))) == [(1001, Code.OK)]
    kept_alive(bench, 200 * MS)
    left_us = int(30 * S - given_s * S - 150_000)
    assert codes(bench.say(valve(1002, left_us + int(refill_us) + 2000))) == [(1002, Code.RATION)]
    assert codes(bench.say(valve(1003, left_us))) == [(1003, Code.OK)]
    kept_alive(bench, 200 * MS)
    assert sum(w for _, w in bench.pulses("valve")) <= 30 * S + refill_us + 122 * 10  # 10 us a pulse for interrupts
    bench.close()


@pytest.mark.parametrize("kind", ["stand-in", "firmware core"])
def test_the_ration_comes_back_evenly_in_12_hours(kind: str) -> None:
    """Hours are too long for simavr; the core is the same code."""
    bench = BENCHES[kind](BOOT)
    for n in range(120):
        bench.say(LEASE, valve(n, 250_000))
        bench.run(100 * MS)
        bench.say(LEASE)
        bench.run(160 * MS)
    for hours in (3, 3, 6):
        bench.run(hours * 3600 * S)
        back_us = int(min(30, hours * 2.5) * S)
        bench.say(LEASE)
        taken_us, n = 0, 10_000 + int(bench.now_us / S)
        while back_us - taken_us > 250_000:
            n += 1
            assert codes(bench.say(LEASE, valve(n, 250_000))) == [(n, Code.OK)]
            taken_us += 250_000
            bench.run(100 * MS)
            bench.say(LEASE)
            bench.run(160 * MS)
        spent_s = (taken_us / 250_000) * 0.26
        n += 1
        over_us = back_us - taken_us + int(spent_s * 700) + 60_000
        if over_us <= 250_000:
            assert codes(bench.say(LEASE, valve(n, over_us))) == [(n, Code.RATION)]
        rest_us = max(0, back_us - taken_us - 1_000)
        assert codes(bench.say(LEASE, valve(n + 1, rest_us))) == [(n + 1, Code.OK)]
        bench.run(1 * S)


# ---------------------------------------------------------------- ids


def test_a_known_id_gets_its_answer_again_and_nothing_else(bench: Bench) -> None:
    assert codes(bench.say(valve(1, 1000))) == [(1, Code.NO_LEASE)]
    assert codes(bench.say(LEASE, valve(1, 1000))) == [(1, Code.NO_LEASE | AGAIN)]
    bench.say(valve(2, 40_000))
    assert codes(bench.say(valve(2, 20_000))) == [(2, Code.OK | AGAIN)]
    (done,) = bench.heard(40 * MS)
    assert [type(p) for p in bench.say(valve(2, 20_000))] == [Ack, PulseDone]
    assert [p for p in bench.packets if isinstance(p, PulseDone)] == [done, done]  # the very same
    assert codes(bench.say(led(2, 1, 6000))) == [(2, Code.OK | AGAIN)]  # ids are one set
    bench.say(LEASE, valve(3, 1000))
    bench.run(5 * MS)
    assert [type(p) for p in bench.say(valve(2, 20_000))] == [Ack]  # the last one's report alone is kept
    assert len(bench.pulses("valve")) == 2
    assert status(bench).flags & Flag.LED_ARMED == 0


def test_an_id_said_five_times_at_once_is_done_once(bench: Bench) -> None:
    answers = codes(bench.say(LEASE, *[valve(1, 10_000)] * 5))
    assert answers == [(1, Code.OK)] + [(1, Code.OK | AGAIN)] * 4
    bench.run(100 * MS)
    assert [w for _, w in bench.pulses("valve")] == [near(10 * MS)]


def test_the_last_64_ids_of_both_kinds_are_kept(bench: Bench) -> None:
    for n in range(65):
        assert codes(bench.say(LEASE, led(n, 0, 0) if n % 3 else valve(n, 0))) == [(n, Code.OK)]
    assert codes(bench.say(valve(1, 0))) == [(1, Code.OK | AGAIN)]
    assert codes(bench.say(valve(64, 0))) == [(64, Code.OK | AGAIN)]
    assert codes(bench.say(valve(0, 0))) == [(0, Code.OK)]  # 65 ago: forgotten


def test_safe_hello_and_status_are_answered_as_often_as_they_are_asked(bench: Bench) -> None:
    for query in (Safe(1), HelloQuery(1), StatusQuery(1)):
        first, second = bench.say(query), bench.say(query)
        assert type(first[0]) is type(second[0])
        assert first[0].id == second[0].id == 1
    assert codes(bench.say(Safe(1))) == [(1, Code.OK)]


# ---------------------------------------------------------------- LED


def test_each_frame_fires_one_pulse_while_armed_from_its_trigger(bench: Bench) -> None:
    bench.say(LEASE)
    bench.plan("frame", [0.0])
    bench.run(10 * MS)
    bench.say(led(1, 1, 6000))
    begin_us = bench.now_us + 1 * MS
    triggers = [begin_us + n * 32_342 for n in range(20)]
    bench.plan("frame", [t - bench.now_us for t in triggers])
    kept_alive(bench, 700 * MS)
    pulses = bench.pulses("led")
    assert [w for _, w in pulses] == [near(6 * MS)] * 20
    assert all(0 <= b - t <= NEAR_US for (b, _), t in zip(pulses, triggers, strict=True))
    after = status(bench)
    assert (after.led_pulses, after.led_skipped, after.led_on_ms) == (20, 0, 120)
    assert after.flags == Flag.LEASE | Flag.LED_ARMED


def test_triggers_that_come_too_fast_cannot_light_it_for_longer_than_the_duty(bench: Bench) -> None:
    bench.say(LEASE, led(1, 1, 6000))
    bench.plan("frame", [n * 10 * MS for n in range(100)])
    kept_alive(bench, 1000 * MS)
    pulses, after = bench.pulses("led"), status(bench)
    assert (after.led_pulses, after.led_skipped) == (36, 64)  # 0.2 x (1 s + 0.1 s), in whole pulses of 6 ms
    for k, (a, _) in enumerate(pulses):
        for j, (b, width) in enumerate(pulses[k:], k):
            lit_us = sum(w for _, w in pulses[k : j + 1])
            assert lit_us <= 0.2 * (b + width - a + 100 * MS) + 10 * (j + 1 - k)  # 10 us a pulse for its interrupts


def test_a_trigger_that_finds_it_on_is_skipped(bench: Bench) -> None:
    bench.say(LEASE, led(1, 1, 10_000))
    bench.plan("frame", [0.0, 4 * MS, 9 * MS])
    bench.run(40 * MS)
    assert [w for _, w in bench.pulses("led")] == [near(10 * MS)]
    assert (status(bench).led_pulses, status(bench).led_skipped) == (1, 2)


@pytest.mark.parametrize("pulse_us", [0, 20_001, 2**32 - 1])
def test_a_pulse_that_the_duty_can_never_pay_is_refused(bench: Bench, pulse_us: int) -> None:
    assert codes(bench.say(LEASE, led(1, 1, pulse_us))) == [(1, Code.TOO_LONG)]
    assert codes(bench.say(led(2, 1, 20_000))) == [(2, Code.OK)]


@pytest.mark.parametrize("armed", [0, 2, 255])
def test_disarming_turns_it_off_at_once_and_needs_no_lease(bench: Bench, armed: int) -> None:
    bench.say(LEASE, led(1, 1, 20_000))
    bench.plan("frame", [1 * MS])
    bench.run(2 * MS)
    came_us = bench.write(bench.bytes_of(led(2, armed, 6000)))
    bench.run(20 * MS)
    assert came_us <= bench.of("led")[-1].t_us <= came_us + LATE_US
    bench.plan("frame", [0.0])
    bench.run(20 * MS)
    assert len(bench.of("led")) == 2
    bench.run(300 * MS)
    assert codes(bench.say(led(3, armed, 0))) == [(3, Code.OK)]


# ---------------------------------------------------------------- safe


def test_safe_is_obeyed_from_anybody_and_reports_the_cut_pulse_first(bench: Bench) -> None:
    bench.write(bench.bytes_of(LEASE, led(1, 1, 20_000), valve(2, 250_000)))
    bench.plan("frame", [0.0])
    bench.run(5 * MS)
    before = len(bench.packets)
    came_us = bench.write(bench.bytes_of(Safe(3)))
    bench.run(10 * MS)
    done, ack = [p for p in bench.packets[before:] if isinstance(p, Ack | PulseDone)]
    assert isinstance(done, PulseDone)
    assert isinstance(ack, Ack)
    assert (done.id, ack.id, ack.code) == (2, 3, Code.OK)
    assert all(came_us <= bench.of(pin)[-1].t_us <= came_us + LATE_US for pin in ("valve", "led"))
    assert done.close_us - done.open_us == near(bench.pulses("valve")[0][1])
    assert status(bench).flags == 0
    assert codes(bench.say(valve(4, 1000))) == [(4, Code.NO_LEASE)]
    bench.plan("frame", [0.0])
    bench.run(300 * MS)
    assert len(bench.edges) == 4


# ---------------------------------------------------------------- animal


def test_licks_are_counted_at_the_rise_and_contact_noise_is_not(bench: Bench) -> None:
    rises = [0.0, 10 * MS, 49.9 * MS, 50.1 * MS, 99.9 * MS, 120 * MS]
    bench.plan("lick", rises)
    licks = [p for p in bench.heard(200 * MS) if isinstance(p, LickCount)]
    assert [p.count for p in licks] == [1, 2, 3]
    assert [p.t_us - licks[0].t_us for p in licks] == [0, near(50.1 * MS), near(120 * MS)]


def test_the_wheel_counts_both_ways_at_50_hz(bench: Bench) -> None:
    bench.wheel(300, 100.0)
    bench.run(50 * MS)
    bench.wheel(-550, 100.0)
    bench.run(100 * MS)
    reports = [p for p in bench.packets if isinstance(p, WheelCount)]
    assert max(p.count for p in reports) > 150
    assert reports[-1].count == -250
    gaps_us = [b.t_us - a.t_us for a, b in itertools.pairwise(reports)]
    assert all(gap == near(20 * MS) for gap in gaps_us)
    assert len(reports) >= 7


def test_events_count_on_through_both_kinds(bench: Bench) -> None:
    bench.plan("lick", [5 * MS, 65 * MS])
    bench.run(200 * MS)
    ids = [p.id for p in bench.packets if isinstance(p, LickCount | WheelCount)]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) >= 11


# ---------------------------------------------------------------- reboot


def test_a_reboot_in_mid_pulse_ends_it_and_nothing_fires_after_it(bench: Bench) -> None:
    bench.write(bench.bytes_of(LEASE, led(1, 1, 20_000), valve(2, 250_000)))
    bench.plan("frame", [0.0])
    bench.run(5 * MS)
    assert [e.level for e in bench.edges] == [1, 1]
    at_us = bench.now_us
    bench.reset()
    assert [(e.level, e.t_us) for e in bench.edges[2:]] == [(0, at_us), (0, at_us)]
    bench.plan("frame", [0.0, 30 * MS])
    assert codes(bench.say(lease(200, -1), valve(2, 250_000), led(1, 1, 20_000))) == [
        (2, Code.NO_LEASE),
        (1, Code.NO_LEASE),
    ]
    (hello,) = bench.say(HelloQuery(9))
    assert isinstance(hello, HelloReply)
    assert hello.boot_id == bench.boot_id == BOOT + 1  # the stand-in's is drawn; here the bench counts
    bench.run(300 * MS)
    assert len(bench.edges) == 4
    after = status(bench)
    assert (after.boot_id, after.valve_open_ms, after.led_pulses, after.flags) == (BOOT + 1, 0, 0, 0)
    assert codes(bench.say(LEASE, valve(3, 1000))) == [(3, Code.OK)]


def test_boot_ids_of_many_boots_differ(bench: Bench) -> None:
    seen = set()
    for _ in range(5):
        bench.reset()
        (hello,) = bench.say(HelloQuery(1))
        assert isinstance(hello, HelloReply)
        seen.add(hello.boot_id)
    assert len(seen) == 5


def test_a_boot_id_that_carries_over_bytes_is_new_whatever_came_before() -> None:
    bench = SimavrBench(0x0000FFFE)
    try:
        ids = []
        for _ in range(3):
            (hello,) = bench.say(HelloQuery(1))
            assert isinstance(hello, HelloReply)
            ids.append(hello.boot_id)
            bench.reset()
        assert ids == [0xFFFE, 0xFFFF, 0x10000]
    finally:
        bench.close()


# ---------------------------------------------------------------- all decide alike

GUARD_US = 500
"""The firmware's guard looks at the lease this often; between its looks a pin may stay high."""

GOOD_US = st.sampled_from([250_000, 250_000, 250_000, 1, 0, -1, 1_000_000, 1_000_001])
spoken = st.one_of(
    st.builds(lease, st.integers(-50, 1100), st.sampled_from([0, 0, 0, 1])),
    st.builds(valve, st.integers(0, 20), st.integers(0, 260_000), GOOD_US),
    st.builds(led, st.integers(0, 20), st.integers(0, 2), st.integers(0, 25_000), GOOD_US),
    st.builds(Safe, st.integers(0, 20)),
    st.builds(StatusQuery, st.integers(0, 20)),
)
happenings = st.lists(
    st.tuples(
        st.integers(0, 60_000), st.one_of(spoken, spoken, st.sampled_from(["frame", "lick"]), st.binary(max_size=80))
    ),
    max_size=60,
)


def played(bench: Bench, happening: list[tuple[int, Packet | Unsent | str | bytes]]) -> Bench:
    for wait_us, what in happening:
        bench.run(wait_us)
        if isinstance(what, str):
            bench.plan(what, [0.0])
            bench.run(0)
        else:
            bench.write(what + b"\0" if isinstance(what, bytes) else bench.bytes_of(what))
    bench.run(400 * MS)
    bench.say(StatusQuery(1))
    return bench


@settings(max_examples=300)
@given(happenings)
def test_stand_in_and_firmware_core_decide_alike(happening: list[tuple[int, Packet | Unsent | str | bytes]]) -> None:
    model, core = played(StandInBench(BOOT), happening), played(HostBench(BOOT), happening)
    for pin in ("valve", "led"):
        assert [e.level for e in model.of(pin)] == [e.level for e in core.of(pin)]
        assert [e.t_us for e in core.of(pin)] == pytest.approx([e.t_us for e in model.of(pin)], abs=GUARD_US)
    for kind in (Ack, PulseDone, LickCount, Status):
        ours, theirs = ([p for p in b.packets if isinstance(p, kind)] for b in (model, core))
        assert [p.id for p in ours] == [p.id for p in theirs] or kind is LickCount
        for a, b in zip(ours, theirs, strict=True):
            for field in a.__struct_fields__[1:]:
                slack = {"close_us": GUARD_US, "led_on_ms": 1, "valve_open_ms": 1}.get(field, 0)
                assert abs(getattr(a, field) - getattr(b, field)) <= slack, (a, b)


def test_the_test_of_likeness_sees_pulses() -> None:
    """The property above would hold for two dead controllers, too."""
    some = [(0, LEASE), (0, valve(1, 30_000)), (0, led(2, 1, 6000)), (0, "frame"), (1000, "lick")]
    bench = played(HostBench(BOOT), some)
    assert {e.pin for e in bench.edges} == {"valve", "led"}
    assert any(isinstance(p, LickCount) for p in bench.packets)


# ---------------------------------------------------------------- the firmware alone


@pytest.fixture
def firmware() -> Iterator[SimavrBench]:
    bench = SimavrBench(BOOT)
    yield bench
    bench.close()


@pytest.mark.parametrize("how", ["", "deaf"])
def test_a_hung_loop_ends_in_pins_low_by_the_watchdog(firmware: SimavrBench, how: str) -> None:
    """With interrupts alive the valve's own timer still closes it; deaf, only the watchdog is left."""
    firmware.write(firmware.bytes_of(LEASE, led(1, 1, 20_000), valve(2, 30_000)))
    firmware.plan("frame", [n * 10 * MS for n in range(40)])
    firmware.run(5 * MS)
    assert [e.level for e in firmware.edges] == [1, 1]
    hung_us = firmware.now_us
    firmware.hang(how)
    firmware.run(400 * MS)
    (reset_us,) = firmware.resets
    assert reset_us - hung_us <= 70 * MS
    assert firmware.edges[-1].t_us <= reset_us
    assert {e.pin: e.level for e in firmware.edges} == {"valve": 0, "led": 0}
    if not how:
        assert firmware.pulses("valve")[0][1] == near(30 * MS)
    (hello,) = firmware.say(HelloQuery(9))
    assert isinstance(hello, HelloReply)
    assert hello.boot_id == BOOT + 1


def test_a_pulse_whose_timer_misses_its_moment_ends_with_the_next_look(firmware: SimavrBench) -> None:
    """A trigger in the very moment in which the valve's time is up: in simavr, starting the LED's timer then clears the
    valve's match, too. The main loop, or the look at all deadlines every 0.5 ms, ends the pulse."""
    open_us, width_us = 20_000, []
    firmware.say(LEASE, led(1000, 1, 1000))
    for n in range(80):
        firmware.write(firmware.bytes_of(LEASE, valve(n, open_us)))
        firmware.run(1 * MS)
        up_us = firmware.of("valve")[-1].t_us
        firmware.plan("frame", [up_us + open_us - 80 + 1.25 * n - firmware.now_us])
        firmware.run(30 * MS)
        width_us.append(firmware.pulses("valve")[-1][1])
    print(f"at most {max(width_us) - open_us:.1f} us too long (n {len(width_us)})")
    assert len(width_us) == len(firmware.pulses("valve")) == 80
    assert max(width_us) <= open_us + 500 + NEAR_US
    assert min(width_us) >= open_us - NEAR_US


def test_pins_are_low_from_the_first_instruction_on(firmware: SimavrBench) -> None:
    firmware.run(1 * S)
    assert firmware.edges == []


@pytest.mark.parametrize("wheel_hz", [0, 10_000])
def test_a_busy_board_keeps_its_times(firmware: SimavrBench, wheel_hz: int) -> None:
    """Everything at once: leases, queries, licks, frames, a running wheel, noise on the line."""
    rng = random.Random(7)
    firmware.say(LEASE, led(1, 1, 6000))
    if wheel_hz:
        firmware.wheel(2 * wheel_hz, 1e6 / wheel_hz)
    frames = [firmware.now_us + 100 + n * 32_342 for n in range(60)]
    firmware.plan("frame", [t - firmware.now_us for t in frames])
    firmware.plan("lick", [n * 120 * MS for n in range(16)])
    asked: list[int] = []
    while firmware.now_us < frames[-1] + 20 * MS:
        open_us = rng.randrange(1_000, 30_000)
        answers = firmware.say(LEASE, StatusQuery(5), rng.randbytes(20) + b"\0", valve(10 + len(asked), open_us))
        assert codes(answers) == [(10 + len(asked), Code.OK)]
        asked.append(open_us)
        firmware.run(40 * MS)
    errors = [w - us for (_, w), us in zip(firmware.pulses("valve"), asked, strict=True)]
    latencies = [b - t for (b, _), t in zip(firmware.pulses("led"), frames, strict=True)]
    leds = [w - 6000 for _, w in firmware.pulses("led")]
    print(
        f"wheel {wheel_hz} Hz: valve width error {min(errors):.1f} to {max(errors):.1f} us (n {len(errors)}); "
        f"LED width error {min(leds):.1f} to {max(leds):.1f} us, trigger to light {min(latencies):.1f} to "
        f"{max(latencies):.1f} us (n {len(leds)})"
    )
    assert max(map(abs, errors)) <= NEAR_US
    assert max(map(abs, leds)) <= NEAR_US
    assert 0 <= min(latencies) <= max(latencies) <= NEAR_US
    firmware.run(100 * MS)
    licks = [p.count for p in firmware.packets if isinstance(p, LickCount)]
    assert licks == list(range(1, 17))
    assert [p.count for p in firmware.packets if isinstance(p, WheelCount)][-1] == 2 * wheel_hz
