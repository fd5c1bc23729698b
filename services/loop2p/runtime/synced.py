"""A file whose lines reach the disk in the background: a disk can be slow, and a lease is short."""

import contextlib
import os
import threading
from typing import BinaryIO


class SyncThread:
    """Syncs an open file after each `request`, in a thread of its own.

    What was flushed before survives the death of this process anyway; the sync is for a power cut.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._wanted, self._leaving = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Have on the disk, soon, what was flushed so far."""
        self._wanted.set()

    def close(self) -> None:
        """Sync a last time and end the thread; the file stays open. Raises OSError if the disk does."""
        self._leaving = True
        self._wanted.set()
        self._thread.join()
        os.fsync(self._file.fileno())

    def _run(self) -> None:
        while not self._leaving:
            self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(OSError):  # told at close; until then only a power cut would lose it
                os.fsync(self._file.fileno())
