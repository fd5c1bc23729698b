"""`loop2p bench`: speeds, as distributions and ratios measured in one run, on a machine that is named."""

import json as json_
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from loop2p.cli.main import EXIT_REFUSED, err, fail, out

app = typer.Typer(no_args_is_help=True, help=__doc__)

JsonFile = Annotated[Path | None, typer.Option("--json", help="write the result here")]
Check = Annotated[bool, typer.Option("--check", help="exit 1 where a target is missed")]
Seed = Annotated[int, typer.Option(help="printed with the result")]
Target = tuple[str, float, str, float]
"""what, measured, "<=" or ">=", asked."""


def finish(name: str, result: dict[str, Any], targets: list[Target], json: Path | None, check: bool) -> None:
    """Print the targets, write the result, leave with 1 if one is missed and that was asked for."""
    result["targets"] = [
        {"what": what, "measured": measured, "rule": f"{sign} {asked:g}", "met": met(measured, sign, asked)}
        for what, measured, sign, asked in targets
    ]
    table = Table(title=f"bench {name}", title_justify="left")
    for column in ("what", "measured", "asked", ""):
        table.add_column(column)
    for row in result["targets"]:
        table.add_row(row["what"], f"{row['measured']:.4g}", row["rule"], "met" if row["met"] else "MISSED")
    out.print(table)
    info = result["machine"]
    out.print(
        f"on {info['cpu']}, {info['cores']} cores, {info['system']}, Python {info['python']} "
        f"({info['python_call_ns']:g} ns a call), numpy {info['numpy']}, scipy {info['scipy']}; "
        f"load {info['load_1min_at_start']} at the start",
        soft_wrap=True,
    )
    if json is not None:
        json.write_text(json_.dumps(result, indent=2, sort_keys=True), encoding="utf-8")
    if check and not all(row["met"] for row in result["targets"]):
        raise typer.Exit(EXIT_REFUSED)


def met(measured: float, sign: str, asked: float) -> bool:
    return measured <= asked if sign == "<=" else measured >= asked


def show_quantiles(title: str, rows: dict[str, dict[str, Any]], unit: str) -> None:
    """One line a distribution."""
    table = Table(title=f"{title}, {unit}", title_justify="left")
    for column in ("", "n", "p50", "p99", "p99.9", "max"):
        table.add_column(column, justify="right" if column else "left")
    for name, q in rows.items():
        table.add_row(
            name, str(q["n"]), *("-" if q[k] is None else f"{q[k]:.3f}" for k in ("p50", "p99", "p999", "max"))
        )
    out.print(table)


@app.command()
def latency(
    json: JsonFile = None,
    check: Check = False,
    seconds: Annotated[float, typer.Option(help="how long at 30.92 Hz")] = 60.0,
    commands: Annotated[int, typer.Option(help="how many at 200 Hz")] = 10_000,
    seed: Seed = 1,
) -> None:
    """Frame's last byte in to the command in actuation's hands, five processes over TCP."""
    from loop2p.cli.benchmarks.latency import PUBLISHED_MS, bench_latency

    real = bench_latency(30.92, int(seconds * 30.92 / 2), planes=2, seed=seed, say=err.print)
    fast = bench_latency(200.0, commands, planes=1, seed=seed, say=err.print)
    bare = "for scale: 3 hops, ZeroMQ alone"
    for title, one in (("30.92 Hz, two planes", real), ("200 Hz, one plane", fast)):
        show_quantiles(title, {"command": one["command_ms"], **one["hops_ms"], bare: one["bare_ms"]}, "ms")
    for where, q in PUBLISHED_MS.items():
        out.print(
            f"for scale, the authors' published hand-off, {where}: " + ", ".join(f"{k} {v}" for k, v in q.items())
        )
    targets: list[Target] = [
        ("30.92 Hz p50, ms", real["command_ms"]["p50"], "<=", 2.0),
        ("30.92 Hz p99, ms", real["command_ms"]["p99"], "<=", 5.0),
        ("200 Hz p99.9, ms", fast["command_ms"]["p999"], "<=", 10.0),
        ("200 Hz commands", fast["command_ms"]["n"], ">=", 10_000),
        ("messages and frames lost", real["lost"] + fast["lost"], "<=", 0),
    ]
    result = {
        "latency_ms": {"command": real["command_ms"]},
        "at_30.92_hz": real,
        "at_200_hz": fast,
        "machine": real["machine"],
    }
    finish("latency", result, targets, json, check)


