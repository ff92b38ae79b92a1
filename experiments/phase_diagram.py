"""Where gradients vanish and where they explode: the plane of weight scale and input strength.

Run: python -m experiments.phase_diagram --config=configs/phase_diagram.py --workdir=runs/NAME

h_t = tanh(h_{t-1} U + x_t) with U_ij ~ N(0, g^2 / N) and white x_t of variance v, independent in
every unit. Mean field predicts the slope of ln ||dL/ds_t|| against the lag, ln(chi) / 2, and the
line chi = 1 where gradients neither vanish nor explode; both are measured in networks of some
widths. Poole et al. (2016); Schoenholz et al. (2017); Chen, Pennington and Schoenholz (2018).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import ml_collections
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import checks, figures, launch
from experiments.results import Report, Results
from experiments.slopes import first_crossing, fit_window, fitted_slope
from rnn_jax import HiddenState, elman, theory, unroll
from rnn_jax.analysis import gradient_flow
from rnn_jax.sharding import over_replicas

FINE = 60
"""Points of theory along each axis of the plane."""


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "batch")
    checks.seed(config)
    checks.at_least(config, 0, "transient")
    checks.at_least(config, 8, "steps")
    checks.increasing(config, "widths", least=2)
    checks.increasing(config, "gains", "input_variances", least=0)
    for field in ("gains", "input_variances"):
        if len(config[field]) < 2:
            raise ValueError(f"config.{field} must be two or more, got {list(config[field])}")
    if config.gains[0] == 0:
        raise ValueError(f"config.gains must be above 0, got {list(config.gains)}")


def units(config: ml_collections.ConfigDict) -> list[str]:
    """Theory, and one for each width."""
    return ["mean_field", *(f"width-{width}" for width in config.widths)]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """ln-norms of gradients, (seeds, gains, variances, batch, steps + 1); of theory chi."""
    if unit == "mean_field":
        with jax.enable_x64(True):
            return _mean_field(config)
    width = int(unit.removeprefix("width-"))
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    plane = np.meshgrid(config.gains, config.input_variances, indexing="ij")
    points = np.stack([axis.ravel() for axis in plane], axis=1).astype(np.float32)
    program = _program(width, config.batch, config.transient, config.steps)
    log_norm = program(keys, np.broadcast_to(points, (config.seeds, *points.shape)))
    return {"log_norm": log_norm.reshape(config.seeds, *plane[0].shape, *log_norm.shape[2:])}


def _mean_field(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    chi = jax.jit(
        lambda gains, variances: jax.vmap(
            lambda gain: jax.lax.map(
                lambda variance: theory.vanilla_mean_field(gain, variance).chi, variances
            )
        )(gains)
    )
    gains, variances = np.array(config.gains), np.array(config.input_variances)
    fine_gains = np.linspace(gains[0], gains[-1], FINE)
    section_gains = np.linspace(gains[0], gains[-1], 5 * FINE)  # lines show corners, maps do not
    fine_variances = np.linspace(variances[0] ** 0.5, variances[-1] ** 0.5, FINE) ** 2
    critical = jax.jit(lambda variances: jax.lax.map(theory.critical_gain, variances))
    return {
        "chi": np.asarray(chi(gains, variances)),
        "critical_gain": np.asarray(critical(variances)),
        "fine_gains": fine_gains,
        "fine_variances": fine_variances,
        "fine_chi": np.asarray(chi(fine_gains, fine_variances)),
        "section_gains": section_gains,
        "section_chi": np.asarray(chi(section_gains, variances)),
        "fine_critical_gain": np.asarray(critical(fine_variances)),
    }


@functools.cache
def _program(width: int, batch: int, transient: int, steps: int) -> Callable[..., np.ndarray]:
    cell = elman()

    def replica(key: jax.Array, points: jax.Array) -> jax.Array:
        """One matrix, one draw of everything, scaled to each (gain, variance)."""
        keys = jax.random.split(key, 4)
        matrix = jax.random.normal(keys[0], (width, width)) / width**0.5
        # Without input the origin is a fixed point, even of a chaotic network: start elsewhere.
        first = jax.random.normal(keys[1], (batch, width))
        noise = jax.random.normal(keys[2], (batch, transient + steps, width))
        readouts = jax.random.normal(keys[3], (batch, width))
        readouts /= jnp.linalg.norm(readouts, axis=1, keepdims=True)

        def at(point: jax.Array) -> jax.Array:
            gain, variance = point
            params = {
                # An input of its own for every unit: a shared one would have another variance in
                # each, depending on its weights, where mean field has the same.
                "kernel": jnp.sqrt(variance) * jnp.eye(width),
                "recurrent_kernel": gain * matrix,
                "bias": jnp.zeros(width),
            }

            def sample(first: jax.Array, xs: jax.Array, readout: jax.Array) -> jax.Array:
                state, _ = unroll(cell, params, xs[:transient], state=HiddenState(first))
                return gradient_flow(cell, params, xs[transient:], readout, state=state).log_norm

            return jax.vmap(sample)(first, noise, readouts)

        return jax.lax.map(at, points)

    return over_replicas(replica)


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """The plane, measured against predicted slopes, and the depth to which gradients reach."""
    first, last = fit_window(config.steps)
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(
            {"plane": _draw_plane, "agreement": _draw_agreement, "depth": _draw_depth},
            config,
            results,
        ),
        notes=[
            f"tanh, {config.seeds} matrices x {config.batch} sequences, in float32; the state is "
            f"let go for {config.transient} steps. Slopes in nats per step of lag, of a line "
            f"through each seed's median from lag {first} to {last}; error bars are standard "
            "errors over seeds.",
            "Critical gain: where the mean slope crosses zero, between two gains by a straight "
            "line; of mean field that of an infinitely wide network.",
            "Measured less predicted slope: the mean over all gains with chi <= 1 and chi > 1. "
            "Depth: -1 / ln(chi), the steps over which a squared gradient falls by 1 / e.",
        ],
    )


def _slopes(config: ml_collections.ConfigDict, results: Results, width: int) -> np.ndarray:
    """Mean slope and standard error of every (gain, variance): (2, gains, variances)."""
    log_norm = np.moveaxis(results[f"width-{width}"]["log_norm"], 0, 2)
    fits = [[fitted_slope(samples) for samples in row] for row in log_norm]
    return np.moveaxis(np.array(fits), 2, 0)


def _predicted(results: Results) -> np.ndarray:
    return np.log(results["mean_field"]["chi"]) / 2


def _depth(slopes: np.ndarray) -> np.ndarray:
    """-1 / ln(chi) of slopes ln(chi) / 2; NaN where gradients do not vanish."""
    return -1 / (2 * np.where(slopes < 0, slopes, np.nan))


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per width, gain and input variance."""
    predicted = _predicted(results)
    gain, variance = np.meshgrid(config.gains, config.input_variances, indexing="ij")
    for width in config.widths:
        slope, error = _slopes(config, results, width)
        columns = {
            "gain": gain,
            "input_variance": variance,
            "slope": slope,
            "standard_error": error,
            "predicted_slope": predicted,
            "predicted_depth": _depth(predicted),
        }
        frame = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
        frame.insert(0, "width", width)
        yield frame


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    predicted = _predicted(results)
    critical = results["mean_field"]["critical_gain"]
    rows = []
    for width in config.widths:
        slope, _ = _slopes(config, results, width)
        for index, variance in enumerate(config.input_variances):
            difference = (slope - predicted)[:, index]
            chaotic = predicted[:, index] > 0
            means = [
                f"{difference[side].mean():+.4f}" if side.any() else ""
                for side in (~chaotic, chaotic)
            ]
            rows.append(
                {
                    "N": width,
                    "input variance": f"{variance:g}",
                    "critical gain": first_crossing(np.array(config.gains), slope[:, index]),
                    "mean field": f"{critical[index]:.3f}",
                    "measured - predicted, chi <= 1": means[0],
                    "chi > 1": means[1],
                }
            )
    return pd.DataFrame(rows)


