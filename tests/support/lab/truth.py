"""How wrong the rig's clocks were, by what the laboratory knows of them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lab.laboratory import Laboratory
from lab.rig import WHERE
from loop2p.protocol import Clock


class ClockError(NamedTuple):
    """One rig.clock message against the truth."""

    source: str
    at_s: float
    """Since the first message of all."""
    error_us: float
    bound_us: float


def clock_errors(
    lab: Laboratory, clocks: Iterable[tuple[str, str, int, Clock]], reference: str = "control"
) -> list[ClockError]:
    """Of each message (source, instance, sent_ns, Clock) of a service that is not on the reference's machine.

    A sender stamps a message with the rig clock as it knows it. Less its offset that is its local clock, of which the
    laboratory knows what the reference's clock showed then.
    """
    ahead_ns = lab.hosts[reference].offset_s * 10**9
    found: list[ClockError] = []
    first_ns = None
    for source, _, sent_ns, clock in clocks:
        host = WHERE.get(source, "control")
        if host == reference:
            continue
        local_ns = sent_ns - clock.offset_ns
        drift = lab.drifts.get(host)
        ours_ns = drift.ours_ns(local_ns) if drift else local_ns - lab.hosts[host].offset_s * 10**9
        first_ns = ours_ns if first_ns is None else first_ns
        error_us = (sent_ns - ours_ns - ahead_ns) / 1e3
        found.append(ClockError(source, (ours_ns - first_ns) / 1e9, error_us, clock.bound_ns / 1e3))
    return found


def said(errors: Iterable[ClockError]) -> str:
    """One line a service, for people."""
    lines = []
    errors = list(errors)
    for source in sorted({e.source for e in errors}):
        own = [e for e in errors if e.source == source]
        error, bound = np.array([e.error_us for e in own]), np.array([e.bound_us for e in own])
        p50, p99 = np.quantile(np.abs(error), [0.5, 0.99])
        found = f"|error| p50 {p50:.1f} p99 {p99:.1f} max {np.abs(error).max():.1f} us"
        found += f" (its median {np.median(error):+.1f}), bound {bound.min():.0f} to"
        share = (np.abs(error) / bound).max()
        lines.append(f"{source}: {len(own)} readings, {found} {bound.max():.0f} us, error / bound at most {share:.2f}")
    return "\n".join(lines)
