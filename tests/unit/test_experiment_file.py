"""Task file and animal file: what is asked for, and every mistake named."""

from pathlib import Path

import pytest
from msgspec import structs

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


def test_an_ndnf_day_has_a_dark_reference_and_calibrates_and_runs_with_the_led_on():
    experiment = make_plan((TASKS / "ndnf.toml").read_text()).experiment
    assert [(b.name, round(b.duration_s * 15.46), b.led) for b in experiment.blocks] == [
        ("led-off", 12_000, False),
        ("led-on", 12_000, True),
    ]
    assert experiment.baseline.name == "led-on"
    assert (experiment.opto.armed, experiment.opto.pulse_ms, experiment.calibrates) == (True, 6.0, True)
    paper = make_plan((TASKS / "paper.toml").read_text()).experiment
    for table in ("trial", "reward", "closed_loop", "calibration"):
        assert getattr(experiment, table) == getattr(paper, table)


def test_an_anaesthesia_session_is_two_times_24_minutes_of_the_same_pictures_and_no_loop():
    experiment = make_plan((TASKS / "anaesthesia.toml").read_text()).experiment
    awake, asleep = experiment.blocks
    assert structs.replace(asleep, name="awake", wait=False) == awake
    assert (awake.duration_s, awake.wait, asleep.wait) == (24 * 60, False, True)
    assert (experiment.loop_s, experiment.calibrates, experiment.lights) == (0, False, False)
    assert experiment.duration_s == 48 * 60


def test_the_baseline_is_the_last_of_the_passive_blocks_and_its_led_is_opto_baseline():
    plan = make_plan(ROIS + "[opto]\nbaseline = true\n[[passive]]\nname = 'first'\nduration_s = 1\n")
    assert [(b.name, b.led) for b in plan.experiment.blocks] == [("first", False), ("passive", True)]
    assert plan.experiment.lights
    assert plan.experiment.seeds == {"selection": 0, "passive first": 0, "baseline": 0, "calibration": 0}


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
        (ROIS + "[[passive]]\nduration_s = 9", "", r"t.toml, line 3: passive.0: missing key `name`"),
        (ROIS + "[[passive]]\nname = 'a'\nduration_s = 0", "", r"line 5: passive.0.duration_s: .*> 0"),
        (ROIS + "[[passive]]\nname = 'a'\nled = 1", "", r"line 5: passive.0.led: Expected `bool`"),
        (ROIS + "[[passive]]\nname = 'passive'", "", "two passive blocks are called 'passive'"),
        (ROIS + "[baseline]\nduration_s = 0\n[closed_loop]\nduration_s = 0", "", "expected something to do"),
        (ROIS + "[calibration]\nvariant = 'max'", "", r"line 4: calibration.variant: Invalid enum value 'max'"),
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
