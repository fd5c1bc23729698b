"""The measurement behind docs/decisions/0002-arrays.md."""

from loop2p.protocol.bench import bench_codec


def test_the_codec_benchmark_measures_both_forms_of_the_same_array() -> None:
    result = bench_codec(sizes=(3, 20), repeats=2, loops=2)
    for n in ("3", "20"):
        for form in ("list", "bytes"):
            for part in ("encode_ns", "decode_ns", "total_ns"):
                assert 0 < result[n][form][part]["min"] <= result[n][form][part]["p50"]
    grown = {
        form: result["20"][form]["message_bytes"] - result["3"][form]["message_bytes"] for form in ("list", "bytes")
    }
    assert grown["bytes"] == 17 * 4
    assert grown["list"] >= 17 * 9
