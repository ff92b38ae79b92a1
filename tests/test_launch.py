"""The command line and the run directory: clear refusals, whole files, and resuming bit for bit."""

import contextlib
import importlib.util
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
import zipfile
from datetime import datetime
from pathlib import Path

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from experiments import launch, rundir

ROOT = Path(__file__).resolve().parent.parent

TOY = '''
"""A toy experiment for the tests: random walks."""
import os, time
import numpy as np
from experiments import launch


def validate(config):
    if config.hidden_size < 1:
        raise ValueError(
            f"config.hidden_size: expected a positive integer, got {config.hidden_size}"
        )


def units(config):
    if config.data is not None:
        open(config.data).close()
    return [f"walk-{i}" for i in range(config.count)]


def run_unit(config, unit):
    with open(os.environ["TOY_LOG"], "a") as log:
        log.write(unit + "\\n")
    index = int(unit.removeprefix("walk-"))
    if index > 0:
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    if unit == os.environ.get("TOY_FAILS"):
        raise ZeroDivisionError("a bug")
    if unit == os.environ.get("TOY_REFUSES"):
        raise launch.UserError("the data\\nended early")
    steps = np.random.default_rng([config.seed, index]).standard_normal((3, config.hidden_size))
    return {"walk": steps.cumsum(axis=1), "seed": np.arange(3)}


def report(config, results):
    import pandas as pd
    from matplotlib.figure import Figure

    table = pd.DataFrame(
        [
            {"unit": unit, "seed": seed, "end": end}
            for unit, arrays in results.items()
            for seed, end in zip(arrays["seed"], arrays["walk"][:, -1])
        ]
    )

    def walks():
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for unit, arrays in results.items():
            axes.plot(arrays["walk"].T)
        return figure

    summary = table.groupby("unit", as_index=False)["end"].mean()
    return launch.Report(table, summary, {"walks": walks}, ["A note [in brackets]."])


EXPERIMENT = launch.Experiment("toy", validate, units, run_unit, report)
if __name__ == "__main__":
    launch.main(EXPERIMENT)
'''

CONFIG = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from experiments.launch import select_variant


def default():
    return ConfigDict({
        "hidden_size": 8, "count": 3, "seed": 5, "gain": 1.0, "bias": True, "lengths": (10, 20),
        "names": ["a"], "data": placeholder(str), "model": {"depth": 2},
    })


def smoke():
    config = default()
    config.count = 2
    return config


def get_config(variant="default"):
    return select_variant({"default": default, "smoke": smoke}, variant)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the toy and its config, in which this process and its children run."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "toy_config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy(home):
    return load(home / "toy.py").EXPERIMENT


@pytest.fixture
def config(home):
    return load(home / "toy_config.py").get_config()


def command(*args, python=()):
    return [sys.executable, *python, "-m", "toy", *args]


def cli(*args, python=(), **options):
    return subprocess.run(
        command(*args, python=python), capture_output=True, text=True, timeout=120, **options
    )


