"""From traces to the control value: which frames count, and what stops the decoder."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray
from rigs import rig_text

from loop2p.decoding import DifferenceDecoder
from loop2p.decoding.service import Decoding
from loop2p.protocol import (
    ROLES,
    Cause,
    Envelope,
    Fault,
    FileError,
    Output,
    Selection,
    Session,
    Traces,
    control,
    f32,
    from_f32,
    parse_rig,
    seal,
)
from loop2p.runtime import Context, LocalBus, RigClock

RATE_HZ = 15.46
WINDOW, SETTLE = 464, 155
"""30 s and 10 s of frames."""
SELECTION = Selection(plus=[0, 1], minus=[2, 3], seed=1)
Frames = NDArray[np.float32]


def recording(n_frames: int, n_rois: int = 5, seed: int = 1) -> Frames:
    rng = np.random.default_rng(seed)
    return (100 + 20 * rng.gamma(2, 1, (n_frames, n_rois))).astype(np.float32)


def traces(frame: int, f: Any, time_s: float | None = None, plane: int = 0, valid: bool = True) -> Traces:
    """Frame `frame` of the proximal plane (of two)."""
    time_s = frame / RATE_HZ if time_s is None else time_s
    return Traces(cause=Cause(2 * frame, plane, time_s, 0), plane=plane, f=f32(f), valid=valid)


def decoding() -> Decoding:
    return Decoding(lambda plus, minus: DifferenceDecoder(plus, minus, RATE_HZ), RATE_HZ)


def selected_bus(service: Decoding | None = None) -> LocalBus:
    bus = LocalBus(service or decoding(), wire=True)
    bus.publish(SELECTION)
    return bus


def outputs(bus: LocalBus) -> list[Output]:
    return [m for m in bus.messages if isinstance(m, Output)]


def fault(bus: LocalBus) -> Fault:
    last = bus.messages[-1]
    assert isinstance(last, Fault), f"no fault, but {last}"
    return last


def run(frames: Frames, start: int = 0) -> list[Output]:
    bus = selected_bus()
    for k, f in enumerate(frames):
        bus.publish(traces(start + k, f))
    return outputs(bus)


def slow_dff(frames: Frames) -> Frames:
    """dF/F of every frame as the paper defines it."""
    f0 = np.array([np.percentile(frames[max(0, k + 1 - WINDOW) : k + 1], 10, axis=0) for k in range(len(frames))])
    return (frames - f0) / f0


# ---------------------------------------------------------------- the value


def test_output_is_the_papers_d_its_mean_over_three_frames_and_dff() -> None:
    frames = recording(700)
    got = run(frames)
    dff = slow_dff(frames)
    d = dff[:, [0, 1]].mean(1) - dff[:, [2, 3]].mean(1)
    value = [d[max(0, k - 2) : k + 1].mean() for k in range(len(d))]
    np.testing.assert_allclose([o.d for o in got], d, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([o.value for o in got], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([from_f32(o.dff) for o in got], dff, rtol=1e-4, atol=1e-6)


def test_every_output_names_its_frame() -> None:
    got = run(recording(3), start=7)
    assert [o.cause and o.cause.frame for o in got] == [14, 16, 18]


def test_the_first_ten_seconds_are_not_valid() -> None:
    got = run(recording(200))
    assert [o.valid for o in got] == [False] * SETTLE + [True] * (200 - SETTLE)


def test_the_distal_plane_is_not_decoded() -> None:
    frames = recording(20)
    bus = selected_bus()
    for k, f in enumerate(frames):
        bus.publish(traces(k, f))
        bus.publish(traces(k, 2 * f[:3], time_s=(k + 0.5) / RATE_HZ, plane=1))
    assert outputs(bus) == run(frames)


@pytest.mark.real
def test_a_real_movie_gives_the_papers_d(recordings: Path) -> None:
    import h5py

    folder = recordings / "movie_neurofinder"
    with h5py.File(folder / "neurofinder_A_600x160x160.h5") as file:
        movie = file["data"][:]
    rois = json.loads((folder / "neurofinder_A_regions.json").read_text())[:10]
    frames = np.stack([movie[:, *np.transpose(r["coordinates"])].mean(1) for r in rois], 1).astype(np.float32)
    got, dff = run(frames), slow_dff(frames)
    np.testing.assert_allclose([o.d for o in got], dff[:, :2].mean(1) - dff[:, 2:4].mean(1), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- which frames count


def test_frames_that_are_not_valid_do_not_touch_f0_and_repeat_the_last_value() -> None:
    frames = recording(40)
    bus = selected_bus()
    for k, f in enumerate(frames):
        dark = 5 <= k < 15
        bus.publish(traces(k, 0 * f if dark else f, valid=not dark))
    got, clean = outputs(bus), run(np.delete(frames, range(5, 15), axis=0))
    assert [o.valid for o in got[5:15]] == [False] * 10
    assert {(o.d, o.value, o.dff) for o in got[5:15]} == {(got[4].d, got[4].value, b"")}
    assert [(o.d, o.value) for o in got[:5] + got[15:]] == [(o.d, o.value) for o in clean]


def test_a_frame_that_is_late_or_comes_twice_changes_nothing() -> None:
    frames = recording(20)
    service = decoding()
    bus = selected_bus(service)
    for k, f in enumerate(frames):
        bus.publish(traces(k, f))
        if k in (8, 12):
            bus.publish(traces(k, 9 * f))
            bus.publish(traces(k - 3, 9 * f))
    assert [o.d for o in outputs(bus)] == [o.d for o in run(frames)]
    assert service.counters()["frames_late"] == 4


@pytest.mark.parametrize("not_valid", [False, True])
def test_after_a_hole_f0_is_still_of_the_previous_30_s(not_valid: bool) -> None:
    frames = recording(600)
    bus = selected_bus()
    for k in range(300):
        bus.publish(traces(k, frames[k]))
    later = 300 + round(20 * RATE_HZ)
    if not_valid:
        for k in range(300, later):
            bus.publish(traces(k, frames[0], valid=False))
    before = len(outputs(bus))
    for k in range(200):
        bus.publish(traces(later + k, frames[300 + k]))
    got = outputs(bus)[before:]

    seen = np.concatenate([frames[[k for k in range(300) if k / RATE_HZ >= later / RATE_HZ - 30]], frames[300:301]])
    dff = (seen - np.percentile(seen, 10, axis=0))[-1] / np.percentile(seen, 10, axis=0)
    assert got[0].d == pytest.approx(dff[:2].mean() - dff[2:4].mean(), rel=1e-4)
    assert got[0].value == got[0].d, "a value from before the hole was averaged in"
    valid_at = SETTLE - (len(seen) - 1)
    assert [o.valid for o in got[: valid_at + 1]] == [False] * valid_at + [True]


def test_a_short_hole_changes_nothing() -> None:
    frames = recording(40)
    bus = selected_bus()
    for k, f in enumerate(frames):
        bus.publish(traces(k if k < 20 else k + 14, f))
    assert [o.value for o in outputs(bus)] == [o.value for o in run(frames)]


def test_time_that_jumps_back_begins_anew() -> None:
    frames = recording(400)
    bus = selected_bus()
    for k in range(200):
        bus.publish(traces(1000 + k, frames[k]))
    for k in range(200):
        bus.publish(traces(k, frames[200 + k]))
    got, anew = outputs(bus)[200:], run(frames[200:])
    assert [(o.d, o.value, o.valid) for o in got] == [(o.d, o.value, o.valid) for o in anew]


# ---------------------------------------------------------------- selection, session, successor


def test_nothing_is_decoded_and_the_service_is_not_ready_before_there_is_a_selection() -> None:
    service = decoding()
    bus = LocalBus(service)
    bus.publish(traces(0, [1.0] * 5))
    assert outputs(bus) == []
    assert "no selection yet" in service.why_not_ready()[0]
    bus.publish(SELECTION)
    assert service.why_not_ready() == []


def test_a_decoder_selected_late_knows_the_30_s_before() -> None:
    frames = recording(900)
    bus = LocalBus(decoding())
    for k in range(800):
        bus.publish(traces(k, frames[k]))
    bus.publish(SELECTION)
    for k in range(800, 900):
        bus.publish(traces(k, frames[k]))
    assert outputs(bus) == run(frames)[800:]


def test_another_selection_decodes_other_cells_at_once_and_the_same_one_changes_nothing() -> None:
    frames = recording(400)
    bus = selected_bus()
    for k in range(300):
        bus.publish(traces(k, frames[k]))
    bus.publish(SELECTION)
    bus.publish(traces(300, frames[300]))
    assert outputs(bus)[-1] == run(frames[:301])[-1]
    bus.publish(Selection(plus=[4], minus=[0], seed=2))
    bus.publish(traces(301, frames[301]))
    dff = slow_dff(frames[:302])[-1]
    assert outputs(bus)[-1].d == pytest.approx(dff[4] - dff[0], rel=1e-4)
    assert outputs(bus)[-1].valid


@pytest.mark.parametrize(
    ("plus", "minus", "message"),
    [
        ([0, -1], [2], "selection: plus holds ROI -1, expected 0 or more"),
        ([0, 1], [1, 2], "selection: ROI 1 is in minus and in plus, expected once"),
        ([0, 0], [1, 2], "selection: ROI 0 is in plus and in plus, expected once"),
        ([], [1, 2], "plus is [], expected at least one ROI"),
    ],
)
def test_a_selection_that_makes_no_sense_is_named(plus: list[int], minus: list[int], message: str) -> None:
    bus = LocalBus(decoding())
    bus.publish(Selection(plus=plus, minus=minus, seed=1))
    assert message in fault(bus).detail


def test_a_selected_roi_that_imaging_does_not_send_is_named_at_the_first_frame() -> None:
    bus = selected_bus()
    bus.publish(traces(7, [100.0, 100.0, 100.0]))
    assert fault(bus).detail == "frame 14: ROI 3 is selected, expected 0 to 2: imaging sends 3 ROIs"


def test_a_selected_roi_that_imaging_does_not_send_is_named_at_the_selection() -> None:
    bus = LocalBus(decoding())
    bus.publish(traces(7, [100.0, 100.0, 100.0]))
    bus.publish(SELECTION)
    assert fault(bus).detail == "selection: ROI 3 is selected, expected 0 to 2: imaging sends 3 ROIs"


def session(run_id: str) -> Session:
    return Session(run_id=run_id, rig="", task="", simulated=True)


def test_a_new_session_begins_with_an_empty_f0_and_the_same_one_again_changes_nothing() -> None:
    frames = recording(400)
    bus = selected_bus()
    for k in range(200):
        bus.publish(traces(k, frames[k]))
    bus.publish(session("monday"))
    for k in range(200, 400):
        bus.publish(traces(k, frames[k]))
        bus.publish(session("monday"))
    assert outputs(bus)[200:] == run(frames[200:], start=200)


def test_a_new_session_may_have_another_number_of_cells() -> None:
    bus = selected_bus()
    bus.publish(traces(0, [100.0] * 5))
    bus.publish(session("monday"))
    bus.publish(traces(1, [100.0] * 4))
    assert len(from_f32(outputs(bus)[-1].dff)) == 4


def snapshot(frames: Frames, start: int = 0, **changes: Any) -> bytes:
    fields = {
        "plane": 0,
        "n_rois": frames.shape[1],
        "frames": [2 * (start + k) for k in range(len(frames))],
        "times_s": [(start + k) / RATE_HZ for k in range(len(frames))],
        "f": f32(frames),
    }
    return msgspec.msgpack.encode(fields | changes)


def context(
    data: bytes | None = None,
    options: dict[str, Any] | None = None,
    path: Path | str = "test.toml",
) -> Context:
    """A rig with these decoding options, where imaging answers with this snapshot."""
    ports = list(range(6000, 6000 + 4 * len(ROLES)))
    rig_file = parse_rig(rig_text(ports, "runs", options={"decoding": options or {}}), path)

    def ask_peer(name: str, request: control.Request) -> control.Reply | None:
        assert name == "imaging"
        assert isinstance(request, control.SnapshotRequest)
        return None if data is None else control.SnapshotReply(data)

    return Context("decoding", "d1", rig_file, RigClock(), logging.getLogger("test"), ask_peer)


def build(ctx: Context) -> Decoding:
    return Decoding.from_rig(ctx.rig_file.options("decoding", Decoding.Options), ctx)


def test_a_successor_goes_on_as_if_nothing_had_happened() -> None:
    frames = recording(900)
    first = 800 - WINDOW - 2  # of each of the three frames that are averaged, 30 s
    successor = build(context(snapshot(frames[first:800], start=first)))
    bus = selected_bus(successor)
    resent = seal(session("monday"), "task", "t1", 0, 0)
    resent = Envelope(resent.topic, structs.replace(resent.header, resent=True), resent.body)
    assert list(successor.receive(resent)) == []
    for k in range(800, 900):
        bus.publish(traces(k, frames[k]))
    assert outputs(bus) == run(frames)[800:]
    assert all(o.valid for o in outputs(bus))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81\xa1q" + b"\x91" * 100_000,
        snapshot(recording(10), f=b"\0" * 7),
        snapshot(recording(10), times_s=[0.0]),
        snapshot(recording(10), times_s=[float("nan")] * 10),
        snapshot(np.full((10, 5), np.nan, np.float32)),
        snapshot(0 * recording(10)),
    ],
    ids=["empty", "not MessagePack", "deep", "short F", "short times", "time NaN", "F NaN", "dark"],
)
def test_a_snapshot_that_is_of_no_use_leaves_f0_to_begin_anew(data: bytes) -> None:
    bus = selected_bus(build(context(data)))
    frames = recording(200)
    for k, f in enumerate(frames):
        bus.publish(traces(100 + k, f))
    assert outputs(bus) == run(frames, start=100)


def test_a_first_start_finds_no_imaging_and_begins_with_nothing() -> None:
    bus = selected_bus(build(context(None)))
    for k, f in enumerate(recording(5)):
        bus.publish(traces(k, f))
    assert outputs(bus) == run(recording(5))


# ---------------------------------------------------------------- what stops it


def test_short_frame_stops_decoding_and_says_why() -> None:
    bus = selected_bus()
    bus.publish(traces(3, [100.0] * 4))
    bus.publish(traces(4, [100.0]))
    assert (fault(bus).error, fault(bus).detail) == ("ValueError", "frame 8: 1 cells, expected 4")


def test_another_number_of_cells_stops_it_even_after_a_hole() -> None:
    bus = selected_bus()
    bus.publish(traces(3, [100.0] * 4))
    bus.publish(traces(3000, [100.0] * 5))
    assert fault(bus).detail == "frame 6000: 5 cells, expected 4"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_f_that_is_not_finite_stops_it(bad: float) -> None:
    bus = selected_bus()
    bus.publish(traces(7, [100, 100, bad, 100]))
    assert fault(bus).error == "ArithmeticError"
    assert f"frame 14: decoder raised ArithmeticError: ROI 2: F is {bad}" in fault(bus).detail


def test_a_dark_roi_that_drives_the_decoder_stops_it() -> None:
    bus = selected_bus()
    bus.publish(traces(7, [100, 100, 100, 0, 100]))
    assert fault(bus).error == "ArithmeticError"
    assert "frame 14: decoder raised ArithmeticError: ROI 3 is dark: F0 is 0, expected above 0" in fault(bus).detail


def test_a_dark_roi_that_does_not_drive_it_has_no_dff_and_stops_nothing() -> None:
    bus = selected_bus()
    bus.publish(traces(7, [100, 100, 100, 100, 0]))
    assert np.isnan(from_f32(outputs(bus)[-1].dff)).tolist() == [False, False, False, False, True]
    assert outputs(bus)[-1].d == 0


class Odd:
    """A decoder that returns, or raises, what it is told."""

    dff: Any = None

    def __init__(self, result: Any) -> None:
        self.result = result

    def reset(self) -> None:
        pass

    def update(self, f: Frames) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (float("nan"), "frame 14: decoder returned nan"),
        (np.float32(np.inf), "frame 14: decoder returned inf"),
        (None, "frame 14: decoder raised TypeError: "),
        (KeyError("x"), "frame 14: decoder raised KeyError: 'x'"),
    ],
)
def test_a_decoder_that_fails_stops_it(result: Any, message: str) -> None:
    bus = selected_bus(Decoding(lambda _plus, _minus: Odd(result), RATE_HZ))
    bus.publish(traces(7, [100.0] * 4))
    assert fault(bus).error == "ArithmeticError"
    assert fault(bus).detail.startswith(message)


def test_dff_of_another_length_stops_it() -> None:
    decoder = Odd(0.0)
    decoder.dff = [1.0, 2.0]
    bus = selected_bus(Decoding(lambda _plus, _minus: decoder, RATE_HZ))
    bus.publish(traces(7, [100.0] * 4))
    assert fault(bus).detail == "frame 14: decoder holds dff of 2 cells, expected 4"


def test_a_frame_time_that_is_no_number_stops_it() -> None:
    bus = selected_bus()
    bus.publish(traces(7, [100.0] * 4, time_s=float("nan")))
    assert fault(bus).detail == "frame 14: frame time nan, expected a finite number"


def test_traces_without_a_frame_stop_it() -> None:
    bus = selected_bus()
    bus.publish(Traces(plane=0, f=f32([1.0] * 4)))
    assert "without a cause" in fault(bus).detail


# ---------------------------------------------------------------- a decoder from elsewhere

OURS = """
class Mean:
    def __init__(self, plus, minus, scale=1.0):
        self.plus, self.scale = plus, scale
    def reset(self): pass
    def update(self, f): return float(f[self.plus].mean()) * self.scale

