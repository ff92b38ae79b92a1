"""Tasks whose answer depends on what was read long ago.

Shapes: T time, D features, K classes. Lengths may be traced, so sequences of many lengths share
one compiled program; `of_varied_length` draws them.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice
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
_PERMUTED = 100


def adding(variant: Literal["halves", "hochreiter", "pascanu"] = "halves") -> Task:
    """Add the two numbers that are marked: D = 2, a number and a marker at each step.

    The loss is the squared error at the last step; the baseline is the variance of the target, the
    loss of its mean. The variant says what the numbers are, where the two markers stand, what is
    wanted and when an answer is right:

    - "halves": U(0, 1), a marker in each half; X1 + X2 within 0.04; baseline 1/6.
    - "hochreiter": U(-1, 1), the first marker among the first ten and the second anywhere else in
      the first half, -1 at the first and the last step; 0.5 + (X1 + X2) / 4 within 0.04; baseline
      1/24. The first step is never marked; in the paper it is in about a tenth of the sequences,
      with X1 = 0. Half is that of the length, in the paper of the least length.
    - "pascanu": U(0, 1), the first marker in the first tenth and the second between there and the
      middle; (X1 + X2) / 2 within 0.2, which is a squared error of 0.04; baseline 1/24. The answer
      1/2 is right in 64 % of the sequences.

    Raises:
      ValueError: for another variant.

    References:
      Rusch and Mishra (2021), arXiv:2010.00951, with the criterion of the next ("halves");
      Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735, task 4, whose lengths are
      those of ``of_varied_length(adding("hochreiter"), 100)`` with 110 steps;
      Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063.

    >>> example = adding().sample(jax.random.key(0), 10)
    >>> values, markers = example.inputs.T
    >>> bool(jnp.isclose(values @ markers, example.target)), int(markers[:5].sum())
    (True, 1)
    """
    check_choice("adding: variant", variant, ("halves", "hochreiter", "pascanu"))
    if variant == "hochreiter":
        scaled = lambda x1, x2: 0.5 + (x1 + x2) / 4
        return _marked("adding (Hochreiter)", _EARLY, scaled, 1 / 24, lowest=-1)
    if variant == "pascanu":
        mean = lambda x1, x2: (x1 + x2) / 2
        return _marked("adding (Pascanu)", _BEFORE_THE_MIDDLE, mean, 1 / 24, tolerance=0.2)
    return _marked("adding", _IN_EACH_HALF, lambda x1, x2: x1 + x2, 1 / 6)


def multiplication() -> Task:
    """Multiply the two numbers that are marked: D = 2, a number U(0, 1) and a marker.

    Markers and criterion are those of ``adding("hochreiter")``, the target is X1 X2. The loss is
    the squared error at the last step: that of the mean, 1/4, is 7/144.

    References:
      Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735, task 5.

    >>> example = multiplication().sample(jax.random.key(0), 20)
    >>> values, markers = example.inputs.T
    >>> bool(jnp.isclose(jnp.prod(values[markers == 1]), example.target))
    True
    """
    return _marked("multiplication", _EARLY, lambda x1, x2: x1 * x2, 7 / 144)


_Steps = tuple[jax.Array, jax.Array]


class _Places(NamedTuple):
    """Where the two markers stand: (two keys, length) -> two steps."""

    draw: Callable[[jax.Array, jax.Array, jax.Array], _Steps]
    shortest: int
    ends_marked: bool = False


def _in_each_half(of_first: jax.Array, of_second: jax.Array, length: jax.Array) -> _Steps:
    first = jax.random.randint(of_first, (), 0, length // 2)
    return first, jax.random.randint(of_second, (), length // 2, length)


def _early(of_first: jax.Array, of_second: jax.Array, length: jax.Array) -> _Steps:
    first = jax.random.randint(of_first, (), 1, 10)
    # One less than there are, to skip the step that is marked already.
    second = jax.random.randint(of_second, (), 1, length // 2 - 1)
    return first, jnp.where(second < first, second, second + 1)


def _before_the_middle(of_first: jax.Array, of_second: jax.Array, length: jax.Array) -> _Steps:
    first = jax.random.randint(of_first, (), 0, length // 10)
    return first, jax.random.randint(of_second, (), length // 10, length // 2)


_IN_EACH_HALF = _Places(_in_each_half, 2)
_EARLY = _Places(_early, 20, ends_marked=True)
_BEFORE_THE_MIDDLE = _Places(_before_the_middle, 10)


def _marked(
    name: str,
    places: _Places,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    baseline: float,
    *,
    lowest: float = 0,
    tolerance: float = 0.04,
) -> Task:
    """Say at the end what two marked numbers, U(lowest, 1), amount to."""

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding(name, steps, length, places.shortest)
        length = jnp.sum(mask)
        of_values, of_first, of_second = jax.random.split(key, 3)
        values = jax.random.uniform(of_values, (steps,), jnp.float32, lowest, 1)
        first, second = places.draw(of_first, of_second, length)
        markers = jnp.zeros(steps, jnp.float32).at[jnp.stack([first, second])].set(1)
        if places.ends_marked:
            markers = markers.at[0].set(-1).at[length - 1].set(-1)
        inputs = jnp.stack([jnp.where(mask, values, 0), markers], axis=1)
        return Example(inputs, combine(values[first], values[second]), mask)

    def loss(outputs: jax.Array, example: Example) -> jax.Array:
        return jnp.square(at_end(outputs, example.mask)[0] - example.target.astype(outputs.dtype))

    def error(outputs: jax.Array, example: Example) -> jax.Array:
        # Not >=, by which NaN would be right.
        return (~(loss(outputs, example) < tolerance**2)).astype(outputs.dtype)

    return Task(name, 2, 1, sample, loss, error, lambda length: baseline, places.shortest)


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


def temporal_order(variant: Literal["pascanu", "hochreiter"] = "pascanu", signs: int = 2) -> Task:
    """In which order did the signs come? One-hot symbols, K = 4 classes, or 8 of three signs.

    Each sign is X or Y, among four other symbols; two signs have the classes XX, XY, YX and YY, in
    this order. The loss is that of the last step: ln K for whoever knows nothing; of answers that
    are always the same, K - 1 of K are wrong. The variant says where the signs stand and which
    answers are right:

    - "pascanu": in the second and sixth tenth of the sequence, three in the second, fourth and
      seventh; D = 6; right is the class of the largest logit.
    - "hochreiter": at the steps 10-20 and 50-60, counted from 0, three at 10-20, 33-43 and 66-76;
      at least 100 steps; D = 8, with a symbol that begins the sequence and one that ends it; right
      is a class if its probability is above 0.7, so that no output is 0.3 or more away from one-hot
      targets. The paper has a logistic unit for each class and squares where this has a softmax
      and its logarithm.

    Raises:
      ValueError: for another variant or number of signs.

    References:
      Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735, tasks 6a and 6b, whose
      lengths are those of ``of_varied_length(temporal_order("hochreiter"), 100)`` with 110 steps;
      Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063.

    >>> example = temporal_order().sample(jax.random.key(0), 20)
    >>> signs = example.inputs[:, :2].sum(axis=1)
    >>> int(signs[2:4].sum()), int(signs[10:12].sum()), int(signs.sum())
    (1, 1, 2)
    """
    check_choice("temporal_order: variant", variant, ("pascanu", "hochreiter"))
    if signs not in (2, 3):
        raise ValueError(f"temporal_order: signs must be 2 or 3, got {signs!r}")
    bordered = variant == "hochreiter"
    shortest, size = (100, 8) if bordered else (10, 6)
    begin, end = 6, 7
    name = "temporal order" if signs == 2 else "temporal order of three"
    name += " (Hochreiter)" if bordered else ""

    def ranges(length: jax.Array) -> list[tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]]:
        if bordered:
            return [(10, 21), (50, 61)] if signs == 2 else [(10, 21), (33, 44), (66, 77)]
        tenths = (1, 5) if signs == 2 else (1, 3, 6)
        return [(tenth * length // 10, (tenth + 1) * length // 10) for tenth in tenths]

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("temporal_order", steps, length, shortest)
        length = jnp.sum(mask)
        of_others, of_signs, *of_places = jax.random.split(key, 2 + signs)
        drawn = jax.random.randint(of_signs, (signs,), 0, 2)
        places = [
            jax.random.randint(of_place, (), low, high)
            for of_place, (low, high) in zip(of_places, ranges(length), strict=True)
        ]
        codes = jax.random.randint(of_others, (steps,), 2, 6).at[jnp.stack(places)].set(drawn)
        if bordered:
            codes = codes.at[0].set(begin).at[length - 1].set(end)
        target = jnp.sum(drawn << jnp.arange(signs)[::-1])
        return Example(_one_hot(codes, size, mask), target, mask)

    def confident_error(outputs: jax.Array, example: Example) -> jax.Array:
        probability = jnp.exp(-class_at_end_loss(outputs, example))
        return (~(probability > 0.7)).astype(outputs.dtype)

    return Task(
        name,
        size,
        2**signs,
        sample,
        class_at_end_loss,
        confident_error if bordered else class_at_end_error,
        lambda length: signs * math.log(2),
        shortest,
    )


def random_permutation() -> Task:
    """Say the first symbol again: D = K = 100 one-hot.

    The first symbol is one of two, each one after it one of 98 others, drawn anew. What comes next
    can be told at the last step alone, after which the first symbol comes again: it is the target.
    The loss is that of the last step: ln 2 for whoever knows the two symbols but not which it was.

    References:
      Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, and their code, in which no permutation
      is left of the problem by Hochreiter and Schmidhuber (1997).

    >>> example = random_permutation().sample(jax.random.key(0), 50)
    >>> symbols = example.inputs.argmax(axis=1)
    >>> bool(symbols[0] == example.target), bool(jnp.all(symbols[1:] > 1))
    (True, True)
    """
    shortest = 2

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        mask = padding("random_permutation", steps, length, shortest)
        of_first, of_others = jax.random.split(key)
        first = jax.random.randint(of_first, (), 0, 2)
        codes = jax.random.randint(of_others, (steps,), 2, _PERMUTED).at[0].set(first)
        return Example(_one_hot(codes, _PERMUTED, mask), first, mask)

    return Task(
        "random permutation",
        _PERMUTED,
        _PERMUTED,
        sample,
        class_at_end_loss,
        class_at_end_error,
        lambda length: math.log(2),
        shortest,
    )


def _one_hot(codes: jax.Array, count: int, mask: jax.Array) -> jax.Array:
    """Rows of zeros in the padding."""
    return jax.nn.one_hot(jnp.where(mask, codes, -1), count, dtype=jnp.float32)
