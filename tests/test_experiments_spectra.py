"""The experiments on spectra of Jacobians and on the phase diagram, beside closed forms."""

import math

import numpy as np
import pytest
from smoke_runs import smoke

from experiments import jacobian_spectrum, phase_diagram
from experiments.slopes import fitted_slope
from rnn_jax import theory

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_jax")]
MODULES = {"jacobian_spectrum": jacobian_spectrum, "phase_diagram": phase_diagram}


@pytest.fixture(scope="module")
def spectra():
    """Every network of the smoke variant."""
    config = smoke("jacobian_spectrum")
    return {
        unit: jacobian_spectrum.run_unit(config, unit) for unit in jacobian_spectrum.units(config)
    }


def test_powers_of_a_matrix_have_the_fuss_catalan_law_and_then_the_circular_one():
    config = smoke("jacobian_spectrum", hidden_size=100, lags=(1, 5, 100), shown_lags=(1,))
    arrays = jacobian_spectrum.run_unit(config, "linear")
    values = arrays["log_singular_values"]
    share = (np.arange(100) + 0.5) / 100
    bulk = slice(5, 80)  # eigenvalues near 0 scatter without bound
    for number, lag in enumerate((1, 5)):
        law = np.interp(share, *theory.tied_singular_values(1.0, lag))
        measured = values[:, number].mean(axis=0)
        # Of W^k the scatter of a few per cent counts k times.
        assert np.max(np.abs(measured - law)[bulk]) < 0.05 * lag
    # g^k = 1: of one step exactly but for the 1 / N of a sum over N^2 squares.
    assert np.all(np.abs(arrays["log_frobenius"][:, 0] - math.log(100) / 2) < 0.03)
    rates = values[:, 2].mean(axis=0) / 100
    assert np.max(np.abs(rates - theory.circular_law_exponent(1.0, share))[bulk]) < 0.06
    # |det J|: the product of all singular values is that of all eigenvalues, to the last digits.
    log_det = np.log(np.abs(arrays["eigenvalues_of_kernel"])).sum(axis=1)
    np.testing.assert_allclose(values.sum(axis=2), log_det[:, None] * [1, 5, 100], rtol=1e-10)


def test_an_orthogonal_network_at_rest_is_orthogonal_and_driven_contracts(spectra):
    """tanh' is at most 1: no singular value of an orthogonal network is above 1."""
    arrays = spectra["orthogonal"]
    assert np.all(arrays["log_singular_values"] < 0)
    np.testing.assert_allclose(np.abs(arrays["eigenvalues_at_rest"]), 1, rtol=1e-12)
    config = smoke("jacobian_spectrum", input_variance=0.0)
    at_rest = jacobian_spectrum.run_unit(config, "orthogonal")
    np.testing.assert_allclose(at_rest["log_singular_values"], 0, atol=1e-12)
    np.testing.assert_allclose(at_rest["chi"], 1, rtol=1e-9)


def test_the_norm_of_a_driven_network_is_that_of_mean_field():
    """E ||J||_F^2 / N = chi^k; 100 units and 4 seeds leave a few per cent per step."""
    config = smoke("jacobian_spectrum", hidden_size=100, seeds=4, lags=(1, 5, 20))
    for network in ("gaussian", "orthogonal"):
        arrays = jacobian_spectrum.run_unit(config, network)
        measured = arrays["log_frobenius"].mean(axis=0) - math.log(100) / 2
        expected = np.array([1, 5, 20]) * math.log(arrays["chi"]) / 2
        np.testing.assert_allclose(measured, expected, rtol=0.08, atol=0.02)


@pytest.mark.parametrize("unit", ["lstm.0", "lstm.3", "gru.0", "gru.3", "lstm_at_rest"])
def test_eigenvalues_at_rest_are_those_of_the_candidate_moved(spectra, unit):
    arrays = spectra[unit]
    network, bias = unit[:4].rstrip("."), 3.0 if unit.endswith("3") else 0.0
    for found, kernel in zip(
        arrays["eigenvalues_at_rest"], arrays["eigenvalues_of_kernel"], strict=True
    ):
        if network == "gru":
            expected = np.asarray(theory.gru_origin_eigenvalues(kernel, update_bias=bias))
        else:
            expected = np.asarray(theory.lstm_origin_eigenvalues(kernel, forget_bias=bias))
        distances = np.abs(found[:, None] - expected[None, :])
        # The closed form in complex64, as JAX is by default.
        assert np.all(distances.min(axis=0) < 1e-5)
        other = np.sort(np.abs(found))[: len(found) - len(expected)]
        np.testing.assert_allclose(other, 0, atol=1e-7)  # a multiple eigenvalue: sqrt(eps)


