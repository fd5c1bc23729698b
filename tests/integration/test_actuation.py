"""The actuation service against the stand-in controller, over a pseudo-terminal and over TCP.

Widths are judged in controller time, safety in the pin log. A machine that stalls may end a lease in mid-test, which
is right; so rewards are asked for until one is not cut short, and none may ever be too long.
"""

import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from loop2p.actuation import CalibrationPoint, Limits, ValveCalibration
from loop2p.actuation.service import Actuation, ActuationOptions
from loop2p.protocol import (
    Accepted,
    Alarm,
    Cause,
    Done,
    Heartbeat,
    Lick,
    Message,
    OptoCommand,
    Phase,
    Refused,
    RewardCommand,
    Session,
    Wheel,
    seal,
)
from loop2p.runtime import RigClock
from loop2p.simulation.controller import Controller, PinEdge, read_pin_log

MS = 1_000_000
PATIENCE_S = 30.0
CALIBRATION = ValveCalibration("2026-11-02", [CalibrationPoint(50, 4.0), CalibrationPoint(190, 16.0)])
CAUSE = Cause(frame=7, plane=0, time_s=0.2, arrival_ns=1)
FIRST_US = 2**32 - 1_500_000
"""Controller time wraps 1.5 s after its start."""

M = TypeVar("M", bound=Message)


