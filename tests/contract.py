"""The laws that every recurrent cell obeys.

`verify_cell` runs them all; a law that does not hold is named in the error. A law takes a `Case`
and nothing else, so each is also a test of its own: see test_contract.py. Most say that `unroll`,
compiled, is the same function as some plain loop over the cell: same values *and* same gradients.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from rnn_jax import Cell, Trajectory, unroll, unroll_static, unroll_truncated

STEPS = 7
"""Segments of ceil(sqrt(7)) = 3 steps do not divide it."""
SPLIT = 3
TIME = np.arange(STEPS)

# Both sides do the same arithmetic in float64, in another order: 1e-16 per operation, on numbers
# of size one, amplified over seven steps. A wrong gradient is wrong in its first digits.
close = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)


def normal_like(tree, seed):
    """Standard normal numbers in the shapes and dtypes of a pytree, always the same for a seed."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(random.normal(size=a.shape), a.dtype), tree)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def concatenate(*trees):
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def pull(function, args, weights):
    """``function(*args)``, and the gradients of <weights, that> with respect to each argument."""
    value, vjp = jax.vjp(function, *args)
    return value, vjp(weights)


def agree(got, expected):
    """Two results of `pull` are the same and finite; further arguments of the first are ignored."""
    (value, gradients), (_, others) = got, expected
    got = value, gradients[: len(others)]
    chex.assert_tree_all_finite(got)
    close(got, expected)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def pull_compiled(method, cell, options, args, flags, weights):
    """`pull` of an unroll; static options and arrays apart, so that the laws share programs."""

    def function(params, state, xs, *taps):
        tapped = {"taps": taps[0]} if taps else {}
        return method(cell, params, xs, state=state, **tapped, **flags, **dict(options))

    return pull(function, args, weights)


@dataclasses.dataclass(frozen=True)
class Case:
    """A cell, and what the laws need to try it: parameters, state and inputs in general position.

    Attributes:
      cell: any cell with a real state.
      reference: float64 NumPy, called like `unroll` but for the cell, `(params, xs, state=, mask=,
        reset=, reverse=)`; returns the same leaves in the same order. None skips its law.
      remake: makes the cell anew. None skips the law that factories are memoised.
      input_size, hidden_size: for ``cell.init``.
      input_shape: of one x, by default (input_size,).
      noise: deviation of what is added to every parameter, so that none is zero or symmetric.
    """

    cell: Cell
    reference: Callable[..., Any] | None = None
    remake: Callable[[], Cell] | None = None
    input_size: int = 3
    hidden_size: int = 4
    input_shape: tuple[int, ...] | None = None
    noise: float = 0.3

    def params(self, seed=0, dtype=jnp.float64):
        sizes = self.input_size, self.hidden_size
        params = self.cell.init(jax.random.key(seed), *sizes, dtype=jnp.float64)
        params = jax.tree.map(lambda p, e: p + self.noise * e, params, normal_like(params, seed))
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def xs(self, seed=0, dtype=jnp.float64):
        shape = (STEPS, *(self.input_shape or (self.input_size,)))
        return normal_like(jax.ShapeDtypeStruct(shape, dtype), 100 + seed)

    def state(self, seed=0):
        """A state that the cell gets to by itself, and so one that it allows."""
        state = self.cell.initial_state(self.params(seed))
        for x in self.xs(200 + seed)[:3]:
            state, _ = self.cell(self.params(seed), state, x)
        return state

    @functools.cached_property
    def args(self):
        """``(params, state, xs)`` in float64."""
        return self.params(), self.state(), self.xs()

    @functools.cached_property
    def weights(self):
        """A fixed random functional of all that `unroll` returns."""
        params, state, xs = self.args
        return normal_like(jax.eval_shape(lambda: unroll(self.cell, params, xs, state=state)), 300)

    @functools.cached_property
    def plain(self):
        """`pull` of an unroll without any option."""
        return pull_compiled(unroll, self.cell, (), self.args, {}, self.weights)

    def scan(
        self, args=None, *, mask=None, reset=None, taps=None, weights=None, method=None, **options
    ):
        """`pull` of an unroll with a mask, a reset and taps, which may do nothing; compiled."""
        if taps is None:
            taps = jax.tree.map(jnp.zeros_like, self.weights[1].states)
        return pull_compiled(
            method or unroll,
            self.cell,
            tuple(options.items()),
            (*(args or self.args), taps),
            {
                "mask": np.ones(STEPS, bool) if mask is None else mask,
                "reset": np.zeros(STEPS, bool) if reset is None else reset,
            },
            weights or self.weights,
        )

    def loop(self, params, state, xs, taps=None, **options):
        """The slow, obvious oracle. Not compiled: that would take longer than running it."""
        return unroll_static(self.cell, params, xs, state=state, taps=taps, **options)

    def everything(self):
        """All that can happen in an unroll: masked steps, a border between sequences, taps."""
        return {
            "mask": np.array([True, True, False, True, True, True, False]),
            "reset": TIME == SPLIT,
            "taps": jax.tree.map(lambda a: 0.1 * a, self.weights[1].states),
        }

    @functools.cached_property
    def jacobians(self):
        """Of the flat (new state, output) by the flat state, at every step, (T, S + Y, S)."""
        params, state, xs = self.args
        before = jax.tree.map(
            lambda s, after: jnp.concatenate([s[None], after[:-1]]), state, self.plain[0][1].states
        )
        unflatten = ravel_pytree(state)[1]

        def step(vector, x):
            return ravel_pytree(self.cell(params, unflatten(vector), x))[0]

        flat = jax.vmap(lambda s: ravel_pytree(s)[0])(before)
        return jax.jit(jax.vmap(jax.jacrev(step)))(flat, xs), before


