"""Vanilla networks whose recurrent matrix is orthogonal by construction.

h_t = phi(x_t W + h_{t-1} Q + b),    y_t = h_t,    Q a function of unconstrained parameters

An optimiser moves the parameters and Q stays orthogonal: with |phi'| <= 1 a step's Jacobian
diag(phi') Q^T has norm at most 1 for ever, so gradients cannot explode, and without phi they keep
their norm. They may still vanish through phi'. The cells differ in the map to Q.

``prepare_params`` puts Q beside the parameters as ``recurrent_kernel``. `unroll` does so once per
sequence; a step that gets parameters without it computes Q by itself.
"""

import functools
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jax.scipy.linalg import expm, solve_triangular

from rnn_jax.arguments import check_positive
from rnn_jax.base import Cell, HiddenState, Params, Shapes, affine, check_shapes
from rnn_jax.cells.elman import Activation, activation_function, activation_name
from rnn_jax.numerics import wide_dtype
from rnn_jax.schemes import own_init


def modrelu(x: jax.Array, bias: jax.Array) -> jax.Array:
    """sign(x) * relu(|x| + b), which keeps the sign: Arjovsky et al. (2016), arXiv:1511.06464.

    >>> modrelu(jnp.array([-2.0, 0.5, 2.0]), jnp.float32(-1.0)).tolist()
    [-1.0, 0.0, 1.0]
    """
    return jnp.where(jnp.abs(x) + bias > 0, x + jnp.sign(x) * bias, 0)


def leaky_relu(x: jax.Array) -> jax.Array:
    """max(x, 0.1 x)."""
    return jax.nn.leaky_relu(x, 0.1)


def exprnn(activation: str | Activation = "modrelu") -> Cell:
    """The orthogonal network of the exponential map.

    h_t = phi(x_t W + h_{t-1} Q, b),    Q = exp(A),    A = -A^T,    y_t = h_t

    phi = modReLU, sign(a) * relu(|a| + b), or phi(a + b) of an ordinary activation. Q reaches
    every rotation (determinant 1), and one to one while the eigenvalues of A are within +-pi i.

    Parameters: ``kernel`` W (D, H); ``skew`` (H * (H - 1) / 2,), the entries of A above its
    diagonal in the order of ``numpy.triu_indices``; ``bias`` b (H,).
    State: ``HiddenState(hidden)``, (H,).

    Initialisation: A in blocks [[0, s], [-s, 0]] with s uniform in +-pi (Henaff, Szlam and LeCun
    2016), so that Q turns each pair of units by its own angle; W normal with variance 2 / D (He);
    b uniform in +-0.01, as the authors' code. No scheme applies. The authors write B h with
    B = exp(A'), here A = A'^T.

    Args:
      activation: "modrelu", "tanh", "relu", "leaky_relu", "sigmoid", "identity", or any elementwise
        function; for the bounds above one with slope in [-1, 1].

    Raises:
      ValueError: for an unknown name; (by ``init``) for any scheme.
      TypeError: for an activation that is neither a name nor a function.

    References:
      Lezcano-Casado and Martinez-Rubio (2019), arXiv:1901.08428.

    >>> import jax, numpy as np
    >>> cell = exprnn()
    >>> q = cell.prepare_params(cell.init(jax.random.key(0), 3, 8))["recurrent_kernel"]
    >>> bool(np.allclose(q @ q.T, np.eye(8), atol=1e-6))
    True
    """
    return _exprnn(_activation("exprnn", activation))


