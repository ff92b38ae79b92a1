"""How long a sequence can be for a network to learn what it has to remember.

Run: python -m experiments.long_dependencies --config=configs/long_dependencies.py
--workdir=runs/NAME

Success against length for vanilla RNN, IRNN, LSTM, GRU and an orthogonal network, and what becomes
of the gradient in training. A seed is trained until the task is solved, by the ``criterion`` of the
task: "wrong" and "loss", of a test on fresh sequences every so many updates, or "hochreiter", of
the sequences that it is trained on (`rnn_jax.tasks.task.solved_after`); each with a ``threshold``.
A seed gives all cells the same batches. Variants of the configuration repeat single experiments of
Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735; Pascanu, Mikolov and Bengio
(2013), arXiv:1211.5063; Le, Jaitly and Hinton (2015), arXiv:1504.00941.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments import checks, launch
from experiments.learners import Learner, draw_batch, init_network, make_chunk, make_update, scores
from experiments.long_dependencies_report import TASKS, parts_of, report, unit_of
from experiments.statistics import NEVER
from rnn_jax import schemes
from rnn_jax.analysis import gradient_flow
from rnn_jax.base import Params
from rnn_jax.cells import CELLS, lookup
from rnn_jax.sharding import over_replicas
from rnn_jax.tasks.bits import delayed_xor, parity
from rnn_jax.tasks.long_dependencies import (
    adding,
    copy_memory,
    multiplication,
    random_permutation,
    temporal_order,
)
from rnn_jax.tasks.pixels import pixel_digits
from rnn_jax.tasks.task import Task, of_varied_length, solved_after

RUN = 2000
"""Sequences in a row that must be right by the criterion of Hochreiter and Schmidhuber."""
CRITERIA = ("wrong", "loss", "hochreiter")
READERS = [cell for cell in CELLS if cell != "convlstm"]
"""Cells that read vectors."""
INITIALISATIONS = ("orthogonal", "smart_tanh", "chrono")
CONNECTIONS, DEVIATION = 15, 0.01
"""Into each unit, and of what is not recurrent, of the smart initialisation."""
OPTIMISERS: dict[str, Callable[[float], Any]] = {"adam": optax.adam, "sgd": optax.sgd}
MAKE: dict[str, Callable[[int], Task]] = {
    "adding": lambda length: adding(),
    "adding_hochreiter": lambda length: adding("hochreiter"),
    "adding_pascanu": lambda length: adding("pascanu"),
    "multiplication": lambda length: multiplication(),
    "copy": lambda length: copy_memory(),
    "temporal_order": lambda length: temporal_order(),
    "temporal_order_of_3": lambda length: temporal_order(signs=3),
    "temporal_order_hochreiter": lambda length: temporal_order("hochreiter"),
    "temporal_order_of_3_hochreiter": lambda length: temporal_order("hochreiter", signs=3),
    "delayed_xor": lambda length: delayed_xor(length // 4),
    "parity": lambda length: parity(),
    "parity_each_step": lambda length: parity("each step"),
    "random_permutation": lambda length: random_permutation(),
    "pixel_digits": lambda length: pixel_digits(),
    "permuted_pixel_digits": lambda length: pixel_digits(permuted=True),
}
TESTS: dict[str, Callable[[int], Task]] = {
    "pixel_digits": lambda length: pixel_digits(part="test"),
    "permuted_pixel_digits": lambda length: pixel_digits(permuted=True, part="test"),
}
"""Where tests are not made of other draws of the same."""


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "hidden_size", "batch", "every", "test", "measured")
    checks.seed(config)
    checks.at_least(config, 0, "spread")
    checks.at_least(config, config.every, "updates")
    checks.different("tasks", config.tasks, TASKS)
    checks.different("cells", config.cells, READERS)
    checks.known("optimiser", config.optimiser, OPTIMISERS)
    checks.known("initialisation", config.initialisation, INITIALISATIONS)
    checks.multiple(config, "updates", "every")
    if config.initialisation == "smart_tanh" and config.hidden_size < CONNECTIONS:
        raise ValueError(
            f"config.hidden_size must be at least {CONNECTIONS} for smart_tanh, "
            f"got {config.hidden_size}"
        )
    for table in ("lengths", "shown", "criterion", "threshold"):
        _named(config, table, config.tasks)
    _named(config, "learning_rates", config.cells)
    for name in config.tasks:
        _validate_task(config, name)
    rates = (f"learning_rates.{cell}" for cell in config.cells)
    checks.positive(config, "clip", *rates, *(f"threshold.{name}" for name in config.tasks))
    checks.finite(config, "forget_bias")


def _named(config: ml_collections.ConfigDict, table: str, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in config[table]:
            raise ValueError(f"config.{table} has nothing for {name}, only {list(config[table])}")


def _validate_task(config: ml_collections.ConfigDict, name: str) -> None:
    lengths, criterion = list(config.lengths[name]), config.criterion[name]
    checks.known(f"criterion.{name}", criterion, CRITERIA)
    if criterion == "hochreiter" and RUN % config.batch:
        raise ValueError(
            f"config.batch must divide {RUN} for the criterion hochreiter, got {config.batch}"
        )
    if not lengths or lengths != sorted(set(lengths)):
        raise ValueError(f"config.lengths.{name} must be increasing numbers, got {lengths}")
    if config.shown[name] not in lengths:
        raise ValueError(
            f"config.shown.{name} must be one of the lengths {lengths}, got {config.shown[name]}"
        )
    for length in lengths:
        try:
            _, test = _tasks(name, length, config.spread)
            jax.eval_shape(functools.partial(test.sample, steps=length), jax.random.key(0))
        except ValueError as error:
            raise ValueError(f"config.lengths.{name}: {error}") from None


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each task, length and cell."""
    return [
        unit_of(task, length, cell)
        for task in config.tasks
        for length in config.lengths[task]
        for cell in config.cells
    ]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """What is recorded before training and every so many updates, and when seeds were settled.

    Of a test ``test_loss`` and ``test_error`` (seeds, updates / every + 1), of the batches since
    the last record their mean ``loss`` and ``error``, NaN in the first; ``log_norm`` (...,
    length + 1) of the gradient, the median over sequences; all NaN once a seed is trained no
    further. ``solved_at`` and ``diverged_at`` (seeds,) are numbers of updates, or `NEVER`.
    ``baseline`` is the loss of the best answer that remembers nothing.
    """
    name, length, cell_name = parts_of(unit)
    train, test = _tasks(name, length, config.spread)
    programs = _programs(config, train, test, length, cell_name)
    of_networks, of_batches, of_tests = jax.random.split(jax.random.key(config.seed), 3)
    keys, test_keys = (jax.random.split(key, config.seeds) for key in (of_batches, of_tests))
    learners = programs.start(jax.random.split(of_networks, config.seeds))

    solved_at, diverged_at = np.full((2, config.seeds), NEVER)
    seen: list[dict[str, np.ndarray]] = []
    records: list[dict[str, np.ndarray]] = []
    for done in range(0, config.updates + 1, config.every):
        settled = (solved_at != NEVER) | (diverged_at != NEVER)
        if settled.all():
            break
        # The first record is that of the initial network.
        trained = ~settled & (done > 0)
        counts = np.full(config.seeds, max(done - config.every, 0), np.int32)
        learners, batches, record = programs.train(learners, keys, test_keys, counts, trained)
        if done:
            seen.append(batches)
        record |= {part: values.mean(axis=1) for part, values in batches.items()}
        for part, values in record.items():
            record[part] = np.where(
                settled if values.ndim == 1 else settled[:, None], np.nan, values
            )
        records.append(record)
        solved_at = np.where(settled, solved_at, _solved(config, name, done, record, seen))
        diverged_at[~settled & ~np.isfinite(record["test_loss"])] = done
    missing = config.updates // config.every + 1 - len(records)
    arrays = {}
    for part in records[0]:
        values = np.stack([record[part] for record in records], axis=1)
        never = np.full((config.seeds, missing, *values.shape[2:]), np.nan, values.dtype)
        arrays[part] = np.concatenate([values, never], axis=1)
    baseline = np.array(test.baseline(length))
    return arrays | {"solved_at": solved_at, "diverged_at": diverged_at, "baseline": baseline}


