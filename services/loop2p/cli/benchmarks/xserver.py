"""An X server without a monitor, and clients that look at its screen: a virtual photodiode and a virtual eye.

They see what the server holds, not light: there is no vertical blank, and no panel that takes its time.
"""

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(height, width) levels, row 0 on top."""
TORN = -1
LONG_NS = 4_000_000


@contextmanager
def virtual_screen(width: int, height: int) -> Iterator[str]:
    """Xvfb on a display number of its own choice. Raises RuntimeError where there is none."""
    if not sys.platform.startswith("linux") or shutil.which("Xvfb") is None:
        raise RuntimeError("no Xvfb here (Debian: apt-get install xvfb libgl1-mesa-dri)")
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        # -noreset: else it starts anew, deaf for a moment, whenever its last client leaves
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp", "-noreset"],
        pass_fds=[write_end],
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    try:
        with os.fdopen(read_end) as pipe:
            number = pipe.readline().strip()  # written when the server takes clients; empty if it died
        if not number:
            raise RuntimeError(f"Xvfb ended with {server.wait()}")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()


def grab(client: Any, left: int, top: int, width: int, height: int) -> Image:
    """(height, width) what the server's screen holds there. Raises ValueError if it has a colour: this rig has none."""
    shot = client.grab({"left": left, "top": top, "width": width, "height": height})
    pixels = np.frombuffer(shot.raw, np.uint8).reshape(height, width, 4)
    if (pixels[..., 0] != pixels[..., 2]).any():
        raise ValueError("found a coloured pixel on the screen, expected shades of grey alone")
    return pixels[..., 1].copy()


@contextmanager
def watching(watch: Callable[..., Any], *args: Any) -> Iterator[Callable[[], Any]]:
    """Run `watch(connection, *args)` in a process of its own, begun when the block begins; the function given ends it
    and returns what it found. Raises RuntimeError where it does not begin."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=watch, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()

    def end() -> Any:
        ours.send("end")
        return ours.recv()

    try:
        try:
            ours.recv()
        except EOFError:
            raise RuntimeError("a watching process did not begin, see above (it needs loop2p[bench])") from None
        yield end
    finally:
        ours.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def photodiode(connection: Connection, display: str, x: int, y: int, pause_s: float = 0.001) -> None:
    """Watch one pixel; sends two lists: changes (ns of the last look before it, ns of the look that saw it, is it
    bright), and times between looks that were longer than LONG_NS: what comes and goes in them is not seen."""
    changes: list[tuple[int, int, bool]] = []
    long: list[int] = []
    with _client(connection, display) as client:
        before_ns = time.perf_counter_ns()
        level = bool(grab(client, x, y, 1, 1)[0, 0] > 127)
        ending = False
        while not ending:
            ending = connection.poll()  # and one last look
            now = bool(grab(client, x, y, 1, 1)[0, 0] > 127)
            after_ns = time.perf_counter_ns()
            if after_ns - before_ns > LONG_NS:
                long.append(after_ns - before_ns)
            if now != level:
                level = now
                changes.append((before_ns, after_ns, level))
            before_ns = after_ns
            time.sleep(pause_s)
        connection.send((changes, long))


def eye(connection: Connection, display: str, references: list[Image], pause_s: float = 0.02) -> None:
    """Look at the whole screen; sends a list of (ns before, ns after, which reference within 1/255; TORN: none)."""
    height, width = references[0].shape
    seen: list[tuple[int, int, int]] = []
    known: dict[int, int] = {}
    with _client(connection, display) as client:
        while not connection.poll():
            before_ns = time.perf_counter_ns()
            image = grab(client, 0, 0, width, height)
            after_ns = time.perf_counter_ns()
            key = zlib.crc32(image.tobytes())
            if key not in known:
                known[key] = which(image, references)
            seen.append((before_ns, after_ns, known[key]))
            time.sleep(pause_s)
        connection.send(seen)


def which(image: Image, references: list[Image]) -> int:
    """Number of the reference that the image is within 1/255 everywhere; TORN if it is none."""
    for k, reference in enumerate(references):
        if np.abs(image.astype(np.int16) - reference).max() <= 1:
            return k
    return TORN


@contextmanager
def _client(connection: Connection, display: str) -> Iterator[Any]:
    import mss

    with mss.MSS(display=display) as client, contextlib.suppress(KeyboardInterrupt):
        client.grab({"left": 0, "top": 0, "width": 1, "height": 1})
        connection.send("watching")
        yield client
