"""Up to a million steps of an LSTM: time per step and memory of the full gradient, beside peers.

The gradient of the mean square of the last hidden vectors with respect to all weights; 64 units, a
batch of 8, 8 inputs. This library reads in rematerialised segments (``segment="sqrt"``), on all
cores ("rnn_jax") and on one device. Memory is what the operating system counts as resident, the
peak while the step runs above what it was before. What would not fit into the memory that is free,
by ten times what a tenth of the length took, is left out.

Run: python benchmarks/long_sequence.py [--repeats=1] [--json=PATH]
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

LENGTHS = (10_000, 100_000, 1_000_000)
BATCH, INPUTS, HIDDEN = 8, 8, 64

Step = Callable[[Any], tuple[Any, Any]]
"""(inputs (T, B, D)) -> (loss, leaves of the gradient), computed."""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    limit = HIDDEN**-0.5
    draw = lambda *shape: rng.uniform(-limit, limit, shape).astype(np.float32)
    return {
        "kernel": draw(INPUTS, 4 * HIDDEN),
        "recurrent_kernel": draw(HIDDEN, 4 * HIDDEN),
        "bias": draw(4 * HIDDEN),
    }


def measured(put: Callable[[np.ndarray], Any], step: Step) -> dict[str, Any]:
    """Per length what `harness` compares: microseconds per step and megabytes above the start."""
    cases: dict[str, Any] = {}
    step(put(_inputs(100)))  # what the library itself needs
    megabytes = 0.0
    for length in LENGTHS:
        if 10 * megabytes > 0.9 * _megabytes("/proc/meminfo", "MemAvailable"):
            break
        xs = put(_inputs(length))
        Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
        before = _megabytes("/proc/self/status", "VmRSS")
        seconds = []
        for _ in range(2):  # the first compiles
            start = time.perf_counter()
            loss, leaves = step(xs)
            seconds.append(time.perf_counter() - start)
        megabytes = _megabytes("/proc/self/status", "VmHWM") - before
        squares = [np.sum(np.square(leaf, dtype=np.float64)) for leaf in leaves if leaf.ndim > 1]
        cases[f"{length} steps"] = {
            "us": 1e6 * min(seconds) / length,
            "mb": megabytes,
            "loss": float(loss),
            "norm": math.sqrt(sum(squares)),
        }
    return cases


def _inputs(length: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((length, BATCH, INPUTS), np.float32)


def _megabytes(file: str, field: str) -> float:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"{file} has no {field}")


def _jax(function: Callable[..., Any], params: Any) -> dict[str, Any]:
    import jax

    params = jax.tree.map(jax.numpy.asarray, params)

    def step(xs: Any) -> tuple[Any, Any]:
        loss, gradient = jax.block_until_ready(function(params, xs))
        return loss, jax.tree.leaves(gradient)

    return measured(jax.numpy.asarray, step)


def run_rnn_jax(devices: int) -> dict[str, Any]:
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import rnn_jax
    from rnn_jax.sharding import over_batch

    def loss(params: Any, xs: Any) -> Any:
        last = lambda xs: rnn_jax.unroll(rnn_jax.lstm(), params, xs, segment="sqrt")[0].hidden
        return jax.numpy.mean(jax.vmap(last, 1)(xs) ** 2)

    return _jax(over_batch(jax.value_and_grad(loss), axis=1), weights())


def run_linen() -> dict[str, Any]:
    import jax
    from flax import linen as nn

    import rnn_jax
    from rnn_jax.interop import flax_linen

    model = nn.RNN(nn.OptimizedLSTMCell(HIDDEN), time_major=True, return_carry=True)

    def loss(params: Any, xs: Any) -> Any:
        (_, hidden), _ = model.apply({"params": params}, xs)
        return jax.numpy.mean(hidden**2)

    params = {"cell": flax_linen.weights_from(rnn_jax.lstm(), weights())}
    return _jax(jax.jit(jax.value_and_grad(loss)), params)


def run_torch() -> dict[str, Any]:
    import torch

    import rnn_jax
    from rnn_jax.interop import torch as weights_of

    layer = torch.nn.LSTM(INPUTS, HIDDEN)
    state = weights_of.weights_from(rnn_jax.lstm(), weights())
    layer.load_state_dict({key: torch.tensor(np.array(value)) for key, value in state.items()})

    def step(xs: Any) -> tuple[Any, Any]:
        layer.zero_grad()
        loss = torch.mean(layer(xs)[1][0] ** 2)
        loss.backward()
        return loss.detach(), [p.grad.numpy() for p in layer.parameters()]

    return measured(torch.from_numpy, step)


if __name__ == "__main__":
    harness.grid(
        __doc__.splitlines()[0],
        run_rnn_jax,
        {
            "flax.linen": run_linen,
            "torch": run_torch,
        },
        agree_on=("loss", "norm"),
        quantities={"us": "microseconds per step", "mb": "MB above the start"},
        repeats=1,
    )
