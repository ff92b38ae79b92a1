"""What is special to the LSTM's relatives: limits, peers, and exponentials that do not overflow."""

import functools

import contract
import haiku
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen
from reference import sequence
from reference_lstm import (
    CASE_OPTIONS,
    LSTM_OPTIONS,
    OPTIONS,
    REFERENCES,
    lstm_name,
    mlstm,
    mlstm_parallel,
    mlstm_unstabilised,
    slstm_step,
    slstm_unstabilised,
)
from scipy import stats

from rnn_jax import cells, lstm, schemes, unroll
from rnn_jax.cells import LSTMState, SLSTMState, convlstm, slstm

# Minutes together; the contract is the quick test of what is here.
pytestmark = pytest.mark.slow

T, D, H, P = 12, 3, 6, 4

# The same arithmetic in another order, a dozen steps of it, on numbers of size one.
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


def normal(*shape, seed=0, scale=1.0, dtype=jnp.float64):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), dtype)


def draw(cell, scale=0.5, dtype=jnp.float64, hidden_size=H):
    """Every parameter normal: no bias is zero, no gain is one."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, hidden_size))
    leaves, tree = jax.tree.flatten(shapes)
    leaves = [
        normal(*leaf.shape, seed=i, scale=scale, dtype=dtype) for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, leaves)


def outputs(cell, params, xs, **options):
    return unroll(cell, params, xs, **options)[1].outputs


def outputs_and_gradients(run, *args):
    """The outputs of ``run``, and the gradients of a random functional of them."""
    value, vjp = jax.vjp(run, *args)
    return value, vjp(normal(*value.shape, seed=99, dtype=value.dtype))


# ---- Options of the LSTM ------------------------------------------------------------------------


def test_projection_is_that_of_torch():
    """Values and gradients, float64."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(D, H, proj_size=P, dtype=torch.float64)
    given = torch.randn(T, D, dtype=torch.float64, requires_grad=True)
    first = [torch.randn(1, n, dtype=torch.float64, requires_grad=True) for n in (P, H)]
    theirs, ends = module(given, tuple(first))
    array = lambda tensor: jnp.asarray(tensor.detach().numpy())
    weights = torch.randn(T, P, dtype=torch.float64), *(torch.randn_like(end) for end in ends)
    sum((a * w).sum() for a, w in zip((theirs, *ends), weights, strict=True)).backward()

    w_ih, w_hh, b_ih, b_hh, w_hr = module.parameters()
    params = {
        "kernel": array(w_ih).T,
        "recurrent_kernel": array(w_hh).T,
        "bias": array(b_ih) + array(b_hh),
        "projection_kernel": array(w_hr).T,
    }

    def run(params, state, xs):
        end, trajectory = unroll(lstm(projection=P), params, xs, state=state)
        return trajectory.outputs, end

    state = LSTMState(*(array(part)[0] for part in first))
    (mine, end), vjp = jax.vjp(run, params, state, array(given))
    by_params, by_state, by_xs = vjp(
        (array(weights[0]), LSTMState(*(array(w)[0] for w in weights[1:])))
    )
    close(mine, array(theirs))
    for part, expected in zip(end, ends, strict=True):
        close(part, array(expected)[0])
    for part, tensor in zip(by_state, first, strict=True):
        close(part, array(tensor.grad)[0])
    close(by_xs, array(given.grad))
    for name, tensor in zip(params, (w_ih, w_hh, b_ih, w_hr), strict=True):
        close(by_params[name], array(tensor.grad).T, err_msg=name)


def test_projection_starts_like_torch():
    """All of it, the projection too, uniform in +-1 / sqrt(H)."""
    torch.manual_seed(0)
    w_ih, w_hh, _, _, w_hr = torch.nn.LSTM(32, 64, proj_size=16).parameters()
    theirs = {"kernel": w_ih, "recurrent_kernel": w_hh, "projection_kernel": w_hr}
    mine = lstm(projection=16).init(jax.random.key(0), 32, 64, scheme=schemes.torch())
    for name, weight in theirs.items():
        expected = weight.detach().numpy().T
        assert mine[name].shape == expected.shape
        assert stats.ks_2samp(np.ravel(mine[name]), expected.ravel()).pvalue > 1e-3, name
        assert np.abs(mine[name]).max() <= 1 / 8


