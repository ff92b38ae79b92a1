"""What a caller gives: how an error shows it, and what is wrong with it.

Each check names the argument, what came and what was expected.
"""

import difflib
import reprlib
from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(tree: Any) -> str:
    """The dtypes and shapes of a pytree in its structure, for error messages.

    >>> describe({"kernel": np.zeros(3)})
    '{kernel: float64[3]}'
    """
    shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
    return str(shapes).replace("'", "")


def shown(value: Any) -> str:
    """A value for an error message, in one short line; arrays by dtype and shape.

    >>> shown({"kernel": np.zeros((3, 4))}), shown("lstm"), shown(range)
    ('{kernel: float64[3, 4]}', "'lstm'", "<class 'range'>")
    """
    leaves = jax.tree.leaves(value)
    if leaves and all(hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves):
        return describe(value)
    return " ".join(_SHORT.repr(value).split())


_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 80


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """What an error says of a name that is none of the known: these, and the nearest of them.

    ``kind`` is "" where the error has said it before.

    >>> unknown("cell", "LSMT", ["gru", "lstm"])
    "unknown cell 'LSMT', known: gru, lstm; did you mean 'lstm'?"
    """
    names = {one.lower(): one for one in known}
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    hint = f"; did you mean {names[near[0]]!r}?" if near else ""
    what = f"unknown {kind}".rstrip()
    return f"{what} {name!r}, known: {', '.join(names.values())}{hint}"


def as_array(name: str, value: Any) -> jax.Array:
    """The argument as an array of JAX.

    Raises:
      TypeError: for what is not made of numbers; names the argument and what came.
    """
    try:
        return jnp.asarray(value)
    except (OverflowError, TypeError, ValueError):
        raise TypeError(f"{name} must be an array of numbers, got {shown(value)}") from None


def as_arrays(name: str, tree: Any) -> Any:
    """The leaves of the argument as arrays of JAX; the error is that of `as_array`."""
    return jax.tree.map(lambda leaf: as_array(name, leaf), tree)


def check_bool(name: str, value: Any) -> bool:
    """The argument, if it is True or False.

    Raises:
      TypeError: otherwise; names the argument and what came.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {shown(value)}")
    return value


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """The argument must be one of these strings.

    Raises:
      ValueError: otherwise; names the argument, the choices and what came.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def check_number(name: str, value: float, *, zero: bool = True) -> float:
    """The argument as a float, if it is a finite number above 0 or, unless ``zero`` is off, 0.

    Raises:
      TypeError, ValueError: otherwise; names the argument and what came.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (np.isfinite(value) and (value > 0 or (zero and value == 0))):
        bound = "at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be finite and {bound}, got {value}")
    return float(value)


def check_positive(name: str, value: int, *, zero: bool = False) -> int:
    """The argument as an int, if it is an integer of at least 1, or 0 if ``zero`` may be.

    Raises:
      TypeError, ValueError: otherwise; names the argument and what came.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    least = 0 if zero else 1
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_pair(name: str, value: tuple[int, int]) -> tuple[int, int]:
    """The argument as the least and the most of something: two integers of at least 1.

    Raises:
      TypeError, ValueError: otherwise, or where they decrease; names the argument and what came.
    """
    try:
        least, most = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be two integers, got {value!r}") from None
    least, most = check_positive(name, least), check_positive(name, most)
    if least > most:
        raise ValueError(f"{name} must be the least and the most, got {value!r}")
    return least, most


def check_increasing(
    cell: str, low: float, high: float, *, closed: bool = False, **values: jax.typing.ArrayLike
) -> None:
    """The values must increase and lie between ``low`` and ``high``, which ``closed`` includes.

    Traced values cannot be looked at and pass.

    Raises:
      ValueError: otherwise; names the cell, the arguments and what came.
    """
    numbers = list(values.values())
    if any(isinstance(number, jax.core.Tracer) for number in numbers):
        return
    beyond, sign = (np.less_equal, "<=") if closed else (np.less, "<")
    inner = map(np.less, numbers, numbers[1:])
    if not all(map(np.all, (beyond(low, numbers[0]), *inner, beyond(numbers[-1], high)))):
        raise ValueError(
            f"{cell}: expected {low:g} {sign} {' < '.join(values)} {sign} {high:g}, got "
            f"{' and '.join(map(str, numbers))}"
        )


def check_key(caller: str, key: Any) -> None:
    """A random key of JAX, typed or of the old kind, and one only.

    Raises:
      TypeError, ValueError: otherwise; names the caller and what came.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != np.uint32:
        raise TypeError(f"{caller}: key must be a key, as jax.random.key(0) is, got {shown(key)}")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"{caller}: key must be a single key, got {shown(key)}: use jax.vmap")
