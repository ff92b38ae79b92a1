"""Configuration of the phase diagram of a vanilla network: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Gains on both sides of the critical line, without input and with much of it."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 4  # draws of the recurrent matrix
    config.batch = 4
    config.widths = (64, 512)
    config.gains = tuple(0.5 + 0.125 * i for i in range(21))  # to 3
    config.input_variances = tuple((0.25 * i) ** 2 for i in range(7))  # to 2.25
    config.transient = 100  # steps before the measured ones
    config.steps = 100
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.widths = (16, 32)
    config.gains = (0.5, 1.5, 2.5)
    config.input_variances = (0.0, 0.25, 1.0)
    config.transient = 20
    config.steps = 40
    return config


def paper() -> ml_collections.ConfigDict:
    """Wider, longer, a finer plane."""
    config = default()
    config.seeds = 10
    config.batch = 16
    config.widths = (64, 256, 1024)
    config.gains = tuple(0.5 + 0.0625 * i for i in range(41))
    config.input_variances = tuple((0.125 * i) ** 2 for i in range(13))
    config.transient = 500
    config.steps = 200
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
