"""The Lyapunov spectrum of a driven recurrent network."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import numerics
from rnn_jax.analysis.jacobians import Linearised
from rnn_jax.arguments import as_array, check_key, check_positive, shown
from rnn_jax.base import Cell, Params, PyTree, State
from rnn_jax.unroll import prepare, unroll


class LyapunovResult(NamedTuple):
    """The spectrum, in nats per step, and how far to trust it.

    A NaN in the input makes everything NaN but ``resolved``, and so does a network that diverges,
    unless it is linear.

    Attributes:
      exponents: (m,), lambda_1 >= ... >= lambda_m, as the orthogonalisation finds them; -inf
        where the floor was hit (see ``resolved``).
      standard_error: (m,), of each mean over time, from 16 blocks in time of (nearly) equal length:
        correlations longer than a block are not seen. NaN where not resolved.
      running: (32, m), the means up to the ends of 32 (nearly) equal parts of the time measured.
      half_difference: (), the root-mean-square difference of the spectra of the two halves of the
        time measured, over the resolved exponents.
      resolved: (m,) booleans. False where a direction cannot be told from rounding errors beside
        the largest one in more than one of a hundred factorisations, or is exactly zero in any:
        singular Jacobians (an LSTM at rest, dead ReLUs) have such directions.
      kaplan_yorke: (), the dimension k + (lambda_1 + ... + lambda_k) / |lambda_{k+1}| with the
        largest k whose sum is not negative; NaN if all m exponents sum to more than zero, and so
        more of them are needed.
      entropy_rate: (), the sum of the positive exponents (Pesin), nats per step.
    """

    exponents: jax.Array
    standard_error: jax.Array
    running: jax.Array
    half_difference: jax.Array
    resolved: jax.Array
    kaplan_yorke: jax.Array
    entropy_rate: jax.Array


def lyapunov_spectrum(
    key: jax.Array,
    cell: Cell,
    params: Params,
    xs: jax.Array,
    *,
    count: int | None = None,
    burn_in: int = 500,
    tangent_burn_in: int = 200,
    every: int = 1,
    state: State | None = None,
) -> LyapunovResult:
    """The ``count`` largest Lyapunov exponents along one driven trajectory, by Benettin's method.

    An orthonormal frame of tangents is pushed forward, V = J_t Q, and orthonormalised again,
    V = Q R with a positive diagonal; lambda_i is the mean of ln R_ii. The exponents are those of
    the system driven by these inputs (conditional exponents): for different frames to agree, keep
    ``xs``. Zero inputs, ``jnp.zeros((T, D))``, give those of the autonomous network.

    All but some 32 of the factorisations are V = L U with partial pivoting, which takes less than
    half of the time of V = Q R. That changes nothing but rounding: the columns of L span what those
    of V do, so the R of the whole product, which is unique, is that of the next Q R times the U
    before it.

    Args:
      key: for the first frame.
      cell, params, state: as in `rnn_jax.unroll`.
      xs: the inputs (T, D); T = burn_in + tangent_burn_in + the steps measured. What does not fill
        ``every`` steps at the end is left out.
      count: m, by default S, the whole spectrum.
      burn_in: steps after which the state is taken to have forgotten where it began.
      tangent_burn_in: further steps after which the frame has turned into the right directions.
      every: steps between factorisations. Between two of them the frame must not collapse:
        every * (lambda_1 - lambda_m) well below ln(1 / eps), 16 in float32. Larger is faster;
        `orthonormalisation_interval` suggests one from the spread of a short run.

    Raises:
      ValueError: unless at least 32 * every steps remain to be measured, for a count above S, or
        as `rnn_jax.unroll`.

    References:
      Benettin, Galgani, Giorgilli and Strelcyn (1980), doi:10.1007/BF02128236; Engelken, Wolf and
      Abbott (2023), doi:10.1103/PhysRevResearch.5.043044.

    A linear network: every exponent is ln of the gain.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.elman("identity")
    >>> params = cell.init(jax.random.key(0), 2, 4, scheme=rnn_jax.schemes.orthogonal(0.5))
    >>> result = lyapunov_spectrum(jax.random.key(1), cell, params, jnp.zeros((1000, 2)))
    >>> (result.exponents / jnp.log(0.5)).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    every = check_positive("every", every)
    burn_in = check_positive("burn_in", burn_in, zero=True)
    tangent_burn_in = check_positive("tangent_burn_in", tangent_burn_in, zero=True)
    check_key("lyapunov_spectrum", key)
    _, _, length = prepare(cell, params, xs, state)
    warm = -(-tangent_burn_in // every)
    measured = (length - burn_in) // every - warm
    if measured < 2 * _BLOCKS:
        raise ValueError(
            f"xs: after {burn_in} + {tangent_burn_in} steps of burn-in at least "
            f"{2 * _BLOCKS * every} must remain, got {max(0, length - burn_in - tangent_burn_in)}"
        )
    if burn_in:
        state, _ = unroll(cell, params, _steps(xs, slice(burn_in)), state=state)
    along = Linearised(cell, params, _steps(xs, slice(burn_in, None)), state)
    count = along.size if count is None else check_positive("count", count)
    if count > along.size:
        raise ValueError(f"count: the state has only {along.size} dimensions, got {count}")

    def push(frame: jax.Array, steps: tuple) -> jax.Array:
        # The tangents are rows: as columns every push would be twice as slow.
        one = lambda frame, step: (jax.vmap(along.jvp(step))(frame), None)
        return lax.scan(one, frame, steps)[0]

    floor = numerics.rounding_floor(along.size, along.dtype)

    def grown(triangular: jax.Array) -> tuple[jax.Array, jax.Array]:
        growth = jnp.log(jnp.abs(jnp.diagonal(triangular)))
        return growth, (growth < growth[0] + floor).astype(growth.dtype)

    def factorise(frame: jax.Array, round_: tuple) -> tuple[jax.Array, tuple]:
        steps, exact = round_
        frame, triangular = lax.cond(exact, numerics.positive_qr, _pivoted_lu, push(frame, steps).T)
        return frame.T, grown(triangular)

    # Growth from one QR to another is exact: one stands at every border of what is averaged.
    rounds = warm + measured
    exact = np.zeros(rounds, bool)
    exact[warm + _ends(measured, 2 * _BLOCKS) - 1] = True
    steps = jax.tree.map(
        lambda leaf: leaf[: rounds * every].reshape(rounds, every, *leaf.shape[1:]), along.steps
    )
    frame, _ = numerics.positive_qr(jax.random.normal(key, (along.size, count), along.dtype))
    _, (growth, lost) = lax.scan(factorise, frame.T, (steps, jnp.asarray(exact)))
    growth = jnp.where(jnp.isneginf(growth) & ~jnp.all(along.finite), jnp.nan, growth)
    return _result(growth[warm:], lost[warm:], every)


def _ends(rounds: int, parts: int) -> np.ndarray:
    """The borders of parts of (nearly) equal length, 0 and ``rounds`` among them."""
    return np.linspace(0, rounds, parts + 1).round().astype(int)


def _pivoted_lu(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """L and U of a tall matrix, the rows of L as those of the matrix; |entries of L| <= 1."""
    packed, _, rows = lax.linalg.lu(matrix)
    size, count = matrix.shape
    lower = jnp.tril(packed, -1) + jnp.eye(size, count, dtype=matrix.dtype)
    return jnp.zeros_like(matrix).at[rows].set(lower), jnp.triu(packed[:count])


def _steps(xs: PyTree, some: slice) -> PyTree:
    """Inputs may come with keys."""
    return jax.tree.map(lambda leaf: leaf[some], xs)


_BLOCKS = 16


def _result(growth: jax.Array, lost: jax.Array, every: int) -> LyapunovResult:
    """The statistics of the growth (n, m) in rounds of so many steps.

    ``lost`` is 1 where a direction was at the rounding floor.
    """
    rounds = len(growth)
    zero = (lost.mean(axis=0) > numerics.LOST) | jnp.isneginf(growth).any(axis=0)
    rates = jnp.where(zero[None, :] & ~jnp.isnan(growth), -jnp.inf, growth / every)
    total = jnp.cumsum(rates, axis=0)
    mean = total[-1] / rounds
    resolved = jnp.isfinite(mean)

    ends = _ends(rounds, 2 * _BLOCKS)
    blocks = jnp.stack([rates[a:b].mean(axis=0) for a, b in itertools.pairwise(ends[::2])])
    spread = jnp.where(resolved[None, :], blocks, jnp.nan).std(axis=0, ddof=1)
    half = ends[_BLOCKS]
    change = rates[:half].mean(axis=0) - rates[half:].mean(axis=0)
    change = jnp.where(jnp.isneginf(mean), 0, change)
    number = jnp.maximum(jnp.sum(~jnp.isneginf(mean), dtype=jnp.int32), 1).astype(rates.dtype)
    return LyapunovResult(
        exponents=mean,
        standard_error=spread / _BLOCKS**0.5,
        running=total[ends[1:] - 1] / jnp.asarray(ends[1:], rates.dtype)[:, None],
        half_difference=jnp.sqrt(jnp.sum(change**2) / number),
        resolved=resolved,
        kaplan_yorke=kaplan_yorke_dimension(mean),
        entropy_rate=jnp.sum(jnp.maximum(mean, 0)),
    )


def kaplan_yorke_dimension(exponents: jax.Array) -> jax.Array:
    """The Kaplan-Yorke dimension of the attractor of a system with these exponents.

    k + (lambda_1 + ... + lambda_k) / |lambda_{k+1}|, k the last with a sum of at least 0.

    0 for a system that contracts in every direction, NaN if the sum of all the exponents given is
    still positive, or one of them is NaN. Kaplan and Yorke (1979), doi:10.1007/BFb0064319.

    >>> round(float(kaplan_yorke_dimension(jnp.array([0.5, 0.0, -1.0, -2.0]))), 3)
    2.5
    """
    exponents = as_array("exponents", exponents)
    if exponents.ndim != 1 or not exponents.size:
        raise ValueError(f"exponents must be a vector, got {shown(exponents)}")
    exponents = jnp.sort(exponents)[::-1]
    sums = jnp.cumsum(exponents)
    count = exponents.size
    k = jnp.sum(sums >= 0)
    surplus = jnp.where(k > 0, sums[jnp.maximum(k - 1, 0)], 0)
    part = surplus / jnp.abs(exponents[jnp.minimum(k, count - 1)])
    dimension = jnp.where(k == 0, 0, k.astype(part.dtype) + part)
    whole = jnp.where(sums[-1] == 0, count, jnp.nan)
    dimension = jnp.where(k == count, whole.astype(part.dtype), dimension)
    return jnp.where(jnp.isnan(sums[-1]), jnp.nan, dimension)


def orthonormalisation_interval(exponents: jax.Array, dtype: jnp.dtype = jnp.float32) -> int:
    """Steps between orthonormalisations that keep the frame's conditioning below sqrt(1 / eps).

    From the spread of a short run with ``every=1``. Unresolved exponents do not count: nothing
    resolves them.

    >>> orthonormalisation_interval(jnp.array([0.0, -0.5, -1.0]))
    7
    """
    values = np.asarray(exponents)
    values = values[np.isfinite(values)]
    spread = float(values.max() - values.min()) if values.size else 0.0
    room = -0.5 * math.log(float(jnp.finfo(dtype).eps))
    return max(1, int(min(room / max(spread, 1e-9), 1000)))
