"""Initialisation schemes, and the defaults of six libraries by name.

The same LSTM with the default initialisation of one library or another differs by many orders
of magnitude in how much gradient reaches its first step: forget bias 0 or 1, biases zero or
uniform, orthogonal per gate or over the fused kernel (whose gate blocks are then *not*
orthogonal), input scale. A comparison of cells therefore pins the scheme.

A `Scheme` draws each part of a packed-kernel cell from its `Layout`. Gains, biases and every
other number of a scheme may be traced, so a sweep over gain and seed is one ``vmap``:

>>> import jax, jax.numpy as jnp, rnn_jax
>>> from rnn_jax import schemes
>>> def draw(key, gain):
...     return rnn_jax.elman().init(key, 3, 8, scheme=schemes.orthogonal(gain))
>>> keys = jax.random.split(jax.random.key(0), 5)
>>> jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(keys, jnp.array([0.5, 1.0]))["bias"].shape
(5, 2, 8)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from rnn_jax.base import InitFn, Params


@dataclasses.dataclass(frozen=True)
class Layout:
    """The packed parameters of a cell: what a scheme has to know to draw them.

    Attributes:
      cell: the cell's name, for error messages.
      input_size: D.
      hidden_size: H.
      gates: the names of the G gates in the order in which they are packed.
      keep: the gate that keeps the state when it saturates (LSTM "forget", GRU "update"), where
        a forget bias goes; None if the cell has none.
      recurrent_bias: the gate with a second bias inside the recurrence (GRU "candidate", b_hn).
      dtype: of all parameters.
    """

    cell: str
    input_size: int
    hidden_size: int
    gates: tuple[str, ...]
    keep: str | None
    recurrent_bias: str | None
    dtype: Any

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(
                    f"{self.cell}: {name} must be an integer of at least 1, got {size!r}"
                )


Draw = Callable[[jax.Array, Layout], jax.Array]
"""Draws one parameter of a layout from a key."""


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How to draw each part of a packed-kernel cell; ``check`` refuses layouts without sense."""

    name: str
    kernel: Draw
    recurrent_kernel: Draw
    bias: Draw
    recurrent_bias: Draw
    check: Callable[[Layout], None] = lambda layout: None


def packed_init(
    cell: str,
    gates: tuple[str, ...],
    *,
    keep: str | None = None,
    recurrent_bias: str | None = None,
    extra: Callable[[jax.Array, Layout], dict[str, jax.Array]] | None = None,
    default: Scheme | None = None,
) -> InitFn:
    """The ``init`` of a packed-kernel cell, with the fields of its `Layout`.

    It draws kernel (D, G * H), recurrent_kernel (H, G * H), bias (G * H,) and, where a gate has
    a second bias inside the recurrence, recurrent_bias (H,); ``extra`` draws what else the cell
    has (peepholes, say), whatever the scheme. Without a scheme it follows ``default``, the paper's
    own, or else `orthogonal`. Its errors: ValueError if the scheme makes no sense for the cell or
    a size is below 1, TypeError if the scheme is none.
    """

    def init(
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Scheme | None = None,
        dtype: Any = None,
    ) -> Params:
        if scheme is None:
            scheme = default or orthogonal()
        if not isinstance(scheme, Scheme):
            raise TypeError(f"{cell}: scheme must be a schemes.Scheme or None, got {scheme!r}")
        dtype, wide = _dtypes(dtype)
        layout = Layout(cell, input_size, hidden_size, gates, keep, recurrent_bias, wide)
        scheme.check(layout)
        parts = ["kernel", "recurrent_kernel", "bias"]
        if recurrent_bias is not None:
            parts.append("recurrent_bias")
        keys = jax.random.split(key, len(parts))
        params = {
            part: getattr(scheme, part)(part_key, layout)
            for part, part_key in zip(parts, keys, strict=True)
        }
        if extra is not None:
            params |= extra(jax.random.fold_in(key, len(parts)), layout)
        return {part: value.astype(dtype) for part, value in params.items()}

    return init


def own_init(cell: str, draw: Callable[[jax.Array, int, int, Any], Params]) -> InitFn:
    """The ``init`` of a cell whose parameters no `Scheme` knows: that of its paper.

    ``draw(key, input_size, hidden_size, dtype)`` draws in at least float32. The errors of the
    result: ValueError for any scheme at all or for sizes below 1; names the cell.
    """

    def init(
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Scheme | None = None,
        dtype: Any = None,
    ) -> Params:
        if scheme is not None:
            name = getattr(scheme, "name", scheme)
            raise ValueError(
                f"scheme {name}: makes no sense for the cell {cell}, whose parameters are not "
                "packed kernels; without a scheme it follows its paper"
            )
        dtype, wide = _dtypes(dtype)
        Layout(cell, input_size, hidden_size, (), None, None, wide)  # checks the sizes
        params = draw(key, int(input_size), int(hidden_size), wide)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    return init