def test_schemes_know_the_size_of_what_is_fed_back():
    cell = lstm(projection=P)
    kernel = cell.init(jax.random.key(0), D, H, scheme=schemes.orthogonal(1.5))["recurrent_kernel"]
    for block in np.split(np.asarray(kernel), 4, axis=1):
        close(block @ block.T, 1.5**2 * np.eye(P), atol=1e-9)
    many = jax.vmap(
        lambda key: cell.init(key, D, H, scheme=schemes.gaussian())["recurrent_kernel"]
    )(jax.random.split(jax.random.key(0), 200))
    # 19 200 numbers: the relative error of their variance is sqrt(2 / 19 200) = 0.01.
    assert np.var(many) == pytest.approx(1 / P, rel=0.05)
    with pytest.raises(ValueError, match=r"identity .* lstm_projection4, .* 4 x 6"):
        cell.init(jax.random.key(0), D, H, scheme=schemes.identity())


@pytest.mark.parametrize("preset", schemes.PRESETS)
def test_presets_treat_every_form_as_an_lstm(preset):
    """The forget bias of a library stands where the cell keeps its state."""
    scheme = schemes.PRESETS[preset]()
    plain = lstm().init(jax.random.key(0), D, H, scheme=scheme)
    for options in LSTM_OPTIONS:
        params = lstm(**options).init(jax.random.key(0), D, H, scheme=scheme)
        forget = params["bias"].reshape(-1, H)[0 if options["coupled"] else 1]
        rows = options["projection"] or H
        assert params["recurrent_kernel"].shape[0] == rows
        if preset in ("keras", "haiku"):
            close(forget, 1.0)
        elif preset in ("flax_linen", "flax_nnx"):
            close(forget, 0.0)
        else:
            assert np.ptp(forget) > 0
        if not options["coupled"]:
            np.testing.assert_array_equal(params["bias"], plain["bias"])


def test_options_that_do_nothing_leave_the_plain_cell():
    """Peepholes of zero, a projection by the identity; gates that are tied by their weights."""
    params, xs = draw(lstm()), normal(T, D, seed=5)
    plain = outputs(lstm(), params, xs)
    closed = params | {"peephole": jnp.zeros(3 * H)}
    np.testing.assert_array_equal(outputs(lstm(peephole=True), closed, xs), plain)
    through = params | {"projection_kernel": jnp.eye(H)}
    np.testing.assert_array_equal(outputs(lstm(projection=H), through, xs), plain)

    coupled = draw(lstm(coupled=True, peephole=True))
    tied = {
        name: jnp.concatenate([-value[..., :H], value], axis=-1) for name, value in coupled.items()
    }
    close(
        outputs(lstm(coupled=True, peephole=True), coupled, xs),
        outputs(lstm(peephole=True), tied, xs),
    )


def test_coupled_memory_is_bounded():
    """c_t lies between c_{t-1} and g, so it stays in [-1, 1]; a plain one does not."""
    xs, huge = normal(200, D), lambda cell: draw(cell, scale=3.0)
    memory = lambda cell: jnp.abs(unroll(cell, huge(cell), xs)[1].states.cell).max()
    assert memory(lstm(coupled=True)) <= 1 < memory(lstm())


def test_coupled_input_gate_keeps_its_digits():
    """1 - f near f = 1, where the subtraction in float32 would leave zero."""
    params = jax.tree.map(jnp.zeros_like, draw(lstm(coupled=True), dtype=jnp.float32))
    drive = jnp.repeat(jnp.array([30.0, 0.0, 0.0], jnp.float32), H)
    state = lstm(coupled=True).initial_state(params)
    gates = cells.lstm_gates(params, state, drive)
    np.testing.assert_allclose(gates.input, np.exp(-30.0), rtol=1e-5)


