"""Sessions of two passive blocks, control and perturbed, and a loop whose events are far off."""

from pathlib import Path

import numpy as np

from loop2p.analysis.perturbation import LED
from loop2p.analysis.sessions import PlaneEvents, SessionData

BLOCK_S, N = 776.0, 60
ROLE = np.array(["plus"] * 4 + ["minus"] * 4 + ["other"] * (N - 8))


def blocks_session(mouse: int, day: int, shift: float, factor: float, names=LED, dilute: float = 0.0) -> SessionData:
    """Two blocks; in the second, residuals are shifted by SDs and rates multiplied. Events in the loop are far off.

    dilute: SD of the error of somatic sizes, in logarithms.
    """
    rng = np.random.default_rng([mouse, day, 7])
    rate_hz = 0.04 * np.exp(0.3 * rng.standard_normal(N))
    shift_of_mouse = 0.1 * np.random.default_rng([mouse, 8]).standard_normal()
    parts = []
    for begin_s, shifted, times in ((0.0, 0.0, 1.0), (1000.0, shift + shift_of_mouse, factor), (2000.0, 30.0, 3.0)):
        counts = rng.poisson(rate_hz * times * BLOCK_S)
        roi = np.repeat(np.arange(N), counts)
        soma = rng.lognormal(-0.4, 0.45, len(roi))
        dendrite = 0.2 + 0.7 * soma + 0.2 * (rng.standard_normal(len(roi)) + shifted)
        seen = soma * np.exp(dilute * rng.standard_normal(len(roi)))
        parts.append(np.array([rng.uniform(begin_s, begin_s + BLOCK_S, len(roi)), roi, seen, dendrite]))
    t_s, roi, soma, dendrite = np.concatenate(parts, axis=1)[:, np.argsort(np.concatenate([p[0] for p in parts]))]
    none = np.zeros(0)
    return SessionData(
        path=Path(f"{mouse}-{day}.nwb"), mouse=f"m{mouse}", day=day, role=ROLE, start_s=none,
        outcome=np.zeros(0, np.str_), hit_s=none, reward_s=none,
        phases=[
            ("baseline", names[0], 0.0, BLOCK_S), ("paused", "wait", BLOCK_S, 1000.0),
            ("baseline", names[1], 1000.0, 1000.0 + BLOCK_S), ("closed_loop", "", 2000.0, 2000.0 + BLOCK_S),
        ],
        shown_s=none, shown_deg=none, lick_s=none, speed_cm_s=none,
        events={0: PlaneEvents(t_s, roi.astype(int), soma), 1: PlaneEvents(t_s + 0.05, roi.astype(int), dendrite)},
    )  # fmt: skip
