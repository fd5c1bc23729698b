"""The shader's pixels against the reference, off-screen and on an X server that a second client looks at.

No monitor is here, so nothing is said about refresh or light: only that the right pixels are in the server.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import mss
import numpy as np
import pytest
import zmq
from needs import lacking
from numpy.typing import NDArray
from rigs import rig_text
from x_screen import x_screen

from loop2p.protocol import Alarm, Cause, Fault, Heartbeat, Message, Screen, Show, Shown, open_parts, parse_rig, seal
from loop2p.runtime import RigClock
from loop2p.stimulus import Look, picture
from loop2p.stimulus.core import DisplayError, Renderer, UnavailableError
from loop2p.stimulus.service import Stimulus, StimulusOptions, open_renderer, why_no_display

WIDTH, HEIGHT = 640, 480
SHOWS = [
    *(Show(what="grating", angle_deg=float(a)) for a in (0, 15, 30, 45, 60, 75, 90)),
    Show(what="grey"),
    Show(what="black"),
]
LOOKS = {
    "plain": Look(),
    "gamma": Look(gamma=2.2),
    "table": Look(gamma=[(i / 255) ** 0.8 for i in range(256)], contrast=0.6, cycles_per_width=5, patch_px=0),
}


def assert_same(found: NDArray[np.uint8], wanted: NDArray[np.uint8], what: object) -> None:
    """Within 1/255 everywhere."""
    assert found.shape == wanted.shape
    worst = np.abs(found.astype(int) - wanted.astype(int)).max()
    assert worst <= 1, f"{what}: {worst}/255 off, expected at most 1"


@pytest.fixture
def headless() -> Iterator[Callable[[Look], Renderer]]:
    made: list[Renderer] = []

    def make(look: Look) -> Renderer:
        from loop2p.stimulus.headless import HeadlessRenderer

        try:
            made.append(HeadlessRenderer(WIDTH, HEIGHT, 60.0, look))
        except UnavailableError as error:
            lacking(str(error))
        return made[-1]

    yield make
    for renderer in made:
        renderer.close()


@pytest.mark.parametrize("name", LOOKS)
def test_off_screen_pixels_are_the_references(headless, name):
    look = LOOKS[name]
    renderer = headless(look)
    for k, show in enumerate(SHOWS):
        before = time.perf_counter_ns()
        flip_ns = renderer.draw(show, k % 2 == 0)
        assert before < flip_ns <= time.perf_counter_ns()
        assert_same(renderer.pixels(), picture(WIDTH, HEIGHT, show, k % 2 == 0, look), show)
    assert not renderer.is_display


def test_two_off_screen_contexts_do_not_draw_into_each_other(headless):
    a, b = headless(LOOKS["plain"]), headless(LOOKS["plain"])
    a.draw(SHOWS[2], True)
    b.draw(SHOWS[6], False)
    assert_same(a.pixels(), picture(WIDTH, HEIGHT, SHOWS[2], True), "first")
    assert_same(b.pixels(), picture(WIDTH, HEIGHT, SHOWS[6], False), "second")


# ---------------------------------------------------------------- an X server and a second client


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with x_screen(monkeypatch, WIDTH, HEIGHT) as name:
        yield name


@pytest.fixture
def window(display: str) -> Iterator[Callable[..., Renderer]]:
    made: list[Renderer] = []

    def make(look: Look, **options: object) -> Renderer:
        from loop2p.stimulus.window import WindowRenderer

        try:
            made.append(WindowRenderer(look, **options))  # type: ignore[arg-type]
        except UnavailableError as error:
            if "no OpenGL" not in str(error):
                raise  # the X server is there: a missing window system is no excuse
            lacking(str(error))
        return made[-1]

    yield make
    for renderer in made:
        renderer.close()


@pytest.fixture
def eye(display: str) -> Iterator[Callable[[], NDArray[np.uint8]]]:
    """What the X server's screen holds, seen by a client of its own."""
    with mss.MSS(display=display) as grabber:

        def look() -> NDArray[np.uint8]:
            image = np.asarray(grabber.grab({"left": 0, "top": 0, "width": WIDTH, "height": HEIGHT}))
            np.testing.assert_array_equal(image[..., 0], image[..., 2])  # no colour
            return image[..., 1].copy()

        yield look


