"""ROI files are read as their makers mean them; what is wrong with one is said; nothing in one is ever run."""

import contextlib
import json
import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from loop2p.imaging import RoiFile, read_rois
from loop2p.imaging.rois import set_id
from loop2p.imaging.unpickle import Refused, read_objects
from loop2p.protocol import FileError, from_i32

SHAPE = (40, 60)


def read(path: Path, shape=SHAPE, **more):
    return read_rois(RoiFile(path.name, **more), path.parent, shape)


def pixels(rois, k):
    start = int(rois.lengths[:k].sum())
    part = slice(start, start + int(rois.lengths[k]))
    return list(zip(rois.rows[part].tolist(), rois.cols[part].tolist(), strict=True))


def mistake(path: Path, shape=SHAPE, **more) -> str:
    with pytest.raises(FileError) as caught:
        read(path, shape, **more)
    assert str(path.name) in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- suite2p


@pytest.mark.real
def test_real_suite2p_rois_are_those_that_numpy_unpickles(recordings):
    """The recording is trusted, so here, and only here, numpy may run its pickle."""
    folder = recordings / "suite2p_output"
    trusted = np.load(folder / "stat.npy", allow_pickle=True)
    ours = read_objects(folder / "stat.npy")
    assert len(ours) == len(trusted) == 107
    for mine, theirs in zip(ours, trusted, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(mine[key], value)
            if isinstance(value, np.ndarray | np.generic):
                assert mine[key].dtype == value.dtype
    rois = read_rois(RoiFile("suite2p_output"), recordings, (512, 512))
    cells = np.flatnonzero(np.load(folder / "iscell.npy")[:, 0])
    assert rois.names == [str(k) for k in cells]
    assert 0 < len(rois) < 107
    for k, cell in enumerate(cells):
        want = zip(trusted[cell]["ypix"].tolist(), trusted[cell]["xpix"].tolist(), strict=True)
        assert pixels(rois, k) == list(want)


def write_stat(folder: Path, cells: list[dict], iscell=None) -> Path:
    stat = np.empty(len(cells), object)
    stat[:] = cells
    np.save(folder / "stat.npy", stat, allow_pickle=True)
    if iscell is not None:
        np.save(folder / "iscell.npy", np.asarray(iscell))
    return folder / "stat.npy"


CELLS = [
    {"ypix": np.array([1, 2, 3]), "xpix": np.array([4, 4, 4]), "lam": np.ones(3, np.float32), "med": [2, 4]},
    {"ypix": np.array([10, 11]), "xpix": np.array([20, 20]), "skew": np.float64(1.5)},
]


def test_suite2p_without_iscell_gives_all_and_folder_or_file_may_be_named(tmp_path):
    path = write_stat(tmp_path, CELLS)
    assert read(path).names == ["0", "1"]
    rois = read_rois(RoiFile(tmp_path.name), tmp_path.parent, SHAPE)
    assert pixels(rois, 0) == [(1, 4), (2, 4), (3, 4)]


def test_suite2p_mistakes_are_named(tmp_path):
    path = write_stat(tmp_path, CELLS, [[0, 0.1], [0, 0.2]])
    with pytest.raises(FileError, match="none of 2 ROIs is a cell"):
        read(path)
    write_stat(tmp_path, CELLS, [[1, 0.1]])
    with pytest.raises(FileError, match=r"expected \(2, 2\) as in stat.npy"):
        read(path)
    write_stat(tmp_path, [{"ypix": np.array([1])}], [[1, 1.0]])
    assert "ROI 0 has no ypix and xpix" in mistake(path)
    os.remove(path)
    with pytest.raises(FileError, match=r"no such file; expected suite2p's stat\.npy"):
        read_rois(RoiFile(tmp_path.name), tmp_path.parent, SHAPE)


class Evil:
    """What it does when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: Evil(os.system, f"touch {path}"),
        lambda path: Evil(exec, f"open({str(path)!r}, 'w').close()"),
        lambda path: Evil(Path.touch, path),
        lambda path: {"ypix": Evil(eval, f"open({str(path)!r}, 'w')"), "xpix": [1]},
        lambda path: Evil(getattr, "text", "upper"),
    ],
)
def test_a_malicious_file_is_refused_and_not_run(tmp_path, make, protocol):
    trace = tmp_path / "was_run"
    path = tmp_path / "stat.npy"
    stat = np.empty(1, object)
    stat[0] = make(trace)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump(stat, file, protocol=protocol)
    why = mistake(path)
    assert "it asks for" in why
    assert "nothing was run" in why
    assert not trace.exists()


def test_the_malicious_file_would_have_run_in_numpy(tmp_path):
    """So that the test above can fail."""
    trace = tmp_path / "was_run"
    path = write_stat(tmp_path, [Evil(Path.touch, trace)])
    np.load(path, allow_pickle=True)
    assert trace.exists()


def test_the_stand_ins_can_not_be_altered_by_a_file(tmp_path):
    program = b"\x80\x04cnumpy\ndtype\n}\x8c\x01aK\x01sb."  # GLOBAL numpy.dtype, {"a": 1}, BUILD
    path = tmp_path / "stat.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        file.write(program)
    with pytest.raises(Refused, match="it changes a name"):
        read_objects(path)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04]r\xff\xff\xff\xff.",  # memo index 2**32 - 1: 64 GB in the C machine
        b"\x80\x05\x96\x00\x00\x00\x00\xff\x00\x00\x00.",  # a byte array of 1 TB
        b"\x80\x04B\xff\xff\xff\x7fabc.",  # bytes that are not there
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x04" + b"(" * 100_000,
    ],
)
def test_a_file_that_asks_for_the_impossible_is_a_mistake(tmp_path, program):
    path = tmp_path / "stat.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        file.write(program)
    with pytest.raises(Refused):
        read_objects(path)


@pytest.mark.filterwarnings("ignore")  # numpy's own, of damaged headers
@settings(max_examples=150)
@given(st.data())
def test_a_damaged_file_is_a_mistake_and_never_more(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path = write_stat(folder, CELLS)
    good = path.read_bytes()
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good)
    for _ in range(data.draw(st.integers(0, 5))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(FileError):
        rois = read(path)
        assert rois.rows.max() < SHAPE[0]


# ---------------------------------------------------------------- neurofinder


@pytest.mark.real
def test_real_neurofinder_rois(recordings):
    path = recordings / "movie_neurofinder" / "neurofinder_A_regions.json"
    rois = read(path, (160, 160))
    regions = json.loads(path.read_text())
    assert len(rois) == 47
    for k, region in enumerate(regions):
        assert rois.names[k] == str(region["id"])
        assert pixels(rois, k) == [tuple(c) for c in region["coordinates"]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[{", "no neurofinder file"),
        ('{"a": 1}', "no neurofinder file"),
        ('[{"coordinates": [[1]]}]', "no neurofinder file"),
        ('[{"coordinates": [[1.5, 2]]}]', "no neurofinder file"),
        ("[]", "holds no ROI"),
        ('[{"id": 7, "coordinates": []}]', "ROI 7 has no pixel"),
        (
            '[{"id": 7, "coordinates": [[1, 2], [3, 60]]}]',
            "ROI 7 reaches rows 1-3, columns 2-60, expected to lie inside",
        ),
        ('[{"id": 7, "coordinates": [[-1, 2]]}]', "ROI 7 reaches rows -1--1"),
    ],
)
def test_neurofinder_mistakes_are_named(tmp_path, text, why):
    path = tmp_path / "rois.json"
    path.write_text(text)
    assert why in mistake(path)


def test_a_pixel_listed_twice_counts_once(tmp_path):
    path = tmp_path / "rois.json"
    path.write_text('[{"coordinates": [[5, 6], [1, 2], [5, 6]]}]')
    assert pixels(read(path), 0) == [(5, 6), (1, 2)]


# ---------------------------------------------------------------- NWB


def write_nwb(path: Path, tables: tuple[str, ...] = ("PlaneSegmentation",), image_mask=False) -> Path:
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.ophys import ImageSegmentation, OpticalChannel

    nwb = NWBFile("rois", "rois", datetime(2026, 1, 1, tzinfo=UTC))
    device = nwb.create_device("microscope")
    channel = OpticalChannel(name="green", description="green", emission_lambda=510.0)
    plane = nwb.create_imaging_plane(
        name="plane", optical_channel=channel, description="plane", device=device, excitation_lambda=980.0,
        indicator="jGCaMP7f", location="RSC",
    )  # fmt: skip
    segmentation = ImageSegmentation()
    nwb.create_processing_module("ophys", "ophys").add(segmentation)
    for name in tables:
        table = segmentation.create_plane_segmentation(name=name, description="ROIs", imaging_plane=plane)
        for roi in ([(4, 1, 1.0), (4, 2, 0.5)], [(59, 39, 1.0)]):
            if image_mask:
                mask = np.zeros(SHAPE, bool)
                for x, y, _ in roi:
                    mask[y, x] = True
                table.add_roi(image_mask=mask)
            else:
                table.add_roi(pixel_mask=roi)
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return path


@pytest.mark.parametrize("image_mask", [False, True])
def test_nwb_tables_as_pynwb_writes_them(tmp_path, image_mask):
    rois = read(write_nwb(tmp_path / "rois.nwb", image_mask=image_mask))
    assert rois.names == ["0", "1"]
    assert pixels(rois, 0) == [(1, 4), (2, 4)]
    assert pixels(rois, 1) == [(39, 59)]


def test_nwb_table_is_named_where_there_are_several(tmp_path):
    path = write_nwb(tmp_path / "rois.nwb", ("proximal", "distal"))
    assert len(read(path, table="distal")) == 2
    assert "2 PlaneSegmentations (" in mistake(path)
    assert "no PlaneSegmentation 'tuft'; found" in mistake(path, table="tuft")


def test_nwb_mistakes_are_named(tmp_path):
    path = tmp_path / "rois.nwb"
    path.write_bytes(b"no HDF5 at all")
    assert "no HDF5 file" in mistake(path)
    with h5py.File(path, "w") as file:
        file.create_group("processing")
    assert "0 PlaneSegmentations (none)" in mistake(path)
    with h5py.File(path, "w") as file:
        file.create_group("a").attrs["neurodata_type"] = "PlaneSegmentation"
    assert "neither pixel_mask nor image_mask" in mistake(path)
    with h5py.File(path, "a") as file:
        file["a"]["pixel_mask"] = np.zeros(3)
        file["a"]["pixel_mask_index"] = np.array([3])
    assert "PlaneSegmentation /a" in mistake(path)
    with h5py.File(path, "a") as file:
        del file["a"]["pixel_mask"]
        file["a"]["image_mask"] = np.zeros((2, 7, 9))
    assert "image_mask of shape (2, 7, 9), expected (ROIs, 40, 60)" in mistake(path)


# ---------------------------------------------------------------- label images


@pytest.mark.parametrize(
    ("name", "write"), [("labels.npy", np.save), ("labels.tif", tifffile.imwrite), ("labels.tiff", tifffile.imwrite)]
)
@pytest.mark.parametrize("dtype", ["u1", "i4", "f4"])
def test_label_images(tmp_path, name, write, dtype):
    labels = np.zeros(SHAPE, dtype)
    labels[3:5, 7] = 2
    labels[10, 11] = 9
    write(tmp_path / name, labels)
    rois = read(tmp_path / name)
    assert rois.names == ["2", "9"]
    assert pixels(rois, 0) == [(3, 7), (4, 7)]
    assert pixels(rois, 1) == [(10, 11)]


def test_label_image_mistakes_are_named(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.zeros(SHAPE, int))
    assert "holds no ROI" in mistake(path)
    np.save(path, np.ones((60, 40), int))
    assert "image of shape (60, 40), expected (40, 60)" in mistake(path)
    np.save(path, np.full(SHAPE, 0.5))
    assert "expected whole numbers" in mistake(path)
    np.save(path, np.array([Evil(Path.touch, tmp_path / "was_run")]), allow_pickle=True)
    assert "no .npy file of numbers" in mistake(path)
    assert not (tmp_path / "was_run").exists()
    path.write_bytes(b"\x93NUMPY")
    assert "no .npy file of numbers" in mistake(path)
    (tmp_path / "labels.tif").write_bytes(b"no TIFF")
    assert "no TIFF file" in mistake(tmp_path / "labels.tif")


# ---------------------------------------------------------------- all


def test_unknown_and_missing_files_are_named(tmp_path):
    (tmp_path / "rois.mat").write_bytes(b"")
    assert "can't tell the format" in mistake(tmp_path / "rois.mat")
    assert "no such ROI file or folder (plane 1)" in mistake(tmp_path / "nothing.json", plane=1)


def test_the_set_id_names_exactly_these_rois(tmp_path):
    path = tmp_path / "rois.json"
    path.write_text('[{"id": 1, "coordinates": [[1, 2], [1, 3]]}]')
    one, again = read(path), read(path)
    path.write_text('[{"id": 1, "coordinates": [[1, 2], [2, 3]]}]')
    other = read(path)
    assert set_id({0: one}) == set_id({0: again})
    assert len({set_id({0: one}), set_id({1: one}), set_id({0: other}), set_id({})}) == 4


def test_the_message_holds_the_pixels(tmp_path):
    path = tmp_path / "rois.json"
    path.write_text('[{"id": "a", "coordinates": [[1, 2], [1, 3]]}, {"coordinates": [[5, 6]]}]')
    message = read(path).message(1)
    assert (message.plane, message.names) == (1, ["a", "1"])
    assert from_i32(message.lengths).tolist() == [2, 1]
    assert from_i32(message.rows).tolist() == [1, 1, 5]
    assert from_i32(message.cols).tolist() == [2, 3, 6]


def test_moved_rois_lose_what_leaves_the_image(tmp_path):
    path = tmp_path / "rois.json"
    path.write_text('[{"id": "a", "coordinates": [[1, 2], [2, 2]]}, {"coordinates": [[30, 30]]}]')
    rois = read(path).moved(-2, 5, SHAPE)
    assert pixels(rois, 0) == [(0, 7)]
    assert pixels(rois, 1) == [(28, 35)]
    with pytest.raises(ValueError, match="ROIs a lie outside the image when moved by -5 rows, 0 columns"):
        read(path).moved(-5, 0, SHAPE)
