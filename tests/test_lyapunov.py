"""Lyapunov spectra: closed forms, sum rules, mean field, and results that say what they are not."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from rnn_jax import elman, lstm, schemes
from rnn_jax.analysis import (
    finite_time_spectrum,
    jacobian_product,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
    orthonormalisation_interval,
    step_jacobians,
)
from rnn_jax.theory import gaussian_mean, vanilla_mean_field
from rnn_jax.unroll import visit

# Minutes together.
pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
D = 3


def noise(steps, seed=1, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), (steps, D), dtype)


@pytest.mark.parametrize("every", [1, 4])
def test_a_linear_network_has_the_logarithms_of_its_eigenvalues(every):
    """A3: ln |mu_i| of a Gaussian matrix, sorted, to the 5e-3 of complex pairs in 5000 steps."""
    cell = elman("identity")
    params = cell.init(KEY, D, 32, scheme=schemes.gaussian(), dtype=jnp.float64)
    result = lyapunov_spectrum(KEY, cell, params, jnp.zeros((5700, D)), every=every)
    eigenvalues = np.linalg.eigvals(np.asarray(params["recurrent_kernel"]))
    expected = np.sort(np.log(np.abs(eigenvalues)))[::-1]
    np.testing.assert_allclose(result.exponents, expected, atol=5e-3)
    assert bool(result.resolved.all())


def test_gain_times_orthogonal():
    cell = elman("identity")
    for gain in (0.5, 1.1):
        params = cell.init(KEY, D, 8, scheme=schemes.orthogonal(gain), dtype=jnp.float64)
        result = lyapunov_spectrum(KEY, cell, params, jnp.zeros((1000, D)))
        np.testing.assert_allclose(result.exponents, np.log(gain), atol=1e-12)
        np.testing.assert_allclose(result.standard_error, 0, atol=1e-13)
        np.testing.assert_allclose(result.running, np.log(gain), atol=1e-12)


def test_the_sum_rule_of_the_lstm():
    """A19: all 2N exponents sum to the mean of ln |det J|, in closed form along the trajectory."""
    cell, size, steps = lstm(), 6, 1500
    params = cell.init(KEY, D, size, dtype=jnp.float64)
    xs = noise(700 + steps)
    result = lyapunov_spectrum(KEY, cell, params, xs)
    seen = visit(cell, params, xs)
    gates = jax.vmap(functools.partial(rnn_jax.cells.lstm_gates, params))(seen.before, seen.drives)
    read = jnp.log(
        jnp.abs(jnp.tanh(seen.trajectory.states.cell) * gates.output * (1 - gates.output))
    )
    u_o = params["recurrent_kernel"][:, 3 * size :]
    terms = jnp.sum(jnp.log(gates.forget) + read, axis=1) + jnp.linalg.slogdet(u_o)[1]
    assert float(result.exponents.sum()) == pytest.approx(float(terms[700:].mean()), abs=1e-4)


def test_exponents_are_the_slopes_of_the_singular_values():
    """The spectrum of the forward frame is that of J_{T:t} at a long lag, divided by the lag."""
    cell = elman()
    params = cell.init(KEY, D, 12, scheme=schemes.gaussian(1.5), dtype=jnp.float64)
    xs = noise(4000)
    result = lyapunov_spectrum(KEY, cell, params, xs, burn_in=500, tangent_burn_in=100)
    finite = finite_time_spectrum(cell, params, xs, [3400]).log_singular_values[0] / 3400
    # Finite-time exponents differ by O(1/k): the end points, some nats over 3400 steps.
    np.testing.assert_allclose(result.exponents, finite, atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gain", "size", "mean", "deviation", "seeds"),
    [
        (1.5, 128, 0.0245, 0.0214, 6),
        (2.0, 256, 0.1486, 0.0034, 4),
        (3.0, 256, 0.3024, 0.0016, 4),
    ],
)
def test_the_largest_exponent_of_a_chaotic_network(gain, size, mean, deviation, seeds):
    """B4b: finite networks lie below mean field, by the amount measured elsewhere."""
    cell = elman()

    def largest(key):
        params = cell.init(key, D, size, scheme=schemes.gaussian(gain), dtype=jnp.float32)
        params = params | {"bias": jnp.zeros(size, jnp.float32)}
        start = jax.random.normal(jax.random.fold_in(key, 1), (size,), jnp.float32)
        xs = jnp.zeros((1700, D), jnp.float32)
        state = rnn_jax.HiddenState(jnp.tanh(start))
        return lyapunov_spectrum(key, cell, params, xs, count=1, state=state).exponents[0]

    found = np.asarray(jax.vmap(largest)(jax.random.split(KEY, seeds)))
    chi = vanilla_mean_field(gain, 0.0).chi
    assert found.mean() < float(jnp.log(chi)) / 2
    # Three deviations of the reference and three standard errors of ours.
    assert abs(found.mean() - mean) < 3 * deviation + 3 * found.std(ddof=1) / seeds**0.5


def test_the_mean_of_all_exponents_is_that_of_mean_field():
    """B1: ln g - 1/2 + E ln phi'(sqrt(q) z), here driven, to a few standard errors of one W."""
    gain, size = 1.5, 100
    cell = elman()
    scheme = schemes.gaussian(gain)
    params = cell.init(KEY, D, size, scheme=scheme, dtype=jnp.float64)
    result = lyapunov_spectrum(KEY, cell, params, noise(500), burn_in=100, tangent_burn_in=50)
    q = vanilla_mean_field(gain, 1.0).variance
    log_slope = gaussian_mean(lambda u: jnp.log(1 - jnp.tanh(u) ** 2), q)
    expected = np.log(gain) - 0.5 + float(log_slope)
    # ln |det W| of one draw has a deviation of sqrt(ln N / 2) and a bias of ln(N) / 4.
    assert float(result.exponents.mean()) == pytest.approx(expected, abs=0.05)


