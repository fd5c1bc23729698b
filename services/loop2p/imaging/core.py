"""Frames in, F per ROI out: registration, the check of the image, ROI means, preview. No I/O, no clock."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from loop2p.imaging.day1 import Day1, compare_with_day1, on_today, placed
from loop2p.imaging.extraction import Extractor, Method
from loop2p.imaging.frame import Frame
from loop2p.imaging.reference import (
    DISTINCT,
    Reference,
    ReferenceBuilder,
    ReferenceRefused,
    ceiling,
    overlap,
)
from loop2p.imaging.registration import AREA_PX, NO_MATCH, Match, Registrar, Spectra, Template, is_column_major
from loop2p.imaging.rois import RoiSet, set_id
from loop2p.protocol import PROXIMAL, Alarm, Cause, Day1Images, Message, Microscope, Preview, Raw, Rois, Traces, f32

SNAPSHOT_S = 30.0
"""The window of F0 (docs/experiment.md 2.3), which a decoding successor needs."""
MATCH_LIMIT = 0.4
"""Of today's reference against day 1's: between 0.56, the lowest that was measured for the same field, and 0.27, the
highest for another (`day1.SURROUND_PX`). What a real field keeps from one day to the next was not measured: set it by
the first days of your own."""
UNREGISTERED = Match(0.0, 0.0, 1.0)


class ImagingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How frames become traces; part of imaging's options in the rig file."""

    registration: bool = True
    """False: shift 0, quality 1, no reference is waited for and the image is not checked."""
    reference_frames: Annotated[int, Meta(ge=40)] = 300
    """Of each plane. 300-600 in the paper (docs/experiment.md 2.8), 20-40 s at 15.46 Hz."""
    area_px: tuple[Annotated[int, Meta(ge=16)], Annotated[int, Meta(ge=16)]] = AREA_PX
    """Rows and columns of each of the four areas; smaller where the image is."""
    extraction: Method = "nearest"
    """Shift rounded to whole pixels, or "bilinear"."""
    alarm_after: Annotated[int, Meta(ge=1)] = 8
    """So many bad frames of a plane in a row raise the alarm, so many good ones end it: 0.5 s at 15.46 Hz."""
    quality_limit: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Frames of less quality are not valid. Default: learned from each reference. 0: only another plane's are not."""
    match_limit: Annotated[float, Meta(ge=0, le=1)] = MATCH_LIMIT
    """A later day's reference that matches day 1's less is refused: another field, or another depth."""
    check_lines: bool = True
    """Refuse a reference whose lines seem to have another length than the rig file says."""
    gated_lines: Annotated[int, Meta(ge=0)] = 0
    """So many lines at the start of each frame are dark, as the detectors are gated while the LED is on: left out of
    registration and ROIs. The paper's NDNF sessions: 7 ms of 32.3, 111 of 512 lines (docs/experiment.md 4.5)."""
    preview_hz: Annotated[float, Meta(ge=0)] = 5.0
    """Preview images per second of frame time, all planes together; 0: none."""
    raw: Literal["off", "bus", "local"] = "off"
    """Every frame's pixels: published ("bus"), or written by this machine into the run folder ("local")."""


class _Plane(Struct):
    """What is known of one plane."""

    rois: RoiSet | None
    """As read from the file."""
    extractor: Extractor | None = None
    builder: ReferenceBuilder | None = None
    reference: Reference | None = None
    template: Template | None = None
    rest: tuple[float, float] = (0.0, 0.0)
    """What whole pixels leave of the offset to day 1; added to every shift."""
    placed: RoiSet | None = None
    """On today's reference."""
    on_day1: Day1 | None = None
    """Where today's reference lies on day 1's."""
    refused: str = ""
    """Why the last reference was refused."""
    form: str = ""
    """What the reference's frames looked like."""
    bad: int = 0
    good: int = 0
    alarmed: str = ""
    """Code of the alarm that this plane is in."""
    last: Match = NO_MATCH
    preview_due_s: float = float("-inf")
    levels: tuple[float, float] | None = None


