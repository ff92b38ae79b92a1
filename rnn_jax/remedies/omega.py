"""The regulariser of Pascanu, Mikolov and Bengio, for any cell."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import numerics
from rnn_jax.analysis.gradients import check_readout, output_cotangents, zero_like
from rnn_jax.base import Cell, Drive, Params, PyTree, State
from rnn_jax.numerics import Scaled
from rnn_jax.unroll import Visit, advance, visit


class Omega(NamedTuple):
    """The penalty on steps that shrink or stretch the error, and what it was made of.

    Attributes:
      penalty: (), what a loss adds to itself with a weight.
      terms: (), how many it has, int32.
      valid_fraction: (), ``terms`` over the steps that are not masked.
      log_ratio: (T,), ln(||J_t^T delta_t|| / ||delta_t||); NaN where there is no term.
    """

    penalty: jax.Array
    terms: jax.Array
    valid_fraction: jax.Array
    log_ratio: jax.Array


CONVENTIONS = ("ratio", "squared", "released")


def omega(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    cotangent: jax.Array | None = None,
    *,
    loss: Callable[[jax.Array], jax.Array] | None = None,
    convention: Literal["ratio", "squared", "released"] = "ratio",
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> Omega:
    """The penalty on steps that do not keep the norm of the error that goes back through them.

    r_t = ||J_t^T delta_t|| / ||delta_t||,    J_t = ds_t/ds_{t-1},    delta_t = dL/ds_t

    ratio:     Omega = sum_t (r_t - 1)^2      equation 9 of the paper
    squared:   Omega = sum_t (r_t^2 - 1)^2    the form that its equation 10 differentiates
    released:  Omega = mean_t (r_t^2 - 1)^2   over the steps with ||delta_t||^2 >= 1e-20, as the
               authors' program; that bound depends on the scale of the loss

    It is differentiated as in the paper: delta_t, the states and the drives are constants, so what
    is left is the part of the parameters that acts within a step, by way of J_t. For `elman` that
    is U alone. With s_{t-1} held, J_t depends on U also by the slope phi'(a_t), which the authors
    hold too; values are the same, and for the identity so are gradients.

    The ratios are taken in log space, from one backward pass that carries a scale: there is a
    term however far delta_t has vanished. Where it is exactly zero there is none, nor at masked
    steps: they are left out, and what is in is counted; a penalty without terms is 0. A step after
    a reset is taken from the initial state, as the first one is. A step that lets nothing through
    has ratio 0 and no gradient. An error or a Jacobian that is NaN makes the penalty NaN.

    Per sample: ``vmap`` for a batch. The mean over all terms of a batch, as in the released
    program, is then ``sum(penalty * terms) / sum(terms)`` of that convention. The paper's weight of
    it is 4, the program's 2 by default; they add its gradient before they clip.

    Args:
      cell, params, xs, state, mask, reset: as in `rnn_jax.unroll`.
      cotangent, loss: the error, as in `rnn_jax.analysis.gradient_flow`.
      convention: "ratio", "squared" or "released".

    Raises:
      ValueError: for another convention, unless exactly one of ``cotangent`` and ``loss`` is
        given, for a cotangent that is not of an output's shape, or as `rnn_jax.unroll`.

    References:
      Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, section 3.3; their program is
      https://github.com/pascanur/trainingRNNs.

    A linear network that halves the error at each of three steps, 3 (1/2 - 1)^2:

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> params = {"kernel": jnp.ones((1, 1)), "recurrent_kernel": jnp.full((1, 1), 0.5),
    ...           "bias": jnp.zeros(1)}
    >>> penalty = lambda params: omega(
    ...     rnn_jax.elman("identity"), params, jnp.ones((3, 1)), jnp.ones(1)).penalty
    >>> value, gradient = jax.value_and_grad(penalty)(params)
    >>> float(value), float(gradient["recurrent_kernel"][0, 0]), float(gradient["kernel"][0, 0])
    (0.75, -3.0, 0.0)
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"omega: convention must be one of {CONVENTIONS}, got {convention!r}")
    check_readout("omega", cotangent, loss)
    seen = lax.stop_gradient(visit(cell, params, xs, state, mask, reset))
    deltas = lax.stop_gradient(_state_gradients(cell, seen, cotangent, loss))
    log_delta = jax.vmap(numerics.log_norm)(deltas)
    prepared = cell.prepare_params(params)

    before = seen.before
    if seen.steps.reset is not None:
        # A sequence that begins here goes through its first step from the initial state.
        initial = cell.initial_state(seen.params)
        begin = lambda flag, state: jax.tree.map(lambda i, s: jnp.where(flag, i, s), initial, state)
        before = jax.vmap(begin)(seen.steps.reset, before)

    def log_transmitted(before: State, drive: Drive, delta: State) -> jax.Array:
        through = lambda state: cell.step(prepared, state, drive)[0]
        return _log_norm(jax.vjp(through, before)[1](delta)[0])

    transmitted = jax.vmap(log_transmitted)(before, seen.drives, deltas.mantissa)
    log_unit = jax.vmap(numerics.log_norm)(deltas.mantissa)
    # Where delta is zero anything finite will do: there is no term, nor may it have a NaN gradient.
    log_ratio = transmitted - jnp.where(jnp.isneginf(log_unit), 0, log_unit)

    possible = jnp.ones_like(log_delta, bool)
    if seen.steps.mask is not None:
        possible &= seen.steps.mask
    # What is NaN is a term, and makes the penalty NaN.
    valid = possible & ~jnp.isneginf(log_delta)
    if convention == "released":
        valid &= ~(log_delta < math.log(1e-20) / 2)
    power = 1 if convention == "ratio" else 2
    excess = jnp.exp(power * log_ratio) - 1
    penalty = jnp.sum(jnp.where(valid, jnp.square(excess), 0))
    terms = jnp.sum(valid, dtype=jnp.int32)
    if convention == "released":
        penalty /= jnp.maximum(terms, 1).astype(penalty.dtype)
    most = jnp.maximum(jnp.sum(possible, dtype=jnp.int32), 1)
    fraction = terms.astype(penalty.dtype) / most.astype(penalty.dtype)
    return Omega(penalty, terms, fraction, jnp.where(valid, log_ratio, jnp.nan))


