"""haiku's VanillaRNN, LSTM and GRU with our weights, and ours with theirs."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop_cases import (
    B,
    D,
    H,
    T,
    agree,
    both_precisions,
    in_their_way,
    ours,
    problem,
    pulled,
    random_params,
    randomised,
    same_bits,
)

from rnn_jax import elman, gru, interop, lstm
from rnn_jax.combinators import bidirectional, chain, stack

CASES = {
    "vanilla": (elman("relu"), lambda: hk.VanillaRNN(H), {}),
    "vanilla, one bias": (
        elman("relu"),
        lambda: hk.VanillaRNN(H, double_bias=False),
        {"double_bias": False},
    ),
    "lstm": (lstm(), lambda: hk.LSTM(H), {}),
    "gru": (gru("before"), lambda: hk.GRU(H), {}),
    "named": (gru("before"), lambda: hk.GRU(H, name="encoder"), {"names": ["encoder"]}),
    "deep": (
        stack(lstm(), gru("before"), lstm(), elman("relu")),
        lambda: hk.DeepRNN([hk.LSTM(5), hk.GRU(3), hk.LSTM(6), hk.VanillaRNN(H)]),
        {},
    ),
}

every_case = pytest.mark.parametrize("case", CASES)


def transformed(make, dtype):
    """haiku's function of (weights, xs), and random weights."""

    def forward(xs):
        core = make()
        state = jax.tree.map(lambda a: a.astype(xs.dtype), core.initial_state(B))
        outputs, _ = hk.dynamic_unroll(core, xs.swapaxes(0, 1), state)
        return outputs.swapaxes(0, 1)

    pure = hk.without_apply_rng(hk.transform(forward))
    weights = in_their_way(pure.init)(jax.random.key(0), jnp.zeros((B, T, D), dtype))
    return pure.apply, randomised(weights, dtype)


@both_precisions
@every_case
def test_agreement(case, dtype):
    network, make, options = CASES[case]
    run, weights = transformed(make, dtype)
    read = functools.partial(interop.haiku.params_from, network, **options)
    given = problem(H, dtype, ragged=False)
    theirs = in_their_way(pulled)(run, weights, given)
    agree(ours(network, read(weights), given), theirs, given, dtype, weights, read)


@both_precisions
@every_case
def test_export(case, dtype):
    """haiku with our weights."""
    network, make, options = CASES[case]
    run, template = transformed(make, dtype)
    params = random_params(network, dtype, (5, 3, 6, H) if case == "deep" else H)
    weights = interop.haiku.weights_from(network, params, **options)
    assert jax.tree.map(np.shape, weights) == jax.tree.map(np.shape, template)
    given = problem(H, dtype, ragged=False)
    theirs = in_their_way(pulled)(run, weights, given)
    read = functools.partial(interop.haiku.params_from, network, **options)
    agree(ours(network, params, given), theirs, given, dtype, weights, read)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@every_case
def test_there_and_back(case, dtype):
    network, _, options = CASES[case]
    params = random_params(network, dtype)
    # Forget biases are rounded on the way, unless 1 can be subtracted without: 1/2 to 2 can.
    between = lambda a: jnp.clip(abs(a) + 0.5, 0.5, 2).astype(dtype)
    biases = lambda path, a: between(a) if path[-1].key == "bias" else a
    params = jax.tree_util.tree_map_with_path(biases, params)
    weights = interop.haiku.weights_from(network, params, **options)
    same_bits(interop.haiku.params_from(network, weights, **options), params)
    again = interop.haiku.weights_from(
        network, interop.haiku.params_from(network, weights, **options), **options
    )
    same_bits(again, weights)


@pytest.mark.parametrize("case", ["gru", "named", "vanilla, one bias"])
def test_weights_there_and_back(case):
    network, make, options = CASES[case]
    _, weights = transformed(make, "float32")
    params = interop.haiku.params_from(network, weights, **options)
    same_bits(interop.haiku.weights_from(network, params, **options), weights)


