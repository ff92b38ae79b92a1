"""What is special to the cells that are dynamical systems, or whose matrix is orthogonal."""

import dataclasses
import functools

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
from contract import close
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from rnn_jax import combinators, elman, schemes, unroll, unroll_static
from rnn_jax.analysis import gradient_flow
from rnn_jax.base import no_preparation
from rnn_jax.cells import (
    antisymmetric,
    cayley_rnn,
    cornn,
    exprnn,
    householder_rnn,
    indrnn,
    irnn,
    lem,
)
from rnn_jax.cells.orthogonal import modrelu

# Minutes together; the contract is the quick test of what is here.
pytestmark = pytest.mark.slow

ORTHOGONAL = {"exprnn": exprnn, "cayley_rnn": cayley_rnn, "householder_rnn": householder_rnn}


@functools.partial(jax.jit, static_argnums=0)
def log_norms(cell, params, xs, readout):
    """ln ||dL/ds_t|| for t = 0 .. T, and nothing else of the flow."""
    return gradient_flow(cell, params, xs, readout).log_norm


def noise(*shape, seed=0, dtype=float):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def draw(cell, input_size=3, hidden_size=6, scale=1.0, dtype=float):
    """Parameters moved away from where they start, in float64."""
    params = cell.init(jax.random.key(0), input_size, hidden_size, dtype=dtype)
    flat, unravel = ravel_pytree(params)
    return unravel(flat + scale * noise(flat.size, seed=1, dtype=dtype))


def flat_jacobian(cell, params, state, drive):
    flat, unravel = ravel_pytree(state)
    step = lambda vector: ravel_pytree(cell.step(params, unravel(vector), drive)[0])[0]
    return jax.jacfwd(step)(flat)


def assert_uniform(sample, low, high):
    """A Kolmogorov-Smirnov test; the seeds are fixed, so 1e-3 is no one-in-a-thousand failure."""
    result = scipy.stats.kstest(np.ravel(sample), scipy.stats.uniform(low, high - low).cdf)
    assert result.pvalue > 1e-3


def assert_normal(sample, deviation):
    assert scipy.stats.kstest(np.ravel(sample) / deviation, "norm").pvalue > 1e-3


# ---- IndRNN, IRNN -------------------------------------------------------------------------------


def test_indrnn_gradient_is_the_product_of_scalars():
    """Li et al. (2018), equation 8: dh_{T,n}/dh_{t,n} = u_n**(T - t) prod of slopes, unit alone."""
    cell = indrnn("tanh")
    params = draw(cell)
    xs = noise(12, 3)
    first = cell.initial_state(params)

    def end(hidden):
        return unroll(cell, params, xs, state=first._replace(hidden=hidden))[0].hidden

    _, trajectory = unroll(cell, params, xs)
    slopes = np.prod(1 - np.asarray(trajectory.outputs) ** 2, axis=0)
    expected = np.diag(np.asarray(params["recurrent_weight"]) ** 12 * slopes)
    # 12 products, in which 1 - tanh**2 of a saturated unit cancels some digits.
    assert_allclose(jax.jacrev(end)(first.hidden), expected, rtol=1e-10, atol=0)


def test_indrnn_is_elman_with_a_diagonal_matrix():
    params = draw(indrnn())
    diagonal = {
        "kernel": params["kernel"],
        "recurrent_kernel": jnp.diag(params["recurrent_weight"]),
        "bias": params["bias"],
    }
    xs = noise(9, 3)
    close(unroll(indrnn(), params, xs), unroll(elman("relu"), diagonal, xs))


def test_indrnn_starts_as_in_the_paper():
    params = indrnn().init(jax.random.key(0), 50, 4000)
    assert_uniform(params["recurrent_weight"], 0, 1)
    assert_array_equal(params["bias"], 0)
    # 200 000 draws know their deviation within 0.2 %.
    assert_allclose(jnp.std(params["kernel"]), 50**-0.5, rtol=0.01)


