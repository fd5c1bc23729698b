"""An arm of the experiment with all that was measured in its sessions: of it tests, figures and tables are made."""

import tomllib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from loop2p.analysis.network import Network
from loop2p.analysis.outcome import Outcomes
from loop2p.analysis.pairs import Pairs
from loop2p.analysis.sessions import SessionData, SessionError, find_sessions

ARM_NAMES = ("main", "led", "ndnf", "anaesthesia", "no-apical", "scalar", "permuted", "yoked", "swap")


class Arm(Struct, frozen=True):
    """Sessions by mouse and day; every list is in their order, or empty where it was not measured."""

    name: str
    sessions: list[SessionData]
    """With the events that the analysis goes by; `roi` is the row of the proximal ROI in both planes."""
    dff: list[SessionData] = []
    """The same events, measured on dF/F itself (A14); only where there was fluorescence."""
    pairs: list[Pairs] = []
    """Only where there was fluorescence."""
    like: list[NDArray[np.str_]] = []
    """(n_rois,) of each session: P0 that go with D are "plus", those against it "minus" (A16)."""
    network: Network | None = None
    """A7."""
    outcomes: Outcomes | None = None
    """A9 to A11, a row for each session."""

    @property
    def loops(self) -> list[SessionData]:
        """Sessions with a closed loop: all but passive ones."""
        return [session for session in self.sessions if session.loop_s]

    @property
    def alike(self) -> list[SessionData]:
        """Sessions with P0 that are like P+ and P- in the place of these (A16); none where it was not measured."""
        if not self.like:
            return []
        return [structs.replace(s, role=role) for s, role in zip(self.sessions, self.like, strict=True)]


def name_in_all_arms(mouse: str, arm: str) -> str:
    """Twins have one name by this: a simulated mouse is called after its arm and its number."""
    return mouse.replace(f"-{arm}", "")


def arms_in(folder: Path, otherwise: str = "main", results: Collection[Path] = ()) -> dict[str, list[Path]]:
    """Sessions by arm: folders named as arms are, or else all of the folder as one arm.

    Which one says the cohort.toml of a simulated cohort, or the folder's own name; else it is `otherwise`. Folders of
    `results` are no arms. Raises SessionError where there is no session, or `otherwise` is no arm.
    """
    if otherwise not in ARM_NAMES:
        raise SessionError(f"arm {otherwise!r}, expected one of {', '.join(ARM_NAMES)}")
    folders = _arm_folders(folder, results)
    if not folders:
        asked = folder / "cohort.toml"
        said = tomllib.loads(asked.read_text(encoding="utf-8")).get("arm") if asked.exists() else folder.name
        folders = {said if said in ARM_NAMES else otherwise: folder}
    found = {name: find_sessions(path) for name, path in folders.items()}
    for name, sessions in found.items():
        if not sessions:
            raise SessionError(f"{folders[name]}: no session, expected NWB files or suite2p session folders")
    return found


def sets_in(folder: Path, results: Collection[Path] = ()) -> dict[str, Path]:
    """Folders below a folder that hold arms, by their place in it: the whole experiment several times over.

    None where it has arms itself. Folders of `results` are neither sets nor arms.
    """
    if _arm_folders(folder, results):
        return {}
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []:
        if _only_results(path, results):
            continue
        if _arm_folders(path, results):
            found[path.name] = path
        else:  # deeper down, results of earlier runs have folders named as arms, but no sessions
            deeper = sets_in(path, results)
            found |= {f"{path.name}/{name}": inside for name, inside in deeper.items() if find_sessions(inside)}
    return found


def _arm_folders(folder: Path, results: Collection[Path]) -> dict[str, Path]:
    paths = {name: folder / name for name in ARM_NAMES if (folder / name).is_dir()}
    return {name: path for name, path in paths.items() if not _only_results(path, results)}


def _only_results(path: Path, results: Collection[Path]) -> bool:
    """A folder of results that holds sessions as well is searched as any other: no session may be lost."""
    return any(path.resolve() == place.resolve() for place in results) and not find_sessions(path)
