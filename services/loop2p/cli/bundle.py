"""What a machine installs, made on the control PC: wheels, all of them, and a list with the hash of each.

So the machines of a rig need no way to a package index and no compiler. What is in the list follows from the extras of
the machine; versions come from requirements.lock, and whatever is fetched must have a hash that stands there.
"""

import hashlib
import io
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from loop2p.protocol import FileError

PACKED_AT_S = 1_580_601_600
"""The time of every packed file: that of hatchling's wheels, 2 February 2020."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Bundle(Struct, frozen=True):
    """One release for one set of extras."""

    release: str
    """version-hash: the same name has the same content."""
    requirements: Path
    """"name==version --hash=sha256:..." for each wheel."""
    wheels: Path
    """A tar file of them."""
    python: str = PYTHON
    machine: str = platform.machine()


class BundleError(RuntimeError):
    """Wheels can't be made."""


def own_wheel(checkout: Path, work: Path) -> Path:
    """The wheel of a checkout; the same tree gives the same bytes. Raises BundleError."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        _run(["hatchling", "build", "-t", "wheel", "-d", folder], "building the wheel", cwd=checkout)
        (built,) = Path(folder).glob("*.whl")
        return built.replace(work / built.name)


def wheel_version(wheel: Path) -> str:
    """From its metadata. Raises FileError for a file that is no wheel of loop2p."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [n for n in archive.namelist() if re.fullmatch(r"loop2p-[^/]+\.dist-info/METADATA", n)]
            text = archive.read(name).decode("utf-8")
        return re.findall(r"^Version: (\S+)$", text, re.MULTILINE)[0]  # type: ignore[no-any-return]
    except (OSError, ValueError, IndexError, KeyError, zipfile.BadZipFile) as error:
        raise FileError(f"{wheel}: no wheel of loop2p ({error}), expected what `hatchling build` makes") from None


def locked(lock: str) -> dict[str, dict[str, str]]:
    """requirements.lock as name -> version -> its lines, hashes and all."""
    found: dict[str, dict[str, str]] = {}
    for block in re.findall(r"^\S.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL):
        pin = re.match(r"([a-z0-9.-]+)==([^\s;\\]+)", block)
        if pin:
            found.setdefault(pin[1], {})[pin[2]] = block
    return found


def closure(wheel: Path, extras: Iterable[str], lock_path: Path) -> str:
    """The lines of the lock that a wheel with these extras needs on this kind of machine. Raises BundleError."""
    wanted = f"loop2p[{','.join(extras)}] @ {wheel.resolve().as_uri()}\n"
    tool = ["uv", "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--python-version", PYTHON]
    tool += ["--python", sys.executable, "--constraint", str(lock_path), "--no-emit-package", "loop2p"]
    told = _run(tool, f"resolving the extras {', '.join(extras) or 'none'}", text=wanted)
    lines = locked(lock_path.read_text(encoding="utf-8"))
    chosen = []
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^\s;\\]+)", told, re.MULTILINE):
        if version not in lines.get(name, {}):
            raise BundleError(
                f"{lock_path}: no {name}=={version}, which {wheel.name} needs: expected the lock of that "
                "version, as `make lock` writes it"
            )
        chosen.append(lines[name][version])
    return "".join(chosen)


def make_bundle(wheel: Path, extras: Sequence[str], lock_path: Path, work: Path) -> Bundle:
    """All wheels for a machine with these extras; kept in `work`, so that the second time is quick. Raises BundleError,
    FileError."""
    others = _wheels(closure(wheel, extras, lock_path), work / "wheels")
    files = sorted([*others.glob("*.whl"), wheel], key=lambda path: path.name.lower())
    lines = [f"{_pin(file)} --hash=sha256:{_sha256(file)}\n" for file in files]
    text = "".join(lines)
    release = f"{wheel_version(wheel)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    folder = work / "releases" / release
    bundle = Bundle(release, folder / "requirements.txt", folder / "wheels.tar")
    if not bundle.requirements.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(bundle.wheels, "w") as archive:
            for file in files:
                archive.add(file, file.name)
        bundle.requirements.write_text(text, encoding="utf-8")  # last: it says that the tar file is whole
    return bundle


class Entry(Struct, frozen=True):
    """A file or folder as it is to be on a machine."""

    content: bytes | None = None
    """None for a folder."""
    mode: int = 0o640
    owner: str = "root"
    group: str = "loop2p"


def pack(entries: dict[str, Entry], tar: Path) -> Path:
    """Name -> entry as a tar file, its owner's alone; the same entries give the same bytes."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    tar.unlink(missing_ok=True)
    tar.touch(mode=0o600)
    with tarfile.open(tar, "w") as archive:
        for name in sorted(entries):
            entry, told = entries[name], tarfile.TarInfo(name)
            told.type = tarfile.DIRTYPE if entry.content is None else tarfile.REGTYPE
            told.size = len(entry.content or b"")
            told.mode, told.uname, told.gname, told.mtime = entry.mode, entry.owner, entry.group, PACKED_AT_S
            archive.addfile(told, io.BytesIO(entry.content or b""))
    return tar


def _wheels(requirements: str, folder: Path) -> Path:
    """A folder with the wheels of these lines, fetched or built here."""
    done = folder / hashlib.sha256(f"{PYTHON} {platform.machine()}\n{requirements}".encode()).hexdigest()[:12]
    if done.is_dir():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        listed = Path(made) / "requirements.txt"
        listed.write_text(requirements, encoding="utf-8")
        tool = ["pip", "wheel", "--quiet", "--require-hashes", "--no-deps", "--disable-pip-version-check"]
        _run([*tool, "-r", str(listed), "-w", str(Path(made) / "wheels")], "fetching wheels")
        shutil.move(Path(made) / "wheels", done)
    return done


def _pin(wheel: Path) -> str:
    """name==version, from a wheel's file name."""
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-')}=={version}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _run(module: list[str], what: str, cwd: Path | None = None, text: str = "") -> str:
    """`python -m`; its standard output. Raises BundleError with the end of what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *module], input=text, capture_output=True, encoding="utf-8", errors="replace", cwd=cwd
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        if said.endswith(f"No module named {module[0]}"):
            raise BundleError(f"{what}: no {module[0]} here, expected the extra `deploy`: `make setup` installs it")
        raise BundleError(f"{what}: `python -m {' '.join(module[:3])}` ended with {done.returncode}:\n{said}")
    return done.stdout
