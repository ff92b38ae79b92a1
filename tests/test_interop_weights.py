"""What every library's import and export refuse, and what importing the package imports."""

import subprocess
import sys
from pathlib import Path

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from interop_cases import random_params, same_bits

from rnn_jax import elman, gru, interop, lstm
from rnn_jax.cells import irnn
from rnn_jax.combinators import stack

LIBRARIES = {
    "torch": (interop.torch, gru()),
    "keras": (interop.keras, gru()),
    "flax_linen": (interop.flax_linen, gru()),
    "flax_nnx": (interop.flax_nnx, lstm()),
    "haiku": (interop.haiku, gru("before")),
    "equinox": (interop.equinox, gru()),
}

every_library = pytest.mark.parametrize("library", LIBRARIES)


def valid(library):
    """(import, its flat entries in order, how to nest them again)."""
    module, cell = LIBRARIES[library]
    weights = module.weights_from(cell, random_params(cell, "float32"))
    leaves, structure = jax.tree.flatten(weights)
    read = lambda leaves: module.params_from(cell, structure.unflatten(leaves))
    return read, leaves, structure


def entry_names(structure):
    paths = jax.tree_util.tree_leaves_with_path(structure.unflatten(range(structure.num_leaves)))
    return [
        [str(getattr(key, "key", getattr(key, "idx", None))) for key in path] for path, _ in paths
    ]


def is_named(error, path):
    return all(part in str(error.value) for part in path)


@every_library
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.astype(np.int32), "is int32, expected floating-point numbers"),
        (lambda a: a.astype(complex), "is complex128, expected floating-point numbers"),
        (lambda a: a.astype(str), "expected floating-point numbers"),
        (lambda a: np.where(a == a.flat[-1], np.float32(np.nan), a), "holds NaN"),
        (lambda a: np.where(a == a.flat[-1], np.float32(np.inf), a), "holds infinity"),
        (lambda a: np.where(a == a.flat[-1], np.float32(-np.inf), a), "holds infinity"),
        (lambda a: a.astype(np.float64), "cast them to one dtype first"),
        # Other numbers of inputs and hidden units at once: of inputs alone could be right.
        (lambda a: np.tile(a, (2,) * a.ndim), "has shape"),
        (lambda a: a[(slice(-1),) * a.ndim], "has shape"),
        (lambda a: a[..., None], "has shape"),
        (lambda a: np.float32(0), "has shape"),
    ],
)
def test_one_bad_entry(library, change, reason):
    """Whichever it is, it is refused by its name; of two dtypes either may be the wrong one."""
    read, leaves, structure = valid(library)
    for number, path in enumerate(entry_names(structure)):
        bad = [change(leaf) if i == number else leaf for i, leaf in enumerate(leaves)]
        with pytest.raises(ValueError, match=reason) as error:
            read(bad)
        if "cast" not in reason:
            assert is_named(error, path)


@every_library
def test_missing_and_unexpected_entries(library):
    module, cell = LIBRARIES[library]
    _, leaves, structure = valid(library)
    if library == "keras":
        with pytest.raises(ValueError, match="got 2 weights, expected 3"):
            module.params_from(cell, leaves[:2])
        with pytest.raises(ValueError, match="got 4 weights, expected 3"):
            module.params_from(cell, [*leaves, leaves[0]])
        return

    def without(tree, path):
        rest = {key: value for key, value in tree.items() if key != path[0]}
        inner = without(tree[path[0]], path[1:]) if len(path) > 1 else None
        return rest | ({path[0]: inner} if inner else {})

    weights = structure.unflatten(leaves)
    for path in entry_names(structure):
        with pytest.raises(ValueError, match="missing: ") as error:
            module.params_from(cell, without(weights, path))
        assert is_named(error, path)
    one = (
        {"extra": {"w": leaves[0]}}
        if isinstance(next(iter(weights.values())), dict)
        else {"extra": leaves[0]}
    )
    with pytest.raises(ValueError, match="unexpected: extra"):
        module.params_from(cell, weights | one)
    with pytest.raises(ValueError, match="missing: "):
        module.params_from(cell, {})


CONTAINERS = {
    "torch": (torch.nn.GRU(3, 4), r"the dict that module.state_dict\(\) gives, got a GRU"),
    "keras": (keras.layers.GRU(4), r"the list that get_weights\(\) gives, got a GRU"),
    "flax_linen": (linen.GRUCell(4), r"the dict variables\[\"params\"\], got a GRUCell"),
    "flax_nnx": (nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)), "the dict nnx.to_pure_dict.* a GRUCell"),
    "haiku": (hk.transform(len), "the dict that hk.transform.* gives, got a Transformed"),
    "equinox": (
        eqx.nn.GRUCell(3, 4, key=jax.random.key(0)),
        r"the dict of the arrays in vars\(module\), got a GRUCell",
    ),
}


@every_library
def test_weights_in_another_container(library):
    module, cell = LIBRARIES[library]
    wrong, message = CONTAINERS[library]
    with pytest.raises(TypeError, match=f": weights must be {message}"):
        module.params_from(cell, wrong)
    for wrong in (None, 3, {} if library == "keras" else [], "weights"):
        with pytest.raises(TypeError, match=f"weights must be .* got a {type(wrong).__name__}"):
            module.params_from(cell, wrong)


