"""The gateway's options: what can't work or is not safe is refused before anything is connected."""

import os
from pathlib import Path
from typing import Any

import pytest
from rigs import rig_text, toml_value

from loop2p.gateway import Gateway
from loop2p.gateway.options import read_password
from loop2p.protocol import FileError, RigFile, read_rig

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such permission bits")


def rig_with(folder: Path, name: str = "test", **options: Any) -> RigFile:
    text = rig_text(list(range(5500, 5524)), str(folder)).replace('name = "test"', f"name = {toml_value(name)}")
    lines = ["[companions.gateway]", 'run = "loop2p.gateway:Gateway"', "[companions.gateway.options]"]
    lines += [f"{key} = {toml_value(value)}" for key, value in options.items()]
    path = folder / "rig.toml"
    path.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    return read_rig(path)


def gateway(rig_file: RigFile) -> Gateway:
    return Gateway.from_rig(rig_file.side_options("gateway", Gateway.Options), rig_file)


@pytest.fixture
def password(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text("sesame\n", encoding="utf-8")
    path.chmod(0o600)
    return path.name


def test_the_defaults_watch_a_broker_on_this_machine_and_take_no_commands(tmp_path: Path) -> None:
    made = gateway(rig_with(tmp_path))
    assert made.options.broker == "127.0.0.1"
    assert made.options.commands is False
    assert made.options.discovery == ""


def refusal(rig_file: RigFile) -> str:
    with pytest.raises(FileError) as caught:
        gateway(rig_file)
    return str(caught.value)


def test_commands_need_a_login(tmp_path: Path, password: str) -> None:
    assert "commands = true without a login" in refusal(rig_with(tmp_path, commands=True))
    assert "rig.toml" in refusal(rig_with(tmp_path, commands=True))
    assert gateway(rig_with(tmp_path, commands=True, user="g", password_file=password)).options.commands


def test_user_and_password_file_go_together(tmp_path: Path, password: str) -> None:
    assert "no password_file" in refusal(rig_with(tmp_path, user="g"))
    assert "no user" in refusal(rig_with(tmp_path, password_file=password))


def test_there_is_no_place_for_a_password_in_the_rig_file(tmp_path: Path) -> None:
    assert "password: unknown key" in refusal(rig_with(tmp_path, user="g", password="sesame"))


@pytest.mark.parametrize("broker", ["192.168.10.5", "broker.lab", "0.0.0.0"])
def test_a_password_crosses_no_network_in_clear(tmp_path: Path, password: str, broker: str) -> None:
    said = refusal(rig_with(tmp_path, broker=broker, user="g", password_file=password))
    assert f"in clear to {broker}" in said
    assert gateway(rig_with(tmp_path, broker=broker, user="g", password_file=password, tls={}))


@pytest.mark.parametrize("broker", ["127.0.0.1", "localhost", "::1"])
def test_on_this_machine_it_may(tmp_path: Path, password: str, broker: str) -> None:
    assert gateway(rig_with(tmp_path, broker=broker, user="g", password_file=password))


@posix
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o666])
def test_a_password_that_everybody_can_read_is_refused(tmp_path: Path, password: str, mode: int) -> None:
    (tmp_path / password).chmod(mode)
    said = refusal(rig_with(tmp_path, user="g", password_file=password))
    assert "everybody on this machine has access" in said
    assert "chmod 600" in said


@posix
def test_its_owners_group_may(tmp_path: Path, password: str) -> None:
    (tmp_path / password).chmod(0o640)
    assert read_password(tmp_path / password) == "sesame"


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"one\ntwo\n", "one"), (b"one\r\n", "one"), (b"with space ", "with space "), ("säsam".encode(), "säsam")],
)
def test_the_first_line_is_the_password(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "p"
    path.touch(0o600)
    path.write_bytes(content)
    assert read_password(path) == found


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"\nx", "is empty"), (b"\xff", "not UTF-8")])
def test_what_is_no_password_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "p"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(FileError, match=said):
        read_password(path)


def test_files_that_are_missing_are_named(tmp_path: Path, password: str) -> None:
    assert "nowhere: can't be read" in refusal(rig_with(tmp_path, user="g", password_file="nowhere"))
    tls = {"ca_file": "nobody.crt"}
    assert "nobody.crt: can't be read" in refusal(rig_with(tmp_path, tls=tls))
    sessions = {"short": {"task": "no-task.toml"}}
    login = {"user": "g", "password_file": password}
    assert "no-task.toml: can't be read" in refusal(rig_with(tmp_path, commands=True, sessions=sessions, **login))


@posix
def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    for name in ("c.crt", "c.key"):
        (tmp_path / name).write_text("", encoding="utf-8")
        (tmp_path / name).chmod(0o644)
    said = refusal(rig_with(tmp_path, tls={"cert_file": "c.crt", "key_file": "c.key"}))
    assert "c.key: everybody" in said
    assert "expected tls.cert_file and tls.key_file" in refusal(rig_with(tmp_path, tls={"cert_file": "c.crt"}))


@pytest.mark.parametrize("name", ["two/rigs", "all+", "#", "a b", ""])
def test_a_rigs_name_that_would_be_another_topic_is_refused(tmp_path: Path, name: str) -> None:
    assert "can't be in an MQTT topic" in refusal(rig_with(tmp_path, name=name))
