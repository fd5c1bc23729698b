"""What a rig file means for each machine: address, roles, extras, files, keys; and what is refused."""

import importlib.metadata
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from lab import HOSTS
from three_hosts import three_hosts

from loop2p.cli.bundle import BundleError, Entry, closure, locked, make_bundle, pack, wheel_version
from loop2p.cli.inventory import (
    Machine,
    declared_extras,
    dynamic,
    files_named,
    keys_place,
    machines,
    missing_keys,
    static,
)
from loop2p.protocol import ROLES, FileError, RigFile, read_rig
from loop2p.runtime.keys import OPERATOR, make_keys

ROOT = Path(__file__).parents[2]
EXTRAS = {*ROLES, "simulation", "cohort", "analysis", "bench", "all"} - {"task"}


@pytest.fixture
def rig(tmp_path: Path) -> RigFile:
    return three_hosts(tmp_path)


def by_name(rig: RigFile, operator: str = "") -> dict[str, Machine]:
    return {m.name: m for m in machines(rig, operator, EXTRAS)}


def test_each_machine_has_what_runs_there_and_the_extras_of_that_alone(rig: RigFile):
    found = by_name(rig)
    assert {name: m.address for name, m in found.items()} == HOSTS
    assert found["stimulus"].runs == ["stimulus"]
    assert found["stimulus"].extras == ["stimulus"]
    assert found["microscope"].runs == ["imaging", "microscope"]
    assert found["microscope"].extras == ["imaging", "simulation"]
    assert found["control"].extras == ["actuation", "decoding", "recording", "simulation"]
    assert not any("analysis" in m.extras for m in found.values())


def test_every_extra_of_a_role_is_one_of_the_distribution(rig: RigFile):
    roles_with_libraries = set(ROLES) - {"task"}
    assert roles_with_libraries <= declared_extras()
    assert roles_with_libraries <= {extra for m in machines(rig) for extra in m.extras}


def test_each_secret_key_belongs_to_one_machine(rig: RigFile):
    found = by_name(rig)
    everybody = sorted(key for m in found.values() for key in m.secret_keys)
    assert everybody == sorted([*ROLES, OPERATOR])
    assert found["stimulus"].secret_keys == ["stimulus"]
    assert OPERATOR in found["control"].secret_keys, "where the recording is"
    assert OPERATOR in by_name(rig, "stimulus")["stimulus"].secret_keys
    assert OPERATOR not in by_name(rig, "stimulus")["control"].secret_keys


def test_an_operators_machine_that_runs_nothing_is_one_too(tmp_path: Path):
    rig = three_hosts(tmp_path, more_hosts={"desk": "10.77.0.9"})
    desk = by_name(rig, "desk")["desk"]
    assert (desk.runs, desk.extras, desk.roles, desk.secret_keys) == ([], [], [OPERATOR], [OPERATOR])
    assert "desk" not in by_name(rig), "an address alone is no reason to install"


def test_both_forms_of_the_inventory_tell_the_same(rig: RigFile):
    plan = machines(rig, declared=EXTRAS)
    fixed, asked = static(rig, plan)["all"], dynamic(rig, plan)
    assert fixed["hosts"] == asked["_meta"]["hostvars"]
    assert fixed["vars"] == asked["all"]["vars"]
    assert fixed["vars"]["loop2p_rig_hash"] == rig.hash
    assert {g: sorted(v["hosts"]) for g, v in fixed["children"].items()} == {
        g: sorted(v["hosts"]) for g, v in asked.items() if g.startswith("role_")
    }
    assert fixed["children"]["role_standins"]["hosts"].keys() == {"microscope", "control"}


def test_a_rig_on_one_pc_is_deployed_there():
    (here,) = machines(read_rig(ROOT / "deploy" / "rigs" / "simulated.toml"), declared=EXTRAS)
    assert (here.name, here.address, here.secret_keys) == ("local", "", [])
    assert static(read_rig(ROOT / "deploy" / "rigs" / "simulated.toml"), [here])["all"]["hosts"]["local"] == {
        "ansible_connection": "local",
        "loop2p_host": "local",
        "loop2p_runs": here.runs,
        "loop2p_extras": here.extras,
        "loop2p_secret_keys": [],
    }


def edited(rig: RigFile, old: str, new: str) -> RigFile:
    assert old in rig.text
    rig.path.write_text(rig.text.replace(old, new), encoding="utf-8")
    return read_rig(rig.path)


