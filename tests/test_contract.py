"""Every registered cell under every law, and every law under something broken on purpose."""

import dataclasses
import functools

import contract
import jax
import jax.numpy as jnp
import pytest
import reference_dynamics
import reference_gated
import reference_linear
import reference_lstm
from contract import LAWS, Case, verify_cell
from reference import REFERENCES

from rnn_jax import CELLS, Cell, HiddenState, Trajectory, elman, gru, lstm, unroll
from rnn_jax.cells import ACTIVATIONS, lookup
from rnn_jax.combinators import batched

OPTIONS = {
    "elman": [
        *({"activation": name} for name in ACTIVATIONS),
        {"residual": True},
        {"leak": 0.4},
        {"activation": "relu", "residual": True, "leak": 0.4},
    ],
    "gru": [{"reset": "after"}, {"reset": "before"}],
}
"""The options of a factory that make different cells; none by default."""

CASE_OPTIONS = {}
"""What a `Case` of a cell needs beside its reference, by the name of the cell."""

for family in (reference_gated, reference_lstm, reference_linear, reference_dynamics):
    REFERENCES |= family.REFERENCES
    OPTIONS |= family.OPTIONS
    CASE_OPTIONS |= family.CASE_OPTIONS

REGISTERED = [
    Case(
        cell,
        REFERENCES[cell.name],
        remake=functools.partial(lookup, name, options),
        **CASE_OPTIONS.get(cell.name, {}),
    )
    for name in CELLS
    for options in OPTIONS.get(name, [{}])
    for cell in [lookup(name, options)]
]
"""Every cell that the factories make. A new one needs a reference, in a file like those above."""


def observer():
    """An Elman network that starts at learned values and shows more than its hidden vector."""
    cell = elman()

    def read(params, state, drive):
        return jnp.tanh(state.hidden + drive) @ params["recurrent_kernel"]

    def step(params, state, drive):
        state, _ = cell.step(params, state, drive)
        return state, read(params, state, drive)

    def initial_state(params):
        return HiddenState(1 + params["bias"])

    return dataclasses.replace(
        cell, name="observer", initial_state=initial_state, step=step, read=read
    )


OBSERVER = observer()
OTHERS = [
    Case(batched(elman(), 2), remake=lambda: batched(elman(), 2), input_shape=(2, 3)),
    Case(OBSERVER),
]


THOROUGH = {"elman", "elman_relu", "lstm", "gru", "gru_before", "batched(elman)", "observer"}
"""The cells under every law in the quick tests too."""
QUICK = {
    "the_state_keeps_its_kind",
    "unroll_matches_the_reference",
    "the_closed_jacobian_is_the_derivative",
}
"""The laws in the quick tests of every factory's default cell."""
OF_EQUATIONS = QUICK | {
    "a_cell_is_a_scan_body",
    "project_takes_any_leading_axes",
    "read_repeats_the_output",
    "every_part_of_the_state_matters",
    "low_precision_only_rounds",
    "masked_steps_are_absent",
    "derivatives_agree",
    "a_cell_is_static_under_jit",
    "factories_are_memoised",
}
"""The laws that the other options of a factory may break. The rest is about what `unroll` does."""


def checks():
    defaults = {lookup(name, OPTIONS.get(name, [{}])[0]).name for name in CELLS}
    for case in REGISTERED + OTHERS:
        name = case.cell.name
        for law in LAWS:
            if name not in THOROUGH | defaults and law.__name__ not in OF_EQUATIONS:
                continue
            quick = name in THOROUGH or (name in defaults and law.__name__ in QUICK)
            marks = () if quick else pytest.mark.slow
            yield pytest.param(law, case, id=f"{law.__name__}-{name}", marks=marks)


@pytest.mark.parametrize(("law", "case"), list(checks()))
def test_law(law, case):
    law(case)


# ---- Cells broken on purpose --------------------------------------------------------------------

ELMAN, LSTM, GRU = elman(), lstm(), gru()


def cell_with(cell=ELMAN, **parts):
    return dataclasses.replace(cell, name="broken", **parts)


def stepping(change, cell=ELMAN):
    """The cell with ``change(params, state, drive)`` in place of its new state."""

    def step(params, state, drive):
        new = change(params, state, drive)
        return new, new[0]

    return cell_with(cell, step=step)


