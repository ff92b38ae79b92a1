"""A cell over a sequence: the only owner of masks, resets, reversal, taps and rematerialisation."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import hoist as hoisting
from rnn_jax.arguments import as_array, as_arrays, check_bool, check_positive, describe, shown
from rnn_jax.base import Cell, Drive, Layer, Params, PyTree, State, foreign_params
from rnn_jax.stochastic import for_cell


class Trajectory(NamedTuple):
    """Every state and every output of an unroll, each with a leading axis T."""

    states: State
    outputs: jax.Array


class Steps(NamedTuple):
    """What enters the recurrence at each step, leading axis T; None stands for absent."""

    xs: PyTree
    mask: jax.Array | None = None
    reset: jax.Array | None = None
    taps: State | None = None


class Visit(NamedTuple):
    """A sequence that was read, laid open for whoever differentiates its steps one by one.

    Attributes:
      params: the parameters as the steps use them, from ``cell.prepare_params``.
      first: the state before the first step.
      before: the state before each step, (T, ...).
      drives: what the cell projects the inputs to, (T, ...).
      steps: the inputs, masks and resets, (T, ...).
      trajectory: the states and outputs after each step, (T, ...).
      length: T.
    """

    params: Params
    first: State
    before: State
    drives: Drive
    steps: Steps
    trajectory: Trajectory
    length: int


def length_mask(lengths: jax.typing.ArrayLike, steps: int) -> jax.Array:
    """The mask of right-padded sequences: True at step t of a sequence longer than t.

    Args:
      lengths: integers, shape () or (B,).
      steps: T.

    Returns:
      Booleans, shape (T,) or time-major (T, B).

    Raises:
      ValueError: for a negative length or one above ``steps`` (checked outside ``jit``).
      TypeError: for lengths or steps that are no integers.

    >>> length_mask(2, 4).tolist()
    [True, True, False, False]
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        raise TypeError(f"steps must be an integer, got {steps!r}")
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    lengths = as_array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.ndim > 1:
        raise ValueError(f"lengths must have shape () or (B,), got {lengths.shape}")
    if not isinstance(lengths, jax.core.Tracer):
        values = np.asarray(lengths)
        if values.size and (values.min() < 0 or values.max() > steps):
            raise ValueError(f"lengths must lie between 0 and {steps}, got {values.tolist()}")
    times = jnp.arange(steps, dtype=jnp.int32).reshape((steps,) + (1,) * lengths.ndim)
    return times < lengths[None].astype(jnp.int32)


def advance(
    cell: Cell, params: Params, state: State, drive: Drive, step: Steps
) -> tuple[State, jax.Array]:
    """One step with everything that may happen at it: ``(state, output)``.

    In this order: a reset puts the initial state before the step; the cell steps; where the mask
    is False the state is carried over; the tap is added to the new state; the output is read
    from the tapped state, and is zero where the mask is False.
    """
    if step.reset is not None:
        state = _select(step.reset, cell.initial_state(params), state)
    new, output = cell.step(params, state, drive)
    if step.mask is not None:
        new = _select(step.mask, new, state)
    if step.taps is not None:
        new = jax.tree.map(jnp.add, new, step.taps)
        output = cell.read(params, new, drive)
    if step.mask is not None:
        output = _select(step.mask, output, jax.tree.map(jnp.zeros_like, output))
    return new, output


