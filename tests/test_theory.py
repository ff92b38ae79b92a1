"""The closed forms of `rnn_jax.theory` against the instruments they are drawn beside.

The random matrices of `theory` and the Pascanu bound on products of Jacobians are tested with
the ground truths A8, A12 and A14; here is what is said of a single gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import rnn_jax
from rnn_jax import theory
from rnn_jax.analysis import gradient_flow

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
