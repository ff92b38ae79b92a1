"""The curse of memory: the longer a unit remembers, the more a small change of it changes.

Run: python -m experiments.parameter_sensitivity --config=configs/parameter_sensitivity.py
         --workdir=runs/NAME

The mean squares of the state and of its derivatives by the eigenvalue, for a linear unit
h_t = lambda h_{t-1} + x_t and for the linear recurrent unit (LRU), measured by forward-mode
differentiation of the cells themselves and compared with closed forms. Zucchet and Orvieto (2024).
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
from rnn_jax import theory, unroll
from rnn_jax.cells import indrnn, lru
from rnn_jax.sharding import over_replicas

REAL = ("state", "sensitivity")
COMPLEX = ("lru: state", "lru: by_nu_log", "lru: by_theta_log")
LABELS = {
    "state": r"$\mathrm{E}\,h^2$",
    "sensitivity": r"$\mathrm{E}\,(\partial h / \partial\lambda)^2$",
    "lru: state": r"$\mathrm{E}\,|z|^2$",
    "lru: by_nu_log": r"$\mathrm{E}\,|\partial z / \partial\nu_{\log}|^2$",
    "lru: by_theta_log": r"$\mathrm{E}\,|\partial z / \partial\theta_{\log}|^2$",
}
MEMORIES = 15
"""So many times 1 / (1 - |lambda|) forget the beginning: a derivative forgets as T |lambda|^T."""


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "batch", "steps")
    checks.seed(config)
    checks.increasing(config, "gaps", "correlations", "phases", least=0)
    if config.gaps[0] <= 0 or config.gaps[-1] >= 1:
        raise ValueError(f"config.gaps must lie between 0 and 1, got {list(config.gaps)}")
    if config.correlations[-1] > 1:
        raise ValueError(f"config.correlations must be at most 1, got {list(config.correlations)}")
    if config.phases[0] <= 0:
        raise ValueError(f"config.phases must be above 0, got {list(config.phases)}")
    if config.steps * config.gaps[0] < MEMORIES:
        raise ValueError(
            f"config.steps must be at least {MEMORIES} / gaps[0], or the slowest unit is not "
            f"stationary at the end, got {config.steps} with {config.gaps[0]:g}"
        )


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each correlation of the inputs."""
    return [_unit(correlation) for correlation in config.correlations]


