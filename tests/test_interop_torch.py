"""torch.nn.RNN, LSTM and GRU with our weights, and ours with theirs."""

import functools
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from interop_cases import (
    LENGTHS,
    D,
    H,
    Pulled,
    T,
    agree,
    both_precisions,
    ours,
    problem,
    random_params,
    randomised,
    same_bits,
)
from safetensors.torch import load_file
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_jax import elman, gru, interop, lstm
from rnn_jax.combinators import bidirectional, chain, residual, stack

# Minutes together.
pytestmark = pytest.mark.slow

CELLS = {
    "elman": (elman(), functools.partial(torch.nn.RNN, nonlinearity="tanh")),
    "elman_relu": (elman("relu"), functools.partial(torch.nn.RNN, nonlinearity="relu")),
    "lstm": (lstm(), torch.nn.LSTM),
    "lstm_projection": (lstm(projection=2), functools.partial(torch.nn.LSTM, proj_size=2)),
    "gru": (gru(), torch.nn.GRU),
}
NETWORKS = {
    "single": (lambda cell: cell, {}),
    "stack": (lambda cell: stack(cell, cell, cell), {"num_layers": 3}),
    "chain": (lambda cell: chain(cell, cell), {"num_layers": 2}),
    "bidirectional": (bidirectional, {"bidirectional": True}),
    "deep bidirectional": (
        lambda cell: chain(bidirectional(cell), bidirectional(cell)),
        {"num_layers": 2, "bidirectional": True},
    ),
}

every_network = pytest.mark.parametrize("network", NETWORKS)
every_cell = pytest.mark.parametrize("cell", CELLS)


def pair(cell, network, dtype):
    """Our network and PyTorch's module."""
    (cell, make), (combine, options) = CELLS[cell], NETWORKS[network]
    return combine(cell), make(D, H, batch_first=True, dtype=getattr(torch, dtype), **options)


def load_into(module, weights):
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})


def random_weights(module, dtype):
    return randomised({name: value.numpy() for name, value in module.state_dict().items()}, dtype)


