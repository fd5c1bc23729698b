"""Bins of closed loop by the sign of their rotation, on sessions drawn by hand."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loop2p.analysis.epochs import Epochs, angle_deg, error_epochs, mean_angle_deg, passive_epochs
from loop2p.analysis.sessions import SessionData

GREY = BLACK = None


def session(trials, pictures) -> SessionData:
    """trials: (start, outcome, hit time); pictures: (time, angle or None)."""
    start_s, outcome, hit_s = (list(column) for column in zip(*trials, strict=True))
    hit_s = np.array([np.nan if h is None else h for h in hit_s])
    at, angle = (list(column) for column in zip(*pictures, strict=True))
    none = np.zeros(0)
    return SessionData(
        path=Path("x.nwb"), mouse="m", day=1, role=np.array(["plus"]), start_s=np.array(start_s, float),
        outcome=np.array(outcome), hit_s=hit_s, reward_s=hit_s + 1, phases=[("closed_loop", "", 0.0, 1000.0)],
        shown_s=np.array(at, float), shown_deg=np.array([np.nan if a is None else a for a in angle], float),
        lick_s=none, speed_cm_s=none, events={},
    )  # fmt: skip


def at(epochs, *times) -> list[int]:
    return epochs.at(np.array(times, float)).tolist()


HIT = session(
    [(10.0, "hit", 16.5)],
    [(0, 45), (10, GREY), (10.5, 60), (11, 75), (13, 45), (16.5, 90), (18.5, BLACK)],
)
"""In loop time: 60 at 0, 75 at 0.5, 45 at 2.5, target at 6."""


def test_bins_begin_with_the_first_grating_and_end_at_the_target():
    found = error_epochs(HIT)
    assert (found.start_s.tolist(), found.stop_s.tolist()) == ([10.5], [16.5])
    assert found.rotation_deg.tolist() == [15, -30, 45]
    assert found.sign.tolist() == [1, -1, 1]
    assert at(found, 10.5, 12.4, 12.6, 14.4, 14.6, 16.4) == [1, 1, -1, -1, 1, 1]


def test_grey_freeze_black_and_passive_gratings_are_in_no_bin():
    assert at(error_epochs(HIT), 5, 10.2, 16.6, 18.4, 19, 500) == [0] * 6


def test_the_turn_onto_the_target_counts_and_the_freeze_does_not_though_its_flip_rounds_before_the_hit():
    pictures = [(0, GREY), (0.5, 60), (2.3 - 1e-9, 90), (4.3, BLACK), (5.3, GREY), (5.8, 60), (9, BLACK)]
    found = error_epochs(session([(0.0, "hit", 2.3), (5.3, "miss", None)], pictures))
    assert found.stop_s.tolist() == pytest.approx([2.3, 9])
    assert found.sign.tolist() == [1, 0]


def test_a_hit_on_the_first_picture_has_no_loop_before_it_and_its_freeze_is_none():
    pictures = [(0, GREY), (0.5, 90), (2.5, BLACK), (3.5, GREY), (4, 60), (6, 75), (9, BLACK)]
    found = error_epochs(session([(0.0, "hit", 0.5), (3.5, "miss", None)], pictures))
    assert (found.start_s.tolist(), found.stop_s.tolist()) == ([0.5, 4.0], [0.5, 9.0])
    assert found.rotation_deg.tolist() == [15, 0]
    assert at(found, 0.4, 0.6, 2.4, 4.1, 7) == [0, 0, 0, 1, 0]


def test_a_miss_ends_with_the_blank():
    found = error_epochs(session([(0.0, "miss", None)], [(0, GREY), (0.5, 60), (1, 30), (28.5, BLACK)]))
    assert found.stop_s.tolist() == [28.5]
    assert found.sign.tolist() == [-1] + [0] * 13
    assert at(found, 28.4, 28.6, 30) == [0, 0, 0]


def test_a_bin_reaches_over_trials_and_the_jump_between_them_is_no_rotation():
    """1.5 s of a trial that falls by 15 and ends at 90, half a second of the next one, which begins at 0."""
    two = session(
        [(0.0, "miss", None), (5.0, "miss", None)],
        [(0, GREY), (0.5, 90), (1, 75), (2, BLACK), (5, GREY), (5.5, 0), (5.9, 45), (9.5, BLACK)],
    )
    found = error_epochs(two)
    assert found.sign.tolist() == [1, 0]  # -15 + 45; had the jump of -75 counted, -1
    assert at(found, 0.6, 5.6, 5.95, 6.1, 9.4) == [1, 1, 1, 0, 0]
    assert at(found, 3, 5.2) == [0, 0]


def test_the_last_piece_that_fills_no_bin_is_left_out():
    found = error_epochs(session([(0.0, "hit", 4.0)], [(0, GREY), (0.5, 30), (3, 45), (4, 90), (6, BLACK)]))
    assert found.sign.tolist() == [0]
    assert at(found, 3.5) == [0]


def test_void_and_unfinished_trials_are_left_out():
    pictures = [(0, GREY), (0.5, 30), (1, 45), (4.5, BLACK), (6, GREY), (6.5, 45), (7, 30), (10.5, BLACK)]
    both = session([(0.0, "miss", None), (6.0, "void", None)], pictures)
    assert error_epochs(both).sign.tolist() == [1, 0]
    assert error_epochs(session([(0.0, "unfinished", None)], pictures[:3])).sign.tolist() == []
    assert at(error_epochs(session([(0.0, "void", None)], pictures[:4])), 1, 2) == [0, 0]


def test_stretches_are_put_end_to_end():
    two = Epochs(np.array([10.0, 20.0]), np.array([13.0, 25.5]), np.zeros(4))  # 8.5 s
    times = np.array([9.9, 10.0, 12.9, 13.0, 19.0, 20.0, 21.0, 24.9, 25.1, 30.0])
    assert two.bins(times).tolist() == [-1, 0, 1, -1, -1, 1, 2, 3, -1, -1]
    assert two.session_s(np.array([0.0, 2.9, 3.0, 8.0])).tolist() == pytest.approx([10.0, 12.9, 20.0, 25.0])
    none = np.zeros(0)
    assert Epochs(none, none, none).bins(np.array([1.0])).tolist() == [-1]


@pytest.mark.parametrize("rounding_s", [-1e-4, 0.0, 1e-4])
def test_at_the_edge_of_a_bin_a_turn_ends_the_bin_and_an_event_begins_the_next_however_times_are_rounded(rounding_s):
    pictures = [(0, GREY), (0.5, 60), (2.5 + rounding_s, 75), (6.5, BLACK)]
    found = error_epochs(session([(0.0, "miss", None)], pictures))
    assert found.rotation_deg.tolist() == [15, 0, 0]
    assert found.bins(np.array([2.5 + rounding_s])).tolist() == [1]


def test_passive_pictures_are_stretches_of_their_own_and_none_turns():
    one = session([(0.0, "miss", None)], [(0, 30), (1.5, 90), (2, 15), (4, BLACK), (6, 60), (7, 75), (9, BLACK)])
    one.phases[:] = [("baseline", "passive", 0.0, 8.0), ("closed_loop", "", 8.0, 20.0)]
    found = passive_epochs(one)
    assert found.start_s.tolist() == [0, 1.5, 2, 6, 7]
    assert found.stop_s.tolist() == [1.5, 2, 4, 7, 8]
    assert found.rotation_deg.tolist() == [0, 0, 0]
    assert mean_angle_deg(one, found).tolist() == [45, 15, 67.5]


def test_the_angle_is_that_of_the_last_grating_and_blanks_do_not_change_it():
    assert np.isnan(angle_deg(HIT, np.array([-1.0]))).all()
    assert angle_deg(HIT, np.array([0.0, 10.2, 10.5, 19.0])).tolist() == [45, 45, 60, 90]


def test_a_yoked_loop_has_the_epochs_of_the_session_whose_pictures_it_shows():
    pictures = [(-9, 30), (-5, GREY), (0, GREY), (0.5, 60), (2.3, 90), (4.3, BLACK)]
    pictures += [(5.3, GREY), (5.8, 60), (7, 30), (9, BLACK)]
    own = session([(0.0, "hit", 2.3), (5.3, "miss", None)], pictures)
    none = np.zeros(0)
    yoked = structs.replace(own, start_s=none, outcome=none.astype(str), hit_s=none, reward_s=none)
    found, expected = error_epochs(yoked), error_epochs(own)
    assert found.start_s.tolist() == expected.start_s.tolist()
    assert found.stop_s.tolist() == expected.stop_s.tolist()
    assert found.rotation_deg.tolist() == expected.rotation_deg.tolist()
    assert found.n_bins == 2
