"""ROI sets from the files that others write: suite2p, neurofinder, NWB, label images."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from loop2p.imaging.unpickle import Refused, read_objects
from loop2p.protocol import FileError, PlaneRois, i32

FormatName = Literal["auto", "suite2p", "neurofinder", "nwb", "labels"]


class RoiFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ROIs of a plane are, in the rig file."""

    path: str
    """Relative to the rig file's folder. suite2p: the folder with stat.npy and iscell.npy, or stat.npy itself."""
    plane: int = 0
    format: FormatName = "auto"
    table: str = ""
    """NWB only: name of the PlaneSegmentation, where there are several."""


class RoiSet(Struct, frozen=True):
    """The ROIs of one plane: pixel lists, one after another."""

    names: list[str]
    lengths: NDArray[np.int32]
    """(n_rois,) pixels of each."""
    rows: NDArray[np.int32]
    """(sum of lengths,)"""
    cols: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.names)

    def message(self, plane: int) -> PlaneRois:
        return PlaneRois(plane, self.names, i32(self.lengths), i32(self.rows), i32(self.cols))

    def moved(self, dy: int, dx: int, shape: tuple[int, int]) -> "RoiSet":
        """The same ROIs where the field lies elsewhere, less the pixels that leave the image.

        Raises ValueError if that leaves a ROI without any.
        """
        rows, cols = self.rows + np.int32(dy), self.cols + np.int32(dx)
        inside = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
        owner = np.repeat(np.arange(len(self.names)), self.lengths)[inside]
        lengths = np.bincount(owner, minlength=len(self.names)).astype(np.int32)
        if not lengths.all():
            lost = ", ".join(self.names[k] for k in np.flatnonzero(lengths == 0))
            raise ValueError(f"ROIs {lost} lie outside the image when moved by {dy} rows, {dx} columns")
        return RoiSet(self.names, lengths, rows[inside], cols[inside])


def read_rois(file: RoiFile, folder: Path, shape: tuple[int, int]) -> RoiSet:
    """Read the ROIs of one plane and check them against the image. Raises FileError: file, ROI, found, expected.

    A pixel that a ROI lists twice counts once. Pixel weights are ignored: F is the plain mean (docs/experiment.md 2.3).
    """
    path = folder / file.path
    if not path.exists():
        raise FileError(f"{path}: no such ROI file or folder (plane {file.plane})")
    read = _READERS[_kind(path) if file.format == "auto" else file.format]
    try:
        return _checked(read(path, shape, file.table), path, shape)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: can't be read: {error}") from None


def set_id(rois: dict[int, RoiSet]) -> str:
    """Twelve hex digits that name exactly these ROIs on these planes."""
    digest = hashlib.sha256()
    for plane, one in sorted(rois.items()):
        digest.update(msgspec.msgpack.encode(one.message(plane)))
    return digest.hexdigest()[:12]


Pixels = Iterable[tuple[str, ArrayLike, ArrayLike]]
"""name, rows, columns of each ROI."""


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir() or path.name == "stat.npy":
        return "suite2p"
    found = {".json": "neurofinder", ".nwb": "nwb", ".tif": "labels", ".tiff": "labels", ".npy": "labels"}.get(suffix)
    if found is None:
        raise FileError(
            f"{path}: can't tell the format of the ROIs from the name; expected a suite2p folder, stat.npy, .json "
            "(neurofinder), .nwb, .tif or .npy (label image), or `format` in the rig file"
        )
    return found


def _checked(pixels: Pixels, path: Path, shape: tuple[int, int]) -> RoiSet:
    height, width = shape
    names, all_rows, all_cols = [], [], []
    for name, some_rows, some_cols in pixels:
        rows, cols = np.asarray(some_rows), np.asarray(some_cols)
        if rows.ndim != 1 or rows.shape != cols.shape or rows.dtype.kind not in "iu" or cols.dtype.kind not in "iu":
            raise FileError(
                f"{path}: ROI {name}: rows {rows.dtype} {rows.shape}, columns {cols.dtype} {cols.shape}, "
                "expected whole numbers, as many rows as columns"
            )
        if len(rows) == 0:
            raise FileError(f"{path}: ROI {name} has no pixel")
        if rows.min() < 0 or cols.min() < 0 or rows.max() >= height or cols.max() >= width:
            raise FileError(
                f"{path}: ROI {name} reaches rows {rows.min()}-{rows.max()}, columns {cols.min()}-{cols.max()}, "
                f"expected to lie inside the image of {height} x {width}; was it drawn on another image, or are rows "
                "and columns exchanged?"
            )
        flat = rows.astype(np.int64) * width + cols.astype(np.int64)
        kept = np.sort(np.unique(flat, return_index=True)[1])
        names.append(name)
        all_rows.append(rows[kept].astype(np.int32))
        all_cols.append(cols[kept].astype(np.int32))
    if not names:
        raise FileError(f"{path}: holds no ROI")
    lengths = np.array([len(rows) for rows in all_rows], np.int32)
    return RoiSet(names, lengths, np.concatenate(all_rows), np.concatenate(all_cols))