def test_directions_that_are_lost_are_said_to_be():
    """A17: at rest an LSTM has rank N. N exponents are -inf, flagged, and spoil nothing else."""
    cell, size = lstm(), 4
    params = cell.init(KEY, D, size, dtype=jnp.float64)
    result = lyapunov_spectrum(KEY, cell, params, jnp.zeros((800, D)))
    assert result.resolved.tolist() == [True] * size + [False] * size
    jacobian = step_jacobians(cell, params, jnp.zeros((1, D)))[0]
    moduli = np.sort(np.abs(np.linalg.eigvals(np.asarray(jacobian))))[::-1]
    np.testing.assert_allclose(result.exponents[:size], np.log(moduli[:size]), atol=2e-3)
    assert np.all(np.asarray(result.exponents[size:]) == -np.inf)
    assert np.isfinite(result.half_difference)
    assert float(result.entropy_rate) == 0
    assert float(result.kaplan_yorke) == 0


def test_more_steps_tell_more():
    """The standard error covers the difference of two inputs and falls with the steps."""
    cell = elman()
    params = cell.init(KEY, D, 16, scheme=schemes.gaussian(), dtype=jnp.float64)
    spectrum = lambda steps, seed: lyapunov_spectrum(
        KEY, cell, params, noise(steps, seed), burn_in=100, tangent_burn_in=100, count=3
    )
    one, two = spectrum(2200, 5), spectrum(2200, 6)
    error = np.hypot(one.standard_error, two.standard_error)
    assert np.all(np.abs(one.exponents - two.exponents) < 5 * error)
    long = spectrum(10_200, 5)
    ratio = np.median(np.asarray(long.standard_error / one.standard_error))
    assert 0.2 < ratio < 0.9  # 5 ** -0.5 is 0.45; an error of 16 blocks is uncertain by a fifth
    assert float(long.half_difference) < 0.05


