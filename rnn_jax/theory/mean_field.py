"""Mean-field theory of wide vanilla networks: activity and gradients in the limit of large H."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.theory.domain import nan_outside, proper
from rnn_jax.theory.roots import falling_root

_POINTS = 401
_WIDTH = 9.0

Activation = Callable[[jax.Array], jax.Array]


class MeanField(NamedTuple):
    """The stationary variance q of a pre-activation, and the factor chi of squared gradients."""

    variance: jax.Array
    chi: jax.Array


class Correlation(NamedTuple):
    """Two copies of one network after long times.

    Attributes:
      correlation: c, of their pre-activations.
      chi: the factor by which a small change of c shrinks (or grows) at every step.
      memory_time: -1 / ln(chi), the steps over which they forget a difference in their past.
    """

    correlation: jax.Array
    chi: jax.Array
    memory_time: jax.Array


def gaussian_nodes(
    variance: jax.typing.ArrayLike,
    mean: jax.typing.ArrayLike = 0.0,
    points: int = _POINTS,
) -> tuple[jax.Array, jax.Array]:
    """Nodes u of a normal variable and weights that sum to 1: E f(u) is sum(weights * f(u)).

    For functions with their features near u = 0, such as an activation and its slope. At a large
    variance these are far narrower than the density, and Gauss-Hermite of a fixed order steps
    over them (200 nodes have lost half of ln chi at a gain of 10). So u = mean + sqrt(variance) z
    is sampled evenly in x, z = z_0 + sinh(x) / max(1, sqrt(variance)), finest at u = 0, over nine
    deviations: the trapezoidal rule converges exponentially at any variance. Derivatives by a
    variance of 0 are NaN.

    Args:
      variance, mean: of u, broadcast against each other to (...).
      points: n, how many nodes.

    Returns:
      Nodes (..., n) and weights (..., n).

    >>> nodes, weights = gaussian_nodes(1e6)
    >>> round(float(jnp.sum(weights * jnp.tanh(nodes) ** 2)), 5)
    0.9992
    """
    variance, mean = jnp.broadcast_arrays(jnp.asarray(variance, float), jnp.asarray(mean, float))
    deviation, mean = jnp.sqrt(variance)[..., None], mean[..., None]
    # Below a deviation of 1 nothing is narrow.
    scale = jnp.maximum(deviation, 1)
    origin = jnp.clip(-mean / scale, -_WIDTH, _WIDTH)
    low, high = (jnp.arcsinh(scale * (end - origin)) for end in (-_WIDTH, _WIDTH))
    x = low + (high - low) * jnp.linspace(0.0, 1.0, points).reshape((1,) * variance.ndim + (-1,))
    z = origin + jnp.sinh(x) / scale
    weights = jnp.exp(-(z**2) / 2) * jnp.cosh(x)
    return mean + deviation * z, weights / jnp.sum(weights, axis=-1, keepdims=True)


def gaussian_mean(
    function: Callable[[jax.Array], jax.Array],
    variance: jax.typing.ArrayLike,
    mean: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """E function(u) over a normal u of this variance and mean, one number each.

    The function is elementwise, with its features near 0: see `gaussian_nodes`.

    >>> round(float(gaussian_mean(jnp.square, 2.0)), 5)
    2.0
    """
    nodes, weights = gaussian_nodes(variance, mean)
    return jnp.sum(weights * function(nodes))


def vanilla_mean_field(
    gain: jax.typing.ArrayLike,
    input_variance: jax.typing.ArrayLike,
    activation: Activation = jnp.tanh,
) -> MeanField:
    """Variance and gradient factor of h_t = phi(U h_{t-1} + input), U of gain g, H to infinity.

    q = g^2 E phi(sqrt(q) z)^2 + v,    chi = g^2 E phi'(sqrt(q) z)^2
    E ||dL/ds_t||^2 = chi^(T - t) E ||dL/ds_T||^2, so ln(chi) / 2 nats per step: the largest
    Lyapunov exponent.

    At a large gain without input chi tends to 4 g / (3 sqrt(2 pi)): ever fewer units do not
    saturate, and these ever faster. NaN outside of finite g and 0 <= v < inf.

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
    v = jnp.asarray(input_variance, float)
    slope = jax.vmap(jax.grad(activation))

    def excess(q: jax.Array) -> jax.Array:
        return squared_gain * gaussian_mean(lambda u: activation(u) ** 2, q) + v - q

    # phi**2 is at most 1, so the root lies below g**2 + v; without input 0 is another, unstable
    # above the onset of chaos, which the bisection leaves alone.
    variance = falling_root(excess, 0.0, squared_gain + v)
    chi = squared_gain * gaussian_mean(lambda u: slope(u) ** 2, variance)
    return nan_outside(proper(v, squared_gain), MeanField(variance, chi))


def mean_exponent(
    gain: jax.typing.ArrayLike,
    input_variance: jax.typing.ArrayLike,
    activation: Activation = jnp.tanh,
) -> jax.Array:
    """The mean of all Lyapunov exponents of a wide vanilla network with Gaussian U, nats per step.

    ln g - 1/2 + E ln |phi'(sqrt(q) z)|, the mean of ln |det J| over the units: volumes contract
    although the largest exponent may be positive. With U = g times orthogonal the 1/2 is absent.

    Args:
      gain, input_variance, activation: as in `vanilla_mean_field`.

    References:
      Engelken, Wolf and Abbott (2023), doi:10.1103/PhysRevResearch.5.043044.

    >>> round(float(mean_exponent(1.5, 0.0)), 3)
    -0.714
    """
    q, _ = vanilla_mean_field(gain, input_variance, activation)
    return jnp.log(jnp.asarray(gain, float)) - 0.5 + gaussian_mean(_log_slope(activation), q)


