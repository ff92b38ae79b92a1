"""The gradient-norm experiment: its numbers against plain autodiff, its report, its refusals.

The oracle is one ``jax.grad`` in float64 through a scan that has a perturbation of every state, or
a copy of the parameters for every step. It shares the drawn weights, inputs and readouts with the
experiment, and none of its instruments.
"""

import contextlib
import functools
import io
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_runs
from jax import lax
from numpy.testing import assert_allclose, assert_array_equal

from configs import gradient_norms as configs
from experiments import gradient_norms, launch
from experiments import gradient_norms_report as reporting
from experiments.gradient_norms import EXPERIMENT
from rnn_jax.cells import CELLS, elman

pytestmark = [
    pytest.mark.xdist_group("gradient_norms"),  # one smoke run serves the whole file
    pytest.mark.usefixtures("plain_jax"),
]

ROOT = Path(__file__).resolve().parent.parent
CELL_NAMES = ("elman", "lstm", "gru")
KEY = ["kind", "source", "cell", "quantity", "seed", "x"]
smoke = functools.partial(smoke_runs.smoke, "gradient_norms")


def small(**changes):
    """One cell on white noise: what a test of something else than the sweep needs."""
    return smoke(**{"cells": ("elman",), "inputs": ("white_noise",), "presets": ()} | changes)


def run(config):
    EXPERIMENT.validate(config)
    return {unit: EXPERIMENT.run_unit(config, unit) for unit in EXPERIMENT.units(config)}


@pytest.fixture(scope="module")
def config():
    return smoke(presets=("flax_linen", "keras"))


@pytest.fixture(scope="module")
def results(config):
    return run(config)


# ----- the oracle -------------------------------------------------------------------------------


def drawn(config, name, replica):
    """A cell, its parameters, its inputs (T, B, D), unit readouts (B, H) and what draws targets."""
    length = max(config.lengths)
    assert config.steps == length  # so that both kinds of units draw the same inputs
    scheme = gradient_norms.scheme_of(config, name)
    params, xs, rngs = gradient_norms._replicas(config, "white_noise", name, scheme, length)
    readouts = rngs[replica].standard_normal((config.batch, config.hidden_size), np.float32)
    readouts /= np.linalg.norm(readouts, axis=1, keepdims=True)
    params = {key: np.asarray(value[replica], np.float64) for key, value in params.items()}
    cell = gradient_norms.cell_of(config, name)
    return cell, params, xs[replica].astype(np.float64), readouts.astype(np.float64), rngs[replica]


def state_gradients(cell, params, xs, losses):
    """ln ||dL/ds_t|| of one sample, (losses, T + 1); `losses` maps all outputs to a vector."""

    def perturbed(taps):
        def step(state, inputs):
            x, tap = inputs
            state = jax.tree.map(jnp.add, cell(params, state, x)[0], tap)
            return state, state.hidden

        first = jax.tree.map(lambda s, tap: s + tap[0], cell.initial_state(params), taps)
        later = jax.tree.map(lambda tap: tap[1:], taps)
        return losses(lax.scan(step, first, (xs, later))[1])

    state = cell.initial_state(params)
    zeros = jax.tree.map(lambda leaf: jnp.zeros((len(xs) + 1, *leaf.shape)), state)
    leaves = jax.tree.leaves(jax.jit(jax.jacrev(perturbed))(zeros))
    return jnp.log(jnp.sqrt(sum(jnp.sum(leaf**2, axis=-1) for leaf in leaves)))


def parameter_gradients(cell, params, xs, targets):
    """What each step adds to the parameter gradient of the last step's mean squared error.

    The whole batch, xs (T, B, D); returns (T, P).
    """

    def loss(copies):
        def last(xs):
            step = lambda state, inputs: (cell(inputs[0], state, inputs[1])[0], None)
            return lax.scan(step, cell.initial_state(params), (copies, xs))[0].hidden

        return jnp.mean((jax.vmap(last, 1)(xs) - targets) ** 2)

    copies = jax.tree.map(lambda leaf: np.stack([leaf] * len(xs)), params)
    leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(copies))
    return jnp.concatenate([leaf.reshape(len(xs), -1) for leaf in leaves], axis=1)


# ----- numbers ----------------------------------------------------------------------------------
# Curves fall by up to e**-30, and float32 forward passes differ from float64 in the seventh digit.


