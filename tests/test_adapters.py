"""Our cells inside Flax linen and nnx, and Flax' cells under our instruments."""

import dataclasses
import functools

import chex
import flax.core
import flax.linen as nn
import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import LAWS, Case, at, close, normal_like, pull
from flax import nnx
from flax.training.train_state import TrainState

from rnn_jax import Cell, HiddenState, LSTMState, elman, gru, length_mask, lstm, schemes, unroll
from rnn_jax.analysis import gradient_flow, length_curve, length_sweep
from rnn_jax.combinators import batched, bidirectional, stack, with_dropout, with_learned_state
from rnn_jax.interop.linen_adapter import LinenCell, from_linen
from rnn_jax.interop.nnx_adapter import NNXCell, from_nnx

# Minutes together.
pytestmark = pytest.mark.slow

D, H, T, B = 3, 4, 6, 3
LENGTHS = np.array([T, 3, 1])
KEY = jax.random.key(0)
XS = normal_like(jax.ShapeDtypeStruct((B, T, D), jnp.float64), 1)


def learned():
    """An Elman network that starts at learned values."""
    cell = elman()
    start = lambda params: HiddenState(jnp.tanh(1 + params["bias"]))
    return dataclasses.replace(cell, name="learned", initial_state=start)


def nested():
    """A stack whose parameters are a dict with trees in it, one by the name of an attribute."""
    inner = stack(lstm(), gru())

    def init(key, *sizes, **options):
        first, second = inner.init(key, *sizes, **options)
        return {"cell": {"first": first}, "others": [second]}

    flat = lambda params: (params["cell"]["first"], params["others"][0])
    return Cell(
        "nested",
        init,
        lambda params: inner.initial_state(flat(params)),
        lambda params, state, drive: inner.step(flat(params), state, drive),
        lambda params, x: inner.project(flat(params), x),
        lambda params, state, drive: inner.read(flat(params), state, drive),
    )


LEARNED, NESTED = learned(), nested()
OURS = [lstm(), LEARNED, gru(), NESTED, stack(lstm(), gru())]
by_name = pytest.mark.parametrize("cell", OURS, ids=lambda cell: cell.name)


def draw(cell):
    """Parameters in general position, in float64."""
    params = cell.init(KEY, D, H, dtype=jnp.float64)
    return jax.tree.map(lambda p, e: p + 0.3 * e, params, normal_like(params, 2))


def in_linen(cell, params):
    """The variables of ``nn.RNN(LinenCell(cell, H))``."""
    return {"params": {"cell": flax.serialization.to_state_dict(params)}}


def unroll_batch(cell, params, xs, lengths=LENGTHS, reverse=False):
    """``(state, outputs)`` of right-padded sequences (B, T, D), by `unroll`."""

    def one(xs, length):
        mask = length_mask(length, xs.shape[0])
        state, trajectory = unroll(cell, params, xs, mask=mask, reverse=reverse)
        return state, trajectory.outputs

    return jax.vmap(one)(xs, lengths)


def valid(outputs, lengths=LENGTHS):
    """Flax leaves the outputs at padding as they are; ours are zero."""
    mask = np.arange(outputs.shape[1]) < lengths[:, None]
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (outputs.ndim - 2)), outputs, 0)


def same(function, other, args):
    """Equal values and equal gradients of a random functional of them, to rounding."""
    weights = normal_like(jax.eval_shape(other, *args), 3)
    got, expected = (jax.jit(functools.partial(pull, f))(args, weights) for f in (function, other))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    close(got, expected)


# ---- Our cells as linen modules -----------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@by_name
def test_linen_rnn_is_unroll(cell, reverse):
    """Ragged lengths, both directions: carries, outputs and gradients, the initial state's too."""
    rnn = nn.RNN(LinenCell(cell, H), return_carry=True, reverse=reverse, keep_order=True)

    def flax(params, xs):
        carry, outputs = rnn.apply(in_linen(cell, params), xs, seq_lengths=LENGTHS)
        return carry, valid(outputs)

    def ours(params, xs):
        return unroll_batch(cell, params, xs, reverse=reverse)

    same(flax, ours, (draw(cell), XS))


def test_linen_rnn_time_major_and_other_batches():
    """Time first, no batch axis at all, and two of them."""
    cell, params = lstm(), draw(lstm())
    variables = in_linen(cell, params)
    rnn = nn.RNN(LinenCell(cell, H))
    expected = unroll_batch(cell, params, XS, np.full(B, T))[1]
    major = nn.RNN(LinenCell(cell, H), time_major=True).apply(variables, XS.swapaxes(0, 1))
    close(major, expected.swapaxes(0, 1))
    close(rnn.apply(variables, XS[0]), expected[0])
    close(rnn.apply(variables, XS[None]), expected[None])


