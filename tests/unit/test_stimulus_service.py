"""The stimulus service on the in-process bus, with the software renderer and a clock that the test turns."""

import logging
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.protocol import Alarm, Cause, FileError, Heartbeat, Screen, Show, Shown, parse_rig, seal
from loop2p.runtime import Context, LocalBus, RigClock
from loop2p.stimulus import Look, Newest, picture
from loop2p.stimulus.core import GREY, DisplayError, UnavailableError
from loop2p.stimulus.service import Stimulus, StimulusOptions, open_renderer
from loop2p.stimulus.software import SoftwareRenderer

LOOK = Look(patch_px=8)
SIZE = (64, 48)
PERIOD_NS = round(1e9 / 60)
LOG = logging.getLogger("test.stimulus")


class Rig:
    """A stimulus service on a bus, and the clock they live by."""

    def __init__(self, offset_ns: int = 0, **options: object) -> None:
        self.now = 1_000_000_000
        self.clock = RigClock()
        self.clock.offset_ns = offset_ns
        self.renderer = SoftwareRenderer(*SIZE, 60.0, LOOK, self.now_ns)
        self.stimulus = Stimulus(self.renderer, self.clock, LOG, now_ns=self.now_ns, **options)  # type: ignore[arg-type]
        self.bus = LocalBus(self.stimulus, now_ns=lambda: self.clock.rig_ns(self.now))

    def now_ns(self) -> int:
        return self.now

    def settle(self) -> "Rig":
        """Past the alarm and the first grey."""
        self.frames(2)
        return self

    def show(self, what: str, angle: float | None = None, frame: int = 0, source: str = "task") -> None:
        cause = Cause(frame=frame, plane=0, time_s=frame / 30.92, arrival_ns=self.now)
        self.bus.publish(Show(what=what, angle_deg=angle, cause=cause), source)  # type: ignore[arg-type]

    def until(self, then_ns: int) -> None:
        """Let time pass; the service is read whenever it is due, as the runtime does."""
        while (due := self.stimulus.due_ns()) is not None and due <= then_ns:
            self.now = max(self.now, due)
            for message in self.stimulus.read():
                self.bus.publish(message, "stimulus")
        self.now = max(self.now, then_ns)

    def frames(self, n: float) -> None:
        self.until(self.now + round(n * PERIOD_NS))

    def heartbeat(self) -> None:
        self.bus.publish(Heartbeat(health="ready"), "task")

    @property
    def shown(self) -> list[Shown]:
        return [m for m in self.bus.messages if isinstance(m, Shown)]


def test_it_starts_with_a_grey_screen_and_says_so():
    rig = Rig()
    assert (rig.renderer.pixels()[:-8] == 128).all()
    rig.frames(2)
    assert [(s.what, s.cause) for s in rig.shown] == [("grey", None)]


def test_a_picture_is_drawn_at_the_next_frame_and_reported_with_its_cause_and_flip_time():
    rig = Rig(offset_ns=7_000_000_000).settle()
    asked = rig.now
    rig.show("grating", 45.0, frame=7)
    assert len(rig.shown) == 1, "nothing is drawn while a newer Show may still come"
    rig.frames(1)
    shown = rig.shown[-1]
    assert (shown.what, shown.angle_deg, shown.superseded) == ("grating", 45.0, 0)
    assert shown.cause is not None
    assert shown.cause.frame == 7
    assert asked < shown.flip_ns - 7_000_000_000 <= asked + PERIOD_NS, (
        "flip time is on the rig clock: local plus offset"
    )
    show = Show(what="grating", angle_deg=45.0)
    np.testing.assert_array_equal(rig.renderer.pixels(), picture(*SIZE, show, shown.patch, LOOK))


