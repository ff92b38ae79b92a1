"""Closed forms that the cells and the instruments have to reproduce, named A1 to A31.

Each test states a fact of linear algebra or of a published analysis and measures it with this
library. What is expected comes from the fact: from the closed form, or from float64 NumPy loops
over it. Conventions: J_t = ds_t/ds_{t-1}, lag k = T - t, J_{T:t} = J_T ... J_{t+1}; the rate of
a product is (1 / k) ln ||J_{T:t}||. Kernels act from the right, so J = diag(phi') U^T, and the
flat state of the LSTM is in the order (hidden, cell).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import rnn_jax
from rnn_jax import numerics, schemes, theory
from rnn_jax.analysis import gradient_flow, length_curve, length_sweep, step_jacobians

flow = jax.jit(gradient_flow)
sweep = jax.jit(length_sweep, static_argnames="horizons")
curve = jax.jit(length_curve, static_argnames="tangents")

LINEAR = rnn_jax.elman("identity")


def assert_close(actual, expected, *, atol):
    """An absolute tolerance alone: of a logarithm it is a relative one of the number."""
    assert_allclose(actual, expected, rtol=0, atol=atol)


def vanilla(recurrent_kernel, bias=0.0, dtype=float):
    """An Elman network whose inputs, one per unit, enter as they are."""
    size = len(recurrent_kernel)
    return {
        "kernel": jnp.eye(size, dtype=dtype),
        "recurrent_kernel": jnp.asarray(recurrent_kernel, dtype),
        "bias": jnp.full(size, bias, dtype),
    }


def scalar(weight, bias=0.0):
    return vanilla(jnp.reshape(weight, (1, 1)), bias)


def draw(cell, input_size, hidden_size, seed=0, scale=1.0):
    """Every parameter normal with deviation scale / sqrt(H), the biases too, in float64."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: cell.init(key, input_size, hidden_size))
    rng = np.random.default_rng(seed)
    entries = lambda leaf: jnp.asarray(rng.normal(0, scale * hidden_size**-0.5, leaf.shape))
    return jax.tree.map(entries, shapes)


def without_recurrence(params):
    """The gates see the input and their biases alone."""
    return {**params, "recurrent_kernel": jnp.zeros_like(params["recurrent_kernel"])}


def with_biases(params, **biases):
    """Zero input kernel, and each gate's bias as given, in the order of the gates."""
    size = params["recurrent_kernel"].shape[0]
    values = np.repeat(np.array(list(biases.values()), float), size)
    return {**params, "kernel": jnp.zeros_like(params["kernel"]), "bias": jnp.asarray(values)}


def unit(size, dtype=float):
    vector = np.random.default_rng(1).normal(size=size)
    return jnp.asarray(vector / np.linalg.norm(vector), dtype)


def noise(steps, size, seed=2):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, size)))


@jax.jit
def closed_form(cell, params, state, x):
    """The Jacobian that the cell itself knows."""
    return cell.jacobian(params, state, cell.project(params, x))


@jax.jit
def by_autodiff(cell, params, state, x):
    flat, unravel = ravel_pytree(state)
    return jax.jacrev(lambda flat: ravel_pytree(cell(params, unravel(flat), x)[0])[0])(flat)


@jax.jit
def along(cell, params, xs):
    """The state before each step and the step's Jacobian, over a sequence."""

    def body(state, x):
        jacobian = cell.jacobian(params, state, cell.project(params, x))
        return cell(params, state, x)[0], (state, jacobian)

    return jax.lax.scan(body, cell.initial_state(params), xs)[1]


def lyapunov_spectrum(jacobians):
    """Benettin's method: the mean ln |diag R| of a running QR decomposition."""
    frame = np.eye(len(jacobians[0]))
    total = np.zeros(len(frame))
    for jacobian in jacobians:
        frame, triangle = np.linalg.qr(jacobian @ frame)
        total += np.log(np.abs(np.diag(triangle)))
    return total / len(jacobians)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ---- Linear and scalar networks -----------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_a1_orthogonal_recurrence_keeps_the_gradient(dtype, tolerance):
    """A1: with U orthogonal ||dL/dh_t|| = ||dL/dh_T|| at all 1000 lags, whatever the input."""

    @jax.jit
    def measure(xs, cotangent):
        params = LINEAR.init(jax.random.key(0), 64, 64, scheme=schemes.orthogonal(), dtype=dtype)
        return gradient_flow(LINEAR, params, xs, cotangent).log_norm

    assert_close(measure(noise(1000, 64), 3 * unit(64)), np.log(3), atol=tolerance)


def test_a1_orthogonal_recurrence_keeps_the_frobenius_norm():
    """A1: ||J_{T:0}||_F = sqrt(N) for every length T; as many tangents as units are exact."""
    params = vanilla(np.linalg.qr(noise(64, 64))[0])
    log_rms = curve(jax.random.key(0), LINEAR, params, noise(1000, 64), tangents=64)
    assert_close(log_rms, 0, atol=1e-10)


