"""Figures of the two companions for Prometheus."""

import logging
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

log = logging.getLogger("loop2p.lsl")


class Figures:
    """A registry of its own, so that several of a process do not meet."""

    def __init__(self, direction: str) -> None:
        """`direction`: outlet or inlet."""
        self.registry = CollectorRegistry()
        self._server: Any = None
        prefix = f"loop2p_lsl_{direction}"
        here = self.registry
        self.samples = Counter(f"{prefix}_samples", "Samples passed on.", ["stream"], registry=here)
        self.bound_s = Gauge(f"{prefix}_clock_bound_seconds", "What a time may be off by.", registry=here)
        if direction == "outlet":
            self.missed = Gauge(
                f"{prefix}_missed_messages", "Messages of the bus that did not come.", ["topic"], registry=here
            )
        else:
            self.lost = Counter(f"{prefix}_lost_samples", "Samples known to be lost.", ["stream"], registry=here)
            self.up = Gauge(f"{prefix}_stream_up", "1 while the stream is there.", ["stream"], registry=here)
            self.waiting = Gauge(f"{prefix}_waiting_bytes", "What waits for recording.", registry=here)

    def serve(self, address: str) -> None:
        """Start the HTTP endpoint, "host:port"; none for an empty address. Raises OSError where the port is taken."""
        if address:
            host, _, port = address.rpartition(":")
            self._server, _ = start_http_server(int(port), host, self.registry)

    def close(self) -> None:
        """Stop the endpoint."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