def test_irnn_starts_as_in_the_paper():
    params = irnn().init(jax.random.key(0), 40, 50, dtype=jnp.float64)
    assert_array_equal(params["recurrent_kernel"], np.eye(50))
    assert_array_equal(params["bias"], 0)
    assert_normal(params["kernel"], 0.001)


def test_irnn_is_a_rectified_network_under_any_scheme():
    key, scheme = jax.random.key(3), schemes.orthogonal(0.9)
    params = irnn().init(key, 3, 5, scheme=scheme, dtype=jnp.float64)
    close(params, elman("relu").init(key, 3, 5, scheme=scheme, dtype=jnp.float64))
    close(unroll(irnn(), params, noise(6, 3)), unroll(elman("relu"), params, noise(6, 3)))


def test_irnn_adds_up_and_keeps_its_gradient():
    """With U = I and positive inputs every unit is on: h_T is a sum and dL/dh_t the readout."""
    params = irnn().init(jax.random.key(0), 3, 5, dtype=jnp.float64)
    params["kernel"] = jnp.abs(params["kernel"])
    xs, readout = jnp.abs(noise(1000, 3)), noise(5)
    state, _ = unroll(irnn(), params, xs)
    assert_allclose(state.hidden, jnp.sum(xs @ params["kernel"], axis=0), rtol=1e-12)
    expected = jnp.full(1001, jnp.log(jnp.linalg.norm(readout)))
    # Before the first input a unit is at 0, where the slope of ReLU is a convention.
    assert_allclose(log_norms(irnn(), params, xs, readout)[1:], expected[1:], rtol=1e-14)


# ---- AntisymmetricRNN ---------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_antisymmetric_eigenvalues_have_the_real_part_of_the_diffusion(gamma):
    """The differential equation's Jacobian diag(phi') M: real parts -gamma at phi' = 1.

    In general diag(d) M is similar to d^(1/2) M d^(1/2), antisymmetric less gamma d: its real
    parts lie between -gamma max(d) and -gamma min(d).
    """
    epsilon = 0.1
    cell = antisymmetric(epsilon=epsilon, gamma=gamma)
    params = draw(cell, hidden_size=8)
    rate = lambda drive: (
        (flat_jacobian(cell, params, cell.initial_state(params), drive) - jnp.eye(8)) / epsilon
    )
    # 1e-15 in the Jacobian, divided by epsilon.
    at_rest = np.linalg.eigvals(rate(jnp.zeros(8)))
    assert_allclose(at_rest.real, -gamma, atol=1e-12)
    drive = noise(8, seed=4)
    slopes = 1 - np.tanh(drive) ** 2
    real = np.linalg.eigvals(rate(drive)).real
    assert (real >= -gamma * slopes.max() - 1e-12).all()
    assert (real <= -gamma * slopes.min() + 1e-12).all()
    assert np.ptp(np.linalg.eigvals(rate(drive)).imag) > 1, "no rotation was tested"


def test_antisymmetric_ignores_the_symmetric_part():
    cell = antisymmetric(epsilon=0.5)
    params = draw(cell)
    kernel = params["recurrent_kernel"]
    other = {**params, "recurrent_kernel": kernel + 3 * (kernel + kernel.T)}
    close(unroll(cell, params, noise(7, 3)), unroll(cell, other, noise(7, 3)))


