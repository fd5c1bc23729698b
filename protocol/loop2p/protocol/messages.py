"""The messages: typed facts that services publish. One class a topic, in one place.

Every message is frozen. `cause` names the imaging frame that set the chain off; on the wire it
travels in the header (see `wire`), so that anyone can compute a latency without knowing the body.
Units stand in the names: `_s` seconds of frame time, `_ns` rig clock, `_ul`, `_ms`, `_px`, `_deg`.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from loop2p.protocol.arrays import F32, F64, I32, I64

PROTOCOL = 1
"""The protocol number. It stands here and nowhere else; see SPEC.md for when it grows."""

Count = Annotated[int, Meta(ge=0)]
PROXIMAL, DISTAL = 0, 1
"""Planes: 0 proximal apical trunk (decoded), 1 distal apical trunk."""


class Cause(Struct, frozen=True, gc=False):
    """The imaging frame that set this chain of messages off."""

    frame: Count
    """Counts the frames of all planes, from 0."""
    plane: Count
    """0 proximal, 1 distal."""
    time_s: float
    """Frame time, seconds: decisions depend on this alone."""
    arrival_ns: int
    """Rig clock when the frame's last byte was in: for latency alone."""


class Message(Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, gc=False):
    """Base of every message. `cause` is None where no imaging frame is the reason."""

    topic: ClassVar[str] = ""
    state: ClassVar[bool] = False
    """State messages are sent again to whoever joins late."""
    newest: ClassVar[bool] = False
    """Of several waiting messages only the newest matters (display)."""
    bulk: ClassVar[bool] = False
    """Travels on the second PUB socket, so that pixels never delay traces."""

    cause: Cause | None = None
    buffers: tuple[bytes, ...] = ()
    """Pixels: each travels as its own part behind the body, never inside it."""


# ---------------------------------------------------------------- imaging


class Traces(Message, frozen=True, kw_only=True, tag="traces"):
    """Raw fluorescence of the chosen ROIs in one frame. From imaging, every frame."""

    topic: ClassVar[str] = "imaging.traces"
    plane: Count
    """0 proximal trunk (decoded), 1 distal trunk."""
    f: F32
    """(n_rois,) mean detector counts, in the order of the plane's ROI set."""
    shift_y_px: float = 0.0
    """How far the image has moved against the reference, rows; positive is down."""
    shift_x_px: float = 0.0
    """Columns; positive is right."""
    quality: float = 1.0
    """Registration quality, 0 (no match) to 1 (the reference itself)."""
    valid: bool = True
    """False while the image can't be trusted (no reference yet, or it no longer matches): nothing is decided."""


class Preview(Message, frozen=True, kw_only=True, tag="preview"):
    """A registered 8-bit image to look at. From imaging, at most 5 Hz. Buffer 0: (height, width) uint8."""

    topic: ClassVar[str] = "imaging.preview"
    newest: ClassVar[bool] = True
    bulk: ClassVar[bool] = True
    plane: Count
    """0 proximal, 1 distal."""
    height: Count
    """Rows."""
    width: Count
    """Columns."""
    low: float
    """Counts shown as black."""
    high: float
    """Counts shown as white."""


class Raw(Message, frozen=True, kw_only=True, tag="raw"):
    """One frame's pixels for recording. From imaging, if asked for. Buffer 0: (height, width), C order."""

    topic: ClassVar[str] = "imaging.raw"
    bulk: ClassVar[bool] = True
    plane: Count
    """0 proximal, 1 distal."""
    height: Count
    """Rows."""
    width: Count
    """Columns."""
    dtype: Literal["|u1", "<u2"]
    """Pixels as numpy names them: 8-bit, or 16-bit little-endian, unsigned."""


class PlaneRois(Struct, frozen=True):
    """The ROIs of one plane, as pixel lists."""

    plane: Count
    """0 proximal, 1 distal."""
    names: list[str]
    """(n_rois,) what the rig calls each ROI."""
    lengths: I32
    """(n_rois,) how many pixels each ROI has; the next two arrays hold the ROIs one after another."""
    rows: I32
    """(sum of lengths,) row of each pixel, from the top, from 0."""
    cols: I32
    """(sum of lengths,) column of each pixel, from the left, from 0."""


