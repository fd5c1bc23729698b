"""A session across three machines in which one machine's clock is no longer known well enough."""

from pathlib import Path

import pytest
from lab import HALF_WAY, OFFSETS_S, Laboratory
from lab.rig import SpreadRig, small_rig
from lab.truth import clock_errors, said
from test_cut import edge
from whole_rig import task_text

from loop2p.protocol import Alarm, Envelope, Phase

pytestmark = [pytest.mark.net, pytest.mark.long]
SEED = 20261130
LIMIT_MS = 10.0


def test_the_session_pauses_names_the_machine_and_goes_on_by_itself(tmp_path: Path):
    """The way to the microscope takes 30 ms more each way. For a while the exchanges from before vouch for its clock;
    their word is worth less with every second, and after a minute there are only new ones."""
    with Laboratory(tmp_path, SEED, OFFSETS_S) as lab:
        lab.be(**HALF_WAY)
        with SpreadRig(lab, small_rig(tmp_path, LIMIT_MS)) as rig:
            answer = rig.begin(task_text(seconds=2000))
            assert answer.accepted, answer.reason
            rig.wait(edge("start"), "a trial")
            lab.cables["microscope"].be(delay_ms=31.0)
            alarm = rig.wait(unclear(True), "the alarm", 150)
            rig.wait(edge("void"), "the end of the trial")
            rig.wait(entered("paused"), "the pause")
            lab.cables["microscope"].be(delay_ms=1.0)
            rig.wait(entered("closed_loop"), "the session's return")
            rig.wait(edge("start"), "the next trial")
            assert rig.ask("abort").accepted
            errors = clock_errors(lab, rig.clocks)
    print(alarm.message.detail)
    print(said(errors))
    assert "imaging.clock: imaging on microscope (10.77.0.1): clock known to +-" in alarm.message.detail
    assert not [e for e in errors if abs(e.error_us) > e.bound_us]
    told = [e.bound_us for e in errors if e.source == "imaging"]
    assert max(told) > 1e3 * LIMIT_MS


def unclear(active: bool):
    def right(envelope: Envelope) -> bool:
        m = envelope.message
        return isinstance(m, Alarm) and m.code == "clock-unclear" and m.active == active

    return right


def entered(phase: str):
    return lambda e: isinstance(e.message, Phase) and e.message.phase == phase
