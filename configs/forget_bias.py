"""Configuration of the experiment on keeping biases: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Six biases of LSTM and GRU."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 5
    config.batch = 16
    config.cells = ("lstm", "gru")
    config.hidden_size = 128
    config.scheme = "gaussian"
    config.gain = 1.0
    config.biases = (-1.0, 0.0, 1.0, 2.0, 3.0, 5.0)
    config.input_size = 16
    config.input_variance = 0.25  # of the input's part of a pre-activation
    config.steps = 200
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.batch = 3
    config.hidden_size = 8
    config.input_size = 4
    config.biases = (0.0, 3.0)
    config.steps = 40
    return config


def paper() -> ml_collections.ConfigDict:
    """Wider, longer, more seeds."""
    config = default()
    config.seeds = 20
    config.hidden_size = 256
    config.biases = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    config.steps = 1000
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
