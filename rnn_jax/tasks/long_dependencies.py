"""Tasks whose answer depends on what was read long ago.

Shapes: T time, D features, K classes. Lengths may be traced, so sequences of many lengths share
one compiled program.
"""

import math

import jax
import jax.numpy as jnp

from rnn_jax.tasks.task import (
    Example,
    Task,
    at_end,
    class_at_end_error,
    class_at_end_loss,
    classes_error,
    classes_loss,
    padding,
)

_SYMBOLS, _RECALLED = 8, 10


def adding() -> Task:
    """Add the two numbers that are marked: D = 2, a number U(0, 1) and a marker at each step.

    One marker lies in each half of the sequence; the target is the sum. The loss is the squared
    error at the last step: the answer 1 has the expectation 1/6. Wrong is an answer 0.04 or more
    away.

    References:
      Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735, whose criterion this is;
      in the variant of Rusch and Mishra (2021), arXiv:2010.00951.

    >>> example = adding().sample(jax.random.key(0), 10)
    >>> values, markers = example.inputs.T
    >>> bool(jnp.isclose(values @ markers, example.target)), int(markers[:5].sum())
    (True, 1)
    """
    shortest = 2

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("adding", steps, length, shortest)
        length = jnp.sum(mask)
        of_values, of_first, of_second = jax.random.split(key, 3)
        values = jnp.where(mask, jax.random.uniform(of_values, (steps,), jnp.float32), 0)
        first = jax.random.randint(of_first, (), 0, length // 2)
        second = jax.random.randint(of_second, (), length // 2, length)
        markers = jnp.zeros(steps, jnp.float32).at[jnp.stack([first, second])].set(1)
        return Example(jnp.stack([values, markers], axis=1), values[first] + values[second], mask)

    def loss(outputs: jax.Array, example: Example) -> jax.Array:
        return jnp.square(at_end(outputs, example.mask)[0] - example.target.astype(outputs.dtype))

    def error(outputs: jax.Array, example: Example) -> jax.Array:
        # Not >=, by which NaN would be right.
        return (~(loss(outputs, example) < 0.04**2)).astype(outputs.dtype)

    return Task("adding", 2, 1, sample, loss, error, lambda length: 1 / 6, shortest)


def copy_memory() -> Task:
    """Repeat ten symbols after a delay: D = 10 one-hot, K = 9.

    Ten of eight symbols, then blanks, a sign to begin ten steps before the end, and blanks again;
    wanted are blanks up to the sign and from there the ten symbols. The length is that of the whole
    sequence, the delay and 20. The loss is the mean over all steps, natural logarithm: whoever
    knows when to answer but not what has 10 ln(8) / length. The error counts the last ten steps.

    References:
      Arjovsky, Shah and Bengio (2016), arXiv:1511.06464.

    >>> example = copy_memory().sample(jax.random.key(0), 24)
    >>> bool(jnp.array_equal(example.inputs[:10].argmax(1), example.target[-10:]))
    True
    >>> example.inputs[10:].argmax(1).tolist()  # 8 is the blank, 9 the sign
    [8, 8, 8, 9, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]
    """
    shortest = 2 * _RECALLED + 1
    blank, sign = _SYMBOLS, _SYMBOLS + 1

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("copy_memory", steps, length, shortest)
        start = jnp.sum(mask) - _RECALLED
        symbols = jax.random.randint(key, (_RECALLED,), 0, _SYMBOLS)
        codes = jnp.full(steps, blank).at[:_RECALLED].set(symbols).at[start - 1].set(sign)
        target = jnp.full(steps, blank).at[start + jnp.arange(_RECALLED)].set(symbols)
        return Example(_one_hot(codes, _SYMBOLS + 2, mask), target, mask)

    def error(outputs: jax.Array, example: Example) -> jax.Array:
        left = jnp.sum(example.mask) - jnp.arange(example.mask.size)
        asked = example.mask & (left <= _RECALLED)
        return classes_error(outputs, example._replace(mask=asked))

    return Task(
        "copy memory",
        _SYMBOLS + 2,
        _SYMBOLS + 1,
        sample,
        classes_loss,
        error,
        lambda length: _RECALLED * math.log(_SYMBOLS) / length,
        shortest,
    )


def temporal_order() -> Task:
    """In which order did two signs come? D = 6 one-hot, K = 4 classes.

    Two signs, each X or Y, stand in the second and in the sixth tenth of a sequence of four other
    symbols; the classes are XX, XY, YX and YY. The loss is that of the last step: ln 4 for whoever
    knows nothing, with three of four answers wrong.

    References:
      Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735, task 6a; with the
      positions of Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, and without the symbols
      that mark beginning and end.

    >>> example = temporal_order().sample(jax.random.key(0), 20)
    >>> signs = example.inputs[:, :2].sum(axis=1)
    >>> int(signs[2:4].sum()), int(signs[10:12].sum()), int(signs.sum())
    (1, 1, 2)
    """
    shortest = 10

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("temporal_order", steps, length, shortest)
        length = jnp.sum(mask)
        of_others, of_signs, of_first, of_second = jax.random.split(key, 4)
        signs = jax.random.randint(of_signs, (2,), 0, 2)
        first = jax.random.randint(of_first, (), length // 10, length // 5)
        second = jax.random.randint(of_second, (), length // 2, 3 * length // 5)
        codes = jax.random.randint(of_others, (steps,), 2, 6)
        codes = codes.at[jnp.stack([first, second])].set(signs)
        target = 2 * signs[0] + signs[1]
        return Example(_one_hot(codes, 6, mask), target, mask)

    return Task(
        "temporal order",
        6,
        4,
        sample,
        class_at_end_loss,
        class_at_end_error,
        lambda length: math.log(4),
        shortest,
    )


def _one_hot(codes: jax.Array, count: int, mask: jax.Array) -> jax.Array:
    """Rows of zeros in the padding."""
    return jax.nn.one_hot(jnp.where(mask, codes, -1), count, dtype=jnp.float32)