def test_an_external_peer_has_its_key_but_nothing_is_installed_for_it(rig: RigFile):
    stimulus = by_name(edited(rig, "[services.stimulus]", "[services.stimulus]\nexternal = true"))["stimulus"]
    assert (stimulus.runs, stimulus.extras, stimulus.secret_keys) == ([], [], ["stimulus"])


def test_a_replacement_keeps_its_roles_extra(rig: RigFile):
    changed = edited(rig, "[services.stimulus]", '[services.stimulus]\nclass = "their_lab.screen:Screen"')
    assert by_name(changed)["stimulus"].extras == ["stimulus"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('stimulus = "10.77.0.2"', "", r"hosts: no address of 'stimulus', expected a line such as stimulus = "),
        ('"10.77.0.2"', '"-oProxyCommand=touch x"', r"hosts.stimulus: found '-oProxyCommand.*', expected an address"),
        ('host = "stimulus"', 'host = "../x"', r"host '../x': expected letters"),
        ('name = "lab"', 'name = "../lab"', r"name: found '../lab', expected letters"),
    ],
)
def test_what_cant_be_part_of_a_command_or_path_is_refused(rig: RigFile, old: str, new: str, message: str):
    with pytest.raises(FileError, match=message):
        machines(edited(rig, old, new), declared=EXTRAS)


# ---------------------------------------------------------------- files


def test_files_that_the_rig_file_names_go_with_it_and_no_others(rig: RigFile):
    folder = rig.path.parent
    (folder / "diary.txt").write_text("not named")
    (folder / "lab_code").mkdir()
    (folder / "lab_code" / "decoders.py").write_text("")
    assert files_named(rig) == ["simulated_rois_plane0.json", "simulated_rois_plane1.json"]
    named = edited(rig, "[services.decoding.options]", '[services.decoding.options]\npath = ["lab_code"]')
    assert "lab_code/decoders.py" in files_named(named)
    assert "diary.txt" not in files_named(named)


def test_a_file_elsewhere_is_refused_and_a_machines_own_is_left_alone(rig: RigFile):
    outside = rig.path.parent.parent / "elsewhere"
    outside.mkdir()
    named = edited(rig, "[services.decoding.options]", '[services.decoding.options]\npath = ["../elsewhere"]')
    with pytest.raises(FileError, match=r"decoding: '../elsewhere' is not beneath the rig file's folder"):
        files_named(named)
    absolute = edited(named, '"../elsewhere"', f'"{outside.as_posix()}"')
    assert not any("elsewhere" in name for name in files_named(absolute))


def test_secret_keys_are_no_files_of_the_rig(rig: RigFile):
    make_keys(rig.path.parent / "keys", [*rig.rig.services, OPERATOR])
    with pytest.raises(FileError, match="not beneath"):
        files_named(edited(rig, "[services.decoding.options]", '[services.decoding.options]\npath = ["."]'))
    named = edited(read_rig(rig.path), 'path = ["."]', 'path = ["keys"]')
    assert not any(name.startswith("keys") for name in files_named(named))


def test_missing_keys_are_named_before_anything_is_done(rig: RigFile):
    plan = machines(rig, declared=EXTRAS)
    keys = rig.path.parent / "keys"
    assert len(missing_keys(rig, plan)) == 2 * len(ROLES) + 1
    make_keys(keys, [*rig.rig.services, OPERATOR])
    assert missing_keys(rig, plan) == []
    (keys / "private" / "task.key_secret").unlink()
    assert missing_keys(rig, plan) == [keys / "private" / "task.key_secret"]
    assert missing_keys(rig, [m for m in plan if m.name == "stimulus"]) == []


def test_keys_elsewhere_are_refused(rig: RigFile):
    assert keys_place(rig) == "keys"
    for elsewhere in ("../keys", ".", "/etc/keys"):
        with pytest.raises(FileError, match=r"security\.keys: found .*, expected a folder beneath"):
            keys_place(edited(read_rig(rig.path), 'keys = "keys"', f'keys = "{elsewhere}"'))
        rig.path.write_text(rig.text)


# ---------------------------------------------------------------- wheels and versions


def test_the_lock_is_read_with_every_hash():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = locked(text)
    blocks = [block for versions in found.values() for block in versions.values()]
    assert sum(block.count("--hash=") for block in blocks) == text.count("--hash=")
    assert len(blocks) == len(re.findall(r"^[a-z]", text, re.MULTILINE))
    assert len(found["numpy"]) >= 1
    assert {requirement_name(r) for r in importlib.metadata.requires("loop2p") or ()} - {"loop2p"} <= found.keys()


def requirement_name(text: str) -> str:
    found = re.match(r"[\w.-]+", text)
    assert found
    return found[0].lower().replace("_", "-")


