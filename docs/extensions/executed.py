"""Every Python block of every page is run when the site is built; an error fails the build."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pages import ROOT, PageError, Shown, run, with_results
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError

FIGURES = "generated/figures"


class Broken(SphinxError):
    category = "Page"


class Pages:
    """The pages that are running, one on each core."""

    def __init__(self) -> None:
        self.running: dict[str, Future[list[Shown]]] = {}

    def begin(self, app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
        """Starts the pages that are to be read, before the first of them is."""
        figures = Path(app.srcdir, FIGURES)
        figures.mkdir(parents=True, exist_ok=True)
        pool = ThreadPoolExecutor(os.cpu_count())
        pages = {name: Path(env.doc2path(name)) for name in docnames}
        self.running = {
            name: pool.submit(run, page, figures)
            for name, page in pages.items()
            if page.suffix == ".md"
        }

    def insert(self, app: Sphinx, docname: str, source: list[str]) -> None:
        """Waits for a page, and puts its results into what is about to be parsed."""
        if docname not in self.running:
            return
        try:
            results = self.running[docname].result()
        except PageError as error:
            for page in self.running.values():
                page.cancel()
            raise Broken(str(error)) from error
        if results:
            source[0] = with_results(source[0], results, f"/{FIGURES}")
            for file in Path(ROOT, "rnn_jax").rglob("*.py"):
                app.env.note_dependency(str(file))


def setup(app: Sphinx) -> dict[str, bool]:
    pages = Pages()
    app.connect("env-before-read-docs", pages.begin)
    app.connect("source-read", pages.insert)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
