"""Initialisation: the schemes by their definitions, the presets beside the libraries themselves."""

import functools

import equinox
import haiku
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from jax.flatten_util import ravel_pytree
from scipy import integrate, optimize, stats

from rnn_jax import CELLS, Cell, HiddenState, elman, gated_cell, gru, lstm, schemes, theory
from rnn_jax.cells import antisymmetric, janet, lru, mgu, rhn, ugrnn
from rnn_jax.schemes.parts import largest_eigenvalue

D, H, P = 12, 16, 5
DRAWS = 64
KEYS = jax.random.split(jax.random.key(0), DRAWS)


def draws(cell, scheme, dtype=jnp.float32, keys=KEYS, sizes=(D, H)):
    """NumPy arrays with a leading axis of independent draws."""
    params = jax.vmap(lambda key: cell.init(key, *sizes, scheme=scheme, dtype=dtype))(keys)
    return {name: np.asarray(value, np.float64) for name, value in params.items()}


def gates(array):
    """The blocks (..., H) of a packed array."""
    return np.split(array, array.shape[-1] // H, axis=-1)


# ---- The schemes of the literature --------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_orthogonal_gates(dtype, tolerance):
    """Every gate on its own, and no two gates alike."""
    blocks = gates(draws(gru(), schemes.orthogonal(gain=1.5), dtype)["recurrent_kernel"])
    assert len(blocks) == 3
    for block in blocks:
        products = block @ np.swapaxes(block, 1, 2)
        np.testing.assert_allclose(
            products, np.broadcast_to(1.5**2 * np.eye(H), products.shape), atol=tolerance
        )
    # A product of independent Haar matrices is Haar: its trace has mean 0 and variance 1.
    for first, second in ((0, 1), (0, 2), (1, 2)):
        check_haar(blocks[first] @ np.swapaxes(blocks[second], 1, 2) / 1.5**2)


def check_haar(matrices):
    """The trace of a Haar matrix has mean 0 and variance 1; its determinant either sign."""
    n = len(matrices)
    traces = np.trace(matrices, axis1=1, axis2=2)
    assert abs(traces.mean()) < 4 / np.sqrt(n)
    # The fourth moment is 3, so the variance of a square is 2.
    assert abs((traces**2).mean() - 1) < 4 * np.sqrt(2 / n)
    assert abs(np.sign(np.linalg.det(matrices)).mean()) < 4 / np.sqrt(n)


def test_orthogonal_is_haar():
    keys = jax.random.split(jax.random.key(1), 4000)
    matrices = draws(elman(), schemes.orthogonal(), jnp.float64, keys, (1, 7))["recurrent_kernel"]
    np.testing.assert_allclose(np.linalg.svd(matrices, compute_uv=False), 1, rtol=1e-12)
    check_haar(matrices)
    # What the check is for: the factor of a bare QR has a trace below zero, and a fixed sign.
    bare = np.linalg.qr(np.random.default_rng(0).normal(size=(4000, 7, 7)))[0]
    with pytest.raises(AssertionError):
        check_haar(bare)


def test_gain_and_forget_bias_may_be_traced():
    """A sweep over gains, forget biases and seeds is one program, traced once."""
    traces = []

    @jax.jit
    def sweep(keys, gains, biases):
        def draw(key, gain, bias):
            traces.append(key)
            return lstm().init(key, D, H, scheme=schemes.orthogonal(gain, bias), dtype=jnp.float64)

        inner = jax.vmap(draw, (0, None, None))
        return jax.vmap(inner, (None, 0, 0))(keys, gains, biases)

    for gains in (jnp.array([0.5, 2.0]), jnp.array([1.0, 3.0])):
        params = sweep(KEYS[:3], gains, gains + 1)
        norms = jnp.linalg.norm(params["recurrent_kernel"], axis=(2, 3))
        np.testing.assert_allclose(norms, np.sqrt(4 * H) * gains[:, None] * np.ones((1, 3)))
        np.testing.assert_array_equal(
            params["bias"].reshape(2, 3, 4, H)[:, :, 1], np.tile(gains + 1, (H, 3, 1)).T
        )
    assert len(traces) == 1


def test_gaussian():
    params = draws(gru(), schemes.gaussian(gain=1.7))
    for block in gates(params["recurrent_kernel"]):
        # 64 draws of 256 numbers; the seed is fixed, and a deviation off by 2 % has p < 1e-3.
        assert stats.kstest(block.ravel() * np.sqrt(H) / 1.7, "norm").pvalue > 0.01
    fused = params["recurrent_kernel"].reshape(DRAWS, -1)
    assert abs(np.corrcoef(fused[:, :300], rowvar=False) - np.eye(300)).max() < 6 / np.sqrt(DRAWS)


def test_identity():
    params = draws(lstm(), schemes.identity(gain=0.5))
    for block in gates(params["recurrent_kernel"]):
        np.testing.assert_array_equal(block, np.tile(0.5 * np.eye(H), (DRAWS, 1, 1)))


STANDARD = {
    name: schemes.SCHEMES[name]
    for name in ("orthogonal", "gaussian", "identity", "spectral_radius", "sparse")
}
each_standard = pytest.mark.parametrize("name", STANDARD)


@each_standard
def test_standard_inputs_and_biases(name):
    """The kernel of all of them has the variance 1 / D of LeCun; only one gate has a bias."""
    params = draws(lstm(), STANDARD[name](forget_bias=3.0))
    assert params["kernel"].mean() == pytest.approx(0, abs=4 / np.sqrt(params["kernel"].size * D))
    assert params["kernel"].var() * D == pytest.approx(1, abs=0.02)  # 4 errors of 49152 numbers
    i, f, g, o = gates(params["bias"])
    assert (f == 3).all()
    assert not np.any([i, g, o])
    params = draws(gru(), STANDARD[name](forget_bias=3.0))
    r, z, n = gates(params["bias"])
    assert (z == 3).all()
    assert not np.any([r, n, params["recurrent_bias"]])


@each_standard
def test_a_forget_bias_needs_a_gate(name):
    scheme = STANDARD[name]
    with pytest.raises(ValueError, match=f"{name}.*forget bias.*elman_relu.*no gate"):
        elman("relu").init(KEYS[0], D, H, scheme=scheme(forget_bias=1.0))
    # A traced bias is not known to be zero.
    with pytest.raises(ValueError, match=f"{name}.*forget bias.*elman"):
        jax.jit(lambda b: elman().init(KEYS[0], D, H, scheme=scheme(forget_bias=b)))(0.0)
    assert not elman().init(KEYS[0], D, H, scheme=scheme(forget_bias=0.0))["bias"].any()


# ---- Given spectral radii ------------------------------------------------------------------------


def radii(matrices):
    return np.abs(np.linalg.eigvals(matrices)).max(axis=-1)


def check_normal(entries):
    """Normal up to a scale for every draw, by the draws' own root mean squares."""
    entries = entries.reshape(len(entries), -1)
    scales = np.sqrt((entries**2).mean(axis=1, keepdims=True))
    assert stats.kstest((entries / scales).ravel(), "norm").pvalue > 0.01


@pytest.mark.parametrize(
    "matrix",
    [
        [[-3.0]],
        [[0.6, -0.8], [0.8, 0.6]],  # two eigenvalues of one size
        [[0.95, 1.0], [0.0, 0.95]],  # defective: powers grow before they decay
        [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]],  # a cycle
        1e-30 * np.diag([1.0, -2.0]),  # a square that float32 does not hold
    ],
)
def test_largest_eigenvalue(matrix):
    matrix = np.array(matrix)
    exact = radii(matrix)
    # ln(k) / k of a defective matrix at the power k = 2**40 is 3e-11.
    np.testing.assert_allclose(largest_eigenvalue(jnp.asarray(matrix)), exact, rtol=1e-10)
    narrow = largest_eigenvalue(jnp.asarray(matrix, jnp.float32))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, exact, rtol=1e-5)


