"""The vanilla recurrent network of Elman (1990), doi:10.1207/s15516709cog1402_1."""

import functools
import numbers
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp

from rnn_jax.arguments import unknown
from rnn_jax.base import Cell, HiddenState, Params, packed_project
from rnn_jax.schemes import CriticalGain, packed_init

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


def _tanh_critical_gain(input_variance: jax.Array) -> jax.Array:
    # The closed forms build on the cells.
    from rnn_jax.theory import critical_gain

    return critical_gain(input_variance)


_CRITICAL_GAINS: Mapping[Activation, CriticalGain] = {
    jnp.tanh: _tanh_critical_gain,
    _identity: jnp.ones_like,
}


def activation_function(activation: str | Activation, cell: str = "elman") -> Activation:
    """An activation by name, or the function itself; errors name the cell."""
    if not isinstance(activation, str):
        # Cells are memoised by it.
        if not callable(activation) or not isinstance(activation, Hashable):
            raise TypeError(
                f"{cell}: activation must be a name or a hashable function, got {activation!r}"
            )
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"{cell}: {unknown('activation', activation, ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def elman(
    activation: str | Activation = "tanh", *, residual: bool = False, leak: float = 1.0
) -> Cell:
    """A vanilla recurrent network.

    h_t = phi(x_t W + h_{t-1} U + b),    y_t = h_t
    ds_t/ds_{t-1} = diag(phi'(a_t)) U^T, with a_t the argument of phi

    residual:  h_t = phi(x_t W + h_{t-1} U + b + h_{t-1})
    leak = alpha < 1:  h_t = (1 - alpha) h_{t-1} + alpha phi(a_t)

    Parameters: ``kernel`` W (D, H), ``recurrent_kernel`` U (H, H), ``bias`` b (H,).
    State: ``HiddenState(hidden)``, (H,).

    The same equation as Flax ``SimpleCell``, PyTorch ``RNN`` (which splits b in two) and Keras
    ``SimpleRNN``; PyTorch's matrices are the transposes. ``residual`` is that of Flax
    ``SimpleCell(residual=True)``, inside the activation: the same network with U + I for U
    (Yue, Fu and Liang (2018), arXiv:1801.06105). ``leak`` is the leaking rate of Jaeger et al.
    (2007), doi:10.1016/j.neunet.2007.04.016: a step of size alpha = dt / tau of the rate network
    tau dh/dt = -h + phi(a).

    Args:
      activation: "tanh", "relu", "sigmoid", "identity", or any elementwise function.
      residual: whether the state is added to the argument of the activation.
      leak: alpha in (0, 1], the part of the state that is replaced at every step.

    Raises:
      ValueError: for an unknown name, a ``residual`` that is no bool or a ``leak`` outside (0, 1].
      TypeError: for an activation that is neither a name nor a function.

    >>> import jax
    >>> cell = elman("relu")
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> {name: value.shape for name, value in params.items()}
    {'kernel': (3, 4), 'recurrent_kernel': (4, 4), 'bias': (4,)}
    """
    if not isinstance(residual, bool):
        raise ValueError(f"elman: residual must be True or False, got {residual!r}")
    if isinstance(leak, bool) or not isinstance(leak, numbers.Real) or not 0 < leak <= 1:
        raise ValueError(f"elman: leak must be a number in (0, 1], got {leak!r}")
    return _elman(activation_function(activation), residual, float(leak))


def activation_name(activation: Activation) -> str:
    """The name of an activation, for the name of the cell that has it."""
    known = {function: label for label, function in ACTIVATIONS.items()}
    return known.get(activation, getattr(activation, "__name__", "custom"))


@functools.cache
def _elman(activation: Activation, residual: bool, leak: float) -> Cell:
    label = activation_name(activation)
    name = "elman" if label == "tanh" else f"elman_{label}"
    name += "_residual" * residual + f"_leak_{leak}" * (leak < 1)

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["bias"]))

    def preactivation(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        a = drive + state.hidden @ params["recurrent_kernel"]
        return a + state.hidden if residual else a

    def step(params: Params, state: HiddenState, drive: jax.Array) -> tuple[HiddenState, jax.Array]:
        hidden = activation(preactivation(params, state, drive))
        if leak < 1:
            hidden = (1 - leak) * state.hidden + leak * hidden
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        slope = jax.vmap(jax.grad(activation))(preactivation(params, state, drive))
        recurrent = params["recurrent_kernel"].T
        if residual:
            recurrent += jnp.eye(len(recurrent), dtype=recurrent.dtype)
        jacobian = slope[:, None] * recurrent
        if leak < 1:
            jacobian = (1 - leak) * jnp.eye(len(recurrent), dtype=recurrent.dtype) + leak * jacobian
        return jacobian

    plain = not residual and leak == 1
    return Cell(
        name,
        packed_init(
            name, ("hidden",), critical_gain=_CRITICAL_GAINS.get(activation) if plain else None
        ),
        initial_state,
        step,
        packed_project(name, 1),
        jacobian=jacobian,
    )