def test_antisymmetric_step_converges_to_the_differential_equation():
    """Euler's method: halving epsilon at a fixed time halves the error."""
    params = draw(antisymmetric(), scale=0.3)
    matrix = np.asarray(params["recurrent_kernel"] - params["recurrent_kernel"].T) - 0.5 * np.eye(6)
    x, start = noise(3), 0.5 * noise(6, seed=5)
    drive = np.asarray(x @ params["kernel"] + params["bias"])
    solution = scipy.integrate.solve_ivp(
        lambda t, h: np.tanh(drive + h @ matrix), (0, 1), start, rtol=1e-10, atol=1e-12
    )

    def error(steps):
        cell = antisymmetric(epsilon=1 / steps, gamma=0.5)
        state = cell.initial_state(params)._replace(hidden=start)
        end, _ = unroll(cell, params, jnp.broadcast_to(x, (steps, 3)), state=state)
        return np.linalg.norm(end.hidden - solution.y[:, -1])

    # The next term of the expansion is 1 / 200 of the first.
    assert_allclose(error(200) / error(400), 2, rtol=0.02)


def test_an_open_gate_leaves_the_antisymmetric_network():
    plain, gated = antisymmetric(epsilon=0.3), antisymmetric(gated=True, epsilon=0.3)
    params = draw(plain)
    opened = {
        **params,
        "kernel": jnp.concatenate([0 * params["kernel"], params["kernel"]], axis=1),
        "bias": jnp.concatenate([jnp.full(6, 40.0), params["bias"]]),
    }
    # sigmoid(40 + O(1)) is 1 to the last digit of float64.
    close(unroll(gated, opened, noise(7, 3)), unroll(plain, params, noise(7, 3)))


@pytest.mark.parametrize("gated", [False, True])
def test_antisymmetric_starts_as_in_the_paper(gated):
    cell = antisymmetric(gated=gated)
    params = cell.init(jax.random.key(0), 40, 60, dtype=jnp.float64)
    assert params["recurrent_kernel"].shape == (60, 60)
    assert_normal(params["recurrent_kernel"], 60**-0.5)
    # 2400 draws or more know their deviation within 1.5 %.
    assert_allclose(jnp.std(params["kernel"]), 40**-0.5, rtol=0.05)
    assert_array_equal(params["bias"], 0)


# ---- coRNN --------------------------------------------------------------------------------------


def test_cornn_energy_is_bounded_by_time():
    """gamma |y|^2 + |z|^2 <= H dt t for any weights and inputs, if epsilon >= (1 + gamma dt) / 2.

    The discrete form of the paper's bound: z . a <= (|z|^2 + H) / 2 for |a| <= 1, in the energy
    balance of the implicit step.
    """
    dt, gamma = 0.1, 2.0
    cell = cornn(dt=dt, gamma=gamma, epsilon=(1 + gamma * dt) / 2)
    for scale in (0.3, 3.0, 30.0):
        params = draw(cell, hidden_size=8, scale=scale)
        _, trajectory = unroll(cell, params, scale * noise(500, 3))
        y, z = trajectory.states
        energy = gamma * jnp.sum(y**2, axis=1) + jnp.sum(z**2, axis=1)
        assert (energy <= 8 * dt * np.arange(1, 501) * (1 + 1e-12)).all()
    # The bound is of the right size: a force in the direction of the velocity comes near.
    assert jnp.max(energy / (8 * dt * np.arange(1, 501))) > 0.1


def test_cornn_gradient_depends_on_time_and_not_on_the_number_of_steps():
    """Each step is I + O(dt): dL/ds_0 over a fixed time has a limit, and exp(max rate * time)."""
    size, time = 6, 2.0
    params = draw(cornn(), hidden_size=size, scale=0.3)
    x, readout = noise(3), noise(size)

    def log_gradient(steps):
        cell = cornn(dt=time / steps)
        return log_norms(cell, params, jnp.broadcast_to(x, (steps, 3)), readout)[0]

    coarse, middle, fine = (log_gradient(steps) for steps in (250, 500, 1000))
    # First order: each halving of dt halves what is left.
    assert_allclose((coarse - middle) / (middle - fine), 2, rtol=0.1)
    assert abs(middle - fine) < 0.01


