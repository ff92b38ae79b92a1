"""The gated recurrent unit of Cho et al. (2014), arXiv:1406.1078."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice
from rnn_jax.base import Cell, HiddenState, Params, packed_project
from rnn_jax.schemes import packed_init

GATES = ("reset", "update", "candidate")


class GRUGates(NamedTuple):
    """The gate values of one step, each (H,): r and z in (0, 1), the candidate n in (-1, 1)."""

    reset: jax.Array
    update: jax.Array
    candidate: jax.Array


def gru_gates(params: Params, state: HiddenState, drive: jax.Array) -> GRUGates:
    """r, z, n of the step that leaves ``state``, of either form of the cell.

    The form shows in the parameters: only the one that resets after the product has b_hn.
    """
    size = state.hidden.shape[-1]
    if "recurrent_bias" in params:
        recurrent = state.hidden @ params["recurrent_kernel"]
        gates = jax.lax.logistic(drive[..., : 2 * size] + recurrent[..., : 2 * size])
        r, z = jnp.split(gates, 2, axis=-1)
        product = recurrent[..., 2 * size :] + params["recurrent_bias"]
        return GRUGates(r, z, jnp.tanh(drive[..., 2 * size :] + r * product))
    u_gates, u_n = jnp.split(params["recurrent_kernel"], [2 * size], axis=-1)
    r, z = jnp.split(jax.lax.logistic(drive[..., : 2 * size] + state.hidden @ u_gates), 2, axis=-1)
    return GRUGates(r, z, jnp.tanh(drive[..., 2 * size :] + (r * state.hidden) @ u_n))


def gru(reset: Literal["after", "before"] = "after") -> Cell:
    """A gated recurrent unit.

    r, z = sigmoid(x_t W + h_{t-1} U + b)
    n = tanh(x_t W_n + b_n + r * (h_{t-1} U_n + b_hn))     reset="after"
    n = tanh(x_t W_n + b_n + (r * h_{t-1}) U_n)            reset="before"
    h_t = (1 - z) * n + z * h_{t-1},    y_t = h_t

    Parameters: ``kernel`` (D, 3 * H), ``recurrent_kernel`` (H, 3 * H), ``bias`` (3 * H,), in the
    order r, z, n, and ``recurrent_bias`` b_hn (H,) if the reset comes after the product.
    State: ``HiddenState(hidden)``, (H,).

    "after" is the form of cuDNN, PyTorch, Flax and Keras (``reset_after=True``), "before" that
    of the paper and of haiku. z near 1 keeps the state, as in PyTorch, Flax and Keras (which
    packs z, r, h); in the paper's text and in haiku z near 1 overwrites it.

    Args:
      reset: where the reset gate acts, "after" or "before" the recurrent product.

    Raises:
      ValueError: for another ``reset``.

    >>> import jax
    >>> sorted(gru().init(jax.random.key(0), 3, 4))
    ['bias', 'kernel', 'recurrent_bias', 'recurrent_kernel']
    """
    check_choice("gru: reset", reset, ("after", "before"))
    return _gru(reset)


@functools.cache
def _gru(reset: str) -> Cell:
    name = "gru" if reset == "after" else "gru_before"

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["recurrent_kernel"][:, 0]))

    def step(params: Params, state: HiddenState, drive: jax.Array) -> tuple[HiddenState, jax.Array]:
        _, z, n = gru_gates(params, state, drive)
        hidden = (1 - z) * n + z * state.hidden
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        h = state.hidden
        r, z, n = gru_gates(params, state, drive)
        u_r, u_z, u_n = jnp.split(params["recurrent_kernel"].T, 3)
        if reset == "after":
            product = u_n @ h + params["recurrent_bias"]
            inner = r[:, None] * u_n + (product * r * (1 - r))[:, None] * u_r
        else:
            inner = u_n * r[None, :] + u_n @ ((h * r * (1 - r))[:, None] * u_r)
        candidate_by_hidden = ((1 - z) * (1 - n**2))[:, None] * inner
        update_by_hidden = ((h - n) * z * (1 - z))[:, None] * u_z
        return jnp.diag(z) + update_by_hidden + candidate_by_hidden

    inner = "candidate" if reset == "after" else None
    return Cell(
        name,
        packed_init(
            name,
            GATES,
            keep="update",
            recurrent_bias=inner,
            critical_gain=lambda b: jnp.full_like(b, 2),
        ),
        initial_state,
        step,
        packed_project(name, 3, recurrent_bias=reset == "after"),
        jacobian=jacobian,
    )
