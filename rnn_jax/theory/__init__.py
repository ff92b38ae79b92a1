"""Closed forms: what the instruments should read."""

from rnn_jax.theory.mean_field import MeanField, gaussian_mean, vanilla_mean_field
from rnn_jax.theory.paths import forget_path, gain_power, update_path, vanilla_bound
from rnn_jax.theory.random_matrices import tied_spectral_norm, untied_typical_rate

__all__ = [
    "MeanField",
    "forget_path",
    "gain_power",
    "gaussian_mean",
    "tied_spectral_norm",
    "untied_typical_rate",
    "update_path",
    "vanilla_bound",
    "vanilla_mean_field",
]
