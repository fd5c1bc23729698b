"""Tasks for benchmarks, named in a rig file as class = "loop2p.task.bench_task:EchoTask" or ":LoopTask".

`start` makes them go as soon as those services are ready that they name.
"""

from loop2p.protocol import Output
from loop2p.task.core import Drop, Effect, SessionCore
from loop2p.task.service import Task


class EchoCore(SessionCore):
    """No baseline, no trials: a command for each output."""

    def _next(self) -> list[Effect]:
        return [self._enter("closed_loop")]

    _enter_loop = _next

    def _loop(self, output: Output) -> list[Effect]:
        return [Drop(0.0, -1)]


class EchoTask(Task):
    """Every output becomes a zero-volume reward, by the ordinary path; there is no baseline and no trial."""

    core_class = EchoCore
    peers = ("imaging", "decoding", "actuation")


class LoopTask(Task):
    """The ordinary session, without screen, valve and recorder: for how many frames a second it decides on."""

    peers = ("imaging", "decoding")
