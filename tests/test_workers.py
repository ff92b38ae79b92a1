"""Pieces of work in processes of their own: what they return, tell and raise, and how they end."""

import functools
import os
import signal

import pytest

from experiments.rundir import UserError
from experiments.workers import side_by_side

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def no_setup():
    pass


def work(item, tell):
    tell(1, f"half of {item}")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    return item.upper(), os.getpid(), cores


def fail(error, item, tell):
    raise error


def be_ended(item, tell):
    os.kill(os.getpid(), signal.SIGKILL)


def ignored(item, tell):
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_every_item_is_done_once_by_processes_that_divide_the_cores():
    told = []
    done = dict(
        side_by_side(work, ["a", "b", "c"], lambda *how: told.append(how), shares=3, setup=no_setup)
    )
    assert {item: result[0] for item, result in done.items()} == {"a": "A", "b": "B", "c": "C"}
    assert sorted(told) == [(item, 1, f"half of {item}") for item in "abc"]
    cores = {process: cores for _, process, cores in done.values()}
    assert os.getpid() not in cores
    assert len(cores) <= min(3, CORES)
    if hasattr(os, "sched_getaffinity"):
        assert sum(map(len, cores.values())) == len(set.union(*cores.values())) <= CORES


def test_the_share_of_an_item_does_not_depend_on_what_is_left():
    """Else a run that goes on would compile programs for more cores, whose last bits differ."""
    ((_, (_, _, cores)),) = side_by_side(work, ["a"], print, shares=CORES, setup=no_setup)
    assert len(cores) == (1 if hasattr(os, "sched_getaffinity") else 0)


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (functools.partial(fail, UserError("what to change")), UserError, "^what to change$"),
        (functools.partial(fail, KeyError("lost")), RuntimeError, "(?s)in fail.*KeyError: 'lost'"),
        (be_ended, UserError, "a process was ended from outside .out of memory"),
    ],
)
def test_what_goes_wrong_there_is_raised_here(function, kind, message):
    with pytest.raises(kind, match=message):
        list(side_by_side(function, ["a", "b"], print, shares=2, setup=no_setup))


def test_signals_for_all_processes_are_left_to_the_first():
    before = signal.getsignal(signal.SIGINT)
    ((_, handlers),) = side_by_side(ignored, ["a"], print, shares=1, setup=no_setup)
    assert handlers == [signal.SIG_IGN] * 2
    assert signal.getsignal(signal.SIGINT) is before
