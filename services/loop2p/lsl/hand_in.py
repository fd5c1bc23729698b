"""What waits for recording, and how it gets there: at least once, in order, in bounded memory.

Recording answers each message. No answer: it comes again with the same id, so that it is written once. What the queue
has no room for goes, the oldest first, and the next message of its stream says how much is missing.
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable

import msgspec
from msgspec import Struct, structs

from loop2p.protocol import External, control

MOST_BYTES = 32_000_000
TRIES = 25
"""A message that is refused so often is given up: at `RETRY_S`, 5 s."""
RETRY_S = 0.2
ROOM = "recording had no room, or did not answer"


class Waiting(Struct, frozen=True):
    id: str
    body: str
    """JSON."""
    message: External

    @property
    def size(self) -> int:
        return len(self.body)


class Queue:
    """Pure: messages in, requests out."""

    def __init__(self, by: str, most_bytes: int = MOST_BYTES) -> None:
        self.by, self.most_bytes = by, most_bytes
        self.bytes = self.lost = self.dropped = 0
        self.lost_of: dict[str, int] = {}
        """Stream -> samples that had to go, since the start."""
        self._own = uuid.uuid4().hex[:12]
        self._n = 0
        self._waiting: deque[Waiting] = deque()
        self._missing: dict[str, tuple[int, str]] = {}
        """Stream -> samples that had to go since its last message, and why."""
        self._tries = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: External) -> None:
        """It is to be handed in; the oldest go where there is no room."""
        body = msgspec.json.encode(message).decode()
        self._waiting.append(Waiting(f"{self._own}-{self._n}", body, message))
        self._n += 1
        self.bytes += len(body)
        while self.bytes > self.most_bytes:
            self._drop(ROOM)

    def request(self) -> control.Ask | None:
        """What to ask of recording next; the same until `answered`."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        stream = first.message.stream
        if stream in self._missing:
            n, why = self._missing.pop(stream)
            message = structs.replace(first.message, lost=first.message.lost + n, gap=first.message.gap or why)
            body = msgspec.json.encode(message).decode()
            self.bytes += len(body) - first.size
            first = self._waiting[0] = Waiting(first.id, body, message)
        return control.Ask("external", self.by, {"id": first.id, "message": first.body})

    def answered(self, request: control.Ask, answer: control.Answer | None) -> bool:
        """What became of a request, None: no answer; false: wait a moment before the next."""
        if not self._waiting or self._waiting[0].id != request.args["id"]:
            return True  # it has had to go meanwhile
        if answer is not None and answer.accepted:
            self._pop()
            return True
        self._tries += answer is not None
        if answer is not None and self._tries >= TRIES:
            self._drop(answer.reason)
        return False

    def _pop(self) -> Waiting:
        first = self._waiting.popleft()
        self.bytes -= first.size
        self._tries = 0
        return first

    def _drop(self, why: str) -> None:
        gone = self._pop().message
        n, stream = gone.lost + len(gone.t_ns) // 8, gone.stream
        before, first_why = self._missing.get(stream, (0, gone.gap or why))
        self._missing[stream] = before + n, first_why
        self.lost += n
        self.dropped += 1
        self.lost_of[stream] = self.lost_of.get(stream, 0) + n


class HandIn(threading.Thread):
    """Hands in what is in the queue, and every second how the streams stand, until `leave`."""

    def __init__(
        self,
        queue: Queue,
        ask: Callable[[control.Ask], control.Answer | None],
        states: Callable[[], control.Ask],
        every_s: float = 1.0,
    ) -> None:
        """`ask`: of recording; None where it does not answer. `states`: the request that tells how streams stand."""
        super().__init__(name="hand-in", daemon=True)
        self.queue, self._ask, self._states, self._every_s = queue, ask, states, every_s
        self.problem = ""
        """Recording's last refusal or silence; empty: all is well."""
        self._lock = threading.Condition()
        self._leave = False

    def add(self, messages: list[External]) -> None:
        """From any thread; never waits for recording."""
        if messages:
            with self._lock:
                for message in messages:
                    self.queue.add(message)
                self._lock.notify()

    def leave(self, timeout_s: float) -> None:
        """Hand in what is left, and end; what is left after so long is lost."""
        with self._lock:
            self._leave = True
            self._lock.notify()
        self.join(timeout_s)

    def run(self) -> None:
        """The thread."""
        clock = time.monotonic
        told_s = clock() - self._every_s
        while True:
            if clock() - told_s >= self._every_s:
                told_s = clock()
                self._note(self._ask(self._states()))
            with self._lock:
                request = self.queue.request()
                if request is None:
                    if self._leave:
                        return
                    self._lock.wait(max(0.0, told_s + self._every_s - clock()))
                    continue
            answer = self._ask(request)
            self._note(answer)
            with self._lock:
                if not self.queue.answered(request, answer) and not (answer is None and self._leave):
                    self._lock.wait(RETRY_S)
                elif answer is None and self._leave:
                    return

    def _note(self, answer: control.Answer | None) -> None:
        self.problem = "recording does not answer" if answer is None else "" if answer.accepted else answer.reason
