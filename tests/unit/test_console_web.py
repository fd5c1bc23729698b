"""The page's web application, by requests as browsers make them and as others would. No network."""

import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from loop2p.console import web
from loop2p.console.access import LOGIN_S, Logins, stranger
from loop2p.console.asks import MAX_BYTES
from loop2p.console.board import Board
from loop2p.console.samples import Samples
from loop2p.protocol import control

HOST = "127.0.0.1:5560"
HOSTS = frozenset({HOST})
ORIGIN = f"http://{HOST}"
JSON = {"content-type": "application/json"}
TOKEN = "a-token-of-twenty-chars-or-more"


class Page:
    """The application behind its guard, and what it was asked."""

    def __init__(self, token: str = "", scheme: str = "http") -> None:
        self.asked: list[bytes] = []
        self.board = Board(Samples())
        self.web = web.Web(self.board, Logins(token), {"/ask": self._ask}, scheme)
        self.client = TestClient(self.web.guarded(HOSTS), base_url=f"{scheme}://{HOST}")

    async def _ask(self, body: bytes) -> control.Answer:
        self.asked.append(body)
        return control.Answer(False, "12 ul given today")

    def post(self, path: str = "/ask", body: bytes = b"{}", **headers: str) -> Any:
        return self.client.post(path, content=body, headers=JSON | {"origin": ORIGIN} | headers)

    def live(self, headers: dict[str, str] | None = None) -> Any:
        return self.client.websocket_connect(
            f"ws://{HOST}/live", headers={"origin": ORIGIN} if headers is None else headers
        )


def test_what_is_asked_is_answered_in_tasks_words():
    page = Page()
    answer = page.post(body=b'{"kind": "free_reward"}')
    assert (answer.status_code, answer.json()) == (200, {"accepted": False, "reason": "12 ul given today"})
    assert page.asked == [b'{"kind": "free_reward"}']


def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere():
    page = Page()
    for path in ("/", "/static/page.js", "/nothing"):
        headers = page.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_no_file_of_the_page_names_another_address_or_holds_script_or_style_inline():
    for path in sorted(web.STATIC.glob("*")):
        if path.is_dir():
            continue
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", text).replace("://${location.host}", ""), path.name
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|eval\(|innerHTML", text), path.name


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"origin": "http://evil.example"}, "origin 'http://evil.example'"),
        ({"origin": "https://127.0.0.1:5560"}, "origin"),
        ({"origin": "http://127.0.0.1:5561"}, "origin"),
        ({"origin": "null"}, "origin"),
        ({"host": "evil.example:5560"}, "host 'evil.example:5560'"),
        ({"host": "evil.example:5560", "origin": "http://evil.example:5560"}, "host"),
        ({"content-type": "text/plain"}, "content type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "content type"),
    ],
)
def test_another_sites_page_can_ask_nothing(headers: dict[str, str], words: str):
    page = Page()
    answer = page.post(**headers)
    assert answer.status_code == 403
    assert words in answer.json()["reason"]
    assert page.asked == []


def test_a_post_without_origin_is_refused_and_a_get_needs_none():
    page = Page()
    assert page.client.post("/ask", content=b"{}", headers=JSON).status_code == 403
    assert page.client.get("/").status_code == 200
    assert page.client.get("/", headers={"host": "evil.example:5560"}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "no origin"),
        ({"origin": "http://evil.example"}, "origin 'http://evil.example'"),
        ({"origin": ORIGIN, "host": "evil.example:5560"}, "host"),
    ],
)
def test_another_sites_page_sees_nothing_by_websocket(headers: dict[str, str], words: str):
    page = Page()
    page.board.put("page", {"secret": 1})
    with pytest.raises(WebSocketDisconnect) as refused, page.live(headers) as live:
        live.receive_text()
    assert words in refused.value.reason


def test_a_browser_is_sent_what_there_is():
    page = Page()
    page.board.put("page", {"a": 1})
    page.board.put_picture(0, 1, b"jpeg")
    with page.live() as live:
        assert json.loads(live.receive_text()) == {"kind": "page", "value": {"a": 1}}
        assert live.receive_bytes() == b"\0\1jpeg"


def test_one_browser_too_many_is_turned_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web, "MAX_BROWSERS", 0)
    page = Page()
    with pytest.raises(WebSocketDisconnect) as refused, page.live() as live:
        live.receive_text()
    assert "look at this page already" in refused.value.reason


def test_a_body_that_is_too_long_is_not_taken():
    page = Page()
    assert page.post(body=b"x" * (MAX_BYTES + 1)).status_code == 413
    assert page.asked == []


# ---------------------------------------------------------------- login


def test_without_login_nothing_is_seen_or_asked():
    page = Page(TOKEN)
    assert page.client.get("/", follow_redirects=False).headers["location"] == "/login"
    assert page.client.get("/static/page.js").status_code == 401
    assert page.post().status_code == 401
    with pytest.raises(WebSocketDisconnect) as refused, page.live() as live:
        live.receive_text()
    assert refused.value.reason == "not logged in"
    assert page.asked == []


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "\xff"])
def test_a_wrong_token_lets_nobody_in(token: str):
    page = Page(TOKEN)
    assert page.post("/login", token.encode("latin-1")).status_code == 401
    assert page.post().status_code == 401


def test_the_right_token_lets_in_until_the_logout():
    page = Page(TOKEN)
    answer = page.post("/login", TOKEN.encode())
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert page.client.get("/").status_code == 200
    page.board.put("page", 1)
    with page.live() as live:
        live.receive_text()
    assert page.post().status_code == 200
    page.post("/logout")
    assert page.post().status_code == 401


def test_the_cookie_goes_by_https_alone_where_there_is_https():
    page = Page(TOKEN, "https")
    answer = page.post("/login", TOKEN.encode(), origin=f"https://{HOST}")
    assert "secure" in answer.headers["set-cookie"].lower()


def test_another_sites_page_can_not_log_in():
    assert Page(TOKEN).post("/login", TOKEN.encode(), origin="http://evil.example").status_code == 403


def test_a_login_ends_by_itself_and_a_made_up_cookie_is_none():
    logins = Logins(TOKEN)
    cookie = logins.log_in(TOKEN, 0.0)
    assert logins.knows({"cookie": f"loop2p={cookie}"}, LOGIN_S - 1)
    assert not logins.knows({"cookie": f"loop2p={cookie}"}, LOGIN_S + 1)
    for other in ("", "loop2p=", "loop2p=x", "other=1", ";;;=", f"loop2p={TOKEN}"):
        assert not logins.knows({"cookie": other}, 1.0)


def test_without_a_token_nobody_can_log_in_and_nobody_has_to():
    logins = Logins("")
    assert logins.log_in("", 0.0) is None
    assert logins.knows({}, 0.0)


def test_host_and_origin_are_compared_without_regard_to_case():
    hosts = frozenset({"rig.lab:5560"})
    assert stranger("WEBSOCKET", {"host": "RIG.lab:5560", "origin": "http://rig.LAB:5560"}, hosts, "http") == ""
