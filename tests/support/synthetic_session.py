"""A made-up session: envelopes of every topic as a rig would publish them, and the journal they make.

The activity is noise with bursts; what follows from it (control value, angle, hits, rewards, latencies) keeps the
rules of the experiment, so that what is computed from the journal can be compared with what was put in.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from loop2p.protocol import (
    Accepted,
    Alarm,
    Calibration,
    Cause,
    Clock,
    Done,
    Envelope,
    Fault,
    Heartbeat,
    Lick,
    Message,
    OptoCommand,
    Output,
    Phase,
    PlaneRois,
    Preview,
    Raw,
    Refused,
    RequestLog,
    RewardCommand,
    Rois,
    Selection,
    Session,
    Show,
    Shown,
    Stall,
    Traces,
    Trial,
    Wheel,
    f32,
    i32,
    seal,
)  # fmt: skip
from loop2p.recording.journal import JournalWriter, open_segment

RATE_HZ = 30.92
T0_NS = 1_000_000_000_000
"""Rig clock at frame time 0."""
MS = 1_000_000
HEIGHT, WIDTH = 48, 64

RIG_TEXT = """name = "synthetic"
simulated = true
[microscope]
height = 48
width = 64
planes = 2
rate_hz = 30.92
"""
TASK_TEXT = """[session]
baseline_s = 20.0
"""
ANIMAL_TEXT = """id = "SIM-01"
species = "Mus musculus"
sex = "F"
age = "P12W"
genotype = "Rbp4-Cre"
"""

Item = tuple[int, str, Message]


class Made:
    """A made-up session: what was published, in order, and what was put in."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.envelopes: list[tuple[int, Envelope]] = []
        """(rig clock when recording has it in hand, envelope)."""
        self.truth: Counter[str] = Counter()
        self.command_ms: list[float] = []
        self.valve_ms: list[float] = []
        self.shown_ms: list[float] = []

    def put(self, at_ns: float, source: str, message: Message) -> None:
        self.items.append((int(at_ns), source, message))


