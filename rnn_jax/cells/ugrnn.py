"""The update-gate network of Collins, Sohl-Dickstein and Sussillo (2017), arXiv:1611.09913."""

import functools

import jax
import jax.numpy as jnp

from rnn_jax import schemes
from rnn_jax.base import Cell, HiddenState, Params
from rnn_jax.gated import gated_cell

GATES = ("update", "candidate")


@functools.cache
def ugrnn() -> Cell:
    """An update gate RNN: a vanilla network with one gate that keeps the state.

    g = sigmoid(x_t W_g + h_{t-1} U_g + b_g),    n = tanh(x_t W_n + h_{t-1} U_n + b_n)
    h_t = g * h_{t-1} + (1 - g) * n,    y_t = h_t

    Parameters: ``kernel`` (D, 2 * H), ``recurrent_kernel`` (H, 2 * H), ``bias`` (2 * H,), in the
    order g, n. State: ``HiddenState(hidden)``, (H,).

    The paper adds a constant to b_g, as ``tf.contrib.rnn.UGRNNCell`` does (by default 1); here
    it is part of b_g, which the default scheme draws as 1.

    >>> import jax
    >>> ugrnn().init(jax.random.key(0), 3, 2)["bias"].tolist()
    [1.0, 1.0, 0.0, 0.0]
    """

    def gates(params: Params, state: HiddenState, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
        g, n = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 2, axis=-1)
        return jax.lax.logistic(g), jnp.tanh(n)

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        g, n = gates(params, state, drive)
        u_g, u_n = jnp.split(params["recurrent_kernel"].T, 2)
        return (
            jnp.diag(g)
            + ((state.hidden - n) * g * (1 - g))[:, None] * u_g
            + ((1 - g) * (1 - n**2))[:, None] * u_n
        )

    @gated_cell(
        GATES,
        name="ugrnn",
        keep="update",
        scheme=schemes.orthogonal(forget_bias=1.0),
        jacobian=jacobian,
        critical_gain=jnp.ones_like,
    )
    def cell(params: Params, state: HiddenState, drive: jax.Array) -> HiddenState:
        g, n = gates(params, state, drive)
        return HiddenState(g * state.hidden + (1 - g) * n)

    return cell
