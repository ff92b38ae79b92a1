"""The wheel and the source distribution, away from the checkout, and what is said about them."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import rnn_jax

ROOT = Path(__file__).parents[1]
BUILD = "import sys, setuptools.build_meta as build; build.build_{}(sys.argv[1])"


def run(*command, cwd, env=()):
    """What a command prints; PYTHONPATH, by which tests find the checkout, is not for it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(env)
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, source, folder):
    """The one file that the build makes of a folder, by the environment that runs the tests."""
    run(sys.executable, "-c", BUILD.format(kind), folder, cwd=source)
    (built,) = folder.iterdir()
    return built


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The checkout without what git ignores, such as the metadata that an editable install left."""
    copy = tmp_path_factory.mktemp("source")
    seen = ("--cached", "--others", "--exclude-standard")
    for name in run("git", "ls-files", "-z", *seen, cwd=ROOT).split("\0")[:-1]:
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    """Before the wheel, whose build leaves files behind."""
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(source, sdist, tmp_path_factory):
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Of a new environment with the wheel, and the dependencies of the one that runs the tests.

    A line of a .pth file names a folder to look in; the .pth files of that folder, by which an
    editable install finds the checkout, are not read.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder)[:-1])
    found = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site / "dependencies.pth").write_text("\n".join(found))
    looking = "import importlib.util as u; print(u.find_spec('rnn_jax'))"
    assert str(ROOT / "rnn_jax") not in run(python, "-I", "-c", looking, cwd=folder)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    # Among the dependencies there may be an installed rnn_jax, with which pip would be content.
    options = ("--quiet", "--no-index", "--no-deps", "--ignore-installed")
    run(*pip, "install", *options, wheel, cwd=folder)
    return python


@pytest.mark.slow
def test_the_wheel_is_the_package_and_its_licence(source, wheel):
    files = contents(wheel)
    info = f"rnn_jax-{rnn_jax.__version__}.dist-info"
    package = {name: data for name, data in files.items() if not name.startswith(info)}
    modules = [*source.glob("rnn_jax/**/*.py"), source / "rnn_jax" / "py.typed"]
    assert package == {str(path.relative_to(source)): path.read_bytes() for path in modules}
    assert files[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert files[f"{info}/top_level.txt"].split() == [b"rnn_jax"]


@pytest.mark.slow
def test_its_metadata_say_what_the_checkout_says(wheel):
    info = f"rnn_jax-{rnn_jax.__version__}.dist-info"
    metadata = BytesParser().parsebytes(contents(wheel)[f"{info}/METADATA"])
    assert metadata["Version"] == rnn_jax.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_text()
    assert metadata.get_payload(decode=True).decode() == readme
    extras = {"tasks", "training", "interop", "experiments", "test", "lint", "docs"}
    assert {*metadata.get_all("Provides-Extra")} == extras


@pytest.mark.slow
def test_the_source_distribution_is_the_same_package(source, sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    metadata = {"PKG-INFO", "rnn_jax.egg-info"}
    about = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md"}
    building = {"MANIFEST.in", "pyproject.toml", "setup.cfg"}
    assert {path.name for path in unpacked.iterdir()} == metadata | about | building | {"rnn_jax"}
    (again := tmp_path / "again").mkdir()
    assert contents(build("wheel", unpacked, again)) == contents(wheel)


@pytest.mark.slow
def test_the_example_of_the_readme_runs_from_the_wheel(python, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    whence = """
import pathlib, sys
for name, module in sys.modules.items():
    if name.partition(".")[0] == "rnn_jax":
        assert pathlib.Path(module.__file__).is_relative_to(sys.prefix), module
"""
    printed = run(python, "-I", "-c", example + whence, cwd=tmp_path)
    assert -500 < float(printed) < -300


@pytest.mark.slow
def test_every_module_is_imported_without_the_extras(python, tmp_path):
    """As in an environment with the core alone: what extras bring cannot be imported."""
    code = """
import importlib, pkgutil, sys
extras = ["absl.app", "equinox", "haiku", "keras", "matplotlib", "mido", "ml_collections",
          "music21", "num2words", "pandas", "safetensors", "sklearn", "statsmodels",
          "tensorboardX", "threadpoolctl", "torch"]
sys.modules |= dict.fromkeys(extras)
import rnn_jax
for module in pkgutil.walk_packages(rnn_jax.__path__, "rnn_jax."):
    print(importlib.import_module(module.name).__name__)
"""
    names = {"rnn_jax", *run(python, "-I", "-c", code, cwd=tmp_path).split()}
    files = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "rnn_jax").rglob("*.py")}
    folders = {file.parent if file.name == "__init__" else file for file in files}
    assert names == {".".join(folder.parts) for folder in folders}


@pytest.mark.slow
def test_mypy_sees_the_types_of_the_installed_package(python, tmp_path):
    """The marker py.typed is found, else mypy would refuse to look."""
    (tmp_path / "user.py").write_text(
        "import rnn_jax\n"
        "from rnn_jax import analysis\n"
        "reveal_type(rnn_jax.lstm())\n"
        "reveal_type(analysis.gradient_flow)\n"
        'rnn_jax.lstm(peephole="yes")\n'
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "--config-file="]
    done = subprocess.run(
        [*command, "--cache-dir", tmp_path / "cache", "user.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    cell, flow, wrong, _ = done.stdout.splitlines()
    assert cell == 'user.py:3: note: Revealed type is "rnn_jax.base.Cell"'
    assert "rnn_jax.analysis.gradients.GradientFlow" in flow
    assert wrong.startswith('user.py:5: error: Argument "peephole" to "lstm" has incompatible type')


# ---- What is said about it ----------------------------------------------------------------------


def test_the_version_is_written_in_one_place():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: rnn_jax.__version__"
    assert str(Version(rnn_jax.__version__)) == rnn_jax.__version__
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_is_one():
    """What the Citation File Format 1.2.0 demands, and no field of another format."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    demanded = {"cff-version", "message", "title", "authors"}
    assert demanded <= {*citation} <= demanded | {"type", "abstract", "license", "keywords"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    # An entity has a name; a person would have given-names and family-names.
    assert citation["authors"] == [{"name": "The rnn_jax authors"}]
    words = [citation[field] for field in ("message", "title", "abstract")] + citation["keywords"]
    assert all(isinstance(word, str) and word for word in words)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert citation["license"] == setup["metadata"]["license"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_changelog_keeps_its_form():
    """Releases from new to old, this version the newest or still to come; six kinds of change."""
    text = (ROOT / "CHANGELOG.md").read_text()
    first, *dated = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    releases = [re.fullmatch(r"\[(.+)\] - \d{4}-\d\d-\d\d", title)[1] for title in dated]
    versions = [Version(release) for release in releases]
    assert versions == sorted(set(versions), reverse=True)
    assert not versions or Version(rnn_jax.__version__) >= versions[0]
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert kinds
    assert {*kinds} <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert not re.findall(r"^### .*\n+(?=#|\Z)", text, re.MULTILINE)
