"""The cells, one file each, and the registry that every test, instrument and experiment reads."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from rnn_jax.base import Cell, unknown
from rnn_jax.cells.antisymmetric import antisymmetric
from rnn_jax.cells.convlstm import convlstm
from rnn_jax.cells.cornn import CoRNNState, cornn
from rnn_jax.cells.elman import ACTIVATIONS, elman
from rnn_jax.cells.gru import GRUGates, gru, gru_gates
from rnn_jax.cells.indrnn import indrnn
from rnn_jax.cells.irnn import irnn
from rnn_jax.cells.janet import janet
from rnn_jax.cells.lem import LEMState, lem
from rnn_jax.cells.lightgru import lightgru
from rnn_jax.cells.lru import lru
from rnn_jax.cells.lstm import LSTMGates, LSTMState, lstm, lstm_gates
from rnn_jax.cells.mgu import mgu
from rnn_jax.cells.mingru import mingru
from rnn_jax.cells.minimal_rnn import minimal_rnn
from rnn_jax.cells.minlstm import minlstm
from rnn_jax.cells.mlstm import MLSTMState, mlstm
from rnn_jax.cells.orthogonal import cayley_rnn, exprnn, householder_rnn
from rnn_jax.cells.ran import RANState, ran
from rnn_jax.cells.rglru import rglru
from rnn_jax.cells.rhn import rhn
from rnn_jax.cells.s5 import s5
from rnn_jax.cells.slstm import SLSTMState, slstm
from rnn_jax.cells.ugrnn import ugrnn

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "CoRNNState",
    "GRUGates",
    "LEMState",
    "LSTMGates",
    "LSTMState",
    "MLSTMState",
    "RANState",
    "SLSTMState",
    "antisymmetric",
    "cayley_rnn",
    "convlstm",
    "cornn",
    "elman",
    "exprnn",
    "gru",
    "gru_gates",
    "householder_rnn",
    "indrnn",
    "irnn",
    "janet",
    "lem",
    "lightgru",
    "lookup",
    "lru",
    "lstm",
    "lstm_gates",
    "mgu",
    "mingru",
    "minimal_rnn",
    "minlstm",
    "mlstm",
    "ran",
    "rglru",
    "rhn",
    "s5",
    "slstm",
    "ugrnn",
]

CELLS: dict[str, Callable[..., Cell] | Cell] = {
    "elman": elman,
    "lstm": lstm,
    "gru": gru,
    "janet": janet,
    "lightgru": lightgru,
    "mgu": mgu,
    "minimal_rnn": minimal_rnn,
    "ran": ran,
    "rhn": rhn,
    "ugrnn": ugrnn,
    "slstm": slstm,
    "mlstm": mlstm,
    "convlstm": convlstm,
    "irnn": irnn,
    "indrnn": indrnn,
    "antisymmetric": antisymmetric,
    "cornn": cornn,
    "lem": lem,
    "exprnn": exprnn,
    "cayley_rnn": cayley_rnn,
    "householder_rnn": householder_rnn,
    "mingru": mingru,
    "minlstm": minlstm,
    "lru": lru,
    "s5": s5,
    "rglru": rglru,
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
        raise ValueError(unknown("cell", name, sorted(CELLS)))
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
