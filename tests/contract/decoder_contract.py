"""What every decoder must do. Subclass it, say how yours is made, and run pytest on it."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]


class DecoderContract:
    """A mix-in for tests: a decoder is sound when a subclass passes.

    >>> class TestMine(DecoderContract):
    ...     def make(self, plus, minus):
    ...         return MyDecoder(plus, minus, tau=4.0)
    """

    plus: ClassVar[list[int]] = [0, 1, 2, 3]
    minus: ClassVar[list[int]] = [4, 5, 6, 7]
    n_rois: ClassVar[int] = 12

    def make(self, plus: list[int], minus: list[int]) -> Any:
        """Build the decoder under test."""
        raise NotImplementedError

    def frames(self) -> Frames:
        """100 s of made-up F at 15.46 Hz, (n_frames, n_rois): noise over a baseline, with transients."""
        rng = np.random.default_rng(20)
        f = rng.normal(200, 10, (1546, self.n_rois)) + 150 * (rng.random((1546, self.n_rois)) < 0.01)
        return f.astype(np.float32)

    def _fresh(self) -> Any:
        return self.make(list(self.plus), list(self.minus))

    def _values(self, decoder: Any, frames: Frames) -> list[float]:
        return [decoder.update(f) for f in frames]

    def test_gives_a_finite_float_for_every_frame(self) -> None:
        values = self._values(self._fresh(), self.frames())
        assert all(isinstance(v, float) for v in values)
        assert np.isfinite(values).all()

    def test_answers_to_what_it_sees(self) -> None:
        assert len(set(self._values(self._fresh(), self.frames()))) > 1

    def test_same_frames_give_same_values(self) -> None:
        assert self._values(self._fresh(), self.frames()) == self._values(self._fresh(), self.frames())

    def test_reset_forgets(self) -> None:
        decoder, frames = self._fresh(), self.frames()
        first = self._values(decoder, frames)
        decoder.update(5 * frames[0])
        decoder.reset()
        assert self._values(decoder, frames) == first

    def test_two_decoders_share_nothing(self) -> None:
        frames = self.frames()
        alone = self._values(self._fresh(), frames)
        one, other = self._fresh(), self._fresh()
        values = []
        for f in frames:
            values.append(one.update(f))
            other.update(3 * f[::-1])
        assert values == alone

    def test_does_not_change_the_frame(self) -> None:
        decoder = self._fresh()
        for f in self.frames()[:50]:
            before = f.copy()
            decoder.update(f)
            np.testing.assert_array_equal(f, before)

    def test_takes_a_frame_that_can_not_be_written_to(self) -> None:
        """As it comes off the wire."""
        decoder = self._fresh()
        for f in self.frames()[:50]:
            assert np.isfinite(decoder.update(np.frombuffer(f.tobytes(), "<f4")))

    def test_does_not_keep_the_frame(self) -> None:
        """The caller may use the same array for the next frame."""
        frames = self.frames()
        buffer, decoder, values = np.empty(self.n_rois, np.float32), self._fresh(), []
        for f in frames:
            buffer[:] = f
            values.append(decoder.update(buffer))
            buffer[:] = -1e6
        assert values == self._values(self._fresh(), frames)

    def test_dff_if_there_is_one_has_a_value_for_each_roi(self) -> None:
        decoder = self._fresh()
        for f in self.frames()[:5]:
            decoder.update(f)
            dff = getattr(decoder, "dff", None)
            if dff is not None:
                assert np.shape(dff) == (self.n_rois,)
