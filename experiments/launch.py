"""Runs an experiment from the command line, unit by unit, into a run directory.

    python -m experiments.NAME --config=configs/NAME.py[:variant] --workdir=runs/NAME

Any field of the config can be set: --config.hidden_size=128. Whatever the user got wrong ends in
one line and exit code 2, before anything is compiled or written. A killed run started again with
the same command does what is missing.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from absl import app, logging
from ml_collections import ConfigDict  # type: ignore[import-untyped]

from experiments import stopping
from experiments.command_line import FLAGS, OWN_FLAGS, parse_flags, select_variant
from experiments.crew import ALONE, Crew, join, supervise
from experiments.results import Report, Results, show_report, write_report
from experiments.rundir import (
    CHECKOUT,
    Arrays,
    RunDir,
    UserError,
    check_sources,
    join_run,
    open_run,
    unit_names,
)
from experiments.workers import side_by_side

__all__ = [
    "Command",
    "Desk",
    "Experiment",
    "Report",
    "UserError",
    "configure_jax",
    "main",
    "run",
    "select_variant",
]

_LOOK = 0.2  # seconds between looks for what other processes have finished
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Desk:
    """What a long unit works with beside its config."""

    folder: Path
    """Its own, made if need be; what it leaves there it finds again after an interruption."""
    tell: Callable[[int, int, str], None]
    """(steps done, of how many, how it goes): shown under the progress of the units."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A sweep as a record of pure functions of its config."""

    name: str
    validate: Callable[[ConfigDict], None]
    """Raises a ValueError of one line: the field, what came and what was expected."""
    units: Callable[[ConfigDict], Sequence[str]]
    """Names of the pieces of work, in order; each becomes a file name."""
    run_unit: Callable[..., Arrays]
    """(config, unit) -> the raw arrays of one unit, the same at every call."""
    report: Callable[[ConfigDict, Results], Report]
    """What the arrays of all units, as read back from the run directory, amount to."""
    prepare: Callable[[ConfigDict], object] | None = None
    """Reads what units need, such as the user's files, before the run directory is made; raises as
    `validate` does. Not for --plot_only."""
    sources: Callable[[ConfigDict], Mapping[str, str]] | None = None
    """The digests of what results depend on beside the config, such as the user's files, by names
    for the user: a run is resumed with those it began with alone. Called after `prepare`."""
    has_desk: bool = False
    """Whether units are long: `run_unit` takes a third argument, a `Desk`, and on CPUs as many
    units as there are cores are computed at once, by processes, so it is a function of a module."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What answers at once: it has no run directory of its own."""

    name: str
    answer: Callable[..., None]
    """Given the values of its flags, prints; raises a ValueError of one line for what is wrong."""
    flags: tuple[str, ...] = ("config",)
    """Which of the flags that are defined here it has."""
    uses_jax: bool = True


def main(experiment: Experiment | Command) -> NoReturn:
    """Runs `experiment` as its flags say and exits.

    The exit code is 0, 2 for what the user can put right, 130 or 143 when stopped by Ctrl-C or
    SIGTERM, and 1 with a traceback for anything else.
    """
    crew = ALONE

    def start(argv: Sequence[str]) -> None:
        del argv
        nonlocal crew
        if isinstance(experiment, Command):
            if experiment.uses_jax:
                configure_jax()
            _blame_user(experiment.answer, *(FLAGS[name].value for name in experiment.flags))
        else:
            if FLAGS.distributed:
                if FLAGS.plot_only:
                    raise UserError("--plot_only: one process is enough, without --distributed")
                supervise()
            if not FLAGS.plot_only:
                configure_jax()
            if FLAGS.distributed:
                crew = join()
            run(experiment, FLAGS.config, FLAGS.workdir, plot_only=FLAGS.plot_only, crew=crew)
        sys.stdout.flush()  # here, where a reader that has gone is still caught

    _show_warnings(experiment.name)
    stopping.listen()
    code, message = 0, ""
    try:
        own = experiment.flags if isinstance(experiment, Command) else OWN_FLAGS
        app.run(start, flags_parser=functools.partial(parse_flags, own=own))
    except UserError as error:
        code, message = 2, str(error)
    except BrokenPipeError:  # whoever reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        stopping.ignore()
        signum = signal.SIGTERM if isinstance(stop, stopping.Terminated) else signal.SIGINT
        resumes = "" if isinstance(experiment, Command) else "; the same command resumes"
        code, message = 128 + signum, str(stop) or f"stopped{resumes}"
    except Exception:
        if crew.count == 1:
            raise
        traceback.print_exc()
        code = 1
    if message:
        print(f"{experiment.name}: {' '.join(message.split())}", file=sys.stderr)
    if crew.count > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at once: at an orderly end JAX waits for all to come to theirs
    sys.exit(code)


