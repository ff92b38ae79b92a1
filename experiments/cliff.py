"""The wall in the loss of a recurrent unit, and the gradients at its foot.

Run: python -m experiments.cliff --config=configs/cliff.py --workdir=runs/NAME

x_t = w sigmoid(x_{t-1}) + b from x_0 = 0.5, with the error (sigmoid(x_T) - 0.7)^2: figure 6 of
Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, for several lengths T. Where (w, b) leaves the
basin of the upper fixed point the error jumps, and the gradient grows exponentially with T.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import checks, figures, launch
from experiments.results import Report, Results
from rnn_jax import HiddenState, elman, theory
from rnn_jax.analysis import loss_landscape


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.seed(config)
    checks.at_least(config, 2, "points")
    checks.finite(config, "start", "target")
    checks.increasing(config, "lengths", least=1)
    for field in ("weights", "biases"):
        checks.increasing(config, field)
        if len(config[field]) != 2:
            raise ValueError(f"config.{field} must be two numbers, got {list(config[field])}")


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One surface for each length."""
    return [f"steps-{length}" for length in config.lengths]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """The surface over weights and biases, (points, points)."""
    weights, biases = (_axis(config, field) for field in ("weights", "biases"))
    with jax.enable_x64(True):
        # In terms of h = sigmoid(x) this is h_t = sigmoid(w h_{t-1} + b).
        start = HiddenState(jax.nn.sigmoid(jnp.array([config.start])))
        surface = loss_landscape(
            elman("sigmoid"),
            _params,
            jnp.asarray(weights),
            jnp.asarray(biases),
            jnp.zeros((_length(unit), 1)),
            lambda outputs: (outputs[-1, 0] - config.target) ** 2,
            state=start,
        )
    return {
        "weights": weights,
        "biases": biases,
        "loss": np.asarray(surface.loss),
        "log_gradient": np.asarray(surface.log_gradient_norm),
    }


def _axis(config: ml_collections.ConfigDict, field: str) -> np.ndarray:
    low, high = config[field]
    return np.linspace(low, high, config.points)


def _params(weight: jax.Array, bias: jax.Array) -> dict[str, jax.Array]:
    return {
        "kernel": jnp.zeros((1, 1)),
        "recurrent_kernel": jnp.reshape(weight, (1, 1)),
        "bias": jnp.reshape(bias, 1),
    }


def _length(unit: str) -> int:
    return int(unit.removeprefix("steps-"))


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Both surfaces, and how steep the wall is."""
    draw = {"surface": _draw_surface, "section": _draw_section}
    return Report(
        table=pd.concat(list(_rows(results)), ignore_index=True),
        summary=_summary(results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.points} x {config.points} points, in float64; the gradient is by (w, b).",
            "The last columns are shares of all points.",
        ],
    )


def _rows(results: Results) -> Iterator[pd.DataFrame]:
    """One row per length and point."""
    for unit, arrays in results.items():
        weight, bias = np.meshgrid(arrays["weights"], arrays["biases"], indexing="ij")
        yield pd.DataFrame(
            {
                "steps": _length(unit),
                "weight": weight.ravel(),
                "bias": bias.ravel(),
                "loss": arrays["loss"].ravel(),
                "log_gradient_norm": arrays["log_gradient"].ravel(),
            }
        )


def _summary(results: Results) -> pd.DataFrame:
    rows = []
    for unit, arrays in results.items():
        norm = arrays["log_gradient"]
        steepest = np.unravel_index(np.argmax(norm), norm.shape)
        rows.append(
            {
                "T": _length(unit),
                "largest ln gradient norm": f"{norm.max():+.2f}",
                "at (w, b)": f"({arrays['weights'][steepest[0]]:.3f}, "
                f"{arrays['biases'][steepest[1]]:.3f})",
                "median ln gradient norm": f"{np.median(norm):+.2f}",
                "points with a norm above 1": f"{np.mean(norm > 0):.2%}",
                "above 10": f"{np.mean(norm > np.log(10)):.2%}",
            }
        )
    return pd.DataFrame(rows)


def _draw_surface(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """The loss above, the gradient below; the saddle-nodes of the map as dashed lines."""
    figure = Figure(figsize=(3.4 * len(results) + 1.2, 6.2), layout="constrained")
    figure.suptitle("A wall in the loss, and the gradient on it", fontsize=11, x=0.01, ha="left")
    axes = figure.subplots(2, len(results), sharex=True, sharey=True, squeeze=False)
    top = max(arrays["log_gradient"].max() for arrays in results.values())
    for column, (unit, arrays) in enumerate(results.items()):
        grid = arrays["weights"], arrays["biases"]
        loss = axes[0, column].pcolormesh(
            *grid, arrays["loss"].T, cmap="viridis", vmin=0, rasterized=True
        )
        norm = axes[1, column].pcolormesh(
            *grid, arrays["log_gradient"].T, cmap="RdBu_r", vmin=-top, vmax=top, rasterized=True
        )
        axes[0, column].set_title(f"$T = {_length(unit)}$")
        axes[1, column].set_xlabel("weight $w$")
        for row in (0, 1):
            _saddle_nodes(axes[row, column], config)
    for row in (0, 1):
        axes[row, 0].set_ylabel("bias $b$")
    figure.colorbar(loss, ax=list(axes[0]), label="error $E$", pad=0.01)
    label = r"$\ln\,\|\partial E/\partial(w, b)\|$ (nats)"
    figure.colorbar(norm, ax=list(axes[1]), label=label, extend="min", pad=0.01)
    figures.common_legend(figure, axes.ravel(), columns=1)
    return figure


def _saddle_nodes(panel: Axes, config: ml_collections.ConfigDict) -> None:
    low, high = config.weights
    weights = np.linspace(max(low, 4 + 1e-6), high, 200)
    if weights[0] < high:
        biases = np.array([np.asarray(theory.sigmoid_saddle_nodes(w)) for w in weights])
        style: dict[str, Any] = {"color": "#FFFFFF", "linestyle": "--", "linewidth": 1.2}
        style |= {"path_effects": figures.OUTLINED}
        panel.plot(weights, biases[:, 0], label="saddle-nodes of the map (theory)", **style)
        panel.plot(weights, biases[:, 1], **style)
    panel.set(xlim=config.weights, ylim=config.biases)
    panel.grid(visible=False)


def _draw_section(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Along the bias, at the middle weight: the longer, the steeper."""
    figure, axes = figures.panels(2, title="Across the wall", share_y=False)
    shades = figures.shades(list(results))
    for unit, arrays in results.items():
        row = config.points // 2
        style = {"color": shades[unit], "label": f"T = {_length(unit)}"}
        axes[0].plot(arrays["biases"], arrays["loss"][row], **style)
        axes[1].plot(arrays["biases"], arrays["log_gradient"][row], **style)
    weight = next(iter(results.values()))["weights"][config.points // 2]
    axes[0].set(title=f"error at $w = {weight:.3g}$", xlabel="bias $b$", ylabel="$E$")
    axes[1].set(
        title="gradient norm (nats)",
        xlabel="bias $b$",
        ylabel=r"$\ln\,\|\partial E/\partial(w, b)\|$",
    )
    figures.common_legend(figure, axes, columns=6)
    return figure


EXPERIMENT = launch.Experiment("cliff", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
