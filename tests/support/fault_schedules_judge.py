"""What must hold whatever went wrong, read from the pin log and from the commands that were given."""

import itertools
from collections.abc import Iterator

import numpy as np
from fault_schedules import MS
from fault_schedules_rig import CALIBRATION, MAX_OPEN_MS, Record, Silence
from msgspec import Struct
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from loop2p.protocol import OptoCommand, RewardCommand

LOSS_US = 250 * MS
"""From a loss to pins low, at most."""
LIFE_US = 250 * MS
"""A command is worth nothing after this."""
TURN_US = 5 * MS
"""One turn of the virtual loop, and the way over the line."""
GREET_US = 12 * MS
"""Who opens the line makes it safe; the bytes are on the way for so long at most."""
DUTY, WINDOW_US = 0.2, 100 * MS


class Pulse(Struct, frozen=True, order=True):
    begin_us: float
    end_us: float

    @property
    def width_us(self) -> float:
        return self.end_us - self.begin_us


class Violation(Struct, frozen=True):
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


def pulses(record: Record, pin: str) -> list[Pulse]:
    """What a pin did; one that is still high ends with the log."""
    edges = [e for e in record.edges if e.pin == pin]
    assert all(a.level != b.level for a, b in itertools.pairwise(edges))
    ends = [e.t_us for e in edges if not e.level] + [record.end_us]
    return [Pulse(e.t_us, end) for e, end in zip((e for e in edges if e.level), ends, strict=False)]


def judge(record: Record) -> list[Violation]:
    """Every rule that was broken, once for each time."""
    valve, led = pulses(record, "valve"), pulses(record, "led")
    return [
        *_openings(record, valve),
        *_volume(record, valve),
        *_given(record, valve),
        *_duty(record, led),
        *_silence(record, valve + led),
        *_light(record, led),
        *_alive(record, valve, led),
    ]


def _openings(record: Record, valve: list[Pulse]) -> Iterator[Violation]:
    for p in valve:
        if p.width_us > MAX_OPEN_MS * MS + record.tolerance_us:
            yield Violation("no opening longer than the limit", f"{p.width_us:.0f} us at {p.begin_us:.0f}")


def _volume(record: Record, valve: list[Pulse]) -> Iterator[Violation]:
    ul = given_ul(record, valve)
    if ul > record.schedule.session_ul + 1e-9:
        yield Violation("no more than the session's ul", f"{ul:.3f} ul of {record.schedule.session_ul:g}")


def given_ul(record: Record, valve: list[Pulse]) -> float:
    """By calibration; what an interrupt comes late is not counted."""
    return sum(CALIBRATION.volume_ul(max(0.0, p.width_us - record.tolerance_us)) for p in valve)


def _given(record: Record, valve: list[Pulse]) -> Iterator[Violation]:
    """Each opening has a command of its own: given by task, accepted, alive, for no shorter a time."""
    rewards = [i for i in record.issued if i.good and i.accepted and isinstance(i.command, RewardCommand)]
    if not valve:
        return
    late_us = LIFE_US + TURN_US + record.set_back_us
    may = np.zeros((len(valve), max(1, len(rewards))), dtype=np.int8)
    for row, p in enumerate(valve):
        for column, r in enumerate(rewards):
            assert isinstance(r.command, RewardCommand)
            long_enough = p.width_us <= CALIBRATION.open_us(r.command.volume_ul) + record.tolerance_us
            may[row, column] = long_enough and r.at_us <= p.begin_us <= r.at_us + late_us
    found = maximum_bipartite_matching(csr_matrix(may), perm_type="column")
    for p, match in zip(valve, found, strict=True):
        if match < 0:
            near = [round((p.begin_us - r.at_us) / MS) for r in rewards if r.at_us <= p.begin_us]
            yield Violation(
                "no opening without a command of its own",
                f"{p.width_us:.0f} us at {p.begin_us / MS:.1f} ms; the newest commands were {near[-3:]} ms old",
            )


def worst_duty(led: list[Pulse], over_us: float) -> float:
    """The largest part of any window of this length that the LED was on."""
    starts = [p.begin_us for p in led] + [p.end_us - over_us for p in led]
    return max((_lit_us(led, s, s + over_us) / over_us for s in starts), default=0.0)


def _lit_us(led: list[Pulse], begin_us: float, end_us: float) -> float:
    return sum(max(0.0, min(p.end_us, end_us) - max(p.begin_us, begin_us)) for p in led)


