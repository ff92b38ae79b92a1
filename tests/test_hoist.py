"""Hoisted weight gradients: those of the plain scan, of every order, and out of the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

import rnn_jax
from rnn_jax import hoist
from rnn_jax.cells import lookup

STEPS, BATCH, INPUT, HIDDEN = 6, 3, 2, 5
CELLS = (
    "elman",
    "lstm",
    "gru",
    "gru reset before",
    "rhn",
    "lem",
    "minimal_rnn",
    "lru",
    "cayley_rnn",
)


def made(name):
    name, _, option = name.partition(" reset ")
    return lookup(name, {"reset": option} if option else {})


def loss_of(cell, **options):
    """A mean over a batch of sequences of what is neither linear nor symmetric."""

    def loss(params, xs):
        def one(x):
            state, trajectory = rnn_jax.unroll(cell, params, x, **options)
            return jnp.sum(jnp.sin(trajectory.outputs)) + sum(
                jnp.sum(leaf.real**3) for leaf in jax.tree.leaves(state)
            )

        return jnp.mean(jax.vmap(one, in_axes=1)(xs))

    return loss


def drawn(cell):
    params = cell.init(jax.random.key(0), INPUT, HIDDEN, dtype=jnp.float64)
    return params, jax.random.normal(jax.random.key(1), (STEPS, BATCH, INPUT))


def assert_close(got, expected):
    # Some hundred terms of size one, summed in another order: 1e-16 each.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12), got, expected
    )


@pytest.mark.parametrize("name", CELLS)
def test_batches_have_the_gradients_of_the_plain_scan(name):
    cell = made(name)
    args = drawn(cell)
    gradients = [
        jax.jit(jax.value_and_grad(loss_of(cell, hoist=flag), (0, 1)))(*args)
        for flag in (True, False)
    ]
    assert_close(*gradients)


@pytest.mark.parametrize("name", ["lstm", "gru reset before"])
def test_second_derivatives(name):
    cell = made(name)
    params, xs = drawn(cell)
    direction = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params
    )

    def curvature(loss, outer):
        slope = lambda params: jax.grad(loss)(params, xs)
        if outer == "forward":
            return jax.jvp(slope, (params,), (direction,))[1]
        along = lambda params: jax.jvp(lambda p: loss(p, xs), (params,), (direction,))[1]
        return jax.grad(along)(params)

    plain = curvature(loss_of(cell, hoist=False), "forward")
    for outer in ("forward", "reverse"):
        assert_close(jax.jit(functools.partial(curvature, loss_of(cell), outer))(), plain)


def test_what_a_body_closes_over_is_differentiated():
    weights, h = jnp.array([[0.3, -0.2], [0.5, 0.1]]), jnp.ones(2)

    def end(scan, weights):
        return scan(lambda _, h, x: (jnp.tanh(h @ weights + x),) * 2, (), h, jnp.ones((4, 2)))[0]

    def plain(body, params, state, xs):
        return jax.lax.scan(functools.partial(body, params), state, xs)

    for derivative in (jax.jacrev, jax.jacfwd):
        got, expected = (
            jax.jit(derivative(functools.partial(end, scan)))(weights)
            for scan in (hoist.scan, plain)
        )
        assert_close(got, expected)


def test_states_and_inputs_that_are_no_numbers_pass():
    """Counters and keys in the state and in the inputs have no derivative and need none."""
    keys = jax.random.split(jax.random.key(0), 4)

    def end(weights):
        def body(weights, state, key):
            count, h = state
            h = jnp.tanh(h @ weights + jax.random.normal(key, (2,))) * (count % 2 + 1)
            return (count + 1, h), count

        (count, h), counts = hoist.scan(body, weights, (0, jnp.ones(2)), keys)
        return h.sum(), (count, counts)

    gradient, (count, counts) = jax.jit(jax.grad(end, has_aux=True))(jnp.eye(2) / 2)
    assert (int(count), counts.tolist()) == (4, [0, 1, 2, 3])
    h = 1e-6
    for i, j in np.ndindex(2, 2):
        beyond, before = (end((jnp.eye(2) / 2).at[i, j].add(shift))[0] for shift in (h, -h))
        np.testing.assert_allclose(gradient[i, j], (beyond - before) / (2 * h), rtol=1e-6)


def accumulators(jaxpr, shape):
    """How many values of a shape are carried from step to step by the scans of a program."""
    found = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            # What is not carried has the steps as its first axis.
            found += sum(v.aval.shape == shape for v in equation.outvars)
        for inner in core.jaxprs_in_params(equation.params):
            found += accumulators(inner, shape)
    return found


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "minimal_rnn"])
def test_the_loop_carries_no_weight_gradient(name):
    cell = made(name)
    args = drawn(cell)
    shape = args[0]["recurrent_kernel"].shape
    count = {
        flag: accumulators(jax.make_jaxpr(jax.grad(loss_of(cell, hoist=flag)))(*args).jaxpr, shape)
        for flag in (True, False)
    }
    assert count == {True: 0, False: 1}


def test_a_body_without_weights_is_the_plain_scan():
    body = lambda a, h, x: (a * h + x, h)
    assert not hoist.has_maps(body, jnp.ones(2), jnp.ones(2), jnp.ones(2))
    scan = functools.partial(hoist.scan, body)
    assert "custom_jvp" not in str(jax.make_jaxpr(scan)(jnp.ones(2), jnp.ones(2), jnp.ones((3, 2))))


def test_a_step_may_print(capfd):
    def body(w, h, x):
        jax.debug.print("h {}", h[0])
        return (jnp.tanh(h @ w + x),) * 2

    jax.grad(lambda w: hoist.scan(body, w, jnp.ones(2), jnp.ones((3, 2)))[0].sum())(jnp.eye(2))
    jax.effects_barrier()
    assert "h 1.0" in capfd.readouterr().out  # again where the reverse scan computes it again


PRODUCTS = {
    "on the right": ("i,io->o", (3,), (3, 2)),
    "on the left": ("oi,i->o", (2, 3), (3,)),
    "rows of a matrix": ("ri,io->ro", (4, 3), (3, 2)),
    "columns of a matrix": ("oi,ic->oc", (2, 3), (3, 4)),
    "two axes": ("rij,ijo->ro", (4, 3, 2), (3, 2, 5)),
    "two axes, the other order": ("jir,oij->ro", (3, 2, 4), (5, 2, 3)),
    "a tensor of weights": ("i,iab->ab", (3,), (3, 2, 4)),
    "blocks": ("ki,kio->ko", (4, 3), (4, 3, 2)),
}
"""How a state meets its weights, and the shapes of the two."""


@pytest.mark.parametrize("batched", ["no", "state", "weights", "both"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_any_product_has_the_derivatives_of_the_plain_scan(name, batched):
    """Whichever operand the weights are, and whichever of the two has a batch."""
    formula, left, right = PRODUCTS[name]
    weights_first = name in ("on the left", "columns of a matrix")
    shapes = (
        {"weights": left, "state": right} if weights_first else {"state": left, "weights": right}
    )
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0)), strict=True))
    size = {key: (6,) if batched in (key, "both") else () for key in shapes}
    drawn = {key: jax.random.normal(keys[key], size[key] + shapes[key]) for key in shapes}
    inputs = jax.random.normal(jax.random.key(1), (5, *shapes["state"]))

    def loss(scanned, weights, state):
        def body(weights, state, x):
            pair = (weights, jnp.tanh(state)) if weights_first else (jnp.tanh(state), weights)
            y = jnp.einsum(formula, *pair)
            return 0.9 * state * jnp.cos(y).mean() + x, y

        last, ys = scanned(body, weights, state, inputs)
        return (last**2).sum() + jnp.sin(ys).sum()

    plain = lambda body, w, h, xs: jax.lax.scan(functools.partial(body, w), h, xs)
    axes = [0 if size[key] else None for key in ("weights", "state")]

    def total(scanned, weights, state):
        each = lambda *args: loss(scanned, *args)
        over = jax.vmap(each, axes) if any(size.values()) else each
        return over(weights, state).sum()

    args = drawn["weights"], drawn["state"]
    reverse = lambda scanned: jax.grad(lambda *args: total(scanned, *args), (0, 1))(*args)
    forward = lambda scanned: jax.jvp(lambda *args: total(scanned, *args), args, args)
    assert_close(reverse(hoist.scan), reverse(plain))
    assert_close(forward(hoist.scan), forward(plain))


def test_a_product_in_low_precision_keeps_the_type_of_the_weights():
    """bfloat16 operands whose product is asked for in float32."""
    weights = jnp.eye(3, dtype="bfloat16")

    def body(w, h, x):
        z = jax.lax.dot(h.astype("bfloat16"), w, preferred_element_type="float32")
        return jnp.tanh(z) + x, z

    start, xs = jnp.zeros(3, "float32"), jnp.ones((4, 3), "float32")
    gradient = jax.grad(lambda w: hoist.scan(body, w, start, xs)[0].sum())(weights)
    assert gradient.dtype == jnp.bfloat16
    plain = lambda w: jax.lax.scan(functools.partial(body, w), start, xs)[0].sum()
    # Two bfloat16 roundings of 2^-9 of sums of four terms.
    np.testing.assert_allclose(
        gradient.astype("float32"), jax.grad(plain)(weights).astype("float32"), rtol=2e-2
    )
