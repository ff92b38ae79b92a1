"""`unroll_parallel` is the same function as `unroll`: values and gradients, with every option."""

import functools
import itertools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import STEPS, TIME, Case, agree, close, normal_like, pull
from reference_linear import OPTIONS, REFERENCES

from rnn_jax import CELLS, LinearCell, elman, length_mask, lstm, unroll, unroll_parallel
from rnn_jax.cells import lookup, lru, mingru, rglru

# Minutes together; the contract is the quick test of what is here.
pytestmark = pytest.mark.slow

LINEAR = [
    cell
    for name in CELLS
    for options in OPTIONS.get(name, [{}])
    for cell in [lookup(name, options)]
    if isinstance(cell, LinearCell)
]
every_linear_cell = pytest.mark.parametrize("cell", LINEAR, ids=lambda cell: cell.name)
compiled = functools.partial(jax.jit, static_argnums=(0, 1))


def test_there_are_linear_cells():
    assert {cell.name for cell in LINEAR} >= set(REFERENCES)


# ---- The same as unroll -------------------------------------------------------------------------


@every_linear_cell
def test_equals_unroll(cell):
    """With every combination of a mask over NaN, resets, taps and both directions."""
    case = Case(cell)
    params, state, xs = case.args
    everything = case.everything()
    for names in itertools.chain.from_iterable(
        itertools.combinations(everything, count) for count in range(len(everything) + 1)
    ):
        options = {name: everything[name] for name in names}
        padded = xs.at[~everything["mask"]].set(jnp.nan) if "mask" in names else xs
        for reverse in (False, True):
            args = (params, state, padded)
            got = case.scan(args, method=unroll_parallel, reverse=reverse, **options)
            agree(got, case.scan(args, reverse=reverse, **options))


@pytest.mark.slow
@pytest.mark.parametrize("cell", [mingru(), lru()], ids=["mingru", "lru"])
def test_absent_options(cell):
    """What is not given is not there: each combination of options is a program of its own."""
    case = Case(cell)
    everything = case.everything()
    for count in range(len(everything) + 1):
        for names in itertools.combinations(everything, count):
            for reverse in (False, True):

                def run(method, params, state, xs, names=names, reverse=reverse):
                    options = {name: everything[name] for name in names}
                    return method(cell, params, xs, state=state, reverse=reverse, **options)

                got, expected = (
                    jax.jit(pull, static_argnums=0)(
                        functools.partial(run, method), case.args, case.weights
                    )
                    for method in (unroll_parallel, unroll)
                )
                agree(got, expected)


# Those that ask for something else than equality of bits, or of another unroll.
SAME_LAWS = [
    contract.the_state_keeps_its_kind,
    contract.low_precision_only_rounds,
    contract.unroll_matches_the_reference,
    contract.the_default_state_is_the_initial_state,
    contract.two_halves_make_the_whole,
    contract.vmap_is_a_loop,
    contract.a_reset_is_a_split,
    contract.nan_does_not_pass_a_reset,
    contract.derivatives_agree,
    contract.tap_gradients_are_products_of_jacobians,
    contract.new_parameters_do_not_retrace,
]


def checks():
    for law, cell in itertools.product(SAME_LAWS, (lru(), rglru())):
        marks = () if cell is lru() else pytest.mark.slow
        yield pytest.param(law, cell, id=f"{law.__name__}-{cell.name}", marks=marks)


@pytest.mark.parametrize(("law", "cell"), [*checks()])
def test_obeys_the_laws_of_unroll(monkeypatch, law, cell):
    monkeypatch.setattr(contract, "unroll", unroll_parallel)
    law(Case(cell, REFERENCES.get(cell.name)))


@pytest.mark.parametrize("cell", [lru(), rglru()], ids=["lru", "rglru"])
def test_second_derivatives(cell):
    params, state, xs = Case(cell).args
    directions = normal_like((params, state, xs), 700)

    @compiled()
    def curvature(method, cell, args):
        def loss(args):
            params, state, xs = args
            _, trajectory = method(cell, params, xs, state=state)
            return jnp.sum(jnp.sin(trajectory.outputs))

        return jax.jvp(jax.grad(loss), (args,), (directions,))[1]

    got, expected = (
        curvature(method, cell, (params, state, xs)) for method in (unroll_parallel, unroll)
    )
    close(got, expected)


