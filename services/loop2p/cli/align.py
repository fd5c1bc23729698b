"""`loop2p align`: match two recordings by a pulse line that both have."""

from typing import Annotated, Any

import numpy as np
import typer

from loop2p.cli.main import EXIT_MISTAKE, EXIT_REFUSED, Json, fail, out, print_json

Source = Annotated[str, typer.Argument(help="PATH::LINE: a run's folder, .h5, .csv or .jsonl, and the line in it")]


def register(app: typer.Typer) -> None:
    app.command()(align)


def align(
    a: Source,
    b: Source,
    tolerance_ms: Annotated[float, typer.Option(min=0.001, help="two stamps of one pulse agree within this")] = 1.0,
    rate_hz: Annotated[float, typer.Option(min=0.0, help="samples a second of an .h5 file without a counter")] = 0.0,
    pairs: Annotated[bool, typer.Option("--pairs", help="with --json: which pulse is which")] = False,
    json: Json = False,
) -> None:
    """Which pulse of A is which of B, and how A's clock maps on B's; exit code 1 if they are not of one line."""
    from loop2p.recording.align import MismatchError
    from loop2p.recording.align import align as match
    from loop2p.recording.pulse_files import PulseFileError, read_pulses

    try:
        times_a, times_b = read_pulses(a, rate_hz), read_pulses(b, rate_hz)
        found = match(times_a, times_b, tolerance_ms / 1e3)
    except MismatchError as error:
        fail(f"refused: {error}", EXIT_REFUSED)
    except (PulseFileError, ValueError) as error:
        fail(str(error), EXIT_MISTAKE)
    residual_us = np.abs(found.residual_s) * 1e6
    result: dict[str, Any] = {
        "pulses": [len(times_a), len(times_b)],
        "while_both_recorded": [found.n_a, found.n_b],
        "matched": len(found.pairs),
        "origin_s": found.origin_s,
        "offset_s": found.offset_s,
        "slope": found.slope,
        "drift_ppm": round(found.drift_ppm, 3),
        "residual_us": {"rms": round(float(np.sqrt((residual_us**2).mean())), 3), "max": round(residual_us.max(), 3)},
        "chance_log10": round(found.chance_log10, 1),
        "next_best": found.next_best,
    }
    if json:
        print_json(result | ({"pairs": found.pairs.tolist()} if pairs else {}))
        return
    rms, most = result["residual_us"]["rms"], result["residual_us"]["max"]
    lines = (
        f"matched   {len(found.pairs)} pulses, of {found.n_a} and {found.n_b} while both recorded",
        f"clock     b = {found.offset_s:.6f} s + {found.slope:.9f} x (a - {found.origin_s:.6f} s)",
        f"drift     {found.drift_ppm:+.2f} ppm: b's clock against a's",
        f"residual  {rms:.1f} us rms, {most:.1f} us at most",
        f"by chance at most 10^{found.chance_log10:.0f}; at the next best shift {found.next_best} pulses agree",
    )
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
