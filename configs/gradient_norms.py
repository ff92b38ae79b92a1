"""Configuration of the gradient-norm experiment: default, smoke (seconds), paper and zoo."""

import ml_collections

from experiments.launch import select_variant
from rnn_jax.cells import CELLS


def default() -> ml_collections.ConfigDict:
    """White noise and real text side by side, in about a minute on two cores."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 5  # replicas, each with its own weights, inputs and readouts
    config.batch = 32  # sequences per replica

    config.cells = ("elman", "lstm", "gru")
    config.elman_activation = "tanh"
    config.gru_reset = "after"
    config.hidden_size = 64

    config.inputs = ("white_noise", "python_docs")
    config.input_size = 16  # of the white noise and of embedded characters
    config.data = ""  # the user's own file, added to the inputs

    config.losses = ("readout", "last_step", "mean_over_steps")
    config.scheme = "orthogonal"  # or "own": each cell's paper's
    config.gain = 1.0
    # Jozefowicz, Zaremba and Sutskever (2015); for the GRU the same of its update gate.
    config.forget_bias = ml_collections.ConfigDict({"lstm": 1.0, "gru": 1.0})
    config.presets = ("flax_linen", "flax_nnx", "keras", "torch", "haiku", "equinox")

    config.steps = 400  # the longest lag of the curves against lag
    config.lengths = (10, 20, 50, 100, 200, 300, 500, 700, 1000)
    config.horizons = (20, 100)  # lags at which to divide the parameter gradient
    config.tangents = 8  # of the curve at every length
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.batch = 4
    config.hidden_size = 16
    config.input_size = 8
    config.steps = 60
    config.lengths = (10, 30, 60)
    config.horizons = (5, 20)
    return config


def paper() -> ml_collections.ConfigDict:
    """More seeds, wider networks, all three real and artificial inputs, longer lags."""
    config = default()
    config.seeds = 20
    config.hidden_size = 128
    config.inputs = ("white_noise", "python_docs", "digits")
    config.steps = 1000
    config.lengths = (10, 20, 50, 100, 200, 300, 500, 700, 1000, 2000)
    return config


def zoo() -> ml_collections.ConfigDict:
    """Every cell as its own paper initialises it, sorted by the half-life of its gradient."""
    config = default()
    config.cells = tuple(CELLS)
    config.scheme = "own"
    config.batch = 8
    config.inputs = ("white_noise",)
    config.losses = ("readout",)
    config.presets = ()
    config.lengths = ()
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper, "zoo": zoo}, variant)
