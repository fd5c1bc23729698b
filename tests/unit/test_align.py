"""Two recordings of one pulse line are matched; any other two are refused."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_session import make_session, write_journal

from loop2p.protocol import Shown, Traces
from loop2p.recording.align import MismatchError, align
from loop2p.recording.journal import read_journal
from loop2p.recording.pulse_files import PulseFileError, read_pulses, rises

SEED = 20261130
JITTER_S = 2e-4
"""Standard deviation of either recorder's stamps."""


def pulses(random: np.random.Generator, n: int = 300, mean_s: float = 2.0) -> np.ndarray:
    """A line with random intervals, (n,) s: at least 20 ms, then at random."""
    return np.cumsum(0.02 + random.exponential(mean_s, n))


def recorded(random: np.random.Generator, true_s: np.ndarray, missing: float = 0.05, extra: float = 0.02) -> np.ndarray:
    """What a recorder has of a line: each pulse missed with that probability, jitter, and pulses that nobody sent."""
    kept = true_s[random.random(len(true_s)) >= missing]
    kept = kept + random.normal(0, JITTER_S, len(kept))
    return np.unique(np.concatenate([kept, random.uniform(true_s[0], true_s[-1], round(extra * len(true_s)))]))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    offset_s=st.floats(-6 * 3600, 6 * 3600),
    ppm=st.floats(-200, 200),
    missing=st.floats(0, 0.05),
    extra=st.floats(0, 0.05),
    mean_s=st.sampled_from([0.2, 2.0, 15.0]),
)
def test_offset_and_drift_are_found_through_missing_and_extra_pulses(seed, offset_s, ppm, missing, extra, mean_s):
    random = np.random.default_rng(seed)
    true = pulses(random, mean_s=mean_s)
    slope = 1 + ppm * 1e-6
    a, b = recorded(random, true, missing, extra), recorded(random, offset_s + slope * true, missing, extra)
    found = align(a, b)
    assert np.abs(found.to_b(true) - (offset_s + slope * true)).max() < 5 * JITTER_S
    assert abs(found.drift_ppm - ppm) < 5e6 * JITTER_S / np.ptp(true) + 1e-3
    assert len(found.pairs) >= 0.85 * len(true)
    assert np.abs(found.residual_s).max() <= 1e-3


def test_recordings_that_overlap_in_part_are_matched_where_both_ran():
    random = np.random.default_rng(SEED)
    true = pulses(random, 500)
    a, b = recorded(random, true[:350]), recorded(random, 7000 + true[200:])
    found = align(a, b)
    assert abs(found.to_b(0.0) - 7000) < 1e-3
    assert (found.n_a, found.n_b) == pytest.approx((150, 150), rel=0.15)


def test_six_hours_of_rare_pulses():
    random = np.random.default_rng(SEED)
    true = pulses(random, 1500, 15.0)
    a, b = recorded(random, true), recorded(random, -9876.5 + (1 - 2e-4) * true)
    assert abs(align(a, b).drift_ppm + 200) < 0.1


@pytest.mark.parametrize("pairs", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_no_two_unrelated_lines_are_accepted(pairs: int):
    """Of every kind of line, each kind against its own: what would be mistaken first."""
    kinds = {
        "random": lambda r: pulses(r),
        "dense": lambda r: pulses(r, 400, 0.05),
        "rare": lambda r: pulses(r, 60, 10.0),
        "rewards": lambda r: np.cumsum(r.choice([12.0, 28.0], 80) + r.normal(0, 0.3, 80)),
        "frames": lambda r: np.arange(600) / 30.92 + np.cumsum(r.random(600) < 0.01) / 30.92,
        "bursts": lambda r: (np.cumsum(r.uniform(1, 4, 40))[:, None] + np.arange(10) / 60.0).ravel(),
    }
    accepted, highest = [], -np.inf
    for k in range(pairs):
        name = list(kinds)[k % len(kinds)]
        random = np.random.default_rng([SEED, k])
        a, b = (recorded(random, kinds[name](random) + random.uniform(0, 3600)) for _ in range(2))
        try:
            found = align(a, b)
        except MismatchError:
            continue
        accepted.append((k, name))
        highest = max(highest, found.chance_log10)
    print(f"{pairs} unrelated pairs of {', '.join(kinds)}: {len(accepted)} accepted {accepted[:5]}")
    assert not accepted


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.arange(400) * 2.0, np.arange(400) * 2.0 + 55.5, "the line repeats itself"),
        (np.arange(5.0), np.arange(9.0), "the first recording has 5 pulses, expected at least 8"),
        (np.cumsum([1, 2, 4, 8, 16, 32, 64, 128, 256.0]), np.cumsum([3.0] * 20), "the same in both"),
    ],
)
def test_what_can_not_be_told_apart_is_refused_with_the_reason(a, b, words):
    with pytest.raises(MismatchError, match=words):
        align(a, b)


def test_a_line_of_too_few_intervals_is_refused_for_chance():
    random = np.random.default_rng(SEED)
    a = np.sort(random.uniform(0, 1.0, 40))
    b = np.unique(np.concatenate([a[::4], random.uniform(0, 1.0, 30)]))
    with pytest.raises(MismatchError):
        align(a, b, tolerance_s=5e-3)


@pytest.mark.parametrize("times", [[1, 2, 2, 3.0], [1, np.nan, 3], [[1.0, 2.0]]])
def test_times_that_are_none_are_named(times):
    with pytest.raises(ValueError, match="the first recording"):
        align(times, np.arange(10.0))


# ---------------------------------------------------------------- files


