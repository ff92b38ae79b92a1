"""Lines of handwritten digits that run into one another, read column by column.

Shapes: T columns, U labels of a line, padded with 0.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import check_pair
from rnn_jax.tasks.ctc import (
    CHARACTER_ERROR,
    character_error,
    constant_answer,
    ctc_loss,
    pad_lines,
    reader,
)
from rnn_jax.tasks.digit_images import Digits, draws, picture
from rnn_jax.tasks.problem import Problem
from rnn_jax.tasks.task import Example

_HEIGHT, _NOISE = 10, 0.1
_GAPS = -3, 1
_REACH, _READ = 4, 600
"""Columns that the baseline sees to each side, and lines that it learns from."""


def digit_lines(
    seed: int = 0, *, digits: tuple[int, int] = (3, 6), train: int = 6000, held_out: int = 600
) -> Problem:
    """Lines of handwritten digits read column by column: inputs (T, 10), labels 1 to 10 for 0 to 9.

    Digits of 2 to 8 columns stand at one of three heights. They run into one another by up to three
    columns or leave one free, but each begins three columns or more after the one before. Noise of
    standard deviation 0.1 is added. What overlaps is told apart by what follows, and a line ends
    with its last inked column: whoever reads both ways reads better.

    The loss is `rnn_jax.tasks.ctc.ctc_loss`, the metric the character error rate. Baselines are the
    best of the answers that say the most frequent digit so and so often, and a logistic regression
    on nine columns that names the digit in whose middle it is, or none, read as a network is.

    Digits are drawn from the images of one part of `digit_splits`: none of the test is seen in
    training.

    Args:
      seed: of the division and the lines.
      digits: the fewest and the most digits of a line.
      train: lines to train on.
      held_out: lines to validate on, and to test on.

    Raises:
      TypeError, ValueError: for arguments that are no integers, too small, or decrease.

    >>> problem = digit_lines(train=50, held_out=5)
    >>> problem.output_size, problem.train.target.shape, problem.train.inputs.shape[2]
    (11, (50, 6), 10)
    """
    fewest, most = check_pair("digits", digits)
    rng, parts = draws(seed, train, held_out)
    drawn = [
        [_line(rng, part, int(rng.integers(fewest, most + 1))) for _ in range(count)]
        for part, count in parts
    ]
    steps = max(len(columns) for part in drawn for columns, _, _ in part)
    examples, validation, test = (
        pad_lines([line[:2] for line in part], steps, most) for part in drawn
    )

    read = reader([str(digit) for digit in range(10)])

    def show(outputs: jax.Array, example: Example) -> Mapping[str, str]:
        columns = np.asarray(example.inputs)[np.asarray(example.mask)]
        return {"line": picture(columns.T), **read(outputs, example)}

    return Problem(
        "lines of digits",
        "many_to_many",
        examples,
        validation,
        test,
        ctc_loss,
        CHARACTER_ERROR,
        output_size=11,
        baselines={
            "most frequent digit": constant_answer(examples.target, test.target),
            "logistic regression": _windows(drawn[0][:_READ], test),
        },
        show=show,
    )


def _line(rng: np.random.Generator, part: Digits, count: int) -> tuple[np.ndarray, ...]:
    """Columns (T, 10), labels (U,), and in which column the middle of each digit is (U,)."""
    images, digits = part
    chosen = rng.integers(len(digits), size=count)
    columns = np.zeros((9 * count, _HEIGHT), np.float32)
    start = end = 0
    middles: list[int] = []
    for image in images[chosen]:
        inked = np.flatnonzero(image.any(axis=0))
        digit = image[:, inked[0] : inked[-1] + 1].T
        if middles:
            start = max(start + 3, end + int(rng.integers(_GAPS[0], _GAPS[1] + 1)))
        row = rng.integers(_HEIGHT - 8 + 1)
        place = columns[start : start + len(digit), row : row + 8]
        np.maximum(place, digit, out=place)
        middles.append(start + (len(digit) - 1) // 2)
        end = max(end, start + len(digit))
    columns = columns[:end] + rng.normal(0, _NOISE, (end, _HEIGHT)).astype(np.float32)
    return columns, digits[chosen] + 1, np.array(middles)


def _windows(lines: Sequence[tuple[np.ndarray, ...]], test: Example) -> float:
    """The character error of a logistic regression on the columns around each column."""
    from sklearn.linear_model import LogisticRegression

    def around(columns: np.ndarray) -> np.ndarray:
        padded = np.pad(columns, ((_REACH, _REACH), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH + 1, axis=0)
        return windows.reshape(len(columns), -1)

    named = []
    for columns, labels, middles in lines:
        named.append(np.zeros(len(columns), int))
        named[-1][middles] = labels
    regression = LogisticRegression(max_iter=1000)
    regression.fit(np.concatenate([around(line[0]) for line in lines]), np.concatenate(named))
    outputs = np.full((*test.mask.shape, 11), -np.inf, np.float32)
    for answer, columns, mask in zip(outputs, test.inputs, test.mask, strict=True):
        seen = regression.predict_log_proba(around(columns[mask]))
        answer[np.ix_(mask, regression.classes_)] = seen
    edits, labels = jax.jit(jax.vmap(character_error))(jnp.asarray(outputs), test)
    return float(jnp.sum(edits) / jnp.sum(labels))
