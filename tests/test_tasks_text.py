"""Text with one class, and questions about stories: what is right follows from the words alone."""

import json
import math
import re
import sys
import types
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from rnn_jax.tasks import reviews, stories, text_from_file, text_from_hub
from rnn_jax.tasks.classified_text import _columns, split_words
from rnn_jax.tasks.vocabulary import END, PAD, START, UNKNOWN

PRAISE = {"good", "clever", "funny", "moving", "fresh", "brilliant", "gripping", "warm", "sharp"}
BLAME = {"bad", "dull", "boring", "clumsy", "stale", "awful", "tedious", "shallow", "cold"}
PARTS = ("train", "validation", "test")


def rows(examples):
    """One example after the other, as NumPy arrays."""
    count = len(jax.tree.leaves(examples)[0])
    return [jax.tree.map(lambda leaf, n=n: leaf[n], examples) for n in range(count)]


def shown(problem, part):
    """What a person reads of a part, with the answers of outputs that are all zero."""
    steps = (problem.output_size,)
    examples = getattr(problem, part)
    if problem.topology == "encoder_decoder":
        steps = (examples.mask.shape[1], problem.output_size)
    return [problem.show(np.zeros(steps), example) for example in rows(examples)]


# Reviews


@pytest.fixture(scope="module")
def reviewed():
    return reviews(seed=3, pairs=600)


def verdict(review):
    """1 for praise: by the two opposite words and what stands between and around them."""
    words = review.split()
    first, second = (word for word in words if word in PRAISE | BLAME)
    between = " ".join(words[words.index(first) + 1 : words.index(second)])
    after = " ".join(words[words.index(second) + 1 :])
    meant = second
    if between in (", not", "and never", "instead of") or ", although" in between:
        meant = first
    elif between == "and not":  # "i expected the plot to be {first} and not {second} , and it ..."
        meant = second if after.startswith(", and it was not") else first
    denied = re.search("they were wrong|it is not true|it is wrong|do not believe", review)
    return int((meant in PRAISE) != bool(denied))


def test_the_class_of_a_review_is_its_verdict(reviewed):
    assert verdict("the plot was not dull but clever") == 1  # the reader itself
    assert verdict("critics wrote that the plot was dull , not clever ; they were wrong") == 1
    for part in PARTS:
        read = [verdict(row["text"]) for row in shown(reviewed, part)]
        np.testing.assert_array_equal(read, getattr(reviewed, part).target)


@pytest.mark.parametrize("part", PARTS)
def test_each_bag_of_words_comes_as_often_with_both_classes(reviewed, part):
    inputs, target, _ = getattr(reviewed, part)
    bags = [tuple(sorted(row)) for row in inputs.tolist()]
    praised = Counter(bag for bag, label in zip(bags, target, strict=True) if label)
    assert praised == Counter(bag for bag, label in zip(bags, target, strict=True) if not label)


def test_so_a_bag_of_words_is_right_for_exactly_half():
    for seed in range(3):
        problem = reviews(seed, pairs=60)
        assert problem.baselines["majority class"] == problem.baselines["bag of words"] == 0.5


def test_reviews_are_distinct_and_of_many_lengths(reviewed):
    texts = [row["text"] for part in PARTS for row in shown(reviewed, part)]
    assert len(texts) == len(set(texts)) == 1200
    assert [len(getattr(reviewed, part).target) for part in PARTS] == [840, 180, 180]
    lengths = reviewed.train.mask.sum(axis=1)
    assert lengths.min() <= 8
    assert lengths.max() >= 22
    assert not (reviewed.train.inputs[~reviewed.train.mask] != PAD).any()
    assert 50 < reviewed.tokens < 100
    assert UNKNOWN not in reviewed.test.inputs


def test_the_seed_decides():
    one, same, other = reviews(1, 40), reviews(1, 40), reviews(2, 40)
    np.testing.assert_array_equal(one.test.inputs, same.test.inputs)
    assert shown(one, "train")[0] != shown(other, "train")[0]


