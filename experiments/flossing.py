"""Gradient flossing: Lyapunov exponents pushed to zero, and what that does to long Jacobians.

Run: python -m experiments.flossing --config=configs/flossing.py --workdir=runs/NAME

A network is trained on nothing but the penalty mean_i lambda_i^2 of its first exponents, with a new
input sequence and a new frame of tangents for each update. Between updates its whole Lyapunov
spectrum is measured on others; before and after, the singular values of J_{T:T-k}. Engelken (2023).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure

from experiments import checks, figures, launch
from experiments.results import Report, Results
from rnn_jax import schemes
from rnn_jax.analysis import finite_time_spectrum, lyapunov_spectrum
from rnn_jax.base import Params
from rnn_jax.cells import lookup
from rnn_jax.remedies import flossing_penalty
from rnn_jax.sharding import over_replicas


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "hidden_size", "input_size", "updates", "every")
    checks.seed(config)
    checks.at_least(config, 0, "burn_in")
    checks.at_least(config, 32, "steps", "measured_steps")
    checks.increasing(config, "counts", "lags", least=1)
    try:
        lookup(config.cell)
    except ValueError as error:
        raise ValueError(f"config.cell: {error}") from error
    size = _state_size(config)
    if config.counts[-1] > size:
        raise ValueError(
            f"config.counts must be at most {size}, the size of the state, "
            f"got {list(config.counts)}"
        )
    if config.lags[-1] > config.measured_steps:
        raise ValueError(
            f"config.lags must be at most measured_steps = {config.measured_steps}, "
            f"got {list(config.lags)}"
        )
    checks.multiple(config, "updates", "every")
    checks.positive(config, "learning_rate", "clip")
    checks.finite(config, "input_variance", least=0)


def _state_size(config: ml_collections.ConfigDict) -> int:
    cell = lookup(config.cell)
    draw = lambda: cell.init(jax.random.key(0), config.input_size, config.hidden_size)
    state = jax.eval_shape(lambda: cell.initial_state(draw()))
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each number of exponents."""
    return [_unit(count) for count in config.counts]


