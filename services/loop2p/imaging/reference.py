"""The reference image of a plane: how it is built, when it is refused, what quality to expect, how it is kept.

Methods (experiment sheet 2.8): the mean of 20-40 s, that is 300-600 frames of a plane. Here the first tenth of them is
averaged as it comes; each later frame is added where it lies on that average (rounded to whole pixels), so that motion
does not blur the reference. One frame in eight is kept out of the mean. Those frames then say what to expect: they are
matched with the reference as it is and with the reference turned upside down and mirrored, which no frame resembles
but by chance. The limit of acceptable quality lies midway between the two (geometric mean), so it needs no constant
that would depend on brightness, lens or tissue.
"""

import io
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.imaging.registration import Registrar, Spectra

HELD_OUT_EVERY = 8
DISTINCT = 1.2
"""Frames must match a reference by so much better than a wrong one, or it says nothing. Measured: 2.1 times at
0.01 photons per pixel on a simulated field, 2.9 at 0.03, 5.4 at 0.1, 8.8 at 1; 1.3, 1.6, 2.3 on real recordings of 64
x 64, 160 x 160 and 192 x 192 px (300 frames, the last 96)."""
LINE_SAMPLES = 2**18
LINES = 4
BETTER = 1.5
"""Another line length must fit so much better to be believed. Measured: at most 0.95 for right images (simulated and
four recordings, both memory orders), 2.4 for lines of 64 px read as 60, above 11 for the other wrong ones."""
FORMAT = 1


class ReferenceRefused(ValueError):
    """A reference that can't be right: found, expected, what to do."""


class Reference(Struct, frozen=True):
    """What frames of one plane are compared with."""

    image: NDArray[np.float32]
    """(height, width), real counts (not inverted)."""
    expected: float = 1.0
    """The quality that 19 of 20 of its own frames reach."""
    limit: float = 0.0
    """Below this a frame is more like a wrong image than like the reference."""


