"""Trains networks on a task, several seeds of each, beside baselines from the same data.

Run: python -m experiments.train --config=configs/train.py:TASK --workdir=runs/NAME

A unit is one network from one seed. It looks at the validation set every so many updates, keeps a
checkpoint each time and stops when nothing gets better. What was best on the validation set is
judged on the test set, once. In units/NETWORK.SEED/ of the run directory are its checkpoints, its
metrics.csv and event files for TensorBoard. A run that is stopped at any moment goes on from the
last look, to the same weights, bit for bit.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from flax import linen as nn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import checks, figures, launch
from experiments.applications import (
    APPLICATIONS,
    BOTH_WAYS,
    FEED_FORWARD,
    check_data,
    check_network,
    model_of,
    problem_of,
    series_of,
    sources_of,
)
from experiments.generation import products
from experiments.rundir import check_sources
from rnn_jax.base import Params
from rnn_jax.cells import told
from rnn_jax.tasks import Example, Problem, forecasts
from rnn_jax.tasks.forecasting import Forecasting
from rnn_jax.training import (
    OPTIMISERS,
    SCHEDULES,
    Checkpoints,
    Diverged,
    History,
    MetricsWriter,
    Progress,
    Recipe,
    best_row,
    check,
    evaluate,
    fit,
    make_optimiser,
)

Results = Mapping[str, Mapping[str, np.ndarray]]


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration, but for its data."""
    checks.known("task", config.task, APPLICATIONS)
    check_data(config.task, config.data)
    checks.different("networks", config.networks)
    for network in config.networks:
        check_network(network, config.task)
    checks.at_least(config, 1, "seeds", "hidden_size", "layers", "embedding")
    checks.at_least(config, 1, "batch", "updates", "every", "patience")
    checks.seed(config)
    checks.at_least(config, 0, "shown")
    checks.positive(config, "learning_rate", "embedding_gain")
    checks.finite(config, "weight_decay", least=0)
    if not config.clip > 0:
        raise ValueError(f"config.clip must be above 0, inf for no clipping, got {config.clip:g}")
    for size in config.features:
        checks.at_least({"features": size}, 1, "features")
    checks.known("optimiser", config.optimiser, OPTIMISERS)
    if config.weight_decay and config.optimiser != "adamw":
        raise ValueError(
            f"config.weight_decay is {config.weight_decay:g}, but config.optimiser is"
            f" {config.optimiser!r}: only 'adamw' decays weights, expected 0"
        )
    checks.known("schedule", config.schedule, SCHEDULES)
    checks.known("pool", config.pool, ("last", "mean", "ends"))
    if not 0 <= config.dropout < 1:
        raise ValueError(f"config.dropout must be a rate from 0 to below 1, got {config.dropout:g}")
    if config.updates % config.every:
        raise ValueError(
            f"config.updates must be a multiple of every = {config.every}, got {config.updates}"
        )


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each network and seed."""
    return [unit_of(network, n) for network in config.networks for n in range(config.seeds)]


def unit_of(network: str, number: int) -> str:
    """The name of a unit, which is also that of its folder; of "module:cell" without the colon."""
    return f"{network.replace(':', '.')}.{number}"


def run_unit(
    config: ml_collections.ConfigDict, unit: str, desk: launch.Desk
) -> dict[str, np.ndarray]:
    """The `History`, what the test set says of the best parameters, the baselines and examples."""
    name, _, number = unit.rpartition(".")
    (network,) = (network for network in config.networks if network.replace(":", ".") == name)
    problem = problem_of(config, network)
    model = model_of(config, network, problem)
    check_sources(desk.folder.parents[1], sources_of(config, network))
    key = jax.random.fold_in(jax.random.key(config.seed), int(number))
    with (
        Checkpoints(desk.folder / "checkpoints") as checkpoints,
        MetricsWriter(desk.folder, problem.metric.name) as writer,
    ):
        try:
            for progress in fit(model, problem, recipe_of(config), key, checkpoints=checkpoints):
                writer.write(progress.history)
                desk.tell(int(progress.state.step), config.updates, _how_it_goes(progress, problem))
        except Diverged as error:
            kept = checkpoints.path(error.good_step)
            raise launch.UserError(
                f"{unit}: {error} ({kept}); try a smaller learning_rate in another --workdir"
            ) from None
    loss, metric = evaluate(model, problem, progress.best, problem.test)
    made = products(jax.random.fold_in(key, 1), model, progress.best, problem, desk.folder)
    names = list(problem.baselines)
    return {
        **{name: np.asarray(column) for name, column in progress.history._asdict().items()},
        "test_loss": np.array(loss),
        "test_metric": np.array(metric),
        "best_row": np.array(best_row(progress.history, problem.metric)),
        "metric_name": np.array(problem.metric.name),
        "higher_is_better": np.array(problem.metric.higher_is_better),
        "baseline_names": np.array(names, str),
        "baselines": np.array([problem.baselines[name] for name in names], float),
        "examples": np.array(_examples(model, problem, progress, config.shown), str),
        "products": np.array([*made, *problem.notes], str),
        **(_forecast(config, model, progress, problem) if isinstance(problem, Forecasting) else {}),
    }


def prepare(config: ml_collections.ConfigDict) -> None:
    """Reads the data and traces the first update of all networks, for the errors they may have."""
    for network in config.networks:
        try:
            problem = problem_of(config, network)
        except (TypeError, ImportError) as error:  # a field of another type, a missing package
            raise ValueError(f"config.data of {config.task}: {error}") from error
        if network == FEED_FORWARD and problem.topology != "one_to_one":
            raise ValueError(
                f"config.networks: {FEED_FORWARD} reads no sequences, as {config.task} has"
            )
        try:
            check(model_of(config, network, problem), problem, recipe_of(config))
        except Exception as error:
            cell = network.removeprefix(BOTH_WAYS)
            if not (isinstance(error, TypeError | ValueError) or ":" in cell):
                raise
            raise ValueError(
                f"config.networks: {network}, {config.task}: {told(cell, error)}"
            ) from error


def sources(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Those of all networks."""
    found: dict[str, str] = {}
    for network in config.networks:
        found |= sources_of(config, network)
    return found


