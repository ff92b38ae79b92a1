"""How a stationary linear unit answers to its input, and to a change of its own eigenvalue."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rnn_jax.theory.domain import nan_outside


class LinearMoments(NamedTuple):
    """Mean squares in the stationary state.

    Attributes:
      state: E |h|^2.
      sensitivity: E |dh/dlam|^2.
    """

    state: jax.Array
    sensitivity: jax.Array


class LRUMoments(NamedTuple):
    """Mean squares of an LRU's state z and of its derivatives by the parameters of its eigenvalue.

    Attributes:
      state: E |z|^2; the same by ``gamma_log``.
      by_nu_log: E |dz/d nu_log|^2, by the logarithm of the decay rate.
      by_theta_log: E |dz/d theta_log|^2, by the logarithm of the phase.
    """

    state: jax.Array
    by_nu_log: jax.Array
    by_theta_log: jax.Array


def linear_moments(eigenvalue: ArrayLike, correlation: ArrayLike = 0.0) -> LinearMoments:
    """The curse of memory: what a small change of lam does to a unit h_t = lam h_{t-1} + x_t.

    With E x_t x_{t+k} = rho^|k|, l = lam and m = conj(lam):

    E |h|^2 = sum_{j,k} l^j m^k rho^|j-k| = G(l, m) = (1 - rho^2 l m) / ((1 - l m) |1 - rho l|^2)
    E |dh/dlam|^2 = d^2 G / (dl dm) = G (C + |A|^2)
    A = d ln G / dl = m / (1 - l m) + rho / (1 - rho l) - rho^2 m / (1 - rho^2 l m)
    C = d^2 ln G / (dl dm) = 1 / (1 - l m)^2 - rho^2 / (1 - rho^2 l m)^2

    Gradients by the state never exceed 1 here. Yet as |lam| tends to 1 the state grows and its
    sensitivity grows faster: for white inputs as (1 - |lam|)^-1 and (1 - |lam|)^-3, for constant
    ones and lam > 0 as (1 - lam)^-2 and (1 - lam)^-4. NaN outside of |lam| < 1 and |rho| <= 1.

    Args:
      eigenvalue: lam, real or complex, |lam| < 1.
      correlation: rho of inputs of variance 1, between -1 and 1; the two broadcast. 0 is white
        noise, 1 a constant of random size.

    References:
      Zucchet and Orvieto (2024), arXiv:2405.21064; the generating function G is ours.

    >>> [f"{value:.4g}" for value in linear_moments(0.9)]
    ['5.263', '263.9']
    >>> [f"{value:.4g}" for value in linear_moments(0.9, 1.0)]
    ['100', '1e+04']
    """
    lam = jnp.asarray(eigenvalue)
    real = jnp.finfo(jnp.result_type(lam, float)).dtype
    radius, phase = jnp.abs(lam).astype(real), jnp.angle(lam).astype(real)
    return _moments(radius, phase, jnp.asarray(correlation, real))


def lru_moments(radius: ArrayLike, phase: ArrayLike, correlation: ArrayLike = 0.0) -> LRUMoments:
    """What the parametrisation of an LRU does about it: z_t = lam z_{t-1} + gamma x_t.

    lam = exp(-exp(nu_log) + i exp(theta_log)),    gamma^2 = 1 - |lam|^2
    E |z|^2 = gamma^2 E |h|^2
    E |dz/d nu_log|^2 = gamma^2 (|lam| ln |lam|)^2 E |dh/dlam|^2
    E |dz/d theta_log|^2 = gamma^2 (|lam| theta)^2 E |dh/dlam|^2

    with h of `linear_moments`; gamma is held, a parameter of its own. For white inputs the state's
    mean square is 1, and that of its derivative by nu_log tends to 1/2 as |lam| tends to 1. Phases
    stay cursed: by theta_log it grows as theta^2 (1 - |lam|)^-2 / 2. NaN outside of 0 < |lam| < 1,
    theta >= 0 and |rho| <= 1.

    Args:
      radius: |lam|, 0 < |lam| < 1.
      phase: theta, 0 or more.
      correlation: as in `linear_moments`; all three broadcast.

    References:
      Orvieto et al. (2023), arXiv:2303.06349; Zucchet and Orvieto (2024), arXiv:2405.21064.

    >>> [f"{value:.2g}" for value in lru_moments(0.999, 0.1)]
    ['1', '0.5', '5e+03']
    """
    radius, theta = jnp.asarray(radius, float), jnp.asarray(phase, float)
    moments = _moments(radius, theta, jnp.asarray(correlation, float))
    gain = (1 - radius) * (1 + radius)
    sensitivity = gain * radius**2 * moments.sensitivity
    by_nu_log, by_theta_log = sensitivity * jnp.log(radius) ** 2, sensitivity * theta**2
    lru = LRUMoments(gain * moments.state, by_nu_log, by_theta_log)
    return nan_outside((radius > 0) & (theta >= 0), lru)


def _moments(radius: jax.Array, phase: jax.Array, rho: jax.Array) -> LinearMoments:
    forgets = (1 - radius) * (1 + radius)
    echoes = 1 - (rho * radius) ** 2
    cosine, sine = jnp.cos(phase), jnp.sin(phase)
    across = (1 - rho * radius * cosine) ** 2 + (rho * radius * sine) ** 2
    state = echoes / (forgets * across)
    # A times exp(i phase): what is left imaginary is of its second term alone.
    turned_real = (
        radius / forgets + rho * (cosine - rho * radius) / across - rho**2 * radius / echoes
    )
    turned_imag = rho * sine / across
    # C over one denominator: at rho = 1 its two terms cancel.
    curvature = (1 - rho**2) * (1 - (rho * radius**2) ** 2) / (forgets * echoes) ** 2
    moments = LinearMoments(state, state * (curvature + turned_real**2 + turned_imag**2))
    return nan_outside((radius < 1) & (jnp.abs(rho) <= 1), moments)
