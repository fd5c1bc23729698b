"""The operator's page: a real Chromium before a live rig; and browsers that do not read."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from needs import lacking
from page_pictures import picture
from rigs import rig_text, toy_rig
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from whole_rig import Running, running, task_text, whole_rig, with_console

from loop2p.cli.run import make_files
from loop2p.console import Console, server
from loop2p.console.board import LIVE
from loop2p.console.options import ConsoleOptions
from loop2p.protocol import Audit, RequestLog, RigFile, Session, parse_rig
from loop2p.recording.run import Run
from loop2p.runtime import Launcher

Ports = Callable[[int], list[int]]
RATION = "\n[reward]\nday_limit_ul = 6\n"
LONG_S = 60_000
"""For what the browser waits for: a limit that is only there to fail instead of hanging."""


def until(condition: Callable[[], Any], what: Callable[[], str], timeout_s: float = 60.0) -> None:
    """Wait for an event; the limit is only there to fail instead of hanging."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


class Page:
    """The page in a browser, as an operator uses it; it keeps what the browser complained about."""

    def __init__(self, browser: Any, url: str, shots: Path) -> None:
        self.tab, self.url, self.shots = browser.new_page(), url, shots
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.tab.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.tab.on("request", lambda r: self.requests.append(r.url))
        self.tab.set_default_timeout(LONG_S)

    def open(self) -> None:
        self.tab.goto(self.url)
        self.tab.locator("#offline").wait_for(state="hidden")

    def state(self, state: str) -> None:
        self.tab.locator(f"body[data-state={state}]").wait_for()

    def sees(self, selector: str, text: str) -> None:
        self.tab.locator(selector, has_text=text).first.wait_for()

    def ask(self, kind: str) -> str:
        """Press a button, twice where it asks whether one is sure; returns the answer in words."""
        answer = self.tab.locator("#answer")
        before = answer.get_attribute("data-said")  # its words do not tell: two answers of one second can read alike
        button = self.tab.locator(f"[data-ask={kind}], #{kind}").first
        button.click()
        if button.get_attribute("data-sure"):
            button.click()
        until(lambda: answer.get_attribute("data-said") != before, lambda: f"no answer to {kind}")
        return str(answer.text_content())

    def ask_until(self, kind: str, words: str) -> None:
        """Press it again while something else is answered that passes by itself."""
        answer = ""
        deadline = time.monotonic() + LONG_S / 1000
        while words not in answer:
            assert time.monotonic() < deadline, answer
            answer = self.ask(kind)

    def shot(self, name: str, *shows: str) -> None:
        """A picture in which these are to be seen."""
        picture(self.tab, name, self.shots, ["#state", *shows])


@pytest.fixture
def live_rig(tmp_path: Path, free_ports: Ports) -> Iterator[tuple[Running, str]]:
    """A rig with the page, of which stimulus is not started; and the page's address."""
    ports = free_ports(29)
    rig_file = whole_rig(tmp_path, ports, options={"task": {"start_timeout_s": 10}})
    (tmp_path / "short.toml").write_text(task_text(seconds=1200.0) + RATION, encoding="utf-8")
    rig_file = with_console(rig_file, ports[28], {"short": {"task": "short.toml"}})
    launcher = Launcher(rig_file, "local", tmp_path / "logs")
    launcher.services.remove("stimulus")
    with running(rig_file, tmp_path, launcher) as rig:
        until(
            lambda: "the page is at" in launcher.last_words("console"),
            lambda: f"the page is not there: {launcher.last_words('console', 20)}",
        )
        yield rig, f"http://127.0.0.1:{ports[28]}/"