def run(
    experiment: Experiment,
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    plot_only: bool = False,
    crew: Crew = ALONE,
) -> Report | None:
    """Computes the units that `workdir` lacks, then writes and shows the report.

    Args:
      experiment: what to run.
      config: its config; a directory made with another one is refused.
      workdir: the run directory, made if it is not there.
      plot_only: compute nothing; a missing unit is an error.
      crew: the processes that share the units.

    Returns:
      The report, as written to the directory; None where another process writes it.

    Raises:
      UserError: an invalid config or an unusable directory.
      KeyboardInterrupt: with the line to show, when interrupted.
    """
    _blame_user(experiment.validate, config)
    units = _blame_user(lambda config: unit_names(experiment.units(config)), config)
    if experiment.prepare and not plot_only:
        _blame_user(experiment.prepare, config)
    sources: Mapping[str, str] = {}
    if experiment.sources and not plot_only:
        sources = _blame_user(experiment.sources, config)
    with _opened(experiment, config, Path(workdir), sources, not plot_only, crew) as rundir:
        results: dict[str, Arrays] = {}
        for unit in units:
            arrays = rundir.load_unit(unit)
            if arrays is not None:
                results[unit] = arrays
        kept = len(results)
        if plot_only and kept < len(units):
            raise UserError(
                f"--plot_only: only {kept} of {len(units)} units are finished;"
                " the same command without it computes the others"
            )
        try:
            if not plot_only and crew.leads:
                rundir.record_start(experiment.name, config.get("seed"), len(units))
            start = time.perf_counter()
            _compute(experiment, config, rundir, units, results, crew)
            seconds = time.perf_counter() - start
            if not crew.leads:
                print(
                    f"This process has done its part; process 0 of {crew.count} writes the report."
                )
                return None
            results = {unit: results[unit] for unit in units}  # the order of an unbroken run
            report = experiment.report(config, results)
            write_report(rundir, experiment.name, report, results)
        except KeyboardInterrupt as stop:
            done = f"stopped after {len(results)} of {len(units)} units"
            raise type(stop)(f"{done}; the same command resumes") from None
    show_report(report)
    if kept < len(units):
        print(f"Computed {len(units) - kept} units in {seconds:.1f} s; {kept} were there before.")
    else:
        print(f"All {kept} units were there before: nothing computed, everything redrawn.")
    print(f"Figures: {rundir.path / 'figures'}")
    return report


@contextlib.contextmanager
def _opened(
    experiment: Experiment,
    config: ConfigDict,
    path: Path,
    sources: Mapping[str, str],
    create: bool,
    crew: Crew,
) -> Generator[RunDir]:
    """The run directory, which the first process opens for all."""
    if crew.leads:
        with open_run(path, experiment.name, config.to_dict(), create=create) as rundir:
            if sources:
                rundir.record_sources(sources)
            if crew.count > 1:
                rundir.drop_damaged_units()  # a file that is there is then one to wait for no more
            crew.meet("opened")
            yield rundir
    else:
        crew.meet("opened")
        check_sources(path, sources)
        with join_run(path, experiment.name, config.to_dict()) as rundir:
            yield rundir