def theirs(module, given, ragged):
    xs = torch.tensor(given.xs, requires_grad=True)
    if ragged:
        packed = pack_padded_sequence(xs, torch.tensor(LENGTHS), True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(module(packed)[0], batch_first=True, total_length=T)
    else:
        outputs, _ = module(xs)
    (outputs * torch.tensor(given.cotangent)).sum().backward()
    by_weights = {name: value.grad.numpy() for name, value in module.named_parameters()}
    return Pulled(outputs.detach().numpy(), by_weights, xs.grad.numpy())


# Where PyTorch is built with oneDNN, which has no projections, it says so.
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@both_precisions
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@every_network
@every_cell
def test_agreement(cell, network, ragged, dtype):
    """Of ours with PyTorch's weights, and of PyTorch with ours."""
    network, module = pair(cell, network, dtype)
    read = functools.partial(interop.torch.params_from, network)
    if ragged:
        load_into(module, random_weights(module, dtype))
        weights = {name: value.numpy() for name, value in module.state_dict().items()}
        params = read(module.state_dict())
    else:
        params = random_params(network, dtype)
        weights = interop.torch.weights_from(network, params)
        load_into(module, weights)
    outputs = (module.proj_size or module.hidden_size) * (1 + module.bidirectional)
    given = problem(outputs, dtype, ragged=ragged)
    mine, others = ours(network, params, given), theirs(module, given, ragged)
    agree(mine, others, given, dtype, weights, read)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@every_network
@every_cell
def test_there_and_back(cell, network, dtype):
    network = NETWORKS[network][0](CELLS[cell][0])
    params = random_params(network, dtype)
    # A negative zero is a value that an added zero would change.
    params = jax.tree.map(lambda a: a.at[0].set(-0.0), params)
    weights = interop.torch.weights_from(network, params)
    same_bits(interop.torch.params_from(network, weights), params)
    again = interop.torch.weights_from(network, interop.torch.params_from(network, weights))
    same_bits(again, weights)


@every_cell
def test_what_is_lost_is_how_two_biases_share_their_sum(cell):
    network, module = pair(cell, "single", "float64")
    weights = random_weights(module, "float64")
    back = interop.torch.weights_from(network, interop.torch.params_from(network, weights))
    for name in weights:
        if not name.startswith("bias"):
            np.testing.assert_array_equal(back[name], weights[name])
    kept = 2 * H if cell == "gru" else None  # b_in and b_hn stay apart
    second = back["bias_hh_l0"]
    assert not second[:kept].any()
    total = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    np.testing.assert_array_equal(back["bias_ih_l0"][:kept], total[:kept])
    if cell == "gru":
        for name in ("bias_ih_l0", "bias_hh_l0"):
            np.testing.assert_array_equal(back[name][kept:], weights[name][kept:])


def test_names_and_shapes_are_pytorch_s():
    for cell in CELLS:
        for network in NETWORKS:
            mine, module = pair(cell, network, "float64")
            weights = interop.torch.weights_from(mine, random_params(mine, "float64"))
            expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
            assert {name: array.shape for name, array in weights.items()} == expected


def test_a_part_of_a_model():
    """By prefix; what else the model has does not matter."""
    model = torch.nn.ModuleDict({"encoder": torch.nn.GRU(D, H), "head": torch.nn.Linear(H, 2)})
    weights = model.state_dict()
    params = interop.torch.params_from(gru(), weights, prefix="encoder.")
    same_bits(params, interop.torch.params_from(gru(), model["encoder"].state_dict()))
    exported = interop.torch.weights_from(gru(), params, prefix="encoder.")
    assert set(exported) == {name for name in weights if name.startswith("encoder.")}
    with pytest.raises(ValueError, match=r"unexpected: .*head\.weight"):
        interop.torch.params_from(gru(), weights)
    with pytest.raises(
        ValueError, match=r"prefix must be 'encoder\.', with the dot, got 'encoder'"
    ):
        interop.torch.params_from(gru(), weights, prefix="encoder")


def test_bfloat16_tensors():
    module = torch.nn.LSTM(D, H, dtype=torch.bfloat16)
    params = interop.torch.params_from(lstm(), module.state_dict())
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    kernel = np.asarray(params["kernel"].astype(jnp.float32))
    np.testing.assert_array_equal(kernel.T, module.weight_ih_l0.detach().float().numpy())


def test_no_memory_is_shared():
    module = torch.nn.GRU(D, H)
    params = interop.torch.params_from(gru(), module.state_dict())
    before = jax.tree.map(np.array, params)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    weights = interop.torch.weights_from(gru(), params)
    for array in weights.values():
        array[...] = 7
    same_bits(params, before)


# ---- Files --------------------------------------------------------------------------------------


def test_state_dict_file(tmp_path):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        module = torch.nn.LSTM(D, H, num_layers=2, dtype=dtype)
        torch.save(module.state_dict(), tmp_path / "lstm.pt")
        cell = stack(lstm(), lstm())
        params = interop.torch.params_from(cell, interop.torch.read(tmp_path / "lstm.pt"))
        same_bits(params, interop.torch.params_from(cell, module.state_dict()))


def test_safetensors_file_that_pytorch_reads(tmp_path):
    params = random_params(gru(), "float32")
    interop.save(tmp_path / "gru.safetensors", interop.torch.weights_from(gru(), params))
    module = torch.nn.GRU(D, H)
    module.load_state_dict(load_file(tmp_path / "gru.safetensors"))
    same_bits(interop.torch.params_from(gru(), module.state_dict()), params)
    loaded = interop.load(tmp_path / "gru.safetensors")
    same_bits(interop.torch.params_from(gru(), loaded), params)


class Executed:
    def __reduce__(self):
        return (print, ("code in the file was executed",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(2)], "holds a list, expected tensors by name"),
        ({"epoch": 3}, "'epoch' is a int, expected a tensor"),
        ({"model": {"weight": torch.zeros(2)}}, "'model' is a dict, expected a tensor"),
        ({"weight": Executed()}, "pickled Python objects are never loaded; save module.state_dict"),
        (torch.nn.GRU(2, 2), "pickled Python objects are never loaded; save module.state_dict"),
        ({"weight": torch.ones(2).to_sparse()}, "'weight' is a torch.sparse_coo tensor"),
    ],
)
def test_files_of_anything_else(tmp_path, capsys, content, reason):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=reason) as error:
        interop.torch.read(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()
    # Nor in the errors above it: PyTorch advises to execute what is in the file.
    assert "weights_only=False" not in "".join(traceback.format_exception(error.value))
    assert capsys.readouterr().out == ""


def test_damaged_files(tmp_path):
    path = tmp_path / "lstm.pt"
    torch.save(torch.nn.LSTM(D, H).state_dict(), path)
    whole = path.read_bytes()
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged") as error:
            interop.torch.read(path)
        assert str(error.value).startswith(str(path))
    path.write_text("not a file of PyTorch")
    with pytest.raises(ValueError, match="damaged"):
        interop.torch.read(path)
    with pytest.raises(ValueError, match="No such file or directory"):
        interop.torch.read(tmp_path / "absent.pt")


# ---- What PyTorch does not have -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (gru("before"), "torch.nn has no gru_before: GRU resets after"),
        (elman("sigmoid"), "torch.nn has no elman_sigmoid: RNN is tanh or ReLU"),
        (elman("identity"), "torch.nn has no elman_identity: RNN is tanh or ReLU"),
        (elman(jnp.sin), "no cell with the equations of elman_sin"),
        (lstm(peephole=True), "no cell with the equations of lstm_peephole"),
        (residual(gru()), "no cell with the equations of residual"),
        (residual(stack(gru(), gru())), "no cell with the equations of residual"),
        (stack(gru(), lstm()), "the same cell"),
        (stack(lstm(), lstm(projection=2)), "the same cell"),
        (chain(bidirectional(gru()), gru()), "the same number of directions"),
        (bidirectional(stack(gru(), gru())), "joins two directions after every layer"),
        (bidirectional(gru(), merge="sum"), "no library has a layer of this make"),
    ],
    ids=str,
)
def test_networks_that_pytorch_does_not_have(network, reason):
    params = random_params(network, "float32", hidden_size=D)
    with pytest.raises(ValueError, match=reason):
        interop.torch.weights_from(network, params)
    with pytest.raises(ValueError, match=reason):
        interop.torch.params_from(network, torch.nn.GRU(D, D).state_dict())


