"""The mouse that learns: what reaches it, what it shows, what it keeps overnight."""

import numpy as np
import pytest

from loop2p.protocol import DISTAL, PROXIMAL
from loop2p.simulation.arms import NDNF_LIT
from loop2p.simulation.cortex import Physiology
from loop2p.simulation.mouse import REACTION_FRAMES, LearningMouse, Mouse

RATE_HZ = 15.46


def mouse(seed: int = 1, n_cells: int = 60, **more) -> LearningMouse:
    return LearningMouse(seed, n_cells, **more)


def live(one: Mouse, n: int, first: int = 0) -> np.ndarray:
    """(n, n_cells): n proximal frames."""
    return np.stack([one.step(frame, PROXIMAL) for frame in range(first, first + 2 * n, 2)])


def trial(one: LearningMouse, k: int) -> None:
    """Pictures of a trial: grey, then gratings that turn to the target and back."""
    step = k % 80
    if step == 0:
        one.see(2 * k, "grey", None)
    elif step % 4 == 0:
        one.see(2 * k, "grating", 15.0 * (3 + round(3 * np.sin(step / 6))))


def test_the_same_seed_gives_the_same_mouse_and_another_seed_another():
    assert np.array_equal(live(mouse(), 600), live(mouse(), 600))
    assert not np.array_equal(live(mouse(), 600), live(mouse(seed=2), 600))


def test_what_it_sees_acts_four_frames_after_its_cause_and_not_before():
    blind, seeing = mouse(), mouse()
    before = live(blind, 300), live(seeing, 300)
    assert np.array_equal(*before)
    seeing.see(600, "grating", 45.0)  # a picture caused by frame 600 acts in frame 604
    for frame in range(600, 600 + REACTION_FRAMES, 2):
        assert np.array_equal(blind.step(frame, PROXIMAL), seeing.step(frame, PROXIMAL))
    assert seeing._now["blank"][0]
    seeing.step(600 + REACTION_FRAMES, PROXIMAL)
    assert not seeing._now["blank"][0]
    assert seeing.late == 0
    seeing.see(600, "grey", None)
    assert seeing.late == 1


def test_the_distal_plane_shows_the_same_moment_and_moves_nothing_on():
    alone, both = mouse(), mouse()
    for frame in range(0, 1200, 2):
        assert np.array_equal(alone.step(frame, PROXIMAL), both.step(frame, PROXIMAL))
        both.step(frame + 1, DISTAL)


def test_frames_are_stepped_once_and_in_order():
    one = mouse()
    live(one, 5)
    with pytest.raises(ValueError, match="frame 8 of plane 0, expected 9"):
        one.step(8, PROXIMAL)
    with pytest.raises(ValueError, match="frame 12 of plane 0, expected 9"):
        one.step(12, PROXIMAL)


def test_rates_and_sizes_are_those_of_layer_five():
    one = mouse(n_cells=300)
    live(one, 12_000)
    events = one.events()
    rates = np.bincount(events.cell, minlength=300) / (12_000 / RATE_HZ)
    assert 0.02 < rates.mean() < 0.04  # P0: 0.028 Hz (docs/experiment.md 4.1)
    assert np.sort(rates)[-20:].mean() > 0.06
    assert 0.6 < events.soma.mean() < 0.8
    slope, base = np.polyfit(events.soma, events.dendrite, 1)
    assert 0.6 < slope < 0.8
    assert 0.1 < base < 0.3
    residual = events.dendrite - slope * events.soma - base
    lead_s = events.dendrite_t_s - events.t_s
    assert np.corrcoef(residual, lead_s)[0, 1] < -0.1  # amplified dendrites lead


