"""`loop2p swap`: another program takes a service's place in a running session."""

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from loop2p.cli.main import (
    EXIT_REFUSED,
    Json,
    RigPath,
    err,
    fail,
    log_to_stderr,
    open_rig,
    operator_keys,
    out,
    print_json,
)
from loop2p.cli.swapping.handover import HandOver
from loop2p.cli.swapping.newcomer import split_command
from loop2p.cli.swapping.shadow import ShadowSwap, Terms
from loop2p.protocol import ROLES, FileError, RigFile
from loop2p.runtime.process import load


def register(app: typer.Typer) -> None:
    app.command()(swap)


def swap(
    service: Annotated[str, typer.Argument(help="which one, as the rig file names it")],
    rig: RigPath,
    with_: Annotated[str, typer.Option("--with", help="the program; our own service unless given", metavar="CMD")] = "",
    after: Annotated[float | None, typer.Option(help="let it act after so many seconds; else on Enter")] = None,
    shadow_only: Annotated[bool, typer.Option("--shadow-only", help="compare, and never let it act")] = False,
    keep: Annotated[float, typer.Option(help="seconds that the old one stands by, to go back to", min=0)] = 10.0,
    most_difference: Annotated[
        float | None, typer.Option(help="it does not act where any value differed by more", min=0)
    ] = None,
    port: Annotated[int, typer.Option(help="first of three ports for it; free ones unless given", min=0)] = 0,
    json: Json = False,
) -> None:
    """Put another program in a service's place, between two trials, and stay to supervise it; Ctrl-C goes back.

    A decoder runs beside the old one first, and is compared with it. Services that own a device or a file can't be two
    at once: theirs waits, with everything loaded, until the old one has left.
    """
    log_to_stderr()
    rig_file, keys = open_rig(rig), operator_keys(open_rig(rig))
    if service not in rig_file.rig.services:
        fail(f"{rig}: no service {service!r}; there are {', '.join(rig_file.rig.services)}")
    try:
        command = split_command(with_)
    except ValueError as error:
        fail(f"--with {with_!r}: {error}")
    stop = threading.Event()
    asked: list[int] = []

    def ask_stop(*_: object) -> None:
        asked.append(1)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_stop)
    log = Path(rig_file.rig.data.folder) / "logs" / f"{service}-newcomer.log"
    live = Live(Text(""), console=err, auto_refresh=False) if not json and err.is_terminal else None
    show = (lambda text: live.update(Text(text), refresh=True)) if live is not None else (lambda _: None)
    try:
        if can_shadow(rig_file, service):
            terms = Terms(after, shadow_only, keep, most_difference, _enter() if after is None else None)
            swapper: Any = ShadowSwap(rig_file, service, command, log, keys, terms, asked, say, show, port)
        else:
            if shadow_only:
                fail(f"{service} owns a device or a file, so there can't be two at once: expected no --shadow-only")
            swapper = HandOver(rig_file, service, command, log, keys, asked, say)
        if live is not None:
            live.start()
        problem = swapper.run()
    except (FileError, OSError) as error:
        fail(str(error), EXIT_REFUSED)
    finally:
        if live is not None:
            live.stop()
    if json:
        print_json(swapper.result() | {"problem": problem})
    elif isinstance(swapper, ShadowSwap) and swapper.comparison.compared:
        out.print(f"compared with the one that acts: {swapper.comparison.line()}", soft_wrap=True)
    if problem:
        fail(problem, EXIT_REFUSED)


def say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


def can_shadow(rig_file: RigFile, service: str) -> bool:
    """What the class in the rig file says of itself; of an external peer, what the role's own class says."""
    spec = rig_file.rig.services[service]
    name = ROLES[service] if spec.external or not spec.class_ else spec.class_
    return bool(getattr(load(name, f"{rig_file.path}: services.{service}.class"), "can_shadow", False))


def _enter() -> threading.Event:
    """Set at the first line on standard input."""
    pressed = threading.Event()

    def wait() -> None:
        if sys.stdin is not None and sys.stdin.readline():
            pressed.set()

    threading.Thread(target=wait, daemon=True, name="enter").start()
    return pressed
