"""The rig without processes."""

import numpy as np
import pytest

from loop2p.decoding.core import DifferenceDecoder
from loop2p.protocol import Calibration, Done, Lick, OptoCommand, Output, Phase, RewardCommand, Shown, Trial, Wheel
from loop2p.simulation.inprocess import InProcessRig
from loop2p.simulation.mouse import LearningMouse
from loop2p.task.mapping import Mapping

TASK = """
[selection]
plus = [1, 2, 3, 4]
minus = [5, 6, 7, 8]
[baseline]
duration_s = 60
[calibration]
window_s = 10
[closed_loop]
duration_s = 120
[trial]
loop_s = 10
"""
LIT = TASK + '[opto]\nbaseline = true\narmed = true\n[[passive]]\nname = "led-off"\nduration_s = 20\n'


def rig(task: str = TASK, **more) -> InProcessRig:
    mouse = LearningMouse(3, 60, physiology={"rate_median_hz": 0.06})
    return InProcessRig(mouse, task, **more)


def test_a_session_runs_to_its_end_and_every_hit_is_drunk():
    subject = rig()
    sent = [e.message for e in subject.run()]
    edges = [m.edge for m in sent if isinstance(m, Trial)]
    drops = [m for m in sent if isinstance(m, RewardCommand)]
    phases = [m.phase for m in sent if isinstance(m, Phase)]
    assert phases == ["idle", "baseline", "calibration", "closed_loop", "ended"]
    assert edges.count("hit") == len(drops) > 0
    assert len([m for m in sent if isinstance(m, Done)]) == len(drops)
    assert subject.mouse.target_value > 0
    assert subject.mouse.late == 0
    assert any(isinstance(m, Lick) for m in sent)
    assert any(isinstance(m, Wheel) and m.speed_cm_s > 0 for m in sent)


def test_what_is_shown_is_the_mapping_of_the_control_value():
    sent = rig().run()
    calibration = next(e.message for e in sent if isinstance(e.message, Calibration))
    mapping = Mapping(calibration)
    values = {e.header.cause.frame: e.message.value for e in sent if isinstance(e.message, Output)}
    begun = next(e.header.cause.frame for e in sent if isinstance(e.message, Calibration))
    checked = 0
    for envelope in sent:
        message, cause = envelope.message, envelope.header.cause
        if isinstance(message, Shown) and message.what == "grating" and cause.frame > begun:
            value = values[cause.frame]
            assert message.angle_deg == (90.0 if mapping.is_hit(value) else mapping.angle_deg(value))
            checked += 1
    assert checked > 20


def test_bytes_on_the_wire_change_nothing():
    plain, packed = rig().run(), rig(wire=True).run()
    assert [e.message for e in plain] == [e.message for e in packed]


def test_a_decoder_without_record_decides_alike():
    full = rig(keep=(Trial,)).run()
    lean = rig(keep=(Trial,), build=lambda p, m: DifferenceDecoder(p, m, 15.46, record_dff=False)).run()
    assert [e.message for e in full] == [e.message for e in lean]
    assert full


def test_the_led_reaches_the_mouse_in_the_blocks_that_say_so():
    subject = rig(LIT)
    seen: list[tuple[int, bool]] = []
    light = subject.mouse.light
    subject.mouse.light = lambda frame, on: (seen.append((frame, on)), light(frame, on))  # type: ignore[method-assign]
    sent = subject.run()
    blocks = [(m.phase, m.reason) for e in sent if isinstance(m := e.message, Phase)]
    assert blocks[1:3] == [("baseline", "led-off"), ("baseline", "passive")]
    assert seen[0][1] is True
    assert seen[0][0] > 20 * 30.92 - 10
    assert seen[-1][1] is False
    assert any(isinstance(e.message, OptoCommand) for e in sent)


def test_a_session_that_waits_is_resumed_after_the_operator_did_his_part():
    blocks = [("awake", ""), ("drugged", "wait = true\n")]
    task = TASK + "".join(f'[[passive]]\nname = "{name}"\nduration_s = 20\n{more}' for name, more in blocks)
    calls = []
    subject = rig(task, at_wait=lambda: calls.append(subject.task.core.last_s))
    subject.run()
    assert len(calls) == 1
    assert calls[0] > 19


def test_a_service_that_fails_ends_the_session_with_its_fault():
    class Broken:
        def update(self, f: np.ndarray) -> float:
            raise RuntimeError("no light")

        def reset(self) -> None: ...

    with pytest.raises(RuntimeError, match=r"decoding stopped: .*no light"):
        rig(build=lambda plus, minus: Broken()).run()
