"""The site: `make docs` builds it from this folder, without a network."""

import sys
from pathlib import Path

import ziamath

HERE = Path(__file__).parent
sys.path += [str(HERE / "extensions"), str(HERE.parent)]

project = "rnn_jax"
html_title = "rnn_jax"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "executed",
    "gallery",
    "mathml",
]
exclude_patterns = ["extensions", "templates", "static", "gallery/*/**"]
templates_path = ["templates"]
html_theme = "furo"
# A browser sets MathML well with a font for mathematics only; this one comes with a package.
html_static_path = ["static", str(Path(ziamath.__file__).parent / "fonts/STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
pygments_style = "tango"
highlight_language = "none"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_default_options = {"no-value": True}
autosummary_ignore_module_all = False
autosummary_imported_members = True
add_module_names = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_attr_annotations = False
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
