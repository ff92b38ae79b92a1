"""The plain cells that a network is made of, and where each stands in its parameters."""

import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rnn_jax.base import Cell, Layer, Params
from rnn_jax.combinators import bidirectional, chain, stack

DIRECTIONS = ("forward", "backward")

Path = tuple[int | str, ...]
"""The way to one cell's parameters: a position in a sequence, or one of the `DIRECTIONS`."""


class Place(NamedTuple):
    """One cell of a network.

    Attributes:
      cell: the cell.
      path: the way to its parameters in those of the network.
      layer: how many layers it stands above the input.
      reads: which places give its input, joined on the last axis; none for the first layer.
    """

    cell: Cell
    path: Path
    layer: int
    reads: tuple[int, ...]

    @property
    def direction(self) -> str | None:
        """ "forward" or "backward" in a layer of two directions, else None."""
        return self.path[-1] if self.path and self.path[-1] in DIRECTIONS else None  # type: ignore[return-value]


def places(network: Cell | Layer) -> tuple[Place, ...]:
    """Every cell of a network, in the order in which the input meets them, forward first.

    Anything that is no `stack`, `chain` or `bidirectional` (with joined outputs) is one cell.

    >>> import rnn_jax
    >>> network = chain(bidirectional(rnn_jax.gru()), rnn_jax.lstm())
    >>> [place.path for place in places(network)]
    [(0, 'forward'), (0, 'backward'), (1,)]

    Raises:
      TypeError: for what is neither `Cell` nor `Layer`.
      ValueError: for a layer of another make.
    """
    if not isinstance(network, Cell | Layer):
        raise TypeError(
            f"expected a Cell or Layer, got {network!r} (factories are called: lstm(), not lstm)"
        )
    found: list[Place] = []

    def visit(
        part: Cell | Layer, path: Path, layer: int, reads: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...]]:
        """Notes the cells of a part; returns the layer above it and what that layer reads."""
        parts = part.parts
        if parts and part == (stack if isinstance(part, Cell) else chain)(*parts):  # type: ignore[arg-type]
            for number, each in enumerate(parts):
                layer, reads = visit(each, (*path, number), layer, reads)
            return layer, reads
        if len(parts) == 2 and part == bidirectional(*parts):
            tops, outputs = zip(
                *(
                    visit(each, (*path, direction), layer, reads)
                    for direction, each in zip(DIRECTIONS, parts, strict=True)
                ),
                strict=True,
            )
            return max(tops), (*outputs[0], *outputs[1])
        if isinstance(part, Layer):
            raise ValueError(f"{part.name}: no library has a layer of this make")
        found.append(Place(part, path, layer, reads))
        return layer + 1, (len(found) - 1,)

    visit(network, (), 0, ())
    return tuple(found)


def nested(values: Mapping[Path, Any]) -> Any:
    """The tree of values by path, as the combinators nest parameters: tuples and dicts."""
    if () in values:
        return values[()]
    children = {
        head: nested({path[1:]: value for path, value in values.items() if path[0] == head})
        for head in dict.fromkeys(path[0] for path in values)
    }
    return children if set(children) == set(DIRECTIONS) else tuple(children.values())


def picked(network: Cell | Layer, params: Params) -> dict[Path, Mapping[str, Any]]:
    """The parameters of every cell of a network, by path.

    Raises:
      ValueError: if the parameters nest otherwise than the network.
    """
    paths = [place.path for place in places(network)]
    try:
        found = {path: functools.reduce(operator.getitem, path, params) for path in paths}
    except (KeyError, IndexError, TypeError):
        found = {}
    structure: Any = jax.tree.structure(params)
    fits = found and all(isinstance(part, Mapping) for part in found.values())
    if not (fits and structure == jax.tree.structure(nested(found))):
        raise ValueError(
            f"{network.name}: params with the structure {structure} are those of another network"
        )
    return found


def check_layers(library: str, network: Cell | Layer) -> None:
    """Refuses a network whose directions are deeper than one layer.

    Raises:
      ValueError: in a library that joins the directions after every layer; names it.
    """
    if any(set(place.path[:-1]) & set(DIRECTIONS) for place in places(network)):
        raise ValueError(
            f"{library}: joins two directions after every layer, unlike {network.name}; use a "
            "chain of bidirectional cells"
        )
