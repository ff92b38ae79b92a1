"""NaN for arguments of which a formula says nothing: they may be traced, so none is refused."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Values = TypeVar("Values")


def nan_outside(inside: ArrayLike, values: Values) -> Values:
    """The arrays of a pytree where ``inside`` holds, and NaN elsewhere.

    >>> nan_outside(jnp.array([True, False]), jnp.ones(2)).tolist()
    [1.0, nan]
    """
    return jax.tree.map(lambda leaf: jnp.where(inside, leaf, jnp.nan), values)


def proper(variance: ArrayLike, *numbers: ArrayLike) -> jax.Array:
    """Whether a variance is finite and 0 or more, and other numbers are finite: (), of all entries.

    >>> bool(proper(0.0, -1.0)), bool(proper(-1.0)), bool(proper(1.0, jnp.inf))
    (True, False, False)
    """
    finite = (jnp.all(jnp.isfinite(jnp.asarray(number))) for number in (variance, *numbers))
    return jnp.all(jnp.asarray(variance) >= 0) & jnp.all(jnp.stack(list(finite)))
