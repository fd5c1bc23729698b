"""A mouse that answers to what it sees and drinks. No clock, no socket: frames come in, fluorescence comes out.

It does not learn. Day-1 activity, calcium and movement follow docs/experiment.md (4.1) and a prototype; what it
answers with (arousal, licks, running) is only roughly that of a mouse and is no evidence about mice.
"""

import heapq
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import PROXIMAL
from loop2p.protocol.messages import Picture
from loop2p.simulation.mouse import COUNTS_PER_CM, REACTION_FRAMES
from loop2p.simulation.wander import Wander

TARGET_DEG = 90.0


class ResponsiveMouse:
    """Bursty cells under a common arousal that the screen moves; licks at the target and after a drop; runs in bouts.

    Of `n_cells` cells the first `n_chosen` (all, if there are fewer) are the active ones from which P+ and P- would be
    picked: 0.07 Hz on day 1, the others 0.03 Hz (docs/experiment.md). `rate_hz` is the rate of microscope frames, all
    planes. Every frame uses up the same number of random draws, so what is seen and drunk never shifts those to come.
    """

    BURST_S = 0.2  # calcium enters over 3 frames of a plane
    PLATEAU_S = 12 / 15.46  # the trunk's plateau; also the refractory time after an event
    SOMA_TAU_S, TRUNK_TAU_S = 0.45, 0.35
    AROUSAL = {"grating": 0.0, "grey": -0.2, "black": -0.5}  # log rate against a grating, reached within about 1 s
    LICK_HZ = {"idle": 0.05, "target": 3.0, "drinking": 10.0}  # before the pause of LICK_PAUSE_S after each
    LICK_PAUSE_S = 0.1
    DRINKING_S = 1.5

    def __init__(self, seed: int, n_cells: int, rate_hz: float, n_chosen: int = 10) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz {rate_hz}: expected frames per second, above 0")
        self.late = 0
        self.drunk_ul = 0.0
        self._rng = np.random.default_rng([seed, 3])
        self._dt_s = dt = 1 / rate_hz
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._next: int | None = None

        spread = np.where(np.arange(n_cells) < n_chosen, 0.3, 0.6)
        rate = np.where(np.arange(n_cells) < n_chosen, 0.07, 0.03)
        self._rate_hz = rate * np.exp(spread * self._rng.standard_normal(n_cells) - spread**2 / 2)
        self._slow = Wander(40.0, dt, float(self._rng.standard_normal()))
        self._fast = Wander(3.0, dt, float(self._rng.standard_normal()))
        self._speed = Wander(0.5, dt)

        self._burst_frames = max(1, round(self.BURST_S * rate_hz))
        self._plateau_frames = max(1, round(self.PLATEAU_S * rate_hz))
        self._keep = np.exp(-dt / np.array([[self.SOMA_TAU_S], [self.TRUNK_TAU_S]]))
        self._size = np.zeros((2, n_cells))  # calcium of the running event per frame, soma and trunk
        self._since = np.full(n_cells, self._plateau_frames)  # frames since the last event began
        self._calcium = np.zeros((2, n_cells))

        self._what: Picture = "grey"
        self._angle_deg: float | None = None
        self._arousal = self.AROUSAL["grey"]
        self._drinking_frames = 0
        self._lick_pause = 0
        self._licks = 0
        self._running = False
        self._way = 0.0
        self._wheel = 0

    def see(self, frame: int, what: Picture, angle_deg: float | None) -> None:
        """The screen has changed, because of this frame: acts REACTION_FRAMES later."""

        def act() -> None:
            self._what, self._angle_deg = what, angle_deg

        self._later(frame, act)

    def drink(self, frame: int, volume_ul: float) -> None:
        """The valve opened during this frame: acts REACTION_FRAMES later. A drop of 0 ul is none."""

        def act() -> None:
            self.drunk_ul += volume_ul
            self._drinking_frames = round(self.DRINKING_S / self._dt_s)

        if volume_ul > 0:
            self._later(frame, act)

    def light(self, frame: int, on: bool) -> None:
        """The LED means nothing to these cells."""

    def _later(self, frame: int, act: Callable[[], None]) -> None:
        due = frame + REACTION_FRAMES
        if self._next is not None and due < self._next:
            self.late += 1
        heapq.heappush(self._waiting, (due, self._order, act))
        self._order += 1

    def step(self, frame: int, plane: int) -> NDArray[np.float32]:
        """Live through the next frame. Returns 1 + dF/F of each cell in that plane, (n_cells,) float32.

        Plane 0 sees the soma's calcium (proximal trunk), any other the distal trunk's. Raises ValueError on a frame
        that is not the next one.
        """
        if self._next is not None and frame != self._next:
            raise ValueError(f"frame {frame}, expected {self._next}: each frame is stepped once, in order")
        self._next = frame + 1
        while self._waiting and self._waiting[0][0] <= frame:
            heapq.heappop(self._waiting)[2]()

        normal = self._rng.standard_normal(3)
        uniform = self._rng.random(2)
        self._live(normal[:2])
        self._run(float(normal[2]), float(uniform[0]))
        self._lick(float(uniform[1]))

        calcium = self._calcium[0 if plane == PROXIMAL else 1]
        # Neuropil inside the ROI: 0.3 x the mean of all somas, the same in both planes.
        return np.asarray(1 + calcium + 0.3 * self._calcium[0].mean(), np.float32)

    def licks(self) -> int:
        """Licks in the frame last stepped."""
        return self._licks

    def wheel(self) -> int:
        """Signed encoder counts in the frame last stepped."""
        return self._wheel

    def _live(self, normal: NDArray[np.float64]) -> None:
        """Arousal, events, calcium (without latents and learning)."""
        self._arousal += (self.AROUSAL[self._what] - self._arousal) * self._dt_s
        slow, fast = self._slow.step(float(normal[0])), self._fast.step(float(normal[1]))
        gain = math.exp(0.5 * slow - 0.125 + 0.3 * fast - 0.045 + self._arousal)

        chance = self._rng.random(self._since.size)
        burst, trunk = self._rng.standard_normal((2, self._since.size))
        ready = self._since >= self._plateau_frames
        begins = ready & (chance < -np.expm1(-self._rate_hz * gain * self._dt_s))
        self._since = np.where(begins, 0, self._since + 1)
        soma = 0.7 * np.exp(0.45 * burst - 0.101)
        dendrite = np.maximum(0.0, 0.3 * 0.7 + 0.7 * soma + 0.3 * 0.7 * trunk)
        self._size[0, begins] = soma[begins] / self._burst_frames
        self._size[1, begins] = dendrite[begins] / self._plateau_frames

        enters = np.stack([self._since < self._burst_frames, self._since < self._plateau_frames])
        self._calcium = self._calcium * self._keep + np.where(enters, self._size, 0.0)

    def _run(self, normal: float, uniform: float) -> None:
        """Bouts of about 5 s at about 12 cm/s, 15 s apart, whatever the screen shows (running does not change: A5)."""
        if uniform < self._dt_s / (5.0 if self._running else 15.0):
            self._running = not self._running
        wander = self._speed.step(normal)
        cm_s = max(0.0, 12.0 + 3.0 * wander) if self._running else 0.0
        self._way += cm_s * self._dt_s * COUNTS_PER_CM
        self._wheel = int(self._way)
        self._way -= self._wheel

    def _lick(self, uniform: float) -> None:
        target = self._what == "grating" and self._angle_deg is not None and abs(self._angle_deg - TARGET_DEG) < 0.5
        why = "drinking" if self._drinking_frames else "target" if target else "idle"
        self._licks = int(self._lick_pause == 0 and uniform < -math.expm1(-self.LICK_HZ[why] * self._dt_s))
        self._lick_pause = round(self.LICK_PAUSE_S / self._dt_s) if self._licks else max(0, self._lick_pause - 1)
        self._drinking_frames = max(0, self._drinking_frames - 1)
