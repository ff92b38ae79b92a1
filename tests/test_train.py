"""The applications: each learns, overfits a batch, begins at its analytic loss, learns no noise."""

import dataclasses
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from configs.suggest import get_config as suggest_config
from configs.train import TASKS, get_config, smoke
from experiments import applications, figures, generation, launch, suggest, train, train_report
from experiments.applications import APPLICATIONS, model_of, problem_of
from experiments.generation import encoded, likeliest, read
from experiments.results import Report
from rnn_jax import gru
from rnn_jax.models import ManyToMany, Reader
from rnn_jax.tasks.language import Language, next_symbols
from rnn_jax.tasks.problem import Conditioned, shuffled
from rnn_jax.tasks.vocabulary import UNKNOWN
from rnn_jax.training import Recipe, evaluate, fit
from rnn_jax.training.fit import make_objective

pytestmark = pytest.mark.usefixtures("plain_jax")
CHECKOUT = Path(__file__).resolve().parent.parent

# What a smoke run must reach on the test set, where guessing stays at the second number.
LEARNED = {
    "digits": (0.8, 0.1),
    "captions": (0.02, 0.006),
    "music": (4.5, 5.4),
    "sentiment": (0.9, 0.5),
    "forecasting": (20.0, 29.0),
    "characters": (3.6, 4.6),
    "words": (5.6, 5.8),
    "video": (0.3, 0.2),
    "translation": (0.5, 0.0),
    "questions": (0.3, 0.2),
    "handwriting": (0.75, 0.9),
}


def made(name):
    """The smoke config of a task, its problem, and its last network."""
    config = smoke(name)
    network = config.networks[-1]
    problem = problem_of(config, network)
    return config, problem, model_of(config, network, problem)


def test_every_application_has_configs_and_a_test():
    assert set(TASKS) == set(APPLICATIONS) == set(LEARNED)
    for name in TASKS:
        train.validate(get_config(name))
        train.validate(get_config(f"{name}_smoke"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_smoke_run_learns(name, tmp_path):
    config = smoke(name)
    report = launch.run(train.EXPERIMENT, config, tmp_path)
    tested = report.table[report.table["set"] == "test"]["metric"].to_numpy(float)
    reached, guessed = LEARNED[name]
    assert ((tested > reached) if reached > guessed else (tested < reached)).all()
    assert (tmp_path / "figures" / "learning.png").stat().st_size > 10_000
    # Redrawn from what is saved, nothing changes.
    before = (tmp_path / "results.csv").read_bytes()
    launch.run(train.EXPERIMENT, config, tmp_path, plot_only=True)
    assert (tmp_path / "results.csv").read_bytes() == before


@pytest.mark.parametrize("name", TASKS)
def test_the_first_loss_is_the_analytic_one(name):
    _, problem, model = made(name)
    if problem.initial_loss is None:
        pytest.skip("CTC sums over alignments: its tests are in test_tasks_ctc")
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:8]), problem.validation)
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    params = model.init(jax.random.key(0), one.inputs, one.mask)["params"]
    outputs = jax.vmap(lambda e: model.apply({"params": params}, e.inputs, e.mask))(batch)
    np.testing.assert_array_equal(outputs, 0)
    losses = jax.vmap(problem.loss)(outputs, batch)
    if name == "forecasting":  # the mean square of the training targets, which differ
        losses = jax.vmap(problem.loss)(
            jnp.zeros((len(problem.train.mask), 1)), jax.tree.map(jnp.asarray, problem.train)
        ).mean()
    np.testing.assert_allclose(losses, problem.initial_loss, rtol=1e-5)


