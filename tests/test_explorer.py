"""The page that shows a sweep: it draws and says what results.csv says, to every reader, alone."""

import base64
import csv
import hashlib
import html
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import synthetic_sweep
from playwright.sync_api import expect
from synthetic_sweep import COLUMNS, rows, write_results, write_run

from experiments import explorer, figures
from experiments.rundir import UserError

ROOT = Path(__file__).resolve().parent.parent
EVIL = "<script>window.evil=1</script><img src=x onerror='window.evil=1'></script>&amp;\"'<b>"


def cli(*args, python=()):
    command = [sys.executable, *python, "-m", "experiments.explorer", *args]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def table(path):
    """The rows of a results.csv as dicts of texts."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def number(text):
    return float(text) if text else None


def points(found, quantity, **where):
    """{x: (value, low, high)} of the rows of a quantity at a setting."""
    return {
        number(row["x"]): tuple(number(row[name]) for name in ("value", "low", "high"))
        for row in found
        if row["quantity"] == quantity
        and all(
            number(row[k]) == v if k != "cell" and k != "scheme" else row[k] == v
            for k, v in where.items()
        )
    }


# ----- without a browser --------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "run")


def test_the_command_writes_one_file(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    done = cli(f"--workdir={run}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Explorer: {run}/explorer.html\n"
    after = {path.name: path.read_bytes() for path in run.iterdir()}
    page = after.pop("explorer.html")
    assert after == before
    done = cli(f"--workdir={run}", f"--output={run.parent}/other.html", python=["-X", "importtime"])
    assert done.returncode == 0
    assert (run.parent / "other.html").read_bytes() == page  # the same bytes
    assert not set(re.findall(r"\| +(\w[\w.]*)$", done.stderr, re.M)) & {
        "jax",
        "flax",
        "experiments.sweep",
    }


def test_nothing_but_the_page_may_run_and_nothing_is_loaded(run):
    explorer.write_page("run", None)
    page = (run / "explorer.html").read_text("utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 2
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    policy = policy.replace("&#39;", "'")
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert policy.startswith("default-src 'none'; img-src data: blob:; ")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    own = page.replace(scripts[0], "").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\(", own)
    assert not re.search(r"\s(src|on\w+|style)=", own)
    assert re.findall(r'href="([^"]*)"', own) == ["#content"]


def unpacked(text):
    numbers = np.frombuffer(base64.b64decode(text[1:]), {"f": "<f4", "d": "<f8"}[text[0]])
    return [None if np.isnan(number) else float(number) for number in numbers]


@pytest.mark.parametrize(
    ("column", "letter"),
    [
        ([0.5, None, -math.inf], "f"),
        ([float(np.float32(0.1)), -(2.0**-149)], "f"),
        ([0.1], "d"),
        ([1e300, math.inf, None, 5e-324], "d"),
    ],
)
def test_numbers_are_packed_to_the_last_bit(column, letter):
    text = explorer.packed(column)
    assert (text[0], unpacked(text)) == (letter, column)


def test_numbers_are_those_of_the_file(run):
    """To the last bit, and infinities."""
    found = explorer.data(explorer.read_readings(run / "results.csv"))
    found = json.loads(json.dumps(found, allow_nan=False))
    lines = {}
    for setting in found["settings"]:
        key = tuple(setting[name] for name in COLUMNS[:5])
        for quantity in ("slope", "half-life"):
            lines[*key, quantity, None] = setting[quantity]
        curves = {name: setting[name] for name in ("gradient", "lyapunov") if name in setting}
        curves |= {f"theory: {name}": curve for name, curve in setting["theories"].items()}
        for quantity, curve in curves.items():
            grid = found["grids"][curve["x"]]
            nothing = [None] * len(grid)
            columns = [
                unpacked(curve[name]) if name in curve else nothing
                for name in ("value", "low", "high")
            ]
            for x, *values in zip(grid, *columns, strict=True):
                lines[*key, quantity, x] = values
    for row in table(run / "results.csv"):
        cell, scheme, gain, bias, length, quantity, x, *values = row.values()
        key = (cell, scheme, number(gain), number(bias), int(length), quantity, number(x))
        shown = [None if one is None else float(one) for one in lines.pop(key)]
        assert shown == [number(text) for text in values]
    assert not lines


def test_the_slope_of_theory_is_that_of_its_line():
    line = [explorer.Point(float(lag), 3 - 0.25 * lag, None, None) for lag in range(0, 101, 2)]
    assert explorer.theory_slope(line, 100) == pytest.approx(-0.25, abs=1e-12)
    bent = [p if 20 <= p.x <= 80 else p._replace(value=77.0) for p in line]
    assert explorer.theory_slope(bent, 100) == pytest.approx(-0.25, abs=1e-12)
    zero = [p._replace(value=-math.inf) if p.x == 50 else p for p in line]
    assert explorer.theory_slope(zero, 100) is None
    assert explorer.theory_slope(line[:5], 100) is None


def test_cells_of_one_colour_have_different_marks():
    names = [f"m:cell{i}" for i in range(20)]
    readings = {
        explorer.Setting(name, "own", None, None, 50): {
            "gradient": [explorer.Point(0.0, 1.0, None, None)]
        }
        for name in ["elman", *names]
    }
    cells = explorer.data(readings)["cells"]
    looks = {(cell["colour"]["light"], cell["mark"]) for cell in cells}
    assert len(looks) == len(cells) == 21
    assert cells[0] == {
        "name": "elman", "label": "vanilla RNN", "mark": 0,
        "colour": {"light": figures.CELL_COLOURS["elman"], "dark": figures.CELL_COLOURS["elman"]},
        "theory": {"light": "#954200", "dark": "#e28e4c"},
    }  # fmt: skip
    assert "#000000" not in {cell["colour"]["dark"] for cell in cells}


GOOD = ["elman", "own", "", "", "50", "gradient", "0.0", "-1.0", "-2.0", "0.0"]


def changed(**values):
    return [values.get(name, text) for name, text in zip(COLUMNS, GOOD, strict=True)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(value="many"), "row 2: value: expected a number, got 'many'"),
        (changed(gain="1,5"), "row 2: gain: expected a number, got '1,5'"),
        (changed(gain="inf"), "row 2: gain, forget_bias and x are finite"),
        (changed(length="0"), "row 2: length: expected a positive integer, got '0'"),
        (changed(length="5.5"), "row 2: length: expected a positive integer, got '5.5'"),
        (changed(length="inf"), "row 2: length: expected a positive integer, got 'inf'"),
        (changed(length=""), "row 2: length is empty"),
        (changed(cell=""), "row 2: cell is empty"),
        (changed(quantity="loss"), "row 2: unknown quantity 'loss'"),
        (changed(x=""), "row 2: x of gradient: expected a number"),
        (changed(quantity="slope"), "row 2: x of slope: not empty"),
        (GOOD, "row 2: gradient a second time"),
    ],
)
def test_a_wrong_row_is_one_line(run, row, message):
    write_results(run, [GOOD, row])
    with pytest.raises(UserError, match="^" + re.escape(f"run/results.csv, {message}") + "$"):
        explorer.write_page("run", None)
    assert not (run / "explorer.html").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--workdir=run: has no results.csv yet; the command that began the run finishes it"),
        (b"", "run/results.csv: damaged; "),
        (b"\xff\n", "run/results.csv: damaged; "),
        ((",".join(COLUMNS) + "\n").encode(), "run/results.csv: has no rows"),
        (b"cell,value\nelman,1\n", "run/results.csv: expected the columns cell, scheme, gain, "),
        ((",".join(COLUMNS) + "\n" + ",".join(GOOD)).encode(), "run/results.csv: damaged; "),
        ((",".join(COLUMNS) + "\n1,2\n").encode(), "run/results.csv: damaged; "),
    ],
)
def test_a_wrong_table_is_one_line(run, text, message):
    (run / "results.csv").unlink()
    if text is not None:
        (run / "results.csv").write_bytes(text)
    with pytest.raises(UserError, match="^" + re.escape(message)) as caught:
        explorer.write_page("run", None)
    assert "\n" not in str(caught.value)


def test_what_is_no_sweep_is_refused(run):
    record = json.loads((run / "environment.json").read_bytes())
    (run / "environment.json").write_text(json.dumps(record | {"experiment": "cliff"}))
    done = cli(f"--workdir={run}")
    assert (done.returncode, done.stdout) == (2, "")
    message = f"--workdir={run}: a run of cliff; the explorer shows one of sweep"
    assert done.stderr == f"explorer: {message}\n"
    (run / "environment.json").unlink()
    explorer.write_page("run", None)
    assert "no record of how the run was begun" in (run / "explorer.html").read_text()


def test_wrong_flags_end_in_one_line(run):
    done = cli("--workdir=run", "--output=x.txt")
    assert (done.returncode, done.stdout) == (2, "")
    expected = "--output=x.txt: expected the name of a file that ends in .html"
    assert done.stderr == f"explorer: {expected}\n"
    assert (
        cli("--workdir=absent").stderr == "explorer: --workdir=absent: there is no such directory\n"
    )
    assert "one page to look through" in cli("--help").stdout


# ----- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("explorer") / "sweep")
    explorer.write_page(str(folder), None)
    return folder


LONG = "theory: product of the forget gates of all cells, for which no tip is wide enough"


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A sweep of 25 cells, of which 22 have nothing but their own initialisation; in that the LSTM
    has a theory of a long name."""
    found = list(rows())
    more = [[f"m:cell{i}", *row[1:]] for i in range(20) for row in found if row[0] == "lru"]
    more += [
        [*row[:5], LONG, row[6], 2 * row[7], None, None]
        for row in found
        if row[:2] == ["lstm", "own"] and row[5] == "gradient"
    ]
    folder = write_run(tmp_path_factory.mktemp("explorer") / "crowd", found + more)
    explorer.write_page(str(folder), None)
    return folder


