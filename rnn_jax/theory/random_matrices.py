"""Products of one random matrix with itself (tied weights) and of fresh ones (untied)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from rnn_jax.arguments import check_positive


def tied_spectral_norm(gain: jax.typing.ArrayLike, lag: jax.typing.ArrayLike) -> jax.Array:
    """ln of the limit of ||W^k||_2 for W_ij ~ N(0, g^2 / N), N to infinity.

    g^k sqrt((k + 1)^(k + 1) / k^k), about g^k sqrt(e (k + 1)): the edge of the Fuss-Catalan law
    (Banica, Belinschi, Capitaine and Collins 2011, arXiv:0710.5931). 2 g at k = 1.

    >>> round(float(jnp.exp(tied_spectral_norm(1.0, 1))), 6)
    2.0
    """
    k = jnp.asarray(lag, float)
    growth = ((k + 1) * jnp.log(k + 1) - jax.scipy.special.xlogy(k, k)) / 2
    return k * jnp.log(gain) + growth


class SingularLaw(NamedTuple):
    """The singular values of an infinitely large matrix, descending.

    Attributes:
      position: (n,), i / N between 0 and 1: the share of larger ones.
      log_value: (n,), ln sigma_i.
    """

    position: jax.Array
    log_value: jax.Array


def tied_singular_values(gain: jax.typing.ArrayLike, lag: int, points: int = 4000) -> SingularLaw:
    """All singular values of W^k, W_ij ~ N(0, g^2 / N), N to infinity.

    The squares x = sigma^2 / g^(2k) have the Fuss-Catalan law. With 0 < t < pi / (k + 1)

    x = sin((k + 1) t)^(k + 1) / (sin(t) sin(k t)^k)
    density(x) = sin(t)^2 sin(k t)^(k - 1) / (pi sin((k + 1) t)^k)
    position(t) = ((k + 1) t - k sin((k + 1) t) sin(t) / sin(k t)) / pi

    the last being the integral of the density from x to its edge. At t = 0 lies
    `tied_spectral_norm`; for large k, ln(sigma) / k is `circular_law_exponent`.

    Args:
      gain: g.
      lag: k, 1 or more.
      points: how many values of t, dense towards both ends of the law.

    Raises:
      TypeError, ValueError: for a lag or points that are no integers of at least 1.

    References:
      Forrester and Liu (2015), "Raney distributions and random matrix theory", Journal of
      Statistical Physics 158.

    >>> law = tied_singular_values(1.0, 1)
    >>> [round(float(jnp.interp(share, *law)), 2) for share in (0.0, 0.5, 0.9)]
    [0.69, -0.21, -1.85]
    """
    k, points = check_positive("lag", lag), check_positive("points", points)
    # On the host, as only the gain may be traced: float64 resolves both ends.
    phi = np.pi / 2 * (np.arange(points) + 0.5) / points
    # With rest = pi - (k + 1) t the position is about pi / (pi + k rest): a grid that is even in t
    # ends before 1, the further the larger k. Even in the position it would lack the edge, so the
    # factor lies halfway, and the squares make it dense at both ends.
    opened, closed = (k + 1) ** 0.5 * np.sin(phi) ** 2, np.cos(phi) ** 2
    turn, rest = np.pi * opened / (opened + closed), np.pi * closed / (opened + closed)
    t = turn / (k + 1)
    # Sines are taken of small angles: near pi they would lose their digits.
    top, under = np.sin(np.minimum(turn, rest)), np.sin(np.minimum(k * t, rest + t))
    sine = np.sin(t)
    position = (turn - k * top * sine / under) / np.pi
    log_x = (k + 1) * np.log(top) - np.log(sine) - k * np.log(under)
    log_gain = jnp.log(jnp.asarray(gain, float))
    return SingularLaw(jnp.asarray(position, float), k * log_gain + jnp.asarray(log_x / 2, float))


def untied_typical_rate(gain: jax.typing.ArrayLike, size: jax.typing.ArrayLike) -> jax.Array:
    """E ln ||W v|| for a unit vector v: the typical rate of a product of fresh Gaussian matrices.

    ||W v||^2 is g^2 / N times a chi-squared variable of N degrees of freedom, so the rate is
    ln g + (digamma(N / 2) - ln(N / 2)) / 2, about ln g - 1 / (2 N): the typical gradient of a
    finite network decays although its mean square does not (annealed against quenched).

    >>> round(float(untied_typical_rate(1.0, 64)), 5)
    -0.00785
    """
    half = jnp.asarray(size, float) / 2
    return jnp.log(gain) + (jax.scipy.special.digamma(half) - jnp.log(half)) / 2


def tied_identity_plus_random(
    identity: jax.typing.ArrayLike, gain: jax.typing.ArrayLike, lag: int
) -> jax.Array:
    """ln of the limit of ||J^k||_F / sqrt(N) for J = a I + W, the same W at every step.

    ||J^k||_F^2 / N -> sum_j C(k, j)^2 a^(2(k - j)) g^(2j), W Gaussian of variance g^2 / N or g
    times a random orthogonal matrix, N to infinity: two words of I and W agree in the mean only if
    they have W equally often, and then in any order. As the mean of |a + g e^(i theta)|^(2k) over
    the circle it grows at the rate ln(|a| + g), that of the spectral radius.

    A gated cell has such a Jacobian, a its gate. Of fresh W at every step only equal words agree
    (`untied_identity_plus_random`): that is why mean-field theory, which takes the weights to be
    fresh, may miss the slope of a gated network by far and even its sign.

    Args:
      identity: a.
      gain: g, 0 or more.
      lag: k, a number known to the compiler.

    >>> round(float(tied_identity_plus_random(0.5, 0.25, 40)), 4)   # half of ln 9.55e-12
    -12.6874
    """
    a, g = jnp.asarray(identity, float), jnp.asarray(gain, float)
    j = np.arange(lag + 1)
    log_factorial = np.append(0, np.cumsum(np.log(j[1:])))
    log_binomial = log_factorial[-1] - log_factorial - log_factorial[::-1]
    powers = xlogy(2.0 * (lag - j), jnp.abs(a)) + xlogy(2.0 * j, g)
    return jax.nn.logsumexp(2 * jnp.asarray(log_binomial, float) + powers) / 2


def untied_identity_plus_random(
    identity: jax.typing.ArrayLike, gain: jax.typing.ArrayLike, lag: jax.typing.ArrayLike
) -> jax.Array:
    """ln of sqrt(E ||J_k ... J_1||_F^2 / N) for J_t = a I + W_t with fresh W_t of gain g.

    (a^2 + g^2)^k, exactly at every N; compare `tied_identity_plus_random`.

    >>> round(float(untied_identity_plus_random(0.5, 0.25, 40)), 4)   # half of ln 6.2e-21
    -23.263
    """
    square = jnp.square(jnp.asarray(identity, float)) + jnp.square(jnp.asarray(gain, float))
    return xlogy(jnp.asarray(lag, float), square) / 2


def circular_law_exponent(gain: jax.typing.ArrayLike, position: jax.typing.ArrayLike) -> jax.Array:
    """The Lyapunov exponent at position i / N, descending, of W_ij ~ N(0, g^2 / N), N to infinity.

    lambda(i / N) = ln g + ln(1 - i / N) / 2: eigenvalues fill the disc of radius g evenly, and the
    exponents of a linear network, or of a tanh network at rest, are their logarithms.

    Args:
      gain: g.
      position: i / N in [0, 1], the fraction of exponents above; 0 is the largest, ln g.

    References:
      Ginibre (1965), doi:10.1063/1.1704292; Tao and Vu (2010), arXiv:0807.4898.

    >>> round(float(circular_law_exponent(0.9, 0.0)), 5), round(float(circular_law_mean(0.9)), 5)
    (-0.10536, -0.60536)
    """
    return jnp.log(jnp.asarray(gain, float)) + jnp.log1p(-jnp.asarray(position, float)) / 2


def circular_law_fraction(gain: jax.typing.ArrayLike, exponent: jax.typing.ArrayLike) -> jax.Array:
    """The fraction of Lyapunov exponents below s: e^(2 s) / g^2 up to s = ln g, and then 1.

    The distribution function to `circular_law_exponent`.

    >>> round(float(circular_law_fraction(0.9, jnp.log(0.45))), 4)
    0.25
    """
    ratio = jnp.asarray(exponent, float) - jnp.log(jnp.asarray(gain, float))
    return jnp.exp(2 * jnp.minimum(ratio, 0))


def circular_law_mean(gain: jax.typing.ArrayLike) -> jax.Array:
    """ln g - 1/2: the mean Lyapunov exponent, (1 / N) ln |det W| of a wide Gaussian matrix.

    >>> float(circular_law_mean(1.0))
    -0.5
    """
    return jnp.log(jnp.asarray(gain, float)) - 0.5