def _dtypes(dtype: Any) -> tuple[Any, Any]:
    """The dtype asked for, and the one to draw in: there is no QR in bfloat16."""
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    return dtype, jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


# ---- The schemes of the literature --------------------------------------------------------------


def orthogonal(gain: jax.typing.ArrayLike = 1.0, forget_bias: jax.typing.ArrayLike = 0.0) -> Scheme:
    """Each gate's recurrent kernel ``gain`` times a Haar-random orthogonal matrix.

    Input kernels are normal with variance 1 / D (LeCun), biases zero but for the ``forget_bias``
    of the gate that keeps the state. Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.

    Raises:
      ValueError: (by ``init``) for a forget bias in a cell without a gate that keeps the state.
    """
    return _standard("orthogonal", _orthogonal(gain), forget_bias)


def gaussian(gain: jax.typing.ArrayLike = 1.0, forget_bias: jax.typing.ArrayLike = 0.0) -> Scheme:
    """Recurrent entries N(0, gain**2 / H), the ensemble of mean-field theory; rest as `orthogonal`.

    At gain 1 the spectral radius tends to 1 but the largest singular value to 2.
    Sompolinsky, Crisanti and Sommers (1988), doi:10.1103/PhysRevLett.61.259.
    """

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        size = layout.hidden_size
        shape = (size, len(layout.gates) * size)
        scale = jnp.asarray(gain, layout.dtype) * size**-0.5
        return scale * jax.random.normal(key, shape, layout.dtype)

    return _standard("gaussian", recurrent, forget_bias)


def identity(gain: jax.typing.ArrayLike = 1.0, forget_bias: jax.typing.ArrayLike = 0.0) -> Scheme:
    """Each gate's recurrent kernel ``gain`` times the identity; rest as `orthogonal`.

    With ReLU units this is the IRNN of Le, Jaitly and Hinton (2015), arXiv:1504.00941.
    """

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        del key
        eye = jnp.asarray(gain, layout.dtype) * jnp.eye(layout.hidden_size, dtype=layout.dtype)
        return jnp.concatenate([eye] * len(layout.gates), axis=1)

    return _standard("identity", recurrent, forget_bias)


# ---- The defaults of six libraries --------------------------------------------------------------


def flax_linen() -> Scheme:
    """flax.linen (0.12): LeCun normal input, orthogonal per gate, biases zero, forget bias 0."""
    return dataclasses.replace(orthogonal(), name="flax_linen")


def flax_nnx() -> Scheme:
    """flax.nnx (0.12) OptimizedLSTMCell, GRUCell, SimpleCell: as linen but orthogonal *fused*.

    The rows of the (H, G * H) matrix are orthonormal; a gate block alone is not orthogonal.
    """
    return dataclasses.replace(orthogonal(), name="flax_nnx", recurrent_kernel=_fused_orthogonal)


def keras() -> Scheme:
    """Keras (3.15): Glorot uniform and orthogonal over the fused kernels, LSTM forget bias 1."""

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        return _bias(1.0 if layout.cell.startswith("lstm") else 0.0)(key, layout)

    def kernel(key: jax.Array, layout: Layout) -> jax.Array:
        shape = (layout.input_size, len(layout.gates) * layout.hidden_size)
        return initializers.glorot_uniform()(key, shape, layout.dtype)

    return Scheme("keras", kernel, _fused_orthogonal, bias, _zero_recurrent_bias)


def torch() -> Scheme:
    """torch.nn (2.x): everything uniform in +-1 / sqrt(H), biases included.

    PyTorch adds two biases per gate. Where this library has one it is the sum of two draws;
    b_in and b_hn of the GRU that resets after the product stay apart.
    """

    def uniform(key: jax.Array, layout: Layout, shape: tuple[int, ...]) -> jax.Array:
        limit = layout.hidden_size**-0.5
        return jax.random.uniform(key, shape, layout.dtype, -limit, limit)

    def kernel(key: jax.Array, layout: Layout) -> jax.Array:
        return uniform(key, layout, (layout.input_size, len(layout.gates) * layout.hidden_size))

    def recurrent_kernel(key: jax.Array, layout: Layout) -> jax.Array:
        return uniform(key, layout, (layout.hidden_size, len(layout.gates) * layout.hidden_size))

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        shape = (2, len(layout.gates), layout.hidden_size)
        first, second = uniform(key, layout, shape)
        doubled = jnp.array([gate != layout.recurrent_bias for gate in layout.gates])
        return (first + jnp.where(doubled[:, None], second, 0)).reshape(-1)

    def recurrent_bias(key: jax.Array, layout: Layout) -> jax.Array:
        return uniform(key, layout, (layout.hidden_size,))

    return Scheme("torch", kernel, recurrent_kernel, bias, recurrent_bias)


