"""Documentation leads somewhere: citations to sections, links to files and headings, commands to tools, flags and configurations."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.cases import each
from transfer.compare.published import load_published

ROOT = Path(__file__).resolve().parents[1]
SPECIFICATION = ROOT / "docs" / "specification.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CODE = [
    path
    for folder in ("pretrain", "transfer", "tools", "configs", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml")
]
NUMBERS = r"\d+(?:\.\d+)?(?:(?:,| and| to) \d+\.\d+)*"
CITATION = re.compile(rf"(\w+\.md|\[specification) ({NUMBERS})")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")  # not pictures, which runs make
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INSTALLED = {  # console script -> script; the others are named as their script
    "infomin-convert": "convert_weights",
    "infomin-readout": "linear_eval",
    "infomin-demo-data": "make_demo_data",
}


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def wrong_citations(text: str, sections: set[str]) -> list[str]:
    """Citations by number in `text` that are not sections of the specification."""
    return [
        f"{document} {number}"
        for document, numbers in CITATION.findall(text)
        for number in re.findall(r"\d+(?:\.\d+)?", numbers)
        if document not in ("specification.md", "[specification") or number not in sections
    ]


def wrong_links(page: Path, text: str) -> list[str]:
    """Relative links in `text` that lead to no file, or to no heading of it."""
    wrong = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    return wrong


def commands_in(path: Path, text: str) -> Iterator[list[str]]:
    """The commands of this project in a page's fences, or in a configuration's header: [script, word, ...]."""
    if path.suffix == ".md":
        text = "\n".join(FENCE.findall(text))
    else:
        text = "\n".join(line.lstrip("#") for line in text.splitlines() if line.startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        found = re.search(r"(?:^|\s)(?:python|torchrun[^#]*?) tools/(\w+)\.py(.*)|^\s*(infomin-[\w-]+)(.*)", line)
        if found:
            script, words, installed, more = found.groups()
            script = script or INSTALLED.get(installed, installed.removeprefix("infomin-").replace("-", "_"))
            yield [script, *shlex.split(words or more or "", comments=True)]


@cache
def help_text(script: str) -> str:
    """What the tool prints for --help, run in this process."""
    path, argv, printed = sys.path[:], sys.argv, io.StringIO()
    sys.argv, sys.path[:0] = [f"tools/{script}.py", "--help"], [str(ROOT / "tools")]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            runpy.run_path(str(ROOT / "tools" / f"{script}.py"), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, path
    return printed.getvalue()


def wrong_command(script: str, words: list[str]) -> str | None:
    """What is wrong with a command: no such tool, flag or configuration; None for nothing."""
    if not (ROOT / "tools" / f"{script}.py").is_file():
        return f"no tools/{script}.py"
    known = set(re.findall(r"--[a-z][\w-]*", help_text(script)))
    for position, word in enumerate(words):
        if word.startswith("--") and word not in known:
            return f"tools/{script}.py has no {word}"
        if word == "--config-file" and not is_configuration(words[position + 1]):
            return f"no configuration {words[position + 1]}"
    return None


def is_configuration(name: str) -> bool:
    """A shipped configuration, with or without folder and suffix; or a placeholder for the reader's own."""
    if name.isupper() or name == "(this":
        return True
    folders = (ROOT, *(ROOT / "configs").iterdir(), ROOT / "transfer" / "configs")
    return any((folder / f"{name}{suffix}").is_file() for folder in folders for suffix in ("", ".yaml"))


SECTIONS = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\b", SPECIFICATION.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_citation_by_number_leads_to_a_section_of_the_specification() -> None:
    wrong = {
        path.relative_to(ROOT).as_posix(): found
        for path in (*CODE, *PAGES)
        if path != Path(__file__).resolve() and (found := wrong_citations(path.read_text(encoding="utf-8"), SECTIONS))
    }
    assert wrong == {}


@each("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert wrong_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.slow
def test_every_command_names_a_tool_its_flags_and_a_configuration_that_exist() -> None:
    commands = [
        (path, command)
        for path in (*PAGES, *(path for path in CODE if path.suffix == ".yaml"))
        for command in commands_in(path, path.read_text(encoding="utf-8"))
    ]
    assert len(commands) > 50  # a reader gone blind finds none
    wrong = [
        f"{path.relative_to(ROOT)}: {finding}: {shlex.join(words)}"
        for path, (script, *words) in commands
        if (finding := wrong_command(script, words))
    ]
    assert wrong == []


def test_the_tables_of_the_protocols_show_published_figures_and_mark_the_recalled_ones() -> None:
    published = load_published()
    figures = {
        (f"{figure.value:.1f}", figure.verified)
        for table in (*published.detection, published.imagenet_readout)
        for row in table.rows.values()
        for figure in row.values()
    }
    rows = re.findall(r"^\|.*", (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [cell for row in rows for cell in row.split("|")[2:]]
    shown = {
        (value, "*" not in cell) for cell in cells for value in re.findall(r"(?<!± )\d\d\.\d", cell)
    }  # recalled: in italics
    assert len(shown) > 60 and shown <= figures


def test_what_leads_nowhere_is_found() -> None:
    sections = {"1", "1.2"}
    cited = "docs/specification.md 1.2, [specification 1, 9.9], infomin.md 1.2"
    assert wrong_citations(cited, sections) == ["[specification 9.9", "infomin.md 1.2"]
    page = ROOT / "docs" / "index.md"
    linked = (
        "[a](specification.md#14-jigsaw-data) [b](nowhere.md) [c](specification.md#nowhere) [d](https://example.org)"
    )
    assert wrong_links(page, linked) == ["nowhere.md", "specification.md#nowhere"]
    text = "```\npython tools/report.py A \\\n  --nowhere B\ninfomin-report A --output B  # comment --too\npython tools/none.py\n```"
    (first, second, third) = commands_in(page, text)
    assert wrong_command(first[0], first[1:]) == "tools/report.py has no --nowhere"
    assert second == ["report", "A", "--output", "B"] and wrong_command(second[0], second[1:]) is None
    assert wrong_command(third[0], third[1:]) == "no tools/none.py"
    assert is_configuration("smoke") and not is_configuration("nowhere_r18")
