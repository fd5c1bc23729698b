"""What decoders would have found, made up: gains, residuals and shares are those that a test puts in."""

import numpy as np

from loop2p.analysis.network import Network
from loop2p.analysis.outcome import Outcomes


def made_outcomes(
    after: float = 0.11,
    before: float = 0.07,
    residual: dict[tuple[int, int], tuple[float, float, float]] | None = None,
    seed: int = 0,
    mice: int = 6,
    days: int = 14,
) -> Outcomes:
    """Accuracy less shuffled after and before, each with an SD of 0.1 over sessions.

    residual: (0 after or 1 before, 0 hit or 1 miss) -> P+, P-, P0; the others are 0, all with an SD of 0.2.
    """
    rng = np.random.default_rng(seed)
    n = mice * days
    shuffled = 0.52 + 0.03 * rng.standard_normal((n, 2))
    gain = np.array([after, before]) + 0.1 * rng.standard_normal((n, 2))
    z = 0.2 * rng.standard_normal((n, 2, 2, 3))
    for (epoch, outcome), means in ({(1, 0): (0.09, -0.11, 0.01)} if residual is None else residual).items():
        z[:, epoch, outcome] += means
    return Outcomes(
        mouse=np.repeat([f"m{k}" for k in range(mice)], days), day=np.tile(np.arange(1, days + 1), mice),
        n=np.full((n, 2), 40), accuracy=shuffled + gain, shuffled=shuffled, balanced=shuffled + gain,
        balanced_shuffled=shuffled, exchanged=shuffled, balanced_exchanged=shuffled, residual=z,
    )  # fmt: skip


def made_network(
    share: float = 0.2, accuracy: float = 0.61, p0_share: float = 0.18, p0_accuracy: float = 0.62, n_shuffles: int = 19
) -> Network:
    """800 neuron-sessions of P+ and P-, 400 of P0; shares of them significant, with these accuracies."""
    rng = np.random.default_rng(1)
    role = np.array(["plus", "minus", "other"] * 400)
    of_p0 = role == "other"
    significant = rng.random(len(role)) < np.where(of_p0, p0_share, share)
    p = np.where(significant, 0.05, rng.integers(2, 21, len(role)) / 20)
    told = np.where(significant, np.where(of_p0, p0_accuracy, accuracy), 0.5) + 0.04 * rng.standard_normal(len(role))
    return Network(
        mouse=np.repeat([f"m{k}" for k in range(6)], 200), day=np.ones(len(role), np.int64),
        roi=np.tile(np.arange(200), 6), role=role, n_events=np.full(len(role), 100), accuracy=told,
        r=np.where(significant, 0.27, 0.0) + 0.05 * rng.standard_normal(len(role)), p=p,
        accuracy_shuffled=0.5 + 0.04 * rng.standard_normal((len(role), n_shuffles)),
        r_shuffled=0.1 * rng.standard_normal((len(role), n_shuffles)),
    )  # fmt: skip