@pytest.mark.parametrize("name", CELL_NAMES)
def test_curves_against_lag_are_plain_gradients(config, results, name):
    arrays = results[f"lag.white_noise.{name}"]
    replica, sample = 1, 2
    cell, params, xs, readouts, rng = drawn(config, name, replica)
    targets = rng.standard_normal((config.steps, *readouts.shape), np.float32)[:, sample]

    def losses(outputs):
        errors = jnp.mean((outputs - targets) ** 2, axis=1)
        return jnp.stack([readouts[sample] @ outputs[-1], errors[-1], jnp.mean(errors)])

    with jax.enable_x64(True):
        expected = state_gradients(cell, params, xs[:, sample], losses)
    for curve, name in zip(expected, ("readout", "last_step", "mean_over_steps"), strict=True):
        assert arrays[name].shape == (config.seeds, config.batch, config.steps + 1)
        assert_allclose(arrays[name][replica, sample], curve, atol=1e-3)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_curves_against_length_are_plain_gradients(config, results, name):
    arrays = results[f"length.white_noise.{name}"]
    replica, sample = 1, 2
    cell, params, xs, readouts, rng = drawn(config, name, replica)
    targets = rng.standard_normal(readouts.shape, np.float32).astype(np.float64)

    def readout(outputs):
        return readouts[sample, None] @ outputs[-1]

    for index in (0, -1):
        length = config.lengths[index]
        with jax.enable_x64(True):
            curve = state_gradients(cell, params, xs[:length, sample], readout)
            by_step = np.asarray(parameter_gradients(cell, params, xs[:length], targets))
        assert_allclose(arrays["readout"][replica, sample, index], curve[0, 0], atol=1e-3)
        horizons = [0, *config.horizons]
        parts = [np.sum(by_step[: max(length - k, 0)], axis=0) for k in horizons]
        with np.errstate(divide="ignore"):
            total, *far = np.log(np.linalg.norm(parts, axis=1))
        assert_allclose(arrays["parameters"][replica, index], total, atol=1e-3)
        assert_allclose(arrays["far_parameters"][replica, index], far, atol=1e-3)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_a_length_is_a_lag_where_both_end_at_the_same_step(config, results, name):
    assert config.steps == config.lengths[-1]
    by_lag = results[f"lag.white_noise.{name}"]["readout"][..., 0]
    by_length = results[f"length.white_noise.{name}"]["readout"][..., -1]
    assert_allclose(by_length, by_lag, rtol=1e-6)


def test_every_length_is_the_root_mean_square_over_readouts(config, results):
    # As many tangents as the state is wide are a basis, which leaves nothing to chance.
    unit = "length.white_noise.elman"
    exact = EXPERIMENT.run_unit(small(tangents=config.hidden_size), unit)["every_length"]
    cell, params, xs, _, _ = drawn(config, "elman", 1)
    with jax.enable_x64(True):
        jacobian, state = np.eye(config.hidden_size), cell.initial_state(params)
        for x in xs[:, 2]:
            jacobian = cell.jacobian(params, state, cell.project(params, x)) @ jacobian
            state, _ = cell(params, state, x)
        expected = np.log(np.linalg.norm(jacobian)) - math.log(config.hidden_size) / 2
    assert_allclose(exact[1, 2, -1], expected, atol=1e-3)
    sketch = results[unit]["every_length"]
    assert sketch.shape == exact.shape == (config.seeds, config.batch, config.steps + 1)
    assert_allclose(sketch, exact, atol=2)


@pytest.mark.parametrize("gain", [0.5, 0.97, 1.3])
def test_linear_network_has_the_slope_ln_g(gain):
    config = small(elman_activation="identity", gain=gain)
    results = run(config)
    rate = math.log(gain)
    lag = results["lag.white_noise.elman"]
    slope, error = reporting.fitted_slope(lag["readout"])
    assert slope == pytest.approx(rate, abs=1e-4)
    assert error < 1e-4
    curves = np.broadcast_to(rate * np.arange(60, -1, -1), (2, 4, 61))
    assert_allclose(lag["readout"], curves, atol=1e-3)
    assert "theory: mean field" not in lag  # which speaks of tanh
    for name in ("theory: g^k", "theory: sigma bound"):
        assert_allclose(lag[name][..., ::-1][..., 1:] / np.arange(1, 61), rate, atol=1e-4)

    lengths = results["length.white_noise.elman"]
    assert_allclose(lengths["readout"][0, 0], rate * np.array(config.lengths), atol=1e-3)
    assert_allclose(lengths["every_length"][0, 0], rate * np.arange(61), atol=1e-3)

    (row,) = EXPERIMENT.report(config, results).summary.to_dict("records")
    assert row["slope (nats/step)"] == f"{rate:+.4f} ± 0.0000"
    assert f"g^k {rate:+.4f}" in row["theory (nats/step)"]
    half_life = row["half-life (steps)"]
    if gain < 1:
        assert float(half_life) == pytest.approx(math.log(2) / -rate, abs=6e-3)
    else:
        assert half_life == "grows"


