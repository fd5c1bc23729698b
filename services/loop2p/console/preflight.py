"""What is missing for a session, as lines for the page: task's answer, or what is known where it is silent. Pure."""

import re
from collections.abc import Sequence

from msgspec import Struct

from loop2p.console.core import ServiceNow, host_of
from loop2p.protocol import control

_LINE = re.compile(r"^([\w-]+)\.([\w-]+): (.*)", re.DOTALL)
WAITED_FOR = ("not-ready", "clock")
"""A start waits for these (task's start_timeout_s); the others must be mended."""
NEVER_OVERRIDDEN = ("absent", "protocol", "other-run")
"""As task has it (docs/how-to/alarms.md)."""


class Line(Struct, frozen=True):
    code: str
    """Such as "imaging.clock"."""
    service: str
    text: str
    """Which machine, found, expected, what to do."""
    waited_for: bool
    can_be_overridden: bool


class Preflight(Struct, frozen=True):
    answered: bool
    """By task."""
    lines: list[Line]
    """Empty: nothing is missing."""


def preflight(answer: control.Answer | None, services: Sequence[ServiceNow], task_at: str) -> Preflight:
    """`answer`: task's to the request "check", None if there was none; `task_at`: its control endpoint."""
    if answer is not None:
        return Preflight(True, _lines(answer.reason))
    do = "run `loop2p up` there, or `loop2p serve {}`"
    lines = [_line("task", "absent", f"{host_of(services, 'task')}: no answer at {task_at}: {do.format('task')}")]
    for service in services:
        if service.name != "task" and service.health in ("absent", "silent", "stopped"):
            text = f"{host_of(services, service.name)}: {service.health}, no heartbeat: {do.format(service.name)}"
            lines.append(_line(service.name, "absent", text))
    return Preflight(False, lines)


def _lines(text: str) -> list[Line]:
    """Task's lines; one without a code goes on with what the line before it says."""
    found: list[tuple[str, str, str]] = []
    for line in filter(None, text.split("\n")):
        match = _LINE.match(line)
        if match:
            found.append((match[1], match[2], match[3]))
        elif found:
            found[-1] = (*found[-1][:2], f"{found[-1][2]}\n{line}")
        else:
            found.append(("task", "said", line))
    return [_line(*one) for one in found]


def _line(service: str, what: str, text: str) -> Line:
    return Line(f"{service}.{what}", service, text, what in WAITED_FOR, what not in NEVER_OVERRIDDEN)
