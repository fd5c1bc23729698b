"""Which ROIs are P+ and P-."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from msgspec import structs
from synthetic_session import make_session, write_journal
from typer.testing import CliRunner

from loop2p.cli import day1
from loop2p.protocol import Envelope, Output, Phase, parse_toml
from loop2p.task import Candidate, candidates, rank_by_event_rate, ranked, split, with_selection
from loop2p.task.experiment import Experiment
from loop2p.task.selection import SelectionParams


def test_a_split_is_equal_whole_seeded_and_random():
    plus, minus = split([3, 5, 8, 13, 21, 34, 55, 89], seed=1)
    assert len(plus) == len(minus) == 4
    assert sorted(plus + minus) == [3, 5, 8, 13, 21, 34, 55, 89]
    assert split([3, 5, 8, 13, 21, 34, 55, 89], seed=1) == (plus, minus)
    counts = np.zeros(8)
    for seed in range(400):
        counts[split(range(8), seed)[0]] += 1
    assert (abs(counts - 200) < 50).all()  # 5 standard deviations


def traces(rates_hz: list[float], n: int = 12_000, rate_hz: float = 15.46) -> np.ndarray:
    rng = np.random.default_rng(7)
    kernel = np.exp(-np.arange(30) / 8)
    columns = [np.convolve(rng.random(n) < r / rate_hz, kernel)[:n] + 0.05 * rng.standard_normal(n) for r in rates_hz]
    return np.column_stack(columns)


def test_the_most_active_roi_comes_first_with_its_rate():
    ranked = rank_by_event_rate(traces([0.01, 0.08, 0.0, 0.04]), 15.46)
    assert [c.roi for c in ranked] == [1, 3, 0, 2]
    assert ranked[0].rate_hz == pytest.approx(0.08, rel=0.35)
    assert ranked[-1].rate_hz < 0.005


def test_a_dead_or_broken_trace_has_no_events():
    dff = traces([0.05, 0.05, 0.05])
    dff[:, 1] = 0.0
    dff[100, 2] = np.nan
    ranked = rank_by_event_rate(dff, 15.46)
    assert ranked[0].roi == 0
    assert [c.rate_hz for c in ranked[1:]] == [0.0, 0.0]


def test_a_table_is_expected():
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(n_frames, n_rois\)"):
        rank_by_event_rate(np.zeros(5), 15.46)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rois": (1, 2, 3)}, "even number"),
        ({"rois": (1, 2, 2, 3)}, "ROI 2 is named twice"),
        ({"plus": (1,), "minus": (1,)}, "ROI 1 is named twice"),
        ({"plus": (1,)}, "expected ROIs in both"),
        ({"rois": (1, 2), "plus": (3,), "minus": (4,)}, "expected one of them"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(given: dict[str, tuple[int, ...]], words: str):
    with pytest.raises(ValueError, match=words):
        SelectionParams(**given)


def test_candidates_are_ranked_by_rate_signal_and_steadiness():
    dff = traces([0.08, 0.08, 0.08, 0.01])
    dff[:, 1] *= np.where(dff[:, 1] > 0.3, 0.5, 1.0)  # small events
    dff[:, 2] += np.linspace(0, 0.5, len(dff))  # a baseline that drifts
    found = candidates(dff, 15.46)
    assert found[0].snr > found[1].snr
    assert found[2].drift > 5 * found[0].drift
    assert [c.roi for c in found] == [0, 1, 2, 3]
    assert ranked(found)[0].roi == 0
    assert ranked(found[::-1])[0].roi == 0


def test_a_dead_trace_is_the_worst_candidate():
    dff = traces([0.05, 0.05, 0.05])
    dff[:, 1] = 0.0
    assert ranked(candidates(dff, 15.46))[-1] == Candidate(1, 0.0, 0.0, np.inf)


def test_the_confirmed_rois_take_the_place_of_a_task_files_selection():
    task = "day = 1\n\n[selection]  # the lab's\nplus = [1]\nminus = [2]\n\n[trial]\ngrey_s = 0.5\n"
    text = with_selection(task, [3, 5, 8, 13, 21, 34, 55, 60], 7, "somebody")
    experiment = parse_toml(text, Experiment, "task")
    assert experiment.selection == SelectionParams(rois=(3, 5, 8, 13, 21, 34, 55, 60), seed=7)
    assert (experiment.day, experiment.trial.grey_s) == (1, 0.5)
    assert "somebody" in text
    with pytest.raises(ValueError, match="even number"):
        with_selection(task, [1, 2, 3], 7, "somebody")


def test_the_commands_rank_a_recorded_baseline_and_print_day_ones_task_file(tmp_path: Path):
    folder = write_journal(tmp_path / "run", make_session().envelopes)
    task = tmp_path / "task.toml"
    task.write_text("day = 1\n")
    app = typer.Typer()
    day1.register(app)
    table = CliRunner().invoke(app, ["candidates", str(folder), "--json"])
    assert table.exit_code == 0, table.output
    rois = [row["roi"] for row in json.loads(table.stdout)]
    assert len(rois) >= 4
    first = ",".join(map(str, sorted(rois)[:4]))
    asked = ["draw", str(folder), str(task), "--rois", first, "--by", "anna", "--seed", "3"]
    drawn = CliRunner().invoke(app, asked)
    assert drawn.exit_code == 0, drawn.output
    experiment = parse_toml(drawn.stdout, Experiment, "printed")
    assert (experiment.selection.rois, experiment.selection.seed) == (tuple(sorted(rois)[:4]), 3)
    assert "4 ROIs; the paper has 8 or 10" in drawn.stderr
    for wrong, words in (("0,99", "ROI 99 is not in"), ("0;1", "expected their numbers"), ("0,1,2", "even number")):
        refused = CliRunner().invoke(app, [*asked[:4], wrong, *asked[5:]])
        assert refused.exit_code == 2
        assert words in refused.stderr
        assert refused.stdout == ""


def without_dff(envelope: Envelope) -> Envelope:
    if not isinstance(envelope.message, Output):
        return envelope
    message = structs.replace(envelope.message, dff=b"")
    return Envelope(envelope.topic, envelope.header, None, envelope.buffers, message)


def test_raw_fluorescence_is_ranked_where_the_decoder_recorded_no_dff(tmp_path: Path):
    made = make_session().envelopes
    bare = [(ns, without_dff(e)) for ns, e in made]
    app = typer.Typer()
    day1.register(app)
    found = {}
    for name, envelopes in (("dff", made), ("raw", bare)):
        folder = write_journal(tmp_path / name, envelopes)
        result = CliRunner().invoke(app, ["candidates", str(folder), "--json"])
        assert result.exit_code == 0, result.output
        assert ("no dF/F was recorded" in result.stderr) == (name == "raw")
        found[name] = {row["roi"]: row for row in json.loads(result.stdout)}
    assert found["raw"].keys() == found["dff"].keys()
    assert any(row["rate_hz"] > 0 for row in found["raw"].values())


def test_a_run_without_a_passive_block_has_no_candidates(tmp_path: Path):
    loop = [(ns, e) for ns, e in make_session().envelopes if not isinstance(e.message, Phase)]
    app = typer.Typer()
    day1.register(app)
    refused = CliRunner().invoke(app, ["candidates", str(write_journal(tmp_path / "run", loop)), "--json"])
    assert refused.exit_code == 2
    assert "0 valid frames in passive blocks" in refused.stderr
