"""The light gated recurrent unit of Ravanelli et al. (2018), arXiv:1803.10225."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rnn_jax import schemes
from rnn_jax.base import Cell, HiddenState, Params
from rnn_jax.gated import gated_cell
from rnn_jax.schemes import Layout

GATES = ("update", "candidate")


@functools.cache
def lightgru() -> Cell:
    """A light GRU (Li-GRU): no reset gate, and a rectified candidate.

    z = sigmoid(x_t W_z + h_{t-1} U_z + b_z),    n = relu(x_t W_n + h_{t-1} U_n + b_n)
    h_t = z * h_{t-1} + (1 - z) * n,    y_t = h_t

    Parameters: ``kernel`` (D, 2 * H), ``recurrent_kernel`` (H, 2 * H), ``bias`` (2 * H,), in the
    order z, n. State: ``HiddenState(hidden)``, (H,), never negative and unbounded.

    The paper normalises x_t W over the batch and the time steps, which keeps the rectified
    recurrence stable. Such statistics are no function of one step of one sequence, so they are
    left out: normalise the inputs, or wrap the cell in a normalisation of its own. What the
    normalisation would shift and scale is b and W. SpeechBrain packs the candidate first.

    The default scheme is the paper's: Glorot uniform W, orthogonal U, for each gate; b = 0.

    >>> import jax, jax.numpy as jnp
    >>> cell = lightgru()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> _, output = cell(params, cell.initial_state(params), jnp.ones(3))
    >>> bool((output >= 0).all())
    True
    """

    def gates(params: Params, state: HiddenState, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
        z, n = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 2, axis=-1)
        return jax.lax.logistic(z), jax.nn.relu(n)

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        z, n = gates(params, state, drive)
        u_z, u_n = jnp.split(params["recurrent_kernel"].T, 2)
        return (
            jnp.diag(z)
            + ((state.hidden - n) * z * (1 - z))[:, None] * u_z
            + jnp.where(n > 0, 1 - z, 0.0)[:, None] * u_n
        )

    @gated_cell(GATES, name="lightgru", keep="update", scheme=_scheme(), jacobian=jacobian)
    def cell(params: Params, state: HiddenState, drive: jax.Array) -> HiddenState:
        z, n = gates(params, state, drive)
        return HiddenState(z * state.hidden + (1 - z) * n)

    return cell


def _scheme() -> schemes.Scheme:
    def kernel(key: jax.Array, layout: Layout) -> jax.Array:
        gates = len(layout.gates)
        draw = jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=2, batch_axis=0)
        blocks = draw(key, (gates, layout.input_size, layout.hidden_size), layout.dtype)
        return jnp.concatenate(list(blocks), axis=-1)

    return dataclasses.replace(schemes.orthogonal(), name="lightgru", kernel=kernel)
