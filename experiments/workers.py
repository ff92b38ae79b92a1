"""Long pieces of work side by side, in processes that divide the cores among them.

Not in threads: two threads that run programs at once have been seen to wait for ever for the pool
of XLA's own threads, which they share.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from experiments.rundir import UserError

_T = TypeVar("_T")
Tell = Callable[..., None]
"""Takes how an item goes, in whatever terms the two sides agree on."""


def side_by_side(
    function: Callable[[str, Tell], _T],
    items: Sequence[str],
    tell: Tell,
    *,
    shares: int,
    setup: Callable[[], None],
) -> Generator[tuple[str, _T]]:
    """Each item with ``function(item, tell)``, in the order in which they are finished.

    What a process tells, which is to be picklable like all that passes between them, arrives here
    as ``tell(item, ...)``.

    Args:
      function: of a module, or a partial of one.
      items: what is to be done.
      tell: called in this process.
      shares: into how many the cores are divided. That of an item has always the same size, so
        that programs for it are compiled alike whatever is left to do.
      setup: called first in each process, which then sees no cores but its own.

    Raises:
      UserError: raised by ``function``, or if a process is ended from outside.
      RuntimeError: for any other error of ``function``, with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    left = iter(items)
    with contextlib.ExitStack() as stack:
        connections: list[Any] = []
        for cores in _divided(shares)[: len(items)]:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, cores, setup, function), daemon=True
            )
            with _signals_ignored():  # which it inherits: Ctrl-C is for us, who end it
                process.start()
            stack.callback(process.kill)
            theirs.close()
            ours.send(next(left))
            connections.append(ours)
        while connections:
            ready: list[Any] = wait(connections)
            for connection in ready:
                try:
                    kind, *content = connection.recv()
                except EOFError:
                    raise UserError(
                        "a process was ended from outside (out of memory?);"
                        " the same command resumes"
                    ) from None
                if kind == "told":
                    tell(*content)
                elif kind == "raised":
                    raise content[0]
                else:
                    yield content[0], content[1]
                    item = next(left, None)
                    connection.send(item)
                    if item is None:
                        connections.remove(connection)


def _work(
    connection: Connection,
    cores: set[int],
    setup: Callable[[], None],
    function: Callable[[str, Tell], object],
) -> None:
    """What a process does: items as they come, until there are none."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # For what it makes itself: queues of the context in which it was started, as the writer of
    # event files has one, leave named semaphores behind where a process is killed.
    multiprocessing.set_start_method(None, force=True)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        setup()
        while (item := connection.recv()) is not None:
            result = function(item, lambda *how, item=item: connection.send(("told", item, *how)))
            connection.send(("done", item, result))
    except UserError as error:
        connection.send(("raised", error))
    except Exception:
        connection.send(("raised", RuntimeError(traceback.format_exc())))


def _end_with_parent() -> None:
    """Else the work of a run that was killed would go on beside the one that resumes it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _divided(shares: int) -> list[set[int]]:
    """The cores that we may use in so many parts, or fewer; empty sets where one cannot choose."""
    if not hasattr(os, "sched_getaffinity"):  # Linux only
        return [set() for _ in range(min(shares, os.cpu_count() or 1))]
    cores = sorted(os.sched_getaffinity(0))
    shares = min(shares, len(cores))
    return [set(cores[n::shares]) for n in range(shares)]


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may set them
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
