"""One look for all figures: one colour per cell everywhere, safe for the colour-blind."""

import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import dates, patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from scipy import optimize  # type: ignore[import-untyped]

# Okabe and Ito's palette; cells beyond the known ones take the colours after them.
PALETTE = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
)
CELL_COLOURS = {"elman": PALETTE[0], "lstm": PALETTE[1], "gru": PALETTE[2]}
CELL_LABELS = {
    "elman": "vanilla RNN",
    "lstm": "LSTM",
    "gru": "GRU",
    "antisymmetric": "AntisymmetricRNN",
    "cayley_rnn": "scoRNN (Cayley)",
    "convlstm": "ConvLSTM",
    "cornn": "coRNN",
    "exprnn": "expRNN",
    "householder_rnn": "oRNN (Householder)",
    "indrnn": "IndRNN",
    "irnn": "IRNN",
    "janet": "JANET",
    "lem": "LEM",
    "lightgru": "LiGRU",
    "lru": "LRU",
    "mgu": "MGU",
    "mingru": "minGRU",
    "minimal_rnn": "minimalRNN",
    "minlstm": "minLSTM",
    "mlstm": "mLSTM",
    "ran": "RAN",
    "rglru": "RG-LRU",
    "rhn": "RHN",
    "s5": "S5",
    "slstm": "sLSTM",
    "ugrnn": "UGRNN",
}
"""What a person writes for a registered name, where it is not the name itself."""
OUTLINED = [patheffects.withStroke(linewidth=2.4, foreground="#000000")]
"""For light lines over coloured maps."""
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 3,  # long enough to tell dashes apart
    "lines.linewidth": 1.6,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A drawing function in the project's style, whatever the caller's is."""

    @functools.wraps(draw)
    def drawn(*args: Any) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args)

    return drawn


def drawings(
    draw: Mapping[str, Callable[..., Figure]], config: Any, results: Any
) -> dict[str, Callable[[], Figure]]:
    """The figures of a report by name, each drawn in the project's style when its turn comes."""
    return {
        name: functools.partial(styled(function), config, results)
        for name, function in draw.items()
    }


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each of some cells, the same in every figure."""
    free = iter([c for c in PALETTE if c not in CELL_COLOURS.values()] * len(names))
    return {name: CELL_COLOURS.get(name) or next(free) for name in names}


def shades(values: Sequence[Any]) -> dict[Any, Any]:
    """A colour for each of some ordered values, from light to dark."""
    scale = mpl.colormaps["viridis_r"]
    return {
        value: scale(0.15 + 0.8 * i / max(len(values) - 1, 1)) for i, value in enumerate(values)
    }


def darker(colour: str) -> tuple[float, ...]:
    """A colour for lines that lie on others of the same hue."""
    return tuple(0.6 * part for part in to_rgb(colour))


def label(cell: str) -> str:
    """A cell's name as a person writes it."""
    return CELL_LABELS.get(cell, cell)


