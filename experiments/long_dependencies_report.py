"""What `experiments.long_dependencies` has found: a table and figures, from saved arrays only."""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.results import Report, Results
from experiments.statistics import NEVER, held, wilson

SQUARED, NATS = "squared error", "nats"
TASKS = {
    "adding": ("adding", SQUARED),
    "adding_hochreiter": ("adding (Hochreiter)", SQUARED),
    "adding_pascanu": ("adding (Pascanu)", SQUARED),
    "multiplication": ("multiplication", SQUARED),
    "copy": ("copy memory", NATS),
    "temporal_order": ("temporal order", NATS),
    "temporal_order_of_3": ("temporal order of three", NATS),
    "temporal_order_hochreiter": ("temporal order (Hochreiter)", NATS),
    "temporal_order_of_3_hochreiter": ("temporal order of three (Hochreiter)", NATS),
    "delayed_xor": ("delayed XOR", NATS),
    "parity": ("parity", NATS),
    "parity_each_step": ("parity at each step", NATS),
    "random_permutation": ("random permutation", NATS),
    "pixel_digits": ("pixel digits", NATS),
    "permuted_pixel_digits": ("permuted pixel digits", NATS),
}
"""By name in a configuration: as a person writes it, and the unit of the loss."""
MOMENTS = ("start", "middle", "end")
MARKERS = "osD^vPX*"
SERIES = ("loss", "error", "test_loss", "test_error")


def unit_of(task: str, length: int, cell: str) -> str:
    """The name of a unit."""
    return f"{task}.{length}.{cell}"


def parts_of(unit: str) -> tuple[str, int, str]:
    """Task, length and cell of a unit."""
    task, length, cell = unit.split(".")
    return task, int(length), cell


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Success against length, losses against updates, gradients against lag."""
    draw = {
        "success": _draw_success,
        "learning": _draw_learning,
        "gradients": _draw_gradients,
    }
    rates = (f"{figures.label(cell)} {config.learning_rates[cell]:g}" for cell in config.cells)
    criteria = (_criterion(config, task) for task in config.tasks)
    drawn = (
        f"; lengths drawn from {config.spread} less up to the one given" if config.spread else ""
    )
    forget = "chosen by it" if config.initialisation == "chrono" else f"{config.forget_bias:g}"
    return Report(
        table=pd.concat([rows for rows in _rows(config, results) if len(rows)], ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.hidden_size} units, {config.initialisation} initialisation where the cell "
            f"has none of its own, forget bias {forget}; at most {config.updates} "
            f"updates by {config.optimiser} (rates: {', '.join(rates)}), batches of "
            f"{config.batch}{drawn}, clipped at a norm of {config.clip:g}.",
            f"A seed is trained no further once it has solved the task. {' '.join(criteria)}",
            "Intervals are Wilson's of 95 %; updates and training sequences are those of the seeds "
            "that solved the task, the latter as mean ± standard deviation.",
        ],
    )


def _criterion(config: ml_collections.ConfigDict, task: str) -> str:
    """When a task counts as solved, a sentence."""
    criterion, threshold = config.criterion[task], config.threshold[task]
    label = TASKS[task][0]
    label = label[0].upper() + label[1:]
    fresh = f"on {config.test} fresh sequences"
    if criterion == "wrong":
        return f"{label}: fewer than {threshold:.0%} of answers wrong {fresh}."
    if criterion == "loss":
        return f"{label}: a mean loss below {threshold:.3g} {fresh}."
    return f"{label}: the last 2000 training sequences right, their mean loss below {threshold:g}."


def _updates(config: ml_collections.ConfigDict) -> np.ndarray:
    """Of each record, how many had been done."""
    return np.arange(0, config.updates + 1, config.every)


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per task, length, cell, seed, quantity and record while the seed was trained.

    Of gradients at the lengths shown, one per lag at the start, the middle and the end.
    """
    updates = _updates(config)
    for unit, arrays in results.items():
        task, length, cell = parts_of(unit)
        names: dict[str, Any] = {"task": task, "length": length, "cell": cell}
        seeds = np.arange(config.seeds)
        for part in SERIES:
            seed, record = np.indices(arrays[part].shape).reshape(2, -1)
            columns = {"seed": seed, "updates": updates[record], "value": arrays[part].ravel()}
            yield pd.DataFrame(names | {"quantity": part} | columns).dropna()
        for part in ("solved_at", "diverged_at"):
            yield pd.DataFrame(names | {"quantity": part, "seed": seeds, "value": arrays[part]})
        if length == config.shown[task]:
            for index, moment in enumerate(MOMENTS):
                records, log_norms = _moment(arrays, index)
                seed, lag = np.indices(log_norms.shape).reshape(2, -1)
                columns = {
                    "seed": seed,
                    "updates": updates[records][seed],
                    "lag": lag,
                    "value": log_norms.ravel(),
                }
                yield pd.DataFrame(names | {"quantity": f"log_norm at the {moment}"} | columns)


