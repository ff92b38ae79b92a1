"""Experiments: one module each, all run by `experiments.launch` into a run directory."""