@pytest.mark.parametrize("damping", ["implicit", "explicit"])
def test_cornn_step_converges_to_the_oscillators(damping):
    params = draw(cornn(), hidden_size=4, scale=0.5)
    w, v = params["recurrent_kernel"], params["velocity_kernel"]
    x = noise(3)
    drive = np.asarray(x @ params["kernel"] + params["bias"])

    def rate(t, state):
        y, z = np.split(state, 2)
        return np.concatenate([z, np.tanh(drive + y @ w + z @ v) - 2.7 * y - 4.7 * z])

    solution = scipy.integrate.solve_ivp(rate, (0, 1), np.zeros(8), rtol=1e-10, atol=1e-12)

    def error(steps):
        cell = cornn(dt=1 / steps, damping=damping)
        end, _ = unroll(cell, params, jnp.broadcast_to(x, (steps, 3)))
        return np.linalg.norm(np.concatenate(end) - solution.y[:, -1])

    assert_allclose(error(400) / error(800), 2, rtol=0.05)


def test_cornn_starts_as_the_authors_code():
    params = cornn().init(jax.random.key(0), 40, 60, dtype=jnp.float64)
    limit = (40 + 2 * 60) ** -0.5
    for name in ("kernel", "recurrent_kernel", "velocity_kernel", "bias"):
        assert_uniform(params[name], -limit, limit)


# ---- LEM ----------------------------------------------------------------------------------------


def test_lem_memory_is_that_of_a_lstm_with_coupled_gates():
    """At dt = 1 the two steps are gates; where they are open wide the state is the candidate."""
    cell = lem()
    params = draw(cell, hidden_size=4)
    one = np.repeat([1.0, 1.0, 0.0, 0.0], 4)
    open_wide = {
        "kernel": params["kernel"] * (1 - one)[None],
        "recurrent_kernel": params["recurrent_kernel"] * (1 - one)[None],
        "bias": params["bias"] * (1 - one) + 40 * one,
    }
    xs = noise(5, 3)
    _, trajectory = unroll(cell, open_wide, xs)
    w_z, w_y = jnp.split(params["recurrent_kernel"][:, 8:], 2, axis=1)
    v_z, v_y = jnp.split(xs @ params["kernel"][:, 8:] + params["bias"][None, 8:], 2, axis=1)
    y, z = jnp.zeros(4), jnp.zeros(4)
    for t in range(5):
        z = jnp.tanh(v_z[t] + y @ w_z)
        y = jnp.tanh(v_y[t] + z @ w_y)
        close(trajectory.states.memory[t], z)
        close(trajectory.states.hidden[t], y)


def test_lem_with_shut_gates_keeps_both_parts():
    cell = lem()
    params = draw(cell, hidden_size=4)
    shut = {
        "kernel": 0 * params["kernel"],
        "recurrent_kernel": 0 * params["recurrent_kernel"],
        "bias": jnp.concatenate([jnp.full(8, -800.0), params["bias"][8:]]),
    }
    start = cell.initial_state(params)._replace(hidden=noise(4), memory=noise(4, seed=1))
    # sigmoid(-800) underflows to 0.
    end, _ = unroll(cell, shut, noise(100, 3), state=start)
    assert_array_equal(end.hidden, start.hidden)
    assert_array_equal(end.memory, start.memory)


