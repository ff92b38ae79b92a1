"""Newton's method over time: the same function as `unroll`, or it says that it failed."""

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import STEPS, Case, agree, close, normal_like

import rnn_jax
from rnn_jax import CELLS, Newton, elman, gru, lstm, newton, schemes, unroll, unroll_parallel
from rnn_jax.analysis import step_jacobians
from rnn_jax.cells import lookup
from rnn_jax.remedies import clip_cotangents

# A state over space is no vector of a hundred numbers: its dense Jacobians are not to be had.
VECTORS = [lookup(name) for name in CELLS if name != "convlstm"]
METHODS = ["newton", "quasi_newton", Newton(damping=0.1), Newton(diagonal=True, damping=0.1)]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)
by_newton = functools.lru_cache(lambda method: functools.partial(unroll_parallel, method=method))


def chaotic(gain, size, steps, dtype=jnp.float64):
    """A vanilla network that forgets nothing (gain below 1: everything), and an input for it."""
    cell = elman()
    params = cell.init(jax.random.key(0), 1, size, scheme=schemes.gaussian(gain), dtype=dtype)
    start = rnn_jax.HiddenState(jax.random.normal(jax.random.key(1), (size,), dtype))
    return cell, params, jnp.zeros((steps, 1), dtype), start


# ---- The same as unroll -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("cell", VECTORS, ids=lambda cell: cell.name)
def test_equals_unroll(cell, method):
    """Values and gradients, with a mask over NaN, resets and taps, in both directions."""
    case = Case(cell)
    params, state, xs = case.args
    everything = case.everything()
    padded = params, state, xs.at[~everything["mask"]].set(jnp.nan)
    for reverse in (False, True):
        got = case.scan(padded, method=by_newton(method), reverse=reverse, **everything)
        agree(got, case.scan(case.args, reverse=reverse, **everything))


@every_method
def test_options_and_segments_change_nothing(method):
    case = Case(gru())
    expected = case.scan(case.args, **case.everything())
    for segment in (None, 3, "sqrt", STEPS + 1):
        run = functools.partial(unroll_parallel, method=method, segment=segment)
        agree(case.scan(case.args, method=run, **case.everything()), expected)


SAME_LAWS = [
    contract.the_state_keeps_its_kind,
    contract.the_default_state_is_the_initial_state,
    contract.two_halves_make_the_whole,
    contract.vmap_is_a_loop,
    contract.a_reset_is_a_split,
    contract.nan_does_not_pass_a_reset,
    contract.derivatives_agree,
    contract.tap_gradients_are_products_of_jacobians,
    contract.new_parameters_do_not_retrace,
]


@pytest.mark.slow
@pytest.mark.parametrize("law", SAME_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("cell", [lstm(), elman("relu")], ids=["lstm", "relu"])
def test_obeys_the_laws_of_unroll(monkeypatch, law, method, cell):
    monkeypatch.setattr(contract, "unroll", by_newton(method))
    law(Case(cell))


@pytest.mark.parametrize("method", METHODS[:2])
def test_second_derivatives(method):
    """The implicit rule differentiates itself."""
    args = Case(gru()).args
    directions = normal_like(args, 700)

    def curvature(run):
        def loss(args):
            params, state, xs = args
            return jnp.sum(jnp.sin(run(gru(), params, xs, state=state)[1].outputs))

        return jax.jit(lambda args: jax.jvp(jax.grad(loss), (args,), (directions,))[1])(args)

    close(curvature(by_newton(method)), curvature(unroll))


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-5), (jnp.float64, 1e-10)])
@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("cell", [elman(), lstm(), gru()], ids=lambda cell: cell.name)
def test_a31_the_sequential_result(cell, method, dtype, bound):
    """Over 500 steps, and the relative error of every gradient."""
    params = cell.init(jax.random.key(0), 3, 8, dtype=dtype)
    xs = jax.random.normal(jax.random.key(1), (500, 3), dtype)

    def measured(run):
        function = lambda params, xs: jnp.mean(jnp.square(run(cell, params, xs)[1].outputs))
        outputs = run(cell, params, xs)[1].outputs
        return outputs, jax.jit(jax.grad(function, (0, 1)))(params, xs)

    (got, gradients), (expected, others) = measured(by_newton(method)), measured(unroll)
    assert jnp.abs(got - expected).max() < bound
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        assert jnp.abs(a - b).max() < bound * jnp.abs(b).max()


