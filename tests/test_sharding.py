"""Replicas over devices: the numbers of a plain loop, whatever the number of devices.

The number of devices is fixed when JAX starts, so each has its own process. This file is at
once the program that they run.
"""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from rnn_jax.sharding import WORTH_A_CORE, fast_compilation, over_batch, over_replicas

pytestmark = pytest.mark.xdist_group("sharding")  # the processes are started once

DEVICES = (1, 2, 3, 4)
COUNTS = (1, 4)
"""Numbers of replicas: neither is a multiple of 3 devices, and 1 is fewer than 2."""


def replica(key, options):
    """One replica of an experiment, from a key and a pytree of numbers to a pytree of results."""
    params = {
        "kernel": jnp.ones((1, 12), "float32"),
        "recurrent_kernel": options["gain"] * jax.random.normal(key, (4, 12), "float32"),
        "bias": jnp.zeros(12, "float32"),
        "recurrent_bias": jnp.zeros(4, "float32"),
    }
    xs = jax.random.normal(key, (20, 1), "float32")
    state, trajectory = rnn_jax.unroll(rnn_jax.gru(), params, xs)
    return {"state": state, "norms": jnp.linalg.norm(trajectory.outputs, axis=1)}


def arguments(count):
    gains = jnp.arange(1, count + 1, dtype="float32") / 2
    return jax.random.split(jax.random.key(0), count), {"gain": gains}


def to_text(results):
    """Every bit of a pytree."""
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(results)).hex()


BATCHES = (6, 4, 5, 1)
"""6 is divided by 3 of 4 devices, 4 by 2 of 3, 5 and 1 by none of 2 or 3."""


WORTHS = (0.5, 1.9, 2.1, 3.1)


def loss(params, xs, targets):
    """A mean over a batch (T, B, 1)."""
    outputs = lambda xs: rnn_jax.unroll(rnn_jax.gru(), params, xs)[1].outputs
    return jnp.mean((jax.vmap(outputs, 1, 1)(xs) - targets) ** 2)


def batch(size):
    key = jax.random.key(size)
    params = rnn_jax.gru().init(key, 1, 4)
    xs = jax.random.normal(key, (7, size, 1), "float32")
    return params, xs, jnp.broadcast_to(jnp.cos(xs), (7, size, 4))


def main(devices):
    """Prints, for each number of replicas, the results of a Python loop and of all devices.

    Then, for each batch, how far a gradient over all devices is from that of the whole.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    assert jax.local_device_count() == devices
    options = fast_compilation("cpu")
    one, shared = jax.jit(replica, compiler_options=options), over_replicas(replica)
    for count in COUNTS:
        args = arguments(count)
        each = [one(*jax.tree.map(lambda leaf, i=i: leaf[i], args)) for i in range(count)]
        loop = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        print(to_text(loop), to_text(shared(*args)))
    step = jax.value_and_grad(loss)
    for size in BATCHES:
        args = batch(size)
        whole, divided = jax.jit(step)(*args), over_batch(step, axis=1, devices=devices)(*args)
        apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max() / jnp.abs(a).max(), whole, divided)
        used = len(divided[0].sharding.device_set)
        print(size, used, max(map(float, jax.tree.leaves(apart))))
    for worth in WORTHS:
        result = over_batch(products(worth))(jnp.eye(300), jnp.ones((6, 300)))
        print(len(result.sharding.device_set))


def products(worth):
    """A function of as many operations as are worth so many cores, of a matrix and a batch of 6."""
    steps = round(worth * WORTH_A_CORE / (2 * 6 * 300 * 300))
    return lambda w, xs: jax.lax.scan(lambda xs, _: (xs @ w, None), xs, None, steps)[0].mean()


@pytest.fixture(scope="module")
def printed():
    """What `main` prints for each number of devices; the processes run side by side."""
    root = Path(__file__).parents[1]
    start = lambda devices: subprocess.Popen(
        [sys.executable, "-c", f"from tests.test_sharding import main; main({devices})"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    outputs = {}
    for devices, process in {devices: start(devices) for devices in DEVICES}.items():
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        lines = [line.split() for line in output.splitlines()]
        names = [*COUNTS, *(f"batch of {size}" for size in BATCHES), *WORTHS]
        outputs[devices] = dict(zip(names, lines, strict=True))
    return outputs


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("devices", DEVICES)
def test_replicas_are_a_python_loop_bit_for_bit(printed, devices, count):
    """Also where some devices have nothing left to do."""
    loop, shared = printed[devices][count]
    assert len(loop) == 2 * 4 * count * (4 + 20)  # the bytes of what `replica` returns
    assert shared == loop


@pytest.mark.parametrize("count", COUNTS)
def test_the_number_of_devices_does_not_matter(printed, count):
    """The same bits from 1, 2 and 3 devices."""
    assert len({printed[devices][count][1] for devices in DEVICES}) == 1


@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("devices", DEVICES)
def test_a_divided_batch_has_the_gradient_of_the_whole(printed, devices, size):
    """A mean of means of equal parts; float32 sums in another order."""
    _, used, apart = printed[devices][f"batch of {size}"]
    assert int(used) == max(n for n in range(1, devices + 1) if size % n == 0)
    assert float(apart) < 1e-5


@pytest.mark.parametrize("worth", WORTHS)
@pytest.mark.parametrize("devices", DEVICES)
def test_only_as_many_cores_are_used_as_are_worth_it(printed, devices, worth):
    assert int(printed[devices][worth][0]) == max(1, min(devices, int(worth)))


def test_a_batch_has_one_size():
    with pytest.raises(ValueError, match=r"as many examples, got \[3, 4\]"):
        over_batch(lambda params, x, y: x.mean())((), np.ones(3), np.ones(4))


@pytest.mark.parametrize(
    ("args", "sizes"), [((np.ones(3), np.ones(4)), r"\[\(3,\), \(4,\)\]"), ((), r"\[\]")]
)
def test_replica_axes_must_agree(args, sizes):
    """The error says which sizes came."""
    with pytest.raises(ValueError, match=f"one replica axis of the same size, got {sizes}"):
        over_replicas(lambda *args: args)(*args)


@pytest.mark.parametrize("arg", [1.0, np.ones(())])
def test_arguments_need_a_replica_axis(arg):
    """A number that all replicas share has to be closed over."""
    with pytest.raises(ValueError, match=r"one replica axis.*\(\)"):
        over_replicas(lambda x: x)(arg)