def unroll(
    cell: Cell | Layer,
    params: Params,
    xs: jax.Array,
    *,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    taps: State | None = None,
    segment: int | Literal["sqrt"] | None = None,
    unroll: int = 1,
    hoist: bool = True,
) -> tuple[State, Trajectory]:
    """Scans a cell over a sequence: s_t, y_t = cell(params, s_{t-1}, x_t) for t = 1 .. T.

    Under ``jit``, trajectories that nobody reads cost nothing. Batch with ``vmap``.

    Args:
      cell: any `Cell`, or a `Layer`, which takes the same options.
      params: its parameters.
      xs: the inputs, shape (T, D), in any floating dtype; the parameters' dtype decides.
      state: the state before the first step; by default ``cell.initial_state(params)``.
      mask: booleans (T,). Where False the state is carried over, the output is zero and
        gradients are exactly zero, whatever the padding holds (NaN included).
      reset: booleans (T,). Where True a new sequence begins: the state returns to
        ``cell.initial_state(params)`` before that step. Nothing crosses the border in either
        direction of reading: with ``reverse`` the reset happens between steps t and t - 1.
        A NaN before a border does not pass it in the values; as in a batch, it does poison
        the gradient of the parameters that both sequences share.
      reverse: read from the last step to the first. Outputs keep the order of the inputs, and
        with a mask the reading starts at the last valid step.
      taps: a perturbation added to the state after each step, before it is read: the structure
        of the state with a leading axis T. Its gradient at zero is the total dL/ds_t.
      segment: rematerialise in segments of so many steps. Backpropagation then stores T / k
        states and k steps instead of T steps; gradients do not change. ``"sqrt"`` picks
        k = ceil(sqrt(T)).
      unroll: steps per iteration of the compiled loop, as in ``lax.scan``.
      hoist: form the gradient of each weight by one product after the reverse scan
        (`rnn_jax.hoist`), which is faster; False for plain ``lax.scan`` and autodiff. Gradients
        are the same up to the order of sums.

    Returns:
      ``(state, Trajectory(states, outputs))``: the state after the last step, and all of them.

    Raises:
      ValueError: for shapes, lengths, states or options that do not fit; names the argument.
      TypeError: for a mask or reset that is not boolean, or a segment that is not an integer.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, trajectory = rnn_jax.unroll(cell, params, jnp.ones((6, 3)), segment="sqrt")
    >>> state._fields, trajectory.outputs.shape
    (('hidden', 'cell'), (6, 4))
    """
    if isinstance(cell, Layer):
        return cell.unroll(
            params,
            xs,
            state=state,
            mask=mask,
            reset=reset,
            reverse=reverse,
            taps=taps,
            segment=segment,
            unroll=unroll,
            hoist=hoist,
        )
    state, steps, length = prepare(cell, params, xs, state, mask, reset, reverse, taps)
    size = check_segment(segment, length)
    prepared, unroll = cell.prepare_params(params), check_positive("unroll", unroll)
    scan = _scanner(cell, prepared, reverse, unroll, hoist)
    if size is None or size >= length:
        return scan(state, steps)
    # The outer scan already keeps XLA from merging the recomputation with the first pass.
    return in_segments(jax.checkpoint(scan, prevent_cse=False), scan, state, steps, size, reverse)


def unroll_truncated(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    *,
    window: int,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    taps: State | None = None,
    unroll: int = 1,
    hoist: bool = True,
) -> tuple[State, Trajectory]:
    """`unroll` for truncated backpropagation through time: exact forward, cut gradients.

    The sequence is divided into windows of ``window`` steps, counted from step 0; no gradient
    crosses the border between two windows. That into the given ``state`` is not cut, and a
    window as long as the sequence changes nothing.

    Raises:
      ValueError: for a window below 1, or as `unroll`.
      TypeError: for a window that is not an integer, or as `unroll`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.elman("identity")
    >>> params = {"kernel": jnp.eye(1), "recurrent_kernel": jnp.eye(1), "bias": jnp.zeros(1)}
    >>> last = lambda xs: rnn_jax.unroll_truncated(cell, params, xs, window=2)[0].hidden.sum()
    >>> jax.grad(last)(jnp.ones((5, 1))).ravel().tolist()
    [0.0, 0.0, 0.0, 0.0, 1.0]
    """
    window = check_positive("window", window)
    state, steps, length = prepare(cell, params, xs, state, mask, reset, reverse, taps)
    prepared, unroll = cell.prepare_params(params), check_positive("unroll", unroll)
    scan = _scanner(cell, prepared, reverse, unroll, hoist)
    if window >= length:
        return scan(state, steps)

    def scan_window(state: State, steps: Steps) -> tuple[State, Trajectory]:
        # The gradient is cut where the state leaves the window for the one that holds the rest.
        if reverse:
            return scan(lax.stop_gradient(state), steps)
        state, trajectory = scan(state, steps)
        return lax.stop_gradient(state), trajectory

    return in_segments(scan_window, scan, state, steps, window, reverse)


