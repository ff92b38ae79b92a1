"""The cells, one file each, and the registry that every test, instrument and experiment reads."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from rnn_jax.base import Cell
from rnn_jax.cells.elman import ACTIVATIONS, elman
from rnn_jax.cells.gru import GRUGates, gru, gru_gates
from rnn_jax.cells.lstm import LSTMGates, LSTMState, lstm, lstm_gates

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "GRUGates",
    "LSTMGates",
    "LSTMState",
    "elman",
    "gru",
    "gru_gates",
    "lookup",
    "lstm",
    "lstm_gates",
]

CELLS: dict[str, Callable[..., Cell] | Cell] = {
    "elman": elman,
    "lstm": lstm,
    "gru": gru,
}
"""Every cell's factory by name. Assign to add your own: ``CELLS["mine"] = my_cell``."""


def lookup(name: str, options: Mapping[str, Any] | None = None) -> Cell:
    """The registered cell of a name, made with the options of its factory.

    A name like ``"my_cells:leaky"`` is the object ``leaky`` of the importable module ``my_cells``,
    a cell or a factory: so an experiment runs on a cell of your own file by its name alone.

    Raises:
      ValueError: for an unknown name, module or option; suggests the nearest.

    >>> lookup("gru", {"reset": "before"})
    <Cell gru_before>
    """
    found = _imported(name) if ":" in name else CELLS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, CELLS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown cell {name!r}; known: {', '.join(sorted(CELLS))}{hint}")
    if isinstance(found, Cell):
        if options:
            raise ValueError(f"cell {name!r} takes no options, got {dict(options)}")
        return found
    try:
        cell = found(**(options or {}))
    except TypeError as error:
        raise ValueError(
            f"cell {name!r} cannot be made with options {dict(options or {})}: {error}"
        ) from error
    if not isinstance(cell, Cell):
        raise ValueError(f"{name!r} makes no cell but {cell!r}")
    return cell


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"unknown cell {path!r}: {error}") from error
