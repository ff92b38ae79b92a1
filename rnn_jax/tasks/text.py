"""Reading text character by character."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.tasks.sources import embedded_characters
from rnn_jax.tasks.task import Example, Task, classes_error, classes_loss, padding


def next_character(text: str, size: int, *, part: tuple[float, float] = (0.0, 1.0)) -> Task:
    """Say the next character at each step: D = ``size``, K as many as the text has.

    Windows begin anywhere in a part of the text. Characters come as the fixed random vectors of
    variance 1 of `rnn_jax.tasks.python_docs`. The loss is the mean over steps in nats per
    character; the baseline is the entropy of single characters, of whoever knows their frequencies
    alone. Vectors, classes and frequencies are those of the whole text.

    Args:
      text: what is read.
      size: D.
      part: where windows lie, from and to as shares of the text: (0, 0.9) to train on and (0.9, 1)
        to test on.

    Raises:
      ValueError: for a text of a single character, for shares that do not increase from 0 to 1; by
        ``sample``, for more steps than the part has.

    >>> task = next_character("to be, or not to be", 4)
    >>> example = task.sample(jax.random.key(0), 5)
    >>> task.output_size, example.inputs.shape, example.target.shape
    (8, (5, 4), (5,))
    """
    table, codes, alphabet = embedded_characters(text, size, where="text")
    low, high = part
    if not 0 <= low < high <= 1:
        raise ValueError(f"next_character: part must be shares from 0 to 1, got {part}")
    corpus = jnp.asarray(codes[int(low * len(codes)) : int(high * len(codes))])
    vectors = jnp.asarray(table)
    shares = np.bincount(codes) / len(codes)
    entropy = float(-np.sum(shares * np.log(shares)))

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("next_character", steps, length, 1)
        if steps >= corpus.size:
            raise ValueError(
                f"next_character: the text has {corpus.size} characters, too few for {steps} steps"
            )
        start = jax.random.randint(key, (), 0, corpus.size - steps)
        window = lax.dynamic_slice(corpus, (start,), (steps + 1,))
        inputs = jnp.where(mask[:, None], vectors[window[:-1]], 0)
        return Example(inputs, window[1:], mask)

    return Task(
        "next character",
        size,
        len(alphabet),
        sample,
        classes_loss,
        classes_error,
        lambda length: entropy,
    )
