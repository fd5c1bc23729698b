"""What comes in: chunks of a stream as LSL gives them, messages for the recording out. Pure.

Times: a stream's own stamp + LSL's correction = LSL time of this machine -> rig clock. The bound of a message is that
of the rig clock here and LSL's own uncertainty together.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from loop2p.lsl.options import Wanted
from loop2p.protocol import External, f64, i64

MOST_CHANNELS = 4096
MOST_VALUES_PER_S = 1_000_000
"""A stream that announces more is refused before liblsl makes room for it."""
MOST_VALUES = 20_000
"""Of one message: 160 kB, well below what a control socket takes."""
MOST_TEXT_BYTES = 100_000
FAR_S = 3600.0
"""A stamp further from now than this is by another clock than LSL's."""
MAX_TEXT = 200


class Found(Struct, frozen=True):
    """What a stream says of itself."""

    name: str
    type: str
    source_id: str
    host: str
    n_channels: int
    rate_hz: float
    is_text: bool
    channels: Sequence[str | None] | None = None
    """Labels, where it has any."""
    units: Sequence[str | None] | None = None

    @property
    def source(self) -> str:
        """In words."""
        return ", ".join(f"{k} {v[:MAX_TEXT]}" for k, v in structs.asdict(self).items() if k in _SOURCE and v)


_SOURCE = ("name", "type", "source_id", "host")


def problem_of(found: Found, wanted: Wanted) -> str:
    """Why a stream can't be recorded; empty if it can."""
    if not 0 < found.n_channels <= MOST_CHANNELS:
        return f"has {found.n_channels} channels, expected 1 to {MOST_CHANNELS}"
    if wanted.channels and found.n_channels != wanted.channels:
        return f"has {found.n_channels} channels, expected {wanted.channels} as in the rig file"
    if not (math.isfinite(found.rate_hz) and found.rate_hz >= 0):
        return f"announces a rate of {found.rate_hz} Hz, expected a number from 0"
    if found.rate_hz * found.n_channels > MOST_VALUES_PER_S:
        return (
            f"announces {found.rate_hz:g} Hz of {found.n_channels} channels, expected at most {MOST_VALUES_PER_S} "
            "values a second"
        )
    return ""


class Incoming:
    """One stream's samples on their way to the recording."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.lost = 0
        """Samples that could not be used, since the start."""
        self.refused_stamps = 0
        self._found: Found | None = None
        self._gap = ""
        self._lost_now = 0
        self._ever = False

    def opened(self, found: Found) -> None:
        """The stream is there (again)."""
        self._found = found

    def gone(self, why: str) -> list[External]:
        """It is not there any more: told at once, so that the gap is on record though it never come back."""
        if self._found is None:
            return []
        message = self._message(b"", 0, gap=why)
        self._found, self._gap = None, why
        return [message]

    def missed(self, n: int, why: str) -> None:
        """So many samples will never come; the next message says so."""
        self.lost += n
        self._lost_now += n
        self._gap = self._gap or why

    def take(
        self,
        values: NDArray[Any],
        stamps_s: NDArray[np.float64],
        to_rig_ns: Callable[[float], int],
        bound_ns: int,
        now_s: float,
    ) -> list[External]:
        """A chunk: (n, n_channels) numbers or bytes, (n,) stamps in LSL time of this machine, s. Never raises.

        `now_s`: LSL's clock. What has no usable stamp or does not fit is left out, and counted as lost.
        """
        found = self._found
        if found is None or not len(stamps_s):
            return []
        n = len(stamps_s)
        if values.shape != (n, found.n_channels):
            self.missed(n, f"a chunk of {values.shape} values for {n} samples of {found.n_channels} channels")
            return []
        with np.errstate(invalid="ignore", over="ignore"):
            usable = np.abs(stamps_s - now_s) < FAR_S  # what is not a number is not
        if not usable.all():
            worst = stamps_s[~usable][0]
            bad = int(np.count_nonzero(~usable))
            self.refused_stamps += bad
            self.missed(
                bad,
                f"time stamps such as {worst:g}, expected LSL's clock, now {now_s:.0f}: within {FAR_S:g} s of it",
            )
            values, stamps_s = values[usable], stamps_s[usable]
        out: list[External] = []
        rows = max(1, MOST_VALUES // found.n_channels)
        for k in range(0, len(stamps_s), rows):
            t_ns = i64([to_rig_ns(float(s)) for s in stamps_s[k : k + rows]])
            out += self._piece(values[k : k + rows], t_ns, bound_ns)
        return out

    def _piece(self, values: NDArray[Any], t_ns: bytes, bound_ns: int) -> list[External]:
        assert self._found is not None
        if not self._found.is_text:
            return [self._message(t_ns, bound_ns, values=f64(values))]
        texts = [_text(value) for value in values.ravel()]
        if sum(map(len, texts)) <= MOST_TEXT_BYTES:
            return [self._message(t_ns, bound_ns, texts=texts)]
        if len(t_ns) == 8:
            self.missed(1, f"a sample of more than {MOST_TEXT_BYTES} characters")
            return []
        half = len(values) // 2
        return [
            *self._piece(values[:half], t_ns[: 8 * half], bound_ns),
            *self._piece(values[half:], t_ns[8 * half :], bound_ns),
        ]

    def _message(self, t_ns: bytes, bound_ns: int, gap: str = "", **more: Any) -> External:
        found = self._found
        assert found is not None
        lost, self._lost_now = self._lost_now, 0
        told, self._gap = gap or self._gap, ""
        return External(
            stream=self.stream,
            source=found.source,
            rate_hz=found.rate_hz,
            channels=_named(found.channels, found.n_channels, "channel {}"),
            units=_named(found.units, found.n_channels, "") if any(found.units or ()) else [],
            t_ns=t_ns,
            bound_ns=bound_ns,
            lost=lost,
            gap=told[:MAX_TEXT],
            **more,
        )


def _named(said: Sequence[str | None] | None, n: int, otherwise: str) -> list[str]:
    """(n,) what the stream says of its channels, filled up where it says nothing."""
    given = [str(s or "")[:MAX_TEXT] for s in said or ()][:n]
    given += [""] * (n - len(given))
    return [text or otherwise.format(k) for k, text in enumerate(given)]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