@pytest.mark.parametrize("name", ["plain", "gamma"])
def test_the_servers_pixels_are_the_references(window, eye, name):
    look = LOOKS[name]
    renderer = window(look)
    for k, show in enumerate(SHOWS):
        renderer.draw(show, k % 2 == 0)
        wanted = picture(WIDTH, HEIGHT, show, k % 2 == 0, look)
        assert_same(eye(), wanted, show)
        assert_same(renderer.pixels(), wanted, show)
        assert_same(eye(), wanted, "reading back changed the screen")


def test_a_virtual_screen_is_no_display_and_is_paced_by_the_clock(window):
    renderer = window(LOOKS["plain"], refresh_hz=60.0)
    assert (renderer.is_display, renderer.vsync, renderer.refresh_hz) == (False, False, 60.0)
    assert renderer.measured_hz > 0
    assert "virtual" in why_no_display(renderer, "auto", [])


def test_a_plain_window_has_the_size_asked_for(window):
    renderer = window(LOOKS["plain"], fullscreen=False, width=320, height=200)
    renderer.draw(SHOWS[2], True)
    renderer.poll()
    assert_same(renderer.pixels(), picture(320, 200, SHOWS[2], True), "plain window")


def test_a_picture_that_was_damaged_is_drawn_again_without_a_flip_of_the_patch(window, eye):
    renderer = window(LOOKS["plain"])
    renderer.draw(SHOWS[2], True)
    wanted = renderer._last
    renderer.draw(Show(what="black"), False)  # as if something had covered it
    renderer._last = wanted
    assert eye().max() == 0
    renderer._damage(None)
    renderer.poll()
    assert_same(eye(), picture(WIDTH, HEIGHT, SHOWS[2], True), "after damage")


def test_a_screen_that_is_not_connected_is_named(window):
    with pytest.raises(DisplayError, match=r"options\.screen: found 3, expected a number below 1"):
        window(LOOKS["plain"], screen=3)
    renderer = window(LOOKS["plain"])  # and the window system can be used again
    assert renderer.size == (WIDTH, HEIGHT)


def test_every_picture_and_every_patch_level_reported_is_seen_by_another_client(window, eye):
    look = LOOKS["plain"]
    renderer = window(look)
    clock = RigClock()
    stimulus = Stimulus(renderer, clock, logging.getLogger("test.stimulus"), no_display="virtual screen")
    shown: list[Shown] = []
    seen: list[bool] = []

    def run_until_idle() -> None:
        while (due := stimulus.due_ns()) is not None:
            time.sleep(max(0, due - time.perf_counter_ns()) / 1e9)
            for message in stimulus.read():
                if isinstance(message, Alarm | Screen):
                    continue
                assert isinstance(message, Shown)
                shown.append(message)
                image = eye()
                seen.append(bool(image[-1, -1] == 255))
                show = Show(what=message.what, angle_deg=message.angle_deg)
                assert_same(image, picture(WIDTH, HEIGHT, show, message.patch, look), show)
            list(stimulus.tick())

    run_until_idle()
    rng = np.random.default_rng(3)
    for frame in range(40):
        for _ in range(rng.integers(1, 3)):  # now and then two in one frame: the newer wins
            show = SHOWS[rng.integers(len(SHOWS))]
            cause = Cause(frame=frame, plane=0, time_s=frame / 30.92, arrival_ns=clock.now_ns())
            list(stimulus.handle(Show(what=show.what, angle_deg=show.angle_deg, cause=cause)))
        run_until_idle()
    counts = stimulus.counters()
    assert counts["drawn"] == len(shown) > 20
    assert counts["superseded"] > 0
    assert seen == [s.patch for s in shown]
    assert all(a != b for a, b in pairwise(seen)), "the patch toggles at every picture"
    assert all(s.cause is not None and s.cause.arrival_ns < s.flip_ns for s in shown[1:])