def _last(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The last record of each seed, (seeds,)."""
    kept = ~np.isnan(arrays["log_norm"][..., -1])
    return kept.shape[1] - 1 - np.argmax(kept[:, ::-1], axis=1)


def _moment(arrays: Mapping[str, np.ndarray], index: int) -> tuple[np.ndarray, np.ndarray]:
    """Records (seeds,) at the start, the middle or the end of each seed's training, and their
    ln-norms against the lag, (seeds, length + 1)."""
    records = index * _last(arrays) // 2
    return records, arrays["log_norm"][np.arange(len(records)), records, ::-1]


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    rows = []
    for unit, arrays in results.items():
        task, length, cell = parts_of(unit)
        solved = arrays["solved_at"][arrays["solved_at"] != NEVER]
        diverged = arrays["diverged_at"] != NEVER
        unsolved = (arrays["solved_at"] == NEVER) & ~diverged
        low, high = wilson(len(solved), config.seeds)
        rows.append(
            {
                "task": TASKS[task][0],
                "length": length,
                "cell": figures.label(cell),
                "solved": f"{len(solved)} of {config.seeds}",
                "95 %": f"{low:.2f} to {high:.2f}",
                "median updates to it": f"{np.median(solved):.0f}" if len(solved) else "",
                "training sequences to it": _mean(solved * config.batch),
                "baseline": f"{arrays['baseline']:.4f}",
                "not solved: median loss": (
                    f"{np.median(arrays['test_loss'][unsolved, -1]):.4f}" if unsolved.any() else ""
                ),
                "diverged": int(diverged.sum()) or "",
            }
        )
    return pd.DataFrame(rows)


def _mean(values: np.ndarray) -> str:
    """Mean and standard deviation of counts, if there are two or more."""
    if len(values) < 2:
        return "".join(map(str, values))
    return f"{values.mean():.0f} ± {values.std(ddof=1):.0f}"


# ---- Figures ------------------------------------------------------------------------------------


def _cell_keys(config: ml_collections.ConfigDict) -> list[Any]:
    colours = figures.colours(config.cells)
    return [figures.key(figures.label(cell), color=colours[cell]) for cell in config.cells]


def _draw_success(config: ml_collections.ConfigDict, results: Results) -> Figure:
    figure, axes = figures.panels(
        len(config.tasks),
        title=f"Solved within {config.updates:,} updates by {config.hidden_size} units, "
        "with 95 % Wilson intervals",
        width=3.6,
    )
    colours = figures.colours(config.cells)
    for panel, task in zip(axes, config.tasks, strict=True):
        lengths = config.lengths[task]
        places = np.arange(len(lengths))
        for index, cell in enumerate(config.cells):
            solved = [
                int(np.sum(results[unit_of(task, length, cell)]["solved_at"] != NEVER))
                for length in lengths
            ]
            shares = np.array(solved) / config.seeds
            intervals = np.array([wilson(count, config.seeds) for count in solved]).T
            # Side by side, where all would lie on 0 or on 100 %.
            shift = 0.6 * ((index + 0.5) / len(config.cells) - 0.5)
            panel.errorbar(
                places + shift,
                100 * shares,
                yerr=100 * np.abs(intervals - shares),
                color=colours[cell],
                marker=MARKERS[index % len(MARKERS)],
                markersize=5,
                linewidth=1,
                elinewidth=1,
                capsize=2,
                label=figures.label(cell),
            )
        panel.set_xticks(places, [f"{length}" for length in lengths])
        panel.set(
            title=TASKS[task][0],
            xlabel="length of the sequence (steps)",
            xlim=(-0.5, len(lengths) - 0.5),
            ylim=(-4, 104),
        )
        panel.grid(visible=False, axis="x")
    axes[0].set_ylabel(f"solved (% of {config.seeds} seeds)")
    figures.common_legend(figure, axes, columns=len(config.cells))
    return figure


def _draw_learning(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Medians and bands over seeds, up to the record at which the last of them was settled."""
    rows = max(len(config.lengths[task]) for task in config.tasks)
    columns = len(config.tasks)
    figure = Figure(figsize=(max(3.6 * columns, 6.4), 0.9 + 2.1 * rows), layout="constrained")
    figure.suptitle(
        f"Learning curves, medians and 10 to 90 % of {config.seeds} seeds, "
        f"{config.hidden_size} units",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for column, task in zip(axes.T, config.tasks, strict=True):
        lengths = config.lengths[task]
        for panel in column[len(lengths) :]:
            panel.set_axis_off()
        for panel, length in zip(column, lengths, strict=False):
            _draw_losses(panel, config, results, task, length)
        column[len(lengths) - 1].set_xlabel("updates")
    keys = [
        *_cell_keys(config),
        figures.key("all seeds solved", linestyle="none", marker="o", markersize=5),
        figures.key("baseline", linestyle="--", linewidth=1),
    ]
    figures.common_legend(figure, [], columns=8, extra=keys)
    return figure


def _draw_losses(
    panel: Axes, config: ml_collections.ConfigDict, results: Results, task: str, length: int
) -> None:
    updates, colours = _updates(config), figures.colours(config.cells)
    for cell in config.cells:
        arrays = results[unit_of(task, length, cell)]
        losses = held(arrays["test_loss"], arrays["diverged_at"] != NEVER)
        count = _last(arrays).max() + 1
        figures.band(panel, updates[:count], losses[:, :count], color=colours[cell], linewidth=1.4)
        if np.all(arrays["solved_at"] != NEVER):
            last = np.quantile(losses[:, count - 1], 0.5, method="closest_observation")
            panel.plot(updates[count - 1], last, "o", color=colours[cell], markersize=5)
    baseline = float(results[unit_of(task, length, config.cells[0])]["baseline"])
    panel.axhline(baseline, color="#444444", linestyle="--", linewidth=1)
    label, unit = TASKS[task]
    panel.set(
        title=f"{label}, {length} steps",
        xlim=(0, config.updates),
        yscale="log",
        ylabel=f"test loss ({unit})",
    )


def _draw_gradients(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Medians over sequences and then medians and bands over seeds."""
    columns = len(config.tasks)
    figure = Figure(figsize=(max(3.6 * columns, 6.4), 7.2), layout="constrained")
    figure.suptitle(
        "Gradient of a readout of the last output against lag at the start, in the middle and at "
        f"the end of training,\nmedians and 10 to 90 % of {config.seeds} seeds",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    axes = figure.subplots(len(MOMENTS), columns, sharex="col", sharey="col", squeeze=False)
    colours = figures.colours(config.cells)
    for column, task in zip(axes.T, config.tasks, strict=True):
        length = config.shown[task]
        for index, panel in enumerate(column):
            for cell in config.cells:
                _, log_norms = _moment(results[unit_of(task, length, cell)], index)
                figures.band(panel, np.arange(length + 1), log_norms, color=colours[cell])
        column[0].set_title(f"{TASKS[task][0]}, {length} steps")
        column[-1].set(xlabel="lag $T - t$ (steps)", xlim=(0, length))
    for row, moment in zip(axes, MOMENTS, strict=True):
        row[0].set_ylabel(f"{moment}: $\\ln\\,\\|\\partial L/\\partial s_t\\|$ (nats)")
    figures.common_legend(figure, [], columns=8, extra=_cell_keys(config))
    return figure
