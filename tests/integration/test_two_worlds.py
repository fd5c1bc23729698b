"""One object, two worlds: processes on a clock, and the same cores in one process, decide alike to the bit."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from whole_rig import HEIGHT, N_CELLS, N_ROIS, RATE_HZ, WIDTH, running, whole_rig

from loop2p.imaging.core import ImagingCore, ImagingSettings
from loop2p.imaging.rois import RoiFile, read_rois
from loop2p.protocol import (
    Calibration,
    Done,
    Envelope,
    Message,
    Microscope,
    Output,
    Phase,
    RequestLog,
    RewardCommand,
    RigFile,
    Show,
    Stall,
    Traces,
    Trial,
)
from loop2p.recording.journal import read_journal
from loop2p.simulation.inprocess import Frames, InProcessRig
from loop2p.simulation.microscope import DRAW_NS
from loop2p.simulation.mouse import LearningMouse
from loop2p.simulation.optics import Scan
from loop2p.simulation.responsive_mouse import ResponsiveMouse
from loop2p.simulation.scene import Scene

SEED = 4
SPEED = 1.25
"""Of the scan, against the rig's own: the mouse's four frames are 103 ms, which a loaded machine can keep."""
ATTEMPTS = 3
"""A live run that was late, lost something or stood still says nothing about this: another is made."""
MOUTH_NS = round(1e9 / (SPEED * RATE_HZ)) - DRAW_NS
"""A valve that opens later than this after its frame came in feeds the mouse a frame late, and the mouse can't know."""
TASK = """
[selection]
rois = [0, 1, 2, 3, 4, 5, 6, 7]
seed = 3
[baseline]
duration_s = 15
[calibration]
window_s = 4.0
[trial]
loop_s = 4.0
[closed_loop]
duration_s = 40
"""
KINDS = (Output, Show, Trial, RewardCommand, Calibration)
MICE = {
    "responsive": ("loop2p.simulation.responsive_mouse:ResponsiveMouse", ResponsiveMouse, {}),
    "learning": (
        "loop2p.simulation.mouse:LearningMouse",
        LearningMouse,
        {"noise": False, "physiology": {"rate_median_hz": 0.1}},
    ),
}


def decided(envelopes: list[Envelope]) -> dict[str, list[tuple[object, ...]]]:
    """What was decided in which frame; values as they are, to the bit."""
    out: dict[str, list[tuple[object, ...]]]
    out = {name: [] for name in ("outputs", "angles", "edges", "rewards", "thresholds")}
    commands = set()
    for envelope in envelopes:
        message, cause = envelope.message, envelope.header.cause
        frame = cause.frame if cause else -1
        if isinstance(message, Output):
            out["outputs"].append((frame, message.d, message.value, message.valid, message.dff))
        elif isinstance(message, Show) and cause:
            out["angles"].append((frame, message.what, message.angle_deg))
        elif isinstance(message, Trial):
            out["edges"].append((frame, message.trial, message.edge, message.t_s))
        elif isinstance(message, RewardCommand) and message.id not in commands:  # repeated until it is answered
            commands.add(message.id)
            out["rewards"].append((frame, message.trial, message.volume_ul))
        elif isinstance(message, Calibration):
            out["thresholds"].append((message.minimum, message.threshold, message.mu, message.sigma))
    return out


def run_live(rig_file: RigFile, folder: Path) -> tuple[list[Envelope], list[str]]:
    """A session of real processes: its journal, and why it can't be compared (nothing, if all came in time)."""
    with running(rig_file, folder) as rig:
        answer = rig.start(TASK)
        assert answer.accepted, answer.reason
        last = rig.wait(comes_to_rest, "a session that ends, pauses or is called off").message
    if last.phase != "ended":
        return [], [f"the session is {last.phase}: {last.reason}"]
    said = re.search(r"(\d+ pictures or drops too late)", rig.launcher.last_words("microscope", 20))
    assert said, "the stand-in microscope did not report"
    kinds = (*KINDS, RequestLog, Traces, Done, Stall)
    journal = [e for e in read_journal(rig.run_folder) if isinstance(e.message, kinds)]
    stalls = f"{sum(isinstance(e.message, Stall) for e in journal)} stalls"
    found = [said.group(1), missing(journal, Traces, 1), missing(journal, Output, 2), slow_drops(journal), stalls]
    return journal, [reason for reason in found if not reason.startswith("0 ")]


