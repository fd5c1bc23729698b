"""The proof of the picture: what another X client reads from the server, for every angle and for every command.

The grating is computed here once more, from the words of docs/experiment.md 2.7 and of the protocol, and by none of the
package's code. No monitor is here: nothing is said about refresh or light.
"""

import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mss
import numpy as np
import pytest
from needs import lacking
from numpy.typing import NDArray
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rigs import rig_text
from synthetic_session import make_session, write_journal
from typer.testing import CliRunner
from x_screen import x_screen

from loop2p.cli import screen as screen_command
from loop2p.cli.benchmarks import stimulus as bench
from loop2p.cli.benchmarks.xserver import TORN, eye, grab, photodiode, watching, which
from loop2p.protocol import Screen, Show, Shown, seal
from loop2p.recording.nwb import export_nwb
from loop2p.stimulus import Look, Renderer, picture
from loop2p.stimulus.core import DisplayError, UnavailableError
from loop2p.stimulus.testpicture import screen_test

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 640, 360
ANGLES = [*(k / 2 for k in range(181)), *range(-180, 0, 6), *range(91, 361, 6)]
"""0 to 90 deg, all that the task shows, in half degrees; and the rest of two turns, coarser."""


def by_hand(width: int, height: int, angle_deg: float) -> NDArray[np.float64]:
    """(height, width) exact levels, 0 to 255: six cycles a width, a Gaussian of an eighth of it, full contrast on grey.

    A wave that runs along the unit vector at `angle_deg`, counter-clockwise from the right: at 0 its bars are vertical.
    """
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    right, up = (2 * column + 1 - width) / 2, (height - 2 * row - 1) / 2  # pixel centres, from the middle
    along = ((right + 1j * up) * np.exp(-1j * math.radians(angle_deg))).real
    wave = np.exp(2j * np.pi * along / (width / 6)).real
    return 127.5 + 127.5 * wave * np.exp(-np.hypot(right, up) ** 2 / 2 / (width / 8) ** 2)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with x_screen(monkeypatch, WIDTH, HEIGHT) as name:
        yield name


@pytest.fixture
def opengl(display: str) -> str:
    """The display, where OpenGL draws on it."""
    from loop2p.stimulus.window import WindowRenderer

    try:
        WindowRenderer(Look(), fullscreen=False, width=64, height=64).close()
    except UnavailableError as error:
        if "no OpenGL" not in str(error):
            raise  # the X server is there: a missing window system is no excuse
        lacking(str(error))
    return display


@pytest.fixture
def window(opengl: str) -> Iterator[Callable[[Look], Renderer]]:
    from loop2p.stimulus.window import WindowRenderer

    made: list[Renderer] = []

    def make(look: Look) -> Renderer:
        made.append(WindowRenderer(look))
        return made[-1]

    yield make
    for renderer in made:
        renderer.close()


def test_every_angle_on_the_servers_screen_is_the_one_computed_by_hand(window, display):
    renderer = window(Look())
    worst = 0.0
    with mss.MSS(display=display) as client:
        for k, angle in enumerate(ANGLES):
            renderer.draw(Show(what="grating", angle_deg=float(angle)), k % 2 == 0)
            seen = grab(client, 0, 0, WIDTH, HEIGHT).astype(float)
            assert (seen[-64:, -64:] == (255 if k % 2 == 0 else 0)).all(), "the patch"
            off = np.abs(seen - by_hand(WIDTH, HEIGHT, angle))
            off[-64:, -64:] = 0
            assert off.max() <= 1, f"{angle} deg: {off.max():.2f}/255 off, expected at most 1"
            worst = max(worst, off.max())
    print(f"{len(ANGLES)} angles, worst pixel {worst:.3f}/255 off the exact level")
    assert worst > 0.25, "8-bit levels can't all be exact: something compares a picture with itself"


