"""Gated and diagonal cells at initialisation: at the origin, and along their diagonal."""

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid, softplus


def gate_power(bias: jax.typing.ArrayLike, lag: jax.typing.ArrayLike) -> jax.Array:
    """ln sigmoid(b)^k: what a gate at its bias keeps over k steps.

    The gradient dc_T/dc_{T-k} of an LSTM without recurrent kernels and input, b its forget bias;
    likewise of a GRU and its update bias.

    >>> round(float(jnp.exp(gate_power(3.0, 100))), 4)
    0.0078
    """
    return jnp.asarray(lag, float) * log_sigmoid(jnp.asarray(bias, float))


def gate_time_constant(bias: jax.typing.ArrayLike) -> jax.Array:
    """-1 / ln sigmoid(b): the steps in which a gate at its bias forgets all but 1 / e.

    >>> [round(float(gate_time_constant(bias)), 2) for bias in (0.0, 1.0, 5.0)]
    [1.44, 3.19, 148.91]
    """
    return 1 / softplus(-jnp.asarray(bias, float))


def lstm_origin_eigenvalues(
    candidate_eigenvalues: jax.typing.ArrayLike,
    *,
    input_bias: jax.typing.ArrayLike = 0.0,
    forget_bias: jax.typing.ArrayLike = 0.0,
    output_bias: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """The eigenvalues of an LSTM's step Jacobian at rest, h = c = 0 and zero input.

    f + o i mu_j for every eigenvalue mu_j of the candidate's matrix U_g, with every gate at its
    bias; the other H eigenvalues of the 2 H-dimensional state are exactly 0 (Lyapunov exponents of
    minus infinity). Without a bias of the candidate, which would leave no rest at the origin.

    Args:
      candidate_eigenvalues: mu, (H,), real or complex.
      input_bias, forget_bias, output_bias: one number each, the same for all units.

    Returns:
      (H,), of the dtype of mu.

    >>> lstm_origin_eigenvalues(jnp.array([1.0, -1.0])).tolist()
    [0.75, 0.25]
    """
    i, f, o = (sigmoid(jnp.asarray(b, float)) for b in (input_bias, forget_bias, output_bias))
    return _shifted(f, o * i, candidate_eigenvalues)


def lstm_critical_gain(
    forget_bias: jax.typing.ArrayLike = 0.0,
    input_bias: jax.typing.ArrayLike = 0.0,
    output_bias: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """(1 - f) / (o i), at which an LSTM at rest loses its stability, H to infinity.

    The gain of the candidate's matrix, Gaussian of variance g^2 / H: its eigenvalues fill the disc
    of radius g, and the largest of `lstm_origin_eigenvalues` is then 1.

    >>> [round(float(lstm_critical_gain(bias)), 4) for bias in (0.0, 1.0, 3.0)]
    [2.0, 1.0758, 0.1897]
    """
    f, i, o = (jnp.asarray(b, float) for b in (forget_bias, input_bias, output_bias))
    # 1 - f cancels at a large forget bias.
    return sigmoid(-f) / (sigmoid(o) * sigmoid(i))


def gru_origin_eigenvalues(
    candidate_eigenvalues: jax.typing.ArrayLike,
    *,
    reset_bias: jax.typing.ArrayLike = 0.0,
    update_bias: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """The eigenvalues of a GRU's step Jacobian at rest, h = 0 and zero input; for either reset.

    z + (1 - z) r mu_j for every eigenvalue mu_j of the candidate's matrix U_n, with both gates at
    their biases. Without biases of the candidate, which would leave no rest at the origin.

    Args:
      candidate_eigenvalues: mu, (H,), real or complex.
      reset_bias, update_bias: one number each, the same for all units.

    Returns:
      (H,), of the dtype of mu.

    >>> gru_origin_eigenvalues(jnp.array([2.0, -2.0])).tolist()
    [1.0, 0.0]
    """
    r, z = (sigmoid(jnp.asarray(b, float)) for b in (reset_bias, update_bias))
    return _shifted(z, (1 - z) * r, candidate_eigenvalues)


def gru_critical_gain(reset_bias: jax.typing.ArrayLike = 0.0) -> jax.Array:
    """1 / r, at which a GRU at rest loses its stability, whatever the update bias; H to infinity.

    The gain of the candidate's matrix, as in `lstm_critical_gain`. Slow units are as stable as
    fast ones: the update gate moves all eigenvalues towards 1, never past it.

    >>> float(gru_critical_gain())
    2.0
    """
    return 1 / sigmoid(jnp.asarray(reset_bias, float))


def ring_power(
    lag: jax.typing.ArrayLike,
    r_min: jax.typing.ArrayLike = 0.0,
    r_max: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """ln sqrt(E |lam|^(2 k)) over a ring of multipliers: the typical gradient of an LRU's state.

    |lam|^2 ~ U(r_min^2, r_max^2)
    E |lam|^(2 k) = (r_max^(2k+2) - r_min^(2k+2)) / ((k + 1) (r_max^2 - r_min^2))

    Of the whole disc it is 1 / (k + 1): units of every time scale together forget as a power of
    the lag, though each alone forgets exponentially.

    Args:
      lag: k, 0 or more.
      r_min, r_max: the radii, 0 <= r_min < r_max; the three broadcast.

    References:
      Orvieto et al. (2023), arXiv:2303.06349, for the initialisation.

    >>> [round(float(jnp.exp(2 * ring_power(k))), 4) for k in (0, 1, 99)]
    [1.0, 0.5, 0.01]
    """
    k, inner, outer = (jnp.asarray(value, float) for value in (lag, r_min, r_max))
    # ln(r_max^p - r_min^p), whose terms may both underflow.
    log_ratio = jnp.log(inner / outer)
    difference = lambda p: p * jnp.log(outer) + jnp.log(-jnp.expm1(p * log_ratio))
    return (difference(2 * k + 2) - jnp.log(k + 1) - difference(2.0)) / 2


def _shifted(shift: jax.Array, scale: jax.Array, eigenvalues: jax.typing.ArrayLike) -> jax.Array:
    mu = jnp.asarray(eigenvalues)
    dtype = jnp.result_type(mu, float)  # complex as they are
    return shift.astype(dtype) + scale.astype(dtype) * mu.astype(dtype)
