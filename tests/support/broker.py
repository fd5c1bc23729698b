"""A real Mosquitto with the files of deploy/mosquitto, and clients for tests."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from needs import lacking
from paho.mqtt.enums import CallbackAPIVersion

DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
USERS = ("gateway-simulated", "observer", "operator")

TAKEN = ("Success", "No matching subscribers")
"""What a broker says of a message that its sender may send."""


def password_of(user: str) -> str:
    return f"password of {user}"


def uncommented(line: str) -> dict[str, str]:
    """What a person does who wants a line that is there for him."""
    return {f"# {line}": line}


class Broker:
    """Mosquitto on a free port of 127.0.0.1; files, port and user substituted, all else as deployed."""

    def __init__(
        self, folder: Path, port: int, tls_port: int = 0, anonymous: bool = False, certificates: bool = False
    ) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None or shutil.which("mosquitto_passwd") is None:
            lacking("mosquitto is not installed")
        self.program, self.folder, self.port, self.tls_port = program, folder, port, tls_port
        self.log = folder / "broker.log"
        self.process: subprocess.Popen[bytes] | None = None
        for sub in ("etc/conf.d", "etc/certs", "lib"):
            (folder / sub).mkdir(parents=True)
        swaps = {"/etc/mosquitto": f"{folder}/etc", "/var/lib/mosquitto": f"{folder}/lib", "1883": str(port)}
        if anonymous:
            swaps["allow_anonymous false"] = "allow_anonymous true"
        self._write("mosquitto.conf", "etc/mosquitto.conf", swaps)
        with open(folder / "etc" / "mosquitto.conf", "a", encoding="utf-8") as file:
            if os.name == "posix" and os.getuid() == 0:
                file.write("user root\n")  # else it becomes another user, who can't read the test's folder
        if tls_port:
            tls = {"/etc/mosquitto": f"{folder}/etc", "listener 8883": f"listener {tls_port} 127.0.0.1"}
            if certificates:
                tls |= uncommented("require_certificate true") | uncommented("use_identity_as_username true")
            self._write("tls.conf", "etc/conf.d/tls.conf", tls)
        self._write("loop2p.acl", "etc/loop2p.acl", uncommented("topic write homeassistant/"))
        passwords = folder / "etc" / "loop2p.passwd"
        passwords.touch(0o600)
        for user in USERS:
            subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, password_of(user)], check=True)

    def _write(self, source: str, target: str, swaps: dict[str, str]) -> None:
        text = (DEPLOY / source).read_text(encoding="utf-8")
        for found, instead in swaps.items():
            assert found in text, f"{source} has no {found!r} to put {instead!r} for"
            text = text.replace(found, instead)
        (self.folder / target).write_text(text, encoding="utf-8")

    def start(self) -> "Broker":
        with open(self.log, "ab") as out:
            command = [self.program, "-c", str(self.folder / "etc" / "mosquitto.conf")]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return self
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.01)

    def stop(self) -> None:
        """As at a reboot: it saves what is retained, and goes."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def freeze(self) -> None:
        """It answers nothing any more, and its connections stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def said(self, text: str) -> int:
        """How often its log says this."""
        return self.log.read_text("utf-8", "replace").count(text)


class Heard(NamedTuple):
    topic: str
    payload: bytes
    retained: bool

    @property
    def body(self) -> Any:
        return json.loads(self.payload)


class Client:
    """A client in a thread of its own; keeps what it hears."""

    def __init__(self, broker: Broker, user: str, subscribe: str = "") -> None:
        self.heard: list[Heard] = []
        self._news = threading.Condition()
        self._codes: dict[int, str] = {}
        self._ready = False
        self._subscribe = subscribe
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"test-{uuid.uuid4().hex}", protocol=mqtt.MQTTv5
        )
        self._client.username_pw_set(user, password_of(user))
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._until(lambda: self._ready, "a connection")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # The library closes its thread's waking sockets when the client is freed, and has no call for it. Freed
        # by the garbage collector instead, with this object, the sockets may be looked at first and be told unclosed.
        self._client.on_connect = self._client.on_subscribe = self._client.on_message = self._client.on_publish = None
        del self._client

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not self._subscribe:
            self._become_ready()
        elif not reason.is_failure:
            client.subscribe(self._subscribe, qos=1)

    def _on_subscribe(self, *_: Any) -> None:
        self._become_ready()

    def _become_ready(self) -> None:
        with self._news:
            self._ready = True
            self._news.notify_all()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        with self._news:
            self.heard.append(Heard(message.topic, message.payload, message.retain))
            self._news.notify_all()

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._news:
            self._codes[mid] = str(reason)
            self._news.notify_all()

    def _until(self, condition: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
        with self._news:
            found = self._news.wait_for(condition, timeout_s)
            assert found, f"{what} did not come; heard: {[(h.topic, h.payload[:300]) for h in self.heard[-8:]]}"
            return found

    def wait(self, topic: str, condition: Callable[[Heard], bool] = lambda _: True, after: int = 0) -> Heard:
        """The first message of a topic of which this is true, the first `after` of all that was heard passed over."""

        def found() -> Heard | None:
            return next((h for h in self.heard[after:] if h.topic.endswith(f"/{topic}") and condition(h)), None)

        heard = self._until(found, f"{topic} as expected")
        assert isinstance(heard, Heard)
        return heard

    def publish(self, topic: str, payload: bytes | str, retain: bool = False) -> str:
        """Publish; returns the broker's verdict, such as "Success" or "Not authorized"."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        return str(self._until(lambda: self._codes.get(info.mid), "the broker's verdict"))

    def command(self, kind: str, rig: str = "simulated", retain: bool = False, **fields: Any) -> str:
        """Send a command with a new id and the present time, unless `fields` say otherwise; returns its id."""
        body = {"id": uuid.uuid4().hex, "time": time.time(), "by": "anna"} | fields
        verdict = self.publish(f"loop2p/{rig}/command/{kind}", json.dumps(body), retain)
        assert verdict in TAKEN, verdict
        return str(body["id"])

    def answer(self, command_id: str, after: int = 0) -> Any:
        """What became of a command."""
        return self.wait("answer", lambda h: h.body["id"] == command_id, after).body
