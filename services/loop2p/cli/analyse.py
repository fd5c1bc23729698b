"""`loop2p analyse`: from a folder of sessions to the paper's figures, with every core there is."""

import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import convert, to_builtins

from loop2p.cli.cluster import cluster_of, watched
from loop2p.cli.main import EXIT_REFUSED, Json, err, fail, out, print_json

MOST_TOLD = 3
"""Sessions named where none of an arm is usable, or where they lie beside the arms: many mostly have one reason."""


def register(app: typer.Typer) -> None:
    app.command()(analyse)


def analyse(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="sessions of an arm, a folder for each arm, or several such folders")
    ],
    out_dir: Annotated[Path | None, typer.Option("--out", help="where results go; DIR/analysis unless given")] = None,
    arm: Annotated[str, typer.Option(help="what the sessions are, where their folder does not say it")] = "main",
    events: Annotated[
        Literal["auto", "fluorescence", "recorded"],
        typer.Option(help="fluorescence: detected; recorded: as a simulated cohort's file holds them; auto"),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="of shuffles and draws; the same seed, the same results")] = 0,
    shuffles: Annotated[int, typer.Option(min=1, help="of the network decoder; a rank p of .05 needs 19")] = 19,
    others: Annotated[int, typer.Option(min=0, help="P0 neurons a session that the network decoder takes")] = 8,
    workers: Annotated[int, typer.Option(min=0, help="processes on this machine; 0: one a core")] = 0,
    scheduler: Annotated[str, typer.Option(help="address of a Dask cluster that shares this disk")] = "",
    json: Json = False,
) -> None:
    """Analyse sessions: Parquet tables, figures, and one HTML page with the acceptance table.

    Goes on where it was stopped. Exit 1 where a session could not be read, or is in none of the arms' folders; it is
    named, and left out.
    """
    try:
        from loop2p.analysis.acceptance import print_rows
        from loop2p.analysis.arm import arms_in, sets_in
        from loop2p.analysis.measure import MeasureParams
        from loop2p.analysis.results import results_of, write_results
        from loop2p.analysis.sessions import find_sessions
        from loop2p.analysis.sets import how_often, write_sets
    except ImportError as error:
        fail(f"{error}; install loop2p[analysis]")
    started = time.perf_counter()
    place = out_dir or folder / "analysis"
    try:
        asked = {"events": events, "seed": seed, "n_shuffles": shuffles, "n_other": others}
        params = convert(asked, MeasureParams)
        results_in = (place, folder / "analysis", folder / "measured")  # of this run and of earlier ones
        inside = sets_in(folder, results_in)
        sets = {name: (path, place / name) for name, path in inside.items()} or {"": (folder, place)}
        found = {name: (*where, arms_in(where[0], arm, results_in)) for name, where in sets.items()}
        judged: dict[str, Any] = {}
        outside = beside(folder, [path for of, _ in sets.values() for path in find_sessions(of)])
        refused, left_out = few(outside, folder), list(outside)  # named here; all of them, for the page
        page = place / "report.html"
        with cluster_of(workers, scheduler) as client:
            for name, (of, to, paths) in found.items():
                arms, bad = measured(of, to, paths, params, client, quiet=json)
                results = results_of(arms, seed)
                lost = beside(of, [path for sessions in paths.values() for path in sessions])
                page = write_results(to, arms, results, about(of, paths, params, [*bad, *lost, *outside]))
                judged[name] = results.rows
                refused += [*bad, *few(lost, of)]
                left_out += [*bad, *lost]
        if "" not in judged:
            page = write_sets(place, judged, {name: f"{name}/report.html" for name in judged}, left_out)
    except (OSError, ValueError) as error:
        fail(str(error))
    took_s = time.perf_counter() - started
    n = sum(len(sessions) for _, _, paths in found.values() for sessions in paths.values())
    if json:
        rows = {name: [row.as_dict() for row in rows] for name, rows in judged.items()}
        sets_or_rows = {"rows": rows[""]} if "" in rows else {"sets": rows}
        print_json({"took_s": round(took_s, 1), "report": str(page), "refused": refused, **sets_or_rows})
    else:
        for name, rows in judged.items():
            if name:
                out.rule(name)
            print_rows(rows, out)
        for one in how_often(judged) if len(judged) > 1 else []:
            out.print(f"{one.row.id:4} met in {one.n_met} of {one.n_judged}  {one.row.signature}", markup=False)
        for why in refused:
            err.print(f"left out: {why}", style="bold red", markup=False, soft_wrap=True)
        out.print(f"{n} sessions in {took_s:.0f} s (seed {seed}): {page}", soft_wrap=True)
    if refused:
        raise typer.Exit(EXIT_REFUSED)


def about(folder: Path, paths: dict[str, list[Path]], params: Any, refused: list[str]) -> dict[str, Any]:
    """What the page says of how it was made."""
    names = ("loop2p", "numpy", "scipy", "statsmodels")
    return {
        "folder": folder.name, "seed": params.seed, "params": to_builtins(params), "refused": refused,
        "sessions": {name: len(found) for name, found in paths.items()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }  # fmt: skip


def measured(
    folder: Path, place: Path, paths: dict[str, list[Path]], params: Any, client: Any, quiet: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Measure what is not measured yet; the arms, and why sessions are left out.

    Raises SessionError where an arm has no session left.
    """
    from loop2p.analysis.measure import measure, read_measured
    from loop2p.analysis.sessions import SessionError

    kept = {name: {path: result_folder(folder, place, name, path) for path in found} for name, found in paths.items()}
    futures = {
        client.submit(measure, path.resolve(), name, params, to.resolve(), pure=False): (name, path)
        for name, found in kept.items()
        for path, to in found.items()
    }
    refused: dict[str, list[str]] = {name: [] for name in paths}
    for (name, path), told in watched(client, futures, "sessions", quiet):
        if told not in ("done", "there"):
            refused[name].append(told)
            del kept[name][path]
    for name, found in kept.items():
        if not found:
            why = sorted(refused[name])
            more = f"; and {len(why) - MOST_TOLD} more" if len(why) > MOST_TOLD else ""
            raise SessionError(f"{folder}: no session of the arm {name} is usable: {'; '.join(why[:MOST_TOLD])}{more}")
    arms = {name: read_measured(name, list(found.values())) for name, found in kept.items()}
    return arms, sorted(why for of_arm in refused.values() for why in of_arm)


def beside(folder: Path, taken: Iterable[Path]) -> list[str]:
    """Why sessions in a folder are not among those that its arms or sets have, a line for each."""
    from loop2p.analysis.sessions import find_sessions

    why = f"in none of the arms' folders in {folder}, expected every session in one"
    what_to_do = "move it into a folder named after its arm, or analyse it on its own"
    return [f"{path}: {why}; {what_to_do}" for path in sorted({*find_sessions(folder)}.difference(taken))]


def few(why: list[str], folder: Path) -> list[str]:
    """MOST_TOLD of the sessions beside the arms of a folder, and how many more there are."""
    more = len(why) - MOST_TOLD
    return [*why[:MOST_TOLD], f"{folder}: {more} more in none of the arms' folders"] if more > 0 else why


def result_folder(folder: Path, place: Path, arm: str, path: Path) -> Path:
    """Where a session's results go: below the arm's name, by its place in the folder.

    A suite2p session is a folder and has no suffix: in 2026.01.05 the last dot is part of a date.
    """
    inside = path.relative_to(folder)
    parts = inside.with_suffix("").parts if path.is_file() else inside.parts
    return place.joinpath("measured", arm, "--".join(parts) or folder.resolve().name)
