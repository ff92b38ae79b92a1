"""Gradient norms and Lyapunov exponents over cell, initialisation, gain, forget bias and length.

Run: python -m experiments.sweep --config=configs/sweep.py --workdir=runs/NAME
then: python -m experiments.explorer --workdir=runs/NAME, a page to look through it.

Every setting sees the same inputs and readouts. What is kept of a curve are the medians over the
samples of each seed and quantiles over all, at some sixty lags: small enough for a page.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import checks, figures, launch
from experiments.gradient_norms import OWN_SCHEME, SCHEMES, TRAJECTORY_THEORY
from experiments.results import Report, Results
from experiments.slopes import fit_window, quantiles, shown_slope, slope_through, spread
from rnn_jax import Cell, theory
from rnn_jax.analysis import gradient_flow, lyapunov_spectrum
from rnn_jax.base import Params
from rnn_jax.cells import CELLS, lookup
from rnn_jax.sharding import over_replicas

SHORTEST = 20
COLUMNS = (
    "cell", "scheme", "gain", "forget_bias", "length", "quantity", "x", "value", "low", "high",
)  # fmt: skip
"""Of results.csv. What a setting does not have, such as the gain of a paper's initialisation, is
empty there. ``x`` is the lag or the index of an exponent; ``low`` and ``high`` are the 10 and 90 %
quantiles of a gradient, one standard error about a slope, the least and the largest exponent of all
seeds."""


class Setting(NamedTuple):
    """How a cell begins. A paper's own initialisation has neither gain nor forget bias."""

    scheme: str
    gain: float = float("nan")
    forget_bias: float = float("nan")


OWN = Setting("orthogonal", 1.0, 0.0)
"""The own initialisation of the cells that have a mean field."""


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "batch", "hidden_size", "input_size", "exponents")
    checks.at_least(config, 0, "burn_in", "tangent_burn_in")
    checks.at_least(config, 32, "steps")
    checks.seed(config)
    checks.different("schemes", config.schemes, SCHEMES)
    checks.increasing(config, "gains", least=0)
    checks.increasing(config, "forget_biases")
    lengths = list(config.lengths)
    if not lengths or lengths != sorted(set(lengths)) or lengths[0] < SHORTEST:
        raise ValueError(
            f"config.lengths must be increasing integers from {SHORTEST}, got {lengths}"
        )
    for field in ("cells", "own_cells"):
        names = (*CELLS, *(name for name in config[field] if ":" in name))  # cells of the user's
        checks.different(field, config[field], names, empty=field == "own_cells")
        for name in config[field]:
            try:
                cell = lookup(name)
                if cell.space:
                    raise ValueError(f"{name} reads pictures, here inputs are vectors")
                for scheme in config.schemes if name in config.cells else ():
                    _check(config, cell, Setting(scheme, 1.0))
            except ValueError as error:
                raise ValueError(f"config.{field}: {error}") from error


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each cell."""
    return [unit_name(cell) for cell in dict.fromkeys((*config.cells, *config.own_cells))]


def unit_name(cell: str) -> str:
    """A colon, which the user's cells have, is none of a file name."""
    return cell.replace(":", "=")


def settings(config: ml_collections.ConfigDict, name: str) -> list[Setting]:
    """All that a cell is measured in, in the order of the arrays of its unit."""
    own = [Setting(OWN_SCHEME)]
    if name not in config.cells:
        return own
    forgets = _has_forget_bias(config, lookup(name))
    biases = config.forget_biases if forgets else [float("nan")]
    return own + [
        Setting(scheme, float(gain), float(bias))
        for scheme in config.schemes
        for gain in config.gains
        for bias in biases
    ]


