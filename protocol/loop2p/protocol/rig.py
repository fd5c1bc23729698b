"""The rig file: what runs where, with which options.

A role's own options are checked by its class (`Service.Options`), so that a replacement brings its own.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from loop2p.protocol.tomlfile import FileError, convert, line_of, parse_toml

Positive = Annotated[float, Meta(gt=0)]
PositiveInt = Annotated[int, Meta(gt=0)]

ROLES = {
    "imaging": "loop2p.imaging.service:Imaging",
    "decoding": "loop2p.decoding.service:Decoding",
    "task": "loop2p.task.service:Task",
    "stimulus": "loop2p.stimulus.service:Stimulus",
    "actuation": "loop2p.actuation.service:Actuation",
    "recording": "loop2p.recording.service:Recording",
}
"""role -> the class that fills it unless the rig file names another."""


REALTIME_MAX = 49
"""Highest real-time priority: below 50, which Linux gives to its interrupt threads."""


class Microscope(Struct, frozen=True, forbid_unknown_fields=True):
    """Geometry and rate of the imaging stream. Defaults: docs/experiment.md section 1."""

    height: PositiveInt = 512
    width: PositiveInt = 796
    planes: PositiveInt = 2
    rate_hz: Positive = 30.92
    """Frames of all planes per second."""

    @property
    def plane_rate_hz(self) -> float:
        return self.rate_hz / self.planes


class ServiceSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One service: where it binds, and what fills the role."""

    publish: str
    """PUB endpoint for small messages, such as "tcp://127.0.0.1:5500"."""
    bulk: str
    """PUB endpoint for preview and raw."""
    control: str
    """ROUTER endpoint."""
    metrics: str = ""
    """host:port of the Prometheus endpoint; empty for none."""
    host: str = "local"
    class_: str = field(name="class", default="")
    realtime_priority: Annotated[int, Meta(ge=0, le=REALTIME_MAX)] = 0
    """Real-time priority to ask the system for at start, never required; 0: none (docs/how-to/realtime.md)."""
    external: bool = False
    """A peer started by somebody else: it publishes its topic and heartbeats, no more is expected of it."""
    options: dict[str, Any] = {}


class SideProcess(Struct, frozen=True, forbid_unknown_fields=True):
    """A process beside the services, started by `up` and unknown to them: a stand-in, which takes the place of hardware
    or animal, or a companion, which only listens and asks (a gateway, a bridge)."""

    run: str
    """"package.module:Class"."""
    host: str = "local"
    options: dict[str, Any] = {}


class ClockRules(Struct, frozen=True, forbid_unknown_fields=True):
    reference: str = "task"
    """The service whose machine keeps the rig clock."""
    bound_limit_ms: Positive = 1.0
    """A session does not start while a clock is known less well than this."""


class Security(Struct, frozen=True, forbid_unknown_fields=True):
    keys: str = ""
    """Folder of the rig's keys, relative to this file, made by `loop2p keys`; empty: no encryption, nobody is asked who
    they are, and every endpoint must be on this machine."""
    plain_on_network: bool = False
    """Without keys, all the same on a network: who reaches it can open the valve. Every recording holds this."""


class DataRules(Struct, frozen=True, forbid_unknown_fields=True):
    folder: str = "runs"
    """Where run folders go; relative to the working directory."""
    free_gb: Annotated[float, Meta(ge=0)] = 2.0
    """A session does not start with less disk free than this, and pauses below a tenth of it."""