def unroll_static(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    *,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    taps: State | None = None,
) -> tuple[State, Trajectory]:
    """`unroll` as a plain Python loop: the slow, obvious oracle, and a debugger's friend."""
    state, steps, length = prepare(cell, params, xs, state, mask, reset, reverse, taps)
    if not length:
        return unroll(cell, params, xs, state=state)
    visited: list[Any] = [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        step = jax.tree.map(lambda leaf, t=t: leaf[t], steps)
        state, output = advance(cell, params, state, cell.project(params, step.xs), step)
        visited[t] = Trajectory(state, output)
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *visited)


def visit(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> Visit:
    """`unroll`, and all that its steps were given; under ``jit`` what is not read costs nothing.

    Raises:
      ValueError: for a cell whose gradients are not exact, or as `unroll`.
    """
    first, steps, length = prepare(cell, params, xs, state, mask, reset)
    if not cell.exact_gradients:
        raise ValueError(
            f"cell: {cell.name} changes its gradients on purpose, which is not to be measured as "
            "if it were the derivative; give the cell that it was made from"
        )
    params = cell.prepare_params(params)
    _, trajectory = _scanner(cell, params)(first, steps)
    before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[:-1], first, trajectory.states)
    drives = cell.project(params, steps.xs)
    return Visit(params, first, before, drives, steps, trajectory, length)


def prepare(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    taps: State | None = None,
) -> tuple[State, Steps, int]:
    """Checks the arguments of an unroll; returns the first state, the steps and T.

    Padding is zeroed here, *before* any step sees it: a NaN that is only discarded afterwards
    still reaches the gradient, as 0 * NaN.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell must be a Cell, got {shown(cell)} (factories are called: lstm(), not lstm)"
        )
    check_bool("reverse", reverse)
    xs = as_arrays("xs", for_cell(cell, xs))
    shapes = [leaf.shape for leaf in jax.tree.leaves(xs)]
    if () in shapes or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(f"xs must have one leading time axis, got shapes {shapes}")
    length = shapes[0][0]

    try:
        initial = cell.initial_state(params)
    except (AttributeError, LookupError, TypeError) as error:
        raise foreign_params(cell.name, params) from error
    state = initial if state is None else state
    check_like("state", state, initial, cell)
    mask = _check_flags("mask", mask, length)
    reset = _check_flags("reset", reset, length)
    if taps is not None:
        over_time = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((length, *s.shape), s.dtype), initial
        )
        check_like("taps", taps, over_time, cell)
    if mask is not None:
        xs = jax.vmap(_select)(mask, xs, jax.tree.map(_zeros_like, xs))
    if reset is not None and reverse:
        # A border before step t lies, read backwards, before step t - 1.
        reset = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
    _check_step(cell, params, state, xs)
    return state, Steps(xs, mask, reset, taps), length


def _zeros_like(leaf: jax.Array) -> jax.Array:
    """Zeros; the keys of padding stay as they are, since nothing reads what is drawn with them."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else jnp.zeros_like(leaf)


