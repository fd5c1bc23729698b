"""Frames become traces that can be trusted, or traces that say that they can't."""

import h5py
import msgpack
import numpy as np
import pytest
from scipy import ndimage

from loop2p.decoding.handover import read_snapshot
from loop2p.imaging import (
    Frame,
    ImagingCore,
    ImagingSettings,
    Reference,
    RoiFile,
    load_references,
    read_rois,
    save_references,
)
from loop2p.imaging.bench import discs, simulated_field
from loop2p.imaging.rois import RoiSet
from loop2p.protocol import Alarm, Day1Images, Microscope, Preview, Raw, Rois, Traces, from_f32, from_i32

SHAPE = (200, 260)
MARGIN = 40
N_REFERENCE = 64


@pytest.fixture(scope="module")
def fields():
    """Two fields, of the proximal and the distal plane, with 40 px to spare on each side; mean 1."""
    rng = np.random.default_rng(8)
    return [simulated_field(rng, (SHAPE[0] + 2 * MARGIN, SHAPE[1] + 2 * MARGIN)) for _ in range(2)]


def seen(field, dy=0, dx=0):
    """What a frame shows when the image has moved down and right by whole pixels."""
    y, x = MARGIN - dy, MARGIN - dx
    return field[y : field.shape[0] - 2 * MARGIN + y, x : field.shape[1] - 2 * MARGIN + x]


class Microscopist:
    """Takes noisy frames and shows them to a core; collects what it says."""

    def __init__(self, fields, planes=1, light=1.0, order="C", inverted=False, rois=True, day1=None, **settings):
        self.fields, self.planes, self.light, self.order, self.inverted = fields, planes, light, order, inverted
        shape = seen(fields[0]).shape
        self.microscope = Microscope(*shape, planes, 15.46 * planes)
        made = {k: discs(np.random.default_rng(k), 5, shape) for k in range(planes)} if rois else {}
        self.rois = rois if isinstance(rois, dict) else made
        preview_hz = settings.pop("preview_hz", 0)
        defaults = ImagingSettings(reference_frames=N_REFERENCE, preview_hz=preview_hz)
        self.core = ImagingCore(
            ImagingSettings(**{f: getattr(defaults, f) for f in defaults.__struct_fields__} | settings),
            self.microscope,
            self.rois,
            day1,
        )
        self.rng = np.random.default_rng(1)
        self.index = 0
        self.messages = []

    def image(self, shift=(0, 0), plane=None, light=None):
        plane = self.index % self.planes if plane is None else plane
        image = seen(self.fields[plane], *shift)
        return self.rng.poisson(image * (self.light if light is None else light)).astype(np.uint16)

    def show(self, image, inverted=None):
        """One frame; its traces, or None."""
        inverted = self.inverted if inverted is None else inverted
        if inverted and image.dtype == np.uint16:
            image = 65535 - image
        frame = Frame(
            np.array(image, order=self.order), inverted, self.index, self.index % self.planes,
            self.index / self.microscope.rate_hz, 1000 * self.index,
        )  # fmt: skip
        self.index += 1
        new = list(self.core.step(frame))
        self.messages += new
        traces = [m for m in new if isinstance(m, Traces)]
        assert len(traces) <= 1
        assert not traces or new.index(traces[0]) <= sum(isinstance(m, Alarm) for m in new)
        return traces[0] if traces else None

    def take(self, n, **how):
        return [self.show(self.image(**how)) for _ in range(n)]

    def build(self):
        """Frames until the references are there."""
        self.take(N_REFERENCE * self.planes)
        assert self.core.references
        return self

    def of(self, kind):
        return [m for m in self.messages if isinstance(m, kind)]

    @property
    def alarms(self):
        return [(a.code, a.active) for a in self.of(Alarm)]


def misread(image):
    """A column-major buffer taken for a row-major one of the same size."""
    return image.T.reshape(-1).reshape(image.shape)


# ---------------------------------------------------------------- the reference


def test_traces_are_valid_once_the_reference_is_there(fields):
    m = Microscopist(fields)
    before = m.take(N_REFERENCE)
    assert not any(t.valid for t in before)
    assert all(from_f32(t.f).min() > 0 for t in before)
    after = m.take(20)
    assert all(t.valid for t in after)
    assert [t.cause.frame for t in before + after] == list(range(N_REFERENCE + 20))
    assert m.core.counters()["frames_processed"] == N_REFERENCE + 20
    assert m.core.counters()["frames_invalid"] == N_REFERENCE