def _unit(correlation: float) -> str:
    return f"correlation-{in_name(correlation)}"


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """Mean squares at the last step over each batch: (seeds, gaps), of the LRU (.., phases)."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(config.seed), config.seeds)
        correlation = np.full(config.seeds, float(unit.removeprefix("correlation-")))
        program = _program(tuple(config.gaps), tuple(config.phases), config.batch, config.steps)
        return program(keys, correlation)


@functools.cache
def _program(
    gaps: tuple[float, ...], phases: tuple[float, ...], batch: int, steps: int
) -> Callable[..., dict[str, np.ndarray]]:
    def replica(key: jax.Array, correlation: jax.Array) -> dict[str, jax.Array]:
        radii = 1 - jnp.array(gaps)

        def one(key: jax.Array) -> dict[str, jax.Array]:
            xs = correlated_noise(key, correlation, steps)[:, None]
            return squares_of_linear(radii, xs) | squares_of_lru(radii, jnp.array(phases), xs)

        squares = jax.vmap(one)(jax.random.split(key, batch))
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), squares)

    return over_replicas(replica)


def correlated_noise(key: jax.Array, correlation: jax.Array, steps: int) -> jax.Array:
    """Gaussian inputs (T,) of variance 1, each with this correlation with the one before it."""
    first, *noise = jax.random.normal(key, (2, steps))
    fresh = jnp.sqrt(1 - correlation**2) * noise[0]

    def step(x: jax.Array, fresh: jax.Array) -> tuple[jax.Array, jax.Array]:
        return correlation * x + fresh, x

    return jax.lax.scan(step, first[0], fresh)[1]


def squares_of_linear(eigenvalues: jax.Array, xs: jax.Array) -> dict[str, jax.Array]:
    """h^2 and (dh/dlambda)^2 at the last step, one unit for each real eigenvalue."""
    cell = indrnn("identity")

    def final(eigenvalues: jax.Array) -> jax.Array:
        params = {
            "kernel": jnp.ones((1, eigenvalues.size)),
            "recurrent_weight": eigenvalues,
            "bias": jnp.zeros(eigenvalues.size),
        }
        return unroll(cell, params, xs)[0].hidden

    # Units do not see each other: one tangent of ones has all the derivatives.
    state, by_eigenvalue = jax.jvp(final, (eigenvalues,), (jnp.ones_like(eigenvalues),))
    return {"state": state**2, "sensitivity": by_eigenvalue**2}


def squares_of_lru(radii: jax.Array, phases: jax.Array, xs: jax.Array) -> dict[str, jax.Array]:
    """|z|^2, |dz/dnu_log|^2 and |dz/dtheta_log|^2 at the last step, (radii, phases)."""
    shape = radii.size, phases.size
    nu = jnp.broadcast_to(-jnp.log(radii)[:, None], shape).ravel()
    size = nu.size
    fixed = {
        "gamma_log": jnp.log(-jnp.expm1(-2 * nu)) / 2,
        "B_re": jnp.ones((1, size)),
        "B_im": jnp.zeros((1, size)),
        "C_re": jnp.zeros((size, 1)),
        "C_im": jnp.zeros((size, 1)),
        "D": jnp.zeros((1, 1)),
    }
    eigenvalues = {
        "nu_log": jnp.log(nu),
        "theta_log": jnp.log(jnp.broadcast_to(phases, shape).ravel()),
    }

    def final(eigenvalues: dict[str, jax.Array]) -> jax.Array:
        state, _ = unroll(lru(), fixed | eigenvalues, xs)
        return jnp.stack(state)

    zeros, ones = jnp.zeros(size), jnp.ones(size)
    squared = lambda parts: jnp.sum(parts**2, axis=0).reshape(shape)
    squares = {}
    for name in eigenvalues:
        tangent = {other: ones if other == name else zeros for other in eigenvalues}
        state, derivative = jax.jvp(final, (eigenvalues,), (tangent,))
        squares[f"lru: by_{name}"] = squared(derivative)
    return {"lru: state": squared(state)} | squares


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Mean squares against 1 - |lambda|, measured and in closed form."""
    draw: dict[str, Callable[..., Figure]] = {"linear_unit": _draw_linear, "lru": _draw_lru}
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.seeds} seeds x {config.batch} sequences of {config.steps} steps, inputs of "
            "variance 1; mean squares at the last step, float64.",
            "Growth: the exponent p of (1 - |lambda|)^p between the two longest memories, mean ± "
            "standard error over seeds, and in closed form; deviation: the largest from the "
            "closed form, in standard errors over seeds.",
        ],
    )


def _theory(
    config: ml_collections.ConfigDict, correlation: float, gaps: np.ndarray
) -> dict[str, np.ndarray]:
    """The closed forms of what is measured, in the same shapes without the seeds."""
    with jax.enable_x64(True):
        linear = theory.linear_moments(1 - gaps, correlation)
        of_lru = theory.lru_moments(1 - gaps[:, None], np.array(config.phases), correlation)
    values = {name: getattr(linear, name) for name in REAL}
    values |= {name: getattr(of_lru, name.removeprefix("lru: ")) for name in COMPLEX}
    return {name: np.asarray(value) for name, value in values.items()}


