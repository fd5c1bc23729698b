"""Raw frames written by imaging's own machine, where the network or recording's disk would not bear them.

Three files a plane in the run folder, appended to and never rewritten:

* `raw_plane0.bin`: frames one after another, each (height, width) in C order, little-endian, real counts.
* `raw_plane0.index`: 24 bytes a frame, little-endian: int64 frame index, float64 frame time (s), int64 arrival (ns).
* `raw_plane0.json`: what is needed to read them: height, width, dtype, and the names of the fields of the index.

The index record is written after its frame: after a crash, what the index does not name is not complete. Reading:
`np.fromfile("raw_plane0.bin", dtype).reshape(-1, height, width)[:n]` with n = size of the index // 24.
"""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from msgspec import Struct

from loop2p.imaging.core import real_bytes
from loop2p.imaging.frame import Frame

RECORD = np.dtype([("frame", "<i8"), ("time_s", "<f8"), ("arrival_ns", "<i8")])


class _Files(Struct):
    pixels: BinaryIO
    index: BinaryIO
    form: dict[str, Any]


class RawFiles:
    """Appends frames to a run folder's raw files. Never raises for the disk: `trouble` says what it did not take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected = self.written = 0
        """Frames that should be, and are, in the files."""
        self.trouble = ""
        self._files: dict[int, _Files] = {}

    def write(self, frame: Frame) -> None:
        """Append a frame; what could only be written in part is cut off again, so that the files stay whole."""
        self.expected += 1
        try:
            files = self._files.get(frame.plane) or self._open(frame)
            form = _form(frame)
            if form != files.form:
                self.trouble = f"{self.folder}: raw_plane{frame.plane}: found {form}, expected {files.form}"
                return
            start, entry = files.pixels.tell(), files.index.tell()
            try:
                _append(files.pixels, real_bytes(frame.pixels, frame.inverted))
                _append(files.index, np.array([(frame.index, frame.time_s, frame.arrival_ns)], RECORD).tobytes())
            except OSError:
                for file, size in ((files.pixels, start), (files.index, entry)):
                    file.truncate(size)
                    file.seek(size)
                raise
        except (OSError, ValueError) as error:
            self.trouble = f"{self.folder}: raw frame {frame.index} was not written: {error}"
            return
        self.written += 1
        self.trouble = ""

    def close(self) -> None:
        """Close all files. May be called twice."""
        for files in self._files.values():
            files.pixels.close()
            files.index.close()
        self._files.clear()

    def _open(self, frame: Frame) -> _Files:
        """Open a plane's files, behind what a predecessor completed."""
        stem = self.folder / f"raw_plane{frame.plane}"
        form = _form(frame)
        sidecar = stem.with_suffix(".json")
        if sidecar.exists():
            found = json.loads(sidecar.read_text())
            if not isinstance(found, dict) or {key: found.get(key) for key in form} != form:
                raise ValueError(f"{sidecar} says {found}, the frames are {form}; move the old files away")
        else:
            fields = {"index": [[name, RECORD[name].str] for name in RECORD.names or ()]}
            part = sidecar.with_suffix(".part")
            part.write_text(json.dumps(form | fields, indent=1))
            os.replace(part, sidecar)
        n_bytes = form["height"] * form["width"] * np.dtype(form["dtype"]).itemsize
        # unbuffered: each write is in the system's hands, and survives this process
        pixels, index = (stem.with_suffix(end).open("ab", buffering=0) for end in (".bin", ".index"))
        whole = min(index.tell() // RECORD.itemsize, pixels.tell() // n_bytes)
        for file, size in ((index, whole * RECORD.itemsize), (pixels, whole * n_bytes)):
            file.truncate(size)
            file.seek(size)
        self._files[frame.plane] = files = _Files(pixels, index, form)
        return files


def _append(file: BinaryIO, data: bytes) -> None:
    """Write all or raise: an unbuffered file may take only a part."""
    n = file.write(data)
    if n != len(data):
        raise OSError(f"the disk took {n} of {len(data)} bytes")


def _form(frame: Frame) -> dict[str, Any]:
    height, width = frame.pixels.shape
    return {"height": height, "width": width, "dtype": frame.pixels.dtype.newbyteorder("<").str}
