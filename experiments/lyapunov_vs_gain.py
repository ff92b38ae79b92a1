"""The Lyapunov spectrum of a vanilla network against its gain: from order to chaos.

Run: python -m experiments.lyapunov_vs_gain --config=configs/lyapunov_vs_gain.py --workdir=runs/NAME

h_t = phi(h_{t-1} U + x_t W) with U_ij of variance g^2 / N, autonomous or driven by white noise of
a given variance. Every seed draws one matrix, which all gains scale. Computed in float64: the
exponents of a chaotic network are further apart than float32 resolves in one step.
"""

import functools
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
from experiments.slopes import first_crossing, spread
from rnn_jax import HiddenState, elman, theory
from rnn_jax.analysis import LyapunovResult, lyapunov_spectrum
from rnn_jax.cells import ACTIVATIONS
from rnn_jax.sharding import over_replicas

KEPT = ("exponents", "standard_error", "resolved", "kaplan_yorke", "entropy_rate")


def validate(config: ml_collections.ConfigDict) -> None:
    """Everything that can be wrong with a configuration."""
    checks.at_least(config, 1, "seeds", "input_size")
    checks.seed(config)
    checks.at_least(config, 0, "burn_in", "tangent_burn_in", "exponents")
    checks.at_least(config, 32, "steps")
    checks.increasing(config, "widths", least=2)
    checks.increasing(config, "gains", "input_variances", least=0)
    checks.increasing(config, "shown_gains", least=0)
    checks.known("activation", config.activation, ACTIVATIONS)
    if not set(config.shown_gains) <= set(config.gains):
        raise ValueError(
            f"config.shown_gains must be some of the gains {list(config.gains)}, "
            f"got {list(config.shown_gains)}"
        )


def units(config: ml_collections.ConfigDict) -> list[str]:
    """One for each width and input variance."""
    return [
        _unit(width, variance) for variance in config.input_variances for width in config.widths
    ]


def run_unit(config: ml_collections.ConfigDict, unit: str) -> dict[str, np.ndarray]:
    """The fields of `LyapunovResult` that are kept, (seeds, gains, ...)."""
    width, variance = _parts(unit)
    count = min(config.exponents or width, width)
    total = config.burn_in + config.tangent_burn_in + config.steps
    rng = np.random.default_rng([config.seed, width])
    recurrent = rng.standard_normal((config.seeds, width, width)) / width**0.5
    kernel = rng.standard_normal((config.seeds, config.input_size, width))
    hidden = rng.standard_normal((config.seeds, width))
    xs = rng.standard_normal((config.seeds, total, config.input_size))
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(config.seed), config.seeds)
        program = _program(
            config.activation, tuple(config.gains), count, config.burn_in, config.tangent_burn_in
        )
        scale = (variance / config.input_size) ** 0.5
        result = program(keys, recurrent, scale * kernel, hidden, xs)
    return {name: np.asarray(value) for name, value in result.items()}


@functools.cache
def _program(
    activation: str, gains: tuple[float, ...], count: int, burn_in: int, tangent_burn_in: int
) -> Callable[..., dict[str, jax.Array]]:
    cell = elman(activation)

    def replica(
        key: jax.Array, recurrent: jax.Array, kernel: jax.Array, hidden: jax.Array, xs: jax.Array
    ) -> dict[str, jax.Array]:
        def at(gain: jax.Array) -> LyapunovResult:
            params = {
                "kernel": kernel,
                "recurrent_kernel": gain * recurrent,
                "bias": jnp.zeros(hidden.shape),
            }
            return lyapunov_spectrum(
                key,
                cell,
                params,
                xs,
                count=count,
                burn_in=burn_in,
                tangent_burn_in=tangent_burn_in,
                state=HiddenState(hidden),
            )

        result = jax.lax.map(at, jnp.array(gains))
        return {name: getattr(result, name) for name in KEPT}

    return over_replicas(replica)


def _unit(width: int, variance: float) -> str:
    return f"width-{width}.variance-{in_name(variance)}"


def _parts(unit: str) -> tuple[int, float]:
    width, variance = unit.split(".", 1)
    return int(width.removeprefix("width-")), float(variance.removeprefix("variance-"))


