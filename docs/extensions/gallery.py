"""The gallery: its pictures below the table of experiments; below each of its pages the other
figures of its run, what the run said and what made it; and the explorer of the kept sweep.
"""

import json
import multiprocessing
import os
import shlex
import shutil
import tempfile
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from experiments.explorer import write_page
from experiments.gallery import ENTRIES, SAVED, draw, load
from experiments.sweep import EXPERIMENT

FIGURES = "generated/gallery"
EXPLORER = "explorer.html"


class Gallery:
    """The figures that are being drawn, in processes beside that of the site."""

    def __init__(self) -> None:
        self.drawing: dict[str, Future[list[str]]] = {}

    def begin(self, app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
        names = [name.removeprefix("gallery/") for name in docnames if name.startswith("gallery/")]
        if not names:
            return
        folder = Path(app.srcdir, FIGURES)
        folder.mkdir(parents=True, exist_ok=True)
        pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
        self.drawing = {name: pool.submit(drawn, name, folder) for name in names}
        pool.shutdown(wait=False)

    def append(self, app: Sphinx, docname: str, source: list[str]) -> None:
        name = docname.removeprefix("gallery/")
        if docname == "experiments":
            source[0] = source[0].replace("<!-- gallery -->", cards())
        elif name in self.drawing:
            figures = self.drawing.pop(name).result()
            source[0] += "\n" + told(name, [f"/{FIGURES}/{file}" for file in figures])
            for file in (SAVED / name).rglob("*"):
                app.env.note_dependency(str(file))


def write_explorer(app: Sphinx, error: Exception | None) -> None:
    """The page that the explorer makes of the kept sweep, beside those of the site."""
    if error or app.builder.format != "html":
        return
    config, results = load("sweep")
    table = EXPERIMENT.report(config, results).table
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "sweep")  # the page's title
        run.mkdir()
        for file in ("config.json", "environment.json"):
            shutil.copy(SAVED / "sweep" / file, run)
        table.to_csv(run / "results.csv", index=False)
        write_page(str(run), str(Path(app.outdir, EXPLORER)))


def drawn(name: str, folder: Path) -> list[str]:
    """Draws all figures of an entry but the one that the page shows itself; their files."""
    files = []
    for title, png in draw(name).items():
        if title != ENTRIES[name].figure:
            files.append(f"{name}-{title}.png")
            Path(folder, files[-1]).write_bytes(png)
    return files


def cards() -> str:
    """Markdown of a picture and a name for every entry, both of which lead to its page."""
    links = [f"[![](figures/{name}.png) {name}](gallery/{name}.md)" for name in ENTRIES]
    return "\n\n".join([":::{container} cards", *links, ":::"])


def told(name: str, figures: list[str]) -> str:
    """Markdown of what the kept run says of itself."""
    summary = (SAVED / name / "summary.md").read_text()
    made = json.loads((SAVED / name / "environment.json").read_text())
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    facts = {
        "command": f"`{shlex.join(made['command'])}`",
        "revision": f"`{made['git']['revision']}`",
        "started": made["started"],
        "machine": f"{made['cpu_count']} cores of {made['cpu']}",
        "versions": f"Python {made['python']}, {versions}",
    }
    explorer = f'<a href="../{EXPLORER}">The explorer of this run</a>' if name == "sweep" else ""
    pictures = [f"![Figure {Path(file).stem}]({file})" for file in figures]
    return "\n\n".join(
        [
            explorer,
            *(["## The other figures of the run", *pictures] if pictures else []),
            "## What it said",
            summary[summary.index("\n") : summary.index("![")].strip(),
            "## What made it",
            "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in facts.items())]),
        ]
    )


def setup(app: Sphinx) -> dict[str, bool]:
    gallery = Gallery()
    app.connect("env-before-read-docs", gallery.begin)
    app.connect("source-read", gallery.append)
    app.connect("build-finished", write_explorer)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
