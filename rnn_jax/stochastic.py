"""Randomness inside a recurrence: dropout and zoneout, with keys that come in with the inputs.

A cell with dropout is still a pure function. It draws its masks from keys that accompany each x_t,
as `Keyed`; given a plain array it computes what one evaluates with, and draws nothing. `keyed`
gives a sequence its keys:

>>> import jax, jax.numpy as jnp, rnn_jax
>>> cell = with_dropout(rnn_jax.lstm(), output=0.5)
>>> params = cell.init(jax.random.key(0), 3, 4)
>>> xs = jnp.ones((6, 3))
>>> training = rnn_jax.unroll(cell, params, keyed(xs, jax.random.key(1)))[1].outputs
>>> evaluation = rnn_jax.unroll(cell, params, xs)[1].outputs
>>> bool(jnp.all((training == 0) | (training == 2 * evaluation)))
True
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import check_key, shown, unknown
from rnn_jax.base import Cell, Drive, Layer, Params, State, check_cells, derived, memoised


class Keyed(NamedTuple):
    """Inputs with the keys of the random numbers that belong to them.

    Attributes:
      x: the inputs, (..., D).
      sequence: the key of the sequence, the same at each of its steps, (...).
      step: the key of each step, (...).
    """

    x: Any
    sequence: jax.Array
    step: jax.Array


def keyed(xs: jax.Array, key: jax.Array) -> Keyed:
    """A sequence (T, ...) with keys for each step. Batches by ``vmap``, with a key for each.

    Raises:
      TypeError, ValueError: for what is no array with a time axis, or no single key.
    """
    check_key("keyed", key)
    if not hasattr(xs, "shape") or not xs.shape:
        raise TypeError(f"keyed: xs must be an array with a time axis, got {shown(xs)}")
    steps = xs.shape[0]
    of_sequence, of_steps = jax.random.split(key)
    return Keyed(xs, jnp.broadcast_to(of_sequence, (steps,)), jax.random.split(of_steps, steps))


def plain(x: Any) -> Any:
    """The inputs without their keys."""
    return x.x if isinstance(x, Keyed) else x


def with_keys_of(x: Any, value: Any) -> Any:
    """A value with the keys that came with ``x``, if any did."""
    return x._replace(x=value) if isinstance(x, Keyed) else value


def for_cell(cell: Cell | Layer, x: Any, number: int | None = None) -> Any:
    """The inputs of a cell: without keys if it draws nothing, with its own if one of several."""
    if not isinstance(x, Keyed):
        return x
    if not cell.stochastic:
        return x.x
    return x if number is None else Keyed(x.x, _fold(x.sequence, number), _fold(x.step, number))


def with_dropout(
    cell: Cell,
    *,
    input: float = 0.0,
    recurrent: float = 0.0,
    output: float = 0.0,
    variational: bool = True,
) -> Cell:
    """The cell with dropout of what goes in, around and out; parameters unchanged.

    s_t, y'_t = cell(x_t * m_x, s_{t-1} with h_{t-1} * m_h),    y_t = y'_t * m_y

    with masks m that are 0 with probability ``rate`` and 1 / (1 - rate) otherwise, drawn from the
    keys of `keyed`. Recurrent dropout acts on the part ``hidden`` that the step reads; other
    parts (an LSTM's memory) stay whole. Without keys nothing is dropped.

    Args:
      cell: any cell.
      input, recurrent, output: rates in [0, 1).
      variational: one mask per sequence, as Gal and Ghahramani (2016), arXiv:1512.05287;
        otherwise a new one at every step.

    Raises:
      ValueError: for a rate outside [0, 1), or (at the first step) recurrent dropout of a state
        that has no part named hidden.
      TypeError: for a ``variational`` that is no bool, or what is no `Cell`.

    >>> import rnn_jax
    >>> with_dropout(rnn_jax.lstm(), recurrent=0.25)
    <Cell dropout(lstm)>
    """
    check_cells("with_dropout", cell)
    rates = {"input": input, "recurrent": recurrent, "output": output}
    for name, rate in rates.items():
        check_rate("with_dropout", name, rate)
    if not isinstance(variational, bool):
        raise TypeError(f"with_dropout: variational must be a bool, got {variational!r}")
    return _with_dropout(cell, float(input), float(recurrent), float(output), variational)


class _Kept(NamedTuple):
    """The masks of one step; None where nothing is dropped."""

    hidden: jax.Array | None
    output: jax.Array | None


@memoised
def _with_dropout(
    cell: Cell, input: float, recurrent: float, output: float, variational: bool
) -> Cell:
    def project(params: Params, x: Any) -> Drive:
        if not isinstance(x, Keyed):
            return cell.project(params, x), _Kept(None, None)
        keys = x.sequence if variational else x.step
        leading = keys.ndim
        kept = _keep(_fold(keys, 0), input, x.x.shape[leading:])
        x = x._replace(x=_drop(x.x, kept, input))
        drive = cell.project(params, for_cell(cell, x, 1))
        # All masks of a sequence at once, not one by one inside the recurrence.
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[leading:], a.dtype), drive)
        state = cell.initial_state(params)
        _, value = jax.eval_shape(cell.step, params, state, one)
        if recurrent and not hasattr(state, "hidden"):
            raise ValueError(
                f"with_dropout: the state of {cell.name} has no part named hidden to drop"
            )
        return drive, _Kept(
            _keep(_fold(keys, 2), recurrent, state.hidden.shape) if recurrent else None,
            _keep(_fold(keys, 3), output, value.shape) if output else None,
        )

    def step(params: Params, state: State, drive: Drive) -> tuple[State, jax.Array]:
        inner, kept = drive
        if kept.hidden is not None:
            state = state._replace(hidden=_drop(state.hidden, kept.hidden, recurrent))
        state, value = cell.step(params, state, inner)
        return state, _drop(value, kept.output, output)

    def read(params: Params, state: State, drive: Drive) -> jax.Array:
        inner, kept = drive
        return _drop(cell.read(params, state, inner), kept.output, output)

    name = f"dropout({cell.name})"
    return derived(cell, name, step=step, project=project, read=read, stochastic=True)


def with_zoneout(cell: Cell, rates: float | Mapping[str, float]) -> Cell:
    """The cell some of whose units keep their old value at a step; parameters unchanged.

    s_t = m * s_{t-1} + (1 - m) * s'_t    with m drawn anew at every step, 1 with probability rate

    from the keys of `keyed`; without keys m is the rate itself, the expectation. Krueger et al.
    (2017), arXiv:1606.01305. The output is read from the state with the kept units.

    The memory of an xLSTM (`cells.slstm`, `cells.mlstm`) is held in units of exp(m) with m a part
    of the state, so its parts cannot be kept one by one: there only ``hidden`` can have a rate.

    Args:
      cell: any cell.
      rates: in [0, 1), one for the whole state or one for each part by name, as in
        ``{"hidden": 0.05, "cell": 0.5}`` for an LSTM; parts without a rate are not kept.

    Raises:
      ValueError: for a rate outside [0, 1), or (by ``init`` and at a step) one of no part of the
        state, or one above 0 of a part in units of another.
      TypeError: for what is no `Cell`.

    >>> import rnn_jax
    >>> with_zoneout(rnn_jax.lstm(), {"hidden": 0.05, "cell": 0.5})
    <Cell zoneout(lstm)>
    """
    check_cells("with_zoneout", cell)
    named = rates if isinstance(rates, Mapping) else {"": rates}
    for name, rate in named.items():
        check_rate("with_zoneout", name or "rates", rate)
    return _with_zoneout(cell, tuple(sorted((name, float(rate)) for name, rate in named.items())))


@memoised
def _with_zoneout(cell: Cell, rates: tuple[tuple[str, float], ...]) -> Cell:
    by_name = dict(rates)

    def rates_of(state: State) -> State:
        """The rate of every part of a state, in its structure."""
        if "" in by_name:
            rates = jax.tree.map(lambda _: by_name[""], state)
        else:
            _check_names(cell.name, by_name, state._fields)
            of_fields = (by_name.get(field, 0.0) for field in state._fields)
            rates = type(state)(
                *(
                    jax.tree.map(lambda _, rate=rate: rate, part)
                    for part, rate in zip(state, of_fields, strict=True)
                )
            )
        _check_units(cell.name, rates)
        return rates

    def init(key: jax.Array, input_size: int, hidden_size: int, **options: Any) -> Params:
        params = cell.init(key, input_size, hidden_size, **options)
        # What is wrong with the rates is told before the first step.
        rates_of(jax.eval_shape(cell.initial_state, params))
        return params

    def project(params: Params, x: Any) -> Drive:
        if not isinstance(x, Keyed):
            return cell.project(params, x), None
        state = cell.initial_state(params)
        leaves, tree = jax.tree.flatten(state)
        kept = [
            ~_keep(_fold(x.step, number + 1), rate, leaf.shape)
            for number, (leaf, rate) in enumerate(
                zip(leaves, jax.tree.leaves(rates_of(state)), strict=True)
            )
        ]
        return cell.project(params, for_cell(cell, x, 0)), jax.tree.unflatten(tree, kept)

    def step(params: Params, state: State, drive: Drive) -> tuple[State, jax.Array]:
        inner, kept = drive
        new, _ = cell.step(params, state, inner)
        if kept is None:
            mix = lambda rate, old, new: rate * old + (1 - rate) * new
            new = jax.tree.map(mix, rates_of(state), state, new)
        else:
            new = jax.tree.map(jnp.where, kept, state, new)
        return new, cell.read(params, new, inner)

    def read(params: Params, state: State, drive: Drive) -> jax.Array:
        return cell.read(params, state, drive[0])

    name = f"zoneout({cell.name})"
    return derived(cell, name, init=init, step=step, project=project, read=read, stochastic=True)


def _check_names(cell: str, names: Collection[str], parts: tuple[str, ...]) -> None:
    for name in sorted(set(names) - set(parts))[:1]:
        raise ValueError(f"with_zoneout: {unknown(f'part of the state of {cell}', name, parts)}")


def _check_units(cell: str, rates: State) -> None:
    """Beside a stabiliser m all but ``hidden`` is in units of exp(m), and a unit that keeps its
    old memory but takes the new m would remember another number."""
    parts = [
        (path[:-1], getattr(path[-1], "name", ""), rate)
        for path, rate in jax.tree_util.tree_leaves_with_path(rates)
        if path
    ]
    scaled = {record for record, part, _ in parts if part == "stabiliser"}
    torn = [part for record, part, rate in parts if record in scaled and part != "hidden" and rate]
    if torn:
        raise ValueError(
            f"with_zoneout: {cell} holds its memory in units of exp(stabiliser), so that the parts "
            f"{torn} cannot be kept one by one; only hidden can have a rate above 0, if it is there"
        )


def _keep(keys: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Independent masks of a shape for keys with any leading axes, False with probability rate."""
    draw = lambda key: jax.random.bernoulli(key, 1 - rate, shape)
    for _ in range(keys.ndim):
        draw = jax.vmap(draw)
    return draw(keys)


def _drop(value: jax.Array, keep: jax.Array | None, rate: float) -> jax.Array:
    # A choice, not a product: what is dropped may be infinite.
    return value if keep is None else jnp.where(keep, value / (1 - rate), jnp.zeros_like(value))


def _fold(keys: jax.Array, number: int) -> jax.Array:
    """A new key from each of an array of keys."""
    fold = lambda key: jax.random.fold_in(key, number)
    for _ in range(keys.ndim):
        fold = jax.vmap(fold)
    return fold(keys)


def check_rate(combinator: str, name: str, rate: float) -> None:
    """A probability below 1.

    Raises:
      ValueError: otherwise; names the combinator, the argument and what came.
    """
    number = isinstance(rate, int | float | np.integer | np.floating)
    if isinstance(rate, bool) or not number or not 0 <= rate < 1:
        raise ValueError(f"{combinator}: {name} must be a rate in [0, 1), got {rate!r}")
