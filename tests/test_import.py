"""What `import rnn_jax` brings along."""

import subprocess
import sys

import pytest

import rnn_jax

HEAVY = {"flax", "optax", "orbax", "pandas", "matplotlib", "scipy", "sklearn", "chex", "torch"}
# Figures, data and other libraries; Flax brings more than these by itself.
OF_EXTRAS = {
    "equinox",
    "haiku",
    "keras",
    "matplotlib",
    "mido",
    "music21",
    "num2words",
    "pandas",
    "safetensors",
    "sklearn",
    "statsmodels",
    "tensorboardX",
    "torch",
}


def output(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_core_loads_jax_and_numpy_alone():
    """The remedies, which need optax, come when they are asked for."""
    assert output(
        f"import sys, rnn_jax; print(sorted({HEAVY} & {{*sys.modules}}));"
        "print(rnn_jax.remedies.clip_cotangents.__name__, 'optax' in sys.modules)"
    ) == ["[]", "clip_cotangents True"]


def test_no_part_loads_packages_for_figures_or_data():
    assert output(
        "import sys, rnn_jax.interop, rnn_jax.models, rnn_jax.remedies, rnn_jax.tasks,"
        f" rnn_jax.training; print(sorted({OF_EXTRAS} & {{*sys.modules}}))"
    ) == ["[]"]


def test_every_public_name_is_there():
    for name in rnn_jax.__all__:
        assert getattr(rnn_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'remedy'"):
        rnn_jax.remedy  # noqa: B018
