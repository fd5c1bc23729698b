"""What goes wrong between two services: a proxy that loses, doubles and damages messages, and who sits behind it."""

import random
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import zmq
from msgspec import structs

from loop2p.protocol import RigFile, read_rig
from loop2p.runtime import Launcher
from loop2p.runtime.process import serve

HARM = {"drop": 0.03, "double": 0.02, "damage body": 0.02, "damage header": 0.01}
"""Share of the messages that each befalls."""


class Proxy:
    """Stands between a publisher and one subscriber; while `harm` is set it is bad to one topic, by a seeded draw."""

    def __init__(self, upstream: str, endpoint: str, topic: str, seed: int, harm: Mapping[str, float] = HARM) -> None:
        self.topic, self.odds = topic.encode(), dict(harm)
        self.harm = threading.Event()
        self.done = dict.fromkeys(harm, 0)
        """How often each has happened."""
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._in, self._out = self._context.socket(zmq.XSUB), self._context.socket(zmq.XPUB)
        for socket in (self._in, self._out):
            socket.linger = 0
            socket.sndhwm = socket.rcvhwm = 0
        self._out.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._in.connect(upstream)
        self._out.bind(endpoint)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._in, zmq.POLLIN)
        poller.register(self._out, zmq.POLLIN)
        while not self._stop.is_set():
            ready = dict(poller.poll(50))
            if self._out in ready:  # subscriptions go the other way
                self._in.send(self._out.recv())
            if self._in in ready:
                self._pass_on(self._in.recv_multipart())

    def _pass_on(self, parts: list[bytes]) -> None:
        what = "nothing"
        if self.harm.is_set() and parts[0] == self.topic:
            kinds = [*self.odds, "nothing"]
            what = self._random.choices(kinds, [*self.odds.values(), 1 - sum(self.odds.values())])[0]
            if what != "nothing":
                self.done[what] += 1
        if what == "drop":
            return
        if what.startswith("damage"):
            k = 2 if what == "damage body" else 1
            parts[k] = parts[k][:-3]
        for _ in range(2 if what == "double" else 1):
            self._out.send_multipart(parts)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._in.close()
        self._out.close()
        self._context.term()


class LauncherBehind(Launcher):
    """A launcher whose services named in `behind` hear a peer through a proxy: service -> (peer, endpoint)."""

    def __init__(self, rig_file: RigFile, logs: Path, behind: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(rig_file, "local", logs)
        self._behind = behind

    def _spawn(self, name: str) -> None:
        if name not in self._behind:
            super()._spawn(name)
            return
        command = [sys.executable, __file__, str(self.rig_file.path), name, *self._behind[name]]
        with open(self.logs / f"{name}.log", "ab") as out:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
            )


def main(rig: str, name: str, peer: str, endpoint: str) -> int:
    """Serve one service that hears `peer` at `endpoint`; the rig file's text, and so its hash, stays."""
    rig_file = read_rig(rig)
    services = {**rig_file.rig.services}
    services[peer] = structs.replace(services[peer], publish=endpoint)
    return serve(name, structs.replace(rig_file, rig=structs.replace(rig_file.rig, services=services)), True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