@pytest.mark.parametrize("library", ["torch", "keras", "equinox"])
def test_weights_that_fit_no_sizes(library):
    """Those of an LSTM for a GRU: no sizes are made up."""
    module, cell = LIBRARIES[library]
    weights = module.weights_from(lstm(), random_params(lstm(), "float32"))
    if library == "equinox":
        weights["bias_n"] = np.zeros((4, 1), np.float32)
    with pytest.raises(ValueError, match=r"has shape .* of no .* with any numbers of inputs"):
        module.params_from(cell, weights)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.to("meta"), "is a meta tensor, which has a shape but no numbers"),
        (lambda a: a.to_sparse(), "is a torch.sparse_coo tensor, expected a dense one"),
        (lambda a: [[1.0], [1.0, 2.0]], "is a list, expected an array of numbers"),
    ],
)
def test_tensors_without_an_array(change, reason):
    weights = torch.nn.GRU(3, 4).state_dict()
    weights["weight_hh_l0"] = change(weights["weight_hh_l0"])
    with pytest.raises(ValueError, match=f"'weight_hh_l0' {reason}"):
        interop.torch.params_from(gru(), weights)


@pytest.mark.parametrize("library", ["torch", "keras", "haiku"])
def test_a_sum_of_biases_that_overflows(library):
    """Where two entries are added."""
    module, cell = LIBRARIES[library]
    cell = elman("relu") if library == "haiku" else cell
    weights = module.weights_from(cell, random_params(cell, "float16"))
    huge = jax.tree.map(lambda a: np.full_like(a, 40000), weights)
    with pytest.raises(ValueError, match=r"params\['bias'\], the sum of two .* beyond float16"):
        module.params_from(cell, huge)


@every_library
def test_an_alias_is_the_cell_of_the_same_equations(library):
    module, plain = LIBRARIES[library][0], elman("relu")
    params = random_params(irnn(), "float32")
    if library == "equinox":
        with pytest.raises(ValueError, match="equinox has no elman_relu"):
            module.weights_from(irnn(), params)
        return
    weights = module.weights_from(irnn(), params)
    same_bits(weights, module.weights_from(plain, params))
    same_bits(module.params_from(irnn(), weights), params)
    mixed, alike = stack(irnn(), plain), stack(plain, plain)
    params = random_params(alike, "float32")
    same_bits(module.weights_from(mixed, params), module.weights_from(alike, params))


@every_library
def test_bad_params(library):
    module, cell = LIBRARIES[library]
    params = random_params(cell, "float32")
    bias = params["bias"]
    for bad, reason in [
        ({**params, "more": bias}, "unexpected: more"),
        ({key: value for key, value in params.items() if key != "bias"}, "missing: bias"),
        ({**params, "bias": bias[1:]}, r"\['bias'\] has shape"),
        ({**params, "bias": bias.astype(int)}, "'bias' is int64"),
        ({**params, "bias": bias.astype(jnp.bfloat16)}, "cast them to one dtype"),
        ((params,), "those of another network"),
        (bias, "those of another network"),
    ]:
        with pytest.raises(ValueError, match=reason):
            module.weights_from(cell, bad)


def test_params_of_another_network():
    cell = stack(lstm(), lstm())
    params = random_params(cell, "float32")
    for bad in (params[0], params[:1], (*params, params[0]), list(params), {"forward": params}):
        with pytest.raises(ValueError, match="those of another network"):
            interop.torch.weights_from(cell, bad)
    bad = {name: value for name, value in params[1].items() if name != "bias"}
    with pytest.raises(ValueError, match=r"params\[1\].*missing: bias"):
        interop.torch.weights_from(cell, (params[0], bad))


@every_library
def test_layers_that_do_not_fit_each_other(library):
    module, cell = LIBRARIES[library]
    if library == "equinox":
        return
    network = stack(cell, cell)
    first, second = random_params(network, "float32")
    if library == "flax_nnx":
        wrong = interop.flax_nnx.weights_from(network, (first, second))
        wrong["layers"][1]["cell"]["dense_i"]["kernel"] = first["kernel"]
        with pytest.raises(ValueError, match=r"entry 'layers/1/cell/dense_i/kernel' has shape"):
            module.params_from(network, wrong)
    with pytest.raises(ValueError, match=r"\[1\]\['kernel'\] has shape \(3, \d+\), expected \(4"):
        module.weights_from(network, (first, {**second, "kernel": first["kernel"]}))


@every_library
def test_nan_is_exported(library):
    """It is the weights of another library that may be damaged; ours have been computed."""
    module, cell = LIBRARIES[library]
    params = jax.tree.map(lambda a: a * jnp.nan, random_params(cell, "float32"))
    weights = module.weights_from(cell, params)
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(weights))


def test_float64_without_x64_is_not_rounded_silently():
    weights = interop.torch.weights_from(gru(), random_params(gru(), "float64"))
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64 needs"):
        interop.torch.params_from(gru(), weights)


def test_no_library_is_imported():
    code = (
        "import sys, rnn_jax.interop; "
        "print({'torch', 'keras', 'haiku', 'equinox', 'safetensors'} & {*sys.modules})"
    )
    command, checkout = [sys.executable, "-c", code], Path(__file__).parents[1]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
