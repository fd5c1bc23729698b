"""The two LSL companions as processes: what goes out is read by pylsl in another, what comes in is on record."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_toys import Toys, toys
from puppets import say
from rigs import rig_text, toml_value
from whole_rig import running, task_text, whole_rig

from loop2p.protocol import (
    ROLES,
    Alarm,
    Cause,
    Done,
    External,
    Lick,
    Output,
    Phase,
    PlaneRois,
    RigFile,
    Rois,
    Session,
    Shown,
    Traces,
    Trial,
    control,
    f32,
    from_f32,
    from_f64,
    from_i64,
    i32,
    read_rig,
)
from loop2p.recording.journal import read_journal
from loop2p.recording.nwb import export_nwb
from loop2p.recording.run import Run
from loop2p.runtime import ask
from loop2p.runtime.monitor import Monitor

PEER = Path(__file__).parents[1] / "support" / "lsl_peer.py"
PATIENCE_S = 90.0
Ports = Callable[[int], list[int]]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def lsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """LSL stays on this machine, in a session that no other test shares; for the companions and for the peers."""
    session = f"test-{uuid.uuid4().hex[:12]}"
    config = tmp_path / "lsl_api.cfg"
    config.write_text(f"[multicast]\nResolveScope = machine\n[lab]\nSessionID = {session}\n[log]\nlevel = -2\n")
    monkeypatch.setenv("LSLAPICFG", str(config))
    return session


class Peer:
    """tests/support/lsl_peer.py in a process of its own."""

    def __init__(self, spawn: Spawn, *arguments: str) -> None:
        self.process = spawn(
            sys.executable, str(PEER), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr
        )
        self._lines: queue.Queue[Any] = queue.Queue()
        self.heard: list[Any] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def next(self) -> Any:
        return self._lines.get(timeout=PATIENCE_S)

    def tell(self, line: Any) -> Any:
        """A line in, its answer out."""
        assert self.process.stdin is not None
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
        self.process.stdin.flush()
        return self.next()

    def chunks_until(self, condition: Callable[["Peer"], bool]) -> None:
        """Gather what a reader reads until the condition holds."""
        while not condition(self):
            self.heard.append(self.next())

    def samples(self, stream: str) -> list[tuple[Any, int]]:
        """(values, perf_counter ns of the stamp) of all that was read of a stream."""
        out = []
        for chunk in self.heard:
            if chunk.get("stream", "").endswith(f"-{stream}"):
                at_ns, lsl_s = chunk["clocks"]
                out += [
                    (v, at_ns + round((t - lsl_s) * 1e9))
                    for v, t in zip(chunk["samples"], chunk["stamps"], strict=True)
                ]
        return out

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()


@contextlib.contextmanager
def peer(spawn: Spawn, *arguments: str) -> Iterator[Peer]:
    one = Peer(spawn, *arguments)
    try:
        yield one
    finally:
        one.end()


def companion_text(name: str, **options: Any) -> str:
    lines = [f"[companions.{name}]", f'run = "loop2p.lsl:{name.capitalize()}"', f"[companions.{name}.options]"]
    return "\n".join([*lines, *(f"{k} = {toml_value(v)}" for k, v in options.items())]) + "\n"


def puppet_rig(folder: Path, ports: list[int], more: str, **recording: Any) -> RigFile:
    """Puppets in every role but recording's."""
    classes = dict.fromkeys(ROLES, "puppets:Puppet") | {"recording": "loop2p.recording.service:Recording"}
    text = rig_text(ports, str(folder / "runs"), classes=classes, options={"recording": recording} if recording else {})
    path = folder / "rig.toml"
    path.write_text(text + more)
    return read_rig(path)


class Companion:
    """The companion's process, and its log."""

    def __init__(self, name: str, rig_file: RigFile, spawn: Spawn) -> None:
        self.log = rig_file.path.parent / f"{name}.log"
        command = (sys.executable, "-m", "loop2p.cli.main", "serve", name, str(rig_file.path))
        with open(self.log, "ab") as out:
            self.process = spawn(*command, stdout=out, stderr=subprocess.STDOUT)

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text("utf-8")
        assert "Traceback" not in self.log.read_text("utf-8")