def test_a_whole_session_from_the_page(live_rig: tuple[Running, str], tmp_path: Path, spawn: Any) -> None:
    rig, url = live_rig
    with chromium(tmp_path / "profile") as browser:
        page = Page(browser, url, tmp_path)
        page.open()

        # preflight: a service is missing, its line says where and what to do, and a start is refused for it
        page.sees("#preflight li[data-code='stimulus.absent']", "stimulus on local: no heartbeat so far")
        page.sees("#preflight li[data-code='stimulus.absent']", "loop2p serve stimulus")
        assert "who asks?" in page.ask("start")
        page.tab.fill("#who", "anna")
        assert "start accepted: preparing" in page.ask("start")
        page.state("preparing")
        page.state("idle")
        page.sees("#phase", "stimulus.absent: stimulus on local")
        page.shot("refused", "#preflight li[data-code='stimulus.absent']", "#answer", "#services", ".stack canvas")

        # mended
        spawn(sys.executable, "-m", "loop2p.cli.main", "serve", "stimulus", str(rig.rig_file.path))
        page.tab.locator("#preflight li[data-code='stimulus.absent']").wait_for(state="detached")
        page.tab.locator("#preflight li[data-code='imaging.not-ready']").wait_for(state="detached")
        page.sees("#services", "✓ ready")
        page.sees("#display", "NO DISPLAY")
        assert "start accepted" in page.ask("start")
        page.state("running")

        # trials, pictures, traces
        page.sees("#trials tbody", "✓ hit")
        page.sees("#ration-words", "of 6 µl")
        page.sees(".plane figcaption", "quality")
        assert page.tab.locator(".plane").count() == 2
        assert_painted(page, ".stack canvas", "live picture")
        assert_painted(page, ".chart canvas", "traces")
        page.sees("#rois-line", "confirmed by anna at the console")
        charts = ["#chart-control canvas", "#chart-dff canvas", "#chart-motion canvas", "#chart-body canvas"]
        shown = [".stack canvas", "#dial", "#ul", "#speed", "#trials tbody tr", "#latency tbody tr", *charts]
        page.shot("running", "#display", "#simulated", "[data-alarm=no-display]", *shown)

        # a note, an alarm acknowledged
        page.tab.fill("#note", "<b>sucrose</b> bottle changed")
        page.tab.press("#note", "Enter")
        page.sees("#events", "<b>sucrose</b> bottle changed")
        page.tab.locator("[data-alarm=no-display]").click()
        page.sees("#alarms", "acknowledged by anna at the console")

        # no reward beyond the ration
        page.ask_until("free_reward", "would pass the day's 6 ul")

        # pause by keyboard, resume, stop
        page.tab.locator("h2").first.click()
        page.tab.evaluate("document.activeElement.blur()")
        page.tab.keyboard.press("p")
        page.tab.keyboard.press("Enter")
        page.state("paused")
        assert "resume first" in page.ask("free_reward")
        page.tab.check("input[name=view][value=both]")
        page.shot("paused", ".stack canvas", "#alarms .known")
        page.ask_until("resume", "resume accepted")
        page.state("running")

        # the page is lost and comes back; the rig goes on without it
        rig.launcher.processes["console"].kill()
        page.sees("#offline", "NOT CONNECTED")
        page.shot("lost", "#offline")
        until(lambda: rig.launcher.poll() or "console" in rig.launcher.waiting, lambda: "console did not die")
        until(lambda: [rig.launcher.poll()] and "console" in rig.launcher.processes, lambda: "console stays away")
        page.tab.locator("#offline").wait_for(state="hidden")
        page.state("running")

        assert "stop accepted" in page.ask("stop")
        page.state("ended")
        page.sees("#phase", "anna at the console")
        page.shot("ended", "#phase", "#trials tbody tr", "#events li")
        assert [r for r in page.requests if not r.startswith((url, "blob:"))] == []
        assert [c for c in page.complaints if "WebSocket connection" not in c] == []  # while it was lost
    audit = rig.wait_for(Audit)
    assert audit.complete, audit.notes
    assert_recorded(rig)


def assert_painted(page: Page, selector: str, what: str) -> None:
    """A canvas that holds more than one colour."""
    colours = """canvas => {
        const {width, height} = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        return new Set(new Uint32Array(data.buffer)).size;
    }"""
    canvas = page.tab.locator(selector).first
    until(lambda: canvas.evaluate(colours) > 10, lambda: f"{what}: {canvas.evaluate(colours)} colours")


def assert_recorded(rig: Running) -> None:
    """What was asked on the page is in the journal, by whom, and the run's files can be made."""
    data = Path(rig.rig_file.rig.data.folder)
    (folder,) = [path.parent for path in data.glob("*/task-state.jsonl")]
    rig.launcher.stop()
    run = Run(folder)
    logs = [log for log in run.of(RequestLog) if log.by == "anna at the console"]
    asked = [(log.kind, log.accepted) for log in logs]
    for one in (("start", True), ("note", True), ("free_reward", False), ("pause", True), ("resume", True)):
        assert one in asked, asked
    assert ("stop", True) in asked
    notes = [log.detail for log in logs if log.kind == "note"]
    assert notes == ["<b>sucrose</b> bottle changed", "alarm acknowledged: stimulus no-display"]
    assert run.of(Session)[0].day_limit_ul == 6
    summary = make_files(folder, quiet=True)
    assert summary is not None
    assert summary["audit"]["complete"]
    assert {"journal.mcap", "session.nwb", "summary.json", "report.html"} <= {path.name for path in folder.iterdir()}


