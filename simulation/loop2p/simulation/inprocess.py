"""The rig without processes: the same cores on the in-process bus, on frame time, faster than real time.

Decoding, calibration and trials are those of the live rig (`loop2p.decoding.core`, `loop2p.task.core`), behind shells
that stand for what a process adds. Everything happens at once: a picture is shown and a drop falls in the frame that is
their cause, and reaches the mouse REACTION_FRAMES later, as it does on a live rig that is on time.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from loop2p.decoding.core import ControlSignal, Decoder, DifferenceDecoder
from loop2p.imaging.core import ImagingCore
from loop2p.imaging.frame import Frame
from loop2p.protocol import (
    PROXIMAL,
    Accepted,
    Cause,
    Done,
    Envelope,
    Fault,
    Lick,
    Message,
    Microscope,
    OptoCommand,
    Output,
    Phase,
    RequestLog,
    RewardCommand,
    Selection,
    Session,
    Show,
    Shown,
    Traces,
    Wheel,
    f32,
)
from loop2p.runtime.local import LocalBus
from loop2p.runtime.service import Service
from loop2p.simulation.mouse import COUNTS_PER_CM, Mouse
from loop2p.simulation.optics import Scan
from loop2p.task.core import Drop, Effect, Opto, SessionCore
from loop2p.task.experiment import make_plan

WHEEL_EVERY = 3
"""Proximal frames between two readings of the wheel (5 Hz; a live rig reads it at 50 Hz)."""
OPEN_NS_PER_UL = 10_000_000
"""The simulated valve gives 0.1 ul a ms."""
MINUTE_S = 60.0
N_SERVICES = 4


class Source(Protocol):
    """Where frames come from: gives the messages of one microscope frame after the other."""

    def __call__(self, frame: int) -> Iterable[Message]: ...


class Decoding(Service):
    """decoding's core, with a decoder that is built once P+ and P- are known."""

    subscribes = (Traces, Selection, Session)

    def __init__(self, build: Callable[[list[int], list[int]], Decoder], rate_hz: float) -> None:
        self._build, self._signal = build, ControlSignal(rate_hz)

    def handle(self, message: Message) -> Iterable[Message]:
        if isinstance(message, Traces):
            output = self._signal.step(message)
            return () if output is None else (output,)
        if isinstance(message, Selection):
            self._signal.use(self._build(message.plus, message.minus), message.plus + message.minus)
        elif isinstance(message, Session):
            self._signal.reset()
        return ()


class Task(Service):
    """task's core; its commands have no way to go and are never refused."""

    subscribes = (Output, RequestLog)

    def __init__(self, core: SessionCore) -> None:
        self.core = core
        self._id = 0

    def handle(self, message: Message) -> Iterator[Message]:
        assert isinstance(message, Output | RequestLog)
        for effect in self.core.step(message):
            yield self._message(effect)

    def _message(self, effect: Effect) -> Message:
        if isinstance(effect, Message):
            return effect
        self._id += 1
        common = {"id": self._id, "target": "local-actuation", "expires_ns": 1 << 62}
        if isinstance(effect, Drop):
            return RewardCommand(volume_ul=effect.volume_ul, trial=effect.trial, **common)  # type: ignore[arg-type]
        assert isinstance(effect, Opto)
        pulse_ms = self.core.plan.experiment.opto.pulse_ms if effect.armed else 0.0
        return OptoCommand(armed=effect.armed, pulse_ms=pulse_ms, **common)  # type: ignore[arg-type]


class Stimulus(Service):
    """The screen: what task asks for is there at once, and the mouse sees it."""

    subscribes = (Show,)

    def __init__(self, mouse: Mouse) -> None:
        self._mouse = mouse

    def handle(self, message: Message) -> Iterable[Message]:
        assert isinstance(message, Show)
        cause = message.cause
        if cause is not None:
            self._mouse.see(cause.frame, message.what, message.angle_deg)
        return (Shown(what=message.what, angle_deg=message.angle_deg, flip_ns=cause.arrival_ns if cause else 0),)


class Actuation(Service):
    """Valve and LED: what is commanded is done at once, and the mouse notices."""

    subscribes = (RewardCommand, OptoCommand)

    def __init__(self, mouse: Mouse) -> None:
        self._mouse = mouse

    def handle(self, message: Message) -> Iterable[Message]:
        assert isinstance(message, RewardCommand | OptoCommand)
        frame, now_ns = (message.cause.frame, message.cause.arrival_ns) if message.cause else (-1, 0)
        volume_ul = message.volume_ul if isinstance(message, RewardCommand) else 0.0
        if isinstance(message, OptoCommand):
            self._mouse.light(frame, message.armed)
        else:
            self._mouse.drink(frame, volume_ul)
        close_ns = now_ns + round(volume_ul * OPEN_NS_PER_UL)
        return (
            Accepted(id=message.id, received_ns=now_ns),
            Done(id=message.id, open_ns=now_ns, close_ns=close_ns, volume_ul=volume_ul),
        )


