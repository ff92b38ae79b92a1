"""What a run says: in the terminal, in its summary, table and figures."""

import contextlib
import io
import itertools
import os
import pty
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
import toy_experiment
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from toy_experiment import GOOD, command

from experiments import figures
from experiments.results import Report, show_report, write_report
from experiments.rundir import RunDir

home = toy_experiment.home

TABLE = pd.DataFrame({"x": [1, 2], "y": [0.1, -np.inf]})
SUMMARY = pd.DataFrame(
    {"cell": ["[bold]a[/bold]", "b"], "slope": [np.float32(-0.123456), 1e-9], "n": [3, 40000]}
)
MARKDOWN = """\
| cell           | slope   | n     |
|----------------|---------|-------|
| [bold]a[/bold] | -0.1235 | 3     |
| b              | 1e-09   | 40000 |
"""


def line(colour):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2], color=colour)
    return figure


@pytest.fixture
def rundir(tmp_path):
    return RunDir(tmp_path)


def test_files_hold_what_was_reported(rundir):
    figures = {"red": lambda: line("red"), "blue": lambda: line("blue")}
    said = Report(TABLE, SUMMARY, figures, ["One.", "Two."])
    results = {"b": {"x": np.arange(3)}, "a": {"x": np.ones((2, 2)), "y": np.float32(7)}}
    write_report(rundir, "toy", said, results)

    assert (rundir.path / "results.csv").read_bytes() == b"x,y\n1,0.1\n2,-inf\n"
    pd.testing.assert_frame_equal(pd.read_csv(rundir.path / "results.csv"), TABLE)
    with np.load(rundir.path / "arrays.npz") as arrays:
        assert arrays.files == ["b/x", "a/x", "a/y"]
        assert_array_equal(arrays["b/x"], np.arange(3), strict=True)
        assert_array_equal(arrays["a/y"], np.float32(7), strict=True)
    pictures = "![red](figures/red.png)\n\n![blue](figures/blue.png)\n"
    assert (rundir.path / "summary.md").read_text() == (
        f"# toy\n\n{MARKDOWN}\n- One.\n- Two.\n\n{pictures}"
    )
    names = {path.name for path in (rundir.path / "figures").iterdir()}
    assert names == {"red.png", "red.svg", "blue.png", "blue.svg"}
    png = (rundir.path / "figures/red.png").read_bytes()
    width, height = np.frombuffer(png[16:24], ">u4")  # of the IHDR chunk, which comes first
    assert (width, height) == (2 * 160, 1 * 160)
    assert png != (rundir.path / "figures/blue.png").read_bytes()


def test_summary_without_notes_and_figures(rundir):
    write_report(rundir, "toy", Report(TABLE, SUMMARY, {}), {})
    assert (rundir.path / "summary.md").read_text() == f"# toy\n\n{MARKDOWN}"


def test_one_figure_is_drawn_at_a_time(rundir):
    folder = rundir.path / "figures"

    def second():
        assert {path.name for path in folder.iterdir()} == {"first.png", "first.svg"}
        return line("blue")

    figures = {"first": lambda: line("red"), "second": second}
    write_report(rundir, "toy", Report(TABLE, SUMMARY, figures), {})
    assert len(list(folder.iterdir())) == 4


def test_pipe_gets_the_plain_table(capsys):
    show_report(Report(TABLE, SUMMARY, {}, ["A note [in brackets]."]))
    assert capsys.readouterr().out == f"{MARKDOWN}A note [in brackets].\n"


def test_terminal_shows_a_bar_and_a_table(home):
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "120", "TOY_SECONDS": "0.5"}
    with subprocess.Popen(command(*GOOD), stdout=theirs, stderr=subprocess.PIPE, env=env) as child:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a pty says that the other end is closed
            while chunk := os.read(ours, 4096):
                shown += chunk
        assert (child.wait(), child.stderr.read()) == (0, b"")
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    for pattern in (r"1/3 .*elapsed, .*left, walk-1", r"3/3 ━+ 0:00:0", r"┃ unit +┃", r"note \[in"):
        assert re.search(pattern, text)
    assert "[1/3]" not in text


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        # TeX is as wide as it is drawn, not as it is written.
        ([r"$\partial c_T/\partial c_t$"] * 4, [1, 1, 1, 1]),
        # One long label takes no room from short ones.
        (["network", "direct path", "without any of its recurrent kernels"], [1, 1, 1]),
        # Rows of one length, not three and a rest of one.
        (["a label of which three fit in a row"] * 4, [2, 2]),
    ],
)
def test_legends_are_as_wide_as_the_figure(labels, columns):
    def draw():
        figure, axes = figures.panels(1, title="")
        keys = [figures.key(f"{name}{'.' * i}") for i, name in enumerate(labels)]
        figures.common_legend(figure, axes, columns=4, extra=keys)
        return figure

    figure = figures.styled(draw)()
    figure.savefig(io.BytesIO(), dpi=figure.dpi)  # lays everything out
    (legend,) = figure.legends
    lefts = [round(text.get_window_extent().x0) for text in legend.get_texts()]
    assert [lefts.count(left) for left in sorted(set(lefts))] == columns
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    "values",
    [(0.5, 0.5, 0.503), (0.503, 0.5, 0.9, 0.5), (0.0, 1.0), (0.3,), (1.0, 0.99, 0.98, 0.97, 0.0)],
)
def test_names_of_close_levels_stand_below_each_other(values):
    def draw():
        figure, (axes,) = figures.panels(1, title="")
        axes.plot([0, 1], [0.5, 1.0])
        figures.levels(axes, {f"baseline {n}": value for n, value in enumerate(values)})
        return figure

    figure = figures.styled(draw)()
    figure.savefig(io.BytesIO(), dpi=figure.dpi)  # lays everything out
    (axes,) = figure.axes
    assert [line.get_ydata()[0] for line in axes.lines[1:]] == [*values]
    names = sorted(axes.texts, key=lambda text: text.get_window_extent().y0)
    boxes = [text.get_window_extent() for text in names]
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
    shown = [float(text.get_text().split()[-1]) for text in names]
    assert shown == sorted(values)
    assert figure.bbox.x0 <= min(box.x0 for box in boxes)
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_names_of_distant_levels_stay_where_they_are():
    values = np.array([3.0, 1.0, 1.5, 0.0])
    np.testing.assert_array_equal(figures.apart(values, 0.5), values)
    np.testing.assert_allclose(figures.apart(values, 1.0), [3, 5 / 6, 11 / 6, -1 / 6])
