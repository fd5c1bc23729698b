"""The same payloads through this project's bus, ezmsg, Redis streams and LSL, in rounds that alternate."""

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from loop2p.cli.benchmarks.machine import quantiles
from loop2p.cli.benchmarks.rig import HEIGHT, WIDTH, free_ports
from loop2p.cli.benchmarks.transport import via_ezmsg, via_lsl, via_redis
from loop2p.cli.benchmarks.transport.ends import Ends

FRAME_BYTES, SMALL_BYTES = 2 * HEIGHT * WIDTH, 300
RIVALS = {"ezmsg": via_ezmsg, "redis": via_redis, "lsl": via_lsl}
PACKAGES = {"ezmsg": "ezmsg", "redis": "redis", "lsl": "pylsl"}


def absent(rival: str) -> str:
    """Why a rival can't be measured here; "" if it can."""
    if importlib.util.find_spec(PACKAGES[rival]) is None:
        return f"{PACKAGES[rival]} is not installed (pip install 'loop2p[bench]')"
    return str(RIVALS[rival].missing())


def bench_rivals(n_bytes: int, rate_hz: float, n: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """One sender and one receiver each, all started before the first round; us. Those absent are named in `absent`.

    `ratio_p50`: ours over a rival's, a round each.
    """
    missing = {rival: why for rival in RIVALS if (why := absent(rival))}
    for rival, why in missing.items():
        say(f"{rival} is left out: {why}")
    with ExitStack() as stack:
        ends = {"ours": stack.enter_context(Ends("ours", " ".join(map(str, free_ports(6))), n_bytes))}
        for rival in (one for one in RIVALS if one not in missing):
            place = stack.enter_context(RIVALS[rival].server())
            where = f"{place} {n_bytes // 2}" if rival == "lsl" else place
            ends[rival] = stack.enter_context(Ends(RIVALS[rival].__name__.rpartition(".")[2], where, n_bytes))
        took: dict[str, list[list[float]]] = {name: [] for name in ends}
        lost = dict.fromkeys(ends, 0)
        for k in range(rounds):
            say(f"round {k + 1} of {rounds}: {n} times {n_bytes} B at {rate_hz:g} Hz by {', '.join(ends)} ...")
            for name in list(ends) if k % 2 == 0 else list(ends)[::-1]:
                (heard,) = ends[name].measure(n, rate_hz)
                took[name].append([ns / 1e3 for ns in heard.took_ns])
                lost[name] += heard.lost
    p50 = {name: [quantiles(one)["p50"] for one in each] for name, each in took.items()}
    return {
        "took_us": {name: quantiles([x for one in each for x in one]) for name, each in took.items()},
        "rounds_p50_us": p50,
        "ratio_p50": {
            rival: [a / b for a, b in zip(p50["ours"], p50[rival], strict=True)] for rival in p50 if rival != "ours"
        },
        "lost": lost,
        "absent": missing,
        "bytes": n_bytes,
        "rate_hz": rate_hz,
    }
