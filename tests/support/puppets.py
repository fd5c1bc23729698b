"""Services that publish what a test tells them to, by their control sockets."""

from collections.abc import Iterable

import msgspec

from loop2p.protocol import MESSAGES, Message, control
from loop2p.runtime import Service


class Puppet(Service):
    """Publishes `args["message"]` (JSON) as `args["topic"]`."""

    publishes = tuple(MESSAGES.values())

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        return control.Answer(True), [
            msgspec.json.decode(text, type=MESSAGES[topic])
            for topic, text in msgspec.json.decode(ask.args["say"], type=list[tuple[str, str]])
        ]


def say(*messages: Message) -> control.Ask:
    """The request that makes a puppet publish these."""
    told = [(m.topic, msgspec.json.encode(m).decode()) for m in messages]
    return control.Ask("say", "test", {"say": msgspec.json.encode(told).decode()})
