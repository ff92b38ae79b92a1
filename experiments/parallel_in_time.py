"""How many iterations of Newton's method a network needs, against its largest Lyapunov exponent.

Run: python -m experiments.parallel_in_time --config=configs/parallel_in_time.py --workdir=runs/NAME

h_t = tanh(h_{t-1} U + x_t W) with U_ij of variance g^2 / N, driven by white noise. All T states are
solved for together, by whole Jacobians, by their diagonals, or damped (`rnn_jax.Newton`). Where
nearby trajectories converge (lambda_1 < 0) the iterations do not depend on T; where they separate,
an error at one step is a larger one later, and the iterations grow with T. Everything in float64.
Lim et al. (2024), arXiv:2309.12252; Gonzalez et al. (2024), arXiv:2407.19115.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import checks, figures, launch
from experiments.results import Report, Results
from experiments.slopes import spread
from rnn_jax import HiddenState, Newton, elman, unroll, unroll_parallel
from rnn_jax.analysis import lyapunov_spectrum
from rnn_jax.base import Params
from rnn_jax.sharding import over_replicas

METHODS = {
    "newton": "Newton (DEER)",
    "quasi_newton": "diagonal Jacobians",
    "damped": "damped (ELK)",
}
EXPONENTS = "exponents"


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "input_size", "iterations")
    checks.at_least(config, 2, "hidden_size")
    checks.seed(config)
    checks.at_least(config, 0, "burn_in")
    checks.at_least(config, 32, "steps")
    checks.increasing(config, "gains", least=0)
    checks.increasing(config, "lengths", least=1)
    checks.different("methods", config.methods, METHODS)
    checks.positive(config, "damping")
    checks.finite(config, "input_variance", least=0)


def units(config: ml_collections.ConfigDict) -> list[str]:
    """The exponents, and one for each method and length."""
    return [EXPONENTS, *(unit_of(m, n) for m in config.methods for n in config.lengths)]


def unit_of(method: str, length: int) -> str:
    """The name of a unit."""
    return f"{method}.{length}"


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """``lambda_1``, or ``iterations``, ``solved`` and ``error``, each (seeds, gains).

    What is solved is the share of the steps. The error is the largest difference from the
    sequential states among the steps that are solved.
    """
    rng = np.random.default_rng([config.seed, config.hidden_size])
    most = max(config.burn_in + config.steps, *config.lengths)
    size = config.hidden_size
    recurrent = rng.standard_normal((config.seeds, size, size)) / size**0.5
    kernel = rng.standard_normal((config.seeds, config.input_size, size))
    kernel *= (config.input_variance / config.input_size) ** 0.5
    hidden = rng.standard_normal((config.seeds, size))
    xs = rng.standard_normal((config.seeds, most, config.input_size))
    with jax.enable_x64(True):
        if unit == EXPONENTS:
            program = _exponents(tuple(config.gains), config.burn_in)
            xs = xs[:, : config.burn_in + config.steps]
        else:
            method, length = unit.split(".")
            program = _iterations(tuple(config.gains), _how(config, method))
            xs = xs[:, : int(length)]
        found = program(recurrent, kernel, hidden, xs)
    return {name: np.asarray(values) for name, values in found.items()}


def _how(config: ml_collections.ConfigDict, method: str) -> Newton:
    return Newton(
        diagonal=method == "quasi_newton",
        damping=config.damping if method == "damped" else 0.0,
        max_iterations=config.iterations,
    )


Measure = Callable[[Params, HiddenState, jax.Array], dict[str, jax.Array]]


def _at_all(gains: tuple[float, ...], measure: Measure) -> Callable[..., dict[str, jax.Array]]:
    def replica(
        recurrent: jax.Array, kernel: jax.Array, hidden: jax.Array, xs: jax.Array
    ) -> dict[str, jax.Array]:
        def at(gain: jax.Array) -> dict[str, jax.Array]:
            bias = jnp.zeros(hidden.shape)
            params = {"kernel": kernel, "recurrent_kernel": gain * recurrent, "bias": bias}
            return measure(params, HiddenState(hidden), xs)

        return jax.lax.map(at, jnp.array(gains))

    return over_replicas(replica)


@functools.cache
def _exponents(gains: tuple[float, ...], burn_in: int) -> Callable[..., dict[str, jax.Array]]:
    def measure(params: Params, state: HiddenState, xs: jax.Array) -> dict[str, jax.Array]:
        key = jax.random.key(0)
        options = {"count": 1, "burn_in": burn_in, "tangent_burn_in": 0}
        result = lyapunov_spectrum(key, elman(), params, xs, state=state, **options)
        return {"lambda_1": result.exponents[0]}

    return _at_all(gains, measure)


@functools.cache
def _iterations(gains: tuple[float, ...], how: Newton) -> Callable[..., dict[str, jax.Array]]:
    def measure(params: Params, state: HiddenState, xs: jax.Array) -> dict[str, jax.Array]:
        _, trajectory, convergence = unroll_parallel(
            elman(), params, xs, state=state, method=how, report=True
        )
        _, sequential = unroll(elman(), params, xs, state=state)
        wrong = jnp.max(jnp.abs(trajectory.outputs - sequential.outputs), axis=1)
        return {
            "iterations": convergence.iterations,
            "solved": jnp.mean(convergence.converged),
            "error": jnp.max(jnp.where(convergence.converged, wrong, 0)),
        }

    return _at_all(gains, measure)


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Iterations against the exponent, for each method and length."""
    draw = {"iterations": _draw_iterations}
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"tanh, {config.hidden_size} units, {config.seeds} matrices, input of variance "
            f"{config.input_variance:g}; at most {config.iterations} iterations, float64. "
            "Iterations: median over seeds, with > where it is the limit for some.",
            "The largest error of a solved step where lambda_1 < 0: "
            f"{_largest_error(config, results):.1e}. Where lambda_1 > 0 rounding errors grow, "
            "those of the sequential states as well.",
        ],
    )


