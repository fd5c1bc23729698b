"""`loop2p bench`: speeds, as distributions and ratios measured in one run, on a machine that is named."""

import json as json_
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from loop2p.cli.main import EXIT_REFUSED, err, out

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
        lambda: swap(check=check),
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
