"""The vanilla recurrent network of Elman (1990), doi:10.1207/s15516709cog1402_1."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rnn_jax.base import Cell, HiddenState, Params, packed_project
from rnn_jax.schemes import packed_init

Activation = Callable[[jax.Array], jax.Array]


def _identity(x: jax.Array) -> jax.Array:
    return x


ACTIVATIONS: Mapping[str, Activation] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": _identity,
}
"""The activations that have a name."""


def activation_function(activation: str | Activation) -> Activation:
    """An activation by name, or the function itself."""
    if not isinstance(activation, str):
        return activation
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"elman: unknown activation {activation!r}; known: {known}")
    return ACTIVATIONS[activation]


def elman(activation: str | Activation = "tanh") -> Cell:
    """A vanilla recurrent network.

    h_t = phi(x_t W + h_{t-1} U + b),    y_t = h_t
    ds_t/ds_{t-1} = diag(phi'(a_t)) U^T, with a_t the argument of phi

    Parameters: ``kernel`` W (D, H), ``recurrent_kernel`` U (H, H), ``bias`` b (H,).
    State: ``HiddenState(hidden)``, (H,).

    The same equation as Flax ``SimpleCell``, PyTorch ``RNN`` (which splits b in two) and Keras
    ``SimpleRNN``; PyTorch's matrices are the transposes.

    Args:
      activation: "tanh", "relu", "sigmoid", "identity", or any elementwise function.

    Raises:
      ValueError: for an unknown name.

    >>> import jax
    >>> cell = elman("relu")
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> {name: value.shape for name, value in params.items()}
    {'kernel': (3, 4), 'recurrent_kernel': (4, 4), 'bias': (4,)}
    """
    return _elman(activation_function(activation))


@functools.cache
def _elman(activation: Activation) -> Cell:
    known = {function: label for label, function in ACTIVATIONS.items()}
    label = known.get(activation, getattr(activation, "__name__", "custom"))
    name = "elman" if label == "tanh" else f"elman_{label}"

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["bias"]))

    def preactivation(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        return drive + state.hidden @ params["recurrent_kernel"]

    def step(params: Params, state: HiddenState, drive: jax.Array) -> tuple[HiddenState, jax.Array]:
        hidden = activation(preactivation(params, state, drive))
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        slope = jax.vmap(jax.grad(activation))(preactivation(params, state, drive))
        return slope[:, None] * params["recurrent_kernel"].T

    return Cell(
        name,
        packed_init(name, ("hidden",)),
        initial_state,
        step,
        packed_project(name, 1),
        jacobian=jacobian,
    )
