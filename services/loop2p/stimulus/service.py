"""The grating on the screen: obeys task.show, reports every change, and goes grey when the task is lost."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, ClassVar, Literal, Self

from msgspec import Meta

from loop2p.protocol import Alarm, Envelope, Header, Heartbeat, Message, Screen, Show, Shown
from loop2p.runtime import Context, Input, RigClock, Service
from loop2p.stimulus.core import (
    GREY,
    Frames,
    Look,
    Newest,
    Renderer,
    UnavailableError,
    angle_deg,
    cycles_per_degree,
    describe_gamma,
)

TASK_LOSS_S = 1.0
"""Grey when the task has not been heard for so long: a wrong angle must not stay."""


class StimulusOptions(Look, frozen=True, forbid_unknown_fields=True):
    """The options of `Look`, and where and how the pictures are put."""

    renderer: Literal["auto", "window", "headless", "software"] = "auto"
    """"auto" takes the first of the three that works, and says so if it is not a window."""
    screen: Annotated[int, Meta(ge=0)] = 0
    """Which monitor, from 0 (the primary one)."""
    fullscreen: bool = True
    width_px: Annotated[int, Meta(gt=0)] = 1280
    """Of a plain window or an off-screen picture; full screen takes the monitor's size."""
    height_px: Annotated[int, Meta(gt=0)] = 720
    refresh_hz: Annotated[float, Meta(gt=0)] = 60.0
    """What the monitor must have, within 5 %; without a monitor, how often pictures are drawn at most."""
    any_refresh: bool = False
    """Go on although the monitor's refresh is not the one expected."""
    lead_ms: Annotated[float, Meta(ge=0)] = 3.0
    """How long before the monitor's refresh drawing starts; a newer Show may come until then."""
    monitor_width_cm: Annotated[float, Meta(gt=0)] | None = None
    distance_cm: Annotated[float, Meta(gt=0)] = 20.0
    """Eye to screen (docs/experiment.md section 1)."""


