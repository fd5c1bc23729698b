"""What is there to be sent to browsers, and what of it one browser still lacks. Pure.

Nothing is queued: there is one newest value of each thing, and a browser that reads slowly is sent fewer of them.
Messages to the browser are JSON, {"kind": ..., ...}, or a picture: byte 0 its kind, byte 1 the plane, then a JPEG.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from loop2p.console.samples import COLUMNS, Samples

LIVE, REFERENCE, DAY1 = 0, 1, 2
"""Kinds of pictures."""

encode = msgspec.json.encode


class Board:
    """The newest of everything."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.texts: dict[str, tuple[int, str]] = {}
        """Kind -> (number, JSON)."""
        self.pictures: dict[tuple[int, int], tuple[int, bytes]] = {}
        """(kind, plane) -> (number, bytes)."""
        self.pictures_put = 0
        """Pictures that came, whoever took them."""
        self._number = 0
        self._chunk: tuple[int, int, str] = (0, 0, "")

    def put(self, kind: str, value: Any) -> None:
        """This holds now. What is there already is no news."""
        text = '{"kind":"' + kind + '","value":' + encode(value).decode() + "}"
        if self.texts.get(kind, (0, ""))[1] != text:
            self.texts[kind] = self._next(), text

    def put_picture(self, kind: int, plane: int, jpeg: bytes) -> None:
        self.pictures_put += 1
        self.pictures[kind, plane] = self._next(), bytes((kind, plane)) + jpeg

    def forget_live(self) -> None:
        """Nobody looks: an old picture must not be taken for a new one by who comes next."""
        self.pictures = {key: known for key, known in self.pictures.items() if key[0] != LIVE}

    def _next(self) -> int:
        self._number += 1
        return self._number

    def rows_since(self, row: int) -> tuple[int, str] | None:
        """(number of the next row, JSON of the rows from `row` on); None if there are none. Most browsers ask for the
        same ones, so they are encoded once."""
        if row >= self.samples.count:
            return None
        if self._chunk[:2] != (row, self.samples.count):
            first, rows = self.samples.since(row)
            value = {"kind": "samples", "columns": COLUMNS, "epoch": self.samples.epoch, "first": first, "rows": rows}
            self._chunk = row, self.samples.count, encode(value).decode()
        return self.samples.count, self._chunk[2]


class Reader:
    """One browser: what it was sent."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._begin = board.pictures_put - len(board.pictures)
        self.pictures = 0
        """That it was sent, or is being sent."""
        self._row = 0
        self._sent: dict[object, int] = {}

    def lacks(self) -> Iterator[str | bytes]:
        """What it lacks, one after another: each is the newest at the moment it is asked for."""
        board = self._board
        for kind in list(board.texts):
            number, text = board.texts[kind]
            if self._sent.get(kind, 0) < number:
                self._sent[kind] = number
                yield text
        chunk = board.rows_since(self._row)
        if chunk is not None:
            self._row, text = chunk
            yield text
        for key in list(board.pictures):
            number, data = board.pictures[key]
            if self._sent.get(key, 0) < number:
                self._sent[key] = number
                self.pictures += 1
                yield data

    @property
    def pictures_passed_over(self) -> int:
        """Newer ones came before it had taken those before."""
        return self._board.pictures_put - self._begin - self.pictures
