"""Planes, ROIs, reference images, fluorescence, motion and raw frames in the NWB file."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from hdmf.backends.hdf5 import H5DataIO
from hdmf.common import ElementIdentifiers, VectorData, VectorIndex
from hdmf.data_utils import DataChunkIterator
from numpy.typing import NDArray
from pynwb import NWBFile, TimeSeries
from pynwb.base import Images
from pynwb.device import Device
from pynwb.image import GrayscaleImage
from pynwb.ophys import (
    DfOverF,
    Fluorescence,
    ImageSegmentation,
    ImagingPlane,
    OpticalChannel,
    PlaneSegmentation,
    RoiResponseSeries,
    TwoPhotonSeries,
)

from loop2p.protocol import (
    DISTAL,
    PROXIMAL,
    FileError,
    Output,
    PlaneRois,
    Raw,
    Rois,
    Traces,
    WireError,
    from_f32,
    from_i32,
    parse_microscope,
)
from loop2p.recording.journal import read_journal
from loop2p.recording.nwb_parts import packed, plain, timing
from loop2p.recording.run import Run

PIXEL = np.dtype([("x", "<u4"), ("y", "<u4"), ("weight", "<f4")])
"""Of a pixel mask, as the NWB schema has it."""
PLANES = {PROXIMAL: "proximal", DISTAL: "distal"}
INDICATOR, EXCITATION_NM, EMISSION_NM = "jGCaMP7f", 980.0, 510.0
LOCATION = "Retrosplenial area"
"""Methods: jGCaMP7f at 980 nm in retrosplenial cortex; the animal file's indicator, excitation_nm and location stand
instead where it has them. 510 nm is the peak of green fluorescent protein's emission."""


def add_imaging(nwb: NWBFile, run: Run, animal: dict[str, Any]) -> None:
    """Everything imaging has published, plane by plane; the planes' times differ."""
    simulated = " (simulated)" if run.session.simulated else ""
    device = nwb.create_device(name="Microscope", description=f"Two-photon microscope{simulated}, resonant scanning")
    frames: dict[int, list[tuple[float, Traces]]] = {}
    for record, traces in run.with_headers(Traces):
        if record.header.cause is not None:
            frames.setdefault(traces.plane, []).append((record.header.cause.time_s, traces))
    rois = run.rois
    drawn = {plane.plane: plane for plane in rois.planes if _whole(plane)} if rois is not None else {}
    planes = sorted(set(frames) | set(drawn) | set(run.raw_frames))
    if not planes:
        return
    ophys = nwb.create_processing_module("ophys", "Fluorescence of the chosen ROIs, as the closed loop had it.")
    imaging_planes = {plane: _imaging_plane(nwb, run, plane, device, animal) for plane in planes}
    if rois is not None and rois.buffers:
        ophys.add(_reference_images(rois))
    tables = _segmentation(ophys, run, imaging_planes, frames, drawn)
    _add_fluorescence(ophys, frames, tables)
    _add_dff(ophys, run, tables)
    for plane in planes:
        _add_motion(ophys, name_of(plane), frames.get(plane, []))
        _add_raw(nwb, run, plane, imaging_planes[plane])


def name_of(plane: int) -> str:
    return PLANES.get(plane, f"plane{plane}")


def _imaging_plane(nwb: NWBFile, run: Run, plane: int, device: Device, animal: dict[str, Any]) -> ImagingPlane:
    try:
        rate_hz = parse_microscope(run.session.rig).plane_rate_hz
    except FileError:
        rate_hz = None  # no rate rather than one that nobody stated
    return nwb.create_imaging_plane(
        name=f"ImagingPlane{name_of(plane).capitalize()}",
        description=f"{name_of(plane)} apical trunk" if plane in PLANES else f"plane {plane}",
        optical_channel=OpticalChannel(
            name="Green",
            description="green fluorescence" + (" (simulated)" if run.session.simulated else ""),
            emission_lambda=EMISSION_NM,
        ),
        device=device,
        excitation_lambda=_number(animal.get("excitation_nm"), EXCITATION_NM),
        indicator=str(animal.get("indicator", INDICATOR)),
        location=str(animal.get("location", LOCATION)),
        imaging_rate=rate_hz,
    )


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def _reference_images(rois: Rois) -> Images:
    images = Images(name="ReferenceImages", description="What frames were registered to and the ROIs were drawn on.")
    for k, buffer in enumerate(rois.buffers):
        if len(buffer) == 4 * rois.height * rois.width:
            plane = rois.planes[k].plane if k < len(rois.planes) else k
            image = np.frombuffer(buffer, dtype="<f4").reshape(rois.height, rois.width)
            images.add_image(
                GrayscaleImage(
                    name=f"reference_{name_of(plane)}",
                    data=packed(image),
                    description=f"{name_of(plane)} plane, counts",
                )
            )
    return images


