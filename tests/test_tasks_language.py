"""Next characters and words, number words: what is drawn, what is counted, what baselines say."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from num2words import num2words

from rnn_jax.tasks import language, ngrams, number_words
from rnn_jax.tasks.task import Example
from rnn_jax.tasks.vocabulary import END, START, UNKNOWN, pad

WORDS = np.array(["red", "green", "a", "the", "fox", "runs", "sleeps", "and", "it's", ",", "."])


def some_text(count=3000, seed=0):
    """Words of a Markov chain, so that a history helps."""
    rng = np.random.default_rng(seed)
    follows = rng.dirichlet(np.full(len(WORDS), 0.3), size=len(WORDS))
    word, said = 0, []
    for _ in range(count):
        said.append(WORDS[word])
        word = rng.choice(len(WORDS), p=follows[word])
    return " ".join(said)


@pytest.fixture(scope="module", params=["character", "word"])
def read(request):
    return language.next_symbols(some_text(), request.param, steps=16)


@pytest.fixture(scope="module")
def french():
    return number_words.translation(3, "en", "fr", largest=1200, count=1000)


def test_streams_go_on_from_window_to_window_until_the_next_pass(read):
    batch, key = 3, jax.random.key(1)
    windows = (len(read.train) - 16) // (16 * batch)
    draw = jax.jit(lambda train, n: read.draw(train, key, n, batch))
    drawn = [draw(read.train, jnp.int32(n)) for n in range(2 * windows)]
    for n, example in enumerate(drawn):
        for one, other in zip(
            jax.tree.leaves(example),
            jax.tree.leaves(read.draw(read.train, key, n, batch)),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(example.inputs[:, 1:], example.target[:, :-1])
        goes_on = bool(read.continues(read.train, jnp.int32(n), batch))
        assert goes_on == (n not in (0, windows))
        if goes_on:
            np.testing.assert_array_equal(example.inputs[:, 0], drawn[n - 1].target[:, -1])
    offsets = []
    for one_pass in (drawn[:windows], drawn[windows:]):
        # The streams, one behind the other, are one stretch of the text: nothing is read twice.
        streams = np.concatenate([example.target for example in one_pass], axis=1).ravel()
        whole = np.asarray(read.train)
        found = [
            offset
            for offset in range(16)
            if np.array_equal(streams, whole[offset + 1 : offset + 1 + len(streams)])
        ]
        assert len(found) == 1
        offsets += found
    assert offsets[0] != offsets[1]


def test_every_held_out_symbol_is_a_target_once_after_the_one_before_it(read):
    tokens = np.array(read.vocabulary.encode(read.split(some_text())))
    assert len(read.train) == int(0.9 * len(tokens))
    ends = {"validation": int(0.95 * len(tokens)), "test": len(tokens)}
    begin = len(read.train)
    np.testing.assert_array_equal(read.train, tokens[:begin])
    for name, end in ends.items():
        example = getattr(read, name)
        np.testing.assert_array_equal(example.target[example.mask], tokens[begin:end])
        np.testing.assert_array_equal(example.inputs[example.mask], tokens[begin - 1 : end - 1])
        assert example.mask[:-1].all()
        begin = end


def test_the_vocabulary_is_that_of_the_training_part():
    text = "abcabcabcd" * 90 + "xyzxyzabca" * 10
    read = language.next_symbols(text, steps=8, limit=3)
    assert read.vocabulary.symbols == ("a", "b", "c")
    assert (read.train == UNKNOWN).sum() == 90
    wanted = read.test.target[read.test.mask]
    assert [symbol for symbol in text[-len(wanted) :] if symbol in "abc"] == [
        read.vocabulary.symbols[token - 4] for token in wanted if token != UNKNOWN
    ]


def dictionary_model(tokens, training, classes, strengths):
    """Witten-Bell's recursion with dictionaries: probability(history, token)."""
    counts = {}
    for place in np.flatnonzero(training):
        for n in range(len(strengths)):
            history = tuple(([0] * n + tokens)[place : place + n])
            followers = counts.setdefault(history, {})
            followers[tokens[place]] = followers.get(tokens[place], 0) + 1

    def probability(history, token):
        shorter = probability(history[1:], token) if history else 1 / classes
        if history not in counts:
            return shorter
        followers = counts[history]
        share = strengths[len(history)] * len(followers)
        return (followers.get(token, 0) + share * shorter) / (sum(followers.values()) + share)

    return probability