def test_lem_steps_scale_with_dt():
    """The increments of a step are linear in dt, but for the new memory that the output sees."""
    params = draw(lem(), hidden_size=4)
    start = lem().initial_state(params)._replace(hidden=0.3 * noise(4), memory=noise(4, seed=1))
    end = lambda dt: lem(dt=dt)(params, start, noise(3))[0]
    whole, half = end(1.0), end(0.5)
    close(half.memory - start.memory, 0.5 * (whole.memory - start.memory))
    tiny = end(1e-6)
    slow = flat_jacobian(lem(dt=1e-6), params, start, lem().project(params, noise(3)))
    assert_allclose(tiny.hidden, start.hidden, atol=2e-6)
    assert_allclose(slow, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_lem_stays_in_the_unit_cube(dt):
    params = draw(lem(), hidden_size=5, scale=10.0)
    _, trajectory = unroll(lem(dt=dt), params, 10 * noise(300, 3))
    for part in trajectory.states:
        assert jnp.max(jnp.abs(part)) <= 1
        assert jnp.max(jnp.abs(part)) > 0.8, "the bound was not tested"


def test_lem_starts_as_in_the_paper():
    params = lem().init(jax.random.key(0), 10, 50, dtype=jnp.float64)
    for leaf in jax.tree.leaves(params):
        assert_uniform(leaf, -(50**-0.5), 50**-0.5)


# ---- Orthogonal networks ------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def prepared(cell, params):
    return cell.prepare_params(params)


def matrix(cell, params):
    return np.asarray(prepared(cell, params)["recurrent_kernel"])


def distance_from_orthogonal(q):
    q = np.asarray(q, np.float64)
    return np.linalg.norm(q.T @ q - np.eye(len(q)))


def test_exponential_is_that_of_scipy():
    params = draw(exprnn(), hidden_size=9, scale=3.0)
    a = np.zeros((9, 9))
    a[np.triu_indices(9, 1)] = params["skew"]
    # ||A|| is about 20; SciPy's error is some 1e-14.
    assert_allclose(matrix(exprnn(), params), scipy.linalg.expm(a - a.T), atol=1e-12)


@pytest.mark.parametrize("negative", [0.0, 0.25, 1.0])
def test_cayley_has_the_determinant_of_its_diagonal(negative):
    cell = cayley_rnn(negative=negative)
    q = matrix(cell, draw(cell, hidden_size=8))
    assert_allclose(np.linalg.det(q), (-1.0) ** round(8 * negative), rtol=1e-12)


@pytest.mark.parametrize("reflections", [1, 3, 8])
def test_reflections_flip_so_many_times_and_leave_the_rest_alone(reflections):
    cell = householder_rnn(reflections=reflections)
    q = matrix(cell, draw(cell, hidden_size=8))
    assert_allclose(np.linalg.det(q), (-1.0) ** reflections, rtol=1e-12)
    # A product of m reflections is the identity on a space of dimension H - m.
    changed = np.linalg.svd(q - np.eye(8), compute_uv=False)
    assert np.sum(changed > 1e-10) == reflections


@pytest.mark.parametrize("entry", [0.0, 1e-200])
def test_a_reflector_near_zero(entry):
    """R(0) = I, and a reflector has no length: here that of (1, 1, ..., 1)."""
    cell = householder_rnn(reflections=2)
    params = draw(cell, hidden_size=8)
    params |= {"reflectors": params["reflectors"].at[:, 0].set(entry)}
    v = np.tril(params["reflectors"])[:, 1]
    first = np.eye(8) - 2 * np.ones((8, 8)) / 8 * (entry != 0)
    second = np.eye(8) - 2 * np.outer(v, v) / (v @ v)
    assert_allclose(matrix(cell, params), first @ second, atol=1e-12)
    cubes = lambda params: jnp.sum(prepared(cell, params)["recurrent_kernel"] ** 3)
    gradient = jax.grad(cubes)(params)
    assert np.isfinite(gradient["reflectors"]).all()
    assert np.any(gradient["reflectors"][1:, 1] != 0)


def test_as_many_reflections_as_units_reach_any_orthogonal_matrix():
    """The reflectors of LAPACK's QR of an orthogonal matrix, signs aside, give it back."""
    target = scipy.stats.ortho_group.rvs(7, random_state=0)
    (factors, _), r = scipy.linalg.qr(target, mode="raw")
    reflectors = np.tril(factors, -1) + np.eye(7)
    cell = householder_rnn()
    params = {**draw(cell, hidden_size=7), "reflectors": jnp.asarray(reflectors)}
    signs = np.diag(r) * np.append(np.ones(6), -1.0)
    # LAPACK leaves out the last reflection, of one entry, which here flips that entry.
    assert_allclose(matrix(cell, params) * signs, target, atol=1e-12)


@pytest.mark.parametrize(
    "combine",
    [
        lambda cell: combinators.stack(cell, elman(), cell),
        combinators.with_learned_state,
        combinators.with_layer_norm,
        combinators.residual,
    ],
)
def test_combinators_prepare_the_cells_that_they_are_made_of(combine):
    cell = combine(householder_rnn())
    params = draw(cell, input_size=4, hidden_size=4)
    xs = noise(5, 4)
    ready = prepared(cell, params)
    assert str(ready).count("'recurrent_kernel'") > str(params).count("'recurrent_kernel'")
    close(unroll(cell, ready, xs), unroll(cell, params, xs))
    loss = lambda method, params: method(cell, params, xs)[1].outputs.sum()
    scanned, looped = (
        jax.jit(jax.value_and_grad(functools.partial(loss, method)))(params)
        for method in (unroll, unroll_static)
    )
    close(scanned, looped)


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_the_matrix_is_made_once_and_not_once_per_step(name):
    """No loop over the steps of a gradient solves, as one would without preparation."""

    def in_loops(jaxpr, looping=False):
        for equation in jaxpr.eqns:
            if looping:
                yield equation.primitive.name
            steps = equation.primitive.name == "scan" and equation.params["length"] == 20
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from in_loops(inner, looping or steps)

    def found(cell):
        params = draw(cell, hidden_size=6)
        # Hoisting would take the solve out of the loop of a cell that is not prepared, too.
        loss = lambda params: unroll(cell, params, noise(20, 3), hoist=False)[1].outputs.sum()
        return set(in_loops(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))

    cell = ORTHOGONAL[name]()
    assert "dot_general" in found(cell)
    assert "triangular_solve" not in found(cell)
    unprepared = dataclasses.replace(cell, prepare_params=no_preparation)
    assert "triangular_solve" in found(unprepared)


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_linear_orthogonal_gradient_keeps_its_norm(name):
    """Ground truth A1: ||dL/dh_t|| = ||dL/dh_T|| over 1000 lags."""
    cell = ORTHOGONAL[name]("identity")
    params = draw(cell, input_size=2, hidden_size=32)
    readout = noise(32)
    norms = log_norms(cell, params, noise(1000, 2), readout)
    # 1000 products, each with an error of 1e-15 in the norm.
    assert_allclose(norms, jnp.log(jnp.linalg.norm(readout)), atol=1e-11)


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("exprnn", "modrelu"),
        ("cayley_rnn", "tanh"),
        ("householder_rnn", "leaky_relu"),
        ("householder_rnn", "relu"),
    ],
)
def test_orthogonal_jacobian_has_norm_at_most_one(name, activation):
    cell = ORTHOGONAL[name](activation)
    params = draw(cell, hidden_size=8)
    _, trajectory = unroll(cell, params, noise(20, 3))
    before = jax.tree.map(lambda leaf: leaf[:-1], trajectory.states)
    drives = cell.project(params, noise(20, 3))[1:]
    jacobians = jax.vmap(functools.partial(cell.jacobian, params))(before, drives)
    norms = jnp.linalg.norm(jacobians, 2, axis=(1, 2))
    assert jnp.max(norms) <= 1 + 1e-12
    assert jnp.max(norms) > 0.5, "the bound was not tested"


