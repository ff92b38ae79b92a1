"""Small runs of experiments: what their tests share."""

import importlib

import numpy as np


def smoke(name, **changes):
    """The smoke configuration of an experiment with some fields changed."""
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    with config.unlocked():
        config.update(changes)
    return config


def saved(folder):
    """The arrays of a run."""
    with np.load(folder / "arrays.npz") as arrays:
        return dict(arrays)
