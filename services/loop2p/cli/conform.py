"""`loop2p conform`: does a program, in whatever language, keep a role's contract?"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from loop2p.cli.conformance.verdict import Verdict, as_json, is_kept
from loop2p.cli.main import EXIT_REFUSED, Json, err, fail, out, print_json
from loop2p.protocol import ROLES

BUDGET_MS = 10.0
"""A third of a frame, of which the published hand-off between two PCs takes as much (p99 10.7 ms)."""


def register(app: typer.Typer) -> None:
    app.command()(conform)


def conform(
    service: Annotated[str, typer.Argument(help="the role: " + ", ".join(ROLES))],
    command: Annotated[list[str] | None, typer.Argument(help="the program, behind --; our own unless given")] = None,
    own_values: Annotated[bool, typer.Option("--own-values", help="its values are its own: judge form alone")] = False,
    check_speed: Annotated[bool, typer.Option("--check-speed", help="judge its latency, too")] = False,
    budget_ms: Annotated[float, typer.Option(help="of the latency's 99th percentile", min=0)] = BUDGET_MS,
    json: Json = False,
) -> None:
    """Start a program with a toy rig around it and try its role's contract, clause by clause. Exit code 1: not kept.

    The program finds in its environment where to bind and whom to hear, as protocol/SPEC.md says; the same names in
    {braces} are filled in on its command line.
    """
    from loop2p.cli.conformance.run import try_out  # late: it loads what every role needs

    if service not in ROLES:
        fail(f"no role {service!r}, expected one of {', '.join(ROLES)}")
    command = command or []
    with tempfile.TemporaryDirectory(prefix="loop2p-conform-", ignore_cleanup_errors=True) as folder:
        budget = budget_ms if check_speed else None
        try:
            verdicts = try_out(service, command, Path(folder), own_values, budget, (lambda _: None) if json else say)
        except OSError as error:
            fail(f"{' '.join(command) or service}: {error}")
    if json:
        print_json(as_json(service, command, verdicts))
    else:
        broken = sum(v.outcome == "BROKEN" for v in verdicts)
        told = f"{broken} of {len(verdicts)} clauses BROKEN" if broken else f"contract kept, {len(verdicts)} clauses"
        out.print(f"{service}: {told}")
    if not is_kept(verdicts):
        raise typer.Exit(EXIT_REFUSED)


def say(verdict: Verdict) -> None:
    """A line for a person."""
    style = {"kept": "green", "BROKEN": "bold red", "measured": "cyan", "not there": "yellow"}[verdict.outcome]
    optional = " (optional)" if verdict.optional else ""
    err.print(f"{verdict.outcome:9}", style=style, end=" ")
    detail = f": {verdict.detail}" if verdict.detail else ""
    err.print(f"{verdict.text}{optional}{detail}", markup=False, soft_wrap=True)