@pytest.fixture
def open_page(open_file):
    return lambda folder, *args, **options: open_file(folder / "explorer.html", *args, **options)


DRAWN = """() => Object.fromEntries(document.getElementById("gradient-plot").data.concat(
    document.getElementById("spectrum-plot").data).map((trace) => [
        `${trace.meta.cell} ${trace.meta.quantity}`, [[...trace.x], [...trace.y]]]))"""
SHOWN = """() => [...document.querySelectorAll("#table tbody tr")].map((row) => [row.dataset.cell,
    [...row.querySelectorAll("data")].map((data) => [data.value, data.textContent])])"""


def curve(found):
    """The finite points of a curve, as a trace has them: none where it is not finite."""
    return [
        [*found],
        [
            value if value is not None and math.isfinite(value) else None
            for value, *_ in found.values()
        ],
    ]


def check_drawn(page, found, cells, scheme, gain, biases, length, theory=True):
    """The figures have what results.csv has for a choice, no more and no less."""
    drawn = page.evaluate(DRAWN)
    cells_drawn = {name.split(" ")[0] for name in drawn}
    assert cells_drawn == set(cells)
    for cell in cells:
        where = {"cell": cell, "scheme": scheme, "gain": gain, "forget_bias": biases.get(cell)}
        for quantity in {row["quantity"] for row in found}:
            at = synthetic_sweep.LENGTHS[-1] if quantity == "lyapunov" else length
            expected = points(found, quantity, **where, length=at)
            trace = drawn.get(f"{cell} {quantity}")
            if quantity == "slope":
                value = expected[None][0]
                assert trace == (None if value is None else [[0], [value]])
            elif quantity != "half-life":
                shown = bool(expected) and (theory or not quantity.startswith("theory"))
                assert trace == (curve(expected) if shown else None), (cell, quantity)