def toy_wheel(folder: Path, version: str = "7.1", requires: str = "") -> Path:
    path = folder / f"loop2p-{version}-py3-none-any.whl"
    text = f"Metadata-Version: 2.1\nName: loop2p\nVersion: {version}\n{requires}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"loop2p-{version}.dist-info/METADATA", text)
        archive.writestr(f"loop2p-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"loop2p-{version}.dist-info/RECORD", "")
    return path


def test_what_is_no_wheel_is_said_to_be_none(tmp_path: Path):
    assert wheel_version(toy_wheel(tmp_path)) == "7.1"
    for name, content in (("a.whl", b"no zip"), ("b.whl", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=r"\.whl: no wheel of loop2p"):
            wheel_version(tmp_path / name)
    with pytest.raises(FileError, match="no wheel of loop2p"):
        wheel_version(tmp_path / "absent.whl")


def test_a_bundle_is_named_by_what_is_in_it(tmp_path: Path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("")
    wheel = toy_wheel(tmp_path)
    bundle = make_bundle(wheel, [], lock, tmp_path / "work")
    assert re.fullmatch(r"7\.1-[0-9a-f]{8}", bundle.release)
    assert re.fullmatch(r"loop2p==7\.1 --hash=sha256:[0-9a-f]{64}\n", bundle.requirements.read_text())
    with tarfile.open(bundle.wheels) as archive:
        assert archive.getnames() == [wheel.name]
    assert make_bundle(wheel, [], lock, tmp_path / "work2").release == bundle.release
    toy_wheel(tmp_path, requires="Summary: other\n")
    assert make_bundle(wheel, [], lock, tmp_path / "work").release != bundle.release


def test_files_are_packed_with_owner_and_mode_and_the_same_each_time(tmp_path: Path):
    entries = {"keys": Entry(mode=0o700, owner="loop2p"), "rig.toml": Entry(b"name = 'lab'\n")}
    tar = pack(entries, tmp_path / "a" / "files.tar")
    assert pack(dict(reversed(entries.items())), tmp_path / "b.tar").read_bytes() == tar.read_bytes()
    with tarfile.open(tar) as archive:
        told = {m.name: (m.isdir(), m.mode, m.uname, m.gname, m.size) for m in archive}
    assert told == {
        "keys": (True, 0o700, "loop2p", "loop2p", 0),
        "rig.toml": (False, 0o640, "root", "loop2p", len(b"name = 'lab'\n")),
    }
    if os.name == "posix":
        assert tar.stat().st_mode & 0o077 == 0, "it may hold passwords"


def test_what_is_not_in_the_lock_is_not_installed(tmp_path: Path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "toything-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("toything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toything\nVersion: 1.0\n")
        archive.writestr("toything-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toything-1.0.dist-info/RECORD", "")
    (tmp_path / "empty.lock").write_text("")
    (tmp_path / "full.lock").write_text("toything==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    wheel = toy_wheel(tmp_path, requires="Requires-Dist: toything\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_FIND_LINKS", str(wheels))
        patch.setenv("UV_NO_INDEX", "1")
        with pytest.raises(BundleError, match=r"empty\.lock: no toything==1\.0, which .* needs"):
            closure(wheel, [], tmp_path / "empty.lock")
        assert closure(wheel, [], tmp_path / "full.lock") == (tmp_path / "full.lock").read_text()


# ---------------------------------------------------------------- what is not Ansible's


def test_the_unit_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from needs import lacking

    unit = (ROOT / "deploy" / "systemd" / "loop2p-up@.service").read_text(encoding="utf-8")
    there = unit.replace("/opt/loop2p/current/venv/bin/loop2p", "/bin/true")
    assert there.count("/bin/true") == 1
    (tmp_path / "loop2p-up@.service").write_text(there)
    (tmp_path / "wrong@.service").write_text(there.replace("Restart=on-failure", "Restart=perhaps"))

    def verify(name: str) -> str:
        try:
            done = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True)
        except FileNotFoundError:
            lacking("no systemd-analyze here (Debian: systemd)")
        return done.stdout + done.stderr

    assert verify("loop2p-up@.service") == ""
    assert "perhaps" in verify("wrong@.service"), "a mistake is seen"


def test_the_windows_wrapper_is_xml_and_runs_up():
    root = ElementTree.parse(ROOT / "deploy" / "windows" / "loop2p-up.xml").getroot()
    assert root.tag == "service"
    arguments = root.findtext("arguments")
    assert arguments
    assert arguments.split()[0] == "up"
    assert "--host" in arguments.split()
