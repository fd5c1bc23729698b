"""A microscope PC as the rig sees it: pushes raw frames by TCP, as Scanbox and the CLOOSE senders do.

`Sender` is used by the microscope stand-in, tests and benches. `python -m loop2p.simulation.sender FILE` plays a
recording to a rig.
"""

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loop2p.imaging.movies import open_movie

LIMITS = {"u1": 255, "u2": 65535}


def encode(pixels: NDArray[Any], dtype: str = "u2", order: str = "column", inverted: bool = False) -> bytes:
    """(height, width) -> the bytes of one frame. Raises ValueError for a value the dtype does not hold.

    `dtype`: u1 or u2 (little-endian). `order`: column (MATLAB) or row. `inverted`: sends 65535 - v (255 - v).
    """
    limit = LIMITS[dtype]
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > limit:
        raise ValueError(f"found values {low} to {high}, expected 0 to {limit} for {dtype}")
    values = pixels.astype(f"<{dtype}")
    if inverted:
        values = limit - values
    return values.tobytes("F" if order == "column" else "C")


def deadlines(rate_hz: float) -> Iterator[float]:
    """How late each frame is (s), after waiting until it is due. No drift: frame k is due k / rate after the first.

    A rate of 0 never waits. A sender that was held up catches up.
    """
    start_s = time.perf_counter()
    for k in itertools.count():
        if rate_hz:
            wait_s = start_s + k / rate_hz - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            yield time.perf_counter() - start_s - k / rate_hz
        else:
            yield 0.0


class Sender:
    """The microscope's end of the two connections. `port` 0 when listening: any free port, see `ports`.

    Raises ConnectionError with what to do when nobody answers; any OSError of a rig that has gone.
    """

    def __init__(
        self, address: str = "127.0.0.1", image_port: int = 30000, control_port: int | None = None, listen: bool = False
    ) -> None:
        self.address, self.listen = address, listen
        self._wanted = [image_port] if control_port is None else [image_port, control_port]
        self._peers: list[socket.socket] = []
        self._listeners: list[socket.socket] = []
        if listen:
            try:
                for port in self._wanted:
                    self._listeners.append(socket.create_server((address, port)))
            except OSError:
                self.close()
                raise

    @property
    def ports(self) -> list[int]:
        """Image port, and control port if there is one."""
        return [s.getsockname()[1] for s in self._listeners] or self._wanted

    def open(self, timeout_s: float = 10.0) -> None:
        """Connect to the rig, trying again until it is there, or wait for it to connect. Raises ConnectionError."""
        deadline_s = time.perf_counter() + timeout_s
        while len(self._peers) < len(self._wanted):
            # the control connection first: a handshake should be there before the first frame
            k = len(self._wanted) - 1 - len(self._peers)
            left_s = deadline_s - time.perf_counter()
            try:
                peer = self._accept(k, left_s) if self.listen else self._connect(k, left_s)
            except OSError as error:
                if left_s > 0 and not self.listen:
                    time.sleep(min(0.05, left_s))
                    continue
                self.hang_up()
                what = "connected to" if self.listen else "answers at"
                raise ConnectionError(
                    f"no rig {what} {self.address}:{self.ports[k]} within {timeout_s:g} s ({error}); start imaging"
                ) from None
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.settimeout(None)
            self._peers.insert(0, peer)

    def handshake(self, total_frames: int, plane: int, planes: int) -> None:
        """Announce what comes: three little-endian uint32 on the control connection."""
        self._peers[1].sendall(struct.pack("<3I", total_frames, plane, planes))

    def send(self, data: bytes | memoryview) -> None:
        """Send a frame, or any piece of one."""
        self._peers[0].sendall(data)

    def hang_up(self) -> None:
        """Close the connections; `open` makes new ones."""
        for peer in self._peers:
            peer.close()
        self._peers.clear()

    def close(self) -> None:
        """Close everything."""
        self.hang_up()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _accept(self, k: int, timeout_s: float) -> socket.socket:
        self._listeners[k].settimeout(max(timeout_s, 0.001))
        return self._listeners[k].accept()[0]

    def _connect(self, k: int, timeout_s: float) -> socket.socket:
        peer = socket.create_connection((self.address, self._wanted[k]), max(timeout_s, 0.001))
        if peer.getsockname() == peer.getpeername():  # a port nobody listens on may connect to itself
            peer.close()
            raise ConnectionRefusedError("nobody there")
        return peer


