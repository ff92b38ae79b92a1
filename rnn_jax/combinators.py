"""Cells made from cells."""

import functools

import jax
import jax.numpy as jnp

from rnn_jax.base import Cell, Params, State, check_positive


@functools.cache
def batched(cell: Cell, size: int) -> Cell:
    """The cell whose state is a batch of ``size`` states of another, with shared parameters.

    For what is a property of the whole batch, like the parameter gradient of a mean loss: the
    sum over the batch is then one matrix product, where a ``vmap`` of the gradient would form
    one parameter gradient per sample. Inputs are (T, B, D), every part of the state (B, ...).

    Raises:
      ValueError, TypeError: for a size that is no integer of at least 1.

    >>> import jax, rnn_jax
    >>> cell = batched(rnn_jax.lstm(), 8)
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> rnn_jax.unroll(cell, params, jax.numpy.ones((5, 8, 3)))[0].cell.shape
    (8, 4)
    """
    check_positive("size", size)

    def initial_state(params: Params) -> State:
        repeat = lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape))
        return jax.tree.map(repeat, cell.initial_state(params))

    return Cell(
        name=f"batched({cell.name})",
        init=cell.init,
        initial_state=initial_state,
        step=jax.vmap(cell.step, (None, 0, 0)),
        project=cell.project,
        read=jax.vmap(cell.read, (None, 0, 0)),
    )
