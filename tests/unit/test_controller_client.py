"""Host and firmware over a bad line, in virtual time: each command is done at most once and always answered."""

import random
from collections import Counter

import pytest

from loop2p.actuation.controller_client import (
    Answered,
    ControllerClient,
    Delivered,
    Down,
    Failed,
    Licked,
    News,
    Up,
)
from loop2p.actuation.link import PROTOCOL, HelloReply, Lease, Led, Status, encode
from loop2p.actuation.serial_port import Closed, Event, Opened, Received
from loop2p.simulation.controller_core import ControllerCore

MS = 1_000_000
START_NS = 5_000_000_000


class BadLine:
    """A port to a modelled controller that damages and loses bytes. Time is the test's."""

    url = "line"

    def __init__(self, seed: int = 0, damage: float = 0.0) -> None:
        self.random, self.damage = random.Random(seed), damage
        self.now_ns = START_NS
        self.core = ControllerCore(boot_id=1)
        self.events: list[Event] = [Opened()]
        self.reopened = 0
        self.cut = False
        self.openings = 0
        self.core.advance(self._us())

    def _us(self) -> int:
        return self.now_ns // 1000

    def restart(self) -> None:
        """A brown-out: a new boot that remembers nothing, and the port stays."""
        self.core.power_off(self._us())
        self.flow()
        self.core = ControllerCore(self.core.boot_id + 1)
        self.core.advance(self._us())

    def flow(self) -> None:
        self.core.advance(self._us())
        self.openings += sum(e.level for e in self.core.take_edges() if e.pin == "valve")
        data = self._hurt(self.core.take_output())
        if data and not self.cut:
            self.events.append(Received(data, self.now_ns))

    def _hurt(self, data: bytes) -> bytes:
        hurt = bytearray()
        for byte in data:
            if self.random.random() < self.damage:
                if self.random.random() < 0.5:
                    hurt.append(self.random.randrange(256))
            else:
                hurt.append(byte)
        return bytes(hurt)

    # what ControllerClient asks for

    def start(self) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int:
        return -1

    def wait(self, timeout_s: float) -> None:
        self.now_ns += MS
        self.flow()

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def write(self, data: bytes) -> bool:
        if not self.cut:
            self.core.receive(self._hurt(data), self._us())
            self.flow()
        return True

    def reopen(self, reason: str) -> None:
        self.reopened += 1
        self.events += [Closed(reason), Opened()]


def run(line: BadLine, client: ControllerClient, ms: int, lease: bool = True) -> list[News]:
    """Go on for some virtual time, the lease renewed at 20 Hz."""
    news: list[News] = []
    for _ in range(ms):
        line.now_ns += MS
        line.flow()
        if lease and (line.now_ns - START_NS) // MS % 50 == 0:
            client.lease(line.now_ns + 200 * MS)
        news += client.take()
    return news


def connected(seed: int = 0, damage: float = 0.0) -> tuple[BadLine, ControllerClient]:
    line = BadLine(seed, damage)
    client = ControllerClient(line, lambda: line.now_ns)
    run(line, client, 300)
    return line, client


def of(kind: type, news: list[News]) -> list[News]:
    return [n for n in news if isinstance(n, kind)]


def test_handshake_by_query_then_clock_then_up() -> None:
    line = BadLine()
    client = ControllerClient(line, lambda: line.now_ns)
    news = run(line, client, 100)
    assert [type(n) for n in news if not isinstance(n, Status)][:1] == [Up]
    assert client.hello is not None
    assert client.clock.ready


def test_a_reward_is_answered_and_delivered_with_its_times() -> None:
    line, client = connected()
    sent_ns = line.now_ns
    client.valve(7, 50_000, sent_ns + 250 * MS)
    news = run(line, client, 100)
    assert of(Answered, news) == [Answered(7, sent_ns)]
    assert of(Delivered, news) == [Delivered(7, sent_ns, sent_ns + 50 * MS, 50_000)]