def test_figures_show_what_the_file_says(sweep, open_page):
    found = table(sweep / "results.csv")
    page = open_page(sweep)
    biases = {"lstm": 0.0, "gru": 0.0}
    check_drawn(page, found, ["elman", "lstm", "gru"], "orthogonal", 1.0, biases, 200)

    page.get_by_role("checkbox", name="GRU").uncheck()
    page.get_by_role("radio", name="gaussian").check()
    page.get_by_role("slider", name="Gain").press("ArrowRight")
    page.get_by_role("slider", name="Forget bias").press("End")
    page.get_by_role("radio", name="50").check()
    check_drawn(page, found, ["elman", "lstm"], "gaussian", 1.5, {"lstm": 4.0}, 50)
    assert page.locator("#gain-value").inner_text() == "1.5"
    assert page.locator("#bias-value").inner_text() == "4"
    page.get_by_role("checkbox", name="theory").uncheck()
    check_drawn(page, found, ["elman", "lstm"], "gaussian", 1.5, {"lstm": 4.0}, 50, theory=False)

    page.get_by_role("radio", name="own paper").check()
    page.get_by_role("button", name="All cells").click()
    check_drawn(page, found, synthetic_sweep.OWN, "own", None, {}, 50)


def test_bands_lie_between_the_quantiles(sweep, open_page):
    found = points(
        table(sweep / "results.csv"),
        "gradient",
        cell="lstm",
        scheme="orthogonal",
        gain=1.0,
        forget_bias=0.0,
        length=200,
    )
    page = open_page(sweep, "#cell=lstm&gain=1&bias=0&lag=0")
    x, y = page.evaluate(DRAWN)["lstm gradient band"]
    lags = list(found)
    assert x == [*lags, *reversed(lags), None]
    highs = [high for _, _, high in found.values()]
    assert y == [*(low for _, low, _ in found.values()), *reversed(highs), None]
    page.get_by_role("checkbox", name="10–90 % band").uncheck()
    assert "lstm gradient band" not in page.evaluate(DRAWN)


def test_a_loose_bound_does_not_flatten_the_figure(sweep, open_page):
    page = open_page(sweep, "#cell=elman&cell=lstm&gain=1&length=200")
    note = page.locator("#gradient-note")
    assert note.inner_text() == "Beyond the figure: vanilla RNN: bound by σₘₐₓ."
    low, high = page.evaluate("document.getElementById('gradient-plot').layout.yaxis.range")
    drawn = page.evaluate(DRAWN)
    measured = drawn["elman gradient"][1] + drawn["elman gradient band"][1][:-1]
    assert low < min(measured) < max(measured) < high
    assert high - low < 1.5 * (max(measured) - min(measured))
    assert max(drawn["elman theory: sigma bound"][1]) > high
    page.get_by_role("checkbox", name="theory").uncheck()
    assert note.inner_text() == ""


def test_exact_zeros_are_shown_and_named(sweep, open_page):
    page = open_page(sweep, "#cell=gru&gain=1.5&bias=0&length=200&lag=100")
    zeros, _ = page.evaluate(DRAWN)["gru exactly zero"]
    found = points(
        table(sweep / "results.csv"),
        "gradient",
        cell="gru",
        scheme="orthogonal",
        gain=1.5,
        forget_bias=0.0,
        length=200,
    )
    assert zeros == [lag for lag, (value, *_) in found.items() if value == -math.inf]
    assert len(zeros) > 10
    bottom = page.evaluate("document.getElementById('gradient-plot').layout.yaxis.range[0]")
    lags, edge = page.evaluate(DRAWN)["gru gradient band"]
    assert {y for x, y in zip(lags, edge, strict=True) if x in zeros} == {
        bottom,
        *(high for lag, (_, _, high) in found.items() if lag in zeros),
    }
    row = page.locator("#table tbody tr")
    assert "exactly zero" in row.inner_text()
    cells = row.locator("td").all_inner_texts()
    assert cells[1:3] == ["none: exact zeros", "none"]  # neither a slope nor a half-life
    assert "exactly zero" in page.locator("#legend").inner_text()


def test_a_slope_that_is_missing_has_a_reason_only_where_there_is_one(tmp_path, open_page):
    """A median over all may be finite where that of a seed is not, and zero beside the window."""
    found = [
        [*row[:7], *(None if row[5] in ("slope", "half-life") else value for value in row[7:])]
        for row in rows()
        if row[0] in ("elman", "lstm", "gru")
    ]
    for row in found:
        if row[0] == "lstm" and row[5] == "gradient" and row[6] == row[4]:
            row[7] = row[8] = -math.inf
    folder = write_run(tmp_path / "run", found)
    explorer.write_page(str(folder), None)
    page = open_page(folder, "#cell=elman&cell=lstm&cell=gru&gain=1.5&bias=0")
    assert "exactly zero" in page.locator("#legend").inner_text()
    said = page.locator("#table tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [row.cells[2].textContent, row.cells[3].textContent])"
    )
    assert said == [["none"] * 2, ["none"] * 2, ["none: exact zeros", "none"]]


def segments(dash, length=36):
    """Where a pattern is ink, at tenths of a pixel along a sample in the legend."""
    parts = [float(part) for part in dash.replace("px", "").split(",")]
    ends = np.cumsum(parts * 36)
    return np.searchsorted(ends, np.arange(0, length, 0.1), side="right") % 2 == 0