def _draw_plane(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Theory and the widest network, in the same colours; lines of equal half-life."""
    figure, axes = figures.panels(2, title="Growth of gradients per step of lag", height=4.2)
    field = results["mean_field"]
    width = config.widths[-1]
    maps = {
        r"mean field, $N\to\infty$": (
            field["fine_gains"], field["fine_variances"], np.log(field["fine_chi"]) / 2,
        ),
        f"measured, $N = {width}$": (
            np.array(config.gains),
            np.array(config.input_variances),
            _slopes(config, results, width)[0],
        ),
    }  # fmt: skip
    # Vanishing is the stronger: half its range keeps the colours of the explosion apart.
    limit = max(np.abs(slopes).max() for _, _, slopes in maps.values()) / 2
    half_lives = np.array([1.0, 2.0, 4.0, 8.0])
    for panel, (title, (gains, variances, slopes)) in zip(axes, maps.items(), strict=True):
        deviations = np.sqrt(variances)
        image = panel.pcolormesh(
            gains, deviations, slopes.T, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True
        )
        lines = panel.contour(
            gains, deviations, slopes.T, -np.log(2) / half_lives, colors="#222222", linewidths=0.7,
            linestyles="-",
        )  # fmt: skip
        labels = dict(zip(lines.levels, (f"{steps:g}" for steps in half_lives), strict=True))
        panel.clabel(lines, fmt=labels, fontsize=7)
        panel.contour(gains, deviations, slopes.T, [0.0], colors="#000000", linewidths=1.6)
        panel.plot(
            field["fine_critical_gain"], np.sqrt(field["fine_variances"]), color="#FFFFFF",
            linestyle="--", linewidth=1.2, path_effects=figures.OUTLINED,
            label=r"theory: $\chi = 1$",
        )  # fmt: skip
        panel.set(title=title, xlabel="gain $g$", xlim=(config.gains[0], config.gains[-1]))
        panel.set_ylim(field["fine_variances"][0] ** 0.5, field["fine_variances"][-1] ** 0.5)
        panel.grid(visible=False)
    axes[0].set_ylabel(r"standard deviation of the input, $\sqrt{v}$")
    label = r"slope of $\ln\,\|\partial L/\partial s_t\|$ (nats per step)"
    figure.colorbar(image, ax=axes, label=label, extend="min", pad=0.01)
    keys = [
        figures.key("half-life (steps)", color="#222222", linewidth=0.7),
        figures.key("slope 0", color="#000000"),
    ]
    figures.common_legend(figure, axes, columns=3, extra=keys)
    return figure


def _draw_agreement(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Measured against predicted above, their difference below; a column for each width."""
    count = len(config.widths)
    figure = Figure(figsize=(max(3.9 * count + 0.8, 6.4), 5.6), layout="constrained")
    title = "Slopes measured and predicted by mean field"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    axes = figure.subplots(
        2, count, squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1)
    )
    predicted = _predicted(results)
    scale = mpl.colors.Normalize(config.gains[0], config.gains[-1])
    colours = mpl.colormaps["viridis_r"]
    for column, width in enumerate(config.widths):
        slope, error = _slopes(config, results, width)
        upper, lower = axes[:, column]
        for index, variance in enumerate(config.input_variances):
            marker = "o" if variance else "s"
            for row, gain in enumerate(config.gains):
                style: dict[str, Any] = {"color": colours(scale(gain)), "marker": marker}
                style |= {"markersize": 4, "elinewidth": 0.8}
                style |= {"yerr": np.nan_to_num(error[row, index])}
                if not variance:
                    style["markerfacecolor"] = "none"
                x, y = predicted[row, index], slope[row, index]
                upper.errorbar(x, y, **style)
                lower.errorbar(x, y - x, **style)
        ends = [predicted.min(), predicted.max()]
        upper.plot(ends, ends, color="#444444", linewidth=0.8, label="equal")
        lower.axhline(0, color="#444444", linewidth=0.8)
        upper.set_title(f"$N = {width}$")
        lower.set_xlabel(r"predicted, $\ln(\chi)\,/\,2$ (nats per step)")
    axes[0, 0].set_ylabel("measured slope\n(nats per step)")
    axes[1, 0].set_ylabel("measured - predicted")
    image = mpl.cm.ScalarMappable(scale, colours)
    figure.colorbar(image, ax=list(axes.ravel()), label="gain $g$", pad=0.01)
    keys = [
        figures.key("with input", marker="o", linestyle="", markersize=4),
        figures.key("no input", marker="s", linestyle="", markersize=4, markerfacecolor="none"),
    ]
    figures.common_legend(figure, axes.ravel(), columns=3, extra=keys)
    return figure


