"""What is special to the gated cells: limits, equalities among them, Flax, initialisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from numpy.testing import assert_allclose, assert_array_equal

from rnn_jax import CELLS, elman, gru, lstm, schemes, unroll
from rnn_jax.cells import (
    antisymmetric,
    convlstm,
    janet,
    lightgru,
    lookup,
    mgu,
    minimal_rnn,
    ran,
    rhn,
    ugrnn,
)

D, H, T = 3, 5, 12
ALWAYS = 800.0
"""An argument at which the float64 sigmoid is exactly 1, and that of minus it exactly 0."""

# The same arithmetic in another order: 1e-16 per operation on numbers of size one, over T steps.
close = functools.partial(assert_allclose, rtol=1e-12, atol=1e-13)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def draw(cell, seed=0):
    """Every parameter normal, with deviation 1 / sqrt(H)."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, H**-0.5, leaf.shape)), shapes)


def start(cell, seed=5):
    """A state in general position."""
    zeros = cell.initial_state(draw(cell))
    return jax.tree.map(lambda leaf: normal(*leaf.shape, seed=seed), zeros)


def outputs(cell, params, xs=None, state=None):
    xs = normal(T, D, seed=1) if xs is None else xs
    return unroll(cell, params, xs, state=start(cell) if state is None else state)[1].outputs


def pinned(params, gate, logit):
    """The parameters of a packed cell whose gate (counted from 0) is sigmoid(logit), whatever."""
    columns = slice(gate * H, (gate + 1) * H)
    return params | {
        "kernel": params["kernel"].at[:, columns].set(0),
        "recurrent_kernel": params["recurrent_kernel"].at[:, columns].set(0),
        "bias": params["bias"].at[columns].set(logit),
    }


def negated(params, gate):
    """The parameters of a packed cell with 1 minus one of its gates."""
    sign = jnp.ones(2 * H).at[gate * H : (gate + 1) * H].set(-1)
    return {
        name: leaf * sign.reshape((1,) * (leaf.ndim - 1) + (-1,)) for name, leaf in params.items()
    }


def columns(params, *gates):
    """The named gates of packed parameters, in that order."""
    take = lambda leaf: jnp.concatenate([leaf[..., g * H : (g + 1) * H] for g in gates], -1)
    return jax.tree.map(
        take, {name: params[name] for name in ("kernel", "recurrent_kernel", "bias")}
    )


# ---- Flax ---------------------------------------------------------------------------------------


def against_linen(cell, module, tree, params, xs, state):
    """Values of every step, and gradients by parameters, inputs and state, beside a Flax cell.

    ``tree`` makes Flax's parameters of ours, so the chain rule brings both gradients together.
    """
    weights = normal(T, H, seed=7)

    def ours(params, xs, state):
        return (weights * unroll(cell, params, xs, state=state)[1].outputs).sum()

    def theirs(params, xs, state):
        body = lambda carry, x: module.apply({"params": tree(params)}, carry, x)
        return (weights * jax.lax.scan(body, state.hidden, xs)[1]).sum()

    value, gradients = jax.value_and_grad(ours, (0, 1, 2))(params, xs, state)
    expected, others = jax.value_and_grad(theirs, (0, 1, 2))(params, xs, state)
    close(value, expected)
    jax.tree.map(close, gradients, others)


@pytest.mark.parametrize("reset_gate", [True, False])
def test_mgu_is_that_of_flax_linen(reset_gate):
    cell = mgu(reset_gate=reset_gate)

    def tree(params):
        (w_f, w_n), (u_f, u_n), (b_f, b_n) = (
            jnp.split(params[name], 2, -1) for name in ("kernel", "recurrent_kernel", "bias")
        )
        inner = {"bias": params["recurrent_bias"]} if reset_gate else {}
        return {
            "if": {"kernel": w_f, "bias": b_f},
            "in": {"kernel": w_n, "bias": b_n},
            "hf": {"kernel": u_f},
            "hn": {"kernel": u_n} | inner,
        }

    module = linen.MGUCell(H, reset_gate=reset_gate, param_dtype=jnp.float64)
    theirs = module.init(jax.random.key(0), jnp.zeros(H), jnp.zeros(D))["params"]
    assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, tree(draw(cell)))
    against_linen(cell, module, tree, draw(cell), normal(T, D, seed=1), start(cell))