# ---- The report ---------------------------------------------------------------------------------


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Exponents against gain and against their index, and the size of the attractor."""
    draw: dict[str, Callable[..., Figure]] = {"largest_exponent": _draw_largest}
    if not config.exponents:
        draw |= {"spectrum": _draw_spectra, "attractor": _draw_attractor}
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.activation}, {config.seeds} matrices, {config.steps} steps measured after "
            f"{config.burn_in} for the state and {config.tangent_burn_in} for the tangents.",
            "Onset: the gain at which the mean over seeds of the largest exponent crosses zero, "
            "between two gains by a straight line. Where they are chaotic, finite networks stay "
            "below mean-field theory.",
            _left_out(results),
        ],
    )


def _left_out(results: Results) -> str:
    """How many exponents there are none of, and why: -inf is not resolved, NaN diverged."""
    spectra = [arrays["exponents"] for arrays in results.values()]
    total = sum(values.size for values in spectra)
    unresolved = sum(int(np.isneginf(values).sum()) for values in spectra)
    diverged = np.concatenate([np.isnan(values).any(axis=-1).ravel() for values in spectra])
    note = (
        f"Not resolved: {unresolved} of {total} exponents; "
        f"diverged: {diverged.sum()} of {diverged.size} networks."
    )
    if unresolved or diverged.any():
        note += " Means are over the others; no figure shows a gain at which a network diverged."
    return note


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per input variance, width, gain, seed, quantity and index."""
    for unit, arrays in results.items():
        width, variance = _parts(unit)
        for name in KEPT:
            values = arrays[name].reshape(config.seeds, len(config.gains), -1)
            seed, gain, index = np.indices(values.shape).reshape(3, -1)
            yield pd.DataFrame(
                {
                    "input_variance": variance,
                    "width": width,
                    "gain": np.array(config.gains)[gain],
                    "seed": seed,
                    "quantity": name,
                    "index": index,
                    "value": values.ravel().astype(float),
                }
            )


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    gains = np.array(config.gains)
    rows = []
    for unit, arrays in results.items():
        width, variance = _parts(unit)
        largest = arrays["exponents"][:, :, 0]
        mean = np.ma.masked_invalid(largest).mean(axis=0)
        row = {
            "input variance": f"{variance:g}",
            "width": width,
            "onset of chaos (gain)": first_crossing(gains, mean.filled(np.nan)),
            f"lambda_1 at g = {gains[-1]:g}": spread(largest[:, -1]),
        }
        if not config.exponents:
            row |= {
                f"Kaplan-Yorke dimension / N at g = {gains[-1]:g}": spread(
                    arrays["kaplan_yorke"][:, -1] / width
                ),
                "entropy rate / N (nats/step)": spread(arrays["entropy_rate"][:, -1] / width),
            }
        rows.append(row)
    for variance in config.input_variances:
        fine = np.linspace(gains[0], gains[-1], 400)
        exponents = _mean_field(config, fine, variance)
        if exponents is not None:
            rows.append(
                {
                    "input variance": f"{variance:g}",
                    "width": "mean field",
                    "onset of chaos (gain)": first_crossing(fine, exponents),
                    f"lambda_1 at g = {gains[-1]:g}": f"{exponents[-1]:+.4f}",
                }
            )
    return pd.DataFrame(rows).fillna("")


def _mean_field(
    config: ml_collections.ConfigDict, gains: np.ndarray, variance: float
) -> np.ndarray | None:
    """lambda_1 = ln(chi) / 2 of infinitely wide networks, of bounded activations."""
    if config.activation not in ("tanh", "sigmoid"):
        return None
    with jax.enable_x64(True):
        solve = lambda gain: theory.vanilla_mean_field(
            gain, variance, ACTIVATIONS[config.activation]
        )
        return np.log(np.asarray(jax.jit(jax.vmap(solve))(gains).chi)) / 2


def _shades(config: ml_collections.ConfigDict) -> dict[int, Any]:
    """A colour for each width, from light to dark."""
    return figures.shades(list(config.widths))


def _width_keys(config: ml_collections.ConfigDict) -> list[Any]:
    return [figures.key(f"N = {width}", color=c) for width, c in _shades(config).items()]