def _largest_error(config: ml_collections.ConfigDict, results: Results) -> float:
    stable = results[EXPONENTS]["lambda_1"] < 0
    errors = (results[unit]["error"][stable] for unit in units(config)[1:])
    return float(np.max(np.concatenate([*errors, np.zeros(1)])))


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per method, length, seed and gain."""
    exponents = results[EXPONENTS]["lambda_1"]
    seed, gain = np.indices(exponents.shape).reshape(2, -1)
    for method in config.methods:
        for length in config.lengths:
            arrays = results[unit_of(method, length)]
            yield pd.DataFrame(
                {
                    "method": method,
                    "length": length,
                    "gain": np.array(config.gains)[gain],
                    "seed": seed,
                    "lambda_1": exponents.ravel(),
                    **{name: arrays[name].ravel() for name in ("iterations", "solved", "error")},
                }
            )


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    rows = []
    for n, gain in enumerate(config.gains):
        row = {"gain": f"{gain:g}", "lambda_1": spread(results[EXPONENTS]["lambda_1"][:, n])}
        for method in config.methods:
            cells = []
            for length in config.lengths:
                arrays = results[unit_of(method, length)]
                beyond = ">" if (arrays["solved"][:, n] < 1).any() else ""
                cells.append(f"{beyond}{np.median(arrays['iterations'][:, n]):.0f}")
            row[f"{METHODS[method]}, T = {', '.join(map(str, config.lengths))}"] = ", ".join(cells)
        rows.append(row)
    return pd.DataFrame(rows)


def _draw_iterations(config: ml_collections.ConfigDict, results: Results) -> Figure:
    title = "Iterations until all steps are solved (dotted: the limit)"
    figure, axes = figures.panels(len(config.methods), title=title)
    axes[0].set_ylabel("iterations")
    exponents = results[EXPONENTS]["lambda_1"]
    for panel, method in zip(axes, config.methods, strict=True):
        panel.set(title=METHODS[method], yscale="log")
        for length, colour in figures.shades(list(config.lengths)).items():
            arrays = results[unit_of(method, length)]
            all_solved = arrays["solved"] == 1
            for which, face in ((all_solved, colour), (~all_solved, "none")):
                panel.scatter(
                    exponents[which],
                    arrays["iterations"][which],
                    s=16,
                    facecolors=face,
                    edgecolors=colour,
                    linewidths=1,
                )
        panel.axvline(0, color="#888888", linewidth=0.8)
        panel.set_xlabel(r"$\lambda_1$ (nats per step)")
    # When all marks are there: a line alone, moved by rounding, would span the axis.
    for panel in axes:
        panel.axhline(config.iterations, color="#888888", linestyle=":", linewidth=1)
    keys = [
        figures.key(f"T = {length}", color=colour, marker="o", linestyle="none")
        for length, colour in figures.shades(list(config.lengths)).items()
    ]
    hollow = {"color": "0.3", "marker": "o", "linestyle": "none", "markerfacecolor": "none"}
    figures.common_legend(
        figure, axes, columns=5, extra=[*keys, figures.key("not solved", **hollow)]
    )
    return figure


EXPERIMENT = launch.Experiment("parallel_in_time", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