def _draw_depth(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Measured points on theory's lines, up to the critical gain, where the depth diverges."""
    figure, axes = figures.panels(len(config.widths), title="Depth that gradients reach")
    field = results["mean_field"]
    shades = figures.shades(list(config.input_variances))
    for panel, width in zip(axes, config.widths, strict=True):
        slope, error = _slopes(config, results, width)
        # Of a slope within two standard errors of zero nothing is known but that it is small.
        told = slope < -2 * np.nan_to_num(error)
        depth = _depth(np.where(told, slope, np.nan))
        for index, (variance, colour) in enumerate(shades.items()):
            law = _depth(np.log(field["section_chi"][:, index]) / 2)
            panel.plot(field["section_gains"], law, color=colour, linewidth=1.1)
            panel.plot(
                config.gains, depth[:, index], "o", color=colour, markersize=4,
                label=f"$v = {variance:g}$",
            )  # fmt: skip
        panel.set(title=f"$N = {width}$", xlabel="gain $g$", yscale="log")
        panel.set_ylim(top=config.steps)  # deeper than what was run it cannot be measured
    axes[0].set_ylabel(r"$\xi = -1\,/\ln\,\chi$ (steps)")
    figures.common_legend(figure, axes, columns=8, extra=[figures.key("mean field", linewidth=1.1)])
    return figure


EXPERIMENT = launch.Experiment("phase_diagram", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
