"""A program that is to fill a role, as a process: started with the endpoints it must bind, ended in good order."""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loop2p.protocol import Endpoints, RigFile, control
from loop2p.runtime.ask import ask_answer
from loop2p.runtime.keys import Keys, keys_folder

END_S = 5.0
"""From being asked to the end; then it is killed."""


def surroundings(name: str, rig_file: RigFile, at: Endpoints) -> dict[str, str]:
    """What a program finds in its environment (protocol/SPEC.md), and may have in {braces} on its command line."""
    folder = keys_folder(rig_file)
    return {
        "LOOP2P_RIG": str(rig_file.path.resolve()),
        "LOOP2P_RIG_HASH": rig_file.hash,
        "LOOP2P_SERVICE": name,
        "LOOP2P_PUBLISH": at.publish,
        "LOOP2P_BULK": at.bulk,
        "LOOP2P_CONTROL": at.control,
        **{f"LOOP2P_{peer.upper()}": spec.publish for peer, spec in rig_file.rig.services.items()},
        **({"LOOP2P_KEYS": str(folder)} if folder is not None else {}),
    }


def fill_in(command: Sequence[str], values: dict[str, str]) -> list[str]:
    """Replace each {LOOP2P_...} of a command; other braces stay."""
    filled = []
    for word in command:
        for key, value in values.items():
            word = word.replace("{" + key + "}", value)
        filled.append(word)
    return filled


def split_command(text: str) -> list[str]:
    """A command in one string as a shell would take it apart. Raises ValueError for a quote that stays open."""
    if os.name == "nt":
        return [word.strip('"') for word in shlex.split(text, posix=False)]
    return shlex.split(text)


def free_endpoints(like: Endpoints, port: int = 0) -> Endpoints:
    """Three free endpoints on the address of those; from `port` on if that is given."""
    host = like.publish.removeprefix("tcp://").rpartition(":")[0]
    if port:
        return Endpoints(*(f"tcp://{host}:{port + k}" for k in range(3)))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets = [socket.socket(family) for _ in range(3)]
    try:
        for sock in sockets:
            sock.bind((host.strip("[]"), 0))
        return Endpoints(*(f"tcp://{host}:{sock.getsockname()[1]}" for sock in sockets))
    finally:
        for sock in sockets:
            sock.close()


def own_service(name: str, rig_file: RigFile, *more: str) -> list[str]:
    """The command that runs our own service."""
    rig = str(rig_file.path.resolve())
    return [sys.executable, "-m", "loop2p.cli.main", "serve", name, rig, "--with-parent", *more]


class Newcomer:
    """A process with its log. Our own services end when their standard input does."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path, at: Endpoints) -> None:
        self.command, self.environment, self.log, self.at = list(command), environment, log, at
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises OSError where the program is not there."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb" if self.process is None else "ab") as out:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=os.name == "posix",  # Ctrl-C is ours: it is asked to end when its turn comes
            )

    def go(self) -> None:
        """Tell one that waits for its turn."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    @property
    def code(self) -> int | None:
        """How it has ended; None while it runs."""
        return self.process.poll() if self.process is not None else None

    def end(self, keys: Keys | None) -> int:
        """Ask on the control socket, close its standard input, send SIGTERM, kill: whichever helps. Its exit code."""
        process = self.process
        assert process is not None
        assert process.stdin is not None
        if process.poll() is None and self.at.control:
            ask_answer(self.at.control, control.Stop(by="swap"), 0.5, keys)
        process.stdin.close()
        ways: list[Callable[[], None]] = [process.terminate, process.kill]
        for way in ways:
            try:
                return process.wait(END_S / 2)
            except subprocess.TimeoutExpired:
                way()
        return process.wait()

    def last_words(self, lines: int = 5) -> str:
        try:
            return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])
        except OSError:
            return ""


def wait_until_ended(newcomer: Newcomer, timeout_s: float) -> bool:
    """Has it ended within that time?"""
    deadline = time.monotonic() + timeout_s
    while newcomer.code is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return newcomer.code is not None