def test_theories_are_told_apart_and_named_as_elsewhere(tmp_path, open_page):
    from experiments import gradient_norms_report

    found = [row for row in rows() if row[0] == "elman" and not row[5].startswith("theory")]
    lines = [row for row in rows() if row[0] == "elman" and row[5] == "theory: mean field"]
    found += [[*row[:5], f"theory: {name}", *row[6:]] for name in explorer.DASHES for row in lines]
    folder = write_run(tmp_path / "run", found)
    explorer.write_page(str(folder), None)
    page = open_page(folder)
    legend = page.locator("#legend [stroke-dasharray*=px]").evaluate_all(
        """(samples) => samples.map((sample) =>
            [sample.closest("li").textContent, sample.getAttribute("stroke-dasharray")])"""
    )
    drawn = page.evaluate(
        """() => Object.fromEntries(document.getElementById("gradient-plot").data
            .map((trace) => [trace.name, trace.line.dash]))"""
    )
    assert len(legend) == len(explorer.DASHES)
    for name, dash in legend:
        assert drawn[f"vanilla RNN: {name}"] == dash
    for (_, one), (_, other) in itertools.combinations(legend, 2):
        assert np.mean(segments(one) != segments(other)) > 0.2
    plain = str.maketrans("ᵏₘₐₓ", "kmax")
    for name, label in gradient_norms_report.THEORY_LABELS.items():
        text = re.sub(r"[$\\{}_^]", "", label.replace(r"\sigma", "σ"))
        assert text == explorer.THEORIES[name].translate(plain)
        assert explorer.THEORIES[name] in page.locator("#table").inner_text()


def decimals(text):
    return float(text.replace("−", "-").split(" ")[0])


def test_the_table_says_what_the_file_says(sweep, open_page):
    found = table(sweep / "results.csv")
    page = open_page(sweep, "#cell=elman&cell=lstm&init=gaussian&gain=1&bias=1&length=50&lag=30")
    shown = dict(page.evaluate(SHOWN))
    assert [*shown] == ["elman", "lstm"]
    of_elman = {"cell": "elman", "scheme": "gaussian", "gain": 1.0, "forget_bias": None}
    of_lstm = of_elman | {"cell": "lstm", "forget_bias": 1.0}
    for where, theories in (
        (of_elman, ["mean field", "sigma bound"]),
        (of_lstm, ["mean field"]),
    ):
        now = where | {"length": 50}
        expected = [
            points(found, "gradient", **now)[30.0][0],
            points(found, "slope", **now)[None][0],
            points(found, "half-life", **now)[None][0],
            points(found, "lyapunov", **where, length=200)[1.0][0],
        ]
        texts = shown[where["cell"]]
        assert [float(value) for value, _ in texts[:4]] == expected
        for name in theories:
            line = points(found, f"theory: {name}", **now)
            expected += [line[30.0][0], (line[30.0][0] - line[20.0][0]) / 10]  # it is straight
        assert [float(value) for value, _ in texts] == pytest.approx(expected, rel=1e-12)
        assert [decimals(text) for _, text in texts] == pytest.approx(expected, rel=2e-3)
    assert "± 0.0013" in page.locator("#table").inner_text()


def test_a_cell_without_data_is_named(sweep, open_page):
    page = open_page(sweep, "#cell=elman&cell=lru&cell=gru&init=gaussian&gain=0.5&bias=0")
    notice = page.locator("#missing")
    expect(notice).to_be_visible()
    assert notice.inner_text() == (
        "No data for this choice: GRU (not at gain 0.5); "
        "LRU (measured only with: each cell as its own paper has it)"
    )
    rows = page.locator("#table tbody tr").all_inner_texts()
    assert len(rows) == 3
    assert "no data: not at gain 0.5" in rows[1]
    assert {name.split(" ")[0] for name in page.evaluate(DRAWN)} == {"elman"}
    page.get_by_role("slider", name="Gain").press("ArrowRight")
    assert notice.inner_text().startswith("No data for this choice: LRU (")
    page.get_by_role("button", name="None").click()
    expect(notice).to_be_hidden()
    assert "No cell is chosen." in page.locator("#table").inner_text()
    expect(page.get_by_role("slider", name="Lag to read at")).to_be_disabled()


def test_controls_that_mean_nothing_say_so(sweep, open_page):
    page = open_page(sweep, "#cell=elman&cell=lstm&init=orthogonal")
    gain, bias = (
        page.get_by_role("slider", name="Gain"),
        page.get_by_role("slider", name="Forget bias"),
    )
    expect(gain).to_be_enabled()
    expect(bias).to_be_enabled()
    assert page.locator("#bias-note").inner_text() == "Without one: vanilla RNN."
    page.get_by_role("checkbox", name="LSTM").uncheck()
    expect(bias).to_be_disabled()
    assert page.locator("#bias-note").inner_text() == "None of the chosen cells has one here."
    page.get_by_role("radio", name="own paper").check()
    expect(gain).to_be_disabled()
    expect(bias).to_be_disabled()
    expect(page.get_by_role("checkbox", name="theory")).to_be_disabled()
    assert "its own paper" in page.locator("#gain-note").inner_text()
    for control in (gain, bias):
        assert (
            "own paper"
            in page.locator(f"#{control.get_attribute('aria-describedby')}").inner_text()
        )


VIEW = (
    "#cell=elman&cell=gru&init=gaussian&gain=1.5&bias=1&length=50&axis=log&band=0&theory=0&lag=20"
)


def controls(page):
    """What the controls say."""
    return page.evaluate(
        """() => [...document.querySelectorAll("input")].map((input) =>
            [input.id || input.name + input.value,
             input.type === "range" ? input.getAttribute("aria-valuetext") : input.checked])"""
    )


