"""A run directory as `experiments.sweep` leaves it, of numbers that are made up."""

import csv
import json
import math

import numpy as np

COLUMNS = (
    "cell", "scheme", "gain", "forget_bias", "length", "quantity", "x", "value", "low", "high",
)  # fmt: skip
BIASES = {"elman": [None], "lstm": [0.0, 1.0, 4.0], "gru": [0.0, 1.0]}
"""Cells of the grid, with their forget biases."""
OWN = ("elman", "lstm", "gru", "lru", "exprnn")
LENGTHS = (50, 200)
GAINS = (0.5, 1.0, 1.5)


def lags(length):
    even = np.round(np.linspace(0, length, 51)).astype(int)
    return np.union1d(np.arange(min(10, length) + 1), even).tolist()


def readings(cell, scheme, gain, bias, length, rng):
    """The rows of a setting at a length: a noisy line, and exact zeros in a GRU of gain 1.5."""
    about = [cell, scheme, gain, bias, length]
    slope = 0.7 * math.log(gain or 0.98) - 0.05 + 0.01 * (bias or 0)
    slope -= {"elman": 0.3, "gru": 0.07}.get(cell, 0.0) if gain is not None else 0.01 * len(cell)
    for lag in lags(length):
        value = slope * lag - 0.4 * math.log1p(lag) + rng.normal() * 0.05
        if cell == "gru" and gain == 1.5 and lag > 30:
            yield [*about, "gradient", float(lag), -math.inf, -math.inf, value - 10]
        else:
            width = 0.5 + 0.02 * lag
            yield [*about, "gradient", float(lag), value, value - width, value + width]
    if cell == "gru" and gain == 1.5:
        yield [*about, "slope", None, None, None, None]
        yield [*about, "half-life", None, None, None, None]
    else:
        yield [*about, "slope", None, slope, slope - 0.0013, slope + 0.0013]
        half_life = math.log(2) / -slope if slope < 0 else None
        yield [*about, "half-life", None, half_life, None, None]
    if gain is not None:
        for lag in lags(length):
            yield [*about, "theory: mean field", float(lag), 1.1 * slope * lag, None, None]
    if cell == "elman" and gain is not None:
        for lag in lags(length):
            yield [*about, "theory: sigma bound", float(lag), (2 + slope) * lag, None, None]
    if length == LENGTHS[-1]:
        for index in range(1, 9):
            value = slope - 0.06 * (index - 1) + rng.normal() * 0.002
            yield [*about, "lyapunov", float(index), value, value - 0.01, value + 0.012]


def rows():
    rng = np.random.default_rng(0)
    for cell in OWN:
        settings = [("own", None, None)]
        settings += [
            (scheme, gain, bias)
            for scheme in ("orthogonal", "gaussian")
            for gain in GAINS
            for bias in BIASES.get(cell, [])
            if not (cell == "gru" and scheme == "gaussian" and gain == 0.5)
        ]
        for scheme, gain, bias in settings:
            for length in LENGTHS:
                yield from readings(cell, scheme, gain, bias, length, rng)


def write_results(folder, table):
    with open(folder / "results.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(["" if value is None else value for value in row] for row in table)


def write_run(folder, table=None):
    """The directory, made with what the explorer reads of it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, rows() if table is None else table)
    config = {"seeds": 5, "batch": 8, "hidden_size": 64, "gains": list(GAINS), "lengths": [50, 200]}
    environment = {
        "experiment": "sweep",
        "command": ["python", "-m", "experiments.sweep", "--workdir=runs/sweep"],
        "started": "2026-11-22T20:00:00+00:00",
        "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
        "git": {"revision": "f93029f0123456789", "dirty": False},
        "starts": [],
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder
