"""The closed forms of `rnn_jax.theory` against the instruments they are drawn beside.

The Pascanu bound on products of Jacobians and the spectral norms of random matrices are tested
with the ground truths A8, A12 and A14, mean-field theory in `test_mean_field`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import rnn_jax
from rnn_jax import schemes, theory
from rnn_jax.analysis import gradient_flow, step_jacobians
from rnn_jax.numerics import log_root_mean_square

flow = jax.jit(gradient_flow)

T, D, H = 40, 3, 6


def draw(cell, seed=0):
    """Every parameter normal with deviation 1 / sqrt(H), the biases too, in float64."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, H**-0.5, leaf.shape)), shapes)


def without_recurrence(params):
    return params | {"recurrent_kernel": jnp.zeros_like(params["recurrent_kernel"])}


def noise(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape))


def unit_vector():
    return noise(H) / jnp.linalg.norm(noise(H))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_path(params, gate):
    """ln ||diag(prod of a gate)||_F / sqrt(H) over the steps after t = 0 .. T, by hand.

    The gate, the second of the packed ones, is open to the input alone.
    """
    columns = slice(gate * H, (gate + 1) * H)
    kernel, bias = (np.asarray(params[name])[..., columns] for name in ("kernel", "bias"))
    values = np.vstack([sigmoid(np.asarray(noise(T, D)) @ kernel + bias), np.ones(H)])
    products = np.cumprod(values[::-1], axis=0)[::-1]
    return np.log(np.linalg.norm(products, axis=1) / np.sqrt(H))


# ---- The direct path through a gate -------------------------------------------------------------


def test_forget_path_by_hand():
    """A20: without recurrent kernels the forget gates are sigmoid(x W_f + b_f)."""
    params = without_recurrence(draw(rnn_jax.lstm()))
    measured = jax.jit(theory.forget_path)(params, noise(T, D))
    assert_allclose(measured, log_path(params, gate=1), rtol=1e-12, atol=1e-14)


