"""The matrix xLSTM of Beck et al. (2024), arXiv:2405.04517: a memory of keys and values."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers

from rnn_jax.arguments import check_choice, check_positive
from rnn_jax.base import Cell, Params, Shapes, affine, check_shapes
from rnn_jax.cells.slstm import (
    FORGET_GATES,
    forget_biases,
    log_forget_gate,
    stabilised_gates,
)
from rnn_jax.schemes import own_init

NEGLIGIBLE = -40.0
"""exp(-40) is 4e-18, less than the rounding errors of n^T q in float64."""


class MLSTMState(NamedTuple):
    """For N heads of d = H / N units: the memory C (N, d, d), its rows values and its columns keys,
    and the normaliser n (N, d), both in units of exp(m), and the stabiliser m (N,).
    """

    cell: jax.Array
    normaliser: jax.Array
    stabiliser: jax.Array


class MLSTMDrive(NamedTuple):
    """q, k, v (..., N, d), the output gate o (..., H), a_i and ln f (..., N)."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    output: jax.Array
    input: jax.Array
    log_forget: jax.Array


def mlstm(heads: int = 1, forget: Literal["sigmoid", "exp"] = "sigmoid") -> Cell:
    """The mLSTM: exponential gates on a matrix of outer products, read by a query.

    q = x_t W_q + b_q,    k = x_t W_k / sqrt(d) + b_k,    v = x_t W_v + b_v,    o = sigmoid(a_o)
    i = exp(a_i),    f = sigmoid(a_f) or exp(a_f)
    C_t = f C_{t-1} + i v k^T,    n_t = f n_{t-1} + i k
    y_t = o * C_t q / max(|n_t^T q|, 1)

    for each of N heads of d = H / N units, with one i and one f per head. Nothing is fed back:
    gates, keys and values depend on x_t alone. C and n are held in units of exp(m_t), so that no
    exponential overflows; the 1 under the fraction then becomes exp(-m_t):

    m_t = max(ln f + m_{t-1}, a_i),    i' = exp(a_i - m_t),    f' = exp(ln f + m_{t-1} - m_t)

    Any m gives the same y. An empty memory, C = 0 and n = 0, has no scale to keep, so that then
    m_t = a_i (with the scale of m_0 = 0, float32 would lose what comes in below exp(-88)). exp(-m)
    would overflow after many small gates, so the fraction is expanded by exp(m) where m < 0.

    Parameters: ``kernel`` (D, 4 * H) and ``bias`` (4 * H,), in the order q, k, v, o;
    ``gate_kernel`` (D, 2 * N) and ``gate_bias`` (2 * N,), in the order i, f. State:
    ``MLSTMState(cell, normaliser, stabiliser)``, all zero at first. The output is (H,).

    No `Scheme` knows these parameters. As in the authors' code ``gate_kernel`` is zero at first,
    the forget biases lie evenly between 3 and 6, the input biases are N(0, 0.01); their gates
    see q, k and v instead of x, and they scale k with its bias. Kernels are LeCun normal.

    Args:
      heads: N, a divisor of H.
      forget: "sigmoid" or "exp", the two forget gates of the paper.

    Raises:
      ValueError: for another ``forget``, heads below 1, or (by ``init``) that do not divide H.
      TypeError: for heads that are no integer.

    >>> import jax
    >>> cell = mlstm(heads=2)
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> state, output = cell(params, cell.initial_state(params), jax.numpy.ones(3))
    >>> state.cell.shape, output.shape
    ((2, 4, 4), (8,))
    """
    check_choice("mlstm: forget", forget, FORGET_GATES)
    return _mlstm(check_positive("mlstm: heads", heads), forget)


@functools.cache
def _mlstm(heads: int, forget: str) -> Cell:
    name = "mlstm" if heads == 1 else f"mlstm_heads{heads}"
    name = name if forget == "sigmoid" else f"{name}_exp"

    def draw(key: jax.Array, input_size: int, hidden_size: int, dtype: Any) -> Params:
        if hidden_size % heads:
            raise ValueError(f"{name}: hidden_size must divide by {heads} heads, got {hidden_size}")
        kernel_key, bias_key = jax.random.split(key)
        shape = (input_size, 4 * hidden_size)
        input_biases = 0.1 * jax.random.normal(bias_key, (heads,), dtype)
        return {
            "kernel": initializers.lecun_normal()(kernel_key, shape, dtype),
            "bias": jnp.zeros(4 * hidden_size, dtype),
            "gate_kernel": jnp.zeros((input_size, 2 * heads), dtype),
            "gate_bias": jnp.concatenate([input_biases, forget_biases(heads, dtype)]),
        }

    def initial_state(params: Params) -> MLSTMState:
        size = params["bias"].size // (4 * heads)
        zeros = functools.partial(jnp.zeros, dtype=params["bias"].dtype)
        return MLSTMState(zeros((heads, size, size)), zeros((heads, size)), zeros(heads))

    def shapes(got: Shapes) -> Shapes:
        input_size, width = got["kernel"]
        width -= width % (4 * heads)
        return {
            "kernel": (input_size, width),
            "bias": (width,),
            "gate_kernel": (input_size, 2 * heads),
            "gate_bias": (2 * heads,),
        }

    def project(params: Params, x: jax.Array) -> MLSTMDrive:
        check_shapes(name, params, shapes)
        names = ("kernel", "bias", "gate_kernel", "gate_bias")
        kernel, bias, gate_kernel, gate_bias = (params[part] for part in names)
        q, k, v, o = jnp.split(affine(name, kernel, None, x), 4, axis=-1)
        b_q, b_k, b_v, b_o = (b.reshape((1,) * (x.ndim - 1) + (-1,)) for b in jnp.split(bias, 4))
        a_i, a_f = jnp.split(affine(name, gate_kernel, gate_bias, x), 2, axis=-1)
        per_head = lambda z: z.reshape(*z.shape[:-1], heads, -1)
        return MLSTMDrive(
            per_head(q + b_q),
            per_head(k * (k.shape[-1] // heads) ** -0.5 + b_k),
            per_head(v + b_v),
            jax.lax.logistic(o + b_o),
            a_i,
            log_forget_gate(forget, a_f),
        )

    def read(params: Params, state: MLSTMState, drive: MLSTMDrive) -> jax.Array:
        del params
        shrink = jnp.exp(jnp.minimum(state.stabiliser, 0))
        recalled = jnp.einsum("nvk,nk->nv", state.cell, drive.query) * shrink[:, None]
        weight = jnp.abs(jnp.einsum("nk,nk->n", state.normaliser, drive.query)) * shrink
        # Where n^T q is exactly 0 and exp(-m) nearly: 0 / 0, whose gradient divides by squares.
        one = jnp.exp(jnp.clip(-state.stabiliser, NEGLIGIBLE, 0))
        return drive.output * (recalled / jnp.maximum(weight, one)[:, None]).reshape(-1)

    def step(params: Params, state: MLSTMState, drive: MLSTMDrive) -> tuple[MLSTMState, jax.Array]:
        stored = jnp.any(state.cell != 0, (1, 2)) | jnp.any(state.normaliser != 0, 1)
        kept = drive.log_forget + state.stabiliser
        m, i, f = stabilised_gates(~stored, drive.input, kept)
        i, f = i[:, None], f[:, None]
        outer = drive.value[:, :, None] * drive.key[:, None, :]
        cell = f[:, None] * state.cell + i[:, None] * outer
        new = MLSTMState(cell, f * state.normaliser + i * drive.key, m)
        return new, read(params, new, drive)

    return Cell(name, own_init(name, draw), initial_state, step, project, read)
