"""What an array in a message costs: a list of floats against little-endian bytes, measured in turns in one run."""

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from loop2p.protocol.arrays import f32, from_f32
from loop2p.protocol.messages import Message, Traces


class _ListTraces(Message, frozen=True, kw_only=True, tag="list"):
    """`Traces` as it would be with a list of floats."""

    plane: int
    f: list[float]


def bench_codec(sizes: tuple[int, ...] = (10, 500), repeats: int = 41, loops: int = 500) -> dict[str, Any]:
    """Nanoseconds to encode a float32 array within a message, and to decode it to one again.

    Per size: each form's encode, decode and total (min and p50 over `repeats` runs of `loops`), its bytes, and
    `ratio_min`, the list's total over that of bytes.
    """
    encode = msgspec.msgpack.Encoder().encode
    as_list, as_bytes = msgspec.msgpack.Decoder(_ListTraces).decode, msgspec.msgpack.Decoder(Traces).decode
    result: dict[str, Any] = {}
    for n in sizes:
        values: NDArray[np.float32] = np.random.default_rng(0).gamma(4, 50, n).astype(np.float32)

        def encode_list(v: NDArray[np.float32] = values) -> bytes:
            return encode(_ListTraces(plane=0, f=v.tolist()))

        def encode_bytes(v: NDArray[np.float32] = values) -> bytes:
            return encode(Traces(plane=0, f=f32(v)))

        list_data, bytes_data = encode_list(), encode_bytes()

        def decode_list(data: bytes = list_data) -> NDArray[np.float32]:
            return np.array(as_list(data).f, np.float32)

        def decode_bytes(data: bytes = bytes_data) -> NDArray[np.float32]:
            return from_f32(as_bytes(data).f)

        if not (np.array_equal(decode_list(), values) and np.array_equal(decode_bytes(), values)):
            raise ArithmeticError(f"{n} values did not come back as they were sent")
        runs = _in_turns([encode_list, decode_list, encode_bytes, decode_bytes], repeats, loops)
        forms = {
            "list": _summary(runs[0], runs[1], len(list_data)),
            "bytes": _summary(runs[2], runs[3], len(bytes_data)),
        }
        ratio = forms["list"]["total_ns"]["min"] / forms["bytes"]["total_ns"]["min"]
        result[str(n)] = {**forms, "ratio_min": ratio}
    return result | {"n": repeats, "loops": loops}


def _in_turns(calls: list[Callable[[], Any]], repeats: int, loops: int) -> NDArray[np.float64]:
    """ns a call, (n_calls, repeats)."""
    runs = np.zeros((len(calls), repeats))
    for k in range(repeats):
        for which, call in enumerate(calls):
            started = time.perf_counter_ns()
            for _ in range(loops):
                call()
            runs[which, k] = (time.perf_counter_ns() - started) / loops
    return runs


def _summary(encode: NDArray[np.float64], decode: NDArray[np.float64], n_bytes: int) -> dict[str, Any]:
    def spread(ns: NDArray[np.float64]) -> dict[str, float]:
        return {"min": float(ns.min()), "p50": float(np.median(ns))}

    return {
        "encode_ns": spread(encode),
        "decode_ns": spread(decode),
        "total_ns": spread(encode + decode),
        "message_bytes": n_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(bench_codec(), indent=1))