def recipe_of(config: ml_collections.ConfigDict) -> Recipe:
    """How a configuration says to train."""
    optimiser = make_optimiser(
        config.optimiser,
        config.learning_rate,
        schedule=config.schedule,
        updates=config.updates,
        clip=config.clip,
        **({"weight_decay": config.weight_decay} if config.optimiser == "adamw" else {}),
    )
    return Recipe(optimiser, config.batch, config.updates, config.every, config.patience)


def _how_it_goes(progress: Progress, problem: Problem) -> str:
    rows = ~np.isnan(progress.history.updates)
    last = History(*(np.asarray(column)[rows][-1] for column in progress.history))
    parts = {
        "loss": f"{last.train_loss:.4g}",
        problem.metric.name: f"{last.metric:.4g}",
        "ln gradient norm": f"{last.log_gradient_norm:.2f}",
    }
    # Before the first update there is neither a loss nor a gradient.
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value != "nan")


def _examples(model: nn.Module, problem: Problem, progress: Progress, count: int) -> list[str]:
    """What the first test examples look like, and what the network says of them, a line each."""
    if problem.show is None:
        return []
    first = jax.tree.map(lambda leaf: leaf[:count], problem.test)
    lines = []
    for n, outputs in enumerate(np.asarray(_apply(model, progress.best, first))):
        example = jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n]), first)
        shown = problem.show(outputs, example)
        one_line = {column: text for column, text in shown.items() if "\n" not in text}
        lines.append("; ".join(f"{column}: {text}" for column, text in one_line.items()))
    return lines


