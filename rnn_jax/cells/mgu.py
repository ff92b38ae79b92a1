"""The minimal gated unit of Zhou et al. (2016), arXiv:1603.09420."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from rnn_jax import schemes
from rnn_jax.arguments import check_choice
from rnn_jax.base import Cell, HiddenState, Params
from rnn_jax.gated import gated_cell

GATES = ("forget", "candidate")


def mgu(reset_gate: bool = True, form: Literal["linen", "paper"] = "linen") -> Cell:
    """A minimal gated unit: a GRU whose one gate f both resets and updates.

    f = sigmoid(x_t W_f + h_{t-1} U_f + b_f)

    form="linen": f near 1 keeps the state, and acts after the recurrent product
      n = tanh(x_t W_n + b_n + f * (h_{t-1} U_n + b_hn)),    h_t = (1 - f) * n + f * h_{t-1}
    form="paper": f near 1 overwrites the state, and acts before the recurrent product
      n = tanh(x_t W_n + b_n + (f * h_{t-1}) U_n),           h_t = f * n + (1 - f) * h_{t-1}
    y_t = h_t. Without the reset gate, in both forms, n = tanh(x_t W_n + b_n + h_{t-1} U_n).

    Parameters: ``kernel`` (D, 2 * H), ``recurrent_kernel`` (H, 2 * H), ``bias`` (2 * H,), in the
    order f, n, and ``recurrent_bias`` b_hn (H,) in the linen form with the reset gate.
    State: ``HiddenState(hidden)``, (H,).

    The public forms disagree. "linen" is ``flax.linen.MGUCell``, whose gate has the sense of the
    GRU's z. "paper" is that of the article (equations 7 to 9) and of memax. Without the reset
    gate one becomes the other by f -> 1 - f, that is by changing the sign of W_f, U_f and b_f;
    with it they are different networks.

    The default scheme draws b_f = 1 in the linen form, as Flax does, and b_f = 0 in the paper's,
    where a forget bias is refused since no gate keeps the state by saturating at 1.

    Args:
      reset_gate: whether f acts inside the candidate.
      form: "linen" or "paper".

    Raises:
      ValueError: for another ``form`` or a ``reset_gate`` that is no bool.

    >>> import jax
    >>> sorted(mgu().init(jax.random.key(0), 3, 4))
    ['bias', 'kernel', 'recurrent_bias', 'recurrent_kernel']
    >>> mgu(form="paper")
    <Cell mgu_paper>
    """
    if not isinstance(reset_gate, bool):
        raise ValueError(f"mgu: reset_gate must be True or False, got {reset_gate!r}")
    check_choice("mgu: form", form, ("linen", "paper"))
    return _mgu(reset_gate, form)


@functools.cache
def _mgu(reset_gate: bool, form: str) -> Cell:
    linen = form == "linen"
    reset_after, reset_before = reset_gate and linen, reset_gate and not linen
    name = "mgu" + ("" if linen else "_paper") + ("" if reset_gate else "_no_reset")

    def gates(params: Params, state: HiddenState, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
        a_f, a_n = jnp.split(drive, 2, axis=-1)
        if reset_before:
            u_f, u_n = jnp.split(params["recurrent_kernel"], 2, axis=-1)
            f = jax.lax.logistic(a_f + state.hidden @ u_f)
            return f, jnp.tanh(a_n + (f * state.hidden) @ u_n)
        r_f, r_n = jnp.split(state.hidden @ params["recurrent_kernel"], 2, axis=-1)
        f = jax.lax.logistic(a_f + r_f)
        return f, jnp.tanh(a_n + (f * (r_n + params["recurrent_bias"]) if reset_after else r_n))

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        h = state.hidden
        f, n = gates(params, state, drive)
        u_f, u_n = jnp.split(params["recurrent_kernel"].T, 2)
        forget_by_hidden = (f * (1 - f))[:, None] * u_f
        if reset_after:
            product = u_n @ h + params["recurrent_bias"]
            inner = f[:, None] * u_n + product[:, None] * forget_by_hidden
        elif reset_before:
            inner = u_n * f[None, :] + u_n @ (h[:, None] * forget_by_hidden)
        else:
            inner = u_n
        kept, sign = (f, 1) if linen else (1 - f, -1)
        return (
            jnp.diag(kept)
            + sign * (h - n)[:, None] * forget_by_hidden
            + ((1 - kept) * (1 - n**2))[:, None] * inner
        )

    @gated_cell(
        GATES,
        name=name,
        keep="forget" if linen else None,
        recurrent_bias="candidate" if reset_after else None,
        scheme=schemes.orthogonal(forget_bias=1.0) if linen else None,
        jacobian=jacobian,
        critical_gain=(lambda b: 1 / jax.nn.sigmoid(b)) if reset_gate else jnp.ones_like,
    )
    def cell(params: Params, state: HiddenState, drive: jax.Array) -> HiddenState:
        f, n = gates(params, state, drive)
        kept = f if linen else 1 - f
        return HiddenState((1 - kept) * n + kept * state.hidden)

    return cell
