"""Complex diagonal state-space cells from their discretised transition alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.base import InitFn, LinearCell, Params, Shapes, affine, check_shapes, linear_cell
from rnn_jax.numerics import wide_dtype


class ComplexState(NamedTuple):
    """The real and the imaginary part of a complex state z, each (N,)."""

    real: jax.Array
    imag: jax.Array


class DiagonalDrive(NamedTuple):
    """x_t B, in real and imaginary part (N,), and what passes the state by, x_t D (H,)."""

    real: jax.Array
    imag: jax.Array
    skip: jax.Array


Transition = Callable[[Params], tuple[jax.Array, jax.Array]]
"""The multiplier of the state and that of the input, complex, each (N,)."""


def to_complex(real: jax.Array, imag: jax.Array) -> jax.Array:
    """real + i imag, in complex64 at least: there is nothing complex in half precision."""
    wide = wide_dtype((real, imag))
    return jax.lax.complex(real.astype(wide), imag.astype(wide))


def diagonal_cell(
    name: str, init: InitFn, transition: Transition, own: tuple[str, ...], *, copies: int = 1
) -> LinearCell:
    """A cell whose state is complex and whose units do not see each other.

    z_t = lam * z_{t-1} + gam * (x_t B),    (lam, gam) = transition(params)
    y_t = copies * Re(z_t C) + x_t D

    Parameters: ``B_re``, ``B_im`` (D, N), ``C_re``, ``C_im`` (N, H), ``D`` (D, H), and those of
    the transition. State: ``ComplexState(real, imag)``, each (N,); its Jacobian is the 2 x 2 matrix
    [[Re lam, -Im lam], [Im lam, Re lam]] of diagonal blocks.

    Args:
      name: of the cell.
      init: draws all parameters.
      transition: what the cell multiplies its state and its input by.
      own: the names of the parameters of the transition, each (N,).
      copies: 2 if each unit stands for a conjugate pair.
    """

    def shapes(got: Shapes) -> Shapes:
        (input_size, hidden_size), state_size = got["D"], got["C_re"][0]
        into, out = (input_size, state_size), (state_size, hidden_size)
        inner = {"B_re": into, "B_im": into, "C_re": out, "C_im": out, "D": got["D"]}
        return inner | dict.fromkeys(own, (state_size,))

    def initial_state(params: Params) -> ComplexState:
        zeros = jnp.zeros_like(params["C_re"][:, 0])
        return ComplexState(zeros, zeros)

    def project(params: Params, x: jax.Array) -> DiagonalDrive:
        check_shapes(name, params, shapes)
        matrices = [params["B_re"], params["B_im"], params["D"]]
        state_size = matrices[0].shape[1]
        product = affine(name, jnp.concatenate(matrices, axis=1), None, x)
        return DiagonalDrive(*jnp.split(product, [state_size, 2 * state_size], axis=-1))

    def coefficients(params: Params, drive: DiagonalDrive) -> tuple[jax.Array, jax.Array]:
        multiplier, factor = transition(params)
        return multiplier, factor * to_complex(drive.real, drive.imag)

    def read(params: Params, state: ComplexState, drive: DiagonalDrive) -> jax.Array:
        seen = state.real @ params["C_re"] - state.imag @ params["C_im"]
        return copies * seen + drive.skip

    def jacobian(params: Params, state: ComplexState, drive: DiagonalDrive) -> jax.Array:
        multiplier, _ = transition(params)
        real, imag = jnp.diag(multiplier.real), jnp.diag(multiplier.imag)
        return jnp.block([[real, -imag], [imag, real]]).astype(state.real.dtype)

    return linear_cell(
        name,
        init,
        initial_state,
        coefficients,
        project=project,
        read=read,
        pack=lambda state: to_complex(*state),
        unpack=lambda z: ComplexState(z.real, z.imag),
        jacobian=jacobian,
    )
