"""The web server: uvicorn, on a socket of ours, with limits on what a browser can cost."""

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = logging.getLogger("loop2p.console")
logging.getLogger("uvicorn").setLevel(logging.WARNING)

PING_S, SILENT_S = 3.0, 5.0
"""A browser is asked for a sign of life so often, and cut off if none comes in so long: then it does not read."""
LEAVE_S = 1
NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""What the system still has for a browser that is cut off is thrown away too."""
WAITING_BYTES = 256 * 1024
"""The system keeps no more for a browser that is slow (Linux doubles it): a picture from there is not of long ago. Left
to itself Linux kept 2.8 MB, half a minute of pictures."""


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens there; 0 for a free port. Raises OSError if the port is taken."""
    try:
        sock = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WAITING_BYTES)  # what it accepts inherits it
        return sock
    except OSError as error:
        raise OSError(f"console: can't listen on {address}:{port}: {error.strerror}; expected a free port") from None


class _WebSockets(WebSocketsSansIOProtocol):
    """Cuts off who does not read: what waits for it is thrown away, and no memory and no file is kept."""

    def keepalive_timeout(self) -> None:
        self.pong_timer = None
        log.warning(
            "browser %s:%s does not read and is cut off; %d bytes that it did not take are thrown away",
            *(self.client or ("?", 0)),
            self.transport.get_write_buffer_size(),
        )
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)  # else the system goes on for minutes
        self.transport.abort()


class Server(uvicorn.Server):
    """Serves an application until `should_exit`."""

    def __init__(self, app: ASGIApp, secrets: Mapping[str, Any] | None = None) -> None:
        """`secrets`: ssl_certfile and ssl_keyfile, for https."""
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            http="h11",
            ws=_WebSockets,
            ws_per_message_deflate=False,  # pictures don't shrink, and samples are small
            ws_max_size=1000,
            ws_ping_interval=PING_S,
            ws_ping_timeout=SILENT_S,
            limit_concurrency=100,
            timeout_graceful_shutdown=LEAVE_S,
            **(secrets or {}),
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the runtime's
