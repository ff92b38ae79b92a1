"""Connectionist temporal classification: labels of a sequence without being told where each stands.

A network has an output for each step, over K labels; label 0 is the blank, "nothing new". A path
of labels is read by dropping repeats, then blanks: 0 7 7 0 7 3 reads 7 7 3.

Shapes: T steps, D features, U labels of a line, padded with 0.

References:
  Graves, Fernández, Gomez and Schmidhuber (2006), doi:10.1145/1143844.1143891.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rnn_jax.tasks.problem import Metric
from rnn_jax.tasks.task import Example


def pad_lines(lines: Sequence[Sequence[np.ndarray]], steps: int, most: int) -> Example:
    """Inputs (T, D) and labels (U,) of each line as one `Example`: (N, steps, D) and (N, most).

    >>> example = pad_lines([[np.ones((2, 3)), np.array([7])]], 4, 2)
    >>> example.mask.tolist(), example.target.tolist()
    ([[True, True, False, False]], [[7, 0]])
    """
    inputs = np.zeros((len(lines), steps, lines[0][0].shape[1]), np.float32)
    target = np.zeros((len(lines), most), np.int32)
    mask = np.zeros((len(lines), steps), bool)
    for n, (features, labels) in enumerate(lines):
        inputs[n, : len(features)] = features
        target[n, : len(labels)] = labels
        mask[n, : len(features)] = True
    return Example(inputs, target, mask)


def ctc_loss(outputs: jax.Array, example: Example) -> jax.Array:
    """-ln p(labels) / U, nats per label, p summed over all paths that read as the labels.

    Outputs are (T, K), the target (U,) at least one label from 1 to K - 1 and zeros after the last.
    Labels that no path of so many steps reads cost some 1e5, which is `optax.ctc_loss`'s infinity.

    >>> example = Example(None, jnp.array([1]), jnp.array([True, True]))
    >>> float(jnp.exp(-ctc_loss(jnp.zeros((2, 2)), example)))  # 01, 10 and 11 of four paths
    0.75
    """
    logits = jnp.where(example.mask[:, None], outputs, 0)
    padding, unlabelled = ~example.mask, example.target == 0
    # Optax calculates in the default float, but has a float32 in between.
    with jax.numpy_dtype_promotion("standard"):
        (loss,) = optax.ctc_loss(
            logits[None],
            padding[None].astype(logits.dtype),
            example.target[None],
            unlabelled[None].astype(logits.dtype),
        )
    return loss.astype(outputs.dtype) / jnp.sum(~unlabelled).astype(outputs.dtype)


def best_path(outputs: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the most likely path reads: labels (T,), zeros after the last, and how many.

    The most likely path takes the largest output at each step. Several paths read the same, so the
    most likely labels may be others.

    >>> path = jnp.array([0, 7, 7, 0, 7, 3, 3, 5])
    >>> labels, count = best_path(jax.nn.one_hot(path, 8), jnp.arange(8) < 7)
    >>> labels.tolist(), int(count)
    ([7, 7, 3, 0, 0, 0, 0, 0], 3)
    """
    path = jnp.where(mask, jnp.argmax(outputs, axis=-1), 0)
    new = (path != 0) & (path != jnp.concatenate([jnp.zeros_like(path[:1]), path[:-1]]))
    place = jnp.where(new, jnp.cumsum(new) - 1, path.size)
    return jnp.zeros_like(path).at[place].set(path, mode="drop"), jnp.sum(new)


def edit_distance(
    a: jax.Array, a_length: jax.typing.ArrayLike, b: jax.Array, b_length: jax.typing.ArrayLike
) -> jax.Array:
    """The fewest insertions, deletions and substitutions that make one sequence the other.

    Of ``a`` and ``b`` the first ``a_length`` and ``b_length`` count, which may be traced.

    References:
      Levenshtein (1966); by rows of Wagner and Fischer (1974), doi:10.1145/321796.321811.

    >>> kitten, sitting = (jnp.array([*map(ord, word)]) for word in ("kitten", "sitting"))
    >>> int(edit_distance(kitten, 6, sitting, 7)), int(edit_distance(kitten, 6, sitting, 0))
    (3, 6)
    """
    columns = jnp.arange(b.size + 1)

    def next_row(above: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        symbol, counts = item
        substituted = above[:-1] + (b != symbol).astype(above.dtype)
        row = jnp.concatenate([above[:1] + 1, jnp.minimum(above[1:] + 1, substituted)])
        # Insertions cost 1 for each column to the right: min over k <= j of row_k + j - k.
        row = lax.cummin(row - columns) + columns
        return jnp.where(counts, row, above), None

    last, _ = lax.scan(next_row, columns, (a, jnp.arange(a.size) < a_length))
    return last[b_length]


def character_error(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    """Edits from what `best_path` reads to the labels, and how many labels there are.

    Outputs that are not numbers say nothing.
    """
    labels = jnp.sum(example.target != 0)
    read, count = best_path(outputs, example.mask)
    edits = edit_distance(read, count, example.target.astype(read.dtype), labels)
    number = jnp.all(~jnp.isnan(outputs), where=example.mask[:, None])
    edits = jnp.where(number, edits, labels)
    return edits.astype(outputs.dtype), labels.astype(outputs.dtype)


CHARACTER_ERROR = Metric("character error rate", character_error)
"""Edits per label: 0 for a perfect reader, 1 for one that says nothing, even more for nonsense."""


def constant_answer(train: np.ndarray, test: np.ndarray) -> float:
    """The character error on ``test`` of the most frequent label, said as often as suits ``train``.

    Both are targets (N, U), zeros after the last label. n times the same label become m labels, c
    of which are that, by max(n, m) - min(n, c) edits.

    >>> constant_answer(np.array([[4, 5, 0], [5, 5, 0]]), np.array([[5, 0, 0], [5, 4, 5]]))
    0.5
    """
    frequent = np.argmax(np.bincount(train[train != 0]))
    times = np.arange(train.shape[1] + 1)[:, None]

    def edits(target: np.ndarray) -> np.ndarray:
        length, same = np.sum(target != 0, axis=1), np.sum(target == frequent, axis=1)
        return np.sum(np.maximum(times, length) - np.minimum(times, same), axis=1)

    return float(edits(test)[np.argmin(edits(train))] / np.sum(test != 0))


def reader(symbols: Sequence[str]) -> Callable[[jax.Array, Example], Mapping[str, str]]:
    """``Problem.show`` for labels that stand for symbols, label 1 for the first."""

    def text(labels: Any) -> str:
        return "".join(symbols[label - 1] for label in np.asarray(labels) if label)

    def show(outputs: jax.Array, example: Example) -> Mapping[str, str]:
        read, _ = best_path(jnp.asarray(outputs), jnp.asarray(example.mask))
        return {"written": text(example.target), "read": text(read)}

    return show