def test_peepholes_look_at_the_memory_of_the_paper():
    """With kernels of zero, i and f see c_{t-1} and o sees c_t, each unit its own."""
    params = jax.tree.map(jnp.zeros_like, draw(lstm(peephole=True)))
    params["peephole"] = jnp.concatenate([jnp.full(H, p) for p in (1.0, 2.0, 3.0)])
    state = LSTMState(jnp.zeros(H), normal(H))
    gates = cells.lstm_gates(params, state, jnp.ones(4 * H))
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    new, _ = lstm(peephole=True).step(params, state, jnp.ones(4 * H))
    close(gates.input, sigmoid(1 + state.cell))
    close(gates.forget, sigmoid(1 + 2 * state.cell))
    close(gates.output, sigmoid(1 + 3 * new.cell))
    close(new.cell, gates.forget * state.cell + gates.input * np.tanh(1.0))


def test_layer_norm_sees_neither_offset_nor_scale_of_a_kernel():
    """Table 1 of Ba et al. (2016): weight matrices may be recentred and rescaled."""
    cell, xs = lstm(layer_norm=True), normal(T, D, seed=5)
    params = draw(cell)
    expected = outputs(cell, params, xs)
    for name in ("kernel", "recurrent_kernel"):
        offsets = normal(len(params[name]), 1, seed=6)
        recentred = params | {name: params[name] + jnp.broadcast_to(offsets, params[name].shape)}
        close(outputs(cell, recentred, xs), expected)
        # Up to the 1e-5 beside variances that are all above 0.01 but the first, which is zero.
        rescaled = params | {name: 10 * params[name]}
        np.testing.assert_allclose(outputs(cell, rescaled, xs), expected, atol=1e-2)
    assert jnp.abs(outputs(lstm(), *(draw(lstm()), xs))).max() > 0.1


def test_layer_norm_starts_from_zero_with_finite_gradients():
    cell = lstm(layer_norm=True)
    params = cell.init(jax.random.key(0), D, H)
    _, gradients = outputs_and_gradients(functools.partial(outputs, cell), params, normal(T, D))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert jnp.any(gradients[0]["recurrent_kernel"] != 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [o for o in LSTM_OPTIONS if o not in OPTIONS["lstm"]], ids=lstm_name
)
def test_pairs_of_options(options):
    """Those that test_contract.py leaves out."""
    cell = lstm(**options)
    laws = [contract.unroll_matches_the_reference, contract.the_closed_jacobian_is_the_derivative]
    contract.verify_cell(cell, REFERENCES[cell.name], laws=laws, **CASE_OPTIONS.get(cell.name, {}))


def test_names_tell_the_options():
    for options in LSTM_OPTIONS:
        assert lstm(**options).name == lstm_name(options)
    assert lstm() is lstm(False, None, coupled=False, layer_norm=False)
    assert lstm(projection=3) is lstm(projection=np.int64(3))


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"peephole": True, "layer_norm": True}, ValueError, "peephole and layer_norm"),
        ({"coupled": 1}, ValueError, "lstm: coupled must be a bool, got 1"),
        ({"projection": 0}, ValueError, "lstm: projection must be at least 1, got 0"),
        ({"projection": True}, TypeError, "lstm: projection must be an integer, got True"),
    ],
)
def test_bad_options_of_the_lstm(options, error, complaint):
    with pytest.raises(error, match=complaint):
        lstm(**options)


def test_parameters_of_another_form_are_refused():
    for mine, other in (
        (lstm(), lstm(peephole=True)),
        (lstm(projection=P), lstm(projection=P + 1)),
    ):
        with pytest.raises(ValueError, match=f"{mine.name}: params .* another cell"):
            mine.project(draw(other), jnp.ones(D))


