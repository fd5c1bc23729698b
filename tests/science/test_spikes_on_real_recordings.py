"""Spikes inferred from real calcium, against the electrode in the same cell.

spikefinder, training sets 5 and 6 (9 and 9 cells, 100 Hz; codeneuro/spikefinder-datasets, MIT, by way of
berenslab/spikefinder_analysis). The bar is an estimator of three lines with a decay that was given to it: docs of the
recordings have its medians, 0.63 and 0.78, and those of raw dF/F, 0.34 and 0.57.
"""

from pathlib import Path

import numpy as np
import pytest
from needs import lacking

from loop2p.analysis.spikes import SCORE_HZ, Oasis, resample, score

pytestmark = pytest.mark.real
FILE_HZ = 100.0


def cells(folder: Path, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Calcium and spikes of each cell, (n_frames, 1) at SCORE_HZ, without the padding."""
    files = [folder / "spikes_spikefinder" / f"{number}.train.{what}.csv.gz" for what in ("calcium", "spikes")]
    for file in files:
        if not file.is_file():
            lacking(f"no {file}")
    calcium, spikes = (np.genfromtxt(file, delimiter=",", skip_header=1) for file in files)
    there = np.isfinite(calcium)
    return [
        (resample(calcium[t][:, [k]], FILE_HZ, SCORE_HZ), resample(spikes[t][:, [k]], FILE_HZ, SCORE_HZ))
        for k, t in enumerate(there.T)
    ]


def three_lines(calcium: np.ndarray) -> np.ndarray:
    """What a step must beat: F[t] - 0.879 F[t-1], not below 0."""
    estimate = np.zeros_like(calcium)
    estimate[1:] = np.clip(calcium[1:] - 0.879 * calcium[:-1], 0, None)
    return estimate


def median(found: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.median([score(estimate, spikes, SCORE_HZ) for estimate, spikes in found]))


@pytest.mark.parametrize(("number", "bar"), [(5, 0.63), (6, 0.78)])
def test_deconvolution_beats_three_lines_and_raw_fluorescence(recordings: Path, number: int, bar: float):
    pairs = cells(recordings, number)
    raw = median(pairs)
    simple = median([(three_lines(calcium), spikes) for calcium, spikes in pairs])
    ours = median([(Oasis().infer(calcium, SCORE_HZ), spikes) for calcium, spikes in pairs])
    rng = np.random.default_rng(0)
    apart = [(Oasis().infer(c, SCORE_HZ), np.roll(s, rng.integers(0, len(s)))) for c, s in pairs for _ in range(10)]
    shuffled = median(apart)
    print(f"set {number}, {len(pairs)} cells: raw {raw:.3f}, three lines {simple:.3f}, ours {ours:.3f}")
    print(f"set {number}, spikes moved along the recording: {shuffled:.3f}")
    assert ours > max(simple, bar)
    assert simple > raw
    assert abs(shuffled) < 0.1