@app.command()
def throughput(
    json: JsonFile = None,
    check: Check = False,
    seconds: Annotated[float, typer.Option(help="how long, each")] = 20.0,
    seed: Seed = 1,
) -> None:
    """Full frames a second through imaging, decoding and task, lossless, with 10 and with 500 ROIs."""
    from loop2p.cli.benchmarks.throughput import bench_throughput

    few = bench_throughput(10, seconds, seed, say=err.print)
    many = bench_throughput(500, seconds, seed, say=err.print)
    grown = max((*few["memory_grown_mb"].values(), *many["memory_grown_mb"].values()))
    targets: list[Target] = [
        ("frames/s, 10 ROIs (slowest window)", few["frames_per_s"]["min"], ">=", 1000),
        ("frames/s, 500 ROIs (slowest window)", many["frames_per_s"]["min"], ">=", 500),
        ("messages and frames lost", few["lost"] + many["lost"], "<=", 0),
        ("memory grown, MB, worst service", grown, "<=", 20),
    ]
    finish("throughput", {"10_rois": few, "500_rois": many, "machine": few["machine"]}, targets, json, check)


def _in_one_process(name: str, measure: Callable[[], dict[str, Any]], json: Path | None, check: bool) -> None:
    from loop2p.cli.benchmarks.machine import machine

    info = machine()
    result, targets = _TARGETS[name](measure())
    finish(name, result | {"machine": info}, targets, json, check)


@app.command()
def registration(json: JsonFile = None, check: Check = False, seed: Seed = 1) -> None:
    """Four-area registration against skimage's phase_cross_correlation, in one run."""
    from loop2p.imaging.bench import bench_registration

    _in_one_process("registration", lambda: bench_registration(seed), json, check)


@app.command()
def f0(json: JsonFile = None, check: Check = False, seed: Seed = 1) -> None:
    """Rolling 10th percentile against np.percentile, 500 ROIs."""
    from loop2p.decoding.bench import bench_f0

    _in_one_process("f0", lambda: bench_f0(seed), json, check)


@app.command()
def codec(json: JsonFile = None, check: Check = False) -> None:
    """Arrays as lists of floats against little-endian bytes."""
    from loop2p.protocol.bench import bench_codec

    _in_one_process("codec", bench_codec, json, check)


@app.command()
def cohort(
    json: JsonFile = None,
    check: Check = False,
    mice: Annotated[int, typer.Option()] = 6,
    days: Annotated[int, typer.Option()] = 14,
    seed: Seed = 1,
) -> None:
    """A simulated cohort at both levels, and how its time grows with neurons and mice; about a quarter of an hour."""
    from loop2p.cli.benchmarks.cohort import bench_cohort

    result = bench_cohort(mice, days, seed, say=err.print)
    for what, rows in (("neurons (2 mice, 1 day)", result["by_neurons_s"]), ("mice (1 day)", result["by_mice_s"])):
        out.print(f"{what}: " + ", ".join(f"{n}: {seconds:.1f} s" for n, seconds in rows.items()))
    per_neuron, per_mouse = result["ms_per_neuron_and_day"], result["s_per_mouse"]
    out.print(f"{per_neuron:.2f} ms more a neuron and mouse-day, {per_mouse:.2f} s more a mouse-day")
    targets: list[Target] = [
        (f"{mice} x {days} mouse-days, events, s", result["took_s"]["events"], "<=", 180 * mice * days / 84),
        (f"{mice} x {days} mouse-days, traces, s", result["took_s"]["traces"], "<=", 900 * mice * days / 84),
        ("memory of all processes, GiB", result["memory_gib"], "<=", 4),
    ]
    finish("cohort", result, targets, json, check)


@app.command()
def analysis(
    json: JsonFile = None,
    check: Check = False,
    mice: Annotated[int, typer.Option()] = 6,
    days: Annotated[int, typer.Option()] = 14,
    seed: Seed = 1,
) -> None:
    """`loop2p analyse` on a simulated cohort with fluorescence, which is made first; about half an hour."""
    from loop2p.cli.benchmarks.analysis import bench_analysis

    result = bench_analysis(mice, days, seed, say=err.print)
    n = result["sessions"]
    out.print("sessions: " + ", ".join(f"{k}: {seconds:.0f} s" for k, seconds in result["by_sessions_s"].items()))
    targets: list[Target] = [
        ("a session on one core, slowest, s", max(result["session_s"]), "<=", 60),
        (f"{n} sessions with tables, figures and report, s", result["cohort_s"], "<=", 1200 * n / 84),
        ("memory of a worker, GiB", result["worker_gib"], "<=", 2),
        (f"time a session with {n} sessions, over that with a quarter", result["growth"], "<=", 1.2),
    ]
    finish("analysis", result, targets, json, check)


