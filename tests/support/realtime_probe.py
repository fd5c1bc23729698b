"""A process that asks for real-time scheduling and prints, as JSON, what it got: python realtime_probe.py HOW.

limit N: as an ordinary user whose RLIMIT_RTPRIO is N. threads, busy, hang: as whoever starts it.
"""

import hashlib
import json
import logging
import os
import resource
import sys
import threading
import time
from pathlib import Path

from loop2p.runtime.bus import Bus
from loop2p.runtime.realtime import Realtime

PRIORITY = 10
NOBODY = 65534


def scheduling(thread_id: int) -> list[int]:
    """Policy without its flag, priority."""
    return [
        os.sched_getscheduler(thread_id) & ~os.SCHED_RESET_ON_FORK,
        os.sched_getparam(thread_id).sched_priority,
    ]


def sleeper(wake: threading.Event) -> int:
    thread = threading.Thread(target=wake.wait, daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


def named(begin: str, n: int) -> list[int]:
    """The threads of this process whose names begin so; waits until there are that many: a thread names itself."""
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        names = {int(tid): Path(f"/proc/self/task/{tid}/comm").read_text() for tid in os.listdir("/proc/self/task")}
        found = [tid for tid, name in names.items() if name.startswith(begin)]
        if len(found) >= n:
            return found
        time.sleep(0.01)
    return []


def main(how: str, *more: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    realtime = Realtime(PRIORITY, logging.getLogger("probe"))
    wake = threading.Event()
    said: dict[str, object] = {}
    if how == "limit":
        try:
            resource.setrlimit(resource.RLIMIT_RTPRIO, (int(more[0]), int(more[0])))
        except ValueError as error:
            print(json.dumps({"refused": str(error)}))
            return
        if os.getuid() == 0:
            os.setuid(NOBODY)
    before = sleeper(wake)
    realtime.ask()
    said["granted"] = realtime.granted
    if how == "threads":
        from loop2p.cli.benchmarks.rig import free_ports
        from loop2p.cli.benchmarks.transport.ours import spec

        bus = Bus("imaging", "probe", spec(free_ports(3)), realtime_priority=realtime.granted)
        realtime.share()
        after = sleeper(wake)
        zmq_threads = named("ZMQbg", 2)
        said["loop"], said["helper"], said["later"] = scheduling(0), scheduling(before), scheduling(after)
        said["zmq"] = [scheduling(tid) for tid in zmq_threads]
        child = os.fork()
        if child == 0:
            os._exit(os.sched_getscheduler(0))
        said["child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        bus.close()
    elif how == "busy":
        realtime.share()
        while realtime.granted:  # without a pause
            pass
        said["put back"] = [scheduling(0), scheduling(before)]
        time.sleep(0.001)
        realtime.renew()
        said["renewed"] = [scheduling(0), scheduling(before)]
    elif how == "hang":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # for many minutes in compiled code
    realtime.release()
    said["released"] = scheduling(0)
    wake.set()
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