def main(
    file: Annotated[Path, typer.Argument(help="npy, tif, h5, nwb, or a folder of single-frame tifs")],
    address: Annotated[str, typer.Option(help="of the rig's imaging machine; with --listen of this one")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="image port")] = 30000,
    control_port: Annotated[int, typer.Option(help="where the handshake goes")] = 50000,
    rate: Annotated[float, typer.Option(help="frames of all planes per second; 0: as fast as it goes")] = 30.92,
    order: Annotated[str, typer.Option(help="column (MATLAB) or row")] = "column",
    dtype: Annotated[str, typer.Option(help="u1 or u2")] = "u2",
    inverted: Annotated[bool, typer.Option(help="send 65535 - v (255 - v), as Scanbox does")] = False,
    loop: Annotated[bool, typer.Option(help="play again and again until Ctrl-C")] = False,
    handshake: Annotated[bool, typer.Option(help="announce frames and planes on the control port")] = False,
    planes: Annotated[int, typer.Option(help="for the handshake")] = 2,
    first_plane: Annotated[int, typer.Option(help="for the handshake: what the first frame's plane is called")] = 0,
    listen: Annotated[bool, typer.Option(help="wait for the rig to connect")] = False,
    dataset: Annotated[str, typer.Option(help="HDF5 dataset or NWB series")] = "",
    wait: Annotated[float, typer.Option(help="seconds to wait for the rig")] = 60.0,
) -> None:
    """Play a recording to a rig as a microscope would send it."""
    console = Console(stderr=True)
    try:
        if dtype not in LIMITS or order not in ("column", "row"):
            raise ValueError(f"found --dtype {dtype} --order {order}, expected u1 or u2, column or row")
        movie = open_movie(file, dataset)
        sender = Sender(address, port, control_port if handshake else None, listen)
    except (ValueError, OSError) as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    console.print(
        f"{movie.name}: {movie.n_frames} frames of {movie.height} x {movie.width} {movie.dtype}, sent as {dtype}, "
        f"{order} order{', inverted' if inverted else ''}, "
        f"{f'{rate:g} frames/s' if rate else 'as fast as it goes'}; waiting for the rig at {address}:{port}"
    )
    sent, late_s, started_s = 0, 0.0, time.perf_counter()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    trouble = ""
    try:
        sender.open(wait)
        if handshake:
            sender.handshake(0 if loop else movie.n_frames, first_plane, planes)
        buffer = movie.buffer()
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("sending", total=None if loop else movie.n_frames, state="")
            started_s = time.perf_counter()
            order_of_frames = itertools.cycle(range(movie.n_frames)) if loop else iter(range(movie.n_frames))
            data = b""
            for late_s, k in zip(deadlines(rate), order_of_frames, strict=False):
                data = encode(movie.read(k, buffer), dtype, order, inverted)
                sender.send(data)
                sent += 1
                fps = sent / max(time.perf_counter() - started_s, 1e-9)
                progress.update(task, completed=sent, state=f"{fps:.1f} frames/s, {1e3 * late_s:.1f} ms late")
    except KeyboardInterrupt:
        trouble = "stopped"
    except (ValueError, OSError) as error:
        trouble = f"[red]ended early: {error}"
    finally:
        sender.close()
        with contextlib.suppress(OSError):
            movie.close()
    elapsed_s = time.perf_counter() - started_s
    console.print(f"{trouble or 'done'}: {sent} frames in {elapsed_s:.1f} s")
    if trouble.startswith("[red]"):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
