"""The ``init`` of a cell, from a scheme or from its paper."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_key
from rnn_jax.base import InitFn, Params, Shapes
from rnn_jax.schemes.layout import CriticalGain, Draw, Layout, Scheme
from rnn_jax.schemes.literature import gaussian, orthogonal


def packed_init(
    cell: str,
    gates: tuple[str, ...],
    *,
    keep: str | None = None,
    recurrent_bias: str | None = None,
    extra: Mapping[str, Draw] | None = None,
    default: Scheme | None = None,
    recurrent_size: int | None = None,
    recurrent: bool = True,
    critical_gain: CriticalGain | None = None,
) -> InitFn:
    """The ``init`` of a packed-kernel cell, with the fields of its `Layout`.

    It draws kernel (D, G * H), recurrent_kernel (H, G * H) or (recurrent_size, G * H), bias
    (G * H,) and, where a gate has a second bias inside the recurrence, recurrent_bias (H,);
    ``extra`` draws what else the cell has (peepholes, say) by name, whatever the scheme. Without
    a scheme it follows ``default``, the paper's own, or else `orthogonal`. A cell that is not
    ``recurrent`` feeds nothing back through a matrix and has no recurrent_kernel. Its errors:
    ValueError if the scheme makes no sense for the cell, a size is below 1 or the dtype is not a
    floating one, TypeError if the scheme is none.

    Raises:
      ValueError: for an ``extra`` parameter with the name of another one.
      TypeError: for one that is no function, or a ``default`` that is no scheme; names the cell.
    """
    parts = ["kernel", *(["recurrent_kernel"] if recurrent else []), "bias"]
    if recurrent_bias is not None:
        parts.append("recurrent_bias")
    for part, draw in (extra or {}).items():
        if part in parts:
            raise ValueError(f"{cell}: extra must have other names than {parts}, got {part!r}")
        if not callable(draw):
            raise TypeError(
                f"{cell}: extra[{part!r}] must be a function of a key and a layout, got {draw!r}"
            )
    if default is not None:
        _check_scheme(cell, default)

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
        _check_scheme(cell, scheme)
        dtype, wide = _dtypes(cell, dtype)
        layout = Layout(
            cell,
            input_size,
            hidden_size,
            gates,
            keep,
            recurrent_bias,
            wide,
            recurrent_size,
            critical_gain,
        )
        scheme.check(layout)
        check_key(cell, key)
        keys = jax.random.split(key, len(parts))
        params = {
            part: getattr(scheme, part)(part_key, layout)
            for part, part_key in zip(parts, keys, strict=True)
        }
        for number, (part, draw) in enumerate((extra or {}).items(), start=len(parts)):
            params[part] = draw(jax.random.fold_in(key, number), layout)
        return {part: value.astype(dtype) for part, value in params.items()}

    return init


def drawn_shapes(init: InitFn, parts: Collection[str]) -> Callable[[int, int], Shapes]:
    """The shapes, from D and H, of some parameters of a `packed_init`, the same under any scheme.

    They are found by tracing it, so nothing is drawn.
    """

    @functools.cache
    def shapes(input_size: int, hidden_size: int) -> Shapes:
        if not parts:
            return {}
        draw = lambda key: init(key, input_size, hidden_size, scheme=gaussian())
        drawn = jax.eval_shape(draw, jax.random.key(0))
        return {part: drawn[part].shape for part in parts}

    return shapes


def own_init(cell: str, draw: Callable[..., Params]) -> InitFn:
    """The ``init`` of a cell whose parameters no `Scheme` knows: that of its paper.

    ``draw(key, input_size, hidden_size, dtype, **numbers)`` draws in at least float32; the further
    sizes and the numbers of its distribution, which may be traced, are keyword arguments of the
    result too. The errors of the result: ValueError for any scheme at all, for sizes below 1 or a
    dtype that is not a floating one, TypeError for what is no scheme or for an argument that there
    is not; names the cell.
    """
    signature = inspect.signature(draw)

    def init(
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Scheme | None = None,
        dtype: Any = None,
        **numbers: Any,
    ) -> Params:
        if scheme is not None:
            _check_scheme(cell, scheme)
            raise ValueError(
                f"scheme {scheme.name}: makes no sense for the cell {cell}, whose parameters are "
                "not packed kernels; without a scheme it follows its paper"
            )
        try:
            signature.bind(key, input_size, hidden_size, dtype, **numbers)
        except TypeError as error:
            raise TypeError(f"{cell}: init {error}") from None
        dtype, wide = _dtypes(cell, dtype)
        Layout(cell, input_size, hidden_size, (), None, None, wide)  # checks the sizes
        check_key(cell, key)
        params = draw(key, int(input_size), int(hidden_size), wide, **numbers)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    return init


def _check_scheme(cell: str, scheme: Any) -> None:
    if not isinstance(scheme, Scheme):
        raise TypeError(
            f"{cell}: scheme must be a schemes.Scheme, as schemes.orthogonal() makes it, or None, "
            f"got {scheme!r}"
        )


def _dtypes(cell: str, dtype: Any) -> tuple[Any, Any]:
    """The dtype asked for, and the one to draw in: there is no QR in bfloat16."""
    asked = dtype
    try:
        dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{cell}: dtype must be a floating-point dtype, got {asked!r}")
    return dtype, jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
