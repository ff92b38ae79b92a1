"""Configurations of training: a task each, and TASK_smoke in seconds."""

import functools
from collections.abc import Callable
from typing import Any

import ml_collections

from experiments.launch import select_variant


def base() -> ml_collections.ConfigDict:
    """What all tasks have."""
    config = ml_collections.ConfigDict()
    config.task = ""
    config.seed = 0
    config.seeds = 3
    config.data = ml_collections.ConfigDict()  # what the task is made of

    # feed_forward, a cell, bidirectional_ and a cell; a cell may be your own, "module:name"
    config.networks = ("lstm",)
    config.hidden_size = 64
    config.layers = 1
    config.dropout = 0.0

    config.optimiser = "adam"
    config.learning_rate = 0.003
    config.schedule = "constant"
    config.weight_decay = 0.0  # of adamw
    config.clip = 1.0  # the largest global norm of the gradient; inf for no clipping
    config.batch = 32
    config.updates = 2000  # at most
    config.every = 100  # updates between two looks at the validation set
    config.patience = 10  # looks without anything better before it stops
    config.shown = 5  # examples in the summary
    return config


# What some models have besides: those that read or say tokens, that sum up a sequence, that say
# something of a vector.
TOKENS = {
    "embedding": 32,  # size of a token's vector
    "embedding_gain": 1.0,  # whose entries begin with the deviation gain / sqrt(embedding)
}
SUMMARY = {"pool": "last"}  # how a sequence becomes one vector: last, mean, ends
SPEAKER = TOKENS | {"features": (128,)}  # hidden layers between a vector and the decoder
ENCODER_DECODER = TOKENS | {"pool": "ends", "attention": True}


def task(
    name: str, data: dict[str, Any], model: dict[str, Any], **fields: Any
) -> ml_collections.ConfigDict:
    """`base` with a task's own data, what its model has besides, and other values."""
    config = base()
    config.task = name
    config.data.update(data)
    config.update(model | fields)
    return config


TASKS: dict[str, Callable[[], ml_collections.ConfigDict]] = {
    "digits": lambda: task(
        "digits",
        {"seed": 0},
        SUMMARY,
        networks=("feed_forward", "lstm", "bidirectional_lstm"),
        dropout=0.3,
        updates=4000,
        every=200,
    ),
    "captions": lambda: task(
        "captions",
        {"seed": 0, "train": 6000},
        SPEAKER,
        hidden_size=128,
        updates=8000,
        every=400,
    ),
    "music": lambda: task(
        "music", {"seed": 0}, SPEAKER, networks=("gru",), dropout=0.3, updates=1500
    ),
    "sentiment": lambda: task(
        "sentiment",
        # The user's file, or a set of the hub, and how many tokens of a text are read.
        {"seed": 0, "path": "", "text": "", "label": "", "hub": "", "longest": 64},
        TOKENS | SUMMARY,
        networks=("gru",),
        updates=1000,
    ),
    "forecasting": lambda: task(
        "forecasting",
        # Or co2; or the user's table with the names of its columns, and its period in steps.
        {
            "series": "sunspots",
            "path": "",
            "column": "",
            "time": "",
            "unit": "",
            "period": 0,
            "window": 0,
        },
        SUMMARY,
        seeds=5,
        hidden_size=16,
        optimiser="adamw",
        weight_decay=0.01,
        updates=1500,
        every=50,
    ),
    "characters": lambda: task(
        "characters",
        {"path": "", "steps": 64, "limit": 4000},
        TOKENS,
        networks=("gru",),
        hidden_size=256,
        dropout=0.15,
        learning_rate=0.004,
        schedule="warmup_cosine",
        batch=24,
        seeds=2,
        updates=4400,
        every=400,
    ),
    "words": lambda: task(
        "words",
        {"path": "", "steps": 32, "limit": 4000},
        TOKENS,
        hidden_size=128,
        embedding=128,
        dropout=0.3,
        updates=1600,
        patience=4,
    ),
    "video": lambda: task(
        "video",
        {"seed": 0, "train": 2000},
        {},
        networks=("convlstm",),
        hidden_size=12,
        updates=1200,
    ),
    "translation": lambda: task(
        "translation",
        {"seed": 0, "source": "en", "target": "de", "largest": 9999, "count": 10_000},
        ENCODER_DECODER,
        networks=("bidirectional_gru",),
        updates=1500,
    ),
    "questions": lambda: task(
        "questions",
        {"seed": 0, "sentences": (2, 5), "count": 30_000},
        ENCODER_DECODER,
        networks=("bidirectional_gru",),
        layers=2,
        embedding_gain=6.0,  # at 1 it may learn no more than which kind of answer is asked for
        schedule="warmup_cosine",
        seeds=2,
        updates=5000,
        every=500,
    ),
    "handwriting": lambda: task(
        "handwriting",
        {"seed": 0, "train": 6000, "path": ""},  # or the user's features and transcripts
        {},
        networks=("lstm", "bidirectional_lstm"),
        updates=1600,
    ),
}

SMOKE: dict[str, dict[str, Any]] = {
    "digits": {"networks": ("feed_forward", "gru"), "hidden_size": 32, "updates": 200},
    "captions": {"data": {"train": 1000}, "updates": 500},
    "music": {"hidden_size": 32, "learning_rate": 0.01, "batch": 16, "updates": 200},
    "sentiment": {"updates": 500},
    "forecasting": {"updates": 300},
    "characters": {"hidden_size": 64, "learning_rate": 0.01, "updates": 200},
    "words": {"data": {"limit": 300}, "hidden_size": 64, "updates": 200},
    "video": {"data": {"train": 300}, "hidden_size": 6, "updates": 100},
    "translation": {"data": {"largest": 999, "count": 1000}, "batch": 16, "updates": 300},
    "questions": {
        "data": {"sentences": (2, 3), "count": 3000},
        "hidden_size": 24,
        "layers": 1,
        "learning_rate": 0.005,
        "batch": 16,
        "updates": 500,
    },
    "handwriting": {
        "data": {"train": 500},
        "networks": ("bidirectional_lstm",),
        "hidden_size": 48,
        "learning_rate": 0.007,
        "batch": 16,
        "updates": 300,
    },
}


def smoke(name: str) -> ml_collections.ConfigDict:
    """The task once, small."""
    config = TASKS[name]()
    config.seeds = 1
    config.every = 100
    fields = dict(SMOKE[name])
    config.data.update(fields.pop("data", {}))
    config.update(fields)
    return config


def get_config(variant: str = "digits") -> ml_collections.ConfigDict:
    """The configuration of a variant."""
    smokes = {f"{name}_smoke": functools.partial(smoke, name) for name in TASKS}
    return select_variant(TASKS | smokes, variant)
