"""The run directory: a file stands under its final name whole, or not at all.

A run may be killed at any instant. Each file is therefore written under a temporary name in the
same folder, forced to the disk and renamed. A unit of work whose file is there is finished;
whatever else a killed run left behind carries a temporary name, and the next start removes it.
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import io
import json
import os
import platform
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

CHECKOUT = Path(__file__).resolve().parent.parent
LOCK = ".lock"
PARTIAL = ".partial"
SOURCES = "sources.json"
PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "pandas", "matplotlib", "scikit-learn")


class UserError(Exception):
    """What the user can put right: reported as one line with exit code 2, never a traceback."""


def write_file(path: Path, data: bytes) -> None:
    """Puts `data` under the name `path`, replacing what was there in one step."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def unit_names(units: Iterable[str]) -> list[str]:
    """The names, provided each can be a file of its own, even where case is not told apart."""
    names = list(units)
    bad = [name for name in names if not re.fullmatch(r"\w[\w.=+-]{0,199}", name, re.ASCII)]
    if bad or not names or len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"units: expected one or more unique file names, got {bad or names}")
    return names


def in_name(number: float) -> str:
    """A number as part of the name of a unit, from which `float` reads that very number.

    >>> in_name(2.0), in_name(0.1), in_name(1.0000001)
    ('2', '0.1', '1.0000001')
    """
    return repr(float(number)).removesuffix(".0")


def json_bytes(value: Any) -> bytes:
    """Stable JSON: sorted keys; tuples become lists."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def npz_bytes(arrays: Arrays, compression: int = zipfile.ZIP_STORED) -> bytes:
    """An .npz file that depends on nothing but the arrays.

    Unlike `np.savez` it leaves no name of an array taken by an argument, and rejects what .npy
    cannot hold: objects, which would be pickled, and bfloat16, which would come back as raw bytes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            array = np.asarray(array)
            if array.dtype.kind not in "biufcSU":
                raise TypeError(f"array {name!r}: cannot save {array.dtype}; convert it first")
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = compression
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class RunDir:
    """An open run directory, ours alone until `open_run` is left."""

    path: Path

    def unit_path(self, unit: str) -> Path:
        return self.path / "units" / f"{unit}.npz"

    def load_unit(self, unit: str) -> dict[str, np.ndarray] | None:
        """The arrays of a finished unit; None if it is not finished or its file is damaged."""
        path = self.unit_path(unit)
        try:
            with open(_no_pipe(path), "rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever is wrong with the bytes, computing again cures it
            print(f"{path}: cannot be read ({type(error).__name__}), so it is computed again")
            return None

    def drop_damaged_units(self) -> None:
        """Removes the files of units that cannot be read; what is there then is whole."""
        for path in (self.path / "units").glob("*.npz"):
            if self.load_unit(path.stem) is None:
                path.unlink()

    def save_unit(self, unit: str, arrays: Arrays) -> None:
        write_file(self.unit_path(unit), npz_bytes(arrays))

    def record_start(self, experiment: str, seed: int | None, units: int) -> None:
        """Notes this start in environment.json: the first in full, later ones where they differ."""
        path = self.path / "environment.json"
        now = environment(experiment, seed) | {"units": units}
        first = read_json(path)
        if first is None:
            first = now | {"starts": []}
        elif not isinstance(first.get("starts"), list):
            raise UserError(f"{path}: damaged, has no list of starts; delete it, results stay")
        else:
            changed = {k: v for k, v in now.items() if k == "started" or first.get(k) != v}
            first["starts"].append(changed)
        write_file(path, json_bytes(first))

    def record_sources(self, sources: Mapping[str, str]) -> None:
        """Notes at the first start what the run comes from; see `check_sources` for later ones."""
        check_sources(self.path, sources)
        if not (self.path / SOURCES).exists():
            write_file(self.path / SOURCES, json_bytes(sources))


def check_sources(run: Path, sources: Mapping[str, str]) -> None:
    """Refuses what is not as it was when the run began. Writes nothing.

    Args:
      run: a run directory; one that has noted no sources takes any.
      sources: the digest of each, by the name that the user knows it by.

    Raises:
      UserError: for a source that has changed, or a note of them that is damaged.
    """
    path = run / SOURCES
    try:
        saved = json.loads(_no_pipe(path).read_bytes())
        changed = [name for name, now in sources.items() if saved.get(name, now) != now]
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: damaged, so whether data or cells have changed since this run began is not"
            " known; delete it to go on with those of now"
        ) from None
    if changed:
        raise UserError(
            f"--workdir={run}: {', '.join(changed)} has changed since this run began;"
            " choose another --workdir"
        )