def test_the_newest_wins_and_the_overtaken_are_counted():
    rig = Rig().settle()
    for frame, angle in enumerate((15.0, 30.0, 60.0)):
        rig.show("grating", angle, frame=frame)
    rig.frames(3)
    assert [(s.angle_deg, s.superseded) for s in rig.shown[1:]] == [(60.0, 2)]
    assert rig.shown[-1].cause is not None
    assert rig.shown[-1].cause.frame == 2
    rig.show("black")
    rig.frames(1)
    assert rig.shown[-1].superseded == 0, "the count starts anew with each picture"


def test_a_newer_show_does_not_put_the_drawing_off():
    rig = Rig().settle()
    rig.show("grating", 15.0)
    due = rig.stimulus.due_ns()
    rig.frames(0.5)
    rig.show("grating", 30.0)
    assert rig.stimulus.due_ns() in (due, None)
    rig.frames(1)
    assert len(rig.shown) == 2


def test_the_patch_changes_level_at_every_picture():
    rig = Rig().settle()
    levels = []
    for what, angle in [("grating", 0.0), ("grating", 15.0), ("black", None), ("grey", None)]:
        rig.show(what, angle)
        rig.frames(1)
        levels.append(bool(rig.renderer.pixels()[-1, -1]))
        assert rig.shown[-1].patch == levels[-1]
    assert levels == [not rig.shown[0].patch, rig.shown[0].patch] * 2


def test_a_show_that_is_sent_again_changes_nothing():
    rig = Rig().settle()
    rig.show("grating", 15.0)
    rig.frames(1)
    before = rig.renderer.pixels()
    rig.show("grating", 15.0)
    assert rig.stimulus.due_ns() is None
    rig.frames(3)
    assert len(rig.shown) == 2
    np.testing.assert_array_equal(rig.renderer.pixels(), before)


def test_a_show_that_is_sent_again_after_a_restart_is_drawn():
    show = Show(what="grating", angle_deg=75.0)
    rig = Rig()  # a fresh service, as after a restart: the re-sent state is its first message
    rig.bus.publish(show, "task")
    rig.frames(2)
    assert rig.shown[-1].angle_deg == 75.0
    np.testing.assert_array_equal(rig.renderer.pixels(), picture(*SIZE, show, rig.shown[-1].patch, LOOK))


def test_there_and_back_within_a_frame_is_a_picture_of_its_own_that_accounts_for_the_one_it_overtook():
    rig = Rig().settle()
    rig.show("grating", 15.0)
    rig.show("grey")
    rig.frames(2)
    assert [(s.what, s.show_seq, s.overtaken) for s in rig.shown] == [("grey", -1, []), ("grey", 1, [0])]


def test_each_overtaken_command_is_named_by_the_picture_that_overtook_it():
    rig = Rig().settle()
    for angle in (15.0, 30.0, 45.0):
        rig.show("grating", angle)
    rig.frames(1)
    rig.show("grating", 60.0)
    rig.frames(1)
    assert [(s.show_seq, s.overtaken, s.superseded) for s in rig.shown[1:]] == [(2, [0, 1], 2), (3, [], 0)]


def test_a_command_for_the_grey_that_the_service_put_up_by_itself_is_answered():
    rig = Rig().settle()
    rig.heartbeat()
    rig.show("grating", 15.0)
    rig.until(rig.now + 1_100_000_000)
    rig.stimulus.tick()  # the task fell silent: the screen goes grey
    rig.frames(2)
    rig.show("grey")
    rig.frames(2)
    assert [(s.what, s.show_seq) for s in rig.shown[1:]] == [("grating", 0), ("grey", -1), ("grey", 1)]
    rig.heartbeat()
    rig.until(rig.now + 1_100_000_000)
    rig.stimulus.tick()
    rig.frames(2)
    assert rig.stimulus.losses == 2
    assert rig.shown[-1].show_seq == 1, "the grey of the task is grey enough for the service"


def test_a_stop_names_what_it_overtook_and_is_nobodys_command():
    rig = Rig().settle()
    rig.show("grating", 15.0)
    rig.frames(1)
    rig.show("grating", 30.0)
    (grey,) = rig.stimulus.go_safe()
    assert isinstance(grey, Shown)
    assert (grey.what, grey.show_seq, grey.overtaken) == ("grey", -1, [1])


