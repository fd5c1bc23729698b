"""LSL, through pylsl: a payload is one sample of int16 channels. PLACE: the stream's name and how many, "NAME N"."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from loop2p.cli.benchmarks.transport.ends import HEAD, PATIENCE_S, Note, obey

CONFIG = "[multicast]\nResolveScope = machine\n[ports]\nIPv6 = disable\n"


def missing() -> str:
    return ""


@contextmanager
def server() -> Iterator[str]:
    """LSL has none; its ends look for each other on this machine only, by a configuration of our own."""
    with tempfile.TemporaryDirectory(prefix="loop2p-lsl-") as folder:
        config = Path(folder) / "lsl_api.cfg"
        config.write_text(CONFIG, encoding="utf-8")
        before = os.environ.get("LSLAPICFG")
        os.environ["LSLAPICFG"] = str(config)
        try:
            yield f"loop2p-bench-{os.getpid()}"
        finally:
            os.environ.pop("LSLAPICFG")
            if before is not None:
                os.environ["LSLAPICFG"] = before


def send(place: str, up: Callable[[], None]) -> None:
    import pylsl

    name, channels = place.split()
    info = pylsl.StreamInfo(name, "bench", int(channels), pylsl.IRREGULAR_RATE, pylsl.cf_int16, name)
    outlet = pylsl.StreamOutlet(info, max_buffered=1)
    obey(up, lambda payload: outlet.push_chunk(np.frombuffer(payload, np.int16).reshape(1, -1)))


def receive(place: str, up: Callable[[], None], note: Note) -> None:
    import pylsl

    name, channels = place.split()
    found = pylsl.resolve_byprop("name", name, timeout=PATIENCE_S)
    inlet = pylsl.StreamInlet(found[0], max_buflen=1)
    inlet.open_stream(PATIENCE_S)
    sample = np.empty((1, int(channels)), np.int16)
    up()
    while True:
        _, stamps = inlet.pull_chunk(timeout=pylsl.FOREVER, max_samples=1, dest_obj=sample)
        if len(stamps):
            note(*HEAD.unpack_from(sample.data))
