"""Keras' SimpleRNN, LSTM and GRU with our weights, and ours with theirs."""

import functools

import jax.numpy as jnp
import keras
import numpy as np
import pytest
from interop_cases import (
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
from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE

from rnn_jax import elman, gru, interop, lstm
from rnn_jax.combinators import bidirectional, chain, stack

# Minutes together.
pytestmark = pytest.mark.slow


def rnn(cells, dtype):
    return keras.layers.RNN(cells, return_sequences=True, dtype=dtype)


def layer(make, **options):
    return lambda dtype: make(H, return_sequences=True, dtype=dtype, **options)


LAYERS, CELLS = keras.layers, keras.layers
both = lambda make: lambda dtype: keras.layers.Bidirectional(make(dtype), dtype=dtype)
NETWORKS = {
    "tanh": (elman(), layer(LAYERS.SimpleRNN)),
    "relu": (elman("relu"), layer(LAYERS.SimpleRNN, activation="relu")),
    "sigmoid": (elman("sigmoid"), layer(LAYERS.SimpleRNN, activation="sigmoid")),
    "linear": (elman("identity"), layer(LAYERS.SimpleRNN, activation="linear")),
    "lstm": (lstm(), layer(LAYERS.LSTM)),
    "gru": (gru(), layer(LAYERS.GRU)),
    "gru_before": (gru("before"), layer(LAYERS.GRU, reset_after=False)),
    "stack": (
        stack(lstm(), gru(), gru("before")),
        lambda dtype: rnn(
            [
                CELLS.LSTMCell(5, dtype=dtype),
                CELLS.GRUCell(3, dtype=dtype),
                CELLS.GRUCell(H, reset_after=False, dtype=dtype),
            ],
            dtype,
        ),
    ),
    "bidirectional": (bidirectional(gru()), both(layer(LAYERS.GRU))),
    "bidirectional stack": (
        bidirectional(stack(gru(), lstm())),
        both(
            lambda dtype: rnn(
                [CELLS.GRUCell(5, dtype=dtype), CELLS.LSTMCell(H, dtype=dtype)], dtype
            )
        ),
    ),
    "model": (
        chain(bidirectional(lstm()), gru()),
        lambda dtype: keras.Sequential([both(layer(LAYERS.LSTM))(dtype), layer(LAYERS.GRU)(dtype)]),
    ),
}
LOSSY = {"gru", "stack", "bidirectional", "bidirectional stack", "model"}
"""Those with a GRU of two biases, which are added."""

every_network = pytest.mark.parametrize("network", NETWORKS)


@pytest.fixture(autouse=True)
def _wide_keras(monkeypatch):
    """Keras on JAX rounds float64 to float32 in its activations; here it does not."""
    monkeypatch.setitem(BIT64_TO_BIT32_DTYPE, "float64", "float64")
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@in_their_way
def pair(network, dtype):
    """Our network and Keras' layer or model, built, with random weights."""
    # A layer's own dtype is not enough: a model casts its inputs to floatx, and the copies that
    # Bidirectional makes of cells follow the policy, which is the floatx of its first use.
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    ours, make = NETWORKS[network]
    theirs = make(dtype)
    theirs.build((None, T, D))
    theirs.set_weights(randomised(theirs.get_weights(), dtype))
    return ours, theirs


@both_precisions
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@every_network
def test_agreement(network, ragged, dtype):
    """Of ours with Keras' weights, and of Keras with ours."""
    network, module = pair(network, dtype)
    read = functools.partial(interop.keras.params_from, network)
    if not ragged:
        # Keras takes what we export, and hands the same back.
        exported = interop.keras.weights_from(network, read(module.get_weights()))
        module.set_weights(exported)
        same_bits(module.get_weights(), exported)
    weights = module.get_weights()
    params = read(weights)

    def run(weights, xs):
        rest = [variable.value for variable in module.non_trainable_variables]
        mask = jnp.asarray(given.valid) if ragged else None
        return module.stateless_call(weights, rest, xs, mask=mask)[0]

    outputs = H * (2 if "bidirectional(" in network.name and "chain" not in network.name else 1)
    given = problem(outputs, dtype, ragged=ragged)
    theirs = in_their_way(pulled)(run, [jnp.asarray(array) for array in weights], given)
    agree(ours(network, params, given), theirs, given, dtype, weights, read)


@every_network
def test_there_and_back(network):
    mine, module = pair(network, "float32")
    params = random_params(mine, "float32")
    same_bits(interop.keras.params_from(mine, interop.keras.weights_from(mine, params)), params)
    weights = module.get_weights()
    back = interop.keras.weights_from(mine, interop.keras.params_from(mine, weights))
    if network not in LOSSY:
        same_bits(back, weights)


def test_what_is_lost_is_how_two_biases_share_their_sum():
    network, module = pair("gru", "float32")
    kernel, recurrent_kernel, bias = module.get_weights()
    back = interop.keras.weights_from(
        network,
        interop.keras.params_from(
            network,
            [
                kernel,
                recurrent_kernel,
                bias,
            ],
        ),
    )
    same_bits(back[:2], [kernel, recurrent_kernel])
    gates = 2 * H
    np.testing.assert_array_equal(back[2][0, :gates], bias[0, :gates] + bias[1, :gates])
    assert not back[2][1, :gates].any()
    np.testing.assert_array_equal(back[2][:, gates:], bias[:, gates:])


def test_another_architecture():
    weights = interop.keras.weights_from(lstm(), random_params(lstm(), "float32"))
    with pytest.raises(ValueError, match="got 2 weights, expected 3 for lstm"):
        interop.keras.params_from(lstm(), weights[:2])
    with pytest.raises(ValueError, match="got 3 weights, expected 6"):
        interop.keras.params_from(bidirectional(lstm()), weights)
    with pytest.raises(ValueError, match=r"\(recurrent_kernel\)' has shape \(4, 16\), expected"):
        interop.keras.params_from(elman(), weights)
    with pytest.raises(ValueError, match=r"entry 'weights\[2\] \(bias\)' has shape \(2, 12\)"):
        interop.keras.params_from(
            gru("before"), interop.keras.weights_from(gru(), random_params(gru(), "float32"))
        )


@pytest.mark.parametrize("network", [lstm(peephole=True), lstm(projection=2)], ids=str)
def test_networks_that_keras_does_not_have(network):
    with pytest.raises(ValueError, match=rf"Keras has no .*{network.name}"):
        interop.keras.weights_from(network, random_params(network, "float32"))