# ---- xLSTM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_stabilised_is_unstabilised(forget):
    """The equations as they are first written, where these do not overflow."""
    xs = normal(30, D, seed=5, scale=2.0)
    params = draw(slstm(forget), scale=1.0)
    close(outputs(slstm(forget), params, xs), slstm_unstabilised(params, xs, forget))
    for heads in (1, 2):
        cell = cells.mlstm(heads, forget)
        params = draw(cell, scale=1.0)
        close(outputs(cell, params, xs), mlstm_unstabilised(params, xs, heads, forget))


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("heads", [1, 3])
def test_mlstm_is_its_parallel_form(heads, forget):
    """Attention with decaying, gated scores. It overflows nowhere, so neither do large gates."""
    cell, xs = cells.mlstm(heads, forget), normal(40, D, seed=5)
    for scale in (0.5, 10.0):
        params = draw(cell)
        params |= {name: scale * params[name] for name in ("gate_kernel", "gate_bias")}
        expected = mlstm_parallel(params, xs, heads, forget)
        # Logarithms of gates up to some hundreds lose their last two digits to exp.
        np.testing.assert_allclose(outputs(cell, params, xs), expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("sign_f", [-1, 1])
@pytest.mark.parametrize("sign_i", [-1, 1])
@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("name", ["slstm", "mlstm"])
def test_gates_of_200_do_not_overflow(name, forget, sign_i, sign_f):
    """float32 holds exp(88): values as in float64, gradients finite, from the first step on."""
    cell = getattr(cells, name)(forget=forget)
    params = draw(cell, dtype=jnp.float32)
    bias = "bias" if name == "slstm" else "gate_bias"
    size = H if name == "slstm" else 1
    extreme = jnp.zeros_like(params[bias]).at[:size].set(200 * sign_i)
    extreme = extreme.at[size : 2 * size].set(200 * sign_f)
    params |= {bias: params[bias] + extreme}
    xs = normal(T, D, seed=5, dtype=jnp.float32)
    got, gradients = outputs_and_gradients(functools.partial(outputs, cell), params, xs)
    reference = mlstm(1, forget) if name == "mlstm" else sequence(slstm_step(forget), parts=4)
    # Pre-activations near 200, and their sums up to 2 400, are rounded to 1e-7 of themselves.
    np.testing.assert_allclose(got, reference(params, xs)[1][1], rtol=3e-3, atol=1e-5)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["slstm", "mlstm"])
def test_gradients_reach_the_empty_memory(name):
    """An empty memory has zeros in it, not nothing: dc_T/dc_0 is the product of all f."""
    cell, xs = getattr(cells, name)(), normal(T, D, seed=5)
    params = draw(cell)
    first = cell.initial_state(params)
    if name == "slstm":
        params["recurrent_kernel"] = jnp.zeros_like(params["recurrent_kernel"])
        log_f = jax.nn.log_sigmoid(jnp.split(cell.project(params, xs), 4, axis=-1)[1])
    else:
        log_f = cell.project(params, xs).log_forget

    def last(memory):
        """c_T in units of one: at any m the same."""
        state, _ = unroll(cell, params, xs, state=first._replace(cell=memory))
        m = state.stabiliser.reshape(-1, *(1,) * (memory.ndim - 1))
        return state.cell * jnp.exp(m)

    by_first = jax.jvp(last, (first.cell,), (jnp.ones_like(first.cell),))[1]
    expected = jnp.exp(log_f.sum(0)).reshape(-1, *(1,) * (by_first.ndim - 1))
    close(by_first, jnp.broadcast_to(expected, by_first.shape))


def test_stabilisers_are_free():
    """A memory in other units with the same product is the same memory."""
    xs, shift = normal(T, D, seed=5), normal(H, seed=7)
    cell, params = slstm(), draw(slstm())
    state, _ = unroll(cell, params, xs)
    h, c, n, m = state
    other = SLSTMState(h, c * jnp.exp(-shift), n * jnp.exp(-shift), m + shift)
    close(outputs(cell, params, xs, state=other), outputs(cell, params, xs, state=state))

    cell = cells.mlstm(heads=2)
    params, shift = draw(cell), jnp.array([0.7, 2.0])
    state, _ = unroll(cell, params, xs)
    scale = jnp.exp(-shift)
    other = cells.MLSTMState(
        state.cell * scale[:, None, None],
        state.normaliser * scale[:, None],
        state.stabiliser + shift,
    )
    close(outputs(cell, params, xs, state=other), outputs(cell, params, xs, state=state))