def _solved(
    config: ml_collections.ConfigDict,
    name: str,
    done: int,
    record: dict[str, np.ndarray],
    seen: list[dict[str, np.ndarray]],
) -> np.ndarray:
    """After how many updates each seed has solved the task, (seeds,), or `NEVER`."""
    criterion, threshold = config.criterion[name], config.threshold[name]
    if criterion != "hochreiter":
        now = record["test_error" if criterion == "wrong" else "test_loss"] < threshold
        return np.where(now, done, NEVER)
    if not seen:
        return np.full(config.seeds, NEVER)
    losses, errors = (
        np.concatenate([batches[part] for batches in seen], axis=1) for part in ("loss", "error")
    )
    run = RUN // config.batch
    counts = [
        solved_after(*series, mean_loss=threshold, run=run)
        for series in zip(losses, errors, strict=True)
    ]
    return np.array([NEVER if count is None else count for count in counts])


def _tasks(name: str, length: int, spread: int) -> tuple[Task, Task]:
    """What is trained on and what is tested on."""
    train = MAKE[name](length)
    test = TESTS[name](length) if name in TESTS else train
    return train, of_varied_length(test, length - spread) if spread else test


class _Programs(NamedTuple):
    """Compiled functions of all seeds."""

    start: Callable[..., Learner]
    train: Callable[..., tuple[Learner, dict[str, np.ndarray], dict[str, np.ndarray]]]
    """(learners, keys, keys of tests, updates done, whether to train) -> (learners, loss and error
    of each batch, NaN where not trained, and a record of the learners then)."""


