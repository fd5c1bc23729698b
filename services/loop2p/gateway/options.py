"""The gateway's options, and what they name on the disk. Every mistake is a FileError: file, found, expected."""

import io
import ipaddress
import os
import re
import stat
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from loop2p.protocol import FileError, RigFile

MAX_SECRET_BYTES = 1_000


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    """Encryption. Paths are relative to the rig file, here and below."""

    ca_file: str = ""
    """Who signed the broker's certificate, PEM; empty: an authority that this machine trusts."""
    cert_file: str = ""
    """The gateway's own certificate, PEM, where the broker asks for one."""
    key_file: str = ""
    """Its key, PEM, without a passphrase."""


class Startable(Struct, frozen=True, forbid_unknown_fields=True):
    """A session that may be started by MQTT; the files are read at each start."""

    task: str
    """Task file."""
    animal: str = ""
    """Animal file, from day 2 on."""


class GatewayOptions(Struct, frozen=True, forbid_unknown_fields=True):
    broker: str = "127.0.0.1"
    port: Annotated[int, Meta(gt=0, lt=65536)] = 1883
    user: str = ""
    password_file: str = ""
    """Its first line is the password. Nobody but its owner and group may read it."""
    tls: Tls | None = None
    commands: bool = False
    """Take commands; needs a user or a certificate, and a broker that lets nobody else in."""
    sessions: dict[str, Startable] = {}
    """What `start` may start, by name."""
    discovery: Annotated[str, Meta(pattern=r"^[\w/-]*\Z")] = ""
    """Home Assistant's discovery prefix, such as "homeassistant"; empty for none."""


class Login(Struct, frozen=True):
    """How the gateway makes itself known."""

    user: str | None = None
    password: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def is_known(self) -> bool:
        """The broker can tell who this is."""
        return self.user is not None or self.cert_file is not None


def check(options: GatewayOptions, rig_file: RigFile) -> None:
    """Raises FileError for what can't work, or would not be safe."""
    name, place = rig_file.rig.name, f"{rig_file.path}: gateway"
    if not re.fullmatch(r"[\w.-]+", name):
        raise FileError(f"{rig_file.path}: name {name!r} can't be in an MQTT topic, expected letters, digits and ._-")
    if bool(options.user) != bool(options.password_file):
        missing = "password_file" if options.user else "user"
        raise FileError(f"{place}: no {missing}; expected user and password_file, or neither")
    tls = options.tls
    if tls is not None and bool(tls.cert_file) != bool(tls.key_file):
        raise FileError(f"{place}: expected tls.cert_file and tls.key_file, or neither")
    if tls is None and options.user and not _is_loopback(options.broker):
        raise FileError(
            f"{place}: the password would cross the network in clear to {options.broker}; expected [tls], "
            "or a broker on 127.0.0.1"
        )
    if not login(options, rig_file).is_known and options.commands:
        raise FileError(
            f"{place}: commands = true without a login: a broker that does not ask who we are asks nobody else; "
            "expected user and password_file, or tls.cert_file"
        )
    for session in options.sessions:
        read_session(options, session, rig_file)


def login(options: GatewayOptions, rig_file: RigFile) -> Login:
    """The login, read anew from its files. Raises FileError if one is missing, or open to everybody."""
    user = password = None
    if options.user:
        user, password = options.user, read_password(_path(options.password_file, rig_file))
    if options.tls is None:
        return Login(user, password)
    tls = options.tls
    ca_file, cert_file, key_file = (
        str(_path(name, rig_file)) if name else None for name in (tls.ca_file, tls.cert_file, tls.key_file)
    )
    for file in filter(None, (ca_file, cert_file, key_file)):
        with _open(Path(file)) as handle:
            if file == key_file:
                _refuse_if_open_to_all(Path(file), handle)
    return Login(user, password, ca_file, cert_file, key_file)


def read_password(path: Path) -> str:
    """The first line of a file that not everybody can read. Raises FileError."""
    with _open(path) as file:
        _refuse_if_open_to_all(path, file)
        text = os.read(file.fileno(), MAX_SECRET_BYTES)
    try:
        password = text.decode("utf-8").split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 at byte {error.start}, expected a password on one line") from None
    if not password:
        raise FileError(f"{path}: its first line is empty, expected a password")
    return password


def read_session(options: GatewayOptions, name: str, rig_file: RigFile) -> dict[str, str]:
    """What task is given to start a session: texts of its files. Raises FileError."""
    session = options.sessions[name]
    texts = {"task": _text(_path(session.task, rig_file)), "task_path": session.task}
    return texts | ({"animal": _text(_path(session.animal, rig_file))} if session.animal else {})


def _path(name: str, rig_file: RigFile) -> Path:
    return rig_file.path.parent / name


def _open(path: Path) -> io.FileIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise FileError(f"{path}: can't be read: {error.strerror}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 at byte {error.start}") from None


def _refuse_if_open_to_all(path: Path, file: io.FileIO) -> None:
    """Looks at the open file, not at its name: it can't be exchanged in between. Windows has no such bits."""
    mode = os.fstat(file.fileno()).st_mode
    if os.name == "posix" and mode & stat.S_IRWXO:
        raise FileError(f"{path}: everybody on this machine has access ({stat.filemode(mode)}); `chmod 600 {path}`")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
