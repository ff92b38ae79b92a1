"""All steps of a recurrence at once, by Newton's method: s_t = f_t(s_{t-1}) as one equation."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.arguments import check_positive

Map = Callable[[jax.Array], jax.Array]
"""From and to vectors for all steps, (T, S)."""

_ROUNDING = 32  # units in the last place that a residual may be left with
_MORE = 30  # iterations than steps
_EASIER, _HARDER = 0.1, 10.0  # what the damping is multiplied by after a step for better, for worse


@dataclasses.dataclass(frozen=True)
class Newton:
    """How all steps of a sequence are solved for together.

    With residuals r_t = f_t(s_{t-1}) - s_t of a guess and Jacobians J_t = df_t/ds_{t-1}, an
    iteration adds the solution of

        d_t = J_t d_{t-1} + r_t,    d_0 = 0

    which is linear and so found by an associative scan. The first n steps are exact after n
    iterations; near the solution the error is squared by each. Danieli et al. (2023), "DeepPCR",
    arXiv:2309.16318; Lim, Zhu, Selfridge and Kasim (2024), "DEER", arXiv:2309.12252.

    The number of iterations depends on the dynamics. Where nearby trajectories converge, a handful
    is enough for any length; where they separate (lambda_1 > 0), about as many are needed as there
    are steps, and products of Jacobians may overflow before. ``damping`` guards against the
    latter by least squares with a penalty (Levenberg, 1944; Marquardt, 1963),

        min  sum_t |d_t - J_t d_{t-1} - r_t|^2 + damping |d_t|^2

    whose solution is the mean of a Kalman smoother, likewise by associative scans (Sarkka and
    Garcia-Fernandez, 2021, arXiv:1905.13002): "ELK" of Gonzalez et al. (2024), arXiv:2407.19115.
    There it is constant; here it is divided by ten after an iteration that makes the squared
    residuals smaller; one that does not is taken back and tried again with ten times as much.

    Attributes:
      diagonal: keep of each J_t its diagonal alone: O(T S) memory and work of the scan instead of
        O(T S^2) and O(T S^3), for more iterations, each of which makes the error smaller by a
        factor. The solution is the same.
      damping: the first; 0 for plain Newton.
      tolerance: the largest |r_t|, relative to the largest |s_t| if that is above 1, of what counts
        as solved; None for 32 units in the last place.
      max_iterations: None for T + 30. After T nothing but rounding is left undone; damping delays.

    Raises:
      ValueError: for a negative or infinite damping, a tolerance not above 0, fewer than one
        iteration.
    """

    diagonal: bool = False
    damping: float = 0.0
    tolerance: float | None = None
    max_iterations: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise ValueError(f"damping must be finite and not negative, got {self.damping}")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")
        if self.max_iterations is not None:
            check_positive("max_iterations", self.max_iterations)


class Solution(NamedTuple):
    """What `solve` has found, each step by itself.

    Attributes:
      states: (T, S), after each step.
      iterations: ().
      residual: (T,), the largest entry of |f_t(s_{t-1}) - s_t|; NaN where a value is not finite.
      solved: (T,), whether that is within the tolerance.
    """

    states: jax.Array
    iterations: jax.Array
    residual: jax.Array
    solved: jax.Array


def solve(
    step: Map, first: jax.Array, guess: jax.Array, borders: jax.Array | None, how: Newton
) -> Solution:
    """The states after all steps, from a guess of them.

    Derivatives of any order and direction are those of the solution, by the implicit function
    theorem: iterations are not stored.

    Args:
      step: states before each step, (T, S), to states after it; t depends on t alone.
      first: (S,), before the first step.
      guess: (T, S).
      borders: (T,), where a step does not depend on the state before it; nothing passes, NaN
        neither. Not watched over with damping.
      how: `Newton`.
    """

    def wrong(states: jax.Array) -> jax.Array:
        return states - step(before(first, states))

    def find(wrong: Map, guess: jax.Array) -> tuple[jax.Array, tuple]:
        return _iterate(wrong, guess, borders, how)

    def solve_linear(linear: Map, values: jax.Array) -> jax.Array:
        return lax.custom_linear_solve(
            linear,
            values,
            lambda linear, values: _solve_linear(linear, values, borders, how.diagonal),
            lambda linear, values: _solve_linear(
                linear, values, borders, how.diagonal, transposed=True
            ),
        )

    states, (done, size) = lax.custom_root(wrong, guess, find, solve_linear, has_aux=True)
    size = lax.stop_gradient(size)
    solved = size <= _tolerance(lax.stop_gradient(states), how)
    return Solution(states, done.astype(jnp.int32), size, solved)


def before(first: jax.Array, states: jax.Array) -> jax.Array:
    """The states before each step from those after it."""
    return jnp.concatenate([first[None], states[:-1]])


def _iterate(
    wrong: Map, guess: jax.Array, borders: jax.Array | None, how: Newton
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The states, and how many iterations left which residuals: floats, as `custom_root` needs."""
    most = len(guess) + _MORE if how.max_iterations is None else how.max_iterations

    def is_open(carry: tuple) -> jax.Array:
        done, states, residuals, _ = carry
        return (done < most) & jnp.any(_size(residuals) > _tolerance(states, how))

    def improve(carry: tuple) -> tuple:
        done, states, residuals, damping = carry
        jacobians = _jacobians(jax.linearize(wrong, states)[1], states, how.diagonal)
        if not how.damping:
            states = states + recur(jacobians, residuals, borders)
            return done + 1, states, -wrong(states), damping
        tried = states + _smooth(jacobians, residuals, damping)
        left = -wrong(tried)
        better = jnp.sum(jnp.square(left)) < jnp.sum(jnp.square(residuals))
        keep = lambda new, old: jnp.where(better, new, old)
        damping = damping * keep(_EASIER, _HARDER)
        return done + 1, keep(tried, states), keep(left, residuals), damping

    damping = jnp.asarray(how.damping, jnp.finfo(guess.dtype).dtype)
    start = jnp.zeros((), jnp.int32), guess, -wrong(guess), damping
    done, states, residuals, _ = lax.while_loop(is_open, improve, start)
    size = _size(residuals)
    return states, (done.astype(size.dtype), size)


