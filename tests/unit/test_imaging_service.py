"""Imaging as a service: what it makes of the rig file, a session, a predecessor and a full disk."""

import json
import logging
import sys

import numpy as np
import pytest
from msgspec import structs
from rigs import rig_text

from loop2p.imaging import load_references
from loop2p.imaging.bench import discs, simulated_field
from loop2p.imaging.frame import Frame
from loop2p.imaging.rawfile import RECORD, RawFiles
from loop2p.imaging.service import REHEARSE_NS, Imaging, _Frames
from loop2p.protocol import Alarm, FileError, Phase, Raw, Rois, Session, Traces, parse_rig, seal
from loop2p.runtime import Context, RigClock

SHAPE = (120, 150)
N_FRAMES = 240
PLANES = 2


@pytest.fixture(scope="module")
def movie():
    """(frames, rows, columns) of two planes, interleaved."""
    rng = np.random.default_rng(5)
    fields = [3 * simulated_field(rng, SHAPE) for _ in range(PLANES)]
    return np.array([rng.poisson(fields[k % PLANES]) for k in range(N_FRAMES)], np.uint16)


class Bench:
    """A folder with a rig file, ROIs and a movie; builds services from it."""

    def __init__(self, folder, movie):
        self.folder, self.movie = folder, movie
        np.save(folder / "movie.npy", movie)
        for plane in range(PLANES):
            rois = discs(np.random.default_rng(plane), 4, SHAPE)
            ends = np.cumsum(rois.lengths)
            regions = [
                {"id": k, "coordinates": np.c_[rois.rows[s:e], rois.cols[s:e]].tolist()}
                for k, (s, e) in enumerate(zip(ends - rois.lengths, ends, strict=True))
            ]
            (folder / f"rois{plane}.json").write_text(json.dumps(regions))
        self.services = []

    def service(self, **options) -> Imaging:
        defaults = {
            "source": {"kind": "file", "path": "movie.npy", "rate_hz": 0},
            "rois": [{"plane": k, "path": f"rois{k}.json"} for k in range(PLANES)],
            "reference_frames": 48,
            "preview_hz": 0,
        }
        text = rig_text(
            list(range(6000, 6100)),
            str(self.folder / "runs"),
            options={"imaging": defaults | options},
            extra=f"[microscope]\nheight = {SHAPE[0]}\nwidth = {SHAPE[1]}\nplanes = {PLANES}\nrate_hz = 30.92",
        )
        rig = parse_rig(text, self.folder / "rig.toml")
        context = Context("imaging", "imaging-1", rig, RigClock(), logging.getLogger("test"))
        service = Imaging.from_rig(rig.options("imaging", Imaging.Options), context)
        self.services.append(service)
        return service

    def run(self, run_id="run1"):
        return self.folder / "runs" / run_id


@pytest.fixture
def bench(tmp_path, movie):
    made = Bench(tmp_path, movie)
    yield made
    for service in made.services:
        list(service.close())


def play(service, most=N_FRAMES):
    """Read the source until it has given `most` frames."""
    messages = []
    (source,) = service.inputs()
    while service.counters()["frames_received"] < most:
        messages += source.read()
    return messages


def session(service, run_id="run1", resent=False):
    envelope = seal(Session(run_id=run_id, rig="", task="", simulated=False), "task", "task-1", 0, 0)
    if resent:
        envelope.header = structs.replace(envelope.header, resent=True)
    return list(service.receive(envelope))


def phase(service, name):
    return list(service.receive(seal(Phase(phase=name, day=1), "task", "task-1", 0, 0)))


def traces_of(messages):
    return [m for m in messages if isinstance(m, Traces)]


def test_frames_of_the_source_become_traces_with_their_cause(bench):
    service = bench.service()
    messages = play(service)
    traces = traces_of(messages)
    assert [(t.cause.frame, t.cause.plane) for t in traces] == [(k, k % 2) for k in range(N_FRAMES)]
    assert [t.valid for t in traces] == [False] * 96 + [True] * (N_FRAMES - 96)
    counters = service.counters()
    assert [counters[f"frames_{k}"] for k in ("received", "processed", "invalid", "dropped")] == [240, 240, 96, 0]
    assert set(service.gauges()) >= {"shift_y_px_plane0", "shift_x_px_plane1", "quality_plane1"}


def test_it_is_ready_when_references_and_rois_are_there(bench):
    service = bench.service()
    assert service.why_not_ready() == [f"reference: plane {k}: 0 of 48 frames" for k in (0, 1)]
    play(service, 96)
    assert service.why_not_ready() == []
    assert "no ROI set named" in bench.service(rois=[]).why_not_ready()[0]


