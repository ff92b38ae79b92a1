"""What `experiments.train` can be asked for: each task with its data and its models."""

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict  # type: ignore[import-untyped]

from rnn_jax.arguments import unknown
from rnn_jax.base import Cell, Layer
from rnn_jax.cells import CELLS, lookup
from rnn_jax.combinators import bidirectional, chain, stack
from rnn_jax.models import EncoderDecoder, ManyToMany, ManyToOne, OneToMany, OneToOne, Reader
from rnn_jax.tasks import (
    Conditioned,
    Problem,
    Vocabulary,
    captions,
    chorales,
    classification,
    digit_lines,
    forecasting,
    load_text,
    moving_digits,
    next_symbols,
    reviews,
    series_from_csv,
    speech,
    stories,
    text_from_file,
    text_from_hub,
    translation,
)
from rnn_jax.tasks import series as measured_series
from rnn_jax.tasks.classified_text import LONGEST
from rnn_jax.training import digest

FEED_FORWARD = "feed_forward"
BOTH_WAYS = "bidirectional_"


def _digits(network: str, *, seed: int) -> Problem:
    return classification(seed, as_rows=network != FEED_FORWARD)


def _classified_text(
    network: str, *, seed: int, path: str, text: str, label: str, hub: str, longest: int
) -> Problem:
    if path and hub:
        raise ValueError("config.data.path and config.data.hub are both given, expected one")
    if path:
        return text_from_file(path, text or None, label or None, seed=seed, longest=longest)
    if hub:
        return text_from_hub(hub, text or None, label or None, seed=seed, longest=longest)
    _no_file(text=text, label=label, longest=longest if longest != LONGEST else None)
    return reviews(seed)


def _no_file(**fields: Any) -> None:
    """Raises for a field that says how to read a file where there is none to read."""
    for field, value in fields.items():
        if value:
            raise ValueError(
                f"config.data.{field} is {value!r}, but of no file: give config.data.path"
            )


def _forecasting(
    network: str,
    *,
    series: str,
    path: str,
    column: str,
    time: str,
    unit: str,
    period: int,
    window: int,
) -> Problem:
    if path:
        own = series_from_csv(
            path, column=column or None, time=time or None, unit=unit, period=period or None
        )
        return forecasting(own, window or None)
    _no_file(column=column, time=time, unit=unit, period=period)
    return forecasting(measured_series(series), window or None)


def _characters(network: str, *, path: str, steps: int, limit: int) -> Problem:
    return next_symbols(load_text(path or None), "character", steps=steps, limit=limit)


def _words(network: str, *, path: str, steps: int, limit: int) -> Problem:
    return next_symbols(load_text(path or None), "word", steps=steps, limit=limit)


def _translation(
    network: str, *, seed: int, source: str, target: str, largest: int, count: int
) -> Problem:
    return translation(seed, source, target, largest=largest, count=count)


def _handwriting(network: str, *, seed: int, train: int, path: str) -> Problem:
    return speech(path, seed=seed) if path else digit_lines(seed, train=train)


APPLICATIONS: Mapping[str, Callable[..., Problem]] = {
    "digits": _digits,
    "captions": lambda network, *, seed, train: captions(seed, train=train),
    "music": lambda network, *, seed: chorales(seed),
    "sentiment": _classified_text,
    "forecasting": _forecasting,
    "characters": _characters,
    "words": _words,
    "video": lambda network, *, seed, train: moving_digits(seed, train=train),
    "translation": _translation,
    "questions": lambda network, *, seed, sentences, count: stories(seed, tuple(sentences), count),
    "handwriting": _handwriting,
}
"""Each makes the problem for a network, for which an image may be flat or a sequence of rows.

Its keywords are the fields of ``config.data``.
"""

TOKENS_HAVE = ("embedding", "embedding_gain")
MODELS_HAVE: Mapping[str, tuple[str, ...]] = {
    "one_to_many": ("features",),
    "many_to_one": ("pool",),
    "encoder_decoder": ("attention", "pool"),
}
"""The fields of a configuration that act in models of one topology alone."""

ONE_WAY = {
    "captions": "captions are made",
    "music": "melodies are made",
    "characters": "characters are foretold",
    "words": "words are foretold",
}
"""What is done in one direction, from the first symbol on."""


def problem_of(config: ConfigDict, network: str) -> Problem:
    """The problem that a configuration describes; the same one for equal arguments."""
    return _problem_of(config.task, json.dumps(config.data.to_dict(), sort_keys=True), network)


@functools.lru_cache(maxsize=4)
def _problem_of(task: str, data: str, network: str) -> Problem:
    return APPLICATIONS[task](network, **json.loads(data))