def test_ngrams_are_those_of_a_loop_with_the_best_strength_for_the_tuning_targets():
    rng = np.random.default_rng(0)
    tokens = (rng.integers(1, 4, 260) * rng.integers(1, 3, 260)).tolist()  # 1, 2, 3, 4, 6
    places = np.arange(260)
    training, tuning = (places < 180) & (places % 7 != 0), (places >= 180) & (places < 220)
    order, classes = 3, 5
    rows = ngrams.ngram_probabilities(np.array(tokens), training, tuning, classes, order)
    strengths = []
    for n in range(order):
        costs = []
        for strength in ngrams._STRENGTHS:
            model = dictionary_model(tokens, training, classes, [*strengths, strength])
            said = [
                model(tuple(tokens[place - n : place]), tokens[place])
                for place in np.flatnonzero(tuning)
            ]
            costs.append(-np.log(said).sum())
        strengths.append(ngrams._STRENGTHS[np.argmin(costs)])
        model = dictionary_model(tokens, training, classes, strengths)
        loop = [
            model(tuple(([0] * n + tokens)[place : place + n]), tokens[place]) for place in places
        ]
        np.testing.assert_allclose(rows[n], loop, rtol=1e-12)


def test_ngrams_are_distributions_whatever_the_history():
    """Each possible token after the same history, seen or not, sums to 1."""
    text = np.random.default_rng(1).integers(1, 6, 200).tolist()
    for history in ([2, 3], [5, 5], [7, 1], [7, 7]):
        outcomes = range(1, 8)  # 6 and 7 are never seen in training
        tokens = text + [symbol for token in outcomes for symbol in [*history, token]]
        places = np.arange(len(tokens))
        last = np.arange(202, len(tokens), 3)
        rows = ngrams.ngram_probabilities(
            np.array(tokens), places < 180, (places >= 180) & (places < 200), 7, 3
        )
        np.testing.assert_allclose(rows[:, last].sum(axis=1), 1, rtol=1e-12)
        assert (rows[:, last] > 0).all()


def test_the_metric_of_the_unigram_model_is_its_baseline(read):
    """Outputs, loss and metric on one side, the baseline's own arithmetic on the other."""
    tokens = np.concatenate([read.train, *(e.target[e.mask] for e in (read.validation, read.test))])
    places = np.arange(len(tokens))
    tuning = (places >= len(read.train)) & (places < len(read.train) + read.validation.mask.sum())
    (row,) = ngrams.ngram_probabilities(
        tokens, places < len(read.train), tuning, len(read.vocabulary) - 3, 1
    )
    logits = np.full(len(read.vocabulary), -50.0)
    logits[tokens] = np.log(row)
    outputs = jnp.broadcast_to(jnp.asarray(logits), (*read.test.mask.shape, len(logits)))
    totals, weights = jax.vmap(read.metric.measure)(outputs, read.test)
    # An unknown symbol never occurs here, and its logit of -50 leaves 1 % of a share to it.
    unseen = 1 - np.exp(logits).sum()
    assert 0 <= unseen < 0.01
    bits = float(totals.sum() / weights.sum()) - math.log2(1 - unseen)
    assert bits == pytest.approx(read.baselines["unigram"], rel=1e-9)
    assert int(weights.sum()) == read.test.mask.sum()
    guess = jax.vmap(read.loss)(jnp.zeros_like(outputs), read.test)
    np.testing.assert_allclose(guess, read.initial_loss, rtol=1e-12)