def test_a1_orthogonal_recurrence_has_singular_values_one():
    """A1: ||J_{T:t}||_2 = 1 and all Lyapunov exponents are 0."""
    params = vanilla(np.linalg.qr(noise(64, 64))[0])
    jacobian = closed_form(LINEAR, params, LINEAR.initial_state(params), jnp.ones(64))
    product = np.linalg.matrix_power(jacobian, 1000)
    assert_allclose(np.linalg.svd(product, compute_uv=False), 1, rtol=1e-10)


def test_a2_scaled_orthogonal_recurrence_decays_by_its_gain():
    """A2: with U = g Q the norm is g^k, to 1e-6 per step over 5000 float32 steps.

    0.5^5000 and 2^5000 are far outside of float32 and float64 alike.
    """
    gains = np.array([0.5, 0.9, 1.0, 1.1, 2.0], np.float32)
    steps = 5000

    @jax.jit
    @jax.vmap
    def measure(gain):
        scheme = schemes.orthogonal(gain)
        params = LINEAR.init(jax.random.key(0), 1, 16, scheme=scheme, dtype="float32")
        return gradient_flow(LINEAR, params, jnp.zeros((steps, 1)), unit(16, "float32")).log_norm

    measured = np.asarray(measure(gains), float)
    lags = np.arange(steps, 0, -1)
    rates = (measured[:, :-1] - measured[:, -1:]) / lags
    assert_close(rates - np.log(gains)[:, None], 0, atol=1e-6)


def test_a2_scaled_orthogonal_recurrence_has_equal_exponents():
    """A2: every Lyapunov exponent of g Q is ln g."""
    params = vanilla(0.9 * np.linalg.qr(noise(16, 16))[0])
    jacobian = closed_form(LINEAR, params, LINEAR.initial_state(params), jnp.ones(16))
    assert_close(lyapunov_spectrum([jacobian] * 100), np.log(0.9), atol=1e-10)


def gaussian_matrix(size=32):
    return noise(size, size, seed=5) / np.sqrt(size)


def log_moduli(matrix):
    return np.sort(np.log(np.abs(np.linalg.eigvals(matrix))))[::-1]


def test_a3_exponents_of_a_linear_network_are_its_log_eigenvalues():
    """A3: LE_i = ln |mu_i(W)|, sorted; the finite-time value is off by O(1 / k), here k = 5000."""
    params = vanilla(gaussian_matrix())
    jacobian = np.asarray(closed_form(LINEAR, params, LINEAR.initial_state(params), jnp.ones(32)))
    measured = lyapunov_spectrum([jacobian] * 5000)
    assert_close(measured, log_moduli(gaussian_matrix()), atol=5e-3)


def test_a3_gradient_rate_of_a_linear_network_is_its_spectral_radius():
    """A3: (1 / T) ln ||J_{T:0}|| tends to ln |mu_1|: one random tangent finds it."""
    params = vanilla(gaussian_matrix())
    log_rms = curve(jax.random.key(0), LINEAR, params, jnp.zeros((5000, 32)), tangents=1)
    assert_close(log_rms[-1] / 5000, log_moduli(gaussian_matrix())[0], atol=5e-3)


def test_a4_non_normal_transient():
    """A4: for W = [[a, b], [0, a]] ||W^k||_F^2 = 2 a^2k + k^2 a^(2k-2) b^2, k = 1 .. 200."""
    a, b, k = 0.95, 1.0, np.arange(1, 201)
    params = vanilla([[a, 0.0], [b, a]])
    log_rms = curve(jax.random.key(0), LINEAR, params, noise(200, 2), tangents=2)
    squared = 2 * a ** (2 * k) + k**2 * a ** (2 * k - 2) * b**2
    assert_allclose(2 * np.exp(2 * log_rms[1:]), squared, rtol=1e-12)


def test_a4_non_normal_gradient_grows_before_it_vanishes():
    """A4: although the spectral radius is a < 1, the gradient grows until k = -1 / ln a."""
    a = 0.95
    params = vanilla([[a, 0.0], [1.0, a]])
    log_norm = flow(LINEAR, params, noise(2000, 2), jnp.array([1.0, 0.0])).log_norm[::-1]
    assert abs(int(jnp.argmax(log_norm)) + 1 / np.log(a)) <= 1
    assert log_norm[20] > np.log(7)
    assert log_norm[-1] < -90  # rho < 1 suffices for a linear network to vanish


IMPULSE_DECAY = 0.9


def impulse(steps):
    return jnp.zeros((steps, 1)).at[0].set(1.0)


def test_a5_state_gradient_of_an_impulse_response():
    """A5: h_t = lam h_{t-1} + x_t has dh_T/dh_t = lam^(T-t), T = 200."""
    measured = flow(LINEAR, scalar(IMPULSE_DECAY), impulse(200), jnp.ones(1)).log_norm
    assert_close(measured, np.arange(200, -1, -1) * np.log(IMPULSE_DECAY), atol=1e-12)


