"""The mouse that learns. No clock, no socket: what it sees and drinks goes in, fluorescence, licks and steps come out.

The model is in cortex.py; docs/simulated-mouse.md says where it comes from, what it reproduces and what it can't prove.
The mouse knows the screen, the drop and its own cells, never which of them drive the decoder.
"""

import heapq
import math
from collections.abc import Callable
from typing import Literal, Protocol, Self

import numpy as np
from msgspec import Struct, convert
from numpy.typing import NDArray

from loop2p.protocol import PROXIMAL
from loop2p.protocol.messages import Picture
from loop2p.simulation import cortex
from loop2p.simulation.cortex import NOTHING, Condition, Physiology

REACTION_FRAMES = 4
"""What frame k causes on screen or at the spout acts in frame k + 4 (129 ms), whenever in between it got there.

So two runs are equal as long as nothing took longer; what did is counted in `late`."""

COUNTS_PER_CM = 2500 / (math.pi * 19.0)
"""Wheel: 2500 counts a turn (docs/experiment.md 1); 19 cm taken as its diameter, as is likely there."""

TARGET_DEG = 90.0
BLOCK = 512
"""Proximal frames for which random numbers are drawn at once."""
MOST_EVENTS = 100_000
"""Room for a day's events: 300 cells at 0.03 Hz have 30,000 in 55 min."""


class Mouse(Protocol):
    """What the stand-in microscope, or a run without processes, asks of a mouse. Same inputs, same answers."""

    late: int
    """Pictures and drops that came too late to act REACTION_FRAMES after their cause."""

    def see(self, frame: int, what: Picture, angle_deg: float | None) -> None:
        """The screen has changed, because of this frame."""
        ...

    def drink(self, frame: int, volume_ul: float) -> None:
        """The valve opened during this frame and gave this much."""
        ...

    def light(self, frame: int, on: bool) -> None:
        """The LED was armed or disarmed, because of this frame."""
        ...

    def step(self, frame: int, plane: int) -> NDArray[np.float32]:
        """Live through the next frame. Returns fluorescence of each cell in that plane, 1 + dF/F, (n_cells,)."""
        ...

    def licks(self) -> int:
        """Licks in the frame last stepped."""
        ...

    def wheel(self) -> int:
        """Signed encoder counts in the frame last stepped."""
        ...


Control = Literal["none", "no-apical", "scalar", "permuted"]
"""What is done to the role of the apical signal: nothing; it is 0; it is the same in all cells; it is learned, but acts
swapped between half of P+ and half of P-; of five between two and three, day by day in turn."""
SCALAR_ROLE = 0.7
"""In every cell (prototype)."""


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Licks and running, imposed: no evidence about mice."""

    lick_idle_hz: float = 0.05
    lick_target_hz: float = 3.0
    """At the target in the task once it is known to mean a drop; falls with the square of the angle."""
    lick_drinking_hz: float = 8.0
    drinking_s: float = 1.5
    target_learned_per_drop: float = 0.001
    """How much of what is left to learn about the target a drop teaches."""
    run_cm_s: float = 12.0
    run_bout_s: float = 5.0
    run_pause_s: float = 15.0
    """Mean lengths, whatever the screen shows and the day is (running does not change: A5)."""


class Events(Struct, frozen=True):
    """A day's events that are over, in the order in which they were decided; all (n_events,)."""

    cell: NDArray[np.int32]
    frame: NDArray[np.int64]
    """Microscope frame, all planes counted, in which the soma's burst begins."""
    t_s: NDArray[np.float64]
    """Its frame time."""
    soma: NDArray[np.float64]
    """Somatic size, dF/F."""
    dendrite_t_s: NDArray[np.float64]
    """Frame time at which the dendrite's plateau begins."""
    dendrite: NDArray[np.float64]
    """Dendritic size, dF/F; 0 where nothing came into the distal trunk."""


