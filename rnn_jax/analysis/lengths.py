"""Gradients against the length of the sequence."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax import numerics
from rnn_jax.analysis.gradients import (
    as_cotangent,
    check_readout,
    initial_state_gradient,
    unprepared,
    zero_like,
)
from rnn_jax.arguments import as_array, check_key, check_positive
from rnn_jax.base import Cell, Params, State
from rnn_jax.numerics import Scaled
from rnn_jax.unroll import advance, prepare, visit


class LengthSweep(NamedTuple):
    """Natural logarithms of gradient norms for a loss at step T, one row per length T asked for.

    Attributes:
      log_norm: (n,), ln ||dL_T/ds_0||.
      log_parameter_norm: (n,), the ln-norm of the parameter gradient.
      log_far_norm: (n, len(horizons)), the ln-norm of its part from lags beyond each horizon:
        the contributions of all steps but the last k. The total does not vanish with T, this does.
    """

    log_norm: jax.Array
    log_parameter_norm: jax.Array
    log_far_norm: jax.Array


def length_sweep(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    lengths: Sequence[int] | jax.Array,
    cotangent: jax.Array | None = None,
    *,
    loss: Callable[[jax.Array], jax.Array] | None = None,
    horizons: Sequence[int] = (),
    state: State | None = None,
) -> LengthSweep:
    """The gradient of a loss at step T, for every T asked for, in one compiled program.

    One forward pass to the longest length serves all; each length then is one reverse loop from
    its own step T. A script that calls ``grad`` per length compiles once for each instead.
    For the gradient of a loss over a whole batch, sweep ``combinators.batched(cell, B)``.

    Args:
      cell: any `Cell`.
      params: its parameters.
      xs: the inputs, (T_max, D).
      lengths: integers between 1 and T_max, shape (n,).
      cotangent: the readout vector of L_T = <cotangent, y_T>, of the shape of one output.
      loss: instead of it, L_T = loss(y_T), a scalar function of one output.
      horizons: increasing lags k at which to divide the parameter gradient, near from far.
      state: the state before the first step.

    Raises:
      ValueError: for lengths out of range, horizons that do not increase from 1, both or neither
        of ``cotangent`` and ``loss``, or as `rnn_jax.unroll`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.elman("identity")
    >>> params = cell.init(jax.random.key(0), 2, 4, scheme=rnn_jax.schemes.orthogonal(0.5))
    >>> sweep = length_sweep(cell, params, jnp.ones((20, 2)), [1, 10, 20], jnp.ones(4) / 2)
    >>> (sweep.log_norm / jnp.log(0.5)).round(3).tolist()
    [1.0, 10.0, 20.0]
    """
    check_readout("length_sweep", cotangent, loss)
    seen = visit(cell, params, xs, state)
    lengths = _check_lengths(lengths, seen.length)
    horizons = _check_horizons(horizons)

    if loss is None:
        vector = as_cotangent(cotangent, seen.trajectory.outputs)
        loss = lambda output: jnp.vdot(vector, output)

    by_given = unprepared(cell, params)

    def read_out(params: Params, state: State, x: jax.Array) -> jax.Array:
        return loss(cell.read(params, state, cell.project(params, x)))

    def back(i: jax.Array, carry: tuple[Scaled, Scaled], end: jax.Array) -> tuple[Scaled, Scaled]:
        later, total = carry
        before, drive, x = _at((seen.before, seen.drives, seen.steps.xs), end - 1 - i)
        _, step_vjp = jax.vjp(lambda *args: cell.step(*args)[0], seen.params, before, drive)
        _, project_vjp = jax.vjp(lambda params: cell.project(params, x), seen.params)
        by_params, by_previous, by_drive = step_vjp(later.mantissa)
        by_params = jax.tree.map(jnp.add, by_params, *project_vjp(by_drive))
        total = numerics.add(total, Scaled(by_params, later.exponent))
        return numerics.rescale(by_previous, later.exponent), total

    def sweep_one(length: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        last, x = _at((seen.trajectory.states, seen.steps.xs), length - 1)
        at_read, by_state = jax.grad(read_out, (0, 1))(seen.params, last, x)
        # Lags [0, k_1), [k_1, k_2), ... each sum up their own part of the parameter gradient.
        ends = jnp.maximum(length - jnp.array([0, *horizons]), 0)
        starts = jnp.append(ends[1:], 0)

        def band(by_state: Scaled, bounds: tuple[jax.Array, jax.Array]) -> tuple[Scaled, Scaled]:
            start, end = bounds
            carry = (by_state, zero_like(seen.params))
            return lax.fori_loop(0, end - start, lambda i, c: back(i, c, end), carry)

        by_initial, parts = lax.scan(band, numerics.rescale(by_state), (starts, ends))
        from_initial = (
            initial_state_gradient(cell, params, by_initial) if state is None else zero_like(params)
        )

        def beyond(total: Scaled, part: Scaled) -> tuple[Scaled, jax.Array]:
            total = numerics.add(total, by_given(part))
            return total, numerics.log_norm(total)

        farthest_first = jax.tree.map(lambda leaf: leaf[::-1], parts)
        total, far = lax.scan(beyond, from_initial, farthest_first)
        total = numerics.add(total, by_given(numerics.rescale(at_read)))
        return numerics.log_norm(by_initial), numerics.log_norm(total), far[::-1][1:]

    return LengthSweep(*lax.map(sweep_one, lengths))


def length_curve(
    key: jax.Array,
    cell: Cell,
    params: Params,
    xs: jax.Array,
    *,
    tangents: int = 8,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> jax.Array:
    """ln of the root-mean-square gradient at s_0 for *every* length, from one forward pass.

    For a loss L_T = <v, s_T> with v uniform on the unit sphere,
    E ||dL_T/ds_0||^2 = ||J_{T:0}||_F^2 / S = E ||J_{T:0} u||^2 with u uniform on the unit sphere.
    So random unit tangents u pushed *forward* tell for all T at once what would take one backward
    pass per T. Unbiased in the square.

    Args:
      key: for the tangents.
      cell, params, xs, state, mask, reset: as in `rnn_jax.unroll`.
      tangents: how many directions. S or more: the S of a basis, whose result is exact.

    Returns:
      (T + 1,), entry T is ln ||J_{T:0}||_F - ln(S) / 2; entry 0 is 0.

    Raises:
      ValueError, TypeError: for ``tangents`` that is no integer of at least 1, or as
        `rnn_jax.unroll`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.elman("identity")
    >>> params = cell.init(jax.random.key(0), 2, 4, scheme=rnn_jax.schemes.orthogonal(0.5))
    >>> curve = length_curve(jax.random.key(1), cell, params, jnp.ones((5, 2)), tangents=2)
    >>> [round(float(x), 3) for x in curve / jnp.log(0.5)]
    [-0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    first, steps, _ = prepare(cell, params, xs, state, mask, reset)
    params = cell.prepare_params(params)
    flat, unravel = ravel_pytree(first)
    tangents = check_positive("tangents", tangents)
    check_key("length_curve", key)
    if tangents < flat.size:
        normal = jax.random.normal(key, (tangents, flat.size), numerics.wide_dtype(flat))
        frame = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)
    else:
        frame = jnp.eye(flat.size)
    drives = cell.project(params, steps.xs)
    rest = steps._replace(xs=None)

    Carry = tuple[State, Scaled]

    def push(carry: Carry, step: tuple) -> tuple[Carry, jax.Array]:
        state, vectors = carry
        advanced = lambda state: advance(cell, params, state, *step)[0]
        state, jvp = jax.linearize(advanced, state)
        vectors = jax.vmap(lambda v: numerics.rescale(jvp(v.mantissa), v.exponent))(vectors)
        return (state, vectors), jax.vmap(numerics.log_norm)(vectors)

    start = jax.vmap(lambda u: numerics.rescale(unravel(u)))(frame.astype(flat.dtype))
    _, log_norms = lax.scan(push, (first, start), (drives, rest))
    rms = numerics.log_root_mean_square(log_norms, axis=1)
    return jnp.concatenate([jnp.zeros(1, rms.dtype), rms])


def _at(tree: Params, index: jax.Array) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _check_lengths(lengths: Sequence[int] | jax.Array, longest: int) -> jax.Array:
    lengths = as_array("lengths", lengths)
    if lengths.ndim != 1 or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be a list of integers, got {lengths.dtype}{lengths.shape}")
    if not isinstance(lengths, jax.core.Tracer):
        values = np.asarray(lengths)
        if not values.size or values.min() < 1 or values.max() > longest:
            raise ValueError(
                f"lengths must be between 1 and the {longest} steps of xs, got {values.tolist()}"
            )
    return lengths


def _check_horizons(horizons: Sequence[int]) -> tuple[int, ...]:
    horizons = tuple(horizons)
    if any(not isinstance(horizon, int | np.integer) for horizon in horizons):
        raise ValueError(f"horizons must be integers, got {horizons}")
    if any(b <= a for a, b in zip((0, *horizons), horizons, strict=False)):
        raise ValueError(f"horizons must increase from 1, got {horizons}")
    return horizons