def test_ids_beyond_32_bits_come_back_whole() -> None:
    line, client = connected()
    client.valve(2**40 + 3, 0, line.now_ns + 250 * MS)
    assert [n.id for n in of(Delivered, run(line, client, 5)) if isinstance(n, Delivered)] == [2**40 + 3]


def test_a_refusal_of_the_controller_is_told_in_words() -> None:
    line, client = connected()
    client.valve(7, 10_000_000, line.now_ns + 250 * MS)
    assert of(Failed, run(line, client, 5)) == [Failed(7, "longer than the controller allows")]


def test_an_id_that_an_earlier_host_has_used_is_refused() -> None:
    line, client = connected()
    client.valve(7, 1_000, line.now_ns + 250 * MS)
    run(line, client, 50)
    successor = ControllerClient(line, lambda: line.now_ns)
    line.events = [Opened()]
    run(line, successor, 300)
    successor.valve(7, 1_000, line.now_ns + 250 * MS)
    (failed,) = of(Failed, run(line, successor, 50))
    assert isinstance(failed, Failed)
    assert "knows this id" in failed.reason
    assert line.openings == 1


@pytest.mark.parametrize("seed", range(25))
def test_over_a_bad_line_each_command_is_done_at_most_once_and_answered_once(seed: int) -> None:
    line, client = connected(seed, damage=0.01)
    news, answers = [], Counter[int]()
    for command_id in range(40):
        if client.hello is not None:
            client.valve(command_id, 5_000, line.now_ns + 250 * MS)
            answers[command_id] = 0
        news += run(line, client, 60)
    news += run(line, client, 1_000)
    for n in news:
        if isinstance(n, Delivered | Failed):
            answers[n.id] += 1
    assert set(answers.values()) == {1}
    assert len(of(Delivered, news)) <= line.openings <= len(answers)
    assert len(of(Delivered, news)) >= 25  # one packet in six is lost; the repeats get through
    assert client.decoder.rejected.total() > 0


@pytest.mark.parametrize("wait_ms", range(0, 60, 3))
def test_a_restart_at_any_moment_repeats_nothing(wait_ms: int) -> None:
    line, client = connected()
    line.damage = 1.0  # the command's first copy is lost, so that it is under way when the controller restarts
    client.valve(7, 20_000, line.now_ns + 250 * MS)
    line.damage = 0.0
    news = run(line, client, wait_ms)
    before = line.openings
    line.restart()
    news += run(line, client, 1_500)
    assert line.openings == before
    assert len(of(Delivered, news)) + len(of(Failed, news)) == 1
    assert len(of(Down, news)) == len(of(Up, news)) == 1
    client.valve(8, 20_000, line.now_ns + 250 * MS)
    assert len(of(Delivered, run(line, client, 50))) == 1  # and goes on with the new boot


def test_a_lost_port_ends_what_is_under_way_and_its_return_fires_nothing() -> None:
    line, client = connected()
    line.cut = True
    client.valve(7, 20_000, line.now_ns + 250 * MS)
    line.events.append(Closed("unplugged"))
    news = run(line, client, 30)
    assert of(Failed, news) == [Failed(7, "unplugged; unanswered, counts as given")]
    assert of(Down, news) == [Down("unplugged")]
    line.cut = False
    line.events.append(Opened())
    news = run(line, client, 500)
    assert len(of(Up, news)) == 1
    assert line.openings == 0


def test_silence_for_a_second_is_a_loss() -> None:
    line, client = connected()
    line.cut = True
    assert of(Down, run(line, client, 700)) == []  # the last answer may be 0.25 s old
    assert of(Down, run(line, client, 350)) == [Down("line: no answer for 1 s")]
    assert line.reopened == 1
    assert client.hello is None


def test_no_answer_in_time_is_told_and_counts_as_given() -> None:
    line, client = connected()
    line.cut = True
    client.valve(7, 20_000, line.now_ns + 250 * MS)
    assert of(Failed, run(line, client, 251)) == [Failed(7, "the controller did not answer in time; counts as given")]
    line.cut = False
    run(line, client, 500)
    assert line.openings == 0


