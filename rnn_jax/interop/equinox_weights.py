"""equinox: ``eqx.nn.LSTMCell`` and ``GRUCell``.

equinox' matrices act from the left, so ours are their transposes; its gates have our order. The
GRU's ``bias_n`` is b_hn, so it is exactly our ``gru("after")``. It has no Elman network and no
layers of cells: convert each cell of a network by itself.

Nothing is lossy: both ways change no bit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_jax.base import Cell, Params, Shapes
from rnn_jax.interop.formats import (
    ELMAN,
    Arrays,
    Format,
    Library,
    check_container,
    export_weights,
    import_weights,
)


def _format(gates: int, *, reset_after: bool = False) -> Format:
    def shapes(d: int, h: int) -> Shapes:
        own = {"weight_ih": (gates * h, d), "weight_hh": (gates * h, h), "bias": (gates * h,)}
        return own | ({"bias_n": (h,)} if reset_after else {})

    def read(weights: Arrays) -> Arrays:
        params = {
            "kernel": weights["weight_ih"].T,
            "recurrent_kernel": weights["weight_hh"].T,
            "bias": weights["bias"],
        }
        return params | ({"recurrent_bias": weights["bias_n"]} if reset_after else {})

    def write(params: Arrays) -> Arrays:
        weights = {
            "weight_ih": params["kernel"].T,
            "weight_hh": params["recurrent_kernel"].T,
            "bias": params["bias"],
        }
        return weights | ({"bias_n": params["recurrent_bias"]} if reset_after else {})

    return Format(shapes, read, write)


LIBRARY = Library(
    "equinox",
    {"lstm": _format(4), "gru": _format(3, reset_after=True)},
    {
        **dict.fromkeys(ELMAN, "it has LSTMCell and GRUCell only"),
        "gru_before": "GRUCell resets after the recurrent product",
    },
)


def params_from(cell: Cell, weights: Mapping[str, Any]) -> Params:
    """The parameters of a cell from the arrays of an equinox cell.

    Args:
      cell: `rnn_jax.lstm` or `rnn_jax.gru`.
      weights: arrays by attribute: of a module,
        ``{name: value for name, value in vars(module).items() if eqx.is_array(value)}``. One with
        ``use_bias=False`` has no biases: add zeros.

    Raises:
      ValueError: if equinox has no such cell, or for an entry that is missing, is none of the
        cell's, has another shape or dtype, or holds NaN or infinity; names it.
      TypeError: for weights in another container, as the module itself.

    >>> import jax, rnn_jax
    >>> cell = rnn_jax.gru()
    >>> weights = weights_from(cell, cell.init(jax.random.key(0), 3, 4))
    >>> {name: array.shape for name, array in weights.items()}
    {'weight_ih': (12, 3), 'weight_hh': (12, 4), 'bias': (12,), 'bias_n': (4,)}
    >>> sorted(params_from(cell, weights))
    ['bias', 'kernel', 'recurrent_bias', 'recurrent_kernel']
    """
    _check(cell)
    check_container(LIBRARY.name, weights, Mapping, "dict of the arrays in vars(module)")
    return import_weights(LIBRARY, cell, weights, lambda place, entry: entry)


def weights_from(cell: Cell, params: Params) -> dict[str, np.ndarray]:
    """The arrays of an equinox cell by attribute, from the parameters of a cell.

    Put them into a module with
    ``eqx.tree_at(lambda m: [getattr(m, name) for name in weights], module, [*weights.values()])``.
    `params_from` gives the same parameters back, to the bit.

    Raises:
      ValueError: if equinox has no such cell, or the parameters are those of another.
    """
    _check(cell)
    return export_weights(LIBRARY, cell, params, lambda place, entry: entry)


def _check(cell: Cell) -> None:
    if getattr(cell, "parts", ()):
        raise ValueError(f"equinox has no layers such as {cell.name}: convert each cell by itself")
