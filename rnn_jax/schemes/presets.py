"""The defaults of six libraries.

A preset is a library's default initialisers applied to the kernels and biases of a cell, also of
a cell that the library does not have. Where it has the cell, the distributions are its own, biases
included. Another cell is drawn like the library's cell of the same kind, told by the gates:

* with an "input" or "output" gate it is an LSTM, the kind to which haiku's one fan-in of D + H
  belongs;
* with other gates it is a GRU or, if the gate that keeps the state is called "forget", an MGU;
* with none it is a vanilla network.

A bias that a library gives to forget gates goes to the gate that keeps the state if it is called
"forget", never to an "update" gate.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.nn import initializers

from rnn_jax.schemes.layout import Layout, Scheme
from rnn_jax.schemes.literature import orthogonal
from rnn_jax.schemes.parts import fused_orthogonal, keep_bias, zero_recurrent_bias


def flax_linen() -> Scheme:
    """flax.linen (0.12): LeCun normal input, orthogonal per gate, biases zero, MGU forget bias 1.

    The forget bias of its LSTM is 0.
    """

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        return keep_bias(1.0 if _forgets(layout) and not _is_lstm(layout) else 0.0)(key, layout)

    return dataclasses.replace(orthogonal(), name="flax_linen", bias=bias)


def flax_nnx() -> Scheme:
    """flax.nnx (0.12) OptimizedLSTMCell, GRUCell, SimpleCell: LeCun, orthogonal *fused*, biases 0.

    The rows of the (H, G * H) matrix are orthonormal; a gate block alone is not orthogonal.
    """
    return dataclasses.replace(orthogonal(), name="flax_nnx", recurrent_kernel=fused_orthogonal)


def keras() -> Scheme:
    """Keras (3.15): Glorot uniform and orthogonal over the fused kernels, LSTM forget bias 1."""

    def kernel(key: jax.Array, layout: Layout) -> jax.Array:
        return initializers.glorot_uniform()(key, layout.kernel_shape, layout.dtype)

    return Scheme("keras", kernel, fused_orthogonal, _unit_forget_bias, zero_recurrent_bias)


def torch() -> Scheme:
    """torch.nn (2.x): everything uniform in +-1 / sqrt(H), biases included.

    PyTorch adds two biases per gate. Where this library has one it is the sum of two draws;
    b_in and b_hn of the GRU that resets after the product stay apart.
    """

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        first, second = _uniform(key, layout, 2, len(layout.gates), layout.hidden_size)
        doubled = jnp.array([gate != layout.recurrent_bias for gate in layout.gates])
        return (first + jnp.where(doubled[:, None], second, 0)).reshape(-1)

    return Scheme(
        "torch",
        kernel=lambda key, layout: _uniform(key, layout, *layout.kernel_shape),
        recurrent_kernel=lambda key, layout: _uniform(key, layout, *layout.recurrent_shape),
        bias=bias,
        recurrent_bias=lambda key, layout: _uniform(key, layout, layout.hidden_size),
    )


def haiku() -> Scheme:
    """dm-haiku (0.0.17) VanillaRNN, LSTM, GRU: truncated normals, effective LSTM forget bias 1.

    ``hk.Linear`` cuts N(0, 1 / fan_in) at two deviations without restoring the variance, so its
    deviation is 0.88 / sqrt(fan_in), and the LSTM's one matrix has fan_in D + H; ``hk.GRU``
    restores it. The LSTM adds 1 to the forget gate in its equations, here 1 in the bias.
    """

    def truncated(key: jax.Array, shape: tuple[int, int], layout: Layout) -> jax.Array:
        gated = layout.keep is not None or len(layout.gates) > 1
        if gated and not _is_lstm(layout):
            restoring = initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
            return restoring(key, shape, layout.dtype)
        joint = layout.input_size + layout.recurrent_shape[0]
        fan_in = joint if _is_lstm(layout) else shape[0]
        draws = jax.random.truncated_normal(key, -2.0, 2.0, shape, layout.dtype)
        return draws * fan_in**-0.5

    return Scheme(
        "haiku",
        kernel=lambda key, layout: truncated(key, layout.kernel_shape, layout),
        recurrent_kernel=lambda key, layout: truncated(key, layout.recurrent_shape, layout),
        bias=_unit_forget_bias,
        recurrent_bias=zero_recurrent_bias,
    )


def equinox() -> Scheme:
    """equinox (0.13) LSTMCell, GRUCell: everything uniform in +-1 / sqrt(H), one bias per gate."""
    return dataclasses.replace(
        torch(),
        name="equinox",
        bias=lambda key, layout: _uniform(key, layout, layout.kernel_shape[1]),
    )


PRESETS: Mapping[str, Callable[[], Scheme]] = {
    "flax_linen": flax_linen,
    "flax_nnx": flax_nnx,
    "keras": keras,
    "torch": torch,
    "haiku": haiku,
    "equinox": equinox,
}
"""The six libraries' defaults by name."""


# ---- Parts --------------------------------------------------------------------------------------


def _is_lstm(layout: Layout) -> bool:
    return "input" in layout.gates or "output" in layout.gates


def _forgets(layout: Layout) -> bool:
    return layout.keep == "forget"


def _unit_forget_bias(key: jax.Array, layout: Layout) -> jax.Array:
    return keep_bias(1.0 if _forgets(layout) else 0.0)(key, layout)


def _uniform(key: jax.Array, layout: Layout, *shape: int) -> jax.Array:
    limit = layout.hidden_size**-0.5
    return jax.random.uniform(key, shape, layout.dtype, -limit, limit)