@pytest.mark.parametrize("name", ["spectral_radius", "sparse"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-10), (jnp.float32, 1e-5)])
def test_the_spectral_radius_of_every_gate_is_exact(name, dtype, tolerance):
    params = draws(gru(), schemes.SCHEMES[name](0.9), dtype)
    for block in gates(params["recurrent_kernel"]):
        np.testing.assert_allclose(radii(block), 0.9, rtol=tolerance)
        check_normal(block if name == "spectral_radius" else block[block != 0].reshape(DRAWS, -1))


@pytest.mark.parametrize("size", [1, 2, 40])
def test_the_spectral_radius_is_exact_at_any_size(size):
    params = draws(elman(), schemes.spectral_radius(2.5), jnp.float64, KEYS[:8], (1, size))
    np.testing.assert_allclose(radii(params["recurrent_kernel"]), 2.5, rtol=1e-10)


@pytest.mark.parametrize("name", ["spectral_radius", "sparse"])
def test_the_radius_may_be_traced(name):
    """A sweep is the same matrix, scaled."""

    def draw(key, radius):
        scheme = schemes.SCHEMES[name](radius)
        return gru().init(key, D, H, scheme=scheme, dtype=jnp.float64)["recurrent_kernel"]

    sweep = jax.jit(jax.vmap(jax.vmap(draw, (None, 0)), (0, None)))
    kernels = sweep(KEYS[:3], jnp.array([0.5, 1.0, 2.0], jnp.float32))
    one = np.stack([draw(key, 1.0) for key in KEYS[:3]])
    np.testing.assert_allclose(kernels, np.stack([one / 2, one, 2 * one], 1), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_sparse_connections_into_each_unit(dtype):
    kernels = draws(gru(), schemes.sparse(), dtype, sizes=(D, 24))["recurrent_kernel"]
    present = kernels.reshape(DRAWS, 24, 3, 24) != 0
    assert (present.sum(axis=1) == 15).all()  # over the source units: into each unit and gate
    out_of = present.sum(axis=3)
    assert out_of.mean() == 15
    # Out of a unit it is binomial with variance 24 p (1 - p) = 5.6, each of 4608 within 3 %.
    assert out_of.var() == pytest.approx(24 * (15 / 24) * (9 / 24), rel=0.1)


def test_sparse_connections_have_no_preferred_place():
    keys = jax.random.split(jax.random.key(3), 2000)
    present = draws(elman(), schemes.sparse(connections=3), keys=keys, sizes=(1, 8))
    share = (present["recurrent_kernel"] != 0).mean(axis=0)
    # 64 places, the diagonal among them, with p = 3 / 8 in 2000 draws.
    assert abs(share - 3 / 8).max() < 4 * np.sqrt(3 / 8 * 5 / 8 / 2000)


@pytest.mark.parametrize("connections", [1, H])
def test_sparse_number_of_connections(connections):
    params = draws(elman(), schemes.sparse(1.1, connections=connections), jnp.float64)
    kernels = params["recurrent_kernel"]
    assert ((kernels != 0).sum(axis=1) == connections).all()
    # A few long cycles: powers of the matrix decay far before they settle.
    np.testing.assert_allclose(radii(kernels), 1.1, rtol=1e-8)


def test_sparse_input_deviation():
    """The input kernel of the paper, N(0, 0.01^2), traced or not."""

    def kernel(key, deviation):
        scheme = schemes.sparse(input_deviation=deviation)
        return lstm().init(key, D, H, scheme=scheme, dtype=jnp.float32)["kernel"]

    kernels = jax.vmap(kernel, (0, None))(KEYS, 0.01)
    assert stats.kstest(np.ravel(kernels) / 0.01, "norm").pvalue > 0.01


def test_sparse_refuses():
    for connections, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"sparse: connections .*{connections}"):
            schemes.sparse(connections=connections)
    with pytest.raises(ValueError, match=r"sparse has 15 connections.*gru has only 14 units"):
        gru().init(KEYS[0], D, 14, scheme=schemes.sparse())


