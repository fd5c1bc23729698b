"""Later days: where today's field of view lies on that of day 1, turned and shifted, and whether it is the same."""

import math

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy import ndimage

from loop2p.imaging.reference import DISTINCT, ReferenceRefused, overlap, wrong_images
from loop2p.imaging.registration import Match, Registrar, Template
from loop2p.imaging.rois import RoiSet

LAG_PX = 64
"""The largest shift that is looked for."""
LIMIT_DEG = 3.0
"""The largest rotation that is looked for: an animal is put back under the microscope to about a degree."""
COARSE_DEG, COARSE_PX = 0.5, 128
"""First in these steps, on pixels summed until the shorter side is about this long: the structure is then wide enough
not to be missed between two steps."""
FINE_DEG, FINE_STEPS = 0.1, 5
STRAIGHT_PX = 0.5
"""A rotation that moves the corners by less is none: the ROIs are moved by whole pixels."""
DETAIL_PX, SURROUND_PX = 1.0, 8.0
"""The match compares what is wider than noise and narrower than a cell's surroundings, each spot at its own contrast.
The registration's quality would not do: measured on 64 x 64 px of real recordings, 0.97 for another field. By this
measure, with simulated fields of 512 x 796 px: the same field with other activity and noise, turned by up to 3 degrees
and moved by up to 60 px, 0.95 to 0.98; its other plane 0.05; another field 0.03. Real recordings of 64 x 64, 160 x 160
and 192 x 192 px: first third against last third 0.98, 0.94, 0.56 (26 frames each); 204 pairs of different fields of 64
to 128 px, 0.27 at most among those that the other checks let pass, none accepted at 0.4."""


class Day1(Struct, frozen=True):
    """Where today's field lies against that of day 1, on which the ROIs were drawn.

    A point of day 1 at p lies today at R (p + offset - c) + c: c is the middle of the lines that are seen, R turns by
    `rotation_deg`, counter-clockwise as the image is looked at.
    """

    offset_y_px: float
    offset_x_px: float
    rotation_deg: float
    match: float
    """Correlation of the two references there, of their detail where they overlap: 1 the same, 0 another field."""


def compare_with_day1(
    today: NDArray[np.float32],
    plane: int,
    day1: dict[int, NDArray[np.float32]],
    limit: float = 0.0,
    gated_lines: int = 0,
) -> Day1:
    """Find today's reference (height, width) on that of day 1, within 64 px and 3 degrees.

    Takes 0.5 to 2 s for 512 x 796 px, once, when the reference is built: the frames of that time wait. Measured on
    simulated fields, 18 places within the range: rotation to 0.03 degrees and every pixel to 0.3 px; with 111 gated
    lines to 0.08 degrees and 0.6 px. Raises ReferenceRefused if it is not there, if it is another plane's, if it is
    turned by more, or if the match is below `limit`.
    """
    if day1[plane].shape != today.shape:
        raise ReferenceRefused(f"reference: {today.shape} px, expected {day1[plane].shape} as on day 1")
    image, day1 = today[gated_lines:], {p: other[gated_lines:] for p, other in day1.items()}
    first = day1[plane]
    registrar = _whole(image.shape)
    template = registrar.template(first)
    rotation_deg = _rotation(image, first)
    image = turned(image, rotation_deg)
    spectra = registrar.spectra(image).copy()

    def quality(other: NDArray[np.float32]) -> float:
        return registrar.template(other).match(spectra).quality

    match = template.match(spectra)
    chance = max(quality(other) for other in wrong_images(first))
    rivals = {f"the day-1 reference of plane {p}": quality(other) for p, other in day1.items() if p != plane}
    if image.shape[0] == image.shape[1]:
        rivals["its own day-1 reference with rows and columns exchanged (pixel order)"] = quality(first.T)
    for name, value in rivals.items():
        if value > DISTINCT * max(match.quality, chance):
            raise ReferenceRefused(
                f"reference of plane {plane}: matches {name} with quality {value:.2f}, its own with "
                f"{match.quality:.2f}, expected the reverse; check the planes and the sender"
            )
    if not match.quality > DISTINCT * chance:
        raise ReferenceRefused(
            f"reference of plane {plane}: quality {match.quality:.2f} against day 1, {chance:.2f} against day 1 turned "
            f"upside down, expected a clear difference; find the field of view of day 1 again (within {LAG_PX} px and "
            f"{LIMIT_DEG:g} degrees)"
        )
    if round(abs(rotation_deg), 1) > LIMIT_DEG:  # the search ends there: where the ROIs lie is not known
        raise ReferenceRefused(
            f"reference of plane {plane}: turned by {rotation_deg:+.1f} degrees or more against day 1 (+: "
            f"counter-clockwise), expected {LIMIT_DEG:g} at most; turn the animal or the image back"
        )
    found = _nearer(match, registrar, template, image)
    score = _match(image, first, round(found.shift_y_px), round(found.shift_x_px))
    if score < limit:
        raise ReferenceRefused(
            f"reference of plane {plane}: matches day 1 with {score:.2f}, expected {limit:g} or more "
            "(match_limit); find the field of view and the depth of day 1 again"
        )
    return Day1(found.shift_y_px, found.shift_x_px, rotation_deg, score)


