"""What the page shows, from messages; every part without a socket."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from rigs import rig_text

from loop2p.console.asks import REMEMBERED, Asks, Request, to_task
from loop2p.console.board import LIVE, REFERENCE, Board, Reader
from loop2p.console.core import ACKNOWLEDGED, Page, PageView
from loop2p.console.latency import Latencies, Step
from loop2p.console.outlines import outlines
from loop2p.console.pictures import day1_jpegs, jpeg_of, reference_jpegs
from loop2p.console.preflight import preflight
from loop2p.console.samples import COLUMNS, KEPT, OPEN, Samples
from loop2p.protocol import (
    ROLES,
    Accepted,
    Alarm,
    Calibration,
    Cause,
    Clock,
    Day1Images,
    Done,
    Fault,
    Heartbeat,
    Lick,
    Message,
    Output,
    Phase,
    PlaneRois,
    Preview,
    RequestLog,
    RewardCommand,
    Rois,
    Screen,
    Selection,
    Session,
    Show,
    Shown,
    Traces,
    Trial,
    Wheel,
    control,
    f32,
    i32,
    parse_rig,
    seal,
)

RIG = parse_rig(rig_text(list(range(5500, 5600)), "runs")).rig
MS = 1_000_000


class Heard:
    """A view, and the messages that it is given: numbered as their senders would."""

    def __init__(self) -> None:
        self.view = PageView(RIG, budget_ms=32.0)
        self._seq: dict[tuple[str, str, str], int] = {}
        self.now_s = 100.0

    def say(self, source: str, message: Message, instance: str = "1", sent_ns: int = 0) -> "Heard":
        key = source, instance, message.topic
        self._seq[key] = self._seq.get(key, -1) + 1
        self.view.take(seal(message, source, f"{source}-{instance}", self._seq[key], sent_ns), self.now_s, 1000.0)
        return self

    def beat(self, source: str, instance: str = "1", **fields: Any) -> "Heard":
        return self.say(source, Heartbeat(**({"health": "ready"} | fields)), instance)

    @property
    def page(self) -> Page:
        return self.view.page(self.now_s)


def cause(frame: int, arrival_ns: int = 0) -> Cause:
    return Cause(frame, frame % 2, frame / 30.0, arrival_ns)


def traces(frame: int, **fields: Any) -> Traces:
    return Traces(**({"plane": frame % 2, "f": f32([1.0] * 4), "cause": cause(frame)} | fields))


def output(frame: int, value: float = 0.1, **fields: Any) -> Output:
    return Output(d=2 * value, value=value, dff=f32([0.1, 0.2, 0.3, 0.4]), cause=cause(frame), **fields)


# ---------------------------------------------------------------- the session


def test_task_that_is_not_heard_is_unknown_and_not_idle():
    heard = Heard()
    assert heard.page.state == "unknown"
    heard.beat("task")
    assert heard.page.state == "idle"
    heard.now_s += 1.1
    assert heard.page.state == "unknown"
    assert [s.health for s in heard.page.services if s.name == "task"] == ["silent"]


@pytest.mark.parametrize(
    ("phase", "reason", "state"),
    [
        ("idle", "preparing: waits until every service is ready", "preparing"),
        ("idle", "imaging.absent: ...", "idle"),
        ("baseline", "", "running"),
        ("paused", "paused by anna", "paused"),
        ("ended", "stopped by anna", "ended"),
    ],
)
def test_the_phase_tells_the_state_and_keeps_its_reason(phase: Any, reason: str, state: str):
    page = Heard().beat("task").say("task", Phase(phase=phase, day=2, reason=reason)).page
    assert (page.state, page.reason, page.day) == (state, reason, 2)


def test_a_new_session_begins_its_counts_anew_and_tells_the_ration():
    heard = Heard().beat("task", counters={"given_today_nl": 8000, "trials_hit": 2})
    heard.say("task", Session(run_id="a", rig="", task="", simulated=True, day_limit_ul=1200.0))
    for ul in (4.0, 0.0, 4.0):  # 0 ul: the valve has not opened
        heard.say("actuation", Done(id=1, open_ns=0, close_ns=1, volume_ul=ul))
    heard.say("task", Trial(trial=0, edge="start", t_s=1.0)).say(
        "task", Trial(trial=0, edge="hit", t_s=5.5, elapsed_s=4)
    )
    page = heard.page
    assert (page.rewards, page.reward_ul, page.day_ul, page.day_limit_ul) == (2, 8.0, 8.0, 1200.0)
    assert page.outcomes == {"hit": 2, "miss": 0, "void": 0}
    assert [(t.trial, t.edge, t.t_s, t.end_s) for t in page.trials] == [(0, "hit", 1.0, 5.5)]
    heard.say("task", Session(run_id="b", rig="", task="", simulated=True))
    assert (heard.page.rewards, heard.page.reward_ul, heard.page.trials, heard.page.run_id) == (0, 0.0, [], "b")


def test_a_message_that_comes_twice_counts_once():
    heard = Heard()
    done = seal(Done(id=1, open_ns=0, close_ns=1, volume_ul=4.0), "actuation", "a", 7, 0)
    for _ in range(2):
        heard.view.take(done, 0.0, 0.0)
    assert heard.page.rewards == 1


def test_no_display_is_told_by_screen_or_alarm():
    heard = Heard()
    assert heard.page.display is None
    screen = {"renderer": "headless", "width_px": 1, "height_px": 1, "refresh_hz": 60.0, "vsync": False}
    heard.say("stimulus", Screen(display=True, cycles_per_width=1.0, **screen))
    assert heard.page.display is True
    heard.say("stimulus", Alarm(code="no-display", active=True, detail="no picture"))
    assert heard.page.display is False


def test_the_dial_shows_what_was_on_the_screen_and_not_what_was_asked_for():
    heard = Heard().beat("stimulus").say("task", Show(what="grating", angle_deg=90.0))
    assert heard.page.shown == ""
    heard.say("stimulus", Shown(what="grating", angle_deg=45.0, flip_ns=0))
    assert (heard.page.shown, heard.page.angle_deg) == ("grating", 45.0)


def test_of_a_service_that_is_silent_nothing_is_shown_as_if_it_were_so_now():
    heard = Heard().beat("stimulus").beat("imaging").beat("actuation")
    heard.say("stimulus", Shown(what="black", flip_ns=0)).say("imaging", traces(0))
    heard.say("actuation", Wheel(count=0, speed_cm_s=3.0, t_ns=0))
    assert (heard.page.shown, len(heard.page.planes), heard.page.speed_cm_s) == ("black", 1, 3.0)
    heard.now_s += 1.1
    assert (heard.page.shown, len(heard.page.planes), heard.page.speed_cm_s) == ("", 0, None)


def test_licks_of_the_session_are_counted_whatever_the_controller_counted_before():
    heard = Heard().say("task", Session(run_id="a", rig="", task="", simulated=True))
    for count in (41, 42, 44):
        heard.say("actuation", Lick(count=count, t_ns=0))
    assert heard.page.licks == 4


# ---------------------------------------------------------------- alarms, what was asked


def test_an_acknowledged_alarm_says_by_whom_as_it_stands_on_the_record():
    heard = Heard().say("imaging", Alarm(code="image-mismatch", active=True, detail="other field"))
    note = f"{ACKNOWLEDGED}imaging image-mismatch"
    heard.say("task", RequestLog(kind="note", by="anna at the console", detail=note, accepted=True))
    (alarm,) = heard.page.alarms
    assert (alarm.acknowledged_by, alarm.acknowledged_at) == ("anna at the console", 1000.0)
    heard.say("imaging", Alarm(code="image-mismatch", active=False, detail="right again"))
    heard.say("imaging", Alarm(code="image-mismatch", active=True, detail="again"))
    (alarm,) = heard.page.alarms
    assert alarm.acknowledged_by == ""  # it is another one


def test_a_note_that_was_refused_acknowledges_nothing():
    heard = Heard().say("imaging", Alarm(code="x", active=True, detail=""))
    heard.say("task", RequestLog(kind="note", by="a", detail=f"{ACKNOWLEDGED}imaging x", accepted=False))
    assert heard.page.alarms[0].acknowledged_by == ""


def test_what_a_predecessor_said_is_over():
    heard = Heard().beat("imaging").say("imaging", Alarm(code="microscope", active=True, detail=""))
    heard.say("imaging", Fault(service="imaging", error="ValueError", detail="frame 7"))
    heard.beat("imaging", "2", health="starting")
    assert (len(heard.page.alarms), len(heard.page.faults)) == (0, 1)
    heard.beat("imaging", "2")
    assert heard.page.faults == []


def test_refusals_are_in_the_log_in_words():
    heard = Heard().say("task", RequestLog(kind="free_reward", by="anna", accepted=False, reason="12 ul given today"))
    assert (heard.page.events[0].kind, heard.page.events[0].text) == (
        "refused", "free_reward by anna refused: 12 ul given today",
    )  # fmt: skip


def test_a_clock_is_judged_by_the_rig_files_limit():
    heard = Heard().beat("imaging").beat("task").beat("decoding")
    heard.say("imaging", Clock(offset_ns=0, bound_ns=1_500_000, round_trip_ns=0))
    heard.say("decoding", Clock(offset_ns=0, bound_ns=20_000, round_trip_ns=0))
    judged = {s.name: (s.bound_ms, s.bound_ok) for s in heard.page.services}
    assert judged["imaging"] == (1.5, False)
    assert judged["decoding"] == (0.02, True)
    assert judged["task"] == (None, None)  # the reference


def test_long_texts_are_cut_and_a_strangers_message_is_left_out():
    heard = Heard().say("imaging", Alarm(code="x", active=True, detail="y" * 100_000))
    assert len(heard.page.alarms[0].detail) <= 1000
    heard.say("somebody", Alarm(code="z", active=True, detail=""))
    assert len(heard.page.alarms) == 1


def test_the_page_is_json_whatever_was_measured():
    heard = Heard().beat("actuation").say("actuation", Wheel(count=0, speed_cm_s=3.14159, t_ns=0))
    heard.say("task", Calibration(minimum=-0.1, threshold=0.2, mu=0, sigma=1, z_star=2, seed=0, first_frame=0,
                                  last_frame=9, n_values=10))  # fmt: skip
    heard.say("task", Selection(plus=[0, 1], minus=[2, 3], seed=1, confirmed_by="anna"))
    page = json.loads(msgspec.json.encode(heard.page))
    assert (page["speed_cm_s"], page["threshold"], page["plus"], page["minus"]) == (3.1, 0.2, [0, 1], [2, 3])


# ---------------------------------------------------------------- traces


def rows(samples: Samples) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in samples.since(0)[1]]


@pytest.mark.parametrize("first", ["traces", "output"])
def test_a_row_holds_a_frames_traces_and_its_control_value_whichever_is_heard_first(first: str):
    samples = Samples()
    samples.plus, samples.minus = [0, 1], [2, 3]
    messages: list[Message] = [traces(0, shift_y_px=1.5, quality=0.9), output(0)]
    for message in messages if first == "traces" else reversed(messages):
        samples.take(message)
    (row,) = rows(samples)
    assert row["value"] == 0.1
    assert row["d"] == 0.2
    assert row["plus"] == pytest.approx(0.15)
    assert row["minus"] == pytest.approx(0.35)
    assert (row["shift_y_px"], row["quality"]) == (1.5, 0.9)


def test_what_is_not_valid_or_not_finite_is_a_gap():
    samples = Samples()
    for message in (traces(0), output(0, valid=False), traces(2), output(2, value=math.nan)):
        samples.take(message)
    assert [(r["value"], r["plus"]) for r in rows(samples)] == [(None, None), (None, None)]


def test_rows_come_without_a_decoder_too_and_the_distal_plane_makes_none():
    samples = Samples()
    for frame in range(2 * OPEN + 4):
        samples.take(traces(frame))
    assert samples.count == 2
    assert [r["t_s"] for r in rows(samples)] == [0.0, round(2 / 30, 5)]


def test_frame_time_that_runs_back_begins_anew():
    samples = Samples()
    for message in (traces(10), output(10), traces(12), output(12), traces(0), output(0)):
        samples.take(message)
    assert (samples.epoch, [r["t_s"] for r in rows(samples)]) == (1, [0.0])
    assert samples.since(0)[0] == 2


def test_old_rows_are_forgotten_and_the_first_one_given_says_so():
    samples = Samples()
    for frame in range(0, 2 * (KEPT + 50), 2):
        samples.take(traces(frame))
        samples.take(output(frame))
    first, found = samples.since(3)
    assert (first, len(found), samples.count) == (50, KEPT, KEPT + 50)
    assert samples.since(KEPT + 50)[1] == []


def test_a_selection_beyond_the_rois_gives_no_mean_and_no_error():
    samples = Samples()
    samples.plus, samples.minus = [0, 99], []
    samples.take(traces(0))
    samples.take(output(0))
    assert [(r["value"], r["plus"], r["minus"]) for r in rows(samples)] == [(0.1, None, None)]


# ---------------------------------------------------------------- latency


def steps(latencies: Latencies) -> dict[str, Step]:
    return {step.name: step for step in latencies.steps()}


def test_each_step_is_measured_whichever_end_is_heard_first():
    at = cause(0, 1000 * MS)
    sent: list[tuple[str, Message, int]] = [
        ("imaging", traces(0, cause=at), 1001 * MS),
        ("decoding", Output(d=0, value=0, cause=at), 1003 * MS),
        ("task", Show(what="grey", cause=at), 1006 * MS),
        ("task", RewardCommand(id=5, target="a", expires_ns=0, volume_ul=4.0, cause=at), 1007 * MS),
        ("stimulus", Shown(what="grey", flip_ns=1016 * MS, show_seq=0, cause=at), 0),
        ("actuation", Accepted(id=5, received_ns=1009 * MS), 0),
        ("actuation", Done(id=5, open_ns=1010 * MS, close_ns=1050 * MS, volume_ul=4.0), 0),
    ]
    for order in (sent, sent[::-1]):
        latencies = Latencies()
        for source, message, sent_ns in order:
            latencies.take(seal(message, source, source, 0, sent_ns))
        found = {name: step.last for name, step in steps(latencies).items()}
        whole = {"frame to command": 9.0, "frame to picture": 16.0, "frame to valve": 10.0}
        parts = {"imaging": 1.0, "decoding": 2.0, "stimulus": 10.0, "command": 2.0, "valve": 1.0}
        assert {name: found[name] for name in whole | parts} == whole | parts
    assert steps(latencies)["frame to command"].budgeted
    assert not steps(latencies)["imaging"].budgeted


def test_of_a_repeated_command_and_a_resent_state_the_first_counts():
    latencies = Latencies()
    for sent_ns in (0, 20 * MS):
        command = RewardCommand(id=1, target="a", expires_ns=0, volume_ul=4.0)
        latencies.take(seal(command, "task", "t", sent_ns // MS, sent_ns))
    latencies.take(seal(Accepted(id=1, received_ns=21 * MS), "actuation", "a", 0, 0))
    assert steps(latencies)["command"].last == 21.0


def test_quantiles_are_values_that_occurred():
    latencies = Latencies()
    for frame in range(100):
        latencies.take(seal(traces(frame, cause=cause(frame)), "imaging", "i", frame, (frame + 1) * MS))
    step = steps(latencies)["imaging"]
    assert (step.n, step.p50, step.p99, step.last) == (100, 50.0, 99.0, 100.0)


# ---------------------------------------------------------------- pictures and outlines


def rois(pixels: list[tuple[int, int]], **fields: Any) -> Rois:
    rows, cols = zip(*pixels, strict=True)
    plane = PlaneRois(plane=0, names=["a"], lengths=i32([len(pixels)]), rows=i32(rows), cols=i32(cols))
    return Rois(**({"set_id": "s", "height": 8, "width": 10, "planes": [plane]} | fields))


def test_an_outline_goes_round_the_pixels():
    (plane,) = outlines(rois([(2, 3), (2, 4)]))
    (roi,) = plane.rois
    pieces = {tuple(roi.edges[k : k + 4]) for k in range(0, len(roi.edges), 4)}
    assert pieces == {
        (2, 3, 2, 4), (2, 4, 2, 5), (3, 3, 3, 4), (3, 4, 3, 5),  # above and below
        (2, 3, 3, 3), (2, 5, 3, 5),  # left and right
    }  # fmt: skip
    assert (roi.row, roi.col) == (2.5, 4.0)


@pytest.mark.parametrize("pixel", [(8, 0), (0, 10), (-1, 0)])
def test_an_roi_outside_the_image_has_no_outline(pixel: tuple[int, int]):
    assert outlines(rois([pixel]))[0].rois == []


@pytest.mark.parametrize("lengths", [[2], [0], [-1, 2], [1, 1]])
def test_lists_that_do_not_fit_one_another_are_not_drawn(lengths: list[int]):
    plane = PlaneRois(plane=0, names=[], lengths=i32(lengths), rows=i32([1]), cols=i32([1]))
    assert outlines(Rois(set_id="s", height=8, width=8, planes=[plane]))[0].rois == []
    assert outlines(rois([(1, 1)], height=10**9)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, 0.0])
def test_no_number_stops_the_page(value: float):
    heard = Heard()
    for name in ROLES:
        heard.beat(name)
    at = Cause(10**12, 0, value, 10**18)
    heard.say("imaging", traces(0, shift_y_px=value, shift_x_px=value, quality=value, cause=at))
    heard.say("imaging", traces(0, plane=10**9, cause=at))
    heard.say("decoding", Output(d=value, value=value, dff=f32([value] * 4), cause=at))
    heard.say("task", Selection(plus=[0, -1], minus=[3], seed=0))
    heard.say("task", Calibration(minimum=value, threshold=value, mu=value, sigma=value, z_star=value, seed=0,
                                  first_frame=0, last_frame=0, n_values=0))  # fmt: skip
    heard.say("task", Trial(trial=0, edge="hit", t_s=value, elapsed_s=value))
    heard.say("task", Session(run_id="a", rig="", task="", simulated=True, day_limit_ul=value))
    heard.say("stimulus", Shown(what="grating", angle_deg=value, flip_ns=-(10**18), cause=at))
    heard.say("actuation", Done(id=-1, open_ns=0, close_ns=-5, volume_ul=value))
    heard.say("actuation", Wheel(count=0, speed_cm_s=value, t_ns=0))
    assert len(heard.page.planes) == 1
    board = Board(heard.view.samples)
    board.put("page", heard.page)
    for part in Reader(board).lacks():
        assert "NaN" not in str(part)
        json.loads(part)


def test_a_preview_whose_size_is_wrong_is_no_picture():
    good = Preview(plane=0, height=2, width=3, low=0, high=1, buffers=(bytes(6),))
    assert jpeg_of(good)[:2] == b"\xff\xd8"  # type: ignore[index]
    assert jpeg_of(msgspec.structs.replace(good, buffers=(bytes(5),))) is None
    assert jpeg_of(msgspec.structs.replace(good, buffers=())) is None


def test_a_reference_is_a_picture_whatever_is_in_it():
    image = np.full((8, 10), np.nan, "<f4")
    assert set(reference_jpegs(rois([(1, 1)], buffers=(image.tobytes(),)))) == {0}
    assert reference_jpegs(rois([(1, 1)], buffers=(b"short",))) == {}


# ---------------------------------------------------------------- what a browser lacks


def day1(**fields: Any) -> Day1Images:
    lie = {"match": [0.9, 0.8], "offset_y_px": [12.34, 1.0], "offset_x_px": [-7.0, 2.0], "rotation_deg": [1.3, 0.0]}
    return Day1Images(**({"height": 8, "width": 4} | lie | fields))


def test_where_day_1_lies_is_told_of_the_imaging_that_acts():
    heard = Heard().say("imaging", rois([(1, 1)])).say("imaging", day1())
    assert [(d.plane, d.match, d.offset_y_px) for d in heard.page.day1] == [(0, 0.9, 12.34), (1, 0.8, 1.0)]
    heard.say("imaging", day1(match=[math.nan] * 10_000, rotation_deg=[math.inf]))
    assert len(heard.page.day1) == 1
    assert heard.say("imaging", rois([(1, 1)]), instance="2").page.day1 == []


def test_day_1_is_a_picture_where_its_size_is_right():
    assert set(day1_jpegs(day1(buffers=(bytes(32), b"short", bytes(32))))) == {0, 2}
    assert day1_jpegs(day1(height=0, buffers=(b"",))) == {}


def test_pictures_that_a_browser_did_not_take_are_counted():
    board = Board(Samples())
    board.put_picture(0, 0, b"before it came")
    reader = Reader(board)
    for _ in range(3):
        board.put_picture(0, 0, b"newer")
    list(reader.lacks())
    assert (reader.pictures, reader.pictures_passed_over) == (1, 3)


def test_a_browser_is_sent_the_newest_and_nothing_twice():
    board = Board(Samples())
    reader = Reader(board)
    board.put("page", {"a": 1})
    board.put_picture(LIVE, 0, b"one")
    assert list(reader.lacks()) == ['{"kind":"page","value":{"a":1}}', b"\0\0one"]
    board.put("page", {"a": 1})  # no news
    assert list(reader.lacks()) == []
    for jpeg in (b"two", b"three"):
        board.put_picture(LIVE, 0, jpeg)
    assert list(reader.lacks()) == [b"\0\0three"]


def test_an_old_picture_is_not_kept_for_who_comes_later():
    board = Board(Samples())
    board.put_picture(LIVE, 0, b"old")
    board.put_picture(REFERENCE, 0, b"of the day")
    board.forget_live()
    assert list(Reader(board).lacks()) == [b"\1\0of the day"]


def test_rows_go_to_each_browser_once_and_a_late_one_gets_those_that_are_kept():
    samples = Samples()
    board = Board(samples)
    first, late = Reader(board), Reader(board)
    seen = []
    for frame in (0, 2, 4):
        samples.take(traces(frame))
        samples.take(output(frame))
        seen += [json.loads(part) for part in first.lacks()]
    assert [(m["first"], len(m["rows"])) for m in seen] == [(0, 1), (1, 1), (2, 1)]
    (all_,) = [json.loads(part) for part in late.lacks()]
    assert (all_["first"], len(all_["rows"])) == (0, 3)


# ---------------------------------------------------------------- preflight


def test_preflight_is_tasks_answer_a_line_for_each_thing():
    text = "imaging.absent: imaging on scope (10.0.0.2): no heartbeat: run it\nrecording.not-ready: no session"
    found = preflight(control.Answer(False, text), Heard().page.services, "tcp://t")
    assert [(line.code, line.waited_for, line.can_be_overridden) for line in found.lines] == [
        ("imaging.absent", False, False),
        ("recording.not-ready", True, True),
    ]
    assert found.lines[0].text == "imaging on scope (10.0.0.2): no heartbeat: run it"
    assert found.answered


def test_where_task_is_silent_the_page_says_so_and_who_else_is():
    heard = Heard().beat("imaging")
    found = preflight(None, heard.page.services, "tcp://127.0.0.1:5522")
    assert not found.answered
    assert "task on local: no answer at tcp://127.0.0.1:5522: run `loop2p up` there" in found.lines[0].text
    assert [line.service for line in found.lines] == ["task", "decoding", "stimulus", "actuation", "recording"]


def test_nothing_is_missing_where_task_says_nothing():
    assert preflight(control.Answer(True, ""), [], "").lines == []


# ---------------------------------------------------------------- what is asked


def body(**fields: Any) -> bytes:
    return json.dumps({"id": "0123456789ab", "kind": "pause", "by": "anna"} | fields).encode()


def test_a_request_is_asked_once():
    asks = Asks()
    assert isinstance(asks.judge(body()), Request)
    again = asks.judge(body())
    assert isinstance(again, str)
    assert "came before" in again
    for k in range(REMEMBERED + 10):
        assert isinstance(asks.judge(body(id=f"other-id-{k}")), Request)


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"{", b"[]", b"\xff", body(kind="opto"), body(kind="lost"), body(by=""), body(by="a\nb"),
        body(by="x" * 101),
        body(id="short"), body(id="with space 12"), body(more=1), body(text="x" * 5001), body(overrides=["a,b"]),
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_not_a_whole_request_goes_no_further(bad: bytes):
    assert isinstance(Asks().judge(bad), str)


def asked(**fields: Any) -> control.Ask | str:
    request = Asks().judge(body(**fields))
    assert isinstance(request, Request)
    return to_task(request, {("imaging", "microscope")})


def test_what_is_asked_of_task_names_who_and_where():
    assert asked(kind="free_reward") == control.Ask("free_reward", "anna at the console")
    assert asked(kind="note", text="water") == control.Ask("note", "anna at the console", {"text": "water"})
    started = asked(kind="start", session="short", overrides=["imaging.clock", "task.disk"])
    assert started == control.Ask(
        "start", "anna at the console", {"by": "anna at the console", "overrides": "imaging.clock,task.disk"}
    )


def test_an_alarm_is_acknowledged_by_a_note_and_only_while_it_stands():
    found = asked(kind="acknowledge", service="imaging", code="microscope")
    assert found == control.Ask("note", "anna at the console", {"text": f"{ACKNOWLEDGED}imaging microscope"})
    assert asked(kind="acknowledge", service="imaging", code="other") == "no alarm other of imaging stands any more"
