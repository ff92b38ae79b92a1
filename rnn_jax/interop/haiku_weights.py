"""dm-haiku: ``VanillaRNN``, ``LSTM`` and ``GRU``, also in a ``DeepRNN``.

The LSTM has one matrix for [x, h] with the gates in the order i, g, f, o, and adds 1 to the forget
gate: our forget bias is its plus 1. The GRU resets before the product, as in the paper, has the
order z, r, a, and its z near 1 overwrites the state where ours keeps it: since
1 - sigmoid(a) = sigmoid(-a), all weights and biases of z change their sign.

Lossy are the forget bias, rounded when 1 is added or subtracted (so LSTMs go both ways unchanged
where b_f - 1 is representable, as it is for 1/2 <= b_f <= 2, and elsewhere b_f comes back with an
error of at most half a unit in the last place of b_f - 1), and the two biases of a
``VanillaRNN``, of which the sum remains. All else changes no bit.
"""

from collections.abc import Mapping, Sequence
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
    flat,
    import_weights,
    neutral,
    plain_name,
    reordered,
)
from rnn_jax.interop.networks import places

MODULES = {"elman_relu": "vanilla_rnn", "lstm": "lstm", "gru_before": "gru"}
"""The names that haiku gives to the modules of our cells, and numbers from the second on."""


def _elman(double_bias: bool) -> Format:
    def shapes(d: int, h: int) -> Shapes:
        own = {"linear/w": (d, h), "linear/b": (h,), "linear_1/w": (h, h)}
        return own | ({"linear_1/b": (h,)} if double_bias else {})

    def read(weights: Arrays) -> Arrays:
        bias = weights["linear/b"]
        return {
            "kernel": weights["linear/w"],
            "recurrent_kernel": weights["linear_1/w"],
            "bias": bias + weights["linear_1/b"] if double_bias else bias,
        }

    def write(params: Arrays) -> Arrays:
        weights = {
            "linear/w": params["kernel"],
            "linear/b": params["bias"],
            "linear_1/w": params["recurrent_kernel"],
        }
        return weights | ({"linear_1/b": neutral(params["bias"])} if double_bias else {})

    return Format(shapes, read, write)


def _lstm() -> Format:
    def shapes(d: int, h: int) -> Shapes:
        return {"linear/w": (d + h, 4 * h), "linear/b": (4 * h,)}

    def read(weights: Arrays) -> Arrays:
        w, b = (reordered(weights[f"linear/{name}"], 0, 2, 1, 3) for name in "wb")
        rows = len(w) - len(b) // 4
        return {"kernel": w[:rows], "recurrent_kernel": w[rows:], "bias": b + _forget(b, 1)}

    def write(params: Arrays) -> Arrays:
        w = np.concatenate([params["kernel"], params["recurrent_kernel"]])
        b = params["bias"] + _forget(params["bias"], -1)
        return {"linear/w": reordered(w, 0, 2, 1, 3), "linear/b": reordered(b, 0, 2, 1, 3)}

    return Format(shapes, read, write)


def _forget(bias: np.ndarray, value: int) -> np.ndarray:
    """The value for the forget gate, in the order i, f, g, o, and what adds nothing elsewhere."""
    nothing, forget, *others = np.split(neutral(bias), 4)
    return np.concatenate([nothing, np.full_like(forget, value), *others])


def _gru() -> Format:
    def shapes(d: int, h: int) -> Shapes:
        return {"w_i": (d, 3 * h), "w_h": (h, 3 * h), "b": (3 * h,)}

    ours = {"kernel": "w_i", "recurrent_kernel": "w_h", "bias": "b"}

    def read(weights: Arrays) -> Arrays:
        return {
            name: reordered(_z_negated(weights[entry]), 1, 0, 2) for name, entry in ours.items()
        }

    def write(params: Arrays) -> Arrays:
        return {entry: _z_negated(reordered(params[name], 1, 0, 2)) for name, entry in ours.items()}

    return Format(shapes, read, write)


