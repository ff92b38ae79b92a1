"""Chorale melodies: that they are the scores', that no melody is on both sides, MIDI files."""

import importlib.util
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import mido
import numpy as np
import pytest

from rnn_jax.tasks.chorales import _PITCHES, chorales, families, melodies, to_midi
from rnn_jax.tasks.vocabulary import END, START, UNKNOWN

SCALE = {0, 2, 4, 5, 7, 9, 11}


@pytest.fixture(scope="module")
def problem():
    return chorales(0)


def intervals(pitches):
    sung = [pitch for pitch in pitches if pitch is not None]
    return [after - before for before, after in itertools.pairwise(sung)]


def edits(one, other):
    """Levenshtein's distance by the textbook."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one):
        before, row[0] = row[0], i + 1
        for j, b in enumerate(other):
            before, row[j + 1] = row[j + 1], min(before + (a != b), row[j] + 1, row[j + 1] + 1)
    return row[-1]


@pytest.mark.parametrize("name", ["bwv66.6", "bwv299", "bwv111.6"])
def test_a_melody_is_that_of_music21s_own_reader(name):
    """With ties, grace notes, an incomplete first measure; in C major or A minor."""
    import music21

    folder = Path(importlib.util.find_spec("music21").submodule_search_locations[0])
    score = music21.converter.parse(folder / "corpus" / "bach" / f"{name}.mxl")
    soprano = next(part for part in score.parts if part.partName == "Soprano")
    key = next(iter(soprano.recurse().getElementsByClass("Key")))
    tonic = key.tonic.pitchClass - (9 if key.mode == "minor" else 0)
    notes = [
        note for note in soprano.stripTies().flatten().notesAndRests if not note.duration.isGrace
    ]
    melody = next(melody for melody in melodies() if melody.name == name)
    assert melody.mode == key.mode
    assert melody.durations == tuple(note.quarterLength for note in notes)
    shifts = {
        note.pitch.midi - pitch
        for note, pitch in zip(notes, melody.pitches, strict=True)
        if not note.isRest
    }
    assert len(shifts) == 1
    assert shifts.pop() % 12 == tonic % 12


def test_melodies_are_in_c_major_or_a_minor():
    assert len(melodies()) > 350
    pitches = [p for melody in melodies() for p in melody.pitches if p is not None]
    # A scale has 7 of 12 tones; accidentals are rare in a soprano.
    assert np.mean([pitch % 12 in SCALE for pitch in pitches]) > 0.9
    for mode, tonic in (("major", 0), ("minor", 9)):
        last = [melody.pitches[-1] % 12 for melody in melodies() if melody.mode == mode]
        assert np.argmax(np.bincount(last)) == tonic
        assert np.mean([pitch == tonic for pitch in last]) > 0.5


def test_families_are_the_components_of_small_edit_distances():
    sung = [melody.pitches for melody in melodies()[::12]]
    sung += [[p and p + 3 for p in sung[0]], [*sung[1], 60], sung[2][:20]]
    rows = [intervals(pitches) for pitches in sung]
    family = list(range(len(rows)))
    for i, one in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            if edits(one, other) < 0.45 * max(len(one), len(other)):
                old, new = family[i], family[j]
                family = [new if number == old else number for number in family]
    found = families(sung)
    assert 1 < len(set(family)) < len(family)
    for i in range(len(rows)):
        np.testing.assert_array_equal(found == found[i], np.array(family) == family[i])


@pytest.mark.parametrize("seed", [0, 1])
def test_no_melody_is_trained_on_and_tested(problem, seed):
    problem = problem if seed == 0 else chorales(seed)
    tunes, sizes = [], []
    for example in (problem.train, problem.validation, problem.test):
        texts = [problem.vocabulary.decode(row) for row in example.target]
        sizes.append(len(texts))
        pitches = [[note.split(":")[0] for note in text] for text in texts]
        tunes.append(
            [
                intervals([_PITCHES[p] for p in row if p != "rest"])
                for row in pitches
                if "<unknown>" not in row
            ]
        )
    assert sum(sizes) == len(melodies())
    assert min(sizes[1:]) >= sizes[0] / 10
    train, *held_out = ({tuple(tune) for tune in part} for part in tunes)
    for part in held_out:
        assert not part & train
    # Not only the very same: a sample of the test against all of training, by the textbook.
    for tune in tunes[2][:3]:
        assert min(edits(tune, other) / max(len(tune), len(other)) for other in tunes[0]) >= 0.45


def test_a_melody_is_told_note_by_note_from_its_mode(problem):
    example = problem.train
    np.testing.assert_array_equal(example.inputs.context.sum(axis=1), 1)
    modes = [melody.mode == "minor" for melody in melodies()]
    parts = (problem.train, problem.validation, problem.test)
    assert sum(part.inputs.context[:, 1].sum() for part in parts) == sum(modes)
    np.testing.assert_array_equal(example.inputs.previous[:, 0], START)
    inside = example.mask[:, 1:]
    np.testing.assert_array_equal(
        example.inputs.previous[:, 1:][inside], example.target[:, :-1][inside]
    )
    np.testing.assert_array_equal((example.target == END).sum(axis=1), 1)
    assert 0 < np.mean(example.target[example.mask] == UNKNOWN) < 0.01


def test_baselines_and_metric_count_the_same_bits(problem):
    """A table of what followed what in training, as outputs, against the bigram's own number."""
    size = problem.output_size
    counts = np.zeros((size, size))
    train, test = problem.train, problem.test
    np.add.at(counts, (train.inputs.previous, train.target), train.mask)
    unigram = counts.sum(axis=0) + 1e-2
    unigram /= unigram.sum()
    followers = 3 * np.sum(counts > 0, axis=1, keepdims=True)
    bigram = (counts + followers * unigram) / np.maximum(
        counts.sum(axis=1, keepdims=True) + followers, 1e-9
    )
    for name, table in (("unigram", np.tile(unigram, (size, 1))), ("bigram", bigram)):
        outputs = jnp.asarray(np.log(np.maximum(table, 1e-9))[test.inputs.previous])
        totals, weights = jax.vmap(problem.metric.measure)(outputs, test)
        # The same model but for how much is left to shorter histories, tuned there, guessed here.
        assert float(totals.sum() / weights.sum()) == pytest.approx(
            problem.baselines[name], rel=0.03
        )
    assert int(weights.sum()) == test.mask.sum()
    assert problem.baselines["trigram"] < problem.baselines["bigram"] < problem.baselines["unigram"]
    guess = jax.vmap(problem.loss)(jnp.zeros((*test.mask.shape, size)), test)
    np.testing.assert_allclose(guess, problem.initial_loss, rtol=1e-12)
    assert problem.initial_loss == math.log(size)