def test_slstm_is_a_weighted_mean():
    """h = o * (mean of past z), so |h| <= 1; the normaliser is at least 1 after any step."""
    cell, xs = slstm(), normal(200, D, scale=5.0)
    states = unroll(cell, draw(cell, scale=2.0), xs)[1].states
    assert jnp.abs(states.hidden).max() <= 1
    assert states.normaliser.min() >= 1
    # With a constant candidate every mean is that constant.
    params = draw(cell)
    blind = params | {
        name: params[name].at[..., 2 * H : 3 * H].set(0) for name in ("kernel", "recurrent_kernel")
    }
    z = jnp.tanh(blind["bias"][2 * H : 3 * H])
    states = unroll(cell, blind, xs)[1].states
    close(states.cell / states.normaliser, jnp.broadcast_to(z, (200, H)))


def test_slstm_revises_its_memory():
    """An exponential input gate can overwrite whatever was stored; a sigmoid cannot."""
    cell = slstm()
    params = jax.tree.map(jnp.zeros_like, draw(cell))
    before = SLSTMState(jnp.zeros(H), jnp.full(H, 90.0), jnp.full(H, 100.0), jnp.zeros(H))
    write = jnp.repeat(jnp.array([50.0, 20.0, -1.0, 20.0]), H)
    _, output = cell.step(params, before, write)
    np.testing.assert_allclose(output, np.tanh(-1.0), rtol=1e-8)


def test_mlstm_is_an_associative_memory():
    """Values stored under orthonormal keys with open gates come back, each by its key."""
    cell = cells.mlstm(forget="exp")
    state = cell.initial_state(draw(cell, hidden_size=D))
    keys = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    values = normal(D, D, seed=8)
    drive = lambda q, k, v: type(cell.project(draw(cell, hidden_size=D), jnp.ones(D)))(
        jnp.asarray(q)[None], jnp.asarray(k)[None], v[None], jnp.ones(D), jnp.zeros(1), jnp.zeros(1)
    )
    for key, value in zip(keys, values, strict=True):
        state, _ = cell.step({}, state, drive(key, key, value))
    for key, value in zip(keys, values, strict=True):
        close(cell.read({}, state, drive(key, key, value)), value)


def test_xlstm_starts_like_the_authors():
    params = slstm().init(jax.random.key(0), D, H)
    assert not params["recurrent_kernel"].any()
    close(
        params["bias"].reshape(4, H),
        np.stack([np.zeros(H), np.linspace(3, 6, H), *np.zeros((2, H))]),
    )
    cell = cells.mlstm(heads=4)
    many = jax.vmap(lambda key: cell.init(key, D, 8))(jax.random.split(jax.random.key(0), 500))
    assert not many["gate_kernel"].any()
    close(many["gate_bias"][:, 4:], np.broadcast_to(np.linspace(3, 6, 4), (500, 4)))
    assert stats.kstest(np.ravel(many["gate_bias"][:, :4]), stats.norm(0, 0.1).cdf).pvalue > 1e-3
    assert np.var(many["kernel"]) == pytest.approx(1 / D, rel=0.03)


@pytest.mark.parametrize(
    ("make", "error", "complaint"),
    [
        (lambda: slstm("tanh"), ValueError, "slstm: forget must be .* got 'tanh'"),
        (lambda: cells.mlstm(forget="tanh"), ValueError, "mlstm: forget must be .* got 'tanh'"),
        (lambda: cells.mlstm(0), ValueError, "mlstm: heads must be at least 1, got 0"),
        (lambda: cells.mlstm(1.5), TypeError, "mlstm: heads must be an integer, got 1.5"),
        (
            lambda: cells.mlstm(4).init(jax.random.key(0), D, H),
            ValueError,
            "mlstm_heads4: hidden_size must divide by 4 heads, got 6",
        ),
        (
            lambda: cells.mlstm(2).project(draw(cells.mlstm(3)), jnp.ones(D)),
            ValueError,
            "mlstm_heads2: params .* another cell",
        ),
    ],
)
def test_bad_options_of_the_xlstm(make, error, complaint):
    with pytest.raises(error, match=complaint):
        make()


