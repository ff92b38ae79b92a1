"""What is special to the cells that are linear in their state."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from contract import Case, close, normal_like
from jax.flatten_util import ravel_pytree

from rnn_jax import lstm, schemes, unroll
from rnn_jax.cells import lru, mingru, minlstm, rglru, s5
from rnn_jax.cells.s5 import hippo_normal
from rnn_jax.diagonal import ComplexState

KEY = jax.random.key(0)


def outputs(cell, params, xs):
    return np.asarray(unroll(cell, params, xs)[1].outputs)


def assert_uniform(sample, low, high):
    """A Kolmogorov-Smirnov test at a level that a right distribution fails once in 10 000 seeds."""
    sample = np.asarray(sample)
    assert low <= sample.min()
    assert sample.max() <= high
    assert scipy.stats.kstest((sample - low) / (high - low), "uniform").pvalue > 1e-4


# ---- minGRU and minLSTM -------------------------------------------------------------------------


def test_minlstm_with_opposite_gates_is_mingru():
    """f' = sigmoid(ln f - ln i), and ln sigmoid(-k) - ln sigmoid(k) = -k."""
    for candidate in ("linear", "positive"):
        case = Case(mingru(candidate))
        params, xs = case.params(), case.xs()
        (w_z, w_n), (b_z, b_n) = (jnp.split(params[name], 2, -1) for name in ("kernel", "bias"))
        doubled = {
            "kernel": jnp.concatenate([w_z, -w_z, w_n], axis=1),
            "bias": jnp.concatenate([b_z, -b_z, b_n]),
        }
        close(outputs(minlstm(candidate), doubled, xs), outputs(mingru(candidate), params, xs))


def test_log_space():
    """The positive form, computed in logarithms as in the paper's appendix; and it is positive."""
    case = Case(mingru("positive"))
    params = case.params()
    xs = normal_like(jax.ShapeDtypeStruct((50, 3), jnp.float64), 1)
    k, n = np.split(np.asarray(xs @ params["kernel"] + params["bias"][None]), 2, axis=1)
    log_g = np.where(n >= 0, np.log(np.maximum(n, 0) + 0.5), -np.logaddexp(0, -n))
    keep = np.cumsum(-np.logaddexp(0, k), axis=0)
    log_h = keep + np.logaddexp.accumulate(-np.logaddexp(0, -k) + log_g - keep, axis=0)
    close(outputs(mingru("positive"), params, xs), np.exp(log_h))


@pytest.mark.parametrize("cell", [mingru(), minlstm()], ids=["mingru", "minlstm"])
def test_the_state_is_an_average(cell):
    """Of the first state and the candidates: it never leaves their range, however long."""
    case = Case(cell)
    params = case.params()
    xs = normal_like(jax.ShapeDtypeStruct((500, 3), jnp.float64), 1)
    hidden = outputs(cell, params, xs)
    candidates = np.asarray((xs @ params["kernel"] + params["bias"][None])[:, -4:])
    assert np.all(hidden <= np.maximum(0, candidates.max(0, keepdims=True)))
    assert np.all(hidden >= np.minimum(0, candidates.min(0, keepdims=True)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_saturated_gates_are_normalised(dtype):
    """Where both sigmoids are 0, f / (f + i) is still exp(k_f - k_i) / (1 + exp(k_f - k_i))."""
    cell = minlstm()

    def hidden(bias):
        params = {"kernel": jnp.zeros((1, 3), dtype), "bias": bias}
        return unroll(cell, params, jnp.zeros((1, 1), dtype))[0].hidden[0]

    value, gradient = jax.value_and_grad(hidden)(jnp.array([-1001.0, -1000.0, 2.0], dtype))
    kept = 1 / (1 + math.exp(-1.0))
    # Two numbers of size 1000 are subtracted.
    tolerance = 2000 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(value, 2 * (1 - kept), rtol=tolerance)
    slope = 2 * kept * (1 - kept)
    np.testing.assert_allclose(gradient, [slope, -slope, 1 - kept], rtol=tolerance)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("cell", "bias", "kept"),
    [
        (minlstm(), [-110.0, -110.0, 0.0], 0.5),
        (minlstm(), [-1000.0, -1001.0, 0.0], 1 / (1 + math.e)),
        (mingru(), [60.0, 0.0], math.exp(-60)),
    ],
    ids=["minlstm", "minlstm apart", "mingru"],
)
def test_the_closed_jacobian_of_saturated_gates(cell, bias, kept, dtype):
    """It is exact where the sigmoids, or their complements, are 0."""
    params = {"kernel": jnp.zeros((1, len(bias)), dtype), "bias": jnp.array(bias, dtype)}
    drive = cell.project(params, jnp.zeros(1, dtype))
    jacobian = cell.jacobian(params, cell.initial_state(params), drive)
    # Of two numbers of size 1000 the difference is taken.
    np.testing.assert_allclose(jacobian, [[kept]], rtol=2000 * float(jnp.finfo(dtype).eps))


def test_schemes_draw_what_there_is():
    params = minlstm().init(KEY, 3, 4, scheme=schemes.orthogonal(2.0, forget_bias=1.5))
    assert set(params) == {"kernel", "bias"}
    np.testing.assert_array_equal(params["bias"], np.repeat([0, 1.5, 0], 4))
    i, f, n = np.split(np.asarray(minlstm().init(KEY, 3, 4, scheme=schemes.chrono(50))["bias"]), 3)
    np.testing.assert_array_equal(i, -f)
    assert np.all((np.exp(f) > 1) & (np.exp(f) < 49) & (n == 0))
    # z near 1 overwrites the state: there is no gate for a forget bias.
    with pytest.raises(ValueError, match=r"forget bias.*mingru"):
        mingru().init(KEY, 3, 4, scheme=schemes.orthogonal(forget_bias=1.0))


# ---- LRU ----------------------------------------------------------------------------------------


def eigenvalues(params):
    return np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))


