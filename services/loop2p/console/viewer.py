"""A recorded session on the operator's page: no bus, no rig; a bar to go to any moment of it."""

import asyncio
import logging
import socket
import threading
import time
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, structs

from loop2p.console.access import Logins
from loop2p.console.board import DAY1, REFERENCE, Board
from loop2p.console.outlines import outlines
from loop2p.console.pictures import day1_jpegs, reference_jpegs
from loop2p.console.player import Mark, Player
from loop2p.console.server import Server, listening
from loop2p.console.web import Web
from loop2p.protocol import control

log = logging.getLogger("loop2p.console")
TICK_S = 1 / 15
SPEEDS = (0.25, 1.0, 4.0, 16.0, 64.0)


class Recording(Struct, frozen=True):
    """What the page says of a recording that it shows."""

    run: str
    """Its folder."""
    marks: list[Mark]
    speeds: tuple[float, ...] = SPEEDS


class Move(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /player, JSON: what is not there stays as it is."""

    t_s: Annotated[float, Meta(ge=0, le=1e7)] | None = None
    playing: bool | None = None
    speed: float | None = None


class Viewer:
    """Shows a recording to this machine's browsers until `stop`."""

    def __init__(self, player: Player, run: str, port: int = 0) -> None:
        """`port`: 0 for a free one. Raises OSError if it is taken."""
        self._player = player
        self._listener = listening("127.0.0.1", port)
        self.port: int = self._listener.getsockname()[1]
        self._board = Board(player.view.samples)
        self._board.put("recording", Recording(run, player.marks()))
        self._web = Web(self._board, Logins(""), {"/player": self._move}, "http")
        self._drawn: tuple[str, int] = ("", -1)
        self._drawn_day1: tuple[str, int] = ("", -1)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        asyncio.run(self._run(stop, self._listener))

    async def _run(self, stop: threading.Event, listener: socket.socket) -> None:
        hosts = frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})
        server = Server(self._web.guarded(hosts))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        last_s = time.monotonic()
        try:
            while not stop.is_set() and not serving.done():
                now_s = time.monotonic()
                self._player.tick(now_s - last_s)
                last_s = now_s
                await self._show()
                await asyncio.sleep(TICK_S)
        finally:
            server.should_exit = True
            await serving

    async def _show(self) -> None:
        player, board = self._player, self._board
        board.samples = player.view.samples
        page = player.view.page(player.t_s)
        services = [s for s in page.services if s.name != "recording"]  # it does not record its own heartbeats
        board.put("page", structs.replace(page, services=services))
        board.put("moment", player.moment)
        rois = player.view.rois
        if rois is not None and rois[:2] != self._drawn:
            self._drawn = rois[:2]
            board.put("rois", {"height": rois[2].height, "width": rois[2].width, "planes": outlines(rois[2])})
            for plane, jpeg in (await asyncio.to_thread(reference_jpegs, rois[2])).items():
                board.put_picture(REFERENCE, plane, jpeg)
        day1 = player.view.day1
        if day1 is not None and day1[:2] != self._drawn_day1:
            self._drawn_day1 = day1[:2]
            for plane, jpeg in (await asyncio.to_thread(day1_jpegs, day1[2])).items():
                board.put_picture(DAY1, plane, jpeg)
        self._web.news.tell()

    async def _move(self, body: bytes) -> control.Answer:
        try:
            move = msgspec.json.decode(body, type=Move)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return control.Answer(False, f"malformed request: {str(error)[:300]}")
        if move.speed is not None and move.speed not in SPEEDS:
            return control.Answer(False, f"speed {move.speed}, expected one of {', '.join(f'{s:g}' for s in SPEEDS)}")
        player = self._player
        if move.speed is not None:
            player.speed = move.speed
        if move.t_s is not None:
            player.seek(move.t_s)
        if move.playing is not None:
            player.playing = move.playing
        return control.Answer(True, "")
