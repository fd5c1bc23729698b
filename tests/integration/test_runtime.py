"""The runtime with real sockets: the same services on two buses, late joiners, gaps, faults, metrics."""

import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from msgspec import structs
from needs import lacking
from rigs import toy_rig
from runtime_threads import Threads, wait_for
from toys import Adder, Pointer, frame

from loop2p.protocol import Alarm, Fault, Heartbeat, Output, RigFile, Rois, Show, control, open_parts, seal
from loop2p.runtime import LocalBus, ask, ask_answer
from loop2p.runtime.monitor import Monitor
from loop2p.runtime.process import EXIT_FAULT, EXIT_STOPPED


@pytest.fixture
def rig(free_ports: Callable[[int], list[int]], tmp_path: Path) -> RigFile:
    return toy_rig(free_ports(24), str(tmp_path))


@pytest.fixture
def threads(rig: RigFile) -> Iterator[Threads]:
    running = Threads(rig)
    yield running
    running.stop()


def feed(rig: RigFile, n: int) -> None:
    assert ask_answer(rig.rig.services["imaging"].control, control.Ask("feed", args={"frames": str(n)})).accepted


def collect(monitor: Monitor, kind: type, n: int) -> list:
    found: list = []

    def enough() -> bool:
        found.extend(e for e in monitor.wait(0.05) if isinstance(e.message, kind))
        return len(found) >= n

    wait_for(enough)
    return found


def heard(monitor: Monitor, *sources: str) -> None:
    """Wait until a heartbeat of each has come: from then on nothing of theirs is missed."""
    missing = set(sources)

    def done() -> bool:
        missing.difference_update(e.header.source for e in monitor.wait(0.05))
        return not missing

    wait_for(done)


def test_two_buses_give_equal_results(rig: RigFile, threads: Threads) -> None:
    local = LocalBus(Adder(), Pointer(), wire=True)
    for k in range(200):
        local.publish(frame(k), "imaging")
    expected = [m for m in local.messages if isinstance(m, Output | Show)]

    with Monitor(rig.rig, ("decoding.output", "task.show", "rig.heartbeat")) as monitor:
        threads.start("imaging", "decoding", "task")
        heard(monitor, "imaging", "decoding", "task")
        wait_for(lambda: threads.processes["decoding"]._heard.keys() >= {"imaging"})
        wait_for(lambda: threads.processes["task"].gaps == 0 and threads.processes["task"].sequences is not None)
        feed(rig, 200)
        outputs = [e.message for e in collect(monitor, Output, 200)]
    assert outputs == [m for m in expected if isinstance(m, Output)]
    assert [m.cause.frame for m in outputs] == list(range(200))


def test_who_joins_late_gets_the_state_once(rig: RigFile, threads: Threads) -> None:
    threads.start("imaging")
    with Monitor(rig.rig) as monitor:
        assert len(collect(monitor, Alarm, 2)) == 2
    threads.start("decoding")
    adder = threads.processes["decoding"].service
    assert isinstance(adder, Adder)
    wait_for(lambda: len(adder.seen) >= 3)
    threads.start("task", "recording")  # another newcomer: the first must not see the state again
    heard_by = threads.processes["decoding"]
    feed(rig, 1)
    wait_for(lambda: len(adder.seen) >= 4)
    kinds = [type(m).__name__ for m in adder.seen]
    assert sorted(kinds) == ["Alarm", "Alarm", "Rois", "Traces"]
    rois = next(m for m in adder.seen if isinstance(m, Rois))
    assert bytes(rois.buffers[0]) == b"\x00" * 16
    assert heard_by.gaps == 0
    assert heard_by.rejected == 0


def test_lost_doubled_and_foreign_messages_are_counted_and_dropped(
    rig: RigFile, threads: Threads, free_ports: Callable[[int], list[int]]
) -> None:
    threads.start("decoding")
    process, adder = threads.processes["decoding"], threads.processes["decoding"].service
    assert isinstance(adder, Adder)
    context = zmq.Context()
    fake = context.socket(zmq.XPUB)  # imaging's place, taken by a peer that misbehaves
    fake.bind(rig.rig.services["imaging"].publish)
    try:
        assert fake.poll(20_000)  # the subscription has come

        def send(seq: int, source: str = "imaging", damage: bool = False, protocol: int | None = None) -> None:
            envelope = seal(frame(seq), source, "fake-1", seq, 0)
            if protocol is not None:
                envelope.header = structs.replace(envelope.header, protocol=protocol)
            parts = [bytes(p) for p in envelope.parts()]
            if damage:
                parts[2] = parts[2][:-3]
            fake.send_multipart(parts)

        for seq in (0, 1, 1, 5):  # 1 doubled, 2-4 lost
            send(seq)
        send(6, damage=True)
        send(7, source="stimulus")  # may not publish imaging.traces
        send(8, source="nobody")
        send(9, protocol=99)
        fake.send_multipart([b"imaging.traces"])
        send(10)
        wait_for(lambda: len(adder.seen) >= 4)
        assert [m.cause.frame for m in adder.seen] == [0, 1, 5, 10]
        assert process.gaps == 3 + 3  # 2, 3, 4 and, after the damaged 6, the refused 7, 8 and 9 never counted as seen
        assert process.rejected == 6
    finally:
        fake.close(linger=0)
        context.term()


