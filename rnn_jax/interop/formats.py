"""How a library keeps the weights of one cell, and the exact way there and back.

Each library module of this package holds one `Format` per cell; the functions here find the
entries of every cell of a network, check them all, and only then convert any.
"""

import functools
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.base import Cell, Layer, Params, Shapes
from rnn_jax.cells import ACTIVATIONS, elman, gru, irnn, lstm
from rnn_jax.interop.networks import Place, nested, picked, places

Arrays = Mapping[str, np.ndarray]
ShapesOf = Callable[[int, int], Shapes]
"""The shape of every entry, from D and H."""


class Format(NamedTuple):
    """How a library keeps one kind of cell: its entries, and both ways of conversion."""

    shapes: ShapesOf
    read: Callable[[Arrays], Arrays]
    write: Callable[[Arrays], Arrays]


class Library(NamedTuple):
    """A library's formats by the name of our cell, and why it lacks others.

    ``projected`` makes the format of the LSTM with a projection to so many units.
    """

    name: str
    formats: Mapping[str, Format]
    lacks: Mapping[str, str]
    projected: Callable[[int], Format] | None = None


Naming = Callable[[Place, str], str]
"""The full name of an entry of the cell at a place."""


# ---- This library's side ------------------------------------------------------------------------


def packed(gates: int, *, recurrent_bias: bool = False) -> ShapesOf:
    """The parameters of a packed-kernel cell with so many gates."""

    def shapes(d: int, h: int) -> Shapes:
        own = {"kernel": (d, gates * h), "recurrent_kernel": (h, gates * h), "bias": (gates * h,)}
        return own | ({"recurrent_bias": (h,)} if recurrent_bias else {})

    return shapes


ELMAN = tuple("elman" if name == "tanh" else f"elman_{name}" for name in ACTIVATIONS)
"""The names of the Elman networks with a named activation."""


class Kind(NamedTuple):
    """A cell that some library has, the shapes of its parameters, and the LSTM's projection."""

    cell: Cell
    shapes: ShapesOf
    projection: int | None = None


Equations = tuple[Callable, Callable]
"""The step and the projection of a cell."""


def _equations(cell: Cell) -> Equations:
    return cell.step, cell.project


@functools.cache
def _kinds() -> Mapping[Equations, Kind]:
    plain = {name: Kind(elman(name), packed(1)) for name in ACTIVATIONS}
    others = [
        Kind(lstm(), packed(4)),
        Kind(gru(), packed(3, recurrent_bias=True)),
        Kind(gru("before"), packed(3)),
    ]
    kinds = {_equations(kind.cell): kind for kind in (*plain.values(), *others)}
    return kinds | {_equations(irnn()): plain["relu"]}


def _projected(size: int) -> Mapping[Equations, Kind]:
    def shapes(d: int, h: int) -> Shapes:
        own = packed(4)(d, h)
        return {**own, "recurrent_kernel": (size, 4 * h), "projection_kernel": (h, size)}

    cell = lstm(projection=size)
    return {_equations(cell): Kind(cell, shapes, size)}


def _known(cell: Cell) -> Kind | None:
    """What a cell is by its equations: its name, how it is drawn and where it starts may differ."""
    projected = re.fullmatch(r"lstm_projection(\d+)", cell.name)
    kinds = _projected(int(projected[1])) if projected else _kinds()
    return kinds.get(_equations(cell))


def plain_name(cell: Cell) -> str:
    """The name under which a `Library` has the equations of a cell, else the cell's own."""
    kind = _known(cell)
    return kind.cell.name if kind else cell.name


def _kind(library: Library, cell: Cell) -> Kind:
    kind = _known(cell)
    if kind is None:
        raise ValueError(f"{library.name} has no cell with the equations of {cell.name}")
    return kind


def _format(library: Library, kind: Kind) -> Format:
    name = kind.cell.name
    if kind.projection and library.projected:
        return library.projected(kind.projection)
    if name not in library.formats:
        reason = library.lacks.get(name, "its LSTM has no projection")
        raise ValueError(f"{library.name} has no {name}: {reason}")
    return library.formats[name]


# ---- Import and export --------------------------------------------------------------------------


def import_weights(
    library: Library,
    network: Cell | Layer,
    entries: Mapping[str, Any],
    naming: Naming,
    *,
    one_size: bool = False,
) -> Params:
    """The parameters of a network from a library's entries by full name.

    ``one_size`` is that of a library whose layers have one hidden size.

    Raises:
      ValueError: if the library lacks a cell, or for an entry that is missing, is none of the
        network's, has another shape or dtype, or holds NaN or infinity; names it. Also if two
        biases that the library adds have no finite sum.
    """
    cells = places(network)
    kinds = [_kind(library, place.cell) for place in cells]
    formats = [_format(library, kind) for kind in kinds]
    names = [
        {entry: naming(place, entry) for entry in each.shapes(1, 1)}
        for place, each in zip(cells, formats, strict=True)
    ]
    check_names(library.name, entries, [full for own in names for full in own.values()])
    arrays = _checked_arrays(library.name, entries)
    given = [{entry: arrays[full] for entry, full in own.items()} for own in names]
    labels = [{entry: f"entry {full!r}" for entry, full in own.items()} for own in names]
    shapes = [each.shapes for each in formats]
    _check_sizes(library.name, cells, kinds, shapes, given, labels, one_size)
    return nested(
        {
            place.path: _read(library.name, place, each, own)
            for place, each, own in zip(cells, formats, given, strict=True)
        }
    )


