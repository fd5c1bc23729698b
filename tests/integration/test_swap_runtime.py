"""Two of a service on real sockets: the one that stands by is heard and not obeyed; at an exchange nothing is lost."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from msgspec import structs
from rigs import toy_rig
from runtime_threads import Threads, wait_for

from loop2p.protocol import (
    ROLES,
    Endpoints,
    Envelope,
    Heartbeat,
    Message,
    Output,
    Phase,
    RigFile,
    Show,
    Swap,
    control,
    seal,
)  # fmt: skip
from loop2p.runtime import Service, ask_answer
from loop2p.runtime.keys import OPERATOR, load_keys, make_keys
from loop2p.runtime.monitor import Monitor
from loop2p.runtime.process import Process


class Chief(Service):
    """Task's place: publishes the rig.swap that it is handed, and notes which decoder it has obeyed."""

    subscribes = (Output, Heartbeat)
    publishes = (Swap, Show, Phase)

    def __init__(self) -> None:
        self.obeyed: list[tuple[int, str]] = []
        self.shadow: set[str] = set()
        self.alive: set[str] = set()
        self.next: list[Swap] = []
        self.said: list[int] = []

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        instance, cause = envelope.header.instance, envelope.header.cause
        if envelope.topic == Output.topic and cause is not None:
            self.obeyed.append((cause.frame, instance))
        elif envelope.header.source == "decoding":
            self.alive.add(instance)
        return ()

    def hear_shadow(self, envelope: Envelope) -> None:
        self.shadow.add(envelope.header.instance)

    def tick(self) -> Iterable[Message]:
        """A swap's frame is counted from the last one that was obeyed."""
        last, out, self.next = self.obeyed[-1][0] if self.obeyed else -1, self.next, []
        at = [last + 1 + swap.from_frame for swap in out]
        self.said += at
        return [structs.replace(swap, from_frame=frame) for swap, frame in zip(out, at, strict=True)]


class Listener(Chief):
    """Recording's place: as the others, told by rig.swap alone."""

    publishes = ()


@pytest.fixture(params=["plain", "keys"])
def rig(request: pytest.FixtureRequest, free_ports: Callable[[int], list[int]], tmp_path: Path) -> RigFile:
    classes = {"task": f"{__name__}:Chief", "recording": f"{__name__}:Listener"}
    if request.param == "plain":
        return toy_rig(free_ports(24), str(tmp_path), classes=classes)
    make_keys(tmp_path / "keys", [*ROLES, OPERATOR])
    rig_file = toy_rig(free_ports(24), str(tmp_path), classes=classes, extra='[security]\nkeys = "keys"')
    return structs.replace(rig_file, path=tmp_path / "toy.toml")


@pytest.fixture
def threads(rig: RigFile) -> Iterator[Threads]:
    running = Threads(rig)
    yield running
    running.stop()


