"""A single unit with feedback: where its fixed points appear, and what gradients do there.

Run: python -m experiments.bifurcation --config=configs/bifurcation.py --workdir=runs/NAME

h_t = phi(w h_{t-1} + b) for phi = sigmoid (Doya 1993; Pascanu, Mikolov and Bengio 2013, figure 3)
and phi = tanh, the latch of Bengio, Simard and Frasconi (1994). For each weight the fixed points
are searched for over a range of biases, the two biases at which their number changes are found by
bisection, and the gradient over many steps is measured for every initial state. In float64.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import checks, figures, launch
from experiments.results import Report, Results
from experiments.rundir import in_name
from rnn_jax import HiddenState, elman, theory
from rnn_jax.analysis import bifurcation_scan, gradient_flow

ACTIVATIONS = ("sigmoid", "tanh")
MOST = 3  # fixed points of such a unit
CANDIDATES = 41
BISECTIONS = 30


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.seed(config)
    checks.at_least(config, 2, "biases", "states")
    checks.at_least(config, 1, "steps")
    checks.increasing(config, "sigmoid_weights", "tanh_weights", least=0)
    for field, least in (("sigmoid_weights", 4), ("tanh_weights", 1)):
        if min(config[field]) <= least:
            raise ValueError(
                f"config.{field} must be above {least}, where a unit has three fixed points, "
                f"got {min(config[field])}"
            )
    checks.positive(config, "margin")


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each activation and weight."""
    weights = {"sigmoid": config.sigmoid_weights, "tanh": config.tanh_weights}
    return [f"{name}-{in_name(weight)}" for name in ACTIVATIONS for weight in weights[name]]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """Branches over the biases, measured and predicted saddle-nodes, and a map of gradients."""
    activation, weight = _parts(unit)
    with jax.enable_x64(True):
        predicted = _saddle_nodes(activation, weight)
        width = predicted[1] - predicted[0]
        low, high = predicted + config.margin * width * np.array([-1, 1])
        biases = np.linspace(low, high, config.biases)
        points, factors = _branches(activation, weight, biases)
        middle = predicted.mean()
        states = _initial_states(activation, config.states)
        return {
            "biases": biases,
            "points": points,
            "factors": factors,
            "predicted": predicted,
            "measured": np.array([_bisect(activation, weight, end, middle) for end in (low, high)]),
            "states": states,
            "log_gradient": _gradients(activation, weight, biases, states, config.steps),
        }


def _params(weight: float, bias: jax.Array) -> dict[str, jax.Array]:
    return {
        "kernel": jnp.zeros((1, 1)),
        "recurrent_kernel": jnp.full((1, 1), float(weight)),
        "bias": jnp.reshape(bias, 1),
    }


def _saddle_nodes(activation: str, weight: float) -> np.ndarray:
    """What theory says: the two biases between which there are three fixed points."""
    if activation == "sigmoid":
        return np.asarray(theory.sigmoid_saddle_nodes(weight))
    threshold = float(theory.tanh_latch(weight).threshold)
    return np.array([-threshold, threshold])


def _initial_states(activation: str, count: int) -> np.ndarray:
    """Over the range of the activation."""
    return np.linspace(0.0 if activation == "sigmoid" else -1.0, 1.0, count)


def _search(activation: str, weight: float, biases: np.ndarray) -> list[Any]:
    candidates = HiddenState(jnp.asarray(_initial_states(activation, CANDIDATES))[:, None])
    return bifurcation_scan(
        elman(activation),
        functools.partial(_params, weight),
        jnp.asarray(biases),
        jnp.zeros(1),
        candidates,
        separation=1e-7,
    )