def test_one_logit_for_two_classes(reviewed):
    assert (reviewed.topology, reviewed.output_size) == ("many_to_one", 1)
    example = rows(reviewed.test)[0]
    for target in (0, 1):
        example = example._replace(target=np.int32(target))
        for logit in (-3.0, 0.0, 0.5, 80.0):
            expected = np.logaddexp(0, -logit if target else logit)
            outputs = jnp.array([logit], jnp.float32)
            # float32, of a loss of up to 80
            np.testing.assert_allclose(reviewed.loss(outputs, example), expected, rtol=1e-6)
            total, weight = reviewed.metric.measure(outputs, example)
            assert (total, weight) == (float((logit > 0) == bool(target)), 1)
        assert reviewed.metric.measure(jnp.array([jnp.nan]), example)[0] == 0
    assert reviewed.initial_loss == pytest.approx(float(reviewed.loss(jnp.zeros(1), example)))


@pytest.mark.parametrize("pairs", [1, 19, 20_001])
def test_pairs_out_of_range_are_refused(pairs):
    with pytest.raises(ValueError, match=f"pairs is {pairs}, expected"):
        reviews(pairs=pairs)


# The user's own texts

SUBJECTS = ("sun", "moon", "rain", "snow", "wind")
ANIMALS = ("cat", "dog", "cow")


def labelled(count=40):
    """Texts that hold their class as a word, and some words that come only once."""
    return [
        (f"The {animal}, once{n}{animal} again: {SUBJECTS[n % 5]}!", animal)
        for n in range(count)
        for animal in ANIMALS
    ]


def write(folder, name, lines):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def csv_of(folder, pairs, header="label,text", name="texts.csv"):
    return write(folder, name, [header, *(f'{label},"{text}"' for text, label in pairs)])


def test_one_table_in_four_formats_is_one_problem(tmp_path):
    pairs = labelled()
    files = [
        csv_of(tmp_path, pairs),
        write(tmp_path, "a.tsv", ["text\tlabel", *("\t".join(pair) for pair in pairs)]),
        write(tmp_path, "b.txt", ["\t".join(pair) for pair in pairs]),  # without a header
        write(tmp_path, "c.csv", ["id;CLASS;Review", *(f"7;{b};{a}" for a, b in pairs)]),
        write(
            tmp_path, "d.jsonl", [json.dumps({"n": 1, "message": a, "label": b}) for a, b in pairs]
        ),
    ]
    first, *others = [text_from_file(path) for path in files]
    for other in others:
        assert other.baselines == first.baselines
        for part in PARTS:
            jax.tree.map(np.testing.assert_array_equal, getattr(other, part), getattr(first, part))


def test_texts_are_divided_by_class_and_none_is_left_out(tmp_path):
    pairs = labelled()
    again = [(text.upper(), label) for text, label in pairs[:30]]  # the same once in lower case
    problem = text_from_file(csv_of(tmp_path, pairs + again))
    counts = {part: np.bincount(getattr(problem, part).target) for part in PARTS}
    assert sum(counts.values()).tolist() == [50, 50, 50]
    whole = text_from_file(csv_of(tmp_path, pairs))
    assert [np.bincount(getattr(whole, part).target).tolist() for part in PARTS] == [
        [28, 28, 28],
        [6, 6, 6],
        [6, 6, 6],
    ]
    for part in PARTS:
        for row in shown(problem, part):
            assert row["text"].split()[1] == row["right answer"]


def test_rows_of_the_same_text_stay_in_one_part(tmp_path):
    pairs = [(f"word{n} " * (n % 7 + 1), "ab"[n % 2]) for n in range(60)]
    problem = text_from_file(csv_of(tmp_path, pairs * 3))
    lengths = [len(getattr(problem, part).target) for part in PARTS]
    assert sum(lengths) == 180
    assert not any(length % 3 for length in lengths)
    # Each word comes thrice or more in the part that has its text, so it is known in train alone.
    assert UNKNOWN not in problem.train.inputs
    for part in ("validation", "test"):
        examples = getattr(problem, part)
        assert (examples.inputs[examples.mask] == UNKNOWN).all()


def test_the_vocabulary_is_of_words_that_train_has_twice(tmp_path):
    problem = text_from_file(csv_of(tmp_path, labelled()))
    known = {word for row in shown(problem, "train") for word in row["text"].split()}
    assert known == {"the", "again", ",", ":", "!", "<unknown>", *SUBJECTS, *ANIMALS}
    assert problem.tokens == 4 + len(known) - 1


