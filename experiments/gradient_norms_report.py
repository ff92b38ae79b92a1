"""Tables and figures of the gradient-norm experiment, from its saved arrays alone."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments import figures
from experiments.results import Report, Results
from experiments.rundir import Arrays
from experiments.slopes import fit_window, fitted_slope, quantiles, shown_slope

LOSSES = {
    "readout": "readout of the last state",
    "last_step": "squared error of the last step",
    "mean_over_steps": "squared error, mean over steps",
}
LOSS_STYLES = {"readout": "-", "last_step": ":", "mean_over_steps": "-"}
# Below the first float32 rounds a value to zero, below the second already its square, so that a
# norm made of squares is reported as exactly zero.
FLOAT32_VALUE = float(np.log(np.finfo(np.float32).tiny))
FLOAT32_SQUARE = FLOAT32_VALUE / 2
THEORY_LABELS = {"g^k": "$g^k$", "sigma bound": r"bound by $\sigma_{\max}$"}
THEORY_STYLES: Mapping[str, Any] = {"g^k": (0, (1, 2)), "sigma bound": (0, (4, 1, 1, 1))}


def unit_name(kind: str, source: str, cell: str) -> str:
    """The unit of a curve, fit for a file name: that of a cell by module path has a colon."""
    return f"{kind}.{source}.{cell}".replace(":", "=")


def unit_parts(unit: str) -> tuple[str, str, str]:
    """What `unit_name` was made of."""
    kind, source, cell = unit.replace("=", ":").split(".", 2)
    return kind, source, cell


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Everything that the experiment says, in long, in short and in pictures."""
    several = len(config.losses) > 1
    wanted: dict[str, tuple[Any, Any]] = {
        "zoo": (_draw_zoo, _is_zoo(config)),
        "gradient_against_lag": (_draw_lags, not _is_zoo(config)),
        "losses": (_draw_losses, several),
        "gradient_against_length": (_draw_lengths, config.lengths),
        "parameter_gradient": (_draw_parameters, config.lengths),
        "presets": (_draw_presets, config.presets),
    }
    draw = {name: function for name, (function, condition) in wanted.items() if condition}
    return Report(
        table=_table(config, results),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=_notes(config),
    )


# ---- Numbers ------------------------------------------------------------------------------------


