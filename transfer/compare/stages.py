"""The stages of studies and sweeps: which command makes what, out of what.

Commands are the project's own tools; {output} and {root} stand for the output folder and the project, so that the same
study has the same commands wherever it lies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pretrain.base.config_files import find_config
from pretrain.base.errors import ConfigError
from pretrain.base.record import RECORD

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = re.compile(r"\{checkpoint:([^{}]+)\}")


@dataclass(frozen=True)
class Stage:
    """One command and what it makes.

    name: unique, also names the log.
    title: for people.
    command: what follows the Python interpreter.
    folder: what the command fills, below the output folder; emptied before a fresh start.
    result: the file that says it has finished, below the output folder: a record that is done, or any other file that is there.
    needs: names of the stages whose results go in.
    files: configuration and weight files that go in.
    resumes: on SIGTERM the command saves its state in `folder`, and goes on from there when it is run again.
    init, seed, fraction: of a measurement, else None; fraction: of the labels that it trains on.
    """

    name: str
    title: str
    command: tuple[str, ...]
    folder: str
    result: str
    needs: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    resumes: bool = False
    init: str | None = None
    seed: int | None = None
    fraction: float | None = None

    def fingerprint(self) -> str:
        """Hash of the command and of the content of every file that goes in, bases included."""
        parts = [list(self.command), [hashlib.sha256(path.read_bytes()).hexdigest() for path in with_bases(self.files)]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def tool_stage(
    tool: str,
    *words: str,
    name: str,
    title: str,
    folder: str,
    result: str,
    needs: Sequence[str] = (),
    files: Sequence[Path] = (),
    **more: Any,
) -> Stage:
    """tools/`tool`.py with `words`. result: inside `folder`."""
    command = (f"{{root}}/tools/{tool}.py", *words)
    return Stage(name, title, command, folder, f"{folder}/{result}", needs=tuple(needs), files=tuple(files), **more)


def pretrain_stage(
    *, name: str, title: str, folder: str, config_file: Path, overrides: Sequence[str], needs: Sequence[str] = ()
) -> Stage:
    """Pre-training in `folder`, resumed where it was stopped. overrides: key=value."""
    return tool_stage(
        "pretrain",
        *("--config-file", rooted(config_file), "--output-dir", f"{{output}}/{folder}", "--resume", "auto", *overrides),
        name=name,
        title=title,
        folder=folder,
        result=RECORD,
        needs=needs,
        files=[config_file],
        resumes=True,
    )


def convert_stage(
    *,
    name: str,
    title: str,
    folder: str,
    checkpoint: str,
    branch: str | None = None,
    needs: Sequence[str] = (),
    files: Sequence[Path] = (),
) -> Stage:
    """A checkpoint, converted and proven, as `folder`/pretrained.pth. checkpoint: a path, or `checkpoint_of` a pre-training."""
    return tool_stage(
        "convert_weights",
        *(checkpoint, converted(folder), *(("--branch", branch) if branch else ()), "--overwrite"),
        name=name,
        title=title,
        folder=folder,
        result="pretrained.pth",
        needs=needs,
        files=files,
    )


def converted(folder: str) -> str:
    """Where `convert_stage` puts its weights."""
    return f"{{output}}/{folder}/pretrained.pth"


def measure_stage(*, name: str, title: str, folder: str, pretrain: Stage, data: Path, batch_size: int) -> Stage:
    """How much information the two views of `pretrain` share, on the held-out images of `data`."""
    return tool_stage(
        "measure_views",
        *("--checkpoint", checkpoint_of(pretrain.folder), "--data", str(data)),
        *("--batch-size", str(batch_size), "--json", f"{{output}}/{folder}/{RECORD}"),
        name=name,
        title=title,
        folder=folder,
        result=RECORD,
        needs=[pretrain.name],
    )


def readout_stage(
    *,
    name: str,
    title: str,
    folder: str,
    weights: str,
    init: str,
    seed: int,
    data: str,
    config_file: Path | None,
    overrides: Sequence[str] = (),
    needs: Sequence[str] = (),
    files: Sequence[Path] = (),
    fraction: float = 1.0,
) -> Stage:
    """Linear readout. weights: a checkpoint, a weight file or random:ARCH. init: names the row in tables and the report.

    fraction: of each class, drawn by the seed.
    """
    drawn = [] if fraction == 1 else [f"fraction={fraction:g}", "images_per_class=null"]
    return tool_stage(
        "linear_eval",
        *("--weights", weights, "--init-name", init, "--data", data, "--output-dir", f"{{output}}/{folder}"),
        *(("--config-file", rooted(config_file)) if config_file else ()),
        *(f"seed={seed}", *drawn, *overrides),
        name=name,
        title=title,
        folder=folder,
        result=RECORD,
        needs=needs,
        files=[*([config_file] if config_file else []), *files],
        init=init,
        seed=seed,
        fraction=fraction,
    )


def detect_stage(
    *,
    name: str,
    title: str,
    folder: str,
    init: str,
    seed: int,
    train_data: str,
    test_data: str,
    config_file: Path,
    flags: Sequence[str] = (),
    overrides: Sequence[str] = (),
    needs: Sequence[str] = (),
    files: Sequence[Path] = (),
    fraction: float = 1.0,
) -> Stage:
    """Fine-tuning of a detector of a family, resumed where it was stopped. init: NAME=WEIGHTS, random, or a name of the catalog. flags: further ones of
    tools/train_net.py. overrides: KEY VALUE pairs. fraction: of the labelled images that `train_data` is."""
    return tool_stage(
        "train_net",
        *("--config-file", rooted(config_file), "--init", init, "--train-data", train_data, "--test-data", test_data),
        *(*flags, "OUTPUT_DIR", f"{{output}}/{folder}", "SEED", str(seed), *overrides),
        name=name,
        title=title,
        folder=folder,
        result=RECORD,
        needs=needs,
        files=[config_file, *files],
        resumes=True,
        init=init.partition("=")[0],
        seed=seed,
        fraction=fraction,
    )


def checkpoint_of(folder: str) -> str:
    """Stands in a command for the last checkpoint of the pre-training in `folder`, which is known once that has finished."""
    return f"{{checkpoint:{folder}}}"


def rooted(path: Path) -> str:
    """A path inside the project as {root}/..., another one whole."""
    path = path.absolute()
    return "{root}/" + str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def with_bases(files: tuple[Path, ...]) -> list[Path]:
    """`files` and what their `base` (ours) and `_BASE_` (Detectron2's, one or a list) entries name, each once."""
    found: list[Path] = []
    waiting = list(files)
    while waiting:
        path = waiting.pop(0)
        if path in found or not path.is_file():
            continue
        found.append(path)
        if path.suffix not in (".yaml", ".yml"):
            continue
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue  # the tool that reads it will say what is wrong
        for key in ("base", "_BASE_"):
            bases = values.get(key, []) if isinstance(values, dict) else []
            waiting += [_base_of(path, str(base)) for base in (bases if isinstance(bases, list) else [bases])]
    return found


def _base_of(path: Path, base: str) -> Path:
    """As the readers find it: beside the file, else among the shipped configurations."""
    beside = (path.parent / base).resolve()
    try:
        return beside if beside.is_file() else find_config(Path(base), "pretrain", "views", "linear").resolve()
    except ConfigError:
        return beside  # the tool that reads it will say what is wrong
