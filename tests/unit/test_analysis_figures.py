"""Curves with planted answers; figures of whatever is there, the same again from the same data."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from msgspec import structs
from toy_arms import NO_EVENTS, ROLE, toy_arm, toy_arms, toy_session

from loop2p.analysis.arm import Arm
from loop2p.analysis.contrast import Contrast
from loop2p.analysis.figures import all_figures, save_figures, svg_of
from loop2p.analysis.figures.curves import (
    by_day,
    by_error_level,
    dd_of_sessions,
    example_neuron,
    group_rate_hz,
    neuron_session_means,
    relative_rates,
    residual_course,
    spread,
)
from loop2p.analysis.figures.power import N_MICE, design_power
from loop2p.analysis.figures.style import Plate, mean_sem
from loop2p.analysis.learning import accuracy
from loop2p.analysis.partial import ErrorEvents
from loop2p.analysis.results import results_of, write_results
from loop2p.analysis.sessions import PlaneEvents, SessionData

EVERY = [
    "learning", "rates", "example", "network", "outcome", "courses", "sign-flip", "survives", "perturbations",
    "controls", "licking", "power",
]  # fmt: skip


@pytest.fixture(scope="module")
def plates() -> dict[str, Plate]:
    return all_figures(toy_arms(), 0)


# ---------------------------------------------------------------- curves


def test_values_by_day_leave_a_hole_where_a_day_is_missing():
    sessions = [toy_session("a", 1, hits=0.5), toy_session("a", 3, hits=0.75), toy_session("b", 3, hits=0.25)]
    found = by_day(sessions, accuracy)
    assert (found.mice, found.days.tolist()) == (["a", "b"], [1, 3])
    assert found.values == pytest.approx(np.array([[0.5, 0.75], [np.nan, 0.25]]), nan_ok=True)


def test_a_mouse_without_a_value_is_no_row():
    found = by_day([toy_session("a"), toy_session("b")], lambda s: np.nan if s.mouse == "a" else 2.0)
    assert (found.mice, found.values.tolist()) == (["b"], [[2.0]])


def evenly(session: SessionData, per_min: dict[str, int]) -> SessionData:
    """So many somatic events in each whole minute of each cell of a group."""
    minutes = np.arange(int(session.duration_s // 60))
    cells = [(roi, n) for roi, role in enumerate(session.role) for n in [per_min[role]]]
    t_s = np.concatenate([(minutes[:, None] * 60 + np.linspace(1, 59, n)).ravel() for _, n in cells])
    roi = np.concatenate([np.full(len(minutes) * n, roi) for roi, n in cells])
    order = np.argsort(t_s, kind="stable")
    soma = PlaneEvents(t_s[order], roi[order], np.ones(len(t_s)))
    return structs.replace(session, events={0: soma, 1: NO_EVENTS})


def test_rates_are_relative_to_day_1():
    first = evenly(toy_session("a", 1, n_trials=45), {"plus": 8, "minus": 8, "other": 8})
    second = evenly(toy_session("a", 2, n_trials=45), {"plus": 6, "minus": 4, "other": 2})
    late = evenly(toy_session("b", 2, n_trials=45), {"plus": 6, "minus": 4, "other": 2})
    found = relative_rates([second, late, first])  # b has no day 1
    for group, wanted in {"plus": 0.75, "minus": 0.5, "other": 0.25}.items():
        assert found[group].mice == ["a"]
        assert found[group].values == pytest.approx(np.array([[1.0, wanted]]))
    assert group_rate_hz(second, "plus") == pytest.approx(6 / 60)


def test_few_p0_are_matched_as_far_as_they_go():
    role = np.array(["plus"] * 4 + ["minus"] * 4 + ["other"] * 9 + [""] * 21)
    per_min = {"plus": 8, "minus": 8, "other": 8, "": 0}
    days = [structs.replace(toy_session("a", day, n_trials=45), role=role) for day in (1, 2)]
    assert relative_rates([evenly(s, per_min) for s in days])["other"].values == pytest.approx(np.ones((1, 2)))
    none = [structs.replace(s, role=np.where(role == "other", "", role)) for s in days]
    assert relative_rates([evenly(s, per_min) for s in none])["other"].mice == []


def test_after_an_exchange_of_p_plus_and_p_minus_a_mouse_has_no_rates_by_role():
    per_min = {"plus": 8, "minus": 4, "other": 6}
    days = [evenly(toy_session(name, day, n_trials=45), per_min) for name in "ab" for day in (1, 2, 3)]
    exchanged = np.select([ROLE == "plus", ROLE == "minus"], ["minus", "plus"], "other")
    days[2] = structs.replace(days[2], role=exchanged)
    days[5] = structs.replace(days[5], role=ROLE[:-1])  # an ROI less
    days.append(evenly(toy_session("c", 3, n_trials=45), per_min))
    days.append(evenly(toy_session("c", 1, n_trials=45), per_min))
    for found in relative_rates(days).values():
        assert found.values == pytest.approx(np.array([[1, 1, np.nan], [1, 1, np.nan], [1, np.nan, 1]]), nan_ok=True)


def test_a_residual_planted_after_hits_is_seen_there_and_nowhere_else():
    edges = np.arange(-2.0, 4.01, 1.0)
    sessions = [toy_session(mouse, day, hit=2.0) for mouse in "abc" for day in (1, 2)]
    found = residual_course(sessions, edges)
    assert found["hit", "other"].shape == (3, 6)
    for role in ("plus", "minus", "other"):
        course = found["hit", role].mean(axis=0)
        assert course[2] == pytest.approx(2.0, abs=0.4)  # 0 to 1 s
        assert np.abs(np.delete(course, 2)).max() < 0.4
        assert np.abs(found["miss", role].mean(axis=0)).max() < 0.4


def test_a_mouse_without_an_event_in_a_bin_has_no_value_there():
    session = toy_session("a", hit=2.0)
    keep = ROLE[session.events[0].roi] != "minus"
    events = {k: PlaneEvents(e.t_s[keep], e.roi[keep], e.magnitude[keep]) for k, e in session.events.items()}
    found = residual_course([structs.replace(session, events=events), toy_session("b")])
    assert np.isnan(found["hit", "minus"][0]).all()
    assert np.isfinite(found["hit", "minus"][1]).any()


def test_the_example_is_the_busiest_p_plus_and_has_its_line():
    sessions = [toy_session("a", 1), toy_session("a", 2), toy_session("b", 1)]
    found = example_neuron(sessions)
    assert found is not None
    loops = [s.phases[-1][2] for s in sessions]
    counts = [
        np.bincount(s.events[0].roi[s.events[0].t_s >= loop_s], minlength=len(ROLE))[ROLE == "plus"]
        for s, loop_s in zip(sessions, loops, strict=True)
    ]
    busiest = sessions[int(np.argmax([c.max() for c in counts]))]
    assert (found.mouse, found.day) == (busiest.mouse, busiest.day)
    assert len(found.z) == max(c.max() for c in counts)
    assert (found.intercept, found.slope) == (pytest.approx(0.5, abs=0.05), pytest.approx(0.7, abs=0.05))
    expected = (found.dendrite - found.intercept - found.slope * found.soma) / found.z
    assert np.ptp(expected) == pytest.approx(0, abs=1e-9)  # one SD for all its events


def test_there_is_no_example_without_p_plus():
    session = toy_session()
    assert example_neuron([structs.replace(session, role=np.full(len(ROLE), "other"))]) is None


def events_of(rows: list[tuple[str, int, int, str, float, float]]) -> ErrorEvents:
    """Mouse, day, roi, role, z, mean error of the bin."""
    mouse, day, roi, role, z, error = zip(*rows, strict=True)
    none = np.zeros(len(rows))
    return ErrorEvents(
        mouse=np.array(mouse), day=np.array(day), roi=np.array(roi), role=np.array(role), z=np.array(z),
        rotation_deg_s=none, velocity_deg_s=none, error_deg=none, bin_error_deg=np.array(error),
    )  # fmt: skip


def test_a_neuron_with_many_events_counts_once():
    rows = [("a", 1, 0, "plus", z, 60.0) for z in (1.0, 2.0, 3.0)] + [("a", 1, 1, "plus", 6.0, 60.0)]
    rows += [("a", 2, 0, "plus", 8.0, 45.0), ("a", 2, 1, "plus", -1.0, 44.9), ("b", 1, 5, "minus", 7.0, 0.0)]
    events = events_of(rows)
    assert sorted(neuron_session_means(events)[2].tolist()) == [-1.0, 2.0, 6.0, 7.0, 8.0]
    plus, minus = (by_error_level(events, role) for role in ("plus", "minus"))
    assert plus == pytest.approx(np.array([[-1.0, (2 + 6 + 8) / 3], [np.nan, np.nan]]), nan_ok=True)
    assert minus == pytest.approx(np.array([[np.nan, np.nan], [7.0, np.nan]]), nan_ok=True)


def test_dd_of_each_session():
    residual = np.array([[0.3, -0.1], [0.1, 0.1], [-0.2, 0.2], [np.nan, np.nan], [1.0, 0.0], [np.nan, 2.0]])
    found = Contrast(
        mouse=np.array(["a"] * 4 + ["b"] * 2), day=np.array([1] * 4 + [3] * 2), roi=np.array([0, 1, 2, 3, 0, 1]),
        role=np.array(["plus", "plus", "minus", "other", "plus", "minus"]), residual=residual,
        n_events=np.ones((6, 2), np.int64),
    )  # fmt: skip
    mouse, day, dd = dd_of_sessions(found)
    assert (mouse.tolist(), day.tolist()) == (["a", "b"], [1, 3])
    assert dd == pytest.approx(np.array([0.2 - 0.0 + 0.4, np.nan]), nan_ok=True)


@pytest.mark.parametrize("between", [0.0, 0.3])
def test_variance_between_mice_and_within_is_told_apart(between):
    rng = np.random.default_rng(1)
    mouse = np.repeat([f"m{k:03}" for k in range(200)], 10)
    values = 0.2 + between * np.repeat(rng.standard_normal(200), 10) + 0.5 * rng.standard_normal(2000)
    found = spread(mouse, values)
    assert found is not None
    assert (found.n_mice, found.n_sessions) == (200, 10)
    assert found.effect == pytest.approx(0.2, abs=0.06)
    assert found.sd_between_mice == pytest.approx(between, abs=0.07)
    assert found.sd_within == pytest.approx(0.5, abs=0.03)


def test_variance_needs_two_mice_and_two_sessions():
    assert spread(np.array(["a", "a"]), np.array([1.0, 2.0])) is None
    assert spread(np.array(["a", "b"]), np.array([1.0, 2.0])) is None
    assert spread(np.array(["a", "b", "b"]), np.array([1.0, 2.0, np.nan])) is None


def test_a_mean_of_one_has_no_error():
    mean, sem, n = mean_sem(np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]]))
    assert mean == pytest.approx(np.array([2.0, 2.0, np.nan]), nan_ok=True)
    assert sem == pytest.approx(np.array([1.0, np.nan, np.nan]), nan_ok=True)
    assert n.tolist() == [2, 1, 0]


def test_power_grows_with_mice_and_falls_with_the_effect():
    found = design_power({"main": toy_arm(error=1.0, n_days=3)}, 0)
    assert found is not None
    assert found.spread.effect > 0.5
    assert found.spread.n_mice == 3
    powers = np.array([curve.noncentral for curve in found.curves.values()])
    assert (np.diff(powers, axis=1) > -1e-9).all()
    assert (np.diff(powers, axis=0) < 1e-9).all()
    assert powers[:, 0].max() < 1
    assert len(found.detectable) == len(N_MICE)
    assert (np.diff(found.detectable) < 0).all()
    assert design_power({"main": toy_arm(n_mice=1)}, 0) is None


# ---------------------------------------------------------------- figures


def texts_of(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_all_arms_give_all_figures_in_the_order_of_the_report(plates: dict[str, Plate]):
    assert list(plates) == EVERY
    for plate in plates.values():
        assert isinstance(plate.figure, Figure)
        assert "nan" not in plate.caption
        assert "n = " in plate.caption or "n: " in plate.caption or " mice)" in plate.caption


def test_captions_say_the_planted_answers(plates: dict[str, Plate]):
    dd = re.search(r"main .*?dd \+(\d\.\d+) \+- .*?, above 0 in (\d) of 3 mice", plates["sign-flip"].caption)
    assert dd is not None
    assert float(dd[1]) > 1.5  # 2 x 1 SD in P+, less that of P-; in SD that the signal itself makes larger
    assert dd[2] == "3"
    shift = re.search(r"NDNF: (-\d\.\d+) SD", plates["perturbations"].caption)
    assert shift is not None
    assert float(shift[1]) == pytest.approx(-3, abs=0.2)
    assert "Told: P+ 6 of 12 by rank" in plates["network"].caption
    assert "main - scalar +" in plates["controls"].caption


def test_one_session_has_figures_and_no_error_bars():
    plates = all_figures({"main": Arm("main", [toy_session("a", 4)])}, 0)
    assert list(plates) == ["learning", "rates", "example", "courses", "sign-flip", "survives", "licking"]
    assert "1 mouse, 1 session" in plates["learning"].caption
    for axes in plates["learning"].figure.axes:
        assert not axes.containers  # of error bars
        assert axes.get_xlim() == (3.5, 4.5)


def test_a_yoked_arm_alone_has_a_report(tmp_path: Path):
    none = np.zeros(0)
    trials = {"start_s": none, "outcome": np.zeros(0, np.str_), "hit_s": none, "reward_s": none}
    arms = {"yoked": Arm("yoked", [structs.replace(toy_session("a", day), **trials) for day in (1, 2)])}
    page = write_results(tmp_path, arms, results_of(arms, 0), {"seed": 0})
    assert "sign-flip" in page.read_text()


def test_what_has_no_data_is_left_out():
    silent = structs.replace(toy_session(), events={})
    unable = structs.replace(silent, lick_s=np.zeros(0), speed_cm_s=np.zeros(0), speed_t_s=np.zeros(0))
    assert all_figures({}, 0) == {}
    assert all_figures({"main": Arm("main", [])}, 0) == {}
    assert list(all_figures({"main": Arm("main", [unable])}, 0)) == ["learning"]
    assert list(all_figures({"anaesthesia": toy_arm("anaesthesia", n_days=1)}, 0))[-1] != "controls"
    nobody = structs.replace(toy_session(), role=np.full(len(ROLE), "other"))
    assert "sign-flip" not in all_figures({"main": Arm("main", [nobody])}, 0)


def test_twins_are_joined_by_their_mouse(plates: dict[str, Plate]):
    lines = [line for line in plates["controls"].figure.axes[0].lines if len(line.get_xdata()) == 5]
    assert len(lines) == 3  # a mouse each, through main and four twins
    assert all(np.isfinite(line.get_ydata()).all() for line in lines)


def test_files_are_the_same_again_and_hold_text(tmp_path: Path):
    arms = {"main": toy_arm(n_mice=2)}
    one, two = ({name: all_figures(arms, 0)[name] for name in ("learning", "courses")} for _ in range(2))
    written, again = save_figures(one, tmp_path / "one"), save_figures(two, tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(p.name for p in written)
    assert {p.suffix for p in written} == {".svg", ".png"}
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]
    text = (tmp_path / "one" / "learning.svg").read_text()
    assert ">rewards / min</text>" in text
    assert "dc:date" not in text
    png = (tmp_path / "one" / "learning.png").read_bytes()
    assert struct.unpack(">I", png[16:20])[0] == pytest.approx(9.6 * 150, abs=1)


def test_figures_of_one_page_do_not_take_each_others_marks(plates: dict[str, Plate]):
    ids = {}
    for name in ("learning", "courses"):
        svg = svg_of(plates[name], name)
        assert svg.startswith("<svg")
        own = set(re.findall(r'\bid="([^"]+)"', svg))
        asked = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert {a or b for a, b in asked} <= own
        ids[name] = own
    assert not ids["learning"] & ids["courses"]


def test_arms_and_groups_differ_by_more_than_colour():
    from loop2p.analysis.figures.style import ARMS, ROLES

    for looks in (ARMS.values(), ROLES.values()):
        shapes = [(one.marker, one.line) for one in looks]
        assert len(set(shapes)) == len(shapes)


def test_an_arm_that_is_not_known_is_drawn_too():
    plates = all_figures({"extra": structs.replace(toy_arm(n_mice=2), name="extra")}, 0)
    assert "extra" in texts_of(plates["learning"].figure)