@app.command()
def swap(
    json: JsonFile = None,
    check: Check = False,
    times: Annotated[int, typer.Option(help="each service is killed so often, and swapped so often")] = 5,
    speed: Annotated[float, typer.Option(help="how many times faster than life the stand-in microscope scans")] = 1.0,
) -> None:
    """Every service killed and every service swapped in a running session: how long until it goes on."""
    from loop2p.cli.benchmarks.swap import bench_swap

    result = bench_swap(times, speed, say=err.print)
    targets: list[Target] = []
    for what, title in (("kill_s", "killed"), ("swap_s", "swapped")):
        table = Table(title=f"{title}: seconds until the session goes on", title_justify="left")
        for column in ("", "n", "p50", "p90", "max"):
            table.add_column(column, justify="right" if column else "left")
        for name, q in result[what].items():
            table.add_row(name, str(q["n"]), *("-" if q[k] is None else f"{q[k]:.2f}" for k in ("p50", "p90", "max")))
            targets.append((f"{name} {title}, p50, s", q["p50"], "<=", 2.0))
        out.print(table)
    lost = max(result["frames_lost"])
    targets.append(("frames without a decision when a shadow takes over, most", lost, "<=", 1))
    finish("swap", result, targets, json, check)


@app.command()
def stimulus(
    json: JsonFile = None,
    check: Check = False,
    commands: Annotated[int, typer.Option(help="pictures asked for; 10,000 take 17 minutes")] = 10_000,
    display: Annotated[str | None, typer.Option(help="X display to use, such as :0; default: a virtual one")] = None,
    seed: Seed = 1,
) -> None:
    """A picture asked for to its swap and pixels, 1 to 200 ms apart: each shown or named as overtaken, all whole."""
    from loop2p.cli.benchmarks.stimulus import bench_stimulus

    try:
        result = bench_stimulus(commands, seed, display=display, say=err.print)
    except (RuntimeError, OSError) as error:
        fail(str(error))
    steps = ("command_to_swap", "command_to_pixels", "swap_to_pixels")
    show_quantiles("pictures", {name.replace("_", " "): result[f"{name}_ms"] for name in steps}, "ms")
    out.print(
        f"{result['commands']} commands: {result['shown']} shown, {result['superseded']} overtaken by a picture that "
        f"names them, {result['unaccounted']} unaccounted for; {result['pictures_reported']} pictures reported, "
        f"{result['own_pictures']} of them the service's own grey for want of heartbeats, "
        f"{result['patch_toggles_seen']} toggles of the patch seen, by a photodiode that did not look for half a frame "
        f"period {result['patch_not_looked_at']} times; the whole screen looked at {result['looked']} times"
    )
    if not result["display"]:
        out.print("no display: pixels are those in the X server, without a monitor's refresh and without light")
    targets: list[Target] = [
        ("command to swap, p50, frame periods", result["median_frames"], "<=", 1.5),
        ("commands neither shown nor named", result["unaccounted"], "<=", 0),
        ("pictures torn", result["torn"], "<=", 0),
        ("pictures on the screen that were not reported", result["wrong"], "<=", 0),
        ("toggles of the patch too many, or missed in no such time", abs(result["toggles_off"]), "<=", 0),
    ]
    finish("stimulus", result, targets, json, check)


RIVAL_TARGETS = {
    "frames": {"ezmsg": 1.6, "redis": 1 / 2, "lsl": 1 / 3},
    "small": {"ezmsg": 0.8, "redis": 0.9, "lsl": 1.3},
}
"""Ours over theirs, p50: frames over TCP, and messages of 300 B."""


