"""Strict configuration: YAML and `key=value` overrides into frozen dataclasses.

In: a YAML file (safe tags only), overrides, a dataclass type. Out: an instance of it, or a ConfigError that names the file or
the override, the key, what was expected, and for an unknown key the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pretrain.base.config_files import find_config, missing_config
from pretrain.base.errors import ConfigError, did_you_mean

T = TypeVar("T")
BASE_KEY = "base"


class _Strict(yaml.constructor.SafeConstructor):
    """SafeConstructor that also refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _StrictLoader(_Strict, yaml.SafeLoader):
    """In Python: slow, and its errors show the line."""


class _FastLoader(_Strict, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """By libyaml, where PyYAML was built with it: some ten times faster."""


def _parse_yaml(text: str) -> Any:
    """The value of one plain YAML document. Raises YAMLError, which shows the line."""
    try:
        return yaml.load(text, Loader=_FastLoader)
    except yaml.YAMLError:
        return yaml.load(text, Loader=_StrictLoader)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where values come from, so that an error names the right one.

    file: the configuration file. overridden: dotted keys that were given on the command line.
    """

    file: str
    overridden: tuple[str, ...] = ()

    def of(self, key: str) -> str:
        """The source of `key`: the command line where an override set it, a part of it, or the group that holds it."""
        key = key.partition("[")[0]
        given = any(key == o or key.startswith(f"{o}.") or o.startswith(f"{key}.") for o in self.overridden)
        return "command line" if given else self.file

    def of_group(self, prefix: str) -> str:
        """The sources of values that contradict each other: the file, and the command line where it has a part in them."""
        return (
            f"{self.file} and the command line"
            if any(f"{o}.".startswith(prefix) for o in self.overridden)
            else self.file
        )


def load_config(cls: type[T], path: Path | None, overrides: Sequence[str], *kinds: str) -> T:
    """Read a file (None: defaults alone), apply `key=value` overrides, build `cls`. kinds: as `find_config` takes them."""
    values, origin = read_config(path, overrides, *kinds)
    return from_mapping(cls, values, where=origin)


def read_config(path: Path | None, overrides: Sequence[str], *kinds: str) -> tuple[dict[str, Any], Origin]:
    """Nested values of a file (None: none) under those of the overrides, and where each comes from."""
    values = {} if path is None else load_yaml(find_config(path, *kinds), *kinds)
    origin = Origin("defaults" if path is None else str(path), overridden_keys(overrides))
    return merge(values, parse_overrides(overrides)), origin


def load_yaml(path: Path, *kinds: str) -> dict[str, Any]:
    """Read one YAML file as a nested dictionary, merged over its bases; see `load_chain`."""
    return merge_all(values for _, values in load_chain(path, *kinds))


def load_chain(path: Path, *kinds: str) -> list[tuple[Path, dict[str, Any]]]:
    """A YAML file and its bases, lowest first, each with its own values.

    `base:` is a path or a list of paths, later ones over earlier ones; each is relative to the file, or a shipped file (kinds:
    as `find_config` takes them). Raises ConfigError for a missing file, a syntax error, a tag other than the plain ones
    (python tags are never run), a duplicate key, a top level that is not a mapping, or a circle of bases.
    """
    return _load_chain(Path(path), (), kinds)


def _load_chain(path: Path, seen: tuple[Path, ...], kinds: tuple[str, ...]) -> list[tuple[Path, dict[str, Any]]]:
    resolved = path.resolve()
    if resolved in seen:
        raise ConfigError(f"{path}: `{BASE_KEY}` entries form a circle")
    values = _read_yaml(path, kinds)
    bases = values.pop(BASE_KEY, None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: `{BASE_KEY}` expected a path or a list of paths, found {bases!r}")
    chain = []
    for base in bases:
        beside = path.parent / base
        try:
            found = beside if beside.is_file() else find_config(Path(base), *kinds)
        except ConfigError as error:
            raise ConfigError(f"{path}: `{BASE_KEY}`: {error}") from None
        chain += _load_chain(found, (*seen, resolved), kinds)
    return [*chain, (path, values)]


def _read_yaml(path: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing_config(path, *kinds) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from None
    try:
        values = _parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not plain YAML: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return values


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries merged key by key; `over` wins. Neither argument is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def merge_all(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`merge` of all, the lowest first."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    return merged


def overridden_keys(overrides: Sequence[str]) -> tuple[str, ...]:
    """The dotted keys of `key=value` words."""
    return tuple(entry.partition("=")[0] for entry in overrides)


# Where an override is a path, YAML would make 2024_01 a number, and of "photos #1" photos with a comment.
PATHS = ("data.root", "monitor.labelled")
QUOTES = ("'", '"')
NOTHING = ("", "null", "~")


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """["optimizer.epochs=10", "seed=1"] -> {"optimizer": {"epochs": 10}, "seed": 1}; values are read as YAML, PATHS as they stand.

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
            value: Any = text if key in PATHS and not text.startswith(QUOTES) else _parse_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {entry!r}: the value is not plain YAML: {error}") from None
        if key in PATHS and text in NOTHING:
            value = None
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def require(condition: bool, message: str) -> None:
    """For __post_init__ of a configuration: raise the ValueError that `from_mapping` reports with file and key."""
    if not condition:
        raise ValueError(message)


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str | Origin) -> T:
    """Build the frozen dataclass `cls` from nested values. `where` names the source in error messages.

    Accepted field types: bool, int, float (an int is accepted), str, Path, tuples, Optional/Union of those, Literal,
    nested dataclasses. Raises ConfigError for an unknown key (naming the nearest valid one), a missing required key, or
    a value of another type. A dataclass's own ValueError in __post_init__ becomes a ConfigError too.
    """
    return _build(cls, values, Origin(where) if isinstance(where, str) else where, "")