def test_a5_parameter_gradient_of_an_impulse_response():
    """A5: after an impulse at t = 1, dh_T/dlam = (T-1) lam^(T-2), largest at T = 1 - 1 / ln lam."""

    def last(params):
        return rnn_jax.unroll(LINEAR, params, impulse(200))[1].outputs[:, 0]

    by_length = jax.jit(jax.jacfwd(last))(scalar(IMPULSE_DECAY))["recurrent_kernel"].ravel()
    lengths = np.arange(1, 201)
    expected = (lengths - 1) * IMPULSE_DECAY ** (lengths - 2.0)
    assert_allclose(by_length, expected, rtol=1e-12)
    assert abs(lengths[np.argmax(by_length)] - (1 - 1 / np.log(IMPULSE_DECAY))) < 1


def test_a5_far_part_vanishes_but_the_whole_does_not():
    """A5: over T, the gradient of all parameters settles; its part from lags beyond k vanishes.

    By kernel, recurrent kernel and bias: the impulse arrives as lam^(T-1), through lam as
    (T-1) lam^(T-2), and the bias of all steps as a geometric sum.
    """
    lam, horizon = IMPULSE_DECAY, 10
    lengths = np.arange(horizon + 1, 201)

    def log_norm(nearest):
        by_kernel = lam ** (lengths - 1.0)
        by_recurrent_kernel = (lengths - 1 - nearest) * lam ** (lengths - 2.0)
        by_bias = (lam**nearest - lam**lengths) / (1 - lam)
        return np.log(by_kernel**2 + by_recurrent_kernel**2 + by_bias**2) / 2

    measured = sweep(LINEAR, scalar(lam), impulse(200), lengths, jnp.ones(1), horizons=(horizon,))
    assert_close(measured.log_parameter_norm, log_norm(0), atol=1e-12)
    assert_close(measured.log_far_norm[:, 0], log_norm(horizon), atol=1e-12)


def test_a6_sigmoid_at_one_half_has_factor_w_over_4():
    """A6: h = sigma(w h - w / 2) stays at 1/2, where the factor is w / 4: it vanishes iff w < 4.

    20 steps, for 1/2 is an unstable state if w > 4.
    """
    weights = jnp.array([1.0, 2.0, 4.0, 8.0])

    @jax.jit
    @jax.vmap
    def measure(weight):
        params = scalar(weight, -weight / 2)
        state = rnn_jax.HiddenState(jnp.full(1, 0.5))
        xs = jnp.zeros((20, 1))
        return gradient_flow(rnn_jax.elman("sigmoid"), params, xs, jnp.ones(1), state=state)

    expected = np.log(weights / 4)[:, None] * np.arange(20, -1, -1)
    assert_close(measure(weights).log_norm, expected, atol=1e-10)


def test_a6_sigmoid_factor_is_at_most_w_over_4():
    """A6: at every other state the factor of the scalar sigmoid network is below w / 4."""
    jacobian = jax.vmap(closed_form, (None, None, 0, 0))
    states = rnn_jax.HiddenState(jnp.linspace(-4, 4, 101)[:, None])
    factors = jacobian(rnn_jax.elman("sigmoid"), scalar(2.0), states, jnp.zeros((101, 1))).ravel()
    assert factors.max() == 0.5 == factors[50]
    assert np.delete(np.asarray(factors), 50).max() < 0.5


def test_a7_tanh_at_zero_has_factor_w():
    """A7: a scalar tanh network at 0 multiplies the gradient by w at every step."""
    weights = jnp.array([0.25, 0.9, 1.0, 1.5])
    measure = jax.vmap(lambda w: flow(rnn_jax.elman(), scalar(w), jnp.zeros((100, 1)), jnp.ones(1)))
    expected = np.log(weights)[:, None] * np.arange(100, -1, -1)
    assert_close(measure(weights).log_norm, expected, atol=1e-12)


def test_a7_tanh_off_zero_has_factor_w_times_slope():
    """A7: away from 0 the factor is w (1 - h^2)."""
    weight, xs = 1.5, noise(100, 1)
    hidden = np.zeros(101)
    for t in range(100):
        hidden[t + 1] = np.tanh(weight * hidden[t] + float(xs[t, 0]))
    factors = np.log(weight * (1 - hidden[1:] ** 2))
    expected = np.append(np.cumsum(factors[::-1])[::-1], 0)
    measured = flow(rnn_jax.elman(), scalar(weight), xs, jnp.ones(1)).log_norm
    # 1 - h^2 cancels where the unit saturates.
    assert_allclose(measured, expected, rtol=1e-12, atol=1e-12)


