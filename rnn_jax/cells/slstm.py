"""The scalar xLSTM of Beck et al. (2024), arXiv:2405.04517: exponential gates, stabilised."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice
from rnn_jax.base import Cell, Params
from rnn_jax.gated import gated_cell
from rnn_jax.schemes import Layout, Scheme, orthogonal

GATES = ("input", "forget", "candidate", "output")


class SLSTMState(NamedTuple):
    """h (H,), bounded by 1, the memory c and its normaliser n in units of exp(m), and m.

    n is at least 1 once a step has been made; n = 0 marks an empty memory.
    """

    hidden: jax.Array
    cell: jax.Array
    normaliser: jax.Array
    stabiliser: jax.Array


FORGET_GATES = ("sigmoid", "exp")
"""The two of the paper."""


def log_forget_gate(forget: str, preactivation: jax.Array) -> jax.Array:
    """ln f of f = sigmoid(a) or exp(a), without computing f."""
    return jax.nn.log_sigmoid(preactivation) if forget == "sigmoid" else preactivation


def stabilised_gates(
    empty: jax.Array, preactivation: jax.Array, kept: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """m_t, i' and f' from a_i and ln f + m_{t-1}; an ``empty`` memory has no scale to keep.

    f' multiplies zeros then and need not be below 1, so it is cut where it might overflow: only
    the derivative by an initial state can see that, and only if ln f + m_{t-1} - a_i > 40.
    """
    m = jnp.where(empty, preactivation, jnp.maximum(kept, preactivation))
    return m, jnp.exp(preactivation - m), jnp.exp(jnp.minimum(kept - m, 40))


def forget_biases(units: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """From 3 to 6, evenly spaced, as in the authors' code: f between 0.95 and 0.998."""
    return jnp.linspace(3.0, 6.0, units, dtype=dtype)


def _authors() -> Scheme:
    def recurrent_kernel(key: jax.Array, layout: Layout) -> jax.Array:
        del key
        return jnp.zeros(layout.recurrent_shape, layout.dtype)

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        del key
        bias = jnp.zeros((len(GATES), layout.hidden_size), layout.dtype)
        biases = forget_biases(layout.hidden_size, layout.dtype)
        return bias.at[GATES.index("forget")].set(biases).reshape(-1)

    return dataclasses.replace(
        orthogonal(), name="slstm", recurrent_kernel=recurrent_kernel, bias=bias
    )


def slstm(forget: Literal["sigmoid", "exp"] = "sigmoid") -> Cell:
    """The sLSTM: an LSTM with an exponential input gate, a normaliser and a stabiliser.

    z = tanh(a_z),    i = exp(a_i),    f = sigmoid(a_f) or exp(a_f),    o = sigmoid(a_o)
    c_t = f * c_{t-1} + i * z,    n_t = f * n_{t-1} + i,    h_t = o * c_t / n_t,    y_t = h_t

    with a = x_t W + h_{t-1} U + b for each gate. h is a mean of past z, weighted by the gates. It
    stays the same when c and n are both held in units of exp(m_t), so that no exponential
    overflows:

    m_t = max(ln f + m_{t-1}, a_i),    i' = exp(a_i - m_t),    f' = exp(ln f + m_{t-1} - m_t)

    Parameters: ``kernel`` (D, 4 * H), ``recurrent_kernel`` (H, 4 * H), ``bias`` (4 * H,), in the
    order i, f, z, o. State: ``SLSTMState(hidden, cell, normaliser, stabiliser)``, each (H,).

    All of the state is zero at first. An empty memory, n = 0, has no scale to keep, so that then
    m_t = a_i, as in the authors' code. So n_t >= 1 after any step and the quotient is safe at any
    pre-activation. m is free: scaling c and n and shifting m against it changes no output.

    One head: the recurrent kernel is full (the paper's is block diagonal with several). Without a
    scheme it is zero, and the forget biases lie evenly between 3 and 6, as in the authors' code;
    input kernels are LeCun normal.

    Args:
      forget: "sigmoid" or "exp", the two forget gates of the paper.

    Raises:
      ValueError: for another ``forget``.

    >>> import jax
    >>> cell = slstm()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> huge = params | {"bias": params["bias"] + 200.0}
    >>> state, output = cell(huge, cell.initial_state(huge), jax.numpy.ones(3))
    >>> state.normaliser.tolist(), bool(jax.numpy.isfinite(output).all())
    ([1.0, 1.0, 1.0, 1.0], True)
    """
    check_choice("slstm: forget", forget, FORGET_GATES)
    return _slstm(forget)


@functools.cache
def _slstm(forget: str) -> Cell:
    name = "slstm" if forget == "sigmoid" else "slstm_exp"

    @gated_cell(GATES, name=name, state=SLSTMState, keep="forget", scheme=_authors())
    def cell(params: Params, state: SLSTMState, drive: jax.Array) -> SLSTMState:
        _, c, n, m = state
        a_i, a_f, a_z, a_o = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 4)
        m, i, f = stabilised_gates(n == 0, a_i, log_forget_gate(forget, a_f) + m)
        c, n = f * c + i * jnp.tanh(a_z), f * n + i
        return SLSTMState(jax.lax.logistic(a_o) * (c / n), c, n, m)

    return cell