def _size(residuals: jax.Array) -> jax.Array:
    """(T,); NaN, which no comparison finds too large: no iteration makes it better."""
    return jnp.max(jnp.abs(residuals), axis=1)


def _tolerance(states: jax.Array, how: Newton) -> jax.Array:
    if how.tolerance is None:
        return _rounding(states, least=1)
    return how.tolerance * _largest(states, least=1)


def _rounding(values: jax.Array, least: float = 0) -> jax.Array:
    return _ROUNDING * jnp.finfo(values.dtype).eps * _largest(values, least)


def _largest(values: jax.Array, least: float) -> jax.Array:
    size = jnp.abs(values)
    return jnp.maximum(least, jnp.max(jnp.where(jnp.isfinite(size), size, 0)))


def _solve_linear(
    linear: Map,
    values: jax.Array,
    borders: jax.Array | None,
    diagonal: bool,
    *,
    transposed: bool = False,
) -> jax.Array:
    """The x with x_t - J_t x_{t-1} = values_t; transposed, x_t - J_{t+1}' x_{t+1} = values_t.

    A diagonal that stands for the whole of J leaves something undone, for the next iteration; after
    T of them nothing but rounding is left.
    """
    jacobians = _jacobians(linear, values, diagonal)
    if transposed and borders is not None:
        borders = jnp.concatenate([borders[1:], jnp.zeros_like(borders[:1])])

    def is_open(carry: tuple) -> jax.Array:
        done, solution, left = carry
        return (done < len(values) + _MORE) & jnp.any(_size(left) > _rounding(solution))

    def improve(carry: tuple) -> tuple:
        done, solution, left = carry
        solution = solution + recur(jacobians, left, borders, reverse=transposed)
        return done + 1, solution, values - linear(solution)

    start = jnp.zeros((), jnp.int32), jnp.zeros_like(values), values
    return lax.while_loop(is_open, improve, start)[1]


