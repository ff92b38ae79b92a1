"""The laws of the instruments, against plain autodiff where that can follow and beyond it.

The oracle, `backpropagate`, is one ``jax.grad`` of a scan that takes a copy of the parameters
and a perturbation of the state for every step, in float64: it shares no code with the
instruments. Masks, resets and given states are then tested as laws on top of it (a masked
sequence is the sequence without those steps, and so on).
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

import rnn_jax
from rnn_jax import CELLS, HiddenState, analysis, combinators, schemes
from rnn_jax.analysis import GradientFlow
from rnn_jax.cells import lookup

flow = jax.jit(analysis.gradient_flow, static_argnames="loss")
sweep = jax.jit(analysis.length_sweep, static_argnames=("loss", "horizons"))
curve = jax.jit(analysis.length_curve, static_argnames="tangents")

T, D, H = 9, 3, 4
OF_ELMAN = ("kernel", "recurrent_kernel", "bias")


def observer():
    """An Elman network with a learned initial state and an output of parameters, state and input.

    The registered cells read their hidden vector and start from zero; an instrument must not
    count on that.
    """
    elman = rnn_jax.elman()

    def init(key, input_size, hidden_size, **options):
        params = elman.init(key, input_size, hidden_size, **options)
        return params | {"initial": params["bias"], "readout": params["recurrent_kernel"]}

    def read(params, state, drive):
        return jnp.tanh((drive + state.hidden) @ params["readout"])

    def step(params, state, drive):
        state, _ = elman.step(params, state, drive)
        return state, read(params, state, drive)

    def project(params, x):
        return elman.project({part: params[part] for part in OF_ELMAN}, x)

    initial_state = lambda params: HiddenState(params["initial"])
    parts = {"init": init, "initial_state": initial_state, "step": step, "read": read}
    return dataclasses.replace(elman, name="observer", project=project, **parts)


EVERY_CELL = {name: CELLS[name]() for name in ("elman", "lstm", "gru")} | {"observer": observer()}
every_cell = pytest.mark.parametrize(
    "cell",
    [
        *(pytest.param(cell, id=name) for name, cell in EVERY_CELL.items()),
        pytest.param(rnn_jax.gru("before"), id="gru_before", marks=pytest.mark.slow),
    ],
)


@functools.cache
def draw(cell, dtype="float64", seed=0):
    """Every parameter normal with deviation 1 / sqrt(H), the biases too."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H))
    rng = np.random.default_rng(seed)
    entries = lambda leaf: jnp.asarray(rng.normal(0, H**-0.5, leaf.shape), dtype)
    return jax.tree.map(entries, shapes)


def noise(*shape, seed=1, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


VECTOR = np.array([1.0, -2.0, 0.5, 3.0])


def last_output(outputs):
    return jnp.vdot(VECTOR, outputs[-1])


# ---- The oracle ---------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 3))
def backpropagate(cell, params, xs, loss):
    """dL/ds_t for t = 0 .. T, what each step contributes to dL/dparams, and what s_0 does."""
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(xs), *leaf.shape)), params)
    first, from_params = jax.vjp(cell.initial_state, params)
    taps = jax.tree.map(lambda leaf: jnp.zeros((len(xs), *leaf.shape), leaf.dtype), first)

    def total(first, taps, copies):
        def step(state, inputs):
            params, tap, x = inputs
            state = jax.tree.map(jnp.add, cell(params, state, x)[0], tap)
            return state, cell.read(params, state, cell.project(params, x))

        return loss(jax.lax.scan(step, first, (copies, taps, xs))[1])

    by_first, by_state, by_step = jax.grad(total, (0, 1, 2))(first, taps, copies)
    by_state = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), by_first, by_state)
    return by_state, by_step, from_params(by_first)[0]