@pytest.mark.parametrize("size", [(320, 200), (321, 201), (200, 320)])
def test_the_reference_is_the_one_computed_by_hand(size):
    for angle in range(-180, 361, 5):
        image = picture(*size, Show(what="grating", angle_deg=float(angle)), look=Look(patch_px=0))
        assert np.abs(image - by_hand(*size, angle)).max() <= 0.5 + 1e-6


def test_a_picture_turned_the_wrong_way_would_be_noticed():
    """The comparison above can fail: on the mirror image, and on one degree."""
    at_30 = by_hand(WIDTH, HEIGHT, 30)
    assert np.abs(at_30 - at_30[:, ::-1]).max() > 100
    assert np.abs(at_30 - by_hand(WIDTH, HEIGHT, 31)).max() > 5


@pytest.mark.parametrize("cycles", [0.0, 0.25, 0.6, 1.0, 7.3])
def test_a_grating_that_has_drifted_is_the_reference_at_that_phase(window, display, cycles):
    renderer = window(Look())
    show = Show(what="grating", angle_deg=40.0)
    renderer.draw(show, True, cycles)
    with mss.MSS(display=display) as client:
        assert which(grab(client, 0, 0, WIDTH, HEIGHT), [picture(WIDTH, HEIGHT, show, True, cycles=cycles)]) == 0


def test_an_image_is_put_up_pixel_by_pixel(window, display):
    renderer = window(Look())
    image = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    renderer.put(image)
    with mss.MSS(display=display) as client:
        np.testing.assert_array_equal(grab(client, 0, 0, WIDTH, HEIGHT), image)


# ---------------------------------------------------------------- against another program's picture


@pytest.mark.parametrize("angle", [0, 15, 30, 45, 60, 75, 90, 120])
def test_stimupy_draws_the_same_grating(angle):
    gabors = pytest.importorskip("stimupy.stimuli.gabors", reason="stimupy is not installed: pip install stimupy")
    width, height = 640, 480
    theirs = gabors.gabor(
        visual_size=(height, width), ppd=1, frequency=6 / width, sigma=width / 8, rotation=angle, phase_shift=90,
        origin="mean", intensities=(0.0, 1.0),
    )["img"]  # fmt: skip
    image = picture(width, height, Show(what="grating", angle_deg=float(angle)), look=Look(patch_px=0))
    assert np.abs(image - np.floor(255 * theirs + 0.5)).max() <= 1


# ---------------------------------------------------------------- every command


def test_every_command_is_shown_or_named_and_every_picture_is_whole(opengl):
    result = bench.bench_stimulus(150, seed=1, display=opengl)
    print(json.dumps({k: v for k, v in result.items() if k != "machine"}, indent=1))
    assert result["commands"] == 150
    assert result["unaccounted"] == 0
    assert result["shown"] + result["superseded"] >= 150
    assert (result["torn"], result["wrong"]) == (0, 0)
    assert 0 < result["patch_toggles_seen"] <= result["pictures_reported"]
    assert result["toggles_off"] == 0
    assert result["looked"] > 0
    assert (result["display"], result["vsync"]) == (False, False)
    assert result["command_to_swap_ms"]["n"] == result["shown"]


def shown(seq: int, *overtaken: int) -> Shown:
    return Shown(what="grey", flip_ns=seq, show_seq=seq, overtaken=list(overtaken), superseded=len(overtaken))


def test_a_command_that_nobody_names_is_found():
    assert bench.account([shown(0), shown(3, 1, 2), shown(4)]).missing(range(5)) == []
    assert bench.account([shown(0), shown(3, 1), shown(4)]).missing(range(5)) == [2]
    assert bench.account([shown(0), shown(3, 1, 2)]).missing(range(5)) == [4]
    assert bench.account([shown(0), shown(1, 2), shown(3)]).missing(range(4)) == [2], "by a later one"
    own = Shown(what="grey", flip_ns=9, overtaken=[1])
    assert bench.account([shown(0), own]).missing(range(3)) == [2], "the service's own grey names what it overtook"


