"""The loss as a surface over two parameters: its cliffs, and the gradients on them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.analysis.gradients import gradient_flow
from rnn_jax.arguments import shown
from rnn_jax.base import Cell, Params
from rnn_jax.unroll import unroll


class Landscape(NamedTuple):
    """A loss on a grid of n by m points.

    Attributes:
      loss: (n, m).
      log_gradient_norm: (n, m), ln of the norm of (dL/da, dL/db), beyond the range of floats too.
    """

    loss: jax.Array
    log_gradient_norm: jax.Array


def loss_landscape(
    cell: Cell,
    params_of: Callable[[jax.Array, jax.Array], Params],
    first: jax.Array,
    second: jax.Array,
    xs: jax.Array,
    loss: Callable[[jax.Array], jax.Array],
    **options: Any,
) -> Landscape:
    """A loss and its gradient over a grid of two numbers that the parameters depend on.

    Where a small change of the parameters moves the network from one basin of attraction to
    another the loss has a wall, and the gradient at its foot explodes: the picture for which
    clipping was made.

    Args:
      cell: any cell.
      params_of: the parameters for one value of ``first`` and one of ``second``.
      first, second: the values, (n,) and (m,).
      xs: the inputs (T, D).
      loss: a scalar function of all outputs, (T, ...) -> ().
      **options: state, mask and reset, as in `rnn_jax.unroll`.

    Raises:
      ValueError, TypeError: for axes that are not vectors, a ``params_of`` that is no function, or
        as `rnn_jax.unroll`.

    References:
      Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, section 2.3 and figure 6.

    >>> import jax.numpy as jnp, rnn_jax
    >>> surface = loss_landscape(
    ...     rnn_jax.elman("identity"),
    ...     lambda w, b: {"kernel": jnp.zeros((1, 1)), "recurrent_kernel": w.reshape(1, 1),
    ...                   "bias": b.reshape(1)},
    ...     jnp.array([0.5, 2.0]), jnp.array([0.0, 1.0]), jnp.zeros((3, 1)),
    ...     lambda outputs: outputs[-1, 0])
    >>> surface.loss.tolist()
    [[0.0, 1.75], [0.0, 7.0]]
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError(f"first and second must be vectors, got {first.shape}, {second.shape}")
    if not callable(params_of):
        raise TypeError(f"params_of must be a function of two numbers, got {shown(params_of)}")
    surface = _over(cell, params_of)

    def at(a: jax.Array, b: jax.Array) -> Landscape:
        point = _Point(a, b)
        _, trajectory = unroll(surface, point, xs, **options)
        flow = gradient_flow(surface, point, xs, loss=loss, **options)
        return Landscape(loss(trajectory.outputs), flow.log_truncated_norm[-1])

    row = jax.vmap(at, (None, 0))
    return jax.jit(lambda first, second: lax.map(lambda a: row(a, second), first))(first, second)


class _Point(NamedTuple):
    """Two coordinates, in place of a cell's parameters."""

    first: jax.Array
    second: jax.Array


def _over(cell: Cell, params_of: Callable[[jax.Array, jax.Array], Params]) -> Cell:
    """The cell with two coordinates for its parameters; gradients are by them."""

    def prepared(params: Any) -> Params:
        return cell.prepare_params(params_of(*params) if isinstance(params, _Point) else params)

    return dataclasses.replace(
        cell,
        name=f"{cell.name} over two coordinates",
        initial_state=lambda params: cell.initial_state(prepared(params)),
        step=lambda params, *rest: cell.step(prepared(params), *rest),
        project=lambda params, x: cell.project(prepared(params), x),
        read=lambda params, *rest: cell.read(prepared(params), *rest),
        prepare_params=prepared,
        jacobian=None,
    )
