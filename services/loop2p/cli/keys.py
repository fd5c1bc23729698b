"""`loop2p keys`: who may talk to whom on this rig."""

from typing import Annotated

import typer

from loop2p.cli.main import EXIT_REFUSED, Json, RigPath, fail, open_rig, out, print_json
from loop2p.runtime.keys import OPERATOR, PRIVATE, PUBLIC, keys_folder, make_keys


def register(app: typer.Typer) -> None:
    app.command()(keys)


def keys(
    rig: RigPath,
    names: Annotated[
        list[str] | None, typer.Argument(help="whose; all services, companions and the operator unless given")
    ] = None,
    renew: Annotated[bool, typer.Option(help="new keys in place of those that are there")] = False,
    json: Json = False,
) -> None:
    """Make the keys that are missing, and say which machine each secret one is for.

    The folder stands in the rig file: `keys` under [security]. Its public/ is the allow-list and the same on every
    machine: who has no key in it is not let in.
    """
    rig_file = open_rig(rig)
    folder = keys_folder(rig_file)
    if folder is None:
        fail(f'{rig}: no keys, expected a folder for them: [security] keys = "keys"', EXIT_REFUSED)
    hosts = {name: spec.host for name, spec in (rig_file.rig.services | rig_file.rig.companions).items()}
    wanted = names or [*hosts, OPERATOR]
    made = make_keys(folder, wanted, renew)
    if json:
        print_json({name: {"made": name in made, "host": hosts.get(name)} for name in wanted})
        return
    for name in wanted:
        where = hosts.get(name, "where its user works")
        told = "made" if name in made else "there"
        out.print(f"{told}  {folder / PRIVATE / name}.key_secret: {where}", markup=False, soft_wrap=True)
    told = f"{folder / PUBLIC} goes to every machine, each secret key to its own alone"
    out.print(told, markup=False, soft_wrap=True)
