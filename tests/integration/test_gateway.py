"""The gateway as a process between a real rig and a real Mosquitto that runs with the files of deploy/mosquitto."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import TAKEN, Broker, Client, Heard, password_of
from gateway_toys import Toys, toy_text, toys
from needs import lacking
from rigs import toml_value
from whole_rig import running, task_text, whole_rig

from loop2p.gateway.outbox import EVENTS
from loop2p.protocol import Phase, RequestLog, RigFile, read_rig
from loop2p.runtime.keys import OPERATOR, make_keys
from loop2p.runtime.monitor import Monitor
from loop2p.runtime.process import EXIT_MISTAKE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the tests stop and freeze the broker by signals")

Ports = Callable[[int], list[int]]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def broker(tmp_path: Path, free_ports: Ports) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker", free_ports(1)[0])
    yield made.start()
    made.stop()


def with_gateway(text: str, folder: Path, port: int, **options: Any) -> RigFile:
    """A rig file with a gateway to a broker of this machine, logged in as the gateway of "simulated"."""
    secret = folder / "password"
    secret.touch(0o600)
    secret.write_text(password_of("gateway-simulated") + "\n", encoding="utf-8")
    (folder / "short.toml").write_text(task_text(), encoding="utf-8")
    login = {"user": "gateway-simulated", "password_file": secret.name}
    lines = ["[companions.gateway]", 'run = "loop2p.gateway:Gateway"', "[companions.gateway.options]"]
    lines += [f"{k} = {toml_value(v)}" for k, v in ({"port": port} | login | options).items()]
    path = folder / "rig.toml"
    path.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    return read_rig(path)


class Gateway:
    """The gateway's process, and its log."""

    def __init__(self, rig_file: RigFile, spawn: Spawn) -> None:
        self.log = rig_file.path.parent / "gateway.log"
        command = (sys.executable, "-m", "loop2p.cli.main", "serve", "gateway", str(rig_file.path))
        with open(self.log, "ab") as out:
            self.process = spawn(*command, stdout=out, stderr=subprocess.STDOUT)

    def says(self, text: str) -> int:
        return self.log.read_text("utf-8").count(text)

    def wait_until_it_says(self, text: str, times: int = 1) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text("utf-8")
            return self.says(text) >= times

        until(said, lambda: f"{text!r} in its log:\n{self.log.read_text('utf-8')}")

    def end(self) -> None:
        """As the launcher or an operator ends it."""
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text("utf-8")
        assert "Traceback" not in self.log.read_text("utf-8")


