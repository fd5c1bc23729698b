"""A recorded session on the operator's page (`loop2p replay RUN --view`)."""

import threading
from pathlib import Path

from loop2p.cli.main import fail, out
from loop2p.protocol import FileError, Session, parse_rig
from loop2p.recording.journal import read_journal
from loop2p.runtime.process import stop_on_signals


def view_run(folder: Path, port: int) -> None:
    """Show it until Ctrl-C. Fails without a session in the journal, or where the port is taken."""
    try:
        from loop2p.console.player import Player
        from loop2p.console.viewer import Viewer
    except ImportError as error:
        fail(f"{error}: expected the package extra `console`")

    records = [(record.log_ns, record) for record in read_journal(folder)]
    session = next((r.message for _, r in records if isinstance(r.message, Session)), None)
    if session is None:
        fail(f"{folder}: no rig.session in the journal, so there is nothing to show")
    try:
        rig = parse_rig(session.rig, f"{folder}: rig file in the journal").rig
        budget_ms = rig.services["task"].options.get("decision_budget_ms", 1e3 / rig.microscope.rate_hz)
        viewer = Viewer(Player(rig, float(budget_ms), records), str(folder), port)
    except (FileError, OSError, ValueError) as error:
        fail(str(error))
    del records
    out.print(f"http://127.0.0.1:{viewer.port}/ shows {folder}; Ctrl-C ends it", markup=False, soft_wrap=True)
    stop = threading.Event()
    restore = stop_on_signals(stop.set, False)
    try:
        viewer.run(stop)
    finally:
        restore()
