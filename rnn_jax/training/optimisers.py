"""Optimisers by name: chains of optax with schedules and clipping."""

import math
import numbers
from collections.abc import Callable, Mapping

import optax

from rnn_jax.arguments import shown, unknown
from rnn_jax.remedies import watch

OPTIMISERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda rate, **options: optax.sgd(rate, **{"momentum": 0.9} | options),
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "adamw": optax.adamw,
}
SCHEDULES: Mapping[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda peak, updates: optax.constant_schedule(peak),
    "cosine": lambda peak, updates: optax.cosine_decay_schedule(peak, updates),
    "warmup_cosine": lambda peak, updates: optax.warmup_cosine_decay_schedule(
        0.0, peak, max(1, updates // 20), updates
    ),
    "exponential": lambda peak, updates: optax.exponential_decay(peak, updates, 0.01),
}


def make_optimiser(
    name: str,
    learning_rate: float,
    *,
    schedule: str = "constant",
    updates: int | None = None,
    clip: float = math.inf,
    **options: float,
) -> optax.GradientTransformation:
    """gradient -> clipping by the global norm, watched as "clip" -> optimiser.

    `rnn_jax.remedies.read_probes` tells the norm before and after, and how often it clipped.

    Args:
      name: sgd, momentum (0.9), rmsprop, adam or adamw.
      learning_rate: its peak.
      schedule: of the learning rate: constant; cosine, to 0; warmup_cosine, after a linear rise
        over the first twentieth; exponential, to a hundredth.
      updates: how many there will be, at least 2; a schedule that is not constant needs it.
      clip: the largest global norm; infinite for no clipping.
      options: further ones of optax' optimiser, ``weight_decay`` of adamw or ``momentum``.

    Raises:
      ValueError, TypeError: for an unknown name or schedule, what is no number above 0.

    >>> import jax.numpy as jnp
    >>> from rnn_jax.remedies import read_probes
    >>> optimiser = make_optimiser("adam", 1e-3, schedule="cosine", updates=100, clip=1.0)
    >>> state = optimiser.init(jnp.zeros(2))
    >>> _, state = optimiser.update(jnp.array([30.0, 40.0]), state, jnp.zeros(2))
    >>> seen = read_probes(state)["clip"]
    >>> round(float(seen.before.log_norm), 4), int(seen.acted)  # ln 50
    (3.912, 1)
    """
    for field, value, names in (("optimiser", name, OPTIMISERS), ("schedule", schedule, SCHEDULES)):
        if value not in names:
            raise ValueError(unknown(field, value, names))
    if schedule != "constant" and (updates is None or updates < 2):
        raise ValueError(f"updates must be at least 2 for schedule {schedule!r}, got {updates}")
    for field, number in (("learning_rate", learning_rate), ("clip", clip)):
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise TypeError(f"{field} must be a number, got {shown(number)}")
        if not number > 0:
            raise ValueError(f"{field} must be above 0, got {number!r}")
    optimiser = OPTIMISERS[name](SCHEDULES[schedule](learning_rate, updates or 1), **options)
    if clip == math.inf:
        return optimiser
    return optax.chain(watch("clip", optax.clip_by_global_norm(clip)), optimiser)
