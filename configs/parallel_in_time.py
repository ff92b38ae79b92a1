"""Configuration of the experiment on Newton's method over time: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Small networks on both sides of the onset of chaos, up to 300 steps."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 3  # matrices, inputs and first states

    config.hidden_size = 32
    config.gains = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5)
    config.input_variance = 0.1  # of the input's part of a pre-activation
    config.input_size = 4

    config.lengths = (30, 100, 300)  # steps
    config.methods = ("newton", "quasi_newton", "damped")
    config.damping = 1.0  # the first, of the damped one
    config.iterations = 100  # at most

    config.burn_in = 300  # steps before lambda_1 is measured
    config.steps = 2000  # over which it is
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.hidden_size = 16
    config.gains = (0.5, 2.5)
    config.lengths = (20, 80)
    config.iterations = 40
    config.burn_in = 50
    config.steps = 200
    return config


def paper() -> ml_collections.ConfigDict:
    """More gains, wider networks, longer sequences."""
    config = default()
    config.seeds = 10
    config.hidden_size = 64
    config.gains = (0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0)
    config.lengths = (100, 1000, 5000)
    config.iterations = 1000
    config.steps = 10_000
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
