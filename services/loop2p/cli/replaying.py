"""A recorded session decided once more, from its journal alone, and compared with what was published then."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loop2p.protocol import Calibration, Message, Output, RequestLog, RewardCommand, Session, Show, Stall, Trial
from loop2p.recording.journal import read_journal
from loop2p.task.core import Drop
from loop2p.task.replay import RESTART, replay


def replay_run(folder: Path) -> dict[str, Any]:
    """Compare thresholds, pictures, trial edges and rewards, to the bit. Raises ValueError without a session."""
    kinds = Session | Output | Stall | RequestLog | Calibration | Show | Trial | RewardCommand
    messages = [m for m in (record.message for record in read_journal(folder)) if isinstance(m, kinds)]
    sessions = [m for m in messages if isinstance(m, Session)]
    if not sessions:
        raise ValueError(f"{folder}: no rig.session in the journal, so there is nothing to decide on")
    effects = replay(sessions[0], messages)
    commands = {m.id: m for m in messages if isinstance(m, RewardCommand)}  # a command is repeated until it is answered
    recorded: dict[str, list[Any]] = {
        "calibration": [_calibration(m) for m in messages if isinstance(m, Calibration)],
        "pictures": _pictures(messages),
        "trials": [_trial(m) for m in messages if isinstance(m, Trial)],
        "rewards": [(m.volume_ul, m.trial) for m in commands.values()],
    }
    again: dict[str, list[Any]] = {
        "calibration": [_calibration(m) for m in effects if isinstance(m, Calibration)],
        "pictures": _pictures(effects),
        "trials": [_trial(m) for m in effects if isinstance(m, Trial)],
        "rewards": [(m.volume_ul, m.trial) for m in effects if isinstance(m, Drop)],
    }
    restarted = any(isinstance(m, RequestLog) and m.kind == RESTART for m in messages)
    if restarted:  # the replay ends where a successor of task took over
        recorded = {what: rows[: len(again[what])] for what, rows in recorded.items()}
    compared = {what: _compare(recorded[what], again[what]) for what in recorded}
    return {
        "same": all(row["same"] for row in compared.values()),
        "compared": compared,
        "note": "task was started again during the session; compared up to there" if restarted else "",
    }


def _compare(recorded: Sequence[Any], again: Sequence[Any]) -> dict[str, Any]:
    pairs = zip(recorded, again, strict=False)
    first = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(recorded), len(again)))
    same = len(recorded) == len(again) == first
    return {
        "recorded": len(recorded),
        "replayed": len(again),
        "same": same,
        "first_difference": None if same else first,
    }


def _pictures(messages: Sequence[Message | Any]) -> list[tuple[str, float | None]]:
    """What was to be seen, change by change; the greys around the session are left out."""
    changes: list[tuple[str, float | None]] = []
    for message in messages:
        if isinstance(message, Show) and (not changes or changes[-1] != (message.what, message.angle_deg)):
            changes.append((message.what, message.angle_deg))
    while changes and changes[0][0] == "grey":
        changes.pop(0)
    while changes and changes[-1][0] == "grey":
        changes.pop()
    return changes


def _trial(message: Trial) -> tuple[int, str, float]:
    return message.trial, message.edge, message.t_s


def _calibration(message: Calibration) -> tuple[float, ...]:
    return message.minimum, message.threshold, message.mu, message.sigma, message.z_star, message.n_values
