"""Services that do what a test of the gateway tells them, by their control sockets, each in a thread of the test."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rigs import rig_text

from loop2p.protocol import (
    ROLES,
    Alarm,
    Done,
    Heartbeat,
    Message,
    Phase,
    RequestLog,
    RigFile,
    Session,
    Trial,
    control,
)
from loop2p.runtime import Service, ask_answer
from loop2p.runtime.keys import OPERATOR, load_keys
from loop2p.runtime.process import Process


class ToyTask(Service):
    """Task's place: a session of which every edge is asked for. Obeys what an operator may ask, and keeps a record."""

    subscribes = (Heartbeat,)
    publishes = (Session, Phase, Trial, RequestLog)

    def __init__(self) -> None:
        self.phase = "idle"
        self.asked: list[control.Ask] = []
        """What was asked, but for what the test itself makes it do."""
        self.given_nl = 0

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        if ask.kind == "trials":  # the test's: so many whole trials, numbered from `first`
            first, n = int(ask.args["first"]), int(ask.args["n"])
            edges = [Trial(trial=k, edge=e, t_s=float(k)) for k in range(first, first + n) for e in ("start", "hit")]  # type: ignore[arg-type]
            return control.Answer(True), edges
        if ask.kind == "reason":  # the test's: a phase that changes again and again
            return control.Answer(True), [self._phase(ask.args["text"])]
        self.asked.append(ask)
        if ask.kind == "start":
            if self.phase not in ("idle", "ended"):
                return control.Answer(False, "a run is going on"), ()
            self.phase = "closed_loop"
            session = Session(run_id=ask.args["run_id"], rig="", task=ask.args.get("task", ""), simulated=True)
            return control.Answer(True, "preparing"), [session, self._phase(), self._log(ask)]
        after = {"pause": "paused", "resume": "closed_loop", "stop": "ended", "abort": "ended", "note": self.phase}
        if ask.kind not in after:
            return control.Answer(False, f"unknown request {ask.kind!r}"), ()
        if ask.kind == "resume" and self.phase != "paused":
            return control.Answer(False, "not paused"), ()
        self.phase = after[ask.kind]
        return control.Answer(True), [self._phase(), self._log(ask)]

    def _phase(self, reason: str = "") -> Phase:
        return Phase(phase=self.phase, day=2, reason=reason)  # type: ignore[arg-type]

    def _log(self, ask: control.Ask) -> RequestLog:
        return RequestLog(kind=ask.kind, by=ask.by, detail=ask.args.get("text", ""), accepted=True)

    def counters(self) -> dict[str, int]:
        return {"given_today_nl": self.given_nl}


class ToyActuation(Service):
    """Actuation's place: says that it gave, raises alarms, and breaks, when told to."""

    publishes = (Done, Alarm)

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        match ask.kind:
            case "give":
                return control.Answer(True), [Done(id=1, open_ns=0, close_ns=1, volume_ul=float(ask.args["ul"]))]
            case "alarm":
                active = ask.args["active"] == "true"
                return control.Answer(True), [Alarm(code=ask.args["code"], active=active, detail="cable, power")]
            case _:
                raise ArithmeticError("frame 7: found nan, expected a number")


class Toys:
    """The services of a rig whose other roles are absent."""

    def __init__(self, rig_file: RigFile) -> None:
        self.rig_file = rig_file
        self._keys = load_keys(rig_file, OPERATOR)
        self._running: dict[str, tuple[Process, threading.Thread]] = {}

    def start(self, name: str) -> Any:
        """Start a service (again); returns it."""
        process = Process(name, self.rig_file)
        thread = threading.Thread(target=process.run, name=name)
        thread.start()
        self._running[name] = process, thread
        return process.service

    def ask(self, name: str, kind: str, **args: str) -> control.Answer:
        return ask_answer(self.rig_file.rig.services[name].control, control.Ask(kind, "test", args), 10.0, self._keys)

    def break_down(self, name: str) -> None:
        """Make it meet a fault; it gives no answer, and ends."""
        ask_answer(self.rig_file.rig.services[name].control, control.Ask("break", "test"), 0.1, self._keys)
        self.join(name)

    def join(self, name: str) -> None:
        """Wait until a service has ended."""
        thread = self._running[name][1]
        thread.join(60)
        assert not thread.is_alive()

    def stop(self) -> None:
        for process, thread in self._running.values():
            if thread.is_alive():
                process.stop()
        for name in self._running:
            self.join(name)


@contextmanager
def toys(rig_file: RigFile, *names: str) -> Iterator[Toys]:
    """These services until the block ends."""
    running = Toys(rig_file)
    try:
        for name in names:
            running.start(name)
        yield running
    finally:
        running.stop()


def toy_text(ports: list[int], data: str) -> str:
    """A rig named "simulated" of which task and actuation are toys."""
    classes = dict.fromkeys(ROLES, "toys:Quiet") | {
        "task": "gateway_toys:ToyTask",
        "actuation": "gateway_toys:ToyActuation",
    }
    return rig_text(ports, data, classes=classes).replace('name = "test"', 'name = "simulated"')