def test_a_counter_and_a_line_rise_where_they_should():
    assert list(rises(np.array([0, 0, 2, 2, 0, 2.0]))) == [2, 5]
    assert list(rises(np.array([0, 0, 1, 1, 2, 3.0]))) == [2, 4, 5]
    assert list(rises(np.zeros(5))) == []
    assert list(rises(np.array([0.1, 0.2, 4.9, 5.0, 0.1]))) == [2]


def test_lines_of_a_run_are_read_by_name(tmp_path: Path):
    made = make_session(seconds=40)
    folder = write_journal(tmp_path / "run", made.envelopes)
    flips = [r.message.flip_ns for r in read_journal(folder) if r.topic == Shown.topic]
    arrivals = {r.header.cause.arrival_ns for r in read_journal(folder) if r.topic == Traces.topic}
    assert list(read_pulses(f"{folder}::shown")) == [ns / 1e9 for ns in sorted(set(flips))]
    assert list(read_pulses(f"{folder}::frames")) == [ns / 1e9 for ns in sorted(arrivals)]
    assert len(read_pulses(f"{folder}::valve")) == made.truth["rewards"]
    with pytest.raises(PulseFileError, match="found line 'licks', expected one of frames, shown, patch, valve"):
        read_pulses(f"{folder}::licks")


def test_a_pin_log_is_read_by_pin(tmp_path: Path):
    edges = [("valve", 0, 0), ("led", 1, 5), ("valve", 1, 2_000_000_000), ("valve", 0, 2_040_000_000)]
    lines = [json.dumps({"pin": pin, "level": level, "ns": ns, "t_us": 0}) for pin, level, ns in edges]
    (tmp_path / "pins.jsonl").write_text("\n".join(lines) + "\n")
    assert list(read_pulses(f"{tmp_path}/pins.jsonl::valve")) == [2.0]
    (tmp_path / "pins.jsonl").write_text("no JSON\n")
    with pytest.raises(PulseFileError, match="expected lines like"):
        read_pulses(f"{tmp_path}/pins.jsonl::valve")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "no such recording"),
        ("odd.xyz", b"", "found .xyz, expected a run, .h5, .csv or .jsonl"),
        ("a.csv", b"x\n1\ntwo\n", "could not convert string to float: 'two', expected seconds"),
        ("a.csv", b"\xff\xfe", "can't be read"),
        ("a.h5", b"no HDF5", "can't be read"),
    ],
)
def test_a_recording_that_is_none_is_named(name: str, content: bytes | None, words: str, tmp_path: Path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PulseFileError, match=re.escape(words)):
        read_pulses(f"{tmp_path / name}::x")


def thorsync(recordings: Path) -> Path:
    return recordings / "thorsync_utils2p" / "Episode001.h5"


@pytest.mark.real
def test_a_real_daq_file_is_read_by_its_own_counter(recordings: Path):
    """30 frames of 60.087 Hz in three volumes. Its first sample took twice as long as the others."""
    frames = read_pulses(f"{thorsync(recordings)}::DI/Frame Out")
    assert len(frames) == 30
    within = np.diff(frames)[np.diff(frames) < 0.1]
    assert len(within) == 27
    assert 1 / within.mean() == pytest.approx(60.087, abs=0.05)  # frameRate of its Experiment.xml
    counted = read_pulses(f"{thorsync(recordings)}::CI/Frame Counter")
    assert np.abs(frames - counted).max() < 1e-4
    with pytest.raises(PulseFileError, match="found no line 'DI/Frame', expected one of AI/Piezo Monitor"):
        read_pulses(f"{thorsync(recordings)}::DI/Frame")


@pytest.mark.real
def test_frames_of_the_real_daq_file_are_refused_for_they_repeat_themselves(recordings: Path):
    frames = read_pulses(f"{thorsync(recordings)}::DI/Frame Out")
    counted = read_pulses(f"{thorsync(recordings)}::CI/Frame Counter")
    with pytest.raises(MismatchError, match="27 do, expected at most 24: the line repeats itself"):
        align(frames, counted)


@pytest.mark.real
def test_a_pulse_line_on_the_real_daq_clock_matches_a_rig_log(recordings: Path, tmp_path: Path):
    """Random pulses through the real file's sample clock, against a rig log 2 h off that drifts and misses some."""
    random = np.random.default_rng(SEED)
    with h5py.File(thorsync(recordings)) as file:
        counter = file["Global/GCtr"][:]
    sample_s = counter.ravel() / 20e6
    true = pulses(random, 60, 0.008)
    true = true[true < sample_s[-1]]
    level = np.zeros(len(sample_s), dtype=np.uint32)
    for start in true[random.random(len(true)) >= 0.05]:
        level[(sample_s >= start) & (sample_s < start + 0.005)] = 1
    with h5py.File(tmp_path / "daq.h5", "w") as file:
        file["Global/GCtr"], file["DI/Pulse"] = counter, level[:, None]
    rig = recorded(random, 7200 + (1 + 2e-4) * true, 0.05, 0.03)
    with (tmp_path / "rig.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["valve_s"], *([float(t)] for t in rig)])
    sources = f"{tmp_path}/daq.h5::DI/Pulse", f"{tmp_path}/rig.csv::valve_s"
    command = [sys.executable, "-m", "loop2p.cli.main", "align", *sources]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    origin = found["origin_s"]
    assert found["offset_s"] == pytest.approx(7200 + (1 + 2e-4) * origin, abs=3e-4)
    print(found)
    assert found["matched"] >= 0.85 * len(true)
    other = recorded(random, pulses(random, 60, 0.008))
    with (tmp_path / "rig.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["valve_s"], *([float(t)] for t in other)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "refused: " in done.stderr
