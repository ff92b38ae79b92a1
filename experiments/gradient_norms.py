"""Vanishing and exploding gradients of recurrent networks, measured beyond floating point.

Run: python -m experiments.gradient_norms --config=configs/gradient_norms.py --workdir=runs/NAME

Every replica (seed) has its own weights, input sequences, readout vectors and targets; all cells
of a replica see the same sequences, readouts and targets. Norms are per sample and natural
logarithms. Three losses: a random unit readout of the last state, whose gradient has a clean lag
axis; the mean squared error of the last output; and the same averaged over all steps, which hides
vanishing behind its local terms.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import checks, gradient_norms_report, launch
from rnn_jax import schemes, theory
from rnn_jax.analysis import gradient_flow, length_curve, length_sweep
from rnn_jax.base import Cell, Params
from rnn_jax.cells import ACTIVATIONS, CELLS, lookup
from rnn_jax.combinators import batched
from rnn_jax.sharding import over_replicas
from rnn_jax.tasks import Source, source

# Those that take a gain and then a forget bias.
SCHEMES: Mapping[str, Callable[..., schemes.Scheme]] = {
    name: schemes.SCHEMES[name]
    for name in ("orthogonal", "gaussian", "identity", "spectral_radius")
}
OWN_SCHEME = "own"  # that of the cell's paper, which is its `init` without a scheme
TRAJECTORY_THEORY: Mapping[str, tuple[str, Callable[..., jax.Array]]] = {
    "elman": ("sigma bound", theory.vanilla_bound),
    "lstm": ("product of forget gates", theory.forget_path),
    "gru": ("product of update gates", theory.update_path),
}
SOURCES = ("white_noise", "python_docs", "digits")
INPUTS, READOUTS = 0, 1  # streams of random numbers within a replica


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration, said before anything is compiled."""
    checks.at_least(config, 1, "seeds", "batch", "hidden_size", "input_size", "tangents")
    if config.steps < 8:
        raise ValueError(f"config.steps must be at least 8 to fit a slope, got {config.steps}")
    losses = set(gradient_norms_report.LOSSES)
    if "readout" not in config.losses or not losses.issuperset(config.losses):
        raise ValueError(
            f"config.losses must be 'readout' and any of {sorted(losses - {'readout'})}, "
            f"got {list(config.losses)}"
        )
    for field in ("lengths", "horizons"):
        values = list(config[field])
        positive = all(type(value) is int and value > 0 for value in values)
        if (not values and field != "lengths") or not positive or values != sorted(set(values)):
            raise ValueError(f"config.{field} must be increasing integers above 0, got {values}")
    for field, known in {"cells": CELLS, "presets": schemes.PRESETS, "inputs": SOURCES}.items():
        names = [*known, *(name for name in config[field] if ":" in name)]  # cells of the user's
        checks.different(field, config[field], names, empty=field == "presets")
    checks.known("elman_activation", config.elman_activation, ACTIVATIONS)
    checks.known("gru_reset", config.gru_reset, ("after", "before"))
    for name in config.cells:
        try:
            cell_of(config, name)
        except ValueError as error:
            raise ValueError(f"config.cells: {error}") from error
    checks.known("scheme", config.scheme, (*SCHEMES, OWN_SCHEME))
    checks.seed(config)
    checks.positive(config, "gain")
    checks.finite(config, *(f"forget_bias.{cell}" for cell in config.forget_bias))
    for name in input_names(config):
        field = "inputs" if name in SOURCES else "data"
        try:
            supply = source_of(config, name)
            supply.sample(np.random.default_rng(0), 1, max(config.steps, *config.lengths, 1))
        except (ValueError, OSError) as error:
            raise ValueError(f"config.{field}: {error}") from error


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One unit for each curve against lag, each sweep of lengths and each library's preset."""
    name_of = gradient_norms_report.unit_name
    kinds = ["lag", "length"] if config.lengths else ["lag"]
    inputs = [(kind, name) for kind in kinds for name in input_names(config)]
    presets = [("preset", preset) for preset in config.presets]
    return [name_of(kind, of, cell) for kind, of in inputs + presets for cell in config.cells]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """The raw arrays of one unit, leading axis seeds."""
    kind, name, cell = gradient_norms_report.unit_parts(unit)
    results: Mapping[str, Any]
    if kind == "length":
        results = _lengths(config, name, cell)
    elif kind == "preset":
        first = input_names(config)[0]
        results = _lags(config, first, cell, schemes.PRESETS[name]())
        results = {"readout": results["readout"]}
    else:
        results = _lags(config, name, cell, scheme_of(config, cell))
        results = {**results, **_closed_forms(config, name, cell)}
    return {key: np.asarray(value) for key, value in results.items()}


