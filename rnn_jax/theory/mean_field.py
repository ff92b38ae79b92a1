"""Mean-field theory of wide vanilla networks: activity and gradients in the limit of large H."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# The trapezoidal rule over nine standard deviations. Gauss-Hermite of a fixed order fails at a
# large gain, where phi'(sqrt(q) z)**2 becomes narrower than the distance between its nodes.
_POINTS = 4001
_WIDTH = 9.0


class MeanField(NamedTuple):
    """The stationary variance q of a pre-activation, and the factor chi of squared gradients."""

    variance: jax.Array
    chi: jax.Array


def gaussian_mean(function: Callable[[jax.Array], jax.Array], variance: jax.Array) -> jax.Array:
    """E function(sqrt(variance) z) over a standard normal z.

    >>> round(float(gaussian_mean(jnp.square, 2.0)), 5)
    2.0
    """
    z = jnp.linspace(-_WIDTH, _WIDTH, _POINTS)
    density = jnp.exp(-(z**2) / 2)
    return jnp.sum(density * function(jnp.sqrt(variance) * z)) / jnp.sum(density)


def vanilla_mean_field(
    gain: jax.typing.ArrayLike,
    input_variance: jax.typing.ArrayLike,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
) -> MeanField:
    """Variance and gradient factor of h_t = phi(U h_{t-1} + input), U of gain g, H to infinity.

    q = g^2 E phi(sqrt(q) z)^2 + v,    chi = g^2 E phi'(sqrt(q) z)^2
    E ||dL/ds_t||^2 = chi^(T - t) E ||dL/ds_T||^2, so ln(chi) / 2 nats per step.

    Args:
      gain: g, with U_ij ~ N(0, g^2 / H) or U = g times orthogonal.
      input_variance: v, the variance of the input's part of a pre-activation.
      activation: phi, elementwise and bounded by 1.

    References:
      Sompolinsky, Crisanti and Sommers (1988), doi:10.1103/PhysRevLett.61.259; Molgedey,
      Schuchhardt and Schuster (1992), doi:10.1103/PhysRevLett.69.3717; Chen, Pennington and
      Schoenholz (2018), arXiv:1806.05394.

    >>> variance, chi = vanilla_mean_field(1.5, 0.0)
    >>> round(float(variance), 4), round(float(chi), 4)
    (0.7934, 1.1393)
    """
    squared_gain = jnp.square(jnp.asarray(gain, float))
    slope = jax.vmap(jax.grad(activation))

    def excess(q: jax.Array) -> jax.Array:
        mean = gaussian_mean(lambda u: activation(u) ** 2, q)
        return squared_gain * mean + input_variance - q

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = excess(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    # phi**2 is at most 1, so the root lies below g**2 + v; without input 0 is another, unstable
    # above the onset of chaos, which the bisection leaves alone.
    bracket = (jnp.zeros_like(squared_gain), squared_gain + input_variance)
    variance, _ = lax.fori_loop(0, 60, halve, bracket)
    return MeanField(variance, squared_gain * gaussian_mean(lambda u: slope(u) ** 2, variance))
