"""Melodies of Bach's chorales, note by note.

Shapes: N melodies, U notes of the longest and one more, K tokens.
"""

import importlib.util
import math
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import jax
import numpy as np

from rnn_jax.arguments import check_positive
from rnn_jax.tasks.metrics import bits
from rnn_jax.tasks.ngrams import ngram_bits
from rnn_jax.tasks.problem import Conditioned, Metric, Problem
from rnn_jax.tasks.task import Example, classes_loss
from rnn_jax.tasks.vocabulary import END, START, Vocabulary, to_decode

_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_PITCHES = {f"{_NAMES[pitch % 12]}{pitch // 12 - 1}": pitch for pitch in range(128)}
_NOTE = re.compile(r"(\S+):([1-9]\d*(?:/[1-9]\d*)?)")
_MODES = ("major", "minor")
_LONGEST = 100
_SAME_MELODY = 0.45
_ORDER = 3


class Melody(NamedTuple):
    """The soprano of a chorale.

    Attributes:
      name: of the score, such as "bwv66.6".
      mode: "major" or "minor".
      pitches: as numbers of MIDI, 60 is C4, in C major or A minor; None is a rest.
      durations: in quarter notes.
    """

    name: str
    mode: str
    pitches: tuple[int | None, ...]
    durations: tuple[Fraction, ...]

    def symbols(self) -> list[str]:
        """Notes as pitch and duration in one.

        >>> Melody("a", "minor", (69, None), (Fraction(1), Fraction(1, 2))).symbols()
        ['A4:1', 'rest:1/2']
        """
        return [
            f"{'rest' if pitch is None else f'{_NAMES[pitch % 12]}{pitch // 12 - 1}'}:{duration}"
            for pitch, duration in zip(self.pitches, self.durations, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Chorales(Problem):
    """A `Problem` of melodies.

    Attributes:
      vocabulary: what the tokens mean: notes such as "A4:1", for `to_midi`.
    """

    vocabulary: Vocabulary


def chorales(seed: int = 0) -> Chorales:
    """Bach's chorale melodies from major or minor: `Conditioned` vector (2,) to logits (U, K).

    The sopranos of the four-part chorales in music21's corpus, `melodies`. A note is one token, its
    pitch and its duration; the target is the melody and `END`, the context one-hot, major and
    minor. Notes that training has once or never are the symbol ``<unknown>``.

    Bach set many melodies more than once. `families` joins what has the same melody, and families
    are divided at random: as many as make at least a tenth of the chorales for the test, the same
    for validation, the rest to train on. So no melody that is tested was trained on in another
    setting, as far as the notes show it; phrases that melodies share remain.

    The loss is the mean in nats per token, the metric in bits. Baselines are n-grams,
    `rnn_jax.tasks.ngrams`, that do not know the mode.

    Args:
      seed: of the division.

    Raises:
      ModuleNotFoundError: without music21.
      TypeError, ValueError: for a seed that is no integer from 0 on.
    """
    seed = check_positive("seed", seed, zero=True)
    everything = melodies()
    families_of = families([melody.pitches for melody in everything])
    test, validation, train = _divided(everything, families_of, seed)
    vocabulary = Vocabulary.of((melody.symbols() for melody in train), at_least=2)

    def encoded(part: Iterable[Melody]) -> list[list[int]]:
        return [vocabulary.encode(melody.symbols()) for melody in part]

    def examples(part: Sequence[Melody]) -> Example:
        modes = np.array([[melody.mode == mode for mode in _MODES] for melody in part], np.float32)
        previous, target, mask = to_decode(encoded(part))
        return Example(Conditioned(modes, None, previous), target, mask)

    def show(outputs: jax.Array, example: Example) -> dict[str, str]:
        most_likely = np.argmax(outputs, axis=-1)[np.asarray(example.mask)]
        return {
            "melody": " ".join(vocabulary.decode(example.target)),
            "most likely": " ".join(vocabulary.decode(most_likely)),
        }

    return Chorales(
        "chorale melodies",
        "one_to_many",
        train=examples(train),
        validation=examples(validation),
        test=examples(test),
        loss=classes_loss,
        metric=Metric("bits per note", bits),
        output_size=len(vocabulary),
        baselines=_baselines([*map(encoded, (train, validation, test))], len(vocabulary)),
        target_tokens=len(vocabulary),
        initial_loss=math.log(len(vocabulary)),
        show=show,
        vocabulary=vocabulary,
    )


@cache
def melodies() -> tuple[Melody, ...]:
    """The sopranos of music21's Bach chorales, in the order of their names.

    Transposed by their key signature to that of C major and A minor, by half an octave at most;
    with tied notes as one, without grace notes, without rests before and after, repeats written
    once. Left out are scores without one part called Soprano or without a mode, and the few
    melodies of more than 100 notes, to whose length all others would be padded.

    Raises:
      ModuleNotFoundError: without music21 and its corpus.
    """
    spec = importlib.util.find_spec("music21")  # not imported: its parser takes minutes for these
    folders = spec.submodule_search_locations if spec else None
    scores = sorted(Path(folders[0], "corpus", "bach").glob("*.mxl")) if folders else []
    if not scores:
        raise ModuleNotFoundError("chorales are read from music21's corpus, which is not installed")
    read = map(_melody, scores)
    return tuple(melody for melody in read if melody and len(melody.pitches) <= _LONGEST)


def families(pitches: Sequence[Sequence[int | None]]) -> np.ndarray:
    """Which melodies are the same, in any key and with other ornaments: (N,) numbers of families.

    Two are the same if to turn the intervals of one into those of the other takes fewer changes,
    insertions and deletions than 0.45 of the longer one, and so are all that are joined by a chain
    of such pairs. Unrelated chorales begin above; a repeat that one setting marks and another
    writes out may hide that they are the same.

    >>> families([[60, 62, 64, 65, 67], [67, 64, 60, 64, 67], [62, 64, 66, None, 67, 69]]).tolist()
    [0, 1, 0]
    """
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    intervals = [np.diff([p for p in melody if p is not None]) for melody in pitches]
    lengths = np.array([len(row) for row in intervals], np.int16)
    ascending = np.argsort(lengths, kind="stable")
    table = np.full((len(intervals), lengths.max()), 1000, np.int16)  # 1000: no melody's interval
    same = np.zeros((len(intervals), len(intervals)), bool)
    for row, melody in enumerate(ascending):
        table[row, : lengths[melody]] = intervals[melody]
        # One melody against all that are no longer, by the algorithm of Wagner and Fischer (1974).
        shorter = table[: row + 1, : lengths[melody]]
        columns = np.arange(lengths[melody] + 1, dtype=np.int16)
        changes = np.tile(columns, (row + 1, 1))
        for interval in intervals[melody]:
            changed = changes[:, :-1] + (shorter != interval)
            changes += 1
            changes[:, 1:] = np.minimum(changes[:, 1:], changed)
            changes = np.minimum.accumulate(changes - columns, axis=1) + columns
        others = ascending[: row + 1]
        distances = changes[np.arange(row + 1), lengths[others]]
        same[melody, others] = distances < _SAME_MELODY * lengths[melody]
    return connected_components(same, directed=False)[1]


def to_midi(notes: Iterable[str], path: str | os.PathLike[str], *, tempo: float = 90) -> None:
    """Write a melody as a MIDI file, at ``tempo`` quarter notes per minute.

    Raises:
      ValueError: for no notes, for what is no note or rest with a duration, for a tempo out of
        range.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_midi(["E4:1", "rest:1/2", "F#4:3/2"], Path(folder, "melody.mid"))
    """
    import mido  # type: ignore[import-untyped]

    if not 4 <= tempo <= 1000:  # a MIDI file cannot say less than 3.6
        raise ValueError(f"tempo is {tempo}, expected 4 to 1000 quarter notes per minute")
    notes = list(notes)
    if not notes:
        raise ValueError("notes are none, expected at least one")
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
    file = mido.MidiFile(ticks_per_beat=480)
    file.tracks.append(track)
    rested = 0
    for note in notes:
        match = _NOTE.fullmatch(note)
        if not match or match[1] not in (*_PITCHES, "rest"):
            raise ValueError(f"notes have {note!r:.40}, expected one such as 'C#4:1/2' or 'rest:1'")
        ticks = round(Fraction(match[2]) * file.ticks_per_beat)
        if match[1] == "rest":
            rested += ticks
        else:
            pitch = _PITCHES[match[1]]
            track.append(mido.Message("note_on", note=pitch, time=rested))
            track.append(mido.Message("note_off", note=pitch, time=ticks))
            rested = 0
    track.append(mido.MetaMessage("end_of_track", time=rested))
    file.save(path)


def _melody(path: Path) -> Melody | None:
    """The soprano of a compressed MusicXML score, None without exactly one or without a mode."""
    with zipfile.ZipFile(path) as archive:
        listed = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        (root,) = listed.findall(".//{*}rootfile")
        score = ElementTree.fromstring(archive.read(root.attrib["full-path"]))
    names = [part.findtext("part-name") for part in score.iter("score-part")]
    if names.count("Soprano") != 1:
        return None
    part = score.findall("part")[names.index("Soprano")]
    mode = part.findtext(".//key/mode")
    if mode not in _MODES:
        return None

    # A fifth is 7 semitones: to take one off is to go up 5, in whatever octave is nearest.
    transposition = (5 * _number(part, ".//key/fifths") + 6) % 12 - 6
    divisions = _number(part, ".//divisions")
    notes: list[tuple[int | None, Fraction]] = []
    for note in part.iter("note"):
        if note.find("grace") is not None:
            continue
        duration = Fraction(_number(note, "duration"), divisions)
        if any(tie.get("type") == "stop" for tie in note.iter("tie")):
            notes[-1] = (notes[-1][0], notes[-1][1] + duration)
        elif note.find("rest") is not None:
            notes.append((None, duration))
        else:
            step = _STEPS[note.findtext("pitch/step", "")]
            octave = 12 * (_number(note, "pitch/octave") + 1)
            pitch = octave + step + _number(note, "pitch/alter") + transposition
            notes.append((pitch, duration))
    sung = [place for place, (pitch, _) in enumerate(notes) if pitch is not None]
    pitches, durations = zip(*notes[sung[0] : sung[-1] + 1], strict=True)
    return Melody(path.stem, mode, pitches, durations)


def _number(element: ElementTree.Element, path: str) -> int:
    """The integer that stands at the path; 0 where there is none, as for a note without sign."""
    return int(element.findtext(path, "0"))


def _divided(
    everything: Sequence[Melody], families_of: np.ndarray, seed: int
) -> tuple[list[Melody], list[Melody], list[Melody]]:
    """Test, validation and training, whole families each."""
    parts: tuple[list[Melody], list[Melody], list[Melody]] = ([], [], [])
    for family in np.random.default_rng(seed).permutation(families_of.max() + 1):
        filled = [10 * len(part) >= len(everything) for part in parts[:2]]
        part = parts[filled.index(False) if False in filled else 2]
        part += [everything[place] for place in np.flatnonzero(families_of == family).tolist()]
    return parts


def _baselines(parts: Sequence[list[list[int]]], classes: int) -> dict[str, float]:
    """Bits per token by n-grams: training, validation and test melodies, each after its START."""
    tokens: list[int] = []
    said_in: list[int] = []
    for place, part in enumerate(parts):
        for melody in part:
            tokens += [START] * (_ORDER - 1) + [*melody, END]
            said_in += [-1] * (_ORDER - 1) + [place] * (len(melody) + 1)
    said = np.array(said_in)
    outcomes = classes - 2  # neither padding nor START is ever said
    orders = range(1, _ORDER + 1)
    return ngram_bits(np.array(tokens), said == 0, said == 1, said == 2, outcomes, orders)
