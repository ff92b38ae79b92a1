"""The parameter-gradient norm of a last-step loss, for 3 cells x 9 lengths x 5 seeds.

This library beside the script that a user would write with Flax linen (``nn.RNN``, one jitted
gradient called for each length and seed) and with PyTorch (``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and
autograd). All three get the same weights and data and must report the same norms. The clock runs
from the loaded libraries to the last number, compilation included.

Run: python benchmarks/gradient_norms.py [--repeats=5] [--json=PATH]
"""

import concurrent.futures
import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import harness
import numpy as np

CELLS = {"elman": 1, "lstm": 4, "gru": 3}
LENGTHS = (10, 20, 50, 100, 200, 300, 500, 700, 1000)
SEEDS, BATCH, INPUT, HIDDEN = 5, 32, 16, 64


def problem(cell: str) -> dict[str, np.ndarray]:
    """Weights in PyTorch's layout and default distribution, inputs and targets; axis 0 is seeds."""
    gates = CELLS[cell]
    rng = np.random.default_rng(gates)
    limit = HIDDEN**-0.5

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-limit, limit, (SEEDS, *shape)).astype(np.float32)

    return {
        "weight_ih": uniform(gates * HIDDEN, INPUT),
        "weight_hh": uniform(gates * HIDDEN, HIDDEN),
        "bias_ih": uniform(gates * HIDDEN),
        "bias_hh": uniform(gates * HIDDEN),
        "xs": rng.standard_normal((SEEDS, max(LENGTHS), BATCH, INPUT), np.float32),
        "targets": rng.standard_normal((SEEDS, BATCH, HIDDEN), np.float32),
    }


def run_rnn_jax() -> dict[str, Any]:
    """All lengths of a cell in one program; cells side by side, seeds over the cores."""
    _cores_as_devices()
    import jax.numpy as jnp

    from rnn_jax.analysis import length_sweep
    from rnn_jax.combinators import batched

    def norms(cell: Any, params: Any, xs: Any, target: Any) -> Any:
        loss = lambda output: jnp.mean((output - target) ** 2)
        whole = batched(cell, BATCH)
        return length_sweep(whole, params, xs, LENGTHS, loss=loss).log_parameter_norm

    seconds, logs = _for_each_cell(norms)
    norms_by_cell = {name: np.exp(np.float64(values)).tolist() for name, values in logs.items()}
    return {"seconds": seconds, "norms": norms_by_cell}


def run_every_length() -> dict[str, Any]:
    """Another quantity: the RMS gradient at the initial state for every length 1 .. 1000."""
    _cores_as_devices()
    import jax

    from rnn_jax.analysis import length_curve
    from rnn_jax.combinators import batched

    def curve(cell: Any, params: Any, xs: Any, target: Any) -> Any:
        del target
        return length_curve(jax.random.key(0), batched(cell, BATCH), params, xs, tangents=4)

    seconds, _ = _for_each_cell(curve)
    return {"seconds": seconds}


def _cores_as_devices() -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def _for_each_cell(function: Callable[..., Any]) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds, and results by cell, of a function of a cell and one replica's arrays."""
    from rnn_jax.cells import CELLS as cells
    from rnn_jax.sharding import over_replicas

    def run(name: str) -> np.ndarray:
        data = problem(name)
        bias = data["bias_ih"] + data["bias_hh"]
        params = {
            "kernel": data["weight_ih"].swapaxes(1, 2),
            "recurrent_kernel": data["weight_hh"].swapaxes(1, 2),
            "bias": bias,
        }
        if name == "gru":
            inner = data["bias_ih"][:, 2 * HIDDEN :]
            params["bias"] = np.concatenate([bias[:, : 2 * HIDDEN], inner], axis=1)
            params["recurrent_bias"] = data["bias_hh"][:, 2 * HIDDEN :]
        one_cell = functools.partial(function, cells[name]())
        return over_replicas(one_cell)(params, data["xs"], data["targets"])

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = dict(zip(CELLS, pool.map(run, CELLS), strict=True))
    return time.perf_counter() - start, results


