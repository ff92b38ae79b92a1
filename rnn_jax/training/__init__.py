"""Training: one update as a pure function, optimisers, the loop, checkpoints and metrics."""

from rnn_jax.training.checkpoints import Checkpoints, digest
from rnn_jax.training.fit import (
    Diverged,
    History,
    Progress,
    Recipe,
    begin,
    best_row,
    check,
    evaluate,
    fit,
)
from rnn_jax.training.metrics import MetricsWriter
from rnn_jax.training.optimisers import OPTIMISERS, SCHEDULES, make_optimiser
from rnn_jax.training.update import Seen, TrainState, Update, init_state, make_update, updates

__all__ = [
    "OPTIMISERS",
    "SCHEDULES",
    "Checkpoints",
    "Diverged",
    "History",
    "MetricsWriter",
    "Progress",
    "Recipe",
    "Seen",
    "TrainState",
    "Update",
    "begin",
    "best_row",
    "check",
    "digest",
    "evaluate",
    "fit",
    "init_state",
    "make_optimiser",
    "make_update",
    "updates",
]
