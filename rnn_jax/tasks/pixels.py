"""Images read pixel by pixel."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arguments import check_choice
from rnn_jax.tasks.digit_images import digit_splits
from rnn_jax.tasks.task import Example, Task, class_at_end_error, class_at_end_loss, padding

PARTS = ("train", "validation", "test")


def pixel_digits(
    *,
    permuted: bool = False,
    part: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
) -> Task:
    """Which digit is it? scikit-learn's 8 x 8 images pixel by pixel: T = 64, D = 1, K = 10.

    A sequence is an image of the part, drawn with replacement; `digit_splits` makes the parts.
    Pixels are from 0 to 1, line by line, or in one random order that is the same for all images of
    all parts. There are 64 steps and no padding. The loss is that of the last step; the baseline is
    the entropy of the classes of the part, which is near ln 10.

    Args:
      permuted: pixels in random order.
      part: which images.
      seed: of the parts and of the order of pixels.

    Raises:
      TypeError, ValueError: for another part, for a seed that is no integer from 0 on; by
        ``sample``, for a number of steps other than 64.

    References:
      Le, Jaitly and Hinton (2015), arXiv:1504.00941, with 28 x 28 images.

    >>> task = pixel_digits(permuted=True)
    >>> task.sample(jax.random.key(0), 64).inputs.shape, round(task.baseline(64), 3)
    ((64, 1), 2.302)
    """
    check_choice("pixel_digits: part", part, PARTS)
    images, digits = digit_splits(seed)[PARTS.index(part)]
    pixels = math.prod(images.shape[1:])
    order = np.random.default_rng(seed).permutation(pixels) if permuted else np.arange(pixels)
    sequences = jnp.asarray(images.reshape(-1, pixels)[:, order, None])
    targets = jnp.asarray(digits)
    shares = np.bincount(digits) / len(digits)
    entropy = float(-np.sum(shares * np.log(shares)))

    def sample(key: jax.Array, steps: int, length: jax.typing.ArrayLike | None = None) -> Example:
        if steps != pixels:
            raise ValueError(f"pixel_digits: steps must be {pixels}, got {steps}")
        mask = padding("pixel_digits", steps, length, pixels)
        image = jax.random.randint(key, (), 0, len(digits))
        return Example(sequences[image], targets[image], mask)

    return Task(
        "permuted pixel digits" if permuted else "pixel digits",
        1,
        10,
        sample,
        class_at_end_loss,
        class_at_end_error,
        lambda length: entropy,
        pixels,
    )