def test_linen_initial_carry_is_used():
    """nn.RNN goes on from a carry as unroll does from a state."""
    cell, params = lstm(), draw(lstm())
    rnn = nn.RNN(LinenCell(cell, H), return_carry=True)
    variables = in_linen(cell, params)
    middle, first = rnn.apply(variables, XS[:, :2])
    end, second = rnn.apply(variables, XS[:, 2:], initial_carry=middle)
    expected = unroll_batch(cell, params, XS, np.full(B, T))
    close((end, jnp.concatenate([first, second], 1)), expected)


def test_linen_spatial_inputs():
    """A cell whose input has an axis of space: batch axes are those before it."""
    cell = batched(gru(), 2)
    params = draw(gru())
    xs = normal_like(jax.ShapeDtypeStruct((B, T, 2, D), jnp.float64), 4)
    rnn = nn.RNN(LinenCell(cell, H), return_carry=True)
    assert rnn.cell.num_feature_axes == 2

    def flax(params, xs):
        carry, outputs = rnn.apply(in_linen(cell, params), xs, seq_lengths=LENGTHS)
        return carry, valid(outputs)

    same(flax, functools.partial(unroll_batch, cell), (params, xs))


@by_name
def test_linen_init_draws_what_the_cell_draws(cell):
    """The names, shapes and dtypes of the cell's own parameters, by its scheme; in nested dicts."""
    module = nn.RNN(LinenCell(cell, H, param_dtype=jnp.float32))
    params = module.init(KEY, XS)["params"]["cell"]
    own = cell.init(KEY, D, H, dtype=jnp.float32)
    expected = flax.serialization.to_state_dict(own)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, expected)
    back = flax.serialization.from_state_dict(own, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(back, own)
    other = module.init(jax.random.key(1), XS)["params"]["cell"]
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.any(a != b), params, other)))


def test_linen_init_draws_once():
    """Parameters that depend on each other do so in the module, whoever asks for them first."""

    def init(*args, **options):
        params = elman().init(*args, **options)
        return params | {"bias": params["recurrent_kernel"].sum(0)}

    cell = dataclasses.replace(LEARNED, init=init)
    module = nn.RNN(LinenCell(cell, H, scheme=schemes.orthogonal(0.5)))
    for carry in (None, HiddenState(jnp.ones((B, H)))):
        params = module.init(KEY, XS, initial_carry=carry)["params"]["cell"]
        close(params["bias"], params["recurrent_kernel"].sum(0))
        close(params["recurrent_kernel"] @ params["recurrent_kernel"].T, 0.25 * jnp.eye(H))


def sum_cell():
    """A leaky sum whose only parameter is one array, in no dict."""
    init = lambda key, *sizes, scheme=None, dtype=None: jnp.full(sizes[1], 0.5, dtype)
    start = lambda rate: HiddenState(jnp.zeros_like(rate))

    def step(rate, state, x):
        hidden = rate * state.hidden + x.sum()
        return HiddenState(hidden), hidden

    return Cell("sum", init, start, step)


LIFTED = [stack(lstm(), gru()), with_learned_state(stack(lstm(), gru())), sum_cell()]


@pytest.mark.parametrize("cell", LIFTED, ids=lambda cell: cell.name)
def test_linen_top_level_module(cell):
    """Of any parameters: init, apply and initialize_carry, from_linen, and what bytes restore."""
    module, params = LinenCell(cell, H, param_dtype=jnp.float64), draw(cell)
    carry = jax.tree.map(lambda a: jnp.tile(a, (B, 1)), cell.initial_state(params))
    variables = module.init(KEY, carry, XS[:, 0])
    bare = isinstance(params, jax.Array)
    named = {"params": {"value": params} if bare else flax.serialization.to_state_dict(params)}
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, named)

    stepped = module.apply(named, carry, XS[:, 0])
    close(stepped, jax.vmap(functools.partial(cell, params))(carry, XS[:, 0]))
    close(module.apply(named, KEY, (B, D), method="initialize_carry"), carry)
    restored = flax.serialization.msgpack_restore(flax.serialization.to_bytes(named))
    chex.assert_trees_all_equal(module.apply(restored, carry, XS[:, 0]), stepped)
    leaves = flax.traverse_util.flatten_dict(named).values()
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)

    state = cell.initial_state(params)
    part = "hidden" if hasattr(state, "hidden") else lambda p, s, x: s.cells[-1].hidden
    back = from_linen(module, D, read=part)
    got, expected = (unroll(c, p, XS[0]) for c, p in ((back, named["params"]), (cell, params)))
    chex.assert_trees_all_close(got, expected, rtol=1e-13)