def test_forget_path_is_the_memory_gradient_of_a_cut_lstm():
    """A20: there dc_T/dc_t = diag(prod f), whose root mean square over readouts of c is the path.

    By the chain rule dL/dc_t = dL/dc_{T-1} dc_{T-1}/dc_t, measured for each unit of y_T.
    """
    params, xs = without_recurrence(draw(rnn_jax.lstm())), noise(T, D)
    last = jax.vmap(lambda unit: flow(rnn_jax.lstm(), params, xs, unit))(jnp.eye(H))
    memory = last.log_norm_by_part["cell"][:, :T]  # one row per unit; no unit sees another
    expected = np.log(np.mean(np.exp(2 * (memory - memory[:, -1:])), axis=0)) / 2
    measured = jax.jit(theory.forget_path)(params, xs[: T - 1])
    assert_allclose(measured, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("forget_bias", "forget", "after_20"),
    [
        (0, 0.5, 9.5e-7),
        (1, 0.73106, 1.9e-3),
        (2, 0.88080, 0.079),
        (3, 0.95257, 0.378),
        (5, 0.99331, 0.874),
    ],
)
def test_forget_path_at_initialisation(forget_bias, forget, after_20):
    """A20: the table of forget gates without input, and what they leave after 20 steps."""
    biases = jnp.repeat(jnp.array([0.0, forget_bias, 0.0, 0.0]), H)
    params = without_recurrence(draw(rnn_jax.lstm())) | {"bias": biases}
    measured = np.exp(jax.jit(theory.forget_path)(params, jnp.zeros((20, D))))
    assert_allclose(measured[-2], forget, rtol=0, atol=5e-6)
    assert_allclose(measured[0], after_20, rtol=0.02)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_update_path_by_hand(reset):
    """A22: without recurrent kernels the update gates are sigmoid(x W_z + b_z)."""
    params = without_recurrence(draw(rnn_jax.gru(reset)))
    measured = jax.jit(theory.update_path)(params, noise(T, D))
    assert_allclose(measured, log_path(params, gate=1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_update_path_is_the_gradient_of_a_cut_gru(reset):
    """A22: there J_{T:t} = diag(prod z), whose root mean square over readouts is the path."""
    cell = rnn_jax.gru(reset)
    params, xs = without_recurrence(draw(cell)), noise(T, D)
    log_norm = jax.vmap(lambda unit: flow(cell, params, xs, unit).log_norm)(jnp.eye(H))
    expected = np.log(np.mean(np.exp(2 * log_norm), axis=0)) / 2
    assert_allclose(jax.jit(theory.update_path)(params, xs), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        (theory.forget_path, rnn_jax.lstm()),
        (theory.update_path, rnn_jax.gru("after")),
        (theory.update_path, rnn_jax.gru("before")),
    ],
)
def test_paths_follow_the_gates_of_the_whole_cell(path, cell):
    """With recurrence the gates are those of the trajectory that the cell itself walks."""
    params, xs = draw(cell), noise(T, D)
    gates = rnn_jax.cells.lstm_gates if path is theory.forget_path else rnn_jax.cells.gru_gates

    def step(state, x):
        values = gates(params, state, cell.project(params, x))
        keep = values.forget if path is theory.forget_path else values.update
        return cell(params, state, x)[0], keep

    kept = np.asarray(jax.lax.scan(step, cell.initial_state(params), xs)[1])
    products = np.cumprod(np.vstack([kept, np.ones(H)])[::-1], axis=0)[::-1]
    expected = np.log(np.linalg.norm(products, axis=1) / np.sqrt(H))
    assert_allclose(jax.jit(path)(params, xs), expected, rtol=1e-12, atol=1e-14)


# ---- Vanilla networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_vanilla_bound_bounds_every_gradient(activation):
    """A8: from above at every lag, for any unit readout; 1e-6 for rounding.

    (`test_ground_truths` bounds the Jacobians themselves, for every activation.)
    """
    cell = rnn_jax.elman(activation)
    params, xs = draw(cell), noise(T, D)
    bound = jax.jit(theory.vanilla_bound, static_argnums=2)(params, xs, activation)
    assert bound.shape == (T + 1,)
    assert bound[-1] == 0
    assert (flow(cell, params, xs, unit_vector()).log_norm <= bound + 1e-6).all()


def test_vanilla_bound_is_reached_by_a_single_unit():
    """A7, A8: with one unit the bound is the gradient itself, prod |w| (1 - h^2)."""
    params = {
        "kernel": jnp.ones((1, 1)),
        "recurrent_kernel": -jnp.ones((1, 1)),
        "bias": jnp.zeros(1),
    }
    measured = flow(rnn_jax.elman(), params, noise(T, 1), jnp.ones(1)).log_norm
    expected = jax.jit(theory.vanilla_bound)(params, noise(T, 1))
    assert_allclose(measured, expected, rtol=1e-12, atol=1e-13)


def test_vanilla_bound_is_reached_by_the_unit_that_saturates_least():
    """A8: of two units with U = 0.9 I one rests at 0, where the slope is 1."""
    params = {
        "kernel": jnp.array([[0.0, 1.0]]),
        "recurrent_kernel": 0.9 * jnp.eye(2),
        "bias": jnp.zeros(2),
    }
    measured = flow(rnn_jax.elman(), params, noise(T, 1), jnp.array([1.0, 0.0])).log_norm
    expected = jax.jit(theory.vanilla_bound)(params, noise(T, 1))
    assert_allclose(measured, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gain", [0.5, 1.1])
def test_gain_power_is_the_gradient_of_a_scaled_rotation(gain):
    """A2: a linear network with U = g Q, whatever its input."""
    cell = rnn_jax.elman("identity")
    params = draw(cell) | {"recurrent_kernel": gain * jnp.linalg.qr(noise(H, H))[0]}
    measured = flow(cell, params, noise(T, D), unit_vector()).log_norm
    assert_allclose(measured, theory.gain_power(gain, T), rtol=1e-12, atol=1e-13)


def test_gain_power_bounds_a_saturating_network():
    """tanh has slope at most 1, so the gradient of U = g Q stays below g^k."""
    cell = rnn_jax.elman()
    params = draw(cell) | {"recurrent_kernel": 1.1 * jnp.linalg.qr(noise(H, H))[0]}
    measured = flow(cell, params, noise(T, D), unit_vector()).log_norm
    assert (measured[:-1] < theory.gain_power(1.1, T)[:-1]).all()


def test_tied_spectral_norm_at_large_lag():
    """A12: about g^k sqrt(e (k + 1))."""
    lag, gain = 1000, 0.9
    expected = lag * np.log(gain) + (1 + np.log(lag + 1)) / 2
    assert_allclose(theory.tied_spectral_norm(gain, lag), expected, rtol=0, atol=1e-3)


def test_tied_spectral_norm_of_the_empty_product():
    """W^0 is the identity."""
    assert theory.tied_spectral_norm(0.9, 0) == 0


# ---- Networks of one or two units ---------------------------------------------------------------


def test_non_normal_power_is_the_measured_jacobian():
    """A4: a transient that grows to 7.5 although both eigenvalues are 0.95; 1e-12 is rounding."""
    params = {
        "kernel": jnp.zeros((1, 2)),
        "recurrent_kernel": jnp.array([[0.95, 0.0], [1.0, 0.95]]),
        "bias": jnp.zeros(2),
    }
    columns = jax.vmap(lambda v: flow(rnn_jax.elman("identity"), params, jnp.zeros((200, 1)), v))
    measured = jax.nn.logsumexp(2 * columns(jnp.eye(2)).log_norm, axis=0) / 2
    expected = theory.non_normal_power(0.95, 1.0, np.arange(200, -1, -1))
    assert_allclose(measured, expected, rtol=0, atol=1e-12)
    assert expected[-21] > np.log(7)


@pytest.mark.parametrize(("decay", "coupling"), [(0.0, 3.0), (-0.5, 2.0), (0.9, 0.0)])
def test_non_normal_power_of_special_matrices(decay, coupling):
    """Nilpotent, of negative eigenvalues, and diagonal."""
    matrix = np.array([[decay, coupling], [0.0, decay]])
    with np.errstate(divide="ignore"):
        expected = [np.log(np.linalg.norm(np.linalg.matrix_power(matrix, k))) for k in range(6)]
    measured = [theory.non_normal_power(decay, coupling, k) for k in range(6)]
    assert_allclose(measured, expected, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.9, -0.5, 1.1])
def test_impulse_parameter_gradient_is_the_measured_one(decay):
    """A5: dh_T/dlam, which peaks near T = 1 - 1 / ln lam, by the gradient through an unroll."""

    def last(weight, length):
        params = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
        params["recurrent_kernel"] = jnp.full((1, 1), weight)
        xs = jnp.zeros((length, 1)).at[0].set(1.0)
        return rnn_jax.unroll(rnn_jax.elman("identity"), params, xs)[1].outputs[-1, 0]

    for length in (2, 10, 50):
        expected = jnp.log(jnp.abs(jax.grad(last)(decay, length)))
        measured = theory.impulse_parameter_gradient(decay, length)
        assert_allclose(measured, expected, rtol=0, atol=1e-12)
    assert theory.impulse_parameter_gradient(decay, 1) == -np.inf
    # Beyond floating point: 0.9^5000 is e^-527.
    assert np.isfinite(theory.impulse_parameter_gradient(decay, 100_000))


@pytest.mark.parametrize(
    ("weight", "biases"),
    [(5, (-2.65561, -2.34439)), (6, (-3.41509, -2.58491)), (8, (-5.06568, -2.93432))],
)
def test_sigmoid_saddle_nodes(weight, biases):
    """A9: as tabulated, and the fixed points that a scan of h - sigmoid(w h + b) counts there."""
    found = theory.sigmoid_saddle_nodes(weight)
    assert_allclose(found, biases, rtol=0, atol=5e-6)
    h = np.linspace(0, 1, 200_001)
    low, high = np.asarray(found)
    for bias, count in [(low - 1e-3, 1), (low + 1e-3, 3), (high - 1e-3, 3), (high + 1e-3, 1)]:
        assert np.sum(np.diff(np.sign(h - sigmoid(weight * h + bias))) != 0) == count


def test_the_factor_at_a_saddle_node_is_one():
    """A9: the gradient neither shrinks nor grows there. Below w = 4 there is none."""
    weight = 6.0
    h = (1 + np.array([1, -1]) * np.sqrt(1 - 4 / weight)) / 2
    for state, bias in zip(h, theory.sigmoid_saddle_nodes(weight), strict=True):
        params = {
            "kernel": jnp.zeros((1, 1)),
            "recurrent_kernel": jnp.full((1, 1), weight),
            "bias": jnp.full(1, bias),
        }
        start = rnn_jax.HiddenState(jnp.full(1, state))
        cell, xs = rnn_jax.elman("sigmoid"), jnp.zeros((1, 1))
        assert_allclose(step_jacobians(cell, params, xs, state=start), 1, rtol=1e-12)
        assert_allclose(cell(params, start, xs[0])[1], state, rtol=1e-12)
    assert np.isnan(theory.sigmoid_saddle_nodes(3.9)).all()


@pytest.mark.parametrize(
    ("weight", "threshold", "state", "factor"),
    [
        (1.25, 0.077805, 0.710412, 0.619144),
        (2, 0.532840, 0.957504, 0.166372),
        (4, 2.147144, 0.999326, 0.005393),
    ],
)
def test_tanh_latch(weight, threshold, state, factor):
    """A11: as tabulated; the gradient that is measured there; and inputs that flip it or do not."""
    latch = theory.tanh_latch(weight)
    assert_allclose(latch, (state, threshold, factor), rtol=0, atol=1e-6)
    params = {
        "kernel": jnp.ones((1, 1)),
        "recurrent_kernel": jnp.full((1, 1), float(weight)),
        "bias": jnp.zeros(1),
    }
    start = rnn_jax.HiddenState(latch.state[None])
    measured = flow(rnn_jax.elman(), params, jnp.zeros((30, 1)), jnp.ones(1), state=start).log_norm
    # A factor far below 1 recovers what the bisection left open of the state.
    assert_allclose(measured[0] / 30, np.log(latch.factor), rtol=1e-9)

    def steady(share):
        xs = jnp.full((20_000, 1), -share * latch.threshold)  # slow just beyond the threshold
        return rnn_jax.unroll(rnn_jax.elman(), params, xs, state=start)[0].hidden[0]

    assert steady(0.999) > 0 > steady(1.001)


def test_a_weak_unit_latches_nothing():
    assert_allclose(theory.tanh_latch(0.7), (0, 0, 0.7), rtol=1e-12)


# ---- Random matrices ----------------------------------------------------------------------------

SIZE = 200


def haar(seed):
    """A Haar orthogonal matrix: the QR decomposition alone is not, but for the signs of R."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))
    return q * np.sign(np.diag(r))


@pytest.mark.parametrize(
    ("draw", "lags", "tolerance"), [("haar", (1, 5, 10, 20, 40), 0.05), ("normal", (1, 5, 20), 0.1)]
)
def test_tied_identity_plus_random_is_measured(draw, lags, tolerance):
    """A16: ||(a I + W)^k||_F^2 / N, the mean of four draws of W.

    The scatter of such a mean at the longest lag is 2 %, and 5 % for Gaussian matrices, whose
    spectral radius is not exactly g. The untied value is smaller by factors of 2 (lag 5) to 1e9.
    """
    random = haar if draw == "haar" else normal_matrix
    matrices = np.stack([0.5 * np.eye(SIZE) + 0.25 * random(seed) for seed in range(4)])

    squares = np.zeros(len(lags))
    for matrix in matrices:
        params = {"kernel": jnp.zeros((1, SIZE)), "bias": jnp.zeros(SIZE)}
        params["recurrent_kernel"] = jnp.asarray(matrix)
        jacobian = step_jacobians(rnn_jax.elman("identity"), params, jnp.zeros((1, 1)))[0]
        powers = [np.linalg.matrix_power(jacobian, lag) for lag in lags]
        squares += np.linalg.norm(powers, axis=(1, 2)) ** 2 / SIZE / len(matrices)
    expected = [np.exp(2 * theory.tied_identity_plus_random(0.5, 0.25, k)) for k in lags]
    assert_allclose(squares, expected, rtol=tolerance)


def normal_matrix(seed):
    return np.random.default_rng(seed).normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)


@pytest.mark.parametrize(
    ("lag", "tied", "untied"), [(10, 5.946e-4, 8.9e-6), (40, 9.55e-12, 6.2e-21)]
)
def test_identity_plus_random_as_tabulated(lag, tied, untied):
    """A16: at a = 0.5 and g = 0.25, to the digits of the table."""
    square = np.exp(2 * theory.tied_identity_plus_random(0.5, 0.25, lag))
    assert_allclose(square, tied, rtol=1e-3)
    square = np.exp(2 * theory.untied_identity_plus_random(0.5, 0.25, lag))
    assert_allclose(square, untied, rtol=1e-2)


@pytest.mark.parametrize(("identity", "gain"), [(0.5, 0.25), (-0.9, 0.3), (0.0, 1.1), (0.7, 0.0)])
def test_tied_identity_plus_random_at_lag_1000(identity, gain):
    """A16: the mean of |a + g e^(i theta)|^(2k) over the circle, exact on more than k points."""
    angle = np.exp(2j * np.pi * np.arange(1024) / 1024)
    powers = 2000 * np.log(np.abs(identity + gain * angle))
    expected = np.logaddexp.reduce(powers) - np.log(1024)
    measured = 2 * theory.tied_identity_plus_random(identity, gain, 1000)
    assert_allclose(measured, expected, rtol=0, atol=1e-9)
    with jax.enable_x64(False):
        narrow = 2 * theory.tied_identity_plus_random(identity, gain, 1000)
    assert_allclose(narrow, measured, rtol=1e-6)


def test_untied_identity_plus_random_is_measured():
    """A16: the mean square over fresh Gaussian W at each of 5 steps, within 3 standard errors."""
    rng, size = np.random.default_rng(0), 8
    fresh = 0.6 * np.eye(size) + 0.5 * rng.normal(size=(4000, 5, size, size)) / np.sqrt(size)
    vectors = np.full((4000, size), size**-0.5)
    for step in range(5):
        vectors = np.einsum("nij,nj->ni", fresh[:, step], vectors)
    squares = np.sum(vectors**2, axis=1)
    error = squares.std(ddof=1) / np.sqrt(len(squares))
    expected = np.exp(2 * theory.untied_identity_plus_random(0.6, 0.5, 5))
    assert abs(squares.mean() - expected) < 3 * error


@pytest.mark.slow
def test_circular_law_is_the_spectrum_of_a_network_at_rest():
    """A15: 512 units at gain 0.9 and zero state, to the blur of a finite disc's edge, N^-1/2.

    The exponents of a fixed point are the logarithms of the eigenvalues of its Jacobian
    (`test_lyapunov` measures that they are). Of their mean ln(N) / N remains.
    """
    scheme = schemes.gaussian(0.9)
    params = rnn_jax.elman().init(jax.random.key(0), 1, 512, scheme=scheme, dtype="float64")
    jacobian = step_jacobians(rnn_jax.elman(), params, jnp.zeros((1, 1)))[0]
    exponents = np.sort(np.log(np.abs(np.linalg.eigvals(np.asarray(jacobian)))))
    below = theory.circular_law_fraction(0.9, exponents)
    assert np.max(np.abs(below - (np.arange(512) + 0.5) / 512)) < 512**-0.5
    assert_allclose(exponents.mean(), theory.circular_law_mean(0.9), rtol=0, atol=0.02)
    middle = exponents[::-1][256]
    assert_allclose(middle, theory.circular_law_exponent(0.9, 0.5), rtol=0, atol=0.03)


def test_circular_law_functions_are_each_others_inverse():
    position = np.linspace(0, 0.99, 34)
    exponents = theory.circular_law_exponent(1.7, position)
    assert_allclose(theory.circular_law_fraction(1.7, exponents), 1 - position, rtol=1e-12)
    assert theory.circular_law_fraction(1.7, 1.0) == 1
    fine = (np.arange(10**6) + 0.5) / 10**6
    mean = np.mean(theory.circular_law_exponent(1.7, fine))
    assert_allclose(theory.circular_law_mean(1.7), mean, rtol=0, atol=1e-6)


# ---- Gates at initialisation --------------------------------------------------------------------


def at_rest(cell, **biases):
    """Parameters of the gates' biases, and the eigenvalues of the step Jacobian without input."""
    params = draw(cell)
    params |= {"bias": jnp.repeat(jnp.array(list(biases.values())), H)}
    if "recurrent_bias" in params:
        params |= {"recurrent_bias": jnp.zeros(H)}
    jacobian = step_jacobians(cell, params, jnp.zeros((1, D)))[0]
    candidate = {"lstm": 2, "gru": 2, "gru_before": 2}[cell.name]
    kernel = params["recurrent_kernel"][:, candidate * H : (candidate + 1) * H]
    return np.linalg.eigvals(np.asarray(jacobian)), np.linalg.eigvals(np.asarray(kernel))


def assert_same_set(measured, expected, tolerance):
    distance = np.abs(measured[:, None] - np.asarray(expected)[None, :])
    assert max(distance.min(axis=0).max(), distance.min(axis=1).max()) < tolerance


def test_lstm_origin_eigenvalues_are_those_of_the_step():
    """A17: and H zeros, which a defective matrix finds to sqrt(eps) only."""
    measured, mu = at_rest(rnn_jax.lstm(), input=-0.5, forget=2.0, candidate=0.0, output=0.3)
    found = theory.lstm_origin_eigenvalues(mu, input_bias=-0.5, forget_bias=2.0, output_bias=0.3)
    assert_same_set(measured, np.append(found, 0), 1e-6)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gru_origin_eigenvalues_are_those_of_the_step(reset):
    """A22: for either form of the reset."""
    measured, mu = at_rest(rnn_jax.gru(reset), reset=-0.5, update=0.8, candidate=0.0)
    found = theory.gru_origin_eigenvalues(mu, reset_bias=-0.5, update_bias=0.8)
    assert_same_set(measured, found, 1e-12)


def test_critical_gains_put_the_largest_eigenvalue_at_one():
    """A17, A22: for mu = g; and they are the gains of the scheme of that name."""
    biases = {"input_bias": 0.4, "forget_bias": 1.5, "output_bias": -0.2}
    gain = theory.lstm_critical_gain(1.5, 0.4, -0.2)
    assert_allclose(theory.lstm_origin_eigenvalues(gain, **biases), 1, rtol=1e-12)
    gain = theory.gru_critical_gain(-0.7)
    for update_bias in (-2.0, 3.0):
        found = theory.gru_origin_eigenvalues(gain, reset_bias=-0.7, update_bias=update_bias)
        assert_allclose(found, 1, rtol=1e-12)
    scheme = schemes.critical(forget_bias=5.0, ensemble=schemes.identity)
    for cell, gain in [
        (rnn_jax.lstm(), theory.lstm_critical_gain(5.0)),
        (rnn_jax.gru(), theory.gru_critical_gain()),
    ]:
        params = cell.init(jax.random.key(0), D, H, scheme=scheme, dtype="float64")
        assert_allclose(params["recurrent_kernel"][0, 0], gain, rtol=1e-12)


@pytest.mark.parametrize("bias", [0.0, 1.0, 5.0])
def test_gate_power_is_the_memory_gradient_of_a_cut_lstm(bias):
    """A20: without recurrent kernels and input, at any lag; the table is in the ground truths."""
    biases = jnp.repeat(jnp.array([0.0, bias, 0.0, 0.0]), H)
    params = without_recurrence(draw(rnn_jax.lstm())) | {"bias": biases}
    measured = jax.jit(theory.forget_path)(params, jnp.zeros((2000, D)))
    lags = np.arange(2000, -1, -1)
    assert_allclose(measured, theory.gate_power(bias, lags), rtol=1e-12)
    assert_allclose(theory.gate_power(bias, theory.gate_time_constant(bias)), -1, rtol=1e-12)


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 1.0), (0.9, 0.999)])
def test_ring_power_is_the_state_gradient_of_an_lru(r_min, r_max):
    """A24: dz_T/dz_{T-k} = diag(lam^k). Of 20 000 multipliers lam^200 scatters by 5 %."""
    cell, size = rnn_jax.cells.lru(), 20_000
    options = {"state_size": size, "r_min": r_min, "r_max": r_max, "dtype": "float64"}
    params = cell.init(jax.random.key(0), 1, 1, **options)
    lags = np.array([0, 1, 10, 100])
    log_modulus = -jnp.exp(params["nu_log"])
    measured = [log_root_mean_square(float(k) * log_modulus) for k in lags]
    expected = theory.ring_power(lags, r_min, r_max)
    assert_allclose(np.exp(measured), np.exp(expected), rtol=0.05)
    assert_allclose(
        theory.ring_power(100_000, 0.5, 0.9), expected_far(100_000, 0.5, 0.9), rtol=1e-12
    )