class Recent(Struct):
    """What a decoding successor needs: valid frames of the proximal plane, oldest first."""

    plane: int
    n_rois: int
    frames: list[int]
    times_s: list[float]
    f: bytes
    """(n_frames, n_rois) float32, little-endian, C order."""


class ImagingCore:
    """One frame after another -> messages. Each plane has its own reference and ROIs.

    `day1`: references of day 1 by plane, on which the ROIs were drawn; without, the ROIs are taken to lie on today's.
    `in_session` is set from outside: while no session runs, an image that no longer matches gets a new reference.
    Frames may be of any real dtype and either memory order. Bad frames never raise; they are counted and not valid.
    """

    def __init__(
        self,
        settings: ImagingSettings,
        microscope: Microscope,
        rois: Mapping[int, RoiSet],
        day1: Mapping[int, NDArray[np.float32]] | None = None,
    ) -> None:
        """Raises ValueError if the image is too small to be registered."""
        self.settings, self.microscope = settings, microscope
        self.shape = (microscope.height, microscope.width)
        self.rois = dict(rois)
        self.day1 = dict(day1 or {})
        self.set_id = set_id(self.rois)
        self.in_session = False
        self.registrar = self._registrar() if settings.registration else None
        self.planes = [_Plane(self.rois.get(k)) for k in range(microscope.planes)]
        for plane in self.planes:
            if plane.rois:
                plane.placed, plane.extractor = plane.rois, self._extractor(plane.rois)
            self._begin(plane)
        self.n_received = self.n_processed = self.n_invalid = 0
        self._troubles: dict[str, dict[str, str]] = {}
        """Alarm code -> what it is about -> detail."""
        n = round(SNAPSHOT_S * microscope.plane_rate_hz) + 2
        self._recent: deque[tuple[int, float, bytes]] = deque(maxlen=n)
        self._references_changed = False
        self._last_frame: Frame | None = None
        """For rehearsals alone: its pixels may be half overwritten."""

    def _registrar(self) -> Registrar:
        return Registrar(self.shape, self.settings.area_px, gated_lines=self.settings.gated_lines)

    def _extractor(self, rois: RoiSet) -> Extractor:
        return Extractor(rois, self.shape, self.settings.extraction, self.settings.gated_lines)

    # ---------------------------------------------------------------- frames

    def step(self, frame: Frame) -> Iterator[Message]:
        """Take a frame. Traces come first, so that nothing delays them. Consume it before the next frame is taken."""
        self.n_received += 1
        cause = Cause(max(0, frame.index), max(0, frame.plane), frame.time_s, frame.arrival_ns)
        wrong = self._wrong_form(frame)
        yield from self._trouble("image-mismatch", "form", wrong)
        if wrong:
            self.n_invalid += 1
            return
        plane, self._last_frame = self.planes[frame.plane], frame
        pixels, inverted = frame.pixels, frame.inverted
        spectra = self.registrar.spectra(pixels, inverted) if self.registrar else None
        if not spectra:
            match, verdict = UNREGISTERED, ""
        elif plane.template and plane.reference:
            match = plane.template.match(spectra)
            verdict = self._verdict(frame.plane, match, spectra)
        else:
            match, verdict = NO_MATCH, "no reference"
        plane.last = match
        f = b""
        finite = True
        if plane.extractor:
            y, x = plane.rest
            means = plane.extractor.means(pixels, inverted, match.shift_y_px + y, match.shift_x_px + x)
            finite, f = bool(np.isfinite(means).all()), f32(means)
        waiting = plane.alarmed and not (not verdict and plane.good + 1 >= self.settings.alarm_after)
        valid = finite and not verdict and not waiting
        yield Traces(
            cause=cause,
            plane=frame.plane,
            f=f,
            shift_y_px=match.shift_y_px,
            shift_x_px=match.shift_x_px,
            quality=match.quality,
            valid=valid,
        )
        self.n_processed += 1
        if not valid:
            self.n_invalid += 1
        elif frame.plane == PROXIMAL and plane.extractor:
            self._recent.append((frame.index, frame.time_s, f))
        if plane.template:
            yield from self._watch(frame, plane, match, verdict)
        elif plane.builder:
            yield from self._build(frame, plane, spectra)
        yield from self._preview(frame, plane, match, cause)
        if self.settings.raw == "bus":
            yield from self._raw(frame, cause)

    def rehearse(self) -> None:
        """Work through the last frame once more, for nothing but warm caches before the next one."""
        frame = self._last_frame
        if frame is None or self.registrar is None:
            return
        spectra, plane = self.registrar.spectra(frame.pixels, frame.inverted), self.planes[frame.plane]
        if plane.template:
            plane.template.match(spectra)
        if plane.extractor:
            plane.extractor.means(frame.pixels, frame.inverted, 0.0, 0.0)

    def _wrong_form(self, frame: Frame) -> str:
        """What makes a frame none of this rig's, or nothing."""
        found, place = frame.pixels, f"frame {frame.index}"
        if found.shape != self.shape:
            size = " x ".join(map(str, found.shape))
            return f"{place}: image of {size} px, expected {self.shape[0]} x {self.shape[1]} (rig file, microscope)"
        if found.dtype.kind not in "uif":
            return f"{place}: {found.dtype} pixels, expected whole numbers or floats"
        if not 0 <= frame.plane < len(self.planes):
            return f"{place}: plane {frame.plane}, expected 0 to {len(self.planes) - 1} (rig file, microscope.planes)"
        return ""

    # ---------------------------------------------------------------- is it the right image?

    def _verdict(self, k: int, match: Match, spectra: Spectra) -> str:
        """The alarm code of what is wrong with a frame, or nothing."""
        reference = self.planes[k].reference
        assert reference
        if match.quality >= max(reference.expected, reference.limit):
            return ""
        for other, plane in enumerate(self.planes):
            if other != k and plane.template and plane.reference:
                theirs = plane.template.match(spectra).quality
                if theirs > max(DISTINCT * match.quality, plane.reference.limit):
                    return "wrong-plane"
        return "" if match.quality >= reference.limit else "image-mismatch"

    def _watch(self, frame: Frame, plane: _Plane, match: Match, verdict: str) -> Iterator[Message]:
        """Alarms by hysteresis: so many bad frames in a row raise one, so many good ones end it."""
        reference, after = plane.reference, self.settings.alarm_after
        assert reference
        if verdict:
            plane.bad, plane.good = plane.bad + 1, 0
        else:
            plane.bad, plane.good = 0, plane.good + 1
        place = f"plane {frame.plane}"
        if plane.alarmed and plane.good >= after:
            code, plane.alarmed = plane.alarmed, ""
            yield from self._trouble(code, place, "")
        elif not plane.alarmed and plane.bad >= after:
            plane.alarmed = verdict
            quality = (
                f"{place}, frame {frame.index}: {plane.bad} frames match the reference with quality "
                f"{match.quality:.3f}, expected at least {reference.limit:.3f} (its own: {reference.expected:.3f})"
            )
            if verdict == "wrong-plane":
                detail = (
                    f"{quality}, and match another plane's better: the planes have changed places; did the microscope "
                    "lose a frame? Start its stream again"
                )
            else:
                detail = (
                    f"{quality}: wrong frame size or pixel order, another plane or field of view, or no light. "
                    f"Expected {plane.form or self._form(frame.pixels)}, found {self._form(frame.pixels)}"
                )
            yield from self._trouble(verdict, place, detail)
            if verdict == "image-mismatch" and not self.in_session:
                self._begin(plane)

    def _form(self, pixels: NDArray[Any]) -> str:
        order = "column" if is_column_major(pixels) else "row"
        return f"{pixels.shape[0]} x {pixels.shape[1]} {pixels.dtype.name}, {order}-major"

    def _trouble(self, code: str, what: str, detail: str) -> Iterator[Alarm]:
        """Note what is wrong, or that it no longer is; the alarm if that is news."""
        reasons = self._troubles.setdefault(code, {})
        if bool(detail) == (what in reasons):
            if detail:
                reasons[what] = detail
            return
        if detail:
            reasons[what] = detail
        else:
            del reasons[what]
        yield Alarm(code=code, active=bool(reasons), detail="; ".join(reasons.values()) or f"{what}: right again")

    # ---------------------------------------------------------------- references

    def _begin(self, plane: _Plane) -> None:
        """Build a new reference from the frames that come."""
        plane.reference = plane.template = None
        plane.bad = plane.good = 0
        s = self.settings
        plane.builder = ReferenceBuilder(self.registrar, self.shape, s.reference_frames, s.check_lines, s.quality_limit)

    def _build(self, frame: Frame, plane: _Plane, spectra: Spectra | None) -> Iterator[Message]:
        assert plane.builder
        place = f"plane {frame.plane}"
        try:
            reference = plane.builder.add(frame.pixels, frame.inverted, spectra)
            if reference is None:
                return
            self._use(frame.plane, reference)
        except ReferenceRefused as refused:
            plane.refused = str(refused)
            self._begin(plane)
            plane.alarmed = "image-mismatch"
            yield from self._trouble("image-mismatch", place, f"{place}, frame {frame.index}: {refused}")
            return
        plane.form = self._form(frame.pixels)
        yield from self._trouble("image-mismatch", place, "")
        yield from self._trouble("wrong-plane", place, "")
        yield from self._announce()

    def _use(self, k: int, reference: Reference) -> None:
        """Let a reference hold for a plane. Raises ReferenceRefused if it is not day 1's field."""
        plane = self.planes[k]
        if k in self.day1 and self.registrar:
            limit, gated = self.settings.match_limit, self.settings.gated_lines
            day1 = compare_with_day1(reference.image, k, self.day1, limit, gated)
            if plane.rois:
                try:
                    plane.placed, plane.rest = placed(plane.rois, day1, self.shape, gated)
                    plane.extractor = self._extractor(plane.placed)
                except ValueError as error:
                    raise ReferenceRefused(f"reference of plane {k}: {error}; find the field of day 1 again") from None
            plane.on_day1 = day1
        plane.reference, plane.builder = reference, None
        plane.template = self.registrar.template(reference.image) if self.registrar else None
        low, high = np.nanpercentile(reference.image, (1, 99.7))
        plane.levels = float(low), float(high)
        plane.refused = plane.alarmed = ""
        plane.bad = plane.good = 0
        self._references_changed = True

    def _announce(self) -> Iterator[Message]:
        if all(plane.reference for plane in self.planes):
            yield self.rois_message()
            yield from self._day1_images()

    @property
    def references(self) -> dict[int, Reference]:
        """By plane; empty until all are built."""
        found = {k: plane.reference for k, plane in enumerate(self.planes) if plane.reference}
        return found if len(found) == len(self.planes) else {}

    def new_references(self) -> dict[int, Reference]:
        """The references, if they have changed since this was last asked and all are there."""
        found = self.references if self._references_changed else {}
        if found:
            self._references_changed = False
        return found

    def take_references(self, references: Mapping[int, Reference]) -> Iterator[Message]:
        """Go on with a predecessor's references. Raises ValueError where they do not fit this rig."""
        if sorted(references) != list(range(len(self.planes))):
            raise ValueError(f"references of planes {sorted(references)}, expected 0 to {len(self.planes) - 1}")
        for k, reference in references.items():
            if reference.image.shape != self.shape:
                raise ValueError(f"plane {k}: reference of {reference.image.shape}, expected {self.shape}")
        for k, reference in references.items():
            self._use(k, reference)  # ReferenceRefused is a ValueError
        self._references_changed = False
        for k in references:
            yield from self._trouble("image-mismatch", f"plane {k}", "")
        yield from self._announce()

    def rois_message(self) -> Rois:
        """The ROI sets where they lie on today's references, and those references once all are there."""
        matches = [plane.on_day1.match for plane in self.planes if plane.on_day1]
        references = self.references
        return Rois(
            set_id=self.set_id,
            height=self.shape[0],
            width=self.shape[1],
            planes=[plane.placed.message(k) for k, plane in enumerate(self.planes) if plane.placed],
            match_to_day1=min(matches) if matches else None,
            buffers=tuple(references[k].image.astype("<f4").tobytes() for k in sorted(references)),
        )

    def _day1_images(self) -> Iterator[Message]:
        """Day 1's references on today's, where every plane has one."""
        lie = [plane.on_day1 for plane in self.planes if plane.on_day1]
        if len(lie) < len(self.planes):
            return
        gated = self.settings.gated_lines
        yield Day1Images(
            height=self.shape[0],
            width=self.shape[1],
            match=[one.match for one in lie],
            offset_y_px=[one.offset_y_px for one in lie],
            offset_x_px=[one.offset_x_px for one in lie],
            rotation_deg=[one.rotation_deg for one in lie],
            buffers=tuple(on_today(self.day1[k], one, gated).tobytes() for k, one in enumerate(lie)),
        )

    # ---------------------------------------------------------------- pictures

    def _preview(self, frame: Frame, plane: _Plane, match: Match, cause: Cause) -> Iterator[Message]:
        hz = self.settings.preview_hz
        if not hz or frame.time_s < plane.preview_due_s:
            return
        plane.preview_due_s = frame.time_s + len(self.planes) / hz
        top = ceiling(frame.pixels.dtype) if frame.inverted else None
        if plane.levels:
            low, high = plane.levels
        else:
            sample = frame.pixels[::4, ::4].astype(np.float32)
            low, high = (float(v) for v in np.nanpercentile(sample if top is None else top - sample, (1, 99.7)))
        if not (np.isfinite(low) and np.isfinite(high)):
            return
        yield Preview(
            cause=cause,
            plane=frame.plane,
            height=self.shape[0],
            width=self.shape[1],
            low=low,
            high=high,
            buffers=(picture(frame.pixels, top, low, high, round(match.shift_y_px), round(match.shift_x_px)),),
        )

    def _raw(self, frame: Frame, cause: Cause) -> Iterator[Message]:
        """Real counts, C order. Only unsigned 8 and 16 bit travel; others are kept by raw = "local"."""
        dtype = frame.pixels.dtype.newbyteorder("<").str
        other = dtype not in ("|u1", "<u2")
        expected = 'uint8 or uint16 for raw = "bus"; use raw = "local"'
        yield from self._trouble(
            "raw-dtype", "raw", f"raw: {frame.pixels.dtype} pixels, expected {expected}" if other else ""
        )
        if not other:
            yield Raw(
                cause=cause,
                plane=frame.plane,
                height=self.shape[0],
                width=self.shape[1],
                dtype=dtype,  # type: ignore[arg-type]
                buffers=(real_bytes(frame.pixels, frame.inverted),),
            )

    # ---------------------------------------------------------------- state

    def why_not_ready(self) -> list[str]:
        """A line for whatever must still come."""
        why = []
        if not self.rois:
            why.append('no ROI set named; add rois = [{plane = 0, path = "..."}] to imaging\'s options in the rig file')
        if self.registrar:
            for k, plane in enumerate(self.planes):
                if plane.builder:
                    last = f"; the last one was refused: {plane.refused}" if plane.refused else ""
                    why.append(f"reference: plane {k}: {plane.builder.taken} of {plane.builder.n_frames} frames{last}")
                elif plane.alarmed:
                    why.append(f"plane {k}: {self._troubles[plane.alarmed].get(f'plane {k}', plane.alarmed)}")
        return why

    def counters(self) -> dict[str, int]:
        outside = sum(plane.extractor.outside for plane in self.planes if plane.extractor)
        return {
            "frames_received": self.n_received,
            "frames_processed": self.n_processed,
            "frames_invalid": self.n_invalid,
            "rois_outside": outside,
        }

    def gauges(self) -> dict[str, float]:
        found = {}
        for k, plane in enumerate(self.planes):
            found[f"shift_y_px_plane{k}"] = plane.last.shift_y_px
            found[f"shift_x_px_plane{k}"] = plane.last.shift_x_px
            found[f"quality_plane{k}"] = plane.last.quality
            found[f"quality_limit_plane{k}"] = plane.reference.limit if plane.reference else 0.0
            if plane.on_day1:
                found[f"match_to_day1_plane{k}"] = plane.on_day1.match
                found[f"rotation_deg_plane{k}"] = plane.on_day1.rotation_deg
                found[f"offset_y_px_plane{k}"] = plane.on_day1.offset_y_px
                found[f"offset_x_px_plane{k}"] = plane.on_day1.offset_x_px
                if plane.rois and plane.placed:  # of the ROI that the border cuts most
                    found[f"roi_kept_plane{k}"] = float((plane.placed.lengths / plane.rois.lengths).min())
        return found

    def forget_recent(self) -> None:
        """A session begins: F0 begins empty, so what came before is nothing for a successor."""
        self._recent.clear()

    def snapshot(self) -> bytes:
        """The valid proximal frames of the last 30 s of this session, as MessagePack of `Recent`."""
        rois = self.rois.get(PROXIMAL)
        frames, times, values = zip(*self._recent, strict=True) if self._recent else ((), (), ())
        recent = Recent(PROXIMAL, len(rois) if rois else 0, list(frames), list(times), b"".join(values))
        return msgspec.msgpack.encode(recent)

    def warm(self) -> None:
        """Have everything imported, planned and allocated before the first frame."""
        orders: tuple[Literal["C", "F"], ...] = ("C", "F")
        for order in orders:
            pixels = np.zeros(self.shape, np.uint16, order=order)
            if self.registrar:
                self.registrar.template(pixels).match(self.registrar.spectra(pixels))
            for plane in self.planes:
                if plane.extractor:
                    plane.extractor.means(pixels, True, 0.0, 0.0)
        picture(pixels, 65535.0, 0.0, 1.0, 1, 1)


def picture(pixels: NDArray[Any], top: float | None, low: float, high: float, dy: int, dx: int) -> bytes:
    """(height, width) uint8 in C order: black at `low`, white at `high`, moved back by whole pixels.

    `top`: an inverted frame's values are taken from it.
    """
    image = np.zeros(pixels.shape, np.uint8)
    target, source = overlap((pixels.shape[0], pixels.shape[1]), dy, dx)
    scale = 255 / max(high - low, 1e-9)
    part = pixels[source].astype(np.float32)  # keeps the memory order
    if top is None:
        part -= low
    else:
        np.subtract(top - low, part, out=part)
    part *= scale
    np.clip(part, 0, 255, out=part)
    with np.errstate(invalid="ignore"):  # what is not a number may have any brightness
        image[target] = part
    return image.tobytes()


def real_bytes(pixels: NDArray[Any], inverted: bool) -> bytes:
    """The real counts of a frame: little-endian, C order."""
    real = np.empty(pixels.shape, pixels.dtype.newbyteorder("<"))
    if inverted:
        np.subtract(pixels.dtype.type(ceiling(pixels.dtype)), pixels, out=real)
    else:
        real[...] = pixels
    return real.tobytes()