@functools.partial(jax.jit, static_argnums=0)
def trained(cell, keys, params, rate):
    """A step of Adam per key, on new samples of adding the first and the last of four inputs."""
    optimiser = optax.adam(rate)
    dtype = params["bias"].dtype

    def loss(weights, xs):
        params, readout = weights
        run = lambda xs: unroll(cell, params, xs)[1].outputs[-1]
        return jnp.mean((jax.vmap(run)(xs) @ readout - xs[:, 0, 0] - xs[:, -1, 1]) ** 2)

    def update(carry, key):
        weights, state = carry
        xs = jax.random.normal(key, (8, 4, 2), dtype)
        value, gradient = jax.value_and_grad(loss)(weights, xs)
        # Optax raises a float to the power of an integer count.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(weights, updates), state), value

    weights = (params, jnp.zeros(params["bias"].size, dtype))
    (weights, _), losses = jax.lax.scan(update, (weights, optimiser.init(weights)), keys)
    return weights[0], losses


@pytest.mark.parametrize("name", ORTHOGONAL)
@pytest.mark.parametrize(
    ("size", "steps"), [(32, 50), pytest.param(128, 1000, marks=pytest.mark.slow)]
)
def test_training_leaves_the_matrix_orthogonal(name, size, steps):
    """Ground truth A28: ||Q^T Q - I||_F <= 1e-5 in float32 after any number of steps."""
    cell = ORTHOGONAL[name]()
    params = cell.init(jax.random.key(0), 2, size, dtype=jnp.float32)
    start = matrix(cell, params)
    keys = jax.random.split(jax.random.key(1), steps)
    after, losses = trained(cell, keys, params, jnp.float32(0.01))
    end = matrix(cell, after)
    assert end.dtype == np.float32
    assert distance_from_orthogonal(end) <= 1e-5
    # The test is of a matrix that has moved, in a network that has learnt.
    assert np.linalg.norm(end - start) > 0.5
    assert jnp.mean(losses[-10:]) < 0.5 * jnp.mean(losses[:10])


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_orthogonal_far_from_where_it_starts(name):
    """Also where ||A|| is far above what it is at first, and float32 needs a correction."""
    cell = ORTHOGONAL[name]()
    params = draw(cell, hidden_size=128, scale=1.0, dtype=jnp.float32)
    assert distance_from_orthogonal(matrix(cell, params)) <= 1e-5


