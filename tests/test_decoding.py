"""Decoding: against every sequence there is, a list-based beam search, and known distributions."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import rnn_jax
from rnn_jax.models.decoding import beam, greedy, sampled
from rnn_jax.tasks.vocabulary import PAD

TOKENS, HIDDEN, START, END = 3, 4, 1, 2
CELL = rnn_jax.elman()


def network(seed, dtype=jnp.float64, scale=2.0):
    """An Elman network over one-hot tokens, sharp enough for its likely sequences to differ."""
    of_cell, of_readout = jax.random.split(jax.random.key(seed))
    params = CELL.init(of_cell, TOKENS, HIDDEN, dtype=dtype)
    return params, scale * jax.random.normal(of_readout, (HIDDEN, TOKENS), dtype)


def step_of(model):
    params, readout = model

    def step(state, token):
        state, hidden = CELL(params, state, jax.nn.one_hot(token, TOKENS, dtype=readout.dtype))
        return state, hidden @ readout

    return step


@functools.partial(jax.jit, static_argnames=("steps", "width", "end", "length_penalty"))
def run_beam(model, steps, **options):
    return beam(step_of(model), CELL.initial_state(model[0]), START, steps, **options)


@functools.partial(jax.jit, static_argnames=("steps", "end"))
def run_greedy(model, steps, end=None):
    return greedy(step_of(model), CELL.initial_state(model[0]), START, steps, end=end)


@functools.partial(jax.jit, static_argnames=("steps", "top_k", "top_p", "end"))
def run_sampled(key, model, steps, temperature=1.0, **options):
    state = CELL.initial_state(model[0])
    return sampled(key, step_of(model), state, START, steps, temperature=temperature, **options)


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def log_probabilities(model, said):
    """ln p(next token | said), by NumPy and from the beginning."""
    params, readout = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model)
    hidden = np.zeros(HIDDEN)
    for token in (START, *said):
        drive = params["kernel"][token] + params["bias"]
        hidden = np.tanh(drive + hidden @ params["recurrent_kernel"])
    return log_softmax(hidden @ readout)


def log_probability(model, said):
    return sum(log_probabilities(model, said[:t])[token] for t, token in enumerate(said))


def score(total, length, length_penalty):
    return total / ((5 + length) / 6) ** length_penalty


def all_sequences(steps, end):
    """Every sequence that can be said, without what would follow its end."""
    whole = itertools.product(range(TOKENS), repeat=steps)
    return {said[: said.index(end) + 1] if end in said else said for said in whole}


def beam_by_lists(model, steps, width, end, length_penalty):
    """Beam search over lists of (total, sequence): no gathering, no padding, no carried states."""
    beams = [(0.0, ())]
    for _ in range(steps):
        candidates = []
        for total, said in beams:
            if said and said[-1] == end:
                candidates.append((total, said))
                continue
            gains = log_probabilities(model, said)
            candidates += [(total + gains[token], (*said, token)) for token in range(TOKENS)]
        candidates.sort(key=lambda pair: -score(pair[0], len(pair[1]), length_penalty))
        beams = candidates[:width]
    return beams


def sequences(decoded):
    """The tokens of each row up to its length; the rest must be padding."""
    for tokens, length in zip(np.asarray(decoded.tokens), np.asarray(decoded.length), strict=True):
        assert (tokens[length:] == PAD).all()
        yield tuple(tokens[:length].tolist())


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_there_are_sequences_finds_them_all(end, length_penalty):
    steps, width = 4, TOKENS**4
    for seed in range(4):
        model = network(seed)
        found = run_beam(model, steps, width=width, end=end, length_penalty=length_penalty)
        expected = {said: log_probability(model, said) for said in all_sequences(steps, end)}
        count = len(expected)
        said = list(sequences(found))
        assert set(said[:count]) == set(expected)
        totals = np.asarray(found.log_probability)
        np.testing.assert_allclose(totals[:count], [expected[s] for s in said[:count]], atol=1e-12)
        scores = score(totals[:count], np.asarray(found.length[:count]), length_penalty)
        assert (np.diff(scores) <= 0).all()
        # They are the whole distribution, and beyond them is nothing.
        assert np.exp(totals).sum() == pytest.approx(1, abs=1e-12)
        assert said[count:] == [()] * (width - count)
        assert (totals[count:] == -np.inf).all()


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize(("end", "length_penalty"), [(None, 0.0), (END, 0.0), (END, 0.8)])
def test_a_narrow_beam_keeps_what_a_search_over_lists_keeps(width, end, length_penalty):
    """In float64, where no two of these scores are so near that rounding could swap them."""
    for seed in range(8):
        model = network(seed)
        found = run_beam(model, 6, width=width, end=end, length_penalty=length_penalty)
        expected = beam_by_lists(model, 6, width, end, length_penalty)
        assert list(sequences(found)) == [said for _, said in expected]
        np.testing.assert_allclose(found.log_probability, [t for t, _ in expected], atol=1e-12)


def test_a_length_penalty_prefers_longer_sequences():
    """End at once with 0.5, or say seven tokens of which all but the first are certain."""
    with np.errstate(divide="ignore"):
        table = np.log(np.array([[0, 0.3, 0.2, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))

    def lengths(length_penalty):
        step = lambda state, token: (state, jnp.asarray(table)[token])
        return beam(step, (), 0, 7, width=4, end=3, length_penalty=length_penalty).length.tolist()

    # ln 0.5 = -0.69 against ln 0.3 / 2^alpha: -1.20 and -0.60; the fourth beam is empty.
    assert lengths(0.0) == [1, 7, 7, 0]
    assert lengths(1.0) == [7, 1, 7, 0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_beam_of_one_is_greedy(dtype):
    for seed in range(8):
        model = network(seed, dtype, scale=0.3)
        for end in (None, END):
            alone = run_beam(model, 9, width=1, end=end)
            best = run_greedy(model, 9, end=end)
            np.testing.assert_array_equal(alone.tokens[0], best.tokens)
            assert alone.length[0] == best.length
            # The same sum of nine logarithms, compiled in another way.
            rtol = 100 * float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(alone.log_probability[0], best.log_probability, rtol=rtol)
            assert alone.log_probability.dtype == best.log_probability.dtype == dtype


@pytest.mark.parametrize("logits", [(0.0, 1e-6, 0.0), (-0.0, 0.0, 0.0), (-3e38, 0.0, 3e38)])
def test_a_beam_of_one_is_greedy_where_logits_are_almost_equal_or_far_apart(logits):
    """After 40 tokens of probability 1/3 a sum in float32 has a spacing of 4e-6."""
    step = lambda state, token: (state, jnp.array(logits, jnp.float32))
    alone, best = beam(step, (), 0, 50, width=1), greedy(step, (), 0, 50)
    assert set(best.tokens.tolist()) == {int(np.argmax(logits))}
    np.testing.assert_array_equal(alone.tokens[0], best.tokens)
    np.testing.assert_allclose(alone.log_probability[0], best.log_probability, rtol=1e-5)


def test_greedy_is_the_argmax_of_each_step():
    for seed in range(8):
        model = network(seed)
        for end in (None, END):
            (said,) = sequences(jax.tree.map(lambda leaf: leaf[None], run_greedy(model, 9, end)))
            assert len(said) == 9 or said[-1] == end
            assert END not in said[:-1] or end is None
            for t, token in enumerate(said):
                assert token == np.argmax(log_probabilities(model, said[:t]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("options", [{}, {"temperature": 3.0}, {"top_k": 2, "top_p": 0.7}])
def test_the_log_probability_is_that_of_the_tokens_under_the_model_itself(dtype, options):
    model = network(3, dtype)
    keys = jax.random.split(jax.random.key(0), 20)
    said = jax.vmap(lambda key: run_sampled(key, model, 7, end=END, **options))(keys)
    assert said.log_probability.dtype == dtype
    expected = [log_probability(model, tokens) for tokens in sequences(said)]
    # Seven sums of logits of order one.
    atol = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(said.log_probability, expected, atol=atol)


def likelier(probabilities, top_k=None, top_p=None):
    """The tokens that are left, by going down the list."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])[:top_k]
    if top_p is None:
        return order
    whole = sum(probabilities[token] for token in order)
    left, mass = [], 0.0
    for token in order:
        if mass >= top_p * whole:
            break
        left.append(token)
        mass += probabilities[token]
    return left