def until(condition: Callable[[], Any], what: Callable[[], str]) -> Any:
    """Wait for an event; the limit is only there to fail instead of hanging."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
    return value


def publish(rig: Toys, name: str, *messages: Any) -> None:
    reply = ask(rig.rig_file.rig.services[name].control, say(*messages), 10.0)
    assert isinstance(reply, control.Answer)
    assert reply.accepted


def session_of(rig: Toys, run_id: str) -> None:
    publish(rig, "task", Session(run_id=run_id, rig="", task="", simulated=True))
    recorder = rig._running["recording"][0].service
    until(lambda: recorder._run_id == run_id, lambda: "the session did not begin")


def externals(rig_file: RigFile, run_id: str) -> list[External]:
    folder = Path(rig_file.rig.data.folder) / run_id
    return [e.message for e in read_journal(folder) if e.topic == External.topic]  # type: ignore[misc]


# ---------------------------------------------------------------- out


def test_what_goes_out_is_what_the_bus_had_at_the_moment_it_says(
    lsl: str, tmp_path: Path, free_ports: Ports, spawn: Spawn
) -> None:
    rig_file = puppet_rig(tmp_path, free_ports(24), companion_text("outlet"))
    ones = i32([1] * 3)
    rois = Rois(
        set_id="s1",
        height=4,
        width=4,
        planes=[
            PlaneRois(plane=p, names=[f"roi {p}{k}" for k in range(3)], lengths=ones, rows=ones, cols=ones)
            for p in range(2)
        ],
        buffers=(),
    )  # fmt: skip
    keys = ("traces-0", "traces-1", "decoder", "angle", "markers", "clock")
    names = [f"loop2p-test-{key}" for key in keys]
    with toys(rig_file, "imaging", "decoding", "task", "stimulus", "actuation") as rig:
        outlet = Companion("outlet", rig_file, spawn)
        publish(rig, "imaging", rois)
        with peer(spawn, "read", *names) as reader:
            told = reader.next()
            assert told[names[0]]["labels"] == ["roi 00", "roi 01", "roi 02"]
            assert told[names[0]]["units"] == ["counts"] * 3
            assert told[names[0]]["rate"] == pytest.approx(30.92 / 2)
            assert told[names[2]]["labels"] == ["D", "control value", "valid"]
            bound_ns = float(told[names[2]]["about"]["clock_bound_s"]) * 1e9
            assert 0 < bound_ns < 1e6
            now_ns = time.perf_counter_ns()
            causes = [Cause(frame=k, plane=k % 2, time_s=k / 30.92, arrival_ns=now_ns + k * 1000) for k in range(100)]
            rng = np.random.default_rng(5)
            frames = [Traces(plane=c.plane, f=f32(rng.uniform(0, 900, 3)), cause=c) for c in causes]
            outputs = [Output(d=float(rng.normal()), value=float(rng.normal()), cause=c) for c in causes[::2]]
            publish(rig, "imaging", *frames)
            publish(rig, "decoding", *outputs)
            publish(
                rig, "stimulus",
                Shown(what="grating", angle_deg=12.5, flip_ns=now_ns + 5), Shown(what="grey", flip_ns=now_ns + 6),
            )  # fmt: skip
            publish(rig, "task", Trial(trial=3, edge="hit", t_s=1.0, cause=causes[8]))
            publish(
                rig, "actuation", Done(id=1, open_ns=now_ns + 9, close_ns=now_ns + 10, volume_ul=4.0),
                Lick(count=7, t_ns=now_ns + 11), Alarm(code="controller-lost", active=True, detail="no cable"),
            )  # fmt: skip
            expected = {"traces-0": 50, "traces-1": 50, "decoder": 50, "angle": 2, "markers": 6, "clock": 2}
            reader.chunks_until(lambda r: all(len(r.samples(k)) >= n for k, n in expected.items()))
        outlet.end()
    # the reader's own comparison of its two clocks is good to some microseconds; LSL's doubles to less than 1 us
    close_ns = bound_ns + 50_000

    def same(stream: str, values: list[Any], at_ns: list[int]) -> None:
        got = reader.samples(stream)
        assert [v for v, _ in got] == values
        assert max(abs(t - e) for (_, t), e in zip(got, at_ns, strict=True)) <= close_ns

    for plane in range(2):
        mine = [m for m in frames if m.plane == plane]
        same(f"traces-{plane}", [from_f32(m.f).tolist() for m in mine], [m.cause.arrival_ns for m in mine if m.cause])
    same("decoder", [[m.d, m.value, 1.0] for m in outputs], [m.cause.arrival_ns for m in outputs if m.cause])
    angles = reader.samples("angle")
    assert angles[0][0] == [12.5]
    assert np.isnan(angles[1][0][0])
    markers = [(v[0], t) for v, t in reader.samples("markers")]
    wanted = {
        "shown grating": now_ns + 5, "shown grey": now_ns + 6, "trial 3 hit": causes[8].arrival_ns,
        "reward 4 ul": now_ns + 9, "lick 7": now_ns + 11,
    }  # fmt: skip
    found = dict(markers)
    assert set(found) == {*wanted, "alarm controller-lost on: no cable"}
    assert all(abs(found[text] - at_ns) <= close_ns for text, at_ns in wanted.items())
    for (offset_s, renewed_s), t_ns in reader.samples("clock"):
        assert 0 < renewed_s < 1e-3
        lsl_s, perf_ns = next((c["clocks"][1], c["clocks"][0]) for c in reader.heard)
        assert abs((lsl_s - offset_s) * 1e9 - perf_ns) <= renewed_s * 1e9 + 50_000
        assert t_ns > now_ns - 60e9


# ---------------------------------------------------------------- in


EYE = {"streams": {"eye": {"name": "EyeLink", "type": "Gaze"}}}


def sender(
    spawn: Spawn, name: str = "EyeLink", kind: str = "Gaze", rate: float = 0, form: str = "double64", n: int = 2
) -> Any:
    return peer(spawn, "send", name, kind, str(rate), form, str(n))


def test_a_stream_is_recorded_lost_and_recorded_again(
    lsl: str, tmp_path: Path, free_ports: Ports, spawn: Spawn
) -> None:
    rig_file = puppet_rig(tmp_path, free_ports(24), companion_text("inlet", **EYE), companions=["inlet"])

    def recorded() -> list[list[float]]:
        return [
            row for m in externals(rig_file, "one") for row in from_f64(m.values).reshape(-1, len(m.channels)).tolist()
        ]

    with toys(rig_file, *ROLES) as rig, Monitor(rig_file.rig, (Alarm.topic,)) as monitor:
        recorder = rig._running["recording"][0].service
        alarms: list[tuple[str, bool]] = []

        def why() -> str:
            return "; ".join(recorder.why_not_ready())

        def heard(*wanted: bool) -> bool:
            told = [e.message for e in monitor.wait(0.02)]
            alarms.extend((m.code, m.active) for m in told if isinstance(m, Alarm))
            return [active for code, active in alarms if code == "stream-eye"][-len(wanted) :] == list(wanted)

        def look(eye: Peer, first: int) -> None:
            assert eye.next() == "open"
            assert eye.tell("wait") == "read"
            until(lambda: heard(False), lambda: str(alarms))
            if first == 0:
                assert "eye" not in why()
                session_of(rig, "one")
            for k in range(first, first + 20):
                eye.tell([[float(k), 7.0], None])
            until(lambda: len(recorded()) >= first + 20, inlet.log.read_text)

        until(lambda: "companion inlet was never heard" in why(), why)
        inlet = Companion("inlet", rig_file, spawn)
        until(lambda: "stream eye (name='EyeLink' and type='Gaze') is not there" in why(), why)
        until(lambda: heard(True), lambda: str(alarms))
        for first in (0, 20):
            with sender(spawn) as eye:
                look(eye, first)
            until(lambda: heard(False, True), lambda: str(alarms))
        inlet.end()
    assert recorded() == [[float(k), 7.0] for k in range(40)]
    messages = externals(rig_file, "one")
    assert [bool(m.gap) for m in messages if m.gap or not m.t_ns] == [True] * 3  # lost, back after it, lost
    assert "LostError" in next(m.gap for m in messages if m.gap)
    first_message = messages[0]
    assert (first_message.channels, first_message.units) == (["c0", "c1"], ["mm", "mm"])
    assert "name EyeLink" in first_message.source


def test_stamps_are_on_the_rig_clock_within_their_bound(
    lsl: str, tmp_path: Path, free_ports: Ports, spawn: Spawn
) -> None:
    """Here both clocks are this machine's, so that the truth is known."""
    streams = {"streams": {"pulse": {"name": "Pulse"}, "words": {"type": "Markers", "required": False}}}
    rig_file = puppet_rig(tmp_path, free_ports(24), companion_text("inlet", **streams))
    with toys(rig_file, *ROLES) as rig:
        inlet = Companion("inlet", rig_file, spawn)
        with (
            sender(spawn, "Pulse", "Stim", 0, "int32", 1) as pulse,
            sender(spawn, "Words", "Markers", 0, "string", 1) as words,
        ):
            for one in (pulse, words):
                assert one.next() == "open"
                assert one.tell("wait") == "read"
            session_of(rig, "two")
            at_ns, lsl_s = pulse.tell([[0], None])
            for k in range(1, 30):
                pulse.tell([[k], lsl_s - k * 1e-3])
                words.tell([[f"wörd {k}"], lsl_s - k * 1e-3])

            def read() -> dict[str, list[External]]:
                found: dict[str, list[External]] = {}
                for m in externals(rig_file, "two"):
                    found.setdefault(m.stream, []).append(m)
                return found

            until(lambda: sum(len(m.t_ns) for ms in read().values() for m in ms) == 8 * 59, lambda: str(read()))
        inlet.end()
    pulses = [
        (v, t, m.bound_ns) for m in read()["pulse"] for v, t in zip(from_f64(m.values), from_i64(m.t_ns), strict=True)
    ]
    told = [(v, t, m.bound_ns) for m in read()["words"] for v, t in zip(m.texts, from_i64(m.t_ns), strict=True)]
    assert [v for v, _, _ in pulses] == list(range(30))
    assert [v for v, _, _ in told] == [f"wörd {k}" for k in range(1, 30)]
    off_ns = [(abs(int(t) - (at_ns - k * 1_000_000)), bound) for k, (_, t, bound) in enumerate(pulses) if k]
    off_ns += [(abs(int(t) - (at_ns - k * 1_000_000)), bound) for k, (_, t, bound) in enumerate(told, 1)]
    assert all(off <= bound + 50_000 for off, bound in off_ns), off_ns  # the test's own reading of the two clocks
    assert max(bound for _, bound in off_ns) < 50_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("EyeLink", "Gaze", "1e9", "float32", "2"), "announces 1e+09 Hz of 2 channels"),
        pytest.param(
            ("EyeLink", "Gaze", "10", "float32", "3"),
            "has 3 channels, expected 2 as in the rig file",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ("EyeLink", "Gaze", "1", "float32", "5000"),
            "has 5000 channels, expected 1 to 4096",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_stream_that_can_not_be_is_refused_and_waited_for(
    lsl: str, tmp_path: Path, free_ports: Ports, spawn: Spawn, arguments: tuple[str, ...], words: str
) -> None:
    streams = {"streams": {"eye": {"name": "EyeLink", "channels": 2}}}
    rig_file = puppet_rig(tmp_path, free_ports(24), companion_text("inlet", **streams))
    with toys(rig_file, "recording", "task") as rig:
        recorder = rig._running["recording"][0].service
        inlet = Companion("inlet", rig_file, spawn)
        why_log = inlet.log.read_text
        with peer(spawn, "send", *arguments):
            until(lambda: words in "; ".join(recorder.why_not_ready()), why_log)
        with sender(spawn, rate=100) as right:
            assert right.next() == "open"
            assert right.tell("wait") == "read"
            until(lambda: "eye is silent: nothing for 3 s at 100 Hz" in "; ".join(recorder.why_not_ready()), why_log)
        inlet.end()


def test_stamps_that_are_none_are_left_out_and_counted(
    lsl: str, tmp_path: Path, free_ports: Ports, spawn: Spawn
) -> None:
    rig_file = puppet_rig(tmp_path, free_ports(24), companion_text("inlet", **EYE))
    with toys(rig_file, "recording", "task") as rig:
        inlet = Companion("inlet", rig_file, spawn)
        with sender(spawn) as eye:
            assert eye.next() == "open"
            assert eye.tell("wait") == "read"
            session_of(rig, "three")
            eye.tell([[1.0, 1.0], None])
            for stamp_s in (float("nan"), float("inf"), 1.8e9, -1e300):
                eye.tell([[9.0, 9.0], stamp_s])
            eye.tell([[float("nan"), 2.0], None])
            until(lambda: sum(len(m.t_ns) for m in externals(rig_file, "three")) == 16, inlet.log.read_text)
        inlet.end()
    messages = externals(rig_file, "three")
    assert sum(m.lost for m in messages) == 4
    assert any("expected LSL's clock" in m.gap for m in messages)


# ---------------------------------------------------------------- a whole rig


def test_a_whole_rig_with_both(lsl: str, tmp_path: Path, free_ports: Ports, spawn: Spawn) -> None:
    """Real services: their traces on LSL, another program's samples in the NWB file."""
    plain = whole_rig(tmp_path, free_ports(28), options={"recording": {"companions": ["inlet"]}})
    plain.path.write_text(plain.text + companion_text("outlet") + companion_text("inlet", **EYE))
    rig_file = read_rig(plain.path)
    names = [f"loop2p-test-{key}" for key in ("traces-0", "decoder")]
    with sender(spawn) as eye, running(rig_file, tmp_path) as rig:
        assert eye.next() == "open"
        assert eye.tell("wait") == "read"
        with peer(spawn, "read", *names) as reader:
            answer = rig.start(task_text(seconds=600))
            assert answer.accepted, answer.reason
            rig.wait_for(Phase, phase="closed_loop")
            rows = []
            for k in range(50):
                rows.append([float(k), float(-k)])
                eye.tell([rows[-1], None])
            reader.chunks_until(lambda r: min(len(r.samples("traces-0")), len(r.samples("decoder"))) >= 100)
            rig.wait(lambda e: isinstance(e.message, External) and bool(e.message.t_ns), "the eye's samples")
            last = reader.samples("traces-0")[-1][0]

            def is_last(envelope: Any) -> bool:
                message = envelope.message
                return isinstance(message, Traces) and from_f32(message.f).tolist() == last

            if not any(is_last(e) for e in rig.heard):
                rig.wait(is_last, "the frame that LSL gave last")
        assert rig.ask("stop").accepted
        rig.wait_for(Phase, phase="ended")
        assert rig.lost == []
    told = [(e.header.cause, e.message) for e in rig.heard if isinstance(e.message, Traces)]
    on_bus = [(from_f32(m.f).tolist(), c.arrival_ns) for c, m in told if c is not None and m.plane == 0]
    read = reader.samples("traces-0")
    both = next(on_bus[k:] for k, (values, _) in enumerate(on_bus) if values == read[0][0])
    assert [values for values, _ in read] == [values for values, _ in both[: len(read)]]
    assert max(abs(at_ns - t_ns) for (_, at_ns), (_, t_ns) in zip(read, both, strict=False)) < 1_000_000
    run = Run(rig.run_folder)
    assert run.audit.complete, run.audit.notes
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(export_nwb(rig.run_folder), "r") as file:
        series = file.read().acquisition["external_eye"]
        assert series.data[:].tolist() == rows
        assert series.unit == "mm"
        assert np.all(np.diff(series.timestamps[:]) > 0)
    for name in ("outlet", "inlet"):
        assert "Traceback" not in (tmp_path / "logs" / f"{name}.log").read_text()
    assert os.environ["LSLAPICFG"]


def test_no_session_starts_without_a_required_stream(lsl: str, tmp_path: Path, free_ports: Ports) -> None:
    more = {"recording": {"companions": ["inlet"]}, "task": {"start_timeout_s": 4.0}}
    plain = whole_rig(tmp_path, free_ports(28), options=more)
    plain.path.write_text(plain.text + companion_text("inlet", **EYE))
    with running(read_rig(plain.path), tmp_path) as rig:
        recorder = rig.rig_file.rig.services["recording"].control

        def looked_for() -> bool:
            reply = ask(recorder, control.Hello(), 0.5)
            return isinstance(reply, control.HelloReply) and "stream eye" in "; ".join(reply.why_not_ready)

        until(looked_for, rig.last_words)
        rig.start(task_text())
        refused = rig.wait(
            lambda e: isinstance(e.message, Phase) and "stream eye (name='EyeLink'" in e.message.reason, "the refusal"
        )
    assert isinstance(refused.message, Phase)
    assert refused.message.phase == "idle"
    assert "is not there; start its program" in refused.message.reason
