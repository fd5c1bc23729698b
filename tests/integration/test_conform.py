"""`loop2p conform`: our own services and the shipped examples keep their contracts; a program that does not is told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import lacking

from loop2p.cli.conformance.run import try_out
from loop2p.cli.conformance.verdict import Verdict, is_kept
from loop2p.protocol import ROLES

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "deploy" / "peers"
PLAIN_ARGUMENTS = ["{LOOP2P_RIG_HASH}", "{LOOP2P_IMAGING}", "{LOOP2P_TASK}", "{LOOP2P_PUBLISH}"]


def told(verdicts: list[Verdict]) -> str:
    return "\n".join(f"{v.outcome:9} {v.text}: {v.detail}" for v in verdicts)


@pytest.mark.parametrize("service", ROLES)
def test_our_own_service_keeps_its_contract(service: str, tmp_path: Path) -> None:
    verdicts = try_out(service, [], tmp_path)
    print(told(verdicts))
    assert is_kept(verdicts), told(verdicts)
    allowed = {"its state is sent again to whoever joins late"}
    assert {v.text for v in verdicts if v.outcome == "not there"} <= allowed, told(verdicts)


def test_the_plain_decoder_keeps_it(tmp_path: Path) -> None:
    verdicts = try_out("decoding", [sys.executable, str(PEERS / "plain_decoder.py"), *PLAIN_ARGUMENTS], tmp_path)
    assert is_kept(verdicts), told(verdicts)


@pytest.fixture(scope="module")
def c_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C decoder, built."""
    if shutil.which("make") is None or shutil.which("cc") is None:
        lacking("no C compiler and make")
    folder = tmp_path_factory.mktemp("c_decoder")
    probe = subprocess.run(["cc", "-E", "-include", "zmq.h", "-x", "c", "/dev/null"], capture_output=True, check=False)
    if probe.returncode != 0:
        lacking("no libzmq headers: libzmq3-dev on Debian")
    subprocess.run(["make", "-s", "-C", str(PEERS / "c_decoder"), f"BUILD={folder}"], check=True)
    return folder


def test_the_c_decoder_reads_every_golden_vector(c_decoder: Path) -> None:
    vectors = sorted((ROOT / "protocol" / "vectors").glob("*.msgpack"))
    assert vectors
    for vector in vectors:
        data = vector.read_bytes()
        assert subprocess.run([c_decoder / "test_msgpack"], input=data, check=False).returncode == 0, vector.name
        for damaged in (data[:-1], data + b"\xc0", b"\xc1" + data):
            assert subprocess.run([c_decoder / "test_msgpack"], input=damaged, check=False).returncode == 1, vector.name


def test_the_c_decoder_keeps_it(c_decoder: Path, tmp_path: Path) -> None:
    verdicts = try_out("decoding", [str(c_decoder / "decoder")], tmp_path)
    print(told(verdicts))
    assert is_kept(verdicts), told(verdicts)


BROKEN = {
    '"seq": sent[topic],': '"seq": 2 * sent[topic],',
    'body["plane"] == 0 and rois': 'body["plane"] in (0, 1) and rois',
    '"d": ds[-1]': '"d": 0.01 + ds[-1]',
    "valid and len(frames) > 155": "len(frames) > 155",
    '"stopped" if stop else "ready"': '"ready"',
    "except Exception:": "except ZeroDivisionError:",
}
"""What makes of the plain decoder one that breaks a clause each."""


def test_a_program_that_breaks_the_contract_is_told_which_clauses(tmp_path: Path) -> None:
    source = (PEERS / "plain_decoder.py").read_text(encoding="utf-8")
    for good, bad in BROKEN.items():
        assert source.count(good) == 1, good
        source = source.replace(good, bad)
    program = tmp_path / "broken.py"
    program.write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "loop2p.cli.main", "conform", "decoding", "--json", "--"]
    ran = subprocess.run(
        [*command, sys.executable, str(program), *PLAIN_ARGUMENTS], capture_output=True, check=False, timeout=250
    )
    assert ran.returncode == 1, ran.stderr
    result = json.loads(ran.stdout)
    assert not result["conforms"]
    broken = {clause["text"]: clause["detail"] for clause in result["clauses"] if clause["outcome"] == "BROKEN"}
    print(json.dumps(broken, indent=1))
    for start in (
        "each proximal frame, and no distal one",
        "its values are the published decoder's",
        "a frame whose traces are not valid",
        "damaged messages do it no harm",
        "every message it sent was one of the protocol's",
    ):
        assert any(text.startswith(start) for text in broken), f"{start}: not found in {list(broken)}"


FORGETFUL = """
from loop2p.cli.main import main
from loop2p.stimulus.core import Newest, same
from loop2p.protocol import Show

asked, drew = Newest.ask, Newest.drew

def ask(self, show, seq=-1):
    if not same(self.waiting or self.shown or Show(what="black"), show):
        asked(self, show, seq)

Newest.ask = ask  # what is there already is not answered
Newest.drew = lambda self: (drew(self)[0], [])  # nobody is named
main()
"""


def test_a_stimulus_that_leaves_commands_without_an_answer_is_told(tmp_path: Path) -> None:
    program = tmp_path / "forgetful.py"
    program.write_text(FORGETFUL, encoding="utf-8")
    verdicts = try_out("stimulus", [sys.executable, str(program), "serve", "stimulus", "{LOOP2P_RIG}"], tmp_path)
    print(told(verdicts))
    broken = [v.text for v in verdicts if v.outcome == "BROKEN"]
    assert len(broken) == 2
    assert any("overtaken are counted and named" in text for text in broken)
    assert any("a wish for the grey" in text for text in broken)


def test_a_program_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loop2p.cli.main", "conform", "decoding", "--", str(tmp_path / "nothing")]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert ran.returncode == 2
    assert b"No such file" in ran.stderr or b"cannot find" in ran.stderr
