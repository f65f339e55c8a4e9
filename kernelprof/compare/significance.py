"""Which of many effects are told, so that hardly any comparison of equal runs tells a false one."""

from __future__ import annotations

from collections.abc import Sequence

ALPHA = 0.02  # the probability that anything is told where nothing changed: 1 pair of runs in 50


def levels(p_values: Sequence[float], weights: Sequence[float], alpha: float) -> list[float]:
    """The level at which each hypothesis is tested; it is rejected if its p is not above that.

    Holm's procedure with weights (Scandinavian Journal of Statistics 6, 1979, section 4): whatever
    depends on what, no true hypothesis is rejected with a probability of ``1 - alpha``.  That is
    the error that counts where a single false alarm stops a pull request; the false discovery rate
    of Benjamini and Hochberg would allow for more alarms the more is really slower.
    """
    found = [0.0] * len(p_values)
    left = float(sum(weights))
    rejecting = True
    for place in sorted(range(len(p_values)), key=lambda n: p_values[n] / weights[n]):
        found[place] = alpha * weights[place] / left
        rejecting = rejecting and p_values[place] <= found[place]
        if rejecting:
            left -= weights[place]
    return found
