"""Another laboratory's decoder: a class outside the repository, and a program that knows the wire alone."""

import ast
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exponential_decoder
import numpy as np
import pytest
from numpy.typing import NDArray
from whole_rig import Running, running, task_text, whole_rig

from loop2p.decoding import DifferenceDecoder
from loop2p.protocol import Heartbeat, Output, Phase, Selection, Traces, Trial, from_f32
from loop2p.recording.journal import read_journal
from loop2p.recording.summary import summarise

ROOT = Path(__file__).parents[2]
PLAIN = ROOT / "deploy" / "peers" / "plain_decoder.py"

EXPONENTIAL = Path(exponential_decoder.__file__).read_text(encoding="utf-8")


class Record:
    """The decoder's part of a run: what came in and what came out, by frame."""

    def __init__(self, run_folder: Path) -> None:
        records = list(read_journal(run_folder))
        self.selection = next(r.message for r in records if isinstance(r.message, Selection))
        traces = {
            r.header.cause.frame: r.message
            for r in records
            if isinstance(r.message, Traces) and r.message.plane == 0 and r.message.valid
        }
        self.frames = sorted(traces)
        self.f = np.stack([from_f32(traces[k].f) for k in self.frames])
        """(n_frames, n_rois)"""
        self.outputs: dict[int, Output] = {
            r.header.cause.frame: r.message for r in records if isinstance(r.message, Output)
        }

    def compare(self, offline_d: NDArray[np.float64], skip: int, rtol: float, atol: float = 0.0) -> int:
        """The rig's d and value against those computed offline, from the `skip`-th frame on; how many."""
        value = (offline_d[2:] + offline_d[1:-1] + offline_d[:-2]) / 3
        expected = {
            frame: (d, v) for frame, d, v in zip(self.frames[2:], offline_d[2:], value, strict=True)
        }  # fmt: skip
        compared = [k for k in self.frames[skip:] if k in self.outputs and self.outputs[k].valid]
        found = np.array([(self.outputs[k].d, self.outputs[k].value) for k in compared])
        np.testing.assert_allclose(found, [expected[k] for k in compared], rtol=rtol, atol=atol)
        return len(compared)


