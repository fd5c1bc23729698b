"""A residual without what the same neuron's events shortly before and after make of it.

A dendritic event is longer than a somatic one, so two that follow each other run into each other in the distal plane
before they do in the proximal one: the residual is then too large. And they follow each other while the screen goes
where the neuron drives it, so this alone looks like an error signal. What a neighbour at each distance does is seen in
P0, which drive nothing: it is measured there, in each session, and taken off all. Ours; the paper does not say that it
looked for it.
"""

import numpy as np
from numpy.typing import NDArray

from loop2p.analysis.columns import where
from loop2p.analysis.residuals import Coincident, loop_residuals
from loop2p.analysis.sessions import PlaneEvents, SessionData
from loop2p.analysis.statistics import Floats

EDGES_S = np.array([0.3, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0])
"""Classes of distance; a neighbour farther than the last is none. Measured on simulated twins without apical signal, 24
mice x 14 days: dd, which should be 0, is +.104 of all events, +.010 with this, +.017 with classes of 0.5 s up to 2 s,
+.027 with the events before alone."""
SAME_S = 1e-6
"""Times this close are one event: that of a dendrite is kept as its distance from the soma's."""
LEAST_OTHER = 200
"""A session with fewer events of P0 is left out: its 36 effects would be noise."""


def residuals_less_neighbours(session: SessionData) -> tuple[Coincident, Floats]:
    """`loop_residuals`, less the effects of the events before and after in both planes: what each residual would be
    with no other event of its neuron within 5 s.

    No events where P0 have fewer than LEAST_OTHER. Raises SessionError as `coincident_of`.
    """
    events, z = loop_residuals(session)
    other = session.role[events.roi] == "other"
    if other.sum() < LEAST_OTHER:
        return where(events, np.zeros(len(z), bool)), z[:0]
    times_s = (events.t_s, events.t_s + events.latency_s)
    near = np.hstack([_near(session.events[plane], events, t_s) for plane, t_s in enumerate(times_s)])
    terms = np.column_stack([near, np.ones(len(z))])
    effects, *_ = np.linalg.lstsq(terms[other], z[other])  # of a class without events: 0
    return events, z - near @ effects[:-1]


def _near(plane: PlaneEvents, events: Coincident, t_s: Floats) -> Floats:
    """(n_events, 2 len(EDGES_S)) 1 in the class of the last event before, and of the next, of its neuron in a plane.

    t_s: (n_events,) of the event itself in that plane.
    """
    before_s, after_s = _gaps_s(plane, events.roi, t_s)
    classes = np.eye(len(EDGES_S) + 1)[:, :-1]
    return np.hstack([classes[np.digitize(gap_s, EDGES_S)] for gap_s in (before_s, after_s)])


def _gaps_s(plane: PlaneEvents, roi: NDArray[np.int64], t_s: Floats) -> tuple[Floats, Floats]:
    """(n,), (n,) since the last event of that neuron in the plane, and until the next; large where there is none."""
    # All neurons on one line, each in a stretch of its own, so that no neuron is near another.
    first, last = plane.t_s.min(), plane.t_s.max()
    stretch_s = last - first + 4 * EDGES_S[-1]
    places = np.concatenate([[-np.inf], np.sort(plane.roi * stretch_s + plane.t_s - first), [np.inf]])
    at = roi * stretch_s + t_s - first
    before = places[np.searchsorted(places, at - SAME_S) - 1]
    after = places[np.searchsorted(places, at + SAME_S, "right")]
    return at - before, after - at
