"""Connectionist temporal classification beside all paths, and edits beside the recursion."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.ctc import best_path, character_error, constant_answer, ctc_loss, edit_distance
from rnn_jax.tasks.task import Example


def all_paths(outputs, labels):
    """-ln of the probability of all K^T paths that read as the labels, in float64."""
    outputs = np.asarray(outputs, float)
    log_p = outputs - np.log(np.sum(np.exp(outputs), axis=1, keepdims=True))
    total = 0.0
    for path in itertools.product(range(outputs.shape[1]), repeat=len(outputs)):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == list(labels):
            total += math.exp(sum(log_p[t, symbol] for t, symbol in enumerate(path)))
    return -math.log(total)


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 1, 2], [2, 1, 2]])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_ctc_loss_is_the_sum_over_all_paths(labels, dtype):
    steps, padded = 5, 8
    outputs = 2 * jax.random.normal(jax.random.key(len(labels)), (padded, 3), dtype)
    target = jnp.array(labels + [0] * (4 - len(labels)))
    example = Example(None, target, jnp.arange(padded) < steps)
    expected = all_paths(outputs[:steps], labels) / len(labels)
    loss, slope = jax.jit(jax.value_and_grad(ctc_loss))(outputs, example)
    assert loss.dtype == dtype
    # Optax has minus infinity at -1e5, where float32 still resolves 0.01: nothing beside ln p.
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    spoilt, slope_of_spoilt = jax.value_and_grad(ctc_loss)(outputs.at[steps:].set(jnp.nan), example)
    np.testing.assert_allclose(spoilt, loss, rtol=1e-6)
    assert not np.any(slope_of_spoilt[steps:])
    np.testing.assert_allclose(slope_of_spoilt, slope, atol=1e-6)
    # Softmax: what one logit gains the others lose.
    np.testing.assert_allclose(slope.sum(axis=1), 0, atol=1e-6)


def test_labels_without_a_path_cost_a_fortune():
    example = Example(None, jnp.array([1, 1]), jnp.ones(2, bool))  # 1, blank, 1 are three steps
    assert 1e4 < float(ctc_loss(jnp.zeros((2, 3)), example)) < 1e6


def test_the_best_path_is_read_without_repeats_and_blanks():
    rng = np.random.default_rng(0)
    paths = rng.integers(3, size=(200, 9))
    lengths = rng.integers(10, size=200)
    masks = np.arange(9) < lengths[:, None]
    read, counts = jax.vmap(best_path)(jax.nn.one_hot(paths, 3), masks)
    for path, length, labels, count in zip(paths, lengths, read, counts, strict=True):
        expected = [symbol for symbol, _ in itertools.groupby(path[:length].tolist()) if symbol]
        assert labels[: int(count)].tolist() == expected
        assert not labels[int(count) :].any()


@functools.cache
def levenshtein(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        levenshtein(a[1:], b) + 1,
        levenshtein(a, b[1:]) + 1,
        levenshtein(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_the_edit_distance_is_that_of_the_recursion():
    rng = np.random.default_rng(1)
    a, b = rng.integers(3, size=(2, 300, 6))
    b = b[:, :5]
    a_lengths, b_lengths = rng.integers(7, size=300), rng.integers(6, size=300)
    distances = jax.jit(jax.vmap(edit_distance))(a, a_lengths, b, b_lengths)
    for *row, distance in zip(a, a_lengths, b, b_lengths, distances, strict=True):
        ours, m, theirs, n = row
        assert distance == levenshtein(tuple(ours[:m].tolist()), tuple(theirs[:n].tolist()))


def test_the_character_error_counts_edits_and_labels():
    target = jnp.array([3, 3, 5, 0])
    mask = jnp.arange(7) < 6
    example = Example(None, target, mask)
    for path, edits in (
        ([3, 0, 3, 5, 5, 0, 9], 0),
        ([3, 3, 3, 5, 0, 0, 9], 1),
        ([0, 0, 0, 0, 0, 0, 9], 3),
        ([9, 0, 9, 8, 7, 0, 9], 4),
    ):
        outputs = jax.nn.one_hot(jnp.array(path), 10)
        assert character_error(outputs, example) == (edits, 3)
        assert character_error(outputs.at[2, 0].set(jnp.nan), example) == (3, 3)
        assert character_error(outputs.at[6, 0].set(jnp.nan), example) == (edits, 3)


def test_the_constant_answer_is_the_best_count_of_the_most_frequent_label():
    rng = np.random.default_rng(2)
    train, test = (
        rng.choice([1, 1, 1, 2, 3], size=(40, 6)) * (np.arange(6) < rng.integers(1, 7, (40, 1)))
        for _ in range(2)
    )
    lines = [[tuple(row[row > 0].tolist()) for row in part] for part in (train, test)]
    edits = [
        [sum(levenshtein((1,) * n, line) for line in part) for n in range(7)] for part in lines
    ]
    expected = edits[1][int(np.argmin(edits[0]))] / sum(map(len, lines[1]))
    assert constant_answer(train, test) == pytest.approx(expected)