def test_the_services_own_grey_has_no_name_among_the_overtaken():
    newest = Newest()
    newest.ask(GREY)
    newest.ask(Show(what="grey"), 7)
    assert newest.drew() == (1, [])
    assert newest.seq == 7


def test_of_a_flood_the_last_thousand_are_named_and_all_are_counted():
    newest = Newest()
    for seq in range(5000):
        newest.ask(Show(what="grating", angle_deg=float(seq)), seq)
    count, overtaken = newest.drew()
    assert (count, overtaken, newest.seq) == (4999, list(range(3999, 4999)), 4999)


pictures = st.one_of(
    st.builds(Show, what=st.sampled_from(["grey", "black"])),
    st.builds(Show, what=st.just("grating"), angle_deg=st.sampled_from([0.0, 45.0, 90.0])),
)


@given(st.lists(st.tuples(pictures, st.sampled_from([0.0, 0.3, 1.0, 2.5])), max_size=30))
def test_nothing_is_lost_or_unaccounted_for(schedule):
    rig = Rig().settle()
    for show, wait_frames in schedule:
        rig.bus.publish(show, "task")
        if wait_frames:
            rig.frames(wait_frames)
        counts = rig.stimulus.counters()
        waiting = rig.stimulus.newest.waiting is not None
        assert counts["asked"] == counts["drawn"] + counts["superseded"] + counts["repeated"] + waiting
    rig.frames(2)
    counts = rig.stimulus.counters()
    assert counts["asked"] == 1 + len(schedule)  # 1: the first grey
    assert counts["drawn"] == len(rig.shown)
    assert sum(s.superseded for s in rig.shown) <= counts["superseded"]
    if schedule:
        last = schedule[-1][0]
        np.testing.assert_array_equal(rig.renderer.pixels(), picture(*SIZE, last, rig.shown[-1].patch, LOOK))
    drawn = {s.show_seq for s in rig.shown if s.show_seq >= 0}
    named = [k for s in rig.shown for k in s.overtaken]
    assert len(named) == len(set(named)) == counts["superseded"]
    assert drawn.isdisjoint(named)
    assert all(k < s.show_seq for s in rig.shown for k in s.overtaken), "by a later one"
    asked = [show for show, _ in schedule]
    changes = {k for k, (a, b) in enumerate(pairwise(asked), 1) if (a.what, a.angle_deg) != (b.what, b.angle_deg)}
    changes |= {0} if schedule else set()  # the first too where it asks for the grey that is there already
    assert drawn | set(named) == changes, "each command for another picture is shown or named"
    flips = [s.flip_ns for s in rig.shown]
    assert all(b - a >= PERIOD_NS for a, b in pairwise(flips[1:])), "one flip a frame at most"
    assert [s.patch for s in rig.shown] == [k % 2 == 0 for k in range(len(rig.shown))]


class Monitor(SoftwareRenderer):
    """A monitor with vertical sync: a swap waits for the next refresh, whose phase nobody knows at the start."""

    vsync = True

    def __init__(self, rig: "Rig", phase_ns: int) -> None:
        self.rig, self.phase_ns = rig, phase_ns
        super().__init__(*SIZE, 60.0, LOOK, rig.now_ns)

    def draw(self, show: Show, patch: bool, cycles: float = 0.0) -> int:
        self.rig.now += PERIOD_NS - (self.rig.now - self.phase_ns) % PERIOD_NS
        return super().draw(show, patch, cycles)


