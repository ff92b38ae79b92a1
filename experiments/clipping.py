"""Plain SGD, SGD with a clipped gradient, and with the regulariser Omega too, on temporal order.

Run: python -m experiments.clipping --config=configs/clipping.py --workdir=runs/NAME

Figure 7 of Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063: how often a vanilla network learns
to tell the order of two signs, against the length of the sequence. A seed has solved the task, and
is trained no further, once fewer than 1 % of `test` fresh sequences are wrong; it is put to that
test whenever fewer than 1 % of the batches since the last record were. The same seed begins with
the same network and reads the same batches under every method.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments import checks, launch
from experiments.clipping_report import METHODS, SOLVED, TASK, parts_of, report, unit_of
from experiments.learners import (
    Learner,
    Seen,
    draw_batch,
    init_network,
    make_chunk,
    make_update,
    read_out,
    scores,
)
from experiments.statistics import NEVER
from rnn_jax import Cell, elman, schemes
from rnn_jax.base import Params, PyTree
from rnn_jax.remedies import omega, watch
from rnn_jax.sharding import over_replicas
from rnn_jax.tasks import Example

INITIALISATIONS = ("sigmoid", "basic_tanh", "smart_tanh")
CONNECTIONS = 15
"""Into each unit, of the smart initialisation."""
TESTED = 500
"""Sequences that are tested at a time."""


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "batch", "hidden_size", "updates", "every", "test")
    checks.seed(config)
    checks.increasing(config, "lengths", least=TASK.shortest)
    checks.known("initialisation", config.initialisation, INITIALISATIONS)
    checks.different("methods", config.methods, METHODS)
    if config.shown_length not in config.lengths:
        raise ValueError(
            f"config.shown_length must be one of the lengths {list(config.lengths)}, "
            f"got {config.shown_length}"
        )
    checks.multiple(config, "updates", "every")
    checks.positive(config, "learning_rate", "threshold")
    checks.finite(config, "omega_weight", least=0)
    if config.initialisation == "smart_tanh" and config.hidden_size < CONNECTIONS:
        raise ValueError(
            f"config.hidden_size must be at least {CONNECTIONS} for smart_tanh, "
            f"got {config.hidden_size}"
        )


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each method and length."""
    return [unit_of(method, length) for length in config.lengths for method in config.methods]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """Records (seeds, updates / every), each of the updates since the last one.

    They are NaN once a seed is trained no further: ``solved_at`` and ``diverged_at``, (seeds,), are
    numbers of updates, or `NEVER`.
    """
    method, length = parts_of(unit)
    cell, begin = _network(config.initialisation, config.hidden_size)
    optimiser = _optimiser(config, method)
    of_networks, of_batches, of_test = jax.random.split(jax.random.key(config.seed), 3)
    params = begin(jax.random.split(of_networks, config.seeds))
    learners = Learner(params, jax.jit(jax.vmap(optimiser.init))(params))
    keys = jax.random.split(of_batches, config.seeds)
    program = _program(config, method, length, cell, optimiser)
    test = _test(cell, length, config.test)
    solved_at = np.full(config.seeds, NEVER)
    diverged_at = np.full(config.seeds, NEVER)
    records: list[dict[str, np.ndarray]] = []
    for done in range(0, config.updates, config.every):
        settled = (solved_at != NEVER) | (diverged_at != NEVER)
        if settled.all():
            break
        counts = np.full(config.seeds, done, np.int32)
        learners, record = program(learners, keys, counts, settled)
        kernels = learners.params["cell"]["recurrent_kernel"]
        record |= _spectra(np.where(settled[:, None, None], np.nan, kernels))
        promising = record["error"] < SOLVED
        record["test_error"] = np.full(config.seeds, np.nan, np.float32)
        if promising.any():
            test_keys = jax.random.split(of_test, config.seeds)
            record["test_error"] = test(learners.params, test_keys, promising)
        records.append(record)
        solved_at[record["test_error"] < SOLVED] = done + config.every
        finite = np.isfinite(record["loss"]) & np.isfinite(kernels).all(axis=(1, 2))
        diverged_at[~settled & ~finite] = done + config.every
    unused = ((0, 0), (0, config.updates // config.every - len(records)))
    arrays = {
        name: np.pad(
            np.stack([record[name] for record in records], axis=1), unused, constant_values=np.nan
        )
        for name in records[0]
    }
    arrays["clipped"] = np.diff(arrays.pop("acted"), axis=1, prepend=0) / config.every
    return arrays | {"solved_at": solved_at, "diverged_at": diverged_at}


@functools.cache
def _network(initialisation: str, hidden_size: int) -> tuple[Cell, Callable[..., Params]]:
    """The cell, and networks from keys (seeds,), with the deviations of the paper."""
    deviation = 0.1 if initialisation == "basic_tanh" else 0.01
    cell = elman("sigmoid" if initialisation == "sigmoid" else "tanh")
    if initialisation == "smart_tanh":
        scheme = schemes.sparse(0.95, connections=CONNECTIONS, input_deviation=deviation)
    else:
        normal = lambda key, layout: deviation * jax.random.normal(key, layout.kernel_shape)
        scheme = schemes.gaussian(deviation * hidden_size**0.5)
        scheme = dataclasses.replace(scheme, kernel=normal)
    begin = lambda key: init_network(
        key, cell, TASK, hidden_size, scheme=scheme, readout_scale=deviation
    )
    return cell, jax.jit(jax.vmap(begin))


def _optimiser(
    config: ml_collections.ConfigDict, method: str
) -> optax.GradientTransformationExtraArgs:
    clip = optax.identity() if method == "sgd" else optax.clip_by_global_norm(config.threshold)
    return optax.chain(watch("clip", clip), optax.sgd(config.learning_rate))


def _program(
    config: ml_collections.ConfigDict,
    method: str,
    length: int,
    cell: Cell,
    optimiser: optax.GradientTransformationExtraArgs,
) -> Callable[..., tuple[Learner, dict[str, np.ndarray]]]:
    """(learners, keys, updates done, settled) -> (learners, record), leading axis seeds."""
    penalty = functools.partial(batch_omega, cell, config.omega_weight)
    update = make_update(
        cell,
        TASK,
        optimiser,
        batch=config.batch,
        steps=length,
        penalty=penalty if method == "clip_omega" else None,
    )

    def observe(learner: Learner, seen: Seen) -> dict[str, jax.Array]:
        clip = seen.probes["clip"]
        record = {
            "loss": jnp.mean(seen.loss),
            "error": jnp.mean(seen.error),
            "median_log_norm": jnp.median(clip.before.log_norm),
            "largest_log_norm": jnp.max(clip.before.log_norm),
            "largest_log_norm_after": jnp.max(clip.after.log_norm),
            "acted": clip.acted[-1].astype(float),
        }
        if method == "clip_omega":
            record |= {name: jnp.mean(values) for name, values in seen.penalty.items()}
        return record

    chunk = jax.jit(make_chunk(update, observe, every=config.every))

    def replica(
        learner: Learner, key: jax.Array, done: jax.Array, settled: jax.Array
    ) -> tuple[Learner, PyTree]:
        _, shapes = jax.eval_shape(chunk, learner, key, done)
        nothing = lambda: jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), shapes)
        return jax.lax.cond(
            settled, lambda: (learner, nothing()), lambda: chunk(learner, key, done)
        )

    return over_replicas(replica)


