"""The sweep that the explorer shows: its settings, its table, and what the numbers in it are."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import rnn_jax
from experiments import sweep
from experiments.slopes import fit_window
from rnn_jax import schemes, theory

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_jax")]


@pytest.fixture(scope="module")
def config():
    return importlib.import_module("configs.sweep").get_config("smoke")


@pytest.fixture(scope="module")
def table(finished):
    folder, _ = finished("sweep")
    return pd.read_csv(folder / "results.csv")


def test_a_cell_has_the_settings_that_make_sense_for_it(config):
    own, *grid = sweep.settings(config, "lstm")
    assert own.scheme == "own"
    assert np.isnan([own.gain, own.forget_bias]).all()
    assert grid == [
        sweep.Setting(scheme, gain, bias)
        for scheme in ("orthogonal", "gaussian")
        for gain in (0.5, 1.5)
        for bias in (0.0, 2.0)
    ]
    _, *grid = sweep.settings(config, "elman")
    assert [(setting.scheme, setting.gain) for setting in grid] == [
        ("orthogonal", 0.5),
        ("orthogonal", 1.5),
        ("gaussian", 0.5),
        ("gaussian", 1.5),
    ]
    assert all(np.isnan(setting.forget_bias) for setting in grid)
    assert len(sweep.settings(config, "gru")) == 1


def test_lags_are_all_near_ones_and_even_further_away():
    assert sweep.kept_lags(20).tolist() == list(range(21))
    lags = sweep.kept_lags(1000)
    assert lags[:11].tolist() == list(range(11))
    assert lags[11:].tolist() == list(range(20, 1001, 20))


def test_curves_are_those_of_plain_autodiff(config, finished):
    """One setting again, drawn and differentiated here, in float64: float32 has seven digits."""
    folder, _ = finished("sweep")
    with np.load(folder / "arrays.npz") as file:
        arrays = dict(file)
    setting = sweep.settings(config, "lstm").index(sweep.Setting("gaussian", 1.5, 2.0))
    xs = [np.asarray(sweep.inputs(config, seed)) for seed in range(2)]
    readouts = [
        np.asarray(sweep.readouts(config, seed, (config.hidden_size,))) for seed in range(2)
    ]
    np.testing.assert_allclose(np.linalg.norm(readouts, axis=-1), 1, rtol=1e-6)
    cell = rnn_jax.lstm()
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    scheme = schemes.gaussian(1.5, 2.0)
    drawn = [cell.init(key, config.input_size, config.hidden_size, scheme=scheme) for key in keys]
    with jax.enable_x64(True):
        for seed, params in enumerate(drawn):
            params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), params)
            norms = []
            for inputs, readout in zip(xs[seed], readouts[seed], strict=True):

                def loss(state, inputs=inputs, readout=readout, params=params):
                    steps = jnp.asarray(inputs[:20], float)
                    _, trajectory = rnn_jax.unroll(cell, params, steps, state=state)
                    return jnp.asarray(readout, float) @ trajectory.outputs[-1]

                gradient = jax.grad(loss)(cell.initial_state(params))
                squares = [np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)]
                norms.append(np.log(sum(squares)) / 2)
            # Of two samples the lower is the observed median.
            kept = arrays["lstm/medians_20"][setting, seed, -1]
            np.testing.assert_allclose(kept, min(norms), rtol=1e-5)


def test_mean_field_is_that_of_each_setting(config, finished):
    folder, _ = finished("sweep")
    with np.load(folder / "arrays.npz") as arrays:
        for name, field in {
            "elman": lambda gain, bias: theory.vanilla_mean_field(gain, 1.0),
            "lstm": lambda gain, bias: theory.lstm_mean_field(
                gain, 1.0, jnp.array([0.0, bias, 0.0, 0.0])
            ),
        }.items():
            own, *settings = sweep.settings(config, name)
            assert own.scheme == "own"
            settings = [sweep.OWN, *settings]
            for rate, (_, gain, bias) in zip(arrays[f"{name}/mean_field"], settings, strict=True):
                assert rate == pytest.approx(float(jnp.log(field(gain, bias).chi)) / 2, rel=1e-4)


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "minimal_rnn"])
def test_own_initialisation_of_cells_with_a_mean_field(config, name):
    drawn = [
        sweep._draw(config, rnn_jax.cells.lookup(name), setting)
        for setting in (sweep.Setting("own"), sweep.OWN)
    ]
    jax.tree.map(np.testing.assert_array_equal, *drawn)


def test_the_flattest_is_of_the_grid(config, finished):
    """Also where a cell's own initialisation is flatter than all of it."""
    folder, _ = finished("sweep")
    with np.load(folder / "arrays.npz") as file:
        arrays = dict(file)
    results = {
        name: {key.partition("/")[2]: arrays[key].copy() for key in arrays if key.startswith(name)}
        for name in ("elman", "lstm", "gru")
    }
    results["elman"][f"medians_{config.lengths[-1]}"][0] = 0.0
    summary = sweep._summary(config, results).set_index("cell")
    assert summary.loc["elman", "slope of its own scheme (nats/step)"].startswith("+0.0000")
    assert summary.loc["elman", "flattest on the grid"] in {
        sweep._described(setting) for setting in sweep.settings(config, "elman")[1:]
    }
    assert summary.loc["gru", "flattest on the grid"] == ""  # it has none


