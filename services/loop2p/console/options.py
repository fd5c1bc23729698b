"""The page's options, and what they name on the disk. Every mistake is a FileError: file, found, expected."""

import ipaddress
import os
import stat
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from loop2p.protocol import FileError, RigFile

MIN_TOKEN, MAX_TOKEN_BYTES = 20, 1_000
"""A token shorter than this could be guessed."""
WILDCARDS = ("0.0.0.0", "::")


class Startable(Struct, frozen=True, forbid_unknown_fields=True):
    """A session that may be started from the page; read at each start. Paths are relative to the rig file."""

    task: str
    """Task file."""
    animal: str = ""
    """Animal file, from day 2 on."""


class ConsoleOptions(Struct, frozen=True, forbid_unknown_fields=True):
    address: str = "127.0.0.1"
    """Of this machine, to listen on. Any other than a loopback address needs token_file and TLS."""
    port: Annotated[int, Meta(gt=0, lt=65536)] = 5560
    names: list[Annotated[str, Meta(pattern=r"^[A-Za-z0-9.-]+\Z")]] = []
    """Other names and addresses by which browsers reach this machine."""
    token_file: str = ""
    """Its first line is asked for at the login. Nobody but its owner and group may read it."""
    cert_file: str = ""
    """Certificate, PEM, for https."""
    key_file: str = ""
    """Its key, PEM, without a passphrase."""
    sessions: dict[str, Startable] = {}
    """What may be started, by name."""

    @property
    def is_local(self) -> bool:
        """Can only be reached from this machine."""
        return _is_loopback(self.address)

    @property
    def scheme(self) -> str:
        return "https" if self.cert_file else "http"

    @property
    def hosts(self) -> frozenset[str]:
        """What a browser that means this page says as Host. Another one was led here by a name that is not ours."""
        names = {*self.names, *({"127.0.0.1", "localhost", "[::1]"} if self.is_local else set())}
        if self.address not in WILDCARDS:
            names.add(f"[{self.address}]" if ":" in self.address else self.address)
        default = {"http": 80, "https": 443}[self.scheme]
        return frozenset({f"{name}:{self.port}" for name in names} | (names if self.port == default else set()))


def check(options: ConsoleOptions, rig_file: RigFile) -> None:
    """Raises FileError for what can't work, or would not be safe."""
    place = f"{rig_file.path}: console"
    if bool(options.cert_file) != bool(options.key_file):
        raise FileError(f"{place}: expected cert_file and key_file, or neither")
    if options.address != "localhost":
        try:
            ipaddress.ip_address(options.address)
        except ValueError:
            raise FileError(f"{place}: address {options.address!r}, expected an address such as '127.0.0.1'") from None
    if not options.is_local:
        if not options.token_file:
            raise FileError(
                f"{place}: {options.address} can be reached from other machines; expected token_file, or address = "
                "'127.0.0.1'"
            )
        if not options.cert_file and not rig_file.rig.security.plain_on_network:
            raise FileError(
                f"{place}: the token would cross the network in clear to {options.address}; expected cert_file and "
                "key_file, or address = '127.0.0.1'"
            )
        if options.address in WILDCARDS and not options.names:
            raise FileError(f"{place}: address {options.address} says no name; expected names = [...] for browsers")
    if options.token_file:
        read_token(options, rig_file)
    for file in filter(None, (options.cert_file, options.key_file)):
        if not (rig_file.path.parent / file).is_file():
            raise FileError(f"{rig_file.path.parent / file}: no such file")
    for session in options.sessions:
        read_session(options, session, rig_file)


def read_token(options: ConsoleOptions, rig_file: RigFile) -> str:
    """The first line of a file that not everybody can read. Raises FileError."""
    path = rig_file.path.parent / options.token_file
    try:
        with open(path, "rb", buffering=0) as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & stat.S_IRWXO:
                raise FileError(
                    f"{path}: everybody on this machine has access ({stat.filemode(mode)}); `chmod 600 {path}`"
                )
            token = os.read(file.fileno(), MAX_TOKEN_BYTES).decode().split("\n", 1)[0].rstrip("\r")
    except OSError as error:
        raise FileError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 at byte {error.start}, expected a token on one line") from None
    if len(token) < MIN_TOKEN:
        raise FileError(
            f"{path}: its first line has {len(token)} characters, expected at least {MIN_TOKEN}: "
            '`python -c "import secrets; print(secrets.token_urlsafe(24))"` makes one'
        )
    return token


def read_session(options: ConsoleOptions, name: str, rig_file: RigFile) -> dict[str, str]:
    """What task is given to start a session: texts of its files. Raises FileError."""
    session, folder = options.sessions[name], rig_file.path.parent
    texts = {"task": read_text(folder / session.task), "task_path": session.task}
    return texts | ({"animal": read_text(folder / session.animal)} if session.animal else {})


def read_text(path: Path) -> str:
    """A file's text. Raises FileError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 at byte {error.start}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
