"""What commands read alike: `key=value` words beside their flags, lists of values, seeds, paths."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pretrain.base.errors import ConfigError


def parse_with_overrides(
    parser: argparse.ArgumentParser, words: Sequence[str] | None = None, *, example: str, lists: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse `words` (None: the command line) with `key=value` words anywhere among the flags, as `overrides`.

    example: of such words, for the help. lists: options with nargs "+". argparse gives such an option everything up to the next
    flag (of `--seeds 0 1 optimizer.epochs=5` the override too), so its `key=value` words are moved to the overrides.
    """
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"for example {example}")
    arguments = parser.parse_intermixed_args(words)
    overrides = list(arguments.overrides)
    for name in lists:
        given = getattr(arguments, name)
        if given is not None:
            overrides += [word for word in given if "=" in word]
            setattr(arguments, name, [word for word in given if "=" not in word])
    arguments.overrides = overrides
    return arguments


def user_path(text: str) -> Path:
    """The `type` of a path argument: `~` stands for the home directory also where the shell left it alone (--data=~/x)."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def parse_seeds(words: Sequence[str]) -> tuple[int, ...]:
    """["0", "1"] or ["0,1"] -> (0, 1). Raises ConfigError for anything but different whole numbers in [0, 2^31)."""
    parts = [part for word in words for part in word.split(",")]
    if not parts or not all(part.isdecimal() and int(part) < 2**31 for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(
            f"--seeds: expected different whole numbers in [0, 2^31), for example 0 1 2, found {' '.join(words)!r}"
        )
    return tuple(int(part) for part in parts)
