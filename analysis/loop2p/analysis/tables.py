"""Results as tables, for whoever goes on with them: a line an event, neuron-session, session, test, or signature."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from loop2p.analysis.acceptance import Row
from loop2p.analysis.arm import Arm
from loop2p.analysis.contrast import Contrast, contrast
from loop2p.analysis.epochs import error_epochs
from loop2p.analysis.learning import accuracy, rates_hz, rewards_per_min, speed_cm_s
from loop2p.analysis.neurons import in_phase
from loop2p.analysis.outcome import EPOCHS
from loop2p.analysis.residuals import loop_residuals
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Test

KEYS = ["arm", "mouse", "day"]


def all_tables(arms: Mapping[str, Arm], rows: Sequence[Row], tests: Sequence[Test]) -> dict[str, pd.DataFrame]:
    """Name -> table; columns say their units."""
    return {
        "sessions": _each(arms, sessions_table),
        "neurons": _each(arms, neurons_table),
        "events": _each(arms, events_table),
        "acceptance": acceptance_table(rows),
        "tests": tests_table(tests),
    }


def _each(arms: Mapping[str, Arm], table: object) -> pd.DataFrame:
    parts = [table(arm).assign(arm=name) for name, arm in arms.items()]  # type: ignore[operator]
    whole = pd.concat(parts, ignore_index=True)
    return whole[["arm", *(c for c in whole.columns if c != "arm")]]


def sessions_table(arm: Arm) -> pd.DataFrame:
    """A line a session: learning, running, what its dendrites tell. NaN where it was not measured."""
    table = pd.DataFrame(
        {
            "mouse": [s.mouse for s in arm.sessions],
            "day": [s.day for s in arm.sessions],
            "hits": [int(np.sum(s.outcome == "hit")) for s in arm.sessions],
            "misses": [int(np.sum(s.outcome == "miss")) for s in arm.sessions],
            "accuracy": [accuracy(s) for s in arm.sessions],
            "rewards_per_min": [rewards_per_min(s) for s in arm.sessions],
            "speed_cm_s": [speed_cm_s(s) for s in arm.sessions],
            "n_pairs": [float(len(p.r)) for p in arm.pairs] or [np.nan] * len(arm.sessions),
        }
    )
    if arm.outcomes is not None:
        told = {"mouse": arm.outcomes.mouse, "day": arm.outcomes.day}
        for k, epoch in enumerate(EPOCHS):
            told[f"decoder_{epoch}"] = arm.outcomes.accuracy[:, k]
            told[f"decoder_{epoch}_shuffled"] = arm.outcomes.shuffled[:, k]
        table = table.merge(pd.DataFrame(told), on=["mouse", "day"], how="left")
    return table


def neurons_table(arm: Arm) -> pd.DataFrame:
    """A line for each proximal ROI of each session: role, rate, pair, residuals by epoch, network decoder."""
    found: Contrast = contrast([s for s in arm.sessions if _has_loop(s)])
    rates = [pd.DataFrame({"mouse": s.mouse, "day": s.day, "roi": np.arange(len(s.role)), "role": s.role,
                           "rate_hz": rates_hz(s)}) for s in arm.sessions]  # fmt: skip
    table = pd.concat(rates, ignore_index=True)
    epochs = {"mouse": found.mouse, "day": found.day, "roi": found.roi}
    for k, epoch in enumerate(("reduction", "increase")):
        epochs |= {f"z_{epoch}": found.residual[:, k], f"n_{epoch}": found.n_events[:, k]}
    keys = ["mouse", "day", "roi"]
    table = table.merge(pd.DataFrame(epochs), on=keys, how="left")
    if arm.like:
        table["like_decoder"] = np.concatenate(arm.like)
    if arm.pairs:
        pairs = [
            pd.DataFrame({"mouse": s.mouse, "day": s.day, "roi": p.proximal, "distal_roi": p.distal, "pair_r": p.r})
            for s, p in zip(arm.sessions, arm.pairs, strict=True)
        ]
        table = table.merge(pd.concat(pairs, ignore_index=True), on=keys, how="left")
    if arm.network is not None:
        names = ("mouse", "day", "roi", "accuracy", "r", "p")
        decoded = pd.DataFrame({name: getattr(arm.network, name) for name in names})
        decoded = decoded.rename(columns={name: f"network_{name}" for name in names[3:]})
        table = table.merge(decoded, on=keys, how="left")
    return table


def events_table(arm: Arm) -> pd.DataFrame:
    """A line a coincident event of a closed loop: sizes (dF/F), latency, z residual, sign of the error's epoch."""
    parts = [pd.DataFrame({"mouse": [], "day": []})]
    for session in filter(_has_loop, arm.sessions):
        events, z = loop_residuals(session)
        parts.append(
            pd.DataFrame(
                {
                    "mouse": session.mouse, "day": session.day, "roi": events.roi, "role": session.role[events.roi],
                    "t_s": events.t_s, "latency_s": events.latency_s, "soma": events.soma,
                    "dendrite": events.dendrite, "z": z, "rotation": error_epochs(session).at(events.t_s),
                }
            )
        )  # fmt: skip
    return pd.concat(parts[1:] or parts, ignore_index=True)


def acceptance_table(rows: Sequence[Row]) -> pd.DataFrame:
    """A line a signature."""
    names = ("id", "signature", "paper", "measured", "rule", "met", "aim", "detail", "imposed", "unmet")
    return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in names}).astype({"met": "boolean"})


def tests_table(tests: Sequence[Test]) -> pd.DataFrame:
    """A line a p."""
    names = ("what", "test", "level", "estimate", "p", "p_adjusted", "note")
    table = pd.DataFrame({name: [getattr(test, name) for test in tests] for name in names})
    table.insert(3, "n", [" + ".join(map(str, test.n)) for test in tests])
    return table


def _has_loop(session: SessionData) -> bool:
    """Whether there was a closed loop with events in both planes."""
    return len(session.events) == 2 and bool(in_phase(session, session.events[0].t_s, "closed_loop").any())
