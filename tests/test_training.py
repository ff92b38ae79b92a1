"""Updates, optimisers, checkpoints, the loop: resuming bit for bit, stopping, what is written."""

import dataclasses
import math
import os
import signal
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnn_jax
from rnn_jax.models import ManyToMany, ManyToOne, Reader
from rnn_jax.tasks.problem import Metric, Problem, shuffled
from rnn_jax.tasks.task import Example
from rnn_jax.training import (
    OPTIMISERS,
    SCHEDULES,
    Checkpoints,
    Diverged,
    History,
    MetricsWriter,
    Recipe,
    best_row,
    evaluate,
    fit,
    init_state,
    make_optimiser,
    make_update,
    updates,
)

# optax' Adam promotes dtypes by itself.
pytestmark = pytest.mark.usefixtures("plain_jax")

MODEL = ManyToOne(Reader(rnn_jax.gru(), 6, dropout=0.2), 1)


def squared(outputs, example):
    return jnp.square(outputs[0] - example.target)


def say_the_first(count=120, noise=0.0):
    """Regression of the first of five numbers, drawn before."""
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((count, 5, 1)).astype(np.float32)
    target = xs[:, 0, 0] + noise * rng.standard_normal(count).astype(np.float32)
    data = Example(xs, target, np.ones((count, 5), bool))
    metric = Metric("RMSE", lambda *a: (squared(*a), jnp.ones((), jnp.float32)), math.sqrt)
    parts = (jax.tree.map(lambda leaf, part=part: leaf[part::3], data) for part in range(3))
    return Problem("first", "many_to_one", *parts, squared, metric, 1, {})


def recipe(updates=300, every=100, **options):
    return Recipe(optax.adam(0.02), 16, updates, every, **options)


def last(steps):
    *_, progress = steps
    return progress


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def uninterrupted(plain_jax):
    return last(fit(MODEL, say_the_first(), recipe(), jax.random.key(0)))


@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, uninterrupted, stopped_after):
    problem = say_the_first()
    with Checkpoints(tmp_path) as checkpoints:
        run = fit(MODEL, problem, recipe(), jax.random.key(0), checkpoints=checkpoints)
        for _ in range(stopped_after + 1):
            next(run)
    with Checkpoints(tmp_path) as checkpoints:
        resumed = list(fit(MODEL, problem, recipe(), jax.random.key(0), checkpoints=checkpoints))
    assert len(resumed) == 4 - stopped_after
    assert_equal(resumed[-1], uninterrupted)


def damage(folder):
    """Flips a byte in the middle of the largest file of a checkpoint."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "remove", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path, uninterrupted, how):
    problem = say_the_first()
    with Checkpoints(tmp_path) as checkpoints:
        for _ in fit(MODEL, problem, recipe(), jax.random.key(0), checkpoints=checkpoints):
            pass
        newest = checkpoints.path(300)
    if how == "flip":
        damage(newest)
    for path in [p for p in (newest / "state").rglob("*") if p.is_file() and how != "flip"]:
        path.unlink() if how == "remove" else path.write_bytes(b"")
    with Checkpoints(tmp_path) as checkpoints:
        run = fit(MODEL, problem, recipe(), jax.random.key(0), checkpoints=checkpoints)
        with pytest.warns(UserWarning, match=str(newest)):
            first = next(run)
        assert int(first.state.step) == 200
        assert_equal(last(run), uninterrupted)
    # What it wrote in place of the damaged one is whole.
    with Checkpoints(tmp_path) as checkpoints:
        step, found = checkpoints.newest(uninterrupted)
    assert step == 300
    assert_equal(found, uninterrupted)
    assert (tmp_path / "damaged.300").is_dir()


NO_ROOM = """
import resource, sys
import numpy as np
from rnn_jax.training import Checkpoints

whole = resource.getrlimit(resource.RLIMIT_FSIZE)
noise = np.random.default_rng(0).normal(size=10**5)
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, noise)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, whole[1]))
    try:
        checkpoints.save(2, noise)
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, whole)
with Checkpoints(sys.argv[1]) as checkpoints:
    step, state = checkpoints.newest(noise)
    print(step, (state == noise).all())
    checkpoints.save(2, noise)
    print(checkpoints.newest(noise)[0])
