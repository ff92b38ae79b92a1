"""What the forget bias of an LSTM, or the update bias of a GRU, does to its gradients at the start.

Run: python -m experiments.forget_bias --config=configs/forget_bias.py --workdir=runs/NAME

For each bias the gradient of a readout of the last state is measured against the lag, beside the
direct path along the memory (the product of the keeping gates, which is the whole gradient only
where no gate sees the hidden vector) and the same with every recurrent kernel set to zero, where
theory is exact: sigmoid(b)^k without input. Jozefowicz, Zaremba and Sutskever (2015).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
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
from rnn_jax import schemes, theory
from rnn_jax.analysis import gradient_flow
from rnn_jax.base import Params
from rnn_jax.cells import lookup
from rnn_jax.sharding import over_replicas

PATHS: Mapping[str, Callable[..., jax.Array]] = {
    "lstm": theory.forget_path,
    "gru": theory.update_path,
}
SCHEMES = {"orthogonal": schemes.orthogonal, "gaussian": schemes.gaussian}


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "batch", "hidden_size", "input_size")
    checks.seed(config)
    checks.at_least(config, 8, "steps")
    checks.increasing(config, "biases")
    checks.known("scheme", config.scheme, SCHEMES)
    checks.different("cells", config.cells, PATHS)
    checks.positive(config, "gain")
    checks.finite(config, "input_variance", least=0)


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each cell and bias."""
    return [_unit(cell, bias) for cell in config.cells for bias in config.biases]


def _unit(cell: str, bias: float) -> str:
    return f"{cell}.{in_name(bias)}"


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """ln-norms (seeds, batch, steps + 1): of the network, its direct path, and it cut open."""
    cell, bias = unit.split(".", 1)
    rng = np.random.default_rng(config.seed)
    shape = (config.seeds, config.batch)
    xs = rng.standard_normal((*shape, config.steps, config.input_size), np.float32)
    readouts = rng.standard_normal((*shape, config.hidden_size), np.float32)
    readouts /= np.linalg.norm(readouts, axis=-1, keepdims=True)
    scheme = SCHEMES[config.scheme](config.gain, float(bias))
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    made = lookup(cell)
    draw = lambda key: made.init(key, config.input_size, config.hidden_size, scheme=scheme)
    # The scheme draws kernels for inputs of variance 1.
    xs *= np.float32(config.input_variance) ** np.float32(0.5)
    result = _program(cell)(jax.vmap(draw)(keys), xs, readouts)
    return {name: np.asarray(value) for name, value in result.items()}


