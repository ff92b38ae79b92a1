"""Jacobians of one step and of many, their singular values in log space."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax import numerics
from rnn_jax.base import Cell, Params, PyTree, State
from rnn_jax.numerics import Graded, Scaled
from rnn_jax.unroll import advance, visit


class FiniteTimeSpectrum(NamedTuple):
    """The singular values of J_{T:T-k} for some lags k, leading axis n; natural logarithms.

    Attributes:
      lags: (n,), as asked for.
      log_singular_values: (n, S), descending; -inf where not ``resolved``.
      resolved: (n, S) booleans. False for zeros, and for directions that cannot be told from
        rounding errors in one of a hundred steps or more: singular Jacobians (an LSTM at rest,
        dead ReLUs) have such directions.
      log_frobenius: (n,), ln ||J||_F; less ln(S) / 2 it is what mean-field theory predicts.
      log_condition: (n,), ln(sigma_1 / sigma_S); infinite if one is not resolved.
      stable_rank: (n,), ||J||_F**2 / sigma_1**2, between 1 and S.
      converged: (n,), whether the iteration that separates the singular values did converge: to
        1e-3 nats in float32 and 1e-6 in float64. Where it did not, sums over many of them (the
        Frobenius norm) are still right, but close neighbours may be mixed.
    """

    lags: jax.Array
    log_singular_values: jax.Array
    resolved: jax.Array
    log_frobenius: jax.Array
    log_condition: jax.Array
    stable_rank: jax.Array
    converged: jax.Array


class JacobianProduct(NamedTuple):
    """J_{T:T-k} itself for some lags k, leading axis n.

    Attributes:
      lags: (n,), as asked for.
      product: `numerics.Scaled`: mantissas (n, S, S) of order one and exponents (n,).
      log_frobenius: (n,), ln ||J||_F.
      log_spectral: (n,), ln of the largest singular value.
      blocks: for each pair of named parts, "hidden/cell" for d hidden_T / d cell_{T-k}, the
        descending ln-singular values of that block *of the product*, (n, min(rows, columns)).
        Values below the resolution of the whole product, eps * S times its largest entry, are
        -inf: they are rounding errors.
    """

    lags: jax.Array
    product: Scaled
    log_frobenius: jax.Array
    log_spectral: jax.Array
    blocks: dict[str, jax.Array]


def step_jacobians(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    *,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> jax.Array:
    """ds_t/ds_{t-1} at every step, (T, S, S), S in the order of ``ravel_pytree``.

    A masked step is the identity, one after a reset is zero. For a long sequence of a wide cell
    this is large: the instruments below never hold more than one.

    Raises:
      ValueError, TypeError: as `rnn_jax.unroll`.

    >>> import jax.numpy as jnp, rnn_jax
    >>> params = {"kernel": jnp.ones((1, 1)), "recurrent_kernel": jnp.full((1, 1), 0.5),
    ...           "bias": jnp.zeros(1)}
    >>> step_jacobians(rnn_jax.elman("identity"), params, jnp.ones((2, 1))).tolist()
    [[[0.5]], [[0.5]]]
    """
    along = Linearised(cell, params, xs, state, mask, reset)
    eye = jnp.eye(along.size, dtype=along.dtype)
    # Forward mode: column i of J is its product with the unit vector i.
    return lax.map(lambda step: jax.vmap(along.jvp(step), out_axes=1)(eye), along.steps)


def jacobian_product(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    lags: Sequence[int],
    *,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> JacobianProduct:
    """J_{T:T-k} = ds_T/ds_{T-k}, whole and by named blocks, for every lag k asked for.

    One backward pass carries the product with a power-of-two scale, so that its largest entries
    are right at any lag. Its small singular values drown in the rounding of the large ones: for
    the whole spectrum see `finite_time_spectrum`.

    The parts of an LSTM's state are scaled differently (h is bounded by 1, c is not): the singular
    values of the joint Jacobian depend on these units, those of the blocks less so, Lyapunov
    exponents not at all. dc_T/dc_t is the product of forget gates only where no gate sees h.

    Args:
      cell, params, xs, state, mask, reset: as in `rnn_jax.unroll`.
      lags: increasing integers between 0 and T.

    Raises:
      ValueError: for lags that do not increase within 0 .. T, or as `rnn_jax.unroll`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.lstm()
    >>> params = cell.init(jax.random.key(0), 2, 4)
    >>> product = jacobian_product(cell, params, jnp.ones((30, 2)), [1, 10, 30])
    >>> sorted(product.blocks), product.blocks["cell/hidden"].shape
    (['cell/cell', 'cell/hidden', 'hidden/cell', 'hidden/hidden'], (3, 4))
    """
    along = Linearised(cell, params, xs, state, mask, reset)
    wanted = _check_lags(lags, along.length)

    def back(rows: Scaled, step: PyTree) -> Scaled:
        pull = jax.vmap(along.vjp(step))
        return numerics.rescale(pull(rows.mantissa), rows.exponent)

    eye = numerics.rescale(jnp.eye(along.size, dtype=along.dtype))
    product = _at_lags(back, eye, along.steps, wanted)
    largest = jnp.abs(product.mantissa).max((1, 2))
    resolution = along.size * jnp.finfo(along.dtype).eps * largest
    shift = product.exponent.astype(along.dtype) * jnp.log(2).astype(along.dtype)

    def log_values(block: jax.Array, floor: jax.Array | None = None) -> jax.Array:
        values = lax.map(lambda one: jnp.linalg.svd(one, compute_uv=False), block)
        if floor is not None:
            values = jnp.where(values <= floor[:, None], 0, values)  # and NaN stays
        return jnp.log(values) + shift[:, None]

    names = part_slices(along.first)
    blocks = {
        f"{row}/{column}": log_values(product.mantissa[:, rows, columns], resolution)
        for row, rows in names.items()
        for column, columns in names.items()
    }
    return JacobianProduct(
        jnp.array(wanted),
        product,
        jax.vmap(numerics.log_norm)(product),
        log_values(product.mantissa)[:, 0],
        blocks,
    )


def finite_time_spectrum(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    lags: Sequence[int],
    *,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> FiniteTimeSpectrum:
    """All singular values of J_{T:T-k}, however far apart, for every lag k asked for.

    A product of many Jacobians has singular values that differ by more than any floating-point
    number can hold. Here it is kept as Q D T: one QR factorisation per step, with Q orthogonal, D
    diagonal in logarithms, T unit upper triangular. The singular values of D T are then separated
    by the QR algorithm on the pair (D, T), which never multiplies D out. The finite-time Lyapunov
    exponents are ``log_singular_values / lag``.

    Args:
      cell, params, xs, state, mask, reset: as in `rnn_jax.unroll`.
      lags: increasing integers between 0 and T.

    Raises:
      ValueError: for lags that do not increase within 0 .. T, or as `rnn_jax.unroll`.

    References:
      Stewart (1995), "On graded QR decompositions of products of matrices", ETNA 3; Dieci and Elia
      (2008), "SVD algorithms to approximate spectra of dynamical systems", Mathematics and
      Computers in Simulation 79.

    >>> import jax.numpy as jnp, rnn_jax
    >>> params = {"kernel": jnp.ones((1, 2)), "recurrent_kernel": jnp.diag(jnp.array([0.5, 1e-3])),
    ...           "bias": jnp.zeros(2)}
    >>> spectrum = finite_time_spectrum(
    ...     rnn_jax.elman("identity"), params, jnp.ones((100, 1)), [100])
    >>> [round(float(value), 1) for value in spectrum.log_singular_values[0]]
    [-69.3, -690.8]
    """
    along = Linearised(cell, params, xs, state, mask, reset)
    wanted = _check_lags(lags, along.length)

    rounding = numerics.rounding_floor(along.size, along.dtype)

    def back(carry: _Carry, step: PyTree) -> _Carry:
        # J_t^T Q = Q' R, and R D T = D' (D'^-1 R D) T.
        pulled = jax.vmap(along.vjp(step), in_axes=1, out_axes=1)(carry.orthogonal)
        orthogonal, triangular = numerics.positive_qr(pulled)
        growth = jnp.log(jnp.diagonal(triangular))
        lost = carry.lost + (growth < jnp.max(growth) + rounding).astype(jnp.int32)
        return _Carry(orthogonal, numerics.absorb(triangular, carry.graded), lost)

    # Any frame serves. From a random one every direction is found in the order of its growth; the
    # axes stay apart where Jacobians are block triangular, as those of a stack.
    frame = jax.random.orthogonal(jax.random.key(0), along.size).astype(along.dtype)
    none = jnp.zeros(along.size, jnp.int32)
    start = _Carry(frame, numerics.graded_identity(along.size, along.dtype), none)
    _, graded, lost = _at_lags(back, start, along.steps, wanted)
    # One after another: batched factorisations of two devices of a CPU can wait for each other.
    log_values, converged = lax.map(numerics.log_singular_values, graded)
    diverged = jnp.cumsum(~along.finite[::-1])
    diverged = jnp.where(wanted > 0, diverged[wanted - 1] > 0, False)
    log_values = jnp.where(diverged[:, None] & jnp.isneginf(log_values), jnp.nan, log_values)
    # As many values as directions were lost, and these are the smallest.
    limit = np.ceil(numerics.LOST * wanted).clip(1).astype(np.int32)
    number = jnp.sum(lost >= limit[:, None], axis=1, keepdims=True, dtype=jnp.int32)
    kept = jnp.arange(along.size, dtype=jnp.int32)[None, :] < along.size - number
    resolved = kept & jnp.isfinite(log_values)
    log_values = jnp.where(kept | jnp.isnan(log_values), log_values, -jnp.inf)
    log_frobenius = jax.nn.logsumexp(2 * log_values, axis=1) / 2
    return FiniteTimeSpectrum(
        jnp.array(wanted),
        log_values,
        resolved,
        log_frobenius,
        log_values[:, 0] - log_values[:, -1],
        jnp.exp(2 * (log_frobenius - log_values[:, 0])),
        converged,
    )


class _Carry(NamedTuple):
    orthogonal: jax.Array
    graded: Graded
    lost: jax.Array
    """At how many steps a direction was at the rounding floor."""


class Linearised:
    """A trajectory and the linear maps of its steps, on flat vectors (S,).

    Attributes:
      steps: (state before, drive, mask and reset) of every step, leading axis T.
      length, size, dtype: T, S and the dtype of the state.
      finite: (T,), whether the state before each step is. Where it is not, a Jacobian of zero tells
        nothing: the slope of a ReLU at NaN is 0. (That of a linear network is right.)
    """

    def __init__(
        self,
        cell: Cell,
        params: Params,
        xs: jax.Array,
        state: State | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
    ) -> None:
        seen = visit(cell, params, xs, state, mask, reset)
        self.first, self.length = seen.first, seen.length
        self.steps = seen.before, seen.drives, seen.steps._replace(xs=None)
        flat, self._unravel = ravel_pytree(seen.first)
        self.size, self.dtype = flat.size, flat.dtype
        ok = [jnp.isfinite(leaf).reshape(self.length, -1) for leaf in jax.tree.leaves(seen.before)]
        self.finite = jnp.all(jnp.concatenate(ok, axis=1), axis=1)
        self._advance = lambda state, *step: advance(cell, seen.params, state, *step)[0]

    def jvp(self, step: PyTree) -> Callable[[jax.Array], jax.Array]:
        """v -> J v of one of the steps."""
        state, *rest = step
        _, push = jax.linearize(lambda state: self._advance(state, *rest), state)
        return lambda vector: ravel_pytree(push(self._unravel(vector)))[0]

    def vjp(self, step: PyTree) -> Callable[[jax.Array], jax.Array]:
        """v -> J^T v of one of the steps."""
        state, *rest = step
        _, pull = jax.vjp(lambda state: self._advance(state, *rest), state)
        return lambda vector: ravel_pytree(pull(self._unravel(vector)))[0]


def part_slices(state: State) -> dict[str, slice]:
    """Where each named part of a state lies in its flat vector."""
    slices, start = {}, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        slices[name] = slice(start, start + leaf.size)
        start += leaf.size
    return slices


def _check_lags(lags: Sequence[int], length: int) -> np.ndarray:
    wanted = np.asarray(lags)
    if wanted.ndim != 1 or not wanted.size or not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(f"lags must be a list of integers, got {lags!r}")
    if wanted[0] < 0 or wanted[-1] > length or np.any(np.diff(wanted) <= 0):
        raise ValueError(f"lags must increase between 0 and the {length} steps, got {lags!r}")
    return wanted


def _at_lags(
    back: Callable[[PyTree, PyTree], PyTree], start: PyTree, steps: PyTree, lags: np.ndarray
) -> PyTree:
    """What a loop from the last step backwards carries after each of some lags, stacked."""
    length = jax.tree.leaves(steps)[0].shape[0]

    def stretch(carry: PyTree, bounds: jax.Array) -> tuple[PyTree, PyTree]:
        def body(lag: jax.Array, carry: PyTree) -> PyTree:
            return back(carry, jax.tree.map(lambda leaf: leaf[length - 1 - lag], steps))

        carry = lax.fori_loop(bounds[0], bounds[1], body, carry)
        return carry, carry

    bounds = jnp.asarray(np.stack([np.append(0, lags[:-1]), lags], axis=1))
    return lax.scan(stretch, start, bounds)[1]
