"""Every kind of mistake in a rig file is named: file, line or key, what was found, what was expected."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from loop2p.protocol import ROLES, FileError, parse_rig, parse_toml, read_rig, read_toml
from loop2p.protocol.tomlfile import line_of

GOOD = """\
name = "bench"  # line 1
simulated = true

[microscope]
height = 256
rate_hz = 30.92

[clock]
reference = "task"

[standins.mouse]
run = "loop2p.simulation.mouse:Mouse"

[hosts]
stimulus = "10.0.0.2"
""" + "".join(
    f"""
[services.{role}]
publish = "tcp://127.0.0.1:{5500 + 10 * k}"
bulk = "tcp://127.0.0.1:{5501 + 10 * k}"
control = "tcp://127.0.0.1:{5502 + 10 * k}"
"""
    for k, role in enumerate(ROLES)
)


def complaint(text: str) -> str:
    with pytest.raises(FileError) as caught:
        parse_rig(text, "bench.toml")
    return str(caught.value)


def changed(old: str, new: str) -> tuple[str, int]:
    """The good file with one change, and the line of it."""
    assert GOOD.count(old) >= 1, f"{old!r} is not in the good file"
    return GOOD.replace(old, new, 1), GOOD[: GOOD.index(old)].count("\n") + 1


def test_a_good_file_is_read() -> None:
    rig = parse_rig(GOOD, "bench.toml").rig
    assert (rig.name, rig.simulated, rig.microscope.height, rig.microscope.width) == ("bench", True, 256, 796)
    assert rig.microscope.plane_rate_hz == 15.46
    assert set(rig.services) == set(ROLES)
    assert {spec.realtime_priority for spec in rig.services.values()} == {0}, "not asked for unless the file says so"


IMAGING = '[services.imaging]\npublish = "tcp://127.0.0.1:5500"'


@pytest.mark.parametrize(
    ("old", "new", "lines_on", "key", "message"),
    [
        # syntax
        ("height = 256", "height = ", 0, "", "not TOML: Invalid value (at line 5"),
        ("[clock]", "[clock", 0, "", "not TOML: "),
        ("height = 256", "height = 256\nheight = 3", 1, "", "not TOML: Cannot overwrite a value (at line 6"),
        # keys
        ("simulated = true", "simulatd = true", 0, "simulatd", "unknown key; expected one of name, services, "),
        ("height = 256", "hieght = 256", 0, "microscope.hieght", "unknown key; expected one of height, width, planes"),
        (IMAGING, f"{IMAGING}\nports = 3", 2, "services.imaging.ports", "unknown key; expected one of publish, bulk"),
        ('run = "', 'runs = "', 0, "standins.mouse.runs", "unknown key; expected one of run, host, options"),
        ('bulk = "tcp://127.0.0.1:5511"\n', "", -2, "services.decoding", "missing key `bulk`"),
        ('name = "bench"  # line 1\n', "", None, "file", "missing key `name`"),
        # types and ranges
        ("height = 256", 'height = "256"', 0, "microscope.height", "Expected `int`, got `str`, found '256'"),
        ("height = 256", "height = 256.5", 0, "microscope.height", "Expected `int`, got `float`, found 256.5"),
        ("height = 256", "height = 0", 0, "microscope.height", "Expected `int` >= 1, found 0"),
        ("rate_hz = 30.92", "rate_hz = -1", 0, "microscope.rate_hz", "Expected `float` > 0.0, found -1"),
        ("rate_hz = 30.92", "rate_hz = nan", 0, "microscope.rate_hz", "Expected `float` > 0.0, found nan"),
        ("simulated = true", "simulated = 1", 0, "simulated", "Expected `bool`, got `int`, found 1"),
        (IMAGING, "[services.imaging]\npublish = 5500", 1, "services.imaging.publish", "Expected `str`, got `int`"),
        ('stimulus = "10.0.0.2"', "stimulus = 10", 0, "hosts.stimulus", "Expected `str`, got `int`, found 10"),
        ("[microscope]\nheight = 256\nrate_hz = 30.92", "microscope = 1", 0, "microscope", "Expected a table"),
        # services
        ("[services.task]", "[services.tusk]", 0, "services.tusk", "unknown service; expected one of imaging, "),
        ('reference = "task"', 'reference = "clock"', 0, "clock.reference", "found 'clock', expected one of imaging"),
        # endpoints and classes
        ("tcp://127.0.0.1:5500", "127.0.0.1:5500", 0, "services.imaging.publish", "expected an endpoint such as 'tcp://"),
        ("tcp://127.0.0.1:5500", "tcp://127.0.0.1", 0, "services.imaging.publish", "found 'tcp://127.0.0.1', expected"),
        ("tcp://127.0.0.1:5500", "tcp://*:port", 0, "services.imaging.publish", "found 'tcp://*:port', expected"),
        ("tcp://127.0.0.1:5511", "tcp://127.0.0.1:5500", 0, "services.decoding.bulk", "is already services.imaging"),
        (IMAGING, f'{IMAGING}\nclass = "Mine"', 2, "services.imaging.class", "found 'Mine', expected 'package."),
        (IMAGING, f'{IMAGING}\nmetrics = "9100"', 2, "services.imaging.metrics", "found '9100', expected host:port"),
        (IMAGING, f"{IMAGING}\nrealtime_priority = 50", 2, "services.imaging.realtime_priority", "<= 49, found 50"),
        (IMAGING, f"{IMAGING}\nrealtime_priority = -1", 2, "services.imaging.realtime_priority", ">= 0, found -1"),
        ("loop2p.simulation.mouse:Mouse", "mouse", 0, "standins.mouse.run", "found 'mouse', expected 'package."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(old: str, new: str, lines_on: int | None, key: str, message: str) -> None:
    text, line = changed(old, new)
    said = complaint(text)
    assert message in said
    assert said.startswith("bench.toml")
    if key:
        where = "" if lines_on is None else f", line {line + lines_on}"
        assert said.startswith(f"bench.toml{where}: {key}: ")


@pytest.mark.parametrize("role", ROLES)
def test_a_service_that_is_missing_is_named(role: str) -> None:
    start = GOOD.index(f"[services.{role}]")
    end = GOOD.find("[services.", start + 1)
    said = complaint(GOOD[:start] + (GOOD[end:] if end > 0 else ""))
    assert f"services: no {role}; a rig needs imaging, decoding, task" in said


def test_the_right_one_of_several_services_is_named() -> None:
    text, line = changed('control = "tcp://127.0.0.1:5532"', "control = 5532")
    assert complaint(text).startswith(f"bench.toml, line {line}: services.stimulus.control: ")


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none.toml: no such rig file"):
        read_rig(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('name = "Zürich"'.encode("latin-1"))
    with pytest.raises(FileError, match=r"latin.toml: not UTF-8 at byte 9"):
        read_rig(tmp_path / "latin.toml")


class Limits(Struct, forbid_unknown_fields=True):
    low: float
    high: float


class Task(Struct, forbid_unknown_fields=True):
    days: list[Limits] = []
    angles_deg: list[int] = []


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (
            "[[days]]\nlow = 1\nhigh = 2\n[[days]]\nlow = 1\nhigh = 'x'\n",
            "t.toml, line 6: days.1.high: Expected `float`",
        ),
        ("[[days]]\nlow = 1\nhigh = 2\n[[days]]\nlow = 1\n", "t.toml, line 4: days.1: missing key `high`"),
        ("angles_deg = [\n  0,\n  15.5,\n]\n", "t.toml, line 1: angles_deg.1: Expected `int`, got `float`, found 15.5"),
        ("days = [{low = 1, hi = 2}]\n", "t.toml, line 1: days.0.hi: unknown key; expected one of low, high"),
    ],
)
def test_a_mistake_in_a_list_is_counted_from_0(text: str, start: str) -> None:
    with pytest.raises(FileError) as caught:
        parse_toml(text, Task, "t.toml")
    assert str(caught.value).startswith(start)


def test_other_files_are_read_with_their_text(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text("angles_deg = [0, 90]\n")
    assert read_toml(path, Task) == (Task(angles_deg=[0, 90]), "angles_deg = [0, 90]\n")
    with pytest.raises(FileError, match="no such file"):
        read_toml(tmp_path / "none.toml", Task)


def test_lists_over_several_lines_do_not_hide_where_a_table_is() -> None:
    text = "[a]\nx = [\n  [1, 2],\n  [3, 4]\n]\ny = 1\n"
    assert line_of(text, "a.y") == 6


@settings(max_examples=300)
@given(
    st.integers(0, len(GOOD) - 1),
    st.integers(0, 30),
    st.text(alphabet=st.sampled_from("abz019 .\"'[]{}=#,\n-_:/\\\x00é"), max_size=12),
)
def test_whatever_is_typed_over_it_is_read_or_refused(start: int, length: int, typed: str) -> None:
    with contextlib.suppress(FileError):
        parse_rig(GOOD[:start] + typed + GOOD[start + length :], "bench.toml")
