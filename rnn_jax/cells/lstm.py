"""Long short-term memory: Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735,
with the forget gate of Gers, Schmidhuber and Cummins (2000), doi:10.1162/089976600300015015.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.base import Cell, Params, packed_project
from rnn_jax.schemes import packed_init

GATES = ("input", "forget", "candidate", "output")


class LSTMState(NamedTuple):
    """The hidden vector h (H,), bounded by 1, and the memory cell c (H,), unbounded."""

    hidden: jax.Array
    cell: jax.Array


class LSTMGates(NamedTuple):
    """The gate values of one step, each (H,): i, f and o in (0, 1), the candidate g in (-1, 1)."""

    input: jax.Array
    forget: jax.Array
    candidate: jax.Array
    output: jax.Array


def lstm_gates(params: Params, state: LSTMState, drive: jax.Array) -> LSTMGates:
    """i, f, g, o of the step that leaves ``state``: what the cell multiplies its state by."""
    i, f, g, o = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 4, axis=-1)
    return LSTMGates(jax.lax.logistic(i), jax.lax.logistic(f), jnp.tanh(g), jax.lax.logistic(o))


@functools.cache
def lstm() -> Cell:
    """Long short-term memory with forget gates.

    i, f, o = sigmoid(x_t W + h_{t-1} U + b),    g = tanh(x_t W + h_{t-1} U + b)
    c_t = f * c_{t-1} + i * g,    h_t = o * tanh(c_t),    y_t = h_t

    Parameters: ``kernel`` (D, 4 * H), ``recurrent_kernel`` (H, 4 * H), ``bias`` (4 * H,), in the
    order i, f, g, o. State: ``LSTMState(hidden, cell)``, each (H,).

    The order of gates is PyTorch's, Keras' and Flax'; haiku packs i, g, f, o and adds 1 to f.
    Flax carries (c, h), PyTorch and Keras (h, c). PyTorch has two biases per gate, added. The
    default scheme leaves the forget bias at 0, as Flax does; Keras and haiku have 1, which
    Jozefowicz, Zaremba and Sutskever (2015) recommend: ``schemes.orthogonal(forget_bias=1.0)``.

    >>> import jax
    >>> cell = lstm()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, output = cell(params, cell.initial_state(params), jax.numpy.ones(3))
    >>> state.cell.shape, bool((state.hidden == output).all())
    ((4,), True)
    """

    def initial_state(params: Params) -> LSTMState:
        zeros = jnp.zeros_like(params["recurrent_kernel"][:, 0])
        return LSTMState(zeros, zeros)

    def step(params: Params, state: LSTMState, drive: jax.Array) -> tuple[LSTMState, jax.Array]:
        i, f, g, o = lstm_gates(params, state, drive)
        cell = f * state.cell + i * g
        hidden = o * jnp.tanh(cell)
        return LSTMState(hidden, cell), hidden

    def jacobian(params: Params, state: LSTMState, drive: jax.Array) -> jax.Array:
        i, f, g, o = lstm_gates(params, state, drive)
        squashed = jnp.tanh(f * state.cell + i * g)
        u_i, u_f, u_g, u_o = jnp.split(params["recurrent_kernel"].T, 4)
        cell_by_hidden = (
            (state.cell * f * (1 - f))[:, None] * u_f
            + (g * i * (1 - i))[:, None] * u_i
            + (i * (1 - g**2))[:, None] * u_g
        )
        read = (o * (1 - squashed**2))[:, None]
        hidden_by_hidden = (squashed * o * (1 - o))[:, None] * u_o + read * cell_by_hidden
        return jnp.block([[hidden_by_hidden, read * jnp.diag(f)], [cell_by_hidden, jnp.diag(f)]])

    return Cell(
        "lstm",
        packed_init("lstm", GATES, keep="forget"),
        initial_state,
        step,
        packed_project("lstm", 4),
        jacobian=jacobian,
    )