class Rated(Mean):
    def __init__(self, plus, minus, rate_hz):
        self.plus, self.scale = plus, rate_hz

class Picky(Mean):
    def __init__(self, plus, minus):
        if len(plus) != 2:
            raise ValueError("made for two")
        super().__init__(plus, minus)
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Decoding]:
    """Builds decoding in a laboratory that has its own decoders beside the rig file."""
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "lab_decoders.py").write_text(OURS)
    (tmp_path / "ours" / "lab_broken.py").write_text("def f(:\n")

    def start(**options: Any) -> Decoding:
        return build(context(None, {"path": ["ours"]} | options, tmp_path / "rig.toml"))

    return start


def first_value(service: Decoding) -> float:
    bus = selected_bus(service)
    bus.publish(traces(0, [10.0, 20.0, 0.0, 0.0]))
    assert outputs(bus)[0].dff == b""
    return outputs(bus)[0].d


def test_a_class_from_a_folder_beside_the_rig_file_works(lab: Callable[..., Decoding]) -> None:
    assert first_value(lab(decoder="lab_decoders:Mean", decoder_options={"scale": 2.0})) == 30


def test_a_class_that_asks_for_the_rate_gets_that_of_its_plane(lab: Callable[..., Decoding]) -> None:
    assert first_value(lab(decoder="lab_decoders:Rated")) == pytest.approx(15 * RATE_HZ)