def test_a_longer_history_tells_more_where_there_is_something_to_tell():
    """The entropy of the chain itself bounds every model of its words from below."""
    read = language.next_symbols(some_text(20_000), "word", steps=16)
    rng = np.random.default_rng(0)
    follows = rng.dirichlet(np.full(len(WORDS), 0.3), size=len(WORDS))
    held = np.linalg.matrix_power(follows, 500)[0]
    entropy = -np.sum(
        held[:, None] * follows * np.log2(follows, where=follows > 0, out=0 * follows)
    )
    unigram = -np.sum(held * np.log2(held))
    # 1000 test words, whose bits have a standard deviation of about 1.5: 0.05 of the mean.
    assert read.baselines["bigram"] == pytest.approx(entropy, abs=0.15)
    assert read.baselines["unigram"] == pytest.approx(unigram, abs=0.15)
    assert entropy < unigram - 0.5


def test_the_default_text_has_no_paragraph_twice():
    paragraphs = [" ".join(part.split()) for part in language.load_text().split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs)) > 1000


def test_a_users_text_is_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(b"one\r\ntwo\n\none\r\ntwo\n")
    assert language.load_text(path) == "one\ntwo\n\none\ntwo\n"
    path.write_bytes("née\r\n".encode("utf-8-sig"))
    assert language.load_text(path) == "née\n"
    refused = (
        (b"", "empty"),
        (b"a\0b", "binary"),
        ("née".encode("utf-16"), "not UTF-8 text but UTF-16: save it as UTF-8"),
        ("née".encode("latin-1"), "not UTF-8 text at byte 1: .*; save it as UTF-8"),
    )
    for content, reason in refused:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason) as caught:
            language.load_text(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(ValueError, match=r"missing\.txt: No such file"):
        language.load_text(tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abc" * 10,), "text has 30 characters, expected at least 20 windows of steps = 64"),
        (("a" * 9999,), "text repeats one character, 'a'"),
        (("ab" * 999, "letter"), "level is 'letter', expected one of character, word"),
        (
            (" ".join(map(str, range(2000))), "word"),
            "text has 0 words that occur twice among the 1800",
        ),
    ],
)
def test_texts_that_cannot_be_divided_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        language.next_symbols(*arguments)


def test_what_is_certain_has_zero_bits():
    """Not -0, which a table would show."""
    tokens, places = np.array([1] * 50), np.arange(50)
    bits = ngrams.ngram_bits(
        tokens, places < 30, (places >= 30) & (places < 40), places >= 40, 1, (1,)
    )
    assert str(bits["unigram"]) == "0.0"


def test_more_streams_than_windows_are_refused(read):
    most = (len(read.train) - 16) // 16
    read.draw(read.train, jax.random.key(0), 0, most)
    with pytest.raises(ValueError, match=f"batch is {most + 1}, expected at most {most} streams"):
        read.draw(read.train, jax.random.key(0), 0, most + 1)


def test_suggestions_are_the_most_likely_symbols(read):
    one = jax.tree.map(lambda leaf: leaf[-1], read.test)
    last = int(one.mask.sum()) - 1
    outputs = np.zeros((16, read.output_size))
    tokens = (6, 4, 5)
    outputs[last, list(tokens)] = 3, 2, 1
    shown = read.show(outputs, one)
    symbols = [read.vocabulary.symbols[token - 4] for token in tokens]
    assert shown["suggestions"] == " ".join(map(repr, symbols))


def sides(problem, part):
    """(words of the source, words of the target) of each example."""
    example = getattr(problem, part)
    outputs = np.eye(problem.output_size)[example.target]
    for row in range(len(example.target)):
        one = jax.tree.map(lambda leaf, row=row: leaf[row], example)
        shown = problem.show(outputs[row], one)
        assert shown["said"] == shown["target"]
        yield shown["source"], shown["target"]


