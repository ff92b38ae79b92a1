"""Clipping that optax does not have: of each leaf by its norm, and inside the recurrence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import numerics
from rnn_jax.arguments import check_number
from rnn_jax.base import Cell, Drive, Params, PyTree, State, check_cells, derived


def clip_by_leaf_norm(max_norm: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """A link that clips each leaf by its own norm: g * min(1, max_norm / ||g||_2).

    Unlike clipping by the global norm this changes the direction of the whole gradient, and
    unlike ``optax.clip_by_block_rms`` its bound does not grow with the size of a leaf. A norm may
    be of any magnitude, its square need not be representable. NaN stays NaN, and what is infinite
    becomes NaN.

    Args:
      max_norm: the largest norm that a leaf may have, above 0. It may be traced, and cannot be
        checked then.

    Raises:
      TypeError, ValueError: for a bound that is no finite number above 0.

    >>> import jax.numpy as jnp
    >>> gradient = {"a": jnp.array([3e30, 4e30]), "b": jnp.array([0.5])}
    >>> clipped, _ = clip_by_leaf_norm(1.0).update(gradient, optax.EmptyState())
    >>> {name: [round(float(entry), 4) for entry in leaf] for name, leaf in clipped.items()}
    {'a': [0.6, 0.8], 'b': [0.5]}
    """
    if not isinstance(max_norm, jax.core.Tracer):
        number = np.asarray(max_norm).tolist()
        check_number("clip_by_leaf_norm: max_norm", number, zero=False)
    clip = functools.partial(_clip_norm, max_norm=max_norm)
    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def clip_cotangents(
    cell: Cell, *, max_norm: float | None = None, max_value: float | None = None
) -> Cell:
    """The cell whose backward pass clips dL/ds_t at every step; values and parameters unchanged.

    delta_t -> delta_t * min(1, max_norm / ||delta_t||)    or    each entry into +-max_value

    delta_t is the total derivative, what comes back through y_t and through all later steps, and
    the norm is that of the whole state. So no gradient explodes on its way, where clipping the
    gradient of the parameters only shortens the sum of what has exploded. Under ``vmap`` each
    sample is clipped on its own. The gradient by a given first state and the gradient by taps,
    which act after the clip, are as they come.

    What such a cell computes backward is no longer the derivative of what it computes forward, nor
    linear. It cannot be differentiated in forward mode, and the instruments of `rnn_jax.analysis`
    refuse it (``exact_gradients`` is False): give them the cell itself, which has the same
    parameters, and read clipped gradients by ``taps``. It has no closed Jacobian and is never a
    `LinearCell`.

    Args:
      cell: any cell.
      max_norm, max_value: exactly one of them, above 0.

    Raises:
      ValueError: unless exactly one bound is given, or for one that is not above 0.
      TypeError: for a bound that is no number, or what is no `Cell`.

    References:
      Graves (2013), arXiv:1308.0850, clips by value, there the gradient by the arguments of the
      gates.

    A network that doubles its gradient at every step, and does so no more:

    >>> import jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.elman("identity")
    >>> params = {"kernel": jnp.eye(1), "recurrent_kernel": 2 * jnp.eye(1), "bias": jnp.zeros(1)}
    >>> def by_inputs(cell):
    ...     last = lambda xs: rnn_jax.unroll(cell, params, xs)[0].hidden.sum()
    ...     return jax.grad(last)(jnp.ones((4, 1))).ravel().tolist()
    >>> by_inputs(cell), by_inputs(clip_cotangents(cell, max_norm=3.0))
    ([8.0, 4.0, 2.0, 1.0], [3.0, 3.0, 2.0, 1.0])
    """
    check_cells("clip_cotangents", cell)
    if max_norm is not None and max_value is None:
        by, bound = "norm", max_norm
    elif max_value is not None and max_norm is None:
        by, bound = "value", max_value
    else:
        came = "neither" if max_norm is None else "both"
        raise ValueError(f"clip_cotangents needs either max_norm or max_value, got {came}")
    bound = check_number(f"clip_cotangents: max_{by}", bound, zero=False)
    return _clip_cotangents(cell, by, bound)


@functools.cache
def _clip_cotangents(cell: Cell, by: str, bound: float) -> Cell:
    def clip(cotangent: State) -> State:
        if by == "norm":
            return _clip_norm(cotangent, bound)
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), cotangent)

    @jax.custom_vjp
    def through(state: State) -> State:
        return state

    through.defvjp(lambda state: (state, None), lambda _, cotangent: (clip(cotangent),))

    def step(params: Params, state: State, drive: Drive) -> tuple[State, jax.Array]:
        new = through(cell.step(params, state, drive)[0])
        # Read again: the output has to hang on the state behind the clip for its part of dL/ds_t
        # to be clipped with the rest.
        return new, cell.read(params, new, drive)

    name = f"clip_{by}_{bound:g}({cell.name})"
    return derived(cell, name, step=step, exact_gradients=False)


def _clip_norm(tree: PyTree, max_norm: Any) -> PyTree:
    """tree * min(1, max_norm / ||tree||), from entries of any magnitude."""
    unit = numerics.rescale(tree).mantissa
    log_norm = numerics.log_norm(tree)
    bound = jnp.asarray(max_norm, log_norm.dtype)
    acts = log_norm > jnp.log(bound)
    # Not exp(ln c - ln ||g||): a logarithm of 80 keeps two digits less than the norm of order one.
    factor = jnp.where(acts, bound / jnp.exp(numerics.log_norm(unit)), 1)
    choose = lambda clipped, leaf: jnp.where(acts, clipped, leaf)
    return jax.tree.map(choose, numerics.multiply(unit, factor), tree)
