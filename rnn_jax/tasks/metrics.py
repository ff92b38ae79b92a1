"""Measures that tasks share, for `rnn_jax.tasks.problem.Metric`.

Each is (outputs, one Example) -> (total, weight). A logit that is not a number makes its answer
wrong, even though an argmax would take it for the largest.
"""

import math

import jax
import jax.numpy as jnp

from rnn_jax.tasks.task import Example, classes_error, classes_loss, wrong


def accuracy(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    """Whether the target has the largest of K logits, (K,); the example counts once.

    >>> example = Example(None, jnp.array(1), None)
    >>> accuracy(jnp.array([0.1, 0.3]), example) == (1, 1)
    True
    """
    return _once(~wrong(outputs, example), outputs)


def step_accuracy(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    """At how many valid steps the target has the largest logit, (T, K), and how many there are."""
    right = ~wrong(outputs, example) & example.mask
    return jnp.sum(right).astype(outputs.dtype), jnp.sum(example.mask).astype(outputs.dtype)


def exact_match(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    """Whether the target has the largest logit, (U, K), at all valid steps; counts once.

    Of a decoder that reads the true symbols before, it is also the share that greedy decoding has
    right: up to the first mistake both have read the same.
    """
    return _once(classes_error(outputs, example) == 0, outputs)


def bits(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    """The sum of -log2 p(target) over valid steps, (T, K) logits, and how many there are."""
    count = jnp.sum(example.mask).astype(outputs.dtype)
    return classes_loss(outputs, example) * count / math.log(2), count


def _once(right: jax.Array, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    return right.astype(outputs.dtype), jnp.ones((), outputs.dtype)
