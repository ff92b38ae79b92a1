"""What a recurrent cell is: one record of pure functions.

Dimension glossary, used by every docstring of the package:

====  =========================================================
T     time steps; sequences are time-major, ``(T, D)``
B     batch; cells are unbatched, ``jax.vmap`` adds the axis
D     input features
H     hidden units
G     gates packed on the last axis of a kernel, ``(D, G * H)``
S     the flat state, in the order of ``ravel_pytree``
====  =========================================================
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import shown

Params = Any
"""A pytree of arrays, for most cells a dict with packed kernels."""
State = Any
"""A named record (a ``NamedTuple``) of arrays."""
Drive = Any
"""The part of a step that depends on the input alone."""
PyTree = Any
Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of parameters by name."""


class InitFn(Protocol):
    """Draws parameters; ``scheme=None`` is `schemes.orthogonal`, ``dtype=None`` JAX's default."""

    def __call__(
        self,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Any = None,
        dtype: Any = None,
    ) -> Params: ...


class InitialStateFn(Protocol):
    """The unbatched state before the first step, in the dtype of the parameters."""

    def __call__(self, params: Params, /) -> State: ...


class StepFn(Protocol):
    """One step, s_t, y_t = f(s_{t-1}, drive_t): same structure, shapes and dtypes of the state."""

    def __call__(
        self, params: Params, state: State, drive: Drive, /
    ) -> tuple[State, jax.Array]: ...


class ProjectFn(Protocol):
    """The input-only part of a step, for any leading axes of ``x``."""

    def __call__(self, params: Params, x: jax.Array, /) -> Drive: ...


class PrepareFn(Protocol):
    """What depends on the parameters alone, computed once for all the steps of a sequence."""

    def __call__(self, params: Params, /) -> Params: ...


class ReadFn(Protocol):
    """The output as a function of the *new* state, y_t = g(s_t, drive_t)."""

    def __call__(self, params: Params, state: State, drive: Drive, /) -> jax.Array: ...


class JacobianFn(Protocol):
    """The closed form of ds_t/ds_{t-1}, shape (S, S), S in the order of ``ravel_pytree``."""

    def __call__(self, params: Params, state: State, drive: Drive, /) -> jax.Array: ...


class HiddenState(NamedTuple):
    """The state of a cell that carries its hidden vector and nothing else."""

    hidden: jax.Array


def identity_projection(params: Params, x: jax.Array) -> Drive:
    """The drive of a cell that has no input-only part: the input itself."""
    del params
    return x


def no_preparation(params: Params) -> Params:
    """The parameters as they are, of a cell whose steps share no other work."""
    return params


def read_hidden(params: Params, state: Any, drive: Drive) -> jax.Array:
    """The output of a cell that shows its hidden vector: y_t = h_t."""
    del params, drive
    return state.hidden


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Cell:
    """A recurrent cell: a hashable record of pure functions, and itself a scan body.

    s_t, y_t = step(params, s_{t-1}, project(params, x_t)),    y_t = read(params, s_t, drive_t)

    Splitting off ``project`` lets a caller compute it for all time steps at once. ``read``
    repeats what ``step`` returns as its output, as a function of the new state alone, so that
    instruments can perturb a state *before* it is read and obtain the total derivative dL/ds_t.

    A cell is a static pytree: it passes through ``jit``, ``vmap`` and ``scan`` like a constant.
    Factories are memoised, so equal options give the same cell and hit the same jit cache.

    Where all steps need the same costly function of the parameters (an orthogonal matrix, say),
    ``prepare_params`` puts its value into the parameters, and everything that takes parameters
    accepts them prepared or not, with the same result. `unroll` prepares them once per sequence.

    ``space`` are the axes of one input before its features: (B,) for a batch as one state, the
    height and width of images. A ``stochastic`` cell draws masks from keys that come with its
    inputs, see `combinators.keyed`. ``parts`` are the cells that a stack is made of.
    ``exact_gradients`` is False where the backward pass changes the derivative on purpose
    (`remedies.clip_cotangents`): instruments refuse such a cell.

    >>> import functools, jax, jax.numpy as jnp, rnn_jax
    >>> cell = rnn_jax.gru()
    >>> params = cell.init(jax.random.key(0), 3, 5)
    >>> state, outputs = jax.lax.scan(
    ...     functools.partial(cell, params), cell.initial_state(params), jnp.ones((7, 3)))
    >>> outputs.shape
    (7, 5)
    """

    name: str
    init: InitFn
    initial_state: InitialStateFn
    step: StepFn
    project: ProjectFn = identity_projection
    read: ReadFn = read_hidden
    jacobian: JacobianFn | None = None
    prepare_params: PrepareFn = no_preparation
    space: tuple[int, ...] = ()
    stochastic: bool = False
    parts: tuple["Cell", ...] = ()
    exact_gradients: bool = True

    def __call__(self, params: Params, state: State, x: jax.Array) -> tuple[State, jax.Array]:
        """One step from the raw input: ``(state, output)``, the order of ``lax.scan``."""
        return self.step(params, state, self.project(params, x))

    def __repr__(self) -> str:
        return f"<Cell {self.name}>"


