"""A picture to look at once a screen is set up: which way is up, which way angles turn, are corners and gamma right?"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import Show
from loop2p.stimulus.core import Look, gamma_table, paint_patch, picture

ANGLE_DEG = 30.0
"""Of the grating on it: not symmetric, so that a mirrored or turned screen shows."""
WHITE, BLACK = 255, 0


def screen_test(width: int, height: int, look: Look | None = None) -> NDArray[np.uint8]:
    """(height, width) drive levels: the grating at 30 deg as the experiment shows it, with marks and words.

    A frame of one pixel along all four edges, TOP, LEFT and RIGHT; a line along the bars at 0 and one at 30 deg, and an
    arrow in the sense in which angles grow; the photodiode patch, white; nine steps of luminance; and a square of black
    and white pixels in turn, which from afar looks as grey as what is around it where gamma is right.
    """
    from PIL import Image, ImageDraw, ImageFont

    look = look or Look()
    image = Image.fromarray(picture(width, height, Show(what="grating", angle_deg=ANGLE_DEG), True, look))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9, height // 28))
    draw.rectangle((0, 0, width - 1, height - 1), outline=WHITE)

    def words(x: float, y: float, text: str, anchor: str) -> None:
        draw.text((x, y), text, fill=WHITE, font=font, anchor=anchor, stroke_width=2, stroke_fill=BLACK)

    gap = height // 40
    words(width / 2, gap, "TOP", "mt")
    words(gap, height / 2, "LEFT", "lm")
    words(width - gap, height / 2, "RIGHT", "rm")
    _turn(draw, words, width / 2, height / 2, 0.36 * height)
    _steps(draw, look, gap, height - gap, height // 16)
    size, bottom = height // 8, height - 3 * gap - height // 16
    words(2 * gap + size, bottom - size / 2, "as grey as around it: gamma right", "lm")
    marked = np.array(image)
    rows, columns = np.mgrid[bottom - size : bottom, gap : gap + size]
    marked[rows, columns] = np.where((rows + columns) % 2, WHITE, BLACK)
    paint_patch(marked, True, look)  # over whatever was drawn there
    return marked


def _turn(draw: Any, words: Any, x: float, y: float, radius: float) -> None:
    """Lines along the bars at 0 and at ANGLE_DEG, and the arrow from one to the other: counter-clockwise as seen."""

    def at(angle_deg: float, r: float) -> tuple[float, float]:
        angle = math.radians(angle_deg)
        return x - r * math.sin(angle), y - r * math.cos(angle)  # rows count downwards

    for angle_deg in (0.0, ANGLE_DEG):
        for fill, thick in ((BLACK, 5), (WHITE, 3)):
            draw.line((at(angle_deg, radius), at(angle_deg + 180, radius)), fill=fill, width=thick)
    box = (x - radius, y - radius, x + radius, y + radius)
    for fill, thick in ((BLACK, 5), (WHITE, 3)):
        draw.arc(box, 270 - ANGLE_DEG, 270, fill=fill, width=thick)  # PIL counts clockwise from the right
    tip, size = at(ANGLE_DEG, radius), radius / 12
    back = [at(ANGLE_DEG - math.degrees(size / radius) * 1.6, radius + side * size) for side in (-0.7, 0.7)]
    draw.polygon([tip, *back], fill=WHITE, outline=BLACK)
    words(*at(-4, radius), "0", "ls")
    words(*at(ANGLE_DEG + 4, radius * 1.02), f"+{ANGLE_DEG:g} deg, counter-clockwise", "rs")


def _steps(draw: Any, look: Look, left: int, bottom: int, size: int) -> None:
    """Nine squares whose luminance rises evenly from black to white."""
    for k, luminance in enumerate(np.linspace(0, 1, 9)):
        x = left + k * size
        draw.rectangle((x, bottom - size, x + size - 1, bottom - 1), fill=_drive(look, float(luminance)))


def _drive(look: Look, luminance: float) -> int:
    """Drive level, 0 to 255, of a luminance, 0 to 1."""
    return math.floor(float(np.interp(luminance * 255, np.arange(256), gamma_table(look))) * 255 + 0.5)