def _jacobians(linear: Map, like: jax.Array, diagonal: bool) -> jax.Array:
    """J_t for all t from x_t - J_t x_{t-1} as a function of x, (T, S, S), or diagonals (T, S).

    One unit vector, the same for all t, gives a column of them all.
    """
    size = like.shape[1]

    def column(n: jax.Array) -> jax.Array:
        unit = jnp.broadcast_to(jax.nn.one_hot(n, size, dtype=like.dtype), like.shape)
        found = unit - linear(unit)
        return found[:, n] if diagonal else found

    # One after the other, a diagonal takes no more memory than it is long.
    columns = jnp.arange(size)
    if diagonal:
        return jnp.moveaxis(lax.map(column, columns), 0, -1)
    return jax.vmap(column, out_axes=-1)(columns)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of matrices (T, S, S) or diagonals (T, S)."""
    return a * b if a.ndim == 2 else a @ b


def _apply(a: jax.Array, x: jax.Array) -> jax.Array:
    """Of a matrix or diagonal to a vector, at each step."""
    return a * x if a.ndim == 2 else jnp.einsum("tij,tj->ti", a, x)


def _transpose(a: jax.Array) -> jax.Array:
    return a if a.ndim == 2 else jnp.swapaxes(a, -1, -2)


def recur(
    a: jax.Array, b: jax.Array, borders: jax.Array | None, *, reverse: bool = False
) -> jax.Array:
    """The x with x_t = a_t x_{t-1} + b_t, x_0 = 0; in reverse x_t = a_t x_{t+1} + b_t.

    Of matrices a_t, or of factors, which have the shape of b_t. Nothing enters a step where there
    is a border (T,), NaN neither.
    """
    of_matrices = a.ndim > b.ndim

    def then(first: tuple, second: tuple) -> tuple:
        (before, a, b), (border, c, d) = first, second
        if border is not None:  # 0 * NaN is NaN
            a, b = (jnp.where(rows(border, part), jnp.zeros_like(part), part) for part in (a, b))
            border = before | border
        if of_matrices:
            return border, c @ a, jnp.einsum("tij,tj->ti", c, b) + d
        return border, c * a, c * b + d

    return lax.associative_scan(then, (borders, a, b), reverse=reverse)[2]


def rows(flags: jax.Array, like: jax.Array) -> jax.Array:
    """Flags () or (T,) with as many axes as what they choose from."""
    return flags.reshape(*flags.shape, *(1,) * (like.ndim - flags.ndim))


class _Filtered(NamedTuple):
    """An element of the parallel Kalman filter, in the notation of arXiv:1905.13002, Lemma 7."""

    a: jax.Array
    b: jax.Array
    c: jax.Array
    eta: jax.Array
    j: jax.Array


def _smooth(jacobians: jax.Array, residuals: jax.Array, damping: jax.Array) -> jax.Array:
    """The d that minimises sum_t |d_t - J_t d_{t-1} - r_t|^2 + damping |d_t|^2.

    Twice the negative logarithm of a probability: of a walk d_t = J_t d_{t-1} + r_t + noise, each
    place of which was seen to be 0, with variances 1 and 1 / damping.
    """
    eye = jnp.ones_like(residuals) if jacobians.ndim == 2 else _eyes(jacobians)
    gain = damping / (1 + damping)
    # Before the first step d is 0 and known: nothing comes from there.
    inner = jnp.arange(len(residuals)) > 0
    carried = jnp.where(rows(inner, jacobians), jacobians, 0)
    back = _transpose(carried)
    filtered = lax.associative_scan(
        _filter,
        _Filtered(
            (1 - gain) * carried,
            (1 - gain) * residuals,
            (1 - gain) * eye,
            -gain * _apply(back, residuals),
            gain * _product(back, carried),
        ),
    )
    mean, variance = filtered.b, filtered.c

    # From each step to the one after it; the last has none.
    ahead = jnp.concatenate([carried[1:], jnp.zeros_like(carried[:1])])
    expected = _apply(ahead, mean) + jnp.concatenate([residuals[1:], jnp.zeros_like(mean[:1])])
    spread = _product(_product(ahead, variance), _transpose(ahead))
    smoother = _transpose(_product(_inverse(eye + spread), _product(ahead, variance)))
    return recur(smoother, mean - _apply(smoother, expected), None, reverse=True)


def _filter(first: _Filtered, second: _Filtered) -> _Filtered:
    eye = jnp.ones_like(first.c) if first.c.ndim == 2 else _eyes(first.c)
    between = _inverse(eye + _product(first.c, second.j))
    through = _product(second.a, between)
    returned = _transpose(_product(between, first.a))
    return _Filtered(
        _product(through, first.a),
        _apply(through, first.b + _apply(first.c, second.eta)) + second.b,
        _product(_product(through, first.c), _transpose(second.a)) + second.c,
        _apply(returned, second.eta - _apply(second.j, first.b)) + first.eta,
        _product(_product(returned, second.j), first.a) + first.j,
    )


def _eyes(like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.eye(like.shape[-1], dtype=like.dtype), like.shape)


def _inverse(a: jax.Array) -> jax.Array:
    """Of matrices (T, S, S), or of diagonals.

    By elimination with partial pivots, one column of all matrices after another: the batched
    factorisations of LAPACK can wait for each other for ever where a CPU is divided into devices.
    """
    if a.ndim == 2:
        return 1 / a
    size = a.shape[-1]
    numbers = jnp.arange(size, dtype=jnp.int32)[None]

    def eliminate(n: jax.Array, work: jax.Array) -> jax.Array:
        candidates = jnp.where(numbers >= n, jnp.abs(work[:, :, n]), -1)
        pivot = lax.argmax(candidates, 1, jnp.int32)[:, None]
        swapped = jnp.where(numbers == n, pivot, jnp.where(numbers == pivot, n, numbers))
        work = jnp.take_along_axis(work, swapped[:, :, None], axis=1)
        row = work[:, n] / work[:, n, n, None]
        others = jnp.where(numbers == n, 0, work[:, :, n])
        work = work - others[:, :, None] * row[:, None, :]
        return work.at[:, n].set(row)

    whole = jnp.concatenate([a, _eyes(a)], axis=2)
    return lax.fori_loop(0, size, eliminate, whole)[:, :, size:]