def _read(library: str, place: Place, cell_format: Format, given: Arrays) -> dict[str, jax.Array]:
    """The parameters of one cell from its finite entries."""
    with np.errstate(over="ignore"):  # where it adds two biases
        params = cell_format.read(given)
    for part, array in params.items():
        if not np.isfinite(array).all():
            name = "".join(f"[{key!r}]" for key in (*place.path, part))
            raise ValueError(
                f"{library}: params{name}, the sum of two entries, is beyond {array.dtype}"
            )
    return {part: to_jax(f"{library}: the weights", array) for part, array in params.items()}


def export_weights(
    library: Library,
    network: Cell | Layer,
    params: Params,
    naming: Naming,
    *,
    one_size: bool = False,
) -> dict[str, np.ndarray]:
    """A library's entries by full name from the parameters of a network: copies, C-contiguous.

    Raises:
      ValueError: if the library lacks a cell or cannot hold these parameters, or if they are
        those of another network.
    """
    cells = places(network)
    kinds = [_kind(library, place.cell) for place in cells]
    formats = [_format(library, kind) for kind in kinds]
    shapes = [kind.shapes for kind in kinds]
    parts = picked(network, params)
    given, labels = [], []
    for place, shapes_of in zip(cells, shapes, strict=True):
        own = parts[place.path]
        above = "".join(f"[{key!r}]" for key in place.path)
        check_names(f"params{above} of {place.cell.name}", own, list(shapes_of(1, 1)))
        given.append(_checked_arrays(f"params{above}", own, finite=False))
        labels.append({part: f"{above}[{part!r}]" for part in own})
    _check_sizes("params", cells, kinds, shapes, given, labels, one_size)
    return {
        naming(place, entry): np.array(array, order="C")
        for place, each, own in zip(cells, formats, given, strict=True)
        for entry, array in each.write(own).items()
    }


# ---- Checks -------------------------------------------------------------------------------------


