"""Actuation: commands of task done once, in time, within limits; safe when anything is in doubt."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loop2p.cli.benchmarks.rig import free_ports
from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.verdict import BrokenError, Clause
from loop2p.protocol import Accepted, Done, Heartbeat, OptoCommand, Phase, Refused, RewardCommand
from loop2p.simulation.controller import Controller, read_pin_log

EXPIRES_NS = 250_000_000
UL, MS_A_UL = 4.0, 10.0


class ActuationTest(RoleTest):
    """A stand-in controller is at LOOP2P_CONTROLLER, as "socket://host:port", and keeps a log of its pins."""

    hears = (("task", "task.reward"), ("task", "task.opto"), ("task", "task.phase"))

    def options(self) -> dict[str, Any]:
        serial, wires = free_ports(2)
        self.tcp, self.wires, self.pin_log = f"127.0.0.1:{serial}", f"127.0.0.1:{wires}", self.folder / "pins.jsonl"
        self.next_id = 1
        return {
            "controller": f"socket://{self.tcp}",
            "calibration_stale_days": 0,
            "valve": {"date": "2026-11-02", "points": [{"open_ms": MS_A_UL * 4, "ul": 4}, {"open_ms": 200, "ul": 20}]},
        }

    def surroundings(self) -> dict[str, str]:
        return {"LOOP2P_CONTROLLER": f"socket://{self.tcp}"}

    @contextmanager
    def around(self) -> Iterator[None]:
        options = Controller.Options(tcp=self.tcp, wires=self.wires, pin_log=str(self.pin_log))
        controller, stop = Controller.from_rig(options, self.stage.rig_file), threading.Event()
        thread = threading.Thread(target=controller.run, args=(stop,), name="controller")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def begin(self) -> None:
        stage = self.stage
        for _, topic in self.hears:
            stage.wait(lambda t=topic: stage.listens_to("task", t), f"its subscription to {topic}", 20.0)  # type: ignore[misc]
        super().begin()
        stage.publish("task", Phase(phase="closed_loop", day=1))

    def clauses(self) -> list[Clause]:
        return [
            Clause("a reward is acknowledged, done once and reported, with its cause", self.reward),
            Clause("a command that is repeated is acknowledged again and not done again", self.repeated),
            Clause("a reward of nothing goes the same way", self.nothing),
            Clause("an expired command is refused with its reason", self.expired),
            Clause("a command for another instance is refused with its reason", self.another),
            Clause("one that is too large is refused with its reason", self.too_large),
            Clause("outside a session nothing moves", self.outside),
            Clause("task's silence disarms it", self.silence),
        ]

    # ------------------------------------------------------------ clauses

    def reward(self) -> str:
        command, _ = self.command(UL)
        done = self.stage.next(0, Done, f"done of command {command.id}", lambda m: m.id == command.id)
        open_ms = (done.close_ns - done.open_ns) / 1e6
        if done.cause != command.cause or abs(done.volume_ul - UL) > 0.5:
            raise BrokenError(f"{done.volume_ul} ul with cause {done.cause}, expected {UL} ul and {command.cause}")
        self.settle()
        edges = self.pulses()
        if len(edges) != 1:
            raise BrokenError(f"the valve opened {len(edges)} times, expected once")
        return f"{done.volume_ul:g} ul, open {open_ms:.1f} ms"

    def repeated(self) -> str:
        before = len(self.pulses())
        command, _ = self.command(UL)
        mark = self.stage.mark()
        self.stage.publish("task", command)
        self.stage.next(mark, Accepted, "a second acknowledgement", lambda m: m.id == command.id)
        self.stage.next(0, Done, "done", lambda m: m.id == command.id)
        self.settle()
        if len(self.pulses()) != before + 1:
            raise BrokenError(f"the valve opened {len(self.pulses()) - before} times for one command sent twice")
        return "once"

    def nothing(self) -> str:
        before = len(self.pulses())
        self.command(0.0)
        self.settle()
        if len(self.pulses()) != before:
            raise BrokenError("the valve opened for 0 ul")
        return "acknowledged, valve closed"

    def expired(self) -> str:
        return self.refused(self.make(UL, expires_ns=time.perf_counter_ns() - 1_000_000))

    def another(self) -> str:
        return self.refused(self.make(UL, target="actuation-somebody-else"))

    def too_large(self) -> str:
        return self.refused(self.make(1e6))

    def outside(self) -> str:
        self.stage.publish("task", Phase(phase="ended", day=1))
        try:
            return self.refused(self.make(UL))
        finally:
            self.stage.publish("task", Phase(phase="closed_loop", day=1))
            self.works()

    def silence(self) -> str:
        stage = self.stage
        self.arm()
        stage.silent.add("task")
        try:
            stage.passing(0.5)
            told = self.refused(self.make(UL))
        finally:
            stage.silent.discard("task")
        stage.passing(0.3)
        self.works()
        return told

    # ------------------------------------------------------------ helpers

    def works(self) -> None:
        """A reward of nothing is taken, once it is armed again."""

        def armed() -> bool:
            command = self.make(0.0)
            mark = self.stage.mark()
            self.stage.publish("task", command)
            self.stage.wait(lambda: self.answers(mark, command.id) or None, f"an answer to command {command.id}")
            return any(isinstance(m, Accepted) for m in self.answers(mark, command.id))

        self.stage.wait(armed, "a reward of 0 ul to be accepted")

    def arm(self) -> None:
        expires_ns = time.perf_counter_ns() + EXPIRES_NS
        command = OptoCommand(
            id=self.take_id(), target=self.instance, expires_ns=expires_ns, armed=True, pulse_ms=3.0
        )  # fmt: skip
        mark = self.stage.mark()
        self.stage.publish("task", command)
        self.stage.next(mark, Accepted, "the LED command's acknowledgement", lambda m: m.id == command.id)

    def command(self, ul: float) -> tuple[RewardCommand, Accepted]:
        """A reward that is accepted."""
        self.works()
        command, mark = self.make(ul), self.stage.mark()
        self.stage.publish("task", command)
        self.stage.wait(lambda: self.answers(mark, command.id) or None, f"an answer to command {command.id}")
        answer = self.answers(mark, command.id)[0]
        if not isinstance(answer, Accepted):
            raise BrokenError(f"{ul:g} ul refused: {answer.reason}")
        return command, answer

    def refused(self, command: RewardCommand) -> str:
        mark, before = self.stage.mark(), len(self.pulses())
        self.stage.publish("task", command)
        self.stage.wait(lambda: self.answers(mark, command.id) or None, f"an answer to command {command.id}")
        answer = self.answers(mark, command.id)[0]
        self.settle()
        if not isinstance(answer, Refused) or not answer.reason or len(self.pulses()) != before:
            raise BrokenError(f"{type(answer).__name__}, valve opened {len(self.pulses()) - before} times")
        return answer.reason

    def answers(self, mark: int, command_id: int) -> list[Accepted | Refused]:
        found = [e.message for e in self.stage.heard[mark:]]
        return [m for m in found if isinstance(m, Accepted | Refused) and m.id == command_id]

    def make(self, ul: float, target: str = "", expires_ns: int = 0) -> RewardCommand:
        return RewardCommand(
            id=self.take_id(),
            target=target or self.instance,
            expires_ns=expires_ns or time.perf_counter_ns() + EXPIRES_NS,
            volume_ul=ul,
            cause=self.stage.cause(),
        )

    def take_id(self) -> int:
        self.next_id += 1
        return self.next_id

    @property
    def instance(self) -> str:
        return self.stage.envelopes(0, Heartbeat)[-1].header.instance

    def settle(self) -> None:
        """Longer than the valve is open."""
        self.stage.passing(0.1)

    def pulses(self) -> list[float]:
        """When the valve opened."""
        edges = read_pin_log(self.pin_log) if self.pin_log.exists() else []
        return [edge.t_us for edge in edges if edge.pin == "valve" and edge.level]