def test_the_address_is_the_view(sweep, open_page):
    page = open_page(sweep, VIEW)
    says = dict(controls(page))
    chosen = {name for name, value in says.items() if value is True}
    assert chosen == {"cellelman", "cellgru", "schemegaussian", "length50", "axislog"}
    assert (says["gain"], says["bias"], says["lag"]) == ("1.5", "1", "20 steps")
    assert page.evaluate("document.getElementById('gradient-plot').layout.xaxis.type") == "log"

    page.get_by_role("checkbox", name="LSTM").check()
    asked = urllib.parse.parse_qs(page.url.split("#")[1])
    assert asked["cell"] == ["elman", "lstm", "gru"]
    page.get_by_role("radio", name="linear").check()
    page.get_by_role("slider", name="Lag to read at").press("ArrowRight")
    expect(page).to_have_url(re.compile("axis=linear.*lag=21"))
    after = controls(page), page.evaluate(DRAWN)
    other = open_page(sweep, "#" + page.url.split("#")[1])
    assert (controls(other), other.evaluate(DRAWN)) == after

    page.go_back()
    page.go_back()
    assert dict(controls(page)) == says
    assert page.url.endswith(VIEW)
    page.go_forward()
    assert dict(controls(page))["celllstm"] is True


@pytest.mark.parametrize(
    "address",
    [
        "#", "#%", "#%zz&&==&cell", "#content", "#gain=NaN&bias=&length=1e999&lag=-5&axis=x&band=2",
        "#init=__proto__&axis=constructor&band=toString&lag=0x", "#cell=nobody&cell=__proto__",
    ],
)  # fmt: skip
def test_any_address_is_a_view(sweep, open_page, address):
    page = open_page(sweep, address)
    known = "cell" not in address
    expect(page.locator("#table tbody tr")).to_have_count(3 if known else 1)
    says = dict(controls(page))
    assert says["schemeorthogonal"]
    assert says["length200"]
    assert says["axislinear"]


def test_unknown_cells_of_an_address_are_left_out(sweep, open_page):
    page = open_page(sweep, "#cell=nobody&cell=lstm&gain=1.2")
    assert [cell for cell, _ in page.evaluate(SHOWN)] == ["lstm"]
    assert page.locator("#gain-value").inner_text() == "1"  # the nearest


def test_the_lag_follows_keyboard_and_pointer(sweep, open_page):
    page = open_page(sweep, "#cell=lstm&gain=1&bias=0&length=200&lag=100")
    found = points(
        table(sweep / "results.csv"),
        "gradient",
        cell="lstm",
        scheme="orthogonal",
        gain=1.0,
        forget_bias=0.0,
        length=200,
    )
    value = lambda: float(page.locator("#table tbody data").first.get_attribute("value"))
    assert value() == found[100.0][0]
    page.get_by_role("slider", name="Lag to read at").press("ArrowLeft")
    assert value() == found[96.0][0]
    expect(page.locator("#said")).to_contain_text("Lag 96: LSTM −")
    said = page.locator("#said").inner_text()

    box = page.locator("#gradient-plot .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)
    expect(page.locator("#tip")).to_be_visible()
    assert "lag 60" in page.locator("#tip").inner_text()
    assert value() == found[60.0][0]
    assert f"{abs(found[60.0][0]):.3g}"[:4] in page.locator("#tip").inner_text()
    page.mouse.move(2, 2)
    expect(page.locator("#tip")).to_be_hidden()
    assert value() == found[96.0][0]
    page.wait_for_timeout(700)
    assert page.locator("#said").inner_text() == said  # the pointer is silent


def test_every_control_is_reached_by_keyboard_and_has_a_name(sweep, open_page):
    page = open_page(sweep, "#cell=lstm")
    reached = []
    for _ in range(100):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const at = document.activeElement; const style = getComputedStyle(at);
            return [at.id || (at.name ?? "") + (at.value ?? "") + (at.dataset.figure ?? "") +
            (at.dataset.format ?? "") || at.tagName,
            style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1]; }"""
        )
        if found[0] == "BODY":
            break
        if found[0] == "SUMMARY":
            page.keyboard.press("Enter")
        reached.append(found)
    names = [name for name, _ in reached]
    for wanted in (
        "copy", "theme", "cellelman", "cellexprnn", "all", "none", "schemeorthogonal", "gain",
        "bias", "length200", "axislinear", "band1", "theory1", "lag", "gradientsvg", "gradientpng",
        "spectrumsvg", "csv", "SUMMARY",
    ):  # fmt: skip
        assert wanted in names
    assert all(visible for _, visible in reached)

    for control in page.locator("input, button, summary").all():
        tree = control.aria_snapshot()
        assert re.match(r'- (\w+) "[^"]+"|- text: \w|- group', tree), tree
    plots = page.locator(".plot")
    assert plots.count() == 2
    for plot in plots.all():
        assert plot.get_attribute("role") == "img"
        assert "LSTM" in plot.get_attribute("aria-label")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => h.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}
    assert page.locator("#said").get_attribute("aria-live") == "polite"
    page.get_by_role("checkbox", name="GRU").check()
    expect(page.locator("#said")).to_contain_text("2 of 2 chosen cells drawn")


CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (node) => { for (; node; node = node.parentElement) {
    const colour = channels(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour; } };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    const apart = node.closest("script, .visually-hidden, :disabled");
    if (!own || apart || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const svg = node.namespaceURI.endsWith("svg");
    const [a, b] = [channels(svg ? style.fill : style.color), behind(node)].map(luminance);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML.slice(0, 80)]);
  }
  return found; }"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(sweep, open_page, theme):
    page = open_page(sweep, "#cell=elman&cell=lru&bias=1", color_scheme=theme)
    for name in (theme, "light" if theme == "dark" else "dark"):
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 80
        assert [text for ratio, text in contrasts if ratio < 4.5] == []
        red, *_ = map(
            int,
            re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")),
        )
        assert (red > 128) is (name == "light")
        other = "Dark page" if name == "light" else "Light page"
        page.get_by_role("button", name=other).click()


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1500, 900)])
@pytest.mark.parametrize("scheme", ["orthogonal", "own"])
def test_every_control_is_in_sight(crowd, open_page, width, height, scheme):
    """Where they are beside the figures. Only the list of cells may have more than there is."""
    size = {"width": width, "height": height}
    page = open_page(crowd, f"#cell=lstm&init={scheme}", viewport=size)
    form = page.locator("#choices")
    assert form.evaluate("(form) => form.scrollHeight <= form.clientHeight")
    seen = """(controls) => controls.filter((control) => control.checkVisibility())
        .map((control) => control.getBoundingClientRect().bottom)"""
    others = form.locator("input:not([name=cell]), button, .note, fieldset").evaluate_all(seen)
    assert len(others) >= 17
    assert max(others) <= height
    cells = form.locator("input[name=cell], summary").evaluate_all(seen)
    assert len(cells) == (4 if scheme == "orthogonal" else 25)
    assert sum(bottom <= height for bottom in cells) >= (4 if scheme == "orthogonal" else 12)


def test_cells_without_data_are_folded_away(crowd, open_page):
    page = open_page(crowd, "#cell=elman&cell=lru&init=gaussian&gain=0.5")
    labels = lambda part: page.locator(f"{part} label").all_inner_texts()
    without = page.locator("#without summary")
    assert labels("#having") == ["vanilla RNN", "LSTM"]
    assert without.inner_text() == "23 without data for this choice, 1 chosen"
    expect(page.get_by_role("checkbox", name="LRU")).to_be_hidden()
    gain = page.get_by_role("slider", name="Gain")
    gain.press("ArrowRight")
    assert labels("#having") == ["vanilla RNN", "LSTM", "GRU"]  # in their order

    without.press("Enter")
    box = page.get_by_role("checkbox", name="LRU")
    expect(box).to_have_accessible_description(
        "measured only with: each cell as its own paper has it"
    )
    box.press("Space")
    expect(box).to_be_focused()
    assert without.inner_text() == "22 without data for this choice"
    page.get_by_role("radio", name="own paper").check()
    assert len(labels("#having")) == 25
    assert labels("#having")[:4] == ["vanilla RNN", "LSTM", "GRU", "LRU"]
    expect(page.locator("#without")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 800, 1500])
def test_nothing_overflows(sweep, open_page, width):
    page = open_page(
        sweep, "#cell=elman&cell=lstm&cell=gru&cell=lru", viewport={"width": width, "height": 800}
    )
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    right = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
          .filter((node) => !node.closest(".scroll, svg, #tip") && node.checkVisibility())
          .map((node) => [node.getBoundingClientRect().right, node.outerHTML.slice(0, 90)])
          .sort((a, b) => b[0] - a[0])[0]"""
    )
    assert right[0] <= width, right
    plot = page.locator("#gradient-plot .main-svg").first.bounding_box()
    assert plot["width"] > 0.55 * min(width, 800)