@app.command()
def fleet(
    json: JsonFile = None,
    check: Check = False,
    rounds: Annotated[int, typer.Option(help="of each; they alternate")] = 5,
    seconds: Annotated[float, typer.Option(help="how long, a round and way each")] = 3.0,
    seed: Seed = 1,
) -> None:
    """One publisher to 1, 2, 4, 8 subscribers; the loop beside 0, 2, 4, 8 observers; the same bytes by other ways."""
    import statistics

    from loop2p.cli.benchmarks.fleet import bench_fleet

    result = bench_fleet(rounds, seconds, seed, say=err.print)
    targets: list[Target] = []
    for what, one in result["fanout"].items():
        show_quantiles(f"{what}, {one['bytes']} B at {one['rate_hz']:g} Hz, by subscribers", one["took_us"], "us")
    observers = result["observers"]
    show_quantiles("command at 200 Hz, one plane, by observers", observers["command_ms"], "ms")
    for n, ratios in observers["ratio_p50"].items():
        out.print(f"{n} observers: {spread(ratios)} times the p50 of none")
    for what, one in result["rivals"].items():
        show_quantiles(f"{what}, {one['bytes']} B at {one['rate_hz']:g} Hz, by transport", one["took_us"], "us")
        for rival, ratios in one["ratio_p50"].items():
            out.print(f"{what}, ours over {rival}, p50: {spread(ratios)}; {rival} lost {one['lost'][rival]}")
            asked = RIVAL_TARGETS[what][rival]
            targets.append((f"{what}, ours over {rival}, p50, median round", statistics.median(ratios), "<=", asked))
    lost = [*(sum(one["lost"].values()) for one in result["fanout"].values())]
    lost += [one["lost"]["ours"] for one in result["rivals"].values()]
    lost += [sum(observers["lost"].values()), sum(observers["missed"].values())]
    targets.append(("messages and frames that ours lost", sum(lost), "<=", 0))
    finish("fleet", result, targets, json, check)


def spread(ratios: list[float]) -> str:
    """Median over the rounds, and the least and most."""
    import statistics

    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


@app.command()
def hogs(
    json: JsonFile = None,
    check: Check = False,
    hogs: Annotated[int, typer.Option(help="processes that never pause")] = 4,
    commands: Annotated[int, typer.Option(help="at 200 Hz, a round and way each")] = 1000,
    rounds: Annotated[int, typer.Option(help="ordinary and real-time scheduling alternate")] = 5,
    seed: Seed = 1,
) -> None:
    """The loop beside processes that take every processor: ordinary against real-time scheduling."""
    from loop2p.cli.benchmarks.hogs import bench_hogs

    result = bench_hogs(hogs, commands, rounds, seed, say=err.print)
    for way, hops in result["hops_ms"].items():
        show_quantiles(f"{way} scheduling, {hogs} hogs", {"command": result["command_ms"][way], **hops}, "ms")
    out.print(f"p99, real-time over ordinary: {spread(result['ratio_p99'])}")
    if result["ordinary_after_all"]:
        out.print(f"without real-time priority all the same, or for a time: {result['ordinary_after_all']}")
    targets: list[Target] = [
        (f"p99 beside {hogs} hogs, real-time, ms", result["command_ms"]["real-time"]["p99"], "<=", 2.0),
        ("messages and frames lost, real-time", result["lost"]["real-time"], "<=", 0),
    ]
    finish("hogs", result, targets, json, check)


@app.command()
def console(
    json: JsonFile = None,
    check: Check = False,
    seconds: Annotated[float, typer.Option(help="how long, each")] = 30.0,
    stalled: Annotated[bool, typer.Option("--stalled", help="the loop beside a browser that stops reading")] = False,
    rounds: Annotated[int, typer.Option(help="with --stalled, of each; they alternate")] = 5,
    seed: Seed = 1,
) -> None:
    """The operator's page with 1 and with 10 browsers that read: processor time of its process, traces and pictures.

    --stalled, instead: the loop of a whole rig without and with a browser that asks for the live stream and reads none.
    """
    if stalled:
        _stalled(json, check, seconds, rounds, seed)
        return
    from loop2p.cli.benchmarks.console import bench_console

    found = {clients: bench_console(clients, seconds, seed) for clients in (1, 10)}
    for clients, one in found.items():
        out.print(
            f"{clients} browser(s): {one['cpu_percent_of_a_core']:.1f} % of a core, {one['rss_mb']:.0f} MB; each got "
            f"{one['rows_per_s']:.1f} rows, {one['pictures_per_s']:.1f} pictures, {one['kb_per_s']:.0f} kB a second"
        )
    targets: list[Target] = [
        ("1 browser, % of a core", found[1]["cpu_percent_of_a_core"], "<=", 5),
        ("10 browsers, % of a core", found[10]["cpu_percent_of_a_core"], "<=", 15),
        ("rows a second, the browser that got fewest", min(one["rows_per_s"] for one in found.values()), ">=", 15),
        ("pictures a second, likewise", min(one["pictures_per_s"] for one in found.values()), ">=", 4.5),
    ]
    result = {"1_browser": found[1], "10_browsers": found[10], "machine": found[1]["machine"]}
    finish("console", result, targets, json, check)


