"""Flags, lists and overrides come apart wherever they stand on a command line; paths and seeds are read."""

from __future__ import annotations

import argparse

import pytest

from pretrain.base.command_line import parse_seeds, parse_with_overrides, user_path
from pretrain.base.errors import ConfigError
from tests.cases import each


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--settings", nargs="+")
    parser.add_argument("--other", type=user_path)
    parser.add_argument("--dry-run", action="store_true")
    return parse_with_overrides(parser, words, example="a=1", lists=("seeds", "settings"))


@each(
    "words",
    [
        ("a=1", "--dry-run", "b.c=2", "--seeds", "3", "4"),
        ("a=1", "--dry-run", "--seeds", "3", "4", "b.c=2"),
        ("--seeds", "3", "4", "a=1", "--other", "x", "--settings", "0.5", "b.c=2", "--dry-run"),
    ],
)
def test_overrides_may_stand_anywhere(words):
    arguments = parsed(*words)
    assert sorted(arguments.overrides) == ["a=1", "b.c=2"] and arguments.seeds == ["3", "4"] and arguments.dry_run
    assert arguments.settings == (["0.5"] if "0.5" in words else None)


def test_the_value_of_a_flag_is_no_override():
    arguments = parsed("a=1", "--other", "x=y", "b=2")
    assert str(arguments.other) == "x=y" and arguments.overrides == ["a=1", "b=2"]


def test_a_home_folder_that_the_shell_left_alone_is_expanded(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed("--other=~/x").other == tmp_path / "x"
    with pytest.raises(SystemExit):
        parsed("--other=~nobody-here/x")
    assert "~nobody-here/x" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["3", "0"], ["3,0"]])
def test_seeds_are_read_with_spaces_and_commas(words):
    assert parse_seeds(words) == (3, 0)


@each("words", [[], ["0", "0"], ["0,0"], ["a"], ["-1"], ["1.5"], [str(2**31)], [""], ["3,", "0"]])
def test_other_seeds_are_refused(words):
    with pytest.raises(ConfigError, match=r"--seeds: expected different whole numbers in \[0, 2\^31\)"):
        parse_seeds(words)
