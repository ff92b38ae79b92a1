"""The real-gated linear recurrent unit of De et al. (2024), Griffin, arXiv:2402.19427."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers

from rnn_jax.arguments import check_increasing, check_positive
from rnn_jax.base import HiddenState, LinearCell, Params, Shapes, affine, check_shapes, linear_cell
from rnn_jax.numerics import wide_dtype
from rnn_jax.schemes import own_init

SHARPNESS = 8.0
"""The paper's c."""


class RGLRUDrive(NamedTuple):
    """The projected input u and the arguments of the recurrence and the input gate, each (H,)."""

    value: jax.Array
    recurrence: jax.Array
    input: jax.Array


@functools.cache
def rglru() -> LinearCell:
    """A real-gated linear recurrent unit, behind the linear layer that precedes it in Griffin.

    u_t = x_t W + b
    r_t, i_t = sigmoid(u_t W_gate + b_gate)
    a_t = exp(-c softplus(Lambda) * r_t),    c = 8
    h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i_t * u_t),    y_t = h_t
    dh_t/dh_{t-1} = diag(a_t)

    Parameters: ``kernel`` W (D, H), ``bias`` b (H,), ``gate_kernel`` (K, H / K, 2 * H / K), which
    is block-diagonal with K blocks, and ``gate_bias`` (K, 2 * H / K), in the order r, i within a
    block, ``Lambda`` (H,). State: ``HiddenState(hidden)``, (H,).

    ``init`` takes, beside its usual arguments, ``heads`` K (1: a dense kernel), and ``a_min``,
    ``a_max`` (0.9, 0.999; may be traced): Lambda is such that a_t at r_t = 1, the paper's a^c, is
    uniform between them. Kernels are normal with variance 1 / fan_in, biases zero.

    The square root has an infinite slope at a = 1, but r_t is a sigmoid and so the slope by
    *its* argument is finite. It is computed in logarithms, where no infinity arises; RecurrentGemma
    instead bounds the derivative of the root at 1000, and so changes gradients where a is near 1.

    Where implementations differ: with W the identity this is the layer of the paper; the temporal
    convolution between the linear layer and the recurrence is left to the model. RecurrentGemma
    leaves the root out at the first step of a sequence, and at its default initialisation a
    itself, not a^c, lies between 0.9 and 0.999. The paper writes a = sigmoid(Lambda) in its text
    but -c softplus(Lambda) r for ln a_t in its appendix; the sign here is that of the latter and of
    RecurrentGemma, where a grows as Lambda falls.

    Raises:
      ValueError: (by ``init``) unless heads divides H and 0 < a_min < a_max < 1, or for any scheme.

    >>> import jax
    >>> cell = rglru()
    >>> params = cell.init(jax.random.key(0), 3, 8, heads=2)
    >>> params["gate_kernel"].shape
    (2, 4, 8)
    """

    def shapes(got: Shapes) -> Shapes:
        (input_size, hidden_size), heads = got["kernel"], got["gate_kernel"][0]
        width = hidden_size // heads
        hidden_size = heads * width
        return {
            "kernel": (input_size, hidden_size),
            "bias": (hidden_size,),
            "gate_kernel": (heads, width, 2 * width),
            "gate_bias": (heads, 2 * width),
            "Lambda": (hidden_size,),
        }

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["Lambda"]))

    def project(params: Params, x: jax.Array) -> RGLRUDrive:
        check_shapes("rglru", params, shapes)
        value = affine("rglru", params["kernel"], params["bias"], x)
        heads, width, _ = params["gate_kernel"].shape
        blocks = value.reshape(*value.shape[:-1], heads, width)
        gates = jnp.einsum("...hi,hij->...hj", blocks, params["gate_kernel"])
        gates = gates + params["gate_bias"].reshape((1,) * (x.ndim - 1) + (heads, -1))
        flat = [part.reshape(value.shape) for part in jnp.split(gates, 2, axis=-1)]
        return RGLRUDrive(value, *flat)

    def coefficients(params: Params, drive: RGLRUDrive) -> tuple[jax.Array, jax.Array]:
        wide = wide_dtype(drive)
        value, recurrence, gate = (part.astype(wide) for part in drive)
        speed = jnp.log(2 * SHARPNESS * jax.nn.softplus(params["Lambda"].astype(wide)))
        log_rate = speed + jax.nn.log_sigmoid(recurrence)
        multiplier = jnp.exp(-jnp.exp(log_rate) / 2)
        return multiplier, _complement(log_rate) * jax.nn.sigmoid(gate) * value

    def jacobian(params: Params, state: HiddenState, drive: RGLRUDrive) -> jax.Array:
        rate = SHARPNESS * jax.nn.softplus(params["Lambda"])
        return jnp.diag(jnp.exp(-rate * jax.nn.sigmoid(drive.recurrence)))

    return linear_cell(
        "rglru",
        own_init("rglru", _draw),
        initial_state,
        coefficients,
        project=project,
        jacobian=jacobian,
    )


def _complement(log_rate: jax.Array) -> jax.Array:
    """sqrt(1 - a^2) from ln(-ln a^2), with finite derivatives however near a is to 1.

    Below exp(-40) the rate is 1 - a^2 itself, to the last bit of float64.
    """
    smallest = -40.0
    log_square = jnp.log(-jnp.expm1(-jnp.exp(jnp.maximum(log_rate, smallest))))
    return jnp.exp(jnp.where(log_rate < smallest, log_rate, log_square) / 2)


def _draw(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    dtype: Any,
    *,
    heads: int = 1,
    a_min: jax.typing.ArrayLike = 0.9,
    a_max: jax.typing.ArrayLike = 0.999,
) -> Params:
    check_increasing("rglru", 0, 1, a_min=a_min, a_max=a_max)
    if hidden_size % check_positive("rglru: heads", heads):
        raise ValueError(f"rglru: heads must divide the hidden_size {hidden_size}, got {heads}")
    width = hidden_size // heads
    keys = jax.random.split(key, 3)
    low, high = (jnp.asarray(end, dtype) for end in (a_min, a_max))
    a = jax.random.uniform(keys[2], (hidden_size,), dtype, low, high)
    return {
        "kernel": initializers.lecun_normal()(keys[0], (input_size, hidden_size), dtype),
        "bias": jnp.zeros(hidden_size, dtype),
        "gate_kernel": initializers.lecun_normal(batch_axis=0)(
            keys[1], (heads, width, 2 * width), dtype
        ),
        "gate_bias": jnp.zeros((heads, 2 * width), dtype),
        # softplus(Lambda) = -ln(a) / c, solved for Lambda.
        "Lambda": jnp.log(jnp.expm1(-jnp.log(a) / SHARPNESS)),
    }