@pytest.mark.usefixtures("lenient")
def test_flax_habits_reach_the_parameters_of_a_stack():
    """A mask by path decays the kernels of each layer and nothing else."""
    module = nn.RNN(LinenCell(stack(lstm(), gru()), H, param_dtype=jnp.float64))
    variables = module.init(KEY, XS)["params"]
    mask = flax.traverse_util.path_aware_map(lambda path, _: path[-1] == "kernel", variables)
    decay = optax.masked(optax.add_decayed_weights(1.0), mask)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    updates, _ = decay.update(zeros, decay.init(variables), variables)
    for path, update in flax.traverse_util.flatten_dict(updates).items():
        assert bool(jnp.any(update != 0)) == (path[-1] == "kernel")


def test_linen_bidirectional():
    cell = gru()
    params = [draw(cell), jax.tree.map(lambda a: -a, draw(cell))]
    layer = nn.Bidirectional(nn.RNN(LinenCell(cell, H)), nn.RNN(LinenCell(cell, H)))
    names = list(layer.init(KEY, XS)["params"])

    def flax(params, xs):
        variables = {"params": {n: {"cell": p} for n, p in zip(names, params, strict=True)}}
        return valid(layer.apply(variables, xs, seq_lengths=LENGTHS))

    ours = lambda params, xs: jnp.concatenate(
        [unroll_batch(cell, p, xs, reverse=i == 1)[1] for i, p in enumerate(params)], -1
    )
    same(flax, ours, (params, XS))


def test_linen_vmap_is_an_ensemble():
    """nn.vmap with parameters along an axis: each member computes what it does alone."""
    ensemble = nn.vmap(
        nn.RNN, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2
    )(LinenCell(LEARNED, H))
    variables = ensemble.init(KEY, XS)
    outputs = ensemble.apply(variables, XS)
    for i in range(2):
        params = at(variables["params"]["cell"], i)
        close(outputs[i], unroll_batch(LEARNED, params, XS, np.full(B, T))[1])
    assert jnp.any(outputs[0] != outputs[1])


def test_linen_scan_is_a_deep_network():
    """nn.scan over layers, and nn.remat around each."""

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, xs, _):
            return nn.RNN(LinenCell(LEARNED, D))(xs), None

    deep = nn.scan(
        nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
    )()
    variables = deep.init(KEY, XS, None)
    outputs, _ = deep.apply(variables, XS, None)
    expected = XS
    (params,) = variables["params"].values()
    for i in range(2):
        expected = unroll_batch(LEARNED, at(params, i), expected, np.full(B, T))[1]
    close(outputs, expected)


def test_linen_parameters_may_be_frozen_or_narrow():
    """FrozenDicts compute the same; parameters cast to bfloat16 carry a bfloat16 state."""
    params = draw(NESTED)
    rnn = nn.RNN(LinenCell(NESTED, H), return_carry=True)
    variables = in_linen(NESTED, params)
    expected = rnn.apply(variables, XS)
    chex.assert_trees_all_equal(rnn.apply(flax.core.freeze(variables), XS), expected)
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    carry, outputs = rnn.apply(narrow, XS)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, outputs))} == {jnp.bfloat16.dtype}


def test_linen_carry_outside_of_a_module():
    """Zeros are known without parameters; a learned state is read from them, or refused."""
    module = LinenCell(lstm(), H, param_dtype=jnp.float32)
    carry = module.initialize_carry(KEY, (B, D))
    chex.assert_trees_all_equal(carry, LSTMState(*[jnp.zeros((B, H), jnp.float32)] * 2))
    assert carry.cell.dtype == jnp.float32

    module, params = LinenCell(LEARNED, H), draw(LEARNED)
    with pytest.raises(ValueError, match=r"initial state of the cell learned depends on"):
        module.initialize_carry(KEY, (B, D))
    carry = module.apply({"params": params}, KEY, (B, D), method="initialize_carry")
    close(carry.hidden, jnp.tile(jnp.tanh(1 + params["bias"]), (B, 1)))


