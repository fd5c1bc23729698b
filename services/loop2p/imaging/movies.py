"""Recordings on disk, frame by frame: npy, TIFF, folders of TIFFs, HDF5, NWB."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray

from loop2p.protocol import FileError

Axes = Literal["frame-row-column", "frame-column-row"]
DTYPES = ("uint8", "uint16", "int16")

# PrairieView's files carry a tag that tifffile cannot read and complains about for every frame; what matters raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class Movie:
    """A recording that is open for reading. Frames keep the layout they have in the file and are never transposed
    in memory: a column-major file gives a transposed view.
    """

    def __init__(self, name: str, stack: Any, axes: Axes = "frame-row-column", close: Callable[[], None] | None = None):
        """`stack`: anything with shape (n, a, b), dtype and stack[k]. Raises FileError where that is not so."""
        self.name, self._stack, self._close = name, stack, close
        self._swapped = axes == "frame-column-row"
        try:
            dtype = np.dtype(stack.dtype)
            if len(stack.shape) != 3 or 0 in stack.shape:
                raise FileError(f"{name}: found shape {tuple(stack.shape)}, expected (frames, rows, columns)")
            if dtype.name not in DTYPES:
                raise FileError(f"{name}: found {dtype.name}, expected {', '.join(DTYPES)}")
        except FileError:
            self.close()
            raise
        self.n_frames, rows, columns = (int(n) for n in stack.shape)
        self.height, self.width = (columns, rows) if self._swapped else (rows, columns)
        self.dtype = dtype.newbyteorder("=")

    def buffer(self) -> NDArray[Any]:
        """Memory for one frame, in the file's layout."""
        return np.empty(self._stack.shape[1:], self.dtype)

    def read(self, frame: int, buffer: NDArray[Any]) -> NDArray[Any]:
        """Read a frame into `buffer`; gives (height, width), a view of it. May raise anything a damaged file may."""
        pixels = self._stack[frame]
        if pixels.shape != buffer.shape:
            raise ValueError(f"found an image of {pixels.shape}, expected {buffer.shape}")
        np.copyto(buffer, pixels, casting="equiv")
        return buffer.T if self._swapped else buffer

    def close(self) -> None:
        if self._close:
            self._close()


def open_movie(path: Path, dataset: str = "", axes: Axes | None = None, pattern: str = "*.tif*") -> Movie:
    """Open a recording. Raises FileError: file, dataset, found, expected.

    `dataset`: HDF5 path, default "data"; in NWB the name of a TwoPhotonSeries, default the only one there is.
    `axes`: NWB says (frame, x, y), that is frame-column-row, and is read so; everything else is frame-row-column.
    `pattern`: which files of a folder, in the order of the numbers in their names.
    """
    if not path.exists():
        raise FileError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _open_folder(path, axes or "frame-row-column", pattern)
        if suffix == ".npy":
            return Movie(str(path), np.load(path, mmap_mode="r", allow_pickle=False), axes or "frame-row-column")
        if suffix in (".tif", ".tiff"):
            return _open_tiff(path, axes or "frame-row-column")
        if suffix in (".h5", ".hdf5", ".nwb"):
            return _open_hdf5(path, dataset, axes)
    except FileError:
        raise
    except Exception as error:  # each reader has its own kinds for a damaged file
        raise FileError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    raise FileError(f"{path}: found {suffix or 'no suffix'}, expected .npy, .tif, .tiff, .h5, .hdf5, .nwb or a folder")


# ---------------------------------------------------------------- TIFF

PLAIN = {"is_ome": False, "is_stk": False}
"""Read pages as they stand: the OME-XML of a single frame points at a master file that need not be there, and
PrairieView's frames look like MetaMorph stacks."""


class _Pages:
    """The pages of one TIFF file as a stack."""

    def __init__(self, file: tifffile.TiffFile) -> None:
        self._pages = file.pages
        first = file.pages[0]
        self.shape, self.dtype = (len(file.pages), *first.shape), first.dtype

    def __getitem__(self, k: int) -> NDArray[Any]:
        pixels: NDArray[Any] = self._pages[k].asarray()
        return pixels


class _Files:
    """Single-frame TIFF files as a stack."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        first = self[0]
        self.shape, self.dtype = (len(paths), *first.shape), first.dtype

    def __getitem__(self, k: int) -> NDArray[Any]:
        with tifffile.TiffFile(self._paths[k], **PLAIN) as file:
            if len(file.pages) != 1:
                raise ValueError(f"{self._paths[k].name}: found {len(file.pages)} pages, expected 1")
            pixels: NDArray[Any] = file.pages[0].asarray()
            return pixels


def _open_tiff(path: Path, axes: Axes) -> Movie:
    file = tifffile.TiffFile(path, **PLAIN)
    try:
        series = file.series[0]
        if series.dataoffset is not None and len(series.shape) in (2, 3) and np.dtype(series.dtype).name in DTYPES:
            # one uncompressed block (ImageJ writes large stacks so, with a single page): no need for pages at all
            shape = (1, *series.shape) if len(series.shape) == 2 else series.shape
            dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
            stack: Any = np.memmap(path, dtype, "r", series.dataoffset, shape)
        else:
            stack = _Pages(file)
            stack[0]  # a compression that cannot be read shows now
    except BaseException:
        file.close()
        raise
    return Movie(str(path), stack, axes, file.close)


def _open_folder(path: Path, axes: Axes, pattern: str) -> Movie:
    paths = sorted((p for p in path.glob(pattern) if p.is_file()), key=lambda p: _numbers(p.name))
    if not paths:
        raise FileError(f"{path}: no file matches {pattern!r}; expected single-frame TIFF files")
    return Movie(f"{path}/{pattern}", _Files(paths), axes)


def _numbers(name: str) -> list[Any]:
    """Sort key: image9 before image10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


# ---------------------------------------------------------------- HDF5


def _open_hdf5(path: Path, dataset: str, axes: Axes | None) -> Movie:
    # frames lie in compressed chunks of several: keep a chunk unpacked until it is used up
    file = h5py.File(path, "r", rdcc_nbytes=64 * 1024**2, rdcc_nslots=1009)
    try:
        is_nwb = "nwb_version" in file.attrs
        where = _nwb_series(path, file, dataset) if is_nwb else dataset or "data"
        found = file.get(where)
        if not isinstance(found, h5py.Dataset):
            raise FileError(f"{path}: no dataset {where!r}; found {', '.join(_datasets(file)) or 'none with 3 axes'}")
    except BaseException:
        file.close()
        raise
    default: Axes = "frame-column-row" if is_nwb else "frame-row-column"
    return Movie(f"{path}:{where}", found, axes or default, file.close)


def _nwb_series(path: Path, file: Any, name: str) -> str:
    """The HDF5 path of a TwoPhotonSeries' pixels. Raises FileError."""
    if "/" in name:
        return name
    group = file.get("acquisition", {})
    series = [key for key in group if group[key].attrs.get("neurodata_type") == "TwoPhotonSeries"]
    if name in series or (not name and len(series) == 1):
        return f"acquisition/{name or series[0]}/data"
    found = ", ".join(series) or "none"
    raise FileError(
        f"{path}: TwoPhotonSeries in acquisition: found {found}, expected {name or 'exactly one'}; set dataset"
    )


def _datasets(file: Any) -> list[str]:
    found: list[str] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and len(item.shape) == 3:
            found.append(name)

    file.visititems(look)
    return found
