"""The in-process bus: the same services without processes, for simulation and tests."""

import traceback as tb
from collections import deque
from collections.abc import Callable, Iterable

from msgspec import structs

from loop2p.protocol import Cause, Envelope, Fault, Message, control, open_parts, seal
from loop2p.runtime.service import Service

Takers = tuple[Service, ...]


class LocalBus:
    """Delivers each message, in order of publication, to every service that subscribes to its class.

    `sent` holds in order every envelope of a class in `keep` (default: all); `messages` the messages alone. A service
    that raises is taken off the bus after its Fault, as a process would be. With `wire=True` each message goes through
    its bytes.
    """

    def __init__(
        self,
        *services: Service,
        wire: bool = False,
        now_ns: Callable[[], int] = lambda: 0,
        keep: tuple[type[Message], ...] = (Message,),
    ) -> None:
        self.services = list(services)
        self.wire, self.now_ns, self.keep = wire, now_ns, keep
        self.sent: list[Envelope] = []
        self._queue: deque[tuple[Envelope, Takers]] = deque()
        self._seq: dict[tuple[str, str], int] = {}
        self._routes: dict[type[Message], tuple[bool, Takers]] = {}

    @property
    def messages(self) -> list[Message]:
        return [envelope.message for envelope in self.sent]

    def publish(self, message: Message, source: str = "test") -> None:
        """Publish as somebody and deliver everything that follows from it."""
        self._put(message, source, None)
        self._drain()

    def tick(self) -> None:
        """Tick every service once."""
        for service in list(self.services):
            self._take(service, service.tick, None)
        self._drain()

    def ask(self, service: Service, ask: control.Ask) -> control.Answer:
        """An operator's request, as over the control socket."""
        answer, messages = service.answer(ask)
        for message in messages:
            self._put(message, name_of(service), None)
        self._drain()
        return answer

    def _put(self, message: Message, source: str, cause: Cause | None) -> None:
        if cause is not None and message.cause is None:
            message = structs.replace(message, cause=cause)
        key = (source, message.topic)
        seq = self._seq.get(key, 0)
        self._seq[key] = seq + 1
        envelope = seal(message, source, f"local-{source}", seq, self.now_ns())
        if self.wire:
            envelope = open_parts(envelope.parts())
        kept, takers = self._route(type(message))
        if kept:
            self.sent.append(envelope)
        if takers:
            self._queue.append((envelope, takers))

    def _drain(self) -> None:
        while self._queue:
            envelope, takers = self._queue.popleft()
            cause = envelope.header.cause
            for service in takers:
                self._take(service, service.receive, cause, envelope)

    def _route(self, kind: type[Message]) -> tuple[bool, Takers]:
        """Is this class kept, and who subscribes to it?"""
        route = self._routes.get(kind)
        if route is None:
            takers = tuple(s for s in self.services if s.subscribes and issubclass(kind, s.subscribes))
            route = self._routes[kind] = issubclass(kind, self.keep), takers
        return route

    def _take(
        self, service: Service, call: Callable[..., Iterable[Message]], cause: Cause | None, *taken: Envelope
    ) -> None:
        name = name_of(service)
        try:
            for message in call(*taken):
                self._put(message, name, cause)
        except Exception as error:  # the one place: a fault stops the service, not the bus
            self._remove(service)
            fault = Fault(service=name, error=type(error).__name__, detail=str(error), traceback=tb.format_exc())
            self._put(fault, name, cause)
            for message in service.go_safe():
                self._put(message, name, cause)

    def _remove(self, service: Service) -> None:
        """Nothing more is delivered to it, what is on its way included."""
        self.services.remove(service)
        self._routes.clear()
        left = ((envelope, tuple(t for t in takers if t is not service)) for envelope, takers in self._queue)
        self._queue = deque(left)


def name_of(service: Service) -> str:
    """The role a service's class fills, such as "decoding"."""
    return type(service).__name__.lower()
