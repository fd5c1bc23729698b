"""summary.json: the run in numbers, all from its journal."""

import json
import math
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from loop2p.protocol import Alarm, Done, Lick, OptoCommand, Phase, RequestLog, RewardCommand, Stall, Traces, Trial
from loop2p.recording.latency import Latencies, quantiles
from loop2p.recording.run import Run

SILENT_NS = 2_000_000_000
"""A service that was not heard for so long before the journal's end was lost."""
FRAME_COUNTERS = {"received": "frames_received", "processed": "frames_processed", "dropped": "frames_dropped"}


def summarise(run_folder: Path) -> dict[str, Any]:
    """The run in numbers. Raises FileNotFoundError if the folder has no journal."""
    return summary_of(Run(run_folder))


def write_summary(run_folder: Path, run: Run | None = None) -> dict[str, Any]:
    """Make summary.json, at once or not at all; returns what is in it. `run`: the folder's, if it was read already.

    Raises FileNotFoundError without a journal, OSError.
    """
    summary = summary_of(run or Run(run_folder))
    temporary = run_folder / ".summary.json.partial"
    temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, run_folder / "summary.json")
    return summary


def summary_of(run: Run) -> dict[str, Any]:
    """The same for a run that is in memory. Values that are not finite are None: JSON has no other way."""
    return _finite(_summary(run))  # type: ignore[no-any-return]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(run: Run) -> dict[str, Any]:
    session, audit, latencies = run.session, run.audit, Latencies(run)
    trials = trial_table(run)
    outcomes = Counter(trial["outcome"] for trial in trials)
    given = [done for done in run.of(Done) if done.volume_ul > 0]
    hits, misses = outcomes["hit"], outcomes["miss"]
    return {
        "run_id": session.run_id,
        "simulated": session.simulated,
        "no_display": no_display(run),
        "overrides": list(session.overrides),
        "wall_time": session.wall_time,
        "duration_s": _duration_s(run),
        "day": _day(run),
        "trials": len(trials),
        "hits": hits,
        "misses": misses,
        "voids": outcomes["void"],
        "unfinished": outcomes["unfinished"],
        "loop_s": round(trials[-1]["stop_s"] - trials[0]["start_s"], 3) if trials else 0.0,
        "accuracy": round(hits / (hits + misses), 4) if hits + misses else None,
        "rewards": len(given),
        "reward_ul": round(sum(done.volume_ul for done in given), 6),
        "licks": _licks(run),
        "opto": any(m.armed for m in run.of(OptoCommand)),
        "frames": frame_counts(run),
        "latency_ms": {
            n: quantiles(latencies.loops[n][1]) | {"bound": latencies.bounds_ms[n]} for n in latencies.loops
        },
        "hops_ms": {
            n: quantiles(latencies.hops[n][1]) | {"bound": latencies.bounds_ms[f"hop {n}"]} for n in latencies.hops
        },
        "audit": {
            "complete": audit.complete,
            "topics": {t: {"expected": a.expected, "written": a.written} for t, a in audit.topics.items()},
            "segments": audit.segments,
        },
        "services": _services(run),
        "stalls": [{"what": m.what, "waited_s": m.waited_s, "last_frame": m.last_frame} for m in run.of(Stall)],
        "alarms": alarms(run),
        "faults": [{"service": m.service, "error": m.error, "detail": m.detail} for m in run.faults],
        "requests": [
            {"kind": m.kind, "by": m.by, "detail": m.detail, "accepted": m.accepted, "reason": m.reason}
            for m in run.of(RequestLog)
        ],
        "calibration": _fields(run.calibration),
        "rig_hash": session.rig_hash,
        "seeds": dict(session.seeds),
        "versions": dict(session.versions),
        "machine": _machine(),
        "notes": [*audit.notes, *_notes(run)],
    }