# ---- Bounds and random matrices -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "steepest"),
    [("tanh", 1.0), ("relu", 1.0), ("identity", 1.0), ("sigmoid", 0.25)],
)
def test_a8_pascanu_bound(activation, steepest):
    """A8: ln ||J_{T:t}||_2 <= sum ln(sigma_max max_i phi'(a_i)) <= k ln(sigma_max gamma).

    Pascanu, Mikolov and Bengio (2013), section 2.1; 1e-6 for rounding.
    """
    cell, steps = rnn_jax.elman(activation), 30

    @jax.jit
    @jax.vmap
    def measure(recurrent_kernel, xs):
        params = vanilla(recurrent_kernel)
        return along(cell, params, xs)[1], theory.vanilla_bound(params, xs, activation)

    kernels = noise(10 * 12, 12).reshape(10, 12, 12) * jnp.linspace(0.05, 0.5, 10)[:, None, None]
    jacobians, bounds = measure(kernels, noise(10 * steps, 12, seed=3).reshape(10, steps, 12))
    loosest = np.log(steepest * np.linalg.norm(kernels, ord=2, axis=(1, 2)))
    product = np.broadcast_to(np.eye(12), (10, 12, 12))
    for lag in range(1, steps + 1):
        product = product @ jacobians[:, steps - lag]
        with np.errstate(divide="ignore"):  # all ReLU units dead: -inf keeps any bound
            actual = np.log(np.linalg.norm(product, ord=2, axis=(1, 2)))
        assert (actual <= bounds[:, steps - lag] + 1e-6).all()
        assert (bounds[:, steps - lag] <= lag * loosest + 1e-6).all()


def test_a8_small_spectral_norm_suffices_for_vanishing():
    """A8: sigma_max < 1 / gamma makes the sigmoid network vanish, at 0.9 per step or faster."""
    kernel = noise(12, 12)
    kernel = kernel * (0.9 * 4 / np.linalg.norm(kernel, ord=2))
    measured = flow(rnn_jax.elman("sigmoid"), vanilla(kernel), noise(100, 12), unit(12)).log_norm
    assert (measured <= np.arange(100, -1, -1) * np.log(0.9) + 1e-6).all()


TIED_LAGS = [1, 2, 5, 10, 20]


@pytest.fixture(scope="module")
def tied():
    """Three Gaussian networks of 400 units at gain 0.9 and zero state: ||W^k||_F and the J's."""
    size, cell = 400, rnn_jax.elman()

    @jax.jit
    @jax.vmap
    def measure(key):
        params = cell.init(key, 1, size, scheme=schemes.gaussian(0.9))
        xs = jnp.zeros((max(TIED_LAGS), 1))
        log_rms = length_curve(key, cell, params, xs, tangents=size)
        return log_rms, cell.jacobian(params, cell.initial_state(params), jnp.zeros(size))

    return measure(jax.random.split(jax.random.key(0), 3))


def test_a12_tied_mean_square(tied):
    """A12: (1 / N) E ||W^k||_F^2 = g^2k; 10 % is the scatter of three draws at lag 20."""
    mean_square = np.mean(np.exp(2 * tied[0]), axis=0)[TIED_LAGS]
    assert_allclose(mean_square / 0.9 ** (2 * np.array(TIED_LAGS)), 1, rtol=0.1)


@pytest.mark.parametrize("lag", TIED_LAGS)
def test_a12_tied_spectral_norm(tied, lag):
    """A12: ||W^k||_2 tends to g^k sqrt((k+1)^(k+1) / k^k), far above g^k; 10 % for finite N."""
    powers = np.linalg.matrix_power(np.asarray(tied[1]), lag)
    measured = np.mean(np.linalg.norm(powers, ord=2, axis=(1, 2)))
    assert_allclose(measured, np.exp(theory.tied_spectral_norm(0.9, lag)), rtol=0.1)


@pytest.mark.parametrize(
    ("lag", "value"), [(1, 2), (2, 2.598), (5, 3.864), (10, 5.341), (20, 7.465)]
)
def test_a12_edge_of_the_fuss_catalan_law(lag, value):
    """A12: the limit at gain 1, to the digits of the table."""
    assert_close(np.exp(theory.tied_spectral_norm(1.0, lag)), value, atol=5e-4)


UNTIED_SIZE, UNTIED_REPLICAS = 32, 1000


@pytest.fixture(scope="module")
def untied():
    """ln ||W_N ... W_1 v||, fresh Gaussian weights of gain 1 at each of k = N = 32 steps."""

    @jax.jit
    @jax.vmap
    def measure(key):
        def push(vector, key):
            scheme = schemes.gaussian()
            params = LINEAR.init(key, 1, UNTIED_SIZE, scheme=scheme, dtype="float32")
            state, drive = rnn_jax.HiddenState(vector), jnp.zeros(UNTIED_SIZE, "float32")
            return LINEAR.jacobian(params, state, drive) @ vector, None

        keys = jax.random.split(key, UNTIED_SIZE)
        return numerics.log_norm(jax.lax.scan(push, unit(UNTIED_SIZE, "float32"), keys)[0])

    keys = jax.random.split(jax.random.key(0), UNTIED_REPLICAS)
    return np.asarray(measure(keys), float)