class Host:
    """The service and a loop that does what the runtime does, with task and decoding at will."""

    def __init__(self, url: str, folder: Path, limits: Limits | None = None, instance: str = "a1") -> None:
        options = ActuationOptions(
            controller=url, valve=CALIBRATION, limits=limits or Limits(), calibration_stale_days=0
        )
        self.instance, self.clock = instance, RigClock()
        log = logging.getLogger("test.actuation")
        self.service = Actuation(options, instance, 30.92, folder / "ration.jsonl", self.clock, log)
        self.service.controller.start()
        self.messages: list[Message] = []
        self.beating = {"task", "decoding"}
        self.last_beat_ns = 0
        self._next_id, self._seq = 100, 0

    def say(self, message: Message, source: str = "task", sent_ns: int | None = None) -> list[Message]:
        self._seq += 1
        envelope = seal(message, source, f"{source}-1", self._seq, self.clock.now_ns() if sent_ns is None else sent_ns)
        new = list(self.service.receive(envelope))
        self.messages += new
        return new

    def beat(self) -> None:
        for source in sorted(self.beating):
            self.say(Heartbeat(health="ready"), source)
            self.last_beat_ns = time.perf_counter_ns()

    def turn(self) -> None:
        """Once round the loop: beat if 20 ms have passed, read what is readable or due."""
        if time.perf_counter_ns() - self.last_beat_ns > 20 * MS:
            self.beat()
        (inlet,) = self.service.inputs()
        due_ns = inlet.due_ns()
        wait_s = 0.02 if due_ns is None else min(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9), 0.02)
        ready, _, _ = select.select([inlet.fileno()], [], [], wait_s)
        due_ns = inlet.due_ns()
        if ready or (due_ns is not None and due_ns <= time.perf_counter_ns()):
            self.messages += list(inlet.read())
        self.messages += list(self.service.tick())

    def until(self, what: Callable[[], Any]) -> Any:
        """Go round until `what` gives something."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = what()
            if found:
                return found
            self.turn()
        recent = [m for m in self.messages if not isinstance(m, Wheel)][-10:]
        raise AssertionError(f"waited {PATIENCE_S:g} s in vain; last messages {recent}")

    def of(self, kind: type[M]) -> list[M]:
        return [m for m in self.messages if isinstance(m, kind)]

    def ready(self) -> "Host":
        """Connected and armed, in the closed loop."""
        self.say(Session(run_id="run-1", rig="", task="", animal='name = "m1"', simulated=True))
        self.say(Phase(phase="closed_loop", day=1))
        self.until(lambda: not self.service.why_not_ready() and self.service.gauges()["armed"])
        return self

    def reward(self, ul: float, **changes: Any) -> int:
        """Ask for a reward; its id."""
        self._next_id += 1
        options = {"id": self._next_id, "target": self.instance, "expires_ns": self.clock.now_ns() + 250 * MS}
        self.say(RewardCommand(cause=CAUSE, volume_ul=ul, **options | changes))
        return int(changes.get("id", self._next_id))

    def opto(self, armed: bool, pulse_ms: float = 6.0) -> int:
        self._next_id += 1
        expires_ns = self.clock.now_ns() + 250 * MS
        self.say(
            OptoCommand(id=self._next_id, target=self.instance, expires_ns=expires_ns, armed=armed, pulse_ms=pulse_ms)
        )
        return self._next_id

    def answer(self, command_id: int) -> Done | Refused:
        """What became of a command in the end."""

        def found() -> list[Message]:
            return [m for m in self.messages if isinstance(m, Done | Refused) and m.id == command_id]

        answer = self.until(found)[0]
        assert isinstance(answer, Done | Refused)
        return answer

    def give(self, ul: float) -> Done:
        """Ask until a reward is neither refused nor cut short by a stalled machine."""
        for _ in range(20):
            self.until(lambda: self.service.gauges()["armed"])
            answer = self.answer(self.reward(ul))
            if isinstance(answer, Done) and answer.volume_ul == ul:
                return answer
        raise AssertionError(f"20 rewards asked, none given whole: {self.of(Refused)[-5:]}")

    def close(self) -> None:
        list(self.service.go_safe())
        list(self.service.close())


@pytest.fixture(params=["pty", "tcp"])
def controller(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Controller]:
    if request.param == "pty" and os.name == "nt":
        pytest.skip("Windows has no pseudo-terminals")
    with running(tmp_path, tcp="127.0.0.1:0" if request.param == "tcp" else "") as standin:
        yield standin


class running:
    """A stand-in controller in a thread."""

    def __init__(self, folder: Path, **options: Any) -> None:
        defaults = {"link": str(folder / "tty"), "wires": "127.0.0.1:0", "pin_log": str(folder / "pins.jsonl")}
        self.controller = Controller(Controller.Options(**defaults | {"first_us": FIRST_US} | options))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.controller.run, args=(self.stop,))

    def __enter__(self) -> Controller:
        self.controller.open()
        self.thread.start()
        return self.controller

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.fixture
def host(controller: Controller, tmp_path: Path) -> Iterator[Host]:
    host = Host(controller.serial_url, tmp_path)
    yield host
    host.close()


@pytest.fixture
def wire(controller: Controller) -> Iterator[socket.socket]:
    address, port = controller.wires_address.rsplit(":", 1)
    with socket.create_connection((address, int(port))) as wire:
        yield wire


@pytest.fixture
def pins(tmp_path: Path) -> Callable[[str], list[PinEdge]]:
    return lambda pin: [e for e in read_pin_log(tmp_path / "pins.jsonl") if e.pin == pin]


class SchedulingDelay:
    """The longest that a thread which is due was kept waiting, while this ran."""

    def __enter__(self) -> "SchedulingDelay":
        self.worst_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            asleep_ns = time.perf_counter_ns()
            time.sleep(0.002)
            self.worst_ns = max(self.worst_ns, time.perf_counter_ns() - asleep_ns - 2 * MS)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def true_ns(controller: Controller, t_us: int) -> int:
    """perf_counter of a controller time, from the stand-in's own start."""
    return controller._start_ns + (t_us - FIRST_US) * 1000


def held_open(edges: list[PinEdge]) -> list[int]:
    """Widths of all pulses, microseconds of controller time."""
    rises = [e.t_us for e in edges if e.level]
    falls = [e.t_us for e in edges[1:] if not e.level]  # the first is the power-up
    return [b - a for a, b in zip(rises, falls, strict=True)]


