"""Cells made from cells, and layers made from cells and layers.

A combinator takes cells and returns one, so combinators nest:

>>> import jax, rnn_jax
>>> from rnn_jax.combinators import bidirectional, chain, residual, stack
>>> deep = stack(rnn_jax.lstm(), residual(rnn_jax.gru()))
>>> network = chain(bidirectional(rnn_jax.lstm()), deep)
>>> params = network.init(jax.random.key(0), 3, 4)
>>> rnn_jax.unroll(network, params, jax.numpy.ones((5, 3)))[1].outputs.shape
(5, 4)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.base import Cell, Drive, Layer, Params, State, check_positive
from rnn_jax.numerics import wide_dtype
from rnn_jax.stochastic import (
    Keyed,
    for_cell,
    keyed,
    plain,
    with_dropout,
    with_keys_of,
    with_zoneout,
)
from rnn_jax.unroll import Trajectory, unroll

__all__ = [
    "BidirectionalState",
    "ChainState",
    "Keyed",
    "StackState",
    "batched",
    "bidirectional",
    "chain",
    "keyed",
    "residual",
    "skip",
    "stack",
    "with_dropout",
    "with_layer_norm",
    "with_learned_state",
    "with_zoneout",
]

# ---- Cells above each other ---------------------------------------------------------------------


class StackState(NamedTuple):
    """The states of all cells of a stack, the lowest first."""

    cells: tuple[State, ...]


@functools.cache
def stack(*cells: Cell) -> Cell:
    """Cells above each other, each reading the output of the one below at the same step.

    y_t^(0) = x_t,    s_t^(l), y_t^(l) = cell_l(params_l, s_{t-1}^(l), y_t^(l-1)),    y_t = y_t^(L)

    Unlike a `chain` of the same cells it is one cell: its state at a step is that of all cells,
    and instruments see the gradient travel in time and depth.

    Parameters: a tuple of the cells' own. State: ``StackState(cells)``. ``init`` takes one
    hidden_size for all cells, or a sequence with one for each.

    Raises:
      ValueError: for no cell, or (by ``init``) for another number of sizes than cells.
      TypeError: for what is no `Cell`.

    >>> import jax, rnn_jax
    >>> cell = stack(rnn_jax.lstm(), rnn_jax.gru())
    >>> params = cell.init(jax.random.key(0), 3, (8, 4))
    >>> rnn_jax.unroll(cell, params, jax.numpy.ones((6, 3)))[1].outputs.shape
    (6, 4)
    """
    _check_parts("stack", cells, Cell)

    def initial_state(params: Params) -> StackState:
        pairs = zip(cells, params, strict=True)
        return StackState(tuple(cell.initial_state(part) for cell, part in pairs))

    def prepare_params(params: Params) -> Params:
        pairs = zip(cells, params, strict=True)
        return tuple(cell.prepare_params(part) for cell, part in pairs)

    def project(params: Params, x: Any) -> Drive:
        # The keys of an input travel with the drive: the cells above need them at every step.
        return cells[0].project(params[0], for_cell(cells[0], x, 0)), with_keys_of(x, None)

    def climb(params: Params, drive: Drive, visit: Callable[[int, Drive], jax.Array]) -> jax.Array:
        """Visits the cells from below, each with the drive that the output below gives it."""
        drive, keys = drive
        output = visit(0, drive)
        for level, cell in enumerate(cells[1:], start=1):
            x = for_cell(cell, with_keys_of(keys, output), level)
            output = visit(level, cell.project(params[level], x))
        return output

    def step(params: Params, state: StackState, drive: Drive) -> tuple[StackState, jax.Array]:
        new: list[State] = []

        def visit(level: int, drive: Drive) -> jax.Array:
            after, output = cells[level].step(params[level], state.cells[level], drive)
            new.append(after)
            return output

        output = climb(params, drive, visit)
        return StackState(tuple(new)), output

    def read(params: Params, state: StackState, drive: Drive) -> jax.Array:
        def visit(level: int, drive: Drive) -> jax.Array:
            return cells[level].read(params[level], state.cells[level], drive)

        return climb(params, drive, visit)

    return Cell(
        f"stack({', '.join(cell.name for cell in cells)})",
        _sequential_init("stack", cells),
        initial_state,
        step,
        project,
        read,
        prepare_params=prepare_params,
        space=cells[0].space,
        stochastic=any(cell.stochastic for cell in cells),
        parts=cells,
    )


@functools.cache
def residual(cell: Cell) -> Cell:
    """The cell with its input added to its output, y_t = x_t + cell(x_t); parameters unchanged.

    Raises:
      ValueError: (by ``init``) if input and output differ in size.

    >>> import jax, rnn_jax
    >>> residual(rnn_jax.gru()).init(jax.random.key(0), 3, 4)
    Traceback (most recent call last):
    ...
    ValueError: residual(gru): the output has 4 features and cannot be added to an input of 3
    """
    name = f"residual({cell.name})"

    def init(key: jax.Array, input_size: int, hidden_size: int, **options: Any) -> Params:
        params = cell.init(key, input_size, hidden_size, **options)
        size = _output_size(cell, params, input_size)
        if size != input_size:
            raise ValueError(
                f"{name}: the output has {size} features and cannot be added to an input of "
                f"{input_size}"
            )
        return params

    return _beside_input(cell, name, jnp.add, init)


@functools.cache
def skip(cell: Cell) -> Cell:
    """The cell with its input beside its output, y_t = [x_t, cell(x_t)]; parameters unchanged.

    In a `stack` every cell then reads the outputs of all cells below and the input.

    >>> import jax, rnn_jax
    >>> cell = skip(rnn_jax.gru())
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> rnn_jax.unroll(cell, params, jax.numpy.ones((6, 3)))[1].outputs.shape
    (6, 7)
    """
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

    return _derived(cell, name, init=init, step=step, project=project, read=read)


# ---- What may be done to one cell ---------------------------------------------------------------


@functools.cache
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

    def init(key: jax.Array, input_size: int, hidden_size: int, **options: Any) -> Params:
        params = cell.init(key, input_size, hidden_size, **options)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        size = _output_size(cell, params, input_size)
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

    return _derived(
        cell,
        f"layer_norm({cell.name})",
        init=init,
        prepare_params=lambda params: {**params, "cell": cell.prepare_params(params["cell"])},
        initial_state=lambda params: cell.initial_state(params["cell"]),
        step=step,
        project=lambda params, x: cell.project(params["cell"], x),
        read=read,
    )


@functools.cache
def with_learned_state(cell: Cell) -> Cell:
    """The cell whose initial state is a parameter.

    Parameters: ``cell``, those of the cell, and ``initial``, a state, at first the cell's own.

    >>> import jax, rnn_jax
    >>> cell = with_learned_state(rnn_jax.gru())
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> loss = lambda params: rnn_jax.unroll(cell, params, jax.numpy.ones((6, 3)))[0].hidden.sum()
    >>> bool(abs(jax.grad(loss)(params)["initial"].hidden).min() > 0)
    True
    """

    def init(key: jax.Array, input_size: int, hidden_size: int, **options: Any) -> Params:
        params = cell.init(key, input_size, hidden_size, **options)
        return {"cell": params, "initial": cell.initial_state(params)}

    return _derived(
        cell,
        f"learned_state({cell.name})",
        init=init,
        prepare_params=lambda params: {**params, "cell": cell.prepare_params(params["cell"])},
        initial_state=lambda params: params["initial"],
        step=lambda params, state, drive: cell.step(params["cell"], state, drive),
        project=lambda params, x: cell.project(params["cell"], x),
        read=lambda params, state, drive: cell.read(params["cell"], state, drive),
        jacobian=cell.jacobian
        and (lambda params, state, drive: cell.jacobian(params["cell"], state, drive)),
    )


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

    return _derived(
        cell,
        f"batched({cell.name})",
        initial_state=initial_state,
        step=jax.vmap(cell.step, (None, 0, 0)),
        read=jax.vmap(cell.read, (None, 0, 0)),
        space=(size, *cell.space),
    )


def _derived(cell: Cell, name: str, **parts: Any) -> Cell:
    """A cell with the parts of another where nothing else is given.

    Not `dataclasses.replace`: what is done to a linear cell need not be linear, and the closed
    Jacobian holds for the cell as it was.
    """
    fields = {field.name: getattr(cell, field.name) for field in dataclasses.fields(Cell)}
    return Cell(**fields | {"name": name, "jacobian": None, "parts": ()} | parts)


# ---- Layers -------------------------------------------------------------------------------------


class BidirectionalState(NamedTuple):
    """The state of each direction: ``backward`` is that after reading step 0."""

    forward: State
    backward: State


class ChainState(NamedTuple):
    """The states of all layers of a chain, the first layer first."""

    layers: tuple[State, ...]


MERGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "concatenate": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": jnp.add,
}


def bidirectional(
    forward: Cell | Layer,
    backward: Cell | Layer | None = None,
    *,
    merge: Literal["concatenate", "sum"] = "concatenate",
) -> Layer:
    """Two cells, one of which reads the sequence from its end: y_t = [forward_t, backward_t].

    Schuster and Paliwal (1997), doi:10.1109/78.650093. With a mask the backward cell starts at
    the last valid step; with resets neither crosses a border. Outputs keep the order of inputs.

    Parameters: ``{"forward": ..., "backward": ...}``. State: ``BidirectionalState``.

    Args:
      forward, backward: cells or layers; by default two of the same, with their own parameters.
      merge: "concatenate" the outputs, forward first, or "sum" them.

    Raises:
      ValueError, TypeError: for another merge, or what is neither `Cell` nor `Layer`.

    >>> import jax, rnn_jax
    >>> layer = bidirectional(rnn_jax.gru())
    >>> params = layer.init(jax.random.key(0), 3, 4)
    >>> rnn_jax.unroll(layer, params, jax.numpy.ones((6, 3)))[1].outputs.shape
    (6, 8)
    """
    if merge not in MERGES:
        raise ValueError(f"bidirectional: merge must be one of {sorted(MERGES)}, got {merge!r}")
    return _bidirectional(forward, forward if backward is None else backward, merge)


@functools.cache
def _bidirectional(forward: Cell | Layer, backward: Cell | Layer, merge: str) -> Layer:
    _check_parts("bidirectional", (forward, backward), (Cell, Layer))

    def init(key: jax.Array, *sizes: Any, **options: Any) -> Params:
        keys = jax.random.split(key)
        pairs = zip(("forward", "backward"), (forward, backward), keys, strict=True)
        return {name: layer.init(own, *sizes, **options) for name, layer, own in pairs}

    def run(
        params: Params,
        xs: Any,
        *,
        state: BidirectionalState | None = None,
        taps: BidirectionalState | None = None,
        reverse: bool = False,
        **options: Any,
    ) -> tuple[BidirectionalState, Trajectory]:
        befores = _parts_of("state", state, BidirectionalState)
        pushes = _parts_of("taps", taps, BidirectionalState)
        ends, paths = zip(
            *(
                unroll(
                    layer,
                    params[name],
                    for_cell(layer, xs, number),
                    state=befores[number],
                    taps=pushes[number],
                    reverse=reverse != (name == "backward"),
                    **options,
                )
                for number, (name, layer) in enumerate(
                    {"forward": forward, "backward": backward}.items()
                )
            ),
            strict=True,
        )
        outputs = MERGES[merge](*(path.outputs for path in paths))
        states = BidirectionalState(*(path.states for path in paths))
        return BidirectionalState(*ends), Trajectory(states, outputs)

    name = f"bidirectional({forward.name}, {backward.name})"
    either = forward.stochastic or backward.stochastic
    return Layer(name, init, run, stochastic=either, parts=(forward, backward))


@functools.cache
def chain(*layers: Cell | Layer) -> Layer:
    """Layers one after the other, each reading the whole output of the one before.

    Parameters: a tuple of the layers' own. State: ``ChainState(layers)``. ``init`` takes one
    hidden_size for all layers or a sequence with one for each. A mask and resets reach all.

    Raises:
      ValueError: for no layer, or (by ``init``) for another number of sizes than layers.
      TypeError: for what is neither `Cell` nor `Layer`.

    >>> import jax, rnn_jax
    >>> layer = chain(bidirectional(rnn_jax.lstm()), rnn_jax.gru())
    >>> params = layer.init(jax.random.key(0), 3, (8, 4))
    >>> rnn_jax.unroll(layer, params, jax.numpy.ones((6, 3)))[1].outputs.shape
    (6, 4)
    """
    _check_parts("chain", layers, (Cell, Layer))

    def run(
        params: Params,
        xs: Any,
        *,
        state: ChainState | None = None,
        taps: ChainState | None = None,
        **options: Any,
    ) -> tuple[ChainState, Trajectory]:
        befores = _parts_of("state", state, ChainState, len(layers))
        pushes = _parts_of("taps", taps, ChainState, len(layers))
        ends, visited, outputs = [], [], plain(xs)
        for number, layer in enumerate(layers):
            end, path = unroll(
                layer,
                params[number],
                for_cell(layer, with_keys_of(xs, outputs), number),
                state=befores[number],
                taps=pushes[number],
                **options,
            )
            ends.append(end)
            visited.append(path.states)
            outputs = path.outputs
        return ChainState(tuple(ends)), Trajectory(ChainState(tuple(visited)), outputs)

    return Layer(
        f"chain({', '.join(layer.name for layer in layers)})",
        _sequential_init("chain", layers),
        run,
        stochastic=any(layer.stochastic for layer in layers),
        parts=layers,
    )


# ---- Parts --------------------------------------------------------------------------------------


def _check_parts(combinator: str, parts: Sequence[Any], kinds: Any) -> None:
    if not parts:
        raise ValueError(f"{combinator}: give at least one cell")
    for part in parts:
        if not isinstance(part, kinds):
            raise TypeError(
                f"{combinator}: {part!r} is no cell (factories are called: lstm(), not lstm)"
            )


def _parts_of(name: str, state: Any, kind: type, count: int = 2) -> Sequence[Any]:
    """The parts of a layer's state or taps; None for each where none is given."""
    if state is None:
        return (None,) * count
    parts = state.layers if isinstance(state, ChainState) else state
    if not isinstance(state, kind) or len(parts) != count:
        raise ValueError(f"{name}: expected a {kind.__name__} with {count} parts, got {state!r}")
    return parts


