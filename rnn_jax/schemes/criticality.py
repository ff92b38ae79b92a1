"""Initialisation between vanishing and exploding gradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rnn_jax.arguments import shown
from rnn_jax.base import Cell
from rnn_jax.schemes.layout import Layout, Scheme
from rnn_jax.schemes.literature import gaussian
from rnn_jax.schemes.parts import check_forget_bias, check_numbers, given


def critical(
    input_variance: ArrayLike = 0.0,
    forget_bias: ArrayLike = 0.0,
    *,
    ensemble: Callable[[ArrayLike, ArrayLike], Scheme] = gaussian,
) -> Scheme:
    """The gain between vanishing and exploding gradients, for each cell its own.

    Vanilla networks (tanh, identity): the gain g with chi = 1, at which the mean squared gradient
    of a wide network neither decays nor grows, given the variance v of the input's part of a
    pre-activation (the variance of the inputs times the 1 of the LeCun kernel):

      q = g^2 E phi(sqrt(q) z)^2 + v,    1 = g^2 E phi'(sqrt(q) z)^2,    z standard normal

    Without input this is g = 1, where the Jacobian at the origin (zero state, zero input) has
    spectral radius 1. For gated cells it is the gain that makes it so: with every gate at its bias
    and mu an eigenvalue of the candidate's matrix, that Jacobian has the eigenvalues

      LSTM   f + i o mu                   g = (1 - f) / (i o) = 4 (1 - f); coupled (i = 1 - f) 2
      GRU    z + (1 - z) r mu             g = 1 / r = 2, whatever the update bias
      MGU    f + (1 - f) f mu             g = 1 / f; without its reset gate 1, like the UGRNN
      JANET  f + sigma(1 - b_f) mu        g = (1 - f) / sigma(1 - b_f)

    The largest is 1 in the limit of large H, for a Gaussian matrix by the circular law, and at any
    H with the ensemble `identity`; for vanilla networks also with `orthogonal` and
    `spectral_radius`. In a gated cell an orthogonal matrix comes close to 1 and never above.

    Args:
      input_variance: v, for vanilla networks alone.
      forget_bias: of the gate that keeps the state.
      ensemble: the scheme of this gain and forget bias, `gaussian` or another.

    Raises:
      ValueError: for a number that is not finite or a negative ``input_variance``; (by ``init``)
        for a cell whose critical gain is not known, or an input variance in a gated cell.
      TypeError: for an ``ensemble`` that is no function.

    References:
      Sompolinsky, Crisanti and Sommers (1988), doi:10.1103/PhysRevLett.61.259; Schoenholz et al.
      (2017), arXiv:1611.01232; Chen, Pennington and Schoenholz (2018), arXiv:1806.05394;
      Gilboa et al. (2019), arXiv:1901.08987, who tune more than one number of a gated cell.

    >>> import jax, rnn_jax
    >>> from rnn_jax import schemes
    >>> scheme = schemes.critical(forget_bias=1.0, ensemble=schemes.identity)
    >>> params = rnn_jax.lstm().init(jax.random.key(0), 1, 4, scheme=scheme)
    >>> round(float(params["recurrent_kernel"][0, 0]), 4)
    1.0758
    """
    check_numbers("critical", least=0, input_variance=input_variance)
    check_numbers("critical", forget_bias=forget_bias)

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        by_input, by_bias = _gains()
        driven = layout.init in by_input
        table, number = (by_input, input_variance) if driven else (by_bias, forget_bias)
        gain = table[layout.init].gain(jnp.asarray(number, float))
        return ensemble(gain, forget_bias).recurrent_kernel(key, layout)

    if not callable(ensemble):
        raise TypeError(f"critical: ensemble must be a function, got {shown(ensemble)}")
    plain = ensemble(1.0, forget_bias)

    def check(layout: Layout) -> None:
        by_input, by_bias = _gains()
        known = by_input | by_bias
        if layout.init not in known:
            names = ", ".join(cell.name for cell, _ in known.values())
            raise ValueError(
                f"the scheme critical does not know the critical gain of the cell {layout.cell}, "
                f"only those of this package's {names}"
            )
        if layout.init not in by_input and given(input_variance):
            raise ValueError(
                f"the scheme critical knows the gain of the cell {layout.cell} without input only, "
                f"got input_variance={input_variance!r}"
            )
        check_forget_bias("critical", forget_bias, layout)
        plain.check(layout)

    return dataclasses.replace(plain, name="critical", recurrent_kernel=recurrent, check=check)


class _Known(NamedTuple):
    cell: Cell
    gain: Callable[[jax.Array], jax.Array]


@functools.cache
def _gains() -> tuple[dict[Any, _Known], dict[Any, _Known]]:
    """The critical gains of vanilla networks, from the variance of the input's part, and of gated
    cells, from the bias of the gate that keeps the state.

    By the ``init`` of the cell: a cell of another make may have the same name.
    """
    # The package of closed forms builds on the cells, and these on this module.
    from rnn_jax.cells import elman, gru, janet, lstm, mgu, ugrnn
    from rnn_jax.theory import critical_gain, lstm_critical_gain

    one, two = jnp.ones_like, lambda bias: 2 * jnp.ones_like(bias)
    reset = lambda bias: 1 / jax.nn.sigmoid(bias)
    driven = [_Known(elman(), critical_gain), _Known(elman("identity"), one)]
    gated = [
        _Known(lstm(), lstm_critical_gain),
        _Known(lstm(peephole=True), lstm_critical_gain),
        _Known(lstm(coupled=True), two),
        _Known(lstm(peephole=True, coupled=True), two),
        _Known(gru(), two),
        _Known(gru("before"), two),
        _Known(mgu(), reset),
        _Known(mgu(form="paper"), reset),
        _Known(mgu(reset_gate=False), one),
        _Known(mgu(reset_gate=False, form="paper"), one),
        _Known(ugrnn(), one),
        _Known(janet(), lambda bias: jax.nn.sigmoid(-bias) / jax.nn.sigmoid(1 - bias)),
    ]
    by_init = lambda table: {known.cell.init: known for known in table}
    return by_init(driven), by_init(gated)
