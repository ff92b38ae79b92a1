"""How gradient flow, singular values and the largest Lyapunov exponent move during training.

Run: python -m experiments.trained_vs_initial --config=configs/trained_vs_initial.py
--workdir=runs/NAME

Vanilla RNN, LSTM and GRU learn the adding problem, copy memory and the next character of text by
Adam with a clipped gradient. At some updates they are measured on held-out sequences of the task
itself, the same ones at every update: what a network does with noise says little of what it has
learned. A seed gives all cells the same batches. Vogt et al. (2022), arXiv:2006.14123.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments import checks, launch
from experiments.learners import (
    Learner,
    draw_batch,
    init_network,
    make_chunk,
    make_update,
    scores,
)
from experiments.trained_vs_initial_report import TASKS, report, unit_of
from rnn_jax import schemes
from rnn_jax.analysis import finite_time_spectrum, gradient_flow, lyapunov_spectrum
from rnn_jax.base import Params
from rnn_jax.cells import lookup
from rnn_jax.sharding import over_replicas
from rnn_jax.tasks import Task, adding, copy_memory, next_character, python_docs_text

CELLS = ("elman", "lstm", "gru")
HELD_OUT = 0.1
"""The share of the text, at its end, that nobody is trained on."""


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "embedding", "hidden_size", "batch", "every")
    checks.at_least(config, 1, "tested", "measured")
    checks.seed(config)
    checks.at_least(config, 0, "burn_in")
    checks.at_least(config, 32, "exponent_steps")
    checks.increasing(config, "snapshots", least=0)
    checks.increasing(config, "lags", least=1)
    checks.different("cells", config.cells, CELLS)
    checks.different("tasks", config.tasks, TASKS)
    # A line is fitted to half of the lags: shorter sequences leave too few of them.
    least = max(8, config.lags[-1])
    for name in config.tasks:
        shortest = max(least, copy_memory().shortest) if name == "copy" else least
        if config.steps[name] < shortest:
            raise ValueError(
                f"config.steps.{name} must be at least {shortest}, got {config.steps[name]}"
            )
    multiples = all(update % config.every == 0 for update in config.snapshots)
    if len(config.snapshots) < 2 or config.snapshots[0] != 0 or not multiples:
        raise ValueError(
            f"config.snapshots must be 0 and multiples of every = {config.every}, "
            f"got {list(config.snapshots)}"
        )
    checks.positive(config, "gain", "clip", *(f"learning_rates.{cell}" for cell in config.cells))
    checks.finite(config, "forget_bias")


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each task and cell."""
    return [unit_of(task, cell) for task in config.tasks for cell in config.cells]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """Held-out ``loss`` and ``error`` (seeds, updates / every + 1), and what snapshots measure.

    With leading axes (seeds, snapshots): ``log_norms`` of gradients (..., sequences, steps + 1),
    ``exponent`` and its ``standard_error`` over time, ``log_singular_values`` (..., lags, S) and
    ``converged`` (..., lags).
    """
    name, cell = unit.split(".")
    train_task, test_task = split_task(name, config.embedding)
    programs = _programs(config, train_task, test_task, config.steps[name], cell)
    of_networks, of_batches, of_tests = jax.random.split(jax.random.key(config.seed), 3)
    batches, tests = (jax.random.split(key, config.seeds) for key in (of_batches, of_tests))
    learners = programs.start(jax.random.split(of_networks, config.seeds))

    def measure() -> dict[str, np.ndarray]:
        # A saturated gate leaves Jacobians whose singular values float32 does not resolve.
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), learners.params)
            return programs.measure(tests, wide)

    tested = [programs.test(tests, learners.params)]
    measured = [measure()]
    for done in range(0, config.snapshots[-1], config.every):
        counts = np.full(config.seeds, done, np.int32)
        learners, _ = programs.train(learners, batches, counts)
        tested.append(programs.test(tests, learners.params))
        if done + config.every in config.snapshots:
            measured.append(measure())
    stack = lambda rows: jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *rows)
    baseline = np.array(test_task.baseline(config.steps[name]))
    return {**stack(tested), **stack(measured), "baseline": baseline}


def split_task(name: str, embedding: int) -> tuple[Task, Task]:
    """What is trained on and what is tested on: the same, but for a text two parts of it."""
    if name != "text":
        task = adding() if name == "adding" else copy_memory()
        return task, task
    text, cut = python_docs_text(), 1 - HELD_OUT
    parts = (0.0, cut), (cut, 1.0)
    train, test = (next_character(text, embedding, part=part) for part in parts)
    return train, test


class _Programs(NamedTuple):
    """Compiled functions of all seeds."""

    start: Callable[..., Learner]
    train: Callable[..., tuple[Learner, None]]
    test: Callable[..., dict[str, np.ndarray]]
    measure: Callable[..., dict[str, np.ndarray]]


def _programs(
    config: ml_collections.ConfigDict, train_task: Task, test_task: Task, steps: int, name: str
) -> _Programs:
    cell = lookup(name)
    bias = 0.0 if name == "elman" else config.forget_bias
    scheme = schemes.orthogonal(config.gain, bias)
    rate = config.learning_rates[name]
    optimiser = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate))
    update = make_update(cell, train_task, optimiser, batch=config.batch, steps=steps)

    def start(key: jax.Array) -> Learner:
        scale = config.hidden_size**-0.5
        params = init_network(
            key, cell, train_task, config.hidden_size, scheme=scheme, readout_scale=scale
        )
        return Learner(params, optimiser.init(params))

    def test(key: jax.Array, params: Params) -> dict[str, jax.Array]:
        examples = draw_batch(jax.random.fold_in(key, 0), test_task, config.tested, steps)
        loss, error = scores(cell, test_task, params, examples)
        return {"loss": loss, "error": error}

    def measure(key: jax.Array, params: Params) -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.fold_in(key, 1), 4)
        of_sequences, of_readouts, of_long, of_frame = keys
        xs = draw_batch(of_sequences, test_task, config.measured, steps).inputs
        readouts = jax.random.normal(of_readouts, (config.measured, config.hidden_size))
        readouts /= jnp.linalg.norm(readouts, axis=-1, keepdims=True)
        flow = lambda xs, readout: gradient_flow(cell, params["cell"], xs, readout).log_norm
        total = 2 * config.burn_in + config.exponent_steps
        long = draw_batch(of_long, test_task, -(-total // steps), steps).inputs
        lyapunov = lyapunov_spectrum(
            of_frame,
            cell,
            params["cell"],
            long.reshape(-1, test_task.input_size)[:total],
            count=1,
            burn_in=config.burn_in,
            tangent_burn_in=config.burn_in,
        )
        spectrum = finite_time_spectrum(cell, params["cell"], xs[0], list(config.lags))
        return {
            "log_norms": jax.vmap(flow)(xs, readouts),
            "exponent": lyapunov.exponents[0],
            "standard_error": lyapunov.standard_error[0],
            "log_singular_values": spectrum.log_singular_values,
            "converged": spectrum.converged,
        }

    train = make_chunk(update, lambda learner, seen: None, every=config.every)
    return _Programs(
        over_replicas(start), over_replicas(train), over_replicas(test), over_replicas(measure)
    )


EXPERIMENT = launch.Experiment("trained_vs_initial", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
