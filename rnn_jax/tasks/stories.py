"""Questions about short generated stories, answered in a word or two.

Shapes: N stories, S words of the longest with its question, U words of the longest answer with its
end, K words that answers are made of, and the four reserved tokens.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from rnn_jax.arguments import check_pair, check_positive
from rnn_jax.tasks.metrics import exact_match
from rnn_jax.tasks.problem import Conditioned, Metric, Problem
from rnn_jax.tasks.task import Example, classes_loss
from rnn_jax.tasks.vocabulary import Vocabulary, pad, to_decode

_PEOPLE = ("anna", "ben", "clara", "david")
_OBJECTS = ("apple", "book", "lamp", "milk")
_PLACES = ("kitchen", "garden", "office", "hallway", "living room", "dining room")
_MOVED = ("went to", "walked to", "ran to")
_TOOK = ("took", "picked up")
_LEFT = ("dropped", "put down")
_KINDS = ("where is a person", "where is a thing", "who has a thing")


class _Item(NamedTuple):
    """A story and its question, as words, its kind, and the answer."""

    story: tuple[str, ...]
    kind: str
    question: str
    answer: str


def stories(seed: int = 0, sentences: tuple[int, int] = (2, 6), count: int = 10_000) -> Problem:
    r"""Answer a question about a story in which people walk about, take things and drop them.

    Questions are "where is anna ?", "where is the apple ?" and "who has the apple ?", as many of
    each kind; the answer is a place of one or two words, a person or "nobody". What a person takes
    moves along, so the place of a thing follows from several sentences; only what the story tells
    is asked. A thing lies where it was dropped, or anywhere before it is first taken.

    The inputs are `Conditioned`: the words of the question and then of the story, and the answer
    one step late; the target is the answer and `END`. The loss is the mean over the words of the
    answer and its end, nats. The metric is the share of answers right in every word, given the true
    words before, `rnn_jax.tasks.metrics.exact_match`. All stories are distinct; 70 % are for
    training, 15 % for validation and 15 % for the test.

    Args:
      seed: of the draws.
      sentences: the fewest and the most that a story has, two at least.
      count: N of all stories.

    Raises:
      TypeError: for arguments that are no integers.
      ValueError: for arguments out of range, or fewer distinct stories than ``count``.

    References:
      In the spirit of tasks 1 and 2 of Weston et al. (2015), arXiv:1502.05698.

    >>> problem = stories(count=40)
    >>> story = jax.tree.map(lambda leaf: leaf[2], problem.test)
    >>> shown = problem.show(jax.nn.one_hot(story.target, problem.output_size), story)
    >>> print(shown["story"], shown["question"], shown["answer"], sep="\n")
    ben ran to the living room . anna walked to the living room .
    where is anna ?
    living room
    """
    seed, count = check_positive("seed", seed, zero=True), check_positive("count", count)
    low, high = check_pair("sentences", sentences)
    if not 2 <= low <= high <= 50:
        raise ValueError(f"sentences is {sentences}, expected from 2 to 50")
    if not 20 <= count <= 100_000:
        raise ValueError(f"count is {count}, expected 20 to 100 000")
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[str, ...], _Item] = {}
    for _ in range(20 * count):
        story, answers = _draw(rng, int(rng.integers(low, high + 1)))
        kind = _KINDS[len(drawn) % len(_KINDS)]
        if answers[kind] and story not in drawn:
            question = _one(rng, list(answers[kind]))
            drawn[story] = _Item(story, kind, question, answers[kind][question])
        if len(drawn) == count:
            break
    else:
        raise ValueError(
            f"count is {count}, expected fewer: stories of {low} to {high} sentences are too "
            f"much alike, {20 * count} draws gave {len(drawn)}"
        )
    return _problem(list(drawn.values()))


def _one(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _draw(
    rng: np.random.Generator, count: int
) -> tuple[tuple[str, ...], dict[str, dict[str, str]]]:
    """A story of so many sentences as words; of each kind the questions and their answers."""
    at: dict[str, str] = {}  # where people are
    holder: dict[str, str] = {}  # who has what
    lies: dict[str, str] = {}  # where things were dropped
    story: list[str] = []
    for _ in range(count):
        person = _one(rng, _PEOPLE)
        here = at.get(person)
        held = [thing for thing in holder if holder[thing] == person]
        free = [
            thing for thing in _OBJECTS if thing not in holder and lies.get(thing, here) == here
        ]
        acts = ["move"] + 2 * ["take"] * bool(here and free) + ["drop"] * bool(held)
        act = _one(rng, acts)
        if act == "move":
            at[person] = _one(rng, [place for place in _PLACES if place != here])
            told = f"{_one(rng, _MOVED)} the {at[person]}"
        elif act == "take":
            thing = _one(rng, free)
            holder[thing] = person
            lies.pop(thing, None)
            told = f"{_one(rng, _TOOK)} the {thing}"
        else:
            thing = _one(rng, held)
            lies[thing] = at[holder.pop(thing)]
            told = f"{_one(rng, _LEFT)} the {thing}"
        story += f"{person} {told} .".split()

    places = lies | {thing: at[person] for thing, person in holder.items()}
    answers = (
        {f"where is {person} ?": place for person, place in at.items()},
        {f"where is the {thing} ?": place for thing, place in places.items()},
        {f"who has the {thing} ?": holder.get(thing, "nobody") for thing in places},
    )
    return tuple(story), dict(zip(_KINDS, answers, strict=True))


def _problem(items: list[_Item]) -> Problem:
    ends = round(0.7 * len(items)), round(0.85 * len(items))
    train, test = items[: ends[0]], items[ends[1] :]
    read = [[*item.question.split(), *item.story] for item in items]
    words = Vocabulary.of(read[: ends[0]])
    answers = Vocabulary.of(answer.split() for answer in (*_PLACES, *_PEOPLE, "nobody"))

    context, context_mask = pad([words.encode(text) for text in read])
    previous, target, mask = to_decode([answers.encode(item.answer.split()) for item in items])
    examples = Example(Conditioned(context, context_mask, previous), target, mask)

    def part(begin: int, end: int) -> Example:
        return jax.tree.map(lambda leaf: leaf[begin:end], examples)

    def show(outputs: jax.Array, example: Example) -> Mapping[str, str]:
        question, _, story = " ".join(words.decode(example.inputs.context)).partition("? ")
        said = np.argmax(outputs, axis=-1)[np.asarray(example.mask)]
        return {
            "story": story,
            "question": f"{question}?",
            "right answer": " ".join(answers.decode(example.target)),
            "answer": " ".join(answers.decode(said)),
        }

    return Problem(
        "questions about stories",
        "encoder_decoder",
        part(0, ends[0]),
        part(ends[0], ends[1]),
        part(ends[1], len(items)),
        classes_loss,
        Metric("exact match", exact_match, higher_is_better=True),
        output_size=len(answers),
        baselines=_baselines(train, test),
        tokens=len(words),
        target_tokens=len(answers),
        initial_loss=math.log(len(answers)),
        show=show,
    )


def _baselines(train: list[_Item], test: list[_Item]) -> dict[str, float]:
    """The exact match on the test part of answers that need no memory of who did what."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    given: dict[str, Counter[str]] = {}
    for item in train:
        given.setdefault(item.kind, Counter())[item.answer] += 1
    frequent = {kind: answers.most_common(1)[0][0] for kind, answers in given.items()}

    def last_mentioned(item: _Item) -> str:
        kin = _PEOPLE if item.kind == _KINDS[2] else _PLACES
        return max(kin, key=" ".join(item.story).rfind)

    def text(item: _Item) -> str:
        return f"{' '.join(item.story)} {item.question}"

    counts = CountVectorizer(token_pattern=r"\S+")
    classifier = make_pipeline(counts, LogisticRegression(max_iter=1000))
    classifier.fit([text(item) for item in train], [item.answer for item in train])
    said = {
        "most frequent answer of the kind": [frequent.get(item.kind) for item in test],
        "last place or person mentioned": [last_mentioned(item) for item in test],
        "bag of words": classifier.predict([text(item) for item in test]),
    }
    right = [item.answer for item in test]
    return {name: float(np.mean(np.equal(answers, right))) for name, answers in said.items()}
