"""Recipes as files: YAML with strict keys, and the same plain values inside a run's configuration.

    name: crops_only
    ops:                                            # in order; the first one a crop
      - {op: RandomResizedCrop, scale: [0.2, 1.0]}  # a class of operations.py or paired.py, and its fields
      - {op: HorizontalFlip}                        # a field that is not given keeps the class's default
    patches: {crop: {scale: [0.6, 1.0]}}            # only for methods with the jigsaw branch; may be left out

What is written is what is read. A learned generator is a file of its own beside the recipe, or beside a run's config.yaml:
`{op: ChannelSplit, space: lab, generator: generator.safetensors, sha256: ...}`. In memory its path is absolute (`located`); what
is written names it relative to the file it stands in (`portable`), so that both can be moved together.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import reprlib
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pretrain.base.atomic import atomic_file, write_text
from pretrain.base.errors import ConfigError, did_you_mean
from pretrain.base.strict import from_mapping, load_yaml
from pretrain.views.generator_file import EMBEDDED, referenced_bytes, source_bytes
from pretrain.views.jigsaw import JigsawSpec
from pretrain.views.recipes import OPERATIONS, Op, Recipe, named_recipe, with_overrides

SUFFIXES = (".yaml", ".yml")
OP_KEY = "op"
GENERATOR_NAME = "generator"


@dataclasses.dataclass(frozen=True)
class _RecipeValues:
    """The keys of a recipe file."""

    name: str
    ops: tuple[Any, ...]
    patches: JigsawSpec = dataclasses.field(default_factory=JigsawSpec)


def recipe_of(recipe: str | Mapping[str, Any], overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of a run: a name or plain values, with the run's own values (recipes.py, OVERRIDES) in place.

    Raises ConfigError for an unknown name, values that cannot be, and an override that nothing in the recipe takes.
    """
    base = named_recipe(recipe) if isinstance(recipe, str) else recipe_from_plain(recipe, where="views.recipe")
    return with_overrides(base, overrides)


def is_recipe_file(text: str) -> bool:
    """Whether `views.recipe=text` means a file rather than a recipe's name."""
    return text.endswith(SUFFIXES)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file and check the generator files that it refers to.

    Raises ConfigError naming file, key and the nearest valid one, and for a generator that is absent or has another hash.
    """
    return recipe_from_plain(located(load_yaml(path), path.parent), where=str(path))


def write_recipe(path: Path, recipe: Recipe, *, header: str = "") -> None:
    """Write a recipe file with every field of every operation, atomically, and its generators beside it.

    header: lines put in front as comments.
    """
    plain = recipe_to_plain(recipe)
    copy_generators(plain, path.parent)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    write_text(path, comment + yaml.safe_dump(portable(plain), sort_keys=False, default_flow_style=None))


def located(plain: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Plain values as read from a file in `folder`: generators with absolute paths and, where it was left out, sha256.

    Raises ConfigError for a generator that is absent or has another hash. Any other mistake is left to `recipe_from_plain`.
    """
    values = copy.deepcopy(dict(plain))
    for entry in _with_generator(values):
        source = str(entry["generator"])
        if not source.startswith(EMBEDDED):
            source = str((folder / source).resolve())
        sha256 = str(entry.get("sha256") or hashlib.sha256(source_bytes(source)).hexdigest())
        referenced_bytes(source, sha256)
        entry["generator"], entry["sha256"] = source, sha256
    return values


def portable(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as they are written: generators by the names that `copy_generators` gives them."""
    values = copy.deepcopy(dict(plain))
    names = _generator_names(values)
    for entry in _with_generator(values):
        entry["generator"] = names[entry["sha256"]]
    return values


def copy_generators(plain: Mapping[str, Any], folder: Path) -> None:
    """Put the generators of located plain values into `folder`, under the names of `portable`.

    Raises ConfigError where a generator changed since it was read, or `folder` holds another one under that name.
    """
    names = _generator_names(plain)
    missing: dict[Path, bytes] = {}
    for entry in _with_generator(plain):
        target = folder / names[entry["sha256"]]
        if target.exists():
            referenced_bytes(str(target), entry["sha256"])
        else:
            missing[target] = referenced_bytes(entry["generator"], entry["sha256"])
    for target, data in missing.items():  # nothing is written before all of them were checked
        with atomic_file(target) as file:
            file.write(data)


def _with_generator(plain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Entries of `ops` that name a generator."""
    ops = plain.get("ops")
    return (
        [entry for entry in ops if isinstance(entry, dict) and entry.get("generator")] if isinstance(ops, list) else []
    )


def _generator_names(plain: Mapping[str, Any]) -> dict[str, str]:
    """sha256 -> generator.safetensors; a recipe's second generator is generator_2.safetensors."""
    hashes = dict.fromkeys(entry["sha256"] for entry in _with_generator(plain))
    return {
        sha256: f"{GENERATOR_NAME}{'' if number == 1 else f'_{number}'}.safetensors"
        for number, sha256 in enumerate(hashes, start=1)
    }


def recipe_to_plain(recipe: Recipe) -> dict[str, Any]:
    """Nested plain values, YAML- and JSON-ready; `recipe_from_plain` reads them back as an equal recipe."""
    ops = [{OP_KEY: type(op).__name__, **_fields(op)} for op in recipe.ops]
    values = {"name": recipe.name, "ops": ops, "patches": dataclasses.asdict(recipe.patches)}
    return typing.cast(dict[str, Any], _lists(values))


def _fields(op: Op) -> dict[str, Any]:
    """Without `sha256` where there is no generator: such recipes are written as they always were."""
    values = dataclasses.asdict(op)  # type: ignore[call-overload]
    return {key: value for key, value in values.items() if key != "sha256" or value is not None}


def recipe_from_plain(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Build a recipe. Raises ConfigError for an unknown operation or key, a missing one, or a value that cannot be."""
    with _naming(where):
        fields = from_mapping(_RecipeValues, values, where=where)
        ops = tuple(_operation(entry, f"{where}: ops[{position}]") for position, entry in enumerate(fields.ops))
        return Recipe(fields.name, ops, fields.patches)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put the place in front of what an operation says about its own values."""
    try:
        yield
    except ConfigError as error:
        raise (error if where in str(error) else ConfigError(f"{where}: {error}")) from None


def _operation(entry: Any, where: str) -> Op:
    if not isinstance(entry, Mapping) or OP_KEY not in entry:
        raise ConfigError(f"{where}: expected `{{{OP_KEY}: CLASS, field: value}}`, found {reprlib.repr(entry)}")
    name = str(entry[OP_KEY])
    if name not in OPERATIONS:
        hint = did_you_mean(name, OPERATIONS, cutoff=0.5)
        raise ConfigError(f"{where}: expected an operation out of {', '.join(OPERATIONS)}, found {name!r}{hint}")
    cls = OPERATIONS[name]
    fields = {key: value for key, value in entry.items() if key != OP_KEY}
    with _naming(where):
        return from_mapping(cls, fields, where=f"{where} ({name})")


def _lists(value: Any) -> Any:
    """Tuples as lists: what YAML and JSON know."""
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    return [_lists(entry) for entry in value] if isinstance(value, list | tuple) else value