@pytest.fixture
def lenient():
    """optax.adam multiplies floats by integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Adder(nn.Module):
    """A whole model: the running sum of its inputs."""

    @nn.compact
    def __call__(self, xs):
        layer = nn.Bidirectional(nn.RNN(LinenCell(lstm(), 8)), nn.RNN(LinenCell(NESTED, 8)))
        return nn.Dense(1, param_dtype=float)(nn.RNN(LinenCell(LEARNED, 8))(layer(xs)))


@pytest.mark.usefixtures("lenient")
def test_linen_model_trains_and_is_restored_bit_for_bit():
    xs = jax.random.normal(KEY, (32, 5, 1))
    targets = jnp.cumsum(xs, axis=1)
    model = Adder()
    state = TrainState.create(
        apply_fn=model.apply, params=model.init(KEY, xs)["params"], tx=optax.adam(1e-2)
    )

    @jax.jit
    def train(state):
        def loss(params):
            return jnp.mean((state.apply_fn({"params": params}, xs) - targets) ** 2)

        value, gradients = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradients), value

    fresh, first = train(state)
    state = fresh
    for _ in range(60):
        state, value = train(state)
    # Without any recurrence the best answer is x_t: the loss would be the mean of t - 1, here 2.
    assert float(first) > 1.0 > 0.3 > float(value)

    restored = flax.serialization.from_bytes(fresh, flax.serialization.to_bytes(state))
    chex.assert_trees_all_equal(restored.params, state.params)
    chex.assert_trees_all_equal(train(restored), train(state))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LinenCell(lstm, H), TypeError, "factories are called"),
        (lambda: LinenCell(bidirectional(lstm()), H), TypeError, "cell must be a Cell"),
        (lambda: LinenCell(with_dropout(lstm(), output=0.5), H), ValueError, "draws from keys"),
        (
            lambda: nn.RNN(LinenCell(lstm(), H)).apply(in_linen(lstm(), draw(lstm())), XS[..., :2]),
            ValueError,
            "lstm: parameters of the shapes .* 2 features",
        ),
        (
            lambda: nn.RNN(LinenCell(lstm(), H)).apply({"params": {}}, XS),
            ValueError,
            r"lstm: the variables have no parameters \['bias', 'kernel', 'recurrent_kernel'\]",
        ),
        (
            lambda: nn.RNN(LinenCell(stack(lstm(), gru()), H)).apply(
                in_linen(lstm(), (*draw(stack(lstm(), gru())), draw(gru()))), XS
            ),
            ValueError,
            r"stack\(lstm, gru\): parameters of the shapes {'0': .*'2': .* 3 features",
        ),
        (
            lambda: LinenCell(lstm(), H).apply({"params": draw(lstm())}, (XS, XS), XS[:, 0]),
            ValueError,
            r"carry: the cell lstm needs LSTMState\(hidden=float64\[3, 4\]",
        ),
        (
            lambda: LinenCell(batched(gru(), 2), H).initialize_carry(KEY, (D,)),
            ValueError,
            "one input alone has 2 axes",
        ),
        (lambda: NNXCell(lstm, D, H, rngs=nnx.Rngs(0)), TypeError, "factories are called"),
    ],
)
def test_bad_use_of_our_cells(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- Our cells as nnx modules -------------------------------------------------------------------


def nnx_rnn(cell, params, **options):
    """``nnx.RNN`` around the adapter, with these parameters."""
    module = NNXCell(cell, D, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, {"params": nnx.to_pure_dict(nnx.state(Holder(params)))["held"]})
    return nnx.RNN(nnx.merge(graph, state), **options)


class Holder(nnx.Module):
    def __init__(self, params):
        self.held = nnx.data(jax.tree.map(nnx.Param, params))


@pytest.mark.parametrize("reverse", [False, True])
@by_name
def test_nnx_rnn_is_unroll(cell, reverse):
    """Ragged lengths, both directions: carries, outputs and gradients, the initial state's too."""

    def flax(params, xs):
        rnn = nnx_rnn(cell, params, return_carry=True, reverse=reverse, keep_order=True)
        carry, outputs = rnn(xs, seq_lengths=LENGTHS)
        return carry, valid(outputs)

    def ours(params, xs):
        return unroll_batch(cell, params, xs, reverse=reverse)

    same(flax, ours, (draw(cell), XS))


@by_name
def test_nnx_module_has_the_parameters_of_the_cell(cell):
    """Drawn by its scheme from rngs, every leaf an nnx.Param, and nothing else in the state."""
    make = functools.partial(NNXCell, cell, D, H, param_dtype=jnp.float32)
    module = make(rngs=nnx.Rngs(0))
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    expected = jax.tree.leaves(cell.init(nnx.Rngs(0).params(), D, H, dtype=jnp.float32))
    chex.assert_trees_all_equal(leaves, expected)
    assert len(jax.tree.leaves(nnx.state(module))) == len(leaves)

    graph, state = nnx.split(module)
    xs = XS[:, 0].astype(jnp.float32)
    carry = module.initialize_carry(xs.shape, nnx.Rngs(0))
    chex.assert_trees_all_equal(nnx.merge(graph, state)(carry, xs), module(carry, xs))
    # Two modules of one kind share a compiled program.
    assert nnx.graphdef(make(rngs=nnx.Rngs(1))) == graph
    assert hash(nnx.graphdef(make(rngs=nnx.Rngs(1)))) == hash(graph)


