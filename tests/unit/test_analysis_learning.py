"""Accuracy, rates and the learning rows of the acceptance table, on sessions whose truth is known."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from msgspec import structs

from loop2p.analysis.acceptance import check, rows_of_sessions
from loop2p.analysis.arm import Arm
from loop2p.analysis.further import rate_tests, relative_rates
from loop2p.analysis.learning import (
    accuracy,
    rate_ratios,
    rates_hz,
    rewards_per_min,
    running_slope,
    sparsification_slope,
)
from loop2p.analysis.sessions import PlaneEvents, SessionData, SessionError, read_session

LOOP_S, BASELINE_S = 2400.0, 600.0
N = 90
ROLE = np.array(["plus"] * 5 + ["minus"] * 5 + ["other"] * (N - 10))


def session(mouse: int, day: int, hits: int = 40, misses: int = 40, rate_hz: np.ndarray | None = None, **more):
    """A session with Poisson events; rates (N,) Hz."""
    rng = np.random.default_rng([mouse, day])
    total_s = BASELINE_S + LOOP_S
    counts = rng.poisson((np.full(N, 0.03) if rate_hz is None else rate_hz) * total_s)
    times = rng.uniform(0, total_s, counts.sum())
    order = np.argsort(times)
    outcome = np.array(["hit"] * hits + ["miss"] * misses + ["void"])
    hit_s = np.where(outcome == "hit", 1.0, np.nan)
    values = {
        "path": Path(f"{mouse}-{day}.nwb"),
        "mouse": f"m{mouse}",
        "day": day,
        "role": ROLE,
        "start_s": np.arange(len(outcome)) * LOOP_S / len(outcome) + BASELINE_S,
        "outcome": outcome,
        "hit_s": hit_s,
        "reward_s": hit_s + 1,
        "phases": [("baseline", "passive", 0.0, BASELINE_S), ("closed_loop", "", BASELINE_S, total_s)],
        "shown_s": np.zeros(0),
        "shown_deg": np.zeros(0),
        "lick_s": np.zeros(0),
        "speed_cm_s": 3 + rng.standard_normal(500),
        "events": {0: PlaneEvents(times[order], np.repeat(np.arange(N), counts)[order], np.ones(counts.sum()))},
    }
    return SessionData(**(values | more))


def mouse(number: int, *, learns: bool = True, factors=(0.85, 0.60, 0.71), slope: float = 0.0) -> list[SessionData]:
    """Fourteen days: from day 9 on accuracy .75 and 3 rewards/min for .5 and 1.5, rates times the factors."""
    rng = np.random.default_rng(number)
    first = 0.03 * np.exp(0.7 * rng.standard_normal(N))
    first[:10] = 0.07
    days = []
    for day in range(1, 15):
        late = day > 8
        by_group = np.select([ROLE == "plus", ROLE == "minus"], factors[:2], factors[2])
        rates = first * (by_group if late and learns else 1.0)
        hits, misses = (120, 40) if late and learns else (60, 60)
        hits += int(rng.integers(-6, 7))
        speed_cm_s = 3 + slope * day + 0.05 * rng.standard_normal(9)
        days.append(session(number, day, hits, misses, rates, speed_cm_s=speed_cm_s))
    return days


def test_accuracy_leaves_void_trials_out_and_rewards_count_by_the_minute_of_loop():
    one = session(1, 1, hits=30, misses=10)
    assert accuracy(one) == 0.75
    assert rewards_per_min(one) == pytest.approx(30 / 40)
    assert np.isnan(accuracy(session(1, 1, hits=0, misses=0)))


def test_rates_of_both_halves_are_the_rate():
    rate = np.linspace(0.01, 0.2, N)
    one = session(1, 1, rate_hz=rate)
    assert np.allclose([rates_hz(one, 0).mean(), rates_hz(one, 1).mean(), rates_hz(one).mean()], rate.mean(), rtol=0.05)
    assert rates_hz(one)[-1] == pytest.approx(0.2, rel=0.15)


def test_ratios_find_the_factors_that_were_put_in():
    found = [rate_ratios(mouse(k)) for k in range(8)]
    for group, wanted in (("plus", 0.85), ("minus", 0.60), ("other", 0.71)):
        assert np.mean([f[group] for f in found]) == pytest.approx(wanted, abs=0.05)


def test_regression_to_the_mean_makes_no_slope_and_no_ratio():
    """Nothing changes; a fit on the same half that defines day 1 would see active cells fall."""
    still = [mouse(k, learns=False) for k in range(8)]
    slopes = [sparsification_slope(days) for days in still]
    assert abs(np.mean(slopes)) < 0.06
    assert np.mean([rate_ratios(days)["other"] for days in still]) == pytest.approx(1.0, abs=0.05)
    naive = []
    for days in still:
        late = np.mean([rates_hz(s) for s in days[9:]], axis=0)
        naive.append(np.polyfit(rates_hz(days[0], 1), late - rates_hz(days[0], 1), 1)[0])
    assert np.mean(naive) < np.mean(slopes) - 0.02


def test_a_cohort_that_learns_as_published_meets_the_rows():
    arms = {"main": [s for k in range(6) for s in mouse(k)], "led": [s for k in range(5) for s in mouse(k + 10)]}
    rng = np.random.default_rng(1)
    arms["ndnf"] = []
    for k in range(4):
        for day in range(1, 15):
            hits = 40 + int(rng.integers(-6, 7))
            arms["ndnf"].append(session(k + 20, day, hits, 80 - hits))
    rows = {row.id: row for row in rows_of_sessions(arms)}
    assert [name for name, row in rows.items() if not row.met] == []
    assert rows["A2"].aim.endswith(": reached")
    assert "6 of 6 mice up" in rows["A2"].detail


def test_a_cohort_that_learns_nothing_meets_none_of_the_learning_rows():
    rows = {r.id: r for r in rows_of_sessions({"main": [s for k in range(6) for s in mouse(k, learns=False)]})}
    assert [rows[name].met for name in ("A2", "A3", "A4")] == [False, False, False]
    assert rows["A19"].met is None


def test_a_trend_of_running_is_seen():
    assert running_slope(mouse(1, slope=0.2)) == pytest.approx(0.2, abs=0.01)
    rows = {r.id: r for r in rows_of_sessions({"main": [s for k in range(6) for s in mouse(k, slope=0.2)]})}
    assert rows["A5"].met is False


def test_cells_that_are_not_followed_leave_the_rows_of_rates_open():
    days = [structs.replace(s, followed=False) for k in range(6) for s in mouse(k)]
    rows = {row.id: row for row in rows_of_sessions({"main": days})}
    assert [rows[name].met for name in ("A2", "A4", "A5")] == [True, None, None]
    assert "the same cells on each day" in rows["A4"].detail


def test_one_mouse_is_no_test_over_mice_and_leaves_those_rows_open():
    rows = {r.id: r for r in rows_of_sessions({"main": mouse(1), "led": mouse(2), "ndnf": mouse(3, learns=False)})}
    assert [rows[name].met for name in ("A5", "A19")] == [None, None]
    assert rows["A2"].met is True


def rows_of_mice(*mice: list[SessionData], **more: list[SessionData]):
    return {row.id: row for row in rows_of_sessions({"main": [s for days in mice for s in days]} | more)}


def test_an_roi_more_on_a_late_day_leaves_the_rows_of_rates_open_and_names_the_session():
    days = mouse(1)
    days[11] = structs.replace(days[11], role=np.append(ROLE, "other"))
    rows = rows_of_mice(mouse(0), days)
    assert [rows[name].met for name in ("A2", "A4", "A5")] == [True, None, None]
    assert rows["A4"].detail == rows["A5"].detail == "needs the 90 ROIs of day 1 on each day: 1-12.nwb has 91"
    assert rate_tests(Arm("main", [*mouse(0), *days])) == []  # of one mouse


def test_a_late_day_without_events_leaves_the_rows_of_rates_open():
    days = mouse(1)
    days[11] = structs.replace(days[11], events={})
    rows = rows_of_mice(mouse(0), days)
    assert [rows[name].met for name in ("A2", "A4", "A5")] == [True, None, None]
    assert "needs events" in rows["A4"].detail


def without(session: SessionData, role: str, silent: bool = False) -> SessionData:
    """No event of the group, or no cell either."""
    soma = session.events[0]
    keep = session.role[soma.roi] != role
    events = {0: PlaneEvents(soma.t_s[keep], soma.roi[keep], soma.magnitude[keep])}
    left = session.role if silent else np.where(session.role == role, "", session.role)
    return structs.replace(session, events=events, role=left)


@pytest.mark.parametrize("silent", [False, True])
def test_without_p0_their_rates_are_open_and_learning_is_judged(silent: bool):
    days = [without(s, "other", silent) for s in mouse(1)]
    assert np.isnan(sparsification_slope(days))
    assert np.isnan(rate_ratios(days)["other"])
    assert np.isfinite(rate_ratios(days)["plus"])
    rows = rows_of_mice(mouse(0), days)
    assert [rows[name].met for name in ("A1", "A2", "A3", "A4", "A5")] == [True, True, True, None, None]
    assert rows["A4"].detail == "needs P0 with events on day 1, which 1-1.nwb has not"
    assert rows["A5"].detail == "needs P0 that differ in rate on day 1, which 1-1.nwb has not"


def test_without_p_cells_their_rates_are_open():
    no_minus = [without(s, "minus") for s in mouse(1)]
    assert rows_of_mice(no_minus)["A4"].detail == "needs P- with events on day 1, which 1-1.nwb has not"
    neither = [without(s, "plus") for s in no_minus]
    assert rows_of_mice(neither)["A4"].detail == "needs P+ with events on day 1, which 1-1.nwb has not"


def test_p_plus_and_p_minus_exchanged_leave_their_rates_open():
    days = mouse(1)
    exchanged = np.select([ROLE == "plus", ROLE == "minus"], ["minus", "plus"], "other")
    days[9:] = [structs.replace(s, role=exchanged) for s in days[9:]]
    rows = rows_of_mice(mouse(0), days)
    assert [rows[name].met for name in ("A2", "A4", "A5")] == [True, None, True]
    assert rows["A4"].detail == "needs P+ and P- of day 1 on days 10-14, where those of m1 are others"
    assert len(relative_rates(Arm("main", [*mouse(0), *days]))) == 1


def void(session: SessionData) -> SessionData:
    none = np.full(len(session.outcome), np.nan)
    return structs.replace(session, outcome=np.full(len(none), "void"), hit_s=none, reward_s=none)


def test_a_first_day_of_void_trials_is_no_day_to_compare_with():
    first, *later = mouse(1)
    rows = rows_of_mice(mouse(0), [void(first), *later])
    assert [rows[name].met for name in ("A1", "A2", "A3", "A4")] == [None, None, True, True]
    assert rows["A1"].detail == rows["A2"].detail == "needs a hit or a miss on day 1 of m1"
    alone = rows_of_mice([void(first), *later])
    assert alone["A3"].detail == "needs a reward on day 1 of the arm main, to compare the late days with"


def test_void_late_days_are_left_out_of_the_mean():
    days = mouse(1)
    days[12] = void(days[12])
    ndnf = [session(k + 20, day, 40 + day % 3, 40) for k in range(2) for day in range(1, 15)]
    ndnf[13] = void(ndnf[13])
    rows = rows_of_mice(mouse(0), days, ndnf=ndnf, led=[s for k in range(2) for s in mouse(k + 10)])
    assert [rows[name].met for name in ("A2", "A19")] == [True, True]
    assert rows["A2"].measured.endswith(f"-> {np.mean([late(mouse(0)), late(days)]):.3f}")
    days[8:] = [void(s) for s in days[8:]]
    assert rows_of_mice(mouse(0), days)["A2"].detail == "needs a hit or a miss on days 9-14 of m1"


def late(days: list[SessionData]) -> float:
    """Mean accuracy of the late days that have one."""
    return float(np.nanmean([accuracy(s) for s in days[8:]]))


def test_a_mouse_without_its_first_day_is_named():
    with pytest.raises(SessionError, match=r"1-2\.nwb: the first session of m1 is day 2, expected day 1"):
        rows_of_sessions({"main": mouse(1)[1:]})


def test_a_file_that_is_no_session_says_what_is_missing(tmp_path: Path):
    path = tmp_path / "x.nwb"
    with h5py.File(path, "w") as file:
        file["session_description"] = "Day 3 of something"
    with pytest.raises(SessionError, match="no /processing/ophys/ImageSegmentation/RoisProximal"):
        read_session(path)
    with pytest.raises(SessionError, match="no arm of the experiment"):
        check(tmp_path)
