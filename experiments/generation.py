"""What a trained network says of its own accord: text, melodies, the words that may come next."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.rundir import write_file
from rnn_jax.base import Params
from rnn_jax.models import beam, sampled
from rnn_jax.tasks.chorales import Chorales, to_midi
from rnn_jax.tasks.language import Language
from rnn_jax.tasks.problem import Problem
from rnn_jax.tasks.vocabulary import END, PAD, START, UNKNOWN

MELODIES = 3
"""How many are written, in major and in minor by turns."""
_LONGEST = 100
_SYMBOLS = {"next character": 300, "next word": 60}


def products(
    key: jax.Array, model: nn.Module, params: Params, problem: Problem, folder: Path
) -> list[str]:
    """Writes what a network can make into a folder, and says it in lines for the summary."""
    if isinstance(problem, Chorales):
        return _melodies(key, model, params, problem, folder)
    if isinstance(problem, Language):
        start = int(problem.test.inputs[0, 0])
        text = continued(
            key, model, params, problem, [start], count=_SYMBOLS[problem.name], temperature=0.8
        )
        write_file(folder / "sample.txt", f"{text}\n".encode())
        return [f"Sampled at temperature 0.8: {' '.join(text.split())}"]
    return []


def _melodies(
    key: jax.Array, model: nn.Module, params: Params, problem: Chorales, folder: Path
) -> list[str]:
    @jax.jit
    @jax.vmap
    def melody(key: jax.Array, mode: jax.Array) -> jax.Array:
        state = model.apply({"params": params}, mode, method="begin")
        step = _forbidding(_step(model, params), (PAD, START, UNKNOWN))
        return sampled(key, step, state, START, _LONGEST, temperature=0.9, end=END).tokens

    modes = jnp.eye(2)[np.arange(MELODIES) % 2]
    lines = []
    for n, tokens in enumerate(np.asarray(melody(jax.random.split(key, MELODIES), modes))):
        notes = problem.vocabulary.decode(tokens)
        if not notes:
            continue
        name = f"melody_{n + 1}_{('major', 'minor')[n % 2]}.mid"
        with tempfile.TemporaryDirectory() as elsewhere:
            to_midi(notes, Path(elsewhere, name))
            write_file(folder / name, Path(elsewhere, name).read_bytes())
        lines.append(f"{name}: {' '.join(notes)}")
    return lines


def read(model: nn.Module, params: Params, tokens: Sequence[int]) -> tuple[Any, jax.Array]:
    """The state after the tokens, which are one or more, and the logits of the next."""
    inputs = jnp.asarray(tokens, jnp.int32)
    result: Any = model.apply({"params": params}, inputs, method="run")
    state, outputs = result
    return state, outputs[-1]


def suggestions(
    model: nn.Module, params: Params, problem: Language, prefix: str, count: int
) -> list[tuple[str, float]]:
    """The most probable symbols after a text, with their probabilities; no `UNKNOWN`.

    Raises:
      ValueError: for a prefix without a symbol, or more suggestions than there are symbols.
    """
    tokens = encoded(problem, prefix)
    if not 1 <= count <= len(problem.vocabulary.symbols):
        most = len(problem.vocabulary.symbols)
        raise ValueError(f"count must be between 1 and {most}, got {count}")
    _, logits = read(model, params, tokens)
    probabilities = np.asarray(jax.nn.softmax(logits))
    order = [token for token in np.argsort(-probabilities).tolist() if token > UNKNOWN][:count]
    symbols = [problem.vocabulary.decode([token])[0] for token in order]
    return [
        (symbol, float(probabilities[token])) for symbol, token in zip(symbols, order, strict=True)
    ]


def encoded(problem: Language, prefix: str) -> list[int]:
    """The tokens of a text.

    Raises:
      ValueError: if it has no symbol.
    """
    tokens = problem.vocabulary.encode(problem.split(prefix))
    if not tokens:
        raise ValueError(f"prefix has nothing to go on from: {prefix!r}")
    return tokens


def continued(
    key: jax.Array,
    model: nn.Module,
    params: Params,
    problem: Language,
    tokens: Sequence[int],
    *,
    count: int,
    temperature: float,
) -> str:
    """So many symbols sampled after some tokens."""
    step, state = _speaker(model, params, tokens)
    decoded = sampled(key, step, state, tokens[-1], count, temperature=temperature)
    return problem.join(problem.vocabulary.decode(np.asarray(decoded.tokens)))


def likeliest(
    model: nn.Module,
    params: Params,
    problem: Language,
    tokens: Sequence[int],
    *,
    count: int,
    width: int,
) -> list[tuple[str, float]]:
    """The ``width`` best continuations of ``count`` symbols that a beam of that width finds.

    With their probabilities among all that hold no `UNKNOWN`; fewer where there are fewer.
    """
    step, state = _speaker(model, params, tokens)
    found = beam(step, state, tokens[-1], count, width=width)
    probabilities = np.exp(np.asarray(found.log_probability, float))
    texts = [problem.join(problem.vocabulary.decode(row)) for row in np.asarray(found.tokens)]
    return [(text, float(p)) for text, p in zip(texts, probabilities, strict=True) if p > 0]


def _speaker(model: nn.Module, params: Params, tokens: Sequence[int]) -> tuple[Callable, Any]:
    """The step that says symbols alone, and its state before the last of the tokens."""
    state = model.apply({"params": params}, method="initial_state")
    if len(tokens) > 1:
        state, _ = read(model, params, tokens[:-1])
    return _forbidding(_step(model, params), (PAD, START, END, UNKNOWN)), state


def _step(model: nn.Module, params: Params) -> Callable:
    return functools.partial(model.apply, {"params": params}, method="step")


def _forbidding(step: Callable, tokens: Sequence[int]) -> Callable:
    """The step with no probability for some tokens."""

    def allowed(state: Any, token: jax.Array) -> tuple[Any, jax.Array]:
        state, logits = step(state, token)
        return state, logits.at[jnp.array(tokens)].set(-jnp.inf)

    return allowed
