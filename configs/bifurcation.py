"""Configuration of the bifurcation experiment: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Three weights of a sigmoid unit and two of a latch, in seconds."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # nothing is random
    config.sigmoid_weights = (5.0, 6.0, 8.0)
    config.tanh_weights = (1.25, 2.0)
    config.biases = 301  # in the range between the bifurcations, and
    config.margin = 0.4  # so much of that range on either side of it
    config.states = 201  # initial states of the map of gradients
    config.steps = 50  # over which the gradient is taken
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.sigmoid_weights = (5.0,)
    config.tanh_weights = (2.0,)
    config.biases = 21
    config.states = 11
    return config


def paper() -> ml_collections.ConfigDict:
    """The same on a finer grid and with more weights."""
    config = default()
    config.sigmoid_weights = (4.5, 5.0, 6.0, 7.0, 8.0)
    config.tanh_weights = (1.25, 2.0, 4.0)
    config.biases = 1001
    config.states = 501
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
