"""The results of a sweep as one page to look through, in any browser and without a network.

    python -m experiments.explorer --workdir=runs/NAME [--output=FILE.html]

The page is made from the files of a run of `experiments.sweep` alone: results.csv, config.json and
environment.json. Nothing is computed again, and the same files give the same bytes. It holds every
number of results.csv, and plotly.js to draw them.
"""

import base64
import collections
import dataclasses
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import pages
from experiments.rundir import UserError, read_json, write_file

COLUMNS = (
    "cell", "scheme", "gain", "forget_bias", "length", "quantity", "x", "value", "low", "high",
)  # fmt: skip
"""Of results.csv, as `experiments.sweep` writes it."""
CURVES = ("gradient", "lyapunov")
SINGLE = ("slope", "half-life")
THEORY = "theory: "
SCHEMES = {
    "own": "each cell as its own paper has it",
    "spectral_radius": "spectral radius",
}
"""What a person writes for a scheme, where it is not its name."""
DASHES = {
    "mean field": "6px,4px",
    "g^k": "1.5px,2.5px",
    "product of forget gates": "16px,4px",
    "product of update gates": "8px,3px,2px,3px,2px,3px",
    "sigma bound": "10px,4px,2px,4px",
}
"""Lines of theory, as plotly and SVG take them; of others the first of these."""
THEORIES = {"g^k": "gᵏ", "sigma bound": "bound by σₘₐₓ"}
"""What a person writes for a theory, where it is not its name: as `gradient_norms` does."""
LIGHT, DARK = "#ffffff", "#000000"


class Setting(NamedTuple):
    """What a cell was measured in; a paper's own initialisation has neither gain nor forget bias,
    and many cells have no forget bias."""

    cell: str
    scheme: str
    gain: float | None
    forget_bias: float | None
    length: int


class Point(NamedTuple):
    """A row of results.csv, where None is empty."""

    x: float | None
    value: float | None
    low: float | None
    high: float | None


