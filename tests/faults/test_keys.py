"""A rig with keys: who is not on the list neither hears nor is heard, and is told of; operators alone command."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth
from msgspec import structs
from rigs import toy_rig
from runtime_threads import Threads, wait_for

from loop2p.protocol import Alarm, FileError, Output, RewardCommand, RigFile, control, parse_rig, seal
from loop2p.runtime import ask, ask_answer
from loop2p.runtime.bus import MOST_BYTES, Bus
from loop2p.runtime.keys import OPERATOR, Keys, Strangers, load_keys, make_keys
from loop2p.runtime.monitor import Monitor
from loop2p.runtime.process import Process


@pytest.fixture
def rig(free_ports: Callable[[int], list[int]], tmp_path: Path) -> RigFile:
    rig = toy_rig(free_ports(24), str(tmp_path), extra='[security]\nkeys = "keys"')
    rig = structs.replace(rig, path=tmp_path / "rig.toml")
    make_keys(tmp_path / "keys", [*rig.rig.services, OPERATOR])
    return rig


@pytest.fixture
def threads(rig: RigFile) -> Iterator[Threads]:
    running = Threads(rig)
    yield running
    running.stop()


def keys(rig: RigFile, name: str = OPERATOR) -> Keys:
    found = load_keys(rig, name)
    assert found
    return found


def endpoint(rig: RigFile, service: str, which: str = "control") -> str:
    return str(getattr(rig.rig.services[service], which))


def refused_by(process: Process) -> int:
    return process.strangers.refused


def test_services_with_keys_work_as_without(rig: RigFile, threads: Threads):
    threads.start("imaging", "decoding", "task")
    with Monitor(rig.rig, ("decoding.output", "rig.heartbeat"), keys(rig)) as monitor:
        heard: set[str] = set()
        outputs: list[Output] = []

        def look() -> bool:
            for envelope in monitor.wait(0.05):
                if isinstance(envelope.message, Output):
                    outputs.append(envelope.message)
                heard.add(envelope.header.source)
            return heard >= {"imaging", "decoding", "task"}

        wait_for(look)
        wait_for(lambda: "imaging" in threads.processes["decoding"]._heard)
        feed = control.Ask("feed", args={"frames": "20"})
        assert ask_answer(endpoint(rig, "imaging"), feed, keys=keys(rig)).accepted
        wait_for(lambda: look() and len(outputs) == 20)
    assert all(refused_by(process) == 0 for process in threads.processes.values())


def test_who_has_no_key_or_another_is_not_let_in_and_is_told_of(rig: RigFile, threads: Threads):
    threads.start("imaging")
    imaging = threads.processes["imaging"]
    hello = control.Hello()
    assert ask(endpoint(rig, "imaging"), hello, 0.3) is None  # no key at all
    wait_for(lambda: refused_by(imaging) >= 1)
    wrong = keys(rig)
    wrong._own = zmq.curve_keypair()  # a key that nobody knows, who knows imaging's
    before = refused_by(imaging)
    assert ask(endpoint(rig, "imaging"), hello, 0.3, wrong) is None
    wait_for(lambda: refused_by(imaging) > before)
    with Monitor(rig.rig, ("rig.",)) as deaf, Monitor(rig.rig, ("rig.",), keys(rig)) as monitor:
        alarms: list[Alarm] = []

        def told() -> bool:
            found = (e.message for e in monitor.wait(0.05))
            alarms.extend(m for m in found if isinstance(m, Alarm) and m.code == "stranger")
            return bool(alarms)

        wait_for(told)
        assert "imaging has refused" in alarms[-1].detail
        assert list(deaf.wait(0)) == []
    assert imaging.rejected == 0
    assert isinstance(ask(endpoint(rig, "imaging"), hello, 2.0, keys(rig)), control.HelloReply)


def test_services_may_ask_but_not_command_and_operators_may(rig: RigFile, threads: Threads):
    threads.start("imaging", "stimulus")
    imaging, feed = endpoint(rig, "imaging"), control.Ask("feed", args={"frames": "1"})
    intruder = keys(rig, "stimulus")
    assert isinstance(ask(imaging, control.Hello(), keys=intruder), control.HelloReply)
    assert isinstance(ask(imaging, control.SnapshotRequest(), keys=intruder), control.SnapshotReply)
    answer = ask_answer(imaging, feed, keys=intruder)
    assert answer == control.Answer(False, "stimulus may not ask for that: operators alone do")
    assert threads.processes["imaging"].rejected == 1
    assert ask_answer(imaging, feed, keys=keys(rig)).accepted
    elsewhere = dict(rig.rig.services, stimulus=structs.replace(rig.rig.services["stimulus"], host="other"))
    far = structs.replace(rig, rig=structs.replace(rig.rig, services=elsewhere))
    assert keys(far, "imaging").refusal("stimulus", control.Stop())
    assert not keys(rig, "imaging").refusal("stimulus", control.Stop())  # the same machine's launcher has that key


def test_a_command_counts_only_with_the_key_of_task(rig: RigFile, threads: Threads):
    """An intruder has imaging's key and speaks for task: where task publishes, and in imaging's own stream, to which
    nobody subscribes for commands; what is subscribed to there, and says that it is task's, is refused."""
    threads.start("actuation")
    actuation = threads.processes["actuation"]
    impostor_at_tasks = Bus("task", "impostor", rig.rig.services["task"], keys(rig, "imaging"))
    liar = Bus("imaging", "liar", rig.rig.services["imaging"], keys(rig, "imaging"))
    command = RewardCommand(id="1", target="x", expires_ns=2**62, volume_ul=4.0)
    try:
        wait_for(lambda: liar.small.poll(0) != 0)  # actuation has subscribed to imaging

        def lie() -> bool:
            parts = seal(command, "task", "task-1", 0, 1).parts()
            impostor_at_tasks.small.send_multipart(parts)
            liar.small.send_multipart(parts)
            liar.small.send_multipart([b"rig.session", *parts[1:]])
            return actuation.rejected > 0

        wait_for(lie)
        assert actuation._heard == {}
        assert not impostor_at_tasks.small.poll(0)  # nobody subscribed: actuation did not find task's key there
    finally:
        liar.close()
        impostor_at_tasks.close()