@functools.partial(jax.jit, static_argnames=("top_k", "top_p"))
def draw_often(logits, temperature, **options):
    """20 000 first tokens."""
    step = lambda state, token: (state, logits)
    draw = lambda key: sampled(key, step, (), 0, 1, temperature=temperature, **options).tokens[0]
    return jax.vmap(draw)(jax.random.split(jax.random.key(7), 20_000))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 4},
        {"top_k": 99},
        {"top_p": 0.05},
        {"top_p": 0.55},
        {"top_p": 0.97},
        {"top_p": 1.0},
        {"top_k": 5, "top_p": 0.55},
        {"top_k": 3, "top_p": 0.75},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_tokens_are_drawn_as_often_as_they_are_likely_and_no_others(options, temperature):
    """Chi-square over 20 000 draws; the seed is fixed, so that p > 0.001 holds or does not."""
    logits = np.array([0.3, 2.0, -0.5, 1.1, 0.3, -1.7, 1.6, -np.inf])
    tokens = draw_often(jnp.asarray(logits), temperature, **options)
    counts = np.bincount(tokens, minlength=logits.size)
    probabilities = np.exp(log_softmax(logits / temperature))
    left = [token for token in likelier(probabilities, **options) if probabilities[token] > 0]
    assert counts[left].sum() == 20_000
    expected = 20_000 * probabilities[left] / probabilities[left].sum()
    assert stats.chisquare(counts[left], expected).pvalue > 1e-3 or len(left) == 1
    assert (counts[left] > 0).all()