# ---- Lengths and precisions ---------------------------------------------------------------------


@pytest.mark.slow
@every_linear_cell
def test_long_in_float32(cell):
    """4096 steps in float32 are as near to float64 as those of the plain scan."""
    steps = 4096
    params = cell.init(jax.random.key(0), 3, 8, dtype=jnp.float32)
    xs = normal_like(jax.ShapeDtypeStruct((steps, 3), jnp.float32), 0)

    @compiled()
    def run(method, cell, params, xs):
        def outputs(params, xs):
            return method(cell, params, xs)[1].outputs

        weights = normal_like(jax.eval_shape(outputs, params, xs), 1)
        return pull(outputs, (params, xs), weights)

    exact = run(unroll, cell, *jax.tree.map(lambda a: a.astype(jnp.float64), (params, xs)))
    exact = jax.tree.leaves(exact)
    plain, parallel = (
        jax.tree.leaves(run(method, cell, params, xs)) for method in (unroll, unroll_parallel)
    )
    for a, b, c in zip(exact, plain, parallel, strict=True):
        assert c.dtype == jnp.float32
        scale = float(jnp.abs(a).max())
        by_plain, by_parallel = (float(jnp.abs(x.astype(a.dtype) - a).max()) for x in (b, c))
        # Rounding errors in another order: the same size, up to luck, and never large.
        assert by_parallel <= 10 * by_plain + 1e-6 * scale
        assert by_parallel <= 1e-3 * scale


def test_bfloat16_rounds_once():
    """The states are rounded at the end, not at every step: with a slow memory that is far better.

    An update gate of 1 / 1000 adds less to the state than bfloat16 can see, and `unroll` stalls.
    """
    cell = mingru()
    params = {"kernel": jnp.zeros((1, 2)), "bias": jnp.array([-np.log(999.0), 1.0])}
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), narrow)
    exact, plain, parallel = (
        method(cell, params, jnp.zeros((2000, 1)))[0].hidden.astype(jnp.float64)[0]
        for method, params in ((unroll, wide), (unroll, narrow), (unroll_parallel, narrow))
    )
    assert abs(parallel - exact) < 2**-8 * exact
    assert abs(plain - exact) > 0.2 * exact


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_short(steps, reverse):
    case = Case(lru())
    params, state, xs = case.args
    for reset in (np.zeros(steps, bool), np.ones(steps, bool)):
        options = {"state": state, "mask": length_mask(1, 3)[:steps], "reset": reset}
        got, expected = (
            method(lru(), params, xs[:steps], reverse=reverse, **options)
            for method in (unroll_parallel, unroll)
        )
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.shape, b.shape), got, expected)
        close(got, expected)


def test_nothing_is_sequential():
    """No loop is left in the program, forward or backward, with everything that may happen."""
    case = Case(rglru())

    def run(params, state, xs, taps):
        options = case.everything() | {"taps": taps}
        return unroll_parallel(rglru(), params, xs, state=state, **options)

    taps = case.everything()["taps"]
    program = str(jax.make_jaxpr(lambda *args: pull(run, args, case.weights))(*case.args, taps))
    assert "scan[" not in program
    assert "while[" not in program


# ---- Bad input ----------------------------------------------------------------------------------


def test_bad_arguments():
    cell, (params, state, xs) = mingru(), Case(mingru()).args
    with pytest.raises(ValueError, match=r"method must be one of associative, .*, got 'fast'"):
        unroll_parallel(cell, params, xs, method="fast")
    with pytest.raises(TypeError, match=r"'associative' .*LinearCell.*<Cell lstm>"):
        unroll_parallel(lstm(), Case(lstm()).params(), xs)
    with pytest.raises(TypeError, match="'associative'"):
        unroll_parallel(elman("identity"), Case(elman()).params(), xs)
    with pytest.raises(TypeError, match="cell must be a Cell"):
        unroll_parallel(mingru, params, xs)
    with pytest.raises(ValueError, match=r"mask must have shape \(7,\)"):
        unroll_parallel(cell, params, xs, state=state, mask=TIME[: STEPS - 1] > 0)
    with pytest.raises(ValueError, match="state: the cell mingru needs"):
        unroll_parallel(cell, params, xs, state=state.hidden)
