"""Weights of other libraries, exactly: values and gradients of the imported network are theirs.

Each module has the same two functions, ``params_from(network, weights)`` and
``weights_from(network, params)``. A network is a cell, or a `stack`, `chain` or `bidirectional` of
cells; weights are plain dicts or lists of arrays as the library keeps them, so that no library has
to be installed. What a library cannot express is refused with the reason, and so is every entry
that is missing, unexpected, of another shape or dtype, or not finite. Where a way is lossy, the
module says so.

==============  ===========================================================================
`torch`         ``state_dict`` of ``RNN``, ``LSTM``, ``GRU``; `torch.read` reads its file
`keras`         ``get_weights()`` of layers and models
`flax_linen`    ``variables["params"]`` of cells, ``RNN``, ``Bidirectional``, ``Sequential``
`flax_nnx`      the pure dict of the same
`haiku`         parameters of ``VanillaRNN``, ``LSTM``, ``GRU``, ``DeepRNN``
`equinox`       arrays of ``LSTMCell`` and ``GRUCell``
==============  ===========================================================================

`LinenCell` and `NNXCell` put any cell of this library into a Flax model; `from_linen` and
`from_nnx` bring a cell of Flax, or of your own in Flax, under these instruments.

`save` and `load` keep the parameters of anything in this library in safetensors files.

>>> import jax, rnn_jax
>>> from rnn_jax import interop
>>> cell = rnn_jax.lstm()
>>> params = cell.init(jax.random.key(0), 3, 4)
>>> interop.torch.weights_from(cell, params)["weight_hh_l0"].shape
(16, 4)
"""

from rnn_jax.interop import equinox_weights as equinox
from rnn_jax.interop import haiku_weights as haiku
from rnn_jax.interop import keras_weights as keras
from rnn_jax.interop import linen_weights as flax_linen
from rnn_jax.interop import nnx_weights as flax_nnx
from rnn_jax.interop import torch_weights as torch
from rnn_jax.interop.files import load, load_metadata, save
from rnn_jax.interop.linen_adapter import LinenCell, from_linen
from rnn_jax.interop.nnx_adapter import NNXCell, from_nnx

__all__ = [
    "LinenCell",
    "NNXCell",
    "equinox",
    "flax_linen",
    "flax_nnx",
    "from_linen",
    "from_nnx",
    "haiku",
    "keras",
    "load",
    "load_metadata",
    "save",
    "torch",
]
