"""Configuration of the experiment on parameter sensitivity: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Memories from 2 to 3000 steps, inputs from white noise to constants."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 16
    config.batch = 32
    config.gaps = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.4)  # 1 - |lambda|
    config.correlations = (0.0, 0.9, 0.99, 1.0)  # of an input with the one before it
    config.phases = (0.01, 1.0)  # of the LRU's eigenvalues, radians
    config.steps = 60_000  # 18 times the longest memory: the state is stationary at the last one
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.batch = 16
    config.gaps = (1e-2, 0.1, 0.4)
    config.correlations = (0.0, 1.0)
    config.phases = (0.1,)
    config.steps = 1500
    return config


def paper() -> ml_collections.ConfigDict:
    """Memories up to 10 000 steps, more samples."""
    config = default()
    config.seeds = 64
    config.gaps = (1e-4, *config.gaps)
    config.correlations = (0.0, 0.5, 0.9, 0.99, 1.0)
    config.steps = 180_000
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
