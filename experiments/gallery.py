"""The gallery: a run of every experiment, kept small, and the figures that are drawn from it.

    python -m experiments.gallery                       draws docs/figures anew
    python -m experiments.gallery --keep=runs/cliff     keeps that run in place of the one before

What is kept in docs/gallery/NAME/ is itself a run directory: its configuration, the command,
revision and machine that made it, its summary, and the arrays of its units. Of large arrays the
numbers are rounded to 12 significant bits, one part in 8000: no curve or map shows more.
"""

import importlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict  # type: ignore[import-untyped]

from experiments import launch
from experiments.results import figure_bytes
from experiments.rundir import (
    CHECKOUT,
    Arrays,
    UserError,
    join_run,
    json_bytes,
    npz_bytes,
    read_json,
    write_file,
)

BITS = 12
"""Significant ones, to which numbers are rounded."""
LARGE = 15_000
"""Numbers in an array above which they are."""
SAVED = CHECKOUT / "docs" / "gallery"
FIGURES = CHECKOUT / "docs" / "figures"


class Entry(NamedTuple):
    """A page of the gallery."""

    experiment: str
    figure: str
    """The one that stands for it; docs/figures/NAME.png is drawn from it."""
    variant: str = "default"


ENTRIES: Mapping[str, Entry] = {
    "gradient_norms": Entry("gradient_norms", "gradient_against_lag"),
    "zoo": Entry("gradient_norms", "zoo", "zoo"),
    "sweep": Entry("sweep", "slopes"),
    "bifurcation": Entry("bifurcation", "branches"),
    "cliff": Entry("cliff", "surface"),
    "forget_bias": Entry("forget_bias", "half_life"),
    "lyapunov_vs_gain": Entry("lyapunov_vs_gain", "largest_exponent"),
    "parallel_in_time": Entry("parallel_in_time", "iterations"),
    "tied_vs_untied": Entry("tied_vs_untied", "slopes"),
    "parameter_sensitivity": Entry("parameter_sensitivity", "linear_unit"),
    "flossing": Entry("flossing", "exponents"),
    "jacobian_spectrum": Entry("jacobian_spectrum", "spectrum"),
    "phase_diagram": Entry("phase_diagram", "plane"),
    "clipping": Entry("clipping", "success"),
    "trained_vs_initial": Entry("trained_vs_initial", "training"),
    "long_dependencies": Entry("long_dependencies", "success"),
    "forecasting": Entry("train", "forecast", "forecasting"),
}


def gallery(run: str | None) -> None:
    """What the command does: keeps a run, or draws what all kept runs say."""
    names = list(ENTRIES) if run is None else [keep(Path(run))]
    for name in names:
        title = ENTRIES[name].figure
        write_file(FIGURES / f"{name}.png", draw(name, [title])[title])
        print(f"{FIGURES.relative_to(CHECKOUT) / name}.png", flush=True)


def keep(run: Path) -> str:
    """Puts a small copy of a run in place of the one that the gallery has.

    Returns:
      The name of its page.

    Raises:
      UserError: there is no finished run, it is the one that is kept already or of none of the
        variants shown, or its code was not committed: nobody could make it again.
    """
    environment = read_json(run / "environment.json") or {}
    experiment = environment.get("experiment")
    if not isinstance(experiment, str) or not (run / "summary.md").exists():
        raise UserError(f"--keep={run}: no finished run is there")
    match environment.get("git"):
        case {"dirty": False}:
            name = _name_of(run, experiment)
        case _:
            raise UserError(f"--keep={run}: made by code that is not committed")
    if run.resolve() == (SAVED / name).resolve():
        raise UserError(f"--keep={run}: is what the gallery keeps")
    _, results = load(name, run)
    SAVED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SAVED) as beside:  # whatever fails, the old one stays
        target = Path(beside, name)
        for file in ("config.json", "environment.json", "summary.md"):
            write_file(target / file, (run / file).read_bytes())
        for unit, arrays in results.items():
            small = {key: rounded(values) for key, values in arrays.items()}
            write_file(target / "units" / f"{unit}.npz", npz_bytes(small, zipfile.ZIP_LZMA))
        shutil.rmtree(SAVED / name, ignore_errors=True)
        target.rename(SAVED / name)
    return name


def load(name: str, run: Path | None = None) -> tuple[ConfigDict, dict[str, Arrays]]:
    """The configuration of an entry and the arrays that a run of it left, by default the kept one.

    Raises:
      UserError: the run has another configuration, or a unit is missing or damaged.
    """
    entry = ENTRIES[name]
    config = _config(entry)
    path = run or SAVED / name
    if not (path / "config.json").exists():
        raise UserError(f"{path}: no run is kept there")
    results: dict[str, Arrays] = {}
    with join_run(path, entry.experiment, config.to_dict()) as rundir:
        for unit in _experiment(entry).units(config):
            arrays = rundir.load_unit(unit)
            if arrays is None:
                raise UserError(f"{rundir.unit_path(unit)}: missing or damaged")
            results[unit] = arrays
    return config, results


def draw(name: str, figures: Sequence[str] | None = None) -> dict[str, bytes]:
    """PNG files of an entry by name of the figure, drawn from the kept run."""
    config, results = load(name)
    report = _experiment(ENTRIES[name]).report(config, results)
    wanted = report.figures if figures is None else figures
    return {title: figure_bytes(title, report.figures[title](), "png") for title in wanted}


def rounded(values: np.ndarray) -> np.ndarray:
    """A large array of real numbers with the significant bits that are kept; any other as it is.

    >>> rounded(np.full(30_000, 3.14159))[0]
    np.float64(3.1416015625)
    """
    if values.dtype.kind != "f" or values.size <= LARGE:
        return values
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 2**BITS) / 2**BITS, exponent).astype(values.dtype)


def _experiment(entry: Entry) -> launch.Experiment:
    return importlib.import_module(f"experiments.{entry.experiment}").EXPERIMENT


def _config(entry: Entry) -> ConfigDict:
    return importlib.import_module(f"configs.{entry.experiment}").get_config(entry.variant)


def _name_of(run: Path, experiment: str) -> str:
    """The entry whose configuration the run has."""
    saved = read_json(run / "config.json")
    if saved is None:
        raise UserError(f"--keep={run}: has no config.json")
    for name, entry in ENTRIES.items():
        if entry.experiment == experiment and saved == json.loads(
            json_bytes(_config(entry).to_dict())
        ):
            return name
    shown = ", ".join(f"{entry.experiment}:{entry.variant}" for entry in ENTRIES.values())
    raise UserError(f"--keep={run}: a variant that the gallery does not show; it shows {shown}")


if __name__ == "__main__":
    launch.main(launch.Command("gallery", gallery, flags=("keep",)))
