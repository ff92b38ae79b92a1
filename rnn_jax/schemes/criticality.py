"""Initialisation between vanishing and exploding gradients."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from rnn_jax.schemes.layout import Layout, Scheme
from rnn_jax.schemes.literature import gaussian
from rnn_jax.schemes.parts import check_forget_bias, given


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
      ValueError: for a negative ``input_variance``; (by ``init``) for a cell whose critical gain is
        not known, or an input variance in a gated cell.

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
    if not isinstance(input_variance, jax.core.Tracer) and not np.all(
        np.asarray(input_variance) >= 0
    ):
        raise ValueError(f"critical: input_variance must not be negative, got {input_variance!r}")

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        driven = layout.cell in _GAIN_BY_INPUT
        table, number = (_GAIN_BY_INPUT, input_variance) if driven else (_GAIN_BY_BIAS, forget_bias)
        gain = table[layout.cell](jnp.asarray(number, float))
        return ensemble(gain, forget_bias).recurrent_kernel(key, layout)

    plain = ensemble(1.0, forget_bias)

    def check(layout: Layout) -> None:
        known = (*_GAIN_BY_INPUT, *_GAIN_BY_BIAS)
        if layout.cell not in known:
            raise ValueError(
                f"the scheme critical does not know the critical gain of the cell {layout.cell}, "
                f"only those of {', '.join(known)}"
            )
        if layout.cell not in _GAIN_BY_INPUT and given(input_variance):
            raise ValueError(
                f"the scheme critical knows the gain of the cell {layout.cell} without input only, "
                f"got input_variance={input_variance!r}"
            )
        check_forget_bias("critical", forget_bias, layout)
        plain.check(layout)

    return dataclasses.replace(plain, name="critical", recurrent_kernel=recurrent, check=check)


def _tanh_gain(v: jax.Array) -> jax.Array:
    """The gain at which a tanh network has chi = 1: bisection for its stationary variance q."""
    # The package of closed forms builds on the cells, and these on this module.
    from rnn_jax.theory.mean_field import gaussian_mean

    def squared_gain(q: jax.Array) -> jax.Array:
        return 1 / gaussian_mean(lambda u: (1 - jnp.tanh(u) ** 2) ** 2, q)

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        q = (low + high) / 2
        below = squared_gain(q) * gaussian_mean(lambda u: jnp.tanh(u) ** 2, q) + v > q
        return jnp.where(below, q, low), jnp.where(below, high, q)

    # E phi^2 / E phi'^2 is at most about 1.9 sqrt(q), and so below q / 2 + 2.
    variance, _ = lax.fori_loop(0, 60, halve, (v, 2 * v + 4))
    # Without input q = 0 is a triple root, which rounding would spread.
    return jnp.where(v > 0, jnp.sqrt(squared_gain(variance)), 1.0)


_GAIN_BY_INPUT: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "elman": _tanh_gain,
    "elman_identity": jnp.ones_like,
}
"""The critical gain of a cell by its name, from the variance of the input's part."""

_GAIN_BY_BIAS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "lstm": lambda bias: 4 * jax.nn.sigmoid(-bias),
    "lstm_peephole": lambda bias: 4 * jax.nn.sigmoid(-bias),
    "lstm_coupled": lambda bias: 2 * jnp.ones_like(bias),
    "lstm_peephole_coupled": lambda bias: 2 * jnp.ones_like(bias),
    "gru": lambda bias: 2 * jnp.ones_like(bias),
    "gru_before": lambda bias: 2 * jnp.ones_like(bias),
    "mgu": lambda bias: 1 / jax.nn.sigmoid(bias),
    "mgu_paper": lambda bias: 1 / jax.nn.sigmoid(bias),
    "mgu_no_reset": jnp.ones_like,
    "mgu_paper_no_reset": jnp.ones_like,
    "ugrnn": jnp.ones_like,
    "janet": lambda bias: jax.nn.sigmoid(-bias) / jax.nn.sigmoid(1 - bias),
}
"""The critical gain of a cell by its name, from the bias of the gate that keeps the state."""