class ReferenceBuilder:
    """Takes the first frames of a plane and gives its reference.

    With `registrar` None the reference is a plain mean and nothing is checked. A `limit` of quality stands instead of
    the one that is learned.
    """

    def __init__(
        self,
        registrar: Registrar | None,
        shape: tuple[int, int],
        n_frames: int,
        check_lines: bool = True,
        limit: float | None = None,
    ) -> None:
        self.n_frames = n_frames
        self._limit = limit
        self.taken = 0
        self._registrar = registrar
        self._shape = shape
        self._n_plain = max(1, n_frames // 10) if registrar else n_frames
        self._sum = np.zeros(0)
        self._count = np.zeros(shape, np.int32)
        self._offset = 0.0
        self._seed: Any = None
        self._held_out: list[Spectra] = []
        self._lines = LineCheck(shape) if check_lines and registrar else None

    def add(self, pixels: NDArray[Any], inverted: bool, spectra: Spectra | None) -> Reference | None:
        """Take a frame; the reference once there are enough, else None. Raises ReferenceRefused.

        After a refusal the builder is spent: begin with a new one.
        """
        if self.taken == 0:
            self._sum = np.zeros_like(pixels, dtype=float)  # in the memory order of the frames
            self._count = np.zeros_like(pixels, dtype=np.int32)
        self.taken += 1
        if self.taken <= self._n_plain:
            self._accumulate(pixels, inverted, 0, 0)
        else:
            assert self._registrar
            assert spectra
            if self._seed is None:
                self._seed = self._registrar.template(self._mean())
            if (self.taken - self._n_plain) % HELD_OUT_EVERY == 0:
                self._held_out.append(spectra.copy())
                if self._lines:
                    self._lines.add(pixels)
            else:
                match = self._seed.match(spectra)
                self._accumulate(pixels, inverted, round(match.shift_y_px), round(match.shift_x_px))
        return self._finish() if self.taken == self.n_frames else None

    def _accumulate(self, pixels: NDArray[Any], inverted: bool, dy: int, dx: int) -> None:
        target, source = overlap(self._shape, dy, dx)
        total, part = self._sum[target], pixels[source]
        if inverted:
            total += ceiling(pixels.dtype)
            total -= part
        else:
            total += part
        self._count[target] += 1

    def _mean(self) -> NDArray[np.float32]:
        # every pixel has the plain frames at least, so no count is 0
        return np.ascontiguousarray(self._sum / self._count, np.float32)

    def _finish(self) -> Reference:
        image = self._mean()
        if not self._registrar:
            return Reference(image)
        if self._lines:
            self._lines.check()
        return rate(image, self._held_out, self._registrar, self._limit)


def rate(
    image: NDArray[np.float32], frames: list[Spectra], registrar: Registrar, limit: float | None = None
) -> Reference:
    """Learn from frames that are not in the reference what quality to expect. Raises ReferenceRefused."""
    template = registrar.template(image)
    wrong = [registrar.template(w) for w in wrong_images(image, registrar.gated_lines)]
    expected = float(np.quantile([template.match(f).quality for f in frames], 0.05))
    chance = max(t.match(f).quality for t in wrong for f in frames)
    if limit is not None:
        return Reference(image, expected, limit)
    if not expected > DISTINCT * chance:
        raise ReferenceRefused(
            f"reference: its frames match it with quality {expected:.3f}, and {chance:.3f} when it is turned upside "
            "down, expected a clear difference; is the image dark or out of focus, the field empty, or does each frame "
            "begin elsewhere in the stream (frame size)?"
        )
    return Reference(image, expected, math.sqrt(expected * chance) if chance > 0 else expected / 4)


def wrong_images(image: NDArray[np.float32], gated_lines: int = 0) -> list[NDArray[np.float32]]:
    """Images with the same statistics and another content; gated lines stay where they are."""
    dark, lit = image[:gated_lines], image[gated_lines:]
    return [np.concatenate([dark, wrong]) for wrong in (lit[::-1], lit[:, ::-1], lit[::-1, ::-1])]


class LineCheck:
    """Are the lines of an image as long as the rig file says?

    Neighbouring lines are alike, so the pixels in the order of memory resemble themselves one line further on. If they
    do so at another distance, the stream is cut into lines of the wrong length: width or height is wrong, or a
    column-major image was taken for a row-major one. A square image read in the wrong order is merely mirrored at its
    diagonal and passes; only a day-1 reference can tell.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._line_px = 0
        self._n = min(LINE_SAMPLES, shape[0] * shape[1])
        self._length = scipy.fft.next_fast_len(2 * self._n, real=True)
        self._power: NDArray[Any] = np.zeros(self._length // 2 + 1)
        self._frames = 0

    def add(self, pixels: NDArray[Any]) -> None:
        """Take a frame, as it lies in memory. About 4 ms for 512 x 796."""
        flat = pixels.ravel(order="K")[: self._n].astype(np.float32)
        self._line_px = self._shape[0] if abs(pixels.strides[0]) < abs(pixels.strides[1]) else self._shape[1]
        self._power += np.abs(scipy.fft.rfft(flat - flat.mean(), self._length)) ** 2
        self._frames += 1

    def check(self) -> None:
        """Raises ReferenceRefused if another line length fits clearly better."""
        found = self.better_length()
        if found is None:
            return
        height, width = self._shape
        other = height if self._line_px == width else width
        hint = (
            "the pixel order (row or column major) is wrong" if abs(found - other) <= 1 else "the frame size is wrong"
        )
        raise ReferenceRefused(
            f"reference: neighbouring lines are alike every {found} px in memory, expected {self._line_px} "
            f"({height} x {width}): {hint}; correct the source's options or the microscope's sender"
        )

    def better_length(self) -> int | None:
        """The line length that fits clearly better than the expected one, or None."""
        line = self._line_px
        frequency = np.arange(len(self._power)) / self._length
        # structure between the pixel and some 50 px: brightness that varies slowly is alike at every distance
        band = np.exp(-2 * np.pi**2 * frequency**2) * (1 - np.exp(-2 * np.pi**2 * 8**2 * frequency**2))
        alike = scipy.fft.irfft(self._power * band, self._length)
        alike /= alike[0] or 1
        lengths = np.arange(max(24, line // 4), min(4 * line, self._n // LINES) + 1)
        # over several lines, because a length that is wrong by a few pixels is wrong by many after four lines
        fit = sum(alike[k * lengths] for k in range(1, LINES + 1))
        here = fit[np.abs(lengths - line) <= 1].max(initial=0.0)  # bidirectional scanning may displace every other line
        multiples = np.abs(lengths / line - np.round(lengths / line)) * line <= 1  # fit as well as one line, or better
        best = int(np.where(multiples, -1, fit).argmax())
        chance = 8 * math.sqrt(LINES / (self._n * max(1, self._frames)))
        return int(lengths[best]) if fit[best] > max(BETTER * here, chance) else None


def overlap(shape: tuple[int, int], dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Which part of the reference (first) is seen in which part (second) of a frame that has moved by whole pixels."""
    height, width = shape
    target = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
    source = slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx))
    return target, source


@cache
def ceiling(dtype: np.dtype[Any]) -> float:
    """What an inverted value is taken from: 65535 for uint16, 255 for uint8, 0 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 0.0


def save_references(path: Path, references: dict[int, Reference]) -> None:
    """Write a run's references where a successor finds them; the file is there whole or not at all."""
    data: dict[str, Any] = {"format": np.int64(FORMAT), "planes": np.array(sorted(references))}
    for plane, reference in references.items():
        data[f"image{plane}"] = reference.image
        data[f"quality{plane}"] = np.array([reference.expected, reference.limit])
    buffer = io.BytesIO()
    np.savez(buffer, **data)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load_references(path: Path) -> dict[int, Reference]:
    """Read a run's references. Raises ValueError with what was found; OSError if the file can't be read."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
            if int(data["format"]) != FORMAT:
                raise ValueError(f"format {int(data['format'])}, expected {FORMAT}")
            found = {}
            for plane in data["planes"].tolist():
                image, quality = data[f"image{plane}"], data[f"quality{plane}"]
                if image.ndim != 2 or image.dtype != np.float32 or quality.shape != (2,):
                    raise ValueError(f"plane {plane}: {image.dtype} {image.shape}, expected float32 (height, width)")
                found[int(plane)] = Reference(image, float(quality[0]), float(quality[1]))
            return found
    except OSError:
        raise
    except Exception as error:  # whatever is wrong with a file that np.load can't make sense of
        raise ValueError(f"{path}: no references of an imaging run: {error}") from None