def test_it_says_how_far_the_reference_is(fields):
    m = Microscopist(fields, planes=2)
    m.take(50)
    assert m.core.why_not_ready() == [f"reference: plane {k}: 25 of {N_REFERENCE} frames" for k in (0, 1)]
    m.take(2 * N_REFERENCE - 50)
    assert m.core.why_not_ready() == []


def test_no_roi_set_is_named_as_a_reason(fields):
    m = Microscopist(fields, rois=False)
    assert "no ROI set named" in m.core.why_not_ready()[0]
    assert m.show(m.image()).f == b""


def test_motion_does_not_blur_the_reference(fields):
    m = Microscopist(fields, light=5)
    rng = np.random.default_rng(3)
    for _ in range(N_REFERENCE):
        m.show(m.image(shift=tuple(rng.integers(-4, 5, 2))))
    sharp, built = seen(fields[0]), m.core.references[0].image
    inner = (slice(20, -20), slice(20, -20))
    plain = np.mean([seen(fields[0], *shift) for shift in rng.integers(-4, 5, (N_REFERENCE, 2))], axis=0)
    assert built[inner].std() > 0.9 * 5 * sharp[inner].std() > 1.1 * 5 * plain[inner].std()


def test_rois_are_published_with_the_references_of_all_planes(fields):
    m = Microscopist(fields, planes=2).build()
    before, (message,) = m.core.rois_message(), m.of(Rois)
    assert (message.height, message.width, message.set_id) == (*SHAPE, before.set_id)
    assert [p.plane for p in message.planes] == [0, 1]
    for k, buffer in enumerate(message.buffers):
        image = np.frombuffer(buffer, "<f4").reshape(SHAPE)
        assert np.corrcoef(image.ravel(), seen(fields[k]).ravel())[0, 1] > 0.9
    rows = from_i32(message.planes[1].rows)
    np.testing.assert_array_equal(rows, m.rois[1].rows)


def test_a_reference_that_is_read_in_the_wrong_order_is_refused(fields):
    m = Microscopist(fields)
    for _ in range(N_REFERENCE):
        m.show(misread(m.image()))
    (alarm,) = m.of(Alarm)
    assert (alarm.code, alarm.active) == ("image-mismatch", True)
    assert "neighbouring lines are alike every 200 px in memory, expected 260 (200 x 260)" in alarm.detail
    assert "pixel order" in alarm.detail
    assert "the last one was refused" in m.core.why_not_ready()[0]
    m.take(N_REFERENCE)  # the sender is put right
    assert m.alarms == [("image-mismatch", True), ("image-mismatch", False)]
    assert m.show(m.image()).valid


def test_a_reference_with_the_wrong_line_length_is_refused(fields):
    """The microscope sends lines of 256 px, the rig file says 260."""
    m = Microscopist(fields)
    for _ in range(N_REFERENCE):
        m.show(np.resize(m.image()[:, :256], SHAPE))
    (alarm,) = m.of(Alarm)
    assert "alike every 256 px in memory, expected 260 (200 x 260): the frame size is wrong" in alarm.detail


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("light", [5, 0.2])
def test_a_reference_that_is_read_rightly_is_not_refused(fields, order, light):
    assert Microscopist(fields, order=order, light=light).build().alarms == []


def test_frames_that_slide_through_the_stream_give_no_reference(fields):
    m = Microscopist(fields)
    for k in range(N_REFERENCE):
        m.show(np.roll(m.image().ravel(), 977 * k).reshape(SHAPE))
    (alarm,) = m.of(Alarm)
    assert "turned upside down, expected a clear difference" in alarm.detail


def test_darkness_gives_no_reference(fields):
    m = Microscopist(fields)
    m.take(N_REFERENCE, light=0)
    assert m.alarms == [("image-mismatch", True)]
    m.take(N_REFERENCE)
    assert m.alarms == [("image-mismatch", True), ("image-mismatch", False)]


