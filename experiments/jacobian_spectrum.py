"""The singular values of ds_T/ds_t of vanilla networks, LSTM and GRU, from one step to a hundred.

Run: python -m experiments.jacobian_spectrum --config=configs/jacobian_spectrum.py
--workdir=runs/NAME

A norm of the gradient is one number; here is the whole spectrum of the Jacobian over k steps, in
log space, beside what theory says of it: the Fuss-Catalan law of powers of a Gaussian matrix, its
limit the circular law, mean field, and where the eigenvalues of one step lie. For the LSTM also the
four blocks of the Jacobian beside the direct path along its memory. Computed in float64.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import checks, launch
from experiments.jacobian_spectrum_report import GATED, LABELS, report, units_of
from rnn_jax import Cell, elman, gru, lstm, schemes, theory, unroll
from rnn_jax.analysis import finite_time_spectrum, jacobian_product, step_jacobians
from rnn_jax.base import Params
from rnn_jax.sharding import over_replicas

SPECTRUM = ("log_singular_values", "resolved", "log_frobenius", "stable_rank", "converged")
CANDIDATE = 2
"""Where the candidate stands among the gates of both: its matrix makes the eigenvalues at rest."""


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "input_size")
    checks.at_least(config, 2, "hidden_size")
    checks.seed(config)
    checks.at_least(config, 0, "transient")
    checks.increasing(config, "lags", "shown_lags", least=1)
    checks.increasing(config, "biases")
    checks.different("networks", config.networks, LABELS)
    if not set(config.shown_lags) <= set(config.lags):
        raise ValueError(
            f"config.shown_lags must be some of the lags {list(config.lags)}, "
            f"got {list(config.shown_lags)}"
        )
    checks.positive(config, "gain")
    checks.finite(config, "input_variance", least=0)


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each network, and of the gated ones for each bias."""
    return list(units_of(config))


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """Arrays of all seeds, leading axis; of spectra and blocks the second axis is that of lags.

    Eigenvalues are those of one step, (seeds, S): of the last one, of a step at rest, and those of
    the recurrent matrix (of a gated cell the candidate's), from which theory has the latter.
    """
    network, bias = units_of(config)[unit]
    cell = _cell(network)
    variance = 0.0 if network == "lstm_at_rest" else config.input_variance
    rng = np.random.default_rng(config.seed)
    steps = config.transient + config.lags[-1]
    xs = rng.standard_normal((config.seeds, steps, config.input_size))
    xs *= variance**0.5  # the schemes draw kernels for inputs of variance 1
    scheme: Any = schemes.orthogonal if network == "orthogonal" else schemes.gaussian
    made = scheme(config.gain, bias or 0.0)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(config.seed), config.seeds)
        draw = lambda key: cell.init(key, config.input_size, config.hidden_size, scheme=made)
        params = jax.vmap(draw)(keys)
        arrays = _program(cell, tuple(config.lags))(params, xs)
        chi = _mean_field(cell, config.gain, variance, bias)
    start = CANDIDATE * config.hidden_size if cell.name in GATED else 0
    kernel = np.asarray(params["recurrent_kernel"])[..., start : start + config.hidden_size]
    eigenvalues = {
        "eigenvalues": np.linalg.eigvals(arrays.pop("jacobian")),
        "eigenvalues_at_rest": np.linalg.eigvals(arrays.pop("jacobian_at_rest")),
        "eigenvalues_of_kernel": np.linalg.eigvals(kernel),
    }
    return {
        **arrays,
        **{name: values.astype(complex) for name, values in eigenvalues.items()},
        "chi": np.asarray(chi),
    }


def _cell(network: str) -> Cell:
    if network == "linear":
        return elman("identity")
    if network in ("lstm", "lstm_at_rest"):
        return lstm()
    return gru() if network == "gru" else elman()


@functools.partial(jax.jit, static_argnums=0)
def _mean_field(cell: Cell, gain: float, variance: float, bias: float | None) -> jax.Array:
    """The factor chi of squared gradients; of gated cells with weights drawn anew at every step."""
    if cell is elman("identity"):
        return jnp.square(gain)
    if bias is None:
        return theory.vanilla_mean_field(gain, variance).chi
    if cell is gru():
        return theory.gru_mean_field(gain, variance, jnp.array([0.0, bias, 0.0])).chi
    return theory.lstm_mean_field(gain, variance, jnp.array([0.0, bias, 0.0, 0.0])).chi


@functools.cache
def _program(cell: Cell, lags: tuple[int, ...]) -> Callable[..., dict[str, np.ndarray]]:
    def replica(params: Params, xs: jax.Array) -> dict[str, jax.Array]:
        spectrum = finite_time_spectrum(cell, params, xs, lags)._asdict()
        before, _ = unroll(cell, params, xs[:-1])
        found = {
            **{name: spectrum[name] for name in SPECTRUM},
            "jacobian": step_jacobians(cell, params, xs[-1:], state=before)[0],
            "jacobian_at_rest": step_jacobians(cell, params, jnp.zeros_like(xs[:1]))[0],
        }
        if cell is lstm():
            found |= jacobian_product(cell, params, xs, lags).blocks
            found["direct_path"] = theory.forget_path(params, xs)[len(xs) - np.array(lags)]
        return found

    return over_replicas(replica)


EXPERIMENT = launch.Experiment("jacobian_spectrum", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