class Stimulus(Service):
    """Puts the newest Show on the screen at the next frame and says when it was there.

    A Show is only stored when it comes; it is drawn through the service's Input, which is due just before the
    screen's next refresh, so that a newer one may overtake it. Nothing is drawn while nothing changes, unless the
    grating drifts: then it is drawn at every refresh, and only a new picture is reported and turns the patch.
    """

    Options = StimulusOptions
    subscribes: ClassVar[tuple[type[Message], ...]] = (Show, Heartbeat)
    publishes: ClassVar[tuple[type[Message], ...]] = (Shown, Screen, Alarm)

    def __init__(
        self,
        renderer: Renderer,
        clock: RigClock,
        log: logging.Logger,
        lead_ms: float = 3.0,
        no_display: str = "",
        display_needed: bool = False,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        drift_hz: float = 0.0,
        screen: Screen | None = None,
    ) -> None:
        """`no_display`: why nobody sees the pictures, empty if somebody does. `display_needed`: not ready then.

        `screen`: for the record, where pictures are put and how they look there.
        """
        self.renderer, self.clock, self.log, self.now_ns = renderer, clock, log, now_ns
        self.no_display, self.display_needed = no_display, display_needed
        self.newest = Newest()
        self.rejected = self.losses = 0
        self._frames = Frames(renderer.refresh_hz, now_ns(), round(lead_ms * 1e6) if renderer.vsync else 0)
        self._due_ns: int | None = None
        self._patch = False
        self._drift_hz = drift_hz
        self._since_ns = 0  # when the grating that drifts came up
        self._last: tuple[Show, int, str] | None = None  # what the task wants, its number, which instance said so
        self._task_heard_ns: int | None = None
        self._task_lost = False
        alarm = Alarm(
            code="no-display", active=bool(no_display), detail=no_display or f"pictures are shown: {renderer.name}"
        )
        self._tell: list[Message] = [alarm, screen] if screen else [alarm]
        self._ask(GREY)

    @classmethod
    def from_rig(cls, options: StimulusOptions, context: Context) -> Self:
        """Open the best renderer. Raises OSError if the one that was asked for, or the display, is not to be had."""
        rig, log = context.rig_file.rig, context.log
        try:
            renderer, failed = open_renderer(options)
        except OSError as error:
            raise type(error)(f"{context.rig_file.path}: services.{context.name}: {error}") from None
        log.info(
            "stimulus by %s, %.2f Hz, paced by the %s",
            renderer.name,
            renderer.refresh_hz,
            "monitor" if renderer.vsync else "clock",
        )
        log.info("grating: %s; luminance %s", describe_grating(options), describe_gamma(options))
        no_display = "" if renderer.is_display else why_no_display(renderer, options.renderer, failed)
        if no_display:
            log.warning("%s", no_display)
        real = not (rig.simulated or rig.standins)
        needed = real and options.renderer in ("auto", "window")
        screen = describe_screen(renderer, options)
        drift = options.drift_hz
        return cls(renderer, context.clock, log, options.lead_ms, no_display, needed, drift_hz=drift, screen=screen)

    # ------------------------------------------------------------ what is wanted

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        header = envelope.header
        if envelope.topic == Heartbeat.topic:
            if header.source == "task":
                self._hear_task(header)
            return ()
        message = envelope.message
        if isinstance(message, Show):
            self._take(message, header.seq, header.instance)
        return ()

    def handle(self, message: Message) -> Iterable[Message]:
        if isinstance(message, Show):
            self._take(message, -1, "")
        return ()

    def _take(self, show: Show, seq: int, instance: str) -> None:
        try:
            angle_deg(show)
        except ValueError as error:
            self.rejected += 1
            self.log.warning("task.show, frame %s: %s; grey instead", show.cause and show.cause.frame, error)
            show = Show(cause=show.cause, what="grey")  # safer than the angle before, which is no longer wanted
        self._last = show, seq, instance
        self._ask(show, seq)

    def _hear_task(self, header: Header) -> None:
        """Counts from when it was sent: over a slow link heartbeats are as regular as ever, and old."""
        late_ns = max(0, self.clock.rig_ns(self.now_ns()) - header.sent_ns)
        self._task_heard_ns = self.now_ns() - late_ns
        if self._task_lost and late_ns <= TASK_LOSS_S * 1e9:
            self._task_lost = False
            self.log.warning("the task is heard again (instance %s)", header.instance)
            if self._last is not None and self._last[2] == header.instance:  # what a dead task wanted is void
                self._ask(*self._last[:2])

    def tick(self) -> Iterable[Message]:
        self.renderer.poll()
        heard_ns = self._task_heard_ns
        if heard_ns is not None and not self._task_lost and self.now_ns() - heard_ns > TASK_LOSS_S * 1e9:
            self._task_lost = True
            self.losses += 1
            self.log.warning("no heartbeat from the task for %g s: the screen goes grey", TASK_LOSS_S)
            self._ask(GREY)
        return ()

    def _ask(self, show: Show, seq: int = -1) -> None:
        self.newest.ask(show, seq)
        self._plan()

    def _plan(self) -> None:
        """When to draw next, if at all."""
        if self._due_ns is None and (self.newest.waiting is not None or self._drifts):
            self._due_ns = self._frames.next_ns(self.now_ns())

    @property
    def _drifts(self) -> bool:
        """Is there a grating on the screen that moves?"""
        return bool(self._drift_hz) and self.newest.shown is not None and self.newest.shown.what == "grating"

    # ------------------------------------------------------------ drawing: the service is its own Input

    def inputs(self) -> Sequence[Input]:
        return (self,)

    def fileno(self) -> int:
        return -1

    def due_ns(self) -> int | None:
        return 0 if self._tell else self._due_ns

    def read(self) -> Iterable[Message]:
        """Draw what is waiting; without it, the next phase of a grating that drifts."""
        tell, self._tell = self._tell, []
        yield from tell
        if self._due_ns is None or self.now_ns() < self._due_ns:
            return
        if self.newest.waiting is not None:
            yield self._draw(self.newest.waiting)
        elif self._drifts and self.newest.shown is not None:
            self._flip(self.newest.shown, self._patch)
        self._plan()

    def _flip(self, show: Show, patch: bool) -> int:
        """Draw it as it is at the time when drawing begins; returns when the swap was done."""
        self._due_ns = None
        drift_s = (self.now_ns() - self._since_ns) / 1e9 if self._drifts else 0.0
        flip_ns = self.renderer.draw(show, patch, self._drift_hz * drift_s)
        if self.renderer.vsync:
            self._frames.anchor(flip_ns)
        return flip_ns

    def _draw(self, show: Show) -> Shown:
        seq = self.newest.seq
        moved = self._drifts
        flip_ns = self._flip(show, not self._patch)
        self._patch = not self._patch
        superseded, overtaken = self.newest.drew()
        if not moved:
            self._since_ns = flip_ns  # a grating after a grating goes on where it was, any other begins at phase 0
        return Shown(
            cause=show.cause,
            what=show.what,
            angle_deg=show.angle_deg if show.what == "grating" else None,
            flip_ns=self.clock.rig_ns(flip_ns),
            superseded=superseded,
            patch=self._patch,
            show_seq=seq,
            overtaken=overtaken,
        )

    # ------------------------------------------------------------ state of the service

    def why_not_ready(self) -> list[str]:
        return [self.no_display] if self.no_display and self.display_needed else []

    def counters(self) -> dict[str, int]:
        newest = self.newest
        return {
            "asked": newest.asked,
            "drawn": newest.drawn,
            "superseded": newest.superseded,
            "repeated": newest.repeated,
            "rejected_shows": self.rejected,
            "task_losses": self.losses,
        }

    def gauges(self) -> dict[str, float]:
        return {"display": float(self.renderer.is_display), "refresh_hz": self.renderer.refresh_hz}

    def go_safe(self) -> Iterable[Message]:
        try:
            self._ask(GREY)
            return [self._draw(self.newest.waiting)] if self.newest.waiting is not None else []
        except Exception:
            self.log.exception("the screen could not be made grey")
            return []

    def close(self) -> Iterable[Message]:
        self.renderer.close()
        return ()


