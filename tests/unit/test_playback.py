"""Recordings as a source of frames: every format, every range, every mistake; the real ones where they are."""

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from loop2p.imaging.frame import Frame
from loop2p.imaging.movies import open_movie
from loop2p.imaging.playback import FileOptions, LeadIn, score
from loop2p.imaging.sources import build_source
from loop2p.protocol import FileError, Microscope
from loop2p.runtime import RigClock

SCOPE = Microscope(height=6, width=4, planes=2, rate_hz=30.0)


@pytest.fixture
def movie():
    return np.random.default_rng(5).integers(0, 60000, (8, 6, 4)).astype("<u2")


def play(path, microscope=SCOPE, most=10**6, **options):
    """Play a file flat out: frames with copied pixels, and alarms."""
    source = build_source({"kind": "file", "path": str(path), "rate_hz": 0, **options}, microscope, RigClock(), Path())
    frames, alarms = [], []
    try:
        while source.due_ns() is not None and len(frames) < most:
            for item in source.frames():
                if isinstance(item, Frame):
                    frames.append((item, item.pixels.copy()))
                else:
                    alarms.append(item)
        return frames, alarms, source.counters(), source.why_not_ready()
    finally:
        source.close()


def pixels(path, microscope=SCOPE, **options):
    return np.stack([image for _, image in play(path, microscope, **options)[0]])


def nwb(path, stored, names=("TwoPhotonSeries",)):
    """The parts of an NWB file that say where the pixels are."""
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        for name in names:
            group = file.create_group(f"acquisition/{name}")
            group.attrs["neurodata_type"] = "TwoPhotonSeries"
            group["data"] = stored


# ---------------------------------------------------------------- formats


def write_npy(folder, movie):
    np.save(folder / "m.npy", movie)
    return folder / "m.npy"


def write_fortran_npy(folder, movie):
    np.save(folder / "m.npy", np.asfortranarray(movie))
    return folder / "m.npy"


def write_tiff(folder, movie):
    tifffile.imwrite(folder / "m.tif", movie, photometric="minisblack")
    return folder / "m.tif"


def write_packed_tiff(folder, movie):
    tifffile.imwrite(folder / "m.tiff", movie, photometric="minisblack", compression="zlib")
    return folder / "m.tiff"


def write_big_endian_tiff(folder, movie):
    tifffile.imwrite(folder / "m.tif", movie, photometric="minisblack", byteorder=">")
    return folder / "m.tif"


def write_imagej_tiff(folder, movie):
    tifffile.imwrite(folder / "m.tif", movie, imagej=True, metadata={"axes": "TYX"})
    return folder / "m.tif"


def write_ome_tiff(folder, movie):
    tifffile.imwrite(folder / "m.ome.tif", movie, photometric="minisblack", metadata={"axes": "TYX"})
    return folder / "m.ome.tif"


def write_folder(folder, movie):
    for k, image in enumerate(movie, 5):  # scan_5 to scan_12: in the order of the numbers, not of the letters
        path = folder / f"scan_{k}.ome.tif"
        tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "YX"})
    return folder


def write_h5(folder, movie):
    with h5py.File(folder / "m.h5", "w") as file:
        file.create_dataset("data", data=movie, chunks=(3, 6, 4), compression="gzip", shuffle=True)
    return folder / "m.h5"