def trial_table(run: Run) -> list[dict[str, Any]]:
    """The trials in order: number, start and stop (frame time, s), outcome, hit and reward times.

    A trial ends with its hit, miss or void; one without such an edge is "unfinished" and ends where the next begins.
    A reward belongs to the trial its command named; its time is that of the valve, in frame time.
    """
    rows: list[dict[str, Any]] = []
    for edge in run.of(Trial):
        if edge.edge == "start":
            rows.append(
                {"trial": edge.trial, "start_s": edge.t_s, "stop_s": None, "outcome": "unfinished", "hit_s": None,
                 "reward_s": None, "reason": ""}
            )  # fmt: skip
        elif rows and rows[-1]["trial"] == edge.trial:
            rows[-1].update(stop_s=edge.t_s, outcome=edge.edge, reason=edge.reason)
            if edge.edge == "hit":
                rows[-1]["hit_s"] = edge.t_s
    commands = run.commands(RewardCommand)
    frame_time, by_trial = run.frame_time, {row["trial"]: row for row in rows}
    for done in run.of(Done):
        command = commands.get(done.id, (None, None))[1]
        if done.volume_ul > 0 and isinstance(command, RewardCommand) and command.trial in by_trial:
            by_trial[command.trial]["reward_s"] = float(frame_time([done.open_ns])[0])
    for row, next_start_s in zip(rows, [*[r["start_s"] for r in rows[1:]], _end_s(run)], strict=False):
        if row["stop_s"] is None:
            row["stop_s"] = max(row["start_s"], next_start_s)
    return rows


def frame_counts(run: Run) -> dict[str, int | None]:
    """Frames by imaging's own counters, over all its instances; None where it keeps no such counter."""
    rises = {
        name: [n for life in run.lives.values() if life.source == "imaging" and (n := life.rise(key)) is not None]
        for name, key in FRAME_COUNTERS.items()
    }
    return {name: sum(values) if values else None for name, values in rises.items()}


def no_display(run: Run) -> bool:
    """True if pictures were, at any time, only computed and not shown on a screen."""
    return any(alarm.active for alarm in run.of(Alarm) if alarm.code == "no-display")


def alarms(run: Run) -> list[dict[str, Any]]:
    """Each alarm that became active, and whether it was cleared before the end."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    frame_time = run.frame_time
    for record, alarm in run.with_headers(Alarm):
        key = (record.header.source, alarm.code)
        if alarm.active:
            row = rows.setdefault(key, {"source": key[0], "code": alarm.code, "times": 0, "first_s": None})
            row["times"] += 1
            row["detail"] = alarm.detail
            if row["first_s"] is None:
                row["first_s"] = round(float(frame_time([record.header.sent_ns])[0]), 3)
        if key in rows:
            rows[key]["cleared"] = not alarm.active
    return list(rows.values())


def _services(run: Run) -> dict[str, dict[str, int]]:
    """How often each service was started anew or lost, and what it missed or rejected."""
    table: dict[str, dict[str, int]] = {}
    for life in run.lives.values():
        row = table.setdefault(life.source, {"starts": 0, "lost": 0, "gaps": 0, "rejected": 0})
        row["starts"] += 1
        row["gaps"] += life.last.gaps
        row["rejected"] += life.last.rejected
    for source, row in table.items():
        lives = [life for life in run.lives.values() if life.source == source]
        row["lost"] = sum(not life.ended for life in lives[:-1])
        # the last one may just still be running when the journal ends
        row["lost"] += not lives[-1].ended and run.end_ns - lives[-1].last_ns > SILENT_NS
    return table


def _notes(run: Run) -> list[str]:
    notes = [str(tail) for tail in run.torn]
    if run.malformed:
        notes.append(f"{run.malformed} messages are no messages of their topic; they are in the journal as they came")
    return notes


def _duration_s(run: Run) -> float:
    times = [record.header.cause.time_s for record, _ in run.with_headers(Traces) if record.header.cause is not None]
    return round(times[-1] - times[0], 3) if times else 0.0


def _end_s(run: Run) -> float:
    causes = [record.header.cause for record, _ in run.with_headers(Traces)]
    return max((cause.time_s for cause in causes if cause is not None), default=0.0)


def _day(run: Run) -> int | None:
    phase = run.last(Phase)
    return phase.day if phase is not None else None


def _licks(run: Run) -> int:
    """The controller counts from its own start; one that starts anew begins at 0 again."""
    total, before = 0, None
    for lick in run.of(Lick):
        total += 1 if before is None else (lick.count - before if lick.count >= before else lick.count)
        before = lick.count
    return total


def _fields(message: Any) -> dict[str, Any] | None:
    if message is None:
        return None
    fields: dict[str, Any] = to_builtins(message)
    return {k: v for k, v in fields.items() if k not in ("type", "cause", "buffers")}


def _machine() -> dict[str, Any]:
    """The machine that made this summary; on a one-machine rig, the rig itself."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
