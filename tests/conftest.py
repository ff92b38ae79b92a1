"""Strict JAX for every test; nothing here depends on the device."""

import os

import hypothesis
import jax

# Before anything imports Keras.
os.environ["KERAS_BACKEND"] = "jax"
# Several test processes may share one GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# Tests choose their dtype explicitly: float32 behaviour is tested beside float64.
jax.config.update("jax_enable_x64", True)
# A silently broadcast or promoted operand is how a wrong shape or dtype goes unnoticed.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# A GPU would otherwise multiply float32 matrices in TF32, with errors of 1e-3.
jax.config.update("jax_default_matmul_precision", "highest")
# What a test compiles must not depend on an earlier run.
jax.config.update("jax_enable_compilation_cache", False)

# Compilation makes deadlines meaningless, and a failure has to come back on every run.
hypothesis.settings.register_profile("rnn_jax", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("rnn_jax")