def test_the_forget_bias_is_rounded_once():
    params = random_params(lstm(), "float32")
    weights = interop.haiku.weights_from(lstm(), params)
    back = interop.haiku.params_from(lstm(), weights)
    forget = slice(H, 2 * H)
    stored = weights["lstm/linear"]["b"][2 * H : 3 * H]  # i, g, f, o
    np.testing.assert_array_equal(stored, np.asarray(params["bias"])[forget] - np.float32(1))
    # b - 1 and (b - 1) + 1 are each rounded to half a unit in the last place of a number below 2.
    np.testing.assert_allclose(back["bias"][forget], params["bias"][forget], rtol=0, atol=2e-7)
    assert (back["bias"][forget] != params["bias"][forget]).any()
    others = np.r_[:H, 2 * H : 4 * H]
    np.testing.assert_array_equal(back["bias"][others], params["bias"][others])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_error_of_the_forget_bias(dtype):
    """At most half a unit in the last place of b - 1, which is that of 1 for |b| < 1."""
    params = random_params(lstm(), dtype, hidden_size=300)
    random = np.random.default_rng(0)
    forget = random.normal(size=300) * 10 ** random.uniform(-12, 3, 300)
    bias = np.array(params["bias"])
    bias[300:600] = forget.astype(dtype)
    params |= {"bias": jnp.asarray(bias)}
    back = interop.haiku.params_from(lstm(), interop.haiku.weights_from(lstm(), params))
    got, expected = (np.asarray(p["bias"]) for p in (back, params))
    error, expected = abs(got - expected)[300:600], expected[300:600]
    assert (error <= np.spacing(abs(expected - 1)) / 2).all()
    assert 0 < error[abs(expected) < 1].max() <= np.finfo(dtype).eps / 2
    same_bits(back | {"bias": None}, params | {"bias": None})


def test_one_core_of_a_larger_model():
    """By name; what else the model has does not matter."""

    class Net(hk.Module):
        def __call__(self, xs):
            core = hk.LSTM(H, name="encoder")
            state = jax.tree.map(lambda a: a.astype(xs.dtype), core.initial_state(B))
            return hk.Linear(2)(hk.dynamic_unroll(core, xs, state)[0])

    init = in_their_way(hk.transform(lambda xs: Net()(xs)).init)
    weights = init(jax.random.key(0), jnp.zeros((T, B, D), jnp.float32))
    name = "net/encoder"
    params = interop.haiku.params_from(lstm(), weights, names=[name])
    rows = weights[f"{name}/linear"]["w"]
    np.testing.assert_array_equal(params["kernel"][:, :H], rows[:D, :H])
    np.testing.assert_array_equal(params["bias"][H : 2 * H], 1)
    with pytest.raises(ValueError, match="missing: lstm/linear/w"):
        interop.haiku.params_from(lstm(), weights)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (gru(), "haiku has no gru: GRU resets before"),
        (elman(), "haiku has no elman: VanillaRNN is ReLU"),
        (chain(lstm(), elman("sigmoid")), "haiku has no elman_sigmoid: VanillaRNN is ReLU"),
        (lstm(projection=2), "haiku has no lstm_projection2"),
        (bidirectional(lstm()), "haiku has no bidirectional layers"),
    ],
    ids=str,
)
def test_networks_that_haiku_does_not_have(network, reason):
    params = random_params(network, "float32")
    with pytest.raises(ValueError, match=reason):
        interop.haiku.weights_from(network, params)
    with pytest.raises(ValueError, match=reason):
        interop.haiku.params_from(network, {"gru": {"b": np.zeros(12)}})


@pytest.mark.parametrize("names", [[], ["a", "b"], "lstm"])
def test_names_of_another_number(names):
    with pytest.raises(ValueError, match="names: expected one for each of the 1 cells"):
        interop.haiku.weights_from(lstm(), random_params(lstm(), "float32"), names=names)
