"""The contract between services: messages, topics, wire format, rig file. Imports nothing of ours."""

from loop2p.protocol import control
from loop2p.protocol.arrays import F32, I32, f32, from_f32, from_i32, i32
from loop2p.protocol.messages import (
    DISTAL,
    MESSAGES,
    PROTOCOL,
    PROXIMAL,
    Accepted,
    Alarm,
    Audit,
    Calibration,
    Cause,
    Clock,
    Command,
    Done,
    Endpoints,
    Fault,
    Heartbeat,
    Lick,
    Message,
    OptoCommand,
    Output,
    Phase,
    PhaseName,
    PlaneRois,
    Preview,
    Raw,
    Refused,
    RequestLog,
    RewardCommand,
    Rois,
    Selection,
    Session,
    Show,
    Shown,
    Stall,
    Swap,
    TopicAudit,
    Traces,
    Trial,
    Wheel,
)  # fmt: skip
from loop2p.protocol.rig import (
    ROLES,
    Microscope,
    Rig,
    RigFile,
    ServiceSpec,
    SideProcess,
    parse_microscope,
    parse_rig,
    read_rig,
)
from loop2p.protocol.tomlfile import FileError, convert, parse_toml, read_toml
from loop2p.protocol.wire import Envelope, Header, WireError, decode_body, open_parts, seal

__all__ = [
    "DISTAL", "F32", "I32", "MESSAGES", "PROTOCOL", "PROXIMAL", "ROLES",
    "Accepted", "Alarm", "Audit", "Calibration", "Cause", "Clock", "Command", "Done", "Endpoints", "Envelope",
    "Fault", "FileError", "Header", "Heartbeat", "Lick", "Message", "Microscope", "OptoCommand", "Output", "Phase",
    "PhaseName", "PlaneRois", "Preview", "Raw", "Refused", "RequestLog", "RewardCommand", "Rig", "RigFile", "Rois",
    "Selection", "ServiceSpec", "Session", "Show", "Shown", "SideProcess", "Stall", "Swap", "TopicAudit", "Traces",
    "Trial", "Wheel", "WireError", "control", "convert", "decode_body", "f32", "from_f32", "from_i32", "i32",
    "open_parts", "parse_microscope", "parse_rig", "parse_toml", "read_rig", "read_toml", "seal",
]  # fmt: skip
