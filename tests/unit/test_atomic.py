"""A file is replaced whole or not at all, wherever its writer dies."""

import os
from pathlib import Path

import pytest

from loop2p.runtime import atomic
from loop2p.runtime.atomic import write_atomically


class KilledError(BaseException):
    """The writer dies here."""


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_writer_that_dies_between_its_steps_leaves_the_old_file_whole(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "animal.toml"
    path.write_text("[loop2p]\nday = 3\n")

    def die(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(atomic if step == "open" else os, step, die, raising=False)
        with pytest.raises(KilledError):
            write_atomically(path, "[loop2p]\nday = 4\n")
    assert path.read_text() == "[loop2p]\nday = 3\n"
    write_atomically(path, "[loop2p]\nday = 5\n")  # what the dead one left is no obstacle
    assert path.read_text() == "[loop2p]\nday = 5\n"
    assert [p.name for p in tmp_path.iterdir()] == ["animal.toml"]


def test_the_data_are_on_the_disk_before_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, seen = tmp_path / "f", []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        seen.append(("fsync", path.exists()))
        real_fsync(handle)

    def replace(old: Path, new: Path) -> None:
        seen.append(("replace", Path(old).read_bytes() == b"\xc2\xb5l"))
        real_replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(path, "µl")
    assert seen[:2] == [("fsync", False), ("replace", True)]
    assert path.read_bytes() == "µl".encode()