def _apply(model: nn.Module, params: Params, examples: Example) -> jax.Array:
    """The outputs of all examples."""

    @jax.jit
    @jax.vmap
    def apply(example: Example) -> Any:
        return model.apply({"params": params}, example.inputs, example.mask)

    return apply(jax.tree.map(jnp.asarray, examples))


def _forecast(
    config: ml_collections.ConfigDict, model: nn.Module, progress: Progress, problem: Forecasting
) -> dict[str, np.ndarray]:
    """The forecasts of the test part beside the truth and baselines, in units of the data."""
    outputs = _apply(model, progress.best, problem.test)
    series = series_of(config.data)
    times, truth, forecast = forecasts(series, np.asarray(outputs))
    unit = "" if series.unit in ("", series.name) else f" ({series.unit})"
    return {
        "times": times.astype(str) if times.dtype.kind == "M" else times,
        "truth": truth,
        "forecast": forecast,
        "baseline_forecasts": np.array([*problem.baseline_forecasts.values()]),
        "quantity": np.array(f"{series.name}{unit}"),
    }


def report(config: ml_collections.ConfigDict, results: Results) -> launch.Report:
    """Every look at the validation set, the test beside the baselines, learning curves."""
    first = results[units(config)[0]]
    name, higher = str(first["metric_name"]), bool(first["higher_is_better"])
    rows = []
    for network in config.networks:
        for n in range(config.seeds):
            arrays = results[unit_of(network, n)]
            unit = {"network": network, "seed": n}
            for row in np.flatnonzero(~np.isnan(arrays["updates"])):
                look = {field: float(arrays[field][row]) for field in History._fields}
                rows.append(unit | {"set": "validation"} | look)
            best = float(arrays["updates"][arrays["best_row"]])
            tested = {"updates": best, "metric": float(arrays["test_metric"])}
            rows.append(unit | {"set": "test"} | tested)
    table = pd.DataFrame(rows)

    summary = []
    for network in config.networks:
        tests = table[(table["network"] == network) & (table["set"] == "test")]
        values = tests["metric"]
        summary.append(
            {
                "who": _label(network),
                name: f"{values.mean():.4g}",
                "sd over seeds": f"{values.std():.2g}" if len(values) > 1 else "",
                "worst": f"{values.min() if higher else values.max():.4g}",
                "updates to the best": f"{tests['updates'].mean():.0f}",
            }
        )
    summary += [
        {"who": f"baseline: {who}", name: f"{value:.4g}"}
        | dict.fromkeys(("sd over seeds", "worst", "updates to the best"), "")
        for who, value in zip(first["baseline_names"], first["baselines"], strict=True)
    ]
    notes = [f"{name} on the test set, {'higher' if higher else 'lower'} is better."]
    notes += [f"Example {n}: {line}" for n, line in enumerate(first["examples"].tolist(), 1)]
    notes += first["products"].tolist()
    drawings = {"learning": lambda: draw_learning(config, results)}
    if config.task == "forecasting":
        drawings["forecast"] = lambda: draw_forecast(config, results)
    return launch.Report(
        table,
        pd.DataFrame(summary),
        drawings,
        notes,
    )


def _label(network: str) -> str:
    """A network's name as a person writes it, that of one's own cell, "module:cell", as it is."""
    cell = network.removeprefix(BOTH_WAYS)
    name = cell if ":" in cell else figures.label(cell).replace("_", " ")
    return f"bidirectional {name}" if cell != network else name


def _over_seeds(
    config: ml_collections.ConfigDict, results: Results, network: str, field: str
) -> np.ndarray:
    return np.array([results[unit_of(network, n)][field] for n in range(config.seeds)])


@figures.styled
def draw_learning(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """The validation metric against updates, with the baselines, and the gradient's norm."""
    first = results[units(config)[0]]
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


@figures.styled
def draw_forecast(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """The test part of a series with the forecast of each value from those before it."""
    network = config.networks[0]
    first = results[unit_of(network, 0)]
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


EXPERIMENT = launch.Experiment(
    "train", validate, units, run_unit, report, prepare=prepare, sources=sources, has_desk=True
)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
