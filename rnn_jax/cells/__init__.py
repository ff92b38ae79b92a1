"""The cells, one file each, and the registry that every test, instrument and experiment reads."""

import importlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rnn_jax.arguments import shown, unknown
from rnn_jax.base import Cell
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
    "told",
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
"""Every cell's factory by name; assign to add your own, ``CELLS["mine"] = my_cell``."""


def lookup(name: str, options: Mapping[str, Any] | None = None) -> Cell:
    """The registered cell of a name, made with the options of its factory.

    A name like ``"my_cells:leaky"`` is the object ``leaky`` of the importable module ``my_cells``,
    a cell or a factory: so an experiment runs on a cell of your own file by its name alone.

    Raises:
      ValueError: for an unknown name, module or option; suggests the nearest. For whatever a module
        of your own raises, with file and line.
      TypeError: for what is no name.

    >>> lookup("gru", {"reset": "before"})
    <Cell gru_before>
    """
    if not isinstance(name, str):
        raise TypeError(f"cell must be a name, got {shown(name)}")
    found = _imported(name) if ":" in name else CELLS.get(name)
    if found is None:
        raise ValueError(unknown("cell", name, sorted(CELLS)))
    if isinstance(found, Cell):
        if options:
            raise ValueError(f"cell {name!r} takes no options, got {dict(options)}")
        return found
    try:
        cell = found(**(options or {}))
    except Exception as error:
        if not (isinstance(error, TypeError) or ":" in name):
            raise
        raise ValueError(
            f"cell {name!r} cannot be made with options {dict(options or {})}: {told(name, error)}"
        ) from error
    if not isinstance(cell, Cell):
        raise ValueError(f"{name!r} makes no cell but {cell!r}")
    return cell


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(
            f"unknown cell {path!r}: {module!r} is no name of a module, as in my_cells:leaky of"
            " my_cells.py in the folder where Python is started"
        )
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"unknown cell {path!r}: {error}") from error
    except Exception as error:
        raise ValueError(f"cell {path!r} cannot be imported: {told(path, error)}") from error
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        raise ValueError(f"unknown cell {path!r}: {error}") from error


def told(name: str, error: Exception) -> str:
    """An error in one line; of a cell "module:cell" with the place in its file that led there."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    message = f"{type(error).__name__}: {error}"
    module, colon, _ = name.partition(":")
    cause: BaseException | None = error if colon else None
    while cause is not None:
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            file = Path(frame.filename).with_suffix("")
            parts = file.parent.parts if file.name == "__init__" else file.parts
            if parts[-len(module.split(".")) :] == tuple(module.split(".")):
                return f"{frame.filename}, line {frame.lineno}: {message}"
        cause = cause.__cause__
    return str(error) if isinstance(error, TypeError | ValueError) else message