WRITERS = [
    write_npy, write_fortran_npy, write_tiff, write_packed_tiff, write_big_endian_tiff, write_imagej_tiff,
    write_ome_tiff, write_folder, write_h5,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_frames(tmp_path, movie, write):
    frames, alarms, counters, why = play(write(tmp_path, movie))
    assert np.array_equal(np.stack([image for _, image in frames]), movie)
    assert frames[0][1].dtype == np.dtype("uint16")
    assert frames[0][1].dtype.isnative
    assert [f.index for f, _ in frames] == list(range(8))
    assert [f.plane for f, _ in frames] == [0, 1] * 4
    assert [f.time_s for f, _ in frames] == [k / 30.0 for k in range(8)]
    assert [(a.code, a.active) for a in alarms] == [("microscope-ended", True)]
    assert "played to its end, 8 frames" in alarms[0].detail
    assert counters == {"frames": 8, "frames_total": 8, "ended": 1}
    assert "start imaging again, or set loop" in why[0]


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("write", [write_npy, write_tiff, write_h5])
def test_other_pixel_types(tmp_path, write, dtype):
    movie = np.arange(4 * 24).reshape(4, 6, 4).astype(dtype) - np.array(20, dtype)
    assert np.array_equal(pixels(write(tmp_path, movie)), movie)


def test_nwb_is_frame_x_y_and_is_not_copied_to_turn_it(tmp_path, movie):
    nwb(tmp_path / "m.nwb", movie.transpose(0, 2, 1))
    assert np.array_equal(pixels(tmp_path / "m.nwb"), movie)
    opened = open_movie(tmp_path / "m.nwb")
    buffer = opened.buffer()
    assert np.shares_memory(opened.read(3, buffer), buffer)
    opened.close()


def test_nwb_that_was_written_the_wrong_way_round(tmp_path, movie):
    nwb(tmp_path / "m.nwb", movie)
    with pytest.raises(FileError, match=r"acquisition/TwoPhotonSeries/data: found images of 4 x 6 .*expected 6 x 4"):
        play(tmp_path / "m.nwb")
    with pytest.raises(FileError, match="rows and columns are exchanged: set axes"):
        play(tmp_path / "m.nwb")
    assert np.array_equal(pixels(tmp_path / "m.nwb", axes="frame-row-column"), movie)


def test_nwb_with_two_series_must_be_told_which(tmp_path, movie):
    nwb(tmp_path / "m.nwb", movie.transpose(0, 2, 1), ("green", "red"))
    with pytest.raises(FileError, match="found green, red, expected exactly one; set dataset"):
        play(tmp_path / "m.nwb")
    with pytest.raises(FileError, match="found green, red, expected blue"):
        play(tmp_path / "m.nwb", dataset="blue")
    assert np.array_equal(pixels(tmp_path / "m.nwb", dataset="red"), movie)
    assert np.array_equal(pixels(tmp_path / "m.nwb", dataset="acquisition/green/data"), movie)


def test_inverted_is_said_not_done(tmp_path, movie):
    frames, *_ = play(write_npy(tmp_path, movie), inverted=True)
    assert all(f.inverted for f, _ in frames)
    assert np.array_equal(frames[0][1], movie[0])


# ---------------------------------------------------------------- ranges and pace


def test_a_lead_in_makes_a_baseline_of_a_short_recording(tmp_path, movie):
    got = pixels(write_npy(tmp_path, movie), lead_in={"first": -4, "last": -1, "count": 3})
    assert np.array_equal(got, movie[[4, 5, 6, 7] * 3 + list(range(8))])


def test_first_last_and_loop(tmp_path, movie):
    path = write_npy(tmp_path, movie)
    frames, *_ = play(path, first=2, last=5, loop=2)
    assert np.array_equal(np.stack([image for _, image in frames]), movie[[2, 3, 4, 5] * 2])
    assert [f.index for f, _ in frames] == list(range(8))
    frames, alarms, counters, why = play(path, loop=0, most=100)
    assert len(frames) >= 100
    assert (alarms, why, counters["frames_total"]) == ([], [], 0)
    assert all(f.index % 2 == f.plane for f, _ in frames)


@given(
    n=st.integers(2, 40),
    planes=st.integers(1, 3),
    data=st.data(),
    loop=st.integers(0, 3),
)
def test_the_plane_of_a_frame_of_the_file_is_always_the_same(n, planes, data, loop):
    volumes = n // planes
    if not volumes:
        return
    ends = st.tuples(st.integers(0, volumes - 1), st.integers(0, volumes - 1)).map(sorted)
    (a, b), (c, d) = data.draw(ends), data.draw(ends)
    options = FileOptions(
        path="", first=a * planes, last=b * planes + planes - 1, loop=loop,
        lead_in=LeadIn(c * planes, d * planes + planes - 1, 2),
    )  # fmt: skip
    made = score(options, n, planes, "m")
    for k in range(3 * n + 100):
        frame = made.frame(k)
        if frame is None:
            assert k >= made.n_frames
        else:
            assert frame % planes == k % planes
            assert 0 <= frame < n


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"first": 8}, "found frames 8 to -1, expected a range in 0 to 7"),
        ({"first": -9}, "found frames -9 to -1, expected a range in 0 to 7"),
        ({"first": 4, "last": 3}, "expected a range in 0 to 7"),
        ({"first": 3}, "found 5 frames from frame 3 on, expected to begin with a whole volume of 2 planes"),
        ({"last": 6, "loop": 2}, "found 7 frames from frame 0 on, expected to begin and end with a whole volume"),
        ({"lead_in": {"first": 0, "last": 2, "count": 1}}, "lead_in: found 3 frames"),
        ({"lead_in": {"first": 0, "last": 1, "count": 0}}, r"source.lead_in.*(>= 1.*count|count.*>= 1)"),
        ({"rate_hz": -1}, r"source.rate_hz: "),
        ({"datset": "x"}, r"source.datset: unknown key; expected one of path, dataset"),
        ({"axes": "yx"}, r"source.axes: "),
    ],
)
def test_a_mistake_in_the_options_is_named(tmp_path, movie, options, words):
    with pytest.raises(FileError, match=words):
        play(write_npy(tmp_path, movie), **options)


