"""The command `loop2p`."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from loop2p.protocol import Endpoints, FileError, RigFile, read_rig
from loop2p.runtime.keys import OPERATOR, Keys, load_keys

app = typer.Typer(
    name="loop2p", no_args_is_help=True, add_completion=False, help="A closed-loop two-photon rig of small services."
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

RigPath = Annotated[Path, typer.Argument(help="rig file (TOML)", metavar="RIG")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
HostName = Annotated[str, typer.Option("--host", help="this machine's name in the rig file")]

EXIT_REFUSED, EXIT_MISTAKE = 1, 2


def open_rig(path: Path) -> RigFile:
    """Read a rig file or leave with the mistake in it."""
    try:
        return read_rig(path)
    except FileError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{path}: {error.strerror}, expected a rig file (TOML)")


def read_text(path: Path, what: str) -> str:
    """A file that a person wrote, or leave with what is wrong; `what` it should be, such as "task file (TOML)"."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fail(f"{path}: not UTF-8 at byte {error.start}, expected a {what}")
    except OSError as error:
        fail(f"{path}: {error.strerror}, expected a {what}")


def operator_keys(rig_file: RigFile) -> Keys | None:
    """The operator's keys, or leave with what is wrong with them; None on a rig without."""
    try:
        return load_keys(rig_file, OPERATOR)
    except FileError as error:
        fail(str(error))


def fail(message: str, code: int = EXIT_MISTAKE) -> NoReturn:
    """Say what is wrong and leave."""
    err.print(message, style="bold red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line a record, with the wall time: these lines become the service's log file."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True)


@app.command()
def serve(
    name: Annotated[str, typer.Argument(help="of a service, stand-in or companion in the rig file")],
    rig: RigPath,
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
    instance: Annotated[str, typer.Option(hidden=True)] = "",
    shadow: Annotated[bool, typer.Option(hidden=True, help="bind at LOOP2P_PUBLISH, _BULK, _CONTROL")] = False,
    wait: Annotated[bool, typer.Option(hidden=True, help="for a line on standard input before binding")] = False,
) -> None:
    """Run one service, stand-in or companion in this process, until Ctrl-C."""
    from loop2p.runtime.process import serve as serve_service
    from loop2p.runtime.side import serve_side

    log_to_stderr()
    rig_file = open_rig(rig)
    if name in rig_file.rig.side:
        raise typer.Exit(serve_side(name, rig_file, with_parent))
    if name not in rig_file.rig.services:
        fail(f"{rig}: no process {name!r}; there are {', '.join((*rig_file.rig.services, *rig_file.rig.side))}")
    at = Endpoints(*(os.environ[f"LOOP2P_{which}"] for which in ("PUBLISH", "BULK", "CONTROL"))) if shadow else None
    raise typer.Exit(serve_service(name, rig_file, with_parent, instance, at, wait))


def print_json(value: object) -> None:
    """JSON on standard output, one object."""
    print(json.dumps(value, indent=2, sort_keys=True))


def main() -> None:
    """Entry point: the commands live in the modules imported here."""
    from loop2p.cli import align, analyse, bench, cohort, conform, day1, deploy, keys, operate, records, run, swap
    from loop2p.cli import screen as stimulus_screen

    for module in (run, operate, swap, conform, keys, deploy, records, day1, cohort, analyse, align, stimulus_screen):
        module.register(app)
    app.add_typer(bench.app, name="bench")
    app()


if __name__ == "__main__":
    main()
