"""Task file and animal file: what is asked for, and every mistake named."""

from pathlib import Path

import pytest

from loop2p.protocol import FileError
from loop2p.task import Animal, Experiment, make_plan
from loop2p.task.animal import parse_animal, updated

TASKS = Path(__file__).parents[2] / "deploy" / "tasks"
ROIS = "[selection]\nrois = [0, 1, 2, 3]\n"
DAY1 = "[loop2p]\nday = 1\nz_star = 3.25\nplus = [1, 2]\nminus = [0, 3]\n"


def test_the_paper_s_file_and_the_defaults_say_the_same():
    plan = make_plan((TASKS / "paper.toml").read_text())
    bare = make_plan("[selection]\nrois = [0, 1, 2, 3, 4, 5, 6, 7]")
    assert plan.experiment == bare.experiment
    assert plan.experiment.trial.loop_s == 28.0
    assert (plan.day, plan.z_star, len(plan.plus), len(plan.minus)) == (1, None, 4, 4)


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [("baseline.duration_s", 12_000), ("calibration.window_s", 435)],
)
def test_seconds_stand_for_the_paper_s_frames(seconds: str, frames: int):
    table, key = seconds.split(".")
    assert round(getattr(getattr(Experiment(), table), key) * 15.46) == frames


def test_the_short_session_is_over_in_time_and_has_three_trials_even_if_all_are_missed():
    plan = make_plan((TASKS / "short.toml").read_text())
    experiment, trial = plan.experiment, plan.experiment.trial
    assert 10 + experiment.baseline.duration_s + experiment.closed_loop.duration_s <= 170
    longest_trial_s = trial.grey_s + trial.loop_s + trial.timeout_s
    assert experiment.closed_loop.duration_s / longest_trial_s >= 5
    assert experiment.calibration.window_s == trial.loop_s


def test_a_second_day_takes_cells_and_criterion_from_the_animal_file():
    plan = make_plan("", DAY1)
    assert (plan.day, plan.plus, plan.minus, plan.z_star) == (2, [1, 2], [0, 3], 3.25)


@pytest.mark.parametrize(
    ("task", "animal", "words"),
    [
        ("", "", r"selection: no ROIs; expected rois"),
        ("[trial\n", "", "not TOML"),
        (ROIS + "[trial]\nfreez_s = 2", "", r"t.toml, line 4: trial.freez_s: unknown key; expected one of grey_s"),
        (ROIS + "[trial]\nloop_s = -2", "", r"t.toml, line 4: trial.loop_s: .*> 0"),
        (ROIS + "[trial]\nfreeze_s = 0.5", "", r"trial: reward_after_s is 1.0, expected at most freeze_s"),
        (ROIS + "[baseline]\nduration_s = 20", "", r"expected at least calibration.window_s \(28.14\)"),
        (ROIS + "[baseline]\njitter_s = 1.5", "", r"expected less than shown_s"),
        (ROIS + "[calibration]\nfixed = {minimum = 1, threshold = 1}", "", "expected minimum < threshold"),
        (ROIS + "[calibration]\nchance = 1", "", r"line 4: calibration.chance: .*< 1"),
        ("day = 0\n" + ROIS, "", r"t.toml, line 1: day: .*>= 1"),
        ("day = 2\n" + ROIS, "", r"a.toml: loop2p.z_star: none, but it is day 2"),
        (ROIS.replace("[0, 1", "[1, 0, 5, 6, 0"), "", "ROI 0 is named twice"),
        (ROIS.replace("[0", "[9"), DAY1, "expected those of day 1"),
        (ROIS, DAY1.replace("z_star", "z_sta"), r"a.toml, line 3: loop2p.z_sta: unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_place(task: str, animal: str, words: str):
    with pytest.raises(FileError, match=words):
        make_plan(task, animal, "t.toml", "a.toml")


def test_a_fixed_calibration_needs_no_baseline():
    plan = make_plan(ROIS + "[baseline]\nduration_s = 0\n[calibration]\nfixed = {minimum = -0.2, threshold = 0.1}")
    assert plan.experiment.calibration.fixed is not None
    assert plan.experiment.calibration.fixed.threshold == 0.1


def test_the_task_s_table_is_renewed_and_the_lab_s_own_text_stays():
    text = '# mouse 7\nname = "m7"\n\n[loop2p]  # written by task\nday = 1\nz_star = 2.0\nplus = [0]\nminus = [1]\n'
    text += "\n[weight]\n2026-11-24 = 21.3\n"
    animal = Animal(day=2, z_star=2.5, plus=[4, 5], minus=[6, 7])
    new = updated(text, animal)
    assert parse_animal(new, "a.toml") == animal
    assert new.startswith('# mouse 7\nname = "m7"\n')
    assert "[weight]\n2026-11-24 = 21.3" in new
    assert new.count("[loop2p]") == 1
    assert updated(new, animal) == new
    assert parse_animal(updated("", animal), "a.toml") == animal
