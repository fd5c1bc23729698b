"""What comes from the page -> what is asked of task, or why not. Pure. What becomes of it is task's to say."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from loop2p.console.core import ACKNOWLEDGED
from loop2p.protocol import control

MAX_BYTES = 64_000
REMEMBERED = 1_000
"""Ids of requests that are remembered: a browser may send one again when a connection breaks."""

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+\Z")]


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /ask, JSON."""

    id: Annotated[str, Meta(pattern=r"^[\w-]{8,64}\Z")]
    """Made by the page, never used twice."""
    kind: Literal["start", "pause", "resume", "stop", "abort", "free_reward", "note", "acknowledge"]
    by: Name
    """Who asks, as the page says: it goes on the record."""
    text: Annotated[str, Meta(max_length=5_000)] = ""
    """Of a note."""
    session: Annotated[str, Meta(max_length=100)] = ""
    """Of a start: which of the sessions in the options."""
    overrides: Annotated[list[Annotated[str, Meta(pattern=r"^[\w.-]{1,60}\Z")]], Meta(max_length=50)] = []
    """Of a start: codes of start conditions to override; recorded."""
    service: Annotated[str, Meta(max_length=60)] = ""
    """Of an acknowledged alarm."""
    code: Annotated[str, Meta(max_length=100)] = ""
    """Of an acknowledged alarm."""


class Asks:
    """Judges requests, and remembers which came before."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def judge(self, body: bytes) -> Request | str:
        """The request, or why it goes no further."""
        try:
            request = msgspec.json.decode(body, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return f"malformed request: {str(error)[:300]}"
        if request.id in self._seen:
            return f"request {request.id} came before: it was asked once and is not asked again"
        if len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[request.id] = None
        return request


def to_task(request: Request, alarms: set[tuple[str, str]]) -> control.Ask | str:
    """What is asked of task, or why not; of a start, what its files add is missing. `alarms`: those that stand."""
    by = f"{request.by} at the console"
    match request.kind:
        case "note":
            return control.Ask("note", by, {"text": request.text})
        case "acknowledge" if (request.service, request.code) not in alarms:
            return f"no alarm {request.code} of {request.service} stands any more"
        case "acknowledge":
            return control.Ask("note", by, {"text": f"{ACKNOWLEDGED}{request.service} {request.code}"})
        case "start":
            return control.Ask("start", by, {"by": by, "overrides": ",".join(request.overrides)})
        case _:
            return control.Ask(request.kind, by)
