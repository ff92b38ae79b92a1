"""Time series: measured ones, and the user's own tables."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax.arguments import check_positive
from rnn_jax.tasks.files import mostly_numbers, number_table, numbers

# A series with more of its values missing would be a series of interpolations.
_MOST_MISSING = 0.1

_DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d.%m.%y"),
    *(f"{form}/%{year}" for form in ("%d/%m", "%m/%d") for year in "Yy"),
    *("%d-%m-%Y", "%m-%d-%Y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d"),
    *("%d-%b-%Y", "%d-%b-%y", "%b-%d-%Y"),
    *(form.format(name) for form in ("%d {} %Y", "{} %d %Y", "{} %d, %Y") for name in ("%b", "%B")),
)
_MONTHS = ("%b %Y", "%B %Y", "%b-%Y", "%b-%y", "%m/%Y", "%m.%Y")
_CLOCKS = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
_DATES = ("ISO8601", *_DAYS, *_MONTHS, *(f"{day} {clock}" for day in _DAYS for clock in _CLOCKS))

# Dates that are numbers, such as 20201231 and 202012.
_COMPACT = {
    r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])": "%Y%m%d",
    r"(19|20)\d\d(0[1-9]|1[0-2])": "%Y%m",
}

_TIME_NAMES = {"year", "month", "date", "time", "datetime", "timestamp"}


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
    r"""A column of the user's own table, by the steps of its times.

    The separator is the first of tab, semicolon and comma that the first line holds outside quotes;
    beside semicolons a comma is the decimal mark. A first row without a number is a header; columns
    without a name are called "1", "2" and so on by their place; 1,234.5 may stand for 1234.5, as
    `rnn_jax.tasks.files.number_table` says.

    Rows are sorted by time. Times are numbers or dates, all of one form: 2020-12-31 or any other
    form of ISO 8601; 31.12.2020; day and month in either order, which some day above 12 must tell,
    in 31/12/2020 and 31-12-2020; 31-Dec-2020, 31 December 2020, Dec 31, 2020; years of two digits;
    months alone, 12/2020 or Dec 2020; a time of day after a date. Without a time, rows are taken in
    order and numbered from 1.

    Where more than half of the times follow each other by the median step or within a tenth of it,
    longer ones count as so many steps, and those without a row are missing. Of days, the days of
    the week that have less than half as many rows as another, such as those of weekends, are no
    steps. At irregular times each row is a step.

    Missing is such a step, an empty cell or one that says NA, NaN or null. Missing values at the
    ends are dropped; those between are filled on a line between their neighbours, a tenth of all at
    most.

    Args:
      path: the table, UTF-8.
      column: the one to forecast; by default the only one whose filled cells are mostly numbers.
      time: the column of times; by default the first one whose cells are mostly dates, else one
        called year, month, date, time, datetime or timestamp, else, where ``column`` is given,
        another one of numbers that rise or fall from each row to the next by steps as above.
      unit: of the values, for axes.
      period: steps of a season or cycle, such as 7 for days with weeks; None for none.

    Raises:
      TypeError: for a period that is no integer.
      ValueError: for a period below 1. One line naming the path: for a file that cannot be read or
        is no table of two rows; for a column that is not there, is not numeric, has a cell that is
        no finite number, or does not vary; where several could be meant; for too many missing
        values; for a time that is missing, not understood, or there twice; for dates whose day and
        month could be exchanged; without times, for a column of text that looks like them: all
        cells different and with a digit.

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
    if len(table) < 2:
        raise ValueError(f"{path}: has {len(table)} rows of data, expected at least two")
    numeric = [*table.columns[mostly_numbers(table)]]
    for argument, name in (("column", column), ("time", time)):
        if name is not None and name not in table:
            raise ValueError(f"{path}: {argument} is {name!r}, expected one of {list(table)}")
    if time is None:
        time = _time_column(path, table, numeric, column)
    column = _value_column(path, table, [name for name in numeric if name != time], column, time)

    cells, values = table[column], numbers(table[column]).to_numpy()
    for row in np.flatnonzero(cells.notna() & ~np.isfinite(values))[:1]:
        raise ValueError(
            f"{path}: data row {row + 1}, column {column!r}: expected a finite number or an "
            f"empty cell, got {cells.iat[row]!r:.40}"
        )
    where = f"{path}: column {column!r}"
    times = np.arange(1, len(table) + 1)
    if time is not None:
        times = _times(path, table[time])
        order = np.argsort(times)
        values, times = _every_step(f"{where} by {time!r}", values[order], times[order])
    return _filled(column, values, times, unit, period, where=where)


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
    if len(places) < 2:
        raise ValueError(f"{where}: has {len(places)} values, expected at least two")
    within = slice(places[0], places[-1] + 1)
    values, times, known = values[within], times[within], ~np.isnan(values[within])
    if (missing := len(values) - len(places)) > _MOST_MISSING * len(values):
        raise ValueError(
            f"{where}: {missing} of {len(values)} values are missing, expected at most "
            f"{_MOST_MISSING:.0%}"
        )
    if np.ptp(values[known]) == 0:
        raise ValueError(f"{where}: is {values[0]} throughout, expected values that vary")
    values = np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
    return Series(name, values, known, times, unit, period)


