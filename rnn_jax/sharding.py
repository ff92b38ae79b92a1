"""Replicas of an experiment dealt out over devices, on JAX's own SPMD runtime."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.base import PyTree


def over_replicas(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compiles a function of one replica (one seed, say) to run on many, over all local devices.

    The result takes arguments with a leading replica axis R and returns NumPy arrays with one. Each
    device runs the same program on its share, replica after replica, without communication: the
    numbers do not depend on how many devices there are. R need not be a multiple of them.

    On a CPU, cores become devices by ``jax.config.update("jax_num_cpu_devices", n)`` before
    JAX is first used. Within one replica use ``vmap`` for what fills a device. Where a replica
    factorises matrices (`analysis.lyapunov_spectrum`), limit the threads of LAPACK to one, as by
    ``threadpoolctl.threadpool_limits(1, user_api="blas")``: devices that are cores already use all.
    Do not ``vmap`` over factorisations there, but ``lax.map``: a batch of them is dealt out to the
    threads that the devices themselves run on, and two devices that wait for it wait for ever.

    >>> import jax.numpy as jnp
    >>> over_replicas(lambda x: x**2)(jnp.arange(3.0)).tolist()
    [0.0, 1.0, 4.0]
    """
    mesh = Mesh(jax.local_devices(), ("replica",))
    spec = PartitionSpec("replica")
    function = jax.jit(function)  # traced once for its shapes and for its program

    def one(replica: tuple[jax.Array, Any]) -> PyTree:
        wanted, args = replica
        shapes = jax.eval_shape(function, *args)
        nothing = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.cond(wanted, lambda: function(*args), nothing)

    # A function of one replica knows nothing of mesh axes: its constants (a scan's zeros) need not
    # be declared as varying over them.
    compiled = jax.jit(
        jax.shard_map(
            lambda replicas: jax.lax.map(one, replicas),
            mesh=mesh,
            in_specs=(spec,),
            out_specs=spec,
            check_vma=False,
        ),
        compiler_options=fast_compilation(jax.default_backend()),
    )

    def run(*args: PyTree) -> PyTree:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(args)]
        if () in shapes or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(f"all arguments need one replica axis of the same size, got {shapes}")
        count = shapes[0][0]
        # The last devices have less to do than the others; what pads their share is not computed.
        rows = np.arange(-(-count // mesh.size) * mesh.size)
        args = jax.tree.map(lambda leaf: _take(leaf, np.minimum(rows, count - 1)), args)
        replicas = jax.device_put((rows < count, args), NamedSharding(mesh, spec))
        # Fetched shard by shard: slicing the sharded array would be a program with collectives,
        # and those may wait for ever for a CPU thread that the results still occupy.
        return jax.tree.map(lambda leaf: leaf[:count], jax.device_get(compiled(replicas)))

    return run


def over_batch(function: Callable[..., PyTree], axis: int = 0) -> Callable[..., PyTree]:
    """Compiles a function of parameters and a batch to run with the batch divided over devices.

    ``function(params, *batch)`` returns means over the batch, of a loss and its gradient say. Each
    local device computes that of its part, on the same program; the result is the mean of theirs,
    which is that of the whole up to the order of sums. A batch that the devices do not divide is
    divided over as many as do.

    Args:
      function: pure; its results are floating point.
      axis: which axis of all arrays in ``batch`` is that of the examples.

    Raises:
      ValueError: (when called) for arrays that have not as many examples.

    >>> loss = lambda w, x, y: jnp.mean((x @ w - y) ** 2)
    >>> step = over_batch(jax.value_and_grad(loss))
    >>> value, gradient = step(jnp.zeros(2), jnp.eye(2), jnp.ones(2))
    >>> float(value), gradient.tolist()
    (1.0, [-1.0, -1.0])
    """

    @functools.cache
    def over(count: int) -> Callable[..., PyTree]:
        def part(params: PyTree, batch: tuple) -> PyTree:
            return jax.lax.pmean(function(params, *batch), "batch")

        mesh = Mesh(jax.local_devices()[:count], ("batch",))
        whole, divided = PartitionSpec(), PartitionSpec(*[None] * axis, "batch")
        # A function of one part knows nothing of the mesh, as in `over_replicas`.
        return jax.jit(
            jax.shard_map(
                part, mesh=mesh, in_specs=(whole, divided), out_specs=whole, check_vma=False
            )
        )

    def run(params: PyTree, *batch: PyTree) -> PyTree:
        sizes = {np.shape(leaf)[axis] for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1:
            raise ValueError(f"all arrays of a batch need as many examples, got {sorted(sizes)}")
        return over(math.gcd(*sizes, jax.local_device_count()))(params, batch)

    return run


def _take(leaf: Any, rows: np.ndarray) -> Any:
    """Rows of an array, by NumPy where it can: an eager gather of JAX compiles for each shape."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf[rows] if is_key else np.asarray(leaf)[rows]


@functools.cache
def fast_compilation(backend: str) -> dict[str, int]:
    """Options of XLA's CPU backend that shorten the compilation of small loops.

    They leave out passes over code that a recurrent step is too small to profit from. The names
    belong to XLA and not to JAX's promises: those that this version does not know are left out.
    """
    options = {}
    if backend == "cpu":
        candidates = {
            "xla_backend_optimization_level": 1,
            "xla_cpu_parallel_codegen_split_count": 1,
        }
        for name, value in candidates.items():
            try:
                jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
            except jax.errors.JaxRuntimeError:
                continue
            options[name] = value
    return options