def test_many_classes_have_a_logit_each(tmp_path):
    problem = text_from_file(csv_of(tmp_path, labelled()))
    assert problem.output_size == 3
    example = rows(problem.test)[0]
    logits = np.array([0.3, -1.0, 2.0])
    expected = np.log(np.exp(logits).sum()) - logits[example.target]
    np.testing.assert_allclose(problem.loss(jnp.asarray(logits), example), expected, rtol=1e-12)
    assert problem.loss(jnp.zeros(3), example) == pytest.approx(problem.initial_loss)
    assert problem.initial_loss == math.log(3)
    right = jax.nn.one_hot(example.target, 3)
    assert problem.metric.measure(right, example) == (1, 1)
    assert problem.metric.measure(-right, example) == (0, 1)
    assert problem.metric.measure(jnp.where(right > 0, jnp.nan, 0), example) == (0, 1)
    assert problem.show(right, example)["answer"] == ("cat", "cow", "dog")[example.target]


def test_baselines_are_those_of_the_test_part(tmp_path):
    words = [(f"x y{n} z", "rare" if n % 4 == 0 else "often") for n in range(200)]
    pairs = [(f"{'p q' if n % 2 else 'q p'} word{n}", "ab"[n % 2]) for n in range(200)]
    problem = text_from_file(csv_of(tmp_path, words))
    share = np.mean(problem.test.target == 0)
    assert problem.baselines == dict.fromkeys(problem.baselines, share)  # nothing to learn
    assert abs(share - 0.75) < 1 / 30
    problem = text_from_file(csv_of(tmp_path, pairs))
    assert problem.baselines == {
        "majority class": 0.5,
        "bag of words": 0.5,
        "bag of words and pairs": 1.0,
    }
    assert text_from_file(csv_of(tmp_path, labelled())).baselines["bag of words"] == 1


def test_a_token_is_a_word_or_a_sign(tmp_path):
    assert split_words("Don't  PANIC: 3.5 “naïve”\n:-)") == (
        ["don't", "panic", ":", "3", ".", "5", "“", "naïve", "”", ":", "-", ")"]
    )
    pairs = [(f"{n} {name} and so on", name) for name in ANIMALS for n in range(20)]
    problem = text_from_file(csv_of(tmp_path, pairs), longest=2)
    assert problem.train.inputs.shape[1] == 2
    assert problem.notes == ("60 of 60 texts are cut after their first 2 tokens.",)
    assert text_from_file(csv_of(tmp_path, pairs), longest=5).notes == ()
    assert {row["text"].split()[1] for row in shown(problem, "test")} == set(ANIMALS)


def test_quotation_marks(tmp_path):
    pairs = [(f'{name} a,b\n""so"" {n}', name) for name in ("x", "y") for n in range(20)]
    quoted = text_from_file(csv_of(tmp_path, pairs))
    assert shown(quoted, "train")[0]["text"].split()[1:7] == ["a", ",", "b", '"', "so", '"']
    lone = [f'x\t"so {n}' if n % 2 else f"y\tso {n}" for n in range(40)]
    problem = text_from_file(write(tmp_path, "lone.tsv", lone))
    assert sum(len(getattr(problem, part).target) for part in PARTS) == 40


@pytest.mark.parametrize(
    ("header", "given", "expected"),
    [
        ("a,text,label", {}, 0),
        ("Review,Category,b", {}, 2),
        ("a,b,c", {"text": "b", "label": "c"}, 0),
        ("text,b,c", {"label": "c"}, 1),
        ("text,label,c", {"text": "c"}, 0),
    ],
)
def test_columns_are_given_or_guessed(header, given, expected):
    """The column that is neither text nor label."""
    table = pd.DataFrame([["p", "q", "r"]], columns=header.split(","))
    found = _columns("here", table, given.get("text"), given.get("label"))
    assert {0, 1, 2} - set(found) == {expected}


