"""The documentation does what it says: code runs, TOML fits, commands and links exist, lists are whole."""

import ast
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from rigs import toml_value
from synthetic_session import make_session, write_journal

import loop2p.cli
from loop2p.cli.main import app
from loop2p.imaging.sources import KINDS
from loop2p.protocol import ROLES, Rig, convert, parse_rig, parse_toml
from loop2p.simulation import sender
from loop2p.task.animal import parse_animal
from loop2p.task.experiment import Experiment

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
READMES = sorted((ROOT / "services" / "loop2p").glob("*/README.md"))
PAGES = [*DOCS, *READMES, ROOT / "analysis" / "README.md", ROOT / "CHANGELOG.md", ROOT / "protocol" / "SPEC.md"]
SIMULATED = tomllib.loads((ROOT / "deploy" / "rigs" / "simulated.toml").read_text(encoding="utf-8"))


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(pages: list[Path], language: str) -> Iterator[Block]:
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if found[1] == language:
                yield Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2])


def pages_with(language: str) -> list[Path]:
    return sorted({block.page for block in blocks(DOCS, language)})


# ---------------------------------------------------------------- python


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished session in runs/latest."""
    from loop2p.cli.run import make_files

    folder = tmp_path_factory.mktemp("docs")
    made = make_session(seconds=40)
    make_files(write_journal(folder / "runs" / "latest", made.envelopes), quiet=True)
    return folder


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_python_of_a_page_runs(
    page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks of a page in one namespace, from top to bottom; test classes among them are run, too."""
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "contract"))
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks([page], "python"):
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
    for name, kind in list(names.items()):
        if name.startswith("Test"):
            tests = [getattr(kind(), attribute) for attribute in dir(kind) if attribute.startswith("test_")]
            assert tests
            for test in tests:
                test()
    assert capsys.readouterr().out or any(name.startswith("Test") for name in names), "an example that shows nothing"


def test_bytes_in_comments_are_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """actuator.md shows hex behind `print`."""
    found = 0
    for block in blocks([ROOT / "docs" / "how-to" / "actuator.md"], "python"):
        exec(block.text, {})
        printed = capsys.readouterr().out.splitlines()
        for shown in re.findall(r"#\s+([0-9a-f]{12,})$", block.text, re.MULTILINE):
            found += 1
            assert shown in printed
    assert found == 2


# ---------------------------------------------------------------- TOML


@pytest.mark.parametrize("block", list(blocks([*DOCS, *READMES], "toml")), ids=str)
def test_toml_is_right(block: Block) -> None:
    """A rig, a task or an animal file, or a piece of one that completes the simulated rig."""
    data = tomllib.loads(block.text)
    if set(data) <= {name for name in Rig.__struct_fields__}:
        check_rig(data, str(block))
    elif set(data) <= set(Experiment.__struct_fields__):
        parse_toml(block.text, Experiment, str(block))
    else:
        assert "loop2p" in data, f"{block}: neither rig, task nor animal file: {', '.join(data)}"
        parse_animal(block.text, str(block))


def check_rig(data: dict[str, Any], place: str) -> None:
    whole = set(data.get("services", {})) == set(ROLES)
    rig = convert(data if whole else completed(data), Rig, place)
    text = "\n".join(toml_tables(data if whole else completed(data)))
    rig_file = parse_rig(text, place)
    for name in data.get("services", {}):
        if rig.services[name].class_ or rig.services[name].external:
            continue
        module, _, kind = ROLES[name].partition(":")
        options = rig_file.options(name, getattr(importlib.import_module(module), kind).Options)
        if name == "imaging" and options.source["kind"] in KINDS:
            rest = {k: v for k, v in options.source.items() if k != "kind"}
            convert(rest, KINDS[options.source["kind"]].Options, place)
    for name in data.get("standins", {}):
        module, _, kind = rig.standins[name].run.partition(":")
        rig_file.side_options(name, getattr(importlib.import_module(module), kind).Options)


def completed(piece: dict[str, Any]) -> dict[str, Any]:
    """The simulated rig with a piece of another laid over it: options key by key, but never within an option."""
    rig = {key: dict(value) if isinstance(value, dict) else value for key, value in SIMULATED.items()}
    for key, value in piece.items():
        if key not in ("services", "standins"):
            rig[key] = value
            continue
        for name, spec in value.items():
            before = rig[key].get(name, {})
            rig[key][name] = before | spec | {"options": before.get("options", {}) | spec.get("options", {})}
    return rig


