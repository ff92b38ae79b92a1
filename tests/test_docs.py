"""The site: what runs its pages, and that it leaves nothing public out."""

import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import rnn_jax
from rnn_jax import analysis, theory

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "extensions")
    import pages

    yield pages
    sys.modules.pop("pages", None)


PAGE = """# A page

```python
print("one")
two = 2
```

Words, and a file:

<!-- save as mine.py -->

```python
three = 3
```

<!-- not run: it would fail -->

```python
1 / 0
```

```python
import matplotlib.pyplot as plt
from mine import three
print(two + three)
plt.plot([1, 2])
```
"""


def test_blocks_share_a_namespace_and_what_they_show_stands_below_them(pages, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    results = pages.run(page, tmp_path)
    assert [shown.printed for shown in results] == ["one\n", "", "", "5\n"]
    assert [list(shown.figures) for shown in results] == [[], [], [], ["page-3-1.svg"]]
    assert (tmp_path / "page-3-1.svg").read_text().endswith("</svg>\n")
    lines = pages.with_results(PAGE, results, "/figures").splitlines()
    assert lines[lines.index("one") - 4 : lines.index("one") + 2] == [
        "",
        "``````{code-block} text",
        ":class: printed",
        "",
        "one",
        "``````",
    ]
    assert lines[-1] == "![What the code above draws](/figures/page-3-1.svg)"
    assert [line for line in PAGE.splitlines() if line not in lines] == []


def test_an_error_names_the_line_of_the_page(pages, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\n```\n\n```python\n\nx / 0\n```\n")
    with pytest.raises(pages.PageError, match=r"page.md does not run:\n(.|\n)*page\.md\", line 9"):
        pages.run(page, tmp_path)


def test_what_is_asked_for_before_a_block_must_be_known(pages, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- save to mine.py -->\n\n```python\nx = 1\n```\n")
    with pytest.raises(pages.PageError, match=r"unknown wish before a block: 'save to mine.py'"):
        pages.run(page, tmp_path)


def test_the_reference_has_every_module_with_public_names():
    listed = re.findall(r"^   (rnn_jax\S*)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    found = {name for _, name, _ in pkgutil.iter_modules(rnn_jax.__path__, "rnn_jax.")}
    # What these define is public as rnn_jax.NAME; of others a name of the package hides the module.
    shown_by_the_package = {"gated", "newton", "parallel", "unroll"}
    within = {"diagonal", "stochastic"}
    left_out = {f"rnn_jax.{name}" for name in shown_by_the_package | within}
    assert left_out < found
    assert set(listed) == {"rnn_jax"} | (found - left_out)


@pytest.mark.parametrize("module", [analysis, theory])
def test_the_page_on_instruments_has_every_one(module):
    page = (DOCS / "instruments.md").read_text()
    functions = {name for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    assert len(functions) > 10
    assert functions - set(re.findall(r"`(\w+)`", page)) == set()


def test_links_between_pages_lead_to_files_that_are_there_before_a_build():
    """Most readers are on a code-hosting site, where nothing was built."""
    links = {
        (page, link)
        for page in (*DOCS.glob("*.md"), *DOCS.glob("gallery/*.md"))
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    }
    assert len(links) > 50
    assert {(page, link) for page, link in links if not (page.parent / link).exists()} == set()