def input_names(config: ml_collections.ConfigDict) -> list[str]:
    """The configured inputs, and the user's file if there is one.

    The file goes by a digest of its content: results of another content are not its own.
    """
    if not config.data:
        return list(config.inputs)
    path = Path(config.data).expanduser()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if path.is_file() else "missing"
    return [*config.inputs, f"file-{digest}"]


def source_of(config: ml_collections.ConfigDict, name: str) -> Source:
    """Where the sequences of an input come from."""
    if name in SOURCES:
        return source(name, config.input_size)
    return source("file", config.input_size, config.data)


def cell_of(config: ml_collections.ConfigDict, name: str) -> Cell:
    """A cell by its registered name, with the options that the configuration has for it."""
    options = {
        "elman": {"activation": config.elman_activation},
        "gru": {"reset": config.gru_reset},
    }
    return lookup(name, options.get(name))


def scheme_of(config: ml_collections.ConfigDict, name: str) -> schemes.Scheme | None:
    """The initialisation of a cell: the forget bias is for those that are listed with one."""
    if config.scheme == OWN_SCHEME:
        return None
    return SCHEMES[config.scheme](config.gain, config.forget_bias.get(name, 0.0))


def _lags(
    config: ml_collections.ConfigDict, name: str, cell: str, scheme: schemes.Scheme | None
) -> dict[str, jax.Array]:
    """ln ||dL/ds_t|| of each loss and the theory along the way: (seeds, batch, steps + 1)."""
    params, xs, rngs = _replicas(config, name, cell, scheme, config.steps)
    made = cell_of(config, cell)
    shape = _output_shape(made, params, xs)
    readouts = np.stack([_unit_vectors(rng, config.batch, shape) for rng in rngs])
    shape = (config.steps, config.batch, *shape)
    targets = np.stack([rng.standard_normal(shape, np.float32) for rng in rngs])
    program = _lag_program(made, cell, config.elman_activation, tuple(config.losses))
    return program(params, xs, readouts, targets)


@functools.cache
def _lag_program(
    cell: Cell, name: str, activation: str, losses: tuple[str, ...]
) -> Callable[..., dict[str, jax.Array]]:
    def sample(
        params: Params, xs: jax.Array, readout: jax.Array, targets: jax.Array
    ) -> dict[str, jax.Array]:
        def error(outputs: jax.Array) -> jax.Array:
            return jnp.mean((outputs - targets) ** 2, axis=-1)

        flow = functools.partial(gradient_flow, cell, params, xs)
        of_loss: Mapping[str, Callable[[], Any]] = {
            "readout": lambda: flow(readout),
            "last_step": lambda: flow(loss=lambda outputs: error(outputs)[-1]),
            "mean_over_steps": lambda: flow(loss=lambda outputs: jnp.mean(error(outputs))),
        }
        results = {loss: of_loss[loss]().log_norm for loss in losses}
        if name in TRAJECTORY_THEORY:
            label, along = TRAJECTORY_THEORY[name]
            options = {"activation": activation} if name == "elman" else {}
            results[f"theory: {label}"] = along(params, xs, **options)
        return results

    def replica(params: Params, xs: jax.Array, *of_samples: jax.Array) -> dict[str, jax.Array]:
        readouts, targets = of_samples
        return jax.vmap(sample, (None, 1, 0, 1))(params, xs, readouts, targets)

    return over_replicas(replica)


def _lengths(config: ml_collections.ConfigDict, name: str, cell: str) -> dict[str, jax.Array]:
    """Gradients against T: per sample at s_0, and of the parameters for a loss of the batch."""
    longest = max(config.lengths)
    params, xs, rngs = _replicas(config, name, cell, scheme_of(config, cell), longest)
    made = cell_of(config, cell)
    shape = _output_shape(made, params, xs)
    readouts = np.stack([_unit_vectors(rng, config.batch, shape) for rng in rngs])
    targets = np.stack([rng.standard_normal((config.batch, *shape), np.float32) for rng in rngs])
    program = _length_program(made, config.batch, tuple(config.horizons), config.tangents)
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    lengths = np.tile(np.array(config.lengths), (config.seeds, 1))
    return program(params, xs, readouts, targets, keys, lengths)


