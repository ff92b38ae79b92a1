"""What the docstrings leave to the reader's eye, said to Sphinx."""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

EQUATION = re.compile(r"\S.* (=|<=|>=|~) \S")
SECTION = re.compile(r"\w+:$")
MARKED = re.compile(r"\s|>>>|\.\.|[*-] |==")
CODE = re.compile(r"(`+[^`]+`+)")


def plain(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Equations, which stand in paragraphs of their own, keep their lines; a bar is a bar."""
    paragraphs = re.split(r"\n\n+", "\n".join(lines))
    summary, *rest = paragraphs
    shown = [_escaped(summary), *(_paragraph(text) for text in rest)]
    lines[:] = [*"\n\n".join(shown).split("\n"), ""]


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if text.lstrip().startswith(">>>"):
        return text
    if not MARKED.match(text) and not SECTION.match(lines[0]):
        shifted = any(line.startswith("  ") for line in lines)
        equations = all(map(EQUATION.search, lines)) and not text.endswith(".")
        if shifted or equations:
            return "::\n\n" + "\n".join(f"    {line}" for line in lines)
    return _escaped(text)


def _escaped(text: str) -> str:
    """Without it |a| would be a substitution."""
    parts = CODE.split(text)
    return "".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(parts))


def skip_fields(
    app: Sphinx, kind: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """The fields of a NamedTuple are told by the docstring of its class."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def find_from_package(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """`schemes.orthogonal` is meant from the package, in whatever module it is written."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.startswith("rnn_jax."):
        return None
    domain = env.domains["py"]
    for prefix in ("rnn_jax.", "rnn_jax.base.", "rnn_jax.cells."):
        found = domain.resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], prefix + target, node, content
        )
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    # Before napoleon, which comes at 500 and turns sections into fields.
    app.connect("autodoc-process-docstring", plain, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", find_from_package)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
