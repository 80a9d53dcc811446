"""The walls of the house, read off the source (no module is imported): who may import whom, and how long a file may be.

In: pretrain/, transfer/, tools/. Out: a list of findings, empty for a sound house. Each rule is also tried on a planted
violation, so that a checker gone blind is noticed.
"""

from __future__ import annotations

import ast
import json
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 300
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
# What the detection wing may use of the pre-training wing; everything else there is that wing's own business.
DOOR = {
    "errors",
    "atomic",
    "contract",
    "strict",
    "checkpoint",
    "encoder",
    "reader",
    "data",
    "views",
    "view_learning",
    "schedules",
    "safe_reader",
    "config",  # a sweep checks a pre-training's sizes before its first run, and varies its recipe
    "stream",
}
# Above the loop: nothing else in pretrain/ may look up at it.
ABOVE_TRAIN = {"pretrain.dry_run"}
FVCORE_USERS = {"pretrain.dry_run"}  # counts FLOPs


def module_name(root: Path, path: Path) -> str:
    """pretrain/views/rng.py -> pretrain.views.rng; pretrain/__init__.py -> pretrain."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_tree(root: Path) -> dict[str, Path]:
    """Module name -> file, for the three folders of code."""
    return {
        module_name(root, path): path
        for folder in ("pretrain", "transfer", "tools")
        for path in sorted((root / folder).rglob("*.py"))
    }


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """Dotted names that a module imports anywhere in its text, also inside functions; `from a import b` may mean a.b."""
    found: set[str] = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*up, *([node.module] if node.module else [])])
            below = {f"{source}.{alias.name}" for alias in node.names} & set(modules)
            found.update(below or {source})
    return found


def wall_findings(name: str, imported: set[str]) -> list[str]:
    """Imports that a wall forbids."""
    findings = []
    for target in sorted(imported):
        top, _, rest = target.partition(".")
        room = rest.partition(".")[0]
        if top == "tools":
            findings.append(f"{name} imports {target}: tools are commands, nobody imports them")
        if name.startswith("pretrain"):
            if top in ("transfer", "detectron2"):
                findings.append(f"{name} imports {target}: pretrain/ never uses transfer/ or Detectron2")
            if top == "fvcore" and name not in FVCORE_USERS:
                findings.append(f"{name} imports {target}: only {', '.join(FVCORE_USERS)} may")
            if target == "pretrain.train" and name not in ABOVE_TRAIN:
                findings.append(f"{name} imports {target}: imports run downwards")
        if name.startswith("transfer") and top == "pretrain" and room and room not in DOOR:
            findings.append(f"{name} imports {target}: transfer/ may use only {', '.join(sorted(DOOR))} of pretrain/")
    return findings


def text_findings(name: str, path: Path) -> list[str]:
    """Names, lengths and prints that the house does not want."""
    findings = []
    text = path.read_text(encoding="utf-8")
    if BANNED_NAMES & set(name.split(".")):
        findings.append(f"{name}: name a module after what it holds")
    if text.count("\n") > MAX_LINES:
        findings.append(f"{name}: {text.count(chr(10))} lines, at most {MAX_LINES}")
    if not name.startswith("tools"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                findings.append(f"{name}:{node.lineno}: print() outside tools/")
    return findings


def findings_in(root: Path) -> list[str]:
    """All findings of a tree, circles included."""
    modules = read_tree(root)
    graph: dict[str, set[str]] = {}
    findings: list[str] = []
    for name, path in modules.items():
        imported = imports_of(name, path, modules)
        graph[name] = (imported & set(modules)) - {name}
        findings += wall_findings(name, imported) + text_findings(name, path)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        findings.append(f"imports form a circle: {' -> '.join(error.args[1])}")
    return findings


def test_the_house_keeps_its_walls() -> None:
    assert findings_in(ROOT) == []


def test_every_room_is_packaged() -> None:
    rooms = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for wing in ("pretrain", "transfer")
        for path in (ROOT / wing).rglob("__init__.py")
    }
    assert f"packages = {json.dumps(sorted(rooms))}" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_readme_s_tree_names_every_file_and_no_other() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The files")[2]
    named = re.findall(r"^ *(\w+\.py) ", tree, re.MULTILINE)
    files = [path.name for path in read_tree(ROOT).values() if path.name != "__init__.py"]
    assert sorted(named) == sorted(files)


def test_the_checker_reads_the_whole_house() -> None:
    modules = read_tree(ROOT)
    assert {"pretrain.train", "transfer.compare.study", "tools.pretrain"} <= set(modules)
    assert "pretrain.base.atomic" in imports_of("transfer.compare.study", modules["transfer.compare.study"], modules)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("pretrain/model/loss.py", "import transfer.compare.study\n", "never uses transfer/"),
        (
            "pretrain/model/loss.py",
            "def f():\n    from detectron2.config import get_cfg\n",
            "never uses transfer/ or Detectron2",
        ),
        ("pretrain/model/loss.py", "from fvcore.nn import FlopCountAnalysis\n", "only pretrain.dry_run may"),
        ("pretrain/model/loss.py", "from . import train\n", "imports run downwards"),
        ("transfer/compare/study.py", "from pretrain import train\n", "may use only"),
        ("transfer/compare/study.py", "import pretrain.model.memory\n", "may use only"),
        ("transfer/compare/study.py", "from tools import study\n", "nobody imports them"),
        ("transfer/utils.py", "", "name a module after what it holds"),
        ("transfer/compare/study.py", "x = 0\n" * 301, "301 lines"),
        ("transfer/compare/study.py", "print(1)\n", "print() outside tools/"),
        ("pretrain/train.py", "import pretrain.model.loss\nimport pretrain.model.memory\n", None),
        ("tools/study.py", "from pretrain.train import x\nprint(x)\n", None),
        (
            "transfer/compare/study.py",
            "from pretrain.views import rng\nfrom pretrain.base.errors import UserError\n",
            None,
        ),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, text: str, expected: str | None) -> None:
    for existing in ("pretrain/__init__.py", "pretrain/model/loss.py", "pretrain/model/memory.py", "pretrain/train.py"):
        file = tmp_path / existing
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(text)
    findings = findings_in(tmp_path)
    assert len(findings) == (expected is not None)
    assert expected is None or expected in findings[0]


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "loss.py").write_text("from pretrain import memory\n")
    (tmp_path / "pretrain" / "memory.py").write_text("def f():\n    import pretrain.model.loss\n")
    (findings,) = findings_in(tmp_path)
    assert "circle" in findings and "pretrain.model.loss" in findings and "pretrain.model.memory" in findings
