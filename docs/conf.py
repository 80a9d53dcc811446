"""Sphinx: `make docs` builds strictly (warnings are errors, every reference must resolve) into docs/_build/html."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "InfoMin Transfer"
author = "the InfoMin Transfer authors"
copyright = "the InfoMin Transfer authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_copy_source = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as they are written: a default's repr can hold a memory address
autodoc_inherit_docstrings = False  # those of torch and Detectron2 are in another style

INLINE_CODE = re.compile(r"`+([^`]+)`+")


def plain_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`, indented examples and tables of pipes, not reStructuredText: make it so."""
    source, lines[:] = list(lines), []
    literal = False
    for line in source:
        starts = line.startswith("    ") or line.startswith("|")
        if starts and not literal:
            lines += ["", "::", ""]
        elif literal and line and not starts:
            lines.append("")
        literal = starts or (literal and not line)
        lines.append(f"    {line}" if starts else escaped(line))


def escaped(line: str) -> str:
    """One line of prose as reStructuredText: `code` stays code, everything else is text."""
    parts = INLINE_CODE.split(line)
    for index, part in enumerate(parts):
        parts[index] = f"``{part}``" if index % 2 else re.sub(r"([*|_\\`])", r"\\\1", part)
        if index % 2 and parts[index + 1][:1].isalnum():  # `Run`s: markup must end at a word's end
            parts[index] += "\\ "
    return "".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_docstring)
