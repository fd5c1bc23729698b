"""`loop2p deploy`: the same rig on all its machines, from one PC over ssh. `loop2p inventory`: what that would be."""

import json as json_text
import os
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from msgspec import structs

from loop2p.cli.bundle import BundleError, Entry, make_bundle, own_wheel, pack, wheel_version
from loop2p.cli.inventory import (
    Machine,
    dynamic,
    files_named,
    keys_place,
    machine_variables,
    machines,
    missing_keys,
    rig_variables,
    static,
)
from loop2p.cli.main import EXIT_REFUSED, RigPath, err, fail, open_rig, print_json
from loop2p.protocol import FileError, RigFile
from loop2p.runtime.keys import PRIVATE, PUBLIC, keys_folder

CHECKOUT = Path(__file__).parents[3]
Operator = Annotated[
    str, typer.Option(help="the host that sessions are run from: it gets the operator's key; recording's, unless given")
]


def register(app: typer.Typer) -> None:
    for command in (deploy, inventory):
        app.command()(command)


def inventory(
    rig: RigPath,
    operator: Operator = "",
    dynamic_form: Annotated[bool, typer.Option("--list", help="as an inventory script answers")] = False,
    host: Annotated[str, typer.Option(help="that host's variables alone")] = "",
) -> None:
    """The machines of a rig as Ansible takes them (JSON): addresses, roles, extras, and whose keys."""
    rig_file = open_rig(rig)
    plan = _plan(rig_file, operator)
    if host:
        print_json(next((machine_variables(m) | rig_variables(rig_file) for m in plan if m.name == host), {}))
    else:
        print_json(dynamic(rig_file, plan) if dynamic_form else static(rig_file, plan))


def deploy(
    rig: RigPath,
    ansible: Annotated[list[str] | None, typer.Argument(help="after --: options of ansible-playbook")] = None,
    host: Annotated[list[str] | None, typer.Option(help="only this machine; may be given again")] = None,
    check: Annotated[bool, typer.Option("--check", help="change nothing, say what would change")] = False,
    version: Annotated[
        Path | None, typer.Option(help="a wheel to install instead of this checkout", metavar="WHEEL")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="back to the release before")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="restart the services: never in a session")] = False,
    tasks: Annotated[
        Path, typer.Option(help="folder of task files to install", show_default="deploy/tasks of the checkout")
    ] = CHECKOUT / "deploy" / "tasks",
    operator: Operator = "",
    work: Annotated[Path, typer.Option(help="where wheels and inventory are put")] = Path("build/deploy"),
) -> None:
    """Install this rig on its machines over ssh: program, rig file, tasks, keys, and the unit that starts it.

    Machines that have it all are left as they are. What runs goes on running with the release it was started with,
    until it is restarted.
    """
    rig_file = open_rig(rig)
    plan = _plan(rig_file, operator)
    wanted = host or [m.name for m in plan]
    for name in wanted:
        if name not in {m.name for m in plan}:
            fail(f"{rig}: nothing runs on host {name!r}, there are {', '.join(m.name for m in plan)}")
    book = CHECKOUT / "deploy" / "ansible" / ("rollback.yml" if rollback else "site.yml")
    if not book.is_file():
        fail(f"{book}: not there, expected `loop2p deploy` to be typed in a checkout that `make setup` has set up")
    work = work.resolve()
    plan = [m for m in plan if m.name in wanted]
    try:
        more = {} if rollback else _prepare(rig_file, plan, version, tasks, work)
    except (FileError, BundleError) as error:
        fail(str(error), EXIT_REFUSED)
    listed = work / rig_file.rig.name / "inventory.json"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(json_text.dumps(static(rig_file, plan, more), indent=2), encoding="utf-8")
    extra = ["--check", "--diff"] if check else []
    extra += ["-e", '{"loop2p_restart": true}'] if restart else []
    raise typer.Exit(_play(["-i", str(listed), str(book), *extra, *(ansible or [])]))


def _plan(rig_file: RigFile, operator: str) -> list[Machine]:
    try:
        keys_place(rig_file)
        return machines(rig_file, operator)
    except FileError as error:
        fail(str(error), EXIT_REFUSED)


def _prepare(
    rig_file: RigFile, plan: list[Machine], version: Path | None, tasks: Path, work: Path
) -> dict[str, dict[str, Any]]:
    """Wheels and files on this PC; host -> variables that tell of them. Raises FileError, BundleError."""
    missing = missing_keys(rig_file, plan)
    if missing:
        raise FileError(f"{missing[0]}: not there, expected it on the PC that deploys: `loop2p keys {rig_file.path}`")
    if not tasks.is_dir():
        raise FileError(f"{tasks}: no such folder, expected one of task files: --tasks")
    wheel = version or own_wheel(CHECKOUT, work)
    wheel_version(wheel)  # first of all: is it one?
    lock = CHECKOUT / "requirements.lock"
    variables = {}
    for machine in plan:
        err.print(f"{machine.name}: {', '.join(machine.runs) or 'nothing runs there'}", markup=False)
        bundle = make_bundle(wheel, machine.extras, lock, work)
        extras = ", ".join(machine.extras) or "none"
        err.print(f"{machine.name}: release {bundle.release}, extras {extras}", markup=False, soft_wrap=True)
        files = pack(_files(rig_file, machine, tasks), work / rig_file.rig.name / f"{machine.name}.tar")
        told = {k: str(v) for k, v in structs.asdict(bundle).items()}
        variables[machine.name] = {"loop2p_bundle": told, "loop2p_files": str(files)}
    return variables


def _files(rig_file: RigFile, machine: Machine, tasks: Path) -> dict[str, Entry]:
    """What a machine has in /etc/loop2p/NAME, but for its secret keys. Raises FileError."""
    here = rig_file.path.parent
    files = {name: (here / name).read_bytes() for name in files_named(rig_file)}
    files |= {f"tasks/{path.name}": path.read_bytes() for path in tasks.glob("*.toml")}
    files |= {"rig.toml": rig_file.text.encode(), "host.env": f"LOOP2P_HOST={machine.name}\n".encode()}
    keys = keys_folder(rig_file)
    place = keys_place(rig_file)
    if keys is not None:
        files |= {f"{place}/{PUBLIC}/{path.name}": path.read_bytes() for path in (keys / PUBLIC).glob("*.key")}
    folders = {folder.as_posix() for name in files for folder in PurePosixPath(name).parents} - {"."}
    entries = {name: Entry(content) for name, content in files.items()}
    entries |= {name: Entry(mode=0o750) for name in folders}
    if keys is not None:
        entries[f"{place}/{PRIVATE}"] = Entry(mode=0o700, owner="loop2p")
    return entries


def _play(arguments: list[str]) -> int:
    """Run ansible-playbook here, with its output; its exit code."""
    tool = Path(sys.executable).with_name("ansible-playbook")
    if not tool.exists():
        fail(f"{tool}: not there, expected the extra `deploy`: `make setup` installs it; on Windows use WSL")
    config = CHECKOUT / "deploy" / "ansible" / "ansible.cfg"
    err.print(f"ANSIBLE_CONFIG={config} {shlex.join([str(tool), *arguments])}", markup=False, soft_wrap=True)
    return subprocess.run([tool, *arguments], env={"ANSIBLE_CONFIG": str(config)} | os.environ).returncode
