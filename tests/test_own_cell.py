"""`gated_cell`, and the page that tells how to write a cell with it."""

import importlib
import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close, verify_cell
from reference import affine, sequence, sigmoid

import rnn_jax
from configs.gradient_norms import get_config
from experiments.gradient_norms import EXPERIMENT
from rnn_jax import CELLS, HiddenState, gated_cell, gru, lstm, schemes
from rnn_jax.cells import lookup

PAGE = (Path(__file__).parents[1] / "docs" / "your_own_cell.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """The cell of the page, as a module that is found like a user's."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "star_cell.py").write_text(BLOCKS[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("star_cell").star
    sys.modules.pop("star_cell", None)


def star_step(params, state, x):
    """Turkoglu et al. (2021), arXiv:1911.11033, equations 3 to 5, in float64 NumPy."""
    (h,) = state
    w_z, w_k = np.split(params["kernel"], 2, axis=1)
    _, u_k = np.split(params["recurrent_kernel"], 2, axis=1)
    b_z, b_k = np.split(params["bias"], 2)
    z = np.tanh(x @ w_z + b_z)
    k = sigmoid(x @ w_k + h @ u_k + b_k)
    h = np.tanh((1 - k) * h + k * z)
    return (h,), h


def test_the_cell_of_the_page_is_about_ten_lines():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10


@pytest.mark.slow
def test_the_cell_of_the_page_obeys_every_law(star):
    verify_cell(star, sequence(star_step), remake=lambda: lookup("star_cell:star"))


def test_the_cell_of_the_page_is_the_equations_of_the_paper(star):
    params = star.init(jax.random.key(0), 3, 4, scheme=schemes.torch())
    xs = np.random.default_rng(0).normal(size=(9, 3))
    end, trajectory = rnn_jax.unroll(star, params, xs)
    expected, (_, outputs) = sequence(star_step)(params, xs)
    close((tuple(end), trajectory.outputs), (expected, outputs))


def test_the_other_examples_of_the_page_run(star, monkeypatch):
    """Each in a namespace of its own: whoever copies one has all it needs beside star_cell.py."""
    verified = []
    contract = types.SimpleNamespace(verify_cell=verified.append)  # the slow test above runs it
    monkeypatch.setitem(sys.modules, "tests.contract", contract)
    names = [{} for _ in BLOCKS[1:]]
    for mine, block in zip(names, BLOCKS[1:], strict=True):
        exec(compile(block, "your_own_cell.md", "exec"), mine)
    (flow,) = [mine["flow"] for mine in names if "flow" in mine]
    assert np.isfinite(flow.log_norm).all()
    assert verified == [star]


@pytest.mark.parametrize("name", ["star_cell:star", "registered"])
def test_the_experiment_takes_it_by_name(star, name, monkeypatch):
    """Through all units and figures, with nothing edited: the table names it."""
    monkeypatch.setitem(CELLS, "registered", star)
    config = get_config("smoke")
    with config.unlocked():
        config.update(cells=(name,), inputs=("white_noise",), presets=("torch",))
    EXPERIMENT.validate(config)
    with jax.enable_x64(False):
        results = {unit: EXPERIMENT.run_unit(config, unit) for unit in EXPERIMENT.units(config)}
    said = EXPERIMENT.report(config, results)
    assert said.summary["cell"].tolist() == [name]
    of_state = said.table[said.table["quantity"] == "readout"]
    assert np.isfinite(of_state["median"]).all()
    for draw in said.figures.values():
        assert draw().axes


# ---- gated_cell ---------------------------------------------------------------------------------


class Memory(NamedTuple):
    hidden: jax.Array
    cell: jax.Array


@gated_cell(gates=("input", "forget", "candidate", "output"), state=Memory, keep="forget")
def my_lstm(params, state, drive):
    i, f, g, o = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 4)
    cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return Memory(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)


