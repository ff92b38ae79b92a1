"""Closed forms: what the instruments should read."""

from rnn_jax.theory.gated_mean_field import (
    GatedMeanField,
    gru_mean_field,
    lstm_mean_field,
    minimal_rnn_mean_field,
)
from rnn_jax.theory.gates import (
    gate_power,
    gate_time_constant,
    gru_critical_gain,
    gru_origin_eigenvalues,
    lstm_critical_gain,
    lstm_origin_eigenvalues,
    ring_power,
)
from rnn_jax.theory.mean_field import (
    Correlation,
    MeanField,
    correlation_fixed_point,
    critical_gain,
    gaussian_mean,
    gaussian_nodes,
    mean_exponent,
    vanilla_mean_field,
)
from rnn_jax.theory.paths import forget_path, gain_power, update_path, vanilla_bound
from rnn_jax.theory.random_matrices import (
    SingularLaw,
    circular_law_exponent,
    circular_law_fraction,
    circular_law_mean,
    tied_identity_plus_random,
    tied_singular_values,
    tied_spectral_norm,
    untied_identity_plus_random,
    untied_typical_rate,
)
from rnn_jax.theory.roots import falling_root
from rnn_jax.theory.scalar import (
    Latch,
    impulse_parameter_gradient,
    non_normal_power,
    sigmoid_saddle_nodes,
    tanh_latch,
)
from rnn_jax.theory.sensitivity import LinearMoments, LRUMoments, linear_moments, lru_moments

__all__ = [
    "Correlation",
    "GatedMeanField",
    "LRUMoments",
    "Latch",
    "LinearMoments",
    "MeanField",
    "SingularLaw",
    "circular_law_exponent",
    "circular_law_fraction",
    "circular_law_mean",
    "correlation_fixed_point",
    "critical_gain",
    "falling_root",
    "forget_path",
    "gain_power",
    "gate_power",
    "gate_time_constant",
    "gaussian_mean",
    "gaussian_nodes",
    "gru_critical_gain",
    "gru_mean_field",
    "gru_origin_eigenvalues",
    "impulse_parameter_gradient",
    "linear_moments",
    "lru_moments",
    "lstm_critical_gain",
    "lstm_mean_field",
    "lstm_origin_eigenvalues",
    "mean_exponent",
    "minimal_rnn_mean_field",
    "non_normal_power",
    "ring_power",
    "sigmoid_saddle_nodes",
    "tanh_latch",
    "tied_identity_plus_random",
    "tied_singular_values",
    "tied_spectral_norm",
    "untied_identity_plus_random",
    "untied_typical_rate",
    "update_path",
    "vanilla_bound",
    "vanilla_mean_field",
]