def test_references_survive_a_file_and_a_successor_goes_on_with_them(fields, tmp_path):
    m = Microscopist(fields, planes=2).build()
    path = tmp_path / "references.npz"
    save_references(path, m.core.new_references())
    assert m.core.new_references() == {}
    successor = Microscopist(fields, planes=2)
    successor.index = m.index
    (message,) = successor.core.take_references(load_references(path))
    assert len(message.buffers) == 2
    assert successor.core.why_not_ready() == []
    image = m.image(shift=(2, 3))
    ours, theirs = m.show(image), successor.show(image)
    assert theirs.valid
    assert theirs == ours


def test_references_that_do_not_fit_are_refused(fields, tmp_path):
    m = Microscopist(fields)
    with pytest.raises(ValueError, match=r"plane 0: reference of \(3, 4\), expected \(200, 260\)"):
        list(m.core.take_references({0: Reference(np.zeros((3, 4), np.float32))}))
    with pytest.raises(ValueError, match=r"references of planes \[1\], expected 0 to 0"):
        list(m.core.take_references({1: Reference(np.zeros(SHAPE, np.float32))}))
    path = tmp_path / "references.npz"
    save_references(path, {0: Reference(np.zeros(SHAPE, np.float32))})
    whole = path.read_bytes()
    for damaged in (whole[:1000], b"", b"PK\x03\x04" + whole[4:300], b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"references\.npz"):
            load_references(path)


# ---------------------------------------------------------------- is it the right image?


@pytest.mark.parametrize("light", [1, 0.2])
def test_motion_and_noise_raise_no_alarm(fields, light):
    m = Microscopist(fields, light=light).build()
    rng = np.random.default_rng(9)
    for shift in [(8, 8), (-8, 8), (8, -8), (-8, -8), *rng.integers(-8, 9, (200, 2)).tolist()]:
        traces = m.show(m.image(shift=tuple(shift)))
        assert traces.valid
        assert (traces.shift_y_px, traces.shift_x_px) == pytest.approx(shift, abs=1.5)
    assert m.alarms == []


def test_full_size_frames_of_a_tenth_of_a_photon_raise_no_alarm():
    m = Microscopist([simulated_field(np.random.default_rng(4), (592, 876))], light=0.1).build()
    rng = np.random.default_rng(9)
    assert all(m.show(m.image(shift=tuple(s))).valid for s in rng.integers(-8, 9, (60, 2)))
    m.take(60, light=0.04)
    assert m.alarms == []
    assert not any(m.show(misread(m.image())).valid for _ in range(30))
    assert m.alarms == [("image-mismatch", True)]


@pytest.mark.parametrize("light", [1, 0.2])
def test_a_misread_image_is_not_valid_from_its_first_frame_on(fields, light):
    m = Microscopist(fields, light=light).build()
    m.core.in_session = True
    bad = [m.show(misread(m.image())) for _ in range(20)]
    assert not any(t.valid for t in bad)
    (alarm,) = m.of(Alarm)
    assert (alarm.code, alarm.active) == ("image-mismatch", True)
    assert alarm.cause is None
    assert "wrong frame size or pixel order" in alarm.detail
    assert "200 x 260 uint16, row-major" in alarm.detail
    assert alarm.detail.startswith(f"plane 0, frame {N_REFERENCE + 7}: 8 frames")
    good = m.take(20)
    assert [t.valid for t in good] == [False] * 7 + [True] * 13
    assert m.alarms == [("image-mismatch", True), ("image-mismatch", False)]


@pytest.mark.parametrize("what", ["flat", "upside down", "other field", "inverted"])
def test_other_images_raise_the_alarm(fields, what):
    m = Microscopist(fields).build()
    m.core.in_session = True
    for _ in range(20):
        image = m.image(plane=1 if what == "other field" else 0)
        if what == "flat":
            image = m.rng.poisson(np.ones(SHAPE)).astype(np.uint16)
        if what == "upside down":
            image = image[::-1]
        assert not m.show(65535 - image if what == "inverted" else image, inverted=False).valid
    assert m.alarms == [("image-mismatch", True)]


def test_a_single_bad_frame_is_not_valid_and_raises_no_alarm(fields):
    m = Microscopist(fields).build()
    valid = [m.show(misread(m.image()) if k % 5 == 2 else m.image()).valid for k in range(20)]
    assert valid == [k % 5 != 2 for k in range(20)]
    assert m.alarms == []