@pytest.mark.parametrize("ring", [(0.0, 1.0), (0.5, 0.9), (0.9, 0.999)])
def test_ring(ring):
    """E |lam|^2k = (r_max^(2k+2) - r_min^(2k+2)) / ((k+1) (r_max^2 - r_min^2)); uniform phases."""
    r_min, r_max = ring
    size = 20_000
    params = lru().init(KEY, 1, 1, state_size=size, r_min=r_min, r_max=r_max, max_phase=0.5)
    lam = eigenvalues(params)
    for k in (1, 5, 50):
        powers = np.abs(lam) ** (2 * k)
        expected = (r_max ** (2 * k + 2) - r_min ** (2 * k + 2)) / ((k + 1) * (r_max**2 - r_min**2))
        error = powers.std() / math.sqrt(size)
        np.testing.assert_allclose(powers.mean(), expected, rtol=0, atol=4 * error)
    assert_uniform(np.abs(lam) ** 2, r_min**2, r_max**2)
    assert_uniform(np.angle(lam), 0, 0.5)


def test_gamma_keeps_the_variance():
    """White inputs: E|z|^2 = sum_k |lam|^2k gamma^2 E|xB|^2 = E|xB|^2, the energy of an impulse."""
    params = lru().init(KEY, 2, 3, state_size=16, r_min=0.3, r_max=0.95)
    impulse = jnp.zeros((600, 2)).at[0, 1].set(1.0)
    states = unroll(lru(), params, impulse)[1].states
    energy = (states.real**2 + states.imag**2).sum(0)
    # 0.95^1200 of it is still to come.
    close(energy, params["B_re"][1] ** 2 + params["B_im"][1] ** 2)


def test_the_jacobian_of_many_steps_is_a_power():
    case = Case(lru())
    params, state, xs = case.args
    flat, unflatten = ravel_pytree(state)

    def end(flat):
        return ravel_pytree(unroll(lru(), params, xs, state=unflatten(flat))[0])[0]

    power = eigenvalues(params) ** len(xs)
    real, imag = np.diag(power.real), np.diag(power.imag)
    close(jax.jacrev(end)(flat), np.block([[real, -imag], [imag, real]]))


def test_the_ring_may_be_traced():
    """A sweep over the ring and the seed is one vmap, and draws what each draws alone."""
    keys = jax.random.split(KEY, 3)
    draw = lambda key, r_max: lru().init(key, 2, 4, r_min=0.5, r_max=r_max)
    radii = jnp.array([0.7, 0.9])
    swept = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(keys, radii)
    alone = draw(keys[2], 0.9)
    close(jax.tree.map(lambda a: a[2, 1], swept), alone)
    assert np.all(np.abs(eigenvalues(alone)) <= 0.9)


