"""Task's place in tests of recording: says which session is run, and nothing else."""

from collections.abc import Iterable

from loop2p.protocol import Message, Session, control
from loop2p.runtime import Service


class Conductor(Service):
    """Publishes a session when asked over the control socket."""

    publishes = (Session,)

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        return control.Answer(True), [Session(run_id=ask.args["run_id"], rig="", task="", simulated=True)]