# ---------------------------------------------------------------- browsers that do not read


@contextmanager
def page_in_thread(rig_file: RigFile, port: int, **options: Any) -> Iterator[Console]:
    """The page without a rig, in a thread of the test."""
    console, stop = Console(ConsoleOptions(port=port, **options), rig_file), threading.Event()
    thread = threading.Thread(target=console.run, args=(stop,))
    thread.start()
    try:
        yield console
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def browser_at(port: int) -> Iterator[ClientConnection]:
    """A connection as a browser makes it, as soon as the page is there. What is not read waits in the network."""
    deadline = time.monotonic() + 60
    with contextlib.ExitStack() as stack:
        while True:
            try:
                at, origin = f"ws://127.0.0.1:{port}/live", f"http://127.0.0.1:{port}"
                found = connect(at, origin=origin, max_queue=1, max_size=None, ping_interval=None, close_timeout=0.1)
                browser = stack.enter_context(found)
                break
            except OSError:
                assert time.monotonic() < deadline, "the page does not answer"
                time.sleep(0.05)
        yield browser


def number(message: str | bytes) -> int:
    return int.from_bytes(message[2:6], "big") if isinstance(message, bytes) else -1


def test_who_does_not_read_is_sent_fewer_pictures_then_cut_off_and_the_others_notice_nothing(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(25)
    monkeypatch.setattr(server, "PING_S", 0.3)
    monkeypatch.setattr(server, "SILENT_S", 2.0)
    filler = os.urandom(2_000_000)
    with (
        page_in_thread(toy_rig(ports, str(tmp_path)), ports[24]) as console,
        browser_at(ports[24]) as reads,
        browser_at(ports[24]) as stopped,
    ):
        until(lambda: console.web.browsers == 2, lambda: f"{console.web.browsers} browsers, expected 2")
        drawn, got = 0, []
        deadline = time.monotonic() + 60
        while console.web.browsers == 2:
            assert time.monotonic() < deadline, "who does not read was never cut off"
            drawn += 1
            console.board.put_picture(LIVE, 0, drawn.to_bytes(4, "big") + filler)
            while number(message := reads.recv(timeout=60)) < drawn:
                pass
            got.append(number(message))
        assert got == list(range(1, drawn + 1))  # whoever reads gets each
        late = pictures_until_closed(stopped)
        assert len(late) < drawn  # nothing was kept for who did not read


def pictures_until_closed(browser: ClientConnection) -> list[int]:
    """The numbers of the pictures that still come."""
    found = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            found.append(number(browser.recv(timeout=60)))
    return [k for k in found if k > 0]


def test_a_browser_that_is_slow_gets_the_newest_picture_next(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(25)
    filler = os.urandom(4_000_000)
    with page_in_thread(toy_rig(ports, str(tmp_path)), ports[24]) as console, browser_at(ports[24]) as slow:
        until(lambda: console.web.browsers == 1, lambda: "no browser")
        tell, ticks = console.web.news.tell, itertools.count(1)
        ticked = [0]
        monkeypatch.setattr(console.web.news, "tell", lambda: (tell(), ticked.__setitem__(0, next(ticks))))
        sent = 0
        seen: set[int] = set()
        for _ in range(40):  # meanwhile it reads nothing
            sent += 1
            console.board.put_picture(LIVE, 0, sent.to_bytes(4, "big") + filler)
            before = ticked[0]
            until(lambda: ticked[0] > before + 1, lambda: "the page stands still")  # noqa: B023
        while sent not in seen:
            seen.add(number(slow.recv(timeout=60)))
        seen.discard(-1)
        assert len(seen) < sent
        assert sent in seen


def test_a_taken_port_is_said_and_ends_the_page(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(25)
    rig_file = toy_rig(ports, str(tmp_path))
    with page_in_thread(rig_file, ports[24]):
        with browser_at(ports[24]):
            pass  # the first one is there
        second = Console(ConsoleOptions(port=ports[24]), rig_file)
        with pytest.raises(OSError, match=f"console: can't listen on 127.0.0.1:{ports[24]}"):
            second.run(threading.Event())


@pytest.mark.skipif(os.name != "posix", reason="stops a process by a signal")
def test_a_page_that_hangs_holds_nobody_up(live_rig: tuple[Running, str]) -> None:
    """Stop works with the page dead: it needs neither the page nor what the page talks to."""
    from loop2p.cli.operate import hello_all

    rig, _ = live_rig
    console = rig.launcher.processes["console"]
    console.send_signal(signal.SIGSTOP)
    try:
        until(lambda: hello_all(rig.rig_file)["task"] is not None, lambda: "task does not answer")
        assert rig.ask("status").reason == "idle"
    finally:
        console.send_signal(signal.SIGCONT)


# ---------------------------------------------------------------- without a rig


CONTROLS = """() => {
    window.nameOf = (e) => e.dataset.ask || e.id || e.name || `${e.tagName} ${e.textContent.trim()}`;
    const all = [...document.querySelectorAll("button, input, select, summary, a[href], [tabindex='0']")];
    return [...new Set(all.filter((e) => e.checkVisibility() && !e.disabled).map(nameOf))];
}"""
"""Names of what can be used; of radio buttons, which Tab reaches together, that of the group."""
FOCUSED = """() => {
    const e = document.activeElement, style = getComputedStyle(e);
    return [nameOf(e), `${style.outlineWidth} ${style.outlineStyle}`];
}"""


def test_every_control_is_reached_by_tab_in_order_and_is_seen_to_be(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(25)
    with (
        page_in_thread(toy_rig(ports, str(tmp_path)), ports[24]),
        browser_at(ports[24]),
        chromium(tmp_path / "profile") as browser,
    ):
        page = Page(browser, f"http://127.0.0.1:{ports[24]}/", tmp_path)
        page.open()
        page.state("unknown")
        page.sees("#preflight", "task on local: no answer at tcp://127.0.0.1:")
        there, reached = page.tab.evaluate(CONTROLS), []
        for _ in range(len(there) + 5):
            page.tab.keyboard.press("Tab")
            reached.append(page.tab.evaluate(FOCUSED))
        names = [name for name, _ in reached]
        assert set(there) <= set(names), set(there) - set(names)
        wanted = ["who", "session", "start", "pause", "resume", "free_reward", "stop", "abort", "note"]
        assert [name for name in names if name in wanted][: len(wanted)] == wanted
        assert {outline for name, outline in reached if name in there} == {"3px solid"}
        for key, name in {"p": "pause", "r": "resume", "f": "free_reward", "s": "stop", "a": "abort"}.items():
            page.tab.evaluate("document.activeElement.blur()")
            page.tab.keyboard.press(key)
            assert page.tab.evaluate("document.activeElement.dataset.ask") == name
        assert page.tab.locator("#answer").text_content() == ""  # no key alone asks for anything


def test_the_token_lets_a_browser_in(tmp_path: Path, free_ports: Ports) -> None:
    ports, token = free_ports(25), "a-token-of-twenty-chars-or-more"
    secret = tmp_path / "token"
    secret.touch(0o600)
    secret.write_text(f"{token}\n", encoding="utf-8")
    text = rig_text(ports, str(tmp_path))
    rig_file = parse_rig(text, tmp_path / "rig.toml")
    with page_in_thread(rig_file, ports[24], token_file="token"), chromium(tmp_path / "profile") as browser:
        page = Page(browser, f"http://127.0.0.1:{ports[24]}/", tmp_path)
        until(lambda: answers(ports[24]), lambda: "the page does not answer")
        page.tab.goto(page.url)
        for typed, seen in (("wrong", "✖ not the token"), (token, "")):
            page.tab.fill("#token", typed)
            page.tab.press("#token", "Enter")
            if seen:
                page.sees("#answer", seen)
        page.state("unknown")
        page.tab.locator("#offline").wait_for(state="hidden")
        page.tab.click("#logout")
        page.tab.locator("#token").wait_for()
        assert page.tab.evaluate("document.cookie") == ""  # no script can read it
        assert [c for c in page.complaints if "401" not in c and "WebSocket" not in c] == []


def test_with_a_certificate_the_page_is_there_by_https_alone(tmp_path: Path, free_ports: Ports) -> None:
    if shutil.which("openssl") is None:
        lacking("no openssl (Debian package openssl)")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*make.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    ports = free_ports(25)
    rig_file = parse_rig(rig_text(ports, str(tmp_path)), tmp_path / "rig.toml")
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with page_in_thread(rig_file, ports[24], cert_file="cert.pem", key_file="key.pem"):
        until(lambda: answers(ports[24]), lambda: "the page does not answer")
        with urllib.request.urlopen(f"https://127.0.0.1:{ports[24]}/", context=context, timeout=60) as answer:
            assert b"<title>loop2p</title>" in answer.read()
        with pytest.raises((OSError, HTTPException)):
            urllib.request.urlopen(f"http://127.0.0.1:{ports[24]}/", timeout=60)


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