def test_the_table_has_every_setting_and_its_numbers_belong_together(config, finished, table):
    folder, _ = finished("sweep")
    with np.load(folder / "arrays.npz") as file:
        arrays = dict(file)
    assert tuple(table.columns) == sweep.COLUMNS
    keys = ["cell", "scheme", "gain", "forget_bias"]
    expected = [
        (name, *setting, length, index)
        for name in ("elman", "lstm", "gru")
        for index, setting in enumerate(sweep.settings(config, name))
        for length in config.lengths
    ]
    groups = table.groupby([*keys, "length"], dropna=False, sort=False)
    for (_, rows), (name, *setting, length, index) in zip(groups, expected, strict=True):
        assert rows[keys].iloc[0].tolist() == pytest.approx([name, *setting], nan_ok=True)
        kinds = dict(list(rows.groupby("quantity")))
        curve = kinds["gradient"]
        assert curve["x"].tolist() == sweep.kept_lags(length).tolist()
        assert np.all((curve["low"] <= curve["value"]) & (curve["value"] <= curve["high"]))
        first, last = fit_window(length)
        inside = curve["x"].between(first, last).to_numpy()
        lines = arrays[f"{name}/medians_{length}"][index][:, inside]
        slopes = [np.polyfit(curve["x"][inside], line, 1)[0] for line in lines]
        slope = kinds["slope"].iloc[0]
        assert slope["value"] == pytest.approx(np.mean(slopes))
        # One standard error of the mean of two.
        assert slope["high"] - slope["low"] == pytest.approx(abs(slopes[0] - slopes[1]))
        half_life = kinds["half-life"]["value"].iloc[0]
        assert half_life == pytest.approx(np.log(2) / -slope["value"])
        if length == config.lengths[-1]:
            exponents = kinds["lyapunov"]
            assert exponents["x"].tolist() == [1, 2, 3, 4]
            means = arrays[f"{name}/lyapunov"][index].mean(axis=0)
            np.testing.assert_allclose(exponents["value"], means, rtol=1e-6)
            assert np.all((exponents["low"] <= means) & (means <= exponents["high"]))
        else:
            assert "lyapunov" not in kinds


def test_theory_stands_beside_the_curves(table):
    theories = table[table["quantity"].str.startswith("theory")]
    found = set(zip(theories["cell"], theories["scheme"], theories["quantity"], strict=True))
    for cell, path in {
        "elman": "sigma bound",
        "lstm": "product of forget gates",
        "gru": "product of update gates",
    }.items():
        assert (cell, "own", f"theory: {path}") in found
    for cell in ("elman", "lstm"):
        assert (cell, "gaussian", "theory: mean field") in found
        assert (cell, "own", "theory: mean field") in found
    # The bound is one for every sample, and so for their medians.
    elman = table[table["cell"] == "elman"]
    bound = elman[elman["quantity"] == "theory: sigma bound"]["value"].to_numpy()
    curve = elman[elman["quantity"] == "gradient"]["value"].to_numpy()
    assert len(bound) == len(curve) > 100
    assert np.all(curve <= bound + 1e-4)
