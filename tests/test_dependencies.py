"""What is imported where, beside what setup.cfg declares for it, in both directions."""

import ast
import configparser
import functools
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PLACES = {
    "rnn_jax": "core",
    "rnn_jax/tasks": "tasks",
    "rnn_jax/training": "training",
    "rnn_jax/interop": "interop",
    "experiments": "experiments",
    "configs": "experiments",
    "tests": "test",
    "benchmarks": "test",
    "docs": "docs",
}
"""The extra that brings what the files of a folder import."""

STARTED = {"mypy", "pytest-timeout", "pytest-xdist", "ruff", "setuptools"}
STARTED |= {"furo", "myst-parser"}
"""Commands, plugins, themes and the build: they are started, not imported."""

UNDECLARED = {"datasets"}
"""What `text_from_hub` asks for in its error; no experiment and no test needs it."""

FILES = {
    path.relative_to(ROOT).as_posix(): path
    for folder in PLACES
    for path in sorted((ROOT / folder).rglob("*.py"))
}
# Of tests, benchmarks and docs also what is imported by its file name; a test writes star_cell.py.
OURS = {"rnn_jax", "experiments", "configs", "tests", "star_cell"} | {
    path.stem for name, path in FILES.items() if name.startswith(("tests/", "benchmarks/", "docs/"))
}


# ---- What is imported ---------------------------------------------------------------------------


def modules_of(node):
    """The modules from elsewhere that one statement or call names."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, level=0):
            return [module]
        case ast.Call(
            func=ast.Attribute(attr="import_module" | "find_spec" | "importorskip"),
            args=[ast.Constant(value=module), *_],
        ):
            return [module]
    return []


def outside_functions(node):
    """What runs when a module is imported."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from outside_functions(child)


def libraries(tree, walk=ast.walk):
    top = {module.partition(".")[0] for node in walk(tree) for module in modules_of(node)}
    return top - sys.stdlib_module_names - OURS


TREES = {name: ast.parse(path.read_text(), name) for name, path in FILES.items()}


installed = functools.cache(packages_distributions)


def distribution_of(library):
    """By the metadata of what is installed, else its own name."""
    (distribution,) = set(installed().get(library, [library]))
    return canonicalize_name(distribution)


def imported(extra, walk=ast.walk):
    """The distributions that the files import for which an extra is, with a file of each."""
    return {
        distribution_of(library): name
        for name, tree in TREES.items()
        if PLACES[max((folder for folder in PLACES if name.startswith(folder + "/")), key=len)]
        == extra
        for library in libraries(tree, walk)
    }


# ---- What is declared ---------------------------------------------------------------------------


def declared():
    """Of each extra, and the core: what it names itself, and the extras that it takes in."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = {"core": setup["options"]["install_requires"], **setup["options.extras_require"]}
    for extra, lines in lists.items():
        found = [Requirement(line) for line in lines.splitlines() if line]
        own = {canonicalize_name(one.name) for one in found if one.name != "rnn_jax"}
        yield extra, (own, {name for one in found if one.name == "rnn_jax" for name in one.extras})


DECLARED = dict(declared())


def brought(extra):
    own, others = DECLARED[extra]
    return own.union(DECLARED["core"][0], *map(brought, others))


# ---- Both beside each other ---------------------------------------------------------------------


def test_there_is_a_place_for_every_extra():
    assert {*DECLARED} == {*PLACES.values(), "lint"}
    assert len(TREES) > 150


@pytest.mark.parametrize("extra", sorted(set(PLACES.values())))
def test_what_is_imported_is_declared(extra):
    missing = {
        distribution: name
        for distribution, name in imported(extra).items()
        if distribution not in brought(extra) | UNDECLARED
    }
    assert not missing


@pytest.mark.parametrize("extra", sorted(DECLARED))
def test_what_is_declared_is_imported(extra):
    own, others = DECLARED[extra]
    users = {*PLACES.values()} - {"experiments", "test"} if extra == "core" else {extra}
    assert own - STARTED <= {name for user in users for name in imported(user)}
    # Nothing twice, so that each lower bound has one place.
    assert not own & set().union(*map(brought, others))
    assert extra == "core" or not own & DECLARED["core"][0]


def test_what_needs_no_declaration_is_no_more_than_that():
    """An exception that nothing needs any more has to go."""
    own = set().union(*(own for own, _ in DECLARED.values()))
    everywhere = {name for place in PLACES.values() for name in imported(place)}
    assert own >= STARTED
    assert not STARTED & everywhere
    assert everywhere - own >= UNDECLARED


def test_importing_the_package_asks_for_no_extra():
    """Whatever an extra brings is imported where it is used, in a function."""
    for extra in ("core", "tasks", "training", "interop"):
        assert {*imported(extra, outside_functions)} <= DECLARED["core"][0]


def test_a_module_of_interop_imports_only_the_library_that_it_is_for():
    """Weights of the others are plain arrays, for which no library has to be installed."""
    found = {
        name.rpartition("/")[2]: libraries(tree) - {"jax", "numpy"}
        for name, tree in TREES.items()
        if name.startswith("rnn_jax/interop/")
    }
    assert {name: names for name, names in found.items() if names} == {
        "adapters.py": {"flax"},
        "files.py": {"safetensors"},
        "linen_adapter.py": {"flax"},
        "nnx_adapter.py": {"flax"},
        "torch_weights.py": {"torch"},
    }


@pytest.mark.parametrize(
    ("code", "everywhere", "at_import"),
    [
        ("import jax.numpy as jnp, numpy", {"jax", "numpy"}, {"jax", "numpy"}),
        ("from flax import linen", {"flax"}, {"flax"}),
        ("def f():\n    import torch", {"torch"}, set()),
        ("class A:\n    import torch", {"torch"}, {"torch"}),
        ("f = lambda: importlib.util.find_spec('music21')", {"music21"}, set()),
        ("try:\n    import a\nexcept E:\n    pytest.importorskip('b.c')", {"a", "b"}, {"a", "b"}),
        ("import ast, rnn_jax.cells, contract\nfrom . import x", set(), set()),
        ("importlib.import_module(name)", set(), set()),
    ],
)
def test_imports_are_found(code, everywhere, at_import):
    tree = ast.parse(code)
    assert libraries(tree) == everywhere
    assert libraries(tree, outside_functions) == at_import
