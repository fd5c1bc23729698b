"""The sender of the benchmarks, a process of its own: frames encoded beforehand, so that sending is all it does.

python -m loop2p.cli.benchmarks.stream IMAGE_PORT RATE_HZ SEED (rate 0: flat out), until it is ended.
"""

import contextlib
import sys

import numpy as np

from loop2p.cli.benchmarks.rig import HEIGHT, WIDTH
from loop2p.simulation.sender import Sender, deadlines, encode

FRAMES = 32


def frames(seed: int) -> list[bytes]:
    """512 x 796 uint16, column-major: structure, shot noise and +-3 px of motion."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((HEIGHT // 8, (WIDTH + 7) // 8)) ** 4
    scene = 20 + 400 * np.kron(coarse, np.ones((8, 8)))[:HEIGHT, :WIDTH]
    shifts = rng.integers(-3, 4, (FRAMES, 2))
    images = (rng.poisson(np.roll(scene, shift, axis=(0, 1))).astype("<u2") for shift in shifts)
    return [bytes(encode(image, "u2", "column", False)) for image in images]


def main(port: int, rate_hz: float, seed: int) -> None:
    data = frames(seed)
    sender = Sender("127.0.0.1", port)
    sender.open(60.0)
    with contextlib.suppress(OSError, KeyboardInterrupt):  # imaging has left, or we are to
        for k, _late_s in enumerate(deadlines(rate_hz)):
            sender.send(data[k % FRAMES])
    sender.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