def _stalled(json: Path | None, check: bool, seconds: float, rounds: int, seed: int) -> None:
    import statistics

    from loop2p.cli.benchmarks.console_stalled import RATE_HZ, bench_stalled

    result = bench_stalled(int(seconds * RATE_HZ / 2), rounds, seed, say=err.print)
    stood = result["browsers"]["with"]
    show_quantiles("command, by whether a browser stops reading", result["command_ms"], "ms")
    for quantile in ("p50", "p99"):
        for way, values in result[f"rounds_{quantile}_ms"].items():
            out.print(f"{quantile} of each round {way}: {', '.join(f'{x:.2f}' for x in values)} ms")
    for one in stood:
        held = f"{one['most_held_bytes'] / 1e3:.0f} kB at most" if one["most_held_bytes"] else "nobody knows what"
        out.print(
            f"stalled for {one['stalled_s']:.0f} s, cut off {one['cut_off']} times: {one['pictures_sent_to_it']} "
            f"pictures sent, {one['pictures_passed_over']} passed over; the system held {held}, the page threw away "
            f"{one['bytes_thrown_away'] / 1e3:.0f} kB; the reader beside it got {one['pictures_per_s']:.1f} pictures "
            f"and {one['rows_per_s']:.1f} rows a second",
            soft_wrap=True,
        )
    with_ = statistics.median(result["rounds_p99_ms"]["with"])
    slowest = max(result["rounds_p99_ms"]["without"])
    targets: list[Target] = [
        ("p99 with it, median round, ms, against the slowest round without", with_, "<=", slowest),
        ("pictures passed over for it, the round with fewest", min(b["pictures_passed_over"] for b in stood), ">=", 1),
        ("bytes that it did not take, the round with fewest", min(b["bytes_thrown_away"] for b in stood), ">=", 1),
        ("pictures a second, the reader beside it", min(b["pictures_per_s"] for b in stood), ">=", 4),
        ("messages and frames lost", sum(result["lost"].values()), "<=", 0),
    ]
    finish("console --stalled", result, targets, json, check)


@app.command(name="all")
def all_(check: Check = False, seed: Seed = 1) -> None:
    """Every benchmark, one after another; exit 1 where one misses a target and --check is given."""
    missed = False
    for run in (
        lambda: latency(check=check, seed=seed),
        lambda: throughput(check=check, seed=seed),
        lambda: registration(check=check, seed=seed),
        lambda: f0(check=check, seed=seed),
        lambda: codec(check=check),
        lambda: stimulus(check=check, seed=seed),
        lambda: swap(check=check),
        lambda: fleet(check=check, seed=seed),
        lambda: hogs(check=check, seed=seed),
        lambda: console(check=check, seed=seed),
        lambda: console(stalled=True, check=check, seed=seed),
        lambda: cohort(check=check, seed=seed),
        lambda: analysis(check=check, seed=seed),
    ):
        try:
            run()  # type: ignore[no-untyped-call]
        except typer.Exit as leave:
            missed = missed or leave.exit_code != 0
    raise typer.Exit(EXIT_REFUSED if missed else 0)


def _registration(result: dict[str, Any]) -> tuple[dict[str, Any], list[Target]]:
    ours, theirs = result["ours"], result["skimage"]
    return result, [
        ("times faster than skimage (min against min)", result["ratio_min"], ">=", 8),
        ("rmse at 0.5 photon/px, px", ours["rmse_px_at_0.5"], "<=", 0.08),
        ("rmse at 0.1 photon/px, px", ours["rmse_px_at_0.1"], "<=", 0.2),
        ("rmse over skimage's at 0.5", ours["rmse_px_at_0.5"] / theirs["rmse_px_at_0.5"], "<=", 1),
        ("rmse over skimage's at 0.1", ours["rmse_px_at_0.1"] / theirs["rmse_px_at_0.1"], "<=", 1),
    ]


def _f0(result: dict[str, Any]) -> tuple[dict[str, Any], list[Target]]:
    return result, [
        ("times faster than np.percentile (min against min)", result["ratio_min"], ">=", 20),
        ("largest difference", result["max_abs_diff"], "<=", 1e-5),
    ]


def _codec(result: dict[str, Any]) -> tuple[dict[str, Any], list[Target]]:
    return result, []


_TARGETS = {"registration": _registration, "f0": _f0, "codec": _codec}
