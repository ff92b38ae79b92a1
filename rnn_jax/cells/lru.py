"""The linear recurrent unit of Orvieto et al. (2023), arXiv:2303.06349."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from rnn_jax.arguments import check_increasing, check_positive
from rnn_jax.base import LinearCell, Params
from rnn_jax.diagonal import diagonal_cell
from rnn_jax.numerics import wide_dtype
from rnn_jax.schemes import own_init


@functools.cache
def lru() -> LinearCell:
    """A linear recurrent unit: a stable complex diagonal recurrence, exponentially parametrised.

    lam = exp(-exp(nu_log) + i exp(theta_log)),    |lam| < 1
    z_t = lam * z_{t-1} + exp(gamma_log) * (x_t B),    y_t = Re(z_t C) + x_t D
    dz_t/dz_{t-k} = diag(lam^k)

    Parameters: ``nu_log``, ``theta_log``, ``gamma_log`` (N,), ``B_re``, ``B_im`` (D, N), ``C_re``,
    ``C_im`` (N, H), ``D`` (D, H). State: ``ComplexState(real, imag)``, each (N,).

    ``init`` takes, beside its usual arguments,

    - ``state_size``: N, by default H;
    - ``r_min``, ``r_max``, ``max_phase`` (0, 1, 2 pi): lam is drawn uniformly from the sector of
      the ring between these radii with phases up to this one, so |lam|^2 ~ U(r_min^2, r_max^2);

    the last three may be traced. gamma starts at sqrt(1 - |lam|^2), with which white inputs give
    E|z|^2 = E|x B|^2 after long times. Entries of B are complex normal with variance 1 / D, those
    of C with 2 / N, those of D normal with variance 1 / D.

    Where implementations differ: the published code has a vector D, which needs inputs of the size
    of the outputs; here D is the matrix of the paper's equation.

    Raises:
      ValueError: (by ``init``) unless 0 <= r_min < r_max <= 1 and 0 < max_phase, for a state_size
        below 1, or for any scheme.

    >>> import jax
    >>> cell = lru()
    >>> params = cell.init(jax.random.key(0), 3, 4, state_size=8, r_min=0.9, r_max=0.999)
    >>> cell.initial_state(params).real.shape
    (8,)
    """
    return diagonal_cell(
        "lru", own_init("lru", _draw), _transition, ("nu_log", "theta_log", "gamma_log")
    )


def _transition(params: Params) -> tuple[jax.Array, jax.Array]:
    dtype = wide_dtype(params["nu_log"])
    nu, theta, gamma = (
        jnp.exp(params[name].astype(dtype)) for name in ("nu_log", "theta_log", "gamma_log")
    )
    multiplier = jnp.exp(jax.lax.complex(-nu, theta))
    return multiplier, jax.lax.complex(gamma, jnp.zeros_like(gamma))


def _draw(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    dtype: Any,
    *,
    state_size: int | None = None,
    r_min: jax.typing.ArrayLike = 0.0,
    r_max: jax.typing.ArrayLike = 1.0,
    max_phase: jax.typing.ArrayLike = 2 * math.pi,
) -> Params:
    check_increasing("lru", 0, 1, closed=True, r_min=r_min, r_max=r_max)
    check_increasing("lru", 0, math.inf, max_phase=max_phase)
    size = hidden_size if state_size is None else check_positive("lru: state_size", state_size)
    inner, outer, phase = (jnp.asarray(end, dtype) for end in (r_min, r_max, max_phase))
    keys = jax.random.split(key, 7)
    # Open at 0, where a unit would forget everything or a logarithm be infinite.
    uniform = functools.partial(
        jax.random.uniform, shape=(size,), dtype=dtype, minval=jnp.finfo(dtype).tiny
    )
    square = inner**2 + (outer**2 - inner**2) * uniform(keys[0])
    nu = -jnp.log(square) / 2
    fan_in, fan_out = input_size**-0.5, size**-0.5
    normal = functools.partial(jax.random.normal, dtype=dtype)
    return {
        "nu_log": jnp.log(nu),
        "theta_log": jnp.log(phase * uniform(keys[1])),
        "gamma_log": jnp.log(-jnp.expm1(-2 * nu)) / 2,
        "B_re": normal(keys[2], (input_size, size)) * fan_in * math.sqrt(0.5),
        "B_im": normal(keys[3], (input_size, size)) * fan_in * math.sqrt(0.5),
        "C_re": normal(keys[4], (size, hidden_size)) * fan_out,
        "C_im": normal(keys[5], (size, hidden_size)) * fan_out,
        "D": initializers.lecun_normal()(keys[6], (input_size, hidden_size), dtype),
    }
