"""Mean-field theory of wide gated networks whose weights are drawn afresh at every step.

**Untied.** A unit of a gated cell keeps part of its state, so over time it meets the same weights
again, and with these weights its pre-activations correlate with its state. Here they do not: the
pre-activations of all gates are independent normal variables, in every unit and at every step,

    a ~ N(b, g^2 E h^2 + v)    of each gate its own b, g and v,

as if U were drawn anew at each step. Given that, the results are exact for H to infinity, the
correlations of the gates with the state they act on included. Networks with the same U at every
step differ by up to 0.2 nats per step, even in sign (`tied_identity_plus_random`); an overlay
should be labelled "untied".

Inputs are white (independent over time), of mean zero. Gradients: E ||dL/ds_t||^2 grows by the
factor chi at every step backwards, ln(chi) / 2 nats of the norm.

Gains, input variances and biases are one number for all gates, or one per gate in the order in
which the cell packs them. Outside of finite gains and biases and finite variances of 0 or more
both results are NaN.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jax.typing import ArrayLike

from rnn_jax.theory.domain import nan_outside, proper
from rnn_jax.theory.mean_field import gaussian_mean, gaussian_nodes
from rnn_jax.theory.roots import falling_root


class GatedMeanField(NamedTuple):
    """The stationary mean square E h^2 of a hidden unit, and the factor chi of squared gradients.

    Both of the *untied* network, see `rnn_jax.theory.gated_mean_field`.
    """

    mean_square: jax.Array
    chi: jax.Array


def minimal_rnn_mean_field(
    gain: ArrayLike,
    embedding_variance: ArrayLike,
    input_variance: ArrayLike = 0.0,
    bias: ArrayLike = 0.0,
) -> GatedMeanField:
    """The untied mean field of a minimalRNN, h_t = u * h_{t-1} + (1 - u) * z_t.

    u = sigmoid(a),    a ~ N(b, g^2 Q + v),    Q = E h^2 = R E (1 - u)^2 / (1 - E u^2)
    chi = E u^2 + g^2 (Q + R) E (u (1 - u))^2

    Args:
      gain: g of the recurrent kernel of the gate.
      embedding_variance: R = E z^2, of embedded inputs of mean zero.
      input_variance: v, of the part of the gate's pre-activation that comes from z; R for a gate
        kernel V of gain 1.
      bias: b of the gate.

    References:
      Chen, Pennington and Schoenholz (2018), arXiv:1806.05394.

    >>> mean_square, chi = minimal_rnn_mean_field(1.0, 1.0, 1.0)
    >>> round(float(mean_square), 4), round(float(chi), 4)
    (0.4404, 0.3645)
    """
    squared_gain = jnp.square(jnp.asarray(gain, float))
    r, v = jnp.asarray(embedding_variance, float), jnp.asarray(input_variance, float)

    def mean(function: Callable[[jax.Array], jax.Array], q: jax.Array) -> jax.Array:
        return gaussian_mean(function, squared_gain * q + v, bias)

    def excess(q: jax.Array) -> jax.Array:
        # 1 - u^2 would cancel where the gate is nearly closed.
        enters = mean(lambda a: sigmoid(-a) ** 2, q)
        return r * enters - q * mean(lambda a: sigmoid(-a) * (1 + sigmoid(a)), q)

    q = falling_root(excess, 0.0, r)  # h is a mixture of past z
    kept = mean(lambda a: sigmoid(a) ** 2, q)
    slope = mean(lambda a: (sigmoid(a) * sigmoid(-a)) ** 2, q)
    field = GatedMeanField(q, kept + squared_gain * (q + r) * slope)
    return nan_outside(proper(r) & proper(v, squared_gain, bias), field)


def gru_mean_field(
    gain: ArrayLike,
    input_variance: ArrayLike,
    bias: ArrayLike = 0.0,
    recurrent_bias: ArrayLike = 0.0,
    reset: Literal["after", "before"] = "after",
) -> GatedMeanField:
    """The untied mean field of a GRU, h' = (1 - z) n + z h with either form of the reset.

    n = tanh(x + r m),    m = U_n h + b_hn     reset="after"
    n = tanh(x + m),      m = U_n (r * h)      reset="before"

    Q = E h^2 = (E (1 - z)^2 E n^2 + 2 E z (1 - z) (E n)^2) / (1 - E z^2)
    chi = E z^2 + g_z^2 E (h - n)^2 E (z (1 - z))^2 + E (1 - z)^2 G
    G = E (1 - n^2)^2 (g_n^2 r^2 + g_r^2 (m r (1 - r))^2)                    reset="after"
    G = g_n^2 E (1 - n^2)^2 (E r^2 + g_r^2 Q E (r (1 - r))^2)                reset="before"

    Args:
      gain, input_variance, bias: g, v and b of the gates r, z, n: a number, or shape (3,).
      recurrent_bias: b_hn, of the form that resets after the product.
      reset: "after" or "before".

    Raises:
      ValueError: for another ``reset``.

    References:
      The theory of Gilboa et al. (2019), arXiv:1901.08987, for white inputs.

    >>> mean_square, chi = gru_mean_field(1.0, 1.0)
    >>> round(float(mean_square), 4), round(float(chi), 4)
    (0.1716, 0.3644)
    """
    if reset not in ("after", "before"):
        raise ValueError(f"gru_mean_field: reset must be 'after' or 'before', got {reset!r}")
    squared_gain = jnp.square(_per_gate(gain, 3))
    v, b = _per_gate(input_variance, 3), _per_gate(bias, 3)
    b_hn = jnp.asarray(recurrent_bias, float)
    candidate = _reset_after if reset == "after" else _reset_before

    def excess(q: jax.Array) -> jax.Array:
        z = _update_gate(squared_gain[1] * q + v[1], b[1])
        n = candidate(q, squared_gain, v, b, b_hn)
        return z.opened * n.square + 2 * z.mixed * n.mean**2 - q * z.lost

    q = falling_root(excess, 0.0, 1.0)  # h is a mixture of past n
    z = _update_gate(squared_gain[1] * q + v[1], b[1])
    n = candidate(q, squared_gain, v, b, b_hn)
    distance = q + n.square - 2 * n.mean**2  # E h is E n
    chi = (1 - z.lost) + squared_gain[1] * distance * z.slope + z.opened * n.growth
    return nan_outside(proper(v, squared_gain, b, b_hn), GatedMeanField(q, chi))


def lstm_mean_field(
    gain: ArrayLike, input_variance: ArrayLike, bias: ArrayLike = 0.0
) -> GatedMeanField:
    """The untied mean field of an LSTM, c' = f c + i g and h' = o tanh(c').

    The memory is not normal. Its stationary distribution is found through its characteristic
    function psi(k) = E exp(j k c), j^2 = -1, for which c' = f c + y with y = i g says, since f, y
    and c are independent,

      psi(k) = E exp(j k y) E psi(f k),    psi(0) = 1:

    a linear equation, solved on Chebyshev nodes in k. Squared gradients by c depend on where c is.
    With p the mean square of dL/dh and m(c) that of dL/dc,

      m(c) = E f^2 (m(c') + D^2 p),    D = o (1 - tanh^2 c')
      p' = E S (m(c') + D^2 p) + g_o^2 E (tanh(c') o (1 - o))^2 p
      S = g_f^2 (c f (1 - f))^2 + g_i^2 (g i (1 - i))^2 + g_g^2 (i (1 - g^2))^2

    and chi is the largest eigenvalue. (With a constant m it would be the spectral radius of a
    matrix of four means; at a gain of 3 that is off by several per cent.)

    Args:
      gain, input_variance, bias: g, v and b of the gates i, f, g, o: a number, or shape (4,). The
        forget bias alone is ``bias=jnp.array([0, 1, 0, 0])``.

    References:
      The theory of Gilboa et al. (2019), arXiv:1901.08987, for white inputs.

    >>> mean_square, chi = lstm_mean_field(1.0, 1.0, jnp.array([0.0, 1.0, 0.0, 0.0]))
    >>> round(float(mean_square), 4), round(float(chi), 4)
    (0.0505, 0.5513)
    """
    squared_gain = jnp.square(_per_gate(gain, 4))
    v, b = _per_gate(input_variance, 4), _per_gate(bias, 4)

    def excess(p: jax.Array) -> jax.Array:
        return _memory(squared_gain, squared_gain * p + v, b).hidden_square - p

    p = falling_root(excess, 0.0, 1.0)
    memory = _memory(squared_gain, squared_gain * p + v, b)

    def surplus(chi: jax.Array) -> jax.Array:
        shifted = jnp.diag(jnp.full_like(memory.written, chi)) - memory.kept
        through = jnp.linalg.solve(shifted, memory.written)
        return chi * memory.read @ through.real + memory.by_output - chi

    # The memory alone has E f^2, and nothing more than the sum of all that there is.
    alone = memory.kept[0, 0].real
    most = alone + memory.written[0].real + memory.by_output
    field = GatedMeanField(p, falling_root(surplus, alone, most))
    return nan_outside(proper(v, squared_gain, b), field)


_NODES = 41
"""Of each gate's distribution: eight digits where variances are of order 1, five at 10^4."""


def _per_gate(value: ArrayLike, gates: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(value, float), (gates,))


class _Update(NamedTuple):
    """Of the update gate z: E (1 - z)^2, E z (1 - z), E (1 - z^2) and E (z (1 - z))^2."""

    opened: jax.Array
    mixed: jax.Array
    lost: jax.Array
    slope: jax.Array


def _update_gate(variance: jax.Array, bias: jax.Array) -> _Update:
    nodes, weights = gaussian_nodes(variance, bias)
    z, opened = sigmoid(nodes), sigmoid(-nodes)
    moments = (opened**2, z * opened, opened * (1 + z), (z * opened) ** 2)
    return _Update(*(jnp.sum(weights * moment) for moment in moments))


class _Candidate(NamedTuple):
    """Of the candidate n: E n, E n^2 and G, what passes through it to the state before."""

    mean: jax.Array
    square: jax.Array
    growth: jax.Array


def _reset_after(
    q: jax.Array, squared_gain: jax.Array, v: jax.Array, b: jax.Array, b_hn: jax.Array
) -> _Candidate:
    nodes, r_weights = gaussian_nodes(squared_gain[0] * q + v[0], b[0], _NODES)
    r, product = sigmoid(nodes), squared_gain[2] * q
    # Given r the argument a = x + r m is normal.
    mean, variance = b[2] + r * b_hn, v[2] + r**2 * product
    a, weights = gaussian_nodes(variance, mean, _NODES)
    weights = r_weights[:, None] * weights
    # Given a too, m is normal: its mean follows a, and the rest of its variance stays.
    follows = r * product / jnp.where(variance > 0, variance, 1)
    m = b_hn + follows[:, None] * (a - mean[:, None])
    m_square = m**2 + ((1 - follows * r) * product)[:, None]
    n, r, closes = jnp.tanh(a), r[:, None], sigmoid(-nodes)[:, None]
    through = squared_gain[2] * r**2 + squared_gain[0] * m_square * (r * closes) ** 2
    growth = (1 - n**2) ** 2 * through
    return _Candidate(*(jnp.sum(weights * moment) for moment in (n, n**2, growth)))


def _reset_before(
    q: jax.Array, squared_gain: jax.Array, v: jax.Array, b: jax.Array, b_hn: jax.Array
) -> _Candidate:
    del b_hn  # the other form's
    nodes, r_weights = gaussian_nodes(squared_gain[0] * q + v[0], b[0])
    r_square = jnp.sum(r_weights * sigmoid(nodes) ** 2)
    r_slope = jnp.sum(r_weights * (sigmoid(nodes) * sigmoid(-nodes)) ** 2)
    a, weights = gaussian_nodes(squared_gain[2] * r_square * q + v[2], b[2])
    n = jnp.tanh(a)
    through = squared_gain[2] * (r_square + squared_gain[0] * q * r_slope)
    moments = (n, n**2, (1 - n**2) ** 2 * through)
    return _Candidate(*(jnp.sum(weights * moment) for moment in moments))


_FREQUENCIES = 64
_HIGHEST = 20.0
"""What is read of the memory, sech^2 c and sech^4 c, has no frequencies above it: e^(-10 pi)."""

# Chebyshev nodes x from 0 to 1, the values of the polynomials at them, their inverse, and the
# weights of an integral over x.
_DEGREES = np.arange(float(_FREQUENCIES))
_X = (1 - np.cos(np.pi * _DEGREES / (_FREQUENCIES - 1))) / 2
_TO_COEFFICIENTS = np.linalg.inv(np.cos(np.outer(np.arccos(2 * _X - 1), _DEGREES)))
_EVEN = np.where(_DEGREES % 2 == 0, 1 / (1 - (_DEGREES - _DEGREES % 2) ** 2), 0)
_X_WEIGHTS = _EVEN @ _TO_COEFFICIENTS


class _Memory(NamedTuple):
    """An LSTM with gates of given variances and its memory c in the stationary state.

    Functions of c are given by their Fourier transforms with its density, at K frequencies.

    Attributes:
      hidden_square: E h^2.
      kept: (K, K), m -> E f^2 m, the mean-square tangents that stay in the memory.
      written: (K,), those that a hidden tangent of mean square 1 writes, E S.
      read: (K,), those that the hidden vector reads from the memory, E D^2 m.
      by_output: those that pass from one hidden vector to the next through the output gate.
    """

    hidden_square: jax.Array
    kept: jax.Array
    written: jax.Array
    read: jax.Array
    by_output: jax.Array


def _memory(squared_gain: jax.Array, variance: jax.Array, bias: jax.Array) -> _Memory:
    nodes, weights = gaussian_nodes(variance, bias, _NODES)
    (i, f, _, o), (i_off, f_off, _, o_off) = sigmoid(nodes), sigmoid(-nodes)
    i, i_off, g = i[:, None], i_off[:, None], jnp.tanh(nodes[2])[None, :]
    y, y_weights = i * g, weights[0][:, None] * weights[2][None, :]
    over_f = lambda values: jnp.sum(weights[1] * values)
    over_o = lambda values: jnp.sum(weights[3] * values)

    # The variance of c, which says how finely to resolve small frequencies.
    mean_y = jnp.sum(y_weights * y)
    square_y = jnp.sum(y_weights * y**2) + 2 * over_f(f) * mean_y**2 / over_f(f_off)
    scale = jnp.sqrt(jnp.maximum(square_y / over_f(f_off * (1 + f)), 1))
    top = jnp.arcsinh(_HIGHEST * scale)
    unit, unit_weights, degrees, to_coefficients = (
        jnp.asarray(table, float) for table in (_X, _X_WEIGHTS, _DEGREES, _TO_COEFFICIENTS)
    )
    k = jnp.sinh(top * unit) / scale
    k_weights = top * jnp.cosh(top * unit) / scale * unit_weights

    # The two halves of a step: c -> f c takes phi(k) to E phi(f k), y is added by a product.
    x = jnp.arcsinh(scale * k[:, None] * f[None, :]) / top
    # At the ends an arc cosine has no derivative.
    inside, end = (x > 0) & (x < 1), jnp.where(x > 0, 0.0, jnp.pi)
    angle = jnp.where(inside, jnp.arccos(jnp.where(inside, 2 * x - 1, 0)), end)
    at_fk = jnp.cos(angle[..., None] * degrees[None, None, :]) @ to_coefficients
    wave = jax.lax.complex(jnp.cos(k[:, None, None] * y[None]), jnp.sin(k[:, None, None] * y[None]))
    cast = lambda values: values.astype(wave.dtype)
    shrink = lambda values: cast(jnp.einsum("n,knl->kl", weights[1] * values, at_fk))
    add = lambda values: jnp.einsum("kab,ab->k", wave, cast(y_weights * values))

    # psi = E e^(ikc) and E c^2 e^(ikc), from c' = f c + y and its square.
    eye, added = jnp.eye(_FREQUENCIES, dtype=wave.dtype), add(jnp.ones_like(y))[:, None]
    shrunk = shrink(jnp.ones_like(f))
    psi = jnp.linalg.solve((eye - added * shrunk).at[0].set(eye[0]), eye[0])
    by_y = shrunk @ psi
    once = jnp.linalg.solve(eye - added * shrink(f), add(y) * by_y)
    across = 2 * add(y) * (shrink(f) @ once) + add(y**2) * by_y
    twice = jnp.linalg.solve(eye - added * shrink(f**2), across)

    # The integral over c of sech^2 c e^(ikc) is pi k / sinh(pi k / 2), of sech^4 c that times
    # (k^2 + 4) / 6; Parseval's formula over both signs of k divides by pi.
    positive = jnp.where(k > 0, k, 1)
    sech2 = k_weights * jnp.where(k > 0, positive / jnp.sinh(jnp.pi / 2 * positive), 2 / jnp.pi)
    tanh2 = 1 - sech2 @ psi.real
    by_y_gates = squared_gain[0] * (g * i * i_off) ** 2 + squared_gain[2] * (i * (1 - g**2)) ** 2
    by_forget = cast(squared_gain[1]) * added[:, 0] * (shrink((f * f_off) ** 2) @ twice)
    return _Memory(
        over_o(o**2) * tanh2,
        added * shrink(f**2),
        by_forget + add(by_y_gates) * by_y,
        over_o(o**2) * sech2 * (k**2 + 4) / 6,
        squared_gain[3] * over_o((o * o_off) ** 2) * tanh2,
    )
