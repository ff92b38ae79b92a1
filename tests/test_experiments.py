"""The experiments beyond gradient norms: what their small variants say, and what they refuse."""

import importlib
import re
import shutil

import jax
import numpy as np
import pytest
from smoke_runs import saved, smoke

from experiments import launch
from experiments.rundir import in_name
from experiments.slopes import fitted_slope
from rnn_jax import theory

NAMES = (
    "bifurcation",
    "cliff",
    "clipping",
    "flossing",
    "forget_bias",
    "jacobian_spectrum",
    "long_dependencies",
    "lyapunov_vs_gain",
    "parallel_in_time",
    "parameter_sensitivity",
    "phase_diagram",
    "sweep",
    "tied_vs_untied",
    "trained_vs_initial",
)
NAN, INF = float("nan"), float("inf")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_jax")]


def experiment(name):
    return importlib.import_module(f"experiments.{name}").EXPERIMENT


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "environment.json")
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_run_without_one_unit_is_completed_to_the_same_bytes(name, finished, tmp_path):
    folder, report = finished(name)
    before = contents(folder)
    assert {f"figures/{figure}.png" for figure in report.figures} <= set(before)
    assert len(report.table) > 0
    shutil.copytree(folder, tmp_path / "run")
    sorted((tmp_path / "run/units").iterdir())[0].unlink()
    launch.run(experiment(name), smoke(name), tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", ["default", "smoke", "paper"])
def test_every_variant_is_valid_and_names_its_units(name, variant):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    experiment(name).validate(config)
    units = experiment(name).units(config)
    assert len(set(units)) == len(units) > 0


def test_bifurcations_are_where_theory_says(finished):
    """A9, A11: by bisection on the number of fixed points, to the digits that the pair leaves."""
    folder, _ = finished("bifurcation")
    arrays = saved(folder)
    for unit in ("sigmoid-5", "tanh-2"):
        np.testing.assert_allclose(
            arrays[f"{unit}/measured"], arrays[f"{unit}/predicted"], atol=1e-8
        )
        counts = np.isfinite(arrays[f"{unit}/points"]).sum(axis=1)
        biases, (low, high) = arrays[f"{unit}/biases"], arrays[f"{unit}/predicted"]
        assert np.all(counts == np.where((low < biases) & (biases < high), 3, 1))
        # Of three the middle one is unstable, and nothing else is.
        factors = arrays[f"{unit}/factors"][counts == 3]
        assert np.all((factors > 1) == [False, True, False])


def test_the_wall_stands_at_the_saddle_node():
    """A10: gradients are those of finite differences; they explode where a fixed point dies."""
    config = smoke("cliff", lengths=(50,), weights=(5.0, 5.5), biases=(-2.7, -2.6), points=60)
    arrays = experiment("cliff").run_unit(config, "steps-50")
    loss, norm = arrays["loss"], arrays["log_gradient"]
    by_weight = np.gradient(loss, arrays["weights"], axis=0)
    by_bias = np.gradient(loss, arrays["biases"], axis=1)
    smooth = (norm < -2)[1:-1, 1:-1]
    assert smooth.sum() > 1000
    slopes = np.hypot(by_weight, by_bias)[1:-1, 1:-1]
    # The grid is 0.002 wide in b: 3e-6 of second-order error for slopes of 0.1.
    np.testing.assert_allclose(slopes[smooth], np.exp(norm[1:-1, 1:-1])[smooth], atol=3e-5)
    # Some four nats above its surroundings; 50 steps see it a little beyond the saddle-node.
    weight, bias = np.unravel_index(np.argmax(norm), norm.shape)
    assert norm.max() > np.median(norm) + 4
    lower, _ = theory.sigmoid_saddle_nodes(arrays["weights"][weight])
    assert abs(arrays["biases"][bias] - lower) < 0.05


def test_networks_cut_open_decay_as_their_gates(finished):
    """A20, A22: without recurrent kernels the direct path is the whole gradient of the memory."""
    folder, report = finished("forget_bias")
    arrays = saved(folder)
    for bias in ("0", "3"):
        cut = arrays[f"gru.{bias}/without recurrent kernels"]
        # ln z per step, where inputs of variance 0.25 move the pre-activation of z by 0.5.
        slope = (cut[..., -1] - cut[..., 0]) / (cut.shape[-1] - 1)
        assert np.all(np.abs(slope - np.log1p(np.exp(-float(bias)))) < 0.25)
    assert list(report.summary["ln sigmoid(b)"]) == ["-0.6931", "-0.0486"] * 2


def test_the_largest_exponent_is_below_mean_field(finished):
    """B1, B4b at g = 3: small networks are less chaotic than wide ones, never more."""
    folder, report = finished("lyapunov_vs_gain")
    arrays = saved(folder)
    at_three = {
        width: arrays[f"width-{width}.variance-0/exponents"][:, -1, 0].mean() for width in (8, 16)
    }
    assert at_three[8] < at_three[16] < 0.3102
    mean_field = report.summary[report.summary["width"] == "mean field"]
    assert mean_field["lambda_1 at g = 3"].iloc[0] == "+0.3102"


def test_iterations_follow_the_exponent(finished):
    """Where trajectories converge as many at 80 steps as at 20, where they separate ever more."""
    folder, report = finished("parallel_in_time")
    arrays = saved(folder)
    exponents = arrays["exponents/lambda_1"]
    assert np.all(exponents[:, 0] < -0.3)
    assert np.all(exponents[:, 1] > 0)
    short, long = (arrays[f"newton.{steps}/iterations"] for steps in (20, 80))
    assert np.all(long[:, 0] <= short[:, 0] + 1)
    assert np.all(long[:, 0] < 10)
    assert np.all(long[:, 1] > 1.5 * short[:, 1])
    for method in ("newton", "quasi_newton", "damped"):
        for steps in (20, 80):
            iterations, solved, error = (
                arrays[f"{method}.{steps}/{name}"] for name in ("iterations", "solved", "error")
            )
            # After n iterations n steps are solved, but for rounding, unless some were taken back.
            least = (np.minimum(iterations, steps) - 2) / steps if method != "damped" else 0
            assert np.all(solved >= least)
            assert np.all(error[:, 0] < 1e-12)
            assert np.all((solved == 1) | (iterations == 40))
    assert report.summary["Newton (DEER), T = 20, 80"].iloc[1].endswith(">40")


def test_where_nothing_is_solved_every_mark_lies_on_the_limit():
    """In the first panel drawn there is then but one value for the axis."""
    config = smoke("parallel_in_time")
    shape = config.seeds, len(config.gains)
    most = np.full(shape, config.iterations)
    arrays = {"iterations": most, "solved": np.zeros(shape), "error": np.zeros(shape)}
    results = dict.fromkeys(experiment("parallel_in_time").units(config), arrays)
    results["exponents"] = {"lambda_1": np.ones(shape)}
    for limit in (40, 100):
        config.iterations = limit
        most[:] = limit
        figure = experiment("parallel_in_time").report(config, results).figures["iterations"]()
        low, high = figure.axes[0].get_ylim()
        assert low < limit < high


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("bifurcation", "tanh_weights", (1.5, 1.5000001)),
        ("forget_bias", "biases", (0.5, 0.5000001)),
        ("jacobian_spectrum", "biases", (0.5, 0.5000001)),
        ("lyapunov_vs_gain", "input_variances", (0.5, 0.5000001)),
        ("parameter_sensitivity", "correlations", (0.999999, 0.9999999)),
        ("tied_vs_untied", "biases", (0.5, 0.5000001)),
        ("tied_vs_untied", "matrices", ((1.5, 2.0), (1.0, 5.2))),
    ],
)
def test_a_unit_is_of_the_very_number(name, field, values):
    """Not of one with six digits, which two may share."""
    config = smoke(name, **{field: values})
    units = [unit for unit in experiment(name).units(config) if "sigmoid" not in unit]
    config[field] = values[:1]
    first = [unit for unit in experiment(name).units(config) if "sigmoid" not in unit]
    others = set(units) - set(first)
    assert set(first) < set(units)
    assert len(others) == len(units) - len(first)
    assert all(in_name(np.ravel(values[1])[-1]) in unit for unit in others)


