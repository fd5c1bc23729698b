"""Decoder, task, stimulus, rewards, licks, wheel, LED and latencies in the NWB file."""

import numpy as np
from hdmf.common import DynamicTable, VectorData
from pynwb import NWBFile, TimeSeries
from pynwb.epoch import TimeIntervals

from loop2p.protocol import Calibration, Done, Lick, OptoCommand, Output, Phase, RewardCommand, Screen, Shown, Wheel
from loop2p.recording.latency import Latencies
from loop2p.recording.nwb_parts import add_events, behavior, intervals, module, or_nan, packed, plain, timing
from loop2p.recording.run import Run
from loop2p.recording.summary import trial_table


def add_behaviour(nwb: NWBFile, run: Run) -> None:
    """Everything but images and fluorescence."""
    _add_decoding(nwb, run)
    _add_trials(nwb, run)
    _add_phases(nwb, run)
    _add_calibration(nwb, run)
    _add_stimulus(nwb, run)
    _add_rewards(nwb, run)
    _add_licks(nwb, run)
    _add_wheel(nwb, run)
    _add_opto(nwb, run)
    if not run.in_process:
        _add_latencies(nwb, run)


def _add_decoding(nwb: NWBFile, run: Run) -> None:
    outputs = [(r.header.cause.time_s, m) for r, m in run.with_headers(Output) if r.header.cause is not None]
    if not outputs:
        return
    times = np.array([t for t, _ in outputs])
    for name, description, values in (
        ("D", "Decoder's value: mean dF/F of the plus ROIs minus that of the minus ROIs.", [m.d for _, m in outputs]),
        ("ControlValue", "Mean of D over the last 3 proximal frames; sets the angle.", [m.value for _, m in outputs]),
        (
            "DecoderValid",
            "0 where nothing was decided: F0 younger than 10 s, or bad traces.",
            [m.valid for _, m in outputs],
        ),
    ):
        data = np.array(values, dtype=np.uint8 if name == "DecoderValid" else float)
        behavior(nwb).add(
            TimeSeries(
                name=name,
                description=description,
                data=packed(data),
                unit="1" if name == "DecoderValid" else "dF/F",
                **timing(times),
            )
        )


def _add_trials(nwb: NWBFile, run: Run) -> None:
    trials = trial_table(run)
    if not trials:
        return
    columns = {
        "trial": ("number in the session, as task counts", [row["trial"] for row in trials]),
        "outcome": ("hit, miss, void or unfinished", [row["outcome"] for row in trials]),
        "hit_time": ("frame time of the hit, NaN if none", [or_nan(row["hit_s"]) for row in trials]),
        "reward_time": ("when the valve opened, NaN if it did not", [or_nan(row["reward_s"]) for row in trials]),
        "reason": ("why a trial is void", [plain(row["reason"]) for row in trials]),
    }
    starts, stops = [row["start_s"] for row in trials], [row["stop_s"] for row in trials]
    nwb.trials = intervals("trials", "Trials of the closed loop.", starts, stops, columns)


def _add_phases(nwb: NWBFile, run: Run) -> None:
    phases = run.of(Phase)
    ends = [*[m.t_s for m in phases[1:]], _last_frame_s(run)]
    table = TimeIntervals(name="phases", description="Where the session stood.")
    table.add_column("phase", "baseline, calibration, closed_loop or paused")
    table.add_column("detail", "which passive recording it is, or why the session is paused")
    for message, end in zip(phases, ends, strict=False):
        if message.phase not in ("idle", "ended") and end > message.t_s >= 0:
            table.add_interval(start_time=message.t_s, stop_time=end, phase=message.phase, detail=plain(message.reason))
    if len(table):
        nwb.add_time_intervals(table)


def _add_calibration(nwb: NWBFile, run: Run) -> None:
    calibrations = run.of(Calibration)
    if not calibrations:
        return
    fields = {
        "minimum": "control value shown as 0 deg",
        "threshold": "control value shown as 90 deg: the target",
        "mu": "centre of the baseline's Gaussian, dF/F",
        "sigma": "its width, dF/F",
        "z_star": "target in units of sigma, fixed on day 1",
        "seed": "of the random windows",
        "first_frame": "first frame of the baseline",
        "last_frame": "last frame of the baseline",
        "n_values": "control values used",
        "baseline": "which baseline was used",
    }
    columns = [
        VectorData(name=name, description=text, data=[getattr(m, name) for m in calibrations])
        for name, text in fields.items()
    ]
    behavior(nwb).add(
        DynamicTable(name="calibration", description="What turned control values into angles.", columns=columns)
    )


def _add_stimulus(nwb: NWBFile, run: Run) -> None:
    """What was on the screen: angle as a series, and every picture as an interval."""
    shown = run.of(Shown)
    times = run.frame_time([m.flip_ns for m in shown]) if shown else np.zeros(0)
    keep = [(float(t), m) for t, m in zip(times, shown, strict=True) if t >= 0]
    if not keep:
        return
    screens = dict.fromkeys(_about_screen(m) for m in run.of(Screen))
    nwb.add_stimulus(
        TimeSeries(
            name="ShownAngle",
            description=(
                "Angle of the grating from each flip on: 0 vertical bars, 90 horizontal (target), counter-clockwise as "
                "seen; NaN where no grating was shown. The flip is when the swap returned, not light onset."
            ),
            comments=plain("; then: ".join(screens) or "the screen was not described"),
            data=packed(np.array([np.nan if m.angle_deg is None else m.angle_deg for _, m in keep])),
            unit="degrees",
            continuity="step",
            **timing([t for t, _ in keep]),
        )
    )
    starts = [t for t, _ in keep]
    ends = [*starts[1:], max(starts[-1], _last_frame_s(run))]
    nwb.add_time_intervals(
        intervals(
            "stimulus_presentation",
            "Every picture on the screen, until the next.",
            starts,
            np.maximum(starts, ends),
            {
                "picture": ("grey, grating or black", [m.what for _, m in keep]),
                "angle_deg": ("angle of the grating, NaN if none", [or_nan(m.angle_deg) for _, m in keep]),
            },
        )
    )


