"""A run directory as one HTML file, which needs no other file and no network.

    python -m experiments.report --workdir=runs/NAME [--output=FILE.html]

It shows summary, figures, results, configuration and environment, and is made from the files of the
run alone: nothing is computed again, no experiment is loaded, and the same files give the same
bytes. Whatever comes from them is text, never markup. What a run that is not finished has already
is shown too, and that it is not finished.
"""

import base64
import dataclasses
import html
import io
import itertools
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from experiments import pages
from experiments.rundir import SOURCES, read_json, write_file

__all__ = ["Figure", "Run", "Summary", "Table", "page", "read_run", "read_summary", "write_page"]

LARGEST_TABLE = 5000
"""Cells of results.csv up to which all of them are shown; of a larger one, its columns are."""
LARGEST_SVG = 500_000
"""Bytes up to which a figure is shown as SVG, which is sharp at any size; beyond, as PNG, if that
is smaller."""
_LISTED = 8  # different values of a column up to which they are all named
_PIXELS = 96 / 160  # of CSS, in one of a PNG figure


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts, of which those of numeric columns are numbers."""

    columns: Sequence[tuple[str, bool]]
    """The name of each, and whether it is numeric."""
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What summary.md holds."""

    title: str
    table: Table
    notes: Sequence[str]
    figures: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture that stands in the page itself."""

    name: str
    data: str
    """Its bytes as an address."""
    alt: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Run:
    """What is read from a run directory."""

    path: Path
    name: str
    experiment: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any] | None
    sources: Mapping[str, Any]
    units: Sequence[str]
    """Those that are finished."""
    summary: Summary | None
    """None as long as the run is not finished."""
    figures: Sequence[Figure] = ()
    results: Table | None = None


def write_page(workdir: str, output: str | None) -> None:
    """Writes the page of a run, whole or not at all; nothing else in its directory changes.

    Args:
      workdir: the run directory.
      output: the file to write, whose name ends in .html; None for report.html in `workdir`.

    Raises:
      UserError: there is no such run, it is damaged, or the file cannot be written.
    """
    target = pages.target(workdir, output, "report.html")
    run = read_run(Path(workdir))
    # Text that is no Unicode (half a surrogate pair, in JSON) is shown as its escape.
    write_file(target, page(run, target.parent).encode(errors="backslashreplace"))
    unfinished = "" if run.summary else f" (unfinished: {_progress(run)})"
    print(f"Report: {target}{unfinished}")


# ----- reading ------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    """Everything that a page shows.

    Raises:
      UserError: `path` is no run directory, or one of its files is missing, damaged or unreadable.
    """
    names = pages.listed(path)
    environment = pages.read_environment(path)
    summary = read_summary(path / "summary.md") if "summary.md" in names else None
    title = summary.title if summary else "run"
    return Run(
        path=path,
        name=path.resolve().name,
        experiment=str((environment or {}).get("experiment", title)),
        config=read_json(path / "config.json"),
        environment=environment,
        sources=read_json(path / SOURCES) or {},
        units=sorted(unit.stem for unit in (path / "units").glob("[!.]*.npz")),
        summary=summary,
        figures=[_figure(path / "figures", name) for name in summary.figures] if summary else (),
        results=_results(path / "results.csv") if summary else None,
    )


def read_summary(path: Path) -> Summary:
    """Reads what `write_report` has written.

    Blocks alone are Markdown here. What stands in them is as the experiment wrote it: stars,
    brackets and angle brackets are themselves.
    """
    from markdown_it import MarkdownIt

    try:
        text = pages.content(path).decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise pages.damaged(path) from None
    lines = text.split("\n")
    title = ""
    rows: list[list[str]] = []
    notes: list[str] = []
    figures: list[str] = []
    blocks = MarkdownIt("zero").enable(["heading", "table", "list"]).parse(text)
    for outer, block in itertools.pairwise(blocks):
        if outer.type == "heading_open" and outer.level == 0:
            title = title or block.content
        elif outer.type == "tr_open":
            rows.append([])
        elif outer.type in ("th_open", "td_open"):
            rows[-1].append(block.content)
        elif outer.type == "paragraph_open" and outer.level == 0:
            picture = re.fullmatch(r"!\[.*\]\(figures/([^/]+)\.png\)", block.content)
            figures += [picture[1]] if picture else []
        elif outer.type == "list_item_open" and outer.level == 1 and outer.map:
            first, *others = lines[slice(*outer.map)]
            note = [first.removeprefix("- "), *(line.removeprefix("  ") for line in others)]
            notes.append("\n".join(note).strip())
    if not title or not text.endswith("\n"):
        raise pages.damaged(path)
    header, *body = rows or [[]]
    return Summary(title, _table(header, body), notes, figures)


def _results(path: Path) -> Table:
    header, *rows = pages.read_csv(path)
    return _table(header, rows)


def _figure(folder: Path, name: str) -> Figure:
    """A figure, in whichever of its two forms fits better; both must be whole."""
    from PIL import Image

    svg, png = (pages.content(folder / f"{name}.{kind}") for kind in ("svg", "png"))
    kind, data = "svg+xml", svg
    if len(svg) > max(LARGEST_SVG, len(png)):
        kind, data = "png", png
    try:
        words = _words(svg)
    except ET.ParseError:
        raise pages.damaged(folder / f"{name}.svg") from None
    try:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            width, height = image.size
    except Exception:  # whatever is wrong with the bytes
        raise pages.damaged(folder / f"{name}.png") from None
    return Figure(
        name=name,
        # A picture by its address can neither run scripts, nor load anything, nor share names.
        data=f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
        alt=f"Figure {name}" + (f", with the words: {'; '.join(words)}" if words else ""),
        width=round(width * _PIXELS),
        height=round(height * _PIXELS),
    )


def _words(svg: bytes) -> list[str]:
    """The titles, labels and legends of a figure by matplotlib, which notes in a comment what each
    text says that it draws as curves. Numbers along axes are left out."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    comments = ET.fromstring(svg, parser).iter(ET.Comment)  # type: ignore[arg-type]
    # matplotlib escapes what a comment could well hold.
    texts = [" ".join(html.unescape(comment.text or "").split()) for comment in comments]
    spoken = [text for text in texts if re.search(r"[^\W\d_]", text.replace(r"\mathdefault", ""))]
    return list(dict.fromkeys(spoken))


