"""Task and decoding, as far as actuation knows them, and the bus between them, with what a schedule does to it."""

from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fault_schedules import MS

from loop2p.protocol import Heartbeat, Message, Phase, Session, seal
from loop2p.task.commands import Commander

if TYPE_CHECKING:
    from fault_schedules_rig import VirtualRig

BEAT_US = 50 * MS
LOOK_US = 10 * MS
"""How often task looks which commands must be said again."""


class Speaker:
    """Task or decoding, as far as actuation knows them: heartbeats, and task's state and commands."""

    def __init__(self, rig: "VirtualRig", name: str) -> None:
        self.rig, self.name = rig, name
        self.alive = True
        self.starts = 0
        self.restart()

    def restart(self) -> None:
        self.starts += 1
        self.instance = f"{self.name}-{self.starts}"
        self.alive, self.tell = True, True
        self.next_beat_us = self.next_look_us = 0
        self.commander = Commander((7 << 32) + self.rig.now_us)
        self._seq: Counter[str] = Counter()

    def publish(self, message: Message) -> None:
        seq = self._seq[message.topic]
        self._seq[message.topic] += 1
        self.rig.bus.put(seal(message, self.name, self.instance, seq, self.rig.host_ns()).parts())

    def turn(self) -> None:
        rig = self.rig
        if not self.alive or rig.on("freeze", self.name):
            return
        if self.name == "task" and self.tell:
            self.tell = False
            self.publish(Session(run_id="run-1", rig="", task="", animal='name = "m1"', simulated=True))
            self.publish(Phase(phase="paused" if rig.on("pause", "task") else "closed_loop", day=1))
        if rig.now_us >= self.next_beat_us:
            self.next_beat_us = rig.now_us + BEAT_US
            self.publish(Heartbeat(health="ready"))
        if rig.now_us >= self.next_look_us:
            self.next_look_us = rig.now_us + LOOK_US
            again, _ = self.commander.tick(rig.host_ns())
            for command in again:
                self.publish(command)


class VirtualBus:
    """What task and decoding say, on its way to actuation."""

    def __init__(self, rig: "VirtualRig") -> None:
        self.rig = rig
        self.sent: list[list[bytes]] = []
        self._queue: deque[list[bytes]] = deque()

    def put(self, parts: list[bytes | memoryview]) -> None:
        rig, whole = self.rig, [bytes(p) for p in parts]
        self.sent.append(whole)
        if rig.on("cut", "bus"):
            return
        state = whole[0] in (Phase.topic.encode(), Session.topic.encode())  # nobody would say it again
        if rig.on("damage", "bus") and rig.random.random() < 0.5 and not state:
            cut = rig.random.randrange(3)
            whole = [p[: rig.random.randrange(len(p))] if k == cut else p for k, p in enumerate(whole)]
        self._queue += [whole] * (2 if rig.on("double", "bus") else 1)
        if rig.on("reorder", "bus"):
            rig.random.shuffle(self._queue)

    def again(self, parts: list[bytes]) -> None:
        self._queue.append(parts)

    def take(self) -> Iterator[list[bytes]]:
        reordering = self.rig.on("reorder", "bus") and self.rig.now_us // MS % 30
        while self._queue and not (self.rig.on("hold", "bus") or reordering):
            yield self._queue.popleft()

    def forget(self) -> None:
        self._queue.clear()
