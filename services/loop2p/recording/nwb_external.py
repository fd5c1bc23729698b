"""Streams of other programs in the NWB file: numbers as series, texts as events, what is missing as intervals."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pynwb import NWBFile, TimeSeries

from loop2p.protocol import Envelope, External, from_f64, from_i64
from loop2p.recording.nwb_parts import add_events, intervals, packed, plain
from loop2p.recording.run import Run


class Gap(NamedTuple):
    """A stretch of a stream without samples; times on the rig clock."""

    stream: str
    start_ns: int
    stop_ns: int
    reason: str
    lost: int


def add_external(nwb: NWBFile, run: Run) -> None:
    """A series for each stream (and for each change of its channels), and the table `external_gaps`."""
    kept: dict[tuple[str, tuple[str, ...], bool], list[External]] = {}
    for _, message in _once(run):
        if message.t_ns:
            kept.setdefault((message.stream, tuple(message.channels), bool(message.texts)), []).append(message)
    names: set[str] = set(nwb.acquisition)
    for (stream, channels, is_text), messages in kept.items():
        _add_series(
            nwb, run, _free(f"external_{re.sub(r'[^A-Za-z0-9_-]', '_', stream)}", names), channels, is_text, messages
        )
    _add_gaps(nwb, run)


def gaps(run: Run) -> list[Gap]:
    """Where samples of a stream are missing, by what the stream's own messages say."""
    found: list[Gap] = []
    last_ns: dict[str, int] = {}
    open_gaps: dict[str, External] = {}
    sent_ns: dict[str, int] = {}
    for record, message in _once(run):
        stream = message.stream
        if message.gap and stream not in open_gaps:
            open_gaps[stream], sent_ns[stream] = message, record.header.sent_ns
        if not message.t_ns:
            continue
        t_ns = from_i64(message.t_ns)
        if stream in open_gaps:
            begun = open_gaps.pop(stream)
            start_ns = last_ns.get(stream, sent_ns[stream])
            stop_ns = max(start_ns, int(t_ns.min()))
            found.append(Gap(stream, start_ns, stop_ns, begun.gap, message.lost))
        last_ns[stream] = int(t_ns.max())
    for stream, begun in open_gaps.items():
        start_ns = last_ns.get(stream, sent_ns[stream])
        found.append(Gap(stream, start_ns, max(start_ns, run.end_ns), begun.gap, begun.lost))
    return found


def _once(run: Run) -> Iterator[tuple[Envelope, External]]:
    """All messages, but for those that were handed in again to a recorder that had started anew."""
    before: dict[str, External] = {}
    for record, message in run.with_headers(External):
        if message != before.get(message.stream):
            yield record, message
        before[message.stream] = message


def _add_series(
    nwb: NWBFile, run: Run, name: str, channels: tuple[str, ...], is_text: bool, messages: list[External]
) -> None:
    t_ns = np.concatenate([from_i64(m.t_ns) for m in messages])
    order = np.argsort(t_ns, kind="stable")
    times = run.frame_time(t_ns)[order]
    keep = times >= 0  # what came before the first frame is left to the journal
    if not keep.any():
        return
    first = messages[0]
    about = f"Stream {first.stream} of another program, recorded beside the rig. Source: {first.source or 'not said'}."
    rate = f"{first.rate_hz:g} Hz as the stream says" if first.rate_hz else "irregular"
    bound_ms = max(m.bound_ns for m in messages) / 1e6
    units = first.units or [""] * len(channels)
    comments = (
        f"rate: {rate}; clocks were compared to within {bound_ms:.3f} ms at worst; "
        f"channels: {', '.join(f'{c} [{u}]' if u else c for c, u in zip(channels, units, strict=True))}"
    )
    if is_text:
        texts = [t for m in messages for t in _rows(m.texts, len(channels))]
        told = ("what the stream said", [plain(texts[k]) for k in order[keep]])
        add_events(nwb, name, plain(f"{about} {comments}"), times[keep], {"annotation": told})
        return
    values: NDArray[np.float64] = np.concatenate([from_f64(m.values).reshape(-1, len(channels)) for m in messages])
    values = values[order][keep]
    unit = units[0] if units[0] and len(set(units)) == 1 else "unknown" if not any(units) else "see comments"
    data = values[:, 0] if len(channels) == 1 else values
    nwb.add_acquisition(
        TimeSeries(
            name=name,
            description=plain(about),
            comments=plain(comments),
            data=packed(data),
            unit=plain(unit),
            timestamps=packed(times[keep]),
        )
    )


def _rows(texts: list[str], n_channels: int) -> list[str]:
    """A text a sample; of several channels a JSON list."""
    if n_channels == 1:
        return texts
    return [json.dumps(texts[k : k + n_channels], ensure_ascii=False) for k in range(0, len(texts), n_channels)]


def _add_gaps(nwb: NWBFile, run: Run) -> None:
    found = gaps(run)
    if not found:
        return
    columns = {
        "stream": ("which stream", [g.stream for g in found]),
        "reason": ("why samples are missing", [plain(g.reason) for g in found]),
        "lost": ("samples known to be lost", [g.lost for g in found]),
    }
    start, stop = (
        np.maximum(run.frame_time(at), 0.0) for at in zip(*((g.start_ns, g.stop_ns) for g in found), strict=True)
    )
    about = "Stretches in which a stream of another program was not there, or lost samples."
    nwb.add_time_intervals(intervals("external_gaps", about, start, stop, columns))


def _free(name: str, names: set[str]) -> str:
    """This name, or with the lowest number from 2 that makes it new."""
    k, new = 1, name
    while new in names:
        k += 1
        new = f"{name}_{k}"
    names.add(new)
    return new
