"""What may be wrong with a configuration: each a ValueError of one line."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from rnn_jax.arguments import unknown


def known(field: str, name: str, names: Iterable[str]) -> None:
    """One of the names; else the nearest is suggested."""
    names = list(names)
    if name not in names:
        raise ValueError(f"config.{field}: {unknown('', name, names)}")


def different(
    field: str, values: Iterable[Any], names: Iterable[str] | None = None, *, empty: bool = False
) -> None:
    """One or more different values, of these names if there are any; or none, if ``empty``."""
    values = list(values)
    if (not values and not empty) or len(set(values)) < len(values):
        some = "" if empty else "one or more "
        kind = "values" if names is None else "names"
        raise ValueError(f"config.{field} must be {some}different {kind}, got {values}")
    for name in values if names is not None else ():
        known(field, name, names or ())


def at_least(config: Any, least: int, *fields: str) -> None:
    """Integers of some size."""
    for field in fields:
        if config[field] < least:
            raise ValueError(f"config.{field} must be at least {least}, got {config[field]}")


def multiple(config: Any, field: str, of: str) -> None:
    """So many times another field."""
    if config[field] % config[of]:
        raise ValueError(
            f"config.{field} must be a multiple of {of} = {config[of]}, got {config[field]}"
        )


def seed(config: Any) -> None:
    """A seed that JAX tells from all others: of larger numbers it takes the last 32 bits."""
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"config.seed must be from 0 to {2**32 - 1}, got {config.seed}")


def positive(config: Any, *fields: str) -> None:
    """Finite numbers above 0; a field may have dots."""
    for field in fields:
        value = operator.attrgetter(field)(config)
        if not 0 < value < math.inf:
            raise ValueError(f"config.{field} must be a finite number above 0, got {value:g}")


def finite(config: Any, *fields: str, least: float = -math.inf) -> None:
    """Finite numbers, none below ``least``; a field may have dots."""
    for field in fields:
        value = operator.attrgetter(field)(config)
        if not (math.isfinite(value) and value >= least):
            floor = f" from {least:g}" if least > -math.inf else ""
            raise ValueError(f"config.{field} must be a finite number{floor}, got {value:g}")


def increasing(config: Any, *fields: str, least: float = -math.inf) -> None:
    """One or more finite numbers, each larger than the one before; none below ``least``."""
    for field in fields:
        values: Sequence[float] = list(config[field])
        finite = all(math.isfinite(value) and value >= least for value in values)
        if not values or not finite or values != sorted(set(values)):
            floor = f" from {least:g}" if least > -math.inf else ""
            raise ValueError(f"config.{field} must be increasing numbers{floor}, got {values}")
