"""A recurrent network uses the same weights at every step; mean-field theory draws them anew.

Run: python -m experiments.tied_vs_untied --config=configs/tied_vs_untied.py --workdir=runs/NAME

For matrices J = a I + b U, U Haar orthogonal, the norm of J^k is compared with that of a product of
k different ones; both have closed forms. For LSTM and GRU the gradient of a network is measured
with one draw of its weights and with a fresh draw at every step, beside the (untied) mean field.
"""

import functools
import math
from collections.abc import Callable, Iterator
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
from experiments.slopes import fitted_slope
from rnn_jax import Cell, schemes, theory
from rnn_jax.analysis import gradient_flow
from rnn_jax.base import Params
from rnn_jax.cells import lookup
from rnn_jax.sharding import over_replicas

KEEPS = {"lstm": 1, "gru": 1}
"""Where the gate that keeps the state stands among the gates."""
GATES = {"lstm": 4, "gru": 3}
FIELDS = {"lstm": theory.lstm_mean_field, "gru": theory.gru_mean_field}


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "batch", "hidden_size", "input_size", "lag")
    checks.seed(config)
    checks.at_least(config, 8, "steps")
    checks.increasing(config, "biases")
    checks.increasing(config, "input_variances", least=0)
    checks.different("cells", config.cells, KEEPS, empty=True)
    for pair in config.matrices:
        if len(pair) != 2 or not all(0 < number < math.inf for number in pair):
            raise ValueError(f"config.matrices must be pairs (a, b) above 0, got {pair}")
    checks.different("matrices", map(tuple, config.matrices), empty=True)


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each pair (a, b), and for each cell, bias and input variance."""
    return list(_parts_by_unit(config))


def _parts_by_unit(config: ml_collections.ConfigDict) -> dict[str, tuple[str, float, float]]:
    """What each unit is of: its kind, then a and b or bias and variance."""
    parts = [("matrix", a, b) for a, b in config.matrices]
    parts += [
        (cell, bias, variance)
        for cell in config.cells
        for variance in config.input_variances
        for bias in config.biases
    ]
    return {f"{kind}_{in_name(a)}_{in_name(b)}": (kind, a, b) for kind, a, b in parts}


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """ln-norms: of matrices (seeds, lag + 1), of gradients (seeds, batch, steps + 1)."""
    kind, first, second = _parts_by_unit(config)[unit]
    if kind == "matrix":
        with jax.enable_x64(True):
            return _matrices(config, first, second)
    return _gradients(config, kind, first, second)


def _matrices(config: ml_collections.ConfigDict, a: float, b: float) -> dict[str, np.ndarray]:
    lags = jnp.arange(config.lag + 1)

    def norms(key: jax.Array, tied: bool) -> jax.Array:
        draw = lambda key: jax.random.orthogonal(key, config.hidden_size)
        eye = jnp.eye(config.hidden_size)
        fixed = draw(key)

        def step(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[Any, jax.Array]:
            product, log_scale = carry
            matrix = a * eye + b * (fixed if tied else draw(key))
            product = matrix @ product
            size = jnp.linalg.norm(product) / config.hidden_size**0.5
            log_scale = log_scale + jnp.log(size)
            return (product / size, log_scale), log_scale

        keys = jax.random.split(jax.random.fold_in(key, 1), config.lag)
        _, logs = jax.lax.scan(step, (eye, jnp.zeros(())), keys)
        return jnp.append(jnp.zeros(1), logs)

    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    measure = jax.jit(
        lambda keys, tied: jax.lax.map(lambda key: norms(key, tied), keys), static_argnums=1
    )
    tied_theory = [theory.tied_identity_plus_random(a, b, k) for k in range(config.lag + 1)]
    return {
        "tied": np.asarray(measure(keys, True)),
        "untied": np.asarray(measure(keys, False)),
        "theory: tied": np.array(tied_theory),
        "theory: untied": np.asarray(theory.untied_identity_plus_random(a, b, lags)),
    }


def _gradients(
    config: ml_collections.ConfigDict, cell: str, bias: float, variance: float
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(config.seed)
    shape = (config.seeds, config.batch)
    xs = rng.standard_normal((*shape, config.steps, config.input_size), np.float32)
    xs *= np.float32(variance**0.5)  # the scheme draws kernels for inputs of variance 1
    readouts = rng.standard_normal((*shape, config.hidden_size), np.float32)
    readouts /= np.linalg.norm(readouts, axis=-1, keepdims=True)
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    program = _program(cell, bias, config.input_size, config.hidden_size, config.steps)
    measured = program(keys, xs, readouts)
    biases = np.zeros(GATES[cell])
    biases[KEEPS[cell]] = bias
    chi = FIELDS[cell](1.0, variance, jnp.asarray(biases)).chi
    return {
        **{name: np.asarray(values) for name, values in measured.items()},
        "theory: untied": np.asarray(theory.gain_power(chi, config.steps) / 2),
    }


@functools.cache
def _program(
    name: str, bias: float, input_size: int, hidden_size: int, steps: int
) -> Callable[..., dict[str, jax.Array]]:
    cell = lookup(name)
    scheme = schemes.gaussian(1.0, bias)
    draw = lambda key: cell.init(key, input_size, hidden_size, scheme=scheme)
    fresh = untied(cell, draw)

    def replica(key: jax.Array, xs: jax.Array, readouts: jax.Array) -> dict[str, jax.Array]:
        params = draw(key)
        keys = jax.random.split(jax.random.fold_in(key, 1), steps)

        def of_tied(xs: jax.Array, readout: jax.Array) -> jax.Array:
            return gradient_flow(cell, params, xs, readout).log_norm

        def of_untied(xs: jax.Array, readout: jax.Array) -> jax.Array:
            pairs: Any = (keys, xs)
            return gradient_flow(fresh, params, pairs, readout).log_norm

        return {
            "tied": jax.vmap(of_tied)(xs, readouts),
            "untied": jax.vmap(of_untied)(xs, readouts),
        }

    return over_replicas(replica)


def untied(cell: Cell, draw: Callable[[jax.Array], Params]) -> Cell:
    """The cell with weights of its own at every step, from a key that comes with the input.

    It reads pairs (key, x); of the parameters only the initial state is made.
    """

    def step(params: Params, state: Any, drive: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        del params
        key, x = drive
        fresh = draw(key)
        return cell.step(fresh, state, cell.project(fresh, x))

    return Cell(f"untied_{cell.name}", cell.init, cell.initial_state, step, read=cell.read)


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Curves against lag, slopes of both, and theory."""
    draw: dict[str, Callable[..., Figure]] = {}
    if config.matrices:
        draw["matrices"] = _draw_matrices
    if config.cells:
        draw["slopes"] = _draw_slopes
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.hidden_size} units, {config.seeds} seeds x {config.batch} sequences; cells "
            "with Gaussian weights of gain 1.",
            "Slopes in nats per step, mean ± standard error over seeds; of matrices the mean rate "
            f"over {config.lag} steps, of gradients a line through each seed's median.",
        ],
    )


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per unit, quantity, seed and lag: the median over samples."""
    for unit, arrays in results.items():
        kind, first, second = _parts_by_unit(config)[unit]
        names = ("a", "b") if kind == "matrix" else ("bias", "input_variance")
        for name, values in arrays.items():
            if values.ndim == 3:
                values = np.median(values, axis=1)[:, ::-1]
            elif kind != "matrix":
                values = values[::-1]
            values = np.atleast_2d(values)
            seeds, points = values.shape
            yield pd.DataFrame(
                {
                    "kind": kind,
                    names[0]: first,
                    names[1]: second,
                    "quantity": name,
                    "seed": np.repeat(np.arange(seeds), points),
                    "lag": np.tile(np.arange(points), seeds),
                    "log_norm": values.ravel(),
                }
            )


def _slope(kind: str, values: np.ndarray) -> tuple[float, float]:
    """Nats per step and standard error over seeds."""
    if kind != "matrix":
        return fitted_slope(values if values.ndim == 3 else values[None, None])
    rates = np.atleast_2d(values)[:, -1] / (values.shape[-1] - 1)
    error = rates.std(ddof=1) / len(rates) ** 0.5 if len(rates) > 1 else float("nan")
    return float(rates.mean()), float(error)


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    rows = []
    for unit, arrays in results.items():
        kind, first, second = _parts_by_unit(config)[unit]
        what = (
            f"a = {first:g}, b = {second:g}"
            if kind == "matrix"
            else (f"bias {first:g}, input variance {second:g}")
        )
        row = {"of": "a I + b U" if kind == "matrix" else kind, "with": what}
        for name in ("tied", "theory: tied", "untied", "theory: untied"):
            if name not in arrays:
                row[name] = ""
                continue
            slope, error = _slope(kind, arrays[name])
            row[name] = f"{slope:+.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")
        rows.append(row)
    return pd.DataFrame(rows)


def _draw_matrices(config: ml_collections.ConfigDict, results: Results) -> Figure:
    figure, axes = figures.panels(
        len(config.matrices), title="Powers of one matrix and products of many", share_y=False
    )
    pairs = [unit for unit in results if unit.startswith("matrix")]
    for panel, unit in zip(axes, pairs, strict=True):
        _, a, b = _parts_by_unit(config)[unit]
        arrays = results[unit]
        lags = np.arange(config.lag + 1)
        for name, colour in (("tied", figures.PALETTE[1]), ("untied", figures.PALETTE[0])):
            figures.band(panel, lags, arrays[name], color=colour, label=f"{name}: measured")
            panel.plot(
                lags, arrays[f"theory: {name}"], "--", color=figures.darker(colour), linewidth=1,
                label=f"{name}: theory",
            )  # fmt: skip
        panel.set(title=f"$J = {a:g}\\,I + {b:g}\\,U$", xlabel="lag $k$ (steps)")
    axes[0].set_ylabel(r"$\ln\,\|J_k \cdots J_1\|_F / \sqrt{N}$ (nats)")
    figures.common_legend(figure, axes, columns=4)
    return figure


def _draw_slopes(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Slopes against the keeping bias; theory of untied weights dashed."""
    figure, axes = figures.panels(
        len(config.cells), title="Slope of the gradient with tied and with untied weights"
    )
    shades = figures.shades(list(config.input_variances))
    marks = {"tied": ("o", "-"), "untied": ("s", ":"), "theory: untied": ("", "--")}
    by_parts = {_parts_by_unit(config)[unit]: arrays for unit, arrays in results.items()}
    for panel, cell in zip(axes, config.cells, strict=True):
        for variance, colour in shades.items():
            for name, (marker, line) in marks.items():
                fits = [_slope(cell, by_parts[cell, b, variance][name]) for b in config.biases]
                slope, error = np.array(fits).T
                panel.errorbar(
                    config.biases, slope, np.nan_to_num(error), color=colour, marker=marker,
                    linestyle=line, markersize=4, capsize=2, linewidth=1.2,
                )  # fmt: skip
        panel.axhline(0, color="#888888", linewidth=0.8)
        panel.set(title=figures.label(cell), xlabel="keeping bias")
    axes[0].set_ylabel("slope (nats per step of lag)")
    keys = [
        figures.key(name, marker=marker, linestyle=line, markersize=4)
        for name, (marker, line) in marks.items()
    ]
    keys += [figures.key(f"input variance {v:g}", color=colour) for v, colour in shades.items()]
    figures.common_legend(figure, axes, columns=5, extra=keys)
    return figure


EXPERIMENT = launch.Experiment("tied_vs_untied", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
