"""pylsl, which brings liblsl; what of liblsl it does not wrap; and how far streams are seen."""

import ctypes
import os
from typing import Any, NamedTuple

try:
    import pylsl
    from pylsl.lib import lib
    from pylsl.util import set_config_content
except RuntimeError as error:  # pylsl is there, and no liblsl for this machine
    raise ImportError(f"pylsl finds no liblsl ({error}); set PYLSL_LIB to one, see docs/how-to/lsl.md") from None

__all__ = ["Correction", "pylsl", "time_correction", "use_scope"]

CONFIG = "LSLAPICFG"
"""liblsl's own variable: where a file is named by it, that file holds and the rig file's options do not."""


class Correction(NamedTuple):
    """What turns a stream's own time into this machine's LSL time."""

    offset_s: float
    """To be added to a time stamp."""
    uncertainty_s: float
    """The true offset lies within +- this: the round trip of the exchange that liblsl believed, twice what its four
    time stamps vouch for."""


def time_correction(inlet: Any, timeout_s: float) -> Correction:
    """Raises pylsl's TimeoutError or LostError."""
    remote_s, uncertainty_s, code = ctypes.c_double(), ctypes.c_double(), ctypes.c_int()
    call = lib.lsl_time_correction_ex
    call.restype = ctypes.c_double
    offset_s = call(
        inlet.obj,
        ctypes.byref(remote_s),
        ctypes.byref(uncertainty_s),
        ctypes.c_double(timeout_s),
        ctypes.byref(code),
    )
    pylsl.util.handle_error(code)
    return Correction(float(offset_s), float(uncertainty_s.value))


def use_scope(scope: str, session: str) -> None:
    """Before anything else of LSL in this process: how far streams are announced and looked for, and for whom."""
    if CONFIG not in os.environ:
        set_config_content(f"[multicast]\nResolveScope = {scope}\n[lab]\nSessionID = {session}\n[log]\nlevel = -2\n")
