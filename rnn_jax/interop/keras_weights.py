"""Keras 3: ``SimpleRNN``, ``LSTM``, ``GRU``, also stacked, ``Bidirectional`` or in a model.

Keras' matrices are ours; the gates of its GRU are z, r, h, ours r, z, n. With ``reset_after=True``
(its default, our ``gru("after")``) it has two biases, which it adds but for the candidate's.

Lossy is the way from that GRU: of two biases the sum remains, rounded once. All else changes no
bit, there and back: what has one bias here goes to the first row, and the second is zero, but for
b_hn. The activation of an Elman network is no weight: Keras' "linear" is our "identity".
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rnn_jax.base import Cell, Layer, Params, Shapes
from rnn_jax.interop.formats import (
    ELMAN,
    Arrays,
    Format,
    Library,
    check_container,
    export_weights,
    import_weights,
    one_bias,
    packed,
    reordered,
    two_biases,
)
from rnn_jax.interop.networks import Path, places


def _gru(*, reset_after: bool) -> Format:
    def shapes(d: int, h: int) -> Shapes:
        own = packed(3)(d, h)
        return {**own, "bias": (2, 3 * h)} if reset_after else own

    def swapped(arrays: Arrays) -> dict[str, np.ndarray]:
        """Reset and update gate change places: both ways the same."""
        return {name: reordered(array, 1, 0, 2) for name, array in arrays.items()}

    def read(weights: Arrays) -> Arrays:
        params = swapped(weights)
        if reset_after:
            params["bias"], params["recurrent_bias"] = one_bias(*params["bias"])
        return params

    def write(params: Arrays) -> Arrays:
        weights = {name: params[name] for name in ("kernel", "recurrent_kernel", "bias")}
        if reset_after:
            weights["bias"] = np.stack(two_biases(params["bias"], params["recurrent_bias"]))
        return swapped(weights)

    return Format(shapes, read, write)


def _same(arrays: Arrays) -> Arrays:
    return {name: arrays[name] for name in ("kernel", "recurrent_kernel", "bias")}


LIBRARY = Library(
    "Keras",
    {
        **{name: Format(packed(1), _same, _same) for name in ELMAN},
        "lstm": Format(packed(4), _same, _same),
        "gru": _gru(reset_after=True),
        "gru_before": _gru(reset_after=False),
    },
    {},
)


def params_from(network: Cell | Layer, weights: Sequence[ArrayLike]) -> Params:
    """The parameters of a network from ``get_weights()`` of a Keras layer or model.

    Args:
      network: a cell for one layer; ``chain`` for layers one after the other; ``stack`` for
        ``RNN([cell, cell])``; ``bidirectional`` for ``Bidirectional`` with
        ``merge_mode="concat"``, also of a stack.
      weights: kernel, recurrent kernel and bias of each cell, in Keras' order. A layer with
        ``use_bias=False`` has no biases: insert zeros.

    Raises:
      ValueError: if Keras has no such network, for another number of weights, or for one that has
        another shape or dtype or holds NaN or infinity; names it.
      TypeError: for weights in another container, as the layer itself.

    >>> import jax, rnn_jax
    >>> cell = rnn_jax.gru()
    >>> weights = weights_from(cell, cell.init(jax.random.key(0), 3, 4))
    >>> [array.shape for array in weights]
    [(3, 12), (4, 12), (2, 12)]
    >>> sorted(params_from(cell, weights))
    ['bias', 'kernel', 'recurrent_bias', 'recurrent_kernel']
    """
    names = _names(network)
    check_container(LIBRARY.name, weights, Sequence, "list that get_weights() gives")
    if len(weights) != len(names):
        raise ValueError(
            f"{LIBRARY.name}: got {len(weights)} weights, expected {len(names)} for {network.name}:"
            f" {', '.join(names.values())}"
        )
    entries = dict(zip(names.values(), weights, strict=True))
    return import_weights(LIBRARY, network, entries, lambda place, entry: names[place.path, entry])


def weights_from(network: Cell | Layer, params: Params) -> list[np.ndarray]:
    """What ``set_weights`` of a Keras layer or model takes, from the parameters of a network.

    `params_from` gives the same parameters back, to the bit.

    Raises:
      ValueError: if Keras has no such network, or the parameters are those of another.
    """
    names = _names(network)
    entries = export_weights(
        LIBRARY, network, params, lambda place, entry: names[place.path, entry]
    )
    return [entries[name] for name in names.values()]


def _names(network: Cell | Layer) -> dict[tuple[Path, str], str]:
    """A name for each weight, by place and entry, in Keras' order."""
    keys = [
        (place.path, entry)
        for place in places(network)
        for entry in ("kernel", "recurrent_kernel", "bias")
    ]
    return {key: f"weights[{number}] ({key[1]})" for number, key in enumerate(keys)}