def test_theory_bounds_the_measured_curves(results):
    for source in ("white_noise", "python_docs"):
        arrays = results[f"lag.{source}.elman"]
        # ||dL/ds_t|| of a unit readout is at most the spectral norm of the Jacobian.
        assert np.all(arrays["readout"] <= arrays["theory: sigma bound"] + 1e-4)
        assert np.all(arrays["theory: sigma bound"] <= arrays["theory: g^k"] + 1e-4)


def test_mean_over_steps_hides_that_gradients_vanish(results):
    """The claim of the figure "losses"."""
    for name in CELL_NAMES:
        arrays = results[f"lag.white_noise.{name}"]
        slopes = {loss: reporting.fitted_slope(arrays[loss])[0] for loss in reporting.LOSSES}
        assert slopes["readout"] < -0.15
        assert slopes["last_step"] == pytest.approx(slopes["readout"], rel=0.1)
        assert abs(slopes["mean_over_steps"]) < 0.02


def test_total_parameter_gradient_stays_while_its_far_part_vanishes(config, results):
    """The claim of the figure "parameter_gradient"."""
    for unit in (f"length.{source}.{name}" for source in config.inputs for name in CELL_NAMES):
        total, far = results[unit]["parameters"], results[unit]["far_parameters"]
        assert np.all(total.max(axis=1) - total.min(axis=1) < 0.7)
        # From the batch of one length to the other, the part beyond 20 steps is a part indeed.
        assert np.all(far[..., 1] < far[..., 0])
        assert np.all(far[..., 0] < total)
        assert np.all(far[:, -1, 1] < total[:, -1] - 2)
        assert np.all(far[:, 0, 1] == -np.inf)  # no step of T = 10 is 20 steps back


def test_forget_bias_of_a_preset_slows_the_decay(results):
    with_bias, without = (
        reporting.fitted_slope(results[f"preset.{preset}.lstm"]["readout"])[0]
        for preset in ("keras", "flax_linen")
    )
    assert without < -0.4  # gates of about 1/2
    assert without + 0.2 < with_bias < -0.1


def test_preset_without_forget_bias_is_the_plain_scheme(results):
    """flax.linen initialises a vanilla network as the experiment does at gain 1."""
    plain = results["lag.white_noise.elman"]["readout"]
    assert_array_equal(results["preset.flax_linen.elman"]["readout"], plain)


def test_cells_of_a_replica_see_the_same_sequences_and_readouts(config):
    scheme = gradient_norms.SCHEMES["orthogonal"]()
    draws = {}
    for name in CELL_NAMES:
        _, xs, rngs = gradient_norms._replicas(config, "python_docs", name, scheme, 20)
        draws[name] = xs, [rng.standard_normal(50) for rng in rngs]
    for name in CELL_NAMES:
        assert_array_equal(draws[name][0], draws["elman"][0])
        assert_array_equal(draws[name][1], draws["elman"][1])
    xs, readouts = draws["elman"]
    assert xs.shape == (config.seeds, 20, config.batch, config.input_size)
    assert np.any(xs[0] != xs[1])  # replicas differ
    assert np.any(readouts[0] != readouts[1])


def test_units_depend_on_nothing_but_config_and_name(config, results):
    for unit in ("length.python_docs.elman", "preset.keras.gru", "lag.white_noise.elman"):
        again = EXPERIMENT.run_unit(smoke(), unit)
        assert list(again) == list(results[unit])
        for name, array in again.items():
            assert_array_equal(array, results[unit][name], strict=True)
    other = EXPERIMENT.run_unit(smoke(seed=1), "lag.white_noise.elman")
    assert np.all(other["readout"][..., 0] != results["lag.white_noise.elman"]["readout"][..., 0])


