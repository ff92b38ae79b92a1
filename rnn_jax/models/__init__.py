"""Networks over any cell or layer, as Flax linen modules: the five topologies, and decoding.

>>> import jax, jax.numpy as jnp, rnn_jax
>>> from rnn_jax.models import ManyToOne, Reader
>>> model = ManyToOne(Reader(rnn_jax.lstm(), 8, tokens=50), 2)
>>> variables = model.init(jax.random.key(0), jnp.arange(5))
>>> batch = jnp.zeros((16, 5), int)
>>> jax.vmap(lambda tokens: model.apply(variables, tokens))(batch).shape
(16, 2)
"""

from rnn_jax.models.attention import Memory, attend
from rnn_jax.models.decoding import Decoded, Step, beam, greedy, sampled
from rnn_jax.models.outputs import OUTPUTS, OutputFunction
from rnn_jax.models.reader import Reader
from rnn_jax.models.topologies import (
    EncoderDecoder,
    ManyToMany,
    ManyToOne,
    OneToMany,
    OneToOne,
)

__all__ = [
    "OUTPUTS",
    "Decoded",
    "EncoderDecoder",
    "ManyToMany",
    "ManyToOne",
    "Memory",
    "OneToMany",
    "OneToOne",
    "OutputFunction",
    "Reader",
    "Step",
    "attend",
    "beam",
    "greedy",
    "sampled",
]
