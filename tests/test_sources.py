"""The laws of `rnn_jax.tasks.sources`: what a sequence is made of, its moments, its errors."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from rnn_jax.tasks import characters, digits, from_file, python_docs, source, white_noise

DOCS = "".join(topics[name] for name in sorted(topics))
TABLE = np.array([[1.5, -20.0], [2.5, 1000.0], [0.25, 0.125], [7.0, 3.0], [7.0, -4.5]])


def rng(seed=0):
    return np.random.default_rng(seed)


def corpus(src):
    """All steps of a finite source, (N, D)."""
    return src.sample(rng(), 1, src.steps)[:, 0]


def z_scores(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def csv(columns, separator=","):
    return "".join(separator.join(map(repr, row)) + "\n" for row in columns.tolist())


@pytest.fixture(params=["white_noise", "python_docs", "digits", "text", "csv"])
def any_source(request, tmp_path):
    match request.param:
        case "text":
            return from_file(write(tmp_path / "verse.txt", "how now brown cow " * 9), size=3)
        case "csv":
            return from_file(write(tmp_path / "walk.csv", csv(rng().normal(size=(150, 3)))), 7)
        case name:
            return source(name, size=3)


def test_shape_dtype_and_determinism(any_source):
    batch, length = 4, 100
    drawn = any_source.sample(rng(1), batch, length)
    assert drawn.shape == (length, batch, any_source.size)
    assert drawn.dtype == np.float32
    assert np.isfinite(drawn).all()
    np.testing.assert_array_equal(drawn, any_source.sample(rng(1), np.int64(batch), length))
    assert not np.array_equal(drawn, any_source.sample(rng(2), batch, length))
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])


def test_a_generator_moves_on(any_source):
    generator = rng(1)
    first, second = (any_source.sample(generator, 4, 100) for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("batch", "length", "error", "line"),
    [
        (0, 5, ValueError, "batch must be at least 1, got 0"),
        (2, 0, ValueError, "length must be at least 1, got 0"),
        (2, -5, ValueError, "length must be at least 1, got -5"),
        (2, 5.0, TypeError, "length must be an integer, got 5.0"),
        (True, 5, TypeError, "batch must be an integer, got True"),
    ],
)
def test_impossible_request(any_source, batch, length, error, line):
    with pytest.raises(error, match=f"^{line}$"):
        any_source.sample(rng(), batch, length)


# White noise: n independent standard normals; every bound is five standard errors.


def test_white_noise_moments():
    drawn = white_noise(3).sample(rng(), 50, 2000).astype(float)
    n = drawn.size
    assert abs(drawn.mean()) < 5 / n**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(np.mean(drawn**4) - 3) < 5 * (96 / n) ** 0.5
    for one, other in [
        (drawn[1:], drawn[:-1]),
        (drawn[:, 1:], drawn[:, :-1]),
        (drawn[..., 1:], drawn[..., :-1]),
    ]:
        assert abs(np.mean(one * other)) < 5 / one.size**0.5


# Text


@settings(deadline=None)
@example("\ud800a")
@given(st.text(st.characters(exclude_categories=())))
def test_characters_round_trip(text):
    codes, alphabet = characters(text)
    assert "".join(alphabet[code] for code in codes) == text
    assert list(alphabet) == sorted(set(text))
    assert codes.shape == (len(text),)
    assert codes.dtype == np.int32


def test_docs_are_standardised_over_the_corpus():
    docs = python_docs(16)
    assert docs.steps == len(DOCS)
    features = corpus(docs).astype(float)
    # The table is rounded to float32: 6e-8 relative.
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(features.var(axis=0), 1, atol=1e-6)


def test_windows_are_contiguous_pieces_of_the_text():
    docs = python_docs(4)
    names = {row.tobytes(): char for row, char in zip(corpus(docs), DOCS, strict=True)}
    assert len(names) == len(set(DOCS))  # the embedding tells all characters apart
    drawn = docs.sample(rng(), 20, 200)
    windows = ["".join(names[row.tobytes()] for row in drawn[:, b]) for b in range(20)]
    assert all(window in DOCS for window in windows)
    assert len(set(windows)) == 20


def test_embedding_is_the_documented_one(tmp_path):
    text = "to be or not to be"
    table = np.random.default_rng(0).standard_normal((len(set(text)), 5))
    embedded = table[[sorted(set(text)).index(char) for char in text]]
    drawn = corpus(from_file(write(tmp_path / "a.txt", text), size=5))
    np.testing.assert_allclose(drawn, z_scores(embedded), rtol=1e-6, atol=1e-6)


def test_every_start_is_equally_likely(tmp_path):
    short = from_file(write(tmp_path / "a.txt", "abcde"), size=1)
    letters = dict(zip(corpus(short)[:, 0], "abcde", strict=True))
    draws = 3000
    firsts = [letters[value] for value in short.sample(rng(), draws, 3)[0, :, 0]]
    assert set(firsts) == set("abc")
    for letter in "abc":  # binomial, five standard deviations
        assert abs(firsts.count(letter) - draws / 3) < 5 * (draws * 2 / 9) ** 0.5


@pytest.mark.parametrize("name", ["verse.txt", "verse", "verse.md"])
def test_text_decoding(tmp_path, name):
    plain = from_file(write(tmp_path / name, "ach, süß\nund 蛇\n"), size=3)
    assert plain.name == name
    for same in ["\ufeffach, süß\nund 蛇\n", "ach, süß\r\nund 蛇\r\n", "ach, süß\rund 蛇\n"]:
        other = from_file(write(tmp_path / name, same), size=3)
        np.testing.assert_array_equal(corpus(plain), corpus(other))


# Digits


def test_digits_are_whole_images_one_after_another():
    images = load_digits().data
    rows = ((images - images.mean()) / images.std()).astype(np.float32)
    batch, length = 30, 64 * 3 + 10
    drawn = digits().sample(rng(), batch, length)[:, :, 0].T
    chosen = []
    for start in range(0, length, 64):
        block = drawn[:, start : start + 64]
        distance = np.abs(block[:, None] - rows[:, : block.shape[1]]).max(axis=-1)  # (batch, 1797)
        assert (distance.min(axis=1) < 1e-5).all()
        chosen.append(distance.argmin(axis=1))
    # Three whole digits of 1797 in 30 sequences: 90 draws, about two coincidences expected.
    assert len(np.unique(chosen[:3])) > 80


def test_digits_are_standardised_over_the_corpus():
    images = load_digits().data
    spread = z_scores(images.ravel()).reshape(images.shape).mean(axis=1).std()
    draws = 20_000
    drawn = digits().sample(rng(), draws, 64).astype(float)
    assert abs(drawn.mean()) < 5 * spread / draws**0.5
    assert abs(drawn.var() - 1) < 0.01
    # Pixels have the 17 grey levels of the corpus, evenly spaced.
    levels = np.unique(drawn)
    assert len(levels) == 17
    np.testing.assert_allclose(np.diff(levels), 1 / images.std(), rtol=1e-5)


# What the sources are for: equal moments, different structure in time.


def lag_one(drawn):
    """Covariance of each step's features with the next step's, per sequence: (B, D, D)."""
    drawn = drawn.astype(float)
    return np.einsum("tbi,tbj->bij", drawn[:-1], drawn[1:]) / (len(drawn) - 1)


def assert_mean(samples, expected):
    """The mean of independent samples, to five of their own standard errors."""
    assert abs(samples.mean() - expected) < 5 * samples.std() / len(samples) ** 0.5


def test_text_has_structure_in_time():
    docs = python_docs(16)
    letters = corpus(docs)[:, None]
    drawn = docs.sample(rng(), 200, 500)
    assert_mean(lag_one(drawn).trace(axis1=1, axis2=2), lag_one(letters)[0].trace())

    noise = white_noise(16).sample(rng(), 200, 500)
    # Of n independent pairs the covariance has a squared norm of D^2 / n.
    assert np.linalg.norm(lag_one(noise).mean(axis=0)) == pytest.approx(16 / 99_800**0.5, rel=0.2)
    assert np.linalg.norm(lag_one(drawn).mean(axis=0)) > 0.8


def test_digits_have_structure_in_time():
    images = load_digits().data
    pixels = (images - images.mean()) / images.std()
    within = np.mean(pixels[:, :-1] * pixels[:, 1:])
    between = pixels[:, -1].mean() * pixels[:, 0].mean()
    drawn = digits().sample(rng(), 500, 64 * 5)
    expected = (5 * 63 * within + 4 * between) / (5 * 64 - 1)
    assert_mean(lag_one(drawn)[:, 0, 0], expected)
    assert expected > 0.4
    assert_mean(lag_one(white_noise(1).sample(rng(), 500, 64 * 5))[:, 0, 0], 0)


# Tables


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["", "open{0}close\n", '"the{0}open"{0}"close"\n'])
def test_table_is_standardised(tmp_path, separator, header):
    content = header.format(separator) + csv(TABLE, separator)
    prices = from_file(write(tmp_path / "prices.csv", content), size=99)
    assert (prices.name, prices.size, prices.steps) == ("prices.csv", 2, 5)
    np.testing.assert_allclose(corpus(prices), z_scores(TABLE), rtol=1e-6)


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n") + "\n\n",
        lambda text: "\n\n" + text.rstrip(),
        lambda text: text.replace(",", " , "),
        lambda text: re.sub(r'"?([^",\n]+)"?,"?([^",\n]+)"?', r'"\1", "\2"', text),
        lambda text: "\n" + text.replace(",", ";").replace(".", ","),
    ],
    ids=["BOM", "CRLF", "blank lines", "no last newline", "spaces", "quotes", "decimal comma"],
)
@pytest.mark.parametrize("header", ["", "open,close\n", '"open;\tEUR",close\n'])
def test_table_dialects(tmp_path, disguise, header):
    prices = from_file(write(tmp_path / "PRICES.CSV", disguise(header + csv(TABLE))), size=1)
    np.testing.assert_allclose(corpus(prices), z_scores(TABLE), rtol=1e-6)


def test_columns_that_say_nothing_are_left_out(tmp_path):
    names = "date,open,note,constant,close,empty\n"
    rows = [
        f'2024-01-0{day},{a},"up, {a}",7,{b},\n' for day, (a, b) in enumerate(TABLE.tolist(), 1)
    ]
    for content in [names + "".join(rows), "".join(rows)]:
        prices = from_file(write(tmp_path / "prices.csv", content), size=1)
        assert prices.size == 2
        np.testing.assert_allclose(corpus(prices), z_scores(TABLE), rtol=1e-6)


def test_rows_in_windows_are_contiguous(tmp_path):
    walk = from_file(write(tmp_path / "walk.csv", csv(rng().normal(size=(300, 3)))), size=1)
    rows = [row.tobytes() for row in corpus(walk)]
    drawn = walk.sample(rng(1), 40, 50)
    starts = [rows.index(drawn[0, b].tobytes()) for b in range(40)]
    for b, start in enumerate(starts):
        np.testing.assert_array_equal(drawn[:, b], corpus(walk)[start : start + 50])
    assert len(set(starts)) > 20


@settings(deadline=None)
@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=20).filter(lambda c: len({*c}) > 1),
    st.integers(-900, 900),
)
def test_units_do_not_matter(column, exponent):
    """Scaling by a power of two is exact: the same source, from 1e-271 to 1e271."""
    values = np.array(column, float)[:, None]
    with tempfile.TemporaryDirectory() as folder:
        once, scaled = (
            corpus(from_file(write(Path(folder, "a.csv"), csv(values * factor)), 1))
            for factor in [1.0, 2.0**exponent]
        )
    np.testing.assert_array_equal(once, scaled)
    np.testing.assert_allclose(np.mean(once.astype(float)), 0, atol=1e-6)
    np.testing.assert_allclose(np.var(once.astype(float)), 1, atol=1e-6)


# Errors: one line, with the path

BLANK = "is empty or blank, expected text or a table"
NO_TABLE = "is not a table: Error tokenizing data. C error:"
NO_COLUMN = "has no numeric column that varies, expected at least one"
NO_NUMBER = "expected a finite number, got"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", "", BLANK),
        ("a.csv", "\ufeff \n\n", BLANK),
        ("a.txt", "aaaa", "repeats the one character 'a', expected at least two"),
        ("a.txt", b"ab\0c", "is binary (NUL at byte 2), expected UTF-8 text"),
        ("a.csv", b"1,2\n\0", "is binary (NUL at byte 4), expected UTF-8 text"),
        ("a.txt", "süß".encode("latin-1"), "not UTF-8 text at byte 1: invalid start byte"),
        ("a.csv", b"\xef\xbb\xbf1,2\n\xff", "not UTF-8 text at byte 7: invalid start byte"),
        ("a.csv", "a,b\nx,y\n", NO_COLUMN),
        ("a.csv", "a,b\n", NO_COLUMN),
        ("a.csv", "a,b\n1,2\n1,2\n", NO_COLUMN),
        ("a.tsv", "1\t2\n1\t2\t3\n", f"{NO_TABLE} Expected 2 fields in line 2, saw 3"),
        ("a.csv", 'a,b\n"1,2\n', f"{NO_TABLE} EOF inside string"),
        ("a.csv", "day,price\n1,2\n2,\n3,4\n", f"data row 2, column 'price': {NO_NUMBER} ''"),
        ("a.csv", "1,2\n2,3\n3,x\n", f"data row 3, column '2': {NO_NUMBER} 'x'"),
        ("a.csv", "1,2\n2\n3,4\n", f"data row 2, column '2': {NO_NUMBER} ''"),
        ("a.csv", "1\n-inf\n3\n", f"data row 2, column '1': {NO_NUMBER} '-inf'"),
        ("a.csv", "1\ninf\ninf\n", f"data row 2, column '1': {NO_NUMBER} 'inf'"),
        ("a.csv", '1\n2\n"two\nlines"\n4\n', rf"data row 3, column '1': {NO_NUMBER} 'two\nlines'"),
    ],
)
def test_bad_file(tmp_path, name, content, line):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}: {line}")) as caught:
        from_file(path, size=4)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_file_that_cannot_be_opened(tmp_path, monkeypatch, name):
    path = tmp_path / name

    def refuses(reason):
        with pytest.raises(ValueError, match="expected a readable file") as caught:
            from_file(path, size=4)
        assert str(caught.value) == f"{path}: {reason}, expected a readable file"

    def deny(self, mode):
        raise PermissionError(13, "Permission denied")

    refuses("No such file or directory")
    path.mkdir()
    refuses("Is a directory")
    path.rmdir()
    write(path, "text")
    monkeypatch.setattr(Path, "open", deny)  # root may read whatever the mode says
    refuses("Permission denied")


@pytest.mark.parametrize(
    ("name", "content", "has"),
    [("100%s.txt", "abcd\n", "5 characters"), ("100%s.csv", "1\n2\n3\n4\n5\n", "5 rows")],
)
def test_longer_than_the_corpus(tmp_path, name, content, has):
    path = write(tmp_path / name, content)
    short = from_file(path, size=4)
    assert short.steps == 5
    assert short.sample(rng(), 3, 5).shape == (5, 3, short.size)
    with pytest.raises(ValueError, match="expected") as caught:
        short.sample(rng(), 3, 6)
    assert str(caught.value) == f"{path}: has {has}, expected at least the length asked for, 6"


def test_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.txt", "abc")
    assert from_file("~/a.txt", size=4).steps == 3


@pytest.mark.parametrize("make", [white_noise, python_docs])
def test_bad_size(make):
    with pytest.raises(ValueError, match=r"^size must be at least 1, got 0$"):
        make(0)
    with pytest.raises(TypeError, match=r"^size must be an integer, got '3'$"):
        make("3")


# By name


def test_by_name(tmp_path):
    path = write(tmp_path / "prices.csv", csv(TABLE))
    for by_name, direct in [
        (source("white_noise", 3), white_noise(3)),
        (source("python_docs", 3), python_docs(3)),
        (source("digits", 3), digits()),
        (source("file", 3, path), from_file(path, 3)),
    ]:
        assert (by_name.name, by_name.steps) == (direct.name, direct.steps)
        np.testing.assert_array_equal(by_name.sample(rng(), 2, 5), direct.sample(rng(), 2, 5))


def test_unknown_name():
    known = "white_noise, python_docs, digits, file"
    with pytest.raises(ValueError, match="unknown") as caught:
        source("pyton_docs", 3)
    assert str(caught.value) == (
        f"unknown source 'pyton_docs', known: {known}; did you mean 'python_docs'?"
    )
    with pytest.raises(ValueError, match=f"^unknown source 'qqq', known: {known}$"):
        source("qqq", 3)


@pytest.mark.parametrize("path", [None, ""])
def test_file_without_a_path(path):
    with pytest.raises(ValueError, match=f"^source 'file' has path {path!r}, expected the path"):
        source("file", 3, path)


def test_importing_loads_no_data_and_no_library_of_one_task():
    heavy = {"pydoc_data.topics", "sklearn", "pandas", "statsmodels", "scipy.sparse.csgraph"}
    heavy |= {"num2words", "music21", "mido", "datasets"}
    code = f"import sys, rnn_jax.tasks; print({heavy} & {{*sys.modules}})"
    command, checkout = [sys.executable, "-c", code], Path(__file__).parents[1]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