def until(condition: Callable[[], Any], what: Callable[[], str], timeout_s: float = 90.0) -> None:
    """Wait for an event; the limit is only there to fail instead of hanging."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture
def text(tmp_path: Path, free_ports: Ports) -> str:
    return toy_text(free_ports(24), str(tmp_path / "runs"))


def trials(toys: Toys, first: int, n: int) -> None:
    assert toys.ask("task", "trials", first=str(first), n=str(n)).accepted


def state_is(state: str) -> Callable[[Heard], bool]:
    return lambda h: h.body["state"] == state


COMMANDS: dict[str, Any] = {"commands": True, "sessions": {"short": {"task": "short.toml"}}}


# ---------------------------------------------------------------- what is told


def test_what_the_rig_does_is_told_and_what_holds_is_retained(
    broker: Broker, text: str, tmp_path: Path, spawn: Spawn
) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port, discovery="homeassistant")
    with toys(rig_file, "task", "actuation") as rig, Client(broker, "observer", "loop2p/#") as first:
        gateway = Gateway(rig_file, spawn)
        first.wait("online", lambda h: h.payload == b"online")
        for name in ("task", "actuation"):
            first.wait("status", lambda h, name=name: h.body["services"][name]["health"] == "ready")
        first.wait("heartbeat", lambda h: h.body["age_s"]["task"] is not None and h.body["age_s"]["imaging"] is None)
        assert rig.ask("task", "start", run_id="monday").accepted
        trials(rig, 0, 3)
        for ul in ("4", "2.5"):
            assert rig.ask("actuation", "give", ul=ul).accepted
        assert rig.ask("actuation", "alarm", code="controller-lost", active="true").accepted
        for k in range(3):
            outcome = first.wait("trial", lambda h, k=k: h.body["trial"] == k).body
            assert (outcome["outcome"], outcome["session"]) == ("hit", "monday")
        rewards = first.wait("rewards", lambda h: h.body["count"] == 2).body
        assert rewards == {"session": "monday", "count": 2, "ul": 6.5, "complete": True, "day_ul": 0.0}
        first.wait("alarms", lambda h: h.body["alarms"] != [])
        first.wait("status", lambda h: h.body["state"] == "running" and h.body["trial"] == 2)
        assert not any(h.retained for h in first.heard if h.topic.endswith(("/trial", "/heartbeat")))

        with Client(broker, "observer", "loop2p/simulated/+") as late:
            assert late.wait("online").payload == b"online"
            status = late.wait("status")
            assert status.retained
            assert status.body["session"] == "monday"
            assert status.body["day"] == 2
            assert status.body["services"]["decoding"] == {"health": "absent", "why": []}
            assert late.wait("rewards").body["ul"] == 6.5
            alarm = late.wait("alarms").body["alarms"][0]
            assert (alarm["service"], alarm["code"]) == ("actuation", "controller-lost")
            assert late.wait("gateway").body["commands"] == "off in the rig file"

        assert rig.ask("actuation", "alarm", code="controller-lost", active="false").accepted
        heard = len(first.heard)
        first.wait("alarms", lambda h: h.body["alarms"] == [], after=heard - 1)
        rig.break_down("actuation")
        fault = first.wait("faults", lambda h: h.body["faults"] != []).body["faults"][0]
        assert (fault["service"], fault["error"]) == ("actuation", "ArithmeticError")
        assert "frame 7: found nan" in fault["detail"]
        first.wait("status", lambda h: h.body["services"]["actuation"]["health"] == "stopped")
        heard = len(first.heard)
        rig.start("actuation")
        first.wait("faults", lambda h: h.body["faults"] == [], after=heard)
        gateway.end()
        first.wait("online", lambda h: h.payload == b"offline", after=heard)


def test_what_changes_all_the_time_is_told_once_a_second(
    broker: Broker, text: str, tmp_path: Path, spawn: Spawn
) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port)
    with toys(rig_file, "task") as rig, Client(broker, "observer", "loop2p/#") as observer:
        Gateway(rig_file, spawn)
        observer.wait("status", lambda h: h.body["services"]["task"]["health"] == "ready")
        begun_s, heard, changes = time.monotonic(), len(observer.heard), 0
        while len([h for h in observer.heard[heard:] if h.topic.endswith("/status")]) < 3:
            changes += 1
            rig.ask("task", "reason", text=f"change {changes}")
            assert time.monotonic() - begun_s < 90
        last = f"change {changes}"
        observer.wait("status", lambda h: h.body["reason"] == last)
        took_s = time.monotonic() - begun_s
        told = len([h for h in observer.heard[heard:] if h.topic.endswith("/status")])
    print(f"{changes} changes in {took_s:.1f} s, {told} told")
    assert changes > 20
    assert told <= took_s + 1


# ---------------------------------------------------------------- the broker


def test_a_gateway_that_is_killed_leaves_its_last_will(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port)
    with Client(broker, "observer", "loop2p/#") as observer:
        gateway = Gateway(rig_file, spawn)
        observer.wait("online", lambda h: h.payload == b"online")
        gateway.process.send_signal(signal.SIGKILL)
        observer.wait("online", lambda h: h.payload == b"offline")
    with Client(broker, "observer", "loop2p/#") as late:
        online = late.wait("online")
        assert (online.payload, online.retained) == (b"offline", True)


def test_a_wrong_password_is_said_once_and_tried_again(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port, **COMMANDS)
    (tmp_path / "password").write_text("guess\n")
    gateway = Gateway(rig_file, spawn)
    gateway.wait_until_it_says("Not authorized")
    assert f"broker 127.0.0.1:{broker.port}" in gateway.log.read_text()
    until(lambda: broker.said("not authorised") >= 3, broker.log.read_text)
    assert gateway.says("WARNING") == 1, gateway.log.read_text()
    (tmp_path / "password").write_text(password_of("gateway-simulated") + "\n")
    gateway.wait_until_it_says("connected to broker")
    with Client(broker, "observer", "loop2p/#") as observer:
        observer.wait("online", lambda h: h.payload == b"online")
    gateway.end()


def test_a_broker_that_comes_late_and_restarts_hears_how_things_stand(
    broker: Broker, text: str, tmp_path: Path, spawn: Spawn
) -> None:
    broker.stop()
    rig_file = with_gateway(text, tmp_path, broker.port)
    with toys(rig_file, "task") as rig:
        gateway = Gateway(rig_file, spawn)
        gateway.wait_until_it_says("Connection refused")
        assert rig.ask("task", "start", run_id="monday").accepted
        broker.start()
        with Client(broker, "observer", "loop2p/#") as observer:
            observer.wait("status", lambda h: h.body["session"] == "monday")
            assert broker.process is not None
            broker.stop()
        gateway.wait_until_it_says("WARNING", 2)
        trials(rig, 0, 5)
        assert rig.ask("task", "pause").accepted
        broker.start()
        with Client(broker, "observer", "loop2p/#") as observer:
            observer.wait("status", state_is("paused"))
            observer.wait("online", lambda h: h.payload == b"online")
            for k in range(5):
                observer.wait("trial", lambda h, k=k: h.body["trial"] == k)
            connections = observer.wait("gateway", lambda h: h.body["connections"] >= 2).body
            assert connections["lost_events"] == 0
        gateway.end()


def test_a_broker_that_stalls_keeps_nobody_waiting_and_fills_no_memory(
    broker: Broker, text: str, tmp_path: Path, spawn: Spawn
) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port)
    with toys(rig_file, "task", "actuation") as rig, Monitor(rig_file.rig, ("task.trial",)) as monitor:
        with Client(broker, "observer", "loop2p/#") as observer:
            gateway = Gateway(rig_file, spawn)
            observer.wait("status", lambda h: h.body["services"]["task"]["health"] == "ready")
        assert rig.ask("task", "start", run_id="monday").accepted
        broker.freeze()
        n = EVENTS + 60
        for first in range(0, n, 20):
            trials(rig, first, 20)
        seen: list[Any] = []
        until(lambda: seen.extend(monitor.wait(0.02)) or len(seen) >= 2 * n, lambda: f"{len(seen)} of {2 * n} edges")
        gateway.wait_until_it_says("Operation timed out")
        assert rig.ask("task", "pause").accepted
        broker.thaw()
        with Client(broker, "observer", "loop2p/#") as observer:
            observer.wait("status", lambda h: h.body["state"] == "paused" and h.body["trial"] == n - 1)
            observer.wait("trial", lambda h: h.body["trial"] == n - 1)
            lost = observer.wait("gateway", lambda h: h.body["lost_events"] > 0).body["lost_events"]
        print(f"{n} trials while the broker was frozen, {lost} gave way")
        assert 0 < lost <= n - EVENTS
        gateway.end()


class Narrow(threading.Thread):
    """A line to the broker that takes so many bytes a second, each way."""

    def __init__(self, target: int, bytes_s: int) -> None:
        super().__init__(daemon=True)
        self.target, self.bytes_s = target, bytes_s
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.sockets: list[socket.socket] = [self.server]
        self.passed = 0

    def run(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self.server.accept()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                far = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [near, far]
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(self.bytes_s // 10):
                b.sendall(data)
                self.passed += len(data)
                time.sleep(len(data) / self.bytes_s)
        for one in (a, b):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_over_a_slow_line_the_newest_status_comes_and_not_every_one(
    broker: Broker, text: str, tmp_path: Path, spawn: Spawn
) -> None:
    line = Narrow(broker.port, 1_500)
    line.start()
    rig_file = with_gateway(text, tmp_path, line.port)
    try:
        with toys(rig_file, "task") as rig, Client(broker, "observer", "loop2p/#") as observer:
            gateway = Gateway(rig_file, spawn)
            observer.wait("status", lambda h: h.body["services"]["task"]["health"] == "ready")
            told = len([h for h in observer.heard if h.topic.endswith("/status")])
            changes = 0
            while len([h for h in observer.heard if h.topic.endswith("/status")]) < told + 2:
                changes += 1
                assert rig.ask("task", "reason", text=f"change {changes} " + "x" * 400).accepted
                assert changes < 100_000
            observer.wait("status", lambda h: h.body["reason"].startswith(f"change {changes} "))
            print(f"{changes} changes, {line.passed} bytes over the line")
            gateway.end()
    finally:
        line.close()


# ---------------------------------------------------------------- commands


def test_commands_go_to_task_and_its_answer_comes_back(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port, **COMMANDS)
    with toys(rig_file, "actuation") as rig, Client(broker, "operator", "loop2p/simulated/+") as operator:
        task = rig.start("task")
        gateway = Gateway(rig_file, spawn)
        gateway.wait_until_it_says("commands: taken")
        started = operator.answer(operator.command("start", session="short"))
        assert (started["command"], started["accepted"], started["reason"]) == ("start", True, "preparing")
        operator.wait("status", state_is("running"))
        asked = task.asked[-1]
        assert asked.args["task"] == task_text()
        assert asked.args["task_path"] == "short.toml"
        assert re.fullmatch(r"[\d-]{10}T[\d-]{8}-simulated", asked.args["run_id"])
        assert "overrides" not in asked.args
        assert asked.by == "anna by MQTT"
        assert operator.answer(operator.command("note", text="the mouse sleeps"))["accepted"]
        assert task.asked[-1].args == {"text": "the mouse sleeps"}
        refused = operator.answer(operator.command("resume"))
        assert (refused["accepted"], refused["reason"]) == (False, "not paused")  # task's own words
        for kind, state in (("pause", "paused"), ("resume", "running"), ("stop", "idle")):
            heard = len(operator.heard)
            assert operator.answer(operator.command(kind))["accepted"]
            operator.wait("status", state_is(state), after=heard)
        assert operator.answer(operator.command("abort"))["accepted"]
        told = operator.wait("gateway", lambda h: h.body["accepted"] == 6).body
        assert told["refused"] == {"task": 1}
        gateway.end()


def test_what_is_not_whole_fresh_and_new_reaches_task_never(
    broker: Broker, text: str, tmp_path: Path, spawn: Spawn
) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port, **COMMANDS)
    with toys(rig_file, "actuation") as rig, Client(broker, "operator", "loop2p/simulated/+") as operator:
        task = rig.start("task")
        before = operator.command("pause", retain=True)  # waits on the broker for the gateway
        gateway = Gateway(rig_file, spawn)
        assert "retain flag" in operator.answer(before)["reason"]
        live = operator.command("pause", retain=True)  # comes while the gateway is there
        assert "retain flag" in operator.answer(live)["reason"]
        operator.publish("loop2p/simulated/command/pause", b"", retain=True)  # takes it off the broker; no JSON
        old = operator.answer(operator.command("pause", time=time.time() - 11))
        assert "behind the gateway's clock" in old["reason"]
        ahead = operator.answer(operator.command("pause", time=time.time() + 60))
        assert "ahead of the gateway's clock" in ahead["reason"]
        unknown = operator.answer(operator.command("start", session="longest"))
        assert "there are short" in unknown["reason"]
        operator.publish("loop2p/simulated/command/stop", b"now!")
        good = operator.command("note", text="once")
        assert operator.answer(good)["accepted"]
        heard = len(operator.heard)
        operator.command("note", id=good, text="twice")
        assert "sent before" in operator.answer(good, after=heard)["reason"]
        told = operator.wait("gateway", lambda h: h.body["refused"].get("duplicate") == 1).body
        expected = {"retained": 2, "old": 2, "session": 1, "malformed": 2, "duplicate": 1}
        assert told["refused"] == expected
        assert [(a.kind, a.args) for a in task.asked] == [("note", {"text": "once"})]
        gateway.end()


def test_a_task_that_is_absent_is_an_answer_too(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port, **COMMANDS)
    with Client(broker, "operator", "loop2p/simulated/+") as operator:
        gateway = Gateway(rig_file, spawn)
        gateway.wait_until_it_says("commands: taken")
        answer = operator.answer(operator.command("stop"))
        assert answer["accepted"] is False
        assert "no answer from" in answer["reason"]
        gateway.end()


def test_on_a_rig_with_keys_it_shows_its_own(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text + '[security]\nkeys = "keys"\n', tmp_path, broker.port, **COMMANDS)
    make_keys(tmp_path / "keys", [*rig_file.rig.services, OPERATOR])
    without = Gateway(rig_file, spawn)
    assert without.process.wait(60) == EXIT_MISTAKE
    assert without.says("no key of gateway") == 1
    make_keys(tmp_path / "keys", ["gateway"])
    with toys(rig_file, "task", "actuation") as rig, Client(broker, "operator", "loop2p/simulated/+") as operator:
        gateway = Gateway(rig_file, spawn)
        operator.wait("status", lambda h: h.body["services"]["task"]["health"] == "ready")
        gateway.wait_until_it_says("commands: taken")
        assert operator.answer(operator.command("start", session="short"))["accepted"]
        operator.wait("status", state_is("running"))
        trials(rig, 0, 1)
        operator.wait("trial")
        gateway.end()


def test_commands_are_off_unless_the_rig_file_says_so(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port)
    with toys(rig_file, "actuation") as rig, Client(broker, "operator", "loop2p/simulated/+") as operator:
        task = rig.start("task")
        gateway = Gateway(rig_file, spawn)
        gateway.wait_until_it_says("commands: off in the rig file")
        body = json.dumps({"id": "a1", "time": time.time()})
        assert operator.publish("loop2p/simulated/command/pause", body) == "No matching subscribers"
        gateway.end()
        assert task.asked == []


def test_a_broker_that_lets_anybody_in_gives_no_commands(
    text: str, tmp_path: Path, free_ports: Ports, spawn: Spawn
) -> None:
    open_to_all = Broker(tmp_path / "broker", free_ports(1)[0], anonymous=True).start()
    try:
        rig_file = with_gateway(text, tmp_path, open_to_all.port, **COMMANDS)
        with Client(open_to_all, "operator", "loop2p/simulated/+") as operator:
            gateway = Gateway(rig_file, spawn)
            told = operator.wait("gateway", lambda h: h.body["commands"].startswith("off: ")).body
            assert "set allow_anonymous false" in told["commands"]
            body = json.dumps({"id": "a1", "time": time.time()})
            assert operator.publish("loop2p/simulated/command/pause", body) == "No matching subscribers"
            gateway.end()
    finally:
        open_to_all.stop()


# ---------------------------------------------------------------- who may do what


@pytest.mark.parametrize(
    ("user", "topic", "verdict"),
    [
        ("operator", "loop2p/simulated/command/pause", "allowed"),
        ("operator", "loop2p/simulated/command/free_reward", "denied"),
        ("operator", "loop2p/simulated/command/opto", "denied"),
        ("operator", "loop2p/other/command/pause", "denied"),
        ("operator", "loop2p/simulated/status", "denied"),
        ("operator", "loop2p/simulated/answer", "denied"),
        ("observer", "loop2p/simulated/command/pause", "denied"),
        ("observer", "loop2p/simulated/command/note", "denied"),
        ("observer", "loop2p/simulated/status", "denied"),
        ("gateway-simulated", "loop2p/simulated/status", "allowed"),
        ("gateway-simulated", "loop2p/simulated/online", "allowed"),
        ("gateway-simulated", "loop2p/simulated/command/pause", "denied"),
        ("gateway-simulated", "loop2p/other/status", "denied"),
        ("gateway-simulated", "loop2p/other/online", "denied"),
        ("gateway-simulated", "homeassistant/sensor/loop2p_simulated/state/config", "allowed"),
        ("gateway-simulated", "homeassistant/sensor/another/state/config", "denied"),
        ("operator", "homeassistant/sensor/loop2p_simulated/state/config", "denied"),
    ],
)
def test_the_access_list(broker: Broker, user: str, topic: str, verdict: str) -> None:
    with Client(broker, user) as client:
        said = client.publish(topic, b"{}")
    assert said == "Not authorized" if verdict == "denied" else said in TAKEN


def test_a_gateway_hears_no_other_rigs_commands(broker: Broker) -> None:
    with Client(broker, "gateway-simulated", "loop2p/#") as gateway, Client(broker, "operator") as operator:
        operator.publish("loop2p/simulated/command/note", b"{}")
        gateway.wait("command/note")
        assert {h.topic for h in gateway.heard} == {"loop2p/simulated/command/note"}


def test_an_observer_can_not_command_a_running_rig(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text, tmp_path, broker.port, **COMMANDS)
    with toys(rig_file, "actuation") as rig, Client(broker, "observer", "loop2p/#") as observer:
        task = rig.start("task")
        gateway = Gateway(rig_file, spawn)
        gateway.wait_until_it_says("commands: taken")
        for kind in ("pause", "stop", "free_reward"):
            body = json.dumps({"id": kind, "time": time.time()})
            assert observer.publish(f"loop2p/simulated/command/{kind}", body) == "Not authorized"
        with Client(broker, "operator", "loop2p/simulated/+") as operator:  # a command that comes after them is through
            assert operator.answer(operator.command("note", text="me"))["accepted"]
        assert [a.kind for a in task.asked] == ["note"]
        told = observer.wait("gateway", lambda h: h.body["accepted"] == 1).body
        assert told["refused"] == {}
        gateway.end()


def test_a_gateway_that_may_not_publish_says_so(broker: Broker, text: str, tmp_path: Path, spawn: Spawn) -> None:
    rig_file = with_gateway(text.replace('"simulated"', '"other"'), tmp_path, broker.port)
    gateway = Gateway(rig_file, spawn)
    gateway.wait_until_it_says("loop2p/other/online does not come back")
    gateway.wait_until_it_says("let gateway-simulated write loop2p/other/+")
    gateway.end()


# ---------------------------------------------------------------- encryption


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


CERTIFICATE_FILES = {"ca": "ca.crt", "cert": "client.crt", "key": "client.key"}


def make_certificates(folder: Path, authority: str, client: str = "") -> None:
    """An authority of one's own, a certificate by it for 127.0.0.1, and one for a client."""
    if shutil.which("openssl") is None:
        lacking("openssl is not installed")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    openssl(
        "req", "-x509", *NEW_KEY, "-nodes", "-days", "2", "-subj", f"/CN={authority}",
        "-keyout", "ca.key", "-out", "ca.crt",
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        "req", *NEW_KEY, "-nodes", "-subj", "/CN=broker", "-keyout", "server.key", "-out", "server.csr",
    )  # fmt: skip
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "names", "-out", "server.crt",
    )  # fmt: skip
    if client:
        openssl("req", *NEW_KEY, "-nodes", "-subj", f"/CN={client}", "-keyout", "client.key", "-out", "client.csr")
        openssl(
            "x509", "-req", "-in", "client.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", "client.crt",
        )  # fmt: skip