class Rois(Message, frozen=True, kw_only=True, tag="rois"):
    """The ROI sets and what they were drawn on. From imaging, state.

    Buffer k: reference image of plane k, (height, width) float32; no buffers until the reference is built.
    """

    topic: ClassVar[str] = "imaging.rois"
    state: ClassVar[bool] = True
    set_id: str
    """Names this ROI set; another set has another id."""
    height: Count
    """Rows of the image."""
    width: Count
    """Columns of the image."""
    planes: list[PlaneRois]
    """One a plane."""
    match_to_day1: float | None = None
    """Correlation of today's reference with that of day 1; None on day 1."""


class Day1Images(Message, frozen=True, kw_only=True, tag="day1"):
    """Day 1's references, moved to where they lie on today's, to be looked at. From imaging on a later day, state.

    Buffer k: plane k, (height, width) uint8; the 1st percentile of day 1's image is black, the 99.7th white, and so is
    black what day 1 did not see. Comes with the reference images of `imaging.rois`.
    """

    topic: ClassVar[str] = "imaging.day1"
    state: ClassVar[bool] = True
    height: Count
    """Rows of the image."""
    width: Count
    """Columns of the image."""
    match: list[float]
    """By plane: correlation of the two references where they overlap, 1 the same, 0 another field."""
    offset_y_px: list[float]
    """By plane: how far today's field has moved against day 1, rows; positive is down."""
    offset_x_px: list[float]
    """Columns; positive is right."""
    rotation_deg: list[float]
    """By plane: by how much it is turned, counter-clockwise as the image is looked at."""


# ---------------------------------------------------------------- decoding


class Output(Message, frozen=True, kw_only=True, tag="output"):
    """What the decoder made of one proximal frame. From decoding, every proximal frame."""

    topic: ClassVar[str] = "decoding.output"
    d: float
    """The decoder's value, unsmoothed (D for the difference decoder, dF/F)."""
    value: float
    """The control value: mean of d over the last 3 proximal frames (docs/experiment.md 2.3)."""
    dff: F32 = b""
    """(n_rois,) dF/F where the decoder has it, else empty."""
    valid: bool = True
    """False in the first 10 s of F0 and wherever the traces were not valid: nothing is decided."""


# ---------------------------------------------------------------- task


class Calibration(Message, frozen=True, kw_only=True, tag="calibration"):
    """What turns control values into angles. From task, state."""

    topic: ClassVar[str] = "task.calibration"
    state: ClassVar[bool] = True
    minimum: float
    """Control value shown as 0 deg."""
    threshold: float
    """Control value shown as 90 deg: the target."""
    mu: float
    """Mean of the Gaussian fitted to the mirrored lower half of baseline D (docs/experiment.md 2.4)."""
    sigma: float
    """Its standard deviation."""
    z_star: float
    """(threshold - mu) / sigma of day 1: the criterion of all days."""
    seed: int
    """Of the random windows."""
    first_frame: Count
    """The baseline that was used: first and last frame index, inclusive."""
    last_frame: Count
    """See first_frame."""
    n_values: Count
    """Baseline values that were used."""
    baseline: str = "passive"
    """Name of the baseline in the task file; "fixed" where the task file gave the values themselves."""


class Session(Message, frozen=True, kw_only=True, tag="session"):
    """What is being run, in full. From task, state."""

    topic: ClassVar[str] = "rig.session"
    state: ClassVar[bool] = True
    run_id: str
    """Names the run and its folder."""
    rig: str
    """Text of the rig file."""
    task: str
    """Text of the task file."""
    animal: str = ""
    """Text of the animal file."""
    rig_hash: str = ""
    """Of the rig file that task runs on."""
    versions: dict[str, str] = {}
    """Package -> version."""
    seeds: dict[str, int] = {}
    """Of every random draw, by what it is for."""
    simulated: bool
    """True if any stand-in takes the place of hardware or animal."""
    overrides: list[str] = []
    """Start conditions that the experimenter overrode."""
    wall_time: str = ""
    """ISO 8601 wall time at `anchor_ns`."""
    anchor_ns: int = 0
    """Rig clock at `wall_time`."""
    day_limit_ul: float | None = None
    """The animal's ration of the day: no free reward beyond it. None: not told."""


class Selection(Message, frozen=True, kw_only=True, tag="selection"):
    """Which ROIs of the proximal plane drive the decoder. From task, state."""

    topic: ClassVar[str] = "task.selection"
    state: ClassVar[bool] = True
    plus: list[int]
    """Indices of P+ in the ROI set of the proximal plane."""
    minus: list[int]
    """Of P-."""
    seed: int
    """Of the draw that split them."""
    confirmed_by: str = ""
    """Who agreed to it."""


