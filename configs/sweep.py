"""Configuration of the sweep that the explorer shows: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant
from rnn_jax.cells import CELLS

# Its state is a picture: wide enough to be measured, it would take longer than all others.
OWN = tuple(name for name in CELLS if name != "convlstm")


def default() -> ml_collections.ConfigDict:
    """Six cells over initialisation, gain and forget bias; all others as their papers have them."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 5
    config.batch = 8  # sequences per seed
    config.cells = ("elman", "lstm", "gru", "mgu", "janet", "minimal_rnn")
    config.own_cells = OWN  # measured at their own initialisation alone, unless they are in cells
    config.schemes = ("orthogonal", "gaussian")
    config.gains = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    config.forget_biases = (0.0, 1.0, 2.0, 4.0)
    config.hidden_size = 64
    config.input_size = 16
    config.lengths = (50, 200, 1000)

    config.exponents = 16  # the largest ones
    config.burn_in = 200
    config.tangent_burn_in = 100
    config.steps = 400
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.batch = 2
    config.cells = ("elman", "lstm")
    config.own_cells = ("gru",)
    config.gains = (0.5, 1.5)
    config.forget_biases = (0.0, 2.0)
    config.hidden_size = 8
    config.input_size = 4
    config.lengths = (20, 60)
    config.exponents = 4
    config.burn_in = 20
    config.tangent_burn_in = 10
    config.steps = 40
    return config


def paper() -> ml_collections.ConfigDict:
    """A finer grid of wider networks, more seeds, longer sequences."""
    config = default()
    config.seeds = 10
    config.schemes = ("orthogonal", "gaussian", "identity", "spectral_radius")
    config.gains = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
    config.forget_biases = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    config.hidden_size = 128
    config.lengths = (50, 200, 1000, 5000)
    config.steps = 2000
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
