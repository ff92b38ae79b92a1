"""Initialisation schemes, and the defaults of six libraries by name.

The same LSTM with the default initialisation of one library or another differs by many orders
of magnitude in how much gradient reaches its first step: forget bias 0 or 1, biases zero or
uniform, orthogonal per gate or over the fused kernel (whose gate blocks are then *not*
orthogonal), input scale. A comparison of cells therefore pins the scheme.

A `Scheme` draws each part of a packed-kernel cell from its `Layout`. Gains, biases and every
other number of a scheme may be traced, so a sweep over gain and seed is one ``vmap``:

>>> import jax, jax.numpy as jnp, rnn_jax
>>> from rnn_jax import schemes
>>> def draw(key, gain):
...     return rnn_jax.elman().init(key, 3, 8, scheme=schemes.orthogonal(gain))
>>> keys = jax.random.split(jax.random.key(0), 5)
>>> jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(keys, jnp.array([0.5, 1.0]))["bias"].shape
(5, 2, 8)

A configuration names a scheme by its key in `SCHEMES` or `PRESETS`:

>>> sorted(schemes.SCHEMES)
['chrono', 'critical', 'gaussian', 'identity', 'orthogonal', 'sparse', 'spectral_radius']
>>> sorted(schemes.PRESETS)
['equinox', 'flax_linen', 'flax_nnx', 'haiku', 'keras', 'torch']
"""

from collections.abc import Callable, Mapping

from rnn_jax.schemes.criticality import critical
from rnn_jax.schemes.layout import CriticalGain, Draw, Layout, Scheme
from rnn_jax.schemes.literature import (
    chrono,
    gaussian,
    identity,
    orthogonal,
    sparse,
    spectral_radius,
)
from rnn_jax.schemes.packed import drawn_shapes, own_init, packed_init
from rnn_jax.schemes.presets import PRESETS, equinox, flax_linen, flax_nnx, haiku, keras, torch

__all__ = [
    "PRESETS",
    "SCHEMES",
    "CriticalGain",
    "Draw",
    "Layout",
    "Scheme",
    "chrono",
    "critical",
    "drawn_shapes",
    "equinox",
    "flax_linen",
    "flax_nnx",
    "gaussian",
    "haiku",
    "identity",
    "keras",
    "orthogonal",
    "own_init",
    "packed_init",
    "sparse",
    "spectral_radius",
    "torch",
]

SCHEMES: Mapping[str, Callable[..., Scheme]] = {
    "orthogonal": orthogonal,
    "gaussian": gaussian,
    "identity": identity,
    "spectral_radius": spectral_radius,
    "sparse": sparse,
    "chrono": chrono,
    "critical": critical,
}
"""The schemes by name. All but the last two take a scale first and then a forget bias."""
