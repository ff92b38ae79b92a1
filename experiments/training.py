"""A cell with a linear readout, trained on a task: what experiments on learning share."""

import jax
import jax.numpy as jnp

from rnn_jax import Cell, unroll
from rnn_jax.base import Params
from rnn_jax.schemes import Scheme
from rnn_jax.tasks import Example, Task


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


def outputs_of(cell: Cell, params: Params, example: Example) -> jax.Array:
    """The network's outputs (T, O) for one sequence."""
    _, trajectory = unroll(cell, params["cell"], example.inputs, mask=example.mask)
    return trajectory.outputs @ params["readout"]["kernel"] + params["readout"]["bias"]


def draw_batch(
    key: jax.Array, task: Task, batch: int, steps: int, length: jax.Array | None = None
) -> Example:
    """Independent sequences, leading axis B, of one length."""
    keys = jax.random.split(key, batch)
    return jax.vmap(lambda key: task.sample(key, steps, length))(keys)