def test_a_fault_is_published_and_ends_the_service_with_its_own_exit_code(rig: RigFile, threads: Threads) -> None:
    with Monitor(rig.rig, ("rig.",)) as monitor:
        threads.start("imaging", "decoding")
        heard(monitor, "imaging", "decoding")
        wait_for(lambda: "imaging" in threads.processes["decoding"]._heard)
        feed(rig, 700)
        fault = collect(monitor, Fault, 1)[0]
        assert fault.message.error == "ArithmeticError"
        assert "frame 666: found nothing sensible" in fault.message.detail
        assert fault.header.cause.frame == 666
    assert threads.join("decoding") == EXIT_FAULT
    assert threads.processes["imaging"]._stop.is_set() is False


def test_the_last_heartbeat_counts_everything_that_was_published(rig: RigFile, threads: Threads) -> None:
    with Monitor(rig.rig, ("rig.heartbeat", "imaging.traces")) as monitor:
        threads.start("imaging")
        heard(monitor, "imaging")
        feed(rig, 50)
        answer = ask_answer(rig.rig.services["imaging"].control, control.Stop("test"))
        assert answer.accepted
        beats: list[Heartbeat] = []

        def stopped() -> bool:
            beats.extend(e.message for e in monitor.wait(0.05) if isinstance(e.message, Heartbeat))
            return bool(beats) and beats[-1].health == "stopped"

        wait_for(stopped)
    assert beats[-1].published["imaging.traces"] == 50
    assert threads.join("imaging") == EXIT_STOPPED


def test_clock_hello_and_nonsense_on_the_control_socket(rig: RigFile, threads: Threads) -> None:
    threads.start("task")
    endpoint = rig.rig.services["task"].control
    hello = ask(endpoint, control.Hello(), 5)
    assert isinstance(hello, control.HelloReply)
    assert (hello.service, hello.rig_hash) == ("task", rig.hash)
    reply = ask(endpoint, control.ClockProbe(5), 5)
    assert isinstance(reply, control.ClockReply)
    assert reply.t0_ns == 5
    assert reply.t1_ns <= reply.t2_ns
    context = zmq.Context()
    with context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        socket.send(b"\xc1 nonsense")
        assert socket.poll(5000)
        answer = control.decode_reply(socket.recv())
    context.term()
    assert isinstance(answer, control.Answer)
    assert not answer.accepted
    assert threads.processes["task"].rejected == 1


def test_a_service_on_another_host_measures_its_clock(free_ports: Callable[[int], list[int]], tmp_path: Path) -> None:
    rig = toy_rig(free_ports(24), str(tmp_path))
    services = {**rig.rig.services, "decoding": structs.replace(rig.rig.services["decoding"], host="elsewhere")}
    threads = Threads(structs.replace(rig, rig=structs.replace(rig.rig, services=services)))
    try:
        threads.start("decoding")
        assert threads.processes["decoding"].clock.bound_ns is None
        threads.start("task")
        clock = threads.processes["decoding"].clock
        wait_for(lambda: clock.bound_ns is not None and clock.exchanges > 5)
        assert abs(clock.offset_ns) <= clock.bound_ns  # one machine: the true offset is 0
    finally:
        threads.stop()


def test_promtool_accepts_the_metrics(rig: RigFile, threads: Threads) -> None:
    if shutil.which("promtool") is None:
        lacking("promtool (Debian package prometheus) is not installed")
    threads.start("imaging", "decoding", "task")
    feed(rig, 20)
    decoding = threads.processes["decoding"]
    wait_for(lambda: "imaging" in decoding._heard)
    for name in ("imaging", "decoding", "task"):
        url = f"http://{rig.rig.services[name].metrics}/metrics"
        text = urllib.request.urlopen(url, timeout=10).read()
        assert b"loop2p_messages_published_total" in text
        result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        assert not result.stdout.strip() + result.stderr.strip()


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "stop request", "parent gone"])
def test_a_service_process_leaves_cleanly(
    how: str, rig: RigFile, spawn: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    import signal

    if how.startswith("SIG") and sys.platform == "win32":
        pytest.skip("Windows has neither: SIGTERM ends a process at once there, Ctrl-C goes to a process group")
    path = tmp_path / "toy.toml"
    path.write_text(rig.text)
    command = [sys.executable, "-m", "loop2p.cli.main", "serve", "imaging", str(path), "--with-parent"]
    with Monitor(rig.rig, ("rig.heartbeat",)) as monitor:
        process = spawn(*command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        heard(monitor, "imaging")
        if how.startswith("SIG"):
            process.send_signal(getattr(signal, how))
        elif how == "stop request":
            assert ask_answer(rig.rig.services["imaging"].control, control.Stop("test")).accepted
        else:
            process.stdin.close()
        beats: list[str] = []

        def stopped() -> bool:
            beats.extend(e.message.health for e in monitor.wait(0.05))
            return beats[-1:] == ["stopped"]

        wait_for(stopped)
    assert process.wait(20) == EXIT_STOPPED


def test_a_taken_port_is_a_clear_mistake(rig: RigFile, threads: Threads, spawn, tmp_path: Path) -> None:
    threads.start("imaging")
    with Monitor(rig.rig, ("rig.heartbeat",)) as monitor:
        heard(monitor, "imaging")
    path = tmp_path / "toy.toml"
    path.write_text(rig.text)
    process = spawn(sys.executable, "-m", "loop2p.cli.main", "serve", "imaging", str(path), stderr=subprocess.PIPE)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 78
    assert b"can't bind" in text
    assert b"running already" in text


def test_parts_survive_the_wire() -> None:
    envelope = seal(frame(3), "imaging", "i", 3, 99)
    assert open_parts(envelope.parts()).message == frame(3)
