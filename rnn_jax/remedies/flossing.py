"""Gradient flossing: Lyapunov exponents pushed towards zero."""

import jax
import jax.numpy as jnp

from rnn_jax.analysis import lyapunov_spectrum
from rnn_jax.base import Cell, Params, State


def flossing_penalty(
    key: jax.Array,
    cell: Cell,
    params: Params,
    xs: jax.Array,
    count: int,
    *,
    every: int = 1,
    target: jax.typing.ArrayLike = 0.0,
    burn_in: int = 0,
    tangent_burn_in: int = 0,
    state: State | None = None,
) -> jax.Array:
    """The mean of (lambda_i - target)^2 over the ``count`` largest Lyapunov exponents, a scalar.

    lambda_i is the mean of ln R_ii of the QR factorisations in `analysis.lyapunov_spectrum`, along
    the trajectory of these inputs. The gradient is the whole one: through every factorisation,
    through every Jacobian, and through the states at which they are taken, burn-in included. Its
    cost is that of backpropagation through T steps of ``count`` tangents, and their memory.

    These are exponents of finite time: from another first frame they differ by some nats over the
    steps measured. ``tangent_burn_in``, or a new key for each update, keeps a network from being
    fitted to one frame.

    An exponent that is not resolved makes the penalty infinite, see ``LyapunovResult.resolved``:
    take a smaller ``count``.

    Args:
      key: for the first frame.
      cell, params, state: as in `rnn_jax.unroll`.
      xs: the inputs (T, D); T = burn_in + tangent_burn_in + the steps measured, of which there
        must be at least 32 * every.
      count: how many exponents, the largest first.
      every: steps between factorisations.
      target: where to, in nats per step; a number or (count,).
      burn_in, tangent_burn_in: as in `analysis.lyapunov_spectrum`; none by default, since the
        gradient of a loss goes through the first steps, too.

    Raises:
      ValueError: as `analysis.lyapunov_spectrum`.

    References:
      Engelken (2023), "Gradient flossing: improving gradient descent through dynamic control of
      Jacobians", arXiv:2312.17306.

    A linear network that halves its state:

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.elman("identity")
    >>> params = cell.init(jax.random.key(0), 2, 4, scheme=rnn_jax.schemes.orthogonal(0.5))
    >>> penalty = flossing_penalty(jax.random.key(1), cell, params, jnp.zeros((40, 2)), 4)
    >>> round(float(jnp.sqrt(penalty) / jnp.log(2)), 3)
    1.0
    """
    exponents = lyapunov_spectrum(
        key,
        cell,
        params,
        xs,
        count=count,
        burn_in=burn_in,
        tangent_burn_in=tangent_burn_in,
        every=every,
        state=state,
    ).exponents
    return jnp.mean(jnp.square(exponents - jnp.asarray(target, exponents.dtype)))
