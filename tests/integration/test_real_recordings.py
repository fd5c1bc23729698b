"""The closed loop on real two-photon recordings, sent by a separate sender process over TCP in column-major order.

neurofinder: MIT, github.com/neuhofmo/calcium-imaging-neuron-detection (public neurofinder challenge data), cropped to
600 frames of 160 x 160 with 47 hand-labelled ROIs. Its rate is not stated; one plane at 7.5 Hz is assumed.
Bruker: MIT, github.com/darikoneil/CalSciPy, 99 raw frames of 192 x 192, not motion-corrected, with an intensity ramp
over its first 20 frames; 30 Hz is assumed. Nobody labelled its cells; bright blobs of the mean image serve as ROIs.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from rigs import rig_text
from scipy import ndimage
from whole_rig import running

from loop2p.protocol import Calibration, Envelope, Output, Phase, RigFile, Traces, Trial, from_f32, read_rig
from loop2p.recording.journal import read_journal
from loop2p.recording.summary import summarise
from loop2p.simulation.sender import Sender, deadlines, encode
from loop2p.task.selection import rank_by_event_rate, split

pytestmark = pytest.mark.real
SEED = 5
Pixels = NDArray[np.int64]
"""(n_pixels, 2) row, column of one ROI."""
SPEED = 10.0
"""The sender is so many times faster than life; decisions run on frame time."""


def real_rig(
    folder: Path,
    ports: list[int],
    shape: tuple[int, int],
    rate_hz: float,
    rois: list[Pixels],
    registration: bool,
) -> RigFile:
    """One plane, the real services, the stand-in controller; the sender is the test's business."""
    (folder / "rois.json").write_text(json.dumps([{"id": k, "coordinates": r.tolist()} for k, r in enumerate(rois)]))
    image, serial, wires = ports[24:27]
    options: dict[str, dict[str, Any]] = {
        "imaging": {
            "source": {"kind": "tcp", "image_port": image},
            "rois": [{"plane": 0, "path": "rois.json", "format": "neurofinder"}],
            "registration": registration,
        },
        "stimulus": {"renderer": "software", "width_px": 160, "height_px": 90},
        "actuation": {
            "controller": f"socket://127.0.0.1:{serial}",
            "calibration_stale_days": 0,
            "valve": {"date": "2026-11-02", "points": [{"open_ms": 40, "ul": 4}]},
        },
        "task": {"start_timeout_s": 60.0},
    }
    controller = {
        "run": "loop2p.simulation.controller:Controller",
        "options": {"tcp": f"127.0.0.1:{serial}", "wires": f"127.0.0.1:{wires}"},
    }
    extra = f"[microscope]\nheight = {shape[0]}\nwidth = {shape[1]}\nplanes = 1\nrate_hz = {rate_hz}"
    text = rig_text(ports, str(folder / "runs"), options=options, standins={"controller": controller}, extra=extra)
    (folder / "rig.toml").write_text(text)
    return read_rig(folder / "rig.toml")


def mean_traces(movie: NDArray[Any], rois: list[Pixels]) -> NDArray[np.float64]:
    """(n_frames, n_rois): plain numpy, written without the rig's code."""
    return np.stack([movie[:, r[:, 0], r[:, 1]].astype(np.float64).mean(axis=1) for r in rois], axis=1)


def offline_dff(f: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """dF/F with the 10th percentile of what there is of the last `window` frames."""
    f0 = np.stack([np.percentile(f[max(0, k + 1 - window) : k + 1], 10, axis=0) for k in range(len(f))])
    return (f - f0) / f0


def selection_text(dff: NDArray[np.float64], rate_hz: float, n: int) -> str:
    """P+ and P- drawn from the `n` ROIs with the most events."""
    best = [c.roi for c in rank_by_event_rate(dff, rate_hz)[:n]]
    plus, minus = split(best, SEED)
    return f"[selection]\nplus = {plus}\nminus = {minus}\nseed = {SEED}\n"


def test_the_loop_closes_on_a_real_movie(
    recordings: Path, tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Callable[..., Any]
) -> None:
    file = recordings / "movie_neurofinder" / "neurofinder_A_600x160x160.h5"
    regions = json.loads((recordings / "movie_neurofinder" / "neurofinder_A_regions.json").read_text())
    rois = [np.array(r["coordinates"]) for r in regions]
    with h5py.File(file) as h5:
        movie = h5["data"][:]
    rate_hz = 7.5
    expected = mean_traces(movie, rois)
    assert len(rois) == 47
    ports = free_ports(27)
    rig_file = real_rig(tmp_path, ports, movie.shape[1:], rate_hz, rois, registration=False)
    task = selection_text(offline_dff(expected, 225), rate_hz, 8)
    task += "[baseline]\nduration_s = 80.0\norientations_deg = []\n"  # one pass of the movie
    task += "[closed_loop]\nduration_s = 240.0\n"  # three more
    with running(rig_file, tmp_path) as rig:
        answer = rig.start(task)
        assert answer.accepted, answer.reason
        with open(tmp_path / "sender.log", "ab") as log:
            sender = spawn(
                sys.executable, "-m", "loop2p.simulation.sender", str(file), "--port", str(ports[24]),
                "--rate", str(rate_hz * SPEED), "--order", "column", "--dtype", "u2", "--loop",
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            rig.wait_for(Phase, phase="ended")
            assert sender.poll() is None
            sender.terminate()
    traces = [r.message for r in read_journal(rig.run_folder) if isinstance(r.message, Traces)]
    assert len(traces) > 4 * 600 * 0.9
    for message in traces:
        np.testing.assert_allclose(from_f32(message.f), expected[message.cause.frame % 600], rtol=2e-6)
    summary = summarise(rig.run_folder)
    print(f"seed {SEED}: {summary['trials']} trials, {summary['hits']} hits, {summary['rewards']} rewards")
    assert summary["hits"] >= 1
    assert summary["rewards"] == summary["hits"]
    assert summary["audit"]["complete"], summary["notes"]
    assert summary["frames"]["dropped"] == 0


RAMP_FRAMES = 22
"""Mean brightness rises over the first 20 frames; 2 more are in the control value's mean of 3."""


def stable_blobs(movie: NDArray[Any], n: int) -> list[Pixels]:
    """The n spots whose brightness varies least once the ramp is over (docs/experiment.md 2.1: baseline stability).

    Discs of 149 px around separate maxima of the mean image.
    """
    image = movie[RAMP_FRAMES:].mean(axis=0)
    smooth = ndimage.gaussian_filter(image, 3) - ndimage.gaussian_filter(image, 15)
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, 15)) & (smooth > 0))
    inside = [p for p in peaks if np.all(p >= 12) and np.all(p < np.array(image.shape) - 12)]
    disc = np.argwhere(np.hypot(*np.mgrid[-7:8, -7:8]) <= 7) - 7
    rois = [p + disc for p in inside]
    f = mean_traces(movie[RAMP_FRAMES:], rois)
    return [rois[k] for k in np.argsort(f.std(axis=0) / f.mean(axis=0))[:n]]


