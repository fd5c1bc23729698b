"""Who acts for a service, and who stands by for it: what `loop2p swap` asks of task. Pure: times are passed in."""

import math
from collections.abc import Mapping

from msgspec import Struct, structs

from loop2p.protocol import Clock, Endpoints, Envelope, Heartbeat, RigFile, Swap
from loop2p.protocol.rig import Rig, is_endpoint, is_here
from loop2p.task.barrier import SILENT_S, Peer, missing

AHEAD_S = 0.25
"""Frame time from the word to the exchange, so that everybody has heard it before that frame comes."""
STAGES = "shadow, act, back, leave, again, handover"


class SwapError(ValueError):
    """What was asked can't be done, and why."""


class Pair(Struct):
    """A service of which there are two, or whose newcomer acts alone."""

    acting: Endpoints
    newcomer: Endpoints
    shadow: Endpoints | None = None
    external: bool = False
    """The newcomer only publishes its topics and heartbeats."""
    heard: Peer | None = None
    """What was last heard of whom stands by."""

    @property
    def newcomer_acts(self) -> bool:
        return self.acting == self.newcomer


class Wish(Struct, frozen=True):
    """What is to be done at the next boundary between trials."""

    stage: str
    by: str
    note: str


class Swaps:
    """The pairs of a rig. What is asked either follows at once, as messages, or waits for a boundary in `wishes`."""

    def __init__(self, rig_file: RigFile, own: str = "task") -> None:
        self._file, self._own = rig_file, own
        self.rig: Rig = rig_file.rig
        """The rig file's, with those external that act at present and are."""
        self.pairs: dict[str, Pair] = {}
        self.wishes: dict[str, Wish] = {}
        self.handed: set[str] = set()
        """Services whose first process has left for a successor: whoever started that one need not say so."""

    # ------------------------------------------------------------ what is asked

    def ask(self, args: Mapping[str, str], by: str, run_id: str, now_ns: int) -> list[Swap]:
        """What follows at once. `run_id`: of the session, "" for none. Raises SwapError: why it is refused."""
        name, stage = args.get("service", ""), args.get("stage", "")
        if name not in self._file.rig.services:
            raise SwapError(f"no service {name[:40]!r}, expected one of {', '.join(self._file.rig.services)}")
        note = args.get("note", "")[:2000]
        match stage:
            case "shadow":
                return [self._stand_by(name, self._endpoints(args), bool(args.get("external")), by)]
            case "act" | "back":
                self._may_exchange(name, stage, run_id, now_ns)
                self.wishes[name] = Wish(stage, by, note)
            case "handover":
                if name in self.pairs:
                    raise SwapError(f"{name}: {self.pairs[name].acting.publish} acts since a swap; end that one first")
                self.wishes[name] = Wish(stage, by, note)
            case "leave":
                return self._leave(name, args.get("publish", ""), by, note)
            case "again":
                at = self._endpoints(args)
                self.pairs[name] = Pair(at, at, external=bool(args.get("external")))
                self._mark_external(name)
                return [Swap(service=name, stage="none", acting=at, by=by, reason="task was started again")]
            case _:
                raise SwapError(f"unknown stage {stage[:40]!r}, expected one of {STAGES}")
        return []

    def _stand_by(self, name: str, at: Endpoints, external: bool, by: str) -> Swap:
        if name == self._own or name == self._file.rig.clock.reference:
            raise SwapError(f"{name} keeps the rig's state or clock, so there can't be two of it: hand it over")
        pair = self.pairs.get(name)
        if pair is not None and pair.shadow is not None:
            raise SwapError(f"{pair.shadow.publish} stands by for {name} already; end that swap first")
        taken = {s.publish for s in self._file.rig.services.values()} | {p.acting.publish for p in self.pairs.values()}
        if at.publish in taken:
            raise SwapError(f"{at.publish} is a service's already, expected an endpoint of its own")
        pair = self.pairs[name] = Pair(self.acting(name), at, at, external)
        return Swap(service=name, stage="shadow", acting=pair.acting, shadow=at, by=by, reason="a newcomer stands by")

    def _may_exchange(self, name: str, stage: str, run_id: str, now_ns: int) -> None:
        pair = self.pairs.get(name)
        if pair is None or pair.shadow is None:
            raise SwapError(f"nobody stands by for {name}: start one with `loop2p swap {name}`")
        if stage == "act" and pair.newcomer_acts:
            raise SwapError(f"{name}: the newcomer acts already")
        if stage == "back" and not pair.newcomer_acts:
            raise SwapError(f"{name}: the newcomer does not act, so there is no way back to go")
        why = self.unfit(name, run_id, now_ns)
        if why:
            raise SwapError(why)

    def _leave(self, name: str, publish: str, by: str, note: str) -> list[Swap]:
        """One of the two is gone, or about to go."""
        pair = self.pairs.get(name)
        if pair is None:  # a hand-over is over
            return [Swap(service=name, stage="none", acting=self.acting(name), by=by, reason=note)]
        self.wishes.pop(name, None)
        out = []
        if publish == pair.acting.publish and pair.shadow is not None:
            out.append(self.exchange(name, 0, by, note))
        elif publish == pair.acting.publish:
            pair.acting = self._home(name)
        elif pair.shadow is None or publish != pair.shadow.publish:
            raise SwapError(f"{name}: {publish!r} neither acts nor stands by")
        pair.shadow, pair.heard = None, None
        if pair.acting == self._home(name):
            del self.pairs[name]
            self._mark_external(name)
        return [*out, Swap(service=name, stage="none", acting=self.acting(name), by=by, reason=note)]

    # ------------------------------------------------------------ who is heard

    def hear(self, envelope: Envelope, now_ns: int) -> None:
        """Heartbeat and clock of whom stands by."""
        pair, message, instance = self.pairs.get(envelope.header.source), envelope.message, envelope.header.instance
        if pair is None:
            return
        if isinstance(message, Heartbeat):
            same = pair.heard is not None and pair.heard.instance == instance
            pair.heard = Peer(instance, message, now_ns, pair.heard.bound_ns if same and pair.heard else None)
        elif isinstance(message, Clock) and pair.heard is not None and pair.heard.instance == instance:
            pair.heard.bound_ns = message.bound_ns

    def unfit(self, name: str, run_id: str, now_ns: int) -> str:
        """Why whom stands by can't act now; empty if it can. Without a session it need only be there and be right."""
        pair = self.pairs[name]
        if pair.heard is not None and pair.heard.heartbeat.health in ("stopping", "stopped"):
            return f"{name}: who stands by is leaving"
        spec = self._file.rig.services[name]
        external = not run_id or (spec.external if pair.newcomer_acts else pair.external)
        spec = structs.replace(spec, external=external)
        rig = structs.replace(self._file.rig, services=self._file.rig.services | {name: spec})
        peers = {} if pair.heard is None else {name: pair.heard}
        found = missing(rig, self._file.hash, run_id, peers, now_ns, math.inf, [name])
        return "; ".join(map(str, found))

    def relieves(self, name: str, now_ns: int) -> bool:
        """The newcomer acts, and its predecessor is still there to take its place."""
        pair = self.pairs.get(name)
        if pair is None or not pair.newcomer_acts or pair.shadow is None or pair.heard is None:
            return False
        return pair.heard.age_s(now_ns) <= SILENT_S and pair.heard.heartbeat.health == "ready"

    # ------------------------------------------------------------ what is done

    def exchange(self, name: str, from_frame: int, by: str, note: str) -> Swap:
        """The two change places from that frame on."""
        pair = self.pairs[name]
        assert pair.shadow is not None
        pair.acting, pair.shadow = pair.shadow, pair.acting
        self.wishes.pop(name, None)
        self._mark_external(name)
        return Swap(
            service=name,
            stage="acting" if pair.newcomer_acts else "shadow",
            acting=pair.acting,
            shadow=pair.shadow,
            from_frame=from_frame,
            by=by,
            reason=note,
        )

    def hand_over(self, name: str) -> Swap:
        """The service's process is about to leave for a successor at its endpoints."""
        wish = self.wishes.pop(name)
        self.handed.add(name)
        return Swap(service=name, stage="handover", acting=self.acting(name), by=wish.by, reason=wish.note)

    def acting(self, name: str) -> Endpoints:
        """Where it is that acts."""
        return self.pairs[name].acting if name in self.pairs else self._home(name)

    def _home(self, name: str) -> Endpoints:
        spec = self._file.rig.services[name]
        return Endpoints(spec.publish, spec.bulk, spec.control)

    def is_external(self, name: str) -> bool:
        return self.rig.services[name].external

    def _mark_external(self, name: str) -> None:
        pair, spec = self.pairs.get(name), self._file.rig.services[name]
        if pair is not None and pair.newcomer_acts:
            spec = structs.replace(spec, external=pair.external)
        self.rig = structs.replace(self.rig, services=self.rig.services | {name: spec})

    def _endpoints(self, args: Mapping[str, str]) -> Endpoints:
        at = Endpoints(*(args.get(which, "") for which in ("publish", "bulk", "control")))
        security = self._file.rig.security
        for endpoint in (at.publish, at.bulk, at.control):
            if not is_endpoint(endpoint):
                raise SwapError(f"found {endpoint[:60]!r}, expected an endpoint such as 'tcp://127.0.0.1:5600'")
            if not (security.keys or security.plain_on_network or is_here(endpoint)):
                raise SwapError(f"{endpoint} can be reached from other machines, and this rig has no keys: [security]")
        return at


def first_frame(last_frame: int, rest_s: float, rate_hz: float) -> int:
    """The frame at which two change places: so far ahead that all have heard of it, before a trial may start."""
    return last_frame + 1 + int(min(AHEAD_S, max(rest_s, 0.0)) * rate_hz)
