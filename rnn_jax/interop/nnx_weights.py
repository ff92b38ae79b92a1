"""flax.nnx: ``SimpleCell``, ``LSTMCell``, ``OptimizedLSTMCell``, ``GRUCell``, under any ``RNN``.

Kernels are ours, in our order of gates; ``LSTMCell`` has one for each gate and side, as linen's.
The LSTM's bias is on the recurrent side, that of the others on the input's.

nnx' GRU lacks the bias b_hn that every other library's reset-after GRU has: from nnx it is zero,
and a GRU in which it is not cannot go there. But for the sign of such a zero nothing is lossy:
both ways change no bit. The activation of a ``SimpleCell`` is no weight; those of
one with ``residual=True`` are not exchanged here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_jax.base import Cell, Layer, Params, Shapes
from rnn_jax.interop.formats import (
    ELMAN,
    Arrays,
    Format,
    Library,
    check_container,
    export_weights,
    flat,
    import_weights,
    unflat,
)
from rnn_jax.interop.linen_weights import lstm_format, naming
from rnn_jax.interop.networks import check_layers

_NAMING = naming("layers/")


def _format(gates: int, *, bias_on: str, reset_after: bool = False) -> Format:
    def shapes(d: int, h: int) -> Shapes:
        return {
            "dense_i/kernel": (d, gates * h),
            "dense_h/kernel": (h, gates * h),
            f"{bias_on}/bias": (gates * h,),
        }

    def read(weights: Arrays) -> Arrays:
        params = {
            "kernel": weights["dense_i/kernel"],
            "recurrent_kernel": weights["dense_h/kernel"],
            "bias": weights[f"{bias_on}/bias"],
        }
        if reset_after:
            params["recurrent_bias"] = np.zeros_like(params["recurrent_kernel"][:, 0])
        return params

    def write(params: Arrays) -> Arrays:
        if reset_after and np.any(params["recurrent_bias"] != 0):
            raise ValueError(
                "flax.nnx: its GRUCell has no b_hn, but recurrent_bias is not zero here"
            )
        return {
            "dense_i/kernel": params["kernel"],
            "dense_h/kernel": params["recurrent_kernel"],
            f"{bias_on}/bias": params["bias"],
        }

    return Format(shapes, read, write)


def _library(optimized: bool) -> Library:
    fused = _format(4, bias_on="dense_h")
    return Library(
        "flax.nnx",
        {
            **dict.fromkeys(ELMAN, _format(1, bias_on="dense_i")),
            "lstm": fused if optimized else lstm_format(inputs="ii if_ ig io"),
            "gru": _format(3, bias_on="dense_i", reset_after=True),
        },
        {"gru_before": "GRUCell resets after the recurrent product"},
    )


def params_from(
    network: Cell | Layer, weights: Mapping[Any, Any], *, optimized: bool = True
) -> Params:
    """The parameters of a network from ``nnx.to_pure_dict(nnx.state(module, nnx.Param))``.

    Args:
      network: a cell for an nnx cell (of an ``RNN``, give ``weights["cell"]``); ``bidirectional``
        for ``Bidirectional(RNN(cell), RNN(cell))``, whose cells stand under ``forward_rnn`` and
        ``backward_rnn``; ``stack`` or ``chain`` for ``Sequential(RNN(cell), ...)``, with a dict
        ``layers`` by number.
      weights: nested dicts of arrays.
      optimized: whether LSTMs are ``OptimizedLSTMCell``, with fused kernels, or ``LSTMCell``.

    Raises:
      ValueError: if nnx has no such network, or for an entry that is missing, is none of the
        network's, has another shape or dtype, or holds NaN or infinity; names it.
      TypeError: for weights in another container, as the module itself.

    >>> import jax, rnn_jax
    >>> cell = rnn_jax.lstm()
    >>> weights = weights_from(cell, cell.init(jax.random.key(0), 3, 4))
    >>> weights["dense_h"]["bias"].shape, sorted(params_from(cell, weights))
    ((16,), ['bias', 'kernel', 'recurrent_kernel'])
    """
    check_layers("flax.nnx", network)
    source = "dict nnx.to_pure_dict(nnx.state(module, nnx.Param))"
    check_container("flax.nnx", weights, Mapping, source)
    return import_weights(_library(optimized), network, flat(weights), _NAMING)


def weights_from(
    network: Cell | Layer, params: Params, *, optimized: bool = True
) -> dict[Any, Any]:
    """A pure dict for ``nnx.replace_by_pure_dict`` from the parameters of a network.

    Nested dicts of NumPy arrays as `params_from` takes them, with the same arguments; it gives
    the same parameters back.

    Raises:
      ValueError: if nnx has no such network (a GRU whose b_hn is not zero among them), or the
        parameters are those of another.
    """
    check_layers("flax.nnx", network)
    weights = unflat(export_weights(_library(optimized), network, params, _NAMING))
    if "layers" in weights:
        weights["layers"] = {int(number): layer for number, layer in weights["layers"].items()}
    return weights
