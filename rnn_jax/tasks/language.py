"""Say the next character or the next word of a text that is read in order.

Shapes: B streams, T steps of a window, M windows, N symbols, K tokens of the vocabulary.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import check_positive
from rnn_jax.tasks.files import read_text
from rnn_jax.tasks.metrics import bits
from rnn_jax.tasks.ngrams import ngram_bits
from rnn_jax.tasks.problem import Metric, Problem
from rnn_jax.tasks.sources import python_docs_text
from rnn_jax.tasks.task import Example, classes_loss
from rnn_jax.tasks.vocabulary import Vocabulary, pad

# A word with its apostrophes, or a run of one sign: **, ----, ...
_WORD = re.compile(r"\w+(?:['’]\w+)*|([^\w\s])\1*")
_TRAINING, _VALIDATION = 0.9, 0.05
_ORDERS = {"character": (1, 2, 6), "word": (1, 2, 3)}


def words(text: str) -> list[str]:
    """Words and punctuation in order, without the white space between them.

    >>> words("It's so: f(x) == y.")
    ["It's", 'so', ':', 'f', '(', 'x', ')', '==', 'y', '.']
    """
    return [match.group() for match in _WORD.finditer(text)]


_SPLIT: dict[str, Callable[[str], list[str]]] = {"character": list, "word": words}
_JOIN: dict[str, Callable[[Iterable[str]], str]] = {"character": "".join, "word": " ".join}


@dataclass(frozen=True, kw_only=True)
class Language(Problem):
    """A `Problem` of text that goes on from window to window, so that the state may be kept.

    ``validation`` and ``test`` are windows in the order of the text: only the first begins from
    the initial state.

    Attributes:
      vocabulary: what the tokens mean.
      split: a text into symbols, as this text was: ``vocabulary.encode(split(text))``.
      join: symbols into a text.
      continues: (train, n, batch) -> (), whether batch ``n`` of ``draw`` goes on where batch
        n - 1 ended; where it does not, a new pass begins, with the initial state, in all streams.
    """

    vocabulary: Vocabulary
    split: Callable[[str], list[str]]
    join: Callable[[Iterable[str]], str]
    continues: Callable[[Any, jax.Array, int], jax.Array]


def load_text(path: str | os.PathLike[str] | None = None) -> str:
    """The user's UTF-8 text file or, without a path, CPython's documentation topics.

    Topics quote each other: a fifth of their text stands there twice. Each paragraph is kept where
    it comes first, so that no paragraph is both trained and tested on. A user's file is left as it
    is.

    Raises:
      ValueError: one line naming the path, for a file that is missing, empty, binary or not UTF-8.

    >>> len(load_text()) > 300_000
    True
    """
    if path is not None:
        return read_text(Path(os.path.expanduser(path)))
    first: dict[str, str] = {}
    for paragraph in re.split(r"\n{2,}", python_docs_text()):
        first.setdefault(" ".join(paragraph.split()), paragraph)
    return "\n\n".join(first.values())


def next_symbols(
    text: str, level: str = "character", *, steps: int = 64, limit: int = 4000
) -> Language:
    """Say the next character or word at each step: tokens (T,) to logits (T, K).

    The text is divided in time: the first 90 % of its symbols to train on, 5 % for validation and
    the last 5 % for the test. Every symbol of the last two is a target once, the one before it its
    input. The vocabulary is that of the training part, symbols that occur there at least twice;
    whatever else is the one symbol ``<unknown>``, which counts like any other: numbers of bits
    compare models of one vocabulary.

    Batch n is window n of B streams, each of which reads its own stretch of the training part.
    After its last window a new pass begins, its windows moved by less than T at random.

    The loss is the mean in nats per symbol, the metric in bits; 2 to its power is the perplexity.
    Baselines are n-grams, `rnn_jax.tasks.ngrams` on the same targets, up to order 6 for characters
    and 3 for words.

    Args:
      text: what is read; `load_text` has one.
      level: "character", or "word" for `words`.
      steps: T.
      limit: how many symbols the vocabulary has at most, the most frequent; K is 4 more.

    Raises:
      TypeError: for a text that is none, for ``steps`` or a ``limit`` that is no integer.
      ValueError: for an unknown level, a text that is too short, repeats one symbol or hardly any;
        by ``draw``, for more streams than the text has windows.

    >>> language = next_symbols("to be, or not to be: " * 20, steps=5)
    >>> batch = language.draw(language.train, jax.random.key(0), 0, 2)
    >>> following = language.draw(language.train, jax.random.key(0), 1, 2)
    >>> bool((batch.target[:, -1] == following.inputs[:, 0]).all())
    True
    >>> "".join(language.vocabulary.decode(language.test.target[-1][language.test.mask[-1]]))
    ' '
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {type(text).__name__}, expected str")
    if level not in _SPLIT:
        raise ValueError(f"level is {level!r}, expected one of {', '.join(_SPLIT)}")
    steps, limit = check_positive("steps", steps), check_positive("limit", limit)
    symbols = _SPLIT[level](text)
    if len(symbols) < 20 * steps:
        raise ValueError(
            f"text has {len(symbols)} {level}s, expected at least 20 windows of steps = {steps}"
        )
    first_held_out = int(_TRAINING * len(symbols))
    first_tested = int((_TRAINING + _VALIDATION) * len(symbols))
    counts = Counter(symbols[:first_held_out])
    if len(counts) < 2:
        raise ValueError(f"text repeats one {level}, {symbols[0]!r:.40}, expected at least two")
    frequent = [symbol for symbol, count in counts.most_common() if count >= 2]
    if len(frequent) < 2:
        raise ValueError(
            f"text has {len(frequent)} {level}s that occur twice among the {first_held_out} to "
            "train on, expected at least two: give a longer text"
        )
    vocabulary = Vocabulary(tuple(sorted(frequent[:limit])))
    tokens = np.array(vocabulary.encode(symbols), np.int32)
    join = _JOIN[level]
    places = np.arange(len(tokens))
    trained, tested = places < first_held_out, places >= first_tested

    def draw(train: Any, key: jax.Array, n: jax.Array, batch: int) -> Example:
        windows = _windows_in_a_pass(train, batch, steps)
        # One dtype whatever that of n, on which the random number would depend.
        one_pass, place = jnp.divmod(jnp.asarray(n, jnp.int32), windows)
        offset = jax.random.randint(jax.random.fold_in(key, one_pass), (), 0, steps, jnp.int32)
        starts = offset + steps * (place + windows * jnp.arange(batch, dtype=jnp.int32))
        places = starts[:, None] + jnp.arange(steps + 1, dtype=jnp.int32)[None]
        read = jnp.asarray(train)[places]
        return Example(read[:, :-1], read[:, 1:], jnp.ones((batch, steps), bool))

    def continues(train: Any, n: jax.Array, batch: int) -> jax.Array:
        return jnp.asarray(n) % _windows_in_a_pass(train, batch, steps) != 0

    def show(outputs: jax.Array, example: Example) -> dict[str, str]:
        last = int(np.sum(example.mask)) - 1
        likely = np.argsort(-np.asarray(outputs[last]))[:3]
        said = [join(vocabulary.decode([token])) for token in (example.target[last], *likely)]
        return {
            "text": repr(join(vocabulary.decode(np.asarray(example.inputs)[: last + 1])[-40:])),
            f"next {level}": repr(said[0]),
            "suggestions": " ".join(map(repr, said[1:])),
        }

    return Language(
        f"next {level}",
        "many_to_many",
        train=tokens[:first_held_out],
        validation=_in_order(tokens, first_held_out, first_tested, steps),
        test=_in_order(tokens, first_tested, len(tokens), steps),
        loss=classes_loss,
        metric=Metric(f"bits per {level}", bits),
        output_size=len(vocabulary),
        baselines=ngram_bits(
            tokens,
            trained,
            ~trained & ~tested,
            tested,
            len(vocabulary) - 3,  # the text has no padding, start or end
            _ORDERS[level],
        ),
        tokens=len(vocabulary),
        initial_loss=math.log(len(vocabulary)),
        draw=draw,
        show=show,
        vocabulary=vocabulary,
        split=_SPLIT[level],
        join=join,
        continues=continues,
    )


def _windows_in_a_pass(train: Any, batch: int, steps: int) -> int:
    """How many windows a stream has, with ``steps`` symbols left over for the offset.

    Raises:
      ValueError: if that is none.
    """
    windows = (len(train) - steps) // (batch * steps)
    if windows < 1:
        raise ValueError(
            f"batch is {batch}, expected at most {(len(train) - steps) // steps} streams of "
            f"windows of {steps} from the {len(train)} symbols of the training part"
        )
    return windows


def _in_order(tokens: np.ndarray, first: int, end: int, steps: int) -> Example:
    """Windows (M, T) with the targets ``tokens[first:end]``, the last one padded."""
    starts = range(first, end, steps)
    inputs, mask = pad([tokens[i - 1 : min(i + steps, end) - 1].tolist() for i in starts], steps)
    target, _ = pad([tokens[i : min(i + steps, end)].tolist() for i in starts], steps)
    return Example(inputs, target, mask)
