"""Roots of one variable that a compiled program can find."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def falling_root(
    function: Callable[[jax.Array], jax.Array],
    low: jax.typing.ArrayLike,
    high: jax.typing.ArrayLike,
) -> jax.Array:
    """Where a function of one number turns from positive to not positive between two ends.

    By bisection, so that it always ends: at ``high`` if the function stays positive, at ``low``
    if it never is. A zero at an end itself is passed over for a change of sign between them.

    >>> round(float(falling_root(lambda x: 2 - x**2, 0.0, 2.0)), 5)
    1.41421
    """

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = function(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    bracket = (jnp.asarray(low, float), jnp.asarray(high, float))
    # More halvings than a float64 has digits: the root may be far smaller than the bracket.
    return lax.fori_loop(0, 60, halve, bracket)[0]
