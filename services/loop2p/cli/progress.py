"""What a terminal shows while a session runs."""

import time
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loop2p.protocol import (
    Accepted,
    Alarm,
    Calibration,
    Done,
    Envelope,
    Fault,
    Heartbeat,
    Output,
    Phase,
    RequestLog,
    Show,
    Stall,
    Swap,
    Traces,
    Trial,
)


@dataclass
class Progress:
    """The essentials of a running session, gathered from the bus."""

    phase: str = "starting"
    reason: str = ""
    refused: str = ""
    frames: int = 0
    value: float | None = None
    threshold: float | None = None
    quality: float | None = None
    what: str = "-"
    outcomes: dict[str, int] = field(default_factory=lambda: {"hit": 0, "miss": 0, "void": 0})
    trial: int | None = None
    rewards: int = 0
    reward_ul: float = 0.0
    gaps: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=dict)
    swapped: set[str] = field(default_factory=set)
    """Services for which another one acts, or is about to: the first may leave."""
    alarms: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    command_ms: float | None = None
    started: float = field(default_factory=time.monotonic)

    def take(self, envelope: Envelope) -> None:
        """Take one message of any topic."""
        message, source = envelope.message, envelope.header.source
        match message:
            case Traces():
                self.frames += 1
                self.quality = message.quality
            case Output():
                self.value = message.value
            case Calibration():
                self.threshold = message.threshold
                self.event(f"calibrated: threshold {message.threshold:.3f}, z* {message.z_star:.2f}")
            case Show():
                self.what = message.what if message.angle_deg is None else f"{message.what} {message.angle_deg:.0f} deg"
            case Phase():
                if (message.phase, message.reason) != (self.phase, self.reason):
                    self.event(": ".join(filter(None, (message.phase, message.reason))))
                self.phase, self.reason = message.phase, message.reason
            case Trial():
                self.trial = message.trial
                if message.edge != "start":
                    self.outcomes[message.edge] += 1
                    why = f" ({message.reason})" if message.reason else ""
                    self.event(f"trial {message.trial}: {message.edge}{why}")
            case Accepted() if message.cause is not None:
                self.command_ms = (message.received_ns - message.cause.arrival_ns) / 1e6
            case Done() if message.volume_ul > 0:
                self.rewards += 1
                self.reward_ul += message.volume_ul
            case RequestLog() if not message.accepted:
                self.event(f"{message.kind} refused: {message.reason}")
                if message.kind == "start" and message.by == "task":  # another's start is refused while ours goes on
                    self.refused = message.reason
            case Alarm():
                key = (source, message.code)
                if message.active:
                    if key not in self.alarms:
                        self.event(f"ALARM {source} {message.code}: {message.detail}")
                    self.alarms[key] = message.detail
                elif self.alarms.pop(key, None) is not None:
                    self.event(f"alarm over: {source} {message.code}")
            case Fault():
                self.faults.append(f"{message.service}: {message.error}: {message.detail}")
                self.event(f"FAULT {self.faults[-1]}")
            case Swap():
                if message.stage in ("acting", "handover"):
                    self.swapped.add(message.service)
                self.event(f"{message.service}: {message.stage} at {message.acting.publish}: {message.reason}")
            case Stall():
                self.event(f"{message.what} stopped for {message.waited_s:.1f} s")
            case Heartbeat():
                self.gaps[source] = message.gaps
                self.waiting[source] = message.why_not_ready

    def event(self, text: str) -> None:
        self.events.append(f"{time.monotonic() - self.started:6.1f} s  {text}")

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_row("phase", f"[bold]{self.phase}[/] {self.reason}")
        if self.phase in ("starting", "idle"):
            for service, why in sorted(self.waiting.items()):
                for line in why[:2]:
                    table.add_row("", f"waits for {service}: {line}")
        seen = "-" if self.value is None else f"{self.value:+.3f}"
        target = "" if self.threshold is None else f" of {self.threshold:.3f}"
        table.add_row("control value", f"{seen}{target}    screen: {self.what}")
        count = self.outcomes
        table.add_row(
            "trials", f"{count['hit']} hits, {count['miss']} misses, {count['void']} void; "
            f"{self.rewards} rewards, {self.reward_ul:.0f} ul"
        )  # fmt: skip
        latency = "" if self.command_ms is None else f"    last command {self.command_ms:.2f} ms after its frame"
        table.add_row("frames", f"{self.frames}, {sum(self.gaps.values())} messages missed{latency}")
        for (source, code), detail in self.alarms.items():
            table.add_row(Text("alarm", "bold yellow"), Text(f"{source} {code}: {detail}", "yellow"))
        return Group(table, Text("\n".join(self.events[-6:]), "dim"))
