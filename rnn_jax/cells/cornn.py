"""The coupled oscillatory network of Rusch and Mishra (2021), arXiv:2010.00951."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arguments import check_choice, check_number
from rnn_jax.base import Cell, Params
from rnn_jax.gated import gated_cell
from rnn_jax.schemes import Layout, equinox


class CoRNNState(NamedTuple):
    """The positions y of the oscillators, named hidden, and their velocities z, each (H,)."""

    hidden: jax.Array
    velocity: jax.Array


def cornn(
    *,
    dt: float = 0.042,
    gamma: float = 2.7,
    epsilon: float = 4.7,
    damping: Literal["implicit", "explicit"] = "implicit",
) -> Cell:
    """Damped, driven, coupled oscillators: y'' = tanh(W y + Z y' + V u + b) - gamma y - epsilon y'.

    a_t = tanh(x_t V + y_{t-1} W + z_{t-1} Z + b)
    z_t = z_{t-1} + dt * (a_t - gamma * y_{t-1} - epsilon * z_t)        damping="implicit"
    z_t = z_{t-1} + dt * (a_t - gamma * y_{t-1} - epsilon * z_{t-1})    damping="explicit"
    y_t = y_{t-1} + dt * z_t; the output is y_t

    Both are the paper's scheme, the first solved for z_t, which divides it by 1 + dt epsilon. The
    authors' code is explicit. From zero, with implicit damping and
    epsilon >= (1 + gamma dt) / 2, the energy gamma ||y_t||^2 + ||z_t||^2 is at most H dt t for any
    weights and inputs. A step is the identity plus O(dt), so gradients depend on the time dt t
    passed rather than on the number of steps.

    Parameters: ``kernel`` V (D, H), ``recurrent_kernel`` W (H, H), ``velocity_kernel`` Z (H, H),
    ``bias`` b (H,). State: ``CoRNNState(hidden, velocity)``, each (H,).

    Without a scheme as the authors' code: all uniform in +-1 / sqrt(D + 2 H). A scheme draws all
    but the velocity kernel. dt, gamma and epsilon are no parameters since they are not trained;
    the defaults are those of the authors for sequential MNIST. The authors' one matrix acts on
    [x, z, y]. torchrecurrent and RecurrentLayers.jl have the explicit form.

    Args:
      dt: the step size, above 0.
      gamma: the squared frequency of the oscillators, at least 0.
      epsilon: their damping, at least 0.
      damping: the velocity that is damped, the new one or the old one.

    Raises:
      TypeError, ValueError: for numbers out of range or another ``damping``.

    >>> import jax
    >>> cell = cornn(dt=0.1)
    >>> params = cell.init(jax.random.key(0), 3, 4)
    >>> state, output = cell(params, cell.initial_state(params), jax.numpy.ones(3))
    >>> state._fields, bool((output == 0.1 * state.velocity).all())
    (('hidden', 'velocity'), True)
    """
    check_choice("cornn: damping", damping, ("implicit", "explicit"))
    return _cornn(
        check_number("cornn: dt", dt, zero=False),
        check_number("cornn: gamma", gamma),
        check_number("cornn: epsilon", epsilon),
        damping == "implicit",
    )


@functools.cache
def _cornn(dt: float, gamma: float, epsilon: float, implicit: bool) -> Cell:
    # z_t = shrink * (keep * z_{t-1} + dt * (a_t - gamma * y_{t-1}))
    shrink, keep = (1 / (1 + dt * epsilon), 1.0) if implicit else (1.0, 1 - dt * epsilon)

    def activation(params: Params, state: CoRNNState, drive: jax.Array) -> jax.Array:
        recurrent = state.hidden @ params["recurrent_kernel"]
        return jnp.tanh(drive + recurrent + state.velocity @ params["velocity_kernel"])

    def jacobian(params: Params, state: CoRNNState, drive: jax.Array) -> jax.Array:
        slope = (1 - activation(params, state, drive) ** 2)[:, None]
        eye = jnp.eye(slope.size, dtype=slope.dtype)
        force_by_y = slope * params["recurrent_kernel"].T - gamma * eye
        force_by_z = slope * params["velocity_kernel"].T
        z_by_y = shrink * dt * force_by_y
        z_by_z = shrink * (keep * eye + dt * force_by_z)
        return jnp.block([[eye + dt * z_by_y, dt * z_by_z], [z_by_y, z_by_z]])

    def equations(params: Params, state: CoRNNState, drive: jax.Array) -> CoRNNState:
        y, z = state
        force = activation(params, state, drive) - gamma * y
        z = shrink * (keep * z + dt * force)
        return CoRNNState(y + dt * z, z)

    def kernel(key: jax.Array, layout: Layout) -> jax.Array:
        return _uniform(key, layout, (layout.input_size, layout.hidden_size))

    def square(key: jax.Array, layout: Layout) -> jax.Array:
        return _uniform(key, layout, (layout.hidden_size, layout.hidden_size))

    def bias(key: jax.Array, layout: Layout) -> jax.Array:
        return _uniform(key, layout, (layout.hidden_size,))

    return gated_cell(
        gates=("acceleration",),
        name="cornn" if implicit else "cornn_explicit",
        state=CoRNNState,
        extra={"velocity_kernel": square},
        scheme=dataclasses.replace(
            equinox(), name="cornn", kernel=kernel, recurrent_kernel=square, bias=bias
        ),
        jacobian=jacobian,
    )(equations)


def _uniform(key: jax.Array, layout: Layout, shape: tuple[int, ...]) -> jax.Array:
    limit = (layout.input_size + 2 * layout.hidden_size) ** -0.5
    return jax.random.uniform(key, shape, layout.dtype, -limit, limit)
