"""Initialisation: the schemes by their definitions, the presets beside the libraries themselves."""

import equinox
import haiku
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from scipy import stats

from rnn_jax import CELLS, elman, gru, lstm, schemes

D, H = 12, 16
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
    "orthogonal": schemes.orthogonal,
    "gaussian": schemes.gaussian,
    "identity": schemes.identity,
}
each_standard = pytest.mark.parametrize("name", STANDARD)


@each_standard
def test_standard_inputs_and_biases(name):
    """The kernel of all three has the variance 1 / D of LeCun; only one gate has a bias."""
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


# ---- What every scheme has in common ------------------------------------------------------------

EVERY = {name: make() for name, make in STANDARD.items()} | {
    name: make() for name, make in schemes.PRESETS.items()
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_dtypes(name, dtype):
    for cell, count in ((elman(), 1), (lstm(), 4), (gru("after"), 3), (gru("before"), 3)):
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
    cell = {"elman": linen.SimpleCell, "lstm": linen.LSTMCell, "gru": linen.GRUCell}[kind](H)
    x = jnp.zeros(D, jnp.float32)

    def make(key):
        return cell.init(key, cell.initialize_carry(key, (D,)), x)["params"]

    tree = jax.vmap(make)(KEYS)
    order = {"elman": [""], "lstm": "ifgo", "gru": "rzn"}[kind]
    zero = jnp.zeros((DRAWS, H), jnp.float32)
    into, out_of = ("i", "h")

    def part(side, leaf):
        return [tree[side + gate].get(leaf, zero) for gate in order]

    biases = [a + b for a, b in zip(part(into, "bias"), part(out_of, "bias"), strict=True)]
    params = {}
    if kind == "gru":
        biases[2], params["recurrent_bias"] = tree["in"]["bias"], tree["hn"]["bias"]
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
    make = {"elman": layers.SimpleRNNCell, "lstm": layers.LSTMCell, "gru": layers.GRUCell}[kind]

    def build(seed):
        keras.utils.set_random_seed(seed)
        cell = make(H)
        cell.build((None, D))
        return {weight.name: np.asarray(weight.value) for weight in cell.weights}

    params = stacked(build)
    if kind == "gru":  # z, r, h; one row of biases for either side
        swap = np.concatenate([np.arange(H, 2 * H), np.arange(H), np.arange(2 * H, 3 * H)])
        params = {name: value[..., swap] for name, value in params.items()}
        into, out_of = params["bias"][:, 0], params["bias"][:, 1]
        params["recurrent_bias"] = out_of[:, 2 * H :].copy()
        out_of[:, 2 * H :] = 0
        params["bias"] = into + out_of
    return params


def from_torch(kind):
    nn = torch.nn
    make = {"elman": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind]

    def build(seed):
        torch.manual_seed(seed)
        return {name: value.detach().numpy() for name, value in make(D, H).named_parameters()}

    tree = stacked(build)
    params = {"kernel": transposed(tree["weight_ih"])}
    params["recurrent_kernel"] = transposed(tree["weight_hh"])
    if kind == "gru":
        params["recurrent_bias"] = tree["bias_hh"][:, 2 * H :].copy()
        tree["bias_hh"][:, 2 * H :] = 0
    return params | {"bias": tree["bias_ih"] + tree["bias_hh"]}


def from_haiku(kind):
    make = {"elman": haiku.VanillaRNN, "lstm": haiku.LSTM, "gru": haiku.GRU}[kind]

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
    if kind == "gru":  # z, r, a, all drawn alike
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
COMPARED = [
    pytest.param(library, kind, marks=slow if kind != "lstm" else ())
    for library in LIBRARIES
    for kind in ("elman", "lstm", "gru")
    if (library, kind) != ("equinox", "elman")  # it has none
]


@pytest.mark.parametrize(("library", "kind"), COMPARED)
def test_preset(library, kind):
    cell = gru("before") if (library, kind) == ("haiku", "gru") else CELLS[kind]()
    ours = draws(cell, schemes.PRESETS[library]())
    # Other libraries count on JAX's own promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = LIBRARIES[library](kind)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        array = np.asarray(array, np.float64)
        blocks = list(zip(gates(ours[name]), gates(array), strict=True))
        for gate, pair in enumerate(blocks):
            check_same_distribution(*pair, f"{name}, gate {gate}")
        if "kernel" in name:
            check_same_singular_values(ours[name], array, f"{name}, fused")
            for gate, pair in enumerate(blocks):
                check_same_singular_values(*pair, f"{name}, gate {gate}")