def settle_at_low(host: Host, pins: Callable[[str], list[PinEdge]], *which: str) -> None:
    host.until(lambda: all(pins(pin)[-1].level == 0 for pin in which))


def open_valve(host: Host, pins: Callable[[str], list[PinEdge]]) -> None:
    """The valve is open, for up to 190 ms."""

    def opened() -> bool:
        host.reward(16.0)
        host.turn()
        return pins("valve")[-1].level == 1

    host.until(opened)


# ---------------------------------------------------------------- what is asked is done


def test_a_reward_opens_the_valve_for_the_calibrated_time(
    host: Host, controller: Controller, pins: Callable[[str], list[PinEdge]]
) -> None:
    host.ready()
    done = host.give(4.0)
    assert done.cause == CAUSE
    widths = held_open(pins("valve"))
    assert widths[-1] == 50_000
    assert max(widths) == 50_000
    (accepted,) = [m for m in host.of(Accepted) if m.id == done.id]
    assert accepted.received_ns < done.open_ns
    assert accepted.cause is None  # the runtime gives it the command's own
    bound_ns = host.service.controller.clock.bound_ns
    assert bound_ns is not None
    rise = [e for e in pins("valve") if e.level][-1]
    assert abs(done.open_ns - true_ns(controller, rise.t_us)) <= bound_ns + 2000
    assert done.close_ns - done.open_ns == pytest.approx(50 * MS, rel=1e-2)


def test_times_stay_right_while_the_controllers_clock_wraps(
    host: Host, controller: Controller, pins: Callable[[str], list[PinEdge]]
) -> None:
    host.ready()
    before = host.give(4.0)
    host.until(lambda: controller._now_us() > 2**32 + 300_000)
    after = host.give(4.0)
    rises = {e.t_us: e for e in pins("valve") if e.level}
    assert max(rises) > 2**32
    nearest = min(abs(after.open_ns - true_ns(controller, t_us)) for t_us in rises)
    assert nearest <= (host.service.controller.clock.bound_ns or 0) + 2000
    assert before.open_ns < after.open_ns


def test_no_volume_goes_the_whole_way_and_moves_no_pin(host: Host, pins: Callable[[str], list[PinEdge]]) -> None:
    host.ready()
    done = host.give(0.0)
    assert done.open_ns == done.close_ns
    assert [e.level for e in pins("valve")] == [0]


def test_the_led_fires_a_pulse_at_each_trigger_while_armed(
    host: Host, wire: socket.socket, pins: Callable[[str], list[PinEdge]]
) -> None:
    host.ready()

    def pulses() -> int:
        return sum(e.level for e in pins("led"))

    def fire_until(n: int) -> None:
        """Triggers at about the frame rate, the lease kept alive, until n pulses have been seen."""
        next_s = 0.0

        def enough() -> bool:
            nonlocal next_s
            if time.monotonic() >= next_s:
                wire.sendall(b"frame\n")
                next_s = time.monotonic() + 0.0323
            if not host.service.gauges()["led_armed"]:  # a stalled machine ended the lease
                host.answer(host.opto(True))
            return pulses() >= n

        host.until(enough)

    wire.sendall(b"frame\n")
    fire_until(5)
    assert set(held_open(pins("led")[: 1 + 2 * 4])) == {6_000}
    done = host.answer(host.opto(False))
    assert isinstance(done, Done)
    lit = pulses()
    for _ in range(5):
        wire.sendall(b"frame\nlick\n")
    host.until(lambda: host.of(Lick))  # the lick behind the triggers has arrived
    assert pulses() == lit
    seen_ms = sum(held_open(pins("led"))) // 1000  # the last may have been cut short by disarming
    host.until(lambda: host.service.interlock.ration.led_s.get("m1") == pytest.approx(seen_ms / 1000))