def placed(
    rois: RoiSet, day1: Day1, shape: tuple[int, int], gated_lines: int = 0
) -> tuple[RoiSet, tuple[float, float]]:
    """Day 1's ROIs on today's image, and what whole pixels leave of the offset (y, x).

    Raises ValueError if that leaves a ROI without a pixel.
    """
    dy, dx = round(day1.offset_y_px), round(day1.offset_x_px)
    if not day1.rotation_deg:
        return rois.moved(dy, dx, shape), (day1.offset_y_px - dy, day1.offset_x_px - dx)
    turn = _turn(day1.rotation_deg)
    middle = _middle((shape[0] - gated_lines, shape[1])) + np.array([gated_lines, 0.0])
    points = np.stack([rois.rows + day1.offset_y_px, rois.cols + day1.offset_x_px]) - middle[:, None]
    rows, cols = np.round(turn @ points + middle[:, None]).astype(np.int32)
    owner = np.repeat(np.arange(len(rois.names)), rois.lengths)
    unique = np.unique(np.stack([owner, rows, cols]), axis=1)  # two pixels that fall on one count once
    lengths = np.bincount(unique[0], minlength=len(rois.names)).astype(np.int32)
    turned_rois = RoiSet(rois.names, lengths, unique[1].astype(np.int32), unique[2].astype(np.int32))
    return turned_rois.moved(0, 0, shape), (0.0, 0.0)


def on_today(first: NDArray[np.float32], day1: Day1, gated_lines: int = 0) -> NDArray[np.uint8]:
    """Day 1's reference moved to where it lies today, to be looked at: 1st percentile black, 99.7th white, and black
    what it does not reach."""
    seen = first[gated_lines:]
    low, high = np.nanpercentile(seen, (1, 99.7))
    scaled = np.clip((np.nan_to_num(seen) - low) * (255 / max(high - low, 1e-9)), 0, 255)
    back, middle = _turn(day1.rotation_deg).T, _middle(seen.shape)
    offset = middle - back @ middle - (day1.offset_y_px, day1.offset_x_px)
    out = np.zeros(first.shape, np.uint8)
    out[gated_lines:] = ndimage.affine_transform(scaled, back, offset, order=1, output=np.uint8)
    return out


def turned(image: NDArray[np.float32], rotation_deg: float) -> NDArray[np.float32]:
    """The image as it was before it was turned by this around its middle; the image itself for 0."""
    if not rotation_deg:
        return image
    turn, middle = _turn(rotation_deg), _middle(image.shape)
    out = ndimage.affine_transform(image, turn, middle - turn @ middle, order=1, mode="nearest", output=np.float32)
    return np.asarray(out, np.float32)


