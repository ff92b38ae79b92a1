"""The recurrent additive network of Lee, Levy and Zettlemoyer (2017), arXiv:1705.07393."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice
from rnn_jax.base import Cell, Params, affine
from rnn_jax.gated import gated_cell
from rnn_jax.schemes import Layout

GATES = ("input", "forget")


class RANState(NamedTuple):
    """The memory c (H,), a weighted sum of the inputs' contents; h is a function of it."""

    cell: jax.Array


class RANDrive(NamedTuple):
    """The input's part of both gates (..., 2 * H), and its content (..., H)."""

    gates: jax.Array
    content: jax.Array


def ran(output: Literal["tanh", "identity"] = "tanh") -> Cell:
    """A recurrent additive network: an LSTM whose memory sees the past through its gates only.

    i, f = sigmoid(x_t W + h_{t-1} U + b),    k = x_t W_k
    c_t = i * k + f * c_{t-1},    h_t = g(c_t),    y_t = h_t,    g tanh or the identity

    Parameters: ``kernel`` W (D, 2 * H), ``recurrent_kernel`` U (H, 2 * H), ``bias`` b (2 * H,),
    in the order i, f; ``content_kernel`` W_k (D, H). State: ``RANState(cell)``, (H,), unbounded;
    h_{t-1} is g of it and not kept twice.

    Every c_t is a sum of the contents k_j, j <= t, with weights i_j * f_{j+1} * ... * f_t.
    The content has no bias, as in the paper; torchrecurrent and RecurrentLayers.jl give it one.

    Every scheme draws the gates; W_k is LeCun normal.

    Args:
      output: g, "tanh" or "identity".

    Raises:
      ValueError: for another ``output``.

    >>> import jax, jax.numpy as jnp
    >>> cell = ran()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, output = cell(params, cell.initial_state(params), jnp.ones(3))
    >>> bool((output == jnp.tanh(state.cell)).all())
    True
    """
    check_choice("ran: output", output, ("tanh", "identity"))
    return _ran(output)


@functools.cache
def _ran(output: str) -> Cell:
    name = "ran" if output == "tanh" else "ran_identity"

    def content_kernel(key: jax.Array, layout: Layout) -> jax.Array:
        shape = (layout.input_size, layout.hidden_size)
        return jax.nn.initializers.lecun_normal()(key, shape, layout.dtype)

    def read(params: Params, state: RANState, drive: RANDrive) -> jax.Array:
        del params, drive
        return jnp.tanh(state.cell) if output == "tanh" else state.cell

    def gates(params: Params, state: RANState, drive: RANDrive) -> tuple[jax.Array, jax.Array]:
        hidden = read(params, state, drive)
        i, f = jnp.split(drive.gates + hidden @ params["recurrent_kernel"], 2, axis=-1)
        return jax.lax.logistic(i), jax.lax.logistic(f)

    def jacobian(params: Params, state: RANState, drive: RANDrive) -> jax.Array:
        i, f = gates(params, state, drive)
        u_i, u_f = jnp.split(params["recurrent_kernel"].T, 2)
        cell_by_hidden = (drive.content * i * (1 - i))[:, None] * u_i + (state.cell * f * (1 - f))[
            :, None
        ] * u_f
        if output == "tanh":
            cell_by_hidden *= (1 - jnp.tanh(state.cell) ** 2)[None, :]
        return jnp.diag(f) + cell_by_hidden

    @gated_cell(
        GATES,
        name=name,
        state=RANState,
        keep="forget",
        extra={"content_kernel": content_kernel},
        read=read,
        jacobian=jacobian,
    )
    def cell(params: Params, state: RANState, drive: RANDrive) -> RANState:
        i, f = gates(params, state, drive)
        return RANState(i * drive.content + f * state.cell)

    def project(params: Params, x: jax.Array) -> RANDrive:
        gates = cell.project(params, x)
        return RANDrive(gates, affine(name, params["content_kernel"], None, x))

    return dataclasses.replace(cell, project=project)