def standard_error(samples):
    return np.std(samples, ddof=1) / np.sqrt(len(samples))


def test_a14_typical_untied_gradient_decays(untied):
    """A14: E ln ||.|| = k E ln ||W v||, negative at gain 1 (quenched); within 3 s.e."""
    expected = UNTIED_SIZE * theory.untied_typical_rate(1.0, UNTIED_SIZE)
    assert abs(untied.mean() - expected) < 3 * standard_error(untied)
    assert untied.mean() < -5 * standard_error(untied)


def test_a14_mean_square_untied_gradient_does_not(untied):
    """A14: E ||.||^2 = g^2k = 1 (annealed), which exceeds the typical square by e at k = N."""
    squares = np.exp(2 * untied)
    assert abs(squares.mean() - 1) < 3 * standard_error(squares)
    assert_allclose(np.exp(-2 * untied.mean()), np.e, rtol=0.1)


@pytest.mark.parametrize(
    ("size", "rate"), [(32, -0.01579), (64, -0.00785), (128, -0.00392), (512, -0.00098)]
)
def test_a14_typical_rate(size, rate):
    """A14: the per-step bias at gain 1, to the digits of the table, and ln g beside it."""
    assert_close(theory.untied_typical_rate(1.0, size), rate, atol=5e-6)
    assert_close(theory.untied_typical_rate(0.5, size), rate + np.log(0.5), atol=5e-6)


# ---- LSTM ---------------------------------------------------------------------------------------


def per_gate(kernel):
    """The gates' recurrent matrices as they act on columns, each (H, H)."""
    return np.split(np.asarray(kernel, float).T, kernel.shape[1] // kernel.shape[0])


def lstm_by_hand(params, hidden, cell, x):
    """The gates i, f, g, o and the new memory, in float64 NumPy."""
    kernel, recurrent, bias = (
        np.asarray(params[name], float) for name in ("kernel", "recurrent_kernel", "bias")
    )
    i, f, g, o = np.split(x @ kernel + hidden @ recurrent + bias, 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    return (i, f, g, o), f * cell + i * g


def lstm_jacobian(params, hidden, cell, x):
    """A18: F = diag f; A = dc'/dh; D = diag(o (1 - tanh^2 c')); order (hidden, cell)."""
    u_i, u_f, u_g, u_o = per_gate(params["recurrent_kernel"])
    (i, f, g, o), new = lstm_by_hand(params, hidden, cell, x)
    by_hidden = (
        np.diag(cell * f * (1 - f)) @ u_f
        + np.diag(g * i * (1 - i)) @ u_i
        + np.diag(i * (1 - g**2)) @ u_g
    )
    read = np.diag(o * (1 - np.tanh(new) ** 2))
    hidden_by_hidden = np.diag(np.tanh(new) * o * (1 - o)) @ u_o + read @ by_hidden
    return np.block([[hidden_by_hidden, read @ np.diag(f)], [by_hidden, np.diag(f)]])


def lstm_at_origin(candidate_kernel, forget_bias, input_bias=0.0, output_bias=0.0):
    """The Jacobian of an LSTM without input at c = h = 0."""
    cell, size = rnn_jax.lstm(), len(candidate_kernel)
    params = with_biases(
        draw(cell, 2, size), input=input_bias, forget=forget_bias, candidate=0, output=output_bias
    )
    recurrent = params["recurrent_kernel"].at[:, 2 * size : 3 * size].set(candidate_kernel)
    params = {**params, "recurrent_kernel": recurrent}
    return np.asarray(by_autodiff(cell, params, cell.initial_state(params), jnp.ones(2)))


def test_a17_lstm_at_origin_has_rank_n():
    """A17: J = [I; o I] [f I, i U_g] of the 2 N-dimensional state has rank N only."""
    jacobian = lstm_at_origin(noise(8, 8), 1.0)
    assert np.linalg.matrix_rank(jacobian, tol=1e-12) == 8


@pytest.mark.parametrize("biases", [(0.0, 0.0, 0.0), (2.0, -0.5, 0.3)])
def test_a17_lstm_eigenvalues_at_origin(biases):
    """A17: the eigenvalues are f + o i mu(U_g) and N zeros."""
    kernel, (f, i, o) = np.asarray(noise(8, 8)), sigmoid(np.array(biases))
    expected = np.append(f + o * i * np.linalg.eigvals(kernel), np.zeros(8))
    measured = np.linalg.eigvals(lstm_at_origin(kernel, *biases))
    distance = np.abs(expected[:, None] - measured)
    assert max(distance.min(axis=0).max(), distance.min(axis=1).max()) < 1e-6


@pytest.mark.parametrize(
    ("forget_bias", "low", "high"), [(0, 0.25, 0.75), (1, 0.481, 0.981), (2, 0.631, 1.131)]
)
def test_a17_orthogonal_lstm_at_origin(forget_bias, low, high):
    """A17: with U_g orthogonal |mu| fills [f - o i, f + o i], reached at the eigenvalues +-1."""
    reflection = np.diag([1.0, -1.0, 1.0, -1.0])
    moduli = np.abs(np.linalg.eigvals(lstm_at_origin(reflection, forget_bias)))
    assert_close(moduli.max(), high, atol=5e-4)
    assert_close(np.sort(moduli)[4], low, atol=5e-4)


@pytest.mark.parametrize(
    ("forget_bias", "critical"), [(0, 2.0), (1, 1.0758), (2, 0.4768), (3, 0.1897), (5, 0.0268)]
)
def test_a17_critical_gain_of_the_lstm(forget_bias, critical):
    """A17: a spectral radius g_c = (1 - f) / (o i) of U_g, as tabulated, puts that of J at 1."""
    gain = (1 - sigmoid(forget_bias)) / 0.25
    jacobian = lstm_at_origin(gain * np.eye(4), forget_bias)
    assert_close(gain, critical, atol=5e-5)
    assert_close(np.abs(np.linalg.eigvals(jacobian)).max(), 1, atol=1e-6)


def random_lstm(dtype="float64"):
    rng = np.random.default_rng(7)
    params = draw(rnn_jax.lstm(), 3, 8, scale=2.0)
    state, x = rnn_jax.LSTMState(*rng.normal(size=(2, 8))), rng.normal(size=3)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, state, x))


