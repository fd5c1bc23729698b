"""Who may talk to whom: a rig's CURVE keys, one pair for each service and for each that only asks.

In the rig's folder of keys: `public/NAME.key` of everybody, which is the allow-list, and `private/NAME.key_secret` of
those who run on this machine. All names that are no service's are operators: they may start, stop and ask.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from loop2p.protocol import Alarm, FileError, RigFile, control

OPERATOR = "operator"
DOMAIN = "loop2p"
PUBLIC, PRIVATE = "public", "private"
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Keys:
    """What one process needs to prove who it is, and to know others by."""

    def __init__(self, rig_file: RigFile, name: str, folder: Path) -> None:
        self.name = name
        self._own = _load(folder / PRIVATE / f"{name}.key_secret", name)
        names = sorted(path.stem for path in (folder / PUBLIC).glob("*.key"))
        self._public = {known: _load(folder / PUBLIC / f"{known}.key", known)[0] for known in names}
        self._names = {key.decode(): known for known, key in self._public.items()}
        self._services = set(rig_file.rig.services)
        self._hosts = {service: spec.host for service, spec in rig_file.rig.services.items()}
        self._server = {
            endpoint: service
            for service, spec in rig_file.rig.services.items()
            for endpoint in (spec.publish, spec.bulk, spec.control)
        }
        missing = sorted(self._services - self._public.keys())
        if missing:
            raise FileError(
                f"{folder / PUBLIC}: no {missing[0]}.key, expected one for each service: `loop2p keys RIG` makes what "
                "is missing, then copy the folder to every machine"
            )

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Before `bind`: only those of the allow-list may connect."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._own
        socket.zap_domain = DOMAIN.encode()

    def trust_at(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Before `connect` to a service's endpoint: whoever answers there without that service's key is not heard."""
        self.trust(socket, self._server[endpoint])

    def trust(self, socket: zmq.Socket[bytes], service: str) -> None:
        """Before `connect` to any endpoint of that service."""
        socket.curve_publickey, socket.curve_secretkey = self._own
        socket.curve_serverkey = self._public[service]

    def learn(self, service: str, endpoints: Iterable[str]) -> None:
        """A service binds there as well (rig.swap)."""
        self._server |= dict.fromkeys(endpoints, service)

    def who(self, user_id: str) -> str:
        """Whose key it is, as the allow-list has it."""
        return self._names.get(user_id, "")

    def refusal(self, asker: str, request: control.Request) -> str:
        """Why a request may not come from there; empty if it may. Services ask each other, operators command."""
        if asker not in self._services or isinstance(request, control.Hello | control.ClockProbe):
            return ""
        if isinstance(request, control.SnapshotRequest):
            return ""
        if isinstance(request, control.Ask) and request.kind == "lost":
            return ""
        if isinstance(request, control.Stop) and self._hosts[asker] == self._hosts.get(self.name):
            return ""  # the launcher of a machine has no keys but those of its services
        return f"{asker} may not ask for that: operators alone do"


class Doorkeeper:
    """Lets in those of the allow-list, and counts who else knocked. One for a ZeroMQ context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys) -> None:
        self._keys = keys
        self._last_key = ""
        self._doors: list[zmq.Socket[bytes]] = []
        self._thread = ThreadAuthenticator(context)
        self._thread.configure_curve_callback(domain=DOMAIN, credentials_provider=self)
        self._thread.start()

    def callback(self, _domain: str, key: bytes) -> bool:
        """In the doorkeeper's own thread, at each handshake with a key."""
        text = key.decode("ascii", "replace")
        known = bool(self._keys.who(text))
        if not known:
            self._last_key = text
        return known

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Before `bind`: only those of the allow-list may connect, and the others are counted."""
        self._keys.serve(socket)
        self._doors.append(socket.get_monitor_socket(FAILED))

    def refused(self) -> list[str]:
        """Connections that were turned away since the last call: why."""
        found = []
        for door in self._doors:
            while door.poll(0):
                event = recv_monitor_message(door)["event"]
                key = f"key {self._last_key}" if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH else "no key"
                found.append(f"{key}, expected one in {PUBLIC}/")
        return found

    def close(self) -> None:
        self._thread.stop()


class Strangers:
    """Turns refused connections into an alarm that is over once nobody has knocked for a while."""

    QUIET_S = 60.0

    def __init__(self, service: str) -> None:
        self._service = service
        self.refused = 0
        self._last_s: float | None = None

    def note(self, refused: list[str], now_s: float) -> list[Alarm]:
        """What to tell of these; told anew when their number has doubled, so that a flood is no flood of alarms."""
        alarms = []
        for why in refused:
            self.refused += 1
            self._last_s = now_s
            if self.refused & (self.refused - 1) == 0:
                detail = (
                    f"{self._service} has refused {self.refused} connections, the last with {why}. If it is one of "
                    "yours, give it its key; else see who is on this network"
                )
                alarms.append(Alarm(code="stranger", active=True, detail=detail))
        if self._last_s is not None and now_s - self._last_s > self.QUIET_S:
            self._last_s = None
            detail = f"{self._service}: nobody unknown for {self.QUIET_S:g} s; {self.refused} refused so far"
            alarms.append(Alarm(code="stranger", active=False, detail=detail))
        return alarms


def load_keys(rig_file: RigFile, name: str) -> Keys | None:
    """The keys of a service, or of who only asks; None for a rig without keys. Raises FileError naming the file."""
    folder = keys_folder(rig_file)
    return Keys(rig_file, name, folder) if folder else None


def keys_folder(rig_file: RigFile) -> Path | None:
    """Relative to the rig file."""
    keys = rig_file.rig.security.keys
    return (rig_file.path.parent / keys).resolve() if keys else None


def make_keys(folder: Path, names: Iterable[str], renew: bool = False) -> list[str]:
    """Pairs for those who have none (`renew`: for all); returns whose were made. Secret files are for their owner."""
    made = []
    for kind in (PUBLIC, PRIVATE):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    os.chmod(folder / PRIVATE, 0o700)
    for name in names:
        if (folder / PUBLIC / f"{name}.key").exists() and not renew:
            continue
        public, secret = zmq.auth.create_certificates(folder / PRIVATE, name)
        os.replace(public, folder / PUBLIC / f"{name}.key")
        os.chmod(secret, 0o600)
        made.append(name)
    return made


def _load(path: Path, name: str) -> tuple[bytes, bytes]:
    """(public, secret or nothing). Raises FileError."""
    try:
        if path.suffix == ".key_secret" and os.name == "posix" and path.stat().st_mode & 0o077:
            raise FileError(f"{path}: others may read it, expected its owner alone: chmod 600")
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path}: no key of {name} ({error}): `loop2p keys RIG` makes keys; the secret ones go to the machine that "
            "they are for"
        ) from None
    if path.suffix == ".key_secret" and secret is None:
        raise FileError(f"{path}: no secret key in it, expected that of {name}: copy it anew")
    return public, secret or b""
