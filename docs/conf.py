"""Sphinx: `make docs` builds the pages into build/docs, without a network, and any warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from docstrings import to_rst

import seqlm

project, author, release = "seqlm", "the seqlm authors", seqlm.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx-mathjax-offline", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
ABOVE = ("CONTRIBUTING", "SECURITY")
exclude_patterns = ["conf.py", "docstrings.py"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
python_use_unqualified_type_names = True
html_theme, html_title = "furo", "seqlm"
html_show_sphinx = html_show_copyright = False
html_theme_options = {"footer_icons": []}


def setup(app: Any) -> None:
    """Docstrings here are plain text with equations; links to files above docs/ lead to their pages here."""

    def convert(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = to_rst(lines)

    def link(app: Any, page: str, source: list[str]) -> None:
        for name in ABOVE:
            source[0] = source[0].replace(f"](../{name}.md", f"]({name.lower()}.md")

    app.connect("autodoc-process-docstring", convert)
    app.connect("source-read", link)
