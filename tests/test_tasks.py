"""Tasks: what they draw, what their losses and errors count, and that baselines are exact."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import tasks
from rnn_jax.tasks.bits import delayed_xor, parity
from rnn_jax.tasks.long_dependencies import multiplication, random_permutation
from rnn_jax.tasks.task import of_varied_length

GENERATED = (
    *(tasks.adding(variant) for variant in ("halves", "hochreiter", "pascanu")),
    multiplication(),
    tasks.copy_memory(),
    *(tasks.temporal_order(variant, 3) for variant in ("pascanu", "hochreiter")),
    tasks.temporal_order(),
    random_permutation(),
    delayed_xor(4),
    parity(),
    parity("each step"),
    of_varied_length(tasks.copy_memory(), 25),
)
TEXT = "the cat sat on the mat and the dog sat on the cat. " * 20
ALL = (*GENERATED, tasks.next_character(TEXT, 6))
named = pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)


def draw(task, count, steps, length=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(jax.vmap(lambda key: task.sample(key, steps, length)))(keys)


@named
def test_a_shorter_sequence_is_padded_and_the_padding_does_not_count(task):
    length = max(30, task.shortest)
    steps = length + 18
    example = task.sample(jax.random.key(1), steps, length)
    assert example.inputs.shape == (steps, task.input_size)
    np.testing.assert_array_equal(example.mask, np.arange(steps) < length)
    assert not example.inputs[length:].any()
    outputs = jax.random.normal(jax.random.key(2), (steps, task.output_size))
    spoilt = outputs.at[length:].set(1e6)
    for count in (task.loss, task.error):
        assert count(outputs, example) == count(spoilt, example)
    traced = jax.jit(lambda length: task.sample(jax.random.key(1), steps, length))(length)
    for one, other in zip(jax.tree.leaves(traced), jax.tree.leaves(example), strict=True):
        np.testing.assert_array_equal(one, other)


@named
def test_lengths_out_of_range_are_refused(task):
    steps = task.shortest + 18
    for length in (task.shortest - 1, steps + 1, -3):
        message = f"length must be between {task.shortest} and {steps}, got {length}"
        with pytest.raises(ValueError, match=message):
            task.sample(jax.random.key(0), steps, length)
    if task.shortest > 1:
        with pytest.raises(ValueError, match=f"steps must be at least {task.shortest}"):
            task.sample(jax.random.key(0), task.shortest - 1)


@named
def test_the_shortest_sequence_can_be_drawn(task):
    example = draw(task, 50, task.shortest)
    assert np.isfinite(example.inputs).all()
    assert example.mask.all()


@named
def test_what_is_not_a_number_is_wrong(task):
    """Also where the target is the class that an argmax takes for it."""
    length = max(48, task.shortest)
    example = draw(task, 40, length)
    error = jax.jit(jax.vmap(task.error))
    steps = jnp.zeros((40, length, task.output_size))
    np.testing.assert_array_equal(error(steps + jnp.nan, example), 1)
    if task.output_size > 1:
        # The right answer, but for a logit or all of them.
        right = 100 * jax.nn.one_hot(example.target, task.output_size)
        right = right if right.ndim == 3 else right[:, None] + steps
        np.testing.assert_array_equal(error(right, example), 0)
        spoilt = jnp.where(right > 0, jnp.nan, right)
        np.testing.assert_array_equal(error(spoilt, example), 1)


def test_adding_sums_the_two_marked_numbers():
    example = draw(tasks.adding(), 20_000, 31)
    values, markers = np.moveaxis(np.asarray(example.inputs), -1, 0)
    np.testing.assert_array_equal(markers[:, :15].sum(axis=1), 1)
    np.testing.assert_array_equal(markers[:, 15:].sum(axis=1), 1)
    np.testing.assert_allclose((values * markers).sum(axis=1), example.target, rtol=1e-6)
    # Every place is marked as often: 20 000 draws over 15 places, 5 standard deviations.
    shares = markers[:, :15].mean(axis=0)
    np.testing.assert_allclose(shares, 1 / 15, atol=5 * (1 / 15 / 20_000) ** 0.5)


def test_adding_without_memory_costs_a_sixth():
    """C2; the standard error of the mean square of 100 000 sums is 0.2 % of it."""
    task = tasks.adding()
    example = draw(task, 100_000, 6)
    outputs = jnp.ones((100_000, 6, 1))
    loss = jax.vmap(task.loss)(outputs, example).mean()
    assert abs(loss - task.baseline(6)) < 0.01 * task.baseline(6)
    # P(|a + b - 1| < d) = 2 d - d^2: hits by chance, by the criterion of 0.04.
    wrong = jax.vmap(task.error)(outputs, example).mean()
    assert abs(wrong - (1 - 0.04) ** 2) < 0.004


def test_copy_asks_for_the_first_symbols_after_the_sign():
    task = tasks.copy_memory()
    example = draw(task, 200, 60, 50)
    codes = np.asarray(example.inputs).argmax(axis=-1)
    np.testing.assert_array_equal(np.asarray(example.inputs).sum(axis=-1)[:, :50], 1)
    assert np.all(codes[:, :10] < 8)
    assert np.all(codes[:, 10:39] == 8)
    assert np.all(codes[:, 39] == 9)
    assert np.all(codes[:, 40:50] == 8)
    np.testing.assert_array_equal(example.target[:, 40:50], codes[:, :10])
    assert np.all(np.asarray(example.target)[:, :40] == 8)
    perfect = 100 * jax.nn.one_hot(example.target, 9)
    assert float(jax.vmap(task.error)(perfect, example).max()) == 0
    assert float(jax.vmap(task.loss)(perfect, example).max()) < 1e-6


@pytest.mark.parametrize(
    ("delay", "printed"),
    [
        (100, 0.173287),
        (200, 0.094520),
        (300, 0.064983),
        (500, 0.039989),
        (1000, 0.020387),
        (2000, 0.010294),
    ],
)
def test_copy_without_memory_costs_ten_guesses(delay, printed):
    """C1, measured: blanks for certain until the answer, then all eight symbols alike."""
    task = tasks.copy_memory()
    steps = delay + 20
    example = task.sample(jax.random.key(0), steps)
    asks = (jnp.arange(steps) >= steps - 10)[:, None]
    symbols = jnp.array([[0.0] * 8 + [-100.0]])
    blanks = jnp.array([[-100.0] * 8 + [0.0]])
    loss = task.loss(jnp.where(asks, symbols, blanks), example)
    assert abs(float(loss) - printed) < 1e-6
    assert abs(task.baseline(steps) - printed) < 1e-6


def test_temporal_order_has_four_classes_alike():
    """C4: the signs stand where they should, and their order is the class."""
    task = tasks.temporal_order()
    example = draw(task, 20_000, 50, 47)
    codes = np.asarray(example.inputs).argmax(axis=-1)
    for row, target in zip(codes[:500], np.asarray(example.target)[:500], strict=True):
        places = np.flatnonzero((row < 2) & np.asarray(example.mask[0]))
        assert len(places) == 2
        assert places[0] in range(4, 9)
        assert places[1] in range(23, 28)
        assert target == 2 * row[places[0]] + row[places[1]]
    shares = np.bincount(example.target, minlength=4) / 20_000
    np.testing.assert_allclose(shares, 0.25, atol=5 * (0.25 * 0.75 / 20_000) ** 0.5)
    guess = jnp.zeros((50, 4))
    one = jax.tree.map(lambda leaf: leaf[0], example)
    assert abs(float(task.loss(guess, one)) - math.log(4)) < 1e-6 < task.baseline(47) - 1


def test_next_character_is_the_text_itself():
    from rnn_jax.tasks import characters

    task = tasks.next_character(TEXT, 6)
    codes, alphabet = characters(TEXT)
    example = draw(task, 300, 20)
    text = "".join(alphabet[code] for code in np.asarray(example.target[0]))
    assert text in TEXT
    # A vector stands for one character: the one that the step before was to say.
    vectors, wanted = np.asarray(example.inputs)[:, 1:], np.asarray(example.target)[:, :-1]
    for code in range(len(alphabet)):
        assert len(np.unique(vectors[wanted == code], axis=0)) == 1
    shares = np.bincount(codes) / len(codes)
    outputs = jnp.broadcast_to(jnp.log(shares), (300, 20, len(alphabet)))
    loss = jax.vmap(task.loss)(outputs, example)
    # 300 overlapping windows of 20 characters of a periodic text: some per cent.
    assert abs(float(loss.mean()) - task.baseline(20)) < 0.03 * task.baseline(20)


def test_next_character_refuses_what_it_cannot_cut():
    with pytest.raises(ValueError, match="one character"):
        tasks.next_character("aaaa", 3)
    with pytest.raises(ValueError, match="too few for 19 steps"):
        tasks.next_character("to be, or not to be", 3).sample(jax.random.key(0), 19)


def test_parts_of_a_text_share_its_alphabet_and_nothing_else():
    text = "abcd" * 25 + "efgh" * 25
    first, second = (tasks.next_character(text, 3, part=part) for part in ((0, 0.5), (0.5, 1)))
    assert first.output_size == second.output_size == 8
    assert draw(first, 50, 10).target.max() == 3
    assert draw(second, 50, 10).target.min() == 4
    assert first.baseline(10) == second.baseline(10) == pytest.approx(math.log(8))
    with pytest.raises(ValueError, match="too few for 100 steps"):
        first.sample(jax.random.key(0), 100)
    with pytest.raises(ValueError, match="part must be shares from 0 to 1"):
        tasks.next_character(text, 3, part=(0.5, 0.5))