@functools.cache
def _length_program(
    cell: Cell, batch: int, horizons: tuple[int, ...], tangents: int
) -> Callable[..., dict[str, jax.Array]]:
    whole = batched(cell, batch)

    def replica(
        params: Params,
        xs: jax.Array,
        readouts: jax.Array,
        targets: jax.Array,
        key: jax.Array,
        lengths: jax.Array,
    ) -> dict[str, jax.Array]:
        def at_initial(xs: jax.Array, readout: jax.Array) -> jax.Array:
            return length_sweep(cell, params, xs, lengths, readout).log_norm

        def at_every_length(key: jax.Array, xs: jax.Array) -> jax.Array:
            return length_curve(key, cell, params, xs, tangents=tangents)

        def loss(outputs: jax.Array) -> jax.Array:
            return jnp.mean((outputs - targets) ** 2)

        sweep = length_sweep(whole, params, xs, lengths, loss=loss, horizons=horizons)
        return {
            "readout": jax.vmap(at_initial, (1, 0))(xs, readouts),
            "every_length": jax.vmap(at_every_length, (0, 1))(jax.random.split(key, batch), xs),
            "parameters": sweep.log_parameter_norm,
            "far_parameters": sweep.log_far_norm,
        }

    return over_replicas(replica)


def _closed_forms(config: ml_collections.ConfigDict, name: str, cell: str) -> dict[str, np.ndarray]:
    """Theory that needs no trajectory, (steps + 1,)."""
    if cell != "elman" or config.scheme == OWN_SCHEME:
        return {}
    forms = {"theory: g^k": np.asarray(theory.gain_power(config.gain, config.steps))}
    independent = name in ("white_noise", "python_docs")  # nearly so: characters are embedded
    if independent and config.elman_activation == "tanh" and config.scheme != "identity":
        # Every source is standardised and the input kernel has variance 1 / D: variance 1.
        _, chi = theory.vanilla_mean_field(config.gain, 1.0)
        forms["theory: mean field"] = np.asarray(theory.gain_power(chi, config.steps) / 2)
    return forms


def _replicas(
    config: ml_collections.ConfigDict,
    name: str,
    cell: str,
    scheme: schemes.Scheme | None,
    length: int,
) -> tuple[Params, np.ndarray, list[np.random.Generator]]:
    """Parameters and inputs (seeds, T, B, D) of all replicas, and a random stream for each.

    They depend on the seed and the replica alone: the same for every cell, order and restart. A
    cell over space reads a sequence of its own at every point, (seeds, T, B, *space, D).
    """
    supply, made = source_of(config, name), cell_of(config, cell)
    streams = [
        [np.random.default_rng([config.seed, replica, use]) for use in (INPUTS, READOUTS)]
        for replica in range(config.seeds)
    ]
    batch = config.batch * int(np.prod(made.space))
    xs = np.stack([supply.sample(inputs, batch, length) for inputs, _ in streams])
    xs = xs.reshape(*xs.shape[:2], config.batch, *made.space, xs.shape[-1])
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)

    def draw(key: jax.Array) -> Params:
        return made.init(key, supply.size, config.hidden_size, scheme=scheme)

    # Not under jit: op by op, what cells and schemes have in common is compiled only once.
    return jax.vmap(draw)(keys), xs, [readouts for _, readouts in streams]


def _output_shape(cell: Cell, params: Params, xs: np.ndarray) -> tuple[int, ...]:
    """The shape of one output: not every cell shows its hidden_size units."""
    one = jax.tree.map(lambda leaf: leaf[0], params)
    step = lambda params, x: cell(params, cell.initial_state(params), x)[1]
    return jax.eval_shape(step, one, jnp.asarray(xs[0, 0, 0])).shape


def _unit_vectors(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    vectors = rng.standard_normal((count, *shape), np.float32)
    return vectors / np.sqrt(np.sum(vectors**2, axis=tuple(range(1, vectors.ndim)), keepdims=True))


EXPERIMENT = launch.Experiment(
    name="gradient_norms",
    validate=validate,
    units=units,
    run_unit=run_unit,
    report=gradient_norms_report.report,
)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