def open_renderer(options: StimulusOptions) -> tuple[Renderer, list[str]]:
    """The renderer that was asked for, or the best that works; and why the better ones failed, a line each.

    Raises UnavailableError, or DisplayError if there is a display and it is not as the rig file wants it.
    """
    openers: dict[str, Callable[[StimulusOptions], Renderer]] = {
        "window": _window,
        "headless": _headless,
        "software": _software,
    }
    failed: list[str] = []
    for name in openers if options.renderer == "auto" else (options.renderer,):
        try:
            return openers[name](options), failed
        except UnavailableError as error:
            failed.append(f"{name}: {error}")
        except ImportError as error:
            failed.append(f"{name}: {error} (install loop2p[stimulus])")
    raise UnavailableError(f"options.renderer = {options.renderer!r} does not work here. {'; '.join(failed)}")


def _window(options: StimulusOptions) -> Renderer:
    from loop2p.stimulus.window import WindowRenderer

    return WindowRenderer(
        options,
        options.refresh_hz,
        options.screen,
        options.fullscreen,
        options.width_px,
        options.height_px,
        options.any_refresh,
    )


def _headless(options: StimulusOptions) -> Renderer:
    from loop2p.stimulus.headless import HeadlessRenderer

    return HeadlessRenderer(options.width_px, options.height_px, options.refresh_hz, options)


def _software(options: StimulusOptions) -> Renderer:
    from loop2p.stimulus.software import SoftwareRenderer

    return SoftwareRenderer(options.width_px, options.height_px, options.refresh_hz, options)


def describe_screen(renderer: Renderer, options: StimulusOptions) -> Screen:
    """For the record."""
    width, height = renderer.size
    cm = options.monitor_width_cm
    return Screen(
        renderer=renderer.name,
        display=renderer.is_display,
        width_px=width,
        height_px=height,
        refresh_hz=renderer.refresh_hz,
        vsync=renderer.vsync,
        cycles_per_width=options.cycles_per_width,
        cycles_per_degree=None if cm is None else cycles_per_degree(options, cm, options.distance_cm),
        drift_hz=options.drift_hz,
        gamma=describe_gamma(options),
    )


def describe_grating(options: StimulusOptions) -> str:
    """Spatial frequency, in words for the log."""
    text = f"{options.cycles_per_width:g} cycles a screen width"
    text += f", drifting at {options.drift_hz:g} Hz" if options.drift_hz else ", standing still"
    if options.monitor_width_cm is None:
        return f"{text}; cycles per degree unknown until options.monitor_width_cm is set"
    frequency = cycles_per_degree(options, options.monitor_width_cm, options.distance_cm)
    return f"{text}, {frequency:.4f} cycles per degree in the middle of the screen at {options.distance_cm:g} cm"


def why_no_display(renderer: Renderer, asked: str, failed: list[str]) -> str:
    """For the operator: what is missing, why, what to do."""
    if failed:
        reason = "; ".join(failed)
    elif asked in ("headless", "software"):
        reason = f"the rig file asks for renderer = {asked!r}"
    else:
        reason = "the screen has no refresh rate: it is a virtual one, no monitor"
    return (
        f"no picture is shown to any animal: drawn by {renderer.name}. Reason: {reason}. "
        "For an experiment, connect the stimulus screen and set renderer = 'window'"
    )
