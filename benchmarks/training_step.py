"""One training step, forward and backward with all weights, beside the layers of six peers.

The gradient of the mean square of the outputs of one recurrent layer, over a grid of shapes, for
vanilla RNN, LSTM and GRU. Everyone gets the same weights and inputs, time-major, and must report
the same loss and gradient norm. Times are those of a compiled step with its data on the device;
the time of the first call, which compiles, is reported beside. This library divides the batch over
the cores (`rnn_jax.sharding.over_batch`) in "rnn_jax" and uses one device, as the peers do, in
"rnn_jax, one device"; PyTorch and XLA's larger products use all cores by themselves.

Run: python benchmarks/training_step.py [--repeats=2] [--json=PATH]
"""

import math
import os
import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

SHAPES = (
    (50, 1, 8, 32),
    (100, 1, 32, 64),
    (50, 8, 16, 32),
    (100, 8, 32, 64),
    (1000, 8, 32, 64),
    (100, 32, 64, 128),
    (200, 16, 64, 128),
    (200, 128, 128, 256),
)
"""Steps, batch, inputs and hidden units."""
CELLS = ("elman", "lstm", "gru")
CASES = [(cell, shape) for shape in SHAPES for cell in CELLS]
LEAST = 0.25
"""Seconds that the calls of a case are repeated for."""

Step = Callable[[], tuple[Any, Any]]
"""Computes the loss and the leaves of the gradient, and waits for them."""


def inputs(shape: tuple[int, ...]) -> np.ndarray:
    steps, batch, size, _ = shape
    return np.random.default_rng(0).standard_normal((steps, batch, size), np.float32)


def cell_and_params(name: str, shape: tuple[int, ...]) -> tuple[Any, dict[str, np.ndarray]]:
    """A cell of ours, and weights that every library can have: one bias, where there are two."""
    from rnn_jax.cells import lookup

    _, _, size, hidden = shape
    gates = {"elman": 1, "lstm": 4, "gru": 3}[name]
    rng = np.random.default_rng(1)
    limit = hidden**-0.5
    draw = lambda *shape: rng.uniform(-limit, limit, shape).astype(np.float32)
    params = {
        "kernel": draw(size, gates * hidden),
        "recurrent_kernel": draw(hidden, gates * hidden),
        "bias": draw(gates * hidden),
    }
    return lookup(name), params | ({"recurrent_bias": draw(hidden)} if name == "gru" else {})


def measured(make: Callable[[str, tuple[int, ...]], Step | None]) -> dict[str, Any]:
    """What `harness` wants of a contender: per case milliseconds, of the first call too, results.

    None for what a library does not have.
    """
    cases: dict[str, Any] = {}
    for name, shape in CASES:
        step = make(name, shape)
        if step is None:
            continue
        start = time.perf_counter()
        loss, leaves = step()
        first = time.perf_counter() - start
        # Of the matrices: some libraries have two biases where others have their sum.
        squares = [np.sum(np.square(leaf, dtype=np.float64)) for leaf in leaves if leaf.ndim > 1]
        times = []
        begin = time.perf_counter()
        while time.perf_counter() - begin < LEAST or len(times) < 5:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        cases[f"{name} {shape}"] = {
            "ms": 1e3 * float(np.median(times)),
            "first_s": first,
            "loss": float(loss),
            "norm": math.sqrt(sum(squares)),
        }
    return cases


def jax_step(function: Callable[..., Any], params: Any, xs: Any) -> Step:
    """A step of a compiled function of parameters and inputs."""
    import jax

    params, xs = jax.tree.map(jax.numpy.asarray, (params, xs))

    def step() -> tuple[Any, Any]:
        loss, gradient = jax.block_until_ready(function(params, xs))
        return loss, jax.tree.leaves(gradient)

    return step


def mean_square(outputs: Any) -> Any:
    import jax.numpy as jnp

    return jnp.mean(outputs**2)


def run_rnn_jax(devices: int) -> dict[str, Any]:
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import rnn_jax
    from rnn_jax.sharding import over_batch

    def make(name: str, shape: tuple[int, ...]) -> Step:
        cell, params = cell_and_params(name, shape)

        def loss(params: Any, xs: Any) -> Any:
            outputs = lambda xs: rnn_jax.unroll(cell, params, xs)[1].outputs
            return mean_square(jax.vmap(outputs, 1, 1)(xs))

        return jax_step(over_batch(jax.value_and_grad(loss), axis=1), params, inputs(shape))

    return measured(make)


def run_linen() -> dict[str, Any]:
    import jax
    from flax import linen as nn

    from rnn_jax.interop import flax_linen

    cells = {"elman": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}

    def make(name: str, shape: tuple[int, ...]) -> Step:
        cell, params = cell_and_params(name, shape)
        model = nn.RNN(cells[name](shape[-1]), time_major=True)
        loss = lambda weights, xs: mean_square(model.apply({"params": weights}, xs))
        weights = {"cell": flax_linen.weights_from(cell, params)}
        return jax_step(jax.jit(jax.value_and_grad(loss)), weights, inputs(shape))

    return measured(make)