def kept_lags(length: int) -> np.ndarray:
    """Where a curve is kept: at every lag to 10, and at 50 more over its whole length."""
    even = np.round(np.linspace(0, length, 51)).astype(int)
    return np.union1d(np.arange(min(10, length) + 1), even)


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """Of every setting and length the curves at `kept_lags`, and the exponents.

    `medians_T` (settings, seeds, lags), over samples; `gradient_T` (settings, 3, lags), 10 %,
    median and 90 % over seeds and samples; `theory_T: NAME` (settings, lags), medians over both;
    `lyapunov` (settings, seeds, exponents); `mean_field` (settings,), in nats per step.
    """
    name = unit.replace("=", ":")
    cell = lookup(name)
    grid = settings(config, name)
    drawn = [_draw(config, cell, setting) for setting in grid]
    state, output = _shapes(cell, drawn[0], config.input_size)
    # Replicas are all seeds of all settings.
    params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *drawn)
    seeds = np.tile(np.arange(config.seeds), len(grid))
    results: dict[str, np.ndarray] = {}
    for length in config.lengths:
        measured = _curves(config, cell, name, length, output)(seeds, params)
        for quantity, values in measured.items():
            curves = values.reshape(len(grid), config.seeds, config.batch, length + 1)
            curves = curves[..., length - kept_lags(length)]
            pooled = quantiles(curves, axis=(1, 2))
            if quantity == "gradient":
                results[f"medians_{length}"] = quantiles(curves, axis=2)[1]
                results[f"gradient_{length}"] = np.moveaxis(pooled, 0, 1)
            else:
                results[f"theory_{length}: {quantity}"] = pooled[1]
    exponents = _spectra(config, cell, min(config.exponents, state))(seeds, params)
    results["lyapunov"] = exponents.reshape(len(grid), config.seeds, -1)
    results["mean_field"] = _mean_field(name, grid)
    return results


def inputs(config: ml_collections.ConfigDict, seed: jax.typing.ArrayLike) -> jax.Array:
    """What a seed reads in every setting, (batch, steps, D); shorter runs read the beginning."""
    longest = max(*config.lengths, config.burn_in + config.tangent_burn_in + config.steps)
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    return jax.random.normal(key, (config.batch, longest, config.input_size))


def readouts(
    config: ml_collections.ConfigDict, seed: jax.typing.ArrayLike, output: tuple[int, ...]
) -> jax.Array:
    """A random unit vector for each sequence of a seed, (batch, *output)."""
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    vectors = jax.random.normal(jax.random.fold_in(key, 0), (config.batch, *output))
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def _draw(config: ml_collections.ConfigDict, cell: Cell, setting: Setting) -> Params:
    """Parameters, leading axis seeds."""
    scheme = None
    if setting.scheme != OWN_SCHEME:
        bias = np.nan_to_num(setting.forget_bias)
        scheme = SCHEMES[setting.scheme](setting.gain, float(bias))
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    draw = lambda key: cell.init(key, config.input_size, config.hidden_size, scheme=scheme)
    return jax.vmap(draw)(keys)  # not under jit: most is the same for all cells, and compiled once


def _check(config: ml_collections.ConfigDict, cell: Cell, setting: Setting) -> None:
    """A ValueError where the scheme makes no sense for the cell; draws nothing."""
    jax.eval_shape(lambda: _draw(config, cell, setting))


def _has_forget_bias(config: ml_collections.ConfigDict, cell: Cell) -> bool:
    try:
        _check(config, cell, Setting(config.schemes[0], 1.0, 1.0))
    except ValueError:  # schemes refuse one where no gate keeps the state
        return False
    return True


def _shapes(cell: Cell, params: Params, input_size: int) -> tuple[int, tuple[int, ...]]:
    """How many numbers a state has, and the shape of an output; of parameters of some seeds."""

    def step(params: Params) -> tuple[Any, jax.Array]:
        return cell(params, cell.initial_state(params), jnp.zeros(input_size))

    state, output = jax.eval_shape(step, jax.tree.map(lambda leaf: leaf[0], params))
    return sum(leaf.size for leaf in jax.tree.leaves(state)), output.shape


def _curves(
    config: ml_collections.ConfigDict, cell: Cell, name: str, length: int, output: tuple[int, ...]
) -> Callable[..., dict[str, np.ndarray]]:
    """ln-norms of replicas, (batch, T + 1): of the gradient, and what theory says of its path."""

    def sample(params: Params, xs: jax.Array, readout: jax.Array) -> dict[str, jax.Array]:
        curves = {"gradient": gradient_flow(cell, params, xs, readout).log_norm}
        if name in TRAJECTORY_THEORY:
            label, along = TRAJECTORY_THEORY[name]
            curves[label] = along(params, xs)
        return curves

    def replica(seed: jax.Array, params: Params) -> dict[str, jax.Array]:
        xs, vectors = inputs(config, seed)[:, :length], readouts(config, seed, output)
        return jax.vmap(sample, (None, 0, 0))(params, xs, vectors)

    return over_replicas(replica)