def then(change):
    """An Elman network whose new hidden vector passes through ``change``."""
    return stepping(lambda p, s, d: HiddenState(change(ELMAN.step(p, s, d)[1])))


def seeing(change):
    """An Elman network that sees changed inputs."""
    return cell_with(project=lambda params, x: ELMAN.project(params, change(x)))


class Impatient(Cell):
    """Called, it does something else than its step."""

    def __call__(self, params, state, x):
        return self.step(params, state, 2 * self.project(params, x))


class Unhashable:
    """Like a dataclass that is not frozen."""

    __hash__ = None

    def __call__(self, *args, **kwargs):
        return ELMAN.init(*args, **kwargs)


@jax.custom_jvp
def steep(x):
    """Its derivative is 1 % wrong."""
    return x


steep.defjvp(lambda primals, tangents: (primals[0], 1.01 * tangents[0]))


@jax.custom_batching.custom_vmap
def unaccompanied(x):
    return x


unaccompanied.def_vmap(lambda axis_size, in_batched, x: (1.01 * x, True))


@jax.custom_vjp
def lonely(x):
    """It gives something else in a batch."""
    return unaccompanied(x)


lonely.defvjp(lambda x: (unaccompanied(x), None), lambda _, cotangent: (cotangent,))
calls = []


def tired(x):
    """Every call gives less."""
    calls.append(None)
    return x * 0.9 ** len(calls)


def narrowing(params, state, drive):
    """Computes in bfloat16 whatever comes."""
    params, narrow, drive = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, state, drive))
    return jax.tree.map(lambda a, s: a.astype(s.dtype), ELMAN.step(params, narrow, drive)[0], state)


def peeking(params, state, drive):
    """Python decides by the value of a parameter."""
    return ELMAN.step(params, state, drive)[0] if params["bias"].sum() > 0 else state


DIFFERENT = "not approximately equal"

BROKEN_CELLS = [
    ("the_state_keeps_its_kind", "float32", then(lambda h: h.astype(jnp.float32))),
    ("the_state_keeps_its_kind", "tuple", stepping(lambda p, s, d: tuple(ELMAN.step(p, s, d)[0]))),
    (
        "the_state_keeps_its_kind",
        "dtype",
        cell_with(initial_state=lambda params: HiddenState(jnp.zeros(4))),
    ),
    ("a_cell_is_a_scan_body", DIFFERENT, Impatient(**vars(ELMAN))),
    # What a step sees depends on the steps around it, padding included.
    ("project_takes_any_leading_axes", DIFFERENT, seeing(lambda x: x - x.mean(0, keepdims=True))),
    # At the zeros that stand in for padding the gradient is 0 * NaN, though no value shows it.
    (
        "masked_steps_are_absent",
        "finite",
        seeing(lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)),
    ),
    ("read_repeats_the_output", DIFFERENT, cell_with(read=lambda p, s, d: 1.01 * s.hidden)),
    (
        "every_part_of_the_state_matters",
        r"state\.hidden changes nothing",
        stepping(lambda p, s, d: ELMAN.step(p, HiddenState(0 * s.hidden), d)[0]),
    ),
    (
        "every_part_of_the_state_matters",
        r"state\.cell changes nothing",
        stepping(lambda p, s, d: LSTM.step(p, s._replace(cell=s.hidden), d)[0], LSTM),
    ),
    ("a_step_is_pure", "not equal", then(tired)),
    ("low_precision_only_rounds", DIFFERENT, stepping(narrowing)),
    ("unroll_matches_the_reference", DIFFERENT, then(lambda h: 1.01 * h)),
    # What is made once for all steps is not what a step makes by itself.
    (
        "unroll_is_a_plain_loop",
        DIFFERENT,
        cell_with(prepare_params=lambda p: {**p, "bias": 1.01 * p["bias"]}),
    ),
    ("vmap_is_a_loop", DIFFERENT, then(lonely)),
    ("derivatives_agree", "not equal to tolerance", then(steep)),
    (
        "the_closed_jacobian_is_the_derivative",
        DIFFERENT,
        cell_with(GRU, jacobian=lambda p, s, d: GRU.jacobian(p, s, d).T),
    ),
    (
        "tap_gradients_are_products_of_jacobians",
        DIFFERENT,
        cell_with(read=lambda p, s, d: 2 * s.hidden),
    ),
    ("new_parameters_do_not_retrace", "traced array", stepping(peeking)),
    ("a_cell_is_static_under_jit", "unhashable", cell_with(init=Unhashable())),
]


