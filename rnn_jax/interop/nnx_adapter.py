"""Cells as Flax nnx modules, and Flax nnx' recurrent cells as cells."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from rnn_jax.base import Cell, Params, State
from rnn_jax.interop.adapters import (
    Carry,
    Foreign,
    Read,
    batch_axes,
    batched_state,
    batched_step,
    check_adaptable,
    foreign_cell,
    input_shape,
    part_names,
)
from rnn_jax.schemes import Scheme

PARTS: Mapping[type, tuple[str, ...]] = {
    nnx.LSTMCell: ("cell", "hidden"),
    nnx.OptimizedLSTMCell: ("cell", "hidden"),
}
"""What the anonymous carries of Flax hold, in their order. A single array is the hidden vector."""


class NNXCell(nnx.RNNCellBase):
    """Any `Cell` as an nnx module: for ``nnx.RNN``, ``nnx.Bidirectional`` and one's own models.

    carry_t, y_t = module(carry_{t-1}, x_t), with any number of batch axes in front of each.

    The attribute ``params`` is the cell's parameter tree with an ``nnx.Param`` in place of each
    array, so that ``module.params["kernel"]`` is one and ``nnx.state`` has the cell's own names.
    The carry is the cell's own state, with names; one that is learned starts at its parameters.

    ``nnx.RNN`` is Flax' own: what `LinenCell` says of ``nn.RNN`` is true of it too, also that it
    makes an orthogonal matrix anew at every step.

    Args:
      cell: any `Cell`.
      input_size, hidden_size: D and H, as for ``cell.init``.
      scheme: an initialisation scheme, as for ``cell.init``.
      param_dtype: of the parameters drawn, by default JAX's; the cell computes in their dtype.
      rngs: its stream ``params`` is drawn from.

    Raises:
      ValueError: for inputs or carries that are not the cell's, or a cell with dropout.
      TypeError: for what is no `Cell`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> layer = nnx.RNN(NNXCell(rnn_jax.lstm(), 3, 4, rngs=nnx.Rngs(0)))
    >>> jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(layer.cell, nnx.Param)))
    {'params': {'bias': (16,), 'kernel': (3, 16), 'recurrent_kernel': (4, 16)}}
    >>> carry, outputs = layer(jnp.ones((2, 5, 3)), return_carry=True)
    >>> carry.cell.shape, outputs.shape
    ((2, 4), (2, 5, 4))
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Scheme | None = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_adaptable(cell)
        self.cell = cell
        params = cell.init(rngs.params(), input_size, hidden_size, scheme=scheme, dtype=param_dtype)
        self.params = nnx.data(jax.tree.map(nnx.Param, params))

    def __call__(self, carry: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        """One step of a batch: ``(new carry, output)``."""
        batch = batch_axes(self.cell, inputs.shape)
        return batched_step(self.cell, self._values(), carry, inputs, batch)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: nnx.Initializer | None = None,
    ) -> State:
        """The initial state for a batch of inputs of this shape.

        Args:
          input_shape: of a batch of inputs, (..., D).
          rngs: used for ``carry_init`` only.
          carry_init: an initialiser ``(key, shape, dtype)`` to draw each part of the carry with,
            in place of the cell's own initial state.

        Raises:
          ValueError: for a ``carry_init`` without ``rngs``.
        """
        batch = batch_axes(self.cell, input_shape)
        state = batched_state(self.cell.initial_state(self._values()), batch)
        if carry_init is None:
            return state
        if rngs is None:
            raise ValueError("carry_init needs rngs to draw from, got None")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(lambda leaf: carry_init(stream(), leaf.shape, leaf.dtype), state)

    @property
    def num_feature_axes(self) -> int:
        """How many axes one input has: 1, or more for a cell over space."""
        return len(self.cell.space) + 1

    def _values(self) -> Params:
        is_variable = lambda node: isinstance(node, nnx.Variable)
        return jax.tree.map(lambda variable: variable[...], self.params, is_leaf=is_variable)


def from_nnx(
    make: Callable[..., nnx.RNNCellBase],
    input_size: int | Sequence[int],
    *,
    parts: Sequence[str] | None = None,
    read: str | Read | None = None,
) -> Cell:
    """A recurrent cell of Flax nnx, yours included, as a `Cell`: for every instrument here.

    An nnx module is made together with its parameters, so it is the maker that is wrapped, and
    ``cell.init`` calls it. The parameters are a nested dict of arrays, the module's ``nnx.Param``;
    those of a module that exists, trained perhaps, are
    ``nnx.to_pure_dict(nnx.state(module, nnx.Param))``.

    Dtypes, names and ``read`` are as in `from_linen`. ``nnx.SimpleCell`` computes in float32
    unless it is made with ``dtype=None``. Carries that are drawn at random are drawn from
    ``nnx.Rngs(0)``. Calls with equal arguments give the same cell; two equal
    ``functools.partial`` are not equal, so make it once.

    Args:
      make: makes the module anew from random numbers, called as ``make(rngs=...)``.
      input_size, parts, read: as in `from_linen`.

    Raises:
      ValueError: as `from_linen`.
      TypeError: if what it makes is no ``nnx.RNNCellBase``.

    >>> import functools, jax, jax.numpy as jnp, rnn_jax
    >>> make = functools.partial(nnx.GRUCell, 3, 4)
    >>> cell = from_nnx(make, 3)
    >>> trained = nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(0)), nnx.Param))
    >>> rnn_jax.unroll(cell, trained, jnp.ones((6, 3)))[0].hidden.shape
    (4,)
    """
    module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    if not isinstance(module, nnx.RNNCellBase):
        raise TypeError(f"make must make a flax.nnx.RNNCellBase, got {module!r}")
    return _from_nnx(make, input_shape(input_size), part_names(module, parts, PARTS), read)


@functools.cache
def _from_nnx(
    make: Callable[..., nnx.RNNCellBase],
    shape: tuple[int, ...],
    parts: tuple[str, ...] | None,
    read: str | Read | None,
) -> Cell:
    module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    name = f"nnx({type(module).__name__})"
    graph, _, *rest = nnx.split(module, nnx.Param, ...)
    if jax.tree.leaves(rest):
        beside = nnx.to_pure_dict(rest[0])
        raise ValueError(f"{name}: the module has variables beside its parameters: {beside}")

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(key)), nnx.Param))

    def initial_carry(params: Params) -> Carry:
        return nnx.merge(graph, params).initialize_carry(shape, nnx.Rngs(0))

    def step(params: Params, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        return nnx.merge(graph, params)(carry, x)

    return foreign_cell(Foreign(name, shape, init, initial_carry, step), parts, read)
