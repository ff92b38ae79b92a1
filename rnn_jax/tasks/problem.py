"""What a model is trained and judged on: data divided in three, a loss, a metric and baselines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rnn_jax.tasks.task import Example

Topology = Literal["one_to_one", "one_to_many", "many_to_one", "many_to_many", "encoder_decoder"]
"""How inputs and outputs lie in time; `rnn_jax.models` has a module for each."""


class Conditioned(NamedTuple):
    """The inputs of a decoder, which says its target symbol by symbol.

    Attributes:
      context: what it is about: a vector (D,) for one-to-many, a sequence of tokens (S,) or
        features (S, D) for an encoder-decoder; None for a sequence out of nothing.
      context_mask: (S,) booleans, False in the padding of the context; None for a vector.
      previous: (U,) tokens, the target one step late, `START` first.
    """

    context: Any
    context_mask: Any
    previous: Any


class Metric(NamedTuple):
    """What a person wants to know, in its own units.

    Over a data set it is ``finish(sum of totals / sum of weights)``: a mean over what is counted,
    which may be examples, symbols or steps.

    Attributes:
      name: with its unit, as on an axis.
      measure: (outputs, one Example) -> (total, weight).
      finish: of the mean; the square root of a squared error, for instance.
      higher_is_better: True for an accuracy.
    """

    name: str
    measure: Callable[[jax.Array, Example], tuple[jax.Array, jax.Array]]
    finish: Callable[[float], float] = lambda mean: mean
    higher_is_better: bool = False


class DrawFn(Protocol):
    """The batch (leading axis B) of update ``n``, which depends on its arguments alone."""

    def __call__(self, train: Any, key: jax.Array, n: jax.Array, batch: int) -> Example: ...


@dataclass(frozen=True)
class Problem:
    """A task with its data. Models take one example; ``vmap`` for a batch.

    Attributes:
      name: as a person writes it.
      topology: `Topology`.
      train: what ``draw`` draws from, by default an `Example` with a leading axis N.
      validation: an `Example` with a leading axis: what decides when to stop.
      test: the same, seen once at the end.
      loss: (outputs, one Example) -> (), in nats or squared units.
      metric: `Metric`.
      output_size: O, numbers for each output: logits of K classes, or values.
      tokens: how many distinct tokens the inputs have, None if they are features.
      target_tokens: the same of the target of a decoder, which equals O.
      baselines: the metric on ``test`` of what knows less, by name, computed from this data.
      initial_loss: the loss of outputs that are all zero, where it is known beforehand.
      draw: `DrawFn`; by default each epoch is a new permutation of ``train``.
      continues: (train, n, batch) -> (), whether each sequence of batch ``n`` goes on where that of
        batch n - 1 ended, so that the state is kept (truncated backpropagation through time). The
        held-out sets then go on from example to example too. None: examples are independent.
      show: (outputs, one Example) -> what a person reads, by column.
      notes: what a person should know of the data, a sentence each.
    """

    name: str
    topology: Topology
    train: Any
    validation: Example
    test: Example
    loss: Callable[[jax.Array, Example], jax.Array]
    metric: Metric
    output_size: int
    baselines: Mapping[str, float]
    tokens: int | None = None
    target_tokens: int | None = None
    initial_loss: float | None = None
    draw: DrawFn = field(default_factory=lambda: shuffled)
    continues: Callable[[Any, jax.Array, int], jax.Array] | None = None
    show: Callable[[Any, Example], Mapping[str, str]] | None = None
    notes: tuple[str, ...] = ()


def shuffled(train: Example, key: jax.Array, n: jax.Array, batch: int) -> Example:
    """Batch ``n`` of endless epochs, each a new permutation of the training set.

    A set that ``batch`` does not divide leaves the rest of each permutation out. A set smaller
    than ``batch`` is a batch of its own.

    >>> import numpy as np
    >>> train = Example(np.arange(6.0)[:, None], np.arange(6), np.ones((6, 1), bool))
    >>> epoch = [shuffled(train, jax.random.key(0), n, 2).target for n in range(3)]
    >>> sorted(jnp.concatenate(epoch).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    count = jax.tree.leaves(train)[0].shape[0]
    batch = min(batch, count)
    epoch, place = jnp.divmod(n, count // batch)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    chosen = jax.lax.dynamic_slice(order, (place * batch,), (batch,))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], train)