def test_nnx_parameters_of_a_stack_obey_flax_habits():
    """nnx nests tuples by itself: paths reach the arrays, and what bytes restore fits."""
    module = NNXCell(with_learned_state(stack(lstm(), gru())), D, H, rngs=nnx.Rngs(0))
    state = nnx.state(module, nnx.Param)
    paths = flax.traverse_util.flatten_dict(nnx.to_pure_dict(state))
    assert ("params", "cell", 1, "kernel") in paths
    restored = flax.serialization.msgpack_restore(
        flax.serialization.to_bytes(nnx.to_pure_dict(state))
    )
    doubled = jax.tree.map(lambda a: 2 * a, restored)
    nnx.replace_by_pure_dict(state, doubled)
    nnx.update(module, state)
    close(module.params["cell"][1]["kernel"][...], doubled["params"]["cell"]["1"]["kernel"])


def test_nnx_bidirectional_and_spatial_inputs():
    cell = batched(gru(), 2)
    one, other = (NNXCell(cell, D, H, rngs=nnx.Rngs(i)) for i in (0, 1))
    xs = normal_like(jax.ShapeDtypeStruct((B, T, 2, D), jnp.float64), 4)
    outputs = nnx.Bidirectional(nnx.RNN(one), nnx.RNN(other))(xs, seq_lengths=LENGTHS)
    params = (nnx.to_pure_dict(nnx.state(module))["params"] for module in (one, other))
    halves = [unroll_batch(cell, p, xs, reverse=i == 1)[1] for i, p in enumerate(params)]
    close(valid(outputs), jnp.concatenate(halves, -1))


def test_nnx_carry_init():
    """A carry is drawn when asked for, each part for itself."""
    module = NNXCell(lstm(), D, H, rngs=nnx.Rngs(0))
    normal = nnx.initializers.normal(1.0)
    carry = module.initialize_carry((B, D), nnx.Rngs(carry=3), carry_init=normal)
    stream = nnx.Rngs(carry=3).carry
    chex.assert_trees_all_equal(carry, LSTMState(*(normal(stream(), (B, H), float) for _ in "hc")))
    with pytest.raises(ValueError, match="carry_init needs rngs"):
        module.initialize_carry((B, D), carry_init=normal)


@pytest.mark.usefixtures("lenient")
def test_nnx_model_trains():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(NNXCell(stack(lstm(), LEARNED), 1, 8, rngs=rngs))
            self.head = nnx.Linear(8, 1, param_dtype=float, rngs=rngs)

        def __call__(self, xs):
            return self.head(self.rnn(xs))

    xs = jax.random.normal(KEY, (32, 5, 1))
    targets = jnp.cumsum(xs, axis=1)
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(xs) - targets) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    losses = [float(train(model, optimizer)) for _ in range(60)]
    # Without any recurrence the best answer is x_t: the loss would be the mean of t - 1, here 2.
    assert losses[0] > 1.0 > 0.3 > losses[-1]


# ---- Flax' cells as ours ------------------------------------------------------------------------


class Leaky(nn.RNNCellBase):
    """A user's own: two traces of the input, the slow one last, and the output of both."""

    features: int

    @nn.compact
    def __call__(self, carry, inputs):
        fast, slow = carry["fast"], carry["slow"]
        fast = nn.tanh(nn.Dense(self.features)(inputs) + nn.Dense(self.features)(fast) + 0.1 * slow)
        slow = 0.9 * slow + 0.1 * fast
        return {"fast": fast, "slow": slow}, fast + slow

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        shape = (*input_shape[:-1], self.features)
        return {"fast": jnp.ones(shape, jnp.float32), "slow": jnp.zeros(shape, jnp.float32)}

    num_feature_axes = 1


def both(params, state, drive):
    return state.fast + state.slow


def leaky():
    return from_linen(Leaky(H), D, parts=("fast", "slow"), read=both)


class Last(nnx.RNNCellBase):
    """A user's own nnx cell, with a list of layers and a carry (h, h of the step before)."""

    def __init__(self, features, *, rngs):
        self.features = features
        make = functools.partial(nnx.Linear, D + features, features, rngs=rngs)
        self.layers = nnx.List([make(), make()])

    def __call__(self, carry, inputs):
        hidden, before = carry
        a, b = (layer(jnp.concatenate([inputs, hidden], -1)) for layer in self.layers)
        new = jnp.tanh(a) * jax.nn.sigmoid(b) + 0.5 * before
        return (new, hidden), new

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return (jnp.zeros((*input_shape[:-1], self.features), jnp.float32),) * 2

    num_feature_axes = 1


# Made once: a functools.partial equals itself only.
NNX_LSTM, NNX_OPTIMIZED = (
    functools.partial(kind, D, H) for kind in (nnx.LSTMCell, nnx.OptimizedLSTMCell)
)
NNX_GRU = functools.partial(nnx.GRUCell, D, H)
# By itself it computes in float32, whatever its parameters.
NNX_SIMPLE = functools.partial(nnx.SimpleCell, D, H, dtype=None)
NNX_LAST = functools.partial(Last, H)