def _blame_user(function: Callable[..., _T], *values: Any) -> _T:
    """Calls what checks the config or reads the user's files; its complaint is one for the user."""
    try:
        return function(*values)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def _compute(
    experiment: Experiment,
    config: ConfigDict,
    rundir: RunDir,
    units: Sequence[str],
    results: dict[str, Arrays],
    crew: Crew,
) -> None:
    """Adds to `results` the `units` it lacks, under a bar or, off a terminal, a line for each.

    Of a crew, the first process waits for what is the others' share; they know only their own.

    Raises:
      UserError: of units that raise one, when all others are saved.
    """
    from rich import progress

    missing = [unit for unit in crew.share(units) if unit not in results]
    others = [unit for unit in units if crew.leads and unit not in (*results, *missing)]
    failed: dict[str, UserError] = {}
    terminal = sys.stdout.isatty()
    bar = progress.Progress(
        progress.MofNCompleteColumn(),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("elapsed,"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left, {task.description}"),
        speed_estimate_period=float("inf"),  # units may be few and long: all of them count
        disable=not (terminal and missing),
    )
    with bar:
        task = bar.add_task("", total=len(units), completed=len(results))

        rows = _Rows(bar if terminal else None)
        folder = rundir.path / "units" if experiment.has_desk else None
        compute = functools.partial(_compute_unit, experiment.run_unit, config, folder)

        def one_by_one() -> Generator[tuple[str, tuple[Arrays | UserError, float]]]:
            for unit in missing:
                bar.update(task, description=unit)
                yield unit, compute(unit, functools.partial(rows.tell, unit))

        finished = one_by_one()
        if experiment.has_desk and len(units) > 1 and missing and _on_cpu():
            setup = functools.partial(_set_up_process, experiment.name)
            finished = side_by_side(compute, missing, rows.tell, shares=len(units), setup=setup)

        def note(unit: str, how: str) -> None:
            if unit not in failed:
                results[unit] = rundir.load_unit(unit) or {}  # as a later start would find it
                bar.update(task, advance=1, description="")
            if not terminal:
                print(f"[{len(results)}/{len(units)}] {unit}: {how}", flush=True)

        with contextlib.closing(finished):
            for unit, (arrays, seconds) in finished:
                rows.remove(unit)
                if isinstance(arrays, UserError):
                    failed[unit] = arrays
                    note(unit, f"failed after {seconds:.1f} s")
                else:
                    rundir.save_unit(unit, arrays)
                    note(unit, f"{seconds:.1f} s")
        for unit in () if failed else others:
            while not rundir.unit_path(unit).exists():
                time.sleep(_LOOK)
            note(unit, "computed by another process")
    if failed:
        message = str(next(iter(failed.values())))
        if len(failed) > 1:
            message = f"{len(failed)} units failed: {', '.join(failed)}; the first said: {message}"
        raise UserError(message)


def _compute_unit(
    run_unit: Callable[..., Arrays],
    config: ConfigDict,
    folder: Path | None,
    unit: str,
    tell: Callable[[int, int, str], None],
) -> tuple[Arrays | UserError, float]:
    """The arrays of a unit, which has a desk if there is a folder for those; and its seconds.

    An error that is the user's comes in place of the arrays: other units do not depend on it.
    """
    start = time.perf_counter()
    desk = [Desk(folder / unit, tell)] if folder else []
    arrays: Arrays | UserError
    try:
        arrays = run_unit(config, unit, *desk)
    except UserError as error:
        arrays = error
    except BrokenPipeError:  # of our own output
        raise
    except OSError as error:  # names the file: one that is in the way, may not be written, ...
        arrays = UserError(f"{unit}: {error}")
    return arrays, time.perf_counter() - start


def _on_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"


def _set_up_process(name: str) -> None:
    """What `main` does for its own process, in one that computes units of an experiment."""
    logging.set_verbosity(logging.WARNING)
    _show_warnings(name)
    configure_jax()


def _show_warnings(name: str) -> None:
    warnings.showwarning = lambda message, *_: print(f"{name}: {message}", file=sys.stderr)


class _Rows:
    """How units go: a row each under the bar of all of them, or without a bar a line at times."""

    def __init__(self, bar: Any, seconds: float = 10.0) -> None:
        self.bar, self.seconds = bar, seconds
        self.rows: dict[str, Any] = {}
        self.shown: dict[str, float] = {}

    def tell(self, unit: str, done: int, total: int, text: str) -> None:
        if self.bar:
            if unit not in self.rows:
                self.rows[unit] = self.bar.add_task("", total=None)
            described = f"{unit}: {text}"
            self.bar.update(self.rows[unit], completed=done, total=total, description=described)
        elif time.perf_counter() - self.shown.setdefault(unit, time.perf_counter()) >= self.seconds:
            self.shown[unit] = time.perf_counter()
            print(f"{unit}: {done}/{total}, {text}", flush=True)

    def remove(self, unit: str) -> None:
        if unit in self.rows:
            self.bar.remove_task(self.rows.pop(unit))


def configure_jax() -> None:
    """Sets up JAX for experiments; to be called before its devices are used.

    The cores are devices, programs compiled once are kept for the next start, and matrix products
    are exact to the last bits everywhere: GPUs would round their factors to fewer. Each can be
    chosen otherwise by JAX's own variable in the environment.
    """
    import jax

    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        affinity = getattr(os, "sched_getaffinity", None)  # the cores we may use; Linux only
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", cores)
    # JAX factorises matrices by SciPy's LAPACK. Its threads, as many again on each core, would wait
    # for each other: QR factorisations of 128 x 128 on two cores took nine times as long.
    import scipy.linalg  # type: ignore[import-untyped]  # noqa: F401  # loaded, else not limited
    import threadpoolctl  # type: ignore[import-untyped]

    threadpoolctl.threadpool_limits(1, user_api="blas")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = CHECKOUT / ".cache" / "jax"
        with contextlib.suppress(OSError):  # a read-only checkout: carry on without
            cache.mkdir(parents=True, exist_ok=True)
            if os.access(cache, os.W_OK):
                jax.config.update("jax_compilation_cache_dir", str(cache))