@pytest.mark.long
def test_the_ramp_of_a_cold_start_is_no_hit(
    recordings: Path, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    with h5py.File(recordings / "bruker_calscipy" / "EM0121_99x192x192.h5") as h5:
        movie = h5["data"][:]
    ramp = movie.mean(axis=(1, 2))
    assert ramp[0] < 0.85 * ramp[-1]  # the trap is there
    rate_hz, rois = 30.0, stable_blobs(movie, 8)
    ports = free_ports(27)
    rig_file = real_rig(tmp_path, ports, movie.shape[1:], rate_hz, rois, registration=True)
    plus, minus = split(range(8), SEED)
    task = f"[selection]\nplus = {plus}\nminus = {minus}\nseed = {SEED}\n"
    task += "[baseline]\nduration_s = 40.0\norientations_deg = []\n[calibration]\nwindow_s = 28.0\n"
    task += "[closed_loop]\nduration_s = 60.0\n"
    closed, done = threading.Event(), threading.Event()
    first_cold: list[int] = []

    def send() -> None:
        """The last 60 frames again and again; once the loop is closed, the whole file as after a cold start."""
        frames = [encode(image, "u2", "column", False) for image in movie]
        lead_in, k, sender = frames[-60:], 0, Sender("127.0.0.1", ports[24])
        sender.open(60.0)
        try:
            for n, _ in enumerate(deadlines(rate_hz * 5)):
                if done.is_set():
                    return
                if closed.is_set() and not first_cold and k == 0:
                    first_cold.append(n)
                if first_cold and n < first_cold[0] + len(frames):
                    sender.send(frames[n - first_cold[0]])
                else:
                    sender.send(lead_in[k])
                    k = (k + 1) % len(lead_in)
        finally:
            sender.close()

    thread = threading.Thread(target=send)
    with running(rig_file, tmp_path) as rig:
        try:
            answer = rig.start(task)
            assert answer.accepted, answer.reason
            thread.start()
            calibration = rig.wait_for(Calibration)
            rig.wait_for(Trial, edge="start")
            closed.set()
            last: list[int] = []

            def past_the_ramp(envelope: Envelope) -> bool:
                if isinstance(envelope.message, Output):
                    last.append(envelope.header.cause.frame)
                return bool(first_cold) and bool(last) and last[-1] >= first_cold[0] + len(movie)

            rig.wait(past_the_ramp, "the end of the cold start")
            rig.ask("stop")
            rig.wait_for(Phase, phase="ended")
        finally:
            done.set()
            if thread.ident is not None:
                thread.join(30)
    cold = range(first_cold[0], first_cold[0] + len(movie))
    records = list(read_journal(rig.run_folder))
    values = {r.message.cause.frame: r.message.value for r in records if isinstance(r.message, Output)}
    hits = [r.header.cause.frame for r in records if isinstance(r.message, Trial) and r.message.edge == "hit"]
    assert all(frame in values for frame in cold)
    ramp = range(cold[0], cold[0] + RAMP_FRAMES)
    highest = max(values[k] for k in ramp)
    print(f"seed {SEED}: threshold {calibration.threshold:.3f}, highest value in the ramp {highest:.3f}")
    print(f"hits in the cold start, by frame of the file: {[k - cold[0] for k in hits if k in cold]}")
    assert not [k for k in hits if k in ramp]
    # the ramp is a trap: P+ without P- would have crossed the threshold
    dff = offline_dff(mean_traces(np.concatenate([*[movie[-60:]] * 15, movie]), rois), 900)[-len(movie) :]
    assert dff[:, plus].mean(axis=1).max() > calibration.threshold
