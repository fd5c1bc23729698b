"""What the animal sees, as a function: orientation and sense of rotation, symmetry, levels, patch, gamma."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from loop2p.protocol import Show
from loop2p.stimulus import Look, cycles_per_degree, picture
from loop2p.stimulus.core import DisplayError, Frames, choose_pacing, describe_gamma, gamma_table

WIDTH, HEIGHT = 320, 200
PLAIN = Look(patch_px=0)
ANGLES = [0, 15, 30, 45, 60, 75, 90]


def grating(angle: float, look: Look = PLAIN, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.int64]:
    return picture(width, height, Show(what="grating", angle_deg=angle), look=look).astype(int)


def bar_direction_deg(image: NDArray[np.int64]) -> float:
    """Which way the bars run, from the structure tensor: degrees counter-clockwise from vertical, y up."""
    down, right = np.gradient(image.astype(float))
    up = -down
    normal = 0.5 * math.atan2(2 * (right * up).sum(), (right * right - up * up).sum())
    return math.degrees(normal)  # the bars stand at right angles to their normal, as vertical does to the x axis


def test_0_deg_is_vertical_bars_and_90_deg_horizontal_ones():
    # across the bars the level swings, along them it hardly does
    vertical, horizontal = grating(0, width=200), grating(90, width=200)
    near = slice(95, 105)
    assert np.ptp(vertical[100, near.start - 20 : near.stop + 20]) > 200
    assert np.ptp(vertical[near, 100]) < 10
    assert np.ptp(horizontal[near.start - 20 : near.stop + 20, 100]) > 200
    assert np.ptp(horizontal[100, near]) < 10
    np.testing.assert_array_equal(vertical.T, horizontal)  # on a square screen one is the other, turned


@pytest.mark.parametrize("angle", [-30, *ANGLES])
def test_positive_angles_turn_the_bars_counter_clockwise_as_seen(angle):
    found = bar_direction_deg(grating(angle))
    assert (found - angle + 90) % 180 - 90 == pytest.approx(0, abs=1.5)


def test_at_30_deg_the_bright_middle_bar_leans_to_the_left_at_its_top():
    image = grating(30)
    up_left = image[HEIGHT // 2 - 26, WIDTH // 2 - 15]  # 30 px along the bar: 26 up, 15 left
    up_right = image[HEIGHT // 2 - 26, WIDTH // 2 + 15]
    assert up_left > 190 > 128 > up_right


@pytest.mark.parametrize("angle", ANGLES)
def test_the_grating_is_symmetric_about_the_middle_and_its_mirror_image_has_the_opposite_angle(angle):
    image = grating(angle)
    np.testing.assert_array_equal(image, image[::-1, ::-1])
    assert abs(image[:, ::-1] - grating(-angle)).max() <= 1  # 1: rounding of a half
    assert abs(image - grating(angle + 180)).max() <= 1


def test_six_cycles_a_screen_width_and_a_gaussian_of_an_eighth_of_it():
    width = 960
    row = grating(0, width=width, height=2)[0] / 255 - 0.5
    crossings = np.flatnonzero(np.diff(np.sign(row[width // 2 : width // 2 + 210])))
    np.testing.assert_allclose(crossings, [39, 119, 199], atol=1)  # cos passes 0 a quarter period out, then each half
    one_period_out = row[width // 2 + width // 6] / row[width // 2]
    assert one_period_out == pytest.approx(math.exp(-((1 / 6) ** 2) / (2 * (1 / 8) ** 2)), abs=0.02)


@pytest.mark.parametrize("contrast", [0.1, 0.5, 1.0])
def test_contrast_is_the_swing_about_grey(contrast):
    image = grating(0, Look(contrast=contrast, patch_px=0))
    assert image.max() == pytest.approx(127.5 + 127.5 * contrast, abs=1.5)
    assert grating(0, Look(contrast=0.0, patch_px=0)).tolist() == np.full((HEIGHT, WIDTH), 128).tolist()


def test_grey_is_the_gratings_own_mean_and_black_is_black():
    grey = picture(WIDTH, HEIGHT, Show(what="grey"), look=PLAIN)
    assert (grey == 128).all()  # 127.5 rounded half up
    assert grating(45)[0, 0] == 128  # far from the middle the grating fades into it
    assert grating(45, width=1200, height=900).mean() == pytest.approx(127.5, abs=1)
    assert (picture(WIDTH, HEIGHT, Show(what="black"), look=PLAIN) == 0).all()
    assert (picture(WIDTH, HEIGHT, Show(what="black", angle_deg=45.0), look=PLAIN) == 0).all()


@pytest.mark.parametrize("what", ["grey", "grating", "black"])
def test_the_patch_is_the_lower_right_corner_alone(what):
    show, look = Show(what=what, angle_deg=30.0), Look(patch_px=16, gamma=2.2)
    on, off = picture(WIDTH, HEIGHT, show, True, look), picture(WIDTH, HEIGHT, show, False, look)
    assert (on[-16:, -16:] == 255).all()
    assert (off[-16:, -16:] == 0).all()
    np.testing.assert_array_equal(np.argwhere(on != off).min(axis=0), [HEIGHT - 16, WIDTH - 16])
    bare = picture(WIDTH, HEIGHT, show, True, Look(patch_px=0, gamma=2.2))
    assert np.count_nonzero(bare != on) <= 16 * 16


@pytest.mark.parametrize("patch_px", [0, 1000])
def test_a_patch_of_no_size_or_larger_than_the_screen(patch_px):
    image = picture(40, 30, Show(what="grey"), True, Look(patch_px=patch_px))
    assert (image == (255 if patch_px else 128)).all()


def test_gamma_makes_luminance_linear_again():
    plain, corrected = grating(30).astype(float), grating(30, Look(gamma=2.2, patch_px=0))
    seen = (corrected / 255) ** 2.2  # what a monitor of that exponent makes of it
    assert abs(seen - plain / 255).max() < 0.01
    assert picture(8, 8, Show(what="grey"), look=Look(gamma=2.2, patch_px=0))[0, 0] == round(255 * 0.5 ** (1 / 2.2))


def test_a_gamma_table_is_looked_up_between_its_entries():
    table = [min(1.0, i / 127.5) for i in range(256)]  # twice as bright
    assert picture(8, 8, Show(what="grey"), look=Look(gamma=table, patch_px=0))[0, 0] == 255
    np.testing.assert_array_equal(gamma_table(Look()), np.linspace(0, 1, 256))


MONITORS = {
    "power law": lambda drive: 120 * drive**2.2,
    "bright black": lambda drive: 0.6 + 180 * drive**2.4,
    "no power law": lambda drive: 0.3 + 90 * (0.9 * drive**2.5 + 0.1 * drive),
    "offset": lambda drive: 100 * (0.03 + 0.97 * drive) ** 2.35,
}


@pytest.mark.parametrize("name", MONITORS)
@pytest.mark.parametrize("n", [5, 9, 17])
def test_luminance_measured_at_a_few_levels_makes_the_monitor_linear(name, n):
    monitor, levels = MONITORS[name], np.linspace(0, 255, n).round()
    points = [(float(level), float(monitor(level / 255))) for level in levels]
    seen = monitor(gamma_table(Look(gamma_points=points[::-1])))  # in any order
    even = np.linspace(monitor(0.0), monitor(1.0), 256)
    worst = abs(seen - even).max() / (monitor(1.0) - monitor(0.0))
    assert worst < {5: 0.02, 9: 0.006, 17: 0.003}[n]


def test_which_gamma_it_is_stands_in_words():
    assert describe_gamma(Look()) == "linear: no correction, for the monitor's luminance was not measured"
    assert describe_gamma(Look(gamma=1.0)) == "linear: no correction"
    assert describe_gamma(Look(gamma=2.2)) == "corrected for a monitor of exponent 2.2"
    assert describe_gamma(Look(gamma_points=[(0, 0.1), (128, 20), (255, 90)])) == (
        "corrected by luminance measured at 3 levels"
    )


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0, 0.1), (255, 90)], "levels 0, 255, expected at least 3"),
        ([(1, 0.1), (128, 20), (255, 90)], "levels 1, 128, 255, expected"),
        ([(0, 0.1), (128, 20), (128, 20), (255, 90)], "each once"),
        ([(0, 0.1), (128, 95), (255, 90)], "expected them to rise"),
        ([(0, 0.1), (128, math.nan), (255, 90)], "expected them to rise"),
        ([], "expected at least 3"),
    ],
)
def test_luminances_that_no_monitor_has_are_refused(points, said):
    with pytest.raises(ValueError, match=said):
        Look(gamma_points=points)


def test_gamma_is_given_once():
    with pytest.raises(ValueError, match="both gamma and gamma_points"):
        Look(gamma=2.2, gamma_points=[(0, 0.1), (128, 20), (255, 90)])


@pytest.mark.parametrize(("angle", "axis"), [(0.0, 1), (90.0, 0)])
def test_a_drift_moves_the_bars_to_the_right_or_up_and_a_whole_cycle_changes_nothing(angle, axis):
    flat = Look(sigma_widths=1000, patch_px=0)
    still = picture(240, 240, Show(what="grating", angle_deg=angle), look=flat).astype(int)
    quarter = picture(240, 240, Show(what="grating", angle_deg=angle), look=flat, cycles=0.25).astype(int)
    moved = np.roll(still, 10 if axis == 1 else -10, axis)  # a quarter of 40 px; up is towards row 0
    assert abs(quarter - moved).max() <= 1
    whole = picture(240, 240, Show(what="grating", angle_deg=angle), look=flat, cycles=3.0).astype(int)
    assert abs(whole - still).max() <= 1


def test_a_drift_that_is_none_is_refused():
    with pytest.raises(ValueError, match="drift_hz nan"):
        Look(drift_hz=math.nan)


@pytest.mark.parametrize(
    ("gamma", "said"),
    [
        (0.0, "expected an exponent above 0"),
        (math.nan, "expected an exponent above 0"),
        ([0.0] * 255, "table of 255 values, expected 256"),
        ([0.0] * 255 + [1.5], "leaves 0 to 1"),
        ([0.5] * 255 + [0.4], "falls"),
    ],
)
def test_a_gamma_that_is_none_is_refused_with_what_was_expected(gamma, said):
    with pytest.raises(ValueError, match=said):
        Look(gamma=gamma)


@pytest.mark.parametrize("angle", [None, math.nan, math.inf])
def test_a_grating_without_a_finite_angle_is_no_picture(angle):
    with pytest.raises(ValueError, match="expected a finite number"):
        picture(8, 8, Show(what="grating", angle_deg=angle))


def test_cycles_per_degree_of_a_52_cm_screen_at_20_cm():
    # 6 cycles in 52 cm; a degree in the middle covers 20 cm x pi / 180 = 0.349 cm
    assert cycles_per_degree(Look(), 52.0, 20.0) == pytest.approx(6 / 52 * 0.349, rel=1e-3)


# ---------------------------------------------------------------- when pictures are drawn


@given(
    hz=st.floats(10, 480),
    start=st.integers(0, 10**15),
    lead=st.integers(0, 5_000_000),
    after=st.integers(-(10**12), 10**14),
)
def test_the_next_deadline_lies_ahead_by_at_most_one_period_and_on_the_grid(hz, start, lead, after):
    frames, now = Frames(hz, start, lead), start + after
    due = frames.next_ns(now)
    assert now < due <= now + frames.period_ns
    assert (due + lead - start) % frames.period_ns == 0
    frames.anchor(due + lead)  # a refresh where it was expected changes nothing
    assert frames.next_ns(now) == due


def test_a_virtual_screen_is_paced_by_the_clock_at_the_rate_asked_for():
    pacing = choose_pacing(expected_hz=60, monitor_hz=0, measured_hz=700)
    assert (pacing.vsync, pacing.refresh_hz) == (False, 60)


def test_a_monitor_within_5_percent_paces_at_its_own_measured_rate():
    pacing = choose_pacing(expected_hz=60, monitor_hz=60, measured_hz=59.94)
    assert (pacing.vsync, pacing.refresh_hz) == (True, 59.94)


@pytest.mark.parametrize(("monitor_hz", "measured_hz"), [(75, 75.0), (60, 1500.0), (60, 30.0), (60, 56.9)])
def test_a_monitor_that_is_off_is_refused_and_told_what_to_do(monitor_hz, measured_hz):
    with pytest.raises(DisplayError, match=rf"measured {measured_hz:.2f} Hz.*expected 60 Hz.*any_refresh = true"):
        choose_pacing(60, monitor_hz, measured_hz)


def test_any_refresh_goes_on_with_the_monitors_rate_or_the_clock_where_swaps_do_not_wait():
    assert choose_pacing(60, 75, 75.0, any_refresh=True).refresh_hz == 75.0
    unsynchronised = choose_pacing(60, 60, 1500.0, any_refresh=True)
    assert (unsynchronised.vsync, unsynchronised.refresh_hz) == (False, 60)