def _programs(
    config: ml_collections.ConfigDict, train: Task, test: Task, length: int, name: str
) -> _Programs:
    cell = lookup(name)
    scheme, readout_scale = _initialisation(config, name, length)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.clip),
        OPTIMISERS[config.optimiser](config.learning_rates[name]),
    )

    def start(key: jax.Array) -> Learner:
        params = init_network(
            key, cell, train, config.hidden_size, scheme=scheme, readout_scale=readout_scale
        )
        return Learner(params, optimiser.init(params))

    lengths = (length - config.spread, length) if config.spread else None
    update = make_update(cell, train, optimiser, batch=config.batch, steps=length, lengths=lengths)
    observe = lambda learner, seen: {"loss": seen.loss, "error": seen.error}
    chunk = make_chunk(update, observe, every=config.every)

    def look(key: jax.Array, params: Params) -> dict[str, jax.Array]:
        of_test, of_sequences, of_readouts = jax.random.split(key, 3)
        loss, error = scores(cell, test, params, draw_batch(of_test, test, config.test, length))
        xs = draw_batch(of_sequences, test, config.measured, length, jnp.asarray(length)).inputs
        readouts = jax.random.normal(of_readouts, (config.measured, config.hidden_size))
        readouts /= jnp.linalg.norm(readouts, axis=-1, keepdims=True)
        flow = lambda xs, readout: gradient_flow(cell, params["cell"], xs, readout).log_norm
        log_norm = jnp.median(jax.vmap(flow)(xs, readouts), axis=0)
        return {"test_loss": loss, "test_error": error, "log_norm": log_norm}

    def replica(
        learner: Learner, key: jax.Array, test_key: jax.Array, done: jax.Array, trained: jax.Array
    ) -> tuple[Learner, dict[str, jax.Array], dict[str, jax.Array]]:
        nothing = jnp.full(config.every, jnp.nan)
        learner, batches = jax.lax.cond(
            trained,
            lambda: chunk(learner, key, done),
            lambda: (learner, {"loss": nothing, "error": nothing}),
        )
        return learner, batches, look(test_key, learner.params)

    return _Programs(over_replicas(start), over_replicas(replica))


def _initialisation(
    config: ml_collections.ConfigDict, name: str, length: int
) -> tuple[schemes.Scheme | None, float]:
    """The scheme of a cell, None for that of its own paper, and the deviation of the readout."""
    scale = config.hidden_size**-0.5
    if name not in ("elman", "lstm", "gru"):
        return None, scale
    if config.initialisation == "chrono" and name != "elman":
        return schemes.chrono(length), scale
    bias = 0.0 if name == "elman" else config.forget_bias
    if config.initialisation != "smart_tanh":
        return schemes.orthogonal(forget_bias=bias), scale
    scheme = schemes.sparse(0.95, bias, connections=CONNECTIONS, input_deviation=DEVIATION)
    return scheme, DEVIATION


EXPERIMENT = launch.Experiment("long_dependencies", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
