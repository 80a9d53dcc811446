"""What several commands read alike: options that take a list, beside `key=value` words.

In: an argparse namespace, words. Out: the lists without the overrides that argparse put into them; seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.base.errors import ConfigError


def part_overrides(arguments: argparse.Namespace, *options: str) -> argparse.Namespace:
    """Move every `key=value` out of the list options into `arguments.overrides`.

    argparse gives such an option everything up to the next one: of `--seeds 0 1 optimizer.epochs=5` the override, too.
    """
    arguments.overrides = list(arguments.overrides)
    for name in options:
        words = getattr(arguments, name)
        if words is not None:
            arguments.overrides += [word for word in words if "=" in word]
            setattr(arguments, name, [word for word in words if "=" not in word])
    return arguments


def parse_seeds(words: Sequence[str]) -> tuple[int, ...]:
    """["0", "1"] or ["0,1"] -> (0, 1). Raises ConfigError for anything but different whole numbers in [0, 2^31)."""
    parts = [part for word in words for part in word.split(",")]
    if not parts or not all(part.isdecimal() and int(part) < 2**31 for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(
            f"--seeds: expected different whole numbers in [0, 2^31), for example 0 1 2, found {' '.join(words)!r}"
        )
    return tuple(int(part) for part in parts)