def _table(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    """Every curve, one row per seed and point: median and 10 and 90 % quantiles over samples."""
    return pd.concat(list(_curves(config, results)), ignore_index=True)


def _curves(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    lengths = np.array(config.lengths)
    for unit, arrays in results.items():
        kind, source, cell = unit_parts(unit)
        about = {"kind": kind, "source": source, "cell": cell}
        for name, values in arrays.items():
            if name in ("parameters", "far_parameters"):
                columns = values[..., None] if values.ndim == 2 else values
                for index in range(columns.shape[-1]):
                    horizon = config.horizons[index] if name == "far_parameters" else 0
                    yield _rows(about, f"{name} beyond lag {horizon}", lengths, columns[..., index])
            elif kind == "length":
                x = lengths if name == "readout" else np.arange(values.shape[-1])
                yield _rows(about, name, x, values)
            else:
                lags = np.arange(values.shape[-1])[::-1]
                yield _rows(about, name, lags, values)


def _rows(about: dict[str, str], quantity: str, x: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """Values (seeds, samples, points), (seeds, points) or (points,), as tidy rows."""
    values = _by_seed(values)
    low, middle, high = quantiles(values, axis=1)
    seeds = np.repeat(np.arange(len(values)), len(x))
    columns = {"median": middle.ravel(), "p10": low.ravel(), "p90": high.ravel()}
    return pd.DataFrame(
        {**about, "quantity": quantity, "seed": seeds, "x": np.tile(x, len(values)), **columns}
    )


def _by_seed(values: np.ndarray) -> np.ndarray:
    """(seeds, samples, points), whichever of the first two axes is missing."""
    return values.reshape(-1, 1, values.shape[-1]) if values.ndim < 3 else values


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    """One row per input and cell: slope, half-life, theory, and where float32 gives up."""
    rows = []
    for unit, arrays in _slowest_first(config, results):
        kind, source, cell = unit_parts(unit)
        if kind != "lag":
            continue
        slope, error = fitted_slope(arrays["readout"])
        first, last = fit_window(config.steps)
        rows.append(
            {
                "input": Path(config.data).name if source.startswith("file-") else source,
                "cell": cell,
                "slope (nats/step)": shown_slope(slope, error),
                "half-life (steps)": _half_life(slope, error),
                "fit window (lags)": f"{first} to {last}",
                "theory (nats/step)": _theory_slopes(arrays),
                "float32 reports 0 from lag": _float32_zero(arrays["readout"], slope),
            }
        )
    return pd.DataFrame(rows)


def _is_zoo(config: ml_collections.ConfigDict) -> bool:
    """Whether there are more cells than colours to tell curves apart."""
    return len(config.cells) > len(figures.PALETTE)


def _slowest_first(
    config: ml_collections.ConfigDict, results: Results
) -> Iterator[tuple[str, Arrays]]:
    """All units; those of a zoo by the half-life of their gradient, the longest first."""
    units = list(results.items())
    if _is_zoo(config):
        units = [(unit, arrays) for unit, arrays in units if unit.startswith("lag")]
        slopes = {unit: fitted_slope(arrays["readout"])[0] for unit, arrays in units}
        units.sort(key=lambda item: np.nan_to_num(-slopes[item[0]], nan=np.inf))
    yield from units


def _half_life(slope: float, error: float) -> str:
    if np.isnan(slope):
        return "none"
    if abs(slope) < 2 * error:
        return "no decay seen"
    return f"{np.log(2) / -slope:.2f}" if slope < 0 else "grows"


def _theory_slopes(arrays: Arrays) -> str:
    slopes = [
        f"{name.removeprefix('theory: ')} {fitted_slope(_by_seed(values))[0]:+.4f}"
        for name, values in arrays.items()
        if name.startswith("theory")
    ]
    return "; ".join(slopes) or "none"


def _float32_zero(log_norms: np.ndarray, slope: float) -> str:
    """The first lag at which the median norm's square underflows; "about" if extrapolated."""
    median = quantiles(log_norms, axis=(0, 1))[1][::-1]
    below = np.flatnonzero(median < FLOAT32_SQUARE)
    if below.size:
        return str(below[0])
    if slope < 0:
        reached = len(median) - 1
        return f"about {reached + (FLOAT32_SQUARE - median[-1]) / slope:.0f}"
    return "never"


def _notes(config: ml_collections.ConfigDict) -> list[str]:
    lengths = f" and up to {max(config.lengths)} (lengths)" if config.lengths else ""
    biases = ", ".join(f"{cell} {bias:g}" for cell, bias in config.forget_bias.items())
    scheme = (
        f"Scheme {config.scheme} with gain {config.gain:g}, forget bias {biases}, other biases 0; "
        "inputs of variance 1 into a kernel of variance 1/D."
    )
    if config.scheme == "own":
        scheme = "Every cell as its own paper initialises it; inputs of variance 1."
    return [
        f"{config.hidden_size} hidden units, {config.seeds} seeds x {config.batch} sequences of "
        f"{config.steps} steps (lags){lengths}, float32.",
        scheme,
        "Slopes: mean ± standard error over seeds of a line through each seed's median over "
        "samples, loss <v, s_T> with a random unit v; theory fitted in the same window.",
    ]


# ---- Figures ------------------------------------------------------------------------------------


def _draw_lags(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """(a) ln ||dL/ds_t|| against lag, theory dashed, the floors of float32 marked."""
    sources = _sources(results, "lag")
    figure, axes = figures.panels(
        len(sources), title="Gradient of a readout of the last state, against lag"
    )
    colour = figures.colours(config.cells)
    lags = np.arange(config.steps + 1)
    for panel, source in zip(axes, sources, strict=True):
        for cell in config.cells:
            arrays = results[unit_name("lag", source, cell)]
            samples = _flat(arrays["readout"])[:, ::-1]
            figures.band(panel, lags, samples, color=colour[cell], label=figures.label(cell))
            for name, values in arrays.items():
                if name.startswith("theory"):
                    _theory_line(panel, cell, name, lags, values, colour[cell])
        _floors(panel)
        panel.set(
            title=_source_label(config, source),
            xlabel="lag $T - t$ (steps)",
            xlim=(0, config.steps),
        )
    axes[0].set_ylabel(r"$\ln\,\|\partial L/\partial s_t\|$ (nats)")
    figures.common_legend(figure, axes, columns=3)
    return figure


def _draw_zoo(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """One row per cell, sorted by half-life: beside it the decay of its gradient with the lag."""
    source = _sources(results, "lag")[0]
    units = [unit for unit, _ in _slowest_first(config, results)]
    rows = [unit for unit in units if unit_parts(unit)[1] == source][::-1]
    slopes = [fitted_slope(results[unit]["readout"]) for unit in rows]
    decays = []
    for unit in rows:
        median = quantiles(_flat(results[unit]["readout"]), axis=0)[1][::-1]
        decays.append(median - median[0])
    names = [figures.label(unit_parts(unit)[2]) for unit in rows]
    return figures.ranked_decays(
        names,
        np.array(slopes),
        np.array(decays),
        title="Gradients of all cells, each as its paper initialises it "
        f"({_source_label(config, source)})",
        floor=FLOAT32_SQUARE,
    )


def _theory_line(
    panel: Axes, cell: str, name: str, lags: np.ndarray, values: np.ndarray, colour: Any
) -> None:
    name = name.removeprefix("theory: ")
    label = f"{figures.label(cell)}: {THEORY_LABELS.get(name, name)}"
    middle = quantiles(_flat(values), axis=0)[1][::-1]
    style = THEORY_STYLES.get(name, "--")
    colour = figures.darker(colour)
    panel.plot(lags, middle, color=colour, linestyle=style, linewidth=1.1, label=label, zorder=3)


def _draw_losses(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """The same networks under three losses: a mean over steps hides that gradients vanish."""
    source = _sources(results, "lag")[0]
    figure, axes = figures.panels(
        len(config.cells), title=f"What the loss shows and hides ({_source_label(config, source)})"
    )
    lags = np.arange(config.steps + 1)
    shades = dict(zip(LOSSES, ("#000000", "#56B4E9", "#D55E00"), strict=True))
    for panel, cell in zip(axes, config.cells, strict=True):
        arrays = results[unit_name("lag", source, cell)]
        for loss, label in LOSSES.items():
            samples = _flat(arrays[loss])[:, ::-1]
            style = {"color": shades[loss], "linestyle": LOSS_STYLES[loss], "label": label}
            figures.band(panel, lags, samples, **style)
        _floors(panel)
        panel.set(title=figures.label(cell), xlabel="lag $T - t$ (steps)", xlim=(0, config.steps))
    axes[0].set_ylabel(r"$\ln\,\|\partial L/\partial s_t\|$ (nats)")
    figures.common_legend(figure, axes, columns=5)
    return figure


def _draw_lengths(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """(b) ln ||dL_T/ds_0|| against T: marks from backward passes, lines from one forward pass."""
    sources = _sources(results, "length")
    figure, axes = figures.panels(
        len(sources), title="Gradient that reaches the initial state, against the length T"
    )
    colour = figures.colours(config.cells)
    lengths = np.array(config.lengths)
    for panel, source in zip(axes, sources, strict=True):
        for cell in config.cells:
            arrays = results[unit_name("length", source, cell)]
            every = figures.finite(quantiles(_flat(arrays["every_length"]), axis=0)[1])
            style: dict[str, Any] = {"color": colour[cell], "linewidth": 1}
            panel.plot(np.arange(len(every)), every, label=figures.label(cell), **style)
            low, middle, high = figures.finite(quantiles(_flat(arrays["readout"]), axis=0))
            spread = (middle - low, high - middle)
            panel.errorbar(lengths, middle, spread, fmt="o", markersize=3.5, capsize=2, **style)
        _floors(panel)
        panel.set(title=_source_label(config, source), xlabel="length $T$ (steps)", xlim=(0, None))
    axes[0].set_ylabel(r"$\ln\,\|\partial L_T/\partial s_0\|$ (nats)")
    line = figures.key("every $T$: tangents of one forward pass, median", linewidth=1)
    marks = figures.key(
        "a backward pass: median, 10 to 90 %", marker="o", linestyle="", markersize=4
    )
    figures.common_legend(figure, axes, columns=3, extra=(line, marks))
    return figure


def _draw_parameters(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """(c) The parameter gradient does not vanish with T; its part from beyond a lag does."""
    source = _sources(results, "length")[0]
    figure, axes = figures.panels(
        len(config.cells),
        title=f"Parameter gradient of the last step's error, and how much of it is far "
        f"({_source_label(config, source)})",
    )
    colour = figures.colours(config.cells)
    lengths = np.array(config.lengths)
    names = ["all lags", *(f"lags of {k} and more" for k in config.horizons)]
    styles = dict(zip(names, itertools.cycle(("-", "--", ":", "-.")), strict=False))
    for panel, cell in zip(axes, config.cells, strict=True):
        arrays = results[unit_name("length", source, cell)]
        far = np.moveaxis(arrays["far_parameters"], -1, 0)
        for name, values in zip(names, (arrays["parameters"], *far), strict=True):
            shown = np.isfinite(values).all(axis=0)
            style = {"color": colour[cell], "linestyle": styles[name], "marker": "o"}
            figures.band(panel, lengths[shown], values[:, shown], markersize=3, **style)
        _floors(panel)
        panel.set(title=figures.label(cell), xlabel="length $T$ (steps)", xscale="log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel(r"$\ln\,\|\partial L_T/\partial\theta\|$ (nats)")
    keys = [figures.key(name, linestyle=style) for name, style in styles.items()]
    figures.common_legend(figure, axes, columns=5, extra=keys)
    return figure


def _draw_presets(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """(d) One cell, six libraries' default initialisations."""
    figure, axes = figures.panels(
        len(config.cells), title="The same cell as six libraries initialise it by default"
    )
    lags = np.arange(config.steps + 1)
    for panel, cell in zip(axes, config.cells, strict=True):
        for index, preset in enumerate(config.presets):
            samples = _flat(results[unit_name("preset", preset, cell)]["readout"])[:, ::-1]
            # Several libraries coincide: unlike dashes keep both visible.
            dashes = (0, (5, 1 + index)) if index % 2 else "-"
            style: dict[str, Any] = {"color": figures.PALETTE[index], "linestyle": dashes}
            figures.band(panel, lags, samples, label=preset, **style)
        _floors(panel)
        panel.set(title=figures.label(cell), xlabel="lag $T - t$ (steps)", xlim=(0, config.steps))
    axes[0].set_ylabel(r"$\ln\,\|\partial L/\partial s_t\|$ (nats)")
    figures.common_legend(figure, axes, columns=8)
    return figure


def _floors(panel: Axes) -> None:
    """What float32 would have shown, where the curves go that far."""
    if panel.get_ylim()[0] > FLOAT32_SQUARE:
        return
    label = "float32 reports a norm of 0 below"
    panel.axhline(FLOAT32_SQUARE, color="#888888", linestyle="-", linewidth=1, label=label)
    if panel.get_ylim()[0] < FLOAT32_VALUE:
        label = "float32 has no such numbers below"
        panel.axhline(FLOAT32_VALUE, color="#888888", linestyle="--", linewidth=1, label=label)


def _flat(values: np.ndarray) -> np.ndarray:
    """Seeds and samples together: (n, points)."""
    return values.reshape(-1, values.shape[-1])


def _sources(results: Results, kind: str) -> list[str]:
    """The inputs that a kind of unit was run on, in order."""
    return list(dict.fromkeys(unit.split(".")[1] for unit in results if unit.startswith(kind)))


def _source_label(config: ml_collections.ConfigDict, source: str) -> str:
    names = {
        "white_noise": "white noise",
        "python_docs": "text: CPython's documentation",
        "digits": "handwritten digits, pixel by pixel",
    }
    return names.get(source, Path(config.data).name)
