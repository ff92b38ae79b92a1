"""What an experiment says, written to its run directory and shown in the terminal."""

import dataclasses
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.rundir import Arrays, RunDir, npz_bytes, write_file

if TYPE_CHECKING:  # imported where used: a bad flag is answered before these have loaded
    import pandas as pd  # type: ignore[import-untyped]
    from matplotlib.figure import Figure
    from rich.table import Table


Results = Mapping[str, Arrays]
"""The arrays of all units by name."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What an experiment says, computed from saved results only."""

    table: "pd.DataFrame"
    """Every number, tidy and long: results.csv."""
    summary: "pd.DataFrame"
    """What a person reads at the end: the terminal and summary.md."""
    figures: Mapping[str, Callable[[], "Figure"]]
    """Each drawn when its turn comes, so that one is in memory at a time."""
    notes: Sequence[str] = ()
    """Lines under the summary."""


def write_report(rundir: RunDir, name: str, report: Report, results: Results) -> None:
    """Writes the final files; the same results give the same bytes."""
    path = rundir.path
    csv = report.table.to_csv(index=False, lineterminator="\n")
    write_file(path / "results.csv", csv.encode())
    arrays = {f"{unit}/{key}": value for unit in results for key, value in results[unit].items()}
    write_file(path / "arrays.npz", npz_bytes(arrays))
    for title, draw in report.figures.items():
        figure = draw()
        for kind in ("png", "svg"):
            write_file(path / "figures" / f"{title}.{kind}", figure_bytes(title, figure, kind))
    parts = [f"# {name}", _markdown(report.summary)]
    # Further lines of a note are indented, else they would begin something else.
    lines = ["- " + note.replace("\n", "\n  ") for note in report.notes]
    parts += ["\n".join(lines)] if lines else []
    parts += [f"![{title}](figures/{title}.png)" for title in report.figures]
    write_file(path / "summary.md", ("\n\n".join(parts) + "\n").encode())


def figure_bytes(title: str, figure: "Figure", kind: str) -> bytes:
    """The file of a figure, "png" or "svg": the same figure gives the same bytes."""
    import matplotlib

    matplotlib.use("agg")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):  # else its ids are random
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _table(frame: "pd.DataFrame", written: Callable[[str], str] = str, **options: Any) -> "Table":
    """A table as `rich` draws it, each text as `written`; `options` are those of its `Table`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(**options)
    for name in frame.columns:
        table.add_column(Text(written(str(name))))  # Text: square brackets are no markup
    for row in frame.itertuples(index=False):
        cells = [f"{x:.4g}" if isinstance(x, float | np.floating) else str(x) for x in row]
        table.add_row(*(Text(written(cell)) for cell in cells))
    return table


def _one_cell(text: str) -> str:
    """What stays a single cell of a Markdown table."""
    return " ".join(text.splitlines()).replace("|", r"\|")


def _markdown(frame: "pd.DataFrame") -> str:
    """A table that reads well as Markdown and as plain text."""
    from rich.box import MARKDOWN
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=10**9).print(_table(frame, _one_cell, box=MARKDOWN))
    return buffer.getvalue().strip()


def show_report(report: Report) -> None:
    """Prints the summary and the notes."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(markup=False, highlight=False)  # in a note, brackets are brackets
        console.print(_table(report.summary), *report.notes, sep="\n")
    else:
        print(_markdown(report.summary), *report.notes, sep="\n")