def _branches(activation: str, weight: float, biases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fixed points and their factors dh_t/dh_{t-1}, (biases, 3), ascending, NaN where there is
    none."""
    points = np.full((len(biases), MOST), np.nan)
    factors = points.copy()
    for row, found in enumerate(_search(activation, weight, biases)):
        here = found.states.hidden[found.fixed, 0]
        order = np.argsort(here)[:MOST]
        points[row, : len(order)] = here[order]
        factors[row, : len(order)] = found.eigenvalues[found.fixed, 0].real[order]
    return points, factors


def _bisect(activation: str, weight: float, outside: float, inside: float) -> float:
    """The bias at which three fixed points become one."""
    for _ in range(BISECTIONS):
        middle = (outside + inside) / 2
        (found,) = _search(activation, weight, np.array([middle]))
        if found.fixed.sum() > 1:
            inside = middle
        else:
            outside = middle
    return (outside + inside) / 2


def _gradients(
    activation: str, weight: float, biases: np.ndarray, states: np.ndarray, steps: int
) -> np.ndarray:
    """ln |dh_T/dh_0| for every initial state and bias, (states, biases)."""

    def at(state: jax.Array, bias: jax.Array) -> jax.Array:
        start = HiddenState(jnp.reshape(state, 1))
        xs = jnp.zeros((steps, 1))
        params = _params(weight, bias)
        return gradient_flow(elman(activation), params, xs, jnp.ones(1), state=start).log_norm[0]

    each = jax.vmap(jax.vmap(at, (None, 0)), (0, None))
    return np.asarray(jax.jit(each)(states, biases))


def _parts(unit: str) -> tuple[str, float]:
    activation, weight = unit.split("-", 1)
    return activation, float(weight)


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """The biases of the bifurcations, branches of fixed points, and maps of gradients."""
    draw = {"branches": _draw_branches, "gradients": _draw_gradients}
    return Report(
        table=pd.concat(list(_rows(results)), ignore_index=True),
        summary=_summary(results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"Found by bisection on the number of fixed points, from {CANDIDATES} initial states "
            "each; largest gradient: of the last state by the first, over "
            f"{config.steps} steps, {config.biases} biases and {config.states} initial states."
        ],
    )


def _rows(results: Results) -> Iterator[pd.DataFrame]:
    """One row per activation, weight, bias and fixed point."""
    for unit, arrays in results.items():
        activation, weight = _parts(unit)
        there = np.isfinite(arrays["points"])
        bias = np.broadcast_to(arrays["biases"][:, None], there.shape)
        yield pd.DataFrame(
            {
                "activation": activation,
                "weight": weight,
                "bias": bias[there],
                "fixed_point": arrays["points"][there],
                "factor": arrays["factors"][there],
            }
        )


def _summary(results: Results) -> pd.DataFrame:
    rows = []
    for unit, arrays in results.items():
        activation, weight = _parts(unit)
        error = np.max(np.abs(arrays["measured"] - arrays["predicted"]))
        rows.append(
            {
                "activation": activation,
                "weight": f"{weight:g}",
                "three fixed points for b in": "{:.5f} to {:.5f}".format(*arrays["measured"]),
                "theory": "{:.5f} to {:.5f}".format(*arrays["predicted"]),
                "largest difference": f"{error:.1e}",
                "largest ln gradient": f"{np.max(arrays['log_gradient']):+.2f}",
            }
        )
    return pd.DataFrame(rows)


def _title(unit: str) -> str:
    activation, weight = _parts(unit)
    return f"{activation}, $w = {weight:g}$"


def _draw_branches(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Stable and unstable branches in two colours; predicted saddle-nodes as vertical lines."""
    del config
    figure, axes = figures.panels(
        len(results), title="Fixed points of a unit with feedback", width=2.6, share_y=False
    )
    colours = {"stable": figures.PALETTE[1], "unstable": figures.PALETTE[0]}
    for panel, (unit, arrays) in zip(axes, results.items(), strict=True):
        for kind, colour in colours.items():
            chosen = (np.abs(arrays["factors"]) < 1) == (kind == "stable")
            points = np.where(chosen, arrays["points"], np.nan)
            bias = np.broadcast_to(arrays["biases"][:, None], points.shape)
            panel.plot(bias.ravel(), points.ravel(), ".", color=colour, markersize=2.5)
        for bias in arrays["predicted"]:
            panel.axvline(bias, color="#444444", linestyle="--", linewidth=1, label="theory")
        panel.set(title=_title(unit), xlabel="bias $b$")
    axes[0].set_ylabel("fixed point $h^*$")
    # Lines in the legend, where dots as fine as those of the branches are hardly seen.
    keys = [figures.key(kind, color=colour) for kind, colour in colours.items()]
    figures.common_legend(figure, axes, columns=3, extra=keys)
    return figure


def _draw_gradients(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """The gradient explodes along the border between two basins of attraction."""
    figure, axes = figures.panels(
        len(results),
        title=f"Gradient of the state after {config.steps} steps by the first one",
        width=2.6,
        share_y=False,
    )
    values = [figures.finite(arrays["log_gradient"]) for arrays in results.values()]
    # A point of the grid may lie on the border itself: it alone must not set the scale.
    top = max(1.0, *(float(np.nanquantile(one, 0.999)) for one in values))
    for panel, (unit, arrays), shown in zip(axes, results.items(), values, strict=True):
        image = panel.pcolormesh(
            arrays["biases"], arrays["states"], shown, cmap="RdBu_r", vmin=-top, vmax=top,
            rasterized=True,
        )  # fmt: skip
        unstable = np.where(np.abs(arrays["factors"]) > 1, arrays["points"], np.nan)
        middle = np.nanmax(np.where(np.isnan(unstable), -np.inf, unstable), axis=1)
        panel.plot(
            arrays["biases"], figures.finite(middle), "k--", linewidth=1,
            label="unstable fixed point",
        )  # fmt: skip
        panel.set(title=_title(unit), xlabel="bias $b$")
        panel.grid(visible=False)
    axes[0].set_ylabel("initial state $h_0$")
    bar = figure.colorbar(image, ax=axes, extend="both", pad=0.01)
    bar.set_label(r"$\ln\,|\partial h_T/\partial h_0|$ (nats)")
    figures.common_legend(figure, axes, columns=1)
    return figure


EXPERIMENT = launch.Experiment("bifurcation", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
