"""Attention: a mean of what was read, weighted by how well it answers a query."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import shown


class Memory(NamedTuple):
    """What can be looked at: S steps, those that ``mask`` leaves out never.

    Attributes:
      keys: (S, E), what a query is compared with.
      values: (S, F), what comes of it.
      mask: (S,) booleans, or None.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array | None = None


def attend(query: jax.Array, memory: Memory) -> tuple[jax.Array, jax.Array]:
    """The mean a V (..., F) and its weights a = softmax(q K^T) (..., S) for queries q (..., E).

    Where nothing can be looked at, both are 0.

    Raises:
      TypeError, ValueError: for what is no `Memory`, or shapes that do not fit.

    >>> mean, weights = attend(jnp.zeros(2), Memory(jnp.eye(2), jnp.eye(2)))
    >>> mean.tolist(), weights.tolist()
    ([0.5, 0.5], [0.5, 0.5])
    """
    if not isinstance(memory, Memory):
        raise TypeError(f"attend: memory must be a Memory, got {shown(memory)}")
    keys, values, mask = memory
    if query.shape[-1:] != keys.shape[1:] or len(keys) != len(values):
        raise ValueError(
            "attend: expected a query (..., E), keys (S, E) and values (S, F), got "
            f"{shown((query, keys, values))}"
        )
    scores = query @ keys.T
    if mask is None:
        weights = jax.nn.softmax(scores)
    else:
        # Not minus infinity: with nothing valid that would be NaN.
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        weights = jnp.where(mask, jax.nn.softmax(scores), 0)
    return weights @ values, weights
