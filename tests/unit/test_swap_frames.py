"""A successor of imaging counts on from the last frame that task decided from; the index never begins anew."""

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from loop2p.imaging.frame import Frame
from loop2p.imaging.receiver import TcpOptions, TcpReceiver
from loop2p.protocol import Microscope
from loop2p.runtime import RigClock

MICROSCOPE = Microscope(height=16, width=16, planes=2, rate_hz=30.92)
PIXELS = np.zeros((16, 16), "<u2").tobytes()


@pytest.fixture
def receiver() -> Iterator[TcpReceiver]:
    made = TcpReceiver(TcpOptions(image_port=0), MICROSCOPE, RigClock())
    yield made
    made.close()


def frames(receiver: TcpReceiver, n: int) -> list[Frame]:
    """Send so many over a connection of their own and take them in."""
    found: list[Frame] = []
    with socket.create_connection(("127.0.0.1", receiver.bound_ports()[0])) as microscope:
        microscope.sendall(n * PIXELS)
        deadline = time.monotonic() + 20
        while len(found) < n:
            assert time.monotonic() < deadline
            found += [item for item in receiver.frames() if isinstance(item, Frame)]
    return found


def test_it_goes_on_by_the_time_that_has_passed(receiver: TcpReceiver) -> None:
    receiver.go_on(50_000, 0, 2.0)
    first, second = frames(receiver, 2)
    passed_s = (first.index - 50_000) / MICROSCOPE.rate_hz
    assert 1.9 < passed_s < 20
    assert (first.plane, second.plane) == (0, 1)
    assert first.index % 2 == 0  # each plane keeps its place in the volume
    assert second.index == first.index + 1
    assert first.time_s == pytest.approx(first.index / MICROSCOPE.rate_hz)


def test_without_a_predecessor_it_begins_at_0(receiver: TcpReceiver) -> None:
    assert [f.index for f in frames(receiver, 3)] == [0, 1, 2]


def test_once_frames_have_come_a_predecessor_is_no_news(receiver: TcpReceiver) -> None:
    frames(receiver, 2)
    receiver.go_on(50_000, 0, 2.0)
    assert frames(receiver, 1)[0].index < 50_000