class LearningMouse:
    """Neurons with a soma and an apical trunk each, which learn from the screen; licks and runs.

    Lives on proximal frames: `step` of another plane gives that plane's picture of the same moment. A day begins with
    `begin_day` (the first by itself) and ends with `sleep`. Every frame uses up the same random numbers, so what is
    seen and drunk never shifts those to come. `noise=False` where a microscope adds its own. `keep_calcium` keeps a
    day's traces for `fluorescence`, 8 bytes a cell and frame.
    """

    def __init__(
        self,
        seed: int,
        n_cells: int = 300,
        rate_hz: float = 30.92,
        *,
        planes: int = 2,
        control: Control = "none",
        lit: dict[str, float] | Condition = NOTHING,
        physiology: dict[str, float] | Physiology | None = None,
        noise: bool = True,
        keep_calcium: bool = False,
        luck: int = 0,
    ) -> None:
        """`rate_hz`: of all planes' frames; `lit`: what the LED does to the cells, while it is on. `luck`: with another
        number the same cells live through other days: else a mouse that sees what its twin saw repeats its every burst.
        """
        if not (rate_hz > 0 and n_cells > 0 and planes > 0):
            raise ValueError(f"rate_hz {rate_hz}, n_cells {n_cells}, planes {planes}: expected all above 0")
        self.seed, self.n_cells, self.rate_hz, self.planes = seed, n_cells, rate_hz, planes
        self._luck = [luck] if luck else []
        self.control: Control = control
        self.physiology = physiology if isinstance(physiology, Physiology) else convert(physiology or {}, Physiology)
        self.lit = lit if isinstance(lit, Condition) else convert(lit, Condition)
        self.body = Body()
        self.memory = cortex.born(self.physiology, n_cells, np.random.default_rng([seed, 0]))
        self.target_value = 0.0
        """How surely the target means a drop, 0 to 1."""
        self.permute: tuple[list[int], list[int]] = ([], [])
        """P+ and P-, for the control "permuted" alone: the experimenter knows them, the mouse does not use them."""
        self.late = 0
        self._noise, self._keep = noise, keep_calcium
        self._silence = np.zeros(n_cells, np.float32)
        self._dt_s = planes / rate_hz
        self._constants = cortex.constants(self.physiology, self._dt_s)
        self._engaged_frames = int(self._constants["engaged_frames"][0])
        self._tuning = {a: cortex.tuning_factors(self.physiology, self.memory, a) for a in (None, *range(0, 180, 15))}
        self.begin_day(1)

    # ------------------------------------------------------------ days

    def begin_day(self, day: int) -> None:
        """A rested mouse before a grey screen, LED off; frames may count from any number."""
        self.day = day
        p, n, seed = self.physiology, self.n_cells, [self.seed, day, *self._luck]
        self._now, self._cells, self._latents = cortex.morning(p, n, np.random.default_rng([*seed, 1]))
        self._soma, self._dendrite = self._cells["soma"], self._cells["dendrite"]  # views: no look-up in every frame
        self._since_blank = self._now["since_blank"]
        self._random, self._body_random = np.random.default_rng([*seed, 2]), np.random.default_rng([*seed, 3])
        self._role = self._acting_role()
        self._what: Picture = "grey"
        self._angle_deg = 0.0
        self._factors = self._tuning[None]
        self.condition = NOTHING
        self._events = np.zeros(MOST_EVENTS, cortex.EVENT)
        self._n_events = 0
        self._n = 0  # proximal frames lived through today
        self._first: int | None = None
        self._next: int | None = None
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._tasted = False
        self._drinking = self._lick_pause = self._licks = self._wheel = 0
        self._running, self._way = False, 0.0
        self._gain_sum, self._task_frames = 0.0, 0
        self._calcium: list[NDArray[np.float32]] = []
        self._noises: dict[int, tuple[int, NDArray[np.float32]]] = {}

    def sleep(self) -> None:
        """Overnight: what the day taught stays."""
        gain = self._gain_sum / self._task_frames if self._task_frames else 1.0
        cortex.sleep(self.memory, self._cells, self.physiology, gain)

    def state(self) -> dict[str, NDArray[np.void] | NDArray[np.float64]]:
        """What outlives the night, for `restore`."""
        return {"memory": self.memory.copy(), "target_value": np.array([self.target_value])}

    def restore(self, state: dict[str, NDArray[np.void] | NDArray[np.float64]]) -> Self:
        """Stand where another mouse of the same seed stood in the morning. Raises ValueError for another kind."""
        memory = np.asarray(state["memory"])
        own = self.memory
        if memory.dtype != own.dtype or memory.shape != own.shape:
            raise ValueError(f"memory of {memory.shape} {memory.dtype}, expected {own.shape} {own.dtype}")
        self.memory[:] = memory
        self.target_value = float(state["target_value"][0])
        self.begin_day(self.day)
        return self

    def _acting_role(self) -> NDArray[np.float64]:
        role: NDArray[np.float64] = self.memory["role"].copy()
        if self.control == "no-apical":
            role[:] = 0.0
        elif self.control == "scalar":
            role[:] = SCALAR_ROLE
        elif self.control == "permuted":
            odd_day = self.day % 2  # of an odd number always the smaller half would leave a part of the vector
            plus, minus = ([int(c) for c in group[: (len(group) + odd_day) // 2]] for group in self.permute)
            role[plus], role[minus] = self.memory["role"][minus], self.memory["role"][plus]
        return role

    # ------------------------------------------------------------ what reaches it

    @property
    def condition(self) -> Condition:
        """What is being done to the animal: LED, anaesthesia."""
        return self._state

    @condition.setter
    def condition(self, condition: Condition) -> None:
        self._state = condition
        for name in condition.__struct_fields__:
            self._now[name] = getattr(condition, name)

    def see(self, frame: int, what: Picture, angle_deg: float | None) -> None:
        """The screen has changed, because of this frame: acts REACTION_FRAMES later."""

        def act() -> None:
            self._what, self._angle_deg = what, angle_deg or 0.0
            self._now["blank"] = angle_deg is None
            self._now["shown_deg"] = angle_deg or 0.0
            self._factors = self._tuning[None if angle_deg is None else round(angle_deg / 15) * 15 % 180]

        self._later(frame, act)

    def drink(self, frame: int, volume_ul: float) -> None:
        """The valve opened during this frame: acts REACTION_FRAMES later. A drop of 0 ul is none."""

        def act() -> None:
            self._tasted = True
            self._now["drop"] = True
            self._drinking = round(self.body.drinking_s / self._dt_s)
            self.target_value += self.body.target_learned_per_drop * (1 - self.target_value)

        if volume_ul > 0:
            self._later(frame, act)

    def light(self, frame: int, on: bool) -> None:
        """The LED was armed or disarmed, because of this frame: acts REACTION_FRAMES later."""

        def act() -> None:
            self.condition = self.lit if on else NOTHING

        self._later(frame, act)

    def _later(self, frame: int, act: Callable[[], None]) -> None:
        due = frame + REACTION_FRAMES
        if self._next is not None and due < self._next:
            self.late += 1
        heapq.heappush(self._waiting, (due, self._order, act))
        self._order += 1

    # ------------------------------------------------------------ frames

    def step(self, frame: int, plane: int) -> NDArray[np.float32]:
        """Live through the next frame; (n_cells,) float32, 1 + dF/F in that plane.

        Raises ValueError on a frame that is not the next one (of a run that leaves the other planes out: the next
        proximal one).
        """
        proximal = plane == PROXIMAL
        if self._next is not None and frame != self._next and not (proximal and frame == self._next + self.planes - 1):
            raise ValueError(f"frame {frame} of plane {plane}, expected {self._next}: each is stepped once, in order")
        if self._first is None:
            self._first = frame if proximal else frame + self.planes - plane
        self._next = frame + 1
        if proximal:
            self._live(frame)
        else:
            self._licks = self._wheel = 0
        seen = np.empty(self.n_cells, np.float32)
        noise = self._noise_of(plane, self._n - 1)
        cortex.shine(self._soma if proximal else self._dendrite, self._soma, self.physiology.neuropil, noise, seen)
        return seen

    def _live(self, frame: int) -> None:
        while self._waiting and self._waiting[0][0] <= frame:
            heapq.heappop(self._waiting)[2]()
        row = self._n % BLOCK
        if row == 0:
            self._draw()
        self._n_events = cortex.live(
            self._constants, self._now, self._factors, self._role, self.memory, self._cells, self._latents,
            self._weather, self._starts, self._chances, row, self._events, self._n_events, self._n,
        )  # fmt: skip
        self._n += 1
        if self._tasted:
            self._tasted = False
            self._now["drop"] = False
        in_task = bool(self._since_blank[0] < self._engaged_frames)
        if in_task:
            self._gain_sum += self._state.apical_gain
            self._task_frames += 1
        self._move(self._body_numbers[row], in_task)
        if self._keep:
            self._calcium.append(np.stack([self._soma, self._dendrite]).astype(np.float32))

    def _draw(self) -> None:
        """Random numbers for the next block of frames."""
        n, rng = self.n_cells, self._random
        self._weather = rng.standard_normal((BLOCK, 2 + self.physiology.latents))
        self._starts = rng.standard_normal((BLOCK, cortex.MOST_STARTS, cortex.DRAWS_PER_START))
        self._chances = rng.random((BLOCK, n), np.float32)
        self._body_numbers = self._body_random.random((BLOCK, 3)).tolist()

    def _noise_of(self, plane: int, n: int) -> NDArray[np.float32]:
        """(n_cells,): an ROI's noise in proximal frame `n` of the day, the same whenever it is asked for."""
        if not self._noise:
            return self._silence
        block, row = divmod(max(n, 0), BLOCK)
        if self._noises.get(plane, (-1,))[0] != block:
            self._noises[plane] = block, self._noise_block(plane, block)
        numbers: NDArray[np.float32] = self._noises[plane][1][row]
        return numbers

    def _noise_block(self, plane: int, block: int) -> NDArray[np.float32]:
        noise = np.random.default_rng([self.seed, self.day, *self._luck, 4, plane, block])
        normal = noise.standard_normal((BLOCK, self.n_cells), np.float32)
        normal *= np.float32(self.physiology.noise)
        return normal

    # ------------------------------------------------------------ body

    def licks(self) -> int:
        """Licks in the frame last stepped."""
        return self._licks

    def wheel(self) -> int:
        """Signed encoder counts in the frame last stepped."""
        return self._wheel

    def _move(self, chance: list[float], in_task: bool) -> None:
        body, dt_s = self.body, self._dt_s
        if chance[0] < dt_s / (body.run_bout_s if self._running else body.run_pause_s):
            self._running = not self._running
        if self._running:
            self._way += body.run_cm_s * (0.5 + chance[1]) * dt_s * COUNTS_PER_CM
        self._wheel = int(self._way)
        self._way -= self._wheel

        rate_hz = body.lick_idle_hz
        if self._drinking:
            self._drinking -= 1
            rate_hz = body.lick_drinking_hz
        elif in_task and self._what == "grating":
            near = self._angle_deg / TARGET_DEG
            rate_hz += body.lick_target_hz * self.target_value * near * near
        self._licks = int(not self._lick_pause and chance[2] < rate_hz * dt_s)
        self._lick_pause = 1 if self._licks else max(0, self._lick_pause - 1)

    # ------------------------------------------------------------ the record

    def events(self) -> Events:
        """The day's events so far that are over. What an ideal detector would find; no hidden variable is in it."""
        found = self._events[: min(self._n_events, MOST_EVENTS)]
        found = found[found["whole"]]
        first = self._first or 0

        def seconds(frames: NDArray[np.int32]) -> NDArray[np.float64]:
            return np.asarray((first + self.planes * frames.astype(np.float64)) / self.rate_hz)

        return Events(
            cell=found["cell"].copy(),
            frame=first + self.planes * found["soma_frame"].astype(np.int64),
            t_s=seconds(found["soma_frame"]),
            soma=found["soma"].copy(),
            dendrite_t_s=seconds(found["dendrite_frame"]),
            dendrite=found["dendrite"].copy(),
        )

    def fluorescence(self, plane: int) -> NDArray[np.float32]:
        """(n_frames, n_cells): the day's traces of a plane, 1 + dF/F, as `step` gave them in every proximal frame.

        Raises ValueError unless the mouse was made with keep_calcium.
        """
        if not self._keep:
            raise ValueError("the day's calcium was not kept, expected keep_calcium=True")
        if not self._calcium:
            return np.empty((0, self.n_cells), np.float32)
        soma = np.stack([both[0] for both in self._calcium])
        traces = soma if plane == PROXIMAL else np.stack([both[1] for both in self._calcium])
        traces = 1 + traces + np.float32(self.physiology.neuropil) * soma.mean(axis=1, keepdims=True)
        if self._noise:
            for start in range(0, len(traces), BLOCK):
                block = traces[start : start + BLOCK]
                block += self._noise_block(plane, start // BLOCK)[: len(block)]
        return np.asarray(traces, np.float32)