@contextlib.contextmanager
def open_run(path: Path, experiment: str, config: Mapping, *, create: bool) -> Iterator[RunDir]:
    """Locks the run directory at `path` and checks that it belongs to `experiment` and `config`.

    Args:
      path: an earlier run of the same config, an empty directory, or (with `create`) nothing yet.
      experiment: the experiment's name.
      config: what config.json holds or will hold.
      create: make the directory if there is none.

    Raises:
      UserError: the path is something else, cannot be written, or is in use by another process.
    """
    _check_path(path, create)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "a")  # noqa: SIM115 (closed below, also when the lock is refused)
    except OSError as error:
        raise UserError(f"--workdir={path}: cannot write there: {error.strerror}") from error
    with lock:
        try:  # the operating system drops this lock when the process ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--workdir={path}: in use by another process") from None
        except OSError as error:  # some network file systems have no locks
            print(f"{path}: cannot be locked ({error.strerror}): use it from one process at a time")
        _check_config(path, experiment, config)
        for folder in (path, path / "units", path / "figures"):
            for stale in folder.glob(f".*{PARTIAL}"):
                stale.unlink()
        if not (path / "config.json").exists():
            write_file(path / "config.json", json_bytes(config))
        yield RunDir(path)


@contextlib.contextmanager
def join_run(path: Path, experiment: str, config: Mapping) -> Iterator[RunDir]:
    """The run directory that another process of the same run has opened.

    Raises:
      UserError: it is not there, as where machines have no disk in common, or has another config.
    """
    if not (path / "config.json").exists():
        raise UserError(f"--workdir={path}: not seen by all processes; it must be on a shared disk")
    _check_config(path, experiment, config)
    yield RunDir(path)


def _check_path(path: Path, create: bool) -> None:
    """Refuses what is no run directory before anything in it is touched."""
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        names = set()
    except OSError as error:
        raise UserError(f"--workdir={path}: not a usable directory: {error.strerror}") from error
    if "config.json" in names:
        return
    if not create:
        raise UserError(f"--workdir={path}: there is no run to plot")
    if names - {LOCK, f".config.json{PARTIAL}"}:  # what a start killed at once leaves behind
        raise UserError(f"--workdir={path}: neither empty nor a run directory (no config.json)")


def _check_config(path: Path, experiment: str, config: Mapping) -> None:
    """Refuses another experiment or config than the directory was made for."""
    saved = read_json(path / "config.json")
    if saved is None:
        return
    owner = (read_json(path / "environment.json") or {}).get("experiment", experiment)
    if owner != experiment:
        raise UserError(
            f"--workdir={path}: the directory of experiment {owner}, not of {experiment};"
            " choose another one"
        )
    then, now = flatten(saved, "config"), flatten(json.loads(json_bytes(config)), "config")
    for field in sorted(then | now):
        before, after = then.get(field, "absent"), now.get(field, "absent")
        if before != after:
            raise UserError(
                f"--workdir={path}: made with {field} = {before}, but now {field} = {after};"
                " choose another directory"
            )


def flatten(tree: Any, name: str, dump: Callable[[Any], str] = json.dumps) -> dict[str, str]:
    """{dotted name: value as JSON} of nested dicts."""
    if not isinstance(tree, dict):
        return {name: dump(tree)}
    return {k: v for key in tree for k, v in flatten(tree[key], f"{name}.{key}", dump).items()}


def _no_pipe(path: Path) -> Path:
    """The path, unless one would wait there for somebody to write.

    As `rnn_jax.reading.readable`, which loads JAX.
    """
    if stat.S_ISFIFO(path.stat().st_mode):
        raise ValueError("it is a pipe")
    return path


def read_json(path: Path) -> Any:
    """The object in a JSON file of ours, None if there is none."""
    try:
        found = json.loads(_no_pipe(path).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: cannot be read: expected an object in braces")
    return found


def environment(experiment: str, seed: int | None) -> dict[str, Any]:
    """What a result may depend on beside its config. Starts JAX's devices."""
    import jax

    return {
        "experiment": experiment,
        "seed": seed,
        "command": sys.orig_argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "x64": jax.config.jax_enable_x64,  # type: ignore[attr-defined]
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "versions": _versions(),
        "git": git_state(CHECKOUT),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Revision and dirty flag of the git checkout `folder`; None if it is none, or without git."""
    if not (folder / ".git").exists():  # a repository further up says nothing about this code
        return None
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch"]
    try:
        status = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    lines = status.stdout.splitlines()
    revision = lines[0].removeprefix("# branch.oid ")
    return {"revision": revision, "dirty": any(not line.startswith("#") for line in lines)}
