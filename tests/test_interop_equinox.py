"""equinox' LSTMCell and GRUCell with our weights, and ours with theirs."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from interop_cases import (
    D,
    H,
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
from rnn_jax.combinators import bidirectional, stack

CELLS = {"lstm": (lstm(), eqx.nn.LSTMCell), "gru": (gru(), eqx.nn.GRUCell)}

every_cell = pytest.mark.parametrize("cell", CELLS)


def arrays_of(module):
    return {name: value for name, value in vars(module).items() if eqx.is_array(value)}


def filled(module, weights):
    """The recipe of the documentation."""
    return eqx.tree_at(
        lambda m: [getattr(m, name) for name in weights], module, [*weights.values()]
    )


@both_precisions
@every_cell
def test_agreement(cell, dtype):
    """Of ours with equinox' weights, and of equinox with ours: they are the same bits."""
    cell, make = CELLS[cell]
    module = make(D, H, dtype=dtype, key=jax.random.key(0))
    weights = randomised(arrays_of(module), dtype)
    read = functools.partial(interop.equinox.params_from, cell)
    exported = interop.equinox.weights_from(cell, read(weights))
    same_bits(dict(sorted(exported.items())), dict(sorted(weights.items())))

    def run(weights, xs):
        step = filled(module, weights)

        def one(xs):
            zeros = jnp.zeros(H, xs.dtype)
            state = (zeros, zeros) if cell is lstm() else zeros

            def body(state, x):
                state = step(x, state)
                return state, state[0] if cell is lstm() else state

            return jax.lax.scan(body, state, xs)[1]

        return jax.vmap(one)(xs)

    given = problem(H, dtype, ragged=False)
    theirs = in_their_way(pulled)(run, weights, given)
    agree(ours(cell, read(weights), given), theirs, given, dtype, weights, read)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@every_cell
def test_there_and_back(cell, dtype):
    cell, _ = CELLS[cell]
    params = random_params(cell, dtype)
    weights = interop.equinox.weights_from(cell, params)
    same_bits(interop.equinox.params_from(cell, weights), params)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (elman(), "equinox has no elman: it has LSTMCell and GRUCell only"),
        (gru("before"), "equinox has no gru_before: GRUCell resets after"),
        (stack(gru(), gru()), "convert each cell by itself"),
        (bidirectional(gru()), "convert each cell by itself"),
    ],
    ids=str,
)
def test_networks_that_equinox_does_not_have(network, reason):
    with pytest.raises(ValueError, match=reason):
        interop.equinox.weights_from(network, random_params(network, "float32"))
    with pytest.raises(ValueError, match=reason):
        interop.equinox.params_from(network, {})
