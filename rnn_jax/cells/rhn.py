"""The recurrent highway network of Zilly et al. (2017), arXiv:1607.03474."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import schemes
from rnn_jax.arguments import check_positive
from rnn_jax.base import Cell, HiddenState, Params, Shapes, affine, check_shapes
from rnn_jax.schemes import Scheme, packed_init
from rnn_jax.schemes.parts import gate_bias

GATES = ("candidate", "transform")
TRANSFORM_BIAS = -2.0


def rhn(depth: int = 3) -> Cell:
    """A recurrent highway network: several highway layers within each step, coupled carry gate.

    s_0 = h_{t-1}, and for every layer l = 1 .. L, with the input in the first one only,
    n = tanh([l = 1] x_t W_n + s_{l-1} U_{n,l} + b_{n,l})
    z = sigmoid([l = 1] x_t W_z + s_{l-1} U_{z,l} + b_{z,l})
    s_l = z * n + (1 - z) * s_{l-1}
    h_t = s_L,    y_t = h_t
    ds_l/ds_{l-1} = diag(1 - z) + diag((n - s_{l-1}) z (1 - z)) U_{z,l}^T
                    + diag(z (1 - n^2)) U_{n,l}^T, and dh_t/dh_{t-1} is their product

    Parameters: ``kernel`` W (D, 2 * H), ``recurrent_kernel`` U (L, H, 2 * H), ``bias`` b
    (L, 2 * H), in the order n, z (the paper's h and t). State: ``HiddenState(hidden)``, (H,).

    The paper's z is a transform gate: near 1 it overwrites. No gate keeps the state by
    saturating at 1, so a scheme with a forget bias is refused.

    Every scheme draws each layer as if it were a cell of its own. The default one is orthogonal
    with b_z = -2, the authors' bias for Penn Treebank (they take -4 for enwik8 and text8), which
    lets each layer carry most of the state at first. Their code draws all weights uniformly in
    +-0.04, for some thousand units.

    Args:
      depth: L, the layers per step, the paper's recurrence depth (1 to 10 there).

    Raises:
      ValueError, TypeError: for a depth that is no integer of at least 1.

    >>> import jax
    >>> params = rhn(depth=2).init(jax.random.key(0), 3, 4)
    >>> {name: value.shape for name, value in params.items()}
    {'bias': (2, 8), 'kernel': (3, 8), 'recurrent_kernel': (2, 4, 8)}
    """
    return _rhn(check_positive("rhn: depth", depth))


@functools.cache
def _rhn(depth: int) -> Cell:
    name = "rhn" if depth == 3 else f"rhn_depth_{depth}"
    bias = gate_bias("transform", TRANSFORM_BIAS)
    default = dataclasses.replace(schemes.orthogonal(), name="rhn", bias=bias)
    layer_init = packed_init(name, GATES, default=default)

    def init(
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Scheme | None = None,
        dtype: Any = None,
    ) -> Params:
        draw = lambda key: layer_init(key, input_size, hidden_size, scheme=scheme, dtype=dtype)
        layers = jax.vmap(draw)(jax.random.split(key, depth))
        return layers | {"kernel": layers["kernel"][0]}

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["recurrent_kernel"][0, :, 0]))

    def shapes(got: Shapes) -> Shapes:
        input_size, width = got["kernel"]
        return {
            "kernel": (input_size, width),
            "recurrent_kernel": (depth, width // 2, width),
            "bias": (depth, width),
        }

    def project(params: Params, x: jax.Array) -> jax.Array:
        check_shapes(name, params, shapes)
        return affine(name, params["kernel"], params["bias"][0], x)

    def layer(
        recurrent_kernel: jax.Array, hidden: jax.Array, drive: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        n, z = jnp.split(drive + hidden @ recurrent_kernel, 2, axis=-1)
        n, z = jnp.tanh(n), jax.lax.logistic(z)
        return n, z, z * n + (1 - z) * hidden

    def drives(params: Params, drive: jax.Array) -> list[jax.Array]:
        return [drive, *params["bias"][1:]]

    def step(params: Params, state: HiddenState, drive: jax.Array) -> tuple[HiddenState, jax.Array]:
        hidden = state.hidden
        for kernel, entering in zip(params["recurrent_kernel"], drives(params, drive), strict=True):
            *_, hidden = layer(kernel, hidden, entering)
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        hidden = state.hidden
        product = jnp.eye(len(hidden), dtype=hidden.dtype)
        for kernel, entering in zip(params["recurrent_kernel"], drives(params, drive), strict=True):
            n, z, new = layer(kernel, hidden, entering)
            u_n, u_z = jnp.split(kernel.T, 2)
            factor = (
                jnp.diag(1 - z)
                + ((n - hidden) * z * (1 - z))[:, None] * u_z
                + (z * (1 - n**2))[:, None] * u_n
            )
            hidden, product = new, factor @ product
        return product

    return Cell(name, init, initial_state, step, project, jacobian=jacobian)