class RequestLog(Message, frozen=True, kw_only=True, tag="request"):
    """What somebody asked of the task, and the answer. From task."""

    topic: ClassVar[str] = "task.request"
    kind: str
    """As in the request: "start", "pause", ..."""
    by: str
    """Who asked."""
    detail: str = ""
    """Text and options that came with it."""
    accepted: bool
    """False: refused, nothing was done."""
    reason: str = ""
    """Why it was refused, or what follows."""
    last_frame: int = -1
    """Frame index of the last output that task had taken when it answered, -1 if none: a replay puts it there."""


class Stall(Message, frozen=True, kw_only=True, tag="stall"):
    """Frames stopped coming. From task's watchdog; replayed like any other event."""

    topic: ClassVar[str] = "task.stall"
    waited_s: float
    """How long nothing came, by the rig clock."""
    last_frame: int
    """Frame index of the last output seen, -1 if none was."""
    what: str = "frames"
    """What stopped: "frames", "fresh frames" (they come, but too late), or the service that was lost."""


class Endpoints(Struct, frozen=True):
    """Where a service binds."""

    publish: str
    """PUB endpoint for small messages."""
    bulk: str
    """PUB endpoint for preview and raw."""
    control: str
    """ROUTER endpoint."""


SwapStage = Literal["none", "shadow", "acting", "handover"]


class Swap(Message, frozen=True, kw_only=True, tag="swap"):
    """Who does a service's work, and who stands by for it. From task, state, one for each service that was swapped.

    Who is named in `shadow` is connected to and not obeyed. Where `acting` is whom `shadow` was, the two change places:
    the frame of a message's cause then says whose word counts, so that all change places between the same two frames.
    """

    topic: ClassVar[str] = "rig.swap"
    state: ClassVar[bool] = True
    service: str
    """Which one."""
    stage: SwapStage
    """A newcomer stands by ("shadow"), it acts while its predecessor stands by ("acting"), nobody stands by
    ("none"); or the service is about to leave for a successor at the same endpoints ("handover")."""
    acting: Endpoints
    """Whose word counts."""
    shadow: Endpoints | None = None
    """Who stands by."""
    from_frame: Count = 0
    """Index of the first frame for which the word of `acting` counts; for frames before it its predecessor's does."""
    by: str = ""
    """Who asked for it."""
    reason: str = ""
    """Why, and what was measured before."""


PhaseName = Literal["idle", "baseline", "calibration", "closed_loop", "paused", "ended"]


class Phase(Message, frozen=True, kw_only=True, tag="phase"):
    """Where the session stands. From task, state."""

    topic: ClassVar[str] = "task.phase"
    state: ClassVar[bool] = True
    phase: PhaseName
    """What the session does from now on."""
    day: Count
    """Day of the experiment, from 1."""
    t_s: float = 0.0
    """Frame time at which it began."""
    reason: str = ""
    """Why, where it is not the plan: who paused, what was lost."""


TrialEdge = Literal["start", "hit", "miss", "void"]


class Trial(Message, frozen=True, kw_only=True, tag="trial"):
    """A trial began, or ended with an outcome. From task."""

    topic: ClassVar[str] = "task.trial"
    trial: Count
    """Number of the trial in the session, from 0."""
    edge: TrialEdge
    """What happened."""
    t_s: float
    """Frame time of the edge."""
    reason: str = ""
    """Why a trial is void."""
    elapsed_s: float = 0.0
    """Closed-loop time of the session that has run so far, pauses and gaps left out."""


Picture = Literal["grey", "grating", "black"]


class Show(Message, frozen=True, kw_only=True, tag="show"):
    """What the animal should see. From task, on change; state, newest wins, never acknowledged."""

    topic: ClassVar[str] = "task.show"
    state: ClassVar[bool] = True
    newest: ClassVar[bool] = True
    what: Picture
    """Isoluminant grey, a grating, or black."""
    angle_deg: float | None = None
    """0 = vertical bars, 90 = horizontal (target); positive turns the bars counter-clockwise as seen."""


class Command(Message, frozen=True, kw_only=True):
    """Base of commands to the actuator: done at most once, or refused with a reason."""

    id: int
    """Unique in the day; rises."""
    target: str
    """Instance of the actuation service that is meant; any other refuses."""
    expires_ns: int
    """Rig clock after which it is refused (250 ms after it was issued)."""