def point_at(page, plot, x, y):
    """Moves the pointer to where a point is drawn."""
    box = page.locator(f"#{plot} .nsewdrag").bounding_box()
    layout = page.evaluate(
        """(id) => { const { xaxis, yaxis } = document.getElementById(id).layout;
            return [xaxis.range, yaxis.range]; }""",
        plot,
    )
    across, up = ((at - low) / (high - low) for at, (low, high) in zip((x, y), layout, strict=True))
    place = box["x"] + across * box["width"], box["y"] + (1 - up) * box["height"]
    page.mouse.move(*place, steps=2)
    return place


@pytest.mark.parametrize(("width", "height"), [(360, 800), (1366, 768)])
def test_the_tip_hides_nothing_and_loses_nothing(crowd, open_page, width, height):
    page = open_page(crowd, "#init=own&length=200", viewport={"width": width, "height": height})
    page.get_by_role("button", name="All cells").click()
    page.locator("#gradient-plot").scroll_into_view_if_needed()
    box = page.locator("#gradient-plot .nsewdrag").bounding_box()
    tip = page.locator("#tip")
    seen = ""
    for across, down in itertools.product((0.02, 0.4, 0.7, 0.98), (0.05, 0.3, 0.95)):
        x, y = box["x"] + across * box["width"], box["y"] + down * box["height"]
        page.mouse.move(x, y, steps=2)
        page.wait_for_timeout(80)  # plotly's own between two looks at the pointer
        at = tip.bounding_box()
        right, bottom = at["x"] + at["width"], at["y"] + at["height"]
        assert 0 <= at["x"] < right <= width
        assert 0 <= at["y"] < bottom <= height
        assert not (at["x"] <= x <= right and at["y"] <= y <= bottom)
        assert at["height"] < 0.5 * box["height"]
        cut = "(nodes) => nodes.filter((node) => node.scrollWidth > node.clientWidth + 1).length"
        assert tip.locator("p").evaluate_all(cut) == 0
        seen += tip.inner_text()
    assert LONG.removeprefix("theory: ") in seen


