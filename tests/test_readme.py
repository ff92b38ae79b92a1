"""The README does what it says."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rnn_jax.cells import CELLS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TRAINING = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL
)
DOCS = [
    str(path.relative_to(ROOT))
    for folder in ("docs", "docs/gallery")
    for path in sorted((ROOT / folder).glob("*.md"))
]


def test_example_runs_and_prints_a_norm_that_float32_cannot_hold():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    # A white-noise LSTM with forget bias 1 loses about 0.2 nats per step, over 2000 steps.
    assert -500 < float(printed.getvalue()) < -300


LINKS = re.findall(r"\]\(((?!https:)[^)]+)\)|src=\"([^\"]+)\"|`((?:\w+/)+\w*\.\w+)`", README)


@pytest.mark.parametrize("link", sorted({link for found in LINKS for link in found if link}))
def test_what_it_points_at_exists(link):
    path, _, heading = link.partition("#")
    page = ROOT / (path or "README.md")
    assert page.exists()
    if heading:
        titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        assert heading in [title.lower().replace(" ", "-") for title in titles]


def test_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
    assert commands
    for command in commands:
        assert f"\n{command}:" in makefile


def rows_under(heading, page=README):
    """The cells of the rows of the table under a heading, without its head."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_the_table_of_cells_is_the_registry_with_the_papers_of_its_files():
    rows = rows_under("Cells")
    listed = {}
    for link, _, paper in rows:
        name, path = re.fullmatch(r"\[`(\w+)`\]\((.*)\)", link).groups()
        who, site, reference = re.fullmatch(
            r"\[(.* \d{4})\]\(https://(arxiv.org/abs|doi.org)/(.*)\)", paper
        ).groups()
        source = (ROOT / path).read_text()
        assert f"def {name}(" in source
        assert {"arxiv.org/abs": "arXiv:", "doi.org": "doi:"}[site] + reference in source
        assert who.split()[-1] in source  # the year
        listed[name] = who
    assert set(listed) == set(CELLS)


def test_the_table_of_experiments_is_that_of_their_page():
    page = (ROOT / "experiments/README.md").read_text()
    table = r"^\| \[(\w+)\]\(\.\./docs/gallery/\1\.md\) \| (.*) \|$"
    known = dict(re.findall(table, page, re.MULTILINE))
    configs = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"train", "suggest"}
    rows = rows_under("Experiments")
    assert set(known) == configs == {re.findall(r"`(\w+)`", row[1])[0] for row in rows}
    for _, name, question, minutes in rows:
        (name,) = re.findall(r"`(\w+)`", name)
        assert f"{question} | {minutes}" == known[name]


def test_the_ratios_beside_the_peers_are_those_of_the_page_that_says_how():
    design = (ROOT / "docs/design.md").read_text()
    names, ratios, *_ = (
        line.strip("| ").split(" | ")
        for line in README.split("\n## Beside the peers\n")[1].splitlines()
        if line[:1] == "|" and "---" not in line
    )
    measured = {
        row[0].split()[0]: row[1] for row in rows_under("A training step beside the peers", design)
    }
    assert dict(zip(names, ratios[1:], strict=True)) == {name: measured[name] for name in names}


def test_the_page_that_compares_has_the_same_ratios():
    """Of its two tables the first one; the second leaves a column out."""
    page = (ROOT / "docs/comparison.md").read_text().split("\n| steps |")[0]
    design = (ROOT / "docs/design.md").read_text()
    there = rows_under("Speed", page)
    assert len(there) == 6
    assert there == rows_under("A training step beside the peers", design)[:6]


def test_what_the_page_on_measuring_points_at_exists():
    page = (ROOT / "docs" / "measuring.md").read_text()
    tests = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    names = set(re.findall(r"\btest_\w+", page))
    files = {name for name in names if f"{name}.py" in tests}
    assert len(files) >= 5
    code = "\n".join(tests.values())
    assert not {name for name in names - files if f"def {name}(" not in code}


def run_alone(example):
    """The names of an example of the page on training: whoever copies one has all it needs."""
    names: dict = {}
    exec(compile(example, "training.md", "exec"), names)
    return names


def test_the_model_of_the_page_on_training_runs(plain_jax):
    model, _ = TRAINING
    assert run_alone(model)["logits"].shape == (8, 5)


def test_the_example_of_the_page_on_devices_runs():
    """In a process of its own, since it says how many devices there are."""
    page = (ROOT / "docs" / "many_devices.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    checks = """
alone, expected = jax.value_and_grad(loss)(params, xs)
assert abs(float(value - alone)) < 1e-6
difference = jax.tree.map(lambda a, b: float(abs(a - b).max()), gradient, expected)
assert max(jax.tree.leaves(difference)) < 1e-6
assert norms.shape == (10,) and jax.local_device_count() == 2
"""
    subprocess.run([sys.executable, "-c", example + checks], check=True, cwd=ROOT, timeout=120)


@pytest.mark.slow
def test_the_training_of_the_page_reaches_what_it_says(plain_jax, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, training = TRAINING
    run_alone(training)
    *looks, accuracy = (line.split() for line in capsys.readouterr().out.splitlines())
    assert [step for step, _ in looks] == ["0", "100", "200", "300", "400"]
    assert [float(looks[0][1]), float(looks[-1][1])] == pytest.approx([0.5, 1.0], abs=0.03)
    assert float(accuracy[0]) > 0.97
    assert (tmp_path / "runs" / "mine" / "400").is_dir()


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md", *DOCS])
def test_commands_are_run_by_the_python_that_make_sets_up(page):
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        assert not re.findall(r"(?:^|\s)python .*", block)