Readings = Mapping[Setting, Mapping[str, Sequence[Point]]]
"""Of each setting, what was measured of it, by quantity."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is read from the run directory of a sweep."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any] | None
    readings: Readings


def write_page(workdir: str, output: str | None) -> None:
    """Writes the page, whole or not at all; nothing else in the run directory changes.

    Args:
      workdir: the run directory of a sweep.
      output: the file to write, whose name ends in .html; None for explorer.html in `workdir`.

    Raises:
      UserError: there is no such run, it is no sweep, it is damaged, or the file cannot be written.
    """
    target = pages.target(workdir, output, "explorer.html")
    write_file(target, page(read_sweep(Path(workdir))).encode(errors="backslashreplace"))
    print(f"Explorer: {target}")


# ----- reading ------------------------------------------------------------------------------------


def read_sweep(path: Path) -> Sweep:
    """Everything that the page shows.

    Raises:
      UserError: `path` is no run directory of a sweep, or a file in it is missing or damaged.
    """
    names = pages.listed(path)
    environment = pages.read_environment(path)
    experiment = (environment or {}).get("experiment", "sweep")
    if experiment != "sweep":
        raise UserError(f"--workdir={path}: a run of {experiment}; the explorer shows one of sweep")
    if "results.csv" not in names:
        raise UserError(
            f"--workdir={path}: has no results.csv yet; the command that began the run finishes it"
        )
    return Sweep(
        name=path.resolve().name,
        config=read_json(path / "config.json"),
        environment=environment,
        readings=read_readings(path / "results.csv"),
    )


def read_readings(path: Path) -> Readings:
    """The rows of results.csv by setting and quantity, in their order."""
    header, *rows = pages.read_csv(path)
    if tuple(header) != COLUMNS:
        raise UserError(f"{path}: expected the columns {', '.join(COLUMNS)}")
    if not rows:
        raise UserError(f"{path}: has no rows")
    found: dict[Setting, dict[str, list[Point]]] = collections.defaultdict(dict)
    seen = set()
    for number, row in enumerate(rows, 1):
        try:
            setting, quantity, point = _parsed(dict(zip(COLUMNS, row, strict=True)))
            if (setting, quantity, point.x) in seen:
                raise ValueError(f"{quantity} a second time")
        except ValueError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        seen.add((setting, quantity, point.x))
        found[setting].setdefault(quantity, []).append(point)
    return found


def _parsed(row: Mapping[str, str]) -> tuple[Setting, str, Point]:
    quantity = row["quantity"]
    if not (quantity in CURVES + SINGLE or quantity.startswith(THEORY)):
        raise ValueError(f"unknown quantity {quantity!r}")
    empty = [name for name in ("cell", "scheme", "length") if not row[name]]
    if empty:
        raise ValueError(f"{empty[0]} is empty")
    length = _number(row, "length")
    if length is None or length < 1 or length % 1:
        raise ValueError(f"length: expected a positive integer, got {row['length']!r}")
    gain, bias, x = (_number(row, name) for name in ("gain", "forget_bias", "x"))
    if any(number is not None and math.isinf(number) for number in (gain, bias, x)):
        raise ValueError("gain, forget_bias and x are finite")
    if (x is None) is not (quantity in SINGLE):
        raise ValueError(f"x of {quantity}: {'expected a number' if x is None else 'not empty'}")
    point = Point(x, *(_number(row, name) for name in ("value", "low", "high")))
    return Setting(row["cell"], row["scheme"], gain, bias, int(length)), quantity, point


def _number(row: Mapping[str, str], name: str) -> float | None:
    """The number in a column, None where it is empty."""
    text = row[name]
    try:
        number = float(text) if text else None
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None
    return None if number is None or math.isnan(number) else number


# ----- what the page is given ---------------------------------------------------------------------


def data(readings: Readings) -> dict[str, Any]:
    """All readings for the script of the page, as they are in results.csv.

    Lags are many and the same for most settings: a curve has the index of its own in `grids`.
    """
    from experiments import figures
    from experiments.gradient_norms_report import FLOAT32_SQUARE, FLOAT32_VALUE

    grids: dict[tuple[float, ...], int] = {}
    colours = figures.colours(list(dict.fromkeys(setting.cell for setting in readings)))
    schemes = dict.fromkeys(setting.scheme for setting in readings)
    theories = dict.fromkeys(name for parts in readings.values() for name in _theories(parts))
    return {
        "cells": [
            {"name": cell, "label": figures.label(cell), **_look(colours, cell)} for cell in colours
        ],
        "schemes": [{"name": name, "label": SCHEMES.get(name, name)} for name in schemes],
        "lengths": sorted({setting.length for setting in readings}),
        "theories": [
            {
                "name": name,
                "label": THEORIES.get(name, name),
                "dash": DASHES.get(name, DASHES["mean field"]),
            }
            for name in theories
        ],
        "floors": {"value": FLOAT32_VALUE, "square": FLOAT32_SQUARE},
        "settings": [_setting(setting, parts, grids) for setting, parts in readings.items()],
        "grids": list(grids),
    }


def _look(colours: Mapping[str, str], cell: str) -> dict[str, Any]:
    """A cell's colour and that of its theory on light and on dark pages, and its mark: cells of one
    colour have different ones, the first of them none."""
    colour = colours[cell]
    before = list(colours).index(cell)
    on_dark = "#e8e8e8" if colour == "#000000" else colour
    return {
        "colour": {"light": colour, "dark": on_dark},
        "theory": {"light": _mixed(colour, DARK), "dark": _mixed(on_dark, LIGHT)},
        "mark": [*colours.values()][:before].count(colour),
    }


def _mixed(colour: str, other: str, share: float = 0.3) -> str:
    """A colour with a share of another one.

    >>> _mixed("#d55e00", "#000000")
    '#954200'
    """
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round((1 - share) * a + share * b):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(part, 16) for part in re.findall("[0-9a-fA-F]{2}", colour)]


def _theories(parts: Iterable[str]) -> list[str]:
    return [name.removeprefix(THEORY) for name in parts if name.startswith(THEORY)]


def _setting(
    setting: Setting, parts: Mapping[str, Sequence[Point]], grids: dict[tuple[float, ...], int]
) -> dict[str, Any]:
    found: dict[str, Any] = setting._asdict()
    for name in CURVES:
        if name in parts:
            found[name] = _curve(parts[name], grids)
    for name in SINGLE:
        if name in parts:
            _, *found[name] = map(_encoded, parts[name][0])
    if _has_zeros(parts.get("gradient", ()), setting.length):
        found["zeros"] = True
    found["theories"] = {
        name: _curve(parts[THEORY + name], grids)
        | {"slope": theory_slope(parts[THEORY + name], setting.length)}
        for name in _theories(parts)
    }
    return found


def _has_zeros(points: Iterable[Point], length: int) -> bool:
    """Whether a median in the window of the slopes is exactly zero: then that of some seed is, and
    for that reason there is no slope."""
    from experiments.slopes import fit_window

    first, last = fit_window(length)
    return any(p.value == -math.inf for p in points if p.x is not None and first <= p.x <= last)


def _curve(points: Sequence[Point], grids: dict[tuple[float, ...], int]) -> dict[str, Any]:
    x, *columns = zip(*sorted(points), strict=True)
    names = ("value", "low", "high")
    return {"x": grids.setdefault(x, len(grids))} | {
        name: packed(column)
        for name, column in zip(names, columns, strict=True)
        if name == "value" or any(number is not None for number in column)
    }


def packed(column: Sequence[float | None]) -> str:
    """Numbers to the last bit, in half the space or less of their digits: the letter of a type and,
    in base64, their bytes. What was measured in float32 needs no more; None is NaN."""
    import numpy as np

    wide = np.array([math.nan if number is None else number for number in column], "<f8")
    with np.errstate(over="ignore"):
        narrow = wide.astype("<f4")
    letter, array = ("f", narrow) if np.array_equal(narrow, wide, equal_nan=True) else ("d", wide)
    return letter + base64.b64encode(array.tobytes()).decode()


def _encoded(number: float | None) -> float | str | None:
    """As JSON has it, which has no infinity."""
    if number is None or math.isfinite(number):
        return number
    return "inf" if number > 0 else "-inf"


def theory_slope(points: Sequence[Point], length: int) -> float | None:
    """Of a line through a curve of theory, in the window of the measured slopes."""
    import numpy as np

    from experiments.slopes import fit_window

    first, last = fit_window(length)
    known = [(p.x, p.value) for p in points if p.x is not None and p.value is not None]
    inside = np.array([(x, value) for x, value in known if first <= x <= last])
    if len(inside) < 2 or not np.isfinite(inside).all():
        return None
    lags, values = inside.T
    return float(np.polyfit(lags, values, 1)[0])


# ----- writing ------------------------------------------------------------------------------------


def page(sweep: Sweep) -> str:
    """The HTML of the page."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    shown = data(sweep.readings)
    recorded = dict(sweep.environment or {})
    starts, command = recorded.pop("starts", []), recorded.pop("command", [])
    # Within a script nothing is escaped but what would end it.
    encoded = json.dumps(shown, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return pages.render(
        "explorer",
        library=get_plotlyjs(),
        images="data: blob:",
        sweep=sweep,
        data=Markup(encoded),
        shown=shown,
        facts=[*_facts(sweep), *pages.facts(sweep.environment)],
        command=pages.command(command),
        workdir=_workdir(command) or f"--workdir={sweep.name}",
        config=pages.fields(sweep.config, "config."),
        environment=pages.fields(recorded),
        starts=len(starts),
    )


def _workdir(command: Any) -> str:
    """The flag by which the run was begun, as a shell takes it."""
    words = command if isinstance(command, list) else []
    return "".join([shlex.quote(str(w)) for w in words if str(w).startswith("--workdir=")][-1:])


def _facts(sweep: Sweep) -> list[str]:
    settings = len({setting._replace(length=0) for setting in sweep.readings})
    lengths = len({setting.length for setting in sweep.readings})
    found = [f"{settings} settings at {lengths} length{'s' if lengths > 1 else ''}"]
    for field, unit in (("seeds", "seeds"), ("batch", "sequences each"), ("hidden_size", "units")):
        if isinstance(sweep.config.get(field), int):
            found.append(f"{sweep.config[field]} {unit}")
    return found


if __name__ == "__main__":
    from experiments import launch

    launch.main(launch.Command("explorer", write_page, flags=("workdir", "output"), uses_jax=False))
