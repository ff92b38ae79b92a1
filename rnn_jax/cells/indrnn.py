"""The independently recurrent network of Li et al. (2018), arXiv:1803.04831."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from rnn_jax.base import Cell, HiddenState, Params, Shapes, affine, check_shapes
from rnn_jax.cells.elman import Activation, activation_function, activation_name
from rnn_jax.schemes import own_init


def indrnn(activation: str | Activation = "relu") -> Cell:
    """An independently recurrent network: each unit remembers itself alone.

    h_t = phi(x_t W + u * h_{t-1} + b),    y_t = h_t
    ds_t/ds_{t-1} = diag(phi'(a_t) * u), with a_t the argument of phi

    So the gradient over k steps is u**k times the slopes, unit by unit, and neither vanishes nor
    explodes where |u| = 1. Units see each other in the next layer of a `combinators.stack`.

    Parameters: ``kernel`` W (D, H), ``recurrent_weight`` u (H,), ``bias`` b (H,).
    State: ``HiddenState(hidden)``, (H,).

    Initialisation: u uniform in [0, 1), for memories of all lengths; W normal with variance 1 / D
    (LeCun), which the paper leaves open; b zero. No other scheme applies. For a layer whose last
    output alone is read the authors advise u = 1, and clip |u| to 2**(1 / T) in training: replace
    ``params["recurrent_weight"]``. No library has the cell.

    Args:
      activation: "relu", "tanh", "sigmoid", "identity", or any elementwise function.

    Raises:
      ValueError: for an unknown name; (by ``init``) for any scheme.
      TypeError: for an activation that is neither a name nor a function.

    >>> import jax
    >>> params = indrnn().init(jax.random.key(0), 3, 4)
    >>> {name: value.shape for name, value in params.items()}
    {'bias': (4,), 'kernel': (3, 4), 'recurrent_weight': (4,)}
    """
    return _indrnn(activation_function(activation, "indrnn"))


@functools.cache
def _indrnn(activation: Activation) -> Cell:
    label = activation_name(activation)
    name = "indrnn" if label == "relu" else f"indrnn_{label}"

    def draw(key: jax.Array, input_size: int, hidden_size: int, dtype: Any) -> Params:
        kernel_key, weight_key = jax.random.split(key)
        return {
            "bias": jnp.zeros(hidden_size, dtype),
            "kernel": initializers.lecun_normal()(kernel_key, (input_size, hidden_size), dtype),
            "recurrent_weight": jax.random.uniform(weight_key, (hidden_size,), dtype),
        }

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["bias"]))

    def shapes(got: Shapes) -> Shapes:
        size = got["kernel"][-1]
        return {"kernel": (got["kernel"][0], size), "recurrent_weight": (size,), "bias": (size,)}

    def project(params: Params, x: jax.Array) -> jax.Array:
        check_shapes(name, params, shapes)
        return affine(name, params["kernel"], params["bias"], x)

    def preactivation(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        return drive + params["recurrent_weight"] * state.hidden

    def step(params: Params, state: HiddenState, drive: jax.Array) -> tuple[HiddenState, jax.Array]:
        hidden = activation(preactivation(params, state, drive))
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        slope = jax.vmap(jax.grad(activation))(preactivation(params, state, drive))
        return jnp.diag(slope * params["recurrent_weight"])

    return Cell(name, own_init(name, draw), initial_state, step, project, jacobian=jacobian)