def _spectra(
    config: ml_collections.ConfigDict, cell: Cell, count: int
) -> Callable[..., np.ndarray]:
    """Exponents of replicas, (count,), along the first sequence of each seed."""
    total = config.burn_in + config.tangent_burn_in + config.steps

    def replica(seed: jax.Array, params: Params) -> jax.Array:
        return lyapunov_spectrum(
            jax.random.key(seed),
            cell,
            params,
            inputs(config, seed)[0, :total],
            count=count,
            burn_in=config.burn_in,
            tangent_burn_in=config.tangent_burn_in,
        ).exponents

    return over_replicas(replica)


def _mean_field(name: str, grid: Sequence[Setting]) -> np.ndarray:
    """ln(chi) / 2 of wide networks with untied Gaussian weights, and NaN where there is no theory.

    Inputs have variance 1 and kernels of variance 1 / D, so their part of a pre-activation has 1.
    """
    grid = [OWN if setting.scheme == OWN_SCHEME else setting for setting in grid]
    gains = jnp.array([setting.gain for setting in grid])
    biases = jnp.nan_to_num(jnp.array([setting.forget_bias for setting in grid]))
    at_keep = lambda bias, gates: jnp.zeros(gates).at[1].set(bias)
    embedded = theory.gaussian_mean(lambda z: jnp.tanh(z) ** 2, 1.0)
    fields: Mapping[str, Callable[..., Any]] = {
        "elman": lambda gain, bias: theory.vanilla_mean_field(gain, 1.0),
        "lstm": lambda gain, bias: theory.lstm_mean_field(gain, 1.0, at_keep(bias, 4)),
        "gru": lambda gain, bias: theory.gru_mean_field(gain, 1.0, at_keep(bias, 3)),
        "minimal_rnn": lambda gain, bias: theory.minimal_rnn_mean_field(
            gain, embedded, embedded, bias
        ),
    }
    random = np.array([setting.scheme in ("orthogonal", "gaussian") for setting in grid])
    if name not in fields or not random.any():
        return np.full(len(grid), np.nan)
    chi = jax.jit(
        lambda gains, biases: jax.lax.map(lambda at: fields[name](*at).chi, (gains, biases))
    )
    return np.where(random, np.log(np.asarray(chi(gains, biases))) / 2, np.nan)


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """The table that the explorer reads, and slopes over the whole grid."""
    table = pd.concat(list(_rows(config, results)), ignore_index=True)[list(COLUMNS)]
    return Report(
        table=table,
        summary=_summary(config, results),
        figures=figures.drawings({"slopes": _draw_slopes}, config, results),
        notes=[
            f"{config.hidden_size} units, inputs of variance 1 into kernels of variance 1/D, loss "
            f"<v, s_T> with a random unit v; {config.seeds} seeds x {config.batch} sequences.",
            f"Slopes in nats per step at T = {config.lengths[-1]}, mean ± standard error over "
            "seeds of a line through each seed's median over samples; the flattest is next to 0.",
            f"Largest exponent: mean ± standard error over seeds along {config.steps} steps.",
        ],
    )