# ---- Convergence --------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_iteration_makes_one_more_step_exact_and_squares_the_error():
    cell, params, xs, start = chaotic(1.5, 8, 40)
    exact = unroll(cell, params, xs, state=start)[1].states.hidden
    errors = []
    for count in range(1, 41):
        how = Newton(max_iterations=count)
        _, trajectory, convergence = unroll_parallel(
            cell, params, xs, state=start, method=how, report=True
        )
        wrong = jnp.abs(trajectory.states.hidden - exact).max(axis=1)
        assert jnp.all(wrong[:count] < 1e-12)
        errors.append(float(wrong.max()))
        if convergence.converged.all():
            break
    assert convergence.converged.all()
    assert int(convergence.iterations) == count
    small = [n for n, error in enumerate(errors) if 1e-7 < error < 1e-2]
    assert small
    # Products of Jacobians multiply what is left, but it is the square.
    assert all(errors[n + 1] < 1e3 * errors[n] ** 2 + 1e-13 for n in small)


def test_a_solution_as_guess_needs_no_iteration():
    cell, (params, state, xs) = lstm(), Case(lstm()).args
    _, trajectory = unroll(cell, params, xs, state=state)
    run = functools.partial(
        unroll_parallel, cell, state=state, method="newton", guess=trajectory.states, report=True
    )
    assert int(run(params, xs)[2].iterations) == 0
    # And it is nothing but a guess: gradients do not go through it, values do not depend on it.
    other = functools.partial(unroll_parallel, cell, params, xs, state=state, method="newton")
    through = lambda guess: jnp.sum(other(guess=guess)[1].outputs)
    far = jax.tree.map(lambda leaf: leaf + 0.5, trajectory.states)
    assert not any(map(np.any, jax.tree.leaves(jax.grad(through)(far))))
    close(other(guess=far), other())


def test_diagonal_jacobians_are_enough_where_they_are_all():
    """One unit: the diagonal is the Jacobian; of IndRNN always."""
    for cell, size in ((gru(), 1), (lookup("indrnn"), 5)):
        params = cell.init(jax.random.key(0), 2, size, dtype=jnp.float64)
        xs = jax.random.normal(jax.random.key(1), (100, 2), jnp.float64)
        whole, diagonal = (
            unroll_parallel(cell, params, xs, method=method, report=True)[2].iterations
            for method in METHODS[:2]
        )
        assert int(whole) == int(diagonal)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_not_solved_is_not_handed_out(reverse):
    """NaN from the first step that is wrong on; with a report the states as they are."""
    cell, params, xs, start = chaotic(2.0, 16, 30)
    how = Newton(max_iterations=3)
    run = functools.partial(
        unroll_parallel, cell, params, xs, state=start, method=how, reverse=reverse
    )
    state, trajectory = run()
    kept, raw, convergence = run(report=True)
    order = slice(None, None, -1) if reverse else slice(None)
    solved = np.asarray(convergence.converged)[order]
    assert 3 <= solved.sum() < 30
    assert solved[: solved.sum()].all()
    outputs = np.asarray(trajectory.outputs)[order]
    assert np.isnan(outputs[~solved]).all()
    assert np.isnan(state.hidden).all()
    np.testing.assert_array_equal(outputs[solved], np.asarray(raw.outputs)[order][solved])
    assert np.isfinite(kept.hidden).all()
    assert convergence.residual.max() > 1e-3


def test_chaos_takes_as_many_iterations_as_steps():
    """A network that forgets: as many at 50 steps as at 400. One that does not: ever more."""
    counts = {}
    for gain in (0.5, 2.0):
        for steps in (50, 400):
            cell, params, xs, start = chaotic(gain, 32, steps)
            *_, convergence = unroll_parallel(
                cell, params, xs, state=start, method=Newton(max_iterations=100), report=True
            )
            counts[gain, steps] = int(convergence.iterations)
            assert bool(convergence.converged.all()) is ((gain, steps) != (2.0, 400))
    assert counts[0.5, 400] <= counts[0.5, 50] + 1 <= 8
    assert counts[2.0, 50] > 12


def test_segments_tame_chaos():
    cell, params, xs, start = chaotic(2.0, 32, 400)
    exact = unroll(cell, params, xs[:20], state=start)[1].outputs
    *_, trajectory, convergence = unroll_parallel(
        cell, params, xs, state=start, method="newton", segment=10, report=True
    )
    assert convergence.converged.all()
    assert int(convergence.iterations) <= 10
    np.testing.assert_allclose(trajectory.outputs[:20], exact, atol=1e-10)


