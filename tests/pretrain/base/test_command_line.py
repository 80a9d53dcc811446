"""Lists and overrides on one command line come apart wherever they stand; seeds are checked."""

from __future__ import annotations

import argparse

import pytest

from pretrain.base.command_line import parse_seeds, part_overrides
from pretrain.base.errors import ConfigError


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--settings", nargs="+")
    parser.add_argument("--other")
    parser.add_argument("overrides", nargs="*")
    return part_overrides(parser.parse_args(words), "seeds", "settings")


@pytest.mark.parametrize(
    "words",
    [
        ("a=1", "b.c=2", "--seeds", "3", "4"),
        ("a=1", "--seeds", "3", "4", "b.c=2"),
        ("--seeds", "3", "4", "a=1", "--other", "x", "--settings", "0.5", "b.c=2"),
    ],
)
def test_overrides_may_stand_anywhere(words):
    arguments = parsed(*words)
    assert arguments.overrides == ["a=1", "b.c=2"] and arguments.seeds == ["3", "4"]
    assert arguments.settings == (["0.5"] if "0.5" in words else None)


@pytest.mark.parametrize("words", [["3", "0"], ["3,0"]])
def test_seeds_are_read_with_spaces_and_commas(words):
    assert parse_seeds(words) == (3, 0)


@pytest.mark.parametrize("words", [[], ["0", "0"], ["0,0"], ["a"], ["-1"], ["1.5"], [str(2**31)], [""], ["3,", "0"]])
def test_other_seeds_are_refused(words):
    with pytest.raises(ConfigError, match=r"--seeds: expected different whole numbers in \[0, 2\^31\)"):
        parse_seeds(words)
