"""Success against length: what is recorded, what is learned, when it counts, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import smoke_runs

from configs import long_dependencies as configs
from experiments import launch, learners, statistics
from experiments import long_dependencies as experiment
from experiments import long_dependencies_report as reports
from rnn_jax import elman, schemes, unroll
from rnn_jax.cells import lookup
from rnn_jax.tasks.long_dependencies import adding
from rnn_jax.tasks.task import solved_after

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_jax")]
smoke = functools.partial(smoke_runs.smoke, "long_dependencies")


def only(task, length, cell, **changes):
    """The smoke variant of one task, with one length and cell."""
    config = smoke(tasks=(task,), cells=(cell,), **changes)
    with config.unlocked():
        for table, value in {
            "lengths": (length,),
            "shown": length,
            "criterion": config.criterion.get(task, "wrong"),
            "threshold": config.threshold.get(task, 0.01),
        }.items():
            config[table][task] = value
        config.learning_rates[cell] = config.learning_rates.get(cell, 1e-3)
    return config


@pytest.fixture(scope="module")
def run(finished):
    """The smoke variant."""
    folder, report = finished("long_dependencies")
    return folder, report, smoke_runs.saved(folder)


def test_a_gru_adds_and_tells_the_order(run):
    """What it takes to remember: the loss of an answer that does not is the baseline."""
    _, report, arrays = run
    for unit in ("adding.10.gru", "temporal_order.10.gru"):
        assert np.all(arrays[f"{unit}/solved_at"] > 0)
    assert list(report.summary["solved"]) == ["2 of 2"] * 2
    assert list(report.summary["95 %"]) == ["0.34 to 1.00"] * 2
    # At first it answers nearly nothing: 1 + 1/6 when adding, with outputs of order one besides.
    assert np.all(arrays["adding.10.gru/test_loss"][:, 0] > 0.5)


def test_seeds_are_recorded_until_they_are_solved_and_no_further(run):
    _, _, arrays = run
    for unit in experiment.units(smoke()):
        task = reports.parts_of(unit)[0]
        seen = "test_loss" if task == "adding" else "test_error"
        threshold = smoke().threshold[task]
        for seed, solved_at in enumerate(arrays[f"{unit}/solved_at"]):
            below = arrays[f"{unit}/{seen}"][seed] < threshold
            recorded = np.isfinite(arrays[f"{unit}/test_loss"][seed])
            # Medians over sequences, -inf for a gradient of zero.
            log_norms = ~np.isnan(arrays[f"{unit}/log_norm"][seed])
            assert np.array_equal(log_norms, np.broadcast_to(recorded[:, None], log_norms.shape))
            if solved_at == statistics.NEVER:
                assert recorded.all()
                assert not below.any()
            else:
                assert np.array_equal(recorded, np.arange(0, 201, 50) <= solved_at)
                assert np.flatnonzero(below).tolist() == [solved_at // 50]


def test_figures_are_drawn_from_saved_arrays_alone(run, monkeypatch):
    folder, report, _ = run
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert set(before) == {f"{name}.{kind}" for name in report.figures for kind in ("png", "svg")}
    monkeypatch.setattr(experiment, "MAKE", {})
    monkeypatch.setattr(experiment, "validate", lambda config: None)
    plain = launch.Experiment(
        "long_dependencies", lambda config: None, experiment.units, None, reports.report
    )
    launch.run(plain, smoke(), folder, plot_only=True)
    assert before == {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}


def test_records_are_those_of_a_network_trained_by_hand():
    """Its keys drawn once more; losses, gradient and its flow in a loop over sequences."""
    config = only("adding", 10, "elman", seeds=1, every=1, updates=2, test=20, measured=1, batch=3)
    arrays = experiment.run_unit(config, "adding.10.elman")
    cell, task, size = elman(), adding(), config.hidden_size
    of_networks, of_batches, of_tests = jax.random.split(jax.random.key(config.seed), 3)
    keys = (jax.random.split(key, 1)[0] for key in (of_networks, of_batches, of_tests))
    of_network, of_batch, of_test = keys
    params = learners.init_network(
        of_network, cell, task, size, scheme=schemes.orthogonal(), readout_scale=size**-0.5
    )
    of_test, of_sequences, of_readout = jax.random.split(of_test, 3)
    test = learners.draw_batch(of_test, task, 20, 10)

    def losses(params, examples):
        squares = []
        for inputs, target in zip(examples.inputs, examples.target, strict=True):
            hidden = unroll(cell, params["cell"], inputs)[1].outputs[-1]
            answer = hidden @ params["readout"]["kernel"] + params["readout"]["bias"]
            squares.append((answer[0] - target) ** 2)
        return jnp.stack(squares)

    optimiser = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(1e-3))
    state = optimiser.init(params)
    mean = lambda params, examples: losses(params, examples).mean()
    for update in range(3):
        tested = losses(params, test)
        assert arrays["test_loss"][0, update] == pytest.approx(float(tested.mean()), rel=1e-5)
        wrong = np.mean(np.sqrt(tested) >= 0.04)
        assert arrays["test_error"][0, update] == pytest.approx(wrong, abs=1e-6)
        if update == 2:
            break
        batch = learners.draw_batch(
            jax.random.split(jax.random.fold_in(of_batch, update))[1], task, 3, 10
        )
        loss, gradient = jax.jit(jax.value_and_grad(mean))(params, batch)
        assert arrays["loss"][0, update + 1] == pytest.approx(float(loss), rel=1e-4)
        change, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, change)
    assert np.isnan(arrays["loss"][0, 0])

    [xs] = learners.draw_batch(of_sequences, task, 1, 10, jnp.asarray(10)).inputs
    [vector] = np.array(jax.random.normal(of_readout, (1, size)), float)
    states = np.array(unroll(cell, params["cell"], xs)[1].outputs, float)
    vector /= np.linalg.norm(vector)
    log_norms = [0.0]
    for hidden in states[::-1]:
        vector = (1 - hidden**2) * vector @ np.array(params["cell"]["recurrent_kernel"], float).T
        log_norms.append(np.log(np.linalg.norm(vector)))
    np.testing.assert_allclose(arrays["log_norm"][0, 2, ::-1], log_norms, atol=1e-4)


def test_hochreiters_criterion_counts_in_training_sequences(monkeypatch):
    """Chunk by chunk the same count as of the whole record."""
    monkeypatch.setattr(experiment, "RUN", 200)
    config = only("temporal_order", 10, "gru", batch=2, every=100, updates=1000, seeds=2)
    config.criterion.temporal_order, config.threshold.temporal_order = "hochreiter", 0.3
    arrays = experiment.run_unit(config, "temporal_order.10.gru")
    assert np.all(arrays["solved_at"] > 100)
    assert np.any(arrays["solved_at"] % 100 != 0)
    kept = np.isfinite(arrays["test_loss"])
    assert np.array_equal(kept, np.arange(0, 1001, 100) < (arrays["solved_at"] + 100)[:, None])
    # Before the last record there was at least one wrong answer or too large a loss.
    rng = np.random.default_rng(0)
    losses, errors = rng.uniform(0, 0.5, (2, 400)), rng.integers(0, 2, (2, 400))
    errors[0, 150:], losses[0, 150:] = 0, 0.1
    batches = [
        {"loss": losses[:, part : part + 100], "error": errors[:, part : part + 100]}
        for part in range(0, 400, 100)
    ]
    found = experiment._solved(config, "temporal_order", 400, {}, batches)
    assert found.tolist() == [250, statistics.NEVER]
    assert found[0] == solved_after(losses[0], errors[0], mean_loss=0.3, run=100)
    assert experiment._solved(config, "temporal_order", 0, {}, []).tolist() == [-1, -1]


def test_an_lstm_told_the_length_learns_the_order_in_fewer_sequences_than_the_first():
    """Hochreiter and Schmidhuber (1997): 31 390 sequences on average, here at most 20 000."""
    config = configs.get_config("hochreiter_order")
    config.seeds, config.updates = 5, 5000
    arrays = experiment.run_unit(config, "temporal_order_hochreiter.110.lstm")
    assert np.all(arrays["solved_at"] > 2000 / config.batch)


def test_chrono_is_for_the_cells_that_keep_their_state():
    """Both gates of the LSTM, the one of the GRU; vanilla network and others begin as ever."""
    biases = {}
    for cell in ("elman", "irnn", "lstm", "gru"):
        config = only("adding", 30, cell, initialisation="chrono")
        scheme, _ = experiment._initialisation(config, cell, 30)
        params = lookup(cell).init(jax.random.key(0), 2, 16, scheme=scheme)
        biases[cell] = np.asarray(params["bias"])
    assert not biases["elman"].any()
    assert not biases["irnn"].any()
    into, keep, *_ = biases["lstm"].reshape(4, 16)
    np.testing.assert_array_equal(into, -keep)
    for bias in (keep, *biases["gru"].reshape(-1, 16)):
        assert bias.max() <= np.log(29)
        assert bias.min() >= 0
    assert np.ptp(keep) > 1  # of every unit another: ln u, u from 1 to 29


def test_lengths_are_drawn_from_the_spread():
    config = only("adding", 20, "gru", spread=5)
    _, test = experiment._tasks("adding", 20, config.spread)
    examples = learners.draw_batch(jax.random.key(0), test, 200, 20)
    assert set(np.asarray(examples.mask.sum(axis=1)).tolist()) == {15, 16, 17, 18, 19, 20}
    same, fixed = experiment._tasks("adding", 20, 0)
    assert same is fixed


@pytest.mark.parametrize("task", sorted(experiment.MAKE))
def test_every_task_can_be_asked_for(task):
    length = 64 if "pixel" in task else 100 if "hochreiter" in task else 24
    experiment.validate(only(task, length, "elman"))
    for part in experiment._tasks(task, length, 0):
        params = learners.init_network(jax.random.key(0), elman(), part, 4, readout_scale=1.0)
        batch = learners.draw_batch(jax.random.key(1), part, 2, length)
        loss, error = learners.scores(elman(), part, params, batch)
        assert np.isfinite(loss)
        assert 0 <= error <= 1
        assert part.baseline(length) > 0
    assert set(reports.TASKS) == set(experiment.MAKE)


def test_tests_of_images_are_of_others_than_those_trained_on():
    train, test = experiment._tasks("pixel_digits", 64, 0)
    images = [
        {np.asarray(inputs).tobytes() for inputs in learners.draw_batch(key, part, 300, 64).inputs}
        for key, part in zip(jax.random.split(jax.random.key(0)), (train, test), strict=True)
    ]
    assert not images[0] & images[1]


def test_a_diverged_network_is_said(tmp_path):
    config = only("adding", 10, "gru", updates=100)
    config.learning_rates.gru = 1e38
    report = launch.run(experiment.EXPERIMENT, config, tmp_path)
    assert list(report.summary["diverged"]) == [2]
    assert list(report.summary["solved"]) == ["0 of 2"]
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert np.all(arrays["adding.10.gru/diverged_at"] == 50)


def test_moments_are_those_of_each_seeds_own_training():
    log_norm = np.arange(30.0).reshape(2, 5, 3)
    log_norm[0, 3:] = np.nan
    arrays = {"log_norm": log_norm}
    for index, expected in enumerate(([0, 0], [1, 2], [2, 4])):
        records, curves = reports._moment(arrays, index)
        assert records.tolist() == expected
        np.testing.assert_array_equal(curves[1], log_norm[1, expected[1], ::-1])


@pytest.mark.parametrize("variant", ["default", "smoke", "paper", *configs.PUBLISHED])
def test_variants_are_valid(variant):
    config = configs.get_config(variant)
    experiment.validate(config)
    assert len(experiment.units(config)) == len(set(experiment.units(config))) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("adding", "copi")}, "tasks: unknown 'copi'.*did you mean 'copy'"),
        ({"cells": ("gru", "gru")}, "cells must be one or more different names"),
        ({"cells": ("convlstm",)}, "cells: unknown 'convlstm'"),
        ({"cells": ("ugrnn",)}, "learning_rates has nothing for ugrnn"),
        ({"tasks": ("parity",)}, "lengths has nothing for parity"),
        ({"lengths": {"adding": (20, 10)}}, "lengths.adding must be increasing numbers"),
        ({"lengths": {"adding": (1, 10)}}, "lengths.adding: adding: steps must be at least 2"),
        ({"spread": 1}, "lengths.temporal_order: of_varied_length: least must be at least 10"),
        ({"shown": {"adding": 11}}, "shown.adding must be one of the lengths"),
        ({"criterion": {"adding": "right"}}, "criterion.adding: unknown 'right'"),
        ({"criterion": {"adding": "hochreiter"}, "batch": 3}, "batch must divide 2000"),
        ({"threshold": {"adding": 0.0}}, "threshold.adding must be a finite number above 0"),
        ({"updates": 201}, "updates must be a multiple of every = 50"),
        ({"updates": 0}, "updates must be at least 50"),
        ({"optimiser": "adamw"}, "optimiser: unknown 'adamw'"),
        ({"initialisation": "smart"}, "initialisation: unknown 'smart'"),
        ({"initialisation": "smart_tanh", "hidden_size": 14}, "hidden_size must be at least 15"),
        ({"learning_rates": {"gru": 0.0}}, "learning_rates.gru must be a finite number above 0"),
        ({"clip": float("inf")}, "clip must be a finite number above 0"),
    ],
)
def test_configurations_are_refused_by_field(changes, message):
    with pytest.raises(ValueError, match=f"config.{message}"):
        experiment.validate(smoke(**changes))