def test_rois_are_known_before_the_first_frame_and_again_with_the_references(bench):
    service = bench.service()
    (early,) = service.tick()
    assert list(service.tick()) == []
    late = [m for m in play(service) if isinstance(m, Rois)]
    assert (early.buffers, len(late), len(late[0].buffers)) == ((), 1, 2)
    assert early.set_id == late[0].set_id
    assert [p.names for p in early.planes] == [["0", "1", "2", "3"]] * 2


def test_references_built_before_or_in_a_session_are_left_in_its_folder(bench):
    before, during = bench.service(), bench.service()
    play(before)
    session(before, "run1")
    session(during, "run2")
    assert not (bench.run("run2") / "imaging_references.npz").exists()
    play(during)
    for run_id in ("run1", "run2"):
        assert sorted(load_references(bench.run(run_id) / "imaging_references.npz")) == [0, 1]


def test_a_successor_is_ready_at_once_and_gives_the_same_traces(bench):
    service = bench.service()
    session(service)
    want = traces_of(play(service))[96:]
    successor = bench.service()
    (rois,) = session(successor, resent=True)
    assert len(rois.buffers) == 2
    assert successor.why_not_ready() == []
    assert [t.f for t in traces_of(play(successor))[96:]] == [t.f for t in want]


def test_a_damaged_reference_file_is_not_used_and_does_not_stop_it(bench, caplog):
    bench.run().mkdir(parents=True)
    (bench.run() / "imaging_references.npz").write_bytes(b"damaged")
    service = bench.service()
    assert session(service) == []
    assert "of no use" in caplog.text
    play(service)
    assert service.why_not_ready() == []
    assert sorted(load_references(bench.run() / "imaging_references.npz")) == [0, 1]


def test_only_a_session_that_begins_now_empties_the_snapshot(bench):
    service = bench.service()
    play(service)
    full = service.snapshot()
    session(service, resent=True)
    assert service.snapshot() == full
    session(service, "run2")
    assert len(service.snapshot()) < len(full) / 10


def test_the_phase_tells_whether_a_session_runs(bench):
    service = bench.service()
    for name in ("idle", "baseline", "calibration", "closed_loop", "paused", "ended"):
        phase(service, name)
        assert service.core.in_session is (name not in ("idle", "ended"))


def test_raw_frames_are_written_while_a_session_runs(bench, movie):
    service = bench.service(raw="local")
    play(service, 100)
    session(service)
    phase(service, "baseline")
    messages = play(service, 220)
    phase(service, "ended")
    play(service)
    written = service.counters()["raw_written"]
    assert not [m for m in messages if isinstance(m, Raw)]
    assert service.counters()["raw_expected"] == written
    list(service.close())
    n = 0
    for plane in range(PLANES):
        index = np.fromfile(bench.run() / f"raw_plane{plane}.index", RECORD)
        form = json.loads((bench.run() / f"raw_plane{plane}.json").read_text())
        pixels = np.fromfile(bench.run() / f"raw_plane{plane}.bin", form["dtype"])
        pixels = pixels.reshape(-1, form["height"], form["width"])
        np.testing.assert_array_equal(pixels, movie[index["frame"]])
        assert (index["frame"] % 2 == plane).all()
        np.testing.assert_allclose(index["time_s"], index["frame"] / 30.92)
        n += len(index)
    assert n == written >= 120


def test_bus_raw_needs_no_session(bench):
    service = bench.service(raw="bus")
    assert len([m for m in play(service) if isinstance(m, Raw)]) == N_FRAMES
    assert "raw_written" not in service.counters()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rois": [{"path": "nothing.json"}]}, "nothing.json: no such ROI file"),
        ({"rois": [{"path": "rois0.json", "plane": 2}]}, r"rois\[0\].plane: found 2, expected 0 to 1"),
        ({"rois": [{"path": "rois0.json"}, {"path": "rois1.json"}]}, r"rois\[1\].plane: plane 0 has ROIs already"),
        ({"rois": [{"path": "rois0.json", "form": "x"}]}, "unknown key"),
        ({"day1": "nothing.npz"}, "options.day1: .*nothing.npz"),
        ({"day1": "movie.npy"}, "no references of an imaging run"),
        ({"reference_frames": 10}, "reference_frames: Expected `int` >= 40"),
        ({"source": {"kind": "none"}}, "source.kind: found 'none'"),
        ({"raw": "everywhere"}, "raw: Invalid enum value 'everywhere'"),
    ],
)
def test_mistakes_in_the_rig_file_are_named(bench, options, why):
    with pytest.raises(FileError, match=why):
        bench.service(**options)


