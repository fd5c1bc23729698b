"""The sender as a program of its own, and a recording that pynwb has written, against the real sources."""

import datetime
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from loop2p.imaging.frame import Frame
from loop2p.imaging.sources import build_source
from loop2p.protocol import Alarm, Microscope
from loop2p.runtime import RigClock

SCOPE = Microscope(height=64, width=64, planes=2, rate_hz=30.0)
PATIENCE_S = 60.0


def receive(source, finished):
    """Take in frames as the runtime does, until finished(frames, alarms)."""
    frames, alarms, deadline_s = [], [], time.monotonic() + PATIENCE_S
    while not finished(frames, alarms):
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S} s: {source.counters()}, {source.why_not_ready()}"
        fd, due_ns = source.fileno(), source.due_ns()
        select.select([fd] if fd >= 0 else [], [], [], max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
        for item in source.frames():
            if isinstance(item, Alarm):
                alarms.append(item)
            else:
                frames.append((item, item.pixels.copy()))
    return frames, alarms


def start(spawn, *arguments):
    command = (sys.executable, "-m", "loop2p.simulation.sender", *map(str, arguments))
    return spawn(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("rig_listens", [True, False])
def test_a_real_recording_arrives_whole(spawn, recordings, free_ports, rig_listens):
    path = recordings / "movie_thunder_mouse/mouse_500x64x64.npy"
    image_port, control_port = (0, -1) if rig_listens else free_ports(2)
    options = {"kind": "tcp", "listen": rig_listens, "image_port": image_port, "control_port": control_port}
    source = build_source({**options, "inverted": True, "handshake_first_plane": 1}, SCOPE, RigClock(), Path())
    image_port, control_port = source.bound_ports()
    sender = start(
        spawn, path, "--port", image_port, "--control-port", control_port, "--rate", 0, "--order", "column",
        "--dtype", "u2", "--inverted", "--handshake", "--first-plane", 2, *([] if rig_listens else ["--listen"]),
    )  # fmt: skip
    try:
        frames, alarms = receive(source, lambda frames, alarms: alarms)
    finally:
        source.close()
    _, err = sender.communicate(timeout=PATIENCE_S)
    assert sender.returncode == 0, err.decode()
    assert b"done: 500 frames" in err
    movie = np.load(path)
    assert len(frames) == 500
    assert all(np.array_equal(65535 - pixels, image) for (_, pixels), image in zip(frames, movie, strict=True))
    assert [frame.plane for frame, _ in frames] == [1, 0] * 250
    assert [alarm.code for alarm in alarms] == ["microscope"]
    assert "after 500 frames of 500 announced" in alarms[0].detail


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole process group, this test included")
def test_ctrl_c_ends_a_loop(spawn, tmp_path):
    movie = np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64)
    np.save(tmp_path / "m.npy", movie)
    source = build_source({"kind": "tcp", "image_port": 0}, SCOPE, RigClock(), Path())
    sender = start(spawn, tmp_path / "m.npy", "--port", source.bound_ports()[0], "--rate", 200, "--loop")
    try:
        frames, _ = receive(source, lambda frames, alarms: len(frames) >= 10)
        sender.send_signal(signal.SIGINT)
        _, alarms = receive(source, lambda frames, alarms: alarms)
    finally:
        source.close()
    _, err = sender.communicate(timeout=PATIENCE_S)
    assert sender.returncode == 0, err.decode()
    assert b"stopped: " in err
    assert all(np.array_equal(pixels, movie[frame.index % 3]) for frame, pixels in frames)
    assert alarms[-1].code == "microscope"


def test_the_program_says_what_is_wrong(spawn, tmp_path, free_ports):
    np.save(tmp_path / "m.npy", np.full((1, 4, 4), 300, np.uint16))
    for arguments, words in (
        ((tmp_path / "absent.npy",), b"no such file"),
        ((tmp_path / "m.npy", "--dtype", "u4"), b"expected u1 or u2"),
        ((tmp_path / "m.npy", "--port", free_ports(1)[0], "--wait", 0.2), b"no rig answers"),
    ):
        sender = start(spawn, *arguments)
        _, err = sender.communicate(timeout=PATIENCE_S)
        assert sender.returncode in (1, 2)
        assert words in b" ".join(err.split())
        assert b"Traceback" not in err


def test_a_recording_written_by_pynwb_is_played(tmp_path):
    import pynwb

    movie = np.random.default_rng(3).integers(0, 4000, (10, 48, 64)).astype(np.uint16)  # (frame, row, column)
    file = pynwb.NWBFile(
        session_description="a test",
        identifier="t",
        session_start_time=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    )
    device = file.create_device("microscope")
    channel = pynwb.ophys.OpticalChannel(name="green", description="green", emission_lambda=510.0)
    plane = file.create_imaging_plane(
        name="plane", optical_channel=channel, description="d", device=device, excitation_lambda=980.0,
        indicator="jGCaMP7f", location="RSC",
    )  # fmt: skip
    file.add_acquisition(
        pynwb.ophys.TwoPhotonSeries(
            name="scan", data=movie.transpose(0, 2, 1), imaging_plane=plane, rate=30.0, unit="counts"
        )
    )
    with pynwb.NWBHDF5IO(tmp_path / "m.nwb", "w") as io:
        io.write(file)
    scope = Microscope(height=48, width=64, planes=2, rate_hz=30.0)
    source = build_source({"kind": "file", "path": "m.nwb", "rate_hz": 0}, scope, RigClock(), tmp_path)
    got = []
    while source.due_ns() is not None:
        got += [item.pixels.copy() for item in source.frames() if isinstance(item, Frame)]
    source.close()
    assert np.array_equal(np.stack(got), movie)