@pytest.mark.parametrize(
    ("header", "expected"),
    [("a,b", (1, 0)), ("text,b", (0, 1)), ("b,sms", (1, 0)), ("label,b", (1, 0))],
)
def test_of_two_columns_one_is_enough(header, expected):
    """Without names the label is what has fewer distinct values."""
    table = pd.DataFrame([["x", "u"], ["x", "v"]], columns=header.split(","))
    assert _columns("here", table, None, None) == expected


GOOD = [f"{label},{word} {label}" for label in "ab" for word in SUBJECTS * 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label,text"], "has no rows, expected at least 10 of each class"),
        (["label,text", "a,b"], "label is 'a' in all rows (1), expected at least two classes"),
        (["label,text", *("a," + n for n in "bcd")], "label is 'a' in all rows (3), expected"),
        (["label,text", *GOOD], "label 'a' has 5 different texts, expected at least 10"),
        (["label,text", *GOOD, "a,", ",b", "a, "], "3 of 23 rows have a blank text or label, the"),
        (["label,text", *GOOD, "a"], "data row 21 has 1 cells, expected 2"),
        (["label,text", *GOOD, "a,b,c"], "data row 21 has 3 cells, expected 2"),
        (["label,text", 'a,"b', *GOOD], "is not a table: unexpected end of data"),
        (["u,v,w", "1,2,3"], "expected text and label to name two of its columns: u, v, w"),
        (["text,review,label", "1,2,3"], "to name two of its columns: text, review, label"),
        (["u,v", "1,2", "3,4"], "expected text and label to name two of its columns: u, v"),
        (["only", "1"], "expected text and label to name two of its columns: only"),
    ],
)
def test_tables_that_will_not_do_are_refused(tmp_path, lines, message):
    path = write(tmp_path, "t.csv", lines)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)) as got:
        text_from_file(path)
    assert "\n" not in str(got.value)


def test_texts_that_differ_only_where_they_are_cut(tmp_path):
    pairs = [(f"{'so ' * 70}{n}", "ab"[n % 2]) for n in range(60)] + [("short", "a")] * 20
    message = (
        "label 'b' has 0 different texts in their first 64 tokens, expected at least 10; "
        "60 of 80 texts are cut there: raise longest"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        text_from_file(csv_of(tmp_path, pairs))
    assert len(text_from_file(csv_of(tmp_path, pairs), longest=71).baselines) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1 is not JSON: "),
        (["", '{"a": 1}', "[1]"], "line 3 is '[1]', expected a JSON object"),
        (['{"text": "a", "label": NaN}'], "1 of 1 rows have a blank text or label, the first is"),
        (
            ['{"text": "a", "label": "b"}', '{"text": "c"}'],
            "1 of 2 rows have a blank text or label",
        ),
    ],
)
def test_json_lines_that_will_not_do_are_refused(tmp_path, lines, message):
    path = write(tmp_path, "t.jsonl", lines)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        text_from_file(path)


def test_files_and_arguments_that_will_not_do_are_refused(tmp_path):
    path = csv_of(tmp_path, labelled())
    with pytest.raises(
        ValueError, match="text is 'body', expected one of its columns: label, text"
    ):
        text_from_file(path, text="body")
    with pytest.raises(ValueError, match="expected text and label to name two of its columns"):
        text_from_file(path, text="text", label="text")
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        text_from_file(path, longest=0)
    with pytest.raises(ValueError, match=r"none\.csv: No such file"):
        text_from_file(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"label,text\0")
    with pytest.raises(ValueError, match=r"binary\.csv: is binary"):
        text_from_file(tmp_path / "binary.csv")
    with pytest.raises(ValueError, match=r"empty\.csv: is empty"):
        text_from_file(write(tmp_path, "empty.csv", []))


class Hub(types.SimpleNamespace):
    """A data set as the package ``datasets`` gives it: columns, and names of classes."""

    def __getitem__(self, column):
        return self.columns[column]