# ----- writing ------------------------------------------------------------------------------------


def page(run: Run, folder: Path) -> str:
    """The HTML of a page that is to stand in `folder`."""
    recorded = dict(run.environment or {})
    starts, command = recorded.pop("starts", []), recorded.pop("command", [])
    return pages.render(
        "report",
        filters={"rounded": _rounded},
        run=run,
        facts=[_progress(run), *pages.facts(run.environment)],
        progress=_progress(run),
        results=None if run.results is None else _shown(run.results),
        config=pages.fields(run.config, "config."),
        command=pages.command(command),
        environment=pages.fields(recorded),
        starts=[pages.fields(start) for start in starts],
        sources=pages.fields(run.sources),
        files=_files(run, folder),
    )


def _progress(run: Run) -> str:
    """How many units are finished, of how many where a start has noted that."""
    recorded = run.environment or {}
    starts = [*reversed(recorded.get("starts", [])), recorded]
    counts = [start["units"] for start in starts if "units" in start]
    return f"{len(run.units)} of {counts[0]} units" if counts else f"{len(run.units)} units"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    return Table([(name, _numeric(c)) for name, c in zip(header, columns, strict=True)], rows)


def _shown(table: Table) -> dict[str, Any]:
    """The whole table if it is small, else what each of its columns holds."""
    height, width = len(table.rows), len(table.columns)
    size = f"{_grouped(height)} rows and {width} columns"
    if height * width <= LARGEST_TABLE:
        caption = f"All of results.csv, {size}; numbers are rounded to six digits"
        return {"whole": table, "overview": None, "caption": caption}
    names = [name for name, _ in table.columns]
    columns = zip(*table.rows, strict=True)
    rows = [(name, *_overview(column)) for name, column in zip(names, columns, strict=True)]
    caption = f"The columns of results.csv, which has {size}: too many for a page"
    overview = _table(["Column", "Different values", "Values"], rows)
    return {"whole": None, "overview": overview, "caption": caption}


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _overview(values: Sequence[str]) -> tuple[str, str]:
    """How many different values there are, and which: all of few, the range of many numbers."""
    different = list(dict.fromkeys(values))
    if len(different) <= _LISTED:
        listed = ", ".join(map(_rounded, different))
    elif _numeric(different):
        numbers = [x for x in map(_number, different) if x is not None and x == x]
        listed = f"{min(numbers):.6g} to {max(numbers):.6g}"
    else:
        listed = f"{', '.join(different[:_LISTED])}, ..."
    return str(len(different)), listed


def _numeric(texts: Iterable[str]) -> bool:
    """Whether there are numbers, and nothing else but gaps."""
    given = [_number(text) for text in texts if text != ""]
    return bool(given) and None not in given and any(x == x for x in given)


def _number(text: str) -> float | None:
    """The number that a text is, None if it is something else."""
    try:
        return float(text) if re.fullmatch(r"[-+.\deinfa]+", text, re.ASCII) else None
    except ValueError:
        return None


def _rounded(text: str) -> str:
    """A number of more than six digits with six, unless it is an integer; else the text as it is.

    >>> [_rounded(text) for text in ("0.123456789", "123456789", "1.50", "lstm")]
    ['0.123457', '123456789', '1.50', 'lstm']
    """
    number = _number(text)
    if number is None or not re.search("[.e]", text) or number == float(f"{number:.6g}"):
        return text
    return f"{number:.6g}"


def _files(run: Run, folder: Path) -> list[dict[str, str]]:
    """Links to what the run has written, with sizes, relative to `folder`."""
    names = ["summary.md", "results.csv", "arrays.npz"]
    names += [f"figures/{f.name}.{kind}" for f in run.figures for kind in ("png", "svg")]
    names += ["config.json", "environment.json", SOURCES]
    base, origin = run.path.resolve(), folder.resolve()
    found = []
    for name in names:
        if (base / name).is_file():
            found.append((name, (base / name).stat().st_size))
    sizes = [(base / "units" / f"{unit}.npz").stat().st_size for unit in run.units]
    if sizes:
        found.append(("units/", sum(sizes)))
    return [
        {
            "name": name if name != "units/" else f"units/ ({len(sizes)} files)",
            "link": quote(os.fsencode(os.path.relpath(base / name, origin))),
            "bytes": _grouped(size),
        }
        for name, size in found
    ]


if __name__ == "__main__":
    from experiments import launch

    launch.main(launch.Command("report", write_page, flags=("workdir", "output"), uses_jax=False))