def test_auto_takes_the_window_where_there_is_a_screen_and_says_so_where_there_is_none(display, monkeypatch):
    renderer, failed = open_renderer(StimulusOptions())
    renderer.close()
    assert renderer.name.startswith("window on screen 0")
    assert failed == []
    monkeypatch.delenv("DISPLAY")
    renderer, failed = open_renderer(StimulusOptions(width_px=WIDTH, height_px=HEIGHT))
    renderer.close()
    assert renderer.name.startswith(("headless", "software"))
    assert failed[0].startswith("window: no window system: ")
    assert "no picture is shown to any animal" in why_no_display(renderer, "auto", failed)
    assert "DISPLAY" in why_no_display(renderer, "auto", failed)


# ---------------------------------------------------------------- the process

SERVE = "import sys; from loop2p.protocol import read_rig; from loop2p.runtime.process import serve; "
SERVE += "sys.exit(serve('stimulus', read_rig(sys.argv[1])))"


class FakeTask:
    """Speaks as the task on its own PUB socket, and hears the stimulus service."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], publish: str, stimulus: str) -> None:
        self.pub, self.sub = context.socket(zmq.PUB), context.socket(zmq.SUB)
        self.pub.linger = self.sub.linger = 0
        self.pub.bind(publish)
        self.sub.connect(stimulus)
        self.sub.subscribe(b"")
        self.seq: dict[str, int] = {}
        self.heard: list[Message] = []

    def say(self, message: Message) -> None:
        seq = self.seq.get(message.topic, 0)
        self.seq[message.topic] = seq + 1
        self.pub.send_multipart(seal(message, "task", "task-1", seq, time.perf_counter_ns()).parts())

    def until(self, condition: Callable[[Message], bool], *, alive: bool = True, say: Message | None = None) -> Message:
        """Wait for a message; meanwhile send heartbeats (if `alive`) and repeat `say`, as state is for late joiners."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if alive:
                self.say(Heartbeat(health="ready"))
            if say is not None:
                self.say(say)
            if self.sub.poll(50):
                message = open_parts(self.sub.recv_multipart()).message
                assert not isinstance(message, Fault), message
                self.heard.append(message)
                if condition(message):
                    return message
        raise AssertionError(f"not heard within 60 s; heard {[m.topic for m in self.heard[-20:]]}")


def is_shown(what: str) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, Shown) and message.what == what


def test_the_process_draws_goes_grey_without_its_task_and_leaves_in_peace(display, eye, free_ports, spawn, tmp_path):
    rig_file = tmp_path / "rig.toml"
    options = {"stimulus": {"renderer": "window", "monitor_width_cm": 52.0}}
    rig_file.write_text(rig_text(free_ports(24), str(tmp_path), options=options), encoding="utf-8")
    services = parse_rig(rig_file.read_text(encoding="utf-8")).rig.services
    process = spawn(sys.executable, "-W", "error", "-c", SERVE, str(rig_file), stderr=subprocess.PIPE)
    with zmq.Context() as context:
        task = FakeTask(context, services["task"].publish, services["stimulus"].publish)
        with task.pub, task.sub:
            show = Show(what="grating", angle_deg=30.0, cause=Cause(frame=5, plane=1, time_s=0.16, arrival_ns=1))
            task.until(lambda message: isinstance(message, Heartbeat))  # reports are not repeated: listen first
            shown = task.until(is_shown("grating"), say=show)
            assert isinstance(shown, Shown)
            assert (shown.angle_deg, shown.cause) == (30.0, show.cause)
            assert_same(eye(), picture(WIDTH, HEIGHT, show, shown.patch), show)
            again = task.until(lambda m: isinstance(m, Heartbeat) and m.counters.get("repeated", 0) >= 3, say=show)
            assert isinstance(again, Heartbeat)
            losses = again.counters["task_losses"]  # 0 unless this machine stood still for a second
            assert again.counters["drawn"] <= 2 + 2 * losses, "the same Show again is no new flip"
            grey = task.until(is_shown("grey"), alive=False)
            assert isinstance(grey, Shown)
            assert grey.cause is None
            assert_same(eye(), picture(WIDTH, HEIGHT, Show(what="grey"), grey.patch), "grey")
            task.until(is_shown("grating"))  # the task is heard again and still wants the grating
            process.terminate()
            task.until(is_shown("grey"))
    assert process.wait(20) == 0, process.stderr.read().decode()