@pytest.mark.slow
def test_damping_where_products_of_jacobians_overflow():
    """float32, 1000 steps: e^(lambda_1 T) is no number, and plain Newton ends in NaN."""
    cell, params, xs, start = chaotic(4.0, 16, 1000, jnp.float32)
    run = lambda how: unroll_parallel(cell, params, xs, state=start, method=how, report=True)
    *_, plain = run(Newton(max_iterations=30))
    *_, trajectory, damped = run(Newton(damping=1.0, max_iterations=30))
    assert not np.isfinite(plain.residual).all()
    assert np.isfinite(trajectory.outputs).all()
    # Nor is it solved, and it says so: only some more steps than there were iterations.
    assert not damped.converged.all()
    start_at = Newton(damping=1.0, max_iterations=1)
    assert np.square(damped.residual).sum() < np.square(run(start_at)[2].residual).sum()


# ---- The linear algebra -------------------------------------------------------------------------


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("damping", [1e-6, 0.3, 1e4])
def test_a_damped_step_is_the_least_squares_solution(diagonal, damping):
    """Against NumPy on the whole matrix."""
    steps, size = 9, 3
    rng = np.random.default_rng(0)
    jacobians = rng.normal(size=(steps, size) if diagonal else (steps, size, size))
    residuals = rng.normal(size=(steps, size))
    whole = np.eye(steps * size)
    for t in range(1, steps):
        block = np.diag(jacobians[t]) if diagonal else jacobians[t]
        rows = slice(t * size, (t + 1) * size)
        whole[rows, (t - 1) * size : t * size] = -block
    matrix = np.vstack([whole, np.sqrt(damping) * np.eye(steps * size)])
    wanted = np.concatenate([residuals.ravel(), np.zeros(steps * size)])
    expected = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    got = newton._smooth(jnp.asarray(jacobians), jnp.asarray(residuals), jnp.asarray(damping))
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-9 * np.abs(expected).max())


def test_jacobians_are_read_off_the_linear_map():
    cell, (params, state, xs) = gru(), Case(gru()).args
    expected = step_jacobians(cell, params, xs, state=state)
    states = unroll(cell, params, xs, state=state)[1].states.hidden
    step = jax.vmap(lambda h, x: cell(params, rnn_jax.HiddenState(h), x)[0].hidden)
    wrong = lambda states: states - step(newton.before(state.hidden, states), xs)
    linear = jax.linearize(wrong, states)[1]
    whole = newton._jacobians(linear, states, diagonal=False)
    close(whole[1:], expected[1:])
    assert not np.any(whole[0])  # the state before the first step is known
    close(newton._jacobians(linear, states, diagonal=True), jnp.einsum("tii->ti", whole))


def test_iterations_are_not_stored():
    """What the backward pass is given does not grow with the number of iterations."""
    cell, (params, _, xs) = gru(), Case(gru()).args

    def stored(count):
        how = Newton(max_iterations=count, tolerance=1e-30)
        run = lambda params: unroll_parallel(cell, params, xs, method=how, report=True)[1].outputs
        _, vjp = jax.vjp(run, params)
        return sum(leaf.size for leaf in jax.tree.leaves(vjp))

    assert stored(2) == stored(50) > 0


# ---- Bad input ----------------------------------------------------------------------------------


def test_bad_arguments():
    cell, (params, state, xs) = gru(), Case(gru()).args
    run = functools.partial(unroll_parallel, cell, params, xs)
    with pytest.raises(ValueError, match="method must be one of associative, newton, quasi_newton"):
        run(method="broyden")
    for option in ({"guess": state}, {"segment": 3}, {"report": True}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}: .*'associative'"):
            run(**option)
    with pytest.raises(ValueError, match="guess: the cell gru needs"):
        run(method="newton", guess=state)
    with pytest.raises(ValueError, match="segment"):
        run(method="newton", segment=0)
    with pytest.raises(ValueError, match="changes its gradients on purpose"):
        unroll_parallel(clip_cotangents(cell, max_norm=1.0), params, xs, method="newton")
    for bad, message in (
        ({"damping": -1.0}, "damping must be finite and not negative"),
        ({"damping": float("inf")}, "damping must be finite"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"max_iterations": 0}, "max_iterations must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Newton(**bad)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_short(steps):
    cell, (params, state, xs) = lstm(), Case(lstm()).args
    got = unroll_parallel(cell, params, xs[:steps], state=state, method="newton", report=True)
    close(got[:2], unroll(cell, params, xs[:steps], state=state))
    assert got[2].converged.shape == got[2].residual.shape == (steps,)
