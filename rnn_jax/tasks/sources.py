"""Sources: where the input sequences of an experiment come from.

Every feature of every source has mean 0 and variance 1 over its corpus. Under an input kernel of
variance 1/D all sources therefore drive a cell with the same pre-activation variance, and what
differs between them is structure in time alone.

Shapes: T time, B batch, D features, N steps in a corpus, A distinct characters.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnn_jax.arguments import check_positive, shown, unknown
from rnn_jax.tasks.files import mostly_numbers, number_table, numbers, read_text

# Draws the embedding of characters, N(0, I) for each in code point order, later standardised under
# their frequencies in the text: the same in every run and on every machine.
EMBEDDING_SEED = 0


@dataclass(frozen=True)
class Source:
    """A named supply of standardised sequences.

    `sample(rng, batch, length)` returns (T, B, D) float32, time-major, and depends on the state of
    `rng` alone. The sequences of a batch are drawn independently: windows of a corpus may overlap.
    A batch or length below 1, or a length above `steps`, is a ValueError; no integer, a TypeError.

    `steps` is the length of the corpus, so the longest sequence, None where there is no end. One
    sequence is cheap to draw, and checks a length before anything is computed.
    """

    name: str
    size: int
    sample: Callable[[np.random.Generator, int, int], np.ndarray]
    steps: int | None = None


def white_noise(size: int) -> Source:
    """Independent standard normals: D = `size`, without end.

    >>> white_noise(3).sample(np.random.default_rng(0), 2, 5).shape
    (5, 2, 3)
    """
    check_positive("size", size)

    def sample(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
        _check_request(batch, length)
        return rng.standard_normal((length, batch, size), dtype=np.float32)

    return Source("white_noise", size, sample)


def python_docs(size: int) -> Source:
    """CPython's own documentation topics as embedded characters: D = `size`, N near 480 000.

    The topics ship with Python in `pydoc_data`, so the text is that of the running version.
    Windows start anywhere.

    >>> python_docs(8).sample(np.random.default_rng(0), 2, 5).shape
    (5, 2, 8)
    """
    return _text_source("python_docs", python_docs_text(), size, where="python_docs")


def python_docs_text() -> str:
    """CPython's documentation topics, joined in the order of their names."""
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics))


def digits() -> Source:
    """Handwritten digits (scikit-learn's 1797, 8 x 8) read pixel by pixel: D = 1, without end.

    A sequence starts at the first pixel of a random digit; past 64 steps it reads on into further
    digits, each drawn anew.

    >>> digits().sample(np.random.default_rng(0), 2, 100).shape
    (100, 2, 1)
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    images = load_digits().data  # (1797, 64)
    pixels = _standardise(images.reshape(-1, 1)).reshape(images.shape)

    def sample(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
        _check_request(batch, length)
        chosen = rng.integers(len(pixels), size=(batch, -(-length // 64)))
        return pixels[chosen].reshape(batch, -1).T[:length, :, None]

    return Source("digits", 1, sample)


def from_file(path: str | os.PathLike[str], size: int) -> Source:
    r"""The user's own file, named after it; windows start anywhere.

    `.csv` and `.tsv` hold one time step per row; a first row without a number is a header. D is
    the number of columns in use: numeric (most of their filled cells are numbers) and not constant;
    `size` is ignored. The separator is the first of tab, semicolon and comma that the first line
    holds outside quotes; beside semicolons a comma is the decimal mark. Any other file is text:
    its characters embedded as D = `size` features, every line end a newline.

    Raises ValueError, one line naming the path, for a file that is missing, unreadable, empty, not
    UTF-8, or one character repeated; for a table that does not parse, has no column to use, or in
    such a column a cell without a finite number; by `sample`, for a length above `steps`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "prices.csv")
    ...     _ = path.write_text("day,open,close\nMon,1,10\nTue,2,30\nWed,3,20\n")
    ...     prices = from_file(path, size=16)
    >>> prices.name, prices.size, prices.steps
    ('prices.csv', 2, 3)
    >>> prices.sample(np.random.default_rng(0), 1, 3)[:, 0, 1].round(3)
    array([-1.225,  1.225,  0.   ], dtype=float32)
    """
    path = Path(os.path.expanduser(path))
    if path.suffix.lower() not in (".csv", ".tsv"):
        return _text_source(path.name, read_text(path), size, where=str(path))
    rows = _standardise(_varying_numbers(path))
    return _window_source(path.name, rows, np.arange(len(rows)), f"{path}: has {len(rows)} rows")


def source(name: str, size: int, path: str | os.PathLike[str] | None = None) -> Source:
    """The source called `name`: white_noise, python_docs, digits or file.

    `path` is read by "file" alone, `size` by all that leave D open. Raises ValueError for an
    unknown name, "file" without a path, and what the source itself refuses.

    >>> source("white_noise", size=4).size
    4
    """
    makers: dict[str, Callable[[], Source]] = {
        "white_noise": lambda: white_noise(size),
        "python_docs": lambda: python_docs(size),
        "digits": digits,
        "file": lambda: from_file(path or "", size),
    }
    if not isinstance(name, str) or name not in makers:
        raise ValueError(unknown("source", name, makers))
    if name == "file" and not path:
        raise ValueError(f"source 'file' has path {path!r}, expected the path of a file")
    return makers[name]()


def characters(text: str) -> tuple[np.ndarray, str]:
    """Splits a text into codes (N,) and its alphabet (A characters, in code point order).

    >>> characters("banana")
    (array([1, 0, 2, 0, 2, 0], dtype=int32), 'abn')
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {shown(text)}")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    alphabet, codes = np.unique(points, return_inverse=True)
    return codes.astype(np.int32), "".join(map(chr, alphabet))


