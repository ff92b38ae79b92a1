"""Clipping and Omega on temporal order: what is recorded, what is learned, what is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import smoke_runs

from experiments import clipping, launch, learners, statistics
from rnn_jax import elman, unroll
from rnn_jax.remedies import omega
from rnn_jax.tasks import temporal_order

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_jax")]
TASK = temporal_order()
smoke = functools.partial(smoke_runs.smoke, "clipping")


@pytest.fixture(scope="module")
def run(finished):
    """The smoke variant."""
    folder, report = finished("clipping")
    return report, smoke_runs.saved(folder)


def network(seed=0, hidden_size=8):
    return learners.init_network(
        jax.random.key(seed), elman(), TASK, hidden_size, readout_scale=0.5
    )


def test_the_clip_bounds_norms_and_plain_sgd_leaves_them(run):
    _, arrays = run
    before, after = (arrays[f"sgd.10/largest_log_norm{end}"] for end in ("", "_after"))
    np.testing.assert_array_equal(before, after)
    assert np.nanmax(before) > 0
    assert np.nansum(arrays["sgd.10/clipped"]) == 0
    for method in ("clip", "clip_omega"):
        assert np.nanmax(arrays[f"{method}.10/largest_log_norm_after"]) < 1e-6
        clipped = arrays[f"{method}.10/clipped"]
        too_large = arrays[f"{method}.10/largest_log_norm"] > 1e-6
        assert np.array_equal(clipped[np.isfinite(clipped)] > 0, too_large[np.isfinite(clipped)])
        assert 0 < np.nanmax(clipped) <= 1


def test_omega_learns_what_plain_sgd_does_not_always(run):
    report, arrays = run
    solved = {method: arrays[f"{method}.10/solved_at"] for method in clipping.METHODS}
    assert np.all(solved["clip_omega"] > 0)
    assert np.sum(solved["sgd"] < 0) > 0
    for method, at in solved.items():
        tested = arrays[f"{method}.10/test_error"]
        finite = np.isfinite(arrays[f"{method}.10/loss"])
        for seed in range(4):
            if at[seed] == statistics.NEVER:
                assert finite[seed].all()
                assert not np.any(tested[seed] < 0.01)
                continue
            # Records end where it was solved. The answer may still be a close one, but not of ln 4.
            assert np.array_equal(finite[seed], np.arange(50, 601, 50) <= at[seed])
            last = at[seed] // 50 - 1
            assert tested[seed, last] < 0.01
            assert arrays[f"{method}.10/loss"][seed, last] < 1
    at_first = arrays["sgd.10/error"][:, 0]
    assert np.all(at_first > 0.45)
    shown = dict(zip(report.summary["method"], report.summary["solved"], strict=True))
    assert shown["SGD + clipping + Omega"] == "4 of 4"
    assert shown["SGD"] == f"{np.sum(solved['sgd'] > 0)} of 4"


def test_methods_begin_alike_at_the_loss_of_who_knows_nothing():
    config = smoke(every=1, updates=1, hidden_size=50)
    first = {
        method: clipping.run_unit(config, f"{method}.10")["loss"][:, 0]
        for method in ("sgd", "clip_omega")
    }
    np.testing.assert_array_equal(first["sgd"], first["clip_omega"])
    assert len(set(first["sgd"].tolist())) == 4
    # Readout weights of 0.01 on 50 units of order one move a logit by 0.07 at most, and the loss by
    # less than half of that.
    np.testing.assert_allclose(first["sgd"], math.log(4), atol=0.03)


def test_recorded_omega_is_the_mean_over_all_terms_of_the_batch():
    config = smoke(every=1, updates=1, seeds=1)
    recorded = clipping.run_unit(config, "clip_omega.10")
    of_networks, of_batches, _ = jax.random.split(jax.random.key(config.seed), 3)
    cell, begin = clipping._network(config.initialisation, config.hidden_size)
    params = jax.tree.map(lambda leaf: leaf[0], begin(jax.random.split(of_networks, 1)))
    [key] = jax.random.split(of_batches, 1)
    _, of_batch = jax.random.split(jax.random.fold_in(key, 0))
    batch = learners.draw_batch(of_batch, TASK, config.batch, 10)
    readout, squares = params["readout"], []
    for inputs, target in zip(batch.inputs, batch.target, strict=True):
        outputs = unroll(cell, params["cell"], inputs)[1].outputs[-1]
        logits = outputs @ readout["kernel"] + readout["bias"]
        error = (jax.nn.softmax(logits) - jax.nn.one_hot(target, 4)) / config.batch
        ratios = omega(cell, params["cell"], inputs, readout["kernel"] @ error).log_ratio
        squares += [(math.exp(2 * float(ratio)) - 1) ** 2 for ratio in ratios]
    np.testing.assert_allclose(recorded["omega"], np.mean(squares), rtol=1e-4)
    assert recorded["omega_terms"].item() == 10


def test_a_run_that_diverges_says_so(tmp_path):
    config = smoke(learning_rate=1e38, methods=("sgd", "clip"), seeds=2, updates=200)
    report = launch.run(clipping.EXPERIMENT, config, tmp_path)
    assert list(report.summary["diverged"]) == [2, 2]
    assert list(report.summary["solved"]) == ["0 of 2"] * 2
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert np.all(arrays["sgd.10/diverged_at"] == 50)
        assert np.all(np.isnan(arrays["sgd.10/loss"][:, 1:]))
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == set(report.figures)


def test_spectra_of_known_matrices():
    shift = np.eye(3, k=1)
    spectra = clipping._spectra(np.stack([shift, -2 * np.eye(3), np.full((3, 3), np.nan)]))
    np.testing.assert_allclose(spectra["spectral_radius"], [0, 2, np.nan], atol=1e-12)
    np.testing.assert_allclose(spectra["largest_singular_value"], [1, 2, np.nan])


def test_losses_hold_their_last_value_or_infinity():
    losses = np.array([[3.0, 2.0, np.nan], [3.0, np.nan, np.nan], [3.0, 2.0, 1.0]])
    lasting = statistics.held(losses, np.array([False, True, False]))
    np.testing.assert_array_equal(lasting, [[3, 2, 2], [3, np.inf, np.inf], [3, 2, 1]])


def test_an_update_follows_the_gradient_of_the_mean_loss():
    """Against a loop over sequences, for a batch that is shorter than its padding."""
    params, optimiser = network(), optax.sgd(0.5)
    update = learners.make_update(elman(), TASK, optimiser, batch=5, steps=14, lengths=(11, 11))
    learner = learners.Learner(params, optimiser.init(params))
    key = jax.random.key(3)
    new, seen = jax.jit(update)(learner, key)
    batch = learners.draw_batch(jax.random.split(key)[1], TASK, 5, 14, jnp.asarray(11))
    assert batch.mask.sum(axis=1).tolist() == [11] * 5

    def loss(params):
        total = 0.0
        for inputs, target in zip(batch.inputs, batch.target, strict=True):
            outputs = unroll(elman(), params["cell"], inputs[:11])[1].outputs[-1]
            logits = outputs @ params["readout"]["kernel"] + params["readout"]["bias"]
            total -= jax.nn.log_softmax(logits)[target] / 5
        return total

    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(seen.loss, value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, expected)


def test_a_penalty_is_added_to_the_loss_and_handed_on():
    params, optimiser = network(), optax.sgd(1.0)

    def penalty(params, examples):
        return 0.25 * jnp.sum(params["readout"]["bias"] + 1), len(examples.target)

    learner = learners.Learner(params, optimiser.init(params))
    options = {"batch": 3, "steps": 10}
    plain = learners.make_update(elman(), TASK, optimiser, **options)
    penalised = learners.make_update(elman(), TASK, optimiser, **options, penalty=penalty)
    (one, seen), (other, also) = (f(learner, jax.random.key(0)) for f in (plain, penalised))
    assert (seen.penalty, also.penalty) == (None, 3)
    assert seen.loss == also.loss
    change = one.params["readout"]["bias"] - other.params["readout"]["bias"]
    np.testing.assert_allclose(change, 0.25, rtol=1e-6)


def test_how_updates_are_dealt_out_to_chunks_changes_nothing():
    params, optimiser = network(), optax.adam(1e-2)
    update = learners.make_update(elman(), TASK, optimiser, batch=4, steps=12, lengths=(10, 12))
    observe = lambda learner, seen: seen.loss
    learner = learners.Learner(params, optimiser.init(params))
    key = jax.random.key(1)
    chunk = lambda every: jax.jit(learners.make_chunk(update, observe, every=every))
    whole, losses = chunk(6)(learner, key, 0)
    parts = []
    for done in (0, 2, 4):
        learner, part = chunk(2)(learner, key, done)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts), losses, rtol=1e-6)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, learner.params, whole.params)
    assert len(set(losses.tolist())) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("sgd", "clop")}, "methods: unknown 'clop'.*did you mean 'clip'"),
        ({"methods": ("sgd", "sgd")}, "methods must be one or more different names"),
        ({"methods": ()}, "methods must be one or more different names"),
        ({"initialisation": "smart"}, "initialisation: unknown 'smart'"),
        ({"lengths": (9, 10)}, "lengths must be increasing numbers from 10"),
        ({"shown_length": 11}, "shown_length must be one of the lengths"),
        ({"updates": 601}, "updates must be a multiple of every = 50, got 601"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"threshold": float("nan")}, "threshold must be a finite number above 0"),
        ({"omega_weight": -1.0}, "omega_weight must be a finite number from 0"),
        ({"hidden_size": 14}, "hidden_size must be at least 15 for smart_tanh"),
        ({"every": 0}, "every must be at least 1"),
    ],
)
def test_configurations_are_refused_by_field(changes, message):
    with pytest.raises(ValueError, match=f"config.{message}"):
        clipping.validate(smoke(**changes))
