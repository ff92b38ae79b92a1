"""The user's files: text, tables and JSON lines, where every fault is one line with the path."""

import csv
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax.reading import readable


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte order mark, every line end a newline.

    Raises:
      ValueError: for a file that is missing, unreadable, empty, binary, not UTF-8, or larger than
        the memory.
    """
    try:
        with readable(path).open("rb") as file:
            data = file.read(2**20)
            if 0 not in data:  # what is binary need not be read to its end
                data += file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a readable file") from error
    except MemoryError:
        size = path.stat().st_size
        raise ValueError(f"{path}: its {size} bytes are more than there is memory for") from None
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise ValueError(f"{path}: not UTF-8 text but UTF-16: save it as UTF-8")
    if (offset := data.find(0)) >= 0:
        raise ValueError(f"{path}: is binary (NUL at byte {offset}), expected UTF-8 text")
    try:
        text = data.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text at byte {error.start}: {error.reason}; save it as UTF-8"
        ) from error
    if not text.strip():
        raise ValueError(f"{path}: is empty or blank, expected text or a table")
    return text


def number_table(path: Path) -> Any:
    r"""A table of measurements as a pandas.DataFrame of text, NaN where a cell is missing.

    The separator is the first of tab, semicolon and comma that the first line holds outside quotes;
    beside semicolons a comma is the decimal mark. A first row without a number is a header; columns
    without a name are called "1", "2" and so on by their place. Missing is what pandas takes for
    it, an empty cell, NA, NaN and null among them, and what a row has too few of.

    Thousands may be set apart by commas, beside semicolons by points, in a column where all numbers
    from 1000 are written so. Beside semicolons a column in which each number has a point before its
    last three digits is one of decimals.

    Raises:
      ValueError: as `read_text`, and for a table that does not parse.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "rain.csv")
    ...     _ = path.write_text("day;;mm\nMon;1,5;NA\n")
    ...     table = number_table(path)
    >>> list(table), table.values.tolist()
    (['day', '2', 'mm'], [['Mon', '1.5', nan]])
    """
    import pandas as pd  # type: ignore[import-untyped]

    text = read_text(path)
    mark = _separator(path, text)
    try:
        cells = pd.read_csv(StringIO(text), sep=mark, header=None, dtype=str, skipinitialspace=True)
    except ValueError as error:  # pandas' own reason, which may span lines
        raise ValueError(f"{path}: is not a table: {' '.join(str(error).split())}") from error
    names = [str(place + 1) for place in range(cells.shape[1])]
    header = cells.iloc[0].fillna("").str.strip()
    if cells[:1].apply(_plain, mark=mark).apply(numbers).isna().all(axis=None):
        names = [name or place for name, place in zip(header, names, strict=True)]
        cells = cells[1:]
    return cells.apply(_plain, mark=mark).set_axis(names, axis=1).reset_index(drop=True)


def _plain(cells: Any, mark: str) -> Any:
    """A column with points as decimal marks and nothing between thousands."""
    thousands, decimal = (".", ",") if mark == ";" else (",", ".")
    group, point = re.escape(thousands), re.escape(decimal)
    number = rf"[+-]?(\d{{1,3}}|[1-9]\d{{0,2}}({group}\d{{3}})+)({point}\d+)?"
    filled = cells.dropna()
    decimals = mark == ";" and filled.str.fullmatch(r"[+-]?\d+\.\d{3}").all()
    if filled.str.fullmatch(number).all() and not decimals:
        cells = cells.str.replace(thousands, "", regex=False)
    return cells.str.replace(r",(?=\d|$)", ".", regex=True) if mark == ";" else cells


def numbers(cells: Any) -> Any:
    """A column of cells (pandas.Series) as float64, NaN for what is no number."""
    import pandas as pd

    return pd.to_numeric(cells, errors="coerce").astype(float)


def mostly_numbers(table: Any) -> np.ndarray:
    """Which columns of a table are numeric.

    Those of which most filled cells are numbers, not all: a stray word is an error, not a reason to
    leave a column out.
    """
    columns = (cells for _, cells in table.items())
    return np.array([2 * numbers(cells).count() > cells.count() for cells in columns], bool)


def text_table(path: Path, known: Collection[str]) -> Any:
    r"""A table of texts as a pandas.DataFrame of strings, "" where a cell is missing.

    `.jsonl`, `.ndjson` and `.json` hold one JSON object per line, any other file a table: its
    separator is the first of tab, semicolon and comma that the first line holds outside quotes.
    A table with tabs has no quoting. The first row names the columns; in a table of two columns
    with none of the ``known`` names, in any case, it is data if one of its cells occurs again in
    its column.

    Raises:
      ValueError: as `read_text`, for rows of different lengths, for what is no table or no JSON.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "mail.csv")
    ...     _ = path.write_text('ham,"Well, well"\nham,NA\n')
    ...     table = text_table(path, ["text"])
    >>> list(table), table.values.tolist()
    (['column 1', 'column 2'], [['ham', 'Well, well'], ['ham', 'NA']])
    """
    import pandas as pd

    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return pd.DataFrame(_json_lines(path)).fillna("")
    (names, *rows) = _text_rows(path)
    again = any(name == row[column] for row in rows for column, name in enumerate(names))
    if len(names) == 2 and again and not {name.lower() for name in names} & set(known):
        return pd.DataFrame([names, *rows], columns=["column 1", "column 2"])
    return pd.DataFrame(rows, columns=names)


MOST_COLUMNS = 10_000
"""Every column takes time and memory of its own: a table with more is a matrix in the wrong file,
or a file without line ends."""


def _separator(path: Path, text: str) -> str:
    first_line = re.sub('"[^"]*"', "", text.lstrip("\n").partition("\n")[0])
    mark = next((mark for mark in "\t;," if mark in first_line), ",")
    if (count := first_line.count(mark) + 1) > MOST_COLUMNS:
        raise ValueError(f"{path}: has {count} columns, expected at most {MOST_COLUMNS}")
    return mark


def _text_rows(path: Path) -> list[list[str]]:
    text = read_text(path)
    mark = _separator(path, text)
    try:
        if mark == "\t":  # in messages a lone quotation mark is common: it would swallow rows
            cells = csv.reader(StringIO(text), delimiter=mark, quoting=csv.QUOTE_NONE)
        else:
            cells = csv.reader(StringIO(text), delimiter=mark, strict=True)
        rows = [[cell.strip() for cell in row] for row in cells if row]
    except csv.Error as error:
        raise ValueError(f"{path}: is not a table: {error}") from error
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{path}: data row {number} has {len(row)} cells, expected {len(rows[0])}"
            )
    return rows


def _json_lines(path: Path) -> list[dict[str, str]]:
    """The objects as strings by name; null and NaN are empty."""
    records: list[dict[str, str]] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=lambda constant: None)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is {line!r:.40}, expected a JSON object")
        records.append({name: "" if cell is None else str(cell) for name, cell in record.items()})
    return records