def test_the_benchmark_counts_what_was_seen_against_what_was_reported():
    ms = 1_000_000
    run = [
        Shown(what="black", flip_ns=20 * ms, show_seq=5, patch=True),
        Shown(what="grating", angle_deg=15.0, flip_ns=50 * ms, show_seq=7, overtaken=[6], superseded=1, patch=False),
    ]
    first = Shown(what="grey", flip_ns=0, show_seq=4, patch=False)
    sent_ns = {5: 10 * ms, 6: 30 * ms, 7: 35 * ms}
    grey, black, at_15 = (bench._number(m) for m in (first, *run))
    size = {"width_px": 9, "height_px": 9}
    screen = Screen(renderer="", display=False, refresh_hz=50.0, vsync=False, cycles_per_width=6, **size)
    edges = [(19 * ms, 21 * ms, True), (49 * ms, 52 * ms, False)]
    seen = [(t * ms, (t + 1) * ms, number) for t, number in [(2, grey), (19, black), (30, black), (60, at_15)]]
    good = bench._result(run, sent_ns, first, edges, [], seen, screen)
    assert (good["commands"], good["shown"], good["superseded"], good["unaccounted"]) == (3, 2, 1, 0)
    assert (good["torn"], good["wrong"], good["looked"]) == (0, 0, 4)
    assert (good["patch_toggles_seen"], good["toggles_off"]) == (2, 0)
    assert (good["command_to_swap_ms"]["p50"], good["median_frames"]) == (12.5, 0.625)
    assert (good["command_to_pixels_ms"]["max"], good["swap_to_pixels_ms"]["max"]) == (17.0, 2.0)
    late = [(60 * ms, 61 * ms, black), (62 * ms, 63 * ms, at_15 + 1), (70 * ms, 71 * ms, TORN)]
    bad = bench._result(run, sent_ns, first, edges, [], [*seen, *late], screen)
    assert (bad["torn"], bad["wrong"]) == (1, 2), "what was reported before, the wrong patch, and none of the pictures"
    toggles = [([], []), ([], [9 * ms]), ([], [11 * ms]), ([*edges, (60 * ms, 61 * ms, True)], [])]
    off = [bench._result(run, sent_ns, first, some, long, seen, screen)["toggles_off"] for some, long in toggles]
    assert off == [2, 2, 0, -1], "missed; missed while looking; missed while not looking; one that nobody reported"