def _unit(count: int) -> str:
    return f"count-{count}"


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """Exponents (seeds, measurements, S), ln-singular values before and after (seeds, lags, S)."""
    count = int(unit.removeprefix("count-"))
    with jax.enable_x64(True):
        programs = _programs(ml_collections.FrozenConfigDict(config), count)
        keys = jax.random.split(jax.random.key(config.seed), config.seeds)
        now = programs.start(keys)
        measured = [programs.measure(keys, now.params)]
        for _ in range(config.updates // config.every):
            now = programs.train(keys, now)
            measured.append(programs.measure(keys, now.params))
    exponents, log_values, converged = zip(*measured, strict=True)
    return {
        "exponents": np.stack(exponents, axis=1),
        "before": log_values[0],
        "after": log_values[-1],
        "converged": converged[0] & converged[-1],
    }


class _Training(NamedTuple):
    params: Params
    optimiser: Any
    update: jax.Array


class _Programs(NamedTuple):
    """Compiled functions of all seeds."""

    start: Callable[..., _Training]
    train: Callable[..., _Training]
    measure: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


@functools.cache
def _programs(config: ml_collections.FrozenConfigDict, count: int) -> _Programs:
    cell = lookup(config.cell)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates)),
    )
    start, rest = 2 * config.burn_in, 2 * config.measured_steps

    def inputs(key: jax.Array, steps: int) -> jax.Array:
        scale = config.input_variance**0.5
        return scale * jax.random.normal(key, (steps, config.input_size))

    def begin(key: jax.Array) -> _Training:
        scheme = schemes.gaussian()
        shape = config.input_size, config.hidden_size
        params = cell.init(jax.random.fold_in(key, 0), *shape, scheme=scheme, dtype=jnp.float64)
        return _Training(params, optimiser.init(params), jnp.zeros((), jnp.int32))

    def train(key: jax.Array, now: _Training) -> _Training:
        def step(now: _Training, _: None) -> tuple[_Training, None]:
            fresh = jax.random.fold_in(jax.random.fold_in(key, 1), now.update)
            of_inputs, of_frame = jax.random.split(fresh)
            xs = inputs(of_inputs, start + config.steps)

            def penalty(params: Params) -> jax.Array:
                burn_in = {"burn_in": config.burn_in, "tangent_burn_in": config.burn_in}
                return flossing_penalty(of_frame, cell, params, xs, count, **burn_in)

            gradient = jax.grad(penalty)(now.params)
            updates, state = optimiser.update(gradient, now.optimiser)
            return _Training(optax.apply_updates(now.params, updates), state, now.update + 1), None

        return jax.lax.scan(step, now, None, length=config.every)[0]

    def measure(key: jax.Array, params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
        of_inputs, of_frame = jax.random.split(jax.random.fold_in(key, 2))
        xs = inputs(of_inputs, rest + config.measured_steps)
        burn_in = {"burn_in": rest // 2, "tangent_burn_in": rest // 2}
        exponents = lyapunov_spectrum(of_frame, cell, params, xs, **burn_in).exponents
        spectrum = finite_time_spectrum(cell, params, xs, list(config.lags))
        return exponents, spectrum.log_singular_values, spectrum.converged

    return _Programs(over_replicas(begin), over_replicas(train), over_replicas(measure))


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Exponents against updates, and the conditioning of Jacobians against the lag."""
    draw: dict[str, Callable[..., Figure]] = {
        "exponents": _draw_exponents,
        "conditioning": _draw_conditioning,
    }
    unsure = sum(int((~arrays["converged"]).sum()) for arrays in results.values())
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{figures.label(config.cell)}, {config.hidden_size} units, {config.seeds} draws of "
            f"Gaussian weights of gain 1, {config.input_size} inputs of variance "
            f"{config.input_variance:g}; float64.",
            f"Exponents along {config.measured_steps} steps after twice as many, with inputs and a "
            "frame that were not trained on; medians over seeds.",
            f"Singular values that did not converge: {unsure} spectra.",
            *_failed(config, results),
        ],
    )


def _kept(arrays: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Which seeds have finite numbers of all that is flossed, (seeds,)."""
    singular = np.stack([arrays["before"], arrays["after"]], axis=1)[..., :count]
    flossed = _flossed(arrays, count)
    return np.isfinite(flossed).all(axis=(1, 2)) & np.isfinite(singular).all(axis=(1, 2, 3))


def _flossed(arrays: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """The largest exponents, (seeds, measurements, count)."""
    return np.sort(arrays["exponents"], axis=-1)[..., ::-1][..., :count]


def _failed(config: ml_collections.ConfigDict, results: Results) -> Iterator[str]:
    """A line for each unit with seeds that are left out."""
    for count in config.counts:
        failed = int((~_kept(results[_unit(count)], count)).sum())
        if failed:
            yield (
                "Diverged or not resolved, and left out of medians and means: "
                f"{failed} of {config.seeds} seeds with {count} flossed."
            )


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per count, seed, quantity, update or lag, and index."""
    updates = np.arange(0, config.updates + 1, config.every)
    for unit, arrays in results.items():
        for name, at in (("exponents", updates), ("before", config.lags), ("after", config.lags)):
            values = arrays[name]
            seed, place, index = np.indices(values.shape).reshape(3, -1)
            yield pd.DataFrame(
                {
                    "count": int(unit.removeprefix("count-")),
                    "quantity": "exponent" if name == "exponents" else f"ln sigma {name}",
                    "seed": seed,
                    "update" if name == "exponents" else "lag": np.asarray(at)[place],
                    "index": index,
                    "value": values.ravel(),
                }
            )


def _log_condition(values: np.ndarray, count: int) -> np.ndarray:
    """ln(sigma_1 / sigma_count) (seeds, lags): among as many directions as are flossed."""
    return values[..., 0] - values[..., count - 1]


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    rows = []
    for count in config.counts:
        arrays = results[_unit(count)]
        kept = _kept(arrays, count)
        if not kept.any():
            rows.append({"exponents flossed": count, "after": "diverged or not resolved"})
            continue
        flossed = np.abs(_flossed(arrays, count)[kept])
        first, last = np.median(flossed[:, [0, -1]].max(axis=-1), axis=0)
        worst = flossed[:, -1].max()
        row = {
            "exponents flossed": count,
            "largest |lambda_i| before": f"{first:.4f}",
            "after": f"{last:.4f} ({worst:.4f} at worst)",
            "root mean square after": f"{np.sqrt(np.mean(flossed[:, -1] ** 2)):.4f}",
        }
        if count > 1:
            before, after = (
                np.median(_log_condition(arrays[name], count)[kept, -1])
                for name in ("before", "after")
            )
            row |= {
                f"ln condition at lag {config.lags[-1]} before": f"{before:.2f}",
                "ln condition after": f"{after:.2f}",
            }
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _draw_exponents(config: ml_collections.ConfigDict, results: Results) -> Figure:
    figure, axes = figures.panels(
        len(config.counts), title="Flossing brings Lyapunov exponents to zero", width=3.6
    )
    updates = np.arange(0, config.updates + 1, config.every)
    for panel, count in zip(axes, config.counts, strict=True):
        arrays = results[_unit(count)]
        kept = _kept(arrays, count)
        exponents = np.median(arrays["exponents"][kept], axis=0) if kept.any() else np.array([])
        for index, curve in enumerate(figures.finite(exponents).T):
            flossed = index < count
            colour, width = (figures.PALETTE[1], 1.0) if flossed else ("#AAAAAA", 0.6)
            panel.plot(updates, curve, color=colour, linewidth=width, zorder=2 + flossed)
        panel.axhline(0, color="#000000", linewidth=0.8, linestyle="--", zorder=4)
        panel.set(title=f"{count} flossed", xlabel="update")
    axes[0].set_ylabel(r"$\lambda_i$ (nats per step), median over seeds")
    keys = [
        figures.key("flossed", color=figures.PALETTE[1]),
        figures.key("not flossed", color="#AAAAAA"),
        figures.key("target", color="#000000", linestyle="--", linewidth=0.8),
    ]
    figures.common_legend(figure, axes, columns=3, extra=keys)
    return figure


def _draw_conditioning(config: ml_collections.ConfigDict, results: Results) -> Figure:
    counts = [count for count in config.counts if count > 1] or list(config.counts)
    title = "Conditioning of long Jacobians before and after flossing"
    figure, axes = figures.panels(len(counts), title=title, width=3.6, share_y=False)
    styles: dict[str, dict[str, Any]] = {
        name: {"color": colour, "marker": "o", "markersize": 3, "label": f"{name} flossing"}
        for name, colour in zip(("before", "after"), figures.PALETTE, strict=False)
    }
    for panel, count in zip(axes, counts, strict=True):
        arrays = results[_unit(count)]
        kept = _kept(arrays, count)
        for name, style in styles.items() if kept.any() else ():
            values = _log_condition(arrays[name][kept], count)
            figures.band(panel, np.array(config.lags), values, **style)
        panel.set(title=f"{count} flossed", xlabel="lag $k$ (steps)")
    axes[0].set_ylabel(r"$\ln(\sigma_1 / \sigma_m)$, $m$ as many as flossed")
    keys = [figures.key(**style) for style in styles.values()]
    figures.common_legend(figure, [], columns=2, extra=keys)
    return figure


EXPERIMENT = launch.Experiment("flossing", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
