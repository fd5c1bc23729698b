"""The simulated rig's file: the stand-ins and the services that meet them agree."""

from pathlib import Path

import numpy as np

from loop2p.protocol import read_rig
from loop2p.simulation.microscope import MicroscopeOptions
from loop2p.simulation.scene import Scene

RIG = read_rig(Path(__file__).parents[2] / "deploy" / "rigs" / "simulated.toml")
SCOPE: MicroscopeOptions = RIG.side_options("microscope", MicroscopeOptions)


def test_it_says_that_it_is_simulated() -> None:
    assert RIG.rig.simulated


def test_the_loop_asks_for_real_time_and_recording_does_not() -> None:
    asked = {name for name, spec in RIG.rig.services.items() if spec.realtime_priority}
    assert asked == RIG.rig.services.keys() - {"recording"}


def test_all_endpoints_are_on_this_machine_and_differ() -> None:
    found = [e for s in RIG.rig.services.values() for e in (s.publish, s.bulk, s.control, f"tcp://{s.metrics}")]
    standin = RIG.rig.standins["controller"].options
    found += [f"tcp://{a}" for a in (standin["tcp"], standin["wires"])]
    found += [f"tcp://{SCOPE.address}:{port}" for port in (SCOPE.image_port, SCOPE.control_port)]
    assert len(set(found)) == len(found) == 28
    assert all(e.startswith("tcp://127.0.0.1:55") for e in found)


def test_imaging_takes_what_the_microscope_sends() -> None:
    source = RIG.rig.services["imaging"].options["source"]
    assert source["listen"]
    for key in ("image_port", "control_port", "inverted"):
        assert source[key] == getattr(SCOPE, key)


def test_the_roi_files_belong_to_the_field_of_view_that_is_simulated() -> None:
    scope = RIG.rig.microscope
    scene = Scene(SCOPE.scene_seed, scope.height, scope.width, SCOPE.n_cells, SCOPE.n_rois, scope.planes)
    rois = RIG.rig.services["imaging"].options["rois"]
    assert [r["plane"] for r in rois] == list(range(scope.planes))
    for roi in rois:
        assert (RIG.path.parent / roi["path"]).read_text(encoding="utf-8") == scene.rois_json(roi["plane"])


def test_actuation_reaches_the_controller_and_the_mouse_gets_what_is_paid_out() -> None:
    options, standin = RIG.rig.services["actuation"].options, RIG.rig.standins["controller"].options
    assert options["controller"] == f"socket://{standin['tcp']}"
    assert standin["wires"] == SCOPE.wires
    ratios = [p["ul"] / p["open_ms"] for p in options["valve"]["points"]]
    assert np.allclose(ratios, SCOPE.valve_ul_per_ms)
