"""The minimal long short-term memory of Feng et al. (2024), arXiv:2410.01201."""

import functools

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice
from rnn_jax.base import HiddenState, LinearCell, Params, linear_cell
from rnn_jax.cells.mingru import CANDIDATES, Candidate, input_gates_project
from rnn_jax.numerics import wide_dtype
from rnn_jax.schemes import packed_init

GATES = ("input", "forget", "candidate")


def minlstm(candidate: Candidate = "linear") -> LinearCell:
    """A minimal long short-term memory, linear in its state.

    i_t, f_t = sigmoid(x_t W + b),    n_t = g(x_t W_n + b_n)
    f'_t = f_t / (f_t + i_t),    i'_t = i_t / (f_t + i_t)
    h_t = f'_t * h_{t-1} + i'_t * n_t,    y_t = h_t
    dh_t/dh_{t-1} = diag(f'_t)

    g is the identity ("linear"), or that of the paper's appendix ("positive"), see `mingru`. The
    gates are normalised through f' = sigmoid(ln f - ln i), so that they stay exact where both
    saturate at 0 and the quotient would be 0 / 0.

    Parameters: ``kernel`` (D, 3 * H) and ``bias`` (3 * H,), in the order i, f, n, that of the
    `lstm` of this package; the paper writes f first. State: ``HiddenState(hidden)``, (H,).

    A forget bias of the scheme goes to f. There is no recurrent kernel for it to draw. The paper
    states no initialisation, but finds that larger forget biases speed up training.

    Args:
      candidate: "linear" or "positive".

    Raises:
      ValueError: for another ``candidate``.

    >>> import jax, rnn_jax
    >>> cell = minlstm()
    >>> params = cell.init(jax.random.key(0), 3, 4, scheme=rnn_jax.schemes.orthogonal(1.0, 2.0))
    >>> params["bias"].tolist()
    [0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    """
    check_choice("minlstm: candidate", candidate, CANDIDATES)
    return _minlstm(candidate)


@functools.cache
def _minlstm(candidate: str) -> LinearCell:
    name = "minlstm" if candidate == "linear" else f"minlstm_{candidate}"
    transform = CANDIDATES[candidate]

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(jnp.split(params["bias"], len(GATES))[0]))

    def log_odds(i: jax.Array, f: jax.Array) -> jax.Array:
        """ln f - ln i, from the arguments of the gates."""
        return jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)

    def coefficients(params: Params, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
        i, f, n = jnp.split(drive.astype(wide_dtype(drive)), 3, axis=-1)
        odds = log_odds(i, f)
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds) * transform(n)

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        i, f, _ = jnp.split(drive, 3)
        return jnp.diag(jax.nn.sigmoid(log_odds(i, f)))

    return linear_cell(
        name,
        packed_init(name, GATES, keep="forget", recurrent=False),
        initial_state,
        coefficients,
        project=input_gates_project(name, len(GATES)),
        jacobian=jacobian,
    )
