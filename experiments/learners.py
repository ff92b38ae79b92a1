"""A cell with a linear readout, which learns a task: what experiments on learning share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnn_jax import Cell, unroll
from rnn_jax.base import Params, PyTree
from rnn_jax.remedies import read_probes
from rnn_jax.schemes import Scheme
from rnn_jax.tasks import Example, Task


class Learner(NamedTuple):
    """A network and the state of what optimises it."""

    params: Params
    opt_state: PyTree


class Seen(NamedTuple):
    """What one update saw.

    Attributes:
      loss, error: (), means over its batch, before the network has learned from it.
      penalty: what the penalty hands out, or None.
      probes: of the optimiser, by name, as from `rnn_jax.remedies.read_probes`.
    """

    loss: jax.Array
    error: jax.Array
    penalty: PyTree
    probes: dict[str, Any]


Penalty = Callable[[Params, Example], tuple[jax.Array, PyTree]]
"""(params, batch) -> what is added to the mean loss, and anything that is to be seen."""
Update = Callable[[Learner, jax.Array], tuple[Learner, Seen]]
"""(learner, key) -> (learner, seen)."""
Chunk = Callable[[Learner, jax.Array, jax.Array], tuple[Learner, PyTree]]
"""(learner, key, updates done) -> (learner, what was observed)."""


def init_network(
    key: jax.Array,
    cell: Cell,
    task: Task,
    hidden_size: int,
    *,
    scheme: Scheme | None = None,
    readout_scale: float,
) -> Params:
    """``{"cell": ..., "readout": {"kernel": (H, O), "bias": (O,)}}``.

    ``readout_scale`` is the standard deviation of the readout's Gaussian kernel; its bias is 0.
    """
    of_cell, of_readout = jax.random.split(key)
    shape = hidden_size, task.output_size
    readout = {
        "kernel": readout_scale * jax.random.normal(of_readout, shape),
        "bias": jnp.zeros(task.output_size),
    }
    params = cell.init(of_cell, task.input_size, hidden_size, scheme=scheme)
    return {"cell": params, "readout": readout}


def read_out(params: Params, outputs: jax.Array) -> jax.Array:
    """The network's outputs (..., O) from those of its cell (..., H)."""
    return outputs @ params["readout"]["kernel"] + params["readout"]["bias"]


def outputs_of(cell: Cell, params: Params, example: Example) -> jax.Array:
    """The network's outputs (T, O) for one sequence."""
    _, trajectory = unroll(cell, params["cell"], example.inputs, mask=example.mask)
    return read_out(params, trajectory.outputs)


def draw_batch(
    key: jax.Array, task: Task, batch: int, steps: int, length: jax.Array | None = None
) -> Example:
    """Independent sequences, leading axis B, of one length."""
    keys = jax.random.split(key, batch)
    return jax.vmap(lambda key: task.sample(key, steps, length))(keys)


def scores(
    cell: Cell, task: Task, params: Params, examples: Example
) -> tuple[jax.Array, jax.Array]:
    """Mean loss and mean error of a batch."""

    def one(example: Example) -> tuple[jax.Array, jax.Array]:
        outputs = outputs_of(cell, params, example)
        return task.loss(outputs, example), task.error(outputs, example)

    losses, errors = jax.vmap(one)(examples)
    return jnp.mean(losses), jnp.mean(errors)


def make_update(
    cell: Cell,
    task: Task,
    optimiser: optax.GradientTransformation,
    *,
    batch: int,
    steps: int,
    lengths: tuple[int, int] | None = None,
    penalty: Penalty | None = None,
) -> Update:
    """An update by the gradient of the mean loss of a fresh batch.

    Sequences are padded to ``steps``. The length of a batch is drawn from the first to the last of
    ``lengths``; without them it is ``steps``.
    """

    def total(params: Params, examples: Example) -> tuple[jax.Array, tuple]:
        loss, error = scores(cell, task, params, examples)
        extra, seen = penalty(params, examples) if penalty else (jnp.zeros_like(loss), None)
        return loss + extra, (loss, error, seen)

    def update(learner: Learner, key: jax.Array) -> tuple[Learner, Seen]:
        of_length, of_batch = jax.random.split(key)
        length = None
        if lengths is not None:
            length = jax.random.randint(of_length, (), lengths[0], lengths[1] + 1)
        examples = draw_batch(of_batch, task, batch, steps, length)
        gradient, (loss, error, extra) = jax.grad(total, has_aux=True)(learner.params, examples)
        change, opt_state = optimiser.update(gradient, learner.opt_state, learner.params)
        learner = Learner(optax.apply_updates(learner.params, change), opt_state)
        return learner, Seen(loss, error, extra, read_probes(opt_state))

    return update


def make_chunk(update: Update, observe: Callable[[Learner, Seen], PyTree], *, every: int) -> Chunk:
    """So many updates in one compiled loop, for `rnn_jax.sharding.over_replicas`.

    Called again and again from Python, it can be stopped between two chunks. Update n draws from
    ``fold_in(key, n)``: how updates are dealt out to chunks changes nothing.

    Args:
      update: as from `make_update`.
      observe: what to keep, from the learner at the end and what all updates saw, leading axis
        ``every``.
      every: updates in a chunk.
    """

    def chunk(learner: Learner, key: jax.Array, done: jax.Array) -> tuple[Learner, PyTree]:
        step = lambda learner, n: update(learner, jax.random.fold_in(key, n))
        learner, seen = jax.lax.scan(step, learner, done + jnp.arange(every))
        return learner, observe(learner, seen)

    return chunk
