"""Two-compartment neurons that the screen drives and a dendritic signal teaches: one proximal frame after another.

The model behind `LearningMouse`; docs/simulated-mouse.md says what in it is imposed and what emerges. Only numbers:
`Physiology` (constants of the animal), `Memory` (what lives on overnight), `Day` (what a day needs), `live`, compiled,
which moves a day on by one frame, and `sleep`.

Where a constant says "prototype", its value comes from an earlier model that was tried and thrown away; "tuned" ones
were set on the tuning seeds so that the learning rows of the acceptance table hold, and are judged on other seeds.
"""

from typing import Any

import numpy as np
from msgspec import Struct
from numba import njit
from numpy.typing import NDArray

Records = NDArray[np.void]
"""A structured array: fields by name, in numpy and in compiled code alike."""

MOST_STARTS = 16
"""Events that may begin in one frame; any more wait for the next."""
DRAWS_PER_START = 3
"""Normal numbers an event uses: burst size, residual, dendritic lead."""
LEAD_LIMITS = (-4, 5)
"""Frames by which a dendrite may lead (negative) or lag its soma (prototype)."""


class Physiology(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The animal's constants. Times in seconds, rates in Hz, sizes in dF/F; a residual unit is `residual_sd` dF/F."""

    # ---- who fires, and how often
    rate_median_hz: float = 0.0225
    """Of the log-normal day-1 rates (tuned: P0 0.028 Hz, the eight or ten chosen ones 0.06-0.07, ED4a)."""
    rate_sd: float = 1.1
    """Of the log rate (tuned, as above)."""
    rate_limits_hz: tuple[float, float] = (0.002, 0.25)
    latents: int = 4
    """Network variables of unit variance that the cells share (prototype)."""
    latent_s: float = 2.0
    network_gain: float = 1.5
    """What the network does to a soma's log rate (prototype)."""
    slow_gain: float = 0.5
    """Arousal of `slow_s`, the same for all cells, in log rate (prototype)."""
    slow_s: float = 40.0
    fast_gain: float = 0.3
    fast_s: float = 3.0
    day_sd: float = 0.1
    """Of the day's offset, the same for all cells, in log rate (prototype)."""
    tuning: float = 0.05
    """Modulation by the grating's orientation (prototype; ED9: no difference between groups)."""

    # ---- events
    burst_median: float = 0.633
    """Of the log-normal burst size: mean 0.7 (prototype)."""
    burst_sd: float = 0.45
    burst_s: float = 0.19
    """Calcium enters the soma over 3 frames (prototype)."""
    burst_delay_s: float = 0.26
    """From the decision to burst to the soma's calcium: 4 frames, so that a dendrite can lead (prototype)."""
    soma_tau_s: float = 0.45
    """jGCaMP7f's decay in the proximal trunk (prototype)."""
    plateau_s: float = 0.776
    """The apical plateau takes in calcium over 12 frames; less, and a cell's own effect on the screen fills it."""
    dendrite_tau_s: float = 0.35
    dendrite_base: float = 0.21
    dendrite_slope: float = 0.7
    """Dendritic size = base + slope x somatic size + residual (prototype)."""
    residual_sd: float = 0.21
    network_share: float = 0.5
    """Mean of the exponential share of the residual that the network explains, cut at 0.9 (tuned: by 0.7, the
    prototype's, a third of P+ and P- are told from fluorescence, by this a fifth, as in the paper)."""
    lead_frames: float = -0.25
    """Shift of the dendrite's onset by a residual of one unit: amplified events lead (imposed; ED6-8)."""
    lead_sd_frames: float = 1.2

    # ---- the apical signal
    error_tau_s: float = 0.5
    """Low-pass of the screen's rotation (prototype)."""
    error_scale_deg_s: float = 50.0
    """delta = tanh(rotation / this): the sign and, unsaturated, the speed at which the error falls (prototype)."""
    apical: float = 1.25
    """delta x role adds this to the residual (tuned: six mice show it by isolated events, where 1.0 was too little; the
    prototype's 1.6 is twice the paper's contrast)."""
    drive: float = 1.1
    """delta x role adds this to the log rate in the task: the apical trunk helps the soma to burst (tuned)."""
    reward_residual: float = 0.8
    target_residual: float = 1.0
    """What a drop and the target add to the residual, through each cell's own random pattern 0.3 + n (prototype)."""
    reward_tau_s: float = 1.0
    target_tau_s: float = 0.5
    engaged_s: float = 40.0
    """The mouse takes it for the task while it has seen a grey or black screen within this time: every trial has
    both, passive gratings have neither."""

    # ---- learning
    eligibility_s: float = 0.4
    """How long a burst counts as the reason of what the screen does (prototype)."""
    eligibility_rate: float = 5e-4
    """Of the running mean that an eligibility is compared with, per frame (prototype)."""
    role_scale: float = 0.03
    """Correlation of own bursts with delta at which a role is full (prototype)."""
    role_memory_days: float = 2.5
    """Older days count less by exp(-1 / this) a day (tuned: roles follow a swap within the days that are left)."""
    residual_rate: float = 0.03
    """Of the running mean that a residual is compared with, per event (prototype)."""
    learn: float = 0.0047
    """Change of log rate overnight per unit of sum(residual x mean delta) (tuned)."""
    learn_limit: float = 0.1
    """Largest such change (prototype)."""
    learn_burst: float = 0.45
    """The burst size changes by this share of it (prototype)."""
    sparsify_per_hz: float = 0.6
    """Overnight the log rate falls by this x rate x apical gain: active cells fall most (tuned)."""

    # ---- what is seen of it
    neuropil: float = 0.3
    """Share of the mean of all somas in every ROI, the same in both planes (prototype)."""
    noise: float = 0.04
    """SD of an ROI's noise, dF/F a frame (prototype); 0 where a microscope adds its own."""


class Condition(Struct, frozen=True, kw_only=True):
    """What is done to the animal, as it acts on its cells."""

    apical_gain: float = 1.0
    """Times everything that the apical dendrite receives."""
    rate_factor: float = 1.0
    """Times every rate."""
    residual_shift: float = 0.0
    """Added to every residual, units."""


NOTHING = Condition()


def _fields(*names: str) -> list[tuple[str, str]]:
    return [(name, "f8") for name in names]


CONSTANTS = np.dtype(
    _fields(
        "dt_s", "network_gain", "slow_keep", "slow_kick", "slow_gain", "fast_keep", "fast_kick", "fast_gain",
        "latent_keep", "latent_kick", "burst_median", "burst_sd", "soma_keep", "dendrite_keep", "dendrite_base",
        "dendrite_slope", "residual_sd", "lead_frames", "lead_sd_frames", "error_keep", "error_scale_deg_s", "apical",
        "drive", "reward_residual", "target_residual", "reward_keep", "target_keep", "eligibility_keep",
        "eligibility_rate", "residual_rate", "neuropil",
    )
    + [(name, "i8") for name in ("burst_frames", "burst_delay_frames", "plateau_frames", "engaged_frames")]
)  # fmt: skip
"""`Physiology` per proximal frame, as `live` reads it; made by `constants`."""

NOW = np.dtype(
    [
        *_fields("shown_deg", "apical_gain", "rate_factor", "residual_shift"),
        *_fields("slow", "fast", "offset", "angle_deg", "velocity_deg_s", "delta", "rewarded", "target"),
        ("blank", "?"),
        ("drop", "?"),
        ("since_blank", "i8"),
    ]
)
"""A day's state that all cells share. What reaches the mouse in a frame: `shown_deg`, the grating's angle, or a `blank`
(grey, black); a `drop`; the fields of `Condition`. What it makes of it: the rest. `angle_deg` is the last frame's,
negative for a blank; `offset` is the day's log rate."""

DAY = np.dtype(
    [
        *_fields("soma", "dendrite", "soma_size", "residual", "dendrite_size", "delta_sum", "eligibility", "teaching"),
        *[(name, "i8") for name in ("busy", "burst_left", "plateau_left", "event")],
        ("engaged", "?"),
    ]
)
"""A day's state of each cell. soma, dendrite: calcium, dF/F. Of the running event: sizes, residual without the screen's
part, sum of delta, frames left of burst and plateau (delays included), number in the record, and whether it began in
the task. busy: frames until another may begin. teaching: sum over events of (residual - usual) x mean delta."""

EVENT = np.dtype(
    [
        *[(name, "i4") for name in ("cell", "soma_frame", "dendrite_frame")],
        *_fields("soma", "dendrite"),
        ("whole", "?"),
    ]
)
"""An event: proximal frames in which soma and dendrite begin, their sizes (dF/F), and whether it is over."""


def memory_type(latents: int) -> np.dtype[np.void]:
    """What lives on overnight, of each cell.

    rate_hz: day 1. loading: of the soma on the network. apical_loading: of the residual, unit vectors; share: how much
    of it. pattern: of reward and target in the residual. preferred_rad: twice the preferred orientation. excitability,
    burst_gain: learned, log. role: -1 to 1, learned from the screen, 0 on day 1. own_screen, own_own, screen_screen:
    sums from which the role is made. usual_residual, usual_eligibility: running means.
    """
    return np.dtype(
        [
            ("loading", "f8", (latents,)),
            ("apical_loading", "f8", (latents,)),
            *_fields("rate_hz", "share", "pattern", "preferred_rad", "excitability", "burst_gain", "role"),
            *_fields("own_screen", "own_own", "screen_screen", "usual_residual", "usual_eligibility"),
        ]
    )


def constants(p: Physiology, dt_s: float) -> Records:
    """(1,) of CONSTANTS for frames of `dt_s`."""

    def frames(seconds: float) -> int:
        return max(1, round(seconds / dt_s))

    k = np.zeros(1, CONSTANTS)
    k["dt_s"] = dt_s
    for name in ("latent", "slow", "fast"):
        keep = np.exp(-dt_s / getattr(p, f"{name}_s"))
        k[f"{name}_keep"], k[f"{name}_kick"] = keep, np.sqrt(1 - keep**2)
    for name in ("soma", "dendrite", "error", "reward", "target"):
        k[f"{name}_keep"] = np.exp(-dt_s / getattr(p, f"{name}_tau_s"))
    k["eligibility_keep"] = np.exp(-dt_s / p.eligibility_s)
    for name in ("burst", "burst_delay", "plateau", "engaged"):
        k[f"{name}_frames"] = frames(getattr(p, f"{name}_s"))
    for name in CONSTANTS.names or ():
        if hasattr(p, name):
            k[name] = getattr(p, name)
    return k


def born(p: Physiology, n_cells: int, rng: np.random.Generator) -> Records:
    """A mouse before its first day: (n_cells,) of `memory_type`."""
    memory = np.zeros(n_cells, memory_type(p.latents))
    rate_hz = p.rate_median_hz * np.exp(p.rate_sd * rng.standard_normal(n_cells))
    memory["rate_hz"] = np.clip(rate_hz, *p.rate_limits_hz)
    memory["loading"] = rng.standard_normal((n_cells, p.latents)) / np.sqrt(p.latents)
    toward = rng.standard_normal((n_cells, p.latents))
    memory["apical_loading"] = toward / np.linalg.norm(toward, axis=1, keepdims=True)
    memory["share"] = np.clip(rng.exponential(p.network_share, n_cells), 0, 0.9)
    memory["pattern"] = 0.3 + rng.standard_normal(n_cells)
    memory["preferred_rad"] = rng.uniform(0, 2 * np.pi, n_cells)
    return memory


def morning(p: Physiology, n_cells: int, rng: np.random.Generator) -> tuple[Records, Records, NDArray[np.float64]]:
    """A day's start before a blank screen: (1,) of NOW, (n_cells,) of DAY, (latents,) network variables."""
    now = np.zeros(1, NOW)
    now["slow"], now["fast"] = rng.standard_normal(2)
    now["offset"] = p.day_sd * rng.standard_normal()
    now["blank"], now["angle_deg"], now["since_blank"] = True, -1.0, 1 << 40
    return now, np.zeros(n_cells, DAY), rng.standard_normal(p.latents)


def tuning_factors(p: Physiology, memory: Records, angle_deg: float | None) -> NDArray[np.float64]:
    """(n_cells,): what a grating of this angle does to each rate; 1 without one."""
    if angle_deg is None:
        return np.ones(len(memory))
    factors: NDArray[np.float64] = 1 + p.tuning * np.cos(2 * np.deg2rad(angle_deg) - memory["preferred_rad"])
    return factors


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]  # not testing for divisions by 0
def live(
    constants: Records,
    shared: Records,
    tuning: NDArray[np.float64],
    role: NDArray[np.float64],
    memory: Records,
    day: Records,
    latents: NDArray[np.float64],
    weather: NDArray[np.float64],
    starts: NDArray[np.float64],
    chances: NDArray[np.float32],
    row: int,
    events: Records,
    n_events: int,
    frame: int,
) -> int:
    """Live through one proximal frame; returns how many events are in the record by now.

    `role` (n_cells,): as it acts (a control may have changed it). Random numbers, of which this frame's stand in `row`:
    `weather` (n, 2 + latents) and `starts` (n, MOST_STARTS, DRAWS_PER_START) normal, `chances` (n, n_cells) uniform.
    `events`: record of EVENT, (most,); `frame` counts proximal frames.
    """
    k, now = constants[0], shared[0]

    # What the mouse makes of the screen: does the error fall, and how fast?
    rotation = 0.0
    if not now.blank and now.angle_deg >= 0.0:
        rotation = (now.shown_deg - now.angle_deg) / k.dt_s
    now.angle_deg = -1.0 if now.blank else now.shown_deg
    now.velocity_deg_s = 0.0 if now.blank else k.error_keep * now.velocity_deg_s + (1.0 - k.error_keep) * rotation
    now.since_blank = 0 if now.blank else now.since_blank + 1
    in_task = now.since_blank < k.engaged_frames
    delta = np.tanh(now.velocity_deg_s / k.error_scale_deg_s)
    now.delta = delta
    now.rewarded = 1.0 if now.drop else k.reward_keep * now.rewarded
    at_target = 1.0 if in_task and not now.blank and now.shown_deg > 89.0 else 0.0
    now.target = k.target_keep * now.target + (1.0 - k.target_keep) * at_target

    # The brain's own weather; each gain's mean effect on a rate is taken out.
    now.slow = k.slow_keep * now.slow + k.slow_kick * weather[row, 0]
    now.fast = k.fast_keep * now.fast + k.fast_kick * weather[row, 1]
    for j in range(latents.size):
        latents[j] = k.latent_keep * latents[j] + k.latent_kick * weather[row, 2 + j]
    everybody = now.offset + k.slow_gain * now.slow + k.fast_gain * now.fast
    everybody -= 0.5 * (k.slow_gain**2 + k.fast_gain**2)

    drive = k.drive * now.apical_gain * delta if in_task else 0.0
    started = 0
    for i in range(memory.size):
        cell, own = memory[i], day[i]
        if own.busy > 0:
            own.busy -= 1
        elif started < MOST_STARTS:
            toward = 0.0
            spread = 0.0
            loading = cell.loading
            for j in range(loading.size):
                toward += loading[j] * latents[j]
                spread += loading[j] ** 2
            log_rate = cell.excitability + everybody + drive * role[i]
            log_rate += k.network_gain * toward - 0.5 * k.network_gain**2 * spread
            chance, at_rest = chances[row, i], cell.rate_hz * now.rate_factor * tuning[i] * k.dt_s
            begins = False
            if log_rate > 0.9 or chance * (1.0 - log_rate) < 1.001 * at_rest:  # else no: exp(x) <= 1 / (1 - x), x < 1
                expected = cell.rate_hz * now.rate_factor * tuning[i] * np.exp(log_rate) * k.dt_s
                begins = chance < 1.0 - np.exp(-expected)
            if begins:
                draw = starts[row, started]
                started += 1
                network = 0.0
                for j in range(latents.size):
                    network += cell.apical_loading[j] * latents[j]
                outcome = cell.pattern * (k.reward_residual * now.rewarded + k.target_residual * now.target)
                residual = now.apical_gain * (cell.share * network + outcome) + np.sqrt(1.0 - cell.share**2) * draw[1]
                lead = np.round(-0.3 + k.lead_frames * residual + k.lead_sd_frames * draw[2])
                lead = int(min(LEAD_LIMITS[1], max(LEAD_LIMITS[0], lead)))
                own.soma_size = k.burst_median * np.exp(cell.burst_gain + k.burst_sd * draw[0])
                own.residual = residual + now.residual_shift
                own.dendrite_size = 0.0
                own.delta_sum = 0.0
                own.burst_left = k.burst_delay_frames + k.burst_frames
                own.plateau_left = k.burst_delay_frames + lead + k.plateau_frames
                own.busy = own.plateau_left  # no event of a cell begins before its last one is over
                own.engaged = in_task
                own.event = n_events
                if n_events < events.size:
                    event = events[n_events]
                    event.cell = i
                    event.soma_frame = frame + k.burst_delay_frames
                    event.dendrite_frame = frame + k.burst_delay_frames + lead
                    event.soma = own.soma_size
                n_events += 1

        burst = 0.0
        own.soma *= k.soma_keep
        if own.burst_left > 0:
            if own.burst_left <= k.burst_frames:
                burst = 1.0 / k.burst_frames
                own.soma += own.soma_size * burst
            own.burst_left -= 1
        own.dendrite *= k.dendrite_keep
        if own.plateau_left > 0:
            if own.plateau_left <= k.plateau_frames:
                residual = own.residual + k.apical * now.apical_gain * role[i] * delta
                enters = max(0.0, k.dendrite_base + k.dendrite_slope * own.soma_size + k.residual_sd * residual)
                own.dendrite += enters / k.plateau_frames
                own.dendrite_size += enters / k.plateau_frames
                own.delta_sum += delta
            own.plateau_left -= 1
            if own.plateau_left == 0:  # the event is over: it teaches
                mean_delta = own.delta_sum / k.plateau_frames
                residual = own.residual + k.apical * now.apical_gain * role[i] * mean_delta
                if own.engaged:
                    own.teaching += (residual - cell.usual_residual) * mean_delta
                cell.usual_residual += k.residual_rate * (residual - cell.usual_residual)
                if own.event < events.size:
                    events[own.event].dendrite = own.dendrite_size
                    events[own.event].whole = True

        # Whose doing is it that the error falls? Own bursts against what the screen does.
        own.eligibility = k.eligibility_keep * own.eligibility + burst
        cell.usual_eligibility += k.eligibility_rate * (own.eligibility - cell.usual_eligibility)
        if in_task and not now.blank:
            more = own.eligibility - cell.usual_eligibility
            cell.own_screen += more * delta
            cell.own_own += more * more
            cell.screen_screen += delta * delta
    return n_events