@functools.cache
def _exprnn(activation: Activation) -> Cell:
    def draw(key: jax.Array, input_size: int, hidden_size: int, dtype: Any) -> Params:
        kernel_key, skew_key, bias_key = jax.random.split(key, 3)
        angles = jax.random.uniform(skew_key, (hidden_size // 2,), dtype, -np.pi, np.pi)
        return {
            "bias": jax.random.uniform(bias_key, (hidden_size,), dtype, -0.01, 0.01),
            "kernel": initializers.variance_scaling(2.0, "fan_in", "normal")(
                kernel_key, (input_size, hidden_size), dtype
            ),
            "skew": _blocks(angles, hidden_size),
        }

    def exponential(params: Params) -> jax.Array:
        return expm(_skew_matrix(params))

    return _orthogonal_cell("exprnn", "modrelu", activation, _skew_shapes, draw, exponential)


def cayley_rnn(activation: str | Activation = "modrelu", *, negative: float = 0.5) -> Cell:
    """The orthogonal network of the scaled Cayley transform, scoRNN.

    h_t = phi(x_t W + h_{t-1} Q, b),    Q = (I + A)^{-1} (I - A) D,    A = -A^T,    y_t = h_t

    D is diagonal and fixed, 1 and then -1. Without it Q could not have the eigenvalue -1, and
    would need a huge A to come near; with the right D a bounded A reaches every orthogonal matrix.
    The determinant is that of D. phi as in `exprnn`.

    Parameters: ``kernel`` W (D, H); ``skew`` (H * (H - 1) / 2,), the entries of A above its
    diagonal in the order of ``numpy.triu_indices``; ``bias`` b (H,).
    State: ``HiddenState(hidden)``, (H,).

    Initialisation, as the authors' code: A in blocks [[0, s], [-s, 0]] with s = -tan(t / 2), t
    uniform in [0, pi / 2], so that (I + A)^{-1} (I - A) turns each pair of units by the angle t; W
    uniform in +-0.01; b zero. No scheme applies. Names and shapes do not tell these parameters from
    those of `exprnn`, whose Q is another.

    Args:
      activation: as in `exprnn`.
      negative: the part of the diagonal of D that is -1, rounded to whole units. The paper tunes
        it per task, between 0.1 (MNIST) and 0.5 (copying).

    Raises:
      ValueError: for an unknown name or a part outside [0, 1]; (by ``init``) for any scheme.
      TypeError: for an activation that is neither a name nor a function.

    References:
      Helfrich, Willmott and Ye (2018), arXiv:1707.09520.

    >>> import jax
    >>> cell = cayley_rnn(negative=0.25)
    >>> q = cell.prepare_params(cell.init(jax.random.key(0), 3, 4))["recurrent_kernel"]
    >>> round(float(jax.numpy.linalg.det(q)), 5)
    -1.0
    """
    number = isinstance(negative, numbers.Real) and not isinstance(negative, bool)
    if not number or not 0 <= negative <= 1:
        raise ValueError(f"cayley_rnn: negative must be between 0 and 1, got {negative!r}")
    return _cayley_rnn(_activation("cayley_rnn", activation), float(negative))


@functools.cache
def _cayley_rnn(activation: Activation, negative: float) -> Cell:
    def draw(key: jax.Array, input_size: int, hidden_size: int, dtype: Any) -> Params:
        kernel_key, skew_key = jax.random.split(key)
        angles = jax.random.uniform(skew_key, (hidden_size // 2,), dtype, 0, np.pi / 2)
        shape = (input_size, hidden_size)
        return {
            "bias": jnp.zeros(hidden_size, dtype),
            "kernel": jax.random.uniform(kernel_key, shape, dtype, -0.01, 0.01),
            "skew": _blocks(-jnp.tan(angles / 2), hidden_size),
        }

    def cayley(params: Params) -> jax.Array:
        skew = _skew_matrix(params)
        size = len(skew)
        eye = jnp.eye(size, dtype=skew.dtype)
        signs = np.where(np.arange(size) < size - round(negative * size), 1, -1)
        return jnp.linalg.solve(eye + skew, eye - skew) * jnp.asarray(signs[None], skew.dtype)

    return _orthogonal_cell("cayley_rnn", "modrelu", activation, _skew_shapes, draw, cayley)


def householder_rnn(
    activation: str | Activation = "leaky_relu", *, reflections: int | None = None
) -> Cell:
    """The orthogonal network of Householder reflections, oRNN.

    h_t = phi(x_t W + h_{t-1} Q, b),    Q = R(v_1) ... R(v_m),    R(v) = I - 2 v v^T / ||v||^2

    v_j has j - 1 leading zeros, as in a QR decomposition: m = H reflections reach every orthogonal
    matrix of determinant (-1)^H, fewer make Q cheaper and less expressive. R(0) = I, and passes no
    gradient. phi as in `exprnn`.

    Parameters: ``kernel`` W (D, H); ``reflectors`` (H, m), whose columns are the v_j and whose part
    above the diagonal is not read; ``bias`` b (H,). State: ``HiddenState(hidden)``, (H,).

    Initialisation, as the authors' code: each v_j uniform on the sphere, W Glorot uniform, b zero.
    No scheme applies. The authors learn h_0, here `combinators.with_learned_state`. The product
    is one triangular solve, I - V S^{-1} V^T with S the strict upper triangle of V^T V plus half
    its diagonal (Joffrain et al. 2006), instead of m reflections one after the other.

    Args:
      activation: as in `exprnn`; "leaky_relu" has slope 0.1 below zero, as in the paper.
      reflections: m; by default H.

    Raises:
      ValueError: for an unknown name or m < 1; (by ``init``) for m > H or any scheme.
      TypeError: for an m that is no integer, or an activation that is neither a name nor a
        function.

    References:
      Mhammedi, Hellicar, Rahman and Bailey (2017), arXiv:1612.00188.

    >>> import jax
    >>> householder_rnn(reflections=2).init(jax.random.key(0), 3, 4)["reflectors"].shape
    (4, 2)
    """
    if reflections is not None:
        reflections = check_positive("householder_rnn: reflections", reflections)
    return _householder_rnn(_activation("householder_rnn", activation), reflections)


@functools.cache
def _householder_rnn(activation: Activation, reflections: int | None) -> Cell:
    def draw(key: jax.Array, input_size: int, hidden_size: int, dtype: Any) -> Params:
        count = hidden_size if reflections is None else reflections
        if count > hidden_size:
            raise ValueError(
                f"householder_rnn: reflections must be at most hidden_size, {hidden_size}, "
                f"got {count}"
            )
        kernel_key, reflector_key = jax.random.split(key)
        reflectors = jnp.tril(jax.random.normal(reflector_key, (hidden_size, count), dtype))
        return {
            "bias": jnp.zeros(hidden_size, dtype),
            "kernel": initializers.glorot_uniform()(kernel_key, (input_size, hidden_size), dtype),
            "reflectors": reflectors / jnp.linalg.norm(reflectors, axis=0, keepdims=True),
        }

    def product(params: Params) -> jax.Array:
        v = _unit_columns(jnp.tril(params["reflectors"]))
        rows, columns = v.shape
        half = 0.5 * jnp.eye(columns, dtype=v.dtype)
        triangle = jnp.triu(v.T @ v, 1) + half
        return jnp.eye(rows, dtype=v.dtype) - v @ solve_triangular(triangle, v.T)

    def coordinates(hidden_size: int) -> Shapes:
        return {"reflectors": (hidden_size, reflections or hidden_size)}

    return _orthogonal_cell("householder_rnn", "leaky_relu", activation, coordinates, draw, product)


# ---- Parts --------------------------------------------------------------------------------------

_OWN_ACTIVATIONS: Mapping[str, Callable] = {"modrelu": modrelu, "leaky_relu": leaky_relu}


def _activation(cell: str, activation: str | Activation) -> Callable:
    if isinstance(activation, str) and activation in _OWN_ACTIVATIONS:
        return _OWN_ACTIVATIONS[activation]
    return activation_function(activation, cell)


def _orthogonal_cell(
    family: str,
    usual: str,
    activation: Callable,
    coordinates: Callable[[int], Shapes],
    draw: Callable[[jax.Array, int, int, Any], Params],
    matrix: Callable[[Params], jax.Array],
) -> Cell:
    """The cell whose recurrent kernel is ``matrix`` of the parameters of the shapes ``coordinates``
    of H."""
    label = activation_name(activation)
    name = family if label == usual else f"{family}_{label}"
    phi = activation if activation is modrelu else lambda a, b: activation(a + b)

    def prepare_params(params: Params) -> Params:
        return {**params, "recurrent_kernel": recurrent_kernel(params)}

    def recurrent_kernel(params: Params) -> jax.Array:
        if "recurrent_kernel" in params:
            return params["recurrent_kernel"]
        dtype = params["bias"].dtype
        # There are no factorisations in bfloat16.
        wide = wide_dtype(params["bias"])
        q = matrix({part: value.astype(wide) for part, value in params.items()})
        # One step of Newton's iteration towards the nearest orthogonal matrix: it squares the
        # distance, which is the rounding error, about 1e-5 for 128 units in float32 without it.
        eye = jnp.eye(len(q), dtype=wide)
        return (q + 0.5 * q @ (eye - q.T @ q)).astype(dtype)

    def initial_state(params: Params) -> HiddenState:
        return HiddenState(jnp.zeros_like(params["bias"]))

    def shapes(got: Shapes) -> Shapes:
        input_size, size = got["kernel"]
        prepared = {"recurrent_kernel": (size, size)} if "recurrent_kernel" in got else {}
        return {"kernel": (input_size, size), "bias": (size,), **coordinates(size), **prepared}

    def project(params: Params, x: jax.Array) -> jax.Array:
        check_shapes(name, params, shapes)
        return affine(name, params["kernel"], None, x)

    def step(params: Params, state: HiddenState, drive: jax.Array) -> tuple[HiddenState, jax.Array]:
        hidden = phi(drive + state.hidden @ recurrent_kernel(params), params["bias"])
        return HiddenState(hidden), hidden

    def jacobian(params: Params, state: HiddenState, drive: jax.Array) -> jax.Array:
        q = recurrent_kernel(params)
        slope = jax.vmap(jax.grad(phi))(drive + state.hidden @ q, params["bias"])
        return slope[:, None] * q.T

    return Cell(
        name,
        own_init(name, draw),
        initial_state,
        step,
        project,
        jacobian=jacobian,
        prepare_params=prepare_params,
    )


def _skew_shapes(hidden_size: int) -> Shapes:
    return {"skew": (hidden_size * (hidden_size - 1) // 2,)}


def _skew_matrix(params: Params) -> jax.Array:
    """A = -A^T from its entries above the diagonal."""
    size = params["bias"].size
    upper = jnp.zeros((size, size), params["skew"].dtype)
    upper = upper.at[np.triu_indices(size, 1)].set(params["skew"])
    return upper - upper.T


def _unit_columns(v: jax.Array) -> jax.Array:
    """The columns with norm 1, those of zeros as they are, with a finite derivative at all of them.

    Each is brought to order one first: the squares of small entries would underflow.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=0, keepdims=True))
    zero = largest == 0
    v = v / jnp.where(zero, 1, largest)
    squares = jnp.where(zero, 1, jnp.sum(jnp.square(v), axis=0, keepdims=True))
    return v / jnp.sqrt(squares)


def _blocks(entries: jax.Array, size: int) -> jax.Array:
    """The coordinates of the block-diagonal A with blocks [[0, s], [-s, 0]]."""
    starts = 2 * np.arange(size // 2)
    blocks = jnp.zeros((size, size), entries.dtype).at[starts, starts + 1].set(entries)
    return blocks[np.triu_indices(size, 1)]