_P = ParamSpec("_P")
_T = TypeVar("_T")


def memoised(factory: Callable[_P, _T]) -> Callable[_P, _T]:
    """`functools.cache` for what takes cells.

    What cannot be hashed, such as a list of cells, is no cell: the factory itself says so.
    """
    cached: Any = functools.cache(factory)

    @functools.wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            hash((args, *kwargs.items()))
        except TypeError:
            return factory(*args, **kwargs)
        return cached(*args, **kwargs)

    return make


def derived(cell: Cell, name: str, **parts: Any) -> Cell:
    """A cell with the parts of another where nothing else is given.

    Not `dataclasses.replace`: what is done to a linear cell need not be linear, and the closed
    Jacobian holds for the cell as it was.
    """
    fields = {field.name: getattr(cell, field.name) for field in dataclasses.fields(Cell)}
    return Cell(**fields | {"name": name, "jacobian": None, "parts": ()} | parts)


class UnrollFn(Protocol):
    """A whole sequence through a layer, with the arguments and results of `rnn_jax.unroll`."""

    def __call__(self, params: Params, xs: jax.Array, **options: Any) -> tuple[State, Any]: ...


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layer:
    """What a whole sequence passes through: a pair of functions, ``init`` and ``unroll``.

    Unlike a `Cell` it need not be causal (it may read in both directions), so it has no step.
    `rnn_jax.unroll` takes a layer as it takes a cell; every cell serves where a layer is asked for.
    ``parts`` are the cells and layers that it is made of.
    """

    name: str
    init: InitFn
    unroll: UnrollFn
    stochastic: bool = False
    parts: tuple["Cell | Layer", ...] = ()

    def __repr__(self) -> str:
        return f"<Layer {self.name}>"


class CoefficientsFn(Protocol):
    """The multiplier a_t and the offset b_t of a linear recurrence, arrays of one shape."""

    def __call__(self, params: Params, drive: Drive, /) -> tuple[jax.Array, jax.Array]: ...


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, repr=False)
class LinearCell(Cell):
    """A cell that is linear in its state, elementwise: z_t = a_t * z_{t-1} + b_t.

    a_t and b_t depend on the input alone, so that an associative scan computes all steps at once,
    see `rnn_jax.unroll_parallel`. z is the state as one array, real or complex; ``pack`` and
    ``unpack``, which are linear over the real numbers, lead there and back. A step is computed in
    the dtype of the coefficients, which may be wider than that of the state, and rounded to the
    latter: in bfloat16 there is nothing between a multiplier of 0.996 and 1, and nothing complex.
    Make one with `linear_cell`, which derives ``step`` from the coefficients.
    """

    coefficients: CoefficientsFn = dataclasses.field(kw_only=True)
    pack: Callable[[State], jax.Array] = dataclasses.field(kw_only=True)
    unpack: Callable[[jax.Array], State] = dataclasses.field(kw_only=True)


def linear_cell(
    name: str,
    init: InitFn,
    initial_state: InitialStateFn,
    coefficients: CoefficientsFn,
    *,
    project: ProjectFn = identity_projection,
    read: ReadFn = read_hidden,
    pack: Callable[[State], jax.Array] = lambda state: state.hidden,
    unpack: Callable[[jax.Array], State] = HiddenState,
    jacobian: JacobianFn | None = None,
) -> LinearCell:
    """The cell of z_t = a_t * z_{t-1} + b_t with (a_t, b_t) = coefficients(params, drive_t)."""

    def step(params: Params, state: State, drive: Drive) -> tuple[State, jax.Array]:
        multiplier, offset = coefficients(params, drive)
        new = unpack(multiplier * pack(state).astype(multiplier.dtype) + offset)
        new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, state)
        return new, read(params, new, drive)

    return LinearCell(
        name,
        init,
        initial_state,
        step,
        project,
        read,
        jacobian,
        coefficients=coefficients,
        pack=pack,
        unpack=unpack,
    )


