"""Deconvolution against an independent solver and planted spikes; the score; what is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from loop2p.analysis.spikes import SCORE_HZ, Cascade, Oasis, _deconvolve, by_name, noise_sd, resample, score

RATE_HZ = 15.46


def planted(
    n_frames: int = 12000,
    n_rois: int = 10,
    noise: float = 0.04,
    tau_s: float = 0.48,
    rate_hz: float = 0.05,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Traces (n_frames, n_rois) and the jumps in them: sizes around 0.7."""
    rng = np.random.default_rng(seed)
    jumps = (rng.random((n_frames, n_rois)) < rate_hz / RATE_HZ) * rng.lognormal(-0.46, 0.45, (n_frames, n_rois))
    calcium, now = np.empty_like(jumps), np.zeros(n_rois)
    for k, new in enumerate(jumps):
        now = now * np.exp(-1 / (tau_s * RATE_HZ)) + new
        calcium[k] = now
    return calcium + noise * rng.standard_normal(jumps.shape), jumps


@pytest.mark.parametrize("seed", range(5))
def test_without_a_least_jump_it_is_the_least_squares_solution(seed):
    rng = np.random.default_rng(seed)
    keep, n = 0.85, 150
    trace = planted(n, 1, 0.2, rate_hz=1.0, seed=seed)[0][:, 0].astype(np.float32) - np.float32(rng.uniform(0, 0.3))
    kernel = np.tril(keep ** np.maximum(0, np.subtract.outer(np.arange(n), np.arange(n))))
    expected, norm = nnls(kernel, trace.astype(float))
    jumps = np.empty(n, np.float32)
    left = _deconvolve(trace, keep, 0.0, jumps)
    assert np.allclose(jumps[1:], expected[1:], atol=1e-5)  # the first is calcium from before
    assert left == pytest.approx(norm**2, rel=1e-6)


def test_no_jump_is_below_the_least():
    trace = planted(5000, 1, 0.1, seed=6)[0][:, 0].astype(np.float32)
    jumps = np.empty_like(trace)
    _deconvolve(trace, 0.87, 0.25, jumps)
    assert (jumps > 0).sum() > 10
    assert jumps[jumps > 0].min() >= 0.25 * (1 - 1e-6)


def test_planted_jumps_come_back_with_their_sizes():
    traces, jumps = planted()
    found = Oasis(smooth_s=0).infer(traces, RATE_HZ) / RATE_HZ
    assert (found >= 0).all()
    for estimate, truth in zip(found.T, jumps.T, strict=True):
        frames = np.flatnonzero(truth)
        alone = frames[1:-1][np.minimum(np.diff(frames)[1:], np.diff(frames)[:-1]) > 15]
        near = np.array([estimate[k - 2 : k + 3].sum() for k in alone])
        assert np.corrcoef(near, truth[alone])[0, 1] > 0.97
        assert np.median(near / truth[alone]) == pytest.approx(1, abs=0.1)


def test_smoothing_moves_no_event_and_keeps_the_sum():
    traces, _ = planted(3000, 2, seed=1)
    sharp, smooth = (Oasis(smooth_s=s).infer(traces, RATE_HZ).sum(axis=0) for s in (0.0, 0.2))
    assert np.allclose(sharp, smooth, rtol=1e-4)


@pytest.mark.parametrize("tau_s", [0.2, 0.48, 1.1])
def test_the_decay_is_found_in_each_trace(tau_s):
    found = Oasis().decays_s(planted(tau_s=tau_s, rate_hz=0.1, seed=2)[0], RATE_HZ)
    assert np.median(found) == pytest.approx(tau_s, rel=0.07)
    assert np.all(np.abs(found / tau_s - 1) < 0.3)


def test_a_silent_roi_has_the_decay_of_the_others():
    traces, _ = planted(tau_s=1.1, seed=12)
    traces[:, 0] = 0.04 * np.random.default_rng(12).standard_normal(len(traces))
    found = Oasis().decays_s(traces, RATE_HZ)
    assert found[0] == np.median(found[1:])
    assert Oasis().decays_s(traces[:, [0]], RATE_HZ).tolist() == [Oasis().decay_limits_s[1]]


def test_the_noise_is_found_whatever_the_events_and_the_drift():
    for noise in (0.02, 0.1):
        traces, _ = planted(noise=noise, rate_hz=0.08, seed=3)
        traces += np.linspace(0, 5, len(traces))[:, None]
        assert noise_sd(traces) == pytest.approx(noise, rel=0.1)


def test_slow_drift_does_no_harm():
    traces, jumps = planted(seed=4)
    drift = 0.3 * np.sin(np.arange(len(traces)) / RATE_HZ * 2 * np.pi / 200)[:, None]
    still, moved = (score(Oasis().infer(t, RATE_HZ), jumps, RATE_HZ) for t in (traces, traces + drift))
    assert np.all(still > 0.9)
    assert np.all(moved > still - 0.03)


def test_scale_and_offset_change_nothing_but_the_scale():
    traces, _ = planted(3000, 2, seed=5)
    one, other = Oasis().infer(traces, RATE_HZ), Oasis().infer(7 + 50 * traces, RATE_HZ)
    assert np.allclose(other, 50 * one, atol=1e-3 * other.max())


