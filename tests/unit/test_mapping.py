"""Control value -> angle, by Methods 2.5."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.protocol import Calibration
from loop2p.task import Mapping


def calibration(minimum: float = -0.2, threshold: float = 0.3) -> Calibration:
    return Calibration(
        minimum=minimum, threshold=threshold, mu=0, sigma=0.1, z_star=3, seed=0, first_frame=0, last_frame=1, n_values=1
    )


@pytest.mark.parametrize(
    ("value", "angle"),
    [
        (-9, 0),
        (-0.201, 0),
        (-0.199, 15),
        (-0.101, 15),
        (-0.099, 30),
        (0.001, 45),
        (0.101, 60),
        (0.201, 75),
        (0.299, 75),
        (0.3, 90),
        (9, 90),
    ],
)
def test_each_bin_is_a_fifth_of_the_way_from_minimum_to_threshold(value: float, angle: float):
    assert Mapping(calibration()).angle_deg(value) == angle


def test_the_edges_themselves_belong_to_the_bin_above():
    mapping = Mapping(calibration(-1.0, 4.0))
    assert [mapping.angle_deg(edge) for edge in (-1, 0, 1, 2, 3, 4)] == [15, 30, 45, 60, 75, 90]


@pytest.mark.parametrize(("low", "high"), [(-0.177, 0.058), (-1.0, 4.0), (0.1, 0.3)])
def test_the_last_value_below_an_edge_belongs_to_the_bin_below(low: float, high: float):
    mapping = Mapping(calibration(low, high))
    edges = [low + k * ((high - low) / 5) for k in range(5)] + [high]
    for k, edge in enumerate(edges):
        assert mapping.angle_deg(edge) == 15 * (k + 1)
        assert mapping.angle_deg(math.nextafter(edge, -math.inf)) == 15 * k


def test_half_a_degree_short_of_the_threshold_is_a_hit():
    mapping = Mapping(calibration(0.0, 90.0))
    assert not mapping.is_hit(89.49)
    assert mapping.is_hit(89.5)
    assert mapping.angle_deg(89.5) == 75  # the table alone would still show 75; the trial shows 90 on a hit


@given(
    st.floats(-10, 10),
    st.floats(1e-3, 10),
    st.floats(-100, 100, allow_nan=False),
    st.floats(-100, 100, allow_nan=False),
)
def test_seven_angles_that_rise_with_the_value_and_90_is_always_a_hit(low: float, span: float, a: float, b: float):
    mapping = Mapping(calibration(low, low + span))
    small, large = sorted((a, b))
    assert mapping.angle_deg(small) <= mapping.angle_deg(large)
    assert {mapping.angle_deg(small), mapping.angle_deg(large)} <= {0, 15, 30, 45, 60, 75, 90}
    if mapping.angle_deg(large) == 90:
        assert mapping.is_hit(large)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_has_no_angle(value: float):
    with pytest.raises(ArithmeticError, match="expected a finite number"):
        Mapping(calibration()).angle_deg(value)
    with pytest.raises(ArithmeticError, match="expected a finite number"):
        Mapping(calibration()).is_hit(value)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf)])
def test_a_calibration_without_room_for_angles_is_refused(low: float, high: float):
    with pytest.raises(ValueError, match="minimum < threshold"):
        Mapping(calibration(low, high))
