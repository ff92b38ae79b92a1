"""The cells, one file each, and the registry that every test, instrument and experiment reads."""

import difflib
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

CELLS: dict[str, Callable[..., Cell]] = {
    "elman": elman,
    "lstm": lstm,
    "gru": gru,
}
"""Every cell's factory by name. Assign to add your own: ``CELLS["mine"] = my_factory``."""


def lookup(name: str, options: Mapping[str, Any] | None = None) -> Cell:
    """The registered cell of a name, made with the options of its factory.

    Raises:
      ValueError: for an unknown name or option; suggests the nearest.

    >>> lookup("gru", {"reset": "before"})
    <Cell gru_before>
    """
    if name not in CELLS:
        near = difflib.get_close_matches(name, CELLS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown cell {name!r}; known: {', '.join(sorted(CELLS))}{hint}")
    try:
        return CELLS[name](**(options or {}))
    except TypeError as error:
        raise ValueError(
            f"cell {name!r} cannot be made with options {dict(options or {})}: {error}"
        ) from error