FOREIGN = {
    "SimpleCell": lambda: from_linen(nn.SimpleCell(H), D),
    "LSTMCell": lambda: from_linen(nn.LSTMCell(H), D),
    "OptimizedLSTMCell": lambda: from_linen(nn.OptimizedLSTMCell(H), D),
    "GRUCell": lambda: from_linen(nn.GRUCell(H), D),
    "MGUCell": lambda: from_linen(nn.MGUCell(H), D),
    "ConvLSTMCell": lambda: from_linen(nn.ConvLSTMCell(H, (2,)), (5, D)),
    "Leaky": leaky,
    "LinenCell": lambda: from_linen(LinenCell(LEARNED, H), D),
    "nnx.SimpleCell": lambda: from_nnx(NNX_SIMPLE, D),
    "nnx.LSTMCell": lambda: from_nnx(NNX_LSTM, D),
    "nnx.OptimizedLSTMCell": lambda: from_nnx(NNX_OPTIMIZED, D),
    "nnx.GRUCell": lambda: from_nnx(NNX_GRU, D),
    "nnx.Last": lambda: from_nnx(NNX_LAST, D, parts=("hidden", "before")),
}
SHAPES = {"ConvLSTMCell": (5, D)}

THOROUGH = {"Leaky", "nnx.GRUCell"}
"""One of each library under all laws, the others under the essential ones."""
ESSENTIAL = {
    "the_state_keeps_its_kind",
    "a_cell_is_a_scan_body",
    "project_takes_any_leading_axes",
    "read_repeats_the_output",
    "derivatives_agree",
    "tap_gradients_are_products_of_jacobians",
    "factories_are_memoised",
}
INAPPLICABLE = {"unroll_matches_the_reference", "the_closed_jacobian_is_the_derivative"}
"""A foreign cell has no closed Jacobian, and its reference is the RNN of its own library."""


def laws():
    for name in FOREIGN:
        for law in LAWS:
            asked = law.__name__ in ESSENTIAL or name in THOROUGH
            if asked and law.__name__ not in INAPPLICABLE:
                yield pytest.param(law, name, id=f"{law.__name__}-{name}")


@functools.cache
def foreign_case(name):
    return Case(FOREIGN[name](), remake=FOREIGN[name], input_shape=SHAPES.get(name))


@pytest.mark.parametrize(("law", "name"), list(laws()))
def test_foreign_cell_obeys(law, name):
    law(foreign_case(name))


LINEN = {
    "SimpleCell": nn.SimpleCell(H),
    "OptimizedLSTMCell": nn.OptimizedLSTMCell(H),
    "GRUCell": nn.GRUCell(H),
    "MGUCell": nn.MGUCell(H, reset_gate=False),
    "Leaky": Leaky(H),
}


@pytest.mark.parametrize("name", LINEN)
def test_unroll_is_the_rnn_of_linen(name):
    """The module's own nn.RNN and our unroll: ragged lengths, values and gradients."""
    module = LINEN[name]
    cell = leaky() if name == "Leaky" else from_linen(module, D)
    rnn = nn.RNN(module, return_carry=True, reverse=True, keep_order=True)

    def flax(params, xs):
        # Flax' cells make their carry in float32, whatever their parameters are cast to.
        carry = module.initialize_carry(KEY, (B, D))
        carry = jax.tree.map(lambda a: a.astype(jnp.float64), carry)
        carry, outputs = rnn.apply(
            {"params": {"cell": params}}, xs, seq_lengths=LENGTHS, initial_carry=carry
        )
        # An LSTM of Flax has (c, h), where LSTMState has h first.
        parts = jax.tree.leaves(carry)
        return parts[::-1] if "LSTM" in name else parts, valid(outputs)

    def ours(params, xs):
        state, outputs = unroll_batch(cell, params, xs, reverse=True)
        return list(state), outputs

    same(flax, ours, (draw(cell), XS))


# ---- Our instruments on Flax' cells -------------------------------------------------------------


def packed(gates, suffix):
    """The kernels or biases of one side of a linen LSTM, in its order of gates."""
    return jnp.concatenate([gates[name][suffix] for name in gates], -1)


def lstm_of_linen(params):
    """The weights of a linen LSTM as those of ours."""
    of_input = {name: params[name] for name in ("ii", "if", "ig", "io")}
    of_hidden = {name: params[name] for name in ("hi", "hf", "hg", "ho")}
    return {
        "kernel": packed(of_input, "kernel"),
        "recurrent_kernel": packed(of_hidden, "kernel"),
        "bias": packed(of_hidden, "bias"),
    }


