"""The usual packed-kernel cell from its equations alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_positive
from rnn_jax.base import (
    Cell,
    Drive,
    HiddenState,
    Params,
    ReadFn,
    State,
    packed_project,
    read_hidden,
)
from rnn_jax.schemes import CriticalGain, Draw, Scheme, drawn_shapes, packed_init

Equations = Callable[[Params, State, Drive], State]
"""The new state from the old one and the drive x_t W + b."""


def gated_cell(
    gates: int | Sequence[str],
    *,
    name: str | None = None,
    state: type[Any] = HiddenState,
    keep: str | int | None = None,
    recurrent_bias: str | int | None = None,
    extra: Mapping[str, Draw] | None = None,
    scheme: Scheme | None = None,
    read: ReadFn = read_hidden,
    jacobian: Callable[..., jax.Array] | None = None,
    critical_gain: CriticalGain | None = None,
) -> Callable[[Equations], Cell]:
    """A decorator that makes a `Cell` of its equations, ``(params, state, drive) -> state``.

    It supplies what every packed-kernel cell has: ``project``, x_t W + b of all gates at once;
    ``init`` under every scheme; a zero initial state; a ``read`` that shows the hidden vector.

    Parameters: ``kernel`` W (D, G * H), ``recurrent_kernel`` U (H, G * H), ``bias`` b (G * H,).
    State: a NamedTuple with a field ``hidden``, every field (H,).

    Args:
      gates: the names of the G gates in the order in which they are packed, or only their number.
      name: of the cell; by default that of the function.
      state: the NamedTuple of the state, a class.
      keep: the gate that keeps the state when it saturates, where a scheme puts a forget bias.
      recurrent_bias: the gate with a second bias inside the recurrence, ``recurrent_bias`` (H,).
      extra: further parameters by name, each a function that draws it from a key, which may be
        traced, and the `Layout`.
      scheme: the initialisation of the paper, when ``init`` is given none.
      read: y_t as a function of the new state, by default its hidden vector.
      jacobian: the closed form, where the paper gives one.
      critical_gain: of the recurrent kernels, from the bias of ``keep``, for `schemes.critical`.

    Raises:
      ValueError, TypeError: for no gate at all, one named twice or one that does not exist, a state
        that is no NamedTuple or has no field that ``read`` shows, an ``extra`` parameter with the
        name of another, a scheme that is none; (by the step) for equations that return anything
        but a ``state``; names the cell.

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> @rnn_jax.gated_cell(gates=("update", "candidate"), keep="update")
    ... def tiny(params, state, drive):
    ...     z, n = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 2)
    ...     z = jax.nn.sigmoid(z)
    ...     return rnn_jax.HiddenState(z * state.hidden + (1 - z) * jnp.tanh(n))
    >>> params = tiny.init(jax.random.key(0), 3, 8, scheme=rnn_jax.schemes.orthogonal(1.0, 2.0))
    >>> rnn_jax.unroll(tiny, params, jnp.ones((5, 3)))[1].outputs.shape
    (5, 8)
    """
    label = name or "gated_cell"
    if isinstance(gates, str):
        raise TypeError(f"{label}: gates must be a number or a sequence of names, got {gates!r}")
    if not isinstance(gates, Sequence):
        gates = tuple(f"gate_{i}" for i in range(check_positive(f"{label}: gates", gates)))
    gates = tuple(gates)
    if not gates:
        raise ValueError(f"{label}: a cell needs at least one gate")
    if not all(isinstance(gate, str) for gate in gates):
        raise TypeError(f"{label}: gates must have strings for names, got {gates}")
    if len(set(gates)) < len(gates):
        raise ValueError(f"{label}: gates must have different names, got {gates}")
    keep = _gate(f"{label}: keep", keep, gates)
    recurrent_bias = _gate(f"{label}: recurrent_bias", recurrent_bias, gates)
    _check_state(label, state, read)

    def make(equations: Equations) -> Cell:
        label = name or equations.__name__
        init = packed_init(
            label,
            gates,
            keep=keep,
            recurrent_bias=recurrent_bias,
            extra=extra,
            default=scheme,
            critical_gain=critical_gain,
        )
        project = packed_project(
            label,
            len(gates),
            recurrent_bias=recurrent_bias is not None,
            extra=drawn_shapes(init, extra or ()),
        )

        def initial_state(params: Params) -> State:
            zeros = jnp.zeros_like(params["recurrent_kernel"][:, 0])
            return state(*[zeros] * len(state._fields))

        def step(params: Params, old: State, drive: Drive) -> tuple[State, jax.Array]:
            new = equations(params, old, drive)
            if not isinstance(new, state):
                raise TypeError(
                    f"{label}: the equations must return the new state alone, a {state.__name__}, "
                    f"got a {type(new).__name__}"
                )
            return new, read(params, new, drive)

        return Cell(label, init, initial_state, step, project, read, jacobian)

    return make


def _gate(option: str, gate: Any, gates: tuple[str, ...]) -> str | None:
    if isinstance(gate, int) and not isinstance(gate, bool) and 0 <= gate < len(gates):
        return gates[gate]
    if gate is not None and gate not in gates:
        raise ValueError(f"{option} must be one of the gates {gates}, got {gate!r}")
    return gate


def _check_state(label: str, state: Any, read: ReadFn) -> None:
    if not (isinstance(state, type) and issubclass(state, tuple) and hasattr(state, "_fields")):
        raise TypeError(f"{label}: state must be a NamedTuple, the class, got {state!r}")
    if read is read_hidden and "hidden" not in state._fields:
        raise ValueError(
            f"{label}: state must have a field 'hidden', or give the cell a read, got "
            f"{state.__name__} with {state._fields}"
        )
