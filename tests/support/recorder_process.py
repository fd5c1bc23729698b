"""A recorder fed with a made-up session as fast as it takes it; says on standard output what is safe. To be killed.

python recorder_process.py RIG_FILE SEED
"""

import json
import logging
import sys
from pathlib import Path

from synthetic_session import make_session

from loop2p.protocol import read_rig
from loop2p.recording.service import Recording, RecordingOptions
from loop2p.runtime import Context, RigClock

SESSION = {"seconds": 40.0, "run_id": "run-1", "raw": True}
"""What is fed: the test makes the same and compares."""
TICK_EVERY = 7


def main() -> None:
    context = Context("recording", "recording-1", read_rig(Path(sys.argv[1])), RigClock(), logging.getLogger())
    recorder = Recording(RecordingOptions(), context)
    for k, (_, envelope) in enumerate(make_session(seed=int(sys.argv[2]), **SESSION).envelopes):
        list(recorder.receive(envelope))
        if k % TICK_EVERY == 0:
            list(recorder.tick())
        if k % 3 == 0:
            sys.stdout.write(json.dumps(recorder.flushed()) + "\n")
            sys.stdout.flush()
    sys.stdin.read()  # stay, so that only a kill ends it


if __name__ == "__main__":
    main()
