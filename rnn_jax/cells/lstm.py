"""Long short-term memory: Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735,
with the forget gate of Gers, Schmidhuber and Cummins (2000), doi:10.1162/089976600300015015,
and the variants that differ from it by one idea each.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_positive
from rnn_jax.base import Cell, Params, packed_project
from rnn_jax.schemes import Draw, Layout, drawn_shapes, packed_init

GATES = ("input", "forget", "candidate", "output")
EPSILON = 1e-5
"""Added to the variance before a layer is normalised: h_0 U is zero, and so is its variance."""


class LSTMState(NamedTuple):
    """The hidden vector h (H,), bounded by 1, and the memory cell c (H,), unbounded.

    With a projection h is (P,) and unbounded.
    """

    hidden: jax.Array
    cell: jax.Array


class LSTMGates(NamedTuple):
    """The gate values of one step, each (H,): i, f and o in (0, 1), the candidate g in (-1, 1)."""

    input: jax.Array
    forget: jax.Array
    candidate: jax.Array
    output: jax.Array


def lstm_gates(params: Params, state: LSTMState, drive: jax.Array) -> LSTMGates:
    """i, f, g, o of the step that leaves ``state``: what the cell multiplies its state by.

    Of any form of the cell: the form shows in the parameters.
    """
    recurrent = state.hidden @ params["recurrent_kernel"]
    if "recurrent_gain" in params:
        recurrent = params["recurrent_gain"] * _standardise(recurrent)
    return open_gates(drive + recurrent, state.cell, params.get("peephole"))


def open_gates(
    preactivations: jax.Array, cell: jax.Array, peephole: jax.Array | None = None
) -> LSTMGates:
    """i, f, g, o from their packed pre-activations (..., G * H) and the memory c_{t-1} (..., H).

    Three blocks are those of a coupled cell. ``peephole`` holds the weights p_i, p_f, p_o or, for
    a coupled cell, p_f, p_o, packed on the last axis; it has the rank of ``cell``.
    """
    gates = preactivations.shape[-1] // cell.shape[-1]
    i, f, g, o = _with_input_gate(jnp.split(preactivations, gates, axis=-1), gates)
    if peephole is not None:
        p_i, p_f, p_o = _peepholes(peephole, gates)
        i, f = i + p_i * cell, f + p_f * cell
    i, f, g = jax.lax.logistic(i), jax.lax.logistic(f), jnp.tanh(g)
    if peephole is not None:
        o = o + p_o * (f * cell + i * g)
    return LSTMGates(i, f, g, jax.lax.logistic(o))


def _with_input_gate(blocks: list[jax.Array], gates: int) -> list[jax.Array]:
    """The blocks of a coupled cell with those of its input gate, 1 - sigmoid(a) = sigmoid(-a)."""
    return blocks if gates == 4 else [-blocks[0], *blocks]


def _peepholes(peephole: jax.Array, gates: int) -> list[jax.Array]:
    """p_i, p_f, p_o."""
    return _with_input_gate(jnp.split(peephole, gates - 1, axis=-1), gates)


def _standardise(z: jax.Array) -> jax.Array:
    """The last axis with mean 0 and variance 1."""
    centred = z - z.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + EPSILON)


def lstm(
    peephole: bool = False,
    projection: int | None = None,
    coupled: bool = False,
    layer_norm: bool = False,
) -> Cell:
    """Long short-term memory with forget gates.

    i, f, o = sigmoid(x_t W + h_{t-1} U + b),    g = tanh(x_t W + h_{t-1} U + b)
    c_t = f * c_{t-1} + i * g,    h_t = o * tanh(c_t),    y_t = h_t

    Parameters: ``kernel`` (D, 4 * H), ``recurrent_kernel`` (H, 4 * H), ``bias`` (4 * H,), in the
    order i, f, g, o. State: ``LSTMState(hidden, cell)``, each (H,).

    The order of gates is PyTorch's, Keras' and Flax'; haiku packs i, g, f, o and adds 1 to f.
    Flax carries (c, h), PyTorch and Keras (h, c). PyTorch has two biases per gate, added. The
    default scheme leaves the forget bias at 0, as Flax does; Keras and haiku have 1, which
    Jozefowicz, Zaremba and Sutskever (2015) recommend: ``schemes.orthogonal(forget_bias=1.0)``.

    Args:
      peephole: the gates look at the memory, i and f at c_{t-1} and o at c_t, each unit at its
        own: p * c is added before the sigmoid. Gers, Schraudolph and Schmidhuber (2002), JMLR 3.
        Adds ``peephole`` (3 * H,), in the order i, f, o; zero at first, under any scheme.
      projection: the size P of h_t = (o * tanh(c_t)) R: the memory may be larger than what is fed
        back. Sak, Senior and Beaufays (2014), arXiv:1402.1128; PyTorch's ``proj_size``. ``hidden``
        is (P,), ``recurrent_kernel`` (P, 4 * H). Adds ``projection_kernel`` R (H, P), uniform in
        +-1 / sqrt(H) at first, as in PyTorch, under any scheme.
      coupled: i = 1 - f, so the gates are f, g, o and the kernels 3 * H wide; the CIFG of Greff
        et al. (2017), arXiv:1503.04069.
      layer_norm: N(z) = (z - mean(z)) / sqrt(var(z) + 1e-5) of the input, of the recurrence and of
        what is read of the memory; Ba, Kiros and Hinton (2016), arXiv:1607.06450, appendix:
        i, f, o = sigmoid(alpha_x * N(x_t W) + alpha_h * N(h_{t-1} U) + b), g likewise, and
        h_t = o * tanh(alpha_c * N(c_t) + beta_c). As in the paper all gates are normalised as one
        vector (TensorFlow's ``LayerNormBasicLSTMCell`` takes each gate alone). The paper's two
        other shifts are only ever added to b, and so are b here. Adds ``input_gain`` and
        ``recurrent_gain`` (4 * H,), ``cell_gain`` and ``cell_shift`` (H,); gains are 1 at first,
        the shift 0.

    Every option goes with every other, but for peepholes with layer normalisation.

    Raises:
      ValueError: for peepholes with layer normalisation (no paper says whether they look at the
        memory before or after it), switches that are no bools, or a projection below 1.
      TypeError: for a projection that is no integer.

    >>> import jax
    >>> cell = lstm()
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, output = cell(params, cell.initial_state(params), jax.numpy.ones(3))
    >>> state.cell.shape, bool((state.hidden == output).all())
    ((4,), True)
    >>> cell = lstm(projection=2, coupled=True)
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> cell, params["recurrent_kernel"].shape
    (<Cell lstm_coupled_projection2>, (2, 12))
    """
    for option, value in (("peephole", peephole), ("coupled", coupled), ("layer_norm", layer_norm)):
        if not isinstance(value, bool):
            raise ValueError(f"lstm: {option} must be a bool, got {value!r}")
    if projection is not None:
        projection = check_positive("lstm: projection", projection)
    if peephole and layer_norm:
        raise ValueError(
            "lstm: peephole and layer_norm do not go together, got both: no paper says whether "
            "the gates look at the memory before or after it is normalised"
        )
    return _lstm(peephole, projection, coupled, layer_norm)


@functools.cache
def _lstm(peephole: bool, projection: int | None, coupled: bool, layer_norm: bool) -> Cell:
    options = {
        "peephole": peephole,
        "coupled": coupled,
        f"projection{projection}": projection is not None,
        "layer_norm": layer_norm,
    }
    name = "_".join(["lstm", *(option for option, chosen in options.items() if chosen)])
    gates = GATES[1:] if coupled else GATES

    extra = _further_parameters(len(gates), peephole, projection, layer_norm)
    # A projection has another matrix in the loop, and a normalised memory no slope at zero.
    critical_gain = lambda b: jnp.full_like(b, 2) if coupled else 4 * jax.nn.sigmoid(-b)
    init = packed_init(
        name,
        gates,
        keep="forget",
        extra=extra,
        recurrent_size=projection,
        critical_gain=None if projection or layer_norm else critical_gain,
    )

    def initial_state(params: Params) -> LSTMState:
        zeros = jnp.zeros_like(params["recurrent_kernel"][:, 0])
        if projection is None:
            return LSTMState(zeros, zeros)
        return LSTMState(zeros, jnp.zeros_like(params["projection_kernel"][:, 0]))

    def normalised_input(params: Params, product: jax.Array) -> jax.Array:
        gain = params["input_gain"].reshape((1,) * (product.ndim - 1) + (-1,))
        return gain * _standardise(product)

    def step(params: Params, state: LSTMState, drive: jax.Array) -> tuple[LSTMState, jax.Array]:
        i, f, g, o = lstm_gates(params, state, drive)
        cell = f * state.cell + i * g
        read = (
            params["cell_gain"] * _standardise(cell) + params["cell_shift"] if layer_norm else cell
        )
        hidden = o * jnp.tanh(read)
        if projection is not None:
            hidden = hidden @ params["projection_kernel"]
        return LSTMState(hidden, cell), hidden

    return Cell(
        name,
        init,
        initial_state,
        step,
        packed_project(
            name,
            len(gates),
            extra=drawn_shapes(init, extra),
            recurrent_size=projection,
            transform=normalised_input if layer_norm else None,
        ),
        jacobian=None if layer_norm else _jacobian,
    )


def _further_parameters(
    gates: int, peephole: bool, projection: int | None, layer_norm: bool
) -> dict[str, Draw]:
    """What the options add to the packed kernels of so many gates, and how each is drawn."""

    def constant(value: float, blocks: int) -> Draw:
        return lambda key, layout: jnp.full(blocks * layout.hidden_size, value, layout.dtype)

    def projection_kernel(key: jax.Array, layout: Layout) -> jax.Array:
        limit = layout.hidden_size**-0.5
        shape = (layout.hidden_size, layout.recurrent_shape[0])
        return jax.random.uniform(key, shape, layout.dtype, -limit, limit)

    draws: dict[str, Draw] = {}
    if peephole:
        draws["peephole"] = constant(0, gates - 1)
    if projection is not None:
        draws["projection_kernel"] = projection_kernel
    if layer_norm:
        draws |= {
            "input_gain": constant(1, gates),
            "recurrent_gain": constant(1, gates),
            "cell_gain": constant(1, 1),
            "cell_shift": constant(0, 1),
        }
    return draws


def _jacobian(params: Params, state: LSTMState, drive: jax.Array) -> jax.Array:
    """Of every form but the one with layer normalisation: the form shows in the parameters."""
    i, f, g, o = lstm_gates(params, state, drive)
    gates = params["recurrent_kernel"].shape[-1] // state.cell.size
    squashed = jnp.tanh(f * state.cell + i * g)
    u_i, u_f, u_g, u_o = _with_input_gate(jnp.split(params["recurrent_kernel"].T, gates), gates)
    by_i, by_f, by_o = g * i * (1 - i), state.cell * f * (1 - f), squashed * o * (1 - o)
    cell_by_hidden = by_f[:, None] * u_f + by_i[:, None] * u_i + (i * (1 - g**2))[:, None] * u_g
    cell_by_cell, read = f, o * (1 - squashed**2)
    if "peephole" in params:
        p_i, p_f, p_o = _peepholes(params["peephole"], gates)
        cell_by_cell = cell_by_cell + by_f * p_f + by_i * p_i
        read = read + by_o * p_o
    hidden_by_hidden = by_o[:, None] * u_o + read[:, None] * cell_by_hidden
    hidden_by_cell = jnp.diag(read * cell_by_cell)
    if "projection_kernel" in params:
        projected = params["projection_kernel"].T
        hidden_by_hidden, hidden_by_cell = (
            projected @ hidden_by_hidden,
            projected @ hidden_by_cell,
        )
    return jnp.block([[hidden_by_hidden, hidden_by_cell], [cell_by_hidden, jnp.diag(cell_by_cell)]])