def expected_far(lag, r_min, r_max):
    """Where r_min^(2k) plays no part any more."""
    return (2 * lag + 2) * np.log(r_max) / 2 - np.log((lag + 1) * (r_max**2 - r_min**2)) / 2


@pytest.mark.parametrize("eigenvalue", [0.9, -0.7, 0.6 + 0.5j, 0.95 * np.exp(0.1j)])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.99, 1.0, -0.4])
def test_moments_of_a_linear_unit_are_its_double_sums(eigenvalue, correlation):
    """The stationary state is sum_j lam^j x_{T-j}; 800 terms leave 1e-16 of |lam| = 0.95."""
    j = np.arange(800)
    inputs = float(correlation) ** np.abs(j[:, None] - j)
    state = eigenvalue**j
    by_eigenvalue = np.where(j > 0, j * eigenvalue ** np.maximum(j - 1, 0), 0)
    moments = theory.linear_moments(eigenvalue, correlation)
    mean_square = lambda weights: (weights @ inputs @ weights.conj()).real
    np.testing.assert_allclose(moments.state, mean_square(state), rtol=1e-12)
    np.testing.assert_allclose(moments.sensitivity, mean_square(by_eigenvalue), rtol=1e-12)


def test_the_curse_of_memory_has_its_powers():
    gap = 1e-8
    white, constant = theory.linear_moments(1 - gap), theory.linear_moments(1 - gap, 1.0)
    np.testing.assert_allclose(white.state * gap, 1 / 2, rtol=1e-6)
    np.testing.assert_allclose(white.sensitivity * gap**3, 1 / 4, rtol=1e-6)
    # 1 - |lam| itself is right to 1e-8 only.
    np.testing.assert_allclose(constant.state * gap**2, 1, rtol=1e-6)
    np.testing.assert_allclose(constant.sensitivity * gap**4, 1, rtol=1e-6)
    lru = theory.lru_moments(1 - 1e-6, 0.3)
    np.testing.assert_allclose(lru.state, 1, rtol=1e-9)
    np.testing.assert_allclose(lru.by_nu_log, 1 / 2, rtol=1e-5)
    np.testing.assert_allclose(lru.by_theta_log * 1e-12, 0.3**2 / 2, rtol=1e-5)


