"""CONTRIBUTING.md is true: its five steps make a cell that obeys every law."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EQUATIONS, REGISTRY, REFERENCE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def registered(text):
    """`rnn_jax/cells/__init__.py` with the three lines of the second step, each in its place."""
    imported, exported, entry = REGISTRY.splitlines()
    for line, place in (
        (imported, "from rnn_jax.base import Cell"),
        (exported, "__all__ = ["),
        (entry, "CELLS: dict[str, Callable[..., Cell] | Cell] = {"),
    ):
        assert text.count(f"\n{place}\n") == 1
        text = text.replace(f"\n{place}\n", f"\n{place}\n{line}\n")
    return text


@pytest.mark.slow
def test_the_five_steps_make_a_cell_under_every_law(tmp_path):
    """In a copy of the checkout, with the file names that the page gives."""
    for name in ("rnn_jax", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    (new,) = re.findall(r"Save it as `(rnn_jax/cells/(\w+)\.py)`", PAGE)
    path, name = new
    assert not (tmp_path / path).exists()
    (tmp_path / path).write_text(EQUATIONS)
    cells = tmp_path / "rnn_jax" / "cells" / "__init__.py"
    cells.write_text(registered(cells.read_text()))

    def laws(*options):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        return subprocess.run(
            [*command, "tests/test_contract.py", f"rnn_jax/cells/{name}.py", "-k", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
        ).stdout

    # What the third step says of a cell without a reference.
    assert f"KeyError: '{name}'" in laws("--collect-only")
    family = tmp_path / "tests" / "reference_gated.py"
    family.write_text(f"{family.read_text()}\n\n{REFERENCE}")
    said = laws("--doctest-modules")
    assert re.search(r"\d\d passed, \d+ deselected", said), said
    assert "failed" not in said


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:\w+/)*[\w.]+\.(?:py|md|txt|cfg))`", PAGE)))
)
def test_files_that_it_names_exist(path):
    assert (ROOT / path).exists() or path == "rnn_jax/cells/lstm97.py" or "NAME" in path


def test_its_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    targets = {word for line in lines for word in line.split('"')[0].split()[1:] if "=" not in word}
    assert targets >= {"test", "test-slow", "test-oldest", "test-newest", "lint"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