@pytest.mark.parametrize(("law", "complaint", "cell"), BROKEN_CELLS)
def test_broken_cell_is_caught(law, complaint, cell):
    with pytest.raises(
        AssertionError, match=f"(?si){cell.name} breaks the law {law}: .*{complaint}"
    ):
        verify_cell(cell, REFERENCES["elman"], laws=[getattr(contract, law)])


def test_factory_that_forgets_is_caught():
    with pytest.raises(AssertionError, match="second cell"):
        verify_cell(ELMAN, remake=lambda: cell_with(), laws=[contract.factories_are_memoised])


# ---- Unrolls broken on purpose ------------------------------------------------------------------


def by_products(cell, params, xs, *, state, mask, reset, taps, reverse):
    """Multiplies by flags instead of choosing, so that 0 * NaN passes."""

    def body(state, step):
        x, valid, border, tap = step
        state = jax.tree.map(lambda s, i: (1 - border) * s + border * i, state, initial)
        new, output = cell(params, state, valid * x)
        new = jax.tree.map(lambda n, s, e: valid * n + (1 - valid) * s + e, new, state, tap)
        return new, Trajectory(new, valid * output)

    initial = cell.initial_state(params)
    flags = (jnp.asarray(flag, xs.dtype) for flag in (mask, reset))
    return jax.lax.scan(body, state, (xs, *flags, taps), reverse=reverse)


def flipped(*args, reverse=False, **options):
    """Leaves the outputs in the order in which they were read."""
    end, trajectory = unroll(*args, reverse=reverse, **options)
    return end, jax.tree.map(lambda a: a[::-1] if reverse else a, trajectory)


def shifted(*args, reset=None, reverse=False, **options):
    """Puts the border on the wrong side when reading backwards."""
    return unroll(*args, reset=jnp.roll(reset, reverse), reverse=reverse, **options)


def zeros_first(cell, params, xs, *, state=None, **options):
    """Takes the initial state for zero."""
    zeros = jax.tree.map(jnp.zeros_like, cell.initial_state(params))
    return unroll(cell, params, xs, state=zeros if state is None else state, **options)


def forgetful(*args, state=None, **options):
    """Starts anew, whatever the state."""
    return unroll(*args, **options)


def untapped(*args, taps=None, **options):
    """The values of taps, without their gradients."""
    return unroll(*args, taps=jax.lax.stop_gradient(taps), **options)


def cutting(*args, segment=None, state=None, **options):
    """Cuts a gradient when segmented."""
    state = state if segment is None else jax.lax.stop_gradient(state)
    return unroll(*args, segment=segment, state=state, **options)


def unhoisted(*args, hoist=True, **options):
    """Loses a gradient when hoisting."""
    end, trajectory = unroll(*args, hoist=hoist, **options)
    return (jax.lax.stop_gradient(end) if hoist else end), trajectory


def uncut(*args, window, **options):
    """Full backpropagation under another name."""
    return unroll(*args, **options)


BROKEN_UNROLLS = [
    ("unroll_is_a_plain_loop", flipped),
    ("the_default_state_is_the_initial_state", zeros_first),
    ("two_halves_make_the_whole", forgetful),
    ("masked_steps_are_absent", by_products),
    ("a_reset_is_a_split", shifted),
    ("nan_does_not_pass_a_reset", by_products),
    ("tap_gradients_are_products_of_jacobians", untapped),
    ("segments_change_nothing", cutting),
    ("hoisting_changes_nothing", unhoisted),
    ("truncation_cuts_gradients_only", uncut),
]


@pytest.mark.parametrize(("law", "broken"), BROKEN_UNROLLS)
def test_broken_unroll_is_caught(monkeypatch, law, broken):
    monkeypatch.setattr(contract, "unroll_truncated" if broken is uncut else "unroll", broken)
    with pytest.raises(AssertionError, match=f"observer breaks the law {law}"):
        verify_cell(OBSERVER, laws=[getattr(contract, law)])


def test_every_law_can_fail():
    broken = {law for law, *_ in BROKEN_CELLS + BROKEN_UNROLLS} | {"factories_are_memoised"}
    assert broken == {law.__name__ for law in LAWS}