def test_a_torn_picture_is_found(window, display):
    renderer = window(Look())
    references = [picture(WIDTH, HEIGHT, Show(what="grating", angle_deg=a)) for a in (0.0, 90.0)]
    torn = references[0].copy()
    torn[HEIGHT // 2 :] = references[1][HEIGHT // 2 :]
    renderer.put(torn)
    with watching(eye, display, references) as end:
        pass_by = end()
    assert {number for _, _, number in pass_by} <= {TORN}
    assert which(torn, references) == TORN
    assert which(references[1], references) == 1


def test_the_virtual_photodiode_sees_each_toggle(window, display):
    renderer = window(Look())
    grey = Show(what="grey")
    renderer.draw(grey, False)
    draws: list[tuple[int, int, bool]] = []
    with watching(photodiode, display, WIDTH - 32, HEIGHT - 32) as end, mss.MSS(display=display) as client:
        for k in range(20):
            draws.append((time.perf_counter_ns(), renderer.draw(grey, k % 2 == 0), k % 2 == 0))
            for _ in range(50):  # grabs of our own: the server serves clients in turn, so the other one looks as well
                grab(client, 0, 0, 320, 200)
        edges, _ = end()
    assert 0 < len(edges) <= 20
    ends = [flip_ns for _, flip_ns, _ in draws[1:]] + [math.inf]
    for before_ns, after_ns, level in edges:
        assert any(
            bright == level and begun_ns <= after_ns and before_ns <= end_ns
            for (begun_ns, _, bright), end_ns in zip(draws, ends, strict=True)
        )


# ---------------------------------------------------------------- the screen that is wrong


def test_a_monitor_whose_swaps_do_not_wait_for_its_refresh_is_refused(opengl, monkeypatch):
    """The virtual screen says of itself that it is a monitor of 60 Hz; its swaps come as fast as they are drawn."""
    import glfw

    from loop2p.stimulus.window import WindowRenderer

    mode = glfw.get_video_mode
    monkeypatch.setattr(glfw, "get_video_mode", lambda monitor: mode(monitor)._replace(refresh_rate=60))
    options = {"fullscreen": False, "width": 64, "height": 64}
    with pytest.raises(DisplayError, match=r"measured \d+\.\d\d Hz \(the system says 60 Hz\), expected 60 Hz"):
        WindowRenderer(Look(), refresh_hz=60.0, **options)
    renderer = WindowRenderer(Look(), refresh_hz=60.0, any_refresh=True, **options)
    assert (renderer.is_display, renderer.vsync, renderer.refresh_hz) == (True, False, 60.0)
    renderer.close()


# ---------------------------------------------------------------- loop2p screen


@pytest.fixture
def rig_file(free_ports, tmp_path):
    path = tmp_path / "rig.toml"
    options = {"stimulus": {"renderer": "window", "monitor_width_cm": 52.0, "gamma": 2.2}}
    path.write_text(rig_text(free_ports(24), str(tmp_path), options=options), encoding="utf-8")
    return path


@pytest.fixture
def app():
    import typer

    made = typer.Typer()
    screen_command.register(made)
    return made


def test_the_test_picture_comes_up_on_the_rigs_screen(opengl, rig_file, app, monkeypatch):
    seen = []

    def look(_renderer, _ask):
        with mss.MSS(display=opengl) as client:
            seen.append(grab(client, 0, 0, WIDTH, HEIGHT))
        return ""

    monkeypatch.setattr(screen_command, "waiting", look)
    result = CliRunner().invoke(app, [str(rig_file)])
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(seen[0], screen_test(WIDTH, HEIGHT, Look(gamma=2.2)))
    assert "NO DISPLAY: nobody sees this" in result.output
    assert "0.0403 cycles per degree" in result.output
    assert "corrected for a monitor of exponent 2.2" in result.output


def test_luminance_is_measured_grey_by_grey_and_gives_the_rig_files_line(opengl, rig_file, app, monkeypatch):
    levels = []

    def photometer(_renderer, _ask):
        with mss.MSS(display=opengl) as client:
            image = grab(client, 0, 0, WIDTH, HEIGHT)
        assert np.ptp(image) == 0
        levels.append(int(image[0, 0]))
        return f"{0.5 + 100 * (levels[-1] / 255) ** 2.2:.2f}"

    monkeypatch.setattr(screen_command, "waiting", photometer)
    result = CliRunner().invoke(app, [str(rig_file), "--levels", "5"])
    assert result.exit_code == 0, result.output
    assert levels == [0, 64, 128, 191, 255]
    assert "gamma_points = [[0, 0.5], [64, 5.28], [128, 22.45], [191, 53.45], [255, 100.5]]" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--levels", "2"], "expected 3 or more"), ([], "no window system")],
)
def test_a_screen_that_can_not_be_used_is_said_in_one_line(rig_file, app, monkeypatch, arguments, said):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    result = CliRunner().invoke(app, [str(rig_file), *arguments])
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_the_test_picture_in_the_docs_is_the_one_that_is_shown(app, tmp_path):
    from PIL import Image

    kept = ROOT / "docs" / "images" / "stimulus-test-picture.png"
    fresh = tmp_path / "fresh.png"
    result = CliRunner().invoke(app, [str(ROOT / "deploy" / "rigs" / "simulated.toml"), "--png", str(fresh)])
    assert result.exit_code == 0, result.output
    with Image.open(kept) as a, Image.open(fresh) as b:
        old, new = np.asarray(a).astype(int), np.asarray(b).astype(int)
    assert old.shape == new.shape
    assert (np.abs(old - new) > 1).mean() < 0.02, "make it anew: loop2p screen deploy/rigs/simulated.toml --png PATH"
    assert kept.stat().st_size < 100_000