def test_lru_scale():
    """Outputs of white inputs have the variance of the inputs, twice with the skip connection."""
    params = lru().init(KEY, 8, 500, r_min=0.3, r_max=0.95)
    seen = outputs(lru(), params, jax.random.normal(KEY, (2000, 8)))[200:]
    # 8 inputs: the realised variance of their 8 x N weights is off by some 10 %.
    np.testing.assert_allclose(seen.var(), 2.0, rtol=0.3)


# ---- S5 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 8, 64])
def test_hippo_normal(size):
    """V Lambda V* and its conjugate are the HiPPO-LegS matrix without its part of rank one."""
    n, k = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    legs = -np.where(n > k, np.sqrt((2 * n + 1) * (2 * k + 1)), np.where(n == k, n + 1.0, 0.0))
    rank_one = np.sqrt(np.outer(np.arange(size) + 0.5, np.arange(size) + 0.5))
    lam, vectors = hippo_normal(size)
    close(2 * ((vectors * lam) @ vectors.conj().T).real, legs + rank_one)
    close(vectors.conj().T @ vectors, np.eye(size // 2))
    assert np.all(lam.imag > 0)


def continuous(params):
    """The real matrices of dz/dt = z A + x B for the state (real, imag), A scaled by the steps."""
    step = np.exp(params["log_step"])
    real, imag = np.diag(step * params["Lambda_re"]), np.diag(step * params["Lambda_im"])
    forcing = np.concatenate([step * params["B_re"], step * params["B_im"]], axis=1)
    return np.block([[real, imag], [-imag, real]]), forcing


def test_zoh_solves_the_equation():
    """The exponential of the whole system, input included, over a step of constant input."""
    case = Case(s5())
    params, state, xs = case.args
    matrix, forcing = continuous(jax.tree.map(np.asarray, params))
    width, count = len(matrix), len(forcing)
    whole = np.block([[matrix, np.zeros((width, count))], [forcing, np.zeros((count, count))]])
    flow = scipy.linalg.expm(whole)
    z = np.concatenate(state)
    for x, seen in zip(
        xs, np.concatenate(unroll(s5(), params, xs, state=state)[1].states, axis=1), strict=True
    ):
        z = (np.concatenate([z, x]) @ flow)[:width]
        close(seen, z)


def test_bilinear_is_the_trapezoidal_rule():
    """z_t - z_{t-1} = A (z_{t-1} + z_t) / 2 + x_t B, in units of the step."""
    case = Case(s5("bilinear"))
    params, state, xs = case.args
    matrix, forcing = continuous(jax.tree.map(np.asarray, params))
    states = np.concatenate(unroll(case.cell, params, xs, state=state)[1].states, axis=1)
    before = np.concatenate([np.concatenate(state)[None], states[:-1]])
    close(states - before, (states + before) / 2 @ matrix + np.asarray(xs) @ forcing)


def test_conjugate_pairs_are_a_real_system():
    """With one step length, S5 at its initialisation is HiPPO-N held over that step."""
    size, step = 8, 0.05
    params = s5().init(KEY, 2, 3, state_size=size) | {"log_step": jnp.full(4, math.log(step))}
    weights = jax.tree.map(np.asarray, params)
    xs = jax.random.normal(KEY, (30, 2))
    lam, vectors = hippo_normal(size)
    matrix = 2 * ((vectors * lam) @ vectors.conj().T).real
    b = 2 * ((weights["B_re"] + 1j * weights["B_im"]) @ vectors.T).real
    c = 2 * (vectors.conj() @ (weights["C_re"] + 1j * weights["C_im"])).real
    held = scipy.linalg.expm(step * matrix)
    forcing = np.linalg.solve(matrix, held - np.eye(size)) @ b.T
    z = np.zeros(size)
    for x, seen in zip(np.asarray(xs), outputs(s5(), params, xs), strict=True):
        z = held @ z + forcing @ x
        close(seen, z @ c + x @ weights["D"])


def test_s5_distributions():
    """ln Delta uniform; B and C, in the basis of HiPPO-N, normal with variance 1 / D and 1 / N."""
    size = 400
    params = s5().init(KEY, 50, 50, state_size=size, dt_min=0.01, dt_max=0.2)
    weights = jax.tree.map(np.asarray, params)
    assert_uniform(weights["log_step"], math.log(0.01), math.log(0.2))
    lam, vectors = hippo_normal(size)
    close(weights["Lambda_re"], lam.real)
    close(weights["Lambda_im"], lam.imag)
    b = 2 * ((weights["B_re"] + 1j * weights["B_im"]) @ vectors.T).real
    c = 2 * (vectors.conj() @ (weights["C_re"] + 1j * weights["C_im"])).real
    for draws, fan_in in ((b, 50), (c, size)):
        # LeCun's normal in JAX is cut at two deviations, so not exactly normal; its variance is.
        error = math.sqrt(2 / draws.size)
        np.testing.assert_allclose((draws**2).mean() * fan_in, 1.0, atol=4 * error)


def test_short_steps_in_float32():
    """exp(Lambda Delta) - 1 does not cancel: a step of 1e-6 adds x B Delta, to float32."""
    params = s5().init(KEY, 2, 3, dtype=jnp.float32)
    params = params | {"log_step": jnp.full(2, math.log(1e-6), jnp.float32)}
    state = unroll(s5(), params, jnp.ones((1, 2), jnp.float32))[0]
    expected = ComplexState(*(1e-6 * params[name].sum(0) for name in ("B_re", "B_im")))
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5), state, expected
    )


