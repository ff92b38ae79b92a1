"""Replicas of an experiment dealt out over devices, on JAX's own SPMD runtime."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.base import PyTree


def over_replicas(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compiles a function of one replica (one seed, say) to run on many, over all local devices.

    The result takes arguments with a leading replica axis R and returns NumPy arrays with one. Each
    device runs the same program on its share, replica after replica, without communication: the
    numbers do not depend on how many devices there are. R need not be a multiple of them.

    On a CPU, cores become devices by ``jax.config.update("jax_num_cpu_devices", n)`` before
    JAX is first used. Within one replica use ``vmap`` for what fills a device.

    >>> import jax.numpy as jnp
    >>> over_replicas(lambda x: x**2)(jnp.arange(3.0)).tolist()
    [0.0, 1.0, 4.0]
    """
    mesh = Mesh(jax.local_devices(), ("replica",))
    spec = PartitionSpec("replica")

    def share(args: Any) -> PyTree:
        return jax.lax.map(lambda replica: function(*replica), args)

    # A function of one replica knows nothing of mesh axes: its constants (a scan's zeros) need not
    # be declared as varying over them.
    compiled = jax.jit(
        jax.shard_map(share, mesh=mesh, in_specs=(spec,), out_specs=spec, check_vma=False)
    )

    def run(*args: PyTree) -> PyTree:
        args = jax.tree.map(jnp.asarray, args)
        shapes = [leaf.shape for leaf in jax.tree.leaves(args)]
        if () in shapes or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(f"all arguments need one replica axis of the same size, got {shapes}")
        count = shapes[0][0]
        # Devices with less to do than others repeat the last replica; the copies are dropped.
        rows = jnp.minimum(jnp.arange(-(-count // mesh.size) * mesh.size), count - 1)
        args = jax.tree.map(lambda leaf: leaf[rows], args)
        results = compiled(jax.device_put(args, NamedSharding(mesh, spec)))
        # Fetched shard by shard: slicing the sharded array would be a program with collectives,
        # and those may wait for ever for a CPU thread that the results still occupy.
        return jax.tree.map(lambda leaf: leaf[:count], jax.device_get(results))

    return run
