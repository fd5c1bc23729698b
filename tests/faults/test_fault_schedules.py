"""Random fault schedules: whatever goes wrong between task and the pins, valve and LED keep their limits.

Each schedule is drawn from a seed, run in virtual time, and judged by the pin log of the firmware: its core compiled
for this computer, and the true firmware in simavr. To see one alone, with what it is made of:

    LOOP2P_SCHEDULE_SEED=42 python -m pytest -q -s tests/faults/test_fault_schedules.py -k one_by_its_seed
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_schedules import MS, Schedule, draw, minimal
from fault_schedules_judge import Violation, judge, low_after_us, pulses, worst_duty
from fault_schedules_mutants import MUTANTS, Mutant
from fault_schedules_rig import Record, VirtualRig
from simavr_firmware import Bench, HostBench, SimavrBench

BOOT = 0x100
SIMAVR_TOLERANCE_US = 600.0
"""A pulse whose timer was missed (deploy/firmware/README.md) ends with the next look, 0.5 ms later at most."""
S = 1e6

Run = Callable[[Schedule], Record]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")  # each refusal is logged, and there are thousands


@pytest.fixture
def core(tmp_path: Path) -> Run:
    """The firmware's core on this computer."""
    return lambda schedule: VirtualRig(schedule, HostBench(BOOT), tmp_path).run()


@pytest.fixture
def simavr(tmp_path: Path) -> Run:
    """The true firmware, instruction by instruction."""

    def run(schedule: Schedule) -> Record:
        bench: Bench = SimavrBench(BOOT)
        try:
            return VirtualRig(schedule, bench, tmp_path, SIMAVR_TOLERANCE_US).run()
        finally:
            bench.close()

    return run


class Summary:
    """What was seen in all schedules together."""

    def __init__(self) -> None:
        self.began_s, self.schedules = time.monotonic(), 0
        self.happened: Counter[str] = Counter()
        self.low_us, self.open_us, self.duty, self.openings, self.lights = 0.0, 0.0, 0.0, 0, 0

    def add(self, record: Record) -> None:
        valve, led = pulses(record, "valve"), pulses(record, "led")
        self.schedules += 1
        self.happened += record.happened
        self.openings, self.lights = self.openings + len(valve), self.lights + len(led)
        if not record.set_back_us:
            self.low_us = max(self.low_us, *low_after_us(record, valve + led), 0.0)
        self.open_us = max(self.open_us, *(p.width_us for p in valve), 0.0)
        self.duty = max(self.duty, worst_duty(led, 1 * S))

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {n}" for name, n in sorted(self.happened.items()))
        seconds = time.monotonic() - self.began_s
        return (
            f"{self.schedules} schedules in {seconds:.0f} s: {self.openings} openings, the longest"
            f" {self.open_us / MS:.3f} ms; {self.lights} pulses of light, {self.duty:.3f} of a second at worst;"
            f" pins low {self.low_us / MS:.1f} ms after a loss at worst\n{counts}"
        )


def fail(run: Run, schedule: Schedule, found: list[Violation]) -> None:
    """Say which seed, and what is left of its schedule when all is left out that is not needed."""
    rule = found[0].rule
    least = minimal(schedule, lambda fewer: any(v.rule == rule for v in judge(run(fewer))))
    again = "\n".join(map(str, judge(run(least))))
    pytest.fail(
        f"seed {schedule.seed}: {found[0]}\n(LOOP2P_SCHEDULE_SEED={schedule.seed})\nat least:\n{least}\n{again}"
    )


def check(run: Run, seeds: range) -> Summary:
    summary = Summary()
    for seed in seeds:
        record = run(draw(seed))
        found = judge(record)
        if found:
            fail(run, draw(seed), found)
        summary.add(record)
    print(f"seeds {seeds.start} to {seeds.stop - 1}; {summary}")
    return summary


@pytest.mark.parametrize("count", [20, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_whatever_goes_wrong_the_pins_keep_the_limits(core: Run, count: int) -> None:
    summary = check(core, range(count))
    assert summary.openings > 4 * count  # schedules in which nothing moves prove nothing
    assert summary.lights > 20 * count


@pytest.mark.parametrize("count", [1, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_the_true_firmware_keeps_them_too(simavr: Run, count: int) -> None:
    summary = check(simavr, range(count))
    assert summary.openings > 4 * count
    assert summary.lights > 20 * count


def test_a_schedule_runs_the_same_each_time(core: Run) -> None:
    first, again = core(draw(3)), core(draw(3))
    assert first.edges == again.edges
    assert first.happened == again.happened


def test_one_by_its_seed(core: Run) -> None:
    seed = int(os.environ.get("LOOP2P_SCHEDULE_SEED", "0"))
    schedule = draw(seed)
    print(schedule)
    check(core, range(seed, seed + 1))


MOST = 80
"""Schedules that a broken interlock may survive; the most that one of these did was 33."""
QUICK = ("the lease never ends", "ids are forgotten", "armed survives safe", "late is as good as in time")


@pytest.mark.parametrize(
    "mutant", [pytest.param(m, id=m.name, marks=() if m.name in QUICK else pytest.mark.long) for m in MUTANTS]
)
def test_a_broken_interlock_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    with mutant.library() as library:
        for seed in range(MOST):
            found = judge(VirtualRig(draw(seed), HostBench(BOOT, library=library), tmp_path).run())
            if found:
                print(f"{mutant.name}: caught by seed {seed}: {found[0]}")
                return
    pytest.fail(f"{mutant.name}: {MOST} schedules noticed nothing")


@pytest.mark.long
def test_what_is_not_needed_for_a_failure_is_left_out(tmp_path: Path) -> None:
    mutant = next(m for m in MUTANTS if m.name == "the valve stays open for twice as long")
    with mutant.library() as library:

        def fails(schedule: Schedule) -> bool:
            found = judge(VirtualRig(schedule, HostBench(BOOT, library=library), tmp_path).run())
            return any(v.rule == "no opening without a command of its own" for v in found)

        whole = next(s for s in map(draw, range(MOST)) if fails(s))
        least = minimal(whole, fails)
    assert len(least.faults) == 0
    assert len(least.asked) <= 1  # the reward with which every run ends is enough