def comes_to_rest(envelope: Envelope) -> bool:
    """Nothing more will be decided without an operator: over, paused, or the start was called off."""
    message = envelope.message
    if not isinstance(message, Phase):
        return False
    called_off = message.phase == "idle" and message.reason != "" and not message.reason.startswith("preparing")
    return called_off or message.phase in ("paused", "ended")


def missing(journal: list[Envelope], kind: type[Message], stride: int) -> str:
    """How many of these messages, one every `stride` frames, are not on record."""
    frames = [e.header.cause.frame for e in journal if isinstance(e.message, kind) and e.header.cause]
    assert frames, f"no {kind.__name__} on record"
    return f"{(frames[-1] - frames[0]) // stride + 1 - len(frames)} {kind.__name__} missing"


def slow_drops(journal: list[Envelope]) -> str:
    """How many drops the mouse took for those of a later frame."""
    since = {e.message.id: e.header.cause for e in journal if isinstance(e.message, RewardCommand) and e.header.cause}
    done = [m for e in journal if isinstance(m := e.message, Done) and m.id in since]
    return f"{sum(m.open_ns - since[m.id].arrival_ns > MOUTH_NS for m in done)} drops fell a frame late"


@pytest.mark.parametrize("kind", ["learning", pytest.param("responsive", marks=pytest.mark.long)])
def test_live_and_in_process_decide_alike_frame_for_frame(
    kind: str, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    name, mouse_class, options = MICE[kind]
    standin = {"rate_hz": SPEED * RATE_HZ, "seed": SEED, "mouse": name, "mouse_options": options}
    useless: list[str] = []
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        live, reasons = run_live(whole_rig(folder, free_ports(28), microscope=standin), folder)
        if not reasons:
            break
        useless.append(f"run {attempt + 1}: {', '.join(reasons)}")
        print(useless[-1])
    assert not reasons, "no live run was on time; is this machine too busy?\n" + "\n".join(useless)

    begin = next(e.message for e in live if isinstance(e.message, RequestLog) and e.message.kind == "begin")
    first = next(e.header.cause.frame for e in live if isinstance(e.message, Output) and e.header.cause)
    scope = Microscope(height=HEIGHT, width=WIDTH, planes=2, rate_hz=RATE_HZ)
    scene = Scene(1, HEIGHT, WIDTH, N_CELLS, N_ROIS, 2)
    mouse = mouse_class(seed=SEED, n_cells=N_CELLS, rate_hz=SPEED * RATE_HZ, **options)
    rois = {
        plane: read_rois(RoiFile(plane=plane, path=f"rois{plane}.json", format="neurofinder"), folder, (HEIGHT, WIDTH))
        for plane in range(2)
    }
    core = ImagingCore(ImagingSettings(), scope, rois)
    scan = Scan(mouse, scene, SEED, SPEED * RATE_HZ)
    world = InProcessRig(mouse, TASK, microscope=scope, pictures=Frames(scan, core, scope), keep=KINDS)
    sent = world.run(start_at=first, begin_at=begin.last_frame + 1)
    assert mouse.late == 0

    one, other = decided(live), decided(sent)
    for what in one:
        for k, (a, b) in enumerate(zip(one[what], other[what], strict=False)):
            assert a == b, f"{what} number {k}: live {a}, in process {b}"
    n = len(other["outputs"])
    assert one["outputs"][:n] == other["outputs"]  # the live rig decodes on until it is stopped
    for what in ("angles", "edges", "rewards", "thresholds"):
        assert len(one[what]) == len(other[what])
    assert len(one["rewards"]) >= 1
    assert len(one["edges"]) >= 6
