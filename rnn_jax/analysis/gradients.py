"""How the gradient of a loss flows back through the states of a recurrent network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import numerics
from rnn_jax.arguments import as_array, shown
from rnn_jax.base import Cell, Params, PyTree, State
from rnn_jax.numerics import Scaled
from rnn_jax.unroll import Steps, Visit, advance, visit


class GradientFlow(NamedTuple):
    """Natural logarithms of gradient norms; an exact zero is -inf.

    Attributes:
      log_norm: (T + 1,), entry t is ln ||dL/ds_t||; t = 0 is the initial state.
      log_norm_by_part: the same for each named part of the state ("hidden", "cell").
      log_step_norm: (T,), entry t - 1 is the ln-norm of what step t alone contributes to the
        parameter gradient, dL/ds_t times the immediate partial derivative of step t.
      log_truncated_norm: (T,), entry k - 1 is the ln-norm of the parameter gradient of a
        truncated horizon, the sum of the contributions of the last k steps. Entry T - 1 is
        the norm of the whole gradient.
    """

    log_norm: jax.Array
    log_norm_by_part: dict[str, jax.Array]
    log_step_norm: jax.Array
    log_truncated_norm: jax.Array


def gradient_flow(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    cotangent: jax.Array | None = None,
    *,
    loss: Callable[[jax.Array], jax.Array] | None = None,
    state: State | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> GradientFlow:
    """||dL/ds_t|| for every t, in log space, from one backward pass.

    dL/ds_t is the total derivative: through y_t as well as through all later steps. The loss is
    either L = <cotangent, y_T>, whose gradient has a clean lag axis k = T - t, or any function of
    all outputs; a loss with terms at every step mixes all lags and hides vanishing.

    The gradient is carried with a power-of-two scale (`numerics.Scaled`), which rounds nothing: it
    is plain backpropagation where that is representable and stays right beyond, at any lag. All
    parts of a state share the scale: one that is 2**126 times smaller than another reads -inf.
    Per sample: ``vmap`` for a batch, and never average gradients before taking norms.
    Under ``jit``, fields that nobody reads cost nothing.

    Args:
      cell: any `Cell`.
      params: its parameters.
      xs: the inputs, (T, D).
      cotangent: the readout vector, of the shape of one output. With a mask it reads the last
        valid step.
      loss: instead of ``cotangent``, a scalar function of all outputs, (T, ...) -> ().
      state, mask, reset: as in `rnn_jax.unroll`.

    Raises:
      ValueError: unless exactly one of ``cotangent`` and ``loss`` is given, for a cotangent that
        is not of an output's shape, or as `rnn_jax.unroll`.

    References:
      Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, equations 3 to 5.

    A linear network that halves its state: ln 2 per step, here 3 * ln 2.

    >>> import jax.numpy as jnp, rnn_jax
    >>> params = {"kernel": jnp.ones((1, 1)), "recurrent_kernel": jnp.full((1, 1), 0.5),
    ...           "bias": jnp.zeros(1)}
    >>> flow = gradient_flow(rnn_jax.elman("identity"), params, jnp.ones((3, 1)), jnp.ones(1))
    >>> [round(float(x), 4) for x in flow.log_norm]
    [-2.0794, -1.3863, -0.6931, 0.0]
    """
    seen = visit(cell, params, xs, state, mask, reset)
    check_readout("gradient_flow", cotangent, loss)
    cotangents = output_cotangents(seen, cotangent, loss)
    by_given = unprepared(cell, params)

    Carry = tuple[Scaled, Scaled]

    def back(carry: Carry, step: tuple[State, jax.Array, Steps]) -> tuple[Carry, tuple]:
        later, total = carry
        before, output_cotangent, inputs = step

        def tapped(params: Params, state: State, tap: State) -> tuple[State, jax.Array]:
            drive = cell.project(params, inputs.xs)
            return advance(cell, params, state, drive, inputs._replace(taps=tap))

        _, vjp = jax.vjp(tapped, seen.params, before, jax.tree.map(jnp.zeros_like, before))
        pair, exponent = numerics.align(later, numerics.rescale(output_cotangent))
        by_params, by_previous, by_state = vjp(pair)
        contribution = by_given(Scaled(by_params, exponent))
        total = numerics.add(total, contribution)
        norms = (
            *_state_norms(Scaled(by_state, exponent)),
            numerics.log_norm(contribution),
            numerics.log_norm(total),
        )
        return (numerics.rescale(by_previous, exponent), total), norms

    carry = (zero_like(seen.first), zero_like(params))
    visited = (seen.before, cotangents, seen.steps)
    (by_initial, total), norms = lax.scan(back, carry, visited, reverse=True)
    by_time, parts_by_time, by_step, truncated = norms
    if state is None and seen.length:
        # A learned initial state is a parameter too; it belongs to the longest horizon.
        whole = numerics.add(total, initial_state_gradient(cell, params, by_initial))
        truncated = truncated.at[0].set(numerics.log_norm(whole))
    at_initial, parts_at_initial = _state_norms(by_initial)
    prepend = lambda head, rest: jnp.concatenate([head[None], rest])
    return GradientFlow(
        prepend(at_initial, by_time),
        jax.tree.map(prepend, parts_at_initial, parts_by_time),
        by_step,
        truncated[::-1],
    )


def zero_like(tree: PyTree) -> Scaled:
    """A scaled exact zero of the shape of a pytree."""
    zeros = jax.tree.map(jnp.zeros_like, tree)
    return Scaled(zeros, jnp.int32(numerics.ZERO_EXPONENT))


def unprepared(cell: Cell, params: Params) -> Callable[[Scaled], Scaled]:
    """Takes a gradient by the prepared parameters to one by the parameters as they were given."""
    _, vjp = jax.vjp(cell.prepare_params, params)

    def by_given(gradient: Scaled) -> Scaled:
        (mantissa,) = vjp(gradient.mantissa)
        return Scaled(mantissa, gradient.exponent)

    return by_given


def initial_state_gradient(cell: Cell, params: Params, by_state: Scaled) -> Scaled:
    """What dL/ds_0 means for the parameters that the initial state is made from."""
    _, vjp = jax.vjp(cell.initial_state, params)
    (by_params,) = vjp(by_state.mantissa)
    return Scaled(by_params, by_state.exponent)


def _state_norms(gradient: Scaled) -> tuple[jax.Array, dict[str, jax.Array]]:
    parts, _ = jax.tree_util.tree_flatten_with_path(gradient.mantissa)
    return numerics.log_norm(gradient), {
        jax.tree_util.keystr(path, simple=True, separator="."): numerics.log_norm(
            Scaled(part, gradient.exponent)
        )
        for path, part in parts
    }


def output_cotangents(
    seen: Visit,
    cotangent: jax.Array | None,
    loss: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """dL/dy_t with everything else held fixed, for every t: (T, ...)."""
    outputs, mask = seen.trajectory.outputs, seen.steps.mask
    if loss is not None:
        check_loss(loss, outputs)
        return jax.grad(loss)(outputs)
    vector = as_cotangent(cotangent, outputs)
    if not len(outputs):
        return outputs
    last = -1 if mask is None else mask.shape[0] - 1 - jnp.argmax(mask[::-1])
    return jnp.zeros_like(outputs).at[last].set(vector)


def check_readout(caller: str, cotangent: object, loss: object) -> None:
    """Either a readout vector or a loss."""
    if (cotangent is None) == (loss is None):
        came = "neither" if loss is None else "both"
        raise ValueError(f"{caller} needs either a cotangent or a loss, got {came}")


def check_loss(loss: Callable[[jax.Array], jax.Array], outputs: jax.Array) -> None:
    """A function of the outputs that returns one real number, by its shapes alone.

    Raises:
      TypeError: otherwise; says what came.
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function of the outputs, got {shown(loss)}")
    value = jax.eval_shape(loss, outputs)
    number = isinstance(value, jax.ShapeDtypeStruct) and value.shape == ()
    if not number or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"loss must return one real number, got {shown(value)}")


def as_cotangent(cotangent: jax.typing.ArrayLike | None, outputs: jax.Array) -> jax.Array:
    """A readout vector in the dtype of the outputs (T, ...), its shape checked against theirs."""
    vector = as_array("cotangent", cotangent)
    if jnp.iscomplexobj(vector):
        raise TypeError(f"cotangent must be real, got {shown(vector)}")
    vector = vector.astype(outputs.dtype)
    if vector.shape != outputs.shape[1:]:
        shape = outputs.shape[1:]
        raise ValueError(f"cotangent must have the shape of an output, {shape}, got {vector.shape}")
    return vector