@pytest.mark.parametrize("jacobian", [by_autodiff, closed_form])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-6)])
def test_a18_lstm_jacobian_at_any_state(jacobian, dtype, tolerance):
    """A18: the full Jacobian, of the cell's own formula and of autodiff of its step."""
    params, state, x = random_lstm(dtype)
    measured = jacobian(rnn_jax.lstm(), params, state, x)
    expected = lstm_jacobian(params, *(np.asarray(part, float) for part in (*state, x)))
    assert_close(measured, expected, atol=tolerance)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_a19_sum_of_lyapunov_exponents_of_the_lstm(orthogonal):
    """A19: the sum of all 2 N exponents is the time average of
    sum ln f + sum ln |tanh(c') o (1 - o)| + ln |det U_o|, the last 0 if U_o is orthogonal.
    """
    cell, size, steps = rnn_jax.lstm(), 6, 300
    params, xs = draw(cell, 3, size), noise(steps, 3)
    if orthogonal:
        u_o = np.linalg.qr(noise(size, size))[0]
        recurrent = params["recurrent_kernel"].at[:, 3 * size :].set(u_o)
        params = {**params, "recurrent_kernel": recurrent}
    log_det_u_o = np.linalg.slogdet(per_gate(params["recurrent_kernel"])[3])[1]
    assert (abs(log_det_u_o) < 1e-12) == orthogonal

    states, jacobians = along(cell, params, xs)
    average = log_det_u_o
    for hidden, memory, x in zip(*map(np.asarray, (*states, xs)), strict=True):
        (_, f, _, o), new = lstm_by_hand(params, hidden, memory, x)
        average += np.sum(np.log(f) + np.log(np.abs(np.tanh(new) * o * (1 - o)))) / steps
    assert_close(np.sum(lyapunov_spectrum(np.asarray(jacobians))), average, atol=1e-4)


def test_a20_cell_path_is_the_product_of_forget_gates():
    """A20: without recurrent kernels dc_T/dc_0 = diag(prod f), exactly, for any input."""
    cell, size, xs = rnn_jax.lstm(), 4, noise(30, 3)
    params = without_recurrence(draw(cell, 3, size, scale=2.0))

    def last_memory(memory):
        state = rnn_jax.LSTMState(jnp.zeros(size), memory)
        return rnn_jax.unroll(cell, params, xs, state=state)[0].cell

    kernel, bias = (np.asarray(params[name])[..., size : 2 * size] for name in ("kernel", "bias"))
    product = np.prod(sigmoid(np.asarray(xs) @ kernel + bias), axis=0)
    measured = jax.jit(jax.jacrev(last_memory))(jnp.ones(size))
    assert_allclose(measured, np.diag(product), rtol=1e-12)


