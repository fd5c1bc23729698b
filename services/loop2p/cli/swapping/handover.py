"""A service that owns a device or a file: its successor waits, ready to go, until it has left between two trials."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loop2p.cli.swapping.ears import Ears
from loop2p.cli.swapping.newcomer import Newcomer, fill_in, own_service, surroundings
from loop2p.protocol import Endpoints, Envelope, Heartbeat, Phase, RequestLog, RigFile, Swap, control
from loop2p.runtime.ask import ask_answer
from loop2p.runtime.keys import OPERATOR, Keys
from loop2p.runtime.restart import RestartPolicy

LOAD_S, BOUNDARY_S, LEAVE_S, COME_S = 60.0, 120.0, 15.0, 30.0
"""At most: to load, until a boundary between trials, for the old one to leave, for the new one to be heard."""


class HandOver:
    """One hand-over. `asked`: grows at each Ctrl-C.

    Somebody else's program is started once the old one has left: it can't be asked to wait for the endpoints.
    """

    def __init__(
        self,
        rig_file: RigFile,
        service: str,
        command: list[str],
        log: Path,
        keys: Keys | None,
        asked: list[int],
        say: Callable[[str], None],
    ) -> None:
        spec = rig_file.rig.services[service]
        self.rig_file, self.service, self.keys, self.asked, self.say = rig_file, service, keys, asked, say
        self.at = Endpoints(spec.publish, spec.bulk, spec.control)
        values = surroundings(service, rig_file, self.at)
        self.waits = not command
        own = own_service(service, rig_file, "--wait")
        self.newcomer = Newcomer(fill_in(command, values) if command else own, values, log, self.at)
        self.stages: dict[str, float] = {}
        """What has happened, and when (time.monotonic)."""
        self._instances: list[str] = []
        self._health = ""
        self._refused = ""
        self._paused = False

    def run(self) -> str:
        """Returns what went wrong, empty if nothing."""
        with Ears(self.keys) as self._ears:
            self._ears.listen("task", self.rig_file.rig.services["task"].publish)
            self._ears.listen(self.service, self.at.publish)
            started = False
            try:
                if self.waits:
                    started = True
                    self.newcomer.start()
                    problem = self._until(LOAD_S, "the newcomer has not loaded", self._has_loaded)
                    if problem:
                        return problem
                problem = self._old_one_leaves()
                if problem:
                    return problem
                if not self.waits:
                    started = True
                    self.newcomer.start()
                else:
                    self.newcomer.go()
                problem = self._new_one_comes()
                return problem or self._supervise()
            finally:
                if started:
                    self.newcomer.end(self.keys)

    def _old_one_leaves(self) -> str:
        self._until(2.0, "", lambda: bool(self._instances))  # its instance, if it is there at all
        answer = self._ask("handover", note=f"{self.service} is handed over")
        if not answer.accepted:
            return f"task refuses: {answer.reason}"
        self.say(f"{self.service}: the successor is loaded; handed over {answer.reason}")
        problem = self._until(BOUNDARY_S, "no boundary between trials", lambda: "handover" in self.stages)
        if problem or not self._instances:
            return problem
        self.stages["stop"] = time.monotonic()
        stopped = ask_answer(self.at.control, control.Stop(by="swap"), 1.0, self.keys)
        if not stopped.accepted:
            self._ask("leave", note="called off")
            return f"the old {self.service} can't be stopped: {stopped.reason}"
        return self._until(LEAVE_S, f"the old {self.service} has not left", lambda: self._health == "stopped")

    def _new_one_comes(self) -> str:
        known = len(self._instances)
        self.stages["go"] = time.monotonic()
        problem = self._until(COME_S, "the newcomer is not heard", lambda: len(self._instances) > known)
        if problem:
            return f"{problem}:\n{self.newcomer.last_words()}"
        self.stages["heard"] = time.monotonic()
        deadline = time.monotonic() + COME_S
        while not (answer := self._ask("leave", note="the successor is there")).accepted:
            if time.monotonic() > deadline or self.asked:
                return f"task refuses: {answer.reason}"
            self._listen()
        took_s = self.stages["heard"] - self.stages.get("stop", self.stages["go"])
        self.say(f"{self.service}: the successor was heard {took_s:.2f} s after the old one was asked to leave")
        return ""

    def _supervise(self) -> str:
        policy = RestartPolicy()
        while not self.asked:
            self._listen()
            code = self.newcomer.code
            if code is None:
                continue
            if code == 0:
                return ""
            args = {"service": self.service, "how": "crash", "code": str(code), "publish": self.at.publish}
            self._ask_task(control.Ask("lost", OPERATOR, args))
            delay_s = policy.delay_s(time.monotonic())
            if delay_s is None:
                return f"the newcomer ended too often:\n{self.newcomer.last_words()}"
            self.say(f"{self.service}: the newcomer ended with code {code}; starts again in {delay_s:g} s")
            until = time.monotonic() + delay_s
            while time.monotonic() < until and not self.asked:
                self._listen()
            self.newcomer.start()
            if self.waits:
                self.newcomer.go()
        return ""

    # ------------------------------------------------------------ what is heard

    def _has_loaded(self) -> bool:
        return "waits for its turn" in self.newcomer.last_words()

    def _until(self, timeout_s: float, what: str, done: Callable[[], bool]) -> str:
        """Listen until it is done; returns what went wrong, empty if nothing."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if self.asked:
                return "stopped"
            if self._refused:
                return f"task refuses: {self._refused}"
            if self.newcomer.process is not None and self.newcomer.code is not None:
                return f"the newcomer ended with code {self.newcomer.code}:\n{self.newcomer.last_words()}"
            if time.monotonic() > deadline:
                return f"{what} within {timeout_s:g} s"
            self._listen()
        return ""

    def _listen(self) -> None:
        for endpoint, envelope in self._ears.wait(0.02):
            self._take(endpoint, envelope)

    def _take(self, endpoint: str, envelope: Envelope) -> None:
        message, header, now = envelope.message, envelope.header, time.monotonic()
        if header.source == "task":
            match message:
                case Swap(service=self.service, stage="handover"):
                    self.stages.setdefault("handover", now)
                case RequestLog(kind="swap", accepted=False) if self.service in message.detail:
                    self._refused = message.reason
                case RequestLog(kind="back", detail=self.service) | RequestLog(kind="resume", by="task"):
                    self.stages.setdefault("back", now)
                case Phase():
                    self._paused = message.phase == "paused"
        if header.source == self.service and isinstance(message, Heartbeat):
            if header.instance not in self._instances:
                self._instances.append(header.instance)
                self._health = ""
            self._health = message.health

    def _ask(self, stage: str, **args: str) -> control.Answer:
        return self._ask_task(control.Ask("swap", OPERATOR, {"service": self.service, "stage": stage, **args}))

    def _ask_task(self, ask: control.Ask) -> control.Answer:
        return ask_answer(self.rig_file.rig.services["task"].control, ask, 2.0, self.keys)

    def result(self) -> dict[str, Any]:
        """Seconds from the old one's being asked to leave."""
        start = self.stages.get("stop", self.stages.get("go", 0.0))
        return {"seconds": {what: at - start for what, at in self.stages.items()}}
