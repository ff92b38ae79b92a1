"""Laws of sequences over drawn nests of combinators, masks, resets and lengths.

A nest is drawn as nested tuples. What it computes is written down here a second time, in plain
loops over the cells at its leaves, which know nothing of masks, resets, batches or compilation.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close, normal_like
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_jax import cells, elman, gru, length_mask, lstm, unroll
from rnn_jax.combinators import (
    bidirectional,
    chain,
    residual,
    skip,
    stack,
    with_dropout,
    with_layer_norm,
    with_learned_state,
)

STEPS, SIZE = 5, 2
LEAVES = {"elman": elman(), "lstm": lstm(), "gru": gru(), "mingru": cells.mingru()}
WRAPPERS = {
    "residual": residual,
    "norm": with_layer_norm,
    "learned": with_learned_state,
    "dropout": functools.partial(with_dropout, input=0.5, output=0.5),
}

# ---- Nests --------------------------------------------------------------------------------------

of_cells = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda inner: (
        st.tuples(st.sampled_from(sorted(WRAPPERS)), inner)
        | st.tuples(st.just("stack"), inner, inner)
    ),
    max_leaves=3,
)
of_layers = st.recursive(
    of_cells,
    lambda inner: st.tuples(st.sampled_from(["chain", "sum"]), inner, inner),
    max_leaves=3,
)
# These two widen the output, which what adds its input to it cannot have below.
nests = of_layers | st.tuples(st.just("beside"), of_layers) | st.tuples(st.just("skip"), of_cells)


def network(nest):
    """The combinators of the library, nested."""
    if isinstance(nest, str):
        return LEAVES[nest]
    kind, *inner = nest
    parts = [network(part) for part in inner]
    make = WRAPPERS | {
        "stack": stack,
        "chain": chain,
        "sum": functools.partial(bidirectional, merge="sum"),
        "beside": bidirectional,
        "skip": skip,
    }
    return make[kind](*parts)


def composed(nest, params, xs):
    """The outputs of a nest, by hand; ``params`` are those of `network`."""
    if isinstance(nest, str):
        cell = LEAVES[nest]
        return looped(cell, params, cell.initial_state(params), xs)
    kind, *inner = nest
    match kind:
        case "stack" | "chain":
            for part, own in zip(inner, params, strict=True):
                xs = composed(part, own, xs)
            return xs
        case "sum" | "beside":
            forward, backward = inner * (3 - len(inner))
            there = composed(forward, params["forward"], xs)
            back = composed(backward, params["backward"], xs[::-1])[::-1]
            return there + back if kind == "sum" else jnp.concatenate([there, back], axis=1)
        case "residual":
            return xs + composed(inner[0], params, xs)
        case "skip":
            return jnp.concatenate([xs, composed(inner[0], params, xs)], axis=1)
        case "dropout":  # without keys
            return composed(inner[0], params, xs)
        case "norm":
            ys = composed(inner[0], params["cell"], xs)
            centred = ys - ys.mean(axis=1, keepdims=True)
            deviation = jnp.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
            return params["gain"][None] * centred / deviation + params["shift"][None]
        case "learned":
            return looped(network(inner[0]), params["cell"], params["initial"], xs)
    raise AssertionError(kind)


def looped(cell, params, state, xs):
    outputs = []
    for x in xs:
        state, output = cell(params, state, x)
        outputs.append(output)
    return jnp.stack(outputs)


def in_parts(nest, params, xs, mask, reset):
    """`composed` for each sequence between two resets, without its padding: outputs there are 0."""
    width = composed(nest, params, jnp.zeros((1, SIZE))).shape[1]
    outputs = np.zeros((STEPS, width))
    borders = [0, *(t for t in range(1, STEPS) if reset[t]), STEPS]
    for start, end in itertools.pairwise(borders):
        valid = start + np.flatnonzero(mask[start:end])
        if valid.size:
            outputs[valid] = composed(nest, params, xs[valid])
    return jnp.asarray(outputs)


def drawn(layer):
    """Parameters in general position, and an input."""
    params = layer.init(jax.random.key(0), SIZE, SIZE, dtype=jnp.float64)
    params = jax.tree.map(lambda p, e: p + 0.3 * e, params, normal_like(params, 1))
    return params, normal_like(jax.ShapeDtypeStruct((STEPS, SIZE), jnp.float64), 2)


flags = st.lists(st.booleans(), min_size=STEPS, max_size=STEPS).map(np.array)
quick = settings(max_examples=5)
thorough = settings(max_examples=25)

# ---- Laws ---------------------------------------------------------------------------------------


def check_composition(nest, mask, reset):
    """Any nest is its composition by hand: padding is skipped, whatever it holds, and a reset
    is a split, in both directions of reading."""
    layer = network(nest)
    params, xs = drawn(layer)
    dirty = xs.at[~mask].set(jnp.nan)
    run = jax.jit(lambda params, xs: unroll(layer, params, xs, mask=mask, reset=reset)[1].outputs)
    close(run(params, dirty), in_parts(nest, params, xs, mask, reset))


def check_gradient(nest, mask, reset):
    """So is its gradient, by parameters and inputs."""
    layer = network(nest)
    params, xs = drawn(layer)

    def total(outputs):
        return jnp.sum(jnp.sin(outputs + jnp.arange(1.0 * outputs.size).reshape(outputs.shape)))

    def whole(params, xs):
        return total(unroll(layer, params, xs, mask=mask, reset=reset)[1].outputs)

    def parts(params, xs):
        outputs = jnp.zeros(jax.eval_shape(composed_here, params, xs).shape)
        borders = [0, *(t for t in range(1, STEPS) if reset[t]), STEPS]
        for start, end in itertools.pairwise(borders):
            valid = start + np.flatnonzero(mask[start:end])
            if valid.size:
                outputs = outputs.at[valid].set(composed_here(params, xs[valid]))
        return total(outputs)

    composed_here = functools.partial(composed, nest)
    got = jax.jit(jax.grad(whole, (0, 1)))(params, xs)
    close(got, jax.jit(jax.grad(parts, (0, 1)))(params, xs))


def check_ways_to_run(nest, lengths, reverse):
    """Compiled or not, in a batch or one by one, masked or cut off, read backwards or turned."""
    layer = network(nest)
    params, xs = drawn(layer)
    batch = jnp.stack([xs, 2 * xs])

    def one(xs, mask):
        state, trajectory = unroll(layer, params, xs, mask=mask, reverse=reverse)
        return state, trajectory.outputs

    masks = length_mask(np.array(lengths), STEPS).T
    together = jax.jit(jax.vmap(one))(batch, masks)
    for number, length in enumerate(lengths):
        alone = jax.tree.map(lambda leaf, n=number: leaf[n], together)
        with jax.disable_jit():
            close(alone, one(batch[number], masks[number]))
        short = batch[number, :length]
        turned = short[::-1] if reverse else short
        state, trajectory = unroll(layer, params, turned)
        outputs = trajectory.outputs[::-1] if reverse else trajectory.outputs
        close(alone[1][:length], outputs)
        assert not jnp.any(alone[1][length:])
        if not any(kind in repr(nest) for kind in ("sum", "beside")):
            close(alone[0], state)  # of two directions, the turned one has the states exchanged


@quick
@given(nests, flags, flags)
def test_a_nest_is_its_composition(nest, mask, reset):
    check_composition(nest, mask, reset)


@quick
@given(nests, st.tuples(*[st.integers(0, STEPS)] * 2), st.booleans())
def test_ways_to_run_agree(nest, lengths, reverse):
    check_ways_to_run(nest, lengths, reverse)


@pytest.mark.slow
@thorough
@given(nests, flags, flags)
def test_a_nest_and_its_gradient_are_its_composition(nest, mask, reset):
    check_composition(nest, mask, reset)
    check_gradient(nest, mask, reset)


@pytest.mark.slow
@thorough
@given(nests, st.tuples(*[st.integers(0, STEPS)] * 2), st.booleans())
def test_ways_to_run_agree_on_many(nest, lengths, reverse):
    check_ways_to_run(nest, lengths, reverse)