def _segmentation(
    ophys: Any,
    run: Run,
    imaging_planes: dict[int, ImagingPlane],
    frames: dict[int, list[tuple[float, Traces]]],
    drawn: dict[int, PlaneRois],
) -> dict[int, PlaneSegmentation]:
    """A table of ROIs for each plane that has any."""
    counts = {
        plane: len(from_i32(drawn[plane].lengths)) if plane in drawn else len(frames[plane][0][1].f) // 4
        for plane in imaging_planes
        if plane in drawn or plane in frames
    }
    if not any(counts.values()):
        return {}
    segmentation = ImageSegmentation()
    ophys.add(segmentation)
    return {
        plane: _roi_table(segmentation, run, plane, imaging_planes[plane], drawn.get(plane), n)
        for plane, n in counts.items()
        if n
    }


def _roi_table(
    segmentation: ImageSegmentation,
    run: Run,
    plane: int,
    imaging_plane: ImagingPlane,
    outline: PlaneRois | None,
    n: int,
) -> PlaneSegmentation:
    """ROIs as pixel masks (x, y, weight), with their name and their group in the decoder.

    Where the journal has no outlines, the table says so and each ROI is one pixel of weight 0.
    """
    name = name_of(plane)
    role = dict.fromkeys(range(n), "other")
    if run.selection is not None and plane == PROXIMAL:
        role |= dict.fromkeys(run.selection.plus, "plus") | dict.fromkeys(run.selection.minus, "minus")
    names = outline.names if outline is not None else []
    labels = [plain(names[k]) if k < len(names) else f"roi{k}" for k in range(n)]
    pixels, ends = _pixel_masks(outline, n)
    masks = VectorData(name="pixel_mask", description="pixels (x, y, weight) of each ROI", data=pixels)
    table = PlaneSegmentation(
        name=f"Rois{name.capitalize()}",
        description=f"ROIs of the {name} plane{'' if outline else '; their outlines are not known'}.",
        imaging_plane=imaging_plane,
        id=ElementIdentifiers(name="id", data=np.arange(n)),
        columns=[
            VectorData(name="roi_name", description="name in the ROI set", data=labels),
            VectorData(
                name="role",
                description="group in the decoder: plus, minus or other",
                data=[role[k] for k in range(n)],
            ),
            masks,
            VectorIndex(name="pixel_mask_index", data=ends, target=masks),
        ],
    )
    segmentation.add_plane_segmentation(table)
    return table


def _whole(outline: PlaneRois) -> bool:
    """Are there as many pixels as the lengths say? If not, nobody knows whose pixels they are."""
    lengths = from_i32(outline.lengths)
    n_pixels = int(lengths.sum(dtype=np.int64))
    return bool((lengths >= 0).all()) and n_pixels == len(outline.rows) // 4 == len(outline.cols) // 4


def _pixel_masks(outline: PlaneRois | None, n: int) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """All ROIs' pixels, and where each ROI's end, (n,). An ROI without any has one of weight 0."""
    lengths = np.zeros(n, np.int64) if outline is None else from_i32(outline.lengths).astype(np.int64)
    shown = np.maximum(lengths, 1)
    pixels = np.zeros(shown.sum(), PIXEL)
    if outline is not None:
        drawn = np.repeat(lengths > 0, shown)
        pixels["x"][drawn], pixels["y"][drawn] = from_i32(outline.cols), from_i32(outline.rows)
        pixels["weight"][drawn] = 1.0
    return pixels, np.cumsum(shown)