def test_moments_outside_of_their_domain_are_nan():
    for eigenvalue in (1.1, -1.0, 0.8 + 0.8j, np.nan, np.inf):
        assert_allclose(theory.linear_moments(eigenvalue), np.nan)
    for correlation in (1.2, -1.2, np.nan):
        assert_allclose(theory.linear_moments(0.9, correlation), np.nan)
        assert_allclose(theory.lru_moments(0.9, 0.1, correlation), np.nan)
    for radius, phase in ((1.2, 0.1), (-0.5, 0.1), (np.nan, 0.1), (0.9, -0.1), (0.9, np.nan)):
        assert_allclose(jax.jit(theory.lru_moments)(radius, phase), np.nan)
    # Each of many on its own, and the domain includes its ends.
    state, _ = theory.linear_moments(jnp.array([0.5, 1.5, -0.5]), jnp.array([1.0, 0.0, -1.0]))
    assert np.isnan(state).tolist() == [False, True, False]
    assert theory.lru_moments(0.9, 0.0).by_theta_log == 0


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
def test_moments_of_an_lru_are_those_of_the_cell(correlation):
    """The derivatives of the cell's state by its parameters, summed over all pairs of inputs."""
    radius, phase, steps = 0.8, 0.9, 200
    params = {
        "nu_log": jnp.log(-jnp.log(jnp.full(1, radius))),
        "theta_log": jnp.log(jnp.full(1, phase)),
        "gamma_log": jnp.log1p(-(jnp.full(1, radius) ** 2)) / 2,
        "B_re": jnp.ones((1, 1)),
        **{name: jnp.zeros((1, 1)) for name in ("B_im", "C_re", "C_im", "D")},
    }

    def impulse_response(params):
        xs = jnp.zeros((steps, 1)).at[0].set(1)
        states = rnn_jax.unroll(rnn_jax.cells.lru(), params, xs)[1].states
        return jnp.stack([states.real[:, 0], states.imag[:, 0]])

    lags = np.arange(steps)
    inputs = correlation ** np.abs(lags[:, None] - lags) if correlation else np.eye(steps)
    mean_square = lambda response: np.einsum("pi,ij,pj->", response, inputs, response)
    expected = theory.lru_moments(radius, phase, correlation)
    np.testing.assert_allclose(mean_square(impulse_response(params)), expected.state, rtol=1e-10)
    for name in ("nu_log", "theta_log"):
        derivative = jax.jacfwd(lambda value, name=name: impulse_response(params | {name: value}))
        measured = mean_square(np.asarray(derivative(params[name]))[..., 0])
        np.testing.assert_allclose(measured, getattr(expected, f"by_{name}"), rtol=1e-10)


