"""Draws of single parameters, of which schemes and presets are made."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers
from jax.typing import ArrayLike

from rnn_jax.schemes.layout import Draw, Layout, Scheme

# Gelfand's formula at the power 2**40 leaves a relative error of about ln(H) / 2**40.
_SQUARINGS = 40


def per_gate(draw: Callable[[jax.Array], jax.Array]) -> Draw:
    """One independent draw (rows, H) for each gate, packed on the last axis."""

    def packed(key: jax.Array, layout: Layout) -> jax.Array:
        blocks = jax.vmap(draw)(jax.random.split(key, len(layout.gates)))
        return jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1)

    return packed


def lecun_normal(key: jax.Array, layout: Layout) -> jax.Array:
    """The input kernel (D, G * H) with variance 1 / D."""
    return initializers.lecun_normal()(key, layout.kernel_shape, layout.dtype)


def orthogonal_gates(gain: ArrayLike) -> Draw:
    """The recurrent kernel (H, G * H) with ``gain`` times a Haar matrix for every gate."""

    def draw(key: jax.Array, layout: Layout) -> jax.Array:
        # JAX fixes the sign of the QR factor, without which the draw would not be Haar.
        shape = (layout.recurrent_shape[0], layout.hidden_size)
        return jnp.asarray(gain, layout.dtype) * per_gate(_haar(shape, layout.dtype))(key, layout)

    return draw


def fused_orthogonal(key: jax.Array, layout: Layout) -> jax.Array:
    """The recurrent kernel (H, G * H) with orthonormal rows, whatever the gates."""
    return _haar(layout.recurrent_shape, layout.dtype)(key)


def _haar(shape: tuple[int, ...], dtype: Any) -> Callable[[jax.Array], jax.Array]:
    """A draw of a matrix with orthonormal rows or columns, and under ``vmap`` one after another.

    A batch of factorisations would be dealt out to the threads of XLA's pool, and two devices that
    are cores and wait for it wait for ever.
    """

    @jax.custom_batching.sequential_vmap
    def draw(key: jax.Array) -> jax.Array:
        return initializers.orthogonal()(key, shape, dtype)

    return draw


def keep_bias(value: ArrayLike) -> Draw:
    """The bias (G * H,), zero but for the gate that keeps the state."""
    return lambda key, layout: gate_bias(layout.keep, value)(key, layout)


def gate_bias(gate: str | None, value: ArrayLike) -> Draw:
    """The bias (G * H,), zero but for this gate."""

    def draw(key: jax.Array, layout: Layout) -> jax.Array:
        del key
        chosen = jnp.array([name == gate for name in layout.gates])
        bias = jnp.where(chosen, value, 0.0).astype(layout.dtype)
        return jnp.repeat(bias, layout.hidden_size)

    return draw


def zero_recurrent_bias(key: jax.Array, layout: Layout) -> jax.Array:
    """The second bias (H,) inside the recurrence, zero."""
    del key
    return jnp.zeros(layout.hidden_size, layout.dtype)


def largest_eigenvalue(matrix: jax.Array) -> jax.Array:
    """The spectral radius of a square matrix, by Gelfand's formula: lim ||A^k||^(1 / k).

    By repeated squaring, k = 2**40: matrix products alone, which run under ``jit`` and ``vmap`` on
    every device. The eigenvalues themselves JAX computes on CPUs only, and no faster.
    """

    def square(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        power, log_radius, weight = carry
        # A GPU would otherwise multiply in TF32, with errors of 1e-3.
        squared = jnp.matmul(power, power, precision=lax.Precision.HIGHEST)
        largest = jnp.max(jnp.abs(squared))
        return squared / largest, log_radius + weight / 2 * jnp.log(largest), weight / 2

    # The largest entry is as good a norm as any, and no square of it can leave the range.
    largest = jnp.max(jnp.abs(matrix))
    start = (matrix / largest, jnp.log(largest), jnp.ones_like(largest))
    _, log_radius, _ = lax.fori_loop(0, _SQUARINGS, lambda _, carry: square(carry), start)
    return jnp.exp(log_radius)


def rescaled(matrix: jax.Array, radius: ArrayLike) -> jax.Array:
    """The multiple of a square matrix that has this spectral radius."""
    return jnp.asarray(radius, matrix.dtype) / largest_eigenvalue(matrix) * matrix


def check_numbers(scheme: str, *, least: float = -np.inf, **values: ArrayLike) -> None:
    """The arguments of a scheme must be finite real numbers of at least so much.

    Traced values cannot be looked at and pass.

    Raises:
      ValueError: otherwise; names the scheme, the argument and what came.
    """
    for argument, value in values.items():
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
            continue
        array = np.asarray(value)
        real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer))
        if not real or not np.all(np.isfinite(array) & (array >= least)):
            bound = "" if least == -np.inf else f" of at least {least:g}"
            raise ValueError(f"{scheme}: {argument} must be a finite number{bound}, got {value!r}")


def given(value: ArrayLike) -> bool:
    """Whether a number is not zero. A traced one counts: its value cannot be looked at."""
    return isinstance(value, jax.core.Tracer) or bool(np.any(np.asarray(value) != 0))


def check_forget_bias(scheme: str, forget_bias: ArrayLike, layout: Layout) -> None:
    """A ValueError for a forget bias where no gate keeps the state."""
    if layout.keep is None and given(forget_bias):
        raise ValueError(
            f"the scheme {scheme} has a forget bias, but the cell {layout.cell} has no gate "
            "that keeps the state"
        )


def standard(
    name: str, recurrent_kernel: Draw, forget_bias: ArrayLike, *, square: bool = False
) -> Scheme:
    """A LeCun normal input kernel, zero biases but for the ``forget_bias``, and this recurrence.

    Args:
      name: of the scheme, for its errors.
      recurrent_kernel: draws it.
      forget_bias: of the gate that keeps the state.
      square: whether the recurrence needs as many rows as units.
    """
    check_numbers(name, forget_bias=forget_bias)

    def check(layout: Layout) -> None:
        check_forget_bias(name, forget_bias, layout)
        rows = layout.recurrent_shape[0]
        if square and rows != layout.hidden_size:
            raise ValueError(
                f"the scheme {name} makes no sense for the cell {layout.cell}, whose recurrent "
                f"kernels are {rows} x {layout.hidden_size}"
            )

    return Scheme(
        name, lecun_normal, recurrent_kernel, keep_bias(forget_bias), zero_recurrent_bias, check
    )
