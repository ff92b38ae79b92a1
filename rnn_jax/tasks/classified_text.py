"""One class for a whole text of the user's own.

Shapes: N texts, T words of the longest, K classes. A model's output is that of the whole text:
a single logit (1,), of the second class, for two classes, logits (K,) for more.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax.arguments import check_positive
from rnn_jax.tasks.files import text_table
from rnn_jax.tasks.metrics import accuracy
from rnn_jax.tasks.problem import Metric, Problem
from rnn_jax.tasks.task import Example
from rnn_jax.tasks.vocabulary import Vocabulary, pad

_TEXT_NAMES = {"text", "sentence", "review", "message", "comment", "sms", "tweet"}
_LABEL_NAMES = {"label", "category", "class", "sentiment", "target"}

# Of each class, so that train, validation and test all have some.
_FEWEST = 10

LONGEST = 64
"""Tokens of a text that are read, if nobody says otherwise."""

Texts = tuple[list[list[str]], list[int]]
"""The words of texts, and their classes."""


def text_from_file(
    path: str | os.PathLike[str],
    text: str | None = None,
    label: str | None = None,
    *,
    seed: int = 0,
    longest: int = LONGEST,
) -> Problem:
    r"""Which class has a text? The user's own, with any number of classes from two.

    `.jsonl`, `.ndjson` and `.json` hold one JSON object per line, any other file a table, as
    `rnn_jax.tasks.files.text_table` reads it: columns are separated by tab, semicolon or comma and
    named by the first row, which a table of two columns may lack.

    Columns not given are guessed where only one can be meant: the text is called text, sentence,
    review, message, comment, sms or tweet, the label label, category, class, sentiment or target,
    in any case; of two columns the other one is the other; of two without such names the label is
    the one with fewer distinct values.

    Texts are lower case; a token is a word, with inner apostrophes, or a single other character
    that is not white space. Tokens after the first ``longest`` are cut off; of how many texts is
    one of the problem's ``notes``. The vocabulary is of those that occur twice or more in the
    training part. Texts of the same tokens stay together; the rest is divided by class into 70 %
    for training, 15 % for validation and 15 % for the test.

    Args:
      path: UTF-8 text.
      text, label: names of columns.
      seed: of the division.
      longest: T at most.

    Raises:
      ValueError: one line with the path for a file that cannot be read, columns that cannot be
        told apart, rows with a blank text or label (none is left out), a single class, or a class
        with fewer than ten different texts; for ``seed`` or ``longest`` out of range.
      TypeError: for a ``seed`` or ``longest`` that is no integer.

    >>> import tempfile
    >>> rows = [f"{kind},win {n} {kind} now" for kind in ("ham", "spam") for n in range(20)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "messages.csv")
    ...     _ = path.write_text("\n".join(["class,message", *rows]))
    ...     problem = text_from_file(path)
    >>> problem.name, problem.train.inputs.shape, problem.output_size
    ('messages.csv', (28, 4), 1)
    >>> problem.baselines["majority class"], problem.baselines["bag of words"]
    (0.5, 1.0)
    """
    path = Path(os.path.expanduser(path))
    table = text_table(path, _TEXT_NAMES | _LABEL_NAMES)
    return _of_table(path.name, str(path), table, text, label, seed, longest)


def text_from_hub(
    name: str,
    text: str | None = None,
    label: str | None = None,
    *,
    seed: int = 0,
    longest: int = LONGEST,
) -> Problem:
    """`text_from_file` for a data set of the Hugging Face hub, such as "rotten_tomatoes".

    Its part "train" alone is used, and divided anew: the test set is not the one of published
    numbers.

    Raises:
      ValueError: one line where the package ``datasets`` is not installed or cannot load the set,
        and as `text_from_file`.
    """
    import pandas as pd  # type: ignore[import-untyped]

    try:
        import datasets  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise ValueError(f"name {name!r}: expected the package datasets, {error}") from error
    try:
        data = datasets.load_dataset(name, split="train")
    except Exception as error:  # the network's, the hub's and the package's own have no common type
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"name {name!r}: cannot be loaded: {reason:.200}") from error

    def cells(column: str) -> list[str]:
        classes = getattr(data.features[column], "names", None)
        if classes is None:
            return ["" if cell is None else str(cell) for cell in data[column]]
        # The hub writes -1 for a label that is kept secret.
        return ["" if cell is None or cell < 0 else classes[cell] for cell in data[column]]

    table = pd.DataFrame({column: cells(column) for column in data.column_names})
    return _of_table(name, f"name {name!r}", table, text, label, seed, longest)


def _columns(where: str, table: Any, text: str | None, label: str | None) -> tuple[int, int]:
    """Which columns are the text and the label; errors call the table ``where``."""
    names = list(table)
    has = f"its columns: {', '.join(names)}"

    def find(argument: str, asked: str | None, known: set[str]) -> int | None:
        if asked is None:
            meant = [column for column, name in enumerate(names) if name.lower() in known]
            return meant[0] if len(meant) == 1 else None
        if names.count(asked) != 1:
            raise ValueError(f"{where}: {argument} is {asked!r}, expected one of {has}")
        return names.index(asked)

    of_text, of_label = find("text", text, _TEXT_NAMES), find("label", label, _LABEL_NAMES)
    if len(names) == 2:
        kinds = [table.iloc[:, column].nunique() for column in range(2)]
        if of_text is None and of_label is None and kinds[0] != kinds[1]:
            of_label = int(kinds[1] < kinds[0])
        if of_text is None and of_label is not None:
            of_text = 1 - of_label
        elif of_label is None and of_text is not None:
            of_label = 1 - of_text
    if of_text is None or of_label is None or of_text == of_label:
        raise ValueError(f"{where}: expected text and label to name two of {has}")
    return of_text, of_label


def _of_table(
    name: str,
    where: str,
    table: Any,
    text: str | None,
    label: str | None,
    seed: int,
    longest: int,
) -> Problem:
    from sklearn.model_selection import train_test_split

    seed = check_positive("seed", seed, zero=True)
    longest = check_positive("longest", longest)
    if not len(table):
        raise ValueError(f"{where}: has no rows, expected at least {_FEWEST} of each class")
    of_text, of_label = _columns(where, table, text, label)
    texts, labels = (table.iloc[:, column].tolist() for column in (of_text, of_label))
    text_name, label_name = (table.columns[column] for column in (of_text, of_label))
    rows = list(zip(texts, labels, strict=True))
    filled = [all(cell.strip() for cell in row) for row in rows]
    if not all(filled):
        raise ValueError(
            f"{where}: {filled.count(False)} of {len(rows)} rows have a blank {text_name} or "
            f"{label_name}, the first is data row {filled.index(False) + 1}, expected none"
        )
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(
            f"{where}: {label_name} is {classes[0]!r:.40} in all rows ({len(rows)}), "
            "expected at least two classes"
        )

    # Rows of the same tokens are one item of the division, of the class of the first of them.
    same: dict[tuple[str, ...], list[int]] = {}
    cut = 0
    for said, meant in rows:
        words = tuple(split_words(said))
        cut += len(words) > longest
        same.setdefault(words[:longest], []).append(classes.index(meant))
    counts = np.bincount([labels[0] for labels in same.values()], minlength=len(classes))
    if min(counts) < _FEWEST:
        within = f" in their first {longest} tokens" if cut else ""
        remedy = f"; {cut} of {len(rows)} texts are cut there: raise longest" if cut else ""
        raise ValueError(
            f"{where}: {label_name} {classes[counts.argmin()]!r:.40} has {min(counts)} "
            f"different texts{within}, expected at least {_FEWEST}{remedy}"
        )

    def divide(texts: list, share: float) -> list[list]:
        stratify = [same[words][0] for words in texts]
        return train_test_split(texts, test_size=share, stratify=stratify, random_state=seed)

    rest, test = divide(list(same), 0.15)
    train, validation = divide(rest, 0.15 / 0.85)
    parts: list[Texts] = []
    for texts in (train, validation, test):
        pairs = [(list(words), label) for words in texts for label in same[words]]
        parts.append(([words for words, _ in pairs], [label for _, label in pairs]))
    problem = text_problem(name, parts, classes, at_least=2)
    note = f"{cut} of {len(rows)} texts are cut after their first {longest} tokens."
    return dataclasses.replace(problem, notes=(note,)) if cut else problem


def split_words(text: str) -> list[str]:
    """Words with inner apostrophes and single other characters, in lower case.

    >>> split_words("It's GOOD... not bad")
    ["it's", 'good', '.', '.', '.', 'not', 'bad']
    """
    return re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", text.lower())


def text_problem(
    name: str, parts: Sequence[Texts], classes: Sequence[str], *, at_least: int
) -> Problem:
    """Which class has a text? From those to train, to validate and to test on.

    Words that occur less often than ``at_least`` in training are ``<unknown>``. Baselines are the
    most frequent class and logistic regressions on counts of words, and of words and pairs.
    """
    vocabulary = Vocabulary.of(parts[0][0], at_least=at_least)
    length = max(len(words) for texts, _ in parts for words in texts)

    def example(texts: list[list[str]], labels: list[int]) -> Example:
        tokens, mask = pad([vocabulary.encode(words) for words in texts], length)
        return Example(tokens, np.array(labels, np.int32), mask)

    def show(outputs: jax.Array, example: Example) -> Mapping[str, str]:
        return {
            "text": " ".join(vocabulary.decode(np.asarray(example.inputs))),
            "right answer": classes[int(example.target)],
            "answer": classes[int(jnp.argmax(_logits(outputs)))],
        }

    train, validation, test = (example(*part) for part in parts)
    return Problem(
        name,
        "many_to_one",
        train,
        validation,
        test,
        _loss,
        Metric("accuracy", _accuracy, higher_is_better=True),
        output_size=1 if len(classes) == 2 else len(classes),
        baselines=_baselines(parts[0], parts[2]),
        tokens=len(vocabulary),
        initial_loss=math.log(len(classes)),
        show=show,
    )


def _logits(outputs: jax.Array) -> jax.Array:
    """Of all K classes, also where the outputs are the one of the second of two."""
    return jnp.append(jnp.zeros_like(outputs), outputs) if outputs.shape == (1,) else outputs


def _loss(outputs: jax.Array, example: Example) -> jax.Array:
    """-ln p(target), nats: under the logistic function of one logit or the softmax of K."""
    if outputs.shape == (1,):
        target = example.target.astype(outputs.dtype)
        return optax.sigmoid_binary_cross_entropy(outputs[0], target)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, example.target)


def _accuracy(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    return accuracy(_logits(outputs), example)


def _baselines(train: Texts, test: Texts) -> dict[str, float]:
    """Accuracies on the test part of what sees no order of words, or that of neighbours alone."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (texts, labels), (asked, answers) = (
        ([" ".join(words) for words in texts], np.array(labels)) for texts, labels in (train, test)
    )
    accuracies = {"majority class": float(np.mean(answers == np.bincount(labels).argmax()))}
    for name, longest in (("bag of words", 1), ("bag of words and pairs", 2)):
        counts = CountVectorizer(lowercase=False, token_pattern=r"\S+", ngram_range=(1, longest))
        classifier = make_pipeline(counts, LogisticRegression(max_iter=1000))
        accuracies[name] = float(classifier.fit(texts, labels).score(asked, answers))
    return accuracies