@pytest.mark.parametrize("lag", [1, 2, 5, 20, 50])
def test_the_fuss_catalan_law(lag):
    """Its moments are the Fuss-Catalan numbers, its edge the norm of a power."""
    law = theory.tied_singular_values(0.7, lag)
    log_x = 2 * (law.log_value - lag * np.log(0.7))
    weights = np.gradient(law.position)
    for moment in (1, 2, 3):
        number = math.comb((lag + 1) * moment, moment) / (lag * moment + 1)
        # A midpoint rule of 4000 points; the edges are of its order.
        np.testing.assert_allclose(np.sum(weights * np.exp(moment * log_x)), number, rtol=1e-5)
    # The first point lies half a step inside the edge.
    np.testing.assert_allclose(law.log_value[0], theory.tied_spectral_norm(0.7, lag), atol=1e-4)


@pytest.mark.parametrize("lag", [1, 50, 1000, 10_000])
def test_the_fuss_catalan_law_from_end_to_end(lag):
    """At every lag; per step it tends to the circular law, at the rate ln(lag) / lag."""
    law = theory.tied_singular_values(0.7, lag)
    position, per_step = np.asarray(law.position), np.asarray(law.log_value) / lag
    assert np.all(np.diff(position) > 0)
    assert np.all(np.diff(per_step) < 0)
    assert 0 <= position[0] < 1e-6
    assert 0.999 < position[-1] < 1
    assert np.diff(position).max() < 0.005
    assert_allclose(law.log_value[0], theory.tied_spectral_norm(0.7, lag), atol=1e-4)
    if lag > 1:
        inside = position < 0.9999
        expected = theory.circular_law_exponent(0.7, position[inside])
        assert_allclose(per_step[inside], expected, rtol=0, atol=np.log(200 * lag) / 2 / lag)
    with jax.enable_x64(False):
        narrow = theory.tied_singular_values(0.7, lag)
    assert_allclose(narrow.position, position, rtol=1e-6)
    assert_allclose(narrow.log_value, law.log_value, rtol=1e-6, atol=1e-6)


def test_tied_singular_values_of_one_matrix_are_those_of_the_quarter_circle():
    """Its distribution is known in closed form: sigma / g lies between 0 and 2."""
    law = theory.tied_singular_values(1.0, 1)
    sigma = np.exp(np.asarray(law.log_value))
    below = (sigma * np.sqrt(4 - sigma**2) / 2 + 2 * np.arcsin(sigma / 2)) / np.pi
    assert_allclose(law.position, 1 - below, atol=1e-12)


@pytest.mark.parametrize(("lag", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError)])
def test_tied_singular_values_need_a_lag(lag, error):
    with pytest.raises(error, match="lag must be"):
        theory.tied_singular_values(1.0, lag)
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        theory.tied_singular_values(1.0, 1, 0)