def run_flax() -> dict[str, Any]:
    """``nn.RNN`` and one jitted gradient, called for each length and seed."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    cells = {"elman": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}

    def parameters(name: str, data: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
        w_ih, w_hh = data["weight_ih"][seed].T, data["weight_hh"][seed].T
        b_ih, b_hh = data["bias_ih"][seed], data["bias_hh"][seed]
        part = lambda a, g: a[..., g * HIDDEN : (g + 1) * HIDDEN]
        if name == "elman":
            tree: dict[str, Any] = {
                "i": {"kernel": w_ih, "bias": b_ih + b_hh},
                "h": {"kernel": w_hh},
            }
        elif name == "lstm":
            tree = {f"i{g}": {"kernel": part(w_ih, n)} for n, g in enumerate("ifgo")}
            tree |= {
                f"h{g}": {"kernel": part(w_hh, n), "bias": part(b_ih + b_hh, n)}
                for n, g in enumerate("ifgo")
            }
        else:
            inner = [part(b_ih + b_hh, 0), part(b_ih + b_hh, 1), part(b_ih, 2)]
            tree = {
                f"i{g}": {"kernel": part(w_ih, n), "bias": inner[n]} for n, g in enumerate("rzn")
            }
            tree |= {f"h{g}": {"kernel": part(w_hh, n)} for n, g in enumerate("rzn")}
            tree["hn"]["bias"] = part(b_hh, 2)
        return {"params": {"cell": tree}}

    start = time.perf_counter()
    norms = {}
    for name in CELLS:
        model = nn.RNN(cells[name](features=HIDDEN), time_major=True)
        data = problem(name)

        @jax.jit
        def norm(params: Any, xs: jax.Array, target: jax.Array, model: nn.RNN = model) -> jax.Array:
            loss = lambda params: jnp.mean((model.apply(params, xs)[-1] - target) ** 2)
            leaves = jax.tree.leaves(jax.grad(loss)(params))
            return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves))

        norms[name] = [
            [
                float(norm(parameters(name, data, s), data["xs"][s, :length], data["targets"][s]))
                for length in LENGTHS
            ]
            for s in range(SEEDS)
        ]
    return {"seconds": time.perf_counter() - start, "norms": norms}


def run_torch() -> dict[str, Any]:
    """The library's own layers and autograd."""
    import torch

    layers = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    start = time.perf_counter()
    norms: dict[str, list[list[float]]] = {}
    for name in CELLS:
        data = problem(name)
        norms[name] = []
        for s in range(SEEDS):
            layer = layers[name](INPUT, HIDDEN)
            with torch.no_grad():
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(layer, f"{part}_l0").copy_(torch.from_numpy(data[part][s]))
            xs, target = torch.from_numpy(data["xs"][s]), torch.from_numpy(data["targets"][s])
            row = []
            for length in LENGTHS:
                layer.zero_grad()
                outputs, _ = layer(xs[:length])
                torch.mean((outputs[-1] - target) ** 2).backward()
                squares = {n: float((p.grad**2).sum()) for n, p in layer.named_parameters()}
                row.append(_one_bias(name, squares, layer))
            norms[name].append(row)
    return {"seconds": time.perf_counter() - start, "norms": norms}


def _one_bias(name: str, squares: dict[str, float], layer: Any) -> float:
    """The norm over the parameters that the others have: PyTorch's two biases count once."""
    total = sum(squares.values()) - squares["bias_hh_l0"]
    if name == "gru":
        total += float((layer.bias_hh_l0.grad[2 * HIDDEN :] ** 2).sum())
    return total**0.5


def check(results: Mapping[str, Any]) -> str:
    """All contenders report the same norms, to the rounding of a float32 sum over 1000 steps."""
    reference = results["rnn_jax"]["norms"]
    worst = 0.0
    for result in results.values():
        for name in CELLS if "norms" in result else ():
            ratio = np.array(result["norms"][name]) / np.array(reference[name])
            worst = max(worst, float(np.abs(ratio - 1).max()))
    if worst > 1e-3:
        raise SystemExit(f"the contenders disagree by {worst:.1e} on the gradient norms")
    return f"largest relative difference of a norm between contenders {worst:.1e}"


if __name__ == "__main__":
    harness.main(
        __doc__.splitlines()[0],
        {
            "rnn_jax": run_rnn_jax,
            "rnn_jax, every length": run_every_length,
            "flax.linen": run_flax,
            "torch": run_torch,
        },
        ours="rnn_jax",
        check=check,
        cached=("rnn_jax", "flax.linen"),
    )
