"""Write SPEC.md and the golden vectors, or check that the committed ones are what would be written.

python -m loop2p.protocol.generate           writes
python -m loop2p.protocol.generate --check   compares; shows what differs and exits with 1
"""

import argparse
import difflib
from pathlib import Path

from loop2p.protocol import spec, vectors

FOLDER = Path(__file__).parents[2]
"""The repository's protocol/ folder."""


def files() -> dict[str, bytes]:
    """Everything that is generated, by its path below protocol/."""
    return {"SPEC.md": spec.text().encode()} | {f"vectors/{name}": data for name, data in vectors.files().items()}


def differences(folder: Path) -> list[str]:
    """What in the folder is not as it would be generated, as lines to read; empty if nothing."""
    wanted = files()
    there = {f"vectors/{p.name}": p for p in (folder / "vectors").glob("*")} | {"SPEC.md": folder / "SPEC.md"}
    lines = [f"{name} is not generated any more" for name in sorted(there.keys() - wanted.keys())]
    for name, data in wanted.items():
        path = folder / name
        found = path.read_bytes() if path.exists() else b""
        if found == data:
            continue
        if not path.exists():
            lines.append(f"{name} is missing")
        elif path.suffix == ".msgpack":
            lines.append(f"{name} differs: {found.hex()} should be {data.hex()}")
        else:
            old, new = (text.decode(errors="replace").splitlines() for text in (found, data))
            lines += difflib.unified_diff(old, new, f"{name} as committed", f"{name} as generated", lineterm="")
    return lines


def write(folder: Path) -> None:
    """Write all files, and remove vectors that are not generated any more."""
    wanted = files()
    (folder / "vectors").mkdir(parents=True, exist_ok=True)
    for path in (folder / "vectors").glob("*"):
        if f"vectors/{path.name}" not in wanted:
            path.unlink()
    for name, data in wanted.items():
        (folder / name).write_bytes(data)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where SPEC.md and vectors/ are (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.folder)
        print(f"wrote {len(files())} files below {options.folder}")
        return 0
    lines = differences(options.folder)
    if lines:
        print("\n".join([*lines, "run: python -m loop2p.protocol.generate"]))
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
