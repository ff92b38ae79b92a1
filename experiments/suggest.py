"""Suggests how a text goes on, by a network that `experiments.train` has trained on text.

Run: python -m experiments.suggest --config=configs/suggest.py --config.run=runs/words
--config.prefix="The value of the"

It prints the most probable next words (or characters) with their probabilities, and a text sampled
after the prefix. With --config.beam=5 also the five most probable continuations that a beam search
finds. Give it the run directory of the task ``words`` or ``characters``.
"""

import json
from pathlib import Path

import jax
import ml_collections
import pandas as pd

from experiments import checks, launch, train
from experiments.applications import model_of, problem_of, sources_of
from experiments.generation import continued, encoded, likeliest, suggestions
from experiments.results import Report, show_report
from experiments.rundir import check_sources
from experiments.train_report import unit_of
from rnn_jax.reading import readable
from rnn_jax.tasks.language import Language
from rnn_jax.training import Checkpoints, begin


def answer(config: ml_collections.ConfigDict) -> None:
    """Prints suggestions and a continuation."""
    checks.at_least(config, 1, "count", "length", "beam_length")
    checks.seed(config)
    checks.at_least(config, 0, "number", "beam")
    checks.positive(config, "temperature")
    trained = _trained_config(Path(config.run))
    network = config.network or trained.networks[0]
    checks.known("network", network, trained.networks)
    problem = problem_of(trained, network)
    if not isinstance(problem, Language):
        raise ValueError(f"config.run={config.run}: is of {trained.task}, expected text")
    tokens = encoded(problem, config.prefix)

    model = model_of(trained, network, problem)
    like = begin(model, problem, train.recipe_of(trained), jax.random.key(0))
    folder = Path(config.run) / "units" / unit_of(network, config.number) / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such checkpoints; is network {config.number} trained?")
    check_sources(Path(config.run), sources_of(trained, network))
    with Checkpoints(folder, read_only=True) as checkpoints:
        found = checkpoints.newest(like)
    if found is None:
        raise ValueError(f"{folder}: no checkpoint that can be read")
    params = found[1].best

    rows = suggestions(model, params, problem, config.prefix, config.count)
    table = pd.DataFrame([{"next": repr(symbol), "probability": p} for symbol, p in rows])
    text = continued(
        jax.random.key(config.seed), model, params, problem, tokens,
        count=config.length, temperature=config.temperature,
    )  # fmt: skip
    glue = "" if trained.task == "characters" else " "
    notes = [f"Sampled at temperature {config.temperature:g}: {config.prefix}{glue}{text}"]
    if config.beam:
        likely = likeliest(
            model, params, problem, tokens, count=config.beam_length, width=config.beam
        )
        notes += [f"Beam search, {p:.3g}: {config.prefix}{glue}{said}" for said, p in likely]
    show_report(Report(table, table, {}, notes))


def _trained_config(run: Path) -> ml_collections.ConfigDict:
    try:
        saved = json.loads(readable(run / "config.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"config.run={run}: no run directory of experiments.train") from error
    if not isinstance(saved, dict) or "networks" not in saved or "task" not in saved:
        raise ValueError(f"config.run={run}: is of another experiment, expected one of train")
    config = ml_collections.ConfigDict(saved)
    try:
        train.validate(config)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"config.run={run}: not as this version trains: {error}") from error
    return config


if __name__ == "__main__":
    launch.main(launch.Command("suggest", answer))