def _dates(cells: Any, form: str) -> np.ndarray:
    """Cells as dates to the second in UTC, NaT for what is no date of this form."""
    import pandas as pd

    dates = pd.to_datetime(cells, format=form, errors="coerce", utc=True)
    return dates.dt.tz_localize(None).to_numpy("datetime64[s]")


def _readings(cells: Any) -> list[np.ndarray]:
    """The cells as dates of each form that reads one of the first filled ones."""
    first = cells.dropna()[:50]
    forms = [form for form in _DATES if not np.isnat(_dates(first, form)).all()]
    return [_dates(cells, form) for form in forms]


def _mostly_dates(cells: Any) -> bool:
    read = max((np.sum(~np.isnat(dates)) for dates in _readings(cells)), default=0)
    return bool(2 * read > cells.count())


def _compact_form(cells: Any) -> str | None:
    """The form of dates that are numbers, None for other cells."""
    fits = (form for digits, form in _COMPACT.items() if cells.str.fullmatch(digits).eq(True).all())
    return next(fits, None)


def _time_column(path: Path, table: Any, numeric: list[str], column: str | None) -> str | None:
    """The column that holds the times, None for none; not ``column``, nor the only one."""
    others = [name for name in table if name != column and table[name].count()]
    if column is None and len(others) == 1:
        return None
    named = [name for name in others if name.strip().lower() in _TIME_NAMES]
    text = [name for name in others if name not in numeric]
    for name in (*named, *others):
        if _mostly_dates(table[name]) if name in text else _compact_form(table[name]):
            return name
    lost = [
        name
        for name in text
        if table[name].is_unique and table[name].str.contains(r"\d").eq(True).all()
    ]
    for name in (*named, *lost):
        if name in numeric:
            return name
        if numeric:
            cell = table[name].dropna().iat[0]
            raise ValueError(
                f"{path}: column {name!r} looks like times, but {cell!r:.40} is in no form that is "
                "understood: write 2024-12-31, name the column of times with time, or leave this "
                "one out"
            )
    if column is not None:
        for name in (name for name in others if name in numeric):
            steps = np.diff(numbers(table[name]).to_numpy())
            one_way = np.all(steps > 0) or np.all(steps < 0)
            if one_way and np.isfinite(steps).all() and _usual(np.abs(steps)):
                return name
    return None


