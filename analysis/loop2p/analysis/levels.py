"""One question at the paper's level, and over mice (docs/experiment.md 3.12)."""

from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from loop2p.analysis.statistics import (
    Floats,
    Level,
    Test,
    mixed_model,
    t_one_sample,
    t_over_mice,
    t_paired,
    t_two_sample,
)


def at_levels(
    values: Floats, mouse: NDArray[Any], group: NDArray[np.bool_] | None = None, *, what: str, level: Level
) -> list[Test]:
    """The t-test of the paper at its `level`, the t-test of mouse means, and the mixed model, in this order.

    values, mouse, group: (n,), an entry for each neuron-session or session; NaN are left out. The group is compared
    with the rest; without a group, values with 0.
    """
    if group is None:
        papers = t_one_sample(values, 0.0, what=what, level=level)
    else:
        papers = t_two_sample(values[group], values[~group], what=what, level=level)
    return [papers, t_over_mice(values, mouse, group, what=what), mixed_model(values, mouse, group, what=what)]


def pairs_at_levels(first: Floats, second: Floats, mouse: NDArray[Any], *, what: str, level: Level) -> list[Test]:
    """The same of (n,) pairs, first minus second."""
    _, means, mixed = at_levels(first - second, mouse, what=what, level=level)
    return [
        t_paired(first, second, what=what, level=level),
        structs.replace(means, test="paired t of mouse means"),
        mixed,
    ]