def test_over_tls_to_a_broker_whose_certificate_is_right_and_to_no_other(
    text: str, tmp_path: Path, free_ports: Ports, spawn: Spawn
) -> None:
    port, tls_port = free_ports(2)
    broker = Broker(tmp_path / "broker", port, tls_port)
    certificates = tmp_path / "broker" / "etc" / "certs"
    make_certificates(certificates, "ours")
    (tmp_path / "theirs").mkdir()
    make_certificates(tmp_path / "theirs", "theirs")
    broker.start()
    try:
        theirs = with_gateway(text, tmp_path, tls_port, tls={"ca_file": "theirs/ca.crt"}, **COMMANDS)
        gateway = Gateway(theirs, spawn)
        gateway.wait_until_it_says("certificate verify failed")
        gateway.end()
        ours = with_gateway(text, tmp_path, tls_port, tls={"ca_file": str(certificates / "ca.crt")}, **COMMANDS)
        gateway = Gateway(ours, spawn)
        gateway.wait_until_it_says("commands: taken")
        with Client(broker, "operator", "loop2p/#") as operator:
            operator.wait("online", lambda h: h.payload == b"online")
            assert "no answer from" in operator.answer(operator.command("stop"))["reason"]
        gateway.end()
    finally:
        broker.stop()