LAWS: list[Callable[[Case], None]] = []


def law(function):
    LAWS.append(function)
    return function


def verify_cell(cell, reference=None, *, laws=LAWS, **options):
    """Checks every law; `options` are those of `Case`.

    Raises:
      AssertionError: naming the cell and the first law that it breaks.
    """
    case = Case(cell, reference, **options)
    for check in laws:
        try:
            check(case)
        except Exception as error:
            raise AssertionError(f"{cell.name} breaks the law {check.__name__}: {error}") from error


# ---- One step -----------------------------------------------------------------------------------


@law
def the_state_keeps_its_kind(case):
    """Structure, shapes and dtypes, in the parameters' dtype, at a step and through the scan."""
    cell = case.cell
    for dtype in (jnp.float32, jnp.float64, jnp.bfloat16):
        params = case.params(dtype=dtype)
        state = cell.initial_state(params)
        for input_dtype in (dtype, jnp.float32):
            xs = case.xs(dtype=input_dtype)
            new, output = jax.eval_shape(cell, params, state, xs[0])
            chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
            end, trajectory = jax.eval_shape(functools.partial(unroll, cell), params, xs)
            chex.assert_trees_all_equal_shapes_and_dtypes(end, state)
            assert trajectory.outputs.shape == (STEPS, *output.shape)
            found = {leaf.dtype for leaf in jax.tree.leaves((state, output, end, trajectory))}
            assert found == {jnp.dtype(dtype)}, f"{found} from parameters in {dtype.__name__}"


@law
def a_cell_is_a_scan_body(case):
    """cell(params, s, x) == cell.step(params, s, cell.project(params, x)), also inside lax.scan."""
    cell, (params, state, xs) = case.cell, case.args
    close(cell(params, state, xs[0]), cell.step(params, state, cell.project(params, xs[0])))
    end, trajectory = case.plain[0]
    scanned = jax.lax.scan(functools.partial(cell, params), state, xs)
    close(scanned, (end, trajectory.outputs))


@law
def project_takes_any_leading_axes(case):
    """One input, a sequence or a batch of sequences: each input is projected on its own."""
    params, _, xs = case.args
    project = functools.partial(case.cell.project, params)
    close(project(xs), stack([project(x) for x in xs]))
    close(project(jnp.stack([xs, -xs])), stack([project(xs), project(-xs)]))


@law
def read_repeats_the_output(case):
    """``read`` of the new state is what the step returned as its output, and so is its gradient."""
    cell, (params, state, xs) = case.cell, case.args

    def output(params, state, x):
        return cell(params, state, x)[1]

    def read(params, state, x):
        drive = cell.project(params, x)
        return cell.read(params, cell.step(params, state, drive)[0], drive)

    weights = at(case.weights[1].outputs, 0)
    agree(*(pull(function, (params, state, xs[0]), weights) for function in (output, read)))


@law
def every_part_of_the_state_matters(case):
    """The new state or the output depends on each part of the old state, at some step."""
    jacobians, _ = case.jacobians
    _, unflatten = ravel_pytree(case.args[1])
    for path, influence in jax.tree.leaves_with_path(unflatten(jnp.abs(jacobians).sum((0, 1)))):
        assert jnp.any(influence != 0), f"state{jax.tree_util.keystr(path)} changes nothing"


