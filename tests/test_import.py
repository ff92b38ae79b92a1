"""What `import rnn_jax` brings along."""

import subprocess
import sys

import pytest

import rnn_jax

HEAVY = {"flax", "optax", "orbax", "pandas", "matplotlib", "scipy", "sklearn", "chex", "torch"}


def test_the_core_loads_jax_and_numpy_alone():
    """The remedies, which need optax, come when they are asked for."""
    code = (
        f"import sys, rnn_jax; print(sorted({HEAVY} & {{*sys.modules}}));"
        "print(rnn_jax.remedies.clip_cotangents.__name__, 'optax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "clip_cotangents True"]


def test_every_public_name_is_there():
    for name in rnn_jax.__all__:
        assert getattr(rnn_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'remedy'"):
        rnn_jax.remedy  # noqa: B018