@functools.cache
def _test(cell: Cell, length: int, count: int) -> Callable[..., np.ndarray]:
    """(params, keys, wanted) -> the error on at least ``count`` sequences; NaN where not wanted."""
    size = min(TESTED, count)

    def test(params: Params, key: jax.Array, wanted: jax.Array) -> jax.Array:
        wrong = lambda key: scores(cell, TASK, params, draw_batch(key, TASK, size, length))[1]
        keys = jax.random.split(key, -(-count // size))
        return jax.lax.cond(wanted, lambda: jnp.mean(jax.lax.map(wrong, keys)), lambda: jnp.nan)

    return over_replicas(test)


def batch_omega(
    cell: Cell, weight: float, params: Params, examples: Example
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Omega of the released program, the mean over all terms of a batch, times its weight."""
    size = len(examples.target)

    def one(example: Example) -> tuple[jax.Array, jax.Array]:
        part = lambda outputs: TASK.loss(read_out(params, outputs), example) / size
        seen = omega(
            cell,
            params["cell"],
            example.inputs,
            loss=part,
            convention="released",
            mask=example.mask,
        )
        return seen.penalty, seen.terms

    penalties, terms = jax.vmap(one)(examples)
    mean = jnp.sum(penalties * terms) / jnp.maximum(jnp.sum(terms), 1)
    return weight * mean, {"omega": mean, "omega_terms": jnp.mean(terms)}


def _spectra(kernels: np.ndarray) -> dict[str, np.ndarray]:
    """Spectral radius and largest singular value of matrices (seeds, N, N); NaN of NaN."""
    finite = np.isfinite(kernels).all(axis=(1, 2))
    safe = np.where(finite[:, None, None], kernels, 0)
    radius = np.abs(np.linalg.eigvals(safe)).max(axis=1)
    singular = np.linalg.norm(safe, 2, axis=(1, 2))
    return {
        "spectral_radius": np.where(finite, radius, np.nan),
        "largest_singular_value": np.where(finite, singular, np.nan),
    }


EXPERIMENT = launch.Experiment("clipping", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
