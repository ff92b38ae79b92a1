"""Where a recurrent network under a constant input stands still, or nearly does."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax.arguments import (
    as_array,
    as_arrays,
    check_key,
    check_number,
    check_positive,
    describe,
    shown,
)
from rnn_jax.base import Cell, Params, State
from rnn_jax.unroll import prepare

_REACH = 3.0
"""Radii of the cloud of candidates at which a search has strayed; the radius is at least 1."""
_STRIDE = 0.25
"""Radii that a search takes in one step at most."""


class FixedPoints(NamedTuple):
    """Distinct points at rest, the stillest first; NumPy arrays with a leading axis n.

    Attributes:
      states: the points, in the structure of the cell's state.
      log_speed: (n,), ln ||F(s) - s||_2; -inf where not a bit moves.
      fixed: (n,) booleans. False for a slow point: a local minimum of the speed, but not zero.
      eigenvalues: (n, S) complex, those of dF/ds at the point, largest modulus first.
      unstable_dimensions: (n,), how many of them lie outside the unit circle; 0 is stable. For a
        slow point this speaks of the linearisation only.
      hits: (n,), how many of the candidates ended there.
      strayed: how many searches left the neighbourhood of the candidates, three times as far from
        their centre as the farthest of them. (Gates that saturate slow everything down out there.)
      unconverged: how many searches had ended nowhere when the iterations were used up, or began at
        a candidate whose square is not finite. Both are left out of the points.
    """

    states: State
    log_speed: np.ndarray
    fixed: np.ndarray
    eigenvalues: np.ndarray
    unstable_dimensions: np.ndarray
    hits: np.ndarray
    strayed: int
    unconverged: int


def find_fixed_points(
    cell: Cell,
    params: Params,
    x: jax.Array,
    candidates: State,
    *,
    iterations: int = 200,
    tolerance: float | None = None,
    separation: float = 1e-3,
) -> FixedPoints:
    """Fixed points s = F(s) of a cell under one constant input, and slow points beside them.

    The squared speed ||F(s) - s||**2 is minimised from every candidate at once by the
    Levenberg-Marquardt method, which is Newton's near a solution and descends far from one. Where
    it ends at a speed of zero there is a fixed point, stable or not; a minimum above zero is a slow
    point, the ghost of a fixed point or a stretch of a slow manifold. Nothing finds *all* points:
    take many candidates, from trajectories and around them (`scattered`).

    Args:
      cell: any cell; random ones without keys, as they are evaluated.
      params: its parameters; float64 finds more digits.
      x: the input (D,) that stays, such as zeros.
      candidates: states with a leading axis, such as a trajectory's.
      iterations: at most so many steps for each candidate.
      tolerance: of the speed, relative to 1 + ||s||; by default 100 eps.
      separation: points closer than this times 1 + ||s|| are one.

    Raises:
      ValueError: for candidates that are not states of this cell with one leading axis, for
        numbers that are out of range, or as `rnn_jax.unroll`.

    References:
      Sussillo and Barak (2013), "Opening the black box", Neural Computation 25.

    tanh(2 h) crosses the diagonal three times.

    >>> import jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.elman("tanh")
    >>> params = {"kernel": jnp.ones((1, 1)), "recurrent_kernel": jnp.full((1, 1), 2.0),
    ...           "bias": jnp.zeros(1)}
    >>> points = find_fixed_points(cell, params, jnp.zeros(1),
    ...                            rnn_jax.HiddenState(jnp.linspace(-1, 1, 9)[:, None]))
    >>> order = points.states.hidden[:, 0].argsort()
    >>> [f"{float(h):.4f}" for h in points.states.hidden[order, 0]]
    ['-0.9575', '0.0000', '0.9575']
    >>> points.unstable_dimensions[order].tolist()
    [0, 1, 0]
    """
    (points,) = _search(cell, [params], x, candidates, iterations, tolerance, separation)
    return points


def bifurcation_scan(
    cell: Cell,
    params_of: Callable[[jax.Array], Params],
    values: jax.Array,
    x: jax.Array,
    candidates: State,
    *,
    iterations: int = 200,
    tolerance: float | None = None,
    separation: float = 1e-3,
) -> list[FixedPoints]:
    """`find_fixed_points` for every value of something that the parameters depend on.

    One compiled program searches all values. Where the number of points or their stability
    changes from one value to the next lies a bifurcation.

    Args:
      params_of: the parameters for one of the values.
      values: (v,), of gains, biases, or whatever ``params_of`` takes.
      cell, x, candidates, iterations, tolerance, separation: as in `find_fixed_points`.

    Returns:
      A list of v results.

    Raises:
      ValueError, TypeError: for no values, no function of them, or as `find_fixed_points`.

    >>> import jax.numpy as jnp, rnn_jax
    >>> scan = bifurcation_scan(
    ...     rnn_jax.elman("tanh"),
    ...     lambda gain: {"kernel": jnp.ones((1, 1)), "recurrent_kernel": gain.reshape(1, 1),
    ...                   "bias": jnp.zeros(1)},
    ...     jnp.array([0.5, 1.5]), jnp.zeros(1),
    ...     rnn_jax.HiddenState(jnp.linspace(-1, 1, 9)[:, None]))
    >>> [len(points.hits) for points in scan]
    [1, 3]
    """
    params = [params_of(value) for value in _check_values(params_of, values)]
    return _search(cell, params, x, candidates, iterations, tolerance, separation)


def orbits(
    cell: Cell,
    params_of: Callable[[jax.Array], Params],
    values: jax.Array,
    x: jax.Array,
    states: State,
    *,
    transient: int = 1000,
    keep: int = 100,
) -> State:
    """Where some initial states have gone after a transient: the points of an orbit diagram.

    Args:
      params_of, values: the parameters for each of the values (v,); traced.
      x: the constant input (D,).
      states: initial states, leading axis n.
      transient: steps that are not kept.
      keep: steps that are.

    Returns:
      The states visited, leading axes (v, n, keep).

    Raises:
      ValueError, TypeError: for no values, no function of them, for states that are not those of
        this cell with one leading axis, or as `rnn_jax.unroll`.

    >>> import jax.numpy as jnp, rnn_jax
    >>> visited = orbits(
    ...     rnn_jax.elman("tanh"),
    ...     lambda gain: {"kernel": jnp.ones((1, 1)), "recurrent_kernel": gain.reshape(1, 1),
    ...                   "bias": jnp.zeros(1)},
    ...     jnp.array([-0.5, -2.0]), jnp.zeros(1), rnn_jax.HiddenState(jnp.full((1, 1), 0.1)),
    ...     keep=2)
    >>> [f"{float(h):.4f}" for h in visited.hidden[1, 0, :, 0]]  # a cycle of two
    ['-0.9575', '0.9575']
    """
    if transient < 0:
        raise ValueError(f"transient must not be negative, got {transient}")
    check_positive("keep", keep)
    values = _check_values(params_of, values)
    states = _check_states("states", cell, params_of(values[0]), x, states)

    def settle(value: jax.Array, state: State) -> State:
        step = _map(cell, params_of(value), x)
        state = lax.fori_loop(0, transient, lambda _, state: step(state), state)
        return lax.scan(lambda state, _: (step(state),) * 2, state, None, length=keep)[1]

    each = jax.vmap(jax.vmap(settle, (None, 0)), (0, None))
    return jax.jit(each)(values, states)


def scattered(key: jax.Array, states: State, count: int, noise: float = 0.0) -> State:
    """So many candidates drawn from given states, moved by Gaussian noise.

    Args:
      key: for the draw.
      states: leading axis n, such as a trajectory's.
      count: how many to draw, with replacement.
      noise: standard deviation of what is added to every entry.

    Raises:
      ValueError, TypeError: for states that are none, a count below 1, a negative noise.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> states = rnn_jax.HiddenState(jnp.arange(6.0).reshape(3, 2))
    >>> scattered(jax.random.key(0), states, 10).hidden.shape
    (10, 2)
    """
    check_positive("count", count)
    check_key("scattered", key)
    if any(not leaf.ndim or not len(leaf) for leaf in jax.tree.leaves(states)):
        raise ValueError(
            f"states must have a leading axis that is not empty, got {describe(states)}"
        )
    if not isinstance(noise, jax.Array):
        check_number("noise", noise)
    flat = jax.vmap(lambda state: ravel_pytree(state)[0])(states)
    pick, move = jax.random.split(key)
    chosen = flat[jax.random.randint(pick, (count,), 0, len(flat))]
    moved = chosen + noise * jax.random.normal(move, chosen.shape, chosen.dtype)
    return jax.vmap(_unravel(states))(moved)


def _unravel(states: State) -> Callable[[jax.Array], State]:
    """From a flat vector (S,) to one state like those with a leading axis."""
    return ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), states))[1]


def _map(cell: Cell, params: Params, x: jax.Array) -> Callable[[State], State]:
    """One step under a constant input."""
    params = cell.prepare_params(params)
    drive = cell.project(params, x)
    return lambda state: cell.step(params, state, drive)[0]


def _check_states(name: str, cell: Cell, params: Params, x: jax.Array, states: State) -> State:
    """The states as arrays, after the checks of an unroll and that of their leading axis."""
    first, _, _ = prepare(cell, params, as_array("x", x)[None])
    states = as_arrays(name, states)
    counts = {leaf.shape[:1] for leaf in jax.tree.leaves(states)}
    count = counts.pop() if len(counts) == 1 else ()
    expected = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*count, *leaf.shape), leaf.dtype), first
    )
    if not count or not count[0] or describe(states) != describe(expected):
        raise ValueError(
            f"{name}: the cell {cell.name} needs its state {describe(first)} with one more leading "
            f"axis, got {describe(states)}"
        )
    return states


def _check_values(params_of: Any, values: jax.Array) -> jax.Array:
    """The values as an array, if they have a leading axis and are at least one."""
    if not callable(params_of):
        raise TypeError(f"params_of must be a function of a value, got {shown(params_of)}")
    values = as_array("values", values)
    if not values.ndim or not len(values):
        raise ValueError(f"values must have a leading axis that is not empty, got {values.shape}")
    return values


class _Search(NamedTuple):
    """One candidate under way: half its squared speed with two derivatives, and the damping."""

    point: jax.Array
    half_square: jax.Array
    slope: jax.Array
    curvature: jax.Array
    damping: jax.Array
    number: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 4))
def _minimise(
    cell: Cell,
    params: Params,
    x: jax.Array,
    candidates: State,
    iterations: int,
    tolerance: jax.Array,
) -> tuple[jax.Array, ...]:
    """Point, speed, Jacobian of F, and whether the search came to rest, to a minimum, or strayed.

    Leading axes: parameters, candidates.

    Levenberg-Marquardt on the whole Hessian: the usual J^T J alone finds fixed points as quickly,
    but creeps towards a minimum that is not zero.
    """
    unravel = _unravel(candidates)
    flat = jax.vmap(lambda state: ravel_pytree(state)[0])(candidates)
    eye = jnp.eye(flat.shape[1], dtype=flat.dtype)
    flatness = float(jnp.finfo(flat.dtype).eps) ** 0.5
    # One bad candidate must not spoil what all the others are measured by.
    finite = jnp.isfinite(jnp.sum(flat**2, axis=1))
    centre = flat.mean(axis=0, where=finite[:, None])
    distances = jnp.linalg.norm(flat - centre[None], axis=1)
    radius = 1 + jnp.max(distances, where=finite, initial=0)

    def search(params: Params, start: jax.Array, finite: jax.Array) -> tuple[jax.Array, ...]:
        step = _map(cell, params, x)
        onward = lambda point: ravel_pytree(step(unravel(point)))[0]
        square = jax.value_and_grad(lambda point: jnp.sum((onward(point) - point) ** 2) / 2)

        def at(point: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            (half_square, slope), push = jax.linearize(square, point)
            return half_square, slope, jax.vmap(lambda e: push(e)[1])(eye)

        def at_rest(now: _Search) -> jax.Array:
            return _speed(now) <= tolerance * (1 + jnp.linalg.norm(now.point))

        def at_minimum(now: _Search) -> jax.Array:
            # As flat as rounding lets one see: ||J^T e|| / ||e||, and a Jacobian has no unit.
            return jnp.linalg.norm(now.slope) < flatness * _speed(now)

        def strayed(now: _Search) -> jax.Array:
            return jnp.linalg.norm(now.point - centre) > _REACH * radius

        def goes_on(now: _Search) -> jax.Array:
            ended = at_rest(now) | at_minimum(now) | strayed(now)
            return finite & ~ended & (now.number < iterations)

        def improve(now: _Search) -> _Search:
            move = jnp.linalg.solve(now.curvature + now.damping * eye, -now.slope)
            # A long step would miss the basin that a candidate lies in.
            length = jnp.linalg.norm(move)
            point = now.point + move * jnp.minimum(1, _STRIDE * radius / length)
            there = at(point)
            better = there[0] < now.half_square
            kept = [jnp.where(better, *pair) for pair in zip((point, *there), now, strict=False)]
            factor = jnp.where(better, 0.2, 5.0).astype(flat.dtype)
            damping = jnp.clip(now.damping * factor, 1e-12, 1e12)
            return _Search(kept[0], kept[1], kept[2], kept[3], damping, now.number + 1)

        damping = jnp.asarray(1e-2, flat.dtype)
        half_square, slope, curvature = at(start)
        begin = _Search(start, half_square, slope, curvature, damping, jnp.int32(0))
        end = lax.while_loop(goes_on, improve, begin)
        jacobian = jax.jacfwd(onward)(end.point)
        return (
            end.point,
            _speed(end),
            jacobian,
            at_rest(end) & ~strayed(end),
            at_minimum(end) & ~strayed(end),
            strayed(end) & finite,
        )

    each = jax.vmap(jax.vmap(search, (None, 0, 0)), (0, None, None))
    return each(params, flat, finite)


def _speed(now: _Search) -> jax.Array:
    return jnp.sqrt(2 * now.half_square)


def _search(
    cell: Cell,
    params: list[Params],
    x: jax.Array,
    candidates: State,
    iterations: int,
    tolerance: float | None,
    separation: float,
) -> list[FixedPoints]:
    check_positive("iterations", iterations)
    check_number("separation", separation)
    if tolerance is not None:
        check_number("tolerance", tolerance)
    x = as_array("x", x)
    candidates = _check_states("candidates", cell, params[0], x, candidates)
    dtype = jnp.result_type(*jax.tree.leaves(candidates))
    if tolerance is None:
        tolerance = 100 * float(jnp.finfo(dtype).eps)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    found = _minimise(cell, stacked, x, candidates, iterations, jnp.asarray(tolerance, dtype))
    unravel = jax.vmap(_unravel(candidates))
    arrays = [np.asarray(array) for array in found]
    return [
        _distinct(unravel, separation, *(array[i] for array in arrays)) for i in range(len(params))
    ]


def _distinct(
    unravel: Callable[[jax.Array], State],
    separation: float,
    points: np.ndarray,
    speeds: np.ndarray,
    jacobians: np.ndarray,
    fixed: np.ndarray,
    minimum: np.ndarray,
    strayed: np.ndarray,
) -> FixedPoints:
    """One of each point; eigenvalues of a general matrix JAX computes on CPUs only, so in NumPy."""
    kept: list[int] = []
    hits: list[int] = []
    usable = np.isfinite(speeds) & (fixed | minimum)
    for candidate in np.lexsort((speeds, ~fixed)):
        if not usable[candidate]:
            continue
        near = separation * (1 + np.linalg.norm(points[candidate]))
        gaps = np.linalg.norm(points[kept] - points[candidate], axis=1)
        if kept and gaps.min() < near:
            hits[int(gaps.argmin())] += 1
        else:
            kept.append(int(candidate))
            hits.append(1)
    eigenvalues = np.linalg.eigvals(jacobians[kept]).astype(complex)
    order = np.argsort(-np.abs(eigenvalues), axis=1)
    eigenvalues = np.take_along_axis(eigenvalues, order, axis=1)
    with np.errstate(divide="ignore"):
        log_speed = np.log(speeds[kept])
    return FixedPoints(
        jax.tree.map(np.asarray, unravel(jnp.asarray(points[kept]))),
        log_speed,
        fixed[kept],
        eigenvalues,
        np.sum(np.abs(eigenvalues) > 1, axis=1),
        np.array(hits, int),
        int(np.sum(strayed)),
        int(np.sum(~usable & ~strayed)),
    )
