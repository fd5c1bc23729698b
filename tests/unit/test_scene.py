"""The simulated field of view and its ROI files."""

import json
from pathlib import Path

import numpy as np
import pytest

from loop2p.simulation.scene import EDGE_PX, Scene

RIGS = Path(__file__).parents[2] / "deploy" / "rigs"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("plane", [0, 1])
def test_the_committed_roi_files_are_what_the_code_writes(scene: Scene, plane: int) -> None:
    committed = (RIGS / f"simulated_rois_plane{plane}.json").read_text(encoding="utf-8")
    assert committed == scene.rois_json(plane), "run: python -m loop2p.simulation.scene"


def test_written_files_are_neurofinder_json(scene: Scene, tmp_path: Path) -> None:
    files = scene.write_rois(tmp_path)
    assert [f.name for f in files] == ["simulated_rois_plane0.json", "simulated_rois_plane1.json"]
    rois = json.loads(files[1].read_text(encoding="utf-8"))
    assert [roi["id"] for roi in rois] == list(range(16))
    assert all(np.array(roi["coordinates"]).shape[1] == 2 for roi in rois)


def test_rois_are_cell_sized_inside_the_image_and_apart(scene: Scene) -> None:
    for plane in (0, 1):
        taken = np.zeros((scene.height, scene.width), int)
        for roi in scene.rois(plane):
            assert 60 <= len(roi) <= 200
            assert roi.min() >= EDGE_PX - 10
            taken[roi[:, 0], roi[:, 1]] += 1
        assert taken.max() == 1


def test_an_roi_of_both_planes_is_the_same_neuron(scene: Scene) -> None:
    lean = np.abs(scene.centres[1] - scene.centres[0]).max(axis=1)
    assert lean.max() <= 10
    assert lean.min() > 0
    assert {len(a) for a in scene.rois(0)} != {len(a) for a in scene.rois(1)}


def test_it_follows_from_seed_and_geometry_alone() -> None:
    small = {"height": 160, "width": 200, "n_cells": 5, "n_rois": 3}
    a, b, other = Scene(seed=4, **small), Scene(seed=4, **small), Scene(seed=5, **small)
    assert a.still.tobytes() == b.still.tobytes()
    assert a.rois_json(1) == b.rois_json(1)
    assert a.still.tobytes() != other.still.tobytes()


def test_cells_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 40 cells fit into 100 x 100 px"):
        Scene(height=100, width=100)
    with pytest.raises(ValueError, match="n_rois 5: expected 0 to n_cells, which is 4"):
        Scene(n_cells=4, n_rois=5)