def test_odd_sizes():
    params = s5().init(KEY, 3, 5)
    assert params["Lambda_re"].shape == (3,)
    assert outputs(s5(), params, jnp.ones((2, 3))).shape == (2, 5)
    with pytest.raises(ValueError, match=r"s5: state_size must be even.* got 5"):
        s5().init(KEY, 3, 5, state_size=5)


# ---- RG-LRU -------------------------------------------------------------------------------------


def at_rest(dtype=jnp.float64, **changes):
    """One unit with constant gates: kernels of the gates 0, u_t = x_t."""
    params = rglru().init(KEY, 1, 1, dtype=dtype)
    changes = {name: jnp.asarray(value, dtype) for name, value in changes.items()}
    zeros = {"gate_kernel": jnp.zeros((1, 1, 2), dtype), "kernel": jnp.ones((1, 1), dtype)}
    return params | zeros | changes


def test_rglru_memory():
    """exp(-c softplus(Lambda)), the paper's a^c, is uniform between the ends asked for."""
    for options, ends in (({}, (0.9, 0.999)), ({"a_min": 0.2, "a_max": 0.5}, (0.2, 0.5))):
        params = rglru().init(KEY, 1, 2000, **options)
        assert_uniform(np.exp(-8 * np.logaddexp(0, params["Lambda"])), *ends)