def affine(cell: str, kernel: jax.Array, bias: jax.Array | None, x: jax.Array) -> jax.Array:
    """``x @ kernel + bias`` for any leading axes of ``x``, the usual ``project`` of a cell.

    The input is cast to the dtype of the parameters, which decide the precision of the whole
    recurrence: otherwise float32 data would silently promote a bfloat16 network.

    Raises:
      ValueError: if the last axis of ``x`` is not the D of the kernel; names the cell.
      TypeError: for an ``x`` that is no array, or one of complex numbers.
    """
    if not hasattr(x, "ndim"):
        raise TypeError(f"{cell}: the input x must be an array, got {shown(x)}")
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            f"{cell}: the input x is {shown(x)}, whose imaginary part would be lost; give real "
            "and imaginary part as two features"
        )
    if x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"{cell}: the input x has shape {x.shape}; its last axis must be the "
            f"{kernel.shape[0]} features that the kernel was made for"
        )
    product = x.astype(kernel.dtype) @ kernel
    return product if bias is None else product + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def packed_project(
    cell: str,
    gates: int,
    *,
    recurrent_bias: bool = False,
    extra: Callable[[int, int], Shapes] | None = None,
    recurrent_size: int | None = None,
    transform: Callable[[Params, jax.Array], jax.Array] | None = None,
) -> ProjectFn:
    """The ``project`` of a packed-kernel cell, ``x @ kernel + bias``, shape (..., G * H).

    ``extra`` gives the shapes of the cell's further parameters from D and H;
    ``recurrent_size`` is the number of rows of the recurrent kernel where that is not H;
    ``transform(params, x @ kernel)`` is what the bias is added to where that is not the product.

    Its error is a ValueError if the parameters are not those of such a cell, by name and shape, or
    if the last axis of ``x`` is not the D of the kernel.
    """

    def shapes(got: Shapes) -> Shapes:
        input_size, width = got["kernel"]
        hidden_size = width // gates
        width = gates * hidden_size
        return {
            "kernel": (input_size, width),
            "recurrent_kernel": (recurrent_size or hidden_size, width),
            "bias": (width,),
            **({"recurrent_bias": (hidden_size,)} if recurrent_bias else {}),
            **(extra(input_size, hidden_size) if extra else {}),
        }

    def project(params: Params, x: jax.Array) -> jax.Array:
        check_shapes(cell, params, shapes)
        kernel = params["kernel"]
        if transform is None:
            return affine(cell, kernel, params["bias"], x)
        product = transform(params, affine(cell, kernel, None, x))
        return product + params["bias"].reshape((1,) * (x.ndim - 1) + (-1,))

    return project


def check_shapes(cell: str, params: Params, shapes: Callable[[Shapes], Shapes]) -> None:
    """The parameters of a cell must be a dict of arrays with its names and shapes.

    With other shapes, which often broadcast, they would make a third network. ``shapes`` gives
    those of all parameters from those that came: it reads the sizes off some.

    Raises:
      ValueError: otherwise; names the cell, what came and, where that tells the sizes, what was
        expected.
    """
    try:
        got = {name: np.shape(value) for name, value in params.items()}
        expected = shapes(got)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise foreign_params(cell, params) from error
    if got != expected:
        raise foreign_params(cell, params, expected)


def foreign_params(cell: str, params: Params, expected: Shapes | None = None) -> ValueError:
    """The error of a cell, or a network of cells, that was given the parameters of another one."""
    shapes = jax.tree.map(np.shape, params)
    hint = f"; expected {expected}" if expected else ""
    return ValueError(f"{cell}: params with the shapes {shapes} are those of another cell{hint}")


def check_parts(network: str, params: Params, parts: Collection[str] | int) -> None:
    """The parameters of a network must be a dict with these names, or a sequence of so many.

    Raises:
      ValueError: otherwise; names the network and the shapes that came.
    """
    if isinstance(parts, int):
        fits = isinstance(params, tuple | list) and len(params) == parts
    else:
        fits = isinstance(params, Mapping) and set(params) == set(parts)
    if not fits:
        raise foreign_params(network, params)


def check_cells(combinator: str, *cells: Any, kinds: Any = Cell) -> None:
    """What a combinator is given must be of the ``kinds`` that it takes.

    Raises:
      TypeError: otherwise; names the combinator and what came.
    """
    for cell in cells:
        if not isinstance(cell, kinds):
            layer = isinstance(cell, Layer)
            hint = "a layer has no step" if layer else "factories are called: lstm(), not lstm"
            if isinstance(cell, list | tuple):
                hint = "cells are given one by one, not in a list"
            raise TypeError(f"{combinator}: {shown(cell)} is no cell ({hint})")