def _value_column(
    path: Path, table: Any, candidates: list[str], column: str | None, time: str | None
) -> str:
    """The numeric column that is meant, which is no column of times."""
    if column in candidates or (column is None and len(candidates) == 1):
        return column or candidates[0]
    if column is None and candidates:
        raise ValueError(
            f"{path}: several columns are numeric ({', '.join(candidates)}): choose one with column"
        )
    if column is not None and column == time:
        raise ValueError(f"{path}: column and time are both {column!r}, expected two columns")
    wrong = []
    for name in [column] if column is not None else [name for name in table if name != time]:
        for row, cell in table[name][numbers(table[name]).isna()].dropna()[:1].items():
            wrong.append((name, row, cell))
    # Rather a cell with digits, a number with something beside it.
    wrong.sort(key=lambda cell: not re.search(r"\d", cell[2]))
    has = [f"{name!r} has {cell!r:.40} in data row {row + 1}" for name, row, cell in wrong]
    why = has[0] if has else "cells are empty"
    if column is not None:
        raise ValueError(f"{path}: column is {column!r}, which is not numeric: {why}")
    beside = "" if time is None else f" beside the times {time!r}"
    raise ValueError(f"{path}: no column is numeric{beside}: {why}")


def _usual(lengths: np.ndarray) -> float:
    """The median of lengths (N,), 0 if not more than half of them are within a tenth of it."""
    usual = float(np.median(lengths))
    return usual if np.mean(np.abs(lengths - usual) <= 0.1 * usual) > 0.5 else 0.0


def _every_step(where: str, values: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and sorted times with the steps that have no row, whose values are NaN."""
    lengths = np.diff(times).astype(float)
    if times.dtype.kind == "M":
        days = times.astype("datetime64[D]")
        if np.all(days[1:] > days[:-1]) and np.median(np.diff(days).astype(int)) < 7:
            # Day 0 of the epoch was a Thursday, 3 as the mask counts.
            rows = np.bincount((days.astype(int) + 3) % 7, minlength=7)
            lengths = np.busday_count(days[:-1], days[1:], 2 * rows >= rows.max()).astype(float)
    usual = _usual(lengths)
    if not usual:
        return values, times
    steps = np.maximum(1, np.rint(lengths / usual)).astype(int)
    places = np.concatenate([[0], np.cumsum(steps)])
    count = places[-1] + 1
    if (missing := count - len(values)) > _MOST_MISSING * count:
        widest = steps.argmax()
        raise ValueError(
            f"{where}: {missing} of {count} steps have no row, the most in succession between "
            f"{times[widest]} and {times[widest + 1]}; expected at most {_MOST_MISSING:.0%}: add "
            "rows, or leave the times out, so that each row is a step"
        )
    every = np.full(count, np.nan)
    every[places] = values
    dates = times.dtype.kind == "M"
    between = np.interp(np.arange(count), places, times.astype(int) if dates else times)
    every_time = (np.rint(between) if times.dtype.kind in "iM" else between).astype(times.dtype)
    every_time[places] = times
    return every, every_time


def _times(path: Path, cells: Any) -> np.ndarray:
    """Numbers if all cells are, else dates; all different."""
    times = numbers(cells).to_numpy()
    if form := _compact_form(cells):
        times = _dates(cells, form)
    elif np.isfinite(times).all():
        if np.all(times == np.round(times)):
            times = times.astype(int)
    else:
        readings = _readings(cells) or [_dates(cells, "ISO8601")]
        times = min(readings, key=lambda dates: np.sum(np.isnat(dates)))
        for row in np.flatnonzero(np.isnat(times))[:1]:
            raise ValueError(
                f"{path}: data row {row + 1}, time column {cells.name!r}: expected a number or a "
                f"date such as 2020-12-31, as in the other rows, got {cells.iat[row]!r:.40}"
            )
        for other in readings:
            for row in np.flatnonzero(other != times)[:1] if not np.isnat(other).any() else ():
                one, two = (dates[row].astype("datetime64[D]") for dates in (times, other))
                raise ValueError(
                    f"{path}: all dates in column {cells.name!r} can be read in two ways, "
                    f"{cells.iat[row]!r} as {one} or {two}: write them as 2024-12-31"
                )
    distinct, counts = np.unique(times, return_counts=True)
    if len(distinct) < len(times):
        raise ValueError(
            f"{path}: time column {cells.name!r} has {distinct[counts > 1][0]} "
            f"{counts.max()} times, expected each time once: tell them apart, or leave it out"
        )
    return times
