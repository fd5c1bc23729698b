"""Closed loops of Poisson somas of which P+ and P- turn the grating, so that own events and rotation go together as on
the rig, whatever the dendrites do; and dendrites that know of it what a test puts in.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from msgspec import structs

from loop2p.analysis.epochs import angle_deg
from loop2p.analysis.sessions import PlaneEvents, SessionData

DT_S, N = 1 / 15.46, 30
ROLE = np.array(["plus"] * 5 + ["minus"] * 5 + ["other"] * 20)
VECTOR, SCALAR = np.array([1.0] * 5 + [-1.0] * 5 + [0.0] * 20), np.ones(N)
NONE = 0 * SCALAR


def loop(seed: list[int], loop_s: float) -> tuple[SessionData, np.ndarray]:
    """A session without dendrites, and (n_frames,) how the error fell: -1 to 1."""
    rng = np.random.default_rng(seed)
    n_frames = round(loop_s / DT_S)
    spikes = rng.random((n_frames, N)) < 0.07 * DT_S
    sizes = np.where(spikes, rng.lognormal(-0.46, 0.45, (n_frames, N)), 0)
    pull = sizes[:, :5].mean(axis=1) - sizes[:, 5:10].mean(axis=1)
    d = np.convolve(pull, np.exp(-np.arange(60) * DT_S / 0.45))[:n_frames]
    angle = np.clip(15 * np.floor(4 + d / 0.12), 0, 90)
    start_s, outcome, hit_s, shown_s, shown_deg = [], [], [], [], []
    delta, velocity, frame = np.zeros(n_frames), 0.0, 0
    while frame + 520 < n_frames:
        start_s.append(frame * DT_S)
        shown_s.append(frame * DT_S)
        shown_deg.append(np.nan)
        begin = frame + 8
        hits = np.flatnonzero(angle[begin : begin + 435] == 90)
        end = begin + (hits[0] if len(hits) else 435)
        last = np.nan
        for k in range(begin, end + len(hits[:1])):
            if angle[k] != last:
                shown_s.append(k * DT_S)
                shown_deg.append(angle[k])
            turned = 0.0 if np.isnan(last) else (angle[k] - last) / DT_S
            velocity += (turned - velocity) * DT_S / 0.5
            delta[k], last = np.tanh(velocity / 50), angle[k]
        outcome.append("hit" if len(hits) else "miss")
        hit_s.append(end * DT_S if len(hits) else np.nan)
        frame = end + (31 if len(hits) else 0)
        shown_s.append(frame * DT_S)
        shown_deg.append(np.nan)
        frame, velocity = frame + 30, 0.0
    at, roi = np.nonzero(spikes)
    session = SessionData(
        path=Path(f"{seed[0]}-{seed[1]}.nwb"), mouse=f"m{seed[0]}", day=seed[1], role=ROLE,
        start_s=np.array(start_s), outcome=np.array(outcome), hit_s=np.array(hit_s), reward_s=np.array(hit_s) + 1,
        phases=[("closed_loop", "", 0.0, loop_s)], shown_s=np.array(shown_s), shown_deg=np.array(shown_deg),
        lick_s=np.zeros(0), speed_cm_s=np.zeros(0),
        events={0: PlaneEvents(at * DT_S, roi, sizes[at, roi])},
    )  # fmt: skip
    return session, delta


@cache
def loops(mice: int, days: int, loop_s: float) -> list[tuple[SessionData, np.ndarray]]:
    return [loop([mouse, day], loop_s) for mouse in range(mice) for day in range(1, days + 1)]


def cohort(
    weight: np.ndarray,
    seed: int = 0,
    shift: float = 0.0,
    edit: Callable[[SessionData], SessionData] = lambda s: s,
    *,
    level: float = 0.0,
    lead_s: float = 0.0,
    mice: int = 6,
    days: int = 4,
    loop_s: float = 2400.0,
) -> list[SessionData]:
    """Dendrites = 0.21 + 0.7 soma + 0.21 (noise + shift + 1.6 weight x mean of delta over the next 0.8 s).

    level: SDs that an SD of the error of the moment adds in P+ and takes from P-. lead_s: how much earlier a dendrite
    is for an SD of noise.
    """
    rng = np.random.default_rng(seed)
    sessions = []
    for session, delta in loops(mice, days, loop_s):
        soma = session.events[0]
        ahead = np.convolve(np.append(delta, np.zeros(11)), np.ones(12) / 12, "valid")
        signal = 1.6 * weight[soma.roi] * ahead[np.round(soma.t_s / DT_S).astype(int)]
        if level:
            error = 90 - np.nan_to_num(angle_deg(session, soma.t_s), nan=90)
            signal += level * VECTOR[soma.roi] * (error - error.mean()) / error.std()
        noise = rng.standard_normal(len(signal))
        size = 0.21 + 0.7 * soma.magnitude + 0.21 * (noise + shift + signal)
        late_s = rng.normal(0, 0.08, len(signal)) - lead_s * noise
        dendrite = PlaneEvents(soma.t_s + late_s, soma.roi, size)
        sessions.append(edit(structs.replace(session, events={0: soma, 1: dendrite})))
    return sessions
