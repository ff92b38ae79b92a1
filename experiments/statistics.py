"""What is said of several seeds, some of which are trained no further before the others."""

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

NEVER = -1
"""Of a seed that was not solved, or did not diverge, the number of updates after which it did."""


def wilson(solved: int, seeds: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a probability of which ``solved`` of ``seeds`` draws are known.

    >>> low, high = wilson(5, 5)
    >>> round(low, 3), round(high, 3)
    (0.566, 1.0)
    """
    interval = binomtest(solved, seeds).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def held(losses: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """Losses (seeds, records) that stay at their last value, or at infinity, once training ends.

    >>> held(np.array([[3.0, 2.0, np.nan], [3.0, np.nan, np.nan]]), np.array([False, True]))
    array([[ 3.,  2.,  2.],
           [ 3., inf, inf]])
    """
    ended = np.isnan(losses)
    last = np.maximum.accumulate(np.where(ended, 0, np.arange(losses.shape[1])), axis=1)
    kept = np.take_along_axis(losses, last, axis=1)
    return np.where(ended & diverged[:, None], np.inf, kept)
