"""The start barrier: is every part of the rig there and right? Pure: heartbeats and times are passed in."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from loop2p.protocol import PROTOCOL, Heartbeat, Rig

SILENT_S = 1.0
"""A service that was not heard for longer is absent."""
NEVER_OVERRIDDEN = ("absent", "protocol", "other-run")
"""Without these there is no session at all."""


class Peer(Struct):
    """What was last heard of a service."""

    instance: str
    heartbeat: Heartbeat
    heard_ns: int
    bound_ns: int | None = None
    """Error bound of its clock."""

    def age_s(self, now_ns: int) -> float:
        return (now_ns - self.heard_ns) / 1e9


class Reason(Struct, frozen=True):
    """Why a session can't start."""

    code: str
    """Such as "imaging.clock": what `--override` names."""
    text: str
    """Which machine, found, expected, what to do."""

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


def missing(
    rig: Rig,
    rig_hash: str,
    run_id: str,
    peers: Mapping[str, Peer],
    now_ns: int,
    disk_free_gb: float,
    names: Iterable[str],
) -> list[Reason]:
    """All that keeps a session from starting; empty if nothing does. `names`: the services that must be there.

    Of an external peer only protocol, rig hash and a live heartbeat are expected.
    """
    found = []
    if disk_free_gb < rig.data.free_gb:
        found.append(
            Reason(
                "task.disk",
                f"{disk_free_gb:.1f} GB free where {rig.data.folder} lies on task's machine, expected "
                f"{rig.data.free_gb:g} GB (data.free_gb in the rig file): delete or move old runs",
            )
        )
    for name in names:
        found += _peer(rig, rig_hash, run_id, name, peers.get(name), now_ns)
    return found


def unclear_clocks(rig: Rig, bounds_ns: Mapping[str, int | None]) -> list[Reason]:
    """Whose clock is known less well than `clock.bound_limit_ms`. `bounds_ns`: service -> error bound, None if unknown.

    The reference's own clock and those of external peers are not asked for.
    """
    limit_ms = rig.clock.bound_limit_ms
    found = []
    for name, bound_ns in bounds_ns.items():
        if name == rig.clock.reference or rig.services[name].external:
            continue
        if bound_ns is None or bound_ns > limit_ms * 1e6:
            known = "not known yet" if bound_ns is None else f"known to +-{bound_ns / 1e6:.2f} ms"
            text = f"{_where(rig, name)}: clock {known}, expected +-{limit_ms:g} ms: wait, or check the network"
            found.append(Reason(f"{name}.clock", text))
    return found


def split_overridden(reasons: list[Reason], overrides: Iterable[str]) -> tuple[list[Reason], list[Reason]]:
    """(reasons that stand, reasons that the experimenter overrides); see NEVER_OVERRIDDEN."""
    codes = set(overrides)
    waived = [r for r in reasons if r.code in codes and not r.code.endswith(NEVER_OVERRIDDEN)]
    return [r for r in reasons if r not in waived], waived


def _peer(rig: Rig, rig_hash: str, run_id: str, name: str, peer: Peer | None, now_ns: int) -> list[Reason]:
    spec = rig.services[name]
    where = _where(rig, name)
    if peer is None or peer.age_s(now_ns) > SILENT_S:
        heard = "no heartbeat so far" if peer is None else f"last heartbeat {peer.age_s(now_ns):.1f} s ago"
        do = "start that program" if spec.external else f"run `loop2p up` there, or `loop2p serve {name}`"
        return [Reason(f"{name}.absent", f"{where}: {heard}, expected 20 a second of protocol {PROTOCOL}: {do}")]
    beat = peer.heartbeat
    if beat.protocol != PROTOCOL:
        text = f"{where}: protocol {beat.protocol}, expected {PROTOCOL}: install the same version on both machines"
        return [Reason(f"{name}.protocol", text)]
    found = []
    if beat.rig_hash != rig_hash:
        text = f"{where}: rig file {beat.rig_hash or 'unknown'}, expected {rig_hash}: copy the rig file there, restart"
        found.append(Reason(f"{name}.rig-hash", text))
    if spec.external:
        return found
    found += unclear_clocks(rig, {name: peer.bound_ns})
    if beat.why_not_ready or beat.health != "ready":
        lines = beat.why_not_ready or [f"health {beat.health!r}, expected 'ready'"]
        found += [Reason(f"{name}.not-ready", f"{where}: {line}") for line in lines]
    elif beat.run_id != run_id:
        text = f"{where}: prepared for run {beat.run_id or '(none)'}, expected {run_id}: does it hear task?"
        found.append(Reason(f"{name}.other-run", text))
    return found


def _where(rig: Rig, name: str) -> str:
    host = rig.services[name].host
    return f"{name} on {host}" + (f" ({rig.hosts[host]})" if host in rig.hosts else "")
