"""Products of one random matrix with itself (tied weights) and of fresh ones (untied)."""

import jax
import jax.numpy as jnp


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
