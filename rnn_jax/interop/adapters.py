"""What the linen and the nnx adapters share: batches of our cells, and Flax' cells as ours."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.errors
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import check_positive, describe
from rnn_jax.base import Cell, Drive, HiddenState, Params, PyTree, State, read_hidden
from rnn_jax.cells.lstm import LSTMState

Carry = Any
"""What Flax calls a state: any pytree, often the tuple (c, h)."""
Read = Callable[..., jax.Array]
"""The output as a function of the new state, a `rnn_jax.base.ReadFn` that can be hashed."""

# ---- Our cells for Flax: any number of batch axes in front ---------------------------------------


def check_adaptable(cell: Cell) -> None:
    """Whether a Flax module can be made of the cell.

    Raises:
      TypeError: for what is no `Cell`.
      ValueError: for a cell with dropout, which would silently never drop anything.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell must be a Cell, got {cell!r} (factories are called: lstm(), not lstm)"
        )
    if cell.stochastic:
        raise ValueError(
            f"cell: {cell.name} draws from keys that come with its inputs, and Flax' RNN passes on "
            "none; adapt the cell inside, which has the same parameters, or use rnn_jax.unroll"
        )


def batch_axes(cell: Cell, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of an input's shape in front of those that one x has.

    Raises:
      ValueError: for fewer axes than that.
    """
    rank = len(cell.space) + 1
    if len(shape) < rank:
        raise ValueError(
            f"{cell.name}: the inputs have shape {shape}, but one input alone has {rank} axes"
        )
    return tuple(shape[: len(shape) - rank])


def batched_state(state: State, batch: tuple[int, ...]) -> State:
    """The same state for every element of a batch."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch, *leaf.shape)), state)


def batched_step(
    cell: Cell, params: Params, carry: State, inputs: jax.Array, batch: tuple[int, ...]
) -> tuple[State, jax.Array]:
    """One step of a batch of inputs (*batch, D), with a carry (*batch, H).

    Raises:
      ValueError: for a carry that is no such batch of the cell's states.
    """
    expected = jax.eval_shape(
        lambda params: batched_state(cell.initial_state(params), batch), params
    )
    if describe(carry) != describe(expected):
        raise ValueError(
            f"carry: the cell {cell.name} needs {describe(expected)} for inputs of shape "
            f"{inputs.shape}, got {describe(carry)}"
        )
    step = functools.partial(cell, params)
    for _ in batch:
        step = jax.vmap(step)
    return step(carry, inputs)


def as_dicts(params: Params) -> dict[str, Any]:
    """Parameters as Flax nests them, dicts of dicts: the parts of a tuple are "0", "1", ...

    One bare array, which Flax has no place for, is called "value".
    """
    nested = flax.serialization.to_state_dict(params)
    return nested if isinstance(nested, dict) else {"value": nested}


def from_dicts(nested: dict[str, Any], like: Params) -> Params:
    """The inverse of `as_dicts`; the names must be those that it gives to ``like``."""
    bare = not isinstance(flax.serialization.to_state_dict(like), dict)
    return nested["value"] if bare else flax.serialization.from_state_dict(like, nested)


def constant_state(cell: Cell, shapes: PyTree) -> State:
    """The initial state of a cell whose parameters are not at hand, only their shapes.

    Raises:
      ValueError: if it depends on them.
    """
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0))
        one, other = (cell.initial_state(_normal_like(key, shapes)) for key in keys)
        if not all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other))):
            raise ValueError(
                f"the initial state of the cell {cell.name} depends on its parameters, so only a "
                "module that has them can tell it: inside nn.RNN or another module, or by "
                "module.apply(variables, rng, shape, method='initialize_carry')"
            )
    return one


# ---- Flax' cells as ours -------------------------------------------------------------------------


TRIAL = 3
"""Steps on random inputs, after which the parts of a state are neither zero nor equal."""


class Foreign(NamedTuple):
    """A recurrent module of Flax as pure functions of its parameters, unbatched."""

    name: str
    input_shape: tuple[int, ...]
    init: Callable[[jax.Array], Params]
    initial_carry: Callable[[Params], Carry]
    step: Callable[[Params, Carry, jax.Array], tuple[Carry, jax.Array]]


class _Naming(NamedTuple):
    """The two ways between an anonymous carry and a named state."""

    state: Callable[[Carry], State]
    carry: Callable[[State], Carry]


