"""Imaging: frames in by the microscope's own way, the mean fluorescence of each ROI out."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loop2p.cli.benchmarks.rig import free_ports
from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.toyrig import HEIGHT, WIDTH
from loop2p.cli.conformance.verdict import BrokenError, Clause, NotThereError
from loop2p.protocol import Heartbeat, Phase, Rois, Traces, from_f32, from_i32

SEED, N_ROIS, FRAMES = 5, 6, 60
TOLERANCE = 1e-3


class ImagingTest(RoleTest):
    """Frames are sent as Scanbox sends them: by TCP to LOOP2P_IMAGE_PORT, uint16, column-major, planes in turn."""

    hears = (("task", "rig.session"), ("task", "task.phase"))

    def options(self) -> dict[str, Any]:
        (self.port,) = free_ports(1)
        self.rng = np.random.default_rng(SEED)
        for plane in range(2):
            rois = []
            for k in range(N_ROIS):
                y, x = (int(v) for v in self.rng.integers(5, (HEIGHT - 15, WIDTH - 15)))
                rois.append({"id": k, "coordinates": [[y + a, x + b] for a in range(8) for b in range(8)]})
            (self.folder / f"rois{plane}.json").write_text(json.dumps(rois), encoding="utf-8")
        return {
            "source": {"kind": "tcp", "image_port": self.port},
            "rois": [{"plane": p, "path": f"rois{p}.json", "format": "neurofinder"} for p in range(2)],
            "registration": False,
        }

    def surroundings(self) -> dict[str, str]:
        return {"LOOP2P_IMAGE_PORT": str(self.port)}

    @contextmanager
    def around(self) -> Iterator[None]:
        self.microscope: socket.socket | None = None
        self.plane = 0
        try:
            yield
        finally:
            if self.microscope is not None:
                self.microscope.close()

    def begin(self) -> None:
        self.connect()
        super().begin()
        self.stage.publish("task", Phase(phase="closed_loop", day=1))
        self.images = [self.rng.poisson(80, (HEIGHT, WIDTH)).astype("<u2") for _ in range(4)]
        self.send(2)  # both planes have a picture

    def connect(self) -> None:
        if self.microscope is not None:
            self.microscope.close()
        self.plane = 0

        def connected() -> socket.socket | None:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1.0)
            except OSError:
                return None

        self.microscope = self.stage.wait(connected, f"a connection to its image port {self.port}", 20.0)

    def clauses(self) -> list[Clause]:
        return [
            Clause("its ROI sets are published as state", self.rois),
            Clause("each frame gives traces: its plane, a rising index and time, a value for each ROI", self.traces),
            Clause(f"the values are the means of the ROIs' pixels within {TOLERANCE:g} of them", self.values),
            Clause("it goes on when the microscope comes back", self.microscope_again),
            Clause("a session's start is taken note of", self.takes_session, optional=True),
        ]

    def rois(self) -> str:
        rois = self.stage.next(0, Rois, "imaging.rois")
        sizes = {p.plane: len(p.names) for p in rois.planes}
        if not sizes or (rois.height, rois.width) != (HEIGHT, WIDTH):
            raise BrokenError(f"{rois.height} x {rois.width} with ROIs {sizes}, expected {HEIGHT} x {WIDTH} and some")
        self.sizes = sizes
        return f"set {rois.set_id}: {sizes}"

    def traces(self) -> str:
        mark = self.stage.mark()
        self.sent = self.send(FRAMES)
        found = self.stage.since(mark, Traces)
        causes = [m.cause for m in found]
        if None in causes:
            raise BrokenError("traces without a cause, expected the frame's")
        frames = [c.frame for c in causes if c is not None]
        times_s = [c.time_s for c in causes if c is not None]
        planes = [c.plane for c in causes if c is not None]
        if len(found) != FRAMES or np.diff(frames).min() < 1 or np.diff(times_s).min() <= 0:
            raise BrokenError(f"{len(found)} traces for {FRAMES} frames, indices {frames[:5]}.., times {times_s[:3]}..")
        if planes != [m.plane for m in found] or set(np.diff(planes)) != {-1, 1}:
            raise BrokenError(f"planes {planes[:6]}.., expected both in turn")
        odd = [(m.plane, len(from_f32(m.f))) for m in found if len(from_f32(m.f)) != self.sizes.get(m.plane)]
        if odd:
            raise BrokenError(f"plane {odd[0][0]}: {odd[0][1]} values, expected {self.sizes}")
        self.found = found
        return f"{len(found)} of {FRAMES}"

    def values(self) -> str:
        if self.own_values:
            raise NotThereError("its extraction is its own, so only its form is judged")
        rois = self.stage.next(0, Rois, "imaging.rois")
        worst = 0.0
        for image, message in zip(self.sent, self.found, strict=True):
            plane = next(p for p in rois.planes if p.plane == message.plane)
            rows, cols, k = from_i32(plane.rows), from_i32(plane.cols), 0
            for n, f in zip(from_i32(plane.lengths), from_f32(message.f), strict=True):
                mean = float(image[rows[k : k + n], cols[k : k + n]].mean())
                worst, k = max(worst, abs(float(f) / mean - 1)), k + int(n)
        if worst > TOLERANCE:
            raise BrokenError(f"off by {worst:.3g} of the mean; an extraction of its own is tested with --own-values")
        return f"largest difference {worst:.2g} of the mean, seed {SEED}"

    def microscope_again(self) -> str:
        before = self.stage.since(0, Traces)[-1].cause
        self.connect()
        self.send(2)
        after = self.stage.since(0, Traces)[-1].cause
        if before is None or after is None or not (after.frame > before.frame and after.time_s > before.time_s):
            raise BrokenError(f"frame {after} behind {before}, expected index and time to rise")
        return f"frame {before.frame} at {before.time_s:.2f} s, then {after.frame} at {after.time_s:.2f} s"

    def takes_session(self) -> str:
        beat = self.stage.since(0, Heartbeat)[-1]
        if beat.run_id != self.stage.run_id:
            raise NotThereError(f"run_id {beat.run_id!r} in its heartbeats, the session is {self.stage.run_id!r}")
        return beat.run_id

    def works(self) -> None:
        self.send(1)

    def send(self, n: int) -> list[NDArray[Any]]:
        """Frames, each once the one before was answered; returns them as (height, width)."""
        assert self.microscope is not None
        sent = []
        for k in range(n):
            image, mark = self.images[k % len(self.images)], self.stage.mark()
            self.microscope.sendall(image.tobytes("F"))
            self.stage.next(mark, Traces, f"traces of frame {k} of {n}")
            sent.append(image)
            self.plane = 1 - self.plane
        return sent