def trained_on(problem, model, batch, updates, rate):
    """The loss of a batch after so many updates on it alone, relative to the first."""
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    params = model.init(jax.random.key(0), one.inputs, one.mask)["params"]
    carry, flag = (), None
    if problem.continues is not None:
        first = model.apply({"params": params}, method="initial_state")
        count = batch.mask.shape[0]
        carry, flag = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), first), False
    objective = make_objective(model, problem)
    # A rate that falls to zero: at a constant one the last loss is wherever the noise leaves it.
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, updates))

    def step(state, n):
        params, opt_state = state
        loss, gradient = jax.value_and_grad(
            lambda params: objective(params, carry, (batch, flag), jax.random.key(1))[0]
        )(params)
        change, opt_state = optimiser.update(gradient, opt_state)
        return (optax.apply_updates(params, change), opt_state), loss

    start = params, optimiser.init(params)
    _, losses = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(updates)))(start)
    return float(losses[-1] / losses[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_batch_can_be_learned_by_heart(name):
    config, problem, _ = made(name)
    config.dropout = 0.0
    model = model_of(config, config.networks[-1], problem)
    batch = problem.draw(
        jax.tree.map(jnp.asarray, problem.train), jax.random.key(0), jnp.int32(0), 8
    )
    # Melodies share their beginnings, of which nothing says how they go on but the mode.
    known = {"music": (800, 0.01, 0.1), "video": (700, 0.03, 0.1), "questions": (800, 0.01, 0.05)}
    updates, rate, left = known.get(name, (400, 0.01, 0.05))
    assert trained_on(problem, model, batch, updates, rate) < left


def meaningless(problem, seed=0):
    """The problem with what is to be learned from its training data destroyed.

    Where a symbol is said after those before it, their order; else which target has which input.
    """
    rng = np.random.default_rng(seed)
    if isinstance(problem, Language):
        return dataclasses.replace(problem, train=rng.permutation(problem.train))
    inputs, target, mask = problem.train
    if problem.name == "chorale melodies":
        target = target.copy()
        target[mask] = rng.permutation(target[mask])
        previous = np.concatenate([inputs.previous[:, :1], target[:, :-1]], axis=1)
        inputs = inputs._replace(previous=np.where(mask, previous, 0))
        return dataclasses.replace(
            problem, train=problem.train._replace(inputs=inputs, target=target)
        )
    order = rng.permutation(len(mask))
    if isinstance(inputs, Conditioned):
        inputs = inputs._replace(previous=inputs.previous[order])
        return dataclasses.replace(
            problem, train=type(problem.train)(inputs, target[order], mask[order])
        )
    return dataclasses.replace(problem, train=problem.train._replace(target=target[order]))


# The metric of whoever has learned all but what was destroyed, and how far from it chance goes.
CHANCE = {
    "digits": (0.1, 0.06),
    "captions": (0.0, 0.02),
    "music": (5.35, 0.15),
    "sentiment": (0.5, 0.08),
    "forecasting": (29.1, 4.0),
    "characters": (4.6, 0.15),
    "words": (5.78, 0.2),
    "video": (0.2, 0.06),
    "translation": (0.0, 0.03),
    "questions": (0.2, 0.06),
    "handwriting": (0.9, 0.12),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_from_shuffled_labels_nothing_is_learned(name):
    config, problem, model = made(name)
    noise = meaningless(problem)
    recipe = dataclasses.replace(train.recipe_of(config), patience=None)
    *_, progress = fit(model, noise, recipe, jax.random.key(0))
    _, metric = evaluate(model, problem, progress.state.params, problem.test)
    chance, margin = CHANCE[name]
    better = metric - chance if problem.metric.higher_is_better else chance - metric
    assert better < margin


def test_batches_are_shuffled_by_default():
    assert problem_of(smoke("digits"), "gru").draw is shuffled


def arguments(name, workdir, *more):
    return [
        sys.executable, "-m", "experiments.train", f"--config=configs/train.py:{name}",
        f"--workdir={workdir}", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_weights(tmp_path):
    # Two networks, side by side where there are two cores.
    fields = (
        "--config.updates=400", "--config.every=20", "--config.patience=100", "--config.seeds=2",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = lambda folder: arguments("forecasting_smoke", folder, *fields)
    subprocess.run(run(whole), cwd=CHECKOUT, check=True, capture_output=True)
    checkpoints = killed / "units" / "lstm.0" / "checkpoints"
    for least in (40, 160, 280):
        process = subprocess.Popen(run(killed), cwd=CHECKOUT, stdout=subprocess.PIPE)
        done = lambda: [
            int(path.name) for path in checkpoints.glob("[0-9]*") if path.name.isdigit()
        ]
        while process.poll() is None and max(done(), default=0) < least:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)  # until those that compute units have ended, too
    subprocess.run(run(killed), cwd=CHECKOUT, check=True, capture_output=True)
    first, second = (np.load(folder / "arrays.npz") for folder in (whole, killed))
    assert sorted(first.files) == sorted(second.files)
    for field in first.files:
        np.testing.assert_array_equal(first[field], second[field], err_msg=field)


@pytest.mark.slow
def test_ctrl_c_waits_for_no_unit(tmp_path):
    """Both networks are amid a program of many minutes, which nothing can interrupt."""
    fields = ("--config.updates=1000000", "--config.every=1000000", "--config.seeds=2")
    process = subprocess.Popen(
        arguments("forecasting_smoke", tmp_path / "run", *fields),
        cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "run" / "units" / "lstm.0" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes get it
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "train: stopped after 0 of 2 units; the same command resumes\n"


@pytest.mark.slow
def test_what_diverges_ends_in_one_line(tmp_path):
    result = subprocess.run(
        arguments(
            "forecasting_smoke", tmp_path / "run", "--config.optimiser=sgd",
            "--config.learning_rate=1e30", "--config.clip=1e30", "--config.weight_decay=0",
            "--config.seeds=2",
        ),
        cwd=CHECKOUT, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert (
        "the loss or its gradient is not finite; ln of the gradient norms that led there"
        in result.stderr
    )
    assert re.match(r"train: 2 units failed: lstm\.\d, lstm\.\d; the first said:", result.stderr)
    assert re.search(r"units/lstm\.\d/checkpoints/0", result.stderr)
    assert result.stderr.endswith("try a smaller learning_rate in another --workdir\n")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", "digit", "config.task: unknown 'digit'.*did you mean 'digits'"),
        (
            "networks",
            ("lsmt",),
            "^config.networks: unknown network 'lsmt', known: feed_forward, .*, ugrnn; did you "
            r"mean 'lstm'\? \(a cell may have bidirectional_ before it\)$",
        ),
        ("networks", ("LSTM",), "unknown network 'LSTM', .* did you mean 'lstm'"),
        (
            "networks",
            ("bidirectional_lsmt",),
            "unknown network 'lsmt', .* did you mean 'lstm'.* may have bidirectional_ before it",
        ),
        (
            "networks",
            ("bidirectional_feed_forward",),
            "^config.networks: 'bidirectional_feed_forward', expected a cell after bidirectional_",
        ),
        (
            "networks",
            ("no_module:cell",),
            "^config.networks: unknown cell 'no_module:cell': No mod",
        ),
        ("dropout", 1.0, "config.dropout must be a rate from 0 to below 1, got 1"),
        ("every", 7, "config.updates must be a multiple of every = 7"),
        ("optimiser", "adamm", "unknown 'adamm'.*did you mean 'adam'"),
        ("pool", "max", "config.pool: unknown 'max'"),
        ("embedding_gain", 0.0, "config.embedding_gain must be a finite number above 0, got 0"),
        ("weight_decay", 0.1, "config.weight_decay is 0.1, but config.optimiser is 'adam': only"),
        ("task", "words", "config.data has the fields hub, .* begin with .*train.py:words$"),
    ],
)
def test_a_wrong_field_is_named(field, value, message):
    config = smoke("sentiment")
    config[field] = value
    with pytest.raises(ValueError, match=message):
        train.validate(config)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("sentiment", {"text": "body"}, "config.data.text is 'body', but of no file"),
        ("sentiment", {"longest": 10}, "config.data.longest is 10, but of no file"),
        ("sentiment", {"path": "a.csv", "hub": "imdb"}, "path and config.data.hub are both given"),
        ("forecasting", {"column": "sales"}, "config.data.column is 'sales', but of no file"),
        ("forecasting", {"period": 7}, "config.data.period is 7, but of no file"),
    ],
)
def test_a_field_without_effect_is_refused(name, data, message):
    config = smoke(name)
    config.data.update(data)
    with pytest.raises(ValueError, match=message):
        train.EXPERIMENT.prepare(config)


def test_hidden_layers_before_a_decoder_are_not_empty():
    config = smoke("captions")
    config.features = (0,)
    with pytest.raises(ValueError, match=r"config\.features must be at least 1, got 0"):
        train.validate(config)


@pytest.mark.parametrize(
    ("name", "task", "missing"),
    [
        ("digits", "music", "embedding and no embedding_gain and no features"),
        ("music", "digits", "pool"),
    ],
)
def test_a_task_has_its_own_configuration(name, task, missing):
    """Also where its data have the same fields as another's."""
    config = smoke(name)
    config.task = task
    message = f"^config has no {missing}, .*: begin with --config=configs/train.py:{task}$"
    with pytest.raises(ValueError, match=message):
        train.EXPERIMENT.prepare(config)


def test_a_configuration_has_no_field_without_effect():
    """A model made by another value of a field is another one."""
    other = {"attention": False, "embedding": 7, "embedding_gain": 3.0, "pool": "mean"}
    for name in TASKS:
        config, problem, model = made(name)
        for field in ("attention", "embedding", "embedding_gain", "features", "pool"):
            if field in config:
                config[field] = other.get(field, (5,))
                changed = model_of(config, config.networks[-1], problem)
                assert changed != model, (name, field)
                model = changed


def test_a_feed_forward_network_reads_no_sequence():
    config = smoke("sentiment")
    config.networks = ("feed_forward",)
    with pytest.raises(ValueError, match="feed_forward reads no sequences, as sentiment has"):
        train.EXPERIMENT.prepare(config)


@pytest.mark.parametrize(
    ("name", "network", "message"),
    [
        ("words", "bidirectional_gru", "words are foretold in one direction, expected gru"),
        ("characters", "bidirectional_gru", "characters are foretold in one direction"),
        ("captions", "bidirectional_gru", "captions are made in one direction, expected gru"),
        ("music", "bidirectional_gru", "melodies are made in one direction, expected gru"),
        ("digits", "convlstm", "convlstm"),
        ("video", "lstm", "lstm"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(
    name, network, message, tmp_path
):
    config = smoke(name)
    config.networks = (network,)
    with pytest.raises(launch.UserError, match=f"config.networks: {network}.*{message}"):
        launch.run(train.EXPERIMENT, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_own_cell_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_cells_of_a_test.py").write_text(
        "import jax.numpy as jnp, rnn_jax\nleaky = rnn_jax.elman(jnp.tanh)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke("forecasting")
    config.networks = ("my_cells_of_a_test:leaky",)
    launch.run(train.EXPERIMENT, config, tmp_path / "run")
    assert (tmp_path / "run" / "units" / "my_cells_of_a_test.leaky.0" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("inner.step(params, {}['state'], x)", "KeyError: 'state'"),
        ("inner.step(params, state, x[:, None])", "ValueError: .*incompatible shapes"),
    ],
)
def test_an_error_of_an_own_cell_is_one_line(broken, message, tmp_path, monkeypatch):
    (tmp_path / "broken_cell_of_a_test.py").write_text(
        "import dataclasses, rnn_jax\n"
        "inner = rnn_jax.gru()\n"
        "def step(params, state, x):\n"
        f"    return {broken}\n"
        "mine = dataclasses.replace(inner, step=step)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke("forecasting")
    config.networks = ("broken_cell_of_a_test:mine",)
    place = r"config.networks: broken_cell_of_a_test:mine, forecasting: .*_of_a_test.py, line 4"
    with pytest.raises(launch.UserError, match=f"^{place}: {message}"):
        launch.run(train.EXPERIMENT, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    del sys.modules["broken_cell_of_a_test"]


def test_a_run_keeps_to_its_data_and_its_own_cell(tmp_path, monkeypatch):
    """Also when all of its units are finished."""
    cell, table = tmp_path / "edited_cell_of_a_test.py", tmp_path / "sales.csv"
    cell.write_text("import jax.numpy as jnp, rnn_jax\nmine = rnn_jax.elman(jnp.tanh)\n")
    monkeypatch.syspath_prepend(tmp_path)
    sales = "\n".join(f"{100 + n % 7}" for n in range(300))
    table.write_text(f"sales\n{sales}")
    config = smoke("forecasting")
    config.networks, config.data.path = ("edited_cell_of_a_test:mine",), str(table)
    nothing = dataclasses.replace(
        train.EXPERIMENT,
        run_unit=lambda config, unit, desk: {"nothing": np.zeros(1)},
        report=lambda config, results: Report(*[pd.DataFrame({"a": [1]})] * 2, {}, []),
    )

    def run():
        applications._problem_of.cache_clear()
        applications._source.cache_clear()
        launch.run(nothing, config, tmp_path / "run")

    run()
    run()
    table.write_text(f"sales\n{sales}1")
    with pytest.raises(launch.UserError, match=r"the data of .*sales.csv has changed since"):
        run()
    desk = launch.Desk(tmp_path / "run" / "units" / "edited_cell_of_a_test.mine.0", print)
    with pytest.raises(launch.UserError, match=r"the data of .*sales.csv has changed since"):
        train.run_unit(config, desk.folder.name, desk)
    table.write_text(f"sales\n{sales}")
    cell.write_text(cell.read_text().replace("tanh", "sin"))
    with pytest.raises(launch.UserError, match=r": edited_cell_of_a_test.py has changed since"):
        run()
    del sys.modules["edited_cell_of_a_test"]


def test_a_file_in_the_place_of_checkpoints_is_one_line(tmp_path):
    (tmp_path / "run" / "units" / "lstm.0").mkdir(parents=True)
    (tmp_path / "run" / "units" / "lstm.0" / "checkpoints").touch()
    config = smoke("forecasting")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(launch.UserError, match=r"lstm.0: .*lstm.0/checkpoints"):
        launch.run(train.EXPERIMENT, config, tmp_path / "run")


def test_data_of_another_type_are_one_line():
    config = smoke("video")
    with config.ignore_type():
        config.data.train = "many"
    with pytest.raises(ValueError, match=r"config.data of video: train must be an integer, got"):
        train.prepare(config)


@pytest.mark.parametrize(("name", "count"), [("words", 1), ("music", 3)])
def test_what_a_network_makes_is_written_whole(name, count, tmp_path, monkeypatch):
    _, problem, model = made(name)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), problem.validation)
    params = model.init(jax.random.key(0), one.inputs, one.mask)["params"]
    named, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (named.append(b), replace(a, b)))
    generation.products(jax.random.key(0), model, params, problem, tmp_path)
    assert sorted(named) == sorted(tmp_path.iterdir())
    assert len(named) == count


def test_a_file_that_is_not_there_leaves_nothing_behind(tmp_path):
    config = smoke("sentiment")
    config.data.path = str(tmp_path / "nowhere.csv")
    with pytest.raises(launch.UserError, match=r"nowhere\.csv"):
        launch.run(train.EXPERIMENT, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_own_table_of_texts_and_own_series(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["message,class"]
    for n in range(300):
        spam = rng.random() < 0.5
        words = rng.choice(["win", "prize", "free"] if spam else ["lunch", "report", "thanks"], 4)
        lines.append(f"{' '.join(words)} {n},{'spam' if spam else 'ham'}")
    (tmp_path / "mail.csv").write_text("\n".join(lines))
    config = smoke("sentiment")
    config.data.path, config.data.longest = str(tmp_path / "mail.csv"), 4
    report = launch.run(train.EXPERIMENT, config, tmp_path / "mail")
    assert report.table[report.table["set"] == "test"]["metric"].item() > 0.9
    assert report.notes[-1] == "300 of 300 texts are cut after their first 4 tokens."

    days = np.arange("2020-01-01", "2021-06-01", dtype="datetime64[D]")
    sales = 100 + 30 * np.sin(2 * np.pi * np.arange(len(days)) / 7) + rng.standard_normal(len(days))
    table = "\n".join(f"{day},{value:.2f}" for day, value in zip(days, sales, strict=True))
    (tmp_path / "sales.csv").write_text("day,sales\n" + table)
    config = smoke("forecasting")
    config.data.path, config.data.period = str(tmp_path / "sales.csv"), 7
    report = launch.run(train.EXPERIMENT, config, tmp_path / "sales")
    assert report.table[report.table["set"] == "test"]["metric"].item() < 5
    assert (tmp_path / "sales" / "figures" / "forecast.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "wrods"}, "unknown 'wrods'"),
        (
            {"data": {"path": "", "steps": 32, "limit": 4000, "seed": 0}},
            "config.data has the fields",
        ),
        ({"patience": None}, "not as this version trains"),
    ],
)
def test_suggestions_from_a_run_of_another_version_are_refused(change, message, tmp_path):
    saved = smoke("words").to_dict() | change
    (tmp_path / "config.json").write_text(json.dumps(saved))
    asked = suggest_config()
    asked.run = str(tmp_path)
    with pytest.raises(ValueError, match=f"^config.run={tmp_path}: .*{message}"):
        suggest.answer(asked)


@pytest.mark.slow
def test_suggestions_from_a_trained_network(tmp_path, capsys):
    text = "the cat sat on the mat and the dog sat on the log . " * 200
    (tmp_path / "cats.txt").write_text(text)
    config = smoke("words")
    config.data.path, config.data.steps = str(tmp_path / "cats.txt"), 8
    launch.run(train.EXPERIMENT, config, tmp_path / "run")
    capsys.readouterr()
    asked = suggest_config()
    asked.run, asked.prefix, asked.count = str(tmp_path / "run"), "the dog sat on", 2
    asked.beam, asked.beam_length = 2, 3
    suggest.answer(asked)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "'" in line]
    assert "'the'" in rows[0]
    found = [line for line in lines if line.startswith("Beam search")]
    assert len(found) == 2
    assert found[0].endswith(": the dog sat on the log .")
    for field, value, message in (
        ("run", str(tmp_path), "no run directory of experiments.train"),
        ("prefix", "  ", "prefix has nothing to go on from"),
        ("number", 7, "no such checkpoints"),
        ("count", 1000, "count must be between 1 and"),
        ("beam", -1, "config.beam must be at least 0"),
        ("beam_length", 0, "config.beam_length must be at least 1"),
    ):
        wrong = suggest_config()
        wrong.run = str(tmp_path / "run")
        wrong[field] = value
        with pytest.raises(ValueError, match=message):
            suggest.answer(wrong)
    problem_of.__globals__["_problem_of"].cache_clear()
    (tmp_path / "cats.txt").write_text(text.replace("cat", "cow"))
    before = (tmp_path / "run" / "sources.json").read_bytes()
    with pytest.raises(launch.UserError, match=r"cats.txt has changed since this run began"):
        suggest.answer(asked)
    assert (tmp_path / "run" / "sources.json").read_bytes() == before
    (tmp_path / "run" / "sources.json").unlink()
    suggest.answer(asked)
    assert not (tmp_path / "run" / "sources.json").exists()


def test_the_likeliest_continuations_are_those_of_all():
    """Of every pair of words by a network of random weights, as wide a beam as there are words."""
    problem = next_symbols("the cat sat on the mat . the dog sat too . " * 40, "word", steps=8)
    model = ManyToMany(Reader(gru(), 8, tokens=problem.tokens), problem.output_size)
    like = model.init(jax.random.key(0), jnp.arange(3))["params"]
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(tree, drawn)
    prefix = encoded(problem, "the cat")

    words = encoded(problem, " ".join(problem.vocabulary.symbols))
    allowed = [word for word in words if word > UNKNOWN]

    def chances(tokens):
        logits = np.asarray(read(model, params, tokens)[1], float)[allowed]
        return np.exp(logits) / np.exp(logits).sum()

    pairs = {
        problem.join(problem.vocabulary.decode([one, two])): p * q
        for one, p in zip(allowed, chances(prefix), strict=True)
        for two, q in zip(allowed, chances([*prefix, one]), strict=True)
    }
    for width in (len(allowed), 1000):  # the second finds all
        found = likeliest(model, params, problem, prefix, count=2, width=width)
        assert len(found) == min(width, len(pairs))
        best = sorted(pairs, key=pairs.__getitem__, reverse=True)[: len(found)]
        np.testing.assert_allclose([p for _, p in found], [pairs[text] for text in best], rtol=1e-4)
        assert {text: pairs[text] for text, _ in found} == pytest.approx(dict(found), rel=1e-4)


def forecast_figure(config, times):
    """Drawn of made-up results, and laid out."""
    arrays = {
        "times": times,
        "truth": np.sin(np.arange(len(times))),
        "forecast": np.cos(np.arange(len(times))),
        "baseline_names": np.array(["worse", "better"]),
        "baselines": np.array([2.0, 1.0]),
        "baseline_forecasts": np.stack([np.full(len(times), 2.0), np.full(len(times), 1.0)]),
        "quantity": np.array("sales"),
    }
    results = dict.fromkeys(train.units(config), arrays)
    figure = figures.styled(train_report._draw_forecast)(config, results)
    figure.savefig(io.BytesIO(), dpi=figure.dpi)
    return figure


def test_the_figure_of_forecasts_has_the_best_baseline_and_names_what_it_shows():
    config = smoke("forecasting")
    config.networks = ("lstm", "star_cell:star", "bidirectional_star_cell:star")
    figure = forecast_figure(config, np.arange(1962, 2009))
    assert figure.get_suptitle().endswith("test part, one seed")
    (dashed,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert dashed.get_ydata().tolist() == [1.0] * 47
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "truth", "LSTM", "star_cell:star", "bidirectional star_cell:star", "best baseline: better",
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["2020-02-01", "2020-12-01", "2021-06-01", "2045-01-01"])
def test_dates_below_forecasts_do_not_touch(end):
    days = np.arange("2020-01-01", end, dtype="datetime64[D]")
    figure = forecast_figure(smoke("forecasting"), days.astype("datetime64[s]").astype(str))
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.get_xticklabels() if text.get_text()]
    assert len(boxes) > 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    ("name", "quantity"), [("sunspots", "sunspots"), ("co2", "CO2 .* \\(ppm\\)")]
)
def test_saved_forecasts_are_in_units_of_the_data(name, quantity):
    config = smoke("forecasting")
    config.data.series = name
    problem = problem_of(config, "lstm")
    model = model_of(config, "lstm", problem)
    first = jax.tree.map(lambda leaf: leaf[0], problem.test)
    best = model.init(jax.random.key(0), first.inputs, first.mask)["params"]
    saved = train._forecast(model, types.SimpleNamespace(best=best), problem)
    assert re.fullmatch(quantity, str(saved["quantity"]))
    errors = saved["baseline_forecasts"] - saved["truth"]
    rmse = np.sqrt(np.mean(np.square(errors), axis=1))
    np.testing.assert_allclose(rmse, [*problem.baselines.values()], rtol=1e-6)


def test_the_config_of_a_run_makes_its_problem_again(tmp_path):
    """What suggestions rely on: config.json is enough."""
    config = smoke("translation")
    saved = json.loads(json.dumps(config.to_dict()))
    import ml_collections

    assert problem_of(ml_collections.ConfigDict(saved), "gru") is problem_of(config, "gru")


def test_recipes_follow_the_config():
    config = smoke("digits")
    recipe = train.recipe_of(config)
    assert isinstance(recipe, Recipe)
    assert (recipe.batch, recipe.updates) == (config.batch, config.updates)
