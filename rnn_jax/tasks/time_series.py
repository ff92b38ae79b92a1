"""Time series: measured ones, and the user's own tables."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax.base import check_positive
from rnn_jax.tasks.files import mostly_numbers, number_table, numbers

# A series with more of its values missing would be a series of interpolations.
_MOST_MISSING = 0.1

_DATES = ("ISO8601", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")


@dataclass(frozen=True)
class Series:
    """Measurements in the order of time, a step from each to the next.

    Attributes:
      name: as a person writes it.
      values: (N,) float64, finite; what is missing lies on a line between its neighbours.
      known: (N,) booleans, False where a value was missing; True at both ends.
      times: (N,) increasing: dates (datetime64), or numbers such as years.
      unit: of the values, "" if none is known.
      period: steps of a season or cycle, None if there is none.
    """

    name: str
    values: np.ndarray
    known: np.ndarray
    times: np.ndarray
    unit: str = ""
    period: int | None = None


def series(name: str) -> Series:
    """A measured series that statsmodels ships; both are in the public domain.

    - "sunspots": mean number of sunspots in each year from 1700 to 2008, N = 309; cycles of about
      11 years.
    - "co2": weekly means of the atmosphere's carbon dioxide at Mauna Loa in ppm, 1958 to 2001,
      N = 2284; seasons on a trend. 59 weeks before 1985, so in the training part, are missing and
      filled as `series_from_csv` says.

    Raises:
      ValueError: for another name.

    >>> sunspots = series("sunspots")
    >>> sunspots.times[-1].item(), sunspots.values[-1].item(), sunspots.period
    (2008, 2.9, 11)
    """
    from statsmodels.datasets import co2, sunspots  # type: ignore[import-untyped]

    if name == "sunspots":
        data = sunspots.load_pandas().data
        values, years = data["SUNACTIVITY"].to_numpy(float), data["YEAR"].to_numpy(int)
        return _filled("sunspots", values, years, "sunspots", 11, where=name)
    if name == "co2":
        data = co2.load_pandas().data["co2"]
        weeks = data.index.to_numpy().astype("datetime64[D]")
        return _filled("CO2 at Mauna Loa", data.to_numpy(float), weeks, "ppm", 52, where=name)
    raise ValueError(f"series: name must be 'sunspots' or 'co2', got {name!r}")


def series_from_csv(
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    time: str | None = None,
    unit: str = "",
    period: int | None = None,
) -> Series:
    r"""A column of the user's own table, one row a step, whatever time lies between rows.

    The separator is the first of tab, semicolon and comma that the first line holds outside quotes;
    beside semicolons a comma is the decimal mark. A first row without a number is a header; columns
    without a name are called "1", "2" and so on by their place.

    Rows are sorted by time. Times are numbers or dates: 2020-12-31 or any other form of ISO 8601,
    31.12.2020, 31/12/2020 or 12/31/2020. Without a time, rows are taken in order and numbered
    from 1.

    Missing is an empty cell or one that says NA, NaN or null. Missing values at the ends are
    dropped; those between are filled on a line between their neighbours, a tenth of all at most.

    Args:
      path: the table, UTF-8.
      column: the one to forecast; by default the only one whose filled cells are mostly numbers.
      time: the column of times; by default the first one whose cells are mostly dates.
      unit: of the values, for axes.
      period: steps of a season or cycle, such as 7 for days with weeks; None for none.

    Raises:
      TypeError: for a period that is no integer.
      ValueError: for a period below 1. One line naming the path: for a file that cannot be read or
        is no table; for a column that is not there, is not numeric, has a cell that is no finite
        number, or does not vary; where several could be meant; for too many missing values; for a
        time that is missing, not understood, or there twice; for dates whose day and month could
        be exchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "shop.csv")
    ...     _ = path.write_text("day;sales\n3.1.2024;8,5\n2.1.2024;6\n1.1.2024;4\n")
    ...     shop = series_from_csv(path)
    >>> shop.name, shop.values.tolist(), str(shop.times[0])
    ('sales', [4.0, 6.0, 8.5], '2024-01-01T00:00:00')
    """
    if period is not None:
        period = check_positive("series_from_csv: period", period)
    path = Path(os.path.expanduser(path))
    table = number_table(path)
    if table.columns.has_duplicates:
        raise ValueError(f"{path}: columns are named {list(table)}, expected no name twice")
    numeric = [*table.columns[mostly_numbers(table)]]
    for argument, name in (("column", column), ("time", time)):
        if name is not None and name not in table:
            raise ValueError(f"{path}: {argument} is {name!r}, expected one of {list(table)}")
    if time is None:
        dated = (name for name in table if name not in numeric and _mostly_dates(table[name]))
        time = next(dated, None)
    candidates = [name for name in numeric if name != time]
    if column is None and len(candidates) == 1:
        column = candidates[0]
    if column is None or column not in candidates:
        raise ValueError(
            f"{path}: column is {column!r}, expected one of its numeric columns {candidates}"
        )

    cells, values = table[column], numbers(table[column]).to_numpy()
    for row in np.flatnonzero(cells.notna() & ~np.isfinite(values))[:1]:
        raise ValueError(
            f"{path}: data row {row + 1}, column {column!r}: expected a finite number or an "
            f"empty cell, got {cells.iat[row]!r:.40}"
        )
    times = np.arange(1, len(table) + 1) if time is None else _times(path, table[time])
    order = np.argsort(times)
    where = f"{path}: column {column!r}"
    return _filled(column, values[order], times[order], unit, period, where=where)


def _filled(
    name: str,
    values: np.ndarray,
    times: np.ndarray,
    unit: str,
    period: int | None,
    *,
    where: str,
) -> Series:
    """The series of values with NaN where they are missing; errors call it ``where``."""
    places = np.flatnonzero(~np.isnan(values))
    if np.ptp(values[places]) == 0:
        raise ValueError(f"{where}: is {values[places[0]]} throughout, expected values that vary")
    within = slice(places[0], places[-1] + 1)
    values, times, known = values[within], times[within], ~np.isnan(values[within])
    if (missing := len(values) - len(places)) > _MOST_MISSING * len(values):
        raise ValueError(
            f"{where}: {missing} of {len(values)} values are missing, expected at most "
            f"{_MOST_MISSING:.0%}"
        )
    values = np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
    return Series(name, values, known, times, unit, period)


def _dates(cells: Any, form: str) -> np.ndarray:
    """Cells as dates to the second in UTC, NaT for what is no date of this form."""
    import pandas as pd

    dates = pd.to_datetime(cells, format=form, errors="coerce", utc=True)
    return dates.dt.tz_localize(None).to_numpy("datetime64[s]")


def _mostly_dates(cells: Any) -> bool:
    read = max(np.sum(~np.isnat(_dates(cells, form))) for form in _DATES)
    return bool(2 * read > cells.count())


def _times(path: Path, cells: Any) -> np.ndarray:
    """Numbers if all cells are, else dates; all different."""
    times = numbers(cells).to_numpy()
    if np.isfinite(times).all():
        if np.all(times == np.round(times)):
            times = times.astype(int)
    else:
        readings = [_dates(cells, form) for form in _DATES]
        times = min(readings, key=lambda dates: np.sum(np.isnat(dates)))
        for row in np.flatnonzero(np.isnat(times))[:1]:
            raise ValueError(
                f"{path}: data row {row + 1}, time column {cells.name!r}: expected a number or a "
                f"date such as 2020-12-31, as in the other rows, got {cells.iat[row]!r:.40}"
            )
        for other in readings:
            if not np.isnat(other).any() and np.any(other != times):
                raise ValueError(
                    f"{path}: day and month of the dates in column {cells.name!r} could be "
                    f"exchanged, expected dates such as {times[0].astype('datetime64[D]')}"
                )
    distinct, counts = np.unique(times, return_counts=True)
    if len(distinct) < len(times):
        raise ValueError(
            f"{path}: time column {cells.name!r} has {distinct[counts > 1][0]} "
            f"{counts.max()} times, expected each time once"
        )
    return times