def test_a_class_that_can_not_be_tried_out_beforehand_is_still_used(
    lab: Callable[..., Decoding], caplog: pytest.LogCaptureFixture
) -> None:
    assert first_value(lab(decoder="lab_decoders:Picky")) == 15
    assert "could not be tried out with ROIs 0 and 1: ValueError: made for two" in caplog.text


def test_options_reach_the_projects_own_decoder() -> None:
    service = build(context(None, {"decoder_options": {"f0_s": 10.0, "percentile": 50.0}}))
    bus = selected_bus(service)
    frames = recording(200)
    for k, f in enumerate(frames):
        bus.publish(traces(k, f))
    f0 = np.percentile(frames[-155:], 50, axis=0)
    np.testing.assert_allclose(from_f32(outputs(bus)[-1].dff), (frames[-1] - f0) / f0, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"decoder": "nowhere_at_all:Mean"}, "decoder", "can't import 'nowhere_at_all'"),
        ({"decoder": "lab_decoders:Median"}, "decoder", "lab_decoders has no class 'Median'"),
        ({"decoder": "lab_broken:Mean"}, "decoder", "lab_broken:Mean can't be used: SyntaxError"),
        ({"decoder": "lab_decoders:OURS"}, "decoder", "lab_decoders has no class 'OURS'"),
        ({"path": ["theirs"]}, "path", "no folder"),
        (
            {"decoder": "lab_decoders:Mean", "decoder_options": {"tau": 1.0}},
            "decoder_options",
            "'tau'; lab_decoders:Mean takes (plus, minus, scale=1.0)",
        ),
        ({"decoders": "lab_decoders:Mean"}, "decoders", "unknown key; expected one of decoder, decoder_options, path"),
        ({"path": "ours"}, "path", "Expected `array`, got `str`"),
    ],
)
def test_a_mistake_in_the_rig_file_is_named_with_its_line(
    lab: Callable[..., Decoding], options: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(FileError) as caught:
        lab(**options)
    assert message in str(caught.value)
    assert f"services.decoding.options.{key}" in str(caught.value)
    assert ", line " in str(caught.value)


def test_a_decoder_that_records_no_dff_gives_the_same_values_to_the_bit():
    rng = np.random.default_rng(5)
    all_rois = DifferenceDecoder([4, 1], [2, 7], rate_hz=15.46)
    chosen = DifferenceDecoder([4, 1], [2, 7], rate_hz=15.46, record_dff=False)
    for _ in range(600):
        f = (100 + 10 * rng.standard_normal(9)).astype(np.float32)
        assert all_rois.update(f) == chosen.update(f)
    assert chosen.dff is None
    dark = np.float32([0, 1, 1, 0, 1, 0, 0, 0, 0])
    for _ in range(464):  # until F0 has forgotten the light
        with contextlib.suppress(ArithmeticError):
            chosen.update(dark)
    with pytest.raises(ArithmeticError, match="ROI 7 is dark"):
        chosen.update(dark)