@pytest.mark.parametrize("name", ["identity", "spectral_radius", "sparse"])
def test_schemes_of_square_matrices(name):
    cell = lstm(projection=5)
    with pytest.raises(ValueError, match=f"{name} makes no sense.*lstm_projection5.*5 x {H}"):
        cell.init(KEYS[0], D, H, scheme=STANDARD[name]())


# ---- Chrono --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_chrono_biases(dtype):
    i, f, g, o = gates(draws(lstm(), schemes.chrono(50), dtype)["bias"])
    np.testing.assert_array_equal(i, -f)
    assert not np.any([g, o])
    assert f.min() >= 0
    assert f.max() <= np.log(49) * (1 + jnp.finfo(dtype).eps)
    if dtype != jnp.bfloat16:  # which rounds 1024 draws to 200 different numbers
        assert stats.kstest(np.exp(f).ravel(), stats.uniform(1, 48).cdf).pvalue > 0.01
        # The moments of ln u, u ~ U(1, m): E = m ln m / (m - 1) - 1, within four errors.
        m = 49
        mean = m * np.log(m) / (m - 1) - 1
        second = m * np.log(m) ** 2 / (m - 1) - 2 * mean
        deviation = np.sqrt(second - mean**2)
        assert f.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(f.size))
        assert f.std() == pytest.approx(deviation, rel=0.1)
    # Units, replicas: no two alike.
    assert len(np.unique(f)) > (100 if dtype == jnp.bfloat16 else 1000)


@pytest.mark.parametrize("cell", [gru(), mgu(), janet(), lstm(coupled=True)], ids=repr)
def test_chrono_without_a_separate_input_gate(cell):
    """Only the gate that keeps the state has a bias."""
    params = draws(cell, schemes.chrono(50))
    kept = 1 if cell is gru() else 0
    blocks = gates(params["bias"])
    keep = blocks.pop(kept)
    assert stats.kstest(np.exp(keep).ravel(), stats.uniform(1, 48).cdf).pvalue > 0.01
    assert not np.any(blocks)


def test_chrono_remembers_up_to_the_longest_lag():
    """1 / (1 - f) without input, the time constant of the gate, spreads over (2, max_lag)."""
    _, f, _, _ = gates(draws(lstm(), schemes.chrono(200), jnp.float64)["bias"])
    times = 1 / (1 - 1 / (1 + np.exp(-f)))
    assert 2 <= times.min() < 4
    assert 196 < times.max() <= 200


def test_chrono_changes_nothing_else_of_its_base():
    for base in (schemes.orthogonal(1.7), schemes.torch(), schemes.keras()):
        ours, theirs = (
            draws(lstm(), scheme, keys=KEYS[:2]) for scheme in (schemes.chrono(9, base), base)
        )
        np.testing.assert_array_equal(ours["kernel"], theirs["kernel"])
        np.testing.assert_array_equal(ours["recurrent_kernel"], theirs["recurrent_kernel"])
        i, f, g, o = gates(ours["bias"])
        np.testing.assert_array_equal(i, -f)
        assert (f >= 0).all()
        assert np.all([g, o]) == (base.name == "torch")
        assert np.any([g, o]) == (base.name == "torch")


