"""A cell over a sequence, parallel over time."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.base import Cell, Layer, LinearCell, Params, State
from rnn_jax.unroll import Steps, Trajectory, prepare, unroll


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
    method: Literal["associative"] = "associative",
) -> tuple[State, Trajectory]:
    """`unroll` in O(log T) dependent steps: same values and gradients, but for rounding.

    The method "associative" takes the cells that are linear in their state, z_t = a_t * z_{t-1} +
    b_t. Such steps compose to such steps, (a, b) then (a', b') to (a' * a, a' * b + b'), and
    ``lax.associative_scan`` forms all T compositions together. Blelloch (1990), "Prefix sums and
    their applications"; for recurrences Martin and Cundy (2018), arXiv:1709.04057.

    It keeps all states in the dtype of the coefficients until the end, where `unroll` rounds each
    to that of the parameters: in bfloat16 it is the more exact of the two. On few cores the scan
    of `unroll`, which does half the work, is often faster.

    Args:
      cell, params, xs, state, mask, reset, reverse, taps: as in `unroll`, whose values they have.
      method: "associative".

    Returns:
      ``(state, Trajectory(states, outputs))``, as `unroll`.

    Raises:
      ValueError: for another method, or as `unroll`.
      TypeError: for a cell that is not a `LinearCell`, or as `unroll`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.cells.mingru()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, trajectory = unroll_parallel(cell, params, jnp.ones((100, 3)))
    >>> bool(jnp.allclose(state.hidden, rnn_jax.unroll(cell, params, jnp.ones((100, 3)))[0].hidden))
    True
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if isinstance(cell, Layer):
        raise TypeError(f"cell must be a Cell, got {cell!r}: a Layer has no parallel form")
    state, steps, length = prepare(cell, params, xs, state, mask, reset, reverse, taps)
    if not length:
        return unroll(cell, params, xs, state=state)
    return METHODS[method](cell, cell.prepare_params(params), state, steps, reverse)


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
    if steps.reset is None:
        _, z = lax.associative_scan(_then, (a, b), reverse=reverse)
    else:
        _, _, z = lax.associative_scan(_then_unless_reset, (steps.reset, a, b), reverse=reverse)

    states = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), jax.vmap(cell.unpack)(z), state)
    outputs = jax.vmap(cell.read, (None, 0, 0))(params, states, drives)
    if steps.mask is not None:
        outputs = _where(steps.mask, outputs, jnp.zeros_like(outputs))
    end = jax.tree.map(lambda leaf: leaf[-1 - first], states)
    return end, Trajectory(states, outputs)


METHODS: Mapping[str, Callable[[Cell, Params, State, Steps, bool], tuple[State, Trajectory]]] = {
    "associative": _associative,
}
"""The methods that have a name."""


def _then(first: tuple[jax.Array, ...], second: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """One affine map after another."""
    (a, b), (c, d) = first, second
    return c * a, c * b + d


def _then_unless_reset(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same, but a reset forgets what comes first: by a choice, for 0 * NaN is NaN."""
    (_, a, b), (reset, c, d) = first, second
    a, b = (_where(reset, jnp.zeros_like(part), part) for part in (a, b))
    return (first[0] | reset, *_then((a, b), (c, d)))


def _where(flags: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """A choice for each time step, (T,), of rows."""
    return jnp.where(flags.reshape(-1, *(1,) * (first.ndim - 1)), first, second)
