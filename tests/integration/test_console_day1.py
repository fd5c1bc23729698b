"""Day 1 from the page: ROIs ranked, picked in table and picture, P+ and P- drawn; as the commands do it."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium
from msgspec import structs
from page_pictures import picture
from rigs import rig_text
from synthetic_session import make_session, write_journal
from whole_rig import whole_rig, with_console

from loop2p.console import Console
from loop2p.console.day1 import DRAWN, Day1, Day1Error, Draw, Look, read, runs
from loop2p.console.options import ConsoleOptions, Startable
from loop2p.protocol import Day1Images, PlaneRois, Rois, f32, i32, parse_rig, parse_toml, seal
from loop2p.task.experiment import Experiment

Ports = Callable[[int], list[int]]


def square(index: int) -> tuple[list[int], list[int]]:
    """Pixels of an ROI of 10 x 10, somewhere of its own."""
    y, x = 20 + 40 * (index // 5), 20 + 30 * (index % 5)
    return [y + r for r in range(10) for _ in range(10)], [x + c for _ in range(10) for c in range(10)]


def rois(n: int) -> Rois:
    """Squares, on a reference in which they are bright."""
    pixels = [square(k) for k in range(n)]
    plane = PlaneRois(
        plane=0,
        names=[str(k) for k in range(n)],
        lengths=i32([100] * n),
        rows=i32([r for rows, _ in pixels for r in rows]),
        cols=i32([c for _, cols in pixels for c in cols]),
    )
    reference = np.random.default_rng(1).gamma(4.0, 10.0, (120, 180))
    for rows, cols in pixels:
        reference[rows, cols] += 80
    return Rois(set_id="drawn", height=120, width=180, planes=[plane], buffers=(f32(reference),))


@contextmanager
def the_page(console: Console, port: int, folder: Path) -> Iterator[Any]:
    """The console in a thread, and its page in a browser."""
    stop = threading.Event()
    thread = threading.Thread(target=console.run, args=(stop,))
    thread.start()
    try:
        with chromium(folder / "profile") as browser:
            tab = browser.new_page()
            tab.set_default_timeout(60_000)
            until_there(tab, port)
            yield tab
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_rois_are_ranked_picked_and_drawn_on_the_page(tmp_path: Path, free_ports: Ports) -> None:
    *ports, port = free_ports(25)
    data = tmp_path / "runs"
    folder = write_journal(data / "2026-03-02T10-00-00-synthetic", make_session().envelopes)
    (tmp_path / "day.toml").write_text("day = 1\n", encoding="utf-8")
    rig_file = parse_rig(rig_text(ports, str(data)), tmp_path / "rig.toml")
    options = ConsoleOptions(port=port, sessions={"day": Startable(task="day.toml")})
    console = Console(options, rig_file)
    console.view.take(seal(rois(10), "imaging", "imaging-1", 0, 0), 0.0, 0.0)
    with the_page(console, port, tmp_path) as tab:
        tab.locator("#run-choice option", has_text="synthetic").wait_for(state="attached")
        tab.check("input[name=view][value=reference]")
        tab.click("#rank")
        tab.locator("#rank-words", has_text="the best first").wait_for()
        tab.fill("#who", "anna")
        for roi in (0, 1, 2):
            tab.check(f"[data-roi='{roi}']")
        over = tab.locator(".stack canvas").nth(1)
        size = over.bounding_box()
        over.click(position={"x": 115 / 180 * size["width"], "y": 25 / 120 * size["height"]})  # ROI 3
        tab.locator("#picked", has_text="4 picked (the paper: 8 or 10): 0, 1, 2, 3").wait_for()
        picture(tab, "day1", tmp_path, ["#candidates tbody tr", "#picked", "#draw", ".stack canvas"])
        tab.click("#draw")
        tab.locator("#drawn", has_text="confirmed by anna").wait_for()
        tab.locator("#session option", has_text="day 1 of").wait_for(state="attached")
    experiment = parse_toml((folder / DRAWN).read_text("utf-8"), Experiment, DRAWN)
    assert experiment.selection.rois == (0, 1, 2, 3)
    assert experiment.day == 1


COLOURED = """canvas => {
    const {width, height} = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    let green = 0, magenta = 0;
    for (let k = 0; k < data.length; k += 4) {
        if (data[k + 1] > data[k] + 60) green += 1;
        if (data[k] > data[k + 1] + 60 && data[k + 2] > data[k + 1] + 60) magenta += 1;
    }
    return [green, magenta];
}"""
"""How many points of today alone, and of day 1 alone."""

WHITE = """canvas => {
    const {width, height} = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    let white = 0;
    for (let k = 0; k < data.length; k += 4) white += Math.min(data[k], data[k + 1], data[k + 2]) > 100;
    return white;
}"""
"""How many points are bright on both days."""


def test_today_is_laid_over_day_1_on_the_page(tmp_path: Path, free_ports: Ports) -> None:
    *ports, port = free_ports(25)
    rig_file = parse_rig(rig_text(ports, str(tmp_path)), tmp_path / "rig.toml")
    console = Console(ConsoleOptions(port=port), rig_file)
    today = structs.replace(rois(10), match_to_day1=0.93)
    image = np.frombuffer(today.buffers[0], "<f4").reshape(120, 180)
    before = np.roll((image * (255 / image.max())).astype(np.uint8), 6, axis=1)  # half a square is beside its place
    lie = {"match": [0.93], "offset_y_px": [3.2], "offset_x_px": [-7.5], "rotation_deg": [0.4]}
    images = Day1Images(height=120, width=180, buffers=(before.tobytes(),), **lie)
    console.view.take(seal(today, "imaging", "imaging-1", 0, 0), 0.0, 0.0)
    console.view.take(seal(images, "imaging", "imaging-1", 0, 0), 0.0, 0.0)
    with the_page(console, port, tmp_path) as tab:
        tab.locator("#rois-line", has_text="plane 0 0.93, moved 3.2, -7.5 px, turned 0.4°").wait_for()
        tab.check("input[name=view][value=day1]")
        canvas = tab.locator(".stack canvas").first
        deadline = time.monotonic() + 60
        while min(found := canvas.evaluate(COLOURED)) < 10 * 30:  # of ten squares of 10 x 10
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


DAY = """
[baseline]
duration_s = 20
[calibration]
window_s = 5
[trial]
loop_s = 5
[closed_loop]
duration_s = {seconds}
"""
DAY_1 = """
day = 1
[selection]
rois = [0, 1, 2, 3, 4, 5, 6, 7]
seed = 3
"""


def test_the_second_day_of_an_animal_is_laid_over_its_first(tmp_path: Path, free_ports: Ports, spawn: Any) -> None:
    *ports, port = free_ports(29)
    (tmp_path / "day1.toml").write_text(DAY_1 + DAY.format(seconds=5), encoding="utf-8")
    (tmp_path / "later.toml").write_text(DAY.format(seconds=1200), encoding="utf-8")
    (tmp_path / "new.toml").write_text('[mouse]\nname = "m1"\n', encoding="utf-8")
    command = [sys.executable, "-m", "loop2p.cli.main", "run", str(tmp_path / "rig.toml"), "--quiet"]
    whole_rig(tmp_path, ports)
    day1 = [str(tmp_path / "day1.toml"), "--animal", str(tmp_path / "new.toml")]
    subprocess.run([*command, *day1], check=True, timeout=600)
    (run,) = (tmp_path / "runs").glob("2*")

    field = {"imaging": {"day1": str(run / "imaging_references.npz")}}
    with_console(whole_rig(tmp_path, ports, options=field, microscope={"seed": 2}), port)
    day2 = spawn(*command, str(tmp_path / "later.toml"), "--animal", str(run / "animal.toml"))
    with chromium(tmp_path / "profile") as browser:
        tab = browser.new_page()
        tab.set_default_timeout(60_000)
        until_there(tab, port)
        tab.locator("body[data-state=running]").wait_for()
        tab.locator("header", has_text="day 2").wait_for()
        tab.locator("#rois-line", has_text="(plane 0 0.9").wait_for()
        tab.check("input[name=view][value=day1]")
        white = tab.locator(".stack canvas").first
        deadline = time.monotonic() + 60
        while (found := white.evaluate(WHITE)) < 100:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        tab.fill("#who", "anna")
        picture(tab, "over-day1", tmp_path, ["#day1-choice", ".stack canvas", "#rois-line"])
        stop = tab.locator("[data-ask=stop]")
        stop.click()
        stop.click()
        assert day2.wait(120) == 0
    (second,) = set((tmp_path / "runs").glob("2*")) - {run}
    assert json.loads((second / "summary.json").read_text("utf-8"))["day"] == 2


def until_there(tab: Any, port: int) -> None:
    """Open the page as soon as it answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            tab.goto(f"http://127.0.0.1:{port}/")
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.parametrize("run", ["", "..", "../runs", "/etc", "nothing", "-h"])
def test_only_a_run_of_this_machine_is_looked_at(run: str, tmp_path: Path) -> None:
    day1 = Day1(parse_rig(rig_text(list(range(5500, 5600)), str(tmp_path))))
    with pytest.raises(Day1Error, match="no run"):
        asyncio.run(day1.candidates(Look(run)))


def test_what_the_command_refuses_is_refused_in_its_words(tmp_path: Path) -> None:
    write_journal(tmp_path / "one", make_session().envelopes)
    (tmp_path / "day.toml").write_text("day = 1\n", encoding="utf-8")
    day1 = Day1(parse_rig(rig_text(list(range(5500, 5600)), str(tmp_path))))
    with pytest.raises(Day1Error, match="even number"):
        asyncio.run(day1.draw(Draw("one", "day", [0, 1, 2], "anna"), tmp_path / "day.toml"))
    assert not (tmp_path / "one" / DRAWN).exists()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"run": 3}', b'{"run": "x", "more": 1}', b"[" * 10_000])
def test_a_malformed_request_is_refused(body: bytes) -> None:
    with pytest.raises(Day1Error, match="malformed"):
        read(body, Look)


def test_the_newest_runs_are_offered_first_and_no_folder_without_a_journal(tmp_path: Path) -> None:
    for name in ("2026-01-01", "2026-01-03", "2026-01-02"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.mcap").touch()
    (tmp_path / "logs").mkdir()
    assert runs(tmp_path) == ["2026-01-03", "2026-01-02", "2026-01-01"]
