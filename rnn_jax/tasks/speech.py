"""Speech, or any recording with its transcript, from the user's own features."""

import itertools
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from rnn_jax.arguments import check_positive
from rnn_jax.reading import readable
from rnn_jax.tasks.ctc import CHARACTER_ERROR, constant_answer, ctc_loss, pad_lines, reader
from rnn_jax.tasks.problem import Problem

_ARRAYS = ("features", "lengths", "transcripts")


def speech(path: str | os.PathLike[str], *, seed: int = 0) -> Problem:
    """Transcribe utterances, character by character, as `rnn_jax.tasks.digit_lines` does digits.

    The file is an ``.npz`` of three arrays, without pickles: ``features`` (sum of T, D), the frames
    of all utterances one after the other, such as log-mel energies; ``lengths`` (N,), how many
    frames each has; and ``transcripts`` (N,), strings. Labels are the characters of all
    transcripts, in code point order from 1.

    A tenth of the utterances each, at random, are there to validate and to test on; speakers are
    not kept apart. Features have mean 0 and variance 1 over the frames of the training.

    The loss is `rnn_jax.tasks.ctc.ctc_loss`, the metric the character error rate, and the
    baseline says the most frequent character, so often as is best in training.

    Args:
      path: of the file.
      seed: of the division.

    Raises:
      TypeError: for a seed that is no integer.
      ValueError: for a seed below 0. One line naming the path, for a file that is missing or no
        ``.npz``; for arrays that are missing, pickled or of other shapes, features that are not
        finite, lengths that are below 1 or do not add up; fewer than 10 utterances; an empty
        transcript, or one that has more characters, and blanks between two that are alike, than
        its utterance has frames.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "greetings.npz")
    ...     words = np.array(["hello", "hi"] * 10)
    ...     np.savez(path, features=np.eye(120), lengths=np.full(20, 6), transcripts=words)
    ...     problem = speech(path)
    >>> problem.name, problem.output_size, problem.train.inputs.shape, problem.test.target.shape
    ('greetings', 6, (16, 6, 120), (2, 5))
    """
    path = Path(os.path.expanduser(path))
    features, lengths, transcripts = _read(path)
    alphabet = sorted(set("".join(transcripts)))
    table = {character: label for label, character in enumerate(alphabet, 1)}
    labels = [np.array([table[character] for character in text]) for text in transcripts]
    utterances = np.split(features, np.cumsum(lengths)[:-1])

    order = np.random.default_rng(check_positive("seed", seed, zero=True)).permutation(len(labels))
    tenth = len(order) // 10
    chosen = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    frames = np.concatenate([utterances[n] for n in chosen[0]])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)  # what never varies in training stays 0
    train, validation, test = (
        pad_lines(
            [((utterances[n] - mean) / scale, labels[n]) for n in part],
            max(lengths),
            max(map(len, labels)),
        )
        for part in chosen
    )
    return Problem(
        path.stem,
        "many_to_many",
        train,
        validation,
        test,
        ctc_loss,
        CHARACTER_ERROR,
        output_size=1 + len(alphabet),
        baselines={"most frequent character": constant_answer(train.target, test.target)},
        show=reader(alphabet),
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features (sum of T, D) float64, lengths (N,) and the transcripts, all checked."""
    features, lengths, transcripts = _load(path)
    if features.ndim != 2 or features.dtype.kind not in "fiu" or features.shape[1] < 1:
        got = f"{features.dtype} {features.shape}"
        raise ValueError(f"{path}: features must be numbers (frames, D), got {got}")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        got = f"{lengths.dtype} {lengths.shape}"
        raise ValueError(f"{path}: lengths must be integers (utterances,), got {got}")
    if transcripts.dtype.kind != "U" or transcripts.shape != lengths.shape:
        got = f"{transcripts.dtype} {transcripts.shape}"
        raise ValueError(f"{path}: transcripts must be {len(lengths)} strings, got {got}")
    if len(lengths) < 10:
        raise ValueError(f"{path}: has {len(lengths)} utterances, expected at least 10")
    if min(lengths) < 1 or sum(map(int, lengths)) != len(features):
        total = f"{sum(map(int, lengths))}, the shortest {min(lengths)}"
        raise ValueError(
            f"{path}: lengths must be positive and add up to the {len(features)} frames of "
            f"features, got a sum of {total}"
        )
    features = features.astype(float)
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        got = features[row, column]
        raise ValueError(f"{path}: features[{row}, {column}] is {got}, expected a finite number")
    for n, (text, length) in enumerate(zip(transcripts.tolist(), lengths.tolist(), strict=True)):
        if not text:
            raise ValueError(f"{path}: transcripts[{n}] is empty, expected at least one character")
        # Between two characters that are alike every path needs a blank.
        needed = len(text) + sum(a == b for a, b in itertools.pairwise(text))
        if needed > length:
            raise ValueError(
                f"{path}: transcripts[{n}] needs {needed} frames, its utterance has {length}"
            )
    return features, lengths, transcripts.tolist()


def _load(path: Path) -> list[np.ndarray]:
    """The arrays of the file in the order of ``_ARRAYS``."""
    try:
        with readable(path).open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError(f"{path}: is not an .npz file of {', '.join(_ARRAYS)}")
            _check_unpacked(path, file)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return [_array(path, arrays, name) for name in _ARRAYS]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a readable file") from error
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: is a damaged .npz file: {error}") from error


def _check_unpacked(path: Path, file: IO[bytes]) -> None:
    """Zeros can be packed a thousandfold: a small file must not fill the memory."""
    unpacked = sum(member.file_size for member in zipfile.ZipFile(file).infolist())
    size = path.stat().st_size
    if unpacked > max(2**28, 100 * size):
        raise ValueError(
            f"{path}: its {size} bytes would unpack to {unpacked}, over a hundred times as many"
        )


def _array(path: Path, arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{path}: has no array {name!r}, only {sorted(arrays)}")
    try:
        array = arrays[name]
    except Exception as error:  # whatever the bytes lead zipfile, its codecs and NumPy to
        raise ValueError(f"{path}: {name}: {str(error).splitlines()[0]}") from error
    if not isinstance(array, np.ndarray):  # NumPy hands out bytes of what it cannot read
        raise ValueError(f"{path}: {name} is not a NumPy array")
    return array
