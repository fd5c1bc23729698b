"""The project's decoder and another laboratory's keep the same contract."""

from typing import Any

import numpy as np
import pytest
from decoder_contract import DecoderContract
from exponential_decoder import ExponentialDecoder
from numpy.typing import NDArray

from loop2p.decoding import DifferenceDecoder


class TestDifferenceDecoder(DecoderContract):
    def make(self, plus: list[int], minus: list[int]) -> Any:
        return DifferenceDecoder(plus, minus, 15.46)


class TestExponentialDecoder(DecoderContract):
    def make(self, plus: list[int], minus: list[int]) -> Any:
        return ExponentialDecoder(plus, minus, tau=5.0)


class Unsound:
    """Breaks each clause of the contract in a way that is named when it is built."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.total = 0.0
        self.kept: NDArray[np.float32] | None = None
        self.random = np.random.default_rng()

    def reset(self) -> None:
        if self.how != "remembers":
            self.total = 0.0

    def update(self, f: NDArray[np.float32]) -> Any:
        if self.how == "nan" and self.total > 1000:
            return float("nan")
        if self.how == "writes":
            f -= f.mean()
        if self.how == "random":
            return float(f[0] + self.random.random())
        if self.how == "deaf":
            return 0.0
        if self.how == "keeps":
            previous, self.kept = self.kept, f
            return 0.0 if previous is None else float(previous[0])
        self.total += float(f[0])
        return self.total


@pytest.mark.parametrize(
    ("how", "clause"),
    [
        ("nan", "test_gives_a_finite_float_for_every_frame"),
        ("deaf", "test_answers_to_what_it_sees"),
        ("random", "test_same_frames_give_same_values"),
        ("remembers", "test_reset_forgets"),
        ("writes", "test_does_not_change_the_frame"),
        ("writes", "test_takes_a_frame_that_can_not_be_written_to"),
        ("keeps", "test_does_not_keep_the_frame"),
    ],
)
def test_the_contract_finds_an_unsound_decoder(how: str, clause: str) -> None:
    class Suspect(DecoderContract):
        def make(self, plus: list[int], minus: list[int]) -> Any:
            return Unsound(how)

    with pytest.raises((AssertionError, ValueError)):
        getattr(Suspect(), clause)()
