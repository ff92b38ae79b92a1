"""Numbers beyond the range of floating point, each function with the reason it exists.

A gradient that halves at every step leaves float32 after 126 steps, and its *square*, on which
``jnp.linalg.norm`` and ``optax.tree.norm`` are built, after 63: they then report a gradient of
exactly zero (or, the other way, of infinity) although nothing of the kind has happened.

The remedy for vectors is a mantissa with an integer exponent shared by a whole pytree, `Scaled`;
for products of matrices, whose singular values drift apart without bound, it is `Graded`.
Vectors are scaled by powers of two, which rounds nothing: wherever the plain computation neither
under- nor overflows, the scaled one goes through the same roundings.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.base import PyTree

ZERO_EXPONENT = -(2**30)
"""The exponent of an exact zero: below that of any number, so a sum never aligns to it."""


class Scaled(NamedTuple):
    """The pytree ``mantissa * 2**exponent``, one int32 exponent for all its leaves."""

    mantissa: PyTree
    exponent: jax.Array


def wide_dtype(tree: PyTree) -> jnp.dtype:
    """float64 if a leaf has it, else float32: half precision is too narrow to measure in."""
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def _layout(dtype: Any) -> tuple[jnp.dtype, int, int]:
    """The integer of the same width, the bits of the mantissa and the exponent's bias."""
    info = jnp.finfo(dtype)
    return jnp.dtype(f"int{info.bits}"), int(info.nmant), int(info.maxexp) - 1


