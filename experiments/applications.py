"""What `experiments.train` can be asked for: each task with its data and its models."""

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict  # type: ignore[import-untyped]

from rnn_jax.base import Cell, Layer, unknown
from rnn_jax.cells import CELLS, lookup
from rnn_jax.combinators import bidirectional, chain, stack
from rnn_jax.models import EncoderDecoder, ManyToMany, ManyToOne, OneToMany, OneToOne, Reader
from rnn_jax.tasks import (
    Conditioned,
    Problem,
    Series,
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
    series,
    series_from_csv,
    speech,
    stories,
    text_from_file,
    text_from_hub,
    translation,
)
from rnn_jax.tasks.classified_text import LONGEST
from rnn_jax.training import digest

Data = Mapping[str, Any]

FEED_FORWARD = "feed_forward"
BOTH_WAYS = "bidirectional_"


def _digits(data: Data, network: str) -> Problem:
    return classification(data["seed"], as_rows=network != FEED_FORWARD)


def _classified_text(data: Data, network: str) -> Problem:
    options: dict[str, Any] = {name: data[name] or None for name in ("text", "label")}
    options |= {name: data[name] for name in ("seed", "longest")}
    if data["path"] and data["hub"]:
        raise ValueError("config.data.path and config.data.hub are both given, expected one")
    if data["path"]:
        return text_from_file(data["path"], **options)
    if data["hub"]:
        return text_from_hub(data["hub"], **options)
    _no_file(data, "text", "label", *(["longest"] if data["longest"] != LONGEST else []))
    return reviews(data["seed"])


def _no_file(data: Data, *fields: str) -> None:
    """Raises for a field that says how to read a file where there is none to read."""
    for field in fields:
        if data[field]:
            raise ValueError(
                f"config.data.{field} is {data[field]!r}, but of no file: give config.data.path"
            )


def series_of(data: Data) -> Series:
    """The series that ``config.data`` of forecasting names."""
    if not data["path"]:
        _no_file(data, "column", "time", "unit", "period")
        return series(data["series"])
    return series_from_csv(
        data["path"],
        column=data["column"] or None,
        time=data["time"] or None,
        unit=data["unit"],
        period=data["period"] or None,
    )


def _forecasting(data: Data, network: str) -> Problem:
    return forecasting(series_of(data), data["window"] or None)


def _language(level: str) -> Callable[[Data, str], Problem]:
    def problem(data: Data, network: str) -> Problem:
        text = load_text(data["path"] or None)
        return next_symbols(text, level, steps=data["steps"], limit=data["limit"])

    return problem


def _handwriting(data: Data, network: str) -> Problem:
    if data["path"]:
        return speech(data["path"], seed=data["seed"])
    return digit_lines(data["seed"], train=data["train"])


# Each makes the problem of ``config.data`` and the name of a network, for which an image may be
# flat or a sequence of rows.
APPLICATIONS: Mapping[str, Callable[[Data, str], Problem]] = {
    "digits": _digits,
    "captions": lambda data, network: captions(data["seed"], train=data["train"]),
    "music": lambda data, network: chorales(data["seed"]),
    "sentiment": _classified_text,
    "forecasting": _forecasting,
    "characters": _language("character"),
    "words": _language("word"),
    "video": lambda data, network: moving_digits(data["seed"], train=data["train"]),
    "translation": lambda data, network: translation(**data),
    "questions": lambda data, network: stories(
        data["seed"], tuple(data["sentences"]), data["count"]
    ),
    "handwriting": _handwriting,
}


DATA: Mapping[str, tuple[str, ...]] = {
    "captions": ("train",),
    "sentiment": ("path", "text", "label", "hub", "longest"),
    "forecasting": ("series", "path", "column", "time", "unit", "period", "window"),
    "characters": ("path", "steps", "limit"),
    "words": ("path", "steps", "limit"),
    "video": ("train",),
    "translation": ("source", "target", "largest", "count"),
    "questions": ("sentences", "count"),
    "handwriting": ("train", "path"),
}
"""The fields of ``config.data`` of a task, beside ``seed``."""

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
    return APPLICATIONS[task](json.loads(data), network)


def check_data(task: str, data: Data) -> None:
    """Raises ValueError for other fields of ``config.data`` than the task has."""
    fields = {"seed", *DATA.get(task, ())}
    if set(data) != fields:
        raise ValueError(
            f"config.data has the fields {', '.join(sorted(data))}, expected those of {task},"
            f" {', '.join(sorted(fields))}: begin with --config=configs/train.py:{task}"
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
        embedding = config.embedding if tokens else None
        return Reader(
            layer, config.hidden_size, tokens, embedding, config.embedding_gain, config.dropout
        )

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
