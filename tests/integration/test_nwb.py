"""The NWB file made from a journal passes the archive's inspector and holds what the session held."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import nwbinspector
import pynwb
import pytest
from msgspec import structs
from synthetic_session import HEIGHT, RATE_HZ, T0_NS, WIDTH, Made, make_session, write_journal

from loop2p.protocol import (
    Done,
    Lick,
    Output,
    Phase,
    Rois,
    Session,
    Shown,
    Traces,
    Trial,
    Wheel,
    from_f32,
    seal,
)
from loop2p.recording.nwb import export_nwb


@pytest.fixture(scope="module")
def made() -> Made:
    return make_session(seconds=60, opto=True, raw=True)


@pytest.fixture(scope="module")
def path(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_nwb(write_journal(tmp_path_factory.mktemp("run"), made.envelopes))


@pytest.fixture(scope="module")
def nwb(path: Path) -> Iterator[Any]:
    with pynwb.NWBHDF5IO(path, "r") as file:
        yield file.read()


def messages(made: Made, kind: type) -> list[Any]:
    return [e.message for _, e in made.envelopes if type(e.message) is kind]


def times_of(series: Any) -> np.ndarray:
    if series.timestamps is not None:
        return np.asarray(series.timestamps)
    return series.starting_time + np.arange(len(series.data)) / series.rate


def complaints(path: Path, level: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the inspector's own
        found = nwbinspector.inspect_nwbfile(
            nwbfile_path=path, config=nwbinspector.load_config("dandi"), importance_threshold=level
        )
        return [f"{m.importance.name} {m.check_function_name} {m.location}: {m.message}" for m in found]


def test_the_archives_inspector_has_nothing_to_complain_about(path):
    assert complaints(path, nwbinspector.Importance.BEST_PRACTICE_VIOLATION) == []


def test_it_is_valid_by_the_nwb_schema(path):
    assert pynwb.validate(path=str(path)) == []


def test_it_was_written_at_once(path):
    assert [p.name for p in path.parent.iterdir() if "partial" in p.name] == []


def test_it_says_what_was_run_and_that_it_was_simulated(nwb):
    assert "SIMULATED" in nwb.session_description
    assert "No display" in nwb.session_description
    assert nwb.subject.description.startswith("Simulated")
    assert (nwb.subject.subject_id, nwb.subject.sex, nwb.subject.age) == ("SIM-01", "F", "P12W")
    assert nwb.subject.genotype == "Rbp4-Cre"
    assert "baseline_s = 20.0" in nwb.notes
    assert "overrides: valve-date" in nwb.notes
    # wall time 10:00 at the anchor T0; frame 0 arrived some 7 ms later
    assert nwb.session_start_time.isoformat().startswith("2026-03-02T10:00:00.00")


def test_planes_have_their_own_rois_traces_and_times(nwb, made):
    ophys = nwb.processing["ophys"]
    series = {plane: ophys["Fluorescence"][f"RawFluorescence{plane}"] for plane in ("Proximal", "Distal")}
    for number, (plane, one) in enumerate(series.items()):
        frames = [e for _, e in made.envelopes if e.topic == Traces.topic and e.message.plane == number]
        assert np.allclose(times_of(one), [e.header.cause.time_s for e in frames], atol=1e-6)
        assert np.array_equal(one.data[:], np.array([from_f32(e.message.f) for e in frames]))
        assert one.rois.table.imaging_plane.name == f"ImagingPlane{plane}"
        assert one.rois.table.imaging_plane.imaging_rate == pytest.approx(RATE_HZ / 2)
        assert one.data.compression == "gzip"
    apart = times_of(series["Distal"])[0] - times_of(series["Proximal"])[0]
    assert apart == pytest.approx(1 / RATE_HZ)


def test_rois_are_pixel_masks_on_the_reference_image(nwb, made):
    (rois,) = messages(made, Rois)
    table = nwb.processing["ophys"]["ImageSegmentation"]["RoisProximal"]
    assert list(table["role"][:]) == ["plus"] * 5 + ["minus"] * 5
    assert list(table["roi_name"][:]) == [f"cell{k}" for k in range(10)]
    mask = table["pixel_mask"][7]
    rows, cols = (np.frombuffer(a, "<i4")[7 * 16 : 8 * 16] for a in (rois.planes[0].rows, rois.planes[0].cols))
    assert [(p["x"], p["y"]) for p in mask] == list(zip(cols, rows, strict=True))
    image = nwb.processing["ophys"]["ReferenceImages"]["reference_proximal"]
    assert np.array_equal(image.data[:].ravel(), np.frombuffer(rois.buffers[0], "<f4"))


def test_outlines_that_do_not_add_up_cost_these_outlines_and_nothing_else(tmp_path):
    made = make_session(seconds=20)
    for k, (at_ns, e) in enumerate(made.envelopes):
        if isinstance(e.message, Rois):
            proximal, distal = e.message.planes
            broken = structs.replace(e.message, planes=[structs.replace(proximal, rows=proximal.rows[:-8]), distal])
            made.envelopes[k] = at_ns, seal(broken, "imaging", e.header.instance, e.header.seq, e.header.sent_ns)
    with pynwb.NWBHDF5IO(export_nwb(write_journal(tmp_path, made.envelopes)), "r") as file:
        ophys = file.read().processing["ophys"]
        tables = ophys["ImageSegmentation"]
        assert tables["RoisProximal"].description.endswith("their outlines are not known.")
        assert [len(tables["RoisProximal"]["pixel_mask"][k]) for k in range(10)] == [1] * 10
        assert [len(tables["RoisDistal"]["pixel_mask"][k]) for k in range(10)] == [16] * 10
        assert ophys["Fluorescence"]["RawFluorescenceProximal"].data.shape[1] == 10


def test_decoder_and_motion(nwb, made):
    outputs = messages(made, Output)
    behavior, ophys = nwb.processing["behavior"], nwb.processing["ophys"]
    assert np.array_equal(behavior["ControlValue"].data[:], [m.value for m in outputs])
    assert np.array_equal(behavior["D"].data[:], [m.d for m in outputs])
    assert behavior["DecoderValid"].data[0] == 0
    assert np.array_equal(ophys["DfOverF"]["DfOverFProximal"].data[:], [from_f32(m.dff) for m in outputs])
    assert ophys["ShiftDistal"].data.shape[1] == 2
    assert behavior["calibration"]["threshold"][0] == pytest.approx(0.06)


def test_trials_carry_outcome_hit_and_reward(nwb, made):
    trials = nwb.trials.to_dataframe()
    assert len(trials) == made.truth["trials"]
    assert (trials.outcome == "hit").sum() == made.truth["hits"]
    assert (trials.outcome == "miss").sum() == made.truth["misses"]
    assert trials.reward_time.notna().sum() == made.truth["rewards"]
    rewarded = trials[trials.reward_time.notna()]
    delay = rewarded.reward_time - rewarded.hit_time
    assert ((delay > 1.0) & (delay < 1.1)).all()  # 1 s, up to the next proximal frame and the valve's way
    edges = [m for m in messages(made, Trial) if m.edge == "start"]
    assert np.allclose(trials.start_time, [m.t_s for m in edges])


def test_rig_clock_events_are_on_the_frame_clock(nwb, made):
    """Arrival is 6.9 ms and a little jitter behind frame time, so an event at rig clock T0 + t stands at t - 6.9 ms."""
    rewards = nwb.events["rewards"].to_dataframe()
    done = [m for m in messages(made, Done) if m.volume_ul > 0]
    assert np.allclose(rewards.timestamp, [(m.open_ns - T0_NS) / 1e9 - 0.0071 for m in done], atol=0.002)
    assert np.allclose(rewards.latency_ms, made.valve_ms)
    assert list(rewards.volume_ul) == [4.0] * made.truth["rewards"]
    licks = nwb.events["licks"].to_dataframe()
    assert np.allclose(licks.timestamp, [(m.t_ns - T0_NS) / 1e9 - 0.0071 for m in messages(made, Lick)], atol=0.002)
    wheel = nwb.processing["behavior"]["WheelSpeed"]
    inside = [m for m in messages(made, Wheel) if m.t_ns > T0_NS + 8_000_000]
    assert np.allclose(wheel.data[-len(inside) :], [m.speed_cm_s for m in inside])
    assert wheel.conversion == 0.01
    assert times_of(wheel)[0] >= 0


def test_stimulus_phases_and_led(nwb, made):
    shown = [m for m in messages(made, Shown) if m.flip_ns > T0_NS + 8_000_000]
    angle = nwb.stimulus["ShownAngle"]
    assert np.array_equal(
        np.nan_to_num(angle.data[:], nan=-1), [-1 if m.angle_deg is None else m.angle_deg for m in shown]
    )
    table = nwb.intervals["stimulus_presentation"].to_dataframe()
    assert list(table.picture) == [m.what for m in shown]
    assert (table.stop_time.values[:-1] == table.start_time.values[1:]).all()
    assert list(nwb.intervals["phases"]["phase"][:]) == ["baseline", "closed_loop"]
    assert list(nwb.intervals["opto"]["pulse_ms"][:]) == [6.0]


def test_latencies_stand_at_the_time_of_their_frame(nwb, made):
    shown = nwb.processing["latency"]["loop_shown"]
    causes = [e.header.cause for _, e in made.envelopes if e.topic == Shown.topic]
    by_time = sorted(zip((c.time_s for c in causes), made.shown_ms, strict=True))
    assert np.allclose(times_of(shown), [t for t, _ in by_time])
    assert np.allclose(shown.data[:], [ms for _, ms in by_time])


def test_raw_frames_of_the_journal_are_in_it(nwb, made):
    raw = [e for _, e in made.envelopes if e.topic == "imaging.raw" and e.message.plane == 1]
    series = nwb.acquisition["TwoPhotonSeriesDistal"]
    assert series.data.shape == (len(raw), HEIGHT, WIDTH)
    assert np.array_equal(series.data[5].ravel(), np.frombuffer(raw[5].message.buffers[0], "<u2"))


# ---------------------------------------------------------------- less than a whole session


def only(made: Made, *kinds: type, **session: Any) -> list[Any]:
    kept = []
    for log_ns, envelope in made.envelopes:
        if isinstance(envelope.message, Session) and session:
            message = structs.replace(envelope.message, **session)
            envelope = seal(message, "task", "task-1", envelope.header.seq, envelope.header.sent_ns)
        if not kinds or isinstance(envelope.message, kinds):
            kept.append((log_ns, envelope))
    return kept


@pytest.mark.parametrize(
    "kinds",
    [
        (Session,),
        (Phase,),  # no session: cut before it
        (Session, Traces),  # no ROI outlines
        (Session, Rois),  # no frame
        (Session, Traces, Rois, Trial),
        (Session, Shown, Lick, Wheel, Done),  # no frames: the rig clock alone
    ],
    ids=lambda kinds: "+".join(k.__name__ for k in kinds),
)
def test_whatever_is_missing_a_file_is_made_and_the_archive_takes_it(made, tmp_path, kinds):
    path = export_nwb(write_journal(tmp_path, only(made, *kinds)))
    assert complaints(path, nwbinspector.Importance.CRITICAL) == []


def test_a_session_cut_by_a_kill_gives_all_up_to_the_cut(made, tmp_path):
    folder = write_journal(tmp_path, made.envelopes[:6000], close=False)
    with open(folder / "journal.mcap", "r+b") as file:
        file.truncate((folder / "journal.mcap").stat().st_size - 5)
    path = export_nwb(folder)
    with pynwb.NWBHDF5IO(path, "r") as file:
        n = len(file.read().processing["ophys"]["Fluorescence"]["RawFluorescenceProximal"].data)
    n_all = sum(e.topic == Traces.topic and e.message.plane == 0 for _, e in made.envelopes[:6000])
    assert n_all - 1 <= n <= n_all
    assert complaints(path, nwbinspector.Importance.CRITICAL) == []


def test_texts_that_are_no_toml_and_odd_values_do_no_harm(made, tmp_path):
    texts = {"animal": 'id = "a/b"\nsex = "unknown"\nage = "old"', "rig": "= = =", "task": "x\0y", "wall_time": "soon"}
    path = export_nwb(write_journal(tmp_path, only(made, **texts, simulated=False)))
    assert complaints(path, nwbinspector.Importance.BEST_PRACTICE_VIOLATION) == []
    with pynwb.NWBHDF5IO(path, "r") as file:
        nwb = file.read()
        assert (nwb.subject.subject_id, nwb.subject.sex, nwb.subject.age) == ("a-b", "U", "P0D/")
        assert "SIMULATED" not in nwb.session_description
        assert "= = =" in nwb.notes


def test_a_file_that_can_not_be_made_leaves_the_old_one(made, tmp_path, monkeypatch):
    path = export_nwb(write_journal(tmp_path, only(made, Session, Traces)))
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("loop2p.recording.nwb.build", fail)
    with pytest.raises(OSError, match="No space"):
        export_nwb(tmp_path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.mcap", "session.nwb"]


def test_a_folder_without_a_journal_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no journal here, expected journal\.mcap"):
        export_nwb(tmp_path)
