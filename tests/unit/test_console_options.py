"""Where the page may listen, and what it needs for that."""

import os
from pathlib import Path
from typing import Any

import pytest
from rigs import rig_text

from loop2p.console.options import ConsoleOptions, Startable, check
from loop2p.protocol import FileError, parse_rig

TOKEN = "a-token-of-twenty-chars-or-more"


def judge(folder: Path, plain: bool = False, **options: Any) -> None:
    top = "[security]\nplain_on_network = true" if plain else ""
    text = rig_text(list(range(5500, 5600)), str(folder), top=top)
    for name in ("cert.pem", "key.pem", "day.toml"):
        (folder / name).write_text("")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "token").chmod(0o600)
    check(ConsoleOptions(**options), parse_rig(text, folder / "rig.toml"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"address": "::1"},
        {"address": "localhost"},
        {"token_file": "token"},
        {"address": "192.168.1.5", "token_file": "token", "cert_file": "cert.pem", "key_file": "key.pem"},
        {"address": "192.168.1.5", "token_file": "token", "plain": True},
        {"sessions": {"day": Startable(task="day.toml")}},
    ],
)
def test_what_is_safe_is_taken(options: dict[str, Any], tmp_path: Path):
    judge(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "192.168.1.5"}, "can be reached from other machines; expected token_file"),
        ({"address": "0.0.0.0"}, "can be reached from other machines"),
        ({"address": "192.168.1.5", "token_file": "token"}, "the token would cross the network in clear"),
        ({"address": "0.0.0.0", "token_file": "token", "plain": True}, "says no name; expected names"),
        ({"address": "rig.lab"}, "expected an address such as"),
        ({"cert_file": "cert.pem"}, "expected cert_file and key_file, or neither"),
        ({"cert_file": "cert.pem", "key_file": "none.pem"}, "none.pem: no such file"),
        ({"token_file": "none"}, "can't be read"),
        ({"sessions": {"day": Startable(task="none.toml")}}, "none.toml: can't be read"),
    ],
)
def test_what_is_not_safe_is_refused_and_says_what_to_do(options: dict[str, Any], words: str, tmp_path: Path):
    with pytest.raises(FileError, match=words):
        judge(tmp_path, **options)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such bits")
def test_a_token_that_everybody_can_read_is_refused(tmp_path: Path):
    judge(tmp_path)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(FileError, match="everybody on this machine has access"):
        check(ConsoleOptions(token_file="token"), parse_rig(rig_text(list(range(5500, 5600)), "r"), tmp_path / "rig"))


def test_a_short_token_is_refused(tmp_path: Path):
    (tmp_path / "token").write_text("password\n")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(FileError, match="8 characters, expected at least 20"):
        check(ConsoleOptions(token_file="token"), parse_rig(rig_text(list(range(5500, 5600)), "r"), tmp_path / "rig"))


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ({}, {"127.0.0.1:5560", "localhost:5560", "[::1]:5560"}),
        ({"address": "10.0.0.1", "names": ["rig.lab"]}, {"10.0.0.1:5560", "rig.lab:5560"}),
        ({"address": "0.0.0.0", "names": ["rig.lab"]}, {"rig.lab:5560"}),
        ({"address": "10.0.0.1", "port": 443, "cert_file": "c", "key_file": "k"}, {"10.0.0.1:443", "10.0.0.1"}),
    ],
)
def test_a_browser_must_mean_one_of_these_hosts(options: dict[str, Any], hosts: set[str]):
    assert ConsoleOptions(**options).hosts == hosts
