"""Configuration of the experiment on Lyapunov spectra and gain: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """Three widths, autonomous and driven."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 4  # matrices

    config.activation = "tanh"
    config.widths = (32, 64, 128)
    config.gains = (0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 2.0, 2.5, 3.0)
    config.shown_gains = (0.9, 1.5, 3.0)  # in the figure of whole spectra
    config.input_variances = (0.0, 1.0)  # of the input's part of a pre-activation
    config.input_size = 16

    config.burn_in = 500
    config.tangent_burn_in = 200
    config.steps = 1000  # measured
    config.exponents = 0  # how many of them; 0 for the whole spectrum
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.widths = (8, 16)
    config.gains = (0.5, 1.5, 3.0)
    config.shown_gains = (0.5, 3.0)
    config.burn_in = 50
    config.tangent_burn_in = 20
    config.steps = 64
    return config


def paper() -> ml_collections.ConfigDict:
    """The largest exponent alone, of wide networks, to extrapolate the onset of chaos."""
    config = default()
    config.seeds = 10
    config.widths = (100, 200, 400, 800)
    config.gains = (0.8, 0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6)
    config.shown_gains = (0.9, 1.5)
    config.input_variances = (0.0,)
    config.exponents = 1
    config.steps = 2000
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