def test_powers_of_one_matrix_and_products_of_many():
    """A16: S_k and (a^2 + b^2)^k; four draws of 100 units leave some per cent of the norm."""
    config = smoke("tied_vs_untied", seeds=4, hidden_size=100, lag=20)
    arrays = experiment("tied_vs_untied").run_unit(config, "matrix_0.5_0.25")
    for name in ("tied", "untied"):
        measured = arrays[name].mean(axis=0)
        np.testing.assert_allclose(measured, arrays[f"theory: {name}"], atol=0.1)
    # Four nats apart at lag 20: not a matter of tolerances.
    assert np.all(arrays["tied"][:, -1] > arrays["untied"][:, -1] + 3)


def test_tied_gates_forget_less_than_theory_says(finished):
    """B12: fresh weights decay as mean field says, the same ones at every step more slowly."""
    folder, _ = finished("tied_vs_untied")
    arrays = saved(folder)
    for cell in ("lstm", "gru"):
        slopes = {
            name: fitted_slope(arrays[f"{cell}_0_1/{name}"])[0] for name in ("tied", "untied")
        }
        theory_slope = arrays[f"{cell}_0_1/theory: untied"][0] / 24
        # 24 units, two draws of three sequences: 10 % and more of scatter.
        assert abs(slopes["untied"] - theory_slope) < 0.1
        assert slopes["tied"] > slopes["untied"] + 0.03