def check_data(task: str, data: Iterable[str]) -> None:
    """Raises ValueError for other fields of ``config.data`` than the task has."""
    parameters = inspect.signature(APPLICATIONS[task]).parameters.values()
    fields = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    if set(data) != fields:
        raise ValueError(
            f"config.data has the fields {', '.join(sorted(data))}, expected those of {task},"
            f" {', '.join(sorted(fields))}: begin with --config=configs/train.py:{task}"
        )


def check_model(config: ConfigDict, problem: Problem) -> None:
    """Raises ValueError if a field is missing that not all models have, but that of a problem."""
    fields = {*TOKENS_HAVE} if problem.tokens or problem.target_tokens else set()
    missing = fields.union(MODELS_HAVE.get(problem.topology, ())).difference(config)
    if missing:
        raise ValueError(
            f"config has no {' and no '.join(sorted(missing))}, as a model of {config.task} needs:"
            f" begin with --config=configs/train.py:{config.task}"
        )


def check_network(name: str, task: str) -> None:
    """Raises ValueError for what is neither "feed_forward" nor [bidirectional_]CELL.

    Also for both directions where there is one.
    """
    if name == FEED_FORWARD:
        return
    cell = name.removeprefix(BOTH_WAYS)
    if cell == FEED_FORWARD:
        raise ValueError(f"config.networks: {name!r}, expected a cell after {BOTH_WAYS}")
    if ":" not in cell and cell not in CELLS:
        wrong = unknown("network", cell, [FEED_FORWARD, *sorted(CELLS)])
        raise ValueError(f"config.networks: {wrong} (a cell may have {BOTH_WAYS} before it)")
    try:
        lookup(cell)
    except ValueError as error:
        raise ValueError(f"config.networks: {error}") from error
    if name != cell and task in ONE_WAY:
        raise ValueError(
            f"config.networks: {name}: {ONE_WAY[task]} in one direction, expected {cell}"
        )


def sources_of(config: ConfigDict, network: str) -> dict[str, str]:
    """What a network is trained on and its own cell's file, if it has one: digests by name."""
    problem = problem_of(config, network)
    vocabulary = getattr(problem, "vocabulary", Vocabulary(()))  # the same tokens may mean others
    data = problem.train, problem.validation, problem.test, np.array(vocabulary.symbols, str)
    origin = config.data.get("path") or config.data.get("hub") or network
    module, colon, _ = network.removeprefix(BOTH_WAYS).partition(":")
    own = _source(module) if colon else {}
    return {f"the data of {origin}": digest(data)} | own


@functools.cache  # a file may be edited while what was imported from it is in use
def _source(module: str) -> dict[str, str]:
    """The digest of a module's file by its name."""
    file = Path(str(importlib.import_module(module).__file__))
    name = Path(*module.split(".")[:-1], file.name)
    return {str(name): digest(np.frombuffer(file.read_bytes(), np.uint8))}


def model_of(config: ConfigDict, network: str, problem: Problem) -> nn.Module:
    """The network of a name for a problem.

    "feed_forward", the name of a cell, or "bidirectional_" and the name of a cell, of which the
    decoder behind an encoder reads forward all the same.
    """
    outputs = problem.output_size
    if network == FEED_FORWARD:
        features = (config.hidden_size,) * config.layers
        return OneToOne(features, outputs, dropout=config.dropout)
    inputs = problem.validation.inputs
    space = () if isinstance(inputs, Conditioned) else np.shape(inputs)[2:-1]

    def reader(network: str, tokens: int | None) -> Reader:
        layer = _layer(network, config.layers, space)
        embedded = {name: config[name] for name in TOKENS_HAVE} if tokens else {}
        return Reader(layer, config.hidden_size, tokens, dropout=config.dropout, **embedded)

    if problem.topology == "many_to_one":
        return ManyToOne(reader(network, problem.tokens), outputs, config.pool)
    if problem.topology == "many_to_many":
        return ManyToMany(reader(network, problem.tokens), outputs)
    if problem.topology == "one_to_many":
        return OneToMany(reader(network, problem.target_tokens), outputs, config.features)
    encoder = reader(network, problem.tokens)
    decoder = reader(network.removeprefix(BOTH_WAYS), problem.target_tokens)
    return EncoderDecoder(encoder, decoder, outputs, config.attention, config.pool)


def _layer(network: str, layers: int, space: tuple[int, ...]) -> Cell | Layer:
    """Cells above each other; over space if the inputs are images, (T, H, W, C)."""
    cell = lookup(network.removeprefix(BOTH_WAYS), {"shape": space} if space else {})
    if network.startswith(BOTH_WAYS):
        both = bidirectional(cell)
        return both if layers == 1 else chain(*[both] * layers)
    return cell if layers == 1 else stack(*[cell] * layers)