def test_more_seeds_keep_the_first_ones():
    def replicas(seeds):
        config = small(seeds=seeds)
        scheme = gradient_norms.scheme_of(config, "elman")
        return gradient_norms._replicas(config, "white_noise", "elman", scheme, 9)[:2]

    (few, xs), (more, more_xs) = replicas(2), replicas(3)
    assert_array_equal(more_xs[:2], xs)
    for name in few:
        assert_array_equal(more[name][:2], few[name])


def test_registered_cell_takes_part(monkeypatch):
    monkeypatch.setitem(CELLS, "mine", lambda: elman("identity"))
    config = small(cells=("mine",), presets=("flax_linen",))
    results = run(config)
    said = EXPERIMENT.report(config, results)
    assert said.summary["cell"].tolist() == ["mine"]
    assert said.summary["theory (nats/step)"].tolist() == ["none"]
    for draw in said.figures.values():
        assert picture(draw())


# ----- the zoo ----------------------------------------------------------------------------------


def zoo(**changes):
    config = configs.get_config("zoo")
    config.update({"seeds": 2, "batch": 2, "hidden_size": 8, "steps": 24} | changes)
    return config


def test_the_zoo_is_every_cell_sorted_by_half_life():
    """From made-up curves: the longest half-life first, one row of the figure for each cell."""
    config = zoo(steps=100)
    assert list(config.cells) == list(CELLS)
    EXPERIMENT.validate(config)
    slopes = dict(zip(config.cells, np.random.default_rng(0).permutation(len(CELLS)), strict=True))
    results = {
        unit: {"readout": lines([-0.01 * slopes[unit.split(".")[2]]] * 2)}
        for unit in EXPERIMENT.units(config)
    }
    said = EXPERIMENT.report(config, results)
    assert said.summary["cell"].tolist() == sorted(slopes, key=slopes.get)
    assert list(said.figures) == ["zoo"]
    figure = said.figures["zoo"]()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == len(CELLS)
    assert picture(figure)


@pytest.mark.slow
def test_every_cell_of_the_zoo_is_measured():
    """At its own initialisation; a gradient at every lag unless the cell has exact zeros."""
    config = zoo()
    results = run(config)
    for unit, arrays in results.items():
        assert arrays["readout"].shape == (2, 2, 25), unit
        assert not np.isnan(arrays["readout"]).any(), unit
        assert np.isfinite(arrays["readout"][..., -1]).all(), unit


@pytest.mark.parametrize("losses", [(), ("last_step",), ("readout", "first_step")])
def test_unknown_losses(losses):
    with pytest.raises(ValueError, match=r"config\.losses must be 'readout' and any of"):
        EXPERIMENT.validate(small(losses=losses))


# ----- slopes and floors ------------------------------------------------------------------------


def lines(slopes, steps=100, samples=5):
    """(seeds, samples, steps + 1): a line against lag for each seed, the samples around it."""
    lags = np.arange(steps, -1, -1)
    offsets = np.linspace(-1, 1, samples)[:, None]
    return np.stack([slope * lags + 3 + offsets for slope in slopes]).astype(np.float32)


def test_slope_and_its_standard_error():
    slopes = [-0.5, -0.25, -0.3, -0.35]
    slope, error = reporting.fitted_slope(lines(slopes))
    assert slope == pytest.approx(-0.35, abs=1e-5)
    assert error == pytest.approx(np.std(slopes, ddof=1) / 2, abs=1e-5)
    slope, error = reporting.fitted_slope(lines([0.125]))
    assert slope == pytest.approx(0.125, abs=1e-5)
    assert math.isnan(error)


def test_slope_is_of_the_fit_window_and_of_the_median():
    curves = lines([-0.5, -0.5])
    first, last = reporting.fit_window(100)
    assert (first, last) == (20, 80)
    curves[..., : 100 - last] = -np.inf  # beyond the window
    curves[..., 101 - first :] = 50  # before it
    curves[:, 0] = -np.inf  # an outlier among five samples
    assert reporting.fitted_slope(curves)[0] == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize(("steps", "window"), [(8, (2, 6)), (60, (15, 45)), (400, (20, 380))])
def test_fit_window(steps, window):
    assert reporting.fit_window(steps) == window