def rows(tree, axis=1):
    """One row of numbers per step, all leaves concatenated."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(*leaf.shape[:axis], -1) for leaf in leaves], axis=axis)


def log_norms(values):
    """ln of the norms along the last axis; the largest entry is taken out before squaring."""
    peak = np.abs(values).max(axis=-1, keepdims=True)
    norms = np.linalg.norm(values / np.where(peak > 0, peak, 1), axis=-1)
    with np.errstate(divide="ignore"):
        return np.log(norms) + np.log(peak[..., 0])


def expected_flow(cell, params, xs, loss=last_output):
    by_state, by_step, from_initial = backpropagate(cell, params, xs, loss)
    truncated = np.cumsum(rows(by_step)[::-1], axis=0)
    truncated[-1] += rows(from_initial, axis=0)
    return GradientFlow(
        log_norms(rows(by_state)),
        {name: log_norms(rows(part)) for name, part in by_state._asdict().items()},
        log_norms(rows(by_step)),
        log_norms(truncated),
    )


def assert_close(actual, expected, *, atol):
    """An absolute tolerance alone: of a logarithm it is a relative one of the number."""
    assert_allclose(actual, expected, rtol=0, atol=atol)


def assert_flows_close(measured, expected, *, atol):
    chex.assert_trees_all_close(measured, expected, rtol=0, atol=atol)


# ---- gradient_flow: values ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CELLS if not lookup(name).space])
def test_flow_of_every_registered_cell(name):
    """The instrument asks nothing of a cell that only the first few have."""
    cell = lookup(name)
    params, xs = draw(cell), noise(T, D)
    assert_flows_close(flow(cell, params, xs, VECTOR), expected_flow(cell, params, xs), atol=1e-10)


@every_cell
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_flow_is_plain_autodiff(cell, dtype, tolerance):
    """Every field, every k of the truncated horizons; a tolerance on ln is relative.

    float32 is held against float64 on the same weights: a few dozen roundings of 6e-8.
    """
    params, xs = draw(cell, "float32"), noise(T, D, dtype="float32")
    wide, wide_xs = jax.tree.map(lambda leaf: leaf.astype(float), (params, xs))
    expected = expected_flow(cell, wide, wide_xs)
    if dtype == "float64":
        params, xs = wide, wide_xs
    measured = flow(cell, params, xs, VECTOR)
    assert {leaf.dtype for leaf in jax.tree.leaves(measured)} == {jnp.dtype(dtype)}
    assert_flows_close(measured, expected, atol=tolerance)


def test_flow_is_backpropagation_through_taps_to_rounding():
    """In float32 on both sides: scaling by powers of two is exact, so what differs from `unroll`
    is the order of operations that XLA picks: about one rounding for each of the 40 steps.
    """
    cell, steps, dtype = rnn_jax.lstm(), 40, "float32"
    params, xs = draw(cell, dtype), noise(steps, D, dtype=dtype)
    vector = jnp.asarray(VECTOR, dtype)

    @jax.jit
    def by_taps(params):
        def loss(taps):
            return jnp.vdot(vector, rnn_jax.unroll(cell, params, xs, taps=taps)[1].outputs[-1])

        zeros = jnp.zeros((steps, H), dtype)
        return jax.grad(loss)(rnn_jax.LSTMState(zeros, zeros))

    expected = log_norms(rows(by_taps(params)).astype(float))
    measured = flow(cell, params, xs, vector).log_norm[1:]
    assert_close(measured, expected, atol=steps * np.finfo(dtype).eps)


def test_flow_of_a_loss_of_all_outputs():
    """A loss with terms at every step: the mean over steps."""
    cell = EVERY_CELL["observer"]
    params, xs = draw(cell), noise(T, D)
    loss = lambda outputs: jnp.mean(jnp.square(outputs - 0.3))
    expected = expected_flow(cell, params, xs, loss)
    assert_flows_close(flow(cell, params, xs, loss=loss), expected, atol=1e-12)


def test_flow_names_the_parts_of_the_state():
    """y_T reads h_T alone, so dL/dc_T is exactly zero and dL/dh_T is the readout vector."""
    parts = flow(rnn_jax.lstm(), draw(rnn_jax.lstm()), noise(T, D), VECTOR).log_norm_by_part
    assert sorted(parts) == ["cell", "hidden"]
    assert parts["cell"][-1] == -jnp.inf
    assert_allclose(parts["hidden"][-1], np.log(np.linalg.norm(VECTOR)), rtol=1e-15)


@every_cell
def test_flow_from_a_given_state_continues(cell):
    """From s_4 on, the flow is the last part of the whole one."""
    params, xs = draw(cell), noise(T, D)
    whole = expected_flow(cell, params, xs)
    state, _ = jax.jit(rnn_jax.unroll)(cell, params, xs[:4])
    expected = GradientFlow(
        whole.log_norm[4:],
        {name: part[4:] for name, part in whole.log_norm_by_part.items()},
        whole.log_step_norm[4:],
        whole.log_truncated_norm[:5],
    )
    assert_flows_close(flow(cell, params, xs[4:], VECTOR, state=state), expected, atol=1e-12)


# ---- gradient_flow: masks, resets, small shapes --------------------------------------------------

PADDED = 13
NO_FLAGS = np.zeros(PADDED, bool)


def padded(valid):
    """The T steps of noise at the valid places, NaN elsewhere."""
    return jnp.full((PADDED, D), jnp.nan).at[valid].set(noise(T, D))


def masked_flow(cell, xs, mask, reset=NO_FLAGS):
    return flow(cell, draw(cell), xs, VECTOR, mask=mask, reset=reset)


@every_cell
@pytest.mark.parametrize(
    "valid",
    [np.arange(T), np.array([0, 1, 3, 5, 6, 7, 8, 9, 11])],
    ids=["suffix", "holes"],
)
def test_masked_steps_are_as_if_absent(cell, valid):
    """dL/ds_t of the valid steps is that of the sequence without the others, NaN or not."""
    mask = NO_FLAGS.copy()
    mask[valid] = True
    measured = masked_flow(cell, padded(valid), mask)
    expected = expected_flow(cell, draw(cell), noise(T, D))
    places = np.concatenate([[0], valid + 1])
    assert_close(measured.log_norm[places], expected.log_norm, atol=1e-12)
    assert_close(measured.log_step_norm[valid], expected.log_step_norm, atol=1e-12)
    assert_array_equal(measured.log_step_norm[~mask], -np.inf)
    valid_among_last = np.cumsum(mask[::-1])
    truncated = np.append(-np.inf, expected.log_truncated_norm)[valid_among_last]
    assert_close(measured.log_truncated_norm, truncated, atol=1e-12)


@every_cell
def test_flow_of_length_zero_is_exactly_zero(cell):
    """A fully masked sequence has output zero: every gradient is -inf, without a NaN."""
    measured = masked_flow(cell, jnp.full((PADDED, D), jnp.nan), NO_FLAGS)
    assert_array_equal(np.concatenate(jax.tree.leaves(measured)), -np.inf)


def test_flow_of_no_steps_is_exactly_zero():
    """A sequence of no steps has no output, so no gradient."""
    measured = flow(rnn_jax.lstm(), draw(rnn_jax.lstm()), jnp.zeros((0, D)), VECTOR)
    assert_array_equal(measured.log_norm, [-np.inf])
    assert measured.log_step_norm.shape == measured.log_truncated_norm.shape == (0,)


@every_cell
def test_nothing_flows_across_a_reset(cell):
    """A reset splits: T steps after it the flow is that of the second sequence alone."""
    reset, start = NO_FLAGS.copy(), PADDED - T
    reset[start] = True
    xs = jnp.concatenate([noise(start, D, seed=2), noise(T, D)])
    measured = masked_flow(cell, xs, ~NO_FLAGS, reset)
    expected = expected_flow(cell, draw(cell), noise(T, D))
    assert_close(measured.log_norm[start + 1 :], expected.log_norm[1:], atol=1e-12)
    assert_array_equal(measured.log_norm[: start + 1], -np.inf)
    assert_array_equal(measured.log_step_norm[:start], -np.inf)
    whole = np.append(expected.log_truncated_norm, [expected.log_truncated_norm[-1]] * start)
    assert_close(measured.log_truncated_norm, whole, atol=1e-12)


def test_flow_of_one_step():
    """T = 1: one gradient before the step, the readout vector after it."""
    cell = rnn_jax.lstm()
    params, xs = draw(cell), noise(1, D)
    assert_flows_close(flow(cell, params, xs, VECTOR), expected_flow(cell, params, xs), atol=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_flow_of_a_batch_is_per_sample(size):
    """vmap over samples is a loop over them, also for a batch of one."""
    cell = rnn_jax.lstm()
    params, batch = draw(cell), noise(3, T, D)[:size]
    measured = jax.vmap(lambda xs: flow(cell, params, xs, VECTOR))(batch)
    each = [expected_flow(cell, params, xs) for xs in batch]
    assert_flows_close(measured, jax.tree.map(lambda *leaves: np.stack(leaves), *each), atol=1e-12)


@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_flow_in_bfloat16(name):
    """Half precision is measured in float32, here to 10 %: two dozen roundings of 2^-9."""
    cell = EVERY_CELL[name]
    params, xs = draw(cell, "bfloat16"), noise(T, D, dtype="bfloat16")
    wide = jax.tree.map(lambda leaf: leaf.astype(float), (params, xs))
    measured = flow(cell, params, xs, VECTOR)
    assert {leaf.dtype for leaf in jax.tree.leaves(measured)} == {jnp.dtype("float32")}
    assert_flows_close(measured, expected_flow(cell, *wide), atol=0.1)


# ---- Beyond the range of floating point ---------------------------------------------------------

LONG = 2000


@pytest.fixture(scope="module")
def long_lstm():
    """ln ||dL/dh_t, dL/dc_t|| of an LSTM with zero forget bias over 2000 steps, in three ways.

    By the instrument in float32; by plain backpropagation in float64; and by a NumPy loop in
    float64 over the step Jacobians, which divides by the norm at each step.
    """
    cell, size = rnn_jax.lstm(), 8
    vector = np.ones(size) / np.sqrt(size)
    init = functools.partial(cell.init, scheme=schemes.orthogonal(0.5), dtype="float32")
    params = jax.jit(init, static_argnums=(1, 2))(jax.random.key(0), D, size)
    xs = noise(LONG, D, dtype="float32")
    measured = flow(cell, params, xs, vector).log_norm[1:]
    params, xs = jax.tree.map(lambda leaf: leaf.astype(float), (params, xs))

    @jax.jit
    def by_taps(taps):
        loss = lambda taps: vector @ rnn_jax.unroll(cell, params, xs, taps=taps)[1].outputs[-1]
        return jax.grad(loss)(taps)

    @jax.jit
    def jacobians(state):
        flat, unravel = ravel_pytree(state)
        step = lambda flat, x: ravel_pytree(cell(params, unravel(flat), x)[0])[0]
        body = lambda flat, x: (step(flat, x), jax.jacrev(step)(flat, x))
        return jax.lax.scan(body, flat, xs)[1]

    zeros = jnp.zeros((LONG, size))
    plain = log_norms(rows(by_taps(rnn_jax.LSTMState(zeros, zeros))))

    gradient, scale, scaled = np.append(vector, np.zeros(size)), 0.0, [0.0]
    for jacobian in np.asarray(jacobians(cell.initial_state(params)))[:0:-1]:
        gradient = gradient @ jacobian
        norm = np.linalg.norm(gradient)
        gradient, scale = gradient / norm, scale + np.log(norm)
        scaled.append(scale)
    return np.asarray(measured, float), plain, np.array(scaled[::-1])


def test_long_lstm_agrees_with_float64_where_that_reaches(long_lstm):
    """To 1e-3 relative of the ln-norm in float32, wherever plain float64 is a normal number."""
    measured, plain, _ = long_lstm
    normal = plain > -700
    assert measured[normal].min() < -690
    assert_allclose(measured[normal], plain[normal], rtol=1e-3, atol=1e-5)


def test_long_lstm_agrees_with_a_scaled_loop_beyond(long_lstm):
    """The whole curve, to 1e-3 relative, a third of it below what float64 can represent."""
    measured, plain, scaled = long_lstm
    assert np.isneginf(plain).sum() > LONG / 3
    assert_allclose(measured, scaled, rtol=1e-3, atol=1e-5)


def test_long_lstm_keeps_its_slope(long_lstm):
    """Where float64 has nothing left, the slope is that of before, but for the input's chance."""
    measured, plain, _ = long_lstm
    gone = int(np.isneginf(plain).sum())
    slope = lambda window: np.polyfit(np.arange(len(window)), window, 1)[0]
    assert_allclose(slope(measured[:gone]), slope(measured[gone:]), rtol=0.05)