def run_nnx() -> dict[str, Any]:
    import jax
    from flax import nnx

    from rnn_jax.interop import flax_nnx

    cells = {"elman": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell}

    def make(name: str, shape: tuple[int, ...]) -> Step | None:
        if name not in cells:
            return None  # its GRU has no bias inside the reset
        cell, params = cell_and_params(name, shape)
        model = nnx.RNN(
            cells[name](*shape[2:], rngs=nnx.Rngs(0)), time_major=True, rngs=nnx.Rngs(0)
        )
        graph, state, rest = nnx.split(model, nnx.Param, ...)
        nnx.replace_by_pure_dict(state, {"cell": flax_nnx.weights_from(cell, params)})
        zeros = jax.numpy.zeros((shape[1], shape[-1]))
        first = (zeros, zeros) if name == "lstm" else zeros  # its own needs a random stream

        def loss(state: Any, xs: Any) -> Any:
            return mean_square(nnx.merge(graph, state, rest)(xs, initial_carry=first))

        return jax_step(jax.jit(jax.value_and_grad(loss)), state, inputs(shape))

    return measured(make)


def run_haiku() -> dict[str, Any]:
    import haiku as hk
    import jax

    from rnn_jax.interop import haiku

    cells = {"elman": hk.VanillaRNN, "lstm": hk.LSTM, "gru": hk.GRU}

    def make(name: str, shape: tuple[int, ...]) -> Step | None:
        if name != "lstm":
            return None  # its vanilla RNN is ReLU, the bias of its GRU's candidate another
        cell, params = cell_and_params(name, shape)

        def forward(xs: Any) -> Any:
            core = cells[name](shape[-1])
            return hk.dynamic_unroll(core, xs, core.initial_state(shape[1]))[0]

        model = hk.without_apply_rng(hk.transform(forward))
        loss = lambda weights, xs: mean_square(model.apply(weights, xs))
        weights = haiku.weights_from(cell, params)
        return jax_step(jax.jit(jax.value_and_grad(loss)), weights, inputs(shape))

    return measured(make)


def run_equinox() -> dict[str, Any]:
    import equinox as eqx
    import jax

    from rnn_jax.interop import equinox

    cells = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}

    def make(name: str, shape: tuple[int, ...]) -> Step | None:
        if name not in cells:
            return None
        cell, params = cell_and_params(name, shape)
        model = cells[name](*shape[2:], key=jax.random.key(0))
        weights = equinox.weights_from(cell, params)
        names = list(weights)
        model = eqx.tree_at(
            lambda model: [getattr(model, name) for name in names],
            model,
            [jax.numpy.asarray(weights[name]) for name in names],
        )
        arrays, static = eqx.partition(model, eqx.is_array)

        def loss(arrays: Any, xs: Any) -> Any:
            step = jax.vmap(eqx.combine(arrays, static))
            zeros = jax.numpy.zeros((xs.shape[1], shape[-1]))
            first = (zeros, zeros) if name == "lstm" else zeros

            def body(state: Any, x: Any) -> Any:
                state = step(x, state)
                return state, state[0] if name == "lstm" else state

            return mean_square(jax.lax.scan(body, first, xs)[1])

        return jax_step(jax.jit(jax.value_and_grad(loss)), arrays, inputs(shape))

    return measured(make)


def run_keras() -> dict[str, Any]:
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    from keras import layers

    from rnn_jax.interop import keras

    kinds = {"elman": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}

    def make(name: str, shape: tuple[int, ...]) -> Step:
        cell, params = cell_and_params(name, shape)
        steps, batch, size, hidden = shape
        layer = kinds[name](hidden, return_sequences=True)
        layer.build((batch, steps, size))
        layer.set_weights(keras.weights_from(cell, params))
        frozen = [variable.value for variable in layer.non_trainable_variables]

        def loss(weights: Any, xs: Any) -> Any:
            return mean_square(layer.stateless_call(weights, frozen, xs)[0])

        weights = [variable.value for variable in layer.trainable_variables]
        xs = np.ascontiguousarray(inputs(shape).swapaxes(0, 1))  # it has no time-major layout
        step = jax_step(jax.jit(jax.value_and_grad(loss)), weights, xs)

        def of_kernels() -> tuple[Any, Any]:
            value, leaves = step()
            return value, leaves[:2]  # the bias behind them may be a matrix, too

        return of_kernels

    return measured(make)


def run_torch() -> dict[str, Any]:
    import torch

    from rnn_jax.interop import torch as weights_of

    kinds = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}

    def make(name: str, shape: tuple[int, ...]) -> Step:
        cell, params = cell_and_params(name, shape)
        layer = kinds[name](*shape[2:])
        state = weights_of.weights_from(cell, params)
        layer.load_state_dict({key: torch.tensor(np.array(value)) for key, value in state.items()})
        xs = torch.from_numpy(inputs(shape))

        def step() -> tuple[Any, Any]:
            layer.zero_grad()
            loss = torch.mean(layer(xs)[0] ** 2)
            loss.backward()
            return loss.detach(), [p.grad.numpy() for p in layer.parameters()]

        return step

    return measured(make)


if __name__ == "__main__":
    on_jax = {
        "flax.linen": run_linen,
        "flax.nnx": run_nnx,
        "haiku": run_haiku,
        "equinox": run_equinox,
        "keras": run_keras,
    }
    harness.grid(
        __doc__.splitlines()[0],
        run_rnn_jax,
        on_jax | {"torch": run_torch},
        agree_on=("loss", "norm"),
        quantities={"ms": "milliseconds", "first_s": "seconds of the first call"},
        best_of=tuple(on_jax),
    )
