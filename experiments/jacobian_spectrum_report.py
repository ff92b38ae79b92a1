"""What `experiments.jacobian_spectrum` has found: a table and figures, from saved arrays only."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.results import Report, Results
from experiments.rundir import in_name
from rnn_jax import theory
from rnn_jax.numerics import log_root_mean_square

GATED = ("lstm", "gru")
LABELS = {
    "linear": "linear, Gaussian",
    "gaussian": "vanilla, Gaussian",
    "orthogonal": "vanilla, orthogonal",
    "lstm_at_rest": "LSTM at rest",
    "lstm": "LSTM",
    "gru": "GRU",
}
BLOCKS = {
    "cell/cell": r"$\partial c_T/\partial c_t$",
    "cell/hidden": r"$\partial c_T/\partial h_t$",
    "hidden/cell": r"$\partial h_T/\partial c_t$",
    "hidden/hidden": r"$\partial h_T/\partial h_t$",
}


class Unit(NamedTuple):
    """A network and the bias of its keeping gate, None for one that has none."""

    network: str
    bias: float | None


def unit_of(network: str, bias: float) -> str:
    """The name of the unit of a gated network."""
    return f"{network}.{in_name(bias)}"


def units_of(config: ml_collections.ConfigDict) -> dict[str, Unit]:
    """What each unit is, by its name."""
    found: dict[str, Unit] = {}
    for network in config.networks:
        if network in GATED:
            found |= {unit_of(network, bias): Unit(network, bias) for bias in config.biases}
        else:
            bias = config.biases[0] if network == "lstm_at_rest" else None
            found[network] = Unit(network, bias)
    return found


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Whole spectra, blocks of the LSTM, eigenvalues of a step, and norms against the lag."""
    draw: dict[str, Callable[..., Figure]] = {"spectrum": _draw_spectra}
    if "lstm" in config.networks:
        draw["lstm_blocks"] = _draw_blocks
    if set(config.networks) != {"linear"}:
        draw["eigenvalues"] = _draw_eigenvalues
    draw["against_lag"] = _draw_against_lag
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"N = {config.hidden_size}, gain {config.gain:g}, white input of variance "
            f"{config.input_variance:g} (none at rest), {config.seeds} seeds; {config.transient} "
            "steps before the first state. Means over seeds are those of logarithms.",
            "The state of an LSTM is (h, c) as it is: h is in (-1, 1), c unbounded. Its singular "
            "values depend on these units, Lyapunov exponents and eigenvalues do not.",
            "Unresolved: zero, or at the rounding floor in one of a hundred steps; these values "
            "enter no mean and no figure. Not converged: spectra, of all seeds and lags, in which "
            "neighbouring singular values may be mixed; norms are right.",
            "Mean field of LSTM and GRU is that of untied weights, drawn anew at every step. "
            "Infinite condition numbers are not drawn.",
        ],
    )