def _select(flag: jax.Array, first: PyTree, second: PyTree) -> PyTree:
    """A boolean choice: unlike a product, it does not let NaN through."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), first, second)


_Scan = Callable[[State, Steps], tuple[State, Trajectory]]


def _scanner(
    cell: Cell, params: Params, reverse: bool = False, unroll: int = 1, hoist: bool = False
) -> _Scan:
    """The scan over some steps.

    The parameters come prepared: a scan differentiates what is constant in it at every step.
    """
    check_bool("hoist", hoist)

    def on_drive(
        params: Params, state: State, step: tuple[Drive, Steps]
    ) -> tuple[State, Trajectory]:
        state, output = advance(cell, params, state, *step)
        return state, Trajectory(state, output)

    def on_input(params: Params, state: State, step: Steps) -> tuple[State, Trajectory]:
        return on_drive(params, state, (cell.project(params, step.xs), step._replace(xs=None)))

    def scan(state: State, steps: Steps) -> tuple[State, Trajectory]:
        # On a CPU, to write down the drives of all steps at once and to fetch them again takes
        # longer than to project each input at its step. Where the recurrence itself has no
        # weights, all at once is the only way to form theirs in one product.
        if hoist and jax.default_backend() == "cpu":
            first = hoisting.one_of(steps)
            drive = jax.eval_shape(cell.project, params, first.xs)
            if hoisting.has_maps(on_drive, params, state, (drive, first._replace(xs=None))):
                return hoisting.scan(on_input, params, state, steps, reverse=reverse, unroll=unroll)
        inputs = (cell.project(params, steps.xs), steps._replace(xs=None))
        if hoist:
            return hoisting.scan(on_drive, params, state, inputs, reverse=reverse, unroll=unroll)
        return lax.scan(
            functools.partial(on_drive, params), state, inputs, reverse=reverse, unroll=unroll
        )

    return scan


def in_segments(
    scan_segment: Callable[[State, Any], tuple[State, Any]],
    scan_rest: Callable[[State, Any], tuple[State, Any]],
    state: State,
    steps: PyTree,
    size: int,
    reverse: bool,
) -> tuple[State, Any]:
    """Scans over whole segments of ``size`` steps, and over the 1 to ``size`` steps after them."""
    length = jax.tree.leaves(steps)[0].shape[0]
    count = (length - 1) // size
    split = count * size
    segments = jax.tree.map(lambda a: a[:split].reshape(count, size, *a.shape[1:]), steps)
    rest = jax.tree.map(lambda a: a[split:], steps)
    if reverse:
        state, last = scan_rest(state, rest)
        state, first = lax.scan(scan_segment, state, segments, reverse=True)
    else:
        state, first = lax.scan(scan_segment, state, segments)
        state, last = scan_rest(state, rest)
    return state, jax.tree.map(
        lambda a, b: jnp.concatenate([a.reshape(split, *a.shape[2:]), b]), first, last
    )


def check_like(name: str, got: PyTree, expected: PyTree, cell: Cell) -> None:
    """That an argument has the structure, shapes and dtypes expected."""
    got = describe(as_arrays(name, got))
    if got != describe(expected):
        raise ValueError(f"{name}: the cell {cell.name} needs {describe(expected)}, got {got}")


def _check_flags(name: str, flags: jax.Array | None, length: int) -> jax.Array | None:
    if flags is None:
        return None
    flags = as_array(name, flags)
    if flags.dtype != jnp.bool_:
        raise TypeError(f"{name} must be boolean, got {flags.dtype}")
    if flags.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), the steps of xs, got {flags.shape}")
    return flags


def _check_step(cell: Cell, params: Params, state: State, xs: PyTree) -> None:
    """One abstract step: a cell must give back the kind of state that it was given."""
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), xs)
    expected = "xs must be one sequence (T, D): use jax.vmap for a batch"
    try:
        new, _ = jax.eval_shape(cell, params, state, x)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"xs: the cell {cell.name} cannot step on an input {describe(x)} with these params "
            f"({reason}); {expected}"
        ) from error
    if describe(new) != describe(state):
        raise ValueError(
            f"xs: a step of the cell {cell.name} on an input {describe(x)} turns the state "
            f"{describe(state)} into {describe(new)}; {expected}"
        )


def check_segment(segment: int | str | None, length: int) -> int | None:
    """The steps of a segment, None for all in one."""
    if segment is None:
        return None
    if segment == "sqrt":
        return max(1, math.isqrt(max(length - 1, 0)) + 1)
    if isinstance(segment, str):
        raise ValueError(f"segment must be a number of steps, 'sqrt' or None, got {segment!r}")
    return check_positive("segment", segment)
