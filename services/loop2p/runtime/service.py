"""What a service is: takes messages, gives messages. Sockets, heartbeats and faults are the runtime's."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from msgspec import Struct

from loop2p.protocol import Envelope, Message, RigFile, control
from loop2p.runtime.clock import RigClock


class NoOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """A service without options."""


class Input(Protocol):
    """Something outside the bus that a service listens to: a socket, a serial line, a file being played."""

    def fileno(self) -> int:
        """A socket the runtime can wait on; -1 if there is none now."""
        ...

    def due_ns(self) -> int | None:
        """When to be read next although nothing arrived (time.perf_counter_ns); None for never, 0 for at once."""
        ...

    def read(self) -> Iterable[Message]:
        """Called when readable or due, in the service's own thread; must not block."""
        ...


class Context(Struct):
    """What the runtime hands to a service that is being built."""

    name: str
    instance: str
    rig_file: RigFile
    clock: RigClock
    log: logging.Logger
    ask_peer: Callable[[str, control.Request], control.Reply | None] = lambda _name, _request: None
    """Ask another service's control socket (1 s at most); None if it does not answer."""

    def run_folder(self, run_id: str) -> Path:
        """The session's folder on this machine; made if missing."""
        folder = Path(self.rig_file.rig.data.folder) / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Service:
    """Base of every service. Only `handle` is needed; the rest has sensible defaults.

    `handle` may raise: the runtime then publishes a Fault, calls `go_safe` and ends the process.
    Messages it yields take the cause of the message being handled unless they carry their own.
    """

    Options: ClassVar[type[Struct]] = NoOptions
    subscribes: ClassVar[tuple[type[Message], ...]] = ()
    publishes: ClassVar[tuple[type[Message], ...]] = ()
    tick_s: ClassVar[float] = 0.05
    can_shadow: ClassVar[bool] = False
    """Can two of it be at work at once? A function of what it hears can; what owns a device or a file can't."""

    @classmethod
    def from_rig(cls, options: Any, context: Context) -> Self:
        """Build from checked options (an instance of `Options`) and the runtime's context."""
        return cls()

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        """Take an envelope. Override only where the header or raw bytes are needed (recording, heartbeats)."""
        return self.handle(envelope.message)

    def handle(self, message: Message) -> Iterable[Message]:
        """Take a message, yield messages."""
        return ()

    def hear_shadow(self, envelope: Envelope) -> None:
        """Take note of what somebody says who stands by for a service. It must change nothing that is done."""

    def inputs(self) -> Sequence[Input]:
        """What to listen to beside the bus. Asked anew before each wait, so it may change."""
        return ()

    def tick(self) -> Iterable[Message]:
        """Called every `tick_s`, for watchdogs and repeats. Not for science: that runs on frame time."""
        return ()

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        """Answer an operator's request."""
        return control.Answer(False, f"this service takes no requests, found {ask.kind!r}"), ()

    def why_not_ready(self) -> list[str]:
        """What must be done before this service is ready, a line each; empty when ready."""
        return []

    def counters(self) -> dict[str, int]:
        """The role's own counts since its start (rising), for heartbeat and metrics."""
        return {}

    def gauges(self) -> dict[str, float]:
        """The role's own present values, for metrics."""
        return {}

    def flushed(self) -> dict[str, dict[str, int]]:
        """Recording alone: what is safe in the journal."""
        return {}

    def snapshot(self) -> bytes:
        """State for a successor or a late peer, the service's own MessagePack."""
        return b""

    def go_safe(self) -> Iterable[Message]:
        """Outputs safe, now: before stop and after a fault. Must not raise."""
        return ()

    def close(self) -> Iterable[Message]:
        """Release files and devices; the last messages may be yielded."""
        return ()
