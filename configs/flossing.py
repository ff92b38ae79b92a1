"""Configuration of the experiment on gradient flossing: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """A vanilla network of 32 units, a few or half or all of its exponents flossed."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 5  # draws of the weights

    config.cell = "elman"
    config.hidden_size = 32
    config.input_size = 2
    config.input_variance = 0.01  # of each input; weak, as a strong one saturates tanh
    config.counts = (4, 16, 32)  # how many exponents are flossed, the largest first

    config.updates = 500
    config.every = 20  # updates between measurements
    config.learning_rate = 1e-2  # of Adam, decaying to zero along a cosine
    config.clip = 1.0  # global norm of the gradient
    config.steps = 200  # along which exponents are flossed
    config.burn_in = 10  # steps before them, of the state and again of the tangents

    config.measured_steps = 300  # along which they are measured, after as much burn-in
    config.lags = (1, 2, 5, 10, 20, 50, 100)  # of the Jacobians whose conditioning is shown
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.hidden_size = 8
    config.counts = (4, 8)
    config.updates = 60
    config.every = 20
    config.steps = 40
    config.measured_steps = 64
    config.lags = (1, 5, 20)
    return config


def paper() -> ml_collections.ConfigDict:
    """The sizes of Engelken (2023): 80 units, 75 exponents, 300 steps."""
    config = default()
    config.seeds = 10
    config.hidden_size = 80
    config.counts = (1, 16, 40, 75)
    config.learning_rate = 1e-3
    config.clip = 0.03
    config.steps = 300
    config.measured_steps = 1000
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
