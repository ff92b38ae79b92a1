"""Instruments: what they measure they measure on any cell, per sample and in log space."""

from rnn_jax.analysis.gradients import GradientFlow, gradient_flow
from rnn_jax.analysis.jacobians import (
    FiniteTimeSpectrum,
    JacobianProduct,
    finite_time_spectrum,
    jacobian_product,
    step_jacobians,
)
from rnn_jax.analysis.lengths import LengthSweep, length_curve, length_sweep
from rnn_jax.analysis.lyapunov import (
    LyapunovResult,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
    orthonormalisation_interval,
)

__all__ = [
    "FiniteTimeSpectrum",
    "GradientFlow",
    "JacobianProduct",
    "LengthSweep",
    "LyapunovResult",
    "finite_time_spectrum",
    "gradient_flow",
    "jacobian_product",
    "kaplan_yorke_dimension",
    "length_curve",
    "length_sweep",
    "lyapunov_spectrum",
    "orthonormalisation_interval",
    "step_jacobians",
]