class Rig(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole rig."""

    name: str
    services: dict[str, ServiceSpec]
    simulated: bool = False
    hosts: dict[str, str] = {}
    """Host name -> address, for readers and deployment."""
    microscope: Microscope = Microscope()
    clock: ClockRules = ClockRules()
    data: DataRules = DataRules()
    security: Security = Security()
    standins: dict[str, SideProcess] = {}
    companions: dict[str, SideProcess] = {}

    @property
    def side(self) -> dict[str, SideProcess]:
        """Stand-ins and companions."""
        return self.standins | self.companions

    @property
    def used_hosts(self) -> set[str]:
        """Names of the machines on which something runs."""
        return {spec.host for spec in self.services.values()} | {process.host for process in self.side.values()}


class RigFile(Struct, frozen=True):
    """A rig, with the text it was read from and that text's hash (all machines must hold the same)."""

    rig: Rig
    text: str
    path: Path

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def options(self, name: str, kind: type[Any]) -> Any:
        """A service's options, checked against its own struct. Raises FileError."""
        spec = self.rig.services[name]
        return convert(spec.options, kind, str(self.path), self.text, f"services.{name}.options")

    def side_options(self, name: str, kind: type[Any]) -> Any:
        """The options of a stand-in or companion, checked against its own struct. Raises FileError."""
        section = "standins" if name in self.rig.standins else "companions"
        return convert(self.rig.side[name].options, kind, str(self.path), self.text, f"{section}.{name}.options")


_ENDPOINT = re.compile(r"^(tcp://[^:/]+:\d{1,5}|inproc://.+|ipc://.+)$")


_HERE = re.compile(r"^(tcp://(127(\.\d{1,3}){3}|localhost|\[::1\]):\d+|inproc://.+|ipc://.+)$")


def is_here(endpoint: str) -> bool:
    """Can only be reached from its own machine."""
    return _HERE.match(endpoint) is not None


def is_endpoint(text: str) -> bool:
    """Can be bound and connected to."""
    return _ENDPOINT.match(text) is not None and _port_exists(text)


def _port_exists(endpoint: str) -> bool:
    port = endpoint.rsplit(":", 1)[-1]
    return not port.isdigit() or 0 < int(port) < 65536


def read_rig(path: Path | str) -> RigFile:
    """Read and check a rig file. Raises FileError: file, line or key, found, expected."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileError(f"{path}: no such rig file") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse_rig(text, path)


class _WithMicroscope(Struct):
    """All of a rig file but its microscope is passed over."""

    microscope: Microscope = Microscope()


def parse_microscope(text: str, path: Path | str = "rig file") -> Microscope:
    """The microscope that a recorded rig file describes; of another version's file, too. Raises FileError."""
    return parse_toml(text, _WithMicroscope, str(path)).microscope


def parse_rig(text: str, path: Path | str = "rig file") -> RigFile:
    """Check the text of a rig file. Raises FileError."""
    rig = parse_toml(text, Rig, str(path))

    def mistake(key: str, message: str) -> FileError:
        line = line_of(text, key)
        return FileError(f"{path}{f', line {line}' if line else ''}: {key}: {message}")

    seen: dict[str, str] = {}
    for name, spec in rig.services.items():
        if name not in ROLES:
            raise mistake(f"services.{name}", f"unknown service; expected one of {', '.join(ROLES)}")
        for which in ("publish", "bulk", "control"):
            endpoint = getattr(spec, which)
            key = f"services.{name}.{which}"
            if not is_endpoint(endpoint):
                raise mistake(key, f"found {endpoint!r}, expected an endpoint such as 'tcp://127.0.0.1:5500'")
            if endpoint in seen:
                raise mistake(key, f"{endpoint} is already {seen[endpoint]}; every endpoint must differ")
            seen[endpoint] = key
        if spec.metrics:
            key = f"services.{name}.metrics"
            if not re.match(r"^[^:/]+:\d{1,5}$", spec.metrics) or not _port_exists(spec.metrics):
                raise mistake(key, f"found {spec.metrics!r}, expected host:port")
            if f"tcp://{spec.metrics}" in seen:
                raise mistake(
                    key, f"{spec.metrics} is already {seen[f'tcp://{spec.metrics}']}; every endpoint must differ"
                )
            seen[f"tcp://{spec.metrics}"] = key
        if spec.class_ and not re.match(r"^[\w.]+:\w+$", spec.class_):
            raise mistake(f"services.{name}.class", f"found {spec.class_!r}, expected 'package.module:Class'")
    for name in ROLES:
        if name not in rig.services:
            raise mistake("services", f"no {name}; a rig needs {', '.join(ROLES)}")
    if not rig.security.keys and not rig.security.plain_on_network:
        for name, spec in rig.services.items():
            for which in ("publish", "bulk", "control"):
                if not is_here(getattr(spec, which)):
                    raise mistake(
                        f"services.{name}.{which}",
                        f"{getattr(spec, which)} can be reached from other machines, expected keys: set `keys` under "
                        "[security] and run `loop2p keys RIG`, or plain_on_network = true where nobody else is on it",
                    )
    if rig.clock.reference not in rig.services:
        raise mistake("clock.reference", f"found {rig.clock.reference!r}, expected one of {', '.join(rig.services)}")
    for section, processes in (("standins", rig.standins), ("companions", rig.companions)):
        for name, process in processes.items():
            key = f"{section}.{name}"
            if name in rig.services or (section == "companions" and name in rig.standins):
                raise mistake(key, "there is another process of that name; every name must differ")
            if not re.match(r"^[\w.]+:\w+$", process.run):
                raise mistake(f"{key}.run", f"found {process.run!r}, expected 'package.module:Class'")
    return RigFile(rig, text, Path(path))