def test_the_tip_is_of_the_nearest_curve(sweep, open_page):
    page = open_page(sweep, "#cell=elman&cell=lstm&cell=gru&gain=1&bias=0&length=200")
    found = table(sweep / "results.csv")
    tip = page.locator("#tip")
    where = {"scheme": "orthogonal", "gain": 1.0, "length": 200}
    for cell, bias, label in (("lstm", 0.0, "LSTM"), ("elman", None, "vanilla RNN")):
        of_cell = where | {"cell": cell, "forget_bias": bias}
        value, low, high = points(found, "gradient", **of_cell)[100.0]
        theory = points(found, "theory: mean field", **of_cell)[100.0][0]
        point_at(page, "gradient-plot", 100, value)  # straight down, at one lag
        expect(tip).to_contain_text(f"{label}, lag 100")
        said = [text.replace("−", "-") for text in tip.locator("p").all_inner_texts()]
        numbers = [float(number) for number in re.findall(r"-\d+\.?\d*", " ".join(said[:2]))]
        assert numbers[-3:] == pytest.approx([value, low, high], rel=1e-3)
        assert said[1].startswith("10–90 %")
        (line,) = [text for text in said if text.startswith("mean field")]
        assert float(line.split()[-1]) == pytest.approx(theory, rel=1e-3)
        assert len(said) == (4 if cell == "elman" else 3)

        value, low, high = points(found, "lyapunov", **of_cell)[5.0]
        point_at(page, "spectrum-plot", 5, value)
        expect(tip).to_contain_text(f"{label}, exponent 5")
        text = tip.inner_text().replace("−", "-")
        numbers = [float(number) for number in re.findall(r"-\d\.\d+", text)]
        assert numbers == pytest.approx([value, low, high], rel=1e-3)

        ((slope, *_),) = points(found, "slope", **of_cell).values()
        point_at(page, "spectrum-plot", 0, slope)
        expect(tip).to_contain_text(f"{label}, gradient")
        assert "± 0.0013" in tip.inner_text()


def test_every_exponent_is_in_a_table(sweep, open_page):
    page = open_page(sweep, "#cell=lstm&cell=gru&gain=0.5&bias=0&length=50")
    page.get_by_text("All Lyapunov exponents").press("Enter")
    exponents = page.get_by_role("table", name="Over seeds, in nats per step")
    expect(exponents).to_be_visible()
    shown = exponents.locator("tbody tr").evaluate_all(
        """(rows) => rows.map((row) => [row.cells[0].textContent,
            ...[...row.querySelectorAll("data")].map((data) => data.value)])"""
    )
    found = table(sweep / "results.csv")
    where = {"scheme": "orthogonal", "gain": 0.5, "forget_bias": 0.0, "length": 200}
    assert [[label, *map(float, numbers)] for label, *numbers in shown] == [
        [label, index, *values]
        for cell, label in (("lstm", "LSTM"), ("gru", "GRU"))
        for index, values in points(found, "lyapunov", cell=cell, **where).items()
    ]
    assert "A table below the readings" in page.locator("#spectrum-plot").get_attribute(
        "aria-label"
    )
    page.get_by_role("button", name="None").click()
    expect(exponents).to_be_hidden()


RANGES = """() => ["gradient-plot", "spectrum-plot"].map((id) => document.getElementById(id).layout)
    .map(({ xaxis, yaxis }) => [...xaxis.range, ...yaxis.range])"""


def enlarge(page, plot):
    box = page.locator(f"{plot} .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.8 * box["height"], steps=4)
    page.mouse.up()


def test_what_is_enlarged_stays_so(sweep, open_page):
    page = open_page(sweep, "#cell=elman&cell=lstm&gain=1&length=200")
    whole = page.evaluate(RANGES)
    enlarge(page, "#gradient-plot")
    enlarge(page, "#spectrum-plot")
    part = page.evaluate(RANGES)
    for before, after in zip(whole, part, strict=True):
        for low, high in ((0, 1), (2, 3)):
            size = before[high] - before[low]
            assert (after[low] - before[low]) / size == pytest.approx(0.2, abs=0.02)
            assert (before[high] - after[high]) / size == pytest.approx(0.3, abs=0.02)
    for name in ("theory", "10–90 % band", "GRU"):
        page.get_by_role("checkbox", name=name).click()
        assert page.evaluate(RANGES) == part
    page.get_by_role("button", name="Dark page").click()
    page.get_by_role("slider", name="Gain").press("ArrowRight")
    assert page.evaluate(RANGES) == part

    page.get_by_role("radio", name="50").check()
    (*lags, _, _), spectrum = page.evaluate(RANGES)
    assert lags == [0, 50]  # another axis
    assert spectrum == part[1]
    enlarge(page, "#gradient-plot")
    for plot in ("#gradient-plot", "#spectrum-plot"):
        page.locator(f"{plot} .nsewdrag").dblclick()
    fresh = open_page(sweep, "#" + page.url.split("#")[1])
    assert page.evaluate(RANGES) == fresh.evaluate(RANGES)


def test_the_theme_is_remembered(sweep, open_page):
    page = open_page(sweep, color_scheme="light")
    dark = page.get_by_role("button", name="Dark page")
    dark.click()
    page.reload()
    expect(page.get_by_role("button", name="Light page")).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("document.getElementById('gradient-plot').layout.font.color") == (
        "rgb(226, 230, 234)"
    )
    refuse = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })"
    page.context.add_init_script(refuse)
    page.reload()
    dark.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


AROUND = """() => {
  window.around = [];
  for (const event of ["beforeprint", "afterprint"]) addEventListener(event, () => {
    const plots = [...document.querySelectorAll(".plot")];
    window.around.push([document.documentElement.dataset.theme,
      plots.every((plot) => Math.round(plot._fullLayout.width) === plot.clientWidth)]); }); }"""