@pytest.mark.parametrize(
    ("forget_bias", "forget", "after_20", "after_100", "time_constant"),
    [
        (0, 0.5, 9.5e-7, 7.9e-31, 1.44),
        (1, 0.73106, 1.9e-3, 2.5e-14, 3.19),
        (2, 0.88080, 0.079, 3.1e-6, 7.88),
        (3, 0.95257, 0.378, 0.0078, 20.6),
        (5, 0.99331, 0.874, 0.511, 148.9),
    ],
)
def test_a20_memory_of_an_lstm_at_initialisation(
    forget_bias, forget, after_20, after_100, time_constant
):
    """A20: the gradient of the memory after 20 and 100 steps at each forget bias, as tabulated."""
    cell = rnn_jax.lstm()
    params = without_recurrence(draw(cell, 3, 4))
    params = with_biases(params, input=0, forget=forget_bias, candidate=0, output=0)
    memory = flow(cell, params, noise(101, 3), unit(4)).log_norm_by_part["cell"]
    rate = (memory[0] - memory[100]) / 100  # y_T reads h_T, so dL/dc_T itself is 0
    assert_close(rate, np.log(sigmoid(forget_bias)), atol=1e-6)
    assert_close(np.exp(rate), forget, atol=5e-6)
    assert_allclose(np.exp(memory[80] - memory[100]), after_20, rtol=0.02)
    assert_allclose(np.exp(memory[0] - memory[100]), after_100, rtol=0.02)
    assert_allclose(-1 / rate, time_constant, rtol=5e-3)


# ---- GRU ----------------------------------------------------------------------------------------

RESETS = ["after", "before"]


def gru_jacobian(params, hidden, x, reset):
    """A21: diag z + diag((h - n) z (1 - z)) U_z + diag((1 - z) (1 - n^2)) dm/dh."""
    u_r, u_z, u_n = per_gate(params["recurrent_kernel"])
    x_r, x_z, x_n = np.split(x @ np.asarray(params["kernel"]) + np.asarray(params["bias"]), 3)
    r, z = sigmoid(x_r + u_r @ hidden), sigmoid(x_z + u_z @ hidden)
    if reset == "after":
        m = u_n @ hidden + np.asarray(params["recurrent_bias"])
        n = np.tanh(x_n + r * m)
        inner = np.diag(r) @ u_n + np.diag(m * r * (1 - r)) @ u_r
    else:
        n = np.tanh(x_n + u_n @ (r * hidden))
        inner = u_n @ (np.diag(r) + np.diag(hidden * r * (1 - r)) @ u_r)
    update = np.diag((hidden - n) * z * (1 - z)) @ u_z
    return np.diag(z) + update + np.diag((1 - z) * (1 - n**2)) @ inner


@pytest.mark.parametrize("jacobian", [by_autodiff, closed_form])
@pytest.mark.parametrize("reset", RESETS)
def test_a21_gru_jacobian_at_any_state(reset, jacobian):
    """A21: the full Jacobian in both forms, of the cell's own formula and of autodiff."""
    cell = rnn_jax.gru(reset)
    params, rng = draw(cell, 3, 8, scale=2.0), np.random.default_rng(7)
    hidden, x = rng.normal(size=8), rng.normal(size=3)
    measured = jacobian(cell, params, rnn_jax.HiddenState(jnp.asarray(hidden)), jnp.asarray(x))
    assert_close(measured, gru_jacobian(params, hidden, x, reset), atol=4e-11)


@pytest.mark.parametrize("reset", RESETS)
def test_a22_gru_path_is_the_product_of_update_gates(reset):
    """A22: without recurrent kernels J_{T:0} = diag(prod z), exactly, if b_hn plays no part.

    (b_hn changes the candidate, not its dependence on h.)
    """
    cell, size, xs = rnn_jax.gru(reset), 4, noise(30, 3)
    params = without_recurrence(draw(cell, 3, size, scale=2.0))

    def last(hidden):
        return rnn_jax.unroll(cell, params, xs, state=rnn_jax.HiddenState(hidden))[0].hidden

    kernel, bias = (np.asarray(params[name])[..., size : 2 * size] for name in ("kernel", "bias"))
    product = np.prod(sigmoid(np.asarray(xs) @ kernel + bias), axis=0)
    measured = jax.jit(jax.jacrev(last))(jnp.ones(size))
    assert_allclose(measured, np.diag(product), rtol=1e-12)


def gru_at_origin(reset, reset_bias, update_bias, candidate_kernel):
    """The Jacobian of a GRU without input at h = 0; its candidate has no bias."""
    cell, size = rnn_jax.gru(reset), len(candidate_kernel)
    params = draw(cell, 2, size)
    params = with_biases(params, reset=reset_bias, update=update_bias, candidate=0)
    if reset == "after":
        params = {**params, "recurrent_bias": jnp.zeros(size)}
    recurrent = params["recurrent_kernel"].at[:, 2 * size :].set(candidate_kernel)
    params = {**params, "recurrent_kernel": recurrent}
    return np.asarray(by_autodiff(cell, params, cell.initial_state(params), jnp.ones(2)))


@pytest.mark.parametrize("reset", RESETS)
def test_a22_gru_at_origin(reset):
    """A22: J = z I + (1 - z) r U_n, with the biases of both gates."""
    r, z, kernel = sigmoid(-0.5), sigmoid(0.8), np.asarray(noise(6, 6))
    measured = gru_at_origin(reset, -0.5, 0.8, kernel)
    assert_close(measured, z * np.eye(6) + (1 - z) * r * kernel.T, atol=1e-6)