def test_both_sides_say_the_same_number_and_no_number_is_in_two_parts(french):
    number_of = {num2words(number, lang="en"): number for number in range(1201)}
    seen = []
    for part, share in (("train", 800), ("validation", 100), ("test", 100)):
        numbers = [number_of[source] for source, _ in sides(french, part)]
        said = [target for _, target in sides(french, part)]
        assert len(numbers) == share
        assert said == [num2words(number, lang="fr") for number in numbers]
        seen += numbers
    assert len(set(seen)) == 1000
    inputs, target = french.train.inputs, french.train.target
    np.testing.assert_array_equal(inputs.previous[:, 0], START)
    length = french.train.mask.sum(axis=1)
    assert (target[np.arange(800), length - 1] == END).all()
    np.testing.assert_array_equal(
        inputs.previous[:, 1:][french.train.mask[:, 1:]], target[:, :-1][french.train.mask[:, 1:]]
    )


def test_numbers_depend_on_the_seed_alone(french):
    again = number_words.translation(3, "en", "fr", largest=1200, count=1000)
    other = number_words.translation(4, "en", "fr", largest=1200, count=1000)
    np.testing.assert_array_equal(again.test.target, french.test.target)
    assert {source for source, _ in sides(other, "test")} != {
        source for source, _ in sides(french, "test")
    }


def test_compounds_are_cut_into_characters_and_words_into_words():
    german = number_words.translation(0, "de", "en", largest=999, count=300)
    assert german.split("zwei") == ["z", "w", "e", "i"]
    assert all(len(symbol) == 1 for symbol in german.source_vocabulary.symbols)
    assert {"hundred", "-", "seven"} <= set(german.vocabulary.symbols)


def test_exact_is_what_greedy_decoding_gets_exactly_right(french):
    """A decoder that knows the last token alone: its greedy texts against the metric."""
    counts = np.full((french.output_size, french.output_size), 1e-3)
    np.add.at(counts, (french.train.inputs.previous, french.train.target), french.train.mask)
    table = np.log(counts)
    greedy = [START]
    while greedy[-1] != END and len(greedy) < 20:
        greedy.append(int(np.argmax(table[greedy[-1]])))
    # The one text it says, and others that part from it at some token.
    parted = [[*greedy[1:n], (greedy[n] + 1) % french.output_size] for n in range(1, len(greedy))]
    targets, mask = pad([greedy[1:], *parted])
    previous = np.concatenate([np.full((len(mask), 1), START), targets[:, :-1]], axis=1)
    examples = Example(previous, targets, mask)
    exact, weights = jax.vmap(french.metric.measure)(jnp.asarray(table[previous]), examples)
    assert exact.tolist() == [1.0] + [0.0] * len(parted)
    np.testing.assert_array_equal(weights, 1)
    nothing = jnp.full((*mask.shape, french.output_size), jnp.nan)
    assert not jax.vmap(french.metric.measure)(nothing, examples)[0].any()


def test_phrases_are_the_longest_from_the_end(french):
    """The baseline over again, with texts instead of tokens."""
    words = {tuple(french.split(source)): target for source, target in sides(french, "train")}

    def translate(text):
        if not text:
            return []
        begin = next((n for n in range(len(text)) if text[n:] in words), None)
        return translate(text[:-1]) if begin is None else [*translate(text[:begin]), text[begin:]]

    right = [
        " ".join(words[phrase] for phrase in translate(tuple(french.split(source)))) == target
        for source, target in sides(french, "test")
    ]
    assert french.baselines["phrase by phrase"] == np.mean(right)
    assert 0 < np.mean(right) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "eng"}, "source: unknown language of num2words 'eng', .* mean 'en'"),
        ({"target": "qqqq"}, "target: unknown language of num2words 'qqqq', known: am, ar"),
        ({"source": "de"}, "source and target are both 'de', expected two languages"),
        ({"largest": 98}, "largest, count are 98, 10000, expected at least 99, 20"),
        ({"source": "am"}, r"source 'am': num2words cannot say \d+"),
    ],
)
def test_languages_and_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        number_words.translation(**options)


def test_texts_are_cut_and_joined_without_a_loss():
    numbers = [*range(100), *itertools.chain(range(100, 10_000, 97))]
    for code in ("en", "fr", "de", "cy", "uk", "ja"):
        texts = number_words._texts("source", code, numbers)
        cut, split, join = number_words._cut(texts)
        assert [split(text) for text in texts] == cut
        assert [join(symbols) for symbols in cut] == texts
