"""The walls of the house, read off the source (no module is imported): which room may import which.

In: pretrain/, transfer/, tools/. Out: a list of findings, empty for a sound house. A new file needs no entry here, only a new
room does. Each rule is also tried on a planted violation, so that a checker gone blind is noticed.
"""

from __future__ import annotations

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
# From the ground up. A room imports from lower levels; rooms of one level may import each other only where the second value
# says so, and then without a circle.
LEVELS: dict[str, list[tuple[set[str], bool]]] = {
    "pretrain": [
        ({"base"}, False),
        ({"views"}, False),
        ({"config"}, False),
        ({"run", "data", "model"}, True),
        ({"state"}, False),
        ({"train", "good_views"}, False),
        ({"dry_run", "profile", "gpu_check"}, False),
    ],
    "transfer": [
        ({"conversion", "data", "demo_data"}, False),
        ({"detect", "readout"}, False),
        ({"compare"}, False),
    ],
}
# What transfer/ may use of pretrain/: rooms, or single modules of one. good_views: what a sweep measures with.
DOOR = (
    "base",
    "views",
    "config",
    "data",
    "model.channels",
    "model.encoder",
    "run.checkpoint",
    "run.ranks",
    "run.watch",
    "run.precision",
    "run.representation",
    "run.schedule",
    "run.duration",
    "run.slurm",
    "good_views",
)


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


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All of a file's syntax tree, parsed once."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """Dotted names that a module imports anywhere in its text, also inside functions; `from a import b` may mean a.b."""
    found: set[str] = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*up, *([node.module] if node.module else [])])
            below = {f"{source}.{alias.name}" for alias in node.names} & set(modules)
            found.update(below or {source})
    return found


def room_of(module: str) -> tuple[str, str]:
    """pretrain.views.rng -> ("pretrain", "views"); the room of a wing's own __init__ is ""."""
    wing, _, rest = module.partition(".")
    return wing, rest.partition(".")[0]


def wall_finding(name: str, target: str) -> str | None:
    """What is wrong with `name` importing `target`, None where nothing is."""
    wing, room = room_of(name)
    other, target_room = room_of(target)
    if other == "tools":
        return f"{name} imports {target}: tools are commands, nobody imports them"
    if wing == "tools":
        return None
    if wing == "pretrain" and other in ("transfer", "detectron2"):
        return f"{name} imports {target}: pretrain/ never uses transfer/ or Detectron2"
    if wing == "transfer" and other == "pretrain" and target_room:
        inside = target.removeprefix("pretrain.")
        if not any(inside == entry or inside.startswith(f"{entry}.") for entry in DOOR):
            return f"{name} imports {target}: transfer/ may use only {', '.join(DOOR)} of pretrain/"
    if wing == other and room and target_room and room != target_room:
        levels = {entry: i for i, (rooms, _) in enumerate(LEVELS[wing]) for entry in rooms}
        if room not in levels or target_room not in levels:
            return f"{name} imports {target}: {({room, target_room} - set(levels)).pop()} is no room of {wing}/"
        peers = levels[room] == levels[target_room] and LEVELS[wing][levels[room]][1]
        if levels[target_room] >= levels[room] and not peers:
            return f"{name} imports {target}: imports run downwards, and {target_room} is not below {room}"
    return None


def text_findings(name: str, path: Path) -> list[str]:
    """Names and prints that the house does not want."""
    findings = []
    if BANNED_NAMES & set(name.split(".")):
        findings.append(f"{name}: name a module after what it holds")
    if not name.startswith("tools"):
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                findings.append(f"{name}:{node.lineno}: print() outside tools/")
    return findings


def circles(graph: dict[str, set[str]], what: str) -> list[str]:
    """A circle in `graph`, described; empty where there is none."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [f"imports of {what} form a circle: {' -> '.join(error.args[1])}"]
    return []


def findings_in(root: Path) -> list[str]:
    """All findings of a tree."""
    modules = read_tree(root)
    graph: dict[str, set[str]] = {}
    rooms: dict[str, set[str]] = {}
    findings: list[str] = []
    for name, path in modules.items():
        imported = imports_of(name, path, modules)
        graph[name] = (imported & set(modules)) - {name}
        findings += [finding for target in sorted(imported) if (finding := wall_finding(name, target))]
        findings += text_findings(name, path)
        if name.startswith(("pretrain.", "transfer.")):
            room = ".".join(room_of(name))
            below = {".".join(room_of(target)) for target in graph[name] if "." in target}
            rooms[room] = rooms.get(room, set()) | (below - {room})
    return findings + (circles(graph, "modules") or circles(rooms, "rooms"))


def test_the_house_keeps_its_walls() -> None:
    assert findings_in(ROOT) == []


def test_the_checker_reads_the_whole_house() -> None:
    modules = read_tree(ROOT)
    assert {"pretrain.train", "transfer.compare.study", "tools.pretrain"} <= set(modules)
    assert "pretrain.base.atomic" in imports_of("transfer.compare.study", modules["transfer.compare.study"], modules)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("pretrain/model/loss.py", "import transfer.compare.study\n", "never uses transfer/"),
        ("pretrain/model/loss.py", "def f():\n    from detectron2.config import get_cfg\n", "never uses transfer/"),
        ("pretrain/model/loss.py", "from .. import train\n", "train is not below model"),
        ("pretrain/views/rng.py", "from pretrain.model import loss\n", "model is not below views"),
        ("pretrain/good_views/probe.py", "import pretrain.train\n", "train is not below good_views"),
        ("pretrain/attic/probe.py", "import pretrain.train\n", "attic is no room of pretrain/"),
        ("transfer/data/coco.py", "import transfer.conversion.names\n", "conversion is not below data"),
        ("transfer/readout/run.py", "import transfer.detect.run\n", "detect is not below readout"),
        ("transfer/compare/study.py", "from pretrain import train\n", "may use only"),
        ("transfer/compare/study.py", "import pretrain.model.memory\n", "may use only"),
        ("transfer/compare/study.py", "from tools import study\n", "nobody imports them"),
        ("transfer/compare/utils.py", "", "name a module after what it holds"),
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
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    findings = findings_in(tmp_path)
    assert len(findings) == (expected is not None)
    assert expected is None or expected in findings[0]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("pretrain/model/loss.py", "pretrain/model/memory.py", "modules"),
        ("pretrain/model/a.py", "pretrain/data/b.py", "rooms"),
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, first: str, second: str, what: str) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    names = [path.removesuffix(".py").replace("/", ".") for path in (first, second)]
    write(first, f"import {names[1]}\n")
    if what == "modules":
        write(second, f"def f():\n    import {names[0]}\n")
    else:  # no two modules import each other, but their rooms do
        write("pretrain/model/d.py", "")
        write("pretrain/data/c.py", "import pretrain.model.d\n")
        write(second, "")
    (finding,) = findings_in(tmp_path)
    assert f"imports of {what} form a circle" in finding
