"""Trains networks on a task, several seeds of each, beside baselines from the same data.

Run: python -m experiments.train --config=configs/train.py:TASK --workdir=runs/NAME

A unit is one network from one seed. It looks at the validation set every so many updates, keeps a
checkpoint each time and stops when nothing gets better. What was best on the validation set is
judged on the test set, once. In units/NETWORK.SEED/ of the run directory are its checkpoints, its
metrics.csv and event files for TensorBoard. A run that is stopped at any moment goes on from the
last look, to the same weights, bit for bit.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from experiments import checks, launch
from experiments.applications import (
    APPLICATIONS,
    BOTH_WAYS,
    FEED_FORWARD,
    check_data,
    check_model,
    check_network,
    model_of,
    problem_of,
    sources_of,
)
from experiments.generation import products
from experiments.rundir import check_sources
from experiments.train_report import report, unit_of
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


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration, but for its data."""
    checks.known("task", config.task, APPLICATIONS)
    check_data(config.task, config.data)
    checks.different("networks", config.networks)
    for network in config.networks:
        check_network(network, config.task)
    checks.at_least(config, 1, "seeds", "hidden_size", "layers")
    checks.at_least(config, 1, "batch", "updates", "every", "patience")
    checks.seed(config)
    checks.at_least(config, 0, "shown")
    checks.positive(config, "learning_rate")
    checks.finite(config, "weight_decay", least=0)
    if not config.clip > 0:
        raise ValueError(f"config.clip must be above 0, inf for no clipping, got {config.clip:g}")
    if "embedding" in config:
        checks.at_least(config, 1, "embedding")
        checks.positive(config, "embedding_gain")
    if "pool" in config:
        checks.known("pool", config.pool, ("last", "mean", "ends"))
    for size in config.get("features", ()):
        checks.at_least({"features": size}, 1, "features")
    checks.known("optimiser", config.optimiser, OPTIMISERS)
    if config.weight_decay and config.optimiser != "adamw":
        raise ValueError(
            f"config.weight_decay is {config.weight_decay:g}, but config.optimiser is"
            f" {config.optimiser!r}: only 'adamw' decays weights, expected 0"
        )
    checks.known("schedule", config.schedule, SCHEDULES)
    if not 0 <= config.dropout < 1:
        raise ValueError(f"config.dropout must be a rate from 0 to below 1, got {config.dropout:g}")
    checks.multiple(config, "updates", "every")


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each network and seed."""
    return [unit_of(network, n) for network in config.networks for n in range(config.seeds)]


def run_unit(
    config: ml_collections.ConfigDict, unit: str, desk: launch.Desk
) -> dict[str, np.ndarray]:
    """The `History`, what the test set says of the best parameters, the baselines and examples."""
    number = int(unit.rpartition(".")[2])
    (network,) = (network for network in config.networks if unit_of(network, number) == unit)
    problem = problem_of(config, network)
    model = model_of(config, network, problem)
    check_sources(desk.folder.parents[1], sources_of(config, network))
    key = jax.random.fold_in(jax.random.key(config.seed), number)
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
        **(_forecast(model, progress, problem) if isinstance(problem, Forecasting) else {}),
    }


def prepare(config: ml_collections.ConfigDict) -> None:
    """Reads the data and traces the first update of all networks, for the errors they may have."""
    for network in config.networks:
        try:
            problem = problem_of(config, network)
        except (TypeError, ImportError) as error:  # a field of another type, a missing package
            raise ValueError(f"config.data of {config.task}: {error}") from error
        check_model(config, problem)
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


def _forecast(model: nn.Module, progress: Progress, problem: Forecasting) -> dict[str, np.ndarray]:
    """The forecasts of the test part beside the truth and baselines, in units of the data."""
    outputs = _apply(model, progress.best, problem.test)
    series = problem.series
    times, truth, forecast = forecasts(series, np.asarray(outputs))
    unit = "" if series.unit in ("", series.name) else f" ({series.unit})"
    return {
        "times": times.astype(str) if times.dtype.kind == "M" else times,
        "truth": truth,
        "forecast": forecast,
        "baseline_forecasts": np.array([*problem.baseline_forecasts.values()]),
        "quantity": np.array(f"{series.name}{unit}"),
    }


EXPERIMENT = launch.Experiment(
    "train", validate, units, run_unit, report, prepare=prepare, sources=sources, has_desk=True
)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
