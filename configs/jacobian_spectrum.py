"""Configuration of the experiment on spectra of Jacobians: default, smoke and paper."""

import ml_collections

from experiments.launch import select_variant


def default() -> ml_collections.ConfigDict:
    """A linear network, vanilla networks, an LSTM at rest, LSTM and GRU at two keeping biases."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 4  # draws of the weights
    config.networks = ("linear", "gaussian", "orthogonal", "lstm_at_rest", "lstm", "gru")
    config.hidden_size = 100
    config.gain = 1.0
    config.biases = (0.0, 3.0)  # of the gate that keeps the state; at rest the first of them
    config.input_size = 16
    config.input_variance = 0.25  # of the input's part of a pre-activation
    config.transient = 200  # steps before the first state that is differentiated by
    config.lags = (1, 2, 5, 10, 20, 40, 70, 100)
    config.shown_lags = (1, 5, 20, 100)  # in the figure of spectra
    return config


def smoke() -> ml_collections.ConfigDict:
    """Everything once, small."""
    config = default()
    config.seeds = 2
    config.hidden_size = 12
    config.input_size = 4
    config.transient = 20
    config.lags = (1, 5, 20)
    config.shown_lags = (1, 20)
    return config


def paper() -> ml_collections.ConfigDict:
    """Wider, more seeds, longer lags."""
    config = default()
    config.seeds = 10
    config.hidden_size = 200
    config.biases = (0.0, 1.0, 3.0)
    config.transient = 500
    config.lags = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    config.shown_lags = (1, 5, 20, 100, 500)
    return config


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    return select_variant({"default": default, "smoke": smoke, "paper": paper}, variant)
