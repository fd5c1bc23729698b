"""What is written about the gateway is what it does: topics, fields, refusals, options, the broker's access list."""

import re
from pathlib import Path

import msgspec
import pytest

from loop2p.gateway import core, service
from loop2p.gateway.commands import AHEAD_S, KINDS, LIMIT_S, Command, Commands, Request
from loop2p.gateway.options import GatewayOptions

ROOT = Path(__file__).parents[2]
README = (ROOT / "services" / "loop2p" / "gateway" / "README.md").read_text(encoding="utf-8")
HOW_TO = (ROOT / "docs" / "how-to" / "mqtt.md").read_text(encoding="utf-8")
ACL = (ROOT / "deploy" / "mosquitto" / "loop2p.acl").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, str]:
    """First column -> the rest, of all tables below a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \| (.*) \|$", section, re.MULTILINE)
    return {name: rest for first, second, rest in found for name in (first, second) if name}


PAYLOADS = {
    "status": [core.Status, core.ServiceHealth],
    "rewards": [core.Rewards],
    "alarms": [core.Alarms, core.AlarmNow],
    "faults": [core.Faults, core.FaultNow],
    "gateway": [service.GatewayNow],
    "trial": [core.Outcome],
    "answer": [service.Answered],
    "heartbeat": [core.Ages],
}


def test_every_topic_is_listed() -> None:
    assert set(rows("What it publishes")) == {*PAYLOADS, "online"}


@pytest.mark.parametrize("topic", PAYLOADS)
def test_every_field_is_listed_and_no_other(topic: str) -> None:
    fields = {name for kind in PAYLOADS[topic] for name in kind.__struct_fields__}
    assert set(re.findall(r"`(\w+)`", rows("What it publishes")[topic])) == fields


def test_every_field_of_a_command_and_every_refusal_is_listed() -> None:
    source = (ROOT / "services" / "loop2p" / "gateway" / "commands.py").read_text(encoding="utf-8")
    refusals = set(re.findall(r'Refusal\([^,]+, "([\w-]+)"', source))
    assert len(refusals) == 7
    assert set(rows("What it takes")) == refusals | set(Request.__struct_fields__)
    example = re.search(r"```json\n(.*)\n```", README)
    assert example
    request = msgspec.json.decode(example[1], type=Request)
    judged = Commands((request.session,), 0.0).judge("start", example[1].encode(), False, request.time, 9.0)
    assert isinstance(judged, Command)


def test_every_option_is_listed() -> None:
    assert set(rows("Options")) == set(GatewayOptions.__struct_fields__)


def test_the_kinds_are_named_everywhere_alike() -> None:
    assert f"KIND one of {', '.join(KINDS)}." in README
    assert set(re.findall(r"^topic write loop2p/simulated/command/(\w+)$", ACL, re.MULTILINE)) == set(KINDS)


def test_what_is_quoted_in_the_how_to_is_what_holds() -> None:
    assert f"beyond {LIMIT_S:g} s behind the gateway's clock and {AHEAD_S:g} s ahead" in HOW_TO