def test_with_vertical_sync_a_newer_show_is_taken_until_just_before_the_refresh():
    rig = Rig()
    rig.renderer = rig.stimulus.renderer = Monitor(rig, phase_ns=5_000_000)
    rig.stimulus = Stimulus(rig.renderer, rig.clock, LOG, lead_ms=3.0, now_ns=rig.now_ns)
    rig.bus = LocalBus(rig.stimulus)
    rig.settle()
    rig.show("black")
    rig.frames(2)  # from here on the service knows when the refreshes are
    refresh = rig.shown[-1].flip_ns + 10 * PERIOD_NS
    assert (refresh - 5_000_000) % PERIOD_NS == 0
    rig.until(refresh - 10_000_000)
    rig.show("grating", 15.0)
    assert rig.stimulus.due_ns() == refresh - 3_000_000
    rig.until(refresh - 3_100_000)
    rig.show("grating", 30.0)
    rig.until(refresh + 1)
    assert (rig.shown[-1].angle_deg, rig.shown[-1].superseded, rig.shown[-1].flip_ns) == (30.0, 1, refresh)


class Strip(SoftwareRenderer):
    """Keeps how far each grating had drifted when it was drawn."""

    def __init__(self, rig: "Rig") -> None:
        self.drawn: list[tuple[str, float, bool]] = []
        super().__init__(*SIZE, 60.0, LOOK, rig.now_ns)

    def draw(self, show: Show, patch: bool, cycles: float = 0.0) -> int:
        self.drawn.append((show.what, cycles, patch))
        return super().draw(show, patch, cycles)


def test_a_grating_that_drifts_is_drawn_at_every_frame_and_reported_once():
    rig = Rig()
    rig.renderer = strip = Strip(rig)
    rig.stimulus = Stimulus(strip, rig.clock, LOG, now_ns=rig.now_ns, drift_hz=2.0)
    rig.bus = LocalBus(rig.stimulus)
    rig.settle()
    strip.drawn.clear()
    rig.show("grating", 15.0)
    rig.frames(31)
    assert [s.what for s in rig.shown] == ["grey", "grating"]
    cycles = [c for _, c, _ in strip.drawn]
    np.testing.assert_allclose(cycles, 2.0 / 60 * np.arange(len(cycles)), atol=1e-6)
    assert len(cycles) in (30, 31)
    assert len({patch for _, _, patch in strip.drawn}) == 1, "the patch turns with the picture, not with the phase"
    rig.show("grating", 30.0)
    rig.frames(1)
    assert strip.drawn[-1][1] == pytest.approx(2.0 / 60 * (len(strip.drawn) - 1), abs=1e-6), "it goes on where it was"
    rig.show("grey")
    rig.frames(1)
    n = len(strip.drawn)
    rig.frames(10)
    assert len(strip.drawn) == n, "grey does not move"
    rig.show("grating", 30.0)
    rig.frames(1)
    assert strip.drawn[-1][1] == 0.0, "each run of gratings begins at phase 0"


def test_drawing_what_nobody_asked_for_is_a_bug():
    with pytest.raises(RuntimeError, match="none was waiting"):
        Newest().drew()


# ---------------------------------------------------------------- safety


def test_the_screen_goes_grey_when_the_task_falls_silent_and_the_picture_comes_back_with_it():
    rig = Rig().settle()
    rig.heartbeat()
    rig.show("grating", 60.0)
    rig.frames(1)
    rig.until(rig.now + 900_000_000)
    rig.bus.tick()
    rig.frames(1)
    assert rig.shown[-1].what == "grating", "not lost before 1 s"
    rig.until(rig.now + 200_000_000)
    rig.bus.tick()
    rig.frames(1)
    assert (rig.shown[-1].what, rig.shown[-1].cause) == ("grey", None)
    assert rig.stimulus.counters()["task_losses"] == 1
    rig.bus.tick()
    rig.frames(1)
    flips = len(rig.shown)
    rig.heartbeat()
    rig.frames(1)
    assert len(rig.shown) == flips + 1
    assert rig.shown[-1].angle_deg == 60.0


