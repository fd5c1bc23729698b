"""What Home Assistant must know to show a rig by itself: one retained message an entity. Pure.

Format: "MQTT discovery" in Home Assistant's MQTT integration, `<prefix>/<component>/<node>/<object>/config`. There are
no buttons among them: a command needs an id and a time, and a person who means it.
"""

import re
from typing import Any

import msgspec

from loop2p.gateway.outbox import Publication

ENTITIES: tuple[tuple[str, str, str, str, str, dict[str, str]], ...] = (
    ("sensor", "state", "State", "status", "{{ value_json.state }}", {}),
    ("sensor", "phase", "Phase", "status", "{{ value_json.phase }}", {}),
    ("sensor", "session", "Session", "status", "{{ value_json.session }}", {}),
    ("sensor", "hits", "Hits", "status", "{{ value_json.outcomes.hit }}", {}),
    ("sensor", "rewards", "Rewards", "rewards", "{{ value_json.count }}", {}),
    ("sensor", "volume", "Volume given", "rewards", "{{ value_json.ul }}", {"unit_of_measurement": "uL"}),
    (
        "binary_sensor", "alarm", "Alarm", "alarms", "{{ 'ON' if value_json.alarms else 'OFF' }}",
        {"device_class": "problem"},
    ),
    (
        "binary_sensor", "fault", "Fault", "faults", "{{ 'ON' if value_json.faults else 'OFF' }}",
        {"device_class": "problem"},
    ),
)  # fmt: skip
"""component, object, name, topic below the rig's, template of its value, more keys."""


def discovery(prefix: str, rig: str, base: str, version: str) -> list[Publication]:
    """The messages for a rig whose topics begin with `base` ("loop2p/rig")."""
    node = "loop2p_" + re.sub(r"\W", "_", rig)
    device = {"identifiers": [node], "name": f"loop2p {rig}", "manufacturer": "loop2p", "sw_version": version}
    out = []
    for component, key, name, topic, template, more in ENTITIES:
        config: dict[str, Any] = {
            "name": name,
            "unique_id": f"{node}_{key}",
            "state_topic": f"{base}/{topic}",
            "value_template": template,
            "availability_topic": f"{base}/online",
            "device": device,
            **more,
        }
        out.append(Publication(f"{prefix}/{component}/{node}/{key}/config", msgspec.json.encode(config)))
    return out
