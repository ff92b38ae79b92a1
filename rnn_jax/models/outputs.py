"""What ends a network: the function that makes answers of its outputs, and its loss."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class OutputFunction(NamedTuple):
    """The loss is the negative log-likelihood of which ``answer`` is the mean, up to a constant.

    So its gradient by the outputs is answer - target for each of the three.

    Attributes:
      answer: outputs (..., O) -> probabilities or values (..., O).
      loss: (outputs, target) -> nats, or half the squared error in squared units.
    """

    answer: Callable[[jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]


OUTPUTS: Mapping[str, OutputFunction] = {
    "sigmoid": OutputFunction(
        jax.nn.sigmoid,
        lambda outputs, target: optax.sigmoid_binary_cross_entropy(
            outputs[..., 0], target.astype(outputs.dtype)
        ),
    ),
    "softmax": OutputFunction(jax.nn.softmax, optax.softmax_cross_entropy_with_integer_labels),
    "identity": OutputFunction(
        lambda outputs: outputs,
        lambda outputs, target: jnp.sum(optax.l2_loss(outputs, target), axis=-1),
    ),
}
"""By name: "sigmoid" for two classes (O = 1, target 0 or 1), "softmax" for many (the target is a
class), "identity" for regression (the target is (..., O))."""