def panels(
    columns: int, *, title: str, width: float = 4.4, height: float = 3.6, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with one row of panels in the project's style."""
    layout = ConstrainedLayoutEngine(wspace=0.06)  # keeps tick labels of neighbours apart
    size = (max(width * columns, 6.4), height)
    figure = Figure(figsize=size, layout=layout)
    figure.suptitle(textwrap.fill(title, int(11 * size[0])), fontsize=11, x=0.01, ha="left")
    axes = figure.subplots(1, columns, sharey=share_y, squeeze=False)[0]
    return figure, list(axes)


def ranked_decays(
    names: Sequence[str], slopes: np.ndarray, decays: np.ndarray, *, title: str, floor: float
) -> Figure:
    """Rows from the bottom up: half-lives on a log axis, and ln-ratios against lag as colours.

    ``slopes`` (n, 2) are nats per step and their standard error, ``decays`` (n, lags) the
    logarithm of the gradient relative to that at lag 0. Colours end at ``floor``.
    """
    figure = Figure(figsize=(9.6, 1.6 + 0.24 * len(names)), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
    rows = np.arange(len(names))
    slope, error = slopes.T
    # Within two standard errors of zero nothing is known but that the decay is slow.
    told = slope < -2 * np.nan_to_num(error)
    half_life = np.log(2) / -np.where(told, slope, np.nan)
    spread = half_life * np.nan_to_num(error / np.abs(slope))
    left.errorbar(half_life, rows, xerr=spread, fmt="o", color=PALETTE[1], markersize=4)
    left.set_xscale("log")
    for row, value in zip(rows, half_life, strict=True):
        if np.isfinite(value):
            left.annotate(
                f"{value:.3g}",
                (value, row),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color="#444444",
            )
        else:
            grows = slope[row] > 2 * np.nan_to_num(error[row])
            text = "grows" if grows else "no decay seen"
            text = "exactly zero" if np.isnan(slope[row]) else text
            left.annotate(
                text,
                (1, row),
                (-4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                ha="right",
                fontsize=7,
                color="#444444",
            )
    left.margins(x=0.25)
    left.set_yticks(rows, names)
    left.set(xlabel="gradient half-life (steps)", ylim=(-0.7, len(names) - 0.3))
    top = max(1.0, float(np.nanmax(np.where(np.isfinite(decays), decays, np.nan))))
    colours = mpl.colormaps["viridis"].with_extremes(bad="#000000")
    image = right.imshow(
        np.where(np.isfinite(decays), decays, np.nan),
        aspect="auto",
        origin="lower",
        cmap=colours,
        vmin=floor,
        vmax=top,
        interpolation="nearest",
    )
    right.set(xlabel="lag $T - t$ (steps)")
    right.grid(visible=False)
    bar = figure.colorbar(image, ax=right, extend="min", pad=0.02)
    zeros = "" if np.isfinite(decays).all() else "; black: exactly zero"
    bar.set_label(r"$\ln\,\|\partial L/\partial s_t\|$ relative to lag 0 (nats)" + zeros)
    return figure


def band(axes: Axes, x: np.ndarray, samples: np.ndarray, **style: Any) -> None:
    """Median and the 10 to 90 % band of samples (n, points), where finite."""
    quantiles = np.quantile(samples, (0.1, 0.5, 0.9), axis=0, method="closest_observation")
    low, middle, high = finite(quantiles)
    axes.plot(x, middle, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def finite(values: np.ndarray) -> np.ndarray:
    """The values, and NaN where they are infinite: no axis can show an exact zero's logarithm."""
    return np.where(np.isfinite(values), values, np.nan)


def common_legend(
    figure: Figure, axes: Iterable[Axes], columns: int, extra: Sequence[Artist] = ()
) -> None:
    """One legend under all panels, every entry once, and ``extra`` entries after them.

    In rows of about one length, of at most ``columns`` entries and no wider than the figure.
    """
    entries: dict[str, Artist] = {}
    for one in axes:
        for handle, name in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    entries |= {str(artist.get_label()): artist for artist in extra}
    style: Any = mpl.rcParams
    size = style["legend.fontsize"]
    # In points: each label, its handle and the space to the next column.
    parts = ("handlelength", "handletextpad", "columnspacing")
    around = size * sum(style[f"legend.{part}"] for part in parts)
    widths = [around + TextPath((0, 0), name, size).get_extents().width for name in entries]
    room = 72 * figure.get_figwidth()
    # The legend fills column after column, each as wide as its widest entry.
    needed = lambda count: sum(part.max() for part in np.array_split(widths, count))
    rows = -(-len(entries) // columns)
    while (columns := -(-len(entries) // rows)) > 1 and needed(columns) > room:
        rows += 1
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def apart(values: np.ndarray, gap: float) -> np.ndarray:
    """The positions nearest to the values, in their order and at least ``gap`` from each other.

    >>> apart(np.array([0.5, 0.5, 2.0]), 1.0).tolist()
    [0.0, 1.0, 2.0]
    """
    order = np.argsort(values, kind="stable")
    room = gap * np.arange(len(values))
    positions = np.empty(len(values))
    positions[order] = optimize.isotonic_regression(values[order] - room).x + room
    return positions


def levels(axes: Axes, values: Mapping[str, float]) -> None:
    """A dashed line at each value, with its name and the value to the right of the axes.

    Names of close values stand below each other. To be drawn last: the axis stays as it is then.
    """
    for value in values.values():
        axes.axhline(value, color="0.4", linestyle="--", linewidth=1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    heights = apart(np.array([*values.values()]), gap=0.055 * (high - low))
    for (name, value), height in zip(values.items(), heights, strict=True):
        axes.annotate(
            f"{name} {value:.3g}",
            (1.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="x-small",
            color="0.3",
            annotation_clip=False,
        )


def date_axis(axes: Axes) -> None:
    """Few dates below the axes, none of which touches another."""
    locator = dates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def key(label: str, **style: Any) -> Line2D:
    """A legend entry for what several colours share, or for one that a whole family has."""
    return Line2D([], [], label=label, **{"color": "#444444", **style})
