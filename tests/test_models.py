"""The five topologies: streaming, masks, initial answers, links of outputs and losses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from rnn_jax.combinators import bidirectional, chain, stack, with_dropout
from rnn_jax.models import (
    OUTPUTS,
    EncoderDecoder,
    ManyToMany,
    ManyToOne,
    Memory,
    OneToMany,
    OneToOne,
    Reader,
    attend,
)
from rnn_jax.models.topologies import pooled
from rnn_jax.tasks.problem import Conditioned

STEPS, FEATURES, TOKENS = 7, 3, 9
CELLS = {
    "elman": rnn_jax.elman(),
    "lstm": rnn_jax.lstm(),
    "stack": stack(rnn_jax.gru(), rnn_jax.lstm()),
}


def features(seed=0, steps=STEPS):
    return jax.random.normal(jax.random.key(seed), (steps, FEATURES), jnp.float32)


def drawn(model, *inputs):
    """Variables whose every leaf is random: the head begins at 0 and would show nothing."""
    variables = model.init(jax.random.key(1), *inputs)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    draws = [
        0.5 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, draws)


@pytest.fixture(params=CELLS)
def cell(request):
    return CELLS[request.param]


def conditioned(tokens, context, context_mask=None):
    return Conditioned(context, context_mask, jnp.asarray(tokens, jnp.int32))


def test_aligned_streams(cell):
    model, xs = ManyToMany(Reader(cell, 4), 2), features()
    variables = drawn(model, xs)
    whole = model.apply(variables, xs)
    state = model.apply(variables, method="initial_state")
    step = jax.jit(lambda state, x: model.apply(variables, state, x, method="step"))
    _, outputs = jax.lax.scan(step, state, xs)
    np.testing.assert_allclose(outputs, whole, atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_many_to_one_streams_the_answer_so_far(cell, pool):
    model, xs = ManyToOne(Reader(cell, 4), 2, pool), features()
    variables = drawn(model, xs)
    state = model.apply(variables, method="initial_state")
    step = lambda state, x: model.apply(variables, state, x, method="step")
    _, answers = jax.lax.scan(step, state, xs)
    for t in range(STEPS):
        np.testing.assert_allclose(answers[t], model.apply(variables, xs[: t + 1]), atol=1e-5)
    nothing = model.apply(variables, xs, jnp.zeros(STEPS, bool))
    np.testing.assert_allclose(nothing, variables["params"]["head"]["bias"], atol=1e-6)


def test_decoders_stream(cell):
    decoder = Reader(cell, 4, tokens=TOKENS, embedding=4)
    said = jnp.array([1, 5, 4, 8])
    one_to_many = OneToMany(decoder, TOKENS), jnp.arange(5.0), None
    mask = jnp.arange(STEPS) < 5
    encoder = Reader(bidirectional(rnn_jax.gru()), 4)
    attentive = EncoderDecoder(encoder, decoder, TOKENS), features(), mask
    plain = EncoderDecoder(encoder, decoder, TOKENS, attention=False), features(), mask
    for model, context, context_mask in (one_to_many, attentive, plain):
        inputs = conditioned(said, context, context_mask)
        variables = drawn(model, inputs)
        whole = model.apply(variables, inputs)
        given = (context,) if context_mask is None else (context, context_mask)
        state = model.apply(variables, *given, method="begin")
        for token, expected in zip(said, whole, strict=True):
            state, logits = model.apply(variables, state, token, method="step")
            np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_sequence_out_of_nothing():
    model = OneToMany(Reader(rnn_jax.lstm(), 4, tokens=TOKENS), TOKENS)
    inputs = conditioned([1, 5, 4], None)
    variables = drawn(model, inputs)
    state = model.apply(variables, None, method="begin")
    _, logits = model.apply(variables, state, jnp.int32(1), method="step")
    np.testing.assert_allclose(logits, model.apply(variables, inputs)[0], atol=1e-6)


@pytest.mark.parametrize("pool", ["last", "mean", "ends"])
@pytest.mark.parametrize("both_ways", [False, True])
def test_padding_changes_nothing_even_if_nan(pool, both_ways):
    layer = chain(bidirectional(rnn_jax.lstm()), rnn_jax.gru()) if both_ways else rnn_jax.lstm()
    model, xs = ManyToOne(Reader(layer, 4), 2, pool), features()
    variables, mask = drawn(model, xs), jnp.arange(STEPS) < 4
    padded = xs.at[4:].set(jnp.nan)

    def answer(variables, xs, mask):
        return jnp.sum(jnp.square(model.apply(variables, xs, mask)))

    expected = jax.value_and_grad(answer)(variables, xs[:4], None)
    got = jax.value_and_grad(answer)(variables, padded, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_padding_of_the_context_changes_nothing_even_if_nan():
    model = EncoderDecoder(
        Reader(rnn_jax.gru(), 4), Reader(rnn_jax.gru(), 4, tokens=TOKENS), TOKENS
    )
    said, xs = [1, 5, 4], features()
    mask = jnp.arange(STEPS) < 4
    inputs = conditioned(said, xs.at[4:].set(jnp.nan), mask)
    variables = drawn(model, inputs)
    short = conditioned(said, xs[:4], mask[:4])
    np.testing.assert_allclose(
        model.apply(variables, inputs), model.apply(variables, short), atol=1e-6
    )
    weights = model.apply(variables, inputs, method="attention_weights")
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (np.asarray(weights)[:, 4:] == 0).all()
    gradient = jax.grad(lambda v: jnp.sum(model.apply(v, inputs)))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_decoder_reads_nothing_that_comes_later():
    model = OneToMany(Reader(rnn_jax.lstm(), 4, tokens=TOKENS), TOKENS)
    first, second = (conditioned(said, jnp.ones(5)) for said in ([1, 5, 4, 8], [1, 5, 7, 3]))
    variables = drawn(model, first)
    one, other = model.apply(variables, first), model.apply(variables, second)
    np.testing.assert_array_equal(one[:2], other[:2])
    assert not np.allclose(one[2:], other[2:])


def test_first_answers_are_uniform():
    xs = features()
    for model, inputs in (
        (OneToOne((5,), TOKENS), jnp.ones(4)),
        (ManyToOne(Reader(rnn_jax.lstm(), 4), TOKENS), xs),
        (ManyToMany(Reader(rnn_jax.lstm(), 4), TOKENS), xs),
        (OneToMany(Reader(rnn_jax.lstm(), 4, tokens=TOKENS), TOKENS), conditioned([1, 2], xs[0])),
    ):
        outputs = model.apply(model.init(jax.random.key(0), inputs), inputs)
        np.testing.assert_array_equal(outputs, 0)


def test_attention_is_a_softmax_over_what_is_valid():
    rng = np.random.default_rng(0)
    query, keys, values = (rng.standard_normal(s) for s in ((2, 3), (5, 3), (5, 4)))
    mask = np.array([True, False, True, True, False])
    scores = np.exp(query @ keys[mask].T)
    expected = scores / scores.sum(axis=1, keepdims=True) @ values[mask]
    values[~mask] = 1e30
    mean, _ = attend(jnp.asarray(query), Memory(*map(jnp.asarray, (keys, values, mask))))
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    nothing, weights = attend(
        jnp.ones(3), Memory(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.zeros(2, bool))
    )
    assert not weights.any()
    assert not nothing.any()


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_gradient_of_each_loss_is_answer_minus_target(name):
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.standard_normal(1 if name == "sigmoid" else 4))
    target = {
        "sigmoid": jnp.array(1),
        "softmax": jnp.array(2),
        "identity": jnp.asarray(rng.standard_normal(4)),
    }[name]
    wanted = {"sigmoid": jnp.ones(1), "softmax": jnp.eye(4)[2], "identity": target}[name]
    answer, loss = OUTPUTS[name]
    np.testing.assert_allclose(jax.grad(loss)(outputs, target), answer(outputs) - wanted, atol=1e-6)


def test_dropout_acts_in_training_alone():
    cell = with_dropout(rnn_jax.lstm(), recurrent=0.5)
    xs = features()
    for reader in (Reader(cell, 8), Reader(rnn_jax.lstm(), 8, dropout=0.5)):
        model = ManyToMany(reader, 2)
        variables = drawn(model, xs)
        runs = [
            model.apply(variables, xs, train=True, rngs={"dropout": jax.random.key(k)})
            for k in (0, 0, 1)
        ]
        np.testing.assert_array_equal(runs[0], runs[1])
        assert not np.allclose(runs[0], runs[2])
        np.testing.assert_array_equal(model.apply(variables, xs), model.apply(variables, xs))


def test_space_is_averaged():
    model = ManyToMany(Reader(rnn_jax.cells.convlstm((4, 4)), 3), 2)
    video = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    variables = drawn(model, video)
    whole = model.apply(variables, video)
    assert whole.shape == (5, 2)
    state = model.apply(variables, method="initial_state")
    for frame, expected in zip(video, whole, strict=True):
        state, output = model.apply(variables, state, frame, method="step")
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_a_model_is_an_ordinary_flax_module():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, xs):
            hidden = ManyToMany(Reader(rnn_jax.lstm(), 4), 5)(xs)
            return ManyToOne(Reader(rnn_jax.gru(), 4), 2)(hidden)

    variables = Twice().init(jax.random.key(0), features())
    assert Twice().apply(variables, features()).shape == (2,)


def test_errors_say_what_came():
    xs = features()
    with pytest.raises(ValueError, match=r"inputs are int32, expected features"):
        ManyToMany(Reader(rnn_jax.lstm(), 4), 2).init(
            jax.random.key(0), jnp.arange(3, dtype=jnp.int32)
        )
    with pytest.raises(ValueError, match=r"inputs are float32, expected 9 tokens"):
        ManyToMany(Reader(rnn_jax.lstm(), 4, tokens=9), 2).init(jax.random.key(0), xs)
    with pytest.raises(ValueError, match=r"pool must be 'last', 'mean' or 'ends', got 'max'"):
        pooled("max", xs)
    model = ManyToOne(Reader(rnn_jax.lstm(), 4), 2, "ends")
    with pytest.raises(ValueError, match="needs the whole sequence"):
        model.apply(model.init(jax.random.key(0), xs), method="initial_state")
    both = ManyToMany(Reader(bidirectional(rnn_jax.lstm()), 4), 2)
    with pytest.raises(ValueError, match="reads whole sequences: it has no step"):
        both.apply(both.init(jax.random.key(0), xs), method="initial_state")
    model = ManyToOne(Reader(stack(rnn_jax.gru(), rnn_jax.gru()), (4, 4), tokens=9), 2)
    with pytest.raises(ValueError, match="embedding"):
        model.init(jax.random.key(0), jnp.arange(3))
    plain = EncoderDecoder(
        Reader(rnn_jax.gru(), 4), Reader(rnn_jax.gru(), 4, tokens=5), 5, attention=False
    )
    inputs = conditioned([1, 2], xs)
    with pytest.raises(ValueError, match="has no attention"):
        plain.apply(plain.init(jax.random.key(0), inputs), inputs, method="attention_weights")


@pytest.mark.parametrize("gain", [1.0, 6.0])
def test_vectors_of_tokens_begin_with_the_deviation_asked_for(gain):
    reader = Reader(rnn_jax.gru(), 4, tokens=1000, embedding=16, embedding_gain=gain)
    params = reader.init(jax.random.key(0), jnp.arange(3))["params"]
    # The deviation of 16 000 draws is uncertain by 0.6 %.
    np.testing.assert_allclose(params["table"]["embedding"].std(), gain / 4, rtol=0.03)
