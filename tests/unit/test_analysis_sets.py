"""How often a signature is met over sets of mice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from msgspec import structs

from loop2p.analysis.arm import sets_in
from loop2p.analysis.row import Row
from loop2p.analysis.sets import how_often, together, write_sets
from loop2p.analysis.statistics import Test, combined, t_one_sample


def asked(estimate: float, p: float, n: int = 6, test: str = "paired t") -> Test:
    return Test("one question", test, "mouse", (n,), estimate, p)


def rows(**met: bool | None) -> list[Row]:
    return [Row(id, f"what {id} is", "paper", f"{verdict} <1>", "rule", verdict) for id, verdict in met.items()]


SETS = {"a": rows(A1=True, A2=False), "b": rows(A1=True, A2=None), "c": rows(A1=False, A2=True)}


def test_each_signature_is_counted_over_the_sets_that_could_be_judged():
    one, other = how_often(SETS)
    assert (one.row.id, one.n_met, one.n_judged) == ("A1", 2, 3)
    assert (other.row.id, other.n_met, other.n_judged) == ("A2", 1, 2)
    assert other.measured == {"a": "False <1>", "b": "None <1>", "c": "True <1>"}


def test_sets_with_other_signatures_or_none_are_refused():
    for wrong in ({}, {"a": rows(A1=True), "b": rows(A2=True)}):
        with pytest.raises(ValueError, match="expected at least one set and the same in all"):
            how_often(wrong)


def test_page_and_table_show_every_set(tmp_path: Path):
    page = write_sets(tmp_path, SETS, {name: f"{name}/report.html" for name in SETS}).read_text(encoding="utf-8")
    assert "2 of 3" in page
    assert "1 of 2" in page
    assert "True &lt;1&gt;" in page
    assert all(f'href="{name}/report.html"' in page for name in SETS)
    table = pd.read_parquet(tmp_path / "tables" / "sets.parquet")
    assert table.met.sum() == 3
    assert table.met.isna().sum() == 1
    assert "left out" not in page


def test_the_page_tells_what_is_left_out(tmp_path: Path):
    page = write_sets(tmp_path, SETS, dict.fromkeys(SETS, ""), ["a/x.nwb: no <trials>"]).read_text(encoding="utf-8")
    assert "1 left out" in page
    assert "a/x.nwb: no &lt;trials&gt;" in page


def test_tests_of_sets_agree_or_pull_against_each_other():
    same = combined([asked(0.1, 0.05), asked(0.3, 0.05)])
    # 1.95996 (1 + 1) / sqrt(2), and its two tails
    assert (same.estimate, same.n) == (pytest.approx(0.2), (12,))
    assert same.p == pytest.approx(0.005575, abs=1e-6)
    assert combined([asked(0.1, 0.05), asked(-0.1, 0.05)]).p == pytest.approx(1.0)
    heavier = combined([asked(0.1, 0.05, n=20), asked(-0.4, 0.05, n=5)])
    assert heavier.estimate == pytest.approx(0.0)
    assert heavier.p == pytest.approx(0.38, abs=0.01)  # 1.95996 (sqrt(20) - sqrt(5)) / 5
    assert 0 <= combined([asked(0.1, 0.0), asked(0.1, 0.0)]).p < 1e-300


def test_under_no_effect_a_combined_p_is_uniform():
    draws = np.random.default_rng(7).standard_normal((2000, 3, 6))
    p = [combined([t_one_sample(mice, 0.0, what="x", level="mouse") for mice in sets]).p for sets in draws]
    # 2000 p: .05 +- .005, four standard errors
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(p) == pytest.approx(0.5, abs=0.026)


@pytest.mark.parametrize(
    "wrong", [[], [asked(0.1, float("nan"))], [asked(1, 0.5), Test("x", "t", "mouse", (6,), 1, 0.5)]]
)
def test_other_questions_or_no_p_can_not_be_combined(wrong: list[Test]):
    with pytest.raises(ValueError, match="expected one question, and a p of each"):
        combined(wrong)


def test_what_sets_have_in_common_stands_together_on_the_page_and_in_a_table(tmp_path: Path):
    anova, mixed = asked(5.0, 0.01, test="one-way ANOVA"), asked(0.1, 0.04, test="mixed model, t with 5 df")
    of = {
        "a": [asked(0.1, 0.05), anova, mixed],
        "b": [asked(0.3, 0.05), asked(0.2, 0.03, test="mixed model, t with 70 df")],
        "c": [asked(0.3, float("nan"))],
    }
    sets = {name: [structs.replace(rows(A1=True)[0], tests=tuple(tests))] for name, tests in of.items()}
    first, second = together(sets)
    assert (first.id, first.test, list(first.by_set), first.all_mice.n) == ("A1", "paired t", ["a", "b"], (12,))
    assert second.test == "mixed model"
    page = write_sets(tmp_path, sets, {name: f"{name}/report.html" for name in sets}).read_text(encoding="utf-8")
    assert "<b>+0.2</b> (p = 0.0056, 12 mice)" in page
    table = pd.read_parquet(tmp_path / "tables" / "together.parquet")
    assert table.n_mice.tolist() == [12, 12]


def test_two_tests_of_a_row_with_one_name_are_refused():
    twice = {"a": [structs.replace(rows(A1=True)[0], tests=(asked(0.1, 0.05), asked(0.2, 0.05)))]}
    with pytest.raises(ValueError, match="A1 of a: two tests"):
        together(twice)


def test_sets_are_folders_that_hold_arms(tmp_path: Path):
    for name in ("one/main", "two/led", "two/main", "neither/x"):
        (tmp_path / name).mkdir(parents=True)
    assert list(sets_in(tmp_path)) == ["one", "two"]
    assert sets_in(tmp_path / "two") == {}
    assert sets_in(tmp_path / "absent") == {}
    (tmp_path / "analysis" / "main").mkdir(parents=True)
    assert list(sets_in(tmp_path, [tmp_path / "analysis"])) == ["one", "two"]


def test_sets_may_lie_deeper_and_are_called_by_their_place(tmp_path: Path):
    for name in ("v1/21/main/a.nwb", "v1/22/led/a.nwb", "v1/22/main/a.nwb", "v2/main/a.nwb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "v1" / "analysis" / "21" / "measured" / "main").mkdir(parents=True)  # of an earlier run on v1
    assert list(sets_in(tmp_path)) == ["v1/21", "v1/22", "v2"]
    assert sets_in(tmp_path)["v1/22"] == tmp_path / "v1" / "22"
