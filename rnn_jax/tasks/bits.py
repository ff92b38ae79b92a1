"""Tasks on random bits: D = 1, each step 0 or 1 with equal chances, and K = 2 classes."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice, check_positive
from rnn_jax.tasks.task import (
    Example,
    Task,
    class_at_end_error,
    class_at_end_loss,
    classes_error,
    classes_loss,
    padding,
)


def delayed_xor(delay: int) -> Task:
    """Compare two bits of the past at each step: y_t = x_{t-d} xor x_{t-2d}, d the delay.

    Loss and error are means over the steps from 2 d on, before which there is nothing to compare.
    The baseline is ln 2.

    Raises:
      TypeError, ValueError: for a delay that is no integer of at least 1.

    References:
      Engelken (2023), arXiv:2312.17306, who has squared errors of one linear output.

    >>> example = delayed_xor(2).sample(jax.random.key(0), 12)
    >>> bits = example.inputs[:, 0].astype(int)
    >>> bool(jnp.array_equal(example.target[4:], bits[2:-2] ^ bits[:-4]))
    True
    """
    delay = check_positive("delayed_xor: delay", delay)
    shortest = 2 * delay + 1

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("delayed_xor", steps, length, shortest)
        bits = jax.random.bernoulli(key, shape=(steps,))
        differ = (bits[delay:-delay] ^ bits[: -2 * delay]).astype(int)
        target = jnp.zeros(steps, int).at[2 * delay :].set(differ)
        return Example(_feature(bits, mask), target, mask)

    def asked(example: Example) -> Example:
        return example._replace(mask=example.mask & (jnp.arange(example.mask.size) >= 2 * delay))

    return Task(
        f"delayed XOR ({delay})",
        1,
        2,
        sample,
        lambda outputs, example: classes_loss(outputs, asked(example)),
        lambda outputs, example: classes_error(outputs, asked(example)),
        lambda length: math.log(2),
        shortest,
    )


def parity(when: Literal["end", "each step"] = "end") -> Task:
    """Is the number of ones odd (class 1)? Asked at the end, or at each step of the ones so far.

    The baseline is that of whoever knows the step and its bit: ln 2, but for the first step, whose
    parity is its bit: (1 - 1/T) ln 2 if each is asked for.

    Raises:
      ValueError: for another ``when``.

    >>> example = parity("each step").sample(jax.random.key(0), 9)
    >>> example.target.tolist() == (jnp.cumsum(example.inputs) % 2).tolist()
    True
    """
    check_choice("parity: when", when, ("end", "each step"))
    shortest = 2

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("parity", steps, length, shortest)
        bits = jax.random.bernoulli(key, shape=(steps,)) & mask
        odd = jnp.cumsum(bits) % 2
        return Example(_feature(bits, mask), odd[-1] if when == "end" else odd, mask)

    if when == "end":
        loss, error = class_at_end_loss, class_at_end_error
    else:
        loss, error = classes_loss, classes_error

    def baseline(length: int) -> float:
        return math.log(2) * (1 if when == "end" else 1 - 1 / length)

    name = "parity" if when == "end" else "parity at each step"
    return Task(name, 1, 2, sample, loss, error, baseline, shortest)


def _feature(bits: jax.Array, mask: jax.Array) -> jax.Array:
    """(T,) -> (T, 1), zeros in the padding."""
    return (bits & mask).astype(jnp.float32)[:, None]