def test_old_heartbeats_of_the_task_are_none():
    """Over a slow link they come as regularly as ever."""
    rig = Rig().settle()
    rig.heartbeat()
    rig.show("grating", 60.0)
    for k in range(30):
        rig.until(rig.now + 50_000_000)
        rig.stimulus.receive(seal(Heartbeat(health="ready"), "task", "local-task", k, rig.now - 2_000_000_000))
        rig.bus.tick()
    assert rig.shown[-1].what == "grey"
    assert rig.stimulus.counters()["task_losses"] == 1


def test_what_a_dead_task_wanted_does_not_come_back_with_its_successor():
    rig = Rig().settle()
    rig.heartbeat()
    rig.show("grating", 60.0)
    rig.until(rig.now + 1_100_000_000)
    rig.bus.tick()
    rig.frames(1)
    successor = seal(Heartbeat(health="ready"), "task", "another-instance", 0, rig.now)
    assert list(rig.stimulus.receive(successor)) == []
    rig.frames(2)
    assert rig.shown[-1].what == "grey"


def test_other_services_heartbeats_do_not_count_as_the_tasks():
    rig = Rig().settle()
    rig.heartbeat()
    rig.show("grating", 60.0)
    for _ in range(12):
        rig.until(rig.now + 100_000_000)
        rig.bus.publish(Heartbeat(health="ready"), "decoding")
        rig.bus.tick()
    rig.frames(1)
    assert rig.shown[-1].what == "grey"


@pytest.mark.parametrize("angle", [None, math.nan, math.inf])
def test_a_grating_without_an_angle_is_counted_and_shown_as_grey(angle, caplog):
    rig = Rig().settle()
    rig.show("grating", 30.0)
    rig.frames(1)
    with caplog.at_level(logging.WARNING, LOG.name):
        rig.show("grating", angle, frame=12)
    rig.frames(1)
    assert rig.shown[-1].what == "grey"
    assert rig.stimulus.counters()["rejected_shows"] == 1
    assert "frame 12: a grating with angle_deg" in caplog.text
    rig.show("grating", 45.0)
    rig.frames(1)
    assert rig.shown[-1].angle_deg == 45.0


def test_go_safe_is_grey_at_once_and_twice_is_once():
    rig = Rig().settle()
    rig.show("grating", 30.0)
    rig.frames(1)
    rig.show("grating", 45.0)
    messages = [*rig.stimulus.go_safe(), *rig.stimulus.go_safe()]
    assert [(m.what, m.superseded) for m in messages if isinstance(m, Shown)] == [("grey", 1)]
    assert (rig.renderer.pixels()[:-8] == 128).all()


def test_go_safe_does_not_raise_with_a_dead_renderer(caplog):
    rig = Rig().settle()
    rig.show("grating", 30.0)
    rig.frames(1)

    def gone(*_args: object) -> int:
        raise OSError("the stimulus screen is gone")

    rig.renderer.draw = gone  # type: ignore[method-assign]
    assert list(rig.stimulus.go_safe()) == []
    assert "could not be made grey" in caplog.text


# ---------------------------------------------------------------- visibly not the real thing

OPTIONS = {"renderer": "software", "width_px": 64, "height_px": 48}


def context(top: str, options: str = "") -> Context:
    lines = ['name = "t"', top]
    for k, role in enumerate(("imaging", "decoding", "task", "stimulus", "actuation", "recording")):
        lines.append(f"[services.{role}]")
        lines += [f'{what} = "inproc://{what}{k}"' for what in ("publish", "bulk", "control")]
    if options:
        lines += ["[services.stimulus.options]", options]
    rig_file = parse_rig("\n".join(lines), "rig.toml")
    return Context(name="stimulus", instance="s-1", rig_file=rig_file, clock=RigClock(), log=LOG)


def build(top: str, **options: object) -> Stimulus:
    return Stimulus.from_rig(StimulusOptions(**(OPTIONS | options)), context(top))  # type: ignore[arg-type]


