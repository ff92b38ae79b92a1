"""What `experiments.clipping` has found: a table and figures, from saved arrays only."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import figures
from experiments.results import Report, Results
from experiments.statistics import NEVER, held, wilson
from rnn_jax.tasks import temporal_order

TASK = temporal_order()
METHODS = {"sgd": "SGD", "clip": "SGD + clipping", "clip_omega": r"SGD + clipping + $\Omega$"}
COLOURS = dict(zip(METHODS, figures.PALETTE, strict=False))
MARKERS = dict(zip(METHODS, "osD", strict=True))
SOLVED = 0.01
"""The share of wrong answers below which a seed has solved the task."""


def unit_of(method: str, length: int) -> str:
    """The name of a unit."""
    return f"{method}.{length}"


def parts_of(unit: str) -> tuple[str, int]:
    """Method and length of a unit."""
    method, length = unit.split(".")
    return method, int(length)


def report(config: ml_collections.ConfigDict, results: Results) -> Report:
    """Success against length, and what happened in training at one length."""
    draw = {
        "success": _draw_success,
        "learning": _draw_learning,
        "clip_in_action": _draw_clip,
    }
    return Report(
        table=pd.concat(list(_rows(config, results)), ignore_index=True),
        summary=_summary(config, results),
        figures=figures.drawings(draw, config, results),
        notes=[
            f"{config.initialisation} initialisation, {config.hidden_size} units, "
            f"{config.seeds} seeds, learning rate {config.learning_rate:g}, batches of "
            f"{config.batch}, at most {config.updates} updates; clipped at a norm of "
            f"{config.threshold:g}, Omega weighs {config.omega_weight:g}.",
            f"Solved: fewer than {SOLVED:.0%} of {config.test} fresh sequences wrong; a seed is "
            "then trained no further. Intervals are Wilson's of 95 %.",
        ],
    )


def _rows(config: ml_collections.ConfigDict, results: Results) -> Iterator[pd.DataFrame]:
    """One row per method, length, seed, quantity and record while the seed was trained."""
    updates = _updates(config)
    for unit, arrays in results.items():
        method, length = parts_of(unit)
        for name, values in arrays.items():
            if values.ndim < 2:
                seed, count = np.arange(config.seeds), np.full(config.seeds, config.updates)
            else:
                seed = np.repeat(np.arange(config.seeds), len(updates))
                count = np.tile(updates, config.seeds)
            frame = pd.DataFrame(
                {
                    "method": method,
                    "length": length,
                    "seed": seed,
                    "updates": count,
                    "quantity": name,
                    "value": values.ravel().astype(float),
                }
            )
            yield frame.dropna()


def _updates(config: ml_collections.ConfigDict) -> np.ndarray:
    """Of each record, how many had been done at its end."""
    return np.arange(config.every, config.updates + 1, config.every)


def _summary(config: ml_collections.ConfigDict, results: Results) -> pd.DataFrame:
    rows = []
    for unit, arrays in results.items():
        method, length = parts_of(unit)
        solved = arrays["solved_at"][arrays["solved_at"] != NEVER]
        diverged = arrays["diverged_at"] != NEVER
        unsolved = (arrays["solved_at"] == NEVER) & ~diverged
        low, high = wilson(len(solved), config.seeds)
        rows.append(
            {
                "length": length,
                "method": METHODS[method].replace(r"$\Omega$", "Omega"),
                "solved": f"{len(solved)} of {config.seeds}",
                "95 %": f"{low:.2f} to {high:.2f}",
                "median updates to it": f"{np.median(solved):.0f}" if len(solved) else "",
                "not solved: median error": (
                    f"{np.median(arrays['error'][unsolved, -1]):.3f}" if unsolved.any() else ""
                ),
                "updates clipped": f"{np.nanmean(arrays['clipped']):.0%}",
                "diverged": int(diverged.sum()) or "",
            }
        )
    return pd.DataFrame(rows)


def _draw_success(config: ml_collections.ConfigDict, results: Results) -> Figure:
    figure, [panel] = figures.panels(
        1,
        title=f"Temporal order within {config.updates:,} updates, with 95 % Wilson intervals",
        width=6.4,
    )
    apart = 0.02 * (config.lengths[-1] - config.lengths[0]) or 0.1
    for shift, method in enumerate(config.methods):
        solved = [
            int(np.sum(results[unit_of(method, length)]["solved_at"] != NEVER))
            for length in config.lengths
        ]
        shares = np.array(solved) / config.seeds
        intervals = np.array([wilson(count, config.seeds) for count in solved]).T
        panel.errorbar(
            np.array(config.lengths) + apart * (shift - (len(config.methods) - 1) / 2),
            100 * shares,
            yerr=100 * np.abs(intervals - shares),
            color=COLOURS[method],
            marker=MARKERS[method],
            capsize=3,
            label=METHODS[method],
        )
    panel.set(
        xlabel="length of the sequence (steps)",
        ylabel=f"solved (% of {config.seeds} seeds)",
        xticks=config.lengths,
        ylim=(-4, 104),
    )
    figures.common_legend(figure, [panel], columns=3)
    return figure


def _shown(config: ml_collections.ConfigDict, results: Results) -> dict[str, Mapping]:
    """The arrays of each method at the length that is shown."""
    return {method: results[unit_of(method, config.shown_length)] for method in config.methods}


def _draw_learning(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """One line per seed; it ends where the seed is trained no further."""
    figure, axes = figures.panels(
        len(config.methods),
        title=f"Learning temporal order, sequences of {config.shown_length} steps",
        width=3.2,
    )
    updates = _updates(config)
    shown = _shown(config, results)
    for panel, (method, arrays) in zip(axes, shown.items(), strict=True):
        colour = COLOURS[method]
        losses = figures.finite(arrays["loss"])
        solved, diverged = (arrays[f"{end}_at"] != NEVER for end in ("solved", "diverged"))
        for seed, loss in enumerate(losses):
            panel.plot(updates, loss, color=colour, linewidth=0.8, alpha=0.7)
            if solved[seed] or diverged[seed]:
                last = np.flatnonzero(np.isfinite(loss))[-1:]
                marker = "o" if solved[seed] else "X"
                panel.plot(updates[last], loss[last], marker, color=colour, markersize=5)
        lasting = held(arrays["loss"], diverged)
        middle = np.quantile(lasting, 0.5, axis=0, method="closest_observation")
        panel.plot(updates, figures.finite(middle), color=figures.darker(colour), linewidth=2)
        panel.axhline(TASK.baseline(config.shown_length), color="#444444", ls="--", linewidth=1)
        panel.set(title=METHODS[method], xlabel="updates", ylim=(0, None))
    axes[0].set_ylabel(f"loss (nats), mean of {config.every} batches")
    keys = [
        figures.key("one seed", linewidth=0.8),
        figures.key("median, solved seeds at their last loss", linewidth=2),
        figures.key("solved", linestyle="none", marker="o"),
        figures.key(r"$\ln 4$: knows nothing", linestyle="--", linewidth=1),
    ]
    if any(np.any(arrays["diverged_at"] != NEVER) for arrays in shown.values()):
        keys.append(figures.key("diverged", linestyle="none", marker="X"))
    figures.common_legend(figure, axes, columns=5, extra=keys)
    return figure


def _draw_clip(config: ml_collections.ConfigDict, results: Results) -> Figure:
    """Norms before the clip, how often it acts, and the recurrent kernel; one line per seed."""
    shown = _shown(config, results)
    figure = Figure(figsize=(max(3.2 * len(shown), 6.4), 6.4), layout="constrained")
    figure.suptitle(
        f"Training on {config.shown_length} steps, one line per seed",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    axes = figure.subplots(3, len(shown), sharex=True, sharey="row", squeeze=False)
    updates = _updates(config)
    for column, (method, arrays) in zip(axes.T, shown.items(), strict=True):
        style: Any = {"color": COLOURS[method], "linewidth": 0.8, "alpha": 0.8}
        column[0].plot(updates, figures.finite(arrays["largest_log_norm"]).T, **style)
        if method != "sgd":
            column[0].axhline(math.log(config.threshold), color="#444444", ls="--", linewidth=1)
        column[1].plot(updates, 100 * arrays["clipped"].T, **style)
        column[2].plot(updates, arrays["spectral_radius"].T, **style)
        column[2].plot(updates, arrays["largest_singular_value"].T, ls=":", **style)
        column[2].axhline(1, color="#444444", linewidth=0.8)
        column[0].set_title(METHODS[method])
        column[2].set_xlabel("updates")
    axes[0, 0].set_ylabel(f"largest $\\ln\\,\\|g\\|$ of {config.every}\nupdates (nats)")
    axes[1, 0].set(ylabel="updates clipped (%)", ylim=(-4, 104))
    axes[2, 0].set_ylabel("recurrent kernel $U$")
    keys = [
        figures.key("threshold", linestyle="--", linewidth=1),
        figures.key(r"$\rho(U)$", linewidth=0.8),
        figures.key(r"$\sigma_{\max}(U)$", linestyle=":", linewidth=0.8),
    ]
    figures.common_legend(figure, [], columns=3, extra=keys)
    return figure