class RewardCommand(Command, frozen=True, kw_only=True, tag="reward"):
    """Open the valve for this volume. From task. 0 ul goes through the same path and opens nothing."""

    topic: ClassVar[str] = "task.reward"
    volume_ul: Annotated[float, Meta(ge=0)]
    """How much; the service turns it into an open time by its valve calibration."""
    trial: int = -1
    """-1: no trial's reward (free reward, benchmark)."""


class OptoCommand(Command, frozen=True, kw_only=True, tag="opto"):
    """Arm or disarm the LED: the controller itself fires a pulse on each frame trigger. From task."""

    topic: ClassVar[str] = "task.opto"
    armed: bool
    """True: a pulse on each frame trigger; False: none."""
    pulse_ms: Annotated[float, Meta(ge=0)] = 0.0
    """How long each pulse is."""


# ---------------------------------------------------------------- stimulus


class Shown(Message, frozen=True, kw_only=True, tag="shown"):
    """What was put on the screen. From stimulus, every change.

    A task.show for another picture than the one before it is answered: shown, or named as overtaken. So is one for the
    grey that the service put up by itself.
    """

    topic: ClassVar[str] = "stimulus.shown"
    what: Picture
    """As in task.show."""
    angle_deg: float | None = None
    """As in task.show."""
    flip_ns: int
    """Rig clock when the swap returned; not light onset, which only a photodiode tells."""
    superseded: Count = 0
    """Commands since the last picture that a newer one overtook before they could be drawn."""
    patch: bool = False
    """Level of the photodiode patch after this flip."""
    show_seq: int = -1
    """Sequence number of the task.show that this is; -1: the service's own grey (start, stop, task not heard)."""
    overtaken: list[int] = []
    """Sequence numbers of the superseded ones, in the order they came; of very many the last 1000."""


class Screen(Message, frozen=True, kw_only=True, tag="screen"):
    """Where pictures are put and how they look there. From stimulus, at start, state."""

    topic: ClassVar[str] = "stimulus.screen"
    state: ClassVar[bool] = True
    renderer: str
    """What draws, in words."""
    display: bool
    """False: nobody sees the pictures (see alarm "no-display")."""
    width_px: Count
    """Of the picture."""
    height_px: Count
    """Of the picture."""
    refresh_hz: float
    """As measured where a monitor paces the pictures, else as asked for."""
    vsync: bool
    """True: a monitor's refresh paces the pictures; False: a clock does."""
    cycles_per_width: float
    """Spatial frequency of the grating, cycles a picture width."""
    cycles_per_degree: float | None = None
    """The same in the middle of the screen as the eye sees it; None where the rig file has no width of the monitor."""
    drift_hz: float = 0.0
    """Temporal frequency of the grating, cycles a second; 0: it stands still."""
    gamma: str = ""
    """How luminance becomes drive levels, in words."""


# ---------------------------------------------------------------- actuation


class Accepted(Message, frozen=True, kw_only=True, tag="accepted"):
    """A command was taken. From actuation; the sender stops repeating it."""

    topic: ClassVar[str] = "actuation.accepted"
    id: int
    """Of the command."""
    received_ns: int
    """Rig clock when the command was in the actuation service's hands."""


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """A command was carried out. From actuation."""

    topic: ClassVar[str] = "actuation.done"
    id: int
    """Of the command."""
    open_ns: int
    """Rig clock when the pin went high (controller time mapped on the rig clock)."""
    close_ns: int
    """Rig clock when the pin went low."""
    volume_ul: float
    """How much that gave, by the valve calibration."""


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """A command was not carried out, and why. From actuation."""

    topic: ClassVar[str] = "actuation.refused"
    id: int
    """Of the command."""
    reason: str
    """Place, found, expected."""


class Lick(Message, frozen=True, kw_only=True, tag="lick"):
    """Licks since the last one of these. From actuation, on each lick."""

    topic: ClassVar[str] = "actuation.lick"
    count: Count
    """All licks since the controller started."""
    t_ns: int
    """Rig clock of the last lick."""


class Wheel(Message, frozen=True, kw_only=True, tag="wheel"):
    """Treadmill. From actuation, 50 Hz."""

    topic: ClassVar[str] = "actuation.wheel"
    count: int
    """Encoder counts since the controller started, signed."""
    speed_cm_s: float
    """Signed as the counts are."""
    t_ns: int
    """Rig clock of the reading."""


# ---------------------------------------------------------------- every service