def _add_fluorescence(
    ophys: Any, frames: dict[int, list[tuple[float, Traces]]], tables: dict[int, PlaneSegmentation]
) -> None:
    fluorescence = Fluorescence()
    for plane, table in tables.items():
        rows = [(t, from_f32(m.f)) for t, m in frames.get(plane, []) if len(m.f) == 4 * len(table)]
        if not rows:
            continue
        if fluorescence.parent is None:
            ophys.add(fluorescence)
        fluorescence.add_roi_response_series(
            RoiResponseSeries(
                name=f"RawFluorescence{name_of(plane).capitalize()}",
                description="Mean detector counts of each ROI after rigid registration.",
                data=packed(np.array([f for _, f in rows])),
                rois=_all_of(table),
                unit="counts",
                **timing([t for t, _ in rows]),
            )
        )


def _add_dff(ophys: Any, run: Run, tables: dict[int, PlaneSegmentation]) -> None:
    table = tables.get(PROXIMAL)
    if table is None:
        return
    n_rois = len(table)
    rows = [
        (record.header.cause.time_s, from_f32(m.dff))
        for record, m in run.with_headers(Output)
        if len(m.dff) == 4 * n_rois and record.header.cause is not None
    ]
    if not rows:
        return
    dff = DfOverF()
    ophys.add(dff)
    dff.add_roi_response_series(
        RoiResponseSeries(
            name=f"DfOverF{name_of(PROXIMAL).capitalize()}",
            description="(F - F0) / F0 with F0 the 10th percentile of the previous 30 s, as decoded online.",
            data=packed(np.array([values for _, values in rows])),
            rois=_all_of(table),
            unit="1",
            **timing([t for t, _ in rows]),
        )
    )


def _all_of(table: PlaneSegmentation) -> Any:
    return table.create_roi_table_region(description="all ROIs, in the set's order", region=list(range(len(table))))


def _add_motion(ophys: Any, name: str, frames: list[tuple[float, Traces]]) -> None:
    if not frames:
        return
    times = [t for t, _ in frames]
    ophys.add(
        TimeSeries(
            name=f"Shift{name.capitalize()}",
            description="Rigid shift of the image against the reference: down, right. Applied to the ROIs.",
            data=packed(np.array([(m.shift_y_px, m.shift_x_px) for _, m in frames])),
            unit="pixels",
            **timing(times),
        )
    )
    ophys.add(
        TimeSeries(
            name=f"RegistrationQuality{name.capitalize()}",
            description="0 (no match) to 1 (the reference itself).",
            data=packed(np.array([m.quality for _, m in frames])),
            unit="1",
            **timing(times),
        )
    )


def _add_raw(nwb: NWBFile, run: Run, plane: int, imaging_plane: ImagingPlane) -> None:
    """Raw frames of the journal, streamed: they never are in memory together."""
    first, times = None, []
    if plane in run.raw_frames:
        for message, time_s in _raw_frames(run, plane):
            first = first or message
            if _same_shape(message, first):
                times.append(time_s)
    if first is None:
        return
    shape, dtype, one = (first.height, first.width), np.dtype(first.dtype), first

    def images() -> Iterator[NDArray[Any]]:
        for message, _ in _raw_frames(run, plane):
            if _same_shape(message, one):
                yield np.frombuffer(message.buffers[0], dtype=dtype).reshape(shape)

    data = DataChunkIterator(data=images(), buffer_size=8, maxshape=(None, *shape), dtype=dtype)
    nwb.add_acquisition(
        TwoPhotonSeries(
            name=f"TwoPhotonSeries{name_of(plane).capitalize()}",
            description="Frames as they came, not registered.",
            data=H5DataIO(data, compression="gzip", compression_opts=1, chunks=(1, *shape)),
            imaging_plane=imaging_plane,
            unit="counts",
            **timing(times),
        )
    )


def _raw_frames(run: Run, plane: int) -> Iterator[tuple[Raw, float]]:
    for record in read_journal(run.folder):
        if record.topic == Raw.topic and record.header.cause is not None:
            try:
                message = record.message
            except WireError:
                continue  # counted in Run.malformed
            if isinstance(message, Raw) and message.plane == plane and len(message.buffers) == 1:
                n_bytes = message.height * message.width * np.dtype(message.dtype).itemsize
                if len(message.buffers[0]) == n_bytes:
                    yield message, record.header.cause.time_s


def _same_shape(a: Raw, b: Raw) -> bool:
    return (a.height, a.width, a.dtype) == (b.height, b.width, b.dtype)
