"""A session whose ROIs are suite2p's: its planes' folders, and beside them what the experiment knows as text.

docs/how-to/analyse-suite2p.md says what lies in such a folder. Of suite2p's files only F.npy, Fneu.npy and iscell.npy
are read, which are plain arrays: stat.npy and ops.npy are pickles, and to read a pickle is to run what is in it.
"""

from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from loop2p.analysis.fluorescence import subtract_neuropil
from loop2p.analysis.pairs import ALONE_R, LEAST_R, NEAR_UM, correlations, single
from loop2p.analysis.sessions import SUITE2P_SHEET, PlaneTraces, SessionData, SessionError
from loop2p.analysis.trial_table import NUMBER, WHOLE, one_of, read_experiment, read_table
from loop2p.protocol import FileError, read_toml

PLANES = ("plane0", "plane1")
"""suite2p's folders: proximal, distal trunk."""
TORN = (ValueError, TypeError, EOFError, OverflowError, SyntaxError, TokenError)
"""What numpy raises for a damaged header (60,000 damaged ones were tried)."""
Positive = Annotated[float, Meta(gt=0)]


class Sheet(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a SUITE2P_SHEET says of a session."""

    mouse: Annotated[str, Meta(min_length=1)]
    day: Annotated[int, Meta(ge=1)]
    plane_rate_hz: Positive
    """Frames of one plane a second."""
    first_frame_s: tuple[float, float]
    """When the first frame of plane0 and that of plane1 were taken, by the task's clock."""
    pixel_um: tuple[Positive, Positive] | None = None
    """Height and width of a pixel: then the centres are in pixels, else in um."""
    neuropil_share: Annotated[float, Meta(ge=0, le=1)] = 0.7
    """Of Fneu that is taken off F; suite2p's own."""
    simulated: bool = False
    """No animal was there."""

    def __post_init__(self) -> None:
        if not np.isfinite([self.plane_rate_hz, *self.first_frame_s, *(self.pixel_um or ())]).all():
            raise ValueError("a value that is not finite, expected numbers")


class Arrays(Struct, frozen=True):
    """suite2p's files of a plane, still on disk."""

    f: NDArray[Any]
    around: NDArray[Any]
    """(n_rois, n_frames), Fneu."""
    cells: NDArray[np.int64]
    """ROIs that are cells."""


def read_suite2p_session(folder: Path) -> SessionData:
    """A session without events; `role` has a row for each cell of plane0. Raises SessionError, OSError."""
    sheet, planes = _sheet(folder), [_arrays(folder, name) for name in PLANES]
    n_frames = [plane.f.shape[1] for plane in planes]
    if abs(n_frames[0] - n_frames[1]) > 1:
        raise SessionError(
            f"{folder}: plane0/F.npy has {n_frames[0]} frames, plane1/F.npy {n_frames[1]}, expected as many, or one "
            "more in one: the planes alternate; cut both to the time that both were recorded"
        )
    known = read_experiment(folder)
    start_s, first_s = known["start_s"], sheet.first_frame_s[0]
    last_s = first_s + n_frames[0] / sheet.plane_rate_hz
    outside = (start_s < first_s) | (start_s > last_s)
    if outside.any():
        raise SessionError(
            f"{folder / 'trials.csv'}: start_s {start_s[np.argmax(outside)]}, expected a time while plane0 was imaged, "
            f"{first_s:g} to {last_s:g} s; all times are seconds of one clock: see first_frame_s and plane_rate_hz in "
            f"{SUITE2P_SHEET}, or leave out trials that were not imaged"
        )
    role = _roles(folder, planes[0])
    about: dict[str, Any] = {"mouse": sheet.mouse, "day": sheet.day, "simulated": sheet.simulated}
    return SessionData(path=folder, role=role, events={}, followed=False, **about, **known)


def read_suite2p_plane(folder: Path, plane: int) -> PlaneTraces:
    """F less its share of Fneu, of the plane's cells. Raises SessionError, OSError."""
    sheet, name = _sheet(folder), PLANES[plane]
    arrays = _arrays(folder, name)
    f, around = (
        _finite(array, arrays.cells, folder / name / file)
        for array, file in ((arrays.f, "F.npy"), (arrays.around, "Fneu.npy"))
    )
    return PlaneTraces(
        f=subtract_neuropil(f, around, sheet.neuropil_share),
        start_s=sheet.first_frame_s[plane],
        rate_hz=sheet.plane_rate_hz,
        roi=arrays.cells,
        centre_um=_centres_um(folder / name / "centres.csv", sheet.pixel_um, arrays),
    )


def neurons(
    dff: NDArray[np.floating], rate_hz: float, role: NDArray[np.str_], centre_um: NDArray[np.floating] | None = None
) -> NDArray[np.int64]:
    """Rows of a plane's ROIs, rising, that are analysed: all P+ and P-, and of the others those that are no duplicate.

    `dff` (n_frames, n_rois), `role` (n_rois,), `centre_um` (n_rois, 2) as `pairs.single` takes it. A duplicate of P+ or
    P- goes, whatever its SNR: the decoder had the other. Others without dF/F (NaN) go too.
    """
    other = (role == "other") & np.isfinite(dff).all(axis=0)
    chosen, rest = np.flatnonzero(role != "other"), np.flatnonzero(other)
    same = correlations(dff[:, rest], dff[:, chosen], rate_hz) > (ALONE_R if centre_um is None else LEAST_R)
    if centre_um is not None:
        same &= np.linalg.norm(centre_um[rest, None] - centre_um[None, chosen], axis=-1) < NEAR_UM
    rest = rest[~same.any(axis=1)]
    rest = rest[single(dff[:, rest], rate_hz, None if centre_um is None else centre_um[rest])]
    return np.sort(np.concatenate([chosen, rest]))


def _sheet(folder: Path) -> Sheet:
    try:
        return read_toml(folder / SUITE2P_SHEET, Sheet)[0]
    except FileError as error:
        raise SessionError(f"{error}; expected a suite2p session as docs/how-to/analyse-suite2p.md has it") from None


def _arrays(folder: Path, plane: str) -> Arrays:
    f, around, iscell = (_load(folder / plane / f"{name}.npy") for name in ("F", "Fneu", "iscell"))
    place = folder / plane
    if f.ndim != 2 or f.shape[1] < 2:
        raise SessionError(f"{place / 'F.npy'}: shape {f.shape}, expected (n_rois, n_frames) with 2 frames or more")
    if around.shape != f.shape:
        raise SessionError(
            f"{place / 'Fneu.npy'}: shape {around.shape}, expected {f.shape} as F.npy: take both from one run"
        )
    if iscell.shape != (len(f), 2):
        raise SessionError(
            f"{place / 'iscell.npy'}: shape {iscell.shape}, expected ({len(f)}, 2): for each ROI of F.npy 0 or 1, and "
            "a probability; take both from one run"
        )
    if not np.isin(iscell[:, 0], (0, 1)).all():
        raise SessionError(f"{place / 'iscell.npy'}: a first column of other numbers, expected 0 or 1 for each ROI")
    cells = np.flatnonzero(iscell[:, 0])
    if not len(cells):
        raise SessionError(f"{place / 'iscell.npy'}: no ROI is a cell, expected some: mark them in suite2p")
    return Arrays(f, around, cells)


def _load(path: Path) -> NDArray[Any]:
    """An array of numbers, on disk until it is used."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SessionError(f"{path}: no such file, expected it as suite2p writes it: copy it there") from None
    except TORN as error:
        raise SessionError(f"{path}: {error}; expected an array of numbers as suite2p writes it") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        kind = getattr(array, "dtype", "an archive")
        raise SessionError(f"{path}: {kind}, expected an array of numbers as suite2p writes it")
    return array


def _finite(array: NDArray[Any], cells: NDArray[np.int64], path: Path) -> NDArray[np.float32]:
    """(n_frames, n_cells)"""
    chosen = np.ascontiguousarray(array[cells].T, np.float32)
    good = np.isfinite(chosen)
    if not good.all():
        frame, k = np.unravel_index(int(np.argmin(good)), good.shape)
        raise SessionError(
            f"{path}: ROI {cells[k]}, frame {frame}: {chosen[frame, k]}, expected numbers throughout: mark the ROI as "
            "no cell, or cut the frames in both planes"
        )
    return chosen


def _roles(folder: Path, arrays: Arrays) -> NDArray[np.str_]:
    """(n_cells,)"""
    table = read_table(folder / "roles.csv", {"roi": WHOLE, "role": one_of("plus", "minus")})
    roi, n_rois = table["roi"], len(arrays.f)
    table.require((roi >= 0) & (roi < n_rois), "roi", f"a ROI of plane0/F.npy, 0 to {n_rois - 1}")
    table.require(np.isin(np.arange(len(roi)), np.unique(roi, return_index=True)[1]), "roi", "each ROI once")
    table.require(np.isin(roi, arrays.cells), "roi", "a cell: plane0/iscell.npy says it is none; mark it in suite2p")
    role = np.full(n_rois, "other", "<U5")
    role[roi] = table["role"]
    return np.asarray(role[arrays.cells])


def _centres_um(path: Path, pixel_um: tuple[float, float] | None, arrays: Arrays) -> NDArray[np.float64] | None:
    """(n_cells, 2) y, x; None without the file."""
    if not path.exists():
        return None
    y, x = ("y_um", "x_um") if pixel_um is None else ("y_px", "x_px")
    table = read_table(path, {"roi": WHOLE, y: NUMBER, x: NUMBER})
    n_rois = len(arrays.f)
    table.require((table["roi"] >= 0) & (table["roi"] < n_rois), "roi", f"a ROI of F.npy beside it, 0 to {n_rois - 1}")
    centre = np.full((n_rois, 2), np.nan)
    centre[table["roi"]] = np.column_stack([table[y], table[x]]) * (pixel_um or (1.0, 1.0))
    lost = arrays.cells[np.isnan(centre[arrays.cells, 0])]
    if len(lost):
        raise SessionError(f"{path}: no row of ROI {lost[0]}, expected one of each cell: add it, or take the file away")
    return np.asarray(centre[arrays.cells])
