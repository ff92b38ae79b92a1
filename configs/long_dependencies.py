"""Configuration of the experiment on long dependencies: default, smoke, paper, and four papers."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Small networks, sequences of up to 100 steps: what two cores can train in minutes."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 6  # networks, each with its own batches

    config.tasks = ("adding", "copy", "temporal_order")
    lengths = {"adding": (20, 50, 100), "copy": (25, 40, 60), "temporal_order": (20, 50, 100)}
    config.lengths = ml_collections.ConfigDict(lengths)  # steps
    config.shown = ml_collections.ConfigDict({"adding": 50, "copy": 40, "temporal_order": 50})
    config.spread = 0  # lengths of batches are drawn from so much less up to the length

    config.cells = ("elman", "irnn", "lstm", "gru", "cayley_rnn")
    config.hidden_size = 32
    # Or smart_tanh, or chrono, which tells LSTM and GRU the length; other cells have their own.
    config.initialisation = "orthogonal"
    config.forget_bias = 1.0  # of the LSTM; of the GRU the same of its update gate

    config.optimiser = "adam"  # or sgd
    config.learning_rates = ml_collections.ConfigDict(
        {"elman": 1e-3, "irnn": 1e-3, "lstm": 5e-3, "gru": 5e-3, "cayley_rnn": 5e-3}
    )
    config.clip = 1.0  # global norm of the gradient
    config.batch = 32
    config.updates = 2000  # at most
    config.every = 50  # updates between two tests

    # Solved: "wrong", the share of a test, its "loss", or by the training sequences, "hochreiter".
    config.criterion = ml_collections.ConfigDict(
        {"adding": "loss", "copy": "wrong", "temporal_order": "wrong"}
    )
    config.threshold = ml_collections.ConfigDict(
        {"adding": 1 / 60, "copy": 0.05, "temporal_order": 0.01}  # the first: 0.1 of the baseline
    )
    config.test = 500  # sequences
    config.measured = 15  # sequences whose gradients are measured
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small: sequences that a GRU learns in some hundred updates."""
    config = default()
    config.seeds = 2
    config.tasks = ("adding", "temporal_order")
    config.lengths = ml_collections.ConfigDict({"adding": (10,), "temporal_order": (10,)})
    config.shown = ml_collections.ConfigDict({"adding": 10, "temporal_order": 10})
    config.cells = ("gru",)
    config.hidden_size = 16
    config.updates = 200
    config.every = 50
    config.test = 200
    return config


def paper() -> ml_collections.ConfigDict:
    """Longer sequences, wider networks, more seeds and updates."""
    config = default()
    config.seeds = 20
    lengths = {"adding": (100, 200, 400, 750), "copy": (120, 220), "temporal_order": (100, 200)}
    config.lengths = ml_collections.ConfigDict(lengths)
    config.shown = ml_collections.ConfigDict({"adding": 400, "copy": 120, "temporal_order": 100})
    config.hidden_size = 128
    config.learning_rates = ml_collections.ConfigDict(
        {"elman": 5e-4, "irnn": 5e-4, "lstm": 2e-3, "gru": 2e-3, "cayley_rnn": 2e-3}
    )
    config.updates = 50_000
    config.every = 500
    config.test = 2000
    return config


def _single(
    task: str, length: int, cell: str, *, rate: float, criterion: str, threshold: float
) -> ml_collections.ConfigDict:
    """One task, length and cell, five seeds."""
    config = default()
    config.seeds = 5
    config.tasks, config.cells = (task,), (cell,)
    config.lengths = ml_collections.ConfigDict({task: (length,)})
    config.shown = ml_collections.ConfigDict({task: length})
    config.learning_rates = ml_collections.ConfigDict({cell: rate})
    config.criterion = ml_collections.ConfigDict({task: criterion})
    config.threshold = ml_collections.ConfigDict({task: threshold})
    return config


def hochreiter_adding() -> ml_collections.ConfigDict:
    """Task 4 of Hochreiter and Schmidhuber (1997), 100 to 110 steps: an LSTM, their criterion."""
    config = _single(
        "adding_hochreiter", 110, "lstm", rate=4e-3, criterion="hochreiter", threshold=0.01
    )
    config.seeds = 10
    config.spread = 10
    config.initialisation = "chrono"  # the memory cell of the paper never forgets
    config.clip = 0.1
    config.batch = 8
    config.updates = 18_500  # of eight sequences: twice the 74 000 of the paper
    config.every = 250
    return config


def hochreiter_order() -> ml_collections.ConfigDict:
    """Task 6a of Hochreiter and Schmidhuber (1997), 100 to 110 steps: an LSTM, their criterion."""
    config = _single(
        "temporal_order_hochreiter", 110, "lstm", rate=5e-3, criterion="hochreiter", threshold=0.1
    )
    config.seeds = 10
    config.spread = 10
    config.initialisation = "chrono"  # one forget bias for all units, 3 to 5, fails for some seeds
    config.batch = 4
    config.updates = 15_500  # of four sequences: nearly twice the 31 390 of the paper
    config.every = 250
    return config


def pascanu_order() -> ml_collections.ConfigDict:
    """Temporal order of 20 to 50 steps, plain SGD that clips: Pascanu et al. (2013)."""
    config = _single("temporal_order", 50, "elman", rate=0.03, criterion="wrong", threshold=0.01)
    config.spread = 30
    config.initialisation = "smart_tanh"
    config.hidden_size = 100
    config.optimiser = "sgd"
    config.batch = 20
    config.updates = 30_000
    config.every = 500
    config.test = 2000
    return config


def irnn_adding() -> ml_collections.ConfigDict:
    """Adding over 150 steps by 100 rectified units: Le, Jaitly and Hinton (2015)."""
    config = _single("adding", 150, "irnn", rate=1e-4, criterion="loss", threshold=0.05)
    config.hidden_size = 100
    config.batch = 16
    config.updates = 8000
    config.every = 200
    return config


PUBLISHED = {
    "hochreiter_adding": hochreiter_adding,
    "hochreiter_order": hochreiter_order,
    "pascanu_order": pascanu_order,
    "irnn_adding": irnn_adding,
}
"""Single experiments of papers."""


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant(
        {"default": default, "smoke": smoke, "paper": paper, **PUBLISHED}, variant
    )