def test_licks_and_wheel_are_reported(host: Host, wire: socket.socket, controller: Controller) -> None:
    host.ready()
    wire.sendall(b"lick\n")
    host.until(lambda: host.of(Lick))
    assert host.of(Lick)[0].count == 1
    assert host.service.counters()["licks"] == 1
    host.until(lambda: host.of(Wheel))
    wire.sendall(b"wheel 250\nwheel -50\nwheel x\n\xff\n" + b"z" * 300 + b"\n")
    host.until(lambda: any(w.count == 200 for w in host.of(Wheel)))
    wheel = next(w for w in host.of(Wheel) if w.count == 200)
    assert wheel.speed_cm_s > 0  # 4.8 cm within 0.1 s
    times = [w.t_ns for w in host.of(Wheel)]
    assert times == sorted(times)
    host.until(lambda: controller.bad_lines == 3)
    host.until(lambda: host.of(Wheel)[-1].speed_cm_s == 0)


# ---------------------------------------------------------------- what must not be done is not


def test_old_foreign_and_strangers_commands_are_refused_with_the_reason(
    host: Host, pins: Callable[[str], list[PinEdge]]
) -> None:
    host.ready()
    late = host.reward(4.0, expires_ns=host.clock.now_ns() - 3 * MS)
    foreign = host.reward(4.0, target="the one before")
    host.say(RewardCommand(id=1, target="a1", expires_ns=host.clock.now_ns() + 250 * MS, volume_ul=4.0), "console")
    reasons = {m.id: m.reason for m in host.of(Refused)}
    assert reasons[late].startswith("command expired")
    assert reasons[foreign] == "command for instance 'the one before', this is 'a1'"
    assert reasons[1] == "command from console, only task may command"
    host.give(0.0)  # the line has been used since
    assert [e.level for e in pins("valve")] == [0]
    assert host.service.counters()["refused"] >= 3


def test_a_repeated_command_is_acknowledged_again_and_done_once(
    host: Host, pins: Callable[[str], list[PinEdge]]
) -> None:
    host.ready()
    host.give(4.0)
    given = sum(e.level for e in pins("valve"))
    command_id = host.reward(4.0)
    for _ in range(5):
        host.reward(4.0, id=command_id)
    host.answer(command_id)
    host.give(0.0)
    assert sum(e.level for e in pins("valve")) <= given + 1
    answers = [m for m in host.messages if isinstance(m, Accepted) and m.id == command_id]
    assert len({m.received_ns for m in answers}) <= 1


def test_nothing_moves_before_task_and_decoding_are_heard(host: Host, pins: Callable[[str], list[PinEdge]]) -> None:
    host.beating = {"task"}
    host.say(Phase(phase="closed_loop", day=1))
    host.until(lambda: host.service.controller.hello)
    answer = host.answer(host.reward(4.0))
    assert isinstance(answer, Refused)
    assert answer.reason == "unarmed: decoding is not heard"
    assert [e.level for e in pins("valve")] == [0]


def test_a_heartbeat_that_was_held_up_counts_from_when_it_was_sent(host: Host) -> None:
    host.ready()
    host.beating.clear()
    host.until(lambda: not host.service.gauges()["armed"])
    for source in ("task", "decoding"):
        host.say(Heartbeat(health="ready"), source, sent_ns=host.clock.now_ns() - 900 * MS)
    assert not host.service.gauges()["armed"]


# ---------------------------------------------------------------- losses


def opened_with_a_short_lease(host: Host, pins: Callable[[str], list[PinEdge]]) -> int:
    """The valve is open for longer than the lease will last; when the last heartbeat was (perf_counter)."""
    for _ in range(50):
        host.beating = {"task", "decoding"}
        host.until(lambda: host.service.gauges()["armed"])
        host.beat()
        host.beating.clear()
        last_ns = host.last_beat_ns
        host.until(lambda last_ns=last_ns: time.perf_counter_ns() - last_ns > 100 * MS)
        rises = sum(e.level for e in pins("valve"))
        host.reward(16.0)
        if isinstance(host.messages[-1], Accepted):
            host.until(lambda rises=rises: sum(e.level for e in pins("valve")) > rises or host.of(Refused))
            if pins("valve")[-1].level:
                return last_ns
    raise AssertionError("the machine stalls too much to open the valve within 100 ms")


