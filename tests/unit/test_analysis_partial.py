"""Derivative, level, both or none: each planted into events of a grating that moves as in closed loop, each told."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from scipy.signal import lfilter

from loop2p.analysis.columns import where
from loop2p.analysis.epochs import Epochs, error_epochs
from loop2p.analysis.partial import (
    ErrorEvents,
    by_level,
    error_events,
    partial_regression,
    velocity_deg_s,
)
from loop2p.analysis.sessions import PlaneEvents, SessionData, SessionError

DT_S = 0.0647
FRAMES = 435
TRIALS = 60
ROLE = np.array(["plus"] * 4 + ["minus"] * 4 + ["other"] * 4)
SIGN = np.array([1.0] * 4 + [-1.0] * 4 + [0.0] * 4)
MICE, DAYS = 6, 2


def session(mouse: int, day: int, derivative: float = 0.0, level: float = 0.0, seed: int = 0) -> SessionData:
    """Events of P+ turn the grating towards the target and those of P- away from it, so large error has just grown.

    derivative, level: SD of dendrite that an SD of each gives to P+, and takes from P-. What acts is the velocity up to
    the event, low-passed by 0.5 s, and the error of the moment.
    """
    rng = np.random.default_rng([seed, mouse, day])
    at, angles, starts = [], [], []
    t_s, roi, change, error = [], [], [], []
    for trial in range(TRIALS):
        start = trial * 32.0
        spikes = rng.random((FRAMES, len(ROLE))) < 0.09 * DT_S
        push = 40 * spikes @ SIGN / 1.5 + 1.5 * rng.standard_normal(FRAMES)
        x = lfilter([1.0], [1, DT_S / 1.5 - 1], push)
        angle = np.clip(15 * np.round((50 + x) / 15), 0, 75)
        turns = np.flatnonzero(np.diff(angle, prepend=np.nan) != 0)
        starts.append(start)
        at += [start, *(start + 0.5 + DT_S * turns), start + 0.5 + DT_S * FRAMES]
        angles += [np.nan, *angle[turns], np.nan]
        frame, cell = np.nonzero(spikes)
        velocity = lfilter([1 / 0.5], [1, -np.exp(-DT_S / 0.5)], np.diff(angle, prepend=angle[0]))
        t_s += list(start + 0.5 + DT_S * frame + 0.01)
        roi += list(cell)
        change += list(velocity[frame])
        error += list(90 - angle[frame])
    role = SIGN[roi]
    signal = [role * (v - v[role != 0].mean()) / v[role != 0].std() for v in (np.array(change), np.array(error))]
    soma = rng.lognormal(-0.4, 0.4, len(roi))
    own = rng.standard_normal(len(roi)) + derivative * signal[0] + level * signal[1]
    none = np.full(TRIALS, np.nan)
    events = [PlaneEvents(np.array(t_s), np.array(roi), size) for size in (soma, 0.2 + 0.7 * soma + 0.2 * own)]
    return SessionData(
        path=Path(f"{mouse}-{day}.nwb"), mouse=f"m{mouse}", day=day, role=ROLE, start_s=np.array(starts),
        outcome=np.array(["miss"] * TRIALS), hit_s=none, reward_s=none,
        phases=[("closed_loop", "", 0.0, TRIALS * 32.0)],
        shown_s=np.array(at), shown_deg=np.array(angles), lick_s=np.zeros(0), speed_cm_s=np.zeros(0),
        events=dict(enumerate(events)),
    )  # fmt: skip


@cache
def planted(derivative: float = 0.0, level: float = 0.0, seed: int = 0) -> ErrorEvents:
    days = range(1, DAYS + 1)
    return error_events([session(m, d, derivative, level, seed) for m in range(MICE) for d in days])


def test_the_one_that_acts_is_found_and_the_other_is_not():
    """Though they are correlated, as in closed loop."""
    found = partial_regression(planted(derivative=0.4), "velocity_deg_s")
    assert found.r < -0.2
    derivative, level = found.over_mice
    assert derivative.p < 1e-4
    assert derivative.estimate == pytest.approx(0.37, abs=0.05)
    assert abs(level.estimate) < 0.05
    derivative, level = partial_regression(planted(level=0.4), "velocity_deg_s").over_mice
    assert level.p < 1e-4
    assert level.estimate == pytest.approx(0.37, abs=0.05)
    assert abs(derivative.estimate) < 0.05


def test_both_are_found_with_their_signs():
    derivative, level = partial_regression(planted(derivative=0.4, level=-0.3), "velocity_deg_s").over_mice
    assert (derivative.estimate, level.estimate) == pytest.approx((0.36, -0.27), abs=0.06)
    assert max(derivative.p, level.p) < 1e-3


@pytest.mark.parametrize("source", ["rotation_deg_s", "velocity_deg_s"])
def test_none_is_found_in_none(source):
    tests = [t for seed in (1, 2, 3) for t in partial_regression(planted(seed=seed), source).over_mice]
    assert max(abs(t.estimate) for t in tests) < 0.08
    assert min(t.p for t in tests) > 0.01


def test_a_derivative_that_is_measured_badly_leaves_a_level_behind():
    """Bins hold what acted only in part: a level beside a derivative is evidence only with the derivative that acts."""
    bins, exact = (
        partial_regression(planted(derivative=0.4), name).over_mice for name in ("rotation_deg_s", "velocity_deg_s")
    )
    assert 0.05 < bins[0].estimate < 0.7 * exact[0].estimate
    assert abs(bins[1].estimate) > abs(exact[1].estimate) + 0.03


def test_errors_clustered_by_mouse_find_the_same():
    found = partial_regression(planted(derivative=0.4, level=-0.3), "velocity_deg_s")
    assert [t.estimate for t in found.clustered] == pytest.approx([t.estimate for t in found.over_mice], abs=0.03)
    assert max(t.p for t in found.clustered) < 1e-3
    assert found.by_mouse.shape == (MICE, 2)


def test_the_paper_s_way_sees_a_level_where_the_derivative_alone_acts_and_nothing_in_nothing():
    """Why there is a regression."""
    seen = by_level(planted(derivative=0.6))
    assert [t.level for t in seen] == ["neuron-session", "mouse"] * 2
    assert max(t.p for t in seen[2:]) < 0.01
    assert min(t.p for seed in (1, 2) for t in by_level(planted(seed=seed))) > 0.01
    level = by_level(planted(level=0.5))
    assert level[1].estimate < -0.2
    assert level[3].estimate > 0.2


def pictures(*rows, outcome="miss", hit_s=np.nan) -> SessionData:
    """One trial from 0 with these (time, angle)."""
    at, angle = np.array(rows, float).T
    one = session(0, 1)
    return structs.replace(
        one, start_s=np.zeros(1), outcome=np.array([outcome]), hit_s=np.array([hit_s]), shown_s=at, shown_deg=angle
    )


def test_velocity_is_the_turns_before_low_passed_and_forgets_at_the_trial():
    one = pictures((0, np.nan), (0.5, 60), (1, 75), (9, np.nan))
    times = np.array([0.9, 1.0, 1.5, 3.0, 9.5])
    found = velocity_deg_s(one, error_epochs(one), times, tau_s=0.5)
    assert found.tolist() == pytest.approx([0, 30, 30 * np.exp(-1), 30 * np.exp(-4), 0])
    two = Epochs(np.array([0.5, 2.0]), np.array([2.0, 9.0]), np.zeros(4))
    assert velocity_deg_s(one, two, np.array([3.0])).tolist() == [0.0]


def test_events_carry_the_error_of_their_moment_and_of_their_bin():
    one = pictures((0, np.nan), (0.5, 60), (1.5, 75), (9, np.nan))
    rng = np.random.default_rng(0)
    t_s = np.concatenate([np.arange(20) / 20 + 0.55, [1.6], np.arange(20) / 20 + 3, [8.7, 9.5]])
    soma = PlaneEvents(t_s, np.zeros(len(t_s), int), rng.random(len(t_s)))
    found = error_events(
        [structs.replace(one, events={0: soma, 1: structs.replace(soma, magnitude=rng.random(len(t_s)))})]
    )
    assert len(found.z) == len(t_s) - 2  # the last piece is no whole bin, and 9.5 s is in no trial
    assert found.error_deg[[0, 20, 21]].tolist() == [30, 15, 15]
    assert found.bin_error_deg[[0, 20, 21]].tolist() == pytest.approx([22.5, 22.5, 15])
    assert found.rotation_deg_s[[0, 20, 21]].tolist() == [7.5, 7.5, 0]


def test_sessions_that_cannot_be_used_are_refused_by_name():
    one = session(0, 1)
    with pytest.raises(SessionError, match=r"0-1\.nwb: no events/dendritic_events"):
        error_events([structs.replace(one, events={0: one.events[0]})])
    with pytest.raises(ValueError, match="nothing to put together"):
        error_events([])


def test_a_mouse_with_too_few_events_is_named():
    found = planted()
    few = where(found, (found.mouse != "m2") | (np.cumsum(found.mouse == "m2") < 9))
    with pytest.raises(ValueError, match=r"m2: . events of P\+ and P-, rank ., expected more events than 6 terms"):
        partial_regression(few)
    still = structs.replace(found, rotation_deg_s=np.zeros(len(found.z)))
    with pytest.raises(ValueError, match="rotation_deg_s: the same in all"):
        partial_regression(still)