Health = Literal["starting", "ready", "stopping", "stopped"]


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """I am alive, and this is my count of things. From every service, 20 Hz."""

    topic: ClassVar[str] = "rig.heartbeat"
    health: Health
    """Ready once nothing must be done first."""
    protocol: int = PROTOCOL
    """Protocol number."""
    rig_hash: str = ""
    """Of the rig file that this service was started with."""
    run_id: str = ""
    """The session this service has prepared itself for, as it last heard in rig.session."""
    why_not_ready: list[str] = []
    """What must be done before this service is ready, a line each."""
    published: dict[str, int] = {}
    """Messages published so far, by topic (this heartbeat not included)."""
    gaps: Count = 0
    """Messages missed, by sequence number."""
    rejected: Count = 0
    """Malformed or unwelcome messages dropped."""
    counters: dict[str, int] = {}
    """The role's own counts, such as frames received and dropped."""
    flushed: dict[str, dict[str, int]] = {}
    """Recording alone: instance -> topic -> highest sequence number safe in the journal."""


class Fault(Message, frozen=True, kw_only=True, tag="fault"):
    """A service met an impossible state and stops; its outputs are safe. From any service."""

    topic: ClassVar[str] = "rig.fault"
    service: str
    """Which one stops."""
    error: str
    """Exception class."""
    detail: str
    """Place, found, expected."""
    traceback: str = ""
    """Where, for the programmer."""


class Alarm(Message, frozen=True, kw_only=True, tag="alarm"):
    """A condition the operator must know; the service goes on. From any service, on change, state."""

    topic: ClassVar[str] = "rig.alarm"
    state: ClassVar[bool] = True
    code: str
    """Such as "wrong-frame-size", "wrong-plane", "image-mismatch", "no-display", "disk-full"."""
    active: bool
    """False: the condition is over."""
    detail: str
    """Place, found, expected, what to do."""


class Clock(Message, frozen=True, kw_only=True, tag="clock"):
    """This service's clock against the rig clock. From every service, 1 Hz."""

    topic: ClassVar[str] = "rig.clock"
    offset_ns: int
    """Add to the local clock to get the rig clock."""
    bound_ns: int
    """The true offset lies within +- this."""
    round_trip_ns: int
    """Of the exchange that is believed, the shortest of late."""


# ---------------------------------------------------------------- recording


class External(Message, frozen=True, kw_only=True, tag="external"):
    """Samples that another program measured, on the rig clock. From recording, which a companion hands them to.

    Numbers stand in `values`, texts in `texts`; one of the two is empty. No samples at all: the stream was lost.
    """

    topic: ClassVar[str] = "recording.external"
    stream: str
    """What the rig file calls the stream."""
    source: str = ""
    """Where it comes from, as it says itself: name, type, source, host."""
    rate_hz: float = 0.0
    """As the stream says; 0: irregular."""
    channels: list[str] = []
    """(n_channels,) names."""
    units: list[str] = []
    """(n_channels,) units, as the stream says; empty where it does not."""
    t_ns: I64 = b""
    """(n,) rig clock of each sample."""
    bound_ns: Count = 0
    """Each true time lies within +- this of t_ns, so far as clocks can be compared."""
    values: F64 = b""
    """(n, n_channels) numbers. Of integers beyond 2^53 the last digits are lost."""
    texts: list[str] = []
    """(n * n_channels,) texts, sample by sample."""
    lost: Count = 0
    """Samples known to be lost before the first of these."""
    gap: str = ""
    """Why samples are missing before the first of these, or from now on where there are none; empty: none is."""


class TopicAudit(Struct, frozen=True):
    """How many messages of a topic were published in the session, and how many are in the journal."""

    expected: int
    """Published, as the publishers counted."""
    written: int
    """In the journal."""


class Audit(Message, frozen=True, kw_only=True, tag="audit"):
    """Is the record complete? From recording, at the end."""

    topic: ClassVar[str] = "recording.audit"
    complete: bool
    """True if every topic's counts agree."""
    topics: dict[str, TopicAudit]
    """Topic -> counts."""
    segments: int = 1
    """Journal segments; more than one if recording was restarted."""
    notes: list[str] = []
    """Whatever makes the record less than complete, a line each."""


def _leaves(cls: type[Message]) -> list[type[Message]]:
    found = [cls] if cls.topic else []
    for sub in cls.__subclasses__():
        found += _leaves(sub)
    return found


MESSAGES: dict[str, type[Message]] = {cls.topic: cls for cls in sorted(_leaves(Message), key=lambda c: c.topic)}
"""topic -> message class."""