@gated_cell(gates=("reset", "update", "candidate"), keep=1, recurrent_bias=2)
def my_gru(params, state, drive):
    x_r, x_z, x_n = jnp.split(drive, 3)
    h_r, h_z, h_n = jnp.split(state.hidden @ params["recurrent_kernel"], 3)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * (h_n + params["recurrent_bias"]))
    return HiddenState((1 - z) * n + z * state.hidden)


@pytest.mark.parametrize(("mine", "theirs"), [(my_lstm, lstm()), (my_gru, gru())])
@pytest.mark.parametrize("scheme", [None, schemes.orthogonal(1.0, 2.0), schemes.torch()])
def test_it_makes_the_cells_of_the_package(mine, theirs, scheme):
    """The same parameters from the same key, and the same unroll."""
    draw = lambda cell: cell.init(jax.random.key(3), 3, 4, scheme=scheme)
    params = draw(theirs)
    jax.tree.map(np.testing.assert_array_equal, draw(mine), params)
    xs = jax.random.normal(jax.random.key(4), (6, 3))
    (end, path), (expected, other) = (rnn_jax.unroll(c, params, xs) for c in (mine, theirs))
    close((tuple(end), path.outputs), (tuple(expected), other.outputs))


def test_gates_by_number_extra_parameters_and_a_default_scheme():
    def peephole(key, layout):
        return jax.random.normal(key, (layout.hidden_size,), layout.dtype)

    @gated_cell(
        2,
        name="peeping",
        keep=0,
        extra={"peephole": peephole},
        scheme=schemes.orthogonal(0.5, 3.0),
    )
    def equations(params, state, drive):
        f, n = jnp.split(drive + state.hidden @ params["recurrent_kernel"], 2)
        f = jax.nn.sigmoid(f + params["peephole"] * state.hidden)
        return HiddenState(f * state.hidden + (1 - f) * jnp.tanh(n))

    params = equations.init(jax.random.key(0), 3, 4)
    assert params["bias"].tolist() == [3.0] * 4 + [0.0] * 4
    close(params["recurrent_kernel"][:, :4].T @ params["recurrent_kernel"][:, :4], jnp.eye(4) / 4)

    def step(params, state, x):
        (h,) = state
        f, n = affine(params, x, h)
        f = sigmoid(f + params["peephole"] * h)
        h = f * h + (1 - f) * np.tanh(n)
        return (h,), h

    xs = np.random.default_rng(0).normal(size=(5, 3))
    _, (_, expected) = sequence(step)(params, xs)
    close(rnn_jax.unroll(equations, params, xs)[1].outputs, expected)
    for wrong in (jnp.zeros(1), jnp.zeros((1, 4)), None):
        with pytest.raises(ValueError, match=r"peeping: params .* are those of another cell"):
            rnn_jax.unroll(equations, params | {"peephole": wrong}, xs)
    del params["peephole"]
    with pytest.raises(ValueError, match=r"peeping: params .* are those of another cell"):
        rnn_jax.unroll(equations, params, xs)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"keep must be one of the gates \('a',\), got 'b'"):
        gated_cell(("a",), keep="b")
    with pytest.raises(ValueError, match=r"recurrent_bias must be one of .* got 1"):
        gated_cell(("a",), recurrent_bias=1)
    with pytest.raises(ValueError, match="at least one gate"):
        gated_cell(())
    with pytest.raises(ValueError, match="gates must be at least 1"):
        gated_cell(0)
    with pytest.raises(TypeError, match="gates must be a number or a sequence of names"):
        gated_cell("update")


class Nameless(NamedTuple):
    memory: jax.Array


