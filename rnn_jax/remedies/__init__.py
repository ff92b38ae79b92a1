"""What is done against gradients that vanish or explode, and links that show whether it helped.

Links of an optax chain act on the gradient of the parameters, a cell from `clip_cotangents` acts
inside the recurrence, and the others are terms that a loss adds to itself with a weight:

>>> import jax, jax.numpy as jnp, optax, rnn_jax
>>> from rnn_jax.remedies import omega, probe, read_probes
>>> cell, xs = rnn_jax.elman(), jnp.ones((20, 3))
>>> params = cell.init(jax.random.key(0), 3, 8)
>>> def loss(params):
...     last = lambda outputs: jnp.sum(jnp.square(outputs[-1]))
...     outputs = rnn_jax.unroll(cell, params, xs)[1].outputs
...     return last(outputs) + 0.1 * omega(cell, params, xs, loss=last).penalty
>>> optimiser = optax.chain(
...     probe("before"), optax.clip_by_global_norm(1.0), probe("after"), optax.adam(1e-3))
>>> state = optimiser.init(params)
>>> updates, state = optimiser.update(jax.grad(loss)(params), state)
>>> sorted(read_probes(state))
['after', 'before']

Remedies that live elsewhere:

===================================  ==========================================================
clipping by the global norm          ``optax.clip_by_global_norm``
by value, by the RMS of each leaf    ``optax.clip``, ``optax.clip_by_block_rms``
relative to the parameters           ``optax.adaptive_grad_clip``
updates that are not finite          ``optax.apply_if_finite(chain, n)`` leaves them out and counts
                                     them, and after n in a row lets them through; a probe before
                                     it sees what it leaves out
forget bias, chrono initialisation   `rnn_jax.schemes`: ``orthogonal(forget_bias=1.0)``, ``chrono``
orthogonal recurrence                `rnn_jax.schemes.orthogonal` at first; ``exprnn``,
                                     ``cayley_rnn`` and ``householder_rnn`` for good
truncated backpropagation            `rnn_jax.unroll_truncated`
===================================  ==========================================================

The order in a chain matters: what clips before accumulation or Adam is not what clips after.
``optax.clip_by_global_norm`` squares before it sums: in float32 a norm above 2e19 is infinite to
it and its result zero, with nothing to be seen but the -inf of a probe after it.
"""

from rnn_jax.remedies.clipping import clip_by_leaf_norm, clip_cotangents
from rnn_jax.remedies.flossing import flossing_penalty
from rnn_jax.remedies.omega import Omega, omega
from rnn_jax.remedies.probes import Probe, Watched, probe, read_probes, watch
from rnn_jax.remedies.weights import soft_orthogonality, spectral_penalty

__all__ = [
    "Omega",
    "Probe",
    "Watched",
    "clip_by_leaf_norm",
    "clip_cotangents",
    "flossing_penalty",
    "omega",
    "probe",
    "read_probes",
    "soft_orthogonality",
    "spectral_penalty",
    "watch",
]