def test_chrono_lag_may_be_traced():
    def bias(key, lag):
        scheme = schemes.chrono(lag)
        return lstm().init(key, D, H, scheme=scheme, dtype=jnp.float32)["bias"]

    lags = jnp.array([2, 10, 1000])
    swept = jax.jit(jax.vmap(bias, (None, 0)))(KEYS[0], lags)
    each = np.stack([bias(KEYS[0], int(lag)) for lag in lags])
    np.testing.assert_allclose(swept, each, rtol=1e-6, atol=1e-7)
    assert not swept[0].any()  # max_lag = 2 leaves nothing to choose: f = 1/2
    assert len(np.unique(swept[2])) == 2 * H + 1  # the zeros of g and o


def test_chrono_refuses():
    for lag in (1, 1.9, 0, -5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"chrono: max_lag .*{lag}"):
            schemes.chrono(lag)
    with pytest.raises(TypeError, match=r"chrono: base .*1\.0"):
        schemes.chrono(10, 1.0)
    for cell in (elman(), mgu(form="paper")):
        with pytest.raises(ValueError, match=f"chrono .*the cell {cell.name} has none"):
            cell.init(KEYS[0], D, H, scheme=schemes.chrono(10))


# ---- Critical gains ------------------------------------------------------------------------------

CRITICAL = [
    elman(),
    elman("identity"),
    lstm(),
    lstm(peephole=True),
    lstm(coupled=True),
    lstm(peephole=True, coupled=True),
    gru(),
    gru("before"),
    mgu(),
    mgu(reset_gate=False),
    mgu(form="paper"),
    mgu(form="paper", reset_gate=False),
    ugrnn(),
    janet(),
    janet(0.5),
]


def radius_at_origin(cell, scheme, size, key=KEYS[0]):
    """Of the Jacobian of one step from the zero state without input, by autodiff."""
    params = cell.init(key, 1, size, scheme=scheme, dtype=jnp.float64)
    flat, restore = ravel_pytree(cell.initial_state(params))
    assert not flat.any()

    def step(state):
        return ravel_pytree(cell(params, restore(state), jnp.zeros(1))[0])[0]

    return radii(jax.jacfwd(step)(flat))


def forget_biases(cell):
    return (0.0,) if cell.name.startswith(("elman", "mgu_paper")) else (0.0, 1.5)


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=() if cell in (elman(), lstm(), gru()) else pytest.mark.slow)
        for cell in CRITICAL
    ],
    ids=repr,
)
def test_critical_at_the_origin(cell):
    """The spectral radius is 1: exactly with the identity, by the circular law with Gaussians."""
    for bias in forget_biases(cell):
        with_identity = schemes.critical(forget_bias=bias, ensemble=schemes.identity)
        assert radius_at_origin(cell, with_identity, 5) == pytest.approx(1, rel=1e-12)
        scheme = schemes.critical(forget_bias=bias, ensemble=schemes.orthogonal)
        below = radius_at_origin(cell, scheme, 64)
        assert 0.99 < below < 1 + 1e-12
        if cell.name.startswith("elman"):
            assert below == pytest.approx(1, rel=1e-12)
        # Single matrices of 100 units reach 1 within a tenth.
        scheme = schemes.critical(forget_bias=bias)
        assert radius_at_origin(cell, scheme, 100) == pytest.approx(1, abs=0.1)
        params = cell.init(KEYS[0], 1, 5, scheme=with_identity, dtype=jnp.float64)
        gain = params["recurrent_kernel"][0, 0]
        wide = cell.init(KEYS[0], 1, 100, scheme=scheme, dtype=jnp.float64)["recurrent_kernel"]
        assert wide.std() * 10 == pytest.approx(gain, rel=4 / np.sqrt(2 * wide.size))


@pytest.mark.parametrize(
    ("bias", "gain"), [(0, 2), (1, 1.0758), (2, 0.4768), (3, 0.1897), (5, 0.0268)]
)
def test_critical_gain_of_the_lstm(bias, gain):
    """(1 - f) / (o i), also from a traced bias."""

    def draw(bias):
        scheme = schemes.critical(forget_bias=bias, ensemble=schemes.identity)
        return lstm().init(KEYS[0], D, H, scheme=scheme, dtype=jnp.float32)["recurrent_kernel"]

    assert draw(bias)[0, 0] == pytest.approx(gain, abs=5e-5)
    swept = jax.vmap(draw)(jnp.array([bias, bias], jnp.float32))
    np.testing.assert_allclose(swept[1], draw(bias), rtol=1e-6)


def vanilla_gain(variance, dtype=jnp.float64):
    scheme = schemes.critical(variance, ensemble=schemes.identity)
    params = elman().init(KEYS[0], D, H, scheme=scheme, dtype=dtype)
    return params["recurrent_kernel"][0, 0]


@pytest.mark.parametrize("variance", [1e-4, 0.25, 1.0, 1e4])
def test_critical_vanilla_network_has_chi_1(variance):
    _, chi = theory.vanilla_mean_field(vanilla_gain(variance), variance)
    assert float(chi) == pytest.approx(1, rel=1e-10)
    with jax.enable_x64(False):
        narrow = vanilla_gain(variance, jnp.float32)
    assert float(narrow) == pytest.approx(float(vanilla_gain(variance)), rel=1e-5)


