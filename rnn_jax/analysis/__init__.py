"""Instruments: what they measure they measure on any cell, per sample and in log space."""

from rnn_jax.analysis.gradients import GradientFlow, gradient_flow
from rnn_jax.analysis.lengths import LengthSweep, length_curve, length_sweep

__all__ = ["GradientFlow", "LengthSweep", "gradient_flow", "length_curve", "length_sweep"]