def make_session(
    seconds: float = 60.0,
    seed: int = 1,
    baseline_s: float = 20.0,
    trial_s: float = 8.0,
    n_rois: int = 10,
    drop_frame: int | None = 700,
    kill_decoding_s: float | None = None,
    raw: bool = False,
    opto: bool = False,
    fault: bool = False,
    heartbeat_hz: float = 5.0,
    run_id: str = "2026-03-02T10-00-00-synthetic",
    stop: bool = True,
) -> Made:
    """Make a session; the same arguments give the same session."""
    rng = np.random.default_rng(seed)
    made = Made()
    put = made.put
    end_ns = T0_NS + int(seconds * 1e9)
    _states(made, rng, n_rois, run_id, opto)
    threshold, minimum = 0.06, -0.12
    calibration = Calibration(
        minimum=minimum, threshold=threshold, mu=-0.01, sigma=0.045, z_star=1.55, seed=7,
        first_frame=0, last_frame=int(baseline_s * RATE_HZ), n_values=int(baseline_s * RATE_HZ / 2),
    )  # fmt: skip
    loop = _Loop(made, rng, trial_s)
    value_of: list[float] = []
    d = drift = 0.0
    gains = rng.uniform(80, 140, n_rois)
    calibrated = False
    for k in range(int(seconds * RATE_HZ)):
        time_s, plane = k / RATE_HZ, k % 2
        arrival = T0_NS + int(time_s * 1e9 + (6.9 + 0.3 * abs(rng.standard_normal())) * MS)
        made.truth["frames_received"] += 1
        if k == drop_frame:
            made.truth["frames_dropped"] += 1
            continue
        made.truth["frames_processed"] += 1
        cause = Cause(frame=k, plane=plane, time_s=time_s, arrival_ns=arrival)
        events = rng.random(n_rois) < 0.02
        f = gains * (1 + 0.05 * rng.standard_normal(n_rois) + 0.8 * events)
        shift = 1.5 * np.sin(time_s / 5), 0.8 * np.cos(time_s / 7)
        traces_ns = arrival + int(rng.lognormal(-0.5, 0.25) * MS)
        put(traces_ns, "imaging", Traces(
            plane=plane, f=f32(f), shift_y_px=float(shift[0]), shift_x_px=float(shift[1]),
            quality=float(0.85 + 0.05 * rng.standard_normal()), cause=cause,
        ))  # fmt: skip
        if raw:
            pixels = rng.integers(0, 1000, (HEIGHT, WIDTH)).astype("<u2").tobytes()
            put(traces_ns + 1, "imaging", Raw(
                plane=plane, height=HEIGHT, width=WIDTH, dtype="<u2", buffers=(pixels,), cause=cause
            ))  # fmt: skip
        if k % 6 == 0:
            put(traces_ns + 2, "imaging", Preview(
                plane=plane, height=2, width=2, low=0.0, high=900.0, buffers=(b"\x00\x40\x80\xff",), cause=cause
            ))  # fmt: skip
        if plane != 0:
            continue
        drift = 0.98 * drift + 0.012 * rng.standard_normal()
        d = 0.6 * d + 0.02 * rng.standard_normal() + (0.15 if rng.random() < 0.01 else 0.0)
        value_of.append(d + drift)
        value = float(np.mean(value_of[-3:]))
        output_ns = traces_ns + int(rng.lognormal(-1.6, 0.3) * MS)
        if kill_decoding_s is not None and 0 <= time_s - kill_decoding_s < 1.0:
            continue
        put(output_ns, "decoding", Output(
            d=value_of[-1], value=value, dff=f32(f / gains - 1), valid=time_s >= 10, cause=cause
        ))  # fmt: skip
        if time_s >= baseline_s and not calibrated:
            calibrated = True
            put(output_ns + MS // 10, "task", Phase(phase="calibration", day=3, t_s=time_s, cause=cause))
            put(output_ns + MS // 9, "task", calibration)
            put(output_ns + MS // 8, "task", Phase(phase="closed_loop", day=3, t_s=time_s, cause=cause))
        if calibrated:
            loop.step(cause, output_ns, 90 * (value - minimum) / (threshold - minimum))
    loop.stop(seconds)
    if kill_decoding_s is not None:
        at = T0_NS + int((kill_decoding_s + 0.5) * 1e9)
        put(at, "task", Stall(waited_s=0.5, last_frame=int(kill_decoding_s * RATE_HZ), what="decoding"))
    put(end_ns + 20 * MS, "task", Phase(phase="ended", day=3, t_s=seconds, reason="time is up"))
    if fault:
        put(end_ns + 21 * MS, "stimulus", Fault(
            service="stimulus", error="ArithmeticError", detail="angle is nan, expected 0 to 90", traceback="..."
        ))  # fmt: skip
    _background(made, rng, seconds)
    _seal(made, rng, seconds, heartbeat_hz, kill_decoding_s, stop)
    return made


def _states(made: Made, rng: np.random.Generator, n_rois: int, run_id: str, opto: bool) -> None:
    at = T0_NS - 500 * MS
    rows, cols, lengths = [], [], []
    for k in range(n_rois):
        y, x = divmod(k, 5)
        grid = np.mgrid[0:4, 0:4].reshape(2, -1)
        rows.append(grid[0] + 6 + 16 * y)
        cols.append(grid[1] + 5 + 11 * x)
        lengths.append(16)
    planes = [
        PlaneRois(
            plane=p, names=[f"cell{k}" for k in range(n_rois)], lengths=i32(lengths),
            rows=i32(np.concatenate(rows)), cols=i32(np.concatenate(cols)),
        )
        for p in (0, 1)
    ]  # fmt: skip
    images = tuple(rng.gamma(2.0, 50.0, (HEIGHT, WIDTH)).astype("<f4").tobytes() for _ in planes)
    made.put(at, "task", RequestLog(kind="start", by="mw", accepted=True))
    made.put(at + 1, "task", Session(
        run_id=run_id, rig=RIG_TEXT, task=TASK_TEXT, animal=ANIMAL_TEXT, rig_hash="0123456789abcdef",
        versions={"loop2p": "0.1.0", "numpy": "2"}, seeds={"task": 7, "mouse": 3}, simulated=True,
        overrides=["valve-date"], wall_time="2026-03-02T10:00:00+01:00", anchor_ns=T0_NS,
    ))  # fmt: skip
    made.put(at + 2, "task", Phase(phase="baseline", day=3, t_s=0.0))
    half = n_rois // 2
    made.put(at + 3, "task", Selection(
        plus=list(range(half)), minus=list(range(half, n_rois)), seed=11, confirmed_by="mw"
    ))  # fmt: skip
    made.put(at + 4, "imaging", Rois(
        set_id="set-1", height=HEIGHT, width=WIDTH, planes=planes, match_to_day1=0.87, buffers=images
    ))  # fmt: skip
    made.put(at + 5, "stimulus", Alarm(
        code="no-display", active=True, detail="no display here: drawn in software, nobody sees it"
    ))  # fmt: skip
    made.put(at + 6, "task", Show(what="grey"))
    if opto:
        made.put(
            at + 7, "task", OptoCommand(id=1, target="actuation-1", expires_ns=at + 250 * MS, armed=True, pulse_ms=6)
        )
        made.put(at + 2 * MS, "actuation", Accepted(id=1, received_ns=at + MS))
        made.put(at + 3 * MS, "actuation", Done(id=1, open_ns=at + 2 * MS, close_ns=at + 2 * MS, volume_ul=0))


class _Loop:
    """Trials as the task would run them, roughly: enough for every edge to occur."""

    def __init__(self, made: Made, rng: np.random.Generator, trial_s: float) -> None:
        self.made, self.rng, self.trial_s = made, rng, trial_s
        self.trial, self.stage, self.since = -1, "next", 0.0
        self.angle: float | None = None
        self.id = 100
        self.licks = 0

    def step(self, cause: Cause, output_ns: int, angle: float) -> None:
        t, put = cause.time_s, self.made.put
        at = output_ns + int(self.rng.lognormal(-1.9, 0.3) * MS)
        if self.stage == "next":
            self.trial += 1
            self._stage("grey", t)
            put(at, "task", Trial(trial=self.trial, edge="start", t_s=t, cause=cause))
            self.made.truth["trials"] += 1
            self._show(at + 1, cause, "grey", None)
        elif self.stage == "grey" and t - self.since >= 0.5:
            self._stage("loop", t)
        elif self.stage == "loop" and angle >= 89.5:
            self._stage("frozen", t)
            put(at, "task", Trial(trial=self.trial, edge="hit", t_s=t, cause=cause))
            self.made.truth["hits"] += 1
            self._show(at + 1, cause, "grating", 90.0)
        elif self.stage == "loop" and t - self.since >= self.trial_s:
            self._stage("timeout", t)
            put(at, "task", Trial(trial=self.trial, edge="miss", t_s=t, cause=cause))
            self.made.truth["misses"] += 1
            self._show(at + 1, cause, "black", None)
        elif self.stage == "loop":
            self._show(at, cause, "grating", float(np.clip(15 * np.floor(angle / 18 + 1), 0, 75)))
        elif self.stage == "frozen" and t - self.since >= 1.0 and self.id % 10 == 0:
            self._reward(at, cause)
        if self.stage == "frozen" and t - self.since >= 2.0:
            self._stage("black", t)
            self._show(at + 2, cause, "black", None)
            self.id = 10 * (self.id // 10 + 1)
        elif (self.stage == "black" and t - self.since >= 1.0) or (self.stage == "timeout" and t - self.since >= 3.0):
            self.stage = "next"

    def stop(self, t: float) -> None:
        if self.stage in ("grey", "loop"):
            at = T0_NS + int(t * 1e9) + 10 * MS
            self.made.put(at, "task", Trial(trial=self.trial, edge="void", t_s=t, reason="session ended"))
            self.made.truth["voids"] += 1

    def _stage(self, stage: str, t: float) -> None:
        self.stage, self.since = stage, t

    def _show(self, at: int, cause: Cause, what: Any, angle: float | None) -> None:
        if (what, angle) == self.angle:
            return
        self.angle = (what, angle)  # type: ignore[assignment]
        flip = at + int(self.rng.uniform(3, 17) * MS)
        self.made.put(at, "task", Show(what=what, angle_deg=angle, cause=cause))
        self.made.put(flip + MS // 5, "stimulus", Shown(
            what=what, angle_deg=angle, flip_ns=flip, patch=bool(cause.frame & 2), cause=cause
        ))  # fmt: skip
        self.made.shown_ms.append((flip - cause.arrival_ns) / MS)

    def _reward(self, at: int, cause: Cause) -> None:
        self.id += 1
        command = RewardCommand(
            id=self.id, target="actuation-1", expires_ns=at + 250 * MS, volume_ul=4.0, trial=self.trial, cause=cause
        )
        received = at + int(self.rng.uniform(0.1, 0.4) * MS)
        opened = received + int(self.rng.uniform(1.0, 2.0) * MS)
        put = self.made.put
        put(at, "task", command)
        put(at + MS, "task", command)  # repeated: the acknowledgement was slow
        put(received + MS, "actuation", Accepted(id=self.id, received_ns=received, cause=cause))
        put(received + 2 * MS, "actuation", Refused(id=self.id, reason="known id"))
        put(opened + 41 * MS, "actuation", Done(
            id=self.id, open_ns=opened, close_ns=opened + 40 * MS, volume_ul=4.0, cause=cause
        ))  # fmt: skip
        self.made.command_ms.append((received - cause.arrival_ns) / MS)
        self.made.valve_ms.append((opened - cause.arrival_ns) / MS)
        self.made.truth["rewards"] += 1
        for k in range(int(self.rng.integers(3, 8))):
            self.licks += 1
            lick = opened + int((300 + 140 * k + 20 * self.rng.standard_normal()) * MS)
            put(lick + MS, "actuation", Lick(count=self.licks, t_ns=lick))


def _background(made: Made, rng: np.random.Generator, seconds: float) -> None:
    """What goes on whatever the animal does: wheel, clocks."""
    count = 0
    for k in range(int(50 * seconds)):
        at = T0_NS + int(k * 20 * MS + 0.3 * MS * rng.standard_normal())
        speed = max(0.0, 8 * np.sin(k / 400) + rng.standard_normal())
        count += int(speed)
        made.put(at + MS, "actuation", Wheel(count=count, speed_cm_s=float(speed), t_ns=at))
    for source in ("imaging", "decoding", "task", "stimulus", "actuation"):
        for k in range(int(seconds)):
            made.put(T0_NS + k * 1_000_000_000, source, Clock(offset_ns=100, bound_ns=40_000, round_trip_ns=80_000))


def _seal(
    made: Made, rng: np.random.Generator, seconds: float, heartbeat_hz: float, kill_decoding_s: float | None, stop: bool
) -> None:
    """Give everything its header, in order of sending, with heartbeats in between."""
    end_ns = T0_NS + int((seconds + 0.2) * 1e9)
    sources = ("imaging", "decoding", "task", "stimulus", "actuation")
    first = T0_NS - 400 * MS
    beats = [
        (at, source, Heartbeat(health="ready"))
        for j, source in enumerate(sources)
        for at in range(first + j * MS, end_ns, int(1e9 / heartbeat_hz))
    ]
    if stop:
        beats += [(end_ns + j * MS, s, Heartbeat(health="stopped")) for j, s in enumerate(sources)]
    published: dict[str, Counter[str]] = {}
    frames = 0
    for at, source, message in sorted([*made.items, *beats], key=lambda item: item[0]):
        instance = f"{source}-1"
        if source == "decoding" and kill_decoding_s is not None:
            since = (at - T0_NS) / 1e9 - kill_decoding_s
            if 0 <= since < 1.0:
                continue
            instance = "decoding-1" if since < 0 else "decoding-2"
        counts = published.setdefault(instance, Counter())
        if isinstance(message, Traces):
            frames += 1
        if isinstance(message, Heartbeat):
            counters = {}
            if source == "imaging":
                dropped = min(made.truth["frames_dropped"], max(0, frames - 700))
                counters = {"frames_received": frames + dropped, "frames_processed": frames, "frames_dropped": dropped}
            message = structs.replace(message, published=dict(counts), counters=counters)
        envelope = seal(message, source, instance, counts[message.topic], at)
        counts[message.topic] += 1
        made.envelopes.append((at + int(rng.uniform(0.1, 0.5) * MS), envelope))


def write_journal(folder: Path, envelopes: Iterable[tuple[int, Envelope]], close: bool = True) -> Path:
    """Write envelopes as the next journal segment of a run folder; returns the folder. Previews are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_segment(folder) as file:
        writer = JournalWriter(lambda: file)
        for log_ns, envelope in envelopes:
            if envelope.topic != "imaging.preview":
                writer.write(envelope, log_ns)
        writer.flush()
        if close:
            writer.close()
    return folder