def test_rglru_keeps_the_variance():
    """sum_k a^2k (1 - a^2) = 1: the energy of an impulse is that of the gated input."""
    params = at_rest(Lambda=[-4.0], gate_bias=[[1.0, 0.5]])
    hidden = outputs(rglru(), params, jnp.zeros((400, 1)).at[0, 0].set(1.0))
    # a = exp(-8 softplus(-4) sigmoid(1)) = 0.9, and 0.9^800 is still to come.
    close((hidden**2).sum(), 1 / (1 + math.exp(-0.5)) ** 2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("closed", [-5.0, -30.0, -80.0, -150.0])
def test_gradients_where_nothing_is_forgotten(dtype, closed):
    """As r -> 0, sqrt(1 - a^2) = sqrt(2 c softplus(Lambda) r): its slope by ln r is half of it.

    The plain square root gives 0 / 0 there, and one with a bounded slope a wrong slope.
    """

    def log_hidden(bias):
        hidden = unroll(rglru(), at_rest(dtype, Lambda=[-3.0]) | {"gate_bias": bias}, one)[0].hidden
        return jnp.log(hidden[0])

    one = jnp.ones((1, 1), dtype)
    value, gradient = jax.value_and_grad(log_hidden)(jnp.array([[closed, 0.0]], dtype))
    r = 1 / (1 + math.exp(-closed))
    rate = 16 * math.log1p(math.exp(-3.0)) * r
    exact = math.log(-math.expm1(-rate)) / 2 + math.log(0.5)
    # d ln sqrt(1 - exp(-rate)) / d ln rate = rate / (exp(rate) - 1) / 2, and d ln r / dk = 1 - r.
    slope = rate / math.expm1(rate) / 2 * (1 - r)
    tolerance = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(value, exact, rtol=tolerance)
    np.testing.assert_allclose(gradient[0], [slope, 0.5], rtol=tolerance)


def test_heads_are_blocks():
    """A dense gate kernel with zeros outside of the blocks is the same cell."""
    params = jax.tree.map(lambda a: a + 0.1, rglru().init(KEY, 3, 6, heads=3, dtype=jnp.float64))
    kernels = [np.split(kernel, 2, axis=1) for kernel in np.asarray(params["gate_kernel"])]
    dense = np.concatenate(
        [scipy.linalg.block_diag(*blocks) for blocks in zip(*kernels, strict=True)], axis=1
    )
    biases = [bias.reshape(-1) for bias in np.split(np.asarray(params["gate_bias"]), 2, axis=1)]
    whole = params | {
        "gate_kernel": jnp.asarray(dense)[None],
        "gate_bias": jnp.asarray(np.concatenate(biases))[None],
    }
    xs = jax.random.normal(KEY, (5, 3))
    close(outputs(rglru(), params, xs), outputs(rglru(), whole, xs))


# ---- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mingru("tanh"), "mingru: candidate must be .* got 'tanh'"),
        (lambda: minlstm("tanh"), "minlstm: candidate must be .* got 'tanh'"),
        (lambda: s5("euler"), "s5: discretisation must be .* got 'euler'"),
        (
            lambda: lru().init(KEY, 3, 4, r_min=0.9, r_max=0.5),
            "lru: expected 0 <= r_min < r_max <= 1, got 0.9 and 0.5",
        ),
        (lambda: lru().init(KEY, 3, 4, r_max=1.5), "lru: expected .* r_max <= 1, got 0.0 and 1.5"),
        (
            lambda: lru().init(KEY, 3, 4, max_phase=0.0),
            "lru: expected 0 < max_phase < inf, got 0.0",
        ),
        (lambda: lru().init(KEY, 3, 4, state_size=0), "lru: state_size must be at least 1, got 0"),
        (
            lambda: s5().init(KEY, 3, 4, dt_min=0.2),
            "s5: expected 0 < dt_min < dt_max < inf, got 0.2 and 0.1",
        ),
        (lambda: s5().init(KEY, 3, 4, dt_min=0.0), "s5: expected .* got 0.0 and 0.1"),
        (lambda: rglru().init(KEY, 3, 4, heads=3), "rglru: heads must divide .*4, got 3"),
        (
            lambda: rglru().init(KEY, 3, 4, a_max=1.0),
            "rglru: expected 0 < a_min < a_max < 1, got 0.9 and 1.0",
        ),
        (lambda: rglru().init(KEY, 3, 4, a_min=0.0), "rglru: expected .* got 0.0 and 0.999"),
        (lambda: s5([]), r"s5: discretisation must be .* got \[\]"),
        (lambda: mingru([]), r"mingru: candidate must be .* got \[\]"),
        (lambda: minlstm([]), r"minlstm: candidate must be .* got \[\]"),
    ],
)
def test_bad_option(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("cell", [lru(), s5(), rglru()], ids=["lru", "s5", "rglru"])
def test_an_argument_that_init_does_not_have(cell):
    for argument in ("foo", "name"):
        with pytest.raises(TypeError, match=f"{cell.name}: init .*unexpected .*'{argument}'"):
            cell.init(KEY, 3, 4, **{argument: 1})


@pytest.mark.parametrize("cell", [lru(), s5(), rglru()], ids=["lru", "s5", "rglru"])
def test_no_scheme_fits(cell):
    with pytest.raises(ValueError, match=f"orthogonal.* makes no sense for the cell {cell.name}"):
        cell.init(KEY, 3, 4, scheme=schemes.orthogonal())


@pytest.mark.parametrize(
    ("cell", "other"),
    [
        (mingru(), lstm()),
        (minlstm(), mingru()),
        (lru(), s5()),
        (s5(), lru()),
        (rglru(), mingru()),
    ],
    ids=lambda cell: cell.name,
)
def test_parameters_of_another_cell(cell, other):
    with pytest.raises(ValueError, match=f"{cell.name}.*another cell"):
        cell.project(other.init(KEY, 3, 4), jnp.ones(3))
