"""What a role's test brings to the stage; each role has one beside this file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from loop2p.cli.conformance.stage import Stage
from loop2p.cli.conformance.verdict import Clause
from loop2p.protocol import Session


class RoleTest:
    """Clauses of one role. `own_values`: they are the program's own, so that only form is judged."""

    hears: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(publisher, topic) of what it takes, for damaged messages."""

    ends_last: ClassVar[bool] = False
    """It goes on while others speak, so they fall silent before it is asked to end."""

    def __init__(self, folder: Path, own_values: bool, budget_ms: float | None) -> None:
        self.folder, self.own_values, self.budget_ms = folder, own_values, budget_ms
        self.stage: Stage

    def options(self) -> dict[str, Any]:
        """Of our own service, in the toy rig's file."""
        return {}

    def surroundings(self) -> dict[str, str]:
        """What of that a program finds in its environment."""
        return {}

    @contextmanager
    def around(self) -> Iterator[None]:
        """Stand-ins for hardware, while the program runs."""
        yield

    def begin(self) -> None:
        """Say what makes it ready. Not judged."""
        if self.stage.service != "task":
            self.stage.run_id = "conform"
            self.stage.publish("task", self.session())

    def session(self, run_id: str = "conform") -> Session:
        file = self.stage.rig_file
        return Session(run_id=run_id, rig=file.text, task="", rig_hash=file.hash, simulated=True)

    def clauses(self) -> list[Clause]:
        """In the order in which they are tried."""
        return []

    def works(self) -> None:
        """It still does what it is for. Raises BrokenError."""