def test_a_limit_in_the_rig_file_stands_instead_of_the_learned_one(fields):
    m = Microscopist(fields, quality_limit=0).build()
    assert all(m.show(misread(m.image())).valid for _ in range(20))
    strict = Microscopist(fields, light=0.2, quality_limit=0.99)
    strict.take(N_REFERENCE)
    assert not any(t.valid for t in strict.take(20))


def test_planes_that_change_places_are_told_apart(fields):
    m = Microscopist(fields, planes=2).build()
    m.core.in_session = True
    assert all(t.valid for t in m.take(20))
    swapped = [m.show(m.image(plane=1 - m.index % 2)) for _ in range(40)]
    assert not any(t.valid for t in swapped)
    assert set(m.alarms) == {("wrong-plane", True)}
    assert "changed places" in m.of(Alarm)[0].detail
    assert len(m.core.why_not_ready()) == 2
    assert [t.valid for t in m.take(60)][-30:] == [True] * 30
    assert m.alarms[-1] == ("wrong-plane", False)
    assert m.core.why_not_ready() == []


def test_planes_that_look_alike_are_not_confused(fields):
    m = Microscopist([fields[0], fields[0]], planes=2).build()
    assert all(t.valid for t in m.take(60))


def test_between_sessions_a_new_field_gets_a_new_reference(fields):
    m = Microscopist(fields).build()
    m.take(8, plane=1)
    assert "reference: plane 0: 0 of 64 frames" in m.core.why_not_ready()[0]
    m.take(N_REFERENCE, plane=1)
    assert m.alarms == [("image-mismatch", True), ("image-mismatch", False)]
    assert m.show(m.image(plane=1)).valid
    assert m.core.new_references()


def test_in_a_session_the_reference_stays(fields):
    m = Microscopist(fields).build()
    m.core.in_session = True
    m.take(2 * N_REFERENCE, plane=1)
    assert m.alarms == [("image-mismatch", True)]
    assert [t.valid for t in m.take(8)] == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.zeros((200, 259), np.uint16), "image of 200 x 259 px, expected 200 x 260"),
        (np.zeros((260, 200), np.uint16), "image of 260 x 200 px"),
        (np.zeros(SHAPE, complex), "complex128 pixels, expected whole numbers or floats"),
    ],
)
def test_a_frame_of_another_form_is_counted_and_told(fields, image, why):
    m = Microscopist(fields).build()
    assert m.show(image) is None
    assert why in m.of(Alarm)[0].detail
    assert m.show(m.image()).valid
    assert m.alarms == [("image-mismatch", True), ("image-mismatch", False)]
    assert m.core.counters()["frames_invalid"] == N_REFERENCE + 1


def test_a_frame_of_a_plane_that_is_not_there_is_told(fields):
    m = Microscopist(fields)
    list(m.core.step(Frame(m.image(), False, 0, 0, 0.0, 0)))
    (alarm,) = m.core.step(Frame(m.image(), False, 1, 1, 0.1, 0))
    assert "plane 1, expected 0 to 0" in alarm.detail


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_not_valid_and_do_not_stop_it(fields, value):
    m = Microscopist(fields, preview_hz=100).build()
    image = m.image().astype(np.float32)
    image[100, 130] = value
    assert not m.show(image).valid
    assert m.show(m.image()).valid


# ---------------------------------------------------------------- traces


@pytest.mark.parametrize(("order", "inverted"), [("F", False), ("C", True), ("F", True)])
def test_order_and_inversion_make_no_difference(fields, order, inverted):
    one, other = Microscopist(fields), Microscopist(fields, order=order, inverted=inverted)
    rng = np.random.default_rng(2)
    for shift in rng.integers(-3, 4, (N_REFERENCE + 30, 2)):
        image = one.image(shift=tuple(shift))
        a, b = one.show(image), other.show(image)
        assert a.valid == b.valid
        np.testing.assert_allclose(from_f32(b.f), from_f32(a.f), rtol=1e-6)
        assert (b.shift_y_px, b.shift_x_px, b.quality) == pytest.approx(
            (a.shift_y_px, a.shift_x_px, a.quality), abs=0.02
        )
    np.testing.assert_allclose(other.core.references[0].image, one.core.references[0].image, rtol=1e-5)


