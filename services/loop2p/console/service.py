"""The page's shell: the bus on one side, browsers on the other, and nothing of either waits for the other."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from msgspec import Struct, structs

from loop2p.console.access import Logins
from loop2p.console.asks import Asks, to_task
from loop2p.console.board import DAY1, LIVE, REFERENCE, Board
from loop2p.console.core import TOPICS, PageView
from loop2p.console.day1 import Day1, Day1Error, Draw, Drawn, Look, read
from loop2p.console.options import ConsoleOptions, check, read_session, read_text, read_token
from loop2p.console.outlines import outlines
from loop2p.console.pictures import Previews, day1_jpegs, jpeg_of, reference_jpegs
from loop2p.console.preflight import preflight
from loop2p.console.server import Server, listening
from loop2p.console.web import Web
from loop2p.protocol import FileError, RigFile, Swap, WireError, control
from loop2p.runtime.ask import ask, ask_answer
from loop2p.runtime.keys import load_keys
from loop2p.runtime.monitor import Monitor

log = logging.getLogger("loop2p.console")

TICK_S = 1 / 15
"""The bus is looked at so often; what came meanwhile goes out together."""
PAGE_TICKS = 4
"""All but traces and pictures goes out every so many ticks."""
PREFLIGHT_S = 1.0
ASK_S = 5.0


class Facts(Struct, frozen=True):
    """What does not change while the page runs."""

    rig_path: str
    sessions: list[str]
    logged_in: bool
    """There is a login to leave."""


class Console:
    """Shows what the rig does; puts to task what is asked on the page. Decides nothing itself."""

    Options: ClassVar[type[Struct]] = ConsoleOptions

    def __init__(self, options: ConsoleOptions, rig_file: RigFile) -> None:
        self.options, self.rig_file = options, rig_file
        self.keys = load_keys(rig_file, _own_name(options, rig_file))
        self._task_at = rig_file.rig.services["task"].control
        budget_ms = rig_file.rig.services["task"].options.get("decision_budget_ms")
        self.view = PageView(rig_file.rig, float(budget_ms or 1e3 / rig_file.rig.microscope.rate_hz))
        self.board = Board(self.view.samples)
        self._asks = Asks()
        self._drawn: tuple[str, int] = ("", -1)
        """Instance and number of the ROI sets that are on the board."""
        self._drawn_day1: tuple[str, int] = ("", -1)
        self._day1 = Day1(rig_file)
        self._draws: dict[str, Drawn] = {}
        """Sessions that were drawn on this page, by name."""
        self._token = read_token(options, rig_file) if options.token_file else ""
        asking = {"/ask": self._ask, "/candidates": self._candidates, "/draw": self._draw_rois}
        self.web = Web(self.board, Logins(self._token, f"loop2p-{options.port}"), asking, options.scheme)
        self._put_facts()

    def _put_facts(self) -> None:
        sessions = [*self.options.sessions, *self._draws]
        self.board.put("facts", Facts(str(self.rig_file.path), sessions, bool(self._token)))

    @classmethod
    def from_rig(cls, options: Any, rig_file: RigFile) -> Self:
        """Raises FileError for options that can't work or are not safe."""
        check(options, rig_file)
        return cls(options, rig_file)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Raises OSError if the port is taken."""
        with listening(self.options.address, self.options.port) as listener:
            asyncio.run(self._run(stop, listener))

    async def _run(self, stop: threading.Event, listener: socket.socket) -> None:
        folder = self.rig_file.path.parent
        files = {"ssl_certfile": self.options.cert_file, "ssl_keyfile": self.options.key_file}
        secrets = {key: str(folder / name) for key, name in files.items() if name}
        server = Server(self.web.guarded(self.options.hosts), secrets)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        checking = asyncio.create_task(self._check(stop))
        log.info("the page is at %s://%s:%d/", self.options.scheme, *listener.getsockname()[:2])
        try:
            await self._listen(stop, serving, checking)
        finally:
            server.should_exit = True
            checking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await checking
            await serving

    # ------------------------------------------------------------ the bus

    async def _listen(self, stop: threading.Event, *others: "asyncio.Task[None]") -> None:
        """Ends when asked to, or when one of the others has met a bug."""
        ticks, due_s = 0, time.monotonic()
        with Monitor(self.rig_file.rig, TOPICS, self.keys) as monitor:
            previews = Previews(self.rig_file.rig, self.keys)
            try:
                while not stop.is_set() and not any(other.done() for other in others):
                    for envelope in monitor.wait(0):
                        self.view.take(envelope, time.monotonic(), time.time())
                        if isinstance(envelope.message, Swap):
                            previews.follow(envelope.message)
                    await self._draw(previews)
                    if ticks % PAGE_TICKS == 0:
                        self.board.put("page", self.view.page(time.monotonic()))
                    self.web.news.tell()
                    ticks, due_s = ticks + 1, max(due_s + TICK_S, time.monotonic())
                    await asyncio.sleep(due_s - time.monotonic())
            finally:
                previews.close()

    async def _draw(self, previews: Previews) -> None:
        """Pictures onto the board, if anybody looks."""
        newest = previews.newest()
        if self.web.browsers == 0:
            self.board.forget_live()
            return
        for plane, preview in newest.items():
            jpeg = jpeg_of(preview)
            if jpeg is not None:
                self.board.put_picture(LIVE, plane, jpeg)
        if self.view.rois is not None and self.view.rois[:2] != self._drawn:
            instance, number, rois = self.view.rois
            self._drawn = instance, number
            self.board.put("rois", {"height": rois.height, "width": rois.width, "planes": outlines(rois)})
            for plane, jpeg in (await asyncio.to_thread(reference_jpegs, rois)).items():
                self.board.put_picture(REFERENCE, plane, jpeg)
        if self.view.day1 is not None and self.view.day1[:2] != self._drawn_day1:
            self._drawn_day1 = self.view.day1[:2]
            for plane, jpeg in (await asyncio.to_thread(day1_jpegs, self.view.day1[2])).items():
                self.board.put_picture(DAY1, plane, jpeg)

    async def _check(self, stop: threading.Event) -> None:
        """What is missing for a session, from task, as long as that is worth knowing and anybody looks."""
        while not stop.is_set():
            if self.web.browsers and self.view.asks_for_preflight:
                answer = await asyncio.to_thread(self._ask_check)
                services = self.view.page(time.monotonic()).services
                self.board.put("preflight", preflight(answer, services, self._task_at))
                self.board.put("runs", await asyncio.to_thread(self._day1.runs))
            await asyncio.sleep(PREFLIGHT_S)

    def _ask_check(self) -> control.Answer | None:
        try:
            reply = ask(self._task_at, control.Ask("check", "console"), PREFLIGHT_S, self.keys)
        except WireError:
            return None
        return reply if isinstance(reply, control.Answer) else None

    # ------------------------------------------------------------ what is asked

    async def _ask(self, body: bytes) -> control.Answer:
        """Put a request to task."""
        request = self._asks.judge(body)
        if isinstance(request, str):
            return control.Answer(False, request)
        alarms = {(alarm.service, alarm.code) for alarm in self.view.page(time.monotonic()).alarms}
        asked = to_task(request, alarms)
        if isinstance(asked, str):
            return control.Answer(False, asked)
        if request.kind == "start":
            run_id = f"{datetime.now().astimezone():%Y-%m-%dT%H-%M-%S}-{self.rig_file.rig.name}"
            try:
                texts = self._texts(request.session)
            except FileError as error:
                return control.Answer(False, str(error))
            asked = structs.replace(asked, args=asked.args | texts | {"run_id": run_id})
        return await asyncio.to_thread(ask_answer, self._task_at, asked, ASK_S, self.keys)

    def _texts(self, session: str) -> dict[str, str]:
        """What task is given to start a session. Raises FileError."""
        if session in self._draws:
            path = self._draws[session].path
            return {"task": read_text(Path(path)), "task_path": path}
        if session not in self.options.sessions:
            raise FileError(f"no session {session!r} in the console's options")
        return read_session(self.options, session, self.rig_file)

    # ------------------------------------------------------------ day 1

    async def _candidates(self, body: bytes) -> control.Answer:
        """Rank a run's ROIs, for all who look."""
        try:
            found = await self._day1.candidates(read(body, Look))
        except Day1Error as error:
            return control.Answer(False, str(error))
        self.board.put("candidates", found)
        return control.Answer(True, found.note)

    async def _draw_rois(self, body: bytes) -> control.Answer:
        """Draw P+ and P- of the confirmed ROIs; what comes of it can be started."""
        try:
            draw: Draw = read(body, Draw)
            if draw.session not in self.options.sessions:
                raise Day1Error(f"no session {draw.session!r} in the console's options")
            task = self.rig_file.path.parent / self.options.sessions[draw.session].task
            drawn = await self._day1.draw(draw, task)
        except (Day1Error, OSError) as error:
            return control.Answer(False, str(error))
        self._draws[drawn.session] = drawn
        self.board.put("drawn", drawn)
        self._put_facts()
        return control.Answer(True, f"{drawn.words}; start it as session {drawn.session!r}")


def _own_name(options: ConsoleOptions, rig_file: RigFile) -> str:
    """What the rig file calls this page, whose key it shows: the companion that has these options."""
    for name, spec in rig_file.rig.companions.items():
        if spec.run.startswith("loop2p.console") and rig_file.side_options(name, ConsoleOptions) == options:
            return name
    return "console"