def test_a_request_that_is_too_large_ends_its_connection_alone(rig: RigFile, threads: Threads):
    threads.start("imaging")
    context: zmq.Context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.linger = 0
    try:
        keys(rig).trust_at(socket, endpoint(rig, "imaging"))
        socket.connect(endpoint(rig, "imaging"))
        events = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.send(b"x" * (MOST_BYTES + 1))
        assert events.poll(20_000)  # cut off
        assert isinstance(ask(endpoint(rig, "imaging"), control.Hello(), 5.0, keys(rig)), control.HelloReply)
    finally:
        context.destroy(linger=0)
    assert threads.processes["imaging"].rejected == 0


def test_a_missing_open_or_empty_key_is_named(rig: RigFile, tmp_path: Path):
    folder = tmp_path / "keys"
    secret = folder / "private" / "task.key_secret"
    if os.name == "posix":
        assert secret.stat().st_mode & 0o077 == 0
        secret.chmod(0o644)
        with pytest.raises(FileError, match=r"task\.key_secret: others may read it, expected its owner alone"):
            load_keys(rig, "task")
        secret.chmod(0o600)
    secret.write_bytes((folder / "public" / "task.key").read_bytes())
    with pytest.raises(FileError, match=r"task\.key_secret: no secret key in it"):
        load_keys(rig, "task")
    secret.unlink()
    with pytest.raises(FileError, match=r"task\.key_secret: no key of task .*`loop2p keys RIG` makes keys"):
        load_keys(rig, "task")
    (folder / "public" / "imaging.key").unlink()
    with pytest.raises(FileError, match=r"no imaging\.key, expected one for each service"):
        load_keys(rig, "decoding")
    assert make_keys(folder, ["imaging", "decoding"]) == ["imaging"]


def test_endpoints_that_others_can_reach_need_keys_or_a_word_that_it_is_meant(free_ports: Callable, tmp_path: Path):
    text = toy_rig(free_ports(24), str(tmp_path)).text
    open_text = text.replace("tcp://127.0.0.1", "tcp://192.168.10.1")
    with pytest.raises(FileError, match=r"publish: tcp://192\.168\.10\.1:\d+ can be reached from other machines"):
        parse_rig(open_text)
    assert parse_rig('security = { keys = "keys" }\n' + open_text).rig.security.keys == "keys"
    assert parse_rig("security = { plain_on_network = true }\n" + open_text).rig.security.plain_on_network


def test_strangers_are_told_of_when_their_number_doubles_and_again_when_they_are_gone():
    strangers = Strangers("imaging")
    told = [alarm for k in range(100) for alarm in strangers.note(["no key, expected one"], k * 0.1)]
    assert [alarm.detail.split()[3] for alarm in told] == ["1", "2", "4", "8", "16", "32", "64"]
    assert strangers.note([], 60.0) == []
    (over,) = strangers.note([], 70.0)
    assert not over.active
    assert strangers.note([], 200.0) == []