def test_critical_vanilla_gain_by_adaptive_quadrature():
    def mean(function, q):
        integrand = lambda z: function(np.sqrt(q) * z) * stats.norm.pdf(z)
        return integrate.quad(integrand, -10, 10, epsabs=1e-12)[0]

    def excess(q):
        slope = mean(lambda u: np.cosh(u) ** -4, q)
        return mean(lambda u: np.tanh(u) ** 2, q) / slope + 0.25 - q

    q = optimize.brentq(excess, 0.25, 5, xtol=1e-12)
    expected = mean(lambda u: np.cosh(u) ** -4, q) ** -0.5
    assert float(vanilla_gain(0.25)) == pytest.approx(expected, rel=1e-9)


def test_critical_input_variance_may_be_traced():
    variances = jnp.array([0.0, 0.25, 1.0])
    swept = jax.jit(jax.vmap(vanilla_gain))(variances)
    np.testing.assert_allclose(swept, [vanilla_gain(float(v)) for v in variances], rtol=1e-12)
    assert swept[0] == 1  # the onset of chaos without input
    assert (np.diff(swept) > 0.1).all()  # saturation has to be made up for


def test_critical_gain_of_a_cell_of_ones_own():
    """h = f h + (1 - f) tanh(2 U h): the largest eigenvalue at the origin is f + 2 (1 - f) mu."""

    @gated_cell(
        ("forget", "candidate"), keep="forget", critical_gain=lambda b: 0.5 * jnp.ones_like(b)
    )
    def doubled(params, state, drive):
        a_f, a_n = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 2)
        f = jax.nn.sigmoid(a_f)
        return HiddenState(f * state.hidden + (1 - f) * jnp.tanh(2 * a_n))

    for bias in (-1.0, 3.0):
        scheme = schemes.critical(forget_bias=bias, ensemble=schemes.identity)
        assert radius_at_origin(doubled, scheme, 5) == pytest.approx(1, rel=1e-12)


def namesake():
    def identity(x):
        return jnp.maximum(x, 0)

    @gated_cell(2, name="mgu", keep=0, recurrent_bias=1)
    def other(params, state, drive):
        return HiddenState(jnp.tanh(drive[: state.hidden.size]))

    return elman(identity), other


NAMESAKES = namesake()


def test_critical_refuses():
    assert [cell.name for cell in NAMESAKES] == ["elman_identity", "mgu"]
    with pytest.raises(ValueError, match=r"critical: input_variance .*-1\.0"):
        schemes.critical(-1.0)
    unknown = elman("relu"), elman(residual=True), lstm(layer_norm=True), lstm(projection=3)
    for cell in (*unknown, *NAMESAKES):  # it is not the name that tells a cell
        message = f"critical makes no sense for the cell {cell.name}, .* without a critical_gain"
        with pytest.raises(ValueError, match=message):
            cell.init(KEYS[0], D, H, scheme=schemes.critical())
    with pytest.raises(ValueError, match=r"critical .*the cell lstm without input.*0\.5"):
        lstm().init(KEYS[0], D, H, scheme=schemes.critical(0.5))
    with pytest.raises(ValueError, match=r"critical .*the cell mgu_paper without input"):
        jax.jit(lambda v: mgu(form="paper").init(KEYS[0], D, H, scheme=schemes.critical(v)))(0.0)
    with pytest.raises(ValueError, match="critical has a forget bias, but the cell elman"):
        elman().init(KEYS[0], D, H, scheme=schemes.critical(forget_bias=1.0))
    # What the ensemble refuses.
    scheme = schemes.critical(ensemble=schemes.sparse)
    with pytest.raises(ValueError, match="sparse has 15 connections"):
        gru().init(KEYS[0], D, 14, scheme=scheme)


# ---- What every scheme has in common ------------------------------------------------------------

CHRONO = {"chrono": schemes.chrono(20)}
EVERY = CHRONO | {
    name: make()
    for name, make in {**schemes.SCHEMES, **schemes.PRESETS}.items()
    if name not in CHRONO
}


@pytest.mark.parametrize("registry", [schemes.SCHEMES, schemes.PRESETS], ids=["SCHEMES", "PRESETS"])
def test_registries_know_schemes_by_their_names(registry):
    for name, factory in registry.items():
        assert factory is getattr(schemes, name)
        assert name in schemes.__all__
        assert EVERY[name].name == name


@pytest.mark.parametrize("cell", [gru(), antisymmetric(), rhn(), lru()], ids=repr)
def test_a_dtype_that_is_not_floating(cell):
    for dtype in (jnp.int32, jnp.complex64, bool, "int8", "nothing"):
        with pytest.raises(ValueError, match=f"{cell.name}: dtype must be a floating-point dtype"):
            cell.init(KEYS[0], D, H, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *((name, "gain") for name in ("orthogonal", "gaussian", "identity")),
        *((name, "radius") for name in ("spectral_radius", "sparse")),
        *((name, "forget_bias") for name in (*STANDARD, "critical")),
        ("critical", "input_variance"),
        ("chrono", "max_lag"),
    ],
)
def test_numbers_that_are_none(name, argument):
    for bad in (np.nan, np.inf, "1.0", 1j, True, None, [3.0, np.nan]):
        with pytest.raises(ValueError, match=f"^{name}: {argument} must be a finite number"):
            schemes.SCHEMES[name](**{argument: bad})