@njit(cache=True)  # type: ignore[untyped-decorator]
def shine(calcium: Any, soma: Any, neuropil: float, noise: Any, out: NDArray[np.float32]) -> None:
    """Fluorescence of one plane's ROIs, 1 at rest: its calcium, the somas' mean as neuropil, noise; into `out`."""
    background = 0.0
    for i in range(soma.size):
        background += soma[i]
    background = 1.0 + neuropil * background / soma.size
    for i in range(out.size):
        out[i] = background + calcium[i] + noise[i]


def sleep(memory: Records, day: Records, p: Physiology, apical_gain: float = 1.0) -> None:
    """Overnight, what the day taught becomes rate, burst size and role.

    Sparsification goes with the apical gain, as all plasticity here does: without apical input nothing is learned and
    nothing is lost.
    """
    taught = np.clip(p.learn * day["teaching"], -p.learn_limit, p.learn_limit)
    rate_hz = memory["rate_hz"] * np.exp(memory["excitability"])
    memory["excitability"] += taught - apical_gain * p.sparsify_per_hz * rate_hz
    memory["burst_gain"] += p.learn_burst * taught
    scale = np.sqrt(np.maximum(memory["own_own"] * memory["screen_screen"], 1e-30))
    memory["role"] = np.clip(memory["own_screen"] / scale / p.role_scale, -1, 1)
    for name in ("own_screen", "own_own", "screen_screen"):
        memory[name] *= np.exp(-1 / p.role_memory_days)