def haiku() -> Scheme:
    """dm-haiku (0.0.17) VanillaRNN, LSTM, GRU: truncated normals, effective LSTM forget bias 1.

    ``hk.Linear`` cuts N(0, 1 / fan_in) at two deviations without restoring the variance, so its
    deviation is 0.88 / sqrt(fan_in), and the LSTM's one matrix has fan_in D + H; ``hk.GRU``
    restores it. The LSTM adds 1 to the forget gate in its equations, here 1 in the bias.
    """

    def truncated(key: jax.Array, shape: tuple[int, int], fan_in: int, layout: Layout) -> jax.Array:
        if layout.cell.startswith("gru"):
            return initializers.variance_scaling(1.0, "fan_in", "truncated_normal")(
                key, shape, layout.dtype
            )
        draws = jax.random.truncated_normal(key, -2.0, 2.0, shape, layout.dtype)
        return draws * fan_in**-0.5

    def fan_in(layout: Layout, own: int) -> int:
        joint = layout.input_size + layout.hidden_size
        return joint if layout.cell.startswith("lstm") else own

    def kernel(key: jax.Array, layout: Layout) -> jax.Array:
        shape = (layout.input_size, len(layout.gates) * layout.hidden_size)
        return truncated(key, shape, fan_in(layout, layout.input_size), layout)

    def recurrent_kernel(key: jax.Array, layout: Layout) -> jax.Array:
        shape = (layout.hidden_size, len(layout.gates) * layout.hidden_size)
        return truncated(key, shape, fan_in(layout, layout.hidden_size), layout)

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        return _bias(1.0 if layout.cell.startswith("lstm") else 0.0)(key, layout)

    return Scheme("haiku", kernel, recurrent_kernel, bias, _zero_recurrent_bias)


def equinox() -> Scheme:
    """equinox (0.13) LSTMCell, GRUCell: everything uniform in +-1 / sqrt(H), one bias per gate."""

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        limit = layout.hidden_size**-0.5
        shape = (len(layout.gates) * layout.hidden_size,)
        return jax.random.uniform(key, shape, layout.dtype, -limit, limit)

    return dataclasses.replace(torch(), name="equinox", bias=bias)


PRESETS: Mapping[str, Callable[[], Scheme]] = {
    "flax_linen": flax_linen,
    "flax_nnx": flax_nnx,
    "keras": keras,
    "torch": torch,
    "haiku": haiku,
    "equinox": equinox,
}
"""The six libraries' defaults by name."""


# ---- Parts --------------------------------------------------------------------------------------


def _standard(name: str, recurrent_kernel: Draw, forget_bias: jax.typing.ArrayLike) -> Scheme:
    def check(layout: Layout) -> None:
        # A traced bias counts as given: its value cannot be looked at.
        traced = isinstance(forget_bias, jax.core.Tracer)
        given = traced or np.any(np.asarray(forget_bias) != 0)
        if given and layout.keep is None:
            raise ValueError(
                f"the scheme {name} has a forget bias, but the cell {layout.cell} has no gate "
                "that keeps the state"
            )

    return Scheme(
        name, _lecun_normal, recurrent_kernel, _bias(forget_bias), _zero_recurrent_bias, check
    )


def _per_gate(draw: Callable[[jax.Array], jax.Array], key: jax.Array, layout: Layout) -> jax.Array:
    """One independent draw (rows, H) for each gate, packed on the last axis."""
    blocks = jax.vmap(draw)(jax.random.split(key, len(layout.gates)))
    return jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1)


def _lecun_normal(key: jax.Array, layout: Layout) -> jax.Array:
    shape = (layout.input_size, len(layout.gates) * layout.hidden_size)
    return initializers.lecun_normal()(key, shape, layout.dtype)


def _orthogonal(gain: jax.typing.ArrayLike) -> Draw:
    def draw(key: jax.Array, layout: Layout) -> jax.Array:
        # JAX fixes the sign of the QR factor, without which the draw would not be Haar.
        square = (layout.hidden_size, layout.hidden_size)
        block = lambda gate_key: initializers.orthogonal()(gate_key, square, layout.dtype)
        return jnp.asarray(gain, layout.dtype) * _per_gate(block, key, layout)

    return draw


def _fused_orthogonal(key: jax.Array, layout: Layout) -> jax.Array:
    shape = (layout.hidden_size, len(layout.gates) * layout.hidden_size)
    return initializers.orthogonal()(key, shape, layout.dtype)


def _bias(forget_bias: jax.typing.ArrayLike) -> Draw:
    """Zero, but for the gate that keeps the state."""

    def draw(key: jax.Array, layout: Layout) -> jax.Array:
        del key
        keeps = jnp.array([gate == layout.keep for gate in layout.gates])
        bias = jnp.where(keeps, forget_bias, 0.0).astype(layout.dtype)
        return jnp.repeat(bias, layout.hidden_size)

    return draw


def _zero_recurrent_bias(key: jax.Array, layout: Layout) -> jax.Array:
    del key
    return jnp.zeros(layout.hidden_size, layout.dtype)
