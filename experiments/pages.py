"""What the HTML pages of runs have in common: none needs another file or the network.

Each has a template, a style and a script of its own in `templates`, after the style of all. What
comes from the files of a run is text, never markup.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.rundir import CHECKOUT, UserError, flatten, read_json

TEMPLATES = CHECKOUT / "experiments" / "templates"


# ----- reading ------------------------------------------------------------------------------------


def target(workdir: str, output: str | None, name: str) -> Path:
    """The file to write: `output`, by default `name` in the run directory.

    Raises:
      UserError: `output` is no page, or there is no directory for it.
    """
    found = Path(workdir, name) if output is None else Path(output)
    if found.suffix != ".html":  # nothing that a run has written can be overwritten
        raise UserError(f"--output={output}: expected the name of a file that ends in .html")
    if not found.parent.is_dir() and output is not None:
        raise UserError(f"--output={output}: there is no directory {found.parent}")
    return found


def listed(path: Path) -> list[str]:
    """The names in a run directory.

    Raises:
      UserError: `path` is none.
    """
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        raise UserError(f"--workdir={path}: there is no such directory") from None
    except OSError as error:
        raise UserError(f"--workdir={path}: not a usable directory: {error.strerror}") from error
    if "config.json" not in names:
        raise UserError(f"--workdir={path}: not a run directory (no config.json)")
    return names


def read_environment(path: Path) -> dict[str, Any] | None:
    """What the starts of the run in the directory `path` noted, None if they did not."""
    environment: dict[str, Any] | None = read_json(path / "environment.json")
    starts = [] if environment is None else environment.get("starts")
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise UserError(
            f"{path / 'environment.json'}: damaged, has no list of starts; delete it, results stay"
        )
    return environment


def read_csv(path: Path) -> list[list[str]]:
    """The header and the rows of a table, whole and equally long."""
    try:
        text = content(path).decode()
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise damaged(path) from None
    if not text.endswith("\n") or len({len(row) for row in rows}) != 1:
        raise damaged(path)
    return rows


def content(path: Path) -> bytes:
    """The bytes of a file that the report of an experiment has written."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise damaged(path, "missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def damaged(path: Path, how: str = "damaged") -> UserError:
    """The error to raise, which says how to get the file back."""
    return UserError(f"{path}: {how}; the command of the run with --plot_only writes it anew")


# ----- writing ------------------------------------------------------------------------------------


def render(
    name: str,
    *,
    library: str = "",
    images: str = "data:",
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """The HTML of a page by the template, style and script called `name`.

    The template gets `policy`, by which browsers run and load nothing but what is named here,
    `style`, `script`, and `library`, a script of others that runs before.
    """
    import jinja2
    from markupsafe import Markup

    base, own, script = (
        (TEMPLATES / file).read_text("utf-8") for file in ("base.css", f"{name}.css", f"{name}.js")
    )
    style = base + own
    # A library sets styles of its own, which can load nothing either.
    styles = "'unsafe-inline'" if library else _hashes(style)
    scripts = _hashes(library, script) if library else _hashes(script)
    policy = (
        f"default-src 'none'; img-src {images}; style-src {styles}; script-src {scripts};"
        " base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    environment.filters.update(filters or {})
    return environment.get_template(f"{name}.html").render(
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        library=Markup(library),
        **values,
    )


def _hashes(*texts: str) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)


def _printable(value: Any) -> Any:
    """Text of a run without what HTML cannot hold: control characters. Markup is our own."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", value)
    return value


def facts(environment: Mapping[str, Any] | None) -> list[str]:
    """What a reader asks first of how a run was made."""
    recorded = environment or {}
    git, versions = recorded.get("git"), recorded.get("versions")
    found = []
    if "started" in recorded:
        found.append(f"begun {recorded['started']}")
    if isinstance(git, dict) and "revision" in git:
        changed = " with changes" if git.get("dirty") else ""
        found.append(f"revision {str(git['revision'])[:10]}{changed}")
    if isinstance(versions, dict) and "jax" in versions:
        found.append(f"jax {versions['jax']}")
    return found


def command(words: Any) -> str:
    """The command as a shell takes it, a flag a line, with `python` for whichever it was."""
    if not isinstance(words, list):
        return _dump(words)
    texts = [str(word) for word in words[1:]]
    breaks = (" \\\n    " if text.startswith("--") else " " for text in texts)
    flags = "".join(gap + shlex.quote(text) for gap, text in zip(breaks, texts, strict=True))
    return f"python{flags}" if words else ""


def fields(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted names and values, as JSON."""
    found: dict[str, str] = {}
    for name in sorted(tree):
        found |= flatten(tree[name], f"{prefix}{name}", _dump)
    return list(found.items())


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
