"""Runs an experiment from the command line, unit by unit, into a run directory.

    python -m experiments.NAME --config=configs/NAME.py[:variant] --workdir=runs/NAME

Any field of the config can be set: --config.hidden_size=128. Whatever the user got wrong ends in
one line and exit code 2, before anything is compiled or written. A killed run started again with
the same command does what is missing. This is the only place where flags are parsed.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import os
import re
import runpy
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags  # type: ignore[import-untyped]

from experiments import stopping
from experiments.crew import ALONE, Crew, join, supervise
from experiments.report import Report, show_report, write_report
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

FLAGS = flags.FLAGS
OWN_FLAGS = ("config", "workdir", "plot_only", "distributed")
ELEMENTS = {int: "integers", float: "numbers", str: "strings"}
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
    report: Callable[[ConfigDict, Mapping[str, Arrays]], Report]
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
        app.run(start, flags_parser=functools.partial(_parse_flags, own=own))
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

        def done(unit: str, arrays: Arrays, how: str) -> None:
            results[unit] = arrays
            bar.update(task, advance=1, description="")
            if not terminal:
                print(f"[{len(results)}/{len(units)}] {unit}: {how}", flush=True)

        with contextlib.closing(finished):
            for unit, (arrays, seconds) in finished:
                rows.remove(unit)
                if isinstance(arrays, UserError):
                    failed[unit] = arrays
                    if not terminal:
                        how = f"failed after {seconds:.1f} s"
                        print(f"[{len(results)}/{len(units)}] {unit}: {how}", flush=True)
                else:
                    rundir.save_unit(unit, arrays)
                    # As a later start would find it.
                    done(unit, rundir.load_unit(unit) or {}, f"{seconds:.1f} s")
        while others and not failed:
            for unit in [unit for unit in others if rundir.unit_path(unit).exists()]:
                others.remove(unit)
                done(unit, rundir.load_unit(unit) or {}, "computed by another process")
            time.sleep(_LOOK if others else 0)
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


def select_variant(variants: Mapping[str, Callable[[], ConfigDict]], name: str) -> ConfigDict:
    """The variant of a config called `name`, for the `get_config` of a config file."""
    if name not in variants:
        raise ValueError(f"no variant {name!r}, {_nearest(name, variants)}")
    return variants[name]()


def _nearest(name: str, names: Iterable[str]) -> str:
    """Help for a name that is none of `names`, as `rnn_jax.base.unknown`, which loads JAX."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"known: {', '.join(known)}{hint}"


class _ConfigFile(flags.ArgumentParser):
    """Reads FILE.py[:variant]. Unlike the parser of ml_collections, says in a line what is wrong.

    Its errors are UserErrors, which absl lets pass; ValueErrors it would wrap.
    """

    def parse(self, argument: str) -> ConfigDict:
        file, *variant = argument.split(":", 1)
        if not Path(file).is_file():
            siblings = [str(path) for path in Path(file).parent.glob("*.py") if path.is_file()]
            siblings = siblings or ["configs/NAME.py"]
            raise UserError(f"--config={argument}: no file {file!r}, {_nearest(file, siblings)}")
        try:
            get_config = runpy.run_path(file).get("get_config")
            config = get_config(*variant) if get_config else None
            if not isinstance(config, ConfigDict):
                raise ValueError(f"get_config() must return a ConfigDict, got {type(config)}")
        except (ValueError, OSError) as error:
            raise UserError(f"--config={argument}: {error}") from error
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"--config={argument}: {type(error).__name__}: {error}"
                f" ({where.filename}, line {where.lineno})"
            ) from error
        config.lock()
        _check_overrides(config, FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False))
        return config

    def flag_type(self) -> str:
        return "config file"


def _check_overrides(config: ConfigDict, argv: Sequence[str]) -> None:
    """Finds the fields that the config does not have; ml_collections raises what it happens to."""
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        node: Any = config
        for part in match[1].split(".") if match else ():
            if not isinstance(node, ConfigDict) or part not in node:
                fields = node if isinstance(node, ConfigDict) else config
                raise UserError(f"{argument}: no field {part!r}, {_nearest(part, fields)}")
            node = node[part]
        if match and isinstance(node, ConfigDict):
            raise UserError(f"{argument}: a group of fields; set one of: {', '.join(node)}")
        if match and isinstance(node, tuple):
            _define_tuple_flag(f"config.{match[1]}", node)


