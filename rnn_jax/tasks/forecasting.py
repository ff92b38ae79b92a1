"""Forecasting the next value of a time series.

Shapes: N values of a series, T steps of a window, M forecasts.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax.arguments import check_positive, shown
from rnn_jax.tasks.problem import Metric, Problem
from rnn_jax.tasks.task import Example
from rnn_jax.tasks.time_series import Series

TRAINING, VALIDATION = 0.70, 0.15
"""Shares of a series, from its beginning; the rest is the test."""


@dataclass(frozen=True, kw_only=True)
class Forecasting(Problem):
    """A `Problem` whose baselines are forecasts, too.

    Attributes:
      series: what is forecast.
      baseline_forecasts: what each baseline says of the test, (M,) in units of the data, by name.
    """

    series: Series
    baseline_forecasts: Mapping[str, np.ndarray]


class Forecasts(NamedTuple):
    """What a plot shows, each (M,): times, what was measured, and what was forecast for them."""

    times: np.ndarray
    truth: np.ndarray
    forecast: np.ndarray


def forecasting(series: Series, window: int | None = None) -> Forecasting:
    """Say the next value from the changes before it: many-to-one, D = 2, O = 1.

    The target is the change from the last value to the next, y_t - y_{t-1}, over the root mean
    square of the training part's changes, so that whoever answers 0 says that nothing changes. An
    input step k is the change y_k - y_{k-1} in the same units, and y_k - y_{t-1}, the value as seen
    from the last one, over its root mean square in the training windows or that of the changes if
    it is larger. Of a trend beyond the range of the training part the model thus sees no more
    than changes like those it knows.

    Parts follow each other in time by their targets: 70 % for training, 15 % for validation, 15 %
    for the test. Windows reach back into what was known by then. A filled value is no target, nor
    is the value after one: its window would hold a line drawn to it.

    The loss is the squared error in units of the target; the metric is the RMSE in units of the
    data. Baselines, all with the true past before each target of the test:

    - persistence: the last value again;
    - seasonal naive: the value one period before;
    - AR(p): autoregression of the values on at most T + 1 before, those that a window shows;
    - ARIMA(p,1,0): autoregression of the changes on at most T before.

    Both are fitted by least squares to the training part, with a constant and the order p of the
    smallest AIC there.

    Args:
      series: `rnn_jax.tasks.series` or `rnn_jax.tasks.series_from_csv`.
      window: T; by default period + 1, and 24 without a period.

    Raises:
      TypeError, ValueError: for a window that is no integer above 0; for a series too short for it
        or for its period, whose training part does not change, or of which a part has no target.

    >>> from rnn_jax.tasks.time_series import series
    >>> sunspots = forecasting(series("sunspots"))
    >>> sunspots.train.inputs.shape, sunspots.test.target.shape
    ((203, 12, 2), (47,))
    >>> {name: round(rmse, 1) for name, rmse in sunspots.baselines.items()}
    {'persistence': 29.1, 'seasonal naive': 34.8, 'AR(9)': 17.7, 'ARIMA(10,1,0)': 18.3}
    """
    if not isinstance(series, Series):
        raise TypeError(f"forecasting: series must be a Series, got {shown(series)}")
    if window is None:
        window = 24 if series.period is None else series.period + 1
    window = check_positive("forecasting: window", window)
    values, count = series.values, len(series.values)
    # Of which 70 % train: 1.8 T + 13 equations for the T + 2 coefficients of the largest
    # autoregression.
    if count < (needed := 4 * window + 20):
        raise ValueError(
            f"forecasting: {series.name!r} has {count} values, expected at least {needed} for a "
            f"window of {window}"
        )
    if series.period is not None and series.period > TRAINING * count:
        raise ValueError(
            f"forecasting: the period of {series.name!r} is {series.period}, expected at most "
            f"{TRAINING:.0%} of its {count} values"
        )
    train, validation, test = _parts(series)
    scale = _scale(series)
    train = train[train > window]

    def relative(targets: np.ndarray) -> np.ndarray:
        """What each window shows as seen from its last value, (M, T)."""
        return values[targets[:, None] + np.arange(-window, 0)] - values[targets - 1, None]

    spread = max(scale, np.sqrt(np.mean(np.square(relative(train)))))

    def examples(targets: np.ndarray) -> Example:
        steps = targets[:, None] + np.arange(-window, 0)
        changes = (values[steps] - values[steps - 1]) / scale
        inputs = np.stack([changes, relative(targets) / spread], axis=2).astype(np.float32)
        target = ((values[targets] - values[targets - 1]) / scale).astype(np.float32)
        return Example(inputs, target, np.ones(steps.shape, bool))

    def loss(outputs: jax.Array, example: Example) -> jax.Array:
        return optax.squared_error(outputs[0], example.target.astype(outputs.dtype))

    def measure(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
        return loss(outputs, example), jnp.ones((), outputs.dtype)

    def show(outputs: jax.Array, example: Example) -> dict[str, str]:
        change, forecast = (scale * float(x) for x in (example.target, outputs[0]))
        return {
            "change": f"{change:+.4g} {series.unit}".rstrip(),
            "forecast": f"{forecast:+.4g} {series.unit}".rstrip(),
        }

    training = examples(train)
    unit = f" ({series.unit})" if series.unit else ""
    said = _baselines(series, window, fitted=train[-1] + 1, test=test)
    rmse = lambda forecast: float(np.sqrt(np.mean(np.square(values[test] - forecast))))
    return Forecasting(
        name=f"forecast of {series.name}",
        topology="many_to_one",
        train=training,
        validation=examples(validation),
        test=examples(test),
        loss=loss,
        metric=Metric(f"RMSE{unit}", measure, lambda mean: scale * mean**0.5),
        output_size=1,
        baselines={name: rmse(forecast) for name, forecast in said.items()},
        series=series,
        baseline_forecasts=said,
        initial_loss=float(np.mean(np.square(training.target))),
        show=show,
    )


def forecasts(series: Series, outputs: np.ndarray) -> Forecasts:
    """A model's outputs for the test examples of `forecasting`, (M, 1), in units of the data.

    Raises:
      ValueError: for another number of outputs.

    >>> from rnn_jax.tasks.time_series import series
    >>> sunspots = series("sunspots")
    >>> nothing_changes = forecasts(sunspots, np.zeros((47, 1)))
    >>> nothing_changes.times[0].item(), nothing_changes.forecast[0] == sunspots.values[261]
    (1962, np.True_)
    """
    test = _parts(series)[2]
    outputs = np.asarray(outputs, float)
    if outputs.shape != (len(test), 1):
        raise ValueError(
            f"forecasts: outputs must be of shape {(len(test), 1)}, got {outputs.shape}"
        )
    forecast = series.values[test - 1] + _scale(series) * outputs[:, 0]
    return Forecasts(series.times[test], series.values[test], forecast)


def _parts(series: Series) -> list[np.ndarray]:
    """Where the targets of training, validation and test stand in the series."""
    count = len(series.values)
    ends = [int(TRAINING * count), int((TRAINING + VALIDATION) * count)]
    targets = 1 + np.flatnonzero(series.known[1:] & series.known[:-1])
    parts = np.split(targets, np.searchsorted(targets, ends))
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) == 0:
            raise ValueError(
                f"forecasting: {series.name!r} has no two values in succession in its {name} part"
            )
    return parts


def _scale(series: Series) -> float:
    """The root mean square of the training part's changes, in units of the data."""
    train = _parts(series)[0]
    changes = series.values[train] - series.values[train - 1]
    scale = float(np.sqrt(np.mean(np.square(changes))))
    if not 0 < scale < np.inf:
        raise ValueError(
            f"forecasting: changes of {series.name!r} have the root mean square {scale} in its "
            "training part, expected a finite number above 0"
        )
    return scale