def test_lag_at_which_float32_reports_zero():
    assert pytest.approx(-63 * math.log(2)) == reporting.FLOAT32_SQUARE  # tiny is 2**-126
    # 3 - k / 2 falls below it after 93.3 steps.
    assert reporting._float32_zero(lines([-0.5] * 3), -0.5) == "94"
    assert reporting._float32_zero(lines([-0.5] * 3, steps=93), -0.5) == "about 93"
    assert reporting._float32_zero(lines([-0.5] * 3, steps=20), -0.5) == "about 93"
    assert reporting._float32_zero(lines([0.1] * 3), 0.1) == "never"
    assert reporting._float32_zero(np.full((2, 3, 101), -np.inf), float("nan")) == "0"


def test_dead_network_does_not_grow(results):
    """Within the fit window there is no line to fit."""
    config = small()
    dead = {unit: dict(results[unit]) for unit in EXPERIMENT.units(config)}
    dead["lag.white_noise.elman"]["readout"] = np.full((2, 4, 61), -np.inf, np.float32)
    (row,) = EXPERIMENT.report(config, dead).summary.to_dict("records")
    assert row["half-life (steps)"] != "grows"
    assert "nan" not in row["slope (nats/step)"]
    assert row["float32 reports 0 from lag"] == "0"


# ----- the report -------------------------------------------------------------------------------


def picture(figure):
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_table_has_each_number_once(config, results):
    table = EXPERIMENT.report(config, results).table
    assert list(table) == [*KEY, "median", "p10", "p90"]
    assert not table.duplicated(KEY).any()
    assert not table.isna().any(axis=None)
    for column in ("median", "p10", "p90"):
        assert np.all(table[column] < np.inf)
    assert np.all(table["p10"] <= table["median"])
    assert np.all(table["median"] <= table["p90"])

    chosen = table[(table["kind"] == "lag") & (table["source"] == "python_docs")]
    chosen = chosen[(chosen["cell"] == "gru") & (chosen["quantity"] == "readout")]
    row = chosen[(chosen["seed"] == 1) & (chosen["x"] == 7)].squeeze()
    samples = np.sort(results["lag.python_docs.gru"]["readout"][1, :, config.steps - 7])
    assert row["median"] in samples[1:3]
    assert (row["p10"], row["p90"]) == (samples[0], samples[-1])

    far = table[(table["kind"] == "length") & (table["quantity"] == "far_parameters beyond lag 20")]
    assert set(far["x"]) == set(config.lengths)
    at_thirty = far[(far["source"] == "white_noise") & (far["cell"] == "lstm") & (far["x"] == 30)]
    expected = results["length.white_noise.lstm"]["far_parameters"][:, 1, 1]
    assert_array_equal(at_thirty["median"], expected.astype(np.float64))


def test_summary_has_a_row_for_each_input_and_cell(config, results):
    report = EXPERIMENT.report(config, results)
    summary = report.summary
    pairs = [(source, cell) for source in config.inputs for cell in config.cells]
    assert list(zip(summary["input"], summary["cell"], strict=True)) == pairs
    for (source, cell), row in zip(pairs, summary.to_dict("records"), strict=True):
        slope, error = reporting.fitted_slope(results[f"lag.{source}.{cell}"]["readout"])
        assert row["slope (nats/step)"] == f"{slope:+.4f} ± {error:.4f}"
        assert float(row["half-life (steps)"]) == pytest.approx(math.log(2) / -slope, abs=6e-3)
        assert row["fit window (lags)"] == "15 to 45"
        zero = int(row["float32 reports 0 from lag"].removeprefix("about "))
        assert zero == pytest.approx(-43.7 / slope, rel=0.15)
    said = " ".join(report.notes)
    for words in ("16 hidden units", "2 seeds", "4 sequences", "60 steps", "gain 1", "lstm 1"):
        assert words in said