def _slope(arrays: Mapping[str, np.ndarray], setting: int, length: int) -> tuple[float, float]:
    """Of one setting, within the window in which all slopes are fitted."""
    at = kept_lags(length)
    first, last = fit_window(length)
    inside = (at >= first) & (at <= last)
    return slope_through(at[inside], arrays[f"medians_{length}"][setting][:, inside])


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row for each point of each curve; for each slope, half-life and exponent."""
    for unit, arrays in results.items():
        name = unit.replace("=", ":")
        for index, setting in enumerate(settings(config, name)):
            about = {"cell": name, **setting._asdict()}
            for length in config.lengths:
                for part in _readings(arrays, index, length):
                    yield pd.DataFrame({**about, "length": length, **part})
            exponents = arrays["lyapunov"][index]
            yield pd.DataFrame(
                {
                    **about,
                    "length": config.lengths[-1],
                    "quantity": "lyapunov",
                    "x": np.arange(1.0, exponents.shape[1] + 1),
                    "value": exponents.mean(axis=0),
                    "low": exponents.min(axis=0),
                    "high": exponents.max(axis=0),
                }
            )


def _readings(
    arrays: Mapping[str, np.ndarray], index: int, length: int
) -> Iterator[dict[str, Any]]:
    """What is known of one setting at one length."""
    at = kept_lags(length).astype(float)
    nothing = np.full(1, np.nan)
    low, middle, high = arrays[f"gradient_{length}"][index]
    yield {"quantity": "gradient", "x": at, "value": middle, "low": low, "high": high}
    slope, error = _slope(arrays, index, length)
    yield {
        "quantity": "slope",
        "x": nothing,
        "value": slope,
        "low": slope - error,
        "high": slope + error,
    }
    half_life = np.log(2) / -slope if slope < 0 else np.nan
    yield {"quantity": "half-life", "x": nothing, "value": half_life, "low": np.nan, "high": np.nan}
    theories = {
        key.partition(": ")[2]: values[index]
        for key, values in arrays.items()
        if key.startswith(f"theory_{length}: ")
    }
    rate = arrays["mean_field"][index]
    if np.isfinite(rate):
        theories["mean field"] = rate * at
    for label, values in theories.items():
        line = {"x": at, "value": values, "low": np.nan, "high": np.nan}
        yield {"quantity": f"theory: {label}", **line}


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    """One row per cell: as its paper has it, and where on the grid its gradient is flattest."""
    rows = []
    length = config.lengths[-1]
    for unit, arrays in results.items():
        name = unit.replace("=", ":")
        grid = settings(config, name)
        slopes = [_slope(arrays, index, length) for index in range(len(grid))]
        steepness = [abs(np.nan_to_num(slope, nan=np.inf)) for slope, _ in slopes]
        flattest = 1 + int(np.argmin(steepness[1:])) if name in config.cells else None
        rows.append(
            {
                "cell": name,
                "slope of its own scheme (nats/step)": shown_slope(*slopes[0]),
                "largest exponent": spread(arrays["lyapunov"][0, :, 0]),
                "flattest on the grid": _described(grid[flattest]) if flattest else "",
                "slope": shown_slope(*slopes[flattest]) if flattest else "",
            }
        )
    return pd.DataFrame(rows)


def _described(setting: Setting) -> str:
    bias = "" if np.isnan(setting.forget_bias) else f", forget bias {setting.forget_bias:g}"
    return f"{setting.scheme}, gain {setting.gain:g}{bias}"


def _draw_slopes(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """A panel for each cell of the grid: slope against gain for every forget bias and scheme."""
    length = config.lengths[-1]
    title = f"Growth of gradients per step of lag over the grid, $T = {length}$"
    columns = min(3, len(config.cells))
    rows = -(-len(config.cells) // columns)
    figure = Figure(figsize=(max(3.2 * columns, 6.4), 1.2 + 2.5 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    colours = {**figures.shades(list(config.forget_biases)), None: "#444444"}
    dashes = dict(zip(config.schemes, ("-", "--", ":", "-."), strict=False))
    for panel, name in itertools.zip_longest(axes.ravel(), config.cells):
        if name is None:
            panel.axis("off")
            continue
        arrays = results[unit_name(name)]
        lines: dict[tuple[str, float | None], dict[float, tuple[float, float]]] = {}
        for index, setting in enumerate(settings(config, name)):
            if setting.scheme == OWN_SCHEME:
                continue
            bias = None if np.isnan(setting.forget_bias) else setting.forget_bias
            line = lines.setdefault((setting.scheme, bias), {})
            line[setting.gain] = (_slope(arrays, index, length)[0], arrays["mean_field"][index])
        for (scheme, bias), line in lines.items():
            style: dict[str, Any] = {"color": colours[bias], "linestyle": dashes[scheme]}
            gains = np.array(list(line))
            slopes, mean_field = np.array(list(line.values())).T
            panel.plot(gains, slopes, marker="o", markersize=2.5, **style)
            if scheme == config.schemes[0]:
                panel.plot(gains, mean_field, "x", color=colours[bias], markersize=5)
        panel.axhline(0, color="#888888", linewidth=0.8)
        panel.set_title(figures.label(name))
    for panel in axes[-1]:
        panel.set_xlabel("gain $g$")
    for panel in axes[:, 0]:
        panel.set_ylabel("slope (nats per step)")
    keys = [figures.key(f"forget bias {b:g}", color=colours[b]) for b in config.forget_biases]
    keys += [figures.key("no forget bias", color=colours[None])]
    keys += [figures.key(scheme, linestyle=dashes[scheme]) for scheme in config.schemes]
    keys += [figures.key("mean field, untied weights", marker="x", linestyle="")]
    figures.common_legend(figure, axes.ravel(), columns=5, extra=keys)
    return figure


EXPERIMENT = launch.Experiment("sweep", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