@pytest.mark.long
def test_a_class_that_lies_elsewhere(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> None:
    folder = tmp_path / "their_lab_code" / "their_lab"
    folder.mkdir(parents=True)
    file = folder / "decoders.py"
    file.write_text(EXPONENTIAL)
    options = {
        "decoder": "their_lab.decoders:ExponentialDecoder",
        "decoder_options": {"tau": 4.0},
        "path": ["their_lab_code"],
    }
    rig_file = whole_rig(tmp_path, free_ports(28), options={"decoding": options})
    with running(rig_file, tmp_path) as rig:
        answer = rig.start(task_text(seconds=60))
        assert answer.accepted, answer.reason
        rig.wait_for(Phase, phase="ended")
        assert rig.lost == []
    record = Record(rig.run_folder)
    spec = importlib.util.spec_from_file_location("theirs", file)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    decoder = theirs.ExponentialDecoder(record.selection.plus, record.selection.minus, tau=4.0)
    offline = np.array([decoder.update(f) for f in record.f])
    # 0.75 ** 155 of what lies before the journal's begin is left when the first value is valid
    n = record.compare(offline, skip=155, rtol=1e-9)
    assert n > 300
    assert all(output.dff == b"" for output in record.outputs.values())
    summary = summarise(rig.run_folder)
    print(f"{n} values equal, {summary['trials']} trials, {summary['hits']} hits, {summary['rewards']} rewards")
    assert summary["trials"] > 0
    assert summary["audit"]["complete"], summary["notes"]


def start_plain(rig: Running, spawn: Callable[..., Any], log: Any) -> "subprocess.Popen[bytes]":
    """As the page on decoders says: by hand, with the rig hash and three endpoints."""
    services = rig.rig_file.rig.services
    endpoints = [services[name].publish for name in ("imaging", "task", "decoding")]
    return spawn(sys.executable, str(PLAIN), rig.rig_file.hash, *endpoints, stdout=log, stderr=log)


def plain_d(f: NDArray[np.float32], plus: list[int], minus: list[int], window: int = 464) -> NDArray[np.float64]:
    """D with F0 as that program takes it: a tenth up the sorted last `window` frames."""
    f64 = f.astype(np.float64)
    d = np.empty(len(f))
    for k in range(len(f)):
        dff = f64[k] / np.percentile(f64[max(0, k + 1 - window) : k + 1], 10, axis=0) - 1
        d[k] = dff[plus].mean() - dff[minus].mean()
    return d


def test_a_program_that_knows_only_the_wire(
    tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Callable[..., Any]
) -> None:
    rig_file = whole_rig(tmp_path, free_ports(28), external=("decoding",))
    window = 464
    with running(rig_file, tmp_path) as rig, open(tmp_path / "plain.log", "w+b") as log:
        assert "decoding" not in rig.launcher.services
        plain = start_plain(rig, spawn, log)
        answer = rig.start(task_text(seconds=90, threshold=0.08))
        assert answer.accepted, answer.reason
        rig.wait_for(Trial, edge="hit")
        rig.wait_for(Phase, phase="ended")
        assert plain.poll() is None
        plain.send_signal(signal.SIGTERM)
        assert plain.wait(20) == 0
        rig.wait_for(Heartbeat, "its last heartbeat", health="stopped")
        assert rig.lost == []
        log.seek(0)
        assert log.read() == b""
    record = Record(rig.run_folder)
    plus, minus = record.selection.plus, record.selection.minus
    # it looks back 30 s, which may lie before the journal's begin
    n = record.compare(plain_d(record.f, plus, minus, window), skip=window, rtol=1e-9, atol=1e-9)
    assert n > 300
    # and is the paper's decoder but for rounding
    ours = DifferenceDecoder(plus, minus, rig_file.rig.microscope.plane_rate_hz)
    d = np.array([ours.update(f) for f in record.f])
    theirs = np.array([record.outputs[k].d if k in record.outputs else np.nan for k in record.frames])
    differences = np.abs(d - theirs)[window:]
    summary = summarise(rig.run_folder)
    print(f"{n} values, largest difference to DifferenceDecoder {np.nanmax(differences):.4f}")
    print(f"{summary['trials']} trials, {summary['hits']} hits, {summary['rewards']} rewards; {summary['notes']}")
    assert np.nanmax(differences) < 1e-4
    assert summary["hits"] >= 1
    assert summary["rewards"] == summary["hits"]
    assert summary["audit"]["complete"], summary["notes"]
    assert summary["audit"]["topics"]["decoding.output"]["written"] > 0
    assert not [note for note in summary["notes"] if "plain-" in note]  # it said how much it had published


def test_it_ends_on_ctrl_c_without_a_traceback(
    tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Callable[..., Any]
) -> None:
    import zmq

    endpoints = [f"tcp://127.0.0.1:{port}" for port in free_ports(3)]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    listener = context.socket(zmq.SUB)
    listener.linger = 0
    listener.subscribe("rig.heartbeat")
    listener.connect(endpoints[2])
    try:
        with open(tmp_path / "plain.log", "w+b") as log:
            plain = spawn(sys.executable, str(PLAIN), "0" * 16, *endpoints, stdout=log, stderr=log)
            assert listener.poll(20_000), "no heartbeat"
            plain.send_signal(signal.SIGINT)
            assert plain.wait(20) == 0
            log.seek(0)
            assert log.read() == b""
    finally:
        listener.close()
        context.term()


def test_it_is_50_lines_of_python_pyzmq_and_msgpack() -> None:
    source = PLAIN.read_text(encoding="utf-8")
    tree = ast.parse(source)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"zmq", "msgpack"}
    first = tree.body[1].lineno  # behind the docstring
    code = [s for s in map(str.strip, source.splitlines()[first - 1 :]) if s and not s.startswith("#")]
    assert len(code) <= 50, len(code)
