"""Rates by phase, matched neurons and P0 that go with D, on sessions whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loop2p.analysis.neurons import (
    PLANE_HZ,
    event_traces,
    in_phase,
    like_decoder,
    like_decoder_of,
    phase_rates_hz,
    rate_matched,
    soma_matched,
    soma_sizes,
)
from loop2p.analysis.sessions import PlaneEvents, SessionData

PHASES = [("baseline", "passive", 0.0, 600.0), ("calibration", "", 600.0, 610.0), ("closed_loop", "", 610.0, 2610.0)]


def session(soma: PlaneEvents, role, dendrite: PlaneEvents | None = None, phases=PHASES) -> SessionData:
    none = np.zeros(0)
    return SessionData(
        path=Path("x.nwb"), mouse="m", day=1, role=np.array(role), start_s=none, outcome=none.astype(str), hit_s=none,
        reward_s=none, phases=phases, shown_s=none, shown_deg=none, lick_s=none, speed_cm_s=none,
        events={0: soma} if dendrite is None else {0: soma, 1: dendrite},
    )  # fmt: skip


def events(t_s, roi, magnitude=None) -> PlaneEvents:
    order = np.argsort(t_s)
    sizes = np.ones(len(t_s)) if magnitude is None else np.asarray(magnitude, float)
    return PlaneEvents(np.asarray(t_s, float)[order], np.asarray(roi, np.int64)[order], sizes[order])


def test_rates_belong_to_their_phase():
    soma = events([10, 20, 605, 700, 800, 900, 2700], [0, 0, 0, 0, 0, 1, 0])
    one = session(soma, ["plus", "minus", "other"])
    assert phase_rates_hz(one, "baseline").tolist() == [2 / 600, 0, 0]
    assert phase_rates_hz(one, "closed_loop").tolist() == [2 / 2000, 1 / 2000, 0]
    assert in_phase(one, soma.t_s, "closed_loop").tolist() == [False, False, False, True, True, True, False]
    assert np.isnan(phase_rates_hz(session(soma, ["plus"] * 3, phases=PHASES[:1]), "closed_loop")).all()


def roles(n_plus: int, n_minus: int, n_other: int) -> np.ndarray:
    return np.array(["plus"] * n_plus + ["minus"] * n_minus + ["other"] * n_other)


def test_matched_p0_have_the_rates_of_the_p_cells_and_none_comes_twice():
    rng = np.random.default_rng(0)
    role = roles(5, 5, 290)
    rate_hz = np.where(role == "other", 0.03 * rng.lognormal(-0.4, 0.9, 300), rng.uniform(0.05, 0.09, 300))
    chosen = rate_matched(rate_hz, role)
    assert len(set(chosen.tolist())) == 30
    assert set(role[chosen]) == {"other"}
    assert rate_hz[chosen].mean() == pytest.approx(rate_hz[:10].mean(), rel=0.03)
    assert rate_hz[role == "other"].mean() < 0.6 * rate_hz[:10].mean()
    assert np.array_equal(chosen, rate_matched(rate_hz, role))


def test_matching_takes_the_least_sum_of_differences():
    assert rate_matched(np.array([0.10, 0.08, 0.09, 0.20, 0.07]), roles(1, 1, 3), per_cell=1).tolist() == [2, 4]
    with pytest.raises(ValueError, match=r"3 P0 for 6 places"):
        rate_matched(np.zeros(5), roles(1, 1, 3))


def test_soma_sizes_are_means_of_coincident_events_in_the_loop():
    soma = events([100, 700, 800, 900, 1000], [0, 0, 0, 0, 1], [9.0, 1.0, 2.0, 7.0, 4.0])
    dendrite = events([100, 700.1, 800.2, 905], [0, 0, 0, 0])
    one = session(soma, ["plus", "minus"], dendrite)
    assert soma_sizes([one, one]) == pytest.approx([1.5, np.nan, 1.5, np.nan], nan_ok=True)


def neuron_sessions(shift_sd: float, seed: int = 0, n: int = 45):
    """Six mice; P+ larger by `shift_sd`; some P0, some NaN."""
    rng = np.random.default_rng(seed)
    mouse = np.repeat([f"m{k}" for k in range(6)], 4 * n)
    role = np.tile(np.repeat(["plus", "minus", "other", "other"], n), 6)
    size = 1 + 0.2 * (rng.standard_normal(len(role)) + shift_sd * (role == "plus"))
    size[::50] = np.nan
    return size, role, mouse


@pytest.mark.parametrize("shift_sd", [0.0, 1.0])
def test_matched_groups_have_equal_somatic_sizes_in_each_mouse(shift_sd):
    size, role, mouse = neuron_sessions(shift_sd)
    kept = soma_matched(size, role, mouse)
    plus, minus = (size[kept & (role == name)] for name in ("plus", "minus"))
    assert abs(plus.mean() - minus.mean()) < 0.05 * 0.2
    assert stats.ks_2samp(plus, minus).pvalue > 0.9
    assert kept.sum() > (0.45 if shift_sd else 0.6) * np.sum(role != "other")
    assert not kept[(role == "other") | np.isnan(size)].any()
    for name in np.unique(mouse):
        assert np.sum(kept & (mouse == name) & (role == "plus")) == np.sum(kept & (mouse == name) & (role == "minus"))
    before = [size[(role == name) & np.isfinite(size)] for name in ("plus", "minus")]
    assert (stats.ks_2samp(*before).pvalue < 1e-6) == bool(shift_sd)


def test_groups_that_do_not_overlap_leave_nobody():
    size, role, mouse = neuron_sessions(30.0)
    assert not soma_matched(size, role, mouse).any()
    assert not soma_matched(size, np.full(len(role), "other"), mouse).any()


def test_event_traces_jump_and_decay():
    times_s = np.arange(100) / 10
    traces = event_traces(events([1.0, 1.05, -3.0, 50.0], [0, 1, 0, 0], [2.0, 3.0, 9.0, 9.0]), 2, times_s, decay_s=0.5)
    assert traces[9:13, 0] == pytest.approx([0, 2, 2 * np.exp(-0.2), 2 * np.exp(-0.4)])
    assert traces[9:13, 1] == pytest.approx([0, 0, 3, 3 * np.exp(-0.2)])


def loop(linked: bool, seed: int = 0) -> tuple[SessionData, np.ndarray]:
    """4 P+, 4 P-, 100 P0 of which the first 6 fire with a P+ cell and the next 6 with a P- cell."""
    rng = np.random.default_rng(seed)
    n_rois = 108
    counts = rng.poisson(0.05 * 2610, n_rois)
    t_s, roi = rng.uniform(0, 2610, counts.sum()), np.repeat(np.arange(n_rois), counts)
    if linked:
        for k in range(12):
            own = t_s[roi == (k % 4 if k < 6 else 4 + k % 4)]
            t_s, roi = np.append(t_s, own + 0.1), np.append(roi, np.full(len(own), 8 + k))
    role = roles(4, 4, 100)
    return session(events(t_s, roi, rng.lognormal(-0.4, 0.4, len(t_s))), role), role


def test_p0_that_fire_with_plus_or_minus_are_found_and_p_cells_themselves_are_not_counted():
    one, role = loop(linked=True)
    for phase in ("closed_loop", "baseline"):
        like = like_decoder_of(one, phase)
        assert set(like[8:14]) == {"plus"}
        assert set(like[14:20]) == {"minus"}
        assert set(like[role != "other"]) == {"other"}
        assert np.mean(like[20:] != "other") < 0.1


def test_by_chance_a_third_of_p0_is_beyond_one_sd_and_other_phases_choose_others():
    one, _ = loop(linked=False)
    loop_like, passive_like = like_decoder_of(one), like_decoder_of(one, "baseline")
    assert 0.2 < np.mean(loop_like[8:] != "other") < 0.42
    agree = np.sum((loop_like == passive_like) & (loop_like != "other"))
    oppose = np.sum((loop_like != passive_like) & (loop_like != "other") & (passive_like != "other"))
    assert abs(int(agree) - int(oppose)) < 10


def test_traces_of_fluorescence_serve_as_well():
    one, role = loop(linked=True)
    times_s = np.arange(0, 2610, 1 / PLANE_HZ)
    traces = event_traces(one.events[0], len(role), times_s)
    noisy = traces + np.random.default_rng(1).normal(0, 0.1, traces.shape)
    like = like_decoder(noisy.astype(np.float32), role)
    assert set(like[8:14]) == {"plus"}
    assert set(like[14:20]) == {"minus"}


def test_a_session_without_a_group_is_refused():
    with pytest.raises(ValueError, match="no neuron is 'minus'"):
        like_decoder(np.zeros((10, 3)), np.array(["plus", "plus", "other"]))
