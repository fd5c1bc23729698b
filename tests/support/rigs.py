"""Rig files for tests, on free ports."""

from collections.abc import Mapping
from typing import Any

from loop2p.protocol import ROLES, RigFile, parse_rig


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def rig_text(
    ports: list[int],
    data: str,
    classes: Mapping[str, str] = {},
    options: Mapping[str, Mapping[str, Any]] = {},
    standins: Mapping[str, Mapping[str, Any]] = {},
    external: tuple[str, ...] = (),
    extra: str = "",
    top: str = "simulated = true",
) -> str:
    """A whole rig on 127.0.0.1; needs 4 ports a service."""
    lines = ['name = "test"', top, extra, "[data]", f"folder = {toml_value(data)}", "free_gb = 0.001"]
    for k, role in enumerate(ROLES):
        a, b, c, d = ports[4 * k : 4 * k + 4]
        lines += [
            f"[services.{role}]",
            f'publish = "tcp://127.0.0.1:{a}"',
            f'bulk = "tcp://127.0.0.1:{b}"',
            f'control = "tcp://127.0.0.1:{c}"',
            f'metrics = "127.0.0.1:{d}"',
        ]
        if role in classes:
            lines.append(f'class = "{classes[role]}"')
        if role in external:
            lines.append("external = true")
        if role in options:
            lines.append(f"[services.{role}.options]")
            lines += [f"{k} = {toml_value(v)}" for k, v in options[role].items()]
    for name, spec in standins.items():
        lines += [f"[standins.{name}]", f"run = {toml_value(spec['run'])}", f"[standins.{name}.options]"]
        lines += [f"{k} = {toml_value(v)}" for k, v in spec.get("options", {}).items()]
    return "\n".join(lines) + "\n"


def toy_rig(ports: list[int], data: str, **more: Any) -> RigFile:
    """Feeder -> Adder -> Pointer, the other roles quiet."""
    classes = dict.fromkeys(ROLES, "toys:Quiet") | {
        "imaging": "toys:Feeder",
        "decoding": "toys:Adder",
        "task": "toys:Pointer",
    }
    return parse_rig(rig_text(ports, data, classes=classes | more.pop("classes", {}), **more), "toy.toml")
