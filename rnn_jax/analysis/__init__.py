"""Instruments: what they measure they measure on any cell, per sample and in log space."""

from rnn_jax.analysis.fixed_points import (
    FixedPoints,
    bifurcation_scan,
    find_fixed_points,
    orbits,
    scattered,
)
from rnn_jax.analysis.gradients import GradientFlow, gradient_flow
from rnn_jax.analysis.jacobians import (
    FiniteTimeSpectrum,
    JacobianProduct,
    finite_time_spectrum,
    jacobian_product,
    step_jacobians,
)
from rnn_jax.analysis.landscape import Landscape, loss_landscape
from rnn_jax.analysis.lengths import LengthSweep, length_curve, length_sweep
from rnn_jax.analysis.lyapunov import (
    LyapunovResult,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
    orthonormalisation_interval,
)

__all__ = [
    "FiniteTimeSpectrum",
    "FixedPoints",
    "GradientFlow",
    "JacobianProduct",
    "Landscape",
    "LengthSweep",
    "LyapunovResult",
    "bifurcation_scan",
    "find_fixed_points",
    "finite_time_spectrum",
    "gradient_flow",
    "jacobian_product",
    "kaplan_yorke_dimension",
    "length_curve",
    "length_sweep",
    "loss_landscape",
    "lyapunov_spectrum",
    "orbits",
    "orthonormalisation_interval",
    "scattered",
    "step_jacobians",
]
