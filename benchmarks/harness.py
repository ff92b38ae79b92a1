"""Contenders timed beside each other: alternating processes, medians, ratios, one JSON file."""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Worker = Callable[[], dict[str, Any]]
"""Runs one contender in its own process and returns its figures, ``seconds`` among them."""

PACKAGES = ("jax", "jaxlib", "flax", "dm-haiku", "equinox", "keras", "torch", "numpy")


def main(
    title: str,
    workers: Mapping[str, Worker],
    *,
    ours: str,
    check: Callable[[Mapping[str, Any]], str],
    cached: Sequence[str] = (),
) -> None:
    """Runs every contender ``--repeats`` times, in turn, and prints and writes the comparison.

    Args:
      title: what is measured.
      workers: the contenders by name; the process for one of them is this script again.
      ours: the contender that the others are compared with.
      check: looks at the results of one round, raises if the contenders do not agree on the
        quantity, and says how closely they do.
      cached: contenders that are timed a second time with a warm persistent compilation cache.
    """
    arguments = _arguments(title, workers, repeats=5)
    rounds: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in cached:
            _run(name, cache)  # fills the cache; not counted
        for number in range(arguments.repeats):
            for name in workers:
                rounds.setdefault(name, []).append(_run(name, None))
            for name in cached:
                rounds.setdefault(f"{name}, cache warm", []).append(_run(name, cache))
            agreement = check({name: results[-1] for name, results in rounds.items()})
            print(f"round {number + 1} of {arguments.repeats}: {agreement}", flush=True)

    report = _report(title, rounds, ours, agreement)
    print(_table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


OURS = ("rnn_jax", "rnn_jax, one device")
"""This library in `grid`: on a device for each core, and on one as its peers."""


def grid(
    title: str,
    run_ours: Callable[[int], dict[str, Any]],
    peers: Mapping[str, Worker],
    *,
    agree_on: Sequence[str],
    quantities: Mapping[str, str],
    best_of: Sequence[str] = (),
    repeats: int = 2,
) -> None:
    """The same for contenders that each measure many cases, ``{case: {quantity: figure, ...}}``.

    A ratio is that of the medians over rounds, theirs to ours, of a case that both have.

    Args:
      title: what is measured.
      run_ours: this library on so many devices.
      peers: the others by name.
      agree_on: quantities in which the cases of all contenders must agree.
      quantities: what is compared and what to call it, with its unit.
      best_of: the peers of which, in each case, the best is one more rival.
      repeats: rounds, if the flag says nothing else.
    """
    devices = len(os.sched_getaffinity(0)), 1
    ours = {n: functools.partial(run_ours, d) for n, d in zip(OURS, devices, strict=True)}
    workers = ours | dict(peers)
    arguments = _arguments(title, workers, repeats)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(arguments.repeats):
        for name, results in rounds.items():
            results.append(_run(name, None))
        agree = _agreement({name: results[-1] for name, results in rounds.items()}, agree_on)
        print(f"round {number + 1} of {arguments.repeats}: {agree}", flush=True)

    report = _heading(title, agree) | {
        label: _compared(rounds, quantity, best_of) for quantity, label in quantities.items()
    }
    print("\n".join(_lines_above(report)))
    for label in quantities.values():
        print("\n" + _table_of_cases(label, report[label]))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def _compared(
    rounds: Mapping[str, list[dict]], quantity: str, best_of: Sequence[str]
) -> dict[str, Any]:
    figures = {
        name: {
            case: statistics.median(cases[case][quantity] for cases in results)
            for case in results[0]
        }
        for name, results in rounds.items()
    }
    rivals = {name: row for name, row in figures.items() if name not in OURS}
    if best_of:
        rivals["the best of these"] = {
            case: min(figures[peer][case] for peer in best_of if case in figures[peer])
            for case in figures[OURS[0]]
        }
    return {
        "figures": figures,
        "ratios": {
            f"{peer} / {own}": _over_cases(row, figures[own])
            for own in OURS
            for peer, row in rivals.items()
        },
    }


def _table_of_cases(label: str, compared: Mapping[str, Any]) -> str:
    figures, ratios = compared["figures"], compared["ratios"]
    cases = list(dict.fromkeys(case for row in figures.values() for case in row))
    lines = [f"{label:<30}" + "".join(f"{name[:13]:>14}" for name in figures)]
    for case in cases:
        cells = (f"{row[case]:>14.2f}" if case in row else f"{'-':>14}" for row in figures.values())
        lines.append(f"{case:<30}" + "".join(cells))
    lines.append(f"{'  ratios over cases':<48}{'geo. mean':>10}{'min':>10}{'max':>10}")
    for name, row in ratios.items():
        cells = (f"{row[part]:>9.2f}x" for part in ("mean", "min", "max"))
        lines.append(f"{name:<48}" + "".join(cells))
    return "\n".join(lines)


def _agreement(results: Mapping[str, dict[str, Any]], quantities: Sequence[str]) -> str:
    """How closely the cases of all contenders agree on quantities; ends the run above 1e-3."""
    worst = max(
        abs(case[quantity] / results[OURS[0]][name][quantity] - 1)
        for cases in results.values()
        for name, case in cases.items()
        for quantity in quantities
    )
    if worst > 1e-3:
        sys.exit(f"the contenders disagree by {worst:.1e}")
    return f"largest relative difference of {' or '.join(quantities)} {worst:.1e}"


def _over_cases(theirs: Mapping[str, float], ours: Mapping[str, float]) -> dict[str, float]:
    values = [theirs[case] / ours[case] for case in theirs if case in ours]
    mean = statistics.geometric_mean(values)
    return {"mean": mean, "min": min(values), "max": max(values)}


def _arguments(title: str, workers: Mapping[str, Worker], repeats: int) -> argparse.Namespace:
    """The flags; the process that is to be one contender does so, and ends."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--worker", choices=workers, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(workers[arguments.worker]()))
        sys.exit()
    return arguments


def _run(name: str, cache: str | None) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    command = [sys.executable, sys.argv[0], f"--worker={name}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _report(title: str, rounds: Mapping[str, list[dict]], ours: str, agreement: str) -> dict:
    seconds = {name: [r["seconds"] for r in results] for name, results in rounds.items()}
    warm = f"{ours}, cache warm"
    ratios = {}
    for name, theirs in seconds.items():
        for own in (ours, warm):
            if own in seconds and not name.startswith(ours):
                pairs = [a / b for a, b in zip(theirs, seconds[own], strict=True)]
                ratios[f"{name} / {own}"] = pairs
    return _heading(title, agreement) | {
        "seconds": {name: _spread(values) for name, values in seconds.items()},
        "ratios": {name: _spread(values) for name, values in ratios.items()},
    }


def _heading(title: str, agreement: str) -> dict[str, Any]:
    return {
        "title": title,
        "agreement": agreement,
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _lines_above(report: dict[str, Any]) -> list[str]:
    machine, versions = report["machine"], report["versions"]
    return [
        "",
        report["title"],
        f"{machine['cpu']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        report["agreement"],
    ]


def _table(report: dict[str, Any]) -> str:
    lines = _lines_above(report)
    for heading, unit in (("seconds", "s"), ("ratios", "x")):
        lines += ["", f"{heading:<44}{'median':>10}{'min':>10}{'max':>10}"]
        lines += [
            f"{name:<44}" + "".join(f"{row[key]:>9.2f}{unit}" for key in ("median", "min", "max"))
            for name, row in report[heading].items()
        ]
    return "\n".join(lines)
