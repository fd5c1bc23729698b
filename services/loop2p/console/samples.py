"""The newest seconds of the traces, a row for each proximal frame, for the page's charts. Pure."""

import math
from collections import deque

from loop2p.protocol import PROXIMAL, Lick, Output, Traces, Wheel, from_f32

COLUMNS = ("t_s", "value", "d", "plus", "minus", "shift_y_px", "shift_x_px", "quality", "speed_cm_s", "licks")
"""Frame time; control value and D (none where not valid); mean dF/F of P+ and of P-; shift and registration quality of
the proximal plane; running speed; licks since the row before."""
KEPT = 1000
"""Rows; 65 s at 15.46 Hz."""
OPEN = 8
"""Rows that wait for their control value, at most: it comes from another service, so it may be heard late, or first."""
DIGITS = 5

Row = tuple[float | None, ...]


class Samples:
    """Rows are numbered from 0 on, and what is not finite is None."""

    def __init__(self) -> None:
        self.plus: list[int] = []
        self.minus: list[int] = []
        self.count = 0
        """Rows so far."""
        self.epoch = 0
        """Rises when frame time runs back: earlier rows belong to another count of frames."""
        self._rows: deque[Row] = deque(maxlen=KEPT)
        self._open: dict[int, list[float | None]] = {}
        """Frame -> row: those whose control value may still come."""
        self._outputs: dict[int, Output] = {}
        """Frame -> control value that was heard before its traces."""
        self._speed: float | None = None
        self._licks: int | None = None
        self._licks_before = 0

    def take(self, message: object) -> None:
        """Take traces, a control value, licks or the wheel; of other messages nothing is taken."""
        match message:
            case Traces() if message.plane == PROXIMAL and message.cause is not None:
                self._begin(message.cause.frame, message.cause.time_s, message)
            case Output() if message.cause is not None:
                self._decode(message.cause.frame, message)
            case Wheel():
                self._speed = _number(message.speed_cm_s)
            case Lick():
                if self._licks is None or message.count < self._licks:  # the first one heard, or a new controller
                    self._licks_before = message.count - 1
                self._licks = message.count

    def _begin(self, frame: int, time_s: float, traces: Traces) -> None:
        licks = 0 if self._licks is None else self._licks - self._licks_before
        self._licks_before += licks
        shift = _number(traces.shift_y_px), _number(traces.shift_x_px), _number(traces.quality)
        self._open[frame] = [_number(time_s), None, None, None, None, *shift, self._speed, licks]
        early = self._outputs.pop(frame, None)
        if early is not None:
            self._decode(frame, early)
        while len(self._open) > OPEN:
            self._close(next(iter(self._open)))

    def _decode(self, frame: int, output: Output) -> None:
        if frame not in self._open:
            self._outputs[frame] = output
            if len(self._outputs) > OPEN:
                del self._outputs[next(iter(self._outputs))]
            return
        self._open[frame][1:5] = self._decoded(output)
        while frame in self._open:  # those before it get none any more
            self._close(next(iter(self._open)))

    def _close(self, frame: int) -> None:
        row = tuple(self._open.pop(frame))
        last = self._rows[-1][0] if self._rows else None
        if last is not None and row[0] is not None and not row[0] > last:
            self._rows.clear()
            self.epoch += 1
        self._rows.append(row)
        self.count += 1

    def _decoded(self, output: Output) -> list[float | None]:
        if not output.valid:
            return [None] * 4
        dff = from_f32(output.dff) if output.dff else None
        means: list[float | None] = []
        for rois in (self.plus, self.minus):
            known = dff is not None and rois and max(rois) < len(dff)
            means.append(_number(float(dff[rois].mean(dtype=float))) if dff is not None and known else None)
        return [_number(output.value), _number(output.d), *means]

    def begin_again(self, count: int, epoch: int) -> None:
        """The rows that are kept are sent anew to everybody: they follow on `count` others, and are of another time."""
        self.count, self.epoch = count + len(self._rows), epoch

    def since(self, row: int) -> tuple[int, list[Row]]:
        """(number of the first row given, rows): those from number `row` on, so far as they are kept."""
        first = max(row, self.count - len(self._rows))
        skip = len(self._rows) - (self.count - first)
        return first, list(self._rows)[skip:] if first < self.count else []


def _number(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None
