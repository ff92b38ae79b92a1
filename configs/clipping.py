"""Configuration of the experiment on clipping and Omega: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Short sequences and few updates: what two cores can train in minutes."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 6

    config.methods = ("sgd", "clip", "clip_omega")
    config.initialisation = "smart_tanh"
    config.hidden_size = 50
    config.lengths = (20, 35, 50)
    config.shown_length = 50  # in the figures of training

    config.learning_rate = 0.01
    config.batch = 20
    config.threshold = 1.0  # of the global norm
    config.omega_weight = 2.0
    config.updates = 10_000  # at most
    config.every = 200  # updates between two records
    config.test = 10_000  # sequences
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small: what takes the default thousands of updates takes it hundreds."""
    config = default()
    config.seeds = 4
    config.hidden_size = 15
    config.lengths = (10,)
    config.shown_length = 10
    config.learning_rate = 0.03
    config.updates = 600
    config.every = 50
    config.test = 1000
    return config


def paper() -> ml_collections.ConfigDict:
    """Longer sequences, the paper's runs and weight of Omega; still fewer than its 5M updates."""
    config = default()
    config.seeds = 5
    config.lengths = (20, 50, 100, 150, 200)
    config.shown_length = 100
    config.omega_weight = 4.0
    config.updates = 300_000
    config.every = 1000
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
