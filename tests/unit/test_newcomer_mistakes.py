"""What a newcomer does wrong: the command says place, found and expected, shows no traceback, and does not exit 0."""

import errno
import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from rigs import rig_text
from typer.testing import CliRunner, Result

from loop2p.cli import cohort, operate, records, run, swap
from loop2p.cli.progress import Progress
from loop2p.cli.status import NOTHING, show
from loop2p.protocol import PROTOCOL, ROLES, Envelope, Header, Message, Phase, RequestLog, parse_rig
from loop2p.runtime.launcher import RigLock

PNG = b"\x89PNG\r\n\x1a\n\x00\x00"


def said(*words: object) -> Result:
    """What `loop2p WORDS` says and how it ends; a traceback fails."""
    app = typer.Typer()
    for module in (run, operate, records, swap, cohort):
        module.register(app)
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These commands take the process's signals and its log for themselves: give both back."""
    for module in (operate, swap):
        monkeypatch.setattr(module, "log_to_stderr", lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rig(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Path:
    """A rig file that is right, of a rig that is not up."""
    path = tmp_path / "rig.toml"
    path.write_text(rig_text(free_ports(4 * len(ROLES)), str(tmp_path / "runs")), encoding="utf-8")
    return path


@pytest.fixture
def session(tmp_path: Path) -> Path:
    path = tmp_path / "task.toml"
    path.write_text("[selection]\nrois = [0, 1]\n", encoding="utf-8")
    return path


def test_a_folder_in_the_rig_files_place(tmp_path: Path, session: Path) -> None:
    for words in (("check", tmp_path), ("status", tmp_path), ("run", tmp_path, session)):
        result = said(*words)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith(f"{tmp_path}: ")
        assert "expected a rig file" in result.stderr


@pytest.mark.parametrize(
    ("content", "found"), [(None, "No such file"), (b"", "expected a"), (PNG, "not UTF-8 at byte 0")]
)
def test_a_task_or_animal_file_that_can_not_be_read(
    tmp_path: Path, rig: Path, session: Path, content: bytes | None, found: str
) -> None:
    bad = tmp_path / "bad.toml"
    if content == b"":
        bad.mkdir()
    elif content is not None:
        bad.write_bytes(content)
    for what, words in (("task", (bad,)), ("animal", (session, "--animal", bad))):
        result = said("run", rig, *words)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"{bad}: ")
        assert result.stderr.count(str(bad)) == 1
        assert found in result.stderr
        assert f"expected a {what} file (TOML)" in result.stderr


def test_a_mistake_in_the_task_file_is_told_before_anything_starts(tmp_path: Path, rig: Path, session: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[closed_loop]\nduration_s = 'long'\n", encoding="utf-8")
    other = tmp_path / "other.toml"
    other.write_text("[baseline]\nduration_s = 60.0\n", encoding="utf-8")
    for words, found in (((bad,), "line 2: closed_loop.duration_s"), ((session, "--animal", other), "a task file")):
        result = said("run", rig, *words)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"{words[-1]}")
        assert found in result.stderr
    bad.write_text("day = 2\n[selection]\nrois = [0, 1]\n", encoding="utf-8")
    result = said("run", rig, bad)
    assert result.exit_code == 2
    assert result.stderr.startswith("animal file: loop2p.z_star: none, but it is day 2")
    assert not (tmp_path / "runs").exists()


def test_a_rig_that_is_in_use_names_the_way_in_and_leaves_no_folder(tmp_path: Path, rig: Path, session: Path) -> None:
    with RigLock(parse_rig(rig.read_text(encoding="utf-8"), rig)):
        result = said("run", rig, session)
    assert result.exit_code == 1
    assert "in use by process" in result.stderr
    assert "--no-up" in result.stderr
    assert "phase" not in result.stderr, "a display of nothing hides the message"
    assert not (tmp_path / "runs").exists()


def test_a_data_folder_that_is_a_file(tmp_path: Path, rig: Path, session: Path) -> None:
    (tmp_path / "runs").write_text("", encoding="utf-8")
    for words in (("run", rig, session), ("up", rig)):
        result = said(*words)
        assert result.exit_code == 1
        assert str(tmp_path / "runs") in result.stderr


def test_a_run_that_is_none(tmp_path: Path) -> None:
    nwb, empty = tmp_path / "session.nwb", tmp_path / "empty"
    nwb.write_bytes(PNG)
    empty.mkdir()
    for place, found in ((nwb, "a file"), (empty, "no journal in this folder"), (tmp_path / "no", "no such folder")):
        for words in (("replay", place), ("replay", place, "--view"), ("export", place), ("trace", place, 3)):
            result = said(*words)
            assert result.exit_code == 2
            assert result.stderr == f"{place}: {found}, expected a run's folder, such as runs/latest\n"


def test_latest_may_be_a_file_with_the_runs_name(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("a-run\n", encoding="utf-8")
    assert said("replay", tmp_path / "latest").stderr.startswith(f"{tmp_path / 'a-run'}: no such folder")
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run" / "journal.mcap").write_bytes(b"")
    assert records.folder_of(tmp_path / "latest") == tmp_path / "a-run"


@pytest.mark.parametrize("content", [b"", PNG])
def test_a_journal_without_a_session(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal.mcap").write_bytes(content)
    for words in (("replay", tmp_path), ("replay", tmp_path, "--view")):
        result = said(*words)
        assert result.exit_code == 2, words
        assert result.stderr.splitlines()[-1].startswith(f"{tmp_path}: no rig.session in the journal"), words
    result = said("export", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{tmp_path}: no record can be read")
    assert [path.name for path in tmp_path.iterdir()] == ["journal.mcap"]


def test_files_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, quiet: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "make_files", full)
    monkeypatch.setattr(records, "see_records", lambda place: None)
    (tmp_path / "journal.mcap").write_bytes(b"")
    result = said("export", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{tmp_path}: summary, NWB and report can't be written: No space left on device")
    assert f"`loop2p export {tmp_path}`" in result.stderr


def test_recover_of_no_journal(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("hello", encoding="utf-8")
    for place in (tmp_path / "no.mcap", tmp_path, other):
        result = said("recover", place)
        assert result.exit_code == 2, place
        assert str(place) in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt"}


def test_swap_without_a_session_compares_nothing(rig: Path) -> None:
    result = said("swap", "decoding", rig, "--after", 1)
    assert result.exit_code == 1
    assert "task refuses: no answer" in result.stderr
    assert "compared" not in result.output


@pytest.mark.parametrize(
    ("option", "value"),
    [("mice", 0), ("days", 0), ("cells", 39), ("seed", -1), ("workers", -1), ("level", "trace"), ("task", "no.toml")],
)
def test_a_cohort_with_a_number_out_of_range_names_the_option(tmp_path: Path, option: str, value: object) -> None:
    result = said("cohort", "--out", tmp_path / "c", f"--{option}", value)
    assert result.exit_code == 2
    assert (f"--{option}" if option != "task" else "expected a task file") in result.stderr
    assert not (tmp_path / "c").exists()


# ---------------------------------------------------------------- what goes on beside a mistake


def take(progress: Progress, *messages: Message) -> None:
    for seq, message in enumerate(messages):
        header = Header(protocol=PROTOCOL, source="task", instance="task-1", seq=seq, sent_ns=0)
        progress.take(Envelope(message.topic, header, None, message=message))


def test_the_refused_start_of_another_does_not_end_ours() -> None:
    ours = Progress()
    reason = "run 2026-11-24T14-05-09-test is going on; stop it first"
    take(ours, Phase(phase="closed", day=1), RequestLog(kind="start", by="anna", accepted=False, reason=reason))
    assert ours.refused == ""
    assert "start refused" in ours.events[-1]


def test_a_start_that_task_gave_up_is_ours() -> None:
    ours = Progress()
    take(ours, RequestLog(kind="start", by="task", accepted=False, reason="imaging.not-ready: no microscope"))
    assert ours.refused == "imaging.not-ready: no microscope"


# ---------------------------------------------------------------- tables


def summary_of(bound: float | None) -> dict[str, Any]:
    shown = {"n": 3, "p50": 1.0, "p99": 2.0, "p999": 2.0, "max": 2.0, "bound": bound}
    none = dict.fromkeys(("p50", "p99", "p999", "max", "bound")) | {"n": 0}
    return {
        "latency_ms": {"shown": shown, "valve": none},
        "frames": {"received": 3, "processed": 3, "dropped": 0},
        "audit": {"complete": True, "topics": {}},
        "trials": 0, "hits": 0, "rewards": 0, "reward_ul": 0.0, "simulated": True,
    }  # fmt: skip


@pytest.mark.parametrize(("bound", "there"), [(0.0, False), (0.03, True), (None, True)])
def test_what_clocks_may_be_off_by_is_shown_where_there_are_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bound: float | None, there: bool
) -> None:
    run.print_summary(summary_of(bound), tmp_path)
    assert ("±" in capsys.readouterr().out) is there


def test_counts_of_a_long_session_fit_a_terminal_of_80_columns() -> None:
    row = NOTHING | {"host": "local", "state": "starting", "why": [], "realtime_asked": 0, "heartbeat_age_s": 0.05}
    row |= {"clock_bound_ms": 0.123, "queue_age_s": 0.012, "received": 654321, "published": 123456, "gaps": 0}
    text = io.StringIO()
    Console(file=text, width=80).print(show({"actuation": row | {"rejected": 0}}))
    assert "654321" in text.getvalue()
    assert "123456" in text.getvalue()
    assert "…" not in text.getvalue()
