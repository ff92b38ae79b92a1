"""The forget-gate-only LSTM of van der Westhuizen and Lasenby (2018), arXiv:1804.04849."""

import functools
import math
import numbers

import jax
import jax.numpy as jnp

from rnn_jax import schemes
from rnn_jax.base import Cell, HiddenState, Params
from rnn_jax.gated import gated_cell

GATES = ("forget", "candidate")


def janet(beta: float = 1.0) -> Cell:
    """Just another network: an LSTM that keeps its forget gate and nothing else.

    s = x_t W_f + h_{t-1} U_f + b_f,    n = tanh(x_t W_n + h_{t-1} U_n + b_n)
    h_t = sigmoid(s) * h_{t-1} + (1 - sigmoid(s - beta)) * n,    y_t = h_t

    Parameters: ``kernel`` (D, 2 * H), ``recurrent_kernel`` (H, 2 * H), ``bias`` (2 * H,), in the
    order f, n. State: ``HiddenState(hidden)``, (H,), the paper's memory cell c = h.

    beta > 0 lets in more than the forget gate lets out, so |h| is bounded by exp(beta) and not
    by 1; beta = 0 is the coupled gate, h_t = f * h_{t-1} + (1 - f) * n. The authors' code packs
    n, f.

    The paper draws the forget bias by ``schemes.chrono(max_lag)``, with the length of the
    sequences as ``max_lag``. A cell does not know that length; by default the bias is 1, as in
    the authors' code without it, and the weights are orthogonal where theirs are Glorot uniform.

    Args:
      beta: the paper's control of the input, a finite number.

    Raises:
      ValueError: for another ``beta``.

    >>> import jax
    >>> from rnn_jax import schemes
    >>> params = janet().init(jax.random.key(0), 3, 4, scheme=schemes.chrono(100))
    >>> {name: value.shape for name, value in params.items()}
    {'kernel': (3, 8), 'recurrent_kernel': (4, 8), 'bias': (8,)}
    """
    if isinstance(beta, bool) or not isinstance(beta, numbers.Real) or not math.isfinite(beta):
        raise ValueError(f"janet: beta must be a finite number, got {beta!r}")
    return _janet(float(beta))


@functools.cache
def _janet(beta: float) -> Cell:
    def gates(
        params: Params, state: HiddenState, drive: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        s, a = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 2, axis=-1)
        # sigmoid(beta - s) is 1 - sigmoid(s - beta) without the cancellation of a long memory.
        return jax.lax.logistic(s), jax.lax.logistic(beta - s), jnp.tanh(a)

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        f, i, n = gates(params, state, drive)
        u_f, u_n = jnp.split(params["recurrent_kernel"].T, 2)
        return (
            jnp.diag(f)
            + (state.hidden * f * (1 - f) - n * i * (1 - i))[:, None] * u_f
            + (i * (1 - n**2))[:, None] * u_n
        )

    @gated_cell(
        GATES,
        name="janet" if beta == 1 else f"janet_beta_{beta}",
        keep="forget",
        scheme=schemes.orthogonal(forget_bias=1.0),
        jacobian=jacobian,
        critical_gain=lambda b: jax.nn.sigmoid(-b) / jax.nn.sigmoid(beta - b),
    )
    def cell(params: Params, state: HiddenState, drive: jax.Array) -> HiddenState:
        f, i, n = gates(params, state, drive)
        return HiddenState(f * state.hidden + i * n)

    return cell