def test_a_long_memory_is_sensitive(finished):
    """Exactly as the closed forms say where the input is one constant, in the mean elsewhere."""
    folder, _ = finished("parameter_sensitivity")
    arrays = saved(folder)
    gaps = np.array(smoke("parameter_sensitivity").gaps)
    constant, white = arrays["correlation-1/sensitivity"], arrays["correlation-0/sensitivity"]
    with jax.enable_x64(True):
        exact = theory.linear_moments(1 - gaps, 1.0).sensitivity
        noisy = theory.linear_moments(1 - gaps).sensitivity
    # One random constant scales all units alike; the transient of the slowest is 15 exp(-15).
    np.testing.assert_allclose(constant / constant[:, :1], [exact / exact[0]] * 2, rtol=1e-4)
    # Squares of 32 Gaussians: 25 % of standard deviation.
    np.testing.assert_allclose(white.mean(axis=0), noisy, rtol=0.8)


def test_flossing_holds_for_other_frames_and_inputs(finished):
    """C20: of the flossed exponents; 60 updates along 40 steps leave a few hundredths."""
    folder, _ = finished("flossing")
    arrays = saved(folder)
    for count in (4, 8):
        exponents = np.abs(arrays[f"count-{count}/exponents"][..., :count])
        assert np.median(exponents[:, -1].max(axis=-1)) < 0.15
        assert np.all(exponents[:, -1].max(axis=-1) < exponents[:, 0].max(axis=-1) / 2)
        condition = {
            name: arrays[f"count-{count}/{name}"][:, -1, 0]
            - arrays[f"count-{count}/{name}"][:, -1, count - 1]
            for name in ("before", "after")
        }
        assert np.all(condition["before"] - condition["after"] > np.log(10))


def test_diverged_networks_and_exponents_that_are_none_are_said():
    """ReLUs that die have no exponents; of gain 4 they may also leave float64."""
    config = smoke(
        "lyapunov_vs_gain",
        activation="relu", widths=(8,), gains=(0.9, 4.0), shown_gains=(0.9,), burn_in=1500,
    )  # fmt: skip
    run_unit, report = (
        experiment("lyapunov_vs_gain").run_unit,
        experiment("lyapunov_vs_gain").report,
    )
    results = {
        f"width-8.variance-{variance}": {
            name: np.array(values)
            for name, values in run_unit(config, f"width-8.variance-{variance}").items()
        }
        for variance in (0, 1)
    }
    driven = results["width-8.variance-1"]
    driven["exponents"][:, 0] = np.linspace(-0.1, -0.8, 8)
    driven["exponents"][1, 0] = np.nan
    exponents = np.stack([arrays["exponents"] for arrays in results.values()])
    zeros, diverged = np.isneginf(exponents).sum(), np.isnan(exponents).any(axis=-1).sum()
    assert not np.isfinite(exponents[:, :, 1]).all()
    said = report(config, results)
    assert said.notes[-1].startswith(
        f"Not resolved: {zeros} of 64 exponents; diverged: {diverged} of 8 networks. Means are"
    )
    assert "none" in list(said.summary["lambda_1 at g = 4"])
    assert not re.search("inf|nan", said.summary.to_string())
    for draw in said.figures.values():
        draw()