def test_figures_can_be_read(results):
    config = smoke()  # with all presets, of which two have been computed
    shown = {
        unit: results["preset.keras." + unit.split(".")[2]] for unit in EXPERIMENT.units(config)
    }
    report = EXPERIMENT.report(config, shown | results)
    assert list(report.figures) == [
        "gradient_against_lag",
        "losses",
        "gradient_against_length",
        "parameter_gradient",
        "presets",
    ]
    for name, draw in report.figures.items():
        figure = draw()
        assert len(picture(figure)) > 10_000
        assert figure.get_suptitle()
        titles = [axes.get_title() for axes in figure.axes]
        assert len(set(titles)) == len(titles) == (2 if "against" in name else 3)
        assert all(titles)
        assert "(nats)" in figure.axes[0].get_ylabel()
        for axes in figure.axes:
            assert "(steps)" in axes.get_xlabel()
            low, high = axes.get_ylim()
            for line in axes.lines:
                values = np.asarray(line.get_ydata(), float)
                values = values[np.isfinite(values)]
                assert np.all((low <= values) & (values <= high))
        boxes = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
        assert boxes
        for legend in boxes:
            entries = [text.get_text() for text in legend.get_texts()]
            assert len(set(entries)) == len(entries)
            assert all(entries)


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("sources", [1, 2])
def test_nothing_is_cut_off_and_no_label_covers_another(results, cells, sources):
    config = smoke(
        cells=CELL_NAMES[:cells],
        inputs=("white_noise", "python_docs")[:sources],
        presets=("flax_linen", "keras"),
    )
    # Falling like a network of thousands of steps: the floors of float32 come into the figures.
    deep = {
        unit: {
            name: (values - 90) if name in ("readout", "far_parameters") else values
            for name, values in results[unit].items()
        }
        for unit in EXPERIMENT.units(config)
    }
    for draw in EXPERIMENT.report(config, deep).figures.values():
        figure = draw()
        picture(figure)  # lays everything out
        (legend,) = figure.legends
        texts = [figure._suptitle, *(axes.title for axes in figure.axes)]
        for artist in [legend, *texts]:
            box = artist.get_window_extent()
            inside = figure.bbox
            assert inside.x0 <= box.x0 < box.x1 <= inside.x1
            assert inside.y0 <= box.y0 < box.y1 <= inside.y1
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_tightbbox())
            low, high = axes.get_xlim()
            labels = [
                label
                for label in axes.get_xticklabels(which="both")
                if label.get_text() and low <= label.get_position()[0] <= high
            ]
            boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
            assert all(re.fullmatch(r"\d+", label.get_text()) for label in labels)


def test_figures_show_the_saved_numbers(config, results):
    axes = EXPERIMENT.report(config, results).figures["gradient_against_lag"]().axes[0]
    (line,) = [one for one in axes.lines if one.get_label() == "LSTM"]
    values = results["lag.white_noise.lstm"]["readout"].reshape(-1, config.steps + 1)[:, ::-1]
    middle = np.sort(values, axis=0)[3:5]
    drawn = line.get_ydata()
    assert_array_equal(line.get_xdata(), np.arange(config.steps + 1))
    assert np.all((drawn == middle[0]) | (drawn == middle[1]))
    assert drawn[0] == pytest.approx(0, abs=1e-6)  # the readout has length 1


def test_exact_zeros_are_drawn(config, results):
    """ReLUs that are all off let nothing through: -inf, which no axis can show."""
    dead = {}
    for unit, arrays in results.items():
        dead[unit] = dict(arrays)
        for name in {"readout", "last_step", "every_length", "far_parameters"} & arrays.keys():
            dead[unit][name] = arrays[name].copy()
            dead[unit][name][:, :3] = -np.inf  # most samples, so medians and deciles too
    said = EXPERIMENT.report(config, dead)
    for draw in said.figures.values():
        figure = draw()
        assert picture(figure)
        assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)


def test_without_presets_there_is_no_such_figure():
    config = small()
    assert "presets" not in EXPERIMENT.report(config, run(config)).figures


# ----- refusals ---------------------------------------------------------------------------------


def nul(folder):
    (folder / "nul.txt").write_bytes(b"text\0text" * 50)
    return folder / "nul.txt"


def short(folder):
    (folder / "short.txt").write_text("abcdefgh" * 3)
    return folder / "short.txt"


