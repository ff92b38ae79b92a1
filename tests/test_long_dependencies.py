"""Tasks of long dependencies: where things stand, what is right, exact and measured baselines.

Counts are of 20 000 draws or more, within five standard deviations; measured baselines are of
100 000, within one per cent.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.bits import delayed_xor, parity
from rnn_jax.tasks.digit_images import digit_splits
from rnn_jax.tasks.long_dependencies import (
    adding,
    copy_memory,
    multiplication,
    random_permutation,
    temporal_order,
)
from rnn_jax.tasks.pixels import PARTS, pixel_digits
from rnn_jax.tasks.task import of_varied_length, solved_after

MANY = 100_000


def draw(task, count, steps, length=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    example = jax.jit(jax.vmap(lambda key: task.sample(key, steps, length)))(keys)
    return jax.tree.map(np.asarray, example)


def answer(task, example, outputs):
    """Mean loss and share wrong of the same outputs (T, O) for every sequence."""
    batched = jax.jit(jax.vmap(lambda one: (task.loss(outputs, one), task.error(outputs, one))))
    return tuple(float(part.mean()) for part in batched(example))


def close(shares, chances, count):
    chances = np.broadcast_to(chances, np.shape(shares))
    deviations = np.sqrt(chances * (1 - chances) / count)
    np.testing.assert_array_less(np.abs(shares - chances), 5 * deviations + 1e-12)


def conditional_entropy(known, target):
    """H(target | known) of integers, nats, from their frequencies."""
    counts = np.zeros((known.max() + 1, target.max() + 1))
    np.add.at(counts, (known, target), 1)
    joint = counts / counts.sum()
    given = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
    return -np.sum(joint * np.log(np.where(given > 0, given, 1)))


@pytest.mark.parametrize(("task", "lowest"), [(adding("hochreiter"), -1), (multiplication(), 0)])
def test_the_first_marker_of_1997_is_early_and_the_second_in_the_first_half(task, lowest):
    length = 60
    example = draw(task, 20_000, length + 6, length)
    values, markers = np.moveaxis(example.inputs, -1, 0)
    np.testing.assert_array_equal(markers[:, [0, length - 1]], -1)
    marked = markers == 1
    np.testing.assert_array_equal(marked.sum(axis=1), 2)
    np.testing.assert_array_equal((markers != 0).sum(axis=1), 4)
    # 9 steps for the first, then 28 that are left of the 29 in the half.
    chances = np.zeros(length + 6)
    chances[1:30] = 1 / 28
    chances[1:10] = 1 / 9 + 8 / 9 / 28
    close(marked.mean(axis=0), chances, 20_000)
    pairs = values[marked].reshape(-1, 2)
    target = pairs.prod(axis=1) if lowest == 0 else 0.5 + pairs.sum(axis=1) / 4
    np.testing.assert_allclose(example.target, target, rtol=1e-5)
    quarters = np.histogram(values[:, :length], bins=np.linspace(lowest, 1, 5))[0]
    close(quarters / (20_000 * length), 0.25, 20_000 * length)


def test_the_markers_of_2013_stand_before_the_middle():
    example = draw(adding("pascanu"), 20_000, 60, 50)
    values, markers = np.moveaxis(example.inputs, -1, 0)
    chances = np.zeros(60)
    chances[:5], chances[5:25] = 1 / 5, 1 / 20
    close(markers.mean(axis=0), chances, 20_000)
    np.testing.assert_array_equal(markers[:, :5].sum(axis=1), 1)
    np.testing.assert_allclose(example.target, (values * markers).sum(axis=1) / 2, rtol=1e-6)


def below(z):
    """P(X1 X2 < z) of two U(0, 1)."""
    return z - z * math.log(z)


# Task, lowest number, target, its mean, printed variance, share right of the mean.
NUMBERS = {
    "halves": (adding(), 0, lambda x, y: x + y, 1, 1 / 6, 1 - 0.96**2),
    "hochreiter": (
        adding("hochreiter"),
        -1,
        lambda x, y: 0.5 + (x + y) / 4,
        1 / 2,
        0.041667,
        1 - 0.92**2,
    ),
    # A constant is right in 64 %.
    "pascanu": (adding("pascanu"), 0, lambda x, y: (x + y) / 2, 1 / 2, 0.041667, 1 - 0.6**2),
    "multiplication": (
        multiplication(),
        0,
        lambda x, y: x * y,
        1 / 4,
        0.048611,
        below(0.29) - below(0.21),
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_two_numbers_without_memory_cost_their_variance(name):
    """Exactly, by quadrature of the polynomial, and measured."""
    task, lowest, target, mean, printed, right = NUMBERS[name]
    nodes, weights = np.polynomial.legendre.leggauss(4)
    points = lowest + (nodes + 1) / 2 * (1 - lowest)
    values = target(points[:, None], points)
    chances = np.outer(weights, weights) / 4
    assert np.sum(chances * values) == pytest.approx(mean, abs=1e-12)
    variance = np.sum(chances * (values - mean) ** 2)
    assert task.baseline(40) == pytest.approx(variance, abs=1e-12)
    assert task.baseline(40) == pytest.approx(printed, abs=1e-6)
    example = draw(task, MANY, 20)
    loss, wrong = answer(task, example, jnp.full((20, 1), mean, jnp.float32))
    assert loss == pytest.approx(variance, rel=0.01)
    close(1 - wrong, right, MANY)


def test_right_is_less_than_the_tolerance_away():
    for task, tolerance in ((adding("hochreiter"), 0.04), (adding("pascanu"), 0.2)):
        example = task.sample(jax.random.key(0), 20)
        for distance, wrong in ((0.99 * tolerance, 0), (-1.01 * tolerance, 1)):
            outputs = jnp.full((20, 1), example.target + distance)
            assert task.error(outputs, example) == wrong


SIGNS = {2: [(10, 20), (50, 60)], 3: [(10, 20), (33, 43), (66, 76)]}
TENTHS = {2: [(10, 19), (50, 59)], 3: [(10, 19), (30, 39), (60, 69)]}


@pytest.mark.parametrize("signs", [2, 3])
@pytest.mark.parametrize("variant", ["hochreiter", "pascanu"])
def test_the_order_of_signs_is_the_class(variant, signs):
    task = temporal_order(variant, signs)
    example = draw(task, 20_000, 108, 100)
    np.testing.assert_array_equal(example.inputs.sum(axis=-1), example.mask)
    codes = example.inputs.argmax(axis=-1)[:, :100]
    assert task.input_size == (8 if variant == "hochreiter" else 6)
    rest = codes
    if variant == "hochreiter":
        assert np.all(codes[:, 0] == 6)
        assert np.all(codes[:, -1] == 7)
        rest = codes[:, 1:-1]
    assert np.all(rest < 6)
    is_sign = codes < 2
    np.testing.assert_array_equal(is_sign.sum(axis=1), signs)
    chances = np.zeros(100)
    for low, high in (SIGNS if variant == "hochreiter" else TENTHS)[signs]:
        chances[low : high + 1] = 1 / (high + 1 - low)
    close(is_sign.mean(axis=0), chances, 20_000)
    drawn = codes[is_sign].reshape(-1, signs)
    np.testing.assert_array_equal(example.target, drawn @ 2 ** np.arange(signs)[::-1])
    close(np.bincount(example.target, minlength=2**signs) / 20_000, 2.0**-signs, 20_000)
    others = np.bincount(rest[rest > 1])[2:]
    close(others / others.sum(), 1 / 4, others.sum())


@pytest.mark.parametrize(("signs", "wrong", "printed"), [(2, 0.75, 1.386294), (3, 0.875, 2.079442)])
@pytest.mark.parametrize("variant", ["hochreiter", "pascanu"])
def test_order_without_memory_costs_a_guess(variant, signs, wrong, printed):
    task = temporal_order(variant, signs)
    steps = task.shortest
    assert task.baseline(steps) == pytest.approx(printed, abs=1e-6)
    example = draw(task, MANY if variant == "pascanu" else 20_000, steps)
    loss, _ = answer(task, example, jnp.zeros((steps, 2**signs)))
    assert loss == pytest.approx(task.baseline(steps), abs=1e-6)
    last = example.inputs[:, -1].argmax(axis=1)
    assert conditional_entropy(last, example.target) == pytest.approx(loss, rel=0.01)
    always_one = jnp.zeros((steps, 2**signs)).at[:, 1].set(100)
    close(answer(task, example, always_one)[1], wrong, len(last))


def test_an_order_of_1997_is_right_if_no_output_is_off_by_a_third():
    task = temporal_order("hochreiter", 3)
    example = draw(task, 500, 100)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 100, 8))
    logits[np.arange(500), -1, example.target] += rng.uniform(0, 6, 500)
    chances = np.exp(logits[:, -1]) / np.exp(logits[:, -1]).sum(axis=1, keepdims=True)
    off = np.abs(chances - np.eye(8)[example.target]).max(axis=1)
    errors = jax.jit(jax.vmap(task.error))(logits, example)
    np.testing.assert_array_equal(errors, off >= 0.3)
    assert 0.2 < errors.mean() < 0.8


def test_the_permutation_begins_with_what_is_asked():
    task = random_permutation()
    example = draw(task, 5_000, 12, 9)
    np.testing.assert_array_equal(example.inputs.sum(axis=-1), example.mask)
    codes = example.inputs.argmax(axis=-1)[:, :9]
    np.testing.assert_array_equal(codes[:, 0], example.target)
    counts = np.bincount(codes[:, 1:].ravel(), minlength=100)
    assert np.all(counts[:2] == 0)
    close(counts[2:] / counts.sum(), 1 / 98, counts.sum())
    for symbols in (codes[:, 1], codes[:, -1]):
        close(np.mean(symbols < 51), 1 / 2, 5_000)


def test_the_permutation_without_memory_costs_a_bit():
    task = random_permutation()
    example = draw(task, MANY, 2)
    undecided = jnp.full((2, 100), -100.0).at[:, :2].set(0)
    loss, wrong = answer(task, example, undecided.at[:, 0].set(1e-3))
    assert loss == pytest.approx(math.log(2), abs=1e-5) == task.baseline(2)
    close(wrong, 1 / 2, MANY)
    last = example.inputs[:, -1].argmax(axis=1)
    assert conditional_entropy(last, example.target) == pytest.approx(math.log(2), rel=0.01)


@pytest.mark.parametrize("delay", [1, 3])
def test_delayed_xor_is_of_two_bits_of_the_past(delay):
    task = delayed_xor(delay)
    length = 2 * delay + 10
    example = draw(task, MANY // 10, length + 3, length)
    bits = example.inputs[..., 0].astype(int)
    assert not bits[:, length:].any()
    close(bits[:, :length].mean(axis=0), 1 / 2, len(bits))
    asked = range(2 * delay, length)
    for one in range(50):
        for t in asked:
            assert example.target[one, t] == (bits[one, t - delay] != bits[one, t - 2 * delay])
    # 100 000 answers.
    now, wanted = (part[:, asked].ravel() for part in (bits, example.target))
    assert conditional_entropy(now, wanted) == pytest.approx(task.baseline(length), rel=0.01)
    # What is said before there are two bits to compare does not count.
    outputs = jnp.zeros((length + 3, 2)).at[: 2 * delay].set(jnp.nan)
    loss, wrong = answer(task, example, outputs)
    assert loss == pytest.approx(math.log(2), abs=1e-6) == task.baseline(length)
    close(wrong, 1 / 2, wanted.size)


def test_parity_is_that_of_the_ones_so_far():
    length = 10
    at_end, each = (draw(parity(when), MANY // 10, 14, length) for when in ("end", "each step"))
    bits = each.inputs[..., 0].astype(int)
    np.testing.assert_array_equal(at_end.inputs, each.inputs)
    close(bits[:, :length].mean(axis=0), 1 / 2, len(bits))
    odd = np.zeros(len(bits), bool)
    for t in range(length):
        odd ^= bits[:, t] == 1
        np.testing.assert_array_equal(each.target[:, t], odd)
    np.testing.assert_array_equal(at_end.target, odd)


def test_parity_without_memory_costs_a_bit_but_for_the_first():
    length = 10
    each = draw(parity("each step"), MANY, length)
    bits = each.inputs[..., 0].astype(int)
    known = 2 * np.arange(length) + bits
    measured = conditional_entropy(known.ravel(), each.target.ravel())
    assert parity("each step").baseline(length) == pytest.approx(0.9 * math.log(2))
    assert measured == pytest.approx(0.9 * math.log(2), rel=0.01)
    at_end = draw(parity(), MANY, 2)
    last = at_end.inputs[:, -1, 0].astype(int)
    measured = conditional_entropy(last, at_end.target)
    assert measured == pytest.approx(math.log(2), rel=0.01)
    assert parity().baseline(2) == parity().baseline(50) == math.log(2)


@pytest.mark.parametrize("part", PARTS)
def test_pixel_digits_are_the_images_of_their_part(part):
    images, digits = digit_splits(3)[PARTS.index(part)]
    count = 40 * len(images)
    task = pixel_digits(part=part, seed=3)
    example = draw(task, count, 64)
    assert example.mask.all()
    known = {image.tobytes(): n for n, image in enumerate(images)}
    drawn = [known[sequence.tobytes()] for sequence in example.inputs]
    np.testing.assert_array_equal(example.target, digits[drawn])
    close(np.bincount(drawn, minlength=len(images)) / count, 1 / len(images), count)
    shares = np.bincount(digits) / len(digits)
    assert task.baseline(64) == pytest.approx(np.sum(shares * -np.log(shares)))
    assert task.baseline(64) == pytest.approx(math.log(10), rel=1e-3)
    outputs = jnp.broadcast_to(jnp.log(shares), (64, 10))
    loss, wrong = answer(task, example, outputs)
    assert loss == pytest.approx(task.baseline(64), rel=0.01)
    close(wrong, 1 - shares.max(), count)


def test_one_order_of_pixels_is_that_of_all_parts():
    plain, permuted = (pixel_digits(permuted=permuted, seed=3) for permuted in (False, True))
    # The same key is the same image.
    before, after = (draw(task, 2_000, 64).inputs[..., 0] for task in (plain, permuted))
    places = {column.tobytes(): place for place, column in enumerate(before.T)}
    order = [places[column.tobytes()] for column in after.T]
    assert np.mean(order == np.arange(64)) < 0.2
    of_test = (pixel_digits(permuted=permuted, part="test", seed=3) for permuted in (False, True))
    before, after = (draw(task, 200, 64).inputs[..., 0] for task in of_test)
    np.testing.assert_array_equal(before[:, order], after)
    of_another_seed = draw(pixel_digits(part="test", seed=4), 200, 64).inputs[..., 0]
    assert not np.array_equal(of_another_seed, before)


def test_lengths_are_drawn_evenly():
    """And sequences of T = 100 are those of 1997."""
    task = of_varied_length(adding("hochreiter"), 100)
    example = draw(task, 20_000, 110)
    lengths = example.mask.sum(axis=1)
    close(np.bincount(lengths, minlength=111)[100:] / 20_000, 1 / 11, 20_000)
    ends = example.inputs[np.arange(20_000), lengths - 1, 1]
    np.testing.assert_array_equal(ends, -1)
    assert task.shortest == 100
    assert draw(task, 20, 110, 105).mask.sum(axis=1).tolist() == [105] * 20
    assert task.baseline(110) == pytest.approx(1 / 24)
    copy = of_varied_length(copy_memory(), 120)
    expected = 10 * math.log(8) * (1 / 120 + 1 / 121 + 1 / 122) / 3
    assert copy.baseline(122) == pytest.approx(expected)
    with pytest.raises(ValueError, match="least must be at least 21 for copy memory, got 20"):
        of_varied_length(copy_memory(), 20)
    with pytest.raises(ValueError, match="steps must be at least 100, got 99"):
        task.sample(jax.random.key(0), 99)


def test_training_is_over_after_a_run_of_right_answers():
    rng = np.random.default_rng(0)

    def by_hand(losses, errors, mean_loss, run):
        for n in range(run, len(errors) + 1):
            if not errors[n - run : n].any() and np.mean(losses[n - run : n]) < mean_loss:
                return n
        return None

    found = []
    for _ in range(200):
        errors = rng.random(60) < 0.35
        losses = np.where(errors, rng.choice([np.nan, np.inf, 1e9], 60), rng.random(60))
        found.append(solved_after(losses, errors, mean_loss=0.5, run=6))
        assert found[-1] == by_hand(losses, errors, 0.5, 6)
    assert 40 < sum(n is not None for n in found) < 160
    right = np.zeros(3000)
    assert solved_after(right, right, mean_loss=0.01) == 2000
    assert solved_after(right[:1999], right[:1999], mean_loss=0.01) is None
    assert solved_after(right + 0.01, right, mean_loss=0.01) is None
    with pytest.raises(ValueError, match="vectors of one length"):
        solved_after(right, right[:-1], mean_loss=0.1)
    with pytest.raises(ValueError, match="run must be at least 1"):
        solved_after(right, right, mean_loss=0.1, run=0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: adding("both"), ValueError, "adding: variant must be 'halves' or .* got 'both'"),
        (lambda: temporal_order("1997"), ValueError, "temporal_order: variant must be .* '1997'"),
        (lambda: temporal_order(signs=4), ValueError, "temporal_order: signs must be 2 or 3"),
        (lambda: parity("start"), ValueError, "parity: when must be 'end' or 'each step'"),
        (lambda: delayed_xor(0), ValueError, "delayed_xor: delay must be at least 1, got 0"),
        (lambda: delayed_xor(1.5), TypeError, "delayed_xor: delay must be an integer, got 1.5"),
        (lambda: pixel_digits(part="all"), ValueError, "pixel_digits: part must be .* got 'all'"),
        (lambda: pixel_digits(seed=None), TypeError, "seed must be an integer, got None"),
        (
            lambda: pixel_digits().sample(jax.random.key(0), 65),
            ValueError,
            "pixel_digits: steps must be 64, got 65",
        ),
        (
            lambda: pixel_digits().sample(jax.random.key(0), 64, 60),
            ValueError,
            "pixel_digits: length must be between 64 and 64, got 60",
        ),
    ],
)
def test_what_is_no_task_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
