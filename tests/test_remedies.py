"""The remedies: closed forms, plain loops in NumPy, finite differences, and the contract."""

import functools

import chex
import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import LAWS, Case
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

import rnn_jax
from rnn_jax import Cell, HiddenState, LinearCell, analysis, combinators, elman, gru, lstm, schemes
from rnn_jax.analysis import finite_time_spectrum, lyapunov_spectrum
from rnn_jax.cells import lookup
from rnn_jax.combinators import stack
from rnn_jax.remedies import (
    Probe,
    Watched,
    clip_by_leaf_norm,
    clip_cotangents,
    flossing_penalty,
    omega,
    probe,
    read_probes,
    soft_orthogonality,
    spectral_penalty,
    watch,
)

KEY = jax.random.key(0)
T, D, H = 9, 3, 4


def noise(*shape, seed=1, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def draw(cell, seed=0, dtype="float64", size=H):
    """Every parameter normal with deviation 1 / sqrt(H), the biases too."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: cell.init(KEY, D, size))
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, H**-0.5, a.shape), dtype), shapes)


def direction(params, seed=7):
    return contract.normal_like(params, seed)


def slope(function, params, along, h=1e-5):
    """A central difference: an error of order h**2 = 1e-10 and a rounding of 1e-15 / h = 1e-10."""
    at = lambda shift: function(jax.tree.map(lambda p, d: p + shift * d, params, along))
    return (at(h) - at(-h)) / (2 * h)


def last_square(outputs):
    return jnp.sum(jnp.square(outputs[-1]))


def linear(kernel):
    """A linear network h_t = x_t + h_{t-1} U, and its parameters."""
    kernel = jnp.asarray(kernel)
    size, dtype = len(kernel), kernel.dtype
    weights = {"kernel": jnp.eye(size, dtype=dtype), "recurrent_kernel": kernel}
    return elman("identity"), weights | {"bias": jnp.zeros(size, dtype)}


def rotation(size, seed=3):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


# ---- Links of a chain ---------------------------------------------------------------------------


def apply(link, gradient):
    return link.update(gradient, link.init(gradient))[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_clipping_by_leaf_norm(dtype, tolerance):
    """Each leaf keeps its direction and gets min(norm, c), of whatever size; a small one its bits.

    The squares of 1e-30 and 1e30 are not representable in float32. A dozen roundings.
    """
    leaf = np.asarray(noise(3, 4), dtype)
    leaf = leaf / np.linalg.norm(leaf)
    gradient = {size: jnp.asarray(leaf * np.asarray(size, dtype)) for size in (1e-30, 0.1, 3, 1e30)}
    clipped = apply(clip_by_leaf_norm(0.5), gradient)
    for size, found in clipped.items():
        assert found.dtype == dtype
        if size < 0.5:
            assert_array_equal(found, gradient[size])
        else:
            assert_allclose(found, 0.5 * leaf, rtol=tolerance)


def test_clipping_by_leaf_norm_repairs_nothing():
    gradient = {
        "nan": jnp.array([jnp.nan, 9.0]),
        "inf": jnp.array([jnp.inf, 9.0]),
        "zero": jnp.zeros(2),
    }
    clipped = apply(clip_by_leaf_norm(1.0), gradient)
    assert_array_equal(clipped["nan"], [np.nan, 9])
    assert_array_equal(clipped["inf"], [np.nan, 0])
    assert_array_equal(clipped["zero"], 0)


@pytest.mark.parametrize("bound", [np.nan, -1.0, 0.0, np.inf, jnp.array(jnp.nan), np.float32(-1)])
def test_clipping_by_leaf_norm_refuses_a_bound(bound):
    with pytest.raises(ValueError, match="clip_by_leaf_norm: max_norm must be finite and above 0"):
        clip_by_leaf_norm(bound)
    for other in ("1", None, np.ones(2)):
        with pytest.raises(TypeError, match="clip_by_leaf_norm: max_norm must be a number"):
            clip_by_leaf_norm(other)


def test_clipping_by_leaf_norm_takes_a_schedule():
    schedule = lambda count: 1 / (1 + count.astype(jnp.float32))
    link = optax.inject_hyperparams(clip_by_leaf_norm)(max_norm=schedule)
    gradient = {"a": jnp.array([6.0, 8.0])}
    state = link.init(gradient)
    for norm in (1, 1 / 2, 1 / 3):
        clipped, state = jax.jit(link.update)(gradient, state)
        # The schedule is computed in float32.
        assert_allclose(clipped["a"], [0.6 * norm, 0.8 * norm], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probes_record_before_and_after(dtype):
    cell = combinators.stack(lstm(), gru())
    params, xs = draw(cell, dtype=dtype), noise(T, D, dtype=dtype)
    optimiser = optax.chain(
        probe("before"), optax.clip_by_global_norm(0.1), probe("after"), optax.sgd(0.1, 0.9)
    )

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            loss = lambda params: last_square(rnn_jax.unroll(cell, params, xs)[1].outputs)
            gradient = jax.grad(loss)(params)
            updates, state = optimiser.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), (gradient, read_probes(state))

        return jax.lax.scan(step, (params, optimiser.init(params)), None, length=5)[1]

    gradients, probes = train(params)
    norms = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.linalg.norm(
            np.asarray(leaf, float).reshape(5, -1), axis=1
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    }
    whole = np.linalg.norm(list(norms.values()), axis=0)
    assert whole.min() > 0.1
    # Of a logarithm: some ten roundings of one number.
    tolerance = 10 * float(jnp.finfo(dtype).eps)
    assert sorted(probes) == ["after", "before"]
    assert probes["before"].log_norm.dtype == dtype
    assert_allclose(probes["before"].log_norm, np.log(whole), atol=tolerance)
    assert set(probes["before"].log_norm_by_leaf) == set(norms)
    assert "0.recurrent_kernel" in norms
    for name, found in probes["before"].log_norm_by_leaf.items():
        assert_allclose(found, np.log(norms[name]), atol=2 * tolerance)
    assert_allclose(probes["after"].log_norm, np.log(0.1), atol=2 * tolerance)


def test_probes_start_with_nothing_and_find_themselves_anywhere():
    inner = optax.chain(probe("inner"), optax.scale(2.0))
    optimiser = optax.apply_if_finite(optax.chain(watch("outer", inner), optax.sgd(0.1)), 3)
    params = {"a": jnp.ones(4, jnp.float32)}
    state = optimiser.init(params)
    seen = read_probes(state)["outer"]
    assert isinstance(seen, Watched)
    assert np.isnan(seen.before.log_norm)
    assert int(seen.steps) == 0
    chex.assert_trees_all_equal_shapes_and_dtypes(state, optimiser.update(params, state)[1])
    # What is watched may hold probes of its own, under their names.
    seen = read_probes(jax.jit(optimiser.update)(params, state)[1])
    assert sorted(seen) == ["inner", "outer"]
    assert_allclose(seen["inner"].log_norm, np.log(2), rtol=1e-6)
    assert_allclose(seen["outer"].after.log_norm, np.log(4), rtol=1e-6)
    assert isinstance(optax.tree.get(optax.chain(probe("one")).init(params), "one"), Probe)


def test_two_probes_of_one_name():
    state = optax.chain(probe("a"), optax.clip(1.0), probe("a")).init(jnp.zeros(2))
    with pytest.raises(ValueError, match="two probes have the name 'a'"):
        read_probes(state)


@pytest.mark.parametrize(
    ("link", "acted"),
    [
        (optax.clip_by_global_norm(1.0), 2),
        (optax.clip_by_block_rms(1.0), 2),
        (optax.clip(5.0), 1),
        (clip_by_leaf_norm(1.0), 2),
        (optax.zero_nans(), 1),
        (optax.identity(), 0),
    ],
)
def test_watch_counts_what_a_link_changed(link, acted):
    """Of gradients that are small, middling, large, NaN and zero. NaN and clipped NaN are alike."""
    optimiser = watch("link", link)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    update, state = jax.jit(optimiser.update), optimiser.init(params)
    for size in (0.1, 3.0, 1e3, jnp.nan, 0.0):
        _, state = update(jax.tree.map(lambda leaf, s=size: jnp.full_like(leaf, s), params), state)
    seen = read_probes(state)["link"]
    assert (int(seen.steps), int(seen.acted)) == (5, acted)


def test_watch_changes_nothing():
    """Of a link that needs the parameters, too."""
    link = optax.adaptive_grad_clip(0.1)
    params, gradient = {"a": noise(3, 4)}, {"a": noise(3, 4, seed=2)}
    state = watch("clip", link).init(params)
    updates, state = watch("clip", link).update(gradient, state, params)
    chex.assert_trees_all_equal(updates, link.update(gradient, link.init(params), params)[0])
    assert int(read_probes(state)["clip"].acted) == 1


def test_a_probe_shows_the_clip_that_optax_loses():
    """||g|| = 2e20 in float32: its square is infinite, and g / infinity * c is nothing."""
    optimiser = optax.chain(watch("clip", optax.clip_by_global_norm(1.0)), optax.sgd(0.1))
    gradient = jnp.full(4, 1e20, jnp.float32)
    seen = read_probes(optimiser.update(gradient, optimiser.init(gradient))[1])["clip"]
    assert_allclose(seen.before.log_norm, np.log(2e20), rtol=1e-6)
    assert seen.after.log_norm == -jnp.inf
    assert int(seen.acted) == 1


# ---- Inside the recurrence ----------------------------------------------------------------------


def clip_by_hand(vector, by, bound):
    if by == "max_value":
        return np.clip(vector, -bound, bound)
    return vector * min(1, bound / np.linalg.norm(vector))


@pytest.mark.parametrize("bound", [{"max_norm": 0.5}, {"max_value": 0.2}, {"max_norm": 1e6}])
def test_clipped_backpropagation_is_a_loop_with_clips(bound):
    """Of a tanh network with a loss at every step, in NumPy."""
    cell = elman()
    params, xs, weights = draw(cell), noise(T, D), np.asarray(noise(T, H, seed=2))
    clipped = clip_cotangents(cell, **bound)

    @jax.jit
    def gradients(params):
        def loss(params, taps):
            _, trajectory = rnn_jax.unroll(clipped, params, xs, taps=taps)
            return jnp.sum(weights * trajectory.outputs)

        return jax.grad(loss, (0, 1))(params, HiddenState(jnp.zeros((T, H))))

    hidden = np.asarray(rnn_jax.unroll(cell, params, xs)[1].outputs)
    before = np.concatenate([np.zeros((1, H)), hidden[:-1]])
    expected, totals = np.zeros((H, H)), np.zeros((T, H))
    recurrent, later = np.asarray(params["recurrent_kernel"]), np.zeros(H)
    for t in reversed(range(T)):
        totals[t] = later + weights[t]
        by_argument = clip_by_hand(totals[t], *next(iter(bound.items()))) * (1 - hidden[t] ** 2)
        expected += np.outer(before[t], by_argument)
        later = recurrent @ by_argument
    by_params, by_taps = gradients(params)
    assert_allclose(by_params["recurrent_kernel"], expected, rtol=1e-12)
    # A tap sees what comes to the clip of its own step.
    assert_allclose(by_taps.hidden, totals, rtol=1e-12)


OF_DERIVATIVES = {"derivatives_agree", "tap_gradients_are_products_of_jacobians"}
"""What a clipped backward pass breaks by design: the second only where it clips."""
CLIPPED = {
    "lstm": lambda **bound: clip_cotangents(lstm(), **bound),
    "batched": lambda **bound: combinators.batched(clip_cotangents(gru(), **bound), 2),
    "deep": lambda **bound: combinators.stack(
        combinators.with_zoneout(clip_cotangents(gru(), **bound), 0.3),
        clip_cotangents(combinators.skip(elman()), **bound),
    ),
}
QUICK = {"unroll_is_a_plain_loop", "read_repeats_the_output", "factories_are_memoised"}


BOUNDS = [
    ("lstm", {"max_norm": 1e6}),
    ("lstm", {"max_norm": 0.3}),
    ("lstm", {"max_value": 0.1}),
    ("batched", {"max_norm": 0.3}),
    ("deep", {"max_norm": 0.3}),
]
"""The first does not act."""


@pytest.mark.parametrize(
    ("name", "bound", "law"),
    [
        pytest.param(
            name,
            bound,
            law,
            id=f"{law.__name__}-{name}-{bound}",
            marks=() if name == "lstm" and law.__name__ in QUICK else pytest.mark.slow,
        )
        for name, bound in BOUNDS
        for law in LAWS
    ],
)
def test_clipped_cells_obey_the_contract(name, bound, law):
    """All that compares one backward pass with another; for the rest see `OF_DERIVATIVES`."""
    make = functools.partial(CLIPPED[name], **bound)
    case = Case(make(), remake=make, input_shape=(2, 3) if name == "batched" else None)
    if law.__name__ == "derivatives_agree":
        with pytest.raises(TypeError, match="forward-mode"):
            law(case)
    elif law.__name__ in OF_DERIVATIVES and bound != {"max_norm": 1e6}:
        with pytest.raises(AssertionError):
            law(case)
    else:
        law(case)


def test_clipping_keeps_an_explosion_finite():
    """U = 2 Q over 200 steps, in float32: the gradient is 2**200 unless each step is clipped."""
    cell, params = linear(np.asarray(2 * rotation(4), np.float32))
    xs = noise(200, 4, dtype="float32")

    def by_inputs(cell):
        return jax.grad(lambda xs: rnn_jax.unroll(cell, params, xs)[0].hidden.sum() * 1e-3)(xs)

    assert not np.isfinite(by_inputs(cell)).all()
    norms = np.linalg.norm(by_inputs(clip_cotangents(cell, max_norm=5.0)), axis=1)
    assert_allclose(norms, np.minimum(5, 2e-3 * 2.0 ** np.arange(200)[::-1]), rtol=1e-5)


@pytest.mark.parametrize("nest", [lambda cell: cell, lambda cell: stack(gru(), cell)])
def test_instruments_refuse_a_clipped_cell(nest):
    """What they would read off its backward pass is no derivative."""
    cell = nest(clip_cotangents(lstm(), max_norm=1.0))
    params, xs = cell.init(KEY, D, H), noise(T, D, dtype="float32")
    for measure in (
        lambda: analysis.gradient_flow(cell, params, xs, jnp.ones(H)),
        lambda: analysis.length_sweep(cell, params, xs, [3], jnp.ones(H)),
        lambda: finite_time_spectrum(cell, params, xs, [3]),
    ):
        with pytest.raises(ValueError, match=r"cell: .*clip_norm_1.* on purpose"):
            measure()


def test_a_clipped_cell_keeps_values_and_parameters_only():
    linear_cell = lookup("mingru")
    assert isinstance(linear_cell, LinearCell)
    clipped = clip_cotangents(linear_cell, max_value=1.0)
    assert type(clipped) is Cell
    assert clip_cotangents(gru(), max_norm=1.0).jacobian is None
    assert clip_cotangents(gru(), max_norm=1) is clip_cotangents(gru(), max_norm=1.0)
    assert clip_cotangents(gru(), max_norm=1.0) is not clip_cotangents(gru(), max_value=1.0)
    params, xs = draw(linear_cell), noise(T, D)
    expected = rnn_jax.unroll(linear_cell, params, xs)
    # The same arithmetic, compiled otherwise.
    chex.assert_trees_all_close(rnn_jax.unroll(clipped, params, xs), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({}, ValueError, "got neither"),
        ({"max_norm": 1.0, "max_value": 1.0}, ValueError, "got both"),
        ({"max_norm": 0.0}, ValueError, "max_norm must be finite and above 0"),
        ({"max_value": -1.0}, ValueError, "max_value must be finite and above 0"),
        ({"max_value": "1"}, TypeError, "max_value must be a number"),
    ],
)
def test_bounds_that_are_none(options, error, complaint):
    with pytest.raises(error, match=complaint):
        clip_cotangents(gru(), **options)
    with pytest.raises(TypeError, match="is no cell"):
        clip_cotangents(gru, max_norm=1.0)


# ---- Omega --------------------------------------------------------------------------------------

measure = jax.jit(omega, static_argnums=0, static_argnames=("loss", "convention"))
POWERS = {"ratio": 1, "squared": 2, "released": 2}


@pytest.mark.parametrize("convention", POWERS)
@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_a30_omega_of_a_scaled_rotation(convention, gain, dtype, tolerance):
    """A30: (g - 1)^2 or (g^2 - 1)^2 at every step, and its slope where U is scaled.

    In float32 a ratio is some ten roundings of 6e-8 away from g, against a smallest term of 0.09.
    """
    cell, params = linear(np.asarray(gain * rotation(4), dtype))
    xs, vector = noise(T, 4, dtype=dtype), noise(4, seed=2, dtype=dtype)
    result, gradient = jax.jit(
        jax.value_and_grad(
            lambda params: (
                (found := omega(cell, params, xs, vector, convention=convention)).penalty,
                found,
            ),
            has_aux=True,
        )
    )(params)
    penalty, found = result
    power, number = POWERS[convention], 1 if convention == "released" else T
    assert_allclose(penalty, number * (gain**power - 1) ** 2, rtol=tolerance, atol=1e-11)
    assert_allclose(found.log_ratio, np.log(gain), atol=tolerance)
    assert (int(found.terms), float(found.valid_fraction)) == (T, 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype), jnp.dtype("int32")}
    # U (1 + e) has the gain g (1 + e).
    by_scale = jnp.vdot(gradient["recurrent_kernel"], params["recurrent_kernel"])
    expected = number * 2 * (gain**power - 1) * power * gain**power
    assert_allclose(by_scale, expected, rtol=tolerance, atol=20 * tolerance)
    assert_array_equal(gradient["kernel"], 0)
    assert_array_equal(gradient["bias"], 0)


def test_omega_is_zero_where_the_error_keeps_its_norm():
    """A30: U = diag(1, 1/2) keeps an error along the first axis, and no other; J is far from I."""
    cell, params = linear(np.diag([1.0, 0.5]))
    xs = noise(T, 2)
    assert measure(cell, params, xs, jnp.array([1.0, 0.0])).penalty == 0
    assert_allclose(measure(cell, params, xs, jnp.array([0.0, 1.0])).penalty, T / 4, rtol=1e-14)
    # Not by a rotation of it: along (1, 1) the ratio rises from sqrt(5 / 8) towards 1.
    mixed = measure(cell, params, xs, jnp.array([1.0, 1.0]))
    assert_allclose(jnp.exp(mixed.log_ratio[-1]), np.sqrt(5 / 8), rtol=1e-14)
    assert float(mixed.penalty) > 0.04


@pytest.mark.parametrize("convention", POWERS)
@pytest.mark.parametrize("name", ["elman", pytest.param("gru", marks=pytest.mark.slow), "deep"])
def test_omega_is_the_frozen_objective(name, convention):
    """Value and gradient against the plain formula: deltas from taps, J from ``jacrev``, states,
    drives and deltas held while the parameters move. A loss that reads every output."""
    deep = combinators.stack(lstm(), elman())
    cell = {"deep": deep, "elman": elman(), "gru": gru()}[name]
    params, xs = draw(cell), noise(T, D)
    loss = lambda outputs: jnp.sum(jnp.square(outputs - 0.3))
    flat = lambda tree: jax.vmap(lambda leaf: ravel_pytree(leaf)[0])(tree)

    def by_taps(taps):
        return loss(rnn_jax.unroll(cell, params, xs, taps=taps)[1].outputs)

    seen = rnn_jax.unroll(cell, params, xs)[1].states
    deltas = flat(jax.jit(jax.grad(by_taps))(jax.tree.map(jnp.zeros_like, seen)))
    first = cell.initial_state(params)
    before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), first, seen)
    drives, unflatten = cell.project(params, xs), ravel_pytree(first)[1]

    @jax.jit
    def frozen(params):
        def step(vector, drive):
            return ravel_pytree(cell.step(params, unflatten(vector), drive)[0])[0]

        jacobians = jax.vmap(jax.jacrev(step))(flat(before), drives)
        pulled = jnp.einsum("ti,tij->tj", deltas, jacobians)
        ratios = jnp.linalg.norm(pulled, axis=1) / jnp.linalg.norm(deltas, axis=1)
        terms = (ratios ** POWERS[convention] - 1) ** 2
        return terms.mean() if convention == "released" else terms.sum()

    penalty = lambda params: omega(cell, params, xs, loss=loss, convention=convention).penalty
    value, gradient = jax.jit(jax.value_and_grad(penalty))(params)
    assert_allclose(value, frozen(params), rtol=1e-12)
    along = direction(params)
    assert abs(contract.dot(gradient, along)) > 1e-2
    assert_allclose(contract.dot(gradient, along), slope(frozen, params, along), rtol=1e-6)


def test_omega_of_a_prepared_orthogonal_cell_is_nothing():
    """Whatever the coordinates of its matrix are: the penalty and its gradient are roundings."""
    cell = lookup("exprnn")
    found, gradient = penalty_and_gradient(cell, draw(cell), noise(T, D), noise(H, seed=2))
    assert int(found.terms) == T
    assert_allclose(found.penalty, 0, atol=1e-28)
    chex.assert_trees_all_close(gradient, jax.tree.map(jnp.zeros_like, gradient), atol=1e-13)


def test_omega_of_a_batch_is_that_of_the_released_program():
    """Its formula in NumPy, for a tanh network: T times batch, terms below the bound as ratio 1,
    the mean over the batch summed over time, divided by the sum of the valid fractions."""
    cell, steps, batch = elman(), 40, 3
    params = draw(cell)
    params["recurrent_kernel"] *= 0.5
    xs, vectors = noise(batch, steps, D), noise(batch, H, seed=2)
    single = functools.partial(omega, cell, params, convention="released")
    found = jax.jit(jax.vmap(single))(xs, vectors)
    penalty = np.average(found.penalty, weights=found.terms)

    def by_taps(taps, xs, vector):
        taps = HiddenState(taps)
        return jnp.vdot(vector, rnn_jax.unroll(cell, params, xs, taps=taps)[1].outputs[-1])

    d_h = jax.jit(jax.vmap(jax.grad(by_taps)))(jnp.zeros((batch, steps, H)), xs, vectors)
    h = jax.vmap(lambda xs: rnn_jax.unroll(cell, params, xs)[1].outputs)(xs)
    d_h, h = (np.asarray(a).swapaxes(0, 1) for a in (d_h, h))
    x = ((d_h * (1 - h**2) @ np.asarray(params["recurrent_kernel"]).T) ** 2).sum(2)
    y = (d_h**2).sum(2)
    valid = y >= 1e-20
    assert 0.2 < valid.mean() < 0.8
    expected = ((np.where(valid, x / y, 1) - 1) ** 2).mean(1).sum() / valid.mean(1).sum()
    assert_allclose(penalty, expected, rtol=1e-12)
    assert_allclose(found.valid_fraction, valid.mean(0), rtol=1e-14)


def test_omega_where_the_error_has_left_float32():
    """Half of it at each of 300 steps: the norm itself is gone after 126, its ratio is not; the
    bound of the released program, 1e-20 of the square, leaves lags 0 to 33."""
    cell, params = linear(np.asarray(0.5 * rotation(4), np.float32))
    xs, vector = jnp.zeros((300, 4), jnp.float32), jnp.array([1.0, 0, 0, 0], jnp.float32)
    whole = measure(cell, params, xs, vector)
    assert int(whole.terms) == 300
    assert_allclose(whole.penalty, 300 / 4, rtol=1e-5)
    released = measure(cell, params, xs, vector, convention="released")
    assert int(released.terms) == 34
    assert_allclose(released.penalty, 0.75**2, rtol=1e-5)
    assert_array_equal(np.isnan(released.log_ratio), np.arange(300) < 300 - 34)


def penalty_and_gradient(cell, params, xs, *args, **options):
    def total(params):
        found = omega(cell, params, xs, *args, **options)
        return found.penalty, found

    (_, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return found, gradient


def test_omega_of_masked_steps_and_several_sequences():
    """NaN padding is as if absent, and a border is as two sequences."""
    cell = lstm()
    params, xs, vector = draw(cell), noise(T, D), noise(H, seed=2)
    expected = penalty_and_gradient(cell, params, xs, vector)
    valid = np.array([0, 1, 3, 5, 6, 7, 8, 9, 11])
    mask = np.isin(np.arange(13), valid)
    padded = jnp.full((13, D), jnp.nan).at[valid].set(xs)
    found, gradient = penalty_and_gradient(cell, params, padded, vector, mask=mask)
    assert_array_equal(np.isnan(found.log_ratio), ~mask)
    found = found._replace(log_ratio=found.log_ratio[valid])
    chex.assert_trees_all_close((found, gradient), expected, rtol=1e-12, atol=1e-14)

    loss = lambda outputs: jnp.vdot(vector, outputs[3] + outputs[-1])
    whole = penalty_and_gradient(cell, params, xs, loss=loss, reset=np.arange(T) == 4)
    parts = [penalty_and_gradient(cell, params, part, vector) for part in (xs[:4], xs[4:])]
    for field in ("penalty", "terms"):
        together = sum(getattr(found, field) for found, _ in parts)
        assert_allclose(getattr(whole[0], field), together, rtol=1e-12)
    chex.assert_trees_all_close(
        whole[1], jax.tree.map(jnp.add, parts[0][1], parts[1][1]), rtol=1e-12, atol=1e-14
    )


def test_omega_of_what_is_dead_or_nothing():
    """A ReLU below zero lets nothing through, once; a zero error has no terms; NaN stays NaN."""
    cell = elman("relu")
    params, xs, vector = draw(cell), noise(T, D), noise(H, seed=2)
    dead = params | {"bias": jnp.full(H, -50.0)}
    found, gradient = penalty_and_gradient(cell, dead, xs, vector)
    assert (float(found.penalty), int(found.terms)) == (1, 1)
    assert_allclose(found.valid_fraction, 1 / T)
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, params))
    for convention in POWERS:
        found, gradient = penalty_and_gradient(cell, params, xs, 0 * vector, convention=convention)
        assert (float(found.penalty), int(found.terms), float(found.valid_fraction)) == (0, 0, 0)
        chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, params))
    assert np.isnan(measure(elman(), params, xs.at[2].set(jnp.nan), vector).penalty)


def test_omega_refuses():
    cell = elman()
    params, xs = draw(cell), noise(T, D)
    with pytest.raises(ValueError, match=r"convention must be one of .* got 'paper'"):
        omega(cell, params, xs, jnp.ones(H), convention="paper")
    with pytest.raises(ValueError, match="omega needs either a cotangent or a loss, got both"):
        omega(cell, params, xs, jnp.ones(H), loss=last_square)
    with pytest.raises(ValueError, match="cotangent must have the shape of an output"):
        omega(cell, params, xs, jnp.ones(H + 1))


# ---- Flossing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elman", pytest.param("gru", marks=pytest.mark.slow)])
def test_flossing_is_differentiated_through_everything(name):
    """Finite differences along all parameters: those of the input move the exponents by way of the
    trajectory alone. The first frame has to be the same, and the exponents distinct."""
    cell = lookup(name)
    params, xs = draw(cell), noise(73, D)  # 64 of them measured, by QR and LU in turn

    @jax.jit
    def penalty(params):
        options = {"target": -0.1, "burn_in": 5, "tangent_burn_in": 4}
        return flossing_penalty(KEY, cell, params, xs, 3, **options)

    gradient = jax.jit(jax.grad(penalty))(params)
    still = jax.tree.map(jnp.zeros_like, params)
    for along in (direction(params), still | {"kernel": direction(params)["kernel"]}):
        found = contract.dot(gradient, along)
        assert abs(found) > 1e-3
        # Products of 64 Jacobians: the third derivative is some hundred times the first.
        assert_allclose(found, slope(penalty, params, along, h=1e-6), rtol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
def test_flossing_knows_how_a_scale_acts(every):
    """U (1 + e) adds e to every exponent of a linear network: the slope is 2 mean(lambda_i - l)."""
    cell, params = linear(noise(6, 6) / np.sqrt(6))
    xs, target = jnp.zeros((80, 6)), jnp.array([0.1, 0.0, -0.2])

    def penalty(scale):
        scaled = params | {"recurrent_kernel": scale * params["recurrent_kernel"]}
        return flossing_penalty(KEY, cell, scaled, xs, 3, every=every, target=target)

    exponents = lyapunov_spectrum(
        KEY, cell, params, xs, count=3, burn_in=0, tangent_burn_in=0, every=every
    ).exponents
    value, by_scale = jax.jit(jax.value_and_grad(penalty))(1.0)
    assert_allclose(value, np.mean((exponents - target) ** 2), rtol=1e-12)
    assert_allclose(by_scale, 2 * np.mean(exponents - target), rtol=1e-10)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def floss(cell, params, xs, count, steps, rate):
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: flossing_penalty(KEY, cell, p, xs, count))(params)
        # Optax raises a float to the power of an integer count.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimiser.init(params)), None, length=steps)[0][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "size", "count", "length", "steps", "rate"),
    [("identity", 16, 16, 60, 300, 1e-2), ("tanh", 32, 16, 100, 500, 3e-3)],
)
def test_c20_flossing_brings_exponents_to_zero(activation, size, count, length, steps, rate):
    """C20: |lambda_i| < 0.02 of those flossed, and the condition number of J_{T:T-30}, among as
    many directions, falls by more than 100: in fact by e**68 and e**11.

    The input is weak, as in the paper: a strong one saturates tanh, which larger steps of Adam
    only make worse.
    """
    cell = elman(activation)
    params = cell.init(KEY, 2, size, scheme=schemes.gaussian(), dtype=jnp.float64)
    xs = 0.1 * jax.random.normal(jax.random.key(5), (length, 2), jnp.float64)
    flossed = floss(cell, params, xs, count, steps, rate)

    def exponents(params):
        options = {"count": count, "burn_in": 0, "tangent_burn_in": 0}
        return lyapunov_spectrum(KEY, cell, params, xs, **options).exponents

    def log_condition(params):
        values = finite_time_spectrum(cell, params, xs, [30]).log_singular_values[0]
        return values[0] - values[count - 1]

    assert jnp.abs(exponents(params)).max() > 0.3
    assert jnp.abs(exponents(flossed)).max() < 0.02
    assert log_condition(params) - log_condition(flossed) > np.log(100)


def test_flossing_what_is_not_resolved_is_infinite():
    cell, params = linear(np.diag([0.5, 0.0]))
    xs = jnp.zeros((40, 2))
    penalty = jax.jit(flossing_penalty, static_argnums=(1, 4))
    assert np.isinf(penalty(KEY, cell, params, xs, 2))
    assert np.isfinite(penalty(KEY, cell, params, xs, 1))


# ---- Penalties on weights -----------------------------------------------------------------------


def gate_blocks(kernel, gates):
    return np.split(np.asarray(kernel), gates, axis=-1)


def test_soft_orthogonality_is_a_sum_over_gates():
    params = draw(combinators.stack(lstm(), gru(), lookup("rhn")))
    blocks = [
        *gate_blocks(params[0]["recurrent_kernel"], 4),
        *gate_blocks(params[1]["recurrent_kernel"], 3),
        *(b for layer in params[2]["recurrent_kernel"] for b in gate_blocks(layer, 2)),
    ]
    assert len(blocks) == 13
    expected = sum(np.sum((b.T @ b - np.eye(H)) ** 2) for b in blocks)
    assert_allclose(jax.jit(soft_orthogonality)(params), expected, rtol=1e-12)
    # 4 U (U^T U - I) for every block on its own, nothing for other parameters.
    gradient = jax.grad(soft_orthogonality)(params)
    by_gate = [4 * b @ (b.T @ b - np.eye(H)) for b in blocks[:4]]
    assert_allclose(gradient[0]["recurrent_kernel"], np.hstack(by_gate), rtol=1e-11, atol=1e-12)
    assert_array_equal(gradient[0]["kernel"], 0)


@pytest.mark.parametrize("hinge", [False, True])
def test_spectral_penalty_is_a_sum_over_gates(hinge):
    params, target = draw(lstm()), 1.6
    value, gradient = jax.jit(
        jax.value_and_grad(lambda params: spectral_penalty(params, target, hinge=hinge))
    )(params)
    expected, by_gate, above = 0.0, [], []
    for block in gate_blocks(params["recurrent_kernel"], 4):
        left, sigma, right = np.linalg.svd(block)
        excess = max(sigma[0] - target, 0) if hinge else sigma[0] - target
        expected += excess**2
        by_gate.append(2 * excess * np.outer(left[:, 0], right[0]))
        above.append(sigma[0] > target)
    assert len(set(above)) == 2
    assert_allclose(value, expected, rtol=1e-12)
    assert_allclose(gradient["recurrent_kernel"], np.hstack(by_gate), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_penalties_are_zero_at_orthogonal_gates(dtype):
    """And there the largest singular value, which all are, has a finite gradient."""
    params = gru().init(KEY, D, 8, scheme=schemes.orthogonal(), dtype=dtype)
    tolerance = 100 * float(jnp.finfo(dtype).eps) ** 2
    for penalty in (soft_orthogonality, spectral_penalty):
        value, gradient = jax.value_and_grad(penalty)(params)
        assert value.dtype == dtype
        assert float(value) < tolerance * 3 * 8
        chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("penalty", [soft_orthogonality, spectral_penalty])
def test_penalties_refuse_what_has_no_square_blocks(penalty):
    name = penalty.__name__
    with pytest.raises(ValueError, match=rf"{name}: params have no recurrent_kernel, only .*skew"):
        penalty(draw(lookup("exprnn")))
    # Its 4 * 4 columns could be cut into squares of 2, but not by gates.
    with pytest.raises(ValueError, match=rf"{name}: params\[0\].* shape \(2, 16\) is not made of"):
        penalty((draw(lstm(projection=2)),))
    with pytest.raises(ValueError, match=r"shape \(3, 4\) is not made of square blocks"):
        penalty({"recurrent_kernel": jnp.ones((3, 4))})
