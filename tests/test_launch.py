"""Flags, runs and resuming: clear refusals, and a result that no interruption changes."""

import contextlib
import dataclasses
import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_experiment
from ml_collections import ConfigDict
from toy_experiment import GOOD, RESULTS, ROOT, check_whole, cli, command, computed, files, imported

from experiments import command_line, launch, rundir

home, toy, config = toy_experiment.home, toy_experiment.toy, toy_experiment.config


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
        ([*GOOD, "--config.lengths=(1,2"], ["--config.lengths=(1,2: ", "integers", "10,20"]),
        ([*GOOD, "--config.lengths=5,abc"], ["--config.lengths=5,abc: ", "integers", "10,20"]),
        ([*GOOD, "--config.lengths=5,1.5"], ["--config.lengths=5,1.5: ", "integers", "10,20"]),
        ([*GOOD, "--config.lengths=5,,6"], ["--config.lengths=5,,6: ", "integers", "10,20"]),
        ([*GOOD, "--config.lengths=('a',"], ["--config.lengths=('a',: ", "integers", "10,20"]),
        ([*GOOD, "--config.model.gains=x"], ["--config.model.gains=x: ", "numbers", "0.5,1.0"]),
        ([*GOOD, "--config.cells=it's"], ["--config.cells=it's: ", "strings", "elman,gru"]),
        ([*GOOD, "--config.pairs=(1,"], ["--config.pairs=(1,: ", "tuple"]),
        ([*GOOD, "--config.cells"], ["--config.cells", "Missing value"]),
        ([*GOOD, "--noconfig.cells"], ["--noconfig.cells"]),
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


SHOW_TUPLES = """
import sys
from experiments import command_line
command_line.parse_flags(sys.argv)
config = command_line.FLAGS.config
print(repr([config.cells, config.lengths, config.model.gains, config.pairs]))
"""
DEFAULTS = [("elman", "gru"), (10, 20), (0.5, 1.0), ((1, 2), (3, 4))]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], DEFAULTS),
        (
            ["--config.cells=elman,lstm", "--config.lengths=10,20,50", "--config.model.gains=1,2"],
            [("elman", "lstm"), (10, 20, 50), (1.0, 2.0), ((1, 2), (3, 4))],
        ),
        (
            ["--config.cells=lstm", "--config.lengths", "7", "-config.model.gains=.5"],
            [("lstm",), (7,), (0.5,), ((1, 2), (3, 4))],
        ),
        (
            ["--config.cells=", "--config.lengths=()", "--config.model.gains=[]"],
            [(), (), (), ((1, 2), (3, 4))],
        ),
        (
            [
                "--config.cells=('elman','ls,tm')",
                "--config.lengths=(5,)",
                "--config.pairs=((5,6),)",
            ],
            [("elman", "ls,tm"), (5,), (0.5, 1.0), ((5, 6),)],
        ),
        (
            ["--config.cells='elman', \"it's\"", "--config.lengths=[ 5, 6 ]"],
            [("elman", "it's"), (5, 6), (0.5, 1.0), ((1, 2), (3, 4))],
        ),
        (
            ["--config.cells=(a, b)", "--config.cells=1,2", "--config.lengths=5,"],
            [("1", "2"), (5,), (0.5, 1.0), ((1, 2), (3, 4))],  # the last one counts
        ),
        (["--config.cells=a", "--config=toy_config.py:smoke"], [("a",), *DEFAULTS[1:]]),
    ],
)
def test_tuples_from_the_command_line(home, args, expected):
    done = subprocess.run(
        [sys.executable, "-c", SHOW_TUPLES, *GOOD, *args],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (f"{expected!r}\n", "")


def test_bad_flag_is_answered_before_anything_heavy_loads(home):
    modules = imported(cli(*GOOD, "--config.hiden_size=3", python=["-X", "importtime"]))
    assert "ml_collections" in modules
    assert not modules & {"jax", "pandas", "matplotlib", "rich"}


def test_help_lists_the_flags(home):
    done = cli("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("random walks", "--config", "--workdir", "plot_only"):
        assert text in done.stdout


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.py")))
def test_seeds_that_jax_cannot_tell_apart_are_refused(name, seed):
    config = importlib.import_module(f"configs.{name}").get_config()
    experiment = importlib.import_module(f"experiments.{name}")
    check = experiment.answer if name == "suggest" else experiment.EXPERIMENT.validate
    config.seed = seed
    with pytest.raises(ValueError, match=f"^config.seed must be from 0 to 4294967295, got {seed}$"):
        check(config)


def test_select_variant(config):
    assert launch.select_variant({"default": lambda: config}, "default") is config
    with pytest.raises(
        ValueError, match=r"no variant 'papr', known: default, paper; did you mean 'paper'\?"
    ):
        launch.select_variant({"paper": ConfigDict, "default": ConfigDict}, "papr")


# ----- a run --------------------------------------------------------------------------------------


def test_run_from_the_command_line(home):
    done = cli(*GOOD, "--config.hidden_size=4", "--config.lengths=1,2,3")
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
    # Python reads the last digit too, which pandas 3.0 does not.
    table = pd.read_csv(run / "results.csv", dtype={"end": str})
    assert [float(end) for end in table["end"]] == ends

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


# ----- failing and resuming -----------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (["walk-0"], "the data ended early"),
        (
            ["walk-0", "walk-2"],
            "2 units failed: walk-0, walk-2; the first said: the data ended early",
        ),
    ],
)
def test_user_errors_in_units_are_one_line_when_all_others_are_saved(
    home, toy, config, refused, said
):
    done = cli(*GOOD, env=os.environ | {"TOY_REFUSES": ",".join(refused)})
    assert (done.returncode, done.stderr) == (2, f"toy: {said}\n")
    assert re.search(r"\[0/3\] walk-0: failed after \d+\.\d s", done.stdout)
    assert computed(home) == ["walk-0", "walk-1", "walk-2"]
    assert not (home / "run" / "results.csv").exists()
    launch.run(toy, config, "run")
    assert computed(home) == refused


