"""What the tests of imported and exported weights share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import length_mask, unroll

B, T, D, H = 3, 6, 3, 4
LENGTHS = np.array([6, 1, 4])

# Agreement of values and gradients, relative to the largest: the same arithmetic in another order.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}

both_precisions = pytest.mark.parametrize(
    "dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)]
)


class Pulled(NamedTuple):
    """Outputs (B, T, Y) and the gradients of <cotangent, outputs>."""

    outputs: Any
    by_weights: Any
    by_xs: Any


class Problem(NamedTuple):
    """A batch of inputs (B, T, D), where they are valid (B, T), and a cotangent (B, T, Y)."""

    xs: np.ndarray
    valid: np.ndarray
    cotangent: np.ndarray


def problem(outputs, dtype, *, ragged):
    random = np.random.default_rng(1)
    valid = np.arange(T) < (LENGTHS[:, None] if ragged else np.full((B, 1), T))
    xs, cotangent = (random.normal(size=(B, T, size)).astype(dtype) for size in (D, outputs))
    return Problem(xs, valid, cotangent * valid[..., None].astype(dtype))


def randomised(tree, dtype, seed=0):
    """Random weights in the shapes of a tree; no gate saturates and no two are equal."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda a: (0.4 * random.normal(size=np.shape(a))).astype(dtype), tree)


def random_params(network, dtype, hidden_size=H):
    shapes = jax.eval_shape(lambda key: network.init(key, D, hidden_size), jax.random.key(0))
    return jax.tree.map(jnp.asarray, randomised(shapes, dtype, seed=2))


def ours(network, params, given):
    """This library's side of a problem."""
    lengths = jnp.asarray(given.valid.sum(axis=1))

    def run(params, xs):
        one = lambda xs, mask: unroll(network, params, xs, mask=mask)[1].outputs
        return jax.vmap(one, in_axes=(0, 1))(xs, length_mask(lengths, T))

    return pulled(run, params, given)


def pulled(run, weights, given):
    """`Pulled` of a function of (weights, xs) in JAX."""

    @jax.jit
    def both(weights, xs, cotangent):
        outputs, vjp = jax.vjp(run, weights, xs)
        return Pulled(outputs, *vjp(cotangent.astype(outputs.dtype)))

    return both(weights, jnp.asarray(given.xs), jnp.asarray(given.cotangent))


def in_their_way(run):
    """A library's own function, for which strict promotion was not made."""

    @functools.wraps(run)
    def relaxed(*args, **options):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return run(*args, **options)

    return relaxed


def close(got, expected, dtype):
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * abs(expected).max())


def agree(mine, theirs, given, dtype, weights, read):
    """Values and all gradients are the same.

    Theirs are gradients by their weights W, ours by P = read(W), affine. So along any direction E,
    <dL/dW, E> = <dL/dP, read(W + E) - read(W)>: here along random ones, entry by entry.
    """
    valid = given.valid[..., None]
    close(np.where(valid, mine.outputs, 0), np.where(valid, theirs.outputs, 0), dtype)
    close(mine.by_xs, theirs.by_xs, dtype)

    leaves, structure = jax.tree.flatten(weights)
    gradients = jax.tree.leaves(theirs.by_weights)
    assert len(leaves) == len(gradients) > 0
    # Powers of two, so that adding them to zero and to 1 is exact in either precision.
    random = np.random.default_rng(3)
    origin = read(jax.tree.map(np.zeros_like, weights))
    for number, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        direction = random.choice(np.array([-1, -0.5, 0.5, 1], dtype), leaf.shape)
        rest = [np.zeros_like(other) for other in leaves]
        rest[number] = direction
        moved = jax.tree.map(jnp.subtract, read(structure.unflatten(rest)), origin)
        along = sum(
            np.vdot(np.asarray(a, float), np.asarray(b, float))
            for a, b in zip(jax.tree.leaves(mine.by_weights), jax.tree.leaves(moved), strict=True)
        )
        gradient = np.asarray(gradient, float)
        scale = np.linalg.norm(gradient) * np.linalg.norm(np.asarray(direction, float))
        assert scale > 0
        # Sums over all entries of sums over all steps, whose order depends on the processor.
        assert abs(along - np.vdot(gradient, direction)) <= 4 * TOLERANCE[dtype] * scale


def bits(tree):
    """A tree with every array as its dtype, shape and bytes."""
    return jax.tree.map(lambda a: (str(a.dtype), a.shape, np.asarray(a).tobytes()), tree)


def same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert bits(got) == bits(expected)
