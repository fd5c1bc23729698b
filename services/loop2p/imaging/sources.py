"""The rig file's `source` table -> where frames come from."""

import importlib
from pathlib import Path
from typing import Any

from loop2p.imaging.frame import Source
from loop2p.imaging.playback import Playback
from loop2p.imaging.receiver import TcpReceiver
from loop2p.protocol import FileError, Microscope, convert
from loop2p.runtime import RigClock

KINDS: dict[str, type[Any]] = {"tcp": TcpReceiver, "file": Playback}


def build_source(
    options: dict[str, Any],
    microscope: Microscope,
    clock: RigClock,
    folder: Path,
    *,
    place: str = "rig file",
    text: str = "",
    prefix: str = "services.imaging.options.source",
) -> Source:
    """`options["kind"]`: "tcp", "file" or "package.module:Class". Raises FileError: key, found, expected.

    A class of another laboratory is called as Class(options, microscope, clock, folder). If it has a msgspec struct
    `Options`, the other keys are checked against it and arrive as such; else they arrive as a dict. `place`, `text`
    and `prefix` say where the options stood, for messages; `folder` is where relative paths start.
    """
    rest = dict(options)
    kind = rest.pop("kind", None)
    found = f"{place}: {prefix}.kind: found {kind!r}, expected 'tcp', 'file' or 'package.module:Class'"
    if not isinstance(kind, str):
        raise FileError(found)
    if kind in KINDS:
        checked = convert(rest, KINDS[kind].Options, place, text, prefix)
        built: Source = KINDS[kind](checked, microscope, clock, folder, f"{place}: {prefix}")
        return built
    module, colon, name = kind.partition(":")
    if not colon or not module or not name.isidentifier():
        raise FileError(found)
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FileError(f"{found} that can be imported here ({error})") from None
    own = getattr(cls, "Options", None)
    theirs: Source = cls(convert(rest, own, place, text, prefix) if own else rest, microscope, clock, folder)
    return theirs
