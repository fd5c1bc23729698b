"""A file that is replaced whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) so that whoever reads `path`, at any time and after any crash, finds all of the old
    or all of the new. It is on the disk when this returns. Raises OSError if the disk does; the old file stays then.
    """
    temporary = path.with_name(path.name + ".new")  # in the same folder: only there is a rename one step
    with open(temporary, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable; Windows does so by itself and can't open folders."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
