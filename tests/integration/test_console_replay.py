"""`loop2p replay RUN --view`: a recorded session in a real browser, moved through by keyboard and by hand."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from chromium import chromium
from msgspec import structs
from page_pictures import picture
from rigs import rig_text
from synthetic_session import make_session, write_journal

from loop2p.protocol import Session, seal


@contextmanager
def viewing(folder: Path) -> Iterator[str]:
    """The page's address while the command runs."""
    command = [sys.executable, "-m", "loop2p.cli.main", "replay", str(folder), "--view"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "500"}) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.match(r"(http://127\.0\.0\.1:\d+/) shows ", line)
            assert found, line
            yield found[1]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose journal has a whole rig file."""
    rig = rig_text(list(range(5500, 5530)), "runs")
    envelopes = [
        (
            at,
            seal(
                structs.replace(e.message, rig=rig), e.header.source, e.header.instance, e.header.seq, e.header.sent_ns
            ),
        )
        if isinstance(e.message, Session)
        else (at, e)
        for at, e in make_session(seconds=150).envelopes
    ]
    return write_journal(tmp_path_factory.mktemp("run"), envelopes)


GO = "(bar, t_s) => { bar.value = t_s; bar.dispatchEvent(new Event('input')); }"
"""What a hand on the bar does."""


def test_a_recorded_session_is_scrubbed_through(folder: Path, tmp_path: Path) -> None:
    with viewing(folder) as address, chromium(tmp_path / "profile") as browser:
        from playwright.sync_api import expect

        expect.set_options(timeout=60_000)
        page, problems = browser.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        bar, words, trials = page.locator("#moment"), page.locator("#moment-words"), page.locator("#trials tbody tr")
        expect(page.locator("#recording")).to_contain_text("RECORDED")
        expect(words).to_contain_text("of 2:3")
        for asks in ("#start", "[data-ask=free_reward]", "#draw"):
            expect(page.locator(asks)).to_be_hidden()
        bar.evaluate(GO, 120)
        expect(words).to_contain_text("2:00.0 of")
        expect(trials.nth(4)).to_be_visible()
        late = page.inner_text("#trials")
        shows = ["#recording", "#player", "#moment", "#trials tbody tr", "#chart-control canvas", ".stack canvas"]
        picture(page, "replay", tmp_path, shows, full_page=False)
        page.keyboard.press(",")
        page.keyboard.press("Enter")
        expect(words).not_to_contain_text("2:00.0 of")
        bar.evaluate(GO, 35)
        expect(words).to_contain_text("0:35.0 of")
        expect(page.locator("#trials")).not_to_have_text(late)
        page.select_option("#speed-choice", "64")
        page.click("#play")
        expect(words).to_contain_text(re.compile(r"^(2:\d\d\.\d) of \1"))
        expect(page.locator("#play")).to_contain_text("play")
        assert not problems


def test_what_a_browser_may_not_ask_is_refused(folder: Path) -> None:
    def post(body: bytes, **headers: str) -> dict[str, object]:
        request = Request(
            f"{address}player", body, {"Origin": address.rstrip("/"), "Content-Type": "application/json", **headers}
        )
        with urlopen(request, timeout=30) as response:
            answer: dict[str, object] = json.load(response)
            return answer

    with viewing(folder) as address:
        assert post(b'{"t_s": 12}')["accepted"]
        for wrong in (b"{", b'{"t_s": -1}', b'{"t_s": 1e300}', b'{"speed": 3}', b'{"kind": "free_reward"}'):
            assert not post(wrong)["accepted"], wrong
        with pytest.raises(HTTPError, match="403"):
            post(b'{"t_s": 1}', Origin="http://elsewhere.example")
        with pytest.raises(HTTPError):
            post(b'{"t_s": 1}', Host="elsewhere.example")


def test_a_run_without_a_session_says_so(tmp_path: Path) -> None:
    write_journal(tmp_path / "run", [])
    command = [sys.executable, "-m", "loop2p.cli.main", "replay", str(tmp_path / "run"), "--view"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "no rig.session in the journal" in done.stderr + done.stdout
