"""Activity recognition in video: what is the moving digit doing, frame by frame?

Shapes: N videos, T frames of H = W pixels and one channel.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import check_positive
from rnn_jax.tasks.digit_images import Digits, draws
from rnn_jax.tasks.metrics import step_accuracy
from rnn_jax.tasks.problem import Metric, Problem
from rnn_jax.tasks.task import Example, classes_loss

ACTIVITIES = ("rests", "up", "down", "left", "right")
"""What the digit may do; targets are indices into these."""

_MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])  # pixels down and to the right
_CHANGE, _NOISE = 0.25, 0.1
_NOT_ASKED = -1


def moving_digits(
    seed: int = 0, *, frames: int = 8, size: int = 12, train: int = 2000, held_out: int = 400
) -> Problem:
    """Videos of one digit that moves and one that does not: inputs (T, H, W, 1), outputs (T, 5).

    The first digit rests, or goes up, down, left or right by one pixel a frame; from one frame to
    the next it takes up another activity with probability 1/4. What leaves the picture comes back
    on the other side, so that a single frame tells nothing. The second digit stays where it is. A
    pixel shows the darker of the two, and noise of standard deviation 0.1.

    The target of frame t is what the first digit did since frame t - 1, an index into `ACTIVITIES`.
    That of the first frame is -1: it counts neither in the loss, the mean of -ln p over frames in
    nats, nor in the metric, the share of frames right.

    Baselines are the most frequent activity; a logistic regression on single frames; and block
    matching, by which a frame moves so that it is nearest, in squared error, to the next. The digit
    at rest misleads it. Whoever knows these five moves can do without a network: a regression from
    their five errors to the activity makes no mistake.

    Digits are drawn from the images of one part of `digit_splits`: none of the test is seen in
    training.

    Args:
      seed: of the division and the videos.
      frames: T, at least 2.
      size: H and W in pixels, at least 8.
      train: videos to train on.
      held_out: videos to validate on, and to test on.

    Raises:
      TypeError, ValueError: for arguments that are no integers, or too small.

    >>> problem = moving_digits(frames=4, train=50, held_out=5)
    >>> problem.train.inputs.shape, problem.train.target.shape, problem.train.target[:, 0].max()
    ((50, 4, 12, 12, 1), (50, 4), np.int32(-1))
    """
    for name, value, least in (("frames", frames, 2), ("size", size, 8)):
        if check_positive(name, value) < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    rng, parts = draws(seed, train, held_out)
    examples, validation, test = (_videos(rng, part, count, frames, size) for part, count in parts)
    return Problem(
        "moving digits",
        "many_to_many",
        examples,
        validation,
        test,
        lambda outputs, example: classes_loss(outputs, _asked(example)),
        Metric("share of frames right", _measure, higher_is_better=True),
        output_size=len(ACTIVITIES),
        baselines=_baselines(examples, test),
        initial_loss=math.log(len(ACTIVITIES)),
        show=_show,
    )


def _measure(outputs: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    return step_accuracy(outputs, _asked(example))


def _asked(example: Example) -> Example:
    """The example with only those frames valid that have a target."""
    asked = example.mask & (example.target != _NOT_ASKED)
    return example._replace(target=jnp.where(asked, example.target, 0), mask=asked)


def _show(outputs: jax.Array, example: Example) -> Mapping[str, str]:
    asked = np.asarray(_asked(example).mask)
    columns = {"did": example.target, "answer": np.argmax(outputs, axis=-1)}
    return {
        name: " ".join(ACTIVITIES[activity] for activity in np.asarray(column)[asked])
        for name, column in columns.items()
    }


def _videos(rng: np.random.Generator, part: Digits, count: int, frames: int, size: int) -> Example:
    activity = np.empty((count, frames), np.int32)
    activity[:, 0] = rng.integers(len(ACTIVITIES), size=count)  # until its first step is seen
    for t in range(1, frames):
        other = (activity[:, t - 1] + rng.integers(1, len(ACTIVITIES), count)) % len(ACTIVITIES)
        activity[:, t] = np.where(rng.random(count) < _CHANGE, other, activity[:, t - 1])
    path = np.cumsum(_MOVES[activity], axis=1) + rng.integers(size, size=(count, 1, 2))
    still = np.broadcast_to(rng.integers(size, size=(count, 1, 2)), path.shape)
    inputs = np.maximum(_film(rng, part, path, size), _film(rng, part, still, size))
    inputs += rng.normal(0, _NOISE, inputs.shape).astype(np.float32)
    target = activity.copy()
    target[:, 0] = _NOT_ASKED
    mask = np.ones((count, frames), bool)
    return Example(inputs[..., None], target, mask)


def _film(rng: np.random.Generator, part: Digits, path: np.ndarray, size: int) -> np.ndarray:
    """A digit for each video with its upper left corner on a path (N, T, 2): (N, T, H, W)."""
    images, _ = part
    count = len(path)
    canvas = np.zeros((count, size, size), np.float32)
    canvas[:, :8, :8] = images[rng.integers(len(images), size=count)]
    rows, columns = np.moveaxis((np.arange(size) - path[..., None]) % size, 2, 0)
    return canvas[np.arange(count)[:, None, None, None], rows[..., None], columns[..., None, :]]


def _baselines(train: Example, test: Example) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression

    wanted = test.target[:, 1:]
    films, film = train.inputs[..., 0], test.inputs[..., 0]
    frequent = np.argmax(np.bincount(train.target[:, 1:].ravel()))
    # One frame of each video, the last: those of one video are much the same.
    regression = LogisticRegression(C=0.1, max_iter=1000)
    regression.fit(films[:, -1].reshape(len(films), -1), train.target[:, -1])
    frames = film[:, 1:].reshape(wanted.size, -1)
    errors = [
        np.sum((np.roll(film[:, :-1], move, (2, 3)) - film[:, 1:]) ** 2, axis=(2, 3))
        for move in _MOVES
    ]
    answers = {
        "most frequent activity": np.full(wanted.shape, frequent),
        "single frames": regression.predict(frames).reshape(wanted.shape),
        "block matching": np.argmin(errors, axis=0),
    }
    return {name: float(np.mean(answer == wanted)) for name, answer in answers.items()}
