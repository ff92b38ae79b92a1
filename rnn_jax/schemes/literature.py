"""The schemes of the literature."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rnn_jax.arguments import check_positive
from rnn_jax.schemes.layout import Layout, Scheme
from rnn_jax.schemes.parts import (
    check_numbers,
    lecun_normal,
    orthogonal_gates,
    per_gate,
    rescaled,
    standard,
)


def orthogonal(gain: ArrayLike = 1.0, forget_bias: ArrayLike = 0.0) -> Scheme:
    """Each gate's recurrent kernel ``gain`` times a Haar-random orthogonal matrix.

    Input kernels are normal with variance 1 / D (LeCun), biases zero but for the ``forget_bias``
    of the gate that keeps the state. Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.

    Raises:
      ValueError: for a number that is not finite; (by ``init``) for a forget bias in a cell without
        a gate that keeps the state.
    """
    check_numbers("orthogonal", gain=gain)
    return standard("orthogonal", orthogonal_gates(gain), forget_bias)


def gaussian(gain: ArrayLike = 1.0, forget_bias: ArrayLike = 0.0) -> Scheme:
    """Recurrent entries N(0, gain**2 / H), the ensemble of mean-field theory; rest as `orthogonal`.

    At gain 1 the spectral radius tends to 1 but the largest singular value to 2.
    Sompolinsky, Crisanti and Sommers (1988), doi:10.1103/PhysRevLett.61.259.

    Raises:
      ValueError: as `orthogonal`.
    """
    check_numbers("gaussian", gain=gain)

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        scale = jnp.asarray(gain, layout.dtype) * layout.recurrent_shape[0] ** -0.5
        return scale * jax.random.normal(key, layout.recurrent_shape, layout.dtype)

    return standard("gaussian", recurrent, forget_bias)


def identity(gain: ArrayLike = 1.0, forget_bias: ArrayLike = 0.0) -> Scheme:
    """Each gate's recurrent kernel ``gain`` times the identity; rest as `orthogonal`.

    With ReLU units this is the IRNN of Le, Jaitly and Hinton (2015), arXiv:1504.00941.

    Raises:
      ValueError: (by ``init``) for a cell whose recurrent kernels are not square, or as
        `orthogonal`.
    """
    check_numbers("identity", gain=gain)

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        del key
        eye = jnp.asarray(gain, layout.dtype) * jnp.eye(layout.hidden_size, dtype=layout.dtype)
        return jnp.concatenate([eye] * len(layout.gates), axis=1)

    return standard("identity", recurrent, forget_bias, square=True)


def spectral_radius(radius: ArrayLike = 1.0, forget_bias: ArrayLike = 0.0) -> Scheme:
    """Each gate's recurrent kernel Gaussian, of exactly this spectral radius; rest as `orthogonal`.

    `gaussian` reaches its gain as spectral radius for large H only: single draws of 64 units are
    off by some per cent. The echo state networks of Jaeger (2001), GMD report 148, are scaled so.

    Raises:
      ValueError: for a negative radius; (by ``init``) as `identity`.

    >>> import jax, numpy as np, rnn_jax
    >>> params = rnn_jax.elman().init(jax.random.key(0), 2, 9, scheme=spectral_radius(0.9))
    >>> round(float(abs(np.linalg.eigvals(params["recurrent_kernel"])).max()), 4)
    0.9
    """
    check_numbers("spectral_radius", least=0, radius=radius)

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        square = (layout.hidden_size, layout.hidden_size)

        def block(gate_key: jax.Array) -> jax.Array:
            return rescaled(jax.random.normal(gate_key, square, layout.dtype), radius)

        return per_gate(block)(key, layout)

    return standard("spectral_radius", recurrent, forget_bias, square=True)


def sparse(
    radius: ArrayLike = 0.95,
    forget_bias: ArrayLike = 0.0,
    *,
    connections: int = 15,
    input_deviation: ArrayLike | None = None,
) -> Scheme:
    """Few recurrent connections into each unit, normal, rescaled to a spectral radius, per gate.

    Column j of a gate's block, the weights *into* unit j since kernels are applied from the
    right, has exactly so many entries that are not zero. The default is the "smart tanh"
    initialisation of Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, but for the input kernel,
    which is N(0, 0.01^2) there: ``input_deviation=0.01``. Rescaled, the recurrent entries do not
    depend on the deviation that they are drawn with. (The code released with that paper leaves
    so many connections *out of* each unit; a limit on those into a unit is that of Martens, 2010.)
    Sutskever, Martens, Dahl and Hinton (2013), "On the importance of initialization and
    momentum in deep learning", take 15 connections and a radius of 1.1.

    Args:
      radius: of the spectrum of each gate's block.
      forget_bias: of the gate that keeps the state.
      connections: the number of weights into each unit and gate that are not zero.
      input_deviation: standard deviation of the input kernel; None for that of `orthogonal`.

    Raises:
      ValueError: for ``connections`` below 1, a negative radius or deviation; (by ``init``) for
        more connections than there are units, or as `identity`.

    >>> import jax, rnn_jax
    >>> params = rnn_jax.elman().init(jax.random.key(0), 2, 50, scheme=sparse())
    >>> set((params["recurrent_kernel"] != 0).sum(axis=0).tolist())
    {15}
    """
    connections = check_positive("sparse: connections", connections)
    deviation = 0 if input_deviation is None else input_deviation
    check_numbers("sparse", least=0, radius=radius, input_deviation=deviation)

    def recurrent(key: jax.Array, layout: Layout) -> jax.Array:
        size = layout.hidden_size

        def block(gate_key: jax.Array) -> jax.Array:
            places, values = jax.random.split(gate_key)
            first = jnp.broadcast_to(jnp.arange(size)[:, None] < connections, (size, size))
            chosen = jax.random.permutation(places, first, axis=0, independent=True)
            normal = jax.random.normal(values, (size, size), layout.dtype)
            return rescaled(jnp.where(chosen, normal, 0), radius)

        return per_gate(block)(key, layout)

    def kernel(key: jax.Array, layout: Layout) -> jax.Array:
        if input_deviation is None:
            return lecun_normal(key, layout)
        deviation = jnp.asarray(input_deviation, layout.dtype)
        return deviation * jax.random.normal(key, layout.kernel_shape, layout.dtype)

    plain = standard("sparse", recurrent, forget_bias, square=True)

    def check(layout: Layout) -> None:
        plain.check(layout)
        if connections > layout.hidden_size:
            raise ValueError(
                f"the scheme sparse has {connections} connections into each unit, but the cell "
                f"{layout.cell} has only {layout.hidden_size} units"
            )

    return dataclasses.replace(plain, kernel=kernel, check=check)


def chrono(max_lag: ArrayLike, base: Scheme | None = None) -> Scheme:
    """Biases under which the gates remember for 2 to ``max_lag`` steps; rest as ``base``.

    b_keep = ln u, u ~ U(1, max_lag - 1), independent for every unit,    b_input = -b_keep

    A gate sigma(b_keep) forgets with the time constant 1 / (1 - sigma(b_keep)) = 1 + u. The second
    equation is for cells with a separate gate called "input" (LSTM); one gate that keeps and lets
    in (GRU) obeys it by itself, 1 - sigma(b) = sigma(-b). Tallec and Ollivier (2018),
    arXiv:1804.11188.

    Args:
      max_lag: T_max, the longest dependency that is expected.
      base: draws everything but these biases, by default `orthogonal`.

    Raises:
      ValueError: for a ``max_lag`` that is not a finite number of at least 2; (by ``init``) for a
        cell without a gate that keeps the state.
      TypeError: for a ``base`` that is no scheme.

    >>> import jax, rnn_jax
    >>> params = rnn_jax.lstm().init(jax.random.key(0), 2, 4, scheme=chrono(100))
    >>> b_input, b_forget, *_ = params["bias"].reshape(4, 4)
    >>> bool((b_input == -b_forget).all()), bool((b_forget >= 0).all())
    (True, True)
    """
    base = orthogonal() if base is None else base
    if not isinstance(base, Scheme):
        raise TypeError(f"chrono: base must be a Scheme or None, got {base!r}")
    check_numbers("chrono", least=2, max_lag=max_lag)

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        base_key, lag_key = jax.random.split(key)
        longest = jnp.asarray(max_lag, layout.dtype) - 1
        lags = jax.random.uniform(lag_key, (layout.hidden_size,), layout.dtype, 1, longest)
        chosen = {"input": -jnp.log(lags), layout.keep: jnp.log(lags)}
        blocks = jnp.split(base.bias(base_key, layout), len(layout.gates))
        return jnp.concatenate(
            [chosen.get(gate, block) for gate, block in zip(layout.gates, blocks, strict=True)]
        )

    def check(layout: Layout) -> None:
        base.check(layout)
        if layout.keep is None:
            raise ValueError(
                f"the scheme chrono sets the bias of the gate that keeps the state, but the cell "
                f"{layout.cell} has none"
            )

    return dataclasses.replace(base, name="chrono", bias=bias, check=check)