def _duty(record: Record, led: list[Pulse]) -> Iterator[Violation]:
    """In any time T at most duty x (T + window). A boot begins with whole credit."""
    widths = np.array([p.width_us for p in led])
    begins, ends = np.array([p.begin_us for p in led]), np.array([p.end_us for p in led])
    boots = np.array(record.resets)
    for k in range(len(led)):
        lit_us = np.cumsum(widths[k:])
        resets = np.searchsorted(boots, begins[k:]) - np.searchsorted(boots, begins[k]) if len(boots) else 0
        most_us = DUTY * (ends[k:] - begins[k] + WINDOW_US * (1 + resets)) + record.tolerance_us
        if np.any(lit_us > most_us):
            worst = int(np.argmax(lit_us - most_us))
            yield Violation(
                "LED within its duty",
                f"{lit_us[worst]:.0f} us of light in {ends[k + worst] - begins[k]:.0f} us from {begins[k]:.0f} on",
            )
            return


def low_after_us(record: Record, both: list[Pulse]) -> list[float]:
    """For each silence that lasted: how long after its begin a pin was high for the last time while it lasted."""
    times = []
    for s in record.silences:
        if s.end_us - s.begin_us > LOSS_US:
            during = [
                min(p.end_us, s.end_us) - s.begin_us for p in both if p.end_us > s.begin_us and p.begin_us < s.end_us
            ]
            times.append(max(during, default=0.0))
    return times


def _silence(record: Record, both: list[Pulse]) -> Iterator[Violation]:
    lasting = [s for s in record.silences if s.end_us - s.begin_us > LOSS_US]
    for s, us in zip(lasting, low_after_us(record, both), strict=True):
        if us > LOSS_US + record.set_back_us:
            yield Violation(
                "pins low within 250 ms",
                f"{s.fault.what} {s.fault.target} at {s.begin_us / MS:.0f} ms: a pin was high {us / MS:.1f} ms later",
            )


def _line_is_bad(record: Record, s: Silence) -> bool:
    """Something else goes on on the line while it is opened again, or went on shortly before."""
    begin_ms = (s.begin_us - record.begin_us) / MS
    end_ms = (s.end_us - record.begin_us) / MS
    return any(
        f.target == "line" and f is not s.fault and f.at_ms <= end_ms and f.at_ms + f.for_ms >= begin_ms - 1500
        for f in record.schedule.faults
    )


def _light(record: Record, led: list[Pulse]) -> Iterator[Violation]:
    """After whatever disarms, the LED stays dark until task has armed it anew."""
    opto = [i for i in record.issued if isinstance(i.command, OptoCommand) and i.good and i.accepted]
    arms = [i.at_us for i in opto if i.command.armed]  # type: ignore[attr-defined]
    disarmed = [(float(us), us, "the reset") for us in record.resets]
    for s in record.silences:
        what = f"{s.fault.what} {s.fault.target}"
        if s.end_us - s.begin_us > LOSS_US + record.set_back_us:
            disarmed.append((s.begin_us + LOSS_US + record.set_back_us, s.begin_us, what))
        if s.reconnects:
            # SAFE comes over a bad line, too, in the end; no new lease comes before it, and the old one ends
            dark_us = s.begin_us + LOSS_US if _line_is_bad(record, s) else s.end_us + GREET_US
            disarmed.append((dark_us, s.begin_us, what))
    disarmed += [
        (i.done_us, i.at_us, "the command to disarm")
        for i in opto
        if not i.command.armed and i.done_us >= 0  # type: ignore[attr-defined]
    ]
    for p in led:
        if not any(at <= p.begin_us for at in arms):
            yield Violation("no light without a command to arm", f"at {p.begin_us / MS:.1f} ms")
            return
        for dark_us, since_us, what in disarmed:
            if p.begin_us > dark_us and not any(since_us < at <= p.begin_us for at in arms):
                yield Violation(
                    "no light after a loss until armed anew",
                    f"at {p.begin_us / MS:.1f} ms, disarmed by {what} at {since_us / MS:.1f} ms",
                )
                return


def _alive(record: Record, valve: list[Pulse], led: list[Pulse]) -> Iterator[Violation]:
    """What heals works again, if the ration allows."""
    arm = record.issued[record.last_arm]
    if not any(p.begin_us > arm.at_us for p in led):
        yield Violation("the LED works after all has healed", "no light")
    if record.schedule.session_ul >= 1000 and not any(p.begin_us >= arm.at_us for p in valve):
        yield Violation("the valve works after all has healed", "no opening")
