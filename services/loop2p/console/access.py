"""Who may see the page and ask through it: hosts, origins, the login. Pure but for the guard at the end.

A page of another site that the operator's browser has open must not reach this one: neither by sending it requests
(their `Origin` tells) nor by a name of its own that it lets point here (their `Host` tells).
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN_S = 12 * 3600.0
"""A login lasts a working day."""
MAX_LOGINS = 100
OPEN_PATHS = ("/login", "/static/login.js", "/static/style.css")
"""What the login page needs; nothing of the rig is in it."""
SAFE = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Logins:
    """Who has shown the token. With an empty token everybody may come in, and nothing is asked."""

    def __init__(self, token: str, cookie: str = "loop2p") -> None:
        self._token, self.cookie = token.encode(), cookie
        self._until_s: dict[bytes, float] = {}

    @property
    def asked(self) -> bool:
        return bool(self._token)

    def log_in(self, token: str, steady_s: float) -> str | None:
        """The value of a new cookie, None for a wrong token; compared in constant time."""
        if not (self.asked and hmac.compare_digest(_digest(token.encode()), _digest(self._token))):
            return None
        self._until_s = {key: until for key, until in self._until_s.items() if until > steady_s}
        if len(self._until_s) >= MAX_LOGINS:
            del self._until_s[next(iter(self._until_s))]
        value = secrets.token_urlsafe(32)
        self._until_s[_digest(value.encode())] = steady_s + LOGIN_S
        return value

    def log_out(self, headers: Mapping[str, str]) -> None:
        self._until_s.pop(self._key(headers), None)

    def knows(self, headers: Mapping[str, str], steady_s: float) -> bool:
        """Does this request come from somebody who has logged in?"""
        return not self.asked or self._until_s.get(self._key(headers), 0.0) > steady_s

    def _key(self, headers: Mapping[str, str]) -> bytes:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            found = None
        return _digest(found.value.encode()) if found is not None else b""


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def stranger(method: str, headers: Mapping[str, str], hosts: frozenset[str], scheme: str) -> str:
    """Why a request is not from this page; empty if it may be. `method`: "WEBSOCKET" for one."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if host.lower() not in hosts:
        return f"host {host[:100]!r}, expected one of {', '.join(sorted(hosts))}"
    if method not in SAFE and origin is None:
        return f"no origin, expected {scheme}://{host}"
    if origin is not None and origin.lower() != f"{scheme}://{host.lower()}":
        return f"origin {origin[:100]!r}, expected {scheme}://{host}"
    if method not in (*SAFE, "WEBSOCKET") and headers.get("content-type", "").partition(";")[0] != "application/json":
        return f"content type {headers.get('content-type', '')[:100]!r}, expected application/json"
    return ""


class Guard:
    """Stands before the page: turns strangers away, and puts what browsers are to hold to into every answer."""

    def __init__(self, app: ASGIApp, logins: Logins, hosts: frozenset[str], scheme: str) -> None:
        self.app, self.logins, self.hosts, self.scheme = app, logins, hosts, scheme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
        why = stranger(method, headers, self.hosts, self.scheme)
        known = scope["path"] in OPEN_PATHS or self.logins.knows(headers, time.monotonic())
        if scope["type"] == "websocket":
            if why or not known:
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": (why or "not logged in")[:120]})
            else:
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if why:
            answer: ASGIApp = JSONResponse({"accepted": False, "reason": why}, 403)
        elif known:
            answer = self.app
        elif method in SAFE and scope["path"] == "/":
            answer = RedirectResponse("/login", 303)
        else:
            answer = JSONResponse({"accepted": False, "reason": "not logged in"}, 401)
        await answer(scope, receive, send_with_headers)