@functools.cache
def _program(name: str) -> Callable[..., dict[str, jax.Array]]:
    cell = lookup(name)

    def sample(params: Params, xs: jax.Array, readout: jax.Array) -> dict[str, jax.Array]:
        cut = params | {"recurrent_kernel": jnp.zeros_like(params["recurrent_kernel"])}
        return {
            "network": gradient_flow(cell, params, xs, readout).log_norm,
            "direct path": PATHS[name](params, xs),
            "without recurrent kernels": gradient_flow(cell, cut, xs, readout).log_norm,
        }

    def replica(params: Params, xs: jax.Array, readouts: jax.Array) -> dict[str, jax.Array]:
        return jax.vmap(sample, (None, 0, 0))(params, xs, readouts)

    return over_replicas(replica)


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Curves against lag, and half-lives against the bias."""
    draw = {"against_lag": _draw_lags, "half_life": _draw_half_lives}
    return Report(
        table=pd.concat(list(_rows(results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.scheme} scheme of gain {config.gain:g}, {config.hidden_size} units, "
            f"inputs of variance {config.input_variance:g}, "
            f"{config.seeds} seeds x {config.batch} sequences.",
            "Slopes in nats per step, mean ± standard error over seeds of a line through each "
            "seed's median; ln sigmoid(b) is exact where no gate sees input or hidden vector.",
        ],
    )


def _rows(results: Results) -> Iterator[pd.DataFrame]:
    """One row per cell, bias, quantity, seed and lag: quantiles over samples."""
    for unit, arrays in results.items():
        cell, bias = unit.split(".", 1)
        for name, values in arrays.items():
            low, middle, high = np.quantile(
                values, (0.1, 0.5, 0.9), axis=1, method="closest_observation"
            )
            seeds, points = middle.shape
            yield pd.DataFrame(
                {
                    "cell": cell,
                    "bias": float(bias),
                    "quantity": name,
                    "seed": np.repeat(np.arange(seeds), points),
                    "lag": np.tile(np.arange(points)[::-1], seeds),
                    "median": middle.ravel(),
                    "p10": low.ravel(),
                    "p90": high.ravel(),
                }
            )


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    rows = []
    for unit, arrays in results.items():
        cell, bias = unit.split(".", 1)
        slopes = {name: fitted_slope(values) for name, values in arrays.items()}
        shown = {name: f"{slope:+.4f} ± {error:.4f}" for name, (slope, error) in slopes.items()}
        rows.append(
            {"cell": cell, "bias": bias, **shown, "ln sigmoid(b)": f"{_log_keep(float(bias)):+.4f}"}
        )
    return pd.DataFrame(rows)


def _log_keep(bias: float) -> float:
    return float(-np.logaddexp(0, -bias))


def _draw_lags(config: ml_collections.ConfigDict, results: Results) -> Figure:
    figure, axes = figures.panels(
        len(config.cells), title="Gradient of a readout of the last state, by keeping bias"
    )
    lags = np.arange(config.steps + 1)
    for panel, cell in zip(axes, config.cells, strict=True):
        for bias, colour in figures.shades(list(config.biases)).items():
            arrays = results[_unit(cell, bias)]
            flat = {
                name: values.reshape(-1, values.shape[-1])[:, ::-1]
                for name, values in arrays.items()
            }
            figures.band(panel, lags, flat["network"], color=colour, label=f"bias {bias:g}")
            middle = figures.finite(np.median(flat["direct path"], axis=0))
            panel.plot(lags, middle, color=colour, linestyle="--", linewidth=1)
        panel.set(title=figures.label(cell), xlabel="lag $T - t$ (steps)", xlim=(0, config.steps))
    axes[0].set_ylabel(r"$\ln\,\|\partial L/\partial s_t\|$ (nats)")
    line = figures.key("product of the keeping gates", linestyle="--", linewidth=1)
    figures.common_legend(figure, axes, columns=7, extra=(line,))
    return figure


def _draw_half_lives(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Slope against bias: what the gates alone say, and what the network does."""
    figure, axes = figures.panels(len(config.cells), title="Decay per step against keeping bias")
    styles: dict[str, dict[str, Any]] = {
        "network": {"marker": "o", "linestyle": "-"},
        "direct path": {"marker": "s", "linestyle": "--"},
        "without recurrent kernels": {"marker": "^", "linestyle": ":"},
    }
    fine = np.linspace(min(config.biases), max(config.biases), 200)
    for panel, cell in zip(axes, config.cells, strict=True):
        for index, (name, style) in enumerate(styles.items()):
            fits = [fitted_slope(results[_unit(cell, bias)][name]) for bias in config.biases]
            slope, error = np.array(fits).T
            panel.errorbar(
                config.biases, slope, np.nan_to_num(error), label=name, markersize=4,
                color=figures.PALETTE[index], capsize=2, **style,
            )  # fmt: skip
        exact = [_log_keep(bias) for bias in fine]
        panel.plot(fine, exact, "k-", linewidth=0.8, label=r"$\ln\,\sigma(b)$")
        panel.axhline(0, color="#888888", linewidth=0.8)
        panel.set(title=figures.label(cell), xlabel="keeping bias $b$")
    axes[0].set_ylabel("slope (nats per step of lag)")
    figures.common_legend(figure, axes, columns=4)
    return figure


EXPERIMENT = launch.Experiment("forget_bias", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
