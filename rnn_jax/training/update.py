"""One update of a network's parameters as a pure function, its whole state a pytree."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from rnn_jax import numerics
from rnn_jax.arguments import check_positive, shown
from rnn_jax.base import Params, PyTree
from rnn_jax.remedies import Probe, Watched, read_probes


class TrainState(NamedTuple):
    """All that the next update depends on, beside the data and the key of the run.

    Attributes:
      step: (), the updates done, int32.
      params: of the network.
      opt_state: of the optimiser.
      carry: recurrent states that go on in the next batch, or ().
    """

    step: jax.Array
    params: Params
    opt_state: PyTree
    carry: PyTree = ()


class Seen(NamedTuple):
    """What one update saw, before the network has learned from it.

    Attributes:
      loss: (), the objective.
      log_gradient_norm: (), the natural logarithm of the norm of its gradient.
      extra: what else the objective hands out.
      probes: of the optimiser, by name, as from `rnn_jax.remedies.read_probes`.
    """

    loss: jax.Array
    log_gradient_norm: jax.Array
    extra: PyTree
    probes: dict[str, Probe | Watched]


class ObjectiveFn(Protocol):
    """What is to be small: ``(loss (), (carry for the next batch, anything to be seen))``."""

    def __call__(
        self, params: Params, carry: PyTree, batch: PyTree, key: jax.Array, /
    ) -> tuple[jax.Array, tuple[PyTree, PyTree]]: ...


DrawFn = Callable[[Any, jax.Array, jax.Array], PyTree]
"""(data, key, n) -> the batch of update n, which depends on them alone."""
Update = Callable[[TrainState, Any, jax.Array], tuple[TrainState, Seen]]
"""(state, data, key) -> (state, seen)."""


def init_state(
    params: Params, optimiser: optax.GradientTransformation, carry: PyTree = ()
) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimiser.init(params), carry)


def make_update(
    objective: ObjectiveFn, optimiser: optax.GradientTransformation, draw: DrawFn
) -> Update:
    """An update by the gradient of the objective on a batch.

    theta_{n+1} = theta_n + optimiser(grad_theta objective(theta_n, batch_n))

    What is random in update n is drawn from the key of the run and n: a run that was interrupted
    goes on from its `TrainState` as if nothing had been. Pure: ``jit`` it, or give it to
    `updates`.

    >>> import rnn_jax.training as training
    >>> objective = lambda params, carry, batch, key: (jnp.mean((params - batch) ** 2), (carry, ()))
    >>> draw = lambda data, key, n: jax.random.choice(jax.random.fold_in(key, n), data, (4,))
    >>> optimiser = optax.sgd(0.1)
    >>> update = training.make_update(objective, optimiser, draw)
    >>> state = training.init_state(jnp.zeros(()), optimiser)
    >>> state, seen = training.updates(update, 100)(state, jnp.ones(9), jax.random.key(0))
    >>> int(state.step), round(float(state.params), 6), seen.loss.shape
    (100, 1.0, (100,))
    """

    def update(state: TrainState, data: Any, key: jax.Array) -> tuple[TrainState, Seen]:
        of_data, of_noise = jax.random.split(key)
        batch = draw(data, of_data, state.step)
        differentiated = jax.value_and_grad(objective, has_aux=True)
        (loss, (carry, extra)), gradient = differentiated(
            state.params, state.carry, batch, jax.random.fold_in(of_noise, state.step)
        )
        change, opt_state = optimiser.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        new = TrainState(state.step + 1, params, opt_state, carry)
        return new, Seen(loss, numerics.log_norm(gradient), extra, read_probes(opt_state))

    return update


def updates(update: Update, count: int) -> Update:
    """So many updates as one compiled loop; what they saw gets a leading axis.

    Raises:
      TypeError, ValueError: for an update that is no function, a count that is no integer from 1.
    """
    if not callable(update):
        raise TypeError(f"updates: update must be a function, got {shown(update)}")
    count = check_positive("updates: count", count)

    @jax.jit
    def run(state: TrainState, data: Any, key: jax.Array) -> tuple[TrainState, Seen]:
        step = lambda state, _: update(state, data, key)
        return jax.lax.scan(step, state, None, length=count)

    return run
