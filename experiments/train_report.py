"""What `experiments.train` has found: a table and figures, from saved arrays only."""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.applications import BOTH_WAYS
from experiments.results import Report, Results
from rnn_jax.training import History


def unit_of(network: str, number: int) -> str:
    """The name of a unit, which is also that of its folder; of "module:cell" without the colon."""
    return f"{network.replace(':', '.')}.{number}"


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Every look at the validation set, the test beside the baselines, learning curves."""
    first = _first(config, results)
    better = "higher" if first["higher_is_better"] else "lower"
    examples = (f"Example {n}: {line}" for n, line in enumerate(first["examples"].tolist(), 1))
    draw = {"learning": _draw_learning}
    if config.task == "forecasting":
        draw["forecast"] = _draw_forecast
    return Report(
        table=pd.DataFrame(list(_rows(config, results))),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{first['metric_name']} on the test set, {better} is better.",
            *examples,
            *first["products"].tolist(),
        ],
    )


def _first(config: ml_collections.ConfigDict, results: Results) -> Mapping[str, np.ndarray]:
    """The unit that speaks for all: of the metric, of baselines, by examples."""
    return results[unit_of(config.networks[0], 0)]


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[dict[str, Any]]:
    """One row per network, seed and look at the validation set, and one of the test."""
    for network in config.networks:
        for n in range(config.seeds):
            arrays = results[unit_of(network, n)]
            unit = {"network": network, "seed": n}
            for row in np.flatnonzero(~np.isnan(arrays["updates"])):
                look = {field: float(arrays[field][row]) for field in History._fields}
                yield unit | {"set": "validation"} | look
            best = float(arrays["updates"][arrays["best_row"]])
            tested = {"updates": best, "metric": float(arrays["test_metric"])}
            yield unit | {"set": "test"} | tested


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    first = _first(config, results)
    metric = str(first["metric_name"])
    rows = []
    for network in config.networks:
        units = [results[unit_of(network, n)] for n in range(config.seeds)]
        values = np.array([arrays["test_metric"] for arrays in units])
        best = [arrays["updates"][arrays["best_row"]] for arrays in units]
        rows.append(
            {
                "who": _label(network),
                metric: f"{values.mean():.4g}",
                "sd over seeds": f"{values.std(ddof=1):.2g}" if len(values) > 1 else "",
                "worst": f"{values.min() if first['higher_is_better'] else values.max():.4g}",
                "updates to the best": f"{np.mean(best):.0f}",
            }
        )
    baselines = zip(first["baseline_names"], first["baselines"], strict=True)
    rows += [{"who": f"baseline: {who}", metric: f"{value:.4g}"} for who, value in baselines]
    return pd.DataFrame(rows).fillna("")


def _label(network: str) -> str:
    """A network's name as a person writes it, that of one's own cell, "module:cell", as it is."""
    cell = network.removeprefix(BOTH_WAYS)
    name = cell if ":" in cell else figures.label(cell).replace("_", " ")
    return f"bidirectional {name}" if cell != network else name


def _over_seeds(
    config: ml_collections.ConfigDict, results: Results, network: str, field: str
) -> np.ndarray:
    return np.array([results[unit_of(network, n)][field] for n in range(config.seeds)])


def _draw_learning(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """The validation metric against updates, with the baselines, and the gradient's norm."""
    first = _first(config, results)
    seeds = "one seed" if config.seeds == 1 else f"median and range over {config.seeds} seeds"
    title = f"{config.task}: {seeds}; dashed: baselines on the test set"
    figure, (of_metric, of_norm) = figures.panels(2, title=title, share_y=False)
    colours = figures.colours(config.networks)
    for network in config.networks:
        style = {"color": colours[network], "label": _label(network)}
        # fmax passes over the NaN of seeds that have stopped.
        updates = np.fmax.reduce(_over_seeds(config, results, network, "updates"), axis=0)
        for axes, field in ((of_metric, "metric"), (of_norm, "log_gradient_norm")):
            _curve(axes, updates, _over_seeds(config, results, network, field), style)
    figures.levels(of_metric, dict(zip(first["baseline_names"], first["baselines"], strict=True)))
    of_metric.set(xlabel="updates", ylabel=f"{first['metric_name']}, validation set")
    of_norm.set(xlabel="updates", ylabel="ln of the largest gradient norm")
    figures.common_legend(figure, [of_metric], columns=4)
    return figure


def _curve(axes: Axes, x: np.ndarray, samples: np.ndarray, style: dict[str, Any]) -> None:
    """The median over seeds and all of their range; seeds that have stopped are left out."""
    some = ~np.isnan(samples).all(axis=0)
    x, samples = x[some], samples[:, some]
    axes.plot(x, np.nanmedian(samples, axis=0), **style)
    low, high = np.nanmin(samples, axis=0), np.nanmax(samples, axis=0)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _draw_forecast(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """The test part of a series with the forecast of each value from those before it."""
    first = _first(config, results)
    times = first["times"]
    seeds = "one seed" if config.seeds == 1 else f"{config.seeds} seeds"
    title = f"Each value forecast from those before it: test part, {seeds}"
    figure, (axes,) = figures.panels(1, title=title, width=8.0)
    if times.dtype.kind == "U":
        times = times.astype("datetime64[s]")
        figures.date_axis(axes)
    axes.plot(times, first["truth"], color="black", marker=".", label="truth")
    colours = figures.colours(config.networks)
    for network in config.networks:
        for n, forecast in enumerate(_over_seeds(config, results, network, "forecast")):
            label = _label(network) if n == 0 else None
            axes.plot(times, forecast, color=colours[network], alpha=0.6, label=label)
    best = np.argmin(first["baselines"])
    axes.plot(
        times,
        first["baseline_forecasts"][best],
        color="0.4",
        linestyle="--",
        linewidth=1.2,
        label=f"best baseline: {first['baseline_names'][best]}",
    )
    axes.set(ylabel=str(first["quantity"]), xlabel="time")
    figures.common_legend(figure, [axes], columns=4)
    return figure