def test_traces_follow_the_roi_when_the_image_moves(fields):
    m = Microscopist(fields, light=20).build()
    still = from_f32(m.show(np.round(20 * seen(fields[0])).astype(np.uint16)).f)
    moved = from_f32(m.show(np.round(20 * seen(fields[0], 6, -7)).astype(np.uint16)).f)
    np.testing.assert_allclose(moved, still, rtol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
def test_without_registration_traces_are_the_offline_mean_from_the_first_frame(fields, order):
    m = Microscopist(fields, registration=False, order=order)
    for shift in ((0, 0), (5, 5), (-8, 3)):
        image = m.image(shift=shift)
        traces = m.show(image)
        assert (traces.valid, traces.shift_y_px, traces.shift_x_px, traces.quality) == (True, 0, 0, 1)
        want = [
            image[r, c].mean() for r, c in zip(*(np.split(v, 5) for v in (m.rois[0].rows, m.rois[0].cols)), strict=True)
        ]
        np.testing.assert_allclose(from_f32(traces.f), want, rtol=1e-6)
    assert m.core.why_not_ready() == []


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_frames_of_other_types_are_taken(fields, dtype):
    m = Microscopist(fields, raw="bus")
    for _ in range(N_REFERENCE):
        m.show(m.image().astype(dtype))
    assert m.show(m.image().astype(dtype)).valid
    assert m.alarms == ([] if dtype == "u1" else [("raw-dtype", True)])
    assert len(m.of(Raw)) == (N_REFERENCE + 1 if dtype == "u1" else 0)


def test_the_snapshot_is_what_decoding_takes_over(fields):
    m = Microscopist(fields, planes=2).build()
    n = round(30 * 15.46) + 2
    sent = [t for t in m.take(2 * n + 40) if t.plane == 0]
    found = read_snapshot(m.core.snapshot())
    assert len(found) == n
    assert [(t.cause.frame, t.cause.time_s, t.f) for t in found] == [
        (t.cause.frame, t.cause.time_s, t.f) for t in sent[-n:]
    ]
    plain = msgpack.unpackb(m.core.snapshot())
    assert sorted(plain) == ["f", "frames", "n_rois", "plane", "times_s"]
    assert (plain["plane"], plain["n_rois"], len(plain["f"])) == (0, 5, n * 5 * 4)
    m.core.forget_recent()
    assert read_snapshot(m.core.snapshot()) == []


def test_frames_that_are_not_valid_are_not_handed_on(fields):
    m = Microscopist(fields).build()
    m.show(misread(m.image()))
    m.show(m.image())
    assert [t.cause.frame for t in read_snapshot(m.core.snapshot())] == [N_REFERENCE + 1]


# ---------------------------------------------------------------- pictures


def test_previews_come_at_their_rate_by_frame_time_and_show_both_planes(fields):
    m = Microscopist(fields, planes=2, preview_hz=5.0)
    m.take(310)  # 10 s
    previews = m.of(Preview)
    times = [p.cause.time_s for p in previews]
    assert 40 <= len(previews) <= 50
    assert {p.plane for p in previews} == {0, 1}
    for plane in (0, 1):
        own = [t for p, t in zip(previews, times, strict=True) if p.plane == plane]
        assert np.diff(own).min() >= 0.4 - 1e-9


@pytest.mark.parametrize(("order", "inverted"), [("C", False), ("F", True)])
def test_a_preview_is_registered_and_scaled(fields, order, inverted):
    m = Microscopist(fields, light=20, preview_hz=100, order=order, inverted=inverted).build()
    m.show(m.image(shift=(6, -5)))
    preview = m.of(Preview)[-1]
    picture = np.frombuffer(preview.buffers[0], np.uint8).reshape(preview.height, preview.width)
    want = np.clip((20 * seen(fields[0]) - preview.low) / (preview.high - preview.low), 0, 1)
    inner = (slice(10, -10), slice(10, -10))
    assert np.corrcoef(picture[inner].ravel(), want[inner].ravel())[0, 1] > 0.9
    assert (picture[-6:] == 0).all()
    assert picture[10:-10, 10:-10].max() == 255


@pytest.mark.parametrize(("order", "inverted"), [("C", False), ("F", True)])
def test_raw_frames_hold_the_real_counts_in_c_order(fields, order, inverted):
    m = Microscopist(fields, raw="bus", order=order, inverted=inverted)
    image = m.image()
    m.show(image)
    (raw,) = m.of(Raw)
    np.testing.assert_array_equal(np.frombuffer(raw.buffers[0], raw.dtype).reshape(raw.height, raw.width), image)
    assert raw.cause.frame == 0


# ---------------------------------------------------------------- day 1


def test_rois_follow_the_field_of_day_1(fields):
    day1 = {0: seen(fields[0]).astype(np.float32)}
    m = Microscopist([np.roll(fields[0], (9, -6), (0, 1))], light=20, day1=day1).build()
    (message,) = m.of(Rois)
    assert message.match_to_day1 > 0.8
    (images,) = m.of(Day1Images)
    assert images.match == [message.match_to_day1]
    assert (images.offset_y_px[0], images.offset_x_px[0]) == pytest.approx((9, -6), abs=0.3)
    over = np.frombuffer(images.buffers[0], np.uint8).reshape(images.height, images.width)
    reference = np.frombuffer(message.buffers[0], "<f4").reshape(over.shape)
    assert np.corrcoef(over[10:, :-10].ravel(), reference[10:, :-10].ravel())[0, 1] > 0.9
    np.testing.assert_array_equal(from_i32(message.planes[0].rows), m.rois[0].rows + 9)
    np.testing.assert_array_equal(from_i32(message.planes[0].cols), m.rois[0].cols - 6)
    plain = Microscopist(fields, light=20).build()
    image = np.round(20 * seen(fields[0])).astype(np.uint16)
    today = np.round(20 * seen(m.fields[0])).astype(np.uint16)
    np.testing.assert_allclose(from_f32(m.show(today).f), from_f32(plain.show(image).f), rtol=1e-6)


def test_a_session_on_a_turned_field_sees_what_day_1_saw(fields):
    """Through the whole core: reference, rotation, ROIs carried over, frames that move on top of it."""
    turned = ndimage.rotate(fields[0], 1.5, reshape=False, order=3, mode="reflect")
    inner = discs(np.random.default_rng(0), 5, (SHAPE[0] - 40, SHAPE[1] - 40)).moved(20, 20, SHAPE)
    m = Microscopist([turned], light=20, day1={0: seen(fields[0]).astype(np.float32)}, rois={0: inner}).build()
    plain = Microscopist(fields, light=20, rois={0: inner}).build()
    was = from_f32(plain.show(np.round(20 * seen(fields[0])).astype(np.uint16)).f)
    for shift in ((0, 0), (3, -2)):
        now = m.show(np.round(20 * seen(turned, *shift)).astype(np.uint16))
        assert now.valid
        np.testing.assert_allclose(from_f32(now.f), was, rtol=0.08)
    gauges = m.core.gauges()
    assert gauges["rotation_deg_plane0"] == pytest.approx(1.5, abs=0.15)
    assert gauges["match_to_day1_plane0"] > 0.8
    assert 0.9 < gauges["roi_kept_plane0"] < 1.1


def test_the_share_of_a_roi_that_the_border_cuts_is_told(fields):
    rows, cols = np.arange(160, 200, dtype=np.int32), np.full(40, 90, np.int32)
    strip = RoiSet(["strip"], np.array([40], np.int32), rows, cols)
    day1 = {0: seen(fields[0], -20, 0).astype(np.float32)}
    m = Microscopist(fields, light=20, day1=day1, rois={0: strip}).build()
    assert m.core.gauges()["roi_kept_plane0"] == 0.5


def test_another_field_than_on_day_1_is_refused(fields):
    m = Microscopist(fields, day1={0: seen(fields[1]).astype(np.float32)})
    m.take(N_REFERENCE)
    assert "find the field of view of day 1 again" in m.of(Alarm)[0].detail
    assert "find the field of view" in m.core.why_not_ready()[0]


def test_planes_exchanged_since_day_1_are_refused(fields):
    day1 = {k: seen(fields[1 - k]).astype(np.float32) for k in (0, 1)}
    m = Microscopist(fields, planes=2, day1=day1)
    m.take(2 * N_REFERENCE)
    assert "matches the day-1 reference of plane 1" in m.of(Alarm)[0].detail
    assert not m.core.references


def test_a_square_image_with_rows_and_columns_exchanged_is_told_by_day_1(fields):
    square = fields[0][:280, :280]
    m = Microscopist([square], day1={0: np.ascontiguousarray(seen(square).T, np.float32)})
    m.take(N_REFERENCE)
    assert "rows and columns exchanged" in m.of(Alarm)[0].detail


def test_a_roi_that_left_the_field_since_day_1_is_named(fields):
    day1 = {0: seen(fields[0], 30, 0).astype(np.float32)}
    m = Microscopist(fields, day1=day1)
    m.rois[0].rows[: m.rois[0].lengths[0]] = 5
    m.take(N_REFERENCE)
    assert "ROIs 0 lie outside the image when moved by -30 rows" in m.of(Alarm)[0].detail


# ---------------------------------------------------------------- real recordings


@pytest.mark.real
def test_a_real_movie_gives_its_offline_traces_and_no_alarm(recordings):
    folder = recordings / "movie_neurofinder"
    with h5py.File(folder / "neurofinder_A_600x160x160.h5") as file:
        movie = file["data"][:]
    rois = read_rois(RoiFile("neurofinder_A_regions.json"), folder, (160, 160))
    core = ImagingCore(ImagingSettings(preview_hz=0), Microscope(160, 160, 1, 7.5), {0: rois})
    messages = [m for k, f in enumerate(movie) for m in core.step(Frame(f, False, k, 0, k / 7.5, 0))]
    assert not [m for m in messages if isinstance(m, Alarm)]
    traces = [m for m in messages if isinstance(m, Traces)]
    assert [t.valid for t in traces] == [False] * 300 + [True] * 300
    starts = np.cumsum(rois.lengths) - rois.lengths
    for frame, one in zip(movie[300:], traces[300:], strict=True):
        rows = rois.rows + round(one.shift_y_px)
        cols = rois.cols + round(one.shift_x_px)
        if rows.min() >= 0 and cols.min() >= 0 and rows.max() < 160 and cols.max() < 160:
            offline = np.add.reduceat(frame[rows, cols], starts, dtype=float) / rois.lengths
            np.testing.assert_allclose(from_f32(one.f), offline, rtol=1e-6)
    # the movie was registered upstream
    assert np.abs([(t.shift_y_px, t.shift_x_px) for t in traces[300:]]).max() < 2
    core.in_session = True
    for k, frame in enumerate(movie[:20]):
        traces, *_ = [m for m in core.step(Frame(frame.T, False, k, 0, 0.0, 0)) if isinstance(m, Traces)]
        assert not traces.valid


@pytest.mark.real
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_raw_movie_with_a_shutter_ramp_and_drift_raises_no_alarm(recordings, order):
    with h5py.File(recordings / "bruker_calscipy" / "EM0121_99x192x192.h5") as file:
        movie = file["data"][:]
    core = ImagingCore(ImagingSettings(reference_frames=48), Microscope(192, 192, 1, 30), {})
    messages = [
        m for k, f in enumerate(movie) for m in core.step(Frame(np.array(f, order=order), False, k, 0, k / 30, 0))
    ]
    assert not [m for m in messages if isinstance(m, Alarm)]
    assert [t.valid for t in messages if isinstance(t, Traces)] == [False] * 48 + [True] * 51


@pytest.mark.real
def test_a_real_movie_with_the_wrong_line_length_is_refused(recordings):
    movie = np.load(recordings / "movie_thunder_mouse" / "mouse_500x64x64.npy")
    core = ImagingCore(ImagingSettings(reference_frames=48), Microscope(64, 60, 1, 7), {})
    messages = [
        m for k, f in enumerate(movie[:48]) for m in core.step(Frame(np.resize(f, (64, 60)), False, k, 0, k / 7, 0))
    ]
    (alarm,) = [m for m in messages if isinstance(m, Alarm)]
    assert "alike every 64 px in memory, expected 60" in alarm.detail
