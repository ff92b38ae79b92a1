"""Tasks from handwritten digits: what is drawn is what is wanted, on images new to the reader."""

import functools
import math
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.digit_images import _captions, captions, classification, digit_splits
from rnn_jax.tasks.digit_lines import digit_lines
from rnn_jax.tasks.moving_digits import ACTIVITIES, moving_digits
from rnn_jax.tasks.speech import speech
from rnn_jax.tasks.vocabulary import END

MAKERS = (classification, captions, digit_lines, moving_digits)
SMALL = {captions: (400, 60), digit_lines: (400, 60), moving_digits: (400, 60)}


@functools.cache
def small(maker, seed=0):
    if maker not in SMALL:
        return maker(seed)
    train, held_out = SMALL[maker]
    return maker(seed, train=train, held_out=held_out)


def outputs_for(example, classes, scale=100.0):
    return scale * jax.nn.one_hot(example.target, classes)


def one(examples, n=0):
    return jax.tree.map(lambda leaf: leaf[n], examples)


def measured(problem, outputs, examples):
    totals, weights = jax.vmap(problem.metric.measure)(outputs, examples)
    return float(totals.sum() / weights.sum())


def test_the_splits_share_no_image_and_no_digit_is_rare():
    from sklearn.datasets import load_digits

    splits = digit_splits(0)
    pixels = np.concatenate([images.reshape(-1, 64) for images, _ in splits])
    assert len(np.unique(pixels, axis=0)) == len(pixels) == 1797
    labels = np.concatenate([labels for _, labels in splits])
    whole = load_digits()
    pairs = {(*image, digit) for image, digit in zip(whole.data / 16, whole.target, strict=True)}
    assert {(*image, digit) for image, digit in zip(pixels, labels, strict=True)} == pairs
    for (_, labels), share in zip(splits, (0.6, 0.15, 0.25), strict=True):
        # Dealt out digit by digit: no share is off by more than one image.
        assert np.all(np.abs(np.bincount(labels) - share * np.bincount(whole.target)) < 1)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_seed_is_all_that_decides(maker):
    train, held_out = SMALL.get(maker, (None, None))
    again = maker(0) if train is None else maker(0, train=train, held_out=held_out)
    for mine, same in zip(
        jax.tree.leaves((again.train, again.test)),
        jax.tree.leaves((small(maker).train, small(maker).test)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, same)
    assert again.baselines == small(maker).baselines
    other = jax.tree.leaves(small(maker, 1).test.inputs)[0]
    mine = jax.tree.leaves(again.test.inputs)[0]
    assert mine.shape[0] != other.shape[0] or not np.array_equal(mine[:, :30], other[:, :30])


@pytest.mark.parametrize("maker", [classification, captions, moving_digits])
def test_zeros_cost_the_initial_loss_and_no_number_is_no_answer(maker):
    problem = small(maker)
    examples, classes = problem.test, problem.output_size
    right = outputs_for(examples, classes)
    losses = jax.vmap(problem.loss)(0 * right, examples)
    np.testing.assert_allclose(losses, problem.initial_loss, rtol=1e-6)
    assert measured(problem, right, examples) == 1
    assert measured(problem, jnp.where(right > 0, jnp.nan, right), examples) == 0
    assert float(jax.vmap(problem.loss)(right, examples).max()) < 1e-6


def test_classification_baselines_know_less_and_less():
    problem = small(classification)
    assert problem.initial_loss == math.log(10)
    frequent, centroid, logistic = problem.baselines.values()
    assert frequent < 0.12 < 0.85 < centroid < logistic < 0.99
    rows = classification(0, as_rows=True)
    np.testing.assert_array_equal(rows.test.inputs.reshape(-1, 64), problem.test.inputs)
    assert rows.baselines == problem.baselines
    constant = jnp.zeros((len(problem.test.target), 10)).at[:, 3].set(1.0)
    share = np.mean(problem.test.target == 3)
    assert measured(problem, constant, problem.test) == pytest.approx(share)


def test_each_caption_is_one_of_its_own_and_has_the_article_it_needs():
    every = [caption.split() for caption in _captions()]
    assert len({tuple(words) for words in every}) == 180
    for words in every:
        assert words[0] == ("an" if words[1] == "eight" else "a")
    assert " ".join(every[9 * 8 + 4]) == "an eight in the middle"


def test_a_caption_says_what_is_in_its_picture_and_the_image_is_of_its_own_part():
    """Beside a search through all images, places and inks, with the light projected out."""
    problem = small(captions)
    across = np.linspace(-1, 1, 16)
    light = np.stack([np.ones((16, 16)), *np.meshgrid(across, across)]).reshape(3, 256)
    basis, _ = np.linalg.qr(light.T)

    def unlit(pictures):
        return pictures - pictures @ basis @ basis.T

    candidates, said = [], []
    train, _, test = digit_splits(0)
    for part, (images, labels) in (("train", train), ("test", test)):
        for place in range(9):
            row, column = 4 * (place // 3), 4 * (place % 3)
            canvas = np.zeros((len(images), 16, 16))
            canvas[:, row : row + 8, column : column + 8] = images
            for faint in range(2):
                candidates.append(unlit(canvas.reshape(-1, 256)) / (1 + faint))
                said += [(part, (faint * 10 + digit) * 9 + place) for digit in labels]
    candidates = np.concatenate(candidates)
    asked = unlit(np.asarray(problem.test.inputs.context, float))
    best = np.argmin(np.sum(candidates**2, axis=1) - 2 * asked @ candidates.T, axis=1)
    found = [said[n] for n in best]
    texts = [problem.show(outputs_for(one(problem.test, n), 25), one(problem.test, n)) for n in
             range(len(found))]  # fmt: skip
    assert all(text["caption"] == text["answer"] for text in texts)
    right = [
        part == "test" and _captions()[code] == text["caption"]
        for (part, code), text in zip(found, texts, strict=True)
    ]
    # Noise hides faint ink once in a while.
    assert np.mean(right) >= 0.95


def test_a_caption_is_right_when_all_its_words_are_and_its_end():
    problem = small(captions)
    lengths = problem.test.mask.sum(axis=1)
    example = one(problem.test, int(np.argmin(lengths)))
    length = int(lengths.min())
    assert example.target[length - 1] == END
    np.testing.assert_array_equal(example.inputs.previous[1:length], example.target[: length - 1])
    right = outputs_for(example, problem.output_size)
    assert length < len(right)
    for place in range(len(right)):
        spoilt = right.at[place].set(-right[place])
        assert bool(problem.metric.measure(spoilt, example)[0]) == (place >= length)
    frequent, nearest, logistic = captions().baselines.values()
    assert frequent < 0.02 < nearest < logistic < 0.7


def test_a_line_of_one_digit_is_that_digit_from_its_own_part():
    """Beside all images of both parts, cut to their ink, at all three heights."""
    problem = digit_lines(digits=(1, 1), train=60, held_out=40)
    assert set(np.asarray(problem.test.mask).sum(axis=1)) <= set(range(2, 9))
    train, _, test = digit_splits(0)
    found = []
    for columns, mask in zip(problem.test.inputs, problem.test.mask, strict=True):
        best = (np.inf, None, None)
        for part, (images, labels) in (("train", train), ("test", test)):
            for image, label in zip(images, labels, strict=True):
                inked = np.flatnonzero(image.any(axis=0))
                if np.ptp(inked) + 1 != mask.sum():
                    continue
                for row in range(3):
                    drawn = np.zeros((mask.sum(), 10))
                    drawn[:, row : row + 8] = image[:, inked[0] : inked[-1] + 1].T
                    best = min(best, (np.sum((columns[mask] - drawn) ** 2), part, label + 1))
        found.append(best[1:])
    assert found == [("test", label) for label in problem.test.target[:, 0]]


def test_a_line_can_be_read_and_its_baselines_read_badly():
    problem = small(digit_lines)
    for part in (problem.train, problem.validation, problem.test):
        counts = (part.target > 0).sum(axis=1)
        assert set(counts) == {3, 4, 5, 6}
        # A blank for every pair of twins, at the very worst.
        assert np.all(part.mask.sum(axis=1) >= 2 * counts - 1)
        assert not part.inputs[~part.mask].any()
        for column in (
            part.inputs[:, 0],
            part.inputs[np.arange(len(counts)), part.mask.sum(1) - 1],
        ):
            assert np.all(column.max(axis=1) > 0.05)  # 10 pixels of noise alone: P < 1e-5
    constant, logistic = problem.baselines.values()
    assert 0.4 < logistic < 0.75 < constant < 0.95
    example = one(problem.test)
    path = np.repeat(example.target, 2)
    path[::2] = 0
    outputs = jax.nn.one_hot(np.resize(path, len(example.mask)), 11) * (
        np.arange(len(example.mask)) < len(path)
    )[:, None].astype(float)
    shown = problem.show(outputs, example)
    assert shown["written"] == shown["read"]
    assert shown["written"] == "".join(str(label - 1) for label in example.target if label)


def moved_back(videos, targets):
    """Each frame as if the moving digit had stayed where it was in the first."""
    moves = {"rests": (0, 0), "up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    for video, target in zip(videos, targets, strict=True):
        steps = np.array([moves[ACTIVITIES[k]] if k >= 0 else (0, 0) for k in target])
        place = np.cumsum(steps, axis=0)
        back = [np.roll(frame, -p, (0, 1)) for frame, p in zip(video, place, strict=True)]
        yield np.array(back), place


def test_the_targets_are_the_motion(monkeypatch):
    """Without noise a video is the darker of its digit at rest and its digit moved."""
    monkeypatch.setattr(sys.modules[moving_digits.__module__], "_NOISE", 0.0)
    test = moving_digits(train=50, held_out=40).test
    videos = test.inputs[..., 0]
    np.testing.assert_array_equal(test.target[:, 0], -1)

    def explained(targets):
        for video, (back, place) in zip(videos, moved_back(videos, targets), strict=True):
            # Neither digit is darker anywhere than what is seen there in any frame.
            moving_one, still = back.min(axis=0), video.min(axis=0)
            drawn = [np.maximum(np.roll(moving_one, p, (0, 1)), still) for p in place]
            yield np.array_equal(drawn, video)

    assert all(explained(test.target))
    opposite = np.array([0, 2, 1, 4, 3, -1])[test.target]
    moves = (test.target[:, 1:] > 0).any(axis=1)
    assert not np.any(list(explained(opposite)), where=moves)


def test_activities_last_and_single_frames_do_not_tell_them():
    problem = small(moving_digits)
    told = problem.train.target[:, 1:]
    # 400 videos of 6 changes or none: five standard deviations.
    changes = np.mean(told[:, 1:] != told[:, :-1])
    assert abs(changes - 0.25) < 5 * math.sqrt(0.25 * 0.75 / told[:, 1:].size)
    frequent, single, matching = moving_digits().baselines.values()
    assert frequent < 0.25
    assert abs(single - 0.2) < 0.05
    assert 0.5 < matching < 0.7
    example = one(problem.test)
    right = outputs_for(example, 5)
    for count in (problem.loss, lambda *pair: problem.metric.measure(*pair)[0]):
        assert count(right, example) == count(right.at[0].set(jnp.nan), example)
        assert count(right, example) != count(right.at[1].set(-right[1]), example)
    assert problem.metric.measure(right, example) == (7, 7)
    shown = problem.show(right, example)
    assert shown["did"] == shown["answer"] == " ".join(ACTIVITIES[k] for k in example.target[1:])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: digit_splits(-1), ValueError, "seed must be at least 0, got -1"),
        (lambda: captions(0.5), TypeError, "seed must be an integer, got 0.5"),
        (lambda: captions(train=49), ValueError, "train must be at least 50"),
        (lambda: captions(held_out=0), ValueError, "held_out must be at least 1, got 0"),
        (lambda: digit_lines(digits=(4, 3)), ValueError, "digits must be the least and the most"),
        (lambda: digit_lines(digits=(0, 3)), ValueError, "digits must be at least 1, got 0"),
        (lambda: digit_lines(digits=5), TypeError, "digits must be two integers, got 5"),
        (lambda: digit_lines(digits=(3, 4, 5)), TypeError, r"digits must be .*, got \(3, 4, 5\)"),
        (lambda: digit_lines(digits=(3, 4.5)), TypeError, "digits must be an integer, got 4.5"),
        (lambda: moving_digits(frames=1), ValueError, "frames must be at least 2, got 1"),
        (lambda: moving_digits(size=7), ValueError, "size must be at least 8, got 7"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def utterances(count=20, seed=3):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, 12, count)
    transcripts = np.array(["".join(rng.choice(list("aáb "), 4)) for _ in range(count)])
    # The first feature tells utterances apart, the last is always the same.
    features = rng.normal(5, 3, (lengths.sum(), 3))
    features[:, 0] = np.repeat(np.arange(count), lengths)
    features[:, 2] = 7
    return {"features": features, "lengths": lengths, "transcripts": transcripts}


def test_speech_is_divided_standardised_and_labelled(tmp_path):
    arrays = utterances()
    path = tmp_path / "speech.npz"
    np.savez(path, **arrays)
    problem = speech(path, seed=1)
    alphabet = sorted(set("".join(arrays["transcripts"])))
    assert problem.output_size == 1 + len(alphabet)
    parts = problem.train, problem.validation, problem.test
    assert [len(part.mask) for part in parts] == [16, 2, 2]
    frames = problem.train.inputs[problem.train.mask]
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(frames.std(axis=0), [1, 1, 0], atol=1e-6)
    # Undo the standardisation of the feature that numbers the utterances.
    ends = np.cumsum(arrays["lengths"])
    numbers, seen = [], []
    for part in parts:
        for inputs, target, mask in zip(part.inputs, part.target, part.mask, strict=True):
            seen.append(float(inputs[0, 0]))
            text = "".join(alphabet[label - 1] for label in target if label)
            numbers.append((mask.sum(), text))
    order = np.argsort(np.argsort(seen))
    assert sorted(order) == list(range(20))
    for n, (length, text) in zip(order, numbers, strict=True):
        assert length == np.diff(ends, prepend=0)[n]
        assert text == arrays["transcripts"][n]
    assert 0 < problem.baselines["most frequent character"] < 1
    assert not np.array_equal(problem.test.inputs, speech(path, seed=2).test.inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": None}, r"has no array 'lengths', only \['features', 'transcripts'\]"),
        ({"features": np.ones(9)}, r"features must be numbers \(frames, D\), got float64 \(9,\)"),
        ({"features": np.array([["a"]])}, "features must be numbers"),
        ({"lengths": np.full(20, 8.0)}, "lengths must be integers"),
        ({"lengths": np.full(20, 8)}, "lengths must be positive and add up to the .* sum of 160"),
        ({"lengths": np.r_[0, np.full(19, 9)]}, "lengths must be positive"),
        ({"transcripts": np.array(["a"] * 19)}, "transcripts must be 20 strings"),
        ({"transcripts": np.arange(20)}, "transcripts must be 20 strings, got int64"),
        ({"transcripts": np.array(["a", None] * 10)}, "transcripts: Object arrays cannot be"),
        ({"transcripts": np.array(["a", ""] * 10)}, r"transcripts\[1\] is empty"),
        ({"transcripts": np.array(["aaaaaaa"] * 20)}, r"transcripts\[0\] needs 13 frames"),
    ],
)
def test_a_file_of_speech_that_does_not_fit_is_refused(tmp_path, changes, message):
    path = tmp_path / "speech.npz"
    arrays = {**utterances(), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=message) as caught:
        speech(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_speech_that_is_not_finite_or_too_little_is_refused(tmp_path):
    path = tmp_path / "speech.npz"
    arrays = utterances()
    arrays["features"][5, 1] = np.inf
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"features\[5, 1\] is inf, expected a finite number"):
        speech(path)
    np.savez(path, **utterances(9))
    with pytest.raises(ValueError, match="has 9 utterances, expected at least 10"):
        speech(path)


def test_a_file_that_is_no_archive_of_arrays_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.npz: No such file or directory"):
        speech(tmp_path / "none.npz")
    path = tmp_path / "speech.npz"
    for content in (b"", b"hello", b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"speech.npz: is not an .npz file of features"):
            speech(path)
    np.savez_compressed(path, **utterances())
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + b"\xff" * 40 + whole[100:])
    with pytest.raises(ValueError, match=r"speech.npz: features: "):
        speech(path)
    directory = whole.rindex(b"PK\x01\x02")
    path.write_bytes(whole[:directory] + b"????" + whole[directory + 4 :])
    with pytest.raises(ValueError, match=r"speech.npz: is a damaged .npz file"):
        speech(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("features", "lengths", "transcripts"):
            archive.writestr(name, "hello")
    with pytest.raises(ValueError, match=r"speech.npz: features is not a NumPy array"):
        speech(path)
