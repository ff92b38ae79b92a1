"""Symbols as integers: one table for words and characters alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PAD, START, END, UNKNOWN = range(4)
"""The first tokens of each vocabulary: padding, before the first, after the last, anything else."""

_RESERVED = ("<pad>", "<start>", "<end>", "<unknown>")


@dataclass(frozen=True)
class Vocabulary:
    """Symbols and their tokens: `PAD`, `START`, `END` and `UNKNOWN`, then ``symbols`` in order.

    >>> words = Vocabulary(("good", "not"))
    >>> words.encode("not bad".split()), words.decode([5, 4, END])
    ([5, 3], ['not', 'good'])
    >>> len(words)
    6
    """

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[Iterable[str]], *, at_least: int = 1) -> "Vocabulary":
        """The symbols that occur ``at_least`` so often, sorted.

        >>> Vocabulary.of(["abba", "c"], at_least=2).symbols
        ('a', 'b')
        """
        counts: dict[str, int] = {}
        for text in texts:
            for symbol in text:
                counts[symbol] = counts.get(symbol, 0) + 1
        return cls(tuple(sorted(s for s, count in counts.items() if count >= at_least)))

    def __len__(self) -> int:
        return len(_RESERVED) + len(self.symbols)

    def encode(self, text: Iterable[str]) -> list[int]:
        """Tokens of symbols."""
        return [self._tokens.get(symbol, UNKNOWN) for symbol in text]

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Symbols up to the first `END`, without padding."""
        symbols = []
        for token in map(int, tokens):
            if token == END:
                break
            if token not in (PAD, START):
                symbols.append(self._written[token])
        return symbols

    @cached_property
    def _tokens(self) -> Mapping[str, int]:
        return {symbol: token for token, symbol in enumerate(self.symbols, len(_RESERVED))}

    @cached_property
    def _written(self) -> Sequence[str]:
        return (*_RESERVED, *self.symbols)


def pad(
    sequences: Sequence[Sequence[int]], length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of tokens as one array (N, T) int32 with its mask; T is that of the longest.

    Raises:
      ValueError: for a sequence longer than ``length``.

    >>> tokens, mask = pad([[4, 5], [6]])
    >>> tokens.tolist(), mask.tolist()
    ([[4, 5], [6, 0]], [[True, True], [True, False]])
    """
    longest = max(map(len, sequences), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"pad: a sequence of {longest} tokens does not fit in length {length}")
    tokens = np.full((len(sequences), length), PAD, np.int32)
    mask = np.zeros((len(sequences), length), bool)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = True
    return tokens, mask


def to_decode(targets: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a decoder reads, what it is to say, and the mask of both, each (N, U).

    It reads `START` and the target, and says the target and `END`.

    >>> [part.tolist() for part in to_decode([[4, 5]])]
    [[[1, 4, 5]], [[4, 5, 2]], [[True, True, True]]]
    """
    previous, mask = pad([[START, *target] for target in targets])
    said, _ = pad([[*target, END] for target in targets])
    return previous, said, mask
