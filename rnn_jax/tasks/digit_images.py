"""Handwritten digits, scikit-learn's 1797 of 8 x 8 pixels: which one is it, and what is seen where.

Shapes: N examples, D pixels, U words, K classes or words.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax.arguments import check_positive
from rnn_jax.tasks.metrics import accuracy, exact_match
from rnn_jax.tasks.problem import Conditioned, Metric, Problem
from rnn_jax.tasks.task import Example, classes_loss
from rnn_jax.tasks.vocabulary import Vocabulary, to_decode

Digits = tuple[np.ndarray, np.ndarray]
"""Images (N, 8, 8) float32, from 0 for paper to 1 for ink, and the digits they show (N,) int32."""

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "at the left",
    "in the middle",
    "at the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
_FACTS = (2, len(_NAMES), len(_PLACES))
_LIGHT, _NOISE = 0.3, 0.1
_SHADES = " .:-=+*#%@"


def digit_splits(seed: int = 0) -> tuple[Digits, Digits, Digits]:
    """The images to train on (60 %), to validate on (15 %) and to test on (25 %).

    Each digit is divided in these shares at random. No image occurs twice, but the same 13 people
    wrote all three parts.

    References:
      E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits,
      doi:10.24432/C50P49, whose test set is scikit-learn's.

    >>> train, validation, test = digit_splits()
    >>> train[0].shape, len(validation[1]), len(test[1])
    ((1083, 8, 8), 269, 445)
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(check_positive("seed", seed, zero=True))
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    share = np.empty(len(labels))  # of its digit that comes before an image
    for digit in range(10):
        shuffled = rng.permutation(np.flatnonzero(labels == digit))
        share[shuffled] = np.arange(len(shuffled)) / len(shuffled)
    part = np.digitize(share, [0.6, 0.75])
    train, validation, test = (
        (images[part == k], labels[part == k].astype(np.int32)) for k in range(3)
    )
    return train, validation, test


def draws(
    seed: int, train: int, held_out: int
) -> tuple[np.random.Generator, list[tuple[Digits, int]]]:
    """What draws examples; to train, validate and test on, the images to draw from and how many.

    Raises:
      TypeError, ValueError: for arguments that are no integers, or too small.
    """
    if check_positive("train", train) < 50:
        raise ValueError(f"train must be at least 50, of which the baselines learn, got {train}")
    held_out = check_positive("held_out", held_out)
    rng = np.random.default_rng([check_positive("seed", seed, zero=True), 1])
    return rng, list(zip(digit_splits(seed), (train, held_out, held_out), strict=True))


def picture(image: np.ndarray) -> str:
    """An image from 0 to 1, (H, W), as characters.

    >>> print(picture(np.array([[0.0, 0.3], [0.6, 1.0]])))
     -
    +@
    """
    shades = (np.clip(image, 0, 1) * (len(_SHADES) - 1)).round().astype(int)
    return "\n".join("".join(_SHADES[shade] for shade in row) for row in shades)


def classification(seed: int = 0, *, as_rows: bool = False) -> Problem:
    """Which of ten digits is it? One-to-one: inputs (64,), outputs (10,), a mask of one step.

    The loss is -ln p(digit) under the softmax of the outputs, nats; the metric the share of digits
    right. The images are divided by `digit_splits`.

    Args:
      seed: of the division.
      as_rows: many-to-one, the image from top to bottom: inputs (8, 8), outputs (10,) of the end.

    Raises:
      TypeError, ValueError: for a seed that is no integer from 0 on.

    >>> problem = classification(as_rows=True)
    >>> problem.topology, problem.train.inputs.shape, problem.test.target.shape
    ('many_to_one', (1083, 8, 8), (445,))
    """
    parts = digit_splits(seed)

    def examples(digits: Digits) -> Example:
        images, target = digits
        mask = np.ones((len(images), 8 if as_rows else 1), bool)
        return Example(images if as_rows else images.reshape(-1, 64), target, mask)

    def loss(outputs: jax.Array, example: Example) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, example.target)

    def show(outputs: jax.Array, example: Example) -> Mapping[str, str]:
        return {
            "image": picture(np.reshape(example.inputs, (8, 8))),
            "digit": str(example.target),
            "answer": str(jnp.argmax(outputs)),
        }

    train, validation, test = map(examples, parts)
    return Problem(
        "handwritten digits by rows" if as_rows else "handwritten digits",
        "many_to_one" if as_rows else "one_to_one",
        train,
        validation,
        test,
        loss,
        Metric("share right", accuracy, higher_is_better=True),
        output_size=10,
        baselines=_classifiers(parts[0], parts[2]),
        initial_loss=math.log(10),
        show=show,
    )


