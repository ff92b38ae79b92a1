"""Jacobian products and their spectra, beside products in 700 digits and closed forms."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import rnn_jax
from rnn_jax import elman, gru, lstm, schemes
from rnn_jax.analysis import (
    finite_time_spectrum,
    gradient_flow,
    jacobian_product,
    step_jacobians,
)
from rnn_jax.combinators import stack, with_zoneout

KEY = jax.random.key(0)
D = 3


def setting(cell, size, steps, dtype=jnp.float64, gain=1.0, seed=0):
    scheme = schemes.gaussian(gain)
    params = cell.init(jax.random.key(seed), D, size, scheme=scheme, dtype=dtype)
    return params, jax.random.normal(jax.random.key(seed + 1), (steps, D), dtype)


def linear(matrix, dtype=jnp.float64):
    """Parameters of elman("identity") whose Jacobian at every step is a given matrix."""
    size = len(matrix)
    return {
        "kernel": jnp.ones((1, size), dtype),
        "recurrent_kernel": jnp.asarray(np.asarray(matrix).T, dtype),
        "bias": jnp.zeros(size, dtype),
    }


def exact_spectra(jacobians, lags):
    """ln of the singular values of J_T ... J_{T-k+1} for each k, in 700 digits."""
    jacobians = np.asarray(jacobians, np.float64)
    found = []
    with mpmath.workdps(700):
        product = mpmath.eye(jacobians.shape[1])
        for lag, jacobian in enumerate(jacobians[::-1], start=1):
            product = product * mpmath.matrix(jacobian.tolist())
            if lag in lags:
                values = mpmath.svd_r(product, compute_uv=False)
                found.append([float(mpmath.log(v)) if v > 0 else -np.inf for v in values])
    return np.array(found)


CELLS = {
    "elman": (elman(), 8, 1.2),
    "lstm": (lstm(), 4, 1.0),
    "stack": (stack(gru(), with_zoneout(lstm(), 0.2)), 3, 1.0),
}


@pytest.mark.parametrize("name", CELLS)
def test_singular_values_of_a_product_that_no_float_can_hold(name):
    """They differ by up to 750 nats at lag 150, and every one is right to nine digits."""
    cell, size, gain = CELLS[name]
    params, xs = setting(cell, size, 150, gain=gain)
    lags = [1, 5, 20, 60, 150]
    spectrum = jax.jit(functools.partial(finite_time_spectrum, cell, lags=lags))(params, xs)
    expected = exact_spectra(step_jacobians(cell, params, xs), lags)
    assert bool(spectrum.converged.all())
    assert expected[-1, 0] - expected[-1, -1] > 150  # e**88 is the end of float32
    # One rounding per step, amplified by the conditioning of a step.
    np.testing.assert_allclose(spectrum.log_singular_values, expected, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(spectrum.log_condition, expected[:, 0] - expected[:, -1], rtol=1e-8)
    frobenius = np.logaddexp.reduce(2 * expected, axis=1) / 2
    np.testing.assert_allclose(spectrum.log_frobenius, frobenius, rtol=1e-9)
    np.testing.assert_allclose(
        spectrum.stable_rank, np.exp(2 * (frobenius - expected[:, 0])), rtol=1e-7
    )


def test_float32_is_enough():
    """The same in float32: relative to the exact spectrum of its own rounded Jacobians.

    A Jacobian in float32 has relative errors of 1e-7 of its largest singular value; the smallest,
    500 times smaller per step, is uncertain by some 1e-3 per step.
    """
    params, xs = setting(elman(), 8, 100, jnp.float32, gain=1.2)
    spectrum = finite_time_spectrum(elman(), params, xs, [10, 100])
    expected = exact_spectra(step_jacobians(elman(), params, xs), [10, 100])
    np.testing.assert_allclose(
        spectrum.log_singular_values[:, :-1], expected[:, :-1], rtol=2e-4, atol=2e-3
    )
    np.testing.assert_allclose(spectrum.log_singular_values, expected, rtol=5e-3)


def test_the_product_and_its_blocks():
    """Whole and by named block: the blocks of the *product*, not the products of blocks."""
    params, xs = setting(lstm(), 4, 40)
    jacobians = np.asarray(step_jacobians(lstm(), params, xs))
    lags = [0, 1, 7, 40]
    product = jacobian_product(lstm(), params, xs, lags)
    for number, lag in enumerate(lags):
        expected = np.eye(8)
        for jacobian in jacobians[40 - lag :]:
            expected = jacobian @ expected
        mantissa = np.asarray(product.product.mantissa[number])
        scale = 2.0 ** int(product.product.exponent[number])
        np.testing.assert_allclose(mantissa * scale, expected, rtol=1e-9, atol=1e-12 * scale)
        np.testing.assert_allclose(
            np.exp(product.log_frobenius[number]), np.linalg.norm(expected), rtol=1e-10
        )
        np.testing.assert_allclose(
            np.exp(product.log_spectral[number]), np.linalg.norm(expected, 2), rtol=1e-10
        )
        hidden, cell = slice(0, 4), slice(4, 8)
        parts = {"hidden": hidden, "cell": cell}
        for row, rows in parts.items():
            for column, columns in parts.items():
                values = np.linalg.svd(expected[rows, columns], compute_uv=False)
                np.testing.assert_allclose(
                    np.exp(product.blocks[f"{row}/{column}"][number]),
                    np.where(values > 1e-12 * scale, values, 0),
                    rtol=1e-6,
                    atol=1e-14,
                )


def test_the_forget_path_is_the_block_where_no_gate_sees_the_hidden_vector():
    """A20: dc_T/dc_t is the product of forget gates exactly; otherwise it is not."""
    params, xs = setting(lstm(), 5, 60)
    cut = params | {"recurrent_kernel": jnp.zeros_like(params["recurrent_kernel"])}
    lags = list(range(61))
    frobenius = lambda p: (
        jax.nn.logsumexp(2 * jacobian_product(lstm(), p, xs, lags).blocks["cell/cell"], axis=1) / 2
        - np.log(5) / 2
    )
    np.testing.assert_allclose(
        frobenius(cut)[::-1], rnn_jax.theory.forget_path(cut, xs), rtol=1e-9, atol=1e-9
    )
    whole = rnn_jax.theory.forget_path(params, xs)
    assert float(jnp.abs(frobenius(params)[::-1] - whole)[:30].min()) > 0.1


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_gain_times_orthogonal(gain):
    """A1 and A2 far beyond floating point: every singular value is g**k, at lag 5000."""
    cell = elman("identity")
    params = cell.init(KEY, D, 16, scheme=schemes.orthogonal(gain), dtype=jnp.float64)
    spectrum = finite_time_spectrum(cell, params, jnp.ones((5000, D)), [1, 100, 5000])
    expected = np.log(gain) * np.array([1, 100, 5000])[:, None] * np.ones(16)
    np.testing.assert_allclose(spectrum.log_singular_values, expected, atol=1e-8)
    np.testing.assert_allclose(spectrum.stable_rank, 16, rtol=1e-8)


def test_a_non_normal_transient():
    """A4: [[a, b], [0, a]]^k has Frobenius norm sqrt(2 a^2k + k^2 a^(2k-2) b^2) and grows first."""
    a, b, lags = 0.95, 1.0, list(range(1, 201))
    spectrum = finite_time_spectrum(
        elman("identity"), linear([[a, b], [0, a]]), jnp.ones((200, 1)), lags
    )
    k = np.arange(1, 201)
    expected = np.log(2 * a ** (2 * k) + k**2 * a ** (2 * k - 2) * b**2) / 2
    np.testing.assert_allclose(spectrum.log_frobenius, expected, atol=1e-12)
    assert int(np.argmax(spectrum.log_frobenius)) + 1 == pytest.approx(-1 / np.log(a), abs=1)
    # The determinant is a^2k: what the largest gains the smallest loses.
    np.testing.assert_allclose(spectrum.log_singular_values.sum(1), 2 * k * np.log(a), atol=1e-9)


def test_a_singular_jacobian_has_a_spectrum_with_exact_zeros():
    """A17: an LSTM at rest has a Jacobian of rank N: N singular values of the product are zero."""
    params = lstm().init(KEY, D, 6, dtype=jnp.float64)
    xs = jnp.zeros((20, D))
    spectrum = finite_time_spectrum(lstm(), params, xs, [1, 20])
    values = np.asarray(spectrum.log_singular_values)
    jacobian = np.asarray(step_jacobians(lstm(), params, xs[:1])[0])
    assert np.linalg.matrix_rank(jacobian) == 6
    assert np.all(values[:, :6] > -60)
    assert np.all(values[0, 6:] < np.log(1e-15))
    assert np.all(values[1, 6:] < values[1, 5] - 30)


def test_a_dead_network_is_exactly_zero():
    cell = elman("relu")
    params = linear(np.eye(4)) | {"bias": -100 * jnp.ones(4)}
    spectrum = finite_time_spectrum(cell, params, jnp.ones((5, 1)), [0, 1, 5])
    assert np.all(np.asarray(spectrum.log_singular_values[0]) == 0)
    assert np.all(np.asarray(spectrum.log_singular_values[1:]) == -np.inf)


def test_gradients_lie_between_the_extreme_singular_values():
    params, xs = setting(lstm(), 5, 80)
    readout = np.ones(5) / 5**0.5
    flow = gradient_flow(lstm(), params, xs, readout).log_norm[::-1]
    lags = [0, 1, 10, 40, 80]
    spectrum = finite_time_spectrum(lstm(), params, xs, lags)
    for number, lag in enumerate(lags):
        low, high = spectrum.log_singular_values[
            number,
            (-1, 0),
        ]
        assert float(low) - 1e-9 <= float(flow[lag]) <= float(high) + 1e-9


def test_masks_and_resets():
    """A masked step is the identity; nothing passes a reset."""
    params, xs = setting(gru(), 4, 9)
    mask = np.arange(9) < 6
    xs = xs.at[6:].set(jnp.nan)
    masked = step_jacobians(gru(), params, xs, mask=mask)
    np.testing.assert_array_equal(masked[6:], np.broadcast_to(np.eye(4), (3, 4, 4)))
    np.testing.assert_allclose(masked[:6], step_jacobians(gru(), params, xs[:6]), rtol=1e-12)
    reset = np.arange(9) == 3
    cut = finite_time_spectrum(gru(), params, xs, [5, 6, 9], mask=mask, reset=reset)
    assert np.all(np.isfinite(np.asarray(cut.log_singular_values[0])))
    assert np.all(np.asarray(cut.log_singular_values[1:]) == -np.inf)


def test_forward_and_backward_agree():
    """A32: the singular values from columns pushed forward are those from rows pulled back."""
    params, xs = setting(lstm(), 6, 12)
    jacobians = np.asarray(step_jacobians(lstm(), params, xs))  # by jvp, column by column
    product = np.linalg.multi_dot(jacobians[::-1])
    spectrum = finite_time_spectrum(lstm(), params, xs, [12])  # by vjp
    largest = np.linalg.svd(product, compute_uv=False)[:6]
    np.testing.assert_allclose(np.exp(spectrum.log_singular_values[0, :6]), largest, rtol=1e-8)


@pytest.mark.parametrize("lags", [[], [2, 1], [-1], [11], [1.5], [[1]], [1, 1]])
def test_bad_lags(lags):
    params, xs = setting(gru(), 4, 10)
    for instrument in (finite_time_spectrum, jacobian_product):
        with pytest.raises(ValueError, match="lags must"):
            instrument(gru(), params, xs, lags)


def test_singular_values_of_a_singular_jacobian_are_zero_and_say_so():
    """A17: an LSTM at rest has rank H of 2 H; its null space shows as powers of rounding errors."""
    cell = lstm()
    params, _ = setting(cell, 6, 1)
    lags = [1, 5, 40]
    spectrum = finite_time_spectrum(cell, params, jnp.zeros((60, D)), lags)
    np.testing.assert_array_equal(spectrum.resolved.sum(axis=1), 6)
    np.testing.assert_array_equal(np.isneginf(spectrum.log_singular_values), ~spectrum.resolved)
    assert np.all(np.isposinf(spectrum.log_condition))
    assert np.all(np.isfinite(spectrum.log_frobenius))
    # At lag 0 there is the identity, of which nothing is lost.
    assert bool(finite_time_spectrum(cell, params, jnp.zeros((3, D)), [0]).resolved.all())