def hub(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def hub_data(labels):
    texts = [f"{SUBJECTS[n % 5]} {n} {label}" for n, label in enumerate(labels)]
    return Hub(
        columns={"sms": texts, "label": labels},
        column_names=["sms", "label"],
        features={"sms": object(), "label": types.SimpleNamespace(names=["ham", "spam"])},
    )


def test_a_data_set_of_the_hub_is_as_a_file_of_it(monkeypatch, tmp_path):
    data = hub_data([0, 1] * 20)
    asked = []
    hub(monkeypatch, lambda name, split: asked.append((name, split)) or data)
    problem = text_from_hub("some/messages")
    assert asked == [("some/messages", "train")]
    assert problem.name == "some/messages"
    pairs = [(text, ("ham", "spam")[n % 2]) for n, text in enumerate(data["sms"])]
    same = text_from_file(csv_of(tmp_path, pairs))
    assert shown(problem, "test") == shown(same, "test")


def test_the_hub_may_be_out_of_reach(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="name 'sms_spam': expected the package datasets, import"):
        text_from_hub("sms_spam")

    def unreachable(name, split):
        raise ConnectionError(f"Couldn't reach\n {name!r} on the Hub")

    hub(monkeypatch, unreachable)
    with pytest.raises(
        ValueError, match="'sms_spam': cannot be loaded: ConnectionError: Couldn't"
    ) as got:
        text_from_hub("sms_spam")
    assert "\n" not in str(got.value)
    hub(monkeypatch, lambda name, split: hub_data([0, 1, -1, None] * 20))
    with pytest.raises(ValueError, match="name 'secret': 40 of 80 rows have a blank sms or label"):
        text_from_hub("secret")


# Stories


@pytest.fixture(scope="module")
def told():
    return stories(seed=5, sentences=(2, 9), count=1500)


def sentences_of(story):
    """(who, what kind of act, the place or thing) of each sentence."""
    acts = {"to": "move", "took": "take", "up": "take", "dropped": "drop", "down": "drop"}
    for sentence in story.removesuffix(" .").split(" . "):
        said, _, object = sentence.partition(" the ")
        yield said.split()[0], acts[said.split()[-1]], object


def answer_of(story, question):
    """Read backwards: who had a thing last, and where that person then was."""
    events = list(sentences_of(story))

    def place(person, until):
        moves = [what for who, act, what in events[:until] if (who, act) == (person, "move")]
        return moves[-1]

    *_, asked, _ = question.split()
    if question == f"where is {asked} ?":
        return place(asked, len(events))
    last = max(n for n, (_, act, what) in enumerate(events) if act != "move" and what == asked)
    who, act, _ = events[last]
    if question == f"who has the {asked} ?":
        return who if act == "take" else "nobody"
    assert question == f"where is the {asked} ?"
    return place(who, len(events) if act == "take" else last)


def test_the_answer_follows_from_the_story(told):
    story = "ben went to the office . ben took the milk . ben ran to the garden ."
    assert answer_of(story, "where is the milk ?") == "garden"  # the reader itself
    for part in PARTS:
        for row in shown(told, part):
            assert answer_of(row["story"], row["question"]) == row["right answer"]


def test_stories_can_happen(told):
    """Nobody takes what lies elsewhere or is held, drops what they have not, or stays by going."""
    for row in shown(told, "train"):
        at, holder, lies = {}, {}, {}
        for who, act, what in sentences_of(row["story"]):
            if act == "move":
                assert at.get(who) != what
                at[who] = what
            elif act == "take":
                assert what not in holder
                assert lies.get(what, at[who]) == at[who]
                holder[what] = who
            else:
                assert holder.pop(what) == who
                lies[what] = at[who]


def test_stories_are_distinct_and_their_questions_of_three_kinds(told):
    read = [row for part in PARTS for row in shown(told, part)]
    assert len({row["story"] for row in read}) == len(read) == 1500
    assert [len(getattr(told, part).target) for part in PARTS] == [1050, 225, 225]
    kinds = Counter(re.sub("(anna|ben|clara|david) ", "X ", row["question"]) for row in read)
    by_kind = Counter()
    for question, count in kinds.items():
        by_kind[re.sub("the .* ", "the X ", question)] += count
    assert by_kind == {"where is X ?": 500, "where is the X ?": 500, "who has the X ?": 500}
    lengths = Counter(row["story"].count(".") for row in read)
    assert set(lengths) == set(range(2, 10))
    assert {len(row["right answer"].split()) for row in read} == {1, 2}


def test_a_decoder_reads_what_it_has_to_say_one_step_late(told):
    inputs, target, mask = told.test
    np.testing.assert_array_equal(inputs.previous[:, 0], START)
    np.testing.assert_array_equal(inputs.previous[:, 1:][mask[:, 1:]], target[:, :-1][mask[:, 1:]])
    ends = mask.sum(axis=1) - 1
    np.testing.assert_array_equal(target[np.arange(len(target)), ends], END)
    assert (target == END).sum() == len(target)
    np.testing.assert_array_equal(inputs.context != PAD, inputs.context_mask)
    assert (told.output_size, target.max()) == (told.target_tokens, told.target_tokens - 1)
    assert inputs.context.max() < told.tokens
    assert UNKNOWN not in inputs.context


def test_an_answer_is_right_if_every_word_is(told):
    example = next(row for row in rows(told.test) if row.mask.sum() == 3)  # two words and the end
    right = jax.nn.one_hot(example.target, told.output_size)
    assert told.metric.measure(right, example) == (1, 1)
    for step in range(3):
        assert told.metric.measure(right.at[step].set(-right[step]), example) == (0, 1)
        assert told.metric.measure(right.at[step, UNKNOWN].set(jnp.nan), example) == (0, 1)
    example = next(row for row in rows(told.test) if row.mask.sum() == 2)
    right = jax.nn.one_hot(example.target, told.output_size)
    spoilt = right.at[2].set(jnp.nan)  # after the end
    assert told.metric.measure(spoilt, example) == (1, 1)
    assert told.loss(spoilt, example) == told.loss(right, example)


def test_what_stands_after_the_end_is_not_shown(told):
    example = next(row for row in rows(told.test) if row.mask.sum() == 2)
    everywhere = jax.nn.one_hot(np.full(3, example.target[0]), told.output_size)
    answer = told.show(everywhere, example)
    assert answer["answer"] == f"{answer['right answer']} {answer['right answer']}"  # and no end


def test_a_story_costs_the_mean_over_the_words_of_its_answer(told):
    outputs = np.random.default_rng(0).standard_normal((3, told.output_size))
    for example in rows(told.test)[:20]:
        losses = [
            np.log(np.exp(logits).sum()) - logits[word]
            for logits, word, valid in zip(outputs, example.target, example.mask, strict=True)
            if valid
        ]
        assert told.loss(jnp.asarray(outputs), example) == pytest.approx(np.mean(losses))
        assert told.loss(jnp.zeros_like(outputs), example) == pytest.approx(told.initial_loss)


def test_the_baselines_of_stories_are_those_of_the_test_part(told):
    train, test = shown(told, "train"), shown(told, "test")

    def kind(question):
        return "who" if "who" in question else "thing" if "the" in question.split() else "person"

    given = {}
    for row in train:
        given.setdefault(kind(row["question"]), Counter())[row["right answer"]] += 1
    usual = [given[kind(row["question"])].most_common(1)[0][0] for row in test]
    last = []
    for row in test:
        events = list(sentences_of(row["story"]))
        places = [what for _, act, what in events if act == "move"]
        last.append(events[-1][0] if kind(row["question"]) == "who" else places[-1])
    right = [row["right answer"] for row in test]
    for name, answers in (
        ("most frequent answer of the kind", usual),
        ("last place or person mentioned", last),
    ):
        share = np.mean([a == b for a, b in zip(answers, right, strict=True)])
        assert told.baselines[name] == pytest.approx(share)
    assert told.baselines["most frequent answer of the kind"] < told.baselines["bag of words"] < 0.8


def test_the_seed_of_stories_decides():
    one, same, other = (stories(seed, count=30) for seed in (1, 1, 2))
    assert shown(one, "test") == shown(same, "test") != shown(other, "test")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sentences": (1, 3)}, r"sentences is \(1, 3\), expected"),
        ({"sentences": (2, 51)}, r"sentences is \(2, 51\), expected"),
        ({"sentences": (4, 3)}, r"sentences must be the least and the most, got \(4, 3\)"),
        ({"count": 19}, "count is 19, expected 20 to 100 000"),
        ({"sentences": (2, 2), "count": 2500}, "count is 2500, expected fewer: stories of 2 to 2"),
    ],
)
def test_stories_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        stories(**given)
