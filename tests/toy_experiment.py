"""A toy experiment and the folder that it runs in, for the tests of the launcher and its files."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent


TOY = '''
"""A toy experiment for the tests: random walks."""
import gc, os, time
import numpy as np
from experiments import launch
from experiments.results import Report


def validate(config):
    if config.hidden_size < 1:
        raise ValueError(
            f"config.hidden_size: expected a positive integer, got {config.hidden_size}"
        )


def units(config):
    if config.data is not None:
        open(config.data).close()
    return [f"walk-{i}" for i in range(config.count)]


def run_unit(config, unit):
    with open(os.environ["TOY_LOG"], "a") as log:
        log.write(unit + "\\n")
    index = int(unit.removeprefix("walk-"))
    if index > 0:
        if "TOY_CALLBACK" in os.environ:  # one of those in which Python drops exceptions
            gc.callbacks.append(lambda phase, info: gc.callbacks.clear() or time.sleep(60))
            gc.collect()
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    if unit == os.environ.get("TOY_FAILS"):
        raise ZeroDivisionError("a bug")
    if unit in os.environ.get("TOY_REFUSES", "").split(","):
        raise launch.UserError("the data\\nended early")
    steps = np.random.default_rng([config.seed, index]).standard_normal((3, config.hidden_size))
    return {"walk": steps.cumsum(axis=1), "seed": np.arange(3)}


def report(config, results):
    import pandas as pd
    from matplotlib.figure import Figure

    table = pd.DataFrame(
        [
            {"unit": unit, "seed": seed, "end": end}
            for unit, arrays in results.items()
            for seed, end in zip(arrays["seed"], arrays["walk"][:, -1])
        ]
    )

    def walks():
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for unit, arrays in results.items():
            axes.plot(arrays["walk"].T)
        return figure

    summary = table.groupby("unit", as_index=False)["end"].mean()
    return Report(table, summary, {"walks": walks}, ["A note [in brackets]."])


EXPERIMENT = launch.Experiment("toy", validate, units, run_unit, report)
if __name__ == "__main__":
    launch.main(EXPERIMENT)
'''


CONFIG = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from experiments.launch import select_variant


def default():
    return ConfigDict({
        "hidden_size": 8, "count": 3, "seed": 5, "gain": 1.0, "bias": True, "lengths": (10, 20),
        "names": ["a"], "data": placeholder(str), "model": {"depth": 2, "gains": (0.5, 1.0)},
        "cells": ("elman", "gru"), "pairs": ((1, 2), (3, 4)),
    })


def smoke():
    config = default()
    config.count = 2
    return config


def get_config(variant="default"):
    return select_variant({"default": default, "smoke": smoke}, variant)
"""


GOOD = ("--config=toy_config.py", "--workdir=run")


RESULTS = {
    "config.json", "results.csv", "arrays.npz", "summary.md", "figures/walks.png",
    "figures/walks.svg", "units/walk-0.npz", "units/walk-1.npz", "units/walk-2.npz",
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the toy and its config, in which this process and its children run."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "toy_config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


class Payload:
    """What leaves a file behind if it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy(home):
    return load(home / "toy.py").EXPERIMENT


@pytest.fixture
def config(home):
    return load(home / "toy_config.py").get_config()


def command(*args, python=()):
    return [sys.executable, *python, "-m", "toy", *args]


def cli(*args, python=(), **options):
    return subprocess.run(
        command(*args, python=python), capture_output=True, text=True, timeout=120, **options
    )


def computed(home):
    """The units computed since the last call."""
    log = home / "log"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def files(folder):
    """{name: bytes} of everything a run leaves, but for what tells one start from another."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "environment.json")
    }


def check_whole(folder, units):
    """Every file that does not bear a temporary name is complete; returns how many there are."""
    whole = 0
    for path in folder.rglob("*"):
        if path.is_dir() or path.name == ".lock" or re.fullmatch(r"\..+\.partial", path.name):
            continue
        whole += 1
        if path.suffix == ".json":
            assert isinstance(json.loads(path.read_bytes()), dict)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                per_unit = len({name: arrays[name] for name in arrays.files})
            assert per_unit == (2 * units if path.name == "arrays.npz" else 2)
        elif path.suffix == ".csv":
            assert pd.read_csv(path).shape == (3 * units, 3)
            assert path.read_bytes().endswith(b"\n")
        elif path.suffix == ".png":
            assert path.read_bytes()[-8:-4] == b"IEND"
        elif path.suffix == ".svg":
            xml.etree.ElementTree.parse(path)
        else:
            assert path.name == "summary.md"
            assert path.read_text().endswith("(figures/walks.png)\n")
    return whole


def imported(done):
    """The modules imported by a process run with -X importtime."""
    return set(re.findall(r"\| +(\w[\w.]*)$", done.stderr, re.MULTILINE))
