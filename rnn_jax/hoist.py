"""A scan whose weight gradients are one product each, formed after the reverse scan.

Backpropagation through `jax.lax.scan` adds an outer product to the gradient of each weight matrix
at each step: much memory is moved for little arithmetic. But where a step has an affine map of the
parameters,

    z_t = sum_i a_it W_i + b,    W_i and b functions of the parameters alone,

a change of the parameters changes z_t, beside what comes through the a_it, by sum_i a_it dW_i + db:
for all steps one product with the a_it, which the forward scan has seen. Transposed this is
dW_i = sum_t a_it^T dL/dz_t. So the reverse scan only has to leave behind dL/dz_t. The maps are
found in the jaxpr of the step, which may be that of any cell; what else the parameters do in it
is differentiated as always.

For the reverse scan are kept z_t and what is dear to compute again; JAX would keep every factor of
every product, and moving so many arrays can cost more time than the arithmetic.
"""

import collections
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from rnn_jax.base import Params, PyTree, State

Body = Callable[[Params, State, PyTree], tuple[State, PyTree]]

_KEPT = "rnn_jax_affine"
_DEAR = {
    *("dot_general", "conv_general_dilated", "while", "scan", "cond", "custom_linear_solve"),
    *("triangular_solve", "cholesky", "lu", "qr", "eigh", "svd", "fft"),
}


class _Term(NamedTuple):
    """An operand of an equation that is made of parameters alone: a weight, or an offset."""

    equation: int
    operand: int
    is_weight: bool


class _Step(NamedTuple):
    """A step laid open.

    Attributes:
      jaxpr: of the flat parameters, state and input.
      out: the tree of its results.
      constant: the variables that are functions of the parameters alone.
      maps: each affine map, by the variable of its value.
    """

    jaxpr: core.Jaxpr
    out: Any
    constant: frozenset[core.Var]
    maps: dict[core.Var, tuple[_Term, ...]]


def scan(
    body: Body,
    params: Params,
    state: State,
    xs: PyTree,
    *,
    reverse: bool = False,
    unroll: int = 1,
) -> tuple[State, PyTree]:
    """`jax.lax.scan` of ``body(params, state, x) -> (state, y)``, with hoisted weight gradients.

    Values and derivatives, forward and reverse and of any order, are those of the plain scan but
    for the order of sums. Without an affine map in the body it is the plain scan.

    >>> step = lambda w, h, x: (h @ w + x,) * 2
    >>> last = lambda w: scan(step, w, jnp.zeros(2), jnp.ones((3, 2)))[0].sum()
    >>> jax.grad(last)(jnp.eye(2)).tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    plain = functools.partial(lax.scan, reverse=reverse, unroll=unroll)
    step, params = _lay_open(body, params, state, one_of(xs))
    if not step.maps:
        return plain(lambda state, x: _call(step, params, state, x), state, xs)

    @jax.custom_jvp
    def run(params: list, state: State, xs: PyTree) -> tuple[State, PyTree]:
        return plain(lambda state, x: _call(step, params, state, x), state, xs)

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def run_jvp(primals: tuple, tangents: tuple) -> tuple:
        leaves, tree = jax.tree.flatten(primals)
        moves = jax.tree.leaves(tangents)
        moving = [n for n, move in enumerate(moves) if not isinstance(move, SymbolicZero)]
        hoisted = step if moving and moving[0] < len(params) else step._replace(maps={})

        constants = functools.partial(_constants, hoisted)
        # Not differentiated here but by taps; where this rule is differentiated itself, they are.
        held = constants(primals[0])

        def perturbed(changed: list, taps: list) -> tuple:
            now = dict(enumerate(leaves)) | dict(zip(moving, changed, strict=True))
            params, state, xs = jax.tree.unflatten(tree, [now[n] for n in range(len(leaves))])

            def tapped(state: State, x: tuple) -> tuple:
                state, y, seen = _call_tapped(hoisted, held, params, state, *x)
                return state, (y, seen)

            keep = jax.checkpoint(tapped, policy=_worth_keeping, prevent_cse=False)
            state, (ys, seen) = plain(keep, state, (xs, taps))
            return (state, ys), seen

        length = jax.tree.leaves(xs)[0].shape[0]
        values: Any = [value.aval for value in hoisted.maps]
        taps = [jnp.zeros((length, *value.shape), value.dtype) for value in values]
        result, push, seen = jax.linearize(
            perturbed, [leaves[n] for n in moving], taps, has_aux=True
        )
        _, moved = jax.jvp(constants, primals[:1], ([_instantiated(t) for t in tangents[0]],))
        changes = _changes(hoisted, moved, primals[2], seen, length)
        return result, push([moves[n] for n in moving], changes)

    return run(params, state, xs)


def one_of(xs: PyTree) -> PyTree:
    """The shape of what a step is given of ``xs``, whose leading axis is time."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), xs)


def has_maps(body: Body, params: Params, state: State, x: PyTree) -> bool:
    """Whether a step, whose arguments may be given by their shapes, has an affine map."""
    return bool(_lay_open(body, params, state, x)[0].maps)


def _lay_open(body: Body, params: Params, state: State, x: PyTree) -> tuple[_Step, list]:
    """The step, and the flat parameters: before the given ones the arrays that it closes over."""
    leaves, tree = jax.tree.flatten((params, state, x))

    def flat(*leaves: Any) -> tuple[State, PyTree]:
        return body(*jax.tree.unflatten(tree, leaves))

    closed, out = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    given = jax.tree.leaves(params)
    jaxpr = closed.jaxpr
    variables = [*jaxpr.constvars, *jaxpr.invars]
    jaxpr = jaxpr.replace(constvars=[], invars=variables)
    params = [*closed.consts, *given]
    constant, maps = _affine_maps(jaxpr, variables[: len(params)])
    return _Step(jaxpr, jax.tree.structure(out), constant, maps), params


def _affine_maps(
    jaxpr: core.Jaxpr, params: Sequence[core.Var]
) -> tuple[frozenset[core.Var], dict[core.Var, tuple[_Term, ...]]]:
    """The variables made of parameters alone, and the affine maps as large as they can be."""
    operands = [v for equation in jaxpr.eqns for v in equation.invars]
    # The value of a map may be part of a larger one only where nothing else reads it.
    uses = collections.Counter(v for v in [*operands, *jaxpr.outvars] if not _is_literal(v))
    constant = set(params)
    maps: dict[core.Var, tuple[_Term, ...]] = {}

    def take(n: int, operand: int) -> tuple[_Term, ...] | None:
        """What an operand of a sum adds to an affine map, if it is one of its terms."""
        v: Any = jaxpr.eqns[n].invars[operand]
        if _is_literal(v):
            return None
        if v in constant:
            return (_Term(n, operand, is_weight=False),)
        return maps.get(v) if uses[v] == 1 and v not in jaxpr.outvars else None

    for n, equation in enumerate(jaxpr.eqns):
        fixed = [_is_literal(v) or v in constant for v in equation.invars]
        if all(fixed):
            constant.update(equation.outvars)
        elif equation.primitive.name == "dot_general" and any(fixed) and _is_inexact(equation):
            maps[equation.outvars[0]] = (_Term(n, fixed.index(True), is_weight=True),)
        elif equation.primitive.name == "add":
            first, second = take(n, 0), take(n, 1)
            if first and second:
                parts: Any = equation.invars
                for v in parts:
                    maps.pop(v, None)
                maps[equation.outvars[0]] = first + second
    return frozenset(constant), maps


def _call(step: _Step, params: list, state: State, x: PyTree) -> tuple[State, PyTree]:
    """The step as it was."""
    results = _evaluate(step.jaxpr, [*params, *jax.tree.leaves((state, x))])
    return jax.tree.unflatten(step.out, results)


def _constants(step: _Step, params: list) -> dict[_Term, jax.Array]:
    """The weights and offsets of the affine maps."""
    terms = list(itertools.chain(*step.maps.values()))
    read = [step.jaxpr.eqns[term.equation].invars[term.operand] for term in terms]
    made = [
        equation for equation in step.jaxpr.eqns if step.constant.intersection(equation.outvars)
    ]
    of_params = step.jaxpr.replace(invars=step.jaxpr.invars[: len(params)], outvars=read, eqns=made)
    return dict(zip(terms, _evaluate(of_params, params), strict=True))


def _call_tapped(
    step: _Step,
    held: dict[_Term, jax.Array],
    params: list,
    state: State,
    x: PyTree,
    taps: list,
) -> tuple[State, PyTree, dict[int, jax.Array]]:
    """The step with ``held`` in its affine maps, which are moved by taps; and what they read.

    Inputs that are read as they are need no second copy: they are left out.
    """
    values = dict(zip(step.jaxpr.invars, [*params, *jax.tree.leaves((state, x))], strict=True))
    inputs = _inputs(step, x)
    tap_of = dict(zip(step.maps, taps, strict=True))
    seen = {}
    for n, equation in enumerate(step.jaxpr.eqns):
        read = [_value(v, values) for v in equation.invars]
        for term in (term for term in held if term.equation == n):
            read[term.operand] = held[term]
            if term.is_weight and equation.invars[1 - term.operand] not in inputs:
                seen[n] = read[1 - term.operand]
        for v, value in zip(equation.outvars, _bind(step.jaxpr, equation, read), strict=True):
            tapped = _tapped(checkpoint_name(value, _KEPT), tap_of[v]) if v in tap_of else value
            values[v] = tapped
    results = [_value(v, values) for v in step.jaxpr.outvars]
    state, y = jax.tree.unflatten(step.out, results)
    return state, y, seen


def _changes(
    step: _Step,
    moved: dict[_Term, jax.Array],
    xs: PyTree,
    seen: dict[int, jax.Array],
    length: int,
) -> list[jax.Array]:
    """By how much the affine maps of all steps move when the constants do, (T, ...) each."""
    inputs = dict(zip(_inputs(step, xs), jax.tree.leaves(xs), strict=True))

    def change(term: _Term) -> jax.Array:
        if not term.is_weight:
            return jnp.broadcast_to(moved[term], (length, *moved[term].shape))
        equation = step.jaxpr.eqns[term.equation]
        other = equation.invars[1 - term.operand]
        factors = inputs[other] if other in inputs else seen[term.equation]
        return _products(equation, term.operand, moved[term], factors)

    return [functools.reduce(operator.add, map(change, terms)) for terms in step.maps.values()]


def _products(
    equation: core.JaxprEqn, operand: int, weight: jax.Array, factors: jax.Array
) -> jax.Array:
    """A product of ``weight``, the given operand, with the factors of every step, (T, ...)."""
    contracting, batch = equation.params["dimension_numbers"]
    if batch[0]:
        dot = functools.partial(lax.dot_general_p.bind, **equation.params)
        pair: Any = [(weight, None), (factors, 0)]
        operands, mapped = zip(*(pair if operand == 0 else pair[::-1]), strict=True)
        return jax.vmap(dot, mapped)(*operands)
    summed = contracting[operand]
    rest = [size for axis, size in enumerate(weight.shape) if axis not in summed]
    matrix = jnp.moveaxis(weight, summed, range(len(summed)))
    matrix = matrix.reshape(math.prod(matrix.shape[: len(summed)]), -1)
    last = [1 + axis for axis in contracting[1 - operand]]
    rows = jnp.moveaxis(factors, last, range(-len(last), 0))
    rows = rows.reshape(*rows.shape[: rows.ndim - len(last)], -1)
    values = _product.bind(
        rows,
        matrix,
        precision=equation.params["precision"],
        preferred_element_type=equation.params["preferred_element_type"],
    )
    values = values.reshape(*values.shape[:-1], *rest)
    if operand == 0:  # its axes come first
        values = jnp.moveaxis(values, range(rows.ndim - 1, values.ndim), range(1, 1 + len(rest)))
    return values


