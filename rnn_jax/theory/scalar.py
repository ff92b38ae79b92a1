"""Networks of one or two units, solved by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from rnn_jax.theory.roots import falling_root


class Latch(NamedTuple):
    """A unit that stores a bit.

    Attributes:
      state: x > 0, the stored state; the other is -x.
      threshold: the largest steady input of the wrong sign that does not flip it.
      factor: dx_t/dx_{t-1} there, what one step leaves of a gradient.
    """

    state: jax.Array
    threshold: jax.Array
    factor: jax.Array


def non_normal_power(
    decay: jax.typing.ArrayLike, coupling: jax.typing.ArrayLike, lag: jax.typing.ArrayLike
) -> jax.Array:
    """ln ||W^k||_F of W = [[a, b], [0, a]]: a transient that the eigenvalues do not show.

    W^k = [[a^k, k a^(k-1) b], [0, a^k]],    ||W^k||_F^2 = 2 a^(2k) + k^2 a^(2k-2) b^2

    For |a| < 1 it may grow until k is about -1 / ln |a| before it decays at the rate ln |a|.

    Args:
      decay: a, both eigenvalues.
      coupling: b.
      lag: k, 0 or more. All three broadcast.

    >>> [round(float(non_normal_power(0.95, 1.0, k)), 3) for k in (1, 20, 200)]
    [0.516, 2.023, -4.909]
    """
    a, b, k = (jnp.asarray(value, float) for value in (decay, coupling, lag))
    diagonal = jnp.log(2) + xlogy(2 * k, jnp.abs(a))
    # The exponent is 0 for the empty product, whose corner is 0 for another reason, ln k.
    power = xlogy(2 * jnp.maximum(k - 1, 0), jnp.abs(a))
    corner = 2 * jnp.log(k) + power + 2 * jnp.log(jnp.abs(b))
    return jnp.logaddexp(diagonal, corner) / 2


def impulse_parameter_gradient(
    decay: jax.typing.ArrayLike, length: jax.typing.ArrayLike
) -> jax.Array:
    """ln |dh_T/dlam| of h_t = lam h_{t-1} + x_t after an impulse x_1 = 1 and no other input.

    dh_T/dlam = (T - 1) lam^(T-2), beside the gradient by the state, dh_T/dh_1 = lam^(T-1)

    The parameter is used at every step, so its gradient grows until T is about 1 - 1 / ln |lam|
    although the state's decays from the first.

    Args:
      decay: lam.
      length: T, 1 or more. Both broadcast.

    >>> [round(float(impulse_parameter_gradient(0.9, T)), 3) for T in (1, 2, 10, 100)]
    [-inf, 0.0, 1.354, -5.73]
    """
    lam, steps = jnp.asarray(decay, float), jnp.asarray(length, float)
    return jnp.log(steps - 1) + xlogy(jnp.maximum(steps - 2, 0), jnp.abs(lam))


def sigmoid_saddle_nodes(weight: jax.typing.ArrayLike) -> jax.Array:
    """The two biases, ascending, between which h = sigmoid(w h + b) has three fixed points.

    h = (1 +- sqrt(1 - 4 / w)) / 2,    b = ln(h / (1 - h)) - w h

    At either a stable fixed point meets the unstable one and both disappear: there the factor
    w h (1 - h) is 1, and a small change of b moves the state, and the loss, by a jump. In terms of
    the pre-activation, x = w sigmoid(x) + b, the biases are the same.

    Args:
      weight: w. Below 4 there is one fixed point for every b, and both results are NaN.

    Returns:
      (2,).

    References:
      Doya (1993), "Bifurcations of recurrent neural networks in gradient descent learning";
      Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, section 2.2.

    >>> [round(float(bias), 5) for bias in sigmoid_saddle_nodes(5.0)]
    [-2.65561, -2.34439]
    """
    w = jnp.asarray(weight, float)
    # 1 - h of the one is h of the other. The larger h belongs to the smaller bias.
    h = (1 + jnp.array([1.0, -1.0]) * jnp.sqrt(1 - 4 / w)) / 2
    return jnp.log(h / h[::-1]) - w * h


def tanh_latch(weight: jax.typing.ArrayLike) -> Latch:
    """How a unit x_t = tanh(w x_{t-1} + u_t) with w > 1 holds a bit, and what that costs.

    x = tanh(w x),    factor = w (1 - x^2),    threshold = sqrt(w (w - 1)) - arccosh(sqrt(w))

    The firmer the bit is held against the input, the smaller the factor: information that is
    latched safely has a vanishing gradient. For w <= 1 nothing is stored: (0, 0, w).

    References:
      Bengio, Simard and Frasconi (1994), doi:10.1109/72.279181.

    >>> [round(float(value), 5) for value in tanh_latch(2.0)]
    [0.9575, 0.53284, 0.16637]
    """
    w = jnp.asarray(weight, float)
    state = jnp.where(w > 1, falling_root(lambda x: jnp.tanh(w * x) - x, 0.0, 1.0), 0)
    bistable = jnp.maximum(w, 1)
    threshold = jnp.sqrt(bistable * (bistable - 1)) - jnp.arccosh(jnp.sqrt(bistable))
    # 1 - x^2 cancels at a state near 1.
    return Latch(state, threshold, w / jnp.cosh(w * state) ** 2)