def test_without_a_display_there_is_an_alarm_a_gauge_and_a_warning(caplog):
    with caplog.at_level(logging.INFO, LOG.name):
        stimulus = build("simulated = true", monitor_width_cm=52.0)
    alarm = next(iter(stimulus.read()))
    assert isinstance(alarm, Alarm)
    assert (alarm.code, alarm.active) == ("no-display", True)
    assert "no picture is shown to any animal: drawn by software (64 x 48)" in alarm.detail
    assert "asks for renderer = 'software'" in alarm.detail
    assert stimulus.gauges()["display"] == 0.0
    assert [r.levelname for r in caplog.records if "no picture" in r.message] == ["WARNING"]
    assert "0.0403 cycles per degree" in caplog.text
    assert stimulus.why_not_ready() == []


def test_where_pictures_are_put_and_how_they_look_is_told_for_the_record():
    stimulus = build("simulated = true", monitor_width_cm=52.0, distance_cm=25.0, gamma=2.2, refresh_hz=120.0)
    (screen,) = [m for m in stimulus.read() if isinstance(m, Screen)]
    assert (screen.display, screen.vsync, screen.refresh_hz) == (False, False, 120.0)
    assert (screen.width_px, screen.height_px, screen.renderer) == (64, 48, "software (64 x 48)")
    assert screen.cycles_per_degree == pytest.approx(6 / 52 * 25 * math.radians(1))
    assert screen.gamma == "corrected for a monitor of exponent 2.2"
    (screen,) = [m for m in build("simulated = true").read() if isinstance(m, Screen)]
    assert screen.cycles_per_degree is None
    assert screen.gamma.startswith("linear")


def test_with_a_display_the_alarm_is_off():
    rig = Rig()
    assert [m.active for m in rig.stimulus.read() if isinstance(m, Alarm)] == [False]


def fail_with(error: Exception):
    def opener(_options: StimulusOptions) -> None:
        raise error

    return opener


def test_auto_says_why_the_better_renderers_failed_and_a_real_rig_is_not_ready(monkeypatch):
    monkeypatch.setattr("loop2p.stimulus.service._window", fail_with(UnavailableError("no window system: no DISPLAY")))
    monkeypatch.setattr("loop2p.stimulus.service._headless", fail_with(ImportError("No module named 'moderngl'")))
    stimulus = build("simulated = false", renderer="auto")
    (why,) = stimulus.why_not_ready()
    assert "drawn by software" in why
    assert "window: no window system: no DISPLAY" in why
    assert "headless: No module named 'moderngl' (install loop2p[stimulus])" in why
    assert build("simulated = true", renderer="auto").why_not_ready() == []


def test_auto_does_not_go_on_without_a_picture_when_the_display_is_wrong(monkeypatch):
    monkeypatch.setattr("loop2p.stimulus.service._window", fail_with(DisplayError("measured 75.00 Hz")))
    with pytest.raises(DisplayError, match=r"rig\.toml: services\.stimulus: measured 75\.00 Hz"):
        build("simulated = false", renderer="auto")


def test_the_renderer_that_was_asked_for_is_the_only_one_tried(monkeypatch):
    monkeypatch.setattr("loop2p.stimulus.service._window", fail_with(UnavailableError("no DISPLAY")))
    with pytest.raises(UnavailableError, match=r"'window' does not work here\. window: no DISPLAY"):
        open_renderer(StimulusOptions(renderer="window"))


def test_options_are_checked_by_name_and_place():
    bad = context("simulated = true", "gamma = [0.0, 1.0]")
    with pytest.raises(FileError, match=r"rig\.toml.*services\.stimulus\.options.*table of 2 values, expected 256"):
        bad.rig_file.options("stimulus", StimulusOptions)
    bad = context("simulated = true", "contrast = 2.0")
    with pytest.raises(FileError, match=r"rig\.toml.*services\.stimulus\.options\.contrast"):
        bad.rig_file.options("stimulus", StimulusOptions)
    good = context("simulated = true", "gamma = 2.2\nscreen = 1\npatch_px = 0")
    assert good.rig_file.options("stimulus", StimulusOptions).gamma == 2.2
