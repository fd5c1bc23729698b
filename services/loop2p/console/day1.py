"""Day 1 from the page: which ROIs are there, and the draw of P+ and P-. Both are the commands `loop2p candidates` and
`loop2p draw`, run on this machine: an operator at the page and one at a terminal get the same answers."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from loop2p.console.asks import Name
from loop2p.protocol import RigFile
from loop2p.runtime.atomic import write_atomically

RUNS = 20
"""The newest that are offered."""
TAKES_S = 300.0
"""A command that takes longer has stalled."""
DRAWN = "drawn.toml"
"""In the run folder: the task file that the draw made."""
_DRAW = re.compile(r"P\+ \[.*")


class Look(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /candidates, JSON."""

    run: Annotated[str, Meta(max_length=200)]


class Draw(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /draw, JSON."""

    run: Annotated[str, Meta(max_length=200)]
    session: Annotated[str, Meta(max_length=100)]
    """Whose task file the ROIs go into."""
    rois: Annotated[list[Annotated[int, Meta(ge=0, le=100_000)]], Meta(min_length=1, max_length=200)]
    by: Name
    """Who confirms them."""


class Candidate(Struct, frozen=True):
    """As `loop2p candidates --json` prints it."""

    roi: int
    rate_hz: float
    snr: float
    drift: float | None
    """None: infinite."""


class Candidates(Struct, frozen=True):
    run: str
    rows: list[Candidate]
    """The best first."""
    note: str
    """What the command says beside."""


class Drawn(Struct, frozen=True):
    run: str
    session: str
    path: str
    """The task file."""
    words: str
    """P+, P-, seed and who confirmed them."""


class Day1Error(Exception):
    """Why a command did not do what was asked, in its own words."""


def read(body: bytes, kind: type[Any]) -> Any:
    """Raises Day1Error."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Day1Error(f"malformed request: {str(error)[:300]}") from None


def runs(data: Path) -> list[str]:
    """Names of the newest runs of this machine, the newest first."""
    found = {path.parent for path in data.glob("*/journal*.mcap") if not path.parent.is_symlink()}
    return [folder.name for folder in sorted(found, key=lambda f: f.name, reverse=True)[:RUNS]]


class Day1:
    """One command at a time."""

    def __init__(self, rig_file: RigFile) -> None:
        self._data = Path(rig_file.rig.data.folder)
        self._one = asyncio.Lock()

    def runs(self) -> list[str]:
        return runs(self._data)

    async def candidates(self, look: Look) -> Candidates:
        """Rank the ROIs of a run. Raises Day1Error."""
        out, said = await self._command("candidates", str(self._folder(look.run)), "--json")
        rows = json.loads(out, parse_constant=lambda _: None)  # a drift may be infinite
        return Candidates(look.run, msgspec.convert(rows, list[Candidate]), said)

    async def draw(self, draw: Draw, task: Path) -> Drawn:
        """Split the confirmed ROIs at random; the new task file goes into the run folder. Raises Day1Error, OSError."""
        folder = self._folder(draw.run)
        rois = ",".join(map(str, draw.rois))
        out, said = await self._command("draw", str(folder), str(task), f"--rois={rois}", f"--by={draw.by}")
        path = folder / DRAWN
        write_atomically(path, out)
        found = _DRAW.search(said)
        return Drawn(draw.run, f"day 1 of {draw.run}", str(path), found[0] if found else said)

    def _folder(self, run: str) -> Path:
        if run not in self.runs():
            raise Day1Error(f"no run {run[:100]!r} with a journal in {self._data} on this machine")
        return self._data / run

    async def _command(self, *words: str) -> tuple[str, str]:
        """(standard output, what it says beside it)."""
        if self._one.locked():
            raise Day1Error("another command of day 1 is at work: wait until it is done")
        async with self._one:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "loop2p.cli.main", *words,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                out, said = await asyncio.wait_for(process.communicate(), TAKES_S)
            except (TimeoutError, asyncio.CancelledError):
                process.kill()
                await process.wait()
                raise Day1Error(f"`loop2p {words[0]}` was not done within {TAKES_S:g} s") from None
        text, beside = out.decode("utf-8", "replace"), said.decode("utf-8", "replace").strip()
        if process.returncode:
            raise Day1Error(beside[-2000:] or f"`loop2p {words[0]}` ended with {process.returncode}")
        return text, beside
