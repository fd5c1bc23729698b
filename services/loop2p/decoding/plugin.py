"""The decoder class that the rig file names, from this project or from anybody's folder."""

import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct

from loop2p.decoding.core import Decoder
from loop2p.protocol import FileError, RigFile
from loop2p.protocol.tomlfile import line_of
from loop2p.runtime.process import load

Build = Callable[[list[int], list[int]], Decoder]
"""Makes a decoder of plus and minus."""


class DecodingOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Which decoder."""

    decoder: str = "loop2p.decoding.core:DifferenceDecoder"
    """"package.module:Class"."""
    decoder_options: dict[str, Any] = {}
    """Further arguments of that class."""
    path: list[str] = []
    """Folders in which Python also looks for it, relative to the rig file."""


def find_decoder(options: DecodingOptions, rig_file: RigFile, service: str, rate_hz: float) -> Build:
    """What builds the decoder; a class with an argument `rate_hz` gets the frame rate of the proximal plane.

    Raises FileError for a folder or class that is not there and for options that the class does not take.
    """

    def place(key: str) -> str:
        key = f"services.{service}.options.{key}"
        line = line_of(rig_file.text, key)
        return f"{rig_file.path}{f', line {line}' if line else ''}: {key}"

    for folder in options.path:
        full = (rig_file.path.parent / folder).resolve()
        if not full.is_dir():
            raise FileError(f"{place('path')}: no folder {full}")
        if str(full) not in sys.path:
            sys.path.append(str(full))  # last: a file of theirs never hides an installed package
    try:
        kind: Any = load(options.decoder, place("decoder"))
        signature = inspect.signature(kind)
    except FileError:
        raise
    except Exception as error:  # whatever their module does when it is imported
        said = f"{type(error).__name__}: {error}"
        raise FileError(f"{place('decoder')}: {options.decoder} can't be used: {said}") from error
    extra = dict(options.decoder_options)
    if "rate_hz" in signature.parameters:
        extra.setdefault("rate_hz", rate_hz)
    try:
        signature.bind([0], [1], **extra)
    except TypeError as error:
        raise FileError(f"{place('decoder_options')}: {error}; {options.decoder} takes {signature}") from None
    return lambda plus, minus: kind(plus, minus, **extra)


def warm(build: Build, log: logging.Logger) -> None:
    """Run a decoder before the first frame: what is compiled at its first use is compiled now, not in the loop.

    A decoder that refuses ROIs 0 and 1 is only reported; the selection will tell whether it works.
    """
    try:
        decoder = build([0], [1])
        for _ in range(2):
            decoder.update(np.array([1.0, 2.0], np.float32))
        decoder.reset()
    except Exception as error:
        log.warning("the decoder could not be tried out with ROIs 0 and 1: %s: %s", type(error).__name__, error)