def computed(home):
    """The units computed since the last call."""
    log = home / "log"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def files(folder):
    """{name: bytes} of everything a run leaves, but for what tells one start from another."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "environment.json")
    }


RESULTS = {
    "config.json", "results.csv", "arrays.npz", "summary.md", "figures/walks.png",
    "figures/walks.svg", "units/walk-0.npz", "units/walk-1.npz", "units/walk-2.npz",
}  # fmt: skip


def check_whole(folder, units):
    """Every file that does not bear a temporary name is complete; returns how many there are."""
    whole = 0
    for path in folder.rglob("*"):
        if path.is_dir() or path.name == ".lock" or re.fullmatch(r"\..+\.partial", path.name):
            continue
        whole += 1
        if path.suffix == ".json":
            assert isinstance(json.loads(path.read_bytes()), dict)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                per_unit = len({name: arrays[name] for name in arrays.files})
            assert per_unit == (2 * units if path.name == "arrays.npz" else 2)
        elif path.suffix == ".csv":
            assert pd.read_csv(path).shape == (3 * units, 3)
            assert path.read_bytes().endswith(b"\n")
        elif path.suffix == ".png":
            assert path.read_bytes()[-8:-4] == b"IEND"
        elif path.suffix == ".svg":
            xml.etree.ElementTree.parse(path)
        else:
            assert path.name == "summary.md"
            assert path.read_text().endswith("(figures/walks.png)\n")
    return whole


# ----- flags ------------------------------------------------------------------------------------

GOOD = ("--config=toy_config.py", "--workdir=run")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([*GOOD, "--config.hiden_size=3"], ["--config.hiden_size=3", "mean 'hidden_size'"]),
        ([*GOOD, "--config.model.dept=3"], ["--config.model.dept=3", "mean 'depth'"]),
        ([*GOOD, "--config.gain.depth=3"], ["--config.gain.depth=3", "'depth'", "hidden_size"]),
        ([*GOOD, "--config.model=3"], ["--config.model=3", "depth"]),
        ([*GOOD, "--noconfig.bia"], ["--noconfig.bia", "mean 'bias'"]),
        ([*GOOD, "--config.hidden_size=abc"], ["--config.hidden_size=abc", "int", "8"]),
        ([*GOOD, "--config.hidden_size=1.5"], ["--config.hidden_size=1.5", "int", "8"]),
        ([*GOOD, "--config.gain=high"], ["--config.gain=high", "float", "1.0"]),
        ([*GOOD, "--config.bias=maybe"], ["--config.bias=maybe", "bool", "True"]),
        ([*GOOD, "--config.lengths=(1,2"], ["--config.lengths=(1,2", "tuple", "[10, 20]"]),
        ([*GOOD, "--config.names=b"], ["config.names", "list", "not supported"]),
        ([*GOOD, "--config.hidden_size"], ["--config.hidden_size", "Missing value"]),
        ([*GOOD, "--config.hidden_size=-1"], ["config.hidden_size", "positive", "-1"]),
        ([*GOOD, "--config.data=absent.txt"], ["absent.txt", "No such file"]),
        ([*GOOD, "--wrkdir=x"], ["--wrkdir", "mean 'workdir'"]),
        ([*GOOD, "--hidden_size=3"], ["--hidden_size", "mean 'config.hidden_size'"]),
        ([*GOOD, "more"], ["'more'", "--FLAG=VALUE"]),
        ([*GOOD, "--flagfile=absent"], ["flagfile", "absent"]),
        (["--config=toy_config.py"], ["--workdir is missing", "--workdir=DIRECTORY"]),
        (["--config=toy_config.py", "--workdir="], ["--workdir is missing"]),
        (["--workdir=run"], ["--config is missing", "--config=FILE.py"]),
        (["--workdir=run", "--config.gain=3"], ["--config.gain", "no --config=FILE.py"]),
        (["--config.gain=3", *GOOD], ["--config.gain=3", "before"]),
        (["--config=toy_config.py:smoek", "--workdir=run"], ["'smoek'", "mean 'smoke'", "default"]),
        (["--config=toy_confg.py", "--workdir=run"], ["toy_confg.py", "mean 'toy_config.py'"]),
        (["--config=broken.py", "--workdir=run"], ["NameError", "'nothing'", "broken.py, line 2"]),
        (["--config=toy.py", "--workdir=run"], ["get_config", "ConfigDict", "NoneType"]),
        ([*GOOD, "--plot_only"], ["--workdir=run", "no run to plot"]),
        (["--config=toy_config.py", "--workdir=toy.py"], ["--workdir=toy.py", "Not a directory"]),
        (["--config=toy_config.py", "--workdir=toy.py/x"], ["toy.py/x", "Not a directory"]),
        (["--config=toy_config.py", "--workdir=/proc/x"], ["--workdir=/proc/x", "cannot write"]),
        (["--config=toy_config.py", "--workdir=."], ["--workdir=.", "neither empty nor a run"]),
    ],
)
def test_what_the_user_got_wrong_ends_in_one_line(home, args, words):
    (home / "broken.py").write_text("def get_config():\n    return nothing\n")
    before = files(home)
    done = cli(*args)
    assert done.returncode == 2
    assert re.fullmatch(r"toy: [^\n]+\n", done.stderr)
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""
    assert files(home) == before
    assert not (home / "run").exists()


def imported(done):
    """The modules imported by a process run with -X importtime."""
    return set(re.findall(r"\| +(\w[\w.]*)$", done.stderr, re.MULTILINE))


def test_bad_flag_is_answered_before_anything_heavy_loads(home):
    modules = imported(cli(*GOOD, "--config.hiden_size=3", python=["-X", "importtime"]))
    assert "ml_collections" in modules
    assert not modules & {"jax", "pandas", "matplotlib", "rich"}


def test_help_lists_the_flags(home):
    done = cli("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("random walks", "--config", "--workdir", "plot_only"):
        assert text in done.stdout


def test_select_variant(config):
    assert launch.select_variant({"default": lambda: config}, "default") is config
    with pytest.raises(
        ValueError, match=r"no variant 'papr'; did you mean 'paper'\? .*: default, p"
    ):
        launch.select_variant({"paper": ConfigDict, "default": ConfigDict}, "papr")


# ----- a run ------------------------------------------------------------------------------------


def test_run_from_the_command_line(home):
    done = cli(*GOOD, "--config.hidden_size=4", "--config.lengths=(1,2,3)")
    assert (done.returncode, done.stderr) == (0, "")
    run = home / "run"
    assert set(files(run)) == RESULTS
    assert check_whole(run, units=3) == len(RESULTS) + 1

    saved = json.loads((run / "config.json").read_bytes())
    assert (saved["hidden_size"], saved["lengths"], saved["data"]) == (4, [1, 2, 3], None)
    assert list(saved) == sorted(saved)
    with np.load(run / "arrays.npz") as arrays:
        assert arrays["walk-2/walk"].shape == (3, 4)
        ends = [end for unit in range(3) for end in arrays[f"walk-{unit}/walk"][:, -1]]
    np.testing.assert_array_equal(pd.read_csv(run / "results.csv")["end"], ends)

    environment = json.loads((run / "environment.json").read_bytes())
    assert environment["experiment"] == "toy"
    assert environment["seed"] == 5
    assert environment["command"][-4:-2] == list(GOOD)
    assert environment["versions"]["numpy"] == np.__version__
    assert {"jax", "jaxlib", "flax", "optax"} <= set(environment["versions"])
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["devices"] == ["cpu: cpu"] * len(os.sched_getaffinity(0))
    assert environment["matmul_precision"] == "highest"
    assert environment["x64"] is False
    assert environment["cpu"]
    assert environment["cpu_count"] == os.cpu_count()
    assert datetime.fromisoformat(environment["started"]).utcoffset().total_seconds() == 0
    assert environment["starts"] == []

    lines = done.stdout.splitlines()
    for number in range(3):
        assert re.fullmatch(rf"\[{number + 1}/3\] walk-{number}: \d+\.\d s", lines[number])
    assert lines[3:5] == ["| unit   | end     |", "|--------|---------|"]
    assert lines[8] == "A note [in brackets]."
    assert re.match(r"Computed 3 units in \d+\.\d s", lines[9])
    assert lines[10] == "Figures: run/figures"
    summary = (run / "summary.md").read_text().splitlines()
    assert summary[:3] == ["# toy", "", lines[3]]
    assert "- A note [in brackets]." in summary


def test_terminal_shows_a_bar_and_a_table(home):
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "120", "TOY_SECONDS": "0.5"}
    with subprocess.Popen(command(*GOOD), stdout=theirs, stderr=subprocess.PIPE, env=env) as child:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a pty says that the other end is closed
            while chunk := os.read(ours, 4096):
                shown += chunk
        assert (child.wait(), child.stderr.read()) == (0, b"")
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    for pattern in (r"1/3 .*elapsed, .*left, walk-1", r"3/3 ━+ 0:00:0", r"┃ unit +┃", r"note \[in"):
        assert re.search(pattern, text)
    assert "[1/3]" not in text


def test_finished_run_computes_nothing_and_redraws(home, toy, config, capsys):
    launch.run(toy, config, "run")
    first = files(home / "run")
    assert computed(home) == ["walk-0", "walk-1", "walk-2"]
    (home / "run/figures/walks.svg").unlink()
    (home / "run/results.csv").write_text("spoilt")
    capsys.readouterr()
    launch.run(toy, config, "run")
    assert computed(home) == []
    assert files(home / "run") == first
    assert "All 3 units were there before: nothing computed" in capsys.readouterr().out


def test_environment_keeps_the_first_start_and_appends_the_others(home, toy, config):
    launch.run(toy, config, "run")
    path = home / "run/environment.json"
    first = json.loads(path.read_bytes())
    moved = first | {"python": "3.0"}
    path.write_text(json.dumps(moved))
    launch.run(toy, config, "run")
    launch.run(toy, config, "run")
    record = json.loads(path.read_bytes())
    starts = record.pop("starts")
    assert record | {"starts": []} == moved
    assert [start["python"] for start in starts] == [first["python"]] * 2
    assert all(datetime.fromisoformat(start["started"]) for start in starts)


def test_plot_only_redraws_without_units_or_jax(home, toy, config):
    launch.run(toy, config, "run")
    first = files(home / "run")
    computed(home)
    (home / "run/figures/walks.png").unlink()
    (home / "run/summary.md").unlink()
    done = cli(*GOOD, "--plot_only", python=["-X", "importtime"])
    assert done.returncode == 0
    assert "matplotlib" in imported(done)
    assert "jax" not in imported(done)
    assert computed(home) == []
    assert files(home / "run") == first


@pytest.mark.parametrize("leave", [0, 2])
def test_plot_only_needs_every_unit(home, toy, config, leave):
    launch.run(toy, config, "run")
    for unit in list((home / "run/units").iterdir())[leave:]:
        unit.unlink()
    before = files(home / "run")
    computed(home)
    with pytest.raises(launch.UserError, match=f"--plot_only: only {leave} of 3 units"):
        launch.run(toy, config, "run", plot_only=True)
    assert computed(home) == []
    assert files(home / "run") == before


def test_plot_only_makes_no_run_of_an_empty_directory(home, toy, config):
    (home / "run").mkdir()
    with pytest.raises(launch.UserError, match="no run to plot"):
        launch.run(toy, config, "run", plot_only=True)
    assert list((home / "run").iterdir()) == []


# ----- failing and resuming ---------------------------------------------------------------------


def test_bug_in_a_unit_shows_its_traceback_and_keeps_the_finished_units(home, toy, config):
    done = cli(*GOOD, env=os.environ | {"TOY_FAILS": "walk-1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a bug" in done.stderr
    assert computed(home) == ["walk-0", "walk-1"]
    launch.run(toy, config, "run")
    assert computed(home) == ["walk-1", "walk-2"]
    launch.run(toy, config, "unbroken")
    assert files(home / "run") == files(home / "unbroken")


def test_user_error_in_a_unit_is_one_line(home):
    done = cli(*GOOD, env=os.environ | {"TOY_REFUSES": "walk-1"})
    assert (done.returncode, done.stderr) == (2, "toy: the data ended early\n")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_says_how_to_resume_and_a_running_one_is_left_alone(
    home, toy, config, signum, code
):
    # A shell may have started us with Ctrl-C ignored, which a child would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(
        command(*GOOD),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TOY_SECONDS": "60"},
    )
    with child:
        assert "walk-0" in child.stdout.readline()
        with pytest.raises(launch.UserError, match="--workdir=run: in use by another process"):
            launch.run(toy, config, "run")
        child.send_signal(signum)
        _, said = child.communicate(timeout=30)
    assert child.returncode == code
    assert said == "toy: stopped after 1 of 3 units; the same command resumes\n"
    computed(home)
    launch.run(toy, config, "run")
    assert computed(home) == ["walk-1", "walk-2"]


class Killed(BaseException):
    """Stands for the end of the process: nothing is cleaned up after it."""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_at_every_single_write(home, toy, config, monkeypatch, call):
    launch.run(toy, config, "unbroken")
    unbroken = files(home / "unbroken")
    real, unlink = getattr(os, call), Path.unlink
    for kills in range(100):
        left = kills

        def kill(*args):
            nonlocal left
            left -= 1
            if left < 0:
                monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)
                raise Killed
            return real(*args)

        folder = home / f"run{kills}"
        monkeypatch.setattr(os, call, kill)
        try:
            launch.run(toy, config, folder)
            break
        except Killed:
            monkeypatch.setattr(os, call, real)
            monkeypatch.setattr(Path, "unlink", unlink)
        assert len(list(folder.rglob("*.partial"))) == 1
        assert check_whole(folder, units=3) == kills
        launch.run(toy, config, folder)
        assert files(folder) == unbroken
    assert kills == len(RESULTS) + 1  # those and environment.json


@pytest.mark.slow
def test_killed_ten_times_it_ends_like_an_unbroken_run(home):
    env = os.environ | {"TOY_SECONDS": "0.3"}
    args = ("--config=toy_config.py", "--config.count=10", "--config.hidden_size=20000")
    start = time.monotonic()
    assert cli(*args, "--workdir=unbroken", env=env).returncode == 0
    duration = time.monotonic() - start
    rng = random.Random(0)
    kills = 0
    run = home / "run"
    while kills < 10:
        with subprocess.Popen(
            command(*args, "--workdir=run"), stdout=subprocess.DEVNULL, env=env
        ) as child:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # Short lives first, so that there is still something to compute at the last ones.
                child.wait(timeout=rng.uniform(0, 0.2 + 0.1 * kills) * duration)
            child.kill()
        assert child.returncode in (0, -signal.SIGKILL)
        kills += child.returncode != 0
        check_whole(run, units=10)
    assert cli(*args, "--workdir=run", env=env).returncode == 0
    assert len(files(run)) == 10 + 6
    assert files(run) == files(home / "unbroken")
    assert len(computed(home)) > 20  # some units were begun more than once: killed midway


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "truncated": lambda data: data[:-1],
    "text": lambda data: b"not an archive",
    # A bit of an array's contents: the archive's checksum tells.
    "flipped": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_unit_is_computed_again(home, toy, config, capsys, damage):
    launch.run(toy, config, "run")
    first = files(home / "run")
    path = home / "run/units/walk-1.npz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    computed(home)
    capsys.readouterr()
    launch.run(toy, config, "run")
    assert computed(home) == ["walk-1"]
    assert files(home / "run") == first
    notice = capsys.readouterr().out.splitlines()[0]
    assert notice.startswith("run/units/walk-1.npz: cannot be read")


def test_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    rundir.write_file(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(launch.UserError, match=r"results.csv: No space left on device"):
        rundir.write_file(path, b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


# ----- which directories are taken --------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hidden_size", 9, "config.hidden_size = 8, but now config.hidden_size = 9"),
        ("lengths", (10, 30), r"config.lengths = \[10, 20\], but now config.lengths = \[10, 30\]"),
        ("data", "toy.py", 'config.data = null, but now config.data = "toy.py"'),
        (
            "model",
            ConfigDict({"depth": 3}),
            "config.model.depth = 2, but now config.model.depth = 3",
        ),
        ("extra", 1, "config.extra = absent, but now config.extra = 1"),
    ],
)
def test_another_config_is_refused(home, toy, config, field, value, words):
    launch.run(toy, config, "run")
    before = files(home / "run")
    config[field] = value
    with pytest.raises(launch.UserError, match=f"--workdir=run: made with {words}"):
        launch.run(toy, config, "run")
    assert files(home / "run") == before


def test_another_experiment_is_refused(home, toy, config):
    launch.run(toy, config, "run")
    other = launch.Experiment("other", toy.validate, toy.units, toy.run_unit, toy.report)
    with pytest.raises(launch.UserError, match='experiment = "toy", but now experiment = "other"'):
        launch.run(other, config, "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_directory_is_refused(home, toy, config):
    (home / "run").mkdir(mode=0o500)
    with pytest.raises(launch.UserError, match="--workdir=run: cannot write there"):
        launch.run(toy, config, "run")


def test_leftovers_are_removed_and_what_is_not_ours_is_kept(home, toy, config):
    launch.run(toy, config, "run")
    first = files(home / "run")
    stale = [".results.csv.partial", "units/.walk-1.npz.partial", "figures/.walks.svg.partial"]
    kept = ["notes.txt", "own.partial", "units/walk-9.npz"]
    for name in stale + kept:
        (home / "run" / name).write_text("?")
    launch.run(toy, config, "run")
    assert set(files(home / "run")) == set(first) | set(kept)


def test_start_killed_at_once_leaves_a_usable_directory(home, toy, config):
    (home / "run").mkdir()
    (home / "run/.lock").touch()
    (home / "run/.config.json.partial").write_text("{")
    launch.run(toy, config, "run")
    assert set(files(home / "run")) == RESULTS


@pytest.mark.parametrize(
    "names", [[], ["a", "a"], ["a", "A"], ["a/b"], [".."], [".a"], ["a b"], [""], ["a" * 201]]
)
def test_unit_names_must_be_unique_file_names(home, toy, config, names):
    odd = launch.Experiment("toy", toy.validate, lambda config: names, toy.run_unit, toy.report)
    with pytest.raises(launch.UserError, match="units: expected one or more unique file names"):
        launch.run(odd, config, "run")
    assert not (home / "run").exists()


# ----- files ------------------------------------------------------------------------------------


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))
        )
    rundir.write_file(tmp_path / "new" / "file", b"data")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "new" / "file").read_bytes() == b"data"


def test_json_depends_on_the_values_alone():
    data = rundir.json_bytes({"b": {"d": None, "c": (1, 2.5)}, "a": True})
    assert data == rundir.json_bytes({"a": True, "b": {"c": [1, 2.5], "d": None}})
    assert json.loads(data) == {"a": True, "b": {"c": [1, 2.5], "d": None}}


def test_npz_depends_on_the_arrays_alone(tmp_path):
    arrays = {"file": np.arange(3), "allow_pickle": np.float32(2), "a/b": np.array(["x", "yz"])}
    data = rundir.npz_bytes(arrays)
    (tmp_path / "x.npz").write_bytes(data)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as loaded:
        assert set(loaded.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array, strict=True)
        assert rundir.npz_bytes({name: loaded[name] for name in loaded.files}) == data
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("dtype", [object, ml_dtypes.bfloat16])
def test_npz_rejects_what_would_not_come_back(dtype):
    with pytest.raises(TypeError, match=r"array 'norm': cannot save (object|bfloat16)"):
        rundir.npz_bytes({"norm": np.zeros(2, dtype)})


# ----- the machine ------------------------------------------------------------------------------


def test_git_state(tmp_path):
    def git(*args):
        subprocess.run(["git", *args], cwd=tmp_path, check=True, capture_output=True)

    assert rundir.git_state(tmp_path) is None
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("-c", "user.name=x", "-c", "user.email=x@y", "commit", "-m", "first")
    clean = rundir.git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["revision"])
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert rundir.git_state(tmp_path) == clean | {"dirty": True}
    (tmp_path / "folder").mkdir()
    assert rundir.git_state(tmp_path / "folder") is None


def test_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    assert rundir.git_state(tmp_path) is None  # no repository after all
    monkeypatch.setenv("PATH", "")
    assert rundir.git_state(ROOT) is None


PROBE = """
import jax, os, pathlib
from experiments import launch
launch.CHECKOUT = pathlib.Path("checkout")
launch.configure_jax()
jax.jit(lambda x: x + 1)(1.0)
cached = any(pathlib.Path("checkout/.cache/jax").glob("jit*"))
print(jax.device_count(), jax.config.jax_default_matmul_precision, cached)
"""


@pytest.mark.parametrize(
    ("variables", "devices", "cached"),
    [
        ({}, None, True),
        ({"JAX_NUM_CPU_DEVICES": "3", "JAX_COMPILATION_CACHE_DIR": "elsewhere"}, 3, False),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4, True),
    ],
)
def test_configure_jax(home, monkeypatch, variables, devices, cached):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    devices = devices or len(os.sched_getaffinity(0))
    assert done.stdout == f"{devices} highest {cached}\n", done.stderr
    assert (home / "elsewhere").exists() == (not cached)


def test_configure_jax_without_a_place_for_its_cache(home, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (home / "checkout").touch()
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split()[1:], done.stderr) == (["highest", "False"], "")