def _classifiers(train: Digits, test: Digits) -> dict[str, float]:
    """The share right of methods without hidden layers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import pairwise_distances_argmin

    (pixels, labels), (asked, wanted) = (
        (part[0].reshape(-1, 64), part[1]) for part in (train, test)
    )
    centroids = np.stack([pixels[labels == digit].mean(axis=0) for digit in range(10)])
    answers = {
        "most frequent digit": np.argmax(np.bincount(labels)),
        "nearest centroid": pairwise_distances_argmin(asked, centroids),
        "logistic regression": LogisticRegression(max_iter=1000).fit(pixels, labels).predict(asked),
    }
    return {name: float(np.mean(answer == wanted)) for name, answer in answers.items()}


def captions(seed: int = 0, *, train: int = 6000, held_out: int = 500) -> Problem:
    """Say what is in a picture: "a faint seven at the top left", "an eight in the middle".

    One-to-many: the context is a picture of 16 x 16 pixels, (256,), the target its caption and
    `END`. A digit stands in one of nine places and is written faintly, at half the ink, every other
    time. The picture is lit unevenly, by a + b row + c column with a, b, c ~ N(0, 0.3^2) and rows
    and columns from -1 to 1, and has noise of standard deviation 0.1.

    The loss is the mean of -ln p over the words and the end, nats. The metric is the share of
    captions without a wrong word under teacher forcing, `rnn_jax.tasks.metrics.exact_match`.

    Baselines say the most frequent caption; that of the nearest training picture; and what three
    logistic regressions on pixels have for ink, digit and place.

    Digits are drawn from the images of one part of `digit_splits`: none of the test is seen in
    training, but the same captions are.

    Args:
      seed: of the division and the pictures.
      train: pictures to train on.
      held_out: pictures to validate on, and to test on.

    Raises:
      TypeError, ValueError: for arguments that are no integers, or too small.

    >>> problem = captions(train=50, held_out=5)
    >>> problem.train.inputs.context.shape, problem.test.target.shape
    ((50, 256), (5, 8))
    """
    rng, parts = draws(seed, train, held_out)
    drawn = [_pictures(rng, part, count) for part, count in parts]
    possible = [caption.split() for caption in _captions()]
    vocabulary = Vocabulary.of(possible)
    table = to_decode([vocabulary.encode(words) for words in possible])

    def examples(pictures: np.ndarray, facts: np.ndarray) -> Example:
        previous, said, mask = (part[np.ravel_multi_index(facts.T, _FACTS)] for part in table)
        return Example(Conditioned(pictures, None, previous), said, mask)

    def show(outputs: jax.Array, example: Example) -> Mapping[str, str]:
        answer = np.argmax(outputs, axis=-1)[np.asarray(example.mask)]
        return {
            "picture": picture(np.reshape(example.inputs.context, (16, 16))),
            "caption": " ".join(vocabulary.decode(example.target)),
            "answer": " ".join(vocabulary.decode(answer)),
        }

    return Problem(
        "captions of digits",
        "one_to_many",
        examples(*drawn[0]),
        examples(*drawn[1]),
        examples(*drawn[2]),
        classes_loss,
        Metric("share of captions right", exact_match, higher_is_better=True),
        output_size=len(vocabulary),
        baselines=_captioners(drawn[0], drawn[2]),
        target_tokens=len(vocabulary),
        initial_loss=math.log(len(vocabulary)),
        show=show,
    )


def _captions() -> list[str]:
    """All that can be said, by faintness, digit and place in this order."""
    return [
        f"{'an' if name == 'eight' and not ink else 'a'} {ink}{name} {place}"
        for ink in ("", "faint ")
        for name in _NAMES
        for place in _PLACES
    ]


def _pictures(rng: np.random.Generator, part: Digits, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 256) and facts (N, 3): whether faint, which digit, at which place."""
    images, labels = part
    chosen = rng.integers(len(labels), size=count)
    faint, place = rng.integers(2, size=count), rng.integers(9, size=count)
    across = np.linspace(-1, 1, 16)
    level, down, right = rng.normal(0, _LIGHT, (3, count, 1, 1))
    pictures = level + down * across[:, None] + right * across
    pictures += rng.normal(0, _NOISE, pictures.shape)
    for n, (row, column) in enumerate(4 * np.transpose(np.divmod(place, 3))):
        pictures[n, row : row + 8, column : column + 8] += images[chosen[n]] / (1 + faint[n])
    facts = np.stack([faint, labels[chosen], place], axis=1)
    return pictures.astype(np.float32).reshape(count, -1), facts


def _captioners(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """The share of captions right: those of which all facts are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import pairwise_distances_argmin

    (pictures, facts), (asked, wanted) = train, test
    captions, often = np.unique(facts, axis=0, return_counts=True)
    logistic = LogisticRegression(C=0.1, max_iter=1000)
    answers = {
        "most frequent caption": captions[np.argmax(often)],
        "nearest picture": facts[pairwise_distances_argmin(asked, pictures)],
        "logistic regression": np.stack(
            [logistic.fit(pictures, fact).predict(asked) for fact in facts.T], axis=1
        ),
    }
    return {
        name: float(np.mean(np.all(answer == wanted, axis=1))) for name, answer in answers.items()
    }