def _quantities(
    config: ml_collections.ConfigDict, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What is plotted against the lag, (seeds, lags) each; NaN for an infinite condition number."""
    size = arrays["log_singular_values"].shape[-1]
    values = figures.finite(arrays["log_singular_values"])
    return {
        "log_frobenius": arrays["log_frobenius"] - np.log(size) / 2,
        "log_condition": values[..., 0] - values[..., -1],
        "stable_rank": arrays["stable_rank"] / size,
    }


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per network, quantity, seed, lag and index; eigenvalues are in arrays.npz."""
    for unit, arrays in results.items():
        quantities = {
            name: values
            for name, values in arrays.items()
            if name not in ("chi", "converged", "resolved") and not name.startswith("eigenvalues")
        }
        for name, values in quantities.items():
            values = values.reshape(config.seeds, len(config.lags), -1)
            seed, lag, index = np.indices(values.shape).reshape(3, -1)
            yield pd.DataFrame(
                {
                    "network": unit,
                    "quantity": name,
                    "seed": seed,
                    "lag": np.array(config.lags)[lag],
                    "index": index,
                    "value": values.ravel(),
                }
            )


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    last = config.lags[-1]
    rows = []
    for unit, arrays in results.items():
        values = arrays["log_singular_values"]
        quantities = _quantities(config, arrays)
        norm, condition = (
            quantities[name][:, -1].mean() for name in ("log_frobenius", "log_condition")
        )
        mean_field = last * np.log(float(arrays["chi"])) / 2
        missing = (~arrays["resolved"][:, -1]).sum(axis=-1).mean()
        rows.append(
            {
                "network": _label(config, unit),
                f"ln ||J||_F / sqrt(S), lag {last}": f"{norm:+.2f}",
                "mean field": f"{mean_field:+.2f}",
                "ln sigma_1": f"{values[:, -1, 0].mean():+.2f}",
                "ln sigma_1 / sigma_S": "infinite" if missing else f"{condition:.1f}",
                "unresolved": f"{missing:g} of {values.shape[-1]}",
                "not converged": f"{np.sum(~arrays['converged'])} of {arrays['converged'].size}",
            }
        )
    return pd.DataFrame(rows)


def _label(config: ml_collections.ConfigDict, unit: str) -> str:
    network, bias = units_of(config)[unit]
    return LABELS[network] if bias is None else f"{LABELS[network]}, bias {bias:g}"


def _grid(count: int, title: str, x: str, y: str) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most four, evenly filled."""
    rows = -(-count // 4)
    columns = -(-count // rows)
    size = (max(2.9 * columns, 6.4), 2.7 * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for unused in axes[count:]:
        unused.remove()
    for number, panel in enumerate(axes[:count]):
        panel.set_xlabel(x if number >= count - columns else "")
        panel.set_ylabel(y if number % columns == 0 else "")
    return figure, axes[:count]


def _draw_spectra(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Per step, so that all lags share an axis: finite-time Lyapunov exponents."""
    figure, axes = _grid(
        len(results),
        "Singular values of $J_{T:T-k}$, per step",
        "$i\\,/\\,S$",
        r"$\ln(\sigma_i)\,/\,k$ (nats)",
    )
    lags = np.array(config.lags)
    shades = figures.shades(list(config.shown_lags))
    for panel, (unit, arrays) in zip(axes, results.items(), strict=True):
        values = figures.finite(arrays["log_singular_values"]).mean(axis=0)
        size = values.shape[-1]
        share = (np.arange(size) + 0.5) / size
        for lag, colour in shades.items():
            mean = values[config.lags.index(lag)] / lag
            panel.plot(share, mean, color=colour, label=f"$k = {lag}$")
            if unit == "linear":
                position, law = theory.tied_singular_values(config.gain, lag)
                panel.plot(position, law / lag, ":", color="#000000", linewidth=1)
                panel.set_ylim(bottom=np.nanmin(values / lags[:, None]))
        dashed: dict[str, Any] = {"color": figures.PALETTE[0], "linestyle": "--", "linewidth": 1.1}
        if unit == "linear":
            fine = np.linspace(0, 1, 400, endpoint=False)
            panel.plot(fine, theory.circular_law_exponent(config.gain, fine), **dashed)
        elif unit == "lstm_at_rest":
            moduli = np.abs(_from_kernel(config, unit, arrays["eigenvalues_of_kernel"]))
            law = np.log(np.sort(moduli, axis=-1)[:, ::-1]).mean(axis=0)
            panel.plot(share[: len(law)], law, **dashed)
        else:
            panel.axhline(np.log(float(arrays["chi"])) / 2, color="#444444", linewidth=0.8)
        panel.set(title=_label(config, unit), xlim=(0, 1))
        missing = np.isnan(values[-1]).sum()
        if missing:
            text = f"{missing} of {size}\nzero or unresolved"
            panel.text(
                0.97, 0.95, text, transform=panel.transAxes, ha="right", va="top", fontsize=8
            )
    keys = [
        figures.key("Fuss-Catalan law", color="#000000", linestyle=":", linewidth=1),
        figures.key(
            "eigenvalues, $k\\to\\infty$", color=figures.PALETTE[0], linestyle="--", linewidth=1.1
        ),
        figures.key(r"mean field (gated: untied), $\ln(\chi)\,/\,2$", linewidth=0.8),
    ]
    figures.common_legend(figure, axes, columns=7, extra=keys)
    return figure


def _draw_blocks(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Root mean squares, as the direct path is given."""
    title = "Blocks of the LSTM's Jacobian, and the direct path along its memory"
    figure, axes = figures.panels(len(config.biases), title=title, share_y=False)
    lags = np.array(config.lags)
    for panel, bias in zip(axes, config.biases, strict=True):
        arrays = results[unit_of("lstm", bias)]
        for (block, label), colour, marker in zip(
            BLOCKS.items(), figures.PALETTE, "os^D", strict=False
        ):
            norms = np.asarray(log_root_mean_square(jnp.asarray(arrays[block]), axis=-1))
            style: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "markersize": 4,
                "label": label,
            }
            figures.band(panel, lags, norms, **style)
        direct = arrays["direct_path"].mean(axis=0)
        panel.plot(lags, direct, "k--", linewidth=1.1, label=r"direct path, $\prod f$")
        panel.set(title=f"forget bias {bias:g}", xlabel="lag $k$ (steps)")
    axes[0].set_ylabel(r"$\ln\,\|\mathrm{block}\|_F\,/\,\sqrt{N}$ (nats)")
    figures.common_legend(figure, axes, columns=5)
    return figure


def _draw_eigenvalues(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Of one step of the first seed: driven, and at rest with the disc that theory has for it."""
    shown = [unit for unit in results if unit not in ("linear", "lstm_at_rest")]
    shown = shown or ["lstm_at_rest"]
    title = "Eigenvalues of the Jacobian of one step"
    parts = (r"$\mathrm{Re}\,\lambda$", r"$\mathrm{Im}\,\lambda$")
    figure, axes = _grid(len(shown), title, *parts)
    for panel, unit in zip(axes, shown, strict=True):
        arrays = results[unit]
        for name, colour, label in (
            ("eigenvalues_at_rest", figures.PALETTE[4], "at rest"),
            ("eigenvalues", figures.PALETTE[1], "driven, stationary"),
        ):
            points = arrays[name][0]
            panel.plot(points.real, points.imag, ".", color=colour, markersize=3, label=label)
        centre, radius = _disc(config, unit)
        _circle(panel, 0.0, 1.0, color="#888888", linewidth=0.8)
        _circle(panel, centre, radius, color=figures.darker(figures.PALETTE[4]), linestyle="--")
        if unit in ("gaussian", "orthogonal"):
            edge = float(arrays["chi"]) ** 0.5
            _circle(panel, 0.0, edge, color=figures.darker(figures.PALETTE[1]), linestyle=":")
        points = np.concatenate([arrays["eigenvalues"][0], arrays["eigenvalues_at_rest"][0]])
        left, right = points.real.min(), points.real.max()
        side = 0.6 * max(right - left, 2 * points.imag.max(), 2 * radius)
        middle = (left + right) / 2
        panel.set(xlim=(middle - side, middle + side), ylim=(-side, side))
        panel.set(title=_label(config, unit), aspect="equal")
    keys = [
        figures.key("unit circle", color="#888888", linewidth=0.8),
        figures.key("at rest: theory", color=figures.darker(figures.PALETTE[4]), linestyle="--"),
        figures.key(
            r"driven: $\sqrt{\chi}$", color=figures.darker(figures.PALETTE[1]), linestyle=":"
        ),
    ]
    figures.common_legend(figure, axes, columns=5, extra=keys)
    return figure


def _disc(config: ml_collections.ConfigDict, unit: str) -> tuple[float, float]:
    """Centre and radius of the eigenvalues at rest, which a matrix of radius g gives."""
    centre, edge = (float(_from_kernel(config, unit, x).real) for x in np.array([0j, config.gain]))
    return centre, edge - centre


def _from_kernel(config: ml_collections.ConfigDict, unit: str, eigenvalues: Any) -> Any:
    """The eigenvalues of a step at rest from those of the (candidate's) recurrent matrix."""
    network, bias = units_of(config)[unit]
    if bias is None:
        return eigenvalues
    with jax.enable_x64(True):
        if network == "gru":
            return np.asarray(theory.gru_origin_eigenvalues(eigenvalues, update_bias=bias))
        return np.asarray(theory.lstm_origin_eigenvalues(eigenvalues, forget_bias=bias))


def _circle(panel: Axes, centre: float, radius: float, **style: Any) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    panel.plot(centre + radius * np.cos(angle), radius * np.sin(angle), **style)


def _draw_against_lag(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Three numbers of the spectrum; mean field of the norm dashed."""
    title = "Norm, conditioning and stable rank of $J_{T:T-k}$"
    figure, axes = figures.panels(3, title=title, share_y=False, width=3.6)
    lags = np.array(config.lags)
    colours = {
        "linear": "#000000",
        "gaussian": figures.PALETTE[0],
        "orthogonal": figures.PALETTE[4],
        "lstm_at_rest": figures.PALETTE[5],
        "lstm": figures.PALETTE[1],
        "gru": figures.PALETTE[2],
    }
    markers = dict(zip((None, *config.biases), "os^Dv" * 9, strict=False))
    names = {
        "log_frobenius": r"$\ln\,\|J\|_F\,/\,\sqrt{S}$ (nats)",
        "log_condition": r"$\ln(\sigma_1\,/\,\sigma_S)$ (nats)",
        "stable_rank": r"$\|J\|_F^2\,/\,(\sigma_1^2\,S)$",
    }
    for unit, arrays in results.items():
        network, bias = units_of(config)[unit]
        style: dict[str, Any] = {
            "color": colours[network],
            "marker": markers[bias],
            "markersize": 4,
        }
        style |= {"label": _label(config, unit), "linewidth": 1.2}
        quantities = _quantities(config, arrays)
        for panel, name in zip(axes, names, strict=True):
            panel.plot(lags, quantities[name].mean(axis=0), **style)
        slope = np.log(float(arrays["chi"])) / 2
        axes[0].plot(lags, slope * lags, "--", color=colours[network], linewidth=1)
    for panel, label in zip(axes, names.values(), strict=True):
        panel.set(title=label, xlabel="lag $k$ (steps)")
    axes[1].set(xscale="log", yscale="log")
    axes[2].set(xscale="log", yscale="log")
    line = figures.key("mean field (gated: untied)", linestyle="--", linewidth=1)
    figures.common_legend(figure, axes, columns=4, extra=(line,))
    return figure
