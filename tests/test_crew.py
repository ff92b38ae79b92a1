"""Two real processes that share a run: the files of one, and one that dies stops the other."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest

from experiments import launch
from experiments.crew import VARIABLES
from tests.toy_experiment import GOOD, cli, command, computed, config, files, home, toy

__all__ = ["config", "home", "toy"]


@pytest.fixture
def start(home):
    """Starts the processes of a run; they are ended with the test."""
    started = []

    def start(*args, environ=({}, {})):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        for index, extra in enumerate(environ):
            known = dict(zip(VARIABLES, (address, str(len(environ)), str(index)), strict=True))
            process = subprocess.Popen(
                command(*GOOD, "--distributed", *args),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | known | extra,
            )
            started.append(process)
        return started[-len(environ) :]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def below(process):
    """The process that it supervises."""
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        return int(file.read().split()[0])


def test_two_processes_leave_the_files_of_one(home, toy, config, start):
    first, second = map(ended, start())
    assert (first[0], first[2]) == (second[0], second[2]) == (0, "")
    assert "[3/3] walk-1: computed by another process" in first[1]
    assert "[1/3] walk-1" in second[1]
    assert "process 0 of 2 writes the report" in second[1]
    assert sorted(computed(home)) == ["walk-0", "walk-1", "walk-2"]
    launch.run(toy, config, "alone")
    assert files(home / "run") == files(home / "alone")


def test_a_damaged_unit_of_another_process_is_waited_for(home, toy, config, start):
    launch.run(toy, config, "run")
    whole = files(home / "run")
    (home / "run/units/walk-1.npz").write_bytes(b"PK damaged")
    computed(home)
    both = start(environ=({}, {"TOY_SECONDS": "2"}))  # the first is there before the second is done
    assert [code for code, *_ in map(ended, both)] == [0, 0]
    assert computed(home) == ["walk-1"]
    assert files(home / "run") == whole


@pytest.mark.slow
@pytest.mark.parametrize(("how", "victim"), [("killed", 0), ("killed", 1), ("refuses", 1)])
def test_one_that_ends_stops_the_other_and_the_run_resumes(home, toy, config, start, victim, how):
    """One is killed, or has an error of the user's, while the other has long to go."""
    index = {0: 2, 1: 1}[victim]
    refuses = {"TOY_REFUSES": f"walk-{index}"} if how == "refuses" else {}
    slow = {"TOY_SECONDS": "300"}
    both = start(environ=[refuses if n == victim and refuses else slow for n in (0, 1)])
    if how == "killed":
        log = home / "log"
        while not log.exists() or f"walk-{index}" not in log.read_text():
            time.sleep(0.1)
        os.kill(below(both[victim]), signal.SIGKILL)
        said = "ended by SIGKILL"
    else:
        said = "the data ended early"
    code, _, errors = ended(both[victim])
    assert (code, errors.splitlines()[-1].startswith(f"toy: {said}")) == (2, True)
    code, _, errors = ended(both[1 - victim])
    assert code == 2
    assert errors.splitlines()[-1] == (
        "toy: another process of this run has ended; the same commands resume"
    )
    assert [code for code, *_ in map(ended, start())] == [0, 0]
    launch.run(toy, config, "alone")
    assert files(home / "run") == files(home / "alone")


@pytest.mark.slow
def test_stopped_together_they_resume(home, toy, config, start):
    both = start(environ=[{"TOY_SECONDS": "300"}] * 2)
    log = home / "log"
    while not log.exists() or not {"walk-1", "walk-2"} <= set(log.read_text().split()):
        time.sleep(0.1)
    for process in both:
        for pid in (process.pid, below(process)):  # as a scheduler does
            os.kill(pid, signal.SIGTERM)
    for process, stopped in zip(both, (1, 0), strict=True):
        code, _, errors = ended(process)
        assert code == 143
        assert errors == f"toy: stopped after {stopped} of 3 units; the same command resumes\n"
    assert [code for code, *_ in map(ended, start())] == [0, 0]


@pytest.mark.parametrize(
    ("args", "environ", "said"),
    [
        (
            [],
            {},
            r"--distributed: .*set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID",
        ),
        ([], {"JAX_NUM_PROCESSES": "two"}, r"--distributed: .*'two'"),
        (["--plot_only"], {}, "--plot_only: one process is enough, without --distributed"),
    ],
)
def test_what_is_missing_is_said(home, args, environ, said):
    done = cli(*GOOD, "--distributed", *args, env=os.environ | environ)
    assert done.returncode == 2
    assert done.stderr.startswith("toy: ")
    assert done.stderr.count("\n") == 1
    assert re.search(said, done.stderr)
    assert not (home / "run").exists()