LAG = 100_000
FACTORS = np.array([1e-3, 0.5, 0.999, 1.0, 2.0, 1e3], np.float32)


def scalar(weight):
    """h_t = weight h_{t-1} + x_t in float32."""
    one = jnp.ones((1, 1), "float32")
    return {"kernel": one, "recurrent_kernel": weight * one, "bias": jnp.zeros(1, "float32")}


def by_flow(*args):
    measured = analysis.gradient_flow(*args, jnp.ones(1))
    return measured.log_norm[0], measured.log_truncated_norm[-1]


def by_sweep(*args):
    measured = analysis.length_sweep(*args, [1, LAG], jnp.ones(1))
    return measured.log_norm[1], measured.log_parameter_norm[1]


def by_curve(*args):
    return (analysis.length_curve(jax.random.key(0), *args)[LAG],)


@functools.cache
def at_lag_100_000(instrument):
    """ln ||dL/ds_0|| for each factor, and that of the parameter gradient if there is one."""
    xs = jnp.zeros((LAG, 1), "float32")
    measure = lambda weight: instrument(rnn_jax.elman("identity"), scalar(weight), xs)
    return jax.jit(jax.vmap(measure))(FACTORS)


@pytest.mark.parametrize("instrument", [by_flow, by_sweep, by_curve])
def test_factors_from_1e_3_to_1e3_at_lag_100_000(instrument):
    """ln-norms from -690 775 to +690 775, in float32, to 1e-5 relative."""
    expected = LAG * np.log(FACTORS.astype(float))
    assert_allclose(at_lag_100_000(instrument)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("instrument", [by_flow, by_sweep])
def test_parameter_gradient_over_100_000_steps(instrument):
    """At rest only the bias has a gradient, the geometric sum 1 + g + ... + g^(T - 1).

    Where the sum stays of order one, its additions round by 6e-8 of it each.
    """
    log_powers = np.log(FACTORS.astype(float))[:, None] * np.arange(LAG)
    expected = np.logaddexp.reduce(log_powers, axis=1)
    assert_allclose(at_lag_100_000(instrument)[1], expected, rtol=1e-5, atol=1e-5)


def product_cell():
    """h_t = x_t h_{t-1}: the factor of each step is its input."""

    def step(params, state, drive):
        hidden = drive * state.hidden
        return HiddenState(hidden), hidden

    return rnn_jax.Cell("product", None, lambda params: HiddenState(params["start"]), step)


def test_exploding_then_vanishing():
    """1000 factors of 1e3 after 1000 of 1e-3: up to e^6908 and back, in float32."""
    factors = jnp.repeat(jnp.array([1e-3, 1e3], "float32"), 1000)
    params = {"start": jnp.ones(1, "float32")}
    measured = flow(product_cell(), params, factors[:, None], jnp.ones(1)).log_norm
    logs = np.log(np.asarray(factors, float))
    expected = np.append(np.cumsum(logs[::-1])[::-1], 0)
    assert expected.max() > 6900
    assert_allclose(measured, expected, rtol=1e-5, atol=1e-3)  # ulp of 6900: 5e-4


def test_a_part_far_below_the_others_is_not_lost():
    """Two units that decay apart: e^-69 is a float32 number, but its square is not."""

    def step(params, state, drive):
        del params, drive
        state = rnn_jax.LSTMState(state.hidden, 1e-10 * state.cell)
        return state, state.hidden

    def read(params, state, drive):
        del params, drive
        return state.hidden + state.cell

    cell = dataclasses.replace(rnn_jax.lstm(), name="apart", step=step, read=read)
    params, xs = draw(rnn_jax.lstm(), "float32"), noise(3, D, dtype="float32")
    parts = flow(cell, params, xs, VECTOR).log_norm_by_part
    lags, at_end = np.arange(3, -1, -1), np.log(np.linalg.norm(VECTOR))
    assert_allclose(parts["hidden"], [at_end] * 4, rtol=1e-6)
    assert_allclose(parts["cell"], at_end + lags * np.log(1e-10), rtol=1e-6)


def test_a_dead_network_has_a_gradient_of_exactly_zero():
    """All ReLU units off: -inf, neither a floor nor an underflow that only looks like it."""
    cell = rnn_jax.elman("relu")
    params = draw(cell) | {"bias": jnp.full(H, -100.0)}
    measured = flow(cell, params, noise(T, D), VECTOR)
    assert_array_equal(measured.log_norm[:-1], -np.inf)
    assert_array_equal(measured.log_truncated_norm, -np.inf)
    assert measured.log_norm[-1] == np.log(np.linalg.norm(VECTOR))


def test_nan_is_not_repaired():
    """A NaN input makes every gradient that passes through its step or a later one NaN."""
    xs = noise(T, D).at[3, 0].set(jnp.nan)
    measured = flow(rnn_jax.lstm(), draw(rnn_jax.lstm()), xs, VECTOR)
    assert_array_equal(measured.log_norm[:-1], np.nan)
    assert_array_equal(measured.log_truncated_norm, np.nan)


# ---- What is compiled ---------------------------------------------------------------------------


def carried_kernels(read):
    """How many arrays of the shape of the recurrent kernel enter the loops of a program."""
    cell = rnn_jax.lstm()
    program = jax.jit(lambda params, xs: read(analysis.gradient_flow(cell, params, xs, VECTOR)))
    lowered = program.lower(draw(cell), noise(T, D)).as_text()
    loops = [line for line in lowered.splitlines() if "stablehlo.while" in line]
    assert len(loops) == 2  # there and back
    return max(line.count(f"tensor<{H}x{4 * H}xf64>") for line in loops)


def test_unread_fields_cost_nothing():
    """Who reads the state gradients alone carries no parameter gradient: the kernel, no more."""
    assert carried_kernels(lambda flow: flow.log_truncated_norm) == 2
    assert carried_kernels(lambda flow: flow.log_norm) == 1


def test_equal_cells_share_one_compilation():
    """Two draws of parameters and two makings of the cell: one trace."""
    traces = 0

    def counted(*args):
        nonlocal traces
        traces += 1
        return analysis.gradient_flow(*args)

    measure = jax.jit(counted)
    first = measure(rnn_jax.gru(), draw(rnn_jax.gru(), seed=0), noise(T, D), VECTOR)
    second = measure(rnn_jax.gru("after"), draw(rnn_jax.gru(), seed=1), noise(T, D), VECTOR)
    assert traces == 1
    assert first.log_norm[0] != second.log_norm[0]


# ---- length_sweep -------------------------------------------------------------------------------

LENGTHS = np.array([1, 4, T, PADDED])


def full_noise():
    """PADDED steps that begin with the T steps of the other tests."""
    return jnp.concatenate([noise(T, D), noise(PADDED - T, D, seed=3)])


@every_cell
def test_sweep_is_the_flow_of_each_truncated_sequence(cell):
    """ln ||dL_T/ds_0|| and the norm of the parameter gradient, for every T asked for."""
    measured = sweep(cell, draw(cell), full_noise(), LENGTHS, VECTOR, horizons=(1, 3, 8, 9))
    for row, length in enumerate(LENGTHS):
        expected = masked_flow(cell, full_noise(), np.arange(PADDED) < length)
        assert_close(measured.log_norm[row], expected.log_norm[0], atol=1e-12)
        assert_close(measured.log_parameter_norm[row], expected.log_truncated_norm[-1], atol=1e-12)


@every_cell
def test_sweep_divides_far_from_near(cell):
    """Beyond a horizon k lies what all steps but the last k contribute, and the initial state."""
    horizons = (1, 3, 8, 9)
    measured = sweep(cell, draw(cell), full_noise(), LENGTHS, VECTOR, horizons=horizons)
    _, by_step, from_initial = backpropagate(cell, draw(cell), noise(T, D), last_output)
    far = [rows(by_step)[: T - k].sum(axis=0) + rows(from_initial, axis=0) for k in horizons]
    (row,) = np.flatnonzero(LENGTHS == T)
    assert_close(measured.log_far_norm[row], log_norms(np.array(far)), atol=1e-12)


def test_sweep_of_a_loss_of_the_last_output():
    """L_T = loss(y_T), here the squared error of the last step."""
    cell, params, xs = rnn_jax.gru(), draw(rnn_jax.gru()), noise(T, D)
    loss = lambda output: jnp.sum(jnp.square(output - 0.3))
    measured = sweep(cell, params, xs, np.array([T]), loss=loss)
    expected = expected_flow(cell, params, xs, lambda outputs: loss(outputs[-1]))
    assert_close(measured.log_norm[0], expected.log_norm[0], atol=1e-12)
    assert_close(measured.log_parameter_norm[0], expected.log_truncated_norm[-1], atol=1e-12)


def test_sweep_from_a_given_state():
    """From s_4 on, the near part of the parameter gradient is that of the whole sequence."""
    cell, params, xs = EVERY_CELL["observer"], draw(EVERY_CELL["observer"]), noise(T, D)
    whole = expected_flow(cell, params, xs)
    state, _ = jax.jit(rnn_jax.unroll)(cell, params, xs[:4])
    measured = sweep(cell, params, xs[4:], np.array([T - 4]), VECTOR, state=state)
    assert_close(measured.log_norm[0], whole.log_norm[4], atol=1e-12)
    assert_close(measured.log_parameter_norm[0], whole.log_truncated_norm[4], atol=1e-12)


def test_sweep_of_a_batch_is_the_gradient_of_its_mean_loss():
    """Over `combinators.batched`, against plain ``jax.grad`` of the mean over the batch."""
    cell, size = rnn_jax.lstm(), 5
    params, xs, targets = draw(cell), noise(T, size, D), noise(size, H, seed=4)

    def loss(outputs):
        return jnp.mean(jnp.square(outputs - targets))

    def mean_loss(params, length):
        outputs = jax.vmap(lambda xs: rnn_jax.unroll(cell, params, xs)[1].outputs, 1)(xs)
        return loss(outputs[:, length - 1])

    lengths = np.array([1, 4, T])
    measured = sweep(combinators.batched(cell, size), params, xs, lengths, loss=loss)
    gradients = jax.jit(jax.vmap(jax.grad(mean_loss), (None, 0)))(params, lengths)
    assert_close(measured.log_parameter_norm, log_norms(rows(gradients)), atol=1e-12)


def test_sweep_is_one_program_for_any_lengths():
    """Forty lengths trace the step no more often than two; other lengths do not trace it."""
    traces = 0
    gru = rnn_jax.gru()

    def step(*args):
        nonlocal traces
        traces += 1
        return gru.step(*args)

    measure = jax.jit(analysis.length_sweep)
    cell, params, xs = dataclasses.replace(gru, step=step), draw(gru), noise(T, D)
    after = [0]
    for lengths in (np.array([2, T]), np.arange(40) % T + 1, np.array([3, 5])):
        measure(cell, params, xs, lengths, VECTOR)
        after.append(traces)
    for_two, for_forty, for_two_others = np.diff(after)
    assert for_forty <= for_two <= 4
    assert for_two_others == 0


# ---- length_curve -------------------------------------------------------------------------------


def exposed(cell):
    """The cell whose output is its flat state, so that a readout can be any functional of it."""

    def read(params, state, drive):
        del params, drive
        return ravel_pytree(state)[0]

    def step(params, state, drive):
        state, _ = cell.step(params, state, drive)
        return state, read(params, state, drive)

    return dataclasses.replace(cell, name=f"exposed({cell.name})", step=step, read=read)


@functools.partial(jax.jit, static_argnums=0)
def initial_jacobians(cell, params, xs):
    """J_{T:0} for T = 1 .. len(xs), (T, S, S), by reverse-mode autodiff through the scan."""
    flat, unravel = ravel_pytree(cell.initial_state(params))

    def states(flat):
        visited = rnn_jax.unroll(cell, params, xs, state=unravel(flat))[1].states
        return jax.vmap(lambda state: ravel_pytree(state)[0])(visited)

    return jax.jacrev(states)(flat)


def log_rms(jacobians):
    """ln (||J||_F / sqrt(S)), 0 for the empty product."""
    jacobians = np.asarray(jacobians)
    frobenius = np.linalg.norm(jacobians, axis=(1, 2)) / np.sqrt(jacobians.shape[-1])
    return np.append(0, np.log(frobenius))


@every_cell
def test_curve_is_exact_with_a_tangent_per_dimension(cell):
    """ln ||J_{T:0}||_F / sqrt(S) for every T; more tangents than dimensions are as many."""
    params, xs = draw(cell), noise(T, D)
    measured = curve(jax.random.key(0), cell, params, xs, tangents=100)
    assert_close(measured, log_rms(initial_jacobians(cell, params, xs)), atol=1e-12)


def assert_mean_close(samples, expected):
    """Within four standard errors, for each length."""
    samples = np.asarray(samples)
    error = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    assert (np.abs(samples.mean(axis=0) - expected) <= 4 * error + 1e-12).all()
    assert (error[1:] < 0.01 * expected[1:]).all()  # the check is not vacuous


def test_curve_is_unbiased_in_the_square():
    """Three random tangents of eight dimensions have the right mean square, over 20 000 keys."""
    cell = rnn_jax.lstm()
    params, xs = draw(cell), noise(T, D)
    keys = jax.random.split(jax.random.key(0), 20_000)
    measured = jax.vmap(lambda key: curve(key, cell, params, xs, tangents=3))(keys)
    assert_mean_close(
        np.exp(2 * measured), np.exp(2 * log_rms(initial_jacobians(cell, params, xs)))
    )


def test_curve_is_the_backward_pass_in_expectation():
    """The forward estimate is the root mean square of ||dL_T/ds_0|| over random unit readouts."""
    cell = exposed(rnn_jax.lstm())
    params, xs, lengths = draw(cell), noise(T, D), np.array([1, 2, 5, T])
    vectors = noise(20_000, 2 * H, seed=5)
    vectors /= jnp.linalg.norm(vectors, axis=1, keepdims=True)
    backward = jax.vmap(lambda vector: sweep(cell, params, xs, lengths, vector).log_norm)(vectors)
    forward = curve(jax.random.key(0), rnn_jax.lstm(), params, xs, tangents=2 * H)[lengths]
    assert_mean_close(np.exp(2 * backward), np.exp(2 * forward))


def test_curve_of_a_masked_sequence():
    """A masked step changes nothing; the others are those of the sequence without it."""
    cell, valid = rnn_jax.lstm(), np.array([0, 1, 3, 5, 6, 7, 8, 9, 11])
    mask = NO_FLAGS.copy()
    mask[valid] = True
    params, key = draw(cell), jax.random.key(0)
    measured = curve(key, cell, params, padded(valid), mask=mask, tangents=2 * H)
    compact = log_rms(initial_jacobians(cell, params, noise(T, D)))
    assert_close(measured, compact[np.append(0, np.cumsum(mask))], atol=1e-12)


def test_curve_ends_at_a_reset():
    """The initial state has no influence on what comes after a reset."""
    cell, reset = rnn_jax.gru(), np.arange(T) == 4
    measured = curve(jax.random.key(0), cell, draw(cell), noise(T, D), reset=reset)
    assert np.isfinite(measured[:5]).all()
    assert_array_equal(measured[5:], -np.inf)


# ---- Errors -------------------------------------------------------------------------------------

GRU = rnn_jax.gru()


def call_flow(xs=None, cotangent=VECTOR, **options):
    xs = np.zeros((T, D)) if xs is None else xs
    return analysis.gradient_flow(GRU, draw(GRU), xs, cotangent, **options)


def call_sweep(lengths=(1, T), cotangent=VECTOR, **options):
    return analysis.length_sweep(GRU, draw(GRU), np.zeros((T, D)), lengths, cotangent, **options)


def call_curve(xs=None, **options):
    xs = np.zeros((T, D)) if xs is None else xs
    return analysis.length_curve(jax.random.key(0), GRU, draw(GRU), xs, **options)


WRONG_STATE = HiddenState(np.zeros(H + 1))
total = jnp.sum


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: call_flow(cotangent=None), "cotangent or a loss"),
        (lambda: call_flow(loss=total), "cotangent or a loss"),
        (lambda: call_flow(cotangent=np.ones(5)), r"cotangent .* \(4,\), got \(5,\)"),
        (lambda: call_flow(xs=np.zeros((T, 2))), r"x has shape \(2,\).* 3 features"),
        (lambda: call_flow(xs=np.zeros((T, 2, D))), r"xs must be one sequence \(T, D\)"),
        (lambda: call_flow(xs=np.zeros(())), r"xs .* time axis, got .*\(\)"),
        (lambda: call_flow(state=WRONG_STATE), r"state: .*gru needs .*\[4\].*got .*\[5\]"),
        (lambda: call_flow(mask=np.ones(3, bool)), r"mask must have shape \(9,\).*got \(3,\)"),
        (lambda: call_flow(reset=np.ones(3, bool)), r"reset must have shape \(9,\).*got \(3,\)"),
        (lambda: call_sweep(cotangent=None), "cotangent or a loss"),
        (lambda: call_sweep(loss=total), "cotangent or a loss"),
        (lambda: call_sweep(cotangent=np.ones(5)), r"cotangent .* \(4,\), got \(5,\)"),
        (lambda: call_sweep(lengths=[0, 3]), r"lengths .* 1 and the 9 steps of xs, got \[0, 3\]"),
        (lambda: call_sweep(lengths=[10]), r"lengths .* 1 and the 9 steps of xs, got \[10\]"),
        (lambda: call_sweep(lengths=[1.0]), r"lengths must be a list of integers, got float64"),
        (lambda: call_sweep(lengths=3), r"lengths must be a list of integers, got int64\(\)"),
        (lambda: call_sweep(horizons=(0,)), r"horizons must increase from 1, got \(0,\)"),
        (lambda: call_sweep(horizons=(3, 3)), r"horizons must increase from 1, got \(3, 3\)"),
        (lambda: call_sweep(state=WRONG_STATE), r"state: .*gru needs .*\[4\].*got .*\[5\]"),
        (lambda: call_sweep(horizons=(1.5,)), r"horizons .*integers.*1\.5"),
        (lambda: call_curve(tangents=0), "tangents must be at least 1, got 0"),
        (lambda: call_curve(tangents=2.5), r"tangents must be an integer, got 2\.5"),
        (lambda: call_curve(state=WRONG_STATE), r"state: .*gru needs .*\[4\].*got .*\[5\]"),
        (lambda: call_curve(mask=np.ones(3, bool)), r"mask must have shape \(9,\).*got \(3,\)"),
        (lambda: combinators.batched(GRU, 0), "size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_name_what_came_and_what_was_expected(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("name", ["mask", "reset"])
def test_flags_must_be_boolean(name):
    """Not 0 and 1: an integer mask is more often a list of lengths."""
    with pytest.raises(TypeError, match=f"{name} must be boolean, got int64"):
        call_flow(**{name: np.ones(T, int)})
