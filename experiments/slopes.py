"""How fast a curve in log space falls with the lag."""

import numpy as np


def fit_window(steps: int) -> tuple[int, int]:
    """The lags of the fit: without the transients of the loss and of the initial state."""
    edge = min(20, steps // 4)
    return edge, steps - edge


def fitted_slope(log_norms: np.ndarray) -> tuple[float, float]:
    """Nats per step of lag and its standard error over seeds.

    A least-squares line through the median over samples of each seed, within `fit_window`;
    ``log_norms`` is (seeds, samples, steps + 1), entry t at lag steps - t. A single seed has no
    error: NaN. Gradients of exactly zero have no slope either.
    """
    first, last = fit_window(log_norms.shape[-1] - 1)
    lags = np.arange(first, last + 1)
    return slope_through(lags, quantiles(log_norms, axis=1)[1][:, ::-1][:, lags])


def slope_through(lags: np.ndarray, medians: np.ndarray) -> tuple[float, float]:
    """The same of what is left within the window: medians (seeds, lags) at some lags."""
    if not np.isfinite(medians).all():
        return float("nan"), float("nan")
    slopes = np.array([np.polyfit(lags, one, 1)[0] for one in medians.astype(np.float64)])
    seeds = len(slopes)
    return slopes.mean(), slopes.std(ddof=1) / seeds**0.5 if seeds > 1 else float("nan")


def shown_slope(slope: float, error: float) -> str:
    """A slope of `fitted_slope` and its error as a table has them.

    >>> shown_slope(-0.2, 0.01), shown_slope(-0.2, float("nan"))
    ('-0.2000 ± 0.0100', '-0.2000')
    """
    if np.isnan(slope):
        return "none: exact zeros"
    return f"{slope:+.4f}" if np.isnan(error) else f"{slope:+.4f} ± {error:.4f}"


def quantiles(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """10 %, median and 90 %, each an observed value: -inf may be among them."""
    return np.quantile(values, (0.1, 0.5, 0.9), axis=axis, method="closest_observation")


def first_crossing(x: np.ndarray, values: np.ndarray) -> str:
    """Where a line through the finite points crosses zero upwards for the first time.

    >>> first_crossing(np.array([1.0, 2.0, 3.0, 4.0]), np.array([-np.inf, -1.0, np.nan, 1.0]))
    '3.000'
    """
    finite = np.isfinite(values)
    x, values = x[finite], values[finite]
    up = np.flatnonzero((values[:-1] < 0) & (values[1:] >= 0))
    if not up.size:
        return "not seen"
    i = up[0]
    part = -values[i] / (values[i + 1] - values[i])
    return f"{x[i] + part * (x[i + 1] - x[i]):.3f}"


def spread(values: np.ndarray) -> str:
    """Mean and standard error over the seeds with a finite value, and how many have none.

    >>> spread(np.array([0.1, 0.2, 0.3]))
    '+0.2000 ± 0.0577'
    >>> spread(np.array([0.1, -np.inf, 0.2, 0.3]))
    '+0.2000 ± 0.0577 (1 of 4 without)'
    >>> spread(np.array([np.nan, -np.inf]))
    'none'
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "none"
    shown = f"{finite.mean():+.4f}"
    if finite.size > 1:
        shown += f" ± {finite.std(ddof=1) / finite.size**0.5:.4f}"
    left_out = values.size - finite.size
    return shown + (f" ({left_out} of {values.size} without)" if left_out else "")
