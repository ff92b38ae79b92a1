"""rnn_jax: a functional laboratory for recurrent networks in JAX.

A recurrent cell is one pure function; scanning, masking, batching, differentiating and measuring
are done to it from outside.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rnn_jax import analysis, cells, combinators, numerics, schemes, theory
from rnn_jax.base import Cell, HiddenState, Layer, LinearCell, linear_cell
from rnn_jax.cells import CELLS, LSTMState, elman, gru, lstm
from rnn_jax.gated import gated_cell
from rnn_jax.newton import Newton
from rnn_jax.parallel import Convergence, unroll_parallel
from rnn_jax.unroll import Trajectory, length_mask, unroll, unroll_static, unroll_truncated

if TYPE_CHECKING:
    from rnn_jax import remedies

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "Cell",
    "Convergence",
    "HiddenState",
    "LSTMState",
    "Layer",
    "LinearCell",
    "Newton",
    "Trajectory",
    "analysis",
    "cells",
    "combinators",
    "elman",
    "gated_cell",
    "gru",
    "length_mask",
    "linear_cell",
    "lstm",
    "numerics",
    "remedies",
    "schemes",
    "theory",
    "unroll",
    "unroll_parallel",
    "unroll_static",
    "unroll_truncated",
]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: optax, which they need, takes a quarter as long as all of JAX.
    if name == "remedies":
        return importlib.import_module("rnn_jax.remedies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
