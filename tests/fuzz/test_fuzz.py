"""What comes from outside, made up by a fuzzer that sees the branches it reaches: taken, or refused in words."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
SHORT = {"wire": 3_000, "requests": 2_000, "serial": 3_000, "microscope": 1_000, "files": 1_000}
LONG = {"wire": 400_000, "requests": 200_000, "serial": 250_000, "microscope": 100_000, "files": 60_000}
SEED = 1
GROWTH_MB = 40
"""From a fifth of the inputs to the last; libFuzzer keeps those that reach something new."""


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this system")
@pytest.mark.parametrize("target", SHORT)
def test_a_parser_refuses_in_its_own_words_and_keeps_no_memory(target: str, tmp_path: Path):
    run(target, SHORT[target], tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this system")
@pytest.mark.parametrize("target", LONG)
def test_a_million_inputs(target: str, tmp_path: Path):
    run(target, LONG[target], tmp_path)


def run(target: str, runs: int, folder: Path) -> None:
    """Raises with the fuzzer's words; the input that did it is then in the folder, and can be given to fuzz.py."""
    corpus = folder / "corpus"
    corpus.mkdir()
    options = [f"-atheris_runs={runs}", f"-seed={SEED}", "-max_len=4096", f"-artifact_prefix={folder}/"]
    found = subprocess.run([sys.executable, str(FUZZ), target, str(corpus), *options], capture_output=True, text=True)
    said = found.stdout + found.stderr
    assert found.returncode == 0, said[-4000:]
    before, after = (int(n) for n in re.findall(r"^memory (\d+)", said, re.MULTILINE))
    assert f"at the end of {runs}\n" in said
    grown_mb = (after - before) / 1e6
    print(f"{target}: {runs} inputs, seed {SEED}, grown by {grown_mb:.1f} MB")
    assert grown_mb < GROWTH_MB
