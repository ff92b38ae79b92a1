"""The convolutional LSTM of Shi et al. (2015), arXiv:1506.04214."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from rnn_jax.arguments import check_positive
from rnn_jax.base import Cell, Params, Shapes, check_shapes
from rnn_jax.cells.lstm import GATES, LSTMState, open_gates
from rnn_jax.schemes import own_init


def convlstm(
    shape: Sequence[int] = (16,), kernel_size: int | Sequence[int] = 3, peephole: bool = False
) -> Cell:
    """An LSTM over a grid in 1, 2 or 3 dimensions: convolutions in place of matrix products.

    i, f, o = sigmoid(W (*) x_t + U (*) h_{t-1} + b),    g = tanh(W (*) x_t + U (*) h_{t-1} + b)
    c_t = f * c_{t-1} + i * g,    h_t = o * tanh(c_t),    y_t = h_t

    Here ``(*)`` is a convolution over the grid with stride 1 and zeros beyond the border ("SAME").

    With a grid X = ``shape`` and a kernel of K = ``kernel_size``, x is ``(*X, D)``, channels last.
    Parameters: ``kernel`` ``(*K, D, 4 * H)``, ``recurrent_kernel`` ``(*K, H, 4 * H)``, ``bias``
    (4 * H,), in the order i, f, g, o. State: ``LSTMState(hidden, cell)``, each ``(*X, H)``.

    Keras ``ConvLSTM1D`` to ``3D`` have the same parameters (their padding is "valid" by default).
    Flax and haiku pack i, g, f, o, have two biases, added, and add 1 to f. The initialisation is
    Flax': LeCun normal kernels; the 1 is in the forget bias here. No `Scheme` knows these
    parameters.

    Args:
      shape: of the grid, 1 to 3 sizes; the default is a short line.
      kernel_size: one for all axes, or one for each.
      peephole: the gates look at the memory at their own place in the grid, i and f at c_{t-1}
        and o at c_t, as in the paper. Adds ``peephole`` ``(*X, 3 * H)``, in the order i, f, o,
        zero at first.

    Raises:
      ValueError: for a grid without 1 to 3 axes, other than one kernel size per axis, sizes below
        1, a ``peephole`` that is no bool; (by ``project``) for an x that does not end in the
        grid and D.
      TypeError: for sizes that are no integers.

    >>> import jax
    >>> cell = convlstm((8, 6))
    >>> params = cell.init(jax.random.key(0), 3, 5)
    >>> state, output = cell(params, cell.initial_state(params), jax.numpy.ones((8, 6, 3)))
    >>> cell, params["kernel"].shape, output.shape
    (<Cell convlstm_8x6>, (3, 3, 3, 20), (8, 6, 5))
    """
    shape = _sizes("shape", shape)
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"convlstm: shape must have 1 to 3 axes, got {shape}")
    if isinstance(kernel_size, Sequence):
        kernel_size = _sizes("kernel_size", kernel_size)
    else:
        kernel_size = (check_positive("convlstm: kernel_size", kernel_size),) * len(shape)
    if len(kernel_size) != len(shape):
        raise ValueError(
            f"convlstm: kernel_size must have one size for each axis of the grid {shape}, "
            f"got {kernel_size}"
        )
    if not isinstance(peephole, bool):
        raise ValueError(f"convlstm: peephole must be a bool, got {peephole!r}")
    return _convlstm(shape, kernel_size, peephole)


def _sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise TypeError(f"convlstm: {name} must be a sequence of integers, got {sizes!r}")
    return tuple(check_positive(f"convlstm: {name}", size) for size in sizes)


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


@functools.cache
def _convlstm(shape: tuple[int, ...], kernel_size: tuple[int, ...], peephole: bool) -> Cell:
    rank = len(shape)
    parts = ["convlstm"]
    if shape != (16,):
        parts.append(_times(shape))
    if kernel_size != (3,) * rank:
        parts.append(f"kernel{_times(kernel_size)}")
    if peephole:
        parts.append("peephole")
    name = "_".join(parts)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        """(..., *X, C) with (*K, C, G): (..., *X, G).

        As one product with the neighbours of each place, beside each other: XLA's own convolutions
        take five times as long in the backward pass of a scan on CPU.
        """
        unpadded = [(0, 0)] * (x.ndim - rank - 1)
        border = [((size - 1) // 2, size // 2) for size in kernel_size]
        x = jnp.pad(x, [*unpadded, *border, (0, 0)])
        neighbours = [
            x[(..., *(slice(i, i + n) for i, n in zip(shift, shape, strict=True)), slice(None))]
            for shift in itertools.product(*map(range, kernel_size))
        ]
        return jnp.concatenate(neighbours, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])

    def draw(key: jax.Array, input_size: int, hidden_size: int, dtype: Any) -> Params:
        width = 4 * hidden_size
        keeps = jnp.array([gate == "forget" for gate in GATES], dtype)
        # The fan-in of a convolution counts the whole window.
        lecun = initializers.lecun_normal(in_axis=range(-rank - 2, -1))
        kernel_key, recurrent_key = jax.random.split(key)
        params = {
            "kernel": lecun(kernel_key, (*kernel_size, input_size, width), dtype),
            "recurrent_kernel": lecun(recurrent_key, (*kernel_size, hidden_size, width), dtype),
            "bias": jnp.repeat(keeps, hidden_size),
        }
        if peephole:
            params["peephole"] = jnp.zeros((*shape, 3 * hidden_size), dtype)
        return params

    def initial_state(params: Params) -> LSTMState:
        zeros = jnp.zeros((*shape, params["recurrent_kernel"].shape[-2]), params["bias"].dtype)
        return LSTMState(zeros, zeros)

    def shapes(got: Shapes) -> Shapes:
        input_size, hidden_size = got["kernel"][-2], got["bias"][0] // 4
        width = 4 * hidden_size
        return {
            "kernel": (*kernel_size, input_size, width),
            "recurrent_kernel": (*kernel_size, hidden_size, width),
            "bias": (width,),
            **({"peephole": (*shape, 3 * hidden_size)} if peephole else {}),
        }

    def project(params: Params, x: jax.Array) -> jax.Array:
        check_shapes(name, params, shapes)
        kernel = params["kernel"]
        expected = (*shape, kernel.shape[-2])
        if x.shape[-rank - 1 :] != expected:
            raise ValueError(f"{name}: the input x must end in {expected}, got {x.shape}")
        drive = convolve(x.astype(kernel.dtype), kernel)
        return drive + params["bias"].reshape((1,) * (x.ndim - 1) + (-1,))

    def step(params: Params, state: LSTMState, drive: jax.Array) -> tuple[LSTMState, jax.Array]:
        a = drive + convolve(state.hidden, params["recurrent_kernel"])
        i, f, g, o = open_gates(a, state.cell, params.get("peephole"))
        cell = f * state.cell + i * g
        hidden = o * jnp.tanh(cell)
        return LSTMState(hidden, cell), hidden

    return Cell(name, own_init(name, draw), initial_state, step, project, space=shape)