def test_residual_elman_is_that_of_flax_linen():
    cell = elman(residual=True)
    against_linen(
        cell,
        linen.SimpleCell(H, residual=True, param_dtype=jnp.float64),
        lambda params: {
            "i": {"kernel": params["kernel"], "bias": params["bias"]},
            "h": {"kernel": params["recurrent_kernel"]},
        },
        draw(cell),
        normal(T, D, seed=1),
        start(cell),
    )


@pytest.mark.parametrize("scheme", [None, schemes.flax_linen()], ids=["default", "preset"])
def test_mgu_starts_as_in_flax_linen(scheme):
    """Forget bias 1, the other biases 0; the deviation of W, the orthogonality of each U."""
    size, width = 64, 64
    params = mgu().init(jax.random.key(0), size, width, scheme=scheme)
    theirs = linen.MGUCell(width, param_dtype=jnp.float64).init(
        jax.random.key(0), jnp.zeros(width), jnp.zeros(size)
    )["params"]
    assert_array_equal(params["bias"], jnp.append(theirs["if"]["bias"], theirs["in"]["bias"]))
    assert_array_equal(params["bias"][:width], 1)
    assert_array_equal(params["recurrent_bias"], theirs["hn"]["bias"])
    for ours, other in zip(jnp.split(params["kernel"], 2, -1), ("if", "in"), strict=True):
        # Deviations of 4096 draws each, four standard errors of their ratio: 4 / sqrt(4096).
        assert_allclose(ours.std(), theirs[other]["kernel"].std(), rtol=4 * 64**-1)
    for ours, other in zip(jnp.split(params["recurrent_kernel"], 2, -1), ("hf", "hn"), strict=True):
        for matrix in (ours, theirs[other]["kernel"]):
            assert_allclose(matrix.T @ matrix, np.eye(width), atol=1e-12)


def test_mgu_of_the_paper_has_no_forget_bias():
    params = mgu(form="paper").init(jax.random.key(0), D, H)
    assert_array_equal(params["bias"], 0)
    with pytest.raises(ValueError, match="mgu_paper has no gate that keeps the state"):
        mgu(form="paper").init(jax.random.key(0), D, H, scheme=schemes.orthogonal(1.0, 1.0))


# ---- One gate that keeps the state: the same network under six names ----------------------------


def test_mgu_forms_are_related_by_the_complement_of_the_gate():
    """Without the reset gate; with it they are different networks."""
    linen_form, paper_form = (mgu(reset_gate=False, form=form) for form in ("linen", "paper"))
    params = draw(linen_form)
    expected = outputs(linen_form, params)
    close(outputs(paper_form, negated(params, 0)), expected)
    assert np.abs(outputs(paper_form, params) - expected).max() > 0.1

    linen_form, paper_form = mgu(), mgu(form="paper")
    params = draw(linen_form) | {"recurrent_bias": jnp.zeros(H)}
    other = negated(columns(params, 0, 1), 0)
    assert np.abs(outputs(paper_form, other) - outputs(linen_form, params)).max() > 0.01


def test_cells_of_one_gate_are_one_network():
    """UGRNN, MGU without reset, JANET with beta = 0, RHN of one layer, GRU that never resets."""
    params = draw(ugrnn())
    expected = outputs(ugrnn(), params)
    close(outputs(mgu(reset_gate=False), params), expected)
    close(outputs(janet(beta=0.0), params), expected)
    highway = negated(columns(params, 1, 0), 1)
    stacked = highway | {name: highway[name][None] for name in ("recurrent_kernel", "bias")}
    close(outputs(rhn(depth=1), stacked), expected)
    wide = columns(params, 0, 0, 1)
    close(outputs(gru("before"), pinned(wide, 0, ALWAYS)), expected)


@pytest.mark.parametrize(("cell", "activation"), [(ugrnn(), "tanh"), (lightgru(), "relu")])
def test_with_a_fixed_gate_it_is_a_leaky_network(cell, activation):
    """z = 1 - alpha for every unit, step and input: h' = (1 - alpha) h + alpha phi(a)."""
    alpha = 0.3
    params = pinned(draw(cell), 0, np.log((1 - alpha) / alpha))
    leaky = elman(activation, leak=alpha)
    close(outputs(cell, params), outputs(leaky, columns(params, 1)))


