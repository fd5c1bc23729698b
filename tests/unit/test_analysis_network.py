"""Network activity before events, and what is told from it, on neurons whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from scipy import stats

from loop2p.analysis.network import BEFORE_S, decode_signs, network, pearson_p, rate_before
from loop2p.analysis.residuals import loop_residuals
from loop2p.analysis.sessions import PlaneEvents, SessionData, SessionError

N, LOOP_S, N_OWN = 12, 120.0, 30
ROLE = np.array(["plus", "minus"] + ["other"] * 10)


def session(day: int = 1, gain: float = 0.0, rate_hz: float = 0.35, own: float = 0.0) -> SessionData:
    """Poisson somas; the residual goes with (sizes of somas 2 to 6) - (sizes of 7 to 11) in the 2 s before; `own`:
    also with whether the neuron itself had one."""
    rng = np.random.default_rng([3, day])
    n = rng.poisson(rate_hz * LOOP_S, N)
    n[:2] = N_OWN
    t_s, roi = rng.uniform(0, LOOP_S, n.sum()), np.repeat(np.arange(N), n)
    order = np.argsort(t_s)
    soma = PlaneEvents(t_s[order], roi[order], rng.lognormal(-0.4, 0.4, n.sum()))
    before = BEFORE_S * rate_before(soma, N, soma.t_s)
    drive = gain * (before[:, 2:7].sum(axis=1) - before[:, 7:].sum(axis=1))
    drive += own * (before[np.arange(len(roi)), soma.roi] > 0)
    size = 0.5 + 0.7 * soma.magnitude + 0.1 * (rng.standard_normal(len(roi)) + drive)
    none = np.zeros(0)
    return SessionData(
        path=Path(f"day-{day}.nwb"), mouse="m", day=day, role=ROLE, start_s=none, outcome=np.array([], np.str_),
        hit_s=none, reward_s=none, phases=[("closed_loop", "", 0.0, LOOP_S)], shown_s=none, shown_deg=none,
        lick_s=none, speed_cm_s=none,
        events={0: soma, 1: PlaneEvents(soma.t_s, soma.roi, size)},
    )  # fmt: skip


def test_rate_before_an_event_is_by_soma_and_without_the_event_itself():
    soma = PlaneEvents(np.array([1.0, 2.5, 2.9, 4.0]), np.array([0, 1, 1, 2]), np.array([0.1, 0.2, 0.3, 0.4]))
    found = rate_before(soma, 3, np.array([2.9, 4.0, 9.0]))
    assert found == pytest.approx(np.array([[0.05, 0.1, 0], [0, 0.25, 0], [0, 0, 0]]))
    assert rate_before(soma, 3, np.array([4.0]), window_s=1.2) == pytest.approx(np.array([[0, 0.25, 0]]))
    assert rate_before(soma, 3, np.zeros(0)).shape == (0, 3)


def test_the_ordinary_p_of_r_is_that_of_a_library():
    x, y = np.random.default_rng(0).standard_normal((2, 30))
    assert pearson_p(np.array([stats.pearsonr(x, y).statistic]), np.array([30]))[0] == pytest.approx(
        stats.pearsonr(x, y).pvalue
    )


def test_a_residual_that_follows_the_network_is_told_and_its_size_with_it():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((40, 5))
    z = features[:, :2].sum(axis=1) + 0.3 * rng.standard_normal(40)
    found = decode_signs(features, z, 0, 19)
    assert found.accuracy > 0.65 > 0.6 > found.accuracy_shuffled.mean()
    assert found.r > 0.4
    assert found.p == 1 / 20
    assert found.r > found.r_shuffled.max()


def test_a_neuron_whose_events_are_nearly_all_amplified_has_no_result():
    z = np.where(np.arange(30) < 2, -1.0, 1.0)
    found = decode_signs(np.random.default_rng(0).standard_normal((30, 4)), z, 0, 3)
    assert np.isnan([found.accuracy, found.r, found.p, *found.accuracy_shuffled, *found.r_shuffled]).all()


def test_planted_neurons_are_found_significant():
    found = network([session(day, gain=1.0) for day in (1, 2, 3)], 1, n_other=0)
    assert found.roi.tolist() == [0, 1] * 3
    planted = found.summary()
    assert planted.everyone.n == planted.significant.n == planted.as_paper.n == 6
    assert planted.p_share == pytest.approx(0.05**6)
    assert planted.everyone.accuracy > planted.everyone.accuracy_shuffled + 0.1


def test_a_network_without_meaning_tells_nothing():
    found = network([session(day) for day in (1, 2, 3)], 1, n_other=0, n_shuffles=2).summary()
    assert found.everyone.n == 6
    assert abs(found.everyone.accuracy - found.everyone.accuracy_shuffled) < 0.1
    assert found.significant.n == 0
    assert np.isnan(found.p_share)  # two shuffles cannot reach it


def test_a_soma_does_not_predict_its_own_dendrite():
    """Own events before the event decide the residual; all others say nothing."""
    told = [session(day, own=8.0) for day in (1, 2)]
    found = network(told, 1, n_other=0, n_shuffles=2).summary()
    assert abs(found.everyone.accuracy - found.everyone.accuracy_shuffled) < 0.15
    events, z = loop_residuals(told[0])
    mine = events.roi == 0
    features = rate_before(told[0].events[0], N, events.t_s)[mine]
    assert decode_signs(features, z[mine], 0, 1).accuracy > 0.85  # were it among the features


def test_other_neurons_are_a_seeded_sample_and_those_with_few_events_are_left_out():
    one, same = (network([session()], 5, n_other=1, n_shuffles=1) for _ in range(2))
    assert one.role.tolist() == ["plus", "minus", "other"]
    assert np.array_equal(one.roi, same.roi)
    assert np.array_equal(one.r_shuffled, same.r_shuffled)
    rare = network([session(rate_hz=0.08)], 5, n_other=10, n_shuffles=1)
    assert rare.n_events.tolist() == [N_OWN] * 2
    assert rare.role.tolist() == ["plus", "minus"]
    assert rare.summary(["other"]).everyone.n == 0


def test_a_seed_may_be_several_numbers():
    one, same, other = (network([session()], seed, 1, 1) for seed in ([5, 3], (5, 3), [5, 4]))
    assert np.array_equal(one.r_shuffled, same.r_shuffled)
    assert not np.array_equal(one.r_shuffled, other.r_shuffled)


def test_events_outside_the_loop_are_left_out():
    day = session()
    events, z = loop_residuals(day)
    assert np.isfinite(z).all()
    half, _ = loop_residuals(
        structs.replace(day, phases=[("baseline", "", 0.0, 20.0), ("closed_loop", "", 20.0, LOOP_S)])
    )
    assert half.t_s.min() >= 20
    assert len(half.t_s) == np.sum(events.t_s >= 20)


def test_what_cannot_be_decoded_is_refused_by_name():
    day = session()
    bare = structs.replace(day, events={0: day.events[0]})
    with pytest.raises(SessionError, match=r"day-1\.nwb: no events/dendritic_events"):
        network([bare], 1, 0)
    assert np.isnan(network([], 1, 0).summary().p_share)
