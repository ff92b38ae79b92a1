"""Networks of several cells: above each other, one after the other, or in both directions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_bool, check_key, shown
from rnn_jax.base import Cell, Drive, Layer, Params, State, check_cells, check_parts, memoised
from rnn_jax.stochastic import for_cell, plain, with_keys_of
from rnn_jax.unroll import Trajectory, unroll

# ---- Cells above each other ---------------------------------------------------------------------


class StackState(NamedTuple):
    """The states of all cells of a stack, the lowest first."""

    cells: tuple[State, ...]


@memoised
def stack(*cells: Cell) -> Cell:
    """Cells above each other, each reading the output of the one below at the same step.

    y_t^(0) = x_t,    s_t^(l), y_t^(l) = cell_l(params_l, s_{t-1}^(l), y_t^(l-1)),    y_t = y_t^(L)

    Unlike a `chain` of the same cells it is one cell: its state at a step is that of all cells,
    and instruments see the gradient travel in time and depth.

    Parameters: a tuple of the cells' own. State: ``StackState(cells)``. ``init`` takes one
    hidden_size for all cells, or a sequence with one for each.

    Raises:
      ValueError: for no cell, (by ``init``) for another number of sizes than cells, or for
        parameters of another number of cells.
      TypeError: for what is no `Cell`.

    >>> import jax, rnn_jax
    >>> cell = stack(rnn_jax.lstm(), rnn_jax.gru())
    >>> params = cell.init(jax.random.key(0), 3, (8, 4))
    >>> rnn_jax.unroll(cell, params, jax.numpy.ones((6, 3)))[1].outputs.shape
    (6, 4)
    """
    _check_some("stack", cells)
    check_cells("stack", *cells)
    name = f"stack({', '.join(cell.name for cell in cells)})"

    def pairs(params: Params) -> Iterable[tuple[Cell, Params]]:
        check_parts(name, params, len(cells))
        return zip(cells, params, strict=True)

    def initial_state(params: Params) -> StackState:
        return StackState(tuple(cell.initial_state(own) for cell, own in pairs(params)))

    def prepare_params(params: Params) -> Params:
        return tuple(cell.prepare_params(own) for cell, own in pairs(params))

    def project(params: Params, x: Any) -> Drive:
        check_parts(name, params, len(cells))
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
        name,
        _sequential_init("stack", cells),
        initial_state,
        step,
        project,
        read,
        prepare_params=prepare_params,
        space=cells[0].space,
        stochastic=any(cell.stochastic for cell in cells),
        exact_gradients=all(cell.exact_gradients for cell in cells),
        parts=cells,
    )


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
    if not isinstance(merge, str) or merge not in MERGES:
        raise ValueError(f"bidirectional: merge must be one of {sorted(MERGES)}, got {merge!r}")
    return _bidirectional(forward, forward if backward is None else backward, merge)


@memoised
def _bidirectional(forward: Cell | Layer, backward: Cell | Layer, merge: str) -> Layer:
    check_cells("bidirectional", forward, backward, kinds=Cell | Layer)
    name = f"bidirectional({forward.name}, {backward.name})"

    def init(key: jax.Array, *sizes: Any, **options: Any) -> Params:
        check_key(name, key)
        keys = jax.random.split(key)
        pairs = zip(("forward", "backward"), (forward, backward), keys, strict=True)
        return {side: layer.init(own, *sizes, **options) for side, layer, own in pairs}

    def run(
        params: Params,
        xs: Any,
        *,
        state: BidirectionalState | None = None,
        taps: BidirectionalState | None = None,
        reverse: bool = False,
        **options: Any,
    ) -> tuple[BidirectionalState, Trajectory]:
        check_parts(name, params, ("forward", "backward"))
        check_bool("reverse", reverse)
        befores = _parts_of("state", state, BidirectionalState)
        pushes = _parts_of("taps", taps, BidirectionalState)
        ends, paths = zip(
            *(
                unroll(
                    layer,
                    params[direction],
                    for_cell(layer, xs, number),
                    state=befores[number],
                    taps=pushes[number],
                    reverse=reverse != (direction == "backward"),
                    **options,
                )
                for number, (direction, layer) in enumerate(
                    {"forward": forward, "backward": backward}.items()
                )
            ),
            strict=True,
        )
        outputs = MERGES[merge](*(path.outputs for path in paths))
        states = BidirectionalState(*(path.states for path in paths))
        return BidirectionalState(*ends), Trajectory(states, outputs)

    either = forward.stochastic or backward.stochastic
    return Layer(name, init, run, stochastic=either, parts=(forward, backward))


@memoised
def chain(*layers: Cell | Layer) -> Layer:
    """Layers one after the other, each reading the whole output of the one before.

    Parameters: a tuple of the layers' own. State: ``ChainState(layers)``. ``init`` takes one
    hidden_size for all layers or a sequence with one for each. A mask and resets reach all.

    Raises:
      ValueError: for no layer, (by ``init``) for another number of sizes than layers, or for
        parameters of another number of layers.
      TypeError: for what is neither `Cell` nor `Layer`.

    >>> import jax, rnn_jax
    >>> layer = chain(bidirectional(rnn_jax.lstm()), rnn_jax.gru())
    >>> params = layer.init(jax.random.key(0), 3, (8, 4))
    >>> rnn_jax.unroll(layer, params, jax.numpy.ones((6, 3)))[1].outputs.shape
    (6, 4)
    """
    _check_some("chain", layers)
    check_cells("chain", *layers, kinds=Cell | Layer)
    name = f"chain({', '.join(layer.name for layer in layers)})"

    def run(
        params: Params,
        xs: Any,
        *,
        state: ChainState | None = None,
        taps: ChainState | None = None,
        **options: Any,
    ) -> tuple[ChainState, Trajectory]:
        check_parts(name, params, len(layers))
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
        name,
        _sequential_init("chain", layers),
        run,
        stochastic=any(layer.stochastic for layer in layers),
        parts=layers,
    )


# ---- Parts --------------------------------------------------------------------------------------


def _check_some(combinator: str, parts: Sequence[Any]) -> None:
    if not parts:
        raise ValueError(f"{combinator}: give at least one cell")


def _parts_of(name: str, state: Any, kind: type, count: int = 2) -> Sequence[Any]:
    """The parts of a layer's state or taps; None for each where none is given."""
    if state is None:
        return (None,) * count
    parts = state.layers if isinstance(state, ChainState) else state
    if not isinstance(state, kind) or len(parts) != count:
        raise ValueError(
            f"{name}: expected a {kind.__name__} with {count} parts, got {shown(state)}"
        )
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
        check_key(combinator, key)
        params: list[Params] = []
        keys = jax.random.split(key, len(layers))
        for layer, size, own in zip(layers, sizes, keys, strict=True):
            params.append(layer.init(own, input_size, size, **options))
            input_size = output_size(layer, params[-1], input_size)
        return tuple(params)

    return init


def output_size(layer: Cell | Layer, params: Params, input_size: int) -> int:
    """The features of an output, from one abstract step."""
    x = jax.ShapeDtypeStruct((1, *getattr(layer, "space", ()), input_size), jnp.float32)
    _, trajectory = jax.eval_shape(lambda params, xs: unroll(layer, params, xs), params, x)
    return trajectory.outputs.shape[-1]