def test_a_client_certificate_is_a_login(text: str, tmp_path: Path, free_ports: Ports, spawn: Spawn) -> None:
    port, tls_port = free_ports(2)
    broker = Broker(tmp_path / "broker", port, tls_port, certificates=True)
    certificates = tmp_path / "broker" / "etc" / "certs"
    make_certificates(certificates, "ours", "gateway-simulated")
    broker.start()
    try:
        tls = {f"{name}_file": str(certificates / file) for name, file in CERTIFICATE_FILES.items()}
        rig_file = with_gateway(text, tmp_path, tls_port, tls=tls, user="", password_file="", **COMMANDS)
        gateway = Gateway(rig_file, spawn)
        gateway.wait_until_it_says("commands: taken")
        with Client(broker, "operator", "loop2p/#") as operator:
            assert "no answer from" in operator.answer(operator.command("stop"))["reason"]
        gateway.end()
    finally:
        broker.stop()


# ---------------------------------------------------------------- a whole rig


def test_a_whole_rig_is_started_paused_resumed_and_stopped(broker: Broker, tmp_path: Path, free_ports: Ports) -> None:
    """Real services, and the gateway started by the launcher as any companion."""
    plain = whole_rig(tmp_path, free_ports(28))
    named = plain.text.replace('name = "test"', 'name = "simulated"')
    rig_file = with_gateway(named, tmp_path, broker.port, **COMMANDS)
    (tmp_path / "short.toml").write_text(task_text(seconds=600, threshold=0.08), encoding="utf-8")
    with running(rig_file, tmp_path) as rig, Client(broker, "operator", "loop2p/simulated/+") as operator:
        assert "gateway" in rig.launcher.side
        everybody_answers = {"imaging", "stimulus", "actuation", "task"}
        operator.wait(
            "status", lambda h: all(h.body["services"][n]["health"] in ("ready", "starting") for n in everybody_answers)
        )
        operator.wait("gateway", lambda h: h.body["commands"] == "taken")
        answer = operator.answer(operator.command("start", session="short"))
        assert answer["accepted"], answer["reason"]
        rig.wait_for(Phase, phase="closed_loop")
        operator.wait("status", state_is("running"))
        outcome = operator.wait("trial", lambda h: h.body["outcome"] == "hit").body
        assert operator.wait("status", lambda h: h.body["outcomes"]["hit"] > 0).body["session"] == outcome["session"]
        rewards = operator.wait("rewards", lambda h: h.body["count"] > 0).body
        assert rewards["complete"] is True
        assert rewards["ul"] > 0
        for kind, phase, state in (
            ("pause", "paused", "paused"),
            ("resume", "closed_loop", "running"),
            ("stop", "ended", "idle"),
        ):
            heard = len(operator.heard)
            answer = operator.answer(operator.command(kind))
            assert answer["accepted"], answer["reason"]
            rig.wait_for(Phase, phase=phase)
            operator.wait("status", state_is(state), after=heard)
        asked = [e.message for e in rig.heard if isinstance(e.message, RequestLog) and e.message.by == "anna by MQTT"]
        assert [m.kind for m in asked if m.accepted] == ["start", "pause", "resume", "stop"]
        heard = len(operator.heard)
        rig.launcher.stop()
        operator.wait("online", lambda h: h.payload == b"offline", after=heard)
        assert rig.lost == []
    assert "Traceback" not in (tmp_path / "logs" / "gateway.log").read_text()