def _check_request(batch: int, length: int) -> None:
    check_positive("batch", batch)
    check_positive("length", length)


def _text_source(name: str, text: str, size: int, *, where: str) -> Source:
    """Windows of embedded characters; errors call the text `where`."""
    table, codes, _ = embedded_characters(text, size, where)
    return _window_source(name, table, codes, f"{where}: has {len(codes)} characters")


def embedded_characters(text: str, size: int, where: str) -> tuple[np.ndarray, np.ndarray, str]:
    """A fixed random vector for each character (A, D), the text's codes (N,) and its alphabet.

    Raises ValueError for a text of fewer than two different characters, which it calls `where`.
    """
    check_positive("size", size)
    codes, alphabet = characters(text)
    if not alphabet:
        raise ValueError(f"{where}: is empty, expected at least two different characters")
    if len(alphabet) < 2:
        raise ValueError(f"{where}: repeats the one character {alphabet!r}, expected at least two")
    # Why an embedding: one-hot characters have features of variance about 1/D, not 1, and so drive
    # a cell far more weakly than noise does; standardising them would blow up the rare ones.
    table = np.random.default_rng(EMBEDDING_SEED).standard_normal((len(alphabet), size))
    return _standardise(table, weights=np.bincount(codes)), codes, alphabet


def _window_source(name: str, table: np.ndarray, codes: np.ndarray, has: str) -> Source:
    """Windows of the corpus `table[codes]`: table (A, D), codes (N,)."""

    def sample(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
        _check_request(batch, length)
        if length > len(codes):
            raise ValueError(f"{has}, expected at least the length asked for, {length}")
        starts = rng.integers(len(codes) - length + 1, size=batch)
        return table[codes[starts + np.arange(length)[:, None]]]

    return Source(name, table.shape[1], sample, steps=len(codes))


def _standardise(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Columns of values (N, D) with mean 0 and variance 1, rows weighted by weights (N,)."""
    low, high = values.min(axis=0), values.max(axis=0)
    values = (values - low) / (high - low)  # so that no magnitude can overflow the squares
    values = values - np.average(values, axis=0, weights=weights)
    variance = np.average(values**2, axis=0, weights=weights)
    return (values / np.sqrt(variance)).astype(np.float32)


def _varying_numbers(path: Path) -> np.ndarray:
    """The numeric, varying columns of a table, (N, D) float64."""
    table = number_table(path)
    cells = table.loc[:, mostly_numbers(table)]
    values = cells.apply(numbers).to_numpy(float)
    for row, column in np.argwhere(~np.isfinite(values))[:1].tolist():
        raise ValueError(
            f"{path}: data row {row + 1}, column {cells.columns[column]!r:.40}: expected a finite "
            f"number, got {cells.fillna('').iat[row, column]!r:.40}"
        )
    varying = values.min(axis=0, initial=np.inf) < values.max(axis=0, initial=-np.inf)
    if not varying.any():
        raise ValueError(f"{path}: has no numeric column that varies, expected at least one")
    return values[:, varying]
