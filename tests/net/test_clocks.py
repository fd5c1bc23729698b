"""Clocks of three machines against a truth that only the laboratory knows."""

from pathlib import Path
from statistics import median
from typing import Any

import pytest
from lab import HALF_WAY, OFFSETS_S, Laboratory
from lab.rig import SpreadRig, spread
from lab.truth import ClockError, clock_errors, said
from rigs import rig_text

from loop2p.protocol import ROLES, Clock, Envelope

pytestmark = pytest.mark.net
SEED = 20261130


def quiet_rig(folder: Path) -> Any:
    """A rig of services that do nothing but beat and know the time."""
    text = rig_text(list(range(5500, 5530)), "runs", classes=dict.fromkeys(ROLES, "toys:Quiet"))
    return spread(text, folder, clock={"reference": "task", "bound_limit_ms": 10.0})


def watch_clocks(rig: SpreadRig, readings: int, sources: tuple[str, ...] = ("imaging", "stimulus")) -> list[ClockError]:
    """Wait until each source has told its clock that often, 1 s apart, its first second's left out."""
    settled: dict[str, int] = dict.fromkeys(sources, 0)

    def enough(envelope: Envelope) -> bool:
        if isinstance(envelope.message, Clock) and envelope.header.source in settled:
            settled[envelope.header.source] += 1
        return all(n >= readings + 16 for n in settled.values())

    rig.wait(enough, f"{readings} readings of each clock", 60 + 2 * readings)
    return clock_errors(rig.lab, rig.clocks)


def check(errors: list[ClockError]) -> None:
    print(said(errors))
    beyond = [e for e in errors if abs(e.error_us) > e.bound_us]
    assert not beyond, f"the true error was beyond the stated bound: {beyond[:5]}"


@pytest.mark.parametrize("readings", [10, pytest.param(120, marks=pytest.mark.long)])
def test_offset_drift_and_asymmetry_at_once_stay_within_the_bound(readings: int, tmp_path: Path):
    """A microscope PC that gains 500 us each second; a stimulus PC whose way to the reference is 6 ms longer than
    the way back, which no exchange of stamps can see: half of that is the error, and the bound must cover it."""
    with Laboratory(tmp_path, SEED, OFFSETS_S, {"microscope": 500.0}) as lab:
        lab.be(**HALF_WAY)
        lab.cables["stimulus"].be(there={"delay_ms": 7.0}, back={"delay_ms": 1.0})
        with SpreadRig(lab, quiet_rig(tmp_path)) as rig:
            errors = watch_clocks(rig, readings)
        print(f"the truth is known to {lab.drifts['microscope'].check_ns() / 1e3:.1f} us")
    check(errors)
    late = [e for e in errors if e.source == "stimulus" and e.at_s > 5]
    assert all(e.error_us > 1_000 for e in late), "half of 6 ms, had the wires always been woken in time"
    assert all(e.bound_us > 4_000 for e in late), "half the round trip of 10 ms, less the jitter"
    last = [e for e in errors if e.source == "imaging"][-1]
    assert abs(last.error_us) < 0.5 * 500 * last.at_s, "not followed, it would be 500 us off for each second"


@pytest.mark.long
@pytest.mark.parametrize("ppm", [50.0, 500.0, -500.0])
def test_a_drifting_clock_is_followed(ppm: float, tmp_path: Path):
    with Laboratory(tmp_path, SEED, OFFSETS_S, {"microscope": ppm}) as lab:
        lab.be(**HALF_WAY)
        with SpreadRig(lab, quiet_rig(tmp_path)) as rig:
            errors = watch_clocks(rig, 150)
    check(errors)
    settled = [e for e in errors if e.at_s > 30]
    print("behind the first 30 s\n" + said(settled))
    found_us = median(abs(e.error_us) for e in settled if e.source == "imaging")
    assert found_us < abs(ppm) * 30 / 2, "not followed, it would be off by what it drifts in half a minute of exchanges"
