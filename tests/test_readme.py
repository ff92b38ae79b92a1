"""The README does what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_example_runs_and_prints_a_norm_that_float32_cannot_hold():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    # A white-noise LSTM with forget bias 1 loses about 0.2 nats per step, over 2000 steps.
    assert -500 < float(printed.getvalue()) < -300


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)]+)\)|`((?:\w+/)+\w*\.\w+)`", README))
def test_files_that_it_names_exist(path):
    (name,) = filter(None, path)
    assert (ROOT / name).exists()


def test_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
    assert commands
    for command in commands:
        assert f"\n{command}:" in makefile


def test_what_the_page_on_measuring_points_at_exists():
    page = (ROOT / "docs" / "measuring.md").read_text()
    tests = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    names = set(re.findall(r"\btest_\w+", page))
    files = {name for name in names if f"{name}.py" in tests}
    assert len(files) >= 5
    code = "\n".join(tests.values())
    assert not {name for name in names - files if f"def {name}(" not in code}


def test_the_examples_of_the_page_on_training_run(plain_jax, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    page = (ROOT / "docs" / "training.md").read_text()
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(example, "training.md", "exec"), names)
    assert names["logits"].shape == (8, 5)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "50", "100"]
    assert (tmp_path / "runs" / "mine" / "100").is_dir()
