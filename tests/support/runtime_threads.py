"""Services of a rig as threads of the test's own process, on real sockets."""

import threading
import time
from collections.abc import Callable

from loop2p.protocol import RigFile
from loop2p.runtime.process import Process


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for an event; the limit is only there to fail instead of hanging."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("what was waited for did not happen")
        time.sleep(0.005)


class Threads:
    """Services of a toy rig, each in a thread of this process."""

    def __init__(self, rig_file: RigFile) -> None:
        self.rig_file = rig_file
        self.processes: dict[str, Process] = {}
        self.codes: dict[str, int] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, *names: str) -> None:
        for name in names:
            self.run(name, Process(name, self.rig_file))

    def run(self, name: str, process: Process) -> None:
        """`name`: by which it is known here, for there may be two of a service."""
        self.processes[name] = process
        thread = threading.Thread(target=lambda n=name, p=process: self.codes.__setitem__(n, p.run()))
        self._threads[name] = thread
        thread.start()

    def join(self, name: str) -> int:
        self._threads[name].join(20)
        return self.codes[name]

    def stop(self) -> None:
        for name, process in self.processes.items():
            if self._threads[name].is_alive():
                process.stop()
        for thread in self._threads.values():
            thread.join(20)
            assert not thread.is_alive()