def _inputs(step: _Step, x: PyTree) -> list[core.Var]:
    """The variables of the input of the step."""
    return step.jaxpr.invars[len(step.jaxpr.invars) - len(jax.tree.leaves(x)) :]


def _multiply(rows: jax.Array, matrix: jax.Array, **params: Any) -> jax.Array:
    dims = (((rows.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(rows, matrix, dims, **params)


def _multiply_abstractly(rows: Any, matrix: Any, **params: Any) -> Any:
    value = jax.eval_shape(functools.partial(_multiply, **params), rows, matrix)
    return jax.core.ShapedArray(value.shape, value.dtype)


def _multiply_batch(args: Sequence[Any], axes: Sequence[Any], **params: Any) -> tuple:
    rows, matrix = args
    if axes[1] is not None:
        multiply: Any = functools.partial(_multiply, **params)
        return jax.vmap(multiply, tuple(axes))(rows, matrix), 0
    if axes[0] == rows.ndim - 1:
        rows, axes = jnp.moveaxis(rows, -1, 0), (0, None)
    return _product.bind(rows, matrix, **params), axes[0]


def _multiply_transpose_rows(g: jax.Array, rows: Any, matrix: jax.Array, **params: Any) -> Any:
    change = lax.dot_general(g, matrix, (((g.ndim - 1,), (1,)), ((), ())), **params)
    return change.astype(rows.aval.dtype)


def _multiply_transpose_matrix(g: jax.Array, rows: jax.Array, matrix: Any, **params: Any) -> Any:
    rows, g = (x.reshape(-1, x.shape[-1]) for x in (rows, g))
    change = lax.dot_general(rows, g, (((0,), (0,)), ((), ())), **params)
    return change.astype(matrix.aval.dtype)


# ``rows @ matrix`` as JAX has it, but for its transpose in the matrix. That of JAX is a product
# with contracting axes of time and batch, for which XLA writes both factors anew; here these axes
# are one before the product, which vmap could not make them.
_product = core.Primitive("rnn_jax_product")
_product.def_impl(_multiply)
_product.def_abstract_eval(_multiply_abstractly)
mlir.register_lowering(_product, mlir.lower_fun(_multiply, multiple_results=False))
batching.primitive_batchers[_product] = _multiply_batch
ad.defbilinear(_product, _multiply_transpose_rows, _multiply_transpose_matrix)


@jax.custom_jvp
def _tapped(value: jax.Array, tap: jax.Array) -> jax.Array:
    """A value whose change is its own and that of the tap, which costs nothing until then."""
    del tap
    return value


@_tapped.defjvp
def _tapped_jvp(primals: tuple, tangents: tuple) -> tuple:
    return primals[0], tangents[0] + tangents[1]


def _worth_keeping(primitive: core.Primitive, *operands: Any, **params: Any) -> bool:
    """What is kept of a step for the reverse scan: affine maps, and what is dear without them."""
    del operands
    return params.get("name") == _KEPT or primitive.name in _DEAR


def _bind(jaxpr: core.Jaxpr, equation: core.JaxprEqn, read: Sequence[Any]) -> list:
    """The values of one equation."""
    operands = {v: x for v, x in zip(equation.invars, read, strict=True) if not _is_literal(v)}
    alone = jaxpr.replace(invars=list(operands), outvars=equation.outvars, eqns=[equation])
    return _evaluate(alone, list(operands.values()))


def _evaluate(jaxpr: core.Jaxpr, values: Sequence[Any]) -> list:
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))(*values)


def _value(v: Any, values: dict[core.Var, Any]) -> Any:
    return v.val if _is_literal(v) else values[v]


def _is_inexact(equation: core.JaxprEqn) -> bool:
    value: Any = equation.outvars[0].aval
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _is_literal(v: Any) -> bool:
    return isinstance(v, core.Literal)


def _instantiated(move: Any) -> Any:
    if not isinstance(move, SymbolicZero):
        return move
    aval: Any = move.aval
    return np.zeros(aval.shape, aval.dtype)