def _about_screen(screen: Screen) -> str:
    """Where the pictures were put and how they looked there."""
    degrees = screen.cycles_per_degree
    return (
        f"{screen.renderer}; {screen.width_px} x {screen.height_px} px; {screen.refresh_hz:.2f} Hz, paced by "
        f"{'the monitor' if screen.vsync else 'a clock'}; {screen.cycles_per_width:g} cycles a screen width, "
        f"{'unknown' if degrees is None else f'{degrees:.4f}'} cycles per degree in its middle; "
        f"{f'drifting at {screen.drift_hz:g} Hz' if screen.drift_hz else 'not drifting'}; luminance {screen.gamma}"
        f"{'' if screen.display else '; NO DISPLAY: nobody saw it'}"
    )


def _add_licks(nwb: NWBFile, run: Run) -> None:
    licks = run.of(Lick)
    if not licks:
        return
    times = run.frame_time([m.t_ns for m in licks])
    kept = [(float(t), m.count) for t, m in zip(times, licks, strict=True) if t >= 0]
    if kept:
        counts = {"count": ("all licks since the controller started", [n for _, n in kept])}
        add_events(nwb, "licks", "Licks, as the controller saw them.", [t for t, _ in kept], counts)


def _add_wheel(nwb: NWBFile, run: Run) -> None:
    wheel = run.of(Wheel)
    if not wheel:
        return
    times, first = np.unique(run.frame_time([m.t_ns for m in wheel]), return_index=True)  # rising, none twice
    speeds = np.array([wheel[k].speed_cm_s for k in first])[times >= 0]
    if not len(speeds):
        return
    behavior(nwb).add(
        TimeSeries(
            name="WheelSpeed",
            description="Speed of the treadmill's surface.",
            data=packed(speeds),
            unit="m/s",
            conversion=0.01,
            comments="the values are cm/s; times conversion they are m/s",
            **timing(times[times >= 0]),
        )
    )


def _add_rewards(nwb: NWBFile, run: Run) -> None:
    commands = run.commands(RewardCommand)
    rows = []
    for record, done in run.with_headers(Done):
        if done.volume_ul <= 0:
            continue
        sent, command = commands.get(done.id, (None, None))
        cause = record.header.cause or (sent.header.cause if sent is not None else None)
        latency = (done.open_ns - cause.arrival_ns) / 1e6 if cause is not None else np.nan
        trial = command.trial if isinstance(command, RewardCommand) else -1
        rows.append((float(run.frame_time([done.open_ns])[0]), done, latency, trial))
    rows = [row for row in rows if row[0] >= 0]
    if rows:
        add_events(
            nwb, "rewards", "Drops of sucrose: when the valve opened.", [row[0] for row in rows],
            {
                "open_s": ("how long the valve was open", [(row[1].close_ns - row[1].open_ns) / 1e9 for row in rows]),
                "volume_ul": ("microlitres", [row[1].volume_ul for row in rows]),
                "latency_ms": ("from its frame's last byte to the open valve", [row[2] for row in rows]),
                "trial": ("trial it belongs to; -1 none (free reward)", [row[3] for row in rows]),
            },
        )  # fmt: skip


def _add_opto(nwb: NWBFile, run: Run) -> None:
    """When the LED was armed. Its single pulses follow the microscope's frame trigger in the controller itself."""
    done = {m.id: m for m in run.of(Done)}
    switches = []
    for key, (_, command) in run.commands(OptoCommand).items():
        if key in done and isinstance(command, OptoCommand):
            switches.append((float(run.frame_time([done[key].open_ns])[0]), command))
    switches.sort(key=lambda item: item[0])
    table = TimeIntervals(
        name="opto", description="LED armed: the controller fires one pulse on each frame trigger of the microscope."
    )
    table.add_column("pulse_ms", "length of each pulse")
    ends = [t for t, _ in switches[1:]] + [_last_frame_s(run)]
    for (start, command), end in zip(switches, ends, strict=False):
        if command.armed and end > max(0.0, start):
            table.add_interval(start_time=max(0.0, start), stop_time=end, pulse_ms=command.pulse_ms)
    if len(table):
        nwb.add_time_intervals(table)


def _add_latencies(nwb: NWBFile, run: Run) -> None:
    latencies = Latencies(run)
    texts = {
        "imaging": "from a frame's last byte to its traces sent",
        "decoding": "from traces sent to decoder output sent",
        "task": "from decoder output sent to the decision sent, where there was one",
        "stimulus": "from a picture asked for to its flip",
        "loop_command": "from a frame's last byte to its command in actuation's hands",
        "loop_shown": "from a frame's last byte to the flip of the picture it caused",
        "loop_valve": "from a frame's last byte to the open valve",
    }
    series = {**latencies.hops, **{f"loop_{name}": steps for name, steps in latencies.loops.items()}}
    for name, text in texts.items():
        times, values = series[name]
        if len(times):
            into = module(nwb, "latency", "How long each step took, at the time of its frame.")
            into.add(TimeSeries(name=name, description=text, data=packed(values), unit="ms", **timing(times)))


def _last_frame_s(run: Run) -> float:
    return float(run.frame_time.times[-1])