"""


@pytest.mark.slow
def test_no_room_for_a_checkpoint_is_one_line_and_leaves_the_one_before_it(tmp_path):
    """With a limit on the size of files, as of a disk that is full."""
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    said, *after = done.stdout.splitlines()
    assert said.startswith(f"{tmp_path}/2: cannot be written: ")
    assert "File too large" in said
    assert after == ["1 True", "2"]
    assert done.returncode == 0


def test_a_run_whose_checkpoints_are_all_damaged_begins_anew(tmp_path, uninterrupted):
    problem = say_the_first()
    with Checkpoints(tmp_path) as checkpoints:
        for _ in fit(MODEL, problem, recipe(), jax.random.key(0), checkpoints=checkpoints):
            pass
        for step in (200, 300):
            damage(checkpoints.path(step))
    with Checkpoints(tmp_path) as checkpoints, pytest.warns(UserWarning, match="wrong digest|read"):
        again = list(fit(MODEL, problem, recipe(), jax.random.key(0), checkpoints=checkpoints))
    assert int(again[0].state.step) == 0
    assert_equal(again[-1], uninterrupted)


def test_orbax_logs_nothing(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros(3)})
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.write_bytes(b"")
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.warns(UserWarning, match="read"),
    ):
        checkpoints.newest({"w": jnp.zeros(3)})
    assert caplog.records == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_save_is_answered_after_it(tmp_path, monkeypatch, number):
    class Stopped(Exception):
        pass

    def stop(number, frame):
        raise Stopped

    before = signal.signal(number, stop)
    try:
        with Checkpoints(tmp_path) as checkpoints:
            save = checkpoints._manager.save
            monkeypatch.setattr(
                checkpoints._manager,
                "save",
                lambda *args, **options: (signal.raise_signal(number), save(*args, **options)),
            )
            with pytest.raises(Stopped):
                checkpoints.save(1, {"w": jnp.ones(3)})
            assert signal.getsignal(number) is stop
            assert checkpoints.newest({"w": jnp.zeros(3)})[1]["w"].tolist() == [1, 1, 1]
    finally:
        signal.signal(number, before)


def test_checkpoints_keep_the_newest_and_every_dtype(tmp_path):
    state = lambda n: {"a": (jnp.full(3, n, jnp.bfloat16), jnp.int32(n)), "b": np.float64(n)}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest(state(0)) is None
        for n in (1, 2, 3):
            checkpoints.save(n, state(n))
        step, found = checkpoints.newest(state(0))
        assert step == 3
        assert_equal(found, state(3))
        assert found["a"][0].dtype == jnp.bfloat16
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["2", "3"]


def test_a_checkpoint_of_another_model_is_an_error_and_stays(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, {"w": jnp.arange(3.0)})
        with pytest.raises(ValueError, match="is of another model or recipe"):
            checkpoints.newest({"w": jnp.zeros(4)})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.newest({"w": jnp.zeros(3)})[0] == 5
        damage(checkpoints.path(5) / "state")
        with pytest.warns(UserWarning, match=str(checkpoints.path(5))):
            assert checkpoints.newest({"w": jnp.zeros(3)}) is None
    assert (tmp_path / "5").is_dir()


def test_a_state_of_infinities_is_no_good_state(tmp_path):
    exploding = Recipe(optax.sgd(1e38), 16, 1, 1)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Diverged) as error:
        last(fit(MODEL, say_the_first(), exploding, jax.random.key(0), checkpoints=checkpoints))
    assert (error.value.step, error.value.good_step) == (1, 0)
    assert not (tmp_path / "1").exists()


def test_training_learns_and_the_best_is_the_best(uninterrupted):
    problem, history = say_the_first(), uninterrupted.history
    assert history.updates.tolist() == [0, 100, 200, 300]
    loss, rmse = evaluate(MODEL, problem, uninterrupted.best, problem.validation)
    assert rmse == pytest.approx(float(np.nanmin(history.metric)), rel=1e-6)
    assert rmse == pytest.approx(math.sqrt(loss), rel=1e-5)
    assert rmse < 0.6 * history.metric[0]
    # Before any update the answer is 0 and the loss the mean square of the target.
    target = np.asarray(problem.validation.target)
    assert float(history.validation_loss[0]) == pytest.approx(np.mean(target**2), rel=1e-6)


def test_it_stops_when_nothing_gets_better():
    frozen = dataclasses.replace(recipe(200, 20, patience=2), optimiser=optax.sgd(1e-30))
    progress = last(fit(MODEL, say_the_first(), frozen, jax.random.key(0)))
    assert np.nanmax(progress.history.updates) == 40


@pytest.mark.parametrize(
    ("metrics", "higher", "row"),
    [([3, 1, 2, np.nan], False, 1), ([3, 1, 3, np.nan], True, 0), ([np.nan, 5, 5], False, 1)],
)
def test_best_row(metrics, higher, row):
    history = History(*[np.array(metrics)] * len(History._fields))
    assert best_row(history, Metric("", None, higher_is_better=higher)) == row


def test_what_is_not_finite_stops_the_run_with_what_led_there(tmp_path):
    problem = say_the_first()
    exploding = dataclasses.replace(recipe(200, 5), optimiser=optax.sgd(1e6))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Diverged) as error:
        last(fit(MODEL, problem, exploding, jax.random.key(0), checkpoints=checkpoints))
    assert error.value.good_step == (error.value.step - 1) // 5 * 5
    assert (tmp_path / str(error.value.good_step)).is_dir()
    norms = error.value.log_gradient_norms
    assert np.isfinite(norms[:-1]).all()
    assert norms[-2] > norms[0] + 5
    assert f"update {error.value.step}: the loss or its gradient is not finite" in str(error.value)


def test_a_gradient_of_zero_is_no_divergence():
    zero = dataclasses.replace(say_the_first(), loss=lambda outputs, example: 0 * outputs[0])
    progress = last(fit(MODEL, zero, recipe(20, 20), jax.random.key(0)))
    assert progress.history.log_gradient_norm[1] == -np.inf


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_descent_on_a_parabola_is_the_closed_form(name):
    """f = x^2 / 2: x_n = (1 - rate)^n, and with momentum the linear recurrence in NumPy."""
    optimiser = make_optimiser(name, 0.1)
    update = make_update(
        lambda x, carry, batch, key: (jnp.square(x) / 2, (carry, ())), optimiser, lambda *args: ()
    )
    state, seen = updates(update, 50)(init_state(jnp.float32(1), optimiser), (), jax.random.key(0))
    x, velocity, losses = 1.0, 0.0, []
    for _ in range(50):
        losses.append(x**2 / 2)
        velocity = (0.9 if name == "momentum" else 0) * velocity + x
        x -= 0.1 * velocity
    np.testing.assert_allclose(state.params, x, rtol=1e-5)  # 50 roundings in float32
    np.testing.assert_allclose(seen.loss, losses, rtol=1e-4)
    np.testing.assert_allclose(
        seen.log_gradient_norm, 0.5 * np.log(2 * np.array(losses)), rtol=1e-4
    )


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimiser_descends_under_every_schedule(name, schedule):
    optimiser = make_optimiser(name, 0.02, schedule=schedule, updates=400, clip=1.0)
    update = make_update(
        lambda x, carry, batch, key: (jnp.sum(x**2), (carry, ())), optimiser, lambda *args: ()
    )
    state = init_state(jnp.array([1.0, -0.5], jnp.float32), optimiser)
    state, seen = updates(update, 400)(state, (), jax.random.key(0))
    assert seen.loss[-1] < 0.05 * seen.loss[0]
    clip = seen.probes["clip"]
    assert (np.asarray(clip.after.log_norm) < 1e-5).all()
    assert int(clip.acted[-1]) > 0


def test_schedules_are_what_they_say():
    rate = {name: make(1.0, 100) for name, make in SCHEDULES.items()}
    at = lambda name, n: float(rate[name](n))
    assert at("constant", 77) == 1
    np.testing.assert_allclose(at("cosine", 50), 0.5, atol=1e-6)
    np.testing.assert_allclose(at("warmup_cosine", 5), 1.0, atol=1e-6)
    assert at("warmup_cosine", 0) == 0
    np.testing.assert_allclose(at("exponential", 100), 0.01, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adamm", 0.1), "unknown optimiser 'adamm'.* did you mean 'adam'"),
        (("adam", 0.0), "learning_rate must be above 0, got 0.0"),
        (("adam", math.nan), "learning_rate must be above 0, got nan"),
    ],
)
def test_optimisers_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_optimiser(*arguments)
    with pytest.raises(
        ValueError, match="updates must be at least 2 for schedule 'cosine', got None"
    ):
        make_optimiser("adam", 0.1, schedule="cosine")
    with pytest.raises(ValueError, match=r"unknown schedule 'cosin'.*did you mean 'cosine'"):
        make_optimiser("adam", 0.1, schedule="cosin")


def test_recipes_say_what_is_wrong():
    with pytest.raises(ValueError, match="updates must be a multiple of every = 100"):
        recipe(50)
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        recipe(patience=0)


def test_epochs_are_permutations():
    train = Example(np.arange(10), np.arange(10), np.ones((10, 1), bool))
    epochs = [
        np.concatenate([shuffled(train, jax.random.key(3), n, 3).target for n in range(k, k + 3)])
        for k in (0, 3)
    ]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 9
    assert epochs[0].tolist() != epochs[1].tolist()
    # A set that is smaller than a batch is a batch.
    assert sorted(shuffled(train, jax.random.key(3), 5, 64).target.tolist()) == list(range(10))


# ---- State that goes on from batch to batch -----------------------------------------------------


def counting(windows=6, steps=4, batch=2):
    """Streams in which the target is the sum of all inputs so far, divided into windows."""
    xs = np.random.default_rng(0).standard_normal((batch, windows, steps, 1)).astype(np.float32)
    target = np.cumsum(xs.reshape(batch, -1), axis=1).reshape(batch, windows, steps)

    def draw(train, key, n, batch):
        xs, target = (jnp.asarray(part)[:, n % windows] for part in train)
        return Example(xs, target, jnp.ones(target.shape, bool))

    held_out = Example(xs[0], target[0], np.ones((windows, steps), bool))
    loss = lambda outputs, example: jnp.mean(jnp.square(outputs[:, 0] - example.target))
    metric = Metric("MSE", lambda *args: (loss(*args), jnp.ones((), jnp.float32)))
    return Problem(
        "sum", "many_to_many", (xs, target), held_out, held_out, loss, metric, 1, {},
        draw=draw, continues=lambda train, n, batch: n % windows != 0,
    )  # fmt: skip


def test_the_state_is_carried_from_window_to_window():
    """Without updates, the losses of all windows are those of one long sequence, in each pass."""
    problem, steps, windows = counting(), 4, 6
    model = ManyToMany(Reader(rnn_jax.gru(), 5), 1)
    frozen = Recipe(optax.sgd(1e-30), 2, 2 * windows, 1)
    run = list(fit(model, problem, frozen, jax.random.key(0)))
    params = run[0].state.params
    params["head"]["kernel"] = jnp.ones_like(params["head"]["kernel"])
    state = run[0].state._replace(params=params)

    from rnn_jax.training.fit import _with_flag, make_objective

    update = make_update(make_objective(model, problem), frozen.optimiser, _with_flag(problem, 2))
    _, seen = updates(update, 2 * windows)(state, problem.train, jax.random.key(0))
    xs, target = problem.train
    whole = jax.vmap(lambda xs: model.apply({"params": params}, xs))(xs.reshape(2, -1, 1))
    errors = np.square(np.asarray(whole)[..., 0] - target.reshape(2, -1))
    expected = errors.reshape(2, windows, steps).mean(axis=(0, 2))
    np.testing.assert_allclose(seen.loss, np.tile(expected, 2), rtol=1e-5)
    loss, metric = evaluate(model, problem, params, problem.validation)
    assert loss == pytest.approx(errors[0].mean(), rel=1e-5)
    assert metric == pytest.approx(loss, rel=1e-6)


def test_no_gradient_crosses_from_window_to_window(tmp_path):
    """An update on window 2 is that of backpropagation cut where the window begins."""
    problem = counting()
    model = ManyToMany(Reader(rnn_jax.gru(), 5), 1)
    one = Recipe(optax.sgd(0.1), 2, 2, 1)
    run = list(fit(model, problem, one, jax.random.key(0)))
    before, after = run[1].state, run[2].state
    xs, target = (part[:, 1] for part in problem.train)

    def loss(params):
        apply = lambda xs, state: model.apply({"params": params}, xs, state=state, method="run")[1]
        outputs = jax.vmap(apply)(xs, before.carry)
        return jnp.mean(jnp.square(outputs[..., 0] - target))

    gradient = jax.grad(loss)(before.params)
    expected = jax.tree.map(lambda p, g: p - np.float32(0.1) * g, before.params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, expected)


# ---- Files --------------------------------------------------------------------------------------


def events(folder):
    """(step, tag, value) of all scalars in TensorBoard event files, by their record format."""
    from tensorboardX.proto.event_pb2 import Event

    found, purged = [], []
    for path in sorted(folder.glob("events.out.tfevents*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            if event.session_log.status == 1:
                purged.append(event.step)
    return found, purged


def test_metrics_are_written_as_they_come(tmp_path):
    problem = say_the_first()
    with MetricsWriter(tmp_path, "RMSE") as writer:
        for progress in fit(MODEL, problem, recipe(), jax.random.key(0)):
            writer.write(progress.history)
    table = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)
    assert table.dtype.names == History._fields
    for field in History._fields:
        np.testing.assert_allclose(table[field], getattr(progress.history, field), rtol=1e-7)
    found, _ = events(tmp_path)
    rmse = {step: value for step, tag, value in found if tag == "RMSE"}
    assert rmse == {100 * n: float(progress.history.metric[n]) for n in range(4)}


def test_the_table_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))
        )
    with MetricsWriter(tmp_path) as writer:
        writer.write(History(*np.zeros((5, 1))))
    assert calls[:2] == ["fsync", "replace"]


def test_a_resumed_run_appears_once(tmp_path):
    rows = np.array([[0, 10, 20], [3, 2, 1], [3, 2, 1], [3, 2, 1], [0, 0, 0]], float)
    for end in (2, 3):
        with MetricsWriter(tmp_path) as writer:
            writer.write(History(*rows[:, :end]))
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
    _, purged = events(tmp_path)
    assert purged[-1] == 20
