"""The simulated mouse: same inputs, same life; it acts 4 frames after the cause; it fires as real cells on day 1."""

import numpy as np
import pytest
from numpy.typing import NDArray

from loop2p.simulation.mouse import REACTION_FRAMES, Mouse
from loop2p.simulation.responsive_mouse import ResponsiveMouse

RATE_HZ = 30.92


def live(mouse: Mouse, frames: range) -> NDArray[np.float32]:
    """(frames, n_cells), planes alternating."""
    return np.stack([mouse.step(k, k % 2) for k in frames])


def events(f: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bursts per cell in soma traces (frames, n_cells), without neuropil: steps upward of over 0.05 after none."""
    neuropil = 0.3 * (f - 1).mean(axis=1, keepdims=True) / 1.3  # the mean of 1 + c + 0.3 mean(c) is 1 + 1.3 mean(c)
    up = np.diff(f - neuropil, axis=0) > 0.015
    return (up[1:] & ~up[:-1]).sum(axis=0)


def test_same_seed_and_inputs_give_the_same_life_to_the_bit() -> None:
    lives = []
    for _ in range(2):
        mouse = ResponsiveMouse(seed=3, n_cells=12, rate_hz=RATE_HZ)
        record = []
        for k in range(2000):
            if k % 50 == 7:
                mouse.see(k, "grating", float(k % 7 * 15))
            if k % 400 == 9:
                mouse.drink(k, 4.0)
            record.append((mouse.step(k, k % 2).tobytes(), mouse.licks(), mouse.wheel()))
        lives.append(record)
    assert lives[0] == lives[1]
    assert live(ResponsiveMouse(4, 12, RATE_HZ), range(500)).tobytes() != b"".join(r[0] for r in lives[0][:500])


def test_when_an_input_arrives_makes_no_difference_before_it_is_due() -> None:
    def life(delay: int) -> bytes:
        mouse = ResponsiveMouse(seed=5, n_cells=8, rate_hz=RATE_HZ)
        out = []
        for k in range(4000):
            cause = k - delay  # the picture caused by frame `cause` gets to the eye before frame k
            if cause >= 0 and cause % 40 == 0:
                mouse.see(cause, "black" if cause % 80 else "grating", 90.0)
            if cause >= 0 and cause % 900 == 0:
                mouse.drink(cause, 4.0)
            out.append(mouse.step(k, k % 2).tobytes() + bytes([mouse.licks()]))
        assert mouse.late == 0
        return b"".join(out)

    assert life(1) == life(REACTION_FRAMES)


def test_what_comes_later_than_the_reaction_time_acts_at_once_and_is_counted() -> None:
    mouse = ResponsiveMouse(seed=5, n_cells=8, rate_hz=RATE_HZ)
    live(mouse, range(20))
    mouse.see(15, "black", None)  # due in frame 19, which has gone
    mouse.see(16, "grey", None)  # due in frame 20, the next
    mouse.drink(10, 4.0)
    assert mouse.late == 2
    mouse.step(20, 0)
    assert mouse.drunk_ul == 4.0


def test_inputs_do_not_shift_the_random_draws_that_follow() -> None:
    quiet, busy = (ResponsiveMouse(seed=8, n_cells=8, rate_hz=RATE_HZ) for _ in range(2))
    busy.drink(0, 4.0)  # licks, but no change of arousal
    assert live(quiet, range(3000)).tobytes() == live(busy, range(3000)).tobytes()


def test_frames_are_stepped_in_order() -> None:
    mouse = ResponsiveMouse(seed=1, n_cells=2, rate_hz=RATE_HZ, n_chosen=1)
    mouse.step(0, 0)
    with pytest.raises(ValueError, match="frame 2, expected 1"):
        mouse.step(2, 0)


def test_a_microscope_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rate_hz 0.0: expected frames per second, above 0"):
        ResponsiveMouse(seed=1, n_cells=4, rate_hz=0.0)


def test_event_rates_are_those_of_day_1() -> None:
    """Chosen cells about 0.07 Hz, others 0.03 Hz (docs/experiment.md), under a grating; arousal makes mice differ."""
    rate_hz, seconds = 10.0, 400
    rates = []
    for seed in range(5):
        mouse = ResponsiveMouse(seed=seed, n_cells=100, rate_hz=rate_hz, n_chosen=40)
        mouse.see(-REACTION_FRAMES, "grating", 45.0)
        rates.append(events(np.stack([mouse.step(k, 0) for k in range(round(seconds * rate_hz))])) / seconds)
    mean = np.mean(rates, axis=0)
    assert 0.05 < mean[:40].mean() < 0.09
    assert 0.02 < mean[40:].mean() < 0.04


def test_calcium_decays_with_half_a_second_and_the_trunk_follows_its_soma() -> None:
    mouse = ResponsiveMouse(seed=2, n_cells=1, rate_hz=RATE_HZ, n_chosen=1)
    frames = round(900 * RATE_HZ)
    both = live(mouse, range(frames))[:, 0] - 1
    soma, trunk = both[::2], both[1::2]
    falling = (soma[1:] < soma[:-1]) & (soma[:-1] > 0.05)
    assert np.median(soma[1:][falling] / soma[:-1][falling]) == pytest.approx(np.exp(-2 / RATE_HZ / 0.45), abs=0.002)
    assert np.corrcoef(soma, trunk)[0, 1] > 0.6
    assert not np.allclose(soma, trunk)


def test_a_grating_rouses_and_black_calms() -> None:
    counts = {}
    for what in ("grating", "black"):
        mouse = ResponsiveMouse(seed=6, n_cells=200, rate_hz=RATE_HZ)
        mouse.see(-REACTION_FRAMES, what, 0.0)  # type: ignore[arg-type]
        counts[what] = events(np.stack([mouse.step(k, 0) for k in range(round(120 * RATE_HZ))])).sum()
    assert counts["black"] < 0.8 * counts["grating"]


def test_cells_are_coactive_because_arousal_is_common() -> None:
    mouse = ResponsiveMouse(seed=7, n_cells=200, rate_hz=RATE_HZ)
    soma = np.stack([mouse.step(k, 0) for k in range(round(600 * RATE_HZ))])
    new = (np.diff(soma, axis=0) > 0.015).sum(axis=1)
    seconds = new[: len(new) // 155 * 155].reshape(-1, 155).sum(axis=1)  # 5 s bins
    assert seconds.var() / seconds.mean() > 8  # a burst makes about 6 steps: independent cells would give about 6


def licks(mouse: Mouse, frames: range) -> int:
    total = 0
    for k in frames:
        mouse.step(k, k % 2)
        total += mouse.licks()
    return total


def test_it_licks_at_the_target_and_after_a_drop() -> None:
    ten_s = round(10 * RATE_HZ)

    def count(angle_deg: float | None, drop_ul: float) -> int:
        mouse = ResponsiveMouse(seed=9, n_cells=1, rate_hz=RATE_HZ, n_chosen=0)
        mouse.see(-REACTION_FRAMES, "grating", angle_deg)
        mouse.drink(-REACTION_FRAMES, drop_ul)
        return licks(mouse, range(ten_s))

    idle, target, drop = count(45.0, 0.0), count(90.0, 0.0), count(45.0, 4.0)
    assert idle <= 3
    assert target >= 15
    assert 5 <= drop <= 15  # 1.5 s at 5 to 8 a second
    assert count(45.0, 0.0) == idle, "a drop of 0 ul is none"


def test_it_runs_in_bouts_at_a_plausible_speed() -> None:
    mouse = ResponsiveMouse(seed=11, n_cells=1, rate_hz=RATE_HZ, n_chosen=0)
    counts = []
    for k in range(round(600 * RATE_HZ)):
        mouse.step(k, k % 2)
        counts.append(mouse.wheel())
    moving = np.array(counts) > 0
    assert 0.05 < moving.mean() < 0.6
    cm_s = np.array(counts)[moving].mean() / (2500 / (np.pi * 19)) * RATE_HZ
    assert 8 < cm_s < 16