@pytest.mark.parametrize("update_bias", [-2, 0, 3])
@pytest.mark.parametrize("reset", RESETS)
def test_a22_critical_gain_of_the_gru(reset, update_bias):
    """A22: it is 1 / r, so 2 at zero reset bias, whatever the update bias."""
    measured = gru_at_origin(reset, 0, update_bias, 2 * np.eye(4))
    assert_close(np.abs(np.linalg.eigvals(measured)).max(), 1, atol=1e-6)


# ---- Clipping -----------------------------------------------------------------------------------


def test_a29_clipping_by_the_global_norm():
    """A29: ||g'|| = min(||g||, c) and cos(g, g') = 1 over the concatenated pytree of an LSTM.

    optax clips by the norm that the instruments report; they report it before clipping.
    """
    cell, xs, vector, thresholds = rnn_jax.lstm(), noise(10, 3), unit(8), jnp.array([0.1, 1e6])

    def loss(params):
        return jnp.vdot(vector, rnn_jax.unroll(cell, params, xs)[1].outputs[-1])

    @jax.jit
    def measure(params):
        gradient = jax.grad(loss)(params)
        clip = lambda c: optax.clip_by_global_norm(c).update(gradient, optax.EmptyState())[0]
        return gradient, jax.vmap(clip)(thresholds)

    params = draw(cell, 3, 8)
    reported = np.exp(flow(cell, params, xs, vector).log_truncated_norm[-1])
    assert thresholds[0] < reported < thresholds[1]

    gradient, clipped = map(jax.tree.leaves, measure(params))
    g = np.concatenate([leaf.ravel() for leaf in gradient])
    g_clipped = np.concatenate([leaf.reshape(2, -1) for leaf in clipped], axis=1)
    norms = np.linalg.norm(g_clipped, axis=1)
    assert_allclose(norms, np.minimum(reported, thresholds), rtol=1e-6)
    assert_allclose(g_clipped @ g / norms / np.linalg.norm(g), 1, rtol=1e-6)


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_a25_gates_that_see_the_input_alone_leave_a_product_of_scalars(name):
    """A25: J = diag(1 - z_t) of the minGRU and diag(f / (f + i)) of the minLSTM, nothing beside."""
    cell = rnn_jax.cells.lookup(name)
    params = draw(cell, 3, 5)
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(30, 3)))
    gates = np.asarray(xs) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    if name == "mingru":
        keeps = 1 - sigmoid(gates[:, :5])
    else:
        into, forget = sigmoid(gates[:, :5]), sigmoid(gates[:, 5:10])
        keeps = forget / (forget + into)
    jacobians = np.asarray(step_jacobians(cell, params, xs))
    assert_close(jacobians, keeps[:, :, None] * np.eye(5), atol=1e-14)
    unit = np.eye(5)[2]
    rates = flow(cell, params, xs, jnp.asarray(unit)).log_norm
    assert_close(rates[0], np.log(keeps[:, 2]).sum(), atol=1e-12)


@pytest.mark.parametrize("cell", [rnn_jax.elman(), rnn_jax.gru()], ids=["elman", "gru"])
def test_a31_newton_on_the_whole_trajectory_is_the_sequential_one(cell):
    """A31: s_t = f(s_{t-1}) for all t at once, by Newton's method from the library's Jacobians.

    Each iteration makes at least one more step exact, so T are enough; near the solution the
    error is squared each time. Lim et al. (2024), arXiv:2309.12252.
    """
    size, steps = 8, 60
    params = draw(cell, 3, size)
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(steps, 3)))
    first = np.zeros(size)
    step = lambda state, x: cell(params, rnn_jax.HiddenState(state), x)[0].hidden
    advance = jax.jit(jax.vmap(step))
    one = lambda state, x: step_jacobians(cell, params, x[None], state=rnn_jax.HiddenState(state))[
        0
    ]
    linearise = jax.jit(jax.vmap(one))
    exact = np.asarray(rnn_jax.unroll(cell, params, xs)[1].states.hidden)

    guess, errors, right = np.zeros((steps, size)), [], []
    for _ in range(steps):
        before = np.vstack([first, guess[:-1]])
        values = np.asarray(advance(before, xs))
        matrices = np.asarray(linearise(before, xs))
        state, solved = first, []
        for value, matrix, old in zip(values, matrices, before, strict=True):
            state = value + matrix @ (state - old)
            solved.append(state)
        guess = np.array(solved)
        wrong = np.abs(guess - exact).max(axis=1)
        errors.append(wrong.max())
        right.append(steps if wrong.max() < 1e-12 else np.argmax(wrong > 1e-12))
    assert np.all(np.array(right) >= np.minimum(np.arange(1, steps + 1), steps))
    assert errors[-1] < 1e-13
    # Once small, an error is squared: e' <= C e^2 with the curvature C of these cells, below 10.
    small = [(e, after) for e, after in itertools.pairwise(errors) if 1e-6 < e < 1e-2]
    assert small
    assert all(after < 10 * e**2 + 1e-13 for e, after in small)