def toml_tables(rig: dict[str, Any]) -> Iterator[str]:
    """A rig as TOML text: values first, then tables."""
    yield from (f"{k} = {toml_value(v)}" for k, v in rig.items() if not isinstance(v, dict))
    for key in rig.keys() - {"services", "standins"}:
        if isinstance(rig[key], dict):
            yield f"[{key}]"
            yield from (f"{k} = {toml_value(v)}" for k, v in rig[key].items())
    for key in ("services", "standins"):
        for name, spec in rig.get(key, {}).items():
            yield f"[{key}.{name}]"
            yield from (f"{k} = {toml_value(v)}" for k, v in spec.items())


def test_a_mistake_in_a_piece_of_a_rig_is_seen() -> None:
    with pytest.raises(ValueError, match="unknown key"):
        check_rig(tomllib.loads("[services.task.options]\nstart_timeout = 3"), "page")
    source = tomllib.loads("[services.imaging.options.source]\nkind = 'file'\npath = 'a.h5'\nlisten = true")
    with pytest.raises(ValueError, match="unknown key"):
        check_rig(source, "page")


# ---------------------------------------------------------------- commands

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
PLAIN = {"ls", "cd", "git"}
"""Commands that are everybody's."""


@pytest.fixture(scope="session")
def command() -> Any:
    """The command `loop2p` as it parses its arguments, without running anything: what the modules of cli register."""
    for found in pkgutil.iter_modules(loop2p.cli.__path__):
        module = importlib.import_module(f"loop2p.cli.{found.name}")
        if hasattr(module, "register"):
            module.register(app)
        elif isinstance(getattr(module, "app", None), typer.Typer) and module.app is not app:
            app.add_typer(module.app, name=found.name)
    return typer.main.get_command(app)


def parse(command: Any, words: list[str], name: str) -> None:
    """Raises ValueError for an unknown command or option, or a missing argument."""
    commands = getattr(command, "commands", None)
    if commands is not None and not (words and words[0].startswith("-")):
        if not words or words[0] not in commands:
            raise ValueError(f"{name}: no command {words[:1]}, there are {', '.join(commands)}")
        parse(commands[words[0]], words[1:], f"{name} {words[0]}")
        return
    try:
        command.make_context(name, list(words))
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's usage errors have it
            raise
        raise ValueError(f"{name} {shlex.join(words)}: {error.format_message()}") from None


def check_line(line: str, command: Any) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z0-9_]+=.*", words[0]):
        words = words[1:]
    if not words:
        return
    first = Path(words[0]).name
    if first == "make":
        assert words[1:], f"{line}: no target"
        assert set(words[1:]) <= TARGETS, f"{line}: no such target"
    elif first == "loop2p":
        parse(command, words[1:], "loop2p")
    elif words[1:3] == ["-m", "loop2p.simulation.sender"]:
        program = typer.Typer()
        program.command()(sender.main)
        parse(typer.main.get_command(program), words[3:], "sender")
    elif words[1:3] == ["-m", "pytest"]:
        assert all((ROOT / w).exists() for w in words[3:] if not w.startswith("-")), f"{line}: no such file"
    elif first.startswith("python"):
        assert (ROOT / words[1]).exists(), f"{line}: no such file"
    else:
        assert first in PLAIN, f"{line}: unknown command"


@pytest.mark.parametrize("block", list(blocks([*DOCS, *READMES], "sh")), ids=str)
def test_every_command_line_is_one(block: Block, command: Any) -> None:
    for line in block.text.splitlines():
        check_line(line, command)


@pytest.mark.parametrize(
    "line",
    [
        "make nothing",
        "loop2p dance rig.toml",
        "loop2p run rig.toml task.toml --overide x",
        "loop2p trace runs/latest",
        "loop2p bench everything",
        ".venv/bin/python -m loop2p.simulation.sender m.h5 --speed 3",
        "rm -r runs",
    ],
)
def test_a_line_that_is_none_is_seen(line: str, command: Any) -> None:
    with pytest.raises((AssertionError, ValueError), match=r"no such|no command|unknown command|No such|Missing"):
        check_line(line, command)


def test_inline_commands_exist(command: Any) -> None:
    """`loop2p something` in running text names a command; `make something` a target."""
    for page in DOCS:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for name in re.findall(r"`loop2p ([a-z-]+)", text):
            assert name in command.commands, f"{page.name}: loop2p {name}"
        for name in re.findall(r"`make ([a-z-]+)`", text):
            assert name in TARGETS, f"{page.name}: make {name}"


# ---------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no {file}"
        assert file.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(file), f"{target}: {file.name} has no heading for it"


def test_every_page_is_reached_from_the_first() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                waiting.append((page.parent / target).resolve())
    assert {p.relative_to(ROOT) for p in [*DOCS, *READMES]} <= {p.relative_to(ROOT) for p in seen}


