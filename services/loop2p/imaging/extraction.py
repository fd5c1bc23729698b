"""Mean fluorescence of each ROI in a frame. The image is never shifted or copied: the ROIs' offsets are."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loop2p.imaging.reference import ceiling
from loop2p.imaging.registration import is_column_major
from loop2p.imaging.rois import RoiSet

Method = Literal["nearest", "bilinear"]


class Extractor:
    """The ROIs of one plane on frames of one size.

    Rule at the border: pixels that the shift moves out of the image are left out of the mean. A ROI with no pixel left
    takes the nearest pixels of the border, so that F stays finite, and is counted in `outside`. The first
    `gated_lines` of every frame are dark and count as outside. Raises ValueError for a ROI that lies in them wholly.
    """

    def __init__(
        self, rois: RoiSet, shape: tuple[int, int], method: Method = "nearest", gated_lines: int = 0
    ) -> None:
        self.rois, self.shape, self.method, self.gated_lines = rois, shape, method, gated_lines
        self.outside = 0
        """ROIs x frames in which no pixel of the ROI was inside the image."""
        height, width = shape
        rows, cols = rois.rows.astype(np.intp), rois.cols.astype(np.intp)
        self._row_major = _from_first(rows * width + cols)
        self._column_major = _from_first(cols * height + rows)
        self._rows, self._cols = rows, cols
        self._starts = np.concatenate([[0], np.cumsum(rois.lengths)[:-1]]).astype(np.intp)
        self._lengths = rois.lengths.astype(float)
        lowest = np.maximum.reduceat(rows, self._starts)
        dark = [name for name, row in zip(rois.names, lowest, strict=True) if row < gated_lines]
        if dark:
            raise ValueError(
                f"ROI {dark[0]} lies wholly in the {gated_lines} lines that are gated while the LED is on, and "
                f"{len(dark) - 1} more do; expected ROIs below them: leave these out of the ROI set"
            )
        self._box = (int(rows.min()), int(rows.max()), int(cols.min()), int(cols.max()))

    def means(self, pixels: NDArray[Any], inverted: bool, shift_y_px: float, shift_x_px: float) -> NDArray[np.float64]:
        """(n_rois,) real mean counts where the image has moved by this much.

        "nearest" rounds the shift to whole pixels. "bilinear" interpolates; as the shift is the same for every pixel,
        that is a weighted mean of the four nearest whole shifts, at four times the cost. It smooths the noise by an
        amount that depends on the shift, which is why it is not the default.
        """
        if self.method == "nearest":
            means = self._whole(pixels, round(shift_y_px), round(shift_x_px))
        else:
            y, x = int(np.floor(shift_y_px)), int(np.floor(shift_x_px))
            fy, fx = shift_y_px - y, shift_x_px - x
            means = np.zeros(len(self._starts))
            for dy, wy in ((y, 1 - fy), (y + 1, fy)):
                for dx, wx in ((x, 1 - fx), (x + 1, fx)):
                    if wy * wx > 0:
                        means += wy * wx * self._whole(pixels, dy, dx)
        return ceiling(pixels.dtype) - means if inverted else means

    def _whole(self, pixels: NDArray[Any], dy: int, dx: int) -> NDArray[np.float64]:
        height, width = self.shape
        top, bottom, left, right = self._box
        if not (top + dy >= self.gated_lines and bottom + dy < height and left + dx >= 0 and right + dx < width):
            return self._at_border(pixels, dy, dx)
        if is_column_major(pixels):
            flat, (first, where), move = pixels.T.reshape(-1), self._column_major, dx * height + dy
        else:
            flat, (first, where), move = pixels.reshape(-1), self._row_major, dy * width + dx
        return self._reduce(flat[first + move :].take(where), self._lengths)

    def _at_border(self, pixels: NDArray[Any], dy: int, dx: int) -> NDArray[np.float64]:
        height, width = self.shape
        rows, cols = self._rows + dy, self._cols + dx
        inside = ((rows >= self.gated_lines) & (rows < height) & (cols >= 0) & (cols < width)).astype(np.int64)
        n_inside = np.add.reduceat(inside, self._starts)
        gone = n_inside == 0
        self.outside += int(gone.sum())
        use = inside | np.repeat(gone, self.rois.lengths)
        values = pixels[rows.clip(self.gated_lines, height - 1), cols.clip(0, width - 1)]
        return self._reduce(np.where(use, values, 0), np.where(gone, self._lengths, n_inside))

    def _reduce(self, values: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float64]:
        exact = np.int64 if values.dtype.kind in "iu" else np.float64
        means: NDArray[np.float64] = np.add.reduceat(values, self._starts, dtype=exact) / lengths
        return means


def _from_first(where: NDArray[np.intp]) -> tuple[int, NDArray[np.intp]]:
    """The lowest offset, and all relative to it: a shift then only moves where the frame is read from."""
    first = int(where.min())
    return first, where - first