def _build(cls: type[T], values: Any, where: Origin, prefix: str) -> T:
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where.of(prefix.rstrip('.'))}: `{prefix.rstrip('.')}` expected a group of keys, found {values!r}"
        )
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise ConfigError(
                f"{where.of(f'{prefix}{key}')}: unknown key `{prefix}{key}`{_nearest_key(str(key), fields, hints, prefix)}"
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
            f"{where.file}: missing key{'s' if len(missing) > 1 else ''} {', '.join(f'`{m}`' for m in missing)}"
        )
    try:
        return typing.cast(T, cls(**arguments))
    except ValueError as error:
        group = f"{prefix.rstrip('.')}: " if prefix else ""
        raise ConfigError(f"{where.of_group(prefix)}: {group}{error}") from None


def _nearest_key(key: str, fields: Mapping[str, Any], hints: Mapping[str, Any], prefix: str) -> str:
    hint = did_you_mean(key, fields, shown=f"`{prefix}{{}}`", cutoff=0.5)
    for group, kind in hints.items():  # the right key in the wrong group
        if not hint and dataclasses.is_dataclass(kind):
            inner = [field.name for field in dataclasses.fields(kind)]
            hint = did_you_mean(key, inner, shown=f"`{prefix}{group}.{{}}`", cutoff=0.7)
    return hint or f"; valid keys: {', '.join(prefix + name for name in fields)}"


def _convert(hint: Any, value: Any, where: Origin, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where, key)
    if origin is typing.Literal:
        if value in arguments and type(value) in {type(argument) for argument in arguments}:
            return value
        hint_text = did_you_mean(str(value), map(str, arguments), shown="{!r}", cutoff=0.6)
        raise ConfigError(
            f"{where.of(key)}: `{key}` expected one of {', '.join(map(repr, arguments))}, found {value!r}{hint_text}"
        )
    if origin is tuple:
        return _convert_tuple(arguments, value, where, key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, where, f"{key}.")
    return _convert_scalar(hint, value, where, key)


def _convert_union(options: Sequence[Any], value: Any, where: Origin, key: str) -> Any:
    if value is None and type(None) in options:
        return None
    solid = [option for option in options if option is not type(None)]
    for option in solid[:-1]:
        try:
            return _convert(option, value, where, key)
        except ConfigError:
            continue
    return _convert(solid[-1], value, where, key)


def _convert_tuple(items: Sequence[Any], value: Any, where: Origin, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where.of(key)}: `{key}` expected a list, found {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        items = [items[0]] * len(value)
    if len(items) != len(value):
        raise ConfigError(f"{where.of(key)}: `{key}` expected a list of {len(items)} values, found {len(value)}")
    return tuple(
        _convert(item, entry, where, f"{key}[{i}]") for i, (item, entry) in enumerate(zip(items, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, where: Origin, key: str) -> Any:
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
        try:
            return Path(value).expanduser()  # a shell leaves the ~ of data.root=~/images alone
        except RuntimeError as error:
            raise ConfigError(f"{where.of(key)}: `{key}`: {value}: {error}") from None
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise ConfigError(f"{where.of(key)}: `{key}` expected {hint.__name__}, found {value!r}")