def power_of_two(exponent: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """2**exponent, exactly; 0 below the normal range of ``dtype`` and clipped above it.

    ``jnp.exp2`` and ``jnp.ldexp`` go through a power function and may miss the last bit.

    >>> power_of_two(jnp.array([-3, 0, 5, -10_000])).tolist()
    [0.125, 1.0, 32.0, 0.0]
    """
    integer, bits, bias = _layout(dtype)
    biased = jnp.clip(exponent.astype(integer) + bias, 0, 2 * bias)
    return lax.bitcast_convert_type(biased << bits, dtype)


def _largest(tree: PyTree) -> jax.Array:
    """The largest absolute value in a pytree; NaN if there is one."""
    dtype = wide_dtype(tree)
    peaks = [_peak(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack(peaks)) if len(peaks) > 1 else peaks[0]


def _peak(leaf: jax.Array) -> jax.Array:
    # Axis by axis from the first: such a maximum runs in vector registers, one over all entries at
    # once does not.
    leaf = jnp.abs(leaf)
    while leaf.ndim > 1:
        leaf = jnp.max(leaf, axis=0, initial=0)
    return jnp.max(leaf, initial=0)


def _binary_exponent(peak: jax.Array) -> jax.Array:
    """floor(log2(peak)), kept so far from the ends of the range that 2**+-that is normal."""
    integer, bits, bias = _layout(peak.dtype)
    exponent = (lax.bitcast_convert_type(peak, integer) >> bits) - bias
    return jnp.clip(exponent, 1 - bias, bias - 1).astype(jnp.int32)


def multiply(tree: PyTree, factor: jax.Array) -> PyTree:
    """Every leaf times one scalar, keeping its dtype; float16 could not hold the scalar itself."""
    return jax.tree.map(lambda leaf: (leaf.astype(factor.dtype) * factor).astype(leaf.dtype), tree)


def rescale(tree: PyTree, exponent: jax.Array | int = 0) -> Scaled:
    """``tree * 2**exponent`` with its largest entry brought into [1, 2).

    One in the topmost binade ends in [2, 4), since the power that divides it has to be normal.
    An exact zero gets `ZERO_EXPONENT`; NaN and infinity stay what they are.

    >>> scaled = rescale(jnp.array([0.0, -6.0]))
    >>> scaled.mantissa.tolist(), int(scaled.exponent)
    ([0.0, -1.5], 2)
    """
    peak = _largest(tree)
    shift = _binary_exponent(peak)
    mantissa = multiply(tree, power_of_two(-shift, peak.dtype))
    return Scaled(mantissa, jnp.where(peak == 0, ZERO_EXPONENT, exponent + shift))


def align(*terms: Scaled) -> tuple[tuple[PyTree, ...], jax.Array]:
    """The mantissas of several numbers brought to their largest exponent, and that exponent."""
    exponent = terms[0].exponent
    for term in terms[1:]:
        exponent = jnp.maximum(exponent, term.exponent)
    return (
        tuple(
            multiply(
                term.mantissa,
                power_of_two(term.exponent - exponent, wide_dtype(term.mantissa)),
            )
            for term in terms
        ),
        exponent,
    )


def add(first: Scaled, second: Scaled) -> Scaled:
    """The sum of two scaled pytrees, to the rounding of an ordinary addition."""
    (a, b), exponent = align(first, second)
    return Scaled(jax.tree.map(jnp.add, a, b), exponent)


def log_norm(tree: PyTree | Scaled) -> jax.Array:
    """ln ||tree||_2 over all leaves together, from entries of any magnitude.

    Entries are brought to order one before they are squared, so nothing under- or overflows. Exact
    zero is -inf; NaN stays NaN and infinity infinity.

    >>> x = jnp.full(4, 1e-30)
    >>> float(jnp.linalg.norm(x)), round(float(log_norm(x)), 4)   # ln 2e-30
    (0.0, -68.3844)
    """
    mantissa, exponent = tree if isinstance(tree, Scaled) else (tree, jnp.int32(0))
    shift = _binary_exponent(_largest(mantissa))
    # Divided, not multiplied by 2**-shift: a compiler that knows the entries would square the
    # factors of a product apart. By a power of two: the reciprocal of the peak may underflow.
    unit = power_of_two(shift, wide_dtype(mantissa))
    leaves = [leaf.astype(unit.dtype) / unit for leaf in jax.tree.leaves(mantissa)]
    total = jnp.asarray(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves), unit.dtype)
    shift = shift + jnp.where(exponent == ZERO_EXPONENT, 0, exponent)
    return jnp.log(total) / 2 + shift.astype(unit.dtype) * math.log(2)


def log_root_mean_square(log_values: jax.Array, axis: int = 0) -> jax.Array:
    """ln of the root mean square of numbers given by their logarithms.

    >>> round(float(jnp.exp(log_root_mean_square(jnp.log(jnp.array([1.0, 7.0]))))), 4)
    5.0
    """
    count = log_values.shape[axis]
    return (jax.nn.logsumexp(2 * log_values, axis=axis) - math.log(count)) / 2


def positive_qr(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The QR factorisation with a diagonal of R that is not negative, which makes it unique.

    Raises:
      TypeError: in half precision, in which nothing factorises matrices.
    """
    if matrix.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"a factorisation needs float32 or float64 parameters, got {matrix.dtype}")
    orthogonal, triangular = jnp.linalg.qr(matrix)
    signs = jnp.where(jnp.diagonal(triangular) < 0, -1, 1).astype(matrix.dtype)
    return orthogonal * signs[None, :], triangular * signs[:, None]


class Graded(NamedTuple):
    """The matrix D T: D = diag(exp(log_scale)) and T unit upper triangular of moderate entries.

    A product of many matrices has singular values further apart than any floating-point number
    can hold; so written it keeps them all, each to its own relative precision.
    """

    log_scale: jax.Array
    triangular: jax.Array


def rounding_floor(size: int, dtype: Any) -> float:
    """ln of what a factorisation leaves of an exact zero, beside a largest entry of 1.

    Errors of some eps in each of ``size`` entries add up as their root.
    """
    return math.log(8 * size**0.5 * float(jnp.finfo(dtype).eps))


LOST = 0.01
"""The share of factorisations at the rounding floor above which a direction is not resolved.

Regular networks come near it now and then, at single steps that do not tell in the mean."""


def graded_identity(size: int, dtype: Any) -> Graded:
    """The identity: the product of no matrices."""
    return Graded(jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype))


def absorb(triangular: jax.Array, graded: Graded) -> Graded:
    """R D T as another graded matrix, R upper triangular; the signs of the rows of R are lost."""
    log_scale, unit = _regrade(triangular, graded.log_scale)
    return Graded(log_scale, unit @ graded.triangular)


def _regrade(triangular: jax.Array, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln D' and the unit triangular U of R D = D' U, but for the signs of the rows of R."""
    diagonal = jnp.diagonal(triangular)
    dead = (diagonal == 0) | jnp.isneginf(log_scale)  # rows of zeros, whose scale is -inf
    rows = triangular / jnp.where(dead, 1, diagonal)[:, None]
    gap = jnp.where(jnp.isneginf(log_scale), 0, log_scale)
    gap = gap[None, :] - gap[:, None]
    # Where R couples nothing the gap does not matter, however wide.
    couples = (rows != 0) & ~dead[:, None] & ~jnp.isneginf(log_scale)[None, :]
    unit = jnp.where(couples, rows * jnp.exp(jnp.minimum(gap, _WIDEST)), 0)
    eye = jnp.eye(len(diagonal), dtype=triangular.dtype)
    return log_scale + jnp.log(jnp.abs(diagonal)), jnp.where(eye == 1, eye, unit)


_WIDEST = 60.0
"""In the wrong order scales are so far apart only for a moment: the iteration sorts them."""
_ITERATIONS = 500


def log_singular_values(graded: Graded) -> tuple[jax.Array, jax.Array]:
    """ln of the singular values of D T, descending, and whether they have converged.

    Those within the resolution of the number format come from an ordinary SVD, the rest from
    the QR algorithm: (D T)^T = T^T D = Q R D, whose (D', T') has the same singular values and is
    nearer to diagonal by the ratio of neighbours.
    """
    dtype = graded.log_scale.dtype
    eps = float(jnp.finfo(dtype).eps)
    tolerance = float(eps) ** 0.4
    top = jnp.max(graded.log_scale)
    top = jnp.where(jnp.isneginf(top), 0, top)
    whole = jnp.exp(graded.log_scale - top)[:, None] * graded.triangular
    dense = jnp.linalg.svd(whole, compute_uv=False)
    resolved = dense > dense[0] * len(dense) * eps / tolerance

    def unsettled(loop: tuple[jax.Array, Graded, jax.Array]) -> jax.Array:
        number, _, change = loop
        return (number < _ITERATIONS) & (change > tolerance / 10)

    def separate(
        loop: tuple[jax.Array, Graded, jax.Array],
    ) -> tuple[jax.Array, Graded, jax.Array]:
        number, graded, _ = loop
        new = Graded(*_regrade(jnp.linalg.qr(graded.triangular.T)[1], graded.log_scale))
        before, after = jnp.sort(graded.log_scale)[::-1], jnp.sort(new.log_scale)[::-1]
        moved = jnp.where(resolved | (before == after), 0, jnp.abs(after - before))
        return number + 1, new, jnp.max(moved)

    start = (jnp.int32(0), graded, jnp.where(jnp.all(resolved), 0, jnp.inf).astype(dtype))
    _, separated, change = lax.while_loop(unsettled, separate, start)
    by_iteration = jnp.sort(separated.log_scale)[::-1]
    values = jnp.where(resolved, jnp.log(dense) + top, by_iteration)
    return values, change <= tolerance / 10
