"""The animal file: what outlives a day, and that nobody's text is harmed by it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played import FIXED, Played, of

from loop2p.protocol import FileError
from loop2p.task import Animal, Drop, make_plan
from loop2p.task.animal import parse_animal, updated

NEW = (Path(__file__).parents[2] / "deploy" / "animals" / "new.toml").read_text(encoding="utf-8")
TASK = "[selection]\nrois = [0, 1, 2, 3]\nseed = 7\n"
animals = st.builds(
    Animal,
    day=st.integers(0, 99),
    z_star=st.none() | st.floats(-10, 10),
    plus=st.lists(st.integers(0, 500), max_size=5),
    minus=st.lists(st.integers(0, 500), max_size=5),
    seed=st.none() | st.integers(0, 2**62),
    drawn_by=st.text(),
    drawn_at=st.text(),
    ration_ul=st.none() | st.floats(1, 5000),
)
OLD = "[loop2p]\nday = 1"
labs = st.sampled_from(["", NEW, "# mouse\nname = 'm'", "[loop2p]", OLD, OLD + "\n[weight]\ng = 21.3\n", "[a]\n"])


@given(labs, animals)
def test_whatever_is_written_reads_back_equal_and_the_lab_s_own_stays(text: str, animal: Animal):
    new = updated(text, animal)
    assert parse_animal(new, "a.toml") == animal
    assert updated(new, animal) == new
    for line in ("name = 'm'", "[weight]\ng = 21.3", 'line = "Rbp4-Cre"'):
        assert (line in new) == (line in text)


def test_day_1_writes_criterion_cells_and_draw_and_the_draw_stays_as_it_was():
    day1 = make_plan(TASK, NEW)
    first = day1.animal_after(2.5, "anna", "2026-11-24T09:00:00+01:00")
    assert (first.day, first.z_star, first.seed) == (1, 2.5, 7)
    assert (first.drawn_by, first.drawn_at) == ("anna", "2026-11-24T09:00:00+01:00")
    assert (first.plus, first.minus, first.ration_ul) == (day1.plus, day1.minus, 1200.0)
    day2 = make_plan("", updated(NEW, first))
    assert (day2.day, day2.plus, day2.minus, day2.z_star) == (2, day1.plus, day1.minus, 2.5)
    second = day2.animal_after(2.5, "ben", "2026-11-25T09:00:00+01:00")
    assert second == Animal(2, 2.5, day1.plus, day1.minus, 7, "anna", "2026-11-24T09:00:00+01:00", 1200.0)


@pytest.mark.parametrize(
    ("task_ul", "animal_ul", "limit_ul"), [(1200, None, 1200), (1200, 900, 900), (500, 900, 500)]
)
def test_the_smaller_ration_of_task_and_animal_file_holds(task_ul: float, animal_ul: float | None, limit_ul: float):
    animal = f"[loop2p]\nration_ul = {animal_ul}\n" if animal_ul else ""
    s = Played(FIXED + f"[reward]\nday_limit_ul = {task_ul}\n", animal, given_ul=limit_ul - 4)
    s.ask("begin")
    assert of(Drop, s.ask("free_reward")) == [Drop(4.0, -1)]
    assert f"the day's {limit_ul} ul" in s.core.refusal("free_reward")


@pytest.mark.parametrize(
    ("line", "words"),
    [("ration_ul = 0", "line 2: loop2p.ration_ul: .*> 0"), ("seed = -1", "seed: .*>= 0"), ("weigt = 1", "unknown key")],
)
def test_a_mistake_in_the_task_s_table_is_named(line: str, words: str):
    with pytest.raises(FileError, match=words):
        parse_animal(f"[loop2p]\n{line}\n", "a.toml")


def test_a_task_file_in_its_place_is_refused():
    with pytest.raises(FileError, match=r"a\.toml: found a task file .*expected an animal file"):
        parse_animal("[closed_loop]\nduration_s = 60.0\n", "a.toml")
