"""The cells of flax.linen and flax.nnx with our weights, and ours with theirs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
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

# Minutes together.
pytestmark = pytest.mark.slow

ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "identity": lambda x: x}

# A module from the dtype of everything in it, and for nnx the size of its input.


def linen(make, **options):
    return lambda dtype: nn.RNN(make(H, dtype=dtype, param_dtype=dtype, **options))


def fused(make, **options):
    def layer(dtype, d=D):
        rngs = nnx.Rngs(0)
        cell = make(d, H, dtype=dtype, param_dtype=dtype, rngs=rngs, **options)
        return nnx.RNN(cell, rngs=rngs)

    return layer


LINEN = {
    "tanh": (elman(), linen(nn.SimpleCell)),
    **{
        name: (elman(name), linen(nn.SimpleCell, activation_fn=function))
        for name, function in ACTIVATIONS.items()
    },
    "lstm": (lstm(), linen(nn.LSTMCell)),
    "optimized lstm": (lstm(), linen(nn.OptimizedLSTMCell)),
    "gru": (gru(), linen(nn.GRUCell)),
    "bidirectional": (
        bidirectional(gru(), lstm()),
        lambda dtype: nn.Bidirectional(linen(nn.GRUCell)(dtype), linen(nn.LSTMCell)(dtype)),
    ),
    "chain": (
        chain(bidirectional(gru()), lstm()),
        lambda dtype: nn.Sequential(
            [
                nn.Bidirectional(linen(nn.GRUCell)(dtype), linen(nn.GRUCell)(dtype)),
                linen(nn.LSTMCell)(dtype),
            ]
        ),
    ),
    "stack": (
        stack(elman(), gru()),
        lambda dtype: nn.Sequential([linen(nn.SimpleCell)(dtype), linen(nn.GRUCell)(dtype)]),
    ),
}
NNX = {
    "tanh": (elman(), fused(nnx.SimpleCell)),
    **{
        name: (elman(name), fused(nnx.SimpleCell, activation_fn=function))
        for name, function in ACTIVATIONS.items()
    },
    "lstm": (lstm(), fused(nnx.LSTMCell)),
    "optimized lstm": (lstm(), fused(nnx.OptimizedLSTMCell)),
    "gru": (gru(), fused(nnx.GRUCell)),
    "bidirectional": (
        bidirectional(gru(), lstm()),
        lambda dtype: nnx.Bidirectional(
            fused(nnx.GRUCell)(dtype), fused(nnx.OptimizedLSTMCell)(dtype), rngs=nnx.Rngs(0)
        ),
    ),
    "chain": (
        chain(bidirectional(gru()), lstm()),
        lambda dtype: nnx.Sequential(
            nnx.Bidirectional(
                fused(nnx.GRUCell)(dtype), fused(nnx.GRUCell)(dtype), rngs=nnx.Rngs(0)
            ),
            fused(nnx.LSTMCell)(dtype, 2 * H),
        ),
    ),
    "stack": (
        stack(elman(), gru()),
        lambda dtype: nnx.Sequential(fused(nnx.SimpleCell)(dtype), fused(nnx.GRUCell)(dtype, H)),
    ),
}
SEQUENTIAL = {"chain", "stack"}
"""The networks of a Sequential, which passes no lengths on."""
PLAIN = {"lstm", "chain"}
"""The networks of nnx with its LSTMCell, which is not fused."""
CASES = [("linen", name) for name in LINEN] + [("nnx", name) for name in NNX]

every_case = pytest.mark.parametrize(("library", "network"), CASES)


def case(library, network, dtype):
    """(our network, import, export, Flax' function of (weights, xs, lengths), its weights).

    The weights are as our import takes them: without the level of an ``RNN`` around one cell.
    """
    mine, make = (LINEN if library == "linen" else NNX)[network]
    whole = lambda weights: weights if hasattr(mine, "unroll") or mine.parts else {"cell": weights}
    if library == "linen":
        module = make(dtype)
        weights = in_their_way(module.init)(jax.random.key(0), jnp.zeros((B, T, D), dtype))
        weights = weights["params"]
        run = lambda weights, xs, options: module.apply({"params": whole(weights)}, xs, **options)
        options = {}
    else:
        module = in_their_way(make)(dtype)
        graph, state, rest = nnx.split(module, nnx.Param, ...)
        weights = nnx.to_pure_dict(state)

        def run(weights, xs, options):
            filled = jax.tree.map(lambda a: a, state)
            nnx.replace_by_pure_dict(filled, whole(weights))
            # The state before the first step is drawn by a generator of its own, and zero.
            return nnx.merge(graph, filled, rest, copy=True)(xs, **options)

        options = {"optimized": network not in PLAIN}
    ways = interop.flax_linen if library == "linen" else interop.flax_nnx
    weights = weights["cell"] if set(weights) == {"cell"} else weights
    return (
        mine,
        functools.partial(ways.params_from, mine, **options),
        functools.partial(ways.weights_from, mine, **options),
        run,
        randomised(weights, dtype),
    )


@both_precisions
@pytest.mark.parametrize(
    ("library", "network", "ragged"),
    [
        pytest.param(library, network, ragged, id=f"{library}-{network}-{lengths}")
        for library, network in CASES
        for lengths, ragged in {"whole": False, "ragged": True}.items()
        if not (ragged and network in SEQUENTIAL)
    ],
)
def test_agreement(library, network, ragged, dtype):
    """Of ours with Flax' weights, and of Flax with ours: they are the same bits."""
    network, read, write, run, weights = case(library, network, dtype)
    same_bits(write(read(weights)), weights)
    outputs = H * (2 if network.name.startswith("bidirectional") else 1)
    given = problem(outputs, dtype, ragged=ragged)
    options = {"seq_lengths": jnp.asarray(given.valid.sum(axis=1))} if ragged else {}
    theirs = in_their_way(pulled)(lambda weights, xs: run(weights, xs, options), weights, given)
    agree(ours(network, read(weights), given), theirs, given, dtype, weights, read)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@every_case
def test_there_and_back(library, network, dtype):
    network, read, write, _, _ = case(library, network, "float32")
    params = random_params(network, dtype)
    if library == "nnx":  # which has no b_hn
        forget = lambda path, a: jnp.zeros_like(a) if "recurrent_bias" in str(path) else a
        params = jax.tree_util.tree_map_with_path(forget, params)
    same_bits(read(write(params)), params)
    same_bits(write(read(write(params))), write(params))


def test_nnx_has_no_second_bias_in_its_gru():
    params = random_params(gru(), "float32")
    with pytest.raises(ValueError, match=r"flax\.nnx: its GRUCell has no b_hn"):
        interop.flax_nnx.weights_from(gru(), params)
    params["recurrent_bias"] = -jnp.zeros(H, jnp.float32)
    weights = interop.flax_nnx.weights_from(gru(), params)
    assert not interop.flax_nnx.params_from(gru(), weights)["recurrent_bias"].any()


def test_the_two_layouts_of_nnx_lstm():
    params = random_params(lstm(), "float32")
    weights = interop.flax_nnx.weights_from(lstm(), params, optimized=False)
    same_bits(interop.flax_nnx.params_from(lstm(), weights, optimized=False), params)
    with pytest.raises(ValueError, match=r"missing: dense_i/kernel.*unexpected: ii/kernel"):
        interop.flax_nnx.params_from(lstm(), weights)


@pytest.mark.parametrize("module", [interop.flax_linen, interop.flax_nnx])
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (gru("before"), "has no gru_before: GRUCell resets after"),
        (lstm(projection=2), "has no lstm_projection2"),
        (bidirectional(stack(lstm(), lstm())), "joins two directions after every layer"),
    ],
    ids=str,
)
def test_networks_that_flax_does_not_have(module, network, reason):
    params = random_params(network, "float32")
    with pytest.raises(ValueError, match=reason):
        module.weights_from(network, params)
    with pytest.raises(ValueError, match=reason):
        module.params_from(network, {"kernel": np.zeros((3, 4))})