def lstm_of_nnx(params):
    return {
        "kernel": params["dense_i"]["kernel"],
        "recurrent_kernel": params["dense_h"]["kernel"],
        "bias": params["dense_h"]["bias"],
    }


@pytest.mark.parametrize(
    ("name", "convert"),
    [("OptimizedLSTMCell", lstm_of_linen), ("nnx.OptimizedLSTMCell", lstm_of_nnx)],
)
def test_instruments_read_a_foreign_lstm_like_ours(name, convert):
    """gradient_flow, length_sweep and length_curve of the same network in two libraries."""
    cell = FOREIGN[name]()
    params, xs = draw(cell), XS[0]
    ours = convert(params)
    vector = jnp.arange(1.0, H + 1)
    mask, reset = length_mask(5, T), np.arange(T) == 2

    def measure(cell, params):
        # The immediate parameter gradients are packed differently, but their norms are the same.
        return (
            gradient_flow(cell, params, xs, vector),
            gradient_flow(cell, params, xs, loss=lambda ys: (ys**2).sum(), mask=mask, reset=reset),
            length_sweep(cell, params, xs, [1, 3, 6], vector, horizons=[2, 4]),
            length_curve(KEY, cell, params, xs, tangents=3, mask=mask),
        )

    got, expected = (
        jax.jit(functools.partial(measure, c))(p) for c, p in [(cell, params), (lstm(), ours)]
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-10)
    assert set(got[0].log_norm_by_part) == {"hidden", "cell"}
    assert jnp.isfinite(got[0].log_norm).all()


def test_there_and_back():
    """A cell in a linen module as a cell is that cell: the same parameters, the same states."""
    for cell in (lstm(), NESTED, LEARNED):
        own = cell.init(KEY, D, H)
        of_cell = functools.partial(flax.serialization.from_state_dict, own)

        # What a foreign cell is driven by is the input itself.
        def read(params, state, x, cell=cell, of_cell=of_cell):
            params = of_cell(params)
            return cell.read(params, state, cell.project(params, x))

        back = from_linen(LinenCell(cell, H), D, read=read)
        params = back.init(KEY, D, H)
        chex.assert_trees_all_equal_shapes_and_dtypes(of_cell(params), own)
        got, expected = (unroll(*each, XS[0]) for each in ((back, params), (cell, of_cell(params))))
        # Two programs: one projects the inputs at once, the other step by step.
        chex.assert_trees_all_close(got, expected, rtol=1e-13)


@pytest.mark.parametrize("name", ["GRUCell", "nnx.GRUCell"])
def test_init_is_that_of_the_module(name):
    """The module's initialisers from the key, its param_dtype by default, a batch of draws."""
    cell = FOREIGN[name]()
    params = cell.init(KEY, D, H)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.float32.dtype}
    if name == "GRUCell":
        module = nn.GRUCell(H)
        expected = module.init(KEY, jnp.zeros(H, jnp.float32), jnp.zeros(D, jnp.float32))["params"]
    else:
        expected = nnx.to_pure_dict(nnx.state(NNX_GRU(rngs=nnx.Rngs(KEY)), nnx.Param))
    chex.assert_trees_all_equal(params, expected)
    wide = cell.init(KEY, D, H, dtype=jnp.float64)
    chex.assert_trees_all_equal(wide, jax.tree.map(lambda a: a.astype(jnp.float64), params))
    draws = jax.vmap(lambda key: cell.init(key, D, H))(jax.random.split(KEY))
    chex.assert_trees_all_equal(at(draws, 1), cell.init(jax.random.split(KEY)[1], D, H))


def test_foreign_names():
    """Known cells, single arrays, NamedTuples, names of one's own, and none."""
    states = {
        "hidden cell": from_linen(nn.LSTMCell(H), D),
        "hidden": from_linen(nn.GRUCell(H), D),
        "part_0 part_1": from_linen(Leaky(H), D, read=lambda p, s, d: s.part_0 + s.part_1),
        "memory shown": from_linen(nn.LSTMCell(H), D, parts=("memory", "shown")),
        "hidden before": from_nnx(NNX_LAST, D, parts=("hidden", "before"), read="hidden"),
    }
    for names, cell in states.items():
        state = cell.initial_state(cell.init(KEY, D, H))
        assert " ".join(state._fields) == names


def test_a_random_initial_carry_is_that_of_the_rnn():
    """nn.RNN draws a carry from key(0) when it is given none, and so does the cell."""
    module = nn.LSTMCell(H, carry_init=nn.initializers.normal(1.0))
    cell = from_linen(module, D)
    params = cell.init(KEY, D, H)
    xs = XS[0].astype(jnp.float32)
    carry, _ = nn.RNN(module, return_carry=True).apply({"params": {"cell": params}}, xs)
    state, _ = unroll(cell, params, xs)
    assert cell.initial_state(params).cell.any()
    chex.assert_trees_all_close(state, LSTMState(carry[1], carry[0]), rtol=1e-6, atol=1e-6)


