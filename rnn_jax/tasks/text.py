"""Reading text character by character."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.tasks.sources import embedded_characters
from rnn_jax.tasks.task import Example, Task, classes_error, classes_loss, padding


def next_character(text: str, size: int) -> Task:
    """Say the next character at each step: D = ``size``, K as many as the text has.

    Windows begin anywhere in the text. Characters come as the fixed random vectors of variance 1 of
    `rnn_jax.tasks.python_docs`. The loss is the mean over steps in nats per character; the baseline
    is the entropy of single characters, of whoever knows their frequencies alone.

    Raises:
      ValueError: for a text of a single character; by ``sample``, for more steps than it has.

    >>> task = next_character("to be, or not to be", 4)
    >>> example = task.sample(jax.random.key(0), 5)
    >>> task.output_size, example.inputs.shape, example.target.shape
    (8, (5, 4), (5,))
    """
    table, codes, alphabet = embedded_characters(text, size, where="text")
    corpus, vectors = jnp.asarray(codes), jnp.asarray(table)
    shares = np.bincount(codes) / len(codes)
    entropy = float(-np.sum(shares * np.log(shares)))

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("next_character", steps, length, 1)
        if steps >= len(codes):
            raise ValueError(
                f"next_character: the text has {len(codes)} characters, too few for {steps} steps"
            )
        start = jax.random.randint(key, (), 0, len(codes) - steps)
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