def test_the_references_of_day_1_are_named_in_the_rig_file(bench):
    service = bench.service()
    session(service)
    play(service)
    later = bench.service(day1="runs/run1/imaging_references.npz")
    (rois,) = [m for m in play(later) if isinstance(m, Rois)]
    assert rois.match_to_day1 > 0.8


# ---------------------------------------------------------------- raw files


def frame(k, plane=0, shape=(3, 4), dtype=np.uint16):
    return Frame(np.full(shape, k, dtype), False, k, plane, k / 10, 7 * k)


def read_raw(folder, shape=(3, 4)):
    index = np.fromfile(folder / "raw_plane0.index", RECORD)
    return index["frame"].tolist(), np.fromfile(folder / "raw_plane0.bin", "<u2").reshape(-1, *shape)[:, 0, 0].tolist()


def test_a_successor_cuts_off_what_is_incomplete_and_goes_on(tmp_path):
    raw = RawFiles(tmp_path)
    for k in range(3):
        raw.write(frame(k))
    raw.close()
    with open(tmp_path / "raw_plane0.bin", "ab") as file:
        file.write(b"half a frame")
    with open(tmp_path / "raw_plane0.index", "ab") as file:
        file.write(b"half")
    raw = RawFiles(tmp_path)
    raw.write(frame(9))
    raw.close()
    assert read_raw(tmp_path) == ([0, 1, 2, 9], [0, 1, 2, 9])


def test_a_frame_of_another_form_is_not_written_and_told(tmp_path):
    raw = RawFiles(tmp_path)
    raw.write(frame(0))
    raw.write(frame(1, shape=(4, 3)))
    assert "expected" in raw.trouble
    raw.write(frame(2))
    raw.close()
    assert (raw.expected, raw.written, raw.trouble) == (3, 2, "")
    other = RawFiles(tmp_path)
    other.write(frame(3, dtype=np.uint8))
    other.close()
    assert "move the old files away" in other.trouble
    assert read_raw(tmp_path) == ([0, 2], [0, 2])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file size limit (POSIX setrlimit)")
def test_a_full_disk_leaves_whole_files_and_no_exception(tmp_path):
    """The limit on file size stands for the disk: a write takes a part, the next nothing."""
    import resource
    import signal

    raw = RawFiles(tmp_path)
    raw.write(frame(0))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
        for k in range(1, 5):
            raw.write(frame(k))
        full = raw.trouble
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    raw.write(frame(9))
    raw.close()
    assert "was not written" in full
    assert (raw.expected, raw.trouble) == (6, "")
    indices, values = read_raw(tmp_path)
    assert indices == values
    assert (len(indices), indices[-1]) == (raw.written, 9)


def test_raw_files_that_can_not_be_opened_raise_an_alarm(bench):
    service = bench.service(raw="local")
    session(service)
    phase(service, "baseline")
    (bench.run() / "raw_plane0.json").mkdir()
    messages = play(service, 50)
    assert next((a.code, a.active) for a in messages if isinstance(a, Alarm)) == ("disk-full", True)
    assert service.counters()["raw_written"] < service.counters()["raw_expected"]
    assert len(traces_of(messages)) >= 50


def test_it_rehearses_once_before_a_frame_is_due_and_not_when_frames_come_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet:
        def fileno(self) -> int:
            return -1

        def due_ns(self) -> int | None:
            return None

    now_ns, waiting, rehearsed = [0], [], []
    monkeypatch.setattr("loop2p.imaging.service.time.perf_counter_ns", lambda: now_ns[0])
    frames = _Frames(Quiet(), lambda: [waiting.pop()] if waiting else [], lambda: rehearsed.append(now_ns[0]))  # type: ignore[arg-type]

    def read(at_ms: float, frame: bool) -> int:
        now_ns[0] = round(at_ms * 1e6)
        waiting.extend([Traces(plane=0, f=b"")] * frame)
        return len(list(frames.read()))

    assert (read(1000, True), read(1032, True)) == (1, 1)
    assert frames.due_ns() == 1032e6 + 32e6 - REHEARSE_NS
    assert read(1062, False) == 0
    assert rehearsed == [1062e6]
    assert frames.due_ns() is None
    assert (read(1064, True), read(1066, True)) == (1, 1)  # fast ones: no time for it
    assert frames.due_ns() is None
