"""Runs the Python blocks of a page, and writes below each what it printed and drew.

The blocks run from top to bottom in an interpreter and an empty folder of their own, so that
whoever copies them has all it takes. In a comment right before a block, which no reader sees, a
page can ask for two other things:

    <!-- save as star_cell.py -->     the block is a file beside the others, not a part of them
    <!-- not run: takes an hour -->   the block is shown only

Pages stay plain Markdown, which reads well where nothing is executed.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"(?:<!-- (?P<ask>[^>]*) -->\n+)?^```python\n(?P<code>.*?)^```\n", re.M | re.S)
ASK = re.compile(r"(?:save as (?P<file>\w+\.py)|(?P<shown>not run): .+)?")
ROOT = Path(__file__).parents[2]
LIMIT = 600
"""Seconds for one page, after which something hangs."""


class Shown(NamedTuple):
    """What one block printed, and the names of the files of its figures."""

    printed: str
    figures: Sequence[str]


class PageError(Exception):
    """A page that cannot be run."""


def run(page: Path, figures: Path) -> list[Shown]:
    """What each block of a page shows, in their order; figures go to a folder.

    Raises:
      PageError: with the traceback, which names the line of the page; for a comment before a block
        that asks for something else; after ten minutes.
    """
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in BLOCK.finditer(text):
        asked = ASK.fullmatch(found["ask"] or "")
        if asked is None:
            raise PageError(f"{page}: unknown wish before a block: {found['ask']!r}")
        line = text.count("\n", 0, found.start("code"))
        blocks.append({**asked.groupdict(), "code": "\n" * line + found["code"]})
    if not blocks:
        return []
    with tempfile.TemporaryDirectory() as folder:
        job = {"page": str(page), "figures": str(figures.resolve()), "blocks": blocks}
        Path(folder, "job.json").write_text(json.dumps(job))
        try:
            ended = subprocess.run(
                [sys.executable, __file__, "job.json"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise PageError(f"{page} takes longer than {LIMIT} s") from None
        if ended.returncode:
            raise PageError(f"{page} does not run:\n{ended.stderr}")
        return [Shown(**shown) for shown in json.loads(Path(folder, "shown.json").read_text())]


def with_results(text: str, results: Sequence[Shown], figures: str) -> str:
    """The page with the results of its blocks below them; ``figures`` is their folder."""
    each = iter(results)

    def below(found: re.Match[str]) -> str:
        printed, names = next(each)
        parts = [found[0]]
        if printed:
            parts.append(f"``````{{code-block}} text\n:class: printed\n\n{printed}``````\n")
        parts += [f"![What the code above draws]({figures}/{name})\n" for name in names]
        return "\n".join(parts)

    return BLOCK.sub(below, text)


def run_here(job: str) -> None:
    """Runs the blocks in this process, which has nothing of Sphinx in it."""
    page, figures, blocks = json.loads(Path(job).read_text()).values()
    sys.path[0] = ""  # that of this file
    names = {"__name__": "__main__"}
    shown = []
    for number, block in enumerate(blocks):
        printed = io.StringIO()
        if block["file"]:
            Path(block["file"]).write_text(block["code"].lstrip("\n"))
        elif not block["shown"]:
            with contextlib.redirect_stdout(printed):
                exec(compile(block["code"], page, "exec"), names)
        drawn = _draw(Path(figures), f"{Path(page).stem}-{number}")
        shown.append({"printed": printed.getvalue(), "figures": drawn})
    Path("shown.json").write_text(json.dumps(shown))


def _draw(folder: Path, stem: str) -> list[str]:
    """Saves all open figures and closes them; their file names."""
    if "matplotlib.pyplot" not in sys.modules:
        return []
    import matplotlib.pyplot as plt

    names = []
    for number in plt.get_fignums():
        names.append(f"{stem}-{number}.svg")
        plt.figure(number).savefig(folder / names[-1], bbox_inches="tight")
    plt.close("all")
    return names


if __name__ == "__main__":
    run_here(sys.argv[1])