def test_the_record_of_events_explains_the_traces():
    one = mouse(n_cells=20, noise=False, physiology={"neuropil": 0.0})
    f = live(one, 3000)
    events = one.events()
    rebuilt = np.zeros(3000 + 10)
    for cell in range(20):
        mine = events.cell == cell
        kicks = np.zeros(3010)
        for frame, size in zip(events.frame[mine] // 2, events.soma[mine], strict=True):
            kicks[frame : frame + 3] += size / 3
        keep = np.exp(-(2 / 30.92) / Physiology().soma_tau_s)
        for k in range(3000):
            rebuilt[k] = keep * rebuilt[k - 1] + kicks[k] if k else kicks[k]
        last = events.frame[mine].max() // 2 if mine.any() else 2900
        assert np.abs(f[:last, cell] - 1 - rebuilt[:last]).max() < 1e-4


def test_traces_kept_are_those_that_were_shown():
    one = mouse(keep_calcium=True)
    shown, distal = [], []
    for frame in range(0, 2400, 2):
        shown.append(one.step(frame, PROXIMAL))
        distal.append(one.step(frame + 1, DISTAL))
    assert np.allclose(one.fluorescence(PROXIMAL), shown, atol=1e-6)
    assert np.allclose(one.fluorescence(DISTAL), distal, atol=1e-6)
    with pytest.raises(ValueError, match="keep_calcium"):
        mouse().fluorescence(PROXIMAL)


def test_led_weakens_the_apical_input_of_ndnf_mice():
    dark, lit = mouse(n_cells=200, lit=NDNF_LIT), mouse(n_cells=200, lit=NDNF_LIT)
    lit.light(0, True)
    live(dark, 6000), live(lit, 6000)
    assert len(lit.events().cell) < 0.6 * len(dark.events().cell)
    residuals = [e.dendrite - 0.21 - 0.7 * e.soma for e in (dark.events(), lit.events())]
    assert residuals[1].mean() < residuals[0].mean() - 0.1


def test_a_mouse_that_wakes_from_its_memory_is_the_same_mouse():
    one = mouse()
    for k in range(2000):
        trial(one, k)
        one.step(2 * k, PROXIMAL)
    one.drink(3990, 4.0)
    live(one, 10, 4000)
    one.sleep()
    other = mouse().restore(one.state())
    one.begin_day(2), other.begin_day(2)
    assert one.memory["role"].any()
    assert np.array_equal(live(one, 500), live(other, 500))
    assert other.target_value == one.target_value > 0
    with pytest.raises(ValueError, match="expected \\(61,\\)"):
        mouse(n_cells=61).restore(one.state())


def closed_loop(one: LearningMouse, up: int, n: int) -> None:
    """The screen answers to one cell alone: its calcium turns the grating towards the target."""
    for k in range(n):
        f = one.step(2 * k, PROXIMAL)
        if k % 400 == 0:
            one.see(2 * k, "grey", None)
        elif k % 400 > 8:
            one.see(2 * k, "grating", 15.0 * min(6, int(max(0.0, f[up] - 1) / 0.15)))


def test_a_cell_that_turns_the_screen_learns_its_role_from_the_screen_alone():
    one = mouse(n_cells=40, physiology={"rate_sd": 0.0, "rate_median_hz": 0.06})
    closed_loop(one, 7, 12_000)
    one.sleep()
    assert one.memory["role"][7] == 1.0
    others = np.delete(one.memory["role"], 7)
    assert np.abs(others).mean() < 0.5


def test_passive_gratings_teach_no_role():
    one = mouse(n_cells=40)
    rng = np.random.default_rng(3)
    learned = []
    for k in range(6000):
        if k % 15 == 0:
            one.see(2 * k, "grating", 15.0 * rng.integers(7))
        one.step(2 * k, PROXIMAL)
        if k in (700, 5999):  # the grey screen before the first grating is forgotten after 40 s, 618 frames
            learned.append((one.memory["own_screen"].copy(), one._task_frames))
    assert np.array_equal(learned[0][0], learned[1][0])
    assert learned[0][1] == learned[1][1] < 700


@pytest.mark.parametrize("control", ["no-apical", "scalar", "permuted"])
def test_controls_change_how_roles_act_and_not_what_is_learned(control):
    one = mouse(n_cells=8, control=control)
    one.memory["role"][:] = [1, 1, -1, -1, 0.2, 0, 0, 0]
    one.permute = [0, 1], [2, 3]
    one.begin_day(2)
    wanted = {
        "no-apical": np.zeros(8),
        "scalar": np.full(8, 0.7),
        "permuted": [-1, 1, 1, -1, 0.2, 0, 0, 0],
    }[control]
    assert np.array_equal(one._role, wanted)
    assert one.memory["role"][0] == 1


@pytest.mark.parametrize("n", [4, 5])
def test_permuted_roles_leave_no_vector_over_two_days(n: int):
    one = mouse(n_cells=2 * n, control="permuted")
    one.memory["role"][:] = [1] * n + [-1] * n
    one.permute = list(range(n)), list(range(n, 2 * n))
    roles = []
    for day in (2, 3):
        one.begin_day(day)
        roles.append(one._role.copy())
    plus, minus = np.split(np.sum(roles, axis=0), 2)
    assert (plus.sum(), minus.sum()) == (0, 0)
    assert np.abs(plus).max() == 2  # some cells act as ever


def test_it_licks_at_the_target_once_it_has_learned_what_the_target_means():
    licks = []
    for value in (0.0, 0.9):
        one = mouse(n_cells=5)
        one.target_value = value
        count = 0
        for k in range(4000):
            if k % 200 == 0:
                one.see(2 * k, "grey", None)
            elif k % 200 == 20:
                one.see(2 * k, "grating", 90.0)
            one.step(2 * k, PROXIMAL)
            count += one.licks()
        licks.append(count)
    assert licks[1] > 3 * licks[0]


def test_running_does_not_depend_on_the_screen():
    ways = []
    for angle in (None, 45.0):
        one = mouse(n_cells=5)
        one.see(0, "grey" if angle is None else "grating", angle)
        way = 0
        for k in range(4000):
            one.step(2 * k, PROXIMAL)
            way += one.wheel()
        ways.append(way)
    assert ways[0] == ways[1] > 0
