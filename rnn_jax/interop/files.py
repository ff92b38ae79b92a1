"""Parameters in safetensors files: no code in them, every bit kept, never half a file."""

import importlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.arguments import shown
from rnn_jax.base import Params, PyTree
from rnn_jax.interop.formats import to_jax, to_numpy
from rnn_jax.reading import readable

STRUCTURE = "rnn_jax.structure"
"""The key in a file's metadata under which the nesting of the parameters stands."""
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float16", "float32", "float64"),
)
"""What safetensors both writes and reads."""

PathLike = str | os.PathLike[str]


def save(path: PathLike, params: Params, metadata: Mapping[str, str] | None = None) -> None:
    """Writes parameters to a safetensors file, which any tool for that format reads.

    Arrays are named by their way in the tree, joined with dots: "0.forward.kernel". The nesting
    stands in the metadata, so that `load` restores it. The file is written under another name and
    renamed: a reader sees the old one or the new one.

    Args:
      path: of the file; its folder must exist.
      params: nested dicts (with string keys), tuples, lists and this library's records (a learned
        initial state, say) of arrays, None among them.
      metadata: strings of your own, see `load_metadata`.

    Raises:
      TypeError: for anything else in the tree or in the metadata.
      ValueError: for a dtype that the format does not have (complex numbers, say), or a path that
        cannot be written; names it.

    >>> import jax.numpy as jnp, rnn_jax, tempfile
    >>> params = rnn_jax.gru().init(jax.random.key(0), 3, 4, dtype=jnp.bfloat16)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/gru.safetensors", params, {"step": "1000"})
    ...     restored = load(f"{folder}/gru.safetensors")
    ...     load_metadata(f"{folder}/gru.safetensors")
    {'step': '1000'}
    >>> restored["kernel"].dtype, bool((restored["kernel"] == params["kernel"]).all())
    (dtype(bfloat16), True)
    """
    import safetensors.numpy

    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata must be a dict of strings, got {shown(metadata)}")
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str) or key == STRUCTURE:
            raise TypeError(
                f"metadata: {key!r}: {value!r} must be strings, the key not {STRUCTURE}"
            )
    arrays: dict[str, np.ndarray] = {}
    structure = _describe(params, (), arrays)
    data = safetensors.numpy.save(
        arrays, {**(metadata or {}), STRUCTURE: json.dumps(structure, separators=(",", ":"))}
    )
    _write(Path(path), data)


def load(path: PathLike) -> Params:
    """The parameters in a safetensors file: those that `save` wrote, of the same structure.

    A file of another tool gives a dict by the names in it, as `interop.torch.params_from` takes
    for PyTorch's.

    Raises:
      ValueError: for a file that cannot be read, is damaged or cut short, or holds what this
        JAX would round (float64 without ``jax_enable_x64``); names it.
    """
    metadata, stored = _read(path)
    arrays = {name: to_jax(f"{path}: {name!r}", array) for name, array in stored.items()}
    if STRUCTURE not in metadata:
        return arrays
    try:
        structure = json.loads(metadata[STRUCTURE])
        params = _rebuild(structure, arrays)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: the metadata {STRUCTURE} do not fit the arrays") from error
    if arrays:
        raise ValueError(f"{path}: the metadata {STRUCTURE} do not mention {', '.join(arrays)}")
    return params


def load_metadata(path: PathLike) -> dict[str, str]:
    """The metadata of a safetensors file, but for the structure that `save` keeps there.

    Raises:
      ValueError: as `load`.
    """
    metadata, _ = _read(path)
    return {key: value for key, value in metadata.items() if key != STRUCTURE}


def _describe(tree: PyTree, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """A tree as JSON, a leaf being the name under which its array is put into ``arrays``."""
    if tree is None:
        return None
    if type(tree) is dict:
        for key in tree:
            if not isinstance(key, str):
                raise TypeError(f"params: the key {key!r} at {path} must be a string")
        return {"dict": {k: _describe(v, (*path, k), arrays) for k, v in tree.items()}}
    if _is_record(type(tree)):
        parts = [_describe(v, (*path, k), arrays) for k, v in tree._asdict().items()]
        return {f"{type(tree).__module__}:{type(tree).__qualname__}": parts}
    if type(tree) in (tuple, list):
        parts = [_describe(v, (*path, str(i)), arrays) for i, v in enumerate(tree)]
        return {type(tree).__name__: parts}
    name = ".".join(path)
    if not isinstance(tree, jax.Array | np.ndarray):
        raise TypeError(f"params: {name!r} is a {type(tree).__name__}, expected an array")
    if tree.dtype.name not in DTYPES:
        raise ValueError(f"params: {name!r} is {tree.dtype}, which safetensors cannot hold")
    while name in arrays or name == "__metadata__":  # a key may hold a dot, too
        name += "'"
    # The format has no strides.
    arrays[name] = np.array(to_numpy(tree), order="C")
    return name


def _rebuild(structure: Any, arrays: dict[str, jax.Array]) -> PyTree:
    """The inverse of `_describe`; takes every array out of ``arrays``."""
    if structure is None:
        return None
    if isinstance(structure, str):
        return arrays.pop(structure)
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: _rebuild(part, arrays) for key, part in parts.items()}
    rebuilt = [_rebuild(part, arrays) for part in parts]
    if kind in ("tuple", "list"):
        return tuple(rebuilt) if kind == "tuple" else rebuilt
    return _record(kind)(*rebuilt)


def _is_record(kind: type) -> bool:
    """Whether a class is a NamedTuple of this library, and found again by its name."""
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        return _record(name) is kind
    except ValueError:
        return False


def _record(name: str) -> Any:
    """A NamedTuple of this library by its name; no other code is ever imported for a file."""
    module, _, qualname = name.partition(":")
    if not re.fullmatch(r"rnn_jax(\.[a-z]\w*)+", module) or not qualname.isidentifier():
        raise ValueError(f"{name} is no record of this library")
    try:
        kind = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"this version of the library has no {name}") from error
    if not (isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise ValueError(f"{name} is no record of this library")
    return kind


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _read(path: PathLike) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    import safetensors

    path = readable(path)
    try:
        with open(path, "rb"):  # for an error that says what the matter is
            pass
        with safetensors.safe_open(path, framework="np") as file:
            names = file.keys()
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}, expected a readable file") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error})") from error
    except AttributeError as error:
        raise ValueError(f"{path}: holds a dtype that NumPy does not have ({error})") from error
