"""What may be done to one cell: each takes a cell and returns one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import check_positive
from rnn_jax.base import (
    Cell,
    Drive,
    LinearCell,
    Params,
    State,
    check_cells,
    check_parts,
    derived,
    memoised,
)
from rnn_jax.combinators.sequence import output_size
from rnn_jax.numerics import wide_dtype
from rnn_jax.stochastic import Keyed, plain


@memoised
def residual(cell: Cell) -> Cell:
    """The cell with its input added to its output, y_t = x_t + cell(x_t); parameters unchanged.

    Raises:
      ValueError: (by ``init``) if input and output differ in size.
      TypeError: for what is no `Cell`, as all these combinators.

    >>> import jax, rnn_jax
    >>> residual(rnn_jax.gru()).init(jax.random.key(0), 3, 4)
    Traceback (most recent call last):
    ...
    ValueError: residual(gru): the output has 4 features and cannot be added to an input of 3
    """
    check_cells("residual", cell)
    name = f"residual({cell.name})"

    def init(key: jax.Array, input_size: int, hidden_size: int, **options: Any) -> Params:
        params = cell.init(key, input_size, hidden_size, **options)
        size = output_size(cell, params, input_size)
        if size != input_size:
            raise ValueError(
                f"{name}: the output has {size} features and cannot be added to an input of "
                f"{input_size}"
            )
        return params

    return _beside_input(cell, name, jnp.add, init)


@memoised
def skip(cell: Cell) -> Cell:
    """The cell with its input beside its output, y_t = [x_t, cell(x_t)]; parameters unchanged.

    In a `stack` every cell then reads the outputs of all cells below and the input.

    >>> import jax, rnn_jax
    >>> cell = skip(rnn_jax.gru())
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> rnn_jax.unroll(cell, params, jax.numpy.ones((6, 3)))[1].outputs.shape
    (6, 7)
    """
    check_cells("skip", cell)
    join = lambda x, output: jnp.concatenate([x, output], axis=-1)
    return _beside_input(cell, f"skip({cell.name})", join, cell.init)


def _beside_input(
    cell: Cell, name: str, join: Callable[[jax.Array, jax.Array], jax.Array], init: Any
) -> Cell:
    def project(params: Params, x: Any) -> Drive:
        return plain(x), cell.project(params, x)

    def step(params: Params, state: State, drive: Drive) -> tuple[State, jax.Array]:
        x, inner = drive
        state, output = cell.step(params, state, inner)
        return state, join(x.astype(output.dtype), output)

    def read(params: Params, state: State, drive: Drive) -> jax.Array:
        x, inner = drive
        output = cell.read(params, state, inner)
        return join(x.astype(output.dtype), output)

    return derived(cell, name, init=init, step=step, project=project, read=read)


@memoised
def with_layer_norm(cell: Cell) -> Cell:
    """The cell with a normalised output, y_t = gain * (y'_t - mean) / sqrt(var + 1e-6) + shift.

    Mean and variance over the features of one output; the recurrence itself is unchanged (an LSTM
    that normalises inside is ``lstm(layer_norm=True)``). Ba, Kiros and Hinton (2016),
    arXiv:1607.06450.

    Parameters: ``cell``, those of the cell, and ``gain`` and ``shift`` (Y,), 1 and 0 at first.

    >>> import jax, rnn_jax
    >>> cell = with_layer_norm(rnn_jax.gru())
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> outputs = rnn_jax.unroll(cell, params, jax.numpy.ones((6, 3)))[1].outputs
    >>> bool(abs(outputs.mean(axis=1)).max() < 1e-6)
    True
    """
    check_cells("with_layer_norm", cell)
    name = f"layer_norm({cell.name})"
    own = _own_params(name, "gain", "shift")

    def init(key: jax.Array, input_size: int, hidden_size: int, **options: Any) -> Params:
        params = cell.init(key, input_size, hidden_size, **options)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        size = output_size(cell, params, input_size)
        return {"cell": params, "gain": jnp.ones(size, dtype), "shift": jnp.zeros(size, dtype)}

    def normalise(params: Params, output: jax.Array) -> jax.Array:
        # Moments in at least float32: bfloat16 has too few digits to subtract a mean.
        wide = output.astype(wide_dtype(output))
        normal = jax.nn.standardize(wide, axis=-1, epsilon=1e-6).astype(output.dtype)
        lift = lambda part: part.reshape((1,) * (output.ndim - 1) + (-1,))
        return lift(params["gain"]) * normal + lift(params["shift"])

    def step(params: Params, state: State, drive: Drive) -> tuple[State, jax.Array]:
        state, output = cell.step(params["cell"], state, drive)
        return state, normalise(params, output)

    def read(params: Params, state: State, drive: Drive) -> jax.Array:
        return normalise(params, cell.read(params["cell"], state, drive))

    return derived(
        cell,
        name,
        init=init,
        prepare_params=lambda params: {**params, "cell": cell.prepare_params(own(params))},
        initial_state=lambda params: cell.initial_state(own(params)),
        step=step,
        project=lambda params, x: cell.project(own(params), x),
        read=read,
    )


@memoised
def with_learned_state(cell: Cell) -> Cell:
    """The cell whose initial state is a parameter. A `LinearCell` stays one.

    Parameters: ``cell``, those of the cell, and ``initial``, a state, at first the cell's own.

    >>> import jax, rnn_jax
    >>> cell = with_learned_state(rnn_jax.gru())
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> loss = lambda params: rnn_jax.unroll(cell, params, jax.numpy.ones((6, 3)))[0].hidden.sum()
    >>> bool(abs(jax.grad(loss)(params)["initial"].hidden).min() > 0)
    True
    """
    check_cells("with_learned_state", cell)
    name = f"learned_state({cell.name})"
    own = _own_params(name, "initial")

    def initial_state(params: Params) -> State:
        own(params)
        return params["initial"]

    def init(key: jax.Array, input_size: int, hidden_size: int, **options: Any) -> Params:
        params = cell.init(key, input_size, hidden_size, **options)
        return {"cell": params, "initial": cell.initial_state(params)}

    def of_cell(function: Callable) -> Callable:
        return lambda params, *args: function(own(params), *args)

    linear: dict[str, Any] = {}
    if isinstance(cell, LinearCell):
        linear["coefficients"] = of_cell(cell.coefficients)
    # Where it begins changes nothing about the steps, not the closed Jacobian either.
    return dataclasses.replace(
        cell,
        name=name,
        init=init,
        initial_state=initial_state,
        prepare_params=lambda params: {**params, "cell": cell.prepare_params(own(params))},
        step=of_cell(cell.step),
        project=of_cell(cell.project),
        read=of_cell(cell.read),
        jacobian=cell.jacobian and of_cell(cell.jacobian),
        parts=(),
        **linear,
    )


def _own_params(network: str, *names: str) -> Callable[[Params], Params]:
    """What takes those of ``cell`` out of parameters that have other ``names`` beside them."""

    def own(params: Params) -> Params:
        check_parts(network, params, ("cell", *names))
        return params["cell"]

    return own


@memoised
def batched(cell: Cell, size: int) -> Cell:
    """The cell whose state is a batch of ``size`` states of another, with shared parameters.

    For what is a property of the whole batch, like the parameter gradient of a mean loss: the
    sum over the batch is then one matrix product, where a ``vmap`` of the gradient would form
    one parameter gradient per sample. Inputs are (T, B, D), every part of the state (B, ...).

    A cell with dropout or zoneout draws for each sample, from keys (T, B), as in the example.

    Raises:
      ValueError, TypeError: for a size that is no integer of at least 1, what is no `Cell`, or
        (at a step) inputs whose keys are not one for each sample.

    >>> import jax, rnn_jax
    >>> cell = batched(rnn_jax.lstm(), 8)
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> rnn_jax.unroll(cell, params, jax.numpy.ones((5, 8, 3)))[0].cell.shape
    (8, 4)

    >>> from rnn_jax.combinators import keyed, with_dropout
    >>> dropped = batched(with_dropout(rnn_jax.lstm(), output=0.5), 8)
    >>> keys = jax.random.split(jax.random.key(1), 8)
    >>> xs = jax.vmap(keyed, (1, 0), 1)(jax.numpy.ones((5, 8, 3)), keys)
    >>> rnn_jax.unroll(dropped, params, xs)[1].outputs.shape
    (5, 8, 4)
    """
    check_cells("batched", cell)
    check_positive("size", size)
    name = f"batched({cell.name})"

    def project(params: Params, x: Any) -> Drive:
        if isinstance(x, Keyed) and x.step.ndim != x.x.ndim - len(cell.space) - 1:
            raise ValueError(
                f"{name}: each of the {size} samples needs its own keys, as those of "
                "jax.vmap(keyed, (1, 0), 1)(xs, keys)"
            )
        space = (size, *cell.space)
        if np.shape(plain(x))[-len(space) - 1 : -1] != space:
            raise ValueError(
                f"{name}: the input x has shape {np.shape(plain(x))}; its axes before the features "
                f"must be {space}"
            )
        return cell.project(params, x)

    def initial_state(params: Params) -> State:
        repeat = lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape))
        return jax.tree.map(repeat, cell.initial_state(params))

    return derived(
        cell,
        name,
        initial_state=initial_state,
        project=project,
        step=jax.vmap(cell.step, (None, 0, 0)),
        read=jax.vmap(cell.read, (None, 0, 0)),
        space=(size, *cell.space),
    )