def test_the_interval_keeps_the_spectrum():
    """Chosen from the spread of a short run it changes no exponent by more than rounding."""
    cell = elman()
    params = cell.init(KEY, D, 24, scheme=schemes.gaussian(1.5), dtype=jnp.float64)
    xs = noise(1400)
    run = functools.partial(lyapunov_spectrum, KEY, cell, params)
    pilot = run(xs[:400], burn_in=100, tangent_burn_in=100)
    every = orthonormalisation_interval(pilot.exponents, jnp.float64)
    assert every > 1
    options = {"burn_in": 200, "tangent_burn_in": 200 // every * every}
    steps = 200 + options["tangent_burn_in"] + 900 // every * every
    often, seldom = (run(xs[:steps], every=k, **options) for k in (1, every))
    np.testing.assert_allclose(seldom.exponents, often.exponents, atol=1e-7)


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([0.5, 0.0, -1.0, -2.0], 2.5),
        ([0.9, 0.0, -14.57], 2 + 0.9 / 14.57),  # Lorenz
        ([-1.0, -2.0], 0.0),
        ([0.0, -1.0], 1.0),
        ([1.0, 0.5], np.nan),
        ([0.3, -np.inf], 1.0),
    ],
)
def test_kaplan_yorke(exponents, dimension):
    found = kaplan_yorke_dimension(jnp.array(exponents))
    np.testing.assert_allclose(found, dimension, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 9}, "only 8 dimensions, got 9"),
        ({"count": 0}, "count must be at least 1"),
        ({"every": 0}, "every must be at least 1"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
        ({"burn_in": 790}, "at least 32 must remain, got 0"),
        ({"every": 20}, "at least 640 must remain, got 100"),
    ],
)
def test_bad_options(options, message):
    cell = elman()
    params = cell.init(KEY, D, 8)
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(KEY, cell, params, jnp.zeros((800, D)), **options)


def test_chaos_is_extensive_and_input_tames_it():
    """B8: spectra of 128 and 256 units fall on one curve at g = 3, the attractor's dimension is a
    small share of them, and white input reduces dimension and entropy."""
    cell = elman()

    def measured(key, width, scale):
        params = cell.init(key, 1, width, scheme=schemes.gaussian(3.0), dtype=jnp.float64)
        params["kernel"] = jnp.ones((1, width)) * jax.random.normal(key, (width,))[None]
        xs = scale * jax.random.normal(key, (700, 1), jnp.float64)
        state = rnn_jax.HiddenState(jax.random.normal(jax.random.fold_in(key, 1), (width,)))
        options = {"burn_in": 200, "tangent_burn_in": 100, "state": state}
        return lyapunov_spectrum(key, cell, params, xs, **options)

    run = jax.jit(measured, static_argnums=1)
    results = {
        (width, scale): [run(jax.random.key(seed), width, scale) for seed in range(8)]
        for width, scale in ((128, 0.0), (256, 0.0), (128, 1.5))
    }

    def share(width, scale, name):
        return np.mean([getattr(result, name) for result in results[width, scale]]) / width

    curves = {
        width: np.mean([np.sort(r.exponents)[::-1] for r in results[width, 0.0]], axis=0)
        for width in (128, 256)
    }
    bulk = (np.arange(100) + 0.5) / 128
    wide = np.interp(bulk, (np.arange(256) + 0.5) / 256, curves[256])
    # Closer with more draws than these eight, and where exponents are not large and negative.
    np.testing.assert_allclose(curves[128][:100], wide, atol=0.03, rtol=0.02)
    assert 0.05 < share(256, 0.0, "kaplan_yorke") < 0.3
    assert abs(share(128, 0.0, "kaplan_yorke") / share(256, 0.0, "kaplan_yorke") - 1) < 0.1
    for name in ("kaplan_yorke", "entropy_rate"):
        assert share(128, 1.5, name) < 0.9 * share(128, 0.0, name)


