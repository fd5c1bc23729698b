"""Options of the two companions, and what they are called in the rig file."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from loop2p.protocol import RigFile

Scope = Literal["machine", "link", "site", "organization", "global"]
Word = Annotated[str, Meta(pattern=r"^[^'\"\\]{0,200}\Z")]
"""Stands in a question to LSL between quotes."""
Address = Annotated[str, Meta(pattern=r"^([^:/]+:\d{1,5})?\Z")]
Session = Annotated[str, Meta(pattern=r"^[\w.-]{1,64}\Z")]


class OutletOptions(Struct, frozen=True, forbid_unknown_fields=True):
    traces: bool = True
    """Fluorescence, a stream for each plane."""
    decoder: bool = True
    """D and control value."""
    angle: bool = True
    """What was on the screen."""
    markers: bool = True
    """Trials, rewards, licks, alarms, phases."""
    scope: Scope = "machine"
    """How far the streams are announced. LSL knows no password: whoever reaches this machine can read them."""
    session: Session = "default"
    """LSL's session id: only programs of the same one find the streams."""
    metrics: Address = ""
    """host:port for Prometheus; empty for none."""


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """A stream to be recorded. All that is given must agree."""

    name: Word = ""
    type: Word = ""
    source_id: Word = ""
    channels: Annotated[int, Meta(ge=0)] = 0
    """How many it must have; 0: any number."""
    required: bool = True
    """No session starts without it."""

    @property
    def predicate(self) -> str:
        """XPath, as LSL looks for it."""
        parts = {"name": self.name, "type": self.type, "source_id": self.source_id}
        return " and ".join(f"{key}='{value}'" for key, value in parts.items() if value)


class InletOptions(Struct, frozen=True, forbid_unknown_fields=True):
    streams: dict[Annotated[str, Meta(pattern=r"^\w[\w.-]{0,63}\Z")], Wanted]
    """What the recording calls it -> which stream."""
    scope: Scope = "machine"
    """How far streams are looked for."""
    session: Session = "default"
    """LSL's session id."""
    metrics: Address = ""
    """host:port for Prometheus; empty for none."""


def own_name(rig_file: RigFile, run: str, options: Any, fallback: str) -> str:
    """What the rig file calls the companion that has these options: its key, and by whom it hands in."""
    for name, spec in rig_file.rig.companions.items():
        if spec.run == run and rig_file.side_options(name, type(options)) == options:
            return name
    return fallback