@pytest.mark.parametrize(
    "cell", [mgu(), janet(), lightgru(), ugrnn(), mgu(form="paper"), janet(beta=0.0)], ids=repr
)
def test_a_saturated_gate_keeps_the_memory_exactly(cell):
    """Nothing enters and nothing leaves, in any bit, and the Jacobian is the identity."""
    logit = -ALWAYS if "paper" in cell.name else ALWAYS
    params = pinned(draw(cell), 0, logit)
    state, xs = start(cell), normal(T, D, seed=1)
    kept = unroll(cell, params, xs, state=state)[1].outputs
    assert_array_equal(kept, jnp.broadcast_to(state.hidden, kept.shape))
    assert_array_equal(cell.jacobian(params, state, cell.project(params, xs[0])), np.eye(H))


# ---- JANET --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_janet_is_bounded_by_exp_beta(beta):
    """1 - sigmoid(s - beta) <= exp(beta) (1 - sigmoid(s)); almost reached with a constant
    candidate of 1 and a gate that hardly ever opens.
    """
    cell, bound = janet(beta), np.exp(beta) * (1 + 1e-14)
    rough = jax.tree.map(lambda leaf: 3 * leaf, draw(cell))
    hidden = outputs(cell, rough, normal(200, D), cell.initial_state(rough))
    assert np.abs(hidden).max() <= bound
    # The fixed point is (1 - sigmoid(s - beta)) / (1 - sigmoid(s)), forgotten as sigmoid(s)**t.
    s = 3.0
    params = pinned(pinned(draw(cell), 0, s), 1, ALWAYS)
    last = outputs(cell, params, jnp.zeros((1000, D)))[-1]
    close(last, (1 + np.exp(s)) / (1 + np.exp(s - beta)))
    assert np.all((0.7 * np.exp(beta) < last) & (last <= bound))


def test_chrono_is_the_initialisation_of_the_paper():
    """exp(b_f) uniform in 1 .. T - 1, one draw per unit; the candidate's bias is 0."""
    max_lag, width, draws = 784, 16, 256
    init = functools.partial(janet().init, scheme=schemes.chrono(max_lag))
    keys = jax.random.split(jax.random.key(0), draws)
    bias = jax.vmap(lambda key: init(key, 1, width)["bias"])(keys)
    assert_array_equal(bias[:, width:], 0)
    steps = np.sort(np.exp(bias[:, :width]).ravel())
    quantiles = np.linspace(1, max_lag - 1, steps.size)
    # Kolmogorov and Smirnov: beyond 2 / sqrt(n) with a probability of 0.0007.
    assert np.abs(steps - quantiles).max() / (max_lag - 2) < 2 * steps.size**-0.5


def test_chrono_gives_the_memory_that_it_promises():
    """Without input the memory of a unit falls to 1 / e within 1 + exp(b) steps, to a step."""
    cell = janet(beta=0.0)
    params = cell.init(jax.random.key(0), D, H, scheme=schemes.chrono(50.0))
    params |= {"kernel": 0 * params["kernel"], "recurrent_kernel": 0 * params["recurrent_kernel"]}
    state = cell.initial_state(params)._replace(hidden=jnp.ones(H))
    memory = np.asarray(outputs(cell, params, jnp.zeros((60, D)), state))
    scale = 1 + np.exp(params["bias"][:H])
    for unit, steps in enumerate(scale):
        reached = 1 + np.flatnonzero(memory[:, unit] <= np.exp(-1))[0]
        assert steps - 1 < reached < steps + 1


def test_janet_forgets_slowly_by_default():
    """The authors' bias where no longest lag is known."""
    bias = janet().init(jax.random.key(0), D, H)["bias"]
    assert_array_equal(bias, np.repeat([1.0, 0.0], H))


# ---- Li-GRU, UGRNN ------------------------------------------------------------------------------


def test_lightgru_starts_as_in_its_paper():
    """Glorot uniform W for each gate, so with the fan-out of one gate; orthogonal U."""
    size, width = 30, 60
    params = lightgru().init(jax.random.key(0), size, width)
    limit = np.sqrt(6 / (size + width))
    for kernel in np.split(params["kernel"], 2, -1):
        assert np.abs(kernel).max() < limit
        # The largest of 1800 uniform numbers: below 0.99 of the limit with probability 1e-8.
        assert np.abs(kernel).max() > 0.99 * limit
        # The variance of 1800 uniform numbers has a relative error of sqrt(0.8 / 1800).
        assert_allclose(kernel.var(), limit**2 / 3, rtol=5 * np.sqrt(0.8 / 1800))
    for kernel in np.split(params["recurrent_kernel"], 2, -1):
        assert_allclose(kernel @ kernel.T, np.eye(width), atol=1e-12)
    assert_array_equal(params["bias"], 0)
    first, second = np.split(params["kernel"], 2, -1)
    assert np.abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / np.sqrt(1800)


