"""Another day's pictures and rewards at its times, whatever the neurons do."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from played import FIXED, GREY, RATE_HZ, RIG, Played, edges, noise, of, output, phases, request
from synthetic_session import write_journal
from typer.testing import CliRunner

from loop2p.cli.records import yoke
from loop2p.protocol import Calibration, FileError, Output, Phase, RequestLog, Session, Show, parse_toml, seal
from loop2p.task import Drop, Opto, SessionCore, make_plan, replay
from loop2p.task.core import Effect
from loop2p.task.experiment import Experiment
from loop2p.task.replay import schedule_of
from loop2p.task.yoked import YokedParams, as_toml

TASK = """
[selection]
plus = [0]
minus = [1]
[baseline]
duration_s = 2
[opto]
armed = true
"""
SMALL = YokedParams(
    duration_s=6.0,
    t_s=[0.5, 1.0, 4.0, 5.0],
    what=["grating", "grating", "black", "grey"],
    angle_deg=[30.0, 90.0, 0.0, 0.0],
    reward_s=[2.0],
)
BASELINE_N = 31


def task_of(schedule: YokedParams) -> str:
    return TASK + as_toml(schedule)


def recorded(values: Iterable[float], pause_at: int = -1, gap_at: int = -1) -> Played:
    """A session of the closed loop as its journal has it."""
    s = Played(FIXED)
    s.frames([0.0] * 7)
    s.ask("begin")
    for k, value in enumerate(values):
        if k == gap_at:
            s.stall()
            s.k += 40
        if k == pause_at:
            s.ask("pause")
            s.frames([5.0] * 30)
            s.ask("resume")
        s.frames([value])
    return s


def seen(s: Played) -> list[tuple[int, Effect]]:
    """(loop frame, picture or drop), frames counted from the loop's first."""
    core = SessionCore(s.core.plan, RATE_HZ)
    out: list[tuple[int, Effect]] = []
    frame, shown = 0, GREY
    for event in s.events:
        in_loop = core.phase == "closed_loop"
        moves = isinstance(event, Output) and in_loop and event.cause is not None
        frame += bool(moves and event.cause.time_s - core.last_s <= 0.5)
        for effect in core.step(event):
            if not in_loop:
                continue
            if isinstance(effect, Drop):
                out.append((frame, Drop(effect.volume_ul, 0)))
            elif isinstance(effect, Show) and effect != shown:
                shown = effect
                out.append((frame, effect))
    return out


def yoked_to(source: Played, values: Iterable[float]) -> Played:
    session = Session(run_id="source", rig=RIG, task=FIXED, simulated=True)
    s = Played(task_of(schedule_of(session, source.events)))
    s.k = 1000  # another day, other frame times
    s.ask("begin")
    s.frames(noise(BASELINE_N))
    s.frames(values)
    return s


WILD = [0.4 + 0.9 * v for v in noise(700, 8)] + [2.0] * 3


def test_a_yoked_session_shows_and_gives_what_the_source_did_at_the_same_frames():
    source = recorded([6.0 * v for v in noise(600, 8)])
    yoked = yoked_to(source, WILD)
    assert len(of(Drop, source.out)) >= 3
    assert len({m.angle_deg for m in of(Show, source.out)}) >= 7
    assert seen(yoked) == seen(source)
    assert phases(yoked.out) == ["baseline", "closed_loop", "ended"]
    assert phases(source.out)[-1] == "ended"


def test_pauses_and_gaps_of_the_source_take_no_time_in_the_schedule():
    source = recorded([6.0 * v for v in noise(600, 8)], pause_at=100, gap_at=200)
    assert [what for _, what in seen(yoked_to(source, WILD))] == [what for _, what in seen(source)]


def test_the_neurons_change_nothing_and_there_are_no_trials_and_no_calibration():
    runs = []
    for value in (-9.0, 0.0, 9.0):
        s = Played(task_of(SMALL))
        s.ask("begin")
        s.frames(noise(BASELINE_N))
        runs.append(s.frames([value] * 120))
    assert runs[0] == runs[1] == runs[2]
    assert edges(s.out) == []
    assert not of(Calibration, s.out)
    assert of(Drop, runs[0]) == [Drop(4.0, -1)]
    assert s.core.given_ul == 4.0
    assert of(Opto, s.out) == [Opto(True), Opto(False)]
    assert of(Phase, s.out)[-1].reason == "6 s of yoked loop are over"


def test_rewards_can_be_left_out():
    s = Played(task_of(YokedParams(duration_s=3.0, t_s=[1.0], what=["grating"], angle_deg=[90.0])))
    s.ask("begin")
    s.frames(noise(BASELINE_N))
    s.frames([9.0] * 60)
    assert not of(Drop, s.out)
    assert phases(s.out)[-1] == "ended"


