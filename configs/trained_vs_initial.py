"""Configuration of the experiment on what training does to dynamics: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Short sequences and small networks: what two cores can train in minutes."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 5  # networks, each with its own batches

    config.tasks = ("adding", "copy", "text")
    config.steps = ml_collections.ConfigDict({"adding": 50, "copy": 30, "text": 50})
    config.embedding = 16  # features of a character
    config.cells = ("elman", "lstm", "gru")
    config.hidden_size = 32
    config.gain = 1.0  # of the orthogonal recurrent kernels
    config.forget_bias = 1.0  # of the LSTM; of the GRU the same of its update gate

    # Of Adam. The vanilla network learns nothing at the rate that is best for the gated ones.
    config.learning_rates = ml_collections.ConfigDict({"elman": 1e-3, "lstm": 5e-3, "gru": 5e-3})
    config.clip = 1.0  # global norm of the gradient
    config.batch = 32
    config.every = 50  # updates between two tests
    config.tested = 256  # sequences of a test

    config.snapshots = (0, 50, 100, 200, 400, 1000, 2000)  # updates; the last ends the training
    config.measured = 64  # sequences whose gradients are measured
    config.burn_in = 200  # steps before exponents are measured, of the state and of the tangent
    config.exponent_steps = 2000  # along which they are
    config.lags = (5, 25)  # of the Jacobians whose singular values are measured
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small: two tasks, and the cell that learns them in so few updates."""
    config = default()
    config.seeds = 2
    config.tasks = ("adding", "text")
    config.steps = ml_collections.ConfigDict({"adding": 12, "copy": 24, "text": 12})
    config.embedding = 8
    config.cells = ("gru",)
    config.hidden_size = 12
    config.batch = 16
    config.tested = 64
    config.snapshots = (0, 50, 150)
    config.measured = 8
    config.burn_in = 20
    config.exponent_steps = 100
    config.lags = (2, 8)
    return config


def paper() -> ml_collections.ConfigDict:
    """Longer sequences, wider networks, more updates."""
    config = default()
    config.seeds = 9
    config.steps = ml_collections.ConfigDict({"adding": 150, "copy": 60, "text": 100})
    config.embedding = 32
    config.hidden_size = 128
    config.learning_rates = ml_collections.ConfigDict({"elman": 5e-4, "lstm": 2e-3, "gru": 2e-3})
    config.every = 250
    config.tested = 1024
    config.snapshots = (0, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)
    config.exponent_steps = 10_000
    config.lags = (5, 50)
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
