"""Parameters in safetensors files: the same bits and the same tree, or an error."""

import os
import string
from typing import NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from interop_cases import random_params, same_bits

from rnn_jax import CELLS, Cell, gru, interop, lstm
from rnn_jax.cells import lookup
from rnn_jax.combinators import bidirectional, chain, stack, with_learned_state
from rnn_jax.interop.files import DTYPES

NAMES = st.text(string.ascii_letters + "._'/ é", max_size=5) | st.just("__metadata__")
LEAVES = st.builds(
    lambda shape, dtype, seed: (
        np.random.default_rng(seed).integers(-5, 5, shape).astype(getattr(ml_dtypes, dtype, dtype))
    ),
    arrays.array_shapes(min_dims=0, min_side=0, max_side=3),
    st.sampled_from(DTYPES),
    st.integers(0, 9),
)
TREES = st.recursive(
    LEAVES | st.none(),
    lambda children: (
        st.dictionaries(NAMES, children, max_size=3)
        | st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
    ),
    max_leaves=6,
)


class Record(NamedTuple):
    """Of the user's own: a file must not name code to import."""

    a: jax.Array


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "params.safetensors"


@settings(max_examples=200)
@given(tree=TREES, metadata=st.dictionaries(NAMES, NAMES, max_size=2))
def test_any_tree_there_and_back(path, tree, metadata):
    interop.save(path, tree, metadata)
    restored = interop.load(path)
    same_bits(restored, tree)
    assert interop.load_metadata(path) == metadata


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize(
    "network",
    [
        chain(bidirectional(lstm()), stack(gru(), with_learned_state(gru("before")))),
        *(lookup(name) for name, make in CELLS.items() if not isinstance(make, Cell)),
    ],
    ids=str,
)
def test_params_of_this_library(path, network, dtype):
    init = lambda key: network.init(key, 4, 4, dtype=dtype)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(random.normal(size=a.shape), a.dtype),
        jax.eval_shape(init, jax.random.key(0)),
    )
    interop.save(path, params)
    same_bits(interop.load(path), params)


def test_names_in_the_file(path):
    params = random_params(chain(bidirectional(gru()), lstm()), "float32")
    interop.save(path, params, {"step": "3"})
    stored = safetensors.numpy.load_file(path)
    assert {"0.forward.kernel", "0.backward.recurrent_bias", "1.bias"} < set(stored)
    np.testing.assert_array_equal(stored["1.bias"], params[1]["bias"])


def test_a_file_of_another_tool(path):
    """Arrays by name, as the file has them."""
    stored = {"layer.weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    safetensors.numpy.save_file(stored, path, {"format": "pt"})
    same_bits(interop.load(path), stored)
    assert interop.load_metadata(path) == {"format": "pt"}


def test_arrays_of_any_memory_layout(path):
    big = np.arange(12, dtype=">f8").reshape(3, 4)
    tree = {"big": big, "transposed": big.astype("f8").T, "strided": np.arange(9.0)[::-2]}
    interop.save(path, tree)
    for name, array in interop.load(path).items():
        np.testing.assert_array_equal(array, tree[name])


@pytest.mark.parametrize(
    ("params", "error", "reason"),
    [
        ({"a": {"b": 1.0}}, TypeError, r"'a\.b' is a float, expected an array"),
        ({"a": "text"}, TypeError, "'a' is a str"),
        ({3: jnp.zeros(2)}, TypeError, "key 3 .* must be a string"),
        (({"s": Record(jnp.zeros(2))},), TypeError, r"'0\.s' is a Record, expected an array"),
        ({"k": jax.random.key(0)}, ValueError, "'k' is key<fry>, which safetensors cannot hold"),
        ({"z": np.zeros(2, np.complex64)}, ValueError, "'z' is complex64"),
        ({"o": np.array([None])}, ValueError, "'o' is object"),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_file(path, params, error, reason):
    interop.save(path, {"old": np.ones(1)})
    with pytest.raises(error, match=reason):
        interop.save(path, params)
    assert set(interop.load(path)) == {"old"}


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"rnn_jax.structure": "a"}])
def test_bad_metadata(path, metadata):
    with pytest.raises(TypeError, match="metadata: "):
        interop.save(path, {}, metadata)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "params.safetensors"
    interop.save(path, {"old": np.ones(1)})

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match="cannot be written: No space left") as error:
        interop.save(path, {"new": np.ones(1)})
    assert str(error.value).startswith(str(path))
    assert set(interop.load(path)) == {"old"}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be written: No such file or directory"):
        interop.save(tmp_path / "absent" / "params.safetensors", {})


def test_damaged_files(tmp_path):
    path = tmp_path / "params.safetensors"
    interop.save(path, random_params(gru(), "float32"))
    whole = path.read_bytes()
    for damaged in (
        *(whole[:size] for size in (0, 1, 8, 50, len(whole) - 1)),
        whole + b"x",
        b"text",
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged, or no safetensors file") as error:
            interop.load(path)
        assert str(error.value).startswith(str(path))
    with pytest.raises(ValueError, match="No such file or directory, expected a readable file"):
        interop.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="Is a directory"):
        interop.load(tmp_path)


@pytest.mark.parametrize(
    "structure",
    [
        "no json",
        "3",
        "{}",
        '{"set":["a"]}',
        '{"dict":{"a":"a","again":"a"}}',
        '{"dict":{"b":"b"}}',
        '{"tuple":3}',
        '{"os:stat_result":["a"]}',
        '{"rnn_jax.absent:State":["a"]}',
        '{"rnn_jax.base:absent":["a"]}',
        '{"rnn_jax.base:Cell":["a"]}',
        '{"rnn_jax.cells.lstm:LSTMState":["a"]}',
        '{"dict":{}}',
        "[" * 100_000,
    ],
)
def test_a_structure_that_does_not_fit(path, structure):
    safetensors.numpy.save_file({"a": np.ones(1)}, path, {"rnn_jax.structure": structure})
    with pytest.raises(ValueError, match=r"the metadata rnn_jax\.structure do not") as error:
        interop.load(path)
    assert str(error.value).startswith(str(path))


def test_float64_without_x64_is_not_rounded_silently(path):
    interop.save(path, {"a": np.ones(1)})
    with jax.enable_x64(False), pytest.raises(ValueError, match="'a': float64 needs"):
        interop.load(path)