@pytest.mark.parametrize(
    ("name", "argument"),
    [("spectral_radius", "radius"), ("sparse", "radius"), ("sparse", "input_deviation")],
)
def test_numbers_below_zero(name, argument):
    with pytest.raises(ValueError, match=f"^{name}: {argument} must be .* of at least 0, got -1"):
        schemes.SCHEMES[name](**{argument: -1})
    traced = lambda number: len(schemes.SCHEMES[name](**{argument: number}).name)
    assert jax.jit(traced)(-1.0) == len(name)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_dtypes(name, dtype):
    for cell, count in ((elman(), 1), (lstm(), 4), (gru("after"), 3), (gru("before"), 3)):
        if cell is elman() and name in CHRONO:
            continue  # it has no gate to keep its state
        shapes = {"kernel": (D, count * H), "recurrent_kernel": (H, count * H)}
        shapes |= {"bias": (count * H,)}
        if cell is gru("after"):
            shapes |= {"recurrent_bias": (H,)}
        params = jax.eval_shape(
            lambda cell=cell: cell.init(KEYS[0], D, H, scheme=EVERY[name], dtype=dtype)
        )
        assert {part: leaf.shape for part, leaf in params.items()} == shapes
        assert {leaf.dtype for leaf in params.values()} == {jnp.dtype(dtype)}


