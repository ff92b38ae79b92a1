"""What `unroll` does beyond the laws of test_contract.py: arguments, edges, memory."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import SPLIT, STEPS, TIME, Case, agree, at, close, concatenate, dot, normal_like, pull
from hypothesis import given
from hypothesis import strategies as st
from reference import REFERENCES

from rnn_jax import (
    HiddenState,
    LSTMState,
    Trajectory,
    elman,
    gru,
    length_mask,
    lstm,
    unroll,
    unroll_static,
    unroll_truncated,
)

CELL = lstm()
CASE = Case(CELL, REFERENCES["lstm"])
PARAMS, STATE, XS = CASE.args
SMALL = Case(elman())  # compiles faster, where the cell makes no difference
UNROLLS = [unroll, functools.partial(unroll_truncated, window=2), unroll_static]
IDS = ["scan", "truncated", "static"]
each_unroll = pytest.mark.parametrize("any_unroll", UNROLLS, ids=IDS)


# ---- Bad input: the argument, what came, what was expected --------------------------------------

FLOAT32 = jax.tree.map(lambda a: a.astype(jnp.float32), STATE)
WIDE = LSTMState(jnp.zeros(5), jnp.zeros(5))

BAD = [
    ({"xs": jnp.float64(1)}, ValueError, r"xs .*time axis.*\[\(\)\]"),
    ({"xs": None}, ValueError, r"xs .*time axis"),
    ({"xs": XS[:, 0]}, ValueError, r"input x has shape \(\).* 3 features"),
    ({"xs": jnp.ones((STEPS, 5))}, ValueError, r"input x has shape \(5,\).* 3 features"),
    ({"xs": jnp.ones((STEPS, 2, 3))}, ValueError, r"xs: .*\[2, 3\].*one sequence \(T, D\).*vmap"),
    ({"state": HiddenState(STATE.hidden)}, ValueError, "state: .*lstm needs LSTMState.*Hidden"),
    ({"state": tuple(STATE)}, ValueError, r"state: .*needs LSTMState.*got \(float64"),
    ({"state": FLOAT32}, ValueError, r"state: .*needs .*float64\[4\].*got .*float32\[4\]"),
    ({"state": WIDE}, ValueError, r"state: .*needs .*float64\[4\].*got .*float64\[5\]"),
    ({"mask": np.ones(5, bool)}, ValueError, r"mask .*\(7,\).*got \(5,\)"),
    ({"mask": np.ones((STEPS, 2), bool)}, ValueError, r"mask .*\(7,\).*got \(7, 2\)"),
    ({"mask": True}, ValueError, r"mask .*\(7,\).*got \(\)"),
    ({"mask": np.ones(STEPS)}, TypeError, "mask must be boolean, got float64"),
    ({"reset": np.ones(5, bool)}, ValueError, r"reset .*\(7,\).*got \(5,\)"),
    ({"reset": np.ones(STEPS, int)}, TypeError, "reset must be boolean, got int64"),
    ({"taps": STATE}, ValueError, r"taps: .*needs .*\[7, 4\].*got .*\[4\]"),
    ({"taps": jnp.zeros((STEPS, 4))}, ValueError, r"taps: .*needs LSTMState.*got float64\[7, 4\]"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[*range(len(BAD))])
@each_unroll
def test_bad_array(any_unroll, arguments, error, message):
    arguments = {"xs": XS} | arguments
    # The promotion that the other tests forbid is what a user has: ours must not rely on it.
    with jax.numpy_rank_promotion("allow"), pytest.raises(error, match=f"(?s){message}"):
        any_unroll(CELL, PARAMS, **arguments)


@pytest.mark.parametrize(
    ("run", "options", "error", "message"),
    [
        (unroll, {"segment": 0}, ValueError, "segment must be at least 1, got 0"),
        (unroll, {"segment": -3}, ValueError, "segment must be at least 1, got -3"),
        (unroll, {"segment": 2.5}, TypeError, "segment must be an integer, got 2.5"),
        (unroll, {"segment": True}, TypeError, "segment must be an integer, got True"),
        (unroll, {"segment": "cube"}, ValueError, "segment must be .*'sqrt' or None, got 'cube'"),
        (unroll, {"unroll": 0}, ValueError, "unroll must be at least 1, got 0"),
        (unroll, {"unroll": 1.5}, TypeError, "unroll must be an integer, got 1.5"),
        (unroll_truncated, {"window": 0}, ValueError, "window must be at least 1, got 0"),
        (unroll_truncated, {"window": 2.5}, TypeError, "window must be an integer, got 2.5"),
        (unroll_truncated, {"window": None}, TypeError, "window must be an integer, got None"),
        (unroll_truncated, {"window": 2, "unroll": 0}, ValueError, "unroll must be at least 1"),
    ],
)
def test_bad_option(run, options, error, message):
    with pytest.raises(error, match=message):
        run(CELL, PARAMS, XS, **options)


@pytest.mark.parametrize("reverse", ["no", np.ones(STEPS, bool)])
@each_unroll
def test_bad_reverse(any_unroll, reverse):
    with pytest.raises(TypeError, match="reverse"):
        any_unroll(CELL, PARAMS, XS, reverse=reverse)


@pytest.mark.parametrize("cell", [lstm, "lstm", None])
@each_unroll
def test_bad_cell(any_unroll, cell):
    with pytest.raises(TypeError, match="cell"):
        any_unroll(cell, PARAMS, XS)


@pytest.mark.parametrize(
    ("cell", "other"),
    [
        (lstm(), elman()),
        (elman(), lstm()),
        (gru("after"), gru("before")),
        (gru("before"), gru("after")),
        (gru("after"), lstm()),
    ],
)
def test_parameters_of_another_cell(cell, other):
    """Shapes that happen to broadcast must not turn them into a third network."""
    with pytest.raises(ValueError, match=f"{cell.name}.*params|params.*{cell.name}"):
        unroll(cell, Case(other).params(), XS)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (-1, ValueError, "lengths must lie between 0 and 4, got -1"),
        ([1, 5], ValueError, r"lengths must lie between 0 and 4, got \[1, 5\]"),
        (1.0, TypeError, "lengths must be integers, got float64"),
        (True, TypeError, "lengths must be integers, got bool"),
        ([[1]], ValueError, r"lengths must have shape \(\) or \(B,\), got \(1, 1\)"),
    ],
)
def test_bad_lengths(lengths, error, message):
    with pytest.raises(error, match=message):
        length_mask(np.asarray(lengths), 4)


@pytest.mark.parametrize(("steps", "error"), [(-1, ValueError), (2.5, TypeError)])
def test_bad_steps(steps, error):
    with pytest.raises(error, match="steps"):
        length_mask(0, steps)


# ---- length_mask --------------------------------------------------------------------------------


def test_length_mask():
    assert length_mask(2, 3).tolist() == [True, True, False]
    assert length_mask(0, 2).tolist() == [False, False]
    assert length_mask(np.int8(2), 2).tolist() == [True, True]
    assert length_mask(0, 0).shape == (0,)
    batch = length_mask(jnp.array([0, 1, 3]), 3)  # time-major
    assert batch.tolist() == [[False, True, True], [False, False, True], [False, False, True]]
    assert length_mask(np.zeros(0, int), 3).shape == (3, 0)


def test_length_mask_of_traced_lengths():
    assert jax.jit(length_mask, static_argnums=1)(2, 3).tolist() == [True, True, False]
    rows = jax.vmap(length_mask, (0, None))(jnp.array([0, 3]), 3)
    assert rows.tolist() == [[False] * 3, [True] * 3]


# ---- Edges --------------------------------------------------------------------------------------


@each_unroll
def test_one_step_is_a_call(any_unroll):
    state, output = CELL(PARAMS, STATE, XS[0])
    end, trajectory = any_unroll(CELL, PARAMS, XS[:1], state=STATE)
    close((end, at(trajectory, 0)), (state, Trajectory(state, output)))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "any_unroll", [*UNROLLS, functools.partial(unroll, segment="sqrt")], ids=[*IDS, "segmented"]
)
def test_no_steps(any_unroll, reverse):
    flag = np.zeros(0, bool)
    end, trajectory = any_unroll(
        CELL, PARAMS, XS[:0], state=STATE, mask=flag, reset=flag, reverse=reverse
    )
    chex.assert_trees_all_equal(end, STATE)
    assert isinstance(trajectory.states, LSTMState)
    assert {leaf.shape for leaf in jax.tree.leaves(trajectory)} == {(0, 4)}


@pytest.mark.parametrize("reverse", [False, True])
def test_length_zero_returns_the_state(reverse):
    padding = jnp.full_like(XS, jnp.nan)
    (end, trajectory), (by_params, by_state, by_xs, _) = CASE.scan(
        (PARAMS, STATE, padding), mask=length_mask(0, STEPS), reverse=reverse
    )
    chex.assert_trees_all_equal(end, STATE)
    chex.assert_trees_all_equal(
        trajectory.states, jax.tree.map(lambda s: jnp.stack([s] * STEPS), STATE)
    )
    assert not jnp.any(trajectory.outputs)
    assert not any(map(jnp.any, jax.tree.leaves((by_params, by_xs))))
    # The state comes back once at the end and once at every step.
    end_weights, weights = CASE.weights
    close(by_state, jax.tree.map(lambda a, b: a + b.sum(0), end_weights, weights.states))


def test_batch_of_one():
    def run(xs, mask):
        return unroll(CELL, PARAMS, xs, mask=mask)

    mask = length_mask(jnp.array([4]), STEPS)
    batch = jax.vmap(run, in_axes=(1, 1), out_axes=(0, 1))(XS[:, None], mask)
    end, trajectory = run(XS, mask[:, 0])
    close(batch[0], jax.tree.map(lambda a: a[None], end))
    close(batch[1], jax.tree.map(lambda a: a[:, None], trajectory))


def test_flags_may_be_lists_and_inputs_of_any_dtype():
    """The parameters decide the precision."""
    mask = [True, True, False, True, False, False, False]
    xs = np.round(4 * np.asarray(XS))
    expected = unroll(CELL, PARAMS, xs, mask=np.array(mask), reset=TIME == 1)
    for dtype in (np.float32, jnp.bfloat16, np.int8):
        got = unroll(CELL, PARAMS, xs.astype(dtype), mask=mask, reset=(TIME == 1).tolist())
        chex.assert_trees_all_equal(got, expected)


# ---- Reading backwards, pausing, segments, windows ----------------------------------------------


@pytest.mark.parametrize("mask", [None, np.isin(TIME, (1, 2, 5))])
def test_reading_backwards_is_reading_the_reversed_sequence(mask):
    def flipped(params, state, xs):
        backwards = None if mask is None else mask[::-1]
        end, trajectory = unroll(CELL, params, xs[::-1], state=state, mask=backwards)
        return end, jax.tree.map(lambda a: a[::-1], trajectory)

    compiled = jax.jit(pull, static_argnums=0)
    agree(CASE.scan(mask=mask, reverse=True), compiled(flipped, CASE.args, CASE.weights))


def test_a_compiled_unroll_goes_on_from_a_compiled_unroll():
    def halves(params, state, xs):
        middle, first = unroll(CELL, params, xs[:SPLIT], state=state)
        end, second = unroll(CELL, params, xs[SPLIT:], state=middle)
        return end, concatenate(first, second)

    agree(CASE.plain, jax.jit(pull, static_argnums=0)(halves, CASE.args, CASE.weights))


@pytest.mark.parametrize(
    ("segment", "reverse"), [(1, False), (2, True), ("sqrt", False), (6, False), (STEPS + 1, True)]
)
def test_any_segment(segment, reverse):
    options = SMALL.everything() | {"reverse": reverse}
    agree(SMALL.scan(**options, segment=segment), SMALL.scan(**options))


@pytest.mark.parametrize(
    ("window", "reverse"), [(1, True), (3, True), (6, False), (STEPS, False), (STEPS + 1, True)]
)
def test_any_window(window, reverse):
    """Gradients stop at multiples of the window, counted from step 0 in both directions."""

    def by_hand(params, state, xs):
        parts = []
        starts = range(0, STEPS, window)
        for start in reversed(starts) if reverse else starts:
            state = jax.lax.stop_gradient(state) if parts else state
            state, part = SMALL.loop(params, state, xs[start : start + window], reverse=reverse)
            parts.append(part)
        return state, concatenate(*(parts[::-1] if reverse else parts))

    truncated = SMALL.scan(method=unroll_truncated, window=window, reverse=reverse)
    agree(truncated, pull(by_hand, SMALL.args, SMALL.weights))


def test_steps_per_iteration():
    """The `unroll` of lax.scan, with 2 and 3 steps that do not divide 7."""
    agree(SMALL.scan(reverse=False, unroll=2), SMALL.scan(reverse=False))
    truncated = SMALL.scan(method=unroll_truncated, window=6, reverse=False, unroll=3)
    agree(truncated, SMALL.scan(method=unroll_truncated, window=6, reverse=False))


# ---- Masks, borders and directions together -----------------------------------------------------

flags = st.lists(st.booleans(), min_size=STEPS, max_size=STEPS).map(np.array)


@given(mask=flags, reset=flags, reverse=st.booleans())
def test_flags_against_the_reference(mask, reset, reverse):
    """Values and slopes of the NumPy loop, which never looks at padding."""
    xs = XS.at[~mask].set(jnp.nan)
    value, gradients = CASE.scan((PARAMS, STATE, xs), mask=mask, reset=reset, reverse=reverse)
    chex.assert_tree_all_finite(gradients)
    assert not jnp.any(gradients[2][~mask])

    def reference(shift):
        moved = jax.tree.map(lambda a, d: a + shift * d, (PARAMS, STATE, xs), DIRECTION)
        params, state, moved_xs = moved
        got = CASE.reference(params, moved_xs, state, mask, reset, reverse)
        return jax.tree.unflatten(jax.tree.structure(CASE.weights), jax.tree.leaves(got))

    close(value, reference(0.0))
    # Central differences, as in the laws.
    up, down = reference(1e-5), reference(-1e-5)
    slope = (dot(CASE.weights, up) - dot(CASE.weights, down)) / 2e-5
    np.testing.assert_allclose(dot(gradients[:3], DIRECTION), slope, rtol=1e-6, atol=1e-6)


DIRECTION = jax.tree.map(np.asarray, normal_like(CASE.args, 800))


# ---- Memory -------------------------------------------------------------------------------------


def compiled(function):
    params = jax.eval_shape(lambda: CELL.init(jax.random.key(0), 3, 16, dtype=jnp.float32))
    xs = jax.ShapeDtypeStruct((4096, 3), jnp.float32)
    return jax.jit(function).lower(params, xs).compile()


def test_segments_save_memory():
    """O(sqrt(T)) states and steps are kept instead of O(T) steps."""

    def backward_bytes(segment):
        def loss(params, xs):
            return unroll(CELL, params, xs, segment=segment)[0].hidden.sum()

        return compiled(jax.grad(loss)).memory_analysis().temp_size_in_bytes

    whole, segmented = backward_bytes(None), backward_bytes("sqrt")
    assert whole > 4096 * 4 * 16 * 4, "a step keeps at least its four gates"
    # 64 states and 64 steps in place of 4096 steps; half of the possible 32 is left to XLA.
    assert segmented < whole / 16


@pytest.mark.parametrize("segment", [None, "sqrt"])
def test_unread_trajectories_cost_nothing(segment):
    def program(read):
        run = functools.partial(unroll, CELL, segment=segment)
        text = compiled(lambda params, xs: read(*run(params, xs))).as_text()
        return set(re.findall(r"f32\[(?:4096|64,64|63,64),16\]", text))

    assert program(lambda end, trajectory: trajectory.outputs), "what is read is there"
    assert not program(lambda end, trajectory: end)
