"""What `experiments.trained_vs_initial` has found: a table and figures, from saved arrays only."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.results import Report, Results
from experiments.slopes import fitted_slope, quantiles, spread

TASKS = {"adding": "adding problem", "copy": "copy memory", "text": "next character"}


def unit_of(task: str, cell: str) -> str:
    """The name of a unit."""
    return f"{task}.{cell}"


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Losses, exponents and slopes against updates; curves and spectra before and after."""
    draw: dict[str, Callable[..., Figure]] = {
        "training": _draw_training,
        "gradients": _draw_gradients,
        "spectra": _draw_spectra,
    }
    unsure = sum(
        int((~arrays["converged"][_finished(arrays)]).sum()) for arrays in results.values()
    )
    rates = (f"{figures.label(cell)} {config.learning_rates[cell]:g}" for cell in config.cells)
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.hidden_size} units, orthogonal weights of gain {config.gain:g}, forget bias "
            f"{config.forget_bias:g}; {config.seeds} seeds; {config.snapshots[-1]} updates by Adam "
            f"(rates: {', '.join(rates)}), batches of {config.batch}, clipped at a norm of "
            f"{config.clip:g}.",
            "Trained in float32, measured in float64 on held-out sequences of the task. Slopes are "
            "those of a readout of the last output with a random unit vector, lambda_1 that along "
            f"{config.exponent_steps} steps, sequence after sequence without a reset; both in nats "
            "per step, mean ± standard error over seeds. Others: medians over seeds.",
            f"Singular values that did not converge: {unsure} spectra.",
            *_diverged(config, results),
        ],
    )


