"""The state-space layer S5 of Smith, Warrington and Linderman (2023), arXiv:2208.04933."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from rnn_jax.arguments import check_choice, check_increasing, check_positive
from rnn_jax.base import LinearCell, Params
from rnn_jax.diagonal import Transition, diagonal_cell, to_complex
from rnn_jax.numerics import wide_dtype
from rnn_jax.schemes import own_init


def s5(discretisation: Literal["zoh", "bilinear"] = "zoh") -> LinearCell:
    """A diagonal linear state-space system in continuous time, seen at steps of learned length.

    dz/dt = Lambda z + x B,    y = 2 Re(z C) + x D
    z_t = lam * z_{t-1} + gam * (x_t B),    y_t = 2 Re(z_t C) + x_t D
    lam = exp(Lambda Delta),    gam = (lam - 1) / Lambda                                     "zoh"
    lam = (1 + Lambda Delta / 2) / (1 - Lambda Delta / 2),
    gam = Delta / (1 - Lambda Delta / 2)                                                "bilinear"
    dz_t/dz_{t-k} = diag(lam^k)

    "zoh" is exact for an input held over the step, "bilinear" is the trapezoidal rule with the new
    input. Each of the N / 2 complex units stands for itself and its conjugate: together they are
    a real system of size N.

    Parameters: ``Lambda_re``, ``Lambda_im``, ``log_step`` ln Delta (N / 2,), ``B_re``, ``B_im``
    (D, N / 2), ``C_re``, ``C_im`` (N / 2, H), ``D`` (D, H).
    State: ``ComplexState(real, imag)``, each (N / 2,).

    ``init`` takes, beside its usual arguments, ``state_size`` N (even; by default H, or H + 1 if
    that is odd) and ``dt_min``, ``dt_max`` (0.001, 0.1; may be traced): Delta is log-uniform
    between them. Lambda are the eigenvalues of the normal part of the HiPPO-LegS matrix, see
    `hippo_normal`, and B and C, in the basis of that matrix, are normal with variance 1 / D and
    1 / N.

    Where implementations differ: the published code has a vector D, which needs inputs of the size
    of the outputs, here D is a matrix; it can also keep both of each pair, start from several
    smaller HiPPO matrices, and clip Re Lambda below 0. Here, as there by default, nothing but
    the initialisation keeps Re Lambda negative.

    Args:
      discretisation: "zoh" or "bilinear".

    Raises:
      ValueError: for another ``discretisation``; (by ``init``) for a state_size that is odd or
        below 1, unless 0 < dt_min < dt_max, or for any scheme.

    >>> import jax
    >>> cell = s5()
    >>> params = cell.init(jax.random.key(0), 3, 4, state_size=16)
    >>> cell.initial_state(params).real.shape, params["Lambda_re"].tolist()[:2]
    ((8,), [-0.5, -0.5])
    """
    check_choice("s5: discretisation", discretisation, DISCRETISATIONS)
    return _s5(discretisation)


@functools.cache
def _s5(discretisation: str) -> LinearCell:
    name = "s5" if discretisation == "zoh" else f"s5_{discretisation}"
    return diagonal_cell(
        name,
        own_init(name, functools.partial(_draw, name)),
        DISCRETISATIONS[discretisation],
        ("Lambda_re", "Lambda_im", "log_step"),
        copies=2,
    )


def hippo_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The half of the eigenvalues and eigenvectors of HiPPO-N with positive imaginary part.

    HiPPO-N is the HiPPO-LegS matrix of Gu et al. (2020), arXiv:2008.07669, without its part of rank
    one: -1/2 on the diagonal and -+ sqrt((n + 1/2) (k + 1/2)) below and above it. It is normal,
    with eigenvalues -1/2 +- i w; the other half are the complex conjugates.

    Args:
      size: N, even.

    Returns:
      Eigenvalues (N / 2,), eigenvectors as columns (N, N / 2), in complex128.

    >>> hippo_normal(2)[0].round(3).tolist()
    [(-0.5+0.866j)]
    """
    roots = np.sqrt(np.arange(size) + 0.5)
    skew = np.triu(np.outer(roots, roots), 1)
    skew = skew - skew.T
    frequencies, vectors = np.linalg.eigh(-1j * skew)
    return -0.5 + 1j * frequencies[size // 2 :], vectors[:, size // 2 :]


def _continuous(params: Params) -> tuple[jax.Array, jax.Array]:
    """Lambda and Delta, both complex."""
    step = jnp.exp(params["log_step"].astype(wide_dtype(params["log_step"])))
    return to_complex(params["Lambda_re"], params["Lambda_im"]), to_complex(
        step, jnp.zeros_like(step)
    )


def _zoh(params: Params) -> tuple[jax.Array, jax.Array]:
    eigenvalue, step = _continuous(params)
    # expm1: the step may be a thousandth of the time that an eigenvalue takes.
    return jnp.exp(eigenvalue * step), jnp.expm1(eigenvalue * step) / eigenvalue


def _bilinear(params: Params) -> tuple[jax.Array, jax.Array]:
    eigenvalue, step = _continuous(params)
    half = eigenvalue * step / 2
    return (1 + half) / (1 - half), step / (1 - half)


DISCRETISATIONS: dict[str, Transition] = {"zoh": _zoh, "bilinear": _bilinear}
"""The discretisations that have a name."""


def _draw(
    name: str,
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    dtype: Any,
    *,
    state_size: int | None = None,
    dt_min: jax.typing.ArrayLike = 0.001,
    dt_max: jax.typing.ArrayLike = 0.1,
) -> Params:
    check_increasing(name, 0, np.inf, dt_min=dt_min, dt_max=dt_max)
    if state_size is None:
        size = hidden_size + hidden_size % 2
    else:
        size = check_positive(f"{name}: state_size", state_size)
    if size % 2:
        raise ValueError(f"{name}: state_size must be even, for conjugate pairs, got {size}")
    eigenvalues, vectors = hippo_normal(size)
    keys = jax.random.split(key, 4)
    shortest, longest = (jnp.log(jnp.asarray(end, dtype)) for end in (dt_min, dt_max))
    real, imag = jnp.asarray(vectors.real, dtype), jnp.asarray(vectors.imag, dtype)
    normal = initializers.lecun_normal()
    b = normal(keys[0], (input_size, size), dtype)
    c = normal(keys[1], (size, hidden_size), dtype)
    return {
        "Lambda_re": jnp.asarray(eigenvalues.real, dtype),
        "Lambda_im": jnp.asarray(eigenvalues.imag, dtype),
        "log_step": jax.random.uniform(keys[2], (size // 2,), dtype, shortest, longest),
        "B_re": b @ real,
        "B_im": -b @ imag,
        "C_re": real.T @ c,
        "C_im": imag.T @ c,
        "D": normal(keys[3], (input_size, hidden_size), dtype),
    }