def test_lightgru_stays_positive_and_is_homogeneous_in_its_candidate():
    """From h >= 0 it stays there; with z fixed, b = 0, the state scales with the input."""
    cell = lightgru()
    xs = normal(T, D, seed=1)
    zero = cell.initial_state(draw(cell))
    assert np.all(outputs(cell, draw(cell), xs, zero) >= 0)
    params = pinned(draw(cell), 0, 0.7)
    params = params | {"bias": params["bias"].at[H:].set(0)}
    expected = outputs(cell, params, xs, zero)
    assert np.abs(expected).max() > 0.1
    close(outputs(cell, params, 1000 * xs, zero), 1000 * expected)


# ---- minimalRNN ---------------------------------------------------------------------------------


def test_minimal_rnn_with_a_fixed_gate_averages_its_embedded_inputs():
    """h_T = u^T h_0 + (1 - u) sum_t u^(T - t) z_t."""
    cell = minimal_rnn()
    params = draw(cell)
    logits = normal(H, seed=3)
    params |= {name: 0 * params[name] for name in ("recurrent_kernel", "gate_kernel")}
    params |= {"bias": logits}
    xs, state = normal(T, D, seed=1), start(cell)
    u = 1 / (1 + np.exp(-np.asarray(logits)))
    z = np.tanh(np.asarray(xs @ params["kernel"]) + np.asarray(params["input_bias"]))
    powers = u ** np.arange(T)[::-1, None]
    expected = u**T * state.hidden + (1 - u) * (powers * z).sum(0)
    close(outputs(cell, params, xs, state)[-1], expected)


def test_minimal_rnn_jacobian_at_the_embedded_input():
    """At h = z the gate has no say: dh'/dh = diag(u), whatever U, as the mean field of the paper
    uses; away from it the Jacobian is that of the paper.
    """
    cell = minimal_rnn()
    params = draw(cell)
    drive = cell.project(params, normal(D, seed=1))
    state = start(cell)._replace(hidden=drive.embedding)
    u = jax.nn.sigmoid(drive.gate + state.hidden @ params["recurrent_kernel"])
    close(jax.jacrev(lambda s: cell.step(params, s, drive)[1])(state).hidden, np.diag(u))
    close(cell.jacobian(params, state, drive), np.diag(u))


def test_minimal_rnn_stays_within_its_inputs():
    cell = minimal_rnn()
    params = jax.tree.map(lambda leaf: 5 * leaf, draw(cell))
    xs = normal(200, D, seed=1)
    z = np.abs(cell.project(params, xs).embedding)
    hidden = np.abs(outputs(cell, params, xs, cell.initial_state(params)))
    assert np.all(hidden <= np.maximum.accumulate(z))


def test_minimal_rnn_has_a_forget_bias():
    params = minimal_rnn().init(jax.random.key(0), D, H, scheme=schemes.orthogonal(1.0, 3.0))
    assert_array_equal(params["bias"], 3)
    assert_array_equal(params["input_bias"], 0)


# ---- RAN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["tanh", "identity"])
def test_ran_is_a_weighted_sum_of_its_inputs(output):
    """c_T = f_1 ... f_T c_0 + sum_t i_t f_{t+1} ... f_T (x_t W_k), the theorem of the paper."""
    cell = ran(output)
    params, xs, state = draw(cell), normal(T, D, seed=1), start(cell)
    end, trajectory = unroll(cell, params, xs, state=state)
    hidden = np.concatenate([state.cell[None], trajectory.states.cell[:-1]])
    hidden = np.tanh(hidden) if output == "tanh" else hidden
    a = xs @ params["kernel"] + hidden @ params["recurrent_kernel"]
    i, f = np.split(1 / (1 + np.exp(-np.asarray(a + params["bias"][None]))), 2, -1)
    later = np.concatenate([np.cumprod(f[::-1], 0)[::-1][1:], np.ones((1, H))])
    content = np.asarray(xs @ params["content_kernel"])
    expected = f.prod(0) * state.cell + (i * later * content).sum(0)
    close(end.cell, expected)
    close(trajectory.outputs[-1], np.tanh(expected) if output == "tanh" else expected)


