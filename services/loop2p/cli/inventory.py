"""What a rig file means for each of its machines: address, what runs there, which extras, files and keys it needs.

Pure but for looking which files there are. The names and forms are those that Ansible takes.
"""

import importlib.metadata
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from msgspec import Struct, structs

from loop2p.protocol import ROLES, FileError, RigFile
from loop2p.runtime.keys import OPERATOR, PRIVATE, PUBLIC, keys_folder

HERE = "local"
"""The host of a rig file that names none: the machine on which this is typed."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names that become part of a path, a unit's name and a command line."""
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")


class Machine(Struct, frozen=True):
    """One host of a rig."""

    name: str
    address: str
    """As ssh takes it; empty for the machine on which this is typed."""
    runs: list[str]
    """Services, stand-ins and companions that `loop2p up` starts there."""
    roles: list[str]
    """Groups of it: its services, "standins", "companions", "operator"."""
    extras: list[str]
    """Of the distribution: what its roles need, and nothing else."""
    secret_keys: list[str]
    """Whose secret keys belong there, and nowhere else."""


def declared_extras() -> set[str]:
    """The extras of the distribution that is installed here."""
    return set(importlib.metadata.metadata("loop2p").get_all("Provides-Extra") or ())


def machines(rig_file: RigFile, operator: str = "", declared: Iterable[str] | None = None) -> list[Machine]:
    """The hosts on which something runs, and the operator's (recording's, unless given), in the order of the file.

    Raises FileError for a host without an address, or a name that cannot be part of a path.
    """
    rig = rig_file.rig
    known = declared_extras() if declared is None else set(declared)
    operator = operator or rig.services["recording"].host
    processes = [(name, spec.host) for name, spec in (rig.services | rig.side).items()]
    names = list(dict.fromkeys([host for _, host in processes] + [operator]))
    if not PLAIN.fullmatch(rig.name):
        raise FileError(f"{rig_file.path}: name: found {rig.name!r}, expected letters, digits, '_', '.' or '-'")
    found = []
    for host in names:
        here = [name for name, where in processes if where == host]
        services = [name for name in here if name in rig.services]
        groups = [
            *services,
            *(["standins"] if any(n in rig.standins for n in here) else []),
            *(["companions"] if any(n in rig.companions for n in here) else []),
            *([OPERATOR] if host == operator else []),
        ]
        classes = [c for n in here for c in _classes(rig_file, n)]
        extras = sorted({extra for c in classes if (extra := _extra(c)) in known})
        keyed = [n for n in here if n not in rig.standins] + ([OPERATOR] if host == operator else [])
        found.append(
            Machine(
                name=host,
                address=_address(rig_file, host),
                runs=[n for n in here if n not in rig.services or not rig.services[n].external],
                roles=groups,
                extras=extras,
                secret_keys=sorted(keyed) if rig.security.keys else [],
            )
        )
    return found


def _classes(rig_file: RigFile, name: str) -> list[str]:
    """What is loaded by name for a process. A replacement's role brings its extra, too: it may build upon it."""
    rig = rig_file.rig
    if name in rig.side:
        return [rig.side[name].run]
    spec = rig.services[name]
    return [] if spec.external else [ROLES[name], spec.class_]


def _extra(class_: str) -> str:
    """loop2p.NAME.module:Class needs the extra NAME, if there is one."""
    parts = class_.partition(":")[0].split(".")
    return parts[1] if parts[0] == "loop2p" and len(parts) > 1 else ""


def _address(rig_file: RigFile, host: str) -> str:
    address = rig_file.rig.hosts.get(host, "")
    if not PLAIN.fullmatch(host):
        raise FileError(f"{rig_file.path}: host {host!r}: expected letters, digits, '_', '.' or '-'")
    if not address and host != HERE:
        raise FileError(
            f'{rig_file.path}: hosts: no address of {host!r}, expected a line such as {host} = "192.168.10.1" '
            "under [hosts]"
        )
    if address and not ADDRESS.fullmatch(address):
        raise FileError(f"{rig_file.path}: hosts.{host}: found {address!r}, expected an address or a name")
    return address