def test_modrelu_turns_no_sign():
    x = jnp.array([-2.0, -0.3, 0.0, 0.3, 2.0])
    assert_allclose(modrelu(x, jnp.full(5, -0.5)), [-1.5, 0, 0, 0, 1.5])
    assert_allclose(modrelu(x, jnp.full(5, 0.5)), [-2.5, -0.8, 0, 0.8, 2.5])
    assert_array_equal(modrelu(x, jnp.zeros(5)), x)


def angles(q):
    """Of the 2 by 2 blocks of a block-diagonal rotation."""
    return np.arctan2(np.diag(q, 1)[::2], np.diag(q)[::2])


def test_exprnn_starts_as_in_the_paper():
    params = exprnn().init(jax.random.key(0), 20, 200, dtype=jnp.float64)
    q = matrix(exprnn(), params)
    assert_array_equal(np.abs(q) > 1e-12, np.kron(np.eye(100), np.ones((2, 2))) > 0)
    assert_uniform(angles(q), -np.pi, np.pi)
    assert_normal(params["kernel"], (2 / 20) ** 0.5)
    assert_uniform(params["bias"], -0.01, 0.01)


def test_cayley_starts_as_the_authors_code():
    cell = cayley_rnn(negative=0.0)
    params = cell.init(jax.random.key(0), 20, 201, dtype=jnp.float64)
    assert_uniform(angles(matrix(cell, params)[:200, :200]), 0, np.pi / 2)
    assert_uniform(params["kernel"], -0.01, 0.01)
    assert_array_equal(params["bias"], 0)


