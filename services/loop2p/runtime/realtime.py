"""Real-time scheduling of a service: asked for, reported, never required; and why it can't freeze the machine.

Linux: SCHED_RR for the loop's thread and for ZeroMQ's, through whose hands every message goes. The service's other
Python threads (serial line, metrics, syncing) get the lowest real-time priority: they share the interpreter's lock with
the loop, so one of them that waits for a processor while it holds the lock would hold the loop up. Threads of numba,
BLAS and graphics drivers, and child processes, stay as they were: nothing is inherited (SCHED_RESET_ON_FORK).

Windows: the process's HIGH priority class, through psutil; never REALTIME, which goes before the system's own threads.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from types import FrameType

BUSY_S = 0.2
"""Whoever runs so long without a pause is put back into ordinary scheduling until its loop comes round (RLIMIT_RTTIME).
"""
HANG_S = 5.0
"""Whoever can't even be put back, for it does not return from compiled code, is killed by the kernel after so long."""
HELPERS = 1
"""Priority of the Python threads beside the loop: before every ordinary process, after every loop."""


class Realtime:
    """How a service's threads are scheduled."""

    def __init__(self, asked: int, log: logging.Logger) -> None:
        """`asked`: the rig file's realtime_priority, 0 for ordinary scheduling."""
        self.asked, self.log = asked, log
        self.granted = 0
        """Priority that the loop has now; 0: ordinary scheduling."""
        self.put_back = 0
        """How often it ran for BUSY_S without a pause."""
        self._allowed = False

    def ask(self) -> None:
        """For the calling thread, which must be the main one and the loop's. Says in the log what came of it."""
        if not self.asked:
            return
        refusal = self._take()
        if refusal:
            self.log.warning(
                "real-time priority %d was asked for and is not granted: %s. It goes on in ordinary scheduling; "
                "docs/how-to/realtime.md says how to allow it",
                self.asked,
                refusal,
            )
            return
        self._allowed, self.granted = True, self.asked
        self.log.info("real-time priority %d is granted", self.asked)

    def share(self) -> None:
        """Give the Python threads beside the loop their priority; to be called once they have started."""
        if sys.platform == "linux" and self._allowed:
            for thread in _others():
                _schedule(thread, os.SCHED_RR, HELPERS)

    def renew(self) -> None:
        """The loop has come round: what was put back gets its priority again."""
        if sys.platform == "linux" and self._allowed and not self.granted:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(self.asked))
                self.granted = self.asked
                self.share()

    def release(self) -> None:
        """Back to ordinary scheduling, for good: leaving may take long, and the interpreter's end knows no SIGXCPU."""
        if sys.platform == "linux" and self._allowed:
            self._put_back()
        self._allowed = False

    def _take(self) -> str:
        """Take the priority; why it can't be taken, "" if it was."""
        if sys.platform == "win32":
            return _high_class()
        if sys.platform != "linux":
            return f"{sys.platform} has no real-time class that a process may ask for"
        if threading.current_thread() is not threading.main_thread():
            return "the loop is not in the main thread"
        try:
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(self.asked))
        except OSError as error:
            return f"{error.strerror} (RLIMIT_RTPRIO is {_rtprio()})"
        signal.signal(signal.SIGXCPU, self._was_busy)
        _limit_time()
        return ""

    def _was_busy(self, _number: int, _frame: FrameType | None) -> None:
        """The kernel's word that a thread ran for BUSY_S without a pause."""
        self._put_back()
        _limit_time()
        self.put_back += 1
        if self.put_back & (self.put_back - 1) == 0:  # 1, 2, 4, 8, ...
            self.log.warning(
                "ran for %g s without a pause (%d so far): in ordinary scheduling until the loop comes round",
                BUSY_S,
                self.put_back,
            )

    def _put_back(self) -> None:
        if sys.platform == "linux":
            for thread in (threading.main_thread(), *_others()):
                _schedule(thread, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, 0)
        self.granted = 0


def _others() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


def _schedule(thread: threading.Thread, policy: int, priority: int) -> None:
    if sys.platform == "linux" and thread.native_id is not None:
        with contextlib.suppress(OSError):  # it has just ended
            os.sched_setscheduler(thread.native_id, policy, os.sched_param(priority))


def _limit_time() -> None:
    """Of real-time running without a pause. The kernel moves the soft limit on by 1 s when it has told of it."""
    if sys.platform == "linux":
        import resource

        soft, hard = int(BUSY_S * 1e6), int(HANG_S * 1e6)
        before = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        hard = hard if before == resource.RLIM_INFINITY else min(hard, before)
        resource.setrlimit(resource.RLIMIT_RTTIME, (min(soft, hard), hard))


def _rtprio() -> int:
    """The highest priority that an ordinary user may ask for."""
    import resource

    return resource.getrlimit(resource.RLIMIT_RTPRIO)[0] if sys.platform == "linux" else 0


def _high_class() -> str:
    try:
        import psutil
    except ImportError:
        return "psutil is not installed"
    try:
        psutil.Process().nice(psutil.HIGH_PRIORITY_CLASS)
    except (OSError, psutil.Error) as error:
        return str(error)
    return ""
