"""Where configuration files are looked for: as given, then among the shipped ones, so that a command runs from any folder.

The shipped ones are configs/ of a checkout, or pretrain/configs of an installed package: a folder for each kind (pretrain,
linear, views, study).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pretrain.base.errors import ConfigError, nearest

SUFFIXES = (".yaml", ".yml")


def shipped_configs() -> Path:
    """The folder of shipped configurations of this installation."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(path: Path, *kinds: str) -> Path:
    """The file that `path` names: as given, else a shipped one, with or without .yaml and the leading folders.

    kinds: folders of the shipped files that a bare name is looked for in, the first one first. `smoke`, `smoke.yaml` and
    `configs/pretrain/smoke.yaml` are one file for the kind "pretrain". Raises ConfigError with the nearest name and the list.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    root = shipped_configs()
    name = path.as_posix().removeprefix("./").removeprefix("configs/")
    for folder in (*(root / kind for kind in kinds), root):
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    raise missing_config(path, *kinds)


def missing_config(path: Path, *kinds: str) -> ConfigError:
    """The error for a file that is not there: the nearest name beside it or among the shipped ones, and their list."""
    shipped = {name: name for kind in kinds for name in _shipped_names(kind)}
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    known = shipped | {entry.name: str(entry) for entry in beside if entry.suffix in SUFFIXES}
    near = nearest(path.name, known) or nearest(f"{path.name}.yaml", known)
    text = f"no configuration file at {path}"
    if not path.parent.is_dir():
        text += f" (the folder {path.parent} does not exist either)"
    if near is not None:
        text += f"; did you mean {known[near]}?"
    if shipped:
        text += f"; shipped ones: {', '.join(name.removesuffix('.yaml') for name in shipped)}"
    return ConfigError(text)


def _shipped_names(kind: str) -> Iterator[str]:
    return (path.name for path in sorted((shipped_configs() / kind).glob("*.yaml")))