def draw(key, layout):
    return jnp.zeros(layout.hidden_size, layout.dtype)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gates": ("a", "a")}, ValueError, r"gates must have different names, got \('a', 'a'\)"),
        ({"gates": (1, 2)}, TypeError, r"gates must have strings for names, got \(1, 2\)"),
        ({"state": dict}, TypeError, "state must be a NamedTuple, the class, got <class 'dict'>"),
        ({"state": tuple}, TypeError, "state must be a NamedTuple, the class"),
        ({"state": HiddenState(0)}, TypeError, "state must be a NamedTuple, the class"),
        ({"state": Nameless}, ValueError, "state must have a field 'hidden'.* Nameless"),
        (
            {"scheme": "orthogonal"},
            TypeError,
            r"scheme must be .*orthogonal\(\).* got 'orthogonal'",
        ),
        ({"scheme": schemes.orthogonal}, TypeError, r"scheme must be .* got <function orthogonal"),
        ({"extra": {"kernel": draw}}, ValueError, "extra must have other names .* got 'kernel'"),
        (
            {"extra": {"recurrent_bias": draw}, "recurrent_bias": 0},
            ValueError,
            "extra must have other names .* got 'recurrent_bias'",
        ),
        ({"extra": {"gain": 1.0}}, TypeError, r"extra\['gain'\] must be a function .* got 1.0"),
    ],
)
def test_a_mistake_is_told_at_the_definition(options, error, message):
    with pytest.raises(error, match=f"^mine: {message}"):

        @gated_cell(**{"gates": 1, "name": "mine"} | options)
        def equations(params, state, drive):
            return HiddenState(drive)


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (lambda new: new.hidden, "a .*(Array|Tracer)"),
        (lambda new: (new, new.hidden), "a tuple"),
        (lambda new: Nameless(new.hidden), "a Nameless"),
        (lambda new: None, "a NoneType"),
    ],
)
def test_equations_that_return_another_thing_than_the_state(returned, kind):
    @gated_cell(1, name="mine")
    def cell(params, state, drive):
        return returned(HiddenState(jnp.tanh(drive)))

    params = cell.init(jax.random.key(0), 3, 4)
    message = f"mine: the equations must return the new state alone, a HiddenState, got {kind}"
    for run in (lambda: rnn_jax.unroll(cell, params, jnp.ones((2, 3))), lambda: step(cell, params)):
        with pytest.raises((TypeError, ValueError), match=message):
            run()


def step(cell, params):
    return cell(params, cell.initial_state(params), jnp.ones(3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:cell", "unknown cell 'no_such_module:cell': No module"),
        ("rnn_jax:no_such_cell", "unknown cell 'rnn_jax:no_such_cell'.*no attribute"),
        (":cell", "unknown cell ':cell'"),
        ("rnn_jax:length_mask", "cannot be made with options"),
        ("builtins:dict", "makes no cell"),
        ("../cells:mine", "unknown cell '../cells:mine': '../cells' is no name of a module"),
    ],
)
def test_a_module_path_that_leads_to_no_cell(name, message):
    with pytest.raises(ValueError, match=message):
        lookup(name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def mine(:", "mine_broken.py, line 1: SyntaxError: invalid syntax"),
        ("x = 1\nmine = nothing", "mine_broken.py, line 2: NameError: name 'nothing'"),
        ("import jax\nmine = jax.nothing", "mine_broken.py, line 2: AttributeError: module 'jax'"),
        ("def mine():\n    return {}['a']", "mine_broken.py, line 2: KeyError: 'a'"),
        ("def mine():\n    return 1 + ''", "mine_broken.py, line 2: TypeError: unsupported"),
    ],
)
def test_an_error_of_a_module_is_told_with_its_line(source, message, tmp_path, monkeypatch):
    (tmp_path / "mine_broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(ValueError, match=f"^cell 'mine_broken:mine' cannot .*{message}"):
            lookup("mine_broken:mine")
    finally:
        sys.modules.pop("mine_broken", None)


def test_a_cell_takes_no_options(monkeypatch):
    monkeypatch.setitem(CELLS, "mine", my_lstm)
    assert lookup("mine") is my_lstm
    with pytest.raises(ValueError, match="takes no options"):
        lookup("mine", {"depth": 3})
