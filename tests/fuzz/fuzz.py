"""Coverage-guided fuzzing of one parser: python fuzz.py TARGET CORPUS -atheris_runs=N -seed=S

A parser may refuse with its own error and with no other. Prints the memory of the process after a fifth of the inputs
and at the end. Uses atheris (libFuzzer), which finds the branches by itself.
"""

import atexit
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import psutil

with atheris.instrument_imports(include=["loop2p", "cobs"]):
    from cobs import cobs

    from loop2p.actuation import link
    from loop2p.imaging.stream import HandshakeError, read_handshake
    from loop2p.protocol import MESSAGES, FileError, WireError, control, generate, open_parts, parse_rig
    from loop2p.task.experiment import make_plan

ROOT = Path(__file__).parents[2]
VECTORS = {name.removeprefix("vectors/"): data for name, data in generate.files().items() if name.endswith(".msgpack")}
TOPICS = sorted(MESSAGES)
HEADER = VECTORS["header.full.msgpack"]
TASK = (ROOT / "deploy" / "tasks" / "short.toml").read_text("utf-8")


def wire(data: bytes) -> None:
    """The first byte says which part is made up; the second the topic."""
    if len(data) < 2:
        return
    topic = TOPICS[data[1] % len(TOPICS)].encode()
    rest = data[2:]
    good = VECTORS[f"{topic.decode()}.full.msgpack"]
    parts = [[topic, HEADER, rest], [topic, rest, good], [rest, HEADER, good], [topic, HEADER, good, rest]][data[0] % 4]
    with suppress(WireError):
        _ = open_parts(parts).message


def requests(data: bytes) -> None:
    for decode in (control.decode_request, control.decode_reply):
        with suppress(WireError):
            decode(data)


def serial(data: bytes) -> None:
    """As bytes on the line, and, so that some get past the checksum, as the content of a packet that is framed well."""
    framed = cobs.encode(data + link.crc16(data).to_bytes(2, "little")) + b"\0"
    for kinds in (link.FROM_HOST, link.FROM_CONTROLLER):
        decoder = link.Decoder(kinds)
        decoder.feed(data)
        decoder.feed(b"\0" + framed)


def microscope(data: bytes) -> None:
    for first_plane in (0, 1):
        with suppress(HandshakeError):
            read_handshake(data, 2, first_plane)


def files(data: bytes) -> None:
    """Rig, task and animal files: what a person writes, and what the wire brings of it."""
    text = data.decode("utf-8", "replace")
    for parse in (parse_rig, make_plan, lambda animal: make_plan(TASK, animal)):
        with suppress(FileError):
            parse(text)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wire": wire, "requests": requests, "serial": serial, "microscope": microscope, "files": files
}  # fmt: skip


def corpus(target: str) -> list[bytes]:
    """Good inputs, from which bad ones are made."""
    if target == "wire":
        return [
            bytes([0, k]) + VECTORS[f"{topic}.{size}.msgpack"]
            for k, topic in enumerate(TOPICS)
            for size in ("minimal", "full")
        ] + [b"\1\0" + HEADER, b"\2\0imaging.traces", b"\3\0" + b"\0" * 16]
    if target == "requests":
        return [data for name, data in VECTORS.items() if name.startswith("control.")]
    if target == "serial":
        page = (ROOT / "docs" / "protocol-serial.md").read_text("utf-8")
        lines = [line.split("`")[-2] for line in page.splitlines() if line.startswith("| ") and line.endswith("00` |")]
        return [bytes.fromhex(line) for line in lines] + [cobs.decode(bytes.fromhex(line)[:-1])[:-2] for line in lines]
    if target == "microscope":
        return [(1000).to_bytes(4, "little") + b"\0\0\0\0\2\0\0\0", b""]
    return [path.read_bytes() for path in sorted((ROOT / "deploy").rglob("*.toml"))]


def main() -> None:
    target, folder = sys.argv[1:3]
    for k, good in enumerate(corpus(target)):
        Path(folder, f"{k:03}").write_bytes(good)
    runs = int(next(a.split("=")[1] for a in sys.argv if a.startswith("-atheris_runs=")))
    done, process = 0, psutil.Process()
    test = TARGETS[target]

    def one(data: bytes) -> None:
        nonlocal done
        test(data)
        done += 1
        if done == runs // 5:
            print(f"memory {process.memory_info().rss} after {done}", flush=True)

    atexit.register(lambda: print(f"memory {process.memory_info().rss} at the end of {done}", flush=True))
    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
