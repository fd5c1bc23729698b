"""The state file and the ledger: what a successor finds, wherever its predecessor was cut off."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loop2p.protocol import Calibration, Phase, Refused, RewardCommand, Selection, Session, Trial
from loop2p.task.journal import STATE_FILE, Entry, Journal, LedgerFile, StateError, read_state

SESSION = Session(run_id="r", rig="rig", task="task", rig_hash="h", simulated=True)
CALIBRATION = Calibration(
    minimum=0.0, threshold=1.0, mu=0, sigma=0.1, z_star=3, seed=0, first_frame=0, last_frame=1, n_values=1
)


def trial(n: int, edge: str, elapsed_s: float = 0.0) -> Trial:
    return Trial(trial=n, edge=edge, t_s=1.0, elapsed_s=elapsed_s)  # type: ignore[arg-type]


def reward(n: int, command_id: int) -> RewardCommand:
    return RewardCommand(id=command_id, target="a", expires_ns=0, volume_ul=4.0, trial=n)


ENTRIES: list[Entry] = [
    SESSION,
    Selection(plus=[0], minus=[1], seed=0),
    Phase(phase="baseline", day=1),
    CALIBRATION,
    Phase(phase="closed_loop", day=1),
    trial(0, "start"),
    trial(0, "hit", 3.0),
    reward(0, 1),
    trial(1, "start", 6.0),
    trial(1, "miss", 34.0),
    Phase(phase="paused", day=1),
    Phase(phase="closed_loop", day=1),
    trial(2, "start", 37.0),
    trial(2, "hit", 39.0),
]


def written(folder: Path, entries: list[Entry]) -> Path:
    journal = Journal(folder)
    for entry in entries:
        journal.write([entry])
    journal.close()
    return folder


def test_a_successor_finds_where_the_session_stood(tmp_path: Path):
    state = read_state(written(tmp_path, ENTRIES))
    assert state.session == SESSION
    assert state.calibration == CALIBRATION
    assert state.phase is not None
    assert state.phase.phase == "closed_loop"
    assert (state.last_trial, state.elapsed_s, state.given_ul, state.ended) == (2, 39.0, 4.0, False)
    assert state.open_trial == ENTRIES[-1]


@pytest.mark.parametrize(
    ("last", "is_open"),
    [(trial(3, "start"), True), (trial(2, "void"), False), (reward(2, 2), False), (reward(-1, 2), True)],
)
def test_a_trial_is_open_until_it_is_missed_void_or_rewarded(tmp_path: Path, last: Entry, is_open: bool):
    assert (read_state(written(tmp_path, [*ENTRIES, last])).open_trial is not None) is is_open


def test_a_command_counts_as_given_unless_it_was_refused(tmp_path: Path):
    more: list[Entry] = [reward(2, 2), reward(-1, 3), Refused(id=2, reason="limit")]
    assert read_state(written(tmp_path, [*ENTRIES, *more])).given_ul == 8.0


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 100_000), st.binary(max_size=20))
def test_cut_off_at_any_byte_it_reads_up_to_the_last_whole_line_and_goes_on(tmp_path: Path, cut: int, torn: bytes):
    path = tmp_path / STATE_FILE
    path.unlink(missing_ok=True)
    written(tmp_path, ENTRIES)
    data = path.read_bytes()
    cut %= len(data) + 1
    whole = data[:cut].count(b"\n")
    path.write_bytes(data[:cut] + torn.replace(b"\n", b""))
    if whole == 0:
        with pytest.raises(StateError, match="line 1: expected the session"):
            read_state(tmp_path)
        return
    before = read_state(tmp_path)
    written(tmp_path, [trial(9, "start", 77.0)])
    after = read_state(tmp_path)
    assert after.session == before.session == SESSION
    assert (after.last_trial, after.elapsed_s) == (9, 77.0)
    assert after.given_ul == before.given_ul == (4.0 if whole > 7 else 0.0)


def test_damage_before_the_last_line_is_told_with_its_place(tmp_path: Path):
    path = written(tmp_path, ENTRIES) / STATE_FILE
    lines = path.read_bytes().split(b"\n")
    lines[3] = b'{"type": "calibration"}'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(StateError, match=r"task-state.jsonl, line 4: .*minimum"):
        read_state(tmp_path)
    with pytest.raises(StateError, match="no such file"):
        read_state(tmp_path / "elsewhere")


def test_the_ledger_outlives_runs_and_ids_never_come_twice(tmp_path: Path):
    ledger = LedgerFile(tmp_path / "runs")
    assert ledger.reserve_ids(100) == 1
    ledger.ledger.open_run = "r1"
    ledger.save()
    again = LedgerFile(tmp_path / "runs")
    assert again.ledger.open_run == "r1"
    assert again.reserve_ids(100) == 101
    assert LedgerFile(tmp_path / "runs").reserve_ids(1) == 201


def test_a_damaged_ledger_says_what_to_do(tmp_path: Path):
    ledger = LedgerFile(tmp_path)
    ledger.path.write_bytes(b"{")
    with pytest.raises(StateError, match="restore it, or delete it and restart the controller"):
        LedgerFile(tmp_path)
