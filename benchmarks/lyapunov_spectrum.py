"""The full Lyapunov spectrum of a vanilla network of 256 units over 2000 steps, in float64.

This library beside the loop that one would write with NumPy and with PyTorch: a product with the
Jacobian and a QR factorisation at each step. A short run chooses how often this library factorises;
its time counts, as does compilation. All follow the same trajectory; their frames begin
differently, which the exponents forget.

Factorisations of this size are slower on two threads than on one. This library computes as its
experiments do, with LAPACK on one thread; the others both as they come and with one thread.

Run: python benchmarks/lyapunov_spectrum.py [--repeats=5] [--json=PATH]
"""

import time
from collections.abc import Mapping
from typing import Any

import harness
import numpy as np

HIDDEN, GAIN = 256, 1.5
WARM, STEPS, PILOT = 200, 2000, 64
TOLERANCE = 0.05
"""A chaotic trajectory goes elsewhere with the rounding: a mean over 2000 steps still differs."""


def problem() -> tuple[np.ndarray, np.ndarray]:
    """U of h_t = tanh(h_{t-1} U), and a state on the attractor."""
    rng = np.random.default_rng(0)
    kernel = GAIN * rng.standard_normal((HIDDEN, HIDDEN)) / HIDDEN**0.5
    hidden = rng.standard_normal(HIDDEN)
    for _ in range(500):
        hidden = np.tanh(hidden @ kernel)
    return kernel, hidden


def run_rnn_jax() -> dict[str, Any]:
    """The public function, twice."""
    import jax
    import jax.numpy as jnp

    import rnn_jax
    from rnn_jax.analysis import lyapunov_spectrum, orthonormalisation_interval

    jax.config.update("jax_enable_x64", True)
    limit_threads()
    kernel, hidden = problem()
    start = time.perf_counter()
    params = {
        "kernel": jnp.zeros((1, HIDDEN)),
        "recurrent_kernel": jnp.asarray(kernel),
        "bias": jnp.zeros(HIDDEN),
    }
    state = rnn_jax.HiddenState(jnp.asarray(hidden))

    def spectrum(warm: int, steps: int, every: int) -> jax.Array:
        warm, steps = warm // every * every, steps // every * every
        xs = jnp.zeros((warm + steps, 1))
        options = {"burn_in": 0, "tangent_burn_in": warm, "every": every, "state": state}
        run = lambda params: lyapunov_spectrum(
            jax.random.key(0), rnn_jax.elman(), params, xs, **options
        )
        return jax.block_until_ready(jax.jit(run)(params).exponents)

    every = orthonormalisation_interval(spectrum(0, PILOT, 1), jnp.float64)
    exponents = spectrum(WARM, STEPS, every)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "exponents": exponents.tolist(), "every": every}


def limit_threads() -> None:
    """One for each of the LAPACKs that have been loaded."""
    import scipy.linalg  # noqa: F401  # JAX's
    import threadpoolctl

    threadpoolctl.threadpool_limits(1, user_api="blas")


def run_numpy() -> dict[str, Any]:
    """A product and a QR factorisation at each step."""
    kernel, hidden = problem()
    start = time.perf_counter()
    frame, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((HIDDEN, HIDDEN)))
    growth = np.zeros(HIDDEN)
    for step in range(WARM + STEPS):
        hidden = np.tanh(hidden @ kernel)
        frame, triangular = np.linalg.qr((1 - hidden**2)[:, None] * (kernel.T @ frame))
        if step >= WARM:
            growth += np.log(np.abs(np.diag(triangular)))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "exponents": (growth / STEPS).tolist()}


def run_torch() -> dict[str, Any]:
    """The same loop over tensors."""
    import torch

    kernel, hidden = map(torch.from_numpy, problem())
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(1)
    frame = torch.randn(HIDDEN, HIDDEN, dtype=torch.float64, generator=generator)
    frame, _ = torch.linalg.qr(frame)
    growth = torch.zeros(HIDDEN, dtype=torch.float64)
    for step in range(WARM + STEPS):
        hidden = torch.tanh(hidden @ kernel)
        frame, triangular = torch.linalg.qr((1 - hidden**2)[:, None] * (kernel.T @ frame))
        if step >= WARM:
            growth += triangular.diagonal().abs().log()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "exponents": (growth / STEPS).tolist()}


def run_numpy_on_one_thread() -> dict[str, Any]:
    """The same with a LAPACK that is not in its own way."""
    limit_threads()
    return run_numpy()


def run_torch_on_one_thread() -> dict[str, Any]:
    """The same with one thread."""
    import torch

    torch.set_num_threads(1)
    return run_torch()


def check(results: Mapping[str, Any]) -> str:
    """All have the same spectrum."""
    spectra = {name: np.array(result["exponents"]) for name, result in results.items()}
    ours = spectra["rnn_jax"]
    apart = {
        name: float(np.max(np.abs(np.sort(theirs) - np.sort(ours))))
        for name, theirs in spectra.items()
    }
    if not max(apart.values()) < TOLERANCE:
        raise AssertionError(f"the spectra differ: {apart}")
    means = np.ptp([spectrum.mean() for spectrum in spectra.values()])
    return (
        f"exponents from {ours.max():.4f} to {ours.min():.4f}, largest difference "
        f"{max(apart.values()):.1e}, of their means {means:.1e}; "
        f"rnn_jax factorised every {results['rnn_jax']['every']} steps"
    )


if __name__ == "__main__":
    harness.main(
        "Lyapunov spectrum, 256 units, 2200 steps, float64",
        {
            "rnn_jax": run_rnn_jax,
            "numpy": run_numpy,
            "numpy, one thread": run_numpy_on_one_thread,
            "torch": run_torch,
            "torch, one thread": run_torch_on_one_thread,
        },
        ours="rnn_jax",
        check=check,
        cached=("rnn_jax",),
    )
