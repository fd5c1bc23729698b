"""From a session's fluorescence to its events, by what a microscope sees alone (docs/experiment.md 3.2-3.6)."""

from pathlib import Path

from msgspec import structs

from loop2p.analysis.detect import find_events
from loop2p.analysis.fluorescence import dff
from loop2p.analysis.pairs import Pairs, in_proximal_rows, pair
from loop2p.analysis.sessions import SessionData, read_fluorescence, read_session
from loop2p.analysis.spikes import Inference, Oasis


def read_detected(path: Path, inference: Inference | None = None) -> tuple[SessionData, Pairs]:
    """A session with the events that its fluorescence shows, in place of any that its file holds, and the pairs.

    Events of both planes carry the row of the proximal ROI; distal ones whose ROI has no partner are left out, and
    somatic ones stay all. `inference` defaults to Oasis(). Raises SessionError without fluorescence, OSError.
    """
    infer = (inference or Oasis()).infer
    planes = read_fluorescence(path)
    traces = [dff(planes[k].f, planes[k].rate_hz) for k in (0, 1)]
    rates = [infer(traces[k], planes[k].rate_hz) for k in (0, 1)]
    soma, dendrite = (find_events(rates[k], planes[k].rate_hz, planes[k].start_s) for k in (0, 1))
    pairs = pair(traces[0], traces[1], planes[0].rate_hz)
    events = {0: soma, 1: in_proximal_rows(dendrite, pairs)}
    return structs.replace(read_session(path), events=events), pairs
