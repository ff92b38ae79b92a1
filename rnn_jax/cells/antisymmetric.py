"""The antisymmetric network of Chang et al. (2019), arXiv:1902.09689."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_number
from rnn_jax.base import Cell, HiddenState, Params, Shapes, affine, check_shapes
from rnn_jax.schemes import Scheme, gaussian, packed_init


def antisymmetric(*, gated: bool = False, epsilon: float = 0.01, gamma: float = 0.01) -> Cell:
    """An Euler step of a stable differential equation.

    M = U - U^T - gamma I
    h_t = h_{t-1} + epsilon * tanh(x_t W_n + h_{t-1} M + b_n),    y_t = h_t
    ds_t/ds_{t-1} = I + epsilon diag(1 - n_t^2) M^T, with n_t the value of tanh

    and with ``gated=True``, one more gate over the same recurrent product:

    z_t = sigmoid(x_t W_z + h_{t-1} M + b_z),    h_t = h_{t-1} + epsilon * z_t * n_t
    ds_t/ds_{t-1} = I + epsilon diag(z_t * (1 - n_t^2) + n_t * z_t * (1 - z_t)) M^T

    The eigenvalues of M all have the real part -gamma: those of the differential equation's
    Jacobian diag(1 - n^2) M are imaginary at gamma = 0, so that gradients neither grow nor decay,
    and gamma > 0 ("diffusion") pulls those of the discrete step back into the unit circle.

    Parameters: ``kernel`` W (D, H), ``recurrent_kernel`` U (H, H), of which the antisymmetric part
    alone matters, ``bias`` b (H,); gated, ``kernel`` (D, 2 * H) and ``bias`` (2 * H,) in the order
    z, n, while U stays (H, H). State: ``HiddenState(hidden)``, (H,).

    Without a scheme as in the paper: W with variance 1 / D, U normal with variance 1 / H (the
    paper tunes its scale: ``schemes.gaussian(gain)``), b zero. The paper tunes epsilon among
    0.01, 0.1, 1 and gamma among 0.001, 0.01, 0.1, 1; they are no parameters since they are not
    trained. RecurrentLayers.jl and torchrecurrent default to epsilon = 1, gamma = 0.

    Args:
      gated: whether the gate z multiplies the increment.
      epsilon: the step size, above 0.
      gamma: the diffusion, at least 0.

    Raises:
      TypeError, ValueError: for an epsilon or a gamma out of range, or a ``gated`` that is no bool.

    >>> import jax
    >>> antisymmetric(gated=True).init(jax.random.key(0), 3, 4)["kernel"].shape
    (3, 8)
    """
    if not isinstance(gated, bool):
        raise TypeError(f"antisymmetric: gated must be a bool, got {gated!r}")
    return _antisymmetric(
        gated,
        check_number("antisymmetric: epsilon", epsilon, zero=False),
        check_number("antisymmetric: gamma", gamma),
    )


@functools.cache
def _antisymmetric(gated: bool, epsilon: float, gamma: float) -> Cell:
    name = "antisymmetric_gated" if gated else "antisymmetric"
    gates = ("update", "candidate") if gated else ("candidate",)
    packed = packed_init(name, gates, default=gaussian())

    def init(
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Scheme | None = None,
        dtype: Any = None,
    ) -> Params:
        params = packed(key, input_size, hidden_size, scheme=scheme, dtype=dtype)
        # One recurrent matrix serves both gates.
        return {**params, "recurrent_kernel": params["recurrent_kernel"][:, :hidden_size]}

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["recurrent_kernel"][:, 0]))

    def shapes(got: Shapes) -> Shapes:
        input_size, size = got["kernel"][0], got["recurrent_kernel"][0]
        width = len(gates) * size
        return {"kernel": (input_size, width), "recurrent_kernel": (size, size), "bias": (width,)}

    def project(params: Params, x: jax.Array) -> jax.Array:
        check_shapes(name, params, shapes)
        return affine(name, params["kernel"], params["bias"], x)

    def values(params: Params, state: HiddenState, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z_t and n_t; without a gate z_t is 1."""
        kernel = params["recurrent_kernel"]
        recurrent = state.hidden @ (kernel - kernel.T) - gamma * state.hidden
        if not gated:
            n = jnp.tanh(drive + recurrent)
            return jnp.ones_like(n), n
        z, n = jnp.split(drive, 2, axis=-1)
        return jax.lax.logistic(z + recurrent), jnp.tanh(n + recurrent)

    def step(params: Params, state: HiddenState, drive: jax.Array) -> tuple[HiddenState, jax.Array]:
        z, n = values(params, state, drive)
        hidden = state.hidden + epsilon * z * n
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        z, n = values(params, state, drive)
        slope = z * (1 - n**2) + n * z * (1 - z)
        kernel, eye = params["recurrent_kernel"], jnp.eye(n.size, dtype=n.dtype)
        return eye + epsilon * slope[:, None] * (kernel.T - kernel - gamma * eye)

    return Cell(name, init, initial_state, step, project, jacobian=jacobian)