def _baselines(series: Series, window: int, fitted: int, test: np.ndarray) -> dict[str, np.ndarray]:
    """Simple forecasts of the test, (M,), those with parameters fitted to values[:fitted]."""
    values, last = series.values, series.values[test - 1]
    baselines = {"persistence": last}
    if series.period is not None:
        baselines["seasonal naive"] = values[test - series.period]
    order, next_values = _autoregression(values, fitted, window + 1)
    baselines[f"AR({order})"] = next_values[test]
    order, changes = _autoregression(np.diff(values), fitted - 1, window)
    baselines[f"ARIMA({order},1,0)"] = last + changes[test - 1]
    return baselines


def _autoregression(values: np.ndarray, fitted: int, most: int) -> tuple[int, np.ndarray]:
    """The order and forecasts (N,), each from true values before it; NaN where they are too few."""
    from statsmodels.tsa.ar_model import AutoReg, ar_select_order  # type: ignore[import-untyped]

    # Series without noise: of many perfect fits, AIC -inf, all forecast the same.
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", "The design matrix is rank-deficient")
        chosen = ar_select_order(values[:fitted], maxlag=most, ic="aic")
        parameters = chosen.model.fit().params
    lags = chosen.ar_lags  # None for none
    return len(lags or ()), AutoReg(values, lags).predict(parameters)