def test_the_marks_on_the_test_picture_stand_where_the_grating_turns_to():
    """The arrow ends at +30 deg, counter-clockwise from the top, and there lies the bright bar: up and to the left."""
    plain = picture(WIDTH, HEIGHT, Show(what="grating", angle_deg=30.0), True)
    marked = screen_test(WIDTH, HEIGHT).astype(int) != plain
    radius = 0.36 * HEIGHT
    for angle, there in ((0.0, True), (15.0, True), (30.0, True), (-15.0, False), (-30.0, False)):
        x = round(WIDTH / 2 - radius * math.sin(math.radians(angle)))
        y = round(HEIGHT / 2 - radius * math.cos(math.radians(angle)))
        assert marked[y - 3 : y + 4, x - 3 : x + 4].any() == there, f"the arc at {angle} deg"
    along_bar = plain[round(HEIGHT / 2 - 40), round(WIDTH / 2 - 40 * math.tan(math.radians(30)))]
    mirrored = plain[round(HEIGHT / 2 - 40), round(WIDTH / 2 + 40 * math.tan(math.radians(30)))]
    assert along_bar > 180 > 128 > mirrored


# ---------------------------------------------------------------- the record, and what must be installed


def test_the_nwb_file_says_how_the_grating_looked_on_the_screen(tmp_path):
    import pynwb

    made = make_session(seconds=60)
    at, first = made.envelopes[0]
    screen = Screen(
        renderer="window on screen 1", display=False, width_px=1280, height_px=720, refresh_hz=59.94, vsync=True,
        cycles_per_width=6.0, cycles_per_degree=0.04028, gamma="linear: no correction",
    )  # fmt: skip
    made.envelopes.insert(1, (at, seal(screen, "stimulus", "stimulus-1", 0, first.header.sent_ns)))
    with pynwb.NWBHDF5IO(export_nwb(write_journal(tmp_path, made.envelopes)), "r") as file:
        comments = file.read().stimulus["ShownAngle"].comments
    assert comments == (
        "window on screen 1; 1280 x 720 px; 59.94 Hz, paced by the monitor; 6 cycles a screen width, 0.0403 cycles per "
        "degree in its middle; not drifting; luminance linear: no correction; NO DISPLAY: nobody saw it"
    )


IMPORT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}, as where it is not installed", name=name)

sys.meta_path.insert(0, Absent())
import loop2p.cli.main, loop2p.cli.screen, loop2p.runtime.process, loop2p.stimulus.service
import loop2p.stimulus.window, loop2p.stimulus.headless, loop2p.stimulus.software, loop2p.stimulus.testpicture
"""


def brought_by(extra: str) -> set[str]:
    """Names of the distributions that `pip install loop2p[extra]` brings, loop2p's own among them."""
    brought, waiting = {"loop2p"}, [("loop2p", extra)]
    while waiting:
        name, wanted = waiting.pop()
        for line in importlib.metadata.requires(name) or []:
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"extra": wanted}):
                new = canonicalize_name(one.name) not in brought
                brought.add(canonicalize_name(one.name))
                waiting += [(one.name, more) for more in ("", *one.extras) if new or more]
    return brought


def test_the_service_imports_where_only_its_own_extra_is_installed():
    brought = brought_by("stimulus")
    assert {"moderngl", "glfw", "numpy", "pyzmq"} <= brought
    owners = importlib.metadata.packages_distributions()
    absent = [name for name, by in owners.items() if not {canonicalize_name(one) for one in by} & brought]
    assert {"scipy", "mcap", "h5py", "numba"} <= set(absent), "what other services need is what this test takes away"
    done = subprocess.run([sys.executable, "-c", IMPORT, *absent], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
