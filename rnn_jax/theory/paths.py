"""What theory says of the gradient along a given trajectory, to be laid beside a measurement.

Each function returns natural logarithms, (T + 1,), aligned with ``GradientFlow.log_norm`` of a
loss <v, y_T> with ||v|| = 1: entry t speaks of the lag T - t, and entry T is 0.
"""

import jax
import jax.numpy as jnp

from rnn_jax.base import Cell, Params, State
from rnn_jax.cells import elman, gru, gru_gates, lstm, lstm_gates
from rnn_jax.cells.elman import Activation, activation_function
from rnn_jax.numerics import log_root_mean_square
from rnn_jax.unroll import visit


def gain_power(gain: jax.typing.ArrayLike, steps: int) -> jax.Array:
    """g**k: exact for a linear network with U = g Q, Q orthogonal, with any input.

    A network whose activation has slope at most 1 stays below it, realisation by realisation.

    >>> [round(float(x), 4) for x in gain_power(0.5, 2)]
    [-1.3863, -0.6931, 0.0]
    """
    return jax.scipy.special.xlogy(jnp.arange(steps, -1.0, -1.0), gain)


def vanilla_bound(
    params: Params, xs: jax.Array, activation: str | Activation = "tanh"
) -> jax.Array:
    """The bound of a vanilla network: prod over the later steps of sigma_max(U) max_i |phi'(a_i)|.

    An upper bound on ||ds_T/ds_t||_2 and so on every gradient; the tighter form, at the slopes
    actually visited, of Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, section 2.1.
    """
    cell = elman(activation)
    slope = jax.grad(activation_function(activation))
    kernel = params["recurrent_kernel"]
    previous, drives = _along(cell, params, xs)
    slopes = jax.vmap(jax.vmap(slope))(drives + previous.hidden @ kernel)
    largest = jnp.linalg.svd(kernel, compute_uv=False)[0]
    return _to_the_end(jnp.log(largest) + jnp.log(jnp.max(jnp.abs(slopes), axis=1)))


def forget_path(params: Params, xs: jax.Array) -> jax.Array:
    """The direct path of an LSTM's memory: ||diag(prod f_t)||_F / sqrt(H).

    Exactly dc_T/dc_t if no gate sees the hidden vector; otherwise one path among many.
    """
    log_forget = jax.vmap(lambda state, drive: jnp.log(lstm_gates(params, state, drive).forget))
    return log_root_mean_square(_to_the_end(log_forget(*_along(lstm(), params, xs))), axis=1)


def update_path(params: Params, xs: jax.Array) -> jax.Array:
    """The direct path of a GRU: ||diag(prod z_t)||_F / sqrt(H), for either form of the reset."""
    cell = gru("after" if "recurrent_bias" in params else "before")
    log_update = jax.vmap(lambda state, drive: jnp.log(gru_gates(params, state, drive).update))
    return log_root_mean_square(_to_the_end(log_update(*_along(cell, params, xs))), axis=1)


def _along(cell: Cell, params: Params, xs: jax.Array) -> tuple[State, jax.Array]:
    """The state before each step and its drive, (T, ...) each."""
    seen = visit(cell, params, xs)
    return seen.before, seen.drives


def _to_the_end(log_factors: jax.Array) -> jax.Array:
    """sum over u > t of entry u, for t = 0 .. T: the empty sum at T is 0."""
    sums = jnp.cumsum(log_factors[::-1], axis=0)[::-1]
    return jnp.concatenate([sums, jnp.zeros_like(sums[:1])])
