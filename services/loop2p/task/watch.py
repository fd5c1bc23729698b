"""Who of the others is alive: losses and returns, from heartbeats. Pure: times are passed in."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from loop2p.protocol import Clock, Heartbeat
from loop2p.task.barrier import Peer

CLOCK_GOOD_AFTER_NS = 5_000_000_000
"""A clock that was unclear must be good for so long before a session goes on by itself: it may hover at the limit."""
LEAVES_NS = 30_000_000_000
"""A service that was to leave for a successor and is still there after so long stays."""
LOST_AFTER_S = 0.5
RECORDING_LOST_AFTER_S = 1.0


class Change(Struct, frozen=True):
    """A service was lost, or is back and ready."""

    name: str
    back: bool
    waited_s: float = 0.0
    """Lost: age of its last heartbeat."""
    successor: bool = False
    """Back: as another instance, so its predecessor is dead."""


class _Loss(Struct):
    instance: str
    at_ns: int
    leaves_until_ns: int = 0
    """Until then it may still be heard, and does not count: it is about to leave for a successor."""


class Watch:
    """Keeps the last heartbeat of every service; once begun, tells what changes. `external`: peers that only beat."""

    def __init__(self, names: Iterable[str], external: Iterable[str] = ()) -> None:
        self.names, self.external = tuple(names), frozenset(external)
        self.peers: dict[str, Peer] = {}
        self._known: dict[str, str] | None = None
        self._lost: dict[str, _Loss] = {}
        self._told: set[str] = set()

    def heard(self, name: str, instance: str, heartbeat: Heartbeat, now_ns: int) -> None:
        """Take a heartbeat."""
        peer = self.peers.get(name)
        bound_ns = peer.bound_ns if peer is not None and peer.instance == instance else None
        self.peers[name] = Peer(instance, heartbeat, now_ns, bound_ns)

    def clock(self, name: str, instance: str, clock: Clock) -> None:
        """Take how well a service knows the rig clock."""
        peer = self.peers.get(name)
        if peer is not None and peer.instance == instance:
            peer.bound_ns = clock.bound_ns

    def bounds_ns(self) -> dict[str, int | None]:
        """Error bound of the clock of everybody who is there and has told it."""
        known = ((n, p) for n, p in self.peers.items() if n in self.names and n not in self._lost)
        return {name: peer.bound_ns for name, peer in known if peer.bound_ns is not None}

    def exchange(self, name: str, peer: Peer | None, external: bool) -> Peer | None:
        """Another one acts for a service from now on; returns what was last heard of its predecessor."""
        before = self.peers.pop(name, None)
        if peer is not None:
            self.peers[name] = peer
            if self._known is not None:
                self._known[name] = peer.instance
        self.external = self.external - {name} | ({name} if external else set())
        return before

    @property
    def begun(self) -> bool:
        return self._known is not None

    @property
    def lost(self) -> frozenset[str]:
        return frozenset(self._lost)

    def begin(self) -> None:
        """From now on the instances that are there are the session's."""
        self._known = {name: peer.instance for name, peer in self.peers.items()}
        self._lost.clear()
        self._told.clear()

    def end(self) -> None:
        self._known = None
        self._lost.clear()
        self._told.clear()

    def mark_lost(self, name: str, now_ns: int) -> None:
        """Somebody knows that it is dead, before its heartbeat tells."""
        if self._known is not None and name in self.names and name not in self._lost:
            self._lost[name] = _Loss(self._known.get(name, ""), now_ns)

    def hand_over(self, name: str, now_ns: int) -> None:
        """It is about to leave for a successor: lost from now on, until that one is there."""
        if self._known is not None and name in self.names:
            self._lost[name] = _Loss(self._known.get(name, ""), now_ns, now_ns + LEAVES_NS)

    def called_off(self, name: str) -> None:
        """It stays after all."""
        if name in self._lost:
            self._lost[name].leaves_until_ns = 0

    def check(self, now_ns: int, run_id: str) -> list[Change]:
        """What has changed since the last call."""
        if self._known is None:
            return []
        out = []
        for name in self.names:
            peer = self.peers.get(name)
            if name not in self._lost and (peer is None or self._gone(name, peer, now_ns, self._known)):
                self._lost[name] = _Loss(self._known.get(name, ""), now_ns if peer is None else peer.heard_ns)
            if name in self._lost and name not in self._told:
                self._told.add(name)
                out.append(Change(name, back=False, waited_s=peer.age_s(now_ns) if peer is not None else 0.0))
            elif name in self._lost and peer is not None and self._ready(name, peer, now_ns, run_id):
                loss = self._lost.pop(name)
                self._told.discard(name)
                self._known[name] = peer.instance
                out.append(Change(name, back=True, successor=peer.instance != loss.instance))
        return out

    def is_recorded(self, instance: str) -> bool:
        """Does recording write down what this instance publishes? What a successor did before is on no record.

        An external recording need not say.
        """
        if "recording" not in self.names or "recording" in self.external:
            return True
        recording = self.peers.get("recording")
        return recording is not None and instance in recording.heartbeat.flushed

    def _gone(self, name: str, peer: Peer, now_ns: int, known: Mapping[str, str]) -> bool:
        limit_s = RECORDING_LOST_AFTER_S if name == "recording" else LOST_AFTER_S
        leaving = peer.heartbeat.health in ("stopping", "stopped")
        return peer.age_s(now_ns) > limit_s or leaving or peer.instance != known.get(name)

    def _ready(self, name: str, peer: Peer, now_ns: int, run_id: str) -> bool:
        beat, loss = peer.heartbeat, self._lost[name]
        news = peer.heard_ns > loss.at_ns or peer.instance != loss.instance
        if not news or peer.age_s(now_ns) > LOST_AFTER_S:
            return False
        if peer.instance == loss.instance and now_ns < loss.leaves_until_ns:
            return False
        if peer.instance != loss.instance and name != "recording" and not self.is_recorded(peer.instance):
            return False
        if name in self.external:
            return beat.health not in ("stopping", "stopped")
        return beat.health == "ready" and not beat.why_not_ready and beat.run_id == run_id


class ClockWatch:
    """Whose clock is unclear, or was so lately."""

    def __init__(self) -> None:
        self._seen_ns: dict[str, int] = {}

    def check(self, unclear: Iterable[str], now_ns: int) -> frozenset[str]:
        """Those that are unclear now, or were less than CLOCK_GOOD_AFTER_NS ago."""
        self._seen_ns |= dict.fromkeys(unclear, now_ns)
        self._seen_ns = {n: at_ns for n, at_ns in self._seen_ns.items() if now_ns - at_ns <= CLOCK_GOOD_AFTER_NS}
        return frozenset(self._seen_ns)