def _panels(config: ml_collections.ConfigDict, title: str) -> tuple[Figure, list[Any]]:
    figure, axes = figures.panels(len(config.input_variances), title=title)
    for panel, variance in zip(axes, config.input_variances, strict=True):
        named = f"input of variance {variance:g}" if variance else "no input"
        panel.set(title=named)
    return figure, axes


def _draw_largest(config: ml_collections.ConfigDict, results: Results) -> Figure:
    figure, axes = _panels(config, "Largest Lyapunov exponent against gain")
    gains = np.array(config.gains)
    for panel, variance in zip(axes, config.input_variances, strict=True):
        for width, colour in _shades(config).items():
            values = results[_unit(width, variance)]["exponents"][:, :, 0]
            style = {"color": colour, "marker": "o", "markersize": 3, "label": f"N = {width}"}
            figures.band(panel, gains, values, **style)
        fine = np.linspace(gains[0], gains[-1], 200)
        exponents = _mean_field(config, fine, variance)
        if exponents is not None:
            panel.plot(fine, exponents, "k--", linewidth=1.1, label="mean field, $N\\to\\infty$")
        panel.axhline(0, color="#888888", linewidth=0.8)
        panel.set_xlabel("gain $g$")
    axes[0].set_ylabel(r"$\lambda_1$ (nats per step)")
    figures.common_legend(figure, axes, columns=5)
    return figure


def _draw_spectra(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Spectra of different widths fall on one curve: chaos is extensive."""
    figure, axes = _panels(config, "Lyapunov spectra of different widths, by relative index")
    styles = dict(zip(config.shown_gains, ("-", "--", ":", "-.") * 9, strict=False))
    for panel, variance in zip(axes, config.input_variances, strict=True):
        for gain, style in styles.items():
            for width, colour in _shades(config).items():
                arrays = results[_unit(width, variance)]
                index = list(config.gains).index(gain)
                spectra = np.sort(arrays["exponents"][:, index], axis=-1)[:, ::-1]
                share = (np.arange(width) + 0.5) / width
                middle = figures.finite(np.median(spectra, axis=0))
                panel.plot(share, middle, color=colour, linestyle=style, linewidth=1.2)
            if gain < 1 and not variance and config.activation == "tanh":
                law = np.asarray(theory.circular_law_exponent(gain, share))
                panel.plot(share, law, color=figures.PALETTE[0], linewidth=1, label="circular law")
        panel.axhline(0, color="#888888", linewidth=0.8)
        panel.set(xlabel="$i\\,/\\,N$")
    axes[0].set_ylabel(r"$\lambda_i$ (nats per step), median over seeds")
    keys = [figures.key(f"g = {gain:g}", linestyle=style) for gain, style in styles.items()]
    figures.common_legend(figure, axes, columns=7, extra=keys + _width_keys(config))
    return figure


def _draw_attractor(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Dimension and entropy per unit: they rise with chaos and fall with the input."""
    figure, axes = figures.panels(2, title="Size of the attractor, per unit", share_y=False)
    gains = np.array(config.gains)
    quantities = {
        "kaplan_yorke": "Kaplan-Yorke dimension / $N$",
        "entropy_rate": "entropy rate / $N$ (nats per step)",
    }
    for panel, (name, label) in zip(axes, quantities.items(), strict=True):
        for variance, style in zip(
            config.input_variances, ("-", "--", ":", "-.") * 9, strict=False
        ):
            for width, colour in _shades(config).items():
                values = results[_unit(width, variance)][name] / width
                figures.band(panel, gains, values, color=colour, linestyle=style)
        panel.set(xlabel="gain $g$", title=label)
    keys = [
        figures.key(f"input variance {variance:g}" if variance else "no input", linestyle=style)
        for variance, style in zip(config.input_variances, ("-", "--", ":", "-.") * 9, strict=False)
    ]
    figures.common_legend(figure, axes, columns=7, extra=keys + _width_keys(config))
    return figure


EXPERIMENT = launch.Experiment("lyapunov_vs_gain", validate, units, run_unit, report)

if __name__ == "__main__":
    launch.main(EXPERIMENT)
