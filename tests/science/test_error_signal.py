"""The contrast finds an error signal that was put into dendrites, says whether it is a vector, and finds none in none.

The sessions are those of `toy_loop`.
"""

from collections.abc import Callable

import numpy as np
import pytest
from msgspec import structs
from toy_loop import NONE, SCALAR, VECTOR, N, cohort

from loop2p.analysis.contrast import EPOCHS, Contrast, contrast
from loop2p.analysis.neighbours import residuals_less_neighbours
from loop2p.analysis.sessions import PlaneEvents, SessionData, SessionError

LOOP_S = 2400.0


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
    for epoch, sign in EPOCHS.items():
        neurons, mice, mixed = found.tests(epoch)
        assert [np.sign(test.estimate) for test in (neurons, mice, mixed)] == [sign] * 3
        assert neurons.p < 0.01
        assert max(mice.p, mixed.p) < 0.05
    plus_change, minus_change, dd = found.mouse_tests()
    assert plus_change.estimate > 0 > minus_change.estimate
    assert dd.estimate == pytest.approx(np.mean(list(found.dd.values())))
    assert np.abs(other).max() < 0.1


def test_without_a_signal_nothing_tells_the_groups_apart():
    """On the true events, the null is flat: what an event does to the screen says nothing about its residual."""
    found = [contrast(cohort(NONE, seed)) for seed in (1, 2, 3)]
    assert all(flat(f) for f in found)
    assert abs(np.mean([list(f.dd.values()) for f in found])) < 0.06
    assert min(f.tests(epoch)[0].p for f in found for epoch in EPOCHS) > 0.01


def fused(session: SessionData) -> SessionData:
    """As the distal plane has it: an event that follows another of its neuron within 1.2 s becomes one with it."""
    soma, trunk = session.events[0], session.events[1]
    order = np.lexsort((soma.t_s, soma.roi))
    follows = (np.diff(soma.t_s[order]) < 1.2) & (np.diff(soma.roi[order]) == 0)
    first = np.append(True, ~follows)
    sizes = np.add.reduceat(trunk.magnitude[order], np.flatnonzero(first))
    kept = order[first]
    return structs.replace(session, events={0: soma, 1: PlaneEvents(trunk.t_s[kept], trunk.roi[kept], sizes)})


def test_events_that_run_into_each_other_look_like_a_vector_until_that_is_taken_off():
    """A null whose contrast would pass for the paper's; less what P0 show of it, it is flat, and a vector stays."""
    null, vector = cohort(NONE, 1, edit=fused), cohort(VECTOR, 1, edit=fused)
    all_of_null = contrast(null)
    assert np.mean(list(all_of_null.dd.values())) > 0.1
    assert all_of_null.p_dd() < 0.01
    assert flat(contrast(null, residuals_less_neighbours))
    left = contrast(vector, residuals_less_neighbours)
    assert all(dd > 0 for dd in left.dd.values())
    assert left.p_dd() < 0.01


def test_what_is_taken_off_takes_nothing_of_a_vector():
    """No event runs into another here, so there is nothing to take off but noise."""
    sessions = cohort(VECTOR)
    whole, left = contrast(sessions), contrast(sessions, residuals_less_neighbours)
    assert left.precise_dd.mean() == pytest.approx(whole.precise_dd.mean(), rel=0.1)
    assert np.array_equal(left.n_events, whole.n_events)


def test_a_scalar_has_the_same_sign_in_both_groups_and_is_no_vector():
    found = contrast(cohort(SCALAR))
    for role in ("plus", "minus", "other"):
        reduction, increase = found.by_mouse(role).mean(axis=0)
        assert reduction > increase + 0.1
    assert flat(found)


def test_a_precise_change_counts_neurons_by_their_events_and_is_right_on_average():
    """Two neurons of a mouse: 4 and 4 events weigh 2, 12 and 3 weigh 2.4."""
    found = Contrast(
        mouse=np.array(["a", "a", "a", "b"]),
        day=np.ones(4, np.int64),
        roi=np.arange(4),
        role=np.array(["plus", "plus", "minus", "plus"]),
        residual=np.array([[0.5, 0.1], [0.2, 0.5], [0.9, 0.1], [0.3, np.nan]]),
        n_events=np.array([[4, 4], [12, 3], [5, 5], [7, 0]]),
    )
    change = found.precise_change_by_mouse("plus")
    assert change[0] == pytest.approx((2.0 * 0.4 - 2.4 * 0.3) / 4.4)
    assert np.isnan(change[1])
    mice = contrast(cohort(0.5 * VECTOR))
    plain = np.array(list(mice.dd.values()))
    assert mice.precise_dd.mean() == pytest.approx(plain.mean(), abs=2 * plain.std(ddof=1) / np.sqrt(len(plain)))


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
    of P+ make the error fall, those of P- make it grow. Measured on eight seeds: +.17 +- .01, and of dendritic noise
    -.05 +- .01, which is the other way and less than a third.
    """
    somatic, dendritic = (
        np.mean([list(contrast(cohort(NONE, seed, edit=blurred(plane))).dd.values()) for seed in (1, 2, 3)])
        for plane in (0, 1)
    )
    assert somatic > 0.1
    assert dendritic < 0.03
    assert abs(dendritic) < somatic / 2


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
