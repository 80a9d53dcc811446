"""Is it the same run? Two sets of plain values (a configuration, the identity of a result) compared key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.base.errors import ConfigError

LONGEST_SHOWN = 80  # characters of a value in a message


def require_same(
    there: Mapping[str, Any], now: Mapping[str, Any], *, place: object, what: str = "run", free: tuple[str, ...] = ()
) -> None:
    """Raise ConfigError, naming every difference, unless `there`, found in `place`, equals `now`.

    what: a noun for the message. free: beginnings of keys (`runtime.`) that may differ.
    """
    found = differences(there, now, free=free)
    if found:
        raise ConfigError(
            f"{place} holds a {what} with another configuration ({'; '.join(found)}); "
            "give it the same values, or name another output directory"
        )


def differences(there: Mapping[str, Any], now: Mapping[str, Any], *, free: tuple[str, ...] = ()) -> list[str]:
    """ "group.key: 1 there, 2 now" for every value of nested mappings that differs, sorted by key; an absent one is None."""
    before, after = flat(there), flat(now)
    return [
        f"{key}: {_shown(before.get(key))} there, {_shown(after.get(key))} now"
        for key in sorted(before | after)
        if before.get(key) != after.get(key) and not key.startswith(free)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."