def test_a_file_in_the_way_of_a_unit_is_the_users(home, toy, config):
    def run_unit(config, unit):
        return {"read": np.frombuffer(Path("toy.py", unit).read_bytes())}

    with pytest.raises(launch.UserError, match=r"walk-0: .*Not a directory: 'toy.py/walk-0'"):
        launch.run(dataclasses.replace(toy, run_unit=run_unit), config, "run")


def started(variables=types.MappingProxyType({})):
    """The toy as a process, for a minute with each unit but the first."""
    # A shell may have started us with Ctrl-C ignored, which a child would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        command(*GOOD),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TOY_SECONDS": "60"} | dict(variables),
    )


@pytest.mark.parametrize("where", ["unit", "callback"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_says_how_to_resume_and_a_running_one_is_left_alone(
    home, toy, config, signum, code, where
):
    with started({"TOY_CALLBACK": ""} if where == "callback" else {}) as child:
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


NO_FILE = "no file 'odd.py', known: (toy.py, toy_config.py|toy_config.py, toy.py); did you .*"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, NO_FILE),
        (os.mkdir, NO_FILE),
        (lambda path: os.symlink(path, path), NO_FILE),
        (lambda path: path.write_bytes(b""), r"get_config\(\) must return a ConfigDict, .*"),
        (lambda path: path.write_bytes(b"\0" * 100), "SyntaxError: source code string .*"),
        (lambda path: path.write_bytes(b"\xff\xfe"), r"SyntaxError: \(unicode error\) .*"),
        (lambda path: path.write_bytes(b"x=" + b"(" * 5000), "SyntaxError: too many nested .*"),
    ],
    ids=["pipe", "folder", "loop", "empty", "NUL", "bytes", "deep"],
)
def test_what_is_no_configuration_file_is_one_line(home, make, said):
    make(home / "odd.py")
    with pytest.raises(launch.UserError) as told:
        command_line.ConfigFile().parse("odd.py")
    assert re.fullmatch(f"--config=odd.py: {said}", str(told.value))


