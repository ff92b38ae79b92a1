"""Generated reviews, in which the order of words decides whether they praise or blame."""

from itertools import pairwise

import numpy as np

from rnn_jax.arguments import check_positive
from rnn_jax.tasks.classified_text import split_words, text_problem
from rnn_jax.tasks.problem import Problem

_PRAISE = ("good", "clever", "funny", "moving", "fresh", "brilliant", "gripping", "warm", "sharp")
_BLAME = ("bad", "dull", "boring", "clumsy", "stale", "awful", "tedious", "shallow", "cold")
_PARTS = ("plot", "acting", "ending", "music", "dialogue", "story", "pace", "cast", "script")
_DEGREES = ("very", "really", "so", "quite")

# A sentence about {t}, or {t} and {u}, and which of its two opposite words is its verdict.
_VERDICTS = (
    ("the {t} was {x} , not {y}", "x"),
    ("the {t} was {d} {x} and never {y}", "x"),
    ("the {t} was {x} instead of {y}", "x"),
    ("the {t} was {x} , although the {u} was {y}", "x"),
    ("i expected the {t} to be {x} and not {y} , and it was", "x"),
    ("the {t} was not {d} {x} but {y}", "y"),
    ("instead of {x} , the {t} was {d} {y}", "y"),
    ("the {t} was {x} but the {u} was {y}", "y"),
    ("although the {t} was {x} , the {u} was {d} {y}", "y"),
    ("i expected the {t} to be {x} and it was {y}", "y"),
    ("i expected the {t} to be {x} and not {y} , and it was not", "y"),
    ("the {t} was anything but {x} , it was {y}", "y"),
)
# What may stand around it, and whether that turns the verdict into its opposite.
_FRAMES = (
    ("{}", False),
    ("in short , {}", False),
    ("critics wrote that {} ; they were right", False),
    ("i was told that {} ; it is true", False),
    ("it is right to say that {}", False),
    ("critics wrote that {} ; they were wrong", True),
    ("i was told that {} ; it is not true", True),
    ("it is wrong to say that {}", True),
    ("they say that {} ; do not believe them", True),
)


def reviews(seed: int = 0, pairs: int = 2000) -> Problem:
    """Is a short generated review positive? Negation and contrast: the order of words decides.

    Reviews come in pairs of the same words in another order and of opposite classes: "the plot
    was not dull but clever" and "the plot was not clever but dull". So each bag of words occurs
    as often with both classes, and whoever does not see the order is right for exactly one of
    each pair, on the test set too. Further words turn the verdict round in some pairs: "critics
    wrote that ... ; they were wrong".

    All reviews are distinct; 70 % of the pairs are for training, 15 % for validation and 15 % for
    the test, and no pair is divided.

    Args:
      seed: of the draws.
      pairs: how many; reviews are twice as many.

    Raises:
      TypeError, ValueError: for arguments that are no integers, or out of range.

    >>> problem = reviews(pairs=20)
    >>> problem.train.inputs.shape[0], problem.baselines["bag of words"]
    (28, 0.5)
    >>> import jax
    >>> for row in 0, 1:
    ...     review = jax.tree.map(lambda leaf: leaf[row], problem.test)
    ...     shown = problem.show(np.zeros(1), review)
    ...     print(shown["text"], "|", shown["right answer"])
    i was told that the story was gripping , not cold ; it is true | positive
    i was told that the story was cold , not gripping ; it is true | negative
    """
    seed, pairs = check_positive("seed", seed, zero=True), check_positive("pairs", pairs)
    if not 20 <= pairs <= 20_000:
        raise ValueError(f"pairs is {pairs}, expected 20 to 20 000")
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[str, str], int] = {}  # a pair and the class of its first review
    while len(drawn) < pairs:
        sentence, verdict = _VERDICTS[rng.integers(len(_VERDICTS))]
        frame, turned = _FRAMES[rng.integers(len(_FRAMES))]
        t, u = (_PARTS[part] for part in rng.choice(len(_PARTS), 2, replace=False))
        degree = _DEGREES[rng.integers(len(_DEGREES))]
        good, bad = (kind[rng.integers(len(kind))] for kind in (_PRAISE, _BLAME))
        pair = (
            frame.format(sentence.format(t=t, u=u, d=degree, x=good, y=bad)),
            frame.format(sentence.format(t=t, u=u, d=degree, x=bad, y=good)),
        )
        drawn[pair] = int((verdict == "x") != turned)

    texts = [split_words(text) for pair in drawn for text in pair]
    labels = [label for first in drawn.values() for label in (first, 1 - first)]
    ends = [0, 2 * round(0.7 * pairs), 2 * round(0.85 * pairs), 2 * pairs]
    parts = [(texts[a:b], labels[a:b]) for a, b in pairwise(ends)]
    return text_problem("generated reviews", parts, ("negative", "positive"), at_least=1)