def test_an_odd_frame_at_the_end_is_played_when_nothing_follows(tmp_path, movie):
    assert len(pixels(write_npy(tmp_path, movie), last=6)) == 7


def test_frames_come_at_the_microscopes_pace(tmp_path, movie, monkeypatch):
    now = [10**12]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])
    options = {"kind": "file", "path": str(write_npy(tmp_path, movie)), "rate_hz": 20.0}
    source = build_source(options, SCOPE, RigClock(), Path())
    assert source.fileno() == -1
    assert source.due_ns() == 0
    assert [f.index for f in source.frames()] == [0]
    assert source.due_ns() == 10**12 + 50_000_000
    now[0] += 49_999_999
    assert list(source.frames()) == []
    now[0] += 1
    first = next(iter(source.frames()))
    assert (first.index, first.arrival_ns) == (1, now[0])
    assert first.time_s == 1 / 30.0  # frame time is the rig file's, however fast it is played
    now[0] += 3 * 50_000_000 + 20_000_000  # held up: what is due comes at once, then the pace is as before
    assert [f.index for f in source.frames()] == [2, 3, 4]
    assert source.due_ns() == 10**12 + 5 * 50_000_000
    source.close()


def test_at_most_a_few_frames_a_call(tmp_path, movie):
    options = {"kind": "file", "path": str(write_npy(tmp_path, movie)), "rate_hz": 0, "loop": 0}
    source = build_source(options, SCOPE, RigClock(), Path())
    assert len(list(source.frames())) == 8
    assert source.due_ns() <= time.perf_counter_ns()
    source.close()


def test_a_frame_stays_until_the_next_is_taken(tmp_path, movie):
    options = {"kind": "file", "path": str(write_npy(tmp_path, movie)), "rate_hz": 0}
    source = build_source(options, SCOPE, RigClock(), Path())
    for k, frame in enumerate(source.frames()):
        if isinstance(frame, Frame):
            assert np.array_equal(frame.pixels, movie[k])
    source.close()


# ---------------------------------------------------------------- mistakes in files


def test_a_file_of_another_size_than_the_rigs(tmp_path, movie):
    path = write_npy(tmp_path, movie)
    with pytest.raises(FileError, match=r"source: .*m.npy: found images of 6 x 4 .*expected 6 x 5 as in the rig file"):
        play(path, Microscope(height=6, width=5))