def _rotation(image: NDArray[np.float32], first: NDArray[np.float32]) -> float:
    """Degrees by which the image is turned against the first, 0 for less than can be told."""
    n = max(1, min(image.shape) // COARSE_PX)
    steps = round(LIMIT_DEG / COARSE_DEG)
    coarse = [COARSE_DEG * k for k in range(-steps, steps + 1)]
    best = coarse[int(np.argmax(_likenesses(_summed(image, n), _summed(first, n), coarse, LAG_PX // n)))]
    k = 0
    while k in (0, 2 * FINE_STEPS) and abs(best) <= LIMIT_DEG:  # the best of the coarse ones may be beside the mark
        near = [best + FINE_DEG * (j - FINE_STEPS) for j in range(2 * FINE_STEPS + 1)]
        found = _likenesses(image, first, near, LAG_PX)
        k = int(np.argmax(found))
        best = near[k]
    if 0 < k < 2 * FINE_STEPS:
        before, here, after = found[k - 1 : k + 2]
        bend = before - 2 * here + after
        best += FINE_DEG * 0.5 * (before - after) / bend if bend < 0 else 0.0
    corner_px = math.radians(abs(best)) * math.hypot(*image.shape) / 2
    return best if corner_px >= STRAIGHT_PX else 0.0


def _likenesses(
    image: NDArray[np.float32], first: NDArray[np.float32], angles_deg: list[float], lag_px: int
) -> list[float]:
    registrar = _whole(image.shape, lag_px)
    template = registrar.template(first)
    return [template.likeness(registrar.spectra(turned(image, a))) for a in angles_deg]


def _nearer(match: Match, registrar: Registrar, template: Template, image: NDArray[np.float32]) -> Match:
    """Once more from nearby: an offset of many pixels is measured with less bias when little of it is left."""
    dy, dx = round(match.shift_y_px), round(match.shift_x_px)
    rest = template.match(registrar.spectra(np.roll(image, (-dy, -dx), (0, 1))))
    if rest.quality < match.quality:
        return match
    return Match(dy + rest.shift_y_px, dx + rest.shift_x_px, rest.quality)


def _match(image: NDArray[np.float32], first: NDArray[np.float32], dy: int, dx: int) -> float:
    """Correlation of the details of two images, 0 to 1, where they overlap once the image is moved back."""
    target, source = overlap((first.shape[0], first.shape[1]), dy, dx)
    here, there = _detail(image)[source], _detail(first)[target]
    return max(0.0, float(np.corrcoef(here.ravel(), there.ravel())[0, 1]))


def _detail(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """What stands out from its surroundings, in units of how much things stand out there."""
    image = image.astype(float)
    out = image - ndimage.gaussian_filter(image, SURROUND_PX)
    spread = np.sqrt(ndimage.gaussian_filter(out**2, SURROUND_PX))
    out = np.divide(out, spread, out=np.zeros_like(out), where=spread > 0)  # 0 where nothing stands out at all
    return np.asarray(ndimage.gaussian_filter(out, DETAIL_PX))


def _whole(shape: tuple[int, ...], lag_px: int = LAG_PX) -> Registrar:
    size = (shape[0], shape[1])
    return Registrar(size, area=size, grid=(1, 1), lag_px=lag_px)


def _summed(image: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Sums of n x n pixels."""
    height, width = (length // n for length in image.shape)
    return np.asarray(image[: height * n, : width * n].reshape(height, n, width, n).sum(axis=(1, 3)), np.float32)


def _turn(rotation_deg: float) -> NDArray[np.float64]:
    """Matrix on (row, column); positive is counter-clockwise as the image is looked at."""
    cos, sin = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    return np.array([[cos, -sin], [sin, cos]])


def _middle(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return (np.array(shape[:2], float) - 1) / 2
