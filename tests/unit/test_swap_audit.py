"""The audit of a record in which two decoders changed places: of who stands by nothing is expected."""

from loop2p.protocol import Audit, Cause, Endpoints, Envelope, Heartbeat, Output, Swap, seal
from loop2p.recording.core import Auditor

OLD, NEW = (Endpoints(f"tcp://127.0.0.1:{p}", "b", "c") for p in (1, 2))


def output(instance: str, seq: int, frame: int) -> Envelope:
    cause = Cause(frame=frame, plane=0, time_s=0.0, arrival_ns=0)
    return seal(Output(cause=cause, d=0, value=0), "decoding", instance, seq, 0)


def beat(instance: str, seq: int, published: int, health: str = "ready") -> Envelope:
    counts = {Output.topic: published, Heartbeat.topic: seq}
    return seal(Heartbeat(health=health, published=counts), "decoding", instance, seq, 0)  # type: ignore[arg-type]


def swap(seq: int, acting: Endpoints, shadow: Endpoints | None, stage: str) -> Envelope:
    message = Swap(service="decoding", stage=stage, acting=acting, shadow=shadow)  # type: ignore[arg-type]
    return seal(message, "task", "task-1", seq, 0)


def audit(*lost: tuple[str, int]) -> Audit:
    """There at frame 10 and back at frame 20, of which some outputs are lost on the way to the journal."""
    told = [
        beat("old", 0, 0),
        swap(0, OLD, NEW, "shadow"),
        *(output("old", k, k) for k in range(8)),
        beat("old", 1, 8),
        swap(1, NEW, OLD, "acting"),
        beat("new", 50, 108),  # its answers to frames 8 and 9 count for nothing
        output("old", 8, 8),
        output("old", 9, 9),
        *(output("new", 100 + k, k) for k in range(10, 18)),
        beat("new", 51, 118),
        swap(2, OLD, NEW, "shadow"),
        beat("old", 40, 18),
        output("new", 118, 18),
        output("new", 119, 19),
        *(output("old", k, k) for k in range(20, 30)),
        swap(3, OLD, None, "none"),
        beat("old", 41, 30, "stopped"),
    ]
    auditor = Auditor()
    for k, envelope in enumerate(told):
        if (envelope.header.instance, envelope.header.seq) not in lost or envelope.topic != Output.topic:
            auditor.take(envelope, k)
    return auditor.audit()


def test_an_exchange_and_the_way_back_leave_the_record_complete() -> None:
    found = audit()
    assert found.complete, found.notes
    assert found.topics[Output.topic].written == 30
    assert not [note for note in found.notes if "missing" in note]


def test_what_is_lost_all_the_same_is_named() -> None:
    for lost in (("old", 3), ("new", 113), ("old", 25)):
        found = audit(lost)
        assert not found.complete, lost
        assert [note for note in found.notes if f"numbers {lost[1]}" in note]