def test_files_that_are_none(tmp_path, movie):
    def refused(name, words, **options):
        with pytest.raises(FileError, match=words):
            play(tmp_path / name, **options)

    refused("absent.npy", "source.path: .*absent.npy: no such file or folder")
    (tmp_path / "m.avi").write_bytes(b"RIFF")
    refused("m.avi", "found .avi, expected .npy, .tif, .tiff, .h5, .hdf5, .nwb or a folder")
    for suffix in ("npy", "tif", "h5", "nwb"):
        (tmp_path / f"bad.{suffix}").write_bytes(b"nothing of the kind")
        refused(f"bad.{suffix}", f"bad.{suffix}: cannot be read")
    (tmp_path / "empty").mkdir()
    refused("empty", "no file matches '\\*.tif\\*'")
    np.save(tmp_path / "pickled.npy", np.array([{}, None]), allow_pickle=True)
    refused("pickled.npy", "cannot be read .*Python objects")
    np.save(tmp_path / "flat.npy", np.zeros((6, 4), np.uint16))
    refused("flat.npy", r"found shape \(6, 4\), expected \(frames, rows, columns\)")
    np.save(tmp_path / "none.npy", np.zeros((0, 6, 4), np.uint16))
    refused("none.npy", r"found shape \(0, 6, 4\)")
    np.save(tmp_path / "float.npy", np.zeros((2, 6, 4)))
    refused("float.npy", "found float64, expected uint8, uint16, int16")
    np.save(tmp_path / "signed.npy", np.zeros((2, 6, 4), np.int16))
    refused("signed.npy", "found int16, expected uint8 or uint16 where inverted = true", inverted=True)
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((6, 4, 3), np.uint8), photometric="rgb")
    refused("rgb.tif", r"expected \(frames, rows, columns\)|found images of")
    write_h5(tmp_path, movie)
    refused("m.h5", "no dataset 'frames'; found data", dataset="frames")
    nwb(tmp_path / "none.nwb", movie, ())
    refused("none.nwb", "TwoPhotonSeries in acquisition: found none, expected exactly one")


def test_a_file_that_is_cut_off_ends_the_stream_with_an_alarm(tmp_path, movie):
    folder = write_folder(tmp_path, movie)
    path = folder / "scan_9.ome.tif"
    path.write_bytes(path.read_bytes()[:20])
    frames, alarms, counters, _ = play(folder)
    assert len(frames) == 4
    assert "stopped at frame 4" in alarms[0].detail
    assert counters["ended"] == 1


def test_a_folder_with_an_image_of_another_size_ends_there(tmp_path, movie):
    folder = write_folder(tmp_path, movie)
    tifffile.imwrite(folder / "scan_10.ome.tif", np.zeros((6, 5), np.uint16))
    frames, alarms, *_ = play(folder)
    assert len(frames) == 5
    assert "found an image of (6, 5), expected (6, 4)" in alarms[0].detail


def test_one_channel_of_a_folder(tmp_path, movie):
    for k, image in enumerate(movie):
        for channel in (1, 2):
            tifffile.imwrite(tmp_path / f"s_Ch{channel}_{k:06}.ome.tif", image + channel)
    assert np.array_equal(pixels(tmp_path, pattern="*_Ch2_*.tif"), movie + 2)


# ---------------------------------------------------------------- real recordings


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("movie_neurofinder/neurofinder_A_600x160x160.h5", "uint16"),
        ("movie_thunder_mouse/mouse_500x64x64.npy", "int16"),
        ("bruker_calscipy/EM0121_99x192x192.h5", "uint16"),
    ],
)
def test_real_recordings_are_played_whole(name, dtype, recordings):
    n, height, width = (int(part) for part in Path(name).stem.split("_")[-1].split("x"))
    scope = Microscope(height=height, width=width, planes=1, rate_hz=30.0)
    got = pixels(recordings / name, scope)
    if name.endswith(".npy"):
        expected = np.load(recordings / name)
    else:
        with h5py.File(recordings / name) as file:
            expected = file["data"][:]
    assert got.shape == (n, height, width)
    assert got.dtype == dtype
    assert np.array_equal(got, expected)


@pytest.mark.real
def test_real_prairieview_frames_whose_master_file_is_missing(recordings):
    scope = Microscope(height=512, width=512, planes=1)
    got = pixels(recordings / "bruker_calscipy", scope, pattern="*.ome.tif")
    assert got.shape == (2, 512, 512)
    with h5py.File(recordings / "bruker_calscipy/EM0121_99x192x192.h5") as file:
        assert np.array_equal(got[:, 160:352, 40:232], file["data"][:2])


@pytest.mark.real
def test_a_real_pickle_is_refused(recordings):
    with pytest.raises(FileError, match="Python objects"):
        play(recordings / "suite2p_output/stat.npy")
