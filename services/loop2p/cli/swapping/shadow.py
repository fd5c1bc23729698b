"""A newcomer beside the service that acts: compared, let act, kept or taken back."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from msgspec import Struct

from loop2p.cli.swapping.comparison import Comparison
from loop2p.cli.swapping.ears import Ears
from loop2p.cli.swapping.newcomer import Newcomer, fill_in, free_endpoints, own_service, surroundings
from loop2p.protocol import Endpoints, Envelope, Fault, Heartbeat, Phase, RequestLog, RigFile, Swap, control
from loop2p.runtime.ask import ask_answer
from loop2p.runtime.keys import OPERATOR, Keys
from loop2p.runtime.restart import RestartPolicy

START_S = 60.0
"""From the start of a newcomer to its first heartbeat."""
BOUNDARY_S = 120.0
"""At most so long until a boundary between trials."""
TASK_GONE_S = 5.0
IN_SESSION = ("baseline", "calibration", "closed_loop", "paused")


class Terms(Struct, frozen=True):
    """Under which a newcomer acts."""

    after_s: float | None = None
    """None: when `enter` is set."""
    shadow_only: bool = False
    keep_s: float = 10.0
    most_difference: float | None = None
    enter: Event | None = None


class ShadowSwap:
    """One swap, from the newcomer's start to its end. `asked`: grows at each Ctrl-C."""

    def __init__(
        self,
        rig_file: RigFile,
        service: str,
        command: list[str],
        log: Path,
        keys: Keys | None,
        terms: Terms,
        asked: list[int],
        say: Callable[[str], None],
        show: Callable[[str], None] = lambda _: None,
        port: int = 0,
    ) -> None:
        spec = rig_file.rig.services[service]
        self.rig_file, self.service, self.keys, self.terms, self.asked = rig_file, service, keys, terms, asked
        self.say, self.show = say, show
        self.old = Endpoints(spec.publish, spec.bulk, spec.control)
        """Where the one is whose place is taken: the rig file's endpoints, or those of an earlier newcomer."""
        at = free_endpoints(self.old, port)
        if keys:
            keys.learn(service, (at.publish, at.bulk, at.control))
        values = surroundings(service, rig_file, at)
        self.external = bool(command)
        own = own_service(service, rig_file, "--shadow")
        self.newcomer = Newcomer(fill_in(command, values) if command else own, values, log, at)
        self.comparison = Comparison()
        self.acting = self.old
        self.shadow: Endpoints | None = None
        self.phase = ""
        self.from_frame: int | None = None
        self._refused = ""
        self._in_session = False
        self._over = False
        self._task = ("", 0.0)
        self._told = False
        """Task knows of the newcomer."""
        self._compares = True
        self._health: dict[str, tuple[str, float]] = {}
        self._policy = RestartPolicy()

    # ------------------------------------------------------------ one after the other

    def run(self) -> str:
        """Returns what went wrong, empty if nothing."""
        with Ears(self.keys) as self._ears:
            task = self.rig_file.rig.services["task"]
            self._ears.listen("task", task.publish)
            self._ears.listen(self.service, self.old.publish)
            self._ears.listen(self.service, self.newcomer.at.publish)
            self.newcomer.start()
            try:
                problem = self._run()
            finally:
                code = self.newcomer.end(self.keys)
                if self._told:
                    self._ask("leave", publish=self.newcomer.at.publish, note="the newcomer has ended")
            return problem or (f"the newcomer ended with code {code}" if code not in (0, -15, -2) else "")

    def _run(self) -> str:
        problem = self._wait_for_newcomer()
        if problem:
            return problem
        self.say(f"{self.service}: the newcomer stands by at {self.newcomer.at.publish}")
        if not self._wait_to_act():
            return self._why_over()
        problem = self._act()
        if problem:
            return problem
        self.say(f"{self.service}: the newcomer acts from frame {self.from_frame} on; {self.comparison.line()}")
        problem = self._keep()
        if problem or self.asked or self._over:
            return problem
        self._send_the_old_one_away()
        return self._supervise()

    def _wait_for_newcomer(self) -> str:
        deadline = time.monotonic() + START_S
        while self.newcomer.at.publish not in self._health:
            self._listen()
            if self.asked:
                return "stopped before the newcomer was heard"
            if self.newcomer.code is not None or time.monotonic() > deadline:
                return f"no heartbeat of the newcomer at {self.newcomer.at.publish}:\n{self.newcomer.last_words()}"
        return self._tell_task()

    def _tell_task(self) -> str:
        at, external = self.newcomer.at, "yes" if self.external else ""
        if self.acting == at:
            answer = self._ask("again", publish=at.publish, bulk=at.bulk, control=at.control, external=external)
        else:
            answer = self._ask("shadow", publish=at.publish, bulk=at.bulk, control=at.control, external=external)
        self._told = self._told or answer.accepted
        return "" if answer.accepted else f"task refuses: {answer.reason}"

    def _wait_to_act(self) -> bool:
        """Compare until it is to act; False if it is not."""
        terms, since = self.terms, time.monotonic()
        while self._goes_on():
            self._listen()
            due = terms.after_s is not None and time.monotonic() - since >= terms.after_s
            pressed = terms.enter is not None and terms.enter.is_set()
            if not terms.shadow_only and (due or pressed):
                return True
        return False

    def _act(self) -> str:
        """Ask task for the exchange and wait for it."""
        most, c = self.terms.most_difference, self.comparison
        if most is not None and (c.largest > most or not c.compared):
            return f"not let act: {c.line()}; expected a difference of at most {most:g}"
        deadline, asked = time.monotonic() + BOUNDARY_S, False
        while self.acting != self.newcomer.at:
            if not asked:
                answer = self._ask("act", note=c.line())
                if not answer.accepted:
                    return f"task refuses: {answer.reason}"
                asked = True
                self.say(f"{self.service}: {answer.reason}")
            self._listen()
            if self._refused:
                return f"task refuses: {self._refused}"
            if not self._goes_on() or time.monotonic() > deadline:
                return self._why_over() or f"no boundary between trials within {BOUNDARY_S:g} s"
        return ""

    def _keep(self) -> str:
        """The old one stands by: back to it on Ctrl-C; task itself goes back where the newcomer is lost."""
        deadline = time.monotonic() + self.terms.keep_s
        while time.monotonic() < deadline:
            self._listen()
            if self.acting != self.newcomer.at:
                return f"{self.service} went back to the old one: {self.newcomer.last_words(2)}"
            if self._over:
                return ""
            if self.asked:
                return self._go_back()
        return ""

    def _go_back(self) -> str:
        answer, deadline = self._ask("back", note="Ctrl-C"), time.monotonic() + BOUNDARY_S
        if not answer.accepted:
            return f"task refuses to go back: {answer.reason}"
        self.say(f"{self.service} goes back to the old one, {answer.reason}; Ctrl-C again: at once")
        while self.acting == self.newcomer.at and len(self.asked) < 2 and time.monotonic() < deadline:
            self._listen()
        return ""

    def _send_the_old_one_away(self) -> None:
        self._compares = False
        answer = ask_answer(self.old.control, control.Stop(by="swap"), 1.0, self.keys)
        deadline = time.monotonic() + 10.0
        while answer.accepted and self._health.get(self.old.publish, ("stopped", 0.0))[0] != "stopped":
            self._listen()
            if time.monotonic() > deadline:
                break
        if not answer.accepted:
            self.say(f"{self.service}: the old one has no control socket: end that program yourself; nobody obeys it")
        self._ask("leave", publish=self.old.publish, note="the old one has left")
        self.say(f"{self.service}: the old one has left")

    def _supervise(self) -> str:
        """Until the session or somebody ends it; what dies is started again."""
        while True:
            self._listen()
            if self.asked or self._over or self.newcomer.at not in (self.acting, self.shadow):
                return ""  # or another one has come after it
            code = self.newcomer.code
            if code is None:
                continue
            if code == 0:
                return ""
            args = {"service": self.service, "how": "crash", "code": str(code), "publish": self.newcomer.at.publish}
            self._ask_task(control.Ask("lost", OPERATOR, args))
            delay_s = self._policy.delay_s(time.monotonic())
            if delay_s is None:
                return f"the newcomer ended too often:\n{self.newcomer.last_words()}"
            self.say(f"{self.service}: the newcomer ended with code {code}; starts again in {delay_s:g} s")
            until = time.monotonic() + delay_s
            while time.monotonic() < until and not self.asked:
                self._listen()
            self.newcomer.start()

    # ------------------------------------------------------------ what is heard

    def _goes_on(self) -> bool:
        return not self.asked and not self._over and self.newcomer.code is None

    def _why_over(self) -> str:
        if self.newcomer.code not in (None, 0):
            return f"the newcomer ended with code {self.newcomer.code}:\n{self.newcomer.last_words()}"
        return ""

    def _listen(self) -> None:
        for endpoint, envelope in self._ears.wait(0.05):
            self._take(endpoint, envelope)
        if self._told and self._task[1] and time.monotonic() - self._task[1] > TASK_GONE_S:
            self._over = True
        self.show(f"{self.service}: {self.comparison.line()}")

    def _take(self, endpoint: str, envelope: Envelope) -> None:
        message, source, now = envelope.message, envelope.header.source, time.monotonic()
        if endpoint == self.rig_file.rig.services["task"].publish:
            self._hear_task(envelope)
        elif source != self.service:
            return
        elif isinstance(message, Heartbeat):
            self._health[endpoint] = message.health, now
        elif isinstance(message, Fault):
            self.say(f"FAULT {message.service}: {message.error}: {message.detail}")
        elif envelope.topic.startswith(f"{self.service}.") and self._compares and endpoint in self._compared:
            self.comparison.take("old" if endpoint == self.old.publish else "new", envelope)

    @property
    def _compared(self) -> tuple[str, str]:
        return self.old.publish, self.newcomer.at.publish

    def _hear_task(self, envelope: Envelope) -> None:
        message = envelope.message
        match message:
            case Swap(service=self.service):
                if message.acting != self.acting and message.acting == self.newcomer.at:
                    self.from_frame = message.from_frame
                self.acting, self.shadow = message.acting, message.shadow
                if message.stage == "shadow" and message.shadow == self.newcomer.at:
                    self._meet(message.acting)
            case RequestLog(kind="swap", accepted=False) if self.service in message.detail and self._told:
                self._refused = message.reason
            case Phase():
                self.phase = message.phase
                self._in_session = self._in_session or message.phase in IN_SESSION
                self._over = self._over or (self._in_session and message.phase == "ended")
            case Heartbeat():
                instance, _ = self._task
                self._task = envelope.header.instance, time.monotonic()
                if instance and instance != envelope.header.instance and self._told:
                    self.say("task was started again: it is told of the newcomer")
                    problem = self._tell_task()
                    if problem:
                        self.say(problem)

    def _meet(self, old: Endpoints) -> None:
        """The one that acts may be a newcomer itself."""
        self.old = old
        self._ears.listen(self.service, old.publish)
        if self.keys:
            self.keys.learn(self.service, (old.publish, old.bulk, old.control))

    # ------------------------------------------------------------ what is asked

    def _ask(self, stage: str, **args: str) -> control.Answer:
        return self._ask_task(control.Ask("swap", OPERATOR, {"service": self.service, "stage": stage, **args}))

    def _ask_task(self, ask: control.Ask) -> control.Answer:
        return ask_answer(self.rig_file.rig.services["task"].control, ask, 2.0, self.keys)

    def result(self) -> dict[str, Any]:
        """The comparison, and from which frame on the newcomer acted, None if it never did."""
        return self.comparison.result() | {"from_frame": self.from_frame, "acts": self.acting == self.newcomer.at}
