"""The floor of the latency benchmark: bare ZeroMQ, measured on real sockets between real processes."""

from loop2p.cli.benchmarks.bare import bench_bare


def test_each_message_comes_through_every_hop() -> None:
    found = bench_bare(rate_hz=200.0, n=20)
    assert found["n"] == 20
    assert 0 < found["p50"] <= found["p99"] <= found["max"]
