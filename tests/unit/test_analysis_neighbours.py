"""What events nearby make of a residual is found in P0 and taken off all; seeds are fixed."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loop2p.analysis.neighbours import EDGES_S, residuals_less_neighbours
from loop2p.analysis.residuals import loop_residuals
from loop2p.analysis.sessions import PlaneEvents, SessionData

ROLE = np.array(["plus", "minus", *["other"] * 10])
LOOP_S = 4000.0


def session(effect: np.ndarray, n_each: int = 600, role: np.ndarray = ROLE, late_s: float = 0.1) -> SessionData:
    """Neurons whose dendritic events gain `effect` (len(EDGES_S),) by how long ago the last of them was."""
    rng = np.random.default_rng(5)
    roi = np.repeat(np.arange(len(role)), n_each)
    gaps_s = 0.6 + rng.exponential(LOOP_S / n_each - 0.7, (len(role), n_each))  # so that no two are coincident
    gaps_s[:, 0] = 100.0
    t_s = np.cumsum(gaps_s, axis=1)
    soma = rng.lognormal(-0.46, 0.45, t_s.shape)
    dendrite = 2 + 0.7 * soma + rng.normal(0, 0.1, t_s.shape) + np.append(effect, 0.0)[np.digitize(gaps_s, EDGES_S)]
    none = np.zeros(0)
    events = {
        plane: PlaneEvents((t_s + plane * late_s).ravel(), roi, sizes.ravel())
        for plane, sizes in enumerate((soma, dendrite))
    }
    return SessionData(
        path=Path("x.nwb"), mouse="m", day=1, role=role, start_s=none, outcome=none.astype(str), hit_s=none,
        reward_s=none, phases=[("closed_loop", "", 0.0, 2 * LOOP_S)], shown_s=none, shown_deg=none, lick_s=none,
        speed_cm_s=none, events=events,
    )  # fmt: skip


def after_another(found: SessionData, within_s: float) -> np.ndarray:
    """(n_events,) of `loop_residuals`: an event of the neuron came so shortly before."""
    events, _ = loop_residuals(found)
    return (np.diff(events.t_s, prepend=np.inf) < within_s) & (np.diff(events.roi, prepend=-1) == 0)


def test_an_effect_of_the_event_before_is_taken_off_p_plus_and_p_minus_too():
    effect = np.where(EDGES_S <= 2.0, 0.3, 0.0)
    found = session(effect)
    events, z = loop_residuals(found)
    same, left = residuals_less_neighbours(found)
    own = ROLE[events.roi] != "other"
    near, far = own & after_another(found, 2.0), own & ~after_another(found, 5.0)
    assert np.array_equal(same.t_s, events.t_s)
    assert z[near].mean() - z[far].mean() > 1.0
    assert abs(left[near].mean() - left[far].mean()) < 0.2


def test_what_p_plus_alone_do_after_an_event_stays():
    """P0 show no effect, so it is not made by how events are seen."""
    found = session(np.zeros(len(EDGES_S)))
    dendrite = found.events[1]
    follows = (np.diff(dendrite.t_s, prepend=np.inf) < 2.0) & (dendrite.roi == 0)
    raised = PlaneEvents(dendrite.t_s, dendrite.roi, dendrite.magnitude + 0.3 * follows)
    found = structs.replace(found, events=found.events | {1: raised})
    events, z = loop_residuals(found)
    _, left = residuals_less_neighbours(found)
    plus = after_another(found, 2.0) & (events.roi == 0)
    assert plus.sum() > 100
    assert z[plus].mean() > 0.8
    assert left[plus].mean() == pytest.approx(z[plus].mean(), abs=0.2)


def test_residuals_without_neighbours_stay_as_they_are():
    found = session(np.full(len(EDGES_S), 0.3))
    _, z = loop_residuals(found)
    _, left = residuals_less_neighbours(found)
    alone = ~after_another(found, 5.3) & ~np.append(after_another(found, 5.3)[1:], False)
    assert alone.sum() > 100
    assert left[alone] == pytest.approx(z[alone])


def test_a_session_with_few_events_of_p0_tells_nothing():
    few = session(np.zeros(len(EDGES_S)), n_each=60, role=np.array(["plus", "minus", "other", "other", "other"]))
    events, z = residuals_less_neighbours(few)
    assert len(events.t_s) == len(z) == 0
    assert len(residuals_less_neighbours(session(np.zeros(len(EDGES_S)), n_each=60))[1]) == 720
