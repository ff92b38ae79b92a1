"""Configuration of the experiment on tied and untied weights: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Two kinds of matrices, and LSTM and GRU at three keeping biases."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 4  # draws of the weights
    config.batch = 16
    config.hidden_size = 200
    config.matrices = ((0.5, 0.25), (0.9, 0.2))  # a and b of a I + b U
    config.lag = 40
    config.cells = ("lstm", "gru")
    config.biases = (0.0, 1.0, 3.0)  # of the gate that keeps the state
    config.input_variances = (0.25, 1.0)  # of the input's part of a pre-activation
    config.input_size = 16
    config.steps = 80
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.batch = 3
    config.hidden_size = 24
    config.matrices = ((0.5, 0.25),)
    config.lag = 8
    config.biases = (0.0, 3.0)
    config.input_variances = (1.0,)
    config.input_size = 4
    config.steps = 24
    return config


def paper() -> ml_collections.ConfigDict:
    """Wider, more draws."""
    config = default()
    config.seeds = 20
    config.hidden_size = 500
    config.biases = (0.0, 1.0, 2.0, 3.0, 5.0)
    config.steps = 200
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
