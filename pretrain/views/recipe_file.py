"""Recipes as files: YAML with strict keys, and the same values inside a run's configuration.

In: a file, or nested plain values. Out: a `Recipe`; and back, exactly: what was written is what is read.

    name: crops_only
    ops:                                            # in order; the first one a crop
      - {op: RandomResizedCrop, scale: [0.2, 1.0]}  # a class of recipes.py or paired_ops.py, and its fields
      - {op: HorizontalFlip}                        # a field that is not given keeps the class's default
    patches: {crop: {scale: [0.6, 1.0]}}            # only for methods with the jigsaw branch; may be left out
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pretrain.base.atomic import write_text
from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping, load_yaml
from pretrain.views.generator_file import EMBEDDED, embed_generator
from pretrain.views.recipes import RECIPES, JigsawSpec, Op, Recipe

SUFFIXES = (".yaml", ".yml")
OP_KEY = "op"
OP_CLASSES: dict[str, type[Op]] = {cls.__name__: cls for cls in typing.get_args(Op)}


@dataclasses.dataclass(frozen=True)
class _RecipeValues:
    """The keys of a recipe file."""

    name: str
    ops: tuple[Any, ...]
    patches: JigsawSpec = dataclasses.field(default_factory=JigsawSpec)


def is_recipe_file(text: str) -> bool:
    """Whether `views.recipe=text` means a file rather than a recipe's name."""
    return text.endswith(SUFFIXES)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file; generators that it names by path become part of the recipe.

    Raises ConfigError naming file, key and the nearest valid one, CheckpointError for a generator that cannot be read.
    """
    values = load_yaml(path)
    for entry in values["ops"] if isinstance(values.get("ops"), list) else ():
        generator = entry.get("generator") if isinstance(entry, dict) else None
        if isinstance(generator, str) and not generator.startswith(EMBEDDED):
            entry["generator"] = embed_generator(path.parent / generator)
    return recipe_from_plain(values, where=str(path))


def write_recipe(path: Path, recipe: Recipe, *, header: str = "") -> None:
    """Write a recipe file with every field of every operation, atomically. header: lines put in front as comments."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    write_text(path, comment + yaml.safe_dump(recipe_to_plain(recipe), sort_keys=False, default_flow_style=None))


def recipe_to_plain(recipe: Recipe) -> dict[str, Any]:
    """Nested plain values, YAML- and JSON-ready; `recipe_from_plain` reads them back as an equal recipe."""
    ops = [{OP_KEY: type(op).__name__, **dataclasses.asdict(op)} for op in recipe.ops]
    values = {"name": recipe.name, "ops": ops, "patches": dataclasses.asdict(recipe.patches)}
    return typing.cast(dict[str, Any], _lists(values))


def recipe_from_plain(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Build a recipe. Raises ConfigError for an unknown operation or key, a missing one, or a value that cannot be."""
    with _located(where):
        fields = from_mapping(_RecipeValues, values, where=where)
        ops = tuple(_operation(entry, f"{where}: ops[{position}]") for position, entry in enumerate(fields.ops))
        return Recipe(fields.name, ops, fields.patches)


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Put the place in front of what an operation says about its own values."""
    try:
        yield
    except ConfigError as error:
        raise (error if where in str(error) else ConfigError(f"{where}: {error}")) from None


def named_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ConfigError with the nearest one."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"views.recipe: expected one of {', '.join(RECIPES)}, or a recipe file ({' or '.join(SUFFIXES)}), found {name!r}{hint}"
    )


def _operation(entry: Any, where: str) -> Op:
    if not isinstance(entry, Mapping) or OP_KEY not in entry:
        raise ConfigError(f"{where}: expected `{{{OP_KEY}: CLASS, field: value}}`, found {entry!r}")
    name = str(entry[OP_KEY])
    if name not in OP_CLASSES:
        near = difflib.get_close_matches(name, OP_CLASSES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{where}: expected an operation out of {', '.join(OP_CLASSES)}, found {name!r}{hint}")
    cls = OP_CLASSES[name]
    fields = {key: value for key, value in entry.items() if key != OP_KEY}
    with _located(where):
        return from_mapping(cls, fields, where=f"{where} ({name})")


def _lists(value: Any) -> Any:
    """Tuples as lists, paths as text: what YAML and JSON know."""
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