def words(folder):
    (folder / "words.csv").write_text("name,place\n" + "a,b\n" * 100)
    return folder / "words.csv"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "config.seeds must be at least 1, got 0"),
        ({"batch": 0}, "config.batch must be at least 1, got 0"),
        ({"hidden_size": -3}, "config.hidden_size must be at least 1, got -3"),
        ({"input_size": 0}, "config.input_size must be at least 1, got 0"),
        ({"tangents": 0}, "config.tangents must be at least 1, got 0"),
        ({"steps": 7}, "config.steps must be at least 8 to fit a slope, got 7"),
        ({"horizons": ()}, "config.horizons must be increasing integers above 0, got []"),
        ({"lengths": (0, 5)}, "config.lengths must be increasing integers above 0, got [0, 5]"),
        ({"lengths": (9, 5)}, "config.lengths must be increasing integers above 0, got [9, 5]"),
        ({"lengths": (5, 5)}, "config.lengths must be increasing integers above 0, got [5, 5]"),
        ({"lengths": (1.5,)}, "config.lengths must be increasing integers above 0, got [1.5]"),
        ({"horizons": (-1, 5)}, "config.horizons must be increasing integers above 0, got [-1, 5]"),
        ({"cells": ()}, "config.cells must be one or more different names, got []"),
        ({"cells": ("gru", "gru")}, "config.cells must be one or more different names"),
        ({"cells": ("lstmm",)}, "config.cells: unknown 'lstmm', known: .* did you mean 'lstm'?"),
        ({"presets": ("kears",)}, "config.presets: unknown 'kears', known: .* mean 'keras'?"),
        ({"inputs": ("white",)}, "config.inputs: unknown 'white', known: .* mean 'white_noise'?"),
        ({"inputs": ("file",)}, "config.inputs: unknown 'file', known: white_noise, python_docs"),
        ({"scheme": "ortogonal"}, "config.scheme: unknown 'ortogonal', .* mean 'orthogonal'?"),
        ({"data": "absent.txt"}, "config.data: absent.txt: No such file"),
        ({"data": "."}, "config.data: .: Is a directory"),
        ({"data": nul}, "config.data: .*nul.txt: is binary (NUL at byte 4), expected UTF-8"),
        ({"data": short}, "config.data: .*short.txt: has 24 characters, .* length asked for, 60"),
        ({"data": words}, "config.data: .*words.csv: has no numeric column"),
    ],
)
def test_wrong_values_are_named_in_one_line(tmp_path, changes, message):
    changes = {key: str(v(tmp_path)) if callable(v) else v for key, v in changes.items()}
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(ValueError, match=pattern) as caught:
        EXPERIMENT.validate(smoke(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("elman_activation", "tahn"), ("gru_reset", "befor")])
def test_unknown_options_of_a_cell_are_refused(field, value):
    with pytest.raises(ValueError, match=f"unknown .*{value}|reset must be .*{value}"):
        EXPERIMENT.validate(smoke(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("elman_activation", "tahn"), ("gru_reset", "befor"), ("seed", -1), ("gain", math.nan)],
)
def test_every_wrong_field_is_named(field, value):
    with pytest.raises(ValueError, match=f"config.{field}"):
        EXPERIMENT.validate(smoke(**{field: value}))


@pytest.mark.parametrize("variant", ["default", "smoke", "paper"])
def test_variants_load_validate_and_lock(variant):
    config = configs.get_config(variant)
    EXPERIMENT.validate(config)
    assert config.to_dict().keys() == configs.default().to_dict().keys()
    config.lock()
    with pytest.raises(AttributeError, match="hiden_size"):
        config.hiden_size = 3
    units = EXPERIMENT.units(config)
    assert len(set(units)) == len(units)
    assert units == launch.unit_names(units)
    per_cell = 2 * len(config.inputs) + len(config.presets)
    assert len(units) == per_cell * len(config.cells)


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"no variant 'smok', known: .*; did you mean 'smoke'"):
        configs.get_config("smok")