def test_whole_sequences_are_drawn_as_often_as_they_are_likely():
    """Each step from what the steps before it said: 15 sequences with an end, 20 000 draws."""
    model = network(5, scale=1.0)
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = list(sequences(jax.vmap(lambda key: run_sampled(key, model, 3, end=END))(keys)))
    every = sorted(all_sequences(3, END))
    counts = [drawn.count(said) for said in every]
    expected = [20_000 * math.exp(log_probability(model, said)) for said in every]
    assert min(expected) > 5
    assert sum(counts) == 20_000
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_temperature_may_be_traced_from_nothing_to_the_largest(dtype):
    model = network(2, dtype)
    key = jax.random.key(4)
    best = run_greedy(model, 8)
    for cold in (0.0, 1e-320, 1e-30, -1.0):
        said = run_sampled(key, model, 8, jnp.asarray(cold, dtype))
        np.testing.assert_array_equal(said.tokens, best.tokens)
    warm = run_sampled(key, model, 8, 0.7)
    by_number = sampled(
        key, step_of(model), CELL.initial_state(model[0]), START, 8, temperature=0.7
    )
    np.testing.assert_array_equal(warm.tokens, by_number.tokens)
    # Of equal tokens the first, for certain, at temperature 0; any that is allowed when hottest.
    equal = jnp.array([-jnp.inf, 1.0, 1.0, 0.0], dtype)
    flat = lambda temperature: sampled(
        key, lambda state, token: (state, equal), (), 0, 200, temperature=temperature
    )
    hottest = float(jnp.finfo(dtype).max)
    assert set(flat(0.0).tokens.tolist()) == {1}
    assert set(flat(1e-30).tokens.tolist()) == {1, 2}
    assert set(flat(hottest).tokens.tolist()) == {1, 2, 3}


def test_the_first_tokens_do_not_depend_on_how_many_are_asked_for():
    model, key = network(0), jax.random.key(0)
    long = run_sampled(key, model, 12).tokens
    np.testing.assert_array_equal(run_sampled(key, model, 5).tokens, long[:5])
    assert len(set(long.tolist())) > 1