def test_noise_alone_gives_a_small_rate_that_knows_nothing():
    """The null."""
    noise = 0.04 * np.random.default_rng(7).standard_normal((12000, 10))
    traces, jumps = planted()
    both = Oasis().infer(np.concatenate([traces, noise], axis=1), RATE_HZ)
    assert both[:, 10:].sum() < 0.01 * both[:, :10].sum()
    # without a least jump noise has a rate
    rates = Oasis(least_sd=0).infer(noise, RATE_HZ)
    assert rates.max() > 0
    assert np.abs(score(rates, jumps, RATE_HZ)).max() < 0.1
    assert score(both[:, :10], jumps, RATE_HZ).min() > 0.9


def test_a_roi_that_is_nan_stays_so_and_does_not_touch_the_others():
    traces, _ = planted(2000, 3, seed=8)
    alone = Oasis().infer(traces[:, [0]], RATE_HZ)
    traces[1000, 1] = np.nan
    traces[:, 2] = np.nan
    found = Oasis().infer(traces, RATE_HZ)
    assert np.isnan(found[:, 1:]).all()
    assert np.array_equal(found[:, :1], alone)


def test_the_score_is_1_for_the_truth_0_for_nothing_to_do_with_it_and_between_in_between():
    rng = np.random.default_rng(9)
    spikes = rng.poisson(0.02, (30000, 4)).astype(float)
    assert np.allclose(score(3 * spikes + 1, spikes, 100.0), 1)
    assert np.abs(score(spikes[:, ::-1], spikes, 100.0)).max() < 0.15
    half = np.where(rng.random(spikes.shape) < 0.5, spikes, 0)
    assert np.all(np.abs(score(half, spikes, 100.0) - np.sqrt(0.5)) < 0.1)
    assert np.isnan(score(np.zeros_like(spikes), spikes, 100.0)).all()
    with pytest.raises(ValueError, match=r"estimate \(30000, 3\) and spikes \(30000, 4\)"):
        score(spikes[:, :3], spikes, 100.0)


def test_padding_at_the_end_is_left_out_of_the_score():
    rng = np.random.default_rng(10)
    spikes = rng.poisson(0.05, (8000, 2)).astype(float)
    estimate = spikes + 0.2 * rng.standard_normal(spikes.shape)
    whole = score(estimate[:5000], spikes[:5000], 100.0)
    estimate[5000:], spikes[6000:] = np.nan, np.nan
    assert np.allclose(score(estimate, spikes, 100.0), whole, atol=0.01)


def test_resampling_keeps_the_mean_and_the_time():
    x = np.random.default_rng(11).poisson(1.0, (10000, 2)).astype(float)
    there = resample(x, 100.0, SCORE_HZ)
    assert len(there) == int(100 * SCORE_HZ)
    assert np.allclose(there.sum(axis=0) / SCORE_HZ, x.sum(axis=0) / 100, rtol=1e-3)
    pulse = np.zeros((1000, 1))
    pulse[400:410] = 1  # 4.0 to 4.1 s
    assert resample(pulse, 100.0, SCORE_HZ).argmax() == int(4.05 * SCORE_HZ)
    assert np.allclose(resample(x, 100.0, 50.0), x.reshape(-1, 2, 2).mean(axis=1))
    assert np.allclose(resample(x, SCORE_HZ, SCORE_HZ), x)


CASCADE = """
import numpy as np
def predict(model_name, traces, model_folder="Pretrained_models", threshold=0, padding=np.nan):
    out = np.maximum(np.asarray(traces, float), 0)
    out[:, :32] = out[:, -32:] = padding
    return out
"""


def test_cascade_is_refused_without_its_package_and_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ModuleNotFoundError, match=r"no package cascade2p, expected .* use oasis"):
        by_name("cascade", models=tmp_path)
    (tmp_path / "cascade2p").mkdir()
    (tmp_path / "cascade2p" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml, expected the model's weights"):
        by_name("cascade", models=tmp_path)


def test_a_stand_in_for_cascade_is_called_as_its_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder, file, text in (
        ("cascade2p", "cascade.py", CASCADE),
        (Cascade.__struct_defaults__[1], "config.yaml", ""),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(text)
    (tmp_path / "cascade2p" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    traces = planted(500, 3)[0]
    traces[:, 2] = np.nan
    found = by_name("cascade", models=tmp_path).infer(traces, RATE_HZ)
    assert found.shape == traces.shape
    assert np.allclose(found[32:-32, :2], np.maximum(traces[32:-32, :2], 0) * RATE_HZ, rtol=1e-5)
    assert not found[:32, :2].any()
    assert not found[-32:, :2].any()
    assert np.isnan(found[:, 2]).all()


def test_an_unknown_name_is_refused_with_those_there_are():
    assert by_name("oasis", smooth_s=0.1) == Oasis(smooth_s=0.1)
    with pytest.raises(ValueError, match="'mlspike', expected one of oasis, cascade"):
        by_name("mlspike")
