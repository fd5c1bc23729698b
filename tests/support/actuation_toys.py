"""A task's place for tests of the actuator: arms the LED once for each instance of it, and asks for a drop at each of
its heartbeats."""

from collections.abc import Iterable
from typing import Any, Self

from loop2p.protocol import Done, Envelope, Heartbeat, Message, OptoCommand, Phase, RewardCommand
from loop2p.runtime import Context, Service


class Arming(Service):
    """In the closed loop at once. The command to arm is given until it is done, then never again."""

    subscribes = (Heartbeat, Done)
    publishes = (Phase, OptoCommand, RewardCommand)

    def __init__(self, context: Context) -> None:
        self.context = context
        self.asked: set[int] = set()
        self.armed: set[str] = set()
        self.next_id = context.clock.now_ns()  # rises from process to process
        self.told = False

    @classmethod
    def from_rig(cls, options: Any, context: Context) -> Self:
        return cls(context)

    def tick(self) -> Iterable[Message]:
        if not self.told:
            self.told = True
            yield Phase(phase="closed_loop", day=1)

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        message, instance = envelope.message, envelope.header.instance
        if isinstance(message, Done) and message.id in self.asked:
            self.armed.add(instance)
        if envelope.header.source != "actuation" or not isinstance(message, Heartbeat) or message.health != "ready":
            return
        expires_ns = self.context.clock.now_ns() + 250_000_000
        self.next_id += 2
        if instance not in self.armed:
            self.asked.add(self.next_id)
            yield OptoCommand(id=self.next_id, target=instance, expires_ns=expires_ns, armed=True, pulse_ms=6)
        yield RewardCommand(id=self.next_id + 1, target=instance, expires_ns=expires_ns, volume_ul=0.5)