def test_householder_starts_as_the_authors_code():
    cell = householder_rnn(reflections=3)
    params = cell.init(jax.random.key(0), 20, 400, dtype=jnp.float64)
    reflectors = np.asarray(params["reflectors"])
    assert_allclose(np.linalg.norm(reflectors, axis=0), 1, rtol=1e-12)
    assert_array_equal(reflectors, np.tril(reflectors))
    # A point of the sphere in 400 dimensions has entries almost normal with variance 1 / 400.
    assert_normal(reflectors[:, 0], 400**-0.5)
    limit = (6 / 420) ** 0.5
    assert_uniform(params["kernel"], -limit, limit)
    assert_array_equal(params["bias"], 0)


# ---- Bad options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: indrnn("swich"), ValueError, "indrnn: unknown activation 'swich'"),
        (lambda: exprnn("swich"), ValueError, "exprnn: unknown activation 'swich'"),
        (lambda: antisymmetric(gated=1), TypeError, "antisymmetric: gated .* got 1"),
        (lambda: antisymmetric(epsilon=0), ValueError, "antisymmetric: epsilon .* above 0, got 0"),
        (lambda: antisymmetric(gamma=-1), ValueError, "antisymmetric: gamma .* at least 0, got -1"),
        (lambda: cornn(dt=np.inf), ValueError, "cornn: dt .* got inf"),
        (lambda: cornn(epsilon="1"), TypeError, "cornn: epsilon must be a number, got '1'"),
        (lambda: cornn(damping="none"), ValueError, "cornn: damping .* got 'none'"),
        (lambda: lem(dt=True), TypeError, "lem: dt must be a number, got True"),
        (lambda: cayley_rnn(negative=1.5), ValueError, "cayley_rnn: negative .* got 1.5"),
        (lambda: cayley_rnn(negative="a"), ValueError, "cayley_rnn: negative .* got 'a'"),
        (lambda: exprnn(None), TypeError, "exprnn: activation must be a name or .* got None"),
        (lambda: indrnn([]), TypeError, r"indrnn: activation must be a name or .* got \[\]"),
        (lambda: householder_rnn(reflections=0), ValueError, "householder_rnn: reflections .* 0"),
        (lambda: householder_rnn(reflections=1.0), TypeError, "householder_rnn: reflections"),
        (
            lambda: householder_rnn(reflections=5).init(jax.random.key(0), 3, 4),
            ValueError,
            "householder_rnn: reflections must be at most hidden_size, 4, got 5",
        ),
        (
            lambda: exprnn().init(jax.random.key(0), 3, 4, scheme=schemes.orthogonal()),
            ValueError,
            "scheme orthogonal: makes no sense for the cell exprnn",
        ),
        (
            lambda: lem().init(jax.random.key(0), 3, 4, scheme=schemes.orthogonal(1.0, 1.0)),
            ValueError,
            "orthogonal.* forget bias.* lem",
        ),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "cell", [irnn(), indrnn(), antisymmetric(), antisymmetric(gated=True), cornn(), lem(), exprnn()]
)
def test_foreign_parameters_are_refused(cell):
    """Those of a cell with other equations, even with shapes that would broadcast."""

    def params_of(cell):
        shapes = jax.eval_shape(lambda key: cell.init(key, 3, 4), jax.random.key(0))
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)

    shapes = lambda params: {name: leaf.shape for name, leaf in params.items()}
    for other in (indrnn(), householder_rnn(), antisymmetric(gated=True), lem(), elman()):
        params = params_of(other)
        if shapes(params) != shapes(params_of(cell)):
            with pytest.raises(ValueError, match=f"{cell.name}: params .* of another cell"):
                cell.project(params, np.zeros(3))


def test_equal_numbers_make_one_cell():
    assert antisymmetric(epsilon=1) is antisymmetric(epsilon=1.0, gamma=0.01, gated=False)
    assert cornn() is cornn(dt=0.042, gamma=2.7, epsilon=4.7, damping="implicit")
    assert lem() is lem(dt=np.float32(1))
    assert exprnn() is exprnn(modrelu)
    assert householder_rnn() is householder_rnn("leaky_relu", reflections=None)