def check_names(what: str, entries: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuses entries other than these.

    Raises:
      ValueError: names what is missing and what nobody asked for.
    """
    problems = {
        "missing": [name for name in names if name not in entries],
        "unexpected": [name for name in entries if name not in names],
    }
    text = "; ".join(
        f"{problem}: {', '.join(found)}" for problem, found in problems.items() if found
    )
    if text:
        raise ValueError(f"{what}: not the entries of this network; {text}")


def check_container(library: str, weights: Any, kind: type, source: str) -> None:
    """Refuses what is no container of weights, a module above all.

    Raises:
      TypeError: names the library, what came and the ``source`` of what is expected.
    """
    if not isinstance(weights, kind) or isinstance(weights, str):
        raise TypeError(f"{library}: weights must be the {source}, got a {type(weights).__name__}")


def _checked_arrays(what: str, entries: Mapping[str, Any], *, finite: bool = True) -> Arrays:
    """The entries as NumPy arrays, all of one floating dtype and finite, if asked for."""
    arrays = {name: named_array(what, name, value) for name, value in entries.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{what}: {name!r} is {array.dtype}, expected floating-point numbers")
        if array.dtype != arrays[first].dtype:
            raise ValueError(
                f"{what}: {name!r} is {array.dtype} but {first!r} is {arrays[first].dtype}; "
                "cast them to one dtype first"
            )
        if finite and not np.isfinite(array).all():
            bad = "NaN" if np.isnan(array).any() else "infinity"
            raise ValueError(f"{what}: {name!r} holds {bad}")
    return arrays


def _check_sizes(
    what: str,
    cells: Sequence[Place],
    kinds: Sequence[Kind],
    shapes: Sequence[ShapesOf],
    given: Sequence[Arrays],
    labels: Sequence[Mapping[str, str]],
    one_size: bool,
) -> None:
    """Every shape fits the D and H of its cell, and every cell the layer below it."""
    input_size: int | None = None
    hidden_size: int | None = None
    outputs: list[int] = []
    for place, kind, shapes_of, own, label in zip(cells, kinds, shapes, given, labels, strict=True):
        below = sum(outputs[number] for number in place.reads) if place.reads else input_size
        got = {entry: array.shape for entry, array in own.items()}
        d, h = _likely_sizes(shapes_of, got, below, hidden_size)
        agree = any(got[entry] == shape for entry, shape in shapes_of(d, h).items())
        if not agree and hidden_size is None:
            entry = next(iter(got))
            raise ValueError(
                f"{what}: {label[entry]} has shape {got[entry]}, and like all the others that of "
                f"no {kind.cell.name} with any numbers of inputs and hidden units"
            )
        for entry, shape in shapes_of(d, h).items():
            if got[entry] != shape:
                raise ValueError(
                    f"{what}: {label[entry]} has shape {got[entry]}, expected {shape}, for "
                    f"{d} inputs and {h} hidden units"
                )
        input_size = d if not place.reads else input_size
        hidden_size = h if one_size else None
        outputs.append(kind.projection or h)


def _likely_sizes(
    shapes_of: ShapesOf, got: Shapes, input_size: int | None, hidden_size: int | None
) -> tuple[int, int]:
    """The D and H that most shapes agree with: then what does not fit is what is wrong."""
    axes = {size for shape in got.values() for size in shape}
    # An axis may hold three or four gates, or in haiku's LSTM the input beside the hidden vector.
    hidden = (
        {hidden_size} if hidden_size else {size // gates for size in axes for gates in (1, 3, 4)}
    )
    inputs = {input_size} if input_size else axes | {a - h for a in axes for h in hidden}
    pairs = [(d, h) for d, h in itertools.product(sorted(inputs), sorted(hidden)) if min(d, h) > 0]

    def agreeing(sizes: tuple[int, int]) -> int:
        return sum(got[entry] == shape for entry, shape in shapes_of(*sizes).items())

    return max(pairs, key=agreeing, default=(input_size or 1, hidden_size or 1))


# ---- Arrays -------------------------------------------------------------------------------------


def named_array(what: str, name: str, value: Any) -> np.ndarray:
    """`to_numpy` of an entry.

    Raises:
      ValueError: for what is no array of numbers, among them PyTorch's meta and sparse tensors;
        names it.
    """
    if getattr(value, "is_meta", False):
        raise ValueError(f"{what}: {name!r} is a meta tensor, which has a shape but no numbers")
    layout = str(getattr(value, "layout", None))
    if layout.startswith("torch.sparse"):
        raise ValueError(f"{what}: {name!r} is a {layout} tensor, expected a dense one")
    try:
        return to_numpy(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{what}: {name!r} is a {type(value).__name__}, expected an array of numbers"
        ) from error


def to_numpy(value: Any) -> np.ndarray:
    """A value as a NumPy array of its own dtype in the machine's byte order.

    PyTorch's tensors are taken, too, without importing PyTorch.

    >>> to_numpy(jnp.ones(2, jnp.bfloat16)).dtype
    dtype(bfloat16)
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy's own dtypes do not have it
            return value.float().numpy().astype(jnp.bfloat16)
        return value.numpy()
    array = np.asarray(value)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def to_jax(what: str, array: np.ndarray) -> jax.Array:
    """A NumPy array as a JAX array of the same dtype that shares no memory with it.

    Raises:
      ValueError: for a dtype that JAX would silently narrow.
    """
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{what}: {array.dtype} needs jax.config.update('jax_enable_x64', True); "
            "cast the arrays first if fewer digits will do"
        )
    return jnp.array(array, copy=True)


def flat(tree: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by the names on the way, joined by slashes.

    >>> flat({"ii": {"kernel": 1}, "layers": {0: 2}})
    {'ii/kernel': 1, 'layers/0': 2}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        leaves |= flat(value, f"{name}/") if isinstance(value, Mapping) else {name: value}
    return leaves


def unflat(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *above, last = name.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), above, tree)[last] = value
    return tree


def joined(blocks: Mapping[str, np.ndarray], names: str, end: str) -> np.ndarray:
    """One matrix or vector of the blocks ``{name}/{end}`` side by side."""
    return np.concatenate([blocks[f"{name}/{end}"] for name in names.split()], axis=-1)


def separated(array: np.ndarray, names: str, end: str) -> dict[str, np.ndarray]:
    """The inverse of `joined`."""
    blocks = np.split(array, len(names.split()), axis=-1)
    return {f"{name}/{end}": block for name, block in zip(names.split(), blocks, strict=True)}


def reordered(array: np.ndarray, *order: int) -> np.ndarray:
    """The gates on the last axis in another order.

    >>> reordered(np.array([1, 1, 2, 2, 3, 3]), 1, 0, 2).tolist()
    [2, 2, 1, 1, 3, 3]
    """
    blocks = np.split(array, len(order), axis=-1)
    return np.concatenate([blocks[number] for number in order], axis=-1)


def neutral(like: np.ndarray) -> np.ndarray:
    """The second of two biases that are added: -0.0, for b + 0.0 loses the sign of b = -0.0."""
    return np.full_like(like, -0.0)


def one_bias(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bias, recurrent_bias) of the GRU from two biases in the order r, z, n.

    They are added but for the candidate's, whose second is multiplied by the reset gate.
    """
    gates = 2 * len(first) // 3
    return np.concatenate([first[:gates] + second[:gates], first[gates:]]), second[gates:]


def two_biases(bias: np.ndarray, recurrent_bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two biases in the order r, z, n that `one_bias` turns into these, to the bit."""
    return bias, np.concatenate([neutral(bias[: -len(recurrent_bias)]), recurrent_bias])
