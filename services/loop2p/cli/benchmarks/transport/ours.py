"""This project's bus, as services use it: a frame is an `imaging.raw`, a small message an `imaging.traces`.

PLACE: the publisher's port and the end's own, "P P+1 P+2 A B C": publish, bulk, control of each.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loop2p.cli.benchmarks.rig import HEIGHT, WIDTH
from loop2p.cli.benchmarks.transport.ends import HEAD, Note, obey
from loop2p.protocol import PROXIMAL, Cause, Message, Raw, Rig, RigFile, ServiceSpec, Traces, WireError
from loop2p.runtime.bus import Bus


def spec(ports: list[int]) -> ServiceSpec:
    publish, bulk, control = (f"tcp://127.0.0.1:{port}" for port in ports)
    return ServiceSpec(publish, bulk, control)


def send(place: str, up: Callable[[], None]) -> None:
    bus = Bus("imaging", "bench", spec([int(port) for port in place.split()[:3]]))

    def publish(payload: bytearray) -> None:
        sent_ns, number = HEAD.unpack_from(payload)
        bus.publish(message(payload, Cause(number, PROXIMAL, 0.0, sent_ns)), sent_ns)
        bus.welcome()  # behind what is sent, as in a service's loop

    try:
        obey(up, publish)
    finally:
        bus.close()


def message(payload: bytearray, cause: Cause) -> Message:
    """A frame, or what else fits into a small message."""
    if len(payload) == 2 * HEIGHT * WIDTH:
        pixels: Any = memoryview(payload)
        return Raw(plane=PROXIMAL, height=HEIGHT, width=WIDTH, dtype="<u2", cause=cause, buffers=(pixels,))
    return Traces(plane=PROXIMAL, f=bytes(len(payload)), cause=cause)


def receive(place: str, up: Callable[[], None], note: Note) -> None:
    ports = [int(port) for port in place.split()]
    rig = Rig("bench", {"imaging": spec(ports[:3]), "recording": spec(ports[3:])})
    bus = Bus("recording", "bench", rig.services["recording"])
    bus.connect(RigFile(rig, "", Path("bench")), {Raw.topic, Traces.topic})
    socket = bus.peers["imaging"]
    up()
    while True:
        socket.poll()
        for envelope in bus.receive(socket):
            if isinstance(envelope, WireError):
                raise envelope
            found = envelope.message  # decoded and checked
            assert found.cause is not None
            note(envelope.header.sent_ns, found.cause.frame)