class Two:
    """Two decoders, and the exchange between them."""

    def __init__(self, rig: RigFile, threads: Threads, ports: list[int]) -> None:
        self.rig, self.threads, self.keys = rig, threads, load_keys(rig, OPERATOR)
        spec = rig.rig.services["decoding"]
        self.home = Endpoints(spec.publish, spec.bulk, spec.control)
        self.at = Endpoints(*(f"tcp://127.0.0.1:{port}" for port in ports))
        threads.start("imaging", "decoding", "task", "recording")
        threads.run("newcomer", Process("decoding", rig, "decoding-new", self.at))
        self.chief: Any = threads.processes["task"].service
        self.listener: Any = threads.processes["recording"].service
        self.old = threads.processes["decoding"].instance
        for name in ("decoding", "newcomer"):
            wait_for(lambda n=name: threads.processes[n]._heard.keys() >= {"imaging"} or self.warm())
        self.swap("shadow", self.home, self.at)
        for one in (self.chief, self.listener):
            wait_for(lambda o=one: "decoding-new" in o.shadow and self.old in o.alive)

    def warm(self) -> bool:
        """Frames are only heard once they are sent."""
        self.feed(1)
        return False

    def feed(self, n: int) -> None:
        endpoint = self.rig.rig.services["imaging"].control
        assert ask_answer(endpoint, control.Ask("feed", args={"frames": str(n)}), keys=self.keys).accepted

    def swap(self, stage: Any, acting: Endpoints, shadow: Endpoints | None, ahead: int = 0) -> int:
        """Returns the frame of the exchange, once all have heard of it."""
        said = self.chief.said = []
        self.chief.next = [Swap(service="decoding", stage=stage, acting=acting, shadow=shadow, from_frame=ahead)]
        for _ in range(ahead // 5):
            self.feed(5)
        buses = [self.threads.processes[name].bus for name in ("task", "recording")]
        wait_for(lambda: all(b.acting_at["decoding"] == acting for b in buses) and said)
        return int(said[0])

    def last(self, one: Any) -> int:
        return one.obeyed[-1][0] if one.obeyed else -1

    def quiet(self) -> None:
        """All that was sent has been taken."""
        feeder: Any = self.threads.processes["imaging"].service
        wait_for(lambda: self.last(self.chief) == self.last(self.listener) == feeder.next - 1)


@pytest.fixture
def two(rig: RigFile, threads: Threads, free_ports: Callable[[int], list[int]]) -> Two:
    return Two(rig, threads, free_ports(3))


def test_who_stands_by_is_heard_and_not_obeyed(two: Two) -> None:
    two.feed(50)
    two.quiet()
    for one in (two.chief, two.listener):
        assert {who for _, who in one.obeyed} == {two.old}
        assert "decoding-new" not in one.alive


def test_all_change_places_between_the_same_two_frames_there_and_back(two: Two) -> None:
    wait_for(lambda: (two.chief.obeyed and two.listener.obeyed) or two.warm())  # somebody decided before
    two.quiet()
    for lead in (0, 40):  # the word comes between two frames, or while they come
        for acting, shadow in ((two.at, two.home), (two.home, two.at)):
            at = two.swap("acting", acting, shadow, lead)
            for _ in range(20):
                two.feed(5)
            two.quiet()
            who = "decoding-new" if acting == two.at else two.old
            for one in (two.chief, two.listener):
                decided = dict(one.obeyed)
                assert {decided[k] for k in range(at, at + 50 - lead)} == {who}
                assert decided[at - 1] != who
    for one in (two.chief, two.listener):
        frames = [frame for frame, _ in one.obeyed]
        assert frames == list(range(frames[0], frames[0] + len(frames)))
    for name in ("task", "recording"):
        assert two.threads.processes[name].gaps == 0
        assert two.threads.processes[name].rejected == 0


def test_heartbeats_are_the_acting_ones_from_the_exchange_on(two: Two) -> None:
    two.swap("acting", two.at, two.home)
    wait_for(lambda: "decoding-new" in two.chief.alive and "decoding-new" in two.listener.alive)
    two.swap("none", two.at, None)
    wait_for(lambda: not two.threads.processes["recording"].bus.shadows)
    assert two.threads.processes["recording"].bus.acting_at["decoding"] == two.at


def test_who_joins_late_connects_to_whoever_acts(two: Two) -> None:
    two.swap("acting", two.at, two.home)
    wait_for(lambda: "decoding-new" in two.listener.alive)
    two.threads.processes["recording"].stop()
    two.threads.join("recording")
    two.threads.start("recording")
    late: Any = two.threads.processes["recording"].service
    wait_for(lambda: "decoding-new" in late.alive and two.old in late.shadow)
    with Monitor(two.rig.rig, keys=two.keys) as monitor:

        def hears_it() -> bool:
            return any(e.header.instance == "decoding-new" for e in monitor.wait(0.05))

        wait_for(hears_it)


def test_the_request_of_a_peer_goes_to_whoever_acts(two: Two) -> None:
    process = two.threads.processes["task"]
    two.swap("acting", two.at, two.home)
    wait_for(lambda: "decoding-new" in two.chief.alive)
    reply = process._ask_peer("decoding", control.Hello())
    assert isinstance(reply, control.HelloReply)
    assert reply.instance == "decoding-new"


@pytest.mark.parametrize("rig", ["plain"], indirect=True)
def test_a_swap_that_is_not_tasks_is_refused(
    rig: RigFile, threads: Threads, free_ports: Callable[[int], list[int]]
) -> None:
    threads.start("task", "recording")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    fake = context.socket(zmq.XPUB)
    fake.setsockopt(zmq.XPUB_VERBOSE, 1)
    fake.bind(rig.rig.services["stimulus"].publish)
    try:
        listening = 0
        while listening < 2:  # task and recording
            assert fake.poll(20_000)
            listening += fake.recv() == b"\x01rig.swap"
        spec = rig.rig.services["decoding"]
        there = Endpoints(spec.publish, spec.bulk, spec.control)
        swap = Swap(service="decoding", stage="acting", acting=structs.replace(there, publish="tcp://127.0.0.1:9"))
        fake.send_multipart(list(seal(swap, "stimulus", "fake", 0, 0).parts()))
        wait_for(lambda: threads.processes["recording"].rejected == 1)
        assert threads.processes["recording"].bus.acting_at["decoding"] == there
    finally:
        fake.close(linger=0)
        context.term()
