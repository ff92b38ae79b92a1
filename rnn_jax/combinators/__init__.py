"""Cells made from cells, and layers made from cells and layers.

A combinator takes cells and returns one, so combinators nest:

>>> import jax, rnn_jax
>>> from rnn_jax.combinators import bidirectional, chain, residual, stack
>>> deep = stack(rnn_jax.lstm(), residual(rnn_jax.gru()))
>>> network = chain(bidirectional(rnn_jax.lstm()), deep)
>>> params = network.init(jax.random.key(0), 3, 4)
>>> rnn_jax.unroll(network, params, jax.numpy.ones((5, 3)))[1].outputs.shape
(5, 4)
"""

from rnn_jax.combinators.sequence import (
    BidirectionalState,
    ChainState,
    StackState,
    bidirectional,
    chain,
    stack,
)
from rnn_jax.combinators.wrap import (
    batched,
    residual,
    skip,
    with_layer_norm,
    with_learned_state,
)
from rnn_jax.stochastic import Keyed, keyed, with_dropout, with_zoneout

__all__ = [
    "BidirectionalState",
    "ChainState",
    "Keyed",
    "StackState",
    "batched",
    "bidirectional",
    "chain",
    "keyed",
    "residual",
    "skip",
    "stack",
    "with_dropout",
    "with_layer_norm",
    "with_learned_state",
    "with_zoneout",
]
