"""The page's web application: files, login, requests, and the live connection of each browser."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from loop2p.console.access import LOGIN_S, Guard, Logins
from loop2p.console.asks import MAX_BYTES
from loop2p.console.board import Board, Reader
from loop2p.protocol import control

log = logging.getLogger("loop2p.console")

STATIC = Path(__file__).parent / "static"
MAX_BROWSERS = 20
"""At a time; one more is turned away."""

Asking = Callable[[bytes], Awaitable[control.Answer]]
"""The body of a request -> what became of it."""


class News:
    """Wakes everybody who waits for something new."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Web:
    """Serves the page. What is asked is put to `asking` by its path."""

    def __init__(self, board: Board, logins: Logins, asking: Mapping[str, Asking], scheme: str = "http") -> None:
        self._board, self._logins, self._scheme = board, logins, scheme
        self.news = News()
        self.browsers = 0
        routes: list[Route | WebSocketRoute | Mount] = [
            Route("/", self._index),
            Route("/login", self._login_page),
            Route("/login", self._log_in, methods=["POST"]),
            Route("/logout", self._log_out, methods=["POST"]),
            WebSocketRoute("/live", self._live),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        routes += [Route(path, _answering(ask), methods=["POST"]) for path, ask in asking.items()]
        self._app = Starlette(routes=routes)

    def guarded(self, hosts: frozenset[str]) -> ASGIApp:
        """The application behind its guard."""
        return Guard(self._app, self._logins, hosts, self._scheme)

    async def _index(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _login_page(self, request: Request) -> Response:
        return FileResponse(STATIC / "login.html")

    async def _log_in(self, request: Request) -> Response:
        body = await _body(request)
        cookie = self._logins.log_in(body.decode("utf-8", "replace"), time.monotonic()) if body else None
        if cookie is None:
            return JSONResponse({"accepted": False, "reason": "not the token of this page"}, 401)
        response = JSONResponse({"accepted": True, "reason": ""})
        response.set_cookie(
            self._logins.cookie, cookie, max_age=int(LOGIN_S), httponly=True, samesite="strict",
            secure=self._scheme == "https",
        )  # fmt: skip
        return response

    async def _log_out(self, request: Request) -> Response:
        self._logins.log_out(request.headers)
        return JSONResponse({"accepted": True, "reason": ""})

    async def _live(self, websocket: WebSocket) -> None:
        """One browser: it is sent what it lacks, as fast as it takes it, and nothing is kept for it meanwhile."""
        if self.browsers >= MAX_BROWSERS:
            await websocket.close(1013, f"{MAX_BROWSERS} browsers look at this page already")
            return
        await websocket.accept()
        self.browsers += 1
        gone = asyncio.create_task(_until_gone(websocket))
        reader = Reader(self._board)
        try:
            while not gone.done():
                for part in reader.lacks():
                    await (websocket.send_text(part) if isinstance(part, str) else websocket.send_bytes(part))
                news = asyncio.create_task(self.news.wait())
                await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        except WebSocketDisconnect:
            pass
        finally:
            self.browsers -= 1
            passed, sent = reader.pictures_passed_over, reader.pictures
            log.info("browser %s:%s leaves: %d pictures sent, %d passed over", *_where(websocket), sent, passed)
            gone.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect):
                await gone


def _where(websocket: WebSocket) -> tuple[str, int]:
    return (websocket.client.host, websocket.client.port) if websocket.client else ("?", 0)


async def _until_gone(websocket: WebSocket) -> None:
    """A browser has nothing to say here: what it says is thrown away."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _answering(ask: Asking) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return JSONResponse({"accepted": False, "reason": f"more than {MAX_BYTES} bytes"}, 413)
        answer = await ask(body)
        return JSONResponse({"accepted": answer.accepted, "reason": answer.reason[:10_000]})

    return respond


async def _body(request: Request) -> bytes | None:
    """The request's body; None if it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return body