@law
def a_step_is_pure(case):
    """Equal arguments give equal bits, whatever ran before; compiled, the same but for rounding."""
    params, state, xs = case.args
    first = case.cell(params, state, xs[0])
    compiled = jax.jit(case.cell)(params, state, xs[0])
    case.cell(params, first[0], xs[1])
    chex.assert_trees_all_equal(case.cell(params, state, xs[0]), first)
    close(compiled, first)


@law
def low_precision_only_rounds(case):
    """float32 and bfloat16 compute what float64 computes from the same rounded numbers."""
    for dtype in (jnp.float32, jnp.bfloat16):
        rounded = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), case.args)
        exact = jax.tree.map(lambda a: a.astype(jnp.float64), rounded)
        params, state, xs = rounded
        got = jax.jit(unroll, static_argnums=0)(case.cell, params, xs, state=state)
        expected, _ = pull_compiled(unroll, case.cell, (), exact, {}, case.weights)
        # Some ten roundings at each of seven steps, on numbers up to `scale`; so few steps
        # neither forget an error nor have time to blow it up.
        scale = max(1.0, *(float(jnp.abs(a).max()) for a in jax.tree.leaves(expected)))
        chex.assert_trees_all_close(
            jax.tree.map(lambda a: a.astype(jnp.float64), got),
            expected,
            rtol=0,
            atol=20 * float(jnp.finfo(dtype).eps) * scale,
        )


# ---- Sequences ----------------------------------------------------------------------------------


@law
def unroll_is_a_plain_loop(case):
    """unroll == unroll_static, with all that may happen at a step, read in both directions."""
    agree(case.plain, pull(case.loop, case.args, case.weights))
    options = case.everything()
    taps = options.pop("taps")
    for reverse in (False, True):
        loop = functools.partial(case.loop, **options, reverse=reverse)
        agree(
            case.scan(**options, taps=taps, reverse=reverse),
            pull(loop, (*case.args, taps), case.weights),
        )


@law
def unroll_matches_the_reference(case):
    """Values and slopes of the float64 NumPy loop, in both directions, with mask and reset."""
    if case.reference is None:
        return
    flags = {name: case.everything()[name] for name in ("mask", "reset")}
    leaves, tree = jax.tree.flatten(case.args)
    weights = jax.tree.leaves(case.weights)
    for options in ({}, flags, flags | {"reverse": True}):

        def reference(leaves, options=options):
            params, state, xs = jax.tree.unflatten(tree, leaves)
            return jax.tree.leaves(case.reference(params, xs, state=state, **options))

        value, gradients = case.scan(**{"reverse": False} | options) if options else case.plain
        close(jax.tree.leaves(value), reference(leaves))

        # Central differences of the reference, leaf by leaf: the error of order h**2 = 1e-10 and
        # the rounding of 1e-15 / h = 1e-10 leave six digits with room.
        h = 1e-5
        for i, gradient in enumerate(jax.tree.leaves(gradients[:3])):
            direction = np.asarray(normal_like(leaves[i], 600))
            beyond, before = (
                reference([*leaves[:i], leaves[i] + shift, *leaves[i + 1 :]])
                for shift in (h * direction, -h * direction)
            )
            slope = (dot(weights, beyond) - dot(weights, before)) / (2 * h)
            np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=1e-6, atol=1e-6)


@law
def the_default_state_is_the_initial_state(case):
    """An unroll without a state starts at ``initial_state(params)``, gradients included."""
    params, _, xs = case.args

    def default(params, xs):
        return unroll(case.cell, params, xs)

    def initial(params, xs):
        return case.loop(params, case.cell.initial_state(params), xs)

    compiled = jax.jit(pull, static_argnums=0)
    agree(compiled(default, (params, xs), case.weights), pull(initial, (params, xs), case.weights))


@law
def two_halves_make_the_whole(case):
    """Reading may pause anywhere and go on from the state, in both directions."""

    def halves(params, state, xs):
        middle, first = case.loop(params, state, xs[:SPLIT])
        end, second = case.loop(params, middle, xs[SPLIT:])
        return end, concatenate(first, second)

    def backwards(params, state, xs):
        middle, second = case.loop(params, state, xs[SPLIT:], reverse=True)
        end, first = case.loop(params, middle, xs[:SPLIT], reverse=True)
        return end, concatenate(first, second)

    agree(case.scan(reverse=False), pull(halves, case.args, case.weights))
    agree(case.scan(reverse=True), pull(backwards, case.args, case.weights))