def _finished(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which seeds did not diverge, (seeds,)."""
    return np.isfinite(arrays["loss"]).all(axis=1)


def _diverged(config: ml_collections.ConfigDict, results: Results) -> Iterator[str]:
    """A line for each unit with networks that diverged."""
    for unit, arrays in results.items():
        count = int((~_finished(arrays)).sum())
        if count:
            task, cell = unit.split(".")
            yield (
                f"Diverged, and left out of medians and means: {count} of {config.seeds} seeds of "
                f"{figures.label(cell)}, {TASKS[task]}."
            )


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per task, cell, quantity, seed, update, and lag or index: medians over sequences."""
    tests = np.arange(0, config.snapshots[-1] + 1, config.every)
    for unit, arrays in results.items():
        task, cell = unit.split(".")
        values = {name: arrays[name] for name in ("loss", "error", "exponent", "standard_error")}
        values["log_norm"] = quantiles(arrays["log_norms"], axis=2)[1][..., ::-1]
        for index, lag in enumerate(config.lags):
            values[f"ln sigma at lag {lag}"] = arrays["log_singular_values"][:, :, index]
        for name, array in values.items():
            updates = tests if name in ("loss", "error") else np.array(config.snapshots)
            seed, update, *rest = np.indices(array.shape).reshape(array.ndim, -1)
            frame = {
                "task": task,
                "cell": cell,
                "quantity": name,
                "seed": seed,
                "update": updates[update],
                "value": array.ravel(),
            }
            if rest:
                frame["lag" if name == "log_norm" else "index"] = rest[0]
            yield pd.DataFrame(frame)


def _slopes(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Nats per step of each seed at each snapshot, (seeds, snapshots)."""
    fit = lambda samples: fitted_slope(samples[None])[0]
    return np.array([[fit(samples) for samples in seed] for seed in arrays["log_norms"]])


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    rows = []
    for unit, arrays in results.items():
        task, cell = unit.split(".")
        kept = _finished(arrays)
        row: dict[str, Any] = {"task": TASKS[task], "cell": figures.label(cell)}
        if not kept.any():
            rows.append(row | {"at the end": "diverged"})
            continue
        loss, error = (np.median(arrays[name][kept], axis=0) for name in ("loss", "error"))
        slopes = _slopes(arrays)[kept]
        exponents = arrays["exponent"][kept]
        lasting = np.sum(arrays["log_singular_values"][kept, :, -1] > -1, axis=-1)
        rows.append(
            row
            | {
                "baseline": f"{arrays['baseline']:.4f}",
                "loss at the start": f"{loss[0]:.4f}",
                "at the end": f"{loss[-1]:.4f}",
                "wrong": f"{error[-1]:.1%}",
                "lambda_1 at the start": spread(exponents[:, 0]),
                "lambda_1 at the end": spread(exponents[:, -1]),
                "slope at the start": spread(slopes[:, 0]),
                "slope at the end": spread(slopes[:, -1]),
                f"sigma > 1/e over {config.lags[-1]} steps": (
                    f"{np.median(lasting[:, 0]):g}, then {np.median(lasting[:, -1]):g}"
                ),
            }
        )
    return pd.DataFrame(rows).fillna("")


def _draw_training(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """One thin line per seed, the median thick."""
    figure, axes = _grid(config, 3, "What training does to loss, dynamics and gradients")
    _share_y(axes[1:])
    tests = np.arange(0, config.snapshots[-1] + 1, config.every)
    snapshots = np.array(config.snapshots)
    for column, task in zip(axes.T, config.tasks, strict=True):
        for cell in config.cells:
            arrays = results[unit_of(task, cell)]
            _lines(column[0], cell, tests, arrays["loss"], arrays)
            _lines(column[1], cell, snapshots, arrays["exponent"], arrays)
            _lines(column[2], cell, snapshots, _slopes(arrays), arrays)
        baseline = float(results[unit_of(task, config.cells[0])]["baseline"])
        column[0].axhline(baseline, color="#444444", linestyle="--", linewidth=1)
        if task == "adding":
            column[0].set_yscale("log")
        for panel in column[1:]:
            panel.axhline(0, color="#444444", linewidth=0.8)
        unit = "squared error" if task == "adding" else "nats"
        column[0].set(title=TASKS[task], ylabel=f"held-out loss ({unit})")
        column[2].set_xscale("symlog", linthresh=snapshots[1], linscale=0.4)
        column[2].set_xticks(snapshots, [f"{update}" for update in snapshots])
        column[2].set_xticks([], minor=True)
        column[2].set(xlabel="updates", xlim=(0, snapshots[-1]))
    axes[1, 0].set_ylabel(r"$\lambda_1$ (nats per step)")
    axes[2, 0].set_ylabel("slope of the gradient\n(nats per step)")
    keys = [
        *_cell_keys(config),
        figures.key("one seed", linewidth=0.7, alpha=0.6),
        figures.key("median", linewidth=2),
        figures.key("baseline", linestyle="--", linewidth=1),
    ]
    figures.common_legend(figure, [], columns=6, extra=keys)
    return figure


def _grid(config: ml_collections.ConfigDict, rows: int, title: str) -> tuple[Figure, np.ndarray]:
    """Panels (rows, tasks)."""
    size = (max(3.6 * len(config.tasks), 6.4), 0.9 + 2.3 * rows)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure, figure.subplots(rows, len(config.tasks), sharex="col", squeeze=False)


def _share_y(axes: np.ndarray) -> None:
    """One scale for each row of panels, so that tasks can be compared."""
    for row in axes:
        for panel in row[1:]:
            panel.sharey(row[0])


def _cell_keys(config: ml_collections.ConfigDict) -> list[Any]:
    return [
        figures.key(figures.label(cell), color=figures.CELL_COLOURS[cell]) for cell in config.cells
    ]


def _lines(
    panel: Axes, cell: str, x: np.ndarray, values: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> None:
    """Each seed's values (seeds, points), and the median of those that did not diverge."""
    colour = figures.CELL_COLOURS[cell]
    kept = _finished(arrays)
    panel.plot(x, figures.finite(values).T, color=colour, linewidth=0.7, alpha=0.6)
    if kept.any():
        panel.plot(x, _middle(values[kept]), color=colour, linewidth=2)


def _middle(values: np.ndarray) -> np.ndarray:
    """The median over the first axis, one of the values; NaN where it is infinite."""
    return figures.finite(quantiles(values, axis=0)[1])


def _draw_gradients(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Medians over sequences and then over seeds; one thin line per trained network."""
    figure, axes = figures.panels(
        len(config.tasks),
        title="Gradient of a readout of the last output against lag, before and after training",
        width=3.6,
        share_y=False,
    )
    for panel, task in zip(axes, config.tasks, strict=True):
        lags = np.arange(config.steps[task] + 1)
        for cell in config.cells:
            arrays = results[unit_of(task, cell)]
            first, last = (
                quantiles(arrays["log_norms"][:, snapshot], axis=1)[1][:, ::-1]
                for snapshot in (0, -1)
            )
            panel.plot(lags, _middle(first), "--", color=figures.CELL_COLOURS[cell], linewidth=1.2)
            _lines(panel, cell, lags, last, arrays)
        panel.set(title=TASKS[task], xlabel="lag $T - t$ (steps)", xlim=(0, lags[-1]))
    axes[0].set_ylabel(r"$\ln\,\|\partial L/\partial s_t\|$ (nats)")
    keys = [
        *_cell_keys(config),
        figures.key("before training", linestyle="--", linewidth=1.2),
        figures.key("after", linewidth=2),
        figures.key("after, one seed", linewidth=0.7, alpha=0.6),
    ]
    figures.common_legend(figure, axes, columns=6, extra=keys)
    return figure


def _draw_spectra(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Medians over seeds, index by index, against the share of the state's dimensions."""
    figure, axes = _grid(
        config,
        len(config.lags),
        r"Singular values of $\partial s_T/\partial s_{T-k}$ before and after training",
    )
    _share_y(axes)
    for panel in axes.flat:
        # Linear near 0, where the few directions are that last.
        panel.set_yscale("symlog", linthresh=1)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.axhline(0, color="#444444", linewidth=0.8)
    for column, task in zip(axes.T, config.tasks, strict=True):
        for cell in config.cells:
            arrays = results[unit_of(task, cell)]
            values = arrays["log_singular_values"]
            share = (np.arange(values.shape[-1]) + 0.5) / values.shape[-1]
            style: Any = {"color": figures.CELL_COLOURS[cell], "linewidth": 1.4}
            kept = _finished(arrays)
            for index, panel in enumerate(column):
                panel.plot(share, _middle(values[:, 0, index]), "--", **style)
                if kept.any():
                    panel.plot(share, _middle(values[kept, -1, index]), **style)
        column[0].set_title(TASKS[task])
        column[-1].set(xlabel="index $i$ / $S$", xlim=(0, 1))
    for row, lag in zip(axes, config.lags, strict=True):
        row[0].set_ylabel(f"$\\ln\\,\\sigma_i$ at lag $k = {lag}$ (nats)")
    keys = [
        *_cell_keys(config),
        figures.key("before training", linestyle="--", linewidth=1.4),
        figures.key("after", linewidth=1.4),
    ]
    figures.common_legend(figure, [], columns=5, extra=keys)
    return figure
