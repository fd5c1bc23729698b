"""The laboratory's machines, as ssh reaches them: each with its own sshd, processes and file system.

What a machine writes goes to memory, over a read-only view of this one, and is gone with it: nothing of this machine is
changed. Needs root.
"""

import os
import select
import shlex
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from lab import HOSTS, Laboratory, why_not_here
from needs import lacking

FROM = "control"
"""The machine on which ssh is typed."""
MEMORY = "3g"
"""The most that a machine may write."""
START_S = 60.0
NAMESPACES = ("unshare", "--mount", "--uts", "--propagation", "private")

BOOT = """
set -e
mount -t tmpfs -o size={memory} tmpfs {folder}
cd {folder}
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount --rbind /dev dev
for place in tmp run root; do mount -t tmpfs tmpfs $place; done  # root: a home without anybody's settings
hostname {name}
mkdir -p run/sshd etc/ssh_test
cat {keys}/client.pub > etc/ssh_test/authorized
cat {keys}/host_{name} > etc/ssh_test/host
chmod 600 etc/ssh_test/*
exec chroot . {sshd} -D -e -f /dev/null -h /etc/ssh_test/host -o ListenAddress={address} -o UseDNS=no \\
    -o PidFile=none -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o StrictModes=no \\
    -o AuthorizedKeysFile=/etc/ssh_test/authorized -o Subsystem="sftp internal-sftp"
"""


def need_hosts() -> None:
    """Skip, with its reason, where such machines can't be made."""
    why = why_not_here()
    if why:
        pytest.skip(why)
    for tool, package in (("ssh", "openssh-client"), ("sshd", "openssh-server"), ("mount", "mount")):
        if _path(tool) is None:
            lacking(f"no {tool} here (Debian: {package})")
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.strip()}")


def _path(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class SshHosts:
    """Machines, and a way to them. A context manager: leaving it ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ssh = folder / "ssh"
        """The program that reaches them, in place of `ssh`."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._make_keys()
            self.lab = stack.enter_context(Laboratory(self.folder / "lab", seed=1))
            for name in HOSTS:
                self._start(name, stack)
            self._write_ssh()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, name: str, command: str, check: bool = True) -> str:
        """What a command prints on that machine. Raises AssertionError if it fails."""
        whole = [self.ssh, f"root@{HOSTS[name]}", command]
        done = subprocess.run(whole, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{name}: {command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, name: str, stack: ExitStack) -> None:
        """Boot a machine and wait until its sshd listens."""
        folder = self.folder / f"root_{name}"
        folder.mkdir()
        boot = BOOT.format(
            memory=MEMORY, folder=folder, name=name, keys=self.folder, address=HOSTS[name], sshd=_path("sshd")
        )
        process = self.lab.hosts[name].start(
            *NAMESPACES, "sh", "-c", boot, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        stack.callback(process.stderr.close)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        said, deadline = b"", time.monotonic() + START_S
        while b"listening on" not in said:
            ready = select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))[0]
            part = os.read(process.stderr.fileno(), 65536) if ready else b""
            assert part, f"{name}: sshd does not listen within {START_S:g} s:\n{said.decode()}"
            said += part

    def _make_keys(self) -> None:
        for name in ("client", *(f"host_{n}" for n in HOSTS)):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / name)]
            subprocess.run(make, check=True)
        known = [f"{HOSTS[name]} {(self.folder / f'host_{name}.pub').read_text()}" for name in HOSTS]
        (self.folder / "known_hosts").write_text("".join(known))

    def _write_ssh(self) -> None:
        options = {
            "IdentityFile": self.folder / "client",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "ConnectTimeout": 10,
        }
        words = ["ssh", "-F", "/dev/null", *(f"-o{k}={v}" for k, v in options.items())]
        self.ssh.write_text(f'#!/bin/sh\nexec {shlex.join(self.lab.hosts[FROM].command(*words))} "$@"\n')
        self.ssh.chmod(0o700)
