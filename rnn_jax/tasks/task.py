"""What a network is trained on: samples drawn from a key, a loss, an error and a baseline."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax.arguments import check_positive, shown


class Example(NamedTuple):
    """One sequence and what is wanted of it; ``vmap`` the sampler for a batch.

    Attributes:
      inputs: (T, D), or what else a `Problem` gives its model.
      target: what the loss compares outputs with; its shape and dtype are the task's.
      mask: (T,) booleans, False in the padding after the last step.
    """

    inputs: Any
    target: Any
    mask: Any


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


def of_varied_length(task: Task, least: int) -> Task:
    """The same task with lengths drawn from ``least`` to ``steps``, each as often.

    The baseline, too, is the mean over these lengths.

    Raises:
      TypeError, ValueError: for ``least`` that is no integer or below ``task.shortest``; by
        ``sample``, for ``steps`` below ``least``.

    >>> from rnn_jax.tasks import adding
    >>> task = of_varied_length(adding(), 100)
    >>> keys = jax.random.split(jax.random.key(0), 1000)
    >>> lengths = jax.vmap(lambda key: task.sample(key, 110).mask.sum())(keys)
    >>> int(lengths.min()), int(lengths.max())
    (100, 110)
    """
    if not isinstance(task, Task):
        raise TypeError(f"of_varied_length: task must be a Task, as adding() is, got {shown(task)}")
    least = check_positive("of_varied_length: least", least)
    if least < task.shortest:
        raise ValueError(
            f"of_varied_length: least must be at least {task.shortest} for {task.name}, got {least}"
        )

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        padding(task.name, steps, length, least)  # for its errors
        of_length, key = jax.random.split(key)
        if length is None:
            length = jax.random.randint(of_length, (), least, steps + 1)
        return task.sample(key, steps, length)

    def baseline(steps: int) -> float:
        return fmean(task.baseline(length) for length in range(least, steps + 1))

    return replace(task, sample=sample, baseline=baseline, shortest=least)


def solved_after(
    losses: np.ndarray, errors: np.ndarray, *, mean_loss: float, run: int = 2000
) -> int | None:
    """After how many training sequences Hochreiter and Schmidhuber (1997) would have stopped.

    They stop when the last ``run`` sequences were all right, with a mean error below ``mean_loss``:
    0.01 when adding, 0.1 for the temporal order. They do not say over how many sequences the mean
    is; here it is of the losses of the same run.

    Args:
      losses, errors: (N,) of ``Task.loss`` and ``Task.error``, of each sequence before the update
        that it is trained on.

    Returns:
      The count, None if they would go on.

    Raises:
      TypeError, ValueError: for losses and errors that are not two vectors of one length, for a
        run that is no integer of at least 1.

    >>> errors = np.array([1, 0, 1, 0, 0, 0])
    >>> solved_after(errors / 10, errors, mean_loss=0.1, run=2)
    5
    """
    run = check_positive("solved_after: run", run)
    losses, errors = np.asarray(losses, float), np.asarray(errors)
    if losses.ndim != 1 or losses.shape != errors.shape:
        raise ValueError(
            "solved_after: losses and errors must be vectors of one length, "
            f"got shapes {losses.shape} and {errors.shape}"
        )
    wrong = errors != 0
    # A loss of a wrong answer, NaN perhaps, is in no run that counts.
    losses = np.where(wrong, 0, losses)
    counts, sums = (np.cumsum(np.append(0, series)) for series in (wrong, losses))
    solved = (counts[run:] == counts[:-run]) & (sums[run:] - sums[:-run] < run * mean_loss)
    return int(np.argmax(solved)) + run if solved.any() else None


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
    return wrong(at_end(outputs, example.mask), example).astype(outputs.dtype)


def classes_loss(outputs: jax.Array, example: Example) -> jax.Array:
    """-ln p(target_t) under the softmax of each output, the mean over valid steps, nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, example.target)
    return jnp.mean(losses, where=example.mask)


def classes_error(outputs: jax.Array, example: Example) -> jax.Array:
    """The share of valid steps at which another class than the target has the largest logit."""
    return jnp.mean(wrong(outputs, example).astype(outputs.dtype), where=example.mask)


def wrong(logits: jax.Array, example: Example) -> jax.Array:
    """Whether the largest logit, (..., K), is not the target's; argmax takes NaN for it."""
    most_likely = jnp.argmax(logits, axis=-1).astype(example.target.dtype)
    return (most_likely != example.target) | jnp.any(jnp.isnan(logits), axis=-1)


def padding(name: str, steps: int, length: jax.typing.ArrayLike | None, shortest: int) -> jax.Array:
    """The mask (steps,) of a sequence of this length.

    Raises:
      ValueError: for ``steps``, or a length that is not traced, out of range.
      TypeError: for what is no integer.
    """
    steps = check_positive(f"{name}: steps", steps, zero=True)
    if steps < shortest:
        raise ValueError(f"{name}: steps must be at least {shortest}, got {steps}")
    if length is None:
        length = steps
    elif not jnp.issubdtype(jnp.result_type(length), jnp.integer):
        raise TypeError(f"{name}: length must be an integer, got {shown(length)}")
    elif not isinstance(length, jax.core.Tracer) and not shortest <= np.asarray(length) <= steps:
        raise ValueError(f"{name}: length must be between {shortest} and {steps}, got {length}")
    return jnp.arange(steps) < length
