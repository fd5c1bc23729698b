"""Commands for a rig that is up: up, stop, status, metrics, check, and what the operator may ask of task."""

import contextlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from loop2p.cli.main import (
    EXIT_REFUSED,
    HostName,
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
from loop2p.cli.metrics import metrics
from loop2p.cli.status import look, show
from loop2p.protocol import ROLES, FileError, RigFile, ServiceSpec, WireError, control
from loop2p.runtime.ask import ask, ask_answer
from loop2p.runtime.keys import OPERATOR, load_keys
from loop2p.runtime.launcher import Launcher, RigBusyError, RigLock
from loop2p.runtime.process import load

WATCH_S = 1.0


def register(app: typer.Typer) -> None:
    for command in (up, stop, status, metrics, check):
        app.command()(command)
    app.command(name="ask")(ask_task)


def up(rig: RigPath, host: HostName = "local") -> None:
    """Start this machine's services and stand-ins; Ctrl-C stops them."""
    log_to_stderr()
    rig_file = open_rig(rig)
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: asked.append(n))
    try:
        with RigLock(rig_file):
            launcher = Launcher(rig_file, host, Path(rig_file.rig.data.folder) / "logs")
            launcher.start()
            err.print(f"{', '.join((*launcher.services, *launcher.side))} started; Ctrl-C stops them")
            try:
                while not asked and (launcher.waiting or any(n in launcher.processes for n in launcher.services)):
                    for lost in launcher.poll():
                        if not lost.restarting and lost.how != "stopped":
                            err.print(f"{lost.name} is not started again:\n{launcher.last_words(lost.name)}")
                    time.sleep(0.1)
            finally:
                launcher.stop()
    except (RigBusyError, FileError, OSError) as error:
        fail(str(error), EXIT_REFUSED)


def stop(
    rig: RigPath, host: Annotated[str, typer.Option(help="only this machine's services")] = "", json: Json = False
) -> None:
    """Stop the rig, out of band: actuation first, recording last. Needs neither task nor bus."""
    rig_file = open_rig(rig)
    services = {n: s for n, s in rig_file.rig.services.items() if not s.external and host in ("", s.host)}
    keys, answers = operator_keys(rig_file), {}
    for name in sorted(services, key=lambda n: {"actuation": 0, "recording": 2}.get(n, 1)):
        answer = answers[name] = ask_answer(services[name].control, control.Stop(by="operator"), 2.0, keys)
        if not json:
            out.print(f"{name}: {'stops' if answer.accepted else answer.reason}", markup=False)
    if json:
        print_json({name: {"stops": answer.accepted, "reason": answer.reason} for name, answer in answers.items()})
    if not all(answer.accepted for answer in answers.values()):
        raise typer.Exit(EXIT_REFUSED)


def hello_all(rig_file: RigFile, timeout_s: float = 1.0) -> dict[str, control.HelloReply | None]:
    """Ask every service who it is, all at once."""
    keys, services = operator_keys(rig_file), rig_file.rig.services

    def one(spec: ServiceSpec) -> control.HelloReply | None:
        try:
            hello = control.Hello(rig_hash=rig_file.hash)
            reply = None if spec.external else ask(spec.control, hello, timeout_s, keys)
        except WireError:
            return None
        return reply if isinstance(reply, control.HelloReply) else None

    with ThreadPoolExecutor(len(services)) as pool:
        return dict(zip(services, pool.map(one, services.values()), strict=True))


def status(
    rig: RigPath,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="again every second, until Ctrl-C")] = False,
) -> None:
    """Which services are there, are they ready, how late is the loop? Exit code 1 unless all are ready."""
    rig_file = open_rig(rig)
    keys = operator_keys(rig_file)
    if watch:
        if json:
            fail("--watch and --json: expected one of them")
        with contextlib.suppress(KeyboardInterrupt), Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(show(look(rig_file, hello_all(rig_file), keys)), refresh=True)
                time.sleep(WATCH_S)
        return
    rows = look(rig_file, hello_all(rig_file), keys)
    if json:
        print_json(rows)
    else:
        out.print(show(rows))
    if any(row["state"] == "absent" or (row["why"] and row["state"] != "external") for row in rows.values()):
        raise typer.Exit(EXIT_REFUSED)


def check(
    rig: RigPath,
    json: Json = False,
    host: Annotated[str, typer.Option(help="what this machine needs alone, its keys with it; nobody is asked")] = "",
) -> None:
    """Preflight: is the rig file right, and is everything it names there? A line for each thing."""
    rig_file = open_rig(rig)
    if host and host not in rig_file.rig.used_hosts:
        fail(f"{rig}: nothing runs on host {host!r}")
    lines: list[tuple[bool, str, str]] = [(True, "rig file", f"{rig_file.path}, hash {rig_file.hash}")]
    for name, spec in rig_file.rig.services.items():
        if host not in ("", spec.host):
            continue
        try:
            kind = load(spec.class_ or ROLES[name], f"services.{name}.class")
            rig_file.options(name, kind.Options)  # type: ignore[attr-defined]
            if host and not spec.external:
                load_keys(rig_file, name)
            lines.append((True, name, f"{kind.__module__}:{kind.__name__}, options are right"))
        except FileError as error:
            lines.append((False, name, str(error)))
    for name, process in rig_file.rig.side.items():
        if host not in ("", process.host):
            continue
        try:
            kind = load(process.run, f"{name}.run")
            rig_file.side_options(name, kind.Options)  # type: ignore[attr-defined]
            if host and name in rig_file.rig.companions:
                load_keys(rig_file, name)
            lines.append((True, name, f"{process.run}, options are right"))
        except FileError as error:
            lines.append((False, name, str(error)))
    replies = {} if host else hello_all(rig_file, 0.3)
    running = [n for n, r in replies.items() if r is not None]
    if running:
        for name, reply in replies.items():
            if reply is not None:
                lines.append((not reply.why_not_ready, f"{name} (running)", "; ".join(reply.why_not_ready) or "ready"))
    if json:
        print_json([{"ok": ok, "what": what, "detail": detail} for ok, what, detail in lines])
    else:
        for ok, what, detail in lines:
            out.print(f"{'ok     ' if ok else 'MISSING'} {what}: {detail}", markup=False, soft_wrap=True)
        if not host:
            out.print(f"services running: {', '.join(running) or 'none'}")
    if not all(ok for ok, _, _ in lines):
        raise typer.Exit(EXIT_REFUSED)


def ask_task(
    rig: RigPath,
    kind: Annotated[str, typer.Argument(help="pause, resume, stop, abort, free_reward, note or status")],
    text: Annotated[str, typer.Argument(help="the note's text")] = "",
    json: Json = False,
) -> None:
    """Ask something of the running session; task accepts or refuses with a reason."""
    rig_file = open_rig(rig)
    args = {"text": text} if text else {}
    request = control.Ask(kind, OPERATOR, args)
    answer = ask_answer(rig_file.rig.services["task"].control, request, keys=operator_keys(rig_file))
    if json:
        print_json({"accepted": answer.accepted, "reason": answer.reason})
    else:
        out.print(f"{'accepted' if answer.accepted else 'refused'}: {answer.reason or kind}", markup=False)
    if not answer.accepted:
        raise typer.Exit(EXIT_REFUSED)
