"""What a network is trained on: samples drawn from a key, a loss, an error and a baseline."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Example(NamedTuple):
    """One sequence and what is wanted of it; ``vmap`` the sampler for a batch.

    Attributes:
      inputs: (T, D).
      target: what the loss compares outputs with; its shape and dtype are the task's.
      mask: (T,) booleans, False in the padding after the last step.
    """

    inputs: jax.Array
    target: jax.Array
    mask: jax.Array


class SampleFn(Protocol):
    """Draws a sequence padded to ``steps``, which is static; ``length`` may be traced.

    By default the length is ``steps``. A traced length cannot be checked: it must lie between
    ``Task.shortest`` and ``steps``.
    """

    def __call__(
        self, key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None
    ) -> Example: ...


@dataclass(frozen=True)
class Task:
    """A task as a record of pure functions; all of one sequence, so ``vmap`` for a batch.

    Attributes:
      name: as a person writes it.
      input_size, output_size: D and O of the network.
      sample: `SampleFn`.
      loss: (outputs (T, O), Example) -> (), in nats or squared units of the target.
      error: (outputs (T, O), Example) -> (), the share of answers that are wrong, NaN among them.
      baseline: length -> the expected loss of the best answer that remembers nothing.
      shortest: the length below which there is no sequence.
    """

    name: str
    input_size: int
    output_size: int
    sample: SampleFn
    loss: Callable[[jax.Array, Example], jax.Array]
    error: Callable[[jax.Array, Example], jax.Array]
    baseline: Callable[[int], float]
    shortest: int = 1


def at_end(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """The output of the last step that is not padding: (T, O) -> (O,).

    >>> at_end(jnp.arange(6.0).reshape(3, 2), jnp.array([True, True, False])).tolist()
    [2.0, 3.0]
    """
    return outputs[jnp.sum(mask) - 1]


def class_at_end_loss(outputs: jax.Array, example: Example) -> jax.Array:
    """-ln p(target) under the softmax of the last output, nats."""
    logits = at_end(outputs, example.mask)
    return optax.softmax_cross_entropy_with_integer_labels(logits, example.target)


def class_at_end_error(outputs: jax.Array, example: Example) -> jax.Array:
    """1 where another class than the target has the largest logit at the end, else 0."""
    return _wrong(at_end(outputs, example.mask), example).astype(outputs.dtype)


def classes_loss(outputs: jax.Array, example: Example) -> jax.Array:
    """-ln p(target_t) under the softmax of each output, the mean over valid steps, nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, example.target)
    return jnp.mean(losses, where=example.mask)


def classes_error(outputs: jax.Array, example: Example) -> jax.Array:
    """The share of valid steps at which another class than the target has the largest logit."""
    wrong = _wrong(outputs, example).astype(outputs.dtype)
    return jnp.mean(wrong, where=example.mask)


def _wrong(logits: jax.Array, example: Example) -> jax.Array:
    """Whether the largest logit is not the target's; argmax takes NaN for the largest."""
    most_likely = jnp.argmax(logits, axis=-1).astype(example.target.dtype)
    return (most_likely != example.target) | jnp.any(jnp.isnan(logits), axis=-1)


def padding(name: str, steps: int, length: jax.typing.ArrayLike | None, shortest: int) -> jax.Array:
    """The mask (steps,) of a sequence of this length.

    Raises:
      ValueError: for ``steps``, or a length that is not traced, out of range.
    """
    if steps < shortest:
        raise ValueError(f"{name}: steps must be at least {shortest}, got {steps}")
    if length is None:
        length = steps
    elif not isinstance(length, jax.core.Tracer) and not shortest <= np.asarray(length) <= steps:
        raise ValueError(f"{name}: length must be between {shortest} and {steps}, got {length}")
    return jnp.arange(steps) < length