def test_exact_zeros_are_said_and_not_averaged(spectra):
    """At rest h' = o c': of 24 singular values 12 are zero, and their logarithms rounding."""
    config = smoke("jacobian_spectrum")
    report = jacobian_spectrum.report(config, spectra)
    summary = report.summary.set_index("network")
    at_rest = summary.loc["LSTM at rest, bias 0"]
    assert at_rest["unresolved"] == "12 of 24"
    assert at_rest["ln sigma_1 / sigma_S"] == "infinite"
    others = summary.drop("LSTM at rest, bias 0")
    assert set(others["unresolved"]) == {"0 of 12", "0 of 24"}
    # The others stay: the exponents of the eigenvalues, to what 20 steps leave of a transient.
    values = spectra["lstm_at_rest"]["log_singular_values"][:, -1, :12] / 20
    moduli = np.abs(spectra["lstm_at_rest"]["eigenvalues_at_rest"])
    exponents = np.log(np.sort(moduli, axis=1)[:, ::-1][:, :12])
    np.testing.assert_allclose(values, exponents, atol=0.15)


def test_the_direct_path_is_the_memory_block_where_no_gate_sees_the_hidden_vector():
    """A20: with recurrent kernels of a billionth; with those of gain 1 it is one path of many."""
    config = smoke("jacobian_spectrum", gain=1e-9)
    arrays = jacobian_spectrum.run_unit(config, "lstm.0")
    block = np.logaddexp.reduce(2 * arrays["cell/cell"], axis=2) / 2 - math.log(12) / 2
    np.testing.assert_allclose(block, arrays["direct_path"], atol=1e-6)
    # Hidden vectors write nothing: that block is a billion times smaller.
    assert np.all(arrays["cell/hidden"] < math.log(1e-8))


def test_measured_slopes_are_those_of_mean_field():
    """Driven networks of 256 units: within 0.03, and where they are chaotic below, as 3 / N."""
    config = smoke(
        "phase_diagram",
        widths=(256,), seeds=4, batch=4, transient=100, steps=100,
        gains=(0.75, 1.5, 2.5), input_variances=(0.25, 1.0),
    )  # fmt: skip
    chi = phase_diagram.run_unit(config, "mean_field")["chi"]
    log_norm = phase_diagram.run_unit(config, "width-256")["log_norm"]
    for row in range(3):
        for column in range(2):
            slope, _ = fitted_slope(log_norm[:, row, column])
            difference = slope - math.log(chi[row, column]) / 2
            assert abs(difference) < 0.03
            if chi[row, column] > 1:
                assert difference < 0


def test_without_input_a_network_rests_and_its_gain_is_a_factor():
    """All gains scale one matrix: at rest slopes differ by the logarithm of the gains."""
    config = smoke("phase_diagram", widths=(32,), gains=(0.3, 0.6), transient=60)
    log_norm = phase_diagram.run_unit(config, "width-32")["log_norm"]
    small, large = (fitted_slope(log_norm[:, row, 0])[0] for row in (0, 1))
    np.testing.assert_allclose(large - small, math.log(2), atol=1e-3)


def test_the_critical_line_is_where_chi_is_one():
    config = smoke("phase_diagram")
    field = phase_diagram.run_unit(config, "mean_field")
    for column in range(1, 3):
        chi = field["section_chi"][:, column]
        crossing = np.interp(1.0, chi, field["section_gains"])
        # Linear between gains 0.007 apart.
        np.testing.assert_allclose(crossing, field["critical_gain"][column], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("jacobian_spectrum", {"networks": ("lstn",)}, "networks: unknown 'lstn'.*mean 'lstm'"),
        (
            "jacobian_spectrum",
            {"networks": ("gru", "gru")},
            "networks must be one or more different",
        ),
        ("jacobian_spectrum", {"shown_lags": (7,)}, "shown_lags must be some of the lags"),
        ("jacobian_spectrum", {"lags": (0, 1)}, "lags must be increasing numbers from 1"),
        ("jacobian_spectrum", {"gain": 0.0}, "gain must be a finite number above 0"),
        ("jacobian_spectrum", {"gain": math.nan}, "gain must be a finite number above 0"),
        ("jacobian_spectrum", {"input_variance": -1.0}, "input_variance must be a finite number"),
        ("jacobian_spectrum", {"input_variance": math.nan}, "input_variance must be a finite"),
        ("jacobian_spectrum", {"hidden_size": 1}, "hidden_size must be at least 2"),
        ("phase_diagram", {"gains": (0.0, 1.0)}, "gains must be above 0"),
        ("phase_diagram", {"gains": (1.0,)}, "gains must be two or more"),
        ("phase_diagram", {"input_variances": (1.0, 0.5)}, "input_variances must be increasing"),
        ("phase_diagram", {"steps": 7}, "steps must be at least 8"),
        ("phase_diagram", {"widths": (1,)}, "widths must be increasing numbers from 2"),
    ],
)
def test_configurations_are_refused_by_field(name, changes, message):
    with pytest.raises(ValueError, match=f"config.{message}"):
        MODULES[name].validate(smoke(name, **changes))