def test_a_midi_file_plays_the_melody(tmp_path):
    melody = next(melody for melody in melodies() if None in melody.pitches)
    path = tmp_path / "melody.mid"
    to_midi(["rest:1/2", *melody.symbols(), "rest:2"], path, tempo=60)
    file = mido.MidiFile(path)
    seconds, begun, heard = 0.0, {}, []
    for message in file:  # iterating gives seconds
        seconds += message.time
        if message.type == "note_on":
            begun[message.note] = seconds
        elif message.type == "note_off":
            heard.append((message.note, begun.pop(message.note), seconds))
    starts = 0.5 + np.cumsum([0.0, *map(float, melody.durations)])
    wanted = [
        (pitch, start, start + float(duration))
        for pitch, start, duration in zip(melody.pitches, starts, melody.durations, strict=False)
        if pitch is not None
    ]
    assert not begun
    np.testing.assert_allclose(heard, wanted, atol=1e-6)
    assert seconds == pytest.approx(starts[-1] + 2)


@pytest.mark.parametrize(
    "note", ["H4:1", "C4", "C4:1/0", "<unknown>", "C4:-1", "C4:0", "C10:1", "rest"]
)
def test_what_is_no_note_is_refused(tmp_path, note):
    with pytest.raises(ValueError, match=r"notes have '.*', expected one such as"):
        to_midi(["C4:1", note], tmp_path / "melody.mid")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tempo", [0, -1, math.inf, math.nan])
def test_a_tempo_out_of_range_and_no_notes_are_refused(tmp_path, tempo):
    with pytest.raises(ValueError, match="expected 4 to 1000 quarter notes per minute"):
        to_midi(["C4:1"], tmp_path / "melody.mid", tempo=tempo)
    with pytest.raises(ValueError, match="notes are none"):
        to_midi([], tmp_path / "melody.mid")
    to_midi(["C4:1"], tmp_path / "melody.mid", tempo=4)