@pytest.mark.parametrize("how", ["silence", "hang", "cut"])
def test_loss_closes_the_valve_within_250_ms(host: Host, pins: Callable[[str], list[PinEdge]], how: str) -> None:
    """Silence of task and decoding; actuation itself hangs; the cable is cut."""
    host.ready()
    with SchedulingDelay() as delay:
        lost_ns = opened_with_a_short_lease(host, pins)
        if how == "silence":
            settle_at_low(host, pins, "valve")
        else:
            if how == "cut":
                host.service.controller.port.close()
            while pins("valve")[-1].level:  # nobody turns the service's loop
                time.sleep(0.001)
    fall = pins("valve")[-1]
    assert (fall.ns - lost_ns) / MS <= 250 + delay.worst_ns / MS
    assert held_open(pins("valve"))[-1] < 190_000
    if how == "silence":
        host.until(lambda: host.of(Done))
        assert 0 < host.of(Done)[-1].volume_ul < 16.0
        # the controller's lease ends in whole milliseconds, a moment before the host's
        (alarm,) = host.until(lambda: [a for a in host.of(Alarm) if a.code == "lease-lost" and a.active])
        assert "silent" in alarm.detail


def test_heartbeats_that_return_light_nothing_until_armed_anew(
    host: Host, wire: socket.socket, pins: Callable[[str], list[PinEdge]]
) -> None:
    host.ready()
    host.until(lambda: isinstance(host.answer(host.opto(True)), Done))
    host.beating = {"task"}
    host.until(lambda: not host.service.gauges()["armed"])
    host.beating = {"task", "decoding"}
    host.until(lambda: host.service.gauges()["armed"])
    host.give(0.0)  # a new lease runs
    lit = sum(e.level for e in pins("led"))
    for _ in range(5):
        wire.sendall(b"frame\n")
    wire.sendall(b"lick\n")
    host.until(lambda: host.of(Lick))
    assert sum(e.level for e in pins("led")) == lit
    assert host.service.gauges()["led_armed"] == 0


def test_going_safe_has_the_pins_low_before_it_returns(host: Host, pins: Callable[[str], list[PinEdge]]) -> None:
    host.ready()
    host.until(lambda: isinstance(host.answer(host.opto(True)), Done))
    open_valve(host, pins)
    messages = list(host.service.go_safe())
    if host.service.controller._safe_id is None:  # answered in time
        assert pins("valve")[-1].level == 0
        assert any(isinstance(m, Done) and m.volume_ul <= 16.0 for m in messages)
    settle_at_low(host, pins, "valve", "led")
    answer = host.answer(host.reward(4.0))
    assert isinstance(answer, Refused)
    assert answer.reason == "actuation is leaving"