def critical_gain(
    input_variance: jax.typing.ArrayLike, activation: Activation = jnp.tanh
) -> jax.Array:
    """The gain g at which chi = 1: gradients of a wide vanilla network neither vanish nor explode.

    q = E phi(u)^2 / E phi'(u)^2 + v,    g^2 = 1 / E phi'(u)^2,    u = sqrt(q) z

    Below it gradients vanish, above they explode. The more input, the larger it is, since what
    saturates has to be made up for. NaN outside of 0 <= v < inf.

    Args:
      input_variance, activation: as in `vanilla_mean_field`.

    References:
      Schoenholz et al. (2017), arXiv:1611.01232; Chen, Pennington and Schoenholz (2018),
      arXiv:1806.05394.

    >>> [round(float(critical_gain(v)), 4) for v in (0.0, 0.25, 1.0)]
    [1.0, 1.5497, 1.8556]
    """
    v = jnp.asarray(input_variance, float)
    slope = jax.grad(activation)

    def squared_gain(q: jax.Array) -> jax.Array:
        return 1 / gaussian_mean(lambda u: jax.vmap(slope)(u) ** 2, q)

    def excess(q: jax.Array) -> jax.Array:
        return squared_gain(q) * gaussian_mean(lambda u: activation(u) ** 2, q) + v - q

    # E phi^2 / E phi'^2 grows with q like its square root, by a factor of 2 (tanh) or 8 (sigmoid).
    q = falling_root(excess, 0.0, 2 * v + 100)
    # At rest q = 0 may be a triple root, which rounding would spread.
    zero = jnp.zeros_like(v)
    rests = (v == 0) & (activation(zero) == 0)
    gain = jnp.where(rests, 1 / jnp.abs(slope(zero)), jnp.sqrt(squared_gain(q)))
    return nan_outside(proper(v), gain)


def correlation_fixed_point(
    gain: jax.typing.ArrayLike,
    input_variance: jax.typing.ArrayLike,
    input_correlation: jax.typing.ArrayLike = 1.0,
    activation: Activation = jnp.tanh,
) -> Correlation:
    """How alike two copies of a wide vanilla network become, and how fast they forget their past.

    c = (g^2 E phi(u_1) phi(u_2) + rho v) / q,    chi_c = g^2 E phi'(u_1) phi'(u_2)

    with normal u_1, u_2 of variance q and correlation c, and q of `vanilla_mean_field`. The stable
    root is meant. With the same input (rho = 1) it is c = 1, where chi_c is chi, as long as
    chi <= 1; a chaotic network parts the copies, c < 1. With different inputs chi_c < 1 says for
    how long the state still tells of an early input: Chen, Pennington and Schoenholz find networks
    trainable on sequences of a few memory times. At rest (q = 0) every c is a root, and meant is
    that of ever weaker inputs, rho. NaN outside of finite g, 0 <= v < inf and 0 <= rho <= 1.

    Args:
      gain, input_variance, activation: as in `vanilla_mean_field`.
      input_correlation: rho in [0, 1], between the inputs of the two copies.

    References:
      Poole et al. (2016), arXiv:1606.05340; Schoenholz et al. (2017), arXiv:1611.01232; Chen,
      Pennington and Schoenholz (2018), arXiv:1806.05394.

    >>> result = correlation_fixed_point(1.0, 0.25, 0.5)
    >>> [round(float(value), 4) for value in result]
    [0.4831, 0.5251, 1.5522]
    """
    squared_gain = jnp.square(jnp.asarray(gain, float))
    v, rho = jnp.asarray(input_variance, float), jnp.asarray(input_correlation, float)
    q, _ = vanilla_mean_field(gain, v, activation)
    slope = jax.vmap(jax.vmap(jax.grad(activation)))

    def product_mean(function: Activation, c: jax.Array) -> jax.Array:
        # What the copies share, and given that, the mean over what each has for itself.
        shared, weights = gaussian_nodes(q * c, points=201)
        own, own_weights = gaussian_nodes(q * (1 - c), shared, points=201)
        return jnp.sum(weights * jnp.sum(own_weights * function(own), axis=1) ** 2)

    def excess(c: jax.Array) -> jax.Array:
        return squared_gain * product_mean(activation, c) + rho * v - c * q

    c = jnp.where(q > 0, falling_root(excess, 0.0, 1.0), rho)
    chi = squared_gain * product_mean(slope, c)
    inside = proper(v, squared_gain) & (rho >= 0) & (rho <= 1)
    return nan_outside(inside, Correlation(c, chi, -1 / jnp.log(chi)))


def _log_slope(activation: Activation) -> Activation:
    """ln |phi'(u)|, where the slope itself would underflow for the two that saturate."""
    if activation is jnp.tanh:
        return lambda u: 2 * (jnp.log(2) - jnp.abs(u) - jnp.log1p(jnp.exp(-2 * jnp.abs(u))))
    if activation is jax.nn.sigmoid:
        return lambda u: jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)
    return lambda u: jnp.log(jnp.abs(jax.vmap(jax.grad(activation))(u)))