def test_a_flossing_that_diverges_is_said():
    name = "flossing"
    config = smoke(name, learning_rate=1e300, updates=20, every=20)
    results = {
        unit: {
            key: np.array(values) for key, values in experiment(name).run_unit(config, unit).items()
        }
        for unit in experiment(name).units(config)
    }
    # One seed of the first unit as if it had learned nothing.
    first = results["count-4"]
    first["exponents"][1, 1] = first["exponents"][1, 0]
    first["after"][1] = first["before"][1]
    report = experiment(name).report(config, results)
    said = "Diverged or not resolved, and left out of medians and means: "
    assert report.notes[-2:] == [
        f"{said}1 of 2 seeds with 4 flossed.",
        f"{said}2 of 2 seeds with 8 flossed.",
    ]
    assert report.summary["after"].iloc[1] == "diverged or not resolved"
    assert not re.search("inf|nan", report.summary.to_string())
    for draw in report.figures.values():
        draw()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("flossing", {"counts": (4, 9)}, "counts must be at most 8, the size of the state"),
        ("flossing", {"cell": "elmen"}, "cell: .*'elmen'"),
        ("flossing", {"every": 7}, "updates must be a multiple of every = 7"),
        ("flossing", {"lags": (1, 65)}, "lags must be at most measured_steps"),
        ("flossing", {"clip": 0.0}, "clip must be a finite number above 0"),
        ("flossing", {"clip": INF}, "clip must be a finite number above 0, got inf"),
        ("flossing", {"learning_rate": INF}, "learning_rate must be a finite number above 0"),
        ("flossing", {"input_variance": INF}, "input_variance must be a finite number from 0"),
        ("parameter_sensitivity", {"gaps": (0.5, 1.0)}, "gaps must lie between 0 and 1"),
        ("parameter_sensitivity", {"correlations": (1.5,)}, "correlations must be at most 1"),
        ("parameter_sensitivity", {"phases": (0.0,)}, "phases must be above 0"),
        ("parameter_sensitivity", {"steps": 100}, "steps must be at least 15 / gaps"),
        ("tied_vs_untied", {"matrices": ((1.0, -1.0),)}, "matrices must be pairs .a, b. above 0"),
        ("tied_vs_untied", {"matrices": ((1.0, NAN),)}, "matrices must be pairs"),
        ("tied_vs_untied", {"matrices": ((INF, 1.0),)}, "matrices must be pairs"),
        ("tied_vs_untied", {"matrices": ((1.0, 2.0),) * 2}, "matrices must be different values"),
        ("tied_vs_untied", {"cells": ("elman",)}, "cells: unknown 'elman'"),
        ("tied_vs_untied", {"cells": ("gru", "gru")}, "cells must be different names"),
        ("bifurcation", {"sigmoid_weights": (3.0,)}, "sigmoid_weights must be above 4"),
        ("bifurcation", {"margin": 0.0}, "margin must be a finite number above 0"),
        ("bifurcation", {"margin": INF}, "margin must be a finite number above 0"),
        ("cliff", {"start": NAN}, "start must be a finite number, got nan"),
        ("cliff", {"target": INF}, "target must be a finite number, got inf"),
        ("cliff", {"weights": (1.0, 2.0, 3.0)}, "weights must be two numbers"),
        ("cliff", {"lengths": (0, 5)}, "lengths must be increasing numbers from 1"),
        ("forget_bias", {"cells": ("lstn",)}, "cells: unknown 'lstn'.*did you mean 'lstm'"),
        ("forget_bias", {"biases": (2.0, 1.0)}, "biases must be increasing"),
        ("forget_bias", {"cells": ("gru", "gru")}, "cells must be one or more different names"),
        ("forget_bias", {"input_variance": -1.0}, "input_variance must be a finite number from 0"),
        ("forget_bias", {"input_variance": NAN}, "input_variance must be a finite number from 0"),
        ("forget_bias", {"gain": 0.0}, "gain must be a finite number above 0, got 0"),
        ("forget_bias", {"gain": NAN}, "gain must be a finite number above 0, got nan"),
        ("lyapunov_vs_gain", {"shown_gains": (7.0,)}, "shown_gains must be some of the gains"),
        ("lyapunov_vs_gain", {"widths": (1,)}, "widths must be increasing numbers from 2"),
        ("lyapunov_vs_gain", {"steps": 31}, "steps must be at least 32"),
        ("sweep", {"cells": ()}, "cells must be one or more different names"),
        ("sweep", {"cells": ("lru",)}, "cells: scheme orthogonal: makes no sense for the cell lru"),
        ("sweep", {"own_cells": ("convlstm",)}, "own_cells: convlstm reads pictures"),
        ("sweep", {"own_cells": ("lstn",)}, "own_cells: unknown 'lstn'.*did you mean 'lstm'"),
        ("sweep", {"schemes": ("own",)}, "schemes: unknown 'own'"),
        ("sweep", {"gains": (1.0, 0.5)}, "gains must be increasing numbers from 0"),
        ("sweep", {"gains": (-1.0,)}, "gains must be increasing numbers from 0"),
        ("sweep", {"forget_biases": (NAN,)}, "forget_biases must be increasing numbers"),
        ("sweep", {"lengths": (10, 50)}, "lengths must be increasing integers from 20"),
        ("sweep", {"steps": 31}, "steps must be at least 32"),
        ("parallel_in_time", {"methods": ("elk",)}, "methods: unknown 'elk'"),
        ("parallel_in_time", {"lengths": (0, 5)}, "lengths must be increasing numbers from 1"),
        ("parallel_in_time", {"damping": 0.0}, "damping must be a finite number above 0"),
    ],
)
def test_configurations_are_refused_by_field(name, changes, message):
    with pytest.raises(ValueError, match=f"config.{message}"):
        experiment(name).validate(smoke(name, **changes))
