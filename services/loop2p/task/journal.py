"""What a successor needs: the task's own append-only file in the run folder, and a ledger beside the runs.

The file holds the messages by which the task's state can be told, as JSON lines. A line is in the kernel's hands
before its message leaves, so it survives a killed process; a thread syncs it to the disk at once, for a power cut: a
sync on the way would cost a hit's picture some milliseconds (measured on a virtual machine's disk: p50 0.2, p95
4.0 ms). A line torn by a crash is the last one and is left out.
"""

import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from loop2p.protocol import Calibration, Phase, Refused, RewardCommand, Selection, Session, Swap, Trial
from loop2p.runtime.atomic import sync_folder, write_atomically
from loop2p.runtime.synced import SyncThread

Entry = Session | Selection | Calibration | Phase | Trial | RewardCommand | Refused | Swap
KEPT = (Session, Selection, Calibration, Phase, Trial, RewardCommand, Refused)
STATE_FILE = "task-state.jsonl"
LEDGER_FILE = "task-ledger.json"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class StateError(ValueError):
    """A state file that can't be believed: file, line, found, what to do."""


class Journal:
    """Appends entries to the state file. Raises OSError if the disk does."""

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / STATE_FILE, "a+b")  # noqa: SIM115  closed by close()
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)  # a line torn by a crash: the next one must not stick to it
        sync_folder(folder)
        self._sync = SyncThread(self._file, "state-sync")

    def write(self, entries: list[Entry]) -> None:
        """Append; survives the death of this process at once, a power cut as soon as the disk has it."""
        if entries:
            self._file.write(b"".join(_encode(entry) + b"\n" for entry in entries))
            self._file.flush()
            self._sync.request()

    def close(self) -> None:
        with contextlib.closing(self._file):
            self._sync.close()


class State(Struct):
    """Where a session stood, as its file tells."""

    session: Session
    selection: Selection | None = None
    calibration: Calibration | None = None
    phase: Phase | None = None
    """The last phase but "paused"."""
    last_trial: int = -1
    open_trial: Trial | None = None
    """The trial whose outcome is not complete: begun, or hit and not yet rewarded."""
    elapsed_s: float = 0.0
    """Closed-loop time that had run at the last edge of a trial."""
    given_ul: float = 0.0
    """All rewards that were commanded and not refused."""
    handed_over: bool = False
    """Task itself left for a successor, in a session that was not paused."""

    @property
    def ended(self) -> bool:
        return self.phase is not None and self.phase.phase == "ended"


def read_state(folder: Path) -> State:
    """Read the state file of a run. Raises StateError where it is missing or damaged before its last line."""
    path = folder / STATE_FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise StateError(f"{path}: no such file; without it the run can't be resumed") from None
    entries: list[Entry] = []
    for number, line in enumerate(lines[:-1], 1):  # behind the last newline stands nothing, or a torn line
        try:
            entries.append(_decode(line))
        except msgspec.DecodeError as error:
            raise StateError(
                f"{path}, line {number}: {error}; expected an entry of task's: the run can't be resumed"
            ) from None
    if not entries or not isinstance(entries[0], Session):
        raise StateError(f"{path}, line 1: expected the session; the run can't be resumed")
    return fold(entries[0], entries[1:])


def fold(session: Session, entries: list[Entry]) -> State:
    """Where the session stood after these entries."""
    state = State(session)
    rewards: dict[int, float] = {}
    for entry in entries:
        state.handed_over = isinstance(entry, Swap)
        match entry:
            case Selection():
                state.selection = entry
            case Calibration():
                state.calibration = entry
            case Phase() if entry.phase != "paused":
                state.phase = entry
            case Trial():
                state.last_trial, state.elapsed_s = entry.trial, entry.elapsed_s
                state.open_trial = entry if entry.edge in ("start", "hit") else None
            case RewardCommand():
                rewards[entry.id] = entry.volume_ul
                if state.open_trial is not None and entry.trial == state.open_trial.trial:
                    state.open_trial = None
            case Refused():
                rewards.pop(entry.id, None)
    state.given_ul = sum(rewards.values())
    return state


class Ledger(Struct):
    """What outlives a run."""

    open_run: str = ""
    """The run that has begun and not ended."""
    next_id: int = 1
    """No command has had this id or a higher one. Never goes back: the controller knows its last 64 ids."""
    date: str = ""
    given_ul: float = 0.0
    """Commanded on that date, by runs that are over."""


class LedgerFile:
    """The ledger on disk; `save` replaces it whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE
        self.ledger = Ledger()
        try:
            self.ledger = msgspec.json.decode(self.path.read_bytes(), type=Ledger)
        except FileNotFoundError:
            pass
        except msgspec.DecodeError as error:
            raise StateError(
                f"{self.path}: {error}; expected task's ledger: restore it, or delete it and restart the controller "
                "(which then forgets the command ids it has seen)"
            ) from None

    def save(self) -> None:
        """Write and sync. Raises OSError if the disk does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, _encode(self.ledger))

    def reserve_ids(self, count: int) -> int:
        """The first of `count` ids that nobody else will use."""
        first = self.ledger.next_id
        self.ledger.next_id += count
        self.save()
        return first
