"""The network of Le, Jaitly and Hinton (2015), arXiv:1504.00941."""

import dataclasses
import functools

import jax

from rnn_jax.base import Cell, packed_project
from rnn_jax.cells.elman import elman
from rnn_jax.schemes import Layout, identity, packed_init


@functools.cache
def irnn() -> Cell:
    """A vanilla network of rectified linear units that starts at the identity.

    h_t = relu(x_t W + h_{t-1} U + b),    y_t = h_t

    The equation, parameters and state of ``elman("relu")``; what is its own is where it starts
    without a scheme: U = I, W normal with deviation 0.001, b = 0. A unit that is on then keeps its
    value and its gradient for ever, and inputs add up slowly. Where
    long memory is not wanted the paper scales U down to 0.01 I: ``schemes.identity(0.01)``, which
    however draws W with variance 1 / D.

    >>> import jax
    >>> params = irnn().init(jax.random.key(0), 3, 2)
    >>> params["recurrent_kernel"].tolist(), bool((abs(params["kernel"]) < 0.01).all())
    ([[1.0, 0.0], [0.0, 1.0]], True)
    """
    scheme = dataclasses.replace(identity(), name="irnn", kernel=_small_normal)
    return dataclasses.replace(
        elman("relu"),
        name="irnn",
        init=packed_init("irnn", ("hidden",), default=scheme),
        project=packed_project("irnn", 1),
    )


def _small_normal(key: jax.Array, layout: Layout) -> jax.Array:
    shape = (layout.input_size, len(layout.gates) * layout.hidden_size)
    return 0.001 * jax.random.normal(key, shape, layout.dtype)
