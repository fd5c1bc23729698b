"""The senders for microscope PCs, run by GNU Octave against the real receiver."""

import json
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import lacking
from numpy.typing import NDArray

from loop2p.imaging.frame import Frame
from loop2p.imaging.receiver import TcpOptions, TcpReceiver
from loop2p.protocol import Alarm, Microscope
from loop2p.runtime import RigClock

SENDERS = Path(__file__).parents[2] / "deploy" / "peers" / "senders"
HEIGHT, WIDTH = 48, 60
SCOPE = Microscope(height=HEIGHT, width=WIDTH, planes=2, rate_hz=100.0)
PATIENCE_S = 120.0

IMAGE = f"""
function image = frame (k)
  image = uint16 (reshape (mod ((0:{HEIGHT * WIDTH - 1}) * 7 + k * 11, 65536), {HEIGHT}, {WIDTH}));
end
"""


def image(k: int) -> NDArray[np.uint16]:
    """(HEIGHT, WIDTH): the same."""
    values = (np.arange(HEIGHT * WIDTH) * 7 + k * 11) % 65536
    return values.astype(np.uint16).reshape(WIDTH, HEIGHT).T


@pytest.fixture
def octave(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Runs a script; its processes are ended with the test."""
    program = shutil.which("octave-cli") or shutil.which("octave")
    if program is None:
        lacking("GNU Octave is not installed (Debian: octave)")
    started = []

    def run(script: str) -> "subprocess.Popen[str]":
        path = tmp_path / f"script{len(started)}.m"
        path.write_text(f"1;\naddpath ('{SENDERS}');\n{IMAGE}\n{script}\n")
        process = subprocess.Popen(
            [program, "--no-gui", "--quiet", "--no-init-file", str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=["sockets", "instrument-control"])
def package(request: pytest.FixtureRequest) -> str:
    program = shutil.which("octave-cli")
    if program is None:
        lacking("GNU Octave is not installed (Debian: octave)")
    name = str(request.param)
    found = subprocess.run(
        [program, "--no-gui", "--quiet", "--eval", f"pkg load {name}"], capture_output=True, check=False
    )
    if found.returncode:
        lacking(f"the Octave package {name} is not installed (Debian: octave-{name})")
    return name


def receiver(port: int = 0) -> TcpReceiver:
    return TcpReceiver(TcpOptions(image_port=port), SCOPE, RigClock())


def take(source: TcpReceiver, enough: Callable[[list[tuple[Frame, Any]], list[Alarm]], bool]) -> Any:
    """Frames (with their pixels) and alarms, as the runtime takes them in."""
    frames: list[tuple[Frame, Any]] = []
    alarms: list[Alarm] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not enough(frames, alarms):
        assert time.monotonic() < deadline_s, f"{len(frames)} frames: {source.counters()}"
        fd, due_ns = source.fileno(), source.due_ns()
        select.select([fd] if fd >= 0 else [], [], [], max(0.0, ((due_ns or 0) - time.perf_counter_ns()) / 1e9))
        for item in source.frames():
            if isinstance(item, Alarm):
                alarms.append(item)
            else:
                frames.append((item, item.pixels.copy()))
    return frames, alarms


def last_json(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, out
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


SEND = """
line = loop2p_send_frame ();
line.port = {port}; line.planes = 2; line.retry_s = 0.05; line.package = '{package}';
first = -1;
for k = 0:{most}
  line = loop2p_send_frame (line, frame (k), mod (k, 2));
  if exist ('{stop}', 'file') == 2, break; end
  pause (0.002);
end
line = loop2p_send_frame (line);
printf ('%s\\n', jsonencode (struct ('sent', line.sent, 'dropped', line.dropped, 'connections', line.connections)));
"""


def test_frames_arrive_whole_and_numbered(octave: Any, package: str, tmp_path: Path) -> None:
    source = receiver()
    try:
        port = source.bound_ports()[0]
        process = octave(SEND.format(port=port, package=package, most=299, stop=tmp_path / "never"))
        frames, alarms = take(source, lambda _, alarms: bool(alarms))
    finally:
        source.close()
    assert last_json(process) == {"sent": 300, "dropped": 0, "connections": 1}
    assert [frame.index for frame, _ in frames] == list(range(300))
    assert [frame.plane for frame, _ in frames] == [0, 1] * 150
    assert all(np.array_equal(pixels, image(k)) for k, (_, pixels) in enumerate(frames))
    assert [alarm.code for alarm in alarms] == ["microscope"]  # hung up, and no byte was over


def test_a_line_that_was_closed_is_made_anew(octave: Any, package: str, tmp_path: Path) -> None:
    """Imaging goes away in mid-stream and comes back at the same port; each connection begins with plane 0."""
    stop = tmp_path / "stop"
    first = receiver()
    port = first.bound_ports()[0]
    process = octave(SEND.format(port=port, package=package, most=1_000_000, stop=stop))
    before, _ = take(first, lambda frames, _: len(frames) >= 100)
    first.close()
    second = receiver(port)
    try:
        after, _ = take(second, lambda frames, _: len(frames) >= 100)
        stop.touch()
        take(second, lambda _, alarms: bool(alarms))
    finally:
        second.close()
    told = last_json(process)
    assert told["connections"] == 2
    assert told["dropped"] > 0
    assert all(np.array_equal(pixels, image(k)) for k, (_, pixels) in enumerate(before))
    pixels = after[0][1]
    k = next(k for k in range(len(before), 1_000_000) if np.array_equal(pixels, image(k)))
    assert k % 2 == 0
    assert [frame.plane for frame, _ in after[:100]] == [0, 1] * 50
    assert all(np.array_equal(pixels, image(k + j)) for j, (_, pixels) in enumerate(after))


def test_a_frame_left_out_never_swaps_the_planes(octave: Any, package: str) -> None:
    source = receiver()
    script = f"""
line = loop2p_send_frame ();
line.port = {source.bound_ports()[0]}; line.planes = 2; line.retry_s = 0; line.package = '{package}';
for k = [0 1 2 4 5 6 7]
  line = loop2p_send_frame (line, frame (k), mod (k, 2));
  pause (0.1);
end
loop2p_send_frame (line);
printf ('%s\\n', jsonencode (struct ('sent', line.sent, 'dropped', line.dropped, 'connections', line.connections)));
"""
    try:
        process = octave(script)
        frames, _ = take(source, lambda frames, alarms: len(frames) >= 7 and len(alarms) >= 2)
    finally:
        source.close()
    assert last_json(process) == {"sent": 7, "dropped": 0, "connections": 2}
    assert [frame.plane for frame, _ in frames] == [0, 1, 0, 0, 1, 0, 1]
    kept = [0, 1, 2, 4, 5, 6, 7]
    assert all(np.array_equal(pixels, image(k)) for k, (_, pixels) in zip(kept, frames, strict=True))


def test_the_scanimage_function_with_a_made_up_scanimage(octave: Any) -> None:
    """Its structure as ScanImage documents it; int16 pixels below 0 are lifted by the offset."""
    source = receiver()
    script = f"""
for k = 0:19
  shown = struct ('lastFrameNumber', k + 1, 'lastFrame', {{{{[], int16(frame (k)) - 100}}}});
  src = struct ('hSI', struct ('hDisplay', shown));
  loop2p_scanimage (src, struct ('EventName', 'frameAcquired'), '127.0.0.1', {source.bound_ports()[0]}, 2, 2, 100);
end
loop2p_scanimage (src, struct ('EventName', 'acqModeDone'), '127.0.0.1', 1, 2, 2, 100);
loop2p_scanimage ();
"""
    try:
        process = octave(script)
        frames, _ = take(source, lambda _, alarms: bool(alarms))
    finally:
        source.close()
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert "20 sent, 0 dropped, 1 connections" in out
    expected = [np.minimum(image(k), 32767) for k in range(20)]
    assert all(np.array_equal(pixels, one) for one, (_, pixels) in zip(expected, frames, strict=True))
    assert [frame.plane for frame, _ in frames] == [0, 1] * 10


def test_the_scanbox_function_names_the_file_it_misses(octave: Any, tmp_path: Path) -> None:
    process = octave(f"loop2p_scanbox ('127.0.0.1', 30000, 2, '{tmp_path / 'none.mmap'}');")
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "none.mmap: no such file, expected Scanbox's memory-mapped file" in out
