"""A recorder whose disk is full, or slow, for as long as a file says so."""

import io
import resource
import time
from pathlib import Path
from typing import Any, Self

from loop2p.recording.journal import open_segment
from loop2p.recording.service import Recording
from loop2p.runtime import Context

FULL, SLOW = "disk-is-full", "disk-is-slow"
"""Files in the data folder."""
SLOW_S = 1.5
"""One write takes that long: more than the silence after which a recorder counts as lost."""
ROOM_BYTES = 100
"""What a full disk still takes: part of a record."""


class BadFile(io.FileIO):
    """The journal's file under the operating system's own size limit: real short writes, real errors."""

    def __init__(self, file: io.FileIO, flags: Path) -> None:
        file.close()
        super().__init__(file.name, "r+")
        self.flags = flags

    def write(self, data: Any, /) -> int:
        if (self.flags / SLOW).exists():
            time.sleep(SLOW_S)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if not (self.flags / FULL).exists():
            soft = hard
        elif soft == hard:
            soft = self.tell() + ROOM_BYTES
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return super().write(data)


class BadDiskRecording(Recording):
    @classmethod
    def from_rig(cls, options: Any, context: Context) -> Self:
        flags = Path(context.rig_file.rig.data.folder)
        return cls(options, context, open_file=lambda folder: BadFile(open_segment(folder), flags))
