"""Replicas of an experiment dealt out over devices, on JAX's own SPMD runtime."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.arguments import check_positive, shown
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


def over_batch(
    function: Callable[..., PyTree], axis: int = 0, devices: int | None = None
) -> Callable[..., PyTree]:
    """Compiles a function of parameters and a batch to run with the batch divided over devices.

    ``function(params, *batch)`` returns means over the batch, of a loss and its gradient say. Each
    device computes that of its part, on the same program; the result is the mean of theirs, which
    is that of the whole up to the order of sums. Only so many devices are used as divide the batch.

    To divide costs about a millisecond on a CPU, and a product with fewer rows more per row. Unless
    ``devices`` is given, cores are therefore used only as far as each has `WORTH_A_CORE` floating
    point operations in matrix products; other local devices, all.

    Args:
      function: pure; its results are floating point.
      axis: which axis of all arrays in ``batch`` is that of the examples.
      devices: the most to use, whatever there is to do.

    Raises:
      ValueError, TypeError: for an axis that is no integer from 0, or devices that are none from 1;
        (when called) for arrays without that axis, without or with not as many examples.

    >>> loss = lambda w, x, y: jnp.mean((x @ w - y) ** 2)
    >>> step = over_batch(jax.value_and_grad(loss))
    >>> value, gradient = step(jnp.zeros(2), jnp.eye(2), jnp.ones(2))
    >>> float(value), gradient.tolist()
    (1.0, [-1.0, -1.0])
    """

    check_positive("axis", axis, zero=True)
    if devices is not None:
        check_positive("devices", devices)

    @functools.cache
    def over(count: int) -> Any:
        def part(params: PyTree, batch: tuple) -> PyTree:
            result = function(params, *batch)
            return jax.lax.pmean(result, "batch") if count > 1 else result

        if count > 1:
            mesh = Mesh(jax.local_devices()[:count], ("batch",))
            whole, divided = PartitionSpec(), PartitionSpec(*[None] * axis, "batch")
            # A function of one part knows nothing of the mesh, as in `over_replicas`.
            part = jax.shard_map(
                part, mesh=mesh, in_specs=(whole, divided), out_specs=whole, check_vma=False
            )
        return jax.jit(part, compiler_options=fast_compilation(jax.default_backend()))

    @functools.cache
    def count_for(tree: Any, leaves: tuple) -> int:
        params, batch = jax.tree.unflatten(tree, leaves)
        if any(len(leaf.shape) <= axis for leaf in jax.tree.leaves(batch)):
            raise ValueError(
                f"all arrays of a batch need examples on axis {axis}, got {shown(batch)}"
            )
        sizes = {leaf.shape[axis] for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1:
            raise ValueError(f"all arrays of a batch need as many examples, got {sorted(sizes)}")
        if sizes == {0}:
            raise ValueError("a batch needs at least one example, got none")
        most: float = min(devices or math.inf, jax.local_device_count())
        if most > 1 and devices is None and jax.default_backend() == "cpu":
            most = min(most, operations(over(1).trace(params, batch).jaxpr) / WORTH_A_CORE)
        (size,) = sizes
        return max(n for n in range(1, max(int(most), 1) + 1) if size % n == 0)

    def run(params: PyTree, *batch: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten((params, batch))
        return over(count_for(tree, tuple(map(jax.typeof, leaves))))(params, batch)

    return run


WORTH_A_CORE = 3e8
"""Floating point operations in matrix products: some milliseconds of a core.

With less, two cores took longer than one; docs/design.md has the measurements."""


def operations(jaxpr: core.Jaxpr) -> float:
    """Floating point operations of the matrix products in a program; a `while` counts once.

    >>> ten_times = lambda h, w: jax.lax.scan(lambda h, _: (w @ h, None), h, None, 10)
    >>> operations(jax.make_jaxpr(ten_times)(jnp.ones(4), jnp.ones((4, 4))).jaxpr)
    320.0
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shapes: Any = [v.aval for v in (*equation.invars, *equation.outvars)]
            (summed, _), _ = equation.params["dimension_numbers"]
            summed_sizes = [shapes[0].shape[n] for n in summed]
            total += 2 * math.prod(summed_sizes) * math.prod(shapes[-1].shape)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                inner = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
                total += equation.params.get("length", 1) * operations(inner)
    return total


def _is_program(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


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