def test_ran_with_open_gates_is_an_exact_sum():
    """i = f = 1: c_T = c_0 + sum_t x_t W_k, here of integers, so without rounding."""
    cell = ran("identity")
    params = draw(cell) | {"content_kernel": jnp.arange(1.0, D * H + 1).reshape(D, H)}
    params = pinned(pinned(params, 0, ALWAYS), 1, ALWAYS)
    xs = jnp.round(10 * normal(100, D, seed=1))
    state = cell.initial_state(params)
    assert_array_equal(
        outputs(cell, params, xs, state), jnp.cumsum(xs @ params["content_kernel"], 0)
    )


# ---- RHN ----------------------------------------------------------------------------------------


def test_rhn_is_a_chain_of_layers_of_which_one_sees_the_input():
    """A step of L layers is one step of the first and, without input, one of each of the others."""
    cell, layer = rhn(depth=4), rhn(depth=1)
    params, x, state = draw(cell), normal(D, seed=1), start(cell)
    expected, jacobian = state, np.eye(H)
    for index in range(4):
        alone = {
            "kernel": params["kernel"] * float(index == 0),
            "recurrent_kernel": params["recurrent_kernel"][index, None],
            "bias": params["bias"][index, None],
        }
        jacobian = layer.jacobian(alone, expected, layer.project(alone, x)) @ jacobian
        expected, _ = layer(alone, expected, x)
    new, output = cell(params, state, x)
    close(output, expected.hidden)
    close(new.hidden, expected.hidden)
    close(cell.jacobian(params, state, cell.project(params, x)), jacobian)


def test_rhn_starts_by_carrying():
    """b_z = -2: each of L layers carries 1 - sigmoid(-2) = 0.88, and the layers differ."""
    depth, width = 3, 64
    params = rhn(depth).init(jax.random.key(0), D, width)
    candidate, transform = np.split(params["bias"], 2, -1)
    assert_array_equal(candidate, 0)
    assert_array_equal(transform, -2)
    for kernel in params["recurrent_kernel"]:
        for block in np.split(kernel, 2, -1):
            assert_allclose(block @ block.T, np.eye(width), atol=1e-12)
    assert np.abs(params["recurrent_kernel"][0] - params["recurrent_kernel"][1]).max() > 0.1
    # Without candidates and with the gates at their bias the step only carries.
    zero = params | {name: 0 * params[name] for name in ("kernel", "recurrent_kernel")}
    _, output = rhn(depth)(
        zero, rhn(depth).initial_state(zero)._replace(hidden=jnp.ones(width)), jnp.ones(D)
    )
    close(output, (1 / (1 + np.exp(-2))) ** depth)


def test_rhn_draws_each_layer_by_the_scheme():
    params = rhn(2).init(jax.random.key(0), D, H, scheme=schemes.orthogonal(gain=1.5))
    assert_array_equal(params["bias"], 0)
    for kernel in params["recurrent_kernel"].reshape(2, H, 2, H).transpose(0, 2, 1, 3):
        for block in kernel:
            assert_allclose(block @ block.T, 1.5**2 * np.eye(H), atol=1e-12)
    with pytest.raises(ValueError, match="rhn_depth_2 has no gate that keeps the state"):
        rhn(2).init(jax.random.key(0), D, H, scheme=schemes.orthogonal(1.0, 1.0))


# ---- Elman, leaky and residual ------------------------------------------------------------------


def test_plain_elman_is_one_object():
    """Whatever way its options are written, so that nothing is compiled twice."""
    assert elman() is elman("tanh", residual=False, leak=1) is elman(leak=np.float32(1))
    assert elman(leak=0.5) is elman("tanh", leak=np.float64(0.5))


def test_leaky_elman_is_a_step_of_euler():
    """h' - h = alpha (phi(a) - h) for every alpha, and alpha -> 1 is the plain network."""
    params, x, state = draw(elman()), normal(D, seed=1), start(elman())
    target = elman()(params, state, x)[1]
    for alpha in (1e-3, 0.25, 0.7):
        moved = elman(leak=alpha)(params, state, x)[1] - state.hidden
        close(moved, alpha * (target - state.hidden))
    last = np.nextafter(1, 0)
    close(elman(leak=last)(params, state, x)[1], target)


