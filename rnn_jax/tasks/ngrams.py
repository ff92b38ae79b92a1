"""Interpolated n-grams: what a table of counts knows of the next symbol."""

from collections.abc import Sequence

import numpy as np

_STRENGTHS = np.geomspace(0.05, 100, 40)
_ORDER_NAMES = ("unigram", "bigram", "trigram")


def ngram_bits(
    tokens: np.ndarray,
    training: np.ndarray,
    tuning: np.ndarray,
    test: np.ndarray,
    classes: int,
    orders: Sequence[int],
) -> dict[str, float]:
    """Bits per token of the ``test`` targets, (N,) booleans, for each of the orders by its name.

    The other arguments are those of `ngram_probabilities`.

    >>> tokens, places = np.array([1, 2] * 50), np.arange(100)
    >>> parts = places < 60, (60 <= places) & (places < 80), places >= 80
    >>> {name: round(bits, 2) for name, bits in ngram_bits(tokens, *parts, 2, (1, 2)).items()}
    {'unigram': 1.0, 'bigram': 0.0}
    """
    rows = ngram_probabilities(tokens, training, tuning, classes, max(orders))
    bits = 0 - np.log2(rows[:, test]).mean(axis=1)  # 0 for what is certain, not -0
    return {order_name(order): float(bits[order - 1]) for order in orders}


def ngram_probabilities(
    tokens: np.ndarray, training: np.ndarray, tuning: np.ndarray, classes: int, order: int
) -> np.ndarray:
    """What n-gram models say of each token after those before it: (order, N) probabilities.

    Row n - 1 is that of order n. With c the counts and d(h) the number of distinct tokens that
    follow h, both in the training targets, and h' the history h without its earliest token::

        p_n(w | h) = (c(h w) + a_n d(h) p_{n-1}(w | h')) / (c(h) + a_n d(h)),   p_0 = 1 / classes

    which is a distribution over the classes for any a_n > 0, and that of Witten and Bell for
    a_n = 1. Each a_n is the best of a grid for the tuning targets, one order after the other.

    Args:
      tokens: (N,) integers; before the first there are zeros.
      training: (N,) booleans, which tokens are counted as targets; any may be part of a history.
      tuning: (N,) booleans, for which targets the a_n are chosen; none of the training ones.
      classes: how many distinct tokens may be a target.
      order: the highest, 1 or more.

    References:
      Witten and Bell (1991), doi:10.1109/18.87000; Chen and Goodman (1999),
      doi:10.1006/csla.1999.0128.

    >>> tokens = np.array([1, 2, 1, 2, 1, 3, 1, 2])
    >>> places = np.arange(8)
    >>> ngram_probabilities(tokens, places < 6, places == 6, 3, 2)[:, -1].round(2).tolist()
    [0.33, 0.66]
    """
    tokens = np.asarray(tokens, np.int64)
    size = int(tokens.max()) + 1
    history = np.zeros(len(tokens), np.int64)  # equal numbers, equal histories
    probability = np.full(len(tokens), 1 / classes)
    rows = []
    for n in range(order):
        if n:
            before = np.concatenate([np.zeros(n, np.int64), tokens[:-n]])
            history = np.unique(history * size + before, return_inverse=True)[1]
        gram = np.unique(history * size + tokens, return_inverse=True)[1]
        distinct = np.unique(gram[training], return_index=True)[1]
        counts = np.stack(
            [
                np.bincount(counted, minlength=len(tokens))[of_each]
                for counted, of_each in (
                    (gram[training], gram),
                    (history[training], history),
                    (history[training][distinct], history),
                )
            ]
        )
        costs = [
            -np.log(_interpolated(counts[:, tuning], probability[tuning], strength)).mean()
            for strength in _STRENGTHS
        ]
        probability = _interpolated(counts, probability, _STRENGTHS[np.argmin(costs)])
        rows.append(probability)
    return np.stack(rows)


def _interpolated(counts: np.ndarray, shorter: np.ndarray, strength: float) -> np.ndarray:
    """The equation above: counts (3, N) of c(h w), c(h) and d(h), shorter (N,) p_{n-1}."""
    seen, total, followers = counts
    share = np.where(total > 0, strength * followers, 1)  # an unseen history says nothing
    return (seen + share * shorter) / (total + share)


def order_name(order: int) -> str:
    """
    >>> order_name(2), order_name(6)
    ('bigram', '6-gram')
    """
    return _ORDER_NAMES[order - 1] if order <= len(_ORDER_NAMES) else f"{order}-gram"