def test_a_cell_of_the_same_name_with_other_equations():
    def relu(x):
        return jnp.maximum(x, 0) ** 2

    assert elman(relu).name == elman("relu").name
    with pytest.raises(ValueError, match="no cell with the equations of elman_relu"):
        interop.torch.weights_from(elman(relu), random_params(elman(), "float32"))


def test_layers_of_different_size():
    params = random_params(stack(gru(), gru()), "float32", hidden_size=(4, 5))
    with pytest.raises(
        ValueError, match=r"\[1\]\['kernel'\] has shape \(4, 15\), expected \(4, 12"
    ):
        interop.torch.weights_from(stack(gru(), gru()), params)


def test_a_factory_is_no_cell():
    with pytest.raises(TypeError, match="factories are called"):
        interop.torch.params_from(gru, {})


def test_the_state_dict_of_another_architecture():
    weights = torch.nn.LSTM(D, H, num_layers=2).state_dict()
    with pytest.raises(ValueError, match=r"unexpected: weight_ih_l1"):
        interop.torch.params_from(lstm(), weights)
    with pytest.raises(ValueError, match=r"missing: weight_ih_l2"):
        interop.torch.params_from(stack(lstm(), lstm(), lstm()), weights)
    with pytest.raises(ValueError, match=r"missing: weight_ih_l0_reverse"):
        interop.torch.params_from(chain(bidirectional(lstm()), bidirectional(lstm())), weights)
    with pytest.raises(ValueError, match="'weight_ih_l0' has shape"):
        interop.torch.params_from(stack(gru(), gru()), weights)
    with pytest.raises(ValueError, match="missing: bias_ih_l0, bias_hh_l0"):
        interop.torch.params_from(gru(), torch.nn.GRU(D, H, bias=False).state_dict())
