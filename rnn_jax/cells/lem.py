"""Long expressive memory: Rusch, Mishra, Erichson and Mahoney (2022), arXiv:2110.04744."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_number
from rnn_jax.base import Cell, Params
from rnn_jax.gated import gated_cell
from rnn_jax.schemes import equinox

GATES = ("memory_step", "hidden_step", "memory", "hidden")


class LEMState(NamedTuple):
    """The output y, named hidden, and the memory z, each (H,), in [-1, 1] if they start there."""

    hidden: jax.Array
    memory: jax.Array


def lem(*, dt: float = 1.0) -> Cell:
    """Long expressive memory: two leaky integrators, each with a learned step size.

    d_z = dt * sigmoid(x_t V_1 + y_{t-1} W_1 + b_1)
    d_y = dt * sigmoid(x_t V_2 + y_{t-1} W_2 + b_2)
    z_t = (1 - d_z) * z_{t-1} + d_z * tanh(x_t V_z + y_{t-1} W_z + b_z)
    y_t = (1 - d_y) * y_{t-1} + d_y * tanh(x_t V_y + z_t W_y + b_y); the output is y_t

    The last gate sees the *new* memory. ``dt`` bounds the step sizes: at dt <= 1 both parts stay
    in [-1, 1]. At dt = 1 the memory is an LSTM's whose input and forget gate add up to 1.

    Parameters: ``kernel`` V (D, 4 * H), ``recurrent_kernel`` W (H, 4 * H), ``bias`` b (4 * H,), in
    the order d_z, d_y, z, y. State: ``LEMState(hidden, memory)``, each (H,).

    Without a scheme as in the paper: everything uniform in +-1 / sqrt(H). The authors' code packs
    its three products with y in the order d_y, d_z, z and has two biases per gate, added.

    Args:
      dt: the largest step, above 0; no parameter, since it is not trained.

    Raises:
      TypeError, ValueError: for a dt out of range.

    >>> import jax
    >>> cell = lem()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> params["recurrent_kernel"].shape, cell.initial_state(params)._fields
    ((4, 16), ('hidden', 'memory'))
    """
    return _lem(check_number("lem: dt", dt, zero=False))


class _Steps(NamedTuple):
    """What one step is made of: the two steps and the two candidates, and the new memory."""

    memory_step: jax.Array
    hidden_step: jax.Array
    memory_candidate: jax.Array
    hidden_candidate: jax.Array
    memory: jax.Array


@functools.cache
def _lem(dt: float) -> Cell:
    def steps(params: Params, state: LEMState, drive: jax.Array) -> _Steps:
        y, z = state
        split = [3 * y.shape[-1]]
        by_hidden, by_memory = jnp.split(params["recurrent_kernel"], split, axis=-1)
        drive, hidden_drive = jnp.split(drive, split, axis=-1)
        d_z, d_y, candidate = jnp.split(drive + y @ by_hidden, 3, axis=-1)
        d_z, d_y = dt * jax.lax.logistic(d_z), dt * jax.lax.logistic(d_y)
        candidate = jnp.tanh(candidate)
        z = (1 - d_z) * z + d_z * candidate
        return _Steps(d_z, d_y, candidate, jnp.tanh(hidden_drive + z @ by_memory), z)

    def equations(params: Params, state: LEMState, drive: jax.Array) -> LEMState:
        _, d_y, _, candidate, z = steps(params, state, drive)
        return LEMState((1 - d_y) * state.hidden + d_y * candidate, z)

    def jacobian(params: Params, state: LEMState, drive: jax.Array) -> jax.Array:
        y, z = state
        d_z, d_y, of_z, of_y, _ = steps(params, state, drive)
        w_1, w_2, w_z, w_y = jnp.split(params["recurrent_kernel"].T, 4)
        slope = lambda d: d * (1 - d / dt)
        z_by_z = jnp.diag(1 - d_z)
        z_by_y = ((of_z - z) * slope(d_z))[:, None] * w_1 + (d_z * (1 - of_z**2))[:, None] * w_z
        y_by_new_z = (d_y * (1 - of_y**2))[:, None] * w_y
        y_by_y = jnp.diag(1 - d_y) + ((of_y - y) * slope(d_y))[:, None] * w_2
        return jnp.block([[y_by_y + y_by_new_z @ z_by_y, y_by_new_z @ z_by_z], [z_by_y, z_by_z]])

    return gated_cell(GATES, name="lem", state=LEMState, scheme=equinox(), jacobian=jacobian)(
        equations
    )
