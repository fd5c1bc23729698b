"""The ration on disk: one line for each change, the last whole line counts, synced to the disk in the background."""

import contextlib
import os
from pathlib import Path

import msgspec

from loop2p.actuation.ration import Ration
from loop2p.runtime.synced import SyncThread


class RationFileError(ValueError):
    """A ration file that exists but can't be read: file, found, what to do."""


def read_ration(path: Path) -> Ration:
    """The last whole line of the file; an empty ration where there is no file. Raises RationFileError.

    A torn last line is what a power cut leaves and is passed over. Any other line that can't be read stops
    the reading: guessing would reset a limit.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Ration()
    except OSError as error:
        raise RationFileError(f"{path}: {error}; make it readable") from None
    lines = data.split(b"\n")[:-1]
    if not lines:
        raise RationFileError(f"{path}: no whole line in {len(data)} bytes, expected {EXPECTED}; {ADVICE}")
    try:
        return msgspec.json.decode(lines[-1], type=Ration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RationFileError(f"{path}, line {len(lines)}: {error}, expected {EXPECTED}; {ADVICE}") from None


EXPECTED = 'a JSON line such as {"day":"2026-11-02","ul":{"m1":512}}'
ADVICE = "write such a line with what was given today, or move the file away if nothing was"


class RationFile:
    """Writes the ration. A line is with the operating system when `write` returns, so it survives a kill of
    this process; the sync that makes it survive a power cut follows at once in a thread, for a disk can be slow
    and the lease is short.
    """

    def __init__(self, path: Path) -> None:
        """Open for writing. Raises RationFileError for a file that can't be read, OSError if it can't be written."""
        self.path = path
        self.ration = read_ration(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        self._file = fresh.open("wb")
        self._line = self._write_line()
        os.fsync(self._file.fileno())
        if os.name == "nt":  # Windows does not rename open files
            self._file.close()
        os.replace(fresh, path)
        if os.name == "nt":
            self._file = path.open("ab")
        else:  # the new name must last, too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        self._sync = SyncThread(self._file, "ration-sync")

    def write(self) -> None:
        """Append the ration as it stands, if it has changed. Raises OSError (disk full)."""
        if msgspec.json.encode(self.ration) != self._line:
            self._line = self._write_line()
            self._sync.request()

    def close(self) -> None:
        """Sync and close."""
        with contextlib.closing(self._file):
            self._sync.close()

    def _write_line(self) -> bytes:
        line = msgspec.json.encode(self.ration)
        self._file.write(line + b"\n")
        self._file.flush()
        return line