def test_paper_is_light_and_whole(sweep, open_page):
    page = open_page(sweep, "#cell=elman&cell=lstm&cell=gru", color_scheme="light")
    page.get_by_role("button", name="Dark page").click()
    page.evaluate(AROUND)
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.around") == [["light", False], ["dark", True]]

    width = 680  # within the margins of A4, to which a browser would shrink what is wider
    page.set_viewport_size({"width": width, "height": 1000})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [text for ratio, text in page.evaluate(CONTRASTS) if ratio < 4.5] == []
    outside = page.evaluate(
        """(width) => [...document.querySelectorAll("body *")]
          .filter((node) => node.checkVisibility() && !node.closest(".visually-hidden, defs"))
          .filter((node) => node.getBoundingClientRect().right > width)
          .map((node) => node.outerHTML.slice(0, 90))""",
        width,
    )
    assert outside == []
    plots = page.locator(".plot .main-svg:first-child")
    assert [plot.bounding_box()["width"] for plot in plots.all()] == [660, 660]
    sizes = page.locator("#table *").evaluate_all(
        "(nodes) => nodes.map((node) => parseFloat(getComputedStyle(node).fontSize))"
    )
    assert min(sizes) > 10  # 8 pt


def download(page, name):
    with page.expect_download() as found:
        page.get_by_role("button", name=name).first.click()
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def test_downloads_hold_what_is_shown(sweep, open_page):
    page = open_page(
        sweep, "#cell=lstm&cell=gru&cell=lru&init=orthogonal&gain=1.5&bias=1&length=50"
    )
    name, content = download(page, "Shown data as CSV")
    assert name == "shown.csv"
    shown = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert tuple(shown[0]) == COLUMNS
    key = lambda row: tuple(
        row[n] if n in ("cell", "scheme", "quantity") else number(row[n]) for n in COLUMNS
    )
    wanted = [
        row
        for row in table(sweep / "results.csv")
        if row["scheme"] == "orthogonal"
        and row["cell"] in ("lstm", "gru")
        and (row["gain"], row["forget_bias"]) == ("1.5", "1.0")
        and row["length"] == ("200" if row["quantity"] == "lyapunov" else "50")
    ]
    order = lambda row: tuple((value is not None, value) for value in row)
    assert sorted(map(key, shown), key=order) == sorted(map(key, wanted), key=order)

    name, content = download(page, "Figure as SVG")
    assert name == "gradient.svg"
    text = content.decode()
    assert text.startswith("<svg")
    for words in ("LSTM", "GRU", "mean field", "lag T − t (steps)"):
        assert words in text
    assert "LRU" not in text
    name, content = download(page, "Figure as PNG")
    assert name == "gradient.png"
    assert content.startswith(b"\x89PNG")


def test_the_link_is_copied(sweep, open_page):
    page = open_page(sweep, "#cell=lstm", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#copy")).to_have_text("Link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    assert "#cell=lstm&init=orthogonal&gain=1&" in link


def test_hostile_text_is_text(tmp_path, open_page):
    found = [[EVIL if cell == "elman" else cell, *rest] for cell, *rest in rows()]
    found = [
        [*row[:5], row[5].replace("sigma bound", EVIL), *row[6:]]
        for row in found
        if row[0] in (EVIL, "lstm")
    ]
    folder = write_run(tmp_path / "a <b>&'%20#é", found)
    config = {"seeds": 5, EVIL: [EVIL, "</script><script>window.evil=1</script>\u2028\x07\ud800"]}
    (folder / "config.json").write_text(json.dumps(config))
    record = json.loads((folder / "environment.json").read_bytes())
    record |= {"command": ["python", EVIL], "started": EVIL, "cpu": "\x00"}
    (folder / "environment.json").write_text(json.dumps(record))
    explorer.write_page(str(folder), None)
    page = open_page(folder, color_scheme="dark")
    assert page.locator("h1").inner_text() == f"Gradient explorer: {folder.name}"
    assert EVIL in page.locator("#cells").inner_text()
    assert EVIL in page.locator("#legend").inner_text()
    assert EVIL in page.locator("#table").inner_text()
    drawn = {name for name in page.evaluate(DRAWN) if name.startswith(EVIL)}
    assert f"{EVIL} theory: {EVIL}" in drawn
    page.get_by_role("checkbox", name="LSTM").uncheck()
    box = page.locator("#gradient-plot .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 40)
    assert page.locator("#tip").inner_text().count(EVIL) == 2  # the cell and its theory
    asked = urllib.parse.parse_qs(page.url.split("#", 1)[1])
    assert asked["cell"] == [EVIL]
    _, content = download(page, "Figure as SVG")
    texts = [html.unescape(text) for text in ET.fromstring(content).itertext()]
    assert html.unescape(EVIL) in texts  # plotly.js 3.0 itself reads entities once more
    page.get_by_text("Configuration", exact=True).click()
    assert page.evaluate("window.evil") is None
    assert page.evaluate("document.scripts.length") == 3


@pytest.mark.slow
@pytest.mark.usefixtures("plain_jax")
def test_what_the_sweep_writes_is_what_is_read(finished, tmp_path, open_page):
    from experiments import sweep

    assert explorer.COLUMNS == sweep.COLUMNS
    folder, _ = finished("sweep")
    explorer.write_page(str(folder), str(tmp_path / "explorer.html"))
    page = open_page(tmp_path)
    found = table(folder / "results.csv")
    drawn = page.evaluate(DRAWN)
    shown = dict(page.evaluate(SHOWN))
    assert [*shown] == ["elman", "lstm"]
    where = {"scheme": "orthogonal", "gain": 0.5, "length": 60}
    for cell, bias in (("elman", None), ("lstm", 0.0)):
        of_cell = where | {"cell": cell, "forget_bias": bias}
        assert drawn[f"{cell} gradient"] == curve(points(found, "gradient", **of_cell))
        (slope,) = points(found, "slope", **of_cell).values()
        assert float(shown[cell][1][0]) == slope[0]
        assert len(drawn[f"{cell} lyapunov"][0]) == 4
    page.get_by_role("radio", name="own paper").check()
    page.get_by_role("button", name="All cells").click()
    assert [cell for cell, _ in page.evaluate(SHOWN)] == ["elman", "lstm", "gru"]
    expect(page.locator("#missing")).to_be_hidden()
