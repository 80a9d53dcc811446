"""Stages: what their fingerprint depends on."""

from __future__ import annotations

from pathlib import Path

from transfer.compare.stages import Stage, with_bases


def test_a_fingerprint_follows_command_and_files_and_nothing_else(tmp_path: Path) -> None:
    base, file = tmp_path / "base.yaml", tmp_path / "run.yaml"
    base.write_text("a: 1\n")
    file.write_text("base: base.yaml\n")

    def fingerprint(*command: str, title: str = "t") -> str:
        return Stage("s", title, command, folder="f", result="f/r", files=(file,)).fingerprint()

    first = fingerprint("tool", "x")
    assert fingerprint("tool", "x", title="another") == first
    assert fingerprint("tool", "y") != first
    base.write_text("a: 2\n")
    assert fingerprint("tool", "x") != first


def test_bases_are_followed_in_both_spellings_and_circles_end(tmp_path: Path) -> None:
    for name, text in {"a": "_BASE_: [b.yaml, c.yaml]", "b": "base: c.yaml", "c": "_BASE_: a.yaml"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert sorted(path.name for path in with_bases((tmp_path / "a.yaml",))) == ["a.yaml", "b.yaml", "c.yaml"]


def test_a_base_among_the_shipped_configurations_counts(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: methods/moco_v2.yaml\n")
    assert [path.name for path in with_bases((tmp_path / "mine.yaml",))] == ["mine.yaml", "moco_v2.yaml"]