# ---- Convolutional ------------------------------------------------------------------------------

GRIDS = [((7,), (3,)), ((5, 4), (3, 2)), ((3, 4, 2), (2, 3, 1))]
grids = pytest.mark.parametrize(("shape", "kernel_size"), GRIDS, ids=["1d", "2d", "3d"])


def regate(array, forget=0.0):
    """Our i, f, g, o from their i, g, f, o."""
    i, g, f, o = jnp.split(array, 4, axis=-1)
    return jnp.concatenate([i, f + forget, g, o], axis=-1)


@grids
def test_convlstm_is_that_of_linen(shape, kernel_size):
    """Values and gradients, float64."""
    module = linen.ConvLSTMCell(H, kernel_size, dtype=jnp.float64, param_dtype=jnp.float64)
    xs = normal(T, *shape, D, seed=5)
    carry = (normal(*shape, H, seed=6), normal(*shape, H, seed=7))
    variables = module.init(jax.random.key(0), carry, xs[0])
    variables = jax.tree.map(lambda leaf: leaf + normal(*leaf.shape, scale=0.1), variables)

    def theirs(variables, carry, xs):
        return jax.lax.scan(lambda carry, x: module.apply(variables, carry, x), carry, xs)[1]

    def mine(variables, carry, xs):
        input_part, hidden_part = variables["params"]["ih"], variables["params"]["hh"]
        params = {
            "kernel": regate(input_part["kernel"]),
            "recurrent_kernel": regate(hidden_part["kernel"]),
            "bias": regate(input_part["bias"] + hidden_part["bias"], forget=1.0),
        }
        cell, hidden = carry
        return outputs(convlstm(shape, kernel_size), params, xs, state=LSTMState(hidden, cell))

    # Three convolutions' worth of terms, in the order of another algorithm.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10),
        *(outputs_and_gradients(jax.jit(run), variables, carry, xs) for run in (mine, theirs)),
    )


@grids
def test_convlstm_is_that_of_haiku(shape, kernel_size):
    core = {1: haiku.Conv1DLSTM, 2: haiku.Conv2DLSTM, 3: haiku.Conv3DLSTM}[len(shape)]

    def network(xs):
        module = core(input_shape=(*shape, D), output_channels=H, kernel_shape=kernel_size)
        module.input_shape = shape  # of the grid: haiku adds the channels to its state
        return haiku.dynamic_unroll(module, xs[:, None], module.initial_state(1))[0][:, 0]

    xs = normal(T, *shape, D, seed=5, dtype=jnp.float32)
    # haiku's states are of JAX's default dtype.
    with jax.enable_x64(False):
        transformed = haiku.without_apply_rng(haiku.transform(network))
        weights = transformed.init(jax.random.key(0), xs)
        expected = transformed.apply(weights, xs)
    (by_input,) = (value for name, value in weights.items() if name.endswith("input_to_hidden"))
    (by_hidden,) = (value for name, value in weights.items() if name.endswith("hidden_to_hidden"))
    params = {
        "kernel": regate(by_input["w"]),
        "recurrent_kernel": regate(by_hidden["w"]),
        "bias": regate(by_input["b"] + by_hidden["b"], forget=1.0),
    }
    # float32: 1e-7 per operation over a dozen steps.
    np.testing.assert_allclose(
        outputs(convlstm(shape, kernel_size), params, xs), expected, rtol=1e-4, atol=1e-5
    )


