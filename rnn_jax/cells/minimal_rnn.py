"""The minimalRNN of Chen (2017), arXiv:1711.06788; its mean-field theory: Chen, Pennington and
Schoenholz (2018), arXiv:1806.05394.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.base import Cell, HiddenState, Params, Shapes, affine, check_shapes, read_hidden
from rnn_jax.schemes import Layout, packed_init


class MinimalRNNDrive(NamedTuple):
    """The embedded input z (..., H) and its part of the gate, z V + b (..., H)."""

    embedding: jax.Array
    gate: jax.Array


@functools.cache
def minimal_rnn() -> Cell:
    """A minimalRNN: the input is embedded, and one gate decides how much of it enters.

    z = tanh(x_t W + b_z),    u = sigmoid(h_{t-1} U + z V + b)
    h_t = u * h_{t-1} + (1 - u) * z,    y_t = h_t
    dh_t/dh_{t-1} = diag(u) + diag((h_{t-1} - z) * u * (1 - u)) U^T

    Parameters: ``kernel`` W (D, H) and ``input_bias`` b_z (H,) of the embedding;
    ``recurrent_kernel`` U (H, H), ``gate_kernel`` V (H, H) and ``bias`` b (H,) of the gate.
    State: ``HiddenState(hidden)``, (H,), a running average of z.

    The candidate does not see the state: it is the gate alone that makes the recurrence
    nonlinear. The paper leaves the embedding Phi open and takes a layer with tanh, as here.

    Every scheme draws W, U and b; V is LeCun normal and b_z zero.

    >>> import jax
    >>> sorted(minimal_rnn().init(jax.random.key(0), 3, 4))
    ['bias', 'gate_kernel', 'input_bias', 'kernel', 'recurrent_kernel']
    """
    name = "minimal_rnn"

    def gate_kernel(key: jax.Array, layout: Layout) -> jax.Array:
        square = (layout.hidden_size, layout.hidden_size)
        return jax.nn.initializers.lecun_normal()(key, square, layout.dtype)

    def input_bias(key: jax.Array, layout: Layout) -> jax.Array:
        del key
        return jnp.zeros(layout.hidden_size, layout.dtype)

    extra = {"gate_kernel": gate_kernel, "input_bias": input_bias}

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["bias"]))

    def shapes(got: Shapes) -> Shapes:
        size = got["kernel"][-1]
        return {
            "kernel": (got["kernel"][0], size),
            **dict.fromkeys(("recurrent_kernel", "gate_kernel"), (size, size)),
            **dict.fromkeys(("bias", "input_bias"), (size,)),
        }

    def project(params: Params, x: jax.Array) -> MinimalRNNDrive:
        check_shapes(name, params, shapes)
        z = jnp.tanh(affine(name, params["kernel"], params["input_bias"], x))
        return MinimalRNNDrive(z, affine(name, params["gate_kernel"], params["bias"], z))

    def gate(params: Params, state: HiddenState, drive: MinimalRNNDrive) -> jax.Array:
        return jax.lax.logistic(drive.gate + state.hidden @ params["recurrent_kernel"])

    def step(
        params: Params, state: HiddenState, drive: MinimalRNNDrive
    ) -> tuple[HiddenState, jax.Array]:
        u = gate(params, state, drive)
        hidden = u * state.hidden + (1 - u) * drive.embedding
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: MinimalRNNDrive) -> jax.Array:
        u = gate(params, state, drive)
        slope = (state.hidden - drive.embedding) * u * (1 - u)
        return jnp.diag(u) + slope[:, None] * params["recurrent_kernel"].T

    return Cell(
        name,
        packed_init(name, ("update",), keep="update", extra=extra),
        initial_state,
        step,
        project,
        read_hidden,
        jacobian,
    )
