"""PyTorch: ``torch.nn.RNN``, ``LSTM`` and ``GRU``, of any depth, in one or two directions.

PyTorch's matrices act from the left, so ours are their transposes; its gates have our order. It
has two biases of every gate, which it adds, where this library has one. They stay apart where
that matters: the reset gate of the GRU multiplies the candidate's second bias, b_hn.

Lossy is the way from PyTorch: of two biases the sum remains, rounded once. The way there and back
changes no bit: what has one bias here goes to ``bias_ih``, and ``bias_hh`` is zero, but for b_hn.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_jax.base import Cell, Layer, Params, Shapes
from rnn_jax.interop.formats import (
    Arrays,
    Format,
    Library,
    Naming,
    check_container,
    export_weights,
    import_weights,
    named_array,
    neutral,
    one_bias,
    plain_name,
    two_biases,
)
from rnn_jax.interop.networks import Place, check_layers, places
from rnn_jax.reading import readable


def _format(gates: int, *, reset_after: bool = False, projection: int | None = None) -> Format:
    def shapes(d: int, h: int) -> Shapes:
        own = {
            "weight_ih": (gates * h, d),
            "weight_hh": (gates * h, projection or h),
            "bias_ih": (gates * h,),
            "bias_hh": (gates * h,),
        }
        return own | ({"weight_hr": (projection, h)} if projection else {})

    def read(weights: Arrays) -> Arrays:
        first, second = weights["bias_ih"], weights["bias_hh"]
        params = {"kernel": weights["weight_ih"].T, "recurrent_kernel": weights["weight_hh"].T}
        if projection:
            params["projection_kernel"] = weights["weight_hr"].T
        if reset_after:
            bias, recurrent_bias = one_bias(first, second)
            return params | {"bias": bias, "recurrent_bias": recurrent_bias}
        return params | {"bias": first + second}

    def write(params: Arrays) -> Arrays:
        first, second = params["bias"], neutral(params["bias"])
        if reset_after:
            first, second = two_biases(params["bias"], params["recurrent_bias"])
        weights = {
            "weight_ih": params["kernel"].T,
            "weight_hh": params["recurrent_kernel"].T,
            "bias_ih": first,
            "bias_hh": second,
        }
        return weights | ({"weight_hr": params["projection_kernel"].T} if projection else {})

    return Format(shapes, read, write)


LIBRARY = Library(
    "torch.nn",
    {
        "elman": _format(1),
        "elman_relu": _format(1),
        "lstm": _format(4),
        "gru": _format(3, reset_after=True),
    },
    {
        "elman_sigmoid": "RNN is tanh or ReLU",
        "elman_identity": "RNN is tanh or ReLU",
        "gru_before": "GRU resets after the recurrent product",
    },
    projected=lambda size: _format(4, projection=size),
)


def params_from(network: Cell | Layer, weights: Mapping[str, Any], prefix: str = "") -> Params:
    """The parameters of a network from the ``state_dict`` of a PyTorch module.

    Args:
      network: a cell for one layer, ``stack(c, c)`` or ``chain(c, c)`` for ``num_layers=2``,
        ``chain(bidirectional(c), bidirectional(c))`` for ``bidirectional=True``; an LSTM with
        ``proj_size=P`` is ``lstm(projection=P)``.
      weights: tensors or NumPy arrays by name, ``weight_ih_l0`` and so on. A module with
        ``bias=False`` has no biases: add zeros.
      prefix: of the module's entries, with the dot; all others are then ignored.

    Raises:
      ValueError: if PyTorch has no such network, for a prefix without its dot, or for an entry that
        is missing, is none of the network's, has another shape or dtype, or holds NaN or infinity;
        names it.
      TypeError: for weights in another container, as the module itself.

    >>> import jax, rnn_jax, numpy as np
    >>> cell = rnn_jax.gru()
    >>> weights = weights_from(cell, cell.init(jax.random.key(0), 3, 4))
    >>> {name: array.shape for name, array in weights.items()}["weight_ih_l0"]
    (12, 3)
    >>> sorted(params_from(cell, weights))
    ['bias', 'kernel', 'recurrent_bias', 'recurrent_kernel']
    """
    _check(network)
    check_container(LIBRARY.name, weights, Mapping, "dict that module.state_dict() gives")
    dotted = f"{prefix.removesuffix('.')}."
    if prefix not in ("", dotted) and any(str(name).startswith(dotted) for name in weights):
        raise ValueError(f"{LIBRARY.name}: prefix must be {dotted!r}, with the dot, got {prefix!r}")
    entries = {name: value for name, value in weights.items() if str(name).startswith(prefix)}
    return import_weights(LIBRARY, network, entries, _naming(prefix), one_size=True)


def weights_from(network: Cell | Layer, params: Params, prefix: str = "") -> dict[str, np.ndarray]:
    """The ``state_dict`` of a PyTorch module from the parameters of a network, as NumPy arrays.

    Load it with ``module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})``,
    or keep it with `rnn_jax.interop.save` for ``safetensors.torch.load_file``. `params_from`
    gives the same parameters back, to the bit.

    Raises:
      ValueError: if PyTorch has no such network, or the parameters are those of another.
    """
    _check(network)
    return export_weights(LIBRARY, network, params, _naming(prefix), one_size=True)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors by name in a file of ``torch.save(module.state_dict(), path)``.

    It is read with ``weights_only=True``, so nothing in it is executed. This alone needs PyTorch.

    Raises:
      ValueError: for a file that cannot be opened, is damaged, or holds anything else; names it.
    """
    import torch

    path = readable(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}, expected a readable file") from error
    except Exception:  # whatever the bytes lead PyTorch to, which then advises to execute them
        raise ValueError(
            f"{path}: damaged, or no file of tensors alone: pickled Python objects are never "
            "loaded; save module.state_dict(), or a safetensors file"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path}: {name!r} is a {type(value).__name__}, expected a tensor; is the state "
                "dict a part of what was saved?"
            )
    return {name: named_array(str(path), name, value).copy() for name, value in content.items()}


def _naming(prefix: str) -> Naming:
    def name(place: Place, entry: str) -> str:
        reverse = "_reverse" if place.direction == "backward" else ""
        return f"{prefix}{entry}_l{place.layer}{reverse}"

    return name


def _check(network: Cell | Layer) -> None:
    check_layers(LIBRARY.name, network)
    cells = places(network)
    if len({(plain_name(place.cell), place.direction is None) for place in cells}) > 1:
        raise ValueError(
            f"{LIBRARY.name}: all layers of a module have the same cell and the same number of "
            f"directions, unlike {network.name}; convert the layers one by one"
        )
