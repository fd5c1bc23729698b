"""Clauses of a contract, and what became of each."""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct, structs

Outcome = Literal["kept", "BROKEN", "measured", "not there"]


MEASURED = "measured: "
"""What a check says begins with this where it has measured and not judged."""


class BrokenError(AssertionError):
    """A clause is not kept: what was found, what was expected."""


class NotThereError(Exception):
    """Something that need not be there is not."""


class Clause(Struct, frozen=True):
    """One sentence of a contract. `check` returns what to say of it; raises BrokenError or NotThereError."""

    text: str
    check: Callable[[], str]
    optional: bool = False
    """Need not be there; where it is, it must be right."""


class Verdict(Struct, frozen=True):
    text: str
    outcome: Outcome
    detail: str
    optional: bool = False


def judge(clause: Clause, died: Callable[[], str]) -> Verdict:
    """Try a clause. `died`: why the program is gone, empty while it runs."""
    gone = died()
    if gone:
        return Verdict(clause.text, "BROKEN", gone, clause.optional)
    try:
        detail = clause.check()
    except NotThereError as error:
        return Verdict(clause.text, "not there", str(error), clause.optional)
    except BrokenError as error:
        gone = died()
        return Verdict(clause.text, "BROKEN", f"{error}{'; ' + gone if gone else ''}", clause.optional)
    if detail.startswith(MEASURED):
        return Verdict(clause.text, "measured", detail.removeprefix(MEASURED), clause.optional)
    return Verdict(clause.text, "kept", detail, clause.optional)


def is_kept(verdicts: list[Verdict]) -> bool:
    return not any(v.outcome == "BROKEN" for v in verdicts)


def as_json(service: str, command: list[str], verdicts: list[Verdict]) -> dict[str, Any]:
    """For programs."""
    return {
        "service": service,
        "command": command,
        "conforms": is_kept(verdicts),
        "clauses": [structs.asdict(v) for v in verdicts],
    }
