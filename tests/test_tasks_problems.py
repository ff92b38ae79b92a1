"""What problems share: their measures beside loops, and arguments that are refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import tasks
from rnn_jax.tasks.metrics import accuracy, bits, exact_match, step_accuracy
from rnn_jax.tasks.task import Example

STEPS, CLASSES = 5, 3


def drawn(dtype):
    """Outputs, half of which are right, targets, and masks of one step to all."""
    rng = np.random.default_rng(0)
    target = rng.integers(CLASSES, size=(300, STEPS))
    outputs = rng.normal(size=(300, STEPS, CLASSES))
    np.put_along_axis(outputs, target[..., None], 1.2, axis=2)
    mask = np.arange(STEPS) < rng.integers(1, STEPS + 1, (300, 1))
    return jnp.asarray(outputs, dtype), Example(None, target, mask)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_measures_of_steps_are_those_of_a_loop(dtype):
    outputs, examples = drawn(dtype)
    found = [jax.vmap(measure)(outputs, examples) for measure in (step_accuracy, exact_match, bits)]
    assert all(number.dtype == dtype for pair in found for number in pair)
    for n, mask in enumerate(examples.mask):
        logits, target = np.asarray(outputs[n], float)[mask], examples.target[n, mask]
        right = logits.argmax(axis=1) == target
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        spent = -sum(math.log2(row[k]) for row, k in zip(shares, target, strict=True))
        expected = ((sum(right), len(right)), (all(right), 1), (spent, len(right)))
        for (totals, weights), (total, weight) in zip(found, expected, strict=True):
            np.testing.assert_allclose((totals[n], weights[n]), (total, weight), rtol=1e-5)
    shares = [float(totals.sum() / weights.sum()) for totals, weights in found]
    assert 0.1 < shares[1] < shares[0] < 0.9  # of both kinds are some


def test_accuracy_counts_an_example_once():
    outputs, examples = drawn(jnp.float32)
    totals, weights = jax.vmap(accuracy)(
        outputs[:, 0], examples._replace(target=examples.target[:, 0])
    )
    np.testing.assert_array_equal(totals, outputs[:, 0].argmax(axis=1) == examples.target[:, 0])
    np.testing.assert_array_equal(weights, 1)


@pytest.mark.parametrize("place", range(CLASSES))
def test_a_logit_that_is_no_number_makes_its_answer_wrong(place):
    """Wherever it stands, and as the target's own, which an argmax takes for the largest."""
    outputs, target = 9 * jnp.eye(CLASSES), jnp.arange(CLASSES)
    example = Example(None, target, jnp.array([True, True, False]))
    spoilt = outputs.at[1, place].set(jnp.nan)
    assert step_accuracy(outputs, example) == (2, 2)
    assert step_accuracy(spoilt, example) == (1, 2)
    assert exact_match(outputs, example) == (1, 1)
    assert exact_match(spoilt, example) == (0, 1)
    assert accuracy(outputs[1], Example(None, target[1], None)) == (1, 1)
    assert accuracy(spoilt[1], Example(None, target[1], None)) == (0, 1)
    padding = outputs.at[2, place].set(jnp.nan)
    for measure in (step_accuracy, exact_match, bits):
        assert measure(padding, example) == measure(outputs, example)


def seeded(folder):
    """Each problem with a seed, by the seed."""
    recording, messages = folder / "speech.npz", folder / "messages.csv"
    lengths, said = np.full(10, 2), np.array(["a"] * 10)
    np.savez(recording, features=np.eye(20), lengths=lengths, transcripts=said)
    rows = [f"{label},word {n} {label}" for label in "ab" for n in range(10)]
    messages.write_text("\n".join(["label,text", *rows]))
    return {
        "captions": tasks.captions,
        "chorales": tasks.chorales,
        "classification": tasks.classification,
        "digit_lines": tasks.digit_lines,
        "moving_digits": tasks.moving_digits,
        "pixel_digits": lambda seed: tasks.pixel_digits(seed=seed),
        "reviews": tasks.reviews,
        "speech": lambda seed: tasks.speech(recording, seed=seed),
        "stories": tasks.stories,
        "text_from_file": lambda seed: tasks.text_from_file(messages, seed=seed),
        "translation": tasks.translation,
    }


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "seed must be at least 0, got -1"),
        (0.0, TypeError, "seed must be an integer, got 0.0"),
        (True, TypeError, "seed must be an integer, got True"),
        (None, TypeError, "seed must be an integer, got None"),
    ],
)
def test_a_seed_is_an_integer_from_0_on(tmp_path, seed, error, message):
    for name, make in seeded(tmp_path).items():
        with pytest.raises(error) as caught:
            make(seed)
        assert str(caught.value) == message, name


def test_names_that_are_exported_exist():
    assert sorted(tasks.__all__) == tasks.__all__
    for name in tasks.__all__:
        assert callable(getattr(tasks, name))  # not a module, which may have the same name