def test_a_batch_is_its_examples():
    models = [network(seed) for seed in range(5)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    keys = jax.random.split(jax.random.key(0), 5)
    for batch, one in (
        (jax.vmap(lambda m: run_greedy(m, 6, END)), lambda m, key: run_greedy(m, 6, END)),
        (
            jax.vmap(lambda m: run_beam(m, 6, width=3, end=END)),
            lambda m, key: run_beam(m, 6, width=3, end=END),
        ),
        (
            lambda m: jax.vmap(lambda m, key: run_sampled(key, m, 6, top_p=0.9))(m, keys),
            lambda m, key: run_sampled(key, m, 6, top_p=0.9),
        ),
    ):
        several = batch(stacked)
        for i, model in enumerate(models):
            alone = one(model, keys[i])
            np.testing.assert_array_equal(several.tokens[i], alone.tokens)
            np.testing.assert_array_equal(several.length[i], alone.length)
            np.testing.assert_allclose(
                several.log_probability[i], alone.log_probability, rtol=1e-12
            )


def remember(table):
    """The state is all that was read, besides leaves of several kinds that say the same."""

    def step(state, token):
        t, history, sums = state["t"], state["history"], state["sums"]
        history = history.at[t].set(token)
        sums = {"of": sums["of"] + jax.nn.one_hot(token, TOKENS, dtype=jnp.float32)}
        place = jnp.sum(history * TOKENS ** jnp.arange(len(history), dtype=jnp.int32))
        return {"t": t + 1, "history": history, "sums": sums}, table[place]

    return step


def test_each_beam_has_the_state_of_its_own_history():
    """Logits drawn at random for each history: a state gathered wrongly says something else."""
    steps, width = 5, 6
    table = jax.random.normal(jax.random.key(0), (TOKENS**steps, TOKENS))
    initial = {
        "t": jnp.int32(0),
        "history": jnp.zeros(steps, jnp.int32),
        "sums": {"of": jnp.zeros(TOKENS, jnp.float32)},
    }
    found = beam(remember(table), initial, START, steps, width=width)
    assert len(set(sequences(found))) == width
    for said, total in zip(sequences(found), found.log_probability, strict=True):
        expected, state = 0.0, initial
        for before, token in zip((START, *said), said, strict=False):
            state, logits = remember(table)(state, jnp.int32(before))
            expected += jax.nn.log_softmax(logits)[token]
        np.testing.assert_allclose(total, expected, atol=1e-12)


def test_half_precision_is_added_up_in_float32():
    logits = jnp.array([1.0, 0.0], jnp.bfloat16)
    step = lambda state, token: (state, logits)
    expected = 1000 * log_softmax(np.array([1.0, 0.0]))[0]
    for said in (greedy(step, (), 0, 1000), beam(step, (), 0, 1000, width=1)):
        assert said.log_probability.dtype == jnp.float32
        np.testing.assert_allclose(said.log_probability, expected, rtol=1e-4)


def three_ways(step, state, steps, **options):
    key = jax.random.key(0)
    yield greedy(step, state, 0, steps, **options)
    yield sampled(key, step, state, 0, steps, top_k=2, top_p=0.5, **options)
    found = beam(step, state, 0, steps, width=3, **options)
    yield jax.tree.map(lambda leaf: leaf[0], found)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_what_is_not_a_number_shows_in_the_log_probability(bad):
    """From the third step on, in one logit of one beam or of all."""
    fine, spoilt = jnp.array([0.0, 1.0, 0.5]), jnp.array([0.0, bad, 0.5])
    step = lambda t, token: (t + 1, jnp.where((t == 2), spoilt, fine))
    for said in three_ways(step, 0, 5):
        assert np.isnan(said.log_probability)
        assert ((said.tokens >= 0) & (said.tokens < 3)).all()
    after_2 = lambda state, token: (state, jnp.where(token == 2, spoilt, fine))
    assert np.isnan(beam(after_2, (), 0, 5, width=3).log_probability[0])


def test_what_comes_after_the_end_or_a_forbidden_token_does_not_count():
    """NaN there stays there; with every token forbidden there is no probability."""
    table = jnp.array([[0.0, -jnp.inf, 9.0], [jnp.nan] * 3, [jnp.nan] * 3])
    step = lambda state, token: (state, table[token])
    for said in three_ways(step, (), 4, end=2):
        assert said.tokens.tolist() == [2, 0, 0, 0]
        assert said.length == 1
        np.testing.assert_allclose(said.log_probability, -np.log1p(np.exp(-9.0)), rtol=1e-12)
    # Twelve beams, of which token 1 could make some: five sequences can be said.
    found = beam(step, (), 0, 4, width=12, end=2)
    assert set(sequences(found)) == {(2,), (0, 2), (0, 0, 2), (0, 0, 0, 2), (0, 0, 0, 0), ()}
    np.testing.assert_allclose(np.exp(found.log_probability).sum(), 1, rtol=1e-12)
    for said in three_ways(lambda state, token: (state, jnp.full(3, -jnp.inf)), (), 2):
        assert np.isnan(said.log_probability)


def test_padding_may_be_the_end_and_a_token_may_be_said_that_looks_like_it():
    step = lambda t, token: (t + 1, jnp.where(t == 2, jnp.array([9.0, 0]), jnp.array([0, 9.0])))
    for said in three_ways(step, 0, 5, end=PAD):
        assert (said.tokens.tolist(), int(said.length)) == ([1, 1, 0, 0, 0], 3)
    for said in three_ways(step, 0, 5):
        assert (said.tokens.tolist(), int(said.length)) == ([1, 1, 0, 1, 1], 5)


def fine(state, token):
    return state, jnp.zeros(3)


@pytest.mark.parametrize("decode", [greedy, sampled, beam])
@pytest.mark.parametrize(
    ("error", "match", "changes"),
    [
        (TypeError, "step must be a function", {"step": 3}),
        (TypeError, "must return .state, logits.", {"step": lambda state, token: token}),
        (TypeError, "logits as one array", {"step": lambda state, token: (state, [token])}),
        (TypeError, "floating dtype, got int", {"step": lambda s, token: (s, jnp.arange(3))}),
        (ValueError, r"shape \(K,\), got \(2, 3\)", {"step": lambda s, t: (s, jnp.ones((2, 3)))}),
        (ValueError, r"shape \(K,\), got \(0,\)", {"step": lambda s, t: (s, jnp.ones(0))}),
        (ValueError, "a state like", {"step": lambda s, t: (jnp.ones(2), jnp.ones(3))}),
        (ValueError, "a state like", {"step": lambda s, t: (s > 0, jnp.ones(3))}),
        (ValueError, "a state like", {"step": lambda s, t: ((s, s), jnp.ones(3))}),
        (TypeError, "first must be an integer, got float", {"first": 0.5}),
        (TypeError, "first must be an integer, got bool", {"first": True}),
        (ValueError, r"first must be one token of shape \(\), got \(2,\)", {"first": np.arange(2)}),
        (ValueError, "steps must be at least 1, got 0", {"steps": 0}),
        (TypeError, "steps must be an integer, got 2.0", {"steps": 2.0}),
        (ValueError, "end must be at least 0, got -1", {"end": -1}),
        (ValueError, "end must be one of the 3 tokens that step says, got 3", {"end": 3}),
        (TypeError, "end must be an integer", {"end": "."}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(decode, error, match, changes):
    arguments = {"step": fine, "state": jnp.zeros(3), "first": 0, "steps": 4, **changes}
    arguments |= {"width": 2} if decode is beam else {}
    arguments |= {"key": jax.random.key(0)} if decode is sampled else {}
    with pytest.raises(error, match=match) as caught:
        decode(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "temperature must be finite and at least 0, got -0.1", {"temperature": -0.1}),
        (ValueError, "temperature must be finite", {"temperature": jnp.nan}),
        (ValueError, "temperature must be finite", {"temperature": jnp.array(jnp.inf)}),
        (ValueError, r"temperature must be one number, got shape \(2,\)", {"temperature": [1, 2]}),
        (TypeError, "temperature must be a number, got None", {"temperature": None}),
        (TypeError, "temperature must be a number, got 'hot'", {"temperature": "hot"}),
        (ValueError, "top_k must be at least 1, got 0", {"top_k": 0}),
        (TypeError, "top_k must be an integer, got 2.0", {"top_k": 2.0}),
        (ValueError, "top_p must be finite and above 0, got 0", {"top_p": 0}),
        (ValueError, "top_p must be finite", {"top_p": float("nan")}),
        (ValueError, "top_p must be at most 1, got 1.1", {"top_p": 1.1}),
        (TypeError, "top_p must be a number", {"top_p": "most"}),
    ],
)
def test_sampling_that_cannot_be_is_refused(error, match, options):
    with pytest.raises(error, match=match):
        sampled(jax.random.key(0), fine, (), 0, 3, **options)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "width must be at least 1, got 0", {"width": 0}),
        (TypeError, "width must be an integer, got 2.0", {"width": 2.0}),
        (
            ValueError,
            "length_penalty must be finite and at least 0, got -1",
            {"length_penalty": -1},
        ),
        (TypeError, "length_penalty must be a number", {"length_penalty": "long"}),
    ],
)
def test_beams_that_cannot_be_are_refused(error, match, options):
    with pytest.raises(error, match=match):
        beam(fine, (), 0, 3, **{"width": 2, **options})
