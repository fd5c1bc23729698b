"""ROI masks as outlines to draw: line pieces between pixels. Pure."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.protocol import PlaneRois, Rois, from_i32

MAX_SIDE_PX = 8192
"""Nothing is drawn of a larger image."""


class Outline(Struct, frozen=True):
    """One ROI."""

    index: int
    """In the plane's ROI set."""
    name: str
    row: float
    """Of the middle of its pixels."""
    col: float
    edges: list[int]
    """(4 n,) pieces of its border, one after another: row, col, row, col of the two ends, in pixel corners."""


class PlaneOutlines(Struct, frozen=True):
    plane: int
    rois: list[Outline]


def outlines(rois: Rois) -> list[PlaneOutlines]:
    """Every ROI of every plane. One whose pixels lie outside the image, or that has none, is left out; so is a plane
    whose lists don't fit one another."""
    if max(rois.height, rois.width) > MAX_SIDE_PX:
        return []
    return [PlaneOutlines(plane.plane, list(_plane(plane, rois.height, rois.width))) for plane in rois.planes]


def _plane(plane: PlaneRois, height: int, width: int) -> list[Outline]:
    lengths, rows, cols = (from_i32(a).astype(np.int64) for a in (plane.lengths, plane.rows, plane.cols))
    ends = np.cumsum(lengths)
    if len(rows) != len(cols) or (lengths < 0).any() or lengths.sum() != len(rows):
        return []
    found = []
    for k, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        r, c = rows[end - length : end], cols[end - length : end]
        if not len(r) or r.min() < 0 or c.min() < 0 or r.max() >= height or c.max() >= width:
            continue
        name = plane.names[k] if k < len(plane.names) else str(k)
        found.append(Outline(k, name, float(r.mean()) + 0.5, float(c.mean()) + 0.5, _border(r, c).ravel().tolist()))
    return found


def _border(rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 4): the sides of pixels that have no neighbour of the ROI there."""
    top, left = rows.min() - 1, cols.min() - 1
    mask = np.zeros((rows.max() - top + 2, cols.max() - left + 2), bool)
    mask[rows - top, cols - left] = True
    pieces = []
    for axis, (dr, dc) in ((0, (0, 1)), (1, (1, 0))):
        r, c = np.nonzero(np.diff(mask, axis=axis))
        r, c = (r + 1, c) if axis == 0 else (r, c + 1)
        pieces.append(np.stack([r + top, c + left, r + dr + top, c + dc + left], axis=1))
    return np.concatenate(pieces)
