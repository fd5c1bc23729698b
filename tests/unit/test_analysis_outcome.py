"""Trials, their epochs and what dendrites tell of them, on sessions whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loop2p.analysis.columns import joined
from loop2p.analysis.outcome import ended_trials, exchanged, outcomes, trial_residuals
from loop2p.analysis.residuals import Coincident
from loop2p.analysis.sessions import PlaneEvents, SessionData

N = 12
ROLE = np.array(["plus"] * 4 + ["minus"] * 4 + ["other"] * 4)
TRIAL_S = 20.0


def session(
    mouse: int = 0, day: int = 1, after: float = 0.0, before: float = 0.0, n_trials: int = 25, hits: float = 0.6,
    silent: float = 0.0,
) -> SessionData:  # fmt: skip
    """Hits at 12 s, misses end at 14 s. Residuals in the 2 s after a hit: + `after` in all; in the 2 s before a hit:
    P+ + `before`, P- - `before`. Of the events in the 2 s before a miss `silent` are not there."""
    rng = np.random.default_rng([5, mouse, day])
    start_s = np.arange(n_trials) * TRIAL_S
    hit = rng.permutation(n_trials) < hits * n_trials
    end_s = start_s + np.where(hit, 12, 14)
    blank_s = np.where(hit, end_s + 2, end_s)
    shown = [(start_s, np.nan), (start_s + 0.5, 45.0), (start_s + 6, 60.0), (end_s[hit], 90.0), (blank_s, np.nan)]
    at = np.concatenate([t for t, _ in shown])
    angle = np.concatenate([np.full(len(t), a) for t, a in shown])
    order = np.argsort(at, kind="stable")
    n_events = rng.poisson(0.25 * n_trials * TRIAL_S, N)
    t_s, roi = rng.uniform(0, n_trials * TRIAL_S, n_events.sum()), np.repeat(np.arange(N), n_events)
    by_time = np.argsort(t_s)
    t_s, roi = t_s[by_time], roi[by_time]
    trial = (t_s // TRIAL_S).astype(int)
    since = t_s - end_s[trial]
    role = np.select([ROLE[roi] == "plus", ROLE[roi] == "minus"], [1, -1], 0)
    there = hit[trial] | (since < -2) | (since >= 0) | (rng.spawn(1)[0].random(len(t_s)) >= silent)
    t_s, roi, trial, since, role = (of[there] for of in (t_s, roi, trial, since, role))
    signal = hit[trial] * (after * ((since >= 0) & (since < 2)) + before * role * ((since >= -2) & (since < 0)))
    soma = rng.lognormal(-0.4, 0.4, len(t_s))
    dendrite = 0.5 + 0.7 * soma + 0.1 * (rng.standard_normal(len(t_s)) + signal)
    return SessionData(
        path=Path("x.nwb"), mouse=f"m{mouse}", day=day, role=ROLE, start_s=start_s,
        outcome=np.where(hit, "hit", "miss"), hit_s=np.where(hit, end_s, np.nan),
        reward_s=np.where(hit, end_s + 1, np.nan), phases=[("closed_loop", "", 0.0, n_trials * TRIAL_S)],
        shown_s=at[order], shown_deg=angle[order], lick_s=np.zeros(0), speed_cm_s=np.zeros(0),
        events={0: PlaneEvents(t_s, roi, soma), 1: PlaneEvents(t_s, roi, dendrite)},
    )  # fmt: skip


def cohort(**signal: float) -> list[SessionData]:
    return [session(mouse, day, **signal) for mouse in range(2) for day in (1, 2)]


def test_a_trial_ends_with_the_target_or_with_the_blank():
    there = session()
    found = ended_trials(there)
    assert np.array_equal(found.hit, there.outcome == "hit")
    assert found.end_s == pytest.approx(there.start_s + np.where(found.hit, 12, 14))


def test_trials_without_an_outcome_are_left_out():
    there = session()
    there.outcome[3:5] = "void", "unfinished"
    found = ended_trials(there)
    assert len(found.hit) == 23
    assert found.end_s[3] > there.start_s[5]


def test_a_loop_without_trials_of_its_own_has_none():
    """A yoked loop: its pictures show trials, but they are those of another mouse."""
    none = np.zeros(0)
    there = structs.replace(session(), start_s=none, outcome=np.zeros(0, np.str_), hit_s=none, reward_s=none)
    found = ended_trials(there)
    assert (len(found.end_s), len(found.hit)) == (0, 0)


def test_a_neurons_residuals_are_averaged_by_trial_and_a_silent_one_is_zero():
    events = Coincident(np.array([1.0, 2.9, 5.0, 1.5]), np.array([3, 3, 3, 7]), *np.zeros((3, 4)))
    z = np.array([1.0, 2.0, 4.0, -1.0])
    mean_z, n = trial_residuals(events, z, np.array([1.0, 3.0, 3.1, 20.0]))
    assert mean_z.tolist() == [[1.5, -1], [0, 0], [4.0, 0], [0, 0]]  # an event at the epoch's very end is the next's
    assert n.tolist() == [[2, 1], [0, 0], [1, 0], [0, 0]]


def test_reward_is_told_after_and_not_before():
    found = outcomes(cohort(after=4.0), 1, n_shuffles=1)
    assert found.accuracy.shape == found.shuffled.shape == (4, 2)
    assert np.mean(found.balanced - found.balanced_shuffled, axis=0)[0] > 0.15
    assert (found.n == [15, 10]).all()
    over_sessions, over_mice, mixed = found.tests("after")
    assert over_sessions.estimate == found.margins("after").mean() > 0.15
    assert over_sessions.p < 0.01
    assert over_mice.p < 0.2  # two mice
    assert (over_sessions.n, over_mice.n, mixed.n) == ((4,), (2,), (2,))
    assert abs(found.margins("before").mean()) < 0.15
    assert found.tests("before")[0].p > 0.01


def test_success_is_told_before_by_the_role():
    found = outcomes(cohort(before=4.0), 1, n_shuffles=1)
    assert found.margins("before").mean() > 0.1
    assert found.tests("before")[0].p < 0.01
    plus, minus, other = found.residuals_by_mouse("before", "hit").mean(axis=0)
    assert plus > other > minus
    assert 3 < plus - minus < 8  # less than planted: z is in SDs that hold the signal too
    assert max(test.p for test in found.role_tests("before", "hit")[:2]) < 0.1
    for epoch, outcome in (("before", "miss"), ("after", "hit"), ("after", "miss")):
        assert np.abs(found.residuals_by_mouse(epoch, outcome).mean(axis=0)).max() < 0.4
        assert found.role_tests(epoch, outcome)[0].p > 0.01


def test_dendrites_that_know_nothing_tell_nothing():
    found = outcomes(cohort(), 1, n_shuffles=1)
    for epoch in ("after", "before"):
        assert abs(found.margins(epoch).mean()) < 0.15
        assert found.tests(epoch)[0].p > 0.01


def test_a_silent_neuron_tells_by_its_silence_and_exchanged_residuals_show_how_much():
    sessions = [session(mouse, day, silent=0.9, n_trials=60, hits=0.5) for mouse in range(4) for day in (1, 2, 3)]
    found = outcomes(sessions, seed=1)
    before = found.tests("before")[0]
    assert before.p < 0.01
    assert before.estimate > 0.05  # no residual knows anything
    beyond = found.size_tests("before")[0]
    assert abs(beyond.estimate) < before.estimate / 3
    assert beyond.p > 0.05


def test_what_residuals_tell_is_lost_when_they_change_places():
    found = outcomes([session(m, d, before=4.0, n_trials=60) for m in range(2) for d in (1, 2)], seed=1)
    beyond = found.size_tests("before")[0]
    assert beyond.estimate > 0.2
    assert beyond.p < 0.01
    assert np.abs(found.exchanged - found.shuffled).max() < 0.15


def test_residuals_change_places_within_their_neuron():
    there = session()
    t_s, size = there.events[0].t_s, there.events[0].magnitude
    events = Coincident(t_s=t_s, roi=there.events[0].roi, soma=size, dendrite=size, latency_s=0 * t_s)
    z = np.arange(len(events.roi), dtype=float)
    found = exchanged(events, z, np.random.default_rng(2))
    assert (found != z).mean() > 0.8
    for roi in range(N):
        assert sorted(found[events.roi == roi]) == sorted(z[events.roi == roi])


def test_a_session_of_hits_alone_has_residuals_and_no_accuracy():
    found = outcomes([session(hits=1.0), session(mouse=1)], 1, n_shuffles=1)
    assert np.isnan(found.accuracy[0]).all()
    assert np.isfinite(found.residuals("after", "hit")[0]).all()
    assert np.isnan(found.residuals("after", "miss")[0]).all()
    assert np.isfinite(found.margins("after")).tolist() == [False, True]
    assert np.isnan([test.p for test in (*found.tests("after"), *found.role_tests("after", "miss"))]).all()
    assert found.residuals_by_mouse("after", "miss").shape == (2, 3)


def test_the_same_seed_gives_the_same_whatever_else_is_decoded():
    one, both = outcomes([session()], 1, n_shuffles=1), outcomes([session(), session(mouse=1)], 1, n_shuffles=1)
    assert np.array_equal(one.accuracy[0], both.accuracy[0])
    assert np.array_equal(one.shuffled[0], both.shuffled[0])


def test_sessions_decoded_one_by_one_are_put_together():
    parts = [outcomes([session(mouse)], seed=(1, mouse), n_shuffles=1) for mouse in range(2)]
    whole = joined(parts)
    assert whole.mouse.tolist() == ["m0", "m1"]
    for name in whole.__struct_fields__:
        assert np.array_equal(getattr(whole, name)[1], getattr(parts[1], name)[0])
