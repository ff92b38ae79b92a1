"""flax.linen: ``SimpleCell``, ``LSTMCell``, ``OptimizedLSTMCell``, ``GRUCell``, under any ``RNN``.

linen has one matrix for each gate and side, named ``ii``, ``hf`` and so on: i or h for what it
multiplies, then the gate. The LSTM's biases are on the recurrent side, those of the others on the
input's; the GRU has b_hn beside them, so it is exactly our ``gru("after")``.

Nothing is lossy: both ways change no bit. The activation of a ``SimpleCell`` is no weight. The
weights of one with ``residual=True`` are those of `elman`'s ``residual``, but not exchanged here.
"""

from collections.abc import Mapping
from typing import Any

from rnn_jax.base import Cell, Layer, Params, Shapes
from rnn_jax.interop.formats import (
    ELMAN,
    Arrays,
    Format,
    Library,
    Naming,
    check_container,
    export_weights,
    flat,
    import_weights,
    joined,
    separated,
    unflat,
)
from rnn_jax.interop.networks import Place, check_layers


def _elman() -> Format:
    def shapes(d: int, h: int) -> Shapes:
        return {"i/kernel": (d, h), "i/bias": (h,), "h/kernel": (h, h)}

    ours = {"kernel": "i/kernel", "recurrent_kernel": "h/kernel", "bias": "i/bias"}
    return Format(
        shapes,
        lambda weights: {name: weights[entry] for name, entry in ours.items()},
        lambda params: {entry: params[name] for name, entry in ours.items()},
    )


def lstm_format(inputs: str = "ii if ig io", hidden: str = "hi hf hg ho") -> Format:
    """The LSTM with a matrix for each gate and side, by their names."""

    def shapes(d: int, h: int) -> Shapes:
        return {
            **{f"{name}/kernel": (d, h) for name in inputs.split()},
            **{f"{name}/kernel": (h, h) for name in hidden.split()},
            **{f"{name}/bias": (h,) for name in hidden.split()},
        }

    def read(weights: Arrays) -> Arrays:
        return {
            "kernel": joined(weights, inputs, "kernel"),
            "recurrent_kernel": joined(weights, hidden, "kernel"),
            "bias": joined(weights, hidden, "bias"),
        }

    def write(params: Arrays) -> Arrays:
        return {
            **separated(params["kernel"], inputs, "kernel"),
            **separated(params["recurrent_kernel"], hidden, "kernel"),
            **separated(params["bias"], hidden, "bias"),
        }

    return Format(shapes, read, write)


def _gru() -> Format:
    inputs, hidden = "ir iz in", "hr hz hn"

    def shapes(d: int, h: int) -> Shapes:
        return {
            **{f"{name}/kernel": (d, h) for name in inputs.split()},
            **{f"{name}/bias": (h,) for name in inputs.split()},
            **{f"{name}/kernel": (h, h) for name in hidden.split()},
            "hn/bias": (h,),
        }

    def read(weights: Arrays) -> Arrays:
        return {
            "kernel": joined(weights, inputs, "kernel"),
            "recurrent_kernel": joined(weights, hidden, "kernel"),
            "bias": joined(weights, inputs, "bias"),
            "recurrent_bias": weights["hn/bias"],
        }

    def write(params: Arrays) -> Arrays:
        return {
            **separated(params["kernel"], inputs, "kernel"),
            **separated(params["recurrent_kernel"], hidden, "kernel"),
            **separated(params["bias"], inputs, "bias"),
            "hn/bias": params["recurrent_bias"],
        }

    return Format(shapes, read, write)


def naming(layers: str) -> Naming:
    """The names in a Flax model, where ``layers`` stands before the number of a layer."""

    def name(place: Place, entry: str) -> str:
        layer = f"{layers}{place.layer}/" if any(isinstance(key, int) for key in place.path) else ""
        direction = f"{place.direction}_rnn/" if place.direction else ""
        return f"{layer}{direction}{'cell/' if layer or direction else ''}{entry}"

    return name


_NAMING = naming("layers_")
LIBRARY = Library(
    "flax.linen",
    {**dict.fromkeys(ELMAN, _elman()), "lstm": lstm_format(), "gru": _gru()},
    {"gru_before": "GRUCell resets after the recurrent product"},
)


def params_from(network: Cell | Layer, weights: Mapping[str, Any]) -> Params:
    """The parameters of a network from the ``variables["params"]`` of a linen module.

    Args:
      network: a cell for a linen cell (of an ``RNN``, give ``weights["cell"]``); ``bidirectional``
        for ``Bidirectional(RNN(cell), RNN(cell))``, whose cells stand under ``forward_rnn`` and
        ``backward_rnn``; ``stack`` or ``chain`` for ``Sequential([RNN(cell), ...])``, with
        ``layers_0`` and so on.
      weights: nested dicts of arrays. linen names the parts of a module of your own by your
        attributes: pick them from its dicts.

    Raises:
      ValueError: if linen has no such network, or for an entry that is missing, is none of the
        network's, has another shape or dtype, or holds NaN or infinity; names it.
      TypeError: for weights in another container, as the module itself.

    >>> import jax, rnn_jax
    >>> from rnn_jax.combinators import bidirectional
    >>> layer = bidirectional(rnn_jax.gru())
    >>> weights = weights_from(layer, layer.init(jax.random.key(0), 3, 4))
    >>> weights["backward_rnn"]["cell"]["hn"]["bias"].shape
    (4,)
    >>> sorted(params_from(layer, weights))
    ['backward', 'forward']
    """
    check_layers(LIBRARY.name, network)
    check_container(LIBRARY.name, weights, Mapping, 'dict variables["params"]')
    return import_weights(LIBRARY, network, flat(weights), _NAMING)


def weights_from(network: Cell | Layer, params: Params) -> dict[str, Any]:
    """The ``params`` collection of a linen module from the parameters of a network.

    Nested dicts of NumPy arrays as `params_from` takes them, which gives the same parameters
    back, to the bit: ``module.apply({"params": weights}, ...)``.

    Raises:
      ValueError: if linen has no such network, or the parameters are those of another.
    """
    check_layers(LIBRARY.name, network)
    return unflat(export_weights(LIBRARY, network, params, _NAMING))