def test_paths_in_running_text_exist() -> None:
    """`services/...`, `tests/...` and the like in backticks are files of this repository."""
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:services|simulation|protocol|tests|deploy|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_names_in_running_text_can_be_imported() -> None:
    """`loop2p.module:name` in backticks."""
    found = 0
    for page in PAGES:
        for module, name in re.findall(r"`(loop2p\.[\w.]+):(\w+)`", page.read_text(encoding="utf-8")):
            found += 1
            assert hasattr(importlib.import_module(module), name), f"{page.name}: {module}:{name}"
    assert found > 60, "the page on methods alone has more"


# ---------------------------------------------------------------- the site


def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    site = ["-c", str(ROOT / "docs" / "site"), str(ROOT), str(tmp_path / "site")]
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "doctrees"), *site],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for page in ("docs/site/index", "docs/methods", "protocol/SPEC", "services/loop2p/task/README"):
        assert (tmp_path / "site" / f"{page}.html").exists()


# ---------------------------------------------------------------- lists

ALARMS = ROOT / "docs" / "how-to" / "alarms.md"


def section(page: Path, heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {heading}"
    return found[1]


def calls(folder: Path) -> Iterator[ast.Call]:
    for file in folder.glob("*.py"):
        yield from (n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call))


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def test_the_page_lists_every_alarm_and_no_other() -> None:
    in_source = set()
    for service in ROLES:
        for call in calls(ROOT / "services" / "loop2p" / service):
            codes = [k.value for k in call.keywords if k.arg == "code"] if name_of(call) == "Alarm" else []
            if name_of(call) in ("_alarm", "_trouble", "_raise") and call.args:
                codes.append(call.args[0])
            in_source |= {(service, c.value) for c in codes if isinstance(c, ast.Constant)}
    on_page = set(re.findall(r"^\| (\w+) \| `([\w-]+)` \|", section(ALARMS, "Alarms"), re.MULTILINE))
    assert on_page == in_source


def test_the_page_lists_every_start_condition_and_which_can_be_overridden() -> None:
    from loop2p.task.barrier import NEVER_OVERRIDDEN

    in_source = set()
    for call in calls(ROOT / "services" / "loop2p" / "task"):
        if name_of(call) == "Reason" and call.args:
            code = call.args[0]
            if isinstance(code, ast.JoinedStr):
                assert len(code.values) == 2
                assert isinstance(code.values[1], ast.Constant)
                in_source.add(f"NAME{code.values[1].value}")
            elif isinstance(code, ast.Constant):
                in_source.add(code.value)
    rows = re.findall(r"^\| `([\w.-]+)` \|.*\| (yes|no) \|$", section(ALARMS, "Refused starts"), re.MULTILINE)
    assert {code for code, _ in rows} == in_source
    for code, overridden in rows:
        assert (overridden == "no") == code.endswith(NEVER_OVERRIDDEN), code


def test_the_page_lists_every_request() -> None:
    source = (ROOT / "services" / "loop2p" / "task" / "service.py").read_text(encoding="utf-8")
    kinds = re.search(r'kinds = "([^"]+)"', source)
    assert kinds
    told = set(re.findall(r"`(\w+)`", section(ALARMS, "Refused requests")))
    assert set(kinds[1].split(", ")) - {"start", "lost", "status"} <= told


def test_safety_quotes_the_limits_that_hold() -> None:
    from loop2p.actuation.core import Limits
    from loop2p.simulation.controller_core import FirmwareLimits

    page = ROOT / "docs" / "safety.md"
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE))
    limits = Limits()
    assert {name: float(value) for name, value in rows.items()} == {
        n: getattr(limits, n) for n in Limits.__struct_fields__
    }
    firmware = FirmwareLimits()
    quoted = f"lease {firmware.lease_ms} ms,\nopening {firmware.max_open_ms} ms, {firmware.ration_open_ms / 1000:g} s"
    assert quoted in page.read_text(encoding="utf-8")


def test_decisions_are_listed_in_order() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\* \[(\d{4}) .*\]\((\d{4})-.*\.md\)$", (folder / "README.md").read_text(), re.MULTILINE)
    files = sorted(p.name[:4] for p in folder.glob("0*.md"))
    assert [a for a, _ in listed] == [b for _, b in listed] == files
    for page in folder.glob("0*.md"):
        text = page.read_text(encoding="utf-8")
        assert all(f"**{part}.**" in text for part in ("Context", "Options", "Choice", "Consequences")), page.name


def test_nothing_is_left_to_do() -> None:
    for page in [*DOCS, ROOT / "CHANGELOG.md"]:
        assert not re.search(r"\b(TODO|TBD|FIXME|XXX)\b", page.read_text(encoding="utf-8")), page.name