def _sequential_init(combinator: str, layers: Sequence[Cell | Layer]) -> Any:
    """The ``init`` of layers that read each other: a tuple of parameters."""

    def init(
        key: jax.Array, input_size: int, hidden_size: int | Sequence[int], **options: Any
    ) -> Params:
        single = not isinstance(hidden_size, Sequence)
        sizes: Any = [hidden_size] * len(layers) if single else hidden_size
        if len(sizes) != len(layers):
            raise ValueError(
                f"{combinator}: hidden_size must be an integer or one for each of the "
                f"{len(layers)} cells, got {hidden_size}"
            )
        params: list[Params] = []
        keys = jax.random.split(key, len(layers))
        for layer, size, own in zip(layers, sizes, keys, strict=True):
            params.append(layer.init(own, input_size, size, **options))
            input_size = _output_size(layer, params[-1], input_size)
        return tuple(params)

    return init


def _output_size(layer: Cell | Layer, params: Params, input_size: int) -> int:
    """The features of an output, from one abstract step."""
    x = jax.ShapeDtypeStruct((1, *getattr(layer, "space", ()), input_size), jnp.float32)
    _, trajectory = jax.eval_shape(lambda params, xs: unroll(layer, params, xs), params, x)
    return trajectory.outputs.shape[-1]