def _state_gradients(
    cell: Cell,
    seen: Visit,
    cotangent: jax.Array | None,
    loss: Callable[[jax.Array], jax.Array] | None,
) -> Scaled:
    """dL/ds_t for every t, mantissas of order one and exponents, leading axis T."""

    def back(later: Scaled, step: tuple) -> tuple[Scaled, Scaled]:
        before, drive, inputs, by_output = step

        def tapped(state: State, tap: State) -> tuple[State, jax.Array]:
            return advance(cell, seen.params, state, drive, inputs._replace(taps=tap))

        _, vjp = jax.vjp(tapped, before, jax.tree.map(jnp.zeros_like, before))
        pair, exponent = numerics.align(later, numerics.rescale(by_output))
        by_previous, by_state = vjp(pair)
        return numerics.rescale(by_previous, exponent), numerics.rescale(by_state, exponent)

    by_outputs = output_cotangents(seen, cotangent, loss)
    steps = seen.before, seen.drives, seen.steps._replace(xs=None), by_outputs
    return lax.scan(back, zero_like(seen.first), steps, reverse=True)[1]


def _log_norm(tree: PyTree) -> jax.Array:
    """`numerics.log_norm` with a gradient of zero, not NaN, at zero."""
    dead = jnp.isneginf(numerics.log_norm(lax.stop_gradient(tree)))
    safe = jax.tree.map(lambda leaf: jnp.where(dead, 1, leaf), tree)
    return jnp.where(dead, -jnp.inf, numerics.log_norm(safe))