def _define_tuple_flag(name: str, like: tuple) -> None:
    """Defines the flag of a tuple before ml_collections does, for which a,b is a single element.

    A tuple of anything but one simple type is left to it.
    """
    kinds = {type(element) for element in like}
    if len(kinds) == 1 and kinds <= ELEMENTS.keys():
        flags.DEFINE(_Elements(field=name, like=like), name, None, "A tuple.", allow_override=True)


class _Elements(flags.ArgumentParser):
    """Reads a,b,c or Python's ('a', 'b', 'c') as elements of the one type that `like` has."""

    def __init__(self, *, field: str, like: tuple) -> None:
        self.field, self.kind = field, type(like[0])
        self.example = ",".join(map(str, like))

    def parse(self, argument: str) -> tuple:
        bare = argument.strip()
        if bare[:1] + bare[-1:] in ("()", "[]"):
            bare = bare[1:-1].strip()
        try:
            if "'" in bare or '"' in bare:
                return tuple(self.kind(str(part)) for part in ast.literal_eval(f"[{bare}]"))
            parts = bare.removesuffix(",").split(",") if bare else []
            return tuple(self.kind(part.strip()) for part in parts)
        except (ValueError, SyntaxError):
            expected = f"{ELEMENTS[self.kind]} separated by commas, such as {self.example}"
            raise UserError(f"--{self.field}={argument}: expected {expected}") from None


def _define_flags(own: Sequence[str]) -> None:
    if "config" in own:
        config_flags.DEFINE_config_file(
            "config", None, "Config FILE.py[:variant]; --config.FIELD=VALUE sets a field of it."
        )
        FLAGS["config"].parser = _ConfigFile()
    if "workdir" in own:
        which = ": a new one, or one to resume" if "config" in own else " to read"
        flags.DEFINE_string("workdir", None, f"Run directory{which}.")
    if "output" in own:
        flags.DEFINE_string("output", None, "FILE.html to write; else report.html in --workdir.")
    if "plot_only" in own:
        flags.DEFINE_boolean("plot_only", False, "Redraw from saved results, compute nothing.")
        flags.DEFINE_boolean("distributed", False, "Share the units with other processes.")
    for name in own:  # so that --help lists them
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])


def _parse_flags(argv: list[str], own: Sequence[str] = OWN_FLAGS) -> list[str]:
    """Parses `argv` into FLAGS, of which `own` are ours; what is wrong with it is a UserError."""
    try:
        _define_flags(own)
        # Unless asked for, no more than warnings: JAX has much to tell its developers.
        rest = FLAGS([argv[0], "--verbosity=-1", *argv[1:]])
    except SystemExit:
        raise SystemExit(0) from None  # --help and its like, after which absl exits with 1
    except flags.UnrecognizedFlagError as error:
        name, config = error.flagname, FLAGS["config"].value if "config" in own else None
        if "config" in own and config is None and name.startswith("config."):
            raise UserError(f"--{name}: there is no --config=FILE.py before it") from None
        names = [*own, *([f"config.{name}"] if name in (config or ()) else [])]
        raise UserError(f"unknown flag --{name}, {_nearest(name, names)}") from None
    except flags.IllegalFlagValueError as error:
        argument = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
        flag = FLAGS[argument.partition("=")[0].lstrip("-")]
        kind = flag.parser.flag_type()
        raise UserError(f"{argument}: expected {kind}, such as {flag.default}") from None
    except flags.Error as error:
        raise UserError(str(error).split(". ")[0]) from None
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; expected only --FLAG=VALUE")
    expected = {"config": "--config=FILE.py", "workdir": "--workdir=DIRECTORY"}
    for name in expected:
        if name in own and not FLAGS[name].value:
            needed = " ".join(text for flag, text in expected.items() if flag in own)
            raise UserError(f"--{name} is missing; expected {needed}")
    tuples = [name for name in FLAGS if isinstance(FLAGS[name].parser, _Elements)]
    values = {name: FLAGS[name].value for name in tuples}
    if "config" in own:
        FLAGS.config.update_from_flattened_dict(values, "config.")
    return rest