def _z_negated(array: np.ndarray) -> np.ndarray:
    """The first of three gates with the other sign."""
    z, *others = np.split(array, 3, axis=-1)
    return np.concatenate([-z, *others], axis=-1)


def _library(double_bias: bool) -> Library:
    only = "VanillaRNN is ReLU"
    return Library(
        "haiku",
        {"elman_relu": _elman(double_bias), "lstm": _lstm(), "gru_before": _gru()},
        {
            "elman": only,
            "elman_sigmoid": only,
            "elman_identity": only,
            "gru": "GRU resets before the recurrent product",
        },
    )


def params_from(
    network: Cell | Layer,
    weights: Mapping[str, Mapping[str, Any]],
    *,
    names: Sequence[str] | None = None,
    double_bias: bool = True,
) -> Params:
    """The parameters of a network from those of a haiku module.

    Bit for bit, but for the forget bias of an LSTM, which is haiku's plus 1, rounded, and for two
    biases, of which the sum remains.

    Args:
      network: a cell for one core; ``stack`` (or ``chain``) for a ``DeepRNN``.
      weights: arrays by module name and name, as ``hk.transform(...).init`` gives them.
      names: those of the modules, one for each cell, as "net/~/encoder"; entries of other modules
        are then ignored. By default the names that haiku gives: "lstm", "lstm_1", "gru" ...
      double_bias: that argument of every ``VanillaRNN``.

    Raises:
      ValueError: if haiku has no such network, for another number of names than cells, or for an
        entry that is missing, is none of the network's, has another shape or dtype, or holds NaN
        or infinity; names it.
      TypeError: for weights in another container, as the transformed function.

    >>> import jax, rnn_jax
    >>> cell = rnn_jax.lstm()
    >>> weights = weights_from(cell, cell.init(jax.random.key(0), 3, 4))
    >>> {module: sorted(arrays) for module, arrays in weights.items()}
    {'lstm/linear': ['b', 'w']}
    >>> sorted(params_from(cell, weights))
    ['bias', 'kernel', 'recurrent_kernel']
    """
    naming = _naming(network, names)
    check_container("haiku", weights, Mapping, "dict that hk.transform(...).init gives")
    entries = flat(weights)
    if names is not None:
        own = tuple(f"{name}/" for name in names)
        entries = {name: value for name, value in entries.items() if name.startswith(own)}
    return import_weights(_library(double_bias), network, entries, naming)


def weights_from(
    network: Cell | Layer,
    params: Params,
    *,
    names: Sequence[str] | None = None,
    double_bias: bool = True,
) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of a haiku module from those of a network, as NumPy arrays.

    They go to ``hk.transform(...).apply``; the arguments are those of `params_from`, which gives
    the same parameters back, to the bit but for the forget bias of an LSTM: haiku adds 1 to its
    own, so ours minus 1 goes there. Rounded once, it comes back with an error of at most half a
    unit in the last place of b_f - 1: of 1 for |b_f| < 1, 6e-8 in float32.

    Raises:
      ValueError: if haiku has no such network, or the parameters are those of another.
    """
    entries = export_weights(_library(double_bias), network, params, _naming(network, names))
    weights: dict[str, dict[str, np.ndarray]] = {}
    for full, array in entries.items():
        module, _, name = full.rpartition("/")
        weights.setdefault(module, {})[name] = array
    return weights


def _naming(network: Cell | Layer, names: Sequence[str] | None) -> Naming:
    cells = places(network)
    if any(place.direction for place in cells):
        raise ValueError(f"haiku has no bidirectional layers such as {network.name}")
    if names is None:
        known = [plain_name(place.cell) for place in cells]
        kinds = [MODULES.get(name, name) for name in known]
        before = [kinds[:number].count(kind) for number, kind in enumerate(kinds)]
        names = [
            f"{kind}_{count}" if count else kind for kind, count in zip(kinds, before, strict=True)
        ]
    if isinstance(names, str) or len(names) != len(cells):
        raise ValueError(f"names: expected one for each of the {len(cells)} cells, got {names!r}")
    return lambda place, entry: f"{names[place.layer]}/{entry}"