# ----- the user's own file ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "csv"])
def test_own_file_end_to_end(tmp_path, kind, capsys):
    rng = np.random.default_rng(0)
    if kind == "text":
        path = tmp_path / "verse.txt"
        path.write_text("how now brown cow " * 9)
    else:
        path = tmp_path / "walk.csv"
        # As many columns as the noise has features: the programs compiled for it serve again.
        values = rng.standard_normal((100, 8)).cumsum(axis=0).tolist()
        rows = "".join("Mon," + ",".join(map(str, row)) + "\n" for row in values)
        path.write_text("day,a,b,c,d,e,f,g,h\n" + rows)
    config = small(data=str(path))
    units = EXPERIMENT.units(config)
    own = [unit for unit in units if ".file-" in unit]
    assert len(own) == 2

    said = launch.run(EXPERIMENT, config, tmp_path / "run")
    (_, row) = said.summary.to_dict("records")
    assert float(row["half-life (steps)"]) > 0
    titles = [axes.get_title() for axes in said.figures["gradient_against_lag"]().axes]
    assert titles[0] == "white noise"
    assert titles[1] == row["input"] == path.name
    drawn = launch.run(EXPERIMENT, config, tmp_path / "run", plot_only=True)
    assert drawn.table.equals(said.table)

    path.write_text(path.read_text().replace("o", "0").replace("1", "2"))  # under the same name
    with pytest.raises(launch.UserError, match="only 2 of 4 units"):
        launch.run(EXPERIMENT, config, tmp_path / "run", plot_only=True)
    capsys.readouterr()


# ----- from the command line --------------------------------------------------------------------


def command(workdir, *args):
    config = f"--config={ROOT / 'configs' / 'gradient_norms.py'}:smoke"
    module = [sys.executable, "-m", "experiments.gradient_norms"]
    return [*module, config, f"--workdir={workdir}", *args]


def cli(workdir, *args, **options):
    return subprocess.run(
        command(workdir, *args), cwd=ROOT, capture_output=True, text=True, timeout=300, **options
    )


def test_binary_file_ends_in_one_line_and_leaves_nothing(tmp_path):
    done = cli(tmp_path / "run", f"--config.data={nul(tmp_path)}")
    assert (done.returncode, done.stdout) == (2, "")
    said = r"gradient_norms: config.data: [^\n]*nul.txt: is binary[^\n]*\n"
    assert re.fullmatch(said, done.stderr)
    assert not (tmp_path / "run").exists()


def test_lists_of_names_reach_the_experiment(tmp_path):
    done = cli(tmp_path / "run", "--config.cells=elman,lstmm", "--config.presets=")
    assert (done.returncode, done.stdout) == (2, "")
    assert "config.cells: unknown 'lstmm'" in done.stderr
    assert not (tmp_path / "run").exists()


def files(folder):
    """{name: bytes} of all files under their final names, but for what tells starts apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "environment.json"
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A finished run from the command line and an environment whose programs are compiled."""
    folder = tmp_path_factory.mktemp("unbroken")
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    done = cli(folder / "run", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(files(folder / "run")) == 30 + 4 + 2 * 5
    return folder / "run", env


@pytest.mark.slow
def test_killed_ten_times_it_ends_like_an_unbroken_run(unbroken, tmp_path):
    reference, env = unbroken
    whole = files(reference)
    start = time.monotonic()
    assert cli(tmp_path / "again", env=env).returncode == 0
    duration = time.monotonic() - start
    assert files(tmp_path / "again") == whole

    rng = random.Random(0)
    run = tmp_path / "run"
    found, kills = [0], 0
    while kills < 10:
        # At random in what is done as well as in time, lest all kills find the same.
        enough = found[-1] + rng.randint(1, 9)
        latest = time.monotonic() + rng.uniform(0.1, 1) * duration
        with subprocess.Popen(
            command(run), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as child:
            while child.poll() is None and time.monotonic() < latest:
                if sum(path.is_file() for path in run.rglob("[!.]*.*")) > enough:
                    break
                time.sleep(rng.uniform(0, 0.1))
            child.kill()
            said = child.stderr.read()
        assert (child.returncode, said) in [(0, b""), (-signal.SIGKILL, b"")]
        kills += child.returncode != 0
        # The same configuration gives the same bytes: a file is either whole or not there.
        there = files(run)
        assert there.items() <= whole.items()
        found.append(len(there))
        with contextlib.suppress(FileNotFoundError):
            assert json.loads((run / "environment.json").read_bytes())["seed"] == 0
    assert found == sorted(found)
    assert len(set(found)) > 4  # most were killed with work left to do
    assert cli(run, env=env).returncode == 0
    assert files(run) == whole
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
def test_plot_only_redraws_the_same_bytes(unbroken, tmp_path):
    reference, env = unbroken
    whole = files(reference)
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    shutil.rmtree(run / "figures")
    for name in ("results.csv", "arrays.npz", "summary.md"):
        (run / name).unlink()
    done = cli(run, "--plot_only", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "All 30 units were there before" in done.stdout
    assert files(run) == whole