def test_the_default_is_orthogonal_in_the_default_dtype():
    params = lstm().init(KEYS[0], D, H)
    expected = lstm().init(KEYS[0], D, H, scheme=schemes.orthogonal(), dtype=jnp.float64)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    with jax.enable_x64(False):
        narrow = jax.eval_shape(lambda: lstm().init(KEYS[0], D, H))
    assert {leaf.dtype for leaf in narrow.values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("cell", [factory() for factory in CELLS.values()], ids=CELLS)
def test_bad_init(cell):
    for name, sizes in {"input_size": (0, H), "hidden_size": (D, -1)}.items():
        with pytest.raises(ValueError, match=f"{cell.name}: {name} .*at least 1, got {min(sizes)}"):
            cell.init(KEYS[0], *sizes)
    for size in (2.5, True, None, "3"):
        with pytest.raises((TypeError, ValueError), match=f"{cell.name}: hidden_size .*{size!r}"):
            cell.init(KEYS[0], D, size)
    for scheme in (schemes.orthogonal, "orthogonal"):
        with pytest.raises(TypeError, match=f"{cell.name}: scheme must be .* got"):
            cell.init(KEYS[0], D, H, scheme=scheme)


def test_sizes_may_be_numpy_integers():
    assert elman().init(KEYS[0], np.int64(D), np.int32(H))["kernel"].shape == (D, H)


# ---- The presets beside the libraries -----------------------------------------------------------


def stacked(make):
    """The NumPy arrays of `DRAWS` objects that a library builds one by one."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(make, range(DRAWS)))


def transposed(array):
    return np.swapaxes(array, 1, 2)


def from_linen(kind):
    cell = {
        "elman": linen.SimpleCell(H),
        "lstm": linen.LSTMCell(H),
        "gru": linen.GRUCell(H),
        "mgu": linen.MGUCell(H),
        "mgu_no_reset": linen.MGUCell(H, reset_gate=False),
    }[kind]
    x = jnp.zeros(D, jnp.float32)

    def make(key):
        return cell.init(key, cell.initialize_carry(key, (D,)), x)["params"]

    tree = jax.vmap(make)(KEYS)
    order = {"elman": [""], "lstm": "ifgo", "gru": "rzn"}.get(kind, "fn")
    zero = jnp.zeros((DRAWS, H), jnp.float32)
    into, out_of = ("i", "h")

    def part(side, leaf):
        return [tree[side + gate].get(leaf, zero) for gate in order]

    biases = [a + b for a, b in zip(part(into, "bias"), part(out_of, "bias"), strict=True)]
    params = {}
    if kind in ("gru", "mgu"):
        biases[-1], params["recurrent_bias"] = tree["in"]["bias"], tree["hn"]["bias"]
    return params | {
        "kernel": jnp.concatenate(part(into, "kernel"), -1),
        "recurrent_kernel": jnp.concatenate(part(out_of, "kernel"), -1),
        "bias": jnp.concatenate(biases, -1),
    }


def from_nnx(kind):
    make = {"elman": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}[kind]
    tree = jax.vmap(lambda key: nnx.state(make(D, H, rngs=nnx.Rngs(key)), nnx.Param))(KEYS)
    into, out_of = tree["dense_i"], tree["dense_h"]
    params = {
        "kernel": into["kernel"].get_value(),
        "recurrent_kernel": out_of["kernel"].get_value(),
        "bias": sum(side["bias"].get_value() for side in (into, out_of) if "bias" in side),
    }
    return params | ({"recurrent_bias": np.zeros((DRAWS, H))} if kind == "gru" else {})


def from_keras(kind):
    layers = keras.layers
    make = {
        "elman": layers.SimpleRNNCell,
        "lstm": layers.LSTMCell,
        "gru": layers.GRUCell,
        "gru_before": functools.partial(layers.GRUCell, reset_after=False),
    }[kind]

    def build(seed):
        keras.utils.set_random_seed(seed)
        cell = make(H)
        cell.build((None, D))
        return {weight.name: np.asarray(weight.value) for weight in cell.weights}

    params = stacked(build)
    if kind.startswith("gru"):  # z, r, h
        swap = np.concatenate([np.arange(H, 2 * H), np.arange(H), np.arange(2 * H, 3 * H)])
        params = {name: value[..., swap] for name, value in params.items()}
    if kind == "gru":  # one row of biases for either side
        into, out_of = params["bias"][:, 0], params["bias"][:, 1]
        params["recurrent_bias"] = out_of[:, 2 * H :].copy()
        out_of[:, 2 * H :] = 0
        params["bias"] = into + out_of
    return params


def from_torch(kind):
    nn = torch.nn
    make = {
        "elman": nn.RNNCell,
        "lstm": nn.LSTMCell,
        "gru": nn.GRUCell,
        "lstm_projection": functools.partial(nn.LSTM, proj_size=P),
    }[kind]

    def build(seed):
        torch.manual_seed(seed)
        named = make(D, H).named_parameters()
        return {name.removesuffix("_l0"): value.detach().numpy() for name, value in named}

    tree = stacked(build)
    params = {"kernel": transposed(tree["weight_ih"])}
    params["recurrent_kernel"] = transposed(tree["weight_hh"])
    if kind == "lstm_projection":
        params["projection_kernel"] = transposed(tree["weight_hr"])
    if kind == "gru":
        params["recurrent_bias"] = tree["bias_hh"][:, 2 * H :].copy()
        tree["bias_hh"][:, 2 * H :] = 0
    return params | {"bias": tree["bias_ih"] + tree["bias_hh"]}


def from_haiku(kind):
    make = {"elman": haiku.VanillaRNN, "lstm": haiku.LSTM, "gru_before": haiku.GRU}[kind]

    def run(x):
        core = make(H, name="core")
        return core(x, core.initial_state(None))

    x = jnp.zeros(D, jnp.float32)
    tree = jax.vmap(lambda key: haiku.transform(run).init(key, x))(KEYS)
    tree = {f"{module}/{name}": v for module, leaves in tree.items() for name, v in leaves.items()}
    if kind == "elman":
        return {
            "kernel": tree["core/linear/w"],
            "recurrent_kernel": tree["core/linear_1/w"],
            "bias": tree["core/linear/b"] + tree["core/linear_1/b"],
        }
    if kind == "gru_before":  # z, r, a, all drawn alike
        return {
            "kernel": tree["core/w_i"],
            "recurrent_kernel": tree["core/w_h"],
            "bias": tree["core/b"],
        }
    i, g, f, o = np.split(tree["core/linear/w"], 4, -1)
    joint = np.concatenate([i, f, g, o], -1)
    b_i, b_g, b_f, b_o = np.split(tree["core/linear/b"], 4, -1)
    return {
        "kernel": joint[:, :D],
        "recurrent_kernel": joint[:, D:],
        "bias": np.concatenate([b_i, b_f + 1, b_g, b_o], -1),  # its forward pass adds 1 to f
    }


def from_equinox(kind):
    make = {"lstm": equinox.nn.LSTMCell, "gru": equinox.nn.GRUCell}[kind]

    def build(key):
        return equinox.filter(make(D, H, key=key, dtype=jnp.float32), equinox.is_array)

    tree = jax.vmap(build)(KEYS)
    params = {"kernel": transposed(tree.weight_ih), "recurrent_kernel": transposed(tree.weight_hh)}
    params |= {"bias": tree.bias}
    return params | ({"recurrent_bias": tree.bias_n} if kind == "gru" else {})


LIBRARIES = {
    "flax_linen": from_linen,
    "flax_nnx": from_nnx,
    "keras": from_keras,
    "torch": from_torch,
    "haiku": from_haiku,
    "equinox": from_equinox,
}


def check_same_distribution(ours, theirs, what):
    """Of the entries of one gate, in 64 draws from either source.

    Seeds are fixed, so this is one throw of about 150 comparisons, each of which goes wrong by
    chance less than once in 100 000. Kernels have n = 12 288 or 16 384 entries, biases 1024.
    """
    assert ours.shape == theirs.shape, what
    if np.ptp(theirs) == 0:
        np.testing.assert_array_equal(ours, theirs, what)
        return
    # Scale and place, within five standard errors: 4 % for a kernel, 16 % for a bias. A sum of two
    # draws in place of one is 41 % too wide, an uncorrected truncation 12 % too narrow.
    n = ours.size
    assert abs(ours.std() / theirs.std() - 1) < 5 / np.sqrt(n), what
    assert abs(ours.mean() - theirs.mean()) < 5 * theirs.std() * np.sqrt(2 / n), what
    # Shape: a normal distribution for a uniform one gives 1e-17 for a kernel.
    assert stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > 1e-5, what
    # Ends: without truncation they would lie nearly twice as far out. The largest entry of
    # orthogonal matrices is itself random by some 10 %.
    np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.25, err_msg=what)


def check_same_singular_values(ours, theirs, what):
    """Means over the draws, each within five standard errors; orthogonal ones exactly."""
    a, b = (np.linalg.svd(array, compute_uv=False) for array in (ours, theirs))
    error = np.sqrt((a.var(0) + b.var(0)) / DRAWS)
    np.testing.assert_array_less(np.abs(a.mean(0) - b.mean(0)), 5 * error + 1e-5, what)


slow = pytest.mark.slow
THEIR_CELLS = {
    "flax_linen": ("elman", "lstm", "gru", "mgu", "mgu_no_reset"),
    "flax_nnx": ("elman", "lstm", "gru"),
    "keras": ("elman", "lstm", "gru", "gru_before"),
    "torch": ("elman", "lstm", "gru", "lstm_projection"),
    "haiku": ("elman", "lstm", "gru_before"),
    "equinox": ("lstm", "gru"),
}
"""The cells with packed kernels that a library has too."""
OURS: dict[str, Cell] = {
    "elman": elman(),
    "lstm": lstm(),
    "gru": gru(),
    "gru_before": gru("before"),
    "mgu": mgu(),
    "mgu_no_reset": mgu(reset_gate=False),
    "lstm_projection": lstm(projection=P),
}
COMPARED = [
    pytest.param(library, kind, marks=slow if kind not in ("lstm", "mgu") else ())
    for library, kinds in THEIR_CELLS.items()
    for kind in kinds
]


@pytest.mark.parametrize(("library", "kind"), COMPARED)
def test_preset(library, kind):
    ours = draws(OURS[kind], schemes.PRESETS[library]())
    # Other libraries count on JAX's own promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = LIBRARIES[library](kind)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        array = np.asarray(array, np.float64)
        whole = name == "projection_kernel"
        blocks = (
            [(ours[name], array)] if whole else [*zip(gates(ours[name]), gates(array), strict=True)]
        )
        for gate, pair in enumerate(blocks):
            check_same_distribution(*pair, f"{name}, gate {gate}")
        if "kernel" in name:
            check_same_singular_values(ours[name], array, f"{name}, fused")
            for gate, pair in enumerate(blocks):
                check_same_singular_values(*pair, f"{name}, gate {gate}")


# ---- The presets of cells that a library does not have -------------------------------------------


def forget_bias_of(cell, library):
    """The bias of the first gate of an MGU or its like; all others are zero."""
    first, *others = gates(draws(cell, schemes.PRESETS[library](), keys=KEYS[:1])["bias"])
    assert not np.any(others)
    (value,) = np.unique(first)
    return value


@pytest.mark.parametrize(
    ("library", "of_lstm", "of_mgu"), [("flax_linen", 0, 1), ("flax_nnx", 0, 0), ("keras", 1, 1)]
)
def test_forget_biases_by_kind(library, of_lstm, of_mgu):
    assert forget_bias_of(lstm(coupled=True), library) == of_lstm
    assert forget_bias_of(mgu(), library) == of_mgu
    assert forget_bias_of(janet(), library) == of_mgu
    # An update gate is none, nor is a gate that lets in.
    assert forget_bias_of(ugrnn(), library) == 0
    assert forget_bias_of(mgu(form="paper"), library) == 0
    _, forget, _, _ = gates(
        draws(lstm(peephole=True), schemes.PRESETS[library](), keys=KEYS[:1])["bias"]
    )
    assert (forget == of_lstm).all()


@pytest.mark.parametrize(
    ("cell", "scale"),
    [
        # The joint fan-in of hk.Linear, cut at two deviations without restoring the variance.
        (lstm(coupled=True), 0.8796 * np.sqrt(H / (D + H))),
        (lstm(peephole=True), 0.8796 * np.sqrt(H / (D + H))),
        (elman("relu"), 0.8796),
        # hk.GRU restores it.
        (ugrnn(), 1.0),
        (mgu(form="paper"), 1.0),
    ],
    ids=repr,
)
def test_haiku_kernels_by_kind(cell, scale):
    kernel = draws(cell, schemes.haiku())["recurrent_kernel"]
    # The variance of a truncated normal's square is below that of a normal's, 2.
    assert kernel.std() * np.sqrt(H) == pytest.approx(scale, rel=4 / np.sqrt(2 * kernel.size))


def test_orthogonal_draws_are_factorised_one_after_another():
    """Two devices that are cores, each with a batch of factorisations, would wait for ever."""

    def factorised(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("geqrf", "householder_product", "qr"):
                yield equation.invars[0].aval.ndim
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from factorised(inner)

    draw = lambda key: lstm().init(key, D, H, scheme=schemes.orthogonal())
    ranks = list(factorised(jax.make_jaxpr(jax.vmap(draw))(KEYS).jaxpr))
    assert ranks
    assert set(ranks) == {2}