class Counting(nn.RNNCellBase):
    """A module with a variable that is no parameter."""

    @nn.compact
    def __call__(self, carry, inputs):
        self.variable("counts", "steps", lambda: jnp.zeros(()))
        return carry, carry

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape)


class Twice(nn.RNNCellBase):
    """Both parts of its carry equal the output."""

    def __call__(self, carry, inputs):
        return (inputs, inputs), inputs

    def initialize_carry(self, rng, input_shape):
        return (jnp.zeros(input_shape),) * 2


NNX_DROP = functools.partial(nnx.GRUCell, D, H, keep_rngs=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: from_linen(nn.Dense(3), D), TypeError, "module must be a flax.linen.RNNCellBase"),
        (lambda: from_linen(nn.GRUCell(H), 0), ValueError, "input_size must be at least 1"),
        (lambda: from_linen(nn.GRUCell(H), 3.0), TypeError, "input_size must be an integer"),
        (lambda: from_linen(nn.GRUCell(H), D, parts="hidden"), TypeError, "parts must be a seq"),
        (
            lambda: from_linen(nn.GRUCell(H), D, parts=("a", "b")),
            ValueError,
            r"linen\(GRUCell\): the carry has 1 parts, got the names \('a', 'b'\)",
        ),
        (lambda: from_linen(nn.ConvLSTMCell(H, (2,)), D), ValueError, "cannot step on an input"),
        (lambda: from_linen(Counting(), D), ValueError, r"beside its parameters: \['counts'\]"),
        (
            lambda: from_linen(Leaky(H), D),
            ValueError,
            r"linen\(Leaky\): the output is 0 of the parts \('part_0', 'part_1'\)",
        ),
        (lambda: from_linen(Twice(), D), ValueError, r"the output is 2 of .* give read="),
        (
            lambda: from_linen(nn.LSTMCell(H), D, read="cell"),
            ValueError,
            r"read='cell' is not the output, which is \['hidden'\]",
        ),
        (lambda: from_linen(nn.LSTMCell(H), D, read="c"), ValueError, "read='c' is not the output"),
        # A wrong order of names is found out, a function that is a little wrong as well.
        (
            lambda: from_linen(nn.LSTMCell(H), D, parts=("hidden", "cell"), read="hidden"),
            ValueError,
            r"read='hidden' is not the output, which is \['cell'\]",
        ),
        (
            lambda: from_linen(nn.LSTMCell(H), D, read=lambda p, s, d: 1.01 * s.hidden),
            ValueError,
            "is not the output of the module",
        ),
        (
            lambda: from_linen(nn.LSTMCell(H), D, read=lambda p, s, d: s.hidden[:2]),
            ValueError,
            "is not the output of the module",
        ),
        (lambda: from_nnx(functools.partial(nnx.Linear, D, H), D), TypeError, "RNNCellBase"),
        (lambda: from_nnx(NNX_GRU, D + 1), ValueError, "cannot step on an input of shape"),
        (
            lambda: from_linen(nn.GRUCell(H), D).init(KEY, D + 1, H),
            ValueError,
            r"linen\(GRUCell\): input_size is fixed at 3, got 4",
        ),
        (
            lambda: from_nnx(NNX_GRU, D).init(KEY, D, H + 1),
            ValueError,
            r"nnx\(GRUCell\): hidden_size is fixed at 4, got 5",
        ),
        (
            lambda: from_linen(nn.GRUCell(H), D).init(KEY, D, H, scheme=schemes.orthogonal()),
            ValueError,
            r"scheme orthogonal: makes no sense for the cell linen\(GRUCell\)",
        ),
        (
            lambda: unroll(FOREIGN["GRUCell"](), draw(FOREIGN["GRUCell"]()), XS[0, :, :2]),
            ValueError,
            r"its last axes must be \(3,\)",
        ),
    ],
)
def test_bad_use_of_foreign_cells(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.filterwarnings("ignore:keep_rngs argument is deprecated")
def test_nnx_module_with_other_variables_is_refused():
    with pytest.raises(ValueError, match=r"nnx\(GRUCell\): the module has variables beside"):
        from_nnx(NNX_DROP, D)


def test_a_module_with_a_dtype_of_its_own_is_not_widened_in_silence():
    """nnx.SimpleCell computes in float32 by default: float64 parameters would lose half of it."""
    cell = from_nnx(functools.partial(nnx.SimpleCell, D, H), D)
    params = cell.init(KEY, D, H, dtype=jnp.float64)
    with pytest.raises(ValueError, match=r"float64\[4\].*into.*float32\[4\]"):
        unroll(cell, params, XS[0])
