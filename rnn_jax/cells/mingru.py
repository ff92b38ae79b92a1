"""The minimal gated recurrent unit of Feng et al. (2024), arXiv:2410.01201."""

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice
from rnn_jax.base import (
    HiddenState,
    LinearCell,
    Params,
    ProjectFn,
    Shapes,
    affine,
    check_shapes,
    linear_cell,
)
from rnn_jax.numerics import wide_dtype
from rnn_jax.schemes import packed_init

GATES = ("update", "candidate")

Candidate = Literal["linear", "positive"]
"""What becomes of the candidate before it enters the state: nothing, or `positive`."""


def positive(x: jax.Array) -> jax.Array:
    """g(x) = x + 1/2 for x >= 0, sigmoid(x) below: continuous and above 0, with a kink at 0."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


CANDIDATES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x,
    "positive": positive,
}


def input_gates_project(cell: str, gates: int) -> ProjectFn:
    """The ``project`` of a cell whose gates see the input alone: x @ kernel + bias, (..., G * H).

    Its error is a ValueError for the parameters of another cell, as far as names and shapes tell:
    six units' two gates are as wide as four units' three.
    """

    def shapes(got: Shapes) -> Shapes:
        input_size, width = got["kernel"]
        width -= width % gates
        return {"kernel": (input_size, width), "bias": (width,)}

    def project(params: Params, x: jax.Array) -> jax.Array:
        check_shapes(cell, params, shapes)
        return affine(cell, params["kernel"], params["bias"], x)

    return project


def mingru(candidate: Candidate = "linear") -> LinearCell:
    """A minimal gated recurrent unit, linear in its state.

    z_t = sigmoid(x_t W_z + b_z),    n_t = g(x_t W_n + b_n)
    h_t = (1 - z_t) * h_{t-1} + z_t * n_t,    y_t = h_t
    dh_t/dh_{t-1} = diag(1 - z_t)

    g is the identity ("linear", the cell as the paper defines it), or x + 1/2 for x >= 0 and
    sigmoid(x) below ("positive", its appendix), which lets the paper compute the recurrence from
    logarithms; here the two are computed in the same way.

    Parameters: ``kernel`` (D, 2 * H) and ``bias`` (2 * H,), in the order z, n.
    State: ``HiddenState(hidden)``, (H,).

    z near 1 *overwrites* the state, as in the paper, where the `gru` of this package keeps it. The
    paper's parallel code also passes the initial state through g, its sequential code does not;
    here the initial state is 0 and taken as it is. A scheme draws the input kernel and the biases;
    there is no recurrent kernel for it to draw. The paper states no initialisation.

    Args:
      candidate: "linear" or "positive".

    Raises:
      ValueError: for another ``candidate``.

    >>> import jax, rnn_jax
    >>> cell = mingru()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, trajectory = rnn_jax.unroll_parallel(cell, params, jax.numpy.ones((5, 3)))
    >>> trajectory.outputs.shape
    (5, 4)
    """
    check_choice("mingru: candidate", candidate, CANDIDATES)
    return _mingru(candidate)


@functools.cache
def _mingru(candidate: str) -> LinearCell:
    name = "mingru" if candidate == "linear" else f"mingru_{candidate}"
    transform = CANDIDATES[candidate]

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(jnp.split(params["bias"], len(GATES))[0]))

    def coefficients(params: Params, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
        update, new = jnp.split(drive.astype(wide_dtype(drive)), 2, axis=-1)
        return jax.nn.sigmoid(-update), jax.nn.sigmoid(update) * transform(new)

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        return jnp.diag(jax.nn.sigmoid(-jnp.split(drive, 2)[0]))

    return linear_cell(
        name,
        packed_init(name, GATES, recurrent=False),
        initial_state,
        coefficients,
        project=input_gates_project(name, len(GATES)),
        jacobian=jacobian,
    )
