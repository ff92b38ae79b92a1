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

    Derivatives are those of the root by what the function is made with, -(df/dp) / (df/dx), not
    those of the halvings, which follow the ends alone.

    >>> round(float(falling_root(lambda x: 2 - x**2, 0.0, 2.0)), 5)
    1.41421
    >>> round(float(jax.grad(lambda p: falling_root(lambda x: p - x**2, 0.0, p))(2.0)), 5)
    0.35355
    """
    bracket = (jnp.asarray(low, float), jnp.asarray(high, float))

    def bisect(function: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
        del start  # whose dtype alone says something

        def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bracket
            middle = (low + high) / 2
            above = function(middle) > 0
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        # More halvings than a float64 has digits: the root may be far smaller than the bracket.
        return lax.fori_loop(0, 60, halve, bracket)[0]

    def divide(slope: Callable[[jax.Array], jax.Array], value: jax.Array) -> jax.Array:
        return value / slope(jnp.ones_like(value))

    return lax.custom_root(function, bracket[0], bisect, divide)