def input_shape(input_size: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of one input, from its number of features or from the shape itself."""
    sizes = input_size if isinstance(input_size, Sequence) else [input_size]
    return tuple(check_positive("input_size", size) for size in sizes)


def part_names(
    module: Any, parts: Sequence[str] | None, known: Mapping[type, tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The names that were given, or else those known for the kind of module."""
    if isinstance(parts, str):
        raise TypeError(f"parts must be a sequence of names, got {parts!r}")
    if parts is not None:
        return tuple(parts)
    return next((names for kind, names in known.items() if isinstance(module, kind)), None)


def foreign_cell(
    module: Foreign, parts: tuple[str, ...] | None = None, read: str | Read | None = None
) -> Cell:
    """The `Cell` of a foreign module, tried out once on random numbers.

    Raises:
      ValueError: if the module cannot step on such an input, for parts that do not fit the carry,
        or if ``read`` of the new state is not the output; names the module.
    """
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), 3)
        try:
            params = module.init(keys[0])
            # A `read` that forgets a bias must not pass because biases start at zero.
            noise = _normal_like(keys[1], params, 0.1)
            params = jax.tree.map(lambda leaf, e: leaf + e, params, noise)
            x = jax.random.normal(keys[2], (TRIAL, *module.input_shape), _dtype(params))
            carry = _cast(module.initial_carry(params), _dtype(params))
            for t in range(TRIAL):
                carry, output = module.step(params, carry, x[t])
        except (TypeError, ValueError, flax.errors.FlaxError) as error:
            raise ValueError(
                f"{module.name}: cannot step on an input of shape {module.input_shape}: {error}"
            ) from error
        naming = _naming(module.name, carry, parts)
        new = naming.state(carry)
        show = _reader(module.name, read, params, new, x[-1], output)
    width = jnp.shape(getattr(new, "hidden", output))[-1]

    def init(
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        scheme: Any = None,
        dtype: Any = None,
    ) -> Params:
        if scheme is not None:
            raise ValueError(
                f"scheme {getattr(scheme, 'name', scheme)}: makes no sense for the cell "
                f"{module.name}, whose initialisers belong to the module"
            )
        for argument, size, fixed in (
            ("input_size", input_size, module.input_shape[-1]),
            ("hidden_size", hidden_size, width),
        ):
            if size != fixed:
                raise ValueError(f"{module.name}: {argument} is fixed at {fixed}, got {size!r}")
        return _cast(module.init(key), None if dtype is None else jnp.dtype(dtype))

    def initial_state(params: Params) -> State:
        return naming.state(_cast(module.initial_carry(params), _dtype(params)))

    def project(params: Params, x: jax.Array) -> Drive:
        if x.shape[max(x.ndim - len(module.input_shape), 0) :] != module.input_shape:
            raise ValueError(
                f"{module.name}: the input x has shape {x.shape}; its last axes must be "
                f"{module.input_shape}"
            )
        return _cast(x, _dtype(params))

    def step(params: Params, state: State, drive: Drive) -> tuple[State, jax.Array]:
        carry, output = module.step(params, naming.carry(state), drive)
        return naming.state(carry), output

    return Cell(
        module.name, init, initial_state, step, project, show, space=module.input_shape[:-1]
    )


@functools.cache
def _state_type(parts: tuple[str, ...]) -> Callable[..., State]:
    """One type for equal names, whatever the module; the package's own where the names are its."""
    for kind in (HiddenState, LSTMState):
        if sorted(parts) == sorted(kind._fields):
            return kind
    return collections.namedtuple("State", parts)  # type: ignore[misc]


def _naming(name: str, carry: Carry, parts: tuple[str, ...] | None) -> _Naming:
    if parts is None and hasattr(carry, "_fields"):
        return _Naming(lambda carry: carry, lambda state: state)
    leaves, tree = jax.tree.flatten(carry)
    if parts is None:
        parts = ("hidden",) if len(leaves) == 1 else tuple(f"part_{i}" for i in range(len(leaves)))
    if len(parts) != len(leaves):
        raise ValueError(f"{name}: the carry has {len(leaves)} parts, got the names {parts}")
    kind = _state_type(parts)

    def state(carry: Carry) -> State:
        return kind(**dict(zip(parts, jax.tree.leaves(carry), strict=True)))

    def back(state: State) -> Carry:
        return jax.tree.unflatten(tree, [getattr(state, part) for part in parts])

    return _Naming(state, back)


def _reader(
    name: str,
    read: str | Read | None,
    params: Params,
    new: State,
    x: jax.Array,
    output: jax.Array,
) -> Read:
    """``read`` as a function, after a look at whether it gives the output of this new state."""
    if callable(read):
        shown = read(params, new, x)
        # It may do the same arithmetic in another order; a wrong one differs in its first digits.
        scale = float(jnp.finfo(output.dtype).eps) ** 0.5 * max(1.0, float(jnp.abs(output).max()))
        if not _alike(shown, output, scale):
            raise ValueError(f"{name}: read(params, state, drive) is not the output of the module")
        return read
    fitting = [part for part in new._fields if _alike(getattr(new, part), output, 0.0)]
    if read is None and len(fitting) != 1:
        raise ValueError(
            f"{name}: the output is {len(fitting)} of the parts {new._fields} of the new state "
            f"({fitting}); give read=, the name of one or a function (params, state, drive)"
        )
    if read is not None and read not in fitting:
        raise ValueError(
            f"{name}: read={read!r} is not the output, which is {fitting or 'none'} of the parts "
            f"{new._fields}"
        )
    part = fitting[0] if read is None else read
    return read_hidden if part == "hidden" else lambda params, state, drive: getattr(state, part)


def _alike(shown: Any, output: jax.Array, tolerance: float) -> bool:
    if not isinstance(shown, jax.Array) or describe(shown) != describe(output):
        return False
    return float(jnp.abs(shown - output).max()) <= tolerance


def _dtype(params: Params) -> Any:
    """The one floating dtype of all parameters, which then decides; None for none or several."""
    found = {
        leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    return found.pop() if len(found) == 1 else None


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """The floating leaves in the dtype, if there is one."""

    def cast(leaf: jax.Array) -> jax.Array:
        floating = dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    return jax.tree.map(cast, tree)


def _normal_like(key: jax.Array, tree: PyTree, deviation: float = 1.0) -> PyTree:
    """Centred normal numbers in the shapes and dtypes of a pytree, zeros for integers."""
    leaves, structure = jax.tree.flatten(tree)

    def draw(key: jax.Array, leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return deviation * jax.random.normal(key, leaf.shape, leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, list(map(draw, keys, leaves)))
