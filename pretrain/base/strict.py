"""Strict configuration: YAML and `key=value` overrides into frozen dataclasses.

In: a YAML file (safe tags only), overrides, a dataclass type. Out: an instance of it, or a ConfigError that names the
file, the key, what was expected, and for an unknown key the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pretrain.base.errors import ConfigError

T = TypeVar("T")
BASE_KEY = "base"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that also refuses a key given twice and reads `1e-4` as a number (YAML 1.1 reads it as text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML file as a nested dictionary; a `base:` entry (a path, relative to the file) is merged underneath.

    Raises ConfigError for a missing file, a syntax error, a tag other than the plain ones (python tags are never run),
    a duplicate key, a top level that is not a mapping, or a circle of bases.
    """
    return _load_chain(Path(path), ())


def _load_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        raise ConfigError(f"{path}: `{BASE_KEY}` entries form a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path}{_nearest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from None
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not plain YAML: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    base = values.pop(BASE_KEY, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: `{BASE_KEY}` expected a path, found {base!r}")
    return merge(_load_chain(path.parent / base, (*seen, resolved)), values)


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist either)"
    names = [candidate.name for candidate in path.parent.iterdir() if candidate.suffix in (".yaml", ".yml")]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries merged key by key; `over` wins. Neither argument is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """["optimizer.epochs=10", "seed=1"] -> {"optimizer": {"epochs": 10}, "seed": 1}; values are read as YAML.

    Raises ConfigError for an entry without `=` or with an empty key, and for a key given twice.
    """
    nested: dict[str, Any] = {}
    given: set[str] = set()
    for entry in overrides:
        key, separator, text = entry.partition("=")
        if not separator or not all(key.split(".")):
            raise ConfigError(f"override {entry!r}: expected key=value, for example optimizer.epochs=10")
        if key in given:
            raise ConfigError(f"override {key!r} is given twice")
        given.add(key)
        try:
            value = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {entry!r}: the value is not plain YAML: {error}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build the frozen dataclass `cls` from nested values. `where` names the source in error messages.

    Accepted field types: bool, int, float (an int is accepted), str, Path, tuples, Optional/Union of those, Literal,
    nested dataclasses. Raises ConfigError for an unknown key (naming the nearest valid one), a missing required key, or
    a value of another type. A dataclass's own ValueError in __post_init__ becomes a ConfigError too.
    """
    return _build(cls, values, where, "")


def _build(cls: type[T], values: Any, where: str, prefix: str) -> T:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: `{prefix.rstrip('.')}` expected a group of keys, found {values!r}")
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise ConfigError(
                f"{where}: unknown key `{prefix}{key}`{_nearest_key(str(key), cls, fields, hints, prefix)}"
            )
    arguments = {key: _convert(hints[key], value, where, f"{prefix}{key}") for key, value in values.items()}
    missing = [
        prefix + name
        for name, field in fields.items()
        if name not in arguments
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"{where}: missing key{'s' if len(missing) > 1 else ''} {', '.join(f'`{m}`' for m in missing)}"
        )
    try:
        return typing.cast(T, cls(**arguments))
    except ValueError as error:
        raise ConfigError(f"{where}: {prefix.rstrip('.') or cls.__name__}: {error}") from None


def _nearest_key(key: str, cls: Any, fields: Mapping[str, Any], hints: Mapping[str, Any], prefix: str) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if near:
        return f"; did you mean `{prefix}{near[0]}`?"
    for group, hint in hints.items():  # the right key in the wrong group
        if dataclasses.is_dataclass(hint):
            inner = difflib.get_close_matches(key, [field.name for field in dataclasses.fields(hint)], n=1, cutoff=0.7)
            if inner:
                return f"; did you mean `{prefix}{group}.{inner[0]}`?"
    return f"; valid keys: {', '.join(prefix + name for name in fields)}"


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where, key)
    if origin is typing.Literal:
        if value in arguments and type(value) in {type(argument) for argument in arguments}:
            return value
        near = difflib.get_close_matches(str(value), [str(argument) for argument in arguments], n=1)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{where}: `{key}` expected one of {', '.join(map(repr, arguments))}, found {value!r}{hint_text}"
        )
    if origin is tuple:
        return _convert_tuple(arguments, value, where, key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, where, f"{key}.")
    return _convert_scalar(hint, value, where, key)


def _convert_union(options: Sequence[Any], value: Any, where: str, key: str) -> Any:
    if value is None and type(None) in options:
        return None
    solid = [option for option in options if option is not type(None)]
    for option in solid[:-1]:
        try:
            return _convert(option, value, where, key)
        except ConfigError:
            continue
    return _convert(solid[-1], value, where, key)


def _convert_tuple(items: Sequence[Any], value: Any, where: str, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: `{key}` expected a list, found {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        items = [items[0]] * len(value)
    if len(items) != len(value):
        raise ConfigError(f"{where}: `{key}` expected a list of {len(items)} values, found {len(value)}")
    return tuple(
        _convert(item, entry, where, f"{key}[{i}]") for i, (item, entry) in enumerate(zip(items, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, where: str, key: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 (no dot) as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise ConfigError(f"{where}: `{key}` expected {hint.__name__}, found {value!r}")
