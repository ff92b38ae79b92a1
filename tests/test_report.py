"""The page of a run: it says what the files say, it is text alone, and it needs nothing else."""

import base64
import dataclasses
import hashlib
import html.parser
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import toy_experiment
from hypothesis import strategies as st
from matplotlib.figure import Figure
from toy_experiment import computed, files, imported

from experiments import launch, report, results
from experiments.rundir import RunDir, UserError

home, toy, config = toy_experiment.home, toy_experiment.toy, toy_experiment.config

VOID = {"meta", "img", "input", "br"}
EVIL = "<script>alert(\"1 & '2'\")</script> &amp; </style> {{ 7 }} | *a* [x](http://e/) \\| Ü 循环"


@dataclasses.dataclass
class Element:
    tag: str
    attributes: dict
    parts: list = dataclasses.field(default_factory=list)

    @property
    def text(self):
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def all(self, *tags):
        """Every element below this one, in order, that is one of `tags`, or any."""
        for part in self.parts:
            if isinstance(part, Element):
                if part.tag in tags or not tags:
                    yield part
                yield from part.all(*tags)

    def one(self, tag, **attributes):
        (found,) = (e for e in self.all(tag) if attributes.items() <= e.attributes.items())
        return found


class Reader(html.parser.HTMLParser):
    """Builds the tree; tags that do not match, attributes given twice, and what is not HTML are
    errors here, where a browser would guess."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        element = Element(tag, dict(attrs))
        self.open[-1].parts.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].parts.append(data)

    def handle_startendtag(self, tag, attrs):
        raise AssertionError(tag)

    def handle_comment(self, data):
        raise AssertionError(data)

    unknown_decl = handle_pi = handle_comment


def read(path):
    reader = Reader()
    reader.feed(Path(path).read_text("utf-8"))
    reader.close()
    (root,) = reader.open
    assert [e.tag for e in root.parts if isinstance(e, Element)] == ["html"]
    return root


def section(page, name):
    return page.one("section", **{"aria-labelledby": name})


def cells(table, exact=False):
    """The rows of a table as texts, the header first; `exact` numbers are those behind rounding."""

    def said(cell):
        data = [*cell.all("data")] if exact else []
        return data[0].attributes["value"] if data else cell.text

    return [[said(cell) for cell in row.all("th", "td")] for row in table.all("tr")]


def check_page(path):
    """What holds for every page; returns it."""
    page = read(path)
    elements = [*page.all()]
    assert page.one("html").attributes["lang"] == "en"
    (script,), (style,) = page.all("script"), page.all("style")
    assert page.one("title").text == page.one("h1").text

    # Nothing is loaded from elsewhere, and nothing but the page's own script runs.
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    for element in (script, style):
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"{element.tag}-src 'sha256-{digest}';" in policy
        assert not element.attributes
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert not re.search(r"url\(|@import", style.text)
    ids = [e.attributes["id"] for e in elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    allowed = {
        "alt", "aria-label", "aria-labelledby", "charset", "class", "content", "height", "href",
        "http-equiv", "id", "lang", "name", "role", "scope", "src", "tabindex", "value", "width",
    }  # fmt: skip
    for element in elements:
        assert element.attributes.keys() <= allowed
        link = element.attributes.get("href", "")
        if link.startswith("#"):
            assert link[1:] in ids
        elif link:
            assert not re.match(r"[^/]*:|/", link)
            assert Path(path).parent.joinpath(urllib.parse.unquote(link)).exists()
        assert element.attributes.get("src", "data:image/").startswith("data:image/")

    # A reader who does not see it.
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for element in page.all("section"):
        assert element.attributes["aria-labelledby"] in [e.attributes.get("id") for e in elements]
    for table in page.all("table"):
        assert next(table.all()).tag == "caption"
        assert all(head.attributes["scope"] in ("col", "row") for head in table.all("th"))
        lengths = {len(row) for row in cells(table)}
        assert len(lengths) == 1
    for element in elements:  # what scrolls can be reached by keyboard, and has a name
        if element.attributes.get("class") == "scroll":
            assert element.attributes["role"] == "region"
            assert element.attributes["tabindex"] == "0"
            assert element.attributes["aria-label"]
    for image in page.all("img"):
        assert image.attributes["alt"].startswith("Figure ")
        assert int(image.attributes["width"]) * int(image.attributes["height"]) > 0
    return page


def cli(*args, python=()):
    command = [sys.executable, *python, "-m", "experiments.report", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the toy, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "toy.py").write_text(toy_experiment.TOY)
    (folder / "toy_config.py").write_text(toy_experiment.CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOY_LOG", str(folder / "log"))
        experiment = toy_experiment.load(folder / "toy.py").EXPERIMENT
        config = toy_experiment.load(folder / "toy_config.py").get_config()
        launch.run(experiment, config, folder / "run")
    return folder / "run"


@pytest.fixture
def run(home, finished):
    """A finished run of one's own."""
    return Path(shutil.copytree(finished, home / "run"))


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ----- in a browser ------------------------------------------------------------------------------