def files_named(rig_file: RigFile) -> list[str]:
    """Files that options of the rig file name, and those in folders that they name, relative to the rig file; sorted.

    Absolute paths are left alone: they are the machine's own. Raises FileError for one that is there, but not beneath
    the rig file's folder: on another machine it would lead elsewhere.
    """
    folder = rig_file.path.parent.resolve()
    secret = keys_folder(rig_file)
    found: set[str] = set()
    rig = rig_file.rig
    for name, spec in (rig.services | rig.side).items():
        for value in _strings(spec.options):
            if not value or "\0" in value or len(value) > 255 or os.path.isabs(value):
                continue
            path = (folder / value).resolve()
            if not path.exists():
                continue
            if path == folder or not path.is_relative_to(folder):
                raise FileError(
                    f"{rig_file.path}: {name}: {value!r} is not beneath the rig file's folder and can't be deployed: "
                    "expected a file or folder beside the rig file; move or copy it there"
                )
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                inside = secret is not None and file.is_relative_to(secret)
                if file.is_file() and "__pycache__" not in file.parts and not inside:
                    found.add(file.relative_to(folder).as_posix())
    return sorted(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def keys_place(rig_file: RigFile) -> str:
    """The folder of keys relative to the rig file, the same on every machine; empty without keys. Raises FileError."""
    folder = keys_folder(rig_file)
    if folder is None:
        return ""
    here = rig_file.path.parent.resolve()
    if folder == here or not folder.is_relative_to(here):
        raise FileError(
            f"{rig_file.path}: security.keys: found {rig_file.rig.security.keys!r}, expected a folder beneath the rig "
            "file's own, as on another machine it would lead elsewhere"
        )
    return PurePosixPath(folder.relative_to(here)).as_posix()


def missing_keys(rig_file: RigFile, plan: Iterable[Machine]) -> list[Path]:
    """Key files that are to be deployed and are not there."""
    folder = keys_folder(rig_file)
    if folder is None:
        return []
    public = [folder / PUBLIC / f"{name}.key" for name in rig_file.rig.services]
    secret = [folder / PRIVATE / f"{name}.key_secret" for machine in plan for name in machine.secret_keys]
    return [path for path in (*public, *secret) if not path.is_file()]


def rig_variables(rig_file: RigFile) -> dict[str, Any]:
    """What is the same for every machine."""
    folder = keys_folder(rig_file)
    public = sorted(path.name for path in (folder / PUBLIC).glob("*.key")) if folder else []
    return {
        "loop2p_rig": rig_file.rig.name,
        "loop2p_rig_hash": rig_file.hash,
        "loop2p_rig_file": str(rig_file.path.resolve()),
        "loop2p_data_folder": rig_file.rig.data.folder,
        "loop2p_keys": str(folder) if folder else "",
        "loop2p_keys_place": keys_place(rig_file),
        "loop2p_public_keys": public,
    }


def machine_variables(machine: Machine) -> dict[str, Any]:
    """What is one machine's own."""
    reach = {"ansible_host": machine.address} if machine.address else {"ansible_connection": "local"}
    own = structs.asdict(machine)
    return reach | {f"loop2p_{k}": own[k] for k in ("runs", "extras", "secret_keys")} | {"loop2p_host": machine.name}


def static(rig_file: RigFile, plan: Iterable[Machine], more: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """An inventory file, as Ansible's `yaml` plugin reads it (JSON is YAML). `more`: host -> further variables."""
    plan = list(plan)
    hosts = {m.name: machine_variables(m) | (more or {}).get(m.name, {}) for m in plan}
    children: dict[str, Any] = {
        group: {"hosts": {name: {} for name in names}} for group, names in _groups(plan).items()
    }
    return {"all": {"vars": rig_variables(rig_file), "hosts": hosts, "children": children}}


def dynamic(rig_file: RigFile, plan: Iterable[Machine]) -> dict[str, Any]:
    """What an inventory script answers to --list."""
    plan = list(plan)
    groups: dict[str, Any] = {group: {"hosts": names} for group, names in _groups(plan).items()}
    return groups | {
        "all": {"vars": rig_variables(rig_file), "hosts": [m.name for m in plan]},
        "_meta": {"hostvars": {m.name: machine_variables(m) for m in plan}},
    }


def _groups(plan: Iterable[Machine]) -> dict[str, list[str]]:
    """`role_` stands before, for a host may be called as a role is."""
    groups: dict[str, list[str]] = {}
    for machine in plan:
        for role in machine.roles:
            groups.setdefault(f"role_{role}", []).append(machine.name)
    return groups
