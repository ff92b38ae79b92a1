"""Initialisation between vanishing and exploding gradients."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rnn_jax.arguments import shown
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
      JANET  f + sigma(beta - b_f) mu     g = (1 - f) / sigma(beta - b_f)

    Each is in the file of its cell; your own cell has one by ``gated_cell(critical_gain=...)``.
    The largest is 1 in the limit of large H, for a Gaussian matrix by the circular law, and at any
    H with the ensemble `identity`; for vanilla networks also with `orthogonal` and
    `spectral_radius`. In a gated cell an orthogonal matrix comes close to 1 and never above.

    Args:
      input_variance: v, for vanilla networks alone.
      forget_bias: of the gate that keeps the state.
      ensemble: the scheme of this gain and forget bias, `gaussian` or another.

    Raises:
      ValueError: for a number that is not finite or a negative ``input_variance``; (by ``init``)
        for a cell without a critical gain, or an input variance in a gated cell.
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
    if not callable(ensemble):
        raise TypeError(f"critical: ensemble must be a function, got {shown(ensemble)}")
    plain = ensemble(1.0, forget_bias)

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        assert layout.critical_gain is not None  # by the check below
        number = input_variance if _is_vanilla(layout) else forget_bias
        gain = layout.critical_gain(jnp.asarray(number, float))
        return ensemble(gain, forget_bias).recurrent_kernel(key, layout)

    def check(layout: Layout) -> None:
        if layout.critical_gain is None:
            raise ValueError(
                f"the scheme critical makes no sense for the cell {layout.cell}, which was made "
                "without a critical_gain"
            )
        if not _is_vanilla(layout) and given(input_variance):
            raise ValueError(
                f"the scheme critical knows the gain of the cell {layout.cell} without input only, "
                f"got input_variance={input_variance!r}"
            )
        check_forget_bias("critical", forget_bias, layout)
        plain.check(layout)

    return dataclasses.replace(plain, name="critical", recurrent_kernel=recurrent, check=check)


def _is_vanilla(layout: Layout) -> bool:
    return layout.keep is None and len(layout.gates) == 1