def _curves(
    config: ml_collections.ConfigDict, arrays: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Each quantity with the index of its phase and its values (seeds, gaps)."""
    for name in REAL:
        yield name, None, arrays[name]
    for name in COMPLEX:
        for i in range(len(config.phases)):
            yield name, i, arrays[name][..., i]


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per correlation, quantity, phase, gap and seed."""
    for correlation in config.correlations:
        for name, phase, values in _curves(config, results[_unit(correlation)]):
            seeds, points = values.shape
            yield pd.DataFrame(
                {
                    "correlation": correlation,
                    "quantity": name,
                    "phase": np.nan if phase is None else config.phases[phase],
                    "gap": np.tile(config.gaps, seeds),
                    "seed": np.repeat(np.arange(seeds), points),
                    "mean_square": values.ravel(),
                }
            )


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    gaps = np.array(config.gaps)
    rows = []
    for correlation in config.correlations:
        exact = _theory(config, correlation, gaps)
        for name, phase, values in _curves(config, results[_unit(correlation)]):
            predicted = exact[name] if phase is None else exact[name][:, phase]
            rows.append(
                {
                    "correlation": f"{correlation:g}",
                    "mean square of": name,
                    "phase": "" if phase is None else f"{config.phases[phase]:g}",
                    "growth": _growth(gaps, values),
                    "growth: theory": _growth(gaps, predicted[None]),
                    "deviation (s.e.)": _deviation(values, predicted),
                }
            )
    return pd.DataFrame(rows)


def _growth(gaps: np.ndarray, values: np.ndarray) -> str:
    """The exponent between the two smallest gaps, mean and standard error over seeds."""
    if len(gaps) < 2:
        return ""
    exponents = np.log(values[:, 0] / values[:, 1]) / np.log(gaps[0] / gaps[1])
    if len(exponents) < 2:
        return f"{exponents[0]:+.3f}"
    return f"{exponents.mean():+.3f} ± {exponents.std(ddof=1) / len(exponents) ** 0.5:.3f}"


def _deviation(values: np.ndarray, predicted: np.ndarray) -> str:
    if len(values) < 2:
        return ""
    error = values.std(axis=0, ddof=1) / len(values) ** 0.5
    return f"{np.max(np.abs(values.mean(axis=0) - predicted) / error):.1f}"


def _fine(config: ml_collections.ConfigDict) -> np.ndarray:
    return np.geomspace(config.gaps[0], config.gaps[-1], 200)


def _draw(
    config: ml_collections.ConfigDict,
    results: Results,
    names: tuple[str, ...],
    title: str,
    marks: Mapping[Any, str],
) -> Figure:
    """One panel for each quantity; measured points with their spread, closed forms dashed."""
    figure, axes = figures.panels(len(names), title=title, width=3.7, share_y=False)
    shades = figures.shades(list(config.correlations))
    fine = _fine(config)
    for correlation, colour in shades.items():
        exact = _theory(config, correlation, fine)
        for name, phase, values in _curves(config, results[_unit(correlation)]):
            if name not in names:
                continue
            panel = axes[names.index(name)]
            spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
            error = None if spread is None else spread / len(values) ** 0.5
            panel.errorbar(
                config.gaps, values.mean(axis=0), error, color=colour, marker=marks[phase],
                linestyle="none", markersize=4, capsize=2,
            )  # fmt: skip
            line = exact[name] if phase is None else exact[name][:, phase]
            panel.plot(fine, line, "--", color=colour, linewidth=1)
    for panel, name in zip(axes, names, strict=True):
        panel.set(xscale="log", yscale="log", title=LABELS[name], xlabel=r"$1 - |\lambda|$")
        panel.invert_xaxis()  # longer memories to the right
    axes[0].set_ylabel("mean square in the stationary state")
    keys = [figures.key(f"input correlation {c:g}", color=s) for c, s in shades.items()]
    keys.append(figures.key("closed form", linestyle="--", linewidth=1))
    for phase, mark in marks.items():
        of_phase = "" if phase is None else f", phase {config.phases[phase]:g}"
        keys.append(figures.key(f"measured{of_phase}", marker=mark, linestyle="none", markersize=4))
    figures.common_legend(figure, axes, columns=4, extra=keys)
    return figure


def _draw_linear(config: ml_collections.ConfigDict, results: Results) -> Figure:
    title = "A linear unit: the longer its memory, the more its eigenvalue matters"
    return _draw(config, results, REAL, title, {None: "o"})


def _draw_lru(config: ml_collections.ConfigDict, results: Results) -> Figure:
    title = "The LRU: decay rates are tame, phases are not"
    marks = dict(zip(range(len(config.phases)), "osD^v" * 9, strict=False))
    return _draw(config, results, COMPLEX, title, marks)


EXPERIMENT = launch.Experiment("parameter_sensitivity", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
