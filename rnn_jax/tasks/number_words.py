"""Translate numbers from the words of one language into those of another.

Shapes: N examples, S tokens of the source, U of the target, K tokens of the target's vocabulary.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from rnn_jax.arguments import check_positive, unknown
from rnn_jax.tasks.metrics import exact_match
from rnn_jax.tasks.problem import Conditioned, Metric, Problem
from rnn_jax.tasks.task import Example, classes_loss
from rnn_jax.tasks.vocabulary import Vocabulary, pad, to_decode

_FEW_WORDS = 200
_WORD = re.compile(r"[^\s,-]+|[,-]")


@dataclass(frozen=True, kw_only=True)
class Translation(Problem):
    """A `Problem` of translation, with what reads and writes its texts.

    Attributes:
      source_vocabulary: what the tokens of the context mean.
      vocabulary: what those of the target mean.
      split: a text of the source into symbols: ``source_vocabulary.encode(split(text))``.
      join: symbols of the target into a text.
    """

    source_vocabulary: Vocabulary
    vocabulary: Vocabulary
    split: Callable[[str], list[str]]
    join: Callable[[Iterable[str]], str]


def translation(
    seed: int = 0,
    source: str = "en",
    target: str = "de",
    *,
    largest: int = 9999,
    count: int = 10_000,
) -> Translation:
    """Number words, as "forty-two" and "zweiundvierzig": `Conditioned` tokens to logits (U, K).

    ``count`` numbers from 0 to ``largest``, no number twice, are divided at random: 80 % to train
    on, 10 % each for validation and test, so no number that is tested was ever seen. A language
    that writes them with at most 200 words (English, French) is cut into words, commas and hyphens,
    one that writes compounds (German, Italian) into characters.

    The loss is the mean in nats over the target and its `END`. The metric is the share of numbers
    with every token right, each said by a decoder that reads the true target before it,
    `rnn_jax.tasks.metrics.exact_match`.

    Whoever knows the training numbers by heart has none right. The baseline translates phrase by
    phrase: from the end, the longest part that is a training number, again and again; a token with
    which none ends is left out.

    Args:
      seed: of the choice and division of the numbers.
      source, target: codes of num2words, such as "en", "fr" and "pt_BR".
      largest: the largest number, 99 or more.
      count: how many numbers, 20 or more; all of them if there are fewer.

    Raises:
      TypeError: for a seed or sizes that are no integers.
      ValueError: for a language that num2words does not have, the same one twice, a number that it
        cannot say, and a seed or sizes out of range.

    >>> french = translation(target="fr", largest=99)
    >>> french.split("sixty-one"), french.join(["vingt", "-", "deux"])
    (['sixty', '-', 'one'], 'vingt-deux')
    >>> one = jax.tree.map(lambda leaf: leaf[0], french.test)
    >>> french.show(np.eye(french.output_size)[one.target], one)
    {'source': 'sixty-one', 'target': 'soixante et un', 'said': 'soixante et un'}
    """
    seed = check_positive("seed", seed, zero=True)
    largest, count = check_positive("largest", largest), check_positive("count", count)
    if largest < 99 or count < 20:
        raise ValueError(f"largest, count are {largest}, {count}, expected at least 99, 20")
    if source == target:
        raise ValueError(f"source and target are both {source!r}, expected two languages")
    count = min(count, largest + 1)
    numbers = np.random.default_rng(seed).choice(largest + 1, count, replace=False).tolist()
    heard, split, join_source = _cut(_texts("source", source, numbers))
    said, _, join = _cut(_texts("target", target, numbers))

    training, held_out = round(0.8 * count), round(0.9 * count)
    source_vocabulary = Vocabulary.of(heard[:training])
    vocabulary = Vocabulary.of(said[:training])

    def examples(part: slice) -> Example:
        context, context_mask = pad([source_vocabulary.encode(text) for text in heard[part]])
        previous, wanted, mask = to_decode([vocabulary.encode(text) for text in said[part]])
        return Example(Conditioned(context, context_mask, previous), wanted, mask)

    def show(outputs: jax.Array, example: Example) -> dict[str, str]:
        most_likely = np.argmax(outputs, axis=-1)[np.asarray(example.mask)]
        return {
            "source": join_source(source_vocabulary.decode(example.inputs.context)),
            "target": join(vocabulary.decode(example.target)),
            "said": join(vocabulary.decode(most_likely)),
        }

    phrases = {
        tuple(text): words for text, words in zip(heard[:training], said[:training], strict=True)
    }
    right = [
        phrase_by_phrase(text, phrases) == words
        for text, words in zip(heard[held_out:], said[held_out:], strict=True)
    ]
    return Translation(
        f"numbers from {source} to {target}",
        "encoder_decoder",
        train=examples(slice(training)),
        validation=examples(slice(training, held_out)),
        test=examples(slice(held_out, None)),
        loss=classes_loss,
        metric=Metric("share of exact translations", exact_match, higher_is_better=True),
        output_size=len(vocabulary),
        baselines={"phrase by phrase": float(np.mean(right))},
        tokens=len(source_vocabulary),
        target_tokens=len(vocabulary),
        initial_loss=math.log(len(vocabulary)),
        show=show,
        source_vocabulary=source_vocabulary,
        vocabulary=vocabulary,
        split=split,
        join=join,
    )


def phrase_by_phrase(text: Sequence[str], phrases: dict[tuple[str, ...], list[str]]) -> list[str]:
    """The translations of the longest phrases, found from the end; what is in none is left out.

    >>> phrases = {("one", "hundred"): ["cent"], ("twenty",): ["vingt"], ("one",): ["un"]}
    >>> phrase_by_phrase(["one", "hundred", "and", "twenty", "one"], phrases)
    ['cent', 'vingt', 'un']
    """
    found: list[list[str]] = []
    end = len(text)
    while end > 0:
        begins = (begin for begin in range(end) if tuple(text[begin:end]) in phrases)
        begin = next(begins, None)
        if begin is not None:
            found.insert(0, phrases[tuple(text[begin:end])])
        end = end - 1 if begin is None else begin
    return [symbol for phrase in found for symbol in phrase]


def _texts(name: str, language: str, numbers: Iterable[int]) -> list[str]:
    """The words of numbers; errors call the argument ``name``."""
    from num2words import CONVERTER_CLASSES, num2words  # type: ignore[import-untyped]

    if language not in CONVERTER_CLASSES:
        codes = sorted(CONVERTER_CLASSES)
        raise ValueError(f"{name}: {unknown('language of num2words', language, codes)}")
    texts = []
    for number in numbers:
        try:
            texts.append(" ".join(num2words(number, lang=language).split()))
        except Exception as error:  # each converter has its own way to fail
            raise ValueError(f"{name} {language!r}: num2words cannot say {number}") from error
    return texts


def _cut(
    texts: Iterable[str],
) -> tuple[list[list[str]], Callable[[str], list[str]], Callable[[Iterable[str]], str]]:
    """Texts as symbols, what cuts a text and what joins symbols again."""
    words = [_WORD.findall(text) for text in texts]
    if len(set().union(*words)) <= _FEW_WORDS:
        join = lambda symbols: " ".join(symbols).replace(" ,", ",").replace(" - ", "-")
        return words, _WORD.findall, join
    return [list(text) for text in texts], list, "".join
