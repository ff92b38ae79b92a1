"""Cells as Flax linen modules, and Flax linen's recurrent cells as cells."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import core
from flax import linen as nn

from rnn_jax.base import Cell, Params, State
from rnn_jax.interop.adapters import (
    Carry,
    Foreign,
    Read,
    as_dicts,
    batch_axes,
    batched_state,
    batched_step,
    check_adaptable,
    constant_state,
    foreign_cell,
    from_dicts,
    input_shape,
    part_names,
)
from rnn_jax.schemes import Scheme

PARTS: Mapping[type, tuple[str, ...]] = {
    nn.LSTMCell: ("cell", "hidden"),
    nn.OptimizedLSTMCell: ("cell", "hidden"),
    nn.ConvLSTMCell: ("cell", "hidden"),
}
"""What the anonymous carries of Flax hold, in their order. A single array is the hidden vector."""


class LinenCell(nn.RNNCellBase):
    """Any `Cell` as a linen module: for ``nn.RNN``, ``nn.Bidirectional`` and one's own models.

    carry_t, y_t = module(carry_{t-1}, x_t), with any number of batch axes in front of each.

    The parameters lie under the module by the cell's own names (``kernel``, ``recurrent_kernel``,
    ...). What is nested in them is nested dicts, as all of Flax expects, where the parts of a tuple
    are "0", "1", ...: ``flax.serialization.to_state_dict(params)`` makes that tree of the cell's
    own parameters, and ``from_state_dict(params, tree)`` leads back. They are drawn when the first
    input tells D. The carry is the cell's own state, with names.

    A cell that learns its initial state starts there: ``initialize_carry`` reads the parameters
    of a module that has them (in ``nn.RNN``, in any other module, or by ``module.apply(variables,
    rng, shape, method="initialize_carry")``). The parameters are also what decides the dtype of
    the carry. As in Flax, parameters cannot differ from step to step.

    ``nn.RNN`` scans the whole module, so that what `unroll` prepares once per sequence is done and
    differentiated at every step: an orthogonal matrix makes training several times as slow.

    ``nn.RNN`` is Flax' own: unlike `rnn_jax.unroll` it leaves the outputs at padding as they are,
    its gradients do not survive a NaN there, and for a length of 0 it returns the carry after
    the padding instead of the initial one.

    Attributes:
      cell: any `Cell`.
      hidden_size: H, or what else the cell's ``init`` takes for it.
      scheme: an initialisation scheme, as for ``cell.init``.
      param_dtype: of the parameters drawn, by default JAX's; the cell computes in their dtype.

    Raises:
      ValueError: for inputs, carries or parameters that are not the cell's, or a cell with dropout.
      TypeError: for what is no `Cell`.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> layer = nn.RNN(LinenCell(rnn_jax.lstm(), 4))
    >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"]["cell"])
    {'bias': (16,), 'kernel': (3, 16), 'recurrent_kernel': (4, 16)}
    >>> carry, outputs = layer.apply(variables, jnp.ones((2, 5, 3)), return_carry=True)
    >>> carry.cell.shape, outputs.shape
    ((2, 4), (2, 5, 4))
    """

    cell: Cell
    hidden_size: int
    scheme: Scheme | None = None
    param_dtype: Any = None

    def __post_init__(self) -> None:
        check_adaptable(self.cell)
        super().__post_init__()

    def __call__(self, carry: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        """One step of a batch: ``(new carry, output)``."""
        batch = batch_axes(self.cell, inputs.shape)
        return batched_step(self.cell, self._params(inputs.shape[-1]), carry, inputs, batch)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> State:
        """The initial state for a batch of inputs of this shape; ``rng`` is not used.

        Raises:
          ValueError: outside of any module or ``apply``, if the cell's initial state depends on
            its parameters.
        """
        del rng
        batch = batch_axes(self.cell, input_shape)
        if self.scope is None:
            state = constant_state(self.cell, self._shapes(input_shape[-1]))
        else:
            state = self.cell.initial_state(self._params(input_shape[-1]))
        return batched_state(state, batch)

    @property
    def num_feature_axes(self) -> int:
        """How many axes one input has: 1, or more for a cell over space."""
        return len(self.cell.space) + 1

    @nn.nowrap
    def _draw(self, input_size: int, key: jax.Array) -> Params:
        return self.cell.init(
            key, input_size, self.hidden_size, scheme=self.scheme, dtype=self.param_dtype
        )

    @nn.nowrap
    def _shapes(self, input_size: int) -> Params:
        return jax.eval_shape(functools.partial(self._draw, input_size), jax.random.key(0))

    @nn.nowrap
    def _params(self, input_size: int) -> Params:
        """Those in the scope, or if there are none yet, new ones.

        ``Module.param`` would draw each name for itself, but parameters may depend on each other.
        """
        shapes = self._shapes(input_size)
        expected = as_dicts(shapes)
        missing = [name for name in expected if not self.has_variable("params", name)]
        if missing and not self.is_mutable_collection("params"):
            raise ValueError(f"{self.cell.name}: the variables have no parameters {missing}")
        if missing:
            drawn = as_dicts(self._draw(input_size, self.make_rng("params")))
            for name in missing:
                self.put_variable("params", name, drawn[name])
        found = core.unfreeze(dict(self.variables)).get("params", {})
        got, needed = (jax.tree.map(jax.numpy.shape, tree) for tree in (found, expected))
        if got != needed:
            raise ValueError(
                f"{self.cell.name}: parameters of the shapes {got} are not those for inputs with "
                f"{input_size} features and hidden_size={self.hidden_size}, {needed}"
            )
        return from_dicts(found, shapes)


def from_linen(
    module: nn.RNNCellBase,
    input_size: int | Sequence[int],
    *,
    parts: Sequence[str] | None = None,
    read: str | Read | None = None,
) -> Cell:
    """A recurrent cell of Flax linen, yours included, as a `Cell`: for every instrument here.

    Its parameters are ``module``'s variables of the collection "params": what
    ``nn.RNN(module).init`` has under ``["params"]["cell"]`` fits as it is. ``cell.init`` calls the
    module's own initialisers; their ``param_dtype`` decides unless a dtype is asked for. Initial
    state and input follow the dtype of the parameters, and so does the whole recurrence unless
    the module has a ``dtype`` of its own. Carries that are drawn at random are drawn from
    ``jax.random.key(0)``, as in ``nn.RNN``.

    Calls with equal arguments give the same cell.

    Args:
      module: the module, unbatched inputs and carries must do for it, as for all of Flax'.
      input_size: D, or the shape of one input if it has more than one axis.
      parts: names for the arrays in the carry, in Flax' order. By default ("cell", "hidden") for
        Flax' LSTMs, "hidden" for a single array, the names of a NamedTuple, else "part_0", ...
        The names "hidden" and "cell" make an `LSTMState`, so that states compare with those of
        `rnn_jax.lstm`.
      read: the part that is the output, or a function ``(params, state, drive) -> output`` of the
        new state; its drive is the input itself. By default the part that equals the output.

    Raises:
      ValueError: if ``read`` of the new state is not the output (tried on random numbers), or
        nothing or more than one part could be; for parts that do not fit the carry; if the module
        cannot step on such an input, or has variables beside its parameters. By ``init``: for a
        scheme, or sizes that are not those of the module.
      TypeError: for what is no ``nn.RNNCellBase``.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = from_linen(nn.OptimizedLSTMCell(4), 3)
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> flow = rnn_jax.analysis.gradient_flow(cell, params, jnp.ones((6, 3)), jnp.ones(4))
    >>> sorted(flow.log_norm_by_part), flow.log_norm.shape
    (['cell', 'hidden'], (7,))
    """
    if not isinstance(module, nn.RNNCellBase):
        raise TypeError(f"module must be a flax.linen.RNNCellBase, got {module!r}")
    # A module made inside another one knows its place there, which is no part of what it computes.
    module = module.clone(parent=None, name=None)
    return _from_linen(module, input_shape(input_size), part_names(module, parts, PARTS), read)


@functools.cache
def _from_linen(
    module: nn.RNNCellBase,
    shape: tuple[int, ...],
    parts: tuple[str, ...] | None,
    read: str | Read | None,
) -> Cell:
    name = f"linen({type(module).__name__})"

    def first_step(module: nn.RNNCellBase, x: jax.Array) -> tuple[Carry, jax.Array]:
        return module(module.initialize_carry(jax.random.key(0), shape), x)

    def init(key: jax.Array) -> Params:
        # A step that is only made to learn shapes must not stumble over the dtype of its zeros.
        with jax.numpy_dtype_promotion("standard"):
            variables = dict(module.init(key, jax.numpy.zeros(shape), method=first_step))
        params = variables.pop("params", {})
        if variables:
            raise ValueError(f"it has variables beside its parameters: {sorted(variables)}")
        return params

    def initial_carry(params: Params) -> Carry:
        return module.apply({"params": params}, jax.random.key(0), shape, method="initialize_carry")

    def step(params: Params, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        result: Any = module.apply({"params": params}, carry, x)
        return result

    return foreign_cell(Foreign(name, shape, init, initial_carry, step), parts, read)