def _suite2p(path: Path, shape: tuple[int, int], table: str) -> Pixels:
    """Those that iscell.npy calls cells; all where there is no iscell.npy. Named by their index in stat.npy."""
    stat_path = path / "stat.npy" if path.is_dir() else path
    iscell_path = stat_path.with_name("iscell.npy")
    try:
        stat = read_objects(stat_path)
    except FileNotFoundError:
        raise FileError(f"{stat_path}: no such file; expected suite2p's stat.npy") from None
    except Refused as error:
        raise FileError(f"{stat_path}: {error}") from None
    cells = np.ones(len(stat), bool)
    if iscell_path.exists():
        iscell = _npy(iscell_path)
        if iscell.shape not in ((len(stat),), (len(stat), 2)) or iscell.dtype.kind not in "biuf":
            raise FileError(f"{iscell_path}: {iscell.dtype} {iscell.shape}, expected ({len(stat)}, 2) as in stat.npy")
        cells = (iscell if iscell.ndim == 1 else iscell[:, 0]) > 0
        if not cells.any():
            raise FileError(f"{iscell_path}: none of {len(stat)} ROIs is a cell; curate them in suite2p")
    for k in np.flatnonzero(cells):
        one = stat[k]
        if not isinstance(one, dict) or "ypix" not in one or "xpix" not in one:
            raise FileError(f"{stat_path}: ROI {k} has no ypix and xpix")
        yield str(k), one["ypix"], one["xpix"]


class _Region(Struct, frozen=True):
    coordinates: list[tuple[int, int]]
    id: int | str | None = None


def _neurofinder(path: Path, shape: tuple[int, int], table: str) -> Pixels:
    """A list of {"id", "coordinates": [[row, column], ...]}."""
    try:
        regions = msgspec.json.decode(path.read_bytes(), type=list[_Region])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(
            f'{path}: no neurofinder file, a list of {{"id", "coordinates": [[row, column]]}}: {error}'
        ) from None
    for k, region in enumerate(regions):
        name = str(k if region.id is None else region.id)
        coordinates = np.array(region.coordinates, np.int64).reshape(-1, 2)
        yield name, coordinates[:, 0], coordinates[:, 1]


def _nwb(path: Path, shape: tuple[int, int], table: str) -> Pixels:
    """A PlaneSegmentation with pixel_mask (x = column, y = row, as pynwb draws it) or image_mask.

    image_mask is taken as (ROI, row, column), or as (ROI, column, row) where only that fits the image.
    """
    import h5py

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            tables: dict[str, Any] = {}

            def visit(name: str, item: Any) -> None:
                kind = item.attrs.get("neurodata_type", "")
                if (kind.decode() if isinstance(kind, bytes) else kind) == "PlaneSegmentation":
                    tables[name.rsplit("/", 1)[-1]] = item

            file.visititems(visit)
        except OSError as error:
            raise FileError(f"{path}: no HDF5 file: {error}") from None
        known = ", ".join(tables) or "none"
        if table and table not in tables:
            raise FileError(f"{path}: no PlaneSegmentation {table!r}; found {known}")
        if not table and len(tables) != 1:
            raise FileError(
                f"{path}: {len(tables)} PlaneSegmentations ({known}), expected one, or `table` in the rig file"
            )
        group = tables[table or next(iter(tables))]
        try:
            yield from _nwb_table(group, path, shape)
        except (KeyError, IndexError, ValueError, TypeError, OSError) as error:
            raise FileError(f"{path}: PlaneSegmentation {group.name}: {error}") from None


def _nwb_table(group: Any, path: Path, shape: tuple[int, int]) -> Pixels:
    ids = [str(i) for i in group["id"][:]] if "id" in group else []
    if "pixel_mask" in group:
        mask, ends = group["pixel_mask"][:], group["pixel_mask_index"][:].astype(np.int64)
        start = 0
        for k, end in enumerate(ends.tolist()):
            part = mask[start:end]
            yield ids[k] if ids else str(k), part["y"].astype(np.int64), part["x"].astype(np.int64)
            start = end
    elif "image_mask" in group:
        masks = group["image_mask"]
        if masks.ndim != 3 or masks.shape[1:] not in (shape, shape[::-1]):
            raise FileError(f"{path}: image_mask of shape {masks.shape}, expected (ROIs, {shape[0]}, {shape[1]})")
        swap = masks.shape[1:] != shape
        for k in range(len(masks)):
            first, second = np.nonzero(masks[k])
            yield ids[k] if ids else str(k), *((second, first) if swap else (first, second))
    else:
        raise FileError(f"{path}: PlaneSegmentation {group.name} has neither pixel_mask nor image_mask")


def _labels(path: Path, shape: tuple[int, int], table: str) -> Pixels:
    """An image of the same size whose pixels hold the number of their ROI, 0 where there is none."""
    if path.suffix.lower() == ".npy":
        image = _npy(path)
    else:
        import tifffile

        try:
            image = tifffile.imread(path, is_ome=False)
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError) as error:
            raise FileError(f"{path}: no TIFF file: {error}") from None
    if image.shape != shape:
        raise FileError(f"{path}: image of shape {image.shape}, expected {shape}")
    if image.dtype.kind not in "biu" and not (image.dtype.kind == "f" and np.array_equal(image, np.rint(image))):
        raise FileError(f"{path}: {image.dtype} values, expected whole numbers: 0 outside, else the number of the ROI")
    rows, cols = np.nonzero(image)
    labels = image[rows, cols]
    for label in np.unique(labels):
        here = labels == label
        yield str(int(label)), rows[here], cols[here]


def _npy(path: Path) -> NDArray[Any]:
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # np.load raises whatever the damage leads to
        raise FileError(f"{path}: no .npy file of numbers: {error}") from None
    if not isinstance(loaded, np.ndarray):
        raise FileError(f"{path}: several arrays in one file, expected .npy")
    return loaded


_READERS: dict[str, Callable[[Path, tuple[int, int], str], Pixels]] = {
    "suite2p": _suite2p,
    "neurofinder": _neurofinder,
    "nwb": _nwb,
    "labels": _labels,
}