def test_tables_are_sorted_and_filtered(home, run, open_file):
    report.write_page("run", None)
    page = open_file(run / "report.html", viewport={"width": 600, "height": 800})
    table = page.locator("section:has(#results) table")
    values = "body => [...body.rows].map(row => [row.hidden, ...[...row.cells].map(c => {"
    values += (
        " const data = c.querySelector('data'); return data ? data.value : c.textContent; })])"
    )
    shown = lambda: table.locator("tbody").evaluate(values)
    rows = [row[1:] for row in shown()]
    assert rows == pd.read_csv(run / "results.csv", dtype=str).to_numpy().tolist()
    head = table.get_by_role("columnheader").nth(2)
    for sense, wanted in (("ascending", sorted), ("descending", reversed_order)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == sense
        assert [row[1:] for row in shown()] == wanted(rows, key=lambda row: float(row[2]))
    search = page.get_by_role("searchbox")
    word = rows[0][0]
    search.fill(f"  {word.upper()} ")
    left = [row[1:] for row in shown() if not row[0]]
    assert left == [row[1:] for row in shown() if any(word in cell for cell in row[1:])]
    assert 0 < len(left) < len(rows)
    status = page.get_by_role("status")
    assert status.text_content() == f"{len(left)} of {len(rows)} rows"
    search.fill("nowhere")
    assert status.text_content() == f"0 of {len(rows)} rows"
    search.fill("")
    assert not any(row[0] for row in shown())
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0


def reversed_order(rows, key):
    return sorted(rows, key=key, reverse=True)


def test_hostile_results_run_nothing(home, toy, config, open_file):
    evil = lambda config, results: dataclasses.replace(
        toy.report(config, results), summary=pd.DataFrame({EVIL: [EVIL]}), notes=[EVIL]
    )
    launch.run(dataclasses.replace(toy, report=evil), config, "run")
    report.write_page("run", None)
    page = open_file(home / "run/report.html")
    page.on("dialog", lambda dialog: pytest.fail(f"a script has run: {dialog.message}"))
    page.locator("section:has(#summary) table button").first.click()
    # Runs of spaces and line breaks are one space to a reader.
    assert page.locator("section:has(#summary) td").first.inner_text() == " ".join(EVIL.split())


# ----- what it says -------------------------------------------------------------------------------


def test_page_says_what_the_files_say(home, toy, config):
    sourced = dataclasses.replace(toy, sources=lambda config: {"the data": "12ab", "cell": "34"})
    said = launch.run(sourced, config, "run")
    launch.run(sourced, config, "run")
    before = everything(home / "run")
    done = cli("--workdir=run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Report: run/report.html\n", "")
    after = everything(home / "run")
    after.pop("report.html")
    assert after == before

    page = check_page(home / "run/report.html")
    assert page.one("h1").text == "toy: run"
    headings = [e.text for e in page.all("h2")]
    assert headings == [
        *("Summary", "Figures", "Results", "Configuration", "Environment", "Sources", "Files")
    ]
    assert [e.text for e in page.one("nav").all("a")] == headings

    table, notes = (next(section(page, "summary").all(tag)) for tag in ("table", "ul"))
    assert cells(table) == [
        ["unit", "end"],
        *([unit, f"{end:.4g}"] for unit, end in said.summary.itertuples(index=False)),
    ]
    assert [note.text for note in notes.all("li")] == ["A note [in brackets]."]
    image = section(page, "figures").one("img")
    data = image.attributes["src"].removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(data) == before["figures/walks.svg"]

    saved = pd.read_csv(home / "run/results.csv", dtype=str)
    shown = section(page, "results").one("table")
    assert cells(shown, exact=True) == [[*saved.columns], *saved.to_numpy().tolist()]
    ends = [float(row[2]) for row in cells(shown)[1:]]
    np.testing.assert_allclose(ends, said.table["end"], rtol=5e-6)
    assert "9 rows and 3 columns" in shown.one("caption").text

    fields = dict(cells(section(page, "configuration").one("table"))[1:])
    assert {name: json.loads(value) for name, value in fields.items()} == {
        "config.bias": True, "config.cells": ["elman", "gru"], "config.count": 3,
        "config.data": None, "config.gain": 1.0, "config.hidden_size": 8,
        "config.lengths": [10, 20], "config.model.depth": 2, "config.model.gains": [0.5, 1.0],
        "config.names": ["a"], "config.pairs": [[1, 2], [3, 4]], "config.seed": 5,
    }  # fmt: skip
    record = json.loads(before["environment.json"])
    first, second = section(page, "environment").all("table")
    recorded = dict(cells(first)[1:])
    assert recorded["versions.jax"] == json.dumps(record["versions"]["jax"])
    assert recorded["units"] == "3"
    assert recorded["started"] == json.dumps(record["started"])
    assert dict(cells(second)[1:]) == {"started": json.dumps(record["starts"][0]["started"])}
    assert section(page, "environment").one("pre").text.startswith("python ")
    sources = cells(section(page, "sources").one("table"))[1:]
    assert sources == [["cell", '"34"'], ["the data", '"12ab"']]
    sizes = {name: int(size.replace("\u202f", "")) for name, size in cells_of_files(page)}
    units = sum(len(data) for name, data in before.items() if name.startswith("units/"))
    assert sizes.pop("units/ (3 files)") == units
    assert sizes == {
        name: len(data)
        for name, data in before.items()
        if name != ".lock" and not name.startswith("units/")
    }


def cells_of_files(page):
    return cells(section(page, "files").one("table"))[1:]


def test_numbers_are_rounded_only_where_digits_are_lost():
    texts = ["0.1234567", "-1.25e-07", "1234567.5", "12345678901", "3.00", "1.42 ± 0.01", "", "nan"]
    shown = ["0.123457", "-1.25e-07", "1.23457e+06", *texts[3:]]
    assert [report._rounded(text) for text in texts] == shown


@pytest.mark.parametrize(
    ("texts", "numeric"),
    [
        (["1", "-2.5e-3", "", "inf", "nan"], True),
        (["1", "2 ± 1"], False),
        (["nan", "nan"], False),
        (["", ""], False),
        ([], False),
        (["1_0"], False),
        (["1", "e"], False),
    ],
)
def test_numeric_columns(texts, numeric):
    assert report._numeric(texts) is numeric


def test_a_large_table_is_told_by_its_columns(home, toy, config):
    rows = 1300
    table = pd.DataFrame(
        {
            "cell": ["elman", EVIL] * (rows // 2),
            "x": np.linspace(-3, 7.123456789, rows),
            "name": [f"n{i}" for i in range(rows)],
            "norm": [-np.inf, np.nan] * (rows // 2),
        }
    )
    large = dataclasses.replace(toy, report=lambda c, r: results.Report(table, table[:1], {}))
    launch.run(large, config, "run")
    report.write_page("run", None)
    page = check_page("run/report.html")
    shown = section(page, "results").one("table")
    assert f"{rows // 1000}\u202f{rows % 1000} rows and 4 columns" in shown.one("caption").text
    assert cells(shown)[1:] == [
        ["cell", "2", f"elman, {EVIL}"],
        ["x", "1300", "-3 to 7.12346"],
        ["name", "1300", "n0, n1, n2, n3, n4, n5, n6, n7, ..."],
        ["norm", "2", "-inf, "],
    ]
    assert "draws none" in section(page, "figures").text
    table = table[: report.LARGEST_TABLE // 4]
    launch.run(large, config, "run")
    report.write_page("run", None)
    assert len(cells(section(check_page("run/report.html"), "results").one("table"))) == 1251


@pytest.mark.parametrize(("limit", "kind"), [(10**6, "svg+xml"), (0, "png")])
def test_a_figure_is_shown_as_svg_unless_that_is_large(home, toy, config, monkeypatch, limit, kind):
    def draw():
        figure = Figure(figsize=(4, 2))
        axes = figure.subplots()
        axes.plot(np.random.default_rng(0).normal(size=20_000))
        axes.set(title="A walk & <b>", xlabel="steps", ylabel="h")
        return figure

    monkeypatch.setattr(report, "LARGEST_SVG", limit)
    said = lambda c, r: results.Report(pd.DataFrame({"a": [1]}), pd.DataFrame(), {"noise": draw})
    launch.run(dataclasses.replace(toy, report=said), config, "run")
    report.write_page("run", None)
    image = check_page("run/report.html").one("img").attributes
    assert image["alt"] == "Figure noise, with the words: steps; h; A walk & <b>"
    assert (image["width"], image["height"]) == ("384", "192")  # 4 x 2 inches
    data = image["src"].removeprefix(f"data:image/{kind};base64,")
    assert base64.b64decode(data) == Path(f"run/figures/noise.{kind[:3]}").read_bytes()


TEXT = st.text(st.characters(categories=["L", "N", "P", "S", "M"], include_characters=" \\|<&*-"))


@hypothesis.given(
    st.lists(st.tuples(TEXT, TEXT), max_size=4),
    st.lists(st.lists(TEXT.map(str.strip).filter(bool), min_size=1, max_size=3), max_size=3),
)
@hypothesis.settings(max_examples=60)
def test_what_is_written_to_the_summary_is_read_from_it(tmp_path_factory, rows, notes):
    folder = tmp_path_factory.mktemp("run")
    frame = pd.DataFrame(rows, columns=["a|b", "[i]c"], dtype=str)
    said = results.Report(frame, frame, {}, ["\n".join(lines) for lines in notes])
    results.write_report(RunDir(folder), "toy", said, {})
    summary = report.read_summary(folder / "summary.md")
    assert summary.title == "toy"
    assert [name for name, _ in summary.table.columns] == ["a|b", "[i]c"]
    assert [tuple(row) for row in summary.table.rows] == [
        tuple(text.strip() for text in row) for row in rows
    ]
    assert [*summary.notes] == [*said.notes]


def test_a_long_cell_stays_one(tmp_path):
    frame = pd.DataFrame({"cell": ["long " * 5000, "b"], "n": [1, 2]})
    results.write_report(RunDir(tmp_path), "toy", results.Report(frame, frame, {}), {})
    rows = report.read_summary(tmp_path / "summary.md").table.rows
    assert [[*row] for row in rows] == [[("long " * 5000).strip(), "1"], ["b", "2"]]


# ----- text, never markup -------------------------------------------------------------------------


def test_whatever_comes_from_files_is_text(home, toy, config):
    config.data, config.names, config.cells = EVIL, ["a\nb", "'"], (EVIL, "x" * 3000)
    table = pd.DataFrame({EVIL: [EVIL, 'a\n"b"'], "unit": ["<b>", "\u202eright\x07"], "n": [1, 2]})
    notes = [EVIL, f"first\n{EVIL}\n\n- third\n# fourth\n![x](figures/y.png)", "<!-- ]]>"]

    def draw():
        figure = Figure()
        figure.suptitle(EVIL[:-3], parse_math=False)  # of which the font has all glyphs
        return figure

    hostile = dataclasses.replace(
        toy,
        units=lambda config: ["walk-0"],
        report=lambda c, r: results.Report(table, table[[EVIL]], {"walks": draw}, notes),
        sources=lambda config: {EVIL: "</pre>"},
    )
    folder = home / "a <b>&\"'%20#?é:"
    launch.run(hostile, config, folder)
    path = folder / "environment.json"
    record = json.loads(path.read_bytes())
    record |= {"command": ["python", EVIL, "--x=\n"], "experiment": EVIL, "cpu": [EVIL, "\ud800"]}
    record["starts"] = [{EVIL: {"</td>": EVIL}}]
    path.write_text(json.dumps(record))
    report.write_page(str(folder), None)

    page = check_page(folder / "report.html")
    assert page.one("h1").text == f"{EVIL}: {folder.name}"
    summary = section(page, "summary")
    assert cells(summary.one("table")) == [[EVIL], [EVIL], ['a "b"']]
    assert [note.text for note in summary.all("li")] == notes
    shown = cells(section(page, "results").one("table"))
    assert shown[0] == [EVIL, "unit", "n"]
    assert shown[1:] == [[EVIL, "<b>", "1"], ['a\n"b"', "\u202eright\ufffd", "2"]]
    assert EVIL[:-3] in page.one("img").attributes["alt"]
    fields = dict(cells(section(page, "configuration").one("table"))[1:])
    assert json.loads(fields["config.data"]) == EVIL
    assert "循环" in fields["config.data"]  # as a person reads it
    assert json.loads(fields["config.names"]) == ["a\nb", "'"]
    assert json.loads(fields["config.cells"]) == [EVIL, "x" * 3000]
    first, second = section(page, "environment").all("table")
    assert json.loads(dict(cells(first)[1:])["cpu"]) == [EVIL, "\ud800"]
    assert cells(second)[1:] == [[f"{EVIL}.</td>", json.dumps(EVIL, ensure_ascii=False)]]
    words = section(page, "environment").one("pre").text
    assert words.startswith("python '<script>")
    assert words.endswith(" \\\n    '--x=\n'")
    assert cells(section(page, "sources").one("table"))[1:] == [[EVIL, '"</pre>"']]
    text = page.one("body").text
    assert text.count("alert(") > 10


def test_links_are_relative_to_where_the_page_is(home, toy, config):
    launch.run(toy, config, "a/b:c/run")
    (home / "pages").mkdir()
    (home / "elsewhere").symlink_to(home / "a/b:c")
    done = cli("--workdir=elsewhere/run", "--output=pages/of run.html")
    assert done.stdout == "Report: pages/of run.html\n"
    page = check_page("pages/of run.html")
    links = [a.attributes["href"] for a in section(page, "files").all("a")]
    assert links[0] == "../a/b%3Ac/run/summary.md"
    assert len(links) == 8
    assert not (home / "a/b:c/run/report.html").exists()


# ----- the same bytes, and a run that does not notice ---------------------------------------------


def test_the_same_run_gives_the_same_bytes(home, run, monkeypatch):
    report.write_page("run", None)
    first = (home / "run/report.html").read_bytes()
    shutil.copytree("run", "copy/run")
    (home / "copy/run/report.html").unlink()
    monkeypatch.chdir(home / "copy")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", "--workdir=run"],
        env=os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert (home / "copy/run/report.html").read_bytes() == first


def test_a_run_goes_on_beside_its_page(home, toy, config, monkeypatch, capsys):
    whole = launch.run(toy, config, "whole")
    monkeypatch.setenv("TOY_REFUSES", "walk-1")
    with pytest.raises(UserError, match="the data"):
        launch.run(toy, config, "run")
    capsys.readouterr()
    report.write_page("run", None)
    assert capsys.readouterr().out == "Report: run/report.html (unfinished: 2 of 3 units)\n"
    page = check_page("run/report.html")
    assert "Unfinished: 2 of 3 units." in page.one("main").text
    headings = [e.text for e in page.all("h2")]
    assert headings == ["Configuration", "Environment", "Sources", "Files"]
    assert [name for name, _ in cells_of_files(page)][-1] == "units/ (2 files)"

    monkeypatch.delenv("TOY_REFUSES")
    computed(home)
    resumed = launch.run(toy, config, "run")
    assert computed(home) == ["walk-1"]
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    left = files(home / "run")
    assert "Unfinished" in left.pop("report.html").decode()  # of then
    assert left == files(home / "whole")
    launch.run(toy, config, "run", plot_only=True)
    report.write_page("run", None)
    assert "Unfinished" not in check_page("run/report.html").one("main").text


def test_runs_of_before_units_were_counted(home, toy, config, capsys):
    launch.run(toy, config, "run")
    record = json.loads((home / "run/environment.json").read_bytes())
    del record["units"]
    (home / "run/environment.json").write_text(json.dumps(record))
    (home / "run/summary.md").unlink()
    capsys.readouterr()
    report.write_page("run", None)
    assert capsys.readouterr().out == "Report: run/report.html (unfinished: 3 units)\n"
    for name in ("environment.json", "sources.json"):
        (home / "run" / name).unlink(missing_ok=True)
    launch.run(toy, config, "run", plot_only=True)
    report.write_page("run", None)
    page = check_page("run/report.html")
    assert page.one("h1").text == "toy: run"
    assert "there is no environment.json" in section(page, "environment").text


# ----- what the user got wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--workdir is missing; expected --workdir=DIRECTORY"),
        (["--workdir="], "--workdir is missing; expected --workdir=DIRECTORY"),
        (["--workdir=absent"], "--workdir=absent: there is no such directory"),
        (["--workdir=toy.py"], "--workdir=toy.py: not a usable directory: Not a directory"),
        (["--workdir=."], "--workdir=.: not a run directory (no config.json)"),
        (
            ["--workdir=.", "--outptu=x.html"],
            "unknown flag --outptu, known: output, workdir; did you mean 'output'?",
        ),
        (["--workdir=.", "--config=x"], "unknown flag --config, known: output, workdir"),
        (["--workdir=.", "--config.x=1"], "unknown flag --config.x, known: output, workdir"),
        (["--workdir=.", "--plot_only"], "unknown flag --plot_only, known: output, workdir"),
        (["--workdir=.", "x"], "unexpected argument 'x'; expected only --FLAG=VALUE"),
    ],
)
def test_wrong_flags_end_in_one_line(home, args, message):
    before = files(home)
    done = cli(*args)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"report: {message}\n")
    assert files(home) == before


def test_bad_flag_is_answered_before_anything_heavy_loads(home):
    modules = imported(cli("--workdir=.", "--outptu=x", python=["-X", "importtime"]))
    assert "ml_collections" in modules
    assert not modules & {"jax", "pandas", "matplotlib", "rich", "jinja2", "markdown_it", "PIL"}


def test_no_experiment_is_loaded(home, run):
    done = cli("--workdir=run", python=["-X", "importtime"])
    assert done.returncode == 0
    assert not imported(done) & {"jax", "flax", "matplotlib", "toy"}


def test_help_tells_what_it_does(home):
    done = cli("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("one HTML file", "--output", "Run directory to read", "FILE.html to write"):
        assert text in done.stdout
    assert "plot_only" not in done.stdout


ANEW = "; the command of the run with --plot_only writes it anew"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("config.json", b"{", "config.json: cannot be read: Expecting"),
        ("config.json", b"[]", "config.json: cannot be read: expected an object in braces"),
        ("environment.json", b"\xff", "environment.json: cannot be read: 'utf-8' codec"),
        ("environment.json", b'{"starts": 3}', "environment.json: damaged, has no list of starts;"),
        ("environment.json", b'{"starts": [3]}', "environment.json: damaged, has no list of star"),
        ("sources.json", b'"x"', "sources.json: cannot be read: expected an object in braces"),
        ("summary.md", b"", f"summary.md: damaged{ANEW}"),
        ("summary.md", b"# toy\n\n| unit | e", f"summary.md: damaged{ANEW}"),
        ("summary.md", b"# toy \xff", f"summary.md: damaged{ANEW}"),
        ("results.csv", None, f"results.csv: missing{ANEW}"),
        ("results.csv", b"", f"results.csv: damaged{ANEW}"),
        ("results.csv", b"unit,seed,end\nwalk-0,0,1.5\nwalk-1,0", f"results.csv: damaged{ANEW}"),
        ("results.csv", b"unit,seed,end\nwalk-0,0\n", f"results.csv: damaged{ANEW}"),
        ("results.csv", b"unit,end\na,1\na,1,2\n", f"results.csv: damaged{ANEW}"),
        ("results.csv", b"unit,end\n\xff,1\n", f"results.csv: damaged{ANEW}"),
        ("figures/walks.svg", None, f"figures/walks.svg: missing{ANEW}"),
        ("figures/walks.svg", b"<svg><g></svg>", f"figures/walks.svg: damaged{ANEW}"),
        ("figures/walks.png", None, f"figures/walks.png: missing{ANEW}"),
        ("figures/walks.png", b"\x89PNG\r\n\x1a\n", f"figures/walks.png: damaged{ANEW}"),
    ],
)
def test_damaged_files_end_in_one_line(home, run, name, data, message):
    path = home / "run" / name
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)
    before = everything(home / "run")
    with pytest.raises(UserError, match="^" + re.escape(f"run/{message}")) as caught:
        report.write_page("run", None)
    assert "\n" not in str(caught.value)
    assert everything(home / "run") == before


@pytest.mark.parametrize("damage", ["half", "flipped"])
def test_a_damaged_picture_is_one_line(home, run, damage):
    path = run / "figures/walks.png"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    if damage == "half":
        del data[middle:]
    else:
        data[middle] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"^run/figures/walks\.png: damaged; "):
        report.write_page("run", None)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "--output=: expected the name of a file that ends in .html"),
        ("run/results.csv", "--output=run/results.csv: expected the name of a file that ends"),
        ("absent/x.html", "--output=absent/x.html: there is no directory absent"),
        ("folder.html", "cannot write folder.html: Is a directory"),
        ("/proc/x.html", "cannot write /proc/x.html: No such file or directory"),
    ],
)
def test_unwritable_output_ends_in_one_line(home, run, output, message):
    (home / "folder.html").mkdir()
    before = everything(home)
    with pytest.raises(UserError, match="^" + re.escape(message)):
        report.write_page("run", output)
    assert everything(home) == before


def test_full_disk_leaves_the_old_page(home, run, monkeypatch):
    (home / "run/report.html").write_text("old")
    before = everything(home)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"^cannot write run/report.html: No space left on device$"):
        report.write_page("run", None)
    assert everything(home) == before