def test_safe_is_obeyed_with_a_valve_open_and_settles_with_its_report() -> None:
    line, client = connected()
    client.valve(7, 100_000, line.now_ns + 250 * MS)
    run(line, client, 10)
    client.safe()
    (delivered,) = of(Delivered, client.settle(100))
    assert isinstance(delivered, Delivered)
    assert delivered.open_us == 10_000


def test_settling_with_a_dead_line_ends() -> None:
    line, client = connected()
    line.cut = True
    client.safe()
    began_ns = line.now_ns
    client.settle(100)
    assert line.now_ns - began_ns == 100 * MS


def test_another_protocol_is_not_commanded() -> None:
    line = BadLine()
    client = ControllerClient(line, lambda: line.now_ns)
    client.take()
    (asked,) = client._asked
    hello = HelloReply(asked, PROTOCOL + 1, 1, 1, 0, 200, 250, 1, 200, 100, b"x")
    line.events = [Received(encode(hello), line.now_ns)]
    client.take()
    assert client.hello is None
    assert f"speaks protocol {PROTOCOL + 1}, expected {PROTOCOL}" in client.why_down


def test_licks_come_with_host_time() -> None:
    line, client = connected()
    line.core.lick(line.now_ns // 1000)
    line.flow()
    assert of(Licked, client.take()) == [Licked(1, line.now_ns)]


def test_due_is_never_in_the_past_after_taking() -> None:
    line, client = connected(damage=0.01)
    client.valve(7, 20_000, line.now_ns + 250 * MS)
    for _ in range(2_000):
        run(line, client, 1)
        due_ns = client.due_ns()
        assert due_ns is None or due_ns > line.now_ns


def test_who_opens_the_line_makes_it_safe_first_and_commands_nothing_before_that_is_answered() -> None:
    line = BadLine()
    line.core.receive(encode(Lease(0, 1, line.now_ns // 1000 + 200_000)), line.now_ns // 1000)
    line.core.receive(encode(Led(9, 1, line.now_ns // 1000 + 200_000, 1, 6_000)), line.now_ns // 1000)
    client = ControllerClient(line, lambda: line.now_ns)
    line.cut = True
    client.take()
    line.cut = False
    for _ in range(49):  # SAFE was lost: nobody is up until it has been said again
        assert run(line, client, 1, lease=False) == []
        assert not client.lease(line.now_ns + 200 * MS)
    run(line, client, 100, lease=False)
    assert client.hello is not None
    line.core.frame(line.now_ns // 1000)
    line.flow()
    assert line.core.take_edges() == []
    assert client.lease(line.now_ns + 200 * MS)


def test_a_newer_command_for_the_led_ends_an_older_one_that_is_unanswered() -> None:
    line, client = connected()
    client.lease(line.now_ns + 200 * MS)
    line.cut = True
    client.led(7, True, 6_000, line.now_ns + 250 * MS)
    line.cut = False
    client.led(8, False, 0, line.now_ns + 250 * MS)
    assert client.due_ns() == 0
    news = run(line, client, 300)
    (failed,) = of(Failed, news)
    assert isinstance(failed, Failed)
    assert failed.id == 7
    assert "a newer command" in failed.reason
    assert [n.id for n in of(Answered, news)] == [8]  # type: ignore[union-attr]
    line.core.frame(line.now_ns // 1000)
    assert line.core.take_edges() == []


def test_what_is_unanswered_when_it_is_made_safe_is_never_sent_again() -> None:
    line, client = connected()
    line.cut = True
    client.valve(7, 20_000, line.now_ns + 250 * MS)
    line.cut = False
    client.safe()
    news = run(line, client, 400)
    assert [n.id for n in of(Failed, news)] == [7]  # type: ignore[union-attr]
    assert line.openings == 0