def test_a_pause_and_a_loss_hold_the_schedule_and_give_no_reward_twice():
    s = Played(task_of(SMALL))
    s.ask("begin")
    s.frames(noise(BASELINE_N))
    s.frames([0.0] * 40)  # 2.6 s: the target is on the screen, the reward was given
    assert s.ask("pause")[0] == GREY
    s.frames([0.0] * 200)
    s.ask("resume")
    assert of(Show, s.frames([0.0])) == [Show(what="grating", angle_deg=90.0)]
    s.stall("stimulus")
    s.frames([0.0] * 100)
    s.ask("back", detail="stimulus")
    assert of(Show, s.frames([0.0])) == [Show(what="grating", angle_deg=90.0)]
    assert phases(s.frames([0.0] * 50)) == []
    assert phases(s.frames([0.0])) == ["ended"]  # 93 frames are 6.02 s
    assert len(of(Drop, s.out)) == 1


def test_a_yoked_session_replays_from_its_own_task_file():
    s = yoked_to(recorded([6.0 * v for v in noise(600, 8)]), WILD)
    task = task_of(s.core.plan.experiment.yoked)  # type: ignore[arg-type]
    assert replay(Session(run_id="y", rig=RIG, task=task, simulated=True), s.events) == s.out


def test_a_yoked_loop_that_lost_its_task_ends_for_its_place_is_not_known():
    core = SessionCore(make_plan(task_of(SMALL)), RATE_HZ)
    core.restore("closed_loop", None, -1, None, 0.0)
    out = core.step(request("resume", by="task"))
    assert phases(out) == ["ended"]
    assert "task was lost in a yoked loop" in of(Phase, out)[0].reason
    core = SessionCore(make_plan(task_of(SMALL)), RATE_HZ)
    core.restore("baseline", None, -1, None, 0.0, block="passive")
    assert phases(core.step(request("resume", by="task"))) == ["baseline"]


def test_a_later_day_needs_no_criterion_where_nothing_is_calibrated():
    assert make_plan("day = 5\n" + task_of(SMALL)).day == 5


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("4.0, 5.0", "4.0", "3 times, 4 pictures, 4 angles"),
        ("4.0, 5.0", "4.0, 4.0", "4.0 s does not lie after the time before it"),
        ('"black"', '"blue"', r"line 9: yoked: Invalid enum value 'blue' .*what\[2\]"),
        ("duration_s = 6.0", "duration_s = 0", r"line 9: yoked: Expected `float` > 0.0 .*duration_s"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_named(old: str, new: str, words: str):
    text = task_of(SMALL)
    assert old in text
    with pytest.raises(FileError, match=words):
        parse_toml(text.replace(old, new), Experiment, "t.toml")


times = st.lists(st.floats(0, 3000), max_size=40, unique=True).map(sorted)
pictures = st.tuples(st.sampled_from(["grey", "grating", "black"]), st.sampled_from([0.0, 15.0, 90.0]))


@given(times, times, st.data())
def test_a_schedule_as_toml_says_the_same(t_s: list[float], reward_s: list[float], data: st.DataObject):
    rows = data.draw(st.lists(pictures, min_size=len(t_s), max_size=len(t_s)))
    schedule = YokedParams(7.5, t_s, [w for w, _ in rows], [a for _, a in rows], reward_s)  # type: ignore[misc]
    assert parse_toml(task_of(schedule), Experiment, "t.toml").yoked == schedule


def test_there_is_nothing_to_show_again_without_a_loop_or_after_a_restart_of_task():
    session = Session(run_id="r7", rig=RIG, task=FIXED, simulated=True)
    with pytest.raises(ValueError, match="run r7: it has no closed loop"):
        schedule_of(session, [output(0, 0.0)])
    again = RequestLog(kind="restart", by="task", accepted=True)
    with pytest.raises(ValueError, match="task was started again"):
        schedule_of(session, [*recorded([0.0] * 50).events, again])


def test_the_command_prints_a_task_file_of_a_recorded_run(tmp_path: Path):
    source = recorded([6.0 * v for v in noise(200, 8)])
    session = Session(run_id="monday", rig=RIG, task=FIXED, simulated=True)
    sealed = [(k, seal(m, "task", "i", k, k)) for k, m in enumerate([session, *source.events])]
    folder = write_journal(tmp_path / "run", sealed)
    task = tmp_path / "task.toml"
    task.write_text(TASK, encoding="utf-8")
    app = typer.Typer()
    app.command()(yoke)
    app.callback()(lambda: None)  # with one command alone, typer leaves its name out

    done = CliRunner().invoke(app, ["yoke", str(folder), str(task)])
    assert done.exit_code == 0, done.output
    assert "run monday" in done.stdout
    assert done.stdout.startswith(TASK.rstrip())
    assert parse_toml(done.stdout, Experiment, "printed").yoked == schedule_of(session, source.events)

    task.write_text(done.stdout, encoding="utf-8")
    twice = CliRunner().invoke(app, ["yoke", str(folder), str(task)])
    assert twice.exit_code == 2
