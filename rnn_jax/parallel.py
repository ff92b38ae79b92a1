"""A cell over a sequence, parallel over time."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax import newton
from rnn_jax.base import Cell, Drive, Layer, LinearCell, Params, State
from rnn_jax.newton import Newton
from rnn_jax.unroll import (
    Steps,
    Trajectory,
    advance,
    check_like,
    check_segment,
    in_segments,
    prepare,
    unroll,
)

Method = Literal["associative", "newton", "quasi_newton"] | Newton


class Convergence(NamedTuple):
    """What became of the iterations over a sequence.

    Attributes:
      iterations: (), the most of any segment.
      residual: (T,), the largest entry of |f_t(s_{t-1}) - s_t|; NaN where a value is not finite.
      converged: (T,), whether this step and all before it, from the last reset on, are solved to
        the tolerance.
    """

    iterations: jax.Array
    residual: jax.Array
    converged: jax.Array


def unroll_parallel(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    *,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    taps: State | None = None,
    method: Method = "associative",
    guess: State | None = None,
    segment: int | Literal["sqrt"] | None = None,
    report: bool = False,
) -> Any:
    """`unroll` in O(log T) dependent steps: same values and gradients, but for rounding.

    The method "associative" takes the cells that are linear in their state, z_t = a_t * z_{t-1} +
    b_t. Such steps compose to such steps, (a, b) then (a', b') to (a' * a, a' * b + b'), and
    ``lax.associative_scan`` forms all T compositions together. Blelloch (1990), "Prefix sums and
    their applications"; for recurrences Martin and Cundy (2018), arXiv:1709.04057. It keeps all
    states in the dtype of the coefficients until the end, where `unroll` rounds each to that of the
    parameters: in bfloat16 it is the more exact of the two.

    "newton" and "quasi_newton" take any cell: they solve for all states together by iterations of
    such scans, with whole Jacobians or with their diagonals; a `Newton` has the same and more as
    options. How many iterations are needed depends on the dynamics (see there). What did not
    converge is never handed out as if it had: without ``report`` it is NaN. Gradients, of any
    order, are those of the solution.

    On few cores the scan of `unroll`, which does less work, is often faster.

    Args:
      cell, params, xs, state, mask, reset, reverse, taps: as in `unroll`, whose values they have.
      method: "associative", "newton", "quasi_newton", or a `Newton`.
      guess: states to begin the iterations with, (T, ...): those of the same sequence an update
        ago. By default ``cell.initial_state(params)``, at all times.
      segment: iterate on so many steps at a time, one segment after another: less memory, and where
        trajectories separate fewer iterations for each. ``"sqrt"`` for about sqrt(T).
      report: return the `Convergence` as a third value, and states as they are.

    Returns:
      ``(state, Trajectory(states, outputs))``, as `unroll`; with ``report`` the `Convergence`
      besides.

    Raises:
      ValueError: for another method, a guess, segment or report with the method "associative",
        a cell whose gradients are not exact with another, or as `unroll`.
      TypeError: for the method "associative" and a cell that is no `LinearCell`, or as `unroll`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.cells.mingru()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, trajectory = unroll_parallel(cell, params, jnp.ones((100, 3)))
    >>> bool(jnp.allclose(state.hidden, rnn_jax.unroll(cell, params, jnp.ones((100, 3)))[0].hidden))
    True
    >>> params = rnn_jax.gru().init(jax.random.key(0), 3, 4)
    >>> state, _, convergence = unroll_parallel(
    ...     rnn_jax.gru(), params, jnp.ones((1000, 3)), method="newton", report=True)
    >>> int(convergence.iterations) < 10, bool(convergence.converged.all())
    (True, True)
    """
    how = METHODS.get(method) if isinstance(method, str) else method
    if method != "associative" and not isinstance(how, Newton):
        raise ValueError(f"method must be one of {', '.join(METHODS)} or a Newton, got {method!r}")
    if isinstance(cell, Layer):
        raise TypeError(f"cell must be a Cell, got {cell!r}: a Layer has no parallel form")
    state, steps, length = prepare(cell, params, xs, state, mask, reset, reverse, taps)
    if how is None:
        given = {"guess": guess is not None, "segment": segment is not None, "report": report}
        for name in (name for name, is_given in given.items() if is_given):
            raise ValueError(f"{name}: the method 'associative' does not iterate")
    elif not cell.exact_gradients:
        raise ValueError(f"cell: {cell.name} changes its gradients on purpose; use unroll")
    size = check_segment(segment, length)
    if not length:
        empty = unroll(cell, params, xs, state=state)
        none = jnp.zeros(0)
        return (*empty, Convergence(jnp.zeros((), jnp.int32), none, none > 0)) if report else empty
    prepared = cell.prepare_params(params)
    if how is None:
        return _associative(cell, prepared, state, steps, reverse)

    if guess is None:
        # Not the state before the first step, which a reset may hide because it is NaN.
        initial = cell.initial_state(prepared)
        guess = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (length, *leaf.shape)), initial)
    else:
        check_like("guess", guess, jax.vmap(lambda _: state)(jnp.arange(length)), cell)

    def turn(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[::-1], tree) if reverse else tree

    def solve(state: State, given: tuple[Steps, State]) -> tuple[State, _Solved]:
        return _newton(cell, prepared, state, *given, how)

    given = turn((steps, guess))
    if size is None or size >= length:
        state, found = solve(state, given)
    else:
        state, found = in_segments(solve, solve, state, given, size, reverse=False)
    converged = _in_a_row(found.solved, given[0].reset)
    trajectory, converged, residual = turn((found.trajectory, converged, found.residual))
    if report:
        return state, trajectory, Convergence(jnp.max(found.iterations), residual, converged)
    last = converged[0 if reverse else -1]
    unless = lambda flags, leaf: jnp.where(newton.rows(flags, leaf), leaf, jnp.nan)
    state, trajectory = (
        jax.tree.map(lambda leaf, flags=flags: unless(flags, leaf), tree)
        for flags, tree in ((last, state), (converged, trajectory))
    )
    return state, trajectory


class _Solved(NamedTuple):
    """A segment, leading axis T."""

    trajectory: Trajectory
    iterations: jax.Array
    residual: jax.Array
    solved: jax.Array


def _newton(
    cell: Cell, params: Params, state: State, steps: Steps, guess: State, how: Newton
) -> tuple[State, _Solved]:
    flat, unravel = ravel_pytree(state)
    drives = cell.project(params, steps.xs)
    inputs = steps._replace(xs=None)

    def one(flat: jax.Array, drive: Drive, step: Steps) -> Trajectory:
        return Trajectory(*advance(cell, params, unravel(flat), drive, step))

    every = jax.vmap(one)
    flatten = jax.vmap(lambda state: ravel_pytree(state)[0])
    found = newton.solve(
        lambda before: flatten(every(before, drives, inputs).states),
        flat, flatten(guess), steps.reset, how,
    )  # fmt: skip
    trajectory = every(newton.before(flat, found.states), drives, inputs)
    iterations = jnp.full(len(found.states), found.iterations)
    end = jax.tree.map(lambda leaf: leaf[-1], trajectory.states)
    return end, _Solved(trajectory, iterations, found.residual, found.solved)


def _associative(
    cell: Cell, params: Params, state: State, steps: Steps, reverse: bool
) -> tuple[State, Trajectory]:
    if not isinstance(cell, LinearCell):
        raise TypeError(
            "the method 'associative' of unroll_parallel needs a LinearCell, whose next state is "
            f"linear in its state; {cell!r} is none"
        )
    drives = cell.project(params, steps.xs)
    a, b = jax.vmap(cell.coefficients, (None, 0))(params, drives)
    pack = lambda state: cell.pack(state).astype(a.dtype)
    if steps.mask is not None:
        a = _where(steps.mask, a, jnp.ones_like(a))
        b = _where(steps.mask, b, jnp.zeros_like(b))

    # Where a sequence begins, its first state enters the offset, and nothing comes from before.
    first = -1 if reverse else 0
    start = pack(state)
    if steps.reset is not None:
        initial = pack(cell.initial_state(params))
        b = _where(steps.reset, a * initial[None] + b, b)
        a = _where(steps.reset, jnp.zeros_like(a), a)
        start = jnp.where(steps.reset[first], jnp.zeros_like(start), start)
    b = b.at[first].add(a[first] * start)
    if steps.taps is not None:
        b = b + jax.vmap(pack)(steps.taps)
    z = newton.recur(a, b, steps.reset, reverse=reverse)

    states = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), jax.vmap(cell.unpack)(z), state)
    outputs = jax.vmap(cell.read, (None, 0, 0))(params, states, drives)
    if steps.mask is not None:
        outputs = _where(steps.mask, outputs, jnp.zeros_like(outputs))
    end = jax.tree.map(lambda leaf: leaf[-1 - first], states)
    return end, Trajectory(states, outputs)


METHODS: dict[str, Newton | None] = {
    "associative": None,
    "newton": Newton(),
    "quasi_newton": Newton(diagonal=True),
}
"""The methods that have a name."""


def _where(flags: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """A choice for each time step, (T,), of rows."""
    return jnp.where(newton.rows(flags, first), first, second)


def _in_a_row(solved: jax.Array, reset: jax.Array | None) -> jax.Array:
    """Whether a step and all those that it follows from are solved, (T,)."""
    if reset is None:
        reset = jnp.zeros_like(solved)
    then = lambda first, second: (first[0] | second[0], (second[0] | first[1]) & second[1])
    return lax.associative_scan(then, (reset, solved))[1]