@law
def vmap_is_a_loop(case):
    """A batch of parameters, states, inputs and masks gives what each gives alone."""

    def run(args, mask, weights):
        def function(params, state, xs):
            return unroll(case.cell, params, xs, state=state, mask=mask)

        return pull(function, args, weights)

    masks = np.stack([length > TIME for length in (STEPS, 4, 0)])
    alone = [(case.params(i), case.state(i), case.xs(i)) for i in range(len(masks))]
    together = jax.jit(jax.vmap(run, (0, 0, None)))(stack(alone), masks, case.weights)
    for i, (args, mask) in enumerate(zip(alone, masks, strict=True)):
        agree(case.scan(args, mask=mask, reverse=False), at(together, i))


@law
def masked_steps_are_absent(case):
    """Padding at the end, or a hole, NaN or infinite, is as if it had never been there."""
    params, state, xs = case.args
    for mask in (TIME < SPLIT, np.isin(TIME, (1, 2, 5))):
        end_weights, weights = case.weights
        unpadded = jax.tree.map(lambda w, mask=mask: w.at[~mask].set(0), weights)
        for reverse in (False, True):
            loop = functools.partial(case.loop, reverse=reverse)
            short = pull(loop, (params, state, xs[mask]), (end_weights, at(weights, mask)))
            for garbage in (jnp.nan, jnp.inf):
                (end, trajectory), (*gradients, by_xs, _) = case.scan(
                    (params, state, xs.at[~mask].set(garbage)),
                    mask=mask,
                    reverse=reverse,
                    weights=(end_weights, unpadded),
                )
                agree(((end, at(trajectory, mask)), (*gradients, by_xs[mask])), short)
                assert not jnp.any(by_xs[~mask]), "padding has a gradient"
                assert not jnp.any(trajectory.outputs[~mask]), "padding has an output"
                carried = state
                for t in TIME[::-1] if reverse else TIME:
                    new = at(trajectory.states, t)
                    if not mask[t]:
                        chex.assert_trees_all_equal(new, carried)
                    carried = new


@law
def a_reset_is_a_split(case):
    """Two sequences in one, with a border, are two sequences, whichever way they are read."""

    def forward(params, state, xs):
        _, first = case.loop(params, state, xs[:SPLIT])
        end, second = case.loop(params, None, xs[SPLIT:])
        return end, concatenate(first, second)

    def backward(params, state, xs):
        _, second = case.loop(params, state, xs[SPLIT:], reverse=True)
        end, first = case.loop(params, None, xs[:SPLIT], reverse=True)
        return end, concatenate(first, second)

    reset = TIME == SPLIT
    agree(case.scan(reset=reset, reverse=False), pull(forward, case.args, case.weights))
    agree(case.scan(reset=reset, reverse=True), pull(backward, case.args, case.weights))


@law
def nan_does_not_pass_a_reset(case):
    """Not from the state before, in values or gradients, nor from an earlier input, in values."""
    params, state, xs = case.args
    unknown = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), state)
    known, unknown = (
        case.scan((params, s, xs), reset=TIME == 0, reverse=False) for s in (state, unknown)
    )
    agree(unknown, known)
    assert not any(map(jnp.any, jax.tree.leaves(unknown[1][1]))), "the state has a gradient"

    # The parameters are shared with the NaN and cannot be saved, but the inputs after it can.
    for reverse, hit, clean in ((False, 0, slice(SPLIT, STEPS)), (True, -1, slice(0, SPLIT))):
        end_weights, weights = jax.tree.map(jnp.zeros_like, case.weights)
        weights = jax.tree.map(
            lambda zero, w, clean=clean: zero.at[clean].set(w[clean]), weights, case.weights[1]
        )

        def after(xs, reverse=reverse, clean=clean, weights=(end_weights, weights)):
            (end, trajectory), (_, _, by_xs, _) = case.scan(
                (params, state, xs), reset=TIME == SPLIT, reverse=reverse, weights=weights
            )
            return (end, at(trajectory, clean)), (by_xs[clean],)

        agree(after(xs.at[hit].set(jnp.nan)), after(xs))


@law
def segments_change_nothing(case):
    """Rematerialisation in segments that do not divide the steps, with all that may happen."""
    options = case.everything()
    segmented = case.scan(**options, reverse=True, segment="sqrt")
    agree(segmented, case.scan(**options, reverse=True))


@law
def hoisting_changes_nothing(case):
    """Weight gradients in one product after the reverse scan, with all that may happen."""
    options = case.everything()
    agree(case.scan(**options), case.scan(**options, hoist=False))


@law
def truncation_cuts_gradients_only(case):
    """The gradients of a loop with stop_gradient at the border of every window, same values."""
    window = 3

    def by_hand(params, state, xs):
        visited = []
        for t in TIME:
            if t > 0 and t % window == 0:
                state = jax.lax.stop_gradient(state)
            state, output = case.cell(params, state, xs[t])
            visited.append(Trajectory(state, output))
        return state, stack(visited)

    truncated = case.scan(method=unroll_truncated, window=window, reverse=False)
    agree(truncated, pull(by_hand, case.args, case.weights))
    close(truncated[0], case.scan(reverse=False)[0])


