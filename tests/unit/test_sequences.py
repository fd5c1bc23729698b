"""Sequence numbers: gaps, repeats, and a memory that a flood can't fill."""

from loop2p.protocol import PROTOCOL, Header
from loop2p.runtime.sequence import INSTANCES, Sequences


def header(seq: int, instance: str = "a", resent: bool = False) -> Header:
    return Header(PROTOCOL, "imaging", instance, seq, 0, resent=resent)


def test_gaps_are_counted_and_repeats_refused_for_each_instance():
    seen = Sequences()
    assert seen.check("t", header(5)) == 0
    assert seen.check("t", header(8)) == 2
    assert seen.check("t", header(8)) is None
    assert seen.check("t", header(0, "b")) == 0
    assert seen.check("t", header(7)) is None
    assert seen.check("u", header(7)) == 0


def test_only_the_newest_instances_are_remembered():
    seen = Sequences()
    for k in range(10 * INSTANCES):
        assert seen.check("t", header(3, f"made-up-{k}")) == 0
    assert sum(map(len, seen._last.values())) == INSTANCES
    assert seen.check("t", header(3, f"made-up-{10 * INSTANCES - 1}")) is None
