"""The contrast finds an error signal that was put into dendrites, says whether it is a vector, and finds none in none.

The sessions come from a small closed loop of their own: Poisson somas of which P+ and P- turn the grating, so that own
events and rotation go together as on the rig, whatever the dendrites do.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loop2p.analysis.contrast import contrast
from loop2p.analysis.sessions import PlaneEvents, SessionData, SessionError

DT_S, LOOP_S, N = 1 / 15.46, 2400.0, 30
ROLE = np.array(["plus"] * 5 + ["minus"] * 5 + ["other"] * 20)
VECTOR, SCALAR = np.array([1.0] * 5 + [-1.0] * 5 + [0.0] * 20), np.ones(N)
MICE, DAYS = 6, 4


def loop(seed: list[int]) -> tuple[SessionData, np.ndarray]:
    """A session without dendrites, and (n_frames,) how the error fell: -1 to 1."""
    rng = np.random.default_rng(seed)
    n_frames = round(LOOP_S / DT_S)
    spikes = rng.random((n_frames, N)) < 0.07 * DT_S
    sizes = np.where(spikes, rng.lognormal(-0.46, 0.45, (n_frames, N)), 0)
    pull = sizes[:, :5].mean(axis=1) - sizes[:, 5:10].mean(axis=1)
    d = np.convolve(pull, np.exp(-np.arange(60) * DT_S / 0.45))[:n_frames]
    angle = np.clip(15 * np.floor(4 + d / 0.12), 0, 90)
    start_s, outcome, hit_s, shown_s, shown_deg = [], [], [], [], []
    delta, velocity, frame = np.zeros(n_frames), 0.0, 0
    while frame + 520 < n_frames:
        start_s.append(frame * DT_S)
        shown_s.append(frame * DT_S)
        shown_deg.append(np.nan)
        begin = frame + 8
        hits = np.flatnonzero(angle[begin : begin + 435] == 90)
        end = begin + (hits[0] if len(hits) else 435)
        last = np.nan
        for k in range(begin, end + len(hits[:1])):
            if angle[k] != last:
                shown_s.append(k * DT_S)
                shown_deg.append(angle[k])
            turned = 0.0 if np.isnan(last) else (angle[k] - last) / DT_S
            velocity += (turned - velocity) * DT_S / 0.5
            delta[k], last = np.tanh(velocity / 50), angle[k]
        outcome.append("hit" if len(hits) else "miss")
        hit_s.append(end * DT_S if len(hits) else np.nan)
        frame = end + (31 if len(hits) else 0)
        shown_s.append(frame * DT_S)
        shown_deg.append(np.nan)
        frame, velocity = frame + 30, 0.0
    at, roi = np.nonzero(spikes)
    session = SessionData(
        path=Path(f"{seed[0]}-{seed[1]}.nwb"), mouse=f"m{seed[0]}", day=seed[1], role=ROLE,
        start_s=np.array(start_s), outcome=np.array(outcome), hit_s=np.array(hit_s), reward_s=np.array(hit_s) + 1,
        phases=[("closed_loop", "", 0.0, LOOP_S)], shown_s=np.array(shown_s), shown_deg=np.array(shown_deg),
        lick_s=np.zeros(0), speed_cm_s=np.zeros(0),
        events={0: PlaneEvents(at * DT_S, roi, sizes[at, roi])},
    )  # fmt: skip
    return session, delta


@cache
def loops() -> list[tuple[SessionData, np.ndarray]]:
    return [loop([mouse, day]) for mouse in range(MICE) for day in range(1, DAYS + 1)]


def cohort(
    weight: np.ndarray, seed: int = 0, shift: float = 0.0, edit: Callable[[SessionData], SessionData] = lambda s: s
) -> list[SessionData]:
    """Dendrites = 0.21 + 0.7 soma + 0.21 (noise + shift + 1.6 weight x mean of delta over the next 0.8 s)."""
    rng = np.random.default_rng(seed)
    sessions = []
    for session, delta in loops():
        soma = session.events[0]
        ahead = np.convolve(np.append(delta, np.zeros(11)), np.ones(12) / 12, "valid")
        signal = 1.6 * weight[soma.roi] * ahead[np.round(soma.t_s / DT_S).astype(int)]
        size = 0.21 + 0.7 * soma.magnitude + 0.21 * (rng.standard_normal(len(signal)) + shift + signal)
        late_s = rng.normal(0, 0.08, len(signal))
        dendrite = PlaneEvents(soma.t_s + late_s, soma.roi, size)
        sessions.append(edit(structs.replace(session, events={0: soma, 1: dendrite})))
    return sessions


def detected(session: SessionData) -> SessionData:
    """As a detector finds them: a fifth is missed, sizes err by 10 %, times by 0.1 s, some were never there."""
    rng = np.random.default_rng([9, int(session.mouse[1:]), session.day])

    def blur(events: PlaneEvents) -> PlaneEvents:
        kept = rng.random(len(events.t_s)) < 0.8
        n = kept.sum()
        t_s = np.append(events.t_s[kept] + rng.normal(0, 0.1, n), rng.uniform(0, LOOP_S, n // 10))
        roi = np.append(events.roi[kept], rng.integers(0, N, n // 10))
        sizes = np.append(events.magnitude[kept] * rng.normal(1, 0.1, n), rng.lognormal(-0.8, 0.4, n // 10))
        order = np.argsort(t_s)
        return PlaneEvents(t_s[order], roi[order], sizes[order])

    return structs.replace(session, events={plane: blur(events) for plane, events in session.events.items()})


def flat(found) -> bool:
    """dd within three standard errors of 0, over mice."""
    dd = np.array(list(found.dd.values()))
    return bool(abs(dd.mean()) < 3 * dd.std(ddof=1) / np.sqrt(len(dd)))


def test_a_vector_is_found_with_its_signs_in_every_mouse():
    found = contrast(cohort(VECTOR))
    plus, minus, other = (found.by_mouse(role).mean(axis=0) for role in ("plus", "minus", "other"))
    assert plus[0] > minus[0]  # the error falls: P+ amplified
    assert plus[1] < minus[1]  # it grows: P-
    assert all(dd > 0 for dd in found.dd.values())
    assert found.p_dd() < 0.01
    assert max(found.p_neurons(epoch) for epoch in ("reduction", "increase")) < 0.01
    assert max(found.p_mice(epoch) for epoch in ("reduction", "increase")) < 0.05
    assert np.abs(other).max() < 0.1


def test_without_a_signal_nothing_tells_the_groups_apart():
    """On the true events, the null is flat: what an event does to the screen says nothing about its residual."""
    found = [contrast(cohort(0 * VECTOR, seed)) for seed in (1, 2, 3)]
    assert all(flat(f) for f in found)
    assert abs(np.mean([list(f.dd.values()) for f in found])) < 0.06
    assert min(f.p_neurons(epoch) for f in found for epoch in ("reduction", "increase")) > 0.01


def test_a_scalar_has_the_same_sign_in_both_groups_and_is_no_vector():
    found = contrast(cohort(SCALAR))
    for role in ("plus", "minus", "other"):
        reduction, increase = found.by_mouse(role).mean(axis=0)
        assert reduction > increase + 0.1
    assert flat(found)


def test_exchanged_roles_turn_the_contrast_round():
    exchange = {"plus": "minus", "minus": "plus", "other": "other"}
    found = contrast(cohort(VECTOR))
    turned = contrast(cohort(VECTOR, edit=lambda s: structs.replace(s, role=np.array([exchange[r] for r in s.role]))))
    assert list(turned.dd.values()) == pytest.approx([-dd for dd in found.dd.values()])


def test_a_shift_of_all_residuals_is_no_error_signal():
    """As the LED's: the line is drawn through the session's own events."""
    assert contrast(cohort(VECTOR, shift=-0.9)).dd == pytest.approx(contrast(cohort(VECTOR)).dd)


def test_detected_events_go_the_same_way_as_true_ones():
    true, found = contrast(cohort(VECTOR)), contrast(cohort(VECTOR, edit=detected))
    assert found.n_events.sum() < true.n_events.sum()
    mean, mean_true = np.mean(list(found.dd.values())), np.mean(list(true.dd.values()))
    assert 0.3 * mean_true < mean < 1.1 * mean_true
    assert found.p_dd() < 0.01


def blurred(plane: int) -> Callable[[SessionData], SessionData]:
    """Sizes of one plane err by 40 %."""

    def edit(session: SessionData) -> SessionData:
        rng = np.random.default_rng([11, int(session.mouse[1:]), session.day])
        e = session.events[plane]
        sizes = e.magnitude * rng.lognormal(-0.08, 0.4, len(e.t_s))
        return structs.replace(session, events={**session.events, plane: PlaneEvents(e.t_s, e.roi, sizes)})

    return edit


def test_errors_of_somatic_size_alone_look_like_a_small_vector_and_those_of_dendritic_size_do_not():
    """Why an arm is judged against its twin without signal, not against 0.

    Somatic noise flattens the lines, so a small event lies below its line and a large one above; and the large events
    of P+ make the error fall, those of P- make it grow.
    """
    somatic, dendritic = (
        np.mean([list(contrast(cohort(0 * VECTOR, seed, edit=blurred(plane))).dd.values()) for seed in (1, 2, 3)])
        for plane in (0, 1)
    )
    assert somatic > 0.1
    assert abs(dendritic) < 0.06


def test_events_outside_the_loop_neither_draw_the_line_nor_count():
    def with_baseline(session: SessionData) -> SessionData:
        """Before the loop the same events again, all twice as large in the dendrite."""
        events = {}
        for plane, e in session.events.items():
            sizes = np.append((1 + plane) * e.magnitude, e.magnitude)
            events[plane] = PlaneEvents(np.append(e.t_s - 2 * LOOP_S, e.t_s), np.tile(e.roi, 2), sizes)
        phases = [("baseline", "passive", -2 * LOOP_S, -LOOP_S), *session.phases]
        return structs.replace(session, events=events, phases=phases)

    one, other = contrast(cohort(VECTOR)), contrast(cohort(VECTOR, edit=with_baseline))
    assert np.allclose(one.residual, other.residual, equal_nan=True)
    assert np.array_equal(one.n_events, other.n_events)


def test_a_session_without_dendritic_events_is_refused_by_name():
    def proximal(session: SessionData) -> SessionData:
        return structs.replace(session, events={0: session.events[0]})

    with pytest.raises(SessionError, match=r"0-1\.nwb: no events/dendritic_events"):
        contrast(cohort(VECTOR, edit=proximal))
