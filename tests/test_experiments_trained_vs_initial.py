"""Networks before and after training: what is recorded, what is learned, what is refused."""

import functools

import jax
import numpy as np
import pytest
import smoke_runs

from experiments import learners
from experiments import trained_vs_initial as experiment
from rnn_jax import elman, schemes, unroll
from rnn_jax.tasks import adding, characters, python_docs_text

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_jax")]
smoke = functools.partial(smoke_runs.smoke, "trained_vs_initial")


@pytest.fixture(scope="module")
def run(finished):
    """The smoke variant."""
    folder, report = finished("trained_vs_initial")
    return report, smoke_runs.saved(folder)


def test_update_0_is_the_initial_network():
    """Its keys drawn once more, and dense Jacobians multiplied in NumPy."""
    config = smoke(tasks=("adding",), cells=("elman",), snapshots=(0, 50))
    arrays = experiment.run_unit(config, "adding.elman")
    cell, task, steps, size = elman(), adding(), config.steps["adding"], config.hidden_size
    of_networks, _, of_tests = jax.random.split(jax.random.key(config.seed), 3)
    of_network, of_test = (jax.random.split(key, 2)[0] for key in (of_networks, of_tests))
    params = learners.init_network(
        of_network, cell, task, size, scheme=schemes.orthogonal(), readout_scale=size**-0.5
    )
    states_of = jax.jit(lambda xs: unroll(cell, params["cell"], xs)[1].outputs)

    examples = learners.draw_batch(jax.random.fold_in(of_test, 0), task, config.tested, steps)
    answers = jax.vmap(states_of)(examples.inputs)[:, -1] @ params["readout"]["kernel"]
    squares = np.square(np.asarray(answers)[:, 0] - np.asarray(examples.target))
    np.testing.assert_allclose(arrays["loss"][0, 0], squares.mean(), rtol=1e-5)

    total = 2 * config.burn_in + config.exponent_steps
    keys = jax.random.split(jax.random.fold_in(of_test, 1), 4)
    of_sequences, of_readouts, of_long, of_frame = keys
    with jax.enable_x64(True):  # which draws other numbers
        batch = learners.draw_batch(of_sequences, task, config.measured, steps).inputs
        vector = np.array(jax.random.normal(of_readouts, (config.measured, size))[0])
        long = learners.draw_batch(of_long, task, -(-total // steps), steps).inputs
        tangent = np.array(jax.random.normal(of_frame, (size, 1))[:, 0])
    vector /= np.linalg.norm(vector)
    log_norms, product, singular = [0.0], np.eye(size), {}
    for lag, jacobian in enumerate(jacobians(params, states_of(batch[0]))[::-1], start=1):
        product = product @ jacobian
        log_norms.append(np.log(np.linalg.norm(vector @ product)))
        singular[lag] = np.log(np.linalg.svd(product, compute_uv=False))
    np.testing.assert_allclose(arrays["log_norms"][0, 0, 0, ::-1], log_norms, atol=1e-4)
    for index, lag in enumerate(config.lags):
        found = arrays["log_singular_values"][0, 0, index]
        np.testing.assert_allclose(found, singular[lag], atol=1e-3)

    along = jacobians(params, states_of(long.reshape(-1, 2)[:total]))
    growth = []
    for jacobian in along[config.burn_in :]:
        tangent = jacobian @ (tangent / np.linalg.norm(tangent))
        growth.append(np.log(np.linalg.norm(tangent)))
    exponent = np.mean(growth[config.burn_in :])
    np.testing.assert_allclose(arrays["exponent"][0, 0], exponent, atol=1e-4)


def jacobians(params, states):
    """dh_t/dh_{t-1} of h_t = tanh(h_{t-1} U + ...), (T, N, N)."""
    kernel = np.asarray(params["cell"]["recurrent_kernel"], float)
    return (1 - np.asarray(states, float) ** 2)[:, :, None] * kernel.T


@pytest.mark.parametrize("task", ["adding", "text"])
def test_a_small_network_learns_more_than_the_baseline(run, task):
    report, arrays = run
    loss, error = (arrays[f"{task}.gru/{name}"] for name in ("loss", "error"))
    baseline = float(arrays[f"{task}.gru/baseline"])
    assert np.all(loss[:, -1] < 0.95 * baseline)
    assert np.all(error[:, -1] < error[:, 0])
    # At first it answers nearly nothing: 1 + 1/6 on adding, ln K of K characters.
    classes = experiment.split_task("text", 8)[0].output_size
    ignorant = 7 / 6 if task == "adding" else np.log(classes)
    assert np.all(np.abs(loss[:, 0] - ignorant) < 0.4)
    row = report.summary[report.summary["task"] == experiment.TASKS[task]].iloc[0]
    assert float(row["baseline"]) == pytest.approx(baseline, abs=1e-4)
    assert float(row["at the end"]) == pytest.approx(np.median(loss[:, -1]), abs=1e-4)


def test_curves_of_a_unit_tell_its_slope(run):
    """The table's slope is the line through medians, from the raw norms."""
    report, arrays = run
    log_norms = arrays["adding.gru/log_norms"][:, -1]
    lags = np.arange(3, 10)
    slopes = [
        np.polyfit(lags, np.quantile(one, 0.5, axis=0, method="closest_observation")[12 - lags], 1)
        for one in log_norms
    ]
    shown = report.summary["slope at the end"].iloc[0]
    assert float(shown.split(" ± ")[0]) == pytest.approx(np.mean(slopes, axis=0)[0], abs=1e-4)


def test_a_diverged_network_is_said():
    config = smoke(tasks=("adding",), snapshots=(0, 50))
    config.learning_rates.gru = 1e38
    results = {"adding.gru": experiment.run_unit(config, "adding.gru")}
    assert not np.isfinite(results["adding.gru"]["loss"][:, -1]).any()
    report = experiment.report(config, results)
    assert report.notes[-1] == (
        "Diverged, and left out of medians and means: 2 of 2 seeds of GRU, adding problem."
    )
    assert list(report.summary["at the end"]) == ["diverged"]
    for draw in report.figures.values():
        draw()


def test_the_text_of_tests_is_not_that_of_training():
    text = python_docs_text()
    codes, alphabet = characters(text)
    train, test = experiment.split_task("text", 8)
    cut = int(len(codes) * (1 - experiment.HELD_OUT))
    parts = {train: text[:cut], test: text[cut:]}
    for task, part in parts.items():
        for key in jax.random.split(jax.random.key(1), 5):
            example = task.sample(key, 100)
            assert "".join(alphabet[code] for code in example.target) in part
    assert train.baseline(1) == test.baseline(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("adding", "copi")}, "tasks: unknown 'copi'.*did you mean 'copy'"),
        ({"cells": ()}, "cells must be one or more different names"),
        ({"cells": ("gru", "gru")}, "cells must be one or more different names"),
        ({"steps": {"adding": 7}}, "steps.adding must be at least 8"),
        ({"tasks": ("copy",), "steps": {"copy": 20}}, "steps.copy must be at least 21"),
        ({"lags": (2, 13)}, "steps.adding must be at least 13"),
        ({"snapshots": (0,)}, "snapshots must be 0 and multiples of every"),
        ({"snapshots": (0, 75)}, "snapshots must be 0 and multiples of every = 50"),
        ({"snapshots": (50, 100)}, "snapshots must be 0 and"),
        ({"learning_rates": {"gru": 0.0}}, "learning_rates.gru must be a finite number above 0"),
        ({"clip": -1.0}, "clip must be a finite number above 0"),
        ({"forget_bias": float("nan")}, "forget_bias must be a finite number, got nan"),
        ({"exponent_steps": 31}, "exponent_steps must be at least 32"),
    ],
)
def test_configurations_are_refused_by_field(changes, message):
    with pytest.raises(ValueError, match=f"config.{message}"):
        experiment.validate(smoke(**changes))