class InProcessRig:
    """One session of one mouse. `run` gives what was published; then `task.core` and `plan` tell how it went.

    `task`, `animal`: texts of the task file and the animal file. `pictures(frame)` gives imaging's messages for a
    microscope frame; without it, the mouse's own traces in the proximal frames.
    `before`: what imaging has published before the session begins. `at_wait` is called wherever the session waits for
    the operator, who then resumes it. `keep`: which messages are given back.
    """

    def __init__(
        self,
        mouse: Mouse,
        task: str,
        animal: str = "",
        *,
        rig: str = "",
        microscope: Microscope | None = None,
        pictures: Source | None = None,
        build: Callable[[list[int], list[int]], Decoder] | None = None,
        before: tuple[Message, ...] = (),
        at_wait: Callable[[], None] = lambda: None,
        run_id: str = "simulated",
        wall_time: str = "",
        keep: tuple[type[Message], ...] = (Message,),
        wire: bool = False,
    ) -> None:
        self.mouse, self.plan = mouse, make_plan(task, animal)
        self.microscope = microscope or Microscope(planes=2)
        scope = self.microscope
        self._pictures = pictures or Fluorescence(mouse, scope)
        self._stride = scope.planes if pictures is None else 1
        rate_hz = scope.plane_rate_hz
        self.task = Task(SessionCore(self.plan, rate_hz))
        self._now_ns = 0
        build = build or (lambda plus, minus: DifferenceDecoder(plus, minus, rate_hz))
        services = (Decoding(build, rate_hz), self.task, Stimulus(mouse), Actuation(mouse))
        self.bus = LocalBus(*services, wire=wire, now_ns=lambda: self._now_ns, keep=(*keep, Fault))
        self._session = Session(
            run_id=run_id,
            rig=rig,
            task=task,
            animal=animal,
            seeds=self.plan.experiment.seeds,
            simulated=True,
            wall_time=wall_time,
        )
        self._before, self._at_wait = before, at_wait
        self._licks = self._counts = self._counts_before = 0

    def run(self, begin_at: int = 0, start_at: int = 0) -> list[Envelope]:
        """Run the session to its end. Raises RuntimeError where a service met a fault, or the session comes to no end.

        `start_at`: the frame before which the session is announced, so that decoding begins anew; `begin_at`: the frame
        before which task begins.
        """
        bus, core, scope = self.bus, self.task.core, self.microscope
        most = round((2 * self.plan.experiment.duration_s + MINUTE_S) * scope.rate_hz)
        frame = 0
        while core.phase != "ended":
            if frame == start_at:
                self._announce()
            if frame == begin_at:
                self._ask("begin")
            self._step(frame)
            if core.phase == "paused":
                self._at_wait()
                self._ask("resume")
            frame += self._stride
            if len(bus.services) < N_SERVICES:
                fault = next(m for m in bus.messages if isinstance(m, Fault))
                raise RuntimeError(f"frame {frame}: {fault.service} stopped: {fault.error}: {fault.detail}")
            if frame > most + begin_at:
                raise RuntimeError(f"frame {frame}: the session is {core.phase}, expected its end by now")
        return bus.sent

    def _announce(self) -> None:
        seed = self.plan.experiment.selection.seed
        chosen = Selection(plus=self.plan.plus, minus=self.plan.minus, seed=seed, confirmed_by="simulation")
        for message in self._before:
            self.bus.publish(message, "imaging")
        for message in (self._session, chosen, Phase(phase="idle", day=self.plan.day)):
            self.bus.publish(message, "task")

    def _ask(self, kind: str) -> None:
        last = self.task.core.last_frame
        self.bus.publish(RequestLog(kind=kind, by="simulation", accepted=True, last_frame=last), "task")

    def _step(self, frame: int) -> None:
        self._now_ns = round(1e9 * frame / self.microscope.rate_hz)
        for message in self._pictures(frame):
            self.bus.publish(message, "imaging")
        self._body(frame)

    def _body(self, frame: int) -> None:
        """Licks and the wheel, as actuation tells of them."""
        mouse = self.mouse
        self._counts += mouse.wheel()
        if licks := mouse.licks():
            self._licks += licks
            self.bus.publish(Lick(count=self._licks, t_ns=self._now_ns), "actuation")
        every = WHEEL_EVERY * self.microscope.planes
        if frame % every == 0:
            moved = self._counts - self._counts_before
            self._counts_before = self._counts
            speed = moved / COUNTS_PER_CM * self.microscope.rate_hz / every
            self.bus.publish(Wheel(count=self._counts, speed_cm_s=speed, t_ns=self._now_ns), "actuation")


class Fluorescence:
    """The mouse's proximal traces, as if every ROI were measured by an ideal microscope."""

    def __init__(self, mouse: Mouse, microscope: Microscope) -> None:
        self._mouse, self._rate_hz = mouse, microscope.rate_hz

    def __call__(self, frame: int) -> Iterable[Message]:
        f: NDArray[np.float32] = self._mouse.step(frame, PROXIMAL)
        cause = Cause(frame, PROXIMAL, frame / self._rate_hz, round(1e9 * frame / self._rate_hz))
        return (Traces(plane=PROXIMAL, f=f32(f), cause=cause),)


class Frames:
    """The mouse under the simulated microscope, frame by frame through imaging's core, as on the live rig."""

    def __init__(self, scan: Scan, core: ImagingCore, microscope: Microscope) -> None:
        self._scan, self._core, self._scope = scan, core, microscope

    def __call__(self, frame: int) -> Iterable[Message]:
        time_s = frame / self._scope.rate_hz
        pixels = self._scan.frame(frame)
        return self._core.step(Frame(pixels, False, frame, frame % self._scope.planes, time_s, round(1e9 * time_s)))