def test_a_signal_that_comes_again_and_again_is_answered_once(home, toy, config):
    """An impatient user, or a scheduler that sends the other one soon after."""
    with started() as child:
        assert "walk-0" in child.stdout.readline()
        for signum in [signal.SIGINT, signal.SIGTERM] * 20:
            child.send_signal(signum)
            time.sleep(0.01)
        _, said = child.communicate(timeout=30)
    assert child.returncode in (130, 143)  # two that come together are delivered in any order
    assert said == "toy: stopped after 1 of 3 units; the same command resumes\n"
    check_whole(home / "run", units=3)
    computed(home)
    launch.run(toy, config, "run")
    assert computed(home) == ["walk-1", "walk-2"]


def test_no_room_is_one_line_and_loses_nothing(home):
    """With a limit on the size of files: every unit fits, all of them in one file do not."""
    args = (*GOOD, "--config.hidden_size=1000")
    limited = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", *command(*args)]
    for begun in (["walk-0", "walk-1", "walk-2"], []):
        done = subprocess.run(limited, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert done.stderr == "toy: cannot write run/arrays.npz: File too large\n"
        assert check_whole(home / "run", units=3) == 3 + 3  # how it was begun, and the table
        assert not list((home / "run").rglob("*.partial"))
        assert computed(home) == begun
    assert cli(*args).returncode == 0
    assert computed(home) == []


def test_a_clock_set_back_changes_nothing(home, toy, config, monkeypatch):
    launch.run(toy, config, "unbroken")
    (home / "run").mkdir()

    class Past(rundir.datetime):
        @classmethod
        def now(cls, zone=None):
            return cls(1980, 1, 1, tzinfo=zone)

    def run_unit(config, unit):
        if unit == "walk-2":
            raise launch.UserError("no more")
        return toy.run_unit(config, unit)

    with pytest.raises(launch.UserError, match="no more"):
        launch.run(dataclasses.replace(toy, run_unit=run_unit), config, "run")
    for folder, _, names in os.walk(home / "run"):  # all of it is from the future
        for name in names:
            os.utime(Path(folder, name), (2**32, 2**32))
    monkeypatch.setattr(rundir, "datetime", Past)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    computed(home)
    launch.run(toy, config, "run")
    assert computed(home) == ["walk-2"]
    assert files(home / "run") == files(home / "unbroken")
    (again,) = json.loads((home / "run/environment.json").read_bytes())["starts"]
    assert again["started"] == "1980-01-01T00:00:00+00:00"


def test_a_reader_that_leaves_stops_the_run_silently(home, toy, config):
    """``... | head -1``: no traceback, the exit status of a broken pipe, and a run to resume."""
    child = subprocess.Popen(command(*GOOD), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with child:
        child.stdout.close()
        said = child.stderr.read()
    assert (child.returncode, said) == (128 + signal.SIGPIPE, b"")
    launch.run(toy, config, "run")


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


# ----- JAX ----------------------------------------------------------------------------------------


PROBE = """
import jax, os, pathlib
from experiments import launch, rundir
launch.CHECKOUT = pathlib.Path("checkout")
launch.configure_jax()
jax.jit(lambda x: x + 1)(1.0)
cached = any(pathlib.Path("checkout/.cache/jax").glob("jit*"))
print(jax.device_count(), jax.config.jax_default_matmul_precision, cached)
"""


@pytest.mark.parametrize(
    ("variables", "devices", "precision", "cached"),
    [
        ({}, None, "highest", True),
        (
            {"JAX_NUM_CPU_DEVICES": "3", "JAX_COMPILATION_CACHE_DIR": "elsewhere"},
            3,
            "highest",
            False,
        ),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4, "highest", True),
        ({"JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32"}, None, "tensorfloat32", True),
    ],
)
def test_configure_jax(home, monkeypatch, variables, devices, precision, cached):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    devices = devices or len(os.sched_getaffinity(0))
    assert done.stdout == f"{devices} {precision} {cached}\n", done.stderr
    assert (home / "elsewhere").exists() == (not cached)


def test_configure_jax_without_a_place_for_its_cache(home, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (home / "checkout").touch()
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split()[1:], done.stderr) == (["highest", "False"], "")