# ---- Derivatives --------------------------------------------------------------------------------


@law
def derivatives_agree(case):
    """jvp == vjp == finite differences, of everything by parameters, state and inputs."""

    def function(params, state, xs):
        return unroll(case.cell, params, xs, state=state)

    _, gradients = case.plain
    pushed = jax.jit(lambda args, directions: jax.jvp(function, args, directions)[1])
    # Central differences: an error of order h**2 and a rounding of 1e-15 / h.
    h = 1e-5
    for i in range(len(case.args)):
        directions = jax.tree.map(jnp.zeros_like, case.args)
        directions = (*directions[:i], normal_like(case.args[i], 600), *directions[i + 1 :])
        forward = dot(case.weights, pushed(case.args, directions))
        np.testing.assert_allclose(dot(gradients, directions), forward, rtol=1e-10, atol=1e-10)
        beyond, before = (
            pull_compiled(
                unroll,
                case.cell,
                (),
                jax.tree.map(lambda a, d, shift=shift: a + shift * d, case.args, directions),
                {},
                case.weights,
            )[0]
            for shift in (h, -h)
        )
        slope = (dot(case.weights, beyond) - dot(case.weights, before)) / (2 * h)
        np.testing.assert_allclose(forward, slope, rtol=1e-6, atol=1e-6)


@law
def the_closed_jacobian_is_the_derivative(case):
    """The closed form, where a cell has one, is jacrev of its step."""
    if case.cell.jacobian is None:
        return
    jacobians, before = case.jacobians
    params, _, xs = case.args
    closed = jax.jit(jax.vmap(functools.partial(case.cell.jacobian, params)))
    close(closed(before, case.cell.project(params, xs)), jacobians[:, : jacobians.shape[-1]])


@law
def tap_gradients_are_products_of_jacobians(case):
    """dL/ds_t = J_{t+1}^T ... J_T^T dL/ds_T for L = <v, y_T>, at every t; zero taps do nothing."""
    params, _, xs = case.args
    v = case.weights[1].outputs[-1]
    end_weights, weights = jax.tree.map(jnp.zeros_like, case.weights)
    last = weights._replace(outputs=weights.outputs.at[-1].set(v))
    (end, trajectory), (_, by_state, _, by_taps) = case.scan(
        reverse=False, weights=(end_weights, last)
    )
    close((end, trajectory), case.plain[0])

    def read(state):
        return case.cell.read(params, state, case.cell.project(params, xs[-1]))

    (delta,) = pull(read, (end,), v)[1]
    delta = ravel_pytree(delta)[0]
    rows = jax.vmap(lambda tree: ravel_pytree(tree)[0])(by_taps)
    for row, jacobian in zip(rows[::-1], case.jacobians[0][::-1], strict=True):
        close(row, delta)
        delta = jacobian[: delta.size].T @ delta
    close(ravel_pytree(by_state)[0], delta)


# ---- Compilation --------------------------------------------------------------------------------


@law
def new_parameters_do_not_retrace(case):
    """Two draws of parameters share one trace, and differ."""
    traces = []

    @jax.jit
    def run(params, xs):
        traces.append(params)
        return unroll(case.cell, params, xs)[0]

    first, second = (jax.tree.leaves(run(case.params(seed), case.xs())) for seed in (0, 1))
    assert len(traces) == 1, f"{len(traces)} traces for two draws"
    assert any(jnp.any(a != b) for a, b in zip(first, second, strict=True)), "two equal draws"


@law
def a_cell_is_static_under_jit(case):
    """It is hashable, and a constant to a compiled function, whether marked static or not."""
    params, state, xs = case.args
    expected = case.cell(params, state, xs[0])
    for static in ((), (0,)):
        traces = []

        @functools.partial(jax.jit, static_argnums=static)
        def run(cell, *args, traces=traces):
            traces.append(cell)
            return cell(*args)

        # An equal record is the same constant.
        for cell in (case.cell, dataclasses.replace(case.cell)):
            close(run(cell, params, state, xs[0]), expected)
        assert len(traces) == 1, f"{len(traces)} traces for equal cells"


@law
def factories_are_memoised(case):
    """Equal options give the identical cell, and so hit the same compiled program."""
    if case.remake is not None:
        assert case.remake() is case.cell, "the factory made a second cell of equal options"