def start(spawn: Callable[..., "subprocess.Popen[bytes]"], options: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """A stand-in in a process of its own, that can be killed."""
    code = (
        "import json, sys, threading; from loop2p.simulation.controller import Controller;"
        "Controller(Controller.Options(**json.loads(sys.argv[1]))).run(threading.Event())"
    )
    return spawn(sys.executable, "-c", code, json.dumps(options))


@pytest.mark.parametrize("kind", ["pty", "tcp"])
def test_a_controller_killed_in_mid_pulse_comes_back_low_and_repeats_nothing(
    kind: str,
    tmp_path: Path,
    spawn: Callable[..., "subprocess.Popen[bytes]"],
    free_ports: Callable[[int], list[int]],
    pins: Callable[[str], list[PinEdge]],
) -> None:
    if kind == "pty" and os.name == "nt":
        pytest.skip("Windows has no pseudo-terminals")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    options = {
        "tcp": address if kind == "tcp" else "",
        "link": str(tmp_path / "tty"),
        "wires": "",
        "pin_log": str(tmp_path / "pins.jsonl"),
    }
    process = start(spawn, options)
    host = Host(f"socket://{address}" if kind == "tcp" else options["link"], tmp_path)
    try:
        host.ready()
        host.give(4.0)
        open_valve(host, pins)
        process.kill()
        process.wait()
        before = pins("valve")
        host.until(lambda: [a for a in host.of(Alarm) if a.code == "controller-lost" and a.active])
        if before[-1].level:  # the kill was in time
            host.until(lambda: [m for m in host.of(Refused) if "counts as given" in m.reason])
        assert host.service.why_not_ready()
        refused = host.answer(host.reward(4.0))
        assert isinstance(refused, Refused)
        assert refused.reason == "unarmed: the controller is not connected"

        start(spawn, options)
        host.until(lambda: not host.service.why_not_ready() and host.service.gauges()["armed"])
        host.until(lambda: [a for a in host.of(Alarm) if a.code == "controller-lost" and not a.active])
        host.give(0.0)  # the lease runs, commands are obeyed
        after = pins("valve")[len(before) :]
        assert [e.level for e in after] == [0]  # the power-up and nothing else
        host.give(4.0)
        assert [e.level for e in pins("valve")[len(before) :]][1:3] == [1, 0]
    finally:
        host.close()


# ---------------------------------------------------------------- limits outlive restarts


def test_the_ration_survives_a_restart_of_the_service(controller: Controller, tmp_path: Path) -> None:
    limits = Limits(session_ul=12, day_ul=100)
    first = Host(controller.serial_url, tmp_path, limits)
    try:
        first.ready()
        first.reward(4.0)
        first.reward(4.0)  # while the first is open: the controller refuses it, and it counts as given
        given = first.service.gauges()["session_ul"]
        assert given >= 4.0
        first.service.controller.close()  # the port is free as after a kill; nothing is said or written any more
        second = Host(controller.serial_url, tmp_path, limits, instance="a2")
        try:
            assert not second.service.gauges()["armed"]
            assert second.service.gauges()["session_ul"] == given
            second.ready()
            reasons: list[str] = []
            while not any("exceeds the session's ration of 12 ul" in r for r in reasons):
                second.until(lambda: second.service.gauges()["armed"])
                answer = second.answer(second.reward(4.0))
                reasons += [answer.reason] if isinstance(answer, Refused) else []
            assert second.service.gauges()["session_ul"] == 12.0
            second.until(lambda: [a for a in second.of(Alarm) if a.code == "ration-used-up" and a.active])
        finally:
            second.close()
    finally:
        list(first.service.close())


def test_a_ration_file_that_cannot_be_read_is_not_ready(controller: Controller, tmp_path: Path) -> None:
    (tmp_path / "ration.jsonl").write_text("no JSON\n")
    host = Host(controller.serial_url, tmp_path)
    try:
        host.say(Phase(phase="closed_loop", day=1))
        host.until(lambda: host.service.controller.hello)
        (why,) = host.service.why_not_ready()
        assert "ration.jsonl, line 1" in why
        answer = host.answer(host.reward(4.0))
        assert isinstance(answer, Refused)
        assert "ration.jsonl" in answer.reason
    finally:
        host.close()


def test_no_controller_is_not_ready_and_says_where_it_was_looked_for(tmp_path: Path) -> None:
    host = Host(str(tmp_path / "nothing here"), tmp_path)
    try:
        host.until(
            lambda: "nothing here" in host.service.why_not_ready()[0] and "open" in host.service.why_not_ready()[0]
        )
        assert "check cable" in host.service.why_not_ready()[0]
        assert isinstance(host.answer(host.reward(4.0)), Refused)
    finally:
        host.close()