@grids
def test_convlstm_is_that_of_keras(shape, kernel_size):
    """The same layout of parameters; its initial forget bias is ours too."""
    layer = getattr(keras.layers, f"ConvLSTM{len(shape)}D")(
        H, kernel_size, padding="same", return_sequences=True
    )
    xs = normal(T, *shape, D, seed=5, dtype=jnp.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = np.asarray(layer(xs[None]))[0]
        weights = [jnp.asarray(weight) for weight in layer.get_weights()]
    cell = convlstm(shape, kernel_size)
    params = cell.init(jax.random.key(0), D, H, dtype=jnp.float32)
    np.testing.assert_array_equal(params["bias"], weights[2])
    params = dict(zip(("kernel", "recurrent_kernel", "bias"), weights, strict=True))
    np.testing.assert_allclose(outputs(cell, params, xs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("peephole", [False, True])
def test_convlstm_with_a_window_of_one_is_an_lstm_at_every_place(peephole):
    shape = (3, 2)
    cell = convlstm(shape, kernel_size=1, peephole=peephole)
    params, xs = draw(cell), normal(T, *shape, D, seed=5)
    got = outputs(cell, params, xs)
    for place in np.ndindex(*shape):
        own = params | {name: params[name][0, 0] for name in ("kernel", "recurrent_kernel")}
        if peephole:
            own["peephole"] = params["peephole"][place]
        close(got[:, *place], outputs(lstm(peephole=peephole), own, xs[:, *place]))


def test_convlstm_spreads_by_half_a_window_per_step():
    """What is seen at one place reaches one place further at every step, in both directions."""
    cell = convlstm((11,))
    params = draw(cell)
    reach = jax.jacobian(lambda xs: outputs(cell, params, xs))(jnp.zeros((3, 11, D)))
    seen = jnp.abs(reach).sum((2, 5))[:, :, 0, 5] != 0
    expected = np.abs(np.arange(11) - 5)[None] <= np.arange(1, 4)[:, None]
    np.testing.assert_array_equal(seen, expected)


def test_convlstm_starts_like_linen():
    keys, shape = jax.random.split(jax.random.key(0), 100), (4, 4)
    image = jnp.zeros((*shape, D), jnp.float32)
    module = linen.ConvLSTMCell(H, (3, 3))
    carry = module.initialize_carry(keys[0], image.shape)
    theirs = jax.vmap(lambda key: module.init(key, carry, image)["params"])(keys)
    mine = jax.vmap(lambda key: convlstm(shape).init(key, D, H))(keys)
    for name, part in (("kernel", "ih"), ("recurrent_kernel", "hh")):
        expected = np.ravel(theirs[part]["kernel"])
        assert stats.ks_2samp(np.ravel(mine[name]), expected).pvalue > 1e-3


@pytest.mark.parametrize(
    ("make", "error", "complaint"),
    [
        (lambda: convlstm(()), ValueError, r"convlstm: shape must have 1 to 3 axes, got \(\)"),
        (lambda: convlstm((2,) * 4), ValueError, "convlstm: shape must have 1 to 3 axes"),
        (lambda: convlstm(16), TypeError, "convlstm: shape must be a sequence of integers, got 16"),
        (lambda: convlstm((4, 0)), ValueError, "convlstm: shape must be at least 1, got 0"),
        (lambda: convlstm((4,), 2.0), TypeError, "convlstm: kernel_size must be an integer"),
        (lambda: convlstm((4,), (3, 3)), ValueError, "convlstm: kernel_size must have one size"),
        (
            lambda: convlstm((4,), peephole=1),
            ValueError,
            "convlstm: peephole must be a bool, got 1",
        ),
        (
            lambda: convlstm((4,)).project(draw(convlstm((4,))), jnp.ones((5, D))),
            ValueError,
            r"convlstm_4: the input x must end in \(4, 3\), got \(5, 3\)",
        ),
        (
            lambda: convlstm((4,), 5).project(draw(convlstm((4,))), jnp.ones((4, D))),
            ValueError,
            "convlstm_4_kernel5: params .* another cell",
        ),
    ],
)
def test_bad_convlstm(make, error, complaint):
    with pytest.raises(error, match=complaint):
        make()


def test_equal_grids_are_one_cell():
    assert convlstm() is convlstm([16], (3,), False)
    assert convlstm((8, 8), 3) is convlstm([8, 8], [3, 3])
