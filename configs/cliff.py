"""Configuration of the experiment on the wall in the loss: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Pascanu's figure and the same for shorter and longer sequences, in seconds."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # nothing is random
    config.lengths = (10, 50, 200)
    config.weights = (3.0, 8.0)  # from, to
    config.biases = (-5.0, 0.0)
    config.points = 200  # along each axis
    config.start = 0.5  # x_0
    config.target = 0.7
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.lengths = (5, 20)
    config.points = 12
    return config


def paper() -> ml_collections.ConfigDict:
    """A finer grid."""
    config = default()
    config.lengths = (10, 25, 50, 100, 200)
    config.points = 800
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