def test_wide_networks_become_chaotic_at_a_gain_of_one():
    """B5: below, orbits end at zero, where lambda_1 is ln rho(W) and tends to ln g; above, lambda_1
    comes up to mean-field theory from below as networks become wider."""
    cell = elman()

    @functools.partial(jax.jit, static_argnums=1)
    def largest(key, width, gain):
        params = cell.init(key, 1, width, scheme=schemes.gaussian(gain), dtype=jnp.float64)
        state = rnn_jax.HiddenState(jax.random.normal(jax.random.fold_in(key, 1), (width,)))
        options = {"count": 1, "burn_in": 300, "tangent_burn_in": 100, "state": state}
        xs = jnp.zeros((1900, 1))
        result = lyapunov_spectrum(key, cell, params, xs, **options)
        return result.exponents[0], params["recurrent_kernel"]

    mean = {}
    for width in (100, 400):
        for gain in (0.9, 1.6):
            values, kernels = zip(
                *(largest(jax.random.key(seed), width, gain) for seed in range(5)), strict=True
            )
            mean[width, gain] = np.mean(values)
            if gain < 1:
                radii = [np.abs(np.linalg.eigvals(np.asarray(kernel))).max() for kernel in kernels]
                still = np.array(radii) < 1  # of 100 units some matrices are beyond it already
                assert still.sum() >= 4
                # The phase of a complex pair is left after 1500 steps.
                np.testing.assert_allclose(np.array(values)[still], np.log(radii)[still], atol=2e-3)
    field = np.log(vanilla_mean_field(1.6, 0.0).chi) / 2
    # 0.0832; ten draws of 100, 200, 400 and 800 units gave 0.040, 0.055, 0.071 and 0.081.
    assert mean[100, 1.6] < mean[400, 1.6] < field
    assert field - mean[400, 1.6] < 0.025
    assert mean[100, 0.9] > mean[400, 0.9] > np.log(0.9)


@pytest.mark.parametrize("count", [None, 5])
@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_factorising_by_lu_or_by_qr_is_the_same(name, count):
    """Of 128 measured factorisations three in four are LU; the R of a product is unique."""
    cell = rnn_jax.cells.lookup(name)
    params = cell.init(KEY, D, 12, scheme=schemes.gaussian(1.5), dtype=jnp.float64)
    xs = noise(128 + 30)
    options = {"count": count, "burn_in": 10, "tangent_burn_in": 20}
    result = lyapunov_spectrum(KEY, cell, params, xs, **options)
    jacobians = np.asarray(step_jacobians(cell, params, xs))[10:]
    growth = plain_qr(jacobians, count or jacobians.shape[1])
    assert len(result.running) == 32
    np.testing.assert_allclose(result.exponents, np.mean(growth[20:], axis=0), rtol=1e-9)
    half = np.mean(growth[20:84], axis=0)
    np.testing.assert_allclose(result.running[15], half, rtol=1e-9)


def plain_qr(jacobians, count):
    """ln of the diagonal of R at every step, from the frame that the instrument begins with."""
    frame = jax.random.normal(KEY, (jacobians.shape[1], count), jnp.float64)
    frame, growth = np.linalg.qr(np.asarray(frame))[0], []
    for jacobian in jacobians:
        frame, triangular = np.linalg.qr(jacobian @ frame)
        growth.append(np.log(np.abs(np.diag(triangular))))
    return np.array(growth)


@pytest.mark.parametrize(("measured", "tangent_burn_in"), [(1000, 90), (997, 91), (1024, 0)])
def test_the_tangents_burn_in_as_long_as_asked_for(measured, tangent_burn_in):
    cell = elman()
    params = cell.init(KEY, D, 6, scheme=schemes.gaussian(1.5), dtype=jnp.float64)
    xs = noise(tangent_burn_in + measured)
    options = {"burn_in": 0, "tangent_burn_in": tangent_burn_in}
    result = lyapunov_spectrum(KEY, cell, params, xs, **options)
    growth = plain_qr(np.asarray(step_jacobians(cell, params, xs)), 6)[tangent_burn_in:]
    np.testing.assert_allclose(result.exponents, growth.mean(axis=0), rtol=1e-9)
    # All steps count, in 16 blocks that differ by one step at most.
    ends = np.linspace(0, measured, 33).round().astype(int)[::2]
    blocks = [growth[a:b].mean(axis=0) for a, b in itertools.pairwise(ends)]
    np.testing.assert_allclose(result.standard_error, np.std(blocks, axis=0, ddof=1) / 4, rtol=1e-8)