def test_leaky_elman_forgets_by_its_leak():
    """Where phi is flat, dh_T/dh_0 is (1 - alpha)^T times the identity."""
    cell = elman("relu", leak=0.1)
    params = draw(cell) | {"bias": jnp.full(H, -ALWAYS)}
    state, xs = start(cell), normal(T, D, seed=1)
    jacobian = jax.jacrev(lambda s: unroll(cell, params, xs, state=s)[0])(state).hidden.hidden
    close(jacobian, 0.9**T * np.eye(H))


def test_residual_elman_is_plain_with_the_identity_added():
    params = draw(elman())
    shifted = params | {"recurrent_kernel": params["recurrent_kernel"] + jnp.eye(H)}
    close(outputs(elman(residual=True), params), outputs(elman(), shifted))


# ---- Bad options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mgu(form="flax"), ValueError, "mgu: form must be 'linen' or 'paper', got 'flax'"),
        (lambda: mgu("paper"), ValueError, "mgu: reset_gate must be True or False, got 'paper'"),
        (lambda: janet(beta=np.inf), ValueError, "janet: beta must be a finite number, got inf"),
        (lambda: janet(beta="1"), ValueError, "janet: beta must be a finite number, got '1'"),
        (lambda: ran("relu"), ValueError, "ran: output must be 'tanh' or 'identity', got 'relu'"),
        (lambda: rhn(0), ValueError, "rhn: depth must be at least 1, got 0"),
        (lambda: rhn(1.5), TypeError, "rhn: depth must be an integer, got 1.5"),
        (lambda: elman(leak=0.0), ValueError, r"elman: leak must be a number in \(0, 1\], got 0.0"),
        (lambda: elman(leak=1.1), ValueError, r"elman: leak must be a number in \(0, 1\], got 1.1"),
        (lambda: elman(leak=True), ValueError, r"elman: leak must be .* got True"),
        (lambda: elman(residual=1), ValueError, "elman: residual must be True or False, got 1"),
        (lambda: elman(None), TypeError, "elman: activation must be a name or .* got None"),
        (lambda: elman(3), TypeError, "elman: activation must be a name or .* got 3"),
        (lambda: elman([]), TypeError, r"elman: activation must be a name or .* got \[\]"),
        (lambda: ran([]), ValueError, r"ran: output must be 'tanh' or 'identity', got \[\]"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("cell", [minimal_rnn(), ran(), rhn(2)], ids=repr)
def test_foreign_parameters_are_refused(cell):
    for other in (gru("before"), rhn(3)):
        with pytest.raises(ValueError, match=f"{cell.name}: params .* those of another cell"):
            cell.project(draw(other), normal(D))
    with pytest.raises(ValueError, match=rf"{cell.name}: the input x has shape \(2,\)"):
        cell.project(draw(cell), normal(D - 1))


WITH_OPTIONS = [
    antisymmetric(gated=True),
    convlstm((4, 4), peephole=True),
    gru("before"),
    lstm(peephole=True),
    lstm(projection=2, coupled=True),
    lstm(layer_norm=True),
]


@pytest.mark.parametrize("cell", [*map(lookup, CELLS), *WITH_OPTIONS], ids=repr)
def test_parameters_of_other_shapes_are_refused(cell):
    """Every one of every cell, though most would broadcast into a third network."""
    x = np.zeros((*cell.space, D))
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    cell.project(params, x)
    for name, value in params.items():
        for wrong in (np.zeros((1,) * value.ndim), value[None], value[..., :-1], np.float64(0)):
            with pytest.raises(ValueError, match=f"{cell.name}: params .* those of another cell"):
                cell.project(params | {name: wrong}, x)
    for wrong in (None, tuple(params.values()), (params,)):
        with pytest.raises(ValueError, match=f"{cell.name}: params .* those of another cell"):
            cell.project(wrong, x)


def test_the_shapes_that_were_expected_are_told():
    params = draw(gru()) | {"recurrent_bias": jnp.zeros(1)}
    with pytest.raises(ValueError, match=r"'recurrent_bias': \(1,\).*expected .*: \(5,\)"):
        unroll(gru(), params, normal(T, D))
