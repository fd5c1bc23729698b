"""A task for the latency benchmark: every output becomes a zero-volume reward, by the ordinary path.

Named in a rig file as class = "loop2p.task.bench_task:EchoTask". `start` makes it go as soon as imaging, decoding and
actuation are ready; there is no baseline and no trial.
"""

from loop2p.protocol import Output
from loop2p.task.core import Drop, Effect, SessionCore
from loop2p.task.service import Task


class EchoCore(SessionCore):
    """No baseline, no trials: a command for each output."""

    def _enter_baseline(self) -> list[Effect]:
        return [self._enter("closed_loop")]

    _enter_loop = _enter_baseline

    def _loop(self, output: Output) -> list[Effect]:
        return [Drop(0.0, -1)]


class EchoTask(Task):
    """See the module."""

    core_class = EchoCore
    peers = ("imaging", "decoding", "actuation")
