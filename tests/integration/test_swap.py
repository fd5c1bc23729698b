"""A service's place is taken in a running session: by a shadow that was compared, or by a successor that waited."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from whole_rig import Running, running, task_text, whole_rig

from loop2p.cli.benchmarks.swap import ORDER, bench_swap, goes_on
from loop2p.protocol import Output, Phase, Swap, Trial
from loop2p.recording.journal import read_journal
from loop2p.recording.summary import summarise

ROOT = Path(__file__).parents[2]
PLAIN = ROOT / "deploy" / "peers" / "plain_decoder.py"
Spawn = Callable[..., "subprocess.Popen[bytes]"]


def swap(spawn: Spawn, rig: Running, service: str, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "loop2p.cli.main", "swap", service, str(rig.rig_file.path), "--json", *options]
    return spawn(*command, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL, cwd=rig.folder)


def in_loop(rig: Running) -> None:
    answer = rig.start(task_text(seconds=600, threshold=0.08))
    assert answer.accepted, answer.reason
    rig.wait_for(Trial, edge="start")


def finished(process: "subprocess.Popen[bytes]", code: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err.decode()
    return json.loads(out)  # type: ignore[no-any-return]


def outputs(run_folder: Path) -> tuple[dict[int, str], list[Swap]]:
    """Frame -> instance of the decoder whose output is on record; and every rig.swap."""
    records = list(read_journal(run_folder))
    found: dict[int, str] = {}
    for record in records:
        if isinstance(record.message, Output):
            assert record.header.cause is not None
            frame = record.header.cause.frame
            assert frame not in found, f"frame {frame} stands twice in the journal"
            found[frame] = record.header.instance
    return found, [r.message for r in records if isinstance(r.message, Swap) and not r.header.resent]


def test_a_second_decoder_takes_over_between_two_frames(
    tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Spawn
) -> None:
    rig_file = whole_rig(tmp_path, free_ports(28))
    with running(rig_file, tmp_path) as rig:
        in_loop(rig)
        process = swap(spawn, rig, "decoding", "--after", "2", "--keep", "1")
        rig.wait_for(Swap, stage="shadow")
        acting = rig.wait_for(Swap, stage="acting")
        rig.wait_for(Swap, "the old one's leaving", stage="none", acting=acting.acting)
        for _ in range(2):  # trials go on
            rig.wait_for(Trial, edge="start")
        rig.ask("stop")
        rig.wait_for(Phase, phase="ended")
        result = finished(process)
        assert [lost.how for lost in rig.lost] == ["stopped"]
    found, swaps = outputs(rig.run_folder)
    assert [s.stage for s in swaps][:3] == ["shadow", "acting", "none"]
    frames = [k for k in sorted(found) if k <= max(found)]
    assert all(b - a == 2 for a, b in pairwise(frames)), "a frame has no decision"
    before = {found[k] for k in frames if k < acting.from_frame}
    after = {found[k] for k in frames if k >= acting.from_frame}
    assert len(before) == len(after) == 1
    assert before != after
    edges = [r.message for r in read_journal(rig.run_folder) if isinstance(r.message, Trial)]
    assert not [trial for trial in edges if "decoding" in trial.reason]
    summary = summarise(rig.run_folder)
    assert summary["audit"]["complete"], summary["notes"]
    assert result["compared"] > 30
    assert result["missing"] == {"old": 0, "new": 0}
    print(result)


def test_a_program_in_its_place_that_dies_gives_it_back_at_once(
    tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Spawn
) -> None:
    rig_file = whole_rig(tmp_path, free_ports(28))
    endpoints = ("{LOOP2P_RIG_HASH}", "{LOOP2P_IMAGING}", "{LOOP2P_TASK}", "{LOOP2P_PUBLISH}")
    pid = tmp_path / "pid"
    wrapper = f"import os, runpy, sys; open({str(pid)!r}, 'w').write(str(os.getpid())); sys.argv = sys.argv[1:]; "
    program = f"{sys.executable} -c \"{wrapper}runpy.run_path(sys.argv[0])\" {PLAIN} {' '.join(endpoints)}"
    with running(rig_file, tmp_path) as rig:
        in_loop(rig)
        process = swap(spawn, rig, "decoding", "--with", program, "--after", "1", "--keep", "60")
        acting = rig.wait_for(Swap, stage="acting")
        rig.wait_for(Trial, "a trial that the newcomer decides", edge="start")
        os.kill(int(pid.read_text()), signal.SIGKILL)
        back = rig.wait_for(Swap, "the old one's return", stage="shadow")
        assert (back.acting, back.shadow) == (acting.shadow, acting.acting)
        rig.wait(lambda e: goes_on(e, "decoding"), "task's word that decoding is back")
        rig.wait_for(Trial, "trials go on", edge="start")
        rig.ask("stop")
        rig.wait_for(Phase, phase="ended")
        result = finished(process, code=1)
        assert "went back to the old one" in result["problem"]
        assert rig.lost == []
    found, _ = outputs(rig.run_folder)
    instances = [found[k] for k in sorted(found)]
    assert instances[0] == instances[-1]
    assert {name.partition("-")[0] for name in instances} == {"decoding", "plain"}
    summary = summarise(rig.run_folder)
    assert summary["audit"]["complete"], summary["notes"]


@pytest.mark.long
def test_what_differs_more_than_it_may_does_not_act(
    tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Spawn
) -> None:
    """And a session's Ctrl-C, a wrong service and a wrong option are answered, not crashed on."""
    rig_file = whole_rig(tmp_path, free_ports(28))
    other = tmp_path / "other.py"
    other.write_text(PLAIN.read_text(encoding="utf-8").replace('{"d": ds[-1],', '{"d": 1 + ds[-1],'))
    endpoints = "{LOOP2P_RIG_HASH} {LOOP2P_IMAGING} {LOOP2P_TASK} {LOOP2P_PUBLISH}"
    with running(rig_file, tmp_path) as rig:
        in_loop(rig)
        program = f"{sys.executable} {other} {endpoints}"
        refused = swap(spawn, rig, "decoding", "--with", program, "--after", "2", "--most-difference", "0.5")
        assert "expected a difference of at most 0.5" in finished(refused, code=1)["problem"]
        rig.wait_for(Swap, "the refused one's leaving", stage="none")
        watched = swap(spawn, rig, "decoding", "--shadow-only")
        rig.wait_for(Swap, stage="shadow")
        watched.send_signal(signal.SIGINT)
        assert finished(watched)["problem"] == ""
        rig.wait_for(Swap, "its leaving", stage="none")
        out, err = swap(spawn, rig, "imaging", "--shadow-only").communicate(timeout=60)
        assert (out, b"imaging owns a device or a file" in err) == (b"", True)
        rig.wait_for(Trial, "trials go on", edge="start")
        assert not [e for e in rig.heard if isinstance(e.message, Swap) and e.message.stage == "acting"]


@pytest.mark.timeout(1800)
def test_every_service_is_swapped_twice_in_one_session() -> None:
    result = bench_swap(2, speed=4.0, kills=False, say=print)
    show(result)
    assert result["frames_lost"] == [0, 0]
    assert not [reason for reason in result["voids"] if reason.endswith("was lost")]
    assert all(result["swap_s"][name]["n"] == 2 for name in ORDER)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_every_service_is_killed_and_swapped_twenty_times() -> None:
    result = bench_swap(20, say=print)
    show(result)
    assert max(result["frames_lost"]) <= 1
    assert all(result[what][name]["n"] == 20 for what in ("kill_s", "swap_s") for name in ORDER)


def show(result: dict[str, Any]) -> None:
    """Times to resume, as measured; they depend on the machine and are not judged here."""
    for what in ("kill_s", "swap_s"):
        for name, q in result[what].items():
            if q["n"]:
                values = "  ".join(f"{k} {q[k]:.2f}" for k in ("p50", "p90", "max"))
                print(f"{what:7} {name:10} n {q['n']}  {values} s")
    print(f"frames lost at each exchange: {result['frames_lost']}; voids: {result['voids']}")
