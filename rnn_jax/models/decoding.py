"""Sequences out of a model that says one token at a time: greedy, sampled and beam search.

Any function ``step(state, token) -> (state, logits (K,))`` will do, its state any pytree. All are
of one example and can be jitted; ``vmap`` for a batch. A token is forbidden by a logit of -inf.

Where logits hold NaN or +inf, the log probability is NaN and the tokens mean nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.arguments import as_array, check_key, check_number, check_positive, describe
from rnn_jax.base import State
from rnn_jax.numerics import wide_dtype
from rnn_jax.tasks.vocabulary import PAD

Step = Callable[[State, jax.Array], tuple[State, jax.Array]]
"""(state, the token before ()) -> (state of the same shapes and dtypes, logits (K,))."""


class Decoded(NamedTuple):
    """What was said, one token a step.

    Attributes:
      tokens: (steps,) int32; after the end padding, `vocabulary.PAD`.
      log_probability: (), of these tokens under the model, ln, summed up to the end and with it:
        the same measure however they were chosen. float32 for logits of half precision.
      length: () int32, the tokens before the padding, the end among them.
    """

    tokens: jax.Array
    log_probability: jax.Array
    length: jax.Array


def greedy(
    step: Step, state: State, first: jax.typing.ArrayLike, steps: int, *, end: int | None = None
) -> Decoded:
    """Says the most likely token at each step; of equal ones, that of the lowest number.

    Args:
      step: `Step`.
      state: before the first step.
      first: the token that the first step reads, an integer (); it may be K or more.
      steps: how many tokens to say at most.
      end: the token after which nothing more is said; None if there is no such token.

    Raises:
      ValueError: for sizes out of range, or shapes or dtypes that do not fit; names the argument.
      TypeError: for arguments of another type.

    A cell that says the token after the one it reads:

    >>> import rnn_jax
    >>> cell = rnn_jax.elman("identity")
    >>> params = {"kernel": jnp.eye(5), "recurrent_kernel": jnp.zeros((5, 5)),
    ...           "bias": jnp.zeros(5)}
    >>> def step(state, token):
    ...     state, hidden = cell(params, state, jax.nn.one_hot(token, 5))
    ...     return state, 9 * jnp.roll(hidden, 1)
    >>> said = greedy(step, cell.initial_state(params), 1, 6, end=4)
    >>> said.tokens.tolist(), int(said.length), round(float(said.log_probability), 4)
    ([2, 3, 4, 0, 0, 0], 3, -0.0015)
    """

    def most_likely(t: jax.Array, logits: jax.Array) -> jax.Array:
        del t
        return jnp.argmax(logits)

    return _decoded(most_likely, step, state, first, steps, end)


def sampled(
    key: jax.Array,
    step: Step,
    state: State,
    first: jax.typing.ArrayLike,
    steps: int,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end: int | None = None,
) -> Decoded:
    """Draws each token from softmax(logits / temperature), or from the likelier part of it.

    ``top_k`` keeps the k most likely tokens. ``top_p`` then keeps the nucleus: of what is left,
    renormalised, the fewest of the most likely tokens with a probability of at least p together.
    Of equally likely tokens those of lower numbers come first.

    Args:
      key: the first tokens for a key are the same for any ``steps``.
      step, state, first, steps, end: as in `greedy`.
      temperature: (), finite and at least 0, which is `greedy`. It may be traced and cannot be
        checked then: what is not above 0 counts as 0.
      top_k: at least 1; K or more keep all. None keeps all.
      top_p: in (0, 1]; 1 keeps all, as does None.

    Raises:
      ValueError, TypeError: as `greedy`; for ``temperature``, ``top_k`` or ``top_p`` likewise.

    References:
      Holtzman, Buys, Du, Forbes and Choi (2020), arXiv:1904.09751, on the nucleus.

    >>> step = lambda state, token: (state, jnp.log(jnp.array([0.1, 0.6, 0.3])))
    >>> said = sampled(jax.random.key(0), step, (), 0, 100, top_p=0.8)
    >>> sorted(set(said.tokens.tolist()))
    [1, 2]
    """
    check_key("sampled", key)
    temperature = _checked_temperature(temperature)
    top_k = None if top_k is None else check_positive("top_k", top_k)
    top_p = 1.0 if top_p is None else check_number("top_p", top_p, zero=False)
    if top_p > 1:
        raise ValueError(f"top_p must be at most 1, got {top_p}")

    def draw(t: jax.Array, logits: jax.Array) -> jax.Array:
        heat = jnp.asarray(temperature, logits.dtype)
        # Within these bounds neither the temperature nor its reciprocal is 0 or infinite, which
        # would make NaN of a difference of 0 or -inf.
        tiny = float(jnp.finfo(logits.dtype).tiny)
        scaled = (logits - jnp.max(logits)) / jnp.clip(heat, tiny, 1 / tiny)
        kept = _likelier(scaled, top_k, top_p)
        drawn = jax.random.categorical(jax.random.fold_in(key, t), kept)
        return jnp.where(heat > 0, drawn, jnp.argmax(logits))

    return _decoded(draw, step, state, first, steps, end)


def beam(
    step: Step,
    state: State,
    first: jax.typing.ArrayLike,
    steps: int,
    *,
    width: int,
    end: int | None = None,
    length_penalty: float = 0.0,
) -> Decoded:
    """Beam search: the ``width`` best beginnings at each step, and what they are continued by.

    The score is log_probability / ((5 + length) / 6)^length_penalty, by which beams are ranked at
    each step and at last; ``log_probability`` itself stays undivided. A beam that has ended
    competes with the others as it is. One as wide as there are sequences finds the best of all;
    width 1 is `greedy`.

    Args:
      step, state, first, steps, end: as in `greedy`.
      width: W, how many beams.
      length_penalty: at least 0; 0 favours short sequences, 1 nearly compares means per token.

    Returns:
      `Decoded` with a leading axis W, the best score first and NaN before any. Beams beyond the
      number of sequences are empty: length 0 and log probability -inf.

    Raises:
      ValueError, TypeError: as `greedy`; for ``width`` or ``length_penalty`` likewise.

    References:
      Wu et al. (2016), arXiv:1609.08144, section 7, for the score.

    The likeliest token leads to where nothing is likely:

    >>> table = jnp.log(jnp.array([[0, 0.6, 0.4], [0.3, 0.4, 0.3], [0.9, 0.1, 0]]))
    >>> step = lambda state, token: (state, table[token])
    >>> said = beam(step, (), 0, 2, width=2)
    >>> said.tokens.tolist(), [f"{p:.2f}" for p in jnp.exp(said.log_probability)]
    ([[2, 0], [1, 1]], ['0.36', '0.24'])
    """
    width = check_positive("width", width)
    length_penalty = check_number("length_penalty", length_penalty)
    steps, state, token, end, logits = _checked(step, state, first, steps, end)
    ways = min(width, logits.size)  # no more of the continuations of one beam can be among the best

    def extend(carry: Any, t: jax.Array) -> tuple[Any, None]:
        states, last, ended, said = carry
        states, logits = jax.vmap(step)(states, last)
        logits = _wide(logits)
        # By logits, not by sums of logarithms, whose rounding may make them equal; and not by
        # `top_k`, to which -0.0 is less than 0.0: so width 1 always chooses as `greedy` does.
        tokens = jnp.argsort(logits, descending=True, stable=True)[:, :ways].astype(jnp.int32)
        gains = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens, axis=1)
        # What has ended goes on in one way, which costs nothing; what is empty, in none.
        padding = jnp.where(jnp.arange(ways) == 0, 0, -jnp.inf).astype(gains.dtype)
        gains = jnp.where(ended[:, None], padding[None], gains)
        tokens = jnp.where(ended[:, None], PAD, tokens)
        sums = said.log_probability[:, None]
        sums = jnp.where(jnp.isneginf(sums), -jnp.inf, sums + gains)
        length = jnp.where(ended, said.length, said.length + 1)
        scores = sums / _penalty(length, length_penalty, sums.dtype)[:, None]
        _, best = lax.top_k(jnp.where(jnp.isnan(scores), jnp.inf, scores).ravel(), width)
        parent, way = jnp.divmod(best, ways)
        last = tokens[parent, way]
        said = Decoded(said.tokens[parent].at[:, t].set(last), sums[parent, way], length[parent])
        states = jax.tree.map(lambda leaf: leaf[parent], states)
        return (states, last, ended[parent] | (last == end), said), None

    start = Decoded(
        jnp.full((width, steps), PAD, jnp.int32),
        jnp.full(width, -jnp.inf, wide_dtype(logits)).at[0].set(0),
        jnp.zeros(width, jnp.int32),
    )
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (width, *leaf.shape)), state)
    carry = (states, jnp.full(width, token), jnp.zeros(width, bool), start)
    (_, _, _, said), _ = lax.scan(extend, carry, jnp.arange(steps))
    empty = jnp.isneginf(said.log_probability)
    tokens = jnp.where(empty[:, None], PAD, said.tokens)
    return Decoded(tokens, said.log_probability, jnp.where(empty, 0, said.length))


def _penalty(length: jax.Array, exponent: float, dtype: Any) -> jax.Array:
    """((5 + length) / 6)^exponent."""
    return ((5 + length.astype(dtype)) / 6) ** exponent


def _wide(logits: jax.Array) -> jax.Array:
    """At least float32: sums of logarithms in half precision would tell little."""
    return logits.astype(wide_dtype(logits))


def _decoded(
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    step: Step,
    state: State,
    first: jax.typing.ArrayLike,
    steps: int,
    end: int | None,
) -> Decoded:
    """Says what ``choose(t, logits)`` says, until the end."""
    steps, state, token, end, _ = _checked(step, state, first, steps, end)

    def say(carry: Any, t: jax.Array) -> tuple[Any, Any]:
        state, token, ended = carry
        state, logits = step(state, token)
        logits = _wide(logits)
        token = jnp.where(ended, PAD, choose(t, logits).astype(jnp.int32))
        gain = jnp.where(ended, 0, jax.nn.log_softmax(logits)[token])
        return (state, token, ended | (token == end)), (token, gain, ~ended)

    carry = (state, token, jnp.zeros((), bool))
    _, (tokens, gains, said) = lax.scan(say, carry, jnp.arange(steps))
    return Decoded(tokens, jnp.sum(gains), jnp.sum(said, dtype=jnp.int32))


def _likelier(logits: jax.Array, top_k: int | None, top_p: float) -> jax.Array:
    """The logits (K,), -inf where a token is not among the ``top_k`` or not of the nucleus."""
    order = jnp.argsort(logits, descending=True, stable=True)
    ranked = logits[order]
    if top_k is not None:
        ranked = jnp.where(jnp.arange(ranked.size) < top_k, ranked, -jnp.inf)
    # Not for a nucleus of everything: rounded to 1, the sum would cut off the tail.
    if top_p < 1:
        before = jnp.cumsum(jax.nn.softmax(ranked))[:-1]
        ranked = ranked.at[1:].set(jnp.where(before < top_p, ranked[1:], -jnp.inf))
    return jnp.zeros_like(logits).at[order].set(ranked)


def _checked_temperature(temperature: Any) -> Any:
    """One number, finite and at least 0 unless it is traced."""
    if np.shape(temperature) != ():
        raise ValueError(f"temperature must be one number, got shape {np.shape(temperature)}")
    if isinstance(temperature, jax.core.Tracer):
        return temperature
    if isinstance(temperature, jax.Array | np.ndarray):
        temperature = temperature.item()
    return check_number("temperature", temperature)


def _checked(
    step: Step, state: State, first: jax.typing.ArrayLike, steps: int, end: int | None
) -> tuple[int, State, jax.Array, int, jax.ShapeDtypeStruct]:
    """The number of steps, state, first token and end (-1 for none), and what logits look like."""
    if not callable(step):
        raise TypeError(f"step must be a function (state, token) -> (state, logits), got {step!r}")
    steps = check_positive("steps", steps)
    state = jax.tree.map(jnp.asarray, state)
    token = as_array("first", first)
    if not jnp.issubdtype(token.dtype, jnp.integer):
        raise TypeError(f"first must be an integer, got {token.dtype}")
    if token.shape != ():
        raise ValueError(f"first must be one token of shape (), got {token.shape}; vmap for more")
    token = token.astype(jnp.int32)

    made = jax.eval_shape(step, state, token)
    if not isinstance(made, tuple) or len(made) != 2:
        raise TypeError(f"step must return (state, logits), got {made!r}")
    new, logits = made
    if describe(new) != describe(state):
        raise ValueError(
            f"step must return a state like the one it is given, {describe(state)}, got "
            f"{describe(new)}"
        )
    if not isinstance(logits, jax.ShapeDtypeStruct):
        raise TypeError(f"step must return logits as one array (K,), got {logits!r}")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"step must return logits of a floating dtype, got {logits.dtype}")
    if logits.ndim != 1 or not logits.size:
        raise ValueError(f"step must return logits of shape (K,), got {logits.shape}")
    if end is None:
        return steps, state, token, -1, logits
    end = check_positive("end", end, zero=True)
    if end >= logits.size:
        raise ValueError(f"end must be one of the {logits.size} tokens that step says, got {end}")
    return steps, state, token, end, logits