def test_a_burn_in_that_is_no_multiple_is_rounded_up():
    cell = elman()
    params = cell.init(KEY, D, 4, dtype=jnp.float64)
    xs = noise(5 + 7 * 40)
    short = lyapunov_spectrum(KEY, cell, params, xs, burn_in=0, tangent_burn_in=5, every=7)
    whole = lyapunov_spectrum(KEY, cell, params, xs, burn_in=0, tangent_burn_in=7, every=7)
    np.testing.assert_array_equal(short.exponents, whole.exponents)


@pytest.mark.parametrize("measured", [1000, 997])
def test_a_unit_that_is_often_dead_has_no_exponent(measured):
    """A ReLU that is off at one step in five: the product is singular, by LU as by QR."""
    cell = elman("relu")
    params = cell.init(KEY, D, 5, scheme=schemes.orthogonal(), dtype=jnp.float32)
    params["kernel"] = jnp.zeros((D, 5), jnp.float32).at[0, 2].set(-100.0)
    params["bias"] = jnp.full(5, 10.0, jnp.float32)
    params["recurrent_kernel"] = 0.2 * jnp.abs(params["recurrent_kernel"])
    xs = jnp.zeros((measured, D), jnp.float32).at[::5, 0].set(1.0)
    result = lyapunov_spectrum(KEY, cell, params, xs, burn_in=0, tangent_burn_in=0)
    np.testing.assert_array_equal(result.resolved, [True] * 4 + [False])
    assert np.isneginf(result.exponents[-1])
    assert np.isnan(result.standard_error[-1])
    assert np.isfinite(result.half_difference)
    spectrum = finite_time_spectrum(cell, params, xs[:300], [1, 300])
    np.testing.assert_array_equal(spectrum.resolved.sum(axis=1), [5, 4])
    assert np.isneginf(spectrum.log_singular_values[1, -1])


def test_nan_stays_nan():
    """Of a diverged network nothing is known, least of all that it is stable."""
    cell = elman()
    params = cell.init(KEY, D, 4, dtype=jnp.float64)
    xs = noise(400).at[200, 0].set(jnp.nan)
    result = lyapunov_spectrum(KEY, cell, params, xs, burn_in=0, tangent_burn_in=0)
    assert not result.resolved.any()
    for value in result._replace(resolved=jnp.nan, running=result.running[-1]):
        assert np.isnan(value).all()
    spectrum = finite_time_spectrum(cell, params, xs, [300])
    assert np.isnan(spectrum.log_singular_values).all()
    blocks = jacobian_product(lstm(), lstm().init(KEY, D, 3), xs.astype(jnp.float32), [300]).blocks
    assert all(np.isnan(block).all() for block in blocks.values())


def test_a_network_that_has_diverged_is_not_at_rest():
    """The slope of a ReLU at NaN is 0: its Jacobians look like those of a dead network."""
    cell = elman("relu")
    params = cell.init(KEY, D, 8, scheme=schemes.gaussian(4.0), dtype=jnp.float64)
    xs = noise(1400)
    result = lyapunov_spectrum(KEY, cell, params, xs, burn_in=1000, tangent_burn_in=0)
    assert np.isnan(result.exponents).all()
    assert np.isnan(result.kaplan_yorke)
    spectrum = finite_time_spectrum(cell, params, xs, [10, 1400])
    assert np.isnan(spectrum.log_singular_values).all()
    assert not spectrum.resolved.any()


def test_half_precision_is_refused_in_words():
    cell = elman()
    params = cell.init(KEY, D, 4, dtype=jnp.bfloat16)
    with pytest.raises(TypeError, match="float32 or float64 parameters, got bfloat16"):
        lyapunov_spectrum(KEY, cell, params, jnp.zeros((800, D), jnp.bfloat16))


def test_a_network_that_keeps_every_norm_fills_its_space():
    assert float(kaplan_yorke_dimension(jnp.zeros(3))) == 3
    assert np.isnan(kaplan_yorke_dimension(jnp.array([jnp.nan, -1.0])))
    assert np.isnan(kaplan_yorke_dimension(jnp.array([0.5, 0.1])))
